/**
 * The paper's own experiment (Ohshima §III, Table): one radio, OpenVPN, stock roaming, a datagram every 5 ms from terminal
 * to server, lost datagrams for each change of access point. Once with one SSID on all points (roams eagerly), once with
 * an SSID for each (clings). What each step of roaming takes comes from the sources of the programs (stock-client.ts).
 * Then godwit on the same road, with two radios of the same kind.
 */
import { join } from 'node:path'
import { usesPrograms } from '../../src/linux/packages.ts'
import type { Program } from '../hosts.ts'
import { monotonicMs } from '../programs/program.ts'
import { percentile, type Scenario, type ScenarioContext } from '../scenario.ts'
import type { Roaming } from '../simulated-radio.ts'
import { ASSOCIATE_MS, LEASE_MS, SCAN_MS } from '../stock-client.ts'
import { addressOf } from '../topology.ts'
import { figuresOf } from '../traffic.ts'
import {
  ACCESSES,
  drawDatagrams,
  INTERVAL_MS,
  lostAt,
  setUpRouters,
  startDatagrams,
  untilPaths,
} from './router-kit.ts'
import { type Row, radioConfig, radiosAlongRow, watchSignals } from './router-roam.ts'

const PROGRAMS = usesPrograms('openssl', 'openvpn', 'ping')

const PORT = 1194
const SPEED_MPS = 8
const STAND_S = 12
/** A datagram that comes later than this had waited somewhere: the outage is not over. */
const STALE_MS = 500
/** Points passed: for about three changes, and for two. */
const DRIVES = { same: { points: 9 }, different: { points: 12 } }

/** OpenVPN between the two gateways, with `float`, so that the client may change its address: the paper's set-up. */
async function startOpenVpn(context: ScenarioContext): Promise<Program[]> {
  const { programs, spec } = context.lab
  const prints: Record<string, string> = {}
  for (const side of ['server', 'client']) {
    const [key, certificate] = [join(context.out, `${side}.key`), join(context.out, `${side}.crt`)]
    const args = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    await programs.run('hg', 'openssl', [
      ...args,
      ...['-days', '2', '-subj', `/CN=${side}`, '-keyout', key, '-out', certificate],
    ])
    const print = await programs.run('hg', 'openssl', [
      'x509',
      '-in',
      certificate,
      '-noout',
      '-sha256',
      '-fingerprint',
    ])
    prints[side] = print.slice(print.indexOf('=') + 1).trim()
  }
  const common = (side: string, other: string) => [
    ...['--dev', 'ovpn0', '--dev-type', 'tun', '--proto', 'udp', '--port', String(PORT), '--verb', '1'],
    ...['--cert', join(context.out, `${side}.crt`), '--key', join(context.out, `${side}.key`)],
    ...['--peer-fingerprint', prints[other]!, '--data-ciphers', 'AES-256-GCM', '--topology', 'subnet'],
    ...['--float', '--keepalive', '10', '60', '--disable-dco'],
  ]
  const server = await programs.start('hg', 'openvpn', [
    ...common('server', 'client'),
    ...['--tls-server', '--dh', 'none', '--ifconfig', '10.99.0.1', '255.255.255.0'],
    ...['--route', '10.1.0.0', '255.255.255.0', '10.99.0.2'],
  ])
  const client = await programs.start('mr', 'openvpn', [
    ...common('client', 'server'),
    ...['--tls-client', '--nobind', '--ifconfig', '10.99.0.2', '255.255.255.0'],
    ...['--remote', addressOf(spec, 'hg', 'wan'), '--route', '10.2.0.0', '255.255.255.0', '10.99.0.1'],
  ])
  for (let attempt = 0; ; attempt++) {
    try {
      await programs.run('term', 'ping', ['-c', '1', '-W', '1', addressOf(spec, 'srv', 'lan')])
      return [server, client]
    } catch (error) {
      if (attempt === 20) throw error
      await context.sleep(500)
    }
  }
}

/** One SSID on all points, or one for each, and what a radio takes then. */
type Policy = 'same' | 'different'
const POLICIES: readonly Policy[] = ['same', 'different']
const TITLES: Readonly<Record<Policy, string>> = { same: 'one SSID', different: 'an SSID each' }

