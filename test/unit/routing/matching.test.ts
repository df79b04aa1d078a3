/** Which class a packet is of, who may send it, and what kind it is: tables of packets. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseAddress, parsePrefix } from '../../../src/core/address.ts'
import { parseSelector } from '../../../src/core/selector.ts'
import { RoutingForwarder } from '../../../src/routing/forwarder.ts'
import type { ClassSetup } from '../../../src/routing/protocol.ts'
import { Verdict } from '../../../src/tunnel/seam.ts'
import { errorAbout } from '../../support/icmp-errors.ts'

const [TCP, UDP, ICMP, ICMPV6] = [6, 17, 1, 58]
const [FIN, RST, PSH, ACK] = [1, 4, 8, 16]

interface Spec {
  readonly from?: string
  readonly to?: string
  readonly protocol?: number
  readonly ports?: readonly [number, number]
  /** Of TCP. */
  readonly flags?: number
  readonly payload?: number
  readonly dscp?: number
  /** Flags and offset of IPv4, as they lie there. */
  readonly fragment?: number
  /** Bytes of the packet, less than it says. */
  readonly cut?: number
}

function bytesOf(text: string): Uint8Array {
  const address = parseAddress(text)
  assert.ok(address.ok)
  return address.value
}

function prefixOf(text: string) {
  const prefix = parsePrefix(text)
  assert.ok(prefix.ok)
  return prefix.value
}

/** At an offset, as packets lie in the arena. */
const AT = 4

function packetOf(spec: Spec): { bytes: Uint8Array; length: number } {
  const { from = '10.1.0.2', to = '10.2.0.2', protocol = UDP, ports = [40_000, 53], dscp = 0 } = spec
  const [source, target] = [bytesOf(from), bytesOf(to)]
  const six = source.length === 16
  const header = six ? 40 : 20
  const transport = protocol === TCP ? 20 : 8
  const length = header + transport + (spec.payload ?? 0)
  const bytes = new Uint8Array(AT + length)
  const view = new DataView(bytes.buffer, AT)
  if (six) {
    view.setUint16(0, 0x6000 | (dscp << 6))
    view.setUint16(4, length - header)
    bytes.set([protocol, 64], AT + 6)
  } else {
    bytes.set([0x45, dscp << 2], AT)
    view.setUint16(2, length)
    view.setUint16(4, 77)
    view.setUint16(6, spec.fragment ?? 0)
    bytes.set([64, protocol], AT + 8)
  }
  bytes.set(source, AT + (six ? 8 : 12))
  bytes.set(target, AT + (six ? 24 : 16))
  view.setUint16(header, ports[0])
  view.setUint16(header + 2, ports[1])
  if (protocol === TCP) bytes.set([0x50, spec.flags ?? ACK], AT + header + 12)
  return { bytes, length: spec.cut ?? length }
}

const PLAN = { copies: [], probes: [], refuge: -1, atRisk: false, ordered: false, reason: '' }

/** Classes by selectors (joined by blanks; none: everything); a packet of each leaves by the slot of its number. */
function router(classes: readonly string[], own: readonly string[] = []) {
  const forwarder = new RoutingForwarder(own.map(prefixOf))
  const setups = classes.map((text, index): ClassSetup => {
    const match = text.split(' ').filter((each) => each !== '')
    const selectors = match.map((each) => {
      const selector = parseSelector(each)
      assert.ok(selector.ok, each)
      return selector.value
    })
    return { name: `class${index}`, match: selectors, mode: 'failover', cap: 0.5, unordered: false }
  })
  forwarder.addPeer(0, [prefixOf('10.2.0.0/16'), prefixOf('fd00:2::/32')])
  forwarder.addPeer(1, [prefixOf('10.3.0.0/16')])
  forwarder.setClasses(setups)
  for (const peer of [0, 1])
    for (const index of classes.keys())
      forwarder.scheduler(peer, index)!.follow('failover', { ...PLAN, carriers: [10 * peer + index] })
  const send = (spec: Spec, now = 1000): number => {
    const { bytes, length } = packetOf(spec)
    return forwarder.outbound(bytes, new DataView(bytes.buffer), AT, length, false, now)
  }
  const receive = (spec: Spec, peer: number): boolean => {
    const { bytes, length } = packetOf(spec)
    return forwarder.inbound(bytes, new DataView(bytes.buffer), AT, length, false, peer)
  }
  return { forwarder, send, receive }
}

