/**
 * What goes through the cache server (docs/wire/overlay.md, Cache server): encrypted from node to node. The content has a key of its own;
 * that key is wrapped for each recipient under both nodes' own keys, together with the hash of all that was encrypted. So the
 * server reads nothing, nobody else can have sent it, and no recipient can change it for another.
 */
import { ascii, concat, viewOf } from '../../core/bytes.ts'
import { type Decoded, decoded, malformed } from '../../core/result.ts'
import { kdf, type TunnelCrypto } from '../../crypto/tunnel-crypto.ts'

/** Bytes of a segment in the clear, and sealed. */
export const SEGMENT = 65_536
export const SEALED_SEGMENT = SEGMENT + 16
export const KEY = 32
/** Ephemeral key, and the content's key, sealed. */
export const WRAP = 32 + KEY + 16
const LABEL = ascii('godwit overlay cache')
const MAX_HEAD = 4096

export interface Party {
  /** Full name. */
  readonly name: string
  readonly publicKey: Uint8Array
}

/** Bytes that the content, sealed, has. */
export function sealedLength(plain: number): number {
  const segments = Math.max(1, Math.ceil(plain / SEGMENT))
  return plain + 16 * segments
}

export function segmentsOf(sealed: number): number {
  return Math.ceil(sealed / SEALED_SEGMENT)
}

/** `isLast`: what is cut off at the end of a segment shows. */
export function sealSegment(
  crypto: TunnelCrypto,
  key: Uint8Array,
  index: number,
  plain: Uint8Array,
  isLast: boolean,
): Uint8Array {
  return crypto.seal(key, index, plain, Uint8Array.of(isLast ? 1 : 0))
}

export function openSegment(
  crypto: TunnelCrypto,
  key: Uint8Array,
  index: number,
  sealed: Uint8Array,
  isLast: boolean,
): Uint8Array | undefined {
  return crypto.open(key, index, sealed, Uint8Array.of(isLast ? 1 : 0))
}

/** The content's key for a recipient; `ephemeral` is a fresh private key. Undefined: its public key is none. */
export function wrapKey(
  crypto: TunnelCrypto,
  key: Uint8Array,
  sender: Party & { readonly privateKey: Uint8Array },
  recipient: Party,
  ephemeral: Uint8Array,
  hash: Uint8Array,
): Uint8Array | undefined {
  const point = crypto.publicKey(ephemeral)
  const once = crypto.sharedSecret(ephemeral, recipient.publicKey)
  const own = crypto.sharedSecret(sender.privateKey, recipient.publicKey)
  if (once === undefined || own === undefined) return undefined
  const wrapping = wrappingKey(crypto, once, own, sender, recipient, point, hash)
  return concat(point, crypto.seal(wrapping, 0, key, LABEL))
}

/** Undefined: not of this sender for this recipient, or not of what has this hash. */
export function unwrapKey(
  crypto: TunnelCrypto,
  wrap: Uint8Array,
  sender: Party,
  recipient: Party & { readonly privateKey: Uint8Array },
  hash: Uint8Array,
): Uint8Array | undefined {
  if (wrap.length !== WRAP) return undefined
  const point = wrap.slice(0, 32)
  const once = crypto.sharedSecret(recipient.privateKey, point)
  const own = crypto.sharedSecret(recipient.privateKey, sender.publicKey)
  if (once === undefined || own === undefined) return undefined
  const wrapping = wrappingKey(crypto, once, own, sender, recipient, point, hash)
  return crypto.open(wrapping, 0, wrap.slice(32), LABEL)
}

function wrappingKey(
  crypto: TunnelCrypto,
  once: Uint8Array,
  own: Uint8Array,
  sender: Party,
  recipient: Party,
  point: Uint8Array,
  hash: Uint8Array,
): Uint8Array {
  const end = Uint8Array.of(0)
  const parties = concat(
    ...[sender.publicKey, ascii(sender.name), end, recipient.publicKey, ascii(recipient.name), end],
  )
  return kdf(crypto, once, concat(own, LABEL, point, hash, parties), 1)[0]
}

/** What a file is called; the content begins with it. */
export interface Head {
  readonly name: string
  readonly bytes: number
}

/** Length (16), then JSON in UTF-8. */
export function encodeHead(head: Head): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify({ name: head.name, bytes: head.bytes }))
  if (text.length > MAX_HEAD) throw new RangeError('the name of the file is too long')
  const out = new Uint8Array(2 + text.length)
  viewOf(out).setUint16(0, text.length)
  out.set(text, 2)
  return out
}

/** The head and where the file begins. The name is a file's in a folder: without a path, hidden files and control characters. */
export function decodeHead(first: Uint8Array): Decoded<Head & { readonly at: number }> {
  if (first.length < 2) return malformed('no head')
  const length = viewOf(first).getUint16(0)
  if (length > MAX_HEAD || first.length < 2 + length) return malformed('no whole head')
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(first.subarray(2, 2 + length)))
  } catch {
    return malformed('the head is not JSON')
  }
  if (typeof value !== 'object' || value === null || !('name' in value) || !('bytes' in value))
    return malformed('the head lacks name or bytes')
  const { name, bytes } = value
  if (typeof name !== 'string' || typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < 0)
    return malformed('the head lacks name or bytes')
  return decoded({ name: safeName(name), bytes, at: 2 + length })
}

/** So that ` (2)` still fits into what file systems take (255). */
const MAX_NAME_BYTES = 240

export function safeName(name: string): string {
  const last = name.split(/[/\\]/).at(-1) ?? ''
  const plain = last
    .replace(/[\p{C}<>:"|?*]/gu, '_')
    .replace(/^[.\s]+/, '')
    .slice(0, 120)
  return plain === '' ? 'file' : cutTo(plain, MAX_NAME_BYTES)
}

/** Its longest beginning of whole characters that has at most so many bytes in UTF-8. */
function cutTo(text: string, most: number): string {
  const { read } = new TextEncoder().encodeInto(text, new Uint8Array(most))
  return text.slice(0, read)
}
