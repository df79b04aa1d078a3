/** What a peer gets of what the local TCP sends, and over which subflow: segment by segment (paper §3.3 and §3.4, RFC 8684 §3.1, §3.3). */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { viewOf } from '../../../src/core/bytes.ts'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { addAddrHmac, keyOf } from '../../../src/mptcp/machine/keys.ts'
import { type OutSegment, payloadLength, Segment } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import { CAPABLE, optionsOf } from './alone.ts'
import { packetOf } from './packets.ts'
import { dssOf, LOCAL_ISN, Opened, PEER_ISN, PEER_KEY, Served, to } from './served.ts'

const { ACK, FIN, PSH, RST } = TcpFlag
const REMOTE = keyOf(nodeSha256, PEER_KEY)

/** What goes to the peer: port there, place, length, acknowledgement. */
const wire = (sent: readonly OutSegment[] | undefined, localIsn = LOCAL_ISN) =>
  to('wire', sent).map((out) => [
    out.tuple.remotePort,
    (out.seq - localIsn) >>> 0,
    payloadLength(out),
    out.ack - PEER_ISN,
  ])

/** A server with a second subflow, of port 4001 at the peer; both have the same numbers at this end. */
function two(): {
  readonly served: Served
  readonly on: { readonly tuple: Served['wire']; readonly localIsn: number }
} {
  const served = new Served().open()
  const tuple = served.join()
  const [, second] = served.connection.subflows
  second!.localIsn = LOCAL_ISN
  second!.sackPermitted = true
  return { served, on: { tuple, localIsn: LOCAL_ISN } }
}

/** The peer calls its first subflow a backup: data go over the second. */
const move = (served: Served, ack = 1) =>
  to('wire', served.peer(ACK, 1, { ack, options: [{ type: 'prio', backup: true }] }))

test('MP-15, RFC 8684 §3.1: SYN, third packet and first data have MP_CAPABLE: nothing, both keys, and the length', () => {
  const opened = new Opened()
  const [syn, , third] = opened.handshake()
  const keys = { ...CAPABLE, key: opened.key.bytes, peerKey: PEER_KEY }
  assert.deepEqual(optionsOf(syn![0]!), [CAPABLE])
  assert.deepEqual(optionsOf(third![0]!), [keys])
  assert.deepEqual(optionsOf(opened.local(ACK, 1, 1)![0]!), [keys], 'again, while the peer may not have it')
  const data = () => opened.local(ACK | PSH, 1, 1, 1)![0]!
  assert.deepEqual(optionsOf(data()), [{ ...keys, dataLength: 1 }])
  assert.deepEqual(optionsOf(data()), [{ ...keys, dataLength: 1 }], 'again')
  const ack = dsnAt(REMOTE, 1)
  // The keys went with data; what comes after them is no third packet.
  assert.deepEqual(optionsOf(opened.local(ACK, 2, 1)![0]!), [{ type: 'dss', dataFin: false, ack }])
  const [next] = opened.local(ACK | PSH, 2, 1, 50)!
  const map = { dsn: dsnAt(opened.key, 2), ssn: 2, length: 50 }
  assert.deepEqual(optionsOf(next!), [{ type: 'dss', dataFin: false, ack, map }])
  opened.peer(ACK, 1, { dataAck: 1 })
  const first = { dsn: dsnAt(opened.key, 1), ssn: 1, length: 1 }
  assert.deepEqual(optionsOf(data()), [{ type: 'dss', dataFin: false, ack, map: first }])
  // One that has nothing to say acknowledges with a DSS, too, once the peer is known to have the keys.
  const quiet = new Opened().open()
  quiet.peer(ACK | PSH, 1, { length: 10, map: [1, 1, 10] })
  assert.deepEqual(optionsOf(quiet.local(ACK, 1, 11)![0]!), [
    { type: 'dss', dataFin: false, ack: dsnAt(REMOTE, 11) },
  ])
})

