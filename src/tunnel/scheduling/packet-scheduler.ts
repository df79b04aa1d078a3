/**
 * Carries out a plan (schedulers.ts) packet by packet: the path of a packet, the paths that get copies, and the time at
 * which it leaves.
 *
 * In every mode packets leave at the rate that their path delivers, once that is known, so that the queue is here and not
 * in the modem: urgent packets and packets of sparse flows overtake it.
 *
 * `weighted` sends each packet on the path on which it will arrive first, given what that path already has to carry. What
 * a path cannot carry yet waits here, sealed in order, not in the network: no queue on the way overflows, packets arrive
 * nearly in order, and a distant path is used only when waiting for the near one would take longer. So the result is
 * never worse than the near path alone. What all paths together cannot carry is dropped once it would have to wait
 * MOST_WAIT: this is the one queue that TCP inside finds and fills.
 */

import { type Spread, Verdict } from '../seam.ts'
import type { Lanes } from './lanes.ts'
import type { Mode, Plan } from './schedulers.ts'
import { SparseFlows } from './sparse-flows.ts'

/** Properties of a packet for `choose`, as bits. */
export const Kind = {
  /** The last of a burst. */
  tail: 1,
  /** Carries nothing that its flow must get in order (an acknowledgement): goes before what waits, on the nearest path. */
  express: 2,
} as const

/** One packet in this many is copied to a path that has to prove itself, at most one per PROBE_MS. */
const PROBE_EVERY = 8
const PROBE_MS = 4
/** Max saved credit for copies: what the cap allows over this many sent bytes. */
const SAVED_OVER = 4 << 20
const MOST_PATHS = 8
/** Bytes that each datagram of a cut super-packet adds: its own IP and TCP header, and the tunnel's. */
const DATAGRAM_BYTES = 80
/**
 * A path is left for another one when this much longer would have passed there, or has been given to it: batches of one
 * path are what a fast line lives by, and a slow one carries hardly a datagram in that time.
 */
export const FLIGHT_MS = 1
/** Milliseconds of waiting on the path that has least before it, and on any, beyond which packets are dropped. */
export const MOST_WAIT = 100
const MOST_WAIT_ON_ONE = 250
/** While a rate is only guessed, more may wait. */
const GUESSED = 2
/** Packets wait this much longer (ms) than the farthest path is behind the nearest, or that path would never be used. */
const BEYOND_FAR = 50
/** A copy (`duplicate`) that would wait longer than this, milliseconds, is not made: its path is full. */
const COPY_WAIT = 5
/** Copies do not wait for their turn, so they are counted as this much larger, and leave the path some room. */
const COPY_ROOM = 1.25

/** `choose` costs a comparison per path and allocates nothing. */
export class PacketScheduler {
  readonly #lanes: Lanes
  readonly #slots = new Int32Array(MOST_PATHS)
  /** Datagrams that each carrier has been given (`round-robin`). */
  readonly #given = new Float64Array(MOST_PATHS)
  /** Weight of a datagram on each carrier: one over the carrier's weight. */
  readonly #turn = new Float64Array(MOST_PATHS).fill(1)
  #count = 0
  readonly #copies = new Int32Array(MOST_PATHS)
  #copyCount = 0
  readonly #probes = new Int32Array(MOST_PATHS)
  #probeCount = 0
  #refuge = -1
  #atRisk = false
  #ordered = false
  #timed = false
  #everywhere = false
  readonly #flows = new SparseFlows()
  /** The carrier that was taken last, and what it may be given before another's turn (`round-robin`). */
  #current = 0
  #flight = 0
  #credit = 0
  #packets = 0
  #probedAt = Number.NEGATIVE_INFINITY
  readonly #cap: number
  /** Bytes sent, and of them as copies under the cap; packets that no path had room for. */
  counts = { bytes: 0, copiedBytes: 0, dropped: 0 }

  /** `cap`: share of the bytes sent that `budget` may copy. */
  constructor(lanes: Lanes, cap = 0.05) {
    this.#lanes = lanes
    this.#cap = cap
  }

