/**
 * The account server (NT-10 … NT-14, Fig. 4 steps 2–8): login over HTTPS (docs/wire/overlay.md, Account server). A login makes the
 * key that node and coordinator share; the last one counts. Guessing is limited by account and by source.
 */
import { randomBytes, randomInt } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import * as z from 'zod'
import { Buckets } from '../../core/buckets.ts'
import { equal } from '../../core/bytes.ts'
import { GodwitError } from '../../core/errors.ts'
import { sourceOf } from '../../core/source.ts'
import { decodeKey, encodeKey } from '../../crypto/keys.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { OneByOne } from '../../linux/one-by-one.ts'
import { LABEL, mayBeNode } from '../machine/names.ts'
import { renewalProof } from '../machine/secrets.ts'
import type { Account, Store } from '../store/store.ts'
import { hasEnded, type NodeRecord } from '../tables.ts'
import { type CertifiedServer, isFullName } from '../wire/message.ts'
import { faultText, Refusal, sendFault, sendJson } from './answers.ts'
import { listenOn } from './listening.ts'
import { checkPassword } from './passwords.ts'
import { Connections, type SourceLimits } from './sources.ts'
import { Turns } from './turns.ts'

export interface AccountServerInit {
  readonly store: Store
  readonly tls: { readonly cert: string; readonly key: string }
  readonly port: number
  readonly zone: string
  /** HOST:PORT where nodes reach the coordinator. */
  readonly coordinator: string
  readonly zoneKey: Uint8Array
  /** For subscriptions at push services: the key that they check (RFC 8292), base64url. */
  readonly pushKey: string
  /** Where nodes leave what others fetch, the first of them first. */
  readonly caches: () => readonly CertifiedServer[]
  /** Days that a login key is good for; 0: for good. */
  readonly loginDays: number
  /** Milliseconds since 1970. */
  readonly wall: () => number
  /** A node logged in: its earlier sessions end. */
  readonly onLogin: (name: string) => void
  /** The coordinator elsewhere has what the store has of nodes; false: it does not answer. Absent: it is in this process. */
  readonly published?: () => Promise<boolean>
  readonly now: () => number
  readonly log: (message: string) => void
}

/** Labels that are the zone's own. */
const MAX_BODY = 4096
const MAX_NODES = 64
/**
 * Max attempts per minute: of an account from one source (IPv6: a /64), of a source, and of an account from all sources
 * that never logged in to it.
 */
const PAIR_TRIES = 10
const SOURCE_TRIES = 30
const ACCOUNT_TRIES = 60
/** Passwords that are checked at a time: each has its memory, and two of the four threads that files are written by. */
const CHECKED_AT_ONCE = 2
/** Logins that wait for that: about four seconds. */
const MAX_WAITING = 100
/** Before all others: who has logged in to the account from there. */
const PROVEN_RANK = -1
/** Wrong passwords of a source count for so long after the last one (ms), and sources that are remembered. */
const FAILED_MS = 600_000
const MAX_FAILED = 20_000
/** Attempts to write where other servers write at the same time, and longest pause between two (ms). */
const WRITES = 10
const BEHIND_MS = 200
/** Max renewals per minute of a source, behind which there may be many nodes. */
const RENEWALS = 120
const MAX_PROVEN = 20_000
const REQUEST_MS = 10_000
const MAX_HEADER = 8192
const LIMITS: SourceLimits = {
  ...{ connections: 500, ofSource: 16, rate: 5, burst: 40 },
  ...{ longestMs: 20_000, bytes: 32_768 },
}

const body = z.strictObject({
  account: z.string().max(64),
  password: z.string().max(1024),
  node: z.string().regex(LABEL),
  public_key: z.string().refine((text) => decodeKey(text).ok),
  /** Ends the login of another device of the account that has the name. */
  replace: z.boolean().default(false),
})

const renewal = z.strictObject({
  key_id: z.string().regex(/^[A-Za-z0-9+/]{22}==$/),
  proof: z.string().regex(/^[A-Za-z0-9+/]{22}==$/),
})

export class AccountServer {
  readonly #init: AccountServerInit
  readonly #server: Server
  readonly #connections: Connections
  readonly #pairs = new Buckets(PAIR_TRIES / 60, PAIR_TRIES)
  readonly #sources = new Buckets(SOURCE_TRIES / 60, SOURCE_TRIES)
  readonly #renewals = new Buckets(RENEWALS / 60, RENEWALS)
  readonly #accounts = new Buckets(ACCOUNT_TRIES / 60, ACCOUNT_TRIES)
  /** Accounts and sources that logged in: guesses of others do not keep them out. */
  readonly #proven = new Set<string>()
  /** Sources whose password is being checked, or waits for that: one at a time. */
  readonly #checking = new Set<string>()
  readonly #turns = new Turns(CHECKED_AT_ONCE, MAX_WAITING)
  /** Wrong passwords of sources, those of the last one at the end. */
  readonly #failed = new Map<string, { readonly count: number; readonly at: number }>()

