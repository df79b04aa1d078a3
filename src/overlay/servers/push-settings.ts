/**
 * Which push services the notification server uses, and with whose keys: a secret file beside the settings of the servers. Web Push
 * needs nothing of it; its key follows from the zone's.
 */
import { existsSync, readFileSync } from 'node:fs'
import * as z from 'zod'
import { parsePrefix } from '../../core/address.ts'
import { GodwitError } from '../../core/errors.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { kdf } from '../../crypto/tunnel-crypto.ts'
import { refuseExposed, writeSecret } from '../../mechanism/files.ts'
import { must } from '../../mechanism/schema.ts'
import { publicPoint } from '../push/encryption.ts'
import { Guard } from '../push/guard.ts'
import { PushSender, type PushSenderParts } from '../push/sender.ts'
import { Apns, Fcm, serviceAccount, type Vapid, WebPush } from '../push/services.ts'
import { type AnySettings, elsewhere, isMember, keyOf } from './settings.ts'

export const PUSH_FILE = 'overlay-push.json'

const origin = z.url({ protocol: /^https$/ })
const settings = z.strictObject({
  apns: z
    .strictObject({
      key: z.string().min(1),
      keyId: z.string().regex(/^[A-Z0-9]{10}$/),
      team: z.string().regex(/^[A-Z0-9]{10}$/),
      topic: z.string().regex(/^[A-Za-z0-9.-]+$/),
      origin: origin.default('https://api.push.apple.com'),
    })
    .optional(),
  fcm: z
    .strictObject({ account: serviceAccount, origin: origin.default('https://fcm.googleapis.com') })
    .optional(),
  /** Private networks with push services. */
  allowed: z.array(z.string().refine((text) => parsePrefix(text).ok)).default([]),
  /** PEM. */
  ca: z.string().optional(),
  /** Whom push services write to: `mailto:` or `https:`. */
  contact: z
    .string()
    .regex(/^(mailto:|https:\/\/)\S+$/)
    .optional(),
})

export type PushSettings = z.output<typeof settings>
export type PushChange = Partial<z.input<typeof settings>>

/** Throws SETTINGS_INVALID, SECRET_EXPOSED (usage). */
export function readPushSettings(path: string): PushSettings {
  if (!existsSync(path)) return settings.parse({})
  refuseExposed(path)
  try {
    return settings.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch (error) {
    throw invalid(path, error)
  }
}

/** Changes what is given, keeps the rest. Throws SETTINGS_INVALID. */
export function changePushSettings(path: string, change: PushChange): PushSettings {
  const parsed = settings.safeParse({ ...readPushSettings(path), ...change })
  if (!parsed.success) throw invalid(path, parsed.error)
  writeSecret(path, `${JSON.stringify(parsed.data, undefined, 2)}\n`)
  return parsed.data
}

function invalid(path: string, error: unknown): GodwitError {
  const [issue] = error instanceof z.ZodError ? error.issues : []
  return new GodwitError('SETTINGS_INVALID', `${path}: ${issue?.path.join('.') || 'it'} is not valid`, {
    kind: 'usage',
    cause: error,
    hint: 'godwit overlay push-services --help has examples',
  })
}

/** The key that shows push services who sends (RFC 8292): it follows from the zone's, so that it lasts as long. */
export function vapidKey(zoneSeed: Uint8Array): Pick<Vapid, 'privateKey' | 'point'> {
  for (let i = 0; ; i++) {
    const [privateKey] = kdf(nodeCrypto, zoneSeed, Buffer.from(`vapid ${i}`), 1)
    try {
      return { privateKey, point: publicPoint(privateKey) }
    } catch {
      // Not below the order of the curve: once in 2^32.
    }
  }
}

/** Throws ROLE_ELSEWHERE where this process may not be the notification server. */
export function vapidOf(server: AnySettings, contact: string | undefined): Vapid {
  const known = { contact: contact ?? `https://${server.zone}` }
  if (!isMember(server)) return { ...vapidKey(keyOf(server.zone_seed)), ...known }
  if (server.push_private_key === undefined)
    throw elsewhere(`server ${server.name} is not the notification server`, 'run it on the host of that')
  const privateKey = keyOf(server.push_private_key)
  return { privateKey, point: publicPoint(privateKey), ...known }
}

/** The sender of a zone's pushes. Throws SETTINGS_INVALID for keys that are none. */
export function pushSender(
  path: string,
  server: AnySettings,
  parts: Omit<PushSenderParts, 'services'> & { readonly wall: () => number },
): PushSender {
  const { apns, fcm, allowed, ca, contact } = readPushSettings(path)
  const authority = ca === undefined ? {} : { ca }
  const guard = new Guard({ allowed: allowed.map((text) => must(parsePrefix(text))), ...authority })
  try {
    return new PushSender({
      ...parts,
      services: {
        web: new WebPush(guard, vapidOf(server, contact), parts.wall),
        ...(apns !== undefined && { apns: new Apns({ ...apns, ...authority }, parts.wall) }),
        ...(fcm !== undefined && { fcm: new Fcm(guard, fcm.account, fcm.origin, parts.wall) }),
      },
    })
  } catch (error) {
    throw invalid(path, error)
  }
}
