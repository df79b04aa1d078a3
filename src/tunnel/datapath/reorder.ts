/**
 * Restores the order in which packets were sealed, for those whose sender asks for it (flag 0x04: they were spread over
 * paths of different delay). The counter of the session is the order. Packets that come in order cost two stores; those
 * behind a gap are copied and held, until
 *
 *  - the gap fills, or
 *  - every path that lately brought such packets has brought a newer one than the gap: a path keeps their order, so what
 *    is missing was lost, and nothing is gained by waiting, or
 *  - the hold time has passed: what gaps lately took to fill, half as much again; HOLD_MOST at most, or
 *  - there is no room.
 *
 * Packets without the flag pass at once and are only noted, so that their counters are no gaps.
 */
import type { Arena } from '../../linux/arena.ts'
import type { Merger } from './merge.ts'
import type { PathTable } from './tables.ts'

/** Counters looked ahead; a power of two. */
const WINDOW = 1 << 13
const MASK = WINDOW - 1
/** Milliseconds. */
export const HOLD_MOST = 200
const HOLD_LEAST = 50
/** What a gap once took counts less and less over about so long. */
const FADES = 5_000
/** A path that brought no such packet for so long is not waited for. */
const IN_USE = 250
/** When order begins to be kept, a path that has brought nothing for so long is not waited for, milliseconds. */
const ALIVE = 60
/** A peer without such packets for so long is forgotten. */
const FORGOTTEN = 2_000
const NEVER = Number.POSITIVE_INFINITY
/** In front of a held packet, for the merger's vnet header. */
const HEADROOM = 16
const EMPTY = 0
const SEEN = 1
const HELD = 2

/** One peer's order. */
class Order {
  /** Which session the counters are of. */
  session = -1
  /** Lowest counter not yet accounted for, and one above the highest seen. */
  next = 0
  end = 0
  /** By counter & MASK: EMPTY, SEEN, or HELD + place. */
  readonly entries = new Int32Array(WINDOW)
  held = 0
  /** Since when the gap at `next` holds packets up. */
  gapSince = 0
  lastOrdered = 0
  /** What gaps took to fill lately, milliseconds. */
  need = HOLD_MOST
  neededAt = 0

  get hold(): number {
    return Math.min(HOLD_MOST, Math.max(HOLD_LEAST, 1.5 * this.need + 5))
  }
}

export class Reorder {
  /** Bytes of packet memory for each packet held. */
  static readonly PLACE = 2048
  /** Peers whose order is kept: nothing needs noting while it is 0. */
  active = 0
  /** When to call `release`; Infinity while nothing is held. */
  deadline = NEVER
  counts = { ordered: 0, held: 0, late: 0, lost: 0, timedOut: 0, overflowed: 0 }
  readonly #u8: Uint8Array
  readonly #paths: PathTable
  readonly #merger: Merger
  readonly #start: number
  readonly #orders: (Order | undefined)[] = []
  /** Free places, and those that the merger may still refer to. */
  readonly #free: Int32Array
  #freeCount: number
  readonly #used: Int32Array
  #usedCount = 0
  readonly #length: Uint16Array
  readonly #partial: Uint8Array
  readonly #heldAt: Float64Array
  /** When a path last brought an ordered packet, by slot. */
  #lastOrdered = new Float64Array(16).fill(-NEVER)
  /** The highest counter of those that it brought, and of which session. */
  #highest = new Float64Array(16).fill(-1)
  #sessionOf = new Float64Array(16).fill(-1)

  constructor(parts: {
    readonly arena: Arena
    readonly paths: PathTable
    readonly merger: Merger
    readonly packets: number
  }) {
    const { packets } = parts
    this.#u8 = parts.arena.u8
    this.#paths = parts.paths
    this.#merger = parts.merger
    this.#start = parts.arena.reserve(packets * Reorder.PLACE)
    this.#free = Int32Array.from({ length: packets }, (_, place) => place)
    this.#freeCount = packets
    this.#used = new Int32Array(packets)
    this.#length = new Uint16Array(packets)
    this.#partial = new Uint8Array(packets)
    this.#heldAt = new Float64Array(packets)
  }

  /** Whether the order of this peer is kept. */
  keeps(peer: number): boolean {
    return this.#orders[peer] !== undefined
  }

