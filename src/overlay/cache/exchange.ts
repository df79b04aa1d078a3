/** Sending files to nodes that are asleep, and fetching what waits for this one (NT-26). */
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import * as z from 'zod'
import { GodwitError } from '../../core/errors.ts'
import { generatePrivateKey, publicKeyOf, verifyBytes } from '../../crypto/keys.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { writeSecret } from '../../mechanism/files.ts'
import { keyIn, type Login } from '../node/login.ts'
import { checkLease } from '../wire/lease.ts'
import { type CacheClient, changed, fetchObject, hashOf, openObject, SealedFile } from './client.ts'
import { KEY, type Party, safeName, unwrapKey, wrapKey } from './envelope.ts'

export interface Exchange {
  readonly login: Login
  readonly client: CacheClient
  /** Milliseconds since 1970. */
  readonly wall: () => number
  /** A file of the state, where what was begun is remembered. */
  readonly file: (name: string) => string
}

/** A node that was asleep so long has a lease that has expired; it still says whose key that is (ms). */
const LEASE_GRACE_MS = 90 * 86_400_000

/** One server that takes its time does not keep a node from what others have (ms). */
const LIST_MS = 60_000
/** What was begun and not ended is forgotten after so long (ms): the server has no longer any of it. */
const NOTE_MS = 31 * 86_400_000
/** What was begun: the same file to the same nodes goes on with it, at the server that has it. */
const OUTBOX = 'overlay-outbox'
const begun = z.object({
  id: z.string().regex(/^[0-9a-f]{32}$/),
  key: z.base64().length(44),
  hash: z.string(),
  /** HOST:PORT; absent in those of before: the zone had one. */
  server: z.string().optional(),
})
const offsetIn = z.object({ offset: z.number() })
const waiting = z.object({
  objects: z.array(
    z.object({
      id: z.string().regex(/^[0-9a-f]{32}$/),
      from: z.string(),
      bytes: z.int().min(1),
      hash: z.base64(),
      wrap: z.base64(),
      sent: z.number(),
      expires: z.number(),
      lease: z.base64().nullable(),
    }),
  ),
})
export type Waiting = z.output<typeof waiting>['objects'][number]

/** What the server has refused, in its words. */
function refused(status: number, value: unknown): GodwitError {
  const parsed = z
    .object({ error: z.object({ code: z.string(), message: z.string().max(300) }) })
    .safeParse(value)
  const hint =
    status === 507 ? 'try again when the recipients have fetched what waits, or ask the operator' : undefined
  const message = parsed.success ? parsed.data.error.message : `it answered with status ${status}`
  return new GodwitError(
    'CACHE_REFUSED',
    `the cache server refuses: ${message}`,
    hint === undefined ? {} : { hint },
  )
}

async function partyOf({ client, login, wall }: Exchange, name: string): Promise<Party> {
  const { status, value } = await client.ask(`/v1/nodes/${name}`)
  if (status !== 200) throw refused(status, value)
  const parsed = z.object({ lease: z.base64() }).safeParse(value)
  const party = parsed.success ? partyIn(parsed.data.lease, name, login, wall()) : undefined
  if (party === undefined)
    throw new GodwitError('CACHE_REFUSED', `the lease of ${name} is not one that its zone has signed`)
  return party
}

function partyIn(lease: string | null, name: string, login: Login, wall: number): Party | undefined {
  if (lease === null) return undefined
  const bytes = new Uint8Array(Buffer.from(lease, 'base64'))
  const checked = checkLease(bytes, keyIn(login.zone_key), wall - LEASE_GRACE_MS, verifyBytes)
  if (!checked.ok || checked.value.name !== name) return undefined
  return { name, publicKey: checked.value.publicKey }
}

export interface Sent {
  readonly id: string
  readonly bytes: number
  /** What an earlier attempt had sent already. */
  readonly resumed: number
}

/**
 * Sends a file to the first server that takes it: to the one where an earlier attempt has begun, if it answers. Rejects with what `sendFile`
 * rejects with, of the first that was tried.
 */
export async function sendToAny(
  exchanges: readonly [Exchange, ...Exchange[]],
  path: string,
  names: readonly string[],
  days: number,
  progress: (done: number, all: number) => void = () => {},
): Promise<Sent> {
  const begunAt = readNote(exchanges[0].file(noteName(path, names)))?.server
  const isBegun = ({ client }: Exchange) => client.server === begunAt
  const order = [...exchanges.filter(isBegun), ...exchanges.filter((each) => !isBegun(each))]
  let first: unknown
  for (const exchange of order) {
    let done = 0
    let before: number
    do {
      before = done
      try {
        return await sendFile(exchange, path, names, days, (now, all) => {
          done = Math.max(done, now)
          progress(now, all)
        })
      } catch (error) {
        if (!isOfServer(error)) throw error
        first ??= error
      }
      // What was cut off goes on there, in place of all of it once more elsewhere.
    } while (exchanges.length > 1 && done > before)
  }
  throw first
}

