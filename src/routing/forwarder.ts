/**
 * Which path each packet of a site takes, and which sources this site and a peer may use: the routing mechanism's say in
 * the datapath.
 * A packet's destination names the peer (allowed IPs), its class the scheduler; per peer and class there is one
 * PacketScheduler. Per super-packet: two prefix look-ups, one comparison per class, one per path.
 */
import { contains, LpmTable, type Prefix } from '../core/address.ts'
import type { Criterion, Selector } from '../core/selector.ts'
import { Lanes } from '../tunnel/lanes.ts'
import { Kind, PacketScheduler } from '../tunnel/packet-scheduler.ts'
import { type Forwarder, Spread, Verdict } from '../tunnel/seam.ts'
import type { ClassSetup } from './protocol.ts'

const TCP = 6
const UDP = 17
const ICMP = 1
const ICMPV6 = 58
const FIN = 1
const RST = 4
const PSH = 8
/** A datagram's worth of a super-packet, for what is counted in datagrams. */
const DATAGRAM = 1350

/** A class as the forwarder matches it: every part holds that is not -1 or absent. */
interface Rule {
  readonly class: number
  readonly protocol: number
  readonly firstPort: number
  readonly lastPort: number
  readonly prefix: Prefix | undefined
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

  /** `own`: subnets of this site, the only sources it sends; empty: any. */
  constructor(own: readonly Prefix[] = []) {
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
    const v4 = bytes[at]! >> 4 === 4
    const peer = this.#routes.lookup(bytes, at + (v4 ? 16 : 24), v4 ? 4 : 6)
    if (peer === undefined) {
      this.counts.unroutable++
      return Verdict.DROP
    }
    if (!this.#mayLeave(bytes, at, v4, peer)) {
      this.counts.foreign++
      return Verdict.DROP
    }
    const protocol = bytes[at + (v4 ? 9 : 6)]!
    const ip = v4 ? (bytes[at]! & 15) * 4 : 40
    const ports = (protocol === TCP || protocol === UDP) && length >= ip + 4
    const source = ports ? view.getUint16(at + ip) : -1
    const destination = ports ? view.getUint16(at + ip + 2) : -1
    const index = this.#classOf(bytes, at, v4, protocol, source, destination)
    const scheduler = this.#schedulers[peer]?.[index]
    if (scheduler === undefined) return Verdict.DROP
    const kind = kindOf(bytes, at + ip, protocol, length - ip)
    const slot = scheduler.choose(length, Math.ceil(length / DATAGRAM), kind, this.spread, now)
    if (slot < 0) return slot
    if (this.#unordered[index] === true) this.spread.ordered = false
    return slot
  }

  /** A source of our own site, or of another peer's, which was checked when it came. */
  #mayLeave(bytes: Uint8Array, at: number, v4: boolean, peer: number): boolean {
    if (this.#own === undefined) return true
    const source = at + (v4 ? 12 : 8)
    if (this.#own.lookup(bytes, source, v4 ? 4 : 6) !== undefined) return true
    const of = this.#routes.lookup(bytes, source, v4 ? 4 : 6)
    return of !== undefined && of !== peer
  }

  inbound(
    bytes: Uint8Array,
    _view: DataView,
    at: number,
    _length: number,
    _partial: boolean,
    peer: number,
  ): boolean {
    const v4 = bytes[at]! >> 4 === 4
    if (this.#routes.lookup(bytes, at + (v4 ? 12 : 8), v4 ? 4 : 6) === peer) return true
    this.counts.spoofed++
    return false
  }

  /** Both directions of a flow are of one class: ports and prefixes match at either end. */
  #classOf(
    bytes: Uint8Array,
    at: number,
    v4: boolean,
    protocol: number,
    source: number,
    destination: number,
  ): number {
    for (let i = 0; i < this.#rules.length; i++) {
      const rule = this.#rules[i]!
      if (rule.protocol >= 0 && rule.protocol !== protocol) continue
      if (
        rule.firstPort >= 0 &&
        !(destination >= rule.firstPort && destination <= rule.lastPort) &&
        !(source >= rule.firstPort && source <= rule.lastPort)
      )
        continue
      if (rule.prefix !== undefined && !touches(rule.prefix, bytes, at, v4)) continue
      return rule.class
    }
    return this.#classes.length - 1
  }
}

/** Bits of Kind. `at`: of the transport header, `length` bytes are from there on. */
function kindOf(bytes: Uint8Array, at: number, protocol: number, length: number): number {
  if (protocol === ICMP || protocol === ICMPV6) return Kind.express
  if (protocol !== TCP || length < 20) return 0
  const flags = bytes[at + 13]!
  if (length === (bytes[at + 12]! >> 4) * 4 && (flags & (FIN | RST)) === 0) return Kind.express
  return (flags & PSH) === 0 ? 0 : Kind.tail
}

function touches(prefix: Prefix, bytes: Uint8Array, at: number, v4: boolean): boolean {
  const size = v4 ? 4 : 16
  if (prefix.address.length !== size) return false
  const source = at + (v4 ? 12 : 8)
  return (
    contains(prefix, bytes.subarray(source, source + size)) ||
    contains(prefix, bytes.subarray(source + size, source + 2 * size))
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
  let rule: Rule = { class: index, protocol: -1, firstPort: -1, lastPort: -1, prefix: undefined }
  for (const criterion of criteria) {
    if (criterion.kind === 'proto') rule = { ...rule, protocol: criterion.protocol }
    else if (criterion.kind === 'port')
      rule = { ...rule, firstPort: criterion.first, lastPort: criterion.last }
    else if (criterion.kind === 'to') rule = { ...rule, prefix: criterion.prefix }
    // What only a host knows of its own flows (app:, user:) says nothing about those of terminals.
    else return []
  }
  return selector.kind === 'flow' ? [] : [rule]
}
