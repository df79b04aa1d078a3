/** Segments that start TCP again (access/kick.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readdressed, restamped, type Segment } from '../../../src/access/kick.ts'
import { VNET_HEADER } from '../../../src/linux/tun.ts'
import { ipv4HeaderSum, tcp, transportSum } from '../../support/packets.ts'

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
