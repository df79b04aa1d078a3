/**
 * DIME on a host: the protocol core with its sockets, timers and kernel around it. Everything runs on the main thread
 * and is driven by events; the kernel does the translating.
 *
 * Order matters in one place: tables go to the kernel before any message that follows from them leaves, so that the other
 * end never answers on a pair that is not translated yet.
 */
import type { Clock } from '../core/clock.ts'
import { TokenBucket } from '../core/token-bucket.ts'
import type { Ledger } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import { raisePriority } from '../linux/proc.ts'
import type { Rtnl } from '../linux/rtnetlink/types.ts'
import { type SocketFlow, type SocketTable, TCP } from '../linux/sockdiag.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import { type TcpStreams, tcpStreams } from '../linux/tcp-stream.ts'
import { tcxObstacle } from '../linux/tcx.ts'
import type { Services } from '../mechanism/services.ts'
import { Crossing } from './kernel/crossing.ts'
import { FastPath } from './kernel/fast-path.ts'
import { FastPathDevices } from './kernel/fast-path-devices.ts'
import { StackTransKernel } from './kernel/maps.ts'
import { Outage } from './kernel/outage.ts'
import { rehearse } from './kernel/rehearsal.ts'
import { FlowTable, type FoundFlow } from './kernel/sockets.ts'
import { type FileKeyStore, nodeIhmpCrypto } from './keys.ts'
import { IhmpLinks } from './links.ts'
import { IhmpMachine } from './machine/machine.ts'
import type { IhmpOptions, Output, StreamStart } from './machine/types.ts'
import { HostNetwork } from './network.ts'
import type { LocalAddress } from './policy.ts'
import { type SavedState, StateFile } from './saved.ts'
import { Seeker } from './seek.ts'
import {
  bytesOf,
  type Compiled,
  compile,
  familyOf,
  type Ip,
  type Pair,
  type SocketRow,
  Tables,
} from './tables.ts'

/** For experiments (RFC 4727 §4.2.1; the paper gives none), and of those that no program without rights can send from. */
export const IHMP_PORT = 1021

/** Looking for new sockets costs at most this share of a CPU. */
const SCAN_SHARE = 0.02
const SCAN_LEAST_MS = 500
const SCAN_MOST_MS = 10_000
/** A burst of changes looks at the sockets once; where looking takes long, for longer: this many times what it took. */
const SCAN_FRESH_MS = 100
const SCAN_FRESH_TIMES = 10
/** Of strangers' messages so many a second lead to a look; the next regular one sees what they are about, too. */
const STRANGERS_RATE = 4
/** After a move the sockets are looked at this much later. */
const LOOK_AGAIN_MS = 50
/** Ports are kept from new sockets this long after a change at the latest; there may be ten thousand to go through. */
const RESERVE_MS = 200
/** Below, the kernel gives no port to a socket by itself (net.ipv4.ip_local_port_range is 32768 or lower at its start). */
const FIRST_EPHEMERAL = 1024
/** TCP has repeated itself this often: the path is in doubt. */
const SUSPICIOUS_RETRANSMITS = 2

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
  readonly keys: FileKeyStore
  readonly services: Services
}

/** What the machine says that concerns no kernel and no other host. */
type Happened = Exclude<Output, { kind: 'apply' | 'send' }>

/** What `godwit dime sockets` lists. */
export interface FlowView {
  readonly found: FoundFlow
  readonly hid: number
  /** The pair its packets travel on. */
  readonly wire: Pair
  /** Whether both ends know that it is the host's, so that it can be moved. */
  readonly proven: boolean
}

