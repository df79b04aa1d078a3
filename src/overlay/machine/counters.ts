/** Which counters of a sealed session have come: a window of 64 below the highest (docs/wire/overlay.md). */
const WINDOW = 64

export class CounterWindow {
  #highest = -1
  /** Bit n: highest - n has come. */
  #seen = 0n

  /** Whether it is the first of this number. Counts it as come: call it for what has been opened. */
  take(counter: number): boolean {
    if (counter > this.#highest) {
      const step = this.#highest < 0 ? WINDOW : counter - this.#highest
      this.#seen = step >= WINDOW ? 1n : ((this.#seen << BigInt(step)) | 1n) & ((1n << 64n) - 1n)
      this.#highest = counter
      return true
    }
    const behind = this.#highest - counter
    if (behind >= WINDOW) return false
    const bit = 1n << BigInt(behind)
    if ((this.#seen & bit) !== 0n) return false
    this.#seen |= bit
    return true
  }
}
