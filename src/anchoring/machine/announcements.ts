/**
 * What a mobile host reports to its anchors about its flows: the tunnel of each policy's flows, the flows with a policy
 * other than the default one (UP-31, D12), and those that packets must not move (UP-28). WireGuard servers, and anchors
 * without an association, get no reports. An anchor that could not be reached gets all flows of a policy later.
 */
import { type HostForwarder, REPORTED } from '../forwarders/host.ts'
import type { Signalling } from '../signalling/api.ts'
import type { FlowTuple } from '../tables/flow-key.ts'
import type { Paft } from '../tables/paft.ts'
import type { Anchor, HostPath } from './host-state.ts'

/** The default policy's group, which anchors know without a report. */
const DEFAULT = REPORTED + 1

export interface AnnouncementsParts {
  readonly paft: Paft
  readonly forwarder: HostForwarder
  readonly signalling: Signalling
  /** The path behind a local_tid. */
  readonly pathAt: (tid: number) => HostPath | undefined
}

/** Flows by the anchor that gets the report. */
export type Collected = Map<Anchor, FlowTuple[]>

export class Announcements {
  readonly #parts: AnnouncementsParts
  /** Flows that packets must not move at their anchor, by id. */
  readonly #static = new Set<string>()
  /** Groups of which an anchor may not know all flows. */
  readonly #untold = new Set<number>()
  #staticUntold = false

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

  /** A group takes tunnel `tid` from now on: one request, however many flows it has. */
  moved(group: number, tid: number, now: number): void {
    this.#announce(group, this.#untold.has(group) ? this.#flowsOf(group) : [], tid, now)
  }

  /** These flows are in a group now that takes tunnel `tid`. */
  joined(group: number, flows: readonly FlowTuple[], tid: number, now: number): void {
    this.#announce(group, this.#untold.has(group) ? this.#flowsOf(group) : flows, tid, now)
  }

  /** Repeats what an anchor has missed of a group, if anything. */
  repeat(group: number, tid: number, now: number): void {
    if (this.#untold.has(group)) this.#announce(group, this.#flowsOf(group), tid, now)
  }

  /** Repeats which flows packets must not move, if an anchor has lost that; once it knows the flows. */
  repeatStatic(now: number): void {
    if (!this.#staticUntold) return
    this.#staticUntold = false
    this.setMode(this.#staticFlows(), true, now)
  }

  /** An anchor has lost what it knew. */
  forgotten(): void {
    const { paft } = this.#parts
    paft.settle()
    for (let row = 0; row < paft.slots; row++)
      if (paft.occupied(row) && paft.groupAt(row) > DEFAULT) this.#untold.add(paft.groupAt(row))
    this.#staticUntold = this.#static.size > 0
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
    const freed = this.#staticFlows()
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

  #staticFlows(): Collected {
    const { paft, forwarder } = this.#parts
    const flows: Collected = new Map()
    for (const id of this.#static) {
      const row = paft.findId(id)
      if (row >= 0) this.collect(flows, forwarder.tidOf(row), paft.tupleAt(row))
    }
    return flows
  }

  #announce(group: number, flows: readonly FlowTuple[], tid: number, now: number): void {
    const path = this.#parts.pathAt(tid)
    const anchor = path?.anchor
    if (path === undefined || anchor === undefined || !listens(anchor)) {
      if (group !== DEFAULT && this.#parts.paft.rowsOf(group) > 0) this.#untold.add(group)
      return
    }
    this.#untold.delete(group)
    const seen = flows.map((flow) => asAnchorSees(flow, anchor))
    const tunnel = { slot: path.slot, unTid: path.pathId }
    this.#parts.signalling.handOver(anchor.index, tunnel, group - DEFAULT, seen, now)
  }

  #flowsOf(group: number): FlowTuple[] {
    const { paft } = this.#parts
    const flows: FlowTuple[] = []
    paft.settle()
    for (let row = 0; row < paft.slots; row++)
      if (paft.occupied(row) && paft.groupAt(row) === group) flows.push(paft.tupleAt(row))
    return flows
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
