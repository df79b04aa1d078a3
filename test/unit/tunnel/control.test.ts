import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  controlCodec,
  encodeFrames,
  encodeMtuProbe,
  type Frame,
} from '../../../src/tunnel/protocol/control.ts'
import { testCodec } from '../codec-suite.ts'

const u8 = fc.integer({ min: 0, max: 0xff })
const u16 = fc.integer({ min: 0, max: 0xffff })
const u32 = fc.integer({ min: 0, max: 0xffffffff })
const counter = fc.oneof(fc.constant(-1), fc.maxSafeNat())
const key = fc.uint8Array({ minLength: 32, maxLength: 32 })
const probe = { pathId: u8, sequence: u32, time: u32, received: u32, highestCounter: counter }

const frame: fc.Arbitrary<Frame> = fc.oneof(
  fc.record({ type: fc.constant('hello' as const), version: u8, features: u32, mtu: u16, instance: u32 }),
  fc.record({ type: fc.constant('path-announce' as const), pathId: u8, generation: u32, mtu: u16 }),
  fc.record({
    type: fc.constant('path-accept' as const),
    pathId: u8,
    generation: u32,
    observed: fc.record({
      address: fc.oneof(
        fc.uint8Array({ minLength: 4, maxLength: 4 }),
        fc.uint8Array({ minLength: 16, maxLength: 16 }),
      ),
      port: u16,
    }),
  }),
  fc.record({ type: fc.constant('probe' as const), ...probe }),
  fc.record({ type: fc.constant('echo' as const), ...probe, arrivedAt: u32, receivedBytes: u32 }),
  fc.record({
    type: fc.constant('path-close' as const),
    pathId: u8,
    generation: u32,
    reason: u8,
    highestCounter: counter,
  }),
  fc.record({ type: fc.constant('path-closed' as const), pathId: u8, generation: u32 }),
  fc.record({ type: fc.constant('session-end' as const) }),
  fc.record({ type: fc.constantFrom('mtu-probe' as const, 'mtu-ack' as const), pathId: u8, size: u16 }),
  fc.record({ type: fc.constantFrom('key-replace' as const, 'key-replaced' as const), publicKey: key }),
  fc.record({
    type: fc.constant('mechanism' as const),
    code: fc.integer({ min: 64, max: 255 }),
    body: fc.uint8Array({ maxLength: 300 }),
  }),
)

