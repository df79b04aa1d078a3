/** `dime …`: address translation between hosts that both run godwit. */
import { readFileSync } from 'node:fs'
import { ControlClient } from '../../host/control/client.ts'
import { cleanUp, serve, serveNat } from '../../host/daemon/serve.ts'
import {
  bindKey,
  type HostView,
  ownKeys,
  type SocketView,
  zoneLines,
} from '../../host/provisioning/translation.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, showMs, table } from '../output.ts'

export function up(options: CommonOptions): Promise<void> {
  return serve('dime', new State(options))
}

export async function down(options: CommonOptions): Promise<void> {
  await cleanUp(new State(options), 'dime')
  if (options.json) printJson({ clean: true })
  else printLines(['removed everything of godwit dime from the kernel'])
}

export async function hosts(options: CommonOptions): Promise<void> {
  const client = new ControlClient(new State(options).socket)
  const answer = await client.get<{ hosts: HostView[] }>('/v1/dime/hosts')
  if (options.json) {
    printJson(answer)
    return
  }
  const list = (ips: readonly string[]): string => ips.join(' ') || '-'
  const rows = answer.hosts.map((h) => [
    String(h.hid),
    h.detached ? `${h.state}, detached` : h.state,
    list(h.active),
    list(h.unreachable),
    list(h.local),
    h.key ?? '-',
    String(h.flows),
    showMs(h.rtt_ms),
  ])
  printLines(
    rows.length === 0
      ? ['no hosts yet']
      : table(['HID', 'STATE', 'ACTIVE', 'UNREACHABLE', 'LOCAL', 'KEY', 'FLOWS', 'RTT'], rows),
  )
}

export async function sockets(options: CommonOptions): Promise<void> {
  const client = new ControlClient(new State(options).socket)
  const answer = await client.get<{ sockets: SocketView[] }>('/v1/dime/sockets')
  if (options.json) {
    printJson(answer)
    return
  }
  const rows = answer.sockets.map((s) => [
    s.socket,
    s.bound_local,
    s.bound,
    String(s.hid),
    `${s.wire_local} → ${s.wire}`,
  ])
  printLines(
    rows.length === 0
      ? ['no sockets']
      : table(['SOCKET', 'BOUND HERE', 'BOUND ADDRESS', 'HID', 'ON THE WIRE'], rows),
  )
}

export async function keyShow(options: CommonOptions): Promise<void> {
  const keys = ownKeys(new State(options))
  if (options.json) printJson({ keys })
  else printLines(keys.map((k) => `${k.addresses} ${k.public_key}`))
}

export async function keySet(
  addresses: readonly string[],
  options: CommonOptions & { readonly new?: boolean },
): Promise<void> {
  const key = options.new ? undefined : readFileSync(0, 'utf8')
  const bound = await bindKey(new State(options), key, addresses)
  if (options.json) printJson(bound)
  else printLines([bound.public_key])
}

export async function keyDns(addresses: readonly string[], options: CommonOptions): Promise<void> {
  const lines = zoneLines(new State(options), addresses)
  if (options.json) printJson({ records: lines })
  else printLines(lines)
}

export function nat(
  inside: string,
  outside: string,
  options: CommonOptions & { readonly ports?: string; readonly port?: number },
): Promise<void> {
  return serveNat(new State(options), {
    inside,
    outside,
    ...(options.ports === undefined ? {} : { ports: options.ports }),
    ...(options.port === undefined ? {} : { port: options.port }),
  })
}
