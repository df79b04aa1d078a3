/**
 * The sealed messages of the overlay's signalling (docs/wire/overlay.md): type (8), zero (8), transaction (32), then fields
 * of type (8), length (16), value. Numbers are big-endian. Names are the paper's (§3.4, Figs. 4–8).
 */
import { ascii, viewOf } from '../../core/bytes.ts'
import type { Codec } from '../../core/codec.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { type Decoded, decoded, malformed } from '../../core/result.ts'

export const Type = {
  KEY_DISTRIBUTION: 1,
  KEY_DISTRIBUTION_ACK: 2,
  REGISTRATION_REQUEST: 3,
  REGISTRATION_RESPONSE: 4,
  NOTIFICATION_PREPARE: 5,
  NOTIFICATION_PREPARE_ACK: 6,
  KEEP_ALIVE: 7,
  KEEP_ALIVE_ACK: 8,
  DIRECTION_REQUEST: 11,
  DIRECTION_RESPONSE: 12,
  NTM_INFORMATION_REQUEST: 13,
  NTM_INFORMATION_RESPONSE: 14,
  RELAY_ORDER: 15,
  RELAY_ORDER_ACK: 16,
  ROUTE_DIRECTION: 17,
  ROUTE_DIRECTION_ACK: 18,
  NOTIFICATION: 19,
  NOTIFICATION_ACK: 20,
  TUNNEL_REQUEST: 21,
  TUNNEL_RESPONSE: 22,
  SERVER_REGISTRATION: 23,
  SERVER_REGISTRATION_ACK: 24,
  NOTIFICATION_STATE: 25,
  NOTIFICATION_STATE_ACK: 26,
  NOTIFICATION_END: 27,
  NOTIFICATION_END_ACK: 28,
  PUSH_GONE: 29,
  PUSH_GONE_ACK: 30,
  NODE_REQUEST: 31,
  NODE_RESPONSE: 32,
  MEETING: 33,
  PORTS: 34,
} as const
export type Type = (typeof Type)[keyof typeof Type]

const NAMES = new Map<number, string>(Object.entries(Type).map(([name, type]) => [type, name]))

/** The paper's name of a message, for traces. */
export function nameOfType(type: number): string {
  return NAMES.get(type) ?? `message ${type}`
}

export const Status = {
  DONE: 0,
  UNKNOWN_NAME: 1,
  NOT_ALLOWED: 2,
  NOT_REGISTERED: 3,
  TOO_MANY: 4,
  NO_RELAY: 5,
  LEASE_REFUSED: 6,
  UNREACHED: 7,
  PROVE_ADDRESS: 8,
} as const
export type Status = (typeof Status)[keyof typeof Status]

export const Route = {
  /** Direct; the receiver of the direction sends the first tunnel request. */
  DIRECT_START: 1,
  /** Direct; the other node starts. */
  DIRECT_WAIT: 2,
  RELAY: 3,
  /** No relay is available: all candidates are tried. */
  CHECK: 4,
} as const
export type Route = (typeof Route)[keyof typeof Route]

export const Want = { RELAY: 1, ANOTHER_CHANNEL: 2, NOTIFICATIONS: 3, BIND: 4, ANSWER: 5 } as const

/** Of NOTIFICATION_STATE, in STATUS: the node is connected, is not any more, or was before the coordinator was started. */
export const Connection = { NOW: 0, ENDED: 1, BEFORE: 2 } as const

export type CandidateKind = 'host' | 'reflexive'

/** Where a node may be reached: an address of an interface, or what a coordinator saw. */
export interface Candidate {
  readonly kind: CandidateKind
  readonly endpoint: Endpoint
}

/** One side of a relay channel, as its node is given it. */
export interface RelaySide {
  readonly channel: number
  readonly side: 0 | 1
  /** Where the node sends to. */
  readonly endpoint: Endpoint
  /** For RELAY_BIND, 32 bytes. */
  readonly key: Uint8Array
}

