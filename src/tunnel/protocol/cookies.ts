/**
 * mac1, mac2 and cookies (WireGuard paper §5.4.4, §5.4.7). An end under load answers a handshake message that proves no
 * address with a cookie reply, and computes only those whose mac2 shows that the sender got one at its address.
 */
import type { Random } from '../../core/clock.ts'
import type { TunnelCrypto } from '../../crypto/tunnel-crypto.ts'
import type { Endpoint } from '../seam.ts'
import { COOKIE_LIFETIME, COOKIE_MARGIN } from './constants.ts'
import type { Identity } from './noise.ts'
import { COOKIE_REPLY, INITIATION, MessageType, RESPONSE, readIndex, writeIndex } from './wire.ts'

/** A cookie received on a path: for its source address only. */
export interface Cookie {
  readonly value: Uint8Array
  readonly at: number
}

/** Where the MACs of messages 1 and 2 lie. */
export function macOffsets(bytes: Uint8Array): { mac1: number; mac2: number } {
  return bytes[0] === MessageType.initiation ? INITIATION : RESPONSE
}

/** Fills in mac1 and, if there is a cookie, mac2. */
export function addMacs(
  crypto: TunnelCrypto,
  message: Uint8Array,
  mac1Key: Uint8Array,
  cookie: Cookie | undefined,
  now: number,
): void {
  const at = macOffsets(message)
  message.set(crypto.mac(mac1Key, message.subarray(0, at.mac1)), at.mac1)
  message.fill(0, at.mac2)
  if (cookie !== undefined && now - cookie.at < COOKIE_LIFETIME - COOKIE_MARGIN)
    message.set(crypto.mac(cookie.value, message.subarray(0, at.mac2)), at.mac2)
}

export function mac1Valid(crypto: TunnelCrypto, message: Uint8Array, mac1Key: Uint8Array): boolean {
  const { mac1, mac2 } = macOffsets(message)
  return crypto.equal(crypto.mac(mac1Key, message.subarray(0, mac1)), message.subarray(mac1, mac2))
}

/** The cookie in message 3, an answer to the message of ours whose mac1 is given; undefined if it is not. */
export function openCookieReply(
  crypto: TunnelCrypto,
  cookieKey: Uint8Array,
  mac1: Uint8Array,
  reply: Uint8Array,
): Uint8Array | undefined {
  const nonce = reply.subarray(COOKIE_REPLY.nonce, COOKIE_REPLY.cookie)
  return crypto.openX(cookieKey, nonce, reply.subarray(COOKIE_REPLY.cookie), mac1)
}

/** Hands cookies out and checks them. Its secret changes every two minutes. */
export class CookieGuard {
  readonly #crypto: TunnelCrypto
  readonly #random: Random
  readonly #secret = new Uint8Array(32)
  #secretAt = Number.NEGATIVE_INFINITY

  constructor(crypto: TunnelCrypto, random: Random) {
    this.#crypto = crypto
    this.#random = random
  }

  mac2Valid(message: Uint8Array, from: Endpoint, now: number): boolean {
    if (now - this.#secretAt >= COOKIE_LIFETIME) return false
    const { mac2 } = macOffsets(message)
    const expected = this.#crypto.mac(this.#cookieOf(from), message.subarray(0, mac2))
    return this.#crypto.equal(expected, message.subarray(mac2))
  }

  /** Message 3 in answer to `message`. */
  reply(message: Uint8Array, from: Endpoint, own: Identity, now: number): Uint8Array {
    if (now - this.#secretAt >= COOKIE_LIFETIME) {
      this.#random.fill(this.#secret)
      this.#secretAt = now
    }
    const { mac1, mac2 } = macOffsets(message)
    const out = new Uint8Array(COOKIE_REPLY.length)
    out[0] = MessageType.cookieReply
    writeIndex(out, COOKIE_REPLY.receiver, readIndex(message, INITIATION.sender))
    const nonce = this.#random.fill(new Uint8Array(24))
    out.set(nonce, COOKIE_REPLY.nonce)
    const cookie = this.#cookieOf(from)
    out.set(
      this.#crypto.sealX(own.cookieKey, nonce, cookie, message.subarray(mac1, mac2)),
      COOKIE_REPLY.cookie,
    )
    return out
  }

  #cookieOf(from: Endpoint): Uint8Array {
    const source = new Uint8Array(from.address.length + 2)
    source.set(from.address)
    source[from.address.length] = from.port >> 8
    source[from.address.length + 1] = from.port
    return this.#crypto.mac(this.#secret, source)
  }
}
