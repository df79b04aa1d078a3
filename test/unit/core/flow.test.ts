import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseAddress } from '../../../src/core/address.ts'
import { concat, viewOf } from '../../../src/core/bytes.ts'
import { encoded } from '../../../src/core/codec.ts'
import {
  type FlowKey,
  FlowReader,
  flowId,
  formatFlow,
  protocolName,
  protocolNumber,
  reverseFlow,
} from '../../../src/core/flow.ts'
import { KeyedHash } from '../../../src/core/hash.ts'
import { type IcmpMessage, icmpv4Codec, icmpv6Codec, writeTooBig } from '../../../src/core/icmp.ts'
import { IpPacket } from '../../../src/core/ip.ts'
import { ipv4Codec } from '../../../src/core/ipv4.ts'
import { ipv6Codec } from '../../../src/core/ipv6.ts'
import { dump } from '../codec-suite.ts'

/** HalfSipHash as its authors' reference has it, with any number of rounds and 32 or 64 bits of output. */
function halfSipHash(message: Uint8Array, key: Uint8Array, c: number, d: number, wide: boolean): number[] {
  const rotate = (x: number, by: number) => (x << by) | (x >>> (32 - by))
  const k0 = viewOf(key).getUint32(0, true)
  const k1 = viewOf(key).getUint32(4, true)
  const v = [k0, k1 ^ (wide ? 0xee : 0), 0x6c796765 ^ k0, 0x74656462 ^ k1] as [number, number, number, number]
  const rounds = (n: number) => {
    for (; n > 0; n--) {
      v[0] = (v[0] + v[1]) | 0
      v[1] = rotate(v[1], 5) ^ v[0]
      v[0] = rotate(v[0], 16)
      v[2] = (v[2] + v[3]) | 0
      v[3] = rotate(v[3], 8) ^ v[2]
      v[0] = (v[0] + v[3]) | 0
      v[3] = rotate(v[3], 7) ^ v[0]
      v[2] = (v[2] + v[1]) | 0
      v[1] = rotate(v[1], 13) ^ v[2]
      v[2] = rotate(v[2], 16)
    }
  }
  const padded = new Uint8Array((message.length & ~3) + 4)
  padded.set(message)
  padded[padded.length - 1] = message.length
  for (let i = 0; i < padded.length; i += 4) {
    const word = viewOf(padded).getInt32(i, true)
    v[3] ^= word
    rounds(c)
    v[0] ^= word
  }
  v[2] ^= wide ? 0xee : 0xff
  rounds(d)
  const low = v[1] ^ v[3]
  if (!wide) return [low]
  v[1] ^= 0xdd
  rounds(d)
  return [low, v[1] ^ v[3]]
}

test('KeyedHash is HalfSipHash-1-3 with 64 bits', () => {
  const key = Uint8Array.from({ length: 8 }, (_, i) => i)
  const input = (length: number) => Uint8Array.from({ length }, (_, i) => i)
  // The reference first: HalfSipHash-2-4-64 from the authors' vectors.h, HalfSipHash-1-3-32 from Linux' siphash_kunit.c.
  for (const [length, expected] of [
    [0, '218d1f59b9b83cc8'],
    [4, 'd5e78a175be52ea1'],
    [16, '7336aad25f7bf3b5'],
    [40, '5b38c81c67c8ae4c'],
    [63, '2ea63c71bf326087'],
  ] as const) {
    const view = viewOf(dump(expected))
    assert.deepEqual(halfSipHash(input(length), key, 2, 4, true), [
      view.getInt32(0, true),
      view.getInt32(4, true),
    ])
  }
  for (const [length, expected] of [
    [0, 0x5814c896],
    [4, 0x7e059ea6],
    [7, 0x9d38d9d6],
    [16, 0x8b31d501],
  ] as const)
    assert.equal(halfSipHash(input(length), key, 1, 3, false)[0]! >>> 0, expected)

  fc.assert(
    fc.property(
      fc.array(fc.integer(), { maxLength: 10 }),
      fc.integer(),
      fc.integer(),
      (words, seed0, seed1) => {
        const hash = new KeyedHash(seed0, seed1, 10)
        hash.words.set(words)
        hash.hash(words.length)
        const bytes = (values: number[]) => new Uint8Array(Int32Array.from(values).buffer)
        assert.deepEqual([hash.low, hash.high], halfSipHash(bytes(words), bytes([seed0, seed1]), 1, 3, true))
      },
    ),
  )
})

function ip(text: string): Uint8Array {
  const parsed = parseAddress(text)
  assert.ok(parsed.ok, text)
  return parsed.value
}

function flow(proto: number, src: string, srcPort: number, dst: string, dstPort: number): FlowKey {
  return { proto, src: ip(src), dst: ip(dst), srcPort, dstPort }
}

