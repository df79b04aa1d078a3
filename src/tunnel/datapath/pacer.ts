/**
 * Sealed batches that wait in the resend ring until their path has room for them (`Spread.departAt`). One line for each
 * path, linked through the numbers of the ring's batches; nothing is copied. Empty, it costs a comparison per batch.
 */
import { BATCHES, type ResendRing } from './ring.ts'

/** What is due within a millisecond is sent now: poll(2) cannot wait more finely. */
const FINE_MS = 1
const NONE = -1
const NEVER = Number.POSITIVE_INFINITY

export class Pacer {
  /** When the next batch leaves; Infinity while none waits. */
  deadline = NEVER
  readonly #ring: ResendRing
  readonly #transmit: (slot: number, batch: number) => void
  readonly #next = new Int32Array(BATCHES)
  readonly #dueAt = new Float64Array(BATCHES)
  readonly #slotOf = new Int32Array(BATCHES)
  /** By slot: first and last batch that wait. */
  #first = new Int32Array(16).fill(NONE)
  #last = new Int32Array(16).fill(NONE)
  #waiting = 0
  /** By slot: when something last waited for it. */
  #usedAt = new Float64Array(16).fill(-NEVER)

  /** `transmit` sends a batch and marks it as sent in the ring. */
  constructor(ring: ResendRing, transmit: (slot: number, batch: number) => void) {
    this.#ring = ring
    this.#transmit = transmit
    ring.onEvict = (batch) => {
      // The oldest of all: first in its line, but for lines that were evicted in between.
      const slot = this.#slotOf[batch]!
      while (this.#first[slot] !== NONE && this.#leave(slot) !== batch);
    }
  }

  /** Whether a batch for `slot` that may leave at `departAt` has to wait; 0: never. */
  holds(slot: number, departAt: number, now: number): boolean {
    if (departAt === 0) return false
    return departAt > now + FINE_MS || (slot < this.#first.length && this.#first[slot] !== NONE)
  }

  /** Puts a batch, kept in the ring as waiting, at the end of its path's line. */
  push(slot: number, batch: number, departAt: number): void {
    if (slot >= this.#first.length) this.#grow(slot)
    this.#usedAt[slot] = departAt
    this.#next[batch] = NONE
    this.#dueAt[batch] = departAt
    this.#slotOf[batch] = slot
    const last = this.#last[slot]!
    if (last === NONE) {
      this.#first[slot] = batch
      this.deadline = Math.min(this.deadline, departAt)
    } else this.#next[last] = batch
    this.#last[slot] = batch
    this.#waiting++
  }

  /** Sends what is due. */
  release(now: number): void {
    if (this.deadline > now + FINE_MS) return
    for (let slot = 0; slot < this.#first.length; slot++)
      while (this.#first[slot] !== NONE && this.#dueAt[this.#first[slot]!]! <= now + FINE_MS)
        this.#leave(slot)
    this.#setDeadline()
  }

  /** Sends everything that waits for `from` on `to` at once; returns the number of batches. */
  redirect(from: number, to: number): number {
    if (this.#waiting === 0 || from >= this.#first.length) return 0
    let moved = 0
    for (; this.#first[from] !== NONE; moved++) this.#leave(from, to)
    if (moved > 0) this.#setDeadline()
    return moved
  }

  /** Whether datagrams may have left on the path in another order than they were sealed in, at `since` or later. */
  mixed(slot: number, since: number): boolean {
    return slot < this.#usedAt.length && this.#usedAt[slot]! >= since
  }

  /** The path is gone: drops what waits for it. */
  drop(slot: number): void {
    if (slot >= this.#first.length || this.#first[slot] === NONE) return
    for (let batch = this.#first[slot]!; batch !== NONE; batch = this.#next[batch]!) {
      this.#ring.sent(batch, NONE, 0)
      this.#waiting--
    }
    this.#first[slot] = NONE
    this.#last[slot] = NONE
    this.#setDeadline()
  }

  #leave(slot: number, to = slot): number {
    const batch = this.#first[slot]!
    this.#first[slot] = this.#next[batch]!
    if (this.#first[slot] === NONE) this.#last[slot] = NONE
    this.#waiting--
    this.#transmit(to, batch)
    return batch
  }

  #setDeadline(): void {
    this.deadline = NEVER
    if (this.#waiting === 0) return
    for (let slot = 0; slot < this.#first.length; slot++)
      if (this.#first[slot] !== NONE)
        this.deadline = Math.min(this.deadline, this.#dueAt[this.#first[slot]!]!)
  }

  #grow(slot: number): void {
    let size = this.#first.length
    while (size <= slot) size *= 2
    const [first, last, usedAt] = [this.#first, this.#last, this.#usedAt]
    this.#first = new Int32Array(size).fill(NONE)
    this.#last = new Int32Array(size).fill(NONE)
    this.#usedAt = new Float64Array(size).fill(-NEVER)
    this.#first.set(first)
    this.#last.set(last)
    this.#usedAt.set(usedAt)
  }
}
