import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { FlowTuple } from '../../../src/anchoring/tables/flow-key.ts'
import { byteLength, decode, encode, FrameType, type Signal } from '../../../src/anchoring/wire.ts'

const flow: FlowTuple = {
  protocol: 6,
  local: Uint8Array.of(198, 18, 0, 2),
  remote: Uint8Array.of(204, 152, 191, 37),
  localPort: 4876,
  remotePort: 80,
}

test('UP-31: the bytes of a handover request', () => {
  const bytes = encode({
    type: FrameType.HANDOVER_REQUEST,
    transaction: 0x01020304,
    unTid: 2,
    group: 0x0102,
    flows: [flow],
  })
  assert.deepEqual(
    [...bytes],
    [
      ...[1, 2, 3, 4], // transaction
      2, // path id
      ...[1, 2], // group
      1, // one flow
      ...[4, 6], // IPv4, TCP
      ...[0x13, 0x0c, 0, 80], // ports 4876, 80
      ...[198, 18, 0, 2], // VIpA
      ...[204, 152, 191, 37], // correspondent
    ],
  )
})

test('UP-8: the bytes of an association response', () => {
  const v6 = Uint8Array.from({ length: 16 }, (_, i) => i)
  const bytes = encode({
    type: FrameType.ASSOCIATION_RESPONSE,
    transaction: 7,
    status: 0,
    v4: Uint8Array.of(198, 18, 0, 2),
    v6,
  })
  assert.deepEqual([...bytes], [0, 0, 0, 7, 0, 198, 18, 0, 2, ...v6])
})

const bytes = (n: number) => fc.uint8Array({ minLength: n, maxLength: n })
const transaction = fc.nat(0xffffffff)
const status = fc.nat(255)
const tuples = fc.array(
  fc.oneof(
    ...[4, 16].map((n) =>
      fc.record({
        protocol: fc.nat(255),
        local: bytes(n),
        remote: bytes(n),
        localPort: fc.nat(65535),
        remotePort: fc.nat(65535),
      }),
    ),
  ),
  { maxLength: 30 },
)
const signals: fc.Arbitrary<Signal> = fc.oneof(
  fc.record({ type: fc.constant(FrameType.TALLY_REQUEST), transaction }),
  fc.record({
    type: fc.constant(FrameType.TALLY_RESPONSE),
    transaction,
    sent: fc.nat(0xffffffff),
    received: fc.nat(0xffffffff),
  }),
  fc.record({ type: fc.constant(FrameType.ASSOCIATION_REQUEST), transaction }),
  fc.record({
    type: fc.constant(FrameType.ASSOCIATION_RESPONSE),
    transaction,
    status,
    v4: bytes(4),
    v6: bytes(16),
  }),
  fc.record({
    type: fc.constant(FrameType.HANDOVER_REQUEST),
    group: fc.oneof(fc.nat(4095), fc.constant('all' as const)),
    transaction,
    unTid: fc.nat(255),
    flows: tuples,
  }),
  fc.record({
    type: fc.constantFrom(FrameType.HANDOVER_RESPONSE, FrameType.SET_MODE_RESPONSE),
    transaction,
    status,
    count: fc.nat(65535),
  }),
  fc.record({
    type: fc.constant(FrameType.SET_MODE_REQUEST),
    transaction,
    static: fc.boolean(),
    flows: tuples,
  }),
)

test('every frame survives a round trip, and no truncation of it throws', () => {
  fc.assert(
    fc.property(signals, (signal) => {
      const body = encode(signal)
      assert.equal(body.length, byteLength(signal))
      const back = decode(signal.type, body)
      assert.ok(back.ok)
      assert.deepEqual(encode(back.value), body)
      for (let cut = 0; cut < body.length; cut++)
        assert.equal(decode(signal.type, body.subarray(0, cut)).ok, false)
    }),
    { numRuns: 200 },
  )
})

test('random bytes are refused or decoded, never thrown at', () => {
  fc.assert(
    fc.property(fc.integer({ min: 60, max: 80 }), fc.uint8Array({ maxLength: 64 }), (type, body) => {
      decode(type, body)
    }),
    { numRuns: 2000 },
  )
})
