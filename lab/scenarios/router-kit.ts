/** What the scenarios of the mobile router share: two gateways set up as a user would, traffic of terminals, figures. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { PathStatus } from '../../src/core/mechanism.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../../src/crypto/keys.ts'
import { usesPrograms } from '../../src/linux/packages.ts'
import type { Program } from '../hosts.ts'
import { PALETTE } from '../plot.ts'
import { Godwit, type StatusReport } from '../product.ts'
import { monotonicMs } from '../programs/program.ts'
import type { ScenarioContext } from '../scenario.ts'
import { addressOf } from '../topology.ts'
import { type Arrivals, DatagramFlow, type DatagramReport } from '../traffic.ts'
import type { LinkConditions } from '../types.ts'

export const PROGRAMS = usesPrograms('iperf3')

export const ACCESSES = ['acc1', 'acc2'] as const
const PORT = 51_820
const UDP_PORT = 5005
/** One datagram every 5 ms, as in the paper. */
export const INTERVAL_MS = 5
/** One way, the access of a radio. */
export const LINKS: Readonly<Record<string, Partial<LinkConditions>>> = {
  acc1: { delayMs: 10 },
  acc2: { delayMs: 15 },
}
const TERMINALS = '10.1.0.0/24", "fd00:1::/64'
const SERVERS = '10.2.0.0/24", "fd00:2::/64'

export interface Routers {
  readonly mobile: Godwit
  readonly home: Godwit
  readonly daemon: Program
  readonly homeDaemon: Program
}

/** A key pair and a configuration on each gateway, then `godwit router up` on both. */
export async function setUpRouters(
  context: ScenarioContext,
  options: {
    readonly scheduler: string
    readonly more?: string
    readonly radios?: string
    readonly accesses?: readonly string[]
  },
): Promise<Routers> {
  const home = new Godwit(context, 'hg')
  const mobile = new Godwit(context, 'mr')
  const keys: Record<string, string> = {}
  for (const [name, router] of Object.entries({ home, mobile })) {
    const key = generatePrivateKey()
    writeFileSync(join(router.state, 'private.key'), `${encodeKey(key)}\n`, { mode: 0o600 })
    keys[name] = encodeKey(publicKeyOf(key))
  }
  home.configure(`[router]
listen_port = ${PORT}
scheduler = "${options.scheduler}"

[[router.site]]
name = "bus"
public_key = "${keys.mobile}"
subnets = ["${TERMINALS}"]
${options.more ?? ''}
`)
  mobile.configure(`[router]
accesses = ${JSON.stringify(options.accesses ?? ACCESSES)}
scheduler = "${options.scheduler}"

[[router.site]]
name = "home"
public_key = "${keys.home}"
endpoint = "${addressOf(context.lab.spec, 'hg', 'wan')}:${PORT}"
subnets = ["${SERVERS}"]
${options.more ?? ''}
${options.radios ?? ''}
`)
  const homeDaemon = await home.daemon('router', 'up')
  const daemon = await mobile.daemon('router', 'up')
  return { mobile, home, daemon, homeDaemon }
}

/** Waits until each of these accesses has a path that works; rejects after 15 seconds. */
export async function untilPaths(
  context: ScenarioContext,
  { mobile }: Routers,
  accesses: readonly string[] = ACCESSES,
): Promise<readonly PathStatus[]> {
  for (let attempt = 0; ; attempt++) {
    const { peers } = await mobile.json<StatusReport>('status')
    const paths = peers.flatMap((peer) => peer.paths)
    const works = new Set(
      paths.filter(({ state }) => state === 'up' || state === 'degrading').map(({ access }) => access),
    )
    if (accesses.every((access) => works.has(access))) return paths
    if (attempt === 75) throw new Error(`no path over ${accesses.filter((a) => !works.has(a)).join(', ')}`)
    await context.sleep(200)
  }
}

/** The paper's measurement: datagrams between terminal and server. */
export function startDatagrams(context: ScenarioContext): Promise<DatagramFlow> {
  return DatagramFlow.start(context, 'srv', UDP_PORT, INTERVAL_MS, { client: 'term', iface: 'lan' })
}

export interface IperfOptions {
  readonly seconds: number
  readonly reverse?: boolean
  /** Seconds before what counts: until TCP has found its rate. */
  readonly omit?: number
  readonly flows?: number
  /** Congestion control of the sender; default: the lab's. */
  readonly congestion?: string
}

/** TCP from the terminal to the server with iperf3; Mbit/s received. */
export function tcpMbps(context: ScenarioContext, options: IperfOptions): Promise<number> {
  return iperfMbps(context, 'term', 'srv', addressOf(context.lab.spec, 'srv', 'lan'), options)
}

