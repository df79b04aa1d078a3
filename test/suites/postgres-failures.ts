/**
 * One run of servers whose state is in PostgreSQL, with a synchronous standby: under load, servers and database are killed, stopped and
 * cut off, and the standby is promoted. Afterwards the database is compared with everything that was acknowledged.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { rowsAsJson, TABLES } from '../../src/overlay/store/postgres/tables.ts'
import { openDatabase } from '../../src/overlay/store/sqlite.ts'
import type { StoreInit } from '../../src/overlay/store/store.ts'
import { type PostgresBed, type PostgresServer, until } from '../support/postgres.ts'
import { bytesOf, type WriterLine, type Written } from '../support/postgres-written.ts'

const WRITER = fileURLToPath(new URL('../support/postgres-writer.js', import.meta.url))

/** What may be of a node: the version that was acknowledged last, and those of later commits without an answer. */
interface Expected {
  possible: Set<number>
  /** Acknowledged, of a node that is there. */
  number: number
}

/** Everything that a writer was told. */
export class Book {
  readonly nodes = new Map<string, Expected>()
  /** Whose every number was, as acknowledged. */
  readonly numbers = new Map<number, string>()
  acknowledged = 0
  unknown = 0
  /** Longest time that a commit held its thread. */
  longest = 0

  take(line: Extract<WriterLine, { written: unknown }>): void {
    const isKnown = line.is === 'acknowledged'
    if (isKnown) this.acknowledged += line.written.length
    else if (line.is === 'unknown') this.unknown += line.written.length
    if (line.is !== 'tries') this.longest = Math.max(this.longest, line.ms)
    for (const each of line.written) this.#note(each, isKnown)
  }

  #note({ node, version, number }: Written, isKnown: boolean): void {
    const expected = this.nodes.get(node) ?? { possible: new Set([0]), number: 0 }
    this.nodes.set(node, expected)
    if (!isKnown) {
      expected.possible.add(version)
      return
    }
    expected.possible = new Set([version])
    expected.number = number
    if (number === 0) return
    const other = this.numbers.get(number)
    assert.ok(other === undefined || other === node, `number ${number} was given to ${other} and ${node}`)
    this.numbers.set(number, node)
  }
}

class WriterProgram {
  readonly book: Book
  readonly #program: ChildProcess
  readonly #exit: Promise<void>
  isOpen = false
  ended: string | undefined

