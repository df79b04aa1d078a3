/** A call beside an upload that fills links with long queues: how much later its datagrams come than without (OH-17). */

import { PALETTE } from '../plot.ts'
import { monotonicMs } from '../programs/program.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { type Arrivals, DatagramFlow } from '../traffic.ts'
import { type Routers, setUpRouters, tcpMbps, untilPaths } from './router-kit.ts'

const MODES = ['failover', 'weighted', 'duplicate', 'lowest-rtt', 'round-robin', 'budget'] as const
/** Modems with 1.6 s of queue. */
const LINKS = {
  acc1: { delayMs: 20, rateMbps: 5, queueMs: 1600 },
  acc2: { delayMs: 40, rateMbps: 8, queueMs: 1600 },
}
const IDLE_MS = 4_000
/** As a call sends: 50 datagrams of 200 bytes a second. */
const INTERVAL_MS = 20
const PORT = 5005
const SECONDS = 10

/** Delays of what was sent between two moments, ms above the shortest of all. */
function delays(way: Arrivals, from: number, to: number): number[] {
  const all = way.arrivals.map(([sequence, at]) => ({ at, late: at - sequence * INTERVAL_MS }))
  const least = Math.min(...all.map(({ late }) => late))
  return all.filter(({ at }) => at >= from && at < to).map(({ late }) => late - least)
}

function p99(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(0.99 * values.length)] ?? Number.NaN
}

async function measure(context: ScenarioContext, routers: Routers, mode: string) {
  for (const router of [routers.mobile, routers.home]) await router.run('router', 'scheduler', 'rest', mode)
  const alone = await tcpMbps(context, { seconds: SECONDS })
  await context.sleep(2_000)
  const flow = await DatagramFlow.start(context, 'srv', PORT, INTERVAL_MS, { client: 'term', iface: 'lan' })
  const from = monotonicMs()
  await context.sleep(IDLE_MS)
  const between = monotonicMs()
  context.mark(`${mode}: upload`)
  const beside = await tcpMbps(context, { seconds: SECONDS })
  const to = monotonicMs()
  const report = await flow.finish(context)
  const idle = p99(delays(report.up, from + 500, between))
  const busy = delays(report.up, between, to)
  const figures = { added: p99(busy) - idle, idle, upload: beside / alone, mbps: beside }
  context.note(`${mode}: ${JSON.stringify(figures)}`)
  return { ...figures, report }
}

export const routerCall: Scenario = {
  name: 'router-call',
  summary: 'a call beside an upload that fills links with 1.6 s of queue, with each scheduler',
  topology: 'router',
  links: LINKS,
  paper: { result: 'not considered' },
  async run(context) {
    const routers = await setUpRouters(context, { scheduler: 'failover' })
    await untilPaths(context, routers)
    context.start()
    const modes = context.options.full === true ? MODES : MODES.slice(0, 3)
    const added: [string, number][] = []
    for (const mode of modes) {
      const run = await measure(context, routers, mode)
      added.push([mode, run.added])
      context.check(
        `${mode}: p99 of the call above idle`,
        run.added <= 50,
        `${run.added.toFixed(0)} ms`,
        '≤ 50 ms',
      )
      context.check(`${mode}: upload ÷ alone`, run.upload >= 0.9, run.upload.toFixed(2), '≥ 0.9')
      context.metric(`${mode}_added_p99_ms`, run.added)
      context.metric(`${mode}_upload_mbps`, run.mbps)
    }
    context.chart = {
      title: 'A call beside an upload',
      note: 'p99 of the delay of datagrams every 20 ms, above idle; links of 5 and 8 Mbit/s with 1.6 s of queue',
      panels: [
        {
          unit: 'ms',
          series: added.map(([name, ms], index) => ({
            name,
            colour: PALETTE[index % PALETTE.length]!,
            points: [
              [index, ms],
              [index + 0.8, ms],
            ] as [number, number][],
          })),
        },
      ],
    }
  },
}
