/**
 * The seams of the overlay: inputs and outputs of each machine. Machines are pure; `now` is monotonic milliseconds,
 * `wall` milliseconds since 1970. After every call the owner drains `poll()` and re-reads `nextTimeout()`.
 */
import type { Random } from '../../core/clock.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import type { TunnelCrypto } from '../../crypto/tunnel-crypto.ts'
import type { RouteKind } from '../tables.ts'
import type { Lease } from '../wire/lease.ts'
import type { Prekey, Route } from '../wire/message.ts'
import type { KeptPair } from './memory.ts'

/** Primitives that machines are given. */
export interface OverlayCrypto extends TunnelCrypto {
  /** Ed25519. */
  sign(seed: Uint8Array, message: Uint8Array): Uint8Array
  verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean
}

export interface MachineComponents {
  readonly crypto: OverlayCrypto
  readonly random: Random
  /** Milliseconds since 1970; may jump. */
  readonly wall: () => number
}

/** A datagram to send. `socket` is the index of the owner's socket. */
export interface Send {
  readonly type: 'send'
  readonly socket: number
  readonly to: Endpoint
  readonly bytes: Uint8Array
}

/** A step of the paper's procedures, for `godwit overlay trace`. */
export interface Step {
  readonly type: 'step'
  readonly at: number
  readonly from: string
  readonly to: string
  readonly what: string
}

/** A UDP socket of the node's tunnel engine: one for each access and family. */
export interface NodeSocket {
  readonly socket: number
  readonly access: string
  /** Addresses of the interface that this socket sends from, no link-local ones. */
  readonly addresses: readonly Uint8Array[]
  readonly port: number
  /** Lower is preferred: signalling goes over the first that reaches the coordinator. */
  readonly priority: number
  /** Its network has no IPv4 but translates it (NAT64): public IPv4 addresses are reached too. */
  readonly translates?: boolean
  /** Another socket of the same access has replaced it: it is there for what it still carries. */
  readonly replaced?: boolean
}

/** Result of a login, stored by the node (`POST /v1/login`). */
export interface Credentials {
  /** Full name of this node. */
  readonly name: string
  readonly keyId: Uint8Array
  readonly key: Uint8Array
  /** Full name of the coordinator, for the log; its addresses come by `setCoordinator`. */
  readonly coordinator: string
  /** Ed25519 key of the own zone. */
  readonly zoneKey: Uint8Array
}

export interface NodeMachineInit {
  readonly credentials: Credentials
  /** X25519 public key of this node, 32 bytes. */
  readonly publicKey: Uint8Array
  /** The last lease, encoded, over restarts. */
  readonly lease?: Uint8Array
  /** Pairs of earlier runs, the one used last first. */
  readonly kept?: readonly KeptPair[]
  /** Makes a key for packets behind one message 1 to this node; absent: there are none. */
  readonly prekey?: () => Prekey
  /** Wants notifications, and where a push service reaches it (docs/wire/overlay.md, PUSH). */
  readonly notifications?: { readonly push?: string }
}

/** Where a node connects for notifications. */
export interface NotificationTarget {
  readonly host: string
  readonly port: number
  /** 32 bytes: who this node is. */
  readonly token: Uint8Array
  /** SHA-256 of the server's certificate. */
  readonly certificate: Uint8Array
}

