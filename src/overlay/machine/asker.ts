/**
 * A node's connection to its coordinator: a sealed session that this end opens, and requests in it that are repeated
 * until they are answered (docs/wire/overlay.md). Every transmission of a request uses the next way, so that a dead
 * socket or address costs one pause. The session is renewed before it expires, and when the coordinator has lost it; the
 * first request is inside OPEN.
 */
import { concat } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { sameEndpoint } from '../tables.ts'
import {
  type Datagram,
  datagramCodec,
  type Identity,
  Kind,
  MAC,
  type Opened,
  SALT,
  type Sealed,
  type SessionResponse,
} from '../wire/datagram.ts'
import { type Message, messageCodec, Type } from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import { CounterWindow } from './counters.ts'
import { macKey, sessionKeys } from './secrets.ts'

/** A way to the coordinator: which socket, and which of its addresses. */
export interface Way {
  readonly socket: number
  readonly to: Endpoint
}

export interface AskerParts extends MachineComponents {
  readonly identity: Identity
  /** The key that both ends hold. */
  readonly key: Uint8Array
  readonly send: (bytes: Uint8Array, way: Way) => void
  /** A message that answers no request. */
  readonly onMessage: (message: Message, way: Way, now: number) => void
  /** A session was made; `type` of the message that was in its OPEN. */
  readonly onOpened: (type: number, now: number) => void
  /** The coordinator has not answered in all attempts. */
  readonly onSilence: (now: number) => void
  /**
   * Somebody unproven named the ways: an address gets requests for sessions alone until it has answered one of its own, and
   * sealed messages go only to the one that the session was opened with.
   */
  readonly provenOnly?: boolean
  /** Requests that may wait for an answer. */
  readonly maxRequests?: number
}

/** First pause before a repetition, then doubling (ms). */
const FIRST_PAUSE = 250
const TRIES = 6
/** This many attempts without an answer lead to a new session. */
const SILENT_TRIES = 3
/** Longest pause between two requests for a session (ms). */
const LONGEST_PAUSE = 30_000
/** The next session is opened then (ms); the wire document ends it after 24 hours. */
const RENEW_AFTER = 20 * 3_600_000
/** Requests that may wait for an answer, where nothing else is said. */
const MAX_REQUESTS = 512
const NEVER = Number.POSITIVE_INFINITY

interface Pending {
  /** Fresh with every SESSION_REQUEST that follows an OPEN: that one may have made a session. */
  index: number
  saltA: Uint8Array
  /** Where the last SESSION_REQUEST went. */
  way?: Way
  tries: number
  at: number
  /** After SESSION_RESPONSE. */
  open?: {
    readonly bytes: Uint8Array
    readonly way: Way
    readonly sendKey: Uint8Array
    readonly receiveKey: Uint8Array
    readonly first: Message
    tries: number
  }
}

interface Live {
  readonly index: number
  /** Where its OPEN went. */
  readonly way: Way
  readonly answerer: number
  readonly sendKey: Uint8Array
  readonly receiveKey: Uint8Array
  readonly received: CounterWindow
  readonly openedAt: number
  counter: number
}

interface Request {
  readonly message: Message
  readonly since: number
  readonly until: number
  readonly done: Answered
  /** Asked over this one alone: it says nothing about the way that others go. */
  readonly way: Way | undefined
  tries: number
  at: number
}

/** The answer and how it came; undefined when none came in time. */
export type Answered = (answer: Message | undefined, way: Way | undefined, now: number) => void

export class Asker {
  readonly #parts: AskerParts
  readonly #requestKey: Uint8Array
  readonly #responseKey: Uint8Array
  readonly #requests = new Map<number, Request>()
  #ways: readonly Way[] = []
  /** Index of the way on which the last answer came; it is tried first. */
  #first = 0
  #pending: Pending | undefined
  #live: Live | undefined
  /** The one before, whose late messages still count. */
  #previous: Live | undefined
  #silenceTold = false
  #heardAt = Number.NEGATIVE_INFINITY
  #unknownAt = Number.NEGATIVE_INFINITY

