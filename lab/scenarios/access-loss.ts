/** Loses the access that carries the call, again and again, and lets it come back in between. */
import type { FlowStatus } from '../../src/core/mechanism.ts'
import { type AnchoredHost, waitForPaths } from '../product.ts'
import { monotonicMs } from '../programs/program.ts'
import type { ScenarioContext } from '../scenario.ts'
import { CALL_PORT, type Handover } from './handovers.ts'

/**
 * How long an access is gone, and at least there again before the next loss: the kernel tells of carriers once a second,
 * so changes that follow closer would be measured with its delay.
 */
const GONE_MS = 1500
const BACK_MS = 1500

export async function loseAndRestore(
  context: ScenarioContext,
  { mobile }: AnchoredHost,
  count: number,
  state: 'down' | 'blackhole',
): Promise<Handover[]> {
  const handovers: Handover[] = []
  const late: number[] = []
  let lostAt = Number.POSITIVE_INFINITY
  const watching = new AbortController()
  context.lab.rtnl('mh').watch(
    ['link'],
    (event) => {
      if (event.type !== 'link' || event.link.carrier) return
      late.push(monotonicMs() - lostAt)
      lostAt = Number.POSITIVE_INFINITY
    },
    { signal: watching.signal },
  )
  for (let index = 0; index < count; index++) {
    const { flows } = await mobile.json<{ flows: readonly FlowStatus[] }>('flows')
    const access = flows.find((flow) => flow.dst.endsWith(`:${CALL_PORT}`))?.access ?? 'acc1'
    context.mark(state === 'down' ? `${access} loses its link` : `${access} swallows everything`)
    const at = monotonicMs()
    lostAt = at
    context.lab.setLink(access, { state })
    await context.sleep(GONE_MS)
    handovers.push({ at, until: monotonicMs() })
    context.note(`${access} is back`)
    context.lab.setLink(access, { state: 'up' })
    await waitForPaths(context, mobile, ['acc1', 'acc2'])
    await context.sleep(Math.max(0, at + GONE_MS + BACK_MS - monotonicMs()))
  }
  watching.abort()
  if (state === 'down') context.metric('link_event_ms', late)
  return handovers
}
