/** Round trips of 100-byte datagrams, on an idle tunnel and beside one TCP flow at full speed: p50 and p99. */
import { fileURLToPath } from 'node:url'
import { compareSubjects } from './compare.ts'
import { type Bench, percentile } from './harness.ts'
import { iperf } from './tunnel-tcp.ts'

const PORT = 7007
const PINGS = 400
const program = fileURLToPath(new URL('./programs/pingpong.js', import.meta.url))

export const tunnelLatency: Bench = {
  name: 'tunnel-latency',
  summary: 'UDP round trip p50 and p99, idle and beside a TCP flow at full speed',

  run(context) {
    return compareSubjects(this.name, context, async ({ bed, target, record }) => {
      const server = bed.b.start(process.execPath, [program, 'serve', String(PORT)])
      await bed.until(() => bed.b.listens(PORT, 'udp'), 'the echo program to listen')
      const measure = async (name: string) => {
        const args = [program, 'ping', target, String(PORT), String(PINGS)]
        const { samples_us } = JSON.parse(await bed.a.run(process.execPath, args)) as { samples_us: number[] }
        for (const p of [50, 99]) record(`${name}-p${p}`, 'us', Math.round(percentile(samples_us, p)))
      }
      await measure('idle')
      const load = iperf(bed, target, 1, Math.max(3, context.seconds))
      await measure('loaded')
      await load
      await server.stop()
    })
  },
}
