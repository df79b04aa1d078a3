/** What the local TCP gets of what a peer sends, and what it does not: segment by segment (paper §3.3 to §3.5, RFC 8684 §3.3). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { probe } from '../../../src/mptcp/machine/lifecycle.ts'
import { type OutSegment, payloadLength } from '../../../src/mptcp/machine/segment.ts'
import { dssOf, LOCAL_ISN, PEER_ISN, Served, to } from './served.ts'

const { ACK, FIN, PSH, RST } = TcpFlag
const GB = 1 << 30

/** Acknowledgements that the local TCP got, as offsets. */
const acks = (sent: readonly OutSegment[] | undefined) => to('local', sent).map(({ ack }) => ack - LOCAL_ISN)
const seqs = (sent: readonly OutSegment[] | undefined) => to('local', sent).map(({ seq }) => seq - PEER_ISN)
/** Pure acknowledgements that the peer got. */
const wireAcks = (sent: readonly OutSegment[] | undefined) =>
  to('wire', sent)
    .filter((out) => (out.flags & (FIN | RST)) === 0 && payloadLength(out) === 0)
    .map(({ ack }) => ack - PEER_ISN)

/** The local TCP has sent 1,000 bytes in two segments. */
function sent(peer = {}): Served {
  const served = new Served().open(peer)
  served.local(ACK | PSH, 1, 1, 500)
  served.local(ACK | PSH, 501, 1, 500)
  return served
}

test('MP-42: duplicates of the DATA_ACK are given to the local TCP while data are under way, one by one, and none when nothing is', () => {
  const served = sent()
  for (let i = 0; i < 3; i++) assert.deepEqual(acks(served.peer(ACK, 1, { dataAck: 1 })), [1])
  assert.deepEqual(acks(served.peer(ACK, 1, { ack: 1001, dataAck: 1001 })), [1001])
  assert.deepEqual(acks(served.peer(ACK, 1, { ack: 1001, dataAck: 1001 })), [])
})

test('MP-20: a duplicate that signals something of MPTCP is none of the local TCP’s', () => {
  const served = sent()
  const options = [{ type: 'prio', backup: false }] as const
  for (let i = 0; i < 3; i++) assert.deepEqual(acks(served.peer(ACK, 1, { dataAck: 1, options })), [])
  // Nor is the FIN of a subflow.
  const closing = sent()
  closing.join()
  assert.deepEqual(acks(closing.peer(ACK | FIN, 1, { dataAck: 1 })), [])
})

test('MP-42: a duplicate from before the newest data of the peer, a copy that was late, is none', () => {
  const served = sent()
  served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 100], dataAck: 1 })
  served.local(ACK, 1001, 101)
  assert.deepEqual(acks(served.peer(ACK, 1, { dataAck: 1 })), [])
  assert.deepEqual(acks(served.peer(ACK, 101, { dataAck: 1 })), [1])
})

test('MP-50: an acknowledgement of the subflow alone says nothing with SACK; without it that is all that a peer says of what it has beyond a hole', () => {
  for (const plain of [false, true]) {
    const served = sent({ plain })
    assert.deepEqual(acks(served.peer(ACK, 1, { ack: 501, dataAck: 1 })), plain ? [1] : [])
    // One that moves is no duplicate.
    assert.deepEqual(acks(served.peer(ACK, 1, { ack: 1001, dataAck: 501 })), [501])
  }
})

test('P10: an answer to the keep-alive of the local TCP is given to it, though nothing is under way; it is one', () => {
  const served = sent()
  served.peer(ACK, 1, { ack: 1001, dataAck: 1001 })
  const [alive] = to('wire', served.local(ACK, 1000, 1))
  assert.deepEqual([alive!.seq - LOCAL_ISN, payloadLength(alive!)], [1000, 0])
  assert.deepEqual(acks(served.peer(ACK, 1, { ack: 1001, dataAck: 1001 })), [1001])
  assert.deepEqual(acks(served.peer(ACK, 1, { ack: 1001, dataAck: 1001 })), [])
})

