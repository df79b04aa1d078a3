/**
 * What goes into the tunnel machine and what comes out of it. `TunnelMachine` (index.ts) implements `Machine` of the seam
 * and the commands below. After every call its owner drains `poll()` and re-reads `nextTimeout()`.
 *
 * The owner reads its sockets until they are empty before it calls `handleTimeout`: verdicts on silent paths rest on it.
 */
import type { Random } from '../../core/clock.ts'
import type { TunnelCrypto } from '../../crypto/tunnel-crypto.ts'
import type { Endpoint, Machine, MachineSeam } from '../seam.ts'

export interface MachineComponents extends MachineSeam {
  readonly crypto: TunnelCrypto
  readonly random: Random
  /** Milliseconds since the Unix epoch; may jump. Only the timestamp of initiations comes from it. */
  readonly wall: () => number
}

export interface MachineInit {
  /** Identity of this end, X25519, 32 bytes. Peers may have identities of their own (`PeerConfig.privateKey`). */
  readonly privateKey: Uint8Array
  /** MTU of the virtual interface, sent to peers in HELLO. */
  readonly interfaceMtu?: number
  /** Features of HELLO this end speaks; default all (control.ts, `Feature`). */
  readonly features?: number
  /** Initiations a second beyond which cookies are demanded. Default 100. */
  readonly loadThreshold?: number
  /** Largest outer IP packet ever probed for, bytes. Default 1500. */
  readonly maxMtu?: number
  /**
   * Interval (ms) at which paths in use are measured, with a `sample` event for each measurement. Default 200, without
   * events.
   */
  readonly measureInterval?: number
  /** No timestamp at or before this wall time is sent: `floor` of the last `timestamp-sent` before a restart. */
  readonly timestampFloor?: number
}

/**
 * `auto`: WireGuard's own messages until a HELLO arrives, usable at once. `godwit`: paths are used only after
 * PATH_ACCEPT. `stock`: no HELLO is sent.
 */
export type Dialect = 'auto' | 'godwit' | 'stock'

export interface AllowedIp {
  /** 4 or 16 bytes; bits beyond the prefix are zero. */
  readonly address: Uint8Array
  readonly prefixLength: number
}

export interface PeerConfig {
  readonly publicKey: Uint8Array
  readonly presharedKey?: Uint8Array
  /** Seconds between keepalives; 0 or absent: none. Towards godwits paths are kept alive by probes anyhow. */
  readonly persistentKeepalive?: number
  /** Kept for the forwarder; the machine does not look at them. */
  readonly allowedIps?: readonly AllowedIp[]
  /** Default `auto`. */
  readonly dialect?: Dialect
  /** It sleeps behind a NAT that may forget it: what leaves after an idle time may be lost until it is woken, and is sent again. */
  readonly sleeps?: boolean
  /** The owner wants `greeted`. */
  readonly reportsGreetings?: boolean
  /** An identity towards this peer alone (a host that joined by invitation). */
  readonly privateKey?: Uint8Array
  /** A KEY_REPLACE under way when this end last stopped: its fresh private key. */
  readonly nextPrivateKey?: Uint8Array
  /** A KEY_REPLACE of the peer's that is acknowledged but not yet used: its fresh public key. */
  readonly nextPublicKey?: Uint8Array
  /** Anchor: its key came with an invitation, which several may hold; it is good for one fresh key and ends with that. */
  readonly invited?: boolean
  /**
   * Anchor: a key that is no longer valid and whose holder is to be told why. It may not offer a key, except one that
   * another peer has by now: that is acknowledged, so that a host that missed the acknowledgement goes on with it.
   */
  readonly spent?: boolean
  /** Greatest timestamp accepted from this peer, 12 bytes, of `timestamp-accepted` before a restart. */
  readonly lastTimestamp?: Uint8Array
}

