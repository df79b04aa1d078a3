/** Segments that start TCP again (translation/kernel/kick.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { VNET_HEADER } from '../../../src/linux/tun.ts'
import { keepAlive } from '../../../src/translation/kernel/keep-alive.ts'
import {
  KeptSegments,
  readdressed,
  restamped,
  type Segment,
  segmentFilter,
} from '../../../src/translation/kernel/kick.ts'
import { flowId } from '../../../src/translation/tables.ts'
import { ipv4HeaderSum, tcp, transportSum } from '../../support/packets.ts'
import { dump } from '../codec-suite.ts'

function segment(version: 4 | 6, timestamps: boolean): Segment {
  const bytes = tcp({ version, payload: new Uint8Array(33).fill(7), seq: 5, timestamps }).slice(VNET_HEADER)
  const [source, destination] = version === 4 ? [12, 16] : [8, 24]
  const width = version === 4 ? 4 : 16
  return {
    bytes,
    source: bytes.slice(source, source + width),
    destination: bytes.slice(destination, destination + width),
    sourcePort: 40_000,
    destinationPort: 80,
    sequence: 5,
    empty: false,
    at: 1_000,
  }
}

test('RFC 7323: a segment brought up to date has the timestamp of now, less one, and a checksum that is right', () => {
  for (const version of [4, 6] as const) {
    const before = segment(version, true)
    const { bytes } = restamped(before, 6_000.9)
    const at = (version === 4 ? 20 : 40) + 24 // two paddings, kind, length
    const value = (b: Uint8Array): number => new DataView(b.buffer, b.byteOffset).getUint32(at)
    assert.equal(value(bytes) - value(before.bytes), 4_999)
    assert.equal(transportSum(bytes), 0xffff)
    assert.deepEqual(
      bytes.slice(at + 4),
      before.bytes.slice(at + 4),
      'the echo and the data are as they were',
    )
  }
})

test('a segment without timestamps stays what it is', () => {
  const before = segment(4, false)
  assert.deepEqual(restamped(before, 9_000).bytes, before.bytes)
})

test('a segment with other addresses has checksums for them', () => {
  const v4 = readdressed(segment(4, true), Uint8Array.of(192, 0, 2, 1), Uint8Array.of(198, 51, 100, 7))
  assert.equal(transportSum(v4.bytes), 0xffff)
  assert.equal(ipv4HeaderSum(v4.bytes), 0xffff)
  assert.deepEqual([...v4.bytes.slice(12, 20)], [192, 0, 2, 1, 198, 51, 100, 7])
  const v6 = readdressed(segment(6, true), new Uint8Array(16).fill(1), new Uint8Array(16).fill(2))
  assert.equal(transportSum(v6.bytes), 0xffff)
})

test('the filter of the watch, as classic BPF: outgoing, small, TCP, to one of the addresses', () => {
  const filter = segmentFilter([Uint8Array.of(192, 0, 2, 9), new Uint8Array(16).fill(0xab)])
  assert.deepEqual(
    filter,
    dump(`
      28 00 00 00 04 f0 ff ff    # ldh packet type
      15 00 00 0e 04 00 00 00    # outgoing, else drop
      80 00 00 00 00 00 00 00    # ld length
      25 00 0c 00 28 23 00 00    # more than 9,000: drop
      30 00 00 00 00 00 00 00    # ldb version
      54 00 00 00 f0 00 00 00
      15 00 04 00 60 00 00 00    # IPv6
      30 00 00 00 09 00 00 00    # ldb IPv4 protocol
      15 00 00 07 06 00 00 00    # TCP, else drop
      20 00 00 00 10 00 00 00    # ld IPv4 destination
      05 00 00 00 03 00 00 00
      30 00 00 00 06 00 00 00    # ldb IPv6 next header
      15 00 00 03 06 00 00 00    # TCP, else drop
      20 00 00 00 24 00 00 00    # ld end of the IPv6 destination
      15 00 02 00 09 02 00 c0    # 192.0.2.9: take
      15 00 01 00 ab ab ab ab    # the other: take
      06 00 00 00 00 00 00 00    # drop
      06 00 00 00 ff ff 00 00    # take
    `),
  )
  assert.deepEqual(segmentFilter([]), dump('06 00 00 00 00 00 00 00'))
  // As many as are watched at once: every jump reaches its place.
  const many = segmentFilter(Array.from({ length: 200 }, (_, i) => Uint8Array.of(10, 0, 0, i)))
  assert.equal(many.length / 8, 14 + 100 + 2)
})

/** The sequence numbers that are kept after these segments. */
function kept(most: number, ...segments: { seq: number; bytes?: number; flags?: number }[]): number[] {
  const all = new KeptSegments(most)
  for (const { seq, bytes = 0, flags = 0x10 } of segments) {
    const packet = tcp({ version: 4, payload: new Uint8Array(bytes), seq, flags }).slice(VNET_HEADER)
    all.keep(packet, 0, packet.length)
  }
  return all.take(() => true).flatMap((flow) => flow.map((s) => s.sequence))
}

test('issue 10, C 5: a segment without payload is no repetition: what is kept stays', () => {
  const data = [
    { seq: 100, bytes: 50 },
    { seq: 150, bytes: 50 },
  ]
  assert.deepEqual(kept(512, ...data, { seq: 200 }, { seq: 200 }), [100, 150])
  assert.deepEqual(kept(1, data[1]!, { seq: 200 }, { seq: 200 }), [150])
  assert.deepEqual(kept(512, { seq: 100 }, { seq: 100 }), [100], 'of acknowledgements alone the newest')
  assert.deepEqual(kept(512, { seq: 100 }, ...data), [100, 150])
  assert.deepEqual(kept(512, ...data, data[1]!), [150], 'what is repeated has all before it arrived')
  assert.deepEqual(
    kept(512, ...data, { seq: 200, flags: 0x11 }),
    [100, 150, 200],
    'a FIN is no mere acknowledgement',
  )
})

test('issue 10, C 5: a connection that was reset is not kept', () => {
  assert.deepEqual(kept(512, { seq: 100, bytes: 50 }, { seq: 150, flags: 0x14 }), [])
})

test('issue 10, C 3: a keep-alive (RFC 9293 §3.8.4) bears the numbers of its connection and lies outside the window', () => {
  const stream = { sent: 0, received: 0, unacknowledged: 0x1000, expected: 0xfffffff0 }
  const flow = (local: string, foreign: string) => ({
    id: flowId(6, local, 40_000, foreign, 80),
    protocol: 6 as const,
    local,
    localPort: 40_000,
    foreign,
    foreignPort: 80,
    hid: 1,
    inode: 1,
  })
  const v4 = keepAlive(flow('192.0.2.1', '198.51.100.7'), stream)
  assert.equal(ipv4HeaderSum(v4), 0xffff)
  assert.equal(transportSum(v4), 0xffff)
  assert.deepEqual(
    v4.slice(12, 36),
    dump(`
      c0 00 02 01                # 192.0.2.1
      c6 33 64 07                # 198.51.100.7
      9c 40 00 50                # ports
      00 00 0f ff                # one before what is not acknowledged
      ff ff ff f0                # what is expected
      50 10 02 00                # ACK alone
    `),
  )
  assert.equal(v4.length, 40)
  const v6 = keepAlive(flow('2001:db8::1', '2001:db8::2'), stream)
  assert.equal(transportSum(v6), 0xffff)
  assert.equal(v6.length, 60)
})