/** An order to a relay about one side. */
export interface SideOrder {
  /** The address that a coordinator has proven; absent: the node has to bind. */
  readonly proven?: Endpoint
  /** The same for all channels of a node at this relay: they get different ports. */
  readonly node: bigint
}

/** What a relay says of itself. */
export interface RelayLoad {
  readonly channels: number
  readonly maxChannels: number
  /** Of what it forwards now, and may forward (kbit/s); 0: not known. */
  readonly rate: number
  readonly capacity: number
  /** Its round trip to the coordinator (µs); 0: not known. */
  readonly rtt: number
}

/** The round trip of a relay to a node's address (µs). */
export interface Measured {
  readonly address: Uint8Array
  readonly rtt: number
}

/** A key for data behind one message 1 of the tunnel's handshake (tunnel/protocol/api.ts). */
export interface Prekey {
  readonly index: number
  /** X25519, 32 bytes. */
  readonly publicKey: Uint8Array
}

/** Where nodes reach a server over TLS, and the SHA-256 of its certificate. */
export interface CertifiedServer {
  readonly host: string
  readonly port: number
  readonly certificate: Uint8Array
}

/** A coordinator of the zone, of several: where servers apart reach it. */
export interface CoordinatorAt {
  readonly name: string
  readonly port: number
  /** Four at most. */
  readonly addresses: readonly Uint8Array[]
}

export interface Message {
  readonly type: Type
  readonly transaction: number
  readonly name?: string
  readonly nodeName?: string
  /** 32 bytes. */
  readonly publicKey?: Uint8Array
  /** 16 bytes. */
  readonly keyId?: Uint8Array
  /** 32 bytes. */
  readonly key?: Uint8Array
  readonly candidates?: readonly Candidate[]
  /** Encoded (lease.ts). */
  readonly lease?: Uint8Array
  readonly observed?: Endpoint
  readonly status?: number
  /** Seconds. */
  readonly lifetime?: number
  /** Seconds; 0: none needed. */
  readonly keepAlive?: number
  /** 8 bytes, to be returned as `echo` from the address that it came to. */
  readonly challenge?: Uint8Array
  readonly echo?: Uint8Array
  readonly route?: number
  /** 32 bytes. */
  readonly pairKey?: Uint8Array
  readonly relays?: readonly RelaySide[]
  readonly want?: number
  /** 32 bytes. */
  readonly pair?: Uint8Array
  readonly sides?: readonly SideOrder[]
  readonly notificationServer?: { readonly host: string; readonly port: number }
  /** 32 bytes. */
  readonly token?: Uint8Array
  readonly datagram?: Uint8Array
  /** 32 bytes. */
  readonly zoneKey?: Uint8Array
  /** SHA-256 of the notification server's certificate, 32 bytes. */
  readonly certificate?: Uint8Array
  readonly push?: string
  /** Bits of a server's roles (`ROLE_BITS`). */
  readonly roles?: number
  readonly load?: RelayLoad
  readonly measured?: readonly Measured[]
  /** 8 bytes, others after each start of a server. */
  readonly boot?: Uint8Array
  readonly account?: string
  /** Of the account, 8 bytes: another account of the same name has another. */
  readonly accountId?: Uint8Array
  /** Of the login key, at the cache server, 16 bytes. */
  readonly proof?: Uint8Array
  /** Seconds since 1970. */
  readonly expires?: number
  readonly cacheServer?: CertifiedServer
  /** Where a zone has several: the sender, then others. */
  readonly coordinators?: readonly CoordinatorAt[]
  /** Of a change at the account server: greater than of all before. */
  readonly seq?: number
  /** Keys of the sender, or of the peer, for data behind message 1, each for once. */
  readonly prekeys?: readonly Prekey[]
  /** Which of the receiver's own the peer was given. */
  readonly prekeyIndex?: number
  /** Bytes of zeros behind everything, so that a long answer is no more than three times the request. */
  readonly padding?: number
}

