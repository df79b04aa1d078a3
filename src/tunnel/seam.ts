/**
 * The seam inside the tunnel. Three parts meet here and nowhere else:
 *
 *   machine    the WireGuard protocol, paths, probes, MTU discovery. Sans-I/O. Slow path: handshakes and control.
 *   datapath   TUN ⇄ UDP super-packets, AEAD, replay window, resend ring. Hot path: numbers only, no allocation.
 *   forwarder  which path a packet takes and whether an inner source is allowed: supplied by the mechanism.
 *
 * `Engine` (engine.ts) owns one of each, runs them in one worker thread, and is what mechanisms build.
 *
 * A *slot* is the small integer that names a path in the datapath's tables, over all peers. A *path id* (1–255) is what
 * the two ends of one peer call it on the wire; 0 means unnamed. A *socket* is the index of a UDP socket the engine has
 * opened (one per access on a mobile host, one or two on an anchor). A *peer* is the index of a remote.
 */
import type { Endpoint } from '../core/endpoint.ts'

export type { Endpoint }

/** What a pair of ends agreed to speak: WireGuard's own message 4, or godwit's message 32 (docs/wire/tunnel.md). */
export type TransportForm = 'stock' | 'godwit'

/** The outcome of a handshake, as the datapath needs it. */
export interface SessionKeys {
  readonly peer: number
  /** Chosen by this end; what arriving messages name. The machine asks `Sessions.newIndex` for it. */
  readonly localIndex: number
  /** Chosen by the remote end; what sent messages name. */
  readonly remoteIndex: number
  /** ChaCha20-Poly1305 keys of WireGuard message 4, 32 bytes each. */
  readonly sendKey: Uint8Array
  readonly receiveKey: Uint8Array
  /** AES-256-GCM keys of godwit message 32, derived from the former (HKDF), 32 bytes each. */
  readonly sendKeyAes: Uint8Array
  readonly receiveKeyAes: Uint8Array
}

/** Implemented by the datapath, called by the machine. */
export interface Sessions {
  /** A fresh local index that collides with no live session or pending handshake. */
  newIndex(): number
  /** From now on messages that name `localIndex` are opened. At most three per peer live: previous, current, next. It takes the place of one with this index. */
  install(session: SessionKeys): void
  /** From now on this session seals what goes to its peer. */
  useForSending(localIndex: number): void
  /**
   * How messages to this peer are framed from now on; `ecn`: it folds marks of outer packets into inner ones. `install`
   * starts every peer that was `stock` as `stock`.
   */
  setForm(peer: number, form: TransportForm, ecn?: boolean): void
  /** The process at the other end has said HELLO in this session: what arrives in it shows that it still runs. */
  heardIn(localIndex: number): void
  /**
   * The process at the other end has ended: what was sent since it was last heard may not have been read, and is sent again, to
   * the next one; and what was sent in the last `ms` in any case. The newest packets of each flow, and none older than some seconds.
   */
  unread(peer: number, ms?: number): void
  /** Forgets the session and wipes its keys. */
  remove(localIndex: number): void
  /** Transport messages sealed with this session so far (WireGuard §5.4.6: rekey and reject after messages). */
  sent(localIndex: number): number
}

/** Sending, for the machine; implemented by the datapath. May be called at any time. */
export interface Transmit {
  /** Sends a handshake message (1, 2, 3) as it stands. Returns 0, or the errno of sendmsg. */
  handshake(bytes: Uint8Array, to: Endpoint, socket: number): number
  /**
   * Seals `body` (control frames; empty for a keepalive) with the peer's sending session and sends it on a path at once.
   * Counts in the path's counters, is not reported to `noteTraffic`. Returns the counter it went out with, or -1 when
   * the peer has no session or the socket refused it.
   */
  control(slot: number, body: Uint8Array): number
  /**
   * The same to an address that is not a path's remote, only to ask for its proof. `pathId` goes into the inner header.
   * False when it was not sent.
   */
  controlTo(peer: number, pathId: number, to: Endpoint, socket: number, body: Uint8Array): boolean
}

/** What the datapath counts per path; times in the machine's milliseconds, 0 for never. */
export interface PathCounters {
  readonly lastSentAt: number
  /** Last authenticated datagram that arrived on it. */
  readonly lastReceivedAt: number
  readonly sentBytes: number
  readonly sentPackets: number
  readonly receivedBytes: number
  readonly receivedPackets: number
  /**
   * Highest counter received on it in the session that seals now, -1 for none; told in that session, the remote end knows
   * from it what to send again (`Paths.resend`).
   */
  readonly highestCounter: number
}

