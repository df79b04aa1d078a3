/**
 * The forwarder of a mobile host, called by the datapath for every (super-)packet: the PAFT says which tunnel, the
 * internal NAT (UP-21) gives the packet the VIpA of that tunnel's anchor, and the other way round on arrival.
 *
 * A flow without row takes the default tunnel at once, gets a row, and is reported through `takeNewFlows` so that the
 * owner can find its application and bind it; nothing waits for that. Reports are bounded: a row whose report found no
 * room is reported by a later packet.
 *
 * Costs about 100 ns a packet each way (bench `paft`), no allocation.
 */
import { type Forwarder, Verdict } from '../../tunnel/seam.ts'
import { FlowKey, type FlowTuple } from '../tables/flow-key.ts'
import type { Paft } from '../tables/paft.ts'
import { NOWHERE, type TunnelTable } from '../tables/tunnels.ts'
import { Rewrite, rewrite4, rewrite6 } from './nat.ts'

/** Group of rows whose application is not known yet; those of the owner's policies begin after it. */
export const REPORTED = 1
export const MOST_POLICIES = 4096
const TCP = 6
const TCP_FLAGS = 13
/** FIN, SYN, RST. */
const ENDS = 7
const MOST_REPORTS = 512

export interface HostForwarderInit {
  readonly paft: Paft
  readonly tunnels: TunnelTable
  /** VIpA_fix, one of each family. */
  readonly fix4: Uint8Array
  readonly fix6: Uint8Array
  /** Eight unpredictable bytes. */
  readonly secret: Uint8Array
}

/** Watches the downlink of one flow through a handover: last packet on the old path, first on the new. */
interface Watch {
  readonly low: number
  readonly high: number
  readonly everything: boolean
  readonly peer: number
  readonly to: number
  lastOther: number
  first: number
}

export class HostForwarder implements Forwarder {
  readonly #paft: Paft
  readonly #tunnels: TunnelTable
  readonly #fix4: Uint8Array
  readonly #fix6: Uint8Array
  readonly #f4: number
  readonly #f6: Int32Array
  readonly #key: FlowKey
  /** By peer: VIpA_fix → VIpA and back; undefined until associated. */
  readonly #out4: (Rewrite | undefined)[] = []
  readonly #out6: (Rewrite | undefined)[] = []
  readonly #in4: (Rewrite | undefined)[] = []
  readonly #in6: (Rewrite | undefined)[] = []
  readonly #reports: string[] = []
  readonly #watches: Watch[] = []
  #lastArrival = new Float64Array(64)
  /** Group of the PAFT → its tunnel. */
  readonly #tunnelOf = new Int32Array(MOST_POLICIES).fill(NOWHERE)
  /** Packets that were no flow of this host: other sources, no IP. */
  dropped = 0
  /** Arrived for an address that is not this association's VIpA. */
  misaddressed = 0

  constructor(init: HostForwarderInit) {
    this.#paft = init.paft
    this.#tunnels = init.tunnels
    this.#fix4 = init.fix4
    this.#fix6 = init.fix6
    this.#f4 = new DataView(init.fix4.buffer, init.fix4.byteOffset).getInt32(0)
    const six = new DataView(init.fix6.buffer, init.fix6.byteOffset)
    this.#f6 = Int32Array.from([0, 4, 8, 12], (at) => six.getInt32(at))
    this.#key = new FlowKey(init.secret)
  }

  /** The VIpA that `peer` has assigned; undefined for a family it gives none of. */
  associate(peer: number, v4: Uint8Array | undefined, v6: Uint8Array | undefined): void {
    this.#out4[peer] = v4 && new Rewrite(this.#fix4, v4)
    this.#in4[peer] = v4 && new Rewrite(v4, this.#fix4)
    this.#out6[peer] = v6 && new Rewrite(this.#fix6, v6)
    this.#in6[peer] = v6 && new Rewrite(v6, this.#fix6)
  }

  /** The flows of a group take this tunnel from now on. */
  bind(group: number, tid: number): void {
    this.#tunnelOf[group] = tid
  }

  /** Unidentified flows take this tunnel, as do those of groups from `end` on, which no longer exist. */
  bindOthers(tid: number, end: number): void {
    this.defaultTid = tid
    this.#tunnelOf.fill(tid, end)
  }

  /** The tunnel of flows that are not identified. */
  get defaultTid(): number {
    return this.#tunnelOf[REPORTED]!
  }

  set defaultTid(tid: number) {
    this.#tunnelOf[REPORTED] = tid
  }

  /** The tunnel of a row's group. */
  tidOf(row: number): number {
    return this.#tunnelOf[this.#paft.groupAt(row)]!
  }

  outbound(
    _bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    partialChecksum: boolean,
    now: number,
  ): number {
    const key = this.#key
    if (!key.read(view, at, length, true) || !this.#fromHost(key)) {
      this.dropped++
      return Verdict.DROP
    }
    key.hash()
    const paft = this.#paft
    // Reads one cache line. A new flow whose fingerprint collides with another shares that flow's tunnel.
    let row = paft.findLikely(key)
    if (row < 0) row = paft.insert(key, REPORTED, 0, now)
    else paft.touch(row, now)
    if (paft.counting) paft.count(row, 0, length)
    if (key.protocol === TCP) this.#noteFlags(view, at, length, row, true)
    if (!paft.isOwned(row)) this.#report(row)
    const tid = this.#tunnelOf[paft.groupAt(row)]!
    const slot = this.#tunnels.slotOf[tid]!
    if (slot < 0) return slot
    const peer = this.#tunnels.peerOf[tid]!
    if (key.version === 4) {
      const rewrite = this.#out4[peer]
      if (rewrite === undefined) return Verdict.PARK
      rewrite4(view, at, length, rewrite, true, key.protocol, key.transport, partialChecksum)
    } else {
      const rewrite = this.#out6[peer]
      if (rewrite === undefined) return Verdict.PARK
      rewrite6(view, at, length, rewrite, true, key.protocol, key.transport, partialChecksum)
    }
    return slot
  }