export class TranslationService {
  readonly tables = new Tables()
  readonly machine: IhmpMachine
  readonly #options: TranslationOptions
  readonly #init: TranslationInit
  readonly #clock: Clock
  readonly #rtnl: Rtnl
  readonly #sockets: SocketTable
  /** Undefined where the kernel does not tell sequence numbers. */
  readonly #streams: TcpStreams | undefined
  readonly #kernel: StackTransKernel
  readonly #sysctls: Sysctls
  readonly #network: HostNetwork
  readonly #links: IhmpLinks
  readonly #outage: Outage
  readonly #crossing: Crossing
  readonly #fastDevices: FastPathDevices
  readonly #fastPath: FastPath
  /** Looks at the sockets on behalf of who has none with this host as far as it knows. */
  readonly #strangers = new TokenBucket(STRANGERS_RATE)
  readonly #seeker: Seeker
  readonly #state: StateFile
  readonly #flows: FlowTable
  /** Local ports of translated flows, by HID. */
  readonly #ports = new Map<number, readonly number[]>()
  #own = new Set<Ip>()
  /** Flows that were told to have the ports of another, by HID. */
  readonly #twins = new Map<number, ReadonlySet<string>>()
  /** Hosts with flows on pairs of the other family. */
  readonly #crossed = new Set<number>()
  /** Whether what an earlier run left of them has been dealt with. */
  #crossingKnown = false
  #devices = new Map<Ip, string>()
  #timer: NodeJS.Timeout | undefined
  #scanTimer: NodeJS.Timeout | undefined
  #lookTimer: NodeJS.Timeout | undefined
  #refreshing: NodeJS.Immediate | undefined
  #pumping: NodeJS.Immediate | undefined
  #settling: NodeJS.Immediate | undefined
  #reserveTimer: NodeJS.Timeout | undefined
  #translating = false
  /** Whether identifiers and what stands behind them have to be looked at, which nobody waits for. */
  #unsettled = false
  #scannedAt = Number.NEGATIVE_INFINITY
  #scanCost = 0
  #running = false
  /** Ends what was asked of the shared services. */
  readonly #release: (() => void)[] = []

