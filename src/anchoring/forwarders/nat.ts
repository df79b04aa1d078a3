/**
 * The internal NAT (UP-21): VIpA_fix ⇄ VIpA, stateless and per tunnel (digest D7), in place. A rewrite changes one
 * address of the packet, so every checksum that covers it changes by the same constant (RFC 1624): no
 * byte of the payload is read. In an ICMP error the quoted packet names the address too, the other way round, and is
 * rewritten with it (RFC 5508 §4.2). A UDP checksum of zero over IPv4 stays zero.
 *
 * Costs about 15 ns a (super-)packet.
 */
import { addSum, fold, updateAt } from '../../core/checksum.ts'
import { Protocol } from '../tables/flow-key.ts'

/** One direction of the rewrite for one tunnel: this address becomes that one. */
export class Rewrite {
  readonly f0: number
  readonly f1: number
  readonly f2: number
  readonly f3: number
  readonly t0: number
  readonly t1: number
  readonly t2: number
  readonly t3: number
  /** Folded sums of both addresses. */
  readonly before: number
  readonly after: number
  readonly same: boolean

  /** Two addresses of one family, 4 or 16 bytes. */
  constructor(from: Uint8Array, to: Uint8Array) {
    const f = new DataView(from.buffer, from.byteOffset, from.length)
    const t = new DataView(to.buffer, to.byteOffset, to.length)
    const six = from.length === 16
    this.f0 = f.getInt32(0)
    this.t0 = t.getInt32(0)
    this.f1 = six ? f.getInt32(4) : 0
    this.f2 = six ? f.getInt32(8) : 0
    this.f3 = six ? f.getInt32(12) : 0
    this.t1 = six ? t.getInt32(4) : 0
    this.t2 = six ? t.getInt32(8) : 0
    this.t3 = six ? t.getInt32(12) : 0
    this.before = fold(addSum(f, 0, from.length))
    this.after = fold(addSum(t, 0, to.length))
    this.same = from.every((byte, i) => byte === to[i])
  }
}

/**
 * Rewrites the source or the destination of an IPv4 packet. The
 * caller has checked the header's length and that the address is `rewrite.from`. `transport` is the offset of the
 * transport header, 0 when this fragment has none. `partialChecksum`: the transport checksum will be computed later.
 */
export function rewrite4(
  view: DataView,
  at: number,
  length: number,
  rewrite: Rewrite,
  source: boolean,
  protocol: number,
  transport: number,
  partialChecksum: boolean,
): void {
  if (rewrite.same) return
  view.setInt32(at + (source ? 12 : 16), rewrite.t0)
  updateAt(view, at + 10, rewrite.before, rewrite.after)
  if (transport === 0) return
  if (protocol === Protocol.ICMP) rewriteQuote4(view, at + transport, length - transport, rewrite, source)
  else if (!partialChecksum) updateTransport(view, at, length, rewrite, protocol, transport, true)
}

/** The same for IPv6; the address at offset 8 (source) or 24. */
export function rewrite6(
  view: DataView,
  at: number,
  length: number,
  rewrite: Rewrite,
  source: boolean,
  protocol: number,
  transport: number,
  partialChecksum: boolean,
): void {
  if (rewrite.same) return
  setAddress6(view, at + (source ? 8 : 24), rewrite)
  if (transport === 0) return
  if (protocol === Protocol.ICMPV6) {
    if (length - transport < 8) return
    if (!partialChecksum) updateAt(view, at + transport + 2, rewrite.before, rewrite.after)
    rewriteQuote6(view, at + transport, length - transport, rewrite, source)
  } else if (!partialChecksum) updateTransport(view, at, length, rewrite, protocol, transport, false)
}

function updateTransport(
  view: DataView,
  at: number,
  length: number,
  rewrite: Rewrite,
  protocol: number,
  transport: number,
  ipv4: boolean,
): void {
  let field: number
  switch (protocol) {
    case Protocol.TCP:
      field = 16
      break
    case Protocol.UDP:
    case Protocol.UDPLITE:
    case Protocol.DCCP:
      field = 6
      break
    default:
      return // no other protocol's checksum covers the addresses
  }
  if (transport + field + 2 > length) return
  const place = at + transport + field
  if (protocol === Protocol.UDP) {
    if (ipv4 && view.getUint16(place) === 0) return // RFC 768: not computed
    updateAt(view, place, rewrite.before, rewrite.after)
    if (view.getUint16(place) === 0) view.setUint16(place, 0xffff) // a computed zero is sent as all ones
    return
  }
  updateAt(view, place, rewrite.before, rewrite.after)
}

/** ICMPv4 errors: unreachable, source quench, redirect, time exceeded, parameter problem. */
function isError4(type: number): boolean {
  return type === 3 || type === 4 || type === 5 || type === 11 || type === 12
}

/**
 * The quoted packet went the other way: its destination is what the error's source is. The ICMP checksum covers the
 * quote; the quote's own header checksum absorbs the address's change, so the sum over both is as before.
 */
function rewriteQuote4(
  view: DataView,
  icmp: number,
  length: number,
  rewrite: Rewrite,
  source: boolean,
): void {
  if (length < 8 + 20 || !isError4(view.getUint8(icmp))) return
  const quote = icmp + 8
  if (view.getUint8(quote) >>> 4 !== 4) return
  const place = quote + (source ? 16 : 12)
  if (view.getInt32(place) !== rewrite.f0) return
  const before = view.getUint16(quote + 10)
  view.setInt32(place, rewrite.t0)
  updateAt(view, quote + 10, rewrite.before, rewrite.after)
  updateAt(view, icmp + 2, rewrite.before + before, rewrite.after + view.getUint16(quote + 10))
}

/** IPv6 has no header checksum: the quote's change shows in the ICMPv6 checksum. Errors are types below 128. */
function rewriteQuote6(
  view: DataView,
  icmp: number,
  length: number,
  rewrite: Rewrite,
  source: boolean,
): void {
  if (length < 8 + 40 || view.getUint8(icmp) >= 128) return
  const quote = icmp + 8
  if (view.getUint8(quote) >>> 4 !== 6) return
  const place = quote + (source ? 24 : 8)
  if (
    view.getInt32(place) !== rewrite.f0 ||
    view.getInt32(place + 4) !== rewrite.f1 ||
    view.getInt32(place + 8) !== rewrite.f2 ||
    view.getInt32(place + 12) !== rewrite.f3
  )
    return
  setAddress6(view, place, rewrite)
  updateAt(view, icmp + 2, rewrite.before, rewrite.after)
}

function setAddress6(view: DataView, place: number, rewrite: Rewrite): void {
  view.setInt32(place, rewrite.t0)
  view.setInt32(place + 4, rewrite.t1)
  view.setInt32(place + 8, rewrite.t2)
  view.setInt32(place + 12, rewrite.t3)
}
