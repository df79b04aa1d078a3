/**
 * Push services behind one interface (NT-22): Web Push, which UnifiedPush is too (RFC 8030, 8291, 8292), the Apple Push Notification
 * service (HTTP/2 with provider tokens) and Firebase Cloud Messaging (HTTP v1).
 */
import { createPrivateKey, type KeyObject } from 'node:crypto'
import { type ClientHttp2Session, connect } from 'node:http2'
import * as z from 'zod'
import type { PushAddress } from './address.ts'
import { encryptPush } from './encryption.ts'
import type { Guard, PushAnswer } from './guard.ts'
import { p256Key, signToken } from './jwt.ts'

/** What has become of a message; `gone`: the service does not know the node any more. */
export type Delivery = 'sent' | 'gone'

export interface PushService<Address extends PushAddress = PushAddress> {
  /** Rejects with the reason in words. */
  send(address: Address, datagram: Uint8Array, account: string): Promise<Delivery>
  close(): void
}

type Of<Service extends PushAddress['service']> = Extract<PushAddress, { service: Service }>

/** A message that has not been delivered after so long is of no use (seconds): who asks waits ten. */
const TTL = 30
const MAX_STATUS_TEXT = 200
/** No account is called so. */
const OPERATOR = ''

function deliveryOf({ status, text }: PushAnswer, isGone: boolean): Delivery {
  if (status >= 200 && status < 300) return 'sent'
  if (isGone) return 'gone'
  throw new Error(`status ${status} ${text.slice(0, MAX_STATUS_TEXT).replace(/[^\x20-\x7e]/g, ' ')}`.trim())
}

/** The key that shows push services who sends (RFC 8292). */
export interface Vapid {
  readonly privateKey: Uint8Array
  /** Uncompressed, 65 bytes. */
  readonly point: Uint8Array
  /** `mailto:` or `https:` of the operator. */
  readonly contact: string
}

const VAPID_SECONDS = 12 * 3600

export class WebPush implements PushService<Of<'web'>> {
  readonly #guard: Guard
  readonly #vapid: Vapid
  readonly #key: KeyObject
  readonly #wall: () => number

  constructor(guard: Guard, vapid: Vapid, wall: () => number) {
    this.#guard = guard
    this.#vapid = vapid
    this.#key = p256Key(vapid.privateKey, vapid.point)
    this.#wall = wall
  }

  async send(
    { endpoint, publicKey, secret }: Of<'web'>,
    datagram: Uint8Array,
    account: string,
  ): Promise<Delivery> {
    const exp = Math.floor(this.#wall() / 1000) + VAPID_SECONDS
    const claims = { aud: endpoint.origin, exp, sub: this.#vapid.contact }
    const token = signToken('ES256', this.#key, claims, { typ: 'JWT' })
    const answer = await this.#guard.post({
      ...{ url: endpoint, by: account },
      body: encryptPush(datagram, { publicKey, secret }),
      headers: {
        ...{ 'content-type': 'application/octet-stream', 'content-encoding': 'aes128gcm' },
        ...{ ttl: String(TTL), urgency: 'high', topic: 'wake' },
        authorization: `vapid t=${token}, k=${Buffer.from(this.#vapid.point).toString('base64url')}`,
      },
    })
    return deliveryOf(answer, answer.status === 404 || answer.status === 410)
  }

  close(): void {}
}

export interface ApnsInit {
  /** PKCS#8 of the provider's key, PEM. */
  readonly key: string
  readonly keyId: string
  readonly team: string
  /** Bundle identifier of the application. */
  readonly topic: string
  /** `https://api.push.apple.com`, or the sandbox's. */
  readonly origin: string
  readonly ca?: string
}

/** Apple refuses tokens that are older than an hour, and ones that change more than every twenty minutes (ms). */
const APNS_TOKEN_MS = 45 * 60_000
const APNS_MS = 10_000

export class Apns implements PushService<Of<'apns'>> {
  readonly #init: ApnsInit
  readonly #key: KeyObject
  readonly #wall: () => number
  #token: { readonly text: string; readonly at: number } | undefined
  #session: ClientHttp2Session | undefined

  constructor(init: ApnsInit, wall: () => number) {
    this.#init = init
    this.#key = createPrivateKey(init.key)
    this.#wall = wall
  }

