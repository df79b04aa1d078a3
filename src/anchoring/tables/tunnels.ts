/**
 * The Tunnel Table (UP-24): local_tid → local_tun, remote_tun, vip_nat, un_tid. A tunnel is one path of the multipath
 * tunnel: an access of the mobile host towards one anchor. `local_tid` names it in the PAFT; it is not reused before a
 * sweep of the PAFT has passed (`retire` … `release`), so a row of a closed tunnel never points into a new one.
 *
 * What the forwarders need for each packet stands in typed arrays: `slotOf`, `peerOf` by local_tid, `tidOf` by slot.
 * Two local_tids are no tunnels but verdicts: a row bound to BLOCKED is dropped, one bound to NOWHERE waits (parks).
 */
import { GodwitError } from '../../core/errors.ts'
import { Verdict } from '../../tunnel/seam.ts'
import { MOST_TIDS } from './paft.ts'

/** local_tid of flows whose policy has run out of accesses and says `none`. */
export const BLOCKED = 1
/** local_tid of flows that wait until an access of their policy is usable. */
export const NOWHERE = 2

export interface TunnelRow {
  readonly localTid: number
  /** The datapath's slot of the path. */
  readonly slot: number
  readonly peer: number
  /** (outgoing interface, local tunnel index): the index of an IP/UDP tunnel is its local UDP port. */
  readonly localTun: { readonly interface: string; readonly index: number }
  /** (tunnel end-point, remote tunnel index), as text `address` and UDP port. */
  readonly remoteTun: { readonly endPoint: string; readonly index: number }
  /** The VIpA that goes with this tunnel: given by the remote end on a mobile host, given to it on an anchor (D3). */
  readonly vipNat: { readonly v4?: Uint8Array; readonly v6?: Uint8Array }
  /** The number both ends call it by; 0 when it was learned from its packets and never set up explicitly (D4). */
  readonly unTid: number
}

export class TunnelTable {
  /** local_tid → slot, or a Verdict: PARK while the tunnel is closed or unusable. */
  slotOf: Int32Array
  /** local_tid → peer. */
  peerOf: Int32Array
  /** slot → local_tid, 0 when none. */
  tidOf: Int32Array
  readonly #rows = new Map<number, TunnelRow>()
  readonly #limit: number
  #last = NOWHERE
  #retired: number[] = []
  readonly #quarantine = new Set<number>()

  /** `limit`: the most local_tids, open and in quarantine. */
  constructor(limit = 4096) {
    this.#limit = Math.min(limit + NOWHERE, MOST_TIDS)
    this.slotOf = new Int32Array(64).fill(Verdict.PARK)
    this.slotOf[BLOCKED] = Verdict.DROP
    this.peerOf = new Int32Array(64).fill(-1)
    this.tidOf = new Int32Array(64)
  }

  get size(): number {
    return this.#rows.size
  }

  /** Opens a row with a fresh local_tid. */
  open(row: Omit<TunnelRow, 'localTid'>): TunnelRow {
    const localTid = this.#nextTid()
    const opened = { ...row, localTid }
    this.#rows.set(localTid, opened)
    this.slotOf = grown(this.slotOf, localTid, Verdict.PARK)
    this.peerOf = grown(this.peerOf, localTid, -1)
    this.tidOf = grown(this.tidOf, row.slot, 0)
    this.slotOf[localTid] = row.slot
    this.peerOf[localTid] = row.peer
    this.tidOf[row.slot] = localTid
    return opened
  }

  /** Replaces what may change while a tunnel lives: its ends and its VIpA. */
  update(
    localTid: number,
    change: Partial<Pick<TunnelRow, 'localTun' | 'remoteTun' | 'vipNat' | 'unTid'>>,
  ): void {
    const row = this.#rows.get(localTid)
    if (row !== undefined) this.#rows.set(localTid, { ...row, ...change })
  }

  get(localTid: number): TunnelRow | undefined {
    return this.#rows.get(localTid)
  }

  /** By the datapath's slot. */
  atSlot(slot: number): TunnelRow | undefined {
    return slot < 0 ? undefined : this.#rows.get(this.tidOf[slot] ?? 0)
  }

  /** By the name both ends use, so that signalling may travel outside the tunnel it speaks of. */
  atUnTid(peer: number, unTid: number): TunnelRow | undefined {
    for (const row of this.#rows.values()) if (row.peer === peer && row.unTid === unTid) return row
    return undefined
  }

  rows(): IterableIterator<TunnelRow> {
    return this.#rows.values()
  }

  /** A tunnel that carries nothing for now keeps its local_tid; packets of its rows wait or go elsewhere. */
  setUsable(localTid: number, usable: boolean): void {
    const row = this.#rows.get(localTid)
    if (row !== undefined) this.slotOf[localTid] = usable ? row.slot : Verdict.PARK
  }

  isUsable(localTid: number): boolean {
    return (this.slotOf[localTid] ?? -1) >= 0
  }

  /** Closes a tunnel. Its local_tid stays unused until `release` has been called after a full sweep of the PAFT. */
  close(localTid: number): void {
    const row = this.#rows.get(localTid)
    if (row === undefined) return
    this.#rows.delete(localTid)
    this.slotOf[localTid] = Verdict.PARK
    this.tidOf[row.slot] = 0
    this.#retired.push(localTid)
    this.#quarantine.add(localTid)
  }

  /** Call when a sweep begins; after the sweep has ended, `release` what this returned. */
  retire(): number[] {
    const retired = this.#retired
    this.#retired = []
    return retired
  }

  release(tids: readonly number[]): void {
    for (const tid of tids) {
      this.#quarantine.delete(tid)
      this.peerOf[tid] = -1
    }
  }

  #nextTid(): number {
    const most = this.#limit - NOWHERE
    if (this.#rows.size + this.#quarantine.size >= most) {
      throw new GodwitError('TOO_MANY_TUNNELS', `more than ${most} tunnels`, {
        hint: 'raise the limit or close tunnels',
      })
    }
    do {
      this.#last = this.#last >= this.#limit ? NOWHERE + 1 : this.#last + 1
    } while (this.#rows.has(this.#last) || this.#quarantine.has(this.#last))
    return this.#last
  }
}

function grown(array: Int32Array, index: number, fill: number): Int32Array {
  if (index < array.length) return array
  const larger = new Int32Array(Math.max(index + 1, array.length * 2)).fill(fill)
  larger.set(array)
  return larger
}
