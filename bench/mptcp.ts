/**
 * The MPTCP proxy beside the kernel's own MPTCP end to end and beside plain TCP, one subflow, on one wire: throughput, CPU of
 * everything on both hosts per byte, 1,000 connections at once, memory a connection.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
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
/** And beside them, for their memory: a thousand are less than what the collector takes and gives back at once. */
const MORE = 2000
/** Opened and closed before, so that code is compiled and rooms are made. */
const WARMING = 200
/** After the warm-up and before the end of a flow, so that both ends of an interval lie within it (s). */
const MARGIN_S = 0.3
const SETTLE_MS = 2000
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
  // They name the network namespaces of both hosts.
  const witnesses = [bed.a, bed.b].map((host) => host.start('sleep', ['infinity']))
  try {
    for (const way of ['up', 'down'] as const) {
      const flow = tcpThroughput(bed, bed.b.address, { seconds: context.seconds, way, before: ends })
      const began = performance.now()
      const since = (s: number) => sleep(Math.max(0, began + s * 1000 - performance.now()))
      // Past the proxy it would be plain TCP that is measured.
      if (godwit !== undefined) await bed.until(() => translates(godwit), 'the flow to be translated')
      await since(WARM_UP_S + MARGIN_S)
      const start = sample(witnesses, daemon?.pid)
      await since(WARM_UP_S + context.seconds - MARGIN_S)
      const end = sample(witnesses, daemon?.pid)
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
    for (const witness of witnesses) await witness.stop()
    await daemon?.stop()
  }
}

async function translates(godwit: Godwit): Promise<boolean> {
  const { connections } = await godwit.json<{ connections: ConnectionView[] }>('mptcp', 'connections')
  return connections.some(({ state }) => state === 'established')
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
  if (daemon !== undefined) {
    const more = await connected(bed, ends, MORE)
    await sleep(SETTLE_MS)
    record('per-connection', 'bytes', (resident(daemon) - before) / (CONNECTIONS + MORE))
    await more.client.stop()
  }
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

/** CPU time of all processes of both hosts, the daemon's share, and what crossed the wire of host a, so far. */
function sample(witnesses: readonly Program[], daemon: number | undefined) {
  const device = /^\s*eth0:\s*(.*)$/m.exec(readFileSync(`/proc/${witnesses[0]!.pid}/net/dev`, 'utf8'))![1]!
  const fields = device.split(/\s+/).map(Number)
  const daemonMs = daemon === undefined ? 0 : cpuMs(daemon)
  const down = { bytes: fields[0]!, packets: fields[1]! }
  const namespaces = new Set(witnesses.map(({ pid }) => namespaceOf(pid)))
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  const busyMs = pids.reduce(
    (sum, pid) => sum + (namespaces.has(namespaceOf(pid)) ? cpuMs(Number(pid)) : 0),
    0,
  )
  return { busyMs, daemonMs, down, up: { bytes: fields[8]!, packets: fields[9]! } }
}

/** The network namespace of a process; undefined when it has gone, or is a thread of the kernel's. */
function namespaceOf(pid: number | string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`)
  } catch {
    return undefined
  }
}

function resident(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}
