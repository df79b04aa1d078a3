/**
 * From the sockets to the TUN: each datagram of a coalesced message is opened in place (session by its index, replay
 * window, AEAD), shown to the forwarder and handed to the merger. Everything that is not data goes to the slow path.
 */

import { decapsulateEcn } from '../../core/ecn.ts'
import { ipHeaderLength, ipLength, Protocol } from '../../core/ip.ts'
import { clampMss, TCP } from '../../core/tcp.ts'
import { plainTransport } from '../../core/transport.ts'
import type { Aead } from '../../crypto/openssl.ts'
import type { Arena } from '../../linux/arena.ts'
import { readAddress16, readName } from '../../linux/sockaddr.ts'
import { VNET_HEADER } from '../../linux/tun.ts'
import type { ReceiveBatch, UdpSocket } from '../../linux/udp.ts'
import {
  COUNTER,
  FLAG_CONTROL,
  FLAG_ORDERED,
  FLAG_PARTIAL,
  HEADER,
  INNER_HEADER,
  MessageType,
  outerOverhead,
  RECEIVER,
  TAG,
} from '../protocol/wire.ts'
import type { Endpoint, Forwarder, SlowPath } from '../seam.ts'
import type { Merger } from './merge.ts'
import type { Parking } from './parking.ts'
import type { Reorder } from './reorder.ts'
import { AES_OPEN, CHACHA_OPEN, type Sender } from './sender.ts'
import { type PathTable, type PeerTable, RECEIVED_ANY, RECEIVED_DATA, type SessionTable } from './tables.ts'

const { transport: TRANSPORT, multipath: MULTIPATH } = MessageType
const UNKNOWN = -1
/** The path of a message is not looked up yet. */
const PENDING = -2

export class Inbound {
  readonly #view: DataView
  readonly #u8: Uint8Array
  readonly #u32: Uint32Array
  readonly #aead: Aead
  readonly #forwarder: Forwarder
  readonly #machine: () => SlowPath
  readonly #peers: PeerTable
  readonly #paths: PathTable
  readonly #sessions: SessionTable
  readonly #sender: Sender
  readonly #merger: Merger
  readonly #batch: ReceiveBatch
  readonly #reorder: Reorder | undefined
  /** Packets of peers that the forwarder holds. */
  readonly #held: Parking
  /** Of the message at hand: the session its datagrams named last, and that peer's path. */
  #session = UNKNOWN
  /** Of the socket that is read. */
  #nat64: Uint8Array | undefined
  #index = 0
  #slot = PENDING
  counts = {
    datagrams: 0,
    malformed: 0,
    unknownSession: 0,
    replayed: 0,
    copies: 0,
    forged: 0,
    refused: 0,
    control: 0,
    /** A full queue on the way marked a packet whose sender does not know marks: dropped, as that queue would have. */
    congested: 0,
  }

  constructor(parts: {
    readonly arena: Arena
    readonly aead: Aead
    readonly forwarder: Forwarder
    readonly machine: () => SlowPath
    readonly peers: PeerTable
    readonly paths: PathTable
    readonly sessions: SessionTable
    readonly sender: Sender
    readonly merger: Merger
    readonly batch: ReceiveBatch
    readonly held: Parking
    /** Restores order where the sender asks for it; absent: packets are delivered as they come. */
    readonly reorder?: Reorder
  }) {
    this.#view = parts.arena.view
    this.#u8 = parts.arena.u8
    this.#u32 = parts.arena.u32
    this.#aead = parts.aead
    this.#forwarder = parts.forwarder
    this.#machine = parts.machine
    this.#peers = parts.peers
    this.#paths = parts.paths
    this.#sessions = parts.sessions
    this.#sender = parts.sender
    this.#merger = parts.merger
    this.#batch = parts.batch
    this.#held = parts.held
    this.#reorder = parts.reorder
  }

  /** Receives one batch from the socket; returns its messages, or -errno. */
  receive(socket: UdpSocket, socketIndex: number, now: number): number {
    const batch = this.#batch
    const n = socket.receive(batch)
    this.#nat64 = socket.nat64
    for (let i = 0; i < n; i++) {
      try {
        this.#message(i, socketIndex, now)
      } catch (error) {
        const session = this.#session
        this.#machine().fault(session < 0 ? -1 : this.#sessions.peer[session]!, error, now)
      }
    }
    if (n > 0) this.flush()
    return n
  }