  async send({ token }: Of<'apns'>, datagram: Uint8Array): Promise<Delivery> {
    const answer = await this.#post(token, {
      aps: { 'content-available': 1 },
      ntm: Buffer.from(datagram).toString('base64'),
    })
    if (answer.status === 403) this.#token = undefined
    return deliveryOf(answer, answer.status === 410 || /BadDeviceToken|Unregistered/.test(answer.text))
  }

  close(): void {
    this.#session?.destroy()
  }

  #connected(): ClientHttp2Session {
    const { origin, ca } = this.#init
    if (this.#session?.destroyed === false && !this.#session.closed) return this.#session
    const session = connect(origin, ca === undefined ? {} : { ca })
    session.on('error', () => {})
    session.unref()
    this.#session = session
    return session
  }

  #bearer(): string {
    const { keyId, team } = this.#init
    const now = this.#wall()
    if (this.#token === undefined || now - this.#token.at > APNS_TOKEN_MS || now < this.#token.at) {
      const claims = { iss: team, iat: Math.floor(now / 1000) }
      this.#token = { text: signToken('ES256', this.#key, claims, { kid: keyId }), at: now }
    }
    return this.#token.text
  }

  #post(device: string, body: object): Promise<PushAnswer> {
    return new Promise((resolve, reject) => {
      const session = this.#connected()
      const stream = session.request({
        ...{ ':method': 'POST', ':path': `/3/device/${device}`, authorization: `bearer ${this.#bearer()}` },
        ...{ 'apns-topic': this.#init.topic, 'apns-push-type': 'background', 'apns-priority': '5' },
        'apns-expiration': String(Math.floor(this.#wall() / 1000) + TTL),
      })
      let status = 0
      let text = ''
      const fail = (error: Error) => {
        // Of a connection that does not answer the next message opens another.
        session.destroy()
        reject(error)
      }
      stream.setTimeout(APNS_MS, () => fail(new Error('no answer in time')))
      stream.on('response', (headers) => {
        status = Number(headers[':status'])
      })
      stream.setEncoding('utf8')
      stream.on('data', (part: string) => {
        if (text.length < MAX_STATUS_TEXT) text += part.slice(0, MAX_STATUS_TEXT)
      })
      stream.on('error', fail)
      stream.on('close', () =>
        status === 0 ? fail(new Error('the connection ended')) : resolve({ status, text }),
      )
      stream.end(JSON.stringify(body))
    })
  }
}

/** What a service account's file of Google Cloud holds. */
export const serviceAccount = z.object({
  project_id: z.string().regex(/^[a-z0-9-]+$/),
  client_email: z.string(),
  private_key: z.string(),
  token_uri: z.url({ protocol: /^https$/ }),
})
export type ServiceAccount = z.output<typeof serviceAccount>

const FCM_SCOPE = 'https://www.googleapis.com/auth/firebase.messaging'
/** A token is renewed so long before it ends (seconds). */
const FCM_AHEAD = 120
const granted = z.object({ access_token: z.string(), expires_in: z.number() })

export class Fcm implements PushService<Of<'fcm'>> {
  readonly #guard: Guard
  readonly #account: ServiceAccount
  readonly #key: KeyObject
  readonly #origin: string
  readonly #wall: () => number
  #token: { readonly text: string; readonly until: number } | undefined

  constructor(guard: Guard, account: ServiceAccount, origin: string, wall: () => number) {
    this.#guard = guard
    this.#account = account
    this.#key = createPrivateKey(account.private_key)
    this.#origin = origin
    this.#wall = wall
  }

  async send({ token }: Of<'fcm'>, datagram: Uint8Array): Promise<Delivery> {
    const answer = await this.#guard.post({
      url: new URL(`/v1/projects/${this.#account.project_id}/messages:send`, this.#origin),
      by: OPERATOR,
      headers: {
        'content-type': 'application/json',
        authorization: `Bearer ${await this.#bearer()}`,
      },
      body: JSON.stringify({
        message: {
          token,
          data: { ntm: Buffer.from(datagram).toString('base64') },
          android: { priority: 'HIGH', ttl: `${TTL}s` },
        },
      }),
    })
    if (answer.status === 401) this.#token = undefined
    return deliveryOf(answer, answer.status === 404 || answer.text.includes('UNREGISTERED'))
  }

  close(): void {}

  /** OAuth 2.0 by a signed assertion (RFC 7523). */
  async #bearer(): Promise<string> {
    const now = Math.floor(this.#wall() / 1000)
    if (this.#token !== undefined && now < this.#token.until) return this.#token.text
    const { client_email: iss, token_uri: aud } = this.#account
    const assertion = signToken(
      'RS256',
      this.#key,
      { iss, scope: FCM_SCOPE, aud, iat: now, exp: now + 3600 },
      { typ: 'JWT' },
    )
    const body = new URLSearchParams({ grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', assertion })
    const { status, text } = await this.#guard.post({
      ...{ url: new URL(aud), by: OPERATOR },
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: body.toString(),
    })
    if (status !== 200) throw new Error(`no access token: status ${status}`)
    const { access_token, expires_in } = granted.parse(JSON.parse(text))
    this.#token = { text: access_token, until: now + expires_in - FCM_AHEAD }
    return access_token
  }
}
