/**
 * Whether a segment may be of the subflow (RFC 9293 §3.10.7.4, RFC 5961 §5): what it says is looked at only then. Off the path nobody
 * knows where the windows are.
 */
import { TcpFlag } from '../../core/tcp.ts'
import type { Connection } from './connection.ts'
import type { Segment } from './segment.ts'
import type { Subflow } from './subflow.ts'

const { FIN, RST, SYN } = TcpFlag
/** The least window that is assumed: one that was announced as closed may have been open just before. */
const LEAST = 0x1_0000

export function isAcceptable(connection: Connection, subflow: Subflow, segment: Segment): boolean {
  const start = subflow.offsetOfSeq(segment.seq)
  const end = start + segment.payloadLength + ((segment.flags & FIN) === 0 ? 0 : 1)
  const window = localWindow(connection)
  // A keep-alive, or a probe, is of the byte before the one that is due.
  if (end < subflow.acked - 1 || start > subflow.high + window) return false
  // Acknowledgements that are old by more than a window are as wrong as those of what was not sent.
  const most = Math.max(LEAST, connection.remoteWindow)
  return subflow.offsetOfAck(segment.ack) >= subflow.una - most - LEAST
}

/**
 * Whether a segment may be of a host behind this router: others behind it can write that host's address into theirs. While the
 * connection opens, and after its end, all may be.
 */
export function isAcceptableFromBehind(connection: Connection, segment: Segment): boolean {
  const { dataUna, sndMax, finLocal, tan, rcvMax, state } = connection
  const { flags } = segment
  if (connection.remoteKey === undefined || state === 'closed') return true
  if ((flags & SYN) !== 0) return segment.seq === connection.tcpIsn
  const start = connection.offsetOfSeq(segment.seq)
  const sent = Math.max(sndMax, finLocal + 1)
  if ((flags & RST) !== 0) return start >= dataUna && start <= sent
  const window = Math.max(LEAST, connection.remoteWindow)
  const end = start + segment.payloadLength + ((flags & FIN) === 0 ? 0 : 1)
  if (end < dataUna - window || start > Math.max(sent, dataUna + window)) return false
  const ack = connection.offsetOfAck(segment.ack)
  return ack <= rcvMax + 1 && ack >= tan - localWindow(connection) - LEAST
}

/** What the local TCP takes (bytes), as far as is known. */
function localWindow({ windowBytes }: Connection): number {
  return Math.max(LEAST, windowBytes)
}

/** Of one that is not: whether it is answered. Empty ones are not, or two ends would answer each other without end. */
export function asksForAck({ payloadLength, flags }: Segment): boolean {
  return payloadLength > 0 || (flags & (SYN | RST | FIN)) !== 0
}
