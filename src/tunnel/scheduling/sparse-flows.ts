/**
 * Which flows are sparse: calls, DNS, keystrokes, the first packets of everything. Their packets pass those of flows that
 * fill the path, so that an upload beside a call does not delay it (the idea of RFC 8290 §4.2's new flows, without a
 * queue of each flow's own). Flows share buckets by hash; a flow that shares the bucket of a heavy one waits with it.
 */

/** Buckets; a power of two. 24 KB in all. */
const SIZE = 1024
/** A sparse flow takes at most this share of the path over time. */
export const SPARSE_SHARE = 0.25
/** What it may send at once beyond that: this many milliseconds of the path, and this many bytes. */
const BURST_MS = 4
const BURST_BYTES = 6_000

export class SparseFlows {
  readonly #level = new Float64Array(SIZE)
  readonly #at = new Float64Array(SIZE)
  /** When the last packet that waited will have arrived. */
  readonly #waitsUntil = new Float64Array(SIZE)

  /**
   * Counts a packet of `bytes` on a path of `rate` bytes a millisecond; whether it may pass what waits. A flow that has
   * packets waiting does not: its own order is kept.
   */
  passes(hash: number, bytes: number, rate: number, now: number): boolean {
    const i = hash & (SIZE - 1)
    const left = this.#level[i]! - (now - this.#at[i]!) * rate * SPARSE_SHARE
    const level = (left > 0 ? left : 0) + bytes
    // Bounded, so that a flow that has become sparse is so within about a second.
    this.#level[i] = Math.min(level, BURST_BYTES + rate * (BURST_MS + 1000 * SPARSE_SHARE))
    this.#at[i] = now
    return level <= BURST_BYTES + BURST_MS * rate && this.#waitsUntil[i]! <= now
  }

  /** A packet of the flow waits and will have arrived by then. */
  waits(hash: number, until: number): void {
    const i = hash & (SIZE - 1)
    if (until > this.#waitsUntil[i]!) this.#waitsUntil[i] = until
  }
}

/** A hash of a flow, the same for all its packets: of both addresses, `width` bytes each from `source` on, and the ports. */
export function flowHash(view: DataView, source: number, width: number, ports: number): number {
  let hash = ports
  for (let i = 0; i < 2 * width; i += 4) hash = Math.imul(hash ^ view.getUint32(source + i), 0x9e3779b1)
  return (hash ^ (hash >>> 15)) >>> 0
}
