/**
 * When each path is free again, by slot, over all classes that use it. A path with a known rate sends packets one after
 * the other: a new packet leaves after all earlier ones. Written by plans, charged per packet; numbers only.
 */

/** Taken for a path's rate (bytes a millisecond) until it is known. */
const UNKNOWN_RATE = 12_500
/** Extra delay (ms) assumed for an unmeasured path. */
const UNKNOWN_FARTHER = 50

/** Max queueing delay (ms) that packets which pass the queue may add to those in it. */
const MOST_PASSED = 20
/** Sparse flows together may take this share of a path, and this many milliseconds of it at once. */
const SPARSE_TOGETHER = 0.7
const SPARSE_AT_ONCE_MS = 25
/** After a pause this long (ms) the accounting of a path starts again. */
const PAUSE_MS = 200

export class Lanes {
  /** Bytes a millisecond. */
  rate = new Float64Array(16).fill(UNKNOWN_RATE)
  /**
   * One-way delay including queues, milliseconds; only differences between paths of a peer are meaningful. NaN: unknown.
   */
  delay = new Float64Array(16).fill(Number.NaN)
  /** When what was given will have left. */
  freeAt = new Float64Array(16)
  /** 1: the rate is measured; 0: it is a first guess, usually too low. */
  known = new Uint8Array(16)
  /** Since when it has been in use, without a pause of PAUSE_MS. */
  usedSince = new Float64Array(16)
  /** Until when sparse flows have used up their share. */
  #sparseUntil = new Float64Array(16)

  /** Sets what is known of a path; `rate` 0 and `delayMs` NaN: nothing. */
  set(slot: number, rate: number, delayMs: number, known = true): void {
    this.#ensure(slot)
    this.known[slot] = known ? 1 : 0
    this.rate[slot] = rate > 0 ? rate : UNKNOWN_RATE
    this.delay[slot] = delayMs
  }

  /** The delay of a path among the first `count` of `slots`; where it is not known, a guess. */
  delayAmong(slot: number, slots: Int32Array, count: number): number {
    const known = this.delay[slot]!
    if (!Number.isNaN(known)) return known
    let least = Number.POSITIVE_INFINITY
    for (let i = 0; i < count; i++) if (this.delay[slots[i]!]! < least) least = this.delay[slots[i]!]!
    return least === Number.POSITIVE_INFINITY ? 0 : least + UNKNOWN_FARTHER
  }

  /** Nothing waits for the path any more. */
  clear(slot: number): void {
    this.#ensure(slot)
    this.freeAt[slot] = 0
  }

  /** Gives `bytes` to the path; returns when they leave. */
  give(slot: number, bytes: number, now: number): number {
    this.#use(slot, now)
    const leaves = Math.max(now, this.freeAt[slot]!)
    this.freeAt[slot] = leaves + bytes / this.rate[slot]!
    return leaves
  }

  /** As `give`, for what does not wait; the path may be less busy than it looks, which is forgotten soon. */
  pass(slot: number, bytes: number, now: number): void {
    this.#use(slot, now)
    this.freeAt[slot] = Math.min(
      Math.max(now, this.freeAt[slot]!) + bytes / this.rate[slot]!,
      Math.max(this.freeAt[slot]!, now + MOST_PASSED),
    )
  }

  #use(slot: number, now: number): void {
    if (this.freeAt[slot]! < now - PAUSE_MS) this.usedSince[slot] = now
  }

  /** Whether sparse flows have a share of the path left; takes `bytes` of it when they have. */
  passSparse(slot: number, bytes: number, now: number): boolean {
    const until = Math.max(this.#sparseUntil[slot]!, now - SPARSE_AT_ONCE_MS)
    if (until > now) return false
    this.#sparseUntil[slot] = until + bytes / (this.rate[slot]! * SPARSE_TOGETHER)
    return true
  }

  #ensure(slot: number): void {
    if (slot < this.rate.length) return
    let size = this.rate.length
    while (size <= slot) size *= 2
    const wider = (old: Float64Array, fill: number) => {
      const next = new Float64Array(size).fill(fill)
      next.set(old)
      return next
    }
    this.rate = wider(this.rate, UNKNOWN_RATE)
    this.delay = wider(this.delay, Number.NaN)
    this.freeAt = wider(this.freeAt, 0)
    this.usedSince = wider(this.usedSince, 0)
    this.#sparseUntil = wider(this.#sparseUntil, 0)
    const { known } = this
    this.known = new Uint8Array(size)
    this.known.set(known)
  }
}
