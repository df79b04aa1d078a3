import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  decodeAck,
  decodePathNames,
  decodePathUse,
  encodeAck,
  encodePathNames,
  encodePathUse,
} from '../../../src/routing/wire.ts'

const PLAIN = { draining: false, fading: false, reserve: false, seldom: false, weight: 1 }

test('OH-37: the bytes of PATH_USE and its acknowledgement', () => {
  const bytes = encodePathUse(0x01020304, [
    { ...PLAIN, pathId: 1, draining: true, priority: 0 },
    { ...PLAIN, pathId: 7, fading: true, priority: 200 },
    { ...PLAIN, pathId: 8, draining: true, fading: true, priority: 1 },
    { ...PLAIN, pathId: 9, draining: true, reserve: true, seldom: true, weight: 15, priority: 3 },
  ])
  assert.deepEqual(
    [...bytes],
    [
      ...[1, 2, 3, 4], // sequence
      ...[1, 1, 0], // path 1: draining
      ...[7, 2, 200], // path 7: fading
      ...[8, 3, 1], // path 8: both
      ...[9, 0xed, 3], // path 9: draining, reserve, seldom, weight 15
    ],
  )
  assert.deepEqual([...encodeAck(0x01020304)], [1, 2, 3, 4])
})

test('PATH_USE: round trip, every length, any bytes', () => {
  const use = fc.record({
    pathId: fc.nat(255),
    draining: fc.boolean(),
    fading: fc.boolean(),
    reserve: fc.boolean(),
    seldom: fc.boolean(),
    weight: fc.integer({ min: 1, max: 15 }),
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

test('OH-16b: the names of links: bytes, round trip, what is no name', () => {
  const names = [
    { pathId: 1, name: 'wlan0' },
    { pathId: 2, name: 'eth0.7' },
  ]
  const bytes = encodePathNames(names)
  assert.deepEqual([...bytes.subarray(0, 7)], [1, 5, ...[...'wlan0'].map((c) => c.charCodeAt(0))])
  assert.deepEqual(decodePathNames(bytes), { ok: true, value: names })
  assert.deepEqual(decodePathNames(new Uint8Array(0)), { ok: true, value: [] })
  for (const bad of [[1], [1, 0], [1, 3, 65, 66], [1, 1, 7], [1, 64, ...new Array<number>(64).fill(65)]])
    assert.equal(decodePathNames(Uint8Array.from(bad)).ok, false, bad.join())
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (any) => typeof decodePathNames(any).ok === 'boolean'),
  )
})