  constructor(init: AccountServerInit) {
    this.#init = init
    const oneByOne = new OneByOne()
    this.#server = createServer(
      {
        ...init.tls,
        minVersion: 'TLSv1.2',
        requestTimeout: REQUEST_MS,
        headersTimeout: REQUEST_MS,
        handshakeTimeout: REQUEST_MS,
        connectionsCheckingInterval: 1000,
        maxHeaderSize: MAX_HEADER,
      },
      (request, response) => {
        if (oneByOne.admits(request, response)) void this.#handle(request, response)
      },
    )
    this.#connections = new Connections(LIMITS, init.now)
    this.#server.on('connection', (socket: Socket) => this.#connections.admit(socket))
    this.#server.on('tlsClientError', () => {})
    this.#server.on('clientError', (_error, socket) => socket.destroy())
  }

  /** Rejects with PORT_TAKEN. */
  start(): Promise<void> {
    return listenOn(this.#server, this.#init.port)
  }

  async stop(): Promise<void> {
    this.#connections.close()
    this.#server.closeAllConnections()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const answer = await this.#route(request)
      sendJson(response, 200, answer, false)
    } catch (error) {
      if (error instanceof Refusal)
        sendJson(response, error.status, { error: { code: error.code, message: error.message } }, false)
      else {
        this.#init.log(`error in the account server: ${faultText(error)}`)
        sendFault(response, error)
      }
    }
  }

  async #route(request: IncomingMessage): Promise<object> {
    const path = request.url?.split('?')[0]
    if (request.method === 'POST' && path === '/v1/login') return this.#login(request)
    if (request.method === 'POST' && path === '/v1/renew') return this.#renew(request)
    if (request.method === 'GET' && path === '/v1/configuration') {
      const { zone, coordinator, pushKey } = this.#init
      const caches = this.#init.caches().map(shown)
      // Nodes of before know one.
      return { zone, coordinator, push_key: pushKey, cache: caches[0] ?? null, caches }
    }
    throw new Refusal(404, 'NOT_FOUND', 'not found')
  }

  async #login(request: IncomingMessage): Promise<object> {
    const { store, zone, now } = this.#init
    const source = sourceOf(request.socket.remoteAddress ?? '')
    if (this.#checking.has(source) || !this.#sources.take(source, now())) throw tooMany()
    const parsed = body.safeParse(await jsonOf(request))
    if (!parsed.success) throw new Refusal(400, 'REQUEST_INVALID', 'not a login')
    const { account: name, password, node, public_key, replace } = parsed.data
    const pair = `${source} ${name}`
    if (this.#checking.has(source) || !this.#pairs.take(pair, now())) throw tooMany()
    const isProven = this.#proven.has(pair)
    if (!isProven && !this.#accounts.take(name, now())) throw tooMany()
    const account = store.account(name)
    const rank = isProven ? PROVEN_RANK : this.#failures(source)
    if (!(await this.#isRight(account, password, { source, rank, request })))
      throw new Refusal(401, 'UNAUTHORIZED', 'wrong account or password')
    this.#proven.delete(pair)
    this.#proven.add(pair)
    if (this.#proven.size > MAX_PROVEN) this.#proven.delete(this.#proven.keys().next().value!)
    const full = `${node}.${zone}`
    if (!mayBeNode(full, zone) || !isFullName(full))
      throw new Refusal(403, 'NAME_TAKEN', `${node} cannot be the name of a node`)
    const publicKey = Uint8Array.from(Buffer.from(public_key, 'base64'))
    const key = randomBytes(32)
    const keyId = randomBytes(16)
    const login = { name: full, account: name, publicKey, keyId, key, ...this.#expiry }
    const before = await this.#committed(() => this.#put(login, replace))
    if ((await this.#init.published?.()) === false)
      throw new Refusal(503, 'COORDINATOR_AWAY', 'the coordinator of the zone does not answer; try again')
    for (const node of before) this.#init.onLogin(node.name)
    if (before.every((node) => node.name !== full)) this.#init.onLogin(full)
    return {
      ...{ name: full, key_id: keyId.toString('base64'), key: encodeKey(key) },
      ...{ coordinator: this.#init.coordinator, zone_key: encodeKey(this.#init.zoneKey) },
      expires: this.#expiry.expires ?? null,
    }
  }

  /** Those that this login replaces. */
  #put(login: Omit<NodeRecord, 'accountId'>, replace: boolean): NodeRecord[] {
    const { store, wall } = this.#init
    const { name, account, publicKey } = login
    const nodes = store.nodesOf(account)
    const other = nodes.find((each) => each.name === name && !equal(each.publicKey, publicKey))
    if (other !== undefined && !replace && !hasEnded(other, wall()))
      throw new Refusal(409, 'NAME_IN_USE', `another device of this account is logged in as ${name}`)
    const before = nodes.filter((each) => each.name === name || equal(each.publicKey, publicKey))
    if (nodes.length >= MAX_NODES && before.length === 0)
      throw new Refusal(403, 'TOO_MANY_NODES', `the account has ${MAX_NODES} nodes already`)
    if (!store.putNode(login)) {
      const holder = store.nodeByName(name)
      throw holder !== undefined && holder.account !== account
        ? new Refusal(403, 'NAME_TAKEN', `${name} is another account's`)
        : new Refusal(403, 'KEY_TAKEN', 'a node of another account has this public key')
    }
    return before
  }

  /** What `write` returns, once it is kept. Where another server has written meanwhile, it is judged and written again. */
  async #committed<T>(write: () => T): Promise<T> {
    const { store } = this.#init
    for (let left = WRITES; ; left--) {
      if (left === WRITES) store.refresh()
      else store.beginTurn()
      try {
        const written = write()
        store.commit()
        return written
      } catch (error) {
        const isBehind = error instanceof GodwitError && error.op === 'behind'
        if (!isBehind || left === 1) throw error
      }
      await delay(randomInt(BEHIND_MS))
    }
  }

  get #expiry(): { readonly expires?: number } {
    const { loginDays, wall } = this.#init
    return loginDays === 0 ? {} : { expires: Math.floor(wall() / 1000) + 86_400 * loginDays }
  }

  /** Who still has the key of a login that has not ended prolongs it. */
  async #renew(request: IncomingMessage): Promise<object> {
    const { store, now, wall } = this.#init
    if (!this.#renewals.take(sourceOf(request.socket.remoteAddress ?? ''), now())) throw tooMany()
    const parsed = renewal.safeParse(await jsonOf(request))
    if (!parsed.success) throw new Refusal(400, 'REQUEST_INVALID', 'not a renewal')
    const keyId = new Uint8Array(Buffer.from(parsed.data.key_id, 'base64'))
    const proof = Buffer.from(parsed.data.proof, 'base64')
    const { expires } = this.#expiry
    await this.#committed(() => {
      const node = store.nodeByKeyId(keyId)
      const due = node && renewalProof(nodeCrypto, node.key, keyId)
      const isRight = due !== undefined && nodeCrypto.equal(due, proof)
      if (
        node === undefined ||
        !isRight ||
        hasEnded(node, wall()) ||
        store.account(node.account)?.disabled !== false
      )
        throw new Refusal(401, 'LOGIN_ENDED', 'the login has ended or was revoked')
      store.renewLogin(node.name, expires)
    })
    return { expires: expires ?? null }
  }

  async #isRight(
    account: Account | undefined,
    password: string,
    {
      source,
      rank,
      request,
    }: { readonly source: string; readonly rank: number; readonly request: IncomingMessage },
  ): Promise<boolean> {
    this.#checking.add(source)
    try {
      // Nobody waits any more for what was asked on a connection that has ended.
      const isRight = await this.#turns.run(rank, async () =>
        request.socket.destroyed ? false : checkPassword(account, password),
      )
      if (isRight === undefined) throw tooMany()
      if (!isRight) this.#fail(source)
      return isRight
    } finally {
      this.#checking.delete(source)
    }
  }

  #failures(source: string): number {
    const { count = 0, at = 0 } = this.#failed.get(source) ?? {}
    return this.#init.now() - at > FAILED_MS ? 0 : count
  }

  #fail(source: string): void {
    const count = this.#failures(source) + 1
    this.#failed.delete(source)
    this.#failed.set(source, { count, at: this.#init.now() })
    if (this.#failed.size > MAX_FAILED) this.#failed.delete(this.#failed.keys().next().value!)
  }
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

function shown({ host, port, certificate }: CertifiedServer): object {
  return { host, port, certificate: Buffer.from(certificate).toString('base64') }
}

function tooMany(): Refusal {
  return new Refusal(429, 'TOO_MANY', 'too many attempts; wait a minute')
}
