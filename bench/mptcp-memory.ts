/**
 * What the MPTCP proxy's memory costs: of a connection that had an exchange and is idle, and of one that has an exchange every second, with one
 * subflow and with two; to a server with the kernel's MPTCP. All garbage is collected before each look (programs/collect.ts).
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Godwit } from '../lab/product.ts'
import { GodwitError } from '../src/core/errors.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import { Bed, type Program } from './bed.ts'
import { type Bench, type BenchResult, machine, Recorder, round } from './harness.ts'
import { twoWires, wire } from './topologies.ts'

usesPrograms('mptcpize')

const IDLE = 10_000
const ACTIVE = 1_000
/** Opened and closed before, so that code is compiled and rooms are made. */
const WARMING = 1_000
const AT_ONCE = 200
const AGAIN_MS = 1_000
const OPENING_MS = 120_000
/** After the last exchange, or while they go on. */
const SETTLE_MS = 3_000
const EXCHANGE = fileURLToPath(new URL('./programs/exchange.js', import.meta.url))
const COLLECT = new URL('./programs/collect.js', import.meta.url).href

interface Memory {
  /** Resident, in heaps, and of the resident what is the file for the next daemon (bytes). */
  readonly resident: number
  readonly heap: number
  readonly kept: number
}

const SUBJECTS = [
  { subject: 'one-subflow', topology: wire },
  { subject: 'two-subflows', topology: twoWires },
] as const

export const mptcpMemory: Bench = {
  name: 'mptcp-memory',
  summary: `MPTCP proxy: memory of each of ${IDLE} idle and ${ACTIVE} active connections`,

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    for (let again = 1; again <= context.rounds; again++)
      for (const { subject, topology } of SUBJECTS) {
        context.signal.throwIfAborted()
        const bed = await Bed.open(topology)
        try {
          const record = (kind: string, count: number, before: Memory, after: Memory) => {
            const values = (['resident', 'heap', 'kept'] as const).map((part) => {
              const bytes = round((after[part] - before[part]) / count)
              recorder.add(`${kind}-${part}`, subject, 'bytes', bytes)
              return `${part} ${bytes}`
            })
            context.progress(
              `round ${again} of ${context.rounds}: ${subject}, ${kind}: bytes a connection: ${values.join(', ')}`,
            )
          }
          await once(bed, record)
        } finally {
          await bed.close()
        }
      }
    return { bench: this.name, machine: machine(), runs: recorder.runs(), ratios: {}, skipped: {} }
  },
}

async function once(
  bed: Bed,
  record: (kind: string, count: number, before: Memory, after: Memory) => void,
): Promise<void> {
  const asked = join(bed.directory('collect'), 'asked')
  writeFileSync(asked, '0')
  const godwit = new Godwit(bed, 'mh')
  godwit.configure(`[mptcp]\nconnections = ${2 * (IDLE + ACTIVE)}\n`)
  const daemon = await godwit.daemonThrough(
    (node, ...rest) => [
      'env',
      [`COLLECT_ASKED=${asked}`, node!, '--expose-gc', '--import', COLLECT, ...rest],
    ],
    ...['mptcp', 'up'],
  )
  const server = bed.b.start('mptcpize', ['run', process.execPath, EXCHANGE, 'server'])
  const clients: Program[] = []
  const open = async (...args: readonly number[]) => {
    const client = bed.a.start(process.execPath, [EXCHANGE, 'client', bed.b.address, ...args.map(String)])
    clients.push(client)
    await bed.until(() => /^(exchanged|failed)/m.test(client.output()), `${args[0]} connections`, OPENING_MS)
    if (/^failed/m.test(client.output())) throw new GodwitError('BENCH_PROGRAM', client.output().trim())
    await sleep(SETTLE_MS)
    return client
  }
  try {
    await bed.until(() => server.output().includes('ready'), 'the server')
    await (await open(WARMING, AT_ONCE, AGAIN_MS)).stop()
    await sleep(SETTLE_MS)
    const none = await memoryOf(daemon.pid, asked)
    await open(IDLE, AT_ONCE)
    const idle = await memoryOf(daemon.pid, asked)
    record('idle', IDLE, none, idle)
    await open(ACTIVE, AT_ONCE, AGAIN_MS)
    const all = await memoryOf(daemon.pid, asked)
    record('active', ACTIVE, idle, all)
    record('both', IDLE + ACTIVE, none, all)
  } finally {
    for (const client of clients) await client.stop()
    await server.stop()
    await daemon.stop()
  }
}

/** When every thread has collected. */
async function memoryOf(pid: number, asked: string): Promise<Memory> {
  const name = `${performance.now()}`
  writeFileSync(asked, name)
  const folder = join(asked, '..')
  const end = performance.now() + OPENING_MS
  for (;;) {
    await sleep(200)
    const reports = readdirSync(folder)
      .filter((file) => file.startsWith('asked.'))
      .map((file) => JSON.parse(readFileSync(join(folder, file), 'utf8')))
    // The main thread's and the engine's at least.
    if (reports.length > 1 && reports.every((each) => each.asked === name)) {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8')
      const maps = readFileSync(`/proc/${pid}/smaps`, 'utf8')
      const resident = Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024
      const kept = Number(/\/mptcp-[\s\S]*?^Rss:\s+(\d+) kB/m.exec(maps)?.[1]) * 1024
      return { resident, heap: reports.reduce((sum, { bytes }) => sum + bytes, 0), kept }
    }
    if (performance.now() > end)
      throw new GodwitError('BENCH_TIMEOUT', 'the daemon did not collect its garbage')
  }
}
