/** A bus drives past a row of access points with two radios, and hands over again and again (OH-21 to OH-28). */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { PALETTE } from '../plot.ts'
import { driveBy, NO_SIGNAL_DBM } from '../radio.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { type Roaming, SimulatedRadio } from '../simulated-radio.ts'
import { figuresOf } from '../traffic.ts'
import { ACCESSES, drawDatagrams, lostAt, setUpRouters, startDatagrams, untilPaths } from './router-kit.ts'

const SPACING_M = 60
/** Metres a second, each for STRETCH_M: a tram, a bus in town, a bus on its way. */
const SPEEDS_MPS = [8, 12, 16, 20]
const STRETCH_M = 4 * SPACING_M
/** What a radio takes that knows its channels and keeps its lease. */
const QUICK_RADIO: RadioTimes = { scanMs: 300, associateMs: 400, addressMs: 600 }
/** Handovers per access point passed: the two radios take turns. */
const QUICK = 6

export interface RadioTimes {
  readonly scanMs: number
  readonly associateMs: number
  /** From association to an address. */
  readonly addressMs: number
}

export interface Row {
  /** Access points, one each SPACING_M. */
  readonly count: number
  readonly ssid: (index: number) => string
  readonly roaming: Roaming
  readonly accesses: readonly string[]
  readonly speedMps?: number | readonly number[]
  readonly times?: RadioTimes
  /** Seconds at the first point, while everything starts. */
  readonly standS?: number
}

/** Radios along a row of access points. */
export function radiosAlongRow(
  context: ScenarioContext,
  { count, ssid, roaming, accesses, speedMps = SPEEDS_MPS, times = QUICK_RADIO, standS = 0 }: Row,
): { readonly radios: readonly SimulatedRadio[]; readonly folder: string; readonly seconds: number } {
  const folder = join(context.out, 'radios')
  mkdirSync(folder, { recursive: true })
  const names = Array.from({ length: count }, (_, index) => `ap${index + 1}`)
  const trace = driveBy(Object.fromEntries(names.map((name, index) => [name, (index + 0.3) * SPACING_M])), {
    speedMps,
    stretchM: STRETCH_M,
    standS,
    lengthM: (count - 0.5) * SPACING_M,
  })
  const radios = accesses.map(
    (iface) =>
      new SimulatedRadio({
        folder,
        iface,
        trace,
        points: Object.fromEntries(names.map((name, index) => [name, ssid(index)])),
        rateMbps: 30,
        ...times,
        roaming,
        setLink: (change) => context.lab.setLink(iface, change),
        onChange: (what, dbm) => context.note(`${what} (${dbm.toFixed(0)} dBm)`, true),
      }),
  )
  return { radios, folder, seconds: trace.samples.at(-1)?.at ?? 0 }
}

/** The configuration of both radios, for `setUpRouters`. */
export function radioConfig(folder: string): string {
  return ACCESSES.map((iface) => `[[router.radio]]\ninterface = "${iface}"\nfolder = "${folder}"\n`).join(
    '\n',
  )
}

/** Signal of each radio, 0 for none, drawn above −100 dBm. */
export function watchSignals(
  context: ScenarioContext,
  radios: readonly SimulatedRadio[],
): { readonly panel: () => { unit: string; series: object[] }; stop(): void } {
  const points = radios.map(() => [] as [number, number][])
  const timer = setInterval(() => {
    for (const [index, radio] of radios.entries())
      points[index]!.push([context.seconds(), radio.point === undefined ? 0 : radio.dbm - NO_SIGNAL_DBM])
  }, 100)
  return {
    stop: () => clearInterval(timer),
    panel: () => ({
      unit: 'dB above −95 dBm',
      series: radios.map((_, index) => ({
        name: ACCESSES[index]!,
        colour: PALETTE[index]!,
        points: points[index]!,
      })),
    }),
  }
}

export const routerSeamless: Scenario = {
  name: 'router-seamless',
  summary: 'two radios past a row of access points: traffic first, then the radio, again and again',
  topology: 'router',
  paper: {
    lost_packets_per_handover: '600 (same SSID), 3600 to 5900 (different SSIDs), stock OpenVPN',
    seamless_handover: 'proposed, not measured',
  },
  async run(context) {
    const wanted = context.options.handovers ?? (context.options.full === true ? 100 : QUICK)
    const row: Row = { count: wanted + 3, ssid: () => 'row', roaming: 'none', accesses: ACCESSES }
    const { radios, folder, seconds } = radiosAlongRow(context, row)
    const signals = watchSignals(context, radios)
    try {
      const routers = await setUpRouters(context, { scheduler: 'failover', radios: radioConfig(folder) })
      await untilPaths(context, routers)
      const before = radios.reduce((sum, { changes }) => sum + changes, 0)
      context.start()
      const flow = await startDatagrams(context)
      const done = () => radios.reduce((sum, { changes }) => sum + changes, 0) - before
      while (done() < wanted && context.seconds() < seconds) await context.sleep(200)
      await context.sleep(2500)
      const handovers = done()
      const report = await flow.finish(context)
      const view = await routers.mobile.json<{ controller: { violations: number; moves: number } }>(
        'router',
        'classes',
      )
      const [up, down] = [figuresOf(report.up), figuresOf(report.down)]
      const lost = up.lost + down.lost
      context.check('handovers of radios', handovers >= Math.min(wanted, 4), handovers, `${wanted} in a row`)
      context.check('datagrams lost', lost === 0, lost, '0')
      context.check(
        'datagrams seen twice',
        up.duplicated + down.duplicated === 0,
        up.duplicated + down.duplicated,
        '0',
      )
      context.check('last link let go', view.controller.violations === 0, view.controller.violations, 'never')
      context.metric('handovers', handovers)
      context.metric('lost_packets', lost)
      context.metric('lost_up_at_s', lostAt(context, report.up))
      context.metric('lost_down_at_s', lostAt(context, report.down))
      context.metric('reordered_packets', up.reordered + down.reordered)
      context.metric('controlled_moves', view.controller.moves)
      drawDatagrams(context, 'Two radios past a row of access points', report, [signals.panel()] as never)
    } finally {
      signals.stop()
      for (const radio of radios) radio.close()
    }
  },
}
