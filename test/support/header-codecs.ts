/**
 * Headers as objects, read and written through the views of core/: for the codec suite, which holds the views to golden
 * bytes, truncations, round trip and random bytes, and for tests that build packets. A header that the views refuse is
 * malformed here.
 */
import { viewOf } from '../../src/core/bytes.ts'
import { addSum, checksum } from '../../src/core/checksum.ts'
import type { Codec } from '../../src/core/codec.ts'
import { ICMP } from '../../src/core/icmp.ts'
import { ipLength, ipVersion, Protocol, setIpLength } from '../../src/core/ip.ts'
import { IPV4, ipv4HeaderLength, sealIpv4Header, writeIpv4 } from '../../src/core/ipv4.ts'
import { IPV6, writeIpv6 } from '../../src/core/ipv6.ts'
import { decoded, malformed } from '../../src/core/result.ts'
import {
  checkedTcpHeaderLength,
  optionLength,
  TCP,
  TcpOption,
  tcpFlags,
  tcpHeaderLength,
  tcpSeq,
} from '../../src/core/tcp.ts'
import { UDP, udpLength } from '../../src/core/udp.ts'

export interface Ipv4Header {
  readonly trafficClass: number
  /** Header, options and payload, bytes. */
  readonly totalLength: number
  readonly identification: number
  /** Flags and offset as on the wire. */
  readonly fragment: number
  readonly ttl: number
  readonly protocol: number
  readonly src: Uint8Array
  readonly dst: Uint8Array
  /** A multiple of 4 bytes, at most 40. */
  readonly options: Uint8Array
}

/** Decoding checks the header checksum, encoding computes it. */
export const ipv4Codec: Codec<Ipv4Header> = {
  decode(bytes, at = 0, end = bytes.length) {
    const view = viewOf(bytes)
    const totalLength = ipLength(view, at, end - at)
    if (totalLength === 0 || ipVersion(view, at) !== 4) return malformed('no whole IPv4 packet')
    const header = ipv4HeaderLength(view, at)
    if (checksum(view, at, header) !== 0) return malformed('IPv4 header checksum wrong')
    return decoded({
      trafficClass: view.getUint8(at + IPV4.TRAFFIC_CLASS),
      totalLength,
      identification: view.getUint16(at + IPV4.IDENTIFICATION),
      fragment: view.getUint16(at + IPV4.FRAGMENT),
      ttl: view.getUint8(at + IPV4.TTL),
      protocol: view.getUint8(at + IPV4.PROTOCOL),
      src: bytes.slice(at + IPV4.SRC, at + IPV4.SRC + 4),
      dst: bytes.slice(at + IPV4.DST, at + IPV4.DST + 4),
      options: bytes.slice(at + IPV4.OPTIONS, at + header),
    })
  },

  encode(header, out, at = 0) {
    const view = viewOf(out)
    const length = ipv4Codec.byteLength(header)
    if (at + length > out.length) throw new RangeError('too small')
    writeIpv4(view, at, header.totalLength, header.trafficClass, header.ttl, header.protocol)
    view.setUint8(at, 0x40 | (length / 4))
    view.setUint16(at + IPV4.IDENTIFICATION, header.identification)
    view.setUint16(at + IPV4.FRAGMENT, header.fragment)
    out.set(header.src, at + IPV4.SRC)
    out.set(header.dst, at + IPV4.DST)
    out.set(header.options, at + IPV4.OPTIONS)
    sealIpv4Header(view, at, length)
    return at + length
  },

  byteLength: (header) => IPV4.MIN_HEADER + header.options.length,
}

export interface Ipv6Header {
  /** Extension headers and payload, bytes. */
  readonly payloadLength: number
  /** Version, traffic class and flow label as on the wire. */
  readonly first: number
  readonly nextHeader: number
  readonly hopLimit: number
  readonly src: Uint8Array
  readonly dst: Uint8Array
}

