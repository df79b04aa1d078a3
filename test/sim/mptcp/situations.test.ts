/**
 * Situations that the public packetdrill suite for MPTCP puts a stack into, put before the proxy from RFC 8684: one machine, every
 * segment by hand. The local TCP is a server (port 80) unless a test says otherwise.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { addAddrHmac, keyOf } from '../../../src/mptcp/machine/keys.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import type { CapableOption, MptcpOption } from '../../../src/mptcp/wire.ts'
import { Alone, CAPABLE, optionsOf } from './alone.ts'
import { dssOf, events, LOCAL_ISN, PEER_ISN, PEER_KEY, Served, to, WIRE } from './served.ts'

const { SYN, ACK, FIN, RST, PSH } = TcpFlag

/** What a peer may say wrongly of what it speaks (RFC 8684 §3.1). */
const WRONG: readonly (readonly [string, Partial<CapableOption>])[] = [
  ['the extension bit', { extension: true }],
  ['no algorithm that this host knows', { sha256: false }],
  ['version 0', { version: 0 }],
]

for (const [what, wrong] of WRONG) {
  test(`a SYN with ${what} is not answered by the proxy`, () => {
    const alone = new Alone()
    assert.equal(alone.in(WIRE, SYN, { options: [{ ...CAPABLE, ...wrong }] }), undefined)
    assert.equal(alone.machine.connections.length, 0)
  })

  test(`a SYN/ACK with ${what} makes a connection of this host plain TCP`, () => {
    const alone = new Alone()
    const own = { ...WIRE, localPort: 5555 }
    assert.equal(alone.out(own, SYN, { seq: LOCAL_ISN })!.length, 1)
    const options = [{ ...CAPABLE, key: PEER_KEY, ...wrong }]
    assert.equal(alone.in(own, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1, options }), undefined)
    assert.equal(alone.machine.connections.length, 0)
    assert.equal(alone.machine.counts.fallbacks, 1)
  })

  test(`a third packet with ${what} makes the connection plain TCP`, () => {
    const served = new Served()
    served.in(WIRE, SYN, { seq: PEER_ISN, options: [CAPABLE] })
    served.out(WIRE, SYN | ACK, { seq: LOCAL_ISN, ack: PEER_ISN + 1 })
    const keys = { ...CAPABLE, key: PEER_KEY, peerKey: served.key.bytes, ...wrong }
    assert.equal(
      served.in(WIRE, ACK, { seq: PEER_ISN + 1, ack: LOCAL_ISN + 1, options: [keys] }),
      undefined,
      'it goes on as it is',
    )
    assert.equal(served.machine.connections.length, 0)
  })
}

test('data with MP_CAPABLE are those from the first byte on, however often the packet comes', () => {
  const served = new Served().open()
  const first = { ...CAPABLE, key: PEER_KEY, peerKey: served.key.bytes, dataLength: 100 }
  const [data] = to('local', served.peer(ACK | PSH, 1, { length: 100, options: [first] }))
  assert.equal(data!.seq, PEER_ISN + 1)
  const [ack] = to('wire', served.local(ACK, 1, 101))
  assert.equal(ack!.ack, PEER_ISN + 101)
  const again = served.peer(ACK | PSH, 1, { length: 100, options: [first] })
  assert.deepEqual(to('local', again), [], 'it is not given twice')
  assert.equal(to('wire', again).length, 1, 'it is acknowledged again')
})

test('a mapping of length 0 on an acknowledgement maps nothing and ends nothing', () => {
  const served = new Served().open()
  served.local(ACK | PSH, 1, 1, 1000)
  const sent = served.peer(ACK, 1, { ack: 1001, dataAck: 1001, map: [1, 1, 0] })
  assert.equal(to('local', sent)[0]!.ack, LOCAL_ISN + 1001)
  assert.equal(served.connection.state, 'established')
  const [data] = to('local', served.peer(ACK | PSH, 1, { ack: 1001, length: 10, map: [1, 1, 10] }))
  assert.equal(data!.seq, PEER_ISN + 1)
})

