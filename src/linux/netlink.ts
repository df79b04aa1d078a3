/**
 * Netlink messages and attributes (RFC 3549 §2.3, linux/netlink.h): a writer and readers, without a socket.
 *
 *   nlmsghdr   length u32, type u16, flags u16, sequence u32, port u32, then the body
 *   nlattr     length u16 (with these four bytes), type u16 (bit 15: nested, bit 14: big-endian), value, padded to 4
 *
 * Integers are in the host's order, which is little-endian on every machine godwit runs on, unless a name says `be`.
 * Bytes come from the kernel of this machine, yet readers check every length: a short attribute reads as absent.
 */
import { viewOf } from '../core/bytes.ts'

export const NLMSG_ERROR = 2
export const NLMSG_DONE = 3

export const NLM_F_REQUEST = 0x1
export const NLM_F_MULTI = 0x2
export const NLM_F_ACK = 0x4
export const NLM_F_DUMP_INTR = 0x10
export const NLM_F_REPLACE = 0x100
export const NLM_F_EXCL = 0x200
export const NLM_F_CREATE = 0x400
export const NLM_F_APPEND = 0x800
export const NLM_F_DUMP = 0x300
/** On an error: the original message was cut after its header. */
export const NLM_F_CAPPED = 0x100
/** On an error: attributes with the kernel's explanation follow. */
export const NLM_F_ACK_TLVS = 0x200

const HEADER = 16
const NESTED = 0x8000
const TYPE_MASK = 0x3fff

/** Writes one message. Offsets of integers are those of the writing order: fields first, attributes after them. */
export class NetlinkMessage {
  readonly type: number
  readonly flags: number
  #bytes = new Uint8Array(256)
  #view = viewOf(this.#bytes)
  #length = HEADER

  /** `flags` beside NLM_F_REQUEST, which every message of ours carries. */
  constructor(type: number, flags = 0) {
    this.type = type
    this.flags = flags | NLM_F_REQUEST
  }

  u8(value: number): this {
    const at = this.#room(1)
    this.#bytes[at] = value
    return this
  }

  u16(value: number): this {
    const at = this.#room(2)
    this.#view.setUint16(at, value, true)
    return this
  }

  u32(value: number): this {
    const at = this.#room(4)
    this.#view.setUint32(at, value >>> 0, true)
    return this
  }

  be16(value: number): this {
    const at = this.#room(2)
    this.#view.setUint16(at, value)
    return this
  }

  bytes(value: Uint8Array): this {
    const at = this.#room(value.length)
    this.#bytes.set(value, at)
    return this
  }

  zeros(count: number): this {
    this.#room(count)
    return this
  }

  attribute(type: number, value: Uint8Array): this {
    const at = this.#open(type)
    this.bytes(value)
    return this.#close(at)
  }

  attributeU8(type: number, value: number): this {
    const at = this.#open(type)
    this.u8(value)
    return this.#close(at)
  }

  attributeU16(type: number, value: number): this {
    const at = this.#open(type)
    this.u16(value)
    return this.#close(at)
  }

  attributeU32(type: number, value: number): this {
    const at = this.#open(type)
    this.u32(value)
    return this.#close(at)
  }

  /** A non-negative integer below 2^53. */
  attributeU64(type: number, value: number): this {
    const at = this.#open(type)
    this.u32(value).u32(Math.floor(value / 2 ** 32))
    return this.#close(at)
  }

  /** With its terminating zero. */
  attributeString(type: number, value: string): this {
    return this.attribute(type, new TextEncoder().encode(`${value}\0`))
  }

  /** An attribute that holds the attributes that `write` writes. */
  nested(type: number, write: () => void): this {
    return this.structure(type | NESTED, write)
  }

  /** An attribute whose value is the fields that `write` writes. */
  structure(type: number, write: () => void): this {
    const at = this.#open(type)
    write()
    return this.#close(at)
  }

  /** The finished message. The view is valid until the next write. */
  finish(sequence: number): Uint8Array {
    this.#view.setUint32(0, this.#length, true)
    this.#view.setUint16(4, this.type, true)
    this.#view.setUint16(6, this.flags, true)
    this.#view.setUint32(8, sequence, true)
    return this.#bytes.subarray(0, this.#length)
  }

  #open(type: number): number {
    const at = this.#room(4)
    this.#view.setUint16(at + 2, type, true)
    return at
  }

  #close(at: number): this {
    this.#view.setUint16(at, this.#length - at, true)
    const padding = -this.#length & 3
    if (padding > 0) this.#room(padding)
    return this
  }

  /** Reserves bytes and may move them all: call it before touching `#bytes` or `#view`. */
  #room(length: number): number {
    const at = this.#length
    this.#length += length
    if (this.#length > this.#bytes.length) {
      const grown = new Uint8Array(2 * this.#length)
      grown.set(this.#bytes)
      this.#bytes = grown
      this.#view = viewOf(grown)
    }
    return at
  }
}