function rowOf(policy: Policy): Omit<Row, 'roaming' | 'accesses'> {
  return {
    count: DRIVES[policy].points,
    speedMps: SPEED_MPS,
    standS: STAND_S,
    ssid: (index) => (policy === 'same' ? 'row' : `row-${index + 1}`),
    times: {
      scanMs: SCAN_MS,
      associateMs: ASSOCIATE_MS,
      // Within a network the lease holds.
      addressMs: policy === 'same' ? 0 : LEASE_MS,
    },
  }
}

interface Drive {
  /** To the server, and to the terminal. */
  readonly lost: number
  readonly lostDown: number
  /** When those lost either way had been sent, seconds. */
  readonly lostAt: readonly number[]
  /** Of each outage. */
  readonly losses: readonly number[]
  readonly gaps: readonly number[]
  readonly changes: number
}

/** One drive past the row, with datagrams all the way; `start` sets up what carries them, `end` ends it. */
async function drive(
  context: ScenarioContext,
  title: string,
  row: Row,
  start: (folder: string) => Promise<() => Promise<unknown>>,
): Promise<Drive> {
  for (const access of ACCESSES)
    if (!row.accesses.includes(access)) context.lab.setLink(access, { state: 'down' })
  const { radios, folder, seconds } = radiosAlongRow(context, row)
  const signals = watchSignals(context, radios)
  const startedAt = monotonicMs()
  let end: (() => Promise<unknown>) | undefined
  try {
    if (row.roaming !== 'none') while (radios[0]!.point === undefined) await context.sleep(100)
    end = await start(folder)
    const flow = await startDatagrams(context)
    await context.sleep(Math.max(0, startedAt + seconds * 1000 - monotonicMs()))
    const report = await flow.finish(context)
    const { losses, gaps } = outages(report.up.arrivals)
    const changes = radios.reduce((sum, radio) => sum + radio.changes, 0)
    const { lost } = figuresOf(report.up)
    context.note(
      `${title}: ${changes} changes of point, ${lost} lost; in each outage ${losses.join(', ') || 'none'}`,
    )
    drawDatagrams(context, title, report, [signals.panel()] as never)
    return {
      lost,
      lostDown: figuresOf(report.down).lost,
      lostAt: [...lostAt(context, report.up), ...lostAt(context, report.down)],
      losses,
      gaps,
      changes,
    }
  } finally {
    signals.stop()
    for (const radio of radios) radio.close()
    await end?.()
  }
}

interface StockCase {
  readonly title: string
  readonly name: string
  readonly policy: Policy
  readonly roaming: Roaming
  /** What the paper lost at a change, least and most. */
  readonly paper?: readonly [number, number]
}

const STOCK: readonly StockCase[] = [
  { title: 'one SSID, background scans', name: 'scanning', policy: 'same', roaming: 'eager' },
  { title: 'one SSID', name: 'same_ssid', policy: 'same', roaming: 'late', paper: [600, 600] },
  {
    title: 'an SSID each',
    name: 'different_ssid',
    policy: 'different',
    roaming: 'clinging',
    paper: [3600, 5900],
  },
]

/** As the paper ran it: one radio that roams by itself. */
function stockDrive(context: ScenarioContext, { title, policy, roaming }: StockCase): Promise<Drive> {
  const row: Row = { ...rowOf(policy), roaming, accesses: ['acc1'] }
  return drive(context, `OpenVPN, ${title}`, row, async () => {
    const programs = await startOpenVpn(context)
    return () => Promise.all(programs.map((program) => program.stop()))
  })
}

/** As the paper proposed it: two radios of the same kind, moved one after the other. */
function godwitDrive(context: ScenarioContext, policy: Policy): Promise<Drive> {
  const { handovers } = context.options
  // Each point is taken by both radios.
  const count = handovers === undefined ? DRIVES[policy].points : Math.ceil(handovers / 2) + 1
  const row: Row = { ...rowOf(policy), count, roaming: 'none', accesses: ACCESSES }
  return drive(context, `godwit, ${TITLES[policy]}`, row, async (folder) => {
    const routers = await setUpRouters(context, { scheduler: 'failover', radios: radioConfig(folder) })
    await untilPaths(context, routers)
    return () => Promise.all([routers.daemon.stop(), routers.homeDaemon.stop()])
  })
}

