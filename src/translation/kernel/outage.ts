/**
 * What becomes of packets while there is no way for them. The addresses that sockets are bound to stay on this host as
 * identifiers (E-1), and behind them is a device that takes the packets no route takes: an application that sends during
 * an outage hears of no error, and TCP's oldest segments are at hand when a way is back.
 */
import type { Ledger } from '../../linux/ledger.ts'
import { deleteDevice, setDevice } from '../../linux/own.ts'
import { RawSender } from '../../linux/raw-packets.ts'
import type { Rtnl } from '../../linux/rtnetlink/types.ts'
import type { TcpStream } from '../../linux/tcp-stream.ts'
import type { HostNetwork } from '../network.ts'
import {
  bytesOf,
  familyOf,
  type Ip,
  identifiers,
  ipOf,
  type Pair,
  type SocketRow,
  samePair,
  type Tables,
  wirePorts,
} from '../tables.ts'
import { keepAlive } from './keep-alive.ts'
import { completed, ParkingDevice, readdressed, restamped, type Segment, SegmentWatch } from './kick.ts'
import { hostUnreachable } from './unreachable.ts'

/** What the other end gets to switch after it has heard from us. */
const KICK_MS = 15
/** With how many segments a connection starts again at once: as many as a new one may start with (RFC 6928). */
const RESTART_SEGMENTS = 10
/** Taken for the round trip while it is not known. */
const UNKNOWN_RTT_MS = 100
/** Keep-alives that leave at once, and the pause before the next ones, milliseconds: ten thousand take four tenths of a second. */
const SHOWN_AT_ONCE = 256
const SHOW_PAUSE_MS = 10

export interface OutageInit {
  readonly ledger: Ledger
  readonly netns: string | undefined
  readonly warn: (text: string) => void
  /** Answered TCP connections as they are now, in the order of the flows; undefined for those that are over. No array: unknown. */
  readonly streams: (flows: readonly SocketRow[]) => readonly (TcpStream | undefined)[] | undefined
}

export class Outage {
  readonly #tables: Tables
  readonly #network: HostNetwork
  readonly #rtnl: Rtnl
  readonly #init: OutageInit
  readonly #kicks = new Set<NodeJS.Timeout>()
  #parking: ParkingDevice | undefined
  #watch: SegmentWatch | undefined
  #raw: RawSender | undefined

  constructor(tables: Tables, network: HostNetwork, rtnl: Rtnl, init: OutageInit) {
    this.#tables = tables
    this.#network = network
    this.#rtnl = rtnl
    this.#init = init
  }

