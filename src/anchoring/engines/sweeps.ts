/** When to look for rows of the PAFT that are idle: often while data flows, seldom otherwise. */

/** Without data for this long nothing flows. A report to the main thread has said by then how much did. */
const CALM_AFTER_MS = 2000
/** A turn of its own wakes the machine: without data this many are one. */
const AT_ONCE = 10

export class Sweeps {
  readonly #every: number
  readonly #slots: number
  /** CLOCK_MONOTONIC milliseconds of the next. */
  at = 0
  #lastData = Number.NEGATIVE_INFINITY

  /** Looks at so many slots each so many milliseconds. */
  constructor(slots: number, every: number) {
    this.#slots = slots
    this.#every = every
  }

  noteData(now: number): void {
    this.#lastData = now
    if (this.at > now + this.#every) this.at = now + this.#every
  }

  /** How many slots to look at now. While something else changes by itself (`settled` is false) it comes as often as with data. */
  due(now: number, settled = true): number {
    if (now < this.at) return 0
    const times = settled && now - this.#lastData >= CALM_AFTER_MS ? AT_ONCE : 1
    this.at = now + times * this.#every
    return times * this.#slots
  }
}
