/**
 * The packet ciphers, on packet memory: AES-256-GCM (message 32) and ChaCha20-Poly1305 (WireGuard's message 4) from the
 * OpenSSL inside Node, or libcrypto.so.3 where Node's binary keeps its own to itself. Four FFI calls to seal, three to open,
 * about 0.5 µs for 1,440 bytes of AES. Without either, node:crypto serves at a tenth of the speed.
 */
import { type CipherGCM, createCipheriv, createDecipheriv, type DecipherGCM } from 'node:crypto'
import { GodwitError } from '../core/errors.ts'
import type { Arena } from '../linux/arena.ts'
import { exportsSymbol, koffi } from '../linux/libc.ts'

export const TAG_SIZE = 16
export const KEY_SIZE = 32

export type CipherName = 'aes-256-gcm' | 'chacha20-poly1305'

/**
 * AEAD over one arena; not shared between threads. A *context* is a number that stands for a cipher, a direction and a
 * key. The nonce is four zero bytes and the 64-bit counter, little-endian; there is no additional data.
 */
export interface Aead {
  /** True when this is the slow substitute (node:crypto). */
  readonly slow: boolean
  /** Makes a context; `key` is 32 bytes and not kept. */
  newContext(cipher: CipherName, direction: 'seal' | 'open', key: Uint8Array): number
  /** Wipes and frees it. */
  freeContext(context: number): void
  /**
   * Seals `length` bytes at `from` and `padding` (at most 255) zero bytes behind them, to `to`: ciphertext, then 16 bytes
   * of tag. The areas may be the same, must not overlap otherwise.
   */
  seal(
    context: number,
    counterLow: number,
    counterHigh: number,
    from: number,
    length: number,
    padding: number,
    to: number,
  ): void
  /** Opens `length` bytes of ciphertext at `at` in place; the tag lies behind. False: forged, contents undefined. */
  open(context: number, counterLow: number, counterHigh: number, at: number, length: number): boolean
}

/** The fastest AEAD this process has. `node` asks for the substitute. */
export function loadAead(arena: Arena, from: 'best' | 'node' = 'best'): Aead {
  if (from === 'best') {
    if (openssl === undefined) {
      const library = findLibrary()
      openssl = library === undefined ? null : functionsOf(library)
    }
    if (openssl !== null) return new OpensslAead(arena, openssl)
  }
  return new NodeAead(arena)
}

type Library = ReturnType<typeof koffi.load>

/** The OpenSSL inside Node, or libcrypto.so.3. */
export function findLibrary(): Library | undefined {
  if (exportsSymbol('int EVP_EncryptUpdate(size_t c)')) return koffi.load(null)
  try {
    const library = koffi.load('libcrypto.so.3')
    library.func('int EVP_EncryptUpdate(size_t c)')
    return library
  } catch {
    return undefined
  }
}

/** An OSSL_PARAM, packed as C has it: name, type, data, size, size returned. */
const PARAM_SIZE = 40
const PARAM_OCTET_STRING = 5

type Init = (context: number, cipher: number, key: number, iv: number, parameters: number) => number
type Update = (context: number, out: number, outLength: number, input: number, length: number) => number
type Final = (context: number, out: number, outLength: number) => number

/** Its functions, and its ciphers by name. */
interface Openssl {
  readonly newContext: () => unknown
  readonly free: (context: number) => void
  readonly encryptInit: Init
  readonly decryptInit: Init
  readonly encryptUpdate: Update
  readonly decryptUpdate: Update
  readonly encryptFinal: Final
  readonly decryptFinal: Final
  readonly getParameters: (context: number, parameters: number) => number
  readonly ciphers: Readonly<Record<CipherName, number>>
}

