/**
 * Messages of D-Bus (D-Bus Specification 0.41, "Message Protocol"). Read in either byte order, written in little endian.
 *
 * ```
 *  0  byte order, 'l' or 'B'      4  u32 length of the body        12  u32 length of the header fields
 *  1  type: call … signal         8  u32 serial, not 0             16  header fields, each (code y, value v), at
 *  2  flags                                                            multiples of 8
 *  3  protocol version, 1                                          then zeros up to a multiple of 8, and the body
 * ```
 *
 * Every value stands at a multiple of its alignment, counted from the message's first byte. What a value is follows from
 * a signature ("Type System"):
 *
 * | signature | value |
 * | --- | --- |
 * | `y` `n` `q` `i` `u` `d` `h` | number |
 * | `x` `t` | bigint |
 * | `b` | boolean |
 * | `s` `o` `g` | string |
 * | `ay` | Uint8Array |
 * | `a{…}` | Map |
 * | other arrays, `(…)` | array |
 * | `v` | Variant |
 */
import { viewOf } from '../../core/bytes.ts'
import type { Codec } from '../../core/codec.ts'
import { type Decoded, decoded, malformed } from '../../core/result.ts'

export interface Variant {
  /** One complete type. */
  readonly signature: string
  readonly value: Value
}

export type Value =
  | number
  | bigint
  | boolean
  | string
  | Uint8Array
  | readonly Value[]
  | ReadonlyMap<Value, Value>
  | Variant

export const MESSAGE_TYPES = ['call', 'return', 'error', 'signal'] as const

/** Header fields carry a name where the message has it; which ones must be there follows from the type. */
export interface Message {
  readonly type: (typeof MESSAGE_TYPES)[number]
  readonly flags: number
  readonly serial: number
  readonly path?: string
  readonly interface?: string
  readonly member?: string
  readonly error?: string
  readonly replySerial?: number
  readonly destination?: string
  readonly sender?: string
  /** Types of the body, none for ''. */
  readonly signature: string
  readonly body: readonly Value[]
}

/** Flags ("Message Format"). */
export const NO_REPLY_EXPECTED = 0x1
export const NO_AUTO_START = 0x2

/** The fixed part, up to the header fields: with it `messageLength` knows where a message ends. */
export const FIXED_BYTES = 16

/** Limits of the specification. */
const MOST_ARRAY_BYTES = 1 << 26
const MOST_MESSAGE_BYTES = 1 << 27
const MOST_SIGNATURE = 255
const MOST_NESTED = 32
/** Arrays, structs and variants within one another. */
const MOST_DEEP = 64

/** Codes of header fields, and the signature of each ("Header Fields"). */
const FIELDS = [
  ['path', 1, 'o'],
  ['interface', 2, 's'],
  ['member', 3, 's'],
  ['error', 4, 's'],
  ['replySerial', 5, 'u'],
  ['destination', 6, 's'],
  ['sender', 7, 's'],
] as const
const SIGNATURE_FIELD = 8

type FieldName = (typeof FIELDS)[number][0]
const NEEDED: Readonly<Record<Message['type'], readonly FieldName[]>> = {
  call: ['path', 'member'],
  return: ['replySerial'],
  error: ['error', 'replySerial'],
  signal: ['path', 'interface', 'member'],
}

const LITTLE = 0x6c
const BIG = 0x42

/** How many bytes a message has whose first FIXED_BYTES are at `at`, or why there is no telling. */
export function messageLength(bytes: Uint8Array, at = 0): Decoded<number> {
  const order = bytes[at]
  if (order !== LITTLE && order !== BIG) return malformed('neither byte order')
  const view = viewOf(bytes)
  const body = view.getUint32(at + 4, order === LITTLE)
  const fields = view.getUint32(at + 12, order === LITTLE)
  const length = FIXED_BYTES + aligned(fields, 8) + body
  return fields > MOST_ARRAY_BYTES || length > MOST_MESSAGE_BYTES
    ? malformed('longer than a message may be')
    : decoded(length)
}

