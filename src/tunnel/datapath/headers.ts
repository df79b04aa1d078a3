/**
 * IP, TCP and UDP headers in packet memory, as the datapath handles them: numbers in, numbers out, nothing allocated.
 * (core/ has the codecs for everything that is not per packet.)
 */

export const TCP = 6
export const UDP = 17
export const IPV6_HEADER = 40
export const UDP_HEADER = 8

/** Offsets in a TCP header. */
export const TCP_SEQ = 4
export const TCP_ACK = 8
export const TCP_DATA_OFFSET = 12
export const TCP_FLAGS = 13
export const TCP_CHECKSUM = 16
export const UDP_CHECKSUM = 6

export const FIN = 0x01
export const SYN = 0x02
export const RST = 0x04
export const PSH = 0x08
export const ACK = 0x10
export const CWR = 0x80

/** Ones' complement sum of `length` bytes, folded to 16 bits, added to `sum`. About 0.35 µs for 1,440 bytes. */
export function add(view: DataView, at: number, length: number, sum: number): number {
  const end = at + (length & ~3)
  let s = sum
  let i = at
  for (; i < end; i += 4) {
    const word = view.getUint32(i)
    s += (word >>> 16) + (word & 0xffff)
  }
  if (length & 2) {
    s += view.getUint16(i)
    i += 2
  }
  if (length & 1) s += view.getUint8(i) << 8
  return fold(s)
}

/** Folds a sum below 2^47 to 16 bits. */
export function fold(sum: number): number {
  let s = sum
  while (s > 0xffff) s = (s & 0xffff) + Math.floor(s / 65536)
  return s
}

/** The folded sum of the pseudo-header of the packet at `at` for a transport segment of `length` bytes. */
export function pseudoSum(view: DataView, at: number, protocol: number, length: number): number {
  return view.getUint8(at) >> 4 === 4
    ? add(view, at + 12, 8, protocol + length)
    : add(view, at + 8, 32, protocol + length)
}

/** Writes the IPv4 header checksum. */
export function sealIpv4Header(view: DataView, at: number, headerLength: number): void {
  view.setUint16(at + 10, 0)
  view.setUint16(at + 10, ~add(view, at, headerLength, 0) & 0xffff)
}

/** Computes and writes the whole checksum of the TCP or UDP segment at `transport` in the packet at `at`. */
export function completeChecksum(
  view: DataView,
  at: number,
  length: number,
  transport: number,
  protocol: number,
): void {
  const size = at + length - transport
  const field = transport + (protocol === TCP ? TCP_CHECKSUM : UDP_CHECKSUM)
  view.setUint16(field, 0)
  const sum = ~add(view, transport, size, pseudoSum(view, at, protocol, size)) & 0xffff
  view.setUint16(field, sum === 0 && protocol === UDP ? 0xffff : sum)
}

/** Whether the TCP or UDP checksum of the packet is right. */
export function checksumHolds(
  view: DataView,
  at: number,
  length: number,
  transport: number,
  protocol: number,
): boolean {
  const size = at + length - transport
  return add(view, transport, size, pseudoSum(view, at, protocol, size)) === 0xffff
}

/**
 * The length of the IP packet at `at` of which `available` bytes are there; 0 when it is no whole IP packet. What lies
 * behind (WireGuard's padding) is not part of it.
 */
export function packetLength(view: DataView, at: number, available: number): number {
  if (available < 20) return 0
  const version = view.getUint8(at) >> 4
  if (version === 4) {
    const length = view.getUint16(at + 2)
    const header = (view.getUint8(at) & 15) * 4
    return header >= 20 && length >= header && length <= available ? length : 0
  }
  if (version !== 6 || available < IPV6_HEADER) return 0
  const length = IPV6_HEADER + view.getUint16(at + 4)
  return length <= available ? length : 0
}

/** TCP or UDP when that header follows the IP header at once and whole, and the packet is no fragment; else 0. */
export function plainTransport(view: DataView, at: number, length: number): number {
  let protocol: number
  let header: number
  if (view.getUint8(at) >> 4 === 4) {
    if ((view.getUint16(at + 6) & 0x3fff) !== 0) return 0
    protocol = view.getUint8(at + 9)
    header = (view.getUint8(at) & 15) * 4
  } else {
    protocol = view.getUint8(at + 6)
    header = IPV6_HEADER
  }
  if (protocol === TCP) {
    if (length < header + 20) return 0
    const tcp = (view.getUint8(at + header + TCP_DATA_OFFSET) >> 4) * 4
    return tcp >= 20 && header + tcp <= length ? TCP : 0
  }
  return protocol === UDP && length >= header + UDP_HEADER ? UDP : 0
}

export function ipHeaderLength(view: DataView, at: number): number {
  const first = view.getUint8(at)
  return first >> 4 === 4 ? (first & 15) * 4 : IPV6_HEADER
}

/**
 * Lowers the MSS option of a SYN to what `innerMtu` carries and mends the checksum (not when it is partial: that covers
 * the pseudo-header only). The packet is known to be TCP with SYN.
 */
export function clampMss(
  view: DataView,
  at: number,
  transport: number,
  innerMtu: number,
  partial: boolean,
): void {
  const most = innerMtu - (transport - at) - 20
  const end = transport + (view.getUint8(transport + TCP_DATA_OFFSET) >> 4) * 4
  let option = transport + 20
  while (option < end) {
    const kind = view.getUint8(option)
    if (kind === 0) return
    if (kind === 1) {
      option++
      continue
    }
    const size = option + 1 < end ? view.getUint8(option + 1) : 0
    if (size < 2 || option + size > end) return
    if (kind === 2 && size === 4) {
      const mss = view.getUint16(option + 2)
      if (mss <= most) return
      view.setUint16(option + 2, most)
      if (!partial) replaceInChecksum(view, transport + TCP_CHECKSUM, mss, most, (option - transport) & 1)
      return
    }
    option += size
  }
}

/** RFC 1624: checksum at `field` after a 16-bit word changed; `odd` when the word stands at an odd offset. */
function replaceInChecksum(view: DataView, field: number, before: number, after: number, odd: number): void {
  const from = odd ? swap(before) : before
  const to = odd ? swap(after) : after
  view.setUint16(field, ~fold((~view.getUint16(field) & 0xffff) + (~from & 0xffff) + to) & 0xffff)
}

function swap(word: number): number {
  return ((word & 0xff) << 8) | (word >> 8)
}
