/**
 * The relays of a coordinator (NT-24, NT-25): which there are, how loaded and how far each is, and which of them a pair has.
 * Sans-I/O.
 *
 * A pair has channels at two relays where there are two: its nodes bind both, their tunnels use the one that answers first and
 * keep the other ready, so that a relay that dies costs no more than the tunnel's own verdict. A pair keeps its relays while
 * they are there. Allocations end with the relay's channels, which end without traffic; here they are forgotten later.
 *
 * Distances are measured: a relay learns its round trip to a node when that node binds and returns the relay's token, and reports it.
 * What was learned counts for the node's network. A relay without a measurement from there is taken to be as far as the way
 * by the coordinator, which is an upper bound.
 */
import { toHex } from '../../core/bytes.ts'
import type { Measured, RelayLoad, RelaySide, SideOrder } from '../wire/message.ts'

/** A relay as it is chosen by. */
export interface RelayView {
  readonly name: string
  readonly load: RelayLoad | undefined
  /** Channels ordered since it said its load. */
  readonly ordered: number
}

/** A node of the pair: its network, and the coordinator's round trip to it (ms). */
export interface End {
  readonly net: string
  readonly rtt: number
}

export type Distance = (relay: string, net: string) => number | undefined

export interface PairOrder {
  /** Hash of the pair. */
  readonly pair: Uint8Array
  readonly account: string
  /** A second channel, for a soft handover. */
  readonly another: boolean
  readonly ends: readonly [End, End]
  readonly sides: readonly [SideOrder, SideOrder]
}

/** To one relay. */
export interface RelayOrder {
  readonly pair: Uint8Array
  readonly another: boolean
  readonly account: string
  readonly sides: readonly [SideOrder, SideOrder]
  /** The nodes have to bind also where the coordinator has proven their addresses: so the relay measures how far they are. */
  readonly binds: boolean
}

/** Sides of the asking node and of the other. */
export type Sides = readonly [RelaySide, RelaySide]

export interface RelaysParts {
  /** Sends the order; `answered` brings the sides, or undefined when the relay has no room or does not answer in time. */
  readonly order: (
    relay: string,
    order: RelayOrder,
    answered: (sides: Sides | undefined, now: number) => void,
    now: number,
  ) => void
}

/** Channels of each relay at which the pair has one, the preferred last; none: there is no relay for it. */
export type Allocated = (sides: readonly Sides[], now: number) => void

/** Relays of a pair. */
const MAX_OF_PAIR = 2
/** How long the first relay's answer waits for the second's, and for any (ms). */
const GRACE_MS = 30
const ORDER_MS = 1000
/** A relay that refused or did not answer is not asked again for (ms), unless it is the only one. */
const REFUSED_MS = 5000
/**
 * A relay that is lost again within `STEADY_MS` is asked last for a while once it is back: for `FIRST_HOLD_MS`, doubling with each
 * further loss (ms).
 */
const STEADY_MS = 600_000
const FIRST_HOLD_MS = 10_000
const MAX_HOLD_MS = 300_000
const MAX_LOSSES = 1000
/** Pairs that are remembered; the one directed longest ago goes. */
const MAX_PAIRS = 100_000
/** A pair in use is directed at least once a minute (machine/node.ts); after three without, it is taken to be idle. */
const ACTIVE_MS = 180_000
/** Measurements kept, of all relays, and how long one counts (ms). */
const MAX_DISTANCES = 50_000
const DISTANCE_MS = 3_600_000
const LONGEST_MS = 2000
/** What a full relay costs beside its distance (ms); half full: a quarter of it. */
const LOAD_MS = 200
/** Relays that differ by less are equal (ms): the pair decides, so that pairs are spread. */
const EQUAL_MS = 5
/** Round trip to the coordinator of a relay that has not said it (ms). */
const UNKNOWN_MS = 20
const NEVER = Number.POSITIVE_INFINITY

/** The network of an address: what is measured for one address counts for all of it. */
export function networkOf(address: Uint8Array): string {
  return toHex(address.subarray(0, address.length === 4 ? 3 : 6))
}

/** Share of the relay that is in use: of its channels or of its rate, whichever is more; 1 and more: full. */
export function fullness({ load, ordered }: RelayView): number {
  if (load === undefined) return 0
  const channels = load.maxChannels === 0 ? 0 : (load.channels + ordered) / load.maxChannels
  const rate = load.capacity === 0 ? 0 : load.rate / load.capacity
  return Math.max(channels, rate)
}

