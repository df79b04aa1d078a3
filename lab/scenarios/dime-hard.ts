/** DIME's hard handoff (Figure 8): five seconds without any address. What is possible is two thirds of the soft one. */
import type { Scenario } from '../scenario.ts'
import { LINKS, mean, measureHandoff, PROGRAMS } from './dime-handoff.ts'

const SECONDS = 15
const OUTAGE_S = 5
const SHARE = 0.97

export const dimeHard: Scenario = {
  name: 'dime-hard',
  summary: 'address translation, five seconds without an address (DIME, Figure 8)',
  topology: 'dime',
  programs: PROGRAMS,
  links: LINKS,
  paper: {
    result: 'DIME "almost exactly" 2/3 of soft; MIPv6 clearly lower, HIP much lower',
    ideal: 2 / 3,
    runs: 10,
  },
  async run(context) {
    const { tcp, udp, reference } = await measureHandoff(context, 'hard')
    const possible = (SECONDS - OUTAGE_S) / SECONDS
    for (const [name, runs] of [
      ['tcp', tcp],
      ['udp', udp],
    ] as const) {
      const share = mean(runs) / (reference[name] * possible)
      context.metric(`${name}_of_soft`, mean(runs) / reference[name])
      context.metric(`${name}_share`, share)
      context.check(
        `${name.toUpperCase()} goodput of what the outage allows`,
        share >= SHARE,
        share.toFixed(3),
        `at least ${SHARE}`,
      )
    }
  },
}
