/**
 * How messages of IHMP travel: requests that are repeated until they are acknowledged, acknowledgements, and who signed
 * what (DI-20, DI-38, D8).
 */
import { equalConstantTime } from '../../core/bytes.ts'
import { bytesOf, type Ip, ipOf, type Pair, pairKey, samePair } from '../tables.ts'
import { Control, covered, encodeMac, encodeSigned, type IhmpMessage } from '../wire.ts'
import type { Host, Request } from './host.ts'
import { type IhmpState, OVERHEAD } from './state.ts'

// Our choices; the paper gives no times.
/** First repetition when nothing is known about the path; then twice the measured round trip. */
export const FIRST_INTERVAL_MS = 250
const LEAST_INTERVAL_MS = 200
const MOST_INTERVAL_MS = 2_000
export const TRIES = 6
/** A potentially reachable address is given up sooner (DI-28): 250 + 500 + 1,000 ms without an answer. */
export const PROBE_TRIES = 3

/** Messages to one host that wait at once; what more would be is not sent. */
const MOST_REQUESTS = 256
/** Forged acknowledgements of one message that are checked though its sender's share is used up. */
const MOST_FORGED = 8

/** What a procedure says of a message; the rest is filled in here. */
export type Body = Omit<Partial<IhmpMessage>, 'sequence' | 'counter' | 'hostId' | 'signature' | 'mac'> & {
  readonly control: Control
}

export interface RequestInit {
  readonly tries?: number
  readonly challenge?: Uint8Array
  readonly deferred?: boolean
  /** Not sent at all if it has more bytes, headers included. */
  readonly most?: number
  readonly acknowledged?: Request['acknowledged']
  readonly failed?: Request['failed']
}

export class Messages {
  readonly #state: IhmpState

  constructor(state: IhmpState) {
    this.#state = state
  }

  // ------------------------------------------------------------------------------------------------- requests

