/**
 * MTU discovery of one path by padded probes (after RFC 8899, DPLPMTUD). It starts with 1,280 bytes, which nearly every path
 * carries, and tries the interface's MTU first, which usually passes. If that fails, it sends a ladder of usual
 * sizes at once and takes the largest that is answered; where not even 1,280 bytes are, a ladder of smaller ones. It then
 * confirms the size while there is traffic, falls back to the start after three failed confirmations (a black hole for large
 * packets), and searches again every ten minutes.
 */
const MTU_START = 1280
/** IPv4 asks of every host to take this (RFC 791). */
const MTU_LEAST = 576
/** Ethernet, PPPoE, tunnels over IPv4 and IPv6, mobile networks, WireGuard's default, jumbo steps. */
const LADDER = [
  9000, 4096, 1500, 1492, 1480, 1472, 1460, 1454, 1440, 1432, 1420, 1400, 1380, 1358, 1340, 1320, 1300,
]
/** Tunnels in tunnels; IPv4 links of old modems. IPv6 has no such paths. */
const LOW_LADDER = [1240, 1200, 1160, 1120, 1080, 1000, 900, 800, 700, MTU_LEAST]
const TRIES = 2
/** RFC 8899 §5.1.1 PMTU_RAISE_TIMER. */
const RAISE_INTERVAL = 600_000
/** For less than MTU_START, which may have been lost by chance. */
const LOW_RAISE_INTERVAL = 60_000
const CONFIRM_INTERVAL = 5_000
const CONFIRM_TRIES = 3
const CONFIRM_RETRY = 250

type Phase =
  | { readonly name: 'top'; tries: number }
  | { readonly name: 'ladder'; tries: number }
  | { readonly name: 'low'; tries: number; found: number }
  | { readonly name: 'settled'; raiseAt: number; unconfirmed: number }

export class MtuSearch {
  #current: number
  #limit: number
  /** At least `#start` has been answered. */
  #proven = false
  #phase: Phase = { name: 'top', tries: 0 }
  #nextAt: number
  /** The first search since the path or its limit changed. */
  #first = true

  /** @param limit the interface's MTU, bytes */
  constructor(limit: number, now: number) {
    this.#limit = Math.max(limit, MTU_LEAST)
    this.#current = this.#start
    this.#nextAt = now
  }

  /** What is assumed to pass until it shows otherwise. */
  get #start(): number {
    return Math.min(MTU_START, this.#limit)
  }

  /** Largest outer packet known, or assumed, to pass. */
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

  /** The limit has changed, or the path is back: searches again. */
  restart(limit: number, now: number): void {
    this.#limit = Math.max(limit, MTU_LEAST)
    this.#current = Math.max(this.#start, Math.min(this.#current, this.#limit))
    this.#phase = { name: 'top', tries: 0 }
    this.#nextAt = now
    this.#first = true
  }

  /** It is another way now: what passed on the one before is probed at once, and given up like any size that passes no more. */
  moved(limit: number, now: number): void {
    this.restart(limit, now)
    if (this.#current > this.#start)
      this.#phase = { name: 'settled', raiseAt: now + CONFIRM_INTERVAL, unconfirmed: 1 }
  }

  /** The kernel refused a datagram as too big: what was found no longer holds. */
  refused(now: number): void {
    this.#fall()
    this.#nextAt = now
    this.#first = false
  }

  /** Loss jumped: find out soon whether large packets still pass. */
  doubt(now: number): void {
    if (this.#phase.name === 'settled') this.#nextAt = Math.min(this.#nextAt, now)
  }

  /** A probe of `size` was answered. True when `current` grew. */
  acknowledged(size: number, now: number): boolean {
    if (size > this.#limit) return false
    if (size >= this.#start) this.#proven = true
    else if (this.#phase.name === 'low') {
      this.#phase.found = Math.max(this.#phase.found, size)
      return false
    }
    const grew = size > this.#current
    if (grew) this.#current = size
    if (this.#phase.name === 'settled') {
      if (size < this.#current) return false
      this.#phase.unconfirmed = 0
      this.#nextAt = now + CONFIRM_INTERVAL
    } else if (this.#proven && (this.#current >= this.#limit || this.#phase.name === 'low')) this.#settle(now)
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
        if (this.#proven && this.#limit <= this.#current) {
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
        if (phase.tries > 0 && !this.#proven) sizes.push(this.#start)
        if (sizes.length > 0 && phase.tries < TRIES) {
          phase.tries++
          this.#nextAt = now + timeout
          return sizes
        }
        if (this.#proven) {
          this.#settle(now)
          return []
        }
        this.#phase = { name: 'low', tries: 0, found: 0 }
        return this.handleTimeout(now, timeout, busy)
      }
      case 'low':
        // Of a path that answers nothing, nothing is known.
        if (phase.found > 0) this.#current = phase.found
        if (phase.found > 0 || phase.tries >= TRIES) {
          this.#settle(now)
          return []
        }
        phase.tries++
        this.#nextAt = now + timeout
        return [this.#start, ...LOW_LADDER.filter((size) => size < this.#start)]
      case 'settled':
        if (now >= phase.raiseAt) {
          this.#phase = { name: 'top', tries: 0 }
          return this.handleTimeout(now, timeout, busy)
        }
        if (!busy && phase.unconfirmed === 0) {
          this.#nextAt = Math.min(now + CONFIRM_INTERVAL, phase.raiseAt)
          return []
        }
        if (phase.unconfirmed >= CONFIRM_TRIES) {
          this.#fall()
          return this.handleTimeout(now, timeout, busy)
        }
        phase.unconfirmed++
        this.#nextAt = now + (phase.unconfirmed > 1 ? Math.max(CONFIRM_RETRY, timeout) : timeout)
        return [this.#current]
    }
  }

  /** What was found holds no longer. */
  #fall(): void {
    this.#current = Math.min(this.#current, this.#start)
    this.#proven = false
    this.#phase = { name: 'ladder', tries: 0 }
  }

  #settle(now: number): void {
    const raise = this.#current < this.#start ? LOW_RAISE_INTERVAL : RAISE_INTERVAL
    this.#first = false
    this.#phase = { name: 'settled', raiseAt: now + raise, unconfirmed: 0 }
    this.#nextAt = now + CONFIRM_INTERVAL
  }
}
