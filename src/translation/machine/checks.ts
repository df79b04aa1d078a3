/**
 * A bound on the signature checks that a message can cost: each is a tenth of a millisecond, and anybody may name a host. Checks
 * are counted, not messages, whether they succeed or not. A known host's own addresses have a share of their own, so a flood from
 * elsewhere does not keep its messages out; what comes from new addresses shares what is left.
 */
import { TokenBucket } from '../../core/token-bucket.ts'
import { familyOf, type Ip } from '../tables.ts'
import type { Host } from './host.ts'

/** Checks a second, at once as many: of one source, of all sources, of one host at addresses where it has answered. */
const PER_SOURCE = 20
const OF_ALL = 400
export const PER_HOST = 100
/** Sources that are remembered; the oldest make room. */
const MOST_SOURCES = 256

export class Checks {
  readonly #sources = new Map<string, TokenBucket>()
  readonly #all = new TokenBucket(OF_ALL)

  /** Whether a message from `source` that names this host (if any known one) is worth a check. */
  admits(source: Ip, host: Host | undefined, now: number): boolean {
    if (host?.answered.has(source)) return host.checks.has(now)
    return this.#all.has(now) && this.#sources.get(networkOf(source))?.has(now) !== false
  }

  /** So many checks were made for a message that `admits` has let in. */
  spent(source: Ip, host: Host | undefined, count: number, now: number): void {
    if (count === 0) return
    if (host?.answered.has(source)) {
      host.checks.spend(count, now)
      return
    }
    const key = networkOf(source)
    let bucket = this.#sources.get(key)
    if (bucket === undefined) {
      bucket = new TokenBucket(PER_SOURCE)
      this.#sources.set(key, bucket)
      for (const oldest of this.#sources.keys())
        if (this.#sources.size > MOST_SOURCES) this.#sources.delete(oldest)
        else break
    }
    bucket.spend(count, now)
    this.#all.spend(count, now)
  }
}

/** Who has one address of an IPv6 network of 64 bits has all of them. */
function networkOf(ip: Ip): string {
  if (familyOf(ip) === 4) return ip
  const [head = '', tail] = ip.split('::')
  const groups = head === '' ? [] : head.split(':')
  const rest = tail === undefined || tail === '' ? 0 : tail.split(':').length
  const zeros = tail === undefined ? 0 : 8 - groups.length - rest
  return [...groups, ...Array<string>(zeros).fill('0')].slice(0, 4).join(':')
}
