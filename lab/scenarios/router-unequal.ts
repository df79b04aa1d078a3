/** Links that are hard to add up: four unequal ones, and one that falls tenfold and rises again (OH-17b; issue 10, D8 and D10). */

import { PALETTE } from '../plot.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { bareMbps, PROGRAMS, setUpRouters, tcpMbps, untilPaths } from './router-kit.ts'

const FOUR = [
  { rttMs: 20, down: 20, up: 4 },
  { rttMs: 40, down: 10, up: 4 },
  { rttMs: 120, down: 10, up: 2 },
  { rttMs: 300, down: 5, up: 1 },
]
const NAMES = FOUR.map((_, index) => `acc${index + 1}`)
const QUEUE_MS = 300
/** The farthest link has a round trip of 300 ms: TCP needs a while until it is full. */
const RUN = { seconds: 10, omit: 6 }

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)

function bars(context: ScenarioContext, title: string, values: readonly [string, number][]): void {
  context.chart = {
    title,
    note: 'one TCP flow of a terminal, iperf3, scheduler `weighted`',
    panels: [
      {
        unit: 'Mbit/s',
        series: values.map(([name, mbps], index) => ({
          name,
          colour: PALETTE[index % PALETTE.length]!,
          points: [
            [index, mbps],
            [index + 0.8, mbps],
          ] as [number, number][],
        })),
      },
    ],
  }
}

export const routerUnequal: Scenario = {
  name: 'router-unequal',
  summary: 'one TCP flow over four links of 20 to 5 Mbit/s and 20 to 300 ms, beside the best two alone',
  topology: 'router-four',
  programs: PROGRAMS,
  links: Object.fromEntries(FOUR.map(({ rttMs }, index) => [NAMES[index]!, { delayMs: rttMs / 2 }])),
  paper: { result: 'speed mode proposed, not measured' },
  async run(context) {
    for (const [index, { up, down }] of FOUR.entries()) {
      context.lab.setLink(NAMES[index]!, { rateMbps: down, queueMs: QUEUE_MS }, 'first')
      context.lab.setLink(NAMES[index]!, { rateMbps: up, queueMs: QUEUE_MS }, 'second')
    }
    const routers = await setUpRouters(context, { scheduler: 'weighted', accesses: NAMES })
    await untilPaths(context, routers, NAMES)
    context.start()
    const measured: [string, number][] = []
    for (const way of ['down', 'up'] as const) {
      const mbps = async () => tcpMbps(context, { ...RUN, reverse: way === 'down' })
      const lines = sum(FOUR.map((each) => each[way]))
      const all = await mbps()
      context.note(`${way}: four ${all.toFixed(2)} of ${lines} Mbit/s`)
      for (const name of NAMES.slice(2)) context.lab.setLink(name, { state: 'down' })
      await context.sleep(1_000)
      const two = await mbps()
      context.note(`${way}: the best two ${two.toFixed(2)} Mbit/s`)
      for (const name of NAMES.slice(2)) context.lab.setLink(name, { state: 'up' })
      await untilPaths(context, routers, NAMES)
      await context.sleep(2_000)
      context.check(
        `${way}: four ÷ the sum of their lines`,
        all >= 0.75 * lines,
        (all / lines).toFixed(2),
        '≥ 0.75',
      )
      context.check(`${way}: four ÷ the best two alone`, all >= two, (all / two).toFixed(2), '≥ 1')
      context.metric(`${way}_four_mbps`, all)
      context.metric(`${way}_best_two_mbps`, two)
      measured.push([`${way}: four`, all], [`${way}: best two`, two])
    }
    bars(context, 'Four unequal links', measured)
  },
}

/** Mbit/s of the link that changes each second, and of the one beside it. */
const HIGH = 40
const LOW = 4
const STEADY = 10
const EVERY_MS = 1_000

export const routerFalling: Scenario = {
  name: 'router-falling',
  summary: 'one TCP flow over a link that falls from 40 to 4 Mbit/s and rises each second, and one of 10',
  topology: 'router',
  programs: PROGRAMS,
  links: {
    acc1: { delayMs: 15, rateMbps: HIGH, queueMs: QUEUE_MS },
    acc2: { delayMs: 25, rateMbps: STEADY, queueMs: QUEUE_MS },
  },
  paper: { result: 'not considered' },
  async run(context) {
    const mean = (HIGH + LOW) / 2 + STEADY
    const measured: [string, number][] = []
    const falling = async (measure: () => Promise<number>): Promise<number> => {
      let high = true
      const timer = setInterval(() => {
        high = !high
        context.lab.setLink('acc1', { rateMbps: high ? HIGH : LOW })
      }, EVERY_MS)
      try {
        return await measure()
      } finally {
        clearInterval(timer)
        context.lab.setLink('acc1', { rateMbps: HIGH })
      }
    }
    // What TCP makes of each link by itself: no tunnel, no scheduler.
    const bare: Record<string, number> = {}
    for (const congestion of ['cubic', 'bbr'])
      for (const way of ['up', 'down'] as const) {
        const options = { seconds: 20, omit: 4, reverse: way === 'down', congestion }
        const first = await falling(() => bareMbps(context, 'acc1', options))
        bare[`${congestion}_${way}`] = first
        context.note(`bare, ${congestion}, ${way}: ${first.toFixed(2)} of ${(HIGH + LOW) / 2}`)
        context.metric(`bare_${congestion}_${way}_mbps`, first)
        await context.sleep(1_000)
      }
    const routers = await setUpRouters(context, { scheduler: 'weighted' })
    await untilPaths(context, routers)
    context.start()
    for (const congestion of ['cubic', 'bbr'])
      for (const way of ['up', 'down'] as const) {
        const options = { seconds: 20, omit: 4, reverse: way === 'down', congestion }
        const mbps = await falling(() => tcpMbps(context, options))
        const share = (mbps / mean).toFixed(2)
        context.note(`godwit, ${congestion}, ${way}: ${mbps.toFixed(2)} of ${mean}`)
        context.check(`${way}, ${congestion} ÷ what the links allow`, mbps >= 0.7 * mean, share, '≥ 0.7')
        context.metric(`${congestion}_${way}_mbps`, mbps)
        measured.push([`${way}, ${congestion}`, mbps])
        await context.sleep(2_000)
      }
    bars(context, 'A link that falls tenfold each second', measured)
  },
}
