/**
 * What the daemon's main thread and an anchoring engine worker say to each other: commands one way, events the other,
 * plain objects through a MessagePort. Times are CLOCK_MONOTONIC milliseconds, the same in both threads.
 */

import type { Health } from '../access/policy.ts'
import type { Prefix } from '../core/address.ts'
import type { Endpoint } from '../core/endpoint.ts'
import type { Subject } from '../core/subject.ts'
import type { DecisionEvent, LogLine, PathReport, SocketSetup } from '../tunnel/events.ts'
import type { FlowTuple } from './tables/flow-key.ts'

/** A remote end: an anchor of a host, or a host of an anchor. `name` identifies it in both directions. */
export interface PeerSetup {
  readonly name: string
  readonly kind: 'godwit' | 'wireguard'
  readonly publicKey: Uint8Array
  readonly presharedKey?: Uint8Array
  /** Identity towards this peer alone: that of an invitation. */
  readonly privateKey?: Uint8Array
  /** The key that is to replace it, and is safely stored. */
  readonly nextPrivateKey?: Uint8Array
  /** Anchor: the key is an invitation's: good for association and for one fresh key, for no data. */
  readonly invited?: boolean
  /** Anchor: the key that the host has offered and will use. */
  readonly nextPublicKey?: Uint8Array
  /** Seconds. */
  readonly keepalive?: number
  /** Host: where the anchor is reached, in order of preference; one of each family at most is used. */
  readonly remotes?: readonly Endpoint[]
  /** Host: VIpAs known beforehand (a WireGuard server cannot tell them). */
  readonly v4?: Uint8Array
  readonly v6?: Uint8Array
  /** Anchor: the host's number in the pool, and what else it may send from. */
  readonly number?: number
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

export interface HostSetup {
  readonly role: 'host'
  readonly device: string
  readonly mtu: number
  readonly privateKey: Uint8Array
  readonly fix4: Uint8Array
  readonly fix6: Uint8Array
  /** Mark of the tunnel's own packets. */
  readonly mark: number
  /** Of the last run: handshakes are stamped later than this, whatever the clock says. */
  readonly timestampFloor?: number
}

export interface AnchorSetup {
  readonly role: 'anchor'
  readonly device: string
  readonly mtu: number
  readonly privateKey: Uint8Array
  readonly listenPort: number
  readonly pool4: Prefix
  readonly pool6: Prefix
}

export type Command =
  | { readonly type: 'add-peer'; readonly peer: PeerSetup }
  | { readonly type: 'remove-peer'; readonly name: string }
  | { readonly type: 'remotes'; readonly name: string; readonly remotes: readonly Endpoint[] }
  | { readonly type: 'accept-key'; readonly name: string; readonly publicKey: Uint8Array }
  | { readonly type: 'access'; readonly access: AccessSetup }
  | { readonly type: 'access-gone'; readonly name: string }
  /** Replaces all; the first is the default. Indices are those of `identify`. */
  | { readonly type: 'policies'; readonly policies: readonly PolicySetup[] }
  | { readonly type: 'identify'; readonly flows: readonly Identified[] }
  /** Pins flows (by id), or everything, to an access. */
  | {
      readonly type: 'move'
      readonly request: number
      readonly subject: Subject
      readonly flows: readonly string[] | 'all'
      readonly access: string
      /** Packets must not move these flows at the anchor from now on. */
      readonly static: boolean
    }
  | { readonly type: 'list'; readonly request: number; readonly limit: number }
  | { readonly type: 'wake' }

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
  /** VIpAs, once associated. */
  readonly v4?: Uint8Array
  readonly v6?: Uint8Array
  readonly refused?: string
}

export interface FlowReport {
  readonly id: string
  readonly flow: FlowTuple
  readonly app: number
  readonly policy: string
  readonly peer: string
  readonly access: string
}

export type Event =
  | LogLine
  | {
      readonly type: 'status'
      readonly peers: readonly PeerReport[]
      readonly paths: readonly PathReport[]
      readonly counters: Readonly<Record<string, number>>
    }
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
      readonly gapMs: number | null
      readonly lost: number | null
    }
  /** Host: data began to flow, or has not for a while. */
  | { readonly type: 'traffic'; readonly flows: boolean }
  /** Host: the kernel refused to send over an access; it may be gone. */
  | { readonly type: 'send-failed'; readonly access: string }
  | { readonly type: 'moved'; readonly request: number; readonly flows: number; readonly error?: string }
  | {
      readonly type: 'listed'
      readonly request: number
      readonly flows: readonly FlowReport[]
      readonly total: number
    }
  /** Anchor: a host offers its own key instead of its invitation's. */
  | { readonly type: 'key-offered'; readonly name: string; readonly publicKey: Uint8Array }
  /** Mobile host: to be kept for the next run's `timestampFloor`. */
  | { readonly type: 'timestamp'; readonly floor: number }
  /** Both ends: the new key is in use, the old one is worth nothing. */
  | { readonly type: 'key-confirmed'; readonly name: string; readonly publicKey: Uint8Array }
