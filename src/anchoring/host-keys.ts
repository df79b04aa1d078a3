/**
 * A host's keys towards its anchors, on the main thread: its own takes the place of an invitation's when it joins, a new
 * one that of its own (`godwit rekey`), and an anchor's new key that of the anchor's old one (`godwit anchor rekey`).
 */
import { setTimeout as delay } from 'node:timers/promises'
import { usageError } from '../core/errors.ts'
import type { LogLevel } from '../core/mechanism.ts'
import { decodeKey, encodeKey, publicKeyOf } from '../crypto/keys.ts'
import { must } from '../mechanism/schema.ts'
import type { AnchorKeys } from './anchor-keys.ts'
import type { KeyRotation, Rotated } from './key-rotation.ts'
import type { KeyCommand, KeyEvent, RemoteAnchor } from './protocol.ts'

/** A peer as far as keys go. */
export interface KeyedPeer {
  readonly name: string
  readonly kind: 'anchor' | 'wireguard'
  /** As configured. */
  readonly publicKey: Uint8Array
  /** The invitation's key, which ours is to replace; `replaced` is called when it has. */
  readonly invitation?: { readonly privateKey: Uint8Array; readonly replaced: () => void }
}

export interface HostKeysParts {
  /** This host's own key. */
  readonly privateKey: Uint8Array
  readonly peers: readonly KeyedPeer[]
  readonly rotation: KeyRotation
  readonly anchorKeys: AnchorKeys
  readonly log: (level: LogLevel, message: string) => void
  readonly post: (command: KeyCommand) => void
}

/** How often it is looked whether all anchors have the new key. */
const LOOK_MS = 50

export class HostKeys {
  readonly #parts: HostKeysParts
  /** Peers that know this host only by an invitation's key. */
  readonly #joining: Set<string>
  /** Anchors whose new key could not be stored, and that was said. */
  readonly #unwritten = new Set<string>()

  constructor(parts: HostKeysParts) {
    this.#parts = parts
    this.#joining = new Set(parts.peers.flatMap(({ name, invitation }) => (invitation ? [name] : [])))
  }

  /** The key that a peer has now, base64. */
  keyOf(peer: KeyedPeer): string {
    return this.#parts.anchorKeys.of(encodeKey(peer.publicKey)).current
  }

  /** Keys with which the engine starts. */
  setup(
    peer: KeyedPeer,
  ): Pick<RemoteAnchor, 'publicKey' | 'nextPublicKey' | 'privateKey' | 'nextPrivateKey' | 'invited'> {
    const { anchorKeys, privateKey, rotation } = this.#parts
    const { current, next } = anchorKeys.of(encodeKey(peer.publicKey))
    return {
      publicKey: must(decodeKey(current)),
      ...(next !== undefined && { nextPublicKey: must(decodeKey(next)) }),
      ...(peer.invitation && {
        privateKey: peer.invitation.privateKey,
        nextPrivateKey: privateKey,
        invited: true,
      }),
      // A new key that this anchor may not have yet, or alone.
      ...(!peer.invitation &&
        peer.kind === 'anchor' &&
        rotation.next && { privateKey, nextPrivateKey: rotation.next }),
    }
  }

  /** Resolves once every anchor has the new key, or after `waitMs` with the anchors that do not have it. */
  async rekey(waitMs: number): Promise<{ public_key: string; peers: readonly Rotated[] }> {
    const { rotation, peers, post } = this.#parts
    const stock = peers.find(({ kind }) => kind === 'wireguard')
    if (stock !== undefined)
      throw usageError(`${stock.name} is a stock WireGuard server, to which a new key cannot be sent`, {
        hint: 'use a separate state folder: godwit join --wg FILE --state DIR',
      })
    const privateKey = rotation.begin()
    // An anchor that has not taken the current key yet gets the new one afterwards: it may have stored the current one as
    // the only key.
    for (const { name, state } of rotation.state(this.#names))
      if (state === 'waiting' && !this.#joining.has(name)) post({ type: 'replace-key', name, privateKey })
    const end = performance.now() + waitMs
    while (rotation.next !== undefined && performance.now() < end) await delay(LOOK_MS)
    return { public_key: encodeKey(publicKeyOf(privateKey)), peers: rotation.state(this.#names) }
  }

  handle(event: KeyEvent): void {
    const peer = this.#parts.peers.find(({ name }) => name === event.name)
    if (peer === undefined) return
    if (event.type === 'key-offered') this.#offered(peer, event.publicKey)
    else if (event.whose === 'remote') this.#anchorChanged(peer, event.publicKey)
    else this.#confirmed(peer, event.publicKey)
  }

  /** The anchor may use its new key once that is stored here; until then it offers it again. */
  #offered(peer: KeyedPeer, publicKey: Uint8Array): void {
    const { anchorKeys, post } = this.#parts
    const stored = this.#store(peer.name, () =>
      anchorKeys.offered(encodeKey(peer.publicKey), encodeKey(publicKey), this.#configured),
    )
    if (stored) post({ type: 'accept-key', name: peer.name, publicKey })
  }

  #anchorChanged(peer: KeyedPeer, publicKey: Uint8Array): void {
    const key = encodeKey(publicKey)
    this.#parts.log('info', `${peer.name} has a new key: ${key}`)
    // Not written: both keys are on the disk, and the next start finds out which one counts.
    this.#store(peer.name, () =>
      this.#parts.anchorKeys.confirmed(encodeKey(peer.publicKey), key, this.#configured),
    )
  }

  #confirmed({ name, invitation }: KeyedPeer, publicKey: Uint8Array): void {
    const { rotation, log, post } = this.#parts
    rotation.confirmed(name, publicKey)
    rotation.settle(this.#names)
    if (!this.#joining.delete(name)) return
    // The key that took the place of the invitation's has a successor already.
    if (rotation.next !== undefined && !Buffer.from(publicKey).equals(publicKeyOf(rotation.next)))
      post({ type: 'replace-key', name, privateKey: rotation.next })
    try {
      invitation?.replaced()
      log('info', `${name} now knows this host by its own key`)
    } catch (error) {
      // Worth nothing any more; the next run finds that out.
      log('warn', `the invitation to ${name} cannot be removed: ${(error as Error).message}`)
    }
  }

  #store(name: string, change: () => void): boolean {
    try {
      change()
      this.#unwritten.delete(name)
      return true
    } catch (error) {
      if (!this.#unwritten.has(name))
        this.#parts.log(
          'warn',
          `the new key of ${name} cannot be stored: ${(error as Error).message}; its old one stays in use`,
        )
      this.#unwritten.add(name)
      return false
    }
  }

  get #names(): readonly string[] {
    return this.#parts.peers.map(({ name }) => name)
  }

  get #configured(): readonly string[] {
    return this.#parts.peers.map(({ publicKey }) => encodeKey(publicKey))
  }
}
