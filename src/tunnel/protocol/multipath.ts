/**
 * Paths: opening, announcing, accepting, watching, giving up, closing, roaming (docs/wire/tunnel.md). One end of each path
 * opened it (`local`) and announces it; the other learns it once its address is proven (proofs.ts). Towards stock peers a path is just an endpoint.
 */

import { equal } from '../../core/bytes.ts'
import {
  EACCES,
  EADDRNOTAVAIL,
  EHOSTUNREACH,
  EINVAL,
  EMSGSIZE,
  ENETDOWN,
  ENETUNREACH,
  ENODEV,
  ENXIO,
  EPERM,
} from '../../core/errno.ts'
import type { Endpoint } from '../seam.ts'
import {
  CloseReason,
  type MachineComponents,
  type PathConfig,
  type PathState,
  type TunnelEvent,
} from './api.ts'
import { Closes, openCloseFrames } from './closes.ts'
import * as K from './constants.ts'
import { encodeFrames, Feature, type Frame, TOKEN_LENGTH } from './control.ts'
import { keepEndpoint, Path, sameAddress, sameEndpoint } from './path.ts'
import { type Candidate, Deadline, type Peer, reported } from './peer.ts'
import { Proofs } from './proofs.ts'
import { StockWatch } from './stock.ts'
import { PathWatch } from './watch.ts'

const NEVER = Number.POSITIVE_INFINITY
/** The way out is gone (EACCES: routed to `prohibit`): a path on which sending fails so is down at once. */
const FATAL_ERRORS: ReadonlySet<number> = new Set([
  EACCES,
  ENETDOWN,
  ENETUNREACH,
  EHOSTUNREACH,
  ENODEV,
  ENXIO,
  EADDRNOTAVAIL,
])
/** This datagram does not leave, the next one may: dropped by a packet filter of this machine, or routed to `blackhole`. */
const REFUSALS: ReadonlySet<number> = new Set([EPERM, EINVAL])

/** Services of the surrounding machine for the paths. */
export interface MultipathHost {
  emit(event: TunnelEvent): void
  /** Sends a fresh message 1 over these paths now: an answer shows that the peer is there. */
  check(peer: Peer, paths: readonly Path[], now: number): void
  /** A message 1 to this address alone: its answer proves it. */
  ask(peer: Peer, remote: Endpoint, socket: number, now: number): void
  /** Handshake now, unless one is under way. */
  connect(peer: Peer, now: number): void
  /** The handshake under way should also try this path; false when none is. */
  sendAlso(peer: Peer, path: Path, now: number): void
  /** The same with message 2, while the peer may not have it. */
  answerAlso(peer: Peer, path: Path): void
  /** Another process of the peer's has said HELLO in this session: those of the one before are over. */
  replaced(peer: Peer, localIndex: number): void
  /** Something was sealed and sent to this peer. */
  sent(peer: Peer, now: number): void
  /** Deadlines of this peer may have come nearer. */
  changed(peer: Peer): void
}

export class Multipath {
  readonly #parts: MachineComponents
  readonly #host: MultipathHost
  readonly #hello: Frame
  readonly #maxMtu: number
  readonly #measureInterval: number | undefined
  readonly #bySlot = new Map<number, Path>()
  readonly watch: PathWatch
  readonly proofs: Proofs
  readonly #stock: StockWatch
  readonly #closes: Closes

