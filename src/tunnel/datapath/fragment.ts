/** Fragments of an IPv4 packet that is too large for its path and may be fragmented (RFC 791 §3.2). */
import { IPV4, ipv4HeaderLength, sealIpv4Header } from '../../core/ipv4.ts'

const { TOTAL_LENGTH, FRAGMENT, MORE_FRAGMENTS, FRAGMENT_OFFSET } = IPV4

/**
 * Cuts the IPv4 packet at `packet` into fragments of at most `mtu` bytes, each built in front of its payload, and calls
 * `send` with each in order; `send` may overwrite the two bytes in front. Transport checksums are complete already.
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
  const header = ipv4HeaderLength(view, packet)
  const size = (mtu - header) & ~7
  if (size <= 0) return
  u8.copyWithin(template, packet, packet + header)
  const word = view.getUint16(packet + FRAGMENT)
  for (let offset = header; offset < length; offset += size) {
    const payload = Math.min(size, length - offset)
    const at = packet + offset - header
    u8.copyWithin(at, template, template + header)
    const more = offset + payload < length ? MORE_FRAGMENTS : word & MORE_FRAGMENTS
    view.setUint16(at + TOTAL_LENGTH, header + payload)
    view.setUint16(at + FRAGMENT, more | ((word & FRAGMENT_OFFSET) + ((offset - header) >> 3)))
    sealIpv4Header(view, at, header)
    send(at, header + payload)
  }
}