test('P10: the answer to a probe of the proxy is none of the local TCP’s; the next duplicate is', () => {
  const served = sent()
  const { connection } = served
  probe(connection, connection.active!, served.now)
  while (served.machine.poll() !== undefined) {}
  assert.deepEqual(acks(served.peer(ACK, 1, { dataAck: 1 })), [])
  assert.deepEqual(acks(served.peer(ACK, 1, { dataAck: 1 })), [1])
  // Data, or an acknowledgement that moves, are no answer to it.
  probe(connection, connection.active!, served.now)
  while (served.machine.poll() !== undefined) {}
  served.peer(ACK | PSH, 1, { length: 10, map: [1, 1, 10], dataAck: 1 })
  served.local(ACK, 1001, 11)
  served.peer(ACK, 11, { ack: 501, dataAck: 501 })
  assert.deepEqual(acks(served.peer(ACK, 11, { ack: 501, dataAck: 501 })), [])
  assert.deepEqual(acks(served.peer(ACK, 11, { ack: 501, dataAck: 501 })), [501])
})

test('P10: a keep-alive of the peer, one byte before what is due, is answered on its subflow, and one farther back is not', () => {
  const served = new Served().open()
  served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 100] })
  assert.deepEqual(wireAcks(served.peer(ACK, 100)), [1])
  assert.deepEqual(wireAcks(served.peer(ACK, 99)), [])
  assert.deepEqual(wireAcks(served.peer(ACK, 101)), [])
  served.local(ACK, 1, 101)
  assert.deepEqual(wireAcks(served.peer(ACK, 100)), [101])
})

test('P10: where the local TCP had shut its window, or nearly, a keep-alive of the peer asks it whether it has opened', () => {
  for (const [window, asks] of [
    [0, true],
    [1, true],
    [2, false],
  ] as const) {
    const served = new Served().open()
    served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 100] })
    served.local(ACK, 1, 101, 0, { window })
    assert.deepEqual(seqs(served.peer(ACK, 100)), asks ? [100] : [], `${window}`)
  }
})

test('a packet with data and a DATA_ACK gives the local TCP one segment; a single byte is one, too', () => {
  const served = sent()
  const given = to(
    'local',
    served.peer(ACK | PSH, 1, { length: 1, map: [1, 1, 1], ack: 1001, dataAck: 1001 }),
  )
  assert.deepEqual(
    given.map((out) => [out.seq - PEER_ISN, out.ack - LOCAL_ISN, payloadLength(out), out.segmentSize]),
    [[1, 1001, 1, 0xffff]],
  )
  const end = to('local', served.peer(ACK, 2, { map: [2, 0, 1], fin: true, ack: 1001, dataAck: 1001 }))
  assert.deepEqual(
    end.map((out) => [out.seq - PEER_ISN, out.flags & FIN]),
    [[2, FIN]],
  )
})

test('P5: the window is that of packets with a DSS or with data, scaled; a bare acknowledgement may be older than both', () => {
  const served = new Served().open()
  const windowAfter = (more: Parameters<Served['peer']>[2], at = 1) => {
    const [given] = to('local', served.peer(more?.length ? ACK | PSH : ACK, at, more))
    return given?.window
  }
  assert.equal(windowAfter({ dataAck: 1, window: 1000 }), undefined, 'no news')
  assert.equal(windowAfter({ window: 500 }), undefined)
  assert.equal(served.connection.remoteWindow, 1000 * 128)
  assert.equal(windowAfter({ dataAck: 1, window: 700 }), 700)
  assert.equal(served.connection.remoteWindow, 700 * 128)
  served.peer(ACK, 1, { map: [1, 1, 20], window: 700 })
  assert.equal(windowAfter({ length: 10, window: 600 }), 600, 'a box has cut it from its option')
  assert.equal(windowAfter({ length: 10, window: 0 }, 11), 0)
})

test('an acknowledgement of what was not sent on the subflow makes the whole segment count for nothing', () => {
  const served = sent()
  const data = { length: 10, map: [1, 1, 10] } as const
  assert.deepEqual(served.peer(ACK | PSH, 1, { ...data, ack: 1002, dataAck: 501 }), [])
  assert.deepEqual(
    [served.machine.counts.lies, served.connection.dataUna, served.connection.rcvMax],
    [1, 1, 1],
  )
  assert.deepEqual(acks(served.peer(ACK | PSH, 1, { ...data, ack: 1001, dataAck: 501 })), [501])
})

