/**
 * Which path each packet of a site takes, and which sources this site and a peer may use: the routing mechanism's say in
 * the datapath.
 * A packet's destination names the peer (allowed IPs), its class the scheduler; per peer and class there is one
 * PacketScheduler. Per super-packet: two prefix look-ups, one comparison per class, one per path.
 */
import { contains, LpmTable, type Prefix } from '../core/address.ts'
import { FragmentPorts, NO_PORTS } from '../core/fragments.ts'
import { quotedIn } from '../core/icmp.ts'
import {
  addressLength,
  isFragment,
  offsetIn,
  Protocol,
  protocolIn,
  sourceAt,
  trafficClass,
  transportOf,
} from '../core/ip.ts'
import type { Criterion, Selector } from '../core/selector.ts'
import { TCP as TCP_AT, TcpFlag, tcpFlags, tcpHeaderLength } from '../core/tcp.ts'
import { Lanes } from '../tunnel/scheduling/lanes.ts'
import { Kind, PacketScheduler } from '../tunnel/scheduling/packet-scheduler.ts'
import { flowHash } from '../tunnel/scheduling/sparse-flows.ts'
import { type Forwarder, Spread, Verdict } from '../tunnel/seam.ts'
import type { ClassSetup } from './protocol.ts'

const { TCP, UDP, ICMP, ICMPV6 } = Protocol
const { FIN, RST, PSH } = TcpFlag
const TCP_HEADER = TCP_AT.MIN_HEADER
/** A datagram's worth of a super-packet, for what is counted in datagrams. */
const DATAGRAM = 1350

/** A class as the forwarder matches it: every part holds that is not -1 or absent. */
interface Rule {
  readonly class: number
  readonly protocol: number
  readonly firstPort: number
  readonly lastPort: number
  readonly prefix: Prefix | undefined
  readonly dscp: number
}

export class RoutingForwarder implements Forwarder {
  readonly spread = new Spread()
  /** How far each path is given away, over all classes. */
  readonly lanes = new Lanes()
  /** `foreign`: of our own site, with a source that is not its own; `spoofed`: the same of a peer's. */
  counts = { unroutable: 0, foreign: 0, spoofed: 0 }
  readonly #own: LpmTable<true> | undefined
  readonly #routes = new LpmTable<number>()
  #rules: readonly Rule[] = []
  #unordered: readonly boolean[] = []
  /** By peer, then class. */
  readonly #schedulers: PacketScheduler[][] = []
  #classes: readonly ClassSetup[] = []
  readonly #fragments = new FragmentPorts()

  readonly #carryDscp: boolean

  /** `own`: subnets of this site, the only sources it sends; empty: any. `carryDscp`: outer packets have that of the inner. */
  constructor(own: readonly Prefix[] = [], carryDscp = false) {
    this.#carryDscp = carryDscp
    if (own.length === 0) return
    this.#own = new LpmTable()
    for (const subnet of own) this.#own.insert(subnet, true)
  }

  addPeer(peer: number, subnets: readonly Prefix[]): void {
    for (const subnet of subnets) this.#routes.insert(subnet, peer)
    this.#schedulers[peer] = this.#classes.map(({ cap }) => new PacketScheduler(this.lanes, cap))
  }