function functionsOf(library: Library): Openssl {
  const fetch = library.func('void *EVP_CIPHER_fetch(size_t library, const char *name, size_t properties)')
  const address = (name: string) => Number(koffi.address(fetch(0, name, 0) as never))
  return {
    newContext: library.func('void *EVP_CIPHER_CTX_new()'),
    free: library.func('void EVP_CIPHER_CTX_free(size_t c)') as never,
    encryptInit: library.func(
      'int EVP_EncryptInit_ex2(size_t c, size_t t, size_t k, size_t iv, size_t p)',
    ) as never,
    decryptInit: library.func(
      'int EVP_DecryptInit_ex2(size_t c, size_t t, size_t k, size_t iv, size_t p)',
    ) as never,
    encryptUpdate: library.func(
      'int EVP_EncryptUpdate(size_t c, size_t o, size_t ol, size_t i, int n)',
    ) as never,
    decryptUpdate: library.func(
      'int EVP_DecryptUpdate(size_t c, size_t o, size_t ol, size_t i, int n)',
    ) as never,
    encryptFinal: library.func('int EVP_EncryptFinal_ex(size_t c, size_t o, size_t ol)') as never,
    decryptFinal: library.func('int EVP_DecryptFinal_ex(size_t c, size_t o, size_t ol)') as never,
    getParameters: library.func('int EVP_CIPHER_CTX_get_params(size_t c, size_t p)') as never,
    ciphers: {
      'aes-256-gcm': address('AES-256-GCM'),
      'chacha20-poly1305': address('ChaCha20-Poly1305'),
    },
  }
}

/** Declared once a thread, for all arenas. Null: there is no library. */
let openssl: Openssl | null | undefined

class OpensslAead implements Aead {
  readonly slow = false
  readonly #view: DataView
  readonly #u8: Uint8Array
  readonly #base: number
  readonly #nonce: number
  readonly #scratch: number
  readonly #nonceAddress: number
  readonly #lengthAddress: number
  readonly #zeroAddress: number
  readonly #finalAddress: number
  readonly #ciphers: Readonly<Record<CipherName, number>>
  readonly #newContext: () => unknown
  readonly #free: (context: number) => void
  readonly #encryptInit: Init
  readonly #decryptInit: Init
  readonly #encryptUpdate: Update
  readonly #decryptUpdate: Update
  readonly #encryptFinal: Final
  readonly #decryptFinal: Final
  readonly #getParameters: (context: number, parameters: number) => number
  /** The list of one OSSL_PARAM, the tag, and where its pointer to the tag lies. */
  readonly #tagParameter: number
  readonly #tagPointer: number

  constructor(arena: Arena, openssl: Openssl) {
    this.#view = arena.view
    this.#u8 = arena.u8
    this.#base = arena.base
    this.#nonce = arena.reserve(16)
    this.#scratch = arena.reserve(64)
    this.#nonceAddress = arena.base + this.#nonce
    this.#lengthAddress = arena.base + this.#scratch
    this.#finalAddress = arena.base + this.#scratch + 16
    this.#zeroAddress = arena.base + arena.reserve(256)
    this.#newContext = openssl.newContext
    this.#free = openssl.free
    this.#encryptInit = openssl.encryptInit
    this.#decryptInit = openssl.decryptInit
    this.#encryptUpdate = openssl.encryptUpdate
    this.#decryptUpdate = openssl.decryptUpdate
    this.#encryptFinal = openssl.encryptFinal
    this.#decryptFinal = openssl.decryptFinal
    this.#getParameters = openssl.getParameters
    this.#ciphers = openssl.ciphers
    const parameter = arena.reserve(2 * PARAM_SIZE)
    const name = arena.reserve(8)
    arena.u8.set([0x74, 0x61, 0x67, 0], name)
    this.#view.setBigUint64(parameter, BigInt(arena.base + name), true)
    this.#view.setUint32(parameter + 8, PARAM_OCTET_STRING, true)
    this.#view.setBigUint64(parameter + 24, BigInt(TAG_SIZE), true)
    this.#tagParameter = arena.base + parameter
    this.#tagPointer = parameter + 16
  }

