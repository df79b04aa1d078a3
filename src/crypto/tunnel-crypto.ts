/**
 * The primitives of the WireGuard handshake, as protocol cores see them. `node-crypto.ts` implements them; a core takes
 * the interface and so stays free of Node. All keys are 32 raw bytes, unless said otherwise. Nothing here throws on
 * hostile input: what does not verify is `undefined`.
 *
 * Caller's part: a private key's array is never written to after it was first used (imports are cached by array).
 */
export interface TunnelCrypto {
  /** The X25519 public key of a private key; clamping is implied (RFC 7748 §5). */
  publicKey(privateKey: Uint8Array): Uint8Array
  /** X25519; undefined for public keys of low order, whose result would be all zero (RFC 7748 §6.1). */
  sharedSecret(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array | undefined
  /** BLAKE2s-256 of a ‖ b (RFC 7693). */
  hash(a: Uint8Array, b?: Uint8Array): Uint8Array
  /** Keyed BLAKE2s with 16 bytes of output: WireGuard's MAC. The key has 1 to 32 bytes. */
  mac(key: Uint8Array, input: Uint8Array): Uint8Array
  /** HMAC-BLAKE2s-256 (RFC 2104). */
  hmac(key: Uint8Array, input: Uint8Array): Uint8Array
  /**
   * ChaCha20-Poly1305 (RFC 8439) with WireGuard's nonce: four zero bytes and the counter, little-endian. Returns the
   * ciphertext followed by its tag of 16 bytes.
   */
  seal(key: Uint8Array, counter: number, plain: Uint8Array, ad: Uint8Array): Uint8Array
  open(key: Uint8Array, counter: number, sealed: Uint8Array, ad: Uint8Array): Uint8Array | undefined
  /** XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha §2) with a nonce of 24 bytes: cookie replies. */
  sealX(key: Uint8Array, nonce: Uint8Array, plain: Uint8Array, ad: Uint8Array): Uint8Array
  openX(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, ad: Uint8Array): Uint8Array | undefined
  /** Compares in time that does not depend on the bytes. Different lengths are unequal. */
  equal(a: Uint8Array, b: Uint8Array): boolean
}

const ONE = new Uint8Array([1])

/**
 * HKDF (RFC 5869) over HMAC-BLAKE2s as the Noise framework shapes it: `salt` is the chaining key, info is empty, and
 * `count` blocks of 32 bytes come out (Noise §4.3; KDF_n of the WireGuard paper §5.4).
 */
export function kdf(
  crypto: TunnelCrypto,
  salt: Uint8Array,
  input: Uint8Array,
  count: 1 | 2 | 3,
): readonly [Uint8Array, Uint8Array, Uint8Array] {
  const secret = crypto.hmac(salt, input)
  const first = crypto.hmac(secret, ONE)
  const block = new Uint8Array(33)
  let second = first
  let third = first
  if (count >= 2) {
    block.set(first)
    block[32] = 2
    second = crypto.hmac(secret, block)
  }
  if (count === 3) {
    block.set(second)
    block[32] = 3
    third = crypto.hmac(secret, block)
  }
  block.fill(0)
  secret.fill(0)
  return [first, second, third]
}