test('DATA_FIN with data: its length counts one more, and the local TCP gets the data and a FIN behind them', () => {
  const served = new Served().open()
  const given = to('local', served.peer(ACK | PSH, 1, { length: 10, map: [1, 1, 11], fin: true }))
  assert.deepEqual(
    given.map(({ seq, flags }) => [seq, (flags & FIN) !== 0]),
    [
      [PEER_ISN + 1, false],
      [PEER_ISN + 11, true],
    ],
  )
})

test('a peer that is done, at data level and on its only subflow, is still sent all that the local TCP has to say', () => {
  const served = new Served().open()
  const [fin] = to('local', served.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 1 }))
  assert.equal(fin!.flags & FIN, FIN)
  const [ack] = to('wire', served.local(ACK, 1, 2))
  assert.deepEqual(dssOf(ack!)!.ack, dsnAt(keyOf(nodeSha256, PEER_KEY), 2))
  const [known] = to('wire', served.peer(ACK | FIN, 1, { dataAck: 1 }))
  assert.deepEqual(
    [known!.ack, known!.flags & FIN],
    [PEER_ISN + 2, 0],
    'its FIN is acknowledged, and not answered by one',
  )
  const [data] = to('wire', served.local(ACK | PSH, 1, 2, 500))
  assert.equal(data!.seq, LOCAL_ISN + 1)
  served.peer(ACK, 2, { ack: 501, dataAck: 501 })
  const last = to('wire', served.local(ACK | FIN, 501, 2))
  assert.equal(dssOf(last[0]!)!.dataFin, true)
  const [end] = to('wire', served.peer(ACK, 2, { ack: 501, dataAck: 502 }))
  assert.equal(end!.flags & FIN, FIN, 'now the subflow is closed too')
})

test('MP_FASTCLOSE on an acknowledgement: nothing with a wrong key; with the right one a RST each way', () => {
  const served = new Served().open()
  served.peer(ACK | PSH, 1, { length: 1000, map: [1, 1, 1000] })
  served.local(ACK, 1, 1001)
  const wrong = { type: 'fastclose', key: new Uint8Array(8).fill(42) } as const
  assert.deepEqual(served.peer(ACK, 1001, { options: [wrong] }), [])
  assert.equal(served.connection.state, 'established')
  const right = { type: 'fastclose', key: served.key.bytes } as const
  const sent = served.peer(ACK, 1001, { options: [right] })
  assert.deepEqual(
    ['wire', 'local'].map((side) => to(side as 'wire', sent).map(({ flags }) => flags & RST)),
    [[RST], [RST]],
  )
  const late = served.peer(ACK | PSH, 1001, { length: 1000, map: [1001, 1001, 1000] })
  assert.deepEqual(to('local', late), [])
  assert.equal(to('wire', late)[0]!.flags & RST, RST)
})

test('MP_FASTCLOSE on a RST out of the window is answered by an acknowledgement; in it, it ends every subflow', () => {
  const served = new Served().open()
  served.peer(ACK | PSH, 1, { length: 1000, map: [1, 1, 1000] })
  served.local(ACK, 1, 1001)
  const fastclose = { type: 'fastclose', key: served.key.bytes } as const
  const [challenge] = to('wire', served.peer(RST | ACK, 3001, { options: [fastclose] }))
  assert.deepEqual([challenge!.flags & RST, challenge!.ack], [0, PEER_ISN + 1001])
  const sent = served.peer(RST | ACK, 1001, { options: [fastclose] })
  assert.equal(to('local', sent)[0]!.flags & RST, RST)
  assert.equal(served.connection.state, 'closed')
})