async function godwitRows(context: ScenarioContext): Promise<void> {
  for (const policy of POLICIES) {
    const ours = await godwitDrive(context, policy)
    const lost = ours.lost + ours.lostDown
    context.check(
      `godwit, ${TITLES[policy]}: lost in all, both ways`,
      lost === 0,
      lost,
      `0 in ${ours.changes} changes`,
    )
    context.metric(`godwit_${policy}_ssid_lost_packets`, lost)
    context.metric(`godwit_${policy}_ssid_lost_at_s`, ours.lostAt)
    context.metric(`godwit_${policy}_ssid_changes`, ours.changes)
  }
}

/** An outage is over when so many in a row have come; fewer lost than LEAST are a weak signal. */
const WELL = 100
const LEAST = 50

/** Datagrams lost in each outage, and how long each was. */
function outages(arrivals: readonly (readonly [number, number])[]): { losses: number[]; gaps: number[] } {
  const losses: number[] = []
  const gaps: number[] = []
  const seen = new Map(arrivals.map(([sequence, at]) => [sequence, at]))
  const last = arrivals.at(-1)?.[0] ?? 0
  let lost = 0
  let well = 0
  let origin = Number.POSITIVE_INFINITY
  for (const [sequence, at] of arrivals) origin = Math.min(origin, at - sequence * INTERVAL_MS)
  let before = arrivals[0]?.[1] ?? 0
  for (let sequence = arrivals[0]?.[0] ?? 0; sequence <= last; sequence++) {
    const at = seen.get(sequence)
    if (at === undefined) {
      lost++
      well = 0
      continue
    }
    // A few that get through in between end nothing, nor does what had been queued before.
    if (at - (origin + sequence * INTERVAL_MS) > STALE_MS) continue
    if (++well < WELL) {
      if (lost === 0) before = at
      continue
    }
    if (lost >= LEAST) {
      losses.push(lost)
      gaps.push(at - before - WELL * INTERVAL_MS)
    }
    lost = 0
    before = at
  }
  return { losses, gaps }
}

const PAPER = {
  same_ssid_lost_packets: 'about 600',
  different_ssid_lost_packets: 'about 3600 to 5900',
}

export const routerPaper: Scenario = {
  name: 'router-paper',
  summary:
    'the paper’s measurement: OpenVPN with stock roaming, then godwit past the same points (6 minutes)',
  topology: 'router',
  programs: PROGRAMS,
  paper: PAPER,
  async run(context) {
    context.start()
    for (const each of STOCK) {
      const { title, name, paper } = each
      const stock = await stockDrive(context, each)
      const typical =
        stock.losses.length > 0 ? percentile(stock.losses, 0.5) : stock.lost / Math.max(1, stock.changes)
      if (paper !== undefined)
        context.check(
          `OpenVPN, ${title}: lost at a change, median`,
          typical >= paper[0] / ORDER && typical <= paper[1] * ORDER,
          typical,
          `the order of the paper's ${paper[0]}${paper[0] === paper[1] ? '' : ` to ${paper[1]}`}`,
        )
      context.metric(`openvpn_${name}_changes`, stock.changes)
      context.metric(`openvpn_${name}_lost_packets_each`, typical)
      context.metric(`openvpn_${name}_lost_packets`, stock.losses)
      context.metric(`openvpn_${name}_gap_ms`, stock.gaps)
    }
    await godwitRows(context)
  },
}

export const routerPaperGodwit: Scenario = {
  name: 'router-paper-godwit',
  summary: 'godwit’s part of router-paper alone; --handovers for longer rows (3 minutes without)',
  topology: 'router',
  programs: PROGRAMS,
  paper: PAPER,
  async run(context) {
    context.start()
    await godwitRows(context)
  },
}

/** Half an order of magnitude either way. */
const ORDER = 3.2