export interface PathConfig {
  /** 1–255, what both ends call it. Unique among the peer's paths that are not closed. */
  readonly pathId: number
  /** Index of an open UDP socket. */
  readonly socket: number
  readonly remote: Endpoint
  /** MTU of the interface below, bytes of outer IP packet. */
  readonly mtu: number
  /**
   * What the owner knows of it. `proven`: datagrams pass both ways, shown just now, so packets use it before PATH_ACCEPT.
   * `likely`: the peer received at that address lately; packets use it before PATH_ACCEPT only while no other path works.
   * `hoped`: message 1 came from there (`greeted`), and the owner knows that the peer should be there. Used as a likely one is,
   * also in a session that the peer has not used yet; closed if the peer does not answer there in EARLY_USE. The owner
   * bounds the bytes of packets that go there until then.
   */
  readonly known?: 'proven' | 'likely' | 'hoped'
  /** A `proven` remote is a relay, which has answered this end and may not reach the peer yet: what leaves before PATH_ACCEPT may be lost. */
  readonly relayed?: boolean
}

/** Why a path ended; what PATH_CLOSE carries. */
export const CloseReason = {
  /** The owner removed it: link, address or route gone. */
  removed: 1,
  /** Silent under traffic. */
  silent: 2,
  /** sendmsg failed permanently. */
  error: 3,
  /** The peer closed it. */
  remote: 4,
  /** A newer generation of the same path id took its place. */
  replaced: 5,
  /** The peer restarted, or was removed here. */
  peer: 6,
} as const
export type CloseReason = (typeof CloseReason)[keyof typeof CloseReason]

/** The numbers a verdict rests on; milliseconds, NaN where unknown. */
export interface PathEvidence {
  /** Since the last authenticated datagram arrived. */
  readonly silentMs: number
  /** Since the remote end last confirmed that something of ours arrived. */
  readonly unconfirmedMs: number
  /** Probes sent since anything arrived. */
  readonly unanswered: number
  readonly rttMs: number
  readonly rttVarMs: number
  /** 0–1, towards the remote end, over the last seconds. */
  readonly loss: number
}

/**
 * new → validating → up ⇄ degrading ⇄ suspect → down → validating …, and closing from anywhere. Packets may be sent while
 * it is up, degrading or suspect (`usable`).
 */
export type PathState =
  /** No session yet. */
  | { readonly name: 'new' }
  /** PATH_ANNOUNCE is out, no answer yet. */
  | { readonly name: 'validating'; readonly since: number; readonly tries: number }
  | { readonly name: 'up'; readonly since: number }
  /** Works, with loss above 5 % or an RTT far above its usual. */
  | { readonly name: 'degrading'; readonly since: number; readonly evidence: PathEvidence }
  /** Silent for longer than its RTT explains; probed hard, verdict within about 100 ms. */
  | { readonly name: 'suspect'; readonly since: number; readonly evidence: PathEvidence }
  /** Declared dead; announced again with growing pauses. */
  | {
      readonly name: 'down'
      readonly since: number
      readonly reason: CloseReason
      readonly evidence: PathEvidence
    }
  /** Removed; the slot lives on until what it lost has been sent again. */
  | { readonly name: 'closing'; readonly since: number; readonly reason: CloseReason }

export function usable(state: PathState): boolean {
  return state.name === 'up' || state.name === 'degrading' || state.name === 'suspect'
}

export interface PathView {
  readonly peer: number
  readonly slot: number
  readonly pathId: number
  readonly generation: number
  readonly socket: number
  readonly remote: Endpoint
  readonly state: PathState
  readonly rttMs: number
  readonly rttVarMs: number
  readonly loss: number
  /** Largest outer IP packet known to pass. */
  readonly mtu: number
}

export interface PeerView {
  readonly peer: number
  readonly publicKey: Uint8Array
  readonly dialect: Dialect
  /** Whether the peer has sent HELLO. */
  readonly godwit: boolean
  readonly features: number
  readonly established: boolean
  /** Monotonic milliseconds of the last completed handshake; 0 for never. */
  readonly lastHandshakeAt: number
  readonly allowedIps: readonly AllowedIp[]
  readonly paths: readonly PathView[]
}

/** Why a handshake failed, or a message was refused. */
export type HandshakeFailure =
  /** No answer within WireGuard's 90 seconds of attempts. */
  | 'timeout'
  /** mac1 is not for this end's key, or the message has a wrong length. */
  | 'not-for-us'
  /** Sealed for us, by a static key that is no peer's. */
  | 'unknown-peer'
  /** Decryption failed: corrupted, or a wrong pre-shared key. */
  | 'authentication'
  /** Timestamp not newer than the last one. */
  | 'replay'
  /** Initiations came faster than allowed. */
  | 'rate'

