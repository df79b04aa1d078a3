/** `status`, `paths`, `flows`, `peers`, `why`, `move`: questions to a daemon that runs. */
import {
  type DecisionRecord,
  type FlowStatus,
  type HandoverRecord,
  type Move,
  type PeerStatus,
  type Pin,
  takesPackets,
} from '../../core/mechanism.ts'
import { counted } from '../../core/words.ts'
import { ControlClient } from '../../host/control/client.ts'
import type { Status, Why } from '../../host/daemon/daemon.ts'
import { State } from '../../host/stores/state.ts'
import { version } from '../../host/version.ts'
import type { CommonOptions } from '../definition.ts'
import {
  fitTable,
  printJson,
  printLines,
  showAgo,
  showBytes,
  showDuration,
  showLoss,
  showMs,
  showTime,
  wrap,
} from '../output.ts'

interface QueryOptions extends CommonOptions {
  readonly watch?: number | true
}

/** How many handovers the overview shows. */
const LAST = 5

function client(options: CommonOptions): ControlClient {
  return new ControlClient(new State(options).socket)
}

/** Prints once, or again and again. */
async function show(
  options: QueryOptions,
  json: (status: Status) => unknown,
  lines: (status: Status) => string[],
): Promise<void> {
  const daemon = client(options)
  for (;;) {
    const status = await daemon.get<Status>('/v1/status')
    if (options.watch !== undefined && process.stdout.isTTY) process.stdout.write('\x1b[H\x1b[2J')
    if (options.json) printJson(json(status))
    else printLines(lines(status))
    if (options.watch === undefined) return
    await new Promise((done) => setTimeout(done, options.watch === true ? 2000 : options.watch! * 1000))
  }
}

export function status(options: QueryOptions): Promise<void> {
  return show(options, (value) => value, overview)
}

export function paths(options: QueryOptions): Promise<void> {
  const json = (value: Status) => ({
    paths: value.peers.flatMap((peer) => peer.paths.map((path) => ({ peer: peer.name, ...path }))),
  })
  return show(options, json, (value) => pathTable(value.peers))
}

export function flows(options: QueryOptions): Promise<void> {
  return show(
    options,
    (value) => ({ flows: value.flows, flows_left_out: value.flows_left_out }),
    (value) => [...flowTable(value.flows), ...leftOut(value)],
  )
}

export function peers(options: QueryOptions): Promise<void> {
  return show(
    options,
    (value) => ({ peers: value.peers }),
    (value) => peerTable(value.peers),
  )
}

export function overview(status: Status): string[] {
  const up = showDuration(Date.now() - status.started_at)
  const waits = status.ready ? '' : ', not ready yet'
  const lines = [`godwit ${status.version} ${status.role}, up for ${up} (process ${status.pid})${waits}`]
  if (status.version !== version())
    lines.push(
      ...wrap(
        `this command is of version ${version()}; the daemon goes on with its own until it is restarted`,
        '  ',
      ),
    )
  if (!status.ready && status.waiting !== undefined) lines.push(...wrap(status.waiting, '  '))
  if (status.accesses.length > 0) lines.push('', ...accessTable(status))
  for (const { name, reason } of status.unused)
    lines.push(
      ...wrap(reason.startsWith('down: ') ? `${name} ${reason}` : `${name} is not used: ${reason}`, '  '),
    )
  lines.push('', ...peerTable(status.peers))
  const paths = status.peers.flatMap((peer) => peer.paths)
  if (paths.length > 0) lines.push('', ...pathTable(status.peers))
  const perAccess = new Map<string, number>()
  for (const { access } of status.flows) perAccess.set(access, (perAccess.get(access) ?? 0) + 1)
  const split = [...perAccess].map(([access, flows]) => `${flows} on ${access || 'no access'}`).join(', ')
  lines.push('', `${counted(status.flows.length, 'flow')}${split && `: ${split}`}`, ...leftOut(status))
  for (const pin of status.pins ?? []) lines.push(pinLine(pin))
  if (status.handovers.length === 0) return [...lines, 'no handovers yet']
  lines.push(`${counted(status.handovers.length, 'handover')}, the last:`)
  return [
    ...lines,
    ...status.handovers.slice(-LAST).flatMap((record) => wrap(`  ${handoverLine(record)}`, '    ')),
  ]
}

