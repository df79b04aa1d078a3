/** The mobile router's links cut without warning: duplicated, with a spare one, and both at once (OH-16, OH-18, OH-22). */
import type { ClassStatus } from '../../src/core/mechanism.ts'
import { monotonicMs } from '../programs/program.ts'
import { percentile, type Scenario, type ScenarioContext } from '../scenario.ts'
import { type DatagramReport, figuresOf, longestGap, stalledMs } from '../traffic.ts'
import {
  ACCESSES,
  drawDatagrams,
  INTERVAL_MS,
  LINKS,
  lostAt,
  lostWithin,
  type Routers,
  setUpRouters,
  startDatagrams,
  untilPaths,
} from './router-kit.ts'

const GONE_MS = 600
const BACK_MS = 900
/** Lost packets are looked for in this time after a cut. */
const WINDOW_MS = 1500
const QUICK = 8
/** A cut is found within this and a round trip of the slower link. */
const FOUND_MS = 100
const RTT_MS = 2 * Math.max(...ACCESSES.map((name) => LINKS[name]!.delayMs!))
const PAPER = { lost_packets_per_handover: '600 (same SSID), 3600 to 5900 (different SSIDs), stock OpenVPN' }

/** When what was lost had been sent, and the cuts, for the result's file. */
function tellLosses(context: ScenarioContext, report: DatagramReport, times: readonly number[]): void {
  context.metric('lost_up_at_s', lostAt(context, report.up))
  context.metric('lost_down_at_s', lostAt(context, report.down))
  context.metric(
    'cut_at_s',
    times.map((at) => context.seconds(at)),
  )
}

/** The access that carries the class now. */
async function carrier({ mobile }: Routers): Promise<string> {
  const { classes } = await mobile.json<{ classes: readonly ClassStatus[] }>('status')
  return classes[0]?.access.split('+')[0] ?? ACCESSES[0]
}

/** Datagrams both ways while links are cut without a word (`blackhole`: no event), again and again. */
async function cutAgainAndAgain(
  context: ScenarioContext,
  scheduler: string,
  which: (routers: Routers, index: number) => Promise<string>,
): Promise<{ readonly report: DatagramReport; readonly times: readonly number[] }> {
  const routers = await setUpRouters(context, { scheduler })
  await untilPaths(context, routers)
  const { handovers, full } = context.options
  const count = handovers ?? (full === true ? 100 : QUICK)
  context.start()
  const flow = await startDatagrams(context)
  await context.sleep(1500)
  const times: number[] = []
  for (let index = 0; index < count; index++) {
    const access = await which(routers, index)
    // At random moments of the packets' rhythm.
    await context.sleep(((index * 7919) % 97) / 10)
    const at = monotonicMs()
    times.push(at)
    if (count <= 20) context.mark(`${access} is cut`)
    context.lab.setLink(access, { state: 'blackhole' })
    await context.sleep(GONE_MS)
    context.lab.setLink(access, { state: 'up' })
    await untilPaths(context, routers)
    await context.sleep(Math.max(0, at + GONE_MS + BACK_MS - monotonicMs()))
  }
  return { report: await flow.finish(context), times }
}

export const routerDuplicateCut: Scenario = {
  name: 'router-duplicate-cut',
  summary: 'every packet on both links; one is cut without warning, again and again',
  topology: 'router',
  links: LINKS,
  paper: PAPER,
  async run(context) {
    const { report, times } = await cutAgainAndAgain(
      context,
      'duplicate',
      async (_, index) => ACCESSES[index % 2]!,
    )
    const [up, down] = [figuresOf(report.up), figuresOf(report.down)]
    const lost = up.lost + down.lost
    context.check('datagrams lost', lost === 0, lost, `0 in ${times.length} cuts`)
    context.check(
      'datagrams seen twice',
      up.duplicated + down.duplicated === 0,
      up.duplicated + down.duplicated,
      '0',
    )
    context.metric('cuts', times.length)
    context.metric('lost_packets', lost)
    context.metric('reordered_packets', up.reordered + down.reordered)
    tellLosses(context, report, times)
    drawDatagrams(context, 'Duplicated on two links, one cut without warning', report)
  },
}

