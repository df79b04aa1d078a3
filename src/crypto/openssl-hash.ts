/**
 * BLAKE2s, its HMAC and its keyed form from the OpenSSL that openssl.ts finds, by FFI: 0.3, 1 and 1 µs for short messages. An object of
 * node:crypto takes three times that, and the garbage collector has to finalize each of them. For what is longer than the memory kept
 * for it, and without such a library, there is no answer: the caller has another way.
 */
import { Arena } from '../linux/arena.ts'
import { koffi } from '../linux/libc.ts'
import { findLibrary } from './openssl.ts'
import type { TunnelCrypto } from './tunnel-crypto.ts'

interface ShortHashes {
  /** BLAKE2s-256 of a ‖ b. */
  hash(a: Uint8Array, b: Uint8Array | undefined): Uint8Array | undefined
  /** HMAC-BLAKE2s-256 (RFC 2104). */
  hmac(key: Uint8Array, input: Uint8Array): Uint8Array | undefined
  /** Keyed BLAKE2s with 16 bytes of output. */
  mac(key: Uint8Array, input: Uint8Array): Uint8Array | undefined
}

const LONGEST = 2048
const BLOCK = 64
const DIGEST = 32
const MAC = 16
/** An OSSL_PARAM, packed as C has it: name, type, data, size, size returned; a list ends with an empty one. */
const PARAM_SIZE = 40
const PARAM_UNSIGNED_INTEGER = 2

/** These primitives with hashes by FFI, as far as there is such a library. Not shared between threads. */
export function withShortHashes<T extends TunnelCrypto>(crypto: T): T {
  const short = loadShortHashes()
  if (short === undefined) return crypto
  return {
    ...crypto,
    hash: (a: Uint8Array, b?: Uint8Array) => short.hash(a, b) ?? crypto.hash(a, b),
    hmac: (key: Uint8Array, input: Uint8Array) => short.hmac(key, input) ?? crypto.hmac(key, input),
    mac: (key: Uint8Array, input: Uint8Array) => short.mac(key, input) ?? crypto.mac(key, input),
  }
}

function loadShortHashes(): ShortHashes | undefined {
  const library = findLibrary()
  if (library === undefined) return undefined
  const arena = new Arena(LONGEST + 1024)
  const { u8, view, base } = arena
  const at = arena.reserve(LONGEST)
  const out = arena.reserve(DIGEST)
  const address = (pointer: unknown) => Number(koffi.address(pointer as never))
  const fetchDigest = library.func('void *EVP_MD_fetch(size_t library, const char *name, size_t properties)')
  const digest: (d: number, n: number, md: number, size: number, type: number, engine: number) => number =
    library.func(
      'int EVP_Digest(size_t d, size_t n, size_t md, size_t size, size_t type, size_t engine)',
    ) as never
  const type = address(fetchDigest(0, 'BLAKE2S-256', 0))
  const fetchMac = library.func('void *EVP_MAC_fetch(size_t library, const char *name, size_t properties)')
  const newContext = library.func('void *EVP_MAC_CTX_new(size_t mac)')
  const keyed = address(fetchMac(0, 'BLAKE2SMAC', 0))
  if (type === 0 || keyed === 0) return undefined
  const context = address(newContext(keyed))
  const init: (context: number, key: number, length: number, parameters: number) => number = library.func(
    'int EVP_MAC_init(size_t context, size_t key, size_t length, size_t parameters)',
  ) as never
  const update: (context: number, data: number, length: number) => number = library.func(
    'int EVP_MAC_update(size_t context, size_t data, size_t length)',
  ) as never
  const final: (context: number, out: number, length: number, size: number) => number = library.func(
    'int EVP_MAC_final(size_t context, size_t out, size_t length, size_t size)',
  ) as never
  const name = arena.reserve(8)
  u8.set([0x73, 0x69, 0x7a, 0x65], name) // "size"
  const size = arena.reserve(8)
  view.setBigUint64(size, BigInt(MAC), true)
  const parameters = arena.reserve(2 * PARAM_SIZE)
  view.setBigUint64(parameters, BigInt(base + name), true)
  view.setUint32(parameters + 8, PARAM_UNSIGNED_INTEGER, true)
  view.setBigUint64(parameters + 16, BigInt(base + size), true)
  view.setBigUint64(parameters + 24, 8n, true)
  const length = arena.reserve(8)

  /** What lies at `at`; the first `used` bytes there are wiped, and the result. */
  const result = (ok: boolean, bytes: number, used: number): Uint8Array | undefined => {
    const answer = ok ? u8.slice(out, out + bytes) : undefined
    u8.fill(0, at, at + used)
    u8.fill(0, out, out + DIGEST)
    return answer
  }
  const pad = (key: Uint8Array, byte: number) => {
    u8.fill(byte, at, at + BLOCK)
    for (let i = 0; i < key.length; i++) u8[at + i]! ^= key[i]!
  }
  return {
    hash(a, b) {
      const count = a.length + (b?.length ?? 0)
      if (count > LONGEST) return undefined
      u8.set(a, at)
      if (b !== undefined) u8.set(b, at + a.length)
      return result(digest(base + at, count, base + out, 0, type, 0) === 1, DIGEST, count)
    },

    hmac(key, input) {
      if (key.length > BLOCK || input.length > LONGEST - BLOCK) return undefined
      pad(key, 0x36)
      u8.set(input, at + BLOCK)
      if (digest(base + at, BLOCK + input.length, base + out, 0, type, 0) !== 1)
        return result(false, 0, BLOCK + input.length)
      pad(key, 0x5c)
      u8.copyWithin(at + BLOCK, out, out + DIGEST)
      const ok = digest(base + at, BLOCK + DIGEST, base + out, 0, type, 0) === 1
      return result(ok, DIGEST, BLOCK + Math.max(DIGEST, input.length))
    },

    mac(key, input) {
      if (key.length === 0 || key.length > DIGEST || input.length > LONGEST - DIGEST) return undefined
      u8.set(key, at)
      u8.set(input, at + DIGEST)
      const ok =
        init(context, base + at, key.length, base + parameters) === 1 &&
        update(context, base + at + DIGEST, input.length) === 1 &&
        final(context, base + out, base + length, DIGEST) === 1
      return result(ok, MAC, DIGEST + input.length)
    },
  }
}
