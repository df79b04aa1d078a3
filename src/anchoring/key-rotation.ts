/**
 * A host or an anchor takes a new key without new invitations (`godwit rekey`, `godwit anchor rekey`): it sends KEY_REPLACE
 * to each peer in the current session. The new key is stored beside the old one (KEY.next) before it is sent, and replaces
 * it once every peer has proven it in a handshake. Until then both keys are good, so a crash at any moment leaves keys that
 * work.
 */
import { existsSync, rmSync } from 'node:fs'
import type { LogLevel } from '../core/mechanism.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../crypto/keys.ts'
import { readPrivateKey, writeSecret } from '../mechanism/files.ts'

/** The key that new peers are told: the next one while that is under way. */
export function announcedKey(keyFile: string): Uint8Array {
  const next = nextFileOf(keyFile)
  return readPrivateKey(existsSync(next) ? next : keyFile)
}

function nextFileOf(keyFile: string): string {
  return `${keyFile}.next`
}

/** Where a peer is with it. */
export interface Rotated {
  readonly name: string
  readonly state: 'done' | 'waiting'
}

export interface RotationParts {
  /** File of the private key. */
  readonly keyFile: string
  /** Whose key it is, for the log. */
  readonly end: 'host' | 'anchor'
  readonly log: (level: LogLevel, message: string) => void
}

export class KeyRotation {
  readonly #parts: RotationParts
  #next: Uint8Array | undefined
  /** Peers that know this end only by the new key. */
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

  /** The new private key, while not every peer has it. */
  get next(): Uint8Array | undefined {
    return this.#next
  }

  /** Makes and stores the new key; one that is under way stays. */
  begin(): Uint8Array {
    if (this.#next !== undefined) return this.#next
    const next = generatePrivateKey()
    writeSecret(this.#nextFile, `${encodeKey(next)}\n`)
    this.#done.clear()
    this.#next = next
    return next
  }

  /** A peer has seen this end prove a key. */
  confirmed(name: string, publicKey: Uint8Array): void {
    if (this.#next === undefined || !Buffer.from(publicKey).equals(publicKeyOf(this.#next))) return
    this.#done.add(name)
    this.#parts.log('info', `${name} knows this ${this.#parts.end} by its new key`)
  }

  /** Deletes the old key once all of `peers` have the new one; returns the new one then. */
  settle(peers: readonly string[]): Uint8Array | undefined {
    return peers.every((each) => this.#done.has(each)) ? this.finish() : undefined
  }

  /** Deletes the old key, whoever has the new one. Returns that; undefined: there is none, or it cannot be written. */
  finish(): Uint8Array | undefined {
    const { log, end } = this.#parts
    const next = this.#next
    if (next === undefined) return undefined
    try {
      writeSecret(this.#parts.keyFile, `${encodeKey(next)}\n`)
      rmSync(this.#nextFile)
      this.#next = undefined
      log('info', `the old key of this ${end} is deleted`)
      return next
    } catch (error) {
      // Both files are good: the next start finds out which key counts.
      log('warn', `the new key could not replace the old one on disk: ${(error as Error).message}`)
      return undefined
    }
  }

  state(peers: readonly string[]): readonly Rotated[] {
    const done = (name: string) => this.#next === undefined || this.#done.has(name)
    return peers.map((name) => ({ name, state: done(name) ? 'done' : 'waiting' }))
  }

  get #nextFile(): string {
    return nextFileOf(this.#parts.keyFile)
  }
}
