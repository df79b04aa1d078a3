/**
 * The content of `godwit top`, computed from successive statuses: rates are differences of counters; histories and last
 * gaps are kept. Pure: time is an argument.
 */
import type {
  AccessStatus,
  ClassStatus,
  FlowStatus,
  HandoverRecord,
  PeerStatus,
  Pin,
} from '../../core/mechanism.ts'
import { takesPackets } from '../../core/mechanism.ts'
import { concerns } from '../../core/subject.ts'
import type { Status } from '../../host/daemon/daemon.ts'
import { trafficOf } from '../../host/stores/recorder.ts'

/** Samples that a history holds: a minute of one a second. */
export const HISTORY = 60
/** Handovers that are looked at for a flow's last gap. */
const HANDOVERS = 100

/** Bits per second; null: not counted, or not yet. */
export interface Rates {
  readonly sent: number | null
  readonly received: number | null
}

export interface AccessRow extends Rates {
  readonly access: AccessStatus
  readonly flows: number
  /** Both ways, bits per second, oldest first. */
  readonly history: readonly number[]
}

export interface PeerRow extends Rates {
  readonly peer: PeerStatus
  readonly rtt_ms: number | null
  readonly loss: number | null
  readonly history: readonly number[]
}

export interface FlowRow extends Rates {
  readonly flow: FlowStatus
  /** Milliseconds it has lived; `exact` false: at least so long, it was there when it was first looked at. */
  readonly age: number
  readonly exact: boolean
  /** Gap of the last handover that moved it, ms; null: not measured; undefined: it has not moved. */
  readonly gap: number | null | undefined
}

/** Flows of one program; of an anchor, of one host. */
export interface GroupRow extends Rates {
  readonly name: string
  readonly flows: number
  readonly accesses: readonly string[]
  readonly pinned: boolean
  /** Age of the oldest flow. */
  readonly age: number
  readonly exact: boolean
  readonly gap: number | null | undefined
}

export interface Sample {
  readonly at: number
  readonly role: string
  readonly version: string
  readonly startedAt: number
  readonly waiting: string | undefined
  readonly accesses: readonly AccessRow[]
  readonly peers: readonly PeerRow[]
  readonly flows: readonly FlowRow[]
  readonly groups: readonly GroupRow[]
  readonly flowsLeftOut: number
  readonly classes: readonly ClassStatus[]
  readonly pins: readonly Pin[]
}

interface Counters {
  readonly sent: number | undefined
  readonly received: number | undefined
}

interface Known {
  readonly counters: Counters
  /** When it was first looked at. */
  readonly seenAt: number
  /** The last handover that moved it. */
  handover: string | undefined
}

export class Sampler {
  #before: number | undefined
  #links = new Map<string, Counters>()
  #flows = new Map<string, Known>()
  #handovers = new Set<string>()
  readonly #histories = new Map<string, number[]>()

