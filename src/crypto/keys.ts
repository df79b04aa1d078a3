/**
 * Keys as people and files see them: WireGuard's base64 (32 bytes, 44 characters, one `=` at the end). And Ed25519
 * signatures for what must be provable to third parties.
 */
import { createPublicKey, randomBytes, sign, verify } from 'node:crypto'
import { type Decoded, decoded, malformed } from '../core/result.ts'
import { nodeCrypto } from './node-crypto.ts'
import { privateKeyObject, publicHalf } from './private-keys.ts'

export const KEY_LENGTH = 32

/** A fresh X25519 private key, clamped as `wg genkey` does. */
export function generatePrivateKey(): Uint8Array {
  const key = new Uint8Array(randomBytes(KEY_LENGTH))
  key[0] = key[0]! & 248
  key[31] = (key[31]! & 127) | 64
  return key
}

/** A fresh pre-shared key. */
export function generatePresharedKey(): Uint8Array {
  return new Uint8Array(randomBytes(KEY_LENGTH))
}

/** The public key of an X25519 private key. */
export function publicKeyOf(privateKey: Uint8Array): Uint8Array {
  return nodeCrypto.publicKey(privateKey)
}

export function encodeKey(key: Uint8Array): string {
  return Buffer.from(key).toString('base64')
}

/** Reads 44 characters of base64, as strictly as `wg` does: no white space, no stray bits in the last character. */
export function decodeKey(text: string): Decoded<Uint8Array> {
  if (!/^[A-Za-z0-9+/]{43}=$/.test(text)) return malformed('a key is 44 characters of base64 that end in =')
  const key = new Uint8Array(Buffer.from(text, 'base64'))
  if (encodeKey(key) !== text) return malformed('stray bits in the last character of the key')
  return decoded(key)
}

/** The Ed25519 public key of a seed of 32 bytes (RFC 8032 §5.1.5). */
export function signingPublicKey(seed: Uint8Array): Uint8Array {
  return publicHalf('Ed25519', seed)
}

/** An Ed25519 signature, 64 bytes. */
export function signBytes(seed: Uint8Array, message: Uint8Array): Uint8Array {
  return new Uint8Array(sign(null, message, privateKeyObject('Ed25519', seed)))
}

export function verifyBytes(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  if (publicKey.length !== KEY_LENGTH || signature.length !== 64) return false
  const x = Buffer.from(publicKey).toString('base64url')
  try {
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
    return verify(null, message, key, signature)
  } catch {
    return false
  }
}