testCodec('control frames (docs/wire/tunnel.md)', {
  codec: controlCodec,
  arbitrary: fc.array(frame, { minLength: 1, maxLength: 5 }),
  openEnded: true,
  goldens: [
    {
      name: 'HELLO and PATH_ANNOUNCE in one payload',
      bytes: `
        01 000b        # HELLO, 11 bytes
        01 00000001    # version, features: AES-256-GCM
        058c deadbeef  # interface MTU 1420, instance
        02 0007        # PATH_ANNOUNCE, 7 bytes
        01 00000003    # path 1, generation 3
        05dc           # MTU 1500
      `,
      message: [
        { type: 'hello', version: 1, features: 1, mtu: 1420, instance: 0xdeadbeef },
        { type: 'path-announce', pathId: 1, generation: 3, mtu: 1500 },
      ],
    },
    {
      name: 'SESSION_END',
      bytes: '0e 0000  # SESSION_END, no bytes',
      message: [{ type: 'session-end' }],
    },
    {
      name: 'PATH_ACCEPT of an IPv4 address',
      bytes: `
        03 0018                            # PATH_ACCEPT, 24 bytes
        01 00000003 04                     # path 1, generation 3, IPv4
        c0000201 000000000000000000000000  # 192.0.2.1
        ca6c                               # port 51820
      `,
      message: [
        {
          type: 'path-accept',
          pathId: 1,
          generation: 3,
          observed: { address: Uint8Array.of(192, 0, 2, 1), port: 51820 },
        },
      ],
    },
    {
      name: 'PROBE of a path that received nothing yet',
      bytes: `
        04 0015           # PROBE, 21 bytes
        02 00000007       # path 2, sequence 7
        000f4240          # one second, in µs
        00000000          # received
        ffffffffffffffff  # highest counter: none
      `,
      message: [{ type: 'probe', pathId: 2, sequence: 7, time: 1_000_000, received: 0, highestCounter: -1 }],
    },
    {
      name: 'ECHO with when the probe arrived and the bytes received by then',
      bytes: `
        05 001d           # ECHO, 29 bytes
        02 00000007       # path 2, sequence 7
        000f4240          # the prober's time: one second, in µs
        0000000a          # datagrams received
        0000000000000009  # highest counter
        fffffff0          # arrived 16 µs before this clock wraps
        00003a98          # 15,000 bytes received
      `,
      message: [
        {
          type: 'echo',
          pathId: 2,
          sequence: 7,
          time: 1_000_000,
          received: 10,
          highestCounter: 9,
          arrivedAt: 0xfffffff0,
          receivedBytes: 15_000,
        },
      ],
    },
    {
      name: 'ECHO without them, of an earlier version',
      only: 'decode',
      bytes: `
        05 0015
        02 00000007 000f4240 0000000a 0000000000000009
      `,
      message: [
        {
          type: 'echo',
          pathId: 2,
          sequence: 7,
          time: 1_000_000,
          received: 10,
          highestCounter: 9,
          arrivedAt: -1,
          receivedBytes: -1,
        },
      ],
    },
    {
      name: 'PATH_CLOSE with a counter beyond 32 bits',
      bytes: `
        06 000e              # PATH_CLOSE, 14 bytes
        01 00000004 02       # path 1, generation 4, silent
        0000000100000002     # everything up to 2^32 + 2 arrived
      `,
      message: [{ type: 'path-close', pathId: 1, generation: 4, reason: 2, highestCounter: 2 ** 32 + 2 }],
    },
    {
      name: 'an unknown type is skipped, a longer body than known is read as far as known',
      only: 'decode',
      bytes: `
        3f 0002 aabb       # type 63, unknown
        07 0006            # PATH_CLOSED, one byte longer
        01 00000004 ff
        40 0001 07         # the mechanism's
      `,
      message: [
        { type: 'path-closed', pathId: 1, generation: 4 },
        { type: 'mechanism', code: 64, body: Uint8Array.of(7) },
      ],
    },
  ],
})

test('an MTU probe is padded to its size and read as one frame', () => {
  const bytes = encodeMtuProbe(3, 1500, 1438)
  assert.equal(bytes.length, 1438)
  assert.deepEqual(controlCodec.decode(bytes), {
    ok: true,
    value: [{ type: 'mtu-probe', pathId: 3, size: 1500 }],
  })
})

test('padding of message 4 behind the frames is ignored, whatever its length', () => {
  const frames = encodeFrames([{ type: 'mtu-ack', pathId: 3, size: 1500 }])
  for (let padding = 0; padding < 16; padding++) {
    const padded = new Uint8Array(frames.length + padding)
    padded.set(frames)
    const read = controlCodec.decode(padded)
    assert.ok(read.ok && read.value.length === 1, `${padding} bytes`)
  }
})

test('a frame with less than its body makes the whole payload void, whatever stands behind it', () => {
  const bodies = { 1: 11, 2: 7, 3: 24, 4: 21, 5: 21, 6: 14, 7: 5, 8: 3, 9: 3, 10: 32, 11: 32, 12: 9, 13: 9 }
  const behind = encodeFrames([{ type: 'mechanism', code: 64, body: new Uint8Array(40) }])
  for (const [code, length] of Object.entries(bodies))
    for (const less of [0, 1, length]) {
      const bytes = new Uint8Array(3 + length - less + behind.length)
      bytes[0] = Number(code)
      bytes[2] = length - less
      bytes.fill(4, 3, 3 + length - less)
      bytes.set(behind, 3 + length - less)
      assert.equal(controlCodec.decode(bytes).ok, less === 0, `type ${code}, ${less} bytes less`)
    }
})
