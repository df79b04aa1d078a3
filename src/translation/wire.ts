/**
 * IHMP messages (paper § III-B, Fig. 4), one per UDP datagram. docs/wire/ihmp.md says what each field means and when a
 * message is sent; numbers are big-endian.
 *
 *    0               1               2               3
 *   +---------------+---------------+---------------+---------------+
 *   | 'I'           | 'H'           | version = 1   | control       |
 *   +---------------+---------------+---------------+---------------+
 *   | options                       | sequence number               |
 *   +-------------------------------+-------------------------------+
 *   | counter (64)                                                  |
 *   |                                                               |
 *   +---------------+---------------+-------------------------------+
 *   | family: 4, 6  | zero          | length of the payload         |
 *   +---------------+---------------+-------------------------------+
 *   | Host ID (128): an IPv4 address in the first 32 bits, then zero |
 *   +---------------------------------------------------------------+
 *   | payload: fields of type (8), zero (8), length (16), value …   |
 *   +---------------------------------------------------------------+
 *
 * The last field is the authenticator: SIGNATURE or MAC, over everything before it with the option bit NS taken as 0,
 * because NATs set that one on the way.
 */

import { concat, viewOf } from '../core/bytes.ts'
import { type Codec, encoded } from '../core/codec.ts'
import { type Decoded, decoded, malformed } from '../core/result.ts'

/** Control field: the message types of DI-20. */
export const Control = {
  HELLO: 1,
  HELLO_ACK: 2,
  PATH_PROBE: 3,
  ADDR_UP: 4,
  ADDR_UP_UNREACHABLE: 5,
  ADDR_DOWN: 6,
  ADDR_DOWN_UNREACHABLE: 7,
  HANDOFF: 8,
  HANDOFF_UNREACHABLE: 9,
  NAT_ENTRY: 10,
  /** The sender signs with another key from now on (DI-40); ours. */
  KEY_CHANGE: 11,
  /** The sender is an end of these connections; ours. */
  FLOWS: 12,
  /** The sender exchanges datagrams with the receiver, and asks for its HELLO; ours. */
  SOLICIT: 13,
  /** An acknowledgement by a router; only an IHMP-aware NAT sends it (D7). */
  ROUTER_ACK: 14,
  ACK: 15,
  /** Single flows go over this pair, or with all others again (multipath). */
  MOVE_FLOWS: 16,
} as const
export type Control = (typeof Control)[keyof typeof Control]

/** Options field (DI-21); PF and CF are ours. */
export const Option = {
  /** OLDADDR_UNREACHABLE: the lost address had not been usable by the receiver. */
  OU: 0x0001,
  /** NAT_SUPPORTED: set by an IHMP-aware NAT on the way. */
  NS: 0x0002,
  /** NAT_DETECTED: the source of the acknowledged message was not the address that it names. */
  ND: 0x0004,
  /** NAT_FORCED: the association starts behind an unaware NAT and cannot move. */
  NF: 0x0008,
  /** PREFERRED: from now on reach the sender at the source address of this message. */
  PF: 0x0010,
  /** CROSS_FAMILY: flows of the other family may travel on this pair; in an acknowledgement: here too. */
  CF: 0x0020,
  /** RELEASED: the flows named go where all others of the sender go, no longer on a pair of their own. */
  RF: 0x0040,
} as const

/** Types of payload fields. */
export const Field = {
  /** An address that the sender advertises. */
  ADDRESS: 1,
  NEW_ADDRESS: 2,
  LOST_ADDRESS: 3,
  NAT_PAIR: 4,
  PORT_MAPPING: 5,
  PUBLIC_KEY: 6,
  CHALLENGE: 7,
  RESPONSE: 8,
  RECEIVER: 9,
  COOKIE: 10,
  NEW_KEY: 11,
  KEY_PROOF: 12,
  FLOW_PAIR: 13,
  FLOW_TAGS: 14,
  FLOW_ENDS: 15,
  MAC: 254,
  SIGNATURE: 255,
} as const

/** An address as NATs show it beside the host's own (DI-41). */
export interface NatPair {
  readonly nat: Uint8Array
  readonly host: Uint8Array
}

