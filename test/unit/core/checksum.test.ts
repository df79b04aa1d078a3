import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { viewOf } from '../../../src/core/bytes.ts'
import { addSum, checksum, complete, finish, fold, pseudoSum, updateAt } from '../../../src/core/checksum.ts'

/** RFC 1071 read literally. */
function plain(bytes: Uint8Array): number {
  let sum = 0
  for (let i = 0; i < bytes.length; i += 2) {
    sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0)
    sum = (sum & 0xffff) + (sum >> 16)
  }
  return sum
}

test('RFC 1071 §3 example', () => {
  const view = viewOf(Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7))
  assert.equal(fold(addSum(view, 0, 8)), 0xddf2)
  assert.equal(checksum(view, 0, 8), 0x220d)
})

test('sums of any area agree with the plain loop', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(7), (bytes, skip) => {
      const at = Math.min(skip, bytes.length)
      const part = bytes.subarray(at)
      assert.equal(fold(addSum(viewOf(bytes), at, part.length)) % 0xffff, plain(part) % 0xffff)
    }),
  )
  const ones = new Uint8Array(1 << 20).fill(0xff)
  assert.equal(fold(addSum(viewOf(ones), 0, ones.length)), 0xffff)
})

test('an incremental update equals a full one (RFC 1624)', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 24, maxLength: 64 }),
      fc.uint8Array({ minLength: 4, maxLength: 4 }),
      (packet, change) => {
        const view = viewOf(packet)
        view.setUint16(0, 0)
        view.setUint16(0, checksum(view, 0, packet.length))
        const before = addSum(view, 8, 4)
        packet.set(change, 8)
        updateAt(view, 0, before, addSum(view, 8, 4))
        assert.equal(checksum(view, 0, packet.length) % 0xffff, 0)
      },
    ),
  )
})

test('RFC 1624 §4: the update does not produce the wrong zero', () => {
  const view = new DataView(new ArrayBuffer(2))
  view.setUint16(0, 0xdd2f)
  updateAt(view, 0, 0x5555, 0x3285)
  assert.equal(view.getUint16(0), 0)
})

test('a completed partial checksum verifies, and UDP never says zero', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 28, maxLength: 200 }), fc.boolean(), (random, v6) => {
      const header = v6 ? 40 : 20
      const packet = new Uint8Array(header + random.length)
      packet.set(random, header)
      packet.set(random.subarray(0, header - 12), 12)
      packet[0] = v6 ? 0x60 : 0x45
      const view = viewOf(packet)
      view.setUint16(header + 6, fold(pseudoSum(view, 0, 17, random.length)))
      complete(view, header, random.length, header + 6)
      assert.notEqual(view.getUint16(header + 6), 0)
      assert.equal(
        finish(addSum(view, header, random.length, pseudoSum(view, 0, 17, random.length))) % 0xffff,
        0,
      )
    }),
  )
})
