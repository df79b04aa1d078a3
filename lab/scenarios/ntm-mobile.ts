/**
 * First contact over emulated LTE, with the delays of the paper's Tables 5 to 8: construction of the tunnel (to the first TUNNEL_RESPONSE, or
 * RELAY_BOUND), from no tunnel at all to the first datagram at the peer and to its answer, and the same answer from a peer that is known; where one node has
 * a global address (direct, Fig. 5), and where both are behind symmetric NATs (relayed, Fig. 7).
 */
import { percentile, type Scenario } from '../scenario.ts'
import { handoverCount } from './handovers.ts'
import { firstContact, OverlayServer } from './ntm-kit.ts'

const SERVER = '203.0.113.2'
const PORT = 5006
/** Round trips of the paper (ms): LTE, and the wire behind it. */
const LTE_MS = 61.578
const WIRED_MS = 6.772
const TO_SERVER_MS = LTE_MS + WIRED_MS
const DNS_MS = 12.72
const WANTED_MS = 2 * TO_SERVER_MS + DNS_MS
/** What the programs take, beside the network. */
const WORK_MS = 10
const PATIENCE_MS = 20_000
/** An answer may be there before the steps of the construction are. */
const SETTLE_MS = 300
/** From the direction request to the tunnel's response, as the paper estimates it. */
const PAPER_MS = { direct: 491, relay: 689 } as const
const ROUTES = { direct: ['aglo', 'bprn'], relay: ['asym', 'bsym'] } as const

export const ntmMobile: Scenario = {
  name: 'ntm-mobile',
  summary: 'overlay: first contact over emulated LTE, direct and relayed (Tables 5 to 8)',
  topology: 'ntm-nats',
  links: Object.fromEntries(
    Object.values(ROUTES)
      .flat()
      .map((role) => [`${role}-acc1`, { delayMs: TO_SERVER_MS / 2 }]),
  ),
  paper: { direct_ms: '491, estimated', relay_ms: '689, estimated' },
  async run(context) {
    const trials = handoverCount(context, 10)
    const server = await OverlayServer.start(context, [SERVER])
    const nodes = await server.nodes(context, Object.values(ROUTES).flat())
    context.start()
    for (const [route, [from, to]] of Object.entries(ROUTES)) {
      const [a, b] = [nodes.get(from)!, nodes.get(to)!]
      const server = await context.lab.programs.own(to, 'first-byte', { role: 'server', port: PORT })
      const client = await context.lab.programs.own(from, 'first-byte', { role: 'client', port: PORT })
      const times: number[] = []
      const arrivals: number[] = []
      const again: number[] = []
      const constructed: number[] = []
      for (let n = 0; n < trials; n++) {
        const since = (await a.trace()).at(-1)?.at ?? 0
        const { ms, since: asked } = await firstContact(client, a, b, PATIENCE_MS)
        times.push(ms)
        server.tell('arrived')
        const line = await server.expect((each) => each.startsWith('{"arrived"'), PATIENCE_MS)
        arrivals.push((JSON.parse(line) as { arrived: number }).arrived - asked)
        await context.sleep(SETTLE_MS)
        const steps = await a.trace(since)
        const begin = steps.find(({ what }) => what === 'DIRECTION_REQUEST')
        const end = steps.find(
          ({ what, from: by }) => (what === 'TUNNEL_RESPONSE' && by === b.name) || what === 'RELAY_BOUND',
        )
        if (begin !== undefined && end !== undefined) constructed.push(end.at - begin.at)
        again.push((await firstContact(client, a, b, PATIENCE_MS)).ms)
        context.note(
          `${route}: at the peer ${arrivals.at(-1)!.toFixed(0)} ms, answered ${ms.toFixed(0)} ms, constructed ${constructed.at(-1)?.toFixed(0)} ms; again ${again.at(-1)!.toFixed(0)} ms`,
        )
        await Promise.all([a.forget(b), b.forget(a)])
        await context.sleep(1000)
      }
      const construction = percentile(constructed, 0.5)
      context.metric(`${route}_construction_median_p95_ms`, [construction, percentile(constructed, 0.95)])
      context.check(
        `construction, ${route}`,
        constructed.length === trials && construction <= PAPER_MS[route as keyof typeof PAPER_MS],
        `${construction.toFixed(0)} ms, median of ${constructed.length}`,
        `at most ${PAPER_MS[route as keyof typeof PAPER_MS]} ms (the paper's estimate)`,
      )
      const middle = percentile(arrivals, 0.5)
      context.metric(`${route}_first_byte_median_p95_ms`, [middle, percentile(arrivals, 0.95)])
      context.metric(`${route}_first_answer_median_p95_ms`, [percentile(times, 0.5), percentile(times, 0.95)])
      context.check(
        `first byte at the peer, ${route}`,
        middle <= WANTED_MS,
        `${middle.toFixed(0)} ms, median of ${trials}`,
        `at most ${WANTED_MS.toFixed(0)} ms (2 RTT to the relay, and DNS)`,
      )
      const known = percentile(again, 0.5)
      context.metric(`${route}_known_answer_median_p95_ms`, [known, percentile(again, 0.95)])
      context.check(
        `answer of a known peer, ${route}`,
        known <= 2 * TO_SERVER_MS + WORK_MS,
        `${known.toFixed(0)} ms, median of ${trials}`,
        `at most ${(2 * TO_SERVER_MS + WORK_MS).toFixed(0)} ms (the network's round trip between both)`,
      )
    }
  },
}
