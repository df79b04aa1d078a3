/** What an IHMP-aware NAT says of the ports it gave (DI-42). */
import { ipOf, type Pair } from '../tables.ts'
import type { IhmpMessage } from '../wire.ts'
import type { Messages } from './messages.ts'
import type { IhmpState } from './state.ts'

/** Renumbered connections of one host; the oldest makes room. */
const MOST_PORTS = 10_000

/** From a trusted NAT, about a host that has moved behind it. False when it is neither. */
export function handleNatEntry(
  state: IhmpState,
  messages: Messages,
  message: IhmpMessage,
  bytes: Uint8Array,
  pair: Pair,
  port: number,
): boolean {
  const { mapping } = message
  const host = mapping && state.byActive(ipOf(mapping.nat))
  if (mapping === undefined || host === undefined || !host.nats.has(ipOf(mapping.nat))) return false
  const { nats } = state.options
  if (nats !== 'any' && !nats.some((key) => messages.verifies(key, message, bytes))) return false
  const entry = {
    protocol: mapping.protocol,
    foreignPort: mapping.hostPort,
    natPort: mapping.natPort,
    localPort: mapping.remotePort,
  }
  const same = host.row.ports.findIndex(
    (p) =>
      p.protocol === entry.protocol && p.foreignPort === entry.foreignPort && p.localPort === entry.localPort,
  )
  if (same >= 0) host.row.ports.splice(same, 1)
  else if (host.row.ports.length >= MOST_PORTS) host.row.ports.shift()
  host.row.ports.push(entry)
  state.changed(host)
  messages.acknowledge(host, message, pair, port, {})
  return true
}
