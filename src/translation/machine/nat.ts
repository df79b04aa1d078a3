/** What an IHMP-aware NAT says of the ports it gave (DI-42). */
import { type Ip, ipOf, type Pair } from '../tables.ts'
import type { IhmpMessage, PortMapping } from '../wire.ts'
import { type Host, ReplayWindow } from './host.ts'
import type { Messages } from './messages.ts'
import { type IhmpState, NAT_WINDOW } from './state.ts'

/** Renumbered connections of one host; the oldest makes room. */
const MOST_PORTS = 10_000

/** DI-41: the host's address is seen as the NAT's, and it names itself by the one inside. */
export function isBehind(state: IhmpState, host: Host, nat: Ip, inside: Ip): void {
  if (!state.know(host, nat) || !state.index(host, inside)) return
  host.nats.set(nat, inside)
  host.row.nats.add(nat)
}

/** From a trusted NAT at its own address, about a host that has moved behind it. */
export function handleNatEntry(
  state: IhmpState,
  messages: Messages,
  message: IhmpMessage,
  bytes: Uint8Array,
  pair: Pair,
  port: number,
): void {
  const { mapping } = message
  const host = mapping && state.byActive(ipOf(mapping.nat))
  const { nats } = state.options
  if (
    mapping === undefined ||
    host === undefined ||
    ipOf(mapping.nat) !== pair.foreign ||
    !host.nats.has(pair.foreign) ||
    (nats !== 'any' &&
      (message.receiver === undefined || !nats.some((key) => messages.verifies(key, message, bytes))))
  ) {
    state.stats.unauthenticated++
    return
  }
  let replay = host.natReplay.get(pair.foreign)
  if (replay === undefined) {
    replay = new ReplayWindow(0, NAT_WINDOW)
    host.natReplay.set(pair.foreign, replay)
  }
  const { kind } = replay.check(message.counter)
  if (kind === 'old') {
    state.stats.replayed++
    return
  }
  if (kind === 'new') {
    replay.accept(message.counter)
    enter(state, host, message.counter, mapping)
  }
  messages.acknowledge(host, message, pair, port, {})
}

/** A later word about the same connection stays. */
function enter(state: IhmpState, host: Host, counter: number, mapping: PortMapping): void {
  const entry = {
    protocol: mapping.protocol,
    foreignPort: mapping.hostPort,
    natPort: mapping.natPort,
    localPort: mapping.remotePort,
    counter,
  }
  const same = host.row.ports.findIndex(
    (p) =>
      p.protocol === entry.protocol && p.foreignPort === entry.foreignPort && p.localPort === entry.localPort,
  )
  if (same >= 0 && (host.row.ports[same]!.counter ?? 0) > counter) return
  if (same >= 0) host.row.ports.splice(same, 1)
  else if (host.row.ports.length >= MOST_PORTS) host.row.ports.shift()
  host.row.ports.push(entry)
  state.changed(host)
}
