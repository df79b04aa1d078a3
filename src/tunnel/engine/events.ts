/**
 * Messages between the main thread (tunnel-host.ts) and every tunnel engine (tunnel-engine.ts): plain objects through a
 * MessagePort, commands one way, events the other. The protocol of a mechanism (anchoring/protocol.ts,
 * routing/protocol.ts) is a union of those that its engine uses and its own. Times are CLOCK_MONOTONIC milliseconds, the
 * same in both threads.
 */
import type { Endpoint } from '../../core/endpoint.ts'
import type { DecisionRecord } from '../../core/mechanism.ts'
import type { Subject } from '../../core/subject.ts'
import type { PathState } from '../protocol/api.ts'
import type { Outcome } from './outcome.ts'

/** What every engine is built from; a mechanism adds its part. */
export interface EngineSetup {
  readonly device: string
  /** MTU of the device. */
  readonly mtu: number
  readonly privateKey: Uint8Array
  /** No handshake is stamped with this wall time or one before; see the event `timestamp`. */
  readonly timestampFloor?: number
  /** The device and the routes into it disappear when the process ends without cleaning up. Default: they stay. */
  readonly passing?: boolean
}

// ---- commands

/** A command that wants an answer has a number; the event `answer` carries it back. */
export interface Question {
  readonly request: number
}

/** Answered by every engine, to show that its loop goes round. */
export interface Alive extends Question {
  readonly type: 'alive'
}

export interface AddPeer<Peer> {
  readonly type: 'add-peer'
  readonly peer: Peer
}

export interface RemovePeer {
  readonly type: 'remove-peer'
  readonly name: string
}

/** Every engine carries it out: a handshake initiation to where the peer was last, unless there is a session. */
export interface Greet {
  readonly type: 'greet'
  readonly name: string
  readonly remote: Endpoint
}

/** For a mobile end (mobile-end.ts): where its peers are reached, and the accesses that it reaches them over. */
export type MobileCommand<Access extends SocketSetup> =
  /** The preferred endpoint first; over this access, or over all that nothing is known for. */
  | {
      readonly type: 'remotes'
      readonly name: string
      readonly remotes: readonly Endpoint[]
      readonly access?: string
    }
  | { readonly type: 'access'; readonly access: Access }
  | { readonly type: 'access-gone'; readonly name: string }
  /** A path over the access by a WebSocket that is reached at this port of 127.0.0.1 (tunnel/carrier); absent: no more. */
  | { readonly type: 'carrier'; readonly name: string; readonly access: string; readonly port?: number }
  /** Asks for the port on loopback that such paths come from. */
  | (Question & { readonly type: 'carrier-port' })
  /** The machine slept. */
  | { readonly type: 'wake' }

/** An access as far as its socket is concerned. */
export interface SocketSetup {
  readonly name: string
  /** Without it there is neither socket nor path. */
  readonly up: boolean
  readonly families: readonly (4 | 6)[]
  /** Of the interface, as far as they are known. */
  readonly addresses?: readonly Uint8Array[]
  readonly mtu: number
  /** It carries no IPv4 but translates it: what IPv4 addresses have in front there (12 bytes, RFC 6052). */
  readonly nat64?: Uint8Array
  /** Increased when sockets and paths over the access have to be recreated. */
  readonly generation: number
}

// ---- events

/** Those that `TunnelHost` handles itself. */
export type CommonEvent<Status extends StatusEvent> =
  | LogLine
  | TimestampEvent
  | AnswerEvent
  | ClockEvent
  | Status

export interface LogLine {
  readonly type: 'log'
  readonly level: 'error' | 'warn' | 'info' | 'debug'
  readonly message: string
}

/** To be kept for the next run's `timestampFloor`. */
export interface TimestampEvent {
  readonly type: 'timestamp'
  readonly floor: number
}

/** The wall clock was set, or the machine slept; at first without: such changes will be reported. */
export interface ClockEvent {
  readonly type: 'clock'
  readonly changed: boolean
}

export interface AnswerEvent extends Question {
  readonly type: 'answer'
  readonly outcome: Outcome
}

/** About once a second, and soon after something changed. */
export interface StatusEvent {
  readonly type: 'status'
  readonly paths: readonly PathReport[]
  readonly counters: Readonly<Record<string, number>>
}

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
  /** Carrier of the path, if not UDP. */
  readonly carrier?: 'websocket'
}

export interface MobileAnswers {
  readonly 'carrier-port': number
}

export type Evidence = NonNullable<DecisionRecord['evidence']>

export interface DecisionEvent {
  readonly type: 'decision'
  readonly subject: Subject
  readonly chosen: string
  readonly reason: string
  readonly evidence: Evidence
}
