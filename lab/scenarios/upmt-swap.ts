/**
 * The paper's demonstration (UPMT, section 6.1, Figure 5): two unmodified applications download over one access each, and
 * swap accesses while they do. An interactive session to the anchor stays outside godwit throughout. In the paper FTP
 * (here rsync) starts at 2 s on the second interface, HTTP at 10 s on the first; HTTP moves at 21 s, FTP at 23 s.
 *
 * Ours adds a call, a datagram every 5 ms each way, that moves with HTTP: it measures gap and loss. The servers pace
 * what they send, so that either access could carry everything and no dip is explained by a full link.
 */
import type { FlowStatus } from '../../src/core/mechanism.ts'
import type { Stall } from '../links/engine.ts'
import { type CounterName, Meter } from '../meter.ts'
import { PALETTE, type Panel } from '../plot.ts'
import { type Godwit, setUpAnchoring } from '../product.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { addressOf, namespaceOf } from '../topology.ts'
import {
  DatagramFlow,
  type DatagramReport,
  figuresOf,
  httpDownload,
  longestGap,
  rsyncDownload,
  Session,
  type Transfer,
} from '../traffic.ts'

const HTTP_MBPS = 24
const RSYNC_MBPS = 16
const CALL_PORT = 5004
const BIN_MS = 100
/** How long after a move its effect is looked for. */
const AFTER_MS = 1500
const SETTLE_MS = 3500
/** What a pacing server keeps back: a burst that lasts some milliseconds. */
const BURST_BYTES = 16 << 10
const SERVER_QUEUE_BYTES = 512 << 10

/** Seconds at which things happen. */
const QUICK = { rsync: 1, http: 3, httpMoves: 8, rsyncMoves: 10, end: 15 }
const PAPER = { rsync: 2, http: 10, httpMoves: 21, rsyncMoves: 23, end: 30 }

export const upmtSwap: Scenario = {
  name: 'upmt-swap',
  summary:
    'two applications swap accesses while both download; a session outside godwit beside them (Figure 5)',
  topology: 'upmt',
  links: {
    acc1: { rateMbps: 60, delayMs: 10 },
    acc2: { rateMbps: 50, delayMs: 15 },
  },
  paper: {
    figure: 'Figure 5',
    setup: 'Ethernet and Wi-Fi, anchor on a public server, public HTTP and FTP servers',
    result: 'packets on the old and the new interface together never drop during either handover',
  },
  run,
}

async function run(context: ScenarioContext): Promise<void> {
  const when = context.options.paperTime ? PAPER : QUICK
  const bytes = (mbps: number, seconds: number) => Math.round(mbps * 125_000 * 0.9 * seconds)
  pace(context, 'ch1', HTTP_MBPS)
  pace(context, 'ch2', RSYNC_MBPS)
  const http = await httpDownload(context, 'ch1', bytes(HTTP_MBPS, when.end - when.http))
  const rsync = await rsyncDownload(context, 'ch2', bytes(RSYNC_MBPS, when.end - when.rsync))
  const { mobile } = await setUpAnchoring(context, (host) => host.configure(CONFIGURATION))
  // Each policy may only now have come to the access that it prefers: godwit first sees that an access stays.
  await context.sleep(SETTLE_MS)

  const access = new Meter(namespaceOf('mh'), 20)
  const meters = { access, curl: new Meter(namespaceOf('ch1'), 10), rsync: new Meter(namespaceOf('ch2'), 10) }
  const places = new Places(context, mobile)
  const stopWatching = watch(context, meters, places)
  try {
    context.start()
    const session = await Session.start(context, 'an')
    const call = await DatagramFlow.start(context, 'an2', CALL_PORT)
    context.note('session to the anchor outside godwit, call on acc1')

    await context.until(when.rsync)
    context.mark('rsync starts')
    const rsyncing = await rsync.start()
    await context.until(when.http)
    context.mark('curl starts')
    const curling = await http.start()
    await context.until(when.httpMoves - 1.5)
    await places.check('curl', 'acc1', 'rsync', 'acc2')

    await context.until(when.httpMoves)
    const swaps = [context.startedAt + when.httpMoves * 1000, context.startedAt + when.rsyncMoves * 1000]
    context.mark('curl and call to acc2')
    await mobile.run('move', 'app:curl', 'acc2')
    await mobile.run('move', `port:${CALL_PORT}`, 'acc2')
    await places.check('curl', 'acc2', 'rsync', 'acc2')
    await context.until(when.rsyncMoves)
    context.mark('rsync to acc1')
    await mobile.run('move', 'app:rsync', 'acc1')
    await places.check('curl', 'acc2', 'rsync', 'acc1')

    const limit = context.startedAt + (when.end + 20) * 1000
    await settle(context, [curling, rsyncing], limit)
    context.note('both transfers ended')
    const ended = context.seconds()
    for (const transfer of [curling, rsyncing]) {
      const { ok, value } = await transfer.verify()
      context.check(`${transfer.name}: every byte as sent`, ok, value, 'the sha256 of the file served')
    }
    judgeCall(context, await call.finish(context), call.intervalMs, swaps)
    await judgeSession(context, session, mobile)
    access.stop()
    judgeAccesses(context, access, when)
    judgeDip(context, access, await context.lab.links.stalls(), when)
    judgeSilence(context, meters, when)
    draw(context, meters, ended)
  } finally {
    stopWatching()
    for (const meter of Object.values(meters)) meter.stop()
  }
}

