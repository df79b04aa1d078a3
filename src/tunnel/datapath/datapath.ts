/**
 * The datapath of one tunnel device: tables, sealing, opening, and what the machine may ask of them (seam.ts). One
 * thread, no I/O of its own beyond the TUN and the sockets it is given. The engine calls `outbound`, `receive` and
 * `finishBatch`; the machine calls the seam at any time in between.
 */
import { ENODEV } from '../../core/errno.ts'
import { type Aead, loadAead } from '../../crypto/openssl.ts'
import type { Arena } from '../../linux/arena.ts'
import { NAME_SIZE, writeAddress16, writeName } from '../../linux/sockaddr.ts'
import { type Tun, VNET_HEADER } from '../../linux/tun.ts'
import { ReceiveBatch, type UdpSocket } from '../../linux/udp.ts'
import {
  COUNTER,
  FLAG_CONTROL,
  HEADER,
  INNER_HEADER,
  outerOverhead,
  RECEIVER,
  TAG,
} from '../protocol/wire.ts'
import type {
  Endpoint,
  Forwarder,
  Machine,
  MachineSeam,
  PathCounters,
  Paths,
  SessionKeys,
  Sessions,
  Transmit,
  TransportForm,
} from '../seam.ts'
import { Inbound } from './inbound.ts'
import { Merger } from './merge.ts'
import { Outbound } from './outbound.ts'
import { Parking } from './parking.ts'
import { Reorder } from './reorder.ts'
import { ResendRing } from './ring.ts'
import { Sender } from './sender.ts'
import {
  EPOCH,
  EPOCHS,
  PathTable,
  PeerTable,
  RECEIVED_ANY,
  RECEIVED_DATA,
  SENT_DATA,
  SessionTable,
} from './tables.ts'

/** Messages of one recvmmsg: enough for bursts of small datagrams, few enough that the buffers stay in the L2 cache. */
const RECEIVE_MESSAGES = 4
/** What was sent longer ago to a process that has ended is not sent again (ms): its sender has done so, or has given up. */
const UNREAD_MS = 5_000
/** Packets of peers that are held. */
const HELD_PLACES = 64
/** On a path that things waited for, what was sent in these last milliseconds before it died is sent again in any case. */
const MIXED_MS = 600

export interface DatapathOptions {
  readonly arena: Arena
  readonly tun: Tun
  readonly machine: (seam: MachineSeam) => Machine
  readonly forwarder: Forwarder
  /** 32 random bits. */
  readonly random: () => number
  /** Bytes of the resend ring: 4 MB on a host, 16 MB on an anchor. */
  readonly ringBytes: number
  readonly aead?: Aead
  /** Max packets held while order is restored; 0 or absent: none, packets are delivered as they arrive. */
  readonly reorderPackets?: number
}

export class Datapath implements Sessions, Paths, Transmit {
  readonly aead: Aead
  readonly machine: Machine
  readonly outbound: Outbound
  readonly inbound: Inbound
  readonly merger: Merger
  readonly sender: Sender
  readonly parking: Parking
  /** Copies of what was sent to peers that were silent for a while. */
  readonly #unread: Parking
  /** Packets from peers whose packets the kernel cannot take yet. */
  readonly #held: Parking
  readonly reorder: Reorder | undefined
  readonly peers = new PeerTable()
  readonly paths = new PathTable()
  readonly sessions: SessionTable
  readonly sockets: (UdpSocket | undefined)[] = []
  /** Set when a path or session appeared: parked packets may find a way. */
  retryWanted = false
  readonly #arena: Arena
  readonly #ring: ResendRing
  readonly #scratch: number
  readonly #name: number
  #now = 0

