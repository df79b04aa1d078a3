/**
 * The IPv6 header and the way past its extension headers (RFC 8200 §§3, 4).
 *
 *  0                   1                   2                   3
 *  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 * +-------+---------------+---------------------------------------+
 * |   6   | traffic class |              flow label               |
 * +-------+---------------+-------+---------------+---------------+
 * |         payload length        |  next header  |   hop limit   |
 * +-------------------------------+---------------+---------------+
 * |                                                               |
 * +                     source address (16 bytes)                 +
 * |                                                               |
 * +---------------------------------------------------------------+
 * |                                                               |
 * +                  destination address (16 bytes)               +
 * |                                                               |
 * +---------------------------------------------------------------+
 */
import { viewOf } from './bytes.ts'
import type { Codec } from './codec.ts'
import { type Decoded, decoded, malformed } from './result.ts'

export const IPV6 = {
  VERSION_CLASS_LABEL: 0,
  PAYLOAD_LENGTH: 4,
  NEXT_HEADER: 6,
  HOP_LIMIT: 7,
  SRC: 8,
  DST: 24,
  HEADER: 40,
} as const

export interface Ipv6Header {
  readonly trafficClass: number
  readonly flowLabel: number
  /** Extension headers and payload, bytes. */
  readonly payloadLength: number
  readonly nextHeader: number
  readonly hopLimit: number
  readonly src: Uint8Array
  readonly dst: Uint8Array
}

/** The fixed header; extension headers belong to the payload. Jumbograms (RFC 2675) are not decoded. */
export const ipv6Codec: Codec<Ipv6Header> = {
  decode(bytes, at = 0, end = bytes.length): Decoded<Ipv6Header> {
    if (end - at < IPV6.HEADER) return malformed('IPv6 header cut short')
    const view = viewOf(bytes)
    const first = view.getUint32(at)
    if (first >>> 28 !== 6) return malformed(`not IPv6 but version ${first >>> 28}`)
    const payloadLength = view.getUint16(at + IPV6.PAYLOAD_LENGTH)
    if (end - at < IPV6.HEADER + payloadLength) return malformed('IPv6 packet cut short')
    return decoded({
      trafficClass: (first >>> 20) & 0xff,
      flowLabel: first & 0xfffff,
      payloadLength,
      nextHeader: view.getUint8(at + IPV6.NEXT_HEADER),
      hopLimit: view.getUint8(at + IPV6.HOP_LIMIT),
      src: bytes.slice(at + IPV6.SRC, at + IPV6.SRC + 16),
      dst: bytes.slice(at + IPV6.DST, at + IPV6.DST + 16),
    })
  },

  encode(header, out, at = 0): number {
    const view = viewOf(out)
    view.setUint8(at + IPV6.HEADER - 1, 0)
    view.setUint32(at, (6 << 28) | (header.trafficClass << 20) | header.flowLabel)
    view.setUint16(at + IPV6.PAYLOAD_LENGTH, header.payloadLength)
    view.setUint8(at + IPV6.NEXT_HEADER, header.nextHeader)
    view.setUint8(at + IPV6.HOP_LIMIT, header.hopLimit)
    out.set(header.src, at + IPV6.SRC)
    out.set(header.dst, at + IPV6.DST)
    return at + IPV6.HEADER
  },

  byteLength(): number {
    return IPV6.HEADER
  },
}

/**
 * Length in bytes of the extension header of type `protocol` at `at`, 0 when `protocol` is no extension header that one
 * can step over, -1 when it runs past `end`.
 */
export function extensionLength(view: DataView, protocol: number, at: number, end: number): number {
  let length: number
  switch (protocol) {
    case 0: // hop-by-hop options
    case 43: // routing
    case 60: // destination options
    case 135: // mobility, RFC 6275
    case 139: // HIP, RFC 7401
    case 140: // shim6, RFC 5533
      if (end - at < 8) return -1
      length = 8 + view.getUint8(at + 1) * 8
      break
    case 44: // fragment
      length = 8
      break
    case 51: // authentication, RFC 4302 §2.2: counted in words of 4 bytes
      if (end - at < 8) return -1
      length = 8 + view.getUint8(at + 1) * 4
      break
    default:
      return 0
  }
  return end - at < length ? -1 : length
}
