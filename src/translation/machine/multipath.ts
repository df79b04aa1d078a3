/**
 * Multipath: single flows on a pair of addresses of their own (paper, Table III). Either end may move one, and tells the
 * other over the very pair (MOVE_FLOWS), which sends it there too. So both directions of a flow take one way.
 *
 * A peer moves flows only that it has proven to be its own (possession.ts), to a pair that its news about addresses have made
 * known, and nothing is sent there before it has answered a challenge on that pair: until then the flow stays where it is.
 * A pair that works no longer is left, and who has chosen it says so.
 */
import { choosePair } from '../policy.ts'
import {
  bytesOf,
  familyOf,
  flowId,
  type Ip,
  ipOf,
  type Pair,
  pairKey,
  type SocketRow,
  samePair,
} from '../tables.ts'
import { Control, type FlowEnds, type FlowPair, type IhmpMessage, MOST_FLOW_ENDS, Option } from '../wire.ts'
import type { Diversion, Host } from './host.ts'
import type { Messages } from './messages.ts'
import type { Paths } from './paths.ts'
import { left, Renumbering } from './renumbering.ts'
import { connectionId, type IhmpState } from './state.ts'
import type { Output } from './types.ts'

/** Flows that the peer does not know yet are named again after this, doubled each time, so often. */
const AGAIN_MS = 1_000
const MOST_TRIES = 4

interface Again {
  readonly host: Host
  readonly flows: readonly SocketRow[]
  readonly wire: Pair | undefined
  readonly tries: number
  readonly at: number
}

export class Multipath {
  readonly #state: IhmpState
  readonly #messages: Messages
  readonly #paths: Paths
  readonly #renumbering: Renumbering
  /** Flows that the peer did not know when it was told. */
  readonly #again = new Set<Again>()

  constructor(state: IhmpState, messages: Messages, paths: Paths) {
    this.#state = state
    this.#messages = messages
    this.#paths = paths
    this.#renumbering = new Renumbering(state, (host, flows, now) => this.#tell(host, flows, now))
  }

  // ---------------------------------------------------------------------------------------------------- own

  /** Sends these flows of a host from another own address; returns those for which a confirmed pair has it. */
  move(host: Host, local: Ip, flows: readonly SocketRow[], now: number): SocketRow[] {
    const usable = this.#paths.candidates(host).filter((c) => c.pair.local === local)
    const moved = flows.filter((flow) => {
      const family = familyOf(flow.local)
      const current = host.row.current[family]
      const choice = choosePair(
        usable.filter((c) => familyOf(c.pair.local) === family),
        { foreign: host.row.overrides.get(flow.id)?.foreign ?? host.preferred, current },
      )
      if (choice === undefined || flow.taken !== 'both') return false
      this.#set(host, flow, { pair: choice.pair, own: true, followed: false })
      return true
    })
    this.settle(host, now)
    this.#tell(host, moved, now)
    return moved
  }

  /** These flows go where all others of the host go; by default all that do not. */
  release(host: Host, now: number, flows: Iterable<SocketRow> = this.#diverted(host)): void {
    const released = [...flows].filter((flow) => host.diversions.get(flow.id)?.pair !== undefined)
    for (const flow of released) this.#set(host, flow, { pair: undefined, own: true, followed: false })
    this.settle(host, now)
    this.#tell(host, released, now)
  }

