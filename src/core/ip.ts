/**
 * An IP packet of either version, read in place: functions over (view, at) that return numbers, so that nothing is
 * allocated and hot loops need no objects. `at` is the first byte of the IP header.
 *
 * Three of them accept any bytes: `ipLength`, `transportOf`, and `plainTransport` (transport.ts) after `ipLength`. The
 * others read fields of a packet that one of those has accepted.
 */
import { IPV4 } from './ipv4.ts'
import {
  extensionLength,
  FRAGMENT_HEADER,
  IPV6,
  IPV6_FRAGMENT,
  MAX_EXTENSION_HEADERS,
  ROUTING_HEADER,
} from './ipv6.ts'

/** Protocol numbers (IANA). */
export const Protocol = {
  ICMP: 1,
  TCP: 6,
  UDP: 17,
  DCCP: 33,
  ESP: 50,
  ICMPV6: 58,
  SCTP: 132,
  UDP_LITE: 136,
} as const

const { TCP, UDP } = Protocol
const { TOTAL_LENGTH, FRAGMENT, IDENTIFICATION, PROTOCOL, MIN_HEADER, MORE_FRAGMENTS, FRAGMENT_OFFSET } = IPV4
const SRC4 = IPV4.SRC
const DST4 = IPV4.DST
const { PAYLOAD_LENGTH, NEXT_HEADER } = IPV6
const HEADER6 = IPV6.HEADER
const SRC6 = IPV6.SRC
const DST6 = IPV6.DST

/** 4 or 6 of a packet; anything of other bytes. */
export function ipVersion(view: DataView, at: number): number {
  return view.getUint8(at) >> 4
}

/**
 * The length of the IP packet at `at` of which `available` bytes are there; 0 when it is no whole IP packet. What lies
 * behind (WireGuard's padding) is not part of it.
 */
export function ipLength(view: DataView, at: number, available: number): number {
  if (available < MIN_HEADER) return 0
  const first = view.getUint8(at)
  if (first >> 4 === 4) {
    const length = view.getUint16(at + TOTAL_LENGTH)
    const header = (first & 15) << 2
    return header >= MIN_HEADER && length >= header && length <= available ? length : 0
  }
  if (first >> 4 !== 6 || available < HEADER6) return 0
  const length = HEADER6 + view.getUint16(at + PAYLOAD_LENGTH)
  return length <= available ? length : 0
}

/** Writes the length of the whole packet, header included; leaves the IPv4 header checksum as it is. */
export function setIpLength(view: DataView, at: number, length: number): void {
  if (view.getUint8(at) >> 4 === 4) view.setUint16(at + TOTAL_LENGTH, length)
  else view.setUint16(at + PAYLOAD_LENGTH, length - HEADER6)
}

/** Bytes of the IPv4 header with its options, or of the fixed IPv6 header. */
export function ipHeaderLength(view: DataView, at: number): number {
  const first = view.getUint8(at)
  return first >> 4 === 4 ? (first & 15) << 2 : HEADER6
}

/** 4 or 16. */
/** DSCP in the upper six bits, ECN in the lower two. */
export function trafficClass(view: DataView, at: number): number {
  if (ipVersion(view, at) === 4) return view.getUint8(at + IPV4.TRAFFIC_CLASS)
  return (view.getUint16(at) >>> 4) & 0xff
}

export function addressLength(view: DataView, at: number): number {
  return view.getUint8(at) >> 4 === 4 ? 4 : 16
}

/** Where the source address lies, absolute. The destination follows it. */
export function sourceAt(view: DataView, at: number): number {
  return at + (view.getUint8(at) >> 4 === 4 ? SRC4 : SRC6)
}

export function destinationAt(view: DataView, at: number): number {
  return at + (view.getUint8(at) >> 4 === 4 ? DST4 : DST6)
}

/** Options of IPv4. */
const END_OF_OPTIONS = 0
const NO_OPERATION = 1
const LOOSE_ROUTE = 131
const STRICT_ROUTE = 137
/** In the routing header of IPv6. */
const SEGMENTS_LEFT = 3

const PROTOCOL_SHIFT = 16
const IS_FRAGMENT = 1 << 24
const IS_LATER = 1 << 25
const MALFORMED = -1

/**
 * What a packet carries, behind IPv4 options and IPv6 extension headers, as one number for the functions below; negative
 * when the packet is malformed or cut short. `length` bytes of the packet are there; it need not be all of it (the quote
 * in an ICMP error).
 */
