/** MP-14: every option of RFC 8684, its bytes as the kernel sends them or as the RFC draws them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type MptcpOption, mptcpOption } from '../../../src/mptcp/wire.ts'
import { dump, testCodec } from '../codec-suite.ts'

const key = (text: string) => dump(text)
const KERNEL_KEY = key('63eaf362cb3a38f5')
const OUR_KEY = key('835b1e6c6b9254f0')
const CAPABLE = {
  type: 'capable',
  version: 1,
  checksum: false,
  extension: false,
  noJoin: false,
  sha256: true,
} as const

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
const byte = fc.nat(255)
const word = fc.nat(0xffffffff)
const half = fc.nat(0xffff)
const dsn = fc.oneof(fc.record({ low: word }), fc.record({ high: word, low: word }))
const capable = fc.record({
  type: fc.constant('capable' as const),
  version: fc.nat(15),
  checksum: fc.boolean(),
  extension: fc.boolean(),
  noJoin: fc.boolean(),
  sha256: fc.boolean(),
})
const address = fc.oneof(bytes(4), bytes(16))

const arbitrary: fc.Arbitrary<MptcpOption> = fc.oneof(
  capable,
  fc.tuple(capable, bytes(8)).map(([option, own]) => ({ ...option, key: own })),
  fc
    .tuple(
      capable,
      bytes(8),
      bytes(8),
      fc.option(half, { nil: undefined }),
      fc.option(half, { nil: undefined }),
    )
    .map(([option, own, other, dataLength, dataChecksum]) => ({
      ...option,
      key: own,
      peerKey: other,
      ...(dataLength !== undefined && { dataLength, ...(dataChecksum !== undefined && { dataChecksum }) }),
    })),
  fc.record({ type: fc.constant('join' as const), backup: fc.boolean(), id: byte, token: word, nonce: word }),
  fc.record({
    type: fc.constant('join-reply' as const),
    backup: fc.boolean(),
    id: byte,
    hmac: bytes(8),
    nonce: word,
  }),
  fc.record({ type: fc.constant('join-ack' as const), hmac: bytes(20) }),
  fc
    .tuple(
      fc.boolean(),
      fc.option(dsn, { nil: undefined }),
      fc.option(fc.tuple(dsn, word, half, fc.option(half, { nil: undefined })), { nil: undefined }),
    )
    .map(([fin, ack, map]) => ({
      type: 'dss' as const,
      dataFin: fin && map !== undefined,
      ...(ack !== undefined && { ack }),
      ...(map !== undefined && {
        map: {
          dsn: map[0],
          ssn: map[1],
          length: map[2],
          ...(map[3] !== undefined && { checksum: map[3] }),
        },
      }),
    })),
  fc
    .tuple(fc.boolean(), byte, address, fc.option(half, { nil: undefined }), bytes(8))
    .map(([echo, id, where, port, hmac]) => ({
      type: 'add-addr' as const,
      echo,
      id,
      address: where,
      ...(port !== undefined && { port }),
      ...(!echo && { hmac }),
    })),
  fc.record({
    type: fc.constant('remove-addr' as const),
    ids: fc.array(byte, { minLength: 1, maxLength: 8 }),
  }),
  fc.record({ type: fc.constant('prio' as const), backup: fc.boolean() }),
  fc.record({ type: fc.constant('fail' as const), dsn: fc.record({ high: word, low: word }) }),
  fc.record({ type: fc.constant('fastclose' as const), key: bytes(8) }),
  fc.record({ type: fc.constant('reset' as const), transient: fc.boolean(), reason: byte }),
)

testCodec('MP-14 options of RFC 8684', {
  codec: mptcpOption,
  arbitrary,
  goldens: [
    {
      name: 'MP_CAPABLE of a SYN',
      bytes: `1e 04 # kind, length
        01    # subtype 0, version 1
        01    # H: HMAC-SHA256`,
      message: CAPABLE,
    },
    {
      name: "MP_CAPABLE of the kernel's SYN/ACK",
      bytes: `1e 0c 01 01
        63eaf362cb3a38f5 # its key`,
      message: { ...CAPABLE, key: KERNEL_KEY },
    },
    {
      name: 'MP_CAPABLE of a third ACK',
      bytes: `1e 14 01 01
        835b1e6c6b9254f0 # the sender's key
        63eaf362cb3a38f5 # the receiver's`,
      message: { ...CAPABLE, key: OUR_KEY, peerKey: KERNEL_KEY },
    },
    {
      name: 'MP_CAPABLE of the first data',
      bytes: `1e 16 01 01 835b1e6c6b9254f0 63eaf362cb3a38f5
        0050 # 80 bytes`,
      message: { ...CAPABLE, key: OUR_KEY, peerKey: KERNEL_KEY, dataLength: 80 },
    },
    {
      name: 'MP_CAPABLE of the first data with a checksum',
      bytes: `1e 18 01 81 835b1e6c6b9254f0 63eaf362cb3a38f5
        0050 beef # length, checksum`,
      message: {
        ...CAPABLE,
        checksum: true,
        key: OUR_KEY,
        peerKey: KERNEL_KEY,
        dataLength: 80,
        dataChecksum: 0xbeef,
      },
    },
    {
      name: 'MP_CAPABLE that forbids joins',
      bytes: '1e 04 01 21 # C and H',
      message: { ...CAPABLE, noJoin: true },
    },
    {
      name: 'MP_JOIN of a SYN',
      bytes: `1e 0c
        11       # subtype 1, B
        01       # address id
        05557205 # token
        9c466ebc # nonce`,
      message: { type: 'join', backup: true, id: 1, token: 0x05557205, nonce: 0x9c466ebc },
    },
    {
      name: "MP_JOIN of the kernel's SYN/ACK",
      bytes: `1e 10 10 00
        9ea276f764c504db # HMAC, its first 64 bits
        fc43caa1         # nonce`,
      message: { type: 'join-reply', backup: false, id: 0, hmac: key('9ea276f764c504db'), nonce: 0xfc43caa1 },
    },
    {
      name: 'MP_JOIN of a third ACK',
      bytes: `1e 18 10 00
        e8bfa80efaf5a003569a2ff3bfa20e96f02f5754 # HMAC, its first 160 bits`,
      message: { type: 'join-ack', hmac: key('e8bfa80efaf5a003569a2ff3bfa20e96f02f5754') },
    },
    {
      name: 'DSS with a 64-bit DATA_ACK, as the kernel sends it',
      bytes: `1e 0c 20
        03               # A and a
        0540c5b79da45702 # DATA_ACK`,
      message: { type: 'dss', dataFin: false, ack: { high: 0x0540c5b7, low: 0x9da45702 } },
    },
    {
      name: 'DSS with mapping, as the kernel sends it',
      bytes: `1e 1a 20
        0f               # m, M, a and A
        0540c5b79da45702 # DATA_ACK
        2aea3f98210093a8 # DSN
        00000001         # SSN, relative
        00ce             # length`,
      message: {
        type: 'dss',
        dataFin: false,
        ack: { high: 0x0540c5b7, low: 0x9da45702 },
        map: { dsn: { high: 0x2aea3f98, low: 0x210093a8 }, ssn: 1, length: 206 },
      },
    },
    {
      name: 'DSS of 32 bits with checksum and DATA_FIN',
      bytes: `1e 14 20
        15       # F, M and A
        00000009 # DATA_ACK
        0000000a # DSN
        00000000 # SSN: no data
        0001     # length
        1234     # checksum`,
      message: {
        type: 'dss',
        dataFin: true,
        ack: { low: 9 },
        map: { dsn: { low: 10 }, ssn: 0, length: 1, checksum: 0x1234 },
      },
    },
    {
      name: 'ADD_ADDR of IPv4',
      bytes: `1e 10 30 02
        0a020002         # 10.2.0.2
        0102030405060708 # HMAC, its last 64 bits`,
      message: {
        type: 'add-addr',
        echo: false,
        id: 2,
        address: dump('0a020002'),
        hmac: dump('0102030405060708'),
      },
    },
    {
      name: 'ADD_ADDR of IPv4 with a port, echoed',
      bytes: '1e 0a 31 02 0a020002 1f90 # E; 10.2.0.2, port 8080',
      message: { type: 'add-addr', echo: true, id: 2, address: dump('0a020002'), port: 8080 },
    },
    {
      name: 'ADD_ADDR of IPv6 with a port',
      bytes: '1e 1e 30 03 fd000000000000000000000000000002 0050 0102030405060708',
      message: {
        type: 'add-addr',
        echo: false,
        id: 3,
        address: dump('fd000000000000000000000000000002'),
        port: 80,
        hmac: dump('0102030405060708'),
      },
    },
    { name: 'REMOVE_ADDR', bytes: '1e 05 40 00 07 # ids', message: { type: 'remove-addr', ids: [0, 7] } },
    { name: 'MP_PRIO', bytes: '1e 03 51 # B', message: { type: 'prio', backup: true } },
    {
      name: 'MP_FAIL',
      bytes: '1e 0c 60 00 2aea3f98210093a8 # DSN',
      message: { type: 'fail', dsn: { high: 0x2aea3f98, low: 0x210093a8 } },
    },
    {
      name: 'MP_FASTCLOSE',
      bytes: "1e 0c 70 00 63eaf362cb3a38f5 # the receiver's key",
      message: { type: 'fastclose', key: KERNEL_KEY },
    },
    {
      name: 'MP_TCPRST',
      bytes: '1e 04 81 06 # T; a middlebox is in the way',
      message: { type: 'reset', transient: true, reason: 6 },
    },
  ],
})

test('MP-14: unknown subtypes and version 0 forms are no options', () => {
  for (const text of ['1e 04 f0 00', '1e 04 90 00', '1e 04 50 01', '1e 08 00 01 00000000', '1d 04 01 01']) {
    const result = mptcpOption.decode(dump(text))
    assert.equal(result.ok, false, text)
  }
})
