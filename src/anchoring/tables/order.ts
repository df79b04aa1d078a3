/**
 * The order of a host's packets as 32-bit serial numbers, for learning (E-3 (4)). The datapath gives a counter over all
 * paths and sessions of a peer, `epoch · 2^40 + counter` with an epoch for each session; 27 bits of the session's counter
 * (100 Gbit in two minutes of full packets) and 5 of the epoch are kept for a row. A row that has not moved for 16
 * sessions would compare wrongly in time, so the sweep of the PAFT brings such rows up (`refreshed`).
 */

const EPOCH = 2 ** 40
const EPOCH_STEP = 1 << 27
const HALF = 1 << 30

/** The serial number of a counter. */
export function orderOf(counter: number): number {
  if (counter < EPOCH) return counter | 0
  const epoch = Math.floor(counter / EPOCH)
  return (Math.imul(epoch, EPOCH_STEP) + (counter - epoch * EPOCH)) | 0
}

/** The order of a counter of the session that `newest` belongs to. */
export function orderLike(newest: number, counter: number): number {
  return ((newest & -EPOCH_STEP) + counter) | 0
}

/** The same; at least `newest`. */
export function orderWithin(newest: number, counter: number): number {
  const order = orderLike(newest, counter)
  return newer(order, newest) ? order : newest
}

/** Whether `a` is newer than `b`. */
export function newer(a: number, b: number): boolean {
  return ((a - b) | 0) > 0
}

/** The order to store instead of `stored` when the newest is `newest`: at most 2^30 behind it. */
export function refreshed(stored: number, newest: number): number {
  const behind = (newest - stored) | 0
  return behind < 0 || behind > HALF ? (newest - HALF) | 0 : stored
}