  constructor(init: StoreInit, name: string, seed: number, book: Book) {
    this.book = book
    const program = spawn(process.execPath, [WRITER, JSON.stringify(init), name, String(seed)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#program = program
    this.#exit = new Promise((resolve) => program.once('close', () => resolve()))
    createInterface({ input: program.stdout! }).on('line', (text) => {
      let line: WriterLine
      try {
        line = JSON.parse(text) as WriterLine
      } catch {
        return // Cut off by SIGKILL: nothing was acknowledged with it.
      }
      if (line.is === 'open') this.isOpen = true
      else if (line.is === 'ended') this.ended = `${line.code}: ${line.message}`
      else book.take(line)
    })
  }

  /** Ends it in order. */
  async stop(): Promise<void> {
    this.#program.stdin!.end()
    const timer = setTimeout(() => this.#program.kill('SIGKILL'), 15_000)
    await this.#exit
    clearTimeout(timer)
  }

  async kill(): Promise<void> {
    this.#program.kill('SIGKILL')
    await this.#exit
  }
}

export const FAULTS = [
  'primary killed, standby promoted',
  'primary stopped, standby promoted, primary goes on',
  'primary cut off, standby promoted, primary is back',
  'primary killed and started',
  'primary stopped for a while',
  'standby killed and started',
  'standby stopped for a while',
  'standby cut off for a while',
  'waits for the standby cancelled, standby promoted',
  'coordinator killed and started',
  'coordinator killed, another one on another host',
] as const

export type Fault = (typeof FAULTS)[number]

export interface RunResult {
  readonly acknowledged: number
  readonly unknown: number
  /** Longest time that a thread was held (ms). */
  readonly longest: number
}

const delay = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Throws if anything that was acknowledged is lost or doubled, or if work does not go on after the fault. */
export async function runWithFault(bed: PostgresBed, fault: Fault, seed: number): Promise<RunResult> {
  let state = seed >>> 0
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  await bed.start()
  const init = (host: string, holds: boolean): StoreInit => ({
    file: join(bed.folder, `${host}-${seed}.db`),
    remote: { settings: { url: bed.url, tls: 'off', commit: 'on' }, zone: 'example', holds },
  })
  const [coordinated, logins] = [new Book(), new Book()]
  const coordinator = (host: string, each: number) =>
    new WriterProgram(init(host, true), 'c', seed + each, coordinated)
  let first = coordinator('a', 1)
  const programs = [first]
  try {
    await until(() => first.isOpen || first.ended !== undefined, 'the coordinator starts')
    assert.equal(first.ended, undefined)
    // As the account server in the same process: another connection on the same working copy.
    const second = new WriterProgram(init('a', false), 'l', seed + 2, logins)
    programs.push(second)
    const writes = async (book: Book, n: number, ms?: number) => {
      const least = book.acknowledged + n
      const what = `${fault}, seed ${seed}: ${n} more writes`
      await until(() => book.acknowledged >= least, what, ms).catch((error) => {
        const { acknowledged, unknown } = book
        throw new Error(
          `${error.message} (${acknowledged}, ${unknown} unknown, ${programs.map(({ ended }) => ended)})`,
        )
      })
    }
    await writes(coordinated, 100)
    await writes(logins, 20)
    await delay(random(300))
    let primary = bed.db1
    const promote = async () => {
      await bed.db2.admin('SELECT pg_promote()')
      primary = bed.db2
    }
    const { db1, db2 } = bed
    switch (fault) {
      case 'primary killed, standby promoted':
        await db1.kill()
        await delay(random(300))
        await promote()
        break
      case 'primary stopped, standby promoted, primary goes on':
        db1.signal('SIGSTOP')
        await delay(random(1000))
        await promote()
        await delay(random(2000))
        db1.signal('SIGCONT')
        break
      case 'primary cut off, standby promoted, primary is back':
        db1.gate.close()
        await delay(random(1000))
        await promote()
        await delay(random(2000))
        db1.gate.open()
        break
      case 'primary killed and started':
        await db1.kill()
        await delay(random(500))
        await db1.start()
        break
      case 'primary stopped for a while':
        db1.signal('SIGSTOP')
        await delay(500 + random(4000))
        db1.signal('SIGCONT')
        break
      case 'standby killed and started':
        await db2.kill()
        await delay(random(2000))
        await db2.start()
        break
      case 'standby stopped for a while':
        db2.signal('SIGSTOP')
        await delay(500 + random(4000))
        db2.signal('SIGCONT')
        break
      case 'standby cut off for a while':
        // What replicates goes through the gate of the primary too: this cuts the primary from all.
        db1.gate.close()
        await delay(500 + random(4000))
        db1.gate.open()
        break
      case 'waits for the standby cancelled, standby promoted':
        // The primary then reports commits as done that the standby does not have.
        db2.signal('SIGSTOP')
        for (let n = 0; n < 20; n++) {
          await delay(100)
          await db1.admin("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'godwit'")
        }
        await db1.kill()
        db2.signal('SIGCONT')
        await promote()
        break
      case 'coordinator killed and started':
        await first.kill()
        first = coordinator('a', 3)
        programs.push(first)
        break
      case 'coordinator killed, another one on another host':
        await first.kill()
        for (let each = 3; each === 3 || !first.isOpen; each++) {
          first = coordinator('b', each)
          programs.push(first)
          const next = first
          await until(() => next.isOpen || next.ended !== undefined, 'the other coordinator starts')
          if (next.ended !== undefined) {
            assert.match(next.ended, /^STORE_HELD/)
            await next.stop()
            await delay(1000)
          }
        }
        break
      default:
    }
    await writes(coordinated, 100, 40_000)
    await writes(logins, 20, 40_000)
    await Promise.all(programs.map((program) => program.stop()))
    await compare(primary, coordinated, logins)
    await compareCopy(primary, init('a', false))
    return {
      acknowledged: coordinated.acknowledged + logins.acknowledged,
      unknown: coordinated.unknown + logins.unknown,
      longest: Math.max(coordinated.longest, logins.longest),
    }
  } finally {
    await Promise.all(programs.map((program) => program.kill()))
    await bed.stop()
  }
}

/** Coordinators on two hosts share the database, and give out numbers; one is killed and started, and one that wants it alone is refused. */
export async function runShared(bed: PostgresBed, seed: number): Promise<RunResult> {
  await bed.start()
  const init = (host: string, holds: boolean | 'shared'): StoreInit => ({
    file: join(bed.folder, `${host}-shared-${seed}.db`),
    remote: { settings: { url: bed.url, tls: 'off', commit: 'on' }, zone: 'example', holds },
  })
  const book = new Book()
  const programs = (['c', 'd'] as const).map(
    (name, i) => new WriterProgram(init(name, 'shared'), name, seed + i, book),
  )
  const opened = async (program: WriterProgram) =>
    await until(() => program.isOpen || program.ended !== undefined, 'a coordinator starts')
  const writes = async (n: number) => {
    const least = book.acknowledged + n
    await until(() => book.acknowledged >= least, `${n} more writes`, 40_000)
  }
  try {
    for (const program of programs) await opened(program)
    await writes(400)
    const alone = new WriterProgram(init('e', true), 'e', seed, new Book())
    programs.push(alone)
    await opened(alone)
    assert.match(alone.ended ?? '', /^STORE_HELD/)
    await programs[0]!.kill()
    await writes(50)
    const again = new WriterProgram(init('c', 'shared'), 'c', seed + 3, book)
    programs.push(again)
    await opened(again)
    await writes(400)
    const both = new Set([...book.nodes.keys()].map((name) => name[0]))
    assert.deepEqual([...both].sort(), ['c', 'd'])
    await Promise.all(programs.map((program) => program.stop()))
    await compare(bed.db1, book, new Book())
    const { acknowledged, unknown, longest } = book
    return { acknowledged, unknown, longest }
  } finally {
    await Promise.all(programs.map((program) => program.kill()))
    await bed.stop()
  }
}

interface Row {
  readonly name: string
  readonly account: string | null
  readonly key_id: Buffer
  readonly key: Buffer
  readonly lease: Buffer | null
  readonly number: string | null
  readonly expires: string
}

/** Nothing lost, nothing doubled, no half of a commit. */
async function compare(primary: PostgresServer, coordinated: Book, logins: Book): Promise<void> {
  const rows = await primary.admin<Row>(
    'SELECT n.*, a.name AS account FROM godwit.nodes n LEFT JOIN godwit.accounts a ON a.name = n.account',
    'godwit',
  )
  const found = new Map(rows.map((row) => [row.name, row]))
  for (const book of [coordinated, logins])
    for (const [name, { possible, number }] of book.nodes) {
      const row = found.get(name)
      const version = row === undefined ? 0 : Number(row.expires)
      const may = [...possible].join(' or ')
      assert.ok(possible.has(version), `${name} is of version ${version}, and ${may} was acknowledged`)
      if (row === undefined) continue
      assert.notEqual(row.account, null, `the account of ${name}`)
      const [, writer = '', at = ''] = /^([a-z]+)([0-9]+)\./.exec(name) ?? []
      assert.deepEqual(
        new Uint8Array(row.key_id),
        bytesOf(16, writer, Number(at), version),
        `key id of ${name}`,
      )
      assert.deepEqual(new Uint8Array(row.key), bytesOf(32, writer, Number(at), version), `key of ${name}`)
      if (book === logins) continue
      const of = Number(row.number)
      assert.deepEqual(new Uint8Array(row.lease!), bytesOf(48, writer, of, version), `lease of ${name}`)
      if (possible.size === 1) assert.equal(of, number, `number of ${name}`)
      const holder = coordinated.numbers.get(of)
      assert.ok(holder === undefined || holder === name, `number ${of} is of ${name} and was of ${holder}`)
    }
  const numbers = rows.flatMap(({ number }) => (number === null ? [] : [number]))
  assert.equal(new Set(numbers).size, numbers.length, 'a number twice')
}

/** A working copy that was kept through all of it is what the database is, once it has caught up. */
async function compareCopy(primary: PostgresServer, init: StoreInit): Promise<void> {
  const reader = new WriterProgram(init, '', 0, new Book())
  await until(() => reader.isOpen || reader.ended !== undefined, 'the copy catches up')
  await reader.stop()
  assert.equal(reader.ended, undefined)
  const copy = openDatabase(init.file)
  try {
    for (const table of TABLES) {
      const key = (row: object) => JSON.stringify(row)
      const { rows } = copy.prepare(rowsAsJson(table, 'true')).get() as { rows: string }
      const [theirs] = await primary.admin<{ rows: object[] }>(
        `SELECT COALESCE(json_agg(row_to_json(t)), '[]') AS rows FROM godwit."${table.name}" AS t`,
        'godwit',
      )
      const [a, b] = [JSON.parse(rows.toLowerCase()) as object[], theirs!.rows].map((each) =>
        each.map(key).sort(),
      )
      assert.deepEqual(a, b, `the copy's ${table.name}`)
    }
  } finally {
    copy.close()
  }
}