  /** Writes what is merged; then packets that were held may be forgotten. */
  flush(): void {
    this.#merger.flush()
    this.#reorder?.written()
  }

  #message(i: number, socket: number, now: number): void {
    const batch = this.#batch
    const at = batch.at[i]!
    const length = batch.length[i]!
    const segment = batch.segment[i]!
    this.#session = UNKNOWN
    this.#slot = PENDING
    // sockaddr_in6 carries a flow label that means nothing here.
    const name = batch.name[i]!
    if (this.#u8[name] === 10) this.#u32[(name >>> 2) + 1] = 0
    for (let offset = 0; offset < length; offset += segment) {
      const size = Math.min(segment, length - offset)
      this.counts.datagrams++
      if (size < HEADER + TAG) {
        this.#other(i, at + offset, size, socket, now)
        continue
      }
      const type = this.#view.getUint32(at + offset, true)
      if (type === MULTIPATH || type === TRANSPORT)
        this.#transport(i, at + offset, size, type === MULTIPATH, socket, now)
      else if (type >= 1 && type <= 3) {
        const from = this.#endpoint(i)
        this.#machine().handleHandshake(this.#u8.subarray(at + offset, at + offset + size), from, socket, now)
        this.#session = UNKNOWN
      } else this.#other(i, at + offset, size, socket, now)
    }
  }

  /** Not the tunnel's. What it may be, the machine's owner knows. */
  #other(i: number, at: number, size: number, socket: number, now: number): void {
    const machine = this.#machine()
    if (machine.handleOther === undefined) this.counts.malformed++
    else machine.handleOther(this.#u8.subarray(at, at + size), this.#endpoint(i), socket, now)
  }

