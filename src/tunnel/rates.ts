/**
 * What a path carries, in bytes per millisecond, for `weighted`. Its own traffic is the measurement: while the round trip
 * shows a queue, what the other end received since the last look is the path's rate; while there is none, the path could
 * carry more, and its estimate grows until there is one. A path that is hardly used keeps its estimate.
 */

/** A queue stands when the round trip exceeds the best of the last seconds by this. */
const QUEUE_MS = 5
const QUEUE_SHARE = 0.1
/** Above this the line drops what it has no room for. */
const LOSS = 0.02
/** Datagrams between two looks that say nothing of the line: probes, acknowledgements. */
const FEW = 12
/** Growth for each look without a queue, of a path that delivers at least this share of its estimate. */
const GROWTH = 1.04
const IN_USE = 0.5
/** Nothing is known at first: 100 Mbit/s. A queue shows soon when it is less. */
const FIRST_RATE = 12_500
/** Looks shorter than this are joined, milliseconds. */
const LEAST_MS = 20
/** The best round trip is forgotten after this. */
const BEST_FOR_MS = 10_000

export class PathRate {
  /** Bytes per millisecond. */
  rate = FIRST_RATE
  /** What the last round trip was longer than the best one, milliseconds. */
  queueMs = 0
  #at = Number.NaN
  #received = 0
  #sentBytes = 0
  #sentPackets = 0
  #best = Number.POSITIVE_INFINITY
  #bestAt = 0

  /** Half the best round trip; NaN before the first. */
  get delayMs(): number {
    return Number.isFinite(this.#best) ? this.#best / 2 : Number.NaN
  }

  /**
   * A measurement: round trip, share of datagrams lost, datagrams the other end has received (wraps at 2^32), and what this end has sent in all.
   */
  sample(
    rttMs: number,
    loss: number,
    received: number,
    sentBytes: number,
    sentPackets: number,
    now: number,
  ): void {
    if (rttMs < this.#best || now - this.#bestAt > BEST_FOR_MS) {
      this.#best = rttMs
      this.#bestAt = now
    }
    this.queueMs = rttMs - this.#best
    const elapsed = now - this.#at
    if (elapsed < LEAST_MS) return
    const packets = sentPackets - this.#sentPackets
    const size = packets > 0 ? (sentBytes - this.#sentBytes) / packets : 0
    const delivered = (Math.max(0, (received - this.#received) | 0) * size) / elapsed
    const first = Number.isNaN(this.#at)
    this.#at = now
    this.#received = received
    this.#sentBytes = sentBytes
    this.#sentPackets = sentPackets
    if (first) return
    const waiting = rttMs > this.#best + QUEUE_MS + this.#best * QUEUE_SHARE
    if (packets < FEW) {
      // Hardly used: nothing is learned, but what was learned grows old.
      if (!waiting && this.rate < FIRST_RATE) this.rate = Math.min(FIRST_RATE, this.rate * GROWTH)
      return
    }
    const queued = waiting || loss > LOSS
    if (queued) this.rate += (delivered - this.rate) * 0.3
    else if (delivered > this.rate * IN_USE) this.rate = Math.max(delivered, this.rate * GROWTH)
  }
}
