/**
 * An IP packet of either version where it lies, read without allocation: where its addresses and its transport header
 * are, and whether it is a fragment.
 */
import { IPV4 } from './ipv4.ts'
import { extensionLength, IPV6 } from './ipv6.ts'

/** Protocol numbers (IANA). */
export const Protocol = {
  ICMP: 1,
  TCP: 6,
  UDP: 17,
  DCCP: 33,
  FRAGMENT: 44,
  ICMPV6: 58,
  SCTP: 132,
  UDP_LITE: 136,
} as const

/** Headers past this count are an attack, not a packet (RFC 8504 §5.3 allows a limit). */
const MAX_EXTENSION_HEADERS = 12

/**
 * A cursor to be kept and reused: `parse` fills its fields. All offsets are absolute in the view. One packet costs about
 * 10 ns.
 */
export class IpPacket {
  /** 4 or 6. */
  version: 4 | 6 = 4
  /** First byte of the IP header. */
  at = 0
  /** Bytes from `at` to the end of the packet as its header says. */
  length = 0
  /** The transport protocol, after any IPv6 extension headers. */
  protocol = 0
  srcAt = 0
  dstAt = 0
  /** 4 or 16. */
  addressLength = 4
  transportAt = 0
  /** Bytes from `transportAt` to the end; what is there is a transport header only if `fragmentOffset` is 0. */
  transportLength = 0
  /** In bytes. */
  fragmentOffset = 0
  /** Whether this is a fragment at all, first or later. */
  isFragment = false
  /** The identification that the fragments of one packet share; signed. */
  fragmentId = 0

  /**
   * Reads the packet at `at` of which `length` bytes are there; false when it is no well-formed IP packet. `quoted`: the
   * packet is the beginning of one (in an ICMP error) and may be cut after its headers.
   */
  parse(view: DataView, at: number, length: number, quoted = false): boolean {
    if (length < IPV4.MIN_HEADER) return false
    const first = view.getUint8(at)
    if (first >> 4 === 4) return this.#parseV4(view, at, length, (first & 15) * 4, quoted)
    return first >> 4 === 6 && this.#parseV6(view, at, length, quoted)
  }

  #parseV4(view: DataView, at: number, length: number, headerLength: number, quoted: boolean): boolean {
    let total = view.getUint16(at + IPV4.TOTAL_LENGTH)
    if (headerLength < IPV4.MIN_HEADER || total < headerLength) return false
    if (total > length) {
      if (!quoted || headerLength > length) return false
      total = length
    }
    const fragment = view.getUint16(at + IPV4.FRAGMENT)
    this.version = 4
    this.at = at
    this.length = total
    this.protocol = view.getUint8(at + IPV4.PROTOCOL)
    this.srcAt = at + IPV4.SRC
    this.dstAt = at + IPV4.DST
    this.addressLength = 4
    this.transportAt = at + headerLength
    this.transportLength = total - headerLength
    this.fragmentOffset = (fragment & IPV4.FRAGMENT_OFFSET) * 8
    this.isFragment = (fragment & (IPV4.FRAGMENT_OFFSET | IPV4.MORE_FRAGMENTS)) !== 0
    this.fragmentId = view.getUint16(at + IPV4.IDENTIFICATION)
    return true
  }

  #parseV6(view: DataView, at: number, length: number, quoted: boolean): boolean {
    if (length < IPV6.HEADER) return false
    let total = IPV6.HEADER + view.getUint16(at + IPV6.PAYLOAD_LENGTH)
    if (total > length) {
      if (!quoted) return false
      total = length
    }
    const end = at + total
    this.version = 6
    this.at = at
    this.length = total
    this.srcAt = at + IPV6.SRC
    this.dstAt = at + IPV6.DST
    this.addressLength = 16
    this.fragmentOffset = 0
    this.isFragment = false
    this.fragmentId = 0
    let protocol = view.getUint8(at + IPV6.NEXT_HEADER)
    let next = at + IPV6.HEADER
    for (let i = 0; this.fragmentOffset === 0; i++) {
      const extension = extensionLength(view, protocol, next, end)
      if (extension === 0) break
      if (extension < 0 || i === MAX_EXTENSION_HEADERS) return false
      if (protocol === Protocol.FRAGMENT) {
        const fragment = view.getUint16(next + 2)
        this.fragmentOffset = fragment & 0xfff8
        // An atomic fragment (RFC 6946) is a whole packet.
        this.isFragment = (fragment & 0xfff9) !== 0
        this.fragmentId = view.getInt32(next + 4)
      }
      protocol = view.getUint8(next)
      next += extension
    }
    this.protocol = protocol
    this.transportAt = next
    this.transportLength = end - next
    return true
  }
}
