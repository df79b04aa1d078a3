/**
 * What the protocol core of IHMP is given and what it gives back.
 */
import type { Random } from '../../core/clock.ts'
import type { Ip, Pair, SocketRow, Tables } from '../tables.ts'
import type { OwnKey } from './host.ts'

export interface IhmpCrypto {
  /** Ed25519 (RFC 8032): 64 bytes. */
  sign(key: OwnKey, bytes: Uint8Array): Uint8Array
  verify(publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean
  /** HMAC-SHA-256. */
  mac(secret: Uint8Array, bytes: Uint8Array): Uint8Array
}

/** Where keys come from (DI-39, DI-40). */
export interface KeyStore {
  /** The private key bound to an own address; undefined: none, messages carry MACs. */
  own(local: Ip): OwnKey | undefined
  /**
   * The public key that configuration or a directory binds to an address; only that one is then believed. Of several the one
   * that is `shown`, if it is among them.
   */
  known(foreign: Ip, shown?: Uint8Array): Uint8Array | undefined
  /** Whether a directory has still to say which keys are bound to the address: a host there is not greeted before. Asks it. */
  awaits?(foreign: Ip): boolean
  /** Asks a directory about an address that a greeted host has come to, and waits for nothing. */
  look?(foreign: Ip): void
}

/** Sequence numbers before the first byte of either direction of a TCP connection, as one end has them. */
export interface StreamStart {
  readonly sent: number
  readonly received: number
}

export interface IhmpComponents {
  readonly tables: Tables
  readonly random: Random
  readonly crypto: IhmpCrypto
  readonly keys: KeyStore
  /** Milliseconds since the epoch: the counter of messages follows it and never goes back. */
  wall(): number
  /** Whether a socket of this host talks to `foreign` from `local`: only then a HELLO from there is answered. */
  hasFlow(local: Ip, foreign: Ip): boolean
  /** Brings the socket table up to date, unless it just was: a peer's move is about to be followed. */
  lookAtSockets(): void
  /**
   * Where the streams of TCP connections begin, in their order; undefined for what is no connection any more. No function:
   * the kernel does not tell.
   */
  readonly streams?: ((flows: readonly SocketRow[]) => readonly (StreamStart | undefined)[]) | undefined
  /** The own address that this host's routes prefer towards `foreign`. */
  preferredLocal(foreign: Ip): Ip | undefined
}

export interface IhmpOptions {
  /** What a host without a key may do: nothing, or move under the secret exchanged in its HELLO. */
  readonly unsigned: 'refuse' | 'allow'
  /** Which own addresses a host is told (policy.ts). */
  readonly advertise: 'scope' | 'all'
  /** How long a host that cannot be reached keeps its flows, milliseconds (D2). */
  readonly holdMs: number
  /** A host without flows is forgotten after this, milliseconds. */
  readonly idleMs: number
  /** Which NATs may name port mappings: those with these keys, or any (DI-42). */
  readonly nats: readonly Uint8Array[] | 'any'
  /** Whether this host can send packets of one family over pairs of the other (crossing.ts). */
  readonly crossing: boolean
  /** Rows of the HID table at most. */
  readonly mostHosts: number
}

export const DEFAULTS: IhmpOptions = {
  unsigned: 'refuse',
  advertise: 'scope',
  holdMs: 120_000,
  idleMs: 300_000,
  nats: [],
  crossing: true,
  mostHosts: 10_000,
}

export type Output =
  /** What these hosts' tables compile to has changed: the kernel follows before anything else is carried out. */
  | { readonly kind: 'apply'; readonly hids: readonly number[] }
  /** A daemon that is started anew must know what `save` returns now: it is stored before anything else is sent. */
  | { readonly kind: 'keep' }
  | {
      readonly kind: 'send'
      readonly bytes: Uint8Array
      readonly pair: Pair
      /** 0: the usual one. */
      readonly port: number
    }
  | { readonly kind: 'state'; readonly hid: number; readonly state: string; readonly reason: string }
  | {
      readonly kind: 'handover'
      readonly hid: number
      /** Of the flows; `to` may be of the other one. */
      readonly family: 4 | 6
      readonly from: Pair | undefined
      readonly to: Pair
      readonly cause: string
      readonly reason: string
    }
  /** Single flows go over this pair now: one of their own, or that of all others again. */
  | {
      readonly kind: 'diverted'
      readonly hid: number
      /** That which they have left; undefined: none. */
      readonly from: Pair | undefined
      readonly pair: Pair
      readonly flows: readonly SocketRow[]
      /** They were stuck there, and their packets carry other ports now (renumbering.ts). */
      readonly renumbered?: boolean
    }
  /** A pair that flows were on works again, or may: its address is back, or the peer is. Nothing has changed in the tables. */
  | { readonly kind: 'resumed'; readonly hid: number; readonly pair: Pair }
  /** It has been silent for as long as flows are held: the applications hear of it, and go on waiting if they like. */
  | { readonly kind: 'silent'; readonly hid: number; readonly flows: readonly SocketRow[] }
  /** Its hold time is over: the applications get an error (DI-32). */
  | {
      readonly kind: 'gone'
      readonly hid: number
      readonly sockets: readonly SocketRow[]
      readonly reason: string
    }

export interface IhmpStats {
  sent: number
  received: number
  malformed: number
  unauthenticated: number
  /** Signatures checked. */
  checked: number
  /** Authentic, but more than a host may send. */
  excessive: number
  replayed: number
  retransmitted: number
  /** Messages of ours that were acknowledged: signalling exchanges. */
  exchanges: number
}
