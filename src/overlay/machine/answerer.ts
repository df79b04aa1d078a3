/**
 * The answering end of sealed sessions (docs/wire/overlay.md). A SESSION_REQUEST is answered without storing anything; an
 * OPEN with the salt of that answer proves its source address and creates the session. Max two sessions per identity and process of it; a
 * captured OPEN creates none.
 */
import { concat, mapKey, viewOf } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import {
  type Datagram,
  type Identity,
  identityBytes,
  Kind,
  MAC,
  type Open,
  SALT,
  type Sealed,
  type SessionRequest,
} from '../wire/datagram.ts'
import { type Message, messageCodec } from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import { encoded, encodedMessage } from './asker.ts'
import { CounterWindow } from './counters.ts'
import { macKey, sessionKeys } from './secrets.ts'
import { Slab } from './slab.ts'

/** A salt is good for one to two of these (ms). */
const SECRET_MS = 60_000
/** First bytes of a salt: when it was given, in µs of its secret's age (32 bits). The rest proves it. */
const AGE = 4
/**
 * OPENs of an identity, and of each process of it, remembered as long as their salts are good. A newer one takes the place of the
 * oldest; what is older than all of them is refused: it may be one that was forgotten, until one of them and so its salt has expired.
 */
const MAX_OPENS = 16
/** Messages a second of one owner, and at once. */
const OWNER_RATE = 20
const OWNER_BURST = 60
const MAX_SESSION_MS = 24 * 3_600_000
/** Bytes of a session's key. */
const KEY = 32
/** What is sealed lies at the end of a datagram, behind what is its additional data. */
const NOTHING = new Uint8Array(0)

export interface AnswerSession {
  /** Ours, named by SEALED. */
  readonly index: number
  /** Session index of the asker. */
  readonly asker: number
  /** The owner that `holderOf` returned for its identity. */
  readonly owner: string
  /** When its salt was given: an OPEN that was held back on its way is not newer than what came meanwhile. */
  readonly openedAt: number
  /** The shared key that it was opened with. */
  readonly key: Uint8Array
  /** Messages of its owner, whatever session they come in. */
  readonly messages: TokenBucket
}

/** How a message came: in the OPEN that made its session, whose source has answered; in a repetition of that; or sealed. */
export type Arrival = 'opened' | 'again' | 'sealed'

interface Session extends AnswerSession {
  /** Slots of its keys. */
  readonly sendKey: number
  readonly receiveKey: number
  readonly received: CounterWindow
  counter: number
}

interface Owner {
  /** Newest last; at most two for each process of it. */
  sessions: readonly Session[]
  readonly messages: TokenBucket
  opens: readonly RememberedOpen[]
}

interface RememberedOpen {
  /** Both, as a text. */
  readonly salts: string
  /** When it came, and when its salt was given. */
  readonly at: number
  readonly openedAt: number
  /** Of its session. */
  readonly index: number
}

/** The asking identity and the shared key. */
export interface Holder {
  readonly owner: string
  readonly key: Uint8Array
  /** Messages a second, and at once, where they are not those of one node. */
  readonly messages?: { readonly rate: number; readonly burst: number }
  /** Processes that have the key at a time, where it is not one. */
  readonly starts?: number
}

export interface AnswererParts extends MachineComponents {
  /** Undefined: nobody known; such a datagram gets no answer. */
  readonly holderOf: (identity: Identity, from: Endpoint, now: number) => Holder | undefined
  readonly send: (bytes: Uint8Array, to: Endpoint, socket: number) => void
  /** `counter`: of the message in its session, 0 in an OPEN. */
  readonly onMessage: (
    session: AnswerSession,
    message: Message,
    source: { readonly from: Endpoint; readonly socket: number },
    arrival: { readonly how: Arrival; readonly counter: number },
    now: number,
  ) => void
}

export class Answerer {
  readonly #parts: AnswererParts
  readonly #sessions = new Map<number, Session>()
  /** Of the sessions. */
  readonly #keys = new Slab(KEY)
  readonly #owners = new Map<string, Owner>()
  /** Owners that may have no session. */
  readonly #left = new Set<string>()
  #secret: Uint8Array
  #before: Uint8Array
  #secretAt = Number.NEGATIVE_INFINITY

  constructor(parts: AnswererParts) {
    this.#parts = parts
    this.#secret = this.#fresh()
    this.#before = this.#secret
  }

  get size(): number {
    return this.#sessions.size
  }

