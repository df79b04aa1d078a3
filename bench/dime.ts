/**
 * Address translation (DIME): throughput of a TCP flow after a handover beside the same flow before it, the time from an
 * address to the switch, and what one move of a host with 10,000 connections to 100 hosts costs.
 */
import { fileURLToPath } from 'node:url'
import { ControlClient } from '../src/host/client.ts'
import { Rtnetlink } from '../src/linux/rtnetlink/index.ts'
import { SockDiag } from '../src/linux/sockdiag.ts'
import { KernelSysctls } from '../src/linux/sysctl.ts'
import { StackTransKernel } from '../src/translation/kernel.ts'
import { findFlows } from '../src/translation/sockets.ts'
import { compile } from '../src/translation/tables.ts'
import { SimNetwork } from '../test/sim/translation/network.ts'
import { Bed, type Program } from './bed.ts'
import { type Bench, type BenchContext, type BenchResult, machine, Recorder, round } from './harness.ts'

const GODWIT = fileURLToPath(new URL('../src/cli/main.js', import.meta.url))
const FIRST = '10.90.0.1'
const SECOND = '10.90.0.3'
const HOSTS = 100
const CONNECTIONS = 10_000

interface IperfReport {
  readonly intervals: readonly { readonly sum: { readonly end: number; readonly bits_per_second: number } }[]
}

export const dime: Bench = {
  name: 'dime',
  summary:
    'address translation: TCP after a handover ÷ before, time to switch, cost of moving 10,000 connections',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const shares: number[] = []
    for (let i = 0; i < context.rounds; i++) {
      const { before, after, switchMs } = await oneMove(context)
      shares.push(after / before)
      recorder.add('dime-tcp-before', 'godwit', 'mbps', Math.round(before))
      recorder.add('dime-tcp-after', 'godwit', 'mbps', Math.round(after))
      recorder.add('dime-address-up-to-switch', 'godwit', 'ms', round(switchMs))
      context.progress(
        `round ${i + 1}: ${before.toFixed(0)} then ${after.toFixed(0)} Mbit/s, ${switchMs.toFixed(1)} ms`,
      )
      context.signal.throwIfAborted()
    }
    for (let i = 0; i < context.rounds; i++) {
      const cost = await moveMany()
      recorder.add('dime-move-10000-connections', 'godwit', 'cpu-ms', round(cost.cpuMs))
      recorder.add('dime-move-100-hosts', 'godwit', 'exchanges', cost.exchanges)
      context.progress(
        `10,000 connections to 100 hosts: ${cost.cpuMs.toFixed(0)} ms of CPU, ${cost.exchanges} exchanges`,
      )
    }
    shares.sort((a, b) => a - b)
    return {
      bench: this.name,
      machine: machine(),
      runs: recorder.runs(),
      ratios: { 'tcp after/before': round(shares[Math.floor(shares.length / 2)]!) },
      skipped: {},
    }
  },
}

/** One TCP flow on a bare link, moved in its middle. */
async function oneMove(context: BenchContext): Promise<{ before: number; after: number; switchMs: number }> {
  const bed = new Bed()
  const programs: Program[] = []
  const rtnl = new Rtnetlink(bed.a.netns)
  // The second address is of the same subnet: it must stay when the first goes.
  new KernelSysctls(bed.a.netns).set('net.ipv4.conf.all.promote_secondaries', 1)
  try {
    for (const host of [bed.b, bed.a]) {
      const state = bed.directory(host === bed.a ? 'a' : 'b')
      const daemon = host.start(process.execPath, [GODWIT, 'dime', 'up', '--state', state])
      programs.push(daemon)
      await bed.until(() => daemon.output().includes('ready'), 'the daemon')
    }
    const server = bed.b.start('iperf3', ['-s', '-1'])
    programs.push(server)
    await bed.until(() => bed.b.listens(5201), 'iperf3 to listen')
    const half = context.seconds
    const args = ['-c', bed.b.address, '-t', String(2 * half + 2), '-i', '0.5', '-J']
    const running = bed.a.run('iperf3', args)
    const client = new ControlClient(`${bed.directory('a')}/control.sock`)
    await new Promise((done) => setTimeout(done, (half + 1) * 1000))
    const at = Date.now()
    rtnl.addAddress('eth0', `${SECOND}/24`)
    rtnl.deleteAddress('eth0', `${FIRST}/24`)
    const report = JSON.parse(await running) as IperfReport
    const { handovers } = await client.get<{ handovers: { at: number }[] }>('/v1/status')
    const rates = (from: number, to: number): number => {
      const chosen = report.intervals.filter(({ sum }) => sum.end > from && sum.end <= to)
      return chosen.reduce((total, { sum }) => total + sum.bits_per_second, 0) / chosen.length / 1e6
    }
    return {
      before: rates(1, half + 0.9),
      after: rates(half + 2, 2 * half + 2),
      switchMs: (handovers.at(-1)?.at ?? Number.NaN) - at,
    }
  } finally {
    for (const program of programs) await program.stop()
    rtnl.close()
    await bed.close()
  }
}

/**
 * The daemon's share of one move, on its real parts: sockets read from the kernel, messages signed and verified, tables
 * compiled and written to the kernel. The hundred other hosts are machines on a simulated network.
 */
async function moveMany(): Promise<{ cpuMs: number; exchanges: number }> {
  const bed = new Bed()
  const kernel = new StackTransKernel({ table: 'godwit_bench_dime', watch: false, netns: bed.a.netns })
  const diag = new SockDiag(bed.a.netns)
  try {
    const opener = fileURLToPath(new URL('./programs/connections.js', import.meta.url))
    const server = bed.b.start(process.execPath, [opener, 'server'])
    await bed.until(() => server.output().includes('ready'), 'the server')
    const client = bed.a.start(process.execPath, [opener, 'client', bed.b.address, String(CONNECTIONS)])
    await bed.until(() => client.output().includes('ready'), '10,000 connections')

    const net = new SimNetwork()
    net.delay = 1
    const mobile = net.host()
    mobile.set('10.1.0.2/24')
    for (let i = 0; i < HOSTS; i++) {
      const ip = `10.3.${i}.2`
      const other = net.host()
      other.set(`${ip}/24`)
      other.flows.push({ local: ip, foreign: '10.1.0.2' })
      for (let j = 0; j < CONNECTIONS / HOSTS; j++)
        mobile.flow('10.1.0.2', 20_000 + i * (CONNECTIONS / HOSTS) + j, ip, 80)
    }
    net.run(5_000)
    const before = mobile.machine.stats.exchanges
    mobile.preferred = '10.2.0.2'
    let spent = 0
    const measured = <T>(work: () => T): T => {
      const from = process.cpuUsage()
      const result = work()
      const used = process.cpuUsage(from)
      spent += used.user + used.system
      return result
    }
    measured(() => findFlows(diag, [], new Set([FIRST]), 55_404))
    net.measure = (host, work) => {
      if (host === mobile) measured(work)
      else work()
    }
    net.apply = (host) => {
      if (host === mobile) measured(() => kernel.apply(compile(mobile.tables)))
    }
    mobile.addresses = [{ ip: '10.2.0.2', prefixLength: 24, device: 'acc' }]
    measured(() => mobile.machine.handleLocal(mobile.addresses, net.now))
    net.run(net.now + 100)
    return { cpuMs: spent / 1000, exchanges: mobile.machine.stats.exchanges - before }
  } finally {
    kernel.cleanUp()
    kernel.close()
    diag.close()
    await bed.close()
  }
}
