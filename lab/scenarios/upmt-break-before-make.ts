/**
 * The access in use loses its link, with an event, under a call and a download; later it comes back. At the end both
 * accesses are gone for a while, then one returns: TCP must resume at once, not when its timer has backed off.
 */
import { monotonicMs } from '../programs/program.ts'
import type { Scenario } from '../scenario.ts'
import { longestGap } from '../traffic.ts'
import { loseAndRestore } from './access-loss.ts'
import { checkGap, handoverCount, LINKS, RTT_MS, underTraffic } from './handovers.ts'

const GAP_MS = 50
const OUTAGE_MS = 3000
/** What the path may take to be usable again once a link is there, beyond a round trip. */
const RESUME_MS = 300

export const upmtBreakBeforeMake: Scenario = {
  name: 'upmt-break-before-make',
  summary: 'the access in use loses its link under a call and a download; then both are gone for a while',
  topology: 'upmt',
  links: LINKS,
  paper: { result: 'not measured' },
  async run(context) {
    const count = handoverCount(context, 6)
    const outage = { from: 0, to: 0 }
    const outcome = await underTraffic(context, 'The access in use loses its link', async (host) => {
      const handovers = await loseAndRestore(context, host, count, 'down')
      context.mark('both accesses gone')
      outage.from = monotonicMs()
      for (const access of ['acc1', 'acc2']) context.lab.setLink(access, { state: 'down' })
      await context.sleep(OUTAGE_MS)
      context.mark('acc2 is back')
      outage.to = monotonicMs()
      context.lab.setLink('acc2', { state: 'up' })
      await context.sleep(2000)
      context.lab.setLink('acc1', { state: 'up' })
      return handovers
    })
    checkGap(context, outcome.gaps, GAP_MS + RTT_MS)
    const { up, down } = outcome.call
    const silence = Math.max(...[up, down].map((way) => longestGap(way, outage.from, outage.to + 2000, 5)))
    const beyond = silence - (outage.to - outage.from)
    context.metric('outage_ms', outage.to - outage.from)
    context.metric('resumed_after_ms', beyond)
    context.check(
      'traffic resumes when an access is back',
      beyond <= RESUME_MS + RTT_MS,
      `${beyond.toFixed(1)} ms after it`,
      `at most ${RESUME_MS} ms + 1 RTT (${RTT_MS} ms)`,
    )
  },
}
