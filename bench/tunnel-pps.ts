/** Datagrams per second that arrive through each tunnel, of 64 and of 1,400 bytes. */
import { compareSubjects } from './compare.ts'
import type { Bench } from './harness.ts'

const SIZES = [64, 1400]

interface IperfUdpReport {
  readonly end: {
    readonly sum: { readonly packets: number; readonly lost_packets: number; readonly seconds: number }
  }
}

export const tunnelPps: Bench = {
  name: 'tunnel-pps',
  summary: 'UDP datagrams delivered per second, 64 and 1,400 bytes, sender unlimited',

  run(context) {
    return compareSubjects(this.name, context, async ({ bed, target, record }) => {
      for (const size of SIZES) {
        const server = bed.b.start('iperf3', ['-s', '-1', '-p', '5201'])
        await bed.until(() => bed.b.listens(5201), 'iperf3 to listen')
        const args = [
          '-c',
          target,
          '-p',
          '5201',
          '-u',
          '-b',
          '0',
          '-l',
          String(size),
          '-t',
          String(context.seconds),
          '-J',
        ]
        const { packets, lost_packets, seconds } = (
          JSON.parse(await bed.a.run('iperf3', args)) as IperfUdpReport
        ).end.sum
        await server.stop()
        record(`udp-${size}`, 'pps', Math.round((packets - lost_packets) / seconds))
      }
    })
  },
}