test('RFC 8684 §3.3.2: a DATA_ACK counts up to what was sent, the end included, and never goes back', () => {
  for (const [fin, dataAck, counts] of [
    [false, 1001, true],
    [false, 1002, false],
    [true, 1002, true],
    [true, 1003, false],
  ] as const) {
    const served = sent()
    if (fin) served.local(ACK | FIN, 1001, 1)
    const [ack] = acks(served.peer(ACK, 1, { ack: 1001, dataAck }))
    assert.equal(ack, counts ? dataAck : undefined, `${fin}, ${dataAck}`)
    assert.equal(served.machine.counts.lies, counts ? 0 : 1)
  }
  const served = sent()
  served.peer(ACK, 1, { ack: 1001, dataAck: 1001 })
  assert.deepEqual(
    acks(served.peer(ACK | PSH, 1, { ack: 1001, dataAck: 501, length: 10, map: [1, 1, 10] })),
    [1001],
  )
  const closed = new Served().open()
  closed.local(ACK | FIN, 1, 1)
  assert.deepEqual(acks(closed.peer(ACK, 1, { dataAck: 2 })), [2], 'of one that has sent nothing, too')
})

test('RFC 8684 §3.3.1: a mapping is believed within the largest window, to the byte, and else it ends its subflow', () => {
  for (const [what, map, fin, believed] of [
    ['the byte before the stream, as a window probe of Linux', [0, 1, 1], false, true],
    ['before that', [-1, 1, 1], false, false],
    ['data far ahead', [1 + GB - 10, 1, 10], false, true],
    ['farther', [2 + GB - 10, 1, 10], false, false],
    ['on the subflow the SYN', [1, 0, 10], false, false],
    ['far ahead there', [1, 1 + GB, 10], false, true],
    ['farther there', [1, 2 + GB, 10], false, false],
    ['before the SYN', [1, 2 ** 32 - 5, 10], false, false],
    ['an end alone', [1, 0, 1], true, true],
    ['an end before the first byte', [0, 0, 1], true, false],
    ['an end that has no length', [1, 0, 0], true, false],
    ['an end behind a byte', [1, 1, 2], true, true],
  ] as const) {
    const served = new Served().open()
    served.join()
    const out = to('wire', served.peer(ACK, 1, { map: [...map], fin }))
    assert.equal(
      out.some(({ flags }) => (flags & RST) !== 0),
      !believed,
      what,
    )
    assert.equal(served.connection.first!.state, believed ? 'active' : 'dead', what)
    assert.deepEqual([served.machine.counts.lies, served.machine.counts.resets], believed ? [0, 0] : [1, 1])
  }
})

test('RFC 8684 §3.3.1: another mapping of bytes that are acknowledged is old; of one that is not it is a lie', () => {
  for (const [map, believed] of [
    [[51, 1, 100], true],
    [[51, 2, 100], false],
    [[51, 91, 10], true],
    [[51, 92, 10], false],
  ] as const) {
    const served = new Served().open()
    served.join()
    served.peer(ACK | PSH, 1, { length: 150, map: [1, 1, 150] })
    served.local(ACK, 1, 101)
    served.peer(ACK, 151, { map: [...map] })
    assert.equal(served.connection.first!.state === 'active', believed, `${map}`)
  }
})

test('RFC 8684 §3.3.3: the end of a stream does not move', () => {
  for (const [map, believed] of [
    [[101, 0, 1], true],
    [[102, 0, 1], false],
    [[100, 0, 1], false],
    [[91, 91, 11], true],
    [[91, 91, 10], false],
  ] as const) {
    const served = new Served().open()
    served.join()
    served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 101], fin: true })
    served.peer(ACK, 101, { map: [...map], fin: true })
    assert.equal(served.connection.first!.state === 'active', believed, `${map}`)
  }
})

