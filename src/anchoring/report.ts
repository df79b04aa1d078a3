/** An engine's report of a flow as status shows it, on a host and on an anchor. */
import type { FlowStatus } from '../core/mechanism.ts'
import type { FlowReport } from './protocol.ts'

export function history({
  since,
  bytes,
}: FlowReport): Pick<FlowStatus, 'since' | 'sent_bytes' | 'received_bytes'> {
  return { since, ...(bytes && { sent_bytes: bytes.sent, received_bytes: bytes.received }) }
}