test('RFC 5961 §10: resets out of the window that come at once are answered once, and behind a FIN they are in it', () => {
  const served = new Served().open()
  assert.equal(to('wire', served.peer(RST, 3001)).length, 1)
  for (let i = 0; i < 10; i++) assert.equal(to('wire', served.peer(RST, 3001)).length, 0)
  served.now += 500
  assert.equal(to('wire', served.peer(RST, 3001)).length, 1)
  served.peer(ACK | FIN, 1)
  const { connection } = served
  assert.equal(connection.first!.acked, connection.first!.high + 1)
  assert.equal(to('wire', served.peer(RST, 2)).length, 0)
  assert.equal(connection.first!.state, 'dead')
})

test('what comes on a subflow that is gone is answered by a reset that counts', () => {
  const served = new Served().open()
  const second = served.join()
  const subflow = served.connection.subflows[1]!
  const on = { tuple: second, localIsn: subflow.localIsn }
  served.peer(RST | ACK, 1)
  assert.equal(served.connection.first!.state, 'dead')
  const [reset] = to('wire', served.peer(ACK | PSH, 1, { length: 10, map: [1, 1, 10] }))
  assert.equal(reset!.flags & RST, RST)
  assert.equal(served.connection.active, subflow)
  served.peer(ACK, 1, on)
  assert.equal(subflow.state, 'active')
})

test('MP-28: what was lost on a subflow, and reached the peer over another, is filled there: its TCP would wait for it without end', () => {
  const served = new Served().open()
  const second = served.join()
  const on = { tuple: second, localIsn: served.connection.subflows[1]!.localIsn }
  for (const at of [1, 101, 201, 301]) served.local(ACK | PSH, at, 1, 100)
  const sack = [[301, 401]] as const
  // Not yet: the local TCP sends it again.
  assert.deepEqual(to('wire', served.peer(ACK, 1, { dataAck: 1, sack })), [])
  served.peer(ACK, 1, { ...on, dataAck: 201 })
  const filled = to('wire', served.peer(ACK, 1, { dataAck: 201, sack }))
  const what = filled.map((out) => [out.seq - LOCAL_ISN, out.payload?.length, dssOf(out)?.map?.length])
  assert.deepEqual(what, [[1, 100, 100]])
  assert.deepEqual(dssOf(filled[0]!)?.map, { dsn: dsnAt(served.key, 1), ssn: 1, length: 100 })
  assert.deepEqual(to('wire', served.peer(ACK, 1, { dataAck: 201, sack })), [], 'once in a round trip')
  served.now += 500
  assert.equal(to('wire', served.peer(ACK, 1, { dataAck: 201, sack })).length, 1)
  // The next hole at once, but not what the local TCP has to send again.
  const [next] = to('wire', served.peer(ACK, 1, { ack: 101, dataAck: 251, sack }))
  assert.deepEqual([next!.seq - LOCAL_ISN, next!.payload?.length], [101, 100])
  const [part] = to('wire', served.peer(ACK, 1, { ack: 201, dataAck: 251, sack }))
  assert.deepEqual([part!.seq - LOCAL_ISN, part!.payload?.length], [201, 50])
  assert.deepEqual(to('wire', served.peer(ACK, 1, { ack: 251, dataAck: 251, sack })), [])
})

test('MP_TCPRST counts on a RST in the window only, and then for its subflow alone', () => {
  const served = new Served().open()
  const second = served.join()
  const subflow = served.connection.subflows[1]!
  const reset = { type: 'reset', transient: false, reason: 1 } as const
  const on = { tuple: second, localIsn: subflow.localIsn, options: [reset] }
  served.peer(ACK, 1, on)
  assert.equal(subflow.state, 'active', 'on an acknowledgement it says nothing')
  const [challenge] = to('wire', served.peer(RST | ACK, 3001, on))
  assert.equal(challenge!.flags & RST, 0)
  served.peer(RST | ACK, 1, on)
  assert.equal(subflow.state, 'dead')
  assert.equal(served.connection.state, 'established')
  const [data] = to('local', served.peer(ACK | PSH, 1, { length: 10, map: [1, 1, 10] }))
  assert.equal(data!.seq, PEER_ISN + 1)
})