const Field = {
  NAME: 1,
  NODE_NAME: 2,
  PUBLIC_KEY: 3,
  KEY_ID: 4,
  KEY: 5,
  CANDIDATE: 6,
  LEASE: 7,
  OBSERVED: 8,
  STATUS: 9,
  LIFETIME: 10,
  KEEP_ALIVE_SECONDS: 11,
  CHALLENGE: 12,
  ECHO: 13,
  ROUTE: 14,
  PAIR_KEY: 15,
  RELAY: 16,
  WANT: 17,
  PAIR: 18,
  SIDE: 19,
  NOTIFICATION_SERVER: 20,
  TOKEN: 21,
  DATAGRAM: 22,
  ZONE_KEY: 23,
  PUSH: 24,
  CERTIFICATE: 25,
  ROLES: 26,
  LOAD: 27,
  MEASURED: 28,
  BOOT: 29,
  ACCOUNT: 30,
  ACCOUNT_ID: 31,
  EXPIRES: 32,
  CACHE_SERVER: 33,
  PROOF: 34,
  SEQ: 35,
  PREKEY: 36,
  PREKEY_INDEX: 37,
  COORDINATOR: 38,
  PADDING: 255,
} as const

const HEADER = 6
const FIELD_HEADER = 3
/** Largest message: its datagram fits any IPv6 path. */
export const MAX_MESSAGE = 1150
const MAX_CANDIDATES = 16
/** PREKEYs of a message. */
export const MAX_PREKEYS = 4
const PREKEY_LENGTH = 36
/**
 * Min bytes of a DIRECTION_REQUEST without its outer form. The request names addresses to which two nodes then send
 * CHECKs: each sends at most three times this many bytes if nothing answers.
 */
export const LEAST_DIRECTION = 800
const MAX_NAME = 253
/** Longest address of a push service, with its keys. */
export const MAX_PUSH = 400
const KINDS: readonly CandidateKind[] = ['host', 'reflexive']
const RELAY_FIXED = 4 + 1 + 2 + 32
const LOAD_LENGTH = 20
const CERTIFIED_FIXED = 2 + 32
/** MEASUREDs of a message. */
export const MAX_MEASURED = 16
/** COORDINATORs of a message, and addresses of each. */
export const MAX_COORDINATORS = 8
const MAX_ADDRESSES = 4
/** A label, of a coordinator. */
export const COORDINATOR_NAME = /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/

/** Roles of servers that run apart from the coordinator. */
export const ROLE_BITS = { as: 1, ns: 2, rs: 4, cs: 8 } as const
export type ServerRole = keyof typeof ROLE_BITS

/** A full name: labels of letters, digits, `-` and `_`, lower case, without the last dot. */
const FULL_NAME =
  /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/

export function isFullName(name: string): boolean {
  return FULL_NAME.test(name)
}

type Mutable = { -readonly [Key in keyof Message]: Message[Key] }

/** Byte strings of fixed length. */
const BYTES: Readonly<Record<number, readonly [keyof Message & BytesKey, number]>> = {
  [Field.PUBLIC_KEY]: ['publicKey', 32],
  [Field.KEY_ID]: ['keyId', 16],
  [Field.KEY]: ['key', 32],
  [Field.CHALLENGE]: ['challenge', 8],
  [Field.ECHO]: ['echo', 8],
  [Field.PAIR_KEY]: ['pairKey', 32],
  [Field.PAIR]: ['pair', 32],
  [Field.TOKEN]: ['token', 32],
  [Field.ZONE_KEY]: ['zoneKey', 32],
  [Field.CERTIFICATE]: ['certificate', 32],
  [Field.BOOT]: ['boot', 8],
  [Field.ACCOUNT_ID]: ['accountId', 8],
  [Field.PROOF]: ['proof', 16],
}
type BytesKey =
  | 'publicKey'
  | 'keyId'
  | 'key'
  | 'challenge'
  | 'echo'
  | 'pairKey'
  | 'pair'
  | 'token'
  | 'zoneKey'
  | 'certificate'
  | 'boot'
  | 'accountId'
  | 'proof'

