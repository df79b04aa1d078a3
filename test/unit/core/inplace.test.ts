/** What is done to packets in place: the clamp of the MSS, and the answer to one that is too big. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseAddress } from '../../../src/core/address.ts'
import { concat, viewOf } from '../../../src/core/bytes.ts'
import { checksum } from '../../../src/core/checksum.ts'
import { encoded } from '../../../src/core/codec.ts'
import { writeTooBig } from '../../../src/core/icmp.ts'
import { clampMss } from '../../../src/core/tcp.ts'
import {
  icmpv4Codec,
  icmpv6Codec,
  ipv4Codec,
  ipv6Codec,
  mssOption,
  NOP,
  type Option,
  tcpCodec,
} from '../../support/header-codecs.ts'

const ip = (text: string) => {
  const parsed = parseAddress(text)
  assert.ok(parsed.ok)
  return parsed.value
}

function segment(flags: number, options: readonly Option[]): Uint8Array {
  const header = {
    srcPort: 1,
    dstPort: 2,
    seq: 3,
    ack: 0,
    flags,
    window: 9,
    checksum: 0,
    urgent: 0,
    options,
  }
  const bytes = concat(encoded(tcpCodec, header), Uint8Array.of(1, 2, 3))
  viewOf(bytes).setUint16(16, checksum(viewOf(bytes), 0, bytes.length))
  return bytes
}

test('the MSS of a SYN is lowered, never raised, and the checksum stays right at any alignment', () => {
  fc.assert(
    fc.property(fc.nat(3), fc.nat(65535), fc.nat(65535), fc.boolean(), (nops, mss, limit, partial) => {
      const before = segment(2, [
        ...Array<Option>(nops).fill(NOP),
        mssOption(mss),
        { kind: 4, data: new Uint8Array(0) },
      ])
      const after = before.slice()
      assert.equal(clampMss(viewOf(after), 0, after.length, limit, partial), mss > limit)
      const decoded = tcpCodec.decode(after)
      assert.ok(decoded.ok)
      assert.deepEqual(decoded.value.options[nops], mssOption(Math.min(mss, limit)))
      if (partial) assert.deepEqual(after.slice(16, 18), before.slice(16, 18))
      else assert.equal(checksum(viewOf(after), 0, after.length), 0)
    }),
  )
})

test('segments without SYN or MSS, and damaged options, are left alone', () => {
  for (const bytes of [segment(16, [mssOption(1460)]), segment(2, [NOP])]) {
    const copy = bytes.slice()
    assert.equal(clampMss(viewOf(copy), 0, copy.length, 500, false), false)
    assert.deepEqual(copy, bytes)
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      if (bytes.length > 13) bytes[13] = bytes[13]! | 2
      clampMss(viewOf(bytes), 0, bytes.length, 500, false)
    }),
    { numRuns: 500 },
  )
})

function packet4(fields: { src?: string; dst?: string; protocol?: number; fragmentOffset?: number }) {
  const payload = new Uint8Array(1400)
  payload[0] = 3 // as ICMP: destination unreachable
  const header = {
    trafficClass: 0,
    totalLength: 1420,
    identification: 1,
    fragment: 0x4000 | ((fields.fragmentOffset ?? 0) / 8),
    ttl: 64,
    protocol: fields.protocol ?? 17,
    src: ip(fields.src ?? '10.0.0.1'),
    dst: ip(fields.dst ?? '192.0.2.9'),
    options: new Uint8Array(0),
  }
  return concat(encoded(ipv4Codec, header), payload)
}

test('a packet that is too big is answered with the MTU and its beginning', () => {
  const out = new Uint8Array(2000)
  const big4 = packet4({})
  const length4 = writeTooBig(big4, 0, big4.length, 1300, out, 7)
  assert.equal(length4, 576)
  const header4 = ipv4Codec.decode(out, 7, 7 + length4)
  assert.ok(header4.ok)
  assert.deepEqual([header4.value.src, header4.value.dst], [ip('192.0.2.9'), ip('10.0.0.1')])
  assert.deepEqual(icmpv4Codec.decode(out, 27, 7 + length4), {
    ok: true,
    value: { type: 3, code: 4, rest: 1300, body: big4.slice(0, 548) },
  })

  const header = {
    first: 0x60000005,
    payloadLength: 1400,
    nextHeader: 17,
    hopLimit: 3,
    src: ip('fd00::1'),
    dst: ip('2001:db8::7'),
  }
  const big6 = concat(encoded(ipv6Codec, header), new Uint8Array(1400))
  const from = ip('fd00::99')
  const length6 = writeTooBig(big6, 0, big6.length, 1300, out, 0, from)
  assert.equal(length6, 1280)
  assert.deepEqual(icmpv6Codec(from, ip('fd00::1')).decode(out, 40, length6), {
    ok: true,
    value: { type: 2, code: 0, rest: 1300, body: big6.slice(0, 1232) },
  })
})

test('no answer where RFC 1122 §3.2.2 forbids one', () => {
  const out = new Uint8Array(2000)
  for (const forbidden of [
    packet4({ protocol: 1 }),
    packet4({ fragmentOffset: 800 }),
    packet4({ dst: '224.0.0.1' }),
    packet4({ dst: '255.255.255.255' }),
    packet4({ src: '0.0.0.0' }),
    packet4({}).slice(0, 1000),
  ])
    assert.equal(writeTooBig(forbidden, 0, forbidden.length, 1300, out, 0), 0)
})
