/** The commands that leave files for nodes of an overlay that are asleep, and fetch them. */
import { statSync } from 'node:fs'
import { GodwitError, usageError } from '../../core/errors.ts'
import { RealClock } from '../../linux/clock.ts'
import {
  CacheClient,
  cachesOf,
  credentialsOf,
  type Exchange,
  type FetchedFiles,
  fetchWaiting,
  type Listed,
  LOGIN_FILE,
  listAll,
  readLogin,
  type Sent,
  sendToAny,
  zoneOf,
} from '../../overlay/index.ts'
import type { State } from '../stores/state.ts'

export interface SendOptions {
  readonly days: number
}

async function exchangesOf(state: State): Promise<readonly [Exchange, ...Exchange[]]> {
  const login = readLogin(state.file(LOGIN_FILE))
  if (login === undefined)
    throw new GodwitError('NOT_LOGGED_IN', `there is no ${state.file(LOGIN_FILE)}`, {
      kind: 'usage',
      hint: 'log in first: godwit overlay login ACCOUNT --server URL',
    })
  const clock = new RealClock()
  const [first, ...others] = (await cachesOf(login)).map((at) => ({
    ...{ login, client: new CacheClient(at, credentialsOf(login)), wall: () => clock.wall() },
    file: (name: string) => state.file(name),
  }))
  if (first === undefined)
    throw new GodwitError('CACHE_NONE', `the zone ${zoneOf(login.name)} has no cache server`, {
      hint: 'its servers run it with --roles as,dc,ns,rs,cs',
    })
  return [first, ...others]
}

/** Rejects with CACHE_FAILED, CACHE_REFUSED, CACHE_NONE, FILE_CHANGED, FILE_MISSING, NOT_LOGGED_IN. */
export async function sendTo(
  state: State,
  file: string,
  names: readonly string[],
  { days }: SendOptions,
  progress: (done: number, all: number) => void,
): Promise<Sent & { readonly recipients: readonly string[] }> {
  const exchanges = await exchangesOf(state)
  const zone = zoneOf(exchanges[0].login.name)
  const full = names.map((name) => name.toLowerCase().replace(/\.$/, ''))
  const recipients = [...new Set(full.map((name) => (name.includes('.') ? name : `${name}.${zone}`)))]
  const foreign = recipients.find((name) => zoneOf(name) !== zone)
  if (foreign !== undefined)
    throw usageError(`${foreign} is not of the zone ${zone}`, {
      hint: 'the cache server serves the nodes of its own zone',
    })
  return { ...(await sendToAny(exchanges, file, recipients, days, progress)), recipients }
}

export interface ListedObject {
  readonly id: string
  readonly from: string
  readonly bytes: number
  readonly sent: string
  readonly expires: string
}

export interface Inbox {
  readonly objects: readonly ListedObject[]
  readonly unreached: Listed['unreached']
}

export async function inboxOf(state: State): Promise<Inbox> {
  const { waiting, unreached } = await listAll(await exchangesOf(state))
  const objects = waiting.map(({ id, from, bytes, sent, expires }) => ({
    ...{ id, from, bytes },
    ...{ sent: new Date(sent).toISOString(), expires: new Date(expires).toISOString() },
  }))
  return { objects, unreached }
}

/** Fetches all that waits; what is damaged, or a server that does not answer, does not keep others. Rejects with CACHE_FAILED and the like. */
export async function fetchAll(state: State, folder: string): Promise<FetchedFiles> {
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw usageError(`--out: ${folder} is not a folder`)
  return fetchWaiting(await exchangesOf(state), folder)
}