  newContext(cipher: CipherName, direction: 'seal' | 'open', key: Uint8Array): number {
    const context = Number(koffi.address(this.#newContext() as never))
    const init = direction === 'seal' ? this.#encryptInit : this.#decryptInit
    this.#u8.set(key.subarray(0, KEY_SIZE), this.#scratch)
    const ok = init(context, this.#ciphers[cipher], this.#base + this.#scratch, 0, 0)
    this.#u8.fill(0, this.#scratch, this.#scratch + KEY_SIZE)
    if (ok !== 1)
      throw new GodwitError('CRYPTO_FAILED', `OpenSSL refused ${cipher}`, { op: 'set a packet key' })
    return context
  }

  freeContext(context: number): void {
    this.#free(context)
  }

  seal(
    context: number,
    counterLow: number,
    counterHigh: number,
    from: number,
    length: number,
    padding: number,
    to: number,
  ): void {
    const base = this.#base
    const out = base + to
    this.#view.setUint32(this.#nonce + 4, counterLow, true)
    this.#view.setUint32(this.#nonce + 8, counterHigh, true)
    this.#encryptInit(context, 0, 0, this.#nonceAddress, 0)
    if (length !== 0) this.#encryptUpdate(context, out, this.#lengthAddress, base + from, length)
    if (padding !== 0)
      this.#encryptUpdate(context, out + length, this.#lengthAddress, this.#zeroAddress, padding)
    this.#encryptFinal(context, this.#finalAddress, this.#lengthAddress)
    this.#pointToTag(out + length + padding)
    this.#getParameters(context, this.#tagParameter)
  }

  open(context: number, counterLow: number, counterHigh: number, at: number, length: number): boolean {
    const address = this.#base + at
    this.#view.setUint32(this.#nonce + 4, counterLow, true)
    this.#view.setUint32(this.#nonce + 8, counterHigh, true)
    this.#pointToTag(address + length)
    this.#decryptInit(context, 0, 0, this.#nonceAddress, this.#tagParameter)
    if (length !== 0) this.#decryptUpdate(context, address, this.#lengthAddress, address, length)
    return this.#decryptFinal(context, this.#finalAddress, this.#lengthAddress) === 1
  }

  #pointToTag(address: number): void {
    this.#view.setUint32(this.#tagPointer, address % 0x1_0000_0000, true)
    this.#view.setUint32(this.#tagPointer + 4, address / 0x1_0000_0000, true)
  }
}

interface NodeContext {
  readonly cipher: CipherName
  readonly key: Uint8Array
}

class NodeAead implements Aead {
  readonly slow = true
  readonly #u8: Uint8Array
  readonly #contexts = new Map<number, NodeContext>()
  readonly #nonce = new Uint8Array(12)
  readonly #nonceView = new DataView(this.#nonce.buffer)
  #next = 1

  constructor(arena: Arena) {
    this.#u8 = arena.u8
  }

  newContext(cipher: CipherName, _direction: 'seal' | 'open', key: Uint8Array): number {
    this.#contexts.set(this.#next, { cipher, key: key.slice(0, KEY_SIZE) })
    return this.#next++
  }

  freeContext(context: number): void {
    this.#contexts.get(context)?.key.fill(0)
    this.#contexts.delete(context)
  }

  seal(
    context: number,
    low: number,
    high: number,
    from: number,
    length: number,
    padding: number,
    to: number,
  ): void {
    const { cipher, key } = this.#contexts.get(context)!
    this.#setNonce(low, high)
    const seal = createCipheriv(cipher as 'aes-256-gcm', key, this.#nonce, { authTagLength: TAG_SIZE })
    const text = (seal as CipherGCM).update(this.#u8.subarray(from, from + length))
    this.#u8.set(text, to)
    if (padding !== 0) this.#u8.set(seal.update(new Uint8Array(padding)), to + length)
    seal.final()
    this.#u8.set(seal.getAuthTag(), to + length + padding)
  }

  open(context: number, low: number, high: number, at: number, length: number): boolean {
    const { cipher, key } = this.#contexts.get(context)!
    this.#setNonce(low, high)
    const open = createDecipheriv(cipher as 'aes-256-gcm', key, this.#nonce, {
      authTagLength: TAG_SIZE,
    }) as DecipherGCM
    open.setAuthTag(this.#u8.subarray(at + length, at + length + TAG_SIZE))
    const text = open.update(this.#u8.subarray(at, at + length))
    try {
      open.final()
    } catch {
      return false
    }
    this.#u8.set(text, at)
    return true
  }

  #setNonce(low: number, high: number): void {
    this.#nonceView.setUint32(4, low, true)
    this.#nonceView.setUint32(8, high, true)
  }
}
