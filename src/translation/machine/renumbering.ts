/**
 * Connections that come back to a pair of addresses which they have left (docs/adr/0161). A router on the way that tracks
 * connections remembers them there, with sequence numbers of then: it finds what comes now invalid, and many drop that. The
 * tracking of both ends is told to forget (kernel/trackers.ts), that of others cannot be. So a connection that repeats itself in vain
 * on such a pair, while IHMP is answered on it, takes another port for its packets: to the router it is a new one.
 *
 * The end that repeats itself chooses one of its own. It takes packets for it in at once, tells the other by MOVE_FLOWS
 * (multipath.ts), and sends with it when that has answered: in before out, as for pairs.
 */
import { familyOf, isTaken, type Pair, pairKey, type SocketRow, type WirePorts } from '../tables.ts'
import type { Host } from './host.ts'
import type { IhmpState } from './state.ts'

/** Kernels choose among these for connections that are opened (net.ipv4.ip_local_port_range). */
const FIRST_PORT = 32_768
const PORTS = 28_232
const MOST_GUESSES = 32
/** The peer has answered on the pair as lately, milliseconds: it is not the path that is silent. */
const FRESH_MS = 1_500
/** Pairs that connections of one host have left, at most; the oldest make room. */
const MOST_LEFT = 64

/** Connections go another way now. */
export function left(host: Host, pair: Pair, now: number): void {
  const key = pairKey(pair)
  host.left.delete(key)
  host.left.set(key, now)
  if (host.left.size > MOST_LEFT) host.left.delete(host.left.keys().next().value!)
}

export class Renumbering {
  readonly #state: IhmpState
  readonly #tell: (host: Host, flows: readonly SocketRow[], now: number) => void

  /** `tell` names flows to the peer, with the ports that they have on the wire. */
  constructor(state: IhmpState, tell: (host: Host, flows: readonly SocketRow[], now: number) => void) {
    this.#state = state
    this.#tell = tell
  }

  /** These connections repeat themselves. */
  suspect(flows: Iterable<SocketRow>, now: number): void {
    const stuck = new Map<Host, SocketRow[]>()
    for (const flow of flows) {
      const host = this.#state.hosts.get(flow.hid)
      if (host === undefined || !this.#isStuck(host, flow, now)) continue
      const own = this.#freePort(host, flow)
      if (own === undefined) continue
      host.row.numbers.set(flow.id, { ...host.row.numbers.get(flow.id), own, known: false, since: now })
      this.#state.changed(host)
      const of = stuck.get(host)
      if (of === undefined) stuck.set(host, [flow])
      else of.push(flow)
    }
    for (const [host, of] of stuck) this.#tell(host, of, now)
  }

  #isStuck(host: Host, flow: SocketRow, now: number): boolean {
    if (host.state !== 'peer' || flow.protocol !== 6 || flow.taken !== 'both') return false
    const wire = host.row.overrides.get(flow.id) ?? host.row.current[familyOf(flow.local)]
    if (
      wire === undefined ||
      familyOf(wire.local) !== familyOf(flow.local) ||
      host.row.nats.has(wire.foreign)
    )
      return false
    const key = pairKey(wire)
    const numbers = host.row.numbers.get(flow.id)
    const leftAt = host.left.get(key)
    if (leftAt === undefined || (numbers !== undefined && numbers.since >= leftAt)) return false
    return now - (host.confirmed.get(key)?.at ?? Number.NEGATIVE_INFINITY) <= FRESH_MS
  }

  #freePort(host: Host, flow: SocketRow): number | undefined {
    const { numbers } = host.row
    const { tables } = this.#state.components
    const used = new Set([...numbers.values()].map(({ own }) => own))
    const view = new DataView(this.#state.random(2 * MOST_GUESSES).buffer)
    for (let i = 0; i < MOST_GUESSES; i++) {
      const own = FIRST_PORT + (view.getUint16(2 * i) % PORTS)
      if (!used.has(own) && !isTaken(tables, host.row, flow, { ...numbers.get(flow.id), own })) return own
    }
    return undefined
  }

  /** The peer has this flow, with that port of ours. True when packets leave with it from now on. */
  acknowledged(host: Host, flow: SocketRow, wirePort: number): boolean {
    const numbers = host.row.numbers.get(flow.id)
    if (numbers === undefined || numbers.known || numbers.own !== wirePort) return false
    host.row.numbers.set(flow.id, { ...numbers, known: true })
    this.#state.changed(host)
    return true
  }

  /** The peer does not take it: the flow keeps the port that it has. */
  refused(host: Host, flow: SocketRow): void {
    const numbers = host.row.numbers.get(flow.id)
    if (numbers === undefined || numbers.known) return
    host.row.numbers.set(flow.id, { ...numbers, own: undefined, known: true })
    this.#state.changed(host)
  }

  /** The peer's packets of this flow carry that port. False: they would look like those of another socket here. */
  heard(host: Host, flow: SocketRow, wirePort: number, now: number): 'as before' | 'new' | 'refused' {
    const before = host.row.numbers.get(flow.id)
    const other = wirePort === flow.foreignPort ? undefined : wirePort
    if (before?.other === other) return 'as before'
    const numbers: WirePorts = { own: before?.own, other, known: before?.known ?? true, since: now }
    if (isTaken(this.#state.components.tables, host.row, flow, numbers)) return 'refused'
    host.row.numbers.set(flow.id, numbers)
    this.#state.changed(host)
    return 'new'
  }
}