/** What an IHMP-aware NAT made of one connection (DI-42). */
export interface PortMapping {
  readonly protocol: number
  readonly host: Uint8Array
  readonly hostPort: number
  readonly nat: Uint8Array
  readonly natPort: number
  readonly remotePort: number
}

/** The addresses that connections are bound to: the sender's and the receiver's. */
export interface FlowPair {
  readonly own: Uint8Array
  readonly other: Uint8Array
}

/** A connection by its ports, the sender's first, with what only its ends can know (8 bytes; machine/possession.ts). */
export interface FlowTag {
  readonly ownPort: number
  readonly otherPort: number
  readonly tag: Uint8Array
}

/** A flow between the addresses of FLOW_PAIR: the sender's port, the receiver's, and the sender's as packets carry it. */
export interface FlowEnds {
  readonly protocol: number
  readonly ownPort: number
  readonly otherPort: number
  readonly wirePort: number
}

export interface IhmpMessage {
  readonly control: Control
  readonly options: number
  /** Of the message, or in an acknowledgement of the message acknowledged. */
  readonly sequence: number
  /** Rises with every message that a key signs; replays are told by it. Below 2^53. */
  readonly counter: number
  /** An address of the sender that the receiver already knows as the sender's (DI-18). */
  readonly hostId: Uint8Array
  readonly addresses?: readonly Uint8Array[]
  readonly newAddress?: Uint8Array
  readonly lostAddresses?: readonly Uint8Array[]
  readonly natPair?: NatPair
  readonly mapping?: PortMapping
  /** Ed25519, 32 bytes. */
  readonly publicKey?: Uint8Array
  /** The key that replaces the one this message is signed with. */
  readonly newKey?: Uint8Array
  /** Signature by `newKey` (`keyChangeTranscript`), 64 bytes. */
  readonly keyProof?: Uint8Array
  readonly flowPair?: FlowPair
  readonly flowTags?: readonly FlowTag[]
  readonly flowEnds?: readonly FlowEnds[]
  /** 16 bytes to be returned in `response` from the address under test. */
  readonly challenge?: Uint8Array
  readonly response?: Uint8Array
  /** An address of the receiver's, so that a message to one host is worthless at another. */
  readonly receiver?: Uint8Array
  /** Half of the secret of an unsigned association, 16 bytes. */
  readonly cookie?: Uint8Array
  /** HMAC-SHA-256, 32 bytes. */
  readonly mac?: Uint8Array
  /** Ed25519, 64 bytes. */
  readonly signature?: Uint8Array
}

export const VERSION = 1
export const HEADER = 36
export const OPTIONS_AT = 4
const COUNTER_AT = 8
const HOST_ID_AT = 20
/** Largest message: fits any IPv6 path (1,280) with its headers. */
export const MAX_MESSAGE = 1200
/** Most connections in one message. */
export const MOST_FLOW_TAGS = 80
const FLOW_TAG_LENGTH = 12
/** Most flows that one message moves. */
export const MOST_FLOW_ENDS = 100
const FLOW_ENDS_LENGTH = 8
const CONTROLS = new Set<number>(Object.values(Control))
const CHALLENGE_LENGTH = 16

/** Sizes of fields that have one; addresses have 4 or 16. */
const FIXED: Readonly<Record<number, number>> = {
  [Field.PUBLIC_KEY]: 32,
  [Field.NEW_KEY]: 32,
  [Field.KEY_PROOF]: 64,
  [Field.CHALLENGE]: CHALLENGE_LENGTH,
  [Field.RESPONSE]: CHALLENGE_LENGTH,
  [Field.COOKIE]: 16,
  [Field.MAC]: 32,
  [Field.SIGNATURE]: 64,
}
const ADDRESSES = new Set<number>([Field.ADDRESS, Field.NEW_ADDRESS, Field.LOST_ADDRESS, Field.RECEIVER])

type Mutable = { -readonly [K in keyof IhmpMessage]: IhmpMessage[K] }

