/** Between the thread of a store (link.ts), which waits for answers, and the thread that talks to PostgreSQL (link-worker.ts). */
import type { MessagePort } from 'node:worker_threads'
import type { ErrorKind } from '../../../core/errors.ts'
import type { PostgresSettings } from './settings.ts'

/** What the copy has seen last; a database that has not is not the one that acknowledged it. */
export interface Mark {
  /** Number of the last commit, and its name, which is random. */
  readonly seq: number
  readonly ident: string
  /** The database's own name. */
  readonly database: string
  readonly timeline: number
}

export interface LinkSetup {
  readonly settings: PostgresSettings
  readonly zone: string
  /** Undefined: this store is not a coordinator's. `owner`: the state that it runs from. `isShared`: other coordinators have it, too. */
  readonly hold: { readonly owner: string; readonly host: string; readonly isShared: boolean } | undefined
  readonly mark: Mark | undefined
  /** Int32: [SIGNAL] changes with every answer, [STATUS], [ENDED] 1: the thread has ended; 64 bits: [LAST] number of the last commit that is known. */
  readonly shared: SharedArrayBuffer
  readonly port: MessagePort
}

export const SIGNAL = 0
export const STATUS = 1
/** Index of a 64-bit number. */
export const LAST = 1
/** Int32, behind the 64-bit number. */
export const ENDED = 4
export const SHARED_BYTES = 24

export const Status = { STARTING: 0, UP: 1, AWAY: 2, FENCED: 3 } as const

/** The thread that talks to PostgreSQL has ended; called by itself, and for it. */
export function noteEnd(numbers: Int32Array): void {
  if (Atomics.load(numbers, STATUS) !== Status.FENCED) Atomics.store(numbers, STATUS, Status.AWAY)
  Atomics.store(numbers, ENDED, 1)
  Atomics.add(numbers, SIGNAL, 1)
  Atomics.notify(numbers, SIGNAL)
}

export type Request =
  /** Answered when the database is connected, or cannot be. */
  | { readonly type: 'ready' }
  | {
      readonly type: 'apply'
      readonly base: number
      readonly ident: string
      /** JSON: {TABLE: [KEY…]}; null: copies elsewhere are to be read anew. */
      readonly touched: string | null
      /** JSON: {TABLE: {cut: [KEY…], put: [ROW…]}}. */
      readonly changes: string
    }
  /** Other writers wait until this one has committed; its end without a commit. */
  | { readonly type: 'turn' }
  | { readonly type: 'turn-end' }
  /** What was committed after `since`. */
  | { readonly type: 'changes'; readonly since: number; readonly ident: string; readonly database: string }
  /** Begins to read everything as of one commit, or ends it. */
  | { readonly type: 'load' }
  | { readonly type: 'page'; readonly table: number; readonly after: string | null }
  | { readonly type: 'loaded' }
  /** Several `apply` in one transaction. */
  | { readonly type: 'fill' }
  | { readonly type: 'filled' }
  | { readonly type: 'report' }
  | { readonly type: 'close' }

/** Of one table: keys that were changed, and their rows (JSON). */
export interface TableChange {
  readonly table: number
  readonly keys: string
  readonly rows: string
}

export type Answer =
  | { readonly outcome: 'done' }
  /** Another writer was first: the changes were made on what is not the last commit. */
  | { readonly outcome: 'behind' }
  | { readonly outcome: 'fenced' }
  | { readonly outcome: 'away'; readonly why: string }
  | { readonly outcome: 'failed'; readonly error: FailedWith }
  | { readonly outcome: 'at'; readonly mark: Mark }
  | { readonly outcome: 'changes'; readonly mark: Mark; readonly tables: readonly TableChange[] }
  /** More has changed than is noted. */
  | { readonly outcome: 'reload' }
  | { readonly outcome: 'page'; readonly rows: string; readonly last: string | null }
  | { readonly outcome: 'report'; readonly report: StoreReport }

export interface FailedWith {
  readonly code: string
  readonly message: string
  readonly hint?: string | undefined
  readonly kind?: ErrorKind
}

/** For `overlay store` and `doctor`. */
export interface StoreReport {
  /** HOST:PORT of the server that is used. */
  readonly host: string
  /** Of PostgreSQL. */
  readonly version: string
  readonly tls: boolean
  readonly synchronous_commit: string
  readonly synchronous_standby_names: string
  /** Standbys that confirm commits now; null: this role may not see them. */
  readonly synchronous_standbys: number | null
  /** What of its settings loses acknowledged commits in a crash. */
  readonly unsafe: readonly string[]
  readonly commits: number
  readonly schema: number
  /** The host of the coordinator that has the database. */
  readonly held_by: string | null
}