/** Numbers of 1, 2, 4 or 8 bytes. */
const NUMBERS: Readonly<Record<number, readonly [NumberKey, 1 | 2 | 4 | 8]>> = {
  [Field.STATUS]: ['status', 1],
  [Field.LIFETIME]: ['lifetime', 4],
  [Field.KEEP_ALIVE_SECONDS]: ['keepAlive', 2],
  [Field.ROUTE]: ['route', 1],
  [Field.WANT]: ['want', 1],
  [Field.ROLES]: ['roles', 1],
  [Field.EXPIRES]: ['expires', 4],
  [Field.SEQ]: ['seq', 8],
  [Field.PREKEY_INDEX]: ['prekeyIndex', 4],
}
type NumberKey =
  | 'status'
  | 'lifetime'
  | 'keepAlive'
  | 'route'
  | 'want'
  | 'roles'
  | 'expires'
  | 'seq'
  | 'prekeyIndex'

function decode(bytes: Uint8Array, at = 0, end = bytes.length): Decoded<Message> {
  if (end - at < HEADER) return malformed('shorter than a message')
  if (end - at > MAX_MESSAGE) return malformed('longer than a message may be')
  const type = bytes[at]!
  if (!NAMES.has(type)) return malformed(`message of type ${type}`)
  if (bytes[at + 1] !== 0) return malformed('reserved bits set')
  const view = viewOf(bytes)
  const message: Mutable = { type: type as Type, transaction: view.getUint32(at + 2) }
  const candidates: Candidate[] = []
  const relays: RelaySide[] = []
  const sides: SideOrder[] = []
  const measured: Measured[] = []
  const prekeys: Prekey[] = []
  const coordinators: CoordinatorAt[] = []
  for (let p = at + HEADER; p < end; ) {
    if (end - p < FIELD_HEADER) return malformed('field header')
    const field = bytes[p]!
    const size = view.getUint16(p + 1)
    p += FIELD_HEADER
    if (end - p < size) return malformed('field longer than the message')
    const value = bytes.slice(p, p + size)
    p += size
    const fixed = BYTES[field]
    const number = NUMBERS[field]
    if (fixed !== undefined) {
      if (size !== fixed[1]) return malformed(`field ${field} of ${size} bytes`)
      if (message[fixed[0]] !== undefined) return malformed('field twice')
      message[fixed[0]] = value
    } else if (number !== undefined) {
      if (size !== number[1]) return malformed(`field ${field} of ${size} bytes`)
      if (message[number[0]] !== undefined) return malformed('field twice')
      message[number[0]] = readNumber(value)
    } else {
      const lists = { candidates, relays, sides, measured, prekeys, coordinators }
      const problem = decodeOther(field, value, message, lists)
      if (problem !== undefined) return malformed(problem)
    }
  }
  if (candidates.length > 0) message.candidates = candidates
  if (relays.length > 0) message.relays = relays
  if (sides.length > 0) message.sides = sides
  if (measured.length > 0) message.measured = measured
  if (prekeys.length > 0) message.prekeys = prekeys
  if (coordinators.length > 0) message.coordinators = coordinators
  return decoded(message)
}

/** Fields that may come several times. */
interface Lists {
  readonly candidates: Candidate[]
  readonly relays: RelaySide[]
  readonly sides: SideOrder[]
  readonly measured: Measured[]
  readonly prekeys: Prekey[]
  readonly coordinators: CoordinatorAt[]
}