  /**
   * Keeps order from this packet on. What another path was given before, without the flag, may still be on its way: it is
   * waited for while that path is alive, so that a flow which changes to a nearer path keeps its order. `arrived` says
   * whether a counter of this session has come.
   */
  open(
    peer: number,
    session: number,
    slot: number,
    counter: number,
    now: number,
    arrived: (counter: number) => boolean,
  ): void {
    const order = new Order()
    order.session = session
    order.next = counter
    order.end = counter
    const paths = this.#paths
    let before = -1
    for (let other = paths.firstOf(peer); other >= 0; other = paths.next[other]!) {
      const highest = paths.highestCounter[other]!
      if (other === slot || paths.session[other] !== session || now - paths.lastReceivedAt[other]! > ALIVE)
        continue
      if (highest >= counter || counter - highest >= WINDOW) continue
      this.brought(other, session, highest)
      this.#lastOrdered[other] = now
      before = Math.max(before, highest)
    }
    if (before >= 0) {
      let each = before + 1
      while (each < counter && arrived(each)) each++
      order.next = each
      while (++each < counter) if (arrived(each)) order.entries[each & MASK] = SEEN
    }
    this.#orders[peer] = order
    this.active++
  }

  /** A datagram without the flag has arrived. */
  note(peer: number, session: number, counter: number, now: number): void {
    const order = this.#orders[peer]
    if (order === undefined || session < order.session) return
    if (session > order.session) this.#restart(order, session)
    if (counter < order.next) return
    this.#reach(order, counter)
    if (counter === order.next) this.#advance(order, now)
    else order.entries[counter & MASK] = SEEN
    if (counter >= order.end) order.end = counter + 1
    this.#check(peer, order, now)
  }

  /** A packet with the flag has arrived, and order is kept: it goes to the merger now or later. */
  take(
    peer: number,
    session: number,
    slot: number,
    counter: number,
    packet: number,
    length: number,
    partial: boolean,
    now: number,
  ): void {
    const order = this.#orders[peer]!
    this.counts.ordered++
    order.lastOrdered = now
    if (slot >= 0) {
      this.brought(slot, session, counter)
      this.#lastOrdered[slot] = now
    }
    if (counter === order.next && order.held === 0 && session === order.session) {
      // As nearly all are.
      if (counter >= order.end) order.end = counter + 1
      this.#merger.add(packet, length, partial)
      order.next = counter + 1
      if (order.end > order.next) this.#deliver(order)
      const deadline = now + FORGOTTEN + 1
      if (deadline < this.deadline) this.deadline = deadline
      return
    }
    if (session > order.session) this.#restart(order, session)
    if (session < order.session || counter < order.next) {
      // Given up too early, or sent again: better out of order than not at all.
      this.counts.late++
      if (session === order.session && order.end - counter < WINDOW) order.need = HOLD_MOST
      this.#merger.add(packet, length, partial)
      return
    }
    this.#reach(order, counter)
    if (counter > order.next) {
      if (counter >= order.end) order.end = counter + 1
      this.#hold(order, counter, packet, length, partial, now)
    } else {
      if (counter >= order.end) order.end = counter + 1
      this.#merger.add(packet, length, partial)
      this.#advance(order, now)
    }
    this.#check(peer, order, now)
  }

