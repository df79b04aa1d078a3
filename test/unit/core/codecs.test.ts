/** The views of core/ over the headers of IP packets: golden bytes, truncations, round trip, random bytes. */
import fc from 'fast-check'
import { parseAddress } from '../../../src/core/address.ts'
import {
  type IcmpMessage,
  icmpv4Codec,
  icmpv6Codec,
  ipv4Codec,
  ipv6Codec,
  mssOption,
  NOP,
  type Option,
  tcpCodec,
  udpCodec,
} from '../../support/header-codecs.ts'
import { dump, testCodec } from '../codec-suite.ts'

const u8 = fc.nat(0xff)
const u16 = fc.nat(0xffff)
const u32 = fc.nat(0xffffffff)
const bytesOf = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
const ip = (text: string) => {
  const parsed = parseAddress(text)
  if (!parsed.ok) throw new Error(parsed.reason)
  return parsed.value
}

testCodec('IPv4 header (RFC 791)', {
  codec: ipv4Codec,
  goldens: [
    {
      name: 'later fragment of a datagram, captured from Linux',
      bytes: `45          # version 4, header 5 words
              00          # traffic class
              00 24       # total length 36 (shortened with its checksum from 548)
              4d 09       # identification
              00 b9       # last fragment, offset 185 × 8
              40          # TTL 64
              11          # UDP
              eb fe       # header checksum
              c0 00 02 07 # source
              7f 00 00 01 # destination
              78 78 78 78 78 78 78 78 78 78 78 78 78 78 78 78 # payload`,
      message: {
        trafficClass: 0,
        totalLength: 36,
        identification: 0x4d09,
        fragment: 185,
        ttl: 64,
        protocol: 17,
        src: ip('192.0.2.7'),
        dst: ip('127.0.0.1'),
        options: new Uint8Array(0),
      },
    },
    {
      name: 'datagram, captured from Linux',
      bytes: `45          # version 4, header 5 words
              00          # traffic class
              00 21       # total length 33
              ef 6a       # identification
              40 00       # don't fragment
              40          # TTL 64
              01          # ICMP
              4d 6f       # header checksum
              7f 00 00 01 # source
              7f 00 00 01 # destination
              08 00 5b ea 96 10 00 01 00 01 02 03 04 # payload: echo request`,
      message: {
        trafficClass: 0,
        totalLength: 33,
        identification: 0xef6a,
        fragment: 0x4000,
        ttl: 64,
        protocol: 1,
        src: ip('127.0.0.1'),
        dst: ip('127.0.0.1'),
        options: new Uint8Array(0),
      },
    },
    {
      name: 'a middle fragment with a router alert, laid out after RFC 2113',
      bytes: `46          # version 4, header 6 words
              c0          # internetwork control
              00 20       # total length 32
              12 34       # identification
              20 b9       # more fragments, offset 185 × 8
              01          # TTL 1
              02          # IGMP
              07 14       # header checksum
              0a 00 00 01 # source
              e0 00 00 16 # destination
              94 04 00 00 # router alert
              00 01 02 03 04 05 06 07 # payload`,
      message: {
        trafficClass: 0xc0,
        totalLength: 32,
        identification: 0x1234,
        fragment: 0x2000 | 185,
        ttl: 1,
        protocol: 2,
        src: ip('10.0.0.1'),
        dst: ip('224.0.0.22'),
        options: Uint8Array.of(0x94, 4, 0, 0),
      },
    },
  ],
  payloadLength: (m) => m.totalLength - 20 - m.options.length,
  arbitrary: fc.record({
    trafficClass: u8,
    totalLength: fc.integer({ min: 60, max: 2000 }),
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    src: bytesOf(4),
    dst: bytesOf(4),
    options: fc.nat(10).chain((n) => bytesOf(4 * n)),
  }),
})

