/**
 * Makes the kernel follow the tables: maps, programs, identifiers, what stands behind them, and the ports that new sockets must
 * not take. Nothing here decides.
 */
import { takeEvery } from '../core/steps.ts'
import { KernelConnTracker } from '../linux/conntrack.ts'
import type { Services } from '../mechanism/services.ts'
import { FastPath } from './kernel/fast-path.ts'
import type { KernelHandles } from './kernel/handles.ts'
import { Outage } from './kernel/outage.ts'
import { Trackers } from './kernel/trackers.ts'
import type { Scanner } from './scanner.ts'
import { type Compiled, compile, type Ip, type Pair, type SocketRow, type Tables } from './tables.ts'

/** Ports are kept from new sockets this long after a change at the latest; there may be ten thousand to go through. */
const RESERVE_MS = 200
/** Below, the kernel gives no port to a socket by itself (net.ipv4.ip_local_port_range is 32768 or lower at its start). */
const FIRST_EPHEMERAL = 1024

export interface ApplierInit {
  /** Translate TCP on the devices where the kernel can. */
  readonly fastPath: boolean
  /** Hosts have been touched: what they compile to has changed. */
  readonly changed: () => void
  /** What a later run would have to know has changed; `now`: before anything else happens. */
  readonly save: (when: 'soon' | 'now') => void
}

export class Applier {
  readonly outage: Outage
  readonly #tables: Tables
  readonly #kernel: KernelHandles
  readonly #scanner: Scanner
  readonly #init: ApplierInit
  readonly #warn: (text: string) => void
  readonly #fastPath: FastPath
  readonly #trackers: Trackers
  /** Local ports of translated flows, by HID. */
  readonly #ports = new Map<number, readonly number[]>()
  /** Flows that were told to have the ports of another, by HID. */
  readonly #twins = new Map<number, ReadonlySet<string>>()
  /** Hosts with flows on pairs of the other family. */
  readonly #crossed = new Set<number>()
  /** Whether what an earlier run left of them has been dealt with. */
  #crossingKnown = false
  #reserveTimer: NodeJS.Timeout | undefined
  #settling: NodeJS.Immediate | undefined
  #translating = false
  /** Whether identifiers and what stands behind them have to be looked at, which nobody waits for. */
  #unsettled = false

