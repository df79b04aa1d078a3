/** What the machine is given, and what it says. */
import { equal } from '../../core/bytes.ts'
import type { Tuple } from './segment.ts'

/** An access as the machine sees it: where subflows can begin. */
export interface AccessInfo {
  readonly name: string
  readonly addresses: readonly Uint8Array[]
  readonly mtu: number
  /** Carries data only while no other works. */
  readonly backup: boolean
}

/** The access with this address. */
export function accessAt(accesses: readonly AccessInfo[], address: Uint8Array): AccessInfo | undefined {
  return accesses.find(({ addresses }) => addresses.some((each) => equal(each, address)))
}

/** How a packet passes a router: the accesses that it comes in and leaves by; undefined for its other interfaces. */
export interface Passage {
  readonly from: string | undefined
  readonly to: string | undefined
}

export interface MptcpInit {
  /** Most connections; further ones stay plain TCP. */
  readonly connections: number
  /** Most connections of one remote address that this host did not open. */
  readonly perSource: number
  /** Most connections of one host behind this one. */
  readonly perHost: number
  /** Most subflows of a connection. */
  readonly subflows: number
  /** Keep a subflow ready on every access. */
  readonly standby: boolean
  /** Peers may send over all subflows at once: none is announced as a backup. */
  readonly multipath: boolean
  /** Offer MPTCP to connections that others open. */
  readonly serve: boolean
  /** Translate connections of hosts that this one forwards for. */
  readonly forward: boolean
  /** Remote ports of connections to translate; undefined: all. */
  readonly ports: readonly number[] | undefined
}

export const DEFAULT_INIT: MptcpInit = {
  connections: 4096,
  perSource: 256,
  perHost: 1024,
  subflows: 8,
  standby: true,
  multipath: false,
  serve: true,
  forward: true,
  ports: undefined,
}

/** What the local TCP sends, what arrives on a subflow, and what arrives on one that counts as the local TCP does. */
export type Side = 'local' | 'wire' | 'same'

export type MachineEvent =
  /** Packets of this tuple are to be handed to the machine from now on, or no longer. */
  | {
      readonly type: 'watch'
      readonly on: boolean
      readonly side: Side
      readonly tuple: Tuple
      /** That of the tuple. */
      readonly key: string
    }
  | { readonly type: 'established'; readonly connection: number }
  | {
      readonly type: 'moved'
      readonly connection: number
      readonly from: string
      readonly to: string
      readonly cause: string
      /** From the last data on the old subflow to the switch; NaN when nothing was under way. */
      readonly gap: number
    }
  | { readonly type: 'ended'; readonly connection: number; readonly reason: string }

/** Counted since the start; all of them are metrics. */
export interface Counts {
  established: number
  fallbacks: number
  joins: number
  joinsRefused: number
  handovers: number
  blackHoles: number
  resets: number
  /** Mappings and acknowledgements that contradict what is known. */
  lies: number
  /** Payload without a mapping. */
  unmapped: number
  /** Subflows on which the peer waited for what nobody sent. */
  stuck: number
  /** Connections that stayed plain for want of room. */
  refused: number
  /** Connections that a killed daemon had. */
  takenOver: number
  /** Times that a connection went to the kernel. */
  fast: number
}

export function newCounts(): Counts {
  return {
    established: 0,
    fallbacks: 0,
    joins: 0,
    joinsRefused: 0,
    handovers: 0,
    blackHoles: 0,
    resets: 0,
    lies: 0,
    unmapped: 0,
    stuck: 0,
    refused: 0,
    takenOver: 0,
    fast: 0,
  }
}
