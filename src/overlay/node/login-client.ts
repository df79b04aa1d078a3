/**
 * Logs in at an account server (NT-28, Fig. 4 steps 2–8; docs/wire/overlay.md, Account server): HTTPS; the server's
 * certificate is verified as by a browser, or pinned. The response is validated before it is stored.
 */
import { request } from 'node:https'
import type { TLSSocket } from 'node:tls'
import * as z from 'zod'
import { GodwitError } from '../../core/errors.ts'
import { encodeKey, publicKeyOf } from '../../crypto/keys.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { pinOf } from '../../tunnel/carrier/client.ts'
import type { CacheAt } from '../cache/client.ts'
import { renewalProof } from '../machine/secrets.ts'
import { credentialsOf, type Login } from './login.ts'

export interface LoginRequest {
  /** `https://HOST[:PORT]`. */
  readonly server: string
  /** SHA-256 of the certificate, base64; absent: it must be of a known authority. */
  readonly pin?: string
  readonly account: string
  readonly password: string
  /** First label of the name that this node wants. */
  readonly node: string
  readonly privateKey: Uint8Array
  /** Ends the login of another device that has the name. */
  readonly replace?: boolean
}

const ANSWER_MS = 15_000
const MAX_ANSWER = 16_384

const granted = z.object({
  name: z.string(),
  key_id: z.string(),
  key: z.string(),
  coordinator: z.string(),
  zone_key: z.string(),
  expires: z.number().nullable().default(null),
})
const renewed = z.object({ expires: z.number().nullable() })
const refusal = z.object({ error: z.object({ message: z.string().max(200) }) })

/** Rejects with LOGIN_REFUSED, LOGIN_FAILED. */
export async function logIn(asked: LoginRequest): Promise<Login> {
  const { account, password, node, privateKey, server } = asked
  // A server of before knows no `replace`, and replaces.
  const replace = asked.replace === true ? { replace: true } : {}
  const body = { account, password, node, public_key: encodeKey(publicKeyOf(privateKey)), ...replace }
  const { status, text } = await post(new URL('/v1/login', server), asked.pin, JSON.stringify(body))
  const value = jsonIn(text)
  if (status !== 200) {
    const said = refusal.safeParse(value)
    const reason = said.success ? said.data.error.message : `it answered with status ${status}`
    throw new GodwitError('LOGIN_REFUSED', `${server}: ${reason}`, {
      hint: hintOf(status),
    })
  }
  const parsed = granted.safeParse(value)
  if (!parsed.success) throw new GodwitError('LOGIN_FAILED', `${server} does not answer as an account server`)
  const pin = asked.pin === undefined ? {} : { pin: asked.pin }
  const now = Math.floor(Date.now() / 1000)
  return {
    ...{ version: 1, ...parsed.data, private_key: encodeKey(privateKey), server, account, renewed: now },
    ...pin,
  }
}

function hintOf(status: number): string {
  if (status === 409)
    return 'choose another name with --name, or take the place of that device, whose login then ends, with --replace'
  if (status === 429) return 'wait a minute, then try again'
  if (status >= 500) return 'look at the log of `godwit overlay serve` on the server, then try again'
  return 'check account, password and the name of the node'
}

/** Prolongs the login: when its key ends now (seconds since 1970, or null). Rejects with LOGIN_ENDED, LOGIN_FAILED. */
export async function renewLogin(login: Login): Promise<number | null> {
  const { keyId, key } = credentialsOf(login)
  const proof = Buffer.from(renewalProof(nodeCrypto, key, keyId)).toString('base64')
  const body = JSON.stringify({ key_id: login.key_id, proof })
  const { status, text } = await post(new URL('/v1/renew', login.server), login.pin, body)
  const parsed = renewed.safeParse(jsonIn(text))
  if (status === 200 && parsed.success) return parsed.data.expires
  if (status === 401)
    throw new GodwitError('LOGIN_ENDED', `the login of ${login.name} has ended or was revoked`, {
      hint: `if another device took the name, choose another; log in again: godwit overlay login ${login.account}`,
    })
  throw new GodwitError('LOGIN_FAILED', `${login.server}: it answered with status ${status}`)
}

const cacheAt = z.object({ host: z.string(), port: z.number(), certificate: z.base64() })
const configuration = z.object({
  // An account server of before names one.
  cache: cacheAt.nullable().default(null),
  caches: z.array(cacheAt).optional(),
})
/** Cache servers that a node asks. */
const MAX_CACHES = 40

/** NT-11: where the cache servers are, in the order in which they are used; none: the zone has none. Rejects with LOGIN_FAILED. */
export async function cachesOf(login: Pick<Login, 'server' | 'pin'>): Promise<readonly CacheAt[]> {
  const url = new URL('/v1/configuration', login.server)
  const { status, text } = await post(url, login.pin, undefined)
  const parsed = configuration.safeParse(jsonIn(text))
  if (status !== 200 || !parsed.success)
    throw new GodwitError('LOGIN_FAILED', `${login.server} does not answer as an account server`)
  const { cache, caches = cache === null ? [] : [cache] } = parsed.data
  return caches.slice(0, MAX_CACHES)
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const SIGNED_BY_ITSELF =
  'log in with the --pin that `overlay account add` printed; a login of an older version lacks it: log in again'

const PIN_HINT = 'the right one is in the line that `godwit overlay account add` prints on the server'

/** What to do about errors of a connection, by their codes. */
const HINTS: Readonly<Record<string, string>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: SIGNED_BY_ITSELF,
  SELF_SIGNED_CERT_IN_CHAIN: SIGNED_BY_ITSELF,
  ECONNREFUSED: 'start it on the server with: godwit overlay serve',
  ENOTFOUND: 'check the name, and that this device is online',
  EAI_AGAIN: 'check the name, and that this device is online',
}

function post(
  url: URL,
  pin: string | undefined,
  body: string | undefined,
): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const fail = (reason: string, hint?: string): void => {
      call.destroy()
      reject(new GodwitError('LOGIN_FAILED', `${url.origin}: ${reason}`, hint === undefined ? {} : { hint }))
    }
    const call = request(
      url,
      {
        method: body === undefined ? 'GET' : 'POST',
        timeout: ANSWER_MS,
        agent: false,
        rejectUnauthorized: pin === undefined,
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body ?? '') },
      },
      (answer) => {
        const parts: Buffer[] = []
        let length = 0
        answer.on('data', (part: Buffer) => {
          length += part.length
          if (length > MAX_ANSWER) fail('the answer is too long')
          else parts.push(part)
        })
        answer.on('end', () =>
          resolve({ status: answer.statusCode ?? 0, text: Buffer.concat(parts).toString() }),
        )
        answer.on('error', (error) => fail(error.message))
      },
    )
    call.on('error', ({ message, code }: NodeJS.ErrnoException) => fail(message, HINTS[code ?? '']))
    call.on('timeout', () => fail('no answer'))
    // The password is written once the server has shown its certificate.
    call.on('socket', (socket) =>
      socket.once('secureConnect', () => {
        const shown = (socket as TLSSocket).getPeerCertificate().raw
        if (pin !== undefined && (shown === undefined || pinOf(shown) !== pin))
          fail('its certificate does not match --pin; nothing was sent', PIN_HINT)
        else call.end(body)
      }),
    )
  })
}