/** Returns what is wrong with the field. */
function decodeOther(
  field: number,
  value: Uint8Array,
  message: Mutable,
  { candidates, relays, sides, measured, prekeys, coordinators }: Lists,
): string | undefined {
  switch (field) {
    case Field.NAME:
    case Field.NODE_NAME: {
      const key = field === Field.NAME ? 'name' : 'nodeName'
      const name = text(value)
      if (name === undefined || !isFullName(name)) return 'not a full name'
      if (message[key] !== undefined) return 'field twice'
      message[key] = name
      return undefined
    }
    case Field.CANDIDATE: {
      const kind = KINDS[(value[0] ?? 0) - 1]
      const endpoint = readEndpoint(value, 1)
      if (kind === undefined || endpoint === undefined) return 'candidate'
      if (candidates.length === MAX_CANDIDATES) return 'too many candidates'
      candidates.push({ kind, endpoint })
      return undefined
    }
    case Field.LEASE:
    case Field.DATAGRAM: {
      const key = field === Field.LEASE ? 'lease' : 'datagram'
      if (value.length === 0) return 'field without a value'
      if (message[key] !== undefined) return 'field twice'
      message[key] = value
      return undefined
    }
    case Field.OBSERVED: {
      const endpoint = readEndpoint(value, 0)
      if (endpoint === undefined) return 'endpoint'
      if (message.observed !== undefined) return 'field twice'
      message.observed = endpoint
      return undefined
    }
    case Field.RELAY: {
      const side = value[4]
      const address = value.slice(RELAY_FIXED)
      if (side === undefined || side > 1 || !isAddress(address)) return 'relay'
      if (relays.length === 2) return 'too many relays'
      const view = viewOf(value)
      relays.push({
        channel: view.getUint32(0),
        side: side as 0 | 1,
        endpoint: { address, port: view.getUint16(5) },
        key: value.slice(7, RELAY_FIXED),
      })
      return undefined
    }
    case Field.SIDE: {
      const order = readSide(value)
      if (order === undefined) return 'side'
      if (sides.length === 2) return 'too many sides'
      sides.push(order)
      return undefined
    }
    case Field.NOTIFICATION_SERVER: {
      const host = text(value.subarray(2))
      if (value.length < 3 || host === undefined || message.notificationServer !== undefined)
        return 'notification server'
      message.notificationServer = { host, port: viewOf(value).getUint16(0) }
      return undefined
    }
    case Field.PUSH: {
      const push = text(value, MAX_PUSH)
      if (push === undefined || push === '' || message.push !== undefined) return 'push'
      message.push = push
      return undefined
    }
    case Field.ACCOUNT: {
      const account = text(value)
      if (account === undefined || account === '' || message.account !== undefined) return 'account'
      message.account = account
      return undefined
    }
    case Field.LOAD: {
      if (value.length !== LOAD_LENGTH || message.load !== undefined) return 'load'
      const view = viewOf(value)
      const [channels, maxChannels, rate, capacity, rtt] = [0, 4, 8, 12, 16].map((at) => view.getUint32(at))
      message.load = {
        ...{ channels: channels!, maxChannels: maxChannels!, rate: rate!, capacity: capacity!, rtt: rtt! },
      }
      return undefined
    }
    case Field.MEASURED: {
      const address = value.slice(4)
      if (!isAddress(address) || measured.length === MAX_MEASURED) return 'measured'
      measured.push({ address, rtt: viewOf(value).getUint32(0) })
      return undefined
    }
    case Field.PREKEY: {
      if (value.length !== PREKEY_LENGTH || prekeys.length === MAX_PREKEYS) return 'prekey'
      prekeys.push({ index: viewOf(value).getUint32(0), publicKey: value.slice(4) })
      return undefined
    }
    case Field.CACHE_SERVER: {
      const server = readCertified(value)
      if (server === undefined || message.cacheServer !== undefined) return 'cache server'
      message.cacheServer = server
      return undefined
    }
    case Field.COORDINATOR: {
      const coordinator = readCoordinator(value)
      if (coordinator === undefined || coordinators.length === MAX_COORDINATORS) return 'coordinator'
      coordinators.push(coordinator)
      return undefined
    }
    case Field.PADDING:
      if (message.padding !== undefined) return 'field twice'
      message.padding = value.length
      return undefined
    default:
      return undefined
  }
}

function readNumber(value: Uint8Array): number {
  let number = 0
  for (const byte of value) number = number * 256 + byte
  return number
}

function isAddress(address: Uint8Array): boolean {
  return address.length === 4 || address.length === 16
}

/** Port (16) and address. */
function readEndpoint(value: Uint8Array, at: number): Endpoint | undefined {
  const address = value.slice(at + 2)
  return isAddress(address) ? { address, port: viewOf(value).getUint16(at) } : undefined
}