  *#diverted(host: Host): Iterable<SocketRow> {
    for (const { flow } of host.diversions.values()) yield flow
  }

  #set(
    host: Host,
    flow: SocketRow,
    to: Pick<Diversion, 'pair' | 'own' | 'followed'>,
    counter?: number,
  ): void {
    const before = host.diversions.get(flow.id)
    const last = before?.flow === flow ? before.counter : 0
    host.diversions.set(flow.id, { flow, ...to, counter: counter ?? last })
  }

  /** One message for all flows that are bound to the same pair and go to the same one, as far as it has room. */
  #tell(host: Host, flows: Iterable<SocketRow>, now: number, tries = 1): void {
    const batches = new Map<string, { readonly wire: Pair | undefined; readonly flows: SocketRow[] }>()
    for (const flow of flows) {
      const wire = host.diversions.get(flow.id)?.pair
      const key = `${pairKey(flow)} ${wire === undefined ? '' : pairKey(wire)}`
      const batch = batches.get(key)
      if (batch === undefined) batches.set(key, { wire, flows: [flow] })
      else batch.flows.push(flow)
    }
    for (const { wire, flows: all } of batches.values())
      for (let i = 0; i < all.length; i += MOST_FLOW_ENDS)
        this.#send(host, all.slice(i, i + MOST_FLOW_ENDS), wire, now, tries)
  }

  #send(host: Host, flows: readonly SocketRow[], wire: Pair | undefined, now: number, tries: number): void {
    const pair = wire ?? this.#paths.any(host)
    const [first] = flows
    if (pair === undefined || first === undefined) return
    const body = {
      control: Control.MOVE_FLOWS,
      options: wire === undefined ? Option.RF : 0,
      flowPair: { own: bytesOf(first.local), other: bytesOf(first.foreign) },
      flowEnds: flows.map((flow) => endsOf(host, flow)),
      ...(wire === undefined ? {} : { challenge: this.#state.random(16) }),
    }
    this.#messages.request(host, pair, body, now, {
      acknowledged: (ack, at) => {
        const known = new Set(this.#named(host, ack).map(({ flow }) => flow))
        const missing: SocketRow[] = []
        const renumbered: SocketRow[] = []
        for (const [i, flow] of flows.entries()) {
          const diversion = host.diversions.get(flow.id)
          if (!sameOrNone(pairOf(diversion, flow), wire)) continue // moved again since
          if (!known.has(flow)) {
            missing.push(flow)
            continue
          }
          if (diversion?.flow === flow) host.diversions.set(flow.id, { ...diversion, followed: true })
          if (this.#renumbering.acknowledged(host, flow, body.flowEnds[i]!.wirePort)) renumbered.push(flow)
        }
        this.#restarted(host, renumbered)
        if (missing.length === 0) return
        if (tries >= MOST_TRIES) for (const flow of missing) this.#renumbering.refused(host, flow)
        else this.#again.add({ host, flows: missing, wire, tries, at: at + AGAIN_MS * 2 ** (tries - 1) })
      },
      failed: () => {
        for (const flow of flows) this.#renumbering.refused(host, flow)
      },
    })
  }

  nextTimeout(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { at } of this.#again) next = Math.min(next, at)
    return next
  }

  handleTimeout(now: number): void {
    for (const again of this.#again) {
      const { host, flows, wire, tries, at } = again
      if (at > now) continue
      this.#again.delete(again)
      const { sockets } = this.#state.components.tables
      const still = flows.filter(
        (flow) =>
          sockets.get(flow.id) === flow && sameOrNone(pairOf(host.diversions.get(flow.id), flow), wire),
      )
      if (this.#state.hosts.get(host.row.hid) === host) this.#tell(host, still, now, tries + 1)
    }
  }

  /** These connections repeat themselves: perhaps they are stuck where they have been before. */
  suspect(flows: Iterable<SocketRow>, now: number): void {
    this.#renumbering.suspect(flows, now)
  }

  /** Connections whose packets carry other ports now show themselves, and go on. */
  #restarted(host: Host, flows: readonly SocketRow[]): void {
    for (const family of [4, 6] as const) {
      const of = flows.filter((flow) => familyOf(flow.local) === family)
      const pair = host.row.current[family]
      if (of.length === 0 || pair === undefined) continue
      const { hid } = host.row
      this.#state.emit({ kind: 'diverted', hid, from: undefined, pair, flows: of, renumbered: true })
      this.#state.emit({ kind: 'resumed', hid, pair })
    }
  }

  // --------------------------------------------------------------------------------------------------- a peer's

  /** The peer sends these flows over the pair on which it says so, and wants to receive them there; or no longer. */
  handle(host: Host, message: IhmpMessage, pair: Pair, port: number, now: number): void {
    this.#state.components.lookAtSockets()
    const released = (message.options & Option.RF) !== 0
    if (!released && !host.row.accepted.has(pairKey(pair))) return
    const named: SocketRow[] = []
    const renumbered: SocketRow[] = []
    for (const { flow, wirePort } of this.#named(host, message)) {
      if (!released && familyOf(flow.local) !== familyOf(pair.local)) continue
      const before = host.diversions.get(flow.id)
      if (before?.flow === flow && before.counter > message.counter) continue
      const ports = this.#renumbering.heard(host, flow, wirePort, now)
      if (ports === 'refused') continue
      if (ports === 'new') renumbered.push(flow)
      const to = { pair: released ? undefined : pair, own: false, followed: true }
      this.#set(host, flow, to, message.counter)
      named.push(flow)
    }
    const challenge = released ? undefined : this.#paths.challenge(host, pair, now)
    this.settle(host, now)
    this.#restarted(host, renumbered)
    this.#messages.acknowledge(host, message, pair, port, {
      ...(message.challenge === undefined ? {} : { response: message.challenge }),
      ...(challenge === undefined ? {} : { challenge }),
      ...(message.flowPair === undefined
        ? {}
        : {
            flowPair: { own: message.flowPair.other, other: message.flowPair.own },
            flowEnds: named.map((flow) => endsOf(host, flow)),
          }),
    })
  }

  /** The flows that a message names and that are proven to be the host's. */
  #named(host: Host, message: IhmpMessage): { readonly flow: SocketRow; readonly wirePort: number }[] {
    const { flowPair, flowEnds = [] } = message
    if (flowPair === undefined) return []
    const { sockets } = this.#state.components.tables
    return flowEnds.slice(0, MOST_FLOW_ENDS).flatMap((ends) => {
      const flow = sockets.get(idOf(flowPair, ends))
      return flow?.hid === host.row.hid && flow.taken === 'both' ? [{ flow, wirePort: ends.wirePort }] : []
    })
  }

  // ------------------------------------------------------------------------------------------------- both ends

  /** The row of a flow is in the socket table: perhaps it went over a pair of its own before a restart. */
  handleSocket(flow: SocketRow): void {
    const connection = connectionId(flow)
    const host = this.#state.hosts.get(flow.hid)
    const numbers = this.#state.restoredNumbers.get(connection)
    if (numbers !== undefined)
      host?.row.numbers.set(flow.id, { own: numbers.own, other: numbers.other, known: true, since: 0 })
    const saved = this.#state.restoredDiversions.get(connection)
    if (saved === undefined || host === undefined) return
    const { pair, own, counter } = saved
    host.diversions.set(flow.id, { flow, pair, own, counter, followed: true })
    host.row.overrides.set(flow.id, pair)
  }

  /** What flows go over pairs of their own follows from what was asked for and from which pairs work. */
  settle(host: Host, now: number): void {
    if (host.diversions.size === 0) return
    const { sockets } = this.#state.components.tables
    const { overrides } = host.row
    const arrived = new Map<string, Extract<Output, { kind: 'diverted' }> & { flows: SocketRow[] }>()
    const given: SocketRow[] = []
    for (const [id, { flow, pair, own }] of host.diversions) {
      if (sockets.get(id) !== flow || flow.hid !== host.row.hid) {
        host.diversions.delete(id)
        continue
      }
      const before = overrides.get(id)
      // A pair that the peer has still to prove is waited for where the flow is; one that has worked and does so no longer is left.
      const waits = pair !== undefined && !this.#paths.usable(host, pair) && !samePair(before, pair)
      const wanted = waits ? before : pair
      const after = wanted !== undefined && this.#paths.usable(host, wanted) ? wanted : undefined
      if (after === undefined) overrides.delete(id)
      else overrides.set(id, after)
      if (pair !== undefined && after === undefined && !waits) {
        this.#set(host, flow, { pair: undefined, own, followed: !own })
        if (own) given.push(flow)
      }
      if (sameOrNone(before, after)) continue
      const former = before ?? host.row.current[familyOf(flow.local)]
      if (former !== undefined) left(host, former, now)
      this.#state.changed(host)
      const wire = after ?? host.row.current[familyOf(flow.local)]
      if (wire === undefined) continue
      const key = `${former === undefined ? '' : pairKey(former)} ${pairKey(wire)}`
      const group = arrived.get(key)
      if (group !== undefined) group.flows.push(flow)
      else arrived.set(key, { kind: 'diverted', hid: host.row.hid, from: former, pair: wire, flows: [flow] })
    }
    for (const output of arrived.values()) this.#state.emit(output)
    if (given.length > 0) this.#tell(host, given, now)
  }
}

function endsOf(host: Host, { id, protocol, localPort, foreignPort }: SocketRow): FlowEnds {
  const wirePort = host.row.numbers.get(id)?.own ?? localPort
  return { protocol, ownPort: localPort, otherPort: foreignPort, wirePort }
}

/** The flow as this end has it, of a message of the other. */
function idOf({ own, other }: FlowPair, { protocol, ownPort, otherPort }: FlowEnds): string {
  return flowId(protocol, ipOf(other), otherPort, ipOf(own), ownPort)
}

/** Where the flow shall go; undefined: with all others. */
function pairOf(diversion: Diversion | undefined, flow: SocketRow): Pair | undefined {
  return diversion?.flow === flow ? diversion.pair : undefined
}

function sameOrNone(a: Pair | undefined, b: Pair | undefined): boolean {
  return a === b || samePair(a, b)
}
