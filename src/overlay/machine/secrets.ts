/**
 * Keys derived from the keys that two ends share (docs/wire/overlay.md, Datagrams): MAC keys by their label, keys of a
 * sealed session, tag and keys of the CHECKs of a pair. KDF is HKDF over BLAKE2s with the shared key as chaining key.
 */
import { ascii, concat } from '../../core/bytes.ts'
import { kdf, type TunnelCrypto } from '../../crypto/tunnel-crypto.ts'

/** `renew`: a login at the account server; `cache`: requests at the cache server. */
export type MacLabel = 'request' | 'response' | 'renew' | 'cache'

/** Counters of CHECKs begin at a random number of this many bits, times 2^16. */
const START_BITS = 37

export function macKey(crypto: TunnelCrypto, key: Uint8Array, label: MacLabel): Uint8Array {
  return kdf(crypto, key, ascii(label), 1)[0]
}

/** Shows the account server that a node has the login key of this id. */
export function renewalProof(crypto: TunnelCrypto, key: Uint8Array, keyId: Uint8Array): Uint8Array {
  return crypto.mac(macKey(crypto, key, 'renew'), keyId)
}

/** Shows the cache server the same, on a connection that its certificate secures. */
export function cacheProof(crypto: TunnelCrypto, key: Uint8Array, keyId: Uint8Array): Uint8Array {
  return crypto.mac(macKey(crypto, key, 'cache'), keyId)
}

/** Keys of the session with salts a and b: the asker's sending key, and the answerer's. */
export function sessionKeys(
  crypto: TunnelCrypto,
  key: Uint8Array,
  saltA: Uint8Array,
  saltB: Uint8Array,
): { readonly asker: Uint8Array; readonly answerer: Uint8Array } {
  const [asker, answerer] = kdf(crypto, key, concat(saltA, saltB), 2)
  return { asker, answerer }
}

export interface CheckKeys {
  /** 8 bytes: which pair. */
  readonly tag: Uint8Array
  /** Sending keys of the pair's leader, and of the other node. */
  readonly leader: Uint8Array
  readonly follower: Uint8Array
}

export function checkKeys(crypto: TunnelCrypto, pairKey: Uint8Array): CheckKeys {
  const [tag, leader, follower] = kdf(crypto, pairKey, ascii('check'), 3)
  return { tag: tag.slice(0, 8), leader, follower }
}

/** Where the counter of a sender of CHECKs begins: below 2^53, and never where it began before. */
export function firstCheckCounter(random: { fill(out: Uint8Array): Uint8Array }): number {
  const bytes = random.fill(new Uint8Array(5))
  let number = 0
  for (const byte of bytes) number = number * 256 + byte
  return (number % 2 ** START_BITS) * 2 ** 16
}
