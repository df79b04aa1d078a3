/**
 * Messages between the daemon's main thread and a node's engine, beside those of all engines (tunnel/engine/events.ts).
 */
import type { Endpoint } from '../../core/endpoint.ts'
import type {
  CommonEvent,
  EngineSetup,
  PathReport,
  SocketSetup,
  StatusEvent,
} from '../../tunnel/engine/events.ts'
import type { Credentials, NodeMachineInit, NotificationTarget, Step } from '../machine/api.ts'
import type { KeptPair } from '../machine/memory.ts'
import type { RouteKind } from '../tables.ts'

export interface NodeSetup extends EngineSetup {
  /** Mark of the tunnel's own packets. */
  readonly mark: number
  readonly credentials: Credentials
  /** The last lease, encoded, over restarts. */
  readonly lease?: Uint8Array
  readonly kept?: readonly KeptPair[]
  readonly notifications?: NodeMachineInit['notifications']
}

export interface NodeAccess extends SocketSetup {
  /** Lower is preferred. */
  readonly priority: number
  /** Global and private ones, no link-local. */
  readonly addresses: readonly Uint8Array[]
}

/** A node by its name, and its virtual addresses. */
export interface NodePeer {
  readonly name: string
  readonly v6: Uint8Array
  readonly v4?: Uint8Array
}

export type NodeCommand =
  | { readonly type: 'access'; readonly access: NodeAccess }
  | { readonly type: 'access-gone'; readonly name: string }
  | { readonly type: 'wake' }
  | { readonly type: 'coordinator'; readonly endpoints: readonly Endpoint[] }
  /** Peers of earlier runs: a packet for one of them asks for a direction. */
  | { readonly type: 'known'; readonly peers: readonly NodePeer[] }
  /** Events report the result. */
  | { readonly type: 'resolve'; readonly name: string }
  /** The kernel's routes lead to a peer that was `directed`. */
  | { readonly type: 'routed'; readonly name: string }
  | { readonly type: 'forget'; readonly name: string }
  /** The access to use first, before priorities; absent: none. */
  | { readonly type: 'prefer'; readonly access?: string }
  | { readonly type: 'notified'; readonly connected: boolean }
  | { readonly type: 'notification'; readonly bytes: Uint8Array }
  /** Again: a notification server was lost. */
  | { readonly type: 'register' }

export interface OverlayPath extends PathReport {
  readonly kind: RouteKind
  /** Packets use it now. */
  readonly used: boolean
}

export interface PeerReport extends NodePeer {
  readonly publicKey: Uint8Array
  readonly established: boolean
  /** The access in use; absent: there is no way. */
  readonly access?: string
  readonly kind?: RouteKind
  readonly reason: string
}

export interface NodeStatus extends StatusEvent {
  readonly paths: readonly OverlayPath[]
  readonly peers: readonly PeerReport[]
}

export type NodeEvent =
  | CommonEvent<NodeStatus>
  | {
      readonly type: 'registered'
      readonly v6: Uint8Array
      readonly v4?: Uint8Array
      readonly encoded: Uint8Array
      /** Wall clock (ms). */
      readonly until: number
      readonly observed: string
      readonly notification?: NotificationTarget
    }
  | { readonly type: 'unregistered'; readonly reason: string }
  | { readonly type: 'keep'; readonly pairs: readonly KeptPair[] }
  /** No coordinator answers since the start: the addresses are those of the last lease. */
  | { readonly type: 'alone'; readonly v6: Uint8Array; readonly v4?: Uint8Array; readonly until: number }
  | { readonly type: 'directed'; readonly peer: NodePeer; readonly asked: boolean }
  | { readonly type: 'refused'; readonly name: string; readonly reason: string; readonly status: number }
  /** The conversation since the last event of this kind. */
  | { readonly type: 'steps'; readonly steps: readonly Step[] }
  | {
      readonly type: 'handover'
      readonly peer: string
      readonly from: string
      readonly to: string
      readonly cause: string
    }