  /** The parking device stays: what it is for is removed by `cleanUp`. */
  stop(): void {
    for (const timer of this.#kicks) clearTimeout(timer)
    this.#kicks.clear()
    this.#raw?.close()
    this.#watch?.close()
    this.#raw = undefined
    this.#watch = undefined
  }

  close(): void {
    this.#parking?.close()
    this.#parking = undefined
  }

  cleanUp(): void {
    this.#network.park(undefined)
    deleteDevice(this.#rtnl, this.#init.ledger, this.#init.ledger.translation.device)
  }

  /** The device that takes what no route takes; there is one while there are identifiers. */
  get device(): string | undefined {
    return this.#parking?.device
  }

  /** Keeps the identifiers of all flows and what stands behind them; `own`: the addresses that can be used now. */
  identify(own: ReadonlySet<Ip>): void {
    this.#network.identify(identifiers(this.#tables), own)
    const wanted = this.#network.identifiers.size > 0
    if (wanted && this.#parking === undefined) {
      try {
        const { ledger, netns } = this.#init
        this.#parking = new ParkingDevice(ledger.translation.device, this.#rtnl, netns)
        setDevice(this.#rtnl, ledger, this.#parking.device, {})
      } catch (error) {
        this.#init.warn(`no parking: ${(error as Error).message}`)
      }
    } else if (!wanted && this.#parking !== undefined) {
      this.#network.hold(new Set())
      this.#network.park(undefined)
      this.close()
    }
    if (this.#parking === undefined) return
    this.#network.park(this.#parking.device, new Set([...this.#network.identifiers, ...this.#wires()]))
    this.hold(own)
  }

  /** Packets of flows that have no way wait from now on, those of others no longer. */
  hold(own: ReadonlySet<Ip>): void {
    if (this.#parking !== undefined) this.#network.hold(this.#unrouted(own))
  }

  /** Own addresses that packets of moved flows carry, or did last. */
  *#wires(): Iterable<Ip> {
    for (const { accepted, current } of this.#tables.hosts.values()) {
      if (accepted.size === 0) continue
      if (current[4] !== undefined) yield current[4].local
      if (current[6] !== undefined) yield current[6].local
    }
  }

  /** Lost addresses, bound or on the wire, of which some flow has no pair to go on yet. */
  #unrouted(own: ReadonlySet<Ip>): Set<Ip> {
    const waiting = new Set<Ip>()
    for (const ip of this.#wires()) if (!own.has(ip)) waiting.add(ip)
    const out = new Set<Ip>()
    for (const ip of this.#network.identifiers) if (!own.has(ip)) out.add(ip)
    if (out.size === 0) return waiting
    for (const { hid, current } of this.#tables.hosts.values())
      for (const { local } of this.#tables.bound(hid)) {
        const wire = current[familyOf(local)]
        if (out.has(local) && (wire === undefined || !own.has(wire.local))) waiting.add(local)
      }
    return waiting
  }

  /** Watches the retransmissions that leave for these addresses, no others; nothing is watched before the first. */
  watch(addresses: ReadonlySet<Ip>): void {
    if (addresses.size === 0 && this.#watch === undefined) return
    this.#watch ??= new SegmentWatch(this.#init.netns)
    this.#watch.watch([...addresses].map(bytesOf))
  }

  /**
   * Sends the kept segments of a host's flows over the pair that works now, those of its family alone: from a raw socket
   * they do not wait as their own socket's would, but leave with an address that a NAT takes for a stranger's. The
   * oldest of each is repeated, because the host at the other end may not have switched when the first arrives, and its
   * answer then goes astray; a segment too many does no harm. Connections that are over are left alone. More than a new connection may send at once are spread
   * over a round trip, and sent as what was delayed; `device` is where all of it leaves.
   */
  kick(hid: number, pair: Pair, device: string, rtt: number = UNKNOWN_RTT_MS): void {
    const parked = this.#parking?.any() === true
    const watched = this.#watch?.any() === true
    if (!parked && !watched) return
    const family = familyOf(pair.local)
    const paced = this.#network.paces(device)
    const flows = new Map<string, SocketRow>()
    for (const flow of this.#connections(hid, family)) {
      const ports = wirePorts(this.#tables, flow)
      for (const key of [`${ports.local} ${ports.foreign}`, `${flow.localPort} ${flow.foreignPort}`])
        flows.set(key, flow)
    }
    const width = family === 4 ? 4 : 16
    const wanted = (s: Segment): boolean =>
      s.source.length === width && flows.has(`${s.sourcePort} ${s.destinationPort}`)
    const all = [...(this.#parking?.take(wanted) ?? []), ...(this.#watch?.take(wanted) ?? [])]
    const flowOf = (s: Segment): SocketRow => flows.get(`${s.sourcePort} ${s.destinationPort}`)!
    const streams = this.#init.streams(all.map(([first]) => flowOf(first!)))
    for (const [i, kept] of all.entries()) {
      const over = streams?.[i] === undefined && flowOf(kept[0]!).opening !== true
      if (streams !== undefined && over) continue
      const segments = kept.map((segment) => {
        const from = { local: ipOf(segment.source), foreign: ipOf(segment.destination) }
        // As its socket sent it the kernel rewrites it; one caught after that is rewritten here.
        const ready = samePair(from, flowOf(segment)) || samePair(from, pair)
        return ready ? segment : readdressed(segment, bytesOf(pair.local), bytesOf(pair.foreign))
      })
      const bulk = segments.length > RESTART_SEGMENTS && !paced
      if (!bulk) segments.splice(RESTART_SEGMENTS)
      for (let i = 0; i < segments.length; i += RESTART_SEGMENTS)
        this.#sendLater(segments.slice(i, i + RESTART_SEGMENTS), (i / segments.length) * rtt, !bulk)
      const head = segments.slice(0, 1)
      for (const delay of [KICK_MS, 2 * KICK_MS + rtt]) this.#sendLater(head, delay, !bulk)
    }
  }

  /**
   * Each TCP connection of a host that is on another pair than before sends one segment there, so that firewalls on the way know
   * it whichever end speaks next.
   */
  show(hid: number, family: 4 | 6): void {
    this.showFlows(this.#connections(hid, family).filter((flow) => flow.taken === 'both'))
  }

  /** The same of these TCP connections. */
  showFlows(flows: readonly SocketRow[]): void {
    for (let i = 0; i < flows.length; i += SHOWN_AT_ONCE)
      this.#later((i / SHOWN_AT_ONCE) * SHOW_PAUSE_MS, () => this.#show(flows.slice(i, i + SHOWN_AT_ONCE)))
  }

  #show(flows: readonly SocketRow[]): void {
    this.#raw ??= new RawSender(this.#init.netns)
    const streams = this.#init.streams(flows)
    for (const [i, flow] of flows.entries()) {
      const stream = streams?.[i]
      if (stream !== undefined) this.#raw.send(keepAlive(flow, stream), bytesOf(flow.foreign))
    }
  }

  /** The applications of these flows hear that the other host cannot be reached now. */
  unreachable(flows: readonly SocketRow[]): void {
    this.#raw ??= new RawSender(this.#init.netns)
    const streams = this.#init.streams(flows)
    for (const [i, flow] of flows.entries()) {
      if (flow.protocol === 6 && streams?.[i] === undefined) continue
      this.#raw.send(hostUnreachable(flow, streams?.[i]?.unacknowledged ?? 0), bytesOf(flow.local))
    }
  }

  #connections(hid: number, family: 4 | 6): SocketRow[] {
    return [...this.#tables.flows(hid)].filter((f) => f.protocol === 6 && familyOf(f.local) === family)
  }

  #sendLater(segments: readonly Segment[], delay: number, restamp: boolean): void {
    if (segments.length > 0) this.#later(delay, () => this.#send(segments, restamp))
  }

  #later(delay: number, action: () => void): void {
    if (delay === 0) {
      action()
      return
    }
    const timer = setTimeout(() => {
      this.#kicks.delete(timer)
      action()
    }, delay).unref()
    this.#kicks.add(timer)
  }

  #send(segments: readonly Segment[], restamp: boolean): void {
    this.#raw ??= new RawSender(this.#init.netns)
    for (const segment of segments) {
      const { bytes, destination } = restamp ? restamped(segment) : completed(segment)
      this.#raw.send(bytes, destination) // what the kernel refuses is TCP's to repair
    }
  }
}
