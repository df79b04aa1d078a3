/**
 * The result of a login, stored in the state folder for the daemon: the name, the key shared with the coordinator, the
 * coordinator's address, the zone's key, and this node's own private key, which never leaves it. Stored beside it: the
 * lease and the known peers.
 */
import { existsSync, readFileSync } from 'node:fs'
import * as z from 'zod'
import { formatAddress, parseAddress } from '../../core/address.ts'
import { GodwitError } from '../../core/errors.ts'
import { formatEndpoint } from '../../core/flow.ts'
import { decodeKey, encodeKey } from '../../crypto/keys.ts'
import { refuseExposed, writeAtomic, writeSecret } from '../../mechanism/files.ts'
import { parseHostPort } from '../../mechanism/schema.ts'
import type { Credentials } from '../machine/api.ts'
import { type KeptPair, MAX_PLACES } from '../machine/memory.ts'
import { leaseCodec } from '../wire/lease.ts'
import { isFullName } from '../wire/message.ts'
import type { NodePeer } from './protocol.ts'

export const LOGIN_FILE = 'overlay-login.json'
/** Private key of a login that was asked for: the same again if the answer was lost. */
export const ASKED_KEY_FILE = 'overlay-login.key'
export const LEASE_FILE = 'overlay-lease'
export const PEERS_FILE = 'overlay-peers.json'
/** Keys, leases and last places of peers: secret. */
export const PAIRS_FILE = 'overlay-pairs.json'
/** The coordinator's port (docs/wire/overlay.md). */
export const COORDINATOR_PORT = 6741
/** Peers remembered; those met last are kept. */
export const MAX_PEERS = 1024

const key = z.string().refine((text) => decodeKey(text).ok)
const login = z.object({
  version: z.literal(1),
  name: z.string().refine(isFullName),
  /** Base64, 16 bytes. */
  key_id: z.string().refine((text) => Buffer.from(text, 'base64').length === 16),
  key,
  /** HOST:PORT. */
  coordinator: z.string().refine((text) => parseHostPort(text).ok),
  zone_key: key,
  private_key: key,
  /** Where it logged in, and SHA-256 of its certificate if no known authority has signed that. */
  server: z.string(),
  pin: z.string().optional(),
  account: z.string(),
  /** Seconds since 1970: when the login key ends (null: never), and when that was last set. */
  expires: z.number().nullable().default(null),
  renewed: z.number().default(0),
})

export type Login = z.output<typeof login>

