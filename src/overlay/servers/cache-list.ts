/** The cache servers of a zone that nodes are told of: each has files of its own on its disk. */
import type { CertifiedServer } from '../wire/message.ts'
import { LONGEST_MS } from './cache.ts'

/** One that has not been heard of for so long is away: nodes leave nothing there, unless all are (ms). */
const AWAY_MS = 20_000
/** As many as coordinators of a zone may be, and some apart. */
export const MAX_CACHES = 40

export class CacheList {
  readonly #own: CertifiedServer | undefined
  readonly #now: () => number
  /** Others by host and port, those heard last at the end. */
  readonly #others = new Map<string, { readonly at: CertifiedServer; readonly heardAt: number }>()

  /** `own`: in this process. */
  constructor(own: CertifiedServer | undefined, now: () => number) {
    this.#own = own
    this.#now = now
  }

  /** It is there. */
  heard(at: CertifiedServer): void {
    const key = keyOf(at)
    if (this.#own !== undefined && key === keyOf(this.#own)) return
    this.#others.delete(key)
    this.#others.set(key, { at, heardAt: this.#now() })
    if (this.#others.size >= MAX_CACHES) this.#others.delete(this.#others.keys().next().value!)
  }

  /** The one in this process first, those that are away last: what they keep has not expired. */
  get all(): readonly CertifiedServer[] {
    const now = this.#now()
    const known = [...this.#others].filter(([key, { heardAt }]) => {
      const isKnown = heardAt + LONGEST_MS > now
      if (!isKnown) this.#others.delete(key)
      return isKnown
    })
    const isAway = (heardAt: number) => heardAt + AWAY_MS <= now
    // The same order whenever a node asks: an upload that was cut off goes on where it was begun.
    known.sort(
      ([a, { heardAt: x }], [b, { heardAt: y }]) => Number(isAway(x)) - Number(isAway(y)) || (a < b ? -1 : 1),
    )
    const others = known.map(([, { at }]) => at)
    return this.#own === undefined ? others : [this.#own, ...others]
  }
}

function keyOf({ host, port }: CertifiedServer): string {
  return `${host} ${port}`
}
