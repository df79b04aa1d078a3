/**
 * The control socket: HTTP and JSON on a Unix socket, mode 0660 (owner, and the group `godwit` if it exists).
 * docs/security.md lists what members of the group can do; routes learn the calling user from the kernel. Bodies are
 * validated by their route's schema, and connections per user are limited. Every answer is one JSON object; errors carry
 * the code, message and hint of a `GodwitError`.
 */
import { chmodSync, chownSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { dirname } from 'node:path'
import { GodwitError, usageError } from '../../core/errors.ts'
import type { BodySchema, ControlRoute } from '../../core/mechanism.ts'
import { withArticle } from '../../core/words.ts'
import { OneByOne } from '../../linux/one-by-one.ts'
import { peerUser } from '../../linux/peer-credentials.ts'

const MOST_BODY = 1 << 20
/** Connections of one user at a time: each holds a descriptor, and a body while it comes. */
const MOST_CONNECTIONS = 64
/** sun_path of unix(7) is 108 bytes with its zero. */
const MOST_PATH = 107

export interface ControlInit {
  readonly path: string
  readonly routes: readonly ControlRoute[]
  /** The text of GET /metrics. */
  readonly metrics: () => string
  /** Role of the daemon, and the roles whose requests have paths of their own. */
  readonly role: string
  readonly roles: readonly string[]
  /** Called for failures that are not the caller's: bugs of godwit. */
  readonly onFault: (error: unknown) => void
}

/** Checks that a socket path is not too long for the kernel. */
export function checkSocketPath(path: string): void {
  if (Buffer.byteLength(path) <= MOST_PATH) return
  throw new GodwitError('SOCKET_PATH', `${path} is too long for a Unix socket (${MOST_PATH} bytes)`, {
    kind: 'usage',
    hint: 'choose a shorter --state DIR',
  })
}

export class ControlServer {
  readonly #init: ControlInit
  readonly #server: Server
  readonly #routes: ReadonlyMap<string, ControlRoute>
  /** By user. */
  readonly #connections = new Map<number, number>()

  constructor(init: ControlInit) {
    this.#init = init
    this.#routes = new Map(init.routes.map((route) => [`${route.method} ${route.path}`, route]))
    const oneByOne = new OneByOne()
    this.#server = createServer({ requestTimeout: 60_000 }, (request, response) => {
      if (oneByOne.admits(request, response)) void this.#answer(request, response)
    })
    this.#server.on('connection', (socket) => this.#admit(socket))
  }

  /** The caller holds the state's lock, so a socket that is there is left from a daemon that has ended. */
  async listen(): Promise<void> {
    const { path } = this.#init
    checkSocketPath(path)
    rmSync(path, { force: true })
    await new Promise<void>((done, fail) => {
      this.#server.once('error', fail)
      // Bound within listen(): never, not for an instant, open to others.
      const before = process.umask(0o117)
      try {
        this.#server.listen(path, done)
      } finally {
        process.umask(before)
      }
    })
    chmodSync(path, 0o660)
    const group = groupId('godwit')
    if (group === undefined || process.getuid?.() !== 0) return
    // The folder too (0750): users who may not enter it cannot reach the socket.
    for (const each of [path, dirname(path)]) {
      try {
        chownSync(each, 0, group)
      } catch {
        return // root of a user namespace that has no such group: root alone controls it
      }
    }
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return
    this.#server.closeAllConnections()
    await new Promise<void>((done) => this.#server.close(() => done()))
    rmSync(this.#init.path, { force: true })
  }

  /** Nobody keeps the others out by what they leave open. */
  #admit(socket: Socket): void {
    let uid: number
    try {
      uid = peerUser(socket)
    } catch {
      socket.destroy()
      return
    }
    const open = this.#connections.get(uid) ?? 0
    if (open >= MOST_CONNECTIONS) {
      socket.destroy()
      return
    }
    this.#connections.set(uid, open + 1)
    socket.once('close', () => {
      const left = this.#connections.get(uid)! - 1
      if (left > 0) this.#connections.set(uid, left)
      else this.#connections.delete(uid)
    })
  }

  #noRoute(what: string, wanted: string): GodwitError {
    const { role, roles } = this.#init
    if (wanted !== role && roles.includes(wanted))
      return new GodwitError(
        'WRONG_ROLE',
        `the running daemon is ${withArticle(role)}, not ${withArticle(wanted)}`,
        {
          kind: 'usage',
          hint: `run the command where the ${wanted} runs, or give its state folder: --state DIR`,
        },
      )
    return new GodwitError('NO_ROUTE', `nothing at ${what}`, {
      hint: 'is the daemon of the same version as the command?',
    })
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const url = parseUrl(request.url ?? '/')
      if (request.method === 'GET' && url.pathname === '/metrics') {
        response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(this.#init.metrics())
        return
      }
      const route = this.#routes.get(`${request.method} ${url.pathname}`)
      if (!route) {
        throw this.#noRoute(`${request.method} ${url.pathname}`, url.pathname.split('/')[2] ?? '')
      }
      const caller = { uid: peerUser(request.socket) }
      const common = { path: url.pathname, query: Object.fromEntries(url.searchParams), caller }
      const answer =
        route.method === 'GET'
          ? await route.handle({ ...common, body: undefined })
          : await route.handle({ ...common, body: checkBody(route.body, await readBody(request)) })
      send(response, 200, answer ?? {})
    } catch (error) {
      if (!(error instanceof GodwitError)) this.#init.onFault(error)
      send(response, statusOf(error), { error: describeError(error) })
    }
  }
}

