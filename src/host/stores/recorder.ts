/**
 * Stores every handover and decision with its evidence, in bounded memory, and logs them. `godwit why` reads them from
 * here.
 */

import { parseAddress } from '../../core/address.ts'
import { protocolNumber } from '../../core/flow.ts'
import type {
  ClassStatus,
  DecisionRecord,
  FlowStatus,
  HandoverRecord,
  LogLevel,
  Metric,
  Recorder,
} from '../../core/mechanism.ts'
import type { FlowFacts } from '../../core/selector.ts'
import { concerns, formatSubject, type Traffic } from '../../core/subject.ts'
import type { Log } from '../daemon/log.ts'
import { Ring } from './ring.ts'

const HANDOVERS = 1000
const DECISIONS = 10_000
/** Upper bounds of the gap's histogram, milliseconds. */
const GAP_BUCKETS = [1, 5, 10, 25, 50, 100, 250, 500, 1000, 5000]

export class HostRecorder implements Recorder {
  readonly #handovers = new Ring<HandoverRecord>(HANDOVERS)
  /** Records whose gap and loss are being measured, by key. */
  readonly #pending = new Map<number, HandoverRecord>()
  readonly #decisions = new Ring<DecisionRecord>(DECISIONS)
  readonly #gaps = new Array<number>(GAP_BUCKETS.length).fill(0)
  #gapCount = 0
  #gapSum = 0
  #lost = 0
  readonly #log: Log

  constructor(log: Log) {
    this.#log = log
  }

  handover(told: Omit<HandoverRecord, 'what'>, key?: number): void {
    const record = { ...told, what: formatSubject(told.subject) }
    this.#handovers.add(record)
    this.#count(record)
    const { what, from, to, cause } = record
    this.#log.log('info', `handover: ${what} ${from} -> ${to} (${cause})${showResult(record)}`)
    if (key === undefined) return
    this.#pending.set(key, record)
    if (this.#pending.size > HANDOVERS) this.#pending.delete(this.#pending.keys().next().value!)
  }

  measured(key: number, result: Pick<HandoverRecord, 'gap_ms' | 'lost_packets'>): void {
    const record = this.#pending.get(key)
    if (record === undefined) return
    this.#pending.delete(key)
    Object.assign(record, result)
    this.#count(result)
    const shown = showResult(result)
    if (shown !== '') this.#log.log('info', `handover of ${record.what} to ${record.to}${shown}`)
  }

  #count({ gap_ms, lost_packets }: Pick<HandoverRecord, 'gap_ms' | 'lost_packets'>): void {
    this.#lost += lost_packets ?? 0
    if (gap_ms === null) return
    this.#gapCount++
    this.#gapSum += gap_ms
    const bucket = GAP_BUCKETS.findIndex((bound) => gap_ms <= bound)
    if (bucket >= 0) this.#gaps[bucket]!++
  }

  decision(told: Omit<DecisionRecord, 'what'>): void {
    const record = { ...told, what: formatSubject(told.subject) }
    this.#decisions.add(record)
    this.#log.log('debug', `${record.mechanism}: ${record.what} -> ${record.chosen}: ${record.reason}`)
  }

  set logLevel(level: LogLevel) {
    this.#log.level = level
  }

  log(level: LogLevel, message: string): void {
    this.#log.log(level, message)
  }

  /** Oldest first. */
  handovers(): HandoverRecord[] {
    return [...this.#handovers]
  }

  /**
   * Records about a flow, oldest first: of the flow itself, selectors that match it, its policy, access and peer,
   * everything.
   */
  about(flow: FlowStatus): { decisions: DecisionRecord[]; handovers: HandoverRecord[] } {
    return this.#concerning(trafficOf(flow))
  }

  /** Records about a traffic class of a router. */
  aboutClass({ id, name, peer, access }: ClassStatus): {
    decisions: DecisionRecord[]
    handovers: HandoverRecord[]
  } {
    return this.#concerning({ id, peer, access, policy: { name, peer } })
  }

  #concerning(traffic: Traffic): { decisions: DecisionRecord[]; handovers: HandoverRecord[] } {
    return {
      decisions: [...this.#decisions].filter(({ subject }) => concerns(subject, traffic)),
      handovers: [...this.#handovers].filter(({ subject }) => concerns(subject, traffic)),
    }
  }

  metrics(): Metric[] {
    const gap = 'godwit_handover_gap_seconds'
    const help = 'Silence around a handover.'
    let cumulative = 0
    const buckets = GAP_BUCKETS.map((bound, i): Metric => {
      cumulative += this.#gaps[i]!
      return {
        name: `${gap}_bucket`,
        help,
        type: 'counter',
        labels: { le: String(bound / 1000) },
        value: cumulative,
      }
    })
    return [
      { name: 'godwit_handovers_total', help: 'Handovers.', type: 'counter', value: this.#handovers.added },
      {
        name: 'godwit_decisions_total',
        help: 'Path decisions.',
        type: 'counter',
        value: this.#decisions.added,
      },
      {
        name: 'godwit_handover_lost_packets_total',
        help: 'Packets lost in handovers.',
        type: 'counter',
        value: this.#lost,
      },
      ...buckets,
      { name: `${gap}_bucket`, help, type: 'counter', labels: { le: '+Inf' }, value: this.#gapCount },
      { name: `${gap}_sum`, help, type: 'counter', value: this.#gapSum / 1000 },
      { name: `${gap}_count`, help, type: 'counter', value: this.#gapCount },
    ]
  }
}

function showResult({ gap_ms, lost_packets }: Pick<HandoverRecord, 'gap_ms' | 'lost_packets'>): string {
  const gap = gap_ms === null ? '' : `, gap ${gap_ms.toFixed(1)} ms`
  return lost_packets === null ? gap : `${gap}, lost ${lost_packets} packets`
}

/** The criteria that select the records about a flow. */
export function trafficOf(flow: FlowStatus): Traffic {
  const { id, peer, access } = flow
  // For a flow that was moved by hand: its policy without the pin.
  const name = flow.policy?.replace(/, pinned to .*/, '')
  return { id, peer, access, facts: facts(flow), ...(name !== undefined && { policy: { name } }) }
}

/** The facts of a flow's status for matching selectors; users and cgroups are not among them. */
export function facts(flow: FlowStatus): FlowFacts {
  const colon = flow.dst.lastIndexOf(':')
  const dst = parseAddress(flow.dst.slice(0, colon).replace(/^\[|\]$/g, ''))
  return {
    id: flow.id,
    proto: protocolNumber(flow.proto),
    dst: dst.ok ? dst.value : undefined,
    dstPort: Number(flow.dst.slice(colon + 1)),
    executable: flow.app === '' ? undefined : flow.app,
  }
}
