/** Break before make, Figure 9: the access that carries the download loses its link; 30 ms each way; with SACK and without. */
import type { Scenario } from '../scenario.ts'
import { handoverCount } from './handovers.ts'
import { downloadOver, draw, PROGRAMS, report } from './mptcp-kit.ts'
import { loseCarrier } from './mptcp-losses.ts'

const LINKS = { acc1: { rateMbps: 100, delayMs: 30 }, acc2: { rateMbps: 100, delayMs: 30 } }
const WITH_SACK_MS = 250
const WITHOUT_SACK_MS = 1000

// The paper's break is one with nothing ready; a subflow that stands by is what users have.
const PARTS = (['proxy-proxy', 'proxy-kernel'] as const).flatMap((ends) =>
  [true, false].flatMap((sack) =>
    [false, true].map((standby) => ({
      name: `${ends}, ${sack ? 'SACK' : 'no SACK'}, ${standby ? 'standby' : 'none ready'}`,
      ends,
      sack,
      standby,
    })),
  ),
)

export const mptcpBreak: Scenario = {
  name: 'mptcp-break',
  summary: 'MPTCP proxy: the access in use loses its link, with and without SACK, 30 ms each way (Figure 9)',
  topology: 'mptcp',
  programs: PROGRAMS,
  links: LINKS,
  parts: PARTS.map(({ name }) => name),
  paper: { with_sack_ms: 250, without_sack_ms: 4400 },
  async run(context) {
    const count = handoverCount(context, 4)
    const outcomes = []
    context.start()
    for (const { name, ends, sack, standby } of PARTS) {
      if (!context.parts.includes(name)) continue
      const outcome = await downloadOver(context, {
        ends,
        sack,
        settings: `standby = ${standby}`,
        work: (download) => loseCarrier(download, count, 'down', standby),
      })
      const { p95, summary } = report(context, name.replaceAll(/\W+/g, '_'), outcome)
      if (!standby || context.parts.length === 1) outcomes.push({ name, outcome })
      const bound = sack ? WITH_SACK_MS : WITHOUT_SACK_MS
      context.check(`${name}: recovery, 95th percentile`, p95 <= bound, summary, `at most ${bound} ms`)
    }
    draw(context, 'Break before make (Figure 9)', 'link lost', outcomes)
  },
}
