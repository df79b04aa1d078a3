/**
 * The working copy of a store whose durable state is in PostgreSQL. All reads and statements are SQLite's, on a file beside the settings;
 * at a commit, the rows that were changed go to PostgreSQL in one round trip, and the copy's own transaction is committed
 * after PostgreSQL has acknowledged. A commit whose answer was lost is rolled back here, and comes back with the
 * changes of others if it had been carried out: the copy is what the database is, at some commit of it. The file
 * may be lost: it is read anew.
 */
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { GodwitError } from '../../../core/errors.ts'
import { type Database, type Driver, openDatabase, type Statement } from '../sqlite.ts'
import { Link, type LinkInit, taken } from './link.ts'
import type { Answer, Mark, StoreReport, TableChange } from './protocol.ts'
import { MIGRATIONS } from './schema.ts'
import type { PostgresSettings } from './settings.ts'
import { deleteKeys, insertJson, quoted, rowsAsJson, TABLES, type Table, touchTriggers } from './tables.ts'

export interface RemoteInit {
  readonly settings: PostgresSettings
  /** Whose database this is: a zone, or an account server of it. */
  readonly zone: string
  /** The coordinator's own; accounts are also changed by others. `shared`: other coordinators of the zone use it, too. */
  readonly holds?: boolean | 'shared'
}

/** What is lost of it in a power cut is read anew. */
export const COPY = {
  synchronous: 'NORMAL',
  hint: 'stop the servers and remove it: it is read from PostgreSQL anew',
} as const

/** Holds the database for all coordinators of a zone that has several. */
const SEVERAL = 'several coordinators'
/** Rows that are written at a time. */
const COPIED = 5000
/** After a commit that was behind (ms): whoever asked for it asks again within four seconds. */
const PATIENT_MS = 5000

interface Reading {
  readonly keys: Statement
  readonly gone: Statement
  readonly rows: Statement
}

export class Replica {
  readonly #database: Database
  readonly #file: string
  readonly #driver: Driver | undefined
  readonly #link: Link
  readonly #touchedTables: Statement
  readonly #forgetTouched: Statement
  readonly #copy: Statement
  readonly #setCopy: Statement
  readonly #reading: readonly Reading[]
  #puller: Database | undefined
  /** Of the transaction at hand. */
  #base = 0
  #behindAt = Number.NEGATIVE_INFINITY
  #hasTurn = false

