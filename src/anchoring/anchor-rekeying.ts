/**
 * An anchor takes a new key (`godwit anchor rekey`): it offers it to every host in the session, and keeps the old one until
 * all have it. Untaken invitations that name the old key, and stock clients, keep it too.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { encodeKey, publicKeyOf } from '../crypto/keys.ts'
import type { KeyRotation, Rotated } from './key-rotation.ts'
import type { KeyCommand, RemoteHost, RenewIdentity } from './protocol.ts'

/** A host as far as this goes. */
export interface RekeyingHost {
  readonly name: string
  readonly kind: 'godwit' | 'wireguard'
  /** Its invitation is not taken yet. */
  readonly expires?: number
  /** The anchor's public key that its invitation names. */
  readonly anchorKey?: Uint8Array
}

export interface AnchorRekeyingParts {
  readonly rotation: KeyRotation
  /** Hosts and untaken invitations. */
  readonly hosts: () => readonly RekeyingHost[]
  readonly post: (command: KeyCommand | RenewIdentity) => void
}

/** A host in the answer of `godwit anchor rekey`. */
export interface RekeyedHost extends Rotated {
  /** What it waits for. */
  readonly kind: 'host' | 'invitation' | 'wireguard'
}

export interface AnchorRekeyed {
  readonly public_key: string
  /** The old key is deleted. */
  readonly finished: boolean
  readonly hosts: readonly RekeyedHost[]
}

/** How often it is looked whether all hosts have the new key. */
const LOOK_MS = 50

export class AnchorRekeying {
  readonly #parts: AnchorRekeyingParts

  constructor(parts: AnchorRekeyingParts) {
    this.#parts = parts
  }

  /** For a host that the engine gets now. */
  get setup(): Pick<RemoteHost, 'nextPrivateKey'> {
    const { next } = this.#parts.rotation
    return next === undefined ? {} : { nextPrivateKey: next }
  }

  /** Resolves once every host has the new key, or after `waitMs`; with `finish` the old key ends then all the same. */
  async rekey(waitMs: number, finish: boolean): Promise<AnchorRekeyed> {
    const { rotation, hosts, post } = this.#parts
    const privateKey = rotation.begin()
    const publicKey = encodeKey(publicKeyOf(privateKey))
    const whom = hosts()
    for (const { name, state } of rotation.state(whom.map((host) => host.name)))
      if (state === 'waiting') post({ type: 'replace-key', name, privateKey })
    this.settle()
    const end = performance.now() + waitMs
    while (rotation.next !== undefined && performance.now() < end) await delay(LOOK_MS)
    const states = new Map(
      rotation.state(whom.map(({ name }) => name)).map((each) => [each.name, each.state]),
    )
    if (finish) this.#ended(rotation.finish())
    return {
      public_key: publicKey,
      finished: rotation.next === undefined,
      hosts: whom.map(({ name, kind, expires }) => ({
        name,
        kind: kind === 'wireguard' ? kind : expires === undefined ? 'host' : 'invitation',
        state: states.get(name)!,
      })),
    }
  }

  /** A host has seen this anchor prove a key. */
  confirmed(name: string, publicKey: Uint8Array): void {
    this.#parts.rotation.confirmed(name, publicKey)
    this.settle()
  }

  /** The old key ends once nobody needs it. Call it when hosts changed. */
  settle(): void {
    const { rotation, hosts } = this.#parts
    if (rotation.next === undefined) return
    const fresh = publicKeyOf(rotation.next)
    const old = hosts().filter(
      ({ expires, anchorKey }) =>
        expires === undefined || anchorKey === undefined || !Buffer.from(anchorKey).equals(fresh),
    )
    this.#ended(rotation.settle(old.map(({ name }) => name)))
  }

  #ended(privateKey: Uint8Array | undefined): void {
    if (privateKey !== undefined) this.#parts.post({ type: 'renew-identity', privateKey })
  }
}
