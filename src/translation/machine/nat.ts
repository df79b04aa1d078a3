/** What an IHMP-aware NAT says of the ports it gave (DI-42). */
import { ipOf, type Pair } from '../tables.ts'
import type { IhmpMessage } from '../wire.ts'
import type { Messages } from './messages.ts'
import type { IhmpState } from './state.ts'

/** From a trusted NAT, about a host that has moved behind it. */
export function handleNatEntry(
  state: IhmpState,
  messages: Messages,
  message: IhmpMessage,
  bytes: Uint8Array,
  pair: Pair,
  port: number,
): void {
  const { mapping } = message
  if (mapping === undefined) return
  const { nats } = state.options
  const trusted = nats === 'any' || nats.some((key) => messages.verifies(key, message, bytes))
  const host = state.byActive(ipOf(mapping.nat))
  if (!trusted || host === undefined || !host.nats.has(ipOf(mapping.nat))) {
    state.stats.unauthenticated++
    return
  }
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
  host.row.ports.push(entry)
  state.changed(host)
  messages.acknowledge(host, message, pair, port, {})
}