test('OH-16a: the class of a packet: protocol, ports at either end, addresses at either end, DSCP; the first that matches', () => {
  const { send } = router([
    'proto:tcp+port:8000-8010 port:5060',
    'app:curl user:root to:10.2.9.0/24+proto:udp',
    'dscp:ef to:fd00:2:9::/48',
    '',
    'port:53',
  ])
  const six = { from: 'fd00:1::2', to: 'fd00:2::2' }
  const table: readonly (readonly [Spec, number])[] = [
    [{ protocol: TCP, ports: [40_000, 7999] }, 3],
    [{ protocol: TCP, ports: [40_000, 8000] }, 0],
    [{ protocol: TCP, ports: [40_000, 8010] }, 0],
    [{ protocol: TCP, ports: [40_000, 8011] }, 3],
    [{ protocol: TCP, ports: [7999, 40_000] }, 3],
    [{ protocol: TCP, ports: [8000, 40_000] }, 0],
    [{ protocol: TCP, ports: [8010, 40_000] }, 0],
    [{ protocol: TCP, ports: [8011, 40_000] }, 3],
    [{ ports: [40_000, 8005] }, 3],
    [{ ports: [40_000, 5060] }, 0],
    [{ ports: [5060, 40_000] }, 0],
    [{ ports: [40_000, 53] }, 3],
    [{ protocol: ICMP, ports: [8005, 5060] }, 3],
    [{ to: '10.2.9.1' }, 1],
    [{ to: '10.2.10.1' }, 3],
    [{ from: '10.2.9.1' }, 1],
    [{ to: '10.2.9.1', protocol: TCP }, 3],
    [{ dscp: 46 }, 2],
    [{ dscp: 45 }, 3],
    [{ ...six, protocol: TCP, ports: [40_000, 8000] }, 0],
    [{ ...six, ports: [5060, 1] }, 0],
    [{ ...six, protocol: ICMPV6, ports: [5060, 1] }, 3],
    [{ ...six, to: 'fd00:2:9::1' }, 2],
    [{ ...six, to: 'fd00:2:a::1' }, 3],
    [{ ...six, dscp: 46 }, 2],
    [{ to: '10.3.0.9', ports: [5060, 1] }, 10],
    [{ to: '10.3.0.9' }, 13],
    // Cut behind the ports, and within them.
    [{ ports: [40_000, 5060], cut: 24 }, 0],
    [{ ports: [40_000, 5060], cut: 23 }, 3],
    [{ protocol: TCP, ports: [40_000, 5060], cut: 24 }, 0],
  ]
  for (const [spec, index] of table) assert.equal(send(spec), index, JSON.stringify(spec))
})

test('OH-16a: what no class takes is of the last one; without any class nothing leaves', () => {
  assert.equal(router(['port:5060', 'app:curl', 'port:80']).send({}), 2)
  assert.equal(router([]).send({}), Verdict.DROP)
  const { forwarder } = router([''])
  assert.equal(forwarder.scheduler(0, 1), undefined)
  assert.equal(forwarder.scheduler(9, 0), undefined)
})

test('fragments are of the class of their first, which has the ports', () => {
  const { send } = router(['port:5060', ''])
  const more = 0x2000
  const later = { fragment: 3, ports: [0x1234, 0x5678] } as const
  assert.equal(send(later), 1, 'nothing is known')
  assert.equal(send({ fragment: more, ports: [40_000, 5060], payload: 16 }), 0)
  assert.equal(send(later), 0)
  assert.equal(send({ ...later, protocol: ICMP }), 1)
  assert.equal(send({ ...later, from: '10.1.0.3' }), 1)
})

test('only this site’s sources leave, and those of other peers’ sites; only a peer’s own are taken from it', () => {
  const { forwarder, send, receive } = router([''], ['10.1.0.0/24', 'fd00:1::/32'])
  assert.equal(send({}), 0)
  assert.equal(send({ from: 'fd00:1::2', to: 'fd00:2::2' }), 0)
  assert.equal(send({ from: '10.3.0.2' }), 0, 'of another site, for whom this one is on the way')
  assert.deepEqual(forwarder.counts, { unroutable: 0, foreign: 0, spoofed: 0 })
  for (const from of ['10.1.1.2', '192.0.2.1', '10.2.0.9']) assert.equal(send({ from }), Verdict.DROP, from)
  assert.equal(send({ from: 'fd00:7::2', to: 'fd00:2::2' }), Verdict.DROP)
  assert.equal(forwarder.counts.foreign, 4)
  assert.equal(send({ to: '10.9.0.2' }), Verdict.DROP, 'to nobody')
  assert.equal(send({ cut: 19 }), Verdict.DROP, 'not even a header')
  assert.equal(forwarder.counts.unroutable, 2)
  assert.equal(router(['']).send({ from: '192.0.2.1' }), 0, 'no subnets are named: any source')

  assert.ok(receive({ from: '10.2.0.9' }, 0))
  assert.ok(receive({ from: 'fd00:2::9', to: 'fd00:1::2' }, 0))
  assert.ok(receive({ from: '10.3.0.9' }, 1))
  assert.equal(forwarder.counts.spoofed, 0)
  assert.ok(!receive({ from: '10.3.0.9' }, 0))
  assert.ok(!receive({ from: '10.1.0.9' }, 0))
  assert.ok(!receive({ from: 'fd00:3::9', to: 'fd00:1::2' }, 0))
  assert.equal(forwarder.counts.spoofed, 3)
})