  #endpoint(i: number): Endpoint {
    const endpoint = readName(this.#u8, this.#view, this.#batch.name[i]!, this.#nat64)
    const local = this.#batch.local[i]!
    return local === 0 ? endpoint : { ...endpoint, local: readAddress16(this.#u8, local) }
  }

  #transport(i: number, at: number, size: number, multipath: boolean, socket: number, now: number): void {
    const view = this.#view
    const sessions = this.#sessions
    const index = view.getUint32(at + RECEIVER, true)
    if (this.#session === UNKNOWN || index !== this.#index) {
      const found = sessions.find(index)
      if (found < 0) {
        this.counts.unknownSession++
        return
      }
      if (this.#session === UNKNOWN || sessions.peer[found] !== sessions.peer[this.#session])
        this.#slot = PENDING
      this.#session = found
      this.#index = index
    }
    const session = this.#session
    const low = view.getUint32(at + COUNTER, true)
    const high = view.getUint32(at + COUNTER + 4, true)
    const counter = high === 0 ? low : high * 4294967296 + low
    if (high > 0x1fffff || !sessions.mayReceive(session, low, counter)) {
      this.counts.replayed++
      if (multipath && high <= 0x1fffff) this.#copy(i, at, size, session, socket, counter, low, high, now)
      return
    }
    const length = size - HEADER - TAG
    const context = this.#sender.context(session, multipath ? AES_OPEN : CHACHA_OPEN)
    if (!this.#aead.open(context, low, high, at + HEADER, length)) {
      this.counts.forged++
      return
    }
    const peer = sessions.peer[session]!
    const highest = sessions.highest[session]!
    const order = sessions.order[session]!
    const newest =
      order > this.#peers.newest[peer]! || (order === this.#peers.newest[peer] && counter > highest)
    if (newest) this.#peers.newest[peer] = order
    sessions.received(session, low, counter)
    this.#peers.mark(peer, RECEIVED_ANY)
    if (this.#peers.greeted[peer] === session) this.#peers.heardAt[peer] = now
    if (highest < 0) {
      const local = this.#index
      this.#machine().handleFirstReceive(peer, local, now)
      if (sessions.find(local) !== session) return
    }
    this.#opened(i, at, length, multipath, peer, socket, counter, newest, now)
  }

  /**
   * The second copy of a datagram that was sent on several paths (path id 0): dropped, but the path has carried it, and is
   * to be measured by it. It counts once, and only if it is genuine.
   */
  #copy(
    i: number,
    at: number,
    size: number,
    session: number,
    socket: number,
    counter: number,
    low: number,
    high: number,
    now: number,
  ): void {
    const peer = this.#sessions.peer[session]!
    if (this.#slot === PENDING)
      this.#slot = this.#paths.find(peer, socket, this.#u32, this.#batch.name[i]! >>> 2)
    const slot = this.#slot
    const length = size - HEADER - TAG
    const order = this.#sessions.order[session]!
    if (slot < 0 || !this.#paths.mayCount(slot, order, counter) || length < INNER_HEADER) return
    const context = this.#sender.context(session, AES_OPEN)
    if (!this.#aead.open(context, low, high, at + HEADER, length) || this.#u8[at + HEADER + 1] !== 0) return
    this.counts.copies++
    this.#countReceived(slot, size, counter, now)
    if ((this.#u8[at + HEADER]! & FLAG_ORDERED) !== 0) this.#reorder?.brought(slot, order, counter)
    this.#peers.mark(peer, RECEIVED_ANY)
  }

  #opened(
    i: number,
    at: number,
    length: number,
    multipath: boolean,
    peer: number,
    socket: number,
    counter: number,
    newest: boolean,
    now: number,
  ): void {
    const u8 = this.#u8
    let body = at + HEADER
    let left = length
    let flags = 0
    let pathId = 0
    // The inner header is there in message 32, and in front of a control payload inside a stock message.
    if (multipath || (left >= INNER_HEADER && u8[body]! >> 4 === 0)) {
      if (left < INNER_HEADER) {
        this.counts.malformed++
        return
      }
      flags = u8[body]!
      pathId = u8[body + 1]!
      body += INNER_HEADER
      left -= INNER_HEADER
    }
    const control = (flags & FLAG_CONTROL) !== 0
    const slot = this.#path(i, peer, pathId, socket, length + HEADER + TAG, newest, control, now)
    // The bytes that a path counts came from its remote.
    if (slot >= 0) this.#countReceived(slot, this.#slot === slot ? length + HEADER + TAG : 0, counter, now)
    const reorder = this.#reorder
    const noting = reorder !== undefined && reorder.active !== 0
    const session = this.#sessions.order[this.#session]!
    if (control) {
      this.counts.control++
      if (noting) reorder.note(peer, session, counter, now)
      const from = this.#endpoint(i)
      const local = this.#index
      this.#machine().handleControl(
        peer,
        local,
        this.#slot,
        pathId,
        from,
        socket,
        counter,
        newest,
        length + HEADER + TAG + outerOverhead(from.address.length),
        u8.subarray(body, body + left),
        now,
      )
      // The machine may have changed paths and sessions.
      this.#slot = PENDING
      if (this.#sessions.find(local) < 0) this.#session = UNKNOWN
      return
    }
    if (left === 0) {
      if (noting) reorder.note(peer, session, counter, now)
      return
    }
    const order = this.#sessions.epoch[this.#session]! + counter
    const ordered = reorder !== undefined && (flags & FLAG_ORDERED) !== 0
    const ecn = this.#batch.trafficClass[i]!
    this.#data(body, left, (flags & FLAG_PARTIAL) !== 0, ordered, peer, slot, order, counter, ecn, now)
    // After the packet itself: those that its counter held up come behind it.
    if (noting && !ordered) reorder.note(peer, session, counter, now)
  }

  /**
   * The path that a datagram counts for: the one of its source, else the one that it names. Sets `#slot` to the former. Of
   * several with this source, which both ends may have opened, it is the one that it names.
   */
  #path(
    i: number,
    peer: number,
    pathId: number,
    socket: number,
    size: number,
    newest: boolean,
    control: boolean,
    now: number,
  ): number {
    if (this.#slot >= 0) return this.#twin(i, peer, pathId, socket)
    const batch = this.#batch
    if (this.#slot === PENDING) {
      this.#slot = this.#paths.find(peer, socket, this.#u32, batch.name[i]! >>> 2)
      if (this.#slot >= 0) this.#twin(i, peer, pathId, socket)
      if (this.#slot >= 0 && newest && batch.local[i] !== 0) this.#rememberLocal(this.#slot, batch.local[i]!)
    }
    if (this.#slot < 0 && newest && !control) {
      const from = this.#endpoint(i)
      const bytes = size + outerOverhead(from.address.length)
      const slot = this.#machine().handleRoaming(peer, pathId, from, socket, bytes, now)
      this.#slot =
        slot >= 0 && this.#paths.find(peer, socket, this.#u32, batch.name[i]! >>> 2) === slot ? slot : UNKNOWN
      if (slot >= 0) return slot
    }
    if (this.#slot < 0) return pathId === 0 ? UNKNOWN : this.#paths.named(peer, pathId)
    return this.#slot
  }

  /** `#slot`, which becomes the path that the datagram names if that has the same source. */
  #twin(i: number, peer: number, pathId: number, socket: number): number {
    const paths = this.#paths
    if (pathId !== 0 && paths.pathId[this.#slot] !== pathId) {
      const named = paths.named(peer, pathId)
      if (named >= 0 && paths.matches(named, peer, socket, this.#u32, this.#batch.name[i]! >>> 2))
        this.#slot = named
    }
    return this.#slot
  }

  /** A multihomed socket answers from the address that was reached. */
  #rememberLocal(slot: number, local: number): void {
    const paths = this.#paths
    paths.hasLocal[slot] = 1
    for (let k = 0; k < 4; k++) paths.local[slot * 4 + k] = this.#u32[(local >>> 2) + k]!
  }

  #countReceived(slot: number, bytes: number, counter: number, now: number): void {
    const paths = this.#paths
    paths.receivedBytes[slot] = paths.receivedBytes[slot]! + bytes
    paths.receivedPackets[slot] = paths.receivedPackets[slot]! + 1
    paths.lastReceivedAt[slot] = now
    paths.brought(slot, this.#sessions.order[this.#session]!, counter)
  }

  #data(
    packet: number,
    available: number,
    partial: boolean,
    ordered: boolean,
    peer: number,
    slot: number,
    order: number,
    counter: number,
    ecn: number,
    now: number,
  ): void {
    const view = this.#view
    const length = ipLength(view, packet, available)
    if (length === 0) {
      this.counts.malformed++
      return
    }
    this.#peers.mark(peer, RECEIVED_DATA)
    this.#peers.receivedData[peer] = this.#peers.receivedData[peer]! + 1
    if (!this.#forwarder.inbound(this.#u8, view, packet, length, partial, peer, slot, order, now)) {
      this.counts.refused++
      return
    }
    if (!decapsulateEcn(view, packet, ecn)) {
      this.counts.congested++
      return
    }
    if (slot >= 0) this.#clamp(packet, length, partial, slot)
    const { heldPeers } = this.#forwarder
    if (heldPeers !== undefined && heldPeers.size > 0 && heldPeers.has(peer)) {
      this.#u8[packet - VNET_HEADER] = partial ? 1 : 0
      this.#held.put(packet - VNET_HEADER, VNET_HEADER + length, now, peer)
    } else if (!ordered) this.#merger.add(packet, length, partial)
    else {
      const index = this.#session
      const session = this.#sessions.order[index]!
      const reorder = this.#reorder!
      if (!reorder.keeps(peer)) {
        const arrived = (each: number) => !this.#sessions.mayReceive(index, each >>> 0, each)
        reorder.open(peer, session, slot, counter, now, arrived)
      }
      reorder.take(peer, session, slot, counter, packet, length, partial, now)
    }
  }

  #clamp(packet: number, length: number, partial: boolean, slot: number): void {
    const view = this.#view
    if (plainTransport(view, packet, length) !== Protocol.TCP) return
    const ip = ipHeaderLength(view, packet)
    clampMss(view, packet + ip, length - ip, this.#paths.innerMtu[slot]! - ip - TCP.MIN_HEADER, partial)
  }
}
