/**
 * What the scenarios of the MPTCP proxy share: a download under one pair of ends after the other, what the data level did on
 * the wire, the gap of each handover, and the plot of the paper's Figures 8 to 10: data sequence numbers that arrive at the
 * mobile host and data acknowledgements that leave it, by access, against time.
 */
import { join } from 'node:path'
import type { ConnectionView } from '../../src/host/provisioning/mptcp.ts'
import { usesPrograms } from '../../src/linux/packages.ts'
import { KernelSysctls } from '../../src/linux/sysctl.ts'
import { advances, DataCapture, type DataTrace, type TracePoint } from '../data-trace.ts'
import type { Program } from '../hosts.ts'
import type { Stall } from '../links/engine.ts'
import { Meter } from '../meter.ts'
import { PALETTE, type Panel } from '../plot.ts'
import { Godwit, type StatusReport } from '../product.ts'
import { monotonicMs } from '../programs/program.ts'
import { percentile, type ScenarioContext } from '../scenario.ts'
import { addressOf, namespaceOf } from '../topology.ts'
import { EndlessDownload, longestSilence, stalledMs } from '../traffic.ts'

export const PROGRAMS = usesPrograms('ip', 'mptcpize', 'tcpdump')

/** Who speaks Multipath TCP at the mobile host, and who at the correspondent. */
export type Ends = 'proxy-proxy' | 'proxy-kernel' | 'kernel-kernel'

/** Seconds of the plot before the first handover, and after it. */
const BEFORE_S = 0.5
const AFTER_S = 1.5
const PORT = 80
/** Starts a program with the kernel's Multipath TCP. */
export const NATIVE = ['mptcpize', 'run'] as const
/** Of what the kernel's path manager may use. */
const SUBFLOWS = '8'
const PATIENCE_MS = 15_000
/** Before the first handover: windows have grown, and the first losses of a queue are over. */
const START_MS = 3000
/** A handover's gap is looked for this long (ms) after it. */
const WINDOW_MS = 1500
/** What the correspondent sends at most: below what the links carry, so that no queue or drop of theirs is measured. */
const SERVER_MBPS = 20
/** Packets in 100 ms that make an access the one that carries the download. */
const CARRIES = 20

export interface Handover {
  /** When it was asked for or happened (monotonic ms), and until when a silence belongs to it. */
  readonly at: number
  readonly until: number
}

export interface Outcome {
  readonly ends: Ends
  readonly trace: DataTrace
  readonly handovers: readonly Handover[]
  /** Of each handover the longest time without new data, less the machine's own stalls (ms). */
  readonly gaps: readonly number[]
  /** The same between handovers. */
  readonly others: readonly number[]
  /** Of each handover that the proxy made for a break: from the last thing heard to the change (ms). */
  readonly found: readonly number[]
}

/** A download that runs, and what to do with it. */
export class Download {
  readonly context: ScenarioContext
  readonly ends: Ends
  readonly mobile: Godwit
  readonly meter: Meter

  constructor(context: ScenarioContext, ends: Ends, mobile: Godwit, meter: Meter) {
    this.context = context
    this.ends = ends
    this.mobile = mobile
    this.meter = meter
  }

  /** The proxy's connection that carries it. */
  async connection(): Promise<ConnectionView> {
    const { connections } = await this.mobile.json<{ connections: ConnectionView[] }>('mptcp', 'connections')
    const found = connections.find(({ state }) => state === 'established')
    if (found === undefined) throw new Error('the download is not translated')
    return found
  }

  /** Waits until the proxy has it. */
  async begun(): Promise<void> {
    const end = monotonicMs() + PATIENCE_MS
    while (!(await this.connection().then(Boolean, () => false))) {
      if (monotonicMs() > end) await this.connection()
      await this.context.sleep(200)
    }
  }

  /** Has the proxy begin a subflow on an access now. */
  async join(access: string): Promise<void> {
    const { id, subflows } = await this.connection()
    if (subflows.some((each) => each.access === access && each.state !== 'dead')) return
    await this.mobile.run('mptcp', 'subflow', 'add', id, access)
  }

  /** The connection, as soon as it has a subflow on an access that can take the data. */
  async readyOn(access: string): Promise<ConnectionView> {
    const end = monotonicMs() + PATIENCE_MS
    for (;;) {
      const connection = await this.connection()
      if (connection.subflows.some((each) => each.access === access && each.state === 'active'))
        return connection
      if (monotonicMs() > end) throw new Error(`${this.ends}: no subflow over ${access}`)
      await this.context.sleep(200)
    }
  }