function v4(
  proto: number,
  src: string,
  dst: string,
  transport: Uint8Array,
  fragment = { id: 0, offset: 0, more: false },
): Uint8Array {
  const header = {
    trafficClass: 0,
    totalLength: 20 + transport.length,
    identification: fragment.id,
    dontFragment: false,
    moreFragments: fragment.more,
    fragmentOffset: fragment.offset,
    ttl: 64,
    protocol: proto,
    src: ip(src),
    dst: ip(dst),
    options: new Uint8Array(0),
  }
  return concat(encoded(ipv4Codec, header), transport)
}

function v6(nextHeader: number, src: string, dst: string, payload: Uint8Array): Uint8Array {
  const header = {
    trafficClass: 0,
    flowLabel: 0,
    payloadLength: payload.length,
    nextHeader,
    hopLimit: 64,
    src: ip(src),
    dst: ip(dst),
  }
  return concat(encoded(ipv6Codec, header), payload)
}

const ports = (src: number, dst: number, length = 20) => {
  const out = new Uint8Array(length)
  viewOf(out).setUint16(0, src)
  viewOf(out).setUint16(2, dst)
  return out
}

const reader = new FlowReader(0x12345678, 0x9abcdef0)

/** Reads at an odd offset, checks that the hash is the key's, and gives the key. */
function read(packet: Uint8Array, reversed = false): FlowKey {
  const padded = concat(Uint8Array.of(0xee), packet, Uint8Array.of(0xee, 0xee))
  const view = viewOf(padded)
  assert.ok(reader.read(view, 1, packet.length, reversed))
  const { hashLow, hashHigh } = reader
  const key = reader.key(view)
  reader.hashKey(key)
  assert.deepEqual([hashLow, hashHigh], [reader.hashLow, reader.hashHigh])
  assert.equal(hashLow | 0, hashLow)
  return key
}

test('UP-23: the five-tuple of TCP, UDP and portless protocols, IPv4 and IPv6, both directions', () => {
  const tcp = flow(6, '10.0.0.1', 4876, '93.184.216.34', 80)
  assert.deepEqual(read(v4(6, '10.0.0.1', '93.184.216.34', ports(4876, 80))), tcp)
  assert.deepEqual(read(v4(6, '93.184.216.34', '10.0.0.1', ports(80, 4876)), true), tcp)
  assert.deepEqual(reverseFlow(reverseFlow(tcp)), tcp)
  assert.deepEqual(
    read(v6(17, '2001:db8::1', '2001:db8::2', ports(65535, 53, 8))),
    flow(17, '2001:db8::1', 65535, '2001:db8::2', 53),
  )
  assert.deepEqual(
    read(v4(50, '10.0.0.1', '10.0.0.2', new Uint8Array(0))),
    flow(50, '10.0.0.1', 0, '10.0.0.2', 0),
  )
})

test('extension headers are stepped over, an endless chain is not', () => {
  const options = dump('06 00 01 04 00 00 00 00') // next TCP, 8 bytes
  assert.deepEqual(
    read(v6(60, 'fd00::1', 'fd00::2', concat(options, ports(1, 2)))),
    flow(6, 'fd00::1', 1, 'fd00::2', 2),
  )
  const routing = dump('3c 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00')
  assert.deepEqual(
    read(v6(43, 'fd00::1', 'fd00::2', concat(routing, options, ports(1, 2)))),
    flow(6, 'fd00::1', 1, 'fd00::2', 2),
  )
  const chain = v6(60, 'fd00::1', 'fd00::2', concat(...Array(100).fill(dump('3c 00 01 04 00 00 00 00'))))
  assert.equal(reader.read(viewOf(chain), 0, chain.length), false)
  const cut = v6(60, 'fd00::1', 'fd00::2', dump('06 09 01 04 00 00 00 00'))
  assert.equal(reader.read(viewOf(cut), 0, cut.length), false)
})

test('echo requests and replies are one flow', () => {
  const echo = (kind: 'echo-request' | 'echo-reply') =>
    ({ kind, identifier: 77, sequence: 1, payload: new Uint8Array(4) }) satisfies IcmpMessage
  const request = v4(1, '10.0.0.1', '1.1.1.1', encoded(icmpv4Codec, echo('echo-request')))
  const reply = v4(1, '1.1.1.1', '10.0.0.1', encoded(icmpv4Codec, echo('echo-reply')))
  assert.deepEqual(read(request), flow(1, '10.0.0.1', 77, '1.1.1.1', 0))
  assert.deepEqual(read(reply, true), read(request))
  const codec = icmpv6Codec(ip('fd00::1'), ip('fd00::2'))
  assert.deepEqual(
    read(v6(58, 'fd00::1', 'fd00::2', encoded(codec, echo('echo-request')))),
    flow(58, 'fd00::1', 77, 'fd00::2', 0),
  )
})