/** A message as received. `body` is what follows the header. */
export interface NetlinkReply {
  readonly type: number
  readonly flags: number
  readonly sequence: number
  readonly body: Uint8Array
  /** Of an event: the port of the socket that asked for the change; 0: the kernel did it. */
  readonly port?: number
}

/** Called for each message; what follows its header lies at `at` in the datagram, `length` bytes. */
export type VisitMessage = (type: number, flags: number, sequence: number, at: number, length: number) => void

/** Visits the messages in one datagram. Ends at the first malformed header. Allocates nothing. */
export function visitMessages(bytes: Uint8Array, view: DataView, visit: VisitMessage): void {
  let at = 0
  while (at + HEADER <= bytes.length) {
    const length = view.getUint32(at, true)
    if (length < HEADER || at + length > bytes.length) return
    visit(
      view.getUint16(at + 4, true),
      view.getUint16(at + 6, true),
      view.getUint32(at + 8, true),
      at + HEADER,
      length - HEADER,
    )
    at += (length + 3) & ~3
  }
}

/** The messages in one datagram; their bodies are copies. */
export function readMessages(bytes: Uint8Array): NetlinkReply[] {
  const replies: NetlinkReply[] = []
  const view = viewOf(bytes)
  visitMessages(bytes, view, (type, flags, sequence, at, length) => {
    const port = view.getUint32(at - 4, true)
    replies.push({ type, flags, sequence, body: bytes.slice(at, at + length), port })
  })
  return replies
}

/** The attributes from `offset` to the end of `body`, by type; of repeated types the last one. */
export class Attributes {
  readonly #values = new Map<number, Uint8Array>()

  constructor(body: Uint8Array, offset = 0) {
    for (const [type, value] of readAttributes(body, offset)) this.#values.set(type, value)
  }

  has(type: number): boolean {
    return this.#values.has(type)
  }

  bytes(type: number): Uint8Array | undefined {
    return this.#values.get(type)
  }

  u8(type: number): number | undefined {
    return this.#values.get(type)?.[0]
  }

  u16(type: number): number | undefined {
    const value = this.#values.get(type)
    return value !== undefined && value.length >= 2 ? viewOf(value).getUint16(0, true) : undefined
  }

  u32(type: number): number | undefined {
    const value = this.#values.get(type)
    return value !== undefined && value.length >= 4 ? viewOf(value).getUint32(0, true) : undefined
  }

  /** As a number: exact below 2^53. */
  u64(type: number): number | undefined {
    const value = this.#values.get(type)
    return value !== undefined && value.length >= 8 ? Number(viewOf(value).getBigUint64(0, true)) : undefined
  }

  string(type: number): string | undefined {
    const value = this.#values.get(type)
    if (value === undefined) return undefined
    const end = value.indexOf(0)
    return new TextDecoder().decode(end < 0 ? value : value.subarray(0, end))
  }

  nested(type: number): Attributes | undefined {
    const value = this.#values.get(type)
    return value === undefined ? undefined : new Attributes(value)
  }
}

/** Attributes in their order, types without their flag bits; values are views. Ends at the first malformed one. */
export function* readAttributes(body: Uint8Array, offset = 0): Generator<readonly [number, Uint8Array]> {
  const view = viewOf(body)
  let at = offset
  while (at + 4 <= body.length) {
    const length = view.getUint16(at, true)
    if (length < 4 || at + length > body.length) return
    yield [view.getUint16(at + 2, true) & TYPE_MASK, body.subarray(at + 4, at + length)]
    at += (length + 3) & ~3
  }
}

const NLMSGERR_ATTR_MSG = 1

/** An NLMSG_ERROR (also the acknowledgement, errno 0) or NLMSG_DONE: errno and the kernel's message. */
export function readError(reply: NetlinkReply): {
  readonly errno: number
  readonly message: string | undefined
} {
  if (reply.body.length < 4) return { errno: 0, message: undefined }
  const view = viewOf(reply.body)
  const errno = 0 - view.getInt32(0, true)
  let at = 4
  if (reply.type === NLMSG_ERROR) {
    if (reply.body.length < 4 + HEADER) return { errno, message: undefined }
    at += (reply.flags & NLM_F_CAPPED) !== 0 ? HEADER : (view.getUint32(4, true) + 3) & ~3
  }
  if ((reply.flags & NLM_F_ACK_TLVS) === 0) return { errno, message: undefined }
  return { errno, message: new Attributes(reply.body, at).string(NLMSGERR_ATTR_MSG) }
}
