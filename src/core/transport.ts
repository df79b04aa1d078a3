/**
 * TCP and UDP inside an IP packet: whether they are there in the plain form that packets are cut and merged in, and the
 * rules for their checksums: whole, partial, and updated after a change. `at` is the IP header, `transport` the absolute
 * place of the transport header.
 */
import { checksum, complete, fold, pseudoSum, updateAt } from './checksum.ts'
import { Protocol } from './ip.ts'
import { IPV4 } from './ipv4.ts'
import { IPV6 } from './ipv6.ts'
import { TCP as TCP_AT } from './tcp.ts'
import { UDP as UDP_AT } from './udp.ts'

const { TCP, UDP, UDP_LITE, DCCP } = Protocol
const { FRAGMENT, PROTOCOL } = IPV4
const HEADER6 = IPV6.HEADER
const { NEXT_HEADER } = IPV6
const TCP_CHECKSUM = TCP_AT.CHECKSUM
const UDP_CHECKSUM = UDP_AT.CHECKSUM
const { DATA_OFFSET } = TCP_AT
const TCP_HEADER = TCP_AT.MIN_HEADER
const UDP_HEADER = UDP_AT.HEADER
/** Offset or more fragments. */
const FRAGMENTED = IPV4.MORE_FRAGMENTS | IPV4.FRAGMENT_OFFSET

/**
 * TCP or UDP when that header follows the IP header at once and whole, and the packet is no fragment; else 0. The packet
 * is one that `ipLength` accepted.
 */
export function plainTransport(view: DataView, at: number, length: number): number {
  let protocol: number
  let header: number
  const first = view.getUint8(at)
  if (first >> 4 === 4) {
    if ((view.getUint16(at + FRAGMENT) & FRAGMENTED) !== 0) return 0
    protocol = view.getUint8(at + PROTOCOL)
    header = (first & 15) << 2
  } else {
    protocol = view.getUint8(at + NEXT_HEADER)
    header = HEADER6
  }
  if (protocol === TCP) {
    if (length < header + TCP_HEADER) return 0
    const tcp = (view.getUint8(at + header + DATA_OFFSET) >> 4) << 2
    return tcp >= TCP_HEADER && header + tcp <= length ? TCP : 0
  }
  return protocol === UDP && length >= header + UDP_HEADER ? UDP : 0
}

/** Where a transport header has a checksum that covers the addresses too; -1 for protocols without one. */
export function checksumOffset(protocol: number): number {
  if (protocol === TCP) return TCP_CHECKSUM
  return protocol === UDP || protocol === UDP_LITE || protocol === DCCP ? UDP_CHECKSUM : -1
}

/**
 * Writes the partial checksum of TCP or UDP: the sum of the pseudo-header alone, to be completed by the receiver of the
 * packet (a vnet_hdr with NEEDS_CSUM; flag 0x02 of message 32).
 */
export function writePartialChecksum(
  view: DataView,
  at: number,
  length: number,
  transport: number,
  protocol: number,
): void {
  const field = transport + (protocol === TCP ? TCP_CHECKSUM : UDP_CHECKSUM)
  view.setUint16(field, fold(pseudoSum(view, at, protocol, at + length - transport)))
}

/** Computes and writes the whole checksum of TCP or UDP, whatever stood there. */
export function completeChecksum(
  view: DataView,
  at: number,
  length: number,
  transport: number,
  protocol: number,
): void {
  const size = at + length - transport
  const field = transport + (protocol === TCP ? TCP_CHECKSUM : UDP_CHECKSUM)
  view.setUint16(field, fold(pseudoSum(view, at, protocol, size)))
  complete(view, transport, size, field)
}

/** Whether the whole checksum of TCP or UDP is right. */
export function checksumHolds(
  view: DataView,
  at: number,
  length: number,
  transport: number,
  protocol: number,
): boolean {
  const size = at + length - transport
  return checksum(view, transport, size, pseudoSum(view, at, protocol, size)) === 0
}

/**
 * Brings the whole checksum of a transport header up to date after addresses with the sum `before` have become such with
 * the sum `after`. A UDP checksum of zero stays zero (RFC 768, RFC 6935), and none becomes zero. Nothing happens to a
 * protocol whose checksum does not cover addresses, and to a header that is cut short at `end`.
 */
export function updateChecksum(
  view: DataView,
  transport: number,
  end: number,
  protocol: number,
  before: number,
  after: number,
): void {
  const offset = checksumOffset(protocol)
  const field = transport + offset
  if (offset < 0 || field + 2 > end) return
  if (protocol !== UDP) {
    updateAt(view, field, before, after)
    return
  }
  if (view.getUint16(field) === 0) return
  updateAt(view, field, before, after)
  if (view.getUint16(field) === 0) view.setUint16(field, 0xffff)
}
