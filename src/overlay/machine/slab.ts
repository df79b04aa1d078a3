/**
 * Byte fields of one length for many entries, in few large pieces of memory. A Uint8Array of its own for 32 bytes takes about 240 bytes of
 * heap in three objects, each of which the garbage collector moves and marks.
 */

/** Fields in one piece of memory. */
const PIECE = 4096

export class Slab {
  readonly #size: number
  readonly #pieces: Uint8Array[] = []
  /** Slots that were freed. */
  readonly #free: number[] = []
  /** Slots from here on were never used. */
  #next = 0

  /** `size`: bytes of a field. */
  constructor(size: number) {
    this.#size = size
  }

  /** Fields that are kept. */
  get count(): number {
    return this.#next - this.#free.length
  }

  /** Keeps a copy of these bytes, exactly a field; returns its slot. */
  add(bytes: Uint8Array): number {
    if (bytes.length !== this.#size) throw new RangeError(`${bytes.length} bytes in a slab of ${this.#size}`)
    const slot = this.#free.pop() ?? this.#next++
    if (slot >= this.#pieces.length * PIECE) this.#pieces.push(new Uint8Array(PIECE * this.#size))
    this.get(slot).set(bytes)
    return slot
  }

  /** The bytes themselves, not a copy: good until the slot is freed. */
  get(slot: number): Uint8Array {
    const at = (slot % PIECE) * this.#size
    return this.#pieces[Math.floor(slot / PIECE)]!.subarray(at, at + this.#size)
  }

  /** Wipes the field. The slot may be another's from now on. */
  free(slot: number): void {
    this.get(slot).fill(0)
    this.#free.push(slot)
  }
}
