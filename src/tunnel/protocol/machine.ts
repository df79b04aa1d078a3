/**
 * The tunnel machine: the WireGuard protocol and, between godwits, several paths in one session. Sans-I/O: bytes, time
 * and randomness are arguments; it sends through `Transmit` and reports events through `poll`. It never throws on input
 * from the network.
 *
 * This file has the tables of peers, keys and deadlines and passes each input to the responsible part: handshakes.ts
 * (messages 1–3, sessions), multipath.ts (paths), key-replacement.ts. The timers of the WireGuard paper's §6 are here.
 */
import { toHex } from '../../core/bytes.ts'
import { DeadlineHeap } from '../../core/deadlines.ts'
import { GodwitError } from '../../core/errors.ts'
import type { Endpoint } from '../seam.ts'
import type {
  MachineComponents,
  MachineInit,
  PathConfig,
  PathView,
  PeerConfig,
  PeerView,
  Prekey,
  TunnelCommands,
  TunnelEvent,
} from './api.ts'
import * as K from './constants.ts'
import { CONTROL_VERSION, controlCodec, Feature, type Frame } from './control.ts'
import { ControlFrames } from './control-frames.ts'
import { Handshakes } from './handshakes.ts'
import { KeyReplacement } from './key-replacement.ts'
import { BUSY_HOLD } from './monitor.ts'
import { Multipath } from './multipath.ts'
import { type Identity, identity, remoteKey } from './noise.ts'
import type { Path } from './path.ts'
import { Deadline, Peer } from './peer.ts'

export * from './api.ts'

const NEVER = Number.POSITIVE_INFINITY

export class TunnelMachine implements TunnelCommands {
  readonly #parts: MachineComponents
  #own: Identity
  readonly #identities = new Map<string, Identity>()
  readonly #peers: (Peer | undefined)[] = []
  /** Indexes of removed peers. */
  readonly #free: number[] = []
  readonly #byKey = new Map<string, Peer>()
  readonly #events: TunnelEvent[] = []
  #eventsRead = 0
  /** Slot of the `path-closed` that was polled last, until the next poll. */
  #closed = -1
  readonly #due = new DeadlineHeap()
  readonly #handshakes: Handshakes
  readonly #multipath: Multipath
  readonly #keys: KeyReplacement
  readonly #control: ControlFrames

