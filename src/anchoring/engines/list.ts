/** The flows of an engine's PAFT, as they are listed. */
import type { FlowList, FlowReport, ListFlows } from '../protocol.ts'
import type { Paft } from '../tables/paft.ts'

/** How long bytes are counted after the last watched list. */
const WATCHED_MS = 10_000

export class FlowLister {
  readonly #paft: Paft
  readonly #wall: () => number
  #watchedUntil = 0

  /** `wall`: milliseconds since the Unix epoch. */
  constructor(paft: Paft, wall: () => number) {
    this.#paft = paft
    this.#wall = wall
  }

  /** At most `limit` flows, each with the fields that `more` adds for its row; `total` counts all. */
  list(
    { limit, watched }: Pick<ListFlows, 'limit' | 'watched'>,
    now: number,
    more: (row: number) => Pick<FlowReport, 'policy' | 'peer' | 'access' | 'pinned'>,
  ): FlowList {
    const paft = this.#paft
    if (watched) {
      this.#watchedUntil = now + WATCHED_MS
      paft.counting = true
    }
    paft.settle()
    const epoch = this.#wall() - now
    const flows: FlowReport[] = []
    for (let row = 0; row < paft.slots && flows.length < limit; row++) {
      if (!paft.occupied(row)) continue
      const { id, flow, app, createdAt } = paft.rowAt(row)
      const bytes = paft.bytesAt(row)
      const since = Math.round(epoch + createdAt * 1000)
      flows.push({ id, flow, app, since, ...(bytes && { bytes }), ...more(row) })
    }
    return { flows, total: paft.size }
  }

  /** Stops counting when no watched list was requested lately; called by a timer. */
  rest(now: number): void {
    if (now > this.#watchedUntil) this.#paft.counting = false
  }
}
