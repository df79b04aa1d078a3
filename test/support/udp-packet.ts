/** An IPv4 packet with a UDP datagram, checksums and all. */
import { checksum, pseudoSum } from '../../src/core/checksum.ts'
import type { Endpoint } from '../../src/core/endpoint.ts'

export function udpPacket(from: Endpoint, to: Endpoint, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(28 + payload.length)
  const view = new DataView(bytes.buffer)
  bytes.set([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17])
  view.setUint16(2, bytes.length)
  bytes.set(from.address, 12)
  bytes.set(to.address, 16)
  view.setUint16(10, checksum(view, 0, 20))
  view.setUint16(20, from.port)
  view.setUint16(22, to.port)
  view.setUint16(24, 8 + payload.length)
  bytes.set(payload, 28)
  view.setUint16(26, checksum(view, 20, 8 + payload.length, pseudoSum(view, 0, 17, 8 + payload.length)))
  return bytes
}
