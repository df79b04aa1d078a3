/**
 * The IPv4 header (RFC 791 §3.1; DSCP and ECN RFC 2474, 3168).
 *
 *  0                   1                   2                   3
 *  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 * +-------+-------+---------------+-------------------------------+
 * |   4   |  IHL  | traffic class |          total length         |
 * +-------+-------+---------------+-----+-------------------------+
 * |         identification        |0|D|M|     fragment offset     |
 * +---------------+---------------+-----+-------------------------+
 * |      TTL      |    protocol   |        header checksum        |
 * +---------------+---------------+-------------------------------+
 * |                         source address                        |
 * +---------------------------------------------------------------+
 * |                      destination address                      |
 * +---------------------------------------------------------------+
 * |                  options, a multiple of 4 bytes               |
 * +---------------------------------------------------------------+
 */
import { viewOf } from './bytes.ts'
import { checksum } from './checksum.ts'
import type { Codec } from './codec.ts'
import { type Decoded, decoded, malformed } from './result.ts'

export const IPV4 = {
  VERSION_IHL: 0,
  TRAFFIC_CLASS: 1,
  TOTAL_LENGTH: 2,
  IDENTIFICATION: 4,
  FRAGMENT: 6,
  TTL: 8,
  PROTOCOL: 9,
  CHECKSUM: 10,
  SRC: 12,
  DST: 16,
  OPTIONS: 20,
  MIN_HEADER: 20,
  DONT_FRAGMENT: 0x4000,
  MORE_FRAGMENTS: 0x2000,
  FRAGMENT_OFFSET: 0x1fff,
} as const

export interface Ipv4Header {
  readonly trafficClass: number
  /** Header, options and payload, bytes. */
  readonly totalLength: number
  readonly identification: number
  readonly dontFragment: boolean
  readonly moreFragments: boolean
  /** In bytes, a multiple of 8. */
  readonly fragmentOffset: number
  readonly ttl: number
  readonly protocol: number
  readonly src: Uint8Array
  readonly dst: Uint8Array
  /** As on the wire, a multiple of 4 bytes, at most 40. */
  readonly options: Uint8Array
}

/** Decoding checks version, lengths and the header checksum; encoding computes it. The payload is not part of either. */
export const ipv4Codec: Codec<Ipv4Header> = {
  decode(bytes, at = 0, end = bytes.length): Decoded<Ipv4Header> {
    if (end - at < IPV4.MIN_HEADER) return malformed('IPv4 header cut short')
    const view = viewOf(bytes)
    const versionIhl = view.getUint8(at)
    if (versionIhl >> 4 !== 4) return malformed(`not IPv4 but version ${versionIhl >> 4}`)
    const headerLength = (versionIhl & 15) * 4
    const totalLength = view.getUint16(at + IPV4.TOTAL_LENGTH)
    if (headerLength < IPV4.MIN_HEADER) return malformed('IPv4 header length below 20')
    if (totalLength < headerLength) return malformed('IPv4 total length below the header length')
    if (end - at < totalLength) return malformed('IPv4 packet cut short')
    if (checksum(view, at, headerLength) !== 0) return malformed('IPv4 header checksum wrong')
    const fragment = view.getUint16(at + IPV4.FRAGMENT)
    return decoded({
      trafficClass: view.getUint8(at + IPV4.TRAFFIC_CLASS),
      totalLength,
      identification: view.getUint16(at + IPV4.IDENTIFICATION),
      dontFragment: (fragment & IPV4.DONT_FRAGMENT) !== 0,
      moreFragments: (fragment & IPV4.MORE_FRAGMENTS) !== 0,
      fragmentOffset: (fragment & IPV4.FRAGMENT_OFFSET) * 8,
      ttl: view.getUint8(at + IPV4.TTL),
      protocol: view.getUint8(at + IPV4.PROTOCOL),
      src: bytes.slice(at + IPV4.SRC, at + IPV4.SRC + 4),
      dst: bytes.slice(at + IPV4.DST, at + IPV4.DST + 4),
      options: bytes.slice(at + IPV4.OPTIONS, at + headerLength),
    })
  },

  encode(header, out, at = 0): number {
    const headerLength = ipv4Codec.byteLength(header)
    const view = viewOf(out)
    view.setUint8(at + headerLength - 1, 0)
    view.setUint8(at, 0x40 | (headerLength / 4))
    view.setUint8(at + IPV4.TRAFFIC_CLASS, header.trafficClass)
    view.setUint16(at + IPV4.TOTAL_LENGTH, header.totalLength)
    view.setUint16(at + IPV4.IDENTIFICATION, header.identification)
    view.setUint16(
      at + IPV4.FRAGMENT,
      (header.dontFragment ? IPV4.DONT_FRAGMENT : 0) |
        (header.moreFragments ? IPV4.MORE_FRAGMENTS : 0) |
        (header.fragmentOffset >> 3),
    )
    view.setUint8(at + IPV4.TTL, header.ttl)
    view.setUint8(at + IPV4.PROTOCOL, header.protocol)
    view.setUint16(at + IPV4.CHECKSUM, 0)
    out.set(header.src, at + IPV4.SRC)
    out.set(header.dst, at + IPV4.DST)
    out.set(header.options, at + IPV4.OPTIONS)
    view.setUint16(at + IPV4.CHECKSUM, checksum(view, at, headerLength))
    return at + headerLength
  },

  byteLength(header): number {
    return IPV4.MIN_HEADER + header.options.length
  },
}
