/**
 * The internal NAT (UP-21): VIpA_fix ⇄ VIpA, stateless and per tunnel (digest D7), in place. A rewrite changes one
 * address of the packet, so every checksum that covers it changes by the same constant (RFC 1624): no
 * byte of the payload is read. In an ICMP error the quoted packet names the address too, the other way round, and is
 * rewritten with it (RFC 5508 §4.2). A UDP checksum of zero stays zero.
 *
 * Costs about 15 ns a (super-)packet.
 */
import { addSum, fold, updateAt } from '../../core/checksum.ts'
import { ICMP, isIcmpError } from '../../core/icmp.ts'
import { ipVersion, Protocol } from '../../core/ip.ts'
import { IPV4 } from '../../core/ipv4.ts'
import { IPV6 } from '../../core/ipv6.ts'
import { updateChecksum } from '../../core/transport.ts'

const SRC4 = IPV4.SRC
const DST4 = IPV4.DST
const CHECKSUM4 = IPV4.CHECKSUM
const SRC6 = IPV6.SRC
const DST6 = IPV6.DST

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
  view.setInt32(at + (source ? SRC4 : DST4), rewrite.t0)
  updateAt(view, at + CHECKSUM4, rewrite.before, rewrite.after)
  if (transport === 0) return
  if (protocol === Protocol.ICMP) rewriteQuote4(view, at + transport, length - transport, rewrite, source)
  else if (!partialChecksum)
    updateChecksum(view, at + transport, at + length, protocol, rewrite.before, rewrite.after)
}

/** The same for IPv6. */
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
  setAddress6(view, at + (source ? SRC6 : DST6), rewrite)
  if (transport === 0) return
  if (protocol === Protocol.ICMPV6) {
    if (length - transport < ICMP.HEADER) return
    if (!partialChecksum) updateAt(view, at + transport + ICMP.CHECKSUM, rewrite.before, rewrite.after)
    rewriteQuote6(view, at + transport, length - transport, rewrite, source)
  } else if (!partialChecksum)
    updateChecksum(view, at + transport, at + length, protocol, rewrite.before, rewrite.after)
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
  if (length < ICMP.BODY + IPV4.MIN_HEADER || !isIcmpError(Protocol.ICMP, view.getUint8(icmp))) return
  const quote = icmp + ICMP.BODY
  if (ipVersion(view, quote) !== 4) return
  const place = quote + (source ? DST4 : SRC4)
  if (view.getInt32(place) !== rewrite.f0) return
  const before = view.getUint16(quote + CHECKSUM4)
  view.setInt32(place, rewrite.t0)
  updateAt(view, quote + CHECKSUM4, rewrite.before, rewrite.after)
  updateAt(
    view,
    icmp + ICMP.CHECKSUM,
    rewrite.before + before,
    rewrite.after + view.getUint16(quote + CHECKSUM4),
  )
}

/** IPv6 has no header checksum: the quote's change shows in the ICMPv6 checksum. */
function rewriteQuote6(
  view: DataView,
  icmp: number,
  length: number,
  rewrite: Rewrite,
  source: boolean,
): void {
  if (length < ICMP.BODY + IPV6.HEADER || !isIcmpError(Protocol.ICMPV6, view.getUint8(icmp))) return
  const quote = icmp + ICMP.BODY
  if (ipVersion(view, quote) !== 6) return
  const place = quote + (source ? DST6 : SRC6)
  if (
    view.getInt32(place) !== rewrite.f0 ||
    view.getInt32(place + 4) !== rewrite.f1 ||
    view.getInt32(place + 8) !== rewrite.f2 ||
    view.getInt32(place + 12) !== rewrite.f3
  )
    return
  setAddress6(view, place, rewrite)
  updateAt(view, icmp + ICMP.CHECKSUM, rewrite.before, rewrite.after)
}

function setAddress6(view: DataView, place: number, rewrite: Rewrite): void {
  view.setInt32(place, rewrite.t0)
  view.setInt32(place + 4, rewrite.t1)
  view.setInt32(place + 8, rewrite.t2)
  view.setInt32(place + 12, rewrite.t3)
}