test('RFC 8684 §3.1: first data that the subflow alone acknowledged have a mapping when they are sent again, since MP_CAPABLE has none for their place', () => {
  const opened = new Opened()
  opened.handshake()
  opened.local(ACK | PSH, 1, 1, 100)
  opened.peer(ACK, 1, { ack: 101, options: [{ type: 'dss', dataFin: false }] })
  const map = { dsn: dsnAt(opened.key, 1), ssn: 101, length: 100 }
  assert.deepEqual(dssOf(opened.local(ACK | PSH, 1, 1, 100)![0]!)?.map, map)
})

test('RFC 8684 §3.1: a peer that has sent ADD_ADDR has the keys: the connection is established, and its first data have a DSS', () => {
  const opened = new Opened()
  opened.handshake()
  const address = Uint8Array.of(198, 51, 100, 8)
  const hmac = addAddrHmac(nodeSha256, PEER_KEY, opened.key.bytes, 3, address, 0)
  const option = { type: 'add-addr', echo: false, id: 3, address, hmac } as const
  opened.peer(ACK, 1, { options: [{ ...option, hmac: new Uint8Array(8) }] })
  opened.peer(ACK, 1, { options: [{ ...option, echo: true }] })
  assert.equal(opened.connection.state, 'pre-established')
  opened.peer(ACK, 1, { options: [option] })
  assert.equal(opened.connection.state, 'established')
  assert.deepEqual(dssOf(opened.local(ACK | PSH, 1, 1, 10)![0]!)!.ack, dsnAt(REMOTE, 1))
  // Nor may it fall back any more: an acknowledgement without an option is one.
  opened.peer(ACK, 1, { ack: 11 })
  assert.equal(opened.machine.counts.fallbacks, 0)
})

test('MP-15: a server answers MP_CAPABLE with its key, and its data have a DSS from the first byte', () => {
  const served = new Served().open()
  const [data] = served.local(ACK | PSH, 1, 1, 10)!
  const map = { dsn: dsnAt(served.key, 1), ssn: 1, length: 10 }
  assert.deepEqual(optionsOf(data!), [{ type: 'dss', dataFin: false, ack: dsnAt(REMOTE, 1), map }])
})

test('MP-38, MP-39: each subflow that brought something gets one acknowledgement, the others none', () => {
  const { served, on } = two()
  served.peer(ACK | PSH, 1, { length: 10, map: [1, 1, 10] })
  served.peer(ACK | PSH, 1, { ...on, length: 10, map: [11, 1, 10] })
  const both = served.local(ACK, 1, 21)
  assert.deepEqual(wire(both), [
    [4000, 1, 0, 11],
    [4001, 1, 0, 11],
  ])
  for (const out of both!)
    assert.deepEqual(optionsOf(out), [{ type: 'dss', dataFin: false, ack: dsnAt(REMOTE, 21) }])
  served.peer(ACK | PSH, 11, { ...on, length: 10, map: [21, 11, 10] })
  assert.deepEqual(wire(served.local(ACK, 1, 31)), [[4001, 1, 0, 21]])
})

test('MP-41: a duplicate goes where something is unacknowledged, and where nothing is to the subflow in use', () => {
  const { served, on } = two()
  served.peer(ACK | PSH, 11, { ...on, length: 10, map: [11, 11, 10] })
  served.peer(ACK, 1, { ...on, map: [1, 1, 10] })
  assert.deepEqual(wire(served.local(ACK, 1, 1)), [[4001, 1, 0, 1]])
  assert.deepEqual(wire(served.local(ACK, 1, 1)), [[4001, 1, 0, 1]])
  assert.deepEqual(wire(served.local(ACK | PSH, 1, 1, 5)), [[4000, 1, 5, 1]], 'data are no duplicate')
  const none = two().served
  assert.deepEqual(wire(none.local(ACK, 1, 1)), [[4000, 1, 0, 1]])
})

