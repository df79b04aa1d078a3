/**
 * Tunnel requests of one pair (paper Figs. 5, 7, 8): each node sends them directly to every candidate of the other, over
 * every socket that reaches it. A node that receives one answers to its source, and sends a request back there. Only an
 * answer proves a way, in both directions. Requests are sealed with keys of the pair, so a stranger's datagram costs one
 * look-up.
 *
 * A candidate that does not answer gets `TRIES` small datagrams. A replayed request causes an answer and a request of its
 * own size, and no more of them than the bucket allows. Bytes are counted with the headers of IP and UDP.
 */
import { equal } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { endpointKey, sameEndpoint } from '../tables.ts'
import { type Check, Kind, RELAYED_SIGN } from '../wire/datagram.ts'
import { LEAST_DIRECTION, MAX_MESSAGE, type Message, messageCodec, Type, Want } from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import { encoded, encodedMessage } from './asker.ts'
import { checkKeys, firstCheckCounter } from './secrets.ts'

/** Pauses between requests to one candidate (ms). */
const PAUSES = [60, 140, 300, 600, 1000]
const TRIES = PAUSES.length + 1
/** Requests in vain after which a place is asked once a round: it may be somebody else's. */
const VAIN = TRIES
/** An answer may take so long (ms) to count in a round that began meanwhile. */
const ANSWER_WITHIN = 1000
/** Asked back at once, unless it was asked within (ms). */
const ASK_BACK = 40
/** Places asked at a time: 16 candidates over 4 sockets. */
const MAX_TARGETS = 64
/** Headers of IP and UDP around each datagram (bytes): they count as what it has. What is paid counts as over IPv4. */
const HEADERS_V4 = 28
const HEADERS_V6 = 48
/** Of each byte of a message that names places of the peer, so many may go there. */
const NAMED_FACTOR = 3
/** Bytes to places that have not answered, each time that all are asked: three times what a direction's request has at least. */
const UNPROVEN_BYTES = NAMED_FACTOR * (LEAST_DIRECTION + HEADERS_V4)
/** A request with its outer form; a CHECK without what is sealed in it, and what sealing adds (bytes). */
const REQUEST_BYTES = 53
const CHECK_HEAD = 20
const TAG = 16

/** Ports that the longest message which names them pays for. */
export const PAID_PORTS = Math.floor(
  (NAMED_FACTOR * (CHECK_HEAD + MAX_MESSAGE + TAG + HEADERS_V4)) / (REQUEST_BYTES + HEADERS_V4),
)
/** Answers a second, and at once. */
const ANSWER_RATE = 20
const ANSWER_BURST = 100
const CHALLENGE = 8
const NEVER = Number.POSITIVE_INFINITY

export interface Target {
  readonly socket: number
  readonly remote: Endpoint
}

export interface ChecksParts extends Pick<MachineComponents, 'crypto' | 'random'> {
  readonly pairKey: Uint8Array
  readonly leads: boolean
  readonly send: (socket: number, to: Endpoint, bytes: Uint8Array) => void
  /** It answered there, `isProven`: with the token that only this address was sent. */
  readonly onAnswer: (target: Target, isProven: boolean, now: number) => void
  /** The peer named places where it is reached; returns those to ask, undefined if it did so too often. */
  readonly onNamed: (places: readonly Endpoint[], now: number) => readonly Target[] | undefined
  /** Where the peer sees this node, as it says. */
  readonly onObserved: (socket: number, observed: Endpoint, now: number) => void
  /** The peer wants a message brought to another, or brings one of another; it has answered there. */
  readonly onMeeting: (message: Message, now: number) => void
  readonly onStep: (incoming: boolean, type: number, now: number) => void
}

interface Asked extends Target {
  readonly transaction: number
  /** 8 bytes, to be returned from there. */
  readonly challenge: Uint8Array
  /** Requests since it answered last. */
  sent: number
  tries: number
  at: number
  sentAt: number
  /** The last answer; NaN before the first. */
  answeredAt: number
}

export class Checks {
  readonly #parts: ChecksParts
  readonly #asked = new Map<string, Asked>()
  readonly #answers = new TokenBucket(ANSWER_RATE, ANSWER_BURST)
  readonly #tag: Uint8Array
  readonly #sendKey: Uint8Array
  readonly #receiveKey: Uint8Array
  #counter: number
  /** Bytes that may still go to places that have not answered. */
  #left = 0
  /** What the peer is told of this node's places, until it answers. */
  #telling: { readonly target: Target; readonly message: Message; tries: number; at: number } | undefined

