/** The newest `capacity` entries; adding beyond that drops the oldest. */
export class Ring<T> {
  readonly #entries: (T | undefined)[]
  #next = 0
  #added = 0

  constructor(capacity: number) {
    this.#entries = new Array<T | undefined>(capacity)
  }

  add(entry: T): void {
    this.#entries[this.#next] = entry
    this.#next = (this.#next + 1) % this.#entries.length
    this.#added++
  }

  /** How many were ever added. */
  get added(): number {
    return this.#added
  }

  /** Oldest first. */
  *[Symbol.iterator](): Generator<T> {
    const capacity = this.#entries.length
    const count = Math.min(this.#added, capacity)
    for (let i = 0; i < count; i++) yield this.#entries[(this.#next - count + i + capacity) % capacity] as T
  }
}
