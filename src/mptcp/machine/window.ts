/**
 * Whether a segment may be of the subflow (RFC 9293 §3.10.7.4, RFC 5961 §5): what it says is looked at only then. Off the path nobody
 * knows where the windows are.
 */
import { TcpFlag } from '../../core/tcp.ts'
import type { Connection } from './connection.ts'
import type { Segment } from './segment.ts'
import type { Subflow } from './subflow.ts'

/** The least window that is assumed: one that was announced as closed may have been open just before. */
const LEAST = 0x1_0000

export function isAcceptable(connection: Connection, subflow: Subflow, segment: Segment): boolean {
  const start = subflow.offsetOfSeq(segment.seq)
  const end = start + segment.payloadLength + ((segment.flags & TcpFlag.FIN) === 0 ? 0 : 1)
  const scale = connection.remoteSyn.scale < 0 ? 0 : Math.max(0, connection.localSyn.scale)
  const window = Math.max(LEAST, connection.window * 2 ** scale)
  // A keep-alive, or a probe, is of the byte before the one that is due.
  if (end < subflow.acked - 1 || start > subflow.high + window) return false
  // Acknowledgements that are old by more than a window are as wrong as those of what was not sent.
  const most = Math.max(LEAST, connection.remoteWindow)
  return subflow.offsetOfAck(segment.ack) >= subflow.una - most - LEAST
}

/** Of one that is not: whether it is answered. Empty ones are not, or two ends would answer each other without end. */
export function asksForAck({ payloadLength, flags }: Segment): boolean {
  return payloadLength > 0 || (flags & TcpFlag.FIN) !== 0
}
