/**
 * `TunnelCrypto` from what Node has (OpenSSL: X25519, BLAKE2s, HMAC, ChaCha20-Poly1305) and @noble for the rest (keyed
 * BLAKE2s, XChaCha20). Public keys enter OpenSSL as JWK, which costs 5 to 12 µs; its DER decoder costs twice to ten times
 * that.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createPublicKey,
  diffieHellman,
  randomFillSync,
  timingSafeEqual,
} from 'node:crypto'
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js'
import { blake2s } from '@noble/hashes/blake2.js'
import type { Random } from '../core/clock.ts'
import { privateKeyObject, publicHalf } from './private-keys.ts'
import type { TunnelCrypto } from './tunnel-crypto.ts'

const TAG_LENGTH = 16
const AEAD = 'chacha20-poly1305'

export const nodeCrypto: TunnelCrypto = {
  publicKey(privateKey) {
    return publicHalf('X25519', privateKey)
  },

  sharedSecret(privateKey, publicKey) {
    try {
      return new Uint8Array(
        diffieHellman({
          privateKey: privateKeyObject('X25519', privateKey),
          publicKey: createPublicKey({
            key: { kty: 'OKP', crv: 'X25519', x: base64url(publicKey) },
            format: 'jwk',
          }),
        }),
      )
    } catch {
      return undefined // low order: OpenSSL refuses an all-zero result
    }
  },

  hash(a, b) {
    const hash = createHash('blake2s256').update(a)
    if (b !== undefined) hash.update(b)
    return new Uint8Array(hash.digest())
  },

  mac(key, input) {
    return blake2s(input, { key, dkLen: 16 })
  },

  hmac(key, input) {
    return new Uint8Array(createHmac('blake2s256', key).update(input).digest())
  },

  seal(key, counter, plain, ad) {
    const cipher = createCipheriv(AEAD, key, nonceOf(counter), { authTagLength: TAG_LENGTH })
    cipher.setAAD(ad, { plaintextLength: plain.length })
    const out = new Uint8Array(plain.length + TAG_LENGTH)
    out.set(cipher.update(plain))
    cipher.final()
    out.set(cipher.getAuthTag(), plain.length)
    return out
  },

  open(key, counter, sealed, ad) {
    const length = sealed.length - TAG_LENGTH
    if (length < 0) return undefined
    const cipher = createDecipheriv(AEAD, key, nonceOf(counter), { authTagLength: TAG_LENGTH })
    cipher.setAAD(ad, { plaintextLength: length })
    cipher.setAuthTag(sealed.subarray(length))
    const plain = new Uint8Array(cipher.update(sealed.subarray(0, length)))
    try {
      cipher.final()
    } catch {
      return undefined
    }
    return plain
  },

  sealX(key, nonce, plain, ad) {
    return xchacha20poly1305(key, nonce, ad).encrypt(plain)
  },

  openX(key, nonce, sealed, ad) {
    if (sealed.length < TAG_LENGTH) return undefined
    try {
      return xchacha20poly1305(key, nonce, ad).decrypt(sealed)
    } catch {
      return undefined
    }
  },

  equal(a, b) {
    return a.length === b.length && timingSafeEqual(a, b)
  },
}

/** Random bytes from the operating system. */
export const nodeRandom: Random = {
  fill(out) {
    return randomFillSync(out)
  },
}

function nonceOf(counter: number): Uint8Array {
  const nonce = new Uint8Array(12)
  const view = new DataView(nonce.buffer)
  view.setUint32(4, counter >>> 0, true)
  view.setUint32(8, Math.floor(counter / 2 ** 32), true)
  return nonce
}

function base64url(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64url')
}
