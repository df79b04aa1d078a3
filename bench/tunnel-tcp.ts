/** TCP through each tunnel, one flow and eight, beside the bare link: how much of the machine the tunnel leaves. */
import type { Bed } from './bed.ts'
import { compareSubjects } from './compare.ts'
import type { Bench } from './harness.ts'

const FLOWS = [1, 8]
/** Seconds left out at the start, of every subject: windows grow, and a compiler compiles. */
const WARM_UP_S = 2

interface IperfReport {
  readonly end: { readonly sum_received: { readonly bits_per_second: number } }
}

/** One iperf3 run from host a (its address `source`) to `target` on host b; received Mbit/s. */
export async function iperf(
  bed: Bed,
  target: string,
  flows: number,
  seconds: number,
  source?: string,
): Promise<number> {
  const server = bed.b.start('iperf3', ['-s', '-1', '-p', '5201'])
  try {
    await bed.until(() => bed.b.listens(5201), 'iperf3 to listen')
    const args = [
      '-c',
      target,
      '-p',
      '5201',
      '-t',
      String(seconds),
      '-O',
      String(WARM_UP_S),
      '-P',
      String(flows),
      '-J',
      ...(source === undefined ? [] : ['-B', source]),
    ]
    const report = JSON.parse(await bed.a.run('iperf3', args)) as IperfReport
    return report.end.sum_received.bits_per_second / 1e6
  } finally {
    await server.stop()
  }
}

export const tunnelTcp: Bench = {
  name: 'tunnel-tcp',
  summary: 'TCP throughput, one and eight flows: godwit, bare veth, OpenVPN, wireguard-go, nebula',

  run(context) {
    return compareSubjects(this.name, context, async ({ bed, target, record }) => {
      for (const flows of FLOWS)
        record(`tcp-${flows}`, 'mbps', Math.round(await iperf(bed, target, flows, context.seconds)))
    })
  },
}