  constructor(parts: MachineComponents, init: MachineInit) {
    this.#parts = parts
    this.#own = this.#identity(init.privateKey)
    this.#handshakes = new Handshakes(
      parts,
      {
        identities: () => this.#identities.values(),
        peerByKey: (key) => this.#byKey.get(toHex(key)),
        emit: (event) => this.#emit(event),
        heardFrom: (peer, from, socket, proven, now) =>
          this.#multipath.heardFrom(peer, from, socket, proven, now),
        realigned: (peer) => this.#multipath.realigned(peer),
        resealed: (peer, now) => this.#multipath.resealed(peer, now),
        keysProven: (peer, keys) => this.#keys.proven(peer, keys),
        changed: (peer) => this.#schedule(peer),
        established: (peer, session, now) => {
          peer.lastTraversal = now
          this.#armPersistent(peer, now)
          if (peer.nextKeys !== undefined) peer.deadlines[Deadline.key] = now + K.KEY_RETRY / 4
          this.#multipath.established(peer, session.initiator, now)
        },
      },
      init,
    )
    const hello: Frame = {
      type: 'hello',
      version: CONTROL_VERSION,
      features: init.features ?? Feature.multipathAes | Feature.ecn,
      mtu: init.interfaceMtu ?? 1420,
      instance: new DataView(parts.random.fill(new Uint8Array(4)).buffer).getUint32(0),
    }
    this.#multipath = new Multipath(
      parts,
      {
        emit: (event) => this.#emit(event),
        connect: (peer, now) => this.#handshakes.connect(peer, now),
        check: (peer, paths, now) => this.#handshakes.check(peer, paths, now),
        ask: (peer, remote, socket, now) => this.#handshakes.ask(peer, remote, socket, now),
        answerAlso: (peer, path) => this.#handshakes.answerAlso(peer, path),
        sendAlso: (peer, path, now) => {
          if (peer.handshake !== undefined) this.#handshakes.sendAlso(peer, path, now)
          else if (wantsSession(peer)) this.#handshakes.attemptNow(peer, now)
          this.#schedule(peer)
        },
        replaced: (peer, localIndex) => this.#handshakes.replaced(peer, localIndex),
        sent: (peer, now) => this.#noteSent(peer, now),
        changed: (peer) => this.#schedule(peer),
      },
      hello,
      init.maxMtu ?? 1500,
      init.measureInterval,
    )
    this.#keys = new KeyReplacement({
      crypto: parts.crypto,
      identity: (privateKey) => this.#identity(privateKey),
      reindex: (peer) => this.#reindex(peer),
      peerByKey: (key) => this.#byKey.get(toHex(key)),
      emit: (event) => this.#emit(event),
      endOtherSessions: (peer) => this.#handshakes.endOthers(peer),
      attemptNow: (peer, now) => this.#handshakes.attemptNow(peer, now),
      send: (peer, frame, now) => {
        const path = peer.bestPath()
        return path !== undefined && this.#multipath.send(peer, path, [frame], now)
      },
    })
    this.#control = new ControlFrames({
      multipath: this.#multipath,
      keys: this.#keys,
      emit: (event) => this.#emit(event),
      ended: (peer, localIndex, rttMs, now) => this.#ended(peer, localIndex, rttMs, now),
    })
  }

  /** This end's public key. */
  get publicKey(): Uint8Array {
    return this.#own.publicKey
  }

  // ---- commands

  addPeer(config: PeerConfig, now: number): number {
    const { crypto } = this.#parts
    const publicKey = config.publicKey.slice()
    if (this.#byKey.has(toHex(publicKey)))
      throw new GodwitError('PEER_EXISTS', 'a peer with this public key is there already')
    const own = config.privateKey === undefined ? this.#own : this.#identity(config.privateKey)
    const remote = crypto.equal(own.publicKey, publicKey) ? undefined : remoteKey(crypto, own, publicKey)
    if (remote === undefined) throw new GodwitError('PEER_KEY', 'not a usable public key for a peer')
    const index = this.#free.pop() ?? this.#peers.length
    const peer = new Peer(index, { ...config, publicKey }, { own, remote })
    this.#peers[index] = peer
    if (config.nextPublicKey !== undefined) this.#keys.expect(peer, config.nextPublicKey)
    if (config.nextPrivateKey !== undefined) this.#keys.begin(peer, config.nextPrivateKey, now)
    this.#reindex(peer)
    this.#schedule(peer)
    return index
  }

  updatePeer(index: number, changes: Partial<Omit<PeerConfig, 'publicKey'>>, now: number): void {
    const peer = this.#need(index)
    peer.config = { ...peer.config, ...changes }
    if (changes.privateKey !== undefined) {
      const own = this.#identity(changes.privateKey)
      const remote = remoteKey(this.#parts.crypto, own, peer.keys.remote.publicKey)
      if (remote === undefined) throw new GodwitError('PEER_KEY', 'the key does not fit the peer')
      peer.keys = { own, remote }
      this.#reindex(peer)
    }
    if (changes.privateKey !== undefined || changes.presharedKey !== undefined) {
      this.#handshakes.clear(peer)
      this.#sessionLost(peer, now)
      if (wantsSession(peer)) this.#handshakes.attemptNow(peer, now)
    }
    if (changes.persistentKeepalive !== undefined) this.#armPersistent(peer, now)
    this.#schedule(peer)
  }

  removePeer(index: number, _now: number): void {
    const peer = this.#peers[index]
    if (peer === undefined) return
    this.#handshakes.clear(peer)
    this.#multipath.closeAll(peer)
    this.#peers[index] = undefined
    this.#free.push(index)
    this.#due.set(index, NEVER)
    for (const name of peer.names) this.#byKey.delete(name)
    this.#sweepIdentities()
  }

  findPeer(publicKey: Uint8Array): number | undefined {
    return this.#byKey.get(toHex(publicKey))?.index
  }

  peer(index: number): PeerView | undefined {
    return this.#peers[index]?.view()
  }

  *peers(): Iterable<PeerView> {
    for (const peer of this.#peers) if (peer !== undefined) yield peer.view()
  }

  path(slot: number): PathView | undefined {
    return this.#multipath.bySlot(slot)?.view()
  }

  addPath(index: number, config: PathConfig, now: number): number {
    const peer = this.#need(index)
    if (peer.path(config.pathId) !== undefined)
      throw new GodwitError('PATH_EXISTS', `path ${config.pathId} of this peer is open`)
    const path = this.#multipath.open(peer, config, now)
    this.#schedule(peer)
    return path.slot
  }

  removePath(slot: number, now: number): void {
    const found = this.#find(slot)
    if (found === undefined) return
    this.#multipath.remove(found.peer, found.path, now)
    this.#schedule(found.peer)
  }

  setInterfaceMtu(slot: number, mtu: number, now: number): void {
    const found = this.#find(slot)
    if (found !== undefined) this.#multipath.setInterfaceMtu(found.peer, found.path, mtu, now)
  }

  connect(index: number, now: number): void {
    const peer = this.#need(index)
    this.#handshakes.connect(peer, now)
    this.#schedule(peer)
  }

  setStandby(slot: number, ms: number | undefined): void {
    const found = this.#find(slot)
    if (found === undefined || found.path.monitor.standbyMs === ms) return
    found.path.monitor.standbyMs = ms
  }

  look(slot: number, now: number): void {
    const found = this.#find(slot)
    if (found !== undefined) this.#multipath.look(found.peer, found.path, now)
  }

  greet(index: number, remote: Endpoint, socket: number, now: number): void {
    const peer = this.#peers[index]
    if (peer === undefined || peer.current !== undefined || peer.next !== undefined) return
    this.#handshakes.ask(peer, remote, socket, now)
    this.#schedule(peer)
  }

  introduce(index: number, remote: Endpoint, socket: number, now: number): void {
    const peer = this.#peers[index]
    if (peer === undefined || peer.current !== undefined || peer.next !== undefined) return
    this.#handshakes.introduce(peer, remote, socket, now)
    this.#schedule(peer)
  }

  newPrekey(): Prekey {
    return this.#handshakes.newPrekey()
  }

  dropPrekey(index: number): void {
    this.#handshakes.dropPrekey(index)
  }

  expectEarly(index: number, prekey: number, now: number): void {
    const peer = this.#peers[index]
    if (peer === undefined) this.#handshakes.dropPrekey(prekey)
    else {
      this.#handshakes.expectEarly(peer, prekey, now)
      this.#schedule(peer)
    }
  }

  useEarly(index: number, prekey: Prekey): void {
    const peer = this.#peers[index]
    if (peer !== undefined && peer.sealing === undefined) peer.remotePrekey = prekey
  }

  noteProven(index: number, remote: Endpoint, socket: number, now: number): void {
    const peer = this.#peers[index]
    if (peer !== undefined) this.#multipath.noteProven(peer, remote, socket, now)
  }

  wake(now: number): void {
    for (const peer of this.#peers) {
      if (peer === undefined || !peer.initiatesPaths) continue
      this.#multipath.reviveAll(peer, now)
      // A stock peer cannot be asked whether it still has the session; and without one there is nothing to ask in.
      if (wantsSession(peer) && (peer.current === undefined || !peer.godwit))
        this.#handshakes.attemptNow(peer, now)
      this.#schedule(peer)
    }
  }

  doubt(index: number, now: number): void {
    const peer = this.#peers[index]
    if (peer !== undefined) this.#multipath.doubt(peer, now)
  }

  sendFrames(index: number, body: Uint8Array, slot: number, now: number): boolean {
    const peer = this.#need(index)
    const path = slot < 0 ? peer.bestPath() : this.#multipath.bySlot(slot)
    if (path === undefined || path.peer !== index || !path.usable || !peer.godwit) return false
    return this.#multipath.sendBody(peer, path, body, now)
  }

  replaceKey(index: number, privateKey: Uint8Array, now: number): void {
    const peer = this.#need(index)
    this.#keys.begin(peer, privateKey, now)
    this.#schedule(peer)
  }

  acceptKey(index: number, publicKey: Uint8Array, now: number): void {
    this.#keys.accept(this.#need(index), publicKey, now)
  }

  renewIdentity(privateKey: Uint8Array): void {
    const old = this.#own
    this.#own = this.#identity(privateKey)
    for (const peer of this.#peers) {
      if (peer === undefined) continue
      if (peer.keys.own === old || peer.oldKeys?.own === old) this.#keys.settle(peer, this.#own)
    }
    this.#sweepIdentities()
  }

  end(now: number): void {
    for (const peer of this.#peers)
      if (peer !== undefined) this.#multipath.sayEnd(peer, this.#handshakes.sealed(peer), now)
  }

  poll(): TunnelEvent | undefined {
    // The owner has dealt with the event before: nothing of its own names the slot any more.
    if (this.#closed >= 0) this.#parts.paths.release(this.#closed)
    this.#closed = -1
    const event = this.#events[this.#eventsRead]
    if (event === undefined) {
      this.#events.length = 0
      this.#eventsRead = 0
    } else {
      this.#eventsRead++
      if (event.type === 'path-closed') this.#closed = event.slot
    }
    return event
  }

  // ---- the slow path

  handleHandshake(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    this.#handshakes.handle(bytes, from, socket, now)
  }

  handleFirstReceive(index: number, localIndex: number, now: number): void {
    const peer = this.#peers[index]
    if (peer === undefined) return
    this.#handshakes.confirm(peer, localIndex, now)
    this.#schedule(peer)
  }

  handleControl(
    index: number,
    localIndex: number,
    slot: number,
    pathId: number,
    from: Endpoint,
    socket: number,
    counter: number,
    newest: boolean,
    bytes: number,
    body: Uint8Array,
    now: number,
  ): void {
    const peer = this.#peers[index]
    if (peer === undefined || peer.dialect === 'stock' || !peer.control.take(now)) return
    const frames = controlCodec.decode(body)
    if (!frames.ok) return
    const source = { localIndex, slot, pathId, from, socket, counter, newest, bytes }
    this.#control.handle(peer, source, frames.value, now)
    this.#schedule(peer)
  }

  handleRoaming(
    index: number,
    pathId: number,
    from: Endpoint,
    socket: number,
    bytes: number,
    now: number,
  ): number {
    const peer = this.#peers[index]
    if (peer === undefined) return -1
    const slot = this.#multipath.roam(peer, pathId, from, socket, bytes, now)
    this.#schedule(peer)
    return slot
  }

  fault(index: number, error: unknown, now: number): void {
    const peer = this.#peers[index]
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error)
    this.#emit({ type: 'peer-failed', peer: peer === undefined ? -1 : index, reason })
    if (peer === undefined) return
    peer.faults++
    peer.barredUntil = now + Math.min(K.FAULT_BAR * 2 ** Math.min(peer.faults - 1, 10), K.FAULT_BAR_MAX)
    try {
      const had = peer.current !== undefined
      this.#handshakes.clear(peer)
      if (had) this.#sessionLost(peer, now)
      this.#schedule(peer)
    } catch {
      // Removed completely: the index is free.
      this.#peers[index] = undefined
      for (const name of peer.names) this.#byKey.delete(name)
    }
  }

  noteTraffic(
    index: number,
    sentData: boolean,
    receivedData: boolean,
    receivedAny: boolean,
    now: number,
  ): void {
    const peer = this.#peers[index]
    if (peer === undefined) return
    const { deadlines } = peer
    peer.lastTraversal = now
    if (receivedAny) {
      deadlines[Deadline.newHandshake] = NEVER
      this.#handshakes.rekeyIfDue(peer, true, now)
    }
    if (receivedData) {
      if (deadlines[Deadline.keepalive] === NEVER) {
        deadlines[Deadline.keepalive] = now + K.KEEPALIVE_TIMEOUT
      } else peer.needKeepalive = true
    }
    if (sentData) {
      deadlines[Deadline.keepalive] = NEVER
      if (deadlines[Deadline.newHandshake] === NEVER)
        deadlines[Deadline.newHandshake] = now + K.KEEPALIVE_TIMEOUT + K.REKEY_TIMEOUT
      this.#handshakes.rekeyIfDue(peer, false, now)
    }
    if (sentData || receivedData) {
      const idle = now >= peer.busyUntil
      peer.busyUntil = now + BUSY_HOLD
      if (idle) this.#multipath.wakeUp(peer, now)
    }
    this.#schedule(peer)
  }

  wantSession(index: number, now: number): void {
    const peer = this.#peers[index]
    if (peer === undefined) return
    this.#handshakes.connect(peer, now)
    this.#schedule(peer)
  }

  pathError(slot: number, errno: number, now: number): void {
    const found = this.#find(slot)
    if (found === undefined) return
    found.path.failed(errno, now) // dealt with from handleTimeout: the datapath is in the middle of a batch
    this.#schedule(found.peer)
  }

  nextTimeout(): number | undefined {
    return this.#due.next()
  }

  handleTimeout(now: number): void {
    const late = now - (this.#due.next() ?? now)
    for (let index = this.#due.expire(now); index >= 0; index = this.#due.expire(now)) {
      const peer = this.#peers[index]
      if (peer === undefined) continue
      try {
        this.#expire(peer, now)
        this.#multipath.tick(peer, now, late)
        this.#schedule(peer, now)
      } catch (error) {
        this.fault(index, error, now)
      }
    }
  }

  // ---- timers (WireGuard paper §6)

  #expire(peer: Peer, now: number): void {
    const { deadlines } = peer
    if (deadlines[Deadline.reject]! <= now && this.#handshakes.expireSessions(peer, now))
      this.#sessionLost(peer, now)
    if (deadlines[Deadline.retransmit]! <= now) this.#handshakes.retransmit(peer, now)
    if (deadlines[Deadline.newHandshake]! <= now) {
      deadlines[Deadline.newHandshake] = NEVER
      this.#handshakes.connect(peer, now)
    }
    if (deadlines[Deadline.keepalive]! <= now) {
      deadlines[Deadline.keepalive] = NEVER
      const again = peer.needKeepalive
      peer.needKeepalive = false
      this.#multipath.keepaliveInUse(peer, now)
      if (again) deadlines[Deadline.keepalive] = now + K.KEEPALIVE_TIMEOUT
    }
    if (deadlines[Deadline.persistent]! <= now) {
      const interval = (peer.config.persistentKeepalive ?? 0) * 1000
      if (now - peer.lastTraversal >= interval) {
        if (peer.current === undefined) this.#handshakes.connect(peer, now)
        else this.#multipath.keepaliveInUse(peer, now)
        peer.lastTraversal = now
      }
      this.#armPersistent(peer, now)
    }
    if (deadlines[Deadline.hello]! <= now) this.#multipath.sayHello(peer, now)
    if (deadlines[Deadline.key]! <= now) this.#keys.offer(peer, now)
    if (deadlines[Deadline.prekey]! <= now) this.#handshakes.endEarly(peer)
  }

  #armPersistent(peer: Peer, now: number): void {
    const interval = (peer.config.persistentKeepalive ?? 0) * 1000
    peer.deadlines[Deadline.persistent] =
      interval > 0 ? Math.max(peer.lastTraversal + interval, now + 1) : NEVER
  }

  /** A control payload or keepalive was sealed and sent. */
  #noteSent(peer: Peer, now: number): void {
    peer.lastTraversal = now
    peer.deadlines[Deadline.keepalive] = NEVER
    this.#handshakes.rekeyIfDue(peer, false, now)
  }

  /** SESSION_END: its process reads nothing any more, and what came from here in the last round trip it has not read. */
  #ended(peer: Peer, localIndex: number, rttMs: number, now: number): void {
    if (!this.#handshakes.ended(peer, localIndex)) return
    this.#parts.sessions.unread(peer.index, Number.isNaN(rttMs) ? K.UNREAD_TIME : rttMs)
    this.#sessionLost(peer, now)
    if (peer.next === undefined) this.#emit({ type: 'ended', peer: peer.index })
  }

  #sessionLost(peer: Peer, now: number): void {
    this.#emit({ type: 'session', peer: peer.index, up: false, initiator: false })
    this.#multipath.sessionLost(peer, now)
  }

  // ---- tables

  #schedule(peer: Peer, now?: number): void {
    // A millisecond's pause at least: whatever a failing send brings about, it must not keep this thread.
    const at = now === undefined ? peer.nextAt() : Math.max(peer.nextAt(), now + 1)
    // An early deadline only costs one empty look; moving it later each time would cost more.
    if (now !== undefined || at < this.#due.get(peer.index)) this.#due.set(peer.index, at)
  }

  #emit(event: TunnelEvent): void {
    this.#events.push(event)
  }

  #need(index: number): Peer {
    const peer = this.#peers[index]
    if (peer === undefined) throw new GodwitError('PEER_UNKNOWN', `there is no peer ${index}`)
    return peer
  }

  #find(slot: number): { peer: Peer; path: Path } | undefined {
    const path = this.#multipath.bySlot(slot)
    const peer = path === undefined ? undefined : this.#peers[path.peer]
    return path === undefined || peer === undefined ? undefined : { peer, path }
  }

  #identity(privateKey: Uint8Array): Identity {
    const made = identity(this.#parts.crypto, privateKey.slice())
    const name = toHex(made.publicKey)
    const known = this.#identities.get(name)
    if (known !== undefined) return known
    this.#identities.set(name, made)
    return made
  }

  /** Look-up by every key the peer may show now; identities no longer used are forgotten. */
  #reindex(peer: Peer): void {
    for (const name of peer.names) this.#byKey.delete(name)
    peer.names = [toHex(peer.keys.remote.publicKey)]
    if (peer.nextRemote !== undefined) peer.names.push(toHex(peer.nextRemote.publicKey))
    for (const name of peer.names) this.#byKey.set(name, peer)
    this.#sweepIdentities()
  }

  #sweepIdentities(): void {
    if (this.#identities.size === 1) return
    const used = new Set<Identity>([this.#own])
    for (const peer of this.#peers) {
      for (const pair of [peer?.keys, peer?.nextKeys, peer?.oldKeys])
        if (pair !== undefined) used.add(pair.own)
    }
    for (const [name, each] of this.#identities) if (!used.has(each)) this.#identities.delete(name)
  }
}

/** Towards a godwit, and where keepalives are asked for, the session is kept up without waiting for data. */
function wantsSession(peer: Peer): boolean {
  return peer.expectsGodwit || (peer.config.persistentKeepalive ?? 0) > 0
}
