/**
 * What coordinators of one zone say to each other over NATS (docs/wire/overlay.md, "Coordinators of one zone"). The outer form is
 * version (8), sender (64: this start of a coordinator), counter (64), then what is sealed. Inside: kind (8), and by kind
 *
 *   ALIVE   1   wall clock, ms since 1970 (64) · nodes that are registered there (32) · claims since its start (64) · where servers apart
 *               reach it and its name, as COORDINATOR (message.ts)
 *   WHO     2   name of the node that is sought
 *   CLAIM   3   when the node registered there, ms since 1970 (64) · number of the claim since its start (64) · its name
 *   ASK     4   a message of the signalling (message.ts)
 *   ANSWER  5   a message of the signalling
 *   CACHE   6   where the cache server in its process is, as CACHE_SERVER (message.ts); with each sign of life
 *
 * Numbers are big-endian; a name goes to the end.
 */
import { ascii, viewOf } from '../../core/bytes.ts'
import type { Codec } from '../../core/codec.ts'
import { type Decoded, decoded, malformed } from '../../core/result.ts'
import {
  type CertifiedServer,
  type CoordinatorAt,
  certifiedBytes,
  coordinatorBytes,
  isFullName,
  type Message,
  messageCodec,
  readCertified,
  readCoordinator,
} from './message.ts'

const VERSION = 1
const HEAD = 17
const TAG = 16
/** Of a whole one: what is longer is none. */
export const MAX_SOFT = 1300

export interface SoftDatagram {
  /** 8 bytes. */
  readonly sender: Uint8Array
  readonly counter: number
  readonly sealed: Uint8Array
}

export const softCodec: Codec<SoftDatagram> = {
  decode(bytes, at = 0, end = bytes.length) {
    if (end - at < HEAD + TAG) return malformed('shorter than a sealed message')
    if (end - at > MAX_SOFT) return malformed('longer than a message may be')
    if (bytes[at] !== VERSION) return malformed(`version ${bytes[at]}`)
    const counter = viewOf(bytes).getBigUint64(at + 9)
    if (counter > BigInt(Number.MAX_SAFE_INTEGER)) return malformed('counter out of range')
    return decoded({
      sender: bytes.slice(at + 1, at + 9),
      counter: Number(counter),
      sealed: bytes.slice(at + HEAD, end),
    })
  },
  encode({ sender, counter, sealed }, out, at = 0) {
    out[at] = VERSION
    out.set(sender, at + 1)
    viewOf(out).setBigUint64(at + 9, BigInt(counter))
    out.set(sealed, at + HEAD)
    return at + HEAD + sealed.length
  },
  byteLength: ({ sealed }) => HEAD + sealed.length,
}

export const Word = { ALIVE: 1, WHO: 2, CLAIM: 3, ASK: 4, ANSWER: 5, CACHE: 6 } as const

export type SoftWord =
  | {
      readonly word: typeof Word.ALIVE
      readonly wall: number
      readonly nodes: number
      readonly claims: number
      readonly at: CoordinatorAt
    }
  | { readonly word: typeof Word.WHO; readonly name: string }
  | {
      readonly word: typeof Word.CLAIM
      readonly at: number
      readonly number: number
      readonly name: string
    }
  | { readonly word: typeof Word.ASK | typeof Word.ANSWER; readonly message: Message }
  | { readonly word: typeof Word.CACHE; readonly at: CertifiedServer }

export const wordCodec: Codec<SoftWord> = { decode, encode, byteLength }

function decode(bytes: Uint8Array, at = 0, end = bytes.length): Decoded<SoftWord> {
  if (end - at < 1) return malformed('empty')
  const word = bytes[at]!
  const view = viewOf(bytes)
  const from = at + 1
  switch (word) {
    case Word.ALIVE: {
      if (end - from < 21) return malformed('shorter than a sign of life')
      const [wall, claims] = [from, from + 12].map((each) => Number(view.getBigUint64(each))) as [
        number,
        number,
      ]
      const place = readCoordinator(bytes.subarray(from + 20, end))
      if (!Number.isSafeInteger(wall) || !Number.isSafeInteger(claims) || place === undefined)
        return malformed('not a sign of life')
      const nodes = view.getUint32(from + 8)
      return decoded({ word, wall, nodes, claims, at: place })
    }
    case Word.WHO: {
      const name = text(bytes, from, end)
      return isFullName(name) ? decoded({ word, name }) : malformed('not a name')
    }
    case Word.CLAIM: {
      if (end - from < 17) return malformed('shorter than a claim')
      const [time, number] = [from, from + 8].map((each) => Number(view.getBigUint64(each))) as [
        number,
        number,
      ]
      const name = text(bytes, from + 16, end)
      if (!Number.isSafeInteger(time) || !Number.isSafeInteger(number) || !isFullName(name))
        return malformed('not a claim')
      return decoded({ word, at: time, number, name })
    }
    case Word.ASK:
    case Word.ANSWER: {
      const message = messageCodec.decode(bytes, from, end)
      return message.ok ? decoded({ word, message: message.value }) : message
    }
    case Word.CACHE: {
      const server = readCertified(bytes.subarray(from, end))
      return server === undefined ? malformed('not a cache server') : decoded({ word, at: server })
    }
    default:
      return malformed(`kind ${word}`)
  }
}

function encode(value: SoftWord, out: Uint8Array, at = 0): number {
  out[at] = value.word
  const view = viewOf(out)
  const from = at + 1
  switch (value.word) {
    case Word.ALIVE:
      view.setBigUint64(from, BigInt(value.wall))
      view.setUint32(from + 8, value.nodes)
      view.setBigUint64(from + 12, BigInt(value.claims))
      out.set(coordinatorBytes(value.at), from + 20)
      return from + 20 + coordinatorBytes(value.at).length
    case Word.WHO:
      return put(value.name, out, from)
    case Word.CLAIM:
      view.setBigUint64(from, BigInt(value.at))
      view.setBigUint64(from + 8, BigInt(value.number))
      return put(value.name, out, from + 16)
    case Word.CACHE:
      out.set(certifiedBytes(value.at), from)
      return from + certifiedBytes(value.at).length
    default:
      return messageCodec.encode(value.message, out, from)
  }
}

function byteLength(value: SoftWord): number {
  if (value.word === Word.ALIVE) return 21 + coordinatorBytes(value.at).length
  if (value.word === Word.WHO) return 1 + value.name.length
  if (value.word === Word.CLAIM) return 17 + value.name.length
  if (value.word === Word.CACHE) return 1 + certifiedBytes(value.at).length
  return 1 + messageCodec.byteLength(value.message)
}

function text(bytes: Uint8Array, at: number, end: number): string {
  return String.fromCharCode(...bytes.subarray(at, Math.min(end, at + 256)))
}

function put(name: string, out: Uint8Array, at: number): number {
  out.set(ascii(name), at)
  return at + name.length
}
