/**
 * The forwarder of an anchor. Downlink: the inner destination is a VIpA and names the host (UP-11); the PAFT says by which
 * of its tunnels the flow goes, the host's default tunnel takes the rest. Uplink: the inner source must be the VIpA of the
 * peer that sealed the packet, or in its allowed IPs (E-3 (2)); where the packet came from is learned (UP-29, UP-30), only
 * among tunnels of the same peer and only from newer packets (E-3 (3), (4)).
 *
 * Costs about 100 ns a packet each way (bench `paft`), no allocation.
 */
import { LpmTable, type Prefix } from '../../core/address.ts'
import { quotedDestination } from '../../core/icmp.ts'
import { type Forwarder, Verdict } from '../../tunnel/seam.ts'
import { FlowKey, type FlowTuple } from '../tables/flow-key.ts'
import type { Groups } from '../tables/groups.ts'
import { newer, orderLike, orderOf, orderWithin, refreshed } from '../tables/order.ts'
import type { IdleTimes, Paft } from '../tables/paft.ts'
import { type TunnelTable, tidOf } from '../tables/tunnels.ts'

const NOBODY = -1
/** Max rows of one host; beyond, new rows replace the host's own. */
const MOST_ROWS_OF_HOST = 1 << 17
/** TCP: FIN, SYN, RST, and where the flags stand. */
const TCP = 6
const ENDS = 7
const TCP_FLAGS = 13
/** Group of a host's flows that it has not named (docs/wire/anchoring.md). */
const UNNAMED = 0

export interface AnchorForwarderInit {
  readonly paft: Paft
  readonly tunnels: TunnelTable
  readonly groups: Groups
  /** Max rows of one host; default 131,072. */
  readonly rowsOfHost?: number
  /** Network address of the IPv4 pool, as a number, and how many numbers it has (pool.ts). */
  readonly v4Base: number
  readonly numbers: number
  /** The IPv6 pool: its first twelve bytes; the number stands in the last four. */
  readonly v6Prefix: Uint8Array
  readonly secret: Uint8Array
}

export class AnchorForwarder implements Forwarder {
  readonly #paft: Paft
  readonly #tunnels: TunnelTable
  readonly #groups: Groups
  readonly #rowsOfHost: number
  readonly #base: number
  readonly #p0: number
  readonly #p1: number
  readonly #p2: number
  readonly #key: FlowKey
  /** VIpA number → peer. */
  readonly #peerOf: Int32Array
  /** Peer → its VIpA number, 0 for none. */
  #numberOf = new Int32Array(64)
  /** Peer → local_tid for its flows without a row, 0 for none. */
  #defaultTid = new Int32Array(64)
  /** Peer → newest order seen. */
  #newest = new Int32Array(64)
  /** Peer → 1: neither sends nor gets data. */
  #held = new Uint8Array(64)
  readonly #allowed = new LpmTable<number>()
  /** Packets whose inner source did not belong to the peer that sent them. */
  spoofed = 0
  /** Packets from the TUN whose destination is no host. */
  unroutable = 0
  /** Packets from or to hosts that have not replaced their invitation's key. */
  held = 0
  /** Implicit handovers learned. */
  learned = 0

  constructor(init: AnchorForwarderInit) {
    this.#paft = init.paft
    this.#tunnels = init.tunnels
    this.#groups = init.groups
    this.#rowsOfHost = init.rowsOfHost ?? MOST_ROWS_OF_HOST
    this.#base = init.v4Base
    this.#peerOf = new Int32Array(init.numbers).fill(NOBODY)
    const six = new DataView(init.v6Prefix.buffer, init.v6Prefix.byteOffset, 12)
    this.#p0 = six.getInt32(0)
    this.#p1 = six.getInt32(4)
    this.#p2 = six.getInt32(8)
    this.#key = new FlowKey(init.secret)
  }

  /** `peer` owns the VIpA with this number, and the prefixes of `allowed` beside it. */
  assign(peer: number, number: number, allowed: readonly Prefix[] = []): void {
    this.#room(peer)
    this.#newest[peer] = 0
    this.#defaultTid[peer] = 0
    this.#numberOf[peer] = number
    if (number > 0) this.#peerOf[number] = peer
    for (const prefix of allowed) this.#allowed.insert(prefix, peer)
  }

  /** Whether all packets of a peer are blocked, in both directions. */
  hold(peer: number, held: boolean): void {
    this.#room(peer)
    this.#held[peer] = held ? 1 : 0
  }

