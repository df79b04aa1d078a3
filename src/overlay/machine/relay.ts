/**
 * The relay (NT-24, NT-25, paper §2.4): channels ordered by the coordinator, the addresses bound to their sides, limits
 * and expiry. Sans-I/O: the worker forwards by the result of `find`, and passes datagrams that begin with `N` to
 * `handleBind`.
 *
 * A side sends to an address that the coordinator has proven, or that has returned a token; strangers' datagrams
 * otherwise create no entry and get no answer. When no channels, or no ports of a node, are left, the account with most
 * of them loses one.
 */
import { ascii, concat, equal, viewOf } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { endpointKey, sameEndpoint } from '../tables.ts'
import { datagramCodec, encodeSeen, Kind, MAC, type RelayBind, SHOWS, WHERE } from '../wire/datagram.ts'
import type { Measured, RelaySide, SideOrder } from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import { encoded } from './asker.ts'

export interface RelayInit {
  /** Addresses that nodes reach the relay at: of either family, one at least. */
  readonly addresses: readonly Uint8Array[]
  /** UDP ports that it listens on; an index into this list names one. */
  readonly ports: readonly number[]
  readonly maxChannels?: number
}

/** Round trips that wait to be reported; the oldest goes. */
const MAX_UNREPORTED = 256
/** A relay's token is good for so long (ms). */
const TOKEN_MS = 10_000
/** Longest round trip that is reported, and least time between two reports of a side (ms). */
const LONGEST_RTT_MS = 2000
const MEASURE_MS = 60_000
const STAMP = 4
/** Units of the time in a token: tenths of milliseconds, 32 bits. */
const STAMPS_PER_MS = 10

/** Channels that a pair may have: the one in use, and one that each end has asked for in a handover. A node has a port for each. */
const MAX_OF_PAIR = 3
const MAX_CHANNELS = 10_000
/** A channel without traffic ends (ms). A tunnel's probes are traffic. */
const IDLE_MS = 180_000
const SWEEP_MS = 10_000
/** Without traffic for so long (ms), one gives way to another channel of its pair. */
const UNUSED_MS = 10_000
const TOKEN = 16
const BOUND = 1
const PROVE = 2
const SEEN = 3

export interface Side {
  /** Index of the port that its node sends to. */
  readonly port: number
  readonly key: Uint8Array
  readonly node: bigint
  /** The other side of its channel. */
  other?: Side
  /** Address that the coordinator has proven. */
  proven: Endpoint | undefined
  bound: Endpoint | undefined
  /** Counter of the RELAY_BIND that bound the address; 0: bound by the coordinator's order. */
  counter: number
  /** When its round trip was measured last (ms). */
  measuredAt: number
  /** Packets received from its node. */
  packets: number
  bytes: number
}

export interface Channel {
  readonly id: number
  readonly pair: string
  /** Account of the node that asked for it. */
  readonly account: string
  readonly sides: readonly [Side, Side]
  usedAt: number
  /** Packets of both sides at the last sweep. */
  seen: number
}

/** An order of the coordinator; sides are those of the asking node and of the other. */
export interface Order {
  readonly pair: string
  readonly another: boolean
  /** Account of the asking node. */
  readonly account: string
  readonly sides: readonly [SideOrder, SideOrder]
  /** Both nodes have to bind, also from addresses that are proven: so this relay learns how far they are. */
  readonly binds?: boolean
}

export interface Target {
  readonly from: Side
  readonly to: Side
}

export class Relay {
  readonly #parts: MachineComponents
  readonly #init: RelayInit
  readonly #secret: Uint8Array
  readonly #channels = new Map<number, Channel>()
  /** Oldest first. */
  readonly #byPair = new Map<string, Channel[]>()
  /** By port. */
  readonly #byNode = new Map<bigint, Map<number, Channel>>()
  readonly #bySource = new Map<string, Target>()
  /** Called when the address bound to a side changes; absent: the owner asks `find` each time. */
  onBinding: (port: number, source: Endpoint, target: Target | undefined) => void = () => {}
  /** Called when a side has ended. */
  onEnd: (side: Side) => void = () => {}
  #next = 0
  #sweepAt = 0
  /** Round trips to nodes as they returned tokens, not yet reported (µs). */
  readonly #measured: Measured[] = []

