/** Where the transport header of a packet is, past IPv4 options and IPv6 extension headers, whole or in fragments. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { FlowKey } from '../../../src/anchoring/tables/flow-key.ts'
import { concat, viewOf } from '../../../src/core/bytes.ts'
import { checksum } from '../../../src/core/checksum.ts'
import { FragmentPorts, NO_PORTS } from '../../../src/core/fragments.ts'
import { writeTooBig } from '../../../src/core/icmp.ts'
import {
  fragmentId,
  ipLength,
  isFragment,
  isLaterFragment,
  isSourceRouted,
  offsetIn,
  protocolIn,
  transportOf,
} from '../../../src/core/ip.ts'
import {
  clampMss,
  findOption,
  optionLength,
  seqAfter,
  setCovered16,
  TCP,
  TcpOption,
} from '../../../src/core/tcp.ts'
import { plainTransport, updateChecksum } from '../../../src/core/transport.ts'
import { udpLength } from '../../../src/core/udp.ts'
import { mssOption, NOP, tcpCodec } from '../../support/header-codecs.ts'
import { extension, fragment6, packet4, packet6 } from '../../support/ip-packets.ts'

const PAYLOAD = Uint8Array.from({ length: 24 }, (_, i) => i + 1)

/** Protocol, offset, fragment, later. */
function read(packet: Uint8Array): [number, number, boolean, boolean] | undefined {
  const found = transportOf(viewOf(packet), 0, packet.length)
  if (found < 0) return undefined
  return [protocolIn(found), offsetIn(found), isFragment(found), isLaterFragment(found)]
}

test('IPv4: options are stepped over; the first fragment has a transport header, later ones have none', () => {
  assert.deepEqual(read(packet4({ protocol: 17, payload: PAYLOAD })), [17, 20, false, false])
  assert.deepEqual(read(packet4({ protocol: 6, options: 8, payload: PAYLOAD })), [6, 28, false, false])
  assert.deepEqual(read(packet4({ protocol: 17, fragment: 0x4000, payload: PAYLOAD })), [
    17,
    20,
    false,
    false,
  ])
  assert.deepEqual(read(packet4({ protocol: 17, fragment: 0x2000, payload: PAYLOAD })), [17, 20, true, false])
  assert.deepEqual(read(packet4({ protocol: 17, fragment: 185, payload: PAYLOAD })), [17, 20, true, true])
  assert.deepEqual(read(packet4({ protocol: 17, fragment: 0x20b9, payload: PAYLOAD })), [17, 20, true, true])
})

test('RFC 8200 §4: any chain of extension headers leads to the transport header', () => {
  const kind = fc.constantFrom(0, 43, 60, 135, 139, 140, 51)
  fc.assert(
    fc.property(fc.array(fc.tuple(kind, fc.nat(3)), { maxLength: 12 }), (chain) => {
      const headers = chain.map(([type, words]) => extension(type, words))
      const packet = packet6({ headers, protocol: 17, payload: PAYLOAD })
      const offset = 40 + headers.reduce((sum, { bytes }) => sum + bytes.length, 0)
      assert.deepEqual(read(packet), [17, offset, false, false])
      // Cut anywhere inside the chain it is malformed.
      for (let length = 40; length < offset; length++)
        assert.equal(transportOf(viewOf(packet), 0, length) < 0, true, `${length} of ${offset}`)
    }),
  )
  const endless = Array.from({ length: 13 }, () => extension(60, 0))
  assert.equal(read(packet6({ headers: endless, protocol: 17, payload: PAYLOAD })), undefined)
})

test('IPv6 fragments: the first has a transport header, later ones do not, an atomic one is whole (RFC 6946)', () => {
  const of = (word: number, after: ReturnType<typeof extension>[] = []) =>
    packet6({ headers: [extension(0, 0), fragment6(word, 77), ...after], protocol: 17, payload: PAYLOAD })
  assert.deepEqual(read(of(1)), [17, 56, true, false])
  assert.deepEqual(read(of(1, [extension(60, 1)])), [17, 72, true, false])
  assert.deepEqual(read(of(185 << 3)), [17, 56, true, true])
  assert.deepEqual(read(of((185 << 3) | 1)), [17, 56, true, true])
  assert.deepEqual(read(of(0)), [17, 56, false, false])
  const later = of(185 << 3)
  assert.equal(fragmentId(viewOf(later), 0, later.length), 77)
})

test('later fragments have the ports of the first, not those that their payload looks like', () => {
  const table = new FragmentPorts()
  const ports = (packet: Uint8Array, now: number) => {
    const view = viewOf(packet)
    return table.portsOf(view, 0, packet.length, transportOf(view, 0, packet.length), true, now)
  }
  const first4 = (id: number, payload: Uint8Array) => packet4({ protocol: 17, fragment: 0x2000, id, payload })
  const later4 = (id: number) =>
    packet4({ protocol: 17, fragment: 185, id, payload: new Uint8Array(64).fill(9) })
  const udp = Uint8Array.of(0x12, 0x34, 0x56, 0x78, 0, 24, 0, 0)
  assert.equal(ports(later4(5), 0), NO_PORTS, 'before the first one')
  assert.equal(ports(first4(5, udp), 10), 0x12345678)
  assert.equal(ports(later4(5), 20), 0x12345678)
  assert.equal(ports(later4(6), 20), NO_PORTS, 'of another packet')
  assert.equal(ports(later4(5), 60_011), NO_PORTS, 'so late that it is another packet')
  const high = Uint8Array.of(0xff, 0xfe, 0xff, 0xfd, 0, 24, 0, 0)
  assert.equal(ports(first4(7, high), 30), 0xfffefffd)
  assert.equal(ports(later4(7), 31), 0xfffefffd)
  const six = (word: number, payload: Uint8Array) =>
    packet6({ headers: [extension(60, 0), fragment6(word, -3)], protocol: 17, payload })
  assert.equal(ports(six(1, udp), 40), 0x12345678)
  assert.equal(ports(six((8 << 3) | 1, PAYLOAD), 41), 0x12345678)
})

