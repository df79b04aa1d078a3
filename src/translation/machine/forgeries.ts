/**
 * A bound on the work that forged messages make: a signature check is a tenth of a millisecond, and anybody may name a host.
 * Who has sent enough that was not signed by whom it named is not listened to for a while.
 */
import { TokenBucket } from '../../core/token-bucket.ts'
import type { Ip } from '../tables.ts'

/** Failed checks a second, at once as many: of one source address, and of all. */
const PER_SOURCE = 20
const OF_ALL = 400
/** Source addresses that are remembered; the oldest make room. */
const MOST_SOURCES = 256

export class Forgeries {
  readonly #sources = new Map<Ip, TokenBucket>()
  readonly #all = new TokenBucket(OF_ALL)

  /** Whether a message from this address is worth a check. */
  admits(source: Ip, now: number): boolean {
    return this.#all.has(now) && this.#sources.get(source)?.has(now) !== false
  }

  failed(source: Ip, now: number): void {
    let bucket = this.#sources.get(source)
    if (bucket === undefined) {
      bucket = new TokenBucket(PER_SOURCE)
      this.#sources.set(source, bucket)
      for (const oldest of this.#sources.keys())
        if (this.#sources.size > MOST_SOURCES) this.#sources.delete(oldest)
        else break
    }
    bucket.take(now)
    this.#all.take(now)
  }
}
