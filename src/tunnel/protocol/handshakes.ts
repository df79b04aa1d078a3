/**
 * Handshakes and sessions (WireGuard paper §5.4, §6): who may start one and when, what is answered, which session seals.
 * Message 1 leaves over all paths of a peer at once; the copies are answered from memory, without another computation.
 */
import { compare, toHex } from '../../core/bytes.ts'
import type { Endpoint } from '../seam.ts'
import type { HandshakeFailure, MachineComponents, MachineInit, Prekey, TunnelEvent } from './api.ts'
import * as K from './constants.ts'
import { addMacs, CookieGuard, mac1Valid, openCookieReply } from './cookies.ts'
import { LoadMeter, SourceLimiter } from './limiter.ts'
import {
  createInitiation,
  createResponse,
  earlyKeys,
  finishInitiation,
  type HandshakeState,
  type Identity,
  openInitiation,
  openResponse,
  type TransportKeys,
  turned,
} from './noise.ts'
import { keepEndpoint, type Path, sameEndpoint } from './path.ts'
import {
  type AnsweredAt,
  Deadline,
  type KeyPair,
  type Opened,
  type Peer,
  type PendingHandshake,
  type Session,
} from './peer.ts'
import { TimestampSource } from './timestamp.ts'
import { COOKIE_REPLY, INITIATION, MessageType, messageType, RESPONSE, readIndex } from './wire.ts'

const NEVER = Number.POSITIVE_INFINITY

/** Services of the surrounding machine for the handshakes. */
export interface HandshakeHost {
  identities(): Iterable<Identity>
  /** The peer that answers to this public key, current or next. */
  peerByKey(publicKey: Uint8Array): Peer | undefined
  emit(event: TunnelEvent): void
  /** A session may be used for sending from now on. */
  established(peer: Peer, session: Session, now: number): void
  /** Another session than before seals: what the peer has reported of that one does not count. */
  realigned(peer: Peer): void
  /** Another session than before seals, and the initiator has not used it yet. */
  resealed(peer: Peer, now: number): void
  /** An authenticated message of a handshake came from there; `proven`: it shows that the peer receives there. */
  heardFrom(peer: Peer, from: Endpoint, socket: number, proven: boolean, now: number): void
  /** A handshake with these static keys is complete. */
  keysProven(peer: Peer, keys: KeyPair): void
  /** Deadlines of this peer may have come nearer. */
  changed(peer: Peer): void
}

interface Answered {
  readonly peer: Peer
  readonly at: AnsweredAt
  readonly response: Uint8Array
  readonly until: number
  left: number
}

export class Handshakes {
  readonly #parts: MachineComponents
  readonly #host: HandshakeHost
  readonly #timestamps: TimestampSource
  readonly #guard: CookieGuard
  readonly #limiter = new SourceLimiter()
  readonly #load: LoadMeter
  /** Peers by the index their message 1 or 2 went out with: what messages 2 and 3 name. */
  readonly #byIndex = new Map<number, Peer>()
  /** Initiations answered lately, by mac1. */
  readonly #answered = new Map<string, Answered>()
  /** Static keys of a responder's session until it is confirmed. */
  readonly #unproven = new Map<number, KeyPair>()
  /** Private keys of those given out, by index. */
  readonly #prekeys = new Map<number, Uint8Array>()
  #refusedSince = Number.NEGATIVE_INFINITY
  #refused = 0

  constructor(parts: MachineComponents, host: HandshakeHost, init: MachineInit) {
    this.#parts = parts
    this.#host = host
    this.#timestamps = new TimestampSource(init.timestampFloor ?? 0)
    this.#guard = new CookieGuard(parts.crypto, parts.random)
    this.#load = new LoadMeter(init.loadThreshold ?? K.LOAD_THRESHOLD)
  }

  /** Messages 1, 2 and 3, unverified. */
  handle(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    switch (messageType(bytes)) {
      case MessageType.initiation:
        this.#handleInitiation(bytes, from, socket, now)
        break
      case MessageType.response:
        this.#handleResponse(bytes, from, socket, now)
        break
      case MessageType.cookieReply:
        this.#handleCookie(bytes, from, socket, now)
        break
      default:
    }
  }

  /** Starts a handshake unless one is under way. */
  connect(peer: Peer, now: number): void {
    if (!Number.isNaN(peer.attemptsSince) && peer.deadlines[Deadline.retransmit]! < NEVER) return
    this.#attempt(peer, now)
  }

