/**
 * MTU discovery of one path by padded probes (after RFC 8899, DPLPMTUD). It starts with 1,280 bytes, which every path is
 * assumed to carry, and tries the interface's MTU first, which usually passes. If that fails, it sends a ladder of usual
 * sizes at once and takes the largest that is answered. It then confirms the size while there is traffic, falls back to
 * the floor after three failed confirmations (a black hole for large packets), and searches again every ten minutes.
 */
export const MTU_FLOOR = 1280
/** Ethernet, PPPoE, tunnels over IPv4 and IPv6, mobile networks, WireGuard's default, jumbo steps. */
const LADDER = [
  9000, 4096, 1500, 1492, 1480, 1472, 1460, 1454, 1440, 1432, 1420, 1400, 1380, 1358, 1340, 1320, 1300,
]
const TRIES = 2
/** RFC 8899 §5.1.1 PMTU_RAISE_TIMER. */
const RAISE_INTERVAL = 600_000
const CONFIRM_INTERVAL = 5_000
const CONFIRM_TRIES = 3
const CONFIRM_RETRY = 250

type Phase =
  | { readonly name: 'top'; tries: number }
  | { readonly name: 'ladder'; tries: number }
  | { readonly name: 'settled'; raiseAt: number; unconfirmed: number }

export class MtuSearch {
  #current = MTU_FLOOR
  #limit: number
  #phase: Phase = { name: 'top', tries: 0 }
  #nextAt: number
  /** The first search since the path or its limit changed. */
  #first = true

  /** @param limit the interface's MTU, bytes */
  constructor(limit: number, now: number) {
    this.#limit = Math.max(limit, MTU_FLOOR)
    this.#nextAt = now
  }

  /** Largest outer packet known to pass. */
  get current(): number {
    return this.#current
  }

  /** Larger packets may pass: it is not known yet. */
  get searching(): boolean {
    return this.#first && this.#current < this.#limit
  }

  get nextAt(): number {
    return this.#nextAt
  }

  /** The limit or the route changed: searches again. */
  restart(limit: number, now: number): void {
    this.#limit = Math.max(limit, MTU_FLOOR)
    if (this.#current > this.#limit) this.#current = this.#limit
    this.#phase = { name: 'top', tries: 0 }
    this.#nextAt = now
    this.#first = true
  }

  /** The kernel refused a datagram as too big: what was found no longer holds. */
  refused(now: number): void {
    this.#current = MTU_FLOOR
    this.#phase = { name: 'ladder', tries: 0 }
    this.#nextAt = now
    this.#first = false
  }

  /** Loss jumped: find out soon whether large packets still pass. */
  doubt(now: number): void {
    if (this.#phase.name === 'settled' && this.#current > MTU_FLOOR)
      this.#nextAt = Math.min(this.#nextAt, now)
  }

  /** A probe of `size` was answered. True when `current` grew. */
  acknowledged(size: number, now: number): boolean {
    if (size > this.#limit) return false
    const grew = size > this.#current
    if (grew) this.#current = size
    if (this.#phase.name === 'settled') {
      if (size < this.#current) return false
      this.#phase.unconfirmed = 0
      this.#nextAt = now + CONFIRM_INTERVAL
    } else if (this.#current >= this.#limit) this.#settle(now)
    return grew
  }

  /**
   * Call at `nextAt`. Returns the sizes to probe now; `timeout`: how long an answer may take. `busy`: data flows on the
   * path. Read `current` afterwards: it may have fallen.
   */
  handleTimeout(now: number, timeout: number, busy: boolean): readonly number[] {
    const phase = this.#phase
    switch (phase.name) {
      case 'top':
        if (this.#limit <= this.#current) {
          this.#settle(now)
          return []
        }
        if (phase.tries < TRIES) {
          phase.tries++
          this.#nextAt = now + timeout
          return [this.#limit]
        }
        this.#phase = { name: 'ladder', tries: 0 }
        return this.handleTimeout(now, timeout, busy)
      case 'ladder': {
        const sizes = LADDER.filter((size) => size > this.#current && size < this.#limit)
        if (sizes.length === 0 || phase.tries >= TRIES) {
          this.#settle(now)
          return []
        }
        phase.tries++
        this.#nextAt = now + timeout
        return sizes
      }
      case 'settled':
        if (now >= phase.raiseAt) {
          this.#phase = { name: 'top', tries: 0 }
          return this.handleTimeout(now, timeout, busy)
        }
        if (this.#current === MTU_FLOOR || (!busy && phase.unconfirmed === 0)) {
          this.#nextAt = Math.min(now + CONFIRM_INTERVAL, phase.raiseAt)
          return []
        }
        if (phase.unconfirmed >= CONFIRM_TRIES) {
          this.#current = MTU_FLOOR
          this.#phase = { name: 'ladder', tries: 0 }
          return this.handleTimeout(now, timeout, busy)
        }
        phase.unconfirmed++
        this.#nextAt = now + (phase.unconfirmed > 1 ? Math.max(CONFIRM_RETRY, timeout) : timeout)
        return [this.#current]
    }
  }

  #settle(now: number): void {
    this.#first = false
    this.#phase = { name: 'settled', raiseAt: now + RAISE_INTERVAL, unconfirmed: 0 }
    this.#nextAt = now + CONFIRM_INTERVAL
  }
}
