/**
 * What the main thread and every engine worker say to each other alike: plain objects through a MessagePort. Mechanisms add
 * theirs (anchoring/protocol.ts, routing/protocol.ts).
 */
import type { DecisionRecord } from '../core/mechanism.ts'
import type { Subject } from '../core/subject.ts'
import type { PathState } from './machine/api.ts'

export interface LogLine {
  readonly type: 'log'
  readonly level: 'warn' | 'info' | 'debug'
  readonly message: string
}

export type Evidence = NonNullable<DecisionRecord['evidence']>

export interface PathReport {
  readonly peer: string
  readonly id: number
  readonly access: string
  readonly remote: string
  readonly state: PathState['name']
  /** NaN while unknown. */
  readonly rttMs: number
  readonly loss: number
  readonly mtu: number
  readonly sentBytes: number
  readonly receivedBytes: number
  /** CLOCK_MONOTONIC milliseconds. */
  readonly lastReceivedAt: number
}

export interface DecisionEvent {
  readonly type: 'decision'
  readonly subject: Subject
  readonly chosen: string
  readonly reason: string
  readonly evidence: Evidence
}

/** An access as far as its socket is concerned. */
export interface SocketSetup {
  readonly name: string
  readonly families: readonly (4 | 6)[]
  readonly mtu: number
  /** Grows when sockets and paths over it must be made anew. */
  readonly generation: number
}
