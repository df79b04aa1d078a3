/**
 * What a link does to the packets of one direction: pure, and the same for the same seed and the same packets. It
 * decides when a packet arrives at the far end, or that it never does; the bytes are the engine's affair.
 *
 * The line is serial: a packet starts when the one before it has left, takes length ÷ rate, then the delay.
 */
import { seeded } from '../seeded.ts'
import type { LinkConditions } from '../types.ts'
import { CLEAR } from './conditions.ts'

export const DROP = -1

export class Shaper {
  #conditions: LinkConditions = CLEAR
  readonly #draw: () => number
  /** When the line is free again. */
  #lineFree = 0
  /** Release of the packet before: order is kept. */
  #last = 0
  /** How many copies of the packet last admitted arrive: 1 or 2. */
  copies = 1
  /** Whether the packet last admitted overtakes those that wait. */
  overtakes = false
  packets = 0
  bytes = 0
  /** Dropped by chance, by a full queue, and while the link was cut. */
  lost = 0
  overflowed = 0
  cut = 0

  /** `seed` is any integer. */
  constructor(seed: number) {
    this.#draw = seeded(seed)
  }

  get conditions(): LinkConditions {
    return this.#conditions
  }

  set(conditions: LinkConditions): void {
    this.#conditions = conditions
  }

  /**
   * Admits a packet of `length` bytes at `now` (milliseconds). Returns when it arrives at the far end, `now` itself
   * for at once, or DROP.
   */
  admit(length: number, now: number): number {
    const c = this.#conditions
    if (c.state !== 'up') {
      this.cut++
      return DROP
    }
    if (c.loss > 0 && this.#draw() < c.loss) {
      this.lost++
      return DROP
    }
    let leaves = now
    if (c.rateMbps > 0) {
      const start = Math.max(this.#lineFree, now)
      if (start - now > c.queueMs) {
        this.overflowed++
        return DROP
      }
      leaves = start + (length * 8) / (c.rateMbps * 1000)
      this.#lineFree = leaves
    }
    this.packets++
    this.bytes += length
    this.copies = c.duplicate > 0 && this.#draw() < c.duplicate ? 2 : 1
    this.overtakes = c.reorder > 0 && this.#draw() < c.reorder
    if (this.overtakes) return leaves
    let arrives = leaves + c.delayMs
    if (c.jitterMs > 0) arrives += (this.#draw() * 2 - 1) * c.jitterMs
    if (arrives < this.#last) arrives = this.#last
    if (arrives < now) arrives = now
    this.#last = arrives
    return arrives
  }
}
