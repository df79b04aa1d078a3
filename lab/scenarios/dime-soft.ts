/** DIME's soft handoff (Figure 8): the new address is there five seconds before the old one goes. */
import type { Scenario } from '../scenario.ts'
import { LINKS, mean, measureHandoff, PROGRAMS } from './dime-handoff.ts'

const SHARE = 0.95

export const dimeSoft: Scenario = {
  name: 'dime-soft',
  summary: 'address translation, new address five seconds before the old one goes (DIME, Figure 8)',
  topology: 'dime',
  programs: PROGRAMS,
  links: LINKS,
  paper: { result: 'DIME, MIPv6 and HIP alike: as much as the links carry, no dip; UDP like TCP', runs: 10 },
  async run(context) {
    const { tcp, udp, reference } = await measureHandoff(context, 'soft')
    for (const [name, runs] of [
      ['tcp', tcp],
      ['udp', udp],
    ] as const) {
      const share = mean(runs) / reference[name]
      context.metric(`${name}_share`, share)
      context.check(
        `${name.toUpperCase()} goodput as if nothing had moved`,
        share >= SHARE,
        share.toFixed(3),
        `at least ${SHARE} of a run without handoff`,
      )
    }
  },
}
