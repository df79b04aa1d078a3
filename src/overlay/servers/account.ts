/**
 * The account server (NT-10 … NT-14, Fig. 4 steps 2–8): login over HTTPS (docs/wire/overlay.md, Account server). A login makes the
 * key that node and coordinator share; the last one counts. Guessing is limited by account and by source.
 */
import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import * as z from 'zod'
import { equal } from '../../core/bytes.ts'
import { GodwitError } from '../../core/errors.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { decodeKey, encodeKey } from '../../crypto/keys.ts'
import type { Store } from '../store/store.ts'
import { isFullName } from '../wire/message.ts'
import { checkPassword, isBusy } from './passwords.ts'

export interface AccountServerInit {
  readonly store: Store
  readonly tls: { readonly cert: string; readonly key: string }
  readonly port: number
  readonly zone: string
  /** HOST:PORT where nodes reach the coordinator. */
  readonly coordinator: string
  readonly zoneKey: Uint8Array
  /** A node logged in: its earlier sessions end. */
  readonly onLogin: (name: string) => void
  readonly now: () => number
  readonly log: (message: string) => void
}

/** Labels that are the zone's own. */
const RESERVED = ['dc', 'ns', 'www', 'mail', 'localhost']
export const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/
const MAX_BODY = 4096
const MAX_NODES = 64
/** Tries a minute: of an account, of a source (IPv6: its /64). */
const ACCOUNT_TRIES = 10
const SOURCE_TRIES = 30
const MAX_BUCKETS = 20_000
const REQUEST_MS = 10_000
const MAX_CONNECTIONS = 500

const body = z.strictObject({
  account: z.string().max(64),
  password: z.string().max(1024),
  node: z.string().regex(LABEL),
  public_key: z.string().refine((text) => decodeKey(text).ok),
})

class Refusal extends Error {
  readonly status: number
  readonly code: string

  constructor(status: number, code: string, message: string) {
    super(message)
    this.status = status
    this.code = code
  }
}

export class AccountServer {
  readonly #init: AccountServerInit
  readonly #server: Server
  readonly #accounts = new Map<string, TokenBucket>()
  readonly #sources = new Map<string, TokenBucket>()

  constructor(init: AccountServerInit) {
    this.#init = init
    this.#server = createServer(
      {
        ...init.tls,
        minVersion: 'TLSv1.2',
        requestTimeout: REQUEST_MS,
        headersTimeout: REQUEST_MS,
        handshakeTimeout: REQUEST_MS,
      },
      (request, response) => {
        void this.#handle(request, response)
      },
    )
    this.#server.maxConnections = MAX_CONNECTIONS
    this.#server.on('tlsClientError', () => {})
    this.#server.on('clientError', (_error, socket) => socket.destroy())
  }

  /** Rejects with PORT_TAKEN. */
  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error: NodeJS.ErrnoException) =>
        reject(
          error.code === 'EADDRINUSE'
            ? new GodwitError('PORT_TAKEN', `TCP port ${this.#init.port} is in use by another process`)
            : error,
        ),
      )
      this.#server.listen(this.#init.port, '::', resolve)
    })
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const answer = await this.#route(request)
      send(response, 200, answer)
    } catch (error) {
      if (error instanceof Refusal)
        send(response, error.status, { error: { code: error.code, message: error.message } })
      else {
        this.#init.log(`fault in the account server: ${(error as Error).stack}`)
        send(response, 500, { error: { code: 'INTERNAL', message: 'a fault of the server' } })
      }
    }
  }

  async #route(request: IncomingMessage): Promise<object> {
    const path = request.url?.split('?')[0]
    if (request.method === 'POST' && path === '/v1/login') return this.#login(request)
    if (request.method === 'GET' && path === '/v1/configuration')
      return { zone: this.#init.zone, coordinator: this.#init.coordinator }
    throw new Refusal(404, 'NOT_FOUND', 'there is nothing here')
  }

  async #login(request: IncomingMessage): Promise<object> {
    const { store, zone, now } = this.#init
    const source = sourceOf(request.socket.remoteAddress ?? '')
    if (isBusy() || !take(this.#sources, source, SOURCE_TRIES, now())) throw tooMany()
    const parsed = body.safeParse(await jsonOf(request))
    if (!parsed.success) throw new Refusal(400, 'REQUEST_INVALID', 'not a login')
    const { account: name, password, node, public_key } = parsed.data
    if (isBusy() || !take(this.#accounts, name, ACCOUNT_TRIES, now())) throw tooMany()
    const account = store.account(name)
    if (!(await checkPassword(account, password)))
      throw new Refusal(401, 'UNAUTHORIZED', 'wrong account or password')
    const full = `${node}.${zone}`
    store.refresh()
    if (RESERVED.includes(node) || !isFullName(full))
      throw new Refusal(403, 'NAME_TAKEN', `${node} is not for nodes`)
    const publicKey = Uint8Array.from(Buffer.from(public_key, 'base64'))
    const nodes = store.nodesOf(name)
    // Those that this login replaces.
    const before = nodes.filter((each) => each.name === full || equal(each.publicKey, publicKey))
    if (nodes.length >= MAX_NODES && before.length === 0)
      throw new Refusal(403, 'TOO_MANY_NODES', `the account has ${MAX_NODES} nodes already`)
    const key = randomBytes(32)
    const keyId = randomBytes(16)
    if (!store.putNode({ name: full, account: name, publicKey, keyId, key })) {
      const holder = store.nodeByName(full)
      throw holder !== undefined && holder.account !== name
        ? new Refusal(403, 'NAME_TAKEN', `${full} is another account's`)
        : new Refusal(403, 'KEY_TAKEN', 'a node of another account has this public key')
    }
    store.commit()
    for (const node of before) this.#init.onLogin(node.name)
    if (before.every((node) => node.name !== full)) this.#init.onLogin(full)
    return {
      ...{ name: full, key_id: keyId.toString('base64'), key: encodeKey(key) },
      ...{ coordinator: this.#init.coordinator, zone_key: encodeKey(this.#init.zoneKey) },
    }
  }
}

function send(response: ServerResponse, status: number, value: object): void {
  const text = JSON.stringify(value)
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    connection: 'close',
  })
  response.end(text)
}

async function jsonOf(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = []
  let length = 0
  try {
    for await (const part of request) {
      length += (part as Buffer).length
      if (length > MAX_BODY) throw new Refusal(413, 'TOO_LONG', 'the request is too long')
      parts.push(part as Buffer)
    }
    return JSON.parse(Buffer.concat(parts).toString())
  } catch (error) {
    if (error instanceof Refusal) throw error
    throw new Refusal(400, 'REQUEST_INVALID', 'not JSON')
  }
}

function tooMany(): Refusal {
  return new Refusal(429, 'TOO_MANY', 'too many tries; wait a minute')
}

/** Bounded: the bucket that was used longest ago goes. */
function take(buckets: Map<string, TokenBucket>, key: string, perMinute: number, now: number): boolean {
  const bucket = buckets.get(key) ?? new TokenBucket(perMinute / 60, perMinute)
  buckets.delete(key)
  buckets.set(key, bucket)
  if (buckets.size > MAX_BUCKETS) buckets.delete(buckets.keys().next().value!)
  return bucket.take(now)
}

function sourceOf(address: string): string {
  const plain = address.replace(/^::ffff:/, '')
  return plain.includes(':') ? plain.split(':').slice(0, 4).join(':') : plain
}
