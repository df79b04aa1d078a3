/**
 * The resend ring: sealed datagrams stay where they were sealed, in a bounded ring of packet memory, until newer ones
 * replace them. A batch is the unit of one send: datagrams of one size (the last may be shorter) for one path. When a
 * path dies, what was recently sent on it is sent again on another, with the same ciphertext; the remote's replay window
 * drops what had arrived.
 */
import type { Arena } from '../../linux/arena.ts'
import { SEND_BYTES } from '../../linux/udp.ts'

/** Max batches that are remembered. */
export const BATCHES = 16_384
const ALIGN = 64
/** In place of a slot: not sent yet. */
const WAITING = -2

export class ResendRing {
  readonly #start: number
  readonly #size: number
  #head = 0
  /** Batch records, a circle of their own: oldest … newest. */
  #oldest = 0
  #count = 0
  readonly #slot = new Int32Array(BATCHES)
  readonly #at = new Int32Array(BATCHES)
  readonly #bytes = new Int32Array(BATCHES)
  readonly #segment = new Uint16Array(BATCHES)
  readonly #class = new Uint8Array(BATCHES)
  readonly #sentAt = new Float64Array(BATCHES)
  /** Called with the number of a batch that waits to be sent and must give way: send it now. */
  onEvict: (batch: number) => void = () => {}

  /** `size` bytes of the arena; at least a few sends' worth. */
  constructor(arena: Arena, size: number) {
    this.#size = Math.max(size, 4 * (SEND_BYTES + ALIGN))
    this.#start = arena.reserve(this.#size)
  }

  /** Room for one send at the returned arena offset; the oldest batches give way. */
  claim(): number {
    if (this.#head + SEND_BYTES > this.#size) {
      while (this.#count > 0 && this.#at[this.#oldest]! >= this.#start + this.#head) this.#forgetOldest()
      this.#head = 0
    }
    const from = this.#start + this.#head
    while (this.#count > 0) {
      const at = this.#at[this.#oldest]!
      if (at >= from + SEND_BYTES || at + this.#bytes[this.#oldest]! <= from) break
      this.#forgetOldest()
    }
    return from
  }

  /** Keeps what was sealed at the last claim; returns the number of the batch. */
  keep(slot: number, at: number, bytes: number, segment: number, now: number, trafficClass = 0): number {
    if (this.#count === BATCHES) this.#forgetOldest()
    const i = (this.#oldest + this.#count) & (BATCHES - 1)
    this.#count++
    this.#slot[i] = slot
    this.#at[i] = at
    this.#bytes[i] = bytes
    this.#segment[i] = segment
    this.#class[i] = trafficClass
    this.#sentAt[i] = now
    this.#head = (at - this.#start + bytes + ALIGN - 1) & ~(ALIGN - 1)
    return i
  }

  /** As `keep`, for a batch that waits: it counts as sent from `sent` on. */
  keepWaiting(at: number, bytes: number, segment: number, trafficClass = 0): number {
    return this.keep(WAITING, at, bytes, segment, 0, trafficClass)
  }

  /** A batch that waited has been sent. */
  sent(batch: number, slot: number, now: number): void {
    this.#slot[batch] = slot
    this.#sentAt[batch] = now
  }

  at(batch: number): number {
    return this.#at[batch]!
  }
  bytes(batch: number): number {
    return this.#bytes[batch]!
  }
  /** Size of its datagrams, the last may be shorter. */
  segment(batch: number): number {
    return this.#segment[batch]!
  }
  /** DSCP of the outer packets of a batch. */
  trafficClass(batch: number): number {
    return this.#class[batch]!
  }

  #forgetOldest(): void {
    if (this.#slot[this.#oldest] === WAITING) this.onEvict(this.#oldest)
    this.#oldest = (this.#oldest + 1) & (BATCHES - 1)
    this.#count--
  }

  /**
   * Calls `visit` for each batch sent on `from` since `since`, oldest first; those for which it returns true count as
   * sent on `to` at `now` from then on, so that they can go out once more. `visit` must not claim.
   */
  move(
    from: number,
    to: number,
    since: number,
    now: number,
    visit: (at: number, bytes: number, segment: number, sentAt: number, trafficClass: number) => boolean,
  ): void {
    for (let n = 0; n < this.#count; n++) {
      const i = (this.#oldest + n) & (BATCHES - 1)
      if (this.#slot[i] !== from || this.#sentAt[i]! < since) continue
      if (!visit(this.#at[i]!, this.#bytes[i]!, this.#segment[i]!, this.#sentAt[i]!, this.#class[i]!))
        continue
      this.#slot[i] = to
      this.#sentAt[i] = now
    }
  }

  /** The slot is about to mean another path: what was sent on it is not to be sent again for the new one. */
  forget(slot: number): void {
    for (let n = 0; n < this.#count; n++) {
      const i = (this.#oldest + n) & (BATCHES - 1)
      if (this.#slot[i] === slot) this.#slot[i] = -1
    }
  }
}
