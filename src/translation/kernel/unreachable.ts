/**
 * The error by which applications hear that the other host cannot be reached (DI-32), where their socket cannot be ended: ICMP
 * "host unreachable", as a router would send it. To a connection it is a passing one (RFC 1122 §4.2.3.9): TCP goes on
 * asking, and names it when it gives up. Of unconnected sockets those hear of it that have asked for errors (IP_RECVERR).
 */
import { viewOf } from '../../core/bytes.ts'
import { TOO_BIG_MAX, writeUnreachable } from '../../core/icmp.ts'
import { IPV4, sealIpv4Header, writeIpv4 } from '../../core/ipv4.ts'
import { IPV6, writeIpv6 } from '../../core/ipv6.ts'
import { TCP } from '../../core/tcp.ts'
import { UDP } from '../../core/udp.ts'
import { bytesOf, type SocketRow } from '../tables.ts'

const HOPS = 64

/** A whole IP packet from this host to itself; `sequence`: of a TCP connection, something that it has sent last. */
export function hostUnreachable(flow: SocketRow, sequence: number): Uint8Array {
  const [local, foreign] = [bytesOf(flow.local), bytesOf(flow.foreign)]
  const [at, source] = local.length === 4 ? [IPV4.MIN_HEADER, IPV4.SRC] : [IPV6.HEADER, IPV6.SRC]
  const length = flow.protocol === 6 ? TCP.MIN_HEADER : UDP.HEADER
  const sent = new Uint8Array(at + length)
  const view = viewOf(sent)
  if (local.length === 4) writeIpv4(view, 0, sent.length, 0, HOPS, flow.protocol)
  else writeIpv6(view, 0, length, HOPS, flow.protocol)
  sent.set(local, source)
  sent.set(foreign, source + local.length)
  if (local.length === 4) sealIpv4Header(view, 0, at)
  view.setUint16(at, flow.localPort)
  view.setUint16(at + 2, flow.foreignPort)
  if (flow.protocol === 6) view.setUint32(at + TCP.SEQ, sequence)
  const out = new Uint8Array(TOO_BIG_MAX)
  return out.slice(0, writeUnreachable(sent, 0, sent.length, out, 0, local))
}
