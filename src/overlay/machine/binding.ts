/**
 * A node's side of a channel at a relay (RELAY_BIND, docs/wire/overlay.md): the relay sends to the address that was bound
 * last. After a move, the node binds again from another socket. The counter begins with the wall clock, so that a restarted
 * node does not send older counters than before.
 *
 * Each request has 16 bytes that nobody else knows, random ones or the relay's token, and its answer shows them (ADR 0393): who sends it has
 * received the request where that was sent to, also where that is the relay itself, which has the key.
 */
import { concat } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { sameEndpoint } from '../tables.ts'
import { decodeSeen, Kind, MAC, type RelayBind, type Seen, SHOWS, WHERE } from '../wire/datagram.ts'
import type { RelaySide } from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import { encoded } from './asker.ts'

const FIRST_PAUSE = 150
const TRIES = 6
/** Tries without any answer after which the next ones count anew. */
const RECOUNT_AFTER = 2
const TOKEN = 16
/** Random bits of a counter, behind the seconds since 1970: 53 together until 2038. */
const NONCE = 2 ** 22
/** From one binding to the next within a second, the counter grows by up to so much. */
const STEP = 2 ** 20
/** Answers from the relay's address whose MAC is looked at, for each request: the others are late, or guesses of 128 bits. */
const LOOKED_AT_MOST = 64
/** Questions at a time. */
const QUESTIONS_MOST = 8
/** Channels whose last counter is remembered. */
const COUNTERS_MOST = 4096
const NEVER = Number.POSITIVE_INFINITY

export type BindingState = 'binding' | 'bound' | 'failed'

/**
 * The last counter of each channel, for all pairs of a node: a pair that was forgotten and is directed again within a second has the
 * same channel, and the relay ignores counters below the last.
 */
export class BindingCounters {
  readonly #last = new Map<number, number>()

  of(channel: number): number {
    return this.#last.get(channel) ?? 0
  }

  set(channel: number, counter: number): void {
    this.#last.delete(channel)
    this.#last.set(channel, counter)
    if (this.#last.size > COUNTERS_MOST) this.#last.delete(this.#last.keys().next().value!)
  }
}

export interface BindingParts extends MachineComponents {
  readonly side: RelaySide
  /** `port`: of the relay, where it is not that of the channel. */
  readonly send: (socket: number, bytes: Uint8Array, port?: number) => void
  /** The answer to a question. */
  readonly onSeen?: (number: number, port: number) => void
  readonly counters: BindingCounters
  readonly onBound: (socket: number, now: number) => void
  /** The relay does not answer, or does not know the channel. */
  readonly onFailed: (now: number) => void
}

export class Binding {
  readonly #parts: BindingParts
  #socket = -1
  #counter = 0
  #token = new Uint8Array(TOKEN)
  /** The relay's, not random. */
  #isProving = false
  #tries = 0
  #lookedAt = 0
  #at = NEVER
  #state: BindingState = 'failed'
  #seen: Seen | undefined
  #begunAt = Number.NEGATIVE_INFINITY
  /** Questions that wait for an answer: their random bytes by number. */
  readonly #questions = new Map<number, Uint8Array>()

  constructor(parts: BindingParts) {
    this.#parts = parts
  }

  get side(): RelaySide {
    return this.#parts.side
  }

  get socket(): number {
    return this.#socket
  }

  get state(): BindingState {
    return this.#state
  }

  /** What the relay said when it bound the socket; undefined: not bound, or it says nothing. */
  get seen(): Seen | undefined {
    return this.#state === 'bound' ? this.#seen : undefined
  }

  /** When this binding began. */
  get begunAt(): number {
    return this.#begunAt
  }