/** The fixed header; extension headers belong to the payload. */
export const ipv6Codec: Codec<Ipv6Header> = {
  decode(bytes, at = 0, end = bytes.length) {
    const view = viewOf(bytes)
    const length = ipLength(view, at, end - at)
    if (length === 0 || ipVersion(view, at) !== 6) return malformed('no whole IPv6 packet')
    return decoded({
      payloadLength: length - IPV6.HEADER,
      first: view.getUint32(at + IPV6.VERSION_CLASS_LABEL),
      nextHeader: view.getUint8(at + IPV6.NEXT_HEADER),
      hopLimit: view.getUint8(at + IPV6.HOP_LIMIT),
      src: bytes.slice(at + IPV6.SRC, at + IPV6.SRC + 16),
      dst: bytes.slice(at + IPV6.DST, at + IPV6.DST + 16),
    })
  },

  encode(header, out, at = 0) {
    const view = viewOf(out)
    if (at + IPV6.HEADER > out.length) throw new RangeError('too small')
    writeIpv6(view, at, 0, header.hopLimit, header.nextHeader)
    setIpLength(view, at, IPV6.HEADER + header.payloadLength)
    view.setUint32(at + IPV6.VERSION_CLASS_LABEL, header.first)
    out.set(header.src, at + IPV6.SRC)
    out.set(header.dst, at + IPV6.DST)
    return at + IPV6.HEADER
  },

  byteLength: () => IPV6.HEADER,
}

export interface UdpHeader {
  readonly srcPort: number
  readonly dstPort: number
  /** Header and payload, bytes. */
  readonly length: number
  readonly checksum: number
}

export const udpCodec: Codec<UdpHeader> = {
  decode(bytes, at = 0, end = bytes.length) {
    const view = viewOf(bytes)
    const length = udpLength(view, at, end - at)
    if (length === 0) return malformed('no whole UDP datagram')
    return decoded({
      srcPort: view.getUint16(at + UDP.SRC_PORT),
      dstPort: view.getUint16(at + UDP.DST_PORT),
      length,
      checksum: view.getUint16(at + UDP.CHECKSUM),
    })
  },

  encode(header, out, at = 0) {
    const view = viewOf(out)
    view.setUint16(at + UDP.CHECKSUM, header.checksum)
    view.setUint16(at + UDP.SRC_PORT, header.srcPort)
    view.setUint16(at + UDP.DST_PORT, header.dstPort)
    view.setUint16(at + UDP.LENGTH, header.length)
    return at + UDP.HEADER
  },

  byteLength: () => UDP.HEADER,
}

/** `data`: what follows kind and length; a NOP has none. */
export interface Option {
  readonly kind: number
  readonly data: Uint8Array
}

export const NOP: Option = { kind: TcpOption.NOP, data: new Uint8Array(0) }

export function mssOption(mss: number): Option {
  return { kind: TcpOption.MSS, data: Uint8Array.of(mss >> 8, mss & 0xff) }
}

export interface TcpHeader {
  readonly srcPort: number
  readonly dstPort: number
  readonly seq: number
  readonly ack: number
  readonly flags: number
  readonly window: number
  readonly checksum: number
  readonly urgent: number
  /** In wire order; the zeros that fill the last word are not listed. */
  readonly options: readonly Option[]
}

