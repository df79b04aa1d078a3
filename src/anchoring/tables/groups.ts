/**
 * Groups of flows, between the PAFT and the Tunnel Table (row → group → tunnel): all flows of a group use one tunnel, so
 * that a handover is one write, however many flows move. A group belongs to one host, and to one of the numbers under
 * which that host moves flows together (docs/wire/anchoring.md); flows of it that packets have moved to another tunnel
 * are in another group with the same number.
 *
 * A host has at most MOST_GROUPS groups; beyond, it reuses the closest of its own, and no other host is affected.
 */
import type { Paft } from './paft.ts'

const NOBODY = -1
/** Groups of one host at a time. */
export const MOST_GROUPS = 64

export class Groups {
  readonly #paft: Paft
  /** Group → local_tid; 0: none, its flows take the host's default tunnel. */
  tunnelOf = new Int32Array(64)
  /** Group → peer, -1 for none. */
  peerOf = new Int32Array(64).fill(NOBODY)
  /** Group → order of the explicit handover that moved it last. */
  #order = new Int32Array(64)
  #number = new Uint16Array(64)
  readonly #ofPeer = new Map<number, number[]>()
  /** Groups of removed hosts, kept until their rows are gone. */
  #orphans: number[] = []
  readonly #free: number[] = []
  /** 0 is no group. */
  #used = 1

  constructor(paft: Paft) {
    this.#paft = paft
  }

  /** The group of `peer` with the host's number `number` and tunnel `tid`. */
  home(peer: number, number: number, tid: number): number {
    const own = this.#ofPeer.get(peer) ?? []
    let empty = 0
    let near = 0
    for (const group of own) {
      if (this.tunnelOf[group] === tid) {
        if (this.#number[group] === number) return group
        near = group
      }
      if (this.#paft.rowsOf(group) === 0) empty = group
    }
    if (empty === 0 && own.length >= MOST_GROUPS) return near === 0 ? own[0]! : near
    const group = empty === 0 ? this.#make(peer, own) : empty
    this.tunnelOf[group] = tid
    this.#number[group] = number
    this.#order[group] = this.orderOf(peer, number) ?? 0
    return group
  }

  /** Order of the explicit handover that moved the flows of this number last; undefined when none of them is known. */
  orderOf(peer: number, number: number): number | undefined {
    let newest: number | undefined
    for (const group of this.#ofPeer.get(peer) ?? []) {
      if (this.#number[group] !== number || this.#paft.rowsOf(group) === 0) continue
      if (newest === undefined || ((this.#order[group]! - newest) | 0) > 0) newest = this.#order[group]!
    }
    return newest
  }

  order(group: number): number {
    return this.#order[group]!
  }

  number(group: number): number {
    return this.#number[group]!
  }

  /** Explicit handover: the flows of this number (or all) take `tid` from now on. Returns the number of flows. */
  move(peer: number, number: number | 'all', tid: number, order: number): number {
    let rows = 0
    for (const group of this.#ofPeer.get(peer) ?? []) {
      if (number !== 'all' && this.#number[group] !== number) continue
      this.tunnelOf[group] = tid
      this.#order[group] = order
      rows += this.#paft.rowsOf(group)
    }
    return rows
  }

  /** Another group with the same number and tunnel, into which rows of `group` can be put. */
  sameAs(group: number): number {
    const tid = this.tunnelOf[group]
    for (const each of this.#ofPeer.get(this.peerOf[group]!) ?? [])
      if (this.tunnelOf[each] === tid && this.#number[each] === this.#number[group]) return each
    return group
  }

  /** Flows of a peer. */
  rowsOf(peer: number): number {
    let rows = 0
    for (const group of this.#ofPeer.get(peer) ?? []) rows += this.#paft.rowsOf(group)
    return rows
  }

  /** The tunnel is gone. */
  leave(peer: number, tid: number): void {
    for (const group of this.#ofPeer.get(peer) ?? [])
      if (this.tunnelOf[group] === tid) this.tunnelOf[group] = 0
  }

  /** The peer is gone; its rows belong to nobody. */
  forget(peer: number): void {
    for (const group of this.#ofPeer.get(peer) ?? []) {
      this.peerOf[group] = NOBODY
      this.tunnelOf[group] = 0
      this.#orphans.push(group)
    }
    this.#ofPeer.delete(peer)
  }

  /** After a sweep: what has lost its last row may be used again. */
  collect(): void {
    this.#orphans = this.#orphans.filter((group) => {
      if (this.#paft.rowsOf(group) > 0) return true
      this.#free.push(group)
      return false
    })
  }

  #make(peer: number, own: number[]): number {
    const group = this.#free.pop() ?? this.#used++
    if (group >= this.tunnelOf.length) this.#grow()
    this.peerOf[group] = peer
    own.push(group)
    this.#ofPeer.set(peer, own)
    return group
  }

  #grow(): void {
    const length = this.tunnelOf.length * 2
    this.tunnelOf = larger(this.tunnelOf, length, 0)
    this.peerOf = larger(this.peerOf, length, NOBODY)
    this.#order = larger(this.#order, length, 0)
    const numbers = new Uint16Array(length)
    numbers.set(this.#number)
    this.#number = numbers
  }
}

function larger(array: Int32Array, length: number, fill: number): Int32Array<ArrayBuffer> {
  const out = new Int32Array(length).fill(fill)
  out.set(array)
  return out
}
