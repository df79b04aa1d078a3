/**
 * The cache server (NT-26, paper §2.5): keeps what nodes send to others that are asleep, until these fetch it or it expires. HTTPS
 * (docs/wire/overlay.md, Cache server). A node shows that it has its login key; it sends only to those that it may connect to.
 * Content is ciphertext whose keys the server does not have.
 */
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import * as z from 'zod'
import { Buckets } from '../../core/buckets.ts'
import { BelowTls, takesTooMuch } from '../../linux/below-tls.ts'
import { OneByOne } from '../../linux/one-by-one.ts'
import { giveRoom } from '../../linux/receive-room.ts'
import { WRAP } from '../cache/envelope.ts'
import { isFullName, Status } from '../wire/message.ts'
import { faultText, Refusal, sendFault, sendJson } from './answers.ts'
import type { CacheDirectory, CacheNode, KnownLease } from './cache-directory.ts'
import { type CacheObject, type CacheStore, isFor, isFrom, type Refused } from './cache-store.ts'
import { listenOn } from './listening.ts'
import { Connections, type SourceLimits } from './sources.ts'

export interface CacheServerInit {
  readonly directory: CacheDirectory
  readonly objects: CacheStore
  readonly tls: { readonly cert: string; readonly key: string }
  readonly port: number
  readonly now: () => number
  readonly wall: () => number
  readonly log: (message: string) => void
}

const LIMITS: SourceLimits = {
  ...{ connections: 500, ofSource: 32, rate: 20, burst: 100 },
  ...{ longestMs: 15_000, bytes: 131_072 },
}
const MAX_HEADER = 8192
const MAX_BODY = 65_536
/** Bytes of one part of an upload. */
export const MAX_PART = 8 * 2 ** 20
export const MAX_RECIPIENTS = 64
const MAX_DAYS = 30
const DAY_MS = 86_400_000
/** Whatever is kept has expired then (ms). */
export const LONGEST_MS = MAX_DAYS * DAY_MS
/** Requests of one node under way, and a second, and at once. */
const MAX_OF_NODE = 4
const NODE_RATE = 20
const NODE_BURST = 100
/** Of an account, whose nodes may be many: requests a second and at once, and objects in a list that count as one more. */
const ACCOUNT_RATE = 100
const ACCOUNT_BURST = 2000
const LISTED = 20
/** Connections of one node; a request has one of its own. */
const MAX_CONNECTIONS = 16
/** Bytes that TLS may need for each byte within, and more, of a connection; and how often that is looked at (ms). */
const TLS_SHARE = 1.25
const TLS_BYTES = 131_072
const CHECK_MS = 250
/** Objects of an account that are announced a second, and at once: each waits for the disk. */
const ANNOUNCED_RATE = 2
const ANNOUNCED_BURST = 60
/** A part has to be there within this time, and a reader that reads nothing is left (ms). */
const PART_MS = 300_000
const IDLE_MS = 60_000
const EXPIRE_MS = 600_000
/** How long the lease of a sender is good for those who list their inboxes (ms). */
const LEASE_MS = 5000
const MAX_LEASES = 4096

const announced = z.strictObject({
  bytes: z.int().min(1),
  hash: z.base64().length(44),
  wraps: z
    .record(z.string().refine(isFullName), z.base64().length(4 * Math.ceil(WRAP / 3)))
    .refine((wraps) => Object.keys(wraps).length >= 1 && Object.keys(wraps).length <= MAX_RECIPIENTS),
  days: z.int().min(1).max(MAX_DAYS),
})

const REFUSALS: Readonly<Record<Refused, readonly [number, string, string]>> = {
  full: [507, 'CACHE_FULL', 'the cache server has no room left'],
  'sender-quota': [507, 'CACHE_QUOTA', 'too much that this account has sent has not been fetched yet'],
  'recipient-quota': [507, 'CACHE_QUOTA', 'too much waits for one of the recipients'],
}

type Answer = object | 'streamed'

interface Connection {
  /** Below TLS, and within. */
  readonly raw: Socket
  readonly socket: Socket
}

export class CacheServer {
  readonly #init: CacheServerInit
  readonly #server: Server
  readonly #strangers: Connections
  readonly #rates = new Buckets(NODE_RATE, NODE_BURST)
  readonly #ofAccount = new Buckets(ACCOUNT_RATE, ACCOUNT_BURST)
  readonly #announced = new Buckets(ANNOUNCED_RATE, ANNOUNCED_BURST)
  /** By node: requests under way. */
  readonly #underWay = new Map<string, number>()
  /** Objects that a part is being written to. */
  readonly #writing = new Set<string>()
  readonly #below = new BelowTls<{ readonly raw: Socket }>()
  /** By node: those that have shown its login. */
  readonly #connections = new Map<string, Set<Connection>>()
  /** Of senders, those asked for last at the end. */
  readonly #leases = new Map<string, { readonly at: number; readonly lease: Promise<KnownLease> }>()
  readonly #admitted = new WeakSet<Socket>()
  readonly #timers: NodeJS.Timeout[] = []

