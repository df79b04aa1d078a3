/**
 * Tunnel requests of one pair (paper Figs. 5, 7, 8): each node sends them directly to every candidate of the other, over
 * every socket that reaches it. A node that receives one answers to its source, and sends a request back there. Only an
 * answer proves a way, in both directions. Requests are sealed with keys of the pair, so a stranger's datagram costs one
 * look-up.
 *
 * A candidate that does not answer gets `TRIES` small datagrams. A replayed request causes an answer and a request of its
 * own size, and no more of them than the bucket allows.
 */
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { endpointKey, sameEndpoint } from '../tables.ts'
import { type Check, Kind } from '../wire/datagram.ts'
import { LEAST_DIRECTION, type Message, messageCodec, Type } from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import { encoded, encodedMessage } from './asker.ts'
import { checkKeys, firstCheckCounter } from './secrets.ts'

/** Pauses between requests to one candidate (ms). */
const PAUSES = [60, 140, 300, 600, 1000]
const TRIES = PAUSES.length + 1
/** Asked back at once, unless it was asked within (ms). */
const ASK_BACK = 40
/** Places asked at a time: 16 candidates over 4 sockets. */
const MAX_TARGETS = 64
/** Bytes to places that have not answered, each time that all are asked: three times what a direction's request has at least. */
const UNPROVEN_BYTES = 3 * LEAST_DIRECTION
/** Answers a second, and at once. */
const ANSWER_RATE = 20
const ANSWER_BURST = 100
const NEVER = Number.POSITIVE_INFINITY

export interface Target {
  readonly socket: number
  readonly remote: Endpoint
}

export interface ChecksParts extends Pick<MachineComponents, 'crypto' | 'random'> {
  readonly pairKey: Uint8Array
  readonly leads: boolean
  readonly send: (socket: number, to: Endpoint, bytes: Uint8Array) => void
  /** It answered there; `observed` is where it saw us. */
  readonly onAnswer: (target: Target, observed: Endpoint | undefined, now: number) => void
  readonly onStep: (incoming: boolean, type: number, now: number) => void
}

interface Asked extends Target {
  readonly transaction: number
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

  /** Asks these, from the beginning; others that are being asked are left. */
  ask(targets: readonly Target[], now: number): void {
    this.#left = UNPROVEN_BYTES
    for (const [key, asked] of this.#asked)
      if (!targets.some((target) => keyOf(target) === key) && !(asked.tries < TRIES)) this.#asked.delete(key)
    for (const target of targets) this.#start(target, TRIES, now)
  }

  /** A socket was closed. */
  dropSocket(socket: number): void {
    for (const [key, asked] of this.#asked) if (asked.socket === socket) this.#asked.delete(key)
  }

  /** Whether it answered there in this round. */
  answered(target: Target): boolean {
    const asked = this.#asked.get(keyOf(target))
    return asked !== undefined && !Number.isNaN(asked.answeredAt)
  }

  handle(check: Check, from: Endpoint, socket: number, now: number): void {
    const ad = encoded({ ...check, sealed: new Uint8Array(0) })
    const plain = this.#parts.crypto.open(this.#receiveKey, check.counter, check.sealed, ad)
    const message = plain && messageCodec.decode(plain)
    if (!message?.ok) return
    if (message.value.type === Type.TUNNEL_REQUEST) this.#requested(message.value, from, socket, now)
    else if (message.value.type === Type.TUNNEL_RESPONSE) this.#responded(message.value, from, socket, now)
  }

  nextTimeout(): number {
    let at = NEVER
    for (const asked of this.#asked.values()) at = Math.min(at, asked.at)
    return at
  }

  handleTimeout(now: number): void {
    for (const asked of this.#asked.values()) if (asked.at <= now) this.#request(asked, now)
  }

  #start(target: Target, tries: number, now: number): void {
    const key = keyOf(target)
    if (this.#asked.size >= MAX_TARGETS && !this.#asked.has(key) && !this.#displace()) return
    const bytes = this.#parts.random.fill(new Uint8Array(4))
    const transaction = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0)
    const asked = {
      ...{ socket: target.socket, remote: target.remote, transaction },
      tries: TRIES - tries,
      at: now,
      sentAt: Number.NEGATIVE_INFINITY,
      answeredAt: Number.NaN,
    }
    this.#asked.set(key, asked)
    this.#request(asked, now, tries === 1)
  }

  /** One that has been asked in vain gives way. */
  #displace(): boolean {
    for (const [key, { tries, answeredAt }] of this.#asked)
      if (tries >= TRIES && Number.isNaN(answeredAt)) return this.#asked.delete(key)
    return false
  }

  /** `free`: it is asked back for what came from there. */
  #request(asked: Asked, now: number, free = false): void {
    if (asked.tries >= TRIES || (!free && this.#left <= 0)) {
      asked.tries = TRIES
      asked.at = NEVER
      return
    }
    asked.at = now + (PAUSES[asked.tries] ?? 1000)
    asked.tries++
    asked.sentAt = now
    this.#parts.onStep(false, Type.TUNNEL_REQUEST, now)
    const length = this.#send(
      { type: Type.TUNNEL_REQUEST, transaction: asked.transaction },
      asked.socket,
      asked.remote,
    )
    if (!free) this.#left -= length
  }

  #requested({ transaction }: Message, from: Endpoint, socket: number, now: number): void {
    if (!this.#answers.take(now)) return
    this.#parts.onStep(true, Type.TUNNEL_REQUEST, now)
    this.#send({ type: Type.TUNNEL_RESPONSE, transaction, observed: from }, socket, from)
    this.#parts.onStep(false, Type.TUNNEL_RESPONSE, now)
    const key = keyOf({ socket, remote: from })
    const known = this.#asked.get(key)
    // The node receives from there. Whether it is also heard there is asked back, once for each of the peer's requests.
    if (known === undefined || known.tries >= TRIES) {
      if (known === undefined || Number.isNaN(known.answeredAt)) this.#start({ socket, remote: from }, 1, now)
    } else if (Number.isNaN(known.answeredAt) && now - known.sentAt >= ASK_BACK)
      this.#request(known, now, true)
  }

  #responded({ transaction, observed }: Message, from: Endpoint, socket: number, now: number): void {
    const asked = this.#asked.get(keyOf({ socket, remote: from }))
    if (asked === undefined || asked.transaction !== transaction) return
    if (!sameEndpoint(asked.remote, from)) return
    const again = !Number.isNaN(asked.answeredAt)
    asked.answeredAt = now
    asked.at = NEVER
    asked.tries = TRIES
    if (again) return
    this.#parts.onStep(true, Type.TUNNEL_RESPONSE, now)
    this.#parts.onAnswer(asked, observed, now)
  }

  /** Returns the bytes of the datagram. */
  #send(message: Message, socket: number, to: Endpoint): number {
    const head = { kind: Kind.CHECK, tag: this.#tag, counter: this.#counter++ }
    const ad = encoded({ ...head, sealed: new Uint8Array(0) })
    const sealed = this.#parts.crypto.seal(this.#sendKey, head.counter, encodedMessage(message), ad)
    const bytes = encoded({ ...head, sealed })
    this.#parts.send(socket, to, bytes)
    return bytes.length
  }
}

function keyOf({ socket, remote }: Target): string {
  return `${socket} ${endpointKey(remote)}`
}
