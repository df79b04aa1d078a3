/**
 * The tables of the overlay as the paper names them: locations at a coordinator (§2.2), tunnels at a node (§3.1), relayed
 * pairs at a relay (§2.4). Rows only; who fills them is in machine/.
 */
import { equal, toHex } from '../core/bytes.ts'
import type { Endpoint } from '../core/endpoint.ts'
import type { Candidate, RelaySide, Route } from './wire/message.ts'

/** Key of a map by endpoint; IPv4 must not be mapped into IPv6. */
export function endpointKey({ address, port }: Endpoint): string {
  return `${toHex(address)}:${port}`
}

export function sameEndpoint(a: Endpoint, b: Endpoint): boolean {
  return a.port === b.port && equal(a.address, b.address)
}

/** A node in a coordinator's durable store. */
export interface NodeRecord {
  /** Full name, lower case. */
  readonly name: string
  readonly account: string
  /** Of the account, 8 bytes in hexadecimal: another account of the same name has another. */
  readonly accountId: string
  /** X25519, 32 bytes. */
  readonly publicKey: Uint8Array
  /** Login key and its id, of the last login. */
  readonly keyId: Uint8Array
  readonly key: Uint8Array
  /** When the login key ends, seconds since 1970; absent: it does not. */
  readonly expires?: number
  /** The last lease, encoded; absent until the first registration. */
  readonly lease?: Uint8Array
}

/** Whether its login key has ended, by the wall clock (ms). */
export function hasEnded({ expires }: Pick<NodeRecord, 'expires'>, wall: number): boolean {
  return expires !== undefined && 1000 * expires <= wall
}

/** NT-15: where a registered node is. */
export interface Location {
  readonly name: string
  /** Host candidates that the node reports. */
  readonly hosts: readonly Candidate[]
  /** Where its datagrams come from; `proven`: it answered a challenge there. Data and names of locations come from proven ones only. */
  readonly observed: Endpoint
  readonly proven: boolean
  /** Index of its session with the coordinator. */
  readonly session: number
  /** Monotonic milliseconds. */
  readonly at: number
  readonly expiresAt: number
  /**
   * Time of the last keep-alive. While it is younger than a NAT's timeout, the node receives datagrams sent to
   * `observed`.
   */
  readonly heardAt: number
}

export type RouteKind = 'lan' | 'direct' | 'relay'

/** A working way to the peer; the tunnel has a path for it. */
export interface TunnelWay {
  readonly kind: RouteKind
  /** Socket of the tunnel engine, and where it sends to. */
  readonly socket: number
  readonly remote: Endpoint
}

/** NT-35: the tunnel table. One row for each peer that was directed to this node. */
export interface TunnelRow {
  /** Full name. */
  readonly peer: string
  readonly publicKey: Uint8Array
  readonly v6: Uint8Array
  readonly v4?: Uint8Array
  /** Pre-shared key of the handshake. */
  readonly pairKey: Uint8Array
  /** This end opens what connects first; path ids 1–127, the other's are 128–254. */
  readonly leads: boolean
  readonly route: Route
  readonly candidates: readonly Candidate[]
  readonly relay?: RelaySide
  readonly ways: readonly TunnelWay[]
  /** Monotonic milliseconds of the last direction. */
  readonly directedAt: number
}

/** NT-25: one side of a channel at a relay. */
export interface ChannelSide {
  /** Index of the port that this side's node sends to. */
  readonly port: number
  /** The bound address of the node. */
  readonly bound?: Endpoint
  readonly key: Uint8Array
  /** Counter of the RELAY_BIND that bound it. */
  readonly counter: number
}