const CONFIGURATION = `
[host]
except = ["port:22"]

[[policy]]
name = "http"
match = ["app:curl"]
prefer = ["acc1"]

[[policy]]
name = "files"
match = ["app:rsync"]
prefer = ["acc2"]

[[policy]]
name = "call"
match = ["port:${CALL_PORT}"]
prefer = ["acc1"]
`

/** A server that sends no faster than this. */
function pace(context: ScenarioContext, role: string, mbps: number): void {
  context.lab.rtnl(role).setQdisc('wan', {
    kind: 'tbf',
    rate: mbps * 1e6,
    burst: BURST_BYTES,
    limit: SERVER_QUEUE_BYTES,
  })
}

/** Waits for the transfers; what still runs at `limit` (monotonic milliseconds) has failed and is stopped. */
async function settle(
  context: ScenarioContext,
  transfers: readonly Transfer[],
  limit: number,
): Promise<void> {
  while (transfers.some(({ program }) => program.running) && context.seconds(limit) > context.seconds())
    await context.sleep(50)
  for (const { program } of transfers) if (program.running) await program.stop()
}

/** Where godwit says each application's flows are, asked when it matters. */
class Places {
  readonly #context: ScenarioContext
  readonly #mobile: Godwit
  readonly latest: Record<string, string> = {}

  constructor(context: ScenarioContext, mobile: Godwit) {
    this.#context = context
    this.#mobile = mobile
  }

  /** Checks pairs of application and access against `flows --json`. */
  async check(...wanted: string[]): Promise<void> {
    const { flows } = await this.#mobile.json<{ flows: readonly FlowStatus[] }>('flows')
    for (let index = 0; index < wanted.length; index += 2) {
      const [app, access] = [wanted[index]!, wanted[index + 1]!]
      const found = [...new Set(flows.filter((flow) => flow.app === app).map((flow) => flow.access))]
      this.latest[app] = found.join(', ')
      const at = `${this.#context.seconds().toFixed(1)} s`
      this.#context.check(
        `${app} is on ${access} at ${at}`,
        found.join() === access,
        found.join(', ') || 'no flow',
        access,
      )
    }
  }
}

interface Meters {
  /** gw-mh: its accesses. */
  readonly access: Meter
  /** The applications' servers: nothing else passes there. */
  readonly curl: Meter
  readonly rsync: Meter
}

