/**
 * What a mobile host tells its anchors of its flows: on which tunnel they are now (UP-31, D12), and which of them packets
 * must not move (UP-28). WireGuard servers, and anchors that it is not associated with, are told nothing.
 */
import type { HostForwarder } from '../forwarders/host.ts'
import type { Signalling } from '../signalling/api.ts'
import type { FlowTuple } from '../tables/flow-key.ts'
import type { Paft } from '../tables/paft.ts'
import { NOWHERE } from '../tables/tunnels.ts'
import type { Anchor, HostPath } from './host-state.ts'

export interface AnnouncementsParts {
  readonly paft: Paft
  readonly forwarder: HostForwarder
  readonly signalling: Signalling
  /** The path behind a local_tid. */
  readonly pathAt: (tid: number) => HostPath | undefined
}

/** Flows by the anchor that is to hear of them. */
export type Collected = Map<Anchor, FlowTuple[]>

export class Announcements {
  readonly #parts: AnnouncementsParts
  /** Flows that packets must not move at their anchor, by id. */
  readonly #static = new Set<string>()

  constructor(parts: AnnouncementsParts) {
    this.#parts = parts
  }

  /** Adds a flow that is on tunnel `tid` now. */
  collect(into: Collected, tid: number, tuple: FlowTuple): void {
    const anchor = this.#parts.pathAt(tid)?.anchor
    if (anchor === undefined) return
    const list = into.get(anchor)
    if (list === undefined) into.set(anchor, [tuple])
    else list.push(tuple)
  }

  announceAll(flows: Collected, now: number): void {
    for (const [anchor, tuples] of flows) this.announce(anchor, tuples, now)
  }

  /** Tells the anchor, on the tunnel moved to, which flows are there now; `tid` absent: the tunnel of the first. */
  announce(anchor: Anchor, flows: readonly FlowTuple[] | 'all', now: number, tid?: number): void {
    if (!listens(anchor) || flows.length === 0) return
    const path = this.#parts.pathAt(tid ?? this.#tidOf(flows))
    if (path === undefined) return
    const seen = flows === 'all' ? flows : flows.map((flow) => asAnchorSees(flow, anchor))
    this.#parts.signalling.handOver(anchor.index, { slot: path.slot, unTid: path.pathId }, seen, now)
  }

  /** Remembers whether packets may move a flow; true when that is another answer than before. */
  hold(id: string, isStatic: boolean): boolean {
    if (!isStatic) return this.#static.delete(id)
    if (this.#static.has(id)) return false
    this.#static.add(id)
    return true
  }

  /** Everything is moved: no flow is held any more. */
  holdNone(now: number): void {
    const { paft } = this.#parts
    const freed: Collected = new Map()
    for (const id of this.#static) {
      const row = paft.findId(id)
      if (row >= 0) this.collect(freed, paft.tidAt(row), paft.tupleAt(row))
    }
    this.#static.clear()
    this.setMode(freed, false, now)
  }

  setMode(flows: Collected, isStatic: boolean, now: number): void {
    for (const [anchor, tuples] of flows) {
      if (!listens(anchor)) continue
      const seen = tuples.map((flow) => asAnchorSees(flow, anchor))
      this.#parts.signalling.setMode(anchor.index, isStatic, seen, now)
    }
  }

  #tidOf(flows: readonly FlowTuple[] | 'all'): number {
    const row = flows === 'all' ? -1 : this.#parts.forwarder.rowOf(flows[0]!)
    return row < 0 ? NOWHERE : this.#parts.paft.tidAt(row)
  }
}

function listens(anchor: Anchor): boolean {
  return anchor.setup.kind !== 'wireguard' && anchor.association.name === 'associated'
}

/** With the VIpA as local address (D6). */
function asAnchorSees(flow: FlowTuple, anchor: Anchor): FlowTuple {
  if (anchor.association.name !== 'associated') return flow
  const local = flow.local.length === 4 ? anchor.association.v4 : anchor.association.v6
  return local === undefined ? flow : { ...flow, local }
}