test('MP-40: payload and acknowledgement go over different subflows, and what goes out anyway acknowledges', () => {
  const { served, on } = two()
  served.peer(ACK | PSH, 1, { ...on, length: 10, map: [1, 1, 10] })
  assert.deepEqual(wire(served.local(ACK | PSH, 1, 11, 5)), [
    [4000, 1, 5, 1],
    [4001, 1, 0, 11],
  ])
  served.peer(ACK | PSH, 1, { length: 10, map: [11, 1, 10] })
  assert.deepEqual(wire(served.local(ACK | PSH, 6, 21, 5)), [[4000, 6, 5, 11]])
  served.peer(ACK | PSH, 11, { length: 10, map: [21, 11, 10] })
  served.peer(ACK | PSH, 11, { ...on, length: 10, map: [31, 11, 10] })
  const end = served.local(ACK | FIN, 11, 41)
  assert.deepEqual(wire(end), [
    [4000, 11, 0, 21],
    [4001, 1, 0, 21],
  ])
  assert.deepEqual(
    end!.map((out) => dssOf(out)!.dataFin),
    [true, false],
  )
})

test('P5: a window that opens is said on every subflow, once on each; one that closes where something is owed', () => {
  const { served, on } = two()
  const window = (
    size: number,
    more: Partial<{ flags: number; at: number; ack: number; length: number }> = {},
  ) => {
    const { flags = ACK, at = 1, ack = 1, length = 0 } = more
    const sent = to('wire', served.local(flags, at, ack, length, { window: size }))
    return sent.map((out) => [out.tuple.remotePort, out.window])
  }
  served.connection.subflows[1]!.high = 1
  assert.deepEqual(
    window(2000).map(([port]) => port),
    [4000, 4001],
  )
  assert.deepEqual(window(2000), [[4000, 2000]], 'the same again')
  assert.deepEqual(window(1000), [[4000, 1000]])
  assert.deepEqual(
    window(3000, { flags: ACK | PSH, length: 10 }).map(([port]) => port),
    [4000, 4001],
  )
  served.peer(ACK | PSH, 1, { ...on, length: 10, map: [1, 1, 10] })
  assert.deepEqual(
    window(4000, { at: 11 }).map(([port]) => port),
    [4000, 4001],
    'both hear of it',
  )
  assert.deepEqual(
    window(5000, { at: 11, ack: 11 }).map(([port]) => port),
    [4001],
    'with an acknowledgement it is no news',
  )
  assert.deepEqual(
    window(6000, { at: 11, ack: 11, flags: ACK | FIN }).map(([port]) => port),
    [4000, 4001],
  )
})

test('an acknowledgement of the local TCP that is old, or of what never came, says nothing to the peer; its payload goes out', () => {
  const served = new Served().open()
  served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 100] })
  served.local(ACK, 1, 51, 0, { window: 900 })
  assert.deepEqual(wire(served.local(ACK | PSH, 1, 50, 10, { window: 5000 })), [[4000, 1, 10, 51]])
  assert.deepEqual(wire(served.local(ACK | PSH, 11, 103, 10, { window: 5000 })), [[4000, 11, 10, 51]])
  assert.equal(served.connection.window, 900)
  assert.deepEqual(
    wire(served.local(PSH, 21, 101, 10, { window: 5000 })),
    [[4000, 21, 10, 51]],
    'no acknowledgement at all',
  )
  assert.deepEqual(wire(served.local(ACK | PSH, 31, 101, 10)), [[4000, 31, 10, 101]])
})

