/** A limit on how often something may happen: so many times a second, and as many at once after a pause. */
export class TokenBucket {
  readonly #rate: number
  readonly #most: number
  #tokens: number
  #at = Number.NEGATIVE_INFINITY

  /** `rate` per second, `most` at once. */
  constructor(rate: number, most = rate) {
    this.#rate = rate
    this.#most = most
    this.#tokens = most
  }

  /** Whether it may happen now (milliseconds of any clock that does not go back). */
  has(now: number): boolean {
    if (this.#at < now) {
      this.#tokens = Math.min(this.#most, this.#tokens + ((now - this.#at) * this.#rate) / 1000)
      this.#at = now
    }
    return this.#tokens >= 1
  }

  /** As `has`, and counts it as happened if it may. */
  take(now: number): boolean {
    const may = this.has(now)
    if (may) this.#tokens--
    return may
  }

  /** Counts it as happened so many times, be it more than there was left: then it may not again until that is made up for. */
  spend(count: number, now: number): void {
    this.has(now)
    this.#tokens -= count
  }
}