export type TunnelEvent =
  | { readonly type: 'session'; readonly peer: number; readonly up: boolean; readonly initiator: boolean }
  | {
      readonly type: 'handshake-failed'
      readonly peer: number
      readonly reason: HandshakeFailure
      readonly from?: Endpoint
    }
  /**
   * An initiation with a newer timestamp was sent. Stored over restarts and given as `MachineInit.timestampFloor`, the
   * value keeps a host whose clock went back acceptable: peers refuse timestamps at or before the last. Emitted once per
   * attempt; storing one every second or so is enough while a peer does not answer.
   */
  | { readonly type: 'timestamp-sent'; readonly peer: number; readonly floor: number }
  /** Message 1 was answered there, and no session is in use: a path there that is `hoped` would carry packets at once. */
  | { readonly type: 'greeted'; readonly peer: number; readonly remote: Endpoint; readonly socket: number }
  /**
   * An initiation was accepted. Kept over restarts and given as `PeerConfig.lastTimestamp`, it stops captured initiations
   * from being accepted by a restarted end (all they could do is move a stock peer's endpoint until it speaks).
   */
  | { readonly type: 'timestamp-accepted'; readonly peer: number; readonly timestamp: Uint8Array }
  /** HELLO arrived: features in common. `restarted`: it lost what it knew of us. Once a session. */
  | {
      readonly type: 'hello'
      readonly peer: number
      readonly features: number
      readonly mtu: number
      readonly restarted: boolean
    }
  /** Path state changed; a path first seen here (the anchor's side) starts with its first event. */
  | {
      readonly type: 'path'
      readonly peer: number
      readonly path: PathView
      readonly from: PathState['name']
    }
  /** Forget the slot: it is free again once the next event is polled. */
  | { readonly type: 'path-closed'; readonly peer: number; readonly slot: number; readonly pathId: number }
  /** Where the peer sees us on this path, behind whatever NAT. */
  | {
      readonly type: 'observed'
      readonly peer: number
      readonly slot: number
      readonly pathId: number
      readonly address: Endpoint
    }
  /** The peer has said that its process ends: it has no session and reads nothing until it begins one. */
  | { readonly type: 'ended'; readonly peer: number }
  /** The peer's end of this path moved (roaming). */
  | { readonly type: 'remote'; readonly peer: number; readonly slot: number; readonly remote: Endpoint }
  /** About once a second for each path with traffic. */
  | {
      readonly type: 'quality'
      readonly peer: number
      readonly slot: number
      readonly rttMs: number
      readonly rttVarMs: number
      readonly loss: number
    }
  /**
   * One measurement, when MachineInit.measureInterval asks for them: its round trip and share lost; when the probe left by
   * this end's clock and arrived by the other's (µs, wrap at 2^32); datagrams and bytes received over there by then
   * (wrap at 2^32). -1 where the other end does not say.
   */
  | {
      readonly type: 'sample'
      readonly peer: number
      readonly slot: number
      readonly rttMs: number
      readonly loss: number
      readonly sentAt: number
      readonly arrivedAt: number
      readonly received: number
      readonly receivedBytes: number
    }
  | { readonly type: 'mtu'; readonly peer: number; readonly slot: number; readonly mtu: number }
  /**
   * A message of this peer caused an exception: a bug here. Its sessions have ended, and it is refused for a while. -1:
   * unknown peer.
   */
  | { readonly type: 'peer-failed'; readonly peer: number; readonly reason: string }
  /** A mechanism frame (64–255). */
  | {
      readonly type: 'frame'
      readonly peer: number
      readonly slot: number
      /** Counter of the datagram that carried it, in its session. */
      readonly counter: number
      readonly code: number
      readonly body: Uint8Array
    }
  /**
   * The peer asks to be known by `publicKey` from now on. Keep it safely beside the old one, then call `acceptKey`. Comes
   * again until then.
   */
  | { readonly type: 'key-offered'; readonly peer: number; readonly publicKey: Uint8Array }
  /** The peer keeps our fresh key; handshakes use it from now on. Keep the old one until `key-confirmed`. */
  | { readonly type: 'key-accepted'; readonly peer: number }
  /** A handshake with the fresh key, our own or the peer's, is complete; forget the old one. */
  | {
      readonly type: 'key-confirmed'
      readonly peer: number
      readonly whose: 'own' | 'remote'
      readonly publicKey: Uint8Array
    }