export const messageCodec: Codec<Message> = {
  decode(bytes, at = 0, end = bytes.length) {
    if (end - at < FIXED_BYTES) return malformed('shorter than a header')
    const length = messageLength(bytes, at)
    if (!length.ok) return length
    if (length.value > end - at) return malformed('cut off')
    const type = MESSAGE_TYPES[bytes[at + 1]! - 1]
    if (type === undefined) return malformed(`message type ${bytes[at + 1]}`)
    if (bytes[at + 3] !== 1) return malformed(`protocol version ${bytes[at + 3]}`)
    const reader = new Reader(bytes, at, at + length.value, bytes[at] === LITTLE)
    const serial = reader.skip(8).read('u') as number
    if (serial === 0) return malformed('serial 0')
    const fields = readFields(reader)
    reader.pad(8)
    const signature = fields.signature ?? ''
    const body = reader.readAll(signature)
    if (reader.reason !== undefined) return malformed(reader.reason)
    if (reader.at !== at + length.value) return malformed('body longer than its signature')
    const missing = NEEDED[type].find((name) => fields[name] === undefined)
    if (missing !== undefined) return malformed(`a ${type} without ${missing}`)
    return decoded({ type, flags: bytes[at + 2]!, serial, ...fields, signature, body })
  },

  encode(message, out, at = 0) {
    if (this.byteLength(message) > out.length - at) throw new RangeError('no room for the message')
    return writeMessage(new Writer(out, at), message)
  },

  byteLength(message) {
    return writeMessage(new Writer(undefined, 0), message)
  },
}

type Fields = { -readonly [Name in FieldName | 'signature']?: Message[Name] }

function readFields(reader: Reader): Fields {
  const list = reader.read('a(yv)')
  if (reader.reason !== undefined) return {}
  const fields: Record<string, Value> = {}
  for (const [code, { signature, value }] of list as readonly [number, Variant][]) {
    if (code === SIGNATURE_FIELD && signature === 'g') fields.signature = value
    const known = FIELDS.find((field) => field[1] === code)
    if (known !== undefined && signature === known[2]) fields[known[0]] = value
  }
  return fields
}

function writeMessage(writer: Writer, message: Message): number {
  const start = writer.at
  writer.byte(LITTLE)
  writer.byte(MESSAGE_TYPES.indexOf(message.type) + 1)
  writer.byte(message.flags)
  writer.byte(1)
  writer.word(0)
  writer.word(message.serial)
  const fields: [number, Variant][] = []
  for (const [name, code, signature] of FIELDS) {
    const value = message[name]
    if (value !== undefined) fields.push([code, { signature, value }])
  }
  if (message.signature !== '') fields.push([SIGNATURE_FIELD, { signature: 'g', value: message.signature }])
  writer.write('a(yv)', fields)
  writer.pad(8)
  const body = writer.at
  let type = 0
  for (const value of message.body) type = writer.one(message.signature, type, value)
  const end = writer.at
  writer.at = start + 4
  writer.word(end - body)
  return end
}

/** Whether a text is a list of complete types within the limits. */
export function isSignature(text: string): boolean {
  if (text.length > MOST_SIGNATURE) return false
  let at = 0
  while (at < text.length) {
    at = typeEnd(text, at, 0, 0)
    if (at < 0) return false
  }
  return true
}

/** Where the complete type that begins at `at` ends; −1 when there is none. */
function typeEnd(text: string, at: number, arrays: number, structs: number): number {
  const code = text[at]
  if (code === undefined || arrays > MOST_NESTED || structs > MOST_NESTED) return -1
  if ('ybnqiuxtdsogvh'.includes(code)) return at + 1
  if (code === 'a') {
    if (text[at + 1] !== '{') return typeEnd(text, at + 1, arrays + 1, structs)
    if (!'ybnqiuxtdsogh'.includes(text[at + 2] ?? 'v')) return -1
    const end = typeEnd(text, at + 3, arrays + 1, structs + 1)
    return end >= 0 && text[end] === '}' ? end + 1 : -1
  }
  if (code !== '(') return -1
  let inner = at + 1
  do inner = typeEnd(text, inner, arrays, structs + 1)
  while (inner >= 0 && text[inner] !== ')')
  return inner < 0 ? -1 : inner + 1
}

/** Alignment in bytes ("Marshaling"). */
function alignmentOf(code: string): number {
  if ('ygv'.includes(code)) return 1
  if ('nq'.includes(code)) return 2
  return 'xtd({'.includes(code) ? 8 : 4
}

function aligned(length: number, to: number): number {
  return Math.ceil(length / to) * to
}

function isObjectPath(text: string): boolean {
  return /^\/$|^(\/[A-Za-z0-9_]+)+$/.test(text)
}

const fromUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const toUtf8 = new TextEncoder()

/** Reads values one after the other. The first error is kept in `reason`; values read after it are meaningless. */
class Reader {
  reason: string | undefined
  at: number
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #start: number
  readonly #end: number
  readonly #little: boolean
  #depth = 0

  constructor(bytes: Uint8Array, at: number, end: number, little: boolean) {
    this.#bytes = bytes
    this.#view = viewOf(bytes)
    this.#start = at
    this.at = at
    this.#end = end
    this.#little = little
  }

  skip(bytes: number): this {
    this.at += bytes
    return this
  }

  pad(to: number): void {
    const next = this.#start + aligned(this.at - this.#start, to)
    if (next > this.#end) this.#fail('cut off')
    else
      for (; this.at < next; this.at++) if (this.#bytes[this.at] !== 0) this.#fail('padding that is not zero')
  }

  /** The value of one complete type. */
  read(signature: string): Value {
    return this.#one(signature, 0)[0]
  }

  readAll(signature: string): Value[] {
    const values: Value[] = []
    let type = 0
    while (type < signature.length && this.reason === undefined) {
      const [value, end] = this.#one(signature, type)
      values.push(value)
      type = end
    }
    return values
  }

  /** A value of the type at `type` in the signature, and where that type ends. */
  #one(signature: string, type: number): [Value, number] {
    const code = signature[type]!
    this.pad(alignmentOf(code))
    if (this.reason !== undefined) return [0, signature.length]
    if (!'a(v'.includes(code)) return [this.#basic(code), type + 1]
    if (++this.#depth > MOST_DEEP) this.#fail('nested too deep')
    const result: [Value, number] =
      this.reason !== undefined
        ? [0, signature.length]
        : code === 'a'
          ? this.#array(signature, type)
          : code === '('
            ? this.#struct(signature, type)
            : [this.#variant(), type + 1]
    this.#depth--
    return result
  }

  #basic(code: string): Value {
    const view = this.#view
    switch (code) {
      case 'y':
        return this.#take(1, (at) => view.getUint8(at))
      case 'n':
        return this.#take(2, (at) => view.getInt16(at, this.#little))
      case 'q':
        return this.#take(2, (at) => view.getUint16(at, this.#little))
      case 'i':
        return this.#take(4, (at) => view.getInt32(at, this.#little))
      case 'd':
        return this.#take(8, (at) => view.getFloat64(at, this.#little))
      case 'x':
        return this.#take(8, (at) => view.getBigInt64(at, this.#little))
      case 't':
        return this.#take(8, (at) => view.getBigUint64(at, this.#little))
      case 'b': {
        const value = this.#word()
        if (value > 1) this.#fail('a boolean that is neither')
        return value === 1
      }
      case 's':
        return this.#text(this.#word())
      case 'o': {
        const path = this.#text(this.#word())
        if (!isObjectPath(path)) this.#fail('not an object path')
        return path
      }
      case 'g': {
        const signature = this.#text(this.#take(1, (at) => view.getUint8(at)))
        if (!isSignature(signature)) this.#fail('not a signature')
        return signature
      }
      default:
        return this.#word()
    }
  }

  #array(signature: string, type: number): [Value, number] {
    const end = typeEnd(signature, type, 0, 0)
    const element = signature[type + 1]!
    const length = this.#word()
    if (length > MOST_ARRAY_BYTES) this.#fail('an array longer than it may be')
    this.pad(alignmentOf(element))
    const stop = this.at + length
    if (stop > this.#end) this.#fail('cut off')
    if (this.reason !== undefined) return [[], end]
    if (element === 'y') {
      this.at = stop
      return [new Uint8Array(this.#bytes.subarray(stop - length, stop)), end]
    }
    const values: Value[] = []
    const entries = new Map<Value, Value>()
    while (this.at < stop && this.reason === undefined) {
      if (element === '{') {
        this.pad(8)
        const [key, next] = this.#one(signature, type + 2)
        entries.set(key, this.#one(signature, next)[0])
      } else values.push(this.#one(signature, type + 1)[0])
    }
    if (this.at !== stop) this.#fail('an array that ends within an element')
    return [element === '{' ? entries : values, end]
  }

  #struct(signature: string, type: number): [Value, number] {
    const values: Value[] = []
    let at = type + 1
    while (signature[at] !== ')' && this.reason === undefined) {
      const [value, next] = this.#one(signature, at)
      values.push(value)
      at = next
    }
    return [values, at + 1]
  }

  #variant(): Variant {
    const signature = this.#basic('g') as string
    if (typeEnd(signature, 0, 0, 0) !== signature.length) this.#fail('a variant of not exactly one type')
    return { signature, value: this.reason === undefined ? this.read(signature) : 0 }
  }

  #word(): number {
    return this.#take(4, (at) => this.#view.getUint32(at, this.#little))
  }

  #text(length: number): string {
    const from = this.at
    if (this.reason !== undefined || from + length + 1 > this.#end) {
      this.#fail('cut off')
      return ''
    }
    this.at += length + 1
    const bytes = this.#bytes.subarray(from, from + length)
    if (this.#bytes[from + length] !== 0 || bytes.includes(0))
      this.#fail('text that does not end where it says')
    try {
      return fromUtf8.decode(bytes)
    } catch {
      this.#fail('text that is not UTF-8')
      return ''
    }
  }

  #take<T extends Value>(bytes: number, get: (at: number) => T): T {
    const from = this.at
    if (from + bytes > this.#end) this.#fail('cut off')
    if (this.reason !== undefined) return 0 as T
    this.at += bytes
    return get(from)
  }

  #fail(reason: string): void {
    this.reason ??= reason
  }
}

/** Writes values one after the other; without bytes it only counts. */
class Writer {
  at: number
  readonly #start: number
  readonly #out: Uint8Array | undefined
  readonly #view: DataView | undefined

  constructor(out: Uint8Array | undefined, at: number) {
    this.#out = out
    this.#view = out === undefined ? undefined : viewOf(out)
    this.#start = at
    this.at = at
  }

  pad(to: number): void {
    const next = this.#start + aligned(this.at - this.#start, to)
    this.#out?.fill(0, this.at, next)
    this.at = next
  }

  byte(value: number): void {
    this.#view?.setUint8(this.at, value)
    this.at++
  }

  word(value: number): void {
    this.#view?.setUint32(this.at, value, true)
    this.at += 4
  }

  write(signature: string, value: Value): void {
    this.one(signature, 0, value)
  }

  /** A value of the type at `type` in the signature; returns where that type ends. */
  one(signature: string, type: number, value: Value): number {
    const code = signature[type]!
    this.pad(alignmentOf(code))
    if (code === 'a') return this.#array(signature, type, value)
    if (code === '(') {
      let at = type + 1
      for (const each of value as readonly Value[]) at = this.one(signature, at, each)
      return at + 1
    }
    this.#basic(code, value)
    return type + 1
  }

  #basic(code: string, value: Value): void {
    switch (code) {
      case 'y':
        this.byte(value as number)
        break
      case 'n':
      case 'q':
        this.#view?.setUint16(this.at, value as number, true)
        this.at += 2
        break
      case 'd':
        this.#view?.setFloat64(this.at, value as number, true)
        this.at += 8
        break
      case 'x':
      case 't':
        this.#view?.setBigUint64(this.at, BigInt.asUintN(64, value as bigint), true)
        this.at += 8
        break
      case 'b':
        this.word(value === true ? 1 : 0)
        break
      case 's':
      case 'o':
      case 'g': {
        const bytes = toUtf8.encode(value as string)
        if (code === 'g') this.byte(bytes.length)
        else this.word(bytes.length)
        this.#out?.set(bytes, this.at)
        this.at += bytes.length
        this.byte(0)
        break
      }
      case 'v': {
        const variant = value as Variant
        this.#basic('g', variant.signature)
        this.write(variant.signature, variant.value)
        break
      }
      default:
        this.word(value as number)
    }
  }

  #array(signature: string, type: number, value: Value): number {
    const element = signature[type + 1]!
    const lengthAt = this.at
    this.word(0)
    this.pad(alignmentOf(element))
    const from = this.at
    if (value instanceof Uint8Array) {
      this.#out?.set(value, from)
      this.at += value.length
    } else if (value instanceof Map) {
      for (const [key, each] of value) {
        this.pad(8)
        this.one(signature, this.one(signature, type + 2, key), each)
      }
    } else for (const each of value as readonly Value[]) this.one(signature, type + 1, each)
    this.#view?.setUint32(lengthAt, this.at - from, true)
    return typeEnd(signature, type, 0, 0)
  }
}
