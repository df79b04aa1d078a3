/**
 * Turns at work of which little can be done at a time, such as the check of a password: who has tried least goes first, and
 * where too many wait, who has tried most gives way.
 */
export class Turns {
  readonly #atOnce: number
  readonly #most: number
  #running = 0
  /** Who goes first is first. */
  readonly #waiting: { readonly rank: number; readonly answer: (isTurn: boolean) => void }[] = []

  /** So many run at once, and so many wait. */
  constructor(atOnce: number, most: number) {
    this.#atOnce = atOnce
    this.#most = most
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /** What `work` returns; undefined: it gave way to others. The smaller `rank` goes first, then who came first. */
  async run<T>(rank: number, work: () => Promise<T>): Promise<T | undefined> {
    if (!(await this.#turn(rank))) return undefined
    try {
      return await work()
    } finally {
      this.#next()
    }
  }

  #turn(rank: number): Promise<boolean> {
    if (this.#running < this.#atOnce) {
      this.#running++
      return Promise.resolve(true)
    }
    return new Promise((answer) => {
      const behind = this.#waiting.findIndex((other) => other.rank > rank)
      this.#waiting.splice(behind < 0 ? this.#waiting.length : behind, 0, { rank, answer })
      if (this.#waiting.length > this.#most) this.#waiting.pop()!.answer(false)
    })
  }

  #next(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#running--
    else next.answer(true)
  }
}
