/**
 * Messages between the daemon's main thread and the engines of anchoring, beside those of all engines
 * (tunnel/engine/events.ts). The engines of a mobile host and of an anchor have separate protocols.
 */
import type { Health } from '../access/policy.ts'
import type { Prefix } from '../core/address.ts'
import type { Subject } from '../core/subject.ts'
import type {
  AddPeer,
  CommonEvent,
  DecisionEvent,
  EngineSetup,
  MobileCommand,
  Question,
  RemovePeer,
  SocketSetup,
  StatusEvent,
} from '../tunnel/engine/events.ts'
import type { FlowTuple } from './tables/flow-key.ts'

/** A remote end. `name` identifies it in both directions. */
interface PeerSetup {
  readonly name: string
  readonly kind: 'godwit' | 'wireguard'
  readonly publicKey: Uint8Array
  readonly presharedKey?: Uint8Array
}

/** An anchor, or a WireGuard server, as a host's engine needs it. */
export interface RemoteAnchor extends PeerSetup {
  /** Identity towards this peer alone: that of an invitation. */
  readonly privateKey?: Uint8Array
  /** The key that is to replace it, and is safely stored. */
  readonly nextPrivateKey?: Uint8Array
  /** The key that the anchor has offered and will use. */
  readonly nextPublicKey?: Uint8Array
  /** `privateKey` is an invitation's: data wait until the anchor has taken the next one. */
  readonly invited?: true
  /** Seconds. */
  readonly keepalive?: number
  /** VIpAs known beforehand (a WireGuard server cannot announce them). */
  readonly v4?: Uint8Array
  readonly v6?: Uint8Array
}

/** A host as an anchor's engine needs it. */
export interface RemoteHost extends PeerSetup {
  /** The key is an invitation's: good for association and for one fresh key, for no data. */
  readonly invited?: boolean
  /** The host was removed: a `Status` of the wire that says why. It gets no data and no address. */
  readonly refused?: number
  /** The name of that host, for the log. */
  readonly calls?: string
  /** The key that the host has offered and will use. */
  readonly nextPublicKey?: Uint8Array
  /** The anchor's own key that is to replace the one it has, and is safely stored. */
  readonly nextPrivateKey?: Uint8Array
  /** Its number in the pool, and what else it may send from. */
  readonly number: number
  readonly allowed?: readonly Prefix[]
}

export interface PolicySetup {
  readonly name: string
  readonly prefer: readonly string[]
  readonly fallback: 'any' | 'none'
  readonly moveUp: boolean
  /** Name of the peer; absent: the first. */
  readonly peer?: string
}

/** An access as the worker needs it. */
export interface AccessSetup extends SocketSetup {
  readonly health: Health
  readonly since: number
  readonly detail: string
  readonly use: 'normal' | 'backup'
  readonly cost: number
}

export interface HostSetup extends EngineSetup {
  readonly role: 'host'
  readonly fix4: Uint8Array
  readonly fix6: Uint8Array
  /** Mark of the tunnel's own packets. */
  readonly mark: number
}

export interface AnchorSetup extends EngineSetup {
  readonly role: 'anchor'
  /** Those after the first are done without where another program has them. */
  readonly listenPorts: readonly number[]
  readonly pool4: Prefix
  readonly pool6: Prefix
}

/** Lists rows of the PAFT, at most `limit`. */
export interface ListFlows extends Question {
  readonly type: 'list'
  readonly limit: number
  /** Bytes of each flow are counted from now on, until no watched list has been requested for a while. */
  readonly watched: boolean
}

export interface FlowList {
  readonly flows: readonly FlowReport[]
  /** How many there are, listed or not. */
  readonly total: number
}

export type HostCommand =
  | AddPeer<RemoteAnchor>
  | MobileCommand<AccessSetup>
  /** Replaces all; the first is the default. Indices are those of `identify`. */
  | { readonly type: 'policies'; readonly policies: readonly PolicySetup[] }
  | { readonly type: 'identify'; readonly flows: readonly Identified[] }
  | KeyCommand
  | MoveFlows
  | ListFlows

/** Pins flows (by id), or everything, to an access. */
interface MoveFlows extends Question {
  readonly type: 'move'
  readonly subject: Subject
  readonly flows: readonly string[] | 'all'
  /** Absent: they are returned to their policies. */
  readonly access?: string
  /** Packets must not move these flows at the anchor from now on. */
  readonly static: boolean
}

export interface HostAnswers {
  readonly move: { readonly flows: number }
  readonly list: FlowList
}

export type AnchorCommand = AddPeer<RemoteHost> | RemovePeer | KeyCommand | RenewIdentity | ListFlows

/** The anchor's own key ends; this one takes its place for all hosts. */
export interface RenewIdentity {
  readonly type: 'renew-identity'
  readonly privateKey: Uint8Array
}

/** A new key of this end is offered to a peer, which confirms it; a peer's is stored and may be used. */
export type KeyCommand =
  | { readonly type: 'replace-key'; readonly name: string; readonly privateKey: Uint8Array }
  | { readonly type: 'accept-key'; readonly name: string; readonly publicKey: Uint8Array }

export interface AnchorAnswers {
  readonly list: FlowList
}

/** Whose a flow is: index of its policy, and of its application in the main thread's own table. */
export interface Identified {
  readonly id: string
  readonly policy: number
  readonly app: number
  /** Access that its application has been moved to. */
  readonly pin?: string
}

export interface PeerReport {
  readonly name: string
  readonly established: boolean
  /** The anchor has not accepted the host's own key yet: data wait. */
  readonly joining?: true
  /** VIpAs, once associated. */
  readonly v4?: Uint8Array
  readonly v6?: Uint8Array
  readonly refused?: string
}

export interface FlowReport {
  readonly id: string
  readonly flow: FlowTuple
  readonly app: number
  /** When its row was made, milliseconds since the Unix epoch. */
  readonly since: number
  /** Bytes of its packets since they are counted; absent: they are not. */
  readonly bytes?: { readonly sent: number; readonly received: number }
  readonly policy: string
  readonly peer: string
  readonly access: string
  readonly pinned?: string
}

/** Common to both kinds of engine. */
export interface EngineStatus extends StatusEvent {
  readonly peers: readonly PeerReport[]
}

export type HostEvent =
  | CommonEvent<EngineStatus>
  | {
      readonly type: 'new-flows'
      readonly flows: readonly { readonly id: string; readonly flow: FlowTuple }[]
    }
  | DecisionEvent
  | {
      readonly type: 'handover'
      readonly at: number
      readonly subject: Subject
      readonly from: string
      readonly to: string
      readonly cause: string
      /** Its result comes as `handover-measured` with this key; absent: there is none to come. */
      readonly key?: number
    }
  | {
      readonly type: 'handover-measured'
      readonly key: number
      readonly gapMs: number | null
      readonly lost: number | null
    }
  /** Data began to flow, or has not for a while. */
  | { readonly type: 'traffic'; readonly flows: boolean }
  /** The kernel refused to send over an access; it may be gone. */
  | { readonly type: 'send-failed'; readonly access: string }
  | KeyEvent

export type AnchorEvent = CommonEvent<EngineStatus> | KeyEvent

export type KeyEvent =
  /** A peer offers another key of its own (a host that joins: instead of its invitation's). */
  | { readonly type: 'key-offered'; readonly name: string; readonly publicKey: Uint8Array }
  /** The new key, of this end or of the peer, is in use; the old one is worth nothing. */
  | {
      readonly type: 'key-confirmed'
      readonly name: string
      readonly whose: 'own' | 'remote'
      readonly publicKey: Uint8Array
    }
