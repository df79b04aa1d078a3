/** Round trips of 100-byte datagrams, on an idle tunnel and beside one TCP flow at full speed: p50 and p99. */
import { fileURLToPath } from 'node:url'
import { Bed } from './bed.ts'
import { type Bench, type BenchResult, machine, percentile, Recorder } from './harness.ts'
import { available, OURS } from './subjects/index.ts'
import { iperf } from './tunnel-tcp.ts'

const PORT = 7007
const PINGS = 400
const program = fileURLToPath(new URL('./programs/pingpong.js', import.meta.url))

export const tunnelLatency: Bench = {
  name: 'tunnel-latency',
  summary: 'UDP round trip p50 and p99, idle and beside a TCP flow at full speed',

  async run(context): Promise<BenchResult> {
    const { subjects, skipped } = available()
    const recorder = new Recorder()
    for (let round = 1; round <= context.rounds; round++) {
      for (const subject of subjects) {
        context.signal.throwIfAborted()
        const bed = new Bed()
        try {
          const running = await subject.start(bed)
          const server = bed.b.start(process.execPath, [program, 'serve', String(PORT)])
          await bed.until(() => bed.b.listens(PORT, 'udp'), 'the echo program to listen')
          const measure = async (name: string) => {
            const args = [program, 'ping', running.target, String(PORT), String(PINGS)]
            const { samples_us } = JSON.parse(await bed.a.run(process.execPath, args)) as {
              samples_us: number[]
            }
            for (const p of [50, 99]) {
              recorder.add(`${name}-p${p}`, subject.name, 'us', Math.round(percentile(samples_us, p)))
            }
            context.progress(
              `round ${round}: ${subject.name}, ${name}: p50 ${Math.round(percentile(samples_us, 50))} µs`,
            )
          }
          await measure('idle')
          const load = iperf(bed, running.target, 1, Math.max(3, context.seconds))
          await measure('loaded')
          await load
          await server.stop()
          await running.stop()
        } finally {
          await bed.close()
        }
      }
    }
    return {
      bench: this.name,
      machine: machine(),
      runs: recorder.runs(),
      ratios: recorder.ratios(OURS),
      skipped,
    }
  },
}
