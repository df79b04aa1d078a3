/**
 * The servers of the zone that run apart from its coordinator (NT-10, NT-21, NT-24, NT-26): the coordinator's end. Each holds a
 * key of its own, asks for a session as nodes do, and registers once a second; in that session the coordinator asks it too.
 * Sans-I/O.
 *
 * A server is where its OPEN came from: that address has answered. What comes from elsewhere under its session counts for
 * nothing; a server whose address changed opens another session. Keys are the directory's: a server that was removed there,
 * or was given another key, is nobody from then on.
 */
import { equal } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { sameEndpoint } from '../tables.ts'
import { type Message, ROLE_BITS, type ServerRole, Status, Type } from '../wire/message.ts'
import type { Arrival, Holder } from './answerer.ts'
import type { Directory, ServerRecord } from './directory.ts'

/** A server that has registered, and has been heard since. */
export interface SiteServer {
  readonly name: string
  readonly roles: ReadonlySet<ServerRole>
  /** Its last registration. */
  readonly registration: Message
}

export interface SiteParts {
  readonly directory: Pick<Directory, 'serverByName'>
  readonly number: () => number
  /** This coordinator's start: 8 bytes. */
  readonly boot: Uint8Array
  /** Seals for the newest session of this owner. */
  readonly seal: (session: number, owner: string, message: Message) => Uint8Array | undefined
  readonly send: (socket: number, to: Endpoint, bytes: Uint8Array) => void
  /**
   * It has registered: for the first time, again, or after it was started anew or changed its roles (`isFresh`). `before`: its
   * registration before this one, unless it was lost meanwhile.
   */
  readonly onRegistered: (
    server: SiteServer,
    isFresh: boolean,
    before: SiteServer | undefined,
    now: number,
  ) => void
  /** It has not been heard for a while, or was removed. */
  readonly onGone: (server: SiteServer, now: number) => void
  /** A request of the server. */
  readonly onRequest: (
    server: SiteServer,
    message: Message,
    reply: (answer: Message) => void,
    now: number,
  ) => void
  /** Further fields of the answer to a registration. */
  readonly welcome: (server: SiteServer) => Partial<Message>
  /** Ends its sessions. */
  readonly drop: (owner: string) => void
}

/** Where a message came from, as the answerer says. */
export interface ServerSource {
  readonly session: number
  readonly openedAt: number
  readonly from: Endpoint
  readonly socket: number
  readonly how: Arrival
}

type Answered = (answer: Message | undefined, now: number) => void

/** A server that is silent for so long is taken to be gone (ms); it registers every second. */
const LOST_MS = 3500
/** Pauses between repetitions of a request (ms): the first, then doubling. */
const FIRST_PAUSE = 150
/** Requests under way to one server. */
const MAX_REQUESTS = 20_000
/** Messages a second of one server, and at once: it speaks for many nodes. */
const MESSAGES_RATE = 2000
const MESSAGES_BURST = 4000
/** Fresh registrations of a server a second, and at once: each ends what was ordered of it before. */
const FRESH_RATE = 1 / 10
const FRESH_BURST = 2
const NEVER = Number.POSITIVE_INFINITY

interface Known {
  server: SiteServer | undefined
  /** The key of its session. */
  key: Uint8Array
  readonly fresh: TokenBucket
  /** Which session, and where its OPEN came from. */
  session: number
  openedAt: number
  endpoint: Endpoint
  socket: number
  heardAt: number
  readonly requests: Map<number, Asked>
}

interface Asked {
  readonly message: Message
  readonly until: number
  readonly done: Answered
  tries: number
  at: number
}

/** How a server is called among those that hold a session: no name of a node or zone begins so. */
export function ownerOfServer(name: string): string {
  return `%${name}`
}

/** The server of a session; undefined: another's. */
export function serverOfOwner(owner: string): string | undefined {
  return owner.startsWith('%') ? owner.slice(1) : undefined
}

export function rolesOf(bits: number): ReadonlySet<ServerRole> {
  const roles = Object.keys(ROLE_BITS) as ServerRole[]
  return new Set(roles.filter((role) => (bits & ROLE_BITS[role]) !== 0))
}

export class Site {
  readonly #parts: SiteParts
  readonly #known = new Map<string, Known>()
  /** Nothing is due before. */
  #dueAt = NEVER

  constructor(parts: SiteParts) {
    this.#parts = parts
  }