  /** Which access brings the data now. */
  carrier(): string {
    const now = monotonicMs()
    const [first, second] = ['acc1', 'acc2'].map((access) => this.#packets(access, now - 300, now))
    return second! > first! ? 'acc2' : 'acc1'
  }

  #packets(access: string, from: number, to: number): number {
    return this.meter.bins(access, 'rxPackets', from, to, to - from).reduce((sum, each) => sum + each, 0)
  }

  /** Waits until an access brings the download. */
  async carriedBy(access: string): Promise<void> {
    await this.#until(`${access} carries the download`, () => {
      const now = monotonicMs()
      return this.#packets(access, now - 100, now) >= CARRIES
    })
  }

  /** Waits until something has arrived over an access since now: a subflow works there. */
  async heardFrom(access: string): Promise<void> {
    const before = this.meter.latest(access).rxPackets
    await this.#until(`something comes over ${access}`, () => this.meter.latest(access).rxPackets > before)
    await this.context.sleep(300)
  }

  async #until(what: string, condition: () => boolean): Promise<void> {
    const end = monotonicMs() + PATIENCE_MS
    while (!condition()) {
      if (monotonicMs() > end) throw new Error(`${this.ends}: waited in vain until ${what}`)
      await this.context.sleep(20)
    }
  }
}

export interface DownloadOptions {
  readonly ends: Ends
  /** Keys of `[mptcp]` at the mobile host. */
  readonly settings?: string
  readonly sack?: boolean
  /** The kernel's own second subflow carries data only when the first does not. Default: true. */
  readonly backup?: boolean
  /** What counts as new data: that the local TCP acknowledges (default), or that arrive in order: a TCP on a busy machine acknowledges late. */
  readonly counted?: (trace: DataTrace) => number[]
  /** The correspondent sends as fast as the links carry. */
  readonly unlimited?: boolean
  work(download: Download): Promise<readonly Handover[]>
}

/** Downloads under a pair of ends while `work` makes its handovers, checks every byte, and judges. */
export async function downloadOver(context: ScenarioContext, options: DownloadOptions): Promise<Outcome> {
  const { ends, sack = true } = options
  const { lab } = context
  for (const role of ['mh', 'ch1'])
    new KernelSysctls(namespaceOf(role)).set('net.ipv4.tcp_sack', sack ? 1 : 0)
  if (options.unlimited !== true)
    lab
      .rtnl('ch1')
      .setQdisc('wan', { kind: 'tbf', rate: SERVER_MBPS * 1e6, burst: 16 << 10, limit: 512 << 10 })
  const mobile = new Godwit(context, 'mh')
  const meter = new Meter(namespaceOf('mh'), 10)
  const daemons: Program[] = []
  try {
    await pathManagers(context, ends, options.backup ?? true)
    if (ends !== 'kernel-kernel') {
      mobile.configure(`[mptcp]\n${options.settings ?? ''}\n`)
      daemons.push(await mobile.daemon('mptcp', 'up'))
    }
    if (ends === 'proxy-proxy') daemons.push(await new Godwit(context, 'ch1').daemon('mptcp', 'up'))
    const capture = await DataCapture.start(context, 'mh', PORT, join(context.scratch, `${ends}.pcap`))
    const download = await EndlessDownload.start(context, 'ch1', {
      server: ends === 'proxy-proxy' ? [] : NATIVE,
      client: ends === 'kernel-kernel' ? NATIVE : [],
    })
    context.note(`${ends}: download started`)
    await context.sleep(START_MS)
    const handovers = await options.work(new Download(context, ends, mobile, meter))
    await context.sleep(500)
    const { ok, value } = await download.finish()
    context.check(`${ends}: every byte as sent`, ok, value, 'the sha256 of what the server sent')
    const found =
      ends === 'kernel-kernel'
        ? []
        : (await mobile.json<StatusReport>('status')).handovers.flatMap(({ gap_ms }) => gap_ms ?? [])
    const trace = await capture.finish()
    const stalls = await lab.links.stalls()
    const moments = (options.counted ?? advances)(trace)
    const between = handovers.slice(1).flatMap(({ at }, index) => {
      const { until } = handovers[index]!
      return until < at ? [{ at: until, until: at }] : []
    })
    const others = gapsOf(moments, between, stalls)
    return { ends, trace, handovers, gaps: gapsOf(moments, handovers, stalls), others, found }
  } finally {
    meter.stop()
    for (const daemon of daemons) await daemon.stop()
  }
}

