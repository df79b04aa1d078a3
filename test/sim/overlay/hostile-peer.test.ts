/** A node of the zone whose owner is hostile sends whatever it wants inside its tunnel: what its peer's host gets of it. Whole engines. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { formatAddress } from '../../../src/core/address.ts'
import { concat } from '../../../src/core/bytes.ts'
import { checksum } from '../../../src/core/checksum.ts'
import { OverlayForwarder } from '../../../src/overlay/node/forwarder.ts'
import { errorAbout } from '../../support/icmp-errors.ts'
import { type Extension, extension, fragment6, packet4, packet6 } from '../../support/ip-packets.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { at, Network } from './network.ts'

const [ICMP, UDP, ICMPV6] = [1, 17, 58]
const LAN4 = at('192.168.1.10:1').address
const LAN6 = at('[fd00:1::10]:1').address
const OTHERS = ['192.168.1.10', '192.168.1.255', '127.0.0.1', '255.255.255.255', '224.0.0.1', '0.0.0.0']
const OTHERS6 = ['fd00:1::10', '::1', '::', 'ff02::1', 'fe80::1', '::ffff:192.168.1.10']

interface World {
  readonly four: readonly [Uint8Array, Uint8Array]
  readonly six: readonly [Uint8Array, Uint8Array]
  /** What the host of the victim gets of this packet. */
  gets(packet: Uint8Array): Uint8Array[]
}

function world({ mock }: TestContext): World {
  const net = new Network(1, (parts) => new MachineServers(parts))
  const [mallory, bob] = ['mallory', 'bob'].map((name, i) => {
    const node = new EngineNode(net, name, i + 1)
    node.use({ name: 'acc1', address: `203.0.113.${10 + i}` })
    return node
  }) as [EngineNode, EngineNode]
  net.until(() => mallory.address !== undefined && bob.address !== undefined)
  mallory.do({ type: 'resolve', name: bob.name })
  net.until(() => mallory.way === 'direct')
  // Its program is its own: whatever its host sends goes into the tunnel.
  mock.method(OverlayForwarder.prototype, 'outbound', function (this: OverlayForwarder) {
    return this.slot(0)
  })
  const of = (node: EngineNode) => node.of('registered').at(-1)!
  let got: Uint8Array[] = []
  bob.onPacket = (packet) => got.push(packet.slice())
  return {
    four: [mallory.address!, bob.address!],
    six: [of(mallory).v6, of(bob).v6],
    gets(packet) {
      got = []
      mallory.inject(packet)
      net.run(200)
      return got
    },
  }
}

/** Between these, with the checksum of the IPv4 header right. */
function from(packet: Uint8Array, source: Uint8Array, destination: Uint8Array): Uint8Array {
  const made = packet.slice()
  const first = source.length === 4 ? 12 : 8
  made.set(source, first)
  made.set(destination, first + source.length)
  if (source.length === 4) {
    const view = new DataView(made.buffer)
    view.setUint16(10, 0)
    view.setUint16(10, checksum(view, 0, 4 * (made[0]! & 15)))
  }
  return made
}

const datagram = (bytes = 16) => new Uint8Array(bytes)
const plain4 = (payload = datagram()) => packet4({ protocol: UDP, payload })
const plain6 = (...headers: Extension[]) => packet6({ headers, protocol: UDP, payload: datagram() })

/** With these options. */
function optioned(...options: number[]): Uint8Array {
  const packet = packet4({ protocol: UDP, payload: datagram(), options: options.length })
  packet.set(options, 20)
  return packet
}

test('D10: from addresses that are not its own, and to any but this node’s own, the host gets nothing', (t) => {
  const { four, six, gets } = world(t)
  assert.equal(gets(from(plain4(), ...four)).length, 1)
  assert.equal(gets(from(plain6(), ...six)).length, 1)
  for (const other of [...OTHERS, formatAddress(four[1])]) {
    const address = at(`${other}:1`).address
    assert.deepEqual(gets(from(plain4(), address, four[1])), [], `from ${other}`)
    if (other !== formatAddress(four[1]))
      assert.deepEqual(gets(from(plain4(), four[0], address)), [], `to ${other}`)
  }
  for (const other of [...OTHERS6, formatAddress(six[1])]) {
    const address = at(`[${other}]:1`).address
    assert.deepEqual(gets(from(plain6(), address, six[1])), [], `from ${other}`)
    if (other !== formatAddress(six[1]))
      assert.deepEqual(gets(from(plain6(), six[0], address)), [], `to ${other}`)
  }
})

