/**
 * Round trips through real daemons, one ping each 2 ms, answered by the far end's kernel: nothing but the tunnel is between.
 * `start`: the first four seconds after the daemons are up; `warm`: after 10,000 packets; `idle`: the second after twenty
 * without a packet; `moved`: the second after a move to another link; `loaded`: beside a TCP flow at full speed.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { GodwitError } from '../src/core/errors.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import { type Bed, cpuMs } from './bed.ts'
import { compareSubjects } from './compare.ts'
import { type Bench, percentile, round } from './harness.ts'
import { tcpThroughput } from './iperf.ts'
import { main } from './subjects/index.ts'
import { twoWires } from './topologies.ts'

usesPrograms('ping')

const INTERVAL_S = 0.002
const START_PINGS = 2000
const WARM_UP_PINGS = 10_000
const WARM_PINGS = 3000
const LATER_PINGS = 500
const IDLE_S = 20
const PERCENTILES = [50, 99, 99.9]

export const tunnelLatency: Bench = {
  name: 'tunnel-latency',
  summary:
    'round trips p50, p99 and p99.9: after the start, warm, after idling, after a move, beside a TCP flow',

  run(context) {
    return compareSubjects(this.name, context, {
      subjects: main,
      topology: twoWires,
      measure: async ({ bed, running, record }) => {
        const { target, pids } = running
        const measure = async (name: string, count: number) => {
          const samples = await ping(bed, target, count, INTERVAL_S)
          for (const p of PERCENTILES) record(`${name}-p${p}`, 'us', round(percentile(samples, p)))
        }
        await measure('start', START_PINGS)
        await ping(bed, target, WARM_UP_PINGS, 0)
        await measure('warm', WARM_PINGS)
        const before = pids && [cpuMs(pids.a), cpuMs(pids.b)]
        await sleep(IDLE_S * 1000, undefined, { signal: context.signal })
        if (pids && before)
          record(
            'idle-cpu',
            'ms/s',
            round((cpuMs(pids.a) + cpuMs(pids.b) - before[0]! - before[1]!) / IDLE_S),
          )
        await measure('idle', LATER_PINGS)
        if (running.move) {
          await running.move()
          await measure('moved', LATER_PINGS)
        }
        const load = tcpThroughput(bed, target, { seconds: Math.max(3, context.seconds) })
        await measure('loaded', LATER_PINGS)
        await load
      },
    })
  },
}

/** Round trips in µs. Interval 0: the next one as soon as the last has come back. */
async function ping(bed: Bed, target: string, count: number, interval: number): Promise<number[]> {
  const args = ['-n', '-c', `${count}`, '-i', `${interval}`, '-s', '100', '-W', '1', target]
  const samples = [...(await bed.a.run('ping', args)).matchAll(/ time=([\d.]+) ms/g)].map(
    ([, ms]) => Number(ms) * 1000,
  )
  if (samples.length < count * 0.9)
    throw new GodwitError('BENCH_PROGRAM', `ping: ${samples.length} answers of ${count}`)
  return samples
}
