/** The commands that leave files for nodes of an overlay that are asleep, and fetch them. */
import { statSync } from 'node:fs'
import { GodwitError, usageError } from '../../core/errors.ts'
import { RealClock } from '../../linux/clock.ts'
import {
  CacheClient,
  cacheOf,
  credentialsOf,
  type Exchange,
  LOGIN_FILE,
  listWaiting,
  readLogin,
  receive,
  type Sent,
  sendFile,
  zoneOf,
} from '../../overlay/index.ts'
import type { State } from '../stores/state.ts'

export interface SendOptions {
  readonly days: number
}

async function exchangeOf(state: State): Promise<Exchange> {
  const login = readLogin(state.file(LOGIN_FILE))
  if (login === undefined)
    throw new GodwitError('NOT_LOGGED_IN', `there is no ${state.file(LOGIN_FILE)}`, {
      kind: 'usage',
      hint: 'log in first: godwit overlay login ACCOUNT --server URL',
    })
  const at = await cacheOf(login)
  if (at === undefined)
    throw new GodwitError('CACHE_NONE', `the zone ${zoneOf(login.name)} has no cache server`, {
      hint: 'its servers run it with --roles as,dc,ns,rs,cs',
    })
  const clock = new RealClock()
  return {
    ...{ login, client: new CacheClient(at, credentialsOf(login)), wall: () => clock.wall() },
    file: (name) => state.file(name),
  }
}

/** Rejects with CACHE_FAILED, CACHE_REFUSED, CACHE_NONE, FILE_CHANGED, FILE_MISSING, NOT_LOGGED_IN. */
export async function sendTo(
  state: State,
  file: string,
  names: readonly string[],
  { days }: SendOptions,
  progress: (done: number, all: number) => void,
): Promise<Sent & { readonly recipients: readonly string[] }> {
  const exchange = await exchangeOf(state)
  const zone = zoneOf(exchange.login.name)
  const full = names.map((name) => name.toLowerCase().replace(/\.$/, ''))
  const recipients = [...new Set(full.map((name) => (name.includes('.') ? name : `${name}.${zone}`)))]
  const foreign = recipients.find((name) => zoneOf(name) !== zone)
  if (foreign !== undefined)
    throw usageError(`${foreign} is not of the zone ${zone}`, {
      hint: 'the cache server serves the nodes of its own zone',
    })
  return { ...(await sendFile(exchange, file, recipients, days, progress)), recipients }
}

export interface ListedObject {
  readonly id: string
  readonly from: string
  readonly bytes: number
  readonly sent: string
  readonly expires: string
}

export async function inboxOf(state: State): Promise<readonly ListedObject[]> {
  return (await listWaiting(await exchangeOf(state))).map(({ id, from, bytes, sent, expires }) => ({
    ...{ id, from, bytes },
    ...{ sent: new Date(sent).toISOString(), expires: new Date(expires).toISOString() },
  }))
}

export interface Fetched {
  readonly received: readonly { readonly path: string; readonly from: string }[]
  readonly failed: readonly { readonly from: string; readonly reason: string }[]
}

/** Fetches all that waits; one that is damaged does not keep others. Rejects with CACHE_FAILED and the like. */
export async function fetchAll(state: State, folder: string): Promise<Fetched> {
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw usageError(`--out: ${folder} is not a folder`)
  const exchange = await exchangeOf(state)
  const received: { path: string; from: string }[] = []
  const failed: { from: string; reason: string }[] = []
  for (const object of await listWaiting(exchange)) {
    const { from } = object
    try {
      received.push({ path: await receive(exchange, object, folder), from })
    } catch (error) {
      if (!isOfObject(error)) throw error
      failed.push({ from, reason: (error as Error).message })
    }
  }
  return { received, failed }
}

/** A fault of one object, not of the connection or this machine. */
function isOfObject(error: unknown): boolean {
  return error instanceof GodwitError && error.code === 'CACHE_DAMAGED'
}
