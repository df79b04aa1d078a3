/**
 * The IPv6 header where it lies, and the way past its extension headers (RFC 8200 §§3, 4).
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
 *
 * The fragment header (§4.5): next header, 0, offset (13 bits, units of 8 bytes) · 0 · M, identification.
 */

/** Offsets from the header's first byte. */
export const IPV6 = {
  VERSION_CLASS_LABEL: 0,
  PAYLOAD_LENGTH: 4,
  NEXT_HEADER: 6,
  HOP_LIMIT: 7,
  SRC: 8,
  DST: 24,
  HEADER: 40,
} as const

/** Offsets from the fragment header's first byte, and the bits of FRAGMENT. */
export const IPV6_FRAGMENT = {
  FRAGMENT: 2,
  IDENTIFICATION: 4,
  /** In bytes. */
  OFFSET: 0xfff8,
  MORE: 1,
} as const

/** Numbers as a next header. */
export const FRAGMENT_HEADER = 44
export const ROUTING_HEADER = 43

/** Headers past this count are an attack, not a packet (RFC 8504 §5.3 allows a limit). */
export const MAX_EXTENSION_HEADERS = 12

/**
 * Length in bytes of the extension header of type `protocol` at `at`; 0 when `protocol` is none that one can step over,
 * -1 when it runs past `end`.
 */
export function extensionLength(view: DataView, protocol: number, at: number, end: number): number {
  let length: number
  switch (protocol) {
    case 0: // hop-by-hop options
    case ROUTING_HEADER:
    case 60: // destination options
    case 135: // mobility, RFC 6275
    case 139: // HIP, RFC 7401
    case 140: // shim6, RFC 5533
      if (end - at < 8) return -1
      length = 8 + view.getUint8(at + 1) * 8
      break
    case FRAGMENT_HEADER:
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

/** Writes the header but for the addresses; traffic class and flow label are 0. */
export function writeIpv6(
  view: DataView,
  at: number,
  payloadLength: number,
  hopLimit: number,
  nextHeader: number,
): void {
  view.setUint32(at, 0x60000000)
  view.setUint16(at + IPV6.PAYLOAD_LENGTH, payloadLength)
  view.setUint8(at + IPV6.NEXT_HEADER, nextHeader)
  view.setUint8(at + IPV6.HOP_LIMIT, hopLimit)
}
