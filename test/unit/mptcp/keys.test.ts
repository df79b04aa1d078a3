/** Keys, tokens, initial data sequence numbers and HMACs (RFC 8684 §3.1, §3.2, §3.4.1). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { toHex } from '../../../src/core/bytes.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import {
  addAddrHmac,
  joinAckHmac,
  joinHmac,
  joinReplyHmac,
  keyOf,
  makeKey,
} from '../../../src/mptcp/machine/keys.ts'
import { dsnAt, offsetOf, offsetOfDsn, sequenceAt } from '../../../src/mptcp/machine/sequence.ts'
import { dump } from '../codec-suite.ts'

const ascii = (text: string) => new TextEncoder().encode(text)

test('MP-15: token and IDSN are the ends of SHA-256 of the key', () => {
  // From a connection between the proxy and Linux 6.18: its join named this token, its first mapping this number.
  const key = keyOf(nodeSha256, dump('63eaf362cb3a38f5'))
  assert.equal(key.token, 0x05557205)
  assert.equal(toHex(dsnHex(dsnAt(key, 1))), '2aea3f98210093a8')
})

test('MP-15: the HMAC of a join has the values of the kernel’s own test', () => {
  for (const [keys, nonces, want] of [
    ['0b0b0b0b0b0b0b0b', '48692054', '8385e24fb4235ac37556b6b886db106284a1da671699f46db1f235ec622dcafa'],
    ['aaaaaaaaaaaaaaaa', 'dddddddd', '2c5e219164ff1dca1c4a92318d847bb6b9d44492984e1eb71aff9022f71046e9'],
    ['0102030405060708', 'cdcdcdcd', 'e73b9ba9969969cefb04aa0d6df18ec2fcc075b6f23b4d8c4da736a5dbbc6e7d'],
  ] as const) {
    const bytes = ascii(keys)
    const view = new DataView(ascii(nonces).buffer)
    const hmac = joinHmac(nodeSha256, bytes.slice(0, 8), bytes.slice(8), view.getUint32(0), view.getUint32(4))
    assert.equal(toHex(hmac), want)
  }
})

test('MP-15: the HMACs of a join with Linux 6.18', () => {
  const local = dump('835b1e6c6b9254f0')
  const remote = dump('63eaf362cb3a38f5')
  const reply = joinHmac(nodeSha256, remote, local, 0xfc43caa1, 0x9c466ebc)
  assert.equal(toHex(joinReplyHmac(reply)), '9ea276f764c504db')
  const ack = joinHmac(nodeSha256, local, remote, 0x9c466ebc, 0xfc43caa1)
  assert.equal(toHex(joinAckHmac(ack)), 'e8bfa80efaf5a003569a2ff3bfa20e96f02f5754')
})

test('MP-15: ADD_ADDR is signed over id, address and port, by the last 64 bits', () => {
  const a = addAddrHmac(
    nodeSha256,
    dump('0102030405060708'),
    dump('1112131415161718'),
    2,
    dump('0a020002'),
    0,
  )
  const keys = dump('01020304050607081112131415161718')
  const whole = nodeSha256.hmac(keys, dump('02 0a020002 0000'))
  assert.deepEqual(a, whole.slice(24))
  const withPort = addAddrHmac(nodeSha256, keys.slice(0, 8), keys.slice(8), 2, dump('0a020002'), 8081)
  assert.deepEqual(withPort, nodeSha256.hmac(keys, dump('02 0a020002 1f91')).slice(24))
})

test('MP-15: a key whose token is taken is made anew', () => {
  let next = 0
  const random = { fill: (out: Uint8Array) => out.fill(next++) }
  const taken = keyOf(nodeSha256, new Uint8Array(8)).token
  const key = makeKey(nodeSha256, random, (token) => token === taken)
  assert.deepEqual(key.bytes, new Uint8Array(8).fill(1))
})

test('P14: offsets survive the wrap of 32 and of 64 bits', () => {
  assert.equal(sequenceAt(0xfffffff0, 0x20), 0x10)
  assert.equal(offsetOf(0x10, 0xfffffff0, 0), 0x20)
  const far = 5 * 2 ** 32 + 123
  assert.equal(offsetOf(sequenceAt(77, far), 77, far - 1000), far)
  assert.equal(offsetOf(sequenceAt(77, far), 77, far + 1000), far)
  const key = { bytes: new Uint8Array(8), token: 1, idsnHigh: 0xffffffff, idsnLow: 0xfffffff0 }
  assert.deepEqual(dsnAt(key, 0x20), { high: 0, low: 0x10 })
  assert.equal(offsetOfDsn(key, { high: 0, low: 0x10 }, 0), 0x20)
  assert.equal(offsetOfDsn(key, { low: 0x10 }, 0), 0x20)
  assert.equal(offsetOfDsn(key, { high: 1, low: 0x10 }, 0), undefined, 'another upper half is a lie')
  assert.equal(offsetOfDsn(key, dsnAt(key, far), far + 99), far)
})

function dsnHex({ high, low }: { high: number; low: number }): Uint8Array {
  const bytes = new Uint8Array(8)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, high)
  view.setUint32(4, low)
  return bytes
}
