/**
 * Every pair of kinds of NAT (NT-45 … NT-49): whether packets end up on a direct way or at the relay, the time from the first
 * packet to the first answer, and the time from the relay's binding to the answer on the direct way, by the node's own trace.
 */
import type { Program } from '../hosts.ts'
import { percentile, type Scenario, type ScenarioContext } from '../scenario.ts'
import { NODE_KINDS, type NodeKind, NTM_NATS_RTT, SIDES } from '../topologies/ntm-nats.ts'
import { firstByte, type OverlayNode, OverlayServer } from './ntm-kit.ts'

const SERVER4 = '203.0.113.2'
const SERVER6 = '2001:db8:0:1::2'
const PORT = 5006
/** A direct way that is not there by then is not found (ms). */
const PATIENCE_MS = 6_000
/** Time to first byte, by issue 13. */
const FIRST_BYTE_MS = 2 * NTM_NATS_RTT.server
const DIRECT_MS = 2 * NTM_NATS_RTT.node + 50

/** Where theory allows a direct way; two that only answer what they sent to cannot meet if one changes its port each time. */
function mayBeDirect(a: NodeKind, b: NodeKind): boolean {
  if (a === 'six' || b === 'six') return a === b
  const strict = (kind: NodeKind) => kind === 'prn' || kind === 'cgn' || kind === 'sym'
  return !((a === 'sym' && strict(b)) || (b === 'sym' && strict(a)))
}

export const ntmNatMatrix: Scenario = {
  name: 'ntm-nat-matrix',
  summary: 'overlay: every pair of kinds of NAT, direct or relayed, time to first byte, time to direct',
  topology: 'ntm-nats',
  paper: { 'both behind different NATs': 'relayed, then directly if one of both ways gets through (Fig. 8)' },
  async run(context) {
    const server = await OverlayServer.start(context, [SERVER4, SERVER6])
    const roles = SIDES.flatMap((side) => NODE_KINDS.map((kind) => `${side}${kind}`))
    const six = `https://[${SERVER6}]:6741`
    const nodes = await server.nodes(context, roles, (role) => (role.endsWith('six') ? six : undefined))
    context.note(`${nodes.size} nodes are registered`)
    const clients = new Map<NodeKind, Program>()
    for (const kind of NODE_KINDS) {
      clients.set(
        kind,
        await context.lab.programs.own(`a${kind}`, 'first-byte', { role: 'client', port: PORT }),
      )
      await context.lab.programs.own(`b${kind}`, 'first-byte', { role: 'server', port: PORT })
    }
    context.start()
    const results: Result[] = []
    for (const a of NODE_KINDS)
      for (const b of NODE_KINDS)
        results.push(
          await onePair(context, [a, b], [nodes.get(`a${a}`)!, nodes.get(`b${b}`)!], clients.get(a)!),
        )
    report(context, results)
  },
}

interface Result {
  readonly kinds: readonly [NodeKind, NodeKind]
  readonly way: string
  readonly firstByteMs: number
  /** From the relay's binding (or the direction, where it is direct at once) to the answer; NaN where there was none. */
  readonly directMs: number
}

async function onePair(
  context: ScenarioContext,
  kinds: readonly [NodeKind, NodeKind],
  [a, b]: readonly [OverlayNode, OverlayNode],
  client: Program,
): Promise<Result> {
  const since = (await a.trace()).at(-1)?.at ?? 0
  const firstByteMs = await firstByte(client, a, b, PATIENCE_MS + 10_000)
  const wanted = mayBeDirect(...kinds)
  if (wanted) await a.untilWay(b, ['direct', 'lan'], PATIENCE_MS)
  else await context.sleep(500)
  const way = await a.way(b)
  const steps = await a.trace(since)
  const begin =
    steps.find(({ what }) => what === 'RELAY_BOUND') ?? steps.find(({ what }) => what === 'ROUTE_DIRECTION')
  const answer = steps.find(({ what, from }) => what === 'TUNNEL_RESPONSE' && from === b.name)
  const directMs =
    way === 'relay' || begin === undefined || answer === undefined
      ? Number.NaN
      : Math.max(0, answer.at - begin.at)
  await Promise.all([a.forget(b), b.forget(a)])
  context.note(
    `${kinds.join(' → ')}: ${way}, first byte ${firstByteMs.toFixed(0)} ms, direct after ${directMs.toFixed(0)} ms`,
  )
  return { kinds, way, firstByteMs, directMs }
}

function report(context: ScenarioContext, results: readonly Result[]): void {
  const allowed = results.filter(({ kinds }) => mayBeDirect(...kinds))
  const missed = allowed.filter(({ way }) => way !== 'direct' && way !== 'lan')
  const value = `${allowed.length - missed.length} of ${allowed.length}${missed.length === 0 ? '' : `; not ${missed.map(({ kinds }) => kinds.join('→')).join(', ')}`}`
  context.check('direct where theory allows', missed.length === 0, value, 'all')
  const others = results.filter(({ kinds }) => !mayBeDirect(...kinds))
  context.check(
    'the others are reached',
    others.every(({ way }) => way !== 'none'),
    others.map(({ kinds, way }) => `${kinds.join('→')} ${way}`).join(', '),
    'all by the relay, or better',
  )
  const direct = allowed.map(({ directMs }) => directMs).filter((ms) => !Number.isNaN(ms))
  const p95 = percentile(direct, 0.95)
  context.check(
    'time to direct',
    p95 <= DIRECT_MS,
    `${p95.toFixed(0)} ms at p95`,
    `at most ${DIRECT_MS} ms (2 RTT and 50 ms)`,
  )
  const first = results.map(({ firstByteMs }) => firstByteMs)
  context.metric('first_byte_median_p95_most_ms', [
    percentile(first, 0.5),
    percentile(first, 0.95),
    Math.max(...first),
  ])
  context.metric('direct_median_p95_most_ms', [percentile(direct, 0.5), p95, Math.max(...direct)])
  context.metric('first_byte_wanted_ms', FIRST_BYTE_MS)
  for (const { kinds, firstByteMs } of results)
    context.metric(`first_byte_${kinds.join('_')}_ms`, firstByteMs)
}
