/**
 * DIME on a host: the protocol core with its sockets, timers and kernel around it. Everything runs on the main thread
 * and is driven by events; the kernel does the translating. scanner.ts looks at the sockets, applier.ts makes the kernel
 * follow the tables, and here is the loop that carries events to the core and carries out what it asks for.
 *
 * Order matters in one place: tables go to the kernel before any message that follows from them leaves, so that the other
 * end never answers on a pair that is not translated yet.
 */
import type { Clock } from '../core/clock.ts'
import type { Ledger } from '../linux/ledger.ts'
import { raisePriority } from '../linux/proc.ts'
import type { Services } from '../mechanism/services.ts'
import { Applier } from './applier.ts'
import type { KeyDirectory } from './directory/directory.ts'
import { type KernelHandles, openKernel } from './kernel/handles.ts'
import { rehearse } from './kernel/rehearsal.ts'
import type { FoundFlow } from './kernel/sockets.ts'
import { nodeIhmpCrypto } from './keys.ts'
import { IhmpLinks } from './links.ts'
import { IhmpMachine } from './machine/machine.ts'
import type { IhmpOptions, KeyStore, Output } from './machine/types.ts'
import { type SavedState, StateFile } from './saved.ts'
import { Scanner } from './scanner.ts'
import { Seeker } from './seek.ts'
import { familyOf, type Ip, type Pair, pairKey, type SocketRow, Tables } from './tables.ts'

/** For experiments (RFC 4727 §4.2.1; the paper gives none), and of those that no program without rights can send from. */
export const IHMP_PORT = 1021

/** After a move the sockets are looked at this much later. */
const LOOK_AGAIN_MS = 50

export interface TranslationOptions {
  /** Names and numbers of kernel state. */
  readonly ledger: Ledger
  readonly port: number
  readonly devices?: readonly string[] | undefined
  /** Remember peers of unconnected UDP sockets; costs a look-up per datagram. */
  readonly watchUdp: boolean
  /** Translate TCP on the devices where the kernel can. */
  readonly fastPath: boolean
  /** Names of other hosts, asked for while one of them has no way that works (D3). */
  readonly names: readonly string[]
  /** File that a restarted daemon reads its hosts from. */
  readonly stateFile: string
  readonly ihmp: Partial<IhmpOptions>
}

export interface TranslationInit {
  readonly keys: KeyStore & { reload(): void }
  /** Ends with the service. */
  readonly directory?: KeyDirectory
  readonly services: Services
  /** Undefined: that of the host, opened by the service. */
  readonly kernel?: KernelHandles
}

/** What the machine says that concerns no kernel and no other host. */
type Happened = Exclude<Output, { kind: 'apply' | 'keep' | 'send' }>

/** What `godwit dime sockets` lists. */
export interface FlowView {
  readonly found: FoundFlow
  readonly hid: number
  /** The pair its packets travel on. */
  readonly wire: Pair
  /** Whether both ends know that it is the host's, so that it can be moved. */
  readonly proven: boolean
  /** It goes over a pair of its own: chosen here or by the other end, which follows, or has not said so yet. */
  readonly own?: { readonly chosen: 'here' | 'there'; readonly followed: boolean } | undefined
}

export class TranslationService {
  readonly tables = new Tables()
  readonly machine: IhmpMachine
  readonly #options: TranslationOptions
  readonly #init: TranslationInit
  readonly #clock: Clock
  readonly #kernel: KernelHandles
  readonly #scanner: Scanner
  readonly #applier: Applier
  readonly #links: IhmpLinks
  readonly #seeker: Seeker
  readonly #state: StateFile
  #timer: NodeJS.Timeout | undefined
  #scanTimer: NodeJS.Timeout | undefined
  #lookTimer: NodeJS.Timeout | undefined
  #refreshing: NodeJS.Immediate | undefined
  #pumping: NodeJS.Immediate | undefined
  #running = false
  /** Ends what was asked of the shared services. */
  readonly #release: (() => void)[] = []