  /** Servers that are there. */
  *servers(role: ServerRole): Iterable<SiteServer> {
    for (const { server } of this.#known.values()) if (server?.roles.has(role) === true) yield server
  }

  holderOf(name: string): Holder | undefined {
    const record = this.#parts.directory.serverByName(name)
    if (record === undefined) return undefined
    return {
      ...{ owner: ownerOfServer(name), key: record.key },
      messages: { rate: MESSAGES_RATE, burst: MESSAGES_BURST },
    }
  }

  handle(
    name: string,
    message: Message,
    source: ServerSource,
    reply: (answer: Message) => void,
    now: number,
  ): void {
    const record = this.#parts.directory.serverByName(name)
    const { key } = this.#known.get(name) ?? {}
    if (record === undefined || (key !== undefined && !equal(key, record.key))) {
      // Who opens a session now has shown the key of now.
      this.#lose(name, now)
      if (record === undefined || source.how === 'sealed') {
        this.#parts.drop(ownerOfServer(name))
        return
      }
    }
    const known = record && this.#place(name, source, record.key, now)
    if (known === undefined) return
    if (source.how === 'again') {
      // It may have been captured: it shows nothing, and gets the answer that was lost.
      reply({ type: Type.KEEP_ALIVE_ACK, transaction: message.transaction })
      return
    }
    known.heardAt = now
    const asked = known.requests.get(message.transaction)
    if (asked !== undefined && message.type === asked.message.type + 1) {
      known.requests.delete(message.transaction)
      asked.done(message, now)
    } else if (message.type === Type.SERVER_REGISTRATION)
      this.#register(known, atHost(message, record.host), record, reply, now)
    // An OPEN has to be answered, whatever is in it: the registration follows in its session.
    else if (known.server === undefined || message.type === Type.KEEP_ALIVE)
      reply({ type: Type.KEEP_ALIVE_ACK, transaction: message.transaction })
    else this.#parts.onRequest(known.server, message, reply, now)
  }

  /** Asks the server until it answers, or for `ms`. */
  request(
    name: string,
    message: Omit<Message, 'transaction'>,
    ms: number,
    done: Answered,
    now: number,
  ): void {
    const known = this.#known.get(name)
    if (known?.server === undefined || known.requests.size >= MAX_REQUESTS) {
      done(undefined, now)
      return
    }
    let transaction = this.#parts.number()
    while (known.requests.has(transaction)) transaction = this.#parts.number()
    const asked = { message: { ...message, transaction }, until: now + ms, done, tries: 0, at: now }
    known.requests.set(transaction, asked)
    this.#send(name, known, asked, now)
  }

  nextTimeout(): number {
    return this.#dueAt
  }

  handleTimeout(now: number): void {
    if (this.#dueAt > now) return
    this.#dueAt = NEVER
    for (const [name, known] of [...this.#known]) {
      for (const [transaction, asked] of [...known.requests])
        if (asked.until <= now) {
          known.requests.delete(transaction)
          asked.done(undefined, now)
        } else if (asked.at <= now) this.#send(name, known, asked, now)
        else this.#due(Math.min(asked.at, asked.until))
      if (known.server === undefined) continue
      if (known.heardAt + LOST_MS <= now) this.#silent(known, now)
      else this.#due(known.heardAt + LOST_MS)
    }
  }

  #due(at: number): void {
    this.#dueAt = Math.min(this.#dueAt, at)
  }

  /** Undefined: a message from where this server is not, or of an earlier session. */
  #place(
    name: string,
    { session, openedAt, from, socket, how }: ServerSource,
    key: Uint8Array,
    now: number,
  ): Known | undefined {
    const known = this.#known.get(name)
    if (known?.session === session) return sameEndpoint(known.endpoint, from) ? known : undefined
    if (how !== 'opened' || (known !== undefined && openedAt < known.openedAt)) return undefined
    const place = { session, openedAt, endpoint: from, socket }
    if (known !== undefined) return Object.assign(known, place)
    const made: Known = {
      ...{ ...place, key, server: undefined, heardAt: now, requests: new Map() },
      fresh: new TokenBucket(FRESH_RATE, FRESH_BURST),
    }
    this.#known.set(name, made)
    return made
  }

  #register(
    known: Known,
    message: Message,
    { name, roles: allowed }: ServerRecord,
    reply: (answer: Message) => void,
    now: number,
  ): void {
    const type = Type.SERVER_REGISTRATION_ACK
    const { transaction } = message
    const roles = rolesOf(message.roles ?? 0)
    if ([...roles].some((role) => !allowed.has(role))) {
      reply({ type, transaction, status: Status.NOT_ALLOWED })
      return
    }
    const before = known.server
    const isFresh =
      before === undefined ||
      before.registration.roles !== message.roles ||
      !sameBoot(before.registration.boot, message.boot)
    if (isFresh && !known.fresh.take(now)) {
      reply({ type, transaction, status: Status.TOO_MANY })
      return
    }
    const server = { name, roles, registration: message }
    known.server = server
    this.#due(now + LOST_MS)
    reply({ type, transaction, status: Status.DONE, boot: this.#parts.boot, ...this.#parts.welcome(server) })
    this.#parts.onRegistered(server, isFresh, before, now)
  }

  #lose(name: string, now: number): void {
    const known = this.#known.get(name)
    this.#known.delete(name)
    if (known !== undefined) this.#silent(known, now)
  }

  #silent(known: Known, now: number): void {
    const requests = [...known.requests.values()]
    known.requests.clear()
    const { server } = known
    known.server = undefined
    for (const { done } of requests) done(undefined, now)
    if (server !== undefined) this.#parts.onGone(server, now)
  }

  #send(name: string, { session, socket, endpoint }: Known, asked: Asked, now: number): void {
    asked.at = now + FIRST_PAUSE * 2 ** Math.min(asked.tries, 7)
    asked.tries++
    this.#due(Math.min(asked.at, asked.until))
    const bytes = this.#parts.seal(session, ownerOfServer(name), asked.message)
    if (bytes !== undefined) this.#parts.send(socket, endpoint, bytes)
  }
}

/** The registration, with the host that the operator gave for what nodes reach there. */
function atHost(message: Message, host: string | undefined): Message {
  const { notificationServer, cacheServer } = message
  if (host === undefined) return message
  return {
    ...message,
    ...(notificationServer !== undefined && { notificationServer: { ...notificationServer, host } }),
    ...(cacheServer !== undefined && { cacheServer: { ...cacheServer, host } }),
  }
}

function sameBoot(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a !== undefined && b !== undefined && a.every((byte, i) => byte === b[i])
}
