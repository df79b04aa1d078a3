/**
 * KEY_REPLACE: an end takes a fresh static key (docs/wire/tunnel.md). A host that joined does so once, and each end when its
 * owner wishes. Both ends hold both keys until a handshake has proven the fresh one, so that a crash of either at any
 * moment leaves a pair that works.
 *
 * Only one key of a pair changes at a time: an end offers none while the other's is not proven, and when both begin at
 * once, the end that peers come to goes first.
 */
import { GodwitError } from '../../core/errors.ts'
import type { TunnelCrypto } from '../../crypto/tunnel-crypto.ts'
import type { TunnelEvent } from './api.ts'
import { KEY_INTERVAL, KEY_RETRY, KEY_STORE_TIME } from './constants.ts'
import type { Frame } from './control.ts'
import { type Identity, type RemoteKey, remoteKey } from './noise.ts'
import { Deadline, type KeyPair, type Peer } from './peer.ts'

const NEVER = Number.POSITIVE_INFINITY

export interface KeyHost {
  readonly crypto: TunnelCrypto
  /** The identity of a private key, kept as one this end answers to. */
  identity(privateKey: Uint8Array): Identity
  /** Peers or keys changed: look-ups by key must follow. */
  reindex(peer: Peer): void
  peerByKey(publicKey: Uint8Array): Peer | undefined
  emit(event: TunnelEvent): void
  /** Sends a frame on the best path; false when there is none. */
  send(peer: Peer, frame: Frame, now: number): boolean
  /** Only the session that was established last stays. */
  endOtherSessions(peer: Peer): void
  /** New handshake now. */
  attemptNow(peer: Peer, now: number): void
}

export class KeyReplacement {
  readonly #host: KeyHost

  constructor(host: KeyHost) {
    this.#host = host
  }

