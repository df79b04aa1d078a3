/** The interface of every codec; test/unit/codec-suite.ts tests each of them. */
import type { Decoded } from './result.ts'

export interface Codec<T> {
  /**
   * Reads one message from `bytes`, starting at `at` (default 0) and not reading past `end` (default the end). Any bytes
   * are allowed; the answer is the message or the reason why there is none. Byte arrays in the message are copies.
   */
  decode(bytes: Uint8Array, at?: number, end?: number): Decoded<T>
  /** Writes the message at `at` and returns the offset after it. Throws RangeError when `out` is too small. */
  encode(message: T, out: Uint8Array, at?: number): number
  /** What `encode` will write. */
  byteLength(message: T): number
}

/** The message in an array of its own. */
export function encoded<T>(codec: Codec<T>, message: T): Uint8Array {
  const out = new Uint8Array(codec.byteLength(message))
  codec.encode(message, out, 0)
  return out
}
