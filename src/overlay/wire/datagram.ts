/**
 * The outer forms of signalling datagrams (docs/wire/overlay.md). All begin with `N`, version 1, kind, zero; numbers are
 * big-endian. MACs and seals are verified by machine/asker.ts, machine/answerer.ts, machine/checks.ts and machine/relay.ts.
 */
import { ascii, viewOf } from '../../core/bytes.ts'
import type { Codec } from '../../core/codec.ts'
import { type Decoded, decoded, malformed } from '../../core/result.ts'

/** First byte of every signalling datagram; no message of the tunnel begins so. */
export const SIGN = 0x4e
/** In its place in a CHECK that is sent to a relay, which forwards it. */
export const RELAYED_SIGN = 0x6e
export const VERSION = 1
export const MAX_DATAGRAM = 1200

export const Kind = {
  SESSION_REQUEST: 1,
  SESSION_RESPONSE: 2,
  OPEN: 3,
  OPENED: 4,
  SEALED: 5,
  SESSION_UNKNOWN: 6,
  CHECK: 7,
  RELAY_BIND: 8,
  RELAY_BOUND: 9,
} as const
export type Kind = (typeof Kind)[keyof typeof Kind]

export const SALT = 16
export const MAC = 16
const TOKEN = 16
export const TAG = 16

/** Who asks for a session: a node by the key id of its login key, a coordinator by its zone, a server by its name. */
export type Identity =
  | { readonly type: 'key'; readonly id: Uint8Array }
  | { readonly type: 'zone'; readonly name: string }
  | { readonly type: 'server'; readonly name: string }

export interface SessionRequest {
  readonly kind: typeof Kind.SESSION_REQUEST
  readonly index: number
  readonly salt: Uint8Array
  readonly identity: Identity
  readonly mac: Uint8Array
}

export interface SessionResponse {
  readonly kind: typeof Kind.SESSION_RESPONSE
  readonly index: number
  readonly salt: Uint8Array
  readonly mac: Uint8Array
}

export interface Open {
  readonly kind: typeof Kind.OPEN
  readonly index: number
  readonly counter: number
  readonly saltA: Uint8Array
  readonly saltB: Uint8Array
  readonly identity: Identity
  readonly sealed: Uint8Array
}

export interface Opened {
  readonly kind: typeof Kind.OPENED
  readonly index: number
  readonly counter: number
  /** Index of the answerer: what SEALED names from now on. */
  readonly answerer: number
  readonly sealed: Uint8Array
}

export interface Sealed {
  readonly kind: typeof Kind.SEALED
  readonly index: number
  readonly counter: number
  readonly sealed: Uint8Array
}

export interface SessionUnknown {
  readonly kind: typeof Kind.SESSION_UNKNOWN
  readonly index: number
}

export interface Check {
  readonly kind: typeof Kind.CHECK
  /** 8 bytes: which pair. */
  readonly tag: Uint8Array
  readonly counter: number
  readonly sealed: Uint8Array
}

export interface RelayBind {
  readonly kind: typeof Kind.RELAY_BIND | typeof Kind.RELAY_BOUND
  readonly channel: number
  /** Of RELAY_BIND: 0 or 1, `WHERE`, and `SHOWS`. Of RELAY_BOUND: 1 bound, 2 prove, 3 seen. */
  readonly side: number
  readonly counter: number
  /** Of RELAY_BOUND 1 and 3: what the relay sees (`encodeSeen`). */
  readonly token: Uint8Array
  readonly mac: Uint8Array
}

/** In the side of a RELAY_BIND: binds nothing, asks where the relay sees the node, at whichever port of it. */
export const WHERE = 0x80
/** In the side of a RELAY_BIND: the MAC of the answer covers the token of the RELAY_BIND, too (ADR 0393). */
export const SHOWS = 0x40

/** The port that a relay sees a node at, and the first and last of its own, 0 where they are not in a row. */
export interface Seen {
  readonly port: number
  readonly first: number
  readonly last: number
}

export function encodeSeen({ port, first, last }: Seen): Uint8Array {
  const token = new Uint8Array(TOKEN)
  const view = viewOf(token)
  view.setUint16(0, port)
  view.setUint16(2, first)
  view.setUint16(4, last)
  return token
}

export function decodeSeen(token: Uint8Array): Seen {
  const view = viewOf(token)
  return { port: view.getUint16(0), first: view.getUint16(2), last: view.getUint16(4) }
}

export type Datagram =
  | SessionRequest
  | SessionResponse
  | Open
  | Opened
  | Sealed
  | SessionUnknown
  | Check
  | RelayBind

