/**
 * What the handover scenarios share: a call (a datagram every 5 ms each way) and a download under godwit, a number of
 * handovers one after the other, the gap of each, and a plot.
 */
import type { Stall } from '../links/engine.ts'
import { Meter } from '../meter.ts'
import { PALETTE } from '../plot.ts'
import { type AnchoredHost, setUpAnchoring } from '../product.ts'
import { monotonicMs } from '../programs/program.ts'
import { percentile, type ScenarioContext } from '../scenario.ts'
import { namespaceOf } from '../topology.ts'
import {
  DatagramFlow,
  type DatagramReport,
  EndlessDownload,
  type FlowFigures,
  figuresOf,
  gapsOverTime,
  longestSilence,
  stalledMs,
} from '../traffic.ts'

export const CALL_PORT = 5004
/** Round trip over either access: its delay both ways. Everything else in the lab is within a millisecond. */
export const LINKS = { acc1: { rateMbps: 100, delayMs: 10 }, acc2: { rateMbps: 100, delayMs: 15 } }
export const RTT_MS = 2 * Math.max(LINKS.acc1.delayMs, LINKS.acc2.delayMs)
const SERVER_MBPS = 20
/** More marks than this hide the plot. */
const MOST_MARKS = 12

export interface Handover {
  /** Monotonic milliseconds. */
  readonly at: number
  /** Until when silence belongs to it. */
  readonly until: number
}

export interface Outcome {
  readonly call: DatagramReport
  readonly up: FlowFigures
  readonly down: FlowFigures
  /** Of each handover, the longer of both directions, less the time in which the machine did not run the links. */
  readonly gaps: readonly number[]
}

/**
 * Sets everything up, lets `work` make its handovers, and reports losses, gaps and the download. `work` returns the
 * handovers in order.
 */
export async function underTraffic(
  context: ScenarioContext,
  title: string,
  work: (host: AnchoredHost) => Promise<Handover[]>,
): Promise<Outcome> {
  context.lab
    .rtnl('ch1')
    .setQdisc('wan', { kind: 'tbf', rate: SERVER_MBPS * 1e6, burst: 16 << 10, limit: 512 << 10 })
  const host = await setUpAnchoring(context)
  const meter = new Meter(namespaceOf('mh'), 20)
  try {
    context.start()
    const download = await EndlessDownload.start(context, 'ch1')
    const call = await DatagramFlow.start(context, 'ch2', CALL_PORT)
    context.note('download and call started')
    await context.sleep(1000)
    const handovers = await work(host)
    await context.sleep(500)
    const { ok, value } = await download.finish()
    context.check('download: every byte as sent', ok, value, 'the sha256 of what the server sent')
    const report = await call.finish(context)
    meter.stop()
    const stalls = await context.lab.links.stalls()
    return judge(context, title, meter, report, handovers, stalls, call.intervalMs)
  } finally {
    meter.stop()
  }
}

function judge(
  context: ScenarioContext,
  title: string,
  meter: Meter,
  call: DatagramReport,
  handovers: readonly Handover[],
  stalls: readonly Stall[],
  intervalMs: number,
): Outcome {
  const [up, down] = [figuresOf(call.up), figuresOf(call.down)]
  const silences = handovers.map(({ at, until }) =>
    [call.up, call.down]
      .map((way) => longestSilence(way, at, until, intervalMs))
      .map((silence) => ({ raw: silence.ms, less: Math.max(0, silence.ms - stalledMs(silence, stalls)) })),
  )
  const gaps = silences.map((ways) => Math.max(...ways.map(({ less }) => less)))
  context.metric('handovers', handovers.length)
  context.metric('lost_packets', up.lost + down.lost)
  context.metric('duplicated_packets', up.duplicated + down.duplicated)
  context.metric('reordered_packets', up.reordered + down.reordered)
  context.metric('sent_packets', up.sent + down.sent)
  context.metric(
    'gap_ms',
    silences.map((ways) => Math.max(...ways.map(({ raw }) => raw))),
  )
  context.metric('gap_without_stalls_ms', gaps)
  context.metric('gap_median_ms', percentile(gaps, 0.5))
  context.metric('gap_p95_ms', percentile(gaps, 0.95))
  draw(context, title, meter, call)
  return { call, up, down, gaps }
}

function draw(context: ScenarioContext, title: string, meter: Meter, call: DatagramReport): void {
  const end = monotonicMs()
  const packets = (iface: string) =>
    meter
      .bins(iface, 'rxPackets', context.startedAt, end, 100)
      .map((value, index): [number, number] => [(index + 0.5) / 10, value])
  const [red, blue, green, , orange] = PALETTE
  context.chart = {
    title,
    note: 'a datagram every 5 ms each way, and a download, at the mobile host',
    marks: context.marks.length <= MOST_MARKS ? context.marks : [],
    panels: [
      {
        unit: 'ms since the datagram before',
        series: [
          { name: 'uplink', colour: orange!, style: 'dots', points: gapsOverTime(context, call.up) },
          { name: 'downlink', colour: green!, style: 'dots', points: gapsOverTime(context, call.down) },
        ],
      },
      {
        unit: 'packets / 100 ms',
        series: [
          { name: 'acc1', colour: red!, points: packets('acc1') },
          { name: 'acc2', colour: blue!, points: packets('acc2') },
        ],
      },
    ],
  }
}

/** How many handovers to make: as asked for, or the hundred, or a few. */
export function handoverCount(context: ScenarioContext, quick: number): number {
  return context.options.handovers ?? (context.options.full ? 100 : quick)
}

/** Checks that the 95th percentile of the gaps is within a bound. */
export function checkGap(context: ScenarioContext, gaps: readonly number[], boundMs: number): void {
  const p95 = percentile(gaps, 0.95)
  context.check(
    'gap, 95th percentile',
    p95 <= boundMs,
    `${p95.toFixed(1)} ms`,
    `at most ${boundMs - RTT_MS} ms + 1 RTT (${RTT_MS} ms)`,
  )
}
