/**
 * A peer as the machine keeps it: keys, sessions, deadlines and paths.
 */
import { TokenBucket } from '../../core/token-bucket.ts'
import type { TunnelCrypto } from '../../crypto/tunnel-crypto.ts'
import type { Endpoint } from '../seam.ts'
import type { AllowedIp, Dialect, PeerConfig, PeerView, Prekey } from './api.ts'
import * as K from './constants.ts'
import { type HandshakeState, type Identity, type RemoteKey, ZERO_KEY } from './noise.ts'
import type { Path } from './path.ts'

export interface Session {
  readonly localIndex: number
  readonly remoteIndex: number
  /** This end sent message 1. */
  readonly initiator: boolean
  readonly createdAt: number
  /** Responder: where the handshake was answered. */
  readonly answered?: AnsweredAt
  /** Responder: it seals what this end sends before the initiator has used it. */
  early?: boolean
  /** Both ends began at once: of the peer's making, beside one of ours. */
  rival?: boolean
}

/** Where message 2 of a session was sent. If only there: whoever has the session's keys receives at that address. */
export interface AnsweredAt {
  readonly remote: Endpoint
  readonly socket: number
  alone: boolean
}

/** Own and remote static key of one handshake. */
export interface KeyPair {
  readonly own: Identity
  readonly remote: RemoteKey
}

/** Message 1 is out. */
export interface PendingHandshake {
  readonly state: HandshakeState
  readonly keys: KeyPair
  readonly message: Uint8Array
  /** Cookies are sealed with it. */
  readonly mac1: Uint8Array
  /** Where it was sent, each once. */
  readonly sentTo: { readonly remote: Endpoint; readonly socket: number }[]
  /** When it was made, and how often it was sent since. */
  readonly since: number
  copies: number
}

/** The deadlines of a peer; Infinity when not set. Indexes into `deadlines`. */
export const Deadline = {
  /** Send message 1 again (paper §6.4). */
  retransmit: 0,
  /** Passive keepalive (§6.5). */
  keepalive: 1,
  /** Data was sent and nothing came back: new handshake (§6.5). */
  newHandshake: 2,
  persistent: 3,
  /** A session reaches REJECT_AFTER_TIME. */
  reject: 4,
  hello: 5,
  close: 6,
  key: 7,
  prekey: 8,
} as const
export type Deadline = (typeof Deadline)[keyof typeof Deadline]

const NEVER = Number.POSITIVE_INFINITY

/** A message 1 of the peer's. */
export interface Opened {
  readonly state: HandshakeState
  readonly keys: KeyPair
}

/** A PATH_CLOSE not yet acknowledged. */
export interface OpenClose {
  readonly pathId: number
  readonly generation: number
  readonly reason: number
  readonly highestCounter: number
  /** Local index of the session that `highestCounter` belongs to. */
  readonly session: number
  tries: number
  at: number
}

/** The peer's announcement of the path that it wants over the address. */
export interface Announced {
  readonly generation: number
  readonly mtu: number
}

/** An address at which the peer has not yet proven to receive (proofs.ts). */
export interface Candidate {
  readonly pathId: number
  readonly remote: Endpoint
  readonly socket: number
  readonly token: Uint8Array
  /** Absent: the address is to replace the remote of the path `pathId`, or of a stock peer's (0). */
  readonly announced: Announced | undefined
  readonly since: number
  /** Bytes of outer IP packets from there and to there. */
  received: number
  sent: number
  askedAt: number
}

export class Peer {
  readonly index: number
  config: PeerConfig
  keys: KeyPair
  /** Its keys in the look-up table: its public keys in hexadecimal. */
  names: string[] = []
  /** KEY_REPLACE under way, our fresh key; once acknowledged it moves to `keys` and the old one to `oldKeys`. */
  nextKeys: KeyPair | undefined
  oldKeys: KeyPair | undefined
  /** The peer's fresh key, accepted beside the old one. */
  nextRemote: RemoteKey | undefined
  /** When the owner was last asked to store a fresh key of the peer's, and when it had stored one. */
  keyOfferedAt = Number.NEGATIVE_INFINITY
  keyStoredAt = Number.NEGATIVE_INFINITY

  previous: Session | undefined
  current: Session | undefined
  /** Responder's, until the initiator has used it. */
  next: Session | undefined
  handshake: PendingHandshake | undefined
  /** Initiator: the key that the peer has given out for data behind the next message 1, then the session that seals it. */
  remotePrekey: Prekey | undefined
  earlyOut: Session | undefined
  /** Responder: indexes of the keys that the peer was given, then the sessions that open what comes behind its message 1. */
  prekeys: number[] = []
  earlyIn: Session[] = []
  /** The last message 1 that was answered: its data may be there before the key that opens them is known to be theirs. */
  opened: Opened | undefined
  /** When `earlyOut` gave way to the session of message 2. */
  earlyEndedAt = Number.NEGATIVE_INFINITY
  /** First of the attempts under way, NaN when none are. */
  attemptsSince = Number.NaN
  attempts = 0
  lastSentAt = Number.NEGATIVE_INFINITY
  /** Initiator: where the last message 2 came from, if message 1 went there. Without a path the session is shown to be in use there. */
  respondedAt: { readonly remote: Endpoint; readonly socket: number } | undefined
  /** mac1 of the last response, for a cookie reply to it. */
  responseMac1: { readonly index: number; readonly mac1: Uint8Array } | undefined
  /** Greatest timestamp accepted. */
  lastTimestamp: Uint8Array | undefined
  lastAcceptedAt = Number.NEGATIVE_INFINITY
  lastHandshakeAt = 0
  reported = false

