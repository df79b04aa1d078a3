/**
 * Deadlines of many similar items, by small integer: a binary heap that knows each item's position, so that setting,
 * moving and taking the earliest cost O(log n). For machines with thousands of peers, where TimerTable's scan would be
 * slow.
 */
export class DeadlineHeap {
  #ids: number[] = []
  #at: number[] = []
  /** Place in the heap by id, -1 when absent. */
  #place: number[] = []

  get size(): number {
    return this.#ids.length
  }

  /** The deadline of `id`, Infinity when it has none. */
  get(id: number): number {
    const place = this.#place[id] ?? -1
    return place < 0 ? Number.POSITIVE_INFINITY : this.#at[place]!
  }

  /** Sets or moves the deadline; Infinity removes it. */
  set(id: number, at: number): void {
    const place = this.#place[id] ?? -1
    if (at === Number.POSITIVE_INFINITY) {
      if (place >= 0) this.#removeAt(place)
      return
    }
    if (place < 0) {
      while (this.#place.length <= id) this.#place.push(-1)
      this.#ids.push(id)
      this.#at.push(at)
      this.#place[id] = this.#ids.length - 1
      this.#up(this.#ids.length - 1)
      return
    }
    const before = this.#at[place]!
    this.#at[place] = at
    if (at < before) this.#up(place)
    else this.#down(place)
  }

  /** The earliest deadline, undefined when there is none. */
  next(): number | undefined {
    return this.#at[0]
  }

  /** Removes and returns an id whose deadline is at or before `now`, the earliest first; -1 when none is due. */
  expire(now: number): number {
    if (this.#ids.length === 0 || this.#at[0]! > now) return -1
    const id = this.#ids[0]!
    this.#removeAt(0)
    return id
  }

  #removeAt(place: number): void {
    const id = this.#ids[place]!
    const lastId = this.#ids.pop()!
    const lastAt = this.#at.pop()!
    this.#place[id] = -1
    if (place === this.#ids.length) return
    this.#ids[place] = lastId
    this.#at[place] = lastAt
    this.#place[lastId] = place
    this.#up(place)
    this.#down(this.#place[lastId]!)
  }

  #up(start: number): void {
    let place = start
    while (place > 0) {
      const parent = (place - 1) >> 1
      if (this.#at[parent]! <= this.#at[place]!) return
      this.#swap(place, parent)
      place = parent
    }
  }

  #down(start: number): void {
    let place = start
    for (;;) {
      const left = 2 * place + 1
      if (left >= this.#ids.length) return
      const right = left + 1
      const child = right < this.#ids.length && this.#at[right]! < this.#at[left]! ? right : left
      if (this.#at[place]! <= this.#at[child]!) return
      this.#swap(place, child)
      place = child
    }
  }

  #swap(a: number, b: number): void {
    const id = this.#ids[a]!
    const at = this.#at[a]!
    this.#ids[a] = this.#ids[b]!
    this.#at[a] = this.#at[b]!
    this.#ids[b] = id
    this.#at[b] = at
    this.#place[this.#ids[a]!] = a
    this.#place[id] = b
  }
}