  /** The path has brought such a packet, be it the second copy of one. */
  brought(slot: number, session: number, counter: number): void {
    if (slot >= this.#lastOrdered.length) this.#growSlots(slot)
    const newer = session > this.#sessionOf[slot]!
    if (newer) this.#sessionOf[slot] = session
    if (newer || (session === this.#sessionOf[slot] && counter > this.#highest[slot]!))
      this.#highest[slot] = counter
  }

  /** Releases what has waited long enough. */
  release(now: number): void {
    this.deadline = NEVER
    for (let peer = 0; peer < this.#orders.length; peer++) {
      const order = this.#orders[peer]
      if (order === undefined) continue
      while (order.held > 0 && now >= order.gapSince + order.hold) {
        this.counts.timedOut++
        this.#skip(order)
      }
      if (order.held === 0 && now - order.lastOrdered > FORGOTTEN) {
        this.#orders[peer] = undefined
        this.active--
      } else this.#check(peer, order, now)
    }
  }

  /** The merger has written everything: places can be used again. */
  written(): void {
    while (this.#usedCount > 0) this.#free[this.#freeCount++] = this.#used[--this.#usedCount]!
  }

  /** A newer session: what the old one held goes out, counters begin at 0. */
  #restart(order: Order, session: number): void {
    while (order.held > 0) this.#skip(order)
    order.entries.fill(EMPTY)
    order.session = session
    order.next = 0
    order.end = 0
  }

  /** Makes the window reach a counter: the oldest give way. */
  #reach(order: Order, counter: number): void {
    if (counter - order.next < WINDOW) return
    this.counts.overflowed++
    while (order.held > 0 && counter - order.next >= WINDOW) this.#skip(order)
    if (counter - order.next < WINDOW) return
    order.entries.fill(EMPTY)
    order.next = counter
  }

  #hold(order: Order, counter: number, packet: number, length: number, partial: boolean, now: number): void {
    if (length > Reorder.PLACE - HEADROOM || !this.#room()) {
      this.counts.overflowed++
      order.entries[counter & MASK] = SEEN
      this.#merger.add(packet, length, partial)
      return
    }
    const place = this.#free[--this.#freeCount]!
    const at = this.#start + place * Reorder.PLACE + HEADROOM
    this.#u8.copyWithin(at, packet, packet + length)
    this.#length[place] = length
    this.#partial[place] = partial ? 1 : 0
    this.#heldAt[place] = now
    order.entries[counter & MASK] = HELD + place
    if (order.held++ === 0) order.gapSince = now
    this.counts.held++
  }

  #room(): boolean {
    if (this.#freeCount > 0) return true
    if (this.#usedCount === 0) return false
    this.#merger.flush()
    this.written()
    return true
  }

  /** `next` has arrived: on to the first that has not. */
  #advance(order: Order, now: number): void {
    const { entries } = order
    if (order.held > 0) {
      const waited = now - order.gapSince
      if (waited > order.need) order.need = waited
      else order.need -= (order.need - waited) * Math.min(1, (now - order.neededAt) / FADES)
      order.neededAt = now
    }
    entries[order.next & MASK] = EMPTY
    order.next++
    this.#deliver(order)
  }

  /** Gives up the gap at `next`. */
  #skip(order: Order): void {
    while (order.next < order.end && order.entries[order.next & MASK] === EMPTY) order.next++
    this.#deliver(order)
  }

  /** Delivers from `next` up to the next gap. */
  #deliver(order: Order): void {
    const { entries, held } = order
    for (;;) {
      const entry = entries[order.next & MASK]!
      if (entry === EMPTY || order.next >= order.end) break
      entries[order.next & MASK] = EMPTY
      order.next++
      if (entry >= HELD) this.#out(order, entry - HELD)
    }
    if (order.held === 0 || order.held === held) return
    let first = order.next
    while (entries[first & MASK]! < HELD) first++
    order.gapSince = this.#heldAt[entries[first & MASK]! - HELD]!
  }

  #out(order: Order, place: number): void {
    order.held--
    this.#used[this.#usedCount++] = place
    const at = this.#start + place * Reorder.PLACE + HEADROOM
    this.#merger.add(at, this.#length[place]!, this.#partial[place] === 1)
  }

  /** Gaps that no path will fill are given up; then the deadline. */
  #check(peer: number, order: Order, now: number): void {
    if (order.held > 0) {
      const end = Math.min(order.end, this.#lostBefore(peer, order, now))
      // Counters from `end` on may still come. Whatever a peer's counters are, each place of the window is looked at once.
      while (order.held > 0 && order.next < end) {
        const from = order.next
        while (order.next < end && order.entries[order.next & MASK] === EMPTY) order.next++
        this.counts.lost += order.next - from
        this.#deliver(order)
      }
    }
    if (order.held > 0) this.deadline = Math.min(this.deadline, order.gapSince + order.hold)
    else this.deadline = Math.min(this.deadline, order.lastOrdered + FORGOTTEN + 1)
  }

  /** No counter below, from `next` on, can still come. */
  #lostBefore(peer: number, order: Order, now: number): number {
    const paths = this.#paths
    let before = NEVER
    for (let slot = paths.firstOf(peer); slot >= 0; slot = paths.next[slot]!) {
      if (slot >= this.#lastOrdered.length || now - this.#lastOrdered[slot]! > IN_USE) continue
      if (this.#sessionOf[slot]! < order.session) return order.next
      before = Math.min(before, this.#highest[slot]! + 1)
    }
    return before
  }

  #growSlots(slot: number): void {
    let size = this.#lastOrdered.length
    while (size <= slot) size *= 2
    const wider = (old: Float64Array, fill: number) => {
      const next = new Float64Array(size).fill(fill)
      next.set(old)
      return next
    }
    this.#lastOrdered = wider(this.#lastOrdered, -NEVER)
    this.#highest = wider(this.#highest, -1)
    this.#sessionOf = wider(this.#sessionOf, -1)
  }
}
