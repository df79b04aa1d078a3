/**
 * What a path carries, in bytes per millisecond, for `weighted`. Its own traffic is the measurement: while the round trip
 * shows a queue, what the other end received since the last look is the path's rate; while there is none, the path could
 * carry more, and its estimate grows until there is one. So shares move towards paths that have room.
 */

/** A queue stands when the round trip exceeds the best of the last seconds by this. */
const QUEUE_MS = 5
const QUEUE_SHARE = 0.1
/** Growth for each look without a queue; and the most that an estimate exceeds what is delivered. */
const GROWTH = 1.04
const HEADROOM = 4
/** Looks shorter than this are joined, milliseconds. */
const LEAST_MS = 20
/** The best round trip is forgotten after this. */
const BEST_FOR_MS = 10_000

export class PathRate {
  /** Bytes per millisecond; 0 before the first look. */
  rate = 0
  #at = Number.NaN
  #received = 0
  #sentBytes = 0
  #sentPackets = 0
  #best = Number.POSITIVE_INFINITY
  #bestAt = 0

  /**
   * A measurement: round trip, datagrams the other end has received (wraps at 2^32), and what this end has sent in all.
   */
  sample(rttMs: number, received: number, sentBytes: number, sentPackets: number, now: number): void {
    if (rttMs < this.#best || now - this.#bestAt > BEST_FOR_MS) {
      this.#best = rttMs
      this.#bestAt = now
    }
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
    if (first || delivered === 0) return
    const queued = rttMs > this.#best + QUEUE_MS + this.#best * QUEUE_SHARE
    if (this.rate === 0) this.rate = delivered
    else if (queued) this.rate += (delivered - this.rate) * 0.3
    else this.rate = Math.max(delivered, Math.min(this.rate * GROWTH, delivered * HEADROOM))
  }
}
