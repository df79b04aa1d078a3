/** One connection to one server of PostgreSQL that takes writes; every question has a time limit. */
import { createRequire } from 'node:module'
import { GodwitError, missingError } from '../../../core/errors.ts'
import { MIGRATIONS, OLDEST_SERVER, SQL } from './schema.ts'
import { type PostgresSettings, parseStoreUrl, passwordOf, type StoreHost, textOf } from './settings.ts'

/** To connect, and for every answer (ms). A commit that a standby does not confirm in this time counts as not acknowledged. */
export const ANSWER_MS = 3000

/** For the lock that every commit takes (ms): shorter, so that one that waits for it was certainly not carried out. */
const LOCK_MS = 2000

/** Not this server: a standby, or the connection is lost. The next one is tried. */
export class Unusable extends Error {}

export interface Place extends StoreHost {
  readonly user: string
  readonly database: string
  readonly settings: PostgresSettings
}

export function placesOf(settings: PostgresSettings): readonly Place[] {
  const url = parseStoreUrl(settings.url)!
  const { user, database } = url
  return url.hosts.map((host) => ({ ...host, user, database, settings }))
}

export function placeName({ host, port }: StoreHost): string {
  if (host.startsWith('/')) return `${host}/.s.PGSQL.${port}`
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** As much of the driver as is used; it is an optional package. */
export interface Client {
  connect(): Promise<unknown>
  query(
    query: string | { readonly text: string; readonly values: readonly unknown[]; readonly name?: string },
  ): Promise<{ readonly rows: unknown[] }>
  end(): Promise<void>
  on(event: 'error' | 'end', listener: (error: Error) => void): void
  on(event: 'notice', listener: (notice: { readonly message: string }) => void): void
}

type ClientClass = new (config: Readonly<Record<string, unknown>>) => Client

/** Throws MISSING. */
export function clientClass(): ClientClass {
  try {
    const { Client } = createRequire(import.meta.url)('pg') as { readonly Client: ClientClass }
    return Client
  } catch (error) {
    throw missingError('the driver of PostgreSQL is not installed', 'npm install pg', { cause: error })
  }
}

export class Session {
  readonly place: Place
  readonly timeline: number
  readonly version: string
  readonly #client: Client
  readonly #onLost: (error: Error) => void
  #lost: Error | undefined
  /** A server that ends a wait for its standby says so in a warning, and the commit succeeds. */
  #warning: string | undefined
  readonly #fails = new Set<(error: Error) => void>()

  private constructor(place: Place, client: Client, version: string, timeline: number, onLost: () => void) {
    this.place = place
    this.version = version
    this.timeline = timeline
    this.#client = client
    this.#onLost = onLost
    client.on('notice', ({ message }) => {
      this.#warning = message
    })
    client.on('error', (error) => this.end(error))
    client.on('end', () => this.end(new Unusable('the connection was closed')))
  }

  /** Throws Unusable, or a GodwitError that time does not mend. */
  static async open(place: Place, onLost: () => void): Promise<Session> {
    const { host, port, user, database, settings } = place
    const PgClient = clientClass()
    const password = passwordOf(settings)
    const ssl =
      settings.tls === 'off' || host.startsWith('/')
        ? false
        : {
            rejectUnauthorized: true,
            ...(settings.ca_file !== undefined && { ca: textOf(settings.ca_file) }),
          }
    const client = new PgClient({
      ...{ host, port, user, database, ssl, application_name: 'godwit' },
      // Not what the environment or ~/.pgpass say.
      password: password ?? '',
      connectionTimeoutMillis: ANSWER_MS,
      keepAlive: true,
      options: `-c synchronous_commit=${settings.commit} -c lock_timeout=${LOCK_MS} -c client_min_messages=warning -c statement_timeout=0`,
    })
    const early = new Promise<never>((_, reject) => client.on('error', reject))
    early.catch(() => {})
    try {
      // connectionTimeoutMillis ends with the connection of TCP; a server that is stopped accepts that.
      await within(Promise.race([client.connect(), early]))
      const { rows } = await within(client.query(SQL.server))
      const [server] = rows as { version: string; number: number; standby: boolean }[]
      if (server === undefined || server.standby) throw new Unusable('a standby')
      if (server.number < OLDEST_SERVER)
        throw new GodwitError(
          'STORE_REFUSED',
          `${placeName(place)} is PostgreSQL ${server.version}, which is too old`,
          {
            hint: 'version 13 or newer is needed',
          },
        )
      const { rows: lines } = await within(client.query(SQL.timeline))
      const { timeline } = lines[0] as { timeline: number }
      return new Session(place, client, server.version, timeline, onLost)
    } catch (error) {
      destroy(client)
      throw explained(error, place)
    }
  }

  get isLost(): boolean {
    return this.#lost !== undefined
  }

  /** Rows of one statement. Throws Unusable when there is no answer in time: it may have been carried out or not. */
  async query<Row>(sql: string, values: readonly unknown[] = [], ms = ANSWER_MS): Promise<readonly Row[]> {
    if (this.#lost !== undefined) throw this.#lost
    this.#warning = undefined
    let fail: (error: Error) => void = () => {}
    const lost = new Promise<never>((_, reject) => {
      fail = reject
    })
    lost.catch(() => {})
    this.#fails.add(fail)
    try {
      const asked = this.#client.query({
        text: sql,
        values: [...values],
        ...(sql === SQL.apply && { name: 'apply' }),
      })
      const { rows } = await within(Promise.race([asked, lost]), ms)
      // It may be on the primary alone: what is committed after it tells (the first write of the next connection).
      if (this.#warning !== undefined) throw new Unusable(this.#warning)
      return rows as Row[]
    } catch (error) {
      // What the server itself refuses leaves the connection as it is.
      if (codeOf(error) === undefined || FATAL.test(codeOf(error)!)) this.end(error as Error)
      throw codeOf(error) === undefined ? error : explained(error, this.place)
    } finally {
      this.#fails.delete(fail)
    }
  }

  /** Several statements as one transaction. */
  async transaction<T>(begin: string, work: () => Promise<T>): Promise<T> {
    await this.query(begin)
    try {
      const result = await work()
      await this.query('COMMIT')
      return result
    } catch (error) {
      if (!this.isLost) await this.query('ROLLBACK').catch(() => {})
      throw error
    }
  }

  /** Brings the tables to this version. Throws STORE_REFUSED if a newer godwit has been here. */
  async migrate(): Promise<void> {
    await this.transaction('BEGIN', async () => {
      await this.query(SQL.migrating, [], 30_000)
      const [found] = await this.query<{ there: boolean }>(SQL.hasSchema)
      const [state] = found?.there === true ? await this.query<{ version: number }>(SQL.version) : []
      const version = state?.version ?? 0
      if (version > MIGRATIONS.length)
        throw new GodwitError('STORE_REFUSED', `the database was written by a newer godwit (${version})`, {
          hint: 'install that version here, too',
        })
      if (version === MIGRATIONS.length) return
      for (const statements of MIGRATIONS.slice(version))
        for (const statement of statements) await this.query(statement, [], 60_000)
      await this.query(SQL.setVersion, [MIGRATIONS.length])
    })
  }

  /** Nothing is asked any more; what was asked fails. */
  end(error: Error): void {
    if (this.#lost !== undefined) return
    this.#lost = error instanceof Unusable ? error : new Unusable(error.message)
    for (const fail of this.#fails) fail(this.#lost)
    destroy(this.#client)
    this.#onLost(this.#lost)
  }

  /** Says goodbye. */
  async close(): Promise<void> {
    this.#lost ??= new Unusable('closed')
    await within(this.#client.end()).catch(() => destroy(this.#client))
  }
}

/**
 * The server closes the connection after these, takes no writes (25006), or does not get on with a commit of another connection (55P03),
 * as one without its standby: others are tried.
 */
const FATAL = /^(08|57P|25006|55P03)/
/** A role, password, database or right that is wrong: it stays so until somebody changes it. */
const REFUSED = /^(28|3D|42501|3F)/

/** What waiting does not mend: a full disk, damage, a constraint, tables that somebody has changed. */
const BROKEN = /^(22|23|42|53100|54|58|XX)/

function codeOf(error: unknown): string | undefined {
  const { code } = error as { readonly code?: unknown }
  return typeof code === 'string' && /^(?=.*[0-9])[0-9A-Z]{5}$/.test(code) ? code : undefined
}

function explained(error: unknown, place: Place): Error {
  if (error instanceof GodwitError || error instanceof Unusable) return error
  const { message } = error as Error
  const code = codeOf(error)
  const what = `${placeName(place)}: ${message}`
  if (code !== undefined && REFUSED.test(code))
    return new GodwitError('STORE_REFUSED', what, {
      cause: error,
      hint: `as an administrator of PostgreSQL: create role "${place.user}" with its password, and database "${place.database}" that it owns (docs/overlay.md, "PostgreSQL")`,
    })
  if (code !== undefined && BROKEN.test(code))
    return new GodwitError('STORE_FAILED', what, {
      cause: error,
      hint: code === '53100' ? 'make room on its disk' : 'look into the log of PostgreSQL',
    })
  return new Unusable(what)
}

/** There is no call to end a connection that does not answer. */
function destroy(client: Client): void {
  client.on('error', () => {})
  const { connection } = client as unknown as { connection?: { stream?: { destroy(): void } } }
  connection?.stream?.destroy()
}

function within<T>(work: Promise<T>, ms = ANSWER_MS): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Unusable(`no answer in ${ms / 1000} s`)), ms)
    work.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}