/** Relays in the order in which the pair should have them. Pure. */
export function rankRelays(
  relays: readonly RelayView[],
  ends: readonly [End, End],
  distance: Distance,
  pair: string,
): readonly string[] {
  const ranked = relays.map((relay) => {
    const used = fullness(relay)
    const way = relay.load === undefined || relay.load.rtt === 0 ? UNKNOWN_MS : relay.load.rtt / 1000
    const far = ends.reduce((sum, { net, rtt }) => sum + (distance(relay.name, net) ?? way + rtt), 0)
    const cost = far + LOAD_MS * Math.min(1, used) ** 2
    return {
      name: relay.name,
      isFull: used >= 1,
      step: Math.round(cost / EQUAL_MS),
      spread: spread(pair, relay.name),
    }
  })
  ranked.sort((a, b) => Number(a.isFull) - Number(b.isFull) || a.step - b.step || a.spread - b.spread)
  return ranked.map(({ name }) => name)
}

/** The same for the same pair and relay, and as good as random over pairs. */
function spread(pair: string, relay: string): number {
  let hash = 0x811c_9dc5
  for (const character of `${pair} ${relay}`) hash = Math.imul(hash ^ character.charCodeAt(0), 0x0100_0193)
  return hash >>> 0
}

interface Known {
  load: RelayLoad | undefined
  ordered: number
  refusedUntil: number
}

interface Pair {
  readonly names: readonly string[]
  readonly at: number
  /** The pair's nodes, for its owner. */
  readonly tag: unknown
}

interface Pending {
  readonly order: PairOrder
  readonly tag: unknown
  readonly done: Allocated
  /** Those that it should have, the preferred first. */
  readonly wanted: string[]
  readonly tried: Set<string>
  readonly waiting: Set<string>
  readonly got: Map<string, Sides>
  readonly until: number
  graceUntil: number
  isDone: boolean
}

export class Relays {
  readonly #parts: RelaysParts
  readonly #relays = new Map<string, Known>()
  readonly #pairs = new Map<string, Pair>()
  readonly #pending = new Set<Pending>()
  /** Keys of the pairs that have a channel at each relay. */
  readonly #pairsOf = new Map<string, Set<string>>()
  /** Relays that were lost: how often in a row, and when last. */
  readonly #losses = new Map<string, { readonly count: number; readonly at: number }>()
  /** By relay and network: the least that was measured within the time that it counts. */
  readonly #distances = new Map<string, Map<string, { readonly ms: number; readonly at: number }>>()
  #distanceCount = 0

  constructor(parts: RelaysParts) {
    this.#parts = parts
  }

  /** Orders that wait for an answer. */
  get pending(): number {
    return this.#pending.size
  }

  get count(): number {
    return this.#relays.size
  }

  /** The relay is there, and says how it is. */
  up(name: string, load: RelayLoad | undefined, now = Number.NEGATIVE_INFINITY): void {
    const known = this.#relays.get(name)
    const refusedUntil = known?.refusedUntil ?? now + this.#holdDown(name)
    this.#relays.set(name, { load, ordered: 0, refusedUntil })
  }

