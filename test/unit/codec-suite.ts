/**
 * What every codec has to pass (style.md rule 3): golden bytes annotated field by field, every truncation of them, the
 * round trip as a property, and random bytes.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { fromHex } from '../../src/core/bytes.ts'
import type { Codec } from '../../src/core/codec.ts'

export interface Golden<T> {
  readonly name: string
  /** Hexadecimal, one field a line, each with its meaning after `#`. */
  readonly bytes: string
  readonly message: T
  /** Another spelling of the message, which godwit reads but would write otherwise. */
  readonly only?: 'decode'
}

export interface CodecSuite<T> {
  readonly codec: Codec<T>
  readonly goldens: readonly Golden<T>[]
  readonly arbitrary: fc.Arbitrary<T>
  /** Payload that the message claims to be followed by, in bytes; the suite supplies zeros. */
  readonly payloadLength?: (message: T) => number
  /** The message runs to the end of its packet, so that cut bytes may be a shorter message. */
  readonly openEnded?: boolean
}

/** The bytes of an annotated dump: everything after `#` on a line is a comment. */
export function dump(text: string): Uint8Array {
  const parsed = fromHex(text.replace(/#.*$/gm, ''))
  assert.ok(parsed.ok, parsed.ok ? '' : parsed.reason)
  return parsed.value
}

/** Registers the tests. `name` is the format with its source, and the requirement numbers it serves if any. */
export function testCodec<T>(name: string, suite: CodecSuite<T>): void {
  const { codec } = suite

  for (const golden of suite.goldens) {
    const bytes = dump(golden.bytes)
    const payload = suite.payloadLength?.(golden.message) ?? 0

    test(`${name}: ${golden.name}`, () => {
      const result = codec.decode(bytes)
      assert.ok(result.ok, result.ok ? '' : result.reason)
      assert.deepStrictEqual(result.value, golden.message)
      if (golden.only === 'decode') return
      assert.equal(codec.byteLength(golden.message), bytes.length - payload)
      const out = new Uint8Array(bytes.length + 4).fill(0xaa)
      assert.equal(codec.encode(golden.message, out, 3), 3 + bytes.length - payload)
      assert.deepEqual(out.slice(3, 3 + bytes.length - payload), bytes.slice(0, bytes.length - payload))
      assert.deepEqual(out.slice(0, 3), Uint8Array.of(0xaa, 0xaa, 0xaa), 'wrote before its place')
      assert.equal(out[3 + bytes.length - payload], 0xaa, 'wrote after its place')
    })

    test(`${name}: ${golden.name}, cut anywhere`, () => {
      for (let length = 0; length < bytes.length; length++) {
        const cut = codec.decode(bytes.slice(0, length))
        const bounded = codec.decode(bytes, 0, length)
        assert.equal(cut.ok, bounded.ok, `an end at ${length} and an array of ${length} differ`)
        if (suite.openEnded !== true)
          assert.equal(cut.ok, false, `accepted ${length} of ${bytes.length} bytes`)
      }
    })
  }

  test(`${name}: what is encoded decodes to the same, at any offset`, () => {
    fc.assert(
      fc.property(suite.arbitrary, fc.nat(5), (generated, at) => {
        const message = structuredClone(generated) // records of fast-check may lack a prototype
        const length = codec.byteLength(message)
        const payload = suite.payloadLength?.(message) ?? 0
        const out = new Uint8Array(at + length + payload + 3)
        const end = codec.encode(message, out, at)
        assert.equal(end, at + length)
        const result = codec.decode(out, at, end + payload)
        assert.ok(result.ok, result.ok ? '' : result.reason)
        assert.deepStrictEqual(result.value, message)
      }),
    )
  })

  test(`${name}: an array that is too small throws RangeError and nothing else`, () => {
    fc.assert(
      fc.property(suite.arbitrary, fc.nat(), (message, cut) => {
        const out = new Uint8Array(cut % codec.byteLength(message))
        assert.throws(() => codec.encode(message, out, 0), RangeError)
      }),
      { numRuns: 30 },
    )
  })

  test(`${name}: any bytes give a message or a reason`, () => {
    const noise = fc.uint8Array({ maxLength: 128 })
    const damaged = fc
      .tuple(fc.constantFrom(...suite.goldens), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }))
      .map(([golden, changes]) => {
        const bytes = dump(golden.bytes)
        for (const [at, value] of changes) bytes[at % bytes.length] = value
        return bytes
      })
    fc.assert(
      fc.property(fc.oneof(noise, damaged), (bytes) => {
        const result = codec.decode(bytes)
        if (!result.ok) assert.notEqual(result.reason, '')
      }),
      { numRuns: 500 },
    )
  })
}
