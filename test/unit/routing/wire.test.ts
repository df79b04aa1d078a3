import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeAck, decodePathUse, encodeAck, encodePathUse } from '../../../src/routing/wire.ts'

test('OH-37: the bytes of PATH_USE and its acknowledgement', () => {
  const bytes = encodePathUse(0x01020304, [
    { pathId: 1, draining: true, fading: false, priority: 0 },
    { pathId: 7, draining: false, fading: true, priority: 200 },
    { pathId: 8, draining: true, fading: true, priority: 1 },
  ])
  assert.deepEqual(
    [...bytes],
    [
      ...[1, 2, 3, 4], // sequence
      ...[1, 1, 0], // path 1: draining
      ...[7, 2, 200], // path 7: fading
      ...[8, 3, 1], // path 8: both
    ],
  )
  assert.deepEqual([...encodeAck(0x01020304)], [1, 2, 3, 4])
})

test('PATH_USE: round trip, every length, any bytes', () => {
  const use = fc.record({
    pathId: fc.nat(255),
    draining: fc.boolean(),
    fading: fc.boolean(),
    priority: fc.nat(255),
  })
  fc.assert(
    fc.property(fc.nat(0xffffffff), fc.array(use, { maxLength: 8 }), (sequence, drawn) => {
      const paths = drawn.map((each) => ({ ...each }))
      const bytes = encodePathUse(sequence, paths)
      assert.deepEqual(decodePathUse(bytes), { ok: true, value: { sequence, paths } })
      assert.equal(decodeAck(encodeAck(sequence)), sequence)
      for (let length = 0; length < bytes.length; length++) {
        const cut = decodePathUse(bytes.subarray(0, length))
        assert.equal(cut.ok, length >= 4 && (length - 4) % 3 === 0)
      }
    }),
  )
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      assert.equal(decodePathUse(bytes).ok, bytes.length >= 4 && (bytes.length - 4) % 3 === 0)
      assert.equal(decodeAck(bytes) === undefined, bytes.length < 4)
    }),
  )
})
