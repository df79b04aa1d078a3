/**
 * Control frames of routing (docs/wire/routing.md): the mobile router says how it wants its paths used, so that the way
 * back follows the way out.
 *
 *   80 PATH_USE      sequence u32, then for each path: path id u8, flags u8 (1: draining, 2: fading), priority u8
 *   81 PATH_USE_ACK  sequence u32
 */
import { type Decoded, decoded, malformed } from '../core/result.ts'

export const PATH_USE = 80
export const PATH_USE_ACK = 81
const DRAINING = 1
const FADING = 2
const ENTRY = 3

export interface PathUse {
  readonly pathId: number
  readonly draining: boolean
  readonly fading: boolean
  /** 0–255, lower is preferred. */
  readonly priority: number
}

export function encodePathUse(sequence: number, paths: readonly PathUse[]): Uint8Array {
  const bytes = new Uint8Array(4 + ENTRY * paths.length)
  new DataView(bytes.buffer).setUint32(0, sequence)
  for (const [i, { pathId, draining, fading, priority }] of paths.entries())
    bytes.set([pathId, (draining ? DRAINING : 0) | (fading ? FADING : 0), priority], 4 + ENTRY * i)
  return bytes
}

export function decodePathUse(body: Uint8Array): Decoded<{ sequence: number; paths: readonly PathUse[] }> {
  if (body.length < 4 || (body.length - 4) % ENTRY !== 0) return malformed('PATH_USE of a wrong length')
  const sequence = new DataView(body.buffer, body.byteOffset).getUint32(0)
  const paths: PathUse[] = []
  for (let at = 4; at < body.length; at += ENTRY) {
    const flags = body[at + 1]!
    paths.push({
      pathId: body[at]!,
      draining: (flags & DRAINING) !== 0,
      fading: (flags & FADING) !== 0,
      priority: body[at + 2]!,
    })
  }
  return decoded({ sequence, paths })
}

export function encodeAck(sequence: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, sequence)
  return bytes
}

export function decodeAck(body: Uint8Array): number | undefined {
  return body.length < 4 ? undefined : new DataView(body.buffer, body.byteOffset).getUint32(0)
}