  constructor(options: TranslationOptions, init: TranslationInit) {
    this.#options = options
    this.#init = init
    const { services } = init
    const { recorder } = services
    this.#clock = services.clock
    const linkLocal = options.ihmp.advertise === 'all'
    this.#kernel = init.kernel ?? openKernel({ ...options, linkLocal }, services)
    const { network, obstacle, streams } = this.#kernel
    this.#scanner = new Scanner(this.tables, this.#kernel, services, {
      port: options.port,
      watchUdp: options.watchUdp,
      machine: () => this.machine,
    })
    this.#applier = new Applier(this.tables, this.#kernel, this.#scanner, services, {
      fastPath: options.fastPath,
      changed: () => this.#pump(),
      save: (when) => (when === 'now' ? this.#state.save() : this.#state.saveSoon()),
    })
    this.#seeker = new Seeker({
      names: options.names,
      needed: () => this.machine.detached,
      found: (addresses) => {
        this.machine.handleNames(addresses, this.#clock.now())
        this.#pump()
      },
    })
    this.#links = new IhmpLinks({
      port: options.port,
      netns: undefined,
      message: (bytes, pair, port) => {
        this.machine.handleMessage(bytes, pair, port, this.#clock.now())
        this.#pumpSoon()
      },
      log: (level, text) => recorder.log(level, text),
    })
    const state = () => ({ hosts: this.machine.save(), identifiers: [...network.identifiers] })
    this.#state = new StateFile(options.stateFile, state, (what) => recorder.log('warn', what))
    this.machine = new IhmpMachine(
      {
        tables: this.tables,
        random: services.random,
        crypto: nodeIhmpCrypto,
        keys: init.keys,
        wall: () => this.#clock.wall(),
        hasFlow: (local, foreign) => this.#scanner.hasFlow(local, foreign),
        lookAtSockets: () => this.#scanner.scanUnlessFresh(),
        streams: streams && ((flows) => this.#scanner.streamsOf(flows) ?? []),
        preferredLocal: (foreign) => network.preferredLocal(foreign),
      },
      { ...options.ihmp, crossing: options.ihmp.crossing !== false && obstacle === undefined },
    )
  }

  /** Resolves when sockets and addresses have been read and every HELLO is on its way. */
  async start(): Promise<void> {
    this.#running = true
    raisePriority()
    this.#applier.start()
    const { network } = this.#kernel
    const saved = this.#readState()
    if (saved !== undefined) {
      network.adopt(saved.identifiers)
      for (const host of saved.hosts) this.machine.restore(host)
    }
    const { accesses, guard } = this.#init.services
    accesses.start()
    this.#release.push(
      accesses.watch(() => this.#refreshSoon()),
      accesses.useLinks(),
    )
    network.refresh()
    // Sockets before addresses: a restored host must have its flows when it hears what was lost meanwhile.
    this.#links.set(network.devices)
    this.#scanner.scan()
    this.#refresh()
    this.#scheduleScan()
    this.#seeker.start()
    this.#release.push(
      guard.protect({
        name: 'translation',
        devices: () => [],
        ownsAddress: (address, device) => device === 'lo' && network.identifiers.has(address),
        restore: () => [...this.#kernel.maps.restore(), ...network.restore()],
        watch: (removed) => this.#kernel.maps.watch(removed),
        urgent: true,
      }),
    )
    setImmediate(() => this.#getReady())
  }

  /** What the first move would otherwise wait for. */
  #getReady(): void {
    if (!this.#running) return
    rehearse(this.#clock, this.#init.services.random)
    this.#applier.prepare()
  }

  /** `keep`: leave the maps in the kernel, for a daemon that will be started again. */
  stop(keep = false): void {
    if (!this.#running) return
    this.#running = false
    for (const release of this.#release.splice(0)) release()
    clearTimeout(this.#timer)
    clearTimeout(this.#scanTimer)
    clearTimeout(this.#lookTimer)
    this.#seeker.stop()
    this.#init.directory?.stop()
    clearImmediate(this.#refreshing)
    clearImmediate(this.#pumping)
    this.#links.close()
    this.#applier.stop()
    if (keep) this.#state.save()
    else this.cleanUp()
    this.#applier.close()
  }

  /** Leaves the kernel as it was before the first start. */
  cleanUp(): void {
    this.#applier.cleanUp(this.#readState()?.identifiers ?? [])
    this.#state.remove()
  }

  /** Figures for display and metrics. */
  get counts() {
    return { ...this.#kernel.maps.counts, scan_ms: this.#scanner.cost }
  }

  /** Own addresses with their devices. */
  get accesses(): ReadonlyMap<Ip, string> {
    return this.#kernel.network.devices
  }

  get identifiers(): ReadonlySet<Ip> {
    return this.#kernel.network.identifiers
  }

  flows(): FlowView[] {
    const out: FlowView[] = []
    for (const found of this.#scanner.flows()) {
      const row = this.tables.sockets.get(found.id)
      if (row === undefined) continue
      const host = this.tables.hosts.get(row.hid)
      const moves = row.taken === 'both'
      const moved = moves
        ? (host?.overrides.get(found.id) ?? host?.current[familyOf(found.local)])
        : undefined
      const wire = moved ?? found
      out.push({
        found,
        hid: row.hid,
        wire: { local: wire.local, foreign: wire.foreign },
        proven: moves,
        own: host?.overrides.has(found.id) ? this.#ownWay(row) : undefined,
      })
    }
    return out
  }

  #ownWay({ hid, id }: SocketRow): FlowView['own'] {
    const diversion = this.machine.host(hid)?.diversions.get(id)
    return diversion && { chosen: diversion.own ? 'here' : 'there', followed: diversion.followed }
  }

  /** Moves all flows of a host to an own address. False: no confirmed pair has it. */
  move(hid: number, local: Ip): boolean {
    const moved = this.machine.move(hid, local, this.#clock.now())
    this.#pump()
    return moved
  }

  /** Moves flows of a host (by id), both ways; returns how many there is a confirmed pair for. */
  moveFlows(hid: number, local: Ip, ids: readonly string[]): number {
    const moved = this.machine.moveFlows(hid, local, this.#rows(ids), this.#clock.now())
    this.#pump()
    return moved.length
  }

  /** Gives back what was moved by hand: these flows of a host, or all. */
  giveBack(hid: number, ids?: readonly string[]): void {
    this.machine.giveBack(hid, ids && this.#rows(ids), this.#clock.now())
    this.#pump()
  }

  #rows(ids: readonly string[]): SocketRow[] {
    return ids.flatMap((id) => this.tables.sockets.get(id) ?? [])
  }

  /** After `godwit dime key set`: peers are told under the old key. */
  rekey(): void {
    this.#init.keys.reload()
    this.machine.rekey(this.#clock.now())
    this.#pump()
  }

  /** A directory of keys says something else about an address. */
  handleDirectory(ip: Ip): void {
    if (!this.#running) return
    this.machine.handleDirectory(ip, this.#clock.now())
    this.#pump()
  }

  // ---------------------------------------------------------------------------------------- addresses and routes

  #refreshSoon(): void {
    this.#refreshing ??= setImmediate(() => {
      this.#refreshing = undefined
      if (this.#running) this.#refresh()
    })
  }

  #refresh(): void {
    const now = this.#clock.now()
    const { network } = this.#kernel
    const before = network.own
    const addresses = network.refresh()
    network.routesChanged()
    const changed = this.#applier.route()
    this.#links.set(network.devices)
    this.machine.handleLocal(addresses, now)
    if (changed) this.machine.handleRoutes(now)
    this.#pump()
    // Flows that began a moment ago follow: a look while packets rush can take as long as the whole move.
    if (!sameSet(network.own, before)) this.#lookTimer ??= setTimeout(() => this.#lookAgain(), LOOK_AGAIN_MS)
  }

  #lookAgain(): void {
    this.#lookTimer = undefined
    this.#scanner.scanUnlessFresh()
    this.#pump()
  }

  #scheduleScan(): void {
    this.#scanTimer = setTimeout(() => {
      this.#scanner.scan()
      this.#applier.outage.watch(this.#scanner.suspect())
      this.#pump()
      this.#applier.check()
      this.#scheduleScan()
    }, this.#scanner.pause)
  }

  // ------------------------------------------------------------------------------------------------- outputs

  /** After all datagrams that are there: a hundred acknowledgements are one change of the kernel's maps. */
  #pumpSoon(): void {
    this.#pumping ??= setImmediate(() => {
      this.#pumping = undefined
      if (this.#running) this.#pump()
    })
  }

  /** Carries out what the machine asks for, kernel first, then messages; and sets the timer. */
  #pump(): void {
    const later: Happened[] = []
    let kept = false
    for (let out = this.machine.poll(); out !== undefined; out = this.machine.poll())
      if (out.kind === 'apply') this.#applier.apply(out.hids)
      else if (out.kind === 'keep') {
        // The machine has heard all that is there: once is enough for all of it.
        if (!kept) this.#state.save()
        kept = true
      } else if (out.kind === 'send') this.#links.send(out.bytes, out.pair, out.port)
      else later.push(out)
    for (const out of later)
      if (out.kind === 'resumed') this.#kick(out.hid, out.pair)
      else if (out.kind === 'diverted') this.#applier.diverted(out.flows, out.from, out.pair)
      else if (out.kind === 'handover' && familyOf(out.to.local) === out.family) {
        this.#kick(out.hid, out.to)
        if (out.from !== undefined) this.#applier.outage.show(out.hid, out.family)
      }
    for (const out of later) this.#happened(out)
    this.#applier.settleSoon()
    clearTimeout(this.#timer)
    const next = this.machine.nextTimeout()
    if (next === undefined) return
    this.#timer = setTimeout(
      () => {
        this.machine.handleTimeout(this.#clock.now())
        this.#pump()
      },
      Math.max(0, next - this.#clock.now()),
    )
  }

  #happened(out: Happened): void {
    const { recorder } = this.#init.services
    switch (out.kind) {
      case 'state':
        recorder.log('debug', `host ${out.hid}: ${out.state}, ${out.reason}`)
        this.#state.saveSoon()
        return
      case 'handover':
        this.#state.saveSoon()
        if (out.from !== undefined && this.#hasFlows(out.hid, out.family)) this.#record(out)
        return
      case 'resumed':
        return
      case 'diverted':
        this.#state.saveSoon()
        if (out.renumbered === true)
          recorder.log(
            'warn',
            `host ${out.hid}: ${out.flows.length} connections came back to ${pairKey(out.pair)} and were stuck; they go on with other ports: something on the way drops what its connection tracking finds invalid`,
          )
        else recorder.log('debug', `host ${out.hid}: ${out.flows.length} flows go over ${pairKey(out.pair)}`)
        return
      case 'silent':
        recorder.log('info', `host ${out.hid} has been silent for long: it may sleep`)
        this.#applier.outage.unreachable(out.flows)
        return
      case 'gone':
        recorder.log('warn', `host ${out.hid} is gone: ${out.reason}`)
        // A socket that only was seen to exchange datagrams has other peers, and stays.
        this.#applier.outage.unreachable(out.sockets.filter(({ id }) => !this.#scanner.end(id)))
        this.#state.saveSoon()
        return
    }
  }

  #kick(hid: number, pair: Pair): void {
    const device = this.accesses.get(pair.local)
    if (device !== undefined) this.#applier.outage.kick(hid, pair, device, this.machine.host(hid)?.rtt)
  }

  /** A host may have moved in a family in which no flow is. */
  #hasFlows(hid: number, family: 4 | 6): boolean {
    for (const flow of this.tables.flows(hid)) if (familyOf(flow.local) === family) return true
    return false
  }

  #record(out: Extract<Output, { kind: 'handover' }>): void {
    const { recorder } = this.#init.services
    const name = (pair: Pair | undefined): string =>
      pair === undefined ? '' : (this.accesses.get(pair.local) ?? pair.local)
    const subject = { kind: 'peer', name: `host${out.hid}` } as const
    recorder.handover({
      at: this.#clock.wall(),
      subject,
      from: name(out.from),
      to: name(out.to),
      cause: out.cause,
      gap_ms: null,
      lost_packets: null,
    })
    recorder.decision({
      at: this.#clock.wall(),
      mechanism: 'translation',
      subject,
      chosen: name(out.to),
      reason: out.reason,
      evidence: { local: out.to.local, foreign: out.to.foreign, cause: out.cause },
    })
  }

  #readState(): SavedState | undefined {
    try {
      return StateFile.read(this.#options.stateFile)
    } catch {
      this.#init.services.recorder.log('warn', `${this.#options.stateFile} is damaged; starting without it`)
      return undefined
    }
  }
}

function sameSet(a: ReadonlySet<Ip>, b: ReadonlySet<Ip>): boolean {
  if (a.size !== b.size) return false
  for (const ip of a) if (!b.has(ip)) return false
  return true
}
