/** Messages of D-Bus: bytes that libdbus 1.14 sent, and whatever else may come. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { encoded } from '../../../src/core/codec.ts'
import { socketPaths } from '../../../src/linux/dbus/bus.ts'
import {
  isSignature,
  type Message,
  messageCodec,
  messageLength,
  type Value,
} from '../../../src/linux/dbus/wire.ts'
import { dump, testCodec } from '../codec-suite.ts'

/** A signature of one type with a value of it. */
const { typed } = fc.letrec<{ typed: [string, Value] }>((tie) => ({
  typed: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    basic(),
    fc.uint8Array({ maxLength: 9 }).map((bytes): [string, Value] => ['ay', bytes]),
    fc.array(fc.string({ unit: letters() }), { maxLength: 3 }).map((list): [string, Value] => ['as', list]),
    tie('typed').map(([signature, value]): [string, Value] => ['v', { signature, value }]),
    fc
      .array(tie('typed'), { minLength: 1, maxLength: 3 })
      .map((list): [string, Value] => [
        `(${list.map(([signature]) => signature).join('')})`,
        list.map(([, value]) => value),
      ]),
    fc
      .dictionary(fc.string({ unit: letters() }), tie('typed'), { maxKeys: 3 })
      .map((record): [string, Value] => [
        'a{sv}',
        new Map(Object.entries(record).map(([key, [signature, value]]) => [key, { signature, value }])),
      ]),
  ),
}))

function letters(): fc.Arbitrary<string> {
  return fc.constantFrom('a', 'Z', '_', 'é', '字', '😀')
}

function basic(): fc.Arbitrary<[string, Value]> {
  return fc.oneof(
    fc.nat(255).map((value): [string, Value] => ['y', value]),
    fc.boolean().map((value): [string, Value] => ['b', value]),
    fc.integer({ min: -32768, max: 32767 }).map((value): [string, Value] => ['n', value]),
    fc.nat(65535).map((value): [string, Value] => ['q', value]),
    fc.integer().map((value): [string, Value] => ['i', value]),
    fc.nat().map((value): [string, Value] => ['u', value]),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map((value): [string, Value] => ['x', value]),
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value): [string, Value] => ['t', value]),
    fc.double({ noNaN: true }).map((value): [string, Value] => ['d', value]),
    fc.string({ unit: letters(), maxLength: 9 }).map((value): [string, Value] => ['s', value]),
    fc.constantFrom('/', '/a', '/org/example_1').map((value): [string, Value] => ['o', value]),
    fc.constantFrom('', 'a{sv}', '(ii)as').map((value): [string, Value] => ['g', value]),
  )
}

const HEADERS: readonly Omit<Message, 'flags' | 'serial' | 'signature' | 'body'>[] = [
  { type: 'call', path: '/a', member: 'Do' },
  { type: 'call', path: '/', interface: 'a.b', member: 'Do', destination: 'a.b' },
  { type: 'return', replySerial: 7, sender: ':1.2' },
  { type: 'error', error: 'a.b.Failed', replySerial: 0xffff_fffe, destination: ':1.9' },
  { type: 'signal', path: '/a/b', interface: 'a.b', member: 'Was', sender: ':1.44' },
]