  constructor(parts: MachineComponents, init: RelayInit) {
    this.#parts = parts
    this.#init = init
    this.#secret = parts.random.fill(new Uint8Array(32))
  }

  get channels(): Iterable<Channel> {
    return this.#channels.values()
  }

  get sides(): Side[] {
    return [...this.#channels.values()].flatMap(({ sides }) => sides)
  }

  get maxChannels(): number {
    return this.#init.maxChannels ?? MAX_CHANNELS
  }

  get channelCount(): number {
    return this.#channels.size
  }

  /** Round trips measured since they were taken last, the latest first. */
  takeMeasured(most: number): readonly Measured[] {
    return this.#measured.splice(-most).reverse()
  }

  /** Steps 17 and 18: a channel for the pair; an existing one unless `another` is set. Undefined: none is available. */
  order(
    { pair, another, account, sides: named, binds = false }: Order,
    now: number,
  ): readonly [RelaySide, RelaySide] | undefined {
    const sides = binds ? ([unproven(named[0]), unproven(named[1])] as const) : named
    if (another) this.#endIdle(this.#byPair.get(pair) ?? [], now)
    const there = this.#byPair.get(pair) ?? []
    const known = there.at(-1)
    if (known !== undefined && (!another || there.length >= MAX_OF_PAIR)) {
      // The one that asks may be the second of the first order.
      const turned = known.sides[0].node !== sides[0].node
      const [a, b] = turned ? [known.sides[1], known.sides[0]] : known.sides
      known.usedAt = now
      this.#prove(a, sides[0].proven)
      this.#prove(b, sides[1].proven)
      return [this.#told(known, a, named[0]), this.#told(known, b, named[1])]
    }
    if (this.#channels.size >= this.maxChannels && !this.#displace(this.#channels, account)) return undefined
    for (const { node } of sides) {
      const there = this.#byNode.get(node)
      if (there !== undefined && there.size >= this.#init.ports.length && !this.#displace(there, account))
        return undefined
    }
    const [first, second] = this.#freePorts(sides[0].node, sides[1].node)
    if (first < 0 || second < 0) return undefined
    let id = this.#number()
    while (this.#channels.has(id)) id = this.#number()
    const side = (order: SideOrder, port: number): Side => ({
      ...{ port, key: this.#parts.random.fill(new Uint8Array(32)), node: order.node },
      ...{
        proven: undefined,
        bound: undefined,
        counter: 0,
        measuredAt: Number.NEGATIVE_INFINITY,
        packets: 0,
        bytes: 0,
      },
    })
    const channel: Channel = {
      ...{ id, pair, account, usedAt: now, seen: 0 },
      sides: [side(sides[0], first), side(sides[1], second)],
    }
    const [a, b] = channel.sides
    a.other = b
    b.other = a
    this.#channels.set(id, channel)
    this.#byPair.set(pair, [...there, channel])
    for (const each of channel.sides) {
      const ports = this.#byNode.get(each.node) ?? new Map()
      this.#byNode.set(each.node, ports.set(each.port, channel))
    }
    this.#prove(channel.sides[0], sides[0].proven)
    this.#prove(channel.sides[1], sides[1].proven)
    return [this.#told(channel, channel.sides[0], named[0]), this.#told(channel, channel.sides[1], named[1])]
  }

  /** Where to forward a datagram that arrived on this port from this source. */
  find(port: number, source: Endpoint): Target | undefined {
    return this.#bySource.get(sourceKey(port, source))
  }

  /** RELAY_BIND; the answer goes back to where it came from. */
  handleBind(bytes: Uint8Array, port: number, from: Endpoint, now: number): Uint8Array | undefined {
    const datagram = datagramCodec.decode(bytes)
    if (!datagram.ok || datagram.value.kind !== Kind.RELAY_BIND) return undefined
    const bind = datagram.value
    const channel = this.#channels.get(bind.channel)
    const asks = (bind.side & WHERE) !== 0
    const side = channel?.sides[bind.side & ~(WHERE | SHOWS)]
    if (channel === undefined || side === undefined || (side.port !== port && !asks)) return undefined
    const { crypto } = this.#parts
    const mac = crypto.mac(side.key, bytes.subarray(0, bytes.length - MAC))
    if (!crypto.equal(mac, bind.mac)) return undefined
    if (asks) return this.#answer(side, bind, SEEN, this.#seen(from))
    const isRepeated =
      bind.counter === side.counter && side.bound !== undefined && sameEndpoint(side.bound, from)
    if (bind.counter <= side.counter && !isRepeated) return undefined
    const rtt = this.#returned(bind, from, now)
    const isProven =
      isRepeated || (side.proven !== undefined && sameEndpoint(side.proven, from)) || rtt !== undefined
    if (!isProven) return this.#answer(side, bind, PROVE, this.#token(bind, from, stampOf(now)))
    if (rtt !== undefined && !isRepeated) this.#measure(side, from.address, rtt, now)
    channel.usedAt = now
    // What is repeated may have been captured: it moves nothing.
    if (!isRepeated) this.#bind(side, from)
    side.counter = bind.counter
    return this.#answer(side, bind, BOUND, this.#seen(from))
  }

  nextTimeout(): number | undefined {
    return this.#channels.size === 0 ? undefined : this.#sweepAt
  }

  handleTimeout(now: number): void {
    if (now < this.#sweepAt) return
    this.#sweepAt = now + SWEEP_MS
    for (const channel of this.#channels.values()) {
      const [a, b] = channel.sides
      if (a.packets + b.packets !== channel.seen) channel.usedAt = now
      channel.seen = a.packets + b.packets
      if (now - channel.usedAt >= IDLE_MS) this.#end(channel)
    }
  }

  /**
   * Makes room among these channels: of the account that has most of them, the least recently used one ends; none if that
   * is the account that asks. So an account that takes more than its share displaces only its own.
   */
  #displace(among: ReadonlyMap<number, Channel>, account: string): boolean {
    const counts = new Map<string, number>()
    for (const { account: each } of among.values()) counts.set(each, (counts.get(each) ?? 0) + 1)
    let largest = account
    for (const [each, count] of counts) if (count > (counts.get(largest) ?? 0)) largest = each
    if (largest === account) return false
    let oldest: Channel | undefined
    for (const channel of among.values())
      if (channel.account === largest && (oldest === undefined || channel.usedAt < oldest.usedAt))
        oldest = channel
    if (oldest !== undefined) this.#end(oldest)
    return oldest !== undefined
  }

  /** A pair that has all its channels and wants another one gives up the one that it does not use. */
  #endIdle(channels: readonly Channel[], now: number): void {
    if (channels.length < MAX_OF_PAIR) return
    const idle = channels.find(({ sides: [a, b], seen, usedAt }) => {
      return a.packets + b.packets === seen && now - usedAt >= UNUSED_MS
    })
    if (idle !== undefined) this.#end(idle)
  }

  #end(channel: Channel): void {
    this.#channels.delete(channel.id)
    const left = (this.#byPair.get(channel.pair) ?? []).filter((each) => each !== channel)
    if (left.length === 0) this.#byPair.delete(channel.pair)
    else this.#byPair.set(channel.pair, left)
    for (const side of channel.sides) {
      this.#unbind(side)
      const ports = this.#byNode.get(side.node)
      ports?.delete(side.port)
      if (ports?.size === 0) this.#byNode.delete(side.node)
      this.onEnd(side)
    }
  }

  /** The address proven by the coordinator is used until the node itself has bound one. */
  #prove(side: Side, proven: Endpoint | undefined): void {
    side.proven = proven
    if (proven !== undefined && side.counter === 0) this.#bind(side, proven)
  }

  #bind(side: Side, to: Endpoint): void {
    if (side.bound !== undefined && sameEndpoint(side.bound, to) && sameLocal(side.bound, to)) return
    this.#unbind(side)
    const key = sourceKey(side.port, to)
    // The address was bound to another side before: the latest binding wins.
    const before = this.#bySource.get(key)
    if (before !== undefined) before.from.bound = undefined
    const target = { from: side, to: side.other! }
    side.bound = to
    this.#bySource.set(key, target)
    this.onBinding(side.port, to, target)
  }

  #unbind(side: Side): void {
    if (side.bound === undefined) return
    const { bound } = side
    side.bound = undefined
    this.#bySource.delete(sourceKey(side.port, bound))
    this.onBinding(side.port, bound, undefined)
  }

  /** A port for each of both, that of the node with fewer to choose from first. */
  #freePorts(a: bigint, b: bigint): readonly [number, number] {
    const used = (node: bigint) => this.#byNode.get(node)?.size ?? 0
    const isTurned = used(a) < used(b)
    const first = this.#freePort(isTurned ? b : a, -1)
    const second = this.#freePort(isTurned ? a : b, first)
    return isTurned ? [second, first] : [first, second]
  }

  /** A port that no other channel of this node uses: (port, source) names the side. */
  #freePort(node: bigint, not: number): number {
    const used = this.#byNode.get(node)
    const { length } = this.#init.ports
    for (let i = 0; i < length; i++) {
      const port = (this.#next + i) % length
      if (port === not || used?.has(port) === true) continue
      this.#next = (port + 1) % length
      return port
    }
    return -1
  }

  #told(channel: Channel, side: Side, { proven }: SideOrder): RelaySide {
    const { addresses, ports } = this.#init
    const family = proven?.address.length
    const address = addresses.find(({ length }) => length === family) ?? addresses[0]!
    return {
      channel: channel.id,
      side: side === channel.sides[0] ? 0 : 1,
      endpoint: { address, port: ports[side.port]! },
      key: side.key,
    }
  }

  /** The time, and a MAC over it and the request: nothing is stored of one that has not returned it, and it is good for that one alone. */
  #token({ channel, side, counter }: RelayBind, from: Endpoint, stamp: number): Uint8Array {
    const token = new Uint8Array(TOKEN)
    viewOf(token).setUint32(0, stamp)
    const what = `${stamp} ${channel} ${side} ${counter} ${endpointKey(from)}`
    const mac = this.#parts.crypto.mac(this.#secret, ascii(what))
    token.set(mac.subarray(0, TOKEN - STAMP), STAMP)
    return token
  }

