/**
 * A node that a push service wakes (NT-22): keys of its Web Push subscription, in the state folder, and what it registers with. Who
 * receives the messages (a UnifiedPush distributor, an application) gives them to the daemon: `godwit overlay notify`.
 */
import { createECDH, randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import * as z from 'zod'
import { refuseExposed, writeSecret } from '../../mechanism/files.ts'
import { SECRET, webPushAddress } from '../push/address.ts'
import { decryptPush, type PushKeys, publicPoint } from '../push/encryption.ts'

export const PUSH_KEYS_FILE = 'overlay-push-keys.json'
/** Longest message of a push service (RFC 8030 §7.2). */
export const MAX_MESSAGE = 4096

const keys = z.object({ private_key: z.base64url().length(43), secret: z.base64url().length(22) })

/** Makes them when there are none, or none that can be read: the next registration tells the new ones. */
export function pushKeys(path: string): PushKeys {
  try {
    if (existsSync(path)) {
      refuseExposed(path)
      const { private_key, secret } = keys.parse(JSON.parse(readFileSync(path, 'utf8')))
      return { privateKey: Buffer.from(private_key, 'base64url'), secret: Buffer.from(secret, 'base64url') }
    }
  } catch {}
  const ecdh = createECDH('prime256v1')
  ecdh.generateKeys()
  // Without leading zeros OpenSSL gives fewer bytes.
  const privateKey = Buffer.concat([Buffer.alloc(32), ecdh.getPrivateKey()]).subarray(-32)
  const secret = randomBytes(SECRET)
  const text = { private_key: privateKey.toString('base64url'), secret: secret.toString('base64url') }
  writeSecret(path, `${JSON.stringify(text)}\n`)
  return { privateKey, secret }
}

/** What the node registers: an endpoint with its keys, or the token of another service as it is. */
export function registeredPush(push: string, keysOf: () => PushKeys): string {
  if (!push.startsWith('https:')) return push
  const { privateKey, secret } = keysOf()
  return webPushAddress(push, publicPoint(privateKey), secret)
}

/** The notification in a message of the push service; undefined: it is not for this node. */
export function openPush(message: Uint8Array, keysOf: () => PushKeys): Uint8Array | undefined {
  return message.length > MAX_MESSAGE ? undefined : decryptPush(message, keysOf())
}