  /** Starts an attempt at once, without waiting for the retry interval: a path was added, or the host woke. */
  attemptNow(peer: Peer, now: number): void {
    peer.attemptsSince = Number.NaN
    this.#attempt(peer, now)
  }

  /**
   * A fresh message 1 over `paths`, whatever is under way: the one thing that a stock peer answers at once. Its answer is a
   * session like any other.
   */
  check(peer: Peer, paths: readonly Path[], now: number): void {
    peer.attemptsSince = Number.NaN
    peer.lastSentAt = Number.NEGATIVE_INFINITY
    this.#attempt(peer, now, paths)
  }

  /** Sends the message 1 that is under way on one more path. */
  sendAlso(peer: Peer, path: Path, now: number): void {
    const pending = peer.handshake
    if (pending !== undefined) this.#sendInitiation(peer, path, pending, now)
  }

  /** Sends message 2 of the session that the peer has not used yet on one more path, where the peer is. */
  answerAlso(peer: Peer, path: Path): void {
    const at = peer.next?.answered
    if (at === undefined || isThere(at, path.remote, path.socket)) return
    for (const answered of this.#answered.values()) {
      if (answered.at !== at || answered.left <= 0) continue
      answered.left--
      at.alone = false
      this.#parts.transmit.handshake(answered.response, path.remote, path.socket)
    }
  }

  /** Sends one fresh message 1 only to an address that a stock peer sent from: the answer proves the address. */
  ask(peer: Peer, remote: Endpoint, socket: number, now: number): void {
    const pending = this.#create(peer, now)
    if (pending === undefined) return
    addMacs(this.#parts.crypto, pending.message, pending.keys.remote.mac1Key, undefined, now)
    pending.sentTo.push({ remote: keepEndpoint(remote), socket })
    this.#parts.transmit.handshake(pending.message, remote, socket)
  }

  /** Sends the message 1 that is under way, or a fresh one, to an address alone. */
  introduce(peer: Peer, remote: Endpoint, socket: number, now: number): void {
    if (peer.handshake === undefined) {
      if (Number.isNaN(peer.attemptsSince)) {
        peer.attemptsSince = now
        peer.attempts = 0
        peer.reported = false
      }
      peer.lastSentAt = now
      peer.deadlines[Deadline.retransmit] = now + this.#pace(peer, 0, now)
      peer.attempts++
      this.#create(peer, now)
    }
    const pending = peer.handshake
    if (pending === undefined) return
    const { message, keys, sentTo } = pending
    addMacs(this.#parts.crypto, message, keys.remote.mac1Key, undefined, now)
    if (!sentTo.some((each) => isThere(each, remote, socket)))
      sentTo.push({ remote: keepEndpoint(remote), socket })
    this.#parts.transmit.handshake(message, remote, socket)
  }

  newPrekey(): Prekey {
    const { crypto, random, sessions } = this.#parts
    const index = sessions.newIndex()
    const privateKey = random.fill(new Uint8Array(32))
    this.#prekeys.set(index, privateKey)
    return { index, publicKey: crypto.publicKey(privateKey) }
  }

  dropPrekey(index: number): void {
    const privateKey = this.#prekeys.get(index)
    if (privateKey === undefined) return
    privateKey.fill(0)
    this.#prekeys.delete(index)
    this.#parts.sessions.remove(index)
  }

  expectEarly(peer: Peer, index: number, now: number): void {
    if (peer.prekeys.length === K.PREKEYS_MAX) {
      const oldest = peer.prekeys.shift()!
      peer.earlyIn = peer.earlyIn.filter(({ localIndex }) => localIndex !== oldest)
      this.dropPrekey(oldest)
    }
    peer.prekeys.push(index)
    // A session that is open behind message 1 is not prolonged by further keys.
    const end = peer.earlyIn.length > 0 ? peer.deadlines[Deadline.prekey]! : NEVER
    peer.deadlines[Deadline.prekey] = Math.min(end, now + K.PREKEY_LIFETIME)
    // Message 1 was faster than the direction with its key, or is one of before: then the key is for the next.
    const { opened } = peer
    if (opened === undefined || peer.earlyIn.length > 0 || now - peer.lastAcceptedAt >= K.PREKEY_LIFETIME)
      return
    this.#openBehind(peer, opened, now)
  }

  /** Data behind message 1 are not opened any more. */
  endEarly(peer: Peer): void {
    peer.deadlines[Deadline.prekey] = NEVER
    this.#forgetOpened(peer)
    for (const index of peer.prekeys.splice(0)) this.dropPrekey(index)
    for (const session of peer.earlyIn.splice(0)) this.#remove(session)
  }

  /** Initiator: the session of what goes behind message 1, once for each key of the peer's. */
  #sealBehind(peer: Peer, { own }: KeyPair, state: HandshakeState, now: number): void {
    const { crypto, sessions } = this.#parts
    const prekey = peer.remotePrekey
    peer.remotePrekey = undefined
    if (prekey === undefined || peer.sealing !== undefined) return
    const fresh = crypto.sharedSecret(state.ephemeral, prekey.publicKey)
    const fixed = crypto.sharedSecret(own.privateKey, prekey.publicKey)
    if (fresh === undefined || fixed === undefined) return
    const keys = earlyKeys(crypto, state, [fresh, fixed], peer.presharedKey)
    peer.earlyOut = this.#install(peer, sessions.newIndex(), prekey.index, true, keys, now)
    sessions.useForSending(peer.earlyOut.localIndex)
  }

  /** Responder: the sessions that may open what comes behind message 1. */
  #openBehind(peer: Peer, { keys: { remote }, state }: Opened, now: number): void {
    const { crypto, sessions } = this.#parts
    const { prekeys } = peer
    for (const session of peer.earlyIn.splice(0))
      if (!prekeys.includes(session.localIndex)) this.#remove(session)
    for (const index of prekeys) {
      const privateKey = this.#prekeys.get(index)
      const fresh = privateKey && crypto.sharedSecret(privateKey, state.ephemeral)
      const fixed = privateKey && crypto.sharedSecret(privateKey, remote.publicKey)
      if (fresh === undefined || fixed === undefined) {
        sessions.remove(index)
        continue
      }
      const keys = turned(earlyKeys(crypto, state, [fresh, fixed], peer.presharedKey))
      peer.earlyIn.push(this.#install(peer, index, state.remoteIndex, false, keys, now))
      peer.deadlines[Deadline.prekey] = now + K.PREKEY_LIFETIME
    }
  }

  /** They are used up. */
  #forgetPrekeys(peer: Peer): void {
    for (const index of peer.prekeys.splice(0)) {
      this.#prekeys.get(index)?.fill(0)
      this.#prekeys.delete(index)
    }
  }