/** What the kernel needs for subflows: room for them, and at the mobile host the address of the second. */
export async function pathManagers(context: ScenarioContext, ends: Ends, backup: boolean): Promise<void> {
  const { programs, spec } = context.lab
  for (const role of ['mh', 'ch1'])
    await programs.run(role, 'ip', ['mptcp', 'limits', 'set', 'subflow', SUBFLOWS])
  await programs.run('mh', 'ip', ['mptcp', 'endpoint', 'flush'])
  if (ends !== 'kernel-kernel') return
  const second = ['dev', 'acc2', 'subflow', ...(backup ? ['backup'] : [])]
  await programs.run('mh', 'ip', ['mptcp', 'endpoint', 'add', addressOf(spec, 'mh', 'acc2'), ...second])
}

function gapsOf(
  moments: readonly number[],
  handovers: readonly Handover[],
  stalls: readonly Stall[],
): number[] {
  const arrivals = moments.map((at, index): [number, number] => [index, at])
  return handovers.map(({ at, until }) => {
    const silence = longestSilence({ sent: arrivals.length, arrivals }, at, until, 0)
    return Math.max(0, silence.ms - stalledMs(silence, stalls))
  })
}

/** Until when a silence belongs to a handover at `at`. */
export function handoverAt(at: number): Handover {
  return { at, until: at + WINDOW_MS }
}

/** The figures of one outcome, under its name. Returns the 95th percentile of the gaps (ms), and what to say of them. */
export function report(
  context: ScenarioContext,
  name: string,
  outcome: Outcome,
): { readonly p95: number; readonly summary: string } {
  const { gaps, others, handovers, found } = outcome
  const [median, p95, worst] = [percentile(gaps, 0.5), percentile(gaps, 0.95), Math.max(...gaps)]
  context.metric(`${name}_handovers`, handovers.length)
  context.metric(`${name}_gap_ms`, gaps)
  if (found.length > 0) context.metric(`${name}_found_after_ms`, found)
  if (others.length > 0) context.metric(`${name}_gap_without_handover_ms`, others)
  context.metric(`${name}_gap_median_ms`, median)
  context.metric(`${name}_gap_p95_ms`, p95)
  context.metric(`${name}_gap_worst_ms`, worst)
  const [half, most, longest] = [median, p95, worst].map((gap) => gap.toFixed(1))
  return {
    p95,
    summary: `${most} ms (median ${half}, worst ${longest}, of ${handovers.length})`,
  }
}

/** As the paper's figures: a panel for each outcome, from shortly before its first handover. */
export function draw(
  context: ScenarioContext,
  title: string,
  mark: string | undefined,
  outcomes: readonly { readonly name: string; readonly outcome: Outcome }[],
): void {
  context.chart = {
    title,
    note: `at the mobile host: data sequence numbers that arrive, data acknowledgements that leave; ${outcomes.map(({ name }) => name).join(' · ')}`,
    marks: mark === undefined ? [] : [{ at: BEFORE_S, label: mark }],
    panels: outcomes.map(({ name, outcome }) => panelOf(name, outcome)),
  }
}

function panelOf(name: string, { trace, handovers }: Outcome): Panel {
  const from = (handovers[0]?.at ?? trace.data[0]?.at ?? 0) - BEFORE_S * 1000
  const to = from + (BEFORE_S + AFTER_S) * 1000
  const shown = (points: readonly TracePoint[]) => points.filter(({ at }) => at >= from && at < to)
  const [data, acks] = [shown(trace.data), shown(trace.acks)]
  const least = [...data, ...acks].reduce(
    (lowest, { offset }) => Math.min(lowest, offset),
    Number.POSITIVE_INFINITY,
  )
  const series = (points: readonly TracePoint[], access: string) =>
    points
      .filter((point) => point.access === access)
      .map(({ at, offset }): [number, number] => [(at - from) / 1000, (offset - least) / 1e6])
  const [red, blue, green, , orange] = PALETTE
  return {
    unit: `MB, ${name}`,
    series: [
      { name: 'DSN acc1', colour: red!, style: 'dots', points: series(data, 'acc1') },
      { name: 'DSN acc2', colour: blue!, style: 'dots', points: series(data, 'acc2') },
      { name: 'DAN acc1', colour: orange!, style: 'dots', points: series(acks, 'acc1') },
      { name: 'DAN acc2', colour: green!, style: 'dots', points: series(acks, 'acc2') },
    ],
  }
}
