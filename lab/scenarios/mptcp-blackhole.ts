/** The access that carries the download turns into a black hole: the proxy beside the kernel's own Multipath TCP, same links. */
import type { Scenario } from '../scenario.ts'
import { handoverCount } from './handovers.ts'
import { downloadOver, draw, PROGRAMS, report } from './mptcp-kit.ts'
import { loseCarrier } from './mptcp-losses.ts'

const LINKS = { acc1: { rateMbps: 100, delayMs: 15 }, acc2: { rateMbps: 100, delayMs: 15 } }
const RTT_MS = LINKS.acc1.delayMs * 2
const GAP_MS = 300
const ENDS = ['kernel-kernel', 'proxy-kernel', 'proxy-proxy'] as const

export const mptcpBlackhole: Scenario = {
  name: 'mptcp-blackhole',
  summary: 'MPTCP proxy: the access in use silently loses everything, beside the kernel’s own MPTCP',
  topology: 'mptcp',
  programs: PROGRAMS,
  links: LINKS,
  parts: ENDS,
  paper: { result: 'not measured' },
  async run(context) {
    const count = handoverCount(context, 4)
    const outcomes = []
    context.start()
    for (const ends of ENDS) {
      if (!context.parts.includes(ends)) continue
      const outcome = await downloadOver(context, {
        ends,
        work: (download) => loseCarrier(download, count, 'blackhole', true),
      })
      outcomes.push({ name: ends, outcome })
      const { p95, summary } = report(context, ends.replace('-', '_'), outcome)
      if (ends !== 'kernel-kernel')
        context.check(
          `${ends}: gap, 95th percentile`,
          p95 <= GAP_MS + RTT_MS,
          summary,
          `at most ${GAP_MS} ms + 1 RTT (${RTT_MS} ms)`,
        )
    }
    draw(context, 'A silent black hole', 'everything lost', outcomes)
  },
}