function pinLine({ what, access, until }: Pin): string {
  const rest = until === undefined ? '' : `, for another ${showDuration(until - Date.now())}`
  return `${what} was moved to ${access} by hand${rest}; to undo: godwit move ${what} auto`
}

function leftOut({ flows, flows_left_out }: Status): string[] {
  if (flows_left_out === 0) return []
  return [`${counted(flows_left_out, 'more flow')} not listed: lists end at ${flows.length}`]
}

function accessTable(status: Status): string[] {
  const rows = status.accesses.map((access) => {
    const flows = status.flows.filter((flow) => flow.access === access.name).length
    const addresses = access.addresses.join(' ') || '-'
    return [access.name, access.state, addresses, showMs(access.rtt_ms), showLoss(access.loss), String(flows)]
  })
  const reasons = status.accesses.flatMap(({ name, state, reason, obstacle }) => [
    ...(state === 'up' || reason === undefined ? [] : wrap(`${name} ${state}: ${reason}`, '  ')),
    ...(obstacle === undefined ? [] : wrap(`${name}: ${obstacle}`, '  ')),
  ])
  const head = ['ACCESS', 'STATE', 'ADDRESSES', 'RTT', 'LOSS', 'FLOWS']
  return [...fitTable(head, rows, { shorten: ['ADDRESSES'] }), ...reasons]
}

function peerTable(peers: readonly PeerStatus[]): string[] {
  if (peers.length === 0) return ['no peers']
  const known = peers.some(({ last_seen }) => last_seen !== undefined)
  const rows = peers.map((peer) => {
    const up = peer.paths.filter(takesPackets).length
    return [
      peer.name,
      peer.kind,
      peer.refused === undefined ? peer.state : 'refused',
      `${up} of ${peer.paths.length} up`,
      peer.addresses?.join(' ') ?? '-',
      ...(known ? [peer.last_seen === undefined ? '-' : showAgo(peer.last_seen)] : []),
    ]
  })
  const refusals = peers.flatMap(({ name, refused }) =>
    refused === undefined ? [] : wrap(`${name} refuses this host: ${refused}`, '  '),
  )
  const fit = { drop: ['KIND'], shorten: ['VIRTUAL ADDRESSES', 'PEER'] }
  const head = ['PEER', 'KIND', 'STATE', 'PATHS', 'VIRTUAL ADDRESSES', ...(known ? ['LAST SEEN'] : [])]
  return [...fitTable(head, rows, fit), ...refusals]
}

function pathTable(peers: readonly PeerStatus[]): string[] {
  const rows = peers.flatMap((peer) =>
    peer.paths.map((path) => [
      peer.name,
      String(path.id),
      path.access,
      path.remote,
      path.state,
      showMs(path.rtt_ms),
      showLoss(path.loss),
      showBytes(path.sent_bytes),
      showBytes(path.received_bytes),
      path.mtu === undefined ? '-' : String(path.mtu),
    ]),
  )
  if (rows.length === 0) return ['no paths']
  const head = ['PEER', 'PATH', 'ACCESS', 'REMOTE', 'STATE', 'RTT', 'LOSS', 'SENT', 'RECEIVED', 'MTU']
  return fitTable(head, rows, { drop: ['MTU', 'PATH', 'SENT', 'RECEIVED'], shorten: ['PEER', 'REMOTE'] })
}

function flowTable(flows: readonly FlowStatus[]): string[] {
  if (flows.length === 0) return ['no flows']
  const rows = flows.map((flow) => [
    flow.id,
    flow.proto,
    flow.src,
    flow.dst,
    flow.app || '-',
    flow.mechanism,
    flow.peer,
    flow.pinned === undefined ? flow.access || '-' : `${flow.access || '-'} (by hand)`,
  ])
  const head = ['FLOW', 'PROTO', 'SOURCE', 'DESTINATION', 'APP', 'MECHANISM', 'PEER', 'ACCESS']
  return fitTable(head, rows, { drop: ['MECHANISM', 'PEER', 'SOURCE'], shorten: ['DESTINATION', 'APP'] })
}

function handoverLine(record: HandoverRecord): string {
  const gap = record.gap_ms === null ? '' : `, gap ${showMs(record.gap_ms)}`
  const lost = record.lost_packets === null ? '' : `, lost ${record.lost_packets}`
  return `${showTime(record.at)}  ${record.what}: ${record.from} -> ${record.to} (${record.cause})${gap}${lost}`
}

