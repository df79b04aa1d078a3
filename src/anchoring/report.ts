/** An engine's report of a flow as status shows it, on a host and on an anchor. */
import type { FlowStatus } from '../core/mechanism.ts'
import type { FlowReport } from './protocol.ts'

/** Why nothing may come back from there: `ADDRESS:PORT`, or the URL of a WebSocket. */
export function silentReason(remote: string): string {
  const port = remote.includes('//') ? undefined : /\d+$/.exec(remote)?.[0]
  return `no answer: ${port === undefined ? 'TCP' : `UDP port ${port}`} is blocked, or the anchor is down`
}

export function history({
  since,
  bytes,
}: FlowReport): Pick<FlowStatus, 'since' | 'sent_bytes' | 'received_bytes'> {
  return { since, ...(bytes && { sent_bytes: bytes.sent, received_bytes: bytes.received }) }
}