test('RFC 8684 §3.3.3: an end that is known and comes again is acknowledged to the peer, and not given again', () => {
  const served = new Served().open()
  const again = () => served.peer(ACK, 1, { map: [1, 0, 1], fin: true })
  assert.deepEqual(seqs(again()), [1])
  assert.deepEqual(seqs(again()), [1], 'the local TCP may have lost it')
  served.local(ACK, 1, 2)
  const out = again()
  assert.deepEqual([to('local', out), wireAcks(out)], [[], [1]])
  assert.equal(dssOf(to('wire', out)[0]!)!.ack!.low, (served.connection.remoteKey!.idsnLow + 2) % 2 ** 32)
})

test('MP-35: payload of two mappings is given in two pieces, each at its place; what has none is not given', () => {
  const served = new Served().open()
  served.peer(ACK, 1, { map: [1, 1, 30], dataAck: 1 })
  served.peer(ACK, 1, { map: [101, 31, 30] })
  const given = to('local', served.peer(ACK | PSH, 1, { length: 100 }))
  assert.deepEqual(
    given.map(({ seq, payload }) => [seq - PEER_ISN, payload!.length]),
    [
      [1, 30],
      [101, 30],
    ],
  )
  const at = given.map(({ payload }) => (payload as { at: number }).at)
  assert.equal(at[1]! - at[0]!, 30)
  assert.deepEqual([served.connection.rcvMax, served.connection.first!.high], [131, 61])
  assert.equal(served.machine.counts.unmapped, 1)
  assert.equal(served.connection.first!.receivedBytes, 60)
  assert.deepEqual(seqs(served.peer(ACK | PSH, 61, { length: 10 })), [])
  assert.equal(served.machine.counts.unmapped, 2)
  // What is beside it says the same as ever.
  const other = sent()
  assert.deepEqual(acks(other.peer(ACK | PSH, 1, { length: 10, ack: 1001, dataAck: 501 })), [501])
})

test('MP-36: what is old of a packet, and has no mapping any more, is left out; the rest is given', () => {
  const served = new Served().open()
  served.peer(ACK | PSH, 1, { length: 30, map: [1, 1, 30], dataAck: 1 })
  served.peer(ACK | PSH, 31, { length: 30, map: [101, 31, 30] })
  served.peer(ACK | PSH, 61, { length: 30, map: [31, 61, 70] })
  served.local(ACK, 1, 61)
  // The first is acknowledged, and its mapping is gone.
  assert.equal(served.connection.first!.recv.atSsn(1), undefined)
  assert.deepEqual(seqs(served.peer(ACK | PSH, 1, { length: 60 })), [101])
  assert.equal(served.machine.counts.unmapped, 0)
})

test('MP-38: payload that came already, wholly acknowledged, is acknowledged on its subflow and not given again', () => {
  const served = new Served().open()
  served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 100], dataAck: 1 })
  assert.deepEqual(seqs(served.peer(ACK | PSH, 1, { length: 100 })), [1], 'the local TCP may have lost it')
  served.local(ACK, 1, 101)
  const again = served.peer(ACK | PSH, 1, { length: 100 })
  assert.deepEqual([seqs(again), wireAcks(again)], [[], [101]])
})

test('the FIN of a subflow counts when all before it has come, and is acknowledged when the local TCP has that', () => {
  const served = new Served().open()
  served.join()
  assert.deepEqual(to('wire', served.peer(ACK | FIN, 11)), [], 'ten bytes are missing')
  assert.equal(served.connection.first!.state, 'active')
  const [fin, ...more] = to('wire', served.peer(ACK | FIN | PSH, 1, { length: 10, map: [1, 1, 10] }))
  assert.deepEqual([fin!.flags & FIN, fin!.ack - PEER_ISN, more.length], [FIN, 1, 0])
  assert.deepEqual(wireAcks(served.local(ACK, 1, 11)), [12])
  assert.deepEqual(wireAcks(served.peer(ACK | FIN, 11)), [12], 'again')
})