  inbound(
    _bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    partialChecksum: boolean,
    peer: number,
    slot: number,
    _counter: number,
    now: number,
  ): boolean {
    const key = this.#key
    if (!key.read(view, at, length, false)) {
      this.dropped++
      return false
    }
    if (key.version === 4) {
      const rewrite = this.#in4[peer]
      if (rewrite === undefined || rewrite.f0 !== key.l0) {
        this.misaddressed++
        return false
      }
      rewrite4(view, at, length, rewrite, false, key.protocol, key.transport, partialChecksum)
      key.l0 = this.#f4
    } else {
      const rewrite = this.#in6[peer]
      if (
        rewrite === undefined ||
        rewrite.f0 !== key.l0 ||
        rewrite.f1 !== key.l1 ||
        rewrite.f2 !== key.l2 ||
        rewrite.f3 !== key.l3
      ) {
        this.misaddressed++
        return false
      }
      rewrite6(view, at, length, rewrite, false, key.protocol, key.transport, partialChecksum)
      key.l0 = rewrite.t0
      key.l1 = rewrite.t1
      key.l2 = rewrite.t2
      key.l3 = rewrite.t3
    }
    key.hash()
    const row = this.#paft.findLikely(key)
    if (row >= 0) {
      this.#paft.touch(row, now)
      if (this.#paft.counting) this.#paft.count(row, 1, length)
      if (key.protocol === TCP) this.#noteFlags(view, at, length, row, false)
    }
    if (slot >= 0) {
      if (this.#watches.length > 0) this.#observe(key, peer, slot, now)
      if (slot >= this.#lastArrival.length) this.#growArrivals(slot)
      this.#lastArrival[slot] = now
    }
    return true
  }

  /** The row of a flow, or -1. */
  rowOf(flow: FlowTuple): number {
    this.#key.set(flow)
    this.#key.hash()
    return this.#paft.find(this.#key)
  }

  /** Ids of rows to identify since the last call; each row until it has an owner. */
  takeNewFlows(): string[] {
    return this.#reports.length === 0 ? [] : this.#reports.splice(0)
  }

  get hasNewFlows(): boolean {
    return this.#reports.length > 0
  }

  /**
   * Watches for the first packet that arrives from `peer` on slot `to` after a move away from slot `from`; of the flow of
   * row `row`, or of any if it is -1. `gap` tells the outcome.
   */
  watch(row: number, peer: number, from: number, to: number): object {
    const key = row < 0 ? undefined : keyOf(this.#key, this.#paft, row)
    const watch: Watch = {
      low: key?.low ?? 0,
      high: key?.high ?? 0,
      everything: key === undefined,
      peer,
      to,
      lastOther: from >= 0 ? (this.#lastArrival[from] ?? 0) : 0,
      first: 0,
    }
    this.#watches.push(watch)
    return watch
  }

  /** Milliseconds from the last packet elsewhere to the first on the new path; undefined until there was one. */
  gap(watch: object): number | undefined {
    const { first, lastOther } = watch as Watch
    return first > 0 && lastOther > 0 ? Math.max(0, first - lastOther) : undefined
  }

  unwatch(watch: object): void {
    const at = this.#watches.indexOf(watch as Watch)
    if (at >= 0) this.#watches.splice(at, 1)
  }

  #noteFlags(view: DataView, at: number, length: number, row: number, local: boolean): void {
    const { transport, fragment } = this.#key
    if (fragment || transport + TCP_FLAGS >= length) return
    const flags = view.getUint8(at + transport + TCP_FLAGS)
    if ((flags & ENDS) !== 0 && this.#paft.matches(row, this.#key)) this.#paft.noteFlags(row, flags, local)
  }

  #fromHost(key: FlowKey): boolean {
    if (key.version === 4) return key.l0 === this.#f4
    const f6 = this.#f6
    return key.l0 === f6[0] && key.l1 === f6[1] && key.l2 === f6[2] && key.l3 === f6[3]
  }

  #report(row: number): void {
    if (this.#reports.length >= MOST_REPORTS) return
    this.#paft.setOwner(row, REPORTED, 0)
    this.#reports.push(this.#paft.idAt(row))
  }

  #observe(key: FlowKey, peer: number, slot: number, now: number): void {
    for (const watch of this.#watches) {
      if (watch.peer !== peer || watch.first > 0) continue
      if (!watch.everything && (watch.low !== key.low || watch.high !== key.high)) continue
      if (slot === watch.to) watch.first = now
      else watch.lastOther = now
    }
  }

  #growArrivals(slot: number): void {
    const larger = new Float64Array(Math.max(slot + 1, this.#lastArrival.length * 2))
    larger.set(this.#lastArrival)
    this.#lastArrival = larger
  }
}

function keyOf(key: FlowKey, paft: Paft, row: number): { low: number; high: number } {
  key.set(paft.tupleAt(row))
  key.hash()
  return { low: key.low, high: key.high }
}