test('an ICMP error belongs to the flow it quotes, in the direction it travels', () => {
  const sent = v4(6, '10.0.0.1', '1.2.3.4', ports(1234, 80, 1400))
  const error = encoded(icmpv4Codec, { kind: 'too-big', mtu: 1400, quoted: sent.slice(0, 28) })
  const key = read(v4(1, '192.0.2.1', '10.0.0.1', error))
  assert.deepEqual(key, flow(6, '1.2.3.4', 80, '10.0.0.1', 1234))
  assert.ok(reader.isError)
  assert.deepEqual(read(v4(1, '192.0.2.1', '10.0.0.1', error), true), read(sent))
  assert.equal(reader.isError, false)

  const sent6 = v6(17, 'fd00::1', '2001:db8::1', ports(5000, 53, 1300))
  const answer = new Uint8Array(2000)
  const length = writeTooBig(sent6, 0, sent6.length, 1280, answer, 0)
  assert.equal(length, 1280)
  assert.deepEqual(read(answer.slice(0, length), true), read(sent6))
})

test('later fragments follow their first one, and only theirs', () => {
  const first = v4(17, '10.0.0.1', '10.0.0.2', ports(1000, 2000, 1480), { id: 7, offset: 0, more: true })
  const later = (id: number) =>
    v4(17, '10.0.0.1', '10.0.0.2', new Uint8Array(64), { id, offset: 1480, more: false })
  assert.deepEqual(read(later(7)), flow(17, '10.0.0.1', 0, '10.0.0.2', 0))
  assert.ok(reader.portsUnknown)
  const expected = flow(17, '10.0.0.1', 1000, '10.0.0.2', 2000)
  assert.deepEqual(read(first), expected)
  assert.deepEqual(read(later(7)), expected)
  assert.equal(reader.portsUnknown, false)
  assert.deepEqual(read(later(7), true), reverseFlow(expected))
  assert.deepEqual(read(later(8)), flow(17, '10.0.0.1', 0, '10.0.0.2', 0))

  const fragment6 = (offset: number, more: number) =>
    concat(Uint8Array.of(17, 0, offset >> 8, (offset & 0xf8) | more, 0xca, 0xfe, 0xba, 0xbe))
  read(v6(44, 'fd00::1', 'fd00::2', concat(fragment6(0, 1), ports(1, 2, 1232))))
  assert.deepEqual(
    read(v6(44, 'fd00::1', 'fd00::2', concat(fragment6(1232, 0), new Uint8Array(9)))),
    flow(17, 'fd00::1', 1, 'fd00::2', 2),
  )
})

test('any bytes are read without a throw and inside their bounds', () => {
  const damaged = fc
    .tuple(
      fc.constantFrom(
        v4(6, '10.0.0.1', '10.0.0.2', ports(1, 2)),
        v6(60, 'fd00::1', 'fd00::2', concat(dump('2c 00 01 04 00 00 00 00'), new Uint8Array(40))),
        v4(
          1,
          '10.0.0.9',
          '10.0.0.1',
          encoded(icmpv4Codec, {
            kind: 'unreachable',
            code: 1,
            quoted: v4(17, '10.0.0.1', '1.1.1.1', ports(1, 2)),
          }),
        ),
      ),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }),
      fc.nat(),
    )
    .map(([packet, changes, cut]) => {
      const bytes = packet.slice(0, packet.length - (cut % packet.length))
      for (const [at, value] of changes) bytes[at % bytes.length] = value
      return bytes
    })
  fc.assert(
    fc.property(fc.oneof(damaged, fc.uint8Array({ maxLength: 100 })), fc.boolean(), (bytes, reversed) => {
      // A view of exactly these bytes: reading past the end throws.
      const view = viewOf(bytes.slice())
      if (reader.read(view, 0, bytes.length, reversed)) reader.key(view)
      new IpPacket().parse(view, 0, bytes.length, true)
    }),
    { numRuns: 2000 },
  )
})

test('names and ids of flows', () => {
  const key = flow(6, '10.0.0.1', 1234, '1.2.3.4', 80)
  assert.equal(formatFlow(key), 'tcp 10.0.0.1:1234 > 1.2.3.4:80')
  assert.equal(formatFlow(flow(17, 'fd00::1', 1, '::1', 2)), 'udp [fd00::1]:1 > [::1]:2')
  assert.match(flowId(key), /^[0-9a-f]{10}$/)
  assert.equal(flowId(key), flowId(flow(6, '10.0.0.1', 1234, '1.2.3.4', 80)))
  assert.notEqual(flowId(key), flowId(reverseFlow(key)))
  for (let number = 0; number < 256; number++) assert.equal(protocolNumber(protocolName(number)), number)
  assert.equal(protocolNumber('256'), undefined)
  assert.equal(protocolNumber('nonsense'), undefined)
})