  /** How long a relay that came back is asked last (ms): longer with each loss in a row, not after the first. */
  #holdDown(name: string): number {
    const count = this.#losses.get(name)?.count ?? 0
    return count < 2 ? 0 : Math.min(MAX_HOLD_MS, FIRST_HOLD_MS * 2 ** (count - 2))
  }

  /**
   * Round trips that the relay has measured. The least counts: a node can make its answers late, never early. Where there are too
   * many, the relay with most loses its oldest.
   */
  measured(name: string, all: readonly Measured[], now: number): void {
    const own = this.#distances.get(name) ?? new Map()
    this.#distances.set(name, own)
    for (const { address, rtt } of all) {
      const net = networkOf(address)
      const known = own.get(net)
      const ms = rtt / 1000
      if (ms > LONGEST_MS || (known !== undefined && known.ms < ms && now - known.at <= DISTANCE_MS)) continue
      if (!own.delete(net)) this.#distanceCount++
      own.set(net, { ms, at: now })
      if (this.#distanceCount > MAX_DISTANCES) this.#forgetDistance()
    }
  }

  #forgetDistance(): void {
    const largest = [...this.#distances.values()].reduce((a, b) => (b.size > a.size ? b : a))
    largest.delete(largest.keys().next().value!)
    this.#distanceCount--
  }

  /** The relay is gone, or was started anew; returns the pairs in use that had it, which want another. */
  down(name: string, now: number): readonly unknown[] {
    if (this.#relays.delete(name)) this.#lost(name, now)
    const left: unknown[] = []
    for (const key of this.#pairsOf.get(name) ?? []) {
      const { names, at, tag } = this.#pairs.get(key)!
      const others = names.filter((each) => each !== name)
      if (others.length === 0) this.#pairs.delete(key)
      else this.#pairs.set(key, { names: others, at, tag })
      if (now - at < ACTIVE_MS) left.push(tag)
    }
    this.#pairsOf.delete(name)
    for (const pending of [...this.#pending]) if (pending.waiting.delete(name)) this.#settle(pending, now)
    return left
  }

  #lost(name: string, now: number): void {
    const before = this.#losses.get(name)
    const count = before === undefined || now - before.at > STEADY_MS ? 1 : before.count + 1
    this.#losses.delete(name)
    this.#losses.set(name, { count, at: now })
    if (this.#losses.size > MAX_LOSSES) this.#losses.delete(this.#losses.keys().next().value!)
  }

  /** Channels for the pair at the relays that it has, or is given now. `done` comes again when a relay answers late. */
  order(order: PairOrder, tag: unknown, done: Allocated, now: number): void {
    const key = toHex(order.pair)
    const had = (this.#pairs.get(key)?.names ?? []).filter((name) => this.#relays.has(name))
    const wanted = [...had, ...this.#ranked(order, now).filter((name) => !had.includes(name))]
    // A handover needs one more channel: another relay's would displace the one in use at the nodes.
    const count = order.another ? 1 : MAX_OF_PAIR
    const pending: Pending = {
      ...{ order, tag, done, wanted, tried: new Set(), waiting: new Set(), got: new Map() },
      ...{ until: now + ORDER_MS, graceUntil: NEVER, isDone: false },
    }
    this.#pending.add(pending)
    const first = wanted.slice(0, count)
    for (const name of first) pending.waiting.add(name)
    for (const name of first) this.#ask(pending, name, now)
    this.#settle(pending, now)
  }

  nextTimeout(): number {
    let at = NEVER
    for (const { until, graceUntil } of this.#pending) at = Math.min(at, until, graceUntil)
    return at
  }

  handleTimeout(now: number): void {
    for (const pending of [...this.#pending]) {
      if (pending.until <= now) {
        for (const name of pending.waiting) this.#refused(name, now)
        pending.waiting.clear()
        this.#settle(pending, now)
      } else if (pending.graceUntil <= now) {
        pending.graceUntil = NEVER
        this.#finish(pending, now)
      }
    }
  }

  #ranked({ ends, pair }: PairOrder, now: number): readonly string[] {
    const all = [...this.#relays]
    const willing = all.filter(([, { refusedUntil }]) => refusedUntil <= now)
    const views = (willing.length > 0 ? willing : all).map(([name, known]) => ({ name, ...known }))
    return rankRelays(views, ends, (relay, net) => this.#distance(relay, net, now), toHex(pair))
  }

  #distance(relay: string, net: string, now: number): number | undefined {
    const known = this.#distances.get(relay)?.get(net)
    return known === undefined || now - known.at > DISTANCE_MS ? undefined : known.ms
  }

  #ask(pending: Pending, name: string, now: number): void {
    const { pair, another, account, sides } = pending.order
    pending.tried.add(name)
    pending.waiting.add(name)
    const known = this.#relays.get(name)
    if (known !== undefined) known.ordered++
    const binds = pending.wanted[0] !== name
    this.#parts.order(
      name,
      { pair, another, account, sides, binds },
      (answer, at) => {
        pending.waiting.delete(name)
        if (answer !== undefined) pending.got.set(name, answer)
        else {
          this.#refused(name, at)
          const next = pending.wanted.find((each) => !pending.tried.has(each) && this.#relays.has(each))
          if (next !== undefined && !pending.isDone) this.#ask(pending, next, at)
        }
        this.#settle(pending, at)
      },
      now,
    )
  }

  #refused(name: string, now: number): void {
    const known = this.#relays.get(name)
    if (known !== undefined) known.refusedUntil = now + REFUSED_MS
  }

  #settle(pending: Pending, now: number): void {
    if (!this.#pending.has(pending)) return
    if (pending.waiting.size === 0) {
      this.#pending.delete(pending)
      this.#finish(pending, now)
    } else if (pending.got.size > 0 && !pending.isDone)
      pending.graceUntil = Math.min(pending.graceUntil, now + GRACE_MS)
  }

  #told = new WeakMap<Pending, number>()

  #finish(pending: Pending, now: number): void {
    const { order, got, wanted, tag, done } = pending
    // What has been said already is not said again.
    if (pending.isDone && this.#told.get(pending) === got.size) return
    pending.isDone = true
    this.#told.set(pending, got.size)
    const names = wanted.filter((name) => got.has(name))
    if (names.length > 0 && !order.another) this.#keep(toHex(order.pair), { names, at: now, tag })
    done(names.map((name) => got.get(name)!).reverse(), now)
  }

  #keep(key: string, pair: Pair): void {
    this.#forgetPair(key)
    this.#pairs.set(key, pair)
    for (const name of pair.names) {
      const keys = this.#pairsOf.get(name) ?? new Set()
      this.#pairsOf.set(name, keys.add(key))
    }
    if (this.#pairs.size > MAX_PAIRS) this.#forgetPair(this.#pairs.keys().next().value!)
  }

  #forgetPair(key: string): void {
    for (const name of this.#pairs.get(key)?.names ?? []) {
      const keys = this.#pairsOf.get(name)
      keys?.delete(key)
      if (keys?.size === 0) this.#pairsOf.delete(name)
    }
    this.#pairs.delete(key)
  }
}