  /** Sends a message and repeats it until it is acknowledged or has failed. */
  request(host: Host, pair: Pair, body: Body, now: number, how: RequestInit): void {
    host.sequence = (host.sequence + 1) & 0xffff
    const message: IhmpMessage = {
      ...body,
      options: body.options ?? 0,
      sequence: host.sequence,
      counter: this.#state.nextCounter(),
      hostId: this.#hostId(host, pair),
      receiver: this.receiver(host, pair),
    }
    const interval =
      host.rtt === undefined
        ? FIRST_INTERVAL_MS
        : Math.min(MOST_INTERVAL_MS, Math.max(LEAST_INTERVAL_MS, 2 * host.rtt + 20))
    const request: Request = {
      host,
      pair,
      message,
      bytes: this.encode(message, host.ownKey, host.secret),
      challenge: how.challenge ?? body.challenge,
      deferred: how.deferred ?? false,
      mostTries: how.tries ?? TRIES,
      forged: 0,
      tries: 0,
      interval,
      nextAt: now + (how.deferred === true ? interval : 0),
      sentAt: now,
      acknowledged: how.acknowledged ?? (() => {}),
      failed: how.failed ?? (() => {}),
    }
    if (request.bytes.length + OVERHEAD > (how.most ?? Number.POSITIVE_INFINITY)) return
    if (this.#add(request) && !request.deferred) this.#transmit(request, now)
  }

  /** A request without bytes, whose only purpose is to call `then` at `at`. */
  later(host: Host, at: number, then: (now: number) => void): void {
    this.#add({
      host,
      pair: host.bound,
      message: { control: Control.HELLO, options: 0, sequence: 0, counter: 0, hostId: new Uint8Array(4) },
      bytes: new Uint8Array(0),
      challenge: undefined,
      deferred: true,
      mostTries: 0,
      forged: 0,
      tries: 0,
      interval: 0,
      nextAt: at,
      sentAt: 0,
      acknowledged: () => {},
      failed: then,
    })
  }

  /** False when the host has too many already. */
  #add(request: Request): boolean {
    if (request.host.requests.size >= MOST_REQUESTS) return false
    this.#state.requests.add(request)
    request.host.requests.add(request)
    if (request.bytes.length > 0) this.#state.waiting.set(waitingKey(request.message, request.pair), request)
    return true
  }

  drop(request: Request): void {
    this.#state.requests.delete(request)
    const key = waitingKey(request.message, request.pair)
    if (this.#state.waiting.get(key) === request) this.#state.waiting.delete(key)
    request.host.requests.delete(request)
  }

  /** Drops what a host is asked, if `which` says so. */
  cancel(host: Host, which: (request: Request) => boolean = () => true): void {
    for (const request of host.requests) if (which(request)) this.drop(request)
  }

  /** Whether anything that was sent waits for its acknowledgement. */
  pending(host: Host): boolean {
    for (const request of host.requests) if (!request.deferred) return true
    return false
  }

  /** Whether something on this pair waits, of this type if one is given. */
  asks(host: Host, pair: Pair, control?: Control): boolean {
    for (const { pair: p, message } of host.requests)
      if (samePair(p, pair) && (control === undefined || message.control === control)) return true
    return false
  }

  /** What waits for an answer is signed with the key that the host has now. */
  resign(host: Host): void {
    for (const request of host.requests)
      if (request.bytes.length > 0) request.bytes = this.encode(request.message, host.ownKey, host.secret)
  }

  /** What was repeated without end while detached ends like anything else. */
  limit(host: Host): void {
    for (const request of host.requests) request.mostTries = Math.min(request.mostTries, TRIES)
  }

  /** A way out has appeared: what waits for an answer is sent again at once. */
  hurry(now: number): void {
    for (const request of this.#state.requests) {
      if (request.deferred || request.tries === 0 || request.sentAt >= now) continue
      request.mostTries++
      request.nextAt = now
      request.interval = FIRST_INTERVAL_MS
    }
  }

  /** The request that an acknowledgement from the host belongs to. */
  acknowledgedBy(host: Host, message: IhmpMessage, pair: Pair): Request | undefined {
    for (const request of host.requests)
      if (request.message.sequence === message.sequence && request.tries > 0)
        return request.pair.local === pair.local ? request : undefined
    return undefined
  }

  nextTimeout(): number {
    let next = Number.POSITIVE_INFINITY
    for (const request of this.#state.requests) next = Math.min(next, request.nextAt)
    return next
  }

  /** Repeats what is due; returns the hosts to whom something was given up. */
  handleTimeout(now: number): Set<Host> {
    const silent = new Set<Host>()
    for (const request of [...this.#state.requests]) {
      if (request.nextAt > now || !this.#state.requests.has(request)) continue
      if (request.tries >= request.mostTries) {
        this.drop(request)
        request.failed(now)
        silent.add(request.host)
      } else {
        if (request.tries > 0) this.#state.stats.retransmitted++
        this.#transmit(request, now)
      }
    }
    return silent
  }

  #transmit(request: Request, now: number): void {
    request.tries++
    request.sentAt = now
    request.nextAt = now + request.interval
    request.interval = Math.min(request.interval * 2, MOST_INTERVAL_MS)
    const { bytes, host, pair } = request
    if (this.#state.spend(host, pair.foreign, bytes.length))
      this.send(bytes, pair, host.ports.get(pair.foreign) ?? 0)
  }

  // ------------------------------------------------------------------------------------------------ datagrams

  acknowledge(host: Host, message: IhmpMessage, pair: Pair, port: number, body: Partial<IhmpMessage>): void {
    const bytes = this.encode(
      {
        control: Control.ACK,
        options: 0,
        ...body,
        sequence: message.sequence,
        counter: this.#state.nextCounter(),
        hostId: this.#hostId(host, pair),
        receiver: message.hostId,
      },
      host.ownKey,
      host.secret,
    )
    host.replay.answer(message.counter, bytes)
    if (this.#state.spend(host, pair.foreign, bytes.length)) this.send(bytes, pair, port)
  }

  send(bytes: Uint8Array, pair: Pair, port: number): void {
    if (bytes.length === 0) return
    this.#state.stats.sent++
    this.#state.emit({ kind: 'send', bytes, pair, port })
  }

  encode(message: IhmpMessage, key: Host['ownKey'], secret: Uint8Array | undefined): Uint8Array {
    const { crypto } = this.#state.components
    if (key !== undefined) return encodeSigned(message, (bytes) => crypto.sign(key, bytes))
    return encodeMac(message, (bytes) => crypto.mac(secret ?? new Uint8Array(32), bytes))
  }

  /** The address of the host, as it knows it itself, that a message on this pair is for. */
  receiver(host: Host, pair: Pair): Uint8Array {
    return bytesOf(host.nats.get(pair.foreign) ?? pair.foreign)
  }

  /** An address that the peer already knows as ours (DI-18, DI-29). */
  #hostId(host: Host, pair: Pair): Uint8Array {
    const { local } = host.row
    const first: Ip | undefined = local.values().next().value
    return bytesOf(first === undefined || local.has(pair.local) ? pair.local : first)
  }

  // ------------------------------------------------------------------------------------------------- identity

  /** The request that an acknowledgement seems to belong to, by its number and where it comes from. */
  awaiting(message: IhmpMessage, pair: Pair): Request | undefined {
    const request = this.#state.waiting.get(waitingKey(message, pair))
    return request !== undefined && request.tries > 0 && request.forged < MOST_FORGED ? request : undefined
  }

  /**
   * The host that a message is from: its Host ID says who it claims to be, its authenticator whether it is. An acknowledgement
   * may be from whom it was asked of, whatever it calls itself.
   */
  authenticate(message: IhmpMessage, bytes: Uint8Array, asked?: Host): Host | undefined {
    const candidates = this.#state.candidates(ipOf(message.hostId))
    if (asked?.state === 'peer' && !candidates.includes(asked)) candidates.unshift(asked)
    for (const host of candidates) {
      if (host.row.key !== undefined) {
        if (this.verifies(host.row.key, message, bytes)) {
          host.formerKey = undefined
          return host
        }
        if (host.formerKey !== undefined && this.verifies(host.formerKey, message, bytes)) return host
      } else if (host.secret !== undefined && this.macMatches(host.secret, message, bytes)) return host
    }
    return undefined
  }

  /**
   * Whether a message is new; counts it as seen. One that was seen before gets the acknowledgement that it got then, if
   * that is still known: it was lost.
   */
  fresh(host: Host, message: IhmpMessage, pair: Pair, port: number): boolean {
    const replay = host.replay.check(message.counter)
    if (replay.kind === 'new') {
      host.replay.accept(message.counter)
      return true
    }
    this.#state.stats.replayed++
    if (replay.kind === 'duplicate' && replay.answer !== undefined)
      if (this.#state.spend(host, pair.foreign, replay.answer.length)) this.send(replay.answer, pair, port)
    return false
  }

  verifies(key: Uint8Array, message: IhmpMessage, bytes: Uint8Array): boolean {
    if (message.signature !== undefined) this.#state.stats.checked++
    return (
      message.signature !== undefined &&
      this.#state.components.crypto.verify(key, covered(bytes, 64), message.signature)
    )
  }

  macMatches(secret: Uint8Array, message: IhmpMessage, bytes: Uint8Array): boolean {
    return (
      message.mac !== undefined &&
      equalConstantTime(this.#state.components.crypto.mac(secret, covered(bytes, 32)), message.mac)
    )
  }
}

function waitingKey(message: IhmpMessage, pair: Pair): string {
  return `${message.sequence} ${pairKey(pair)}`
}
