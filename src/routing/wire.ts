/**
 * Control frames of routing (docs/wire/routing.md): the mobile router says how it wants its paths used, so that the way
 * back follows the way out.
 *
 *   80 PATH_USE      sequence u32, then for each path: path id u8, flags u8 (1: draining, 2: fading, 4: reserve, 8: probe
 *                    seldom, 16–240: weight − 1), priority u8
 *   81 PATH_USE_ACK  sequence u32
 *   82 PATH_NAMES    for each path: path id u8, length u8, name of its access
 *   83 CLASS_PATHS   for each class that has a path of its own: path id u8, length u8, name of the class
 */
import { type Decoded, decoded, malformed } from '../core/result.ts'

export const PATH_USE = 80
export const PATH_USE_ACK = 81
export const PATH_NAMES = 82
export const CLASS_PATHS = 83
const DRAINING = 1
const FADING = 2
const RESERVE = 4
const SELDOM = 8
const WEIGHT_SHIFT = 4
export const MAX_WEIGHT = 15
const ENTRY = 3

export interface PathUse {
  readonly pathId: number
  readonly draining: boolean
  readonly fading: boolean
  /** Only while nothing else works. */
  readonly reserve: boolean
  /** Not to be probed more than it must while it stands by. */
  readonly seldom: boolean
  /** 1 to 15. */
  readonly weight: number
  /** 0–255, lower is preferred. */
  readonly priority: number
}

/** The name of its access (PATH_NAMES), or of a class that is to take it (CLASS_PATHS). */
export interface PathName {
  readonly pathId: number
  readonly name: string
}

/** What interfaces and classes may be called. */
const NAME = /^[!-~]{1,63}$/

export function encodePathUse(sequence: number, paths: readonly PathUse[]): Uint8Array {
  const bytes = new Uint8Array(4 + ENTRY * paths.length)
  new DataView(bytes.buffer).setUint32(0, sequence)
  for (const [i, { pathId, draining, fading, reserve, seldom, weight, priority }] of paths.entries()) {
    const flags =
      (draining ? DRAINING : 0) |
      (fading ? FADING : 0) |
      (reserve ? RESERVE : 0) |
      (seldom ? SELDOM : 0) |
      ((weight - 1) << WEIGHT_SHIFT)
    bytes.set([pathId, flags, priority], 4 + ENTRY * i)
  }
  return bytes
}

export function encodePathNames(paths: readonly PathName[]): Uint8Array {
  const fitting = paths.filter(({ name }) => NAME.test(name))
  const bytes: number[] = []
  for (const { pathId, name } of fitting)
    bytes.push(pathId, name.length, ...[...name].map((c) => c.charCodeAt(0)))
  return Uint8Array.from(bytes)
}

export function decodePathNames(body: Uint8Array): Decoded<readonly PathName[]> {
  const names: PathName[] = []
  for (let at = 0; at < body.length; ) {
    const length = body[at + 1] ?? 0
    const end = at + 2 + length
    if (length === 0 || end > body.length) return malformed('names of a wrong length')
    const name = String.fromCharCode(...body.subarray(at + 2, end))
    if (!NAME.test(name)) return malformed('what is no name')
    names.push({ pathId: body[at]!, name })
    at = end
  }
  return decoded(names)
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
      reserve: (flags & RESERVE) !== 0,
      seldom: (flags & SELDOM) !== 0,
      weight: Math.min(MAX_WEIGHT, (flags >> WEIGHT_SHIFT) + 1),
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
