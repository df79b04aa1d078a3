/**
 * A host takes a new key without a new invitation (`godwit rekey`): it sends KEY_REPLACE to each anchor in the current
 * session. The new key is stored beside the old one (KEY.next) before it is sent, and replaces it once every anchor has
 * proven it in a handshake. Until then both keys are tried, so a crash at any moment leaves keys that work.
 */
import { existsSync, rmSync } from 'node:fs'
import { usageError } from '../core/errors.ts'
import type { LogLevel } from '../core/mechanism.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../crypto/keys.ts'
import { readPrivateKey, writeSecret } from '../mechanism/files.ts'

/** Where an anchor is with it. */
export interface Rotated {
  readonly name: string
  readonly state: 'done' | 'waiting'
}

export interface RotationParts {
  /** File of the host's private key. */
  readonly keyFile: string
  readonly log: (level: LogLevel, message: string) => void
}

export class KeyRotation {
  readonly #parts: RotationParts
  #next: Uint8Array | undefined
  /** Anchors that know the host only by the new key. */
  readonly #done = new Set<string>()

  constructor(parts: RotationParts) {
    this.#parts = parts
    const file = this.#nextFile
    if (!existsSync(file)) return
    const next = readPrivateKey(file)
    if (Buffer.from(next).equals(readPrivateKey(parts.keyFile)))
      rmSync(file) // killed at the very end
    else this.#next = next
  }

  /** The new private key, while not every anchor has it. */
  get next(): Uint8Array | undefined {
    return this.#next
  }

  /** Makes and stores the new key; one that is under way stays. `peers`: all that this host has. */
  begin(peers: readonly { readonly name: string; readonly kind: 'anchor' | 'wireguard' }[]): Uint8Array {
    const stock = peers.find(({ kind }) => kind === 'wireguard')
    if (stock !== undefined)
      throw usageError(`${stock.name} is a stock WireGuard server, to which a new key cannot be sent`, {
        hint: 'use a separate state folder: godwit join --wg FILE --state DIR',
      })
    if (this.#next !== undefined) return this.#next
    const next = generatePrivateKey()
    writeSecret(this.#nextFile, `${encodeKey(next)}\n`)
    this.#done.clear()
    this.#next = next
    return next
  }

  /** An anchor has seen this host prove a key. After the last of `peers` the old key is deleted. */
  confirmed(name: string, publicKey: Uint8Array, peers: readonly string[]): void {
    const { log } = this.#parts
    if (this.#next === undefined || !Buffer.from(publicKey).equals(publicKeyOf(this.#next))) return
    this.#done.add(name)
    log('info', `${name} knows this host by its new key`)
    if (!peers.every((each) => this.#done.has(each))) return
    try {
      writeSecret(this.#parts.keyFile, `${encodeKey(this.#next)}\n`)
      rmSync(this.#nextFile)
      this.#next = undefined
      log('info', 'the old key of this host is deleted')
    } catch (error) {
      // Both files are good: the next start finds out which key counts.
      log('warn', `the new key could not replace the old one on disk: ${(error as Error).message}`)
    }
  }

  state(peers: readonly string[]): readonly Rotated[] {
    const done = (name: string) => this.#next === undefined || this.#done.has(name)
    return peers.map((name) => ({ name, state: done(name) ? 'done' : 'waiting' }))
  }

  get #nextFile(): string {
    return `${this.#parts.keyFile}.next`
  }
}
