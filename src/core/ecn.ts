/**
 * Explicit congestion notification across a tunnel (RFC 6040): the field of an inner packet as it comes out, by the field of the
 * outer packet that carried it.
 */
import { ipHeaderLength, ipVersion, trafficClass } from './ip.ts'
import { IPV4, sealIpv4Header } from './ipv4.ts'

/** The lower two bits of a traffic class (RFC 3168 §5). */
export const Ecn = { notCapable: 0, capable1: 1, capable0: 2, congested: 3 } as const
export const ECN_MASK = 3
const DROP = -1

/** RFC 6040 §4.2, figure 4: by inner field, then outer field, both as numbers. */
const EGRESS = Int8Array.of(
  ...[0, 0, 0, DROP], // nobody would heed the mark: as if the queue had dropped the packet
  ...[1, 1, 1, 3],
  ...[2, 1, 2, 3],
  ...[3, 3, 3, 3],
)

export function ecnOf(view: DataView, at: number): number {
  return trafficClass(view, at) & ECN_MASK
}

/**
 * Puts what the outer field says into the IP header at `at`; false when the packet is to be dropped. Costs two look-ups while
 * nothing on the way marks.
 */
export function decapsulateEcn(view: DataView, at: number, outer: number): boolean {
  const inner = ecnOf(view, at)
  const result = EGRESS[inner * 4 + (outer & ECN_MASK)]!
  if (result === inner) return true
  if (result === DROP) return false
  if (ipVersion(view, at) === 4) {
    const field = at + IPV4.TRAFFIC_CLASS
    view.setUint8(field, (view.getUint8(field) & ~ECN_MASK) | result)
    sealIpv4Header(view, at, ipHeaderLength(view, at))
  } else view.setUint16(at, (view.getUint16(at) & ~(ECN_MASK << 4)) | (result << 4))
  return true
}
