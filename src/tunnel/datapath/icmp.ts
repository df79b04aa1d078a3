/**
 * What a packet too large for its path gets: an ICMP error to its sender (RFC 1191, RFC 4443 §3.2), or, when it is IPv4
 * and may be fragmented, fragments (RFC 791 §3.2).
 */
import { VNET_HEADER } from '../../linux/tun.ts'
import { add, IPV6_HEADER, pseudoSum, sealIpv4Header } from './headers.ts'

const ICMP = 1
const ICMPV6 = 58
const QUOTE_V4 = 576 - 28
const QUOTE_V6 = 1280 - 48

/**
 * Writes a vnet header and the error for the packet at `packet` to `to`; it comes from the packet's destination. Returns
 * its length, or 0 when there is to be no error: about an error, or to a sender that is nobody.
 */
export function writeTooBig(
  u8: Uint8Array,
  view: DataView,
  to: number,
  packet: number,
  length: number,
  mtu: number,
): number {
  u8.fill(0, to, to + VNET_HEADER)
  const at = to + VNET_HEADER
  return view.getUint8(packet) >> 4 === 4
    ? tooBig4(u8, view, at, packet, length, mtu)
    : tooBig6(u8, view, at, packet, length, mtu)
}

function tooBig4(
  u8: Uint8Array,
  view: DataView,
  at: number,
  packet: number,
  length: number,
  mtu: number,
): number {
  const header = (view.getUint8(packet) & 15) * 4
  const source = view.getUint8(packet + 12)
  if (source === 0 || source >= 224 || (view.getUint16(packet + 6) & 0x1fff) !== 0) return 0
  if (view.getUint8(packet + 9) === ICMP && ![0, 8].includes(view.getUint8(packet + header))) return 0
  const quote = Math.min(length, QUOTE_V4)
  u8.fill(0, at, at + 28)
  u8[at] = 0x45
  view.setUint16(at + 2, 28 + quote)
  u8[at + 8] = 64
  u8[at + 9] = ICMP
  u8.copyWithin(at + 12, packet + 16, packet + 20)
  u8.copyWithin(at + 16, packet + 12, packet + 16)
  sealIpv4Header(view, at, 20)
  u8[at + 20] = 3
  u8[at + 21] = 4
  view.setUint16(at + 26, mtu)
  u8.copyWithin(at + 28, packet, packet + quote)
  view.setUint16(at + 22, ~add(view, at + 20, 8 + quote, 0) & 0xffff)
  return VNET_HEADER + 28 + quote
}

function tooBig6(
  u8: Uint8Array,
  view: DataView,
  at: number,
  packet: number,
  length: number,
  mtu: number,
): number {
  const source = view.getUint8(packet + 8)
  if (source === 0xff || source === 0) return 0
  if (view.getUint8(packet + 6) === ICMPV6 && view.getUint8(packet + IPV6_HEADER) < 128) return 0
  const quote = Math.min(length, QUOTE_V6)
  u8.fill(0, at, at + 48)
  u8[at] = 0x60
  view.setUint16(at + 4, 8 + quote)
  u8[at + 6] = ICMPV6
  u8[at + 7] = 64
  u8.copyWithin(at + 8, packet + 24, packet + 40)
  u8.copyWithin(at + 24, packet + 8, packet + 24)
  u8[at + 40] = 2
  view.setUint32(at + 44, Math.max(mtu, 1280))
  u8.copyWithin(at + 48, packet, packet + quote)
  view.setUint16(at + 42, ~add(view, at + 40, 8 + quote, pseudoSum(view, at, ICMPV6, 8 + quote)) & 0xffff)
  return VNET_HEADER + 48 + quote
}

/**
 * Cuts the IPv4 packet at `packet` into fragments of at most `mtu` bytes, each built in front of its payload, and calls
 * `send` with each in order; the two bytes in front are free to it. Checksums of the transport are complete already.
 */
export function writeFragments(
  u8: Uint8Array,
  view: DataView,
  template: number,
  packet: number,
  length: number,
  mtu: number,
  send: (at: number, length: number) => void,
): void {
  const header = (view.getUint8(packet) & 15) * 4
  const size = (mtu - header) & ~7
  if (size <= 0) return
  u8.copyWithin(template, packet, packet + header)
  const word = view.getUint16(packet + 6)
  for (let offset = header; offset < length; offset += size) {
    const payload = Math.min(size, length - offset)
    const at = packet + offset - header
    u8.copyWithin(at, template, template + header)
    const more = offset + payload < length ? 0x2000 : word & 0x2000
    view.setUint16(at + 2, header + payload)
    view.setUint16(at + 6, more | ((word & 0x1fff) + ((offset - header) >> 3)))
    sealIpv4Header(view, at, header)
    send(at, header + payload)
  }
}
