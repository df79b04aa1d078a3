/**
 * Raw private keys as OpenSSL wants them; godwit keeps no public halves. PKCS #8 (RFC 8410 §7) carries none, but decoding it takes 35 µs,
 * and 360 µs on Node 20. JWK (RFC 8037 §2) takes 25 µs and wants one, which Node compares from 24 on and does not look at before. Each key
 * is decoded once.
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

const NO_HALF = Buffer.alloc(32).toString('base64url')
let jwkIgnoresHalf: boolean | undefined

/** The key of these 32 bytes. The caller must not change them afterwards: the answer is kept with the array. */
export function privateKeyObject(curve: Curve, raw: Uint8Array): KeyObject {
  let key = decoded[curve].get(raw)
  if (key === undefined) {
    jwkIgnoresHalf ??= tryJwk()
    key = jwkIgnoresHalf ? fromJwk(curve, raw) : fromPkcs8(curve, raw)
    decoded[curve].set(raw, key)
  }
  return key
}

/** Whether this Node takes a private key whose public half is another's, and computes its own. */
function tryJwk(): boolean {
  const raw = Uint8Array.of(...Array(31).fill(1), 64)
  try {
    return (['X25519', 'Ed25519'] as const).every((curve) => {
      const [mine, its] = [fromJwk(curve, raw), fromPkcs8(curve, raw)].map(halfOf)
      return mine === its
    })
  } catch {
    return false
  }
}

function fromJwk(curve: Curve, raw: Uint8Array): KeyObject {
  const d = Buffer.from(raw.buffer, raw.byteOffset, raw.length).toString('base64url')
  return createPrivateKey({ key: { kty: 'OKP', crv: curve, d, x: NO_HALF }, format: 'jwk' })
}

function fromPkcs8(curve: Curve, raw: Uint8Array): KeyObject {
  return createPrivateKey({ key: Buffer.concat([PREFIXES[curve], raw]), format: 'der', type: 'pkcs8' })
}

/** The public half, 32 bytes. */
export function publicHalf(curve: Curve, raw: Uint8Array): Uint8Array {
  return new Uint8Array(Buffer.from(halfOf(privateKeyObject(curve, raw)), 'base64url'))
}

function halfOf(key: KeyObject): string {
  return createPublicKey(key as never).export({ format: 'jwk' }).x as string
}