testCodec<Message>('D-Bus message', {
  codec: messageCodec,
  arbitrary: fc
    .tuple(fc.constantFrom(...HEADERS), fc.integer({ min: 1 }), fc.nat(7), fc.array(typed, { maxLength: 3 }))
    .map(([header, serial, flags, values]) => ({
      ...header,
      flags,
      serial,
      signature: values.map(([signature]) => signature).join(''),
      body: values.map(([, value]) => value),
    })),
  goldens: [
    {
      name: 'Hello, as libdbus sends it',
      only: 'decode', // it orders header fields otherwise
      bytes: `
        6c 01 00 01                                     # little endian, call, no flags, version 1
        00 00 00 00  01 00 00 00  7d 00 00 00           # no body, serial 1, 125 bytes of fields
        01 01 6f 00  15 00 00 00                        # path
        2f 6f 72 67 2f 66 72 65 65 64 65 73 6b 74 6f 70 2f 44 42 75 73 00  00 00
        06 01 73 00  14 00 00 00                        # destination
        6f 72 67 2e 66 72 65 65 64 65 73 6b 74 6f 70 2e 44 42 75 73 00  00 00 00
        02 01 73 00  14 00 00 00                        # interface
        6f 72 67 2e 66 72 65 65 64 65 73 6b 74 6f 70 2e 44 42 75 73 00  00 00 00
        03 01 73 00  05 00 00 00  48 65 6c 6c 6f 00  00 00   # member
        07 01 73 00  04 00 00 00  3a 31 2e 31 00  00 00 00   # sender`,
      message: {
        type: 'call',
        flags: 0,
        serial: 1,
        path: '/org/freedesktop/DBus',
        destination: 'org.freedesktop.DBus',
        interface: 'org.freedesktop.DBus',
        member: 'Hello',
        sender: ':1.1',
        signature: '',
        body: [],
      },
    },
    {
      name: 'a signal with a body, as dbus-send sends it',
      only: 'decode',
      bytes: `
        6c 04 01 01                                     # little endian, signal, no reply expected, version 1
        4d 00 00 00  02 00 00 00  6d 00 00 00           # 77 bytes of body, serial 2, 109 bytes of fields
        01 01 6f 00  0c 00 00 00  2f 6f 72 67 2f 65 78 61 6d 70 6c 65 00  00 00 00
        02 01 73 00  13 00 00 00  6f 72 67 2e 65 78 61 6d 70 6c 65 2e 43 68 61 6e 67 65 64 00  00 00 00 00
        03 01 73 00  03 00 00 00  4e 6f 77 00  00 00 00 00
        08 01 67 00  0b 61 7b 73 69 7d 61 79 76 74 62 6f 00  00 00 00 00 00 00 00   # signature
        07 01 73 00  04 00 00 00  3a 31 2e 32 00  00 00 00
        1c 00 00 00  00 00 00 00                        # a{si}: 28 bytes, from the next multiple of 8
        03 00 00 00 6f 6e 65 00  01 00 00 00  00 00 00 00
        03 00 00 00 74 77 6f 00  fe ff ff ff
        02 00 00 00  01 02                              # ay
        01 64 00  00 00 00                              # v: signature d, up to a multiple of 8
        00 00 00 00 00 00 f8 3f
        09 00 00 00 00 00 00 00                         # t
        01 00 00 00                                     # b
        04 00 00 00 2f 61 2f 62 00                      # o`,
      message: {
        type: 'signal',
        flags: 1,
        serial: 2,
        path: '/org/example',
        interface: 'org.example.Changed',
        member: 'Now',
        sender: ':1.2',
        signature: 'a{si}ayvtbo',
        body: [
          new Map([
            ['one', 1],
            ['two', -2],
          ]),
          Uint8Array.of(1, 2),
          { signature: 'd', value: 1.5 },
          9n,
          true,
          '/a/b',
        ],
      },
    },
    {
      name: 'an answer in big endian',
      only: 'decode',
      bytes: `
        42 02 01 01                                     # big endian, return, no reply expected, version 1
        00 00 00 04  00 00 00 03  00 00 00 0f           # 4 bytes of body, serial 3, 15 bytes of fields
        05 01 75 00  00 00 00 02                        # reply serial 2
        08 01 67 00  01 75 00  00                       # signature "u", zero up to a multiple of 8
        00 00 01 02                                     # 258`,
      message: { type: 'return', flags: 1, serial: 3, replySerial: 2, signature: 'u', body: [258] },
    },
    {
      name: 'an answer, as it is written',
      bytes: `
        6c 02 01 01                                     # little endian, return, no reply expected, version 1
        06 00 00 00  05 00 00 00  0f 00 00 00           # 6 bytes of body, serial 5, 15 bytes of fields
        05 01 75 00  09 00 00 00                        # reply serial 9
        08 01 67 00  01 73 00  00                       # signature "s", zero up to a multiple of 8
        01 00 00 00  61 00                              # "a"`,
      message: { type: 'return', flags: 1, serial: 5, replySerial: 9, signature: 's', body: ['a'] },
    },
  ],
})

test('D-Bus: where a message ends is known from its first 16 bytes', () => {
  const bytes = encoded(messageCodec, { ...HEADERS[1]!, flags: 0, serial: 1, signature: 's', body: ['abc'] })
  assert.deepEqual(messageLength(bytes), { ok: true, value: bytes.length })
  const long = dump('6c 01 00 01 ff ff ff 0f 01 00 00 00 00 00 00 00')
  assert.equal(messageLength(long).ok, false)
})

test('D-Bus: signatures within the limits of the specification, and no others', () => {
  for (const good of ['', 'a{sa{sv}}ooa{sv}', '(i(ss))', `${'a'.repeat(32)}y`, 'a{oa{sa{sv}}}'])
    assert.ok(isSignature(good), good)
  for (const bad of [
    'a',
    '()',
    '(i',
    'i)',
    'a{vs}',
    'a{s}',
    'a{sss}',
    '{sv}',
    'z',
    `${'a'.repeat(33)}y`,
    'y'.repeat(256),
  ])
    assert.ok(!isSignature(bad), bad)
})

test('D-Bus: what nests without end is refused, however it does', () => {
  let value: Value = 5
  let signature = 'y'
  for (let i = 0; i < 100; i++) {
    value = { signature, value }
    signature = 'v'
  }
  const message = { ...HEADERS[2]!, flags: 0, serial: 1, signature, body: [value] }
  const result = messageCodec.decode(encoded(messageCodec, message))
  assert.deepEqual(result, { ok: false, reason: 'nested too deep' })
})

test('D-Bus: sockets of an address; what is not a Unix socket is left out', () => {
  assert.deepEqual(socketPaths('unix:path=/run/a%20b,guid=00;tcp:host=x,port=1;unix:abstract=/tmp/c'), [
    '/run/a b',
    '\0/tmp/c',
  ])
  assert.deepEqual(socketPaths('nonsense'), [])
})
