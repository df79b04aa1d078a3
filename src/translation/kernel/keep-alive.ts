/**
 * The segment by which a connection shows itself on a new pair of addresses, whichever end speaks next: a keep-alive (RFC 9293
 * §3.8.4). It takes up no sequence numbers and lies just before what is expected, so the other end's TCP changes nothing and
 * answers with an acknowledgement. A firewall on the way sees a connection that begins from inside, and lets in what comes
 * back; to a NAT it is the same.
 */
import { viewOf } from '../../core/bytes.ts'
import { Protocol } from '../../core/ip.ts'
import { IPV4, sealIpv4Header, writeIpv4 } from '../../core/ipv4.ts'
import { IPV6, writeIpv6 } from '../../core/ipv6.ts'
import { TCP, TcpFlag } from '../../core/tcp.ts'
import { completeChecksum } from '../../core/transport.ts'
import type { TcpStream } from '../../linux/tcp-stream.ts'
import { bytesOf, type SocketRow } from '../tables.ts'

const HOPS = 64
/** A window that nobody reads: the segment lies outside that of the other end. */
const WINDOW = 512

/** A whole IP packet between the addresses that the socket knows. */
export function keepAlive(flow: SocketRow, stream: TcpStream): Uint8Array {
  const [local, foreign] = [bytesOf(flow.local), bytesOf(flow.foreign)]
  const [at, source] = local.length === 4 ? [IPV4.MIN_HEADER, IPV4.SRC] : [IPV6.HEADER, IPV6.SRC]
  const bytes = new Uint8Array(at + TCP.MIN_HEADER)
  const view = viewOf(bytes)
  if (local.length === 4) writeIpv4(view, 0, bytes.length, 0, HOPS, Protocol.TCP)
  else writeIpv6(view, 0, TCP.MIN_HEADER, HOPS, Protocol.TCP)
  bytes.set(local, source)
  bytes.set(foreign, source + local.length)
  if (local.length === 4) sealIpv4Header(view, 0, at)
  view.setUint16(at + TCP.SRC_PORT, flow.localPort)
  view.setUint16(at + TCP.DST_PORT, flow.foreignPort)
  view.setUint32(at + TCP.SEQ, (stream.unacknowledged - 1) >>> 0)
  view.setUint32(at + TCP.ACK, stream.expected)
  view.setUint8(at + TCP.DATA_OFFSET, (TCP.MIN_HEADER >> 2) << 4)
  view.setUint8(at + TCP.FLAGS, TcpFlag.ACK)
  view.setUint16(at + TCP.WINDOW, WINDOW)
  completeChecksum(view, 0, bytes.length, at, Protocol.TCP)
  return bytes
}