export async function move(
  what: string,
  access: string,
  options: CommonOptions & { readonly static?: boolean; readonly for?: number },
): Promise<void> {
  const body = {
    what,
    access,
    ...(options.static === true && { static: true }),
    ...(options.for !== undefined && { for_ms: options.for }),
  }
  const moved = await client(options).post<Move>('/v1/move', body)
  if (options.json) printJson({ what, access, ...moved })
  else printLines([moveLine(moved, access, options.for)])
}

function moveLine({ flows, note }: Move, access: string, forMs: number | undefined): string {
  const time = forMs === undefined ? '' : `, for ${showDuration(forMs)}`
  if (flows === 0 && note !== undefined) return `${note}${time}`
  const done = access === 'auto' ? 'returned to the policy' : `moved to ${access}${time}`
  return `${counted(flows, 'flow')} ${done}${note === undefined ? '' : `; ${note}`}`
}

export async function why(flow: string, options: CommonOptions): Promise<void> {
  const answer = await client(options).get<Why>('/v1/why', { flow })
  if (options.json) {
    printJson(answer)
    return
  }
  const lines = whyHead(answer)
  if (answer.now.length > 0) lines.push('', 'now:', ...answer.now.flatMap(decisionLines))
  const past = [
    ...answer.decisions.map((record) => ({ at: record.at, lines: decisionLines(record) })),
    ...answer.handovers.map((record) => ({
      at: record.at,
      lines: wrap(`  ${handoverLine(record)}`, '    '),
    })),
  ].sort((a, b) => a.at - b.at)
  if (past.length > 0) lines.push('', 'on record:', ...past.flatMap((entry) => entry.lines))
  printLines(lines)
}

function whyHead({ flow, class: found, access: on, offers, decisions }: Why): string[] {
  if (found !== undefined)
    return [
      `${found.id}: ${found.scheduler}`,
      `on ${found.access || 'no access'} by ${found.mechanism}, through ${found.peer}`,
    ]
  if (flow === undefined) return []
  const { id, proto, src, dst, app, access, mechanism, peer } = flow
  const last = decisions.findLast(({ chosen }) => chosen === access)
  return [
    `${id}: ${proto} ${src} -> ${dst}${app && ` of ${app}`}`,
    `on ${access || 'no access'} by ${mechanism}, through ${peer || 'nobody'}`,
    ...(last === undefined ? [] : wrap(`because: ${last.reason}`, '  ')),
    ...(on?.reason === undefined ? [] : wrap(`${on.name} is ${on.state}: ${on.reason}`, '  ')),
    '',
    'mechanisms that could carry it:',
    ...offers.flatMap((each) =>
      wrap(`  ${each.mechanism}: ${each.carries ? 'yes' : 'no'}, ${each.reason}`, '    '),
    ),
  ]
}

function decisionLines(record: DecisionRecord): string[] {
  const evidence = evidenceParts(record.evidence ?? {})
  return [
    ...wrap(`  ${showTime(record.at)}  ${record.what}: ${record.chosen}, because ${record.reason}`, '    '),
    ...(evidence.length > 0 ? wrap(`    evidence: ${evidence.join('; ')}`, '      ') : []),
  ]
}

/** The evidence of each access in a few words with units, then the rest. */
export function evidenceParts(evidence: NonNullable<DecisionRecord['evidence']>): string[] {
  const parts: string[] = []
  for (const [key, value] of Object.entries(evidence)) {
    const [, access, field] = /^(.+)\.(health|for_ms|rtt_ms)$/.exec(key) ?? []
    if (access === undefined) parts.push(`${words(key)} ${valueText(key, value)}`)
    else if (field === 'health') {
      const since = Number(evidence[`${access}.for_ms`] ?? Number.NaN)
      const rtt = evidence[`${access}.rtt_ms`]
      const lasting = Number.isNaN(since) ? '' : ` for ${since < 1000 ? `${since} ms` : showDuration(since)}`
      parts.push(
        `${access} ${String(value)}${lasting}${typeof rtt === 'number' ? `, round trip ${showMs(rtt)}` : ''}`,
      )
    }
  }
  return parts
}

const words = (key: string): string => key.replace(/_ms$/, '').replaceAll('_', ' ')

function valueText(key: string, value: string | number | boolean | null): string {
  if (value === null) return 'unknown'
  if (key.endsWith('_ms') && typeof value === 'number') return showMs(value)
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  return value === '' ? '-' : String(value)
}
