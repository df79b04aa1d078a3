/**
 * Coordinators of one zone under load: first registrations, look-ups by the zone's name server, and constructions (directions to both nodes,
 * acknowledged), of one with SQLite, of one with PostgreSQL, and of two with that and NATS. Each is a process without its socket, with the nodes that load
 * it; a rate is of time in the coordinator. `constructions-across`: pairs of nodes of both coordinators, in time on the clock, nodes included.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { ownMemory, roomIn } from '../src/overlay/servers/room.ts'
import type { SoftSettings } from '../src/overlay/servers/soft/settings.ts'
import type { StoreInit } from '../src/overlay/store/store.ts'
import { type Bench, type BenchContext, type BenchResult, machine, Recorder } from './harness.ts'
import type { LoadInit, Measured } from './programs/coordinator-load.ts'

const PROGRAM = fileURLToPath(new URL('./programs/coordinator-load.js', import.meta.url))
const ZONE = 'test.example'
/** Of the zone: the same for one coordinator and for two. `seconds` of the bench are not used. */
const NODES = Number(process.env.GODWIT_BENCH_NODES ?? 12_000)
const NATS = { name: 'n1', address: '127.0.0.1', port: 24_222, cluster: 24_223 }

/** The program of `coordinator-load.ts`, with its phases. */
export class Load {
  readonly #child: ChildProcess
  readonly #lines: Interface
  readonly #answers: AsyncIterator<string>

  constructor(init: LoadInit) {
    const heap = `--max-old-space-size=${roomIn(ownMemory()).heapMb}`
    this.#child = spawn(process.execPath, [heap, PROGRAM, JSON.stringify(init)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#lines = createInterface({ input: this.#child.stdout! })
    this.#answers = this.#lines[Symbol.asyncIterator]()
  }

  async phase(name: string): Promise<Measured> {
    this.#child.stdin!.write(`${name}\n`)
    const { value, done } = await this.#answers.next()
    if (done === true) throw new Error(`a coordinator has ended in ${name}`)
    return JSON.parse(value as string)
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve))
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 5000)
    this.#child.stdin!.end()
    if (this.#child.exitCode === null && this.#child.signalCode === null) await ended
    clearTimeout(timer)
  }
}

export const overlayCoordinators: Bench = {
  name: 'overlay-coordinators',
  summary:
    'registrations, look-ups and constructions per second: two coordinators beside one, with PostgreSQL and with SQLite',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const skipped: Record<string, string> = {}
    const [postgres, nats] = await Promise.all([
      // biome-ignore lint/style/noRestrictedImports: in a checkout alone
      import('../test/support/postgres.ts'),
      // biome-ignore lint/style/noRestrictedImports: in a checkout alone
      import('../test/support/nats.ts'),
    ])
    const withoutDatabase = postgres.cannotRun()
    const withoutBus = withoutDatabase || nats.cannotRunNats()
    if (withoutDatabase !== false) skipped['one-postgres'] = withoutDatabase
    if (withoutBus !== false) skipped['two-postgres'] = withoutBus
    const database = new postgres.PostgresBed()
    try {
      if (withoutDatabase === false) await database.make()
      for (let i = 0; i < context.rounds; i++) {
        await measure('one-sqlite', recorder, context, (file) => [{ file }])
        if (withoutDatabase === false)
          await withDatabase(database, async (remote) => {
            const store = (file: string, holds: true | 'shared'): StoreInit => ({
              file,
              remote: { ...remote, holds },
            })
            await measure('one-postgres', recorder, context, (file) => [store(file, true)])
          })
        if (withoutBus === false)
          await withDatabase(database, async (remote) => {
            const folder = mkdtempSync(join(tmpdir(), 'godwit-bench-'))
            const server = new nats.NatsServer(folder, NATS, [NATS])
            try {
              await server.start()
              await nats.isListening(NATS)
              await measure('two-postgres', recorder, context, (file) =>
                [0, 1].map((n) => ({ file: `${file}-${n}`, remote: { ...remote, holds: 'shared' } })),
              )
            } finally {
              await server.kill()
              rmSync(folder, { recursive: true, force: true })
            }
          })
        context.signal.throwIfAborted()
      }
    } finally {
      await database.end()
    }
    return {
      ...{ bench: this.name, machine: machine(), runs: recorder.runs() },
      ...{ ratios: recorder.ratios('two-postgres'), skipped },
    }
  },
}

interface Admin {
  admin(sql: string): Promise<unknown>
}

interface Database {
  start(): Promise<void>
  readonly url: string
  readonly db1: Admin
  readonly db2: Admin
}

/** A primary and a synchronous standby, anew, both with fsync. */
async function withDatabase(
  database: Database,
  use: (remote: Omit<NonNullable<StoreInit['remote']>, 'holds'>) => Promise<void>,
): Promise<void> {
  await database.start()
  for (const server of [database.db1, database.db2]) {
    await server.admin('ALTER SYSTEM SET fsync = on')
    await server.admin('SELECT pg_reload_conf()')
  }
  await use({ settings: { url: database.url, tls: 'off', commit: 'on' }, zone: ZONE })
}

/** Coordinators with these stores share the nodes of the zone; all of them work at the same time. */
async function measure(
  subject: string,
  recorder: Recorder,
  context: BenchContext,
  storesIn: (file: string) => readonly StoreInit[],
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-bench-'))
  const loads: Load[] = []
  try {
    const stores = storesIn(join(folder, 'overlay.db'))
    const count = NODES / stores.length
    for (const [n, store] of stores.entries()) {
      const soft: SoftSettings = {
        ...{ url: `nats://${NATS.address}:${NATS.port}`, name: 'ab'[n]!, host: '192.0.2.1' },
        ...{ addresses: ['192.0.2.1'], tls: 'off', replicas: 1 },
      }
      const several = stores.length > 1 && { soft }
      loads.push(new Load({ zone: ZONE, store, first: n * count, count, all: NODES, ...several }))
      // The second one reads what is there.
      if (n === 0) await loads[0]!.phase('nodes')
    }
    const all = async (phase: string) => await Promise.all(loads.map((load) => load.phase(phase)))
    if (loads.length > 1) await all('fellows')
    const rate = async (name: string, phase: string, loaded = all) => {
      const results = await loaded(phase)
      const sum = results.reduce((total, each) => total + (1000 * each.count) / each.ms, 0)
      recorder.add(name, subject, 'per_second', Math.round(sum))
      context.progress(`${name}, ${subject}: ${Math.round(sum)}/s`)
      const done = results.reduce((total, each) => total + each.count, 0)
      const cpu = results.reduce((total, each) => total + each.cpu, 0)
      recorder.add(`${name}-cpu`, subject, 'cpu_us', Math.round((1000 * cpu) / done))
    }
    await rate('registrations', 'register')
    await rate('look-ups', 'look')
    await rate('constructions', 'build')
    // From the first to nodes of the second.
    if (loads.length > 1)
      await rate('constructions-across', 'across', async (phase) => [await loads[0]!.phase(phase)])
  } finally {
    for (const load of loads) await load.stop()
    rmSync(folder, { recursive: true, force: true })
  }
}
