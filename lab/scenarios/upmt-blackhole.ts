/**
 * The access in use turns into a black hole under a call and a download: everything vanishes, no event says so. Probes
 * and the silence of traffic have to find it; later it heals.
 */
import type { Scenario } from '../scenario.ts'
import { loseAndRestore } from './access-loss.ts'
import { checkGap, handoverCount, LINKS, RTT_MS, underTraffic } from './handovers.ts'

const GAP_MS = 100

export const upmtBlackhole: Scenario = {
  name: 'upmt-blackhole',
  summary: 'the access in use silently loses everything, under a call and a download',
  topology: 'upmt',
  links: LINKS,
  paper: { result: 'not measured' },
  async run(context) {
    const count = handoverCount(context, 6)
    const outcome = await underTraffic(context, 'The access in use becomes a black hole', (host) =>
      loseAndRestore(context, host, count, 'blackhole'),
    )
    checkGap(context, outcome.gaps, GAP_MS + RTT_MS)
  },
}