  readonly deadlines = new Float64Array(9).fill(NEVER)
  needKeepalive = false
  lastTraversal = 0
  /** Data flowed recently: paths are watched closely. */
  busyUntil = Number.NEGATIVE_INFINITY

  /** HELLO arrived: it is a godwit. */
  godwit = false
  features = 0
  /** `instance` of its last HELLO, NaN before the first. */
  instance = Number.NaN
  /** Local index of the session in which its HELLO arrived last. */
  helloSession = -1
  helloTries = 0

  readonly paths: Path[] = []
  /** Generation given last to a path this end announced. */
  generation = 0
  /** By path id: the least generation of the peer's paths that is not over. */
  readonly generations = new Map<number, number>()
  /** Addresses that it sent from and has not proven yet (proofs.ts). */
  candidates: Candidate[] = []
  /** Addresses that it has proven recently, newest first. */
  proven: {
    readonly remote: Endpoint
    readonly socket: number
    readonly at: number
    /** The owner has it from signalling of its own. */
    readonly noted: boolean
  }[] = []
  /** How often its input made something throw, and until when it gets no session. */
  faults = 0
  barredUntil = Number.NEGATIVE_INFINITY
  readonly opens = new TokenBucket(K.OPENS_RATE, K.OPENS_BURST)
  readonly control = new TokenBucket(K.CONTROL_RATE, K.CONTROL_BURST)
  /** Last message 1 that asked a stock peer's address for its proof. */
  stockAskedAt = Number.NEGATIVE_INFINITY
  closes: OpenClose[] = []

  constructor(index: number, config: PeerConfig, keys: KeyPair) {
    this.index = index
    this.config = config
    this.keys = keys
    this.lastTimestamp = config.lastTimestamp
  }

  get dialect(): Dialect {
    return this.config.dialect ?? 'auto'
  }
  get presharedKey(): Uint8Array {
    return this.config.presharedKey ?? ZERO_KEY
  }
  /** The session that seals. */
  get sealing(): Session | undefined {
    return this.current ?? (this.next?.early === true ? this.next : this.earlyOut)
  }
  /** Speaks, or is expected to speak, godwit's frames. */
  get expectsGodwit(): boolean {
    return this.godwit || this.dialect === 'godwit'
  }
  /** This end opened paths to it, so it is this end's part to bring them back. */
  get initiatesPaths(): boolean {
    return this.paths.some((path) => path.local && path.state.name !== 'closing')
  }

  nextAt(): number {
    let at = NEVER
    for (let i = 0; i < this.deadlines.length; i++) if (this.deadlines[i]! < at) at = this.deadlines[i]!
    for (const path of this.paths) if (path.nextAt < at) at = path.nextAt
    return at
  }

  /** Own and remote key when this handshake was addressed to `own` by `publicKey`; undefined if they do not belong. */
  keysFor(crypto: TunnelCrypto, own: Identity, publicKey: Uint8Array): KeyPair | undefined {
    for (const pair of [this.keys, this.nextKeys, this.oldKeys]) {
      if (pair !== undefined && pair.own === own && crypto.equal(pair.remote.publicKey, publicKey))
        return pair
    }
    if (this.nextRemote !== undefined && own === this.keys.own) {
      if (crypto.equal(this.nextRemote.publicKey, publicKey)) return { own, remote: this.nextRemote }
    }
    return undefined
  }

  path(pathId: number): Path | undefined {
    return this.paths.find((path) => path.pathId === pathId && path.state.name !== 'closing')
  }

  /** Towards a stock peer, which answers to our last address: the path in use, else the best. */
  pathInUse(lastSentAt: (path: Path) => number, except?: Path): Path | undefined {
    let best = this.bestPath(except)
    if (best === undefined) return undefined
    for (const path of this.paths) {
      if (path === except || !path.usable || path.state.name === 'suspect') continue
      if (best.state.name === 'suspect' || lastSentAt(path) > lastSentAt(best)) best = path
    }
    return best
  }

  bestPath(except?: Path): Path | undefined {
    let best: Path | undefined
    for (const path of this.paths) {
      if (path === except || !path.usable) continue
      if (best === undefined || rank(path) < rank(best)) best = path
    }
    return best
  }

  view(): PeerView {
    return {
      peer: this.index,
      publicKey: this.keys.remote.publicKey,
      dialect: this.dialect,
      godwit: this.godwit,
      features: this.features,
      established: this.current !== undefined,
      lastHandshakeAt: this.lastHandshakeAt,
      allowedIps: (this.config.allowedIps ?? []) as readonly AllowedIp[],
      paths: this.paths.map((path) => path.view()),
    }
  }
}

/** Steady before shaky before silent; among equals the shorter round trip. */
function rank(path: Path): number {
  const state = path.state.name === 'up' ? 0 : path.state.name === 'degrading' ? 1e6 : 2e6
  return state + (Number.isNaN(path.monitor.rttMs) ? 1e5 : path.monitor.rttMs)
}

/** Counters start from zero with each session: a report about received ones is valid only for its session. */
export function reported(peer: Peer, session: number, highest: number): number {
  return peer.current?.localIndex === session ? highest : -1
}
