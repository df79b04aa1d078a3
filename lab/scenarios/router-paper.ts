/**
 * The paper's own experiment (Ohshima §III, Table): one radio, OpenVPN, stock roaming, a datagram every 5 ms from terminal
 * to server, lost datagrams for each change of access point. Once with one SSID on all points (roams eagerly), once with
 * an SSID for each (clings).
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Program } from '../hosts.ts'
import { monotonicMs } from '../programs/program.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { addressOf } from '../topology.ts'
import { figuresOf } from '../traffic.ts'
import { drawDatagrams, INTERVAL_MS, startDatagrams } from './router-kit.ts'
import { radiosAlongRow, watchSignals } from './router-roam.ts'

const PORT = 1194
/** Points passed and metres a second: for three changes, and for two. */
const DRIVES = { eager: { points: 5, speed: 6 }, clinging: { points: 8, speed: 6 } }

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

/** One drive with one radio; lost datagrams for each outage. */
async function stockDrive(
  context: ScenarioContext,
  roaming: 'eager' | 'clinging',
): Promise<{ losses: number[]; gaps: number[] }> {
  context.lab.setLink('acc2', { state: 'down' })
  const { radios, seconds } = radiosAlongRow(
    context,
    DRIVES[roaming].points,
    roaming,
    ['acc1'],
    (index) => (roaming === 'eager' ? 'row' : `row-${index + 1}`),
    DRIVES[roaming].speed,
  )
  const signals = watchSignals(context, radios)
  const startedAt = monotonicMs()
  let programs: Program[] = []
  try {
    while (radios[0]!.point === undefined) await context.sleep(100)
    programs = await startOpenVpn(context)
    const flow = await startDatagrams(context)
    await context.sleep(Math.max(0, startedAt + seconds * 1000 - monotonicMs()))
    const report = await flow.finish(context)
    const { losses, gaps } = outages(report.up.arrivals)
    context.note(`${roaming}: ${figuresOf(report.up).lost} lost in all; at each change ${losses.join(', ')}`)
    drawDatagrams(context, `Stock roaming (${roaming}) with OpenVPN`, report, [signals.panel()] as never)
    return { losses, gaps }
  } finally {
    signals.stop()
    for (const radio of radios) radio.close()
    for (const program of programs) await program.stop()
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
  let before = arrivals[0]?.[1] ?? 0
  for (let sequence = arrivals[0]?.[0] ?? 0; sequence <= last; sequence++) {
    const at = seen.get(sequence)
    if (at === undefined) {
      lost++
      well = 0
      continue
    }
    // A few that get through in between end nothing.
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

export const routerPaper: Scenario = {
  name: 'router-paper',
  summary: 'the paper’s measurement: OpenVPN and stock roaming, one SSID and one for each point',
  topology: 'router',
  paper: {
    same_ssid_lost_packets: 'about 600',
    different_ssid_lost_packets: 'about 3600 to 5900',
  },
  async run(context) {
    context.start()
    writeFileSync(join(context.out, 'note.txt'), 'OpenVPN in user space, --float, keepalive 10 60\n')
    const same = await stockDrive(context, 'eager')
    const different = await stockDrive(context, 'clinging')
    const [least, most] = [Math.min(...different.losses), Math.max(...different.losses)]
    const typical = [...same.losses].sort((a, b) => a - b)[Math.floor(same.losses.length / 2)] ?? 0
    context.check(
      'one SSID: lost at a change, median',
      typical >= 200 && typical <= 2000,
      typical,
      'as the paper: about 600',
    )
    context.check(
      'an SSID each: lost at a change',
      least >= 1500 && most <= 12_000,
      different.losses.join(', '),
      'as the paper: 3600 to 5900',
    )
    context.metric('same_ssid_lost_packets', same.losses)
    context.metric('same_ssid_gap_ms', same.gaps)
    context.metric('different_ssid_lost_packets', different.losses)
    context.metric('different_ssid_gap_ms', different.gaps)
  },
}