/** Implemented by the datapath, called by the machine. */
export interface Paths {
  /** Makes a path; its slot is free of earlier use. */
  open(path: { peer: number; pathId: number; socket: number; remote: Endpoint; mtu: number }): number
  setRemote(slot: number, remote: Endpoint): void
  /**
   * The largest outer IP packet, in bytes, that this path is known to carry. `searching`: larger ones may pass, which will be
   * known soon; until then they go in fragments, and nobody is told that they are too large.
   */
  setMtu(slot: number, mtu: number, searching: boolean): void
  /** Nothing goes there any more. The slot stays taken until `release`. */
  close(slot: number): void
  /** The slot may be given to another path: its closing has been reported to everyone who uses its number. */
  release(slot: number): void
  counters(slot: number): PathCounters
  /**
   * Sends again, over `to`, every datagram sealed for `from` that the ring still holds, that was sent in the last
   * `withinMs`, and whose counter is above `afterCounter`; the same ciphertext, so the remote's replay window drops
   * what had arrived. Returns how many were sent.
   */
  resend(from: number, to: number, afterCounter: number, withinMs: number): number
}

/** The slow path: implemented by the machine, called by the datapath with bytes that are valid only during the call. */
export interface SlowPath {
  /** WireGuard messages 1, 2, 3 (nothing verified yet). */
  handleHandshake(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void
  /** A datagram that is no message of the tunnel: signalling of a mechanism. Absent: dropped. */
  handleOther?(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void
  /**
   * An authenticated control payload. `slot` is the path it arrived on or -1 when its source is not a path's remote;
   * `pathId` is the path it names (0: none). `newest`: nothing newer of this peer has come, in any session, on any socket.
   * `bytes` is the size of the outer IP packet.
   */
  handleControl(
    peer: number,
    localIndex: number,
    slot: number,
    pathId: number,
    from: Endpoint,
    socket: number,
    counter: number,
    newest: boolean,
    bytes: number,
    body: Uint8Array,
    now: number,
  ): void
  /** First authenticated datagram of a session: confirms the keys to a responder. */
  handleFirstReceive(peer: number, localIndex: number, now: number): void
  /**
   * An authenticated datagram without control frames, the newest of its peer so far, came from an address that is no path's
   * remote. `pathId` as it names itself, `bytes` the size of the outer IP packet. The machine asks that address to prove
   * itself, or opens a path for a stock peer whose handshake has proven it. Returns the slot or -1.
   */
  handleRoaming(
    peer: number,
    pathId: number,
    from: Endpoint,
    socket: number,
    bytes: number,
    now: number,
  ): number
  /** Once per batch and peer: data (not keepalives) were sent or received since the last call. Drives the timers. */
  noteTraffic(peer: number, sentData: boolean, receivedData: boolean, receivedAny: boolean, now: number): void
  /** A packet for this peer found no session to seal it with. */
  wantSession(peer: number, now: number): void
  /**
   * A datagram of this peer (-1: of an unknown one) caused an exception here. It is dropped; other peers are not
   * affected.
   */
  fault(peer: number, error: unknown, now: number): void
  /** sendmsg failed on this path with this errno. */
  pathError(slot: number, errno: number, now: number): void
}

/** What a machine is built with; implemented by the datapath. */
export interface MachineSeam {
  readonly sessions: Sessions
  readonly paths: Paths
  readonly transmit: Transmit
}

/** The machine as the engine drives it. */
export interface Machine extends SlowPath {
  /** When `handleTimeout` wants to be called, in the machine's milliseconds; undefined for never. */
  nextTimeout(): number | undefined
  handleTimeout(now: number): void
}

/** Forwarder verdicts that are not a slot. */
export const Verdict = { DROP: -1, PARK: -2, TOO_BIG: -3 } as const

/** Result of `Forwarder.outbound` beside the slot, for a forwarder that uses several paths at once. Set on each call. */
export class Spread {
  /** The first `copies` of these slots get a copy each: the same ciphertext, with path id 0. */
  readonly copyTo = new Int32Array(8)
  copies = 0
  /** The receiver puts these packets in the order they were sealed in (docs/wire/tunnel.md, flag 0x04). */
  ordered = false
  /** When the packet may leave, behind those of its path that wait already; 0: at once, before them. */
  departAt = 0
  /** DSCP of the outer packets, as it stands in the header (upper six bits). */
  trafficClass = 0
}

/**
 * Decides for every inner packet; supplied by the mechanism. Called per super-packet, so it works on numbers: `at` and
 * `length` delimit an IP packet in `bytes`, and it may rewrite addresses in place (the datapath recomputes what a partial
 * checksum needs, and calls after any rewrite of its own).
 */
export interface Forwarder {
  /** Of a forwarder that sends copies or spreads packets over paths; absent: neither. */
  readonly spread?: Spread
  /** Peers whose packets are kept until `Datapath.admit`; absent: none. */
  readonly heldPeers?: ReadonlySet<number>
  /**
   * A packet from the TUN. Returns the slot to send it on, or a Verdict: PARK keeps the newest packets of its flow until a
   * path of its peer is usable (the datapath then asks again).
   * `partialChecksum`: the transport checksum is still the pseudo-header's and will be recomputed.
   */
  outbound(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    partialChecksum: boolean,
    now: number,
  ): number
  /**
   * An authenticated packet from `peer` on `slot` (-1 unknown). False drops it: inner source not allowed. `counter` orders
   * packets of this peer over all its paths and sessions: 2^40 times the session's number (modulo 4096) and its counter.
   */
  inbound(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    partialChecksum: boolean,
    peer: number,
    slot: number,
    counter: number,
    now: number,
  ): boolean
}
