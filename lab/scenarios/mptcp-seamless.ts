/** Seamless handovers by hand, Figure 8: both subflows are there, the peer is asked to prefer the other. */
import { deliveries } from '../data-trace.ts'
import { monotonicMs } from '../programs/program.ts'
import type { Scenario } from '../scenario.ts'
import { handoverCount } from './handovers.ts'
import { type Download, downloadOver, draw, type Handover, PROGRAMS, report } from './mptcp-kit.ts'

const LINKS = { acc1: { rateMbps: 100, delayMs: 10 }, acc2: { rateMbps: 100, delayMs: 15 } }
const RTT_MS = 2 * Math.max(LINKS.acc1.delayMs, LINKS.acc2.delayMs)
/** Data of a stream at 20 Mbit/s come closer than this (ms): what is longer is a gap. */
const TICK_MS = 5
/** After the other access carries the data, what still belongs to the handover, and then the time to compare with (ms). */
const AFTER_MS = 300
const PAUSE_MS = 700
const ENDS = ['proxy-proxy', 'proxy-kernel'] as const

export const mptcpSeamless: Scenario = {
  name: 'mptcp-seamless',
  summary: 'MPTCP proxy: a download goes to and fro between two accesses that are both up (Figure 8)',
  topology: 'mptcp',
  programs: PROGRAMS,
  links: LINKS,
  parts: ENDS,
  paper: { result: 'no visible interruption on an axis of 200 ms' },
  async run(context) {
    const count = handoverCount(context, 6)
    const outcomes = []
    context.start()
    for (const ends of ENDS) {
      if (!context.parts.includes(ends)) continue
      const outcome = await downloadOver(context, {
        ends,
        counted: deliveries,
        work: (download) => toAndFro(download, count),
      })
      outcomes.push({ name: ends, outcome })
      report(context, ends.replace('-', '_'), outcome)
      const [worst, other] = [outcome.gaps, outcome.others].map((gaps) => Math.max(0, ...gaps)) as [
        number,
        number,
      ]
      context.check(
        `${ends}: longest time without new data at a handover`,
        worst <= RTT_MS + Math.max(TICK_MS, other),
        `${worst.toFixed(1)} ms`,
        `at most 1 RTT (${RTT_MS} ms) longer than without one (${Math.max(TICK_MS, other).toFixed(1)} ms)`,
      )
    }
    draw(context, 'Seamless handover (Figure 8)', 'to acc2', outcomes)
  },
}

async function toAndFro(download: Download, count: number): Promise<Handover[]> {
  const { mobile, context } = download
  const handovers: Handover[] = []
  for (let index = 0; index < count; index++) {
    const target = index % 2 === 0 ? 'acc2' : 'acc1'
    const { id } = await download.readyOn(target)
    const at = monotonicMs()
    await mobile.run('mptcp', 'handover', id, target)
    context.note(`${download.ends}: to ${target}`)
    await download.carriedBy(target)
    handovers.push({ at, until: monotonicMs() + AFTER_MS })
    await context.sleep(AFTER_MS + PAUSE_MS)
  }
  return handovers
}