test('ADD_ADDR is echoed without its HMAC when that is right, and not at all when it is wrong', () => {
  const served = new Served().open()
  const address = Uint8Array.of(198, 51, 100, 8)
  const hmac = addAddrHmac(nodeSha256, PEER_KEY, served.key.bytes, 3, address, 0)
  const option = { type: 'add-addr', echo: false, id: 3, address, hmac } as const
  const [echo] = to('wire', served.peer(ACK, 1, { options: [option] }))
  assert.deepEqual(optionsOf(echo!)[0], { type: 'add-addr', echo: true, id: 3, address })
  const forged = { ...option, hmac: new Uint8Array(8) }
  assert.deepEqual(to('wire', served.peer(ACK, 1, { options: [forged] })), [])
  assert.equal(served.machine.counts.lies, 1)
})

test('MP_PRIO of the peer: data leave the subflow that it calls a backup, and come back when it does no longer', () => {
  const served = new Served().open()
  const second = served.join()
  const subflow = served.connection.subflows[1]!
  const sentOver = () =>
    to('wire', served.local(ACK | PSH, served.connection.sndMax, 1, 10))[0]!.tuple.remotePort
  assert.equal(sentOver(), 4000)
  served.peer(ACK, 1, { options: [{ type: 'prio', backup: true }] })
  assert.equal(sentOver(), second.remotePort)
  served.peer(ACK, 1, { options: [{ type: 'prio', backup: false }] })
  served.peer(ACK, 1, {
    tuple: second,
    localIsn: subflow.localIsn,
    options: [{ type: 'prio', backup: true }],
  })
  assert.equal(sentOver(), 4000)
})

test('a host that closes before it has said anything sends DATA_FIN behind the keys, though its acknowledgement overtakes', () => {
  const alone = new Alone()
  const own = { ...WIRE, localPort: 5555 }
  alone.out(own, SYN, { seq: LOCAL_ISN })
  alone.in(own, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1, options: [{ ...CAPABLE, key: PEER_KEY }] })
  const [third] = alone.out(own, ACK, { seq: LOCAL_ISN + 1, ack: PEER_ISN + 1 })!
  assert.equal(optionsOf(third!)[0]!.type, 'capable')
  const [fin] = alone.out(own, ACK | FIN, { seq: LOCAL_ISN + 1, ack: PEER_ISN + 1 })!
  const dss = dssOf(fin!)!
  assert.deepEqual([dss.dataFin, dss.map!.ssn, dss.map!.length, fin!.flags & FIN], [true, 0, 1, 0])
  const { localKey } = alone.machine.connections[0]!
  const known: MptcpOption = { type: 'dss', dataFin: false, ack: dsnAt(localKey, 2) }
  const sent = alone.in(own, ACK, { seq: PEER_ISN + 2, ack: LOCAL_ISN + 1, options: [known] })
  assert.equal(to('local', sent)[0]!.ack, LOCAL_ISN + 2, 'its FIN is acknowledged to the local TCP')
})

test('a local TCP that has the FIN of its peer takes acknowledgements behind it only, and gets them there', () => {
  const served = new Served().open()
  served.local(ACK | PSH, 1, 1, 1000)
  served.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 1 })
  served.local(ACK, 1001, 2)
  const [ack] = to('local', served.peer(ACK, 1, { ack: 1001, dataAck: 1001 }))
  assert.deepEqual([ack!.seq, ack!.ack], [PEER_ISN + 2, LOCAL_ISN + 1001])
})

