/** Segments of the machine as IP packets. */
import { addSum, finish, pseudoSum } from '../core/checksum.ts'
import { destinationAt, ipHeaderLength, Protocol, setIpLength, sourceAt } from '../core/ip.ts'
import { IPV4, sealIpv4Header, writeIpv4 } from '../core/ipv4.ts'
import { IPV6, writeIpv6 } from '../core/ipv6.ts'
import { TCP } from '../core/tcp.ts'
import { type OutSegment, payloadLength } from './machine/segment.ts'

const HOP_LIMIT = 64

/**
 * Writes the IP and TCP headers of a segment at `at`, its checksum without that of the payload (`sealTcp`), and returns their
 * length. `like`: a packet whose traffic class and hop limit it gets; -1: none. `skip`: bytes of its payload before.
 */
export function writeHeaders(
  view: DataView,
  bytes: Uint8Array,
  at: number,
  segment: OutSegment,
  payloadLength: number,
  like = -1,
  skip = 0,
): number {
  const { tuple, to, options } = segment
  const four = tuple.local.length === 4
  const ip = four ? IPV4.MIN_HEADER : IPV6.HEADER
  const header = TCP.MIN_HEADER + options.length
  const total = ip + header + payloadLength
  if (like >= 0) bytes.copyWithin(at, like, like + ip)
  if (four) {
    if (like < 0) writeIpv4(view, at, total, 0, HOP_LIMIT, Protocol.TCP)
    else view.setUint8(at, 0x45)
  } else if (like < 0) writeIpv6(view, at, total - ip, HOP_LIMIT, Protocol.TCP)
  else view.setUint8(at + IPV6.NEXT_HEADER, Protocol.TCP)
  setIpLength(view, at, total)
  const [source, destination] = to === 'wire' ? [tuple.local, tuple.remote] : [tuple.remote, tuple.local]
  bytes.set(source, sourceAt(view, at))
  bytes.set(destination, destinationAt(view, at))
  if (four) sealIpv4Header(view, at, ip)
  const tcp = at + ip
  view.setUint16(tcp + TCP.SRC_PORT, to === 'wire' ? tuple.localPort : tuple.remotePort)
  view.setUint16(tcp + TCP.DST_PORT, to === 'wire' ? tuple.remotePort : tuple.localPort)
  view.setUint32(tcp + TCP.SEQ, (segment.seq + skip) >>> 0)
  view.setUint32(tcp + TCP.ACK, segment.ack)
  view.setUint8(tcp + TCP.DATA_OFFSET, (header >> 2) << 4)
  view.setUint8(tcp + TCP.FLAGS, segment.flags)
  view.setUint16(tcp + TCP.WINDOW, segment.window)
  view.setUint16(tcp + TCP.CHECKSUM, 0)
  view.setUint16(tcp + TCP.URGENT, 0)
  bytes.set(options, tcp + TCP.MIN_HEADER)
  return ip + header
}

/** Writes the checksum of a TCP header at `tcp` in the packet at `ip`; the payload lies elsewhere. */
export function sealTcp(
  view: DataView,
  ip: number,
  headers: number,
  payload: DataView,
  payloadAt: number,
  payloadLength: number,
): void {
  const tcp = ip + ipHeaderLength(view, ip)
  const header = ip + headers - tcp
  let sum = pseudoSum(view, ip, Protocol.TCP, header + payloadLength)
  sum = addSum(view, tcp, header, sum)
  sum = addSum(payload, payloadAt, payloadLength, sum)
  view.setUint16(tcp + TCP.CHECKSUM, finish(sum))
}

/** A whole packet; `source` is where a payload that is named by its place lies, `shift` bytes on. */
export function packetOf(
  segment: OutSegment,
  source: Uint8Array,
  skip = 0,
  most = 0xffff,
  shift = 0,
): Uint8Array {
  const out = new Uint8Array(longestPacket(segment, skip, most))
  return out.subarray(0, writePacket(new DataView(out.buffer), out, 0, segment, source, skip, most, shift))
}

/** What `packetOf` gives, written at `at`, where there is room for `longestPacket`; returns its length. */
export function writePacket(
  view: DataView,
  bytes: Uint8Array,
  at: number,
  segment: OutSegment,
  source: Uint8Array,
  skip: number,
  most: number,
  shift: number,
): number {
  const { payload } = segment
  const length = Math.min(most, payloadLength(segment) - skip)
  const headers = writeHeaders(view, bytes, at, segment, length, -1, skip)
  if (payload !== undefined && length > 0) {
    const from = payload instanceof Uint8Array ? payload : source
    const start = (payload instanceof Uint8Array ? 0 : payload.at + shift) + skip
    bytes.set(from.subarray(start, start + length), at + headers)
  }
  sealTcp(view, at, headers, view, at + headers, length)
  return headers + length
}

/** Its length in bytes at most. */
export function longestPacket(segment: OutSegment, skip: number, most: number): number {
  return IPV6.HEADER + TCP.MAX_HEADER + Math.min(most, payloadLength(segment) - skip)
}
