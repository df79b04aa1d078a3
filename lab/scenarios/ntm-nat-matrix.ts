/**
 * Every pair of kinds of NAT (NT-45 … NT-49): whether packets end up on a direct way or at the relay, the time from the first
 * packet to the first answer, and the time from the relay's binding to the answer on the direct way, by the node's own trace.
 * Then how often a symmetric NAT that counts its ports and one that lets in only answers meet, all mappings made anew each time.
 */
import type { Program } from '../hosts.ts'
import { monotonicMs } from '../programs/program.ts'
import { percentile, type Scenario, type ScenarioContext } from '../scenario.ts'
import { NODE_KINDS, type NodeKind, NTM_NATS_RTT, SIDES } from '../topologies/ntm-nats.ts'
import { handoverCount } from './handovers.ts'
import { firstByte, type OverlayNode, OverlayServer } from './ntm-kit.ts'

const SERVER4 = '203.0.113.2'
const SERVER6 = '2001:db8:0:1::2'
const PORT = 5006
const COORDINATOR_PORT = 6741
/** A direct way that is not there by then is not found (ms). */
const PATIENCE_MS = 6_000
/** Time to first byte, by issue 13. */
const FIRST_BYTE_MS = 2 * NTM_NATS_RTT.server
const DIRECT_MS = 2 * NTM_NATS_RTT.node + 50
/** Predicted ports: the share that is wanted within this time (ms), and the trials of each pair. */
const PREDICTED_SHARE = 0.9
const PREDICTED_MS = 5_000
const TRIALS = 5
/** A counting NAT and one that lets in only what it has sent to. */
const PREDICTED: readonly (readonly [NodeKind, NodeKind])[] = [
  ['cnt', 'prn'],
  ['prn', 'cnt'],
  ['cnt', 'cgn'],
  ['cgn', 'cnt'],
]

/** Where theory allows a direct way without predicted ports; two that only answer what they sent to cannot meet if one changes its port each time. */
function mayBeDirect(a: NodeKind, b: NodeKind): boolean {
  if (a === 'six' || b === 'six') return a === b
  const symmetric = (kind: NodeKind) => kind === 'sym' || kind === 'cnt'
  const strict = (kind: NodeKind) => kind === 'prn' || kind === 'cgn' || symmetric(kind)
  return !((symmetric(a) && strict(b)) || (symmetric(b) && strict(a)))
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
    const predicted: number[] = []
    for (const kinds of PREDICTED)
      for (let n = 0; n < handoverCount(context, TRIALS); n++)
        predicted.push(await predict(context, kinds, nodes, clients.get(kinds[0])!))
    reportPredicted(context, predicted)
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

/** Milliseconds from the question to the direct way; infinite: none within the time. */
async function predict(
  context: ScenarioContext,
  kinds: readonly [NodeKind, NodeKind],
  nodes: ReadonlyMap<string, OverlayNode>,
  client: Program,
): Promise<number> {
  const [a, b] = [nodes.get(`a${kinds[0]}`)!, nodes.get(`b${kinds[1]}`)!]
  // What the NATs have of an earlier trial goes, but not the way to the coordinator.
  const forgets = { lifetimeMs: 3_600_000, keepsPort: COORDINATOR_PORT }
  for (const nat of [`na${kinds[0]}`, `nb${kinds[1]}`])
    await (await context.lab.programs.own(nat, 'mapping-ages', forgets)).stop()
  const began = monotonicMs()
  await firstByte(client, a, b, PATIENCE_MS + 10_000)
  await a.untilWay(b, ['direct'], PREDICTED_MS - (monotonicMs() - began))
  const ms = (await a.way(b)) === 'direct' ? monotonicMs() - began : Number.POSITIVE_INFINITY
  await Promise.all([a.forget(b), b.forget(a)])
  context.note(
    `${kinds.join(' → ')}, predicted: ${ms === Number.POSITIVE_INFINITY ? 'relay' : `direct after ${ms.toFixed(0)} ms`}`,
  )
  return ms
}

function reportPredicted(context: ScenarioContext, all: readonly number[]): void {
  const direct = all.filter((ms) => ms <= PREDICTED_MS)
  const share = direct.length / all.length
  context.check(
    'direct by predicted ports, within 5 s',
    share >= PREDICTED_SHARE,
    `${direct.length} of ${all.length}`,
    `at least ${100 * PREDICTED_SHARE} %`,
  )
  context.metric('predicted_share', share)
  context.metric('predicted_median_p95_ms', [percentile(direct, 0.5), percentile(direct, 0.95)])
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