/** node (64), then the endpoint if it is proven. */
function readSide(value: Uint8Array): SideOrder | undefined {
  if (value.length < 8) return undefined
  const node = viewOf(value).getBigUint64(0)
  if (value.length === 8) return { node }
  const proven = readEndpoint(value, 8)
  return proven && { proven, node }
}

/** Port (16), addresses, each behind its length (8), a zero, and the name. */
export function readCoordinator(value: Uint8Array): CoordinatorAt | undefined {
  const addresses: Uint8Array[] = []
  let at = 2
  for (let size = value[at]; size !== 0; size = value[at]) {
    if (size === undefined || value.length < at + 1 + size || addresses.length === MAX_ADDRESSES)
      return undefined
    addresses.push(value.slice(at + 1, at + 1 + size))
    at += 1 + size
  }
  const name = text(value.subarray(at + 1))
  if (!addresses.every(isAddress) || name === undefined || !COORDINATOR_NAME.test(name)) return undefined
  return { name, port: viewOf(value).getUint16(0), addresses }
}

export function coordinatorBytes({ name, port, addresses }: CoordinatorAt): Uint8Array {
  const each = addresses.slice(0, MAX_ADDRESSES).flatMap((address) => [address.length, ...address])
  return Uint8Array.of(port >> 8, port & 255, ...each, 0, ...ascii(name))
}

export function readCertified(value: Uint8Array): CertifiedServer | undefined {
  const host = text(value.subarray(CERTIFIED_FIXED))
  if (value.length <= CERTIFIED_FIXED || host === undefined) return undefined
  return { host, port: viewOf(value).getUint16(0), certificate: value.slice(2, CERTIFIED_FIXED) }
}

export function certifiedBytes({ host, port, certificate }: CertifiedServer): Uint8Array {
  return Uint8Array.of(port >> 8, port & 255, ...certificate, ...ascii(host))
}

/** Printable ASCII. */
function text(value: Uint8Array, longest = MAX_NAME): string | undefined {
  if (value.length > longest) return undefined
  for (const byte of value) if (byte < 0x21 || byte > 0x7e) return undefined
  return String.fromCharCode(...value)
}

const BYTE_KEYS = Object.entries(BYTES).map(([field, [key]]) => [Number(field), key] as const)
const NUMBER_KEYS = Object.entries(NUMBERS).map(([field, [key, size]]) => [Number(field), key, size] as const)

type Fields = readonly (readonly [number, Uint8Array])[]

/** `byteLength` and `encode` follow each other: the fields of the last message are made once. */
let last: { readonly message: Message; readonly fields: Fields } | undefined

function fieldsOf(message: Message): Fields {
  if (last?.message !== message) last = { message, fields: makeFields(message) }
  return last.fields
}

function makeFields(message: Message): Fields {
  const fields: (readonly [number, Uint8Array])[] = []
  if (message.name !== undefined) fields.push([Field.NAME, ascii(message.name)])
  if (message.nodeName !== undefined) fields.push([Field.NODE_NAME, ascii(message.nodeName)])
  for (const [field, key] of BYTE_KEYS) {
    const value = message[key]
    if (value !== undefined) fields.push([field, value])
  }
  for (const [field, key, size] of NUMBER_KEYS) {
    const value = message[key]
    if (value !== undefined) fields.push([field, number(value, size)])
  }
  for (const { kind, endpoint } of message.candidates ?? [])
    fields.push([Field.CANDIDATE, Uint8Array.of(KINDS.indexOf(kind) + 1, ...endpointBytes(endpoint))])
  if (message.lease !== undefined) fields.push([Field.LEASE, message.lease])
  if (message.observed !== undefined)
    fields.push([Field.OBSERVED, Uint8Array.from(endpointBytes(message.observed))])
  for (const relay of message.relays ?? []) fields.push([Field.RELAY, relayBytes(relay)])
  for (const side of message.sides ?? []) fields.push([Field.SIDE, sideBytes(side)])
  if (message.notificationServer !== undefined) {
    const { host, port } = message.notificationServer
    fields.push([Field.NOTIFICATION_SERVER, Uint8Array.of(port >> 8, port & 255, ...ascii(host))])
  }
  if (message.datagram !== undefined) fields.push([Field.DATAGRAM, message.datagram])
  if (message.push !== undefined) fields.push([Field.PUSH, ascii(message.push)])
  if (message.account !== undefined) fields.push([Field.ACCOUNT, ascii(message.account)])
  if (message.load !== undefined) fields.push([Field.LOAD, loadBytes(message.load)])
  for (const { address, rtt } of message.measured ?? [])
    fields.push([Field.MEASURED, Uint8Array.of(...number(rtt, 4), ...address)])
  if (message.cacheServer !== undefined)
    fields.push([Field.CACHE_SERVER, certifiedBytes(message.cacheServer)])
  for (const coordinator of message.coordinators ?? [])
    fields.push([Field.COORDINATOR, coordinatorBytes(coordinator)])
  for (const { index, publicKey } of message.prekeys ?? [])
    fields.push([Field.PREKEY, Uint8Array.of(...number(index, 4), ...publicKey)])
  if (message.padding !== undefined) fields.push([Field.PADDING, new Uint8Array(message.padding)])
  return fields
}

