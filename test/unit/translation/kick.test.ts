/** Segments that start TCP again (translation/kernel/kick.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { VNET_HEADER } from '../../../src/linux/tun.ts'
import { readdressed, restamped, type Segment, segmentFilter } from '../../../src/translation/kernel/kick.ts'
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
