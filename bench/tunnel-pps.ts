/** Datagrams per second that arrive through each tunnel, of 64 and of 1,300 bytes: whole inside every tunnel here. */
import { compareSubjects } from './compare.ts'
import type { Bench } from './harness.ts'
import { datagramRate } from './iperf.ts'

const SIZES = [64, 1300]

export const tunnelPps: Bench = {
  name: 'tunnel-pps',
  summary: 'UDP datagrams delivered per second, 64 and 1,300 bytes, sender unlimited',

  run(context) {
    return compareSubjects(this.name, context, {
      measure: async ({ bed, running, record }) => {
        for (const size of SIZES)
          for (const way of ['up', 'down'] as const)
            record(
              `udp-${size}-${way}`,
              'pps',
              await datagramRate(bed, running.target, size, context.seconds, way),
            )
      },
    })
  },
}
