/** How much is under way of each of those who cause it: nobody may have more than a share. */
export class Shares {
  readonly #max: number
  readonly #counts = new Map<string, number>()

  /** `max`: under way of one of them. */
  constructor(max: number) {
    this.#max = max
  }

  /** False: that one has its share. */
  take(who: string): boolean {
    const count = this.#counts.get(who) ?? 0
    if (count >= this.#max) return false
    this.#counts.set(who, count + 1)
    return true
  }

  giveBack(who: string): void {
    const left = (this.#counts.get(who) ?? 1) - 1
    if (left === 0) this.#counts.delete(who)
    else this.#counts.set(who, left)
  }
}