  constructor(
    tables: Tables,
    kernel: KernelHandles,
    scanner: Scanner,
    services: Pick<Services, 'rtnl' | 'ledger' | 'recorder'>,
    init: ApplierInit,
  ) {
    this.#tables = tables
    this.#kernel = kernel
    this.#scanner = scanner
    this.#init = init
    const { rtnl, ledger, recorder } = services
    this.#warn = (text) => recorder.log('warn', text)
    this.outage = new Outage(tables, kernel.network, rtnl, {
      ledger,
      netns: undefined,
      warn: this.#warn,
      streams: (flows) => scanner.streamsOf(flows),
    })
    this.#trackers = new Trackers(tables, kernel.network, () => new KernelConnTracker(), this.#warn)
    this.#fastPath = new FastPath(kernel.fastDevices, kernel.network, tables, {
      allowed: init.fastPath && kernel.obstacle === undefined,
      accesses: () => kernel.network.devices,
      translating: () => this.#translating,
      changed: init.changed,
      warn: this.#warn,
    })
  }

  /** Takes over what an earlier run left. */
  start(): void {
    this.#kernel.maps.start()
    this.#translating = this.#kernel.maps.counts.elements > 0
  }

  /** Makes ready what the first move would otherwise wait for. */
  prepare(): void {
    this.#fastPath.prepare()
  }

  /** Nothing is done afterwards; what is in the kernel stays. */
  stop(): void {
    clearTimeout(this.#reserveTimer)
    clearImmediate(this.#settling)
    this.#fastPath.stop()
    this.#trackers.stop()
    this.outage.stop()
  }

  close(): void {
    this.outage.close()
    this.#kernel.fastDevices.close()
    this.#kernel.streams?.close()
  }

  /** Leaves the kernel as it was before the first start; `saved`: identifiers that an earlier run has written down. */
  cleanUp(saved: readonly Ip[]): void {
    const { maps, crossing, fastDevices, network } = this.#kernel
    takeEvery(
      () => maps.cleanUp(),
      () => crossing.cleanUp(),
      () => fastDevices.cleanUp(),
      () => this.outage.cleanUp(),
      () => network.cleanUp([...network.identifiers, ...saved]),
    )
  }

  /** Own addresses or routes have changed. True when the routes of an own address did. */
  route(): boolean {
    const { network } = this.#kernel
    this.outage.hold(network.own)
    this.#unsettled = true
    return network.route(this.#translating)
  }

  /** After a regular look at the sockets. */
  check(): void {
    this.#fastPath.check()
  }

  /** The kernel translates these hosts as their tables say now. */
  apply(hids: readonly number[]): void {
    const all = this.#fastPath.switches() ? new Set([...hids, ...this.#tables.hosts.keys()]) : hids
    const compiled = [...all].map((hid) => {
      this.#fastPath.begin(hid)
      return [
        hid,
        compile(this.#tables, [hid], (flow, wire) => this.#fastPath.takes(hid, flow, wire)),
      ] as const
    })
    if (!this.#fastPath.add(compiled)) {
      this.apply(hids)
      return
    }
    const { maps, network } = this.#kernel
    this.#trackers.before(hids)
    maps.apply(compiled)
    this.#trackers.after()
    this.#fastPath.trim()
    this.outage.hold(network.own)
    this.#unsettled = true
    for (const [hid, families] of compiled) {
      this.#notePorts(hid, families)
      this.#refuseTwins(hid, families)
    }
    this.#cross(compiled)
    const translating = maps.counts.elements > 0
    if (translating !== this.#translating) {
      this.#translating = translating
      network.route(translating)
    }
    this.#init.save('soon')
  }

  /** Single flows of a host go over another pair than before. */
  diverted(flows: readonly SocketRow[], from: Pair | undefined, to: Pair): void {
    const connections = flows.filter(({ protocol }) => protocol === 6)
    this.#trackers.diverted(connections, from, to)
    this.outage.showFlows(connections)
  }

  #cross(compiled: readonly (readonly [hid: number, compiled: Compiled])[]): void {
    const { network, crossing } = this.#kernel
    const before = this.#crossed.size
    let changed = !this.#crossingKnown
    for (const [hid, { 4: four, 6: six }] of compiled) {
      if (this.#crossed.delete(hid)) changed = true
      if (four.cross_in.size + six.cross_in.size + four.cross_out.size + six.cross_out.size === 0) continue
      this.#crossed.add(hid)
      changed = true
    }
    this.#crossingKnown = true
    if (!changed) return
    this.outage.identify(network.own) // its device takes what crosses
    // A run that did not know of it would take the programs away, and the stack answer with resets.
    if (this.#crossed.size > before) this.#init.save('now')
    crossing.apply(compile(this.#tables, this.#crossed), this.outage.device, network.devices)
  }

  /** Looks after what nobody waits for, when everything else is done: identifiers, and what stands behind them. */
  settleSoon(): void {
    if (this.#unsettled) this.#settling ??= setImmediate(() => this.#settle())
  }

  #settle(): void {
    this.#settling = undefined
    if (!this.#unsettled) return
    this.#unsettled = false
    this.outage.identify(this.#kernel.network.own)
    this.#fastPath.reroute()
    if (this.#translating) this.#fastPath.coverSoon()
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
        const opening = this.#scanner.get(flow.id)?.socket?.state === 'syn-sent'
        if (opening) this.#scanner.destroy(flow.id)
        this.#warn(
          `${flow.id} has the ports of ${first.id}, which has moved: ${opening ? 'refused' : 'packets for it go astray'}; use another port`,
        )
      }
    if (twins.size > 0) this.#twins.set(hid, twins)
    else this.#twins.delete(hid)
  }

  #notePorts(hid: number, { 4: four, 6: six }: Compiled): void {
    const moved = [four.out_flow, four.fast_flow, six.out_flow]
    const ports = moved.flatMap((flows) => [...flows.values()].map((f) => f.localPort))
    for (const { out_one, in_port } of [four, six]) {
      for (const { flow } of out_one.values()) ports.push(flow.localPort)
      for (const each of in_port.values()) ports.push(each.ports.local)
    }
    if (ports.length > 0 || this.#ports.has(hid)) this.#reserveSoon()
    if (ports.length > 0) this.#ports.set(hid, ports)
    else this.#ports.delete(hid)
  }

  #reserveSoon(): void {
    this.#reserveTimer ??= setTimeout(() => {
      this.#reserveTimer = undefined
      const all = new Set<number>()
      for (const ports of this.#ports.values())
        for (const port of ports) if (port >= FIRST_EPHEMERAL) all.add(port)
      this.#kernel.network.reserve(all)
      this.#init.save('soon') // what the setting was before
    }, RESERVE_MS)
  }
}