const IDENTITIES = ['key', 'zone', 'server'] as const
const KEY_ID = 16
/** Min size of a SESSION_REQUEST, so that no answer is longer than three times the request. */
export const REQUEST_LEAST = 60
export const RELAY_LENGTH = 52
const TEXT = /^[a-z0-9_.-]{1,253}$/

/** Whether it is a datagram of this protocol and not of the tunnel. */
export function isSignalling(bytes: Uint8Array, at = 0): boolean {
  return bytes[at] === SIGN
}

function decode(bytes: Uint8Array, at = 0, end = bytes.length): Decoded<Datagram> {
  if (end - at < 8) return malformed('shorter than a datagram')
  if (end - at > MAX_DATAGRAM) return malformed('longer than a datagram may be')
  if (bytes[at] !== SIGN || bytes[at + 1] !== VERSION || bytes[at + 3] !== 0)
    return malformed('not a datagram of this version')
  const kind = bytes[at + 2]!
  const view = viewOf(bytes)
  const index = view.getUint32(at + 4)
  switch (kind) {
    case Kind.SESSION_REQUEST:
      return decodeRequest(bytes, at, end, index)
    case Kind.SESSION_RESPONSE:
      if (end - at !== 40) return malformed('SESSION_RESPONSE of a wrong length')
      return decoded({ kind, index, salt: bytes.slice(at + 8, at + 24), mac: bytes.slice(at + 24, end) })
    case Kind.OPEN: {
      if (end - at < 48) return malformed('shorter than OPEN')
      const identity = readIdentity(bytes, at + 48, end)
      if (identity === undefined) return malformed('identity')
      const counter = counterAt(view, at + 8)
      if (end - identity.end < TAG || counter < 0) return malformed('OPEN')
      return decoded({
        kind,
        index,
        counter,
        saltA: bytes.slice(at + 16, at + 32),
        saltB: bytes.slice(at + 32, at + 48),
        identity: identity.value,
        sealed: bytes.slice(identity.end, end),
      })
    }
    case Kind.OPENED:
    case Kind.SEALED: {
      const from = at + (kind === Kind.OPENED ? 20 : 16)
      if (end - from < TAG) return malformed('shorter than SEALED')
      const counter = counterAt(view, at + 8)
      if (counter < 0) return malformed('counter')
      const sealed = bytes.slice(from, end)
      if (kind === Kind.SEALED) return decoded({ kind, index, counter, sealed })
      return decoded({ kind, index, counter, answerer: view.getUint32(at + 16), sealed })
    }
    case Kind.SESSION_UNKNOWN:
      if (end - at !== 8) return malformed('SESSION_UNKNOWN of a wrong length')
      return decoded({ kind, index })
    case Kind.CHECK: {
      if (end - at < 20 + TAG) return malformed('shorter than CHECK')
      const counter = counterAt(view, at + 12)
      if (counter < 0) return malformed('counter')
      return decoded({
        kind,
        tag: bytes.slice(at + 4, at + 12),
        counter,
        sealed: bytes.slice(at + 20, end),
      })
    }
    case Kind.RELAY_BIND:
    case Kind.RELAY_BOUND: {
      if (end - at !== RELAY_LENGTH) return malformed('RELAY_BIND of a wrong length')
      const counter = counterAt(view, at + 12)
      if (counter < 0 || bytes[at + 9] !== 0 || bytes[at + 10] !== 0 || bytes[at + 11] !== 0)
        return malformed('RELAY_BIND')
      return decoded({
        kind,
        channel: index,
        side: bytes[at + 8]!,
        counter,
        token: bytes.slice(at + 20, at + 36),
        mac: bytes.slice(at + 36, end),
      })
    }
    default:
      return malformed(`datagram of kind ${kind}`)
  }
}

function decodeRequest(bytes: Uint8Array, at: number, end: number, index: number): Decoded<Datagram> {
  if (end - at < REQUEST_LEAST) return malformed('shorter than SESSION_REQUEST')
  const identity = readIdentity(bytes, at + 24, end - MAC)
  if (identity === undefined) return malformed('identity')
  for (let p = identity.end; p < end - MAC; p++) if (bytes[p] !== 0) return malformed('padding')
  if (end - at !== requestLength(identity.value)) return malformed('SESSION_REQUEST of a wrong length')
  return decoded({
    kind: Kind.SESSION_REQUEST,
    index,
    salt: bytes.slice(at + 8, at + 24),
    identity: identity.value,
    mac: bytes.slice(end - MAC, end),
  })
}

