/** JSON Web Tokens (RFC 7519) as push services want them: ES256 and RS256. */
import { createPrivateKey, type KeyObject, sign } from 'node:crypto'

export type Algorithm = 'ES256' | 'RS256'

export function signToken(
  algorithm: Algorithm,
  key: KeyObject,
  claims: object,
  header: Readonly<Record<string, string>> = {},
): string {
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const text = `${encode({ alg: algorithm, ...header })}.${encode(claims)}`
  const options = algorithm === 'ES256' ? { key, dsaEncoding: 'ieee-p1363' as const } : key
  return `${text}.${sign('sha256', Buffer.from(text), options).toString('base64url')}`
}

/** A P-256 private key from its 32 bytes and its public point. */
export function p256Key(privateKey: Uint8Array, point: Uint8Array): KeyObject {
  const part = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64url')
  const [x, y] = [point.subarray(1, 33), point.subarray(33)]
  return createPrivateKey({
    key: { kty: 'EC', crv: 'P-256', d: part(privateKey), x: part(x), y: part(y) },
    format: 'jwk',
  })
}