  constructor(
    parts: MachineComponents,
    host: MultipathHost,
    hello: Frame,
    maxMtu: number,
    measureInterval?: number,
  ) {
    this.#parts = parts
    this.#host = host
    this.#hello = hello
    this.#maxMtu = maxMtu
    this.#measureInterval = measureInterval
    const owner = {
      emit: (event: TunnelEvent) => host.emit(event),
      send: (peer: Peer, path: Path, frames: readonly Frame[], now: number) =>
        this.send(peer, path, frames, now),
      sendBody: (peer: Peer, path: Path, body: Uint8Array, now: number) =>
        this.sendBody(peer, path, body, now),
      setState: (path: Path, state: PathState) => this.#setState(path, state),
      askAgain: (peer: Peer, path: Path, bytes: number, now: number) =>
        this.#askAgain(peer, path, bytes, now),
      sendAgain: (path: Path, after: number) => this.#resend(path, path, after),
      goDown: (peer: Peer, path: Path, reason: CloseReason, now: number, after: number) =>
        this.#goDown(peer, path, reason, now, after),
    }
    this.watch = new PathWatch(parts, owner)
    this.proofs = new Proofs(parts.transmit, parts.random)
    this.#closes = new Closes(parts.paths, owner.send)
    this.#stock = new StockWatch(parts, {
      setState: owner.setState,
      check: (peer, paths, now) => host.check(peer, paths, now),
      goDown: (peer, path, now) => this.#leaveStock(peer, path, CloseReason.silent, now),
    })
  }

  #newToken(): Uint8Array {
    return this.#parts.random.fill(new Uint8Array(TOKEN_LENGTH))
  }

  bySlot(slot: number): Path | undefined {
    return this.#bySlot.get(slot)
  }

  /** Opens a path from this end; it comes up by itself. */
  open(peer: Peer, config: PathConfig, now: number): Path {
    const { pathId, socket, remote, mtu, known, relayed } = config
    const path = this.#open(peer, pathId, socket, remote, true, mtu, now, known, relayed)
    path.generation = ++peer.generation
    if (known === 'hoped') this.#sealEarly(peer)
    if (peer.sealing === undefined) {
      // Without a session in time there is nothing to hope for.
      if (known === 'hoped') path.forgetAt = now + K.EARLY_USE
      this.#host.sendAlso(peer, path, now)
      return path
    }
    // What goes behind message 1 is of no use without it.
    if (peer.sealing === peer.earlyOut && !wasSent(peer, path)) this.#host.sendAlso(peer, path, now)
    else if (peer.sealing === peer.next && known !== undefined && known !== 'hoped')
      this.#host.answerAlso(peer, path)
    if (peer.expectsGodwit) {
      this.announce(peer, path, now)
      this.#useEarly(peer, path, now)
    } else this.#setState(path, { name: 'up', since: now })
    return path
  }

  /** The owner reports that the access below a path is gone. */
  remove(peer: Peer, path: Path, now: number): void {
    if (path.state.name === 'closing') return
    this.#beginClose(peer, path, CloseReason.removed, now)
    this.#host.changed(peer)
  }

  /** A new session is in use. `initiator`: this end has to send HELLO. */
  established(peer: Peer, initiator: boolean, now: number): void {
    this.realigned(peer)
    if (!peer.expectsGodwit) {
      for (const path of peer.paths)
        if (path.state.name === 'new') this.#setState(path, { name: 'up', since: now })
    }
    if (peer.dialect === 'stock') {
      const path = initiator ? this.#inUse(peer) : undefined
      if (path !== undefined) this.keepalive(peer, path, now) // shows the responder that we have the keys
    } else if (initiator) {
      peer.helloTries = 0
      // Announcements that went unanswered in the session before say nothing of this one: it is not doubted at once.
      for (const path of peer.paths) if (!path.usable) path.tries = 0
      this.sayHello(peer, now)
      for (const path of peer.paths) this.#useEarly(peer, path, now)
    }
    for (const path of peer.paths) if (path.usable && peer.godwit) path.assessAt = now
    this.#host.changed(peer)
  }

  /** Another session seals: counters that were reported are those of the one before. */
  realigned(peer: Peer): void {
    for (const path of peer.paths) {
      path.monitor.forgetReports()
      if (!Number.isNaN(path.owedAfter)) path.owedAfter = -1
    }
  }

  /** What has left in another session may not have been read, unless message 1 comes once more. */
  resealed(peer: Peer, now: number): void {
    for (const path of peer.paths) {
      if (path.announceAt < NEVER) path.announceAt = now
      if (path.known === undefined || !path.usable || peer.handshake === undefined) continue
      this.#host.sendAlso(peer, path, now)
      if (path.known === 'proven') this.#resend(path, path, -1)
    }
  }

  /** No session is left. */
  sessionLost(peer: Peer, now: number): void {
    peer.deadlines[Deadline.hello] = NEVER
    peer.candidates = []
    for (const path of [...peer.paths]) {
      path.assessAt = NEVER
      path.announceAt = NEVER
      path.known = undefined
      if (path.state.name === 'closing' || (!path.local && path.pathId !== 0)) this.#close(peer, path)
      else if (path.state.name !== 'new') this.#setState(path, { name: 'new' })
    }
    if (peer.initiatesPaths && peer.expectsGodwit) this.#host.connect(peer, now)
  }

  /** SESSION_END over every path that works: which of them still does, the peer need not tell. */
  sayEnd(peer: Peer, sessions: readonly { readonly localIndex: number }[], now: number): void {
    if (!peer.godwit) return
    for (const { localIndex } of sessions) {
      this.#parts.sessions.useForSending(localIndex)
      for (const path of peer.paths) if (path.usable) this.send(peer, path, [{ type: 'session-end' }], now)
    }
  }

  /** HELLO on every path that can carry it, with announcements of those that are not up (`Deadline.hello`). */
  sayHello(peer: Peer, now: number): void {
    peer.deadlines[Deadline.hello] = NEVER
    const session = peer.sealing
    if (session === undefined || peer.helloSession === session.localIndex) return
    if (peer.helloTries >= K.HELLO_TRIES && peer.dialect === 'auto') {
      // Whatever it was before, it does not speak godwit now.
      peer.godwit = false
      this.#parts.sessions.setForm(peer.index, 'stock')
      for (const path of peer.paths) {
        path.assessAt = NEVER
        path.mtuEnabled = false
        this.watch.publishMtu(peer, path)
      }
      return
    }
    peer.deadlines[Deadline.hello] = now + K.HELLO_RETRY * 2 ** Math.min(peer.helloTries, 5)
    peer.helloTries++
    this.#helloWithoutPath(peer, now)
    for (const path of peer.paths) {
      if (path.state.name === 'closing') continue
      if (path.local && (!peer.expectsGodwit || !path.usable)) {
        // Those that are announced anyhow carry HELLO with them.
        if (peer.helloTries === 1 || path.announceAt === NEVER) this.announce(peer, path, now)
      } else if (path.usable) this.send(peer, path, [this.#hello], now)
    }
  }

  /**
   * An end that only answers a direction may have a session before a path. The responder, which opens the paths, seals in the session before
   * until this one is used: it would announce them in what nobody reads any more.
   */
  #helloWithoutPath(peer: Peer, now: number): void {
    const { respondedAt, paths, helloTries } = peer
    if (respondedAt === undefined || helloTries > K.HELLO_TRIES) return
    if (paths.some(({ state }) => state.name !== 'closing')) return
    const { remote, socket } = respondedAt
    if (this.#parts.transmit.controlTo(peer.index, 0, remote, socket, encodeFrames([this.#hello])))
      this.#host.sent(peer, now)
  }

  /** Sends PATH_ANNOUNCE and arms its repetition. */
  announce(peer: Peer, path: Path, now: number): void {
    const session = peer.sealing
    if (session === undefined) {
      path.announceAt = NEVER
      this.#host.connect(peer, now)
      return
    }
    const frames: Frame[] = []
    if (peer.helloSession !== session.localIndex) frames.push(this.#hello)
    // Ended paths first: the other end then knows whether it has any path but this one.
    frames.push(...openCloseFrames(peer))
    const { pathId, generation } = path
    frames.push({ type: 'path-announce', pathId, generation, mtu: Math.min(path.mtuLimit, 65535) })
    if (!path.answered) frames.push({ type: 'path-challenge', pathId, token: path.token })
    if (path.tries === 0) path.announcedAt = now
    path.tries++
    path.lastAnnouncedAt = now
    const best = peer.bestPath()
    const isAlone = best === undefined || best.known === 'likely'
    const alone = peer.godwit && path.tries < K.ANNOUNCE_ALONE_TRIES && isAlone
    path.announceAt =
      now +
      (alone
        ? K.ANNOUNCE_ALONE
        : Math.min(K.ANNOUNCE_RETRY * 2 ** Math.min(path.tries - 1, 10), K.ANNOUNCE_RETRY_MAX))
    if (path.state.name === 'new' && peer.expectsGodwit)
      this.#setState(path, { name: 'validating', since: now, tries: path.tries })
    else if (path.state.name === 'validating') path.state = { ...path.state, tries: path.tries }
    this.send(peer, path, frames, now)
    if (path.tries > K.ANNOUNCES_BEFORE_HANDSHAKE && peer.bestPath() === undefined)
      this.#host.connect(peer, now)
    this.#host.changed(peer)
  }

  /** The peer is heard where paths of this end have waited for it: the relay has bound it by now, or its NAT is open. Their next announcements need not wait. */
  heardAt(peer: Peer, from: Endpoint, socket: number, now: number): void {
    if (peer.config.sleeps !== true) return
    for (const path of peer.paths) {
      if (!path.local || path.announceAt === NEVER) continue
      if (path.socket !== socket || !sameEndpoint(path.remote, from)) continue
      // Arrivals may count for an earlier path to there.
      if (path.usable) path.monitor.restart(now)
      path.announceAt = Math.min(path.announceAt, Math.max(now, path.lastAnnouncedAt + K.ANNOUNCE_ALONE))
      this.#host.changed(peer)
    }
  }

  /** The announcement of a path that is up is answered with where it came from. */
  look(peer: Peer, path: Path, now: number): void {
    if (!path.local || !path.usable || !peer.godwit || path.announceAt < NEVER) return
    const { pathId, generation, mtuLimit } = path
    path.looks = true
    this.send(
      peer,
      path,
      [{ type: 'path-announce', pathId, generation, mtu: Math.min(mtuLimit, 65535) }],
      now,
    )
  }

  /** Seals frames for a path. False when there is no session or the socket refused. */
  send(peer: Peer, path: Path, frames: readonly Frame[], now: number): boolean {
    return this.sendBody(peer, path, encodeFrames(frames), now)
  }

  sendBody(peer: Peer, path: Path, body: Uint8Array, now: number): boolean {
    if (this.#parts.transmit.control(path.slot, body) < 0) return false
    path.monitor.noteControlSent()
    path.stock.keepalives++
    this.#host.sent(peer, now)
    return true
  }

  keepalive(peer: Peer, path: Path, now: number): void {
    this.sendBody(peer, path, new Uint8Array(0), now)
  }

  /** WireGuard's keepalive, on the path that carries the traffic. */
  keepaliveInUse(peer: Peer, now: number): void {
    const path = peer.godwit ? peer.bestPath() : this.#inUse(peer)
    if (path !== undefined) this.keepalive(peer, path, now)
  }

  #inUse(peer: Peer, except?: Path): Path | undefined {
    return peer.pathInUse((path) => this.#parts.paths.counters(path.slot).lastSentAt, except)
  }

  /** The peer sent HELLO in the session with this local index. False if it was delayed and is out of date. */
  onHello(
    peer: Peer,
    hello: Frame & { type: 'hello' },
    localIndex: number,
    newest: boolean,
    now: number,
  ): boolean {
    const features = (hello.features & (this.#hello as Frame & { type: 'hello' }).features) >>> 0
    const restarted = !Number.isNaN(peer.instance) && peer.instance !== hello.instance
    if (restarted && !newest) return false
    const first = peer.helloSession !== localIndex
    const discovered = !peer.godwit
    peer.instance = hello.instance
    peer.features = features
    peer.godwit = true
    peer.helloSession = localIndex
    peer.deadlines[Deadline.hello] = NEVER
    const form = (features & Feature.multipathAes) !== 0 ? 'godwit' : 'stock'
    this.#parts.sessions.setForm(peer.index, form, (features & Feature.ecn) !== 0)
    if (restarted) this.#parts.sessions.unread(peer.index)
    this.#parts.sessions.heardIn(localIndex)
    if (restarted) {
      this.#host.replaced(peer, localIndex)
      peer.generations.clear()
      peer.candidates = []
      peer.closes = []
    }
    if (restarted || discovered) {
      for (const path of [...peer.paths]) {
        if (!path.local) this.#close(peer, path)
        else if (path.state.name === 'closing') this.#close(peer, path)
        else if (path.usable && path.known !== undefined && !restarted) path.assessAt = now
        else if (path.usable || path.state.name === 'down') {
          // The peer has lost its state of this path, or has only now learned of paths.
          if (restarted) path.tries = 0
          this.#setState(path, { name: 'validating', since: now, tries: path.tries })
          path.assessAt = NEVER
          path.mtuEnabled = false
          if (restarted || path.announceAt === NEVER) path.announceAt = now
        }
      }
    }
    if (first) {
      // Opened before this session, which the peer began.
      for (const path of peer.paths) if (path.local && path.state.name === 'new') path.announceAt = now
      this.#host.emit({ type: 'hello', peer: peer.index, features, mtu: hello.mtu, restarted })
      const at = peer.current === undefined ? peer.next?.answered : undefined
      if (restarted && at !== undefined && peer.config.reportsGreetings === true)
        this.#host.emit({ type: 'greeted', peer: peer.index, remote: at.remote, socket: at.socket })
    }
    this.#host.changed(peer)
    return true
  }

  helloFrame(): Frame {
    return this.#hello
  }

  /**
   * PATH_ANNOUNCE from the peer. Returns what is to be answered on: the path when it is known there, else the candidate that
   * has to prove the address first; undefined to ignore it.
   */
  heardAnnounce(
    peer: Peer,
    frame: Frame & { type: 'path-announce' },
    from: Endpoint,
    socket: number,
    newest: boolean,
    now: number,
  ): Path | Candidate | undefined {
    const { pathId, generation, mtu } = frame
    if (pathId === 0) return undefined
    const existing = peer.path(pathId)
    if (existing?.local === true || generation < (peer.generations.get(pathId) ?? 0)) return undefined
    if (existing?.usable === true && generation === existing.generation && existing.socket === socket) {
      if (!sameEndpoint(existing.remote, from))
        return newest && existing.moves.has(now)
          ? this.proofs.expect(peer, pathId, from, socket, undefined, now)
          : undefined
      // One that is well is announced again by who wants to know where it is seen.
      const { state } = existing
      if (state.name !== 'up' || now - state.since < K.STATE_HOLD) this.#accept(peer, existing, now)
      return existing
    }
    if (!peer.opens.has(now)) return undefined
    const candidate = this.proofs.expect(peer, pathId, from, socket, { generation, mtu }, now)
    // It received there just now: it is not kept waiting for another round trip.
    const at = this.proofs.provenAt(peer, from, socket, peer.bestPath() === undefined, now)
    return at === undefined || !peer.opens.take(now) ? candidate : this.#learn(peer, candidate, at, now)
  }

  /** PATH_RESPONSE: an address has proven itself. Returns the path that has it from now on. */
  heardResponse(
    peer: Peer,
    token: Uint8Array,
    from: Endpoint,
    socket: number,
    newest: boolean,
    now: number,
  ): Path | undefined {
    const own = peer.paths.find((path) => path.local && path.socket === socket && equal(path.token, token))
    if (own !== undefined) {
      // It was sent only to the path's remote. The next one is another: this one may be on record somewhere.
      own.token = this.#newToken()
      own.answered = true
      own.proven(now)
      return own
    }
    const proven = this.proofs.answered(peer, token, from, socket, now)
    if (proven === undefined) return undefined
    const path = peer.path(proven.pathId)
    if (proven.announced !== undefined) {
      const { generation } = proven.announced
      if (path?.local === true || generation < (peer.generations.get(proven.pathId) ?? 0)) return undefined
      return peer.opens.take(now) ? this.#learn(peer, proven, now, now) : undefined
    }
    if (path === undefined || path.socket !== proven.socket) return undefined
    if (sameEndpoint(path.remote, proven.remote)) {
      path.proven(now)
      if (!path.usable) this.#accept(peer, path, now)
      return path
    }
    // Only the newest message of its peer moves a path that works.
    if (!newest || !path.moves.take(now)) return undefined
    this.#move(peer, path, proven.remote, now)
    return path
  }

  /** A path of the peer's that was given up has brought something again, or its proof is old: asks for a fresh one. */
  #askAgain(peer: Peer, path: Path, bytes: number, now: number): void {
    if (!path.usable && now - path.provenAt < K.PROOF_EXPIRY && peer.bestPath() === undefined) {
      this.#accept(peer, path, now)
      return
    }
    if (path.local) {
      this.send(peer, path, [{ type: 'path-challenge', pathId: path.pathId, token: path.token }], now)
      return
    }
    const candidate = this.proofs.expect(peer, path.pathId, path.remote, path.socket, undefined, now)
    this.ask(peer, candidate, [], bytes, now)
  }

  /** A path of the peer's, at an address that it has proven. Takes the place of what had its name before. */
  #learn(peer: Peer, candidate: Candidate, provenAt: number, now: number): Path {
    const { pathId, remote, socket, announced } = candidate
    const { generation, mtu } = announced ?? { generation: 0, mtu: 0 }
    this.proofs.forget(peer, candidate)
    peer.generations.set(pathId, generation)
    this.#makeRoom(peer, pathId, now)
    const limit = Math.min(this.#maxMtu, mtu === 0 ? this.#maxMtu : mtu)
    const path = this.#open(peer, pathId, socket, remote, false, limit, now)
    path.generation = generation
    path.proven(provenAt)
    this.#accept(peer, path, now)
    for (const old of [...peer.paths]) {
      if (old === path || old.local) continue
      if (old.pathId === 0) this.#close(peer, old)
      else if (old.pathId === pathId && old.state.name !== 'closing') {
        this.#resend(old, path, old.monitor.remoteHighest)
        this.#close(peer, old)
      }
    }
    return path
  }

  /** A peer that has all the paths it may have loses its own: one that does not work, else the one silent longest. */
  #makeRoom(peer: Peer, pathId: number, now: number): void {
    const own = peer.paths.filter((path) => !path.local && path.pathId !== pathId)
    if (own.length < K.PATHS_MAX) return
    const heardAt = (path: Path) =>
      path.usable ? this.#parts.paths.counters(path.slot).lastReceivedAt : Number.NEGATIVE_INFINITY
    const victim = own.reduce((a, b) => (heardAt(b) < heardAt(a) ? b : a))
    if (victim.state.name !== 'closing') this.#closes.queue(peer, victim, CloseReason.removed, now)
    this.#close(peer, victim)
  }

  /** PATH_ACCEPT: the path is up. Returns it if a probe is to show the other end that its answer has arrived. */
  heardAccept(peer: Peer, frame: Frame & { type: 'path-accept' }, now: number): Path | undefined {
    const path = peer.path(frame.pathId)
    if (path === undefined || !path.local || path.generation !== frame.generation) return undefined
    // Anybody whom the peer told can say so; that the peer receives there, only its answer shows.
    if (!path.answered) return undefined
    const fresh = path.announceAt < NEVER
    path.announceAt = NEVER
    if (path.tries === 1) path.monitor.rttSample(now - path.announcedAt)
    // The relay had not bound the peer yet, or the peer's NAT had forgotten the relay: what left with the first announcement is lost, too.
    else if (path.relayed && path.known === 'proven') this.#resend(path, path, -1)
    path.tries = 0
    if (fresh || !path.usable || path.looks) {
      path.looks = false
      this.#host.emit({
        type: 'observed',
        peer: peer.index,
        slot: path.slot,
        pathId: path.pathId,
        address: frame.observed,
      })
    }
    if (path.usable && !fresh) return undefined
    this.#accept(peer, path, now)
    return path
  }

  /** PATH_CLOSE from the peer; `via` is the path it came on, `session` the local index of the one it came in. */
  heardClose(
    peer: Peer,
    frame: Frame & { type: 'path-close' },
    via: Path | undefined,
    session: number,
    now: number,
  ): void {
    const path = peer.path(frame.pathId)
    if (path === undefined) {
      // Given up before it was there: an announcement that was held back opens it no more.
      const next = Math.max(frame.generation + 1, peer.generations.get(frame.pathId) ?? 0)
      if (frame.pathId !== 0) peer.generations.set(frame.pathId, next)
    }
    if (path === undefined || path === via || frame.generation < path.generation) return
    const after = reported(peer, session, frame.highestCounter)
    if (path.local) {
      if (frame.generation === path.generation) this.#goDown(peer, path, CloseReason.remote, now, after)
      return
    }
    peer.generations.set(path.pathId, frame.generation + 1)
    const target = via?.usable === true ? via : peer.bestPath(path)
    this.#setState(path, { name: 'closing', since: now, reason: CloseReason.remote })
    if (target !== undefined) {
      this.#resend(path, target, after)
      this.#close(peer, path)
    } else {
      path.owedAfter = after
      path.assessAt = NEVER
      path.forgetAt = now + K.CLOSING_LINGER
    }
  }

  /** See `SlowPath.handleRoaming`. */
  roam(peer: Peer, pathId: number, from: Endpoint, socket: number, bytes: number, now: number): number {
    if (pathId === 0 && (peer.expectsGodwit || this.#hasLeft(peer, socket))) return -1
    if (pathId === 0 && provenByHandshake(peer, from, socket, now))
      return this.#haveStock(peer, from, socket, now).slot
    const candidate =
      this.proofs.at(peer, from, socket, now) ?? this.#expectMove(peer, pathId, from, socket, now)
    if (candidate !== undefined) this.ask(peer, candidate, [], bytes, now)
    return -1
  }

  /** The peer has just answered the owner from there. */
  noteProven(peer: Peer, remote: Endpoint, socket: number, now: number): void {
    this.proofs.note(peer, remote, socket, true, now)
    for (const path of peer.paths) {
      if (path.known !== 'hoped' || path.socket !== socket || !sameEndpoint(path.remote, remote)) continue
      path.known = 'proven'
      path.forgetAt = NEVER
      if (path.usable) this.#setState(path, { name: 'up', since: now })
      else if (peer.sealing !== undefined) this.#useEarly(peer, path, now)
      // What has left before may have been lost: message 1, packets, the announcement.
      if (peer.handshake !== undefined) this.#host.sendAlso(peer, path, now)
      if (path.announceAt < NEVER) path.announceAt = now
      this.#resend(path, path, -1)
    }
    // It has announced a path from there already: it is not kept waiting for the answer to the question that it got.
    const waiting = this.proofs.at(peer, remote, socket, now)
    if (waiting?.announced !== undefined && peer.bestPath() === undefined && peer.opens.take(now))
      this.#learn(peer, waiting, now, now)
    this.#host.changed(peer)
  }

  /** The question for a fresh proof of a path's remote, undefined when it is not due yet. */
  refresh(peer: Peer, path: Path, now: number): Frame | undefined {
    if (path.pathId === 0 || now - path.provenAt <= K.PROOF_REFRESH) return undefined
    const { pathId, remote, socket } = path
    if (path.local) return path.answered ? { type: 'path-challenge', pathId, token: path.token } : undefined
    const { token } = this.proofs.expect(peer, pathId, remote, socket, undefined, now)
    return { type: 'path-challenge', pathId, token }
  }

  /** The candidate for a new remote of a path that is there, or of a stock peer; undefined when none is to be tried. */
  #expectMove(
    peer: Peer,
    pathId: number,
    from: Endpoint,
    socket: number,
    now: number,
  ): Candidate | undefined {
    if (pathId !== 0) {
      const path = peer.path(pathId)
      if (path === undefined || path.socket !== socket || !path.moves.has(now)) return undefined
    }
    return this.proofs.expect(peer, pathId, from, socket, undefined, now)
  }

  /** `bytes` have come from a candidate: sends it the answers and the question for its proof, as far as it may get them. */
  ask(peer: Peer, candidate: Candidate, answers: readonly Frame[], bytes: number, now: number): void {
    candidate.received += bytes
    if (candidate.pathId !== 0) this.proofs.ask(peer, candidate, answers, now)
    else if (now - peer.stockAskedAt >= K.STOCK_PROOF_RETRY && this.proofs.allowsInitiation(candidate)) {
      peer.stockAskedAt = now
      this.#host.ask(peer, candidate.remote, candidate.socket, now)
    }
  }

  /**
   * The source of a control payload is unknown: returns the candidate that has to prove it; undefined when it is not to
   * be asked.
   */
  candidateAt(
    peer: Peer,
    pathId: number,
    from: Endpoint,
    socket: number,
    newest: boolean,
    now: number,
  ): Candidate | undefined {
    const known = this.proofs.at(peer, from, socket, now)
    if (known !== undefined || !newest || pathId === 0) return known
    return this.#expectMove(peer, pathId, from, socket, now)
  }

  /** This end opens paths and has none on this socket: what a stock peer still sends to an access that was left opens none there again. */
  #hasLeft(peer: Peer, socket: number): boolean {
    const open = peer.paths.filter(({ state }) => state.name !== 'closing')
    return open.some(({ local }) => local) && !open.some((path) => path.socket === socket)
  }

  /** A stock peer, or one that has not shown its type yet, has proven that it receives there. */
  #haveStock(peer: Peer, from: Endpoint, socket: number, now: number): Path {
    peer.candidates = peer.candidates.filter((each) => each.pathId !== 0)
    const path = peer.paths.find((each) => each.socket === socket && each.state.name !== 'closing')
    if (path !== undefined) {
      if (!sameEndpoint(path.remote, from)) this.#move(peer, path, from, now)
      return path
    }
    const opened = this.#open(peer, 0, socket, from, false, this.#maxMtu, now)
    if (peer.current !== undefined || peer.next !== undefined)
      this.#setState(opened, { name: 'up', since: now })
    for (const old of [...peer.paths]) if (old !== opened && old.pathId === 0) this.#close(peer, old)
    return opened
  }

  /** A handshake message of a stock peer came from there: its endpoint is where it speaks from (paper §6.5), once proven. */
  heardFrom(peer: Peer, from: Endpoint, socket: number, proven: boolean, now: number): void {
    if (peer.expectsGodwit || this.#hasLeft(peer, socket)) return
    const known = peer.paths.find((path) => path.socket === socket && sameEndpoint(path.remote, from))
    if (known !== undefined) this.#stock.answered(known, now)
    else if (proven) this.#stock.answered(this.#haveStock(peer, from, socket, now), now)
  }

  /** Everything of this peer's paths that is due. `late`: this end was held up so long. */
  tick(peer: Peer, now: number, late: number): void {
    for (const path of [...peer.paths]) {
      if (late > K.STALL) path.monitor.noteStall(now, late)
      if (path.error !== 0) this.#handleError(peer, path, now)
      if (path.tryAt <= now) this.#tryRefused(peer, path, now)
      if (path.forgetAt <= now) {
        this.#close(peer, path)
        continue
      }
      if (path.announceAt <= now) this.announce(peer, path, now)
      if (path.assessAt <= now) {
        if (path.known === 'hoped' && !path.answered) this.#endHoped(peer, path, now)
        else if (path.known !== undefined && now - path.earlySince > K.EARLY_USE_MOST)
          this.#endEarly(path, now)
        else if (peer.godwit) this.watch.assess(peer, path, now)
        else if (peer.expectsGodwit) this.#endEarly(path, now)
        else this.#stock.assess(peer, path, now)
      }
      if (path.mtuEnabled && path.usable && path.mtu.nextAt <= now) this.watch.probeMtu(peer, path, now)
    }
    if (peer.deadlines[Deadline.close]! <= now) this.#closes.sendDue(peer, now)
  }

  /** Traffic began between the two ends. */
  wakeUp(peer: Peer, now: number): void {
    for (const path of peer.paths) if (path.usable && (peer.godwit || path.local)) path.assessAt = now
  }

  /** After sleep or a change of network: ask every path, announce those that are down. */
  reviveAll(peer: Peer, now: number): void {
    for (const path of peer.paths) {
      if (!path.local || path.state.name === 'closing') continue
      path.tries = 0
      if (path.usable && peer.godwit) {
        path.monitor.restart(now)
        this.watch.probe(peer, path, now)
        path.assessAt = now
      } else if (!path.usable && peer.sealing !== undefined) path.announceAt = now
    }
    this.#host.changed(peer)
  }

  /** Asks every path that was accepted and counts as working whether it still does. */
  doubt(peer: Peer, now: number): void {
    if (!peer.godwit) return
    for (const path of peer.paths) {
      if (!path.usable || path.known !== undefined) continue
      this.watch.probe(peer, path, now)
      path.assessAt = now
    }
    this.#host.changed(peer)
  }

  setInterfaceMtu(peer: Peer, path: Path, mtu: number, now: number): void {
    path.mtuLimit = Math.min(mtu, this.#maxMtu)
    path.mtu.restart(path.mtuLimit, now)
    this.watch.publishMtu(peer, path)
    this.#host.changed(peer)
  }

  /** Removes every path of the peer without telling it. */
  closeAll(peer: Peer): void {
    for (const path of [...peer.paths]) this.#close(peer, path)
  }

  #open(
    peer: Peer,
    pathId: number,
    socket: number,
    remote: Endpoint,
    local: boolean,
    mtuLimit: number,
    now: number,
    known?: PathConfig['known'],
    relayed?: boolean,
  ): Path {
    const kept = keepEndpoint(remote)
    const limit = Math.min(mtuLimit, this.#maxMtu)
    const path = new Path(
      {
        slot: -1,
        peer: peer.index,
        pathId,
        generation: 0,
        socket,
        remote: kept,
        local,
        mtuLimit: limit,
        measureInterval: this.#measureInterval,
        known,
        relayed,
        token: this.#newToken(),
      },
      now,
    )
    path.slot = this.#parts.paths.open({
      peer: peer.index,
      pathId,
      socket,
      remote: kept,
      mtu: path.mtu.current,
    })
    peer.paths.push(path)
    this.#bySlot.set(path.slot, path)
    this.watch.publishMtu(peer, path)
    return path
  }

  /**
   * Packets may use a path before its PATH_ACCEPT where the owner knows enough of it. One that is only likely counts as
   * suspect: whatever works is preferred.
   */
  #useEarly(peer: Peer, path: Path, now: number): void {
    if (path.known === undefined || path.state.name !== 'validating') return
    path.forgetAt = NEVER
    if (path.known !== 'proven') {
      if (peer.bestPath() !== undefined) return
      this.#setState(path, { name: 'suspect', since: now, evidence: path.monitor.evidence(now) })
    } else this.#setState(path, { name: 'up', since: now })
    path.earlySince = now
    path.monitor.restart(now)
    path.assessAt = peer.godwit ? now : now + K.EARLY_USE
  }

  /** A session that the peer has not used yet seals, where there is no other. */
  #sealEarly(peer: Peer): void {
    if (peer.sealing !== undefined || peer.next === undefined || peer.next.early === true) return
    peer.next.early = true
    this.#parts.sessions.useForSending(peer.next.localIndex)
  }

  /** The peer has not shown in time that it receives there: nothing more goes there. */
  #endHoped(peer: Peer, path: Path, now: number): void {
    path.assessAt = path.earlySince + K.EARLY_USE
    if (path.assessAt <= now) this.#close(peer, path)
  }

  /** No HELLO in time: the peer may not have what would show whether the path works, nor what has left on it. */
  #endEarly(path: Path, now: number): void {
    const isEarly = path.known !== undefined && path.usable
    path.assessAt = isEarly ? path.earlySince + K.EARLY_USE : NEVER
    if (!isEarly || path.assessAt > now) return
    path.assessAt = NEVER
    path.owedAfter = -1
    path.known = undefined
    this.#setState(path, { name: 'validating', since: now, tries: path.tries })
  }

  #accept(peer: Peer, path: Path, now: number): void {
    if (peer.earlyOut !== undefined && peer.current !== undefined) this.#host.sendAlso(peer, path, now)
    if (path.known === 'hoped') this.#resend(path, path, -1)
    path.known = undefined
    path.forgetAt = NEVER
    path.monitor.restart(now)
    if (!path.usable && peer.bestPath() === undefined) this.#announceSoon(peer, now)
    if (!path.usable) this.#setState(path, { name: 'up', since: now })
    path.assessAt = now
    if (!path.mtuEnabled) {
      path.mtuEnabled = true
      path.mtu.restart(path.mtuLimit, now)
      this.watch.publishMtu(peer, path)
    }
    for (const other of [...peer.paths]) {
      // What went out on hope alone, behind a message 1 that may have come another way, or to where the peer has shown nothing since.
      const isHoped =
        other.known !== 'proven' ||
        now - peer.earlyEndedAt < K.EARLY_USE ||
        this.#parts.paths.counters(other.slot).lastReceivedAt < other.earlySince
      if (other !== path && other.known !== undefined && isHoped && other.usable)
        this.#resend(other, path, -1)
      if (Number.isNaN(other.owedAfter)) continue
      this.#resend(other, path, other.owedAfter)
      if (other.state.name === 'closing') this.#close(peer, other)
    }
    if (peer.closes.length > 0) peer.deadlines[Deadline.close] = now
    this.#host.changed(peer)
  }

  #handleError(peer: Peer, path: Path, now: number): void {
    const errno = path.error
    path.error = 0
    if (errno === EMSGSIZE) {
      path.mtu.refused(now)
      this.watch.publishMtu(peer, path)
    } else if (path.usable && FATAL_ERRORS.has(errno)) this.#leaveUnsendable(peer, path, now)
    else if (path.usable && REFUSALS.has(errno)) this.#weighRefusal(peer, path, now)
  }

  #weighRefusal(peer: Peer, path: Path, now: number): void {
    const { refused } = path
    const { sentPackets } = this.#parts.paths.counters(path.slot)
    if (refused.count === 0 || refused.sent !== sentPackets)
      Object.assign(refused, { since: now, count: 0, sent: sentPackets })
    refused.count++
    if (refused.count >= K.REFUSED_LEAST && now - refused.since >= K.REFUSED_FOR)
      this.#leaveUnsendable(peer, path, now)
    else path.tryAt = Math.min(path.tryAt, now + K.REFUSED_TRY)
  }

  /** The kernel lets nothing leave on the path. That of a stock peer, which nothing is announced to, is kept when it is the only one. */
  #leaveUnsendable(peer: Peer, path: Path, now: number): void {
    path.refused.count = 0
    path.tryAt = NEVER
    if (peer.expectsGodwit) this.#goDown(peer, path, CloseReason.error, now, path.monitor.remoteHighest)
    else if (this.#inUse(peer, path) !== undefined) this.#leaveStock(peer, path, CloseReason.error, now)
  }

  /** If it is refused again, the error comes back to `#weighRefusal`. */
  #tryRefused(peer: Peer, path: Path, now: number): void {
    path.tryAt = NEVER
    if (path.usable) this.keepalive(peer, path, now)
  }

  /** The path counts as dead: traffic moves, the peer is told, what was lost is sent again, and the path is retried. */
  #goDown(peer: Peer, path: Path, reason: CloseReason, now: number, after: number): void {
    const evidence = path.monitor.evidence(now)
    path.known = undefined
    this.#setState(path, { name: 'down', since: now, reason, evidence })
    path.assessAt = NEVER
    path.receivedBefore = this.#parts.paths.counters(path.slot).receivedBytes
    if (reason !== CloseReason.remote) this.#closes.queue(peer, path, reason, now)
    this.#moveLost(peer, path, after)
    if (path.local) {
      path.generation = ++peer.generation
      path.answered = false
      path.token = this.#newToken()
      path.tries = 0
      path.announceAt = now + (reason === CloseReason.remote ? 0 : K.REVIVE_DELAY)
    } else {
      path.assessAt = now + K.REVIVE_DELAY
      path.forgetAt = now + K.REMOTE_DOWN_LINGER
    }
    if (peer.bestPath() === undefined) {
      this.#announceSoon(peer, now)
      if (peer.initiatesPaths) this.#host.connect(peer, now)
    }
    this.#host.changed(peer)
  }

  /** The last working path has failed, or the first is back: the others are retried at the fast pace from now on. */
  #announceSoon(peer: Peer, now: number): void {
    for (const path of peer.paths) {
      if (path.announceAt === NEVER) continue
      path.tries = 0
      path.announceAt = Math.min(path.announceAt, now + K.ANNOUNCE_ALONE)
    }
  }

  /** A stock peer's path is silent and another answers, or nothing can be sent on it. */
  #leaveStock(peer: Peer, path: Path, reason: CloseReason, now: number): void {
    const evidence = path.monitor.evidence(now)
    this.#setState(path, { name: 'down', since: now, reason, evidence })
    path.assessAt = now + K.STOCK_REVIVE
    this.#turnStock(peer, path, now)
    this.#host.changed(peer)
  }

  /** A stock peer sends where we last sent from: shows it another path at once, and sends again what this one owes. */
  #turnStock(peer: Peer, path: Path, now: number): void {
    const target = this.#inUse(peer, path)
    if (target === undefined) return
    this.keepalive(peer, target, now)
    const { lastReceivedAt } = this.#parts.paths.counters(path.slot)
    const within = Math.min(K.RESEND_WITHIN, now - lastReceivedAt + K.STOCK_RESEND_MARGIN)
    this.#parts.paths.resend(path.slot, target.slot, -1, within)
  }

  #beginClose(peer: Peer, path: Path, reason: CloseReason, now: number): void {
    // One that is down is announced again, and may be up over there by now.
    const isAnnounced = path.state.name === 'validating' || (path.local && path.state.name === 'down')
    const told = path.usable || isAnnounced
    this.#setState(path, { name: 'closing', since: now, reason })
    path.assessAt = NEVER
    path.announceAt = NEVER
    if (peer.current === undefined || !peer.godwit) {
      if (told && peer.current !== undefined) this.#turnStock(peer, path, now)
      this.#close(peer, path)
      return
    }
    if (told) this.#closes.queue(peer, path, reason, now)
    this.#moveLost(peer, path, path.monitor.remoteHighest)
    if (peer.bestPath() === undefined) this.#announceSoon(peer, now)
    if (Number.isNaN(path.owedAfter)) this.#close(peer, path)
    else path.forgetAt = now + K.CLOSING_LINGER
  }

  #moveLost(peer: Peer, path: Path, after: number): void {
    const target = peer.bestPath(path)
    if (target === undefined) path.owedAfter = after
    else this.#resend(path, target, after)
  }

  #resend(from: Path, to: Path, after: number): void {
    from.owedAfter = Number.NaN
    this.#parts.paths.resend(from.slot, to.slot, after, K.RESEND_WITHIN)
  }

  #move(peer: Peer, path: Path, to: Endpoint, now: number): void {
    const sameHost = sameAddress(path.remote, to)
    path.proven(now)
    path.remote = keepEndpoint(to)
    path.cookie = undefined
    this.#parts.paths.setRemote(path.slot, path.remote)
    this.#host.emit({ type: 'remote', peer: peer.index, slot: path.slot, remote: path.remote })
    if (peer.godwit && path.usable) {
      // Another port of the same NAT is no other way.
      if (!sameHost) path.mtu.moved(path.mtuLimit, now)
      this.watch.publishMtu(peer, path)
      this.watch.probe(peer, path, now)
      this.#host.changed(peer)
    }
  }

  #close(peer: Peer, path: Path): void {
    const at = peer.paths.indexOf(path)
    if (at < 0) return
    peer.paths.splice(at, 1)
    this.#bySlot.delete(path.slot)
    this.#parts.paths.close(path.slot)
    const { slot, pathId } = path
    this.#host.emit({ type: 'path-closed', peer: peer.index, slot, pathId })
  }

  #setState(path: Path, state: PathState): void {
    const from = path.state.name
    path.state = state
    this.#host.emit({ type: 'path', peer: path.peer, path: path.view(), from })
  }
}

/** Whether the message 1 that is under way has gone there. */
function wasSent({ handshake }: Peer, { socket, remote }: Path): boolean {
  return handshake?.sentTo.some((to) => to.socket === socket && sameEndpoint(to.remote, remote)) === true
}

/** A fresh session of the peer's making was answered there and nowhere else: what comes in it from there is the proof. */
function provenByHandshake(peer: Peer, from: Endpoint, socket: number, now: number): boolean {
  const { current } = peer
  const answered = current?.answered
  if (current === undefined || answered === undefined || !answered.alone) return false
  if (now - current.createdAt > K.HANDSHAKE_PROOF) return false
  return answered.socket === socket && sameEndpoint(answered.remote, from)
}