/** Fields of unknown type are skipped, except after the authenticator. A field that may come once must. */
function decode(bytes: Uint8Array, at = 0, end = bytes.length): Decoded<IhmpMessage> {
  if (end - at < HEADER) return malformed('shorter than the header')
  const view = viewOf(bytes)
  if (bytes[at] !== 0x49 || bytes[at + 1] !== 0x48) return malformed('not IHMP')
  if (bytes[at + 2] !== VERSION) return malformed(`version ${bytes[at + 2]}`)
  const control = bytes[at + 3]!
  if (!CONTROLS.has(control)) return malformed(`control ${control}`)
  const high = view.getUint32(at + COUNTER_AT)
  if (high >= 0x200000) return malformed('counter above 2^53')
  const family = bytes[at + 16]!
  if (family !== 4 && family !== 6) return malformed(`address family ${family}`)
  const width = family === 4 ? 4 : 16
  if (bytes[at + 17] !== 0 || !isZero(bytes, at + HOST_ID_AT + width, at + HEADER))
    return malformed('reserved bits set')
  const length = view.getUint16(at + 18)
  if (length !== end - at - HEADER) return malformed('length of the payload')
  const message: Mutable = {
    control: control as Control,
    options: view.getUint16(at + OPTIONS_AT),
    sequence: view.getUint16(at + 6),
    counter: high * 4294967296 + view.getUint32(at + COUNTER_AT + 4),
    hostId: bytes.slice(at + HOST_ID_AT, at + HOST_ID_AT + width),
  }
  const addresses: Uint8Array[] = []
  const lost: Uint8Array[] = []
  let authenticated = false
  for (let p = at + HEADER; p < end; ) {
    if (end - p < 4) return malformed('field header')
    const type = bytes[p]!
    const size = view.getUint16(p + 2)
    if (bytes[p + 1] !== 0) return malformed('reserved bits set')
    if (end - p - 4 < size) return malformed('field longer than the payload')
    if (authenticated) return malformed('field after the authenticator')
    const value = bytes.slice(p + 4, p + 4 + size)
    p += 4 + size
    if (FIXED[type] !== undefined && size !== FIXED[type]) return malformed(`field ${type} of ${size} bytes`)
    if (ADDRESSES.has(type) && size !== 4 && size !== 16) return malformed(`address of ${size} bytes`)
    switch (type) {
      case Field.ADDRESS:
        addresses.push(value)
        break
      case Field.LOST_ADDRESS:
        lost.push(value)
        break
      case Field.NAT_PAIR:
        if (size !== 8 && size !== 32) return malformed(`pair of ${size} bytes`)
        if (message.natPair !== undefined) return malformed('field twice')
        message.natPair = { nat: value.slice(0, size / 2), host: value.slice(size / 2) }
        break
      case Field.FLOW_PAIR:
        if (size !== 8 && size !== 32) return malformed(`pair of ${size} bytes`)
        if (message.flowPair !== undefined) return malformed('field twice')
        message.flowPair = { own: value.slice(0, size / 2), other: value.slice(size / 2) }
        break
      case Field.FLOW_TAGS:
        if (size % FLOW_TAG_LENGTH !== 0) return malformed(`flow tags of ${size} bytes`)
        if (message.flowTags !== undefined) return malformed('field twice')
        message.flowTags = decodeTags(value)
        break
      case Field.FLOW_ENDS:
        if (size % FLOW_ENDS_LENGTH !== 0) return malformed(`flow ends of ${size} bytes`)
        if (message.flowEnds !== undefined) return malformed('field twice')
        message.flowEnds = decodeEnds(value)
        break
      case Field.PORT_MAPPING: {
        const mapping = decodeMapping(value)
        if (mapping === undefined) return malformed('port mapping')
        if (message.mapping !== undefined) return malformed('field twice')
        message.mapping = mapping
        break
      }
      default: {
        const name = SINGLE[type]
        if (name === undefined) break
        if (message[name] !== undefined) return malformed('field twice')
        message[name] = value
        authenticated = type === Field.MAC || type === Field.SIGNATURE
      }
    }
  }
  if (addresses.length > 0) message.addresses = addresses
  if (lost.length > 0) message.lostAddresses = lost
  return decoded(message)
}

const SINGLE: Readonly<
  Record<
    number,
    | 'newAddress'
    | 'publicKey'
    | 'newKey'
    | 'keyProof'
    | 'challenge'
    | 'response'
    | 'receiver'
    | 'cookie'
    | 'mac'
    | 'signature'
  >
