/** Packets of TCP, UDP and ICMP over both families, with correct checksums. */
import { checksum, pseudoSum } from '../../src/core/checksum.ts'

export const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

/** A packet with correct checksums. */
export function packet(
  from: Uint8Array,
  to: Uint8Array,
  protocol: number,
  transport: number[] | Uint8Array,
): Uint8Array {
  const six = from.length === 16
  const header = six ? 40 : 20
  const bytes = new Uint8Array(header + transport.length)
  const view = viewOf(bytes)
  if (six) {
    bytes[0] = 0x60
    view.setUint16(4, transport.length)
    bytes[6] = protocol
    bytes.set(from, 8)
    bytes.set(to, 24)
  } else {
    bytes[0] = 0x45
    view.setUint16(2, bytes.length)
    bytes[8] = 64
    bytes[9] = protocol
    bytes.set(from, 12)
    bytes.set(to, 16)
    view.setUint16(10, checksum(view, 0, 20))
  }
  bytes.set(transport, header)
  const field = { 6: 16, 17: 6, 1: 2, 58: 2 }[protocol]
  if (field !== undefined) {
    const pseudo = protocol === 1 ? 0 : pseudoSum(view, 0, protocol, transport.length)
    view.setUint16(header + field, 0)
    const sum = checksum(view, header, transport.length, pseudo)
    // Zero says that there is none (RFC 768).
    view.setUint16(header + field, sum === 0 && protocol === 17 ? 0xffff : sum)
  }
  return bytes
}

export const tcp = (source: number, destination: number, payload: number[] = [], flags = 0x10) => [
  source >> 8,
  source & 255,
  destination >> 8,
  destination & 255,
  ...[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0],
  ...payload,
]
export const udp = (source: number, destination: number, payload: number[] = []) => [
  source >> 8,
  source & 255,
  destination >> 8,
  destination & 255,
  0,
  8 + payload.length,
  0,
  0,
  ...payload,
]
