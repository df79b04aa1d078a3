/** Wire formats of the overlay (docs/wire/overlay.md): datagrams, sealed messages, leases. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { encoded } from '../../../src/core/codec.ts'
import { generatePrivateKey, signBytes, signingPublicKey, verifyBytes } from '../../../src/crypto/keys.ts'
import { type Datagram, datagramCodec, Kind } from '../../../src/overlay/wire/datagram.ts'
import { checkLease, type Lease, leaseCodec, leaseTranscript } from '../../../src/overlay/wire/lease.ts'
import {
  fitting,
  isFullName,
  MAX_MESSAGE,
  type Message,
  messageCodec,
  nameOfType,
  Type,
} from '../../../src/overlay/wire/message.ts'
import { testCodec } from '../codec-suite.ts'

const run = (length: number, first: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (first + i) & 0xff)
const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
const address = fc.oneof(bytes(4), bytes(16))
const endpoint = fc.record({ address, port: fc.nat(65535) })
const name = fc.constantFrom('a.example.org', 'phone.home.example', 'x', '_ntm._udp.a-b.example')
const counter = fc.maxSafeNat()
const u32 = fc.nat(0xffff_ffff)
const identity = fc.oneof(
  fc.record({ type: fc.constant('key' as const), id: bytes(16) }),
  fc.record({ type: fc.constant('zone' as const), name }),
  fc.record({ type: fc.constant('server' as const), name }),
)
const sealed = fc.uint8Array({ minLength: 16, maxLength: 200 })

testCodec<Datagram>('datagrams of the overlay', {
  codec: datagramCodec,
  openEnded: true,
  goldens: [
    {
      name: 'SESSION_REQUEST of a node, padded to 60 bytes',
      bytes: `
        4e 01 01 00                                      # N, version 1, SESSION_REQUEST
        00 00 00 07                                      # index
        00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f  # salt a
        01 10                                            # identity: key id, 16 bytes
        20 21 22 23 24 25 26 27 28 29 2a 2b 2c 2d 2e 2f
        00 00                                            # padding
        40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f  # mac`,
      message: {
        kind: Kind.SESSION_REQUEST,
        index: 7,
        salt: run(16, 0),
        identity: { type: 'key', id: run(16, 0x20) },
        mac: run(16, 0x40),
      },
    },
    {
      name: 'OPENED',
      bytes: `
        4e 01 04 00              # N, version 1, OPENED
        00 00 00 01              # index of the asker
        00 00 00 01 00 00 00 02  # counter
        00 00 00 09              # index of the answerer
        00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10`,
      message: { kind: Kind.OPENED, index: 1, counter: 0x1_0000_0002, answerer: 9, sealed: run(17, 0) },
    },
    {
      name: 'RELAY_BIND',
      bytes: `
        4e 01 08 00              # N, version 1, RELAY_BIND
        00 00 01 00              # channel
        01 00 00 00              # side
        00 00 00 00 00 00 00 05  # counter
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # token
        40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f  # mac`,
      message: {
        kind: Kind.RELAY_BIND,
        channel: 256,
        side: 1,
        counter: 5,
        token: new Uint8Array(16),
        mac: run(16, 0x40),
      },
    },
  ],
  arbitrary: fc.oneof(
    fc.record({
      kind: fc.constant(Kind.SESSION_REQUEST),
      index: u32,
      salt: bytes(16),
      identity,
      mac: bytes(16),
    }),
    fc.record({ kind: fc.constant(Kind.SESSION_RESPONSE), index: u32, salt: bytes(16), mac: bytes(16) }),
    fc.record({
      kind: fc.constant(Kind.OPEN),
      index: u32,
      counter,
      saltA: bytes(16),
      saltB: bytes(16),
      identity,
      sealed,
    }),
    fc.record({ kind: fc.constant(Kind.OPENED), index: u32, counter, answerer: u32, sealed }),
    fc.record({ kind: fc.constant(Kind.SEALED), index: u32, counter, sealed }),
    fc.record({ kind: fc.constant(Kind.SESSION_UNKNOWN), index: u32 }),
    fc.record({ kind: fc.constant(Kind.CHECK), tag: bytes(8), counter, sealed }),
    fc.record({
      kind: fc.constantFrom(Kind.RELAY_BIND, Kind.RELAY_BOUND),
      channel: u32,
      side: fc.nat(255),
      counter,
      token: bytes(16),
      mac: bytes(16),
    }),
  ) as fc.Arbitrary<Datagram>,
})

const candidate = fc.record({ kind: fc.constantFrom('host' as const, 'reflexive' as const), endpoint })
const message: fc.Arbitrary<Message> = fc.record(
  {
    type: fc.constantFrom(...Object.values(Type)),
    transaction: u32,
    name,
    nodeName: name,
    publicKey: bytes(32),
    keyId: bytes(16),
    key: bytes(32),
    candidates: fc.array(candidate, { minLength: 1, maxLength: 8 }),
    lease: fc.uint8Array({ minLength: 1, maxLength: 200 }),
    observed: endpoint,
    status: fc.nat(255),
    lifetime: u32,
    keepAlive: fc.nat(65535),
    challenge: bytes(8),
    echo: bytes(8),
    route: fc.nat(255),
    pairKey: bytes(32),
    relays: fc.array(
      fc.record({ channel: u32, side: fc.constantFrom(0 as const, 1 as const), endpoint, key: bytes(32) }),
      { minLength: 1, maxLength: 2 },
    ),
    want: fc.nat(255),
    pair: bytes(32),
    sides: fc.array(fc.record({ proven: endpoint, node: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) }), {
      minLength: 1,
      maxLength: 2,
    }),
    notificationServer: fc.record({ host: name, port: fc.nat(65535) }),
    token: bytes(32),
    zoneKey: bytes(32),
    push: fc.constant('https://push.example/1'),
    roles: fc.nat(255),
    load: fc.record({ channels: u32, maxChannels: u32, rate: u32, capacity: u32, rtt: u32 }),
    measured: fc.array(fc.record({ address, rtt: u32 }), { minLength: 1, maxLength: 4 }),
    boot: bytes(8),
    account: fc.constant('carol'),
    accountId: bytes(8),
    proof: bytes(16),
    expires: u32,
    prekeys: fc.array(fc.record({ index: u32, publicKey: bytes(32) }), { minLength: 1, maxLength: 4 }),
    prekeyIndex: u32,
    cacheServer: fc.record({ host: name, port: fc.nat(65535), certificate: bytes(32) }),
    coordinators: fc.array(
      fc.record({
        ...{ name: fc.constantFrom('a', 'paris-2'), port: fc.nat(65535) },
        addresses: fc.array(fc.oneof(bytes(4), bytes(16)), { maxLength: 4 }),
      }),
      { minLength: 1, maxLength: 8 },
    ),
    padding: fc.nat(40),
  },
  { requiredKeys: ['type', 'transaction'] },
)

testCodec<Message>('messages of the overlay', {
  codec: messageCodec,
  openEnded: true,
  goldens: [
    {
      name: 'NT-40: DIRECTION_REQUEST',
      bytes: `
        0b 00                                       # DIRECTION_REQUEST
        00 00 00 2a                                 # transaction
        01 00 0d 61 2e 65 78 61 6d 70 6c 65 2e 6f 72 67  # NAME a.example.org
        11 00 01 01                                 # WANT a relay
        ff 00 02 00 00                              # PADDING`,
      message: {
        type: Type.DIRECTION_REQUEST,
        transaction: 42,
        name: 'a.example.org',
        want: 1,
        padding: 2,
      },
    },
    {
      name: 'RELAY_ORDER with one proven side',
      bytes: `
        0f 00 00 00 00 01
        13 00 0e 00 00 00 00 00 00 00 07 12 34 c0 00 02 01  # SIDE: node 7, 192.0.2.1 port 0x1234
        13 00 08 00 00 00 00 00 00 00 08                    # SIDE: node 8, not proven`,
      message: {
        type: Type.RELAY_ORDER,
        transaction: 1,
        sides: [{ proven: { address: Uint8Array.of(192, 0, 2, 1), port: 0x1234 }, node: 7n }, { node: 8n }],
      },
    },
    {
      name: 'SERVER_REGISTRATION of a relay',
      bytes: `
        17 00 00 00 00 02
        1d 00 08 40 41 42 43 44 45 46 47                  # BOOT
        1a 00 01 04                                       # ROLES: rs
        1b 00 14 00 00 00 03 00 00 27 10                  # LOAD: 3 of 10,000 channels
                 00 00 00 09 00 00 00 00 00 00 4e 20      # 9 kbit/s, of unknown, 20,000 µs to the coordinator
        1c 00 08 00 00 10 00 c6 33 64 07                  # MEASURED: 4,096 µs to 198.51.100.7`,
      message: {
        ...{ type: Type.SERVER_REGISTRATION, transaction: 2, boot: run(8, 0x40), roles: 4 },
        load: { channels: 3, maxChannels: 10_000, rate: 9, capacity: 0, rtt: 20_000 },
        measured: [{ rtt: 4096, address: Uint8Array.of(198, 51, 100, 7) }],
      },
    },
  ],
  // All fields at once may be more than a message may have.
  arbitrary: message.filter((each) => messageCodec.byteLength(each) <= MAX_MESSAGE),
})

const lease: fc.Arbitrary<Lease> = fc.record(
  {
    serial: counter,
    notBefore: counter,
    notAfter: counter,
    publicKey: bytes(32),
    v6: bytes(16),
    v4: bytes(4),
    name,
    signature: bytes(64),
  },
  { requiredKeys: ['serial', 'notBefore', 'notAfter', 'publicKey', 'v6', 'name', 'signature'] },
)

testCodec<Lease>('leases', {
  codec: leaseCodec,
  goldens: [
    {
      name: 'a lease with both addresses',
      bytes: `
        01 01                    # version 1, has an IPv4 address
        00 00 00 00 00 00 00 05  # serial
        00 00 00 00 65 00 00 00  # not before
        00 00 00 00 66 00 00 00  # not after
        00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f
        fd 67 00 00 00 00 00 00 00 00 00 00 00 00 00 01
        64 60 00 01
        03 61 2e 62              # a.b
        ${'40'.repeat(64)}       # signature`,
      message: {
        serial: 5,
        notBefore: 0x65000000,
        notAfter: 0x66000000,
        publicKey: run(32, 0),
        v6: Uint8Array.of(0xfd, 0x67, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
        v4: Uint8Array.of(0x64, 0x60, 0, 1),
        name: 'a.b',
        signature: new Uint8Array(64).fill(0x40),
      },
    },
  ],
  arbitrary: lease,
})

test('a lease holds only with the signature of its zone, unchanged, in its time', () => {
  const seed = generatePrivateKey()
  const unsigned = encoded(leaseCodec, {
    serial: 1,
    notBefore: 0,
    notAfter: 2000,
    publicKey: run(32, 0),
    v6: run(16, 0),
    name: 'a.example',
    signature: new Uint8Array(64),
  })
  const signed = unsigned.slice()
  signed.set(signBytes(seed, leaseTranscript(unsigned)), signed.length - 64)
  const zone = signingPublicKey(seed)
  assert.equal(checkLease(signed, zone, 1000_000, verifyBytes).ok, true)
  assert.equal(checkLease(signed, zone, 3000_000, verifyBytes).ok, false)
  assert.equal(checkLease(signed, signingPublicKey(generatePrivateKey()), 0, verifyBytes).ok, false)
  for (const at of [10, 40, 60, 80]) {
    const forged = signed.slice()
    forged[at] = forged[at]! ^ 1
    assert.equal(checkLease(forged, zone, 1000_000, verifyBytes).ok, false, `byte ${at}`)
  }
})

test('a direction that has no room for two relays keeps the one that it is to keep', () => {
  const relay = (channel: number) => ({
    ...{ channel, side: 0 as const, key: run(32, 0) },
    endpoint: { address: run(16, 1), port: 1 },
  })
  const of = (lease: number): Message => ({
    ...{
      type: Type.ROUTE_DIRECTION,
      transaction: 1,
      lease: new Uint8Array(lease),
      relays: [relay(1), relay(2)],
    },
  })
  const kept = (message: Message) => message.relays?.map(({ channel }) => channel)
  assert.deepEqual(kept(fitting(of(400), 'last')), [1, 2])
  assert.deepEqual(kept(fitting(of(1060), 'last')), [2])
  assert.deepEqual(kept(fitting(of(1060), 'first')), [1])
})

test('names are lower case, of legal labels, without the last dot; a type has its name', () => {
  for (const good of ['a', 'a.b', 'phone-1.home.example', '_ntm._udp.zone']) assert.ok(isFullName(good), good)
  for (const bad of [
    '',
    '.',
    'a.',
    '.a',
    'A.b',
    'a..b',
    '-a',
    'a-',
    `${'a'.repeat(64)}.b`,
    'a b',
    'ä',
    'a\n',
  ])
    assert.equal(isFullName(bad), false, bad)
  assert.equal(nameOfType(Type.ROUTE_DIRECTION), 'ROUTE_DIRECTION')
})