> = {
  [Field.NEW_ADDRESS]: 'newAddress',
  [Field.PUBLIC_KEY]: 'publicKey',
  [Field.NEW_KEY]: 'newKey',
  [Field.KEY_PROOF]: 'keyProof',
  [Field.CHALLENGE]: 'challenge',
  [Field.RESPONSE]: 'response',
  [Field.RECEIVER]: 'receiver',
  [Field.COOKIE]: 'cookie',
  [Field.MAC]: 'mac',
  [Field.SIGNATURE]: 'signature',
}
const SINGLE_ORDER = [
  Field.NEW_ADDRESS,
  Field.RECEIVER,
  Field.PUBLIC_KEY,
  Field.NEW_KEY,
  Field.KEY_PROOF,
  Field.CHALLENGE,
  Field.RESPONSE,
  Field.COOKIE,
] as const

function encode(message: IhmpMessage, out: Uint8Array, at = 0): number {
  const length = byteLength(message)
  if (out.length - at < length) throw new RangeError('buffer too small for an IHMP message')
  const view = viewOf(out)
  out.fill(0, at, at + HEADER)
  out[at] = 0x49
  out[at + 1] = 0x48
  out[at + 2] = VERSION
  out[at + 3] = message.control
  view.setUint16(at + OPTIONS_AT, message.options)
  view.setUint16(at + 6, message.sequence)
  view.setUint32(at + COUNTER_AT, Math.floor(message.counter / 4294967296))
  view.setUint32(at + COUNTER_AT + 4, message.counter >>> 0)
  out[at + 16] = message.hostId.length === 4 ? 4 : 6
  view.setUint16(at + 18, length - HEADER)
  out.set(message.hostId, at + HOST_ID_AT)
  let p = at + HEADER
  const field = (type: number, ...parts: readonly Uint8Array[]): void => {
    const start = p
    out[p] = type
    out[p + 1] = 0
    p += 4
    for (const part of parts) {
      out.set(part, p)
      p += part.length
    }
    view.setUint16(start + 2, p - start - 4)
  }
  for (const address of message.addresses ?? []) field(Field.ADDRESS, address)
  for (const address of message.lostAddresses ?? []) field(Field.LOST_ADDRESS, address)
  if (message.natPair !== undefined) field(Field.NAT_PAIR, message.natPair.nat, message.natPair.host)
  if (message.mapping !== undefined) field(Field.PORT_MAPPING, ...encodeMapping(message.mapping))
  if (message.flowPair !== undefined) field(Field.FLOW_PAIR, message.flowPair.own, message.flowPair.other)
  if (message.flowTags !== undefined) field(Field.FLOW_TAGS, ...message.flowTags.flatMap(encodeTag))
  if (message.flowEnds !== undefined) field(Field.FLOW_ENDS, ...message.flowEnds.map(encodeEnds))
  for (const type of SINGLE_ORDER) {
    const value = message[SINGLE[type]!]
    if (value !== undefined) field(type, value)
  }
  if (message.mac !== undefined) field(Field.MAC, message.mac)
  if (message.signature !== undefined) field(Field.SIGNATURE, message.signature)
  return p
}

function byteLength(message: IhmpMessage): number {
  let length = HEADER
  for (const address of message.addresses ?? []) length += 4 + address.length
  for (const address of message.lostAddresses ?? []) length += 4 + address.length
  if (message.natPair !== undefined) length += 4 + message.natPair.nat.length + message.natPair.host.length
  if (message.mapping !== undefined) length += 4 + 8 + 2 * message.mapping.host.length
  if (message.flowPair !== undefined) length += 4 + 2 * message.flowPair.own.length
  if (message.flowTags !== undefined) length += 4 + FLOW_TAG_LENGTH * message.flowTags.length
  if (message.flowEnds !== undefined) length += 4 + FLOW_ENDS_LENGTH * message.flowEnds.length
  for (const type of SINGLE_ORDER) {
    const value = message[SINGLE[type]!]
    if (value !== undefined) length += 4 + value.length
  }
  if (message.mac !== undefined) length += 4 + 32
  if (message.signature !== undefined) length += 4 + 64
  return length
}

/** protocol (8), zero (8), host port, NAT's port, remote port (16 each), host's address, NAT's address. */
function decodeMapping(value: Uint8Array): PortMapping | undefined {
  const width = value.length === 16 ? 4 : value.length === 40 ? 16 : 0
  if (width === 0 || value[1] !== 0) return undefined
  const view = viewOf(value)
  return {
    protocol: value[0]!,
    hostPort: view.getUint16(2),
    natPort: view.getUint16(4),
    remotePort: view.getUint16(6),
    host: value.slice(8, 8 + width),
    nat: value.slice(8 + width),
  }
}