/** Tells the observer what flows where, five times a second. */
function watch(context: ScenarioContext, meters: Meters, places: Places): () => void {
  const { progress } = context.observer
  if (progress === undefined) return () => {}
  const last = new Map<string, number>()
  const rate = (name: string, bytes: number): number => {
    const before = last.get(name) ?? bytes
    last.set(name, bytes)
    return (bytes - before) / (WATCH_MS * 125)
  }
  const timer = setInterval(() => {
    progress.call(context.observer, {
      seconds: context.seconds(),
      accesses: ['acc1', 'acc2'].map((name) => ({
        name,
        mbps: rate(name, meters.access.latest(name).rxBytes),
      })),
      applications: (['curl', 'rsync'] as const).map((name) => ({
        name,
        access: places.latest[name] ?? '',
        mbps: rate(name, meters[name].latest('wan').txBytes),
      })),
    })
  }, WATCH_MS)
  return () => clearInterval(timer)
}

const WATCH_MS = 200

function judgeCall(
  context: ScenarioContext,
  report: DatagramReport,
  intervalMs: number,
  swaps: readonly number[],
): void {
  const [up, down] = [figuresOf(report.up), figuresOf(report.down)]
  const lost = up.lost + down.lost
  const duplicated = up.duplicated + down.duplicated
  const gap = Math.max(
    ...[report.up, report.down].flatMap((way) =>
      swaps.map((at) => longestGap(way, at - 200, at + 1500, intervalMs)),
    ),
  )
  context.check('call: datagrams lost', lost === 0, lost, '0')
  context.check('call: datagrams duplicated', duplicated === 0, duplicated, '0')
  context.metric('lost_packets', lost)
  context.metric('duplicated_packets', duplicated)
  context.metric('reordered_packets', up.reordered + down.reordered)
  context.metric('gap_ms', gap)
}

async function judgeSession(context: ScenarioContext, session: Session, mobile: Godwit): Promise<void> {
  const { flows } = await mobile.json<{ flows: readonly FlowStatus[] }>('flows')
  const tunnelled = flows.filter((flow) => flow.dst.endsWith(`:${session.port}`)).length
  const report = await session.finish()
  const own = addressOf(context.lab.spec, 'mh', 'acc1')
  const outside = report.local.startsWith(`${own}:`) && report.seen === NAT1 && tunnelled === 0
  context.check(
    'session stays outside the tunnel',
    outside,
    `from ${report.local}, seen by the anchor as ${report.seen}, ${tunnelled} flows in godwit`,
    `from ${own}, seen as ${NAT1}, 0 flows`,
  )
  const missing = report.keys - report.echoes
  context.check(
    'session undisturbed',
    !report.broken && missing <= 1,
    `${report.echoes} of ${report.keys} echoed`,
    'all',
  )
  context.metric('session_worst_echo_ms', report.worst_ms)
}

/** Public address of gw-nat1. */
const NAT1 = '203.0.113.2'

/** The counters of the accesses agree with where the applications should be. */
function judgeAccesses(context: ScenarioContext, meter: Meter, when: typeof QUICK): void {
  const mbps = (iface: string, from: number, to: number) => {
    const [start, end] = [context.startedAt + from * 1000, context.startedAt + to * 1000]
    return (meter.bins(iface, 'rxBytes', start, end, end - start)[0] ?? 0) / (125 * (end - start))
  }
  const phases: [string, number, number, acc1: number, acc2: number][] = [
    ['rsync alone', when.rsync + 0.7, when.http, 0, RSYNC_MBPS],
    ['both', when.http + 0.7, when.httpMoves, HTTP_MBPS, RSYNC_MBPS],
    ['after the first move', when.httpMoves + 0.7, when.rsyncMoves, 0, HTTP_MBPS + RSYNC_MBPS],
    ['after the swap', when.rsyncMoves + 0.7, when.rsyncMoves + 2.7, RSYNC_MBPS, HTTP_MBPS],
  ]
  for (const [name, from, to, ...expected] of phases) {
    const measured = ['acc1', 'acc2'].map((iface) => mbps(iface, from, to))
    const ok = measured.every((value, index) =>
      expected[index] === 0 ? value < 1 : Math.abs(value / expected[index]! - 1) < 0.2,
    )
    const [first, second] = measured.map((value) => value.toFixed(1))
    const value = `acc1 ${first}, acc2 ${second} Mbit/s`
    context.check(`counters of the accesses: ${name}`, ok, value, `about ${expected.join(' and ')} Mbit/s`)
  }
  context.metric(
    'throughput_mbps',
    mbps('acc1', when.http + 0.7, when.httpMoves) + mbps('acc2', when.http + 0.7, when.httpMoves),
  )
}

