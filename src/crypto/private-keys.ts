/**
 * Raw private keys as OpenSSL wants them. Node's JWK import checks the public half from Node 24 on, and godwit keeps
 * only the private one; PKCS #8 (RFC 8410 §7) carries no public half. Decoding it takes 50 µs, on Node 20 500 µs, so
 * each key is decoded once.
 */
import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto'

/** PKCS #8 up to the 32 bytes of the key: version 0, the curve's object identifier, an octet string in another. */
const PREFIXES = {
  X25519: Buffer.from('302e020100300506032b656e04220420', 'hex'),
  Ed25519: Buffer.from('302e020100300506032b657004220420', 'hex'),
} as const

export type Curve = keyof typeof PREFIXES

const decoded = {
  X25519: new WeakMap<Uint8Array, KeyObject>(),
  Ed25519: new WeakMap<Uint8Array, KeyObject>(),
} as const

/** The key of these 32 bytes. The caller must not change them afterwards: the answer is kept with the array. */
export function privateKeyObject(curve: Curve, raw: Uint8Array): KeyObject {
  let key = decoded[curve].get(raw)
  if (key === undefined) {
    key = createPrivateKey({ key: Buffer.concat([PREFIXES[curve], raw]), format: 'der', type: 'pkcs8' })
    decoded[curve].set(raw, key)
  }
  return key
}

/** The public half, 32 bytes. */
export function publicHalf(curve: Curve, raw: Uint8Array): Uint8Array {
  const { x } = createPublicKey(privateKeyObject(curve, raw) as never).export({ format: 'jwk' })
  return new Uint8Array(Buffer.from(x as string, 'base64url'))
}