  constructor(parts: AskerParts) {
    this.#parts = parts
    this.#requestKey = macKey(parts.crypto, parts.key, 'request')
    this.#responseKey = macKey(parts.crypto, parts.key, 'response')
  }

  get open(): boolean {
    return this.#live !== undefined
  }

  /** The last datagram of the other end (ms). */
  get heardAt(): number {
    return this.#heardAt
  }

  /** Requests wait for answers. */
  get busy(): boolean {
    return this.#requests.size > 0
  }

  /** Whether a datagram of this kind and with this index is for one of its sessions. */
  owns(kind: Kind, index: number): boolean {
    // The other end chooses this number: it must not draw what is for another session.
    if (kind === Kind.SESSION_UNKNOWN) return this.#live?.answerer === index
    return [this.#pending, this.#live, this.#previous].some((session) => session?.index === index)
  }

  /** The way that is tried first. */
  get way(): Way | undefined {
    return this.#ways[this.#first % Math.max(1, this.#ways.length)]
  }

  /** All ways that there are, the preferred first. */
  setWays(ways: readonly Way[], now: number): void {
    this.#ways = ways
    this.#first = 0
    if (this.#pending !== undefined) {
      this.#pending.at = now
      this.#pending.tries = 0
      if (this.#pending.open !== undefined) this.#startOver(this.#pending)
    }
    for (const request of this.#requests.values()) {
      request.at = Math.min(request.at, now)
      request.tries = 0
    }
  }

  /**
   * Sends it until an answer with its transaction comes, or for `ms`. Its transaction is chosen here. `over`: this way alone,
   * where there is a session.
   */
  request(message: Omit<Message, 'transaction'>, ms: number, done: Answered, now: number, over?: Way): void {
    if (this.#requests.size >= (this.#parts.maxRequests ?? MAX_REQUESTS)) {
      done(undefined, undefined, now)
      return
    }
    let transaction = this.#number()
    while (this.#requests.has(transaction)) transaction = this.#number()
    const whole = { ...message, transaction }
    const request = { message: whole, since: now, until: now + ms, done, way: over, tries: 0, at: now }
    this.#requests.set(transaction, request)
    if (this.#live === undefined) this.#begin(now)
    else this.#transmit(request, now)
  }

  /** Sends it once. False when there is no session. */
  tell(message: Message, way: Way): boolean {
    const live = this.#live
    if (live === undefined) return false
    this.#seal(live, message, way)
    return true
  }

  /** Forgets requests of a type: what they ask is asked otherwise. */
  drop(which: (message: Message) => boolean): void {
    for (const [transaction, { message }] of this.#requests)
      if (which(message)) this.#requests.delete(transaction)
  }

  /** It asks no more: what waits for an answer gets none. */
  close(now: number): void {
    this.#pending = undefined
    const requests = [...this.#requests.values()]
    this.#requests.clear()
    for (const { done } of requests) done(undefined, undefined, now)
  }

  handle(datagram: Datagram, way: Way, now: number): void {
    switch (datagram.kind) {
      case Kind.SESSION_RESPONSE:
        this.#response(datagram, way, now)
        break
      case Kind.OPENED:
        this.#opened(datagram, way, now)
        break
      case Kind.SEALED:
        this.#sealed(datagram, way, now)
        break
      case Kind.SESSION_UNKNOWN:
        // A hint that anybody can forge: it causes at most one question per second, and nothing is forgotten.
        if (this.#live?.answerer !== datagram.index || now - this.#unknownAt < 1000) return
        this.#unknownAt = now
        this.#begin(now)
        break
      default:
    }
  }

  nextTimeout(): number | undefined {
    let at = this.#pending?.at ?? NEVER
    for (const request of this.#requests.values())
      at = Math.min(at, request.until, this.#live === undefined ? NEVER : request.at)
    if (this.#live !== undefined && this.#pending === undefined)
      at = Math.min(at, this.#live.openedAt + RENEW_AFTER)
    return at === NEVER ? undefined : at
  }

  handleTimeout(now: number): void {
    for (const [transaction, request] of [...this.#requests]) {
      if (this.#requests.get(transaction) !== request) continue // one that ended has closed this
      if (request.until <= now) {
        this.#requests.delete(transaction)
        request.done(undefined, undefined, now)
      } else if (this.#live !== undefined && request.at <= now) {
        // Nothing comes back: it may have forgotten this session, and its hint may be lost.
        if (request.tries >= SILENT_TRIES && request.way === undefined && this.#heardAt < request.since)
          this.#begin(now)
        this.#transmit(request, now)
      }
    }
    const pending = this.#pending
    if (pending !== undefined && pending.at <= now) this.#again(pending, now)
    else if (this.#live !== undefined && now - this.#live.openedAt >= RENEW_AFTER) this.#begin(now)
  }

  // ---- a session

  #begin(now: number): void {
    if (this.#pending !== undefined) return
    const { random } = this.#parts
    const pending = {
      index: this.#number(),
      saltA: random.fill(new Uint8Array(SALT)),
      tries: 0,
      at: now,
    }
    this.#pending = pending
    this.#again(pending, now)
  }

  #again(pending: Pending, now: number): void {
    const { open } = pending
    if (open !== undefined && open.tries < 3) {
      open.tries++
      pending.at = now + FIRST_PAUSE * 2 ** (open.tries - 1)
      this.#parts.send(open.bytes, open.way)
      return
    }
    // A salt for each address: only who got it there can answer.
    if (open !== undefined || this.#parts.provenOnly === true) this.#startOver(pending)
    const way = this.#ways[(this.#first + pending.tries) % Math.max(1, this.#ways.length)]
    if (way !== undefined) pending.way = way
    pending.tries++
    pending.at = now + Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(pending.tries - 1, 10))
    if (way !== undefined) this.#parts.send(this.#sessionRequest(pending), way)
    if (pending.tries < TRIES || this.#silenceTold) return
    this.#silenceTold = true
    this.#parts.onSilence(now)
  }

  #startOver(pending: Pending): void {
    delete pending.open
    pending.index = this.#number()
    pending.saltA = this.#parts.random.fill(new Uint8Array(SALT))
  }

  #sessionRequest({ index, saltA }: Pending): Uint8Array {
    const { crypto, identity } = this.#parts
    const kind = Kind.SESSION_REQUEST
    const blank = encoded({ kind, index, salt: saltA, identity, mac: new Uint8Array(MAC) })
    const mac = crypto.mac(this.#requestKey, blank.subarray(0, blank.length - MAC))
    return encoded({ kind, index, salt: saltA, identity, mac })
  }

  #response(response: SessionResponse, way: Way, now: number): void {
    const { crypto, identity, key } = this.#parts
    const pending = this.#pending
    if (pending === undefined || pending.index !== response.index || pending.open !== undefined) return
    if (
      this.#parts.provenOnly === true &&
      (pending.way === undefined || !sameEndpoint(pending.way.to, way.to))
    )
      return
    const bytes = encoded(response)
    const mac = crypto.mac(this.#responseKey, concat(bytes.subarray(0, bytes.length - MAC), pending.saltA))
    if (!crypto.equal(mac, response.mac)) return
    const keys = sessionKeys(crypto, key, pending.saltA, response.salt)
    const first = [...this.#requests.values()].find((request) => request.way === undefined)
    const message = first?.message ?? { type: Type.KEEP_ALIVE, transaction: this.#number() }
    const head = {
      kind: Kind.OPEN,
      index: pending.index,
      counter: 0,
      saltA: pending.saltA,
      saltB: response.salt,
      identity,
    }
    const ad = encoded({ ...head, sealed: new Uint8Array(0) })
    const sealed = crypto.seal(keys.asker, 0, encodedMessage(message), ad)
    pending.open = {
      bytes: encoded({ ...head, sealed }),
      way,
      sendKey: keys.asker,
      receiveKey: keys.answerer,
      first: message,
      tries: 0,
    }
    this.#again(pending, now)
  }

  #opened(opened: Opened, way: Way, now: number): void {
    const pending = this.#pending
    const open = pending?.open
    if (pending === undefined || open === undefined || pending.index !== opened.index) return
    const ad = encoded({ ...opened, sealed: new Uint8Array(0) })
    const plain = this.#parts.crypto.open(open.receiveKey, opened.counter, opened.sealed, ad)
    if (plain === undefined) return
    this.#pending = undefined
    this.#previous = this.#live
    const received = new CounterWindow()
    received.take(opened.counter)
    this.#live = {
      ...{ index: pending.index, way: open.way },
      answerer: opened.answerer,
      sendKey: open.sendKey,
      receiveKey: open.receiveKey,
      received,
      openedAt: now,
      counter: 1,
    }
    this.#heard(way, now)
    const waiting = [...this.#requests.values()]
    this.#message(plain, way, now)
    this.#parts.onOpened(open.first.type, now)
    for (const request of waiting) {
      const { transaction } = request.message
      if (request.message === open.first || this.#requests.get(transaction) !== request) continue
      request.tries = 0
      this.#transmit(request, now)
    }
  }

  #sealed(sealed: Sealed, way: Way, now: number): void {
    const session = [this.#live, this.#previous].find((each) => each?.index === sealed.index)
    if (session === undefined) return
    const ad = encoded({ ...sealed, sealed: new Uint8Array(0) })
    const plain = this.#parts.crypto.open(session.receiveKey, sealed.counter, sealed.sealed, ad)
    if (plain === undefined || !session.received.take(sealed.counter)) return
    if (this.#isAside(plain)) this.#heardAt = now
    else this.#heard(way, now)
    this.#message(plain, way, now)
  }

  /** The answer to a question over a way of its own. */
  #isAside(plain: Uint8Array): boolean {
    const message = messageCodec.decode(plain)
    return message.ok && this.#requests.get(message.value.transaction)?.way !== undefined
  }

  #heard(way: Way, now: number): void {
    this.#silenceTold = false
    this.#heardAt = now
    const at = this.#ways.findIndex((each) => each.socket === way.socket && sameEndpoint(each.to, way.to))
    if (at >= 0) this.#first = at
  }

  #message(plain: Uint8Array, way: Way, now: number): void {
    const message = messageCodec.decode(plain)
    if (!message.ok) return
    const request = this.#requests.get(message.value.transaction)
    if (request !== undefined && answers(message.value, request.message)) {
      this.#requests.delete(message.value.transaction)
      request.done(message.value, way, now)
    } else this.#parts.onMessage(message.value, way, now)
  }

  // ---- sending

  #transmit(request: Request, now: number): void {
    const live = this.#live
    const next = this.#ways[(this.#first + request.tries) % Math.max(1, this.#ways.length)]
    const way = this.#parts.provenOnly === true ? live?.way : (request.way ?? next)
    request.at = now + FIRST_PAUSE * 2 ** Math.min(request.tries, 7)
    request.tries++
    if (live !== undefined && way !== undefined) this.#seal(live, request.message, way)
  }

  #seal(live: Live, message: Message, way: Way): void {
    const head = { kind: Kind.SEALED, index: live.answerer, counter: live.counter++ }
    const ad = encoded({ ...head, sealed: new Uint8Array(0) })
    const sealed = this.#parts.crypto.seal(live.sendKey, head.counter, encodedMessage(message), ad)
    this.#parts.send(encoded({ ...head, sealed }), way)
  }

  #number(): number {
    const bytes = this.#parts.random.fill(new Uint8Array(4))
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0)
  }
}

/** A response's type is that of its request plus one; a NOTIFICATION_ACK is answered as a KEEP_ALIVE is. */
function answers(message: Message, request: Message): boolean {
  const asked = request.type === Type.NOTIFICATION_ACK ? Type.KEEP_ALIVE : request.type
  return message.type === asked + 1
}

export function encoded(datagram: Datagram): Uint8Array {
  const out = new Uint8Array(datagramCodec.byteLength(datagram))
  datagramCodec.encode(datagram, out)
  return out
}

export function encodedMessage(message: Message): Uint8Array {
  const out = new Uint8Array(messageCodec.byteLength(message))
  messageCodec.encode(message, out)
  return out
}
