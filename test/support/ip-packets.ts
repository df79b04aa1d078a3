/** IP packets with options, extension headers and fragments, built byte by byte; transport checksums are not computed. */
import { concat } from '../../src/core/bytes.ts'
import { checksum } from '../../src/core/checksum.ts'

const FROM4 = Uint8Array.of(10, 0, 0, 1)
const TO4 = Uint8Array.of(10, 0, 1, 2)
const FROM6 = Uint8Array.of(0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
const TO6 = Uint8Array.of(0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2)

export function packet4(fields: {
  readonly protocol: number
  readonly payload: Uint8Array
  /** Flags and offset. */
  readonly fragment?: number
  readonly id?: number
  /** Bytes of options, a multiple of 4. */
  readonly options?: number
}): Uint8Array {
  const header = new Uint8Array(20 + (fields.options ?? 0)).fill(1)
  const view = new DataView(header.buffer)
  header[0] = 0x40 | (header.length / 4)
  header[1] = 0
  view.setUint16(2, header.length + fields.payload.length)
  view.setUint16(4, fields.id ?? 1)
  view.setUint16(6, fields.fragment ?? 0)
  header[8] = 64
  header[9] = fields.protocol
  header.set(FROM4, 12)
  header.set(TO4, 16)
  view.setUint16(10, 0)
  view.setUint16(10, checksum(view, 0, header.length))
  return concat(header, fields.payload)
}

export interface Extension {
  readonly type: number
  /** With the next header still to be filled in. */
  readonly bytes: Uint8Array
}

/** `words` beyond the least length: of 8 bytes, of an authentication header 4. */
export function extension(type: number, words: number): Extension {
  const bytes = new Uint8Array(8 + words * (type === 51 ? 4 : 8)).fill(0xee)
  bytes[1] = words
  return { type, bytes }
}

/** `word`: offset in units of 8 bytes, times 8, and the M bit. */
export function fragment6(word: number, id: number): Extension {
  const bytes = new Uint8Array(8)
  const view = new DataView(bytes.buffer)
  view.setUint16(2, word)
  view.setInt32(4, id)
  return { type: 44, bytes }
}

export function packet6(fields: {
  readonly headers: readonly Extension[]
  readonly protocol: number
  readonly payload: Uint8Array
}): Uint8Array {
  const { headers } = fields
  const types = [...headers.map(({ type }) => type), fields.protocol]
  const chain = headers.map(({ bytes }, i) => Uint8Array.of(types[i + 1]!, ...bytes.subarray(1)))
  const rest = concat(...chain, fields.payload)
  const header = new Uint8Array(40)
  header[0] = 0x60
  new DataView(header.buffer).setUint16(4, rest.length)
  header[6] = types[0]!
  header[7] = 64
  header.set(FROM6, 8)
  header.set(TO6, 24)
  return concat(header, rest)
}