testCodec('IPv6 header (RFC 8200)', {
  codec: ipv6Codec,
  goldens: [
    {
      name: 'UDP datagram, captured from Linux',
      bytes: `60 0f cd 20 # version 6, traffic class 0, flow label fcd20
              00 0a       # payload length 10
              11          # next header UDP
              40          # hop limit 64
              20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 # source
              20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02 # destination
              14 e9 00 09 00 0a 5b 90 61 62 # payload: UDP`,
      message: {
        first: 0x600fcd20,
        payloadLength: 10,
        nextHeader: 17,
        hopLimit: 64,
        src: ip('2001:db8::1'),
        dst: ip('2001:db8::2'),
      },
    },
  ],
  payloadLength: (m) => m.payloadLength,
  arbitrary: fc.record({
    first: fc.nat(0xfffffff).map((n) => 0x60000000 + n),
    payloadLength: fc.nat(2000),
    nextHeader: u8,
    hopLimit: u8,
    src: bytesOf(16),
    dst: bytesOf(16),
  }),
})

testCodec('UDP header (RFC 768)', {
  codec: udpCodec,
  goldens: [
    {
      name: 'a datagram of four bytes, captured from Linux',
      bytes: `14 e9       # source port 5353
              00 35       # destination port 53
              00 0c       # length 12
              41 26       # checksum, partial
              61 62 63 64 # payload`,
      message: { srcPort: 5353, dstPort: 53, length: 12, checksum: 0x4126 },
    },
  ],
  payloadLength: (m) => m.length - 8,
  arbitrary: fc.record({
    srcPort: u16,
    dstPort: u16,
    length: fc.integer({ min: 8, max: 2000 }),
    checksum: u16,
  }),
})

const tcpOption: fc.Arbitrary<Option> = fc.oneof(
  fc.constant(NOP),
  fc.record({ kind: fc.integer({ min: 2, max: 255 }), data: fc.uint8Array({ maxLength: 18 }) }),
)

testCodec('TCP header (RFC 9293)', {
  codec: tcpCodec,
  goldens: [
    {
      name: 'SYN, captured from Linux',
      bytes: `c3 50       # source port 50000
              01 bb       # destination port 443
              c2 ee e0 4d # sequence number
              00 00 00 00 # acknowledgement number
              a0          # data offset 10 words
              02          # SYN
              fa f0       # window 64240
              41 37       # checksum, partial
              00 00       # urgent pointer
              02 04 05 b4 # MSS 1460
              04 02       # SACK permitted
              08 0a a4 04 73 a8 00 00 00 00 # timestamps
              01          # NOP
              03 03 0a    # window scale 10`,
      message: {
        srcPort: 50000,
        dstPort: 443,
        seq: 0xc2eee04d,
        ack: 0,
        flags: 2,
        window: 64240,
        checksum: 0x4137,
        urgent: 0,
        options: [
          mssOption(1460),
          { kind: 4, data: new Uint8Array(0) },
          { kind: 8, data: Uint8Array.of(0xa4, 0x04, 0x73, 0xa8, 0, 0, 0, 0) },
          NOP,
          { kind: 3, data: Uint8Array.of(10) },
        ],
      },
    },
    {
      name: 'a selective acknowledgement (RFC 2018), an unknown option and padding',
      bytes: `01 bb       # source port 443
              c3 50       # destination port 50000
              00 00 00 01 # sequence number
              ff ff ff ff # acknowledgement number
              90          # data offset 9 words
              10          # ACK
              00 ff       # window
              00 00       # checksum
              00 00       # urgent pointer
              05 0a ff ff ff ff 00 00 05 b3 # SACK: one block across the wrap
              fe 04 f9 89 # experimental option, RFC 6994
              00 00       # padding`,
      message: {
        srcPort: 443,
        dstPort: 50000,
        seq: 1,
        ack: 0xffffffff,
        flags: 16,
        window: 255,
        checksum: 0,
        urgent: 0,
        options: [
          { kind: 5, data: Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0, 0, 5, 0xb3) },
          { kind: 254, data: Uint8Array.of(0xf9, 0x89) },
        ],
      },
    },
    {
      name: 'an MSS option of a wrong length is kept as it is; bytes after the end of options are not read',
      bytes: `00 01 00 02 00 00 00 00 00 00 00 00
              70 02       # data offset 7 words, SYN
              00 00 00 00 00 00
              02 03 05    # MSS with one byte
              00          # end of options
              02 00 00 00 # would be malformed`,
      message: {
        srcPort: 1,
        dstPort: 2,
        seq: 0,
        ack: 0,
        flags: 2,
        window: 0,
        checksum: 0,
        urgent: 0,
        options: [{ kind: 2, data: Uint8Array.of(5) }],
      },
      only: 'decode',
    },
  ],
  arbitrary: fc.record({
    srcPort: u16,
    dstPort: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
    options: fc.array(tcpOption, { maxLength: 2 }),
  }),
})

