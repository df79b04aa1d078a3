/** Keys of a connection and what is derived from them (RFC 8684 §3.1, §3.2). */
import { concat } from '../../core/bytes.ts'
import type { Random } from '../../core/clock.ts'
import { ADD_ADDR_HMAC, JOIN_FULL_HMAC, JOIN_HMAC, KEY_LENGTH } from '../wire.ts'

/** SHA-256 as the machine is given it. */
export interface Sha256 {
  hash(bytes: Uint8Array): Uint8Array
  hmac(key: Uint8Array, message: Uint8Array): Uint8Array
}

/** One end's key with its token and initial data sequence number. */
export interface Key {
  readonly bytes: Uint8Array
  /** Upper 32 bits of the hash; what a join names the connection by. */
  readonly token: number
  /** Lower 64 bits of the hash. */
  readonly idsnHigh: number
  readonly idsnLow: number
}

/** Keys as numbers take a sixth of the memory that an array of their bytes takes, which is rarely asked for. */
class CompactKey implements Key {
  readonly token: number
  readonly idsnHigh: number
  readonly idsnLow: number
  readonly #high: number
  readonly #low: number

  constructor(bytes: Uint8Array, hash: Uint8Array) {
    this.#high = u32(bytes, 0)
    this.#low = u32(bytes, 4)
    this.token = u32(hash, 0)
    this.idsnHigh = u32(hash, 24)
    this.idsnLow = u32(hash, 28)
  }

  get bytes(): Uint8Array {
    const bytes = new Uint8Array(KEY_LENGTH)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, this.#high)
    view.setUint32(4, this.#low)
    return bytes
  }
}

export function keyOf(sha: Sha256, bytes: Uint8Array): Key {
  return new CompactKey(bytes, sha.hash(bytes))
}

/** A key whose token `taken` does not know. */
export function makeKey(sha: Sha256, random: Random, taken: (token: number) => boolean): Key {
  for (;;) {
    const key = keyOf(sha, random.fill(new Uint8Array(KEY_LENGTH)))
    if (key.token !== 0 && !taken(key.token)) return key
  }
}

/** The HMAC of a join: keyed with the sender's key and the other's, over the sender's nonce and the other's. */
export function joinHmac(
  sha: Sha256,
  senderKey: Uint8Array,
  otherKey: Uint8Array,
  senderNonce: number,
  otherNonce: number,
): Uint8Array {
  const nonces = new Uint8Array(8)
  const view = new DataView(nonces.buffer)
  view.setUint32(0, senderNonce)
  view.setUint32(4, otherNonce)
  return sha.hmac(concat(senderKey, otherKey), nonces)
}

/** What the SYN/ACK and the third ACK carry of it. */
export const joinReplyHmac = (hmac: Uint8Array): Uint8Array => hmac.slice(0, JOIN_HMAC)
export const joinAckHmac = (hmac: Uint8Array): Uint8Array => hmac.slice(0, JOIN_FULL_HMAC)

/** The HMAC of ADD_ADDR, the rightmost 64 bits (RFC 8684 §3.4.1); port 0 when none is announced. */
export function addAddrHmac(
  sha: Sha256,
  senderKey: Uint8Array,
  otherKey: Uint8Array,
  id: number,
  address: Uint8Array,
  port: number,
): Uint8Array {
  const message = concat(Uint8Array.of(id), address, Uint8Array.of(port >> 8, port & 0xff))
  return sha.hmac(concat(senderKey, otherKey), message).slice(-ADD_ADDR_HMAC)
}

function u32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at)
}