function encodeMapping(mapping: PortMapping): readonly Uint8Array[] {
  const head = new Uint8Array(8)
  const view = viewOf(head)
  head[0] = mapping.protocol
  view.setUint16(2, mapping.hostPort)
  view.setUint16(4, mapping.natPort)
  view.setUint16(6, mapping.remotePort)
  return [head, mapping.host, mapping.nat]
}

/** The sender's port, the receiver's, a tag of 8 bytes; again and again. */
function decodeTags(value: Uint8Array): FlowTag[] {
  const view = viewOf(value)
  const tags: FlowTag[] = []
  for (let at = 0; at < value.length; at += FLOW_TAG_LENGTH)
    tags.push({
      ownPort: view.getUint16(at),
      otherPort: view.getUint16(at + 2),
      tag: value.slice(at + 4, at + FLOW_TAG_LENGTH),
    })
  return tags
}

function encodeTag({ ownPort, otherPort, tag }: FlowTag): readonly Uint8Array[] {
  return [Uint8Array.of(ownPort >> 8, ownPort & 255, otherPort >> 8, otherPort & 255), tag]
}

/** protocol (8), zero (8), the sender's port, the receiver's, the sender's on the wire; again and again. */
function decodeEnds(value: Uint8Array): FlowEnds[] {
  const view = viewOf(value)
  const ends: FlowEnds[] = []
  for (let at = 0; at < value.length; at += FLOW_ENDS_LENGTH)
    ends.push({
      protocol: value[at]!,
      ownPort: view.getUint16(at + 2),
      otherPort: view.getUint16(at + 4),
      wirePort: view.getUint16(at + 6),
    })
  return ends
}

function encodeEnds({ protocol, ownPort, otherPort, wirePort }: FlowEnds): Uint8Array {
  const bytes = new Uint8Array(FLOW_ENDS_LENGTH)
  const view = viewOf(bytes)
  bytes[0] = protocol
  view.setUint16(2, ownPort)
  view.setUint16(4, otherPort)
  view.setUint16(6, wirePort)
  return bytes
}

function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false
  return true
}

export const ihmp: Codec<IhmpMessage> = { decode, encode, byteLength }

/**
 * The bytes that an authenticator covers: all before its field, NS cleared, with the length that the whole message has.
 * A copy.
 */
export function covered(bytes: Uint8Array, authenticatorLength: number): Uint8Array {
  const out = bytes.slice(0, bytes.length - authenticatorLength - 4)
  out[OPTIONS_AT + 1] = out[OPTIONS_AT + 1]! & ~Option.NS
  return out
}

/** Encodes with the authenticator that `sign` (64 bytes, Ed25519) makes of the bytes that it covers. */
export function encodeSigned(message: IhmpMessage, sign: (bytes: Uint8Array) => Uint8Array): Uint8Array {
  const bytes = encoded(ihmp, { ...message, signature: new Uint8Array(64) })
  bytes.set(sign(covered(bytes, 64)), bytes.length - 64)
  return bytes
}

/** The same with a MAC of 32 bytes. */
export function encodeMac(message: IhmpMessage, mac: (bytes: Uint8Array) => Uint8Array): Uint8Array {
  const bytes = encoded(ihmp, { ...message, mac: new Uint8Array(32) })
  bytes.set(mac(covered(bytes, 32)), bytes.length - 32)
  return bytes
}

const KEY_CHANGE_LABEL = Uint8Array.from('godwit IHMP key change', (c) => c.charCodeAt(0))

/**
 * What the new key signs to show that its owner takes over from `oldKey`: `challenge` came from the receiver and
 * `receiver` is an address of the receiver's, so the signature is fresh and worthless at any other host. 118 bytes for IPv4.
 */
export function keyChangeTranscript(
  oldKey: Uint8Array,
  newKey: Uint8Array,
  receiver: Uint8Array,
  challenge: Uint8Array,
): Uint8Array {
  return concat(KEY_CHANGE_LABEL, oldKey, newKey, challenge, receiver)
}
