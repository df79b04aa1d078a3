/**
 * The lease: a zone's word that a name, a node key and virtual addresses belong together (docs/wire/overlay.md). A node
 * presents it again, so that a coordinator whose store was lost gives nobody else its addresses; peers check it.
 *
 *    0               1               2               3
 *   +---------------+---------------+---------------+---------------+
 *   | version = 1   | flags         | serial (64) …                 |
 *   | … not before (64), not after (64): seconds since 1970          |
 *   | node key (32 bytes), IPv6 (16 bytes), IPv4 (4 bytes)           |
 *   | name length   | name …                                         |
 *   | signature of the zone key (64 bytes)                           |
 */
import { concat, viewOf } from '../../core/bytes.ts'
import type { Codec } from '../../core/codec.ts'
import { type Decoded, decoded, malformed } from '../../core/result.ts'
import { isFullName } from './message.ts'

const VERSION = 1
const HAS_IPV4 = 1
const NAME_AT = 79
const SIGNATURE = 64
const LABEL = Uint8Array.from('godwit overlay lease', (character) => character.charCodeAt(0))

export interface Lease {
  /** Rises with every lease of a zone; below 2^53. */
  readonly serial: number
  /** Seconds since 1970. */
  readonly notBefore: number
  readonly notAfter: number
  /** X25519, 32 bytes. */
  readonly publicKey: Uint8Array
  readonly v6: Uint8Array
  readonly v4?: Uint8Array
  readonly name: string
  /** Ed25519, 64 bytes. */
  readonly signature: Uint8Array
}

function decode(bytes: Uint8Array, at = 0, end = bytes.length): Decoded<Lease> {
  if (end - at < NAME_AT) return malformed('shorter than a lease')
  const flags = bytes[at + 1]!
  if (bytes[at] !== VERSION || (flags & ~HAS_IPV4) !== 0) return malformed('lease of another version')
  const nameLength = bytes[at + NAME_AT - 1]!
  if (end - at !== NAME_AT + nameLength + SIGNATURE) return malformed('lease of a wrong length')
  const name = String.fromCharCode(...bytes.subarray(at + NAME_AT, at + NAME_AT + nameLength))
  if (!isFullName(name)) return malformed('not a full name')
  const v4 = bytes.slice(at + 74, at + 78)
  if ((flags & HAS_IPV4) === 0 && v4.some((byte) => byte !== 0)) return malformed('reserved bits set')
  const view = viewOf(bytes)
  const times = [2, 10, 18].map((offset) => view.getBigUint64(at + offset))
  if (times.some((time) => time > BigInt(Number.MAX_SAFE_INTEGER))) return malformed('number too large')
  return decoded({
    serial: Number(times[0]),
    notBefore: Number(times[1]),
    notAfter: Number(times[2]),
    publicKey: bytes.slice(at + 26, at + 58),
    v6: bytes.slice(at + 58, at + 74),
    ...((flags & HAS_IPV4) !== 0 && { v4 }),
    name,
    signature: bytes.slice(at + NAME_AT + nameLength, end),
  })
}

function byteLength({ name }: Lease): number {
  return NAME_AT + name.length + SIGNATURE
}

function encode(lease: Lease, out: Uint8Array, at = 0): number {
  const length = byteLength(lease)
  if (out.length - at < length) throw new RangeError('buffer too small for a lease')
  const view = viewOf(out)
  out.fill(0, at, at + length)
  out[at] = VERSION
  out[at + 1] = lease.v4 === undefined ? 0 : HAS_IPV4
  view.setBigUint64(at + 2, BigInt(lease.serial))
  view.setBigUint64(at + 10, BigInt(lease.notBefore))
  view.setBigUint64(at + 18, BigInt(lease.notAfter))
  out.set(lease.publicKey, at + 26)
  out.set(lease.v6, at + 58)
  if (lease.v4 !== undefined) out.set(lease.v4, at + 74)
  out[at + NAME_AT - 1] = lease.name.length
  for (let i = 0; i < lease.name.length; i++) out[at + NAME_AT + i] = lease.name.charCodeAt(i)
  out.set(lease.signature, at + length - SIGNATURE)
  return at + length
}

export const leaseCodec: Codec<Lease> = { decode, encode, byteLength }

/** The bytes that the zone key signs. */
export function leaseTranscript(encoded: Uint8Array): Uint8Array {
  return concat(LABEL, encoded.subarray(0, encoded.length - SIGNATURE))
}

/** The lease in these bytes, if the zone key has signed it and it is valid at `wall` (milliseconds since 1970). */
export function checkLease(
  bytes: Uint8Array,
  zoneKey: Uint8Array,
  wall: number,
  verify: (publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array) => boolean,
): Decoded<Lease> {
  const lease = decode(bytes)
  if (!lease.ok) return lease
  if (!verify(zoneKey, leaseTranscript(bytes), lease.value.signature)) return malformed('signature')
  if (wall / 1000 > lease.value.notAfter) return malformed('expired')
  return lease
}
