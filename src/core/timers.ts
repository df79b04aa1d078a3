/**
 * The deadlines of one protocol machine, by name. A machine asks `next()` when to be woken, and `expire(now)` which
 * of its timers have run out. A few dozen entries at most: a linear scan is cheaper than a heap.
 */
export class TimerTable<Name extends string | number> {
  readonly #deadlines = new Map<Name, number>()

  /** Sets or replaces the deadline, in the machine's milliseconds. */
  set(name: Name, at: number): void {
    this.#deadlines.set(name, at)
  }

  /** Sets the deadline only if none is set or the new one is earlier. */
  setEarlier(name: Name, at: number): void {
    const current = this.#deadlines.get(name)
    if (current === undefined || at < current) this.#deadlines.set(name, at)
  }

  clear(name: Name): void {
    this.#deadlines.delete(name)
  }

  clearAll(): void {
    this.#deadlines.clear()
  }

  has(name: Name): boolean {
    return this.#deadlines.has(name)
  }

  get(name: Name): number | undefined {
    return this.#deadlines.get(name)
  }

  /** The earliest deadline, or undefined when no timer is set. */
  next(): number | undefined {
    let earliest: number | undefined
    for (const at of this.#deadlines.values()) {
      if (earliest === undefined || at < earliest) earliest = at
    }
    return earliest
  }

  /** Removes and returns one timer that is due at `now`, earliest first; undefined when none is. */
  expire(now: number): Name | undefined {
    let due: Name | undefined
    let dueAt = Number.POSITIVE_INFINITY
    for (const [name, at] of this.#deadlines) {
      if (at <= now && at < dueAt) {
        due = name
        dueAt = at
      }
    }
    if (due !== undefined) this.#deadlines.delete(due)
    return due
  }
}
