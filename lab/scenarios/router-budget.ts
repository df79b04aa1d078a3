/** A link that fades: what copies of a few packets save of what copies of all do (OH-16b). */

import { PALETTE } from '../plot.ts'
import { radioConditions } from '../radio.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { figuresOf } from '../traffic.ts'
import { type Routers, setUpRouters, startDatagrams, untilPaths } from './router-kit.ts'

const BEST_DBM = -60
const WORST_DBM = -90
const FADE_MS = 4000
const STEP_MS = 50
/** Between fades: the budget fills, loss and preference settle. */
const REST_MS = 6000
const CAP = 0.05

/** Losses of both ways over some fades, and what was copied. */
async function fades(
  context: ScenarioContext,
  routers: Routers,
  scheduler: string,
  count: number,
): Promise<{ lost: number; share: number }> {
  for (const router of [routers.mobile, routers.home])
    await router.run('router', 'scheduler', 'rest', scheduler)
  const before = await copied(routers)
  const flow = await startDatagrams(context)
  for (let index = 0; index < count; index++) {
    await context.sleep(REST_MS)
    context.mark(`${scheduler}: acc1 fades`)
    for (let at = 0; at <= FADE_MS; at += STEP_MS) {
      const dbm = BEST_DBM + ((WORST_DBM - BEST_DBM) * at) / FADE_MS
      context.lab.setLink('acc1', { ...radioConditions(dbm, 30), ...withDelay(dbm) })
      await context.sleep(STEP_MS)
    }
    context.lab.setLink('acc1', { ...radioConditions(BEST_DBM, 30), ...withDelay(BEST_DBM) })
    await context.sleep(1000)
  }
  const report = await flow.finish(context)
  const after = await copied(routers)
  const lost = figuresOf(report.up).lost + figuresOf(report.down).lost
  const share = (after.copies - before.copies) / Math.max(1, after.bytes - before.bytes)
  context.note(`${scheduler}: ${lost} lost, ${(100 * share).toFixed(1)} % copied`)
  return { lost, share }
}

/** The road behind the radio is 10 ms long. */
function withDelay(dbm: number) {
  return { delayMs: 10 + (radioConditions(dbm, 30).delayMs ?? 0) }
}

async function copied(routers: Routers): Promise<{ bytes: number; copies: number }> {
  await new Promise((resolve) => setTimeout(resolve, 400))
  const { classes } = await routers.mobile.json<{ classes: { bytes: number; copied_bytes: number }[] }>(
    'router',
    'classes',
  )
  return { bytes: classes[0]?.bytes ?? 0, copies: classes[0]?.copied_bytes ?? 0 }
}

export const routerBudget: Scenario = {
  name: 'router-budget',
  summary:
    'a link fades: copies of packets at risk only, under a cap of 5 %, beside copies of all and of none',
  topology: 'router',
  links: { acc1: { delayMs: 11 }, acc2: { delayMs: 15 } },
  paper: { result: 'redundant mode copies every packet' },
  async run(context) {
    const routers = await setUpRouters(context, { scheduler: 'failover' })
    await untilPaths(context, routers)
    context.start()
    const count = context.options.full === true ? 10 : 3
    const none = await fades(context, routers, 'failover', count)
    const all = await fades(context, routers, 'duplicate', count)
    const some = await fades(context, routers, 'budget', count)
    const saved = (none.lost - some.lost) / Math.max(1, none.lost - all.lost)
    context.check('of the losses that copies of all save', saved >= 0.9, saved.toFixed(2), '≥ 0.9')
    context.check('copied', some.share <= CAP + 0.001, `${(100 * some.share).toFixed(1)} %`, '≤ 5 %')
    context.metric('lost_packets_none', none.lost)
    context.metric('lost_packets_all', all.lost)
    context.metric('lost_packets_budget', some.lost)
    context.metric('copied_share', some.share)
    context.chart = {
      title: 'A link that fades',
      note: `${count} fades of ${FADE_MS / 1000} s, a datagram every 5 ms both ways`,
      panels: [
        {
          unit: 'lost packets',
          series: Object.entries({ none: none.lost, budget: some.lost, all: all.lost }).map(
            ([name, lost], index) => ({
              name,
              colour: PALETTE[index]!,
              points: [
                [index, lost],
                [index + 0.8, lost],
              ] as [number, number][],
            }),
          ),
        },
      ],
    }
  },
}
