/** What coordinators of one zone say over NATS (docs/wire/overlay.md), and the addresses of NATS in settings. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { GodwitError } from '../../../src/core/errors.ts'
import { checkSoftUrl, parseSoftUrl, softNames } from '../../../src/overlay/servers/soft/settings.ts'
import { type SoftWord, softCodec, Word, wordCodec } from '../../../src/overlay/wire/fellow.ts'
import { Status, Type } from '../../../src/overlay/wire/message.ts'
import { testCodec } from '../codec-suite.ts'

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
const number = fc.integer({ min: 0, max: 0xffff_ffff })
const time = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })
const name = fc.constantFrom('alice.test.example', 'b.example')

testCodec('NT-15: the outer form', {
  codec: softCodec,
  goldens: [
    {
      name: 'sealed bytes of one start',
      bytes: `01                       # version
        0102030405060708         # start of the sender
        0000000000000009         # counter
        ${'ee'.repeat(17)}       # sealed`,
      message: {
        sender: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
        counter: 9,
        sealed: new Uint8Array(17).fill(0xee),
      },
    },
  ],
  arbitrary: fc.record({ sender: bytes(8), counter: time, sealed: bytes(40) }),
  openEnded: true,
})

testCodec<SoftWord>('NT-15: what is sealed', {
  codec: wordCodec,
  goldens: [
    {
      name: 'ALIVE',
      bytes: `01                 # ALIVE
        0000019b76da2800   # wall clock, ms
        00000005           # nodes
        0000000000000007   # claims
        1a55               # port for servers apart
        04 c0000201        # length of an address, address
        00                 # no further one
        7061726973         # name of the coordinator`,
      message: {
        ...{ word: Word.ALIVE, wall: 0x19b76da2800, nodes: 5, claims: 7 },
        at: { name: 'paris', port: 6741, addresses: [Uint8Array.of(192, 0, 2, 1)] },
      },
    },
    {
      name: 'WHO',
      bytes: '02 61622e6578  # WHO, name',
      message: { word: Word.WHO, name: 'ab.ex' },
    },
    {
      name: 'CLAIM',
      bytes: `03               # CLAIM
        0000000000000010   # when the node registered
        0000000000000009   # number of the claim
        61622e6578         # name`,
      message: { word: Word.CLAIM, at: 16, number: 9, name: 'ab.ex' },
    },
    {
      name: 'ANSWER',
      bytes: `05               # ANSWER
        0e 00 00000003     # NTM_INFORMATION_RESPONSE, transaction
        09 0001 03         # STATUS: not registered`,
      message: {
        word: Word.ANSWER,
        message: { type: Type.NTM_INFORMATION_RESPONSE, transaction: 3, status: Status.NOT_REGISTERED },
      },
    },
    {
      name: 'CACHE',
      bytes: `06               # CACHE
        1a57             # port
        ${'cc'.repeat(32)}  # SHA-256 of its certificate
        622e6578         # host`,
      message: {
        word: Word.CACHE,
        at: { host: 'b.ex', port: 6743, certificate: new Uint8Array(32).fill(0xcc) },
      },
    },
  ],
  arbitrary: fc.oneof(
    fc.record({
      ...{ word: fc.constant(Word.ALIVE), wall: time, nodes: number, claims: time },
      at: fc.record({
        ...{ name: fc.constantFrom('a', 'paris-2'), port: fc.nat(65535) },
        addresses: fc.array(fc.oneof(bytes(4), bytes(16)), { maxLength: 4 }),
      }),
    }),
    fc.record({ word: fc.constant(Word.WHO), name }),
    fc.record({
      word: fc.constant(Word.CACHE),
      at: fc.record({ host: name, port: fc.nat(65535), certificate: bytes(32) }),
    }),
    fc.record({ word: fc.constant(Word.CLAIM), at: time, number: time, name }),
  ),
  openEnded: true,
})

test('NATS is named by a user and servers; a password in it is not repeated', () => {
  assert.deepEqual(parseSoftUrl('nats://god%20wit@n1.example.org,[2001:db8::1]:4333'), {
    user: 'god wit',
    servers: ['n1.example.org:4222', '[2001:db8::1]:4333'],
  })
  assert.deepEqual(parseSoftUrl('nats://127.0.0.1'), { servers: ['127.0.0.1:4222'] })
  for (const wrong of [
    '',
    'http://a',
    'nats://',
    'nats://a:b@c',
    'nats://a@',
    'nats://a:99999',
    'nats://%@a',
  ])
    assert.equal(parseSoftUrl(wrong), undefined, wrong)
  assert.throws(
    () => checkSoftUrl('nats://godwit:secret@n1'),
    (error: GodwitError) =>
      !`${error.message} ${error.hint}`.includes('secret') && /--password-file/.test(error.hint!),
  )
})

test('two zones never have one bucket or subject', () => {
  const [a, b] = [softNames('a.b.example'), softNames('a_b.example')]
  assert.notEqual(a.bucket, b.bucket)
  assert.notEqual(a.all, b.all)
  assert.equal(a.to('00'), 'godwit.a_b_example.to.00')
})