const quoted = dump('45 00 05 dc 00 01 40 00 40 06 00 00 0a 00 00 01 c6 33 64 07 c3 50 01 bb 8f a1 00 01')
const anyIcmp: fc.Arbitrary<IcmpMessage> = fc.record({
  type: u8,
  code: u8,
  rest: u32,
  body: fc.uint8Array({ maxLength: 64 }),
})

testCodec('ICMP (RFC 792)', {
  codec: icmpv4Codec,
  openEnded: true,
  goldens: [
    {
      name: 'echo request of ping, captured from Linux',
      bytes: `08 00       # echo request
              5b ea       # checksum
              96 10       # identifier
              00 01       # sequence
              00 01 02 03 04 # payload, odd length`,
      message: {
        type: 8,
        code: 0,
        rest: 0x96100001,
        body: Uint8Array.of(0, 1, 2, 3, 4),
      },
    },
    {
      name: 'port unreachable, captured from Linux',
      bytes: `03 03       # destination unreachable, port
              45 7a       # checksum
              00 00 00 00 # unused
              45 00 00 1e 4d 45 00 00 40 11 ec 81 c0 00 02 07 7f 00 00 01 # quoted IPv4 header
              14 e9 00 09 00 0a 41 24 61 62 # quoted UDP datagram`,
      message: {
        type: 3,
        code: 3,
        rest: 0,
        body: dump(
          '45 00 00 1e 4d 45 00 00 40 11 ec 81 c0 00 02 07 7f 00 00 01 14 e9 00 09 00 0a 41 24 61 62',
        ),
      },
    },
    {
      name: 'fragmentation needed, laid out after RFC 1191 §4',
      bytes: `03 04       # destination unreachable, fragmentation needed
              a3 b5       # checksum
              00 00       # unused
              05 78       # next-hop MTU 1400
              45 00 05 dc 00 01 40 00 40 06 00 00 0a 00 00 01 c6 33 64 07 # quoted IPv4 header
              c3 50 01 bb 8f a1 00 01 # quoted ports and sequence number`,
      message: { type: 3, code: 4, rest: 1400, body: quoted },
    },
  ],
  arbitrary: anyIcmp,
})

testCodec('ICMPv6 (RFC 4443)', {
  codec: icmpv6Codec(ip('2001:db8::2'), ip('2001:db8::1')),
  openEnded: true,
  goldens: [
    {
      name: 'port unreachable, captured from Linux',
      bytes: `01 04       # destination unreachable, port
              37 34       # checksum over the pseudo-header 2001:db8::2 > 2001:db8::1
              00 00 00 00 # unused
              60 0f cd 20 00 0a 11 40 # quoted IPv6 header
              20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01
              20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02
              14 e9 00 09 00 0a 5b 90 61 62 # quoted UDP datagram`,
      message: {
        type: 1,
        code: 4,
        rest: 0,
        body: dump(`60 0f cd 20 00 0a 11 40 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01
          20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02 14 e9 00 09 00 0a 5b 90 61 62`),
      },
    },
    {
      name: 'packet too big, laid out after §3.2',
      bytes: `02 00       # packet too big
              3d 44       # checksum over the same pseudo-header
              00 00 05 00 # MTU 1280
              60 00 00 00 # quoted bytes`,
      message: { type: 2, code: 0, rest: 1280, body: Uint8Array.of(0x60, 0, 0, 0) },
    },
  ],
  arbitrary: anyIcmp,
})
