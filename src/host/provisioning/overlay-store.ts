/** `godwit overlay store`: where the durable state of the overlay's servers is, and moving it into PostgreSQL. */
import { existsSync, renameSync, rmSync } from 'node:fs'
import { resolve } from 'node:path'
import { GodwitError, usageError } from '../../core/errors.ts'
import {
  type AnySettings,
  COPY_FILE,
  checkStoreUrl,
  DATABASE_FILE,
  isMember,
  type PostgresSettings,
  readAnySettings,
  risksOf,
  SETTINGS_FILE,
  Store,
  type StoreReport,
  storeOf,
  writeAnySettings,
} from '../../overlay/servers/index.ts'
import type { Finding } from '../daemon/doctor.ts'
import type { State } from '../stores/state.ts'

export interface ShownStore {
  readonly kind: 'sqlite' | 'postgresql'
  /** SQLite's file, or that of the working copy. */
  readonly file: string
  readonly server: StoreReport | null
  /** What loses acknowledged changes. */
  readonly risks: readonly string[]
}

/** Throws STORE_AWAY and the like when PostgreSQL cannot be used. */
export function showStore(state: State): ShownStore {
  const settings = keeperSettings(state)
  const init = storeOf(settings, (name) => state.file(name))
  if (init.remote === undefined) return { kind: 'sqlite', file: init.file, server: null, risks: [] }
  const store = new Store(init)
  try {
    const server = store.report()!
    return { kind: 'postgresql', file: init.file, server, risks: risksOf(server) }
  } finally {
    store.close()
  }
}

export interface MoveOptions {
  readonly passwordFile?: string
  readonly ca?: string
  readonly tls?: boolean
  readonly commit?: 'on' | 'remote_apply'
}

/** What was SQLite's database stays beside, under this name. */
const MOVED = '.moved'

/** Everything goes into PostgreSQL, or nothing. Throws STORE_REFUSED, STORE_AWAY, USAGE. */
export function moveStore(state: State, url: string, options: MoveOptions): ShownStore {
  checkStoreUrl(url)
  const settings = keeperSettings(state)
  if (settings.store !== undefined)
    throw usageError('the state is in PostgreSQL already', { hint: 'godwit overlay store show' })
  const { passwordFile, ca, tls = true, commit = 'on' } = options
  const store: PostgresSettings = {
    ...{ url, tls: tls ? 'verify' : 'off', commit },
    ...(passwordFile !== undefined && { password_file: resolve(passwordFile) }),
    ...(ca !== undefined && { ca_file: resolve(ca) }),
  }
  const moved: AnySettings = { ...settings, store }
  // Nothing is changed in it while it is read.
  state.lock()
  try {
    const copy = state.file(COPY_FILE)
    const old = state.file(DATABASE_FILE)
    removeDatabase(copy)
    const target = new Store(storeOf(moved, (name) => state.file(name)))
    try {
      target.moveFrom(old)
    } catch (error) {
      target.close()
      removeDatabase(copy)
      throw error
    }
    target.close()
    writeAnySettings(state.file(SETTINGS_FILE), moved)
    for (const suffix of ['-wal', '-shm', ''])
      if (existsSync(`${old}${suffix}`)) renameSync(`${old}${suffix}`, `${old}${MOVED}${suffix}`)
  } finally {
    state.unlock()
  }
  return showStore(state)
}

function removeDatabase(file: string): void {
  for (const suffix of ['', '-wal', '-shm']) rmSync(`${file}${suffix}`, { force: true })
}

/** Of a process that keeps state. */
function keeperSettings(state: State): AnySettings {
  const settings = readAnySettings(state.file(SETTINGS_FILE))
  if (isMember(settings) && !settings.roles.includes('as'))
    throw new GodwitError('ROLE_ELSEWHERE', `server ${settings.name} keeps no accounts`, {
      kind: 'usage',
      hint: 'run it on the host of the coordinator, or of the account server',
    })
  return settings
}

/** For `doctor`; none where no server of an overlay has its state in PostgreSQL. */
export function storeFindings(state: State): readonly Finding[] {
  if (!existsSync(state.file(SETTINGS_FILE))) return []
  const common = { name: 'database of the overlay', parts: ['overlay serve'], required: false }
  try {
    const { server, risks } = showStore(state)
    if (server === null) return []
    const { host, version, tls, synchronous_standbys, held_by } = server
    const standbys = synchronous_standbys === null ? 'standbys hidden' : `${synchronous_standbys} synchronous`
    const by = held_by === null ? 'no coordinator' : `coordinator on ${held_by}`
    const value = `PostgreSQL ${version} at ${host}, ${tls ? 'TLS' : 'no TLS'}, ${standbys}, ${by}`
    const [risk] = risks
    return risk === undefined
      ? [{ ...common, ok: true, value }]
      : [{ ...common, ok: false, value: risk.split('; ')[0]!, mend: risk.split('; ')[1] ?? value }]
  } catch (error) {
    if (!(error instanceof GodwitError) || error.code === 'ROLE_ELSEWHERE') return []
    return [{ ...common, ok: false, value: error.message, mend: error.hint ?? 'godwit overlay store show' }]
  }
}
