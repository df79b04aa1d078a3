/** `anchor init`, `invite`, `hosts`, `remove`, `rekey`, `forward`, `forwards`, `unforward`. They ask a running anchor; of a stopped one they write the store. */

import { existsSync } from 'node:fs'
import { parseAddress } from '../../core/address.ts'
import { usageError } from '../../core/errors.ts'
import { ControlClient } from '../../host/control/client.ts'
import type { Status } from '../../host/daemon/daemon.ts'
import {
  type AnchorRekeyed,
  type Forward,
  type ForwardProtocol,
  ForwardStore,
  forwardPort,
  type HostRecord,
  HostStore,
  initAnchor,
  loadAnchorConfig,
  invite as makeInvitation,
  poolAddresses,
  readLastSeen,
  writeInvitation,
} from '../../host/provisioning/anchoring.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, showAgo, table, terminalWidth, waitedFor } from '../output.ts'
import { qrLines } from '../qr.ts'

export async function init(options: CommonOptions & { readonly endpoint: string }): Promise<void> {
  const written = initAnchor(new State(options), options.endpoint)
  if (options.json) {
    printJson(written)
    return
  }
  const flag = options.state === undefined ? '' : ` --state ${options.state}`
  printLines([
    `wrote ${written.config}; public key ${written.public_key}`,
    `next: sudo godwit anchor up${flag}, and for each host: sudo godwit anchor invite${flag} NAME`,
  ])
}

/** How long to wait for the hosts to confirm. */
const REKEY_WAIT_MS = 15_000

export async function rekey(options: CommonOptions & { readonly finish?: boolean }): Promise<void> {
  const finish = options.finish === true
  const asked = new ControlClient(new State(options).socket).post<AnchorRekeyed>('/v1/anchor/rekey', {
    wait_ms: finish ? 0 : REKEY_WAIT_MS,
    finish,
  })
  const answer = await waitedFor('waiting for the hosts to take the new key', asked)
  if (options.json) {
    printJson(answer)
    return
  }
  const { public_key, finished, hosts } = answer
  const waiting = hosts.filter(({ state }) => state === 'waiting')
  const of = (kind: string) => waiting.filter((each) => each.kind === kind).map(({ name }) => name)
  const [joined, invited, stock] = [of('host'), of('invitation'), of('wireguard')]
  const left = (names: readonly string[], text: string) =>
    names.length > 0 ? [`${text}: ${names.join(', ')}`] : []
  printLines(
    finished
      ? [
          `the public key of this anchor is now ${public_key}; the old key is deleted`,
          ...left(joined, 'remove and invite these again; on each: godwit leave, then join'),
          ...left(invited, 'these invitations are void; invite again'),
          ...left(stock, 'these need the new PublicKey in their WireGuard configuration'),
        ]
      : [
          `the new public key of this anchor: ${public_key}; the old key stays valid until nobody needs it`,
          ...left(joined, 'these hosts get the new key when they connect'),
          ...left(invited, 'these invitations, made before, are not taken yet'),
          ...left(stock, 'these need the new PublicKey in their WireGuard configuration'),
        ],
  )
}

/** Enough for a configuration with a few name servers; checked before the invitation is made. */
const QR_COLUMNS = 80

export interface Invited {
  readonly name: string
  readonly text: string
  /** Milliseconds since the Unix epoch; absent for a stock WireGuard client. */
  readonly expires?: number
}

export async function invite(
  name: string,
  options: CommonOptions & {
    readonly wg?: boolean
    readonly out?: string
    readonly qr?: boolean
    readonly dns?: readonly string[]
  },
): Promise<void> {
  const state = new State(options)
  const wg = options.wg === true
  const { out, dns } = options
  if (dns !== undefined && !wg)
    throw usageError('--dns needs --wg', {
      hint: 'a godwit host sets [host] dns in its own configuration',
    })
  const qr = options.qr === true
  if (qr && !wg)
    throw usageError('--qr needs --wg', { hint: 'a godwit host reads its invitation with: godwit join -' })
  if (qr && options.json === true) throw usageError('--qr and --json exclude each other')
  if (qr && terminalWidth() < QR_COLUMNS)
    throw usageError(`a QR code needs ${QR_COLUMNS} columns, this terminal has ${terminalWidth()}`, {
      hint: 'make it wider or its font smaller, or write a file: --out FILE',
    })
  for (const each of dns ?? []) if (!parseAddress(each).ok) throw usageError(`--dns ${each}: not an address`)
  if (out !== undefined && existsSync(out))
    throw usageError(`${out} exists already`, { hint: 'name another file, or remove it first' })
  const request = { name, wg, ...(dns && { dns }) }
  const answer = state.busy()
    ? await new ControlClient(state.socket).post<Invited>('/v1/anchor/invite', request)
    : offline(state, request)
  if (qr) process.stdout.write(`${qrLines(answer.text, terminalWidth(), process.stdout.isTTY).join('\n')}\n`)
  if (out !== undefined) {
    writeInvitation(out, answer.text)
    if (options.json) printJson({ name, file: out })
    else printLines([`wrote ${out}, readable only by its owner; delete it once ${name} has it`])
    return
  }
  if (qr) return
  if (options.json) {
    const expires = answer.expires === undefined ? {} : { expires: new Date(answer.expires).toISOString() }
    printJson({ name, ...(wg ? { wg_quick: answer.text } : { invitation: answer.text }), ...expires })
  } else {
    process.stdout.write(answer.text.endsWith('\n') ? answer.text : `${answer.text}\n`)
  }
}