function parseUrl(text: string): URL {
  try {
    return new URL(text, 'http://godwit')
  } catch {
    throw usageError('the request names no path')
  }
}

/** The body as validated by the schema; the error lists every fault and its place. */
function checkBody(schema: BodySchema<unknown>, body: unknown): unknown {
  const result = schema.safeParse(body)
  if (result.success) return result.data
  const faults = result.error.issues.map(({ path, message }) =>
    path.length === 0 ? message : `\`${path.map(String).join('.')}\`: ${message}`,
  )
  throw usageError(`the request's body: ${faults.join('; ')}`)
}

/** An error as it goes over the socket. */
export interface WireError {
  readonly code: string
  readonly message: string
  readonly hint?: string
  readonly kind: string
}

function describeError(error: unknown): WireError {
  if (error instanceof GodwitError) {
    const { code, message, hint, kind } = error
    return { code, message, kind, ...(hint === undefined ? {} : { hint }) }
  }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'INTERNAL', message: `error in the daemon: ${message}`, kind: 'failed' }
}

function statusOf(error: unknown): number {
  if (!(error instanceof GodwitError)) return 500
  if (error.code === 'NO_ROUTE') return 404
  return error.kind === 'usage' ? 400 : 409
}

function send(response: ServerResponse, status: number, body: unknown): void {
  if (response.headersSent) return
  const text = JSON.stringify(body, (_, value) => (typeof value === 'bigint' ? value.toString() : value))
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${text}\n`)
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > MOST_BODY) throw new GodwitError('USAGE', 'the request is too long', { kind: 'usage' })
    chunks.push(chunk)
  }
  if (length === 0) return {}
  try {
    return JSON.parse(Buffer.concat(chunks).toString())
  } catch {
    throw new GodwitError('USAGE', 'the request is not JSON', { kind: 'usage' })
  }
}

/** The number of a group in /etc/group. */
export function groupId(name: string): number | undefined {
  try {
    const line = readFileSync('/etc/group', 'utf8')
      .split('\n')
      .find((entry) => entry.startsWith(`${name}:`))
    return line === undefined ? undefined : Number(line.split(':')[2])
  } catch {
    return undefined
  }
}