  /** A change of plan keeps what each path was given relative to the others. */
  follow(mode: Mode, plan: Plan): void {
    const before = new Map<number, number>()
    let least = Number.POSITIVE_INFINITY
    for (let i = 0; i < this.#count; i++) {
      before.set(this.#slots[i]!, this.#given[i]!)
      least = Math.min(least, this.#given[i]!)
    }
    if (!Number.isFinite(least)) least = 0
    this.#count = fill(this.#slots, plan.carriers)
    for (let i = 0; i < this.#count; i++) this.#turn[i] = 1 / (plan.weights?.[i] ?? 1)
    this.#current = 0
    this.#flight = 0
    for (let i = 0; i < this.#count; i++) this.#given[i] = (before.get(this.#slots[i]!) ?? least) - least
    this.#copyCount = fill(this.#copies, plan.copies)
    this.#probeCount = fill(this.#probes, plan.probes)
    this.#refuge = plan.refuge
    this.#atRisk = plan.atRisk
    this.#ordered = plan.ordered
    this.#timed = mode === 'weighted' && this.#count > 1
    this.#everywhere = mode === 'duplicate'
  }

  /**
   * The slot for a packet of `bytes` that becomes `datagrams` datagrams, or a Verdict; `kind` is bits of Kind, `flow` a
   * hash of its flow, -1 for none. Copies, order and departure go to `spread`.
   */
  choose(bytes: number, datagrams: number, kind: number, spread: Spread, now: number, flow = -1): number {
    spread.departAt = 0
    if (this.#count === 0) return Verdict.PARK
    const wire = bytes + datagrams * DATAGRAM_BYTES
    const lanes = this.#lanes
    let slot = this.#count === 1 ? this.#slots[0]! : this.#nearest()
    spread.ordered = this.#ordered
    spread.copies = 0
    const passes = (kind & Kind.express) !== 0 || (flow >= 0 && this.#isSparse(flow, slot, wire, now))
    if (passes) {
      if (this.#count > 1) spread.ordered = false
      lanes.pass(slot, wire, now)
    } else {
      if (this.#everywhere) slot = this.#fastest()
      else if (this.#count > 1) slot = this.#timed ? this.#earliest(wire, now) : this.#next(wire, datagrams)
      const patience = lanes.known[slot] === 0 ? GUESSED : 1
      if (slot < 0 || (!this.#timed && lanes.freeAt[slot]! - now > MOST_WAIT * patience)) {
        this.counts.dropped++
        return Verdict.DROP
      }
      spread.departAt = lanes.give(slot, wire, now)
      if (flow >= 0 && spread.departAt > now) this.#flows.waits(flow, spread.departAt + this.#behind())
    }
    this.counts.bytes += bytes
    this.#copy(slot, wire, passes, spread, now)
    if (this.#refuge >= 0) this.#insure(bytes, (kind & Kind.tail) !== 0, spread)
    if (this.#probeCount > 0) this.#probe(datagrams, spread, now)
    return slot
  }

  #isSparse(flow: number, slot: number, wire: number, now: number): boolean {
    const lanes = this.#lanes
    let rate = 0
    for (let i = 0; i < this.#count; i++) rate += lanes.rate[this.#slots[i]!]!
    return this.#flows.passes(flow, wire, rate, now) && lanes.passSparse(slot, wire, now)
  }

  /** How much later than on the nearest path a packet may arrive on another. */
  #behind(): number {
    if (this.#count === 1) return 0
    let least = Number.POSITIVE_INFINITY
    let most = 0
    for (let i = 0; i < this.#count; i++) {
      const delay = this.#lanes.delayAmong(this.#slots[i]!, this.#slots, this.#count)
      if (delay < least) least = delay
      if (delay > most) most = delay
    }
    return most - least
  }

  /** `duplicate`: the carrier of the highest rate; the others get the copies that they have room for. */
  #fastest(): number {
    const { rate } = this.#lanes
    let best = this.#slots[0]!
    for (let i = 1; i < this.#count; i++) if (rate[this.#slots[i]!]! > rate[best]!) best = this.#slots[i]!
    return best
  }

  /** A copy on every path but this one; on those that are full only of what passes. */
  #copy(slot: number, wire: number, passes: boolean, spread: Spread, now: number): void {
    const lanes = this.#lanes
    const carriers = this.#everywhere ? this.#count : 0
    for (let i = 0; i < carriers + this.#copyCount; i++) {
      const to = i < carriers ? this.#slots[i]! : this.#copies[i - carriers]!
      if (to === slot || spread.copies === MOST_PATHS) continue
      if (!passes && lanes.freeAt[to]! - now > COPY_WAIT) continue
      lanes.pass(to, passes ? wire : wire * COPY_ROOM, now)
      spread.copyTo[spread.copies++] = to
    }
  }

  #next(wire: number, datagrams: number): number {
    if (this.#flight <= 0) {
      let best = 0
      for (let i = 1; i < this.#count; i++) if (this.#given[i]! < this.#given[best]!) best = i
      this.#current = best
      this.#flight = this.#lanes.rate[this.#slots[best]!]! * FLIGHT_MS
    }
    this.#flight -= wire
    this.#given[this.#current] = this.#given[this.#current]! + datagrams * this.#turn[this.#current]!
    return this.#slots[this.#current]!
  }

  #nearest(): number {
    let best = this.#slots[0]!
    let least = Number.POSITIVE_INFINITY
    for (let i = 0; i < this.#count; i++) {
      const delay = this.#lanes.delayAmong(this.#slots[i]!, this.#slots, this.#count)
      if (delay >= least) continue
      least = delay
      best = this.#slots[i]!
    }
    return best
  }

  /** The path on which it arrives first; Verdict.DROP when it would wait too long. */
  #earliest(bytes: number, now: number): number {
    const { rate, freeAt, known } = this.#lanes
    let best = 0
    let first = Number.POSITIVE_INFINITY
    let leavesBest = 0
    let free = Number.POSITIVE_INFINITY
    let patience = 1
    for (let i = 0; i < this.#count; i++) {
      const slot = this.#slots[i]!
      const leaves = Math.max(now, freeAt[slot]!)
      if (leaves < free) free = leaves
      if (known[slot] === 0) patience = GUESSED
      const delay = this.#lanes.delayAmong(slot, this.#slots, this.#count)
      const at = leaves + bytes / rate[slot]! + delay - (i === this.#current ? FLIGHT_MS : 0)
      if (at >= first) continue
      first = at
      best = i
      leavesBest = leaves
    }
    const wait = Math.max(MOST_WAIT, this.#behind() + BEYOND_FAR) * patience
    if (free - now > wait || leavesBest - now > Math.max(MOST_WAIT_ON_ONE * patience, wait))
      return Verdict.DROP
    this.#current = best
    return this.#slots[best]!
  }

  /** `budget`: a copy for what is at risk, while the cap allows. */
  #insure(bytes: number, tail: boolean, spread: Spread): void {
    this.#credit = Math.min(this.#credit + bytes * this.#cap, SAVED_OVER * this.#cap)
    if (!(this.#atRisk || (tail && this.#credit > (SAVED_OVER * this.#cap) / 2)) || this.#credit < bytes)
      return
    this.#credit -= bytes
    this.counts.copiedBytes += bytes
    spread.copyTo[spread.copies++] = this.#refuge
  }

  #probe(datagrams: number, spread: Spread, now: number): void {
    if (++this.#packets % PROBE_EVERY !== 0 || now - this.#probedAt < PROBE_MS * datagrams) return
    this.#probedAt = now
    for (let i = 0; i < this.#probeCount && spread.copies < MOST_PATHS; i++) {
      const slot = this.#probes[i]!
      let taken = false
      for (let k = 0; k < spread.copies; k++) if (spread.copyTo[k] === slot) taken = true
      if (!taken) spread.copyTo[spread.copies++] = slot
    }
  }
}

/** Writes as many slots as there is room for; returns how many. */
function fill(to: Int32Array, slots: readonly number[]): number {
  const count = Math.min(slots.length, MOST_PATHS)
  for (let i = 0; i < count; i++) to[i] = slots[i]!
  return count
}
