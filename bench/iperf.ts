/** iperf3 between the hosts of a bed. */
import { GodwitError } from '../src/core/errors.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import type { Bed } from './bed.ts'

usesPrograms('iperf3')

const PORT = '5201'
/** BBR goes by its model of the path, which any pause changes; and the two ends of a machine may default to different ones. */
const CONGESTION_CONTROL = 'cubic'
/** Seconds left out at the start, of every subject: windows grow, and a compiler compiles. */
export const WARM_UP_S = 2

interface TcpReport {
  readonly end: {
    readonly sum_received: { readonly bits_per_second: number }
    readonly sender_tcp_congestion: string
    readonly receiver_tcp_congestion: string
  }
}

interface UdpReport {
  readonly end: {
    readonly sum: { readonly packets: number; readonly lost_packets: number; readonly seconds: number }
  }
}

export interface TcpOptions {
  readonly flows?: number
  readonly seconds: number
  /** `up`: host a sends; `down`: host b does. */
  readonly way?: 'up' | 'down'
  /** Host a's address. */
  readonly source?: string
  /** What each end is started with. */
  readonly before?: Before
}

export interface Before {
  readonly client: readonly string[]
  readonly server: readonly string[]
}

/** TCP between host a and `target` on host b: Mbit/s received. */
export async function tcpThroughput(bed: Bed, target: string, options: TcpOptions): Promise<number> {
  const { flows = 1, seconds, way = 'up', source, before } = options
  const args = [
    ...['-C', CONGESTION_CONTROL, '-t', `${seconds}`, '-O', `${WARM_UP_S}`, '-P', `${flows}`],
    ...(way === 'down' ? ['-R'] : []),
    ...(source === undefined ? [] : ['-B', source]),
  ]
  const report = await run<TcpReport>(bed, target, args, before)
  const { sum_received, sender_tcp_congestion, receiver_tcp_congestion } = report.end
  for (const used of [sender_tcp_congestion, receiver_tcp_congestion])
    if (used !== CONGESTION_CONTROL) throw new GodwitError('BENCH_PROGRAM', `iperf3 used ${used}`)
  return Math.round(sum_received.bits_per_second / 1e6)
}

/** Datagrams of `size` bytes that arrived per second, the sender unlimited. */
export async function datagramRate(
  bed: Bed,
  target: string,
  size: number,
  seconds: number,
  way: 'up' | 'down' = 'up',
): Promise<number> {
  const args = ['-u', '-b', '0', '-l', `${size}`, '-t', `${seconds}`, ...(way === 'down' ? ['-R'] : [])]
  const { sum } = (await run<UdpReport>(bed, target, args)).end
  return Math.round((sum.packets - sum.lost_packets) / sum.seconds)
}

async function run<Report>(
  bed: Bed,
  target: string,
  args: readonly string[],
  before: Before = { client: [], server: [] },
): Promise<Report> {
  const [program, ...first] = [...before.server, 'iperf3']
  const server = bed.b.start(program!, [...first, '-s', '-1', '-p', PORT])
  try {
    await bed.until(() => bed.b.listens(Number(PORT)), 'iperf3 to listen')
    const [client, ...own] = [...before.client, 'iperf3']
    return JSON.parse(await bed.a.run(client!, [...own, '-c', target, '-p', PORT, '-J', ...args])) as Report
  } finally {
    await server.stop()
  }
}
