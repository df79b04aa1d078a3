/** What an engine reports of a flow, as status shows it; of a host's and of an anchor's alike. */
import type { FlowStatus } from '../core/mechanism.ts'
import type { FlowReport } from './protocol.ts'

export function history({
  since,
  bytes,
}: FlowReport): Pick<FlowStatus, 'since' | 'sent_bytes' | 'received_bytes'> {
  return { since, ...(bytes && { sent_bytes: bytes.sent, received_bytes: bytes.received }) }
}
