/**
 * Frames on the TLS connection between a node and its notification server (docs/wire/overlay.md, Notification server): length of
 * the value (16), type (8), value.
 */
import { concat, viewOf } from '../../core/bytes.ts'

export const FrameType = {
  /** NOTIFICATION_REGISTRATION, node to server: the token. */
  REGISTRATION: 1,
  /** NOTIFICATION_REGISTRATION_ACK. */
  ACK: 2,
  /** NOTIFICATION: a datagram of the coordinator, or nothing. */
  NOTIFICATION: 3,
  PING: 4,
  PONG: 5,
} as const
export type FrameType = (typeof FrameType)[keyof typeof FrameType]

export interface Frame {
  readonly type: number
  readonly value: Uint8Array
}

const HEADER = 3
/** Longest value: a datagram. */
export const MAX_VALUE = 1200

export function encodeFrame(type: FrameType, value: Uint8Array = new Uint8Array(0)): Uint8Array {
  const out = new Uint8Array(HEADER + value.length)
  viewOf(out).setUint16(0, value.length)
  out[2] = type
  out.set(value, HEADER)
  return out
}

/** Takes bytes as they come and gives whole frames; holds no more than one that is incomplete. Keeps copies alone. */
export class FrameReader {
  readonly #longest: number
  #rest: Uint8Array = new Uint8Array(0)

  /** `longest`: of a value that this end accepts. */
  constructor(longest = MAX_VALUE) {
    this.#longest = longest
  }

  /** Undefined: the other end does not keep to the protocol. */
  take(bytes: Uint8Array): Frame[] | undefined {
    const all = this.#rest.length === 0 ? bytes : concat(this.#rest, bytes)
    const frames: Frame[] = []
    let at = 0
    while (all.length - at >= HEADER) {
      const length = viewOf(all).getUint16(at)
      if (length > this.#longest) return undefined
      if (all.length - at < HEADER + length) break
      frames.push({
        type: all[at + 2]!,
        value: new Uint8Array(all.subarray(at + HEADER, at + HEADER + length)),
      })
      at += HEADER + length
    }
    this.#rest = new Uint8Array(all.subarray(at))
    return frames
  }
}