export function transportOf(view: DataView, at: number, length: number): number {
  if (length < MIN_HEADER) return MALFORMED
  const first = view.getUint8(at)
  if (first >> 4 !== 4) return first >> 4 === 6 ? transportOf6(view, at, length) : MALFORMED
  const header = (first & 15) << 2
  if (header < MIN_HEADER || header > length) return MALFORMED
  const fragment = view.getUint16(at + FRAGMENT)
  const found = header | (view.getUint8(at + PROTOCOL) << PROTOCOL_SHIFT)
  if ((fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET)) === 0) return found
  return found | IS_FRAGMENT | ((fragment & FRAGMENT_OFFSET) === 0 ? 0 : IS_LATER)
}

function transportOf6(view: DataView, at: number, length: number): number {
  if (length < HEADER6) return MALFORMED
  let protocol = view.getUint8(at + NEXT_HEADER)
  // As nearly all packets are.
  if (protocol === TCP || protocol === UDP) return HEADER6 | (protocol << PROTOCOL_SHIFT)
  const end = at + length
  let next = at + HEADER6
  let flags = 0
  for (let i = 0; ; i++) {
    const extension = extensionLength(view, protocol, next, end)
    if (extension === 0) break
    if (extension < 0 || i === MAX_EXTENSION_HEADERS) return MALFORMED
    if (protocol === FRAGMENT_HEADER) {
      const word = view.getUint16(next + IPV6_FRAGMENT.FRAGMENT)
      // An atomic fragment (RFC 6946) is a whole packet.
      if ((word & (IPV6_FRAGMENT.OFFSET | IPV6_FRAGMENT.MORE)) !== 0) flags |= IS_FRAGMENT
      if ((word & IPV6_FRAGMENT.OFFSET) !== 0) flags |= IS_LATER
    }
    protocol = view.getUint8(next)
    next += extension
    if ((flags & IS_LATER) !== 0) break // what follows is payload
  }
  return (next - at) | (protocol << PROTOCOL_SHIFT) | flags
}

/** Whether a packet that `transportOf` accepts is to go on from its destination to others (RFC 791 §3.1, RFC 8200 §4.4). */
export function isSourceRouted(view: DataView, at: number, length: number): boolean {
  if (view.getUint8(at) >> 4 === 4)
    return isSourceRouted4(view, at + MIN_HEADER, at + ipHeaderLength(view, at))
  const end = at + length
  let protocol = view.getUint8(at + NEXT_HEADER)
  for (let next = at + HEADER6; ; ) {
    const extension = extensionLength(view, protocol, next, end)
    if (extension <= 0) return false
    if (protocol === ROUTING_HEADER && view.getUint8(next + SEGMENTS_LEFT) > 0) return true
    protocol = view.getUint8(next)
    next += extension
  }
}

function isSourceRouted4(view: DataView, options: number, end: number): boolean {
  for (let at = options; at < end; ) {
    const option = view.getUint8(at)
    if (option === LOOSE_ROUTE || option === STRICT_ROUTE) return true
    // No receiver reads what follows the end, or an option that is shorter than itself.
    if (option === END_OF_OPTIONS) return false
    const size = option === NO_OPERATION ? 1 : at + 1 < end ? view.getUint8(at + 1) : 0
    if (size === 0 || (size === 1 && option !== NO_OPERATION)) return false
    at += size
  }
  return false
}

/**
 * The protocol of the transport header. Of a later IPv6 fragment it is that of the first header of the fragmented part,
 * which may be an extension header.
 */
export function protocolIn(transport: number): number {
  return (transport >> PROTOCOL_SHIFT) & 0xff
}

/** Where the transport header lies, or the payload of a later fragment, in bytes from the start of the packet. */
export function offsetIn(transport: number): number {
  return transport & 0xffff
}

/** A part of a larger packet, the first or a later one. */
export function isFragment(transport: number): boolean {
  return (transport & IS_FRAGMENT) !== 0
}

/** A part that is not the first: there is no transport header in it. */
export function isLaterFragment(transport: number): boolean {
  return (transport & IS_LATER) !== 0
}

/** The identification that all fragments of one packet share, signed; 0 of an IPv6 packet without a fragment header. */
export function fragmentId(view: DataView, at: number, length: number): number {
  if (view.getUint8(at) >> 4 === 4) return view.getUint16(at + IDENTIFICATION)
  const end = at + length
  let protocol = view.getUint8(at + NEXT_HEADER)
  let next = at + HEADER6
  for (let i = 0; i < MAX_EXTENSION_HEADERS; i++) {
    const extension = extensionLength(view, protocol, next, end)
    if (extension <= 0) break
    if (protocol === FRAGMENT_HEADER) return view.getInt32(next + IPV6_FRAGMENT.IDENTIFICATION)
    protocol = view.getUint8(next)
    next += extension
  }
  return 0
}
