/** A rate limit: so many events per second, with a burst after a pause. */
export class TokenBucket {
  readonly #rate: number
  readonly #most: number
  #tokens: number
  #at = Number.NEGATIVE_INFINITY

  /** `rate`: events per second; `most`: burst. */
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

  /** Takes `count` tokens even if there are fewer; the debt has to be refilled before the next event. */
  spend(count: number, now: number): void {
    this.has(now)
    this.#tokens -= count
  }
}