test('RFC 8684 §3.3.3: once the local TCP has the end, a subflow on which something was lost that came another way is not waited for', () => {
  const served = new Served().open()
  const tuple = served.join()
  const on = { tuple, localIsn: served.connection.subflows[1]!.localIsn }
  served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 101], fin: true })
  served.local(ACK, 1, 102)
  // Bytes 1 to 50 of the second are lost: they came over the first.
  const late = served.peer(ACK | PSH, 51, { ...on, length: 50, map: [51, 51, 50] })
  assert.deepEqual([seqs(late), wireAcks(late)], [[], [101]])
  const [known] = wireAcks(served.peer(ACK | FIN, 201, on))
  assert.equal(known, 202)
  assert.deepEqual(wireAcks(served.peer(ACK | FIN, 201, on)), [202], 'and that stays')
  const other = new Served().open()
  const second = { tuple: other.join(), localIsn: other.connection.subflows[1]!.localIsn }
  other.peer(ACK, 1, { map: [1, 0, 1], fin: true })
  other.local(ACK, 1, 2)
  assert.deepEqual(wireAcks(other.peer(ACK, 51, second)), [], 'an empty packet brings nothing')
  assert.equal(other.connection.subflows[1]!.acked, 1)
})

test('MP-46, MP-48: what the peer has beyond a hole, by its subflow or by blocks there, is SACK for the local TCP', () => {
  const blocksOf = (served: Served, more: Parameters<Served['peer']>[2]) => {
    const [ack] = to('local', served.peer(ACK, 1, more))
    const { options } = ack ?? {}
    if (options === undefined || options.length === 0) return []
    const view = new DataView(options.buffer, options.byteOffset)
    const count = (options[3]! - 2) / 8
    return Array.from({ length: count }, (_, i) => [
      view.getUint32(4 + 8 * i) - LOCAL_ISN,
      view.getUint32(8 + 8 * i) - LOCAL_ISN,
    ])
  }
  assert.deepEqual(blocksOf(sent(), { dataAck: 1, sack: [[501, 1001]] }), [[501, 1001]])
  assert.deepEqual(
    blocksOf(sent(), {
      ...{ dataAck: 1 },
      sack: [
        [801, 901],
        [601, 701],
      ],
    }),
    [
      [601, 701],
      [801, 901],
    ],
  )
  assert.deepEqual(blocksOf(sent(), { dataAck: 1, sack: [[501, 1002]] }), [], 'of what was never sent')
  assert.deepEqual(blocksOf(sent(), { dataAck: 1, sack: [[901, 601]] }), [])
  assert.deepEqual(blocksOf(sent({ plain: true }), { dataAck: 1, sack: [[501, 1001]] }), [])
  // Over two subflows: the second has all of its own, and the first nothing.
  const served = new Served().open()
  served.local(ACK | PSH, 1, 1, 500)
  const tuple = served.join()
  served.connection.subflows[1]!.sackPermitted = true
  served.machine.handover(0, 'acc1', 0)
  served.peer(ACK, 1, { options: [{ type: 'prio', backup: true }] })
  served.local(ACK | PSH, 501, 1, 500)
  const on = { tuple, localIsn: served.connection.subflows[1]!.localIsn, dataAck: 1 }
  const [ack] = to('local', served.peer(ACK, 1, { ...on, ack: 501 }))
  const view = new DataView(ack!.options.buffer, ack!.options.byteOffset)
  assert.deepEqual([view.getUint32(4) - LOCAL_ISN, view.getUint32(8) - LOCAL_ISN], [501, 1001])
})

test('flags of congestion and of a push are handed on both ways, those of one subflow or one end are not', () => {
  const { ECE, CWR, URG } = { ECE: TcpFlag.ECE, CWR: TcpFlag.CWR, URG: 0x20 }
  const served = new Served().open()
  const given = to('local', served.peer(ACK | PSH | ECE | CWR | URG, 1, { length: 10, map: [1, 1, 10] }))
  assert.deepEqual(
    given.map(({ flags }) => flags),
    [ACK | PSH | ECE | CWR],
  )
  const [data] = to('wire', served.local(ACK | PSH | ECE | CWR | URG | FIN, 1, 11, 10))
  assert.equal(data!.flags, ACK | PSH | ECE | CWR)
})
