/** Fragments of an IPv4 packet that is too large for its path and may be fragmented (RFC 791 §3.2). */
import { sealIpv4Header } from './headers.ts'

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
