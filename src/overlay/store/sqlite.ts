/**
 * SQLite as the store uses it: Node's own where it has one (22.13 and newer), else libsql, which comes prebuilt from npm. Both
 * are synchronous. Write-ahead log, and fsync at every commit: what was committed survives a power cut.
 */
import { chmodSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { GodwitError, missingError } from '../../core/errors.ts'

export type Value = string | number | bigint | null | Uint8Array
export type Row = Readonly<Record<string, unknown>>

export interface Statement {
  run(...values: Value[]): unknown
  get(...values: Value[]): unknown
  all(...values: Value[]): unknown[]
}

export interface Database {
  exec(sql: string): void
  prepare(sql: string): Statement
  close(): void
}

export interface Driver {
  readonly name: string
  open(file: string): Database
}

const requireModule = createRequire(import.meta.url)

/** Node's warning that its SQLite may change is for programmers. */
function quietly<T>(load: () => T): T {
  const { emitWarning } = process
  process.emitWarning = () => {}
  try {
    return load()
  } finally {
    process.emitWarning = emitWarning
  }
}

type Class<T> = new (file: string) => T

interface LibsqlStatement {
  run(values: Value[]): unknown
  get(values: Value[]): unknown
  all(values: Value[]): unknown[]
}

interface LibsqlDatabase extends Omit<Database, 'prepare'> {
  prepare(sql: string): LibsqlStatement
}

/** libsql interprets a single byte array as a list of values, so values are always passed as a list. */
function openLibsql(Libsql: Class<LibsqlDatabase>, file: string): Database {
  const database = new Libsql(file)
  return {
    exec: (sql) => database.exec(sql),
    close: () => database.close(),
    prepare(sql) {
      const statement = database.prepare(sql)
      return {
        run: (...values) => statement.run(values),
        get: (...values) => statement.get(values),
        all: (...values) => statement.all(values),
      }
    },
  }
}

/** The module, if this machine has it. */
function find<T>(name: string): T | undefined {
  try {
    return quietly(() => requireModule(name)) as T
  } catch {
    return undefined
  }
}

/** The drivers that this machine has, the preferred one first. */
export function drivers(): readonly Driver[] {
  const own = find<{ readonly DatabaseSync: Class<Database> }>('node:sqlite')
  const libsql = find<Class<LibsqlDatabase>>('libsql')
  return [
    ...(own === undefined
      ? []
      : [{ name: 'node:sqlite', open: (file: string) => new own.DatabaseSync(file) }]),
    ...(libsql === undefined ? [] : [{ name: 'libsql', open: (file: string) => openLibsql(libsql, file) }]),
  ]
}

/**
 * The database has keys and hashes of passwords; it and its logs are the owner's alone. By name: whoever opens and closes a
 * database's file lets go of all locks that SQLite holds on it in this process (fcntl(2)).
 */
function hide(file: string): void {
  for (const each of [file, `${file}-wal`, `${file}-shm`]) {
    const mode = statSync(each, { throwIfNoEntry: false })?.mode ?? 0
    if ((mode & 0o077) !== 0) chmodSync(each, 0o600)
  }
}

export interface DatabaseOptions {
  readonly synchronous: 'FULL' | 'NORMAL'
  /** What to do with a damaged one. */
  readonly hint: string
}

/** What is committed is on the disk. */
const DURABLE: DatabaseOptions = {
  synchronous: 'FULL',
  hint: 'stop the server and put a copy of it back (docs/overlay.md, "When something goes wrong")',
}

export function openDatabase(
  file: string,
  driver: Driver | undefined = drivers()[0],
  options: DatabaseOptions = DURABLE,
): Database {
  if (driver === undefined)
    throw missingError('this Node.js has no SQLite, and libsql is not installed', 'npm install libsql')
  let database: Database | undefined
  try {
    database = driver.open(file)
    // A pragma returns a row, which exec of libsql does not accept.
    const mode = database.prepare('PRAGMA journal_mode = WAL').get() as { journal_mode?: string } | undefined
    if (mode?.journal_mode !== 'wal') throw new Error('the file system has no shared memory for its log')
    hide(file)
    database.exec(`PRAGMA synchronous = ${options.synchronous}`)
    database.exec('PRAGMA foreign_keys = ON')
    database.exec('PRAGMA busy_timeout = 5000')
    return explained(file, database, options.hint)
  } catch (error) {
    database?.close()
    throw failure(file, error, options.hint)
  }
}

/** Its errors are STORE_FAILED and say what to do. */
function explained(file: string, database: Database, damaged: string): Database {
  const named = <T>(work: () => T): T => {
    try {
      return work()
    } catch (error) {
      throw failure(file, error, damaged)
    }
  }
  return {
    exec: (sql) => named(() => database.exec(sql)),
    close: () => database.close(),
    prepare(sql) {
      const statement = named(() => database.prepare(sql))
      return {
        run: (...values) => named(() => statement.run(...values)),
        get: (...values) => named(() => statement.get(...values)),
        all: (...values) => named(() => statement.all(...values)),
      }
    },
  }
}

function failure(file: string, error: unknown, damaged: string): GodwitError {
  const { message } = error as Error
  const hint = /malformed|not a database/.test(message)
    ? damaged
    : /full/.test(message)
      ? 'make room on its disk'
      : /I\/O error/.test(message)
        ? 'its disk is full, or fails (dmesg)'
        : 'is it a database of godwit, on a local file system, that this user may write?'
  return new GodwitError('STORE_FAILED', `${file}: ${message}`, { op: 'database', hint, cause: error })
}