/** A key that a responder gives out for data behind one message 1. */
export interface Prekey {
  /** Index of the session that the data name. */
  readonly index: number
  /** X25519. */
  readonly publicKey: Uint8Array
}

/** Commands: called by the engine on behalf of the mechanism. */
export interface TunnelCommands extends Machine {
  /** The next event, undefined when there is none. */
  poll(): TunnelEvent | undefined
  /** Returns the peer's index. Throws `PEER_EXISTS` for a public key that is there, `PEER_KEY` for one's own. */
  addPeer(config: PeerConfig, now: number): number
  /** Changes what is given. A new presharedKey or privateKey ends the sessions that rest on the old one. */
  updatePeer(peer: number, changes: Partial<Omit<PeerConfig, 'publicKey'>>, now: number): void
  /** Sessions, paths and timers go; the index may be used again by a later peer. */
  removePeer(peer: number, now: number): void
  findPeer(publicKey: Uint8Array): number | undefined
  peer(peer: number): PeerView | undefined
  peers(): Iterable<PeerView>
  path(slot: number): PathView | undefined
  /** Opens a path from this side and starts what brings it up (a handshake if there is no session). Returns its slot. */
  addPath(peer: number, path: PathConfig, now: number): number
  /** The access below is gone: tells the peer over other paths and sends again what was lost. No effect if unknown. */
  removePath(slot: number, now: number): void
  /** The interface's MTU changed: search again. */
  setInterfaceMtu(slot: number, mtu: number, now: number): void
  /** Handshake now, if none is under way. */
  connect(peer: number, now: number): void
  /** Milliseconds between probes of a path while another carries the traffic; undefined: as usual. */
  setStandby(slot: number, ms: number | undefined): void
  /** Asks the peer where it sees this end on a path that works; `observed` follows. */
  look(slot: number, now: number): void
  /** Message 1 to an address that the peer proved in an earlier run; nothing where there is a session or a handshake. */
  greet(peer: number, remote: Endpoint, socket: number, now: number): void
  /** Message 1 to where a path may soon be, the one under way or a fresh one; nothing where there is a session. Not repeated. */
  introduce(peer: number, remote: Endpoint, socket: number, now: number): void
  /** A fresh key for data behind one message 1 to this end; `dropPrekey`, or `expectEarly` and PREKEY_LIFETIME, end it. */
  newPrekey(): Prekey
  dropPrekey(index: number): void
  /** This peer was given that key: data behind its next message 1 are opened with it. */
  expectEarly(peer: number, index: number, now: number): void
  /** The peer has given out this key: packets may go behind the next message 1, on a path that is `hoped`, if there is no session. */
  useEarly(peer: number, prekey: Prekey): void
  /** The peer has just answered the owner from there, to what only that address was sent: an announcement from there needs no other proof. */
  noteProven(peer: number, remote: Endpoint, socket: number, now: number): void
  /** This process ends: tells all peers, so that nobody sends to where it was. Nothing is sent afterwards. */
  end(now: number): void
  /** The host slept or its networks changed: probe every path now, announce those that are down. */
  wake(now: number): void
  /** The peer may not be reached any more where it was: probe its paths now. */
  doubt(peer: number, now: number): void
  /**
   * Sends encoded mechanism frames (control.ts `encodeFrames`) on `slot`, or on the best usable path if -1. False when
   * there is no session or no usable path. Not repeated: reliability is the mechanism's.
   */
  sendFrames(peer: number, body: Uint8Array, slot: number, now: number): boolean
  /** Changes to a fresh key of this end at this peer. Store `privateKey` safely first; events report the progress. */
  replaceKey(peer: number, privateKey: Uint8Array, now: number): void
  /** `publicKey` of `key-offered` is kept; acknowledge it and accept it beside the old one. */
  acceptKey(peer: number, publicKey: Uint8Array, now: number): void
  /** The machine's own key, `MachineInit.privateKey`, ends; all peers that have it are known by this one alone. */
  renewIdentity(privateKey: Uint8Array): void
}