/** TCP from the mobile router's access to the gateway at home, past the tunnel; Mbit/s received. */
export function bareMbps(context: ScenarioContext, access: string, options: IperfOptions): Promise<number> {
  const { spec } = context.lab
  return iperfMbps(context, 'mr', 'hg', addressOf(spec, 'hg', 'wan'), options, [
    '-B',
    addressOf(spec, 'mr', access),
  ])
}

async function iperfMbps(
  context: ScenarioContext,
  client: string,
  host: string,
  address: string,
  options: IperfOptions,
  more: readonly string[] = [],
): Promise<number> {
  const { programs } = context.lab
  const server = await programs.start(host, 'iperf3', ['-s', '-1'])
  try {
    await context.sleep(300)
    const args = [
      '-c',
      address,
      '-t',
      String(options.seconds),
      '-O',
      String(options.omit ?? 2),
      '-J',
      ...more,
    ]
    if (options.congestion !== undefined) args.push('-C', options.congestion)
    if (options.reverse === true) args.push('-R')
    if (options.flows !== undefined) args.push('-P', String(options.flows))
    const report = JSON.parse(await programs.run(client, 'iperf3', args)) as {
      readonly end: { readonly sum_received: { readonly bits_per_second: number } }
    }
    return report.end.sum_received.bits_per_second / 1e6
  } finally {
    await server.stop()
  }
}

/** Sequence numbers that never arrived, by when they were sent: the clock of the sender is that of its interval. */
export function lostWithin(way: Arrivals, from: number, to: number): number {
  const seen = new Map<number, number>(way.arrivals.map(([sequence, at]) => [sequence, at]))
  // When something was sent follows from what arrived: the least of (arrival − sequence × interval) is the offset.
  let origin = Number.POSITIVE_INFINITY
  for (const [sequence, at] of seen) origin = Math.min(origin, at - sequence * INTERVAL_MS)
  let lost = 0
  for (let sequence = 0; sequence < way.sent; sequence++) {
    const at = origin + sequence * INTERVAL_MS
    if (at >= from && at < to && !seen.has(sequence)) lost++
  }
  return lost
}

/** When each lost datagram was sent, in seconds on the scenario's clock; at most `most`, for the result's file. */
export function lostAt(context: ScenarioContext, way: Arrivals, most = 200): number[] {
  const seen = new Set(way.arrivals.map(([sequence]) => sequence))
  let origin = Number.POSITIVE_INFINITY
  for (const [sequence, at] of way.arrivals) origin = Math.min(origin, at - sequence * INTERVAL_MS)
  const times: number[] = []
  for (let sequence = 0; sequence < way.sent && times.length < most; sequence++)
    if (!seen.has(sequence)) times.push(context.seconds(origin + sequence * INTERVAL_MS))
  return times
}

/** One point a packet for the plot: lost ones per 100 ms. */
export function lossOverTime(context: ScenarioContext, way: Arrivals): [number, number][] {
  const points: [number, number][] = []
  const end = monotonicMs()
  for (let at = context.startedAt; at < end; at += 100)
    points.push([context.seconds(at), lostWithin(way, at, at + 100)])
  return points
}

/** Draws lost packets and the time between arrivals, both ways. */
export function drawDatagrams(
  context: ScenarioContext,
  title: string,
  report: DatagramReport,
  extra: readonly { readonly unit: string; readonly series: readonly object[] }[] = [],
): void {
  const gaps = (way: Arrivals) =>
    way.arrivals
      .slice(1)
      .map(([, at], index): [number, number] => [context.seconds(at), at - way.arrivals[index]![1]])
  context.chart = {
    title,
    note: 'datagrams of the terminal every 5 ms, both ways; Ohshima et al., Figure 2',
    marks: context.marks,
    panels: [
      ...(extra as never[]),
      {
        unit: 'lost / 100 ms',
        series: [
          {
            name: 'to the server',
            colour: PALETTE[0]!,
            style: 'steps',
            points: lossOverTime(context, report.up),
          },
          {
            name: 'to the terminal',
            colour: PALETTE[1]!,
            style: 'steps',
            points: lossOverTime(context, report.down),
          },
        ],
      },
      {
        unit: 'ms between arrivals',
        series: [
          { name: 'at the server', colour: PALETTE[2]!, points: gaps(report.up) },
          { name: 'at the terminal', colour: PALETTE[4]!, points: gaps(report.down) },
        ],
      },
    ],
  }
}
