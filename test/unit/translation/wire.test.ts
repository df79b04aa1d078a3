/** The message format of IHMP (paper Fig. 4, DI-17, DI-20, DI-21; docs/wire/ihmp.md). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { encoded } from '../../../src/core/codec.ts'
import {
  Control,
  covered,
  encodeSigned,
  type IhmpMessage,
  ihmp,
  MAX_MESSAGE,
  MOST_FLOW_ENDS,
  MOST_FLOW_TAGS,
  Option,
} from '../../../src/translation/wire.ts'
import { dump, testCodec } from '../codec-suite.ts'

const ip = (text: string): Uint8Array => Uint8Array.from(text.split('.').map(Number))
const run = (length: number, first: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (first + i) & 0xff)

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
const address = fc.oneof(bytes(4), bytes(16))
const mapping = fc.constantFrom(4, 16).chain((width) =>
  fc.record({
    protocol: fc.constantFrom(6, 17),
    host: bytes(width),
    hostPort: fc.nat(65535),
    nat: bytes(width),
    natPort: fc.nat(65535),
    remotePort: fc.nat(65535),
  }),
)
const natPair = fc.constantFrom(4, 16).chain((width) => fc.record({ nat: bytes(width), host: bytes(width) }))
const flowPair = fc
  .constantFrom(4, 16)
  .chain((width) => fc.record({ own: bytes(width), other: bytes(width) }))

const arbitrary: fc.Arbitrary<IhmpMessage> = fc.record(
  {
    control: fc.constantFrom(...Object.values(Control)),
    options: fc.nat(0xffff),
    sequence: fc.nat(0xffff),
    counter: fc.maxSafeNat(),
    hostId: address,
    addresses: fc.array(address, { minLength: 1, maxLength: 12 }),
    newAddress: address,
    lostAddresses: fc.array(address, { minLength: 1, maxLength: 3 }),
    natPair,
    mapping,
    publicKey: bytes(32),
    newKey: bytes(32),
    keyProof: bytes(64),
    flowPair,
    flowTags: fc.array(fc.record({ ownPort: fc.nat(65535), otherPort: fc.nat(65535), tag: bytes(8) }), {
      maxLength: 5,
    }),
    flowEnds: fc.array(
      fc.record({
        protocol: fc.constantFrom(6, 17),
        ownPort: fc.nat(65535),
        otherPort: fc.nat(65535),
        wirePort: fc.nat(65535),
      }),
      { maxLength: 5 },
    ),
    challenge: bytes(16),
    response: bytes(16),
    receiver: address,
    cookie: bytes(16),
    signature: bytes(64),
  },
  { requiredKeys: ['control', 'options', 'sequence', 'counter', 'hostId'] },
)

testCodec<IhmpMessage>('IHMP (DI-17)', {
  codec: ihmp,
  arbitrary,
  goldens: [
    {
      name: 'HELLO with two addresses and a key',
      bytes: `
        49 48                                      # magic
        01                                         # version
        01                                         # control: HELLO
        00 00                                      # options: none
        be ef                                      # sequence number
        00 00 01 8b cf e5 68 00                    # counter
        04                                         # family of the Host ID
        00                                         # zero
        00 48                                      # length of the payload
        0a 01 00 02 00 00 00 00 00 00 00 00 00 00 00 00   # Host ID 10.1.0.2
        01 00 00 04  0a 01 00 02                   # ADDRESS 10.1.0.2
        01 00 00 04  c0 a8 01 07                   # ADDRESS 192.168.1.7
        06 00 00 20                                # PUBLIC_KEY
          00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f
          10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f
        07 00 00 10                                # CHALLENGE
          a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 aa ab ac ad ae af
      `,
      message: {
        control: Control.HELLO,
        options: 0,
        sequence: 0xbeef,
        counter: 0x18bcfe56800,
        hostId: ip('10.1.0.2'),
        addresses: [ip('10.1.0.2'), ip('192.168.1.7')],
        publicKey: run(32, 0),
        challenge: run(16, 0xa0),
      },
    },
    {
      name: 'HANDOFF, old address not usable by the receiver',
      bytes: `
        49 48 01
        08                                         # control: HANDOFF
        00 11                                      # options: PF, OU
        00 01                                      # sequence number
        00 00 00 00 00 00 00 2a                    # counter
        04 00
        00 18                                      # length of the payload
        0a 01 00 02 00 00 00 00 00 00 00 00 00 00 00 00   # Host ID: an address known to the receiver
        03 00 00 04  0a 01 00 02                   # LOST_ADDRESS
        02 00 00 04  0a 02 00 02                   # NEW_ADDRESS
        09 00 00 04  0a 03 00 02                   # RECEIVER
      `,
      message: {
        control: Control.HANDOFF,
        options: Option.OU | Option.PF,
        sequence: 1,
        counter: 42,
        hostId: ip('10.1.0.2'),
        newAddress: ip('10.2.0.2'),
        lostAddresses: [ip('10.1.0.2')],
        receiver: ip('10.3.0.2'),
      },
    },
    {
      name: 'NAT_ENTRY for one TCP connection',
      bytes: `
        49 48 01
        0a                                         # control: NAT_ENTRY
        00 02                                      # options: NS
        12 34
        00 00 00 00 00 00 00 07
        04 00 00 14
        cb 00 71 05 00 00 00 00 00 00 00 00 00 00 00 00   # Host ID: the NAT, 203.0.113.5
        05 00 00 10                                # PORT_MAPPING
          06 00                                    # TCP, zero
          9c 40                                    # port of the host: 40000
          ee 48                                    # port at the NAT: 61000
          00 50                                    # port of the remote: 80
          0a 02 00 02                              # the host
          cb 00 71 05                              # the NAT
      `,
      message: {
        control: Control.NAT_ENTRY,
        options: Option.NS,
        sequence: 0x1234,
        counter: 7,
        hostId: ip('203.0.113.5'),
        mapping: {
          protocol: 6,
          host: ip('10.2.0.2'),
          hostPort: 40000,
          nat: ip('203.0.113.5'),
          natPort: 61000,
          remotePort: 80,
        },
      },
    },
    {
      name: 'FLOWS for two TCP connections',
      bytes: `
        49 48 01
        0c                                         # control: FLOWS
        00 00                                      # options: none
        00 02
        00 00 00 00 00 00 00 08
        04 00 00 30
        0a 01 00 02 00 00 00 00 00 00 00 00 00 00 00 00   # Host ID 10.1.0.2
        0d 00 00 08  0a 01 00 02 0a 03 00 02       # FLOW_PAIR: the sender's address, the receiver's
        0e 00 00 18                                # FLOW_TAGS
          9c 40 00 50  01 02 03 04 05 06 07 08     # port 40000 of the sender, 80 of the receiver, tag
          9c 41 01 bb  11 12 13 14 15 16 17 18     # 40001, 443, tag
        09 00 00 04  0a 03 00 02                   # RECEIVER
      `,
      message: {
        control: Control.FLOWS,
        options: 0,
        sequence: 2,
        counter: 8,
        hostId: ip('10.1.0.2'),
        flowPair: { own: ip('10.1.0.2'), other: ip('10.3.0.2') },
        flowTags: [
          { ownPort: 40000, otherPort: 80, tag: run(8, 1) },
          { ownPort: 40001, otherPort: 443, tag: run(8, 0x11) },
        ],
        receiver: ip('10.3.0.2'),
      },
    },
    {
      name: 'MOVE_FLOWS: one goes where all others go',
      bytes: `
        49 48 01
        10                                         # control: MOVE_FLOWS
        00 40                                      # options: RF
        00 02
        00 00 00 00 00 00 00 08
        04 00 00 20
        0a 01 00 02 00 00 00 00 00 00 00 00 00 00 00 00   # Host ID 10.1.0.2
        0d 00 00 08  0a 01 00 02 0a 03 00 02       # FLOW_PAIR: the sender's address, the receiver's
        0f 00 00 08                                # FLOW_ENDS
          06 00  9c 40 00 50 9c 40                 # TCP, port 40000 of the sender, 80 of the receiver, 40000 on the wire
        09 00 00 04  0a 03 00 02                   # RECEIVER
      `,
      message: {
        control: Control.MOVE_FLOWS,
        options: Option.RF,
        sequence: 2,
        counter: 8,
        hostId: ip('10.1.0.2'),
        flowPair: { own: ip('10.1.0.2'), other: ip('10.3.0.2') },
        flowEnds: [{ protocol: 6, ownPort: 40000, otherPort: 80, wirePort: 40000 }],
        receiver: ip('10.3.0.2'),
      },
    },
    {
      name: 'KEY_CHANGE, the second',
      bytes: `
        49 48 01
        0b                                         # control: KEY_CHANGE
        00 00 00 03
        00 00 00 00 00 00 00 09
        04 00 00 84
        0a 01 00 02 00 00 00 00 00 00 00 00 00 00 00 00
        09 00 00 04  0a 03 00 02                   # RECEIVER
        0b 00 00 20                                # NEW_KEY
          00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f
          10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f
        0c 00 00 40                                # KEY_PROOF
          40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f
          50 51 52 53 54 55 56 57 58 59 5a 5b 5c 5d 5e 5f
          60 61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6e 6f
          70 71 72 73 74 75 76 77 78 79 7a 7b 7c 7d 7e 7f
        08 00 00 10                                # RESPONSE
          a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 aa ab ac ad ae af
      `,
      message: {
        control: Control.KEY_CHANGE,
        options: 0,
        sequence: 3,
        counter: 9,
        hostId: ip('10.1.0.2'),
        receiver: ip('10.3.0.2'),
        newKey: run(32, 0),
        keyProof: run(64, 0x40),
        response: run(16, 0xa0),
      },
    },
  ],
})

test('IHMP: what a signature covers leaves out NS, which NATs set on the way (DI-42)', () => {
  const message: IhmpMessage = {
    control: Control.ADDR_UP,
    options: Option.PF,
    sequence: 5,
    counter: 6,
    hostId: ip('10.1.0.2'),
    newAddress: ip('10.2.0.2'),
  }
  let signed: Uint8Array | undefined
  const bytes = encodeSigned(message, (covered) => {
    signed = covered
    return run(64, 1)
  })
  const passed = bytes.slice()
  passed[5] = passed[5]! | Option.NS
  assert.deepEqual(covered(passed, 64), signed)
  const altered = bytes.slice()
  altered[5] = altered[5]! | Option.ND
  assert.notDeepEqual(covered(altered, 64), signed)
})

test('IHMP: nothing may follow the authenticator, and nothing may come twice', () => {
  const base = encoded(ihmp, {
    control: Control.ACK,
    options: 0,
    sequence: 1,
    counter: 1,
    hostId: ip('10.1.0.2'),
    signature: run(64, 0),
  })
  const extended = new Uint8Array(base.length + 8)
  extended.set(base)
  extended.set(dump('02 00 00 04 0a 02 00 02'), base.length)
  extended[19] = extended.length - 36
  const result = ihmp.decode(extended)
  assert.equal(result.ok, false)
})

test('IHMP: the largest message that godwit sends fits every path', () => {
  const six = run(16, 0x20)
  const length = ihmp.byteLength({
    control: Control.HELLO_ACK,
    options: 0,
    sequence: 0,
    counter: 0,
    hostId: six,
    addresses: Array.from({ length: 12 }, () => six),
    publicKey: run(32, 0),
    challenge: run(16, 0),
    response: run(16, 0),
    receiver: six,
    cookie: run(16, 0),
    natPair: { nat: six, host: six },
    signature: run(64, 0),
  })
  assert.ok(length <= MAX_MESSAGE)
  const flows = ihmp.byteLength({
    control: Control.ACK,
    options: 0,
    sequence: 0,
    counter: 0,
    hostId: six,
    receiver: six,
    challenge: run(16, 0),
    flowPair: { own: six, other: six },
    flowTags: Array.from({ length: MOST_FLOW_TAGS }, () => ({ ownPort: 1, otherPort: 2, tag: run(8, 0) })),
    signature: run(64, 0),
  })
  assert.ok(flows <= MAX_MESSAGE)
  const moved = ihmp.byteLength({
    control: Control.MOVE_FLOWS,
    options: 0,
    sequence: 0,
    counter: 0,
    hostId: six,
    receiver: six,
    challenge: run(16, 0),
    flowPair: { own: six, other: six },
    flowEnds: Array.from({ length: MOST_FLOW_ENDS }, () => ({
      protocol: 6,
      ownPort: 1,
      otherPort: 2,
      wirePort: 1,
    })),
    signature: run(64, 0),
  })
  assert.ok(moved <= MAX_MESSAGE)
})
