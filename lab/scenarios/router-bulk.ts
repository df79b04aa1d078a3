/** Links added up: two equal ones, two very different ones, a bad one beside a good one (OH-17, OH-19). */

import { PALETTE } from '../plot.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { PROGRAMS, type Routers, setUpRouters, tcpMbps, untilPaths } from './router-kit.ts'

/** Each run lasts so long, after two seconds that are left out, in which TCP finds its rate. */
const SECONDS = 8

/** TCP over both links and over each alone, with the same scheduler and conditions. */
async function compare(
  context: ScenarioContext,
  routers: Routers,
  scheduler: string,
): Promise<{ alone: [number, number]; both: number }> {
  const seconds = context.options.full === true ? 15 : SECONDS
  const alone: number[] = []
  for (const [index, other] of ['acc2', 'acc1'].entries()) {
    const access = `acc${index + 1}`
    context.lab.setLink(other, { state: 'down' })
    await untilPaths(context, routers, [access])
    await context.sleep(500)
    context.note(`${access} alone`)
    alone.push(await tcpMbps(context, { seconds }))
    context.lab.setLink(other, { state: 'up' })
    await untilPaths(context, routers)
  }
  await context.sleep(1500)
  for (const router of [routers.mobile, routers.home])
    await router.run('router', 'scheduler', 'rest', scheduler)
  context.note(`both, ${scheduler}`)
  const both = await tcpMbps(context, { seconds })
  context.note(`alone ${alone.map((mbps) => mbps.toFixed(1)).join(' and ')}, both ${both.toFixed(1)} Mbit/s`)
  const counters = await routers.home.json<{ counters: Record<string, number> }>('router', 'classes')
  context.note(`home: ${JSON.stringify(counters.counters)}`)
  const shares = await routers.mobile.json<{
    peers: { paths: { access: string; sent_bytes: number; loss: number; rtt_ms: number }[] }[]
  }>('status')
  context.note(
    `mobile: ${JSON.stringify(shares.peers[0]?.paths.map(({ access, sent_bytes, loss, rtt_ms }) => ({ access, sent_bytes, loss, rtt_ms })))}`,
  )
  return { alone: alone as [number, number], both }
}

function draw(context: ScenarioContext, title: string, bars: readonly [string, number][]): void {
  context.chart = {
    title,
    note: 'one TCP flow of a terminal, iperf3',
    panels: [
      {
        unit: 'Mbit/s',
        series: bars.map(([name, mbps], index) => ({
          name,
          colour: PALETTE[index]!,
          points: [
            [index, mbps],
            [index + 0.8, mbps],
          ] as [number, number][],
        })),
      },
    ],
  }
}

export const routerAggregate: Scenario = {
  name: 'router-aggregate',
  summary:
    'one TCP flow over two links at once: two of 100 Mbit/s in turn, then 10 ms and 80 ms by measured rate',
  topology: 'router',
  programs: PROGRAMS,
  links: { acc1: { delayMs: 5, rateMbps: 100 }, acc2: { delayMs: 5, rateMbps: 100 } },
  paper: { result: 'speed mode proposed, not measured' },
  async run(context) {
    const routers = await setUpRouters(context, { scheduler: 'round-robin' })
    await untilPaths(context, routers)
    context.start()
    const equal = await compare(context, routers, 'round-robin')
    const one = Math.max(...equal.alone)
    const ratio = equal.both / one
    context.check('two equal links ÷ one', ratio >= 1.8, ratio.toFixed(2), '≥ 1.8')
    context.lab.setLink('acc1', { delayMs: 10, rateMbps: 20, queueMs: 100 })
    context.lab.setLink('acc2', { delayMs: 80, rateMbps: 20, queueMs: 100 })
    await context.sleep(3000)
    const skewed = await compare(context, routers, 'weighted')
    const share = skewed.both / (skewed.alone[0] + skewed.alone[1])
    const better = Math.max(...skewed.alone)
    context.check('10 ms and 80 ms ÷ the sum of both', share >= 0.85, share.toFixed(2), '≥ 0.85')
    context.check(
      '10 ms and 80 ms ÷ the better alone',
      skewed.both >= better,
      (skewed.both / better).toFixed(2),
      '≥ 1',
    )
    context.metric('equal_alone_mbps', equal.alone)
    context.metric('equal_both_mbps', equal.both)
    context.metric('equal_ratio', ratio)
    context.metric('skewed_alone_mbps', skewed.alone)
    context.metric('skewed_both_mbps', skewed.both)
    context.metric('skewed_share', share)
    draw(context, 'One TCP flow over two links', [
      ['equal: acc1', equal.alone[0]],
      ['equal: acc2', equal.alone[1]],
      ['equal: both', equal.both],
      ['10 ms', skewed.alone[0]],
      ['80 ms', skewed.alone[1]],
      ['10 and 80 ms', skewed.both],
    ])
  },
}

export const routerBadLink: Scenario = {
  name: 'router-bad-link',
  summary: 'one TCP flow over two links, one of which loses a fifth of its packets',
  topology: 'router',
  programs: PROGRAMS,
  links: { acc1: { delayMs: 10, rateMbps: 50 }, acc2: { delayMs: 10, rateMbps: 50, loss: 0.2 } },
  paper: { result: 'not considered' },
  async run(context) {
    const routers = await setUpRouters(context, { scheduler: 'weighted' })
    await untilPaths(context, routers, ['acc1'])
    context.start()
    const { alone, both } = await compare(context, routers, 'weighted')
    const share = both / alone[0]
    context.check('both ÷ the good link alone', share >= 0.95, share.toFixed(2), '≥ 0.95')
    context.metric('good_alone_mbps', alone[0])
    context.metric('bad_alone_mbps', alone[1])
    context.metric('both_mbps', both)
    draw(context, 'A good link and one that loses 20 %', [
      ['good alone', alone[0]],
      ['bad alone', alone[1]],
      ['both', both],
    ])
  },
}
