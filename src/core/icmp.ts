/**
 * ICMP for IPv4 (RFC 792, 1191) and IPv6 (RFC 4443) where it lies: echo, and the errors that quote the packet they are
 * about.
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
import { addSum, finish, pseudoSumV6 } from './checksum.ts'
import {
  addressLength,
  destinationAt,
  ipLength,
  ipVersion,
  isLaterFragment,
  offsetIn,
  Protocol,
  protocolIn,
  sourceAt,
  transportOf,
} from './ip.ts'
import { IPV4, sealIpv4Header, writeIpv4 } from './ipv4.ts'
import { IPV6, writeIpv6 } from './ipv6.ts'

/** Offsets from the message's first byte. */
export const ICMP = { TYPE: 0, CODE: 1, CHECKSUM: 2, REST: 4, BODY: 8, HEADER: 8 } as const

export const Icmpv4Type = { ECHO_REPLY: 0, UNREACHABLE: 3, ECHO_REQUEST: 8 } as const
export const Icmpv6Type = { PACKET_TOO_BIG: 2, ECHO_REQUEST: 128, ECHO_REPLY: 129 } as const
/** Fragmentation needed; packet too big. */
const TOO_BIG = {
  4: { type: Icmpv4Type.UNREACHABLE, code: 4 },
  6: { type: Icmpv6Type.PACKET_TOO_BIG, code: 0 },
} as const
/** Host unreachable; address unreachable. */
const UNREACHABLE = { 4: { type: Icmpv4Type.UNREACHABLE, code: 1 }, 6: { type: 1, code: 3 } } as const
/** Internetwork control (RFC 1812 §4.3.2.5). */
const ERROR_CLASS = 0xc0
const ERROR_TTL = 64

/** Echo request or reply: what has an identifier where others have ports. */
export function isEcho(protocol: number, type: number): boolean {
  return protocol === Protocol.ICMP
    ? type === Icmpv4Type.ECHO_REQUEST || type === Icmpv4Type.ECHO_REPLY
    : type === Icmpv6Type.ECHO_REQUEST || type === Icmpv6Type.ECHO_REPLY
}

/** Whether an ICMP message of this type reports on another packet and quotes it (RFC 1122 §3.2.2, RFC 4443 §2.1). */
export function isIcmpError(protocol: number, type: number): boolean {
  if (protocol === Protocol.ICMPV6) return type < 128
  return protocol === Protocol.ICMP && (type === 3 || type === 4 || type === 5 || type === 11 || type === 12)
}

/**
 * Where an ICMP error quotes the destination of the packet that it is about, in bytes from the start of its own packet. 0: it is
 * no error, or a later fragment, which means nothing without its first. Negative: an error that does not hold that address.
 * `icmp`: where the ICMP header lies, from the same start.
 */
export function quotedDestination(
  view: DataView,
  at: number,
  length: number,
  protocol: number,
  icmp: number,
): number {
  if ((protocol !== Protocol.ICMP && protocol !== Protocol.ICMPV6) || icmp === 0) return 0
  if (icmp >= length || !isIcmpError(protocol, view.getUint8(at + icmp))) return 0
  const quote = icmp + ICMP.BODY
  if (quote >= length || ipVersion(view, at + quote) !== ipVersion(view, at)) return NO_QUOTE
  const destination = destinationAt(view, at + quote) - at
  return destination + addressLength(view, at) > length ? NO_QUOTE : destination
}

/** The same, where the packet has not been looked at; negative too if it is malformed. */
export function quotedIn(view: DataView, at: number, length: number): number {
  const transport = transportOf(view, at, length)
  if (transport < 0) return NO_QUOTE
  return isLaterFragment(transport)
    ? 0
    : quotedDestination(view, at, length, protocolIn(transport), offsetIn(transport))
}

const NO_QUOTE = -1

/** Where ICMP errors may be quoted up to: whole answer at most 576 bytes (RFC 1812 §4.3.2.3) or 1280 (RFC 4443 §3.2). */
const MAX_ERROR = { 4: 576, 6: 1280 } as const

/** Room that the errors here may need. */
export const TOO_BIG_MAX = MAX_ERROR[6]

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
  return writeError(bytes, at, length, TOO_BIG, mtu, out, outAt, from)
}

/** The same for a destination that cannot be reached: an error that transports take for a passing one. */
export function writeUnreachable(
  bytes: Uint8Array,
  at: number,
  length: number,
  out: Uint8Array,
  outAt: number,
  from?: Uint8Array,
): number {
  return writeError(bytes, at, length, UNREACHABLE, 0, out, outAt, from)
}

function writeError(
  bytes: Uint8Array,
  at: number,
  length: number,
  what: Readonly<Record<4 | 6, { readonly type: number; readonly code: number }>>,
  rest: number,
  out: Uint8Array,
  outAt: number,
  from?: Uint8Array,
): number {
  const view = viewOf(bytes)
  const whole = ipLength(view, at, length)
  if (whole === 0) return 0
  const transport = transportOf(view, at, whole)
  if (transport < 0 || isLaterFragment(transport)) return 0
  const protocol = protocolIn(transport)
  const offset = offsetIn(transport)
  if (
    (protocol === Protocol.ICMP || protocol === Protocol.ICMPV6) &&
    (whole <= offset || isIcmpError(protocol, view.getUint8(at + offset)))
  )
    return 0
  const width = addressLength(view, at)
  const sender = bytes.slice(sourceAt(view, at), sourceAt(view, at) + width)
  const target = bytes.slice(destinationAt(view, at), destinationAt(view, at) + width)
  if (!isUnicast(sender) || !isUnicast(target)) return 0

  const v4 = ipVersion(view, at) === 4
  const headerLength = v4 ? IPV4.MIN_HEADER : IPV6.HEADER
  const quoted = Math.min(whole, MAX_ERROR[v4 ? 4 : 6] - headerLength - ICMP.HEADER)
  const icmpLength = ICMP.HEADER + quoted
  const icmp = outAt + headerLength
  const outView = viewOf(out)
  if (v4) writeIpv4(outView, outAt, headerLength + icmpLength, ERROR_CLASS, ERROR_TTL, Protocol.ICMP)
  else writeIpv6(outView, outAt, icmpLength, ERROR_TTL, Protocol.ICMPV6)
  out.set(from ?? target, sourceAt(outView, outAt))
  out.set(sender, destinationAt(outView, outAt))
  if (v4) sealIpv4Header(outView, outAt, headerLength)
  out.set(bytes.subarray(at, at + quoted), icmp + ICMP.BODY)
  const { type, code } = what[v4 ? 4 : 6]
  outView.setUint8(icmp + ICMP.TYPE, type)
  outView.setUint8(icmp + ICMP.CODE, code)
  outView.setUint16(icmp + ICMP.CHECKSUM, 0)
  outView.setUint32(icmp + ICMP.REST, rest)
  const pseudo = v4 ? 0 : pseudoSumV6(outView, outAt, Protocol.ICMPV6, icmpLength)
  outView.setUint16(icmp + ICMP.CHECKSUM, finish(addSum(outView, icmp, icmpLength, pseudo)))
  return headerLength + icmpLength
}

function isUnicast(address: Uint8Array): boolean {
  const kind = kindOf(address)
  return kind !== 'multicast' && kind !== 'broadcast' && kind !== 'unspecified'
}