  handle(datagram: Datagram, from: Endpoint, socket: number, now: number): void {
    this.#turnSecret(now)
    if (datagram.kind === Kind.SESSION_REQUEST) this.#request(datagram, from, socket, now)
    else if (datagram.kind === Kind.OPEN) this.#open(datagram, from, socket, now)
    else if (datagram.kind === Kind.SEALED) this.#sealed(datagram, from, socket, now)
  }

  /** Seals a message for the session's asker; undefined when the session is gone. */
  seal(index: number, message: Message, opened = false): Uint8Array | undefined {
    const session = this.#sessions.get(index)
    if (session === undefined) return undefined
    const counter = session.counter++
    const { asker, sendKey } = session
    const ad = encoded(
      opened
        ? { kind: Kind.OPENED, index: asker, counter, answerer: session.index, sealed: NOTHING }
        : { kind: Kind.SEALED, index: asker, counter, sealed: NOTHING },
    )
    return concat(ad, this.#parts.crypto.seal(this.#keys.get(sendKey), counter, encodedMessage(message), ad))
  }

  /** The session, or the owner's newest where that one gave way to others. */
  standing(index: number, owner: string): number {
    return this.#sessions.has(index) ? index : (this.#owners.get(owner)?.sessions.at(-1)?.index ?? index)
  }

  /** Ends all its sessions: its key was replaced or withdrawn. */
  drop(owner: string): void {
    this.leave(owner)
    this.#owners.delete(owner)
    this.#left.delete(owner)
  }

  /** Ends all its sessions, but its key is still good: an OPEN of before, sent again, makes none. */
  leave(owner: string): void {
    const known = this.#owners.get(owner)
    if (known === undefined) return
    for (const session of known.sessions) this.#remove(session)
    known.sessions = []
    this.#left.add(owner)
  }

  /** Ends this session alone. */
  end(index: number): void {
    const session = this.#sessions.get(index)
    if (session === undefined) return
    this.#remove(session)
    const owner = this.#owners.get(session.owner)
    if (owner === undefined) return
    owner.sessions = owner.sessions.filter((each) => each !== session)
    if (owner.sessions.length === 0) this.#left.add(session.owner)
  }

  #remove({ index, sendKey, receiveKey }: Session): void {
    if (!this.#sessions.delete(index)) return
    this.#keys.free(sendKey)
    this.#keys.free(receiveKey)
  }

  #request(request: SessionRequest, from: Endpoint, socket: number, now: number): void {
    const { crypto, holderOf, send } = this.#parts
    const holder = holderOf(request.identity, from, now)
    if (holder === undefined) return
    const bytes = encoded(request)
    const mac = crypto.mac(macKey(crypto, holder.key, 'request'), bytes.subarray(0, bytes.length - MAC))
    if (!crypto.equal(mac, request.mac)) return
    const age = Math.floor(1000 * (now - this.#secretAt))
    const salt = this.#salt(this.#secret, age, request.identity, request.salt, from)
    const kind = Kind.SESSION_RESPONSE
    const answer = encoded({ kind, index: request.index, salt, mac: new Uint8Array(MAC) })
    const end = answer.length - MAC
    const key = macKey(crypto, holder.key, 'response')
    answer.set(crypto.mac(key, concat(answer.subarray(0, end), request.salt)), end)
    send(answer, from, socket)
  }

  #open(open: Open, from: Endpoint, socket: number, now: number): void {
    const { crypto, holderOf, onMessage } = this.#parts
    const age = viewOf(open.saltB).getUint32(0)
    const mine = [this.#secret, this.#before].findIndex((secret) =>
      crypto.equal(this.#salt(secret, age, open.identity, open.saltA, from), open.saltB),
    )
    if (mine < 0) return
    const givenAt = this.#secretAt - mine * SECRET_MS + age / 1000
    const holder = holderOf(open.identity, from, now)
    if (holder === undefined) return
    const keys = sessionKeys(crypto, holder.key, open.saltA, open.saltB)
    const { kind, index, counter, saltA, saltB, identity } = open
    const ad = encoded({ kind, index, counter, saltA, saltB, identity, sealed: NOTHING })
    const plain = crypto.open(keys.asker, open.counter, open.sealed, ad)
    if (plain === undefined) return
    const message = messageCodec.decode(plain)
    if (!message.ok) return
    const salts = mapKey(concat(open.saltA, open.saltB))
    const before = this.#owners.get(holder.owner)?.opens.find((each) => each.salts === salts)
    const how = before === undefined ? 'opened' : 'again'
    const session =
      before === undefined
        ? this.#makeSession(open, salts, holder, keys, givenAt, now)
        : this.#sessions.get(before.index)
    if (session === undefined) return
    onMessage(session, message.value, { from, socket }, { how, counter: 0 }, now)
  }

  /** The session of the first OPEN of its salts. */
  #makeSession(
    open: Open,
    salts: string,
    { owner: name, key, messages, starts = 1 }: Holder,
    keys: { readonly asker: Uint8Array; readonly answerer: Uint8Array },
    openedAt: number,
    now: number,
  ): Session | undefined {
    const owner: Owner = this.#owners.get(name) ?? {
      sessions: [],
      opens: [],
      messages: new TokenBucket(messages?.rate ?? OWNER_RATE, messages?.burst ?? OWNER_BURST),
    }
    this.#owners.set(name, owner)
    owner.opens = owner.opens.filter(({ at }) => at + 2 * SECRET_MS >= now)
    if (owner.opens.length >= MAX_OPENS * starts) {
      const oldest = owner.opens.reduce((a, b) => (b.openedAt < a.openedAt ? b : a))
      if (openedAt <= oldest.openedAt) return undefined
      owner.opens = owner.opens.filter((each) => each !== oldest)
    }
    let index = this.#number()
    while (this.#sessions.has(index)) index = this.#number()
    const session: Session = {
      index,
      asker: open.index,
      owner: name,
      key,
      openedAt,
      counter: 0,
      messages: owner.messages,
      sendKey: this.#keys.add(keys.answerer),
      receiveKey: this.#keys.add(keys.asker),
      received: new CounterWindow(),
    }
    session.received.take(open.counter)
    owner.opens = [...owner.opens, { salts, at: now, openedAt, index }]
    this.#sessions.set(index, session)
    owner.sessions = [...owner.sessions, session].sort((a, b) => a.openedAt - b.openedAt)
    if (owner.sessions.length > 2 * starts) {
      this.#remove(owner.sessions[0]!)
      owner.sessions = owner.sessions.slice(1)
    }
    return session
  }

  #sealed(sealed: Sealed, from: Endpoint, socket: number, now: number): void {
    const { crypto, onMessage, send } = this.#parts
    const session = this.#sessions.get(sealed.index)
    if (session === undefined || now - session.openedAt > MAX_SESSION_MS) {
      // A hint of 8 bytes, shorter than what asked for it.
      send(encoded({ kind: Kind.SESSION_UNKNOWN, index: sealed.index }), from, socket)
      return
    }
    const { kind, index, counter } = sealed
    const ad = encoded({ kind, index, counter, sealed: NOTHING })
    const plain = crypto.open(this.#keys.get(session.receiveKey), sealed.counter, sealed.sealed, ad)
    if (plain === undefined || !session.received.take(sealed.counter)) return
    const message = messageCodec.decode(plain)
    if (!message.ok) return
    onMessage(session, message.value, { from, socket }, { how: 'sealed', counter: sealed.counter }, now)
  }

  #salt(
    secret: Uint8Array,
    age: number,
    identity: Identity,
    saltA: Uint8Array,
    { address, port }: Endpoint,
  ): Uint8Array {
    const salt = new Uint8Array(SALT)
    viewOf(salt).setUint32(0, age)
    const end = Uint8Array.of(port >> 8, port & 255)
    const who = concat(salt.subarray(0, AGE), identityBytes(identity), saltA, address, end)
    salt.set(this.#parts.crypto.mac(secret, this.#parts.crypto.hash(who)).subarray(0, SALT - AGE), AGE)
    return salt
  }

  #turnSecret(now: number): void {
    const turns = Math.floor((now - this.#secretAt) / SECRET_MS)
    if (turns === 0) return
    // After a silence neither is good any more.
    this.#before = turns === 1 ? this.#secret : this.#fresh()
    this.#secretAt = turns === 1 ? this.#secretAt + SECRET_MS : now
    this.#secret = this.#fresh()
    for (const name of this.#left) {
      const owner = this.#owners.get(name)
      const isBack = owner === undefined || owner.sessions.length > 0
      if (!isBack && owner.opens.some(({ at }) => at + 2 * SECRET_MS >= now)) continue
      if (!isBack) this.#owners.delete(name)
      this.#left.delete(name)
    }
  }

  #fresh(): Uint8Array {
    return this.#parts.random.fill(new Uint8Array(32))
  }

  #number(): number {
    const bytes = this.#parts.random.fill(new Uint8Array(4))
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0)
  }
}