function offline(
  state: State,
  { name, ...what }: { readonly name: string; readonly wg: boolean; readonly dns?: readonly string[] },
): Invited {
  const store = new HostStore(state.file('hosts.json'))
  const { host, text } = makeInvitation(state, store, name, Date.now(), what)
  return { name, text, ...(host.expires === undefined ? {} : { expires: host.expires }) }
}

export async function hosts(options: CommonOptions): Promise<void> {
  const state = new State(options)
  const { anchor } = loadAnchorConfig(state)
  const store = new HostStore(state.file('hosts.json'))
  const seen = await lastSeen(state)
  const list = store.list().map((host) => ({
    name: host.name,
    kind: host.kind,
    state: stateOf(host),
    addresses: poolAddresses(anchor, host.number),
    public_key: host.public_key,
    last_seen: seen.get(host.name) ?? null,
  }))
  if (options.json) printJson({ hosts: list })
  else if (list.length === 0) printLines(['no hosts yet: godwit anchor invite NAME'])
  else {
    const rows = list.map(({ name, kind, state: at, last_seen, addresses }) => [
      name,
      kind,
      at,
      last_seen === null ? 'never' : showAgo(last_seen),
      addresses.join(' '),
    ])
    printLines(table(['HOST', 'KIND', 'STATE', 'LAST SEEN', 'VIRTUAL ADDRESSES'], rows))
  }
}

/** From a running anchor, else from the file that it wrote when it stopped. */
async function lastSeen(state: State): Promise<ReadonlyMap<string, number>> {
  if (!state.busy()) return new Map(Object.entries(readLastSeen(state.file('last-seen.json'))))
  const { peers } = await new ControlClient(state.socket).get<Status>('/v1/status')
  return new Map(peers.flatMap(({ name, last_seen }) => (last_seen === undefined ? [] : [[name, last_seen]])))
}

function stateOf(host: HostRecord): string {
  if (host.expires === undefined) return 'joined'
  return host.expires > Date.now() ? 'invited' : 'expired'
}

export async function remove(name: string, options: CommonOptions): Promise<void> {
  const state = new State(options)
  if (state.busy()) await new ControlClient(state.socket).post('/v1/anchor/remove', { name })
  else {
    new HostStore(state.file('hosts.json')).remove(name)
    forwardStore(state).removeHost(name)
  }
  if (options.json) printJson({ removed: name })
  else printLines([`${name} is removed`])
}

interface ProtocolOptions extends CommonOptions {
  readonly tcp?: boolean
  readonly udp?: boolean
}

export async function forward(
  port: string,
  to: string,
  options: ProtocolOptions & { readonly replace?: boolean },
): Promise<void> {
  const state = new State(options)
  const replace = options.replace === true
  const request = { port: portOf(port), to, replace, ...protocolOf(options) }
  const { forwards } = state.busy()
    ? await new ControlClient(state.socket).post<{ forwards: readonly Forward[] }>(
        '/v1/anchor/forward',
        request,
      )
    : { forwards: forwardPort(state, request) }
  if (options.json) printJson({ forwards })
  else printLines(forwards.map(describe))
}

export async function forwards(options: CommonOptions): Promise<void> {
  const state = new State(options)
  loadAnchorConfig(state)
  const list = forwardStore(state).list()
  if (options.json) printJson({ forwards: list })
  else if (list.length === 0) printLines(['no forwarded ports: godwit anchor forward PORT HOST:PORT'])
  else {
    const rows = list.map(({ port, protocol, host, host_port }) => [
      String(port),
      protocol,
      `${host}:${host_port}`,
    ])
    printLines(table(['PORT', 'PROTOCOL', 'FORWARDS TO'], rows))
  }
}

export async function unforward(port: string, options: ProtocolOptions): Promise<void> {
  const state = new State(options)
  const request = { port: portOf(port), ...protocolOf(options) }
  const { removed } = state.busy()
    ? await new ControlClient(state.socket).post<{ removed: readonly Forward[] }>(
        '/v1/anchor/unforward',
        request,
      )
    : { removed: forwardStore(state).remove(request.port, request.protocol) }
  if (options.json) printJson({ removed })
  else printLines(removed.map((each) => `${describe(each)}: removed`))
}

function describe({ port, protocol, host, host_port }: Forward): string {
  return `${protocol} port ${port} forwards to ${host}:${host_port}`
}

function forwardStore(state: State): ForwardStore {
  return new ForwardStore(state.file('forwards.json'))
}

function portOf(text: string): number {
  const port = Number(text)
  if (Number.isInteger(port) && port >= 1 && port <= 65535) return port
  throw usageError(`"${text}" is not a port; ports are 1 to 65535`)
}

/** Both options are the same as none. */
function protocolOf({ tcp, udp }: ProtocolOptions): { readonly protocol?: ForwardProtocol } {
  if ((tcp === true) === (udp === true)) return {}
  return { protocol: tcp === true ? 'tcp' : 'udp' }
}