  constructor(options: TranslationOptions, init: TranslationInit) {
    this.#options = options
    this.#init = init
    const { services } = init
    const { recorder } = services
    this.#clock = services.clock
    this.#rtnl = services.rtnl
    this.#sockets = services.sockets
    this.#streams = tcpStreams(undefined)
    this.#kernel = new StackTransKernel(
      { table: options.ledger.nftTable('dime'), watch: options.watchUdp },
      services.nfTables,
    )
    this.#flows = new FlowTable(
      this.#sockets,
      () => (options.watchUdp ? this.#kernel.seen() : []),
      options.port,
    )
    this.#sysctls = services.sysctls('translation')
    this.#network = new HostNetwork(this.#rtnl, this.#sysctls, () => services.accesses.usable(), {
      ...options,
      linkLocal: options.ihmp.advertise === 'all',
    })
    this.#outage = new Outage(this.tables, this.#network, this.#rtnl, {
      ledger: options.ledger,
      netns: undefined,
      warn: (text) => recorder.log('warn', text),
    })
    this.#crossing = new Crossing(this.#rtnl, this.#network, {
      netns: undefined,
      warn: (text) => recorder.log('warn', text),
    })
    this.#fastDevices = new FastPathDevices(this.#rtnl, {
      netns: undefined,
      isOwn: (ip) => this.#own.has(ip) || this.#network.identifiers.has(ip),
    })
    const obstacle = tcxObstacle()
    this.#fastPath = new FastPath(this.#fastDevices, this.#network, this.tables, {
      allowed: options.fastPath && obstacle === undefined,
      accesses: () => this.#devices,
      translating: () => this.#translating,
      changed: () => this.#pump(),
      warn: (text) => recorder.log('warn', text),
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
    const state = () => ({
      hosts: this.machine.save(),
      identifiers: [...this.#network.identifiers],
    })
    this.#state = new StateFile(options.stateFile, state, (what) => recorder.log('warn', what))
    this.machine = new IhmpMachine(
      {
        tables: this.tables,
        random: services.random,
        crypto: nodeIhmpCrypto,
        keys: init.keys,
        wall: () => this.#clock.wall(),
        hasFlow: (local, foreign) => this.#hasFlow(local, foreign),
        lookAtSockets: () => this.#scanUnlessFresh(),
        streams: this.#streams && ((flows) => this.#startsOf(flows)),
        preferredLocal: (foreign) => this.#network.preferredLocal(foreign),
      },
      { ...options.ihmp, crossing: options.ihmp.crossing !== false && obstacle === undefined },
    )
  }

  /** Resolves when sockets and addresses have been read and every HELLO is on its way. */
  async start(): Promise<void> {
    this.#running = true
    raisePriority()
    this.#kernel.start()
    this.#translating = this.#kernel.counts.elements > 0
    const saved = this.#readState()
    if (saved !== undefined) {
      this.#network.adopt(saved.identifiers)
      for (const host of saved.hosts) this.machine.restore(host)
    }
    const { accesses, guard } = this.#init.services
    accesses.start()
    this.#release.push(
      accesses.watch(() => this.#refreshSoon()),
      accesses.useLinks(),
    )
    const now = this.#clock.now()
    const addresses = this.#network.addresses()
    this.#own = new Set(addresses.map((a) => a.ip))
    // Sockets before addresses: a restored host must have its flows when it hears what was lost meanwhile.
    this.#links.set(devicesOf(addresses))
    this.#scan(
      now,
      addresses.map((a) => a.ip),
    )
    this.#refresh()
    this.#scheduleScan()
    this.#seeker.start()
    this.#release.push(
      guard.protect({
        name: 'translation',
        devices: () => [],
        ownsAddress: (address, device) => device === 'lo' && this.#network.identifiers.has(address),
        restore: () => this.#network.restore(),
      }),
    )
    setImmediate(() => this.#getReady())
  }

  /** What the first move would otherwise wait for. */
  #getReady(): void {
    if (!this.#running) return
    rehearse(this.#clock, this.#init.services.random)
    this.#fastPath.prepare()
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
    clearTimeout(this.#reserveTimer)
    this.#fastPath.stop()
    clearImmediate(this.#refreshing)
    clearImmediate(this.#pumping)
    clearImmediate(this.#settling)
    this.#links.close()
    this.#outage.stop()
    if (keep) this.#state.save()
    else this.cleanUp()
    this.#outage.close()
    this.#fastDevices.close()
    this.#streams?.close()
  }

  /** Leaves the kernel as it was before the first start. */
  cleanUp(): void {
    const saved = this.#readState()
    this.#kernel.cleanUp()
    this.#crossing.cleanUp()
    this.#fastDevices.cleanUp()
    this.#outage.cleanUp()
    this.#network.cleanUp([...this.#network.identifiers, ...(saved?.identifiers ?? [])])
    this.#state.remove()
  }

  /** Figures for display and metrics. */
  get counts() {
    return { ...this.#kernel.counts, scan_ms: this.#scanCost }
  }

  /** Own addresses with their devices. */
  get accesses(): ReadonlyMap<Ip, string> {
    return this.#devices
  }

  get identifiers(): ReadonlySet<Ip> {
    return this.#network.identifiers
  }

  flows(): FlowView[] {
    const out: FlowView[] = []
    for (const found of this.#flows.all()) {
      const row = this.tables.sockets.get(found.id)
      if (row === undefined) continue
      const host = this.tables.hosts.get(row.hid)
      const moves = row.taken === 'both'
      const moved = moves
        ? (host?.overrides.get(found.id) ?? host?.current[familyOf(found.local)])
        : undefined
      const wire = moved ?? found
      out.push({ found, hid: row.hid, wire: { local: wire.local, foreign: wire.foreign }, proven: moves })
    }
    return out
  }

  /** Moves a flow (by id) or all flows of a host to an own address. False: no confirmed pair has it. */
  move(hid: number, local: Ip, flow?: string): boolean {
    const row = flow === undefined ? undefined : this.tables.sockets.get(flow)
    const moved = this.machine.move(hid, local, row, this.#clock.now())
    this.#pump()
    return moved
  }

  /** After `godwit dime key set`: peers are told under the old key. */
  rekey(): void {
    this.#init.keys.reload()
    this.machine.rekey(this.#clock.now())
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
    const addresses = this.#network.addresses()
    const own = new Set(addresses.map((a) => a.ip))
    this.#network.routesChanged()
    const moved = !sameSet(own, this.#own)
    this.#own = own
    this.#devices = devicesOf(addresses)
    this.#outage.hold(own)
    const changed = this.#network.route(addresses, this.#translating)
    this.#links.set(this.#devices)
    this.machine.handleLocal(addresses, now)
    if (changed) this.machine.handleRoutes(now)
    this.#unsettled = true
    this.#pump()
    // Flows that began a moment ago follow: a look while packets rush can take as long as the whole move.
    if (moved) this.#lookTimer ??= setTimeout(() => this.#lookAgain(), LOOK_AGAIN_MS)
  }

  // ------------------------------------------------------------------------------------------------- sockets

  #scheduleScan(): void {
    const wait = Math.min(SCAN_MOST_MS, Math.max(SCAN_LEAST_MS, this.#scanCost / SCAN_SHARE))
    this.#scanTimer = setTimeout(() => {
      this.#scan(this.#clock.now())
      this.#suspect()
      this.#pump()
      this.#fastPath.check()
      this.#scheduleScan()
    }, wait)
  }

  /** Brings the socket table up to date (DI-5, DI-9). */
  #scan(now: number, own: Iterable<Ip> = this.#own): void {
    const startedAt = performance.now()
    for (const { id } of this.#flows.update(new Set([...own, ...this.#network.identifiers]))) {
      const hid = this.tables.sockets.get(id)?.hid
      this.tables.removeSocket(id)
      if (hid !== undefined && this.tables.flows(hid).size === 0) this.machine.handleIdle(hid, now)
    }
    for (const flow of this.#flows.all()) {
      const known = this.tables.sockets.get(flow.id)
      const cookie = flow.socket?.cookie
      // The kernel gives a connection that is over (TIME-WAIT) another cookie.
      if (known !== undefined && (known.cookie === cookie || flow.socket?.state === 'time-wait')) {
        if (known.opening === true && flow.opening !== true) {
          known.opening = false
          this.tables.touch(known.hid)
          this.machine.handleSocket(known, now)
        }
        continue
      }
      // Another connection with the ports of one that is gone: what that one's host has proven is nothing to it.
      if (known !== undefined) this.tables.removeSocket(flow.id)
      const heard = flow.socket === undefined // a datagram was seen, and by whom it came only its source says
      const hid = this.machine.handleFlow({ local: flow.local, foreign: flow.foreign }, now, heard)
      if (hid === undefined) continue
      const { socket: _, retransmits: __, ...row } = flow
      const added: SocketRow = { ...row, hid, ...(cookie === undefined ? {} : { cookie }) }
      this.tables.addSocket(added)
      this.machine.handleSocket(added, now)
      this.#kernel.prepare(added)
    }
    this.#scannedAt = now
    this.#scanCost = performance.now() - startedAt
  }

  #scanUnlessFresh(): void {
    const now = this.#clock.now()
    if (now - this.#scannedAt >= Math.max(SCAN_FRESH_MS, SCAN_FRESH_TIMES * this.#scanCost)) this.#scan(now)
  }

  #startsOf(flows: readonly SocketRow[]): readonly (StreamStart | undefined)[] {
    const wanted: SocketFlow[] = flows.map(({ local, localPort, foreign, foreignPort }) => ({
      protocol: TCP,
      localAddress: bytesOf(local),
      localPort,
      remoteAddress: bytesOf(foreign),
      remotePort: foreignPort,
    }))
    try {
      return this.#streams?.find(wanted) ?? []
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      this.#init.services.recorder.log('debug', error.message) // asked again, as after a lost message
      return []
    }
  }

  #hasFlow(local: Ip, foreign: Ip): boolean {
    if (this.#flows.has(local, foreign)) return true
    if (!this.#strangers.take(this.#clock.now())) return false
    this.#scanUnlessFresh()
    return this.#flows.has(local, foreign)
  }

  /** Flows whose TCP repeats itself put their path in doubt, and have their retransmissions watched. */
  #suspect(): void {
    const doubtful = new Set<number>()
    for (const flow of this.#flows.all())
      if (flow.retransmits > 0) {
        const hid = this.tables.sockets.get(flow.id)?.hid
        if (hid === undefined || this.machine.host(hid)?.state !== 'peer') continue
        doubtful.add(hid)
        if (flow.retransmits >= SUSPICIOUS_RETRANSMITS) this.machine.handleSuspicion(hid, this.#clock.now())
      }
    const addresses = new Set<Ip>()
    for (const hid of doubtful) {
      const row = this.tables.hosts.get(hid)
      for (const family of [4, 6] as const)
        if (row?.current[family]) addresses.add(row.current[family].foreign)
    }
    this.#outage.watch(addresses)
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
    for (let out = this.machine.poll(); out !== undefined; out = this.machine.poll())
      if (out.kind === 'apply') this.#apply(out.hids)
      else if (out.kind === 'send') this.#links.send(out.bytes, out.pair, out.port)
      else later.push(out)
    for (const out of later)
      if (out.kind === 'handover' && familyOf(out.to.local) === out.family) this.#kick(out.hid, out.to)
    for (const out of later) this.#happened(out)
    if (this.#unsettled) this.#settling ??= setImmediate(() => this.#settle())
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

  /** What nobody waits for: identifiers, and what stands behind them. */
  #settle(): void {
    this.#settling = undefined
    if (!this.#running || !this.#unsettled) return
    this.#unsettled = false
    this.#outage.identify(this.#own)
    this.#fastPath.reroute()
    if (this.#translating) this.#fastPath.coverSoon()
  }

  #lookAgain(): void {
    this.#lookTimer = undefined
    this.#scanUnlessFresh()
    this.#pump()
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
      case 'gone':
        recorder.log('warn', `host ${out.hid} is gone: ${out.reason}`)
        for (const row of out.sockets) {
          const socket = this.#flows.get(row.id)?.socket
          if (socket !== undefined) this.#sockets.destroy(socket)
          this.#flows.delete(row.id)
        }
        this.#state.saveSoon()
        return
    }
  }

  #kick(hid: number, pair: Pair): void {
    const device = this.#devices.get(pair.local)
    if (device !== undefined) this.#outage.kick(hid, pair, device, this.machine.host(hid)?.rtt)
  }

  /** A host may have moved in a family in which no flow is. */
  #hasFlows(hid: number, family: 4 | 6): boolean {
    for (const flow of this.tables.flows(hid)) if (familyOf(flow.local) === family) return true
    return false
  }

  #record(out: Extract<Output, { kind: 'handover' }>): void {
    const { recorder } = this.#init.services
    const name = (pair: Pair | undefined): string =>
      pair === undefined ? '' : (this.#devices.get(pair.local) ?? pair.local)
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

  /** The kernel translates these hosts as their tables say now. */
  #apply(hids: readonly number[]): void {
    const all = this.#fastPath.switches() ? new Set([...hids, ...this.tables.hosts.keys()]) : hids
    const compiled = [...all].map((hid) => {
      this.#fastPath.begin(hid)
      return [
        hid,
        compile(this.tables, [hid], (flow, wire) => this.#fastPath.takes(hid, flow, wire)),
      ] as const
    })
    if (!this.#fastPath.add(compiled)) {
      this.#apply(hids)
      return
    }
    this.#kernel.apply(compiled)
    this.#fastPath.trim()
    this.#outage.hold(this.#own)
    this.#unsettled = true
    const crossedBefore = this.#crossed.size
    let crossing = !this.#crossingKnown
    for (const [hid, families] of compiled) {
      if (this.#crossed.delete(hid)) crossing = true
      const { 4: four, 6: six } = families
      const moved = [four.out_flow, four.fast_flow, six.out_flow]
      const ports = moved.flatMap((flows) => [...flows.values()].map((f) => f.localPort))
      if (ports.length > 0 || this.#ports.has(hid)) this.#reserveSoon()
      if (ports.length > 0) this.#ports.set(hid, ports)
      else this.#ports.delete(hid)
      if (four.cross_in.size + six.cross_in.size + four.cross_out.size + six.cross_out.size > 0) {
        this.#crossed.add(hid)
        crossing = true
      }
      this.#refuseTwins(hid, families)
    }
    if (crossing) {
      this.#outage.identify(this.#own) // its device takes what crosses
      // A run that did not know of it would take the programs away, and the stack answer with resets.
      if (this.#crossed.size > crossedBefore) this.#state.save()
      this.#crossing.apply(compile(this.tables, this.#crossed), this.#outage.device, this.#devices)
    }
    this.#crossingKnown = true
    const translating = this.#kernel.counts.elements > 0
    if (translating !== this.#translating) {
      this.#translating = translating
      this.#network.route(
        [...this.#devices].map(([ip, device]) => ({ ip, device, prefixLength: 0 })),
        translating,
      )
    }
    this.#state.saveSoon()
  }

  /**
   * The kernel gives no port of a moved flow away, but a program may ask for one by number (P1). What it sends to the same
   * host and port would reach the earlier connection: it hears of an error at once instead of waiting for an answer.
   */
  #refuseTwins(hid: number, compiled: Compiled): void {
    const before = this.#twins.get(hid)
    const twins = new Set<string>()
    for (const family of [4, 6] as const)
      for (const { flow, first } of compiled[family].twins.values()) {
        twins.add(flow.id)
        if (before?.has(flow.id)) continue
        const socket = this.#flows.get(flow.id)?.socket
        const opening = socket?.state === 'syn-sent'
        if (opening) this.#sockets.destroy(socket)
        this.#init.services.recorder.log(
          'warn',
          `${flow.id} has the ports of ${first.id}, which has moved: ${opening ? 'refused' : 'packets for it go astray'}; use another port`,
        )
      }
    if (twins.size > 0) this.#twins.set(hid, twins)
    else this.#twins.delete(hid)
  }

  #reserveSoon(): void {
    this.#reserveTimer ??= setTimeout(() => {
      this.#reserveTimer = undefined
      const all = new Set<number>()
      for (const ports of this.#ports.values())
        for (const port of ports) if (port >= FIRST_EPHEMERAL) all.add(port)
      this.#network.reserve(all)
      this.#state.saveSoon() // what the setting was before
    }, RESERVE_MS)
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

function devicesOf(addresses: readonly LocalAddress[]): Map<Ip, string> {
  return new Map(addresses.map((a) => [a.ip, a.device]))
}
