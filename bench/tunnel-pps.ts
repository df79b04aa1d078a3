/** Datagrams per second that arrive through each tunnel, of 64 and of 1,400 bytes. */
import { Bed } from './bed.ts'
import { type Bench, type BenchResult, machine, Recorder } from './harness.ts'
import { available, OURS } from './subjects/index.ts'

const SIZES = [64, 1400]

interface IperfUdpReport {
  readonly end: {
    readonly sum: { readonly packets: number; readonly lost_packets: number; readonly seconds: number }
  }
}

export const tunnelPps: Bench = {
  name: 'tunnel-pps',
  summary: 'UDP datagrams delivered per second, 64 and 1,400 bytes, sender unlimited',

  async run(context): Promise<BenchResult> {
    const { subjects, skipped } = available()
    const recorder = new Recorder()
    for (let round = 1; round <= context.rounds; round++) {
      for (const subject of subjects) {
        context.signal.throwIfAborted()
        const bed = new Bed()
        try {
          const running = await subject.start(bed)
          for (const size of SIZES) {
            const server = bed.b.start('iperf3', ['-s', '-1', '-p', '5201'])
            await bed.until(() => bed.b.listens(5201), 'iperf3 to listen')
            const report = JSON.parse(
              await bed.a.run('iperf3', [
                ...['-c', running.target, '-p', '5201', '-u', '-b', '0', '-l', String(size)],
                ...['-t', String(context.seconds), '-J'],
              ]),
            ) as IperfUdpReport
            await server.stop()
            const { packets, lost_packets, seconds } = report.end.sum
            recorder.add(`udp-${size}`, subject.name, 'pps', Math.round((packets - lost_packets) / seconds))
            context.progress(
              `round ${round}: ${subject.name}, ${size} bytes: ${Math.round((packets - lost_packets) / seconds)} pps`,
            )
          }
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