test('E-3: an ICMP error is taken from a site only about what was sent to that site', () => {
  const { forwarder } = router([''], ['10.1.0.0/24', 'fd00:1::/32'])
  const told = (about: Spec, from: string) => {
    const { bytes, length } = packetOf(about)
    const error = errorAbout(bytes.slice(AT, AT + length), bytesOf(from))
    return forwarder.inbound(error, new DataView(error.buffer), 0, error.length, false, 0)
  }
  assert.ok(told({ to: '10.2.0.9' }, '10.2.0.1'))
  assert.ok(told({ from: 'fd00:1::2', to: 'fd00:2::2' }, 'fd00:2::1'))
  for (const to of ['10.3.0.9', '192.0.2.1', '10.1.0.7']) assert.ok(!told({ to }, '10.2.0.1'), to)
  assert.ok(!told({ from: 'fd00:1::2', to: 'fd00:3::2' }, 'fd00:2::1'))
  assert.equal(forwarder.counts.spoofed, 4)
})

test('what passes the queue, and what is worth a copy: acknowledgements and ICMP, and the end of a burst', () => {
  const spread = { ...PLAN, carriers: [0, 1], ordered: true }
  const table: readonly (readonly [Spec, 'express' | 'tail' | 'data'])[] = [
    [{ protocol: TCP, flags: ACK }, 'express'],
    [{ protocol: TCP, flags: ACK | PSH }, 'express'],
    [{ protocol: TCP, flags: ACK | FIN }, 'data'],
    [{ protocol: TCP, flags: RST }, 'data'],
    [{ protocol: TCP, flags: ACK | FIN | PSH }, 'tail'],
    [{ protocol: TCP, flags: ACK, payload: 1 }, 'data'],
    [{ protocol: TCP, flags: ACK, payload: 1200 }, 'data'],
    [{ protocol: TCP, flags: ACK | PSH, payload: 1200 }, 'tail'],
    [{ protocol: TCP, flags: ACK | PSH, payload: 1200, from: 'fd00:1::2', to: 'fd00:2::2' }, 'tail'],
    [{ protocol: TCP, flags: ACK, from: 'fd00:1::2', to: 'fd00:2::2' }, 'express'],
    [{ protocol: TCP, flags: ACK, cut: 39 }, 'data'],
    [{ protocol: TCP, flags: ACK | PSH, fragment: 0x2000, payload: 1200 }, 'data'],
    [{ protocol: UDP, payload: 1200 }, 'data'],
    [{ protocol: ICMP, payload: 56 }, 'express'],
    [{ protocol: ICMPV6, payload: 56, from: 'fd00:1::2', to: 'fd00:2::2' }, 'express'],
  ]
  for (const [spec, kind] of table) {
    const { forwarder, send } = router([''])
    const scheduler = forwarder.scheduler(0, 0)!
    // So much of the flow that it is none that passes for being sparse, and credit for copies.
    scheduler.follow('budget', { ...PLAN, carriers: [0], refuge: 1 })
    for (let now = 0; now < 2000; now++) scheduler.choose(4_000, 3, 0, forwarder.spread, now)
    forwarder.lanes.clear(0)
    assert.ok(send(spec, 3_000) >= 0)
    assert.equal(forwarder.spread.copies, kind === 'tail' ? 1 : 0, `copies of ${JSON.stringify(spec)}`)
    // Full: what waits leaves later.
    const ends = { from: spec.from ?? '10.1.0.2', to: spec.to ?? '10.2.0.2' }
    scheduler.follow('round-robin', spread)
    for (let i = 0; i < 100; i++) send({ ...ends, payload: 1200 }, 3_000)
    assert.ok(send(spec, 3_000) >= 0)
    const passes = forwarder.spread.departAt === 0 && !forwarder.spread.ordered
    assert.equal(passes, kind === 'express', `order of ${JSON.stringify(spec)}`)
  }
})
