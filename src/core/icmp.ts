/**
 * ICMP for IPv4 (RFC 792, 1191) and IPv6 (RFC 4443): echo, and the errors that quote the packet they are about.
 *
 *  0                   1                   2                   3
 *  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 * +---------------+---------------+-------------------------------+
 * |      type     |      code     |           checksum            |
 * +---------------+---------------+-------------------------------+
 * | echo: identifier, sequence · too big: MTU · else: parameter   |
 * +---------------------------------------------------------------+
 * | echo: payload · errors: the beginning of the offending packet |
 * +---------------------------------------------------------------+
 */
import { kindOf } from './address.ts'
import { viewOf } from './bytes.ts'
import { addSum, checksum, finish, pseudoSumV6 } from './checksum.ts'
import type { Codec } from './codec.ts'
import { IpPacket, Protocol } from './ip.ts'
import { IPV4, ipv4Codec } from './ipv4.ts'
import { IPV6, ipv6Codec } from './ipv6.ts'
import { type Decoded, decoded, malformed } from './result.ts'

export const ICMP = { TYPE: 0, CODE: 1, CHECKSUM: 2, REST: 4, BODY: 8, HEADER: 8 } as const

export const Icmpv4Type = { ECHO_REPLY: 0, UNREACHABLE: 3, ECHO_REQUEST: 8, TIME_EXCEEDED: 11 } as const
export const Icmpv6Type = {
  UNREACHABLE: 1,
  PACKET_TOO_BIG: 2,
  TIME_EXCEEDED: 3,
  ECHO_REQUEST: 128,
  ECHO_REPLY: 129,
} as const
const FRAGMENTATION_NEEDED = 4

export type IcmpMessage =
  | {
      readonly kind: 'echo-request' | 'echo-reply'
      readonly identifier: number
      readonly sequence: number
      readonly payload: Uint8Array
    }
  /** Fragmentation needed (IPv4; an MTU of 0 comes from routers before RFC 1191) or packet too big (IPv6). */
  | { readonly kind: 'too-big'; readonly mtu: number; readonly quoted: Uint8Array }
  | { readonly kind: 'unreachable' | 'time-exceeded'; readonly code: number; readonly quoted: Uint8Array }
  | {
      readonly kind: 'other'
      readonly type: number
      readonly code: number
      readonly rest: number
      readonly body: Uint8Array
    }

/** Decoding checks the checksum, encoding computes it. */
export const icmpv4Codec: Codec<IcmpMessage> = codecFor(4, 0)

/** The checksum of ICMPv6 covers the addresses of its packet, so the codec is made for a pair of them. */
export function icmpv6Codec(src: Uint8Array, dst: Uint8Array): Codec<IcmpMessage> {
  return codecFor(6, addSum(viewOf(src), 0, 16) + addSum(viewOf(dst), 0, 16) + Protocol.ICMPV6)
}

function codecFor(version: 4 | 6, addresses: number): Codec<IcmpMessage> {
  const sumBase = (length: number) => (version === 4 ? 0 : addresses + length)
  return {
    decode(bytes, at = 0, end = bytes.length): Decoded<IcmpMessage> {
      if (end - at < ICMP.HEADER) return malformed('ICMP message cut short')
      const view = viewOf(bytes)
      if (checksum(view, at, end - at, sumBase(end - at)) !== 0) return malformed('ICMP checksum wrong')
      return decoded(
        meaning(
          version,
          view.getUint8(at + ICMP.TYPE),
          view.getUint8(at + ICMP.CODE),
          view.getUint32(at + ICMP.REST),
          bytes.slice(at + ICMP.BODY, end),
        ),
      )
    },

    encode(message, out, at = 0): number {
      const { type, code, rest, body } = wireForm(version, message)
      const length = ICMP.HEADER + body.length
      const view = viewOf(out)
      out.set(body, at + ICMP.BODY)
      view.setUint8(at + ICMP.TYPE, type)
      view.setUint8(at + ICMP.CODE, code)
      view.setUint16(at + ICMP.CHECKSUM, 0)
      view.setUint32(at + ICMP.REST, rest)
      view.setUint16(at + ICMP.CHECKSUM, checksum(view, at, length, sumBase(length)))
      return at + length
    },

    byteLength(message): number {
      return ICMP.HEADER + wireForm(version, message).body.length
    },
  }
}

function meaning(version: 4 | 6, type: number, code: number, rest: number, body: Uint8Array): IcmpMessage {
  const types = version === 4 ? Icmpv4Type : Icmpv6Type
  if (code === 0 && (type === types.ECHO_REQUEST || type === types.ECHO_REPLY)) {
    const kind = type === types.ECHO_REQUEST ? 'echo-request' : 'echo-reply'
    return { kind, identifier: rest >>> 16, sequence: rest & 0xffff, payload: body }
  }
  if (version === 4 && type === Icmpv4Type.UNREACHABLE && code === FRAGMENTATION_NEEDED && rest <= 0xffff)
    return { kind: 'too-big', mtu: rest, quoted: body }
  if (version === 6 && type === Icmpv6Type.PACKET_TOO_BIG && code === 0)
    return { kind: 'too-big', mtu: rest, quoted: body }
  if (rest === 0 && type === types.UNREACHABLE) return { kind: 'unreachable', code, quoted: body }
  if (rest === 0 && type === types.TIME_EXCEEDED) return { kind: 'time-exceeded', code, quoted: body }
  return { kind: 'other', type, code, rest, body }
}

