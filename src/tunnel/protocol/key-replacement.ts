/**
 * KEY_REPLACE: a host that joined with a bootstrap key takes one of its own (docs/wire/tunnel.md). Both ends hold both
 * keys until a handshake has proven the fresh one, so that a crash of either at any moment leaves a pair that works.
 */
import { GodwitError } from '../../core/errors.ts'
import type { TunnelCrypto } from '../../crypto/tunnel-crypto.ts'
import type { TunnelEvent } from './api.ts'
import { KEY_INTERVAL, KEY_RETRY, KEY_STORE_TIME } from './constants.ts'
import type { Frame } from './control.ts'
import { type Identity, remoteKey } from './noise.ts'
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

  /** Host: offer a fresh key. */
  begin(peer: Peer, privateKey: Uint8Array, now: number): void {
    const own = this.#host.identity(privateKey)
    const remote = remoteKey(this.#host.crypto, own, peer.keys.remote.publicKey)
    if (remote === undefined) throw new GodwitError('PEER_KEY', 'the key does not fit the peer')
    peer.nextKeys = { own, remote }
    this.#host.reindex(peer)
    peer.deadlines[Deadline.key] = now
  }

  /** Host, `Deadline.key`: offers until acknowledged. */
  offer(peer: Peer, now: number): void {
    peer.deadlines[Deadline.key] = NEVER
    if (peer.nextKeys === undefined) return
    peer.deadlines[Deadline.key] = now + KEY_RETRY
    if (peer.godwit && peer.current !== undefined)
      this.#host.send(peer, { type: 'key-replace', publicKey: peer.nextKeys.own.publicKey }, now)
  }

  /** Host: the anchor keeps the fresh key. */
  acknowledged(peer: Peer, publicKey: Uint8Array, now: number): void {
    const next = peer.nextKeys
    if (next === undefined || !this.#host.crypto.equal(next.own.publicKey, publicKey)) return
    peer.oldKeys = peer.keys
    peer.keys = next
    peer.nextKeys = undefined
    peer.deadlines[Deadline.key] = NEVER
    this.#host.reindex(peer)
    this.#host.emit({ type: 'key-accepted', peer: peer.index })
    this.#host.attemptNow(peer, now)
  }

  /**
   * Anchor: a host offers a fresh key in an authenticated session. Returns the acknowledgement if the key is stored
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

  /** Anchor: the owner keeps the fresh key. */
  accept(peer: Peer, publicKey: Uint8Array, now: number): void {
    const holder = this.#host.peerByKey(publicKey)
    if (holder !== undefined && holder !== peer)
      throw new GodwitError('PEER_EXISTS', 'another peer has this public key')
    if (holder === undefined) this.expect(peer, publicKey)
    peer.keyStoredAt = now
    this.#host.send(peer, { type: 'key-replaced', publicKey }, now)
  }

  /** Anchor: accept handshakes by this key beside the old one. */
  expect(peer: Peer, publicKey: Uint8Array): void {
    const remote = remoteKey(this.#host.crypto, peer.keys.own, publicKey.slice())
    if (remote === undefined) throw new GodwitError('PEER_KEY', 'not a usable public key')
    peer.nextRemote = remote
    this.#host.reindex(peer)
  }

  /** Either end: a handshake with these static keys is complete. */
  proven(peer: Peer, keys: KeyPair): void {
    if (keys === peer.nextKeys) {
      // The acknowledgement was lost; the handshake proves the same.
      peer.oldKeys = peer.keys
      peer.keys = keys
      peer.nextKeys = undefined
      peer.deadlines[Deadline.key] = NEVER
      this.#host.emit({ type: 'key-accepted', peer: peer.index })
    }
    if (peer.oldKeys !== undefined && keys === peer.keys) {
      peer.oldKeys = undefined
      this.#host.reindex(peer)
      this.#host.emit({ type: 'key-confirmed', peer: peer.index, publicKey: keys.own.publicKey })
    }
    if (peer.nextRemote !== undefined && keys.remote === peer.nextRemote) {
      peer.keys = keys
      peer.nextRemote = undefined
      // Others may hold the invitation: what was agreed with its key ends.
      if (peer.config.invited === true) this.#host.endOtherSessions(peer)
      peer.config = { ...peer.config, invited: false }
      this.#host.reindex(peer)
      this.#host.emit({ type: 'key-confirmed', peer: peer.index, publicKey: keys.remote.publicKey })
    }
  }
}