  #endEarlyOut(peer: Peer): void {
    this.#remove(peer.earlyOut)
    peer.earlyOut = undefined
  }

  /** `Deadline.retransmit` has come. */
  retransmit(peer: Peer, now: number): void {
    if (peer.current !== undefined && peer.earlyOut !== undefined) {
      this.#dropPending(peer)
      this.#endEarlyOut(peer)
      peer.deadlines[Deadline.retransmit] = NEVER
      return
    }
    if (now - peer.attemptsSince >= K.REKEY_ATTEMPT_TIME) {
      if (!peer.reported) {
        peer.reported = true
        this.#host.emit({ type: 'handshake-failed', peer: peer.index, reason: 'timeout' })
      }
      if (!keepsTrying(peer)) {
        this.#dropPending(peer)
        this.#endEarlyOut(peer)
        peer.attemptsSince = Number.NaN
        peer.deadlines[Deadline.retransmit] = NEVER
        return
      }
    }
    if (peer.handshake === undefined || !this.#repeat(peer, peer.handshake, now)) this.#attempt(peer, now)
  }

  /** Sends the message 1 that is under way once more where the peer is; false when another is due. */
  #repeat(peer: Peer, pending: PendingHandshake, now: number): boolean {
    if (!peer.expectsGodwit || now - peer.attemptsSince >= K.FAST_RETRY_TIME) return false
    const routes = this.#routes(peer)
    const most = routes.length === 0 || hasSeveralKeys(peer) ? K.FAST_RETRY_TIMEOUT : K.COPIES_TIME
    if (now - pending.since >= most) return false
    pending.copies++
    peer.deadlines[Deadline.retransmit] = now + this.#pace(peer, pending.copies, now)
    // What may go to an address that has not answered is the owner's: no more than the first.
    for (const path of routes) if (path.known !== 'hoped') this.#sendInitiation(peer, path, pending, now)
    return true
  }

  /** After data went out or came in: starts a rekey when the session is old (§6.2). */
  rekeyIfDue(peer: Peer, received: boolean, now: number): void {
    const session = peer.current
    if (session === undefined) return
    const age = now - session.createdAt
    const limit = received ? K.REJECT_AFTER_TIME - K.KEEPALIVE_TIMEOUT - K.REKEY_TIMEOUT : K.REKEY_AFTER_TIME
    if (session.initiator && age >= limit) this.connect(peer, now)
    else if (!received && this.#parts.sessions.sent(session.localIndex) >= K.REKEY_AFTER_MESSAGES)
      this.connect(peer, now)
  }

  /** First datagram of a session: a responder's `next` becomes current (§5.4.6 and §6.3). */
  confirm(peer: Peer, localIndex: number, now: number): void {
    const session = peer.next
    if (session === undefined || session.localIndex !== localIndex) {
      this.#agree(peer, localIndex)
      return
    }
    this.#remove(peer.previous)
    peer.previous = peer.current
    peer.current = session
    peer.next = undefined
    const keys = this.#unproven.get(localIndex)
    this.#unproven.delete(localIndex)
    this.#parts.sessions.useForSending(localIndex)
    this.#established(peer, session, keys, now)
  }

  /**
   * Both ends began at once, and each seals in the session of its own making: then neither can say what of the other's has
   * arrived, and both renew at once again. The one with the lower key goes on; this end takes that session once it has been used.
   */
  #agree(peer: Peer, localIndex: number): void {
    const { current, previous, keys } = peer
    if (current === undefined || previous?.rival !== true || previous.localIndex !== localIndex) return
    if (compare(keys.own.publicKey, keys.remote.publicKey) < 0) return
    peer.current = { ...previous, rival: false }
    peer.previous = current
    this.#parts.sessions.useForSending(localIndex)
    this.#host.realigned(peer)
    this.#host.changed(peer)
  }

  /** `Deadline.reject` has come: sessions past their time go. True when none is left to send with. */
  expireSessions(peer: Peer, now: number): boolean {
    const had = peer.current !== undefined
    for (const which of ['previous', 'current', 'next'] as const) {
      const session = peer[which]
      if (session === undefined) continue
      const spent = this.#parts.sessions.sent(session.localIndex) >= K.REJECT_AFTER_MESSAGES
      if (!spent && now - session.createdAt < K.REJECT_AFTER_TIME) continue
      this.#remove(session)
      peer[which] = undefined
    }
    this.#armReject(peer)
    return had && peer.current === undefined
  }

  /** Sessions and handshakes of a peer go; its keys are wiped by the datapath. */
  clear(peer: Peer): void {
    for (const session of [peer.previous, peer.current, peer.next]) this.#remove(session)
    peer.previous = undefined
    peer.current = undefined
    peer.next = undefined
    peer.remotePrekey = undefined
    this.endEarly(peer)
    this.#endEarlyOut(peer)
    this.#dropPending(peer)
    this.#forgetResponse(peer)
    peer.attemptsSince = Number.NaN
    peer.deadlines.fill(NEVER)
    for (const [key, answered] of this.#answered) if (answered.peer === peer) this.#answered.delete(key)
  }

  /** Those that this end seals in, the last one last. */
  sealed({ previous, current, next }: Peer): readonly Session[] {
    return [next, previous?.rival ? previous : undefined, current].filter((each) => each !== undefined)
  }

  /** The peer ends this session. True if it was the one in use: those before it end too. */
  ended(peer: Peer, localIndex: number): boolean {
    const { current, previous } = peer
    const isCurrent = current?.localIndex === localIndex
    if (isCurrent) {
      this.#remove(current)
      peer.current = undefined
    }
    if (isCurrent || previous?.localIndex === localIndex) this.#endPrevious(peer)
    this.#armReject(peer)
    return isCurrent
  }

  /**
   * Another process of the peer's has shown itself in this session: the one before reads nothing any more. If it did so behind
   * message 1, the session of message 2 seals from now on.
   */
  replaced(peer: Peer, localIndex: number): void {
    const { previous, next } = peer
    if (peer.current?.localIndex === localIndex) {
      if (previous?.rival !== true) this.#endPrevious(peer)
    } else if (next !== undefined && peer.earlyIn.some((each) => each.localIndex === localIndex)) {
      this.#endPrevious(peer)
      this.#remove(peer.current)
      peer.current = undefined
      next.early = true
      this.#parts.sessions.useForSending(next.localIndex)
      this.#host.realigned(peer)
    }
    this.#armReject(peer)
  }

  #endPrevious(peer: Peer): void {
    this.#remove(peer.previous)
    peer.previous = undefined
  }

  /** Only the session in use stays. */
  endOthers(peer: Peer): void {
    for (const session of [peer.previous, peer.next]) {
      if (session !== undefined) this.#unproven.delete(session.localIndex)
      this.#remove(session)
    }
    peer.previous = undefined
    peer.next = undefined
    this.#armReject(peer)
  }

  #attempt(peer: Peer, now: number, routes: readonly Path[] = this.#routes(peer)): void {
    if (routes.length === 0) {
      this.#dropPending(peer)
      this.#endEarlyOut(peer)
      peer.attemptsSince = Number.NaN
      peer.deadlines[Deadline.retransmit] = NEVER
      return
    }
    if (Number.isNaN(peer.attemptsSince)) {
      peer.attemptsSince = now
      peer.attempts = 0
      peer.reported = false
    }
    const pace = this.#pace(peer, 0, now)
    const allowedAt = peer.lastSentAt + (peer.expectsGodwit ? K.FAST_RETRY_TIMEOUT / 2 : K.REKEY_TIMEOUT)
    if (now < allowedAt) {
      const isUnderWay = peer.expectsGodwit && peer.handshake !== undefined
      const at = isUnderWay ? Math.min(allowedAt, peer.deadlines[Deadline.retransmit]!) : allowedAt
      peer.deadlines[Deadline.retransmit] = at
      return
    }
    peer.lastSentAt = now
    peer.deadlines[Deadline.retransmit] = now + pace
    const pending = this.#create(peer, now)
    peer.attempts++
    if (pending === undefined) return
    for (const path of routes) this.#sendInitiation(peer, path, pending, now)
  }

  /** Message 1, in the place of the one under way; undefined when the keys do not fit. */
  #create(peer: Peer, now: number): PendingHandshake | undefined {
    const keys = keysForAttempt(peer)
    const { crypto, random, sessions } = this.#parts
    this.#dropPending(peer)
    const index = sessions.newIndex()
    const ephemeral = random.fill(new Uint8Array(32))
    const timestamp = this.#timestamps.next(this.#parts.wall())
    const made = createInitiation(crypto, keys.own, keys.remote, ephemeral, index, timestamp)
    if (made === undefined) {
      sessions.remove(index)
      return undefined
    }
    addMacs(crypto, made.message, keys.remote.mac1Key, undefined, now)
    const mac1 = made.message.slice(INITIATION.mac1, INITIATION.mac2)
    const { message, state } = made
    peer.handshake = { state, keys, message, mac1, sentTo: [], since: now, copies: 0 }
    this.#byIndex.set(index, peer)
    this.#endEarlyOut(peer)
    this.#sealBehind(peer, keys, made.state, now)
    this.#host.emit({ type: 'timestamp-sent', peer: peer.index, floor: this.#timestamps.floor })
    return peer.handshake
  }

  /** A stock peer moves to wherever message 1 comes from: the first attempt keeps to the path in use. */
  #routes(peer: Peer): readonly Path[] {
    if (peer.expectsGodwit || peer.current === undefined || !Number.isNaN(peer.attemptsSince))
      return routesOf(peer)
    const path = peer.pathInUse((each) => this.#parts.paths.counters(each.slot).lastSentAt)
    return path === undefined ? routesOf(peer) : [path]
  }

  #sendInitiation(peer: Peer, path: Path, pending: PendingHandshake, now: number): void {
    const { message, keys, sentTo } = pending
    addMacs(this.#parts.crypto, message, keys.remote.mac1Key, path.cookie, now)
    if (!sentTo.some((each) => isThere(each, path.remote, path.socket)))
      sentTo.push({ remote: path.remote, socket: path.socket })
    const errno = this.#parts.transmit.handshake(message, path.remote, path.socket)
    if (errno > 0 && path.usable) path.failed(errno, now)
    peer.lastTraversal = now
  }

  /** Pause after message 1 has left, and `copies` of it. */
  #pace(peer: Peer, copies: number, now: number): number {
    const elapsed = now - peer.attemptsSince
    const jitter = this.#jitter()
    if (elapsed >= K.REKEY_ATTEMPT_TIME) return K.SLOW_RETRY_TIMEOUT + jitter
    if (!peer.expectsGodwit || elapsed >= K.FAST_RETRY_TIME) return K.REKEY_TIMEOUT + jitter
    return Math.min(K.FAST_RETRY_TIMEOUT, K.FIRST_RETRY_TIMEOUT * 2 ** copies) + jitter / 4
  }

  #jitter(): number {
    const byte = this.#parts.random.fill(new Uint8Array(1))
    return (byte[0]! / 256) * K.HANDSHAKE_JITTER
  }

  #handleInitiation(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    const { crypto, random, sessions, transmit } = this.#parts
    const own = this.#addressee(bytes)
    if (own === undefined) {
      this.#refuse(-1, 'not-for-us', from, now)
      return
    }
    const name = toHex(bytes.subarray(INITIATION.mac1, INITIATION.mac2))
    const known = this.#answered.get(name)
    if (known !== undefined && now < known.until) {
      if (known.left-- > 0) {
        if (!isThere(known.at, from, socket)) known.at.alone = false
        transmit.handshake(known.response, from, socket)
      }
      return
    }
    if (!this.#admit(bytes, from, socket, own, now)) return
    const opened = openInitiation(crypto, own, bytes)
    if (opened === undefined) {
      this.#refuse(-1, 'authentication', from, now)
      return
    }
    const peer = this.#host.peerByKey(opened.publicKey)
    const keys = peer?.keysFor(crypto, own, opened.publicKey)
    if (peer === undefined || keys === undefined) {
      this.#refuse(-1, 'unknown-peer', from, now)
      return
    }
    const finished = finishInitiation(crypto, opened, keys.remote, bytes)
    if (finished === undefined) {
      this.#refuse(peer.index, 'authentication', from, now)
      return
    }
    if (peer.lastTimestamp !== undefined && compare(finished.timestamp, peer.lastTimestamp) <= 0) {
      this.#refuse(peer.index, 'replay', from, now)
      return
    }
    if (now - peer.lastAcceptedAt < K.INITIATION_INTERVAL || now < peer.barredUntil) {
      this.#refuse(peer.index, 'rate', from, now)
      return
    }
    peer.lastTimestamp = finished.timestamp
    peer.lastAcceptedAt = now
    this.#host.emit({ type: 'timestamp-accepted', peer: peer.index, timestamp: finished.timestamp })

    const index = sessions.newIndex()
    const ephemeral = random.fill(new Uint8Array(32))
    const made = createResponse(crypto, finished.state, keys.remote, peer.presharedKey, ephemeral, index)
    if (made === undefined) {
      sessions.remove(index)
      return
    }
    // A fresh responder session replaces an unconfirmed one; previous is dropped too, as in the kernel.
    this.#forgetOpened(peer)
    this.#openBehind(peer, { keys, state: finished.state }, now)
    this.#forgetPrekeys(peer)
    if (peer.earlyIn.length === 0) peer.opened = { state: finished.state, keys }
    const keyless = now + K.PREKEY_LIFETIME
    peer.deadlines[Deadline.prekey] = Math.min(peer.deadlines[Deadline.prekey]!, keyless)
    // Who asks behind message 1 wants its answer before it has answered this one.
    const early = peer.current === undefined && (peer.sealing !== undefined || peer.earlyIn.length > 0)
    if (peer.next !== undefined) this.#unproven.delete(peer.next.localIndex)
    this.#remove(peer.next)
    this.#remove(peer.previous)
    peer.previous = undefined
    const answered: AnsweredAt = { remote: keepEndpoint(from), socket, alone: true }
    peer.next = {
      ...this.#install(peer, index, opened.senderIndex, false, made.keys, now),
      answered,
      early,
    }
    if (early) {
      sessions.useForSending(index)
      this.#host.resealed(peer, now)
    }
    this.#unproven.set(index, keys)

    addMacs(crypto, made.message, keys.remote.mac1Key, cookieFor(peer, from, socket), now)
    this.#forgetResponse(peer)
    peer.responseMac1 = { index, mac1: made.message.slice(RESPONSE.mac1, RESPONSE.mac2) }
    this.#byIndex.set(index, peer)
    this.#remember(name, { peer, at: answered, response: made.message }, now)
    this.#host.heardFrom(peer, from, socket, false, now)
    transmit.handshake(made.message, from, socket)
    // What this session seals already may leave over others of them, and be faster.
    if (early)
      for (const path of peer.paths)
        if (path.usable && path.known !== undefined && path.known !== 'hoped') this.answerAlso(peer, path)
    peer.lastTraversal = now
    if (peer.config.reportsGreetings === true && peer.current === undefined)
      this.#host.emit({ type: 'greeted', peer: peer.index, remote: answered.remote, socket })
    this.#host.changed(peer)
  }

  #handleResponse(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    const { crypto, sessions } = this.#parts
    const index = readIndex(bytes, RESPONSE.receiver)
    const peer = this.#byIndex.get(index)
    const pending = peer?.handshake
    if (peer === undefined || pending === undefined || pending.state.localIndex !== index) return
    const { own } = pending.keys
    if (!mac1Valid(crypto, bytes, own.mac1Key)) {
      this.#refuse(peer.index, 'not-for-us', from, now)
      return
    }
    if (!this.#admit(bytes, from, socket, own, now)) return
    const keys = openResponse(crypto, pending.state, own, peer.presharedKey, bytes)
    if (keys === undefined) {
      this.#refuse(peer.index, 'authentication', from, now)
      return
    }

    peer.handshake = undefined // its index lives on in the session
    this.#byIndex.delete(index)
    wipe(pending.state)
    const { current, next } = peer
    // Who begins a session seals in it at once: one that is not used by now was given up, and what is under way comes in the current one.
    const isUnused = next !== undefined && current !== undefined && now - next.createdAt > K.REKEY_TIMEOUT
    if (next === undefined || isUnused) {
      if (next !== undefined) this.#unproven.delete(next.localIndex)
      this.#remove(next)
      peer.next = undefined
      this.#remove(peer.previous)
      peer.previous = current
    } else {
      // Both ends began at once: the session of the other's making is kept for receiving.
      this.#remove(peer.previous)
      this.#remove(current)
      this.#unproven.delete(next.localIndex)
      peer.previous = { ...next, rival: true }
      peer.next = undefined
    }
    const session = this.#install(peer, index, readIndex(bytes, RESPONSE.sender), true, keys, now)
    peer.current = session
    this.#armReject(peer)
    sessions.useForSending(index)
    const wasAsked = pending.sentTo.some((each) => isThere(each, from, socket))
    peer.respondedAt = wasAsked ? { remote: keepEndpoint(from), socket } : undefined
    const [only] = pending.sentTo
    const proven = pending.sentTo.length === 1 && only !== undefined && isThere(only, from, socket)
    this.#host.heardFrom(peer, from, socket, proven, now)
    this.#established(peer, session, pending.keys, now)
  }

  #handleCookie(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    const index = readIndex(bytes, COOKIE_REPLY.receiver)
    const peer = this.#byIndex.get(index)
    if (peer === undefined) return
    const pending = peer.handshake?.state.localIndex === index ? peer.handshake : undefined
    const mac1 = pending?.mac1 ?? (peer.responseMac1?.index === index ? peer.responseMac1.mac1 : undefined)
    if (mac1 === undefined) return
    const remote = (pending?.keys ?? peer.keys).remote
    const value = openCookieReply(this.#parts.crypto, remote.cookieKey, mac1, bytes)
    if (value === undefined) return
    const path =
      peer.paths.find((each) => each.socket === socket && sameEndpoint(each.remote, from)) ??
      peer.paths.find((each) => each.socket === socket)
    if (path !== undefined) path.cookie = { value, at: now }
  }

  /** Under load, admits only sources that prove their address, and limits their rate. */
  #admit(bytes: Uint8Array, from: Endpoint, socket: number, own: Identity, now: number): boolean {
    if (!this.#load.count(now)) return true
    if (this.#guard.mac2Valid(bytes, from, now)) return this.#limiter.allow(from, now)
    this.#parts.transmit.handshake(this.#guard.reply(bytes, from, own, now), from, socket)
    return false
  }

  /** Whose key mac1 was made with. */
  #addressee(bytes: Uint8Array): Identity | undefined {
    for (const own of this.#host.identities()) {
      if (mac1Valid(this.#parts.crypto, bytes, own.mac1Key)) return own
    }
    return undefined
  }

  #install(
    peer: Peer,
    localIndex: number,
    remoteIndex: number,
    initiator: boolean,
    keys: TransportKeys,
    now: number,
  ): Session {
    this.#parts.sessions.install({ peer: peer.index, localIndex, remoteIndex, ...keys })
    const session = { localIndex, remoteIndex, initiator, createdAt: now }
    const deadline = now + K.REJECT_AFTER_TIME
    if (deadline < peer.deadlines[Deadline.reject]!) peer.deadlines[Deadline.reject] = deadline
    return session
  }

  #established(peer: Peer, session: Session, keys: KeyPair | undefined, now: number): void {
    peer.lastHandshakeAt = now
    peer.reported = false
    peer.attemptsSince = Number.NaN
    peer.deadlines[Deadline.retransmit] = NEVER
    peer.deadlines[Deadline.newHandshake] = NEVER
    if (peer.earlyOut !== undefined) peer.earlyEndedAt = now
    // Message 1 of this end may not have arrived: what left behind it is sent again with it, once a path works.
    if (session.initiator || peer.earlyOut === undefined || peer.handshake === undefined) {
      this.#dropPending(peer)
      this.#endEarlyOut(peer)
    } else peer.deadlines[Deadline.retransmit] = now + K.EARLY_USE
    this.#armReject(peer)
    this.#host.emit({ type: 'session', peer: peer.index, up: true, initiator: session.initiator })
    if (keys !== undefined) this.#host.keysProven(peer, keys)
    this.#host.established(peer, session, now)
    this.#host.changed(peer)
  }

  #armReject(peer: Peer): void {
    let at = NEVER
    for (const session of [peer.previous, peer.current, peer.next]) {
      if (session !== undefined) at = Math.min(at, session.createdAt + K.REJECT_AFTER_TIME)
    }
    peer.deadlines[Deadline.reject] = at
  }

  #remove(session: Session | undefined): void {
    if (session !== undefined) this.#parts.sessions.remove(session.localIndex)
  }

  #dropPending(peer: Peer): void {
    const pending = peer.handshake
    if (pending === undefined) return
    peer.handshake = undefined
    this.#byIndex.delete(pending.state.localIndex)
    this.#parts.sessions.remove(pending.state.localIndex)
    wipe(pending.state)
  }

  #forgetOpened(peer: Peer): void {
    if (peer.opened !== undefined) wipe(peer.opened.state)
    peer.opened = undefined
  }

  #forgetResponse(peer: Peer): void {
    if (peer.responseMac1 === undefined) return
    this.#byIndex.delete(peer.responseMac1.index)
    peer.responseMac1 = undefined
  }

  #remember(name: string, answer: Pick<Answered, 'peer' | 'at' | 'response'>, now: number): void {
    for (const [key, answered] of this.#answered) {
      if (now < answered.until && this.#answered.size < K.DUPLICATES_MAX) break
      this.#answered.delete(key)
    }
    this.#answered.set(name, {
      ...answer,
      until: now + K.DUPLICATE_LIFETIME,
      left: K.DUPLICATE_ANSWERS,
    })
  }

  /** Limits events per second, so that a flood of invalid messages does not become a flood of events. */
  #refuse(peer: number, reason: HandshakeFailure, from: Endpoint, now: number): void {
    if (now - this.#refusedSince >= 1000) {
      this.#refusedSince = now
      this.#refused = 0
    }
    if (++this.#refused > K.REFUSALS_REPORTED) return
    this.#host.emit({ type: 'handshake-failed', peer, reason, from: keepEndpoint(from) })
  }
}

