/**
 * Where a push service reaches a node, as the node writes it in its registration (docs/wire/overlay.md, PUSH):
 * `https://…#P256DH.AUTH` (Web Push, UnifiedPush), `apns:TOKEN`, `fcm:TOKEN`.
 */
import { type Decoded, decoded, malformed } from '../../core/result.ts'
import { MAX_PUSH } from '../wire/message.ts'

export type PushAddress =
  | {
      readonly service: 'web'
      readonly endpoint: URL
      /** The node's P-256 public key, uncompressed (65 bytes), and its secret (16 bytes): RFC 8291 §3.1. */
      readonly publicKey: Uint8Array
      readonly secret: Uint8Array
    }
  | { readonly service: 'apns'; readonly token: string }
  | { readonly service: 'fcm'; readonly token: string }

export const POINT = 65
export const SECRET = 16

export function parsePush(text: string): Decoded<PushAddress> {
  if (text.length > MAX_PUSH) return malformed(`longer than ${MAX_PUSH} characters`)
  const [, service, token] = /^(apns|fcm):(.*)$/.exec(text) ?? []
  if (service === 'apns' && /^[0-9a-f]{64,200}$/.test(token!)) return decoded({ service, token: token! })
  if (service === 'fcm' && /^[A-Za-z0-9:_-]{20,380}$/.test(token!)) return decoded({ service, token: token! })
  const [, key = '', auth = ''] = /#([A-Za-z0-9_-]{87})\.([A-Za-z0-9_-]{22})$/.exec(text) ?? []
  const publicKey = new Uint8Array(Buffer.from(key, 'base64url'))
  const secret = new Uint8Array(Buffer.from(auth, 'base64url'))
  const endpoint = parseEndpoint(text.slice(0, Math.max(0, text.indexOf('#'))))
  if (!endpoint.ok) return endpoint
  if (publicKey.length !== POINT || publicKey[0] !== 4 || secret.length !== SECRET)
    return malformed('no keys of a Web Push subscription')
  return decoded({ service: 'web', endpoint: endpoint.value, publicKey, secret })
}

/** Address of a Web Push or UnifiedPush endpoint: https, without a user, a password or a fragment. */
export function parseEndpoint(text: string): Decoded<URL> {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || url.protocol !== 'https:')
    return malformed(`"${text.slice(0, 80)}" is no https URL`)
  if (url.username !== '' || url.password !== '' || text.includes('#'))
    return malformed('an endpoint has no user, password or fragment')
  return decoded(url)
}

export function webPushAddress(endpoint: string, publicKey: Uint8Array, secret: Uint8Array): string {
  return `${endpoint}#${base64url(publicKey)}.${base64url(secret)}`
}

function base64url(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64url')
}
