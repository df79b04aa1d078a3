/**
 * Sealing and sending. Datagrams of one size for one path are sealed one behind the other into the resend ring and go
 * out in one system call; a shorter one closes the batch (that is what UDP_SEGMENT can carry). The next datagram that
 * does not fit, and `flush`, send it.
 *
 * Per datagram: four FFI calls (~0.5 µs with AES), a dozen stores. Measured by bench/tunnel-tcp and tunnel-pps.
 */
import { ENODEV } from '../../core/errno.ts'
import type { Aead } from '../../crypto/openssl.ts'
import type { Arena } from '../../linux/arena.ts'
import { NAME_SIZE } from '../../linux/sockaddr.ts'
import { SEND_BYTES, SEND_SEGMENTS, type UdpSocket } from '../../linux/udp.ts'
import { COUNTER, HEADER, INNER_HEADER, MessageType, RECEIVER, TAG } from '../protocol/wire.ts'
import { Pacer } from './pacer.ts'
import type { ResendRing } from './ring.ts'
import { type PathTable, type PeerTable, SENT_DATA, type SessionTable } from './tables.ts'

const { transport: TRANSPORT, multipath: MULTIPATH } = MessageType
/** Packets that are due within this time (ms) of one another form one batch. */
const TOGETHER_MS = 1

/** Use of the four contexts of a session in `SessionTable.contexts`. */
export const AES_SEAL = 0
export const AES_OPEN = 1
export const CHACHA_SEAL = 2
export const CHACHA_OPEN = 3

export interface SendErrors {
  /** sendmsg failed; called outside any batch. */
  pathError(slot: number, errno: number, now: number): void
}

export class Sender {
  readonly #arena: Arena
  readonly #view: DataView
  readonly #aead: Aead
  readonly #ring: ResendRing
  readonly #peers: PeerTable
  readonly #paths: PathTable
  readonly #sessions: SessionTable
  readonly #sockets: readonly (UdpSocket | undefined)[]
  readonly #errors: SendErrors
  readonly #name: number
  readonly #local: number
  /** The open batch; slot -1 when there is none. */
  #slot = -1
  #at = 0
  #bytes = 0
  #count = 0
  #segment = 0
  #keep = true
  #now = 0
  /** The session of the open batch, looked up once. */
  #session = -1
  #remoteIndex = 0
  #context = 0
  #godwit = false
  /** Slots that get copies of what is sealed from now on, and of the open batch. */
  readonly #copyTo = new Int32Array(8)
  #copies = 0
  #openCopies = 0
  /** When what is sealed from now on may leave, and when the open batch may (`Spread.departAt`). */
  #departAt = 0
  #openDepartAt = 0
  /** Traffic class of the outer packets sealed from now on, and of the open batch. */
  #class = 0
  #openClass = 0
  /** Batches that wait for their path. */
  readonly pacer: Pacer
  /** Sends that failed since the start; datagrams sent as copies, and those that had to be fragmented. */
  failed = 0
  copied = 0
  fragmented = 0