function number(value: number, size: 1 | 2 | 4 | 8): Uint8Array {
  const bytes = new Uint8Array(size)
  for (let i = 0, rest = value; i < size; i++, rest = Math.floor(rest / 256)) bytes[size - 1 - i] = rest & 255
  return bytes
}

function endpointBytes({ address, port }: Endpoint): number[] {
  return [port >> 8, port & 255, ...address]
}

function relayBytes({ channel, side, endpoint, key }: RelaySide): Uint8Array {
  const bytes = new Uint8Array(RELAY_FIXED + endpoint.address.length)
  const view = viewOf(bytes)
  view.setUint32(0, channel)
  bytes[4] = side
  view.setUint16(5, endpoint.port)
  bytes.set(key, 7)
  bytes.set(endpoint.address, RELAY_FIXED)
  return bytes
}

function loadBytes({ channels, maxChannels, rate, capacity, rtt }: RelayLoad): Uint8Array {
  const bytes = new Uint8Array(LOAD_LENGTH)
  const view = viewOf(bytes)
  for (const [i, value] of [channels, maxChannels, rate, capacity, rtt].entries())
    view.setUint32(4 * i, Math.min(0xffff_ffff, Math.max(0, Math.round(value))))
  return bytes
}

function sideBytes({ proven, node }: SideOrder): Uint8Array {
  const bytes = new Uint8Array(8 + (proven === undefined ? 0 : 2 + proven.address.length))
  viewOf(bytes).setBigUint64(0, node)
  if (proven !== undefined) bytes.set(endpointBytes(proven), 8)
  return bytes
}

function byteLength(message: Message): number {
  let length = HEADER
  for (const [, value] of fieldsOf(message)) length += FIELD_HEADER + value.length
  return length
}

function encode(message: Message, out: Uint8Array, at = 0): number {
  const fields = fieldsOf(message)
  let length = HEADER
  for (const [, value] of fields) length += FIELD_HEADER + value.length
  if (out.length - at < length) throw new RangeError('buffer too small for a message')
  const view = viewOf(out)
  out[at] = message.type
  out[at + 1] = 0
  view.setUint32(at + 2, message.transaction)
  let p = at + HEADER
  for (const [field, value] of fields) {
    out[p] = field
    view.setUint16(p + 1, value.length)
    out.set(value, p + FIELD_HEADER)
    p += FIELD_HEADER + value.length
  }
  return p
}

export const messageCodec: Codec<Message> = { decode, encode, byteLength }

/**
 * The message as it is if it has room for all its relays (with the longest names there is room for one), else with one of
 * them: the last, or the first.
 */
export function fitting(message: Message, keep: 'first' | 'last'): Message {
  const relays = message.relays ?? []
  if (relays.length < 2 || byteLength(message) <= MAX_MESSAGE) return message
  return { ...message, relays: keep === 'first' ? relays.slice(0, 1) : relays.slice(-1) }
}