/** Another server may do what this one does not. */
function isOfServer(error: unknown): error is GodwitError {
  return error instanceof GodwitError && (error.code === 'CACHE_FAILED' || error.code === 'CACHE_REFUSED')
}

/** Sends a file. Rejects with CACHE_FAILED (go on by the same call), CACHE_REFUSED, FILE_CHANGED, FILE_MISSING. */
export async function sendFile(
  exchange: Exchange,
  path: string,
  names: readonly string[],
  days: number,
  progress: (done: number, all: number) => void = () => {},
): Promise<Sent> {
  const { client } = exchange
  const note = exchange.file(noteName(path, names))
  forgetOld(exchange)
  const noted = readNote(note)
  const isHere = noted !== undefined && (noted.server ?? client.server) === client.server
  const before = isHere ? noted : undefined
  const key = before === undefined ? randomBytes(KEY) : Buffer.from(before.key, 'base64')
  const file = new SealedFile(path, safeName(basename(path)), key)
  try {
    const hash = Buffer.from(file.hash()).toString('base64')
    const state = before?.hash === hash ? await client.ask(`/v1/objects/${before.id}`) : undefined
    const there = state?.status === 200 ? offsetIn.safeParse(state.value) : undefined
    if (before !== undefined && there?.success !== true) {
      // The file is another one now, or the server has given it up. A key is never used for two contents.
      rmSync(note, { force: true })
      file.close()
      return await sendFile(exchange, path, names, days, progress)
    }
    const resumed = there?.success === true ? there.data.offset : 0
    const id = before?.id ?? (await announce(exchange, file, key, hash, names, days))
    if (before === undefined)
      writeSecret(
        note,
        JSON.stringify({ id, key: Buffer.from(key).toString('base64'), hash, server: client.server }),
      )
    await upload(client, file, id, resumed, progress)
    rmSync(note, { force: true })
    return { id, bytes: file.bytes, resumed }
  } finally {
    file.close()
  }
}

async function announce(
  exchange: Exchange,
  file: SealedFile,
  key: Uint8Array,
  hash: string,
  names: readonly string[],
  days: number,
): Promise<string> {
  const { login, client } = exchange
  const privateKey = keyIn(login.private_key)
  const sender = { name: login.name, publicKey: publicKeyOf(privateKey), privateKey }
  const wraps: Record<string, string> = {}
  for (const name of names) {
    const recipient = await partyOf(exchange, name)
    const wrap = wrapKey(
      nodeCrypto,
      key,
      sender,
      recipient,
      generatePrivateKey(),
      Buffer.from(hash, 'base64'),
    )
    if (wrap === undefined) throw new GodwitError('CACHE_REFUSED', `the key of ${name} is not valid`)
    wraps[name] = Buffer.from(wrap).toString('base64')
  }
  const body = Buffer.from(JSON.stringify({ bytes: file.bytes, hash, wraps, days }))
  const { status, value } = await client.ask('/v1/objects', { method: 'POST', body })
  const made = z.object({ id: z.string().regex(/^[0-9a-f]{32}$/) }).safeParse(value)
  if (status !== 200 || !made.success) throw refused(status, value)
  return made.data.id
}

async function upload(
  client: CacheClient,
  file: SealedFile,
  id: string,
  from: number,
  progress: (done: number, all: number) => void,
): Promise<void> {
  let isDone = false
  for (let offset = from; !isDone; ) {
    progress(offset, file.bytes)
    const { status, value } = await client.ask(`/v1/objects/${id}`, {
      method: 'PATCH',
      headers: { 'upload-offset': String(offset), 'content-type': 'application/octet-stream' },
      body: offset < file.bytes ? file.part(offset) : new Uint8Array(0),
    })
    const answer = z.object({ offset: z.number(), is_done: z.boolean() }).safeParse(value)
    if (status === 422) throw changed()
    if ((status !== 200 && status !== 409) || !answer.success) throw refused(status, value)
    if (status === 409 && answer.data.offset === offset) throw refused(status, value)
    offset = answer.data.offset
    isDone = answer.data.is_done
  }
  progress(file.bytes, file.bytes)
}

function forgetOld({ file, wall }: Exchange): void {
  const folder = file(OUTBOX)
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    const path = join(folder, name)
    if (/^[0-9a-f]{32}\.json$/.test(name) && statSync(path).mtimeMs + NOTE_MS < wall())
      rmSync(path, { force: true })
  }
}

function noteName(path: string, names: readonly string[]): string {
  let info: ReturnType<typeof statSync>
  try {
    info = statSync(path)
  } catch (error) {
    throw new GodwitError('FILE_MISSING', `${path}: ${(error as Error).message}`, { kind: 'usage' })
  }
  const what = [realpathSync(path), info.size, info.mtimeMs, ...[...names].sort()]
  return `${OUTBOX}/${createHash('sha256').update(what.join('\0')).digest('hex').slice(0, 32)}.json`
}

