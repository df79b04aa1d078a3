/**
 * The IPv4 header where it lies (RFC 791 §3.1; DSCP and ECN RFC 2474, 3168).
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
import { addSum, finish } from './checksum.ts'

/** Offsets from the header's first byte, and the bits of FRAGMENT. */
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
  /** In units of 8 bytes. */
  FRAGMENT_OFFSET: 0x1fff,
} as const

const { CHECKSUM, MIN_HEADER } = IPV4

/** Bytes of the header with its options, as it says: a multiple of 4 from 0 to 60, valid from 20 on. */
export function ipv4HeaderLength(view: DataView, at: number): number {
  return (view.getUint8(at) & 15) << 2
}

/** Computes and writes the header checksum. */
export function sealIpv4Header(view: DataView, at: number, headerLength: number): void {
  view.setUint16(at + CHECKSUM, 0)
  view.setUint16(at + CHECKSUM, finish(addSum(view, at, headerLength)))
}

/** Writes a header without options, not to be fragmented, but for the addresses and the checksum: `sealIpv4Header`. */
export function writeIpv4(
  view: DataView,
  at: number,
  totalLength: number,
  trafficClass: number,
  ttl: number,
  protocol: number,
): void {
  view.setUint8(at, 0x40 | (MIN_HEADER >> 2))
  view.setUint8(at + IPV4.TRAFFIC_CLASS, trafficClass)
  view.setUint16(at + IPV4.TOTAL_LENGTH, totalLength)
  view.setUint16(at + IPV4.IDENTIFICATION, 0)
  view.setUint16(at + IPV4.FRAGMENT, IPV4.DONT_FRAGMENT)
  view.setUint8(at + IPV4.TTL, ttl)
  view.setUint8(at + IPV4.PROTOCOL, protocol)
}