/**
 * The total of both accesses around each move, against the second before it. Bins in which the machine did not run the
 * links in time are left out: what they show is no network.
 */
function judgeDip(
  context: ScenarioContext,
  meter: Meter,
  stalls: readonly Stall[],
  when: typeof QUICK,
): void {
  for (const [name, move] of [
    ['curl', when.httpMoves],
    ['rsync', when.rsyncMoves],
  ] as const) {
    const at = context.startedAt + move * 1000
    const before = mean(total(meter, at - 1000, at))
    const bins = total(meter, at, at + AFTER_MS)
    const judged = bins.filter((_, index) => {
      const from = at + index * BIN_MS
      return !stalls.some(([start, end]) => start < from + BIN_MS && end > from)
    })
    const share = (100 * Math.min(...judged)) / before
    const omitted = bins.length - judged.length
    context.check(
      `total of both accesses while ${name} moves`,
      share >= 90 && omitted <= bins.length / 3,
      `${share.toFixed(1)} % of before in the lowest ${BIN_MS} ms${omitted === 0 ? '' : `, ${omitted} of ${bins.length} bins left out: machine busy`}`,
      'at least 90 %',
    )
    context.metric(`${name}_move_lowest_percent`, share)
  }
  const stalled = stalls.reduce((sum, [from, to]) => sum + (from > context.startedAt ? to - from : 0), 0)
  context.metric('machine_stalled_ms', stalled)
}

function total(meter: Meter, from: number, to: number): number[] {
  const [first, second] = ['acc1', 'acc2'].map((iface) => meter.bins(iface, 'rxBytes', from, to, BIN_MS))
  return first!.map((bytes, index) => bytes + second![index]!)
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** The longest time in which an application's server heard nothing from its client while data were under way. */
function judgeSilence(context: ScenarioContext, meters: Meters, when: typeof QUICK): void {
  for (const [name, meter] of [
    ['curl', meters.curl],
    ['rsync', meters.rsync],
  ] as const) {
    const from = context.startedAt + (when.httpMoves - 0.5) * 1000
    const to = context.startedAt + (when.rsyncMoves + 1.5) * 1000
    context.metric(`${name}_longest_silence_ms`, meter.longestStill('wan', 'rxPackets', from, to))
  }
}

function draw(context: ScenarioContext, meters: Meters, ended: number): void {
  const points = (meter: Meter, iface: string, counter: CounterName, scale: number) =>
    meter
      .bins(iface, counter, context.startedAt, context.startedAt + ended * 1000, BIN_MS)
      .map((value, index): [number, number] => [((index + 0.5) * BIN_MS) / 1000, value * scale])
  const [red, blue, green, grey, orange] = PALETTE
  const mbit = 8 / (BIN_MS * 1000)
  const packets: Panel = {
    unit: `packets / ${BIN_MS} ms`,
    series: [
      { name: 'acc1', colour: red!, points: points(meters.access, 'acc1', 'rxPackets', 1) },
      { name: 'acc2', colour: blue!, points: points(meters.access, 'acc2', 'rxPackets', 1) },
    ],
  }
  const [first, second] = ['acc1', 'acc2'].map((iface) => points(meters.access, iface, 'rxBytes', mbit))
  const rates: Panel = {
    unit: 'Mbit/s',
    series: [
      {
        name: 'both accesses',
        colour: grey!,
        points: first!.map(([at, value], index): [number, number] => [at, value + second![index]![1]]),
      },
      { name: 'curl', colour: green!, points: points(meters.curl, 'wan', 'txBytes', mbit) },
      { name: 'rsync', colour: orange!, points: points(meters.rsync, 'wan', 'txBytes', mbit) },
    ],
  }
  context.chart = {
    title: 'Two applications swap their access networks while they download',
    note: 'downlink at the mobile host; UPMT, Figure 5',
    marks: context.marks,
    panels: [packets, rates],
  }
}