  constructor(options: DatapathOptions) {
    const { arena, tun, forwarder } = options
    this.#arena = arena
    this.aead = options.aead ?? loadAead(arena)
    this.sessions = new SessionTable(options.random)
    this.#ring = new ResendRing(arena, options.ringBytes)
    this.parking = new Parking(arena)
    this.#unread = new Parking(arena)
    this.#held = new Parking(arena, HELD_PLACES)
    this.#scratch = arena.reserve(2048 + INNER_HEADER)
    this.#name = arena.reserve(NAME_SIZE + 16)
    const { aead, peers, paths, sessions, sockets, parking } = this
    const machine = () => this.machine
    const errors = {
      pathError: (slot: number, errno: number, now: number) => this.machine.pathError(slot, errno, now),
    }
    this.sender = new Sender({ arena, aead, ring: this.#ring, peers, paths, sessions, sockets, errors })
    const { sender } = this
    const unread = this.#unread
    this.outbound = new Outbound({ arena, tun, forwarder, machine, peers, paths, sender, parking, unread })
    this.merger = new Merger(arena, tun)
    const batch = new ReceiveBatch(arena, RECEIVE_MESSAGES)
    const { merger } = this
    if ((options.reorderPackets ?? 0) > 0)
      this.reorder = new Reorder({ arena, paths, merger, packets: options.reorderPackets! })
    const { reorder } = this
    this.inbound = new Inbound({
      arena,
      aead,
      forwarder,
      machine,
      peers,
      paths,
      sessions,
      sender,
      merger,
      batch,
      held: this.#held,
      ...(reorder && { reorder }),
    })
    this.machine = options.machine({ sessions: this, paths: this, transmit: this })
  }

  /** Bytes of arena that a datapath with such a ring needs, with room for eight sockets. */
  static arenaBytes(ringBytes: number, reorderPackets = 0): number {
    return ringBytes + (3 << 20) + reorderPackets * Reorder.PLACE
  }

  set now(now: number) {
    this.#now = now
    this.sender.now = now
  }

  /** Ends a batch: sends the open batch, reports moved remotes to the machine. */
  finishBatch(now: number): void {
    this.sender.flush()
    const { peers } = this
    for (let i = 0; i < peers.touchedCount; i++) {
      const peer = peers.touched[i]!
      const bits = peers.traffic[peer]!
      peers.traffic[peer] = 0
      this.machine.noteTraffic(
        peer,
        (bits & SENT_DATA) !== 0,
        (bits & RECEIVED_DATA) !== 0,
        (bits & RECEIVED_ANY) !== 0,
        now,
      )
    }
    peers.touchedCount = 0
  }

  /** Delivers held packets whose time has come. */
  releaseHeld(now: number): void {
    if (this.reorder === undefined || !(this.reorder.deadline <= now)) return
    this.reorder.release(now)
    this.inbound.flush()
  }

  /** Sends what waited for its path and may leave now. */
  sendDue(now: number): void {
    this.sender.pacer.release(now)
  }

  /** Sends what waits for path `from` on `to` at once, if `to` exists; the receiver restores the order. */
  redirect(from: number, to: number): void {
    this.sender.flush()
    this.sender.pacer.redirect(from, this.paths.isOpen(to) ? to : from)
  }

  // Sessions

  newIndex(): number {
    return this.sessions.newIndex()
  }

  install(keys: SessionKeys): void {
    const { peers, sessions } = this
    const before = sessions.find(keys.localIndex)
    if (before >= 0) this.#wipe(before)
    peers.ensure(keys.peer)
    peers.epoch[keys.peer] = (peers.epoch[keys.peer]! + 1) % EPOCHS
    sessions.epoch[sessions.install(keys)] = peers.epoch[keys.peer]! * EPOCH
  }

  useForSending(localIndex: number): void {
    const slot = this.sessions.find(localIndex)
    if (slot < 0) return
    this.sender.flush()
    this.peers.sending[this.sessions.peer[slot]!] = slot
    this.retryWanted = true
  }

  setForm(peer: number, form: TransportForm, ecn = false): void {
    this.sender.flush()
    this.peers.setForm(peer, form, ecn)
    for (let slot = this.paths.firstOf(peer); slot >= 0; slot = this.paths.next[slot]!)
      this.#setInnerMtu(slot)
  }

  heardIn(localIndex: number): void {
    const slot = this.sessions.find(localIndex)
    if (slot < 0) return
    const peer = this.sessions.peer[slot]!
    this.peers.greeted[peer] = slot
    this.peers.heardAt[peer] = this.#now
  }

  unread(peer: number, ms = 0): void {
    const heardAt = Math.min(this.peers.heardAt[peer] ?? 0, this.#now - ms)
    const after = Math.max(heardAt, this.#now - UNREAD_MS)
    this.#unread.move(peer, after, this.parking)
    this.retryWanted = true
  }

  /** Writes what has come from this peer while the forwarder held it. */
  admit(peer: number): void {
    const at = this.#scratch
    for (let bytes = this.#held.take(at, peer); bytes > 0; bytes = this.#held.take(at, peer)) {
      this.merger.add(at + VNET_HEADER, bytes - VNET_HEADER, this.#arena.u8[at] === 1)
      this.merger.flush()
    }
  }

  remove(localIndex: number): void {
    const slot = this.sessions.slotOf(localIndex)
    if (slot < 0) return
    this.#wipe(slot)
    this.sessions.remove(slot)
  }

  /** Nothing is sealed or opened with its keys any more. */
  #wipe(slot: number): void {
    this.sender.flush()
    const peer = this.sessions.peer[slot]!
    if (peer >= 0 && this.peers.greeted[peer] === slot) this.peers.greeted[peer] = -1
    if (peer >= 0 && this.peers.sending[peer] === slot) this.peers.sending[peer] = -1
    for (let use = 0; use < 4; use++) {
      const context = this.sessions.contexts[slot * 4 + use]!
      if (context !== 0) this.aead.freeContext(context)
    }
    const keys = this.sessions.keys[slot]
    if (keys !== undefined)
      for (const key of [keys.sendKey, keys.receiveKey, keys.sendKeyAes, keys.receiveKeyAes]) key.fill(0)
  }

  sent(localIndex: number): number {
    const slot = this.sessions.find(localIndex)
    return slot < 0 ? 0 : this.sessions.sendCounter[slot]!
  }

  // Paths

  open(path: { peer: number; pathId: number; socket: number; remote: Endpoint; mtu: number }): number {
    const { paths } = this
    this.peers.ensure(path.peer)
    const slot = paths.allocate()
    this.#ring.forget(slot)
    paths.peer[slot] = path.peer
    paths.pathId[slot] = path.pathId
    paths.socket[slot] = path.socket
    paths.mtu[slot] = path.mtu
    paths.mtuSearching[slot] = 0
    this.#writeRemote(slot, path.remote)
    paths.attach(slot)
    paths.link(slot)
    this.#setInnerMtu(slot)
    this.retryWanted = true
    return slot
  }

  setRemote(slot: number, remote: Endpoint): void {
    if (!this.paths.isOpen(slot)) return
    this.sender.flush()
    this.paths.unlink(slot)
    this.#writeRemote(slot, remote)
    this.paths.link(slot)
    this.#setInnerMtu(slot)
    this.retryWanted = true
  }

  setMtu(slot: number, mtu: number, searching: boolean): void {
    if (!this.paths.isOpen(slot)) return
    this.paths.mtu[slot] = mtu
    this.paths.mtuSearching[slot] = searching ? 1 : 0
    this.#setInnerMtu(slot)
  }

  close(slot: number): void {
    if (!this.paths.isOpen(slot)) return
    this.sender.flush()
    this.sender.pacer.drop(slot)
    this.paths.unlink(slot)
    this.paths.detach(slot)
    this.paths.vacate(slot)
  }

  release(slot: number): void {
    this.paths.release(slot)
  }

  counters(slot: number): PathCounters {
    const { paths } = this
    const session = this.peers.sending[paths.peer[slot]!]!
    const current = session >= 0 && paths.session[slot] === this.sessions.order[session]
    return {
      lastSentAt: paths.lastSentAt[slot]!,
      lastReceivedAt: paths.lastReceivedAt[slot]!,
      sentBytes: paths.sentBytes[slot]!,
      sentPackets: paths.sentPackets[slot]!,
      receivedBytes: paths.receivedBytes[slot]!,
      receivedPackets: paths.receivedPackets[slot]!,
      highestCounter: current ? paths.highestCounter[slot]! : -1,
    }
  }

  resend(from: number, to: number, afterCounter: number, withinMs: number): number {
    if (!this.paths.isOpen(to)) return 0
    this.sender.flush()
    this.sender.pacer.redirect(from, to)
    const { view } = this.#arena
    // What waited left after datagrams with higher counters, so the bound does not cover the last of it.
    const unbound = this.sender.pacer.mixed(from, this.#now - withinMs) ? this.#now - MIXED_MS : Infinity
    const session = this.peers.sending[this.paths.peer[to]!]!
    const remoteIndex = session < 0 ? 0 : this.sessions.remoteIndex[session]!
    // A counter above all that this session has sent speaks of the session before it: then nothing of this one arrived.
    const bound = session >= 0 && afterCounter < this.sessions.sendCounter[session]! ? afterCounter : -1
    let sent = 0
    this.#ring.move(from, to, this.#now - withinMs, this.#now, (at, bytes, segment, sentAt, trafficClass) => {
      const size = segment === 0 ? bytes : segment
      let skip = 0
      if (sentAt < unbound && view.getUint32(at + RECEIVER, true) === remoteIndex)
        while (skip < bytes && counterAt(view, at + skip) <= bound) skip += size
      const left = bytes - skip
      if (left <= 0) return false
      const count = Math.ceil(left / size)
      const cut = count > 1 ? size : 0
      if (!this.sender.transmit(to, at + skip, left, cut, count, true, trafficClass)) return false
      // The receiver drops what it already has without counting it; this must not look like loss on this path.
      this.paths.sentPackets[to] = this.paths.sentPackets[to]! - count
      sent += count
      return true
    })
    return sent
  }

  #writeRemote(slot: number, remote: Endpoint): void {
    const { u8, view, u32 } = this.#arena
    const socket = this.sockets[this.paths.socket[slot]!]
    const family = socket?.family ?? (remote.address.length === 4 ? 4 : 6)
    writeName(u8, view, this.#name, remote, family, socket?.nat64)
    for (let i = 0; i < 8; i++) this.paths.remote[slot * 8 + i] = u32[(this.#name >>> 2) + i]!
    this.paths.hasLocal[slot] = remote.local === undefined ? 0 : 1
    if (remote.local === undefined) return
    writeAddress16(u8, this.#name, remote.local)
    for (let i = 0; i < 4; i++) this.paths.local[slot * 4 + i] = u32[(this.#name >>> 2) + i]!
  }

  /** MTU of the inner packet: that of the outer one less overhead. */
  #setInnerMtu(slot: number): void {
    const { paths } = this
    const at = slot * 8
    const ipv4 =
      (paths.remote[at]! & 0xffff) === 2 ||
      (paths.remote[at + 2] === 0 && paths.remote[at + 3] === 0 && paths.remote[at + 4] === 0xffff0000)
    const outer = outerOverhead(ipv4 ? 4 : 16)
    const inner = this.peers.godwit[paths.peer[slot]!] === 1 ? INNER_HEADER : 0
    paths.innerMtu[slot] = Math.max(0, paths.mtu[slot]! - outer - HEADER - TAG - inner)
  }

  // Transmit

  handshake(bytes: Uint8Array, to: Endpoint, socket: number): number {
    const target = this.sockets[socket]
    if (target === undefined) return ENODEV
    const { u8, view } = this.#arena
    u8.set(bytes, this.#scratch)
    writeName(u8, view, this.#name, to, target.family, target.nat64)
    let local = 0
    if (to.local !== undefined) {
      local = this.#name + NAME_SIZE
      writeAddress16(u8, local, to.local)
    }
    const result = target.send(this.#name, local, this.#scratch, bytes.length, 0)
    return result < 0 ? -result : 0
  }

  control(slot: number, body: Uint8Array): number {
    if (!this.paths.isOpen(slot) || body.length > 2000) return -1
    const { u8 } = this.#arena
    const godwit = this.peers.godwit[this.paths.peer[slot]!] === 1
    if (body.length === 0 && !godwit) return this.sender.sealAlone(slot, this.#scratch, 0, 0)
    u8[this.#scratch] = body.length === 0 ? 0 : FLAG_CONTROL
    u8[this.#scratch + 1] = this.paths.pathId[slot]!
    u8.set(body, this.#scratch + INNER_HEADER)
    const length = INNER_HEADER + body.length
    return this.sender.sealAlone(slot, this.#scratch, length, godwit ? 0 : -length & 15)
  }

  controlTo(peer: number, pathId: number, to: Endpoint, socket: number, body: Uint8Array): boolean {
    if (body.length > 512) return false
    const { u8 } = this.#arena
    const length = INNER_HEADER + body.length
    u8[this.#scratch] = FLAG_CONTROL
    u8[this.#scratch + 1] = pathId
    u8.set(body, this.#scratch + INNER_HEADER)
    const sealed = this.#scratch + 1024
    const padding = this.peers.godwit[peer] === 1 ? 0 : -length & 15
    const size = this.sender.sealApart(peer, this.#scratch, length, padding, sealed)
    return size > 0 && this.handshake(u8.subarray(sealed, sealed + size), to, socket) === 0
  }
}

function counterAt(view: DataView, at: number): number {
  return view.getUint32(at + COUNTER + 4, true) * 4294967296 + view.getUint32(at + COUNTER, true)
}
