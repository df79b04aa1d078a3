/**
 * The MPTCP proxy beside the kernel's own MPTCP end to end and beside plain TCP, one subflow, on one wire: throughput, CPU of
 * the whole machine per byte, 1,000 connections at once, memory a connection.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Godwit } from '../lab/product.ts'
import { GodwitError } from '../src/core/errors.ts'
import type { ConnectionView } from '../src/host/provisioning/mptcp.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import { Bed, cpuMs, type Program } from './bed.ts'
import { type Bench, type BenchContext, type BenchResult, machine, Recorder, round } from './harness.ts'
import { tcpThroughput, WARM_UP_S } from './iperf.ts'

usesPrograms('mptcpize')

const CONNECTIONS = 1000
/** Opened and closed before, so that code is compiled and rooms are made. */
const WARMING = 200
/** After the warm-up and before the end of a flow, so that both ends of an interval lie within it (s). */
const MARGIN_S = 0.3
const SETTLE_MS = 2000
/** After a flow's start, when it has to be translated. */
const LOOK_MS = 700
const MPTCPIZE = ['mptcpize', 'run']
const PROGRAM = fileURLToPath(new URL('./programs/exchange.js', import.meta.url))

/** Who speaks MPTCP. */
interface Ends {
  readonly name: string
  readonly client: readonly string[]
  readonly server: readonly string[]
  readonly proxy: boolean
}

const OURS = 'proxy-kernel'
const ENDS: readonly Ends[] = [
  { name: OURS, client: [], server: MPTCPIZE, proxy: true },
  { name: 'kernel-kernel', client: MPTCPIZE, server: MPTCPIZE, proxy: false },
  { name: 'plain', client: [], server: [], proxy: false },
]

export const mptcp: Bench = {
  name: 'mptcp',
  summary: `MPTCP proxy, one subflow: throughput, CPU per byte, ${CONNECTIONS} connections at once, memory of each; beside kernel MPTCP and plain TCP`,

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    for (let again = 1; again <= context.rounds; again++)
      for (const ends of ENDS) {
        context.signal.throwIfAborted()
        const bed = await Bed.open()
        try {
          const record = (name: string, unit: string, value: number) => {
            recorder.add(name, ends.name, unit, round(value))
            context.progress(
              `round ${again} of ${context.rounds}: ${ends.name}, ${name}: ${round(value)} ${unit}`,
            )
          }
          await measure(bed, ends, context, record)
        } finally {
          await bed.close()
        }
      }
    return {
      bench: this.name,
      machine: machine(),
      runs: recorder.runs(),
      ratios: recorder.ratios(OURS),
      skipped: {},
    }
  },
}

async function measure(
  bed: Bed,
  ends: Ends,
  context: BenchContext,
  record: (name: string, unit: string, value: number) => void,
): Promise<void> {
  const godwit = ends.proxy ? new Godwit(bed, 'mh') : undefined
  const daemon = await godwit?.daemon('mptcp', 'up')
  // Of whose network namespace the counters are read.
  const witness = bed.a.start('sleep', ['infinity'])
  try {
    for (const way of ['up', 'down'] as const) {
      const flow = tcpThroughput(bed, bed.b.address, { seconds: context.seconds, way, before: ends })
      const warm = performance.now() + (WARM_UP_S + MARGIN_S) * 1000
      await sleep(LOOK_MS)
      if (godwit !== undefined) await translated(godwit)
      await sleep(Math.max(0, warm - performance.now()))
      const start = sample(witness, daemon?.pid)
      await sleep((context.seconds - 2 * MARGIN_S) * 1000)
      const end = sample(witness, daemon?.pid)
      record(`tcp-${way}`, 'mbps', await flow)
      const bytes = end[way].bytes - start[way].bytes
      // Whether super-packets cross the wire whole: that, and not the proxy's own work, decides what a byte costs here.
      record(`packet-${way}`, 'bytes', bytes / (end[way].packets - start[way].packets))
      record(`cpu-${way}`, 'ns/byte', ((end.busyMs - start.busyMs) * 1e6) / bytes)
      if (daemon !== undefined)
        record(`daemon-cpu-${way}`, 'ns/byte', ((end.daemonMs - start.daemonMs) * 1e6) / bytes)
    }
    await manyAtOnce(bed, ends, daemon?.pid, record)
  } finally {
    await witness.stop()
    await daemon?.stop()
  }
}

/** Fails where the flow runs past the proxy: it would be plain TCP that is measured. */
async function translated(godwit: Godwit): Promise<void> {
  const { connections } = await godwit.json<{ connections: ConnectionView[] }>('mptcp', 'connections')
  if (!connections.some(({ state }) => state === 'established'))
    throw new GodwitError('BENCH_DATA', 'the flow is not translated')
}

/** Connections that each exchange something and stay: how long all of them take, and what the daemon holds for each. */
async function manyAtOnce(
  bed: Bed,
  ends: Ends,
  daemon: number | undefined,
  record: (name: string, unit: string, value: number) => void,
): Promise<void> {
  const [program, ...args] = [...ends.server, process.execPath, PROGRAM, 'server']
  const server = bed.b.start(program!, args)
  await bed.until(() => server.output().includes('ready'), 'the server')
  await (await connected(bed, ends, WARMING)).client.stop()
  await sleep(SETTLE_MS)
  const before = daemon === undefined ? 0 : resident(daemon)
  const { client, ms } = await connected(bed, ends, CONNECTIONS)
  record(`${CONNECTIONS}-connections`, 'ms', ms)
  await sleep(SETTLE_MS)
  if (daemon !== undefined) record('per-connection', 'bytes', (resident(daemon) - before) / CONNECTIONS)
  await client.stop()
  await server.stop()
}

async function connected(bed: Bed, ends: Ends, count: number): Promise<{ client: Program; ms: number }> {
  const [program, ...args] = [...ends.client, process.execPath, PROGRAM, 'client', bed.b.address, `${count}`]
  const client = bed.a.start(program!, args)
  const done = /^exchanged in (\d+) ms$/m
  await bed.until(
    () => done.test(client.output()) || /^failed/m.test(client.output()),
    `${count} connections`,
    60_000,
  )
  const ms = Number(done.exec(client.output())?.[1])
  if (Number.isNaN(ms)) throw new GodwitError('BENCH_PROGRAM', client.output().trim())
  return { client, ms }
}

/** Time that the machine's CPUs were busy, the daemon's share, and what crossed the wire of host a, so far. */
function sample(witness: Program, daemon: number | undefined) {
  // user, nice, system, idle, iowait, irq, softirq: hundredths of a second
  const [user, nice, system, , , irq, softirq] = /^cpu +(.*)$/m
    .exec(readFileSync('/proc/stat', 'utf8'))![1]!
    .split(' ')
    .map(Number)
  const busyMs = 10 * (user! + nice! + system! + irq! + softirq!)
  const device = /^\s*eth0:\s*(.*)$/m.exec(readFileSync(`/proc/${witness.pid}/net/dev`, 'utf8'))![1]!
  const fields = device.split(/\s+/).map(Number)
  const daemonMs = daemon === undefined ? 0 : cpuMs(daemon)
  const down = { bytes: fields[0]!, packets: fields[1]! }
  return { busyMs, daemonMs, down, up: { bytes: fields[8]!, packets: fields[9]! } }
}

function resident(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}