test('no bytes make a view throw or read past the end', () => {
  const out = new Uint8Array(2000)
  const key = new FlowKey(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8))
  const fragments = new FragmentPorts()
  const good = [
    packet4({ protocol: 6, options: 4, payload: PAYLOAD }),
    packet4({ protocol: 17, fragment: 0x2000, payload: PAYLOAD }),
    packet6({
      headers: [extension(0, 1), fragment6(9, 1), extension(60, 0)],
      protocol: 6,
      payload: PAYLOAD,
    }),
    packet6({ headers: [], protocol: 58, payload: PAYLOAD }),
  ]
  const damaged = fc
    .tuple(
      fc.constantFrom(...good),
      fc.array(fc.tuple(fc.nat(90), fc.nat(255)), { maxLength: 5 }),
      fc.nat(120),
    )
    .map(([packet, changes, length]) => {
      const bytes = packet.slice(0, length)
      for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
      return bytes
    })
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 120 }), damaged), (bytes) => {
      // Exactly these bytes: reading past them throws.
      const view = new DataView(bytes.slice().buffer)
      const length = bytes.length
      const whole = ipLength(view, 0, length)
      assert.ok(whole <= length)
      const found = transportOf(view, 0, length)
      if (found >= 0) {
        assert.ok(offsetIn(found) <= length)
        fragmentId(view, 0, length)
        isSourceRouted(view, 0, length)
        fragments.portsOf(view, 0, length, found, true, 0)
      }
      if (whole > 0) {
        plainTransport(view, 0, whole)
        const protocol = plainTransport(view, 0, whole)
        assert.ok(protocol === 0 || protocol === 6 || protocol === 17)
      }
      assert.equal(key.read(view, 0, length, true), found >= 0)
      assert.ok(udpLength(view, 0, length) <= length)
      clampMss(view, 0, length, 500, false)
      if (length >= 20) findOption(view, 0, Math.min(length, 60), TcpOption.TIMESTAMPS, 10)
      for (let at = TCP.OPTIONS, n = 1; n > 0; at += n) {
        n = optionLength(view, at, length)
        assert.ok(n === 0 || at + n <= length)
      }
      writeTooBig(bytes, 0, length, 1300, out, 0)
    }),
    { numRuns: 3000 },
  )
})

test('RFC 1624: a field at any place of a segment is rewritten with its checksum', () => {
  const options = [NOP, mssOption(1460), NOP, NOP, { kind: 30, data: new Uint8Array(10).fill(7) }]
  const header = {
    ...{ srcPort: 1, dstPort: 2, seq: 3, ack: 4, flags: 16, window: 5, checksum: 0, urgent: 0 },
    options,
  }
  const anyPlace = fc.nat(48).filter((place) => place < 15 || place > 17) // not the checksum itself
  fc.assert(
    fc.property(anyPlace, fc.nat(0xffff), (place, value) => {
      const bytes = concat(new Uint8Array(tcpCodec.byteLength(header)), PAYLOAD)
      tcpCodec.encode(header, bytes)
      const view = viewOf(bytes)
      view.setUint16(16, checksum(view, 0, bytes.length))
      setCovered16(view, 0, place, value)
      assert.equal(view.getUint16(place), value)
      assert.equal(checksum(view, 0, bytes.length) % 0xffff, 0)
    }),
  )
})

test('RFC 768, RFC 6935: a UDP checksum that was not computed stays so, and none becomes zero', () => {
  const view = new DataView(new ArrayBuffer(8))
  updateChecksum(view, 0, 8, 17, 0x1234, 0x4321)
  assert.equal(view.getUint16(6), 0)
  view.setUint16(6, 0x1111)
  updateChecksum(view, 0, 8, 17, 0, 0x1111)
  assert.equal(view.getUint16(6), 0xffff)
  updateChecksum(view, 0, 7, 17, 0, 0x2222)
  assert.equal(view.getUint16(6), 0xffff, 'cut short')
  updateChecksum(view, 0, 8, 132, 0, 0x2222)
  assert.equal(view.getUint16(6), 0xffff, 'SCTP does not cover addresses')
})

test('RFC 9293 §3.4: sequence numbers are compared around the wrap', () => {
  assert.ok(seqAfter(5, 0xfffffff0) && !seqAfter(0xfffffff0, 5) && !seqAfter(7, 7))
  assert.ok(seqAfter(0x80000000, 1) && !seqAfter(1, 0x80000000))
})