  /** The owner of this end wants a fresh key here. */
  begin(peer: Peer, privateKey: Uint8Array, now: number): void {
    const own = this.#host.identity(privateKey)
    if (own === peer.keys.own) return // acknowledged before, and soon proven
    peer.nextKeys = { own, remote: this.#remote(own, peer.keys.remote.publicKey) }
    this.#host.reindex(peer)
    peer.deadlines[Deadline.key] = now
  }

  /** `Deadline.key`: offers until acknowledged. */
  offer(peer: Peer, now: number): void {
    peer.deadlines[Deadline.key] = NEVER
    if (peer.nextKeys === undefined) return
    peer.deadlines[Deadline.key] = now + KEY_RETRY
    // The peer's may be accepted at any moment while its owner stores it: then both would change at once.
    const waits = peer.nextRemote !== undefined || now - peer.keyOfferedAt < KEY_STORE_TIME
    if (peer.godwit && peer.current !== undefined && !waits)
      this.#host.send(peer, { type: 'key-replace', publicKey: peer.nextKeys.own.publicKey }, now)
  }

  /** The peer keeps the fresh key. */
  acknowledged(peer: Peer, publicKey: Uint8Array, now: number): void {
    const next = peer.nextKeys
    if (next === undefined || !this.#host.crypto.equal(next.own.publicKey, publicKey)) return
    this.#use(peer, next)
    this.#host.reindex(peer)
    this.#host.attemptNow(peer, now)
  }

  /**
   * The peer offers a fresh key in an authenticated session. Returns the acknowledgement if the key is stored
   * already. Otherwise the owner is asked to store it, if it is usable, no other key is pending, and a minute has passed
   * since the last. For the key of an invitation only the first fresh key is accepted: whoever offered it is the invited
   * host.
   */
  offered(peer: Peer, publicKey: Uint8Array, now: number): Frame | undefined {
    const { crypto } = this.#host
    const isKnown = [peer.keys.remote, peer.nextRemote].some(
      (key) => key !== undefined && crypto.equal(key.publicKey, publicKey),
    )
    if (isKnown) return { type: 'key-replaced', publicKey }
    if (peer.oldKeys !== undefined || (peer.nextKeys !== undefined && !peer.initiatesPaths)) return undefined
    if (peer.config.spent === true)
      return this.#host.peerByKey(publicKey) === undefined ? undefined : { type: 'key-replaced', publicKey }
    if (peer.config.invited === true && peer.nextRemote !== undefined) return undefined
    if (now - peer.keyStoredAt < KEY_INTERVAL || now - peer.keyOfferedAt < KEY_STORE_TIME) return undefined
    if (this.#host.peerByKey(publicKey) !== undefined) return undefined
    peer.keyOfferedAt = now
    if (crypto.equal(peer.keys.own.publicKey, publicKey)) return undefined
    if (remoteKey(crypto, peer.keys.own, publicKey) === undefined) return undefined
    this.#host.emit({ type: 'key-offered', peer: peer.index, publicKey })
    return undefined
  }

  /** The owner keeps the peer's fresh key. */
  accept(peer: Peer, publicKey: Uint8Array, now: number): void {
    const holder = this.#host.peerByKey(publicKey)
    if (holder !== undefined && holder !== peer)
      throw new GodwitError('PEER_EXISTS', 'another peer has this public key')
    if (holder === undefined) this.expect(peer, publicKey)
    peer.keyStoredAt = now
    this.#host.send(peer, { type: 'key-replaced', publicKey }, now)
  }

  /** Accept handshakes by this key beside the old one. */
  expect(peer: Peer, publicKey: Uint8Array): void {
    peer.nextRemote = this.#remote(peer.keys.own, publicKey.slice())
    this.#host.reindex(peer)
  }

  /** This end has only `own` from now on, whatever the peer knows. */
  settle(peer: Peer, own: Identity): void {
    peer.keys = { own, remote: this.#remote(own, peer.keys.remote.publicKey) }
    if (peer.nextRemote !== undefined) peer.nextRemote = this.#remote(own, peer.nextRemote.publicKey)
    peer.nextKeys = undefined
    peer.oldKeys = undefined
    peer.deadlines[Deadline.key] = NEVER
    this.#host.reindex(peer)
  }

  /** Either end: a handshake with these static keys is complete. */
  proven(peer: Peer, keys: KeyPair): void {
    // The acknowledgement was lost; the handshake proves the same.
    if (keys === peer.nextKeys) this.#use(peer, keys)
    if (peer.oldKeys !== undefined && keys === peer.keys) {
      peer.oldKeys = undefined
      this.#host.reindex(peer)
      this.#confirmed(peer, 'own', keys.own.publicKey)
    }
    if (peer.nextRemote !== undefined && keys.remote === peer.nextRemote) {
      peer.keys = keys
      peer.nextRemote = undefined
      peer.keyOfferedAt = Number.NEGATIVE_INFINITY
      if (peer.nextKeys !== undefined)
        peer.nextKeys = { ...peer.nextKeys, remote: this.#remote(peer.nextKeys.own, keys.remote.publicKey) }
      // Others may hold the invitation: what was agreed with its key ends.
      if (peer.config.invited === true) this.#host.endOtherSessions(peer)
      peer.config = { ...peer.config, invited: false }
      this.#host.reindex(peer)
      this.#confirmed(peer, 'remote', keys.remote.publicKey)
    }
  }

  /** Own fresh key, in handshakes that this end starts; the old one is good beside it until a handshake has proven it. */
  #use(peer: Peer, next: KeyPair): void {
    peer.oldKeys = peer.keys
    peer.keys = next
    peer.nextKeys = undefined
    peer.deadlines[Deadline.key] = NEVER
    if (peer.nextRemote !== undefined) peer.nextRemote = this.#remote(next.own, peer.nextRemote.publicKey)
    this.#host.emit({ type: 'key-accepted', peer: peer.index })
  }

  #confirmed(peer: Peer, whose: 'own' | 'remote', publicKey: Uint8Array): void {
    this.#host.emit({ type: 'key-confirmed', peer: peer.index, whose, publicKey })
  }

  #remote(own: Identity, publicKey: Uint8Array): RemoteKey {
    const remote = remoteKey(this.#host.crypto, own, publicKey)
    if (remote === undefined) throw new GodwitError('PEER_KEY', 'not a usable public key')
    return remote
  }
}
