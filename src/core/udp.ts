/**
 * The UDP header (RFC 768).
 *
 *  0                   1                   2                   3
 *  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 * +-------------------------------+-------------------------------+
 * |          source port          |       destination port        |
 * +-------------------------------+-------------------------------+
 * |             length            |           checksum            |
 * +-------------------------------+-------------------------------+
 */
import { viewOf } from './bytes.ts'
import type { Codec } from './codec.ts'
import { type Decoded, decoded, malformed } from './result.ts'

export const UDP = { SRC_PORT: 0, DST_PORT: 2, LENGTH: 4, CHECKSUM: 6, HEADER: 8 } as const

export interface UdpHeader {
  readonly srcPort: number
  readonly dstPort: number
  /** Header and payload, bytes. */
  readonly length: number
  /** 0: none (IPv4 only). Not verified here: it needs the pseudo-header (checksum.ts). */
  readonly checksum: number
}

export const udpCodec: Codec<UdpHeader> = {
  decode(bytes, at = 0, end = bytes.length): Decoded<UdpHeader> {
    if (end - at < UDP.HEADER) return malformed('UDP header cut short')
    const view = viewOf(bytes)
    const length = view.getUint16(at + UDP.LENGTH)
    if (length < UDP.HEADER) return malformed('UDP length below 8')
    if (end - at < length) return malformed('UDP datagram cut short')
    return decoded({
      srcPort: view.getUint16(at + UDP.SRC_PORT),
      dstPort: view.getUint16(at + UDP.DST_PORT),
      length,
      checksum: view.getUint16(at + UDP.CHECKSUM),
    })
  },

  encode(header, out, at = 0): number {
    const view = viewOf(out)
    view.setUint16(at + UDP.CHECKSUM, header.checksum)
    view.setUint16(at + UDP.SRC_PORT, header.srcPort)
    view.setUint16(at + UDP.DST_PORT, header.dstPort)
    view.setUint16(at + UDP.LENGTH, header.length)
    return at + UDP.HEADER
  },

  byteLength(): number {
    return UDP.HEADER
  },
}
