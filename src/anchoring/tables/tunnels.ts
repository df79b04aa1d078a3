/**
 * The Tunnel Table (UP-24): local_tid → local_tun, remote_tun, vip_nat, un_tid. A tunnel is one path of the multipath
 * tunnel: an access of the mobile host towards one anchor. Its `local_tid` is a view of the path's slot in the datapath
 * and has the same lifetime. Groups of flows refer to it (groups.ts), and are notified when it closes.
 *
 * Fields that the forwarders need for each packet are in typed arrays: `slotOf`, `peerOf` by local_tid. Two local_tids
 * are not tunnels but verdicts: a group bound to BLOCKED is dropped, one bound to NOWHERE waits (is parked).
 */
import { Verdict } from '../../tunnel/seam.ts'

/** local_tid of flows whose policy has no access left and `fallback = "none"`. */
export const BLOCKED = 1
/** local_tid of flows that wait until an access of their policy is usable. */
export const NOWHERE = 2
const FIRST_TUNNEL = NOWHERE + 1

/** The local_tid of a slot. */
export function tidOf(slot: number): number {
  return slot < 0 ? 0 : slot + FIRST_TUNNEL
}

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
  readonly #rows = new Map<number, TunnelRow>()

  constructor() {
    this.slotOf = new Int32Array(64).fill(Verdict.PARK)
    this.slotOf[BLOCKED] = Verdict.DROP
    this.peerOf = new Int32Array(64).fill(-1)
  }

  get size(): number {
    return this.#rows.size
  }

  /** Opens a row for a path. */
  open(row: Omit<TunnelRow, 'localTid'>): TunnelRow {
    const localTid = tidOf(row.slot)
    const opened = { ...row, localTid }
    this.#rows.set(localTid, opened)
    this.slotOf = grown(this.slotOf, localTid, Verdict.PARK)
    this.peerOf = grown(this.peerOf, localTid, -1)
    this.slotOf[localTid] = row.slot
    this.peerOf[localTid] = row.peer
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
    return this.#rows.get(tidOf(slot))
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

  /** Closes a tunnel. */
  close(localTid: number): void {
    if (!this.#rows.delete(localTid)) return
    this.slotOf[localTid] = Verdict.PARK
    this.peerOf[localTid] = -1
  }
}

function grown(array: Int32Array, index: number, fill: number): Int32Array {
  if (index < array.length) return array
  const larger = new Int32Array(Math.max(index + 1, array.length * 2)).fill(fill)
  larger.set(array)
  return larger
}
