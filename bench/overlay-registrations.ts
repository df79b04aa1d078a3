/**
 * What a registration costs a coordinator, by how many nodes it has: CPU time of first registrations (session, address and lease, committed in
 * batches of up to 128) and of repeated ones, and memory per node. One process without its socket, with the nodes that load it; SQLite.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Bench, type BenchResult, machine, Recorder, round } from './harness.ts'
import { Load } from './overlay-coordinators.ts'

const SIZES = (process.env.GODWIT_BENCH_SIZES ?? '1000,10000,100000').split(',').map(Number)

export const overlayRegistrations: Bench = {
  name: 'overlay-registrations',
  summary: 'CPU time per registration at a coordinator and memory per node, by number of nodes',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    for (let i = 0; i < context.rounds; i++) {
      const folder = mkdtempSync(join(tmpdir(), 'godwit-bench-'))
      const store = { file: join(folder, 'overlay.db') }
      const load = new Load({ zone: 'test.example', store, first: 0, count: 0, all: 0 })
      try {
        for (const size of SIZES) {
          const subject = `${size}-nodes`
          const first = await load.phase(`grow ${size}`)
          const again = await load.phase('again')
          const add = (name: string, unit: string, sample: number) => {
            recorder.add(name, subject, unit, round(sample))
            context.progress(`${name}, ${subject}: ${round(sample)} ${unit}`)
          }
          add('first', 'cpu_us', (1000 * first.cpu) / first.count)
          add('first-mean', 'cpu_us', 1000 * (first.mean ?? 0))
          add('first-clock', 'us', (1000 * first.ms) / first.count)
          add('again', 'cpu_us', (1000 * again.cpu) / again.count)
          add('memory', 'bytes', first.bytes ?? 0)
          context.signal.throwIfAborted()
        }
      } finally {
        await load.stop()
        rmSync(folder, { recursive: true, force: true })
      }
    }
    const runs = recorder.runs()
    const [least, most] = [Math.min(...SIZES), Math.max(...SIZES)].map((size) => `${size}-nodes`)
    const ratios = Object.fromEntries(
      ['first', 'again', 'memory'].map((name) => [
        `${name} ${most}/${least}`,
        recorder.ratio([name, most!], [name, least!]),
      ]),
    )
    return { bench: this.name, machine: machine(), runs, ratios, skipped: {} }
  },
}