test('D10: what is to go on from this node to others, by a source route or a routing header, does not reach the host', (t) => {
  const { four, six, gets } = world(t)
  for (const route of [131, 137]) {
    assert.deepEqual(gets(from(optioned(route, 7, 4, ...LAN4, 0), ...four)), [], `option ${route}`)
    assert.deepEqual(
      gets(from(optioned(1, 1, 7, 3, 4, route, 7, 4, ...LAN4, 0, 0), ...four)),
      [],
      'behind others',
    )
  }
  assert.equal(
    gets(from(optioned(7, 7, 4, 0, 0, 0, 0, 0), ...four)).length,
    1,
    'a record of the route is none',
  )
  for (const type of [0, 2, 3, 4]) {
    const routing = (left: number) => {
      const bytes = concat(Uint8Array.of(0, 2, type, left, 0, 0, 0, 0), LAN6)
      return { type: 43, bytes }
    }
    const packets = [
      plain6(routing(1)),
      plain6(extension(0, 0), extension(60, 1), routing(1)),
      plain6(fragment6(0, 7), routing(1)),
    ]
    for (const packet of packets) assert.deepEqual(gets(from(packet, ...six)), [], `type ${type}`)
    assert.equal(
      gets(from(plain6(routing(0)), ...six)).length,
      1,
      'with nowhere to go it is a header like others',
    )
  }
})

test('D10: an ICMP error is let in only if this node has sent what it is about, and to this peer', (t) => {
  const { four, six, gets } = world(t)
  const about = (packet: Uint8Array, by: Uint8Array) => errorAbout(packet, by)
  assert.equal(gets(about(from(plain4(), four[1], four[0]), four[0])).length, 1)
  assert.equal(gets(about(from(plain6(), six[1], six[0]), six[0])).length, 1)
  // It goes to the source of what it is about: as the victim's flows with others would have it.
  assert.deepEqual(gets(about(from(plain4(), four[1], LAN4), four[0])), [])
  assert.deepEqual(gets(from(about(from(plain4(), LAN4, four[0]), four[0]), ...four)), [])
  assert.deepEqual(gets(about(from(plain6(), six[1], LAN6), six[0])), [])
  assert.deepEqual(gets(from(about(from(plain6(), LAN6, six[0]), six[0]), ...six)), [])
  // In pieces, behind headers, atomic, cut before what it is about.
  const error = about(from(plain6(), six[1], LAN6), six[0]).slice(40)
  const error4 = about(from(plain4(), four[1], LAN4), four[0]).slice(20)
  for (const headers of [
    [extension(60, 3)],
    [fragment6(0, 9)],
    [fragment6(1, 9)],
    [extension(0, 0), extension(60, 0), fragment6(0, 9)],
  ])
    assert.deepEqual(gets(from(packet6({ headers, protocol: ICMPV6, payload: error }), ...six)), [])
  for (const length of [8, 16, 24])
    assert.deepEqual(
      gets(
        from(
          packet6({ headers: [fragment6(1, 9)], protocol: ICMPV6, payload: error.slice(0, length) }),
          ...six,
        ),
      ),
      [],
    )
  for (const fragment of [0, 0x2000])
    for (const length of [8, 16, error4.length])
      assert.deepEqual(
        gets(from(packet4({ protocol: ICMP, fragment, payload: error4.slice(0, length) }), ...four)),
        [],
      )
})

test('D10: of extension headers twelve are stepped over; longer chains, and chains that end nowhere, do not reach the host', (t) => {
  const { six, gets } = world(t)
  const chain = (n: number) => plain6(...Array.from({ length: n }, () => extension(60, 0)))
  assert.equal(gets(from(chain(12), ...six)).length, 1)
  for (const n of [13, 14, 100]) assert.deepEqual(gets(from(chain(n), ...six)), [], `${n} headers`)
  const long = plain6(extension(60, 3))
  long[41] = 255
  assert.deepEqual(gets(from(long, ...six)), [])
  // A whole packet that says it is a fragment (RFC 6946) is one.
  assert.equal(gets(from(plain6(fragment6(0, 5)), ...six)).length, 1)
})

test('D10: fragments are the peer’s own, whatever they overlap; the host puts them together, or not, by itself', (t) => {
  const { four, six, gets } = world(t)
  const pieces = (id: number) => [
    from(packet4({ protocol: UDP, fragment: 0x2000, id, payload: datagram(24) }), ...four),
    from(packet4({ protocol: UDP, fragment: 1, id, payload: datagram(24) }), ...four),
    from(packet6({ headers: [fragment6(1, id)], protocol: UDP, payload: datagram(24) }), ...six),
    from(packet6({ headers: [fragment6(8, id)], protocol: UDP, payload: datagram(24) }), ...six),
  ]
  // As they are: two that overlap never become one here.
  for (const piece of pieces(1)) assert.deepEqual(gets(piece), [piece])
  // Each of them has to come from the peer and be for this node.
  for (const piece of pieces(2).slice(0, 2)) assert.deepEqual(gets(from(piece, LAN4, four[1])), [])
  for (const piece of pieces(2).slice(2)) assert.deepEqual(gets(from(piece, six[0], LAN6)), [])
})
