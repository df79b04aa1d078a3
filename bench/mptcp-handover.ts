/**
 * One upload and one download through the MPTCP proxy to a server with the kernel's MPTCP, moved by hand to another wire in the middle:
 * throughput before, and after it once the kernel has the connection again.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Godwit } from '../lab/product.ts'
import type { ConnectionView } from '../src/host/provisioning/mptcp.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import { Bed, type Program } from './bed.ts'
import { type Bench, type BenchResult, machine, Recorder, round } from './harness.ts'
import { tcpThroughput, WARM_UP_S } from './iperf.ts'
import { twoWires } from './topologies.ts'

usesPrograms('mptcpize')

const ACCESSES = ['eth0', 'eth1'] as const
/** From the handover until throughput counts: both subflows are in use for a while, and the new one opens its window. */
const SETTLE_S = 2

export const mptcpHandover: Bench = {
  name: 'mptcp-handover',
  summary: 'MPTCP proxy: throughput of one flow after a handover beside before, on links without limits',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const bed = await Bed.open(twoWires)
    const godwit = new Godwit(bed, 'mh')
    const daemon = await godwit.daemon('mptcp', 'up')
    // It names the network namespace.
    const witness = bed.a.start('sleep', ['infinity'])
    try {
      for (let again = 1; again <= context.rounds; again++)
        for (const way of ['up', 'down'] as const) {
          context.signal.throwIfAborted()
          const seconds = 2 * context.seconds + SETTLE_S
          const before = { client: [], server: ['mptcpize', 'run'] }
          const flow = tcpThroughput(bed, bed.b.address, { seconds, way, before })
          const began = performance.now()
          const since = (s: number) => sleep(Math.max(0, began + s * 1000 - performance.now()))
          const measured = async (when: string, access: string, start: number) => {
            await since(start)
            const [bytes, at] = [bytesOf(witness, access, way), performance.now()]
            await since(start + context.seconds - 1)
            const mbps = ((bytesOf(witness, access, way) - bytes) * 8) / (performance.now() - at) / 1000
            recorder.add(`tcp-${way}`, when, 'mbps', round(mbps))
            context.progress(`round ${again} of ${context.rounds}: ${way}, ${when}: ${round(mbps)} mbps`)
          }
          await bed.until(() => inKernel(godwit, ACCESSES[0]), 'the kernel to have the flow')
          await measured('before', ACCESSES[0], WARM_UP_S)
          const [flowing] = await connections(godwit)
          await godwit.run('mptcp', 'handover', flowing!.id, ACCESSES[1])
          await bed.until(() => inKernel(godwit, ACCESSES[1]), 'the kernel to have the flow again')
          await measured('after', ACCESSES[1], WARM_UP_S + context.seconds + SETTLE_S - 1)
          await flow
        }
    } finally {
      await witness.stop()
      await daemon.stop()
      await bed.close()
    }
    const ratios = recorder.ratios('after')
    return { bench: this.name, machine: machine(), runs: recorder.runs(), ratios, skipped: {} }
  },
}

/** Those that carry something, the busiest first: iperf3 has another for its own use. */
async function connections(godwit: Godwit): Promise<ConnectionView[]> {
  const found = await godwit.json<{ connections: ConnectionView[] }>('mptcp', 'connections')
  const bytes = (each: ConnectionView) => each.acknowledged_bytes + each.received_bytes
  return found.connections.sort((a, b) => bytes(b) - bytes(a))
}

async function inKernel(godwit: Godwit, access: string): Promise<boolean> {
  const [flow] = await connections(godwit)
  const active = flow?.subflows.find(({ id }) => id === flow.active)
  const ready = flow?.subflows.filter(({ state }) => state === 'active').length ?? 0
  return flow?.path === 'kernel' && active?.access === access && ready > 1
}

/** What crossed the device of host a so far. */
function bytesOf(witness: Program, device: string, way: 'up' | 'down'): number {
  const text = readFileSync(`/proc/${witness.pid}/net/dev`, 'utf8')
  const fields = new RegExp(`^\\s*${device}:\\s*(.*)$`, 'm').exec(text)![1]!.split(/\s+/).map(Number)
  return fields[way === 'up' ? 8 : 0]!
}