  constructor(parts: ChecksParts) {
    const { crypto, random, pairKey, leads } = parts
    this.#parts = parts
    const keys = checkKeys(crypto, pairKey)
    this.#tag = keys.tag
    this.#sendKey = leads ? keys.leader : keys.follower
    this.#receiveKey = leads ? keys.follower : keys.leader
    this.#counter = firstCheckCounter(random)
  }

  get tag(): Uint8Array {
    return this.#tag
  }

  /**
   * Asks these, from the beginning; others that are being asked, or may still answer, are left. `isPaid`: by a request of the
   * peer or by this node's own use of it; else what was left of that may go to places that have not answered.
   */
  ask(targets: readonly Target[], now: number, isPaid = true): void {
    if (isPaid) this.#left = UNPROVEN_BYTES
    for (const [key, asked] of this.#asked) {
      const isOpen = asked.tries < TRIES || mayAnswer(asked, now)
      if (!isOpen && !targets.some((target) => keyOf(target) === key)) this.#asked.delete(key)
    }
    for (const target of targets) this.#start(target, this.#due(target), now)
  }

  /** Requests to a place in this round. */
  #due(target: Target): number {
    const known = this.#asked.get(keyOf(target))
    return known !== undefined && Number.isNaN(known.answeredAt) && known.sent >= VAIN ? 1 : TRIES
  }

  /** Asks these too. `named`: bytes of the message that named them, with its headers. */
  askAlso(targets: readonly Target[], named: number, now: number): void {
    this.#left = Math.min(UNPROVEN_BYTES, NAMED_FACTOR * named)
    for (const target of targets) this.#start(target, TRIES, now)
  }

  /** Asks these once each, no more of them than the CHECK that named them pays for. */
  probe(targets: readonly Target[], naming: Check, now: number): void {
    const before = this.#left
    this.#left = NAMED_FACTOR * paidBy(naming)
    for (const target of targets) {
      const known = this.#asked.get(keyOf(target))
      if (known === undefined || known.tries >= TRIES) this.#start(target, 1, now)
    }
    this.#left = before
  }

  /** A message of the peer that a relay has forwarded: opened and no request or answer. */
  openRelayed(check: Check): Message | undefined {
    const ad = encoded({ ...check, sealed: new Uint8Array(0) })
    const plain = this.#parts.crypto.open(this.#receiveKey, check.counter, check.sealed, ad)
    const message = plain && messageCodec.decode(plain)
    return message?.ok && message.value.type === Type.PORTS ? message.value : undefined
  }

  /** PORTS for the peer, to be sent to a relay: long enough for it to try them all. */
  sealedPorts(place: Endpoint, first: Endpoint, last: Endpoint): Uint8Array {
    const kind = 'reflexive' as const
    const candidates = [first, last].map((endpoint) => ({ kind, endpoint }))
    const message: Message = { type: Type.PORTS, transaction: this.#number(), observed: place, candidates }
    const each = REQUEST_BYTES + headersTo(first)
    const wanted = Math.ceil((each * (last.port - first.port + 1)) / NAMED_FACTOR) - HEADERS_V4
    const length = this.#sealed(message).length
    const bytes = this.#sealed({ ...message, padding: Math.max(0, wanted - length) })
    bytes[0] = RELAYED_SIGN
    return bytes
  }

  /** Whether so many bytes may go to a place that has not answered; they count as sent. */
  spend(bytes: number): boolean {
    if (this.#left < bytes) return false
    this.#left -= bytes
    return true
  }

  /** Half of what may go to places that have not answered; it counts as sent. */
  spendHalf(): number {
    const half = Math.max(0, Math.floor(this.#left / 2))
    this.#left -= half
    return half
  }

  /** Tells the peer where it reaches this node, over a way that works, until it has answered. */
  tell(target: Target, places: readonly Endpoint[], now: number): void {
    this.#telling = { target, message: this.#naming(places), tries: 0, at: now }
    this.#tellAgain(now)
  }

  #tellAgain(now: number): void {
    const telling = this.#telling
    if (telling === undefined) return
    if (telling.tries >= TRIES) {
      this.#telling = undefined
      return
    }
    telling.at = now + (PAUSES[telling.tries] ?? 1000) * 2
    telling.tries++
    this.#parts.onStep(false, Type.TUNNEL_REQUEST, now)
    this.#send(telling.message, telling.target.socket, telling.target.remote)
  }

  /** A socket was closed. */
  dropSocket(socket: number): void {
    if (this.#telling?.target.socket === socket) this.#telling = undefined
    for (const [key, asked] of this.#asked) if (asked.socket === socket) this.#asked.delete(key)
  }

  /** Whether it answered there in this round. */
  answered(target: Target): boolean {
    return this.answeredAt(target) > Number.NEGATIVE_INFINITY
  }

  /** When it answered there in this round; minus infinity: it has not. */
  answeredAt(target: Target): number {
    const at = this.#asked.get(keyOf(target))?.answeredAt ?? Number.NaN
    return Number.isNaN(at) ? Number.NEGATIVE_INFINITY : at
  }

  handle(check: Check, from: Endpoint, socket: number, now: number): void {
    const ad = encoded({ ...check, sealed: new Uint8Array(0) })
    const plain = this.#parts.crypto.open(this.#receiveKey, check.counter, check.sealed, ad)
    const message = plain && messageCodec.decode(plain)
    if (!message?.ok) return
    if (message.value.type === Type.TUNNEL_REQUEST)
      this.#requested(message.value, { from, socket, paid: paidBy(check) }, now)
    else if (message.value.type === Type.TUNNEL_RESPONSE) this.#responded(message.value, from, socket, now)
    else if (message.value.type === Type.MEETING && this.answered({ socket, remote: from })) {
      if (this.#answers.take(now)) this.#parts.onMeeting(message.value, now)
    }
  }

  /** A request of the peer that another has brought. Returns whether it wants an answer the same way; undefined: it is none. */
  handleBrought(check: Check, now: number): boolean | undefined {
    const ad = encoded({ ...check, sealed: new Uint8Array(0) })
    const plain = this.#parts.crypto.open(this.#receiveKey, check.counter, check.sealed, ad)
    const message = plain && messageCodec.decode(plain)
    if (!message?.ok || message.value.type !== Type.TUNNEL_REQUEST) return undefined
    const { candidates, want } = message.value
    if (candidates === undefined || !this.#answers.take(now)) return undefined
    this.#parts.onStep(true, Type.TUNNEL_REQUEST, now)
    const places = candidates.map(({ endpoint }) => endpoint)
    const targets = this.#parts.onNamed(places, now)
    if (targets === undefined) return undefined
    this.askAlso(targets, paidBy(check), now)
    return want === Want.ANSWER
  }

  /** A request for the peer that another is to bring: where this node is reached. */
  sealedRequest(places: readonly Endpoint[], wantsAnswer: boolean): Uint8Array {
    return this.#sealed(this.#naming(places, wantsAnswer))
  }

  /** Sends the peer a message where it has answered. */
  sendMeeting(target: Target, message: Omit<Message, 'transaction' | 'type'>): void {
    this.#send({ ...message, type: Type.MEETING, transaction: this.#number() }, target.socket, target.remote)
  }

  #naming(places: readonly Endpoint[], wantsAnswer = false): Message {
    const candidates = places.map((endpoint) => ({ kind: 'reflexive' as const, endpoint }))
    const type = Type.TUNNEL_REQUEST
    const want = wantsAnswer ? { want: Want.ANSWER } : {}
    const message = { type, transaction: this.#number(), candidates, ...want }
    return { ...message, padding: Math.max(0, LEAST_DIRECTION - messageCodec.byteLength(message)) }
  }

  nextTimeout(): number {
    let at = this.#telling?.at ?? NEVER
    for (const asked of this.#asked.values()) at = Math.min(at, asked.at)
    return at
  }

  handleTimeout(now: number): void {
    if (this.#telling !== undefined && this.#telling.at <= now) this.#tellAgain(now)
    for (const asked of this.#asked.values()) if (asked.at <= now) this.#request(asked, now)
  }

  /** `free`: it is asked back for what came from there. */
  #start(target: Target, tries: number, now: number, free = false): void {
    const key = keyOf(target)
    if (this.#asked.size >= MAX_TARGETS && !this.#asked.has(key) && !this.#displace()) return
    // What is under way still counts: a peer that is farther away than its pauses asks again before its answer is here.
    const before = this.#asked.get(key)
    const underWay = before !== undefined && mayAnswer(before, now) ? before : undefined
    const asked = {
      socket: target.socket,
      remote: target.remote,
      transaction: underWay?.transaction ?? this.#number(),
      challenge: underWay?.challenge ?? this.#parts.random.fill(new Uint8Array(CHALLENGE)),
      sent: before !== undefined && Number.isNaN(before.answeredAt) ? before.sent : 0,
      tries: TRIES - tries,
      at: now,
      sentAt: Number.NEGATIVE_INFINITY,
      answeredAt: Number.NaN,
    }
    this.#asked.set(key, asked)
    this.#request(asked, now, free)
  }

  /** One that has been asked in vain gives way. */
  #displace(): boolean {
    for (const [key, { tries, answeredAt }] of this.#asked)
      if (tries >= TRIES && Number.isNaN(answeredAt)) return this.#asked.delete(key)
    return false
  }

  /** `free`: it is asked back for what came from there. */
  #request(asked: Asked, now: number, free = false): void {
    const cost = REQUEST_BYTES + headersTo(asked.remote)
    if (asked.tries >= TRIES || (!free && this.#left < cost)) {
      asked.tries = TRIES
      asked.at = NEVER
      return
    }
    asked.at = now + (PAUSES[asked.tries] ?? 1000)
    asked.tries++
    asked.sent++
    asked.sentAt = now
    this.#parts.onStep(false, Type.TUNNEL_REQUEST, now)
    const { transaction, challenge } = asked
    this.#send({ type: Type.TUNNEL_REQUEST, transaction, challenge }, asked.socket, asked.remote)
    if (!free) this.#left -= cost
  }

  /** `paid`: its bytes, with headers. */
  #requested(
    request: Message,
    { from, socket, paid }: { readonly from: Endpoint; readonly socket: number; readonly paid: number },
    now: number,
  ): void {
    if (!this.#answers.take(now)) return
    const { transaction, challenge, candidates } = request
    // What names places counts from where the peer has answered: it may be a copy from elsewhere, and is repeated.
    if (candidates !== undefined && !this.answered({ socket, remote: from })) return
    this.#parts.onStep(true, Type.TUNNEL_REQUEST, now)
    const echo = challenge === undefined ? {} : { echo: challenge }
    this.#send({ type: Type.TUNNEL_RESPONSE, transaction, observed: from, ...echo }, socket, from)
    this.#parts.onStep(false, Type.TUNNEL_RESPONSE, now)
    if (candidates !== undefined) {
      const places = candidates.map(({ endpoint }) => endpoint)
      const targets = this.#parts.onNamed(places, now)
      if (targets !== undefined) this.askAlso(targets, paid, now)
      return
    }
    const key = keyOf({ socket, remote: from })
    const known = this.#asked.get(key)
    // The node receives from there. Whether it is also heard there is asked back, once for each of the peer's requests.
    if (known === undefined || known.tries >= TRIES) {
      if (known === undefined || Number.isNaN(known.answeredAt))
        this.#start({ socket, remote: from }, 1, now, true)
    } else if (Number.isNaN(known.answeredAt) && now - known.sentAt >= ASK_BACK)
      this.#request(known, now, true)
  }

  #responded({ transaction, echo, observed }: Message, from: Endpoint, socket: number, now: number): void {
    if (this.#telling?.message.transaction === transaction) {
      this.#telling = undefined
      return
    }
    const asked = this.#asked.get(keyOf({ socket, remote: from }))
    if (asked === undefined || asked.transaction !== transaction) return
    if (!sameEndpoint(asked.remote, from)) return
    const again = !Number.isNaN(asked.answeredAt)
    asked.answeredAt = now
    asked.at = NEVER
    asked.tries = TRIES
    if (observed !== undefined) this.#parts.onObserved(socket, observed, now)
    if (again) return
    this.#parts.onStep(true, Type.TUNNEL_RESPONSE, now)
    this.#parts.onAnswer(asked, echo !== undefined && equal(echo, asked.challenge), now)
  }

  #number(): number {
    const bytes = this.#parts.random.fill(new Uint8Array(4))
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0)
  }

  #send(message: Message, socket: number, to: Endpoint): void {
    this.#parts.send(socket, to, this.#sealed(message))
  }

  #sealed(message: Message): Uint8Array {
    const head = { kind: Kind.CHECK, tag: this.#tag, counter: this.#counter++ }
    const ad = encoded({ ...head, sealed: new Uint8Array(0) })
    const sealed = this.#parts.crypto.seal(this.#sendKey, head.counter, encodedMessage(message), ad)
    return encoded({ ...head, sealed })
  }
}

function headersTo({ address }: Endpoint): number {
  return address.length === 4 ? HEADERS_V4 : HEADERS_V6
}

function paidBy({ sealed }: Check): number {
  return CHECK_HEAD + sealed.length + HEADERS_V4
}

/** Later, an answer may have been kept back by others while the way has ended. */
function mayAnswer({ answeredAt, sentAt }: Asked, now: number): boolean {
  return Number.isNaN(answeredAt) && now - sentAt < ANSWER_WITHIN
}

function keyOf({ socket, remote }: Target): string {
  return `${socket} ${endpointKey(remote)}`
}