export const routerFailoverCut: Scenario = {
  name: 'router-failover-cut',
  summary: 'main and spare link; the one in use is cut without warning, again and again',
  topology: 'router',
  links: LINKS,
  paper: PAPER,
  async run(context) {
    const { report, times } = await cutAgainAndAgain(context, 'failover', carrier)
    const each = (['up', 'down'] as const).map((way) =>
      times.map((at) => lostWithin(report[way], at - 100, at + WINDOW_MS)),
    )
    const [up, down] = each.map((losses) => percentile(losses, 0.95)) as [number, number]
    const gaps = times.flatMap((at) =>
      [report.up, report.down].map((way) => longestGap(way, at, at + WINDOW_MS, INTERVAL_MS)),
    )
    context.check('lost to the server, p95', up <= 20, up, '≤ 20 packets')
    context.check('lost to the terminal, p95', down <= 20, down, '≤ 20 packets')
    const gap = percentile(gaps, 0.95)
    const most = FOUND_MS + RTT_MS
    context.check(
      'silence, p95',
      gap <= most,
      `${gap.toFixed(1)} ms`,
      `≤ ${FOUND_MS} ms + 1 RTT (${RTT_MS} ms)`,
    )
    context.metric('cuts', times.length)
    context.metric('lost_packets_up', each[0]!)
    context.metric('lost_packets_down', each[1]!)
    tellLosses(context, report, times)
    context.metric('gap_ms_median', percentile(gaps, 0.5))
    context.metric('gap_ms_p95', gap)
    drawDatagrams(context, 'Main and spare link, the one in use cut without warning', report)
  },
}

export const routerBothGone: Scenario = {
  name: 'router-both-gone',
  summary: 'both links vanish for a while, then one comes back',
  topology: 'router',
  links: LINKS,
  paper: PAPER,
  async run(context) {
    const routers = await setUpRouters(context, { scheduler: 'failover' })
    await untilPaths(context, routers)
    context.start()
    const flow = await startDatagrams(context)
    await context.sleep(1500)
    const { handovers, full } = context.options
    const durations = Array.from(
      { length: handovers ?? (full === true ? 20 : 2) },
      // At random moments of the rhythm in which paths are tried.
      (_, index) => DURATIONS[index % DURATIONS.length]! + ((index * 7919) % 97),
    )
    const outages: { at: number; back: number }[] = []
    for (const [index, ms] of durations.entries()) {
      const at = monotonicMs()
      context.note(`both gone for ${ms / 1000} s`, durations.length < 10)
      for (const access of ACCESSES) context.lab.setLink(access, { state: 'blackhole' })
      await context.sleep(ms)
      const access = ACCESSES[index % 2]!
      context.note(`${access} is back`, durations.length < 10)
      outages.push({ at, back: monotonicMs() })
      context.lab.setLink(access, { state: 'up' })
      await context.sleep(1000)
      for (const each of ACCESSES) context.lab.setLink(each, { state: 'up' })
      await untilPaths(context, routers)
      await context.sleep(500)
    }
    const report = await flow.finish(context)
    context.metric('gone_ms', durations)
    context.metric('lost_packets', figuresOf(report.up).lost + figuresOf(report.down).lost)
    const stalls = await context.lab.links.stalls()
    // What comes down may leave with the answer to the announcement; what goes up leaves when that has arrived.
    for (const [way, name, trips] of [
      ['down', 'at the terminal', 1],
      ['up', 'at the server', 1.5],
    ] as const) {
      const raw = outages.map(({ at, back }) => resumed(report[way].arrivals, at, back) - back)
      const late = outages.map(({ back }, index) => {
        const ms = raw[index]!
        return Math.max(0, ms - stalledMs({ from: back, to: back + ms, ms }, stalls))
      })
      const allowed = trips * ROUND_TRIP_MS + PROBE_MS
      const worst = Math.max(...late)
      context.check(
        `first packet ${name} after a link is back`,
        worst <= allowed,
        `${worst.toFixed(0)} ms`,
        `≤ ${allowed.toFixed(0)} ms: ${trips} RTT and one probe interval`,
      )
      context.metric(`late_${way}_ms`, raw)
      context.metric(`late_${way}_without_stalls_ms`, late)
      context.metric(`late_${way}_ms_median`, percentile(late, 0.5))
    }
    drawDatagrams(context, 'Both links gone, then one is back', report)
  },
}

const DURATIONS = [2000, 500, 5000, 1000, 3000]
/** acc2, there and back, and what the emulator adds. */
const ROUND_TRIP_MS = 35
/** Pause between announcements while no path works: ANNOUNCE_ALONE of the tunnel. */
const PROBE_MS = 100

/** When the first packet came that had been sent after `back`, or after the outage began if that is none. */
function resumed(arrivals: readonly (readonly [number, number])[], at: number, back: number): number {
  const after = arrivals.find(([, time]) => time > Math.max(back, at))
  return after?.[1] ?? Number.POSITIVE_INFINITY
}