  /** Asks at this port of the relay where it sees the socket. */
  ask(port: number, number: number): void {
    if (this.#questions.size >= QUESTIONS_MOST) this.#questions.delete(this.#questions.keys().next().value!)
    const token = this.#questions.get(number) ?? this.#unknown()
    this.#questions.set(number, token)
    const { channel, side } = this.#parts.side
    const head = { kind: Kind.RELAY_BIND, channel, side: side | WHERE | SHOWS, counter: number }
    this.#parts.send(this.#socket, this.#signed({ ...head, token }), port)
  }

  /** Binds from this socket from now on. */
  bind(socket: number, now: number): void {
    this.#socket = socket
    this.#count()
    this.#token = this.#unknown()
    this.#isProving = false
    this.#tries = 0
    this.#begunAt = now
    this.#questions.clear()
    this.#state = 'binding'
    this.#send(now)
  }

  /** What is not the answer to the last request leaves no trace, and is not answered. `from` has the relay's address. */
  handle(bound: RelayBind, from: Endpoint, socket: number, now: number): void {
    if (socket !== this.#socket) return
    if (bound.side === 3) {
      this.#answered(bound)
      return
    }
    if (this.#state !== 'binding' || bound.counter !== this.#counter) return
    if (!sameEndpoint(from, this.#parts.side.endpoint) || this.#lookedAt >= LOOKED_AT_MOST) return
    this.#lookedAt++
    if (!this.#shows(bound, this.#token)) return
    if (bound.side === 2) {
      this.#token = bound.token.slice()
      this.#isProving = true
      this.#send(now)
    } else if (bound.side === 1) {
      this.#state = 'bound'
      const seen = decodeSeen(bound.token)
      this.#seen = seen.port > 0 && seen.first > 0 ? seen : undefined
      this.#at = NEVER
      this.#parts.onBound(socket, now)
    }
  }

  /** From any port of the relay. */
  #answered(bound: RelayBind): void {
    const token = this.#questions.get(bound.counter)
    if (token === undefined || !this.#shows(bound, token)) return
    this.#questions.delete(bound.counter)
    this.#parts.onSeen?.(bound.counter, decodeSeen(bound.token).port)
  }

  /** Whether it is from who has the key and the request with this token. */
  #shows(bound: RelayBind, token: Uint8Array): boolean {
    const { crypto, side } = this.#parts
    const bytes = encoded(bound)
    const mac = crypto.mac(side.key, concat(bytes.subarray(0, bytes.length - MAC), token))
    return crypto.equal(mac, bound.mac)
  }

  #unknown(): Uint8Array<ArrayBuffer> {
    const token = new Uint8Array(TOKEN)
    this.#parts.random.fill(token)
    return token
  }

  #count(): void {
    const { side, counters, wall } = this.#parts
    const last = counters.of(side.channel)
    const seconds = Math.floor(wall() / 1000)
    this.#counter = Math.max(last + 1 + this.#draw(STEP), seconds * NONCE + this.#draw(NONCE))
    counters.set(side.channel, this.#counter)
  }

  /** A random whole number below `limit`, at most 2^32. */
  #draw(limit: number): number {
    const bytes = this.#parts.random.fill(new Uint8Array(4))
    return new DataView(bytes.buffer).getUint32(0) % limit
  }

  nextTimeout(): number {
    return this.#at
  }

  handleTimeout(now: number): void {
    if (this.#at > now) return
    if (this.#tries < TRIES) {
      // The process before, killed in this very second, may have left the relay a higher counter, which it does not tell.
      if (this.#tries >= RECOUNT_AFTER && !this.#isProving) this.#count()
      this.#send(now)
      return
    }
    this.#at = NEVER
    this.#state = 'failed'
    this.#parts.onFailed(now)
  }

  #send(now: number): void {
    const { side, send } = this.#parts
    this.#at = now + FIRST_PAUSE * 2 ** this.#tries
    this.#tries++
    this.#lookedAt = 0
    const head = {
      ...{ kind: Kind.RELAY_BIND, channel: side.channel, side: side.side | SHOWS },
      ...{ counter: this.#counter, token: this.#token },
    }
    send(this.#socket, this.#signed(head))
  }

  #signed(head: Omit<RelayBind, 'mac'>): Uint8Array {
    const { crypto, side } = this.#parts
    const blank = encoded({ ...head, mac: new Uint8Array(MAC) })
    const mac = crypto.mac(side.key, blank.subarray(0, blank.length - MAC))
    return encoded({ ...head, mac })
  }
}
