/** The keys of address translation as the command line handles them (`godwit dime key`, the paper's `set_local_key`, DI-40). */
import { contains, formatPrefix, parseAddress, parsePrefix } from '../../core/address.ts'
import { toBase64 } from '../../core/bytes.ts'
import { usageError } from '../../core/errors.ts'
import { decodeKey } from '../../crypto/keys.ts'
import {
  DIME_KEY_FILE,
  generateOwnKey,
  ownKeyOf,
  readPrivateKeys,
  writePrivateKeys,
  zoneLine,
} from '../../translation/index.ts'
import { ControlClient } from '../control/client.ts'
import type { State } from '../stores/state.ts'

export type { HostView, SocketView } from '../../translation/index.ts'

/** Where the private keys of address translation are (`godwit dime key`). */
export function dimeKeyFile(state: State): string {
  return state.file(DIME_KEY_FILE)
}

export interface BoundKey {
  /** A prefix, or `*`. */
  readonly addresses: string
  readonly public_key: string
}

/** The public keys of this host; its first key is made when there is none. */
export function ownKeys(state: State): BoundKey[] {
  state.prepare()
  return readPrivateKeys(dimeKeyFile(state)).map(({ prefix, key }) => ({
    addresses: prefix === undefined ? '*' : formatPrefix(prefix),
    public_key: toBase64(ownKeyOf(key).publicKey),
  }))
}

/** Lines of zone files that bind the key of this host to these addresses (`[dime] directory` of others). */
export function zoneLines(state: State, addresses: readonly string[]): string[] {
  state.prepare()
  const keys = readPrivateKeys(dimeKeyFile(state))
  return addresses.map((text) => {
    const address = parseAddress(text)
    if (!address.ok) throw usageError(address.reason)
    const [key] = keys
      .filter(({ prefix }) => prefix === undefined || contains(prefix, address.value))
      .sort((a, b) => (b.prefix?.length ?? -1) - (a.prefix?.length ?? -1))
    if (key === undefined) throw usageError(`no key of this host is for ${text}`)
    return zoneLine(text, ownKeyOf(key.key).publicKey)
  })
}

/**
 * Binds a private key (base64; undefined: a new one) to prefixes, none meaning all addresses. A daemon that runs on the
 * state announces it to its peers under the old key.
 */
export async function bindKey(
  state: State,
  privateKey: string | undefined,
  addresses: readonly string[],
): Promise<{ public_key: string; addresses: string[]; announced: boolean }> {
  state.prepare()
  const path = dimeKeyFile(state)
  const given = privateKey === undefined ? undefined : decodeKey(privateKey.trim())
  if (given?.ok === false)
    throw usageError(`standard input: ${given.reason}`, { hint: 'godwit dime key set --new makes a key' })
  const key = given?.value ?? generateOwnKey().privateKey
  const wanted = addresses.length === 0 || addresses.includes('*') ? ['*'] : addresses
  const lines = wanted.map((text) => {
    if (text === '*') return { prefix: undefined, key }
    const prefix = parsePrefix(text)
    if (!prefix.ok) throw usageError(prefix.reason)
    return { prefix: prefix.value, key }
  })
  const name = (prefix: (typeof lines)[number]['prefix']): string =>
    prefix === undefined ? '*' : formatPrefix(prefix)
  const replaced = new Set(lines.map((line) => name(line.prefix)))
  const kept = readPrivateKeys(path).filter((line) => !replaced.has(name(line.prefix)))
  writePrivateKeys(path, [...kept, ...lines])
  const announced = state.busy()
  if (announced) await new ControlClient(state.socket).post('/v1/dime/rekey')
  return { public_key: toBase64(ownKeyOf(key).publicKey), addresses: [...replaced], announced }
}
