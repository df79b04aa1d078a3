/** Multipath reception, Figure 10: no subflow is a backup, and the native peer sends over both as it likes. */

import { monotonicMs } from '../programs/program.ts'
import type { Scenario } from '../scenario.ts'
import { downloadOver, draw, handoverAt, type Outcome, PROGRAMS } from './mptcp-kit.ts'

const LINKS = { acc1: { rateMbps: 20, delayMs: 10 }, acc2: { rateMbps: 20, delayMs: 10 } }
const SECONDS = 8
/** Of what both links carry, and what the lesser access has to carry of it. */
const TOTAL_SHARE = 0.7
const LEAST_SHARE = 0.15

export const mptcpMultipath: Scenario = {
  name: 'mptcp-multipath',
  summary: 'MPTCP proxy: a native peer sends over two accesses at once (Figure 10)',
  topology: 'mptcp',
  programs: PROGRAMS,
  links: LINKS,
  paper: { result: 'received correctly; shares slightly unequal' },
  async run(context) {
    const outcomes = []
    context.start()
    for (const ends of ['proxy-kernel', 'proxy-proxy', 'kernel-kernel'] as const) {
      const outcome = await downloadOver(context, {
        ends,
        backup: false,
        unlimited: true,
        settings: 'multipath = true',
        work: async () => {
          const from = monotonicMs()
          await context.sleep(SECONDS * 1000)
          return [handoverAt(from)]
        },
      })
      outcomes.push({ name: ends, outcome })
      const { total, least } = shares(outcome)
      const name = ends.replace('-', '_')
      context.metric(`${name}_mbps`, total)
      context.metric(`${name}_lesser_share`, least)
      // A proxy sends over one subflow at a time (paper §3): there is nothing to divide.
      if (ends !== 'proxy-kernel') continue
      const links = LINKS.acc1.rateMbps + LINKS.acc2.rateMbps
      context.check(
        `${ends}: what both links carry`,
        total >= TOTAL_SHARE * links,
        `${total.toFixed(1)} Mbit/s`,
        `at least ${TOTAL_SHARE * links} of ${links} Mbit/s`,
      )
      context.check(
        `${ends}: share of the lesser access`,
        least >= LEAST_SHARE,
        least.toFixed(2),
        `at least ${LEAST_SHARE}`,
      )
    }
    draw(context, 'Multipath reception (Figure 10)', undefined, outcomes)
  },
}

/** Mbit/s that were acknowledged, and the share of the data that came over the lesser access. */
function shares({ trace, handovers }: Outcome): { total: number; least: number } {
  const at = handovers[0]!.at
  const within = <T extends { at: number }>(points: readonly T[]) =>
    points.filter((point) => point.at >= at && point.at < at + SECONDS * 1000)
  const acks = within(trace.acks).map(({ offset }) => offset)
  const bytes =
    acks.reduce((most, each) => Math.max(most, each), 0) -
    acks.reduce((least, each) => Math.min(least, each), Infinity)
  const data = within(trace.data)
  const first = data.filter(({ access }) => access === 'acc1').length / Math.max(1, data.length)
  return { total: (bytes * 8) / SECONDS / 1e6, least: Math.min(first, 1 - first) }
}