test('data, or a FIN, that the local TCP sends again though the peer has acknowledged them are acknowledged to it', () => {
  const served = new Served().open()
  served.local(ACK | PSH, 1, 1, 1000)
  served.peer(ACK, 1, { ack: 1001, dataAck: 1001 })
  const again = served.local(ACK | PSH, 1, 1, 1000)
  assert.deepEqual(to('wire', again), [], 'the peer is not troubled')
  assert.equal(to('local', again)[0]!.ack, LOCAL_ISN + 1001)
  served.local(ACK | FIN, 1001, 1)
  served.peer(ACK, 1, { ack: 1001, dataAck: 1002 })
  assert.equal(to('local', served.local(ACK | FIN, 1001, 1))[0]!.ack, LOCAL_ISN + 1002)
})

test('the peer closes the subflow that is in use: data go over the other at once, and it is said why', () => {
  const served = new Served().open()
  const second = served.join()
  while (served.machine.pollEvent() !== undefined) {}
  const sent = to('wire', served.peer(ACK | FIN, 1))
  assert.ok(sent.some(({ tuple, flags }) => tuple.remotePort === 4000 && (flags & FIN) !== 0))
  const [moved] = events(served).flatMap((event) => (event.type === 'moved' ? [event.cause] : []))
  assert.equal(moved, 'the peer closed the subflow')
  assert.equal(served.connection.active, served.connection.subflows[1])
  const [data] = to('wire', served.local(ACK | PSH, 1, 1, 10))
  assert.equal(data!.tuple.remotePort, second.remotePort)
})

test('MP-31: data of the local TCP that begin 1 GB beyond what it sent are none of this connection', () => {
  const served = new Served().open()
  assert.deepEqual(to('wire', served.local(ACK | PSH, 1 + (1 << 30) + 1, 1, 10)), [])
  assert.equal(served.connection.sndMax, 1)
  assert.equal(to('wire', served.local(ACK | PSH, 1, 1, 10)).length, 1)
})

test('a subflow that is removed by hand is one that there is, and not the only one', () => {
  const served = new Served().open()
  const remove = (id: number) => served.machine.removeSubflow(0, id, served.now)
  assert.equal(remove(0), false, 'the only one')
  served.join()
  assert.deepEqual([remove(7), remove(1), remove(1)], [false, true, false])
  assert.equal(served.connection.active, served.connection.subflows[0])
})

test('a join is answered with SACK only where both ends have it: the peer in its SYN, the local TCP in its own', () => {
  for (const peer of [false, true])
    for (const local of [false, true]) {
      const served = new Served().open()
      served.connection.localSyn = { ...served.connection.localSyn, sackPermitted: local }
      const tuple = { ...WIRE, remotePort: 4001 }
      const join = { type: 'join', backup: false, id: 2, token: served.key.token, nonce: 7 } as const
      const [answer] = served.in(tuple, SYN, { seq: PEER_ISN, options: [join], plain: !peer })!
      const { length } = answer!.options.filter((byte, i, all) => byte === 4 && all[i + 1] === 2)
      assert.equal(length > 0, peer && local, `${peer}, ${local}`)
    }
})

test('what belongs to no connection and does not open one is left to this host', () => {
  const alone = new Alone({ serve: false })
  assert.equal(
    alone.in(WIRE, SYN, { options: [CAPABLE] }),
    undefined,
    'connections of others are not translated',
  )
  const served = new Served()
  assert.equal(served.in(WIRE, SYN, { options: [CAPABLE], payload: new Uint8Array(3) }), undefined)
  assert.equal(served.in(WIRE, SYN | FIN, { options: [CAPABLE] }), undefined)
  assert.equal(served.in(WIRE, SYN), undefined)
  assert.equal(served.machine.connections.length, 0)
})

test('a connection that is never answered is forgotten after 130 s, whoever opened it', () => {
  for (const opens of [
    (alone: Alone) => alone.in(WIRE, SYN, { seq: PEER_ISN, options: [CAPABLE] }),
    (alone: Alone) => alone.out({ ...WIRE, localPort: 5555 }, SYN, { seq: LOCAL_ISN }),
  ]) {
    const alone = new Alone()
    alone.now = 1000
    opens(alone)
    assert.equal(alone.machine.nextTimeout(), 131_000)
    alone.machine.handleTimeout(130_999)
    assert.equal(alone.machine.connections.length, 1)
    alone.machine.handleTimeout(131_000)
    assert.equal(alone.machine.connections.length, 0)
    assert.equal(alone.machine.nextTimeout(), undefined)
  }
})

