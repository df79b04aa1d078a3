/**
 * A node's side of a channel at a relay (RELAY_BIND, docs/wire/overlay.md): the relay sends to the address that was bound
 * last. After a move, the node binds again from another socket. The counter begins with the wall clock, so that a restarted
 * node does not send older counters than before. The rest of it is random: who names it has received it at the address that
 * it was sent to, also where that is the relay itself, which has the key.
 */
import { decodeSeen, Kind, MAC, type RelayBind, type Seen, WHERE } from '../wire/datagram.ts'
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
/** Answers under the relay's key with another counter that one binding takes: late ones of the last, no guesses. */
const WRONG_MOST = 8
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
  #tries = 0
  #wrong = 0
  #at = NEVER
  #state: BindingState = 'failed'
  #seen: Seen | undefined
  #begunAt = Number.NEGATIVE_INFINITY
  /** Numbers of the questions that wait for an answer. */
  readonly #questions = new Set<number>()

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
    if (this.#questions.size >= QUESTIONS_MOST) this.#questions.delete(this.#questions.values().next().value!)
    this.#questions.add(number)
    const { channel, side } = this.#parts.side
    const head = { kind: Kind.RELAY_BIND, channel, side: side | WHERE, counter: number }
    this.#parts.send(this.#socket, this.#signed({ ...head, token: new Uint8Array(TOKEN) }), port)
  }

  /** Binds from this socket from now on. */
  bind(socket: number, now: number): void {
    this.#socket = socket
    this.#count()
    this.#wrong = 0
    this.#token = new Uint8Array(TOKEN)
    this.#tries = 0
    this.#begunAt = now
    this.#questions.clear()
    this.#state = 'binding'
    this.#send(now)
  }

  handle(bound: RelayBind, socket: number, now: number): void {
    const { crypto, side } = this.#parts
    if (bound.side === 3) {
      this.#answered(bound, socket)
      return
    }
    if (this.#state !== 'binding' || socket !== this.#socket || this.#wrong >= WRONG_MOST) return
    const bytes = encoded(bound)
    const mac = crypto.mac(side.key, bytes.subarray(0, bytes.length - MAC))
    if (!crypto.equal(mac, bound.mac)) return
    if (bound.counter !== this.#counter) {
      this.#wrong++
      return
    }
    if (bound.side === 2) {
      this.#token = bound.token.slice()
      this.#send(now)
    } else if (bound.side === 1) {
      this.#state = 'bound'
      const seen = decodeSeen(bound.token)
      this.#seen = seen.port > 0 && seen.first > 0 ? seen : undefined
      this.#at = NEVER
      this.#parts.onBound(socket, now)
    }
  }

  #answered(bound: RelayBind, socket: number): void {
    const { crypto, side } = this.#parts
    if (socket !== this.#socket || !this.#questions.has(bound.counter)) return
    const bytes = encoded(bound)
    const mac = crypto.mac(side.key, bytes.subarray(0, bytes.length - MAC))
    if (!crypto.equal(mac, bound.mac)) return
    this.#questions.delete(bound.counter)
    this.#parts.onSeen?.(bound.counter, decodeSeen(bound.token).port)
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
      if (this.#tries >= RECOUNT_AFTER && this.#token.every((byte) => byte === 0)) this.#count()
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
    const head = {
      ...{ kind: Kind.RELAY_BIND, channel: side.channel, side: side.side },
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