/** Minus one: too large. Counters are below 2^53. */
function counterAt(view: DataView, at: number): number {
  const high = view.getUint32(at)
  return high >= 0x20_0000 ? -1 : high * 0x1_0000_0000 + view.getUint32(at + 4)
}

function setCounter(view: DataView, at: number, counter: number): void {
  view.setUint32(at, Math.floor(counter / 0x1_0000_0000))
  view.setUint32(at + 4, counter >>> 0)
}

function readIdentity(
  bytes: Uint8Array,
  at: number,
  end: number,
): { readonly value: Identity; readonly end: number } | undefined {
  if (end - at < 2) return undefined
  const type = IDENTITIES[bytes[at]! - 1]
  const length = bytes[at + 1]!
  const stop = at + 2 + length
  if (type === undefined || stop > end) return undefined
  const value = bytes.slice(at + 2, stop)
  if (type === 'key') return length === KEY_ID ? { value: { type, id: value }, end: stop } : undefined
  const name = String.fromCharCode(...value)
  return TEXT.test(name) ? { value: { type, name }, end: stop } : undefined
}

export function identityBytes(identity: Identity): Uint8Array {
  const value = identity.type === 'key' ? identity.id : ascii(identity.name)
  const bytes = new Uint8Array(2 + value.length)
  bytes[0] = IDENTITIES.indexOf(identity.type) + 1
  bytes[1] = value.length
  bytes.set(value, 2)
  return bytes
}

function identityLength(identity: Identity): number {
  return 2 + (identity.type === 'key' ? KEY_ID : identity.name.length)
}

function requestLength(identity: Identity): number {
  return Math.max(REQUEST_LEAST, 24 + identityLength(identity) + MAC)
}

function byteLength(datagram: Datagram): number {
  switch (datagram.kind) {
    case Kind.SESSION_REQUEST:
      return requestLength(datagram.identity)
    case Kind.SESSION_RESPONSE:
      return 40
    case Kind.OPEN:
      return 48 + identityLength(datagram.identity) + datagram.sealed.length
    case Kind.OPENED:
      return 20 + datagram.sealed.length
    case Kind.SEALED:
      return 16 + datagram.sealed.length
    case Kind.SESSION_UNKNOWN:
      return 8
    case Kind.CHECK:
      return 20 + datagram.sealed.length
    case Kind.RELAY_BIND:
    case Kind.RELAY_BOUND:
      return RELAY_LENGTH
  }
}

function encode(datagram: Datagram, out: Uint8Array, at = 0): number {
  const length = byteLength(datagram)
  const end = at + length
  if (out.length < end) throw new RangeError('buffer too small for a datagram')
  const view = viewOf(out)
  out.fill(0, at, end)
  out[at] = SIGN
  out[at + 1] = VERSION
  out[at + 2] = datagram.kind
  if ('index' in datagram) view.setUint32(at + 4, datagram.index)
  switch (datagram.kind) {
    case Kind.SESSION_REQUEST:
      out.set(datagram.salt, at + 8)
      out.set(identityBytes(datagram.identity), at + 24)
      out.set(datagram.mac, end - MAC)
      break
    case Kind.SESSION_RESPONSE:
      out.set(datagram.salt, at + 8)
      out.set(datagram.mac, at + 24)
      break
    case Kind.OPEN:
      setCounter(view, at + 8, datagram.counter)
      out.set(datagram.saltA, at + 16)
      out.set(datagram.saltB, at + 32)
      out.set(identityBytes(datagram.identity), at + 48)
      out.set(datagram.sealed, end - datagram.sealed.length)
      break
    case Kind.OPENED:
      setCounter(view, at + 8, datagram.counter)
      view.setUint32(at + 16, datagram.answerer)
      out.set(datagram.sealed, at + 20)
      break
    case Kind.SEALED:
      setCounter(view, at + 8, datagram.counter)
      out.set(datagram.sealed, at + 16)
      break
    case Kind.SESSION_UNKNOWN:
      break
    case Kind.CHECK:
      out.set(datagram.tag, at + 4)
      setCounter(view, at + 12, datagram.counter)
      out.set(datagram.sealed, at + 20)
      break
    case Kind.RELAY_BIND:
    case Kind.RELAY_BOUND:
      view.setUint32(at + 4, datagram.channel)
      out[at + 8] = datagram.side
      setCounter(view, at + 12, datagram.counter)
      out.set(datagram.token, at + 20)
      out.set(datagram.mac, at + 36)
  }
  return end
}

export const datagramCodec: Codec<Datagram> = { decode, encode, byteLength }
