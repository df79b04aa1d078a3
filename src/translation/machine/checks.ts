/**
 * A bound on the signature checks that a message can cost: each is a tenth of a millisecond, and anybody may name a host. Checks
 * are counted, not messages, whether they succeed or not. A known host's own addresses have a share of their own, so a flood from
 * elsewhere does not keep its messages out; what comes from new addresses shares what is left.
 */
import { Buckets } from '../../core/buckets.ts'
import { sourceOf } from '../../core/source.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import type { Ip } from '../tables.ts'
import type { Host } from './host.ts'

/** Checks a second, at once as many: of one source, of all sources, of one host at addresses where it has answered. */
const PER_SOURCE = 20
const OF_ALL = 400
export const PER_HOST = 100
/** Sources that are remembered; the oldest make room. */
const MOST_SOURCES = 256

export class Checks {
  readonly #sources = new Buckets(PER_SOURCE, PER_SOURCE, MOST_SOURCES)
  readonly #all = new TokenBucket(OF_ALL)

  /** Whether a message from `source` that names this host (if any known one) is worth a check. */
  admits(source: Ip, host: Host | undefined, now: number): boolean {
    if (host?.answered.has(source)) return host.checks.has(now)
    return this.#all.has(now) && this.#sources.has(sourceOf(source), now)
  }

  /** So many checks were made for a message that `admits` has let in. */
  spent(source: Ip, host: Host | undefined, count: number, now: number): void {
    if (count === 0) return
    if (host?.answered.has(source)) {
      host.checks.spend(count, now)
      return
    }
    this.#sources.of(sourceOf(source)).spend(count, now)
    this.#all.spend(count, now)
  }
}