/** Actions for the owner. */
export type NodeOutput =
  | Send
  | Step
  /** Keep the lease; put its addresses on the virtual interface. Comes again when something changed. */
  | {
      readonly type: 'registered'
      readonly lease: Lease
      readonly encoded: Uint8Array
      /** Where the coordinator sees us. */
      readonly observed: Endpoint
      /** Connect there; absent: there is no notification server. */
      readonly notification?: NotificationTarget
    }
  /** The coordinator does not answer on any socket; names can not be resolved until `registered` comes again. */
  | { readonly type: 'unregistered'; readonly reason: string }
  /** A tunnel table row was made or renewed: make the peer known to the tunnel with these keys. */
  | {
      readonly type: 'direction'
      readonly peer: string
      readonly lease: Lease
      readonly pairKey: Uint8Array
      readonly leads: boolean
      readonly route: Route
      /** False: the peer asked. */
      readonly asked: boolean
      /** A packet or a user of this node wants the peer; not so where this node looks for a way again by itself. */
      readonly wanted?: boolean
      /** Of the peer, for packets behind message 1 to it. */
      readonly prekey?: Prekey
      /** The peer was given this one of ours. */
      readonly given?: number
    }
  /**
   * This way to the peer works. `open`: this end opens a tunnel path there; else the peer does, and a path may come from there.
   * Repeated when the remote end of a way changes.
   */
  | {
      readonly type: 'way'
      readonly peer: string
      readonly kind: RouteKind
      readonly socket: number
      readonly remote: Endpoint
      readonly open: boolean
      /**
       * `proven`: an answer that only this address was sent came from there over this socket; for a relay, it has bound it.
       * `likely`: the peer was there, as seen from another socket. `hoped`: its message 1 came from there, where the
       * direction has it; until it has answered, `bytes` of packets may go there.
       */
      readonly known?: 'proven' | 'likely' | 'hoped'
      readonly bytes?: number
    }
  /** What to keep for the next run: all of it, whenever it has changed. */
  | { readonly type: 'keep'; readonly pairs: readonly KeptPair[] }
  /** No coordinator answers since the start: the node goes on with the addresses of its last lease. */
  | { readonly type: 'alone'; readonly lease: Lease; readonly encoded: Uint8Array }
  /** A way may soon be there: message 1 of the handshake may leave for it now, once. */
  | { readonly type: 'introduce'; readonly peer: string; readonly socket: number; readonly remote: Endpoint }
  /** Where the peer is reached, the one that it prefers first: of several ways both ends take the same. */
  | { readonly type: 'places'; readonly peer: string; readonly remotes: readonly Endpoint[] }
  /**
   * The way ended: its socket is gone, or the relay has lost the channel. Paths that fail are the tunnel's own verdict.
   */
  | {
      readonly type: 'way-gone'
      readonly peer: string
      readonly socket: number
      readonly remote: Endpoint
    }
  /**
   * The NAT of this access ends mappings at an age: open another socket for it, on another port, beside the one that there
   * is, which is good until `until` (ms).
   */
  | { readonly type: 'renew'; readonly access: string; readonly until: number }
  /** The peer is no longer in the tunnel table: it has ended, was displaced by another, or its key has another name now. */
  | { readonly type: 'forgotten'; readonly peer: string }
  /** The direction was refused, or no way was found in time. Absent packets may be answered with ICMP unreachable. */
  | { readonly type: 'refused'; readonly peer: string; readonly reason: string; readonly status: number }
  | { readonly type: 'log'; readonly level: 'warn' | 'debug'; readonly message: string }

/**
 * NT-32: the negotiation module, and its input from the handover module (NT-33). Implemented by machine/node.ts, which
 * runs in the engine worker beside the tunnel machine.
 */
export interface NodeMachineApi {
  /** Sets all current sockets; registers, binds relays and checks candidates again. */
  setSockets(sockets: readonly NodeSocket[], now: number): void
  /** Addresses of the coordinator, best first; both families if there are. */
  setCoordinator(endpoints: readonly Endpoint[], now: number): void
  /** A datagram of the tunnel's socket whose first byte is 0x4e. */
  handleDatagram(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void
  /** Fig. 5 step 10: what the notification server or a push service brought; empty: register again. */
  handleNotification(bytes: Uint8Array, now: number): void
  /** Whether the notification server is connected: no keep-alive to the coordinator is needed then. */
  setNotified(connected: boolean, now: number): void
  /** Registers again; `registered` says where to connect for notifications. */
  register(now: number): void
  /** NT-29: wants a tunnel to this name. `direction` or `refused` follows; asking again while it is under way changes nothing. */
  resolve(name: string, now: number): void
  /** The access to use first, before priorities. */
  prefer(access: string | undefined, now: number): void
  /** Packets for the peer flow again after a rest: ways over every access are looked for again. */
  noteUsed(peer: string, now: number): void
  /** Packets are exchanged with some peer. */
  noteFlow(now: number): void
  /** A path over this socket fell silent. */
  noteSilence(socket: number, now: number): void
  /** Whether a replaced socket without paths still shows how long its mapping lasts. */
  isWatched(socket: number, now: number): boolean
  /** The last that is sent. */
  end(now: number): void
  /** The peer's process is another one than before. */
  noteRestart(peer: string): void
  /** The peer's process has ended, as it said. */
  noteEnded(peer: string): void
  /** Message 1 of the peer came from there, and was answered. */
  noteGreeted(peer: string, from: Endpoint, socket: number): void
  /** The tunnel has no usable path to the peer (any more): asks for a direction again, for a relay if the last was direct. */
  noteNoPath(peer: string, now: number, isWanted?: boolean): void
  /** The host slept, or its networks changed in a way that sockets do not show. */
  wake(now: number): void
  /** Forgets the peer. */
  forget(peer: string, now: number): void
  poll(): NodeOutput | undefined
  nextTimeout(): number | undefined
  handleTimeout(now: number): void
}
