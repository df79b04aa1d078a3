/**
 * IP, TCP and UDP headers in packet memory, as the datapath handles them: numbers in, numbers out, nothing allocated.
 * (core/ has checksums, and codecs for all that is not per packet.)
 */
import { checksum, complete, fold, pseudoSum } from '../../core/checksum.ts'

export const TCP = 6
export const UDP = 17
export const IPV6_HEADER = 40
export const UDP_HEADER = 8

/** Offsets in a TCP header. */
export const TCP_SEQ = 4
export const TCP_ACK = 8
export const TCP_DATA_OFFSET = 12
export const TCP_FLAGS = 13
export const TCP_CHECKSUM = 16
export const UDP_CHECKSUM = 6

export const FIN = 0x01
export const SYN = 0x02
export const RST = 0x04
export const PSH = 0x08
export const ACK = 0x10
export const CWR = 0x80

/** Writes the IPv4 header checksum. */
export function sealIpv4Header(view: DataView, at: number, headerLength: number): void {
  view.setUint16(at + 10, 0)
  view.setUint16(at + 10, checksum(view, at, headerLength))
}

/** Computes and writes the whole checksum of the TCP or UDP segment at `transport` in the packet at `at`. */
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

/** Whether the TCP or UDP checksum of the packet is right. */
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
 * The length of the IP packet at `at` of which `available` bytes are there; 0 when it is no whole IP packet. What lies
 * behind (WireGuard's padding) is not part of it.
 */
export function packetLength(view: DataView, at: number, available: number): number {
  if (available < 20) return 0
  const version = view.getUint8(at) >> 4
  if (version === 4) {
    const length = view.getUint16(at + 2)
    const header = (view.getUint8(at) & 15) * 4
    return header >= 20 && length >= header && length <= available ? length : 0
  }
  if (version !== 6 || available < IPV6_HEADER) return 0
  const length = IPV6_HEADER + view.getUint16(at + 4)
  return length <= available ? length : 0
}

/** TCP or UDP when that header follows the IP header at once and whole, and the packet is no fragment; else 0. */
export function plainTransport(view: DataView, at: number, length: number): number {
  let protocol: number
  let header: number
  if (view.getUint8(at) >> 4 === 4) {
    if ((view.getUint16(at + 6) & 0x3fff) !== 0) return 0
    protocol = view.getUint8(at + 9)
    header = (view.getUint8(at) & 15) * 4
  } else {
    protocol = view.getUint8(at + 6)
    header = IPV6_HEADER
  }
  if (protocol === TCP) {
    if (length < header + 20) return 0
    const tcp = (view.getUint8(at + header + TCP_DATA_OFFSET) >> 4) * 4
    return tcp >= 20 && header + tcp <= length ? TCP : 0
  }
  return protocol === UDP && length >= header + UDP_HEADER ? UDP : 0
}

export function ipHeaderLength(view: DataView, at: number): number {
  const first = view.getUint8(at)
  return first >> 4 === 4 ? (first & 15) * 4 : IPV6_HEADER
}