  constructor(init: CacheServerInit) {
    this.#init = init
    this.#strangers = new Connections(LIMITS, init.now)
    const oneByOne = new OneByOne()
    this.#server = createServer(
      {
        ...init.tls,
        minVersion: 'TLSv1.3',
        requestTimeout: PART_MS,
        headersTimeout: 10_000,
        handshakeTimeout: 10_000,
        connectionsCheckingInterval: 1000,
        maxHeaderSize: MAX_HEADER,
      },
      (request, response) => {
        if (oneByOne.admits(request, response)) void this.#handle(request, response)
      },
    )
    this.#server.on('connection', (socket: Socket) => {
      if (this.#strangers.admit(socket)) this.#below.add({ raw: socket })
    })
    this.#server.on('tlsClientError', (_error, socket) => socket.destroy())
    this.#server.on('clientError', (_error, socket) => socket.destroy())
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** Rejects with PORT_TAKEN. */
  start(): Promise<void> {
    this.#timers.push(
      setInterval(() => this.#expire(), EXPIRE_MS).unref(),
      setInterval(() => this.#check(), CHECK_MS).unref(),
    )
    return listenOn(this.#server, this.#init.port)
  }

  async stop(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer)
    this.#strangers.close()
    this.#server.closeAllConnections()
    if (this.#server.listening) await new Promise<void>((resolve) => this.#server.close(() => resolve()))
    await this.#init.objects.settle()
  }

  #expire(): void {
    this.#init.objects.expire().catch((error: Error) => this.#init.log(`cache server: ${error.message}`))
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let node: CacheNode | undefined
    try {
      node = await this.#authenticate(request)
      this.#enter(node)
      this.#admit(request.socket, node.name)
      // The server of Node.js ends it then.
      request.socket.setTimeout(IDLE_MS)
      const answer = await this.#route(request, response, node)
      if (answer !== 'streamed') sendJson(response, 200, answer, true)
    } catch (error) {
      this.#fail(error, response)
    } finally {
      if (node !== undefined) this.#leave(node.name)
    }
  }

  /** A connection has shown that it is a node's. */
  #admit(socket: Socket, node: string): void {
    const raw = this.#below.of(socket)?.raw
    if (raw === undefined || this.#admitted.has(socket)) return
    const connections = this.#connections.get(node) ?? new Set<Connection>()
    if (connections.size >= MAX_CONNECTIONS) throw tooMany()
    this.#admitted.add(socket)
    const connection = { raw, socket }
    this.#connections.set(node, connections.add(connection))
    raw.once('close', () => {
      connections.delete(connection)
      if (connections.size === 0 && this.#connections.get(node) === connections)
        this.#connections.delete(node)
    })
    this.#strangers.release(raw)
    giveRoom(raw)
  }

  /** Who sends records of TLS that bring nothing. */
  #check(): void {
    for (const connections of this.#connections.values())
      for (const { raw, socket } of connections)
        if (takesTooMuch(raw, socket, TLS_SHARE, TLS_BYTES)) raw.destroy()
  }

  #fail(error: unknown, response: ServerResponse): void {
    if (response.headersSent) {
      response.destroy()
      return
    }
    const code = (error as NodeJS.ErrnoException).code
    if (error instanceof Refusal)
      sendJson(
        response,
        error.status,
        { error: { code: error.code, message: error.message }, ...error.more },
        false,
      )
    else if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'DISK_FULL')
      sendJson(
        response,
        507,
        { error: { code: 'CACHE_FULL', message: 'the disk of the cache server is full' } },
        false,
      )
    else if (code === 'ERR_STREAM_PREMATURE_CLOSE' || code === 'ECONNRESET' || code === 'ABORT_ERR')
      response.destroy()
    else {
      this.#init.log(`error in the cache server: ${faultText(error)}`)
      sendFault(response, error)
    }
  }

  /** Who has a login key: `Godwit KEY_ID PROOF`, both base64. */
  async #authenticate({ headers }: IncomingMessage): Promise<CacheNode> {
    const [, id, proof] = /^Godwit ([A-Za-z0-9+/]{22}==) ([A-Za-z0-9+/]{22}==)$/.exec(
      headers.authorization ?? '',
    ) ?? ['', '', '']
    const bytes = (text: string) => new Uint8Array(Buffer.from(text, 'base64'))
    const node = id === '' ? undefined : await this.#init.directory.authenticate(bytes(id!), bytes(proof!))
    if (node === undefined) throw new Refusal(401, 'LOGIN_ENDED', 'no login that is good')
    return node
  }

  #enter({ name, accountId }: CacheNode): void {
    const under = this.#underWay.get(name) ?? 0
    this.#underWay.set(name, under + 1)
    const now = this.#init.now()
    if (under >= MAX_OF_NODE || !this.#rates.take(name, now) || !this.#ofAccount.take(accountId, now))
      throw tooMany()
  }

  #leave(name: string): void {
    const left = (this.#underWay.get(name) ?? 1) - 1
    if (left <= 0) this.#underWay.delete(name)
    else this.#underWay.set(name, left)
  }

  async #route(request: IncomingMessage, response: ServerResponse, node: CacheNode): Promise<Answer> {
    const [path = ''] = request.url?.split('?') ?? []
    const [, kind, rest, part] =
      /^\/v1\/(objects|nodes|inbox)(?:\/([a-z0-9._-]{1,253}))?(\/data)?$/.exec(path) ?? []
    const what = `${request.method} ${kind}${rest === undefined ? '' : '/*'}${part ?? ''}`
    switch (what) {
      case 'GET nodes/*':
        return { lease: base64((await this.#leaseFor(node, rest!)).lease) }
      case 'GET inbox':
        return { objects: await this.#inbox(node) }
      case 'POST objects':
        return this.#create(await jsonOf(request), node)
      case 'GET objects/*': {
        const { id, bytes, isDone } = this.#ownObject(rest!, node)
        return { id, bytes, offset: this.#init.objects.offset(id), is_done: isDone }
      }
      case 'PATCH objects/*':
        return this.#write(request, this.#ownObject(rest!, node))
      case 'GET objects/*/data':
        return this.#read(request, response, this.#waiting(rest!, node))
      case 'DELETE objects/*':
        return this.#delete(rest!, node)
      default:
        throw new Refusal(404, 'NOT_FOUND', 'not found')
    }
  }

  /** The lease of a node that this one may connect to, and its account's id. */
  async #leaseFor(
    node: CacheNode,
    name: string,
  ): Promise<{ readonly lease: Uint8Array; readonly accountId: string }> {
    const { status, lease, accountId } = await this.#init.directory.leaseOf(name, node.name)
    if (status === Status.NOT_ALLOWED) throw new Refusal(403, 'NOT_ALLOWED', `not allowed to reach ${name}`)
    if (status !== Status.DONE || lease === undefined || accountId === undefined)
      throw new Refusal(404, 'NODE_UNKNOWN', `there is no node ${name} that was ever online`)
    return { lease, accountId }
  }

  async #inbox(node: CacheNode): Promise<object[]> {
    const { objects } = this.#init
    const waiting = objects.inbox(node)
    this.#ofAccount.of(node.accountId).spend(waiting.length / LISTED, this.#init.now())
    const senders = [...new Set(waiting.map(({ from }) => from))]
    const leases = new Map(
      await Promise.all(senders.map(async (name) => [name, await this.#senderLease(name)] as const)),
    )
    return waiting.map(({ id, from, accountId, bytes, hash, wraps, sent, expires }) => {
      const known = leases.get(from)
      // Of another account that has taken the sender's name, the lease shows nothing.
      const isSender = (accountId ?? known?.accountId) === known?.accountId
      const lease = isSender ? known?.lease : undefined
      return {
        ...{ id, from, bytes, hash, sent, expires, wrap: wraps[node.name] },
        lease: lease === undefined ? null : base64(lease),
      }
    })
  }

  /** Of a moment ago: a coordinator elsewhere is asked once, however often nodes look into their inboxes. */
  #senderLease(name: string): Promise<KnownLease> {
    const now = this.#init.now()
    const known = this.#leases.get(name)
    if (known !== undefined && now - known.at < LEASE_MS) return known.lease
    const lease = this.#init.directory.leaseOf(name)
    this.#leases.delete(name)
    this.#leases.set(name, { at: now, lease })
    if (this.#leases.size > MAX_LEASES) this.#leases.delete(this.#leases.keys().next().value!)
    lease.catch(() => this.#leases.delete(name))
    return lease
  }

  async #create(value: unknown, node: CacheNode): Promise<object> {
    const { objects, wall, now } = this.#init
    if (!this.#announced.take(node.account, now())) throw tooMany()
    const parsed = announced.safeParse(value)
    if (!parsed.success) throw new Refusal(400, 'REQUEST_INVALID', 'not an object')
    const { bytes, hash, wraps, days } = parsed.data
    const names = Object.keys(wraps)
    const owners = Object.fromEntries(
      await Promise.all(names.map(async (name) => [name, (await this.#leaseFor(node, name)).accountId])),
    )
    const expires = wall() + days * DAY_MS
    const { name: from, account, accountId } = node
    const made = await objects.create({ from, account, accountId, owners, bytes, hash, wraps, expires })
    if (typeof made === 'string') throw new Refusal(...REFUSALS[made])
    return { id: made.id, offset: 0 }
  }

  /** One of this sender. */
  #ownObject(id: string, node: CacheNode): CacheObject {
    const object = this.#init.objects.get(id)
    if (object === undefined || !isFrom(object, node)) throw unknown()
    return object
  }

  /** One that waits for this recipient. */
  #waiting(id: string, node: CacheNode): CacheObject {
    const object = this.#init.objects.get(id)
    if (object?.isDone !== true || !isFor(object, node)) throw unknown()
    return object
  }

  /** A part of an upload, at the offset that its sender names; what arrived of a part that was cut off stays. */
  async #write(request: IncomingMessage, { id, bytes, hash, isDone }: CacheObject): Promise<object> {
    const { objects } = this.#init
    const length = Number(request.headers['content-length'] ?? Number.NaN)
    const at = Number(request.headers['upload-offset'] ?? Number.NaN)
    if (isDone) return { offset: bytes, is_done: true }
    if (this.#writing.has(id))
      throw new Refusal(409, 'OFFSET', 'another part is being written', this.#offsetOf(id))
    const offset = objects.offset(id)
    if (at !== offset)
      throw new Refusal(409, 'OFFSET', `the next part begins at ${offset}`, this.#offsetOf(id))
    if (!(length <= MAX_PART && offset + length <= bytes))
      throw new Refusal(413, 'TOO_LONG', 'longer than a part may be, or than was announced')
    this.#writing.add(id)
    try {
      objects.touch(id)
      await pipeline(
        request,
        atMost(length),
        createWriteStream(objects.path(id), { flags: 'r+', start: offset }),
      )
      if (objects.get(id) === undefined) throw unknown()
      if (objects.offset(id) < bytes) return this.#offsetOf(id)
      await this.#finish(id, hash)
      if (objects.get(id) === undefined) throw unknown()
      return { offset: bytes, is_done: true }
    } catch (error) {
      // Removed meanwhile, by its sender or because it has expired: its file is not there.
      throw objects.get(id) === undefined && !(error instanceof Refusal) ? unknown() : error
    } finally {
      this.#writing.delete(id)
    }
  }

  #offsetOf(id: string): { readonly offset: number; readonly is_done: boolean } {
    return { offset: this.#init.objects.offset(id), is_done: false }
  }

  async #finish(id: string, hash: string): Promise<void> {
    const { objects } = this.#init
    const sum = createHash('sha256')
    await pipeline(createReadStream(objects.path(id)), sum)
    if (sum.digest('base64') === hash) {
      await objects.finish(id)
      return
    }
    await objects.remove(id)
    throw new Refusal(422, 'DAMAGED', 'what arrived is not what was announced; send it again')
  }

  async #read(
    request: IncomingMessage,
    response: ServerResponse,
    { id, bytes }: CacheObject,
  ): Promise<'streamed'> {
    const start = Number(/^bytes=(\d{1,15})-$/.exec(request.headers.range ?? 'bytes=0-')?.[1] ?? Number.NaN)
    if (!(start < bytes)) throw new Refusal(416, 'OFFSET', `it has ${bytes} bytes`)
    response.writeHead(206, {
      'content-type': 'application/octet-stream',
      'content-length': bytes - start,
      'content-range': `bytes ${start}-${bytes - 1}/${bytes}`,
    })
    await pipeline(createReadStream(this.#init.objects.path(id), { start }), response)
    return 'streamed'
  }

  async #delete(id: string, node: CacheNode): Promise<object> {
    const { objects } = this.#init
    const object = objects.get(id)
    if (object !== undefined && isFor(object, node)) await objects.received(id, node.name)
    else if (object !== undefined && isFrom(object, node)) await objects.remove(id)
    else throw unknown()
    return { removed: id }
  }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}

/** Passes that many bytes; more are an error, whatever the header said. */
function atMost(length: number): Transform {
  let left = length
  return new Transform({
    transform(part: Buffer, _encoding, done) {
      left -= part.length
      if (left < 0) done(new Refusal(413, 'TOO_LONG', 'longer than announced'))
      else done(null, part)
    },
  })
}

function tooMany(): Refusal {
  return new Refusal(429, 'TOO_MANY', 'too many requests at once; wait a moment')
}

function unknown(): Refusal {
  return new Refusal(404, 'OBJECT_UNKNOWN', 'there is no such object')
}

async function jsonOf(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = []
  let length = 0
  for await (const part of request) {
    length += (part as Buffer).length
    if (length > MAX_BODY) throw new Refusal(413, 'TOO_LONG', 'the request is too long')
    parts.push(part as Buffer)
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString())
  } catch {
    throw new Refusal(400, 'REQUEST_INVALID', 'not JSON')
  }
}
