/**
 * What the daemon's main thread and a router's engine say to each other beside what all engines do (tunnel/engine/events.ts).
 */
import type { Prefix } from '../core/address.ts'
import type { Selector } from '../core/selector.ts'
import type { Subject } from '../core/subject.ts'
import type {
  AddPeer,
  CommonEvent,
  DecisionEvent,
  EngineSetup,
  MobileCommand,
  PathReport,
  SocketSetup,
  StatusEvent,
} from '../tunnel/engine/events.ts'
import type { Mode } from '../tunnel/scheduling/schedulers.ts'

export interface RouterSetup extends EngineSetup {
  /** A gateway at home listens here; a mobile router has none. */
  readonly listenPort?: number
  /** Mark of the tunnel's own packets. */
  readonly mark: number
  /** Subnets behind this gateway: the only sources it sends. Empty: any. */
  readonly own: readonly Prefix[]
  /** Outer packets have the service class of the inner. */
  readonly carryDscp?: boolean
}

/** A traffic class: what it is for, and the scheduler its packets take. The first that matches decides. */
export interface ClassSetup {
  readonly name: string
  /** Any of these; empty: everything. */
  readonly match: readonly Selector[]
  readonly mode: Mode
  /** Share of the bytes that `budget` may copy. */
  readonly cap: number
  /** Delivered as they come, even when spread: for what a late packet is worth nothing. */
  readonly unordered: boolean
  /** Patterns of the accesses that it may use; absent or empty: all. */
  readonly links?: readonly string[]
}

export interface RouterPeer {
  readonly name: string
  readonly publicKey: Uint8Array
  readonly presharedKey?: Uint8Array
  /** Seconds. */
  readonly keepalive: number
  /** This end goes to it, at the addresses that `remotes` tells; else it comes to us. */
  readonly leads: boolean
  /** Subnets behind it: what is sent to it, and the only sources taken from it. */
  readonly subnets: readonly Prefix[]
}

export interface AccessSetup extends SocketSetup {
  /** Lower is preferred. */
  readonly priority: number
}

/** What the connection controller asks of the flow controller (OH-37). */
export interface AccessUse {
  /** Nothing goes over it while anything else works: its radio is about to let go. */
  readonly draining: boolean
  /** Its signal falls, and another one's is clearly stronger. */
  readonly fading: boolean
}

/** What an access may be used for, beside what its radio says ([access.NAME]). */
export interface LinkTerms {
  /** Only while nothing else works: a backup, or its cap is reached. It gets no copies either. */
  readonly reserve: boolean
  /** Milliseconds between probes while it stands by; absent: as usual. */
  readonly standbyMs?: number
  /** 1 to 15: share of `round-robin`. */
  readonly weight: number
}

export type RouterCommand =
  | AddPeer<RouterPeer>
  | MobileCommand<AccessSetup>
  | { readonly type: 'use'; readonly access: string; readonly use: AccessUse }
  | { readonly type: 'terms'; readonly access: string; readonly terms: LinkTerms }
  | { readonly type: 'classes'; readonly classes: readonly ClassSetup[] }
  /** Another scheduler for a class, while it runs. */
  | { readonly type: 'mode'; readonly name: string; readonly mode: Mode }
  /** Prefers an access before all others, for everything or for some classes. */
  | { readonly type: 'prefer'; readonly access: string; readonly classes?: readonly string[] }

export interface RoutedPath extends PathReport, AccessUse {}

export interface ClassReport {
  readonly peer: string
  readonly name: string
  readonly mode: Mode
  /** Accesses (or path ids) in use, and those that get copies. */
  readonly carriers: readonly string[]
  readonly copies: readonly string[]
  readonly reason: string
  readonly bytes: number
  readonly copiedBytes: number
}

export interface RouterStatus extends StatusEvent {
  readonly peers: readonly { readonly name: string; readonly established: boolean }[]
  readonly paths: readonly RoutedPath[]
  readonly classes: readonly ClassReport[]
}

export type RouterEvent =
  | CommonEvent<RouterStatus>
  | DecisionEvent
  | {
      readonly type: 'handover'
      readonly subject: Subject
      readonly from: string
      readonly to: string
      readonly cause: string
    }
  /** Nothing is sent over this access any more, by either end. */
  | { readonly type: 'drained'; readonly access: string }
