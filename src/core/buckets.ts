/** Token buckets by key: a source, an account, a pair of names. Bounded: the one that was used longest ago goes. */
import { TokenBucket } from './token-bucket.ts'

const MAX_BUCKETS = 20_000

export class Buckets {
  readonly #rate: number
  readonly #burst: number
  readonly #max: number
  /** The one used last at the end. */
  readonly #buckets = new Map<string, TokenBucket>()

  /** Events a second and at once, of each key; keys that are remembered at most. */
  constructor(rate: number, burst: number, max = MAX_BUCKETS) {
    this.#rate = rate
    this.#burst = burst
    this.#max = max
  }

  /** The bucket of this key, which counts as used. */
  of(key: string): TokenBucket {
    const bucket = this.#buckets.get(key) ?? new TokenBucket(this.#rate, this.#burst)
    this.#buckets.delete(key)
    this.#buckets.set(key, bucket)
    if (this.#buckets.size > this.#max) this.#buckets.delete(this.#buckets.keys().next().value!)
    return bucket
  }

  take(key: string, now: number): boolean {
    return this.of(key).take(now)
  }

  /** Whether `take` would succeed; remembers nothing. */
  has(key: string, now: number): boolean {
    return this.#buckets.get(key)?.has(now) ?? this.#burst >= 1
  }

  get size(): number {
    return this.#buckets.size
  }
}