test('MP-46, MP-49: blocks of the local TCP are those of the subflow that brought them, also beside data; the others have none', () => {
  const { served, on } = two()
  const blocks = (out: OutSegment) => {
    const packet = packetOf({ ...out, payload: undefined })
    const segment = new Segment()
    segment.read(viewOf(packet), packet, 0, packet.length, true)
    return segment.sack.map((edge) => edge - PEER_ISN)
  }
  served.peer(ACK | PSH, 21, { length: 10, map: [121, 21, 10], dataAck: 1 })
  served.peer(ACK | PSH, 41, { length: 10, map: [141, 41, 10] })
  served.peer(ACK | PSH, 21, { ...on, length: 10, map: [221, 21, 10] })
  const sack = [
    { left: PEER_ISN + 121, right: PEER_ISN + 131 },
    { left: PEER_ISN + 141, right: PEER_ISN + 151 },
  ]
  const sent = served.local(ACK, 1, 1, 0, { sack })!
  assert.deepEqual(sent.map(blocks), [[21, 31, 41, 51], []])
  const [data] = served.local(ACK | PSH, 1, 1, 10)!
  assert.deepEqual(blocks(data!), [])
  for (const [left, right, counts] of [
    [221, 231, true],
    [222, 231, true],
    [231, 221, false],
    [221, 232, true],
    [221, 233, false],
  ] as const) {
    const all = served.local(ACK, 11, 1, 0, { sack: [{ left: PEER_ISN + left, right: PEER_ISN + right }] })!
    const [block] = all.filter(({ tuple }) => tuple.remotePort === 4001).map(blocks)
    assert.deepEqual(block, counts ? [left - 200, Math.min(31, right - 200)] : [], `${left}, ${right}`)
  }
  served.connection.first!.sackPermitted = false
  assert.deepEqual(served.local(ACK, 11, 1, 0, { sack })!.map(blocks)[0], [], 'it has not agreed to it there')
})

test('MP-50: without SACK what the local TCP was given beyond a hole is acknowledged on its subflow, but not to the connection', () => {
  const served = new Served().open({ plain: true })
  const tuple = served.join()
  const on = { tuple, localIsn: served.connection.subflows[1]!.localIsn }
  served.peer(ACK | PSH, 1, { ...on, length: 10, map: [101, 1, 10] })
  served.peer(ACK | PSH, 21, { ...on, length: 10, map: [121, 21, 10] })
  const ackAt = (sent: readonly OutSegment[] | undefined) =>
    to('wire', sent)
      .filter((out) => out.tuple.remotePort === 4001)
      .map((out) => [out.ack - PEER_ISN, dssOf(out)!.ack])
  assert.deepEqual(ackAt(served.local(ACK, 1, 1)), [[11, dsnAt(REMOTE, 1)]])
  served.peer(ACK | PSH, 11, { ...on, length: 10, map: [111, 11, 10] })
  assert.deepEqual(ackAt(served.local(ACK, 1, 1)), [[31, dsnAt(REMOTE, 1)]])
  // What it says itself counts: data that it has not acknowledged are not taken for given.
  served.peer(ACK | PSH, 1, { length: 50, map: [1, 1, 50] })
  const [first] = to('wire', served.local(ACK, 1, 21))
  assert.equal(first!.ack - PEER_ISN, 21)
})

test('MP-28, P7: what the local TCP sends again has its subflow and the mapping of the original, however it is cut', () => {
  const { served } = two()
  served.local(ACK | PSH, 1, 1, 1000)
  move(served)
  served.local(ACK | PSH, 1001, 1, 500)
  const parts = (sent: readonly OutSegment[] | undefined) =>
    to('wire', sent).map((out) => {
      const { ssn, length } = dssOf(out)!.map!
      return [out.tuple.remotePort, out.seq - LOCAL_ISN, payloadLength(out), ssn, length]
    })
  assert.deepEqual(parts(served.local(ACK | PSH, 301, 1, 200)), [[4000, 301, 200, 1, 1000]])
  assert.deepEqual(parts(served.local(ACK | PSH, 901, 1, 200)), [
    [4000, 901, 100, 1, 1000],
    [4001, 1, 100, 1, 500],
  ])
  assert.deepEqual(parts(served.local(ACK | PSH, 1401, 1, 300)), [
    [4001, 401, 100, 1, 500],
    [4001, 501, 200, 501, 200],
  ])
  const payloads = to('wire', served.local(ACK | PSH, 901, 1, 200)).map(
    ({ payload }) => payload as { at: number },
  )
  assert.equal(payloads[1]!.at - payloads[0]!.at, 100)
  // What the peer has is left out.
  served.peer(ACK, 1, { ack: 1001, dataAck: 501 })
  assert.deepEqual(
    parts(served.local(ACK | PSH, 401, 1, 200)).map(([, , length]) => length),
    [100],
  )
})

