/** The primitives against the vectors of their specifications. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chacha20poly1305 } from '@noble/ciphers/chacha.js'
import { fromHex, toHex } from '../../../src/core/bytes.ts'
import {
  decodeKey,
  encodeKey,
  generatePrivateKey,
  publicKeyOf,
  signBytes,
  signingPublicKey,
  verifyBytes,
} from '../../../src/crypto/keys.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { privateKeyObject, publicHalf } from '../../../src/crypto/private-keys.ts'
import { kdf } from '../../../src/crypto/tunnel-crypto.ts'

function hex(text: string): Uint8Array {
  const result = fromHex(text)
  assert.ok(result.ok)
  return result.value
}

function ascii(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

test('X25519: RFC 7748 §5.2 and §6.1, low order refused', () => {
  const scalar = hex('a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4')
  const point = hex('e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c')
  const expected = 'c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552'
  assert.equal(toHex(nodeCrypto.sharedSecret(scalar, point)!), expected)
  const alicePrivate = hex('77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a')
  assert.equal(
    toHex(nodeCrypto.publicKey(alicePrivate)),
    '8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a',
  )
  const bob = hex('de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f')
  assert.equal(
    toHex(nodeCrypto.sharedSecret(alicePrivate, bob)!),
    '4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742',
  )
  for (const low of ['00'.repeat(32), `01${'00'.repeat(31)}`])
    assert.equal(nodeCrypto.sharedSecret(scalar, hex(low)), undefined)
})

test('BLAKE2s: RFC 7693 appendix B; keyed, with 16 bytes out', () => {
  assert.equal(
    toHex(nodeCrypto.hash(ascii('abc'))),
    '508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982',
  )
  assert.deepEqual(nodeCrypto.hash(ascii('a'), ascii('bc')), nodeCrypto.hash(ascii('abc')))
  // Keyed with 16 bytes out, of bytes 00 … 3f by the key 00 … 1f; from Python's hashlib.
  const count = (length: number) => Uint8Array.from({ length }, (_, i) => i)
  assert.equal(toHex(nodeCrypto.mac(count(32), count(64))), 'f1efa90d2547036841ecd3627fafbc36')
})

test('HMAC and HKDF with BLAKE2s: built from the hash by RFC 2104 and RFC 5869', () => {
  const key = ascii('a key of some length')
  const input = ascii('the input')
  const pad = (byte: number) => Uint8Array.from({ length: 64 }, (_, i) => (key[i] ?? 0) ^ byte)
  const inner = nodeCrypto.hash(pad(0x36), input)
  const hmac = nodeCrypto.hash(pad(0x5c), inner)
  assert.deepEqual(nodeCrypto.hmac(key, input), hmac)
  const [first, second, third] = kdf(nodeCrypto, key, input, 3)
  assert.deepEqual(first, nodeCrypto.hmac(hmac, Uint8Array.of(1)))
  assert.deepEqual(second, nodeCrypto.hmac(hmac, Uint8Array.of(...first, 2)))
  assert.deepEqual(third, nodeCrypto.hmac(hmac, Uint8Array.of(...second, 3)))
})

const SUNSCREEN = ascii(
  "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
)

test('ChaCha20-Poly1305 with counters as nonces: agrees with another implementation, refuses what was changed', () => {
  const key = hex('808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f')
  const ad = hex('50515253c0c1c2c3c4c5c6c7')
  for (const counter of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 48]) {
    const box = nodeCrypto.seal(key, counter, SUNSCREEN, ad)
    const nonce = new Uint8Array(12)
    new DataView(nonce.buffer).setBigUint64(4, BigInt(counter), true)
    assert.deepEqual(box, chacha20poly1305(key, nonce, ad).encrypt(SUNSCREEN))
    assert.equal(box.length, SUNSCREEN.length + 16)
    assert.deepEqual(nodeCrypto.open(key, counter, box, ad), SUNSCREEN)
    assert.equal(nodeCrypto.open(key, counter + 1, box, ad), undefined)
    box[3] = box[3]! ^ 1
    assert.equal(nodeCrypto.open(key, counter, box, ad), undefined)
  }
  assert.equal(nodeCrypto.open(key, 0, new Uint8Array(15), ad), undefined)
})

test('XChaCha20-Poly1305: draft-irtf-cfrg-xchacha-03 appendix A.3.1', () => {
  const key = hex('808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f')
  const nonce = hex('404142434445464748494a4b4c4d4e4f5051525354555657')
  const ad = hex('50515253c0c1c2c3c4c5c6c7')
  const expected = hex(`
    bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb
    731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452
    2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
    21f9664c97637da9768812f615c68b13b52e
    c0875924c1c7987947deafd8780acf49`)
  assert.deepEqual(nodeCrypto.sealX(key, nonce, SUNSCREEN, ad), expected)
  assert.deepEqual(nodeCrypto.openX(key, nonce, expected, ad), SUNSCREEN)
  expected[0] = expected[0]! ^ 1
  assert.equal(nodeCrypto.openX(key, nonce, expected, ad), undefined)
  assert.equal(nodeCrypto.openX(key, nonce, new Uint8Array(3), ad), undefined)
})

test('Ed25519: RFC 8032 §7.1 test 2', () => {
  const seed = hex('4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb')
  const publicKey = hex('3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c')
  const signature = hex(`
    92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
    085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00`)
  assert.deepEqual(signingPublicKey(seed), publicKey)
  assert.deepEqual(signBytes(seed, hex('72')), signature)
  assert.equal(verifyBytes(publicKey, hex('72'), signature), true)
  assert.equal(verifyBytes(publicKey, hex('73'), signature), false)
  assert.equal(verifyBytes(publicKey.slice(1), hex('72'), signature), false)
})

test('keys in base64 are read as strictly as wg does', () => {
  const key = generatePrivateKey()
  const text = encodeKey(key)
  assert.deepEqual(decodeKey(text), { ok: true, value: key })
  assert.equal(publicKeyOf(key).length, 32)
  for (const bad of [
    '',
    text.slice(1),
    `${text}=`,
    ` ${text}`,
    text.replace(/.=$/, '*='),
    `${text.slice(0, 42)}B=`,
  ])
    assert.equal(decodeKey(bad).ok, false, bad)
})

test('a private key alone is enough, also for a Node that checks the public half that comes with it (24 and later)', () => {
  // RFC 7748 §6.1 and RFC 8032 §7.1 test 1: the same bytes as a key of either curve stay apart.
  const raw = hex('77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a')
  assert.equal(
    toHex(publicHalf('X25519', raw)),
    '8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a',
  )
  assert.equal(privateKeyObject('X25519', raw).asymmetricKeyType, 'x25519')
  assert.equal(privateKeyObject('X25519', raw), privateKeyObject('X25519', raw), 'decoded once')
  assert.equal(privateKeyObject('Ed25519', raw).asymmetricKeyType, 'ed25519')
  const seed = hex('9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60')
  assert.equal(
    toHex(publicHalf('Ed25519', seed)),
    'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
  )
  assert.equal(
    toHex(signBytes(seed, new Uint8Array())),
    'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
  )
})