function wireForm(
  version: 4 | 6,
  message: IcmpMessage,
): { type: number; code: number; rest: number; body: Uint8Array } {
  const types = version === 4 ? Icmpv4Type : Icmpv6Type
  switch (message.kind) {
    case 'echo-request':
    case 'echo-reply': {
      const type = message.kind === 'echo-request' ? types.ECHO_REQUEST : types.ECHO_REPLY
      const rest = ((message.identifier << 16) | message.sequence) >>> 0
      return { type, code: 0, rest, body: message.payload }
    }
    case 'too-big':
      return version === 4
        ? { type: types.UNREACHABLE, code: FRAGMENTATION_NEEDED, rest: message.mtu, body: message.quoted }
        : { type: Icmpv6Type.PACKET_TOO_BIG, code: 0, rest: message.mtu, body: message.quoted }
    case 'unreachable':
      return { type: types.UNREACHABLE, code: message.code, rest: 0, body: message.quoted }
    case 'time-exceeded':
      return { type: types.TIME_EXCEEDED, code: message.code, rest: 0, body: message.quoted }
    case 'other':
      return message
  }
}

/** Whether an ICMP message of this type reports on another packet and quotes it (RFC 1122 §3.2.2, RFC 4443 §2.1). */
export function isIcmpError(protocol: number, type: number): boolean {
  if (protocol === Protocol.ICMPV6) return type < 128
  return protocol === Protocol.ICMP && (type === 3 || type === 4 || type === 5 || type === 11 || type === 12)
}

/** Where ICMP errors may be quoted up to: whole answer at most 576 bytes (RFC 1812 §4.3.2.3) or 1280 (RFC 4443 §3.2). */
const MAX_ERROR = { 4: 576, 6: 1280 } as const

/** Room that `writeTooBig` may need. */
export const TOO_BIG_MAX = MAX_ERROR[6]

const offending = new IpPacket()

/**
 * Writes at `out[outAt]` the whole IP packet that tells the sender of the packet at `at` that no more than `mtu` bytes
 * pass, and returns its length; 0 when RFC 1122 §3.2.2 or RFC 4443 §2.4 forbid an answer (an ICMP error, a later
 * fragment, a source or destination that is not unicast) or the packet is malformed. It seems to come from `from`, or
 * from the packet's destination.
 */
export function writeTooBig(
  bytes: Uint8Array,
  at: number,
  length: number,
  mtu: number,
  out: Uint8Array,
  outAt: number,
  from?: Uint8Array,
): number {
  const view = viewOf(bytes)
  const packet = offending
  if (!packet.parse(view, at, length) || packet.fragmentOffset !== 0) return 0
  if (
    (packet.protocol === Protocol.ICMP || packet.protocol === Protocol.ICMPV6) &&
    (packet.transportLength < 1 || isIcmpError(packet.protocol, view.getUint8(packet.transportAt)))
  )
    return 0
  const sender = bytes.slice(packet.srcAt, packet.srcAt + packet.addressLength)
  const target = bytes.slice(packet.dstAt, packet.dstAt + packet.addressLength)
  if (!isUnicast(sender) || !isUnicast(target)) return 0

  const headerLength = packet.version === 4 ? IPV4.MIN_HEADER : IPV6.HEADER
  const quotable = MAX_ERROR[packet.version] - headerLength - ICMP.HEADER
  const quoted = Math.min(packet.length, quotable)
  const icmpAt = outAt + headerLength
  const icmpLength = ICMP.HEADER + quoted
  const src = from ?? target
  if (packet.version === 4)
    ipv4Codec.encode(
      {
        trafficClass: 0xc0, // internetwork control, RFC 1812 §4.3.2.5
        totalLength: headerLength + icmpLength,
        identification: 0,
        dontFragment: true,
        moreFragments: false,
        fragmentOffset: 0,
        ttl: 64,
        protocol: Protocol.ICMP,
        src,
        dst: sender,
        options: new Uint8Array(0),
      },
      out,
      outAt,
    )
  else
    ipv6Codec.encode(
      {
        trafficClass: 0,
        flowLabel: 0,
        payloadLength: icmpLength,
        nextHeader: Protocol.ICMPV6,
        hopLimit: 64,
        src,
        dst: sender,
      },
      out,
      outAt,
    )
  const outView = viewOf(out)
  out.set(bytes.subarray(at, at + quoted), icmpAt + ICMP.BODY)
  outView.setUint8(icmpAt, packet.version === 4 ? Icmpv4Type.UNREACHABLE : Icmpv6Type.PACKET_TOO_BIG)
  outView.setUint8(icmpAt + ICMP.CODE, packet.version === 4 ? FRAGMENTATION_NEEDED : 0)
  outView.setUint16(icmpAt + ICMP.CHECKSUM, 0)
  outView.setUint32(icmpAt + ICMP.REST, mtu)
  const pseudo = packet.version === 4 ? 0 : pseudoSumV6(outView, outAt, Protocol.ICMPV6, icmpLength)
  outView.setUint16(icmpAt + ICMP.CHECKSUM, finish(addSum(outView, icmpAt, icmpLength, pseudo)))
  return headerLength + icmpLength
}

function isUnicast(address: Uint8Array): boolean {
  const kind = kindOf(address)
  return kind !== 'multicast' && kind !== 'broadcast' && kind !== 'unspecified'
}