test('what comes on a further subflow that is gone is this host’s; while both ends are done a FIN there is acknowledged', () => {
  const served = new Served().open()
  const second = served.join()
  const [, subflow] = served.connection.subflows
  events(served)
  served.peer(RST | ACK, 1, { tuple: second, localIsn: subflow!.localIsn })
  assert.deepEqual(
    events(served).flatMap((event) => (event.type === 'watch' ? [[event.on, event.tuple.remotePort]] : [])),
    [[false, 4001]],
  )
  assert.equal(served.peer(ACK, 1, { tuple: second, localIsn: subflow!.localIsn }), undefined)
  const again = new Served().open()
  again.join()
  const [, other] = again.connection.subflows
  again.local(ACK | FIN, 1, 1)
  again.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 2 })
  again.local(ACK, 2, 2)
  assert.equal(again.connection.state, 'closing')
  const on = { tuple: second, localIsn: other!.localIsn }
  again.peer(ACK | FIN, 1, { ...on, ack: 2 })
  assert.equal(other!.state, 'dead')
  const [known] = to('wire', again.peer(ACK | FIN, 1, { ...on, ack: 2 }))
  assert.deepEqual([known!.ack, known!.flags & RST], [PEER_ISN + 2, 0])
})

test('a SYN/ACK, or a SYN again, on a connection that the peer opened changes nothing', () => {
  const served = new Served().open()
  assert.deepEqual(served.peer(SYN | ACK, 0), [])
  assert.equal(served.connection.state, 'established')
  assert.equal(served.peer(SYN, 0), undefined, 'this host’s TCP answers that')
  assert.equal(served.connection.state, 'established')
})

test('a host that is shut has no room for a segment: its window in bytes, as its SYN scales it', () => {
  const served = new Served().open()
  const { connection } = served
  connection.localSyn = { ...connection.localSyn, scale: 3 }
  connection.segmentSize = 1400
  for (const [window, scale, shut] of [
    [174, 7, true],
    [175, 7, false],
    [1399, -1, true],
    [1400, -1, false],
  ] as const) {
    connection.window = window
    connection.remoteSyn = { ...connection.remoteSyn, scale }
    assert.equal(connection.isShut, shut, `${window}, ${scale}`)
  }
})

test('an id for an address is one that no subflow of ours has, from 1 to 255 and again', () => {
  const served = new Served().open()
  const { connection } = served
  served.join()
  assert.equal(connection.subflows[1]!.addressId, 1)
  assert.equal(connection.nextAddressId(), 2)
  connection.nextAddress = 255
  assert.deepEqual([connection.nextAddressId(), connection.nextAddressId()], [255, 2])
  connection.subflows[1]!.state = 'dead'
  connection.nextAddress = 1
  assert.equal(connection.nextAddressId(), 1)
})

test('of subflows that are gone the first and the newest are kept, the others are forgotten when another begins', () => {
  const served = new Served().open()
  const { connection } = served
  for (let port = 4001; port < 4005; port++) {
    const join = { type: 'join', backup: false, id: 2, token: served.key.token, nonce: 7 } as const
    served.in({ ...WIRE, remotePort: port }, SYN, { seq: PEER_ISN, options: [join] })
    const { localIsn } = connection.subflows.at(-1)!
    connection.subflows.at(-1)!.state = 'active'
    served.peer(RST | ACK, 1, { tuple: { ...WIRE, remotePort: port }, localIsn })
  }
  assert.deepEqual(
    connection.subflows.map(({ tuple }) => tuple.remotePort),
    [4000, 4004],
  )
})