test('MP-28: what the peer had on a subflow, and lost after that, gets another place; so does what is on one that is gone or silent', () => {
  const places = (prepare: (served: Served) => void) => {
    const { served } = two()
    served.local(ACK | PSH, 1, 1, 1000)
    move(served)
    served.now += 10
    prepare(served)
    served.sent()
    return wire(served.local(ACK | PSH, 1, 1, 1000)).map(([port, at]) => [port, at])
  }
  assert.deepEqual(
    places(() => {}),
    [[4000, 1]],
  )
  assert.deepEqual(
    places((served) => served.peer(ACK, 1, { ack: 1001, dataAck: 1 })),
    [[4001, 1]],
  )
  assert.deepEqual(
    places((served) => served.peer(ACK, 1, { ack: 501, dataAck: 1 })),
    [[4001, 1]],
    'all of it: its first byte is acknowledged there',
  )
  assert.deepEqual(
    places((served) => served.peer(RST, 1)),
    [[4001, 1]],
  )
  assert.deepEqual(
    places((served) => served.machine.removeSubflow(0, 0, served.now)),
    [[4001, 1]],
  )
  // Silent: 100 ms and one and a half round trips after it should have answered.
  for (const [at, port] of [
    [410, 4000],
    [411, 4001],
  ] as const)
    assert.deepEqual(
      places((served) => {
        served.local(ACK | PSH, 1, 1, 1000)
        served.now = at
      }),
      [[port, 1]],
    )
})

test('MP-31: bytes that come late have their place already, in mappings as long as one can be', () => {
  const served = new Served().open()
  assert.deepEqual(wire(served.local(ACK | PSH, 200_001, 1, 10)), [[4000, 200_001, 10, 1]])
  const mapOf = (at: number) => {
    const [out] = to('wire', served.local(ACK | PSH, at, 1, 10))
    const { ssn, length } = dssOf(out!)!.map!
    return [out!.seq - LOCAL_ISN, ssn, length]
  }
  assert.deepEqual(mapOf(1), [1, 1, 65_535])
  assert.deepEqual(mapOf(65_531), [65_531, 1, 65_535])
  assert.deepEqual(mapOf(65_536), [65_536, 65_536, 65_535])
  assert.deepEqual(mapOf(199_991), [199_991, 196_606, 3395])
  assert.deepEqual(mapOf(200_001), [200_001, 200_001, 10])
  assert.deepEqual(wire(served.local(ACK | PSH, 200_011, 1, 10)), [[4000, 200_011, 10, 1]])
})

test('P10: a probe of the local TCP is of the byte before what is next on the subflow in use', () => {
  const { served } = two()
  served.local(ACK | PSH, 1, 1, 100)
  move(served)
  served.peer(ACK, 1, { ack: 101, dataAck: 101 })
  served.local(ACK | PSH, 101, 1, 50)
  assert.deepEqual(wire(served.local(ACK, 150, 1)), [[4001, 50, 0, 1]])
  assert.deepEqual(wire(served.local(ACK, 151, 1)), [[4001, 51, 0, 1]])
})

