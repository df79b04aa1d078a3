/**
 * Handovers while both accesses are up: everything moves to and fro under a call and a download. Nothing may be lost or
 * come twice (UP-29; "zero lost and at most a few reordered packets per implicit handover").
 */
import type { FlowStatus } from '../../src/core/mechanism.ts'
import { monotonicMs } from '../programs/program.ts'
import type { Scenario } from '../scenario.ts'
import { CALL_PORT, type Handover, handoverCount, LINKS, underTraffic } from './handovers.ts'

/** Between two handovers: longer than the packets of the former access are under way. */
const PAUSE_MS = 250

export const upmtMakeBeforeBreak: Scenario = {
  name: 'upmt-make-before-break',
  summary:
    'everything moves between two accesses that are both up, under a call and a download: nothing is lost',
  topology: 'upmt',
  links: LINKS,
  paper: { result: 'seamless: the total of packets never decreases; no figures given' },
  async run(context) {
    const count = handoverCount(context, 10)
    let arrived = 0
    const outcome = await underTraffic(context, 'Handovers with both accesses up', async ({ mobile }) => {
      const handovers: Handover[] = []
      for (let index = 0; index < count; index++) {
        const target = index % 2 === 0 ? 'acc2' : 'acc1'
        const at = monotonicMs()
        context.mark(`all to ${target}`)
        await mobile.run('move', 'all', target)
        await context.sleep(PAUSE_MS)
        handovers.push({ at, until: monotonicMs() })
        const { flows } = await mobile.json<{ flows: readonly FlowStatus[] }>('flows')
        const call = flows.find((flow) => flow.dst.endsWith(`:${CALL_PORT}`))
        if (call?.access === target) arrived++
      }
      return handovers
    })
    const { up, down } = outcome
    context.check('handovers made', arrived === count, arrived, String(count))
    context.check('datagrams lost', up.lost + down.lost === 0, up.lost + down.lost, '0')
    const duplicated = up.duplicated + down.duplicated
    context.check('datagrams duplicated', duplicated === 0, duplicated, '0')
  },
}
