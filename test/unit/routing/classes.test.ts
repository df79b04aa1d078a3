/** Which class a packet is of: by the ports of its transport header, never by what its payload looks like. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parsePrefix } from '../../../src/core/address.ts'
import { viewOf } from '../../../src/core/bytes.ts'
import { RoutingForwarder } from '../../../src/routing/forwarder.ts'
import { Verdict } from '../../../src/tunnel/seam.ts'
import { extension, fragment6, packet4, packet6 } from '../../support/ip-packets.ts'

const CALLS = 0
const REST = 1
/** A UDP header to port 5060, and data that would read as ports 5060. */
const TO_CALLS = Uint8Array.of(0x30, 0x39, 0x13, 0xc4, 0, 64, 0, 0)
const TO_REST = Uint8Array.of(0x30, 0x39, 0, 53, 0, 64, 0, 0)
const LIKE_CALLS = new Uint8Array(32).map((_, i) => [0x13, 0xc4][i % 2]!)

/** Class `calls` (UDP port 5060) goes by slot 0, the rest by slot 1. */
function forwarder(): RoutingForwarder {
  const made = new RoutingForwarder()
  const class_ = { mode: 'failover', cap: 0, unordered: false } as const
  made.setClasses([
    { ...class_, name: 'calls', match: [{ kind: 'port', first: 5060, last: 5060 }] },
    { ...class_, name: 'rest', match: [] },
  ])
  const subnets = ['10.0.0.0/8', 'fd00::/8'].map((text) => {
    const parsed = parsePrefix(text)
    assert.ok(parsed.ok)
    return parsed.value
  })
  made.addPeer(0, subnets)
  for (const index of [CALLS, REST])
    made.scheduler(0, index)!.follow('failover', {
      carriers: [index],
      copies: [],
      probes: [],
      refuge: -1,
      atRisk: false,
      ordered: false,
      reason: '',
    })
  return made
}

function send(to: RoutingForwarder, packet: Uint8Array, now = 0): number {
  return to.outbound(packet, viewOf(packet), 0, packet.length, false, now)
}

test('issue 10, D 7: IPv4 fragments are of the class of their first one, whatever their data looks like', () => {
  const f = forwarder()
  const of = (id: number, fragment: number, payload: Uint8Array) =>
    packet4({ protocol: 17, id, fragment, payload })
  assert.equal(send(f, of(1, 0x2000, TO_CALLS)), CALLS)
  assert.equal(send(f, of(1, 0x2001, new Uint8Array(32))), CALLS)
  assert.equal(send(f, of(1, 9, new Uint8Array(32))), CALLS)
  assert.equal(send(f, of(2, 0x2000, TO_REST)), REST)
  assert.equal(send(f, of(2, 9, LIKE_CALLS)), REST)
  assert.equal(send(f, of(3, 9, LIKE_CALLS)), REST, 'a later fragment whose first was never seen')
})

test('issue 10, D 7: IPv6 extension headers are stepped over, and fragments are of the class of their first one', () => {
  const f = forwarder()
  const of = (headers: ReturnType<typeof extension>[], payload: Uint8Array) =>
    packet6({ headers, protocol: 17, payload })
  assert.equal(send(f, of([extension(60, 0)], TO_CALLS)), CALLS)
  assert.equal(send(f, of([extension(0, 2), extension(43, 1)], TO_CALLS)), CALLS)
  assert.equal(send(f, of([extension(60, 0)], TO_REST)), REST)
  assert.equal(send(f, of([fragment6(1, 7)], TO_CALLS)), CALLS)
  assert.equal(send(f, of([fragment6(8 << 3, 7)], new Uint8Array(32))), CALLS)
  assert.equal(send(f, of([fragment6(1, 8)], TO_REST)), REST)
  assert.equal(send(f, of([fragment6(8 << 3, 8)], LIKE_CALLS)), REST)
})

test('a packet whose headers are cut short goes nowhere and is counted', () => {
  const f = forwarder()
  const packet = packet6({ headers: [extension(60, 3)], protocol: 17, payload: TO_CALLS })
  assert.equal(send(f, packet.slice(0, 50)), Verdict.DROP)
  assert.equal(f.counts.unroutable, 1)
})