  /** Takes everything from a peer. */
  revoke(peer: number): void {
    const number = this.#numberOf[peer] ?? 0
    if (number > 0 && this.#peerOf[number] === peer) this.#peerOf[number] = NOBODY
    this.#room(peer)
    this.#numberOf[peer] = 0
    this.#defaultTid[peer] = 0
    this.#allowed.removeValue(peer)
  }

  /** The tunnel for a peer's new flows. */
  defaultTid(peer: number): number {
    return this.#defaultTid[peer] ?? 0
  }

  setDefaultTid(peer: number, tid: number): void {
    this.#room(peer)
    this.#defaultTid[peer] = tid
  }

  outbound(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    _partialChecksum: boolean,
    now: number,
  ): number {
    const key = this.#key
    if (!key.read(view, at, length, false)) return Verdict.DROP
    const peer = this.#owner(bytes, at + (key.version === 4 ? 16 : 24))
    if (peer === NOBODY) {
      this.unroutable++
      return Verdict.DROP
    }
    if (this.#held[peer] === 1) {
      this.held++
      return Verdict.DROP
    }
    key.hash()
    const row = this.#paft.findLikely(key)
    if (row >= 0) {
      const group = this.#paft.groupAt(row)
      if (this.#paft.counting) this.#paft.count(row, 1, length)
      if (key.protocol === TCP) this.#noteFlags(view, at, length, row, false)
      if (this.#groups.peerOf[group] === peer) {
        const slot = this.#tunnels.slotOf[this.#groups.tunnelOf[group]!]!
        if (slot >= 0) {
          this.#paft.touch(row, now)
          return slot
        }
      }
    }
    return this.#tunnels.slotOf[this.#defaultTid[peer]!] ?? Verdict.PARK
  }

  inbound(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    _partialChecksum: boolean,
    peer: number,
    slot: number,
    counter: number,
    now: number,
  ): boolean {
    const key = this.#key
    if (!key.read(view, at, length, true) || this.#owner(bytes, at + (key.version === 4 ? 12 : 8)) !== peer) {
      this.spoofed++
      return false
    }
    if (this.#held[peer] === 1) {
      this.held++
      return false
    }
    // What it reports has to have been sent to this host: it has no say about the flows of others.
    const quoted = quotedDestination(view, at, length, key.protocol, key.transport)
    if (quoted !== 0 && (quoted < 0 || this.#ownerAt(bytes, view, at + quoted) !== peer)) {
      this.spoofed++
      return false
    }
    const tid = tidOf(slot)
    // A path that is not usable, or not proven yet, is no way back.
    if (tid === 0 || this.#tunnels.slotOf[tid] !== slot) return true
    const order = orderOf(counter)
    if (newer(order, this.#newest[peer]!) || this.#defaultTid[peer] === 0) {
      this.#newest[peer] = order
      this.#defaultTid[peer] = tid
    }
    key.hash()
    const paft = this.#paft
    const row = paft.findLikely(key)
    if (row < 0) this.#insert(peer, UNNAMED, tid, order, now)
    else {
      if (paft.counting) paft.count(row, 0, length)
      if (key.protocol === TCP) this.#noteFlags(view, at, length, row, true)
      const group = paft.groupAt(row)
      if (this.#groups.tunnelOf[group] === tid && this.#groups.peerOf[group] === peer) paft.touch(row, now)
      else this.#learn(row, tid, order, peer, now)
    }
    return true
  }

  #noteFlags(view: DataView, at: number, length: number, row: number, local: boolean): void {
    const { transport, fragment } = this.#key
    if (fragment || transport + TCP_FLAGS >= length) return
    const flags = view.getUint8(at + transport + TCP_FLAGS)
    if ((flags & ENDS) !== 0 && this.#paft.matches(row, this.#key)) this.#paft.noteFlags(row, flags, local)
  }

  /** The row has another tunnel: checks that the row is the flow's, then learns. */
  #learn(likely: number, tid: number, order: number, peer: number, now: number): void {
    const paft = this.#paft
    const groups = this.#groups
    const row = paft.matches(likely, this.#key) ? likely : paft.find(this.#key)
    if (row < 0) {
      this.#insert(peer, UNNAMED, tid, order, now)
      return
    }
    const group = paft.groupAt(row)
    if (groups.peerOf[group] !== peer) {
      // Left over from an earlier owner of the VIpA.
      this.#put(row, groups.home(peer, UNNAMED, tid), order, now)
      return
    }
    if (groups.tunnelOf[group] === tid) {
      paft.touch(row, now)
      return
    }
    if (!newer(order, paft.orderAt(row)) || !newer(order, groups.order(group)) || paft.isStatic(row)) return
    this.#put(row, groups.home(peer, groups.number(group), tid), order, now)
    this.learned++
  }

  /** A row for the key at hand. A host that has all the rows it may have loses its own; a full table the fullest host. */
  #insert(peer: number, number: number, tid: number, order: number, now: number): void {
    const paft = this.#paft
    const groups = this.#groups
    if (groups.rowsOf(peer) >= this.#rowsOfHost) {
      // Flows without a row take the default tunnel.
      if (!paft.evict(now, (group) => groups.peerOf[group] === peer)) return
    } else if (paft.full) paft.evict(now, undefined, (group) => groups.rowsOf(groups.peerOf[group]!))
    paft.insert(this.#key, groups.home(peer, number, tid), order, now)
  }

  #put(row: number, group: number, order: number, now: number): void {
    this.#paft.setGroup(row, group)
    this.#paft.setOrder(row, order)
    this.#paft.touch(row, now)
  }

  /**
   * Explicit handover (UP-31, D12): the flows in the host's group `number` (or all of its flows) take `tid` from now on,
   * and the listed flows are put into that group. Ordered by the counter of the request, so that packets in flight on the
   * old tunnel do not move flows back and an overtaken request moves nothing. Flows whose local address is not the peer's
   * are ignored. Static rows move too. Returns the number of rows that now use `tid`.
   */
  bind(
    peer: number,
    tid: number,
    number: number | 'all',
    flows: readonly FlowTuple[],
    counter: number,
    now: number,
  ): number {
    const late = orderLike(this.#newest[peer] ?? 0, counter)
    const before = this.#groups.orderOf(peer, number === 'all' ? UNNAMED : number)
    if (before !== undefined && newer(before, late)) return 0
    const order = this.#advance(peer, counter)
    const paft = this.#paft
    for (const flow of flows) {
      this.#key.set(flow)
      if (this.#owner(flow.local, 0) !== peer) {
        this.spoofed++
        continue
      }
      this.#key.hash()
      const name = number === 'all' ? UNNAMED : number
      const row = paft.find(this.#key)
      if (row < 0) this.#insert(peer, name, tid, order, now)
      else this.#put(row, this.#groups.home(peer, name, tid), order, now)
    }
    if (flows.length === 0 && (number === 'all' || number === UNNAMED)) this.setDefaultTid(peer, tid)
    return this.#groups.move(peer, number, tid, order)
  }

  /** A frame with this counter has arrived. */
  #advance(peer: number, counter: number): number {
    this.#room(peer)
    const order = orderWithin(this.#newest[peer]!, counter)
    this.#newest[peer] = order
    return order
  }

  setStatic(peer: number, value: boolean, flows: readonly FlowTuple[]): number {
    let count = 0
    for (const flow of flows) {
      this.#key.set(flow)
      if (this.#owner(flow.local, 0) !== peer) continue
      this.#key.hash()
      const row = this.#paft.find(this.#key)
      if (row < 0) continue
      this.#paft.setStatic(row, value)
      count++
    }
    return count
  }

  /** A part of the periodic sweep; true at the end of the table. Brings up orders too old to compare. */
  sweep(slots: number, idle: IdleTimes, now: number): boolean {
    const groups = this.#groups
    const end = this.#paft.sweep(slots, idle, now, (row) => {
      const group = this.#paft.groupAt(row)
      const peer = groups.peerOf[group]!
      if (peer === NOBODY) return true
      const order = this.#paft.orderAt(row)
      this.#paft.setOrder(
        row,
        refreshed(newer(groups.order(group), order) ? groups.order(group) : order, this.#newest[peer]!),
      )
      this.#paft.setGroup(row, groups.sameAs(group))
      return false
    })
    if (end) groups.collect()
    return end
  }

  /** The peer that owns the address at `place`, of the family of the key read last, or -1. */
  #ownerAt(bytes: Uint8Array, view: DataView, place: number): number {
    if (this.#key.version === 4) return this.#ownerOf(view.getInt32(place), 0, 0, 0, bytes, place)
    const [a, b, c] = [view.getInt32(place), view.getInt32(place + 4), view.getInt32(place + 8)]
    return this.#ownerOf(a, b, c, view.getInt32(place + 12), bytes, place)
  }

  /** The peer that owns the local address of the key read last, or -1; the same address is at `bytes[place]`. */
  #owner(bytes: Uint8Array, place: number): number {
    const { l0, l1, l2, l3 } = this.#key
    return this.#ownerOf(l0, l1, l2, l3, bytes, place)
  }

  #ownerOf(a: number, b: number, c: number, d: number, bytes: Uint8Array, place: number): number {
    const six = this.#key.version === 6
    let number = 0
    if (!six) number = (a >>> 0) - this.#base
    else if (a === this.#p0 && b === this.#p1 && c === this.#p2) number = d >>> 0
    if (number > 0 && number < this.#peerOf.length) {
      const peer = this.#peerOf[number]!
      if (peer !== NOBODY) return peer
    }
    return this.#allowed.size === 0 ? NOBODY : (this.#allowed.lookup(bytes, place, six ? 6 : 4) ?? NOBODY)
  }

  #room(peer: number): void {
    if (peer < this.#numberOf.length) return
    const length = Math.max(peer + 1, this.#numberOf.length * 2)
    this.#numberOf = larger(this.#numberOf, length)
    this.#defaultTid = larger(this.#defaultTid, length)
    this.#newest = larger(this.#newest, length)
    const held = new Uint8Array(length)
    held.set(this.#held)
    this.#held = held
  }
}

function larger(array: Int32Array, length: number): Int32Array<ArrayBuffer> {
  const out = new Int32Array(length)
  out.set(array)
  return out
}
