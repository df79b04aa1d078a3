/**
 * What the connection tracking of this host remembers of TCP connections that have moved (docs/adr/0100). It follows their
 * sequence numbers on each pair of addresses apart: a connection that comes back to an earlier pair would be out of its window
 * there, and firewalls drop what is invalid. So entries are removed of the pair that connections leave, and of an earlier one
 * before they come back to it; the next segment begins a new entry.
 */
import type { ConnTracker } from '../../linux/conntrack.ts'
import { KernelError } from '../../linux/libc.ts'
import type { HostNetwork } from '../network.ts'
import {
  bytesOf,
  familyOf,
  type Pair,
  pairKey,
  type SocketRow,
  samePair,
  type Tables,
  wirePorts,
} from '../tables.ts'

/** Entries removed at once; each costs about 20 µs. */
const AT_ONCE = 256

/** A host's connections go from one pair to another. */
interface Move {
  readonly hid: number
  readonly family: 4 | 6
  readonly from: Pair
  readonly to: Pair
}

interface Past {
  readonly current: { 4?: Pair; 6?: Pair }
  /** Pairs that its connections have left, by `pairKey`. */
  readonly left: Set<string>
}

export class Trackers {
  readonly #tables: Tables
  readonly #network: Pick<HostNetwork, 'isTracked'>
  readonly #open: () => ConnTracker
  readonly #warn: (text: string) => void
  readonly #past = new Map<number, Past>()
  readonly #waiting = new Set<NodeJS.Immediate>()
  #moves: readonly Move[] = []
  #tracker: ConnTracker | undefined
  /** The kernel has none, or does not let us. */
  #refused = false

  constructor(
    tables: Tables,
    network: Pick<HostNetwork, 'isTracked'>,
    open: () => ConnTracker,
    warn: (text: string) => void,
  ) {
    this.#tables = tables
    this.#network = network
    this.#open = open
    this.#warn = warn
  }

  /** Before the maps follow what has changed of these hosts. */
  before(hids: Iterable<number>): void {
    const moves: Move[] = []
    for (const hid of hids) {
      const current = this.#tables.hosts.get(hid)?.current
      if (current === undefined) {
        this.#past.delete(hid)
        continue
      }
      const past = this.#past.get(hid) ?? { current: {}, left: new Set() }
      this.#past.set(hid, past)
      for (const family of [4, 6] as const) {
        const [from, to] = [past.current[family], current[family]]
        if (to === undefined || samePair(from, to)) continue
        past.current[family] = to
        if (from === undefined) continue
        past.left.add(pairKey(from))
        moves.push({ hid, family, from, to })
      }
    }
    this.#moves = moves.length > 0 && !this.#refused && this.#network.isTracked() ? moves : []
    for (const { hid, family, to } of this.#moves)
      if (this.#past.get(hid)?.left.has(pairKey(to))) this.#forget(this.#connections(hid, family), to)
  }

  /** Afterwards. */
  after(): void {
    for (const { hid, family, from } of this.#moves) this.#forget(this.#connections(hid, family), from)
    this.#moves = []
  }

  /** Single connections have left a pair for another one, where they may have been before. */
  diverted(flows: readonly SocketRow[], from: Pair | undefined, to: Pair): void {
    if (this.#refused || !this.#network.isTracked()) return
    for (const pair of from === undefined ? [to] : [from, to])
      this.#forget(
        flows.filter((flow) => familyOf(flow.local) === familyOf(pair.local)),
        pair,
      )
  }

  stop(): void {
    for (const immediate of this.#waiting) clearImmediate(immediate)
    this.#waiting.clear()
    this.#tracker?.close()
    this.#tracker = undefined
  }

  #connections(hid: number, family: 4 | 6): SocketRow[] {
    return [...this.#tables.flows(hid)].filter(
      (f) => f.protocol === 6 && f.taken === 'both' && familyOf(f.local) === family,
    )
  }

  /** The first ones at once, the others one after the other. */
  #forget(flows: readonly SocketRow[], pair: Pair): void {
    if (this.#refused || flows.length === 0) return
    const [localAddress, remoteAddress] = [bytesOf(pair.local), bytesOf(pair.foreign)]
    try {
      this.#tracker ??= this.#open()
      for (const flow of flows.slice(0, AT_ONCE)) {
        const { local: localPort, foreign: remotePort } = wirePorts(this.#tables, flow)
        this.#tracker.forget({ protocol: 6, localAddress, localPort, remoteAddress, remotePort })
      }
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      this.#refused = true
      this.#warn(
        `connection tracking keeps what it knows of moved connections (${error.message}): firewall rules that drop what is invalid stop a connection that comes back`,
      )
    }
    if (flows.length <= AT_ONCE) return
    const immediate = setImmediate(() => {
      this.#waiting.delete(immediate)
      this.#forget(flows.slice(AT_ONCE), pair)
    })
    this.#waiting.add(immediate)
  }
}