export const tcpCodec: Codec<TcpHeader> = {
  decode(bytes, at = 0, end = bytes.length) {
    const view = viewOf(bytes)
    const header = checkedTcpHeaderLength(view, at, end - at)
    if (header === 0) return malformed('no whole TCP header')
    if (header !== tcpHeaderLength(view, at)) return malformed('two readings of one length')
    const options: Option[] = []
    let next = at + TCP.OPTIONS
    for (let size = 0; ; next += size) {
      size = optionLength(view, next, at + header)
      if (size === 0) break
      options.push({ kind: bytes[next]!, data: bytes.slice(next + 2, next + size) })
    }
    if (next < at + header && bytes[next] !== TcpOption.END) return malformed('TCP option of a wrong length')
    return decoded({
      srcPort: view.getUint16(at + TCP.SRC_PORT),
      dstPort: view.getUint16(at + TCP.DST_PORT),
      seq: tcpSeq(view, at),
      ack: view.getUint32(at + TCP.ACK),
      flags: tcpFlags(view, at),
      window: view.getUint16(at + TCP.WINDOW),
      checksum: view.getUint16(at + TCP.CHECKSUM),
      urgent: view.getUint16(at + TCP.URGENT),
      options,
    })
  },

  encode(header, out, at = 0) {
    const length = tcpCodec.byteLength(header)
    const view = viewOf(out)
    view.setUint8(at + length - 1, TcpOption.END)
    view.setUint16(at + TCP.SRC_PORT, header.srcPort)
    view.setUint16(at + TCP.DST_PORT, header.dstPort)
    view.setUint32(at + TCP.SEQ, header.seq)
    view.setUint32(at + TCP.ACK, header.ack)
    view.setUint8(at + TCP.DATA_OFFSET, (length / 4) << 4)
    view.setUint8(at + TCP.FLAGS, header.flags)
    view.setUint16(at + TCP.WINDOW, header.window)
    view.setUint16(at + TCP.CHECKSUM, header.checksum)
    view.setUint16(at + TCP.URGENT, header.urgent)
    let next = at + TCP.OPTIONS
    for (const option of header.options) {
      out[next] = option.kind
      if (option.kind !== TcpOption.NOP) {
        out[next + 1] = sizeOf(option)
        out.set(option.data, next + 2)
      }
      next += sizeOf(option)
    }
    out.fill(TcpOption.END, next, at + length)
    return at + length
  },

  byteLength(header) {
    const options = header.options.reduce((sum, option) => sum + sizeOf(option), 0)
    return TCP.MIN_HEADER + Math.ceil(options / 4) * 4
  },
}

function sizeOf({ kind, data }: Option): number {
  return kind === TcpOption.NOP ? 1 : 2 + data.length
}

export interface IcmpMessage {
  readonly type: number
  readonly code: number
  /** The four bytes after the checksum. */
  readonly rest: number
  readonly body: Uint8Array
}

/** Decoding checks the checksum, encoding computes it. */
export const icmpv4Codec: Codec<IcmpMessage> = icmpCodec(() => 0)

/** The checksum of ICMPv6 covers the addresses of its packet. */
export function icmpv6Codec(src: Uint8Array, dst: Uint8Array): Codec<IcmpMessage> {
  const addresses = addSum(viewOf(src), 0, 16) + addSum(viewOf(dst), 0, 16)
  return icmpCodec((length) => addresses + length + Protocol.ICMPV6)
}

function icmpCodec(pseudo: (length: number) => number): Codec<IcmpMessage> {
  return {
    decode(bytes, at = 0, end = bytes.length) {
      const view = viewOf(bytes)
      if (end - at < ICMP.HEADER) return malformed('ICMP message cut short')
      if (checksum(view, at, end - at, pseudo(end - at)) !== 0) return malformed('ICMP checksum wrong')
      return decoded({
        type: view.getUint8(at + ICMP.TYPE),
        code: view.getUint8(at + ICMP.CODE),
        rest: view.getUint32(at + ICMP.REST),
        body: bytes.slice(at + ICMP.BODY, end),
      })
    },

    encode(message, out, at = 0) {
      const view = viewOf(out)
      const length = ICMP.HEADER + message.body.length
      out.set(message.body, at + ICMP.BODY)
      view.setUint8(at + ICMP.TYPE, message.type)
      view.setUint8(at + ICMP.CODE, message.code)
      view.setUint16(at + ICMP.CHECKSUM, 0)
      view.setUint32(at + ICMP.REST, message.rest)
      view.setUint16(at + ICMP.CHECKSUM, checksum(view, at, length, pseudo(length)))
      return at + length
    },

    byteLength: (message) => ICMP.HEADER + message.body.length,
  }
}
