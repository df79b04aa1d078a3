/**
 * A rate for all sources together that a few of them cannot take: each has a rate of its own, all of one site (source.ts) have a
 * quarter of the whole, and where all is taken a reserve serves each source once in a while.
 */
import { Buckets } from './buckets.ts'
import { siteOf } from './source.ts'
import { TokenBucket } from './token-bucket.ts'

export interface FairRateInit {
  /** Events a second of one source, and at once. */
  readonly rateOfSource: number
  readonly burstOfSource: number
  /** The same of all sources together. */
  readonly rate: number
  readonly burst: number
  /** The same beyond `rate`. */
  readonly reserve: number
  readonly reserveBurst: number
  /** A source takes of the reserve once in so long (ms). */
  readonly reserveMs: number
}

const SITE_SHARE = 4

export class FairRate {
  readonly #sources: Buckets
  readonly #sites: Buckets
  readonly #all: TokenBucket
  readonly #reserve: TokenBucket
  readonly #reserveOf: Buckets

  constructor(init: FairRateInit) {
    this.#sources = new Buckets(init.rateOfSource, init.burstOfSource)
    this.#sites = new Buckets(init.rate / SITE_SHARE, init.burst / SITE_SHARE)
    this.#all = new TokenBucket(init.rate, init.burst)
    this.#reserve = new TokenBucket(init.reserve, init.reserveBurst)
    this.#reserveOf = new Buckets(1000 / init.reserveMs, 1)
  }

  /** `source`: undefined where it is not known, which then shares only what all have. */
  take(source: string | undefined, now: number): boolean {
    if (source === undefined) return this.#all.take(now)
    // In a flood nothing else is looked at.
    if (!this.#all.has(now) && !this.#reserve.has(now)) return false
    if (!this.#sources.take(source, now) || !this.#sites.take(siteOf(source), now)) return false
    return this.#all.take(now) || (this.#reserveOf.take(source, now) && this.#reserve.take(now))
  }
}
