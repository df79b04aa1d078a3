/**
 * Keys of IHMP (paper § III-C): own private keys bound to addresses or subnets (`godwit dime key set`, the paper's
 * `set_local_key`), public keys of others from the configuration or from a directory file, and the signatures.
 * Files are text, a key a line: `# comment`, `ADDRESS/LENGTH KEY` or `* KEY`, keys in base64; the longest prefix wins.
 */
import { createHmac, randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { formatPrefix, LpmTable, type Prefix, parsePrefix } from '../core/address.ts'
import { fromBase64, toBase64 } from '../core/bytes.ts'
import { GodwitError } from '../core/errors.ts'
import { signBytes, signingPublicKey, verifyBytes } from '../crypto/keys.ts'
import { writeSecret } from '../mechanism/files.ts'
import type { OwnKey } from './machine/host.ts'
import type { IhmpCrypto, KeyStore } from './machine/types.ts'
import { bytesOf, familyOf, type Ip } from './tables.ts'

/** A fresh Ed25519 key. */
export function generateOwnKey(): OwnKey {
  return ownKeyOf(Uint8Array.from(randomBytes(32)))
}

/** The key whose private half are these 32 bytes. */
export function ownKeyOf(privateKey: Uint8Array): OwnKey {
  return { privateKey: Uint8Array.from(privateKey), publicKey: signingPublicKey(privateKey) }
}

/** Ed25519 and HMAC by Node. */
export const nodeIhmpCrypto: IhmpCrypto = {
  sign: (key, bytes) => signBytes(key.privateKey, bytes),
  verify: verifyBytes,
  mac: (secret, bytes) => createHmac('sha256', secret).update(bytes).digest(),
}

/** One line of a key file. */
export interface KeyLine {
  /** undefined: `*`, all addresses. */
  readonly prefix: Prefix | undefined
  readonly key: Uint8Array
}

/** Reads a key file; throws CONFIG_INVALID with the line that is wrong. */
export function parseKeyFile(text: string, path: string): KeyLine[] {
  const lines: KeyLine[] = []
  for (const [i, raw] of text.split('\n').entries()) {
    const line = raw.replace(/#.*$/, '').trim()
    if (line === '') continue
    const fail = (reason: string): never => {
      throw new GodwitError('CONFIG_INVALID', `${path}:${i + 1}: ${reason}`, {
        kind: 'usage',
        hint: 'a line is "ADDRESS/LENGTH KEY" or "* KEY"',
      })
    }
    const [where = '', keyText = '', ...more] = line.split(/\s+/)
    const prefix = where === '*' ? undefined : parsePrefix(where)
    const key = fromBase64(keyText)
    if (more.length > 0) fail('more than an address and a key')
    if (prefix !== undefined && !prefix.ok) return fail(prefix.reason)
    if (!key.ok || key.value.length !== 32) return fail('not a key of 32 bytes in base64')
    lines.push({ prefix: prefix?.value, key: key.value })
  }
  return lines
}

export function formatKeyFile(lines: readonly KeyLine[]): string {
  return lines
    .map((l) => `${l.prefix === undefined ? '*' : formatPrefix(l.prefix)} ${toBase64(l.key)}\n`)
    .join('')
}

/** A table of keys by address. */
class KeyTable<T> {
  readonly #prefixes = new LpmTable<T>()
  #all: T | undefined

  constructor(lines: readonly KeyLine[], make: (key: Uint8Array) => T) {
    for (const { prefix, key } of lines)
      if (prefix === undefined) this.#all = make(key)
      else this.#prefixes.insert(prefix, make(key))
  }

  find(ip: Ip): T | undefined {
    return this.#prefixes.lookup(bytesOf(ip), 0, familyOf(ip)) ?? this.#all
  }
}

/**
 * The keys of a daemon: private ones in `privatePath` (made with one key for all addresses when it is missing), public
 * ones from files that are read again when they change.
 */
export class FileKeyStore implements KeyStore {
  readonly #privatePath: string
  readonly #publicPaths: readonly string[]
  readonly #fault: (what: string) => void
  #own: KeyTable<OwnKey>
  #known: KeyTable<Uint8Array>
  #stamp: string
  #checkedAt = Number.NEGATIVE_INFINITY

  /** Throws CONFIG_INVALID. `fault` hears of a public file that is damaged later; what was known before stays. */
  constructor(
    privatePath: string,
    publicPaths: readonly string[] = [],
    fault: (what: string) => void = () => {},
  ) {
    this.#privatePath = privatePath
    this.#publicPaths = publicPaths
    this.#fault = fault
    this.#own = this.#readOwn()
    this.#known = this.#readKnown()
    this.#stamp = this.#stampNow()
  }

  own(local: Ip): OwnKey | undefined {
    return this.#own.find(local)
  }

  known(foreign: Ip): Uint8Array | undefined {
    this.#refresh()
    return this.#known.find(foreign)
  }

  /** Reads the private keys again, after `godwit dime key set`. */
  reload(): void {
    this.#own = this.#readOwn()
  }

  #readOwn(): KeyTable<OwnKey> {
    return new KeyTable(readPrivateKeys(this.#privatePath), ownKeyOf)
  }

  /** A directory that somebody else keeps may change at any time; asked for at most once a second. */
  #refresh(): void {
    const now = Date.now()
    if (this.#publicPaths.length === 0 || now - this.#checkedAt < 1_000) return
    this.#checkedAt = now
    const stamp = this.#stampNow()
    if (stamp === this.#stamp) return
    this.#stamp = stamp
    try {
      this.#known = this.#readKnown()
    } catch (error) {
      this.#fault((error as Error).message)
    }
  }

  #stampNow(): string {
    return this.#publicPaths.map((path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0).join()
  }

  #readKnown(): KeyTable<Uint8Array> {
    const lines = this.#publicPaths.flatMap((path) =>
      statSync(path, { throwIfNoEntry: false }) === undefined
        ? []
        : parseKeyFile(readFileSync(path, 'utf8'), path),
    )
    return new KeyTable(lines, (key) => key)
  }
}

/** The lines of a private key file; a missing one is made with a fresh key for all addresses. */
export function readPrivateKeys(path: string): KeyLine[] {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) {
    const lines = [{ prefix: undefined, key: generateOwnKey().privateKey }]
    writePrivateKeys(path, lines)
    return lines
  }
  if ((stat.mode & 0o077) !== 0)
    throw new GodwitError('SECRET_EXPOSED', `${path} can be read by others`, {
      kind: 'usage',
      hint: `chmod 600 ${path}`,
    })
  return parseKeyFile(readFileSync(path, 'utf8'), path)
}

/** Replaces a private key file in one step, also before a power cut, mode 0600. Throws DISK_FULL. */
export function writePrivateKeys(path: string, lines: readonly KeyLine[]): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  writeSecret(path, formatKeyFile(lines))
}