test('with no subflow nothing leaves, and the end of the local TCP is said on the next', () => {
  const opened = new Opened().open()
  opened.local(ACK | PSH, 1, 1, 10)
  opened.now = 5000
  opened.peer(RST, 1)
  opened.sent()
  assert.equal(opened.connection.active, undefined)
  assert.deepEqual(to('wire', opened.local(ACK | PSH, 11, 1, 10)), [])
  assert.deepEqual(to('wire', opened.local(ACK | FIN, 21, 1)), [])
  assert.deepEqual(to('wire', opened.local(ACK, 22, 1)), [])
  const ends = (sent: readonly OutSegment[] | undefined) =>
    to('wire', sent).some((out) => dssOf(out)?.dataFin)
  const joining = opened.connection.subflows.at(-1)!
  assert.ok(!ends(opened.accept(joining)), 'what is before it never left')
  assert.ok(ends(opened.local(ACK | PSH, 11, 1, 10)))
})

test('a FIN of the local TCP that came before what is before it ends the stream with that, and one with bytes behind it never', () => {
  const served = new Served().open()
  const ends = (...segment: Parameters<Served['local']>) =>
    to('wire', served.local(...segment)).some((out) => dssOf(out)?.dataFin)
  assert.ok(!ends(ACK | FIN, 301, 1))
  assert.ok(!ends(ACK | PSH, 1, 1, 100))
  assert.equal(served.connection.finLocal, -1)
  assert.ok(!ends(ACK | PSH, 201, 1, 50))
  assert.ok(ends(ACK | PSH, 251, 1, 50))
  assert.equal(served.connection.finLocal, 301)
  const other = new Served().open()
  other.local(ACK | FIN, 151, 1)
  for (const at of [1, 101]) other.local(ACK | PSH, at, 1, 100)
  other.local(ACK | FIN, 151, 1)
  assert.equal(other.connection.finLocal, -1)
  other.local(ACK | FIN, 201, 1)
  assert.equal(other.connection.finLocal, 201)
})

test('RFC 6298 §3: an acknowledgement of what was sent twice measures no round trip', () => {
  for (const again of [false, true]) {
    const served = new Served().open()
    served.local(ACK | PSH, 1, 1, 100)
    served.now = 70
    if (again) served.local(ACK | PSH, 1, 1, 100)
    served.now = 90
    served.peer(ACK, 1, { ack: 101, dataAck: 101 })
    assert.equal(served.connection.first!.srtt, again ? Number.NaN : 90)
  }
})

test('MP-52: what goes over a subflow whose path carries less is said to be cut smaller than the packet at hand, what goes over others is not', () => {
  const { served } = two()
  const cut = (at: number) => {
    const [out] = to('wire', served.local(ACK | PSH, at, 1, 1432))
    return [out!.tuple.remotePort, out!.segmentSize, out!.narrow]
  }
  assert.deepEqual(cut(1), [4000, 1432, false])
  served.machine.tooBig(served.connection.first!.key, LOCAL_ISN + 1, 1400, 0)
  assert.deepEqual(cut(1433), [4000, 1332, true])
  move(served)
  assert.deepEqual(cut(2865), [4001, 1432, false])
})

test('RFC 6298 §2: the round trip is smoothed by an eighth; one segment at a time is measured, from when it left to when all of it is acknowledged', () => {
  const served = new Served().open()
  const { first } = served.connection
  served.local(ACK | PSH, 1, 1, 100)
  served.now = 50
  served.local(ACK | PSH, 101, 1, 100)
  served.now = 90
  served.peer(ACK, 1, { ack: 51, dataAck: 51 })
  assert.equal(first!.srtt, Number.NaN, 'a part of it')
  served.peer(ACK, 1, { ack: 101, dataAck: 101 })
  assert.equal(first!.srtt, 90)
  served.now = 300
  served.peer(ACK, 1, { ack: 201, dataAck: 201 })
  assert.equal(first!.srtt, 90, 'it was not the one that is measured')
  served.local(ACK | PSH, 201, 1, 100)
  served.now = 470
  served.peer(ACK, 1, { ack: 301, dataAck: 301 })
  assert.equal(first!.srtt, 0.875 * 90 + 0.125 * 170)
  assert.equal(first!.sentBytes, 300)
})
