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
import type { Host } from './host.ts'
import type { Messages } from './messages.ts'
import type { Paths } from './paths.ts'
import { connectionId, type IhmpState } from './state.ts'

/** Flows that the peer does not know yet are named again after this, doubled each time, so often. */
const AGAIN_MS = 1_000
const MOST_TRIES = 4

export interface Diversion {
  readonly flow: SocketRow
  /** The pair that the flow shall go over; undefined: with all others again. */
  readonly pair: Pair | undefined
  /** Whether this end chose it. */
  readonly own: boolean
  /** Of the peer's last message about this flow: an older one changes nothing. */
  readonly counter: number
  /** Whether the peer has said that it sends the flow there too. */
  readonly followed: boolean
}

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
  /** Flows that the peer did not know when it was told. */
  readonly #again = new Set<Again>()

  constructor(state: IhmpState, messages: Messages, paths: Paths) {
    this.#state = state
    this.#messages = messages
    this.#paths = paths
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
      flowEnds: flows.map(endsOf),
      ...(wire === undefined ? {} : { challenge: this.#state.random(16) }),
    }
    this.#messages.request(host, pair, body, now, {
      acknowledged: (ack, at) => {
        const known = new Set(this.#named(host, ack))
        const missing: SocketRow[] = []
        for (const flow of flows) {
          const diversion = host.diversions.get(flow.id)
          if (!isStill(diversion, flow, wire)) continue // moved again since
          if (known.has(flow)) host.diversions.set(flow.id, { ...diversion, followed: true })
          else missing.push(flow)
        }
        if (missing.length === 0 || tries >= MOST_TRIES) return
        this.#again.add({ host, flows: missing, wire, tries, at: at + AGAIN_MS * 2 ** (tries - 1) })
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
      const still = flows.filter((flow) => isStill(host.diversions.get(flow.id), flow, wire))
      if (this.#state.hosts.get(host.row.hid) === host) this.#tell(host, still, now, tries + 1)
    }
  }

  // --------------------------------------------------------------------------------------------------- a peer's

  /** The peer sends these flows over the pair on which it says so, and wants to receive them there; or no longer. */
  handle(host: Host, message: IhmpMessage, pair: Pair, port: number, now: number): void {
    this.#state.components.lookAtSockets()
    const released = (message.options & Option.RF) !== 0
    if (!released && !host.row.accepted.has(pairKey(pair))) return
    const flows = this.#named(host, message).filter(
      (flow) => released || familyOf(flow.local) === familyOf(pair.local),
    )
    for (const flow of flows) {
      const before = host.diversions.get(flow.id)
      if (before?.flow === flow && before.counter > message.counter) continue
      const to = { pair: released ? undefined : pair, own: false, followed: true }
      this.#set(host, flow, to, message.counter)
    }
    const challenge = released ? undefined : this.#paths.challenge(host, pair, now)
    this.settle(host, now)
    this.#messages.acknowledge(host, message, pair, port, {
      ...(message.challenge === undefined ? {} : { response: message.challenge }),
      ...(challenge === undefined ? {} : { challenge }),
      ...(message.flowPair === undefined
        ? {}
        : {
            flowPair: { own: message.flowPair.other, other: message.flowPair.own },
            flowEnds: flows.map(endsOf),
          }),
    })
  }

  /** The flows that a message names and that are proven to be the host's. */
  #named(host: Host, message: IhmpMessage): SocketRow[] {
    const { flowPair, flowEnds = [] } = message
    if (flowPair === undefined) return []
    const { sockets } = this.#state.components.tables
    return flowEnds.slice(0, MOST_FLOW_ENDS).flatMap((ends) => {
      const flow = sockets.get(idOf(flowPair, ends))
      return flow?.hid === host.row.hid && flow.taken === 'both' ? [flow] : []
    })
  }

  // ------------------------------------------------------------------------------------------------- both ends

  /** The row of a flow is in the socket table: perhaps it went over a pair of its own before a restart. */
  handleSocket(flow: SocketRow): void {
    const saved = this.#state.restoredDiversions.get(connectionId(flow))
    const host = this.#state.hosts.get(flow.hid)
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
    const arrived = new Map<string, { readonly pair: Pair; readonly flows: SocketRow[] }>()
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
      this.#state.changed(host)
      const wire = after ?? host.row.current[familyOf(flow.local)]
      if (wire === undefined) continue
      const key = pairKey(wire)
      const group = arrived.get(key)
      if (group === undefined) arrived.set(key, { pair: wire, flows: [flow] })
      else group.flows.push(flow)
    }
    for (const { pair, flows } of arrived.values())
      this.#state.emit({ kind: 'diverted', hid: host.row.hid, pair, flows })
    if (given.length > 0) this.#tell(host, given, now)
  }
}

function endsOf({ protocol, localPort, foreignPort }: SocketRow): FlowEnds {
  return { protocol, ownPort: localPort, otherPort: foreignPort, wirePort: localPort }
}

/** The flow as this end has it, of a message of the other. */
function idOf({ own, other }: FlowPair, { protocol, ownPort, otherPort }: FlowEnds): string {
  return flowId(protocol, ipOf(other), otherPort, ipOf(own), ownPort)
}

function isStill(
  diversion: Diversion | undefined,
  flow: SocketRow,
  wire: Pair | undefined,
): diversion is Diversion {
  return diversion?.flow === flow && sameOrNone(diversion.pair, wire)
}

function sameOrNone(a: Pair | undefined, b: Pair | undefined): boolean {
  return a === b || samePair(a, b)
}
