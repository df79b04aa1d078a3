/**
 * How much a TCP without SACK may have under way (ADR 0456). Its packets belong to no socket once they are translated, so that nothing keeps
 * it from filling the queue of its own interface (TCP small queues); what it loses there it repairs a segment a round trip.
 */

/** At least so many bytes; and so many times what the peer acknowledged within the shortest round trip, so that rates can double. */
const LEAST = 65_536
const GROWTH = 2
/** Of the last, when less was acknowledged: it may have had little to send. */
const DECAY = 0.875
/** Where round trips are shorter (ms), as much as is acknowledged within this time: a queue takes that, and hosts that are busy need it. */
const SHORTEST = 10

export class Room {
  #bytes = LEAST
  /** The end of what it was offered, which does not go back. */
  #edge: number
  /** What was acknowledged when the measurement began. */
  #from = 1
  #since = Number.NEGATIVE_INFINITY

  /** It has sent up to `sent`. */
  constructor(sent: number) {
    this.#edge = sent
  }

  /** The peer acknowledged up to `una`; `rtt`: the shortest round trip (ms). */
  acknowledge(una: number, rtt: number, now: number): void {
    const passed = now - this.#since
    const span = Math.max(SHORTEST, rtt)
    if (passed < span) return
    const each = ((una - this.#from) * span) / passed
    this.#bytes = Math.max(LEAST, GROWTH * each, DECAY * this.#bytes)
    this.#from = una
    this.#since = now
  }

  /** The window (bytes) that it is offered, of that of the peer. */
  window(una: number, offered: number): number {
    const window = Math.min(offered, Math.max(this.#bytes, this.#edge - una))
    this.#edge = Math.max(this.#edge, una + window)
    return window
  }
}
