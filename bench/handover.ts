/**
 * Handovers of each kind in the lab: gap and loss of datagrams sent every 5 ms, beside a TCP download that is hashed. The
 * scenarios' own checks decide nothing here; a download that was not intact fails the bench.
 */
import { join } from 'node:path'
import { runScenario } from '../lab/index.ts'
import { GodwitError } from '../src/core/errors.ts'
import { type Bench, type BenchResult, machine, percentile, Recorder, round } from './harness.ts'

const SCENARIOS = ['upmt-make-before-break', 'upmt-break-before-make', 'upmt-blackhole']
/** The issue asks for a hundred of each; three rounds, the default, make them. */
const PER_ROUND = 34
const MOST = 100

export const handover: Bench = {
  name: 'handover',
  summary: 'gap and loss over up to 100 handovers of each kind, in the lab',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const handovers = Math.min(MOST, PER_ROUND * context.rounds)
    for (const scenario of SCENARIOS) {
      const { checks, metrics } = await runScenario(scenario, {
        handovers,
        seed: context.seed,
        out: join(context.out, scenario),
        signal: context.signal,
        log: (line) => context.progress(`${scenario}: ${line}`),
      })
      const intact = checks.find(({ name }) => name === 'download: every byte as sent')
      if (intact?.ok !== true)
        throw new GodwitError('BENCH_DATA', `${scenario}: the download was not intact: ${intact?.value}`)
      const { gap_ms, lost_packets, duplicated_packets } = metrics
      if (Array.isArray(gap_ms)) {
        for (const gap of gap_ms) recorder.add(`${scenario}-gap`, 'godwit', 'ms', round(gap))
        recorder.add(`${scenario}-gap-p95`, 'godwit', 'ms', round(percentile(gap_ms, 95)))
      }
      for (const [name, value] of Object.entries({ lost_packets, duplicated_packets }))
        if (typeof value === 'number') recorder.add(`${scenario}-${name}`, 'godwit', 'packets', value)
    }
    return { bench: this.name, machine: machine(), runs: recorder.runs(), ratios: {}, skipped: {} }
  },
}
