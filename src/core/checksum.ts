/**
 * The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
 *
 * A *sum* is a running one's complement sum in big-endian order, a number below 2^53 that has not been folded; sums of
 * adjacent even-length areas may be added. A *checksum* is the 16 bits on the wire.
 *
 * Cost: the sum of 64 KB takes about 10 µs, of a 20-byte header about 15 ns (bench/micro).
 */

/**
 * Adds `length` bytes from `at` to `sum`; an odd last byte counts as the high half of a word.
 * Nothing is allocated. The caller has checked that the area is inside the view.
 */
export function addSum(view: DataView, at: number, length: number, sum = 0): number {
  const end = at + length
  // Four accumulators of 32-bit words: each stays exact up to 8 MB of input, and none waits for another.
  let a = 0
  let b = 0
  let c = 0
  let d = 0
  const wide = end - 15
  while (at < wide) {
    a += view.getUint32(at)
    b += view.getUint32(at + 4)
    c += view.getUint32(at + 8)
    d += view.getUint32(at + 12)
    at += 16
  }
  sum += a + b + c + d
  while (at < end - 3) {
    sum += view.getUint32(at)
    at += 4
  }
  // What is left is at most three bytes; 2^16 ≡ 1, so a 16-bit word may be added as it stands.
  if (at < end - 1) {
    sum += view.getUint16(at)
    at += 2
  }
  if (at < end) sum += view.getUint8(at) << 8
  return sum
}

/** A sum as 16 bits, not complemented. */
export function fold(sum: number): number {
  // 2^32 ≡ 2^16 ≡ 1 modulo 2^16 - 1: halves may be added at any width.
  let low = (sum >>> 0) + Math.floor(sum / 4294967296)
  low = (low & 0xffff) + Math.floor(low / 65536)
  low = (low & 0xffff) + (low >>> 16)
  return (low & 0xffff) + (low >>> 16)
}

/** The checksum for a header whose checksum field counted as zero. */
export function finish(sum: number): number {
  return ~fold(sum) & 0xffff
}

/** The checksum of an area, its checksum field as it stands: 0 when the area verifies. */
export function checksum(view: DataView, at: number, length: number, sum = 0): number {
  return finish(addSum(view, at, length, sum))
}

/** Sum of the IPv4 pseudo-header (RFC 793, 768); `ipAt` is the IP header, `length` the transport header and payload. */
export function pseudoSumV4(view: DataView, ipAt: number, protocol: number, length: number): number {
  return view.getUint32(ipAt + 12) + view.getUint32(ipAt + 16) + protocol + length
}

/** Sum of the IPv6 pseudo-header (RFC 8200 §8.1). */
export function pseudoSumV6(view: DataView, ipAt: number, protocol: number, length: number): number {
  let sum = protocol + length
  for (let at = ipAt + 8; at < ipAt + 40; at += 4) sum += view.getUint32(at)
  return sum
}

/** Sum of the pseudo-header of the IP packet at `ipAt`, whichever version it has. */
export function pseudoSum(view: DataView, ipAt: number, protocol: number, length: number): number {
  return view.getUint8(ipAt) >> 4 === 4
    ? pseudoSumV4(view, ipAt, protocol, length)
    : pseudoSumV6(view, ipAt, protocol, length)
}

/**
 * The checksum after an area it covers changed from one with sum `before` to one with sum `after` (RFC 1624 eqn. 3).
 * Never turns a correct checksum into the wrong zero.
 */
export function updated(checksum: number, before: number, after: number): number {
  return ~fold((~checksum & 0xffff) + (~fold(before) & 0xffff) + fold(after)) & 0xffff
}

/** Applies `updated` to the 16-bit field at `at`. */
export function updateAt(view: DataView, at: number, before: number, after: number): void {
  view.setUint16(at, updated(view.getUint16(at), before, after))
}

/**
 * The same update for a *partial* checksum, which holds the folded, not complemented sum of the pseudo-header
 * (what a stack leaves to its card, and what a vnet_hdr with NEEDS_CSUM announces).
 */
export function updatePartialAt(view: DataView, at: number, before: number, after: number): void {
  view.setUint16(at, fold(view.getUint16(at) + (~fold(before) & 0xffff) + fold(after)))
}

/**
 * Completes a partial checksum: sums from `start` to the end of the packet, the field at `field` (absolute) holding the
 * pseudo-header's sum, and writes the result. A UDP result of zero is written as 0xffff (RFC 768), which is equivalent
 * for TCP as well.
 */
export function complete(view: DataView, start: number, length: number, field: number): void {
  const result = finish(addSum(view, start, length))
  view.setUint16(field, result === 0 ? 0xffff : result)
}