  constructor(parts: {
    readonly arena: Arena
    readonly aead: Aead
    readonly ring: ResendRing
    readonly peers: PeerTable
    readonly paths: PathTable
    readonly sessions: SessionTable
    readonly sockets: readonly (UdpSocket | undefined)[]
    readonly errors: SendErrors
  }) {
    this.#arena = parts.arena
    this.#view = parts.arena.view
    this.#aead = parts.aead
    this.#ring = parts.ring
    this.#peers = parts.peers
    this.#paths = parts.paths
    this.#sessions = parts.sessions
    this.#sockets = parts.sockets
    this.#errors = parts.errors
    this.#name = parts.arena.reserve(NAME_SIZE)
    this.#local = parts.arena.reserve(16)
    this.pacer = new Pacer(parts.ring, (slot, batch) => this.#transmitWaiting(slot, batch))
  }

  /** The batch's clock: once per batch is exact enough. */
  set now(now: number) {
    this.#now = now
  }

  /**
   * Seals `length` bytes at `from`, and `padding` zero bytes, for the path, and puts the datagram in the open batch.
   * False when the peer has no session to seal with. `from` holds the flags and path id in front for a godwit peer.
   */
  seal(slot: number, from: number, length: number, padding: number): boolean {
    const size = HEADER + length + padding + TAG
    if (
      this.#slot !== slot ||
      size > this.#segment ||
      this.#bytes + size > SEND_BYTES ||
      this.#count === SEND_SEGMENTS
    ) {
      this.flush()
      if (!this.#begin(slot, size)) return false
    }
    const view = this.#view
    const at = this.#at + this.#bytes
    const counter = this.#sessions.sendCounter[this.#session]!
    this.#sessions.sendCounter[this.#session] = counter + 1
    const low = counter >>> 0
    const high = counter > 0xffffffff ? Math.floor(counter / 4294967296) : 0
    view.setUint32(at, this.#godwit ? MULTIPATH : TRANSPORT, true)
    view.setUint32(at + RECEIVER, this.#remoteIndex, true)
    view.setUint32(at + COUNTER, low, true)
    view.setUint32(at + COUNTER + 4, high, true)
    this.#aead.seal(this.#context, low, high, from, length, padding, at + HEADER)
    this.#bytes += size
    this.#count++
    if (size < this.#segment) this.flush()
    return true
  }

  /** From now on everything sealed goes to these slots too; 0 copies for none. */
  setCopies(slots: Int32Array, copies: number): void {
    let same = copies === this.#copies
    for (let i = 0; same && i < copies; i++) same = slots[i] === this.#copyTo[i]
    if (same) return
    this.flush()
    this.#copies = copies
    for (let i = 0; i < copies; i++) this.#copyTo[i] = slots[i]!
  }

  get copies(): number {
    return this.#copies
  }

  /**
   * Departure time of packets sealed from now on; 0: at once, before those that wait. Packets with nearly the same
   * departure share a batch.
   */
  setDeparture(at: number): void {
    if (at === this.#departAt) return
    if (this.#slot >= 0 && (at === 0 || !(at - this.#openDepartAt < TOGETHER_MS))) this.flush()
    this.#departAt = at
  }

  /** From now on outer packets have this traffic class: a batch has one. */
  setTrafficClass(value: number): void {
    if (value === this.#class) return
    this.flush()
    this.#class = value
  }

  get trafficClass(): number {
    return this.#class
  }

  get departure(): number {
    return this.#departAt
  }

  #begin(slot: number, size: number): boolean {
    const peer = this.#paths.peer[slot]!
    const session = this.#peers.sending[peer]!
    if (session < 0) return false
    this.#session = session
    this.#godwit = this.#peers.godwit[peer] === 1
    this.#remoteIndex = this.#sessions.remoteIndex[session]!
    this.#context = this.context(session, this.#godwit ? AES_SEAL : CHACHA_SEAL)
    this.#at = this.#ring.claim()
    this.#slot = slot
    this.#segment = size
    this.#keep = true
    this.#openCopies = this.#copies
    this.#openDepartAt = this.#departAt
    this.#openClass = this.#class
    return true
  }

  /** The cipher context of a session for one use, made when first asked for. */
  context(session: number, use: number): number {
    const made = this.#sessions.contexts[session * 4 + use]!
    if (made !== 0) return made
    const keys = this.#sessions.keys[session]!
    const key =
      use === AES_SEAL
        ? keys.sendKeyAes
        : use === AES_OPEN
          ? keys.receiveKeyAes
          : use === CHACHA_SEAL
            ? keys.sendKey
            : keys.receiveKey
    const cipher = use === AES_SEAL || use === AES_OPEN ? 'aes-256-gcm' : 'chacha20-poly1305'
    const direction = use === AES_SEAL || use === CHACHA_SEAL ? 'seal' : 'open'
    const context = this.#aead.newContext(cipher, direction, key)
    this.#sessions.contexts[session * 4 + use] = context
    return context
  }

  /** Sends the open batch. */
  flush(): void {
    const slot = this.#slot
    if (slot < 0) return
    this.#slot = -1
    const bytes = this.#bytes
    const count = this.#count
    this.#bytes = 0
    this.#count = 0
    const segment = count > 1 ? this.#segment : 0
    const waits = this.#keep && this.pacer.holds(slot, this.#openDepartAt, this.#now)
    if (this.#keep) {
      if (waits)
        this.pacer.push(
          slot,
          this.#ring.keepWaiting(this.#at, bytes, this.#segment, this.#openClass),
          this.#openDepartAt,
        )
      else this.#ring.keep(slot, this.#at, bytes, this.#segment, this.#now, this.#openClass)
      const peer = this.#paths.peer[slot]!
      this.#peers.mark(peer, SENT_DATA)
      this.#peers.sentData[peer] = this.#peers.sentData[peer]! + count
    }
    if (!waits) this.transmit(slot, this.#at, bytes, segment, count, this.#keep, this.#openClass)
    for (let i = 0; i < this.#openCopies; i++) {
      this.copied += count
      this.transmit(this.#copyTo[i]!, this.#at, bytes, segment, count, this.#keep, this.#openClass)
    }
  }

  #transmitWaiting(slot: number, batch: number): void {
    const bytes = this.#ring.bytes(batch)
    const segment = this.#ring.segment(batch)
    const count = Math.ceil(bytes / segment)
    this.#ring.sent(batch, slot, this.#now)
    const trafficClass = this.#ring.trafficClass(batch)
    this.transmit(slot, this.#ring.at(batch), bytes, count > 1 ? segment : 0, count, true, trafficClass)
  }

  /** Seals one datagram that is not to be sent again, and sends it at once; returns its counter or -1. */
  sealAlone(slot: number, from: number, length: number, padding: number): number {
    this.flush()
    const size = HEADER + length + padding + TAG
    if (!this.#begin(slot, size)) return -1
    this.#keep = false
    this.#openCopies = 0
    this.#openClass = 0
    const counter = this.#sessions.sendCounter[this.#session]!
    const failed = this.failed
    this.seal(slot, from, length, padding)
    this.flush()
    return this.failed === failed ? counter : -1
  }

  /** Seals one datagram for a peer, of no path, to `to`; returns its size, 0 when there is no session. */
  sealApart(peer: number, from: number, length: number, padding: number, to: number): number {
    const session = this.#peers.sending[peer] ?? -1
    if (session < 0) return 0
    this.flush()
    const view = this.#view
    const godwit = this.#peers.godwit[peer] === 1
    const counter = this.#sessions.sendCounter[session]!
    this.#sessions.sendCounter[session] = counter + 1
    const low = counter >>> 0
    const high = counter > 0xffffffff ? Math.floor(counter / 4294967296) : 0
    view.setUint32(to, godwit ? MULTIPATH : TRANSPORT, true)
    view.setUint32(to + RECEIVER, this.#sessions.remoteIndex[session]!, true)
    view.setUint32(to + COUNTER, low, true)
    view.setUint32(to + COUNTER + 4, high, true)
    const context = this.context(session, godwit ? AES_SEAL : CHACHA_SEAL)
    this.#aead.seal(context, low, high, from, length, padding, to + HEADER)
    return HEADER + length + padding + TAG
  }

  /**
   * Sends sealed datagrams as they lie on a path; false when the socket refused. Those larger than the path carries are
   * fragmented when they are `data`: an inner IPv6 packet of up to 1,280 bytes, which nothing may ask to be smaller, or
   * what was sealed for a path that carried more. Control payloads that large are MTU probes.
   */
  transmit(
    slot: number,
    at: number,
    bytes: number,
    segment: number,
    count: number,
    data: boolean,
    trafficClass = 0,
  ): boolean {
    const paths = this.#paths
    const u32 = this.#arena.u32
    const name = this.#name >>> 2
    for (let i = 0; i < 8; i++) u32[name + i] = paths.remote[slot * 8 + i]!
    let local = 0
    if (paths.hasLocal[slot] === 1) {
      local = this.#local
      for (let i = 0; i < 4; i++) u32[(local >>> 2) + i] = paths.local[slot * 4 + i]!
    }
    const socket = this.#sockets[paths.socket[slot]!]
    const most = paths.innerMtu[slot]! + HEADER + TAG + INNER_HEADER * this.#peers.godwit[paths.peer[slot]!]!
    let result: number
    if (socket !== undefined) socket.trafficClass = trafficClass
    if (socket === undefined) result = -ENODEV
    else if (data && (segment === 0 ? bytes : segment) > most) {
      this.fragmented += count
      result = socket.sendFragmented(this.#name, local, at, bytes, segment)
    } else result = socket.send(this.#name, local, at, bytes, segment)
    if (result < 0) {
      this.failed++
      this.#errors.pathError(slot, -result, this.#now)
      return false
    }
    paths.sentBytes[slot] = paths.sentBytes[slot]! + bytes
    paths.sentPackets[slot] = paths.sentPackets[slot]! + count
    paths.lastSentAt[slot] = this.#now
    return true
  }
}
