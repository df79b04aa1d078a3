/** ICMP errors about packets that were too big for a router. */
import { ICMP, Icmpv4Type, Icmpv6Type } from '../core/icmp.ts'
import { Protocol } from '../core/ip.ts'
import { IPV4 } from '../core/ipv4.ts'
import { IPV6 } from '../core/ipv6.ts'
import { TCP } from '../core/tcp.ts'
import type { Tuple } from './machine/segment.ts'

export interface TooBig {
  /** Of the packet that the error is about, and a sequence number in it. */
  readonly tuple: Tuple
  readonly seq: number
  /** What passes, IP header included. */
  readonly mtu: number
}

const FRAGMENTATION_NEEDED = 4
/** Ports and sequence number: all that an error has to quote (RFC 792). */
const QUOTED = 8

/** The error at `icmp` of `length` bytes in all; undefined when it is another, or quotes no packet of TCP. */
export function readTooBig(view: DataView, icmp: number, length: number): TooBig | undefined {
  const quote = icmp + ICMP.BODY
  if (quote + IPV4.MIN_HEADER + QUOTED > length) return undefined
  const version = view.getUint8(quote) >> 4
  const type = view.getUint8(icmp + ICMP.TYPE)
  const code = view.getUint8(icmp + ICMP.CODE)
  let tcp: number
  let mtu: number
  if (version === 4) {
    if (type !== Icmpv4Type.UNREACHABLE || code !== FRAGMENTATION_NEEDED) return undefined
    const isLater = (view.getUint16(quote + 6) & 0x1fff) !== 0
    if (view.getUint8(quote + IPV4.PROTOCOL) !== Protocol.TCP || isLater) return undefined
    tcp = quote + (view.getUint8(quote) & 0xf) * 4
    mtu = view.getUint16(icmp + ICMP.REST + 2)
  } else {
    if (version !== 6 || type !== Icmpv6Type.PACKET_TOO_BIG) return undefined
    if (view.getUint8(quote + IPV6.NEXT_HEADER) !== Protocol.TCP) return undefined
    tcp = quote + IPV6.HEADER
    mtu = view.getUint32(icmp + ICMP.REST)
  }
  if (tcp + QUOTED > length || mtu === 0) return undefined
  const size = version === 4 ? 4 : 16
  const source = quote + (version === 4 ? IPV4.SRC : IPV6.SRC)
  const bytesAt = (at: number) => new Uint8Array(view.buffer, view.byteOffset + at, size).slice()
  const tuple = {
    local: bytesAt(source),
    localPort: view.getUint16(tcp + TCP.SRC_PORT),
    remote: bytesAt(source + size),
    remotePort: view.getUint16(tcp + TCP.DST_PORT),
  }
  return { tuple, seq: view.getUint32(tcp + TCP.SEQ), mtu }
}
