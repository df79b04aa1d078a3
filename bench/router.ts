/**
 * The mobile router's figures (issue: how good), in the lab: lost packets of its handovers beside those of OpenVPN with stock
 * roaming on the same road in the same run, links cut, both links gone, links added up, a bad link, a budget of copies.
 * Each scenario's checks are its own; a scenario that fails them is measured all the same.
 */
import { join } from 'node:path'
import { runScenario } from '../lab/index.ts'
import type { ScenarioResult } from '../lab/types.ts'
import { type Bench, type BenchContext, type BenchResult, machine, Recorder, round } from './harness.ts'

/** Handovers, or cuts, of each kind a round. */
const EACH = 10
const OUTAGES = 5

type Metrics = ScenarioResult['metrics']

const list = (value: Metrics[string] | undefined): readonly number[] =>
  value === undefined ? [] : typeof value === 'number' ? [value] : value

/** What to run, how often a round, and what to take from its metrics: name, subject, unit, samples. */
interface Part {
  readonly scenario: string
  readonly handovers?: number
  take(metrics: Metrics): readonly (readonly [string, string, string, readonly number[]])[]
}

const PARTS: readonly Part[] = [
  {
    scenario: 'router-paper',
    take: (m) => [
      [
        'lost a change, one SSID, background scans',
        'openvpn',
        'packets',
        list(m.openvpn_scanning_lost_packets_each),
      ],
      ['lost a change, one SSID', 'openvpn', 'packets', list(m.openvpn_same_ssid_lost_packets_each)],
      ['lost a change, an SSID each', 'openvpn', 'packets', list(m.openvpn_different_ssid_lost_packets_each)],
      ['lost a change, one SSID', 'godwit', 'packets', each(m, 'godwit_same_ssid')],
      ['lost a change, an SSID each', 'godwit', 'packets', each(m, 'godwit_different_ssid')],
    ],
  },
  {
    scenario: 'router-seamless',
    handovers: EACH,
    take: (m) => [
      ['controlled handovers', 'godwit', 'count', list(m.handovers)],
      ['lost in controlled handovers', 'godwit', 'packets', list(m.lost_packets)],
    ],
  },
  {
    scenario: 'router-duplicate-cut',
    handovers: EACH,
    take: (m) => [
      ['cuts of a duplicated link', 'godwit', 'count', list(m.cuts)],
      ['lost at cuts of a duplicated link', 'godwit', 'packets', list(m.lost_packets)],
    ],
  },
  {
    scenario: 'router-failover-cut',
    handovers: EACH,
    take: (m) => [
      [
        'lost at a cut of the main link',
        'godwit',
        'packets',
        [...list(m.lost_packets_up), ...list(m.lost_packets_down)],
      ],
      ['silence at a cut, p95', 'godwit', 'ms', list(m.gap_ms_p95)],
    ],
  },
  {
    scenario: 'router-both-gone',
    handovers: OUTAGES,
    take: (m) => [
      ['first packet down after both were gone', 'godwit', 'ms', list(m.late_down_ms)],
      ['first packet up after both were gone', 'godwit', 'ms', list(m.late_up_ms)],
    ],
  },
  {
    scenario: 'router-budget',
    take: (m) => [
      ['lost on a fading link, no copies', 'godwit', 'packets', list(m.lost_packets_none)],
      ['lost on a fading link, all copied', 'godwit', 'packets', list(m.lost_packets_all)],
      ['lost on a fading link, at most 5 % copied', 'godwit', 'packets', list(m.lost_packets_budget)],
    ],
  },
  { scenario: 'router-aggregate', take: everything('aggregate') },
  { scenario: 'router-bad-link', take: everything('bad link') },
]

export const router: Bench = {
  name: 'router',
  summary: "the mobile router's handovers, cuts and sums of links, beside OpenVPN with stock roaming",

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    for (const part of PARTS) {
      const { metrics } = await measure(context, part)
      for (const [name, subject, unit, samples] of part.take(metrics))
        for (const sample of samples) recorder.add(name, subject, unit, round(sample))
    }
    return { bench: this.name, machine: machine(), runs: recorder.runs(), ratios: {}, skipped: {} }
  },
}

function measure(context: BenchContext, { scenario, handovers }: Part): Promise<ScenarioResult> {
  return runScenario(scenario, {
    ...(handovers !== undefined && { handovers: handovers * context.rounds }),
    seed: context.seed,
    out: join(context.out, scenario),
    signal: context.signal,
    log: (line) => context.progress(`${scenario}: ${line}`),
  })
}

function each(metrics: Metrics, name: string): readonly number[] {
  const [lost] = list(metrics[`${name}_lost_packets`])
  const [changes] = list(metrics[`${name}_changes`])
  return lost === undefined || changes === undefined ? [] : [lost / Math.max(1, changes)]
}

/** A scenario whose metrics are its figures; the unit is at the end of their names. */
function everything(title: string): Part['take'] {
  return (metrics) =>
    Object.entries(metrics).map(([name, value]) => [
      `${title}: ${name}`,
      'godwit',
      /_(mbps|ms|packets)$/.exec(name)?.[1] ?? '',
      list(value),
    ])
}