function readNote(path: string): z.output<typeof begun> | undefined {
  if (!existsSync(path)) return undefined
  try {
    return begun.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch {
    return undefined
  }
}

/** A server that has not answered, or not to the end, and why. */
export interface Unreached {
  readonly server: string
  readonly reason: string
}

export interface Listed {
  readonly waiting: readonly (Waiting & { readonly exchange: Exchange })[]
  readonly unreached: readonly Unreached[]
}

/** What waits for this node at any of the servers. Rejects with what the first of them rejects with if none answers. */
export async function listAll(exchanges: readonly Exchange[]): Promise<Listed> {
  const waiting: (Waiting & { readonly exchange: Exchange })[] = []
  const unreached: Unreached[] = []
  const lists = await Promise.allSettled(exchanges.map(listWaiting))
  for (const [i, list] of lists.entries()) {
    const exchange = exchanges[i]!
    if (list.status === 'fulfilled') waiting.push(...list.value.map((each) => ({ ...each, exchange })))
    else if (isOfServer(list.reason)) unreached.push(unreachedAt(exchange, list.reason))
    else throw list.reason
  }
  const [first] = lists
  if (unreached.length === lists.length && first?.status === 'rejected') throw first.reason
  waiting.sort((a, b) => a.sent - b.sent)
  return { waiting, unreached }
}

export interface FetchedFiles {
  readonly received: readonly { readonly path: string; readonly from: string }[]
  /** Damaged: others are fetched. */
  readonly failed: readonly { readonly from: string; readonly reason: string }[]
  readonly unreached: readonly Unreached[]
}

/** Fetches all that waits for this node. Rejects with what the only server there is rejects with, and with faults of this machine. */
export async function fetchWaiting(exchanges: readonly Exchange[], folder: string): Promise<FetchedFiles> {
  const { waiting, unreached } = await listAll(exchanges)
  const lost = new Map<Exchange, Unreached>()
  const received: { path: string; from: string }[] = []
  const failed: { from: string; reason: string }[] = []
  for (const object of waiting) {
    const { exchange, from } = object
    if (lost.has(exchange)) continue
    try {
      received.push({ path: await receive(exchange, object, folder), from })
    } catch (error) {
      if (error instanceof GodwitError && error.code === 'CACHE_DAMAGED')
        failed.push({ from, reason: error.message })
      else if (isOfServer(error) && exchanges.length > 1) lost.set(exchange, unreachedAt(exchange, error))
      else throw error
    }
  }
  return { received, failed, unreached: [...unreached, ...lost.values()] }
}

function unreachedAt({ client }: Exchange, { message }: GodwitError): Unreached {
  return { server: client.server, reason: message }
}

/** What waits for this node. */
export async function listWaiting({ client }: Exchange): Promise<Waiting[]> {
  const { status, value } = await client.ask('/v1/inbox', { within: LIST_MS })
  const parsed = waiting.safeParse(value)
  if (status !== 200 || !parsed.success) throw refused(status, value)
  return parsed.data.objects
}

/**
 * Fetches one, verifies that it is of its sender, decrypts it into the folder, and lets the server forget it. Returns the path. Rejects
 * with CACHE_FAILED (go on by the same call), CACHE_DAMAGED.
 */
export async function receive(exchange: Exchange, object: Waiting, folder: string): Promise<string> {
  const { login, client, wall } = exchange
  const { id, from, bytes, hash, wrap, lease } = object
  const privateKey = keyIn(login.private_key)
  const sum = Buffer.from(hash, 'base64')
  const sender = partyIn(lease, from, login, wall())
  const own = { name: login.name, publicKey: publicKeyOf(privateKey), privateKey }
  const key = sender && unwrapKey(nodeCrypto, Buffer.from(wrap, 'base64'), sender, own, sum)
  if (key === undefined)
    throw new GodwitError('CACHE_DAMAGED', `what waits is not from ${from}, or not for this node`, {
      hint: `ask ${from} to send it again`,
    })
  const part = join(folder, `.${id}.part`)
  await fetchObject(client, id, bytes, part)
  if (!Buffer.from(hashOf(part)).equals(sum)) {
    rmSync(part, { force: true })
    throw new GodwitError('CACHE_DAMAGED', 'what was received is not what was sent', {
      hint: 'fetch it again',
    })
  }
  let path: string
  try {
    path = openObject(part, key, folder, id)
  } catch (error) {
    // It is what its sender has sent, and will never be a file: it is not fetched again.
    if (error instanceof GodwitError && error.code === 'CACHE_DAMAGED') await forget(client, id, part)
    throw error
  }
  await forget(client, id, part)
  return path
}

async function forget(client: CacheClient, id: string, part: string): Promise<void> {
  rmSync(part, { force: true })
  await client.ask(`/v1/objects/${id}`, { method: 'DELETE' })
}
