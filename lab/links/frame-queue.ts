/**
 * A first-in first-out queue of frames with release times, in a region of an arena. Records are contiguous, 8-aligned:
 *
 *   0 length u32   4 zero   8 release f64   16 bytes…
 *
 * A length of 0xffffffff says that the next record is at the region's start. No allocation after construction.
 */
import type { Arena } from '../../src/linux/arena.ts'

const HEADER = 16
const WRAP = 0xffffffff

export class FrameQueue {
  readonly #arena: Arena
  readonly #start: number
  readonly #end: number
  #head: number
  #tail: number
  #count = 0

  /** `size` bytes reserved from the arena, a multiple of 8. */
  constructor(arena: Arena, size: number) {
    this.#arena = arena
    this.#start = arena.reserve(size)
    this.#end = this.#start + size
    this.#head = this.#start
    this.#tail = this.#start
  }

  get length(): number {
    return this.#count
  }

  /** Copies a frame in; false when there is no room. */
  push(at: number, length: number, release: number): boolean {
    const need = HEADER + ((length + 7) & ~7)
    if (this.#count === 0) {
      // Starting over at the front keeps an almost empty queue in the processor's cache.
      this.#head = this.#start
      this.#tail = this.#start
    }
    if (this.#tail >= this.#head) {
      if (this.#tail + need > this.#end) {
        if (this.#start + need >= this.#head) return false
        if (this.#tail + HEADER <= this.#end) this.#arena.view.setUint32(this.#tail, WRAP, true)
        this.#tail = this.#start
      }
    } else if (this.#tail + need >= this.#head) return false
    this.#arena.view.setUint32(this.#tail, length, true)
    this.#arena.view.setFloat64(this.#tail + 8, release, true)
    this.#arena.u8.copyWithin(this.#tail + HEADER, at, at + length)
    this.#tail += need
    this.#count++
    return true
  }

  /** Release time of the oldest frame; Infinity when empty. */
  headRelease(): number {
    if (this.#count === 0) return Number.POSITIVE_INFINITY
    this.#skipWrap()
    return this.#arena.view.getFloat64(this.#head + 8, true)
  }

  /** Offset of the oldest frame's bytes in the arena; the queue must not be empty. */
  headAt(): number {
    this.#skipWrap()
    return this.#head + HEADER
  }

  headLength(): number {
    this.#skipWrap()
    return this.#arena.view.getUint32(this.#head, true)
  }

  /** Removes the oldest frame; its bytes stay valid until the next push. */
  shift(): void {
    this.#head += HEADER + ((this.headLength() + 7) & ~7)
    this.#count--
  }

  clear(): void {
    this.#count = 0
  }

  #skipWrap(): void {
    if (this.#head + HEADER > this.#end || this.#arena.view.getUint32(this.#head, true) === WRAP)
      this.#head = this.#start
  }
}