  /** `now`: monotonic, in milliseconds, for rates; `wall`: since the Unix epoch, for ages. */
  take(status: Status, now: number, wall: number): Sample {
    const seconds = this.#before === undefined ? Number.NaN : (now - this.#before) / 1000
    this.#before = now
    const links = new Map<string, Counters>()
    const link = (key: string, counters: Counters) => {
      links.set(key, counters)
      const rates = ratesOf(counters, this.#links.get(key), seconds)
      return { ...rates, history: this.#remember(key, rates) }
    }
    const onAccess = new Map<string, number>()
    for (const { access } of status.flows) onAccess.set(access, (onAccess.get(access) ?? 0) + 1)
    const accesses = status.accesses.map((access): AccessRow => {
      const counters = { sent: access.sent_bytes, received: access.received_bytes }
      return { access, flows: onAccess.get(access.name) ?? 0, ...link(`access ${access.name}`, counters) }
    })
    const peers = status.peers.map((peer): PeerRow => {
      const used = peer.paths.filter(takesPackets)
      return {
        peer,
        ...link(`peer ${peer.name}`, sumOf(peer)),
        rtt_ms: least(used.map(({ rtt_ms }) => rtt_ms)),
        loss: least(used.map(({ loss }) => loss)),
      }
    })
    this.#links = links
    for (const key of this.#histories.keys()) if (!links.has(key)) this.#histories.delete(key)
    const flows = this.#flowRows(status, seconds, wall)
    const { role, version, waiting, classes } = status
    return {
      at: wall,
      role,
      version,
      startedAt: status.started_at,
      waiting,
      accesses,
      peers,
      flows,
      groups: groupsOf(flows),
      flowsLeftOut: status.flows_left_out,
      classes,
      pins: status.pins,
    }
  }

  #remember(key: string, { sent, received }: Rates): readonly number[] {
    const history = this.#histories.get(key) ?? []
    this.#histories.set(key, history)
    if (sent === null && received === null) return history
    history.push((sent ?? 0) + (received ?? 0))
    if (history.length > HISTORY) history.shift()
    return [...history]
  }

  #flowRows(status: Status, seconds: number, wall: number): FlowRow[] {
    const records = new Map(status.handovers.slice(-HANDOVERS).map((record) => [keyOf(record), record]))
    const fresh = [...records].filter(([key]) => !this.#handovers.has(key))
    this.#handovers = new Set(records.keys())
    const before = this.#flows
    this.#flows = new Map()
    return status.flows.map((flow) => {
      const known = before.get(flow.id)
      const counters = { sent: flow.sent_bytes, received: flow.received_bytes }
      const seenAt = known?.seenAt ?? wall
      const begun = flow.since ?? 0
      const candidates = known === undefined ? [...records] : fresh
      const traffic = candidates.length === 0 ? undefined : trafficOf(flow)
      const moved = candidates.findLast(
        ([, { at, subject }]) => at >= begun && traffic !== undefined && concerns(subject, traffic),
      )
      const handover = moved?.[0] ?? known?.handover
      this.#flows.set(flow.id, { counters, seenAt, handover })
      return {
        flow,
        ...ratesOf(counters, known?.counters, seconds),
        age: Math.max(0, wall - (flow.since ?? seenAt)),
        exact: flow.since !== undefined,
        gap: handover === undefined ? undefined : (records.get(handover)?.gap_ms ?? null),
      }
    })
  }
}

function keyOf({ at, what, from, to }: HandoverRecord): string {
  return `${at} ${what} ${from} ${to}`
}

function ratesOf(now: Counters, before: Counters | undefined, seconds: number): Rates {
  const rate = (new_: number | undefined, old: number | undefined): number | null => {
    if (new_ === undefined || old === undefined || !(seconds > 0)) return null
    return new_ < old ? null : ((new_ - old) * 8) / seconds // a counter that started again from zero gives no rate
  }
  return { sent: rate(now.sent, before?.sent), received: rate(now.received, before?.received) }
}

function sumOf({ paths }: PeerStatus): Counters {
  const sum = (values: readonly (number | undefined)[]) =>
    values.every((value) => value === undefined)
      ? undefined
      : values.reduce<number>((total, value) => total + (value ?? 0), 0)
  return {
    sent: sum(paths.map(({ sent_bytes }) => sent_bytes)),
    received: sum(paths.map(({ received_bytes }) => received_bytes)),
  }
}

function least(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null)
  return known.length === 0 ? null : Math.min(...known)
}

export function total({ sent, received }: Rates): number {
  return (sent ?? 0) + (received ?? 0)
}

/** Name of the group that a flow is listed under. */
function groupName({ app, peer }: FlowStatus): string {
  if (app !== '') return app
  return peer === '' ? '-' : `(${peer})`
}

function groupsOf(flows: readonly FlowRow[]): GroupRow[] {
  const groups = new Map<string, FlowRow[]>()
  for (const row of flows) {
    const name = groupName(row.flow)
    const own = groups.get(name)
    if (own === undefined) groups.set(name, [row])
    else own.push(row)
  }
  return [...groups].map(([name, own]): GroupRow => {
    const oldest = own.reduce((a, b) => (b.age > a.age ? b : a))
    const add = (a: number | null, b: number | null) => (a === null ? b : a + (b ?? 0))
    return {
      name,
      flows: own.length,
      sent: own.reduce<number | null>((sum, { sent }) => add(sum, sent), null),
      received: own.reduce<number | null>((sum, { received }) => add(sum, received), null),
      accesses: [...new Set(own.map(({ flow }) => flow.access || '-'))],
      pinned: own.some(({ flow }) => flow.pinned !== undefined),
      age: oldest.age,
      exact: oldest.exact,
      // The longest of their last ones: what a user of the program may have noticed.
      gap: own.reduce<number | null | undefined>(
        (most, { gap }) => (most == null ? (gap ?? most) : Math.max(most, gap ?? 0)),
        undefined,
      ),
    }
  })
}
