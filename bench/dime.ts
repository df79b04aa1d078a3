/**
 * Address translation (DIME): throughput of a TCP flow after a handover beside the same flow before it, the time from an
 * address to the switch, and what one move of a host with 10,000 connections to 100 hosts costs.
 */
import { getPriority, setPriority } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { ControlClient } from '../src/host/control/client.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import { raisePriority } from '../src/linux/proc.ts'
import { Rtnetlink } from '../src/linux/rtnetlink/index.ts'
import { KernelSysctls } from '../src/linux/sysctl.ts'
import { IHMP_PORT } from '../src/translation/service.ts'
import { Bed, cpuMs, type Program } from './bed.ts'
import { type Bench, type BenchContext, type BenchResult, machine, Recorder, round } from './harness.ts'

usesPrograms('iperf3', 'tcpdump')

const GODWIT = fileURLToPath(new URL('../src/cli/main.js', import.meta.url))
const FIRST = '10.90.0.1'
const SECOND = '10.90.0.3'
const HOSTS = 100
const CONNECTIONS = 10_000
/** After a move, for what follows it. */
/** So many hosts take their time where other work runs. */
const MANY_MS = 120_000
const SETTLE_MS = 1_000
/** Of tcpdump: the kernel's time of the first packet that passes the filter. */
const FIRST_PACKET = ['-i', 'eth0', '-n', '-tt', '-l', '--immediate-mode', '-c', '1']
const program = (name: string): string => fileURLToPath(new URL(`./programs/${name}.js`, import.meta.url))

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
      recorder.add('dime-move-100-hosts-time', 'godwit', 'ms', Math.round(cost.movedMs))
      context.progress(
        `10,000 connections to 100 hosts: ${cost.cpuMs.toFixed(0)} ms of CPU, ${cost.exchanges} exchanges, all in ${cost.movedMs.toFixed(0)} ms`,
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

/** One TCP flow on a bare link, moved in its middle. The switch is its first packet from the new address, in a capture. */
async function oneMove(context: BenchContext): Promise<{ before: number; after: number; switchMs: number }> {
  const bed = await Bed.open()
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
    // CUBIC finds what the machine can do; BBR goes by its model of the path, which any pause changes.
    const args = ['-c', bed.b.address, '-C', 'cubic', '-t', String(2 * half + 2), '-i', '0.5', '-J']
    const running = bed.a.run('iperf3', args)
    await sleep((half + 1) * 1000)
    // Not there while the rates are taken.
    const capture = bed.b.start('tcpdump', [...FIRST_PACKET, `tcp and src host ${SECOND}`])
    programs.push(capture)
    await bed.until(() => capture.output().includes('listening on'), 'tcpdump')
    // Between the clock and the address this program must not wait for a CPU.
    const priority = getPriority()
    raisePriority()
    const at = performance.timeOrigin + performance.now()
    rtnl.addAddress('eth0', `${SECOND}/24`)
    rtnl.deleteAddress('eth0', `${FIRST}/24`)
    setPriority(priority)
    const report = JSON.parse(await running) as IperfReport
    const rates = (from: number, to: number): number => {
      const chosen = report.intervals.filter(({ sum }) => sum.end > from && sum.end <= to)
      return chosen.reduce((total, { sum }) => total + sum.bits_per_second, 0) / chosen.length / 1e6
    }
    return {
      before: rates(1, half + 0.9),
      after: rates(half + 2, 2 * half + 2),
      switchMs: Number(/^(\d+\.\d+) IP/m.exec(capture.output())?.[1]) * 1000 - at,
    }
  } finally {
    for (const program of programs) await program.stop()
    rtnl.close()
    await bed.close()
  }
}

/**
 * What one move costs the daemon of a host with 10,000 connections to 100 hosts: CPU time of its process from the change
 * of address until a second later, and messages acknowledged. The other hosts are protocol machines in one program.
 */
async function moveMany(): Promise<{ cpuMs: number; exchanges: number; movedMs: number }> {
  const bed = await Bed.open()
  const programs: Program[] = []
  const rtnl = { a: new Rtnetlink(bed.a.netns), b: new Rtnetlink(bed.b.netns) }
  const start = async (host: Bed['a'], args: readonly string[], what: string): Promise<Program> => {
    const program = host.start(process.execPath, args)
    programs.push(program)
    await bed.until(() => program.output().includes('ready'), what)
    return program
  }
  try {
    const addresses = Array.from({ length: HOSTS }, (_, i) => `10.91.${i}.2`)
    for (const address of addresses) rtnl.b.addAddress('eth0', `${address}/32`)
    const others = await start(bed.b, [program('dime-hosts'), addresses.join(), String(IHMP_PORT)], 'hosts')
    await start(bed.b, [program('connections'), 'server'], 'the server')
    const connections = [program('connections'), 'client', addresses.join(), String(CONNECTIONS)]
    await start(bed.a, connections, '10,000 connections')
    const daemon = await start(bed.a, [GODWIT, 'dime', 'up', '--state', bed.directory('a')], 'the daemon')
    const client = new ControlClient(`${bed.directory('a')}/control.sock`)
    await bed.until(
      async () => {
        const { hosts } = await client.get<{ hosts: { state: string }[] }>('/v1/dime/hosts')
        return hosts.filter((host) => host.state === 'peer').length === HOSTS
      },
      'greetings',
      MANY_MS,
    )
    const exchanges = async (): Promise<number> =>
      Number(/^godwit_dime_exchanges_total (\d+)$/m.exec(await client.metrics())?.[1])
    const before = await exchanges()
    await sleep(SETTLE_MS)
    const cpu = cpuMs(daemon.pid)
    const at = performance.now()
    // A hard handoff: with both for a moment it would be two changes, and two exchanges with each host.
    rtnl.a.deleteAddress('eth0', `${FIRST}/24`)
    rtnl.a.addAddress('eth0', `${SECOND}/24`)
    rtnl.a.replaceRoute({ to: 'default', via: bed.b.address, dev: 'eth0' })
    await bed.until(() => others.output().includes(`moved ${SECOND}`), 'the last host', MANY_MS)
    const movedMs = performance.now() - at
    await sleep(SETTLE_MS)
    return { cpuMs: cpuMs(daemon.pid) - cpu, exchanges: (await exchanges()) - before, movedMs }
  } finally {
    for (const each of programs) await each.stop()
    rtnl.a.close()
    rtnl.b.close()
    await bed.close()
  }
}