  /** How long ago this relay gave the token that came back (µs); undefined: it is not one of ours, or too old. */
  #returned(bind: RelayBind, from: Endpoint, now: number): number | undefined {
    const stamp = viewOf(bind.token).getUint32(0)
    const age = ((stampOf(now) - stamp) >>> 0) / STAMPS_PER_MS
    if (age > TOKEN_MS || !this.#parts.crypto.equal(this.#token(bind, from, stamp), bind.token))
      return undefined
    return Math.round(1000 * age)
  }

  /** One report a minute of each side: a node has no more to say of a network than others have. */
  #measure(side: Side, address: Uint8Array, rtt: number, now: number): void {
    if (rtt > 1000 * LONGEST_RTT_MS || now - side.measuredAt < MEASURE_MS) return
    side.measuredAt = now
    this.#measured.push({ address, rtt })
    if (this.#measured.length > MAX_UNREPORTED) this.#measured.shift()
  }

  #seen({ port }: Endpoint): Uint8Array {
    const { ports } = this.#init
    const first = ports[0]!
    const last = ports.at(-1)!
    const isRow = ports.every((each, i) => each === first + i)
    return encodeSeen({ port, first: isRow ? first : 0, last: isRow ? last : 0 })
  }

  #answer(side: Side, bind: RelayBind, state: number, token: Uint8Array): Uint8Array {
    const { channel, counter } = bind
    const head = { kind: Kind.RELAY_BOUND, channel, side: state, counter, token }
    const blank = encoded({ ...head, mac: new Uint8Array(MAC) })
    const text = blank.subarray(0, blank.length - MAC)
    // Nodes of before ADR 0393 do not set `SHOWS`.
    const shown = (bind.side & SHOWS) === 0 ? text : concat(text, bind.token)
    const mac = this.#parts.crypto.mac(side.key, shown)
    return encoded({ ...head, mac })
  }

  #number(): number {
    const bytes = this.#parts.random.fill(new Uint8Array(4))
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0)
  }
}

function unproven({ node }: SideOrder): SideOrder {
  return { node }
}

function stampOf(now: number): number {
  return Math.floor(now * STAMPS_PER_MS) >>> 0
}

/** Whether answers leave from the same address of ours. */
function sameLocal({ local: a }: Endpoint, { local: b }: Endpoint): boolean {
  return a === undefined || b === undefined ? a === b : equal(a, b)
}

function sourceKey(port: number, source: Endpoint): string {
  return `${port} ${endpointKey(source)}`
}
