/**
 * Limits handshake computation under load (WireGuard paper §5.3): a token bucket for each source, in bounded memory, and
 * the measure of load itself.
 */
import type { Endpoint } from '../seam.ts'
import { LOAD_HOLD, SOURCE_BURST, SOURCE_RATE, SOURCES_MAX } from './constants.ts'

interface Bucket {
  tokens: number
  at: number
}

export class SourceLimiter {
  readonly #buckets = new Map<string, Bucket>()

  /** Takes a token of this source; false when it has none. IPv6 sources count by their /64. */
  allow(from: Endpoint, now: number): boolean {
    const key = sourceKey(from)
    let bucket = this.#buckets.get(key)
    if (bucket === undefined) {
      if (this.#buckets.size >= SOURCES_MAX && !this.#evict(now)) return false
      bucket = { tokens: SOURCE_BURST, at: now }
    } else {
      const refill = ((now - bucket.at) * SOURCE_RATE) / 1000
      bucket.tokens = Math.min(SOURCE_BURST, bucket.tokens + Math.max(0, refill))
      bucket.at = now
      this.#buckets.delete(key) // to the end: the map's order is by last use
    }
    this.#buckets.set(key, bucket)
    if (bucket.tokens < 1) return false
    bucket.tokens--
    return true
  }

  get size(): number {
    return this.#buckets.size
  }

  /** Evicts the least recently used source if its bucket has refilled and so carries no information. */
  #evict(now: number): boolean {
    for (const [key, bucket] of this.#buckets) {
      if ((now - bucket.at) * SOURCE_RATE < SOURCE_BURST * 1000) return false
      this.#buckets.delete(key)
      return true
    }
    return false
  }
}

/** Under load: more handshake messages in the current second than a threshold, and for a while after. */
export class LoadMeter {
  readonly #threshold: number
  #windowStart = Number.NEGATIVE_INFINITY
  #count = 0
  #until = Number.NEGATIVE_INFINITY

  constructor(threshold: number) {
    this.#threshold = threshold
  }

  /** Counts a handshake message; true when this end is under load. */
  count(now: number): boolean {
    if (now - this.#windowStart >= 1000) {
      this.#windowStart = now
      this.#count = 0
    }
    if (++this.#count > this.#threshold) this.#until = now + LOAD_HOLD
    return now < this.#until
  }
}

function sourceKey(from: Endpoint): string {
  const length = from.address.length === 4 ? 4 : 8
  let key = ''
  for (let i = 0; i < length; i++) key += String.fromCharCode(from.address[i]!)
  return key
}