  setClasses(classes: readonly ClassSetup[]): void {
    this.#classes = classes
    this.#rules = classes.flatMap(({ match }, index) =>
      (match.length === 0 ? [{ kind: 'all' } as const] : match).flatMap((selector) =>
        rulesOf(selector, index),
      ),
    )
    this.#unordered = classes.map(({ unordered }) => unordered)
    for (const peer of this.#schedulers.keys())
      if (this.#schedulers[peer] !== undefined)
        this.#schedulers[peer] = classes.map(({ cap }) => new PacketScheduler(this.lanes, cap))
  }

  scheduler(peer: number, index: number): PacketScheduler | undefined {
    return this.#schedulers[peer]?.[index]
  }

  outbound(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    _partial: boolean,
    now: number,
  ): number {
    const transport = transportOf(view, at, length)
    if (transport < 0) {
      this.counts.unroutable++
      return Verdict.DROP
    }
    const width = addressLength(view, at)
    const source = sourceAt(view, at)
    const peer = this.#routes.lookup(bytes, source + width, width === 4 ? 4 : 6)
    if (peer === undefined) {
      this.counts.unroutable++
      return Verdict.DROP
    }
    if (!this.#mayLeave(bytes, source, width, peer)) {
      this.counts.foreign++
      return Verdict.DROP
    }
    const protocol = protocolIn(transport)
    const ports = this.#portsOf(view, at, length, transport, now)
    // ECN stays inside: outer packets are not ECN-capable, so nothing on the way marks what the far end would not see.
    const dscp = trafficClass(view, at) >>> 2
    this.spread.trafficClass = this.#carryDscp ? dscp << 2 : 0
    const index = this.#classOf(bytes, source, width, protocol, ports, dscp)
    const scheduler = this.#schedulers[peer]?.[index]
    if (scheduler === undefined) return Verdict.DROP
    const kind = isFragment(transport) ? 0 : kindOf(view, at, length, transport)
    const flow = flowHash(view, source, width, ports)
    const slot = scheduler.choose(length, Math.ceil(length / DATAGRAM), kind, this.spread, now, flow)
    if (slot < 0) return slot
    if (this.#unordered[index] === true) this.spread.ordered = false
    return slot
  }

  /** Source port in the upper half, destination port in the lower; of a fragment those of the first; NO_PORTS for none. */
  #portsOf(view: DataView, at: number, length: number, transport: number, now: number): number {
    const protocol = protocolIn(transport)
    const ports = protocol === TCP || protocol === UDP
    if (isFragment(transport)) return this.#fragments.portsOf(view, at, length, transport, ports, now)
    const offset = offsetIn(transport)
    return ports && offset + 4 <= length ? view.getUint32(at + offset) : NO_PORTS
  }

  /** A source of our own site, or of another peer's, which was checked when it came. */
  #mayLeave(bytes: Uint8Array, source: number, width: number, peer: number): boolean {
    if (this.#own === undefined) return true
    const family = width === 4 ? 4 : 6
    if (this.#own.lookup(bytes, source, family) !== undefined) return true
    const of = this.#routes.lookup(bytes, source, family)
    return of !== undefined && of !== peer
  }

  inbound(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    _partial: boolean,
    peer: number,
  ): boolean {
    const family = addressLength(view, at) === 4 ? 4 : 6
    const quoted = quotedIn(view, at, length)
    if (
      this.#routes.lookup(bytes, sourceAt(view, at), family) === peer &&
      // What it reports has to have been sent to its site.
      (quoted === 0 || (quoted > 0 && this.#routes.lookup(bytes, at + quoted, family) === peer))
    )
      return true
    this.counts.spoofed++
    return false
  }

  /** Both directions of a flow are of one class: ports and prefixes match at either end. */
  #classOf(
    bytes: Uint8Array,
    source: number,
    width: number,
    protocol: number,
    ports: number,
    dscp: number,
  ): number {
    const from = ports === NO_PORTS ? NO_PORTS : ports >>> 16
    const to = ports === NO_PORTS ? NO_PORTS : ports & 0xffff
    for (let i = 0; i < this.#rules.length; i++) {
      const rule = this.#rules[i]!
      if (rule.protocol >= 0 && rule.protocol !== protocol) continue
      if (rule.dscp >= 0 && rule.dscp !== dscp) continue
      if (
        rule.firstPort >= 0 &&
        !(to >= rule.firstPort && to <= rule.lastPort) &&
        !(from >= rule.firstPort && from <= rule.lastPort)
      )
        continue
      if (rule.prefix !== undefined && !touches(rule.prefix, bytes, source, width)) continue
      return rule.class
    }
    return this.#classes.length - 1
  }
}

/** Bits of Kind, of a whole packet. */
function kindOf(view: DataView, at: number, length: number, transport: number): number {
  const protocol = protocolIn(transport)
  if (protocol === ICMP || protocol === ICMPV6) return Kind.express
  const tcp = at + offsetIn(transport)
  const rest = length - offsetIn(transport)
  if (protocol !== TCP || rest < TCP_HEADER) return 0
  const flags = tcpFlags(view, tcp)
  if (rest === tcpHeaderLength(view, tcp) && (flags & (FIN | RST)) === 0) return Kind.express
  return (flags & PSH) === 0 ? 0 : Kind.tail
}

/** Whether the source or the destination, `width` bytes each from `source` on, is in the prefix. */
function touches(prefix: Prefix, bytes: Uint8Array, source: number, width: number): boolean {
  if (prefix.address.length !== width) return false
  return (
    contains(prefix, bytes.subarray(source, source + width)) ||
    contains(prefix, bytes.subarray(source + width, source + 2 * width))
  )
}

function rulesOf(selector: Selector, index: number): Rule[] {
  const criteria: readonly Criterion[] =
    selector.kind === 'all'
      ? []
      : selector.kind === 'every'
        ? selector.of
        : selector.kind === 'flow'
          ? []
          : [selector]
  let rule: Rule = { class: index, protocol: -1, firstPort: -1, lastPort: -1, prefix: undefined, dscp: -1 }
  for (const criterion of criteria) {
    if (criterion.kind === 'proto') rule = { ...rule, protocol: criterion.protocol }
    else if (criterion.kind === 'port')
      rule = { ...rule, firstPort: criterion.first, lastPort: criterion.last }
    else if (criterion.kind === 'dscp') rule = { ...rule, dscp: criterion.dscp }
    else if (criterion.kind === 'to') rule = { ...rule, prefix: criterion.prefix }
    // What only a host knows of its own flows (app:, user:) says nothing about those of terminals.
    else return []
  }
  return selector.kind === 'flow' ? [] : [rule]
}