/** Usable paths; when there are none, all that are not being closed. */
function routesOf(peer: Peer): readonly Path[] {
  const usable = peer.paths.filter((path) => path.usable)
  return usable.length > 0 ? usable : peer.paths.filter((path) => path.state.name !== 'closing')
}

function hasSeveralKeys({ oldKeys, nextKeys, nextRemote }: Peer): boolean {
  return oldKeys !== undefined || nextKeys !== undefined || nextRemote !== undefined
}

/** While a fresh key of either end is not proven, old and new are tried in turn. */
function keysForAttempt(peer: Peer): KeyPair {
  const { keys, oldKeys, nextKeys, nextRemote } = peer
  const known = [keys]
  const other = oldKeys ?? nextKeys
  if (other !== undefined) known.push(other)
  if (nextRemote !== undefined) known.push({ own: keys.own, remote: nextRemote })
  return known[peer.attempts % known.length]!
}

/** A host whose part it is to be reachable does not give up after 90 seconds as WireGuard does. */
function keepsTrying(peer: Peer): boolean {
  return peer.initiatesPaths && (peer.expectsGodwit || (peer.config.persistentKeepalive ?? 0) > 0)
}

function isThere(
  at: { readonly remote: Endpoint; readonly socket: number },
  from: Endpoint,
  socket: number,
): boolean {
  return at.socket === socket && sameEndpoint(at.remote, from)
}

function cookieFor(peer: Peer, from: Endpoint, socket: number) {
  return peer.paths.find((path) => path.socket === socket && sameEndpoint(path.remote, from))?.cookie
}

function wipe(state: HandshakeState): void {
  state.ephemeral.fill(0)
  state.chain.fill(0)
}
