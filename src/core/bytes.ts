/**
 * Byte array helpers that Node's Buffer would provide, for code without Node types: hexadecimal, base64, comparison,
 * concatenation.
 */
import { type Decoded, decoded, malformed } from './result.ts'

/** A DataView of exactly the bytes of `bytes`. Allocates: not for hot loops, which hold one view of a whole arena. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** The bytes of a text whose characters are all below 256. */
export function ascii(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i)
  return bytes
}

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const out = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

/** Same length and bytes. Stops at the first difference: not for secrets. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

/** Same length and bytes, in time that depends on the length only. */
export function equalConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  let difference = 0
  for (let i = 0; i < a.length; i++) difference |= a[i]! ^ b[i]!
  return difference === 0
}

/** Order of two arrays as unsigned bytes, a prefix first: negative, zero or positive. */
export function compare(a: Uint8Array, b: Uint8Array): number {
  const shorter = Math.min(a.length, b.length)
  for (let i = 0; i < shorter; i++) if (a[i] !== b[i]) return a[i]! - b[i]!
  return a.length - b.length
}

const HEX = Array.from({ length: 256 }, (_, byte) => (byte < 16 ? '0' : '') + byte.toString(16))

/** Lower-case hexadecimal, two digits a byte. */
export function toHex(bytes: Uint8Array): string {
  let text = ''
  for (let i = 0; i < bytes.length; i++) text += HEX[bytes[i]!]
  return text
}

/** A text of one character for each byte, as the key of a map: half as long as hexadecimal, and made in a tenth of the time. */
export function mapKey(bytes: Uint8Array): string {
  return String.fromCharCode.apply(null, bytes as never)
}

/** Hexadecimal of either case; white space and `:` between bytes are skipped. */
export function fromHex(text: string): Decoded<Uint8Array> {
  const digits = text.replace(/[\s:]/g, '')
  if (digits.length % 2 !== 0) return malformed('an odd number of hexadecimal digits')
  if (!/^[0-9a-fA-F]*$/.test(digits)) return malformed('not hexadecimal')
  const out = new Uint8Array(digits.length / 2)
  for (let i = 0; i < out.length; i++) out[i] = Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16)
  return decoded(out)
}

const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

/** Base64 with padding (RFC 4648 §4): the form of WireGuard keys. */
export function toBase64(bytes: Uint8Array): string {
  let text = ''
  for (let i = 0; i < bytes.length; i += 3) {
    const left = bytes.length - i
    const group = (bytes[i]! << 16) | ((bytes[i + 1] ?? 0) << 8) | (bytes[i + 2] ?? 0)
    text += BASE64[group >> 18]! + BASE64[(group >> 12) & 63]!
    text += left > 1 ? BASE64[(group >> 6) & 63]! : '='
    text += left > 2 ? BASE64[group & 63]! : '='
  }
  return text
}

/** Strict base64 with padding; bits that no byte uses must be zero, so every value has one spelling. */
export function fromBase64(text: string): Decoded<Uint8Array> {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return malformed('not base64')
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0
  const out = new Uint8Array((text.length / 4) * 3 - padding)
  let at = 0
  for (let i = 0; i < text.length; i += 4) {
    let group = 0
    for (let j = 0; j < 4; j++) group = (group << 6) | Math.max(0, BASE64.indexOf(text[i + j]!))
    for (let shift = 16; shift >= 0; shift -= 8) {
      const byte = (group >> shift) & 0xff
      if (at < out.length) out[at++] = byte
      else if (byte !== 0) return malformed('base64 with stray bits at its end')
    }
  }
  return decoded(out)
}
