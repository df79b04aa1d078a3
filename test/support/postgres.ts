/**
 * PostgreSQL of a test's own: a primary, and standbys of it, in a scratch folder, without TCP. Root starts them as nobody, since they refuse
 * root. What reaches a server goes through a gate, which can be closed: nothing passes, and no connection is ended, as when a cable
 * is pulled.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { findProgram, installHint, needProgram, usesPrograms } from '../../src/linux/packages.ts'
import { clientClass } from '../../src/overlay/store/postgres/session.ts'
import { drivers } from '../../src/overlay/store/sqlite.ts'

export const POSTGRESQL = usesPrograms('initdb', 'ipcrm', 'pg_basebackup', 'postgres', 'setpriv')

const NOBODY = 65_534
const isRoot = process.getuid?.() === 0
/** They end with the test, also when that is killed. */
const LEASHED = [
  '--pdeathsig',
  'KILL',
  ...(isRoot ? [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'] : []),
]
const exec = promisify(execFile)
export const SUPERUSER = 'admin'
/** What clients have; it owns its database and nothing else. */
export const ROLE = 'godwit'

export class Gate {
  readonly folder: string
  /** It takes connections. */
  readonly ready: Promise<unknown>
  readonly #thread: Worker

  constructor(folder: string, target: string) {
    this.folder = folder
    mkdirSync(folder, { mode: 0o755 })
    this.#thread = new Worker(new URL('./gate.js', import.meta.url), {
      workerData: { path: join(folder, '.s.PGSQL.5432'), target },
    })
    this.#thread.unref()
    this.ready = once(this.#thread, 'message')
  }

  close(): void {
    this.#thread.postMessage(false)
  }

  open(): void {
    this.#thread.postMessage(true)
  }

  async end(): Promise<void> {
    await this.#thread.terminate()
  }
}

export class PostgresServer {
  readonly name: string
  readonly data: string
  /** Of its own socket, past the gate. */
  readonly folder: string
  readonly gate: Gate
  #program: ChildProcess | undefined
  #log = ''
  #port = 5432

  constructor(cluster: string, name: string) {
    this.name = name
    this.data = join(cluster, name)
    this.folder = join(cluster, `${name}-s`)
    mkdirSync(this.folder)
    own(this.folder)
    this.gate = new Gate(join(cluster, `${name}-g`), join(this.folder, '.s.PGSQL.5432'))
  }

  /** Everything it has said. */
  get log(): string {
    return this.#log
  }

  get isRunning(): boolean {
    return this.#program !== undefined && this.#program.exitCode === null && this.#program.signalCode === null
  }

  configure(lines: readonly string[]): void {
    appendFileSync(join(this.data, 'postgresql.auto.conf'), `${lines.join('\n')}\n`)
  }

  /** Resolves when it takes connections. `tcp`: a port of 127.0.0.1 that it listens on, too. */
  async start(tcp?: number): Promise<void> {
    const address = tcp === undefined ? '' : '127.0.0.1'
    this.#port = tcp ?? 5432
    const args = [
      '-D',
      this.data,
      '-k',
      this.folder,
      '-p',
      `${this.#port}`,
      '-c',
      `listen_addresses=${address}`,
    ]
    const program = spawn(needProgram('setpriv'), [...LEASHED, needProgram('postgres'), ...args], {
      cwd: this.data,
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    this.#program = program
    this.#log = ''
    program.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#log += text
    })
    await until(() => {
      if (!this.isRunning) throw new Error(`${this.name} has ended: ${this.#log}`)
      return this.#log.includes('ready to accept')
    }, `${this.name} starts`)
    await this.gate.ready
  }

  async admin<Row>(sql: string, database = 'postgres'): Promise<readonly Row[]> {
    const PgClient = clientClass()
    const client = new PgClient({ host: this.folder, port: this.#port, user: SUPERUSER, database })
    await client.connect()
    try {
      return (await client.query(sql)).rows as Row[]
    } finally {
      await client.end()
    }
  }

  signal(signal: NodeJS.Signals): void {
    if (this.isRunning) this.#program!.kill(signal)
    // Its processes are a group of its own each: all are children of it.
    if (signal === 'SIGSTOP' || signal === 'SIGCONT')
      for (const child of childrenOf(this.#program!.pid!)) kill(child, signal)
  }

  /** As in a power cut: its children, too. */
  async kill(): Promise<void> {
    const program = this.#program
    if (program === undefined || !this.isRunning) return
    const ended = new Promise((resolve) => program.once('exit', resolve))
    const children = childrenOf(program.pid!)
    program.kill('SIGKILL')
    for (const child of children) kill(child, 'SIGKILL')
    await ended
    this.#freeMemory()
    rmSync(join(this.data, 'postmaster.pid'), { force: true })
  }

  async end(): Promise<void> {
    await this.gate.end()
    await this.kill()
  }

  /** The System V segment of a server that was killed stays until somebody removes it. */
  #freeMemory(): void {
    const keyAndId = readFileSync(join(this.data, 'postmaster.pid'), 'utf8').split('\n')[6]
    const id = keyAndId?.trim().split(/\s+/)[1]
    if (id !== undefined) execFileSync(needProgram('ipcrm'), ['-m', id])
  }
}

export function addressOf(folders: readonly string[]): string {
  return `postgres://${ROLE}@${folders.map(encodeURIComponent).join()}/godwit`
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {}
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
      .trim()
      .split(' ')
      .filter(Boolean)
      .map(Number)
  } catch {
    return []
  }
}

/** Files of a server are its own. */
export function own(path: string): void {
  if (isRoot) chownSync(path, NOBODY, NOBODY)
}

export async function until(done: () => boolean, what: string, ms = 20_000): Promise<void> {
  for (const end = Date.now() + ms; !done(); ) {
    if (Date.now() > end) throw new Error(`${what}: not in ${ms / 1000} s`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** A primary `db1` and a standby `db2` that confirms every commit. Made once; `start` begins anew from what was made. */
export class PostgresBed {
  readonly folder = mkdtempSync(join(tmpdir(), 'godwit-pg-'))
  #made = join(this.folder, 'made')
  #cluster = 0
  db1!: PostgresServer
  db2!: PostgresServer

  /** Without fsync: the tests kill programs, and cut no power. */
  async make(): Promise<void> {
    chmodSync(this.folder, 0o755)
    const made = this.#made
    mkdirSync(made)
    own(made)
    const run = async (program: 'initdb' | 'pg_basebackup', args: readonly string[]) => {
      await exec(needProgram('setpriv'), [...LEASHED, needProgram(program), ...args], { cwd: made })
    }
    await run('initdb', [
      '-D',
      join(made, 'db1'),
      '-U',
      SUPERUSER,
      '-A',
      'trust',
      '--no-sync',
      '-E',
      'UTF8',
      '--locale=C',
    ])
    const db1 = new PostgresServer(made, 'db1')
    try {
      db1.configure([
        'shared_buffers = 8MB',
        // In the data folder, which is removed: what a killed server has in /dev/shm stays.
        'dynamic_shared_memory_type = mmap',
        'max_connections = 30',
        'fsync = off',
        'wal_level = replica',
        'max_wal_size = 128MB',
        'hot_standby = on',
        "wal_receiver_timeout = '2s'",
        "wal_sender_timeout = '2s'",
        'wal_retrieve_retry_interval = 200ms',
        'autovacuum = off',
      ])
      await db1.start()
      await db1.admin(`CREATE ROLE ${ROLE} LOGIN`)
      await db1.admin(`CREATE DATABASE godwit OWNER ${ROLE}`)
      await run('pg_basebackup', [
        '-h',
        db1.gate.folder,
        '-U',
        SUPERUSER,
        '-D',
        join(made, 'db2'),
        '-R',
        '--no-sync',
        '-c',
        'fast',
      ])
      await db1.admin('CHECKPOINT')
      const ended = until(() => !db1.isRunning, 'db1 stops')
      db1.signal('SIGINT')
      await ended
    } finally {
      await db1.end()
    }
  }

  /** Another one of what was made here, for what runs at the same time. */
  beside(): PostgresBed {
    const other = new PostgresBed()
    chmodSync(other.folder, 0o755)
    other.#made = this.#made
    return other
  }

  /** Both, from the beginning; those before end. `isAlone`: no standby, and none is waited for. */
  async start(isAlone = false): Promise<void> {
    await this.stop()
    const folder = join(this.folder, String(++this.#cluster))
    mkdirSync(folder, { mode: 0o755 })
    await Promise.all(
      ['db1', 'db2'].map((name) => exec('cp', ['-a', join(this.#made, name), join(folder, name)])),
    )
    this.db1 = new PostgresServer(folder, 'db1')
    this.db2 = new PostgresServer(folder, 'db2')
    if (isAlone) {
      await this.db1.start()
      return
    }
    this.follow(this.db2, this.db1)
    this.db1.configure(["synchronous_standby_names = 'FIRST 1 (db2)'"])
    await this.db1.start()
    await this.db2.start()
    await this.isSynchronous(this.db1)
  }

  /** The standby's settings: whom it follows, under its name. */
  follow(standby: PostgresServer, primary: PostgresServer): void {
    standby.configure([
      `primary_conninfo = 'host=${primary.gate.folder} user=${SUPERUSER} application_name=${standby.name}'`,
      "synchronous_standby_names = ''",
    ])
    writeFileSync(join(standby.data, 'standby.signal'), '')
  }

  /** Resolves when a standby confirms commits. */
  async isSynchronous(primary: PostgresServer): Promise<void> {
    for (const end = Date.now() + 20_000; ; ) {
      const rows = await primary.admin<{ n: string }>(
        "SELECT count(*)::text AS n FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'",
      )
      if (rows[0]?.n !== '0') return
      if (Date.now() > end) throw new Error('no synchronous standby')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  /** The address for `store` of the settings: both, by their gates. */
  get url(): string {
    return addressOf([this.db1.gate.folder, this.db2.gate.folder])
  }

  async stop(): Promise<void> {
    await this.db1?.end()
    await this.db2?.end()
    if (this.#cluster > 0) rmSync(join(this.folder, String(this.#cluster)), { recursive: true, force: true })
  }

  async end(): Promise<void> {
    await this.stop()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Why this machine cannot run the tests; false: it can. */
export function cannotRun(): string | false {
  const lacking = POSTGRESQL.filter((name) => findProgram(name) === undefined)
  if (lacking.length > 0) return `${lacking.join(', ')}: ${installHint(lacking)}`
  if (drivers().length === 0) return 'this Node.js has no SQLite, and libsql is not installed: npm ci'
  try {
    clientClass()
  } catch (error) {
    return `${(error as Error).message}: npm ci`
  }
  if (!isRoot) return false
  // Inside a user namespace of one user there is no other one to start it as.
  const mapped = readFileSync('/proc/self/uid_map', 'utf8').trim().split('\n')
  const hasNobody = mapped.some((line) => {
    const [inside, , length] = line.trim().split(/ +/).map(Number)
    return inside! <= NOBODY && NOBODY < inside! + length!
  })
  return hasNobody ? false : 'PostgreSQL does not run as root, and there is no other user here'
}