  /** The database has its tables already; afterwards it is as PostgreSQL's. */
  constructor(database: Database, file: string, driver: Driver | undefined, init: RemoteInit) {
    this.#database = database
    this.#file = file
    this.#driver = driver
    database.exec(
      'CREATE TABLE IF NOT EXISTS copy (one INTEGER PRIMARY KEY, owner TEXT NOT NULL, seq INTEGER NOT NULL, ident TEXT NOT NULL, of TEXT NOT NULL, timeline INTEGER NOT NULL, version INTEGER NOT NULL) STRICT',
    )
    database
      .prepare(`INSERT OR IGNORE INTO copy VALUES (1, ?, -1, '', '', 0, 0)`)
      .run(randomBytes(16).toString('hex'))
    // Of other tables: read anew.
    database
      .prepare('UPDATE copy SET version = ?, seq = -1 WHERE version <> ?')
      .run(MIGRATIONS.length, MIGRATIONS.length)
    database.exec('CREATE TEMP TABLE touched (tbl INTEGER NOT NULL, key NOT NULL)')
    for (const [at, table] of TABLES.entries())
      for (const trigger of touchTriggers(table, at)) database.exec(trigger)
    this.#touchedTables = database.prepare('SELECT DISTINCT tbl FROM temp.touched')
    this.#forgetTouched = database.prepare('DELETE FROM temp.touched')
    this.#copy = database.prepare('SELECT owner, seq, ident, of, timeline FROM copy')
    this.#setCopy = database.prepare('UPDATE copy SET seq = ?, ident = ?')
    this.#reading = TABLES.map((table, at) => {
      const touched = `(SELECT key FROM temp.touched WHERE tbl = ${at})`
      const isThere = `EXISTS (SELECT 1 FROM main."${table.name}" AS t WHERE t."${table.key}" = touched.key)`
      const there = table.grouped === true ? '' : `AND NOT ${isThere}`
      const all = `SELECT json_group_array(key) AS rows FROM (SELECT DISTINCT key FROM temp.touched WHERE tbl = ${at}`
      return {
        keys: database.prepare(`${all})`),
        gone: database.prepare(`${all} ${there})`),
        rows: database.prepare(rowsAsJson(table, `"${table.key}" IN ${touched}`)),
      }
    })
    const { owner } = this.#at()
    this.#link = new Link({
      ...{ settings: init.settings, zone: init.zone, mark: () => this.#mark() },
      hold: holdOf(init, owner),
    })
    try {
      this.#link.ready()
      this.#catchUp()
    } catch (error) {
      this.#link.close()
      throw error
    }
  }

  /** Whether commits fail at once. */
  get isAway(): boolean {
    return !this.#link.isUp
  }

  /** Called in a transaction that has begun. */
  begun(): void {
    this.#base = this.#at().seq
  }

  /**
   * Called before the look-ups of a turn that may write. One that was behind others lately goes before them: its requests are
   * repeated too late for the turn that a commit gives to who was behind.
   */
  beginTurn(): void {
    if (!this.#link.isUp || performance.now() - this.#behindAt > PATIENT_MS) return
    this.#hasTurn = true
    this.#turn('turn')
  }

  endTurn(): void {
    if (!this.#hasTurn) return
    this.#hasTurn = false
    if (this.#link.isUp) this.#turn('turn-end')
  }

  /** Without it, the commit is perhaps behind again. */
  #turn(type: 'turn' | 'turn-end'): void {
    try {
      this.#link.call({ type })
    } catch (error) {
      if ((error as GodwitError).code === 'STORE_TAKEN') throw error
    }
  }

  /**
   * Called before a transaction, and before look-ups: takes what others have changed. Throws STORE_TAKEN: this coordinator is none any
   * more. A database that is away, or fails, is no error here.
   */
  refresh(): void {
    if (this.#link.isFenced) throw taken()
    if (!this.#link.isUp || this.#link.last <= this.#at().seq) return
    try {
      this.#catchUp()
    } catch (error) {
      // What PostgreSQL refuses shows at the next commit, too, and a lock is free later; a working copy that cannot be written is the end.
      const isOfCopy = !(error instanceof GodwitError) || (error.op === 'database' && !isLocked(error))
      if (isOfCopy || error.code === 'STORE_TAKEN') throw error
    }
  }

  /** Returns when PostgreSQL has what was changed; throws if that is not certain. Then the copy's transaction is committed. */
  commit(): void {
    const tables = this.#touchedTables.all() as { tbl: number }[]
    if (tables.length === 0) {
      this.endTurn()
      return
    }
    // It ends with the commit, or by itself.
    this.#hasTurn = false
    const one = (statement: Statement) => (statement.get() as { rows: string }).rows
    const touched: string[] = []
    const changes: string[] = []
    for (const { tbl } of tables) {
      const { keys, gone, rows } = this.#reading[tbl]!
      const name = TABLES[tbl]!.name
      touched.push(`"${name}":${one(keys)}`)
      changes.push(`"${name}":{"cut":${one(gone)},"put":${one(rows)}}`)
    }
    const ident = randomBytes(8).toString('hex')
    const base = this.#base
    const answer = this.#link.call({
      ...{ type: 'apply', base, ident },
      ...{ touched: `{${touched.join()}}`, changes: `{${changes.join()}}` },
    })
    if (answer.outcome !== 'done') {
      this.#behindAt = performance.now()
      throw new GodwitError('STORE_AWAY', 'another writer has changed the database meanwhile', {
        op: 'behind',
        hint: 'try again',
      })
    }
    this.#forgetTouched.run()
    this.#setCopy.run(base + 1, ident)
  }

  /**
   * Writes all rows of another database of SQLite into PostgreSQL, in one transaction there. This store must be empty, and is
   * to be closed if this throws.
   */
  copyFrom(file: string): void {
    const database = this.#database
    database.prepare('ATTACH ? AS old').run(file)
    inTransaction(database, () => {
      this.begun()
      this.#link.callLong({ type: 'fill' })
      for (const table of TABLES) this.#copyTable(table)
      this.#link.callLong({ type: 'filled' })
    })
    database.exec('DETACH old')
  }

  #copyTable({ name, key, columns }: Table): void {
    const database = this.#database
    const list = quoted(Object.keys(columns))
    const end = database.prepare(
      `SELECT MAX("${key}") AS last FROM (SELECT "${key}" FROM old."${name}" WHERE ? IS NULL OR "${key}" > ? ORDER BY "${key}" LIMIT ${COPIED})`,
    )
    const copy = database.prepare(
      `INSERT INTO main."${name}" (${list}) SELECT ${list} FROM old."${name}" WHERE (? IS NULL OR "${key}" > ?) AND "${key}" <= ?`,
    )
    database.exec(`DELETE FROM main."${name}"`)
    for (let after: string | number | null = null; ; ) {
      const { last } = end.get(after, after) as { last: string | number | null }
      if (last === null) return
      copy.run(after, after, last)
      this.commit()
      this.begun()
      after = last
    }
  }

  report(): StoreReport {
    const answer = this.#link.call({ type: 'report' })
    return (answer as Extract<Answer, { outcome: 'report' }>).report
  }

  close(): void {
    this.#link.close()
    this.#puller?.close()
  }

  #at(): { owner: string; seq: number; ident: string; of: string; timeline: number } {
    return this.#copy.get() as never
  }

  #mark(): Mark | undefined {
    const { seq, ident, of, timeline } = this.#at()
    return seq < 0 ? undefined : { seq, ident, database: of, timeline }
  }

  /** Without the triggers of this connection: these are the changes of others. */
  #pulling(): Database {
    if (this.#puller === undefined) {
      this.#puller = openDatabase(this.#file, this.#driver, COPY)
      this.#puller.exec('PRAGMA foreign_keys = OFF')
    }
    return this.#puller
  }

  /** Makes the copy what the database is. */
  #catchUp(): void {
    const { seq, ident, of } = this.#at()
    if (seq >= 0) {
      const answer = this.#link.call({ type: 'changes', since: seq, ident, database: of })
      if (answer.outcome === 'changes') {
        this.#take(seq, answer.mark, answer.tables)
        return
      }
    }
    this.#load()
  }

  #take(since: number, mark: Mark, tables: readonly TableChange[]): void {
    const database = this.#pulling()
    inTransaction(database, () => {
      // Another thread of this program may have taken them meanwhile.
      const { seq } = database.prepare('SELECT seq FROM copy').get() as { seq: number }
      if (seq !== since) return
      for (const { table, keys } of tables) database.prepare(deleteKeys(TABLES[table]!)).run(keys)
      for (const { table, rows } of tables) database.prepare(insertJson(TABLES[table]!)).run(rows)
      note(database, mark)
    })
  }

  /** Everything, a page at a time. */
  #load(): void {
    const database = this.#pulling()
    inTransaction(database, () => {
      try {
        const { mark } = this.#link.callLong({ type: 'load' }) as Extract<Answer, { outcome: 'at' }>
        for (const at of TABLES.keys()) this.#loadTable(database, at)
        note(database, mark)
      } finally {
        this.#link.callLong({ type: 'loaded' })
      }
    })
  }

  #loadTable(database: Database, at: number): void {
    const table = TABLES[at]!
    database.exec(`DELETE FROM "${table.name}"`)
    const insert = database.prepare(insertJson(table))
    let after: string | null = null
    do {
      const page: Answer = this.#link.callLong({ type: 'page', table: at, after })
      const { rows, last } = page as Extract<Answer, { outcome: 'page' }>
      if (last !== null) insert.run(rows)
      after = last
    } while (after !== null)
  }
}

/** Another thread or program waits for PostgreSQL with the copy's lock. */
function isLocked({ message }: GodwitError): boolean {
  return /locked|busy/.test(message)
}

function holdOf({ holds }: RemoteInit, owner: string): LinkInit['hold'] {
  if (holds === undefined || holds === false) return undefined
  const isShared = holds === 'shared'
  return { owner: isShared ? SEVERAL : `${owner}@${machineId()}`, host: hostname(), isShared }
}

/** Another one for a state folder that was copied to another host. */
function machineId(): string {
  try {
    return createHash('sha256').update(readFileSync('/etc/machine-id')).digest('hex').slice(0, 16)
  } catch {
    return hostname()
  }
}

function note(database: Database, { seq, ident, database: of, timeline }: Mark): void {
  database.prepare('UPDATE copy SET seq = ?, ident = ?, of = ?, timeline = ?').run(seq, ident, of, timeline)
}

function inTransaction(database: Database, work: () => void): void {
  database.exec('BEGIN IMMEDIATE')
  try {
    work()
    database.exec('COMMIT')
  } catch (error) {
    try {
      database.exec('ROLLBACK')
    } catch {}
    throw error
  }
}
