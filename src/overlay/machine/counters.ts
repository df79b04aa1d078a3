/** Which counters of a sealed session have come: a window of 64 below the highest (docs/wire/overlay.md). */
const WINDOW = 64

export class CounterWindow {
  #highest = -1
  /** Bit n of `low`: highest - n has come; of `high`: highest - 32 - n. */
  #low = 0
  #high = 0

  /** Whether it is the first of this number. Counts it as come: call it for what has been opened. */
  take(counter: number): boolean {
    if (counter > this.#highest) {
      this.#shift(this.#highest < 0 ? WINDOW : counter - this.#highest)
      this.#low |= 1
      this.#highest = counter
      return true
    }
    const behind = this.#highest - counter
    if (behind >= WINDOW) return false
    const bit = 1 << (behind % 32)
    const isOld = behind >= 32
    if (((isOld ? this.#high : this.#low) & bit) !== 0) return false
    if (isOld) this.#high |= bit
    else this.#low |= bit
    return true
  }

  /** By at least one. */
  #shift(step: number): void {
    if (step >= WINDOW) this.#high = 0
    else if (step >= 32) this.#high = this.#low << (step - 32)
    else this.#high = (this.#high << step) | (this.#low >>> (32 - step))
    this.#low = step >= 32 ? 0 : this.#low << step
  }
}
