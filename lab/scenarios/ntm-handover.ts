/**
 * Handovers of an established tunnel between two nodes behind NATs, under a flow of datagrams every 5 ms each way: one access is lost
 * while another is there; one is lost before the other comes; both nodes lose theirs at once.
 */
import { monotonicMs } from '../programs/program.ts'
import { percentile, type Scenario, type ScenarioContext } from '../scenario.ts'
import { ROAM_SERVER } from '../topologies/ntm-roam.ts'
import { DatagramFlow, type DatagramReport, figuresOf, longestSilence, stalledMs } from '../traffic.ts'
import { handoverCount } from './handovers.ts'
import { OverlayServer } from './ntm-kit.ts'

const PORT = 5007
const DELAY = { acc1: 10, acc2: 15 } as const
/** Between the two nodes over their slowest accesses. */
const RTT_MS = 4 * DELAY.acc2
const LINK_EVENT_MS = 50
const SETTLE_MS = 2_000
const OUTAGE_MS = 300

const KINDS = ['other-access-there', 'break-before-make', 'both-at-once'] as const
type Kind = (typeof KINDS)[number]

interface Move {
  readonly kind: Kind
  /** When an access works again that packets can take (monotonic ms). */
  readonly from: number
  readonly until: number
}

export const ntmHandover: Scenario = {
  name: 'ntm-handover',
  summary: 'overlay: one node or both change their access under a flow of datagrams',
  topology: 'ntm-roam',
  links: Object.fromEntries(
    ['mh', 'cn'].flatMap((host) =>
      (['acc1', 'acc2'] as const).map((access) => [`${host}-${access}`, { delayMs: DELAY[access] }]),
    ),
  ),
  paper: { result: 'not measured' },
  async run(context) {
    const count = handoverCount(context, 4)
    const server = await OverlayServer.start(context, [ROAM_SERVER])
    const accesses = ['acc1', 'acc2']
    const mh = await server.node(context, 'mh', { accesses })
    const cn = await server.node(context, 'cn', { accesses })
    await mh.resolve(cn)
    context.check(
      'a direct way',
      await mh.untilWay(cn, ['direct', 'lan'], 10_000),
      await mh.way(cn),
      'direct',
    )
    context.start()
    const ends = { client: 'mh', iface: 'acc1', host: await cn.address() }
    const flow = await DatagramFlow.start(context, 'cn', PORT, 5, ends)
    await context.sleep(SETTLE_MS)
    const moves: Move[] = []
    for (const kind of KINDS)
      for (let n = 0; n < count; n++) {
        moves.push(await move(context, kind, n))
        context.note(`${kind} ${n + 1} of ${count}`)
      }
    await report(context, moves, await flow.finish(context))
  },
}

/** From the first access to the second, or back. */
async function move(context: ScenarioContext, kind: Kind, n: number): Promise<Move> {
  const [from, to] = n % 2 === 0 ? ['acc1', 'acc2'] : ['acc2', 'acc1']
  const hosts = kind === 'both-at-once' ? ['mh', 'cn'] : ['mh']
  const set = (access: string, state: 'up' | 'down') => {
    for (const host of hosts) context.lab.setLink(`${host}-${access}`, { state })
  }
  let at = monotonicMs()
  if (kind === 'break-before-make') {
    // Only the first access is there.
    set(to!, 'down')
    await context.sleep(SETTLE_MS)
    set(from!, 'down')
    await context.sleep(OUTAGE_MS)
    at = monotonicMs()
    set(to!, 'up')
  } else set(from!, 'down')
  await context.sleep(SETTLE_MS)
  const until = monotonicMs()
  set(from!, 'up')
  set(to!, 'up')
  await context.sleep(SETTLE_MS)
  return { kind, from: at, until }
}

async function report(context: ScenarioContext, moves: readonly Move[], flow: DatagramReport): Promise<void> {
  const stalls = await context.lab.links.stalls()
  const ways = [flow.up, flow.down]
  const figures = ways.map(figuresOf)
  context.metric(
    'lost_packets',
    figures.reduce((sum, { lost }) => sum + lost, 0),
  )
  context.metric(
    'duplicated_packets',
    figures.reduce((sum, { duplicated }) => sum + duplicated, 0),
  )
  for (const kind of KINDS) {
    const gaps = moves
      .filter((each) => each.kind === kind)
      .map(({ from, until }) =>
        Math.max(
          ...ways.map((way) => {
            const silence = longestSilence(way, from, until, 5)
            // An outage is no part of the gap after it.
            const begin = Math.max(silence.from, from)
            return Math.max(0, silence.to - begin - 5 - stalledMs({ ...silence, from: begin }, stalls))
          }),
        ),
      )
    const p95 = percentile(gaps, 0.95)
    const bound = RTT_MS + LINK_EVENT_MS
    context.metric(`${kind}_gap_ms`, gaps)
    context.check(
      `${kind}: gap, 95th percentile`,
      p95 <= bound,
      `${p95.toFixed(1)} ms`,
      `at most 1 RTT (${RTT_MS} ms) and ${LINK_EVENT_MS} ms`,
    )
  }
}