/** Undefined when there is none. Throws LOGIN_INVALID, SECRET_EXPOSED (usage). */
export function readLogin(path: string): Login | undefined {
  if (!existsSync(path)) return undefined
  refuseExposed(path)
  try {
    return login.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch (error) {
    throw new GodwitError('LOGIN_INVALID', `${path} is damaged: ${why(error)}`, {
      kind: 'usage',
      cause: error,
      hint: `remove it (sudo rm ${path}) and log in again: sudo godwit overlay login ACCOUNT --server URL --replace`,
    })
  }
}

export function writeLogin(path: string, value: Login): void {
  writeSecret(path, `${JSON.stringify(login.parse(value), undefined, 2)}\n`)
}

/** Writes a login that was prolonged, unless another has taken its place meanwhile. */
export function keepLogin(path: string, value: Login): void {
  if (readLogin(path)?.key_id === value.key_id) writeLogin(path, value)
}

export function credentialsOf(value: Login): Credentials {
  return {
    name: value.name,
    keyId: new Uint8Array(Buffer.from(value.key_id, 'base64')),
    key: keyIn(value.key),
    coordinator: value.coordinator,
    zoneKey: keyIn(value.zone_key),
  }
}

export function keyIn(text: string): Uint8Array {
  const decoded = decodeKey(text)
  if (!decoded.ok) throw new GodwitError('KEY_INVALID', decoded.reason, { kind: 'usage' })
  return decoded.value
}

export function keyText(bytes: Uint8Array): string {
  return encodeKey(bytes)
}

/** Undefined too if it is damaged: the coordinator gives another one, with the same addresses. */
export function readLease(path: string): Uint8Array | undefined {
  if (!existsSync(path)) return undefined
  const bytes = new Uint8Array(Buffer.from(readFileSync(path, 'utf8').trim(), 'base64'))
  return leaseCodec.decode(bytes).ok ? bytes : undefined
}

export function writeLease(path: string, lease: Uint8Array): void {
  writeAtomic(path, `${Buffer.from(lease).toString('base64')}\n`, 0o600)
}

const peers = z.array(z.object({ name: z.string(), v6: z.string(), v4: z.string().optional() }))

/** Called with what is lost, and why. */
type Lost = (message: string) => void

/** Peers met, the last first; a file that cannot be read is none. */
export function readPeers(path: string, onLost: Lost): NodePeer[] {
  if (!existsSync(path)) return []
  try {
    return peers.parse(JSON.parse(readFileSync(path, 'utf8'))).flatMap(({ name, v6, v4 }) => {
      const six = parseAddress(v6)
      const four = v4 === undefined ? undefined : parseAddress(v4)
      if (!six.ok || six.value.length !== 16 || !isFullName(name)) return []
      return [
        { name, v6: six.value, ...(four?.ok === true && four.value.length === 4 && { v4: four.value }) },
      ]
    })
  } catch (error) {
    onLost(
      `${path} is damaged, and begun anew; peers are known again when their names are asked for: ${why(error)}`,
    )
    return []
  }
}

export function writePeers(path: string, list: readonly NodePeer[]): void {
  const rows = list.slice(0, MAX_PEERS).map(({ name, v6, v4 }) => ({
    ...{ name, v6: formatAddress(v6) },
    ...(v4 !== undefined && { v4: formatAddress(v4) }),
  }))
  writeAtomic(path, `${JSON.stringify(rows, undefined, 2)}\n`, 0o600)
}

const pairs = z.array(
  z.object({
    name: z.string().refine(isFullName),
    lease: z.base64(),
    key,
    zone_key: key.optional(),
    places: z.array(z.string()).max(MAX_PLACES),
  }),
)

/** Pairs kept, the one used last first; a file that cannot be read, or that others can, is none. */
export function readPairs(path: string, onLost: Lost): KeptPair[] {
  if (!existsSync(path)) return []
  try {
    refuseExposed(path)
    return pairs.parse(JSON.parse(readFileSync(path, 'utf8'))).map((row) => ({
      name: row.name,
      lease: new Uint8Array(Buffer.from(row.lease, 'base64')),
      pairKey: keyIn(row.key),
      ...(row.zone_key !== undefined && { zoneKey: keyIn(row.zone_key) }),
      places: row.places.flatMap((text) => {
        const place = parseHostPort(text)
        const address = place.ok ? parseAddress(place.value.host) : undefined
        return place.ok && address?.ok === true ? [{ address: address.value, port: place.value.port }] : []
      }),
    }))
  } catch (error) {
    onLost(
      `${path} is of no use, and begun anew; peers are found with the coordinator alone until they have met again: ${why(error)}`,
    )
    return []
  }
}

function why(error: unknown): string {
  return (error as Error).message.split('\n')[0]!
}

export function writePairs(path: string, list: readonly KeptPair[]): void {
  const rows = list.map(({ name, lease, pairKey, zoneKey, places }) => ({
    ...{ name, lease: Buffer.from(lease).toString('base64'), key: encodeKey(pairKey) },
    ...(zoneKey !== undefined && { zone_key: encodeKey(zoneKey) }),
    places: places.map(({ address, port }) => formatEndpoint(address, port)),
  }))
  writeSecret(path, `${JSON.stringify(rows, undefined, 2)}\n`)
}
