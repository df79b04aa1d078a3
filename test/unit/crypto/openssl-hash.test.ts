/** Hashes by FFI give what node:crypto and @noble give. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { withShortHashes } from '../../../src/crypto/openssl-hash.ts'
import { kdf } from '../../../src/crypto/tunnel-crypto.ts'

const crypto = withShortHashes(nodeCrypto)
const bytes = (length: number, first: number) => Uint8Array.from({ length }, (_, i) => first + 7 * i)
/** Around a block of BLAKE2s, and around what the memory for them holds. */
const LENGTHS = [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300, 1984, 1985, 2016, 2017, 2048, 2049, 5000]

test('BLAKE2s, its HMAC and its keyed form by FFI are those of the other implementations, whatever the length', () => {
  assert.notEqual(crypto, nodeCrypto, 'there is an OpenSSL')
  for (const length of LENGTHS) {
    const input = bytes(length, 3)
    assert.deepEqual(crypto.hash(input), nodeCrypto.hash(input))
    assert.deepEqual(crypto.hash(bytes(5, 1), input), nodeCrypto.hash(bytes(5, 1), input))
    for (const size of [1, 16, 32]) {
      const key = bytes(size, 9)
      assert.deepEqual(crypto.mac(key, input), nodeCrypto.mac(key, input), `key of ${size}, ${length}`)
    }
    for (const size of [0, 1, 32, 33, 64, 65]) {
      const key = bytes(size, 9)
      assert.deepEqual(crypto.hmac(key, input), nodeCrypto.hmac(key, input), `key of ${size}, ${length}`)
    }
  }
})

test('a result of a hash by FFI stays when the next one is made, and a refused key leaves no trace', () => {
  const first = crypto.mac(bytes(32, 1), bytes(40, 2))
  const kept = first.slice()
  crypto.mac(bytes(16, 5), bytes(400, 2))
  assert.throws(() => crypto.mac(bytes(33, 5), bytes(4, 2)))
  assert.deepEqual(first, kept)
  assert.deepEqual(crypto.mac(bytes(32, 1), bytes(40, 2)), kept)
  assert.deepEqual(kdf(crypto, bytes(32, 4), bytes(32, 6), 3), kdf(nodeCrypto, bytes(32, 4), bytes(32, 6), 3))
})
