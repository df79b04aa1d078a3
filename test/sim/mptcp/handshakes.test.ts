/** How connections and further subflows begin and end, packet by packet and to the millisecond (RFC 8684 §3.1, §3.2, §3.7). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { joinAckHmac, joinHmac, joinReplyHmac, keyOf } from '../../../src/mptcp/machine/keys.ts'
import { type OutSegment, payloadLength } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import { Alone, CAPABLE, type Fields, optionsOf, segmentOf } from './alone.ts'
import { ACCESSES, dssOf, LOCAL_ISN, Opened, PEER_ISN, PEER_KEY, Served, to, WIRE } from './served.ts'

const { SYN, ACK, FIN, RST, PSH } = TcpFlag
const REMOTE = keyOf(nodeSha256, PEER_KEY)
const RESET = { type: 'reset', transient: false, reason: 1 } as const

const isSyn = ({ flags }: OutSegment) => (flags & SYN) !== 0
/** What a SYN offers. */
const offer = (out: OutSegment) => {
  const { mss, scale, sackPermitted } = segmentOf(out)
  return { mss, scale, sackPermitted }
}

// Connections of this host.

test('MP-15: the SYN/ACK is given to the local TCP without MPTCP, its scale and SACK as they were', () => {
  const [, answer] = new Opened().handshake()
  const [out, ...more] = answer!
  assert.equal(more.length, 0)
  assert.deepEqual([out!.to, out!.seq, out!.ack, out!.flags], ['local', PEER_ISN, LOCAL_ISN + 1, SYN | ACK])
  assert.deepEqual([out!.window, out!.access, optionsOf(out!)], [1000, undefined, []])
  assert.deepEqual(offer(out!), { mss: 1432, scale: 7, sackPermitted: true })
})

test('P3: the MSS leaves room for a DSS on every access, of 1,280 bytes at the least, whatever the peer takes', () => {
  for (const [mtu, mss, want, family] of [
    [1500, 1460, 1432, 4],
    [9000, 8960, 1432, 4],
    [1400, 1460, 1332, 4],
    [1000, 1460, 1212, 4],
    [1500, 1300, 1272, 4],
    [1500, 0, 508, 4],
    [1500, 100, 88, 4],
    [1500, 1440, 1412, 16],
    [1400, 1440, 1312, 16],
  ] as const) {
    const alone = new Alone()
    const address = (last: number) => new Uint8Array(family).fill(10, 0, 1).fill(last, family - 1)
    const own = { local: address(1), localPort: 5555, remote: address(2), remotePort: 80 }
    alone.machine.setAccesses([{ name: 'acc1', addresses: [own.local], mtu, backup: false }], 0)
    alone.out(own, SYN, { seq: 10 })
    const options = [{ ...CAPABLE, key: PEER_KEY }]
    const [out] = alone.in(own, SYN | ACK, { seq: 70, ack: 11, options, mss })!
    assert.equal(offer(out!).mss, want, `${mtu}, ${mss}`)
    alone.out(own, ACK, { seq: 11, ack: 71 })
    const [data] = alone.out(own, ACK | PSH, { seq: 11, ack: 71, payload: new Uint8Array(3000) })!
    assert.equal(data!.segmentSize, want)
  }
})

test('RFC 6298 §3: the first round trip is that of a SYN that was sent once', () => {
  for (const syns of [1, 2]) {
    const opened = new Opened()
    opened.now = 500
    for (let i = 0; i < syns; i++) opened.out(opened.wire, SYN, { seq: LOCAL_ISN })
    opened.now = 540
    const options = [{ ...CAPABLE, key: PEER_KEY }]
    opened.in(opened.wire, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1, options })
    assert.equal(opened.connection.first!.srtt, syns === 1 ? 40 : Number.NaN)
  }
})

test('E-2: two SYNs have the option, the third is as the local TCP wrote it', () => {
  const opened = new Opened()
  const syn = () => opened.out(opened.wire, SYN, { seq: LOCAL_ISN })
  for (let i = 0; i < 2; i++) {
    const [out] = syn()!
    assert.deepEqual(optionsOf(out!), [CAPABLE])
    assert.deepEqual(
      [out!.access, out!.seq, offer(out!)],
      ['acc1', LOCAL_ISN, { mss: 1460, scale: 7, sackPermitted: true }],
    )
  }
  assert.equal(syn(), undefined)
  assert.deepEqual([opened.machine.connections.length, opened.machine.counts.fallbacks], [0, 1])
})

test('MP-22: what cannot be translated is left as it is: data in a SYN, TCP-MD5, ports that are not asked for', () => {
  for (const [fields, ports, taken] of [
    [{}, undefined, true],
    [{ payload: new Uint8Array(1) }, undefined, false],
    [{ md5: true }, undefined, false],
    [{}, [80], true],
    [{}, [443], false],
  ] as readonly (readonly [Fields, readonly number[] | undefined, boolean])[]) {
    const alone = new Alone({ ports })
    const sent = alone.out({ ...WIRE, localPort: 5555, remotePort: 80 }, SYN, fields)
    assert.deepEqual([sent !== undefined, alone.machine.connections.length], [taken, taken ? 1 : 0])
  }
  const served = new Served()
  assert.equal(served.in(WIRE, SYN, { options: [CAPABLE], md5: true }), undefined)
  served.in(WIRE, SYN, { seq: PEER_ISN, options: [CAPABLE] })
  assert.equal(served.out(WIRE, SYN | ACK, { seq: LOCAL_ISN, ack: PEER_ISN + 1, md5: true }), undefined)
  assert.equal(served.machine.connections.length, 0)
})

test('RFC 8684 §3.1, §3.7: a SYN/ACK that asks for checksums, or has no key, makes it plain TCP; one that forbids joins gets none', () => {
  for (const answer of [{ checksum: true }, { key: undefined }]) {
    const opened = new Opened()
    const { key: _, ...rest } = { ...CAPABLE, key: PEER_KEY, ...answer }
    opened.out(opened.wire, SYN, { seq: LOCAL_ISN })
    const options = [answer.key === undefined && 'key' in answer ? rest : { ...rest, key: PEER_KEY }]
    assert.equal(opened.in(opened.wire, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1, options }), undefined)
    assert.equal(opened.machine.connections.length, 0)
  }
  for (const noJoin of [false, true]) {
    const opened = new Opened()
    opened.machine.setAccesses(ACCESSES, 0)
    opened.handshake({ noJoin })
    assert.equal(opened.peer(ACK, 1, { dataAck: 1 })!.some(isSyn), !noJoin)
    assert.equal(
      opened.wait(60_000).some(([, out]) => isSyn(out)),
      !noJoin,
    )
  }
})

test('RFC 5961: a SYN/ACK that comes again is answered when the connection stands, given again before, and one that answers nothing is dropped', () => {
  const opened = new Opened()
  const options = [{ ...CAPABLE, key: PEER_KEY }]
  const answer = (more: Fields = {}) =>
    opened.in(opened.wire, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1, options, ...more })
  const who = (sent: readonly OutSegment[] | undefined) => sent?.map((out) => [out.to, out.flags])
  opened.out(opened.wire, SYN, { seq: LOCAL_ISN })
  assert.deepEqual(who(answer({ ack: LOCAL_ISN + 2 })), [])
  assert.deepEqual(who(answer()), [['local', SYN | ACK]])
  assert.deepEqual(who(answer()), [['local', SYN | ACK]])
  assert.deepEqual(who(answer({ seq: PEER_ISN + 1 })), [['wire', ACK]])
  opened.out(opened.wire, ACK, { seq: LOCAL_ISN + 1, ack: PEER_ISN + 1 })
  assert.deepEqual(who(answer({ options: [] })), [['wire', ACK]], 'an older one')
  opened.peer(ACK, 1, { dataAck: 1 })
  assert.deepEqual(who(answer()), [['wire', ACK]])
  const plain = new Opened()
  plain.out(plain.wire, SYN, { seq: LOCAL_ISN })
  plain.in(plain.wire, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1, options })
  const without = plain.in(plain.wire, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1 })
  assert.equal(without, undefined, 'before the local TCP has answered')
  assert.equal(plain.machine.counts.fallbacks, 1)
})

// Connections of peers.

test('MP-15: a SYN is given to the local TCP without its option; its SYN/ACK gets the key, its scale and SACK as they were', () => {
  const served = new Served()
  const syn = () => served.in(WIRE, SYN, { seq: PEER_ISN, options: [CAPABLE] })
  for (let i = 0; i < 2; i++) {
    const [out] = syn()!
    assert.deepEqual([out!.to, out!.seq, out!.flags, optionsOf(out!)], ['local', PEER_ISN, SYN, []])
    assert.deepEqual(offer(out!), { mss: 1432, scale: 7, sackPermitted: true })
  }
  const [answer] = served.out(WIRE, SYN | ACK, { seq: LOCAL_ISN, ack: PEER_ISN + 1 })!
  assert.deepEqual(optionsOf(answer!), [{ ...CAPABLE, key: served.key.bytes }])
  assert.deepEqual(offer(answer!), { mss: 1460, scale: 7, sackPermitted: true })
  assert.deepEqual([answer!.seq, answer!.ack, answer!.access], [LOCAL_ISN, PEER_ISN + 1, 'acc1'])
})

test('MP-22: a peer that sends its SYN again without the option gets plain TCP', () => {
  const served = new Served()
  served.in(WIRE, SYN, { seq: PEER_ISN, options: [CAPABLE] })
  assert.equal(served.in(WIRE, SYN, { seq: PEER_ISN }), undefined)
  assert.deepEqual([served.machine.connections.length, served.machine.counts.fallbacks], [0, 1])
})

/** The third packet of a connection of the peer. */
function third(
  fields: Fields & { at?: number; wrong?: boolean; without?: 'key' | 'peerKey'; dataLength?: number },
): {
  readonly served: Served
  readonly sent: OutSegment[] | undefined
} {
  const served = new Served()
  served.in(WIRE, SYN, { seq: PEER_ISN, options: [CAPABLE] })
  served.out(WIRE, SYN | ACK, { seq: LOCAL_ISN, ack: PEER_ISN + 1 })
  const { at = 1, wrong = false, without, dataLength, ...rest } = fields
  const peerKey = wrong ? new Uint8Array(8) : served.key.bytes
  const keys = {
    ...CAPABLE,
    ...(without !== 'key' && { key: PEER_KEY }),
    ...(without === undefined && { peerKey }),
    ...(dataLength !== undefined && { dataLength }),
  }
  const sent = served.in(WIRE, ACK, { seq: PEER_ISN + 1, ack: LOCAL_ISN + at, options: [keys], ...rest })
  return { served, sent }
}

test('RFC 8684 §3.1: the third packet opens the connection, and the listener gets an acknowledgement; or its data alone', () => {
  const { served, sent } = third({})
  assert.deepEqual(
    sent!.map((out) => [out.to, out.seq, out.ack, out.flags, out.window, payloadLength(out)]),
    [['local', PEER_ISN + 1, LOCAL_ISN + 1, ACK, 1000, 0]],
  )
  assert.deepEqual([served.connection.state, served.machine.counts.established], ['established', 1])
  const data = third({ payload: new Uint8Array(10), dataLength: 10 })
  assert.deepEqual(
    data.sent!.map((out) => [out.to, payloadLength(out)]),
    [['local', 10]],
  )
  const none = third({ payload: new Uint8Array(10) })
  assert.deepEqual(
    [none.sent, none.served.connection.state],
    [[], 'established'],
    'without a length they are not mapped',
  )
})

test('RFC 8684 §3.7: a third packet without keys, or with wrong ones, makes it plain TCP; one that overtook them waits; a forged one passes', () => {
  const state = ({ served }: ReturnType<typeof third>) => served.machine.connections[0]?.state
  const wrong = third({ wrong: true })
  assert.deepEqual([wrong.sent, state(wrong), wrong.served.machine.counts.lies], [undefined, undefined, 1])
  for (const without of ['key', 'peerKey'] as const) {
    const half = third({ without })
    assert.deepEqual([half.sent, state(half)], [undefined, undefined])
  }
  const plain = third({ options: [] })
  assert.deepEqual(
    [plain.sent, state(plain), plain.served.machine.counts.fallbacks],
    [undefined, undefined, 1],
  )
  const overtook = third({ options: [{ type: 'dss', dataFin: false, ack: { high: 1, low: 1 } }] })
  assert.deepEqual([overtook.sent, state(overtook)], [[], 'syn-received'])
  const forged = third({ at: 2 })
  assert.deepEqual([forged.sent, state(forged)], [undefined, 'syn-received'])
})

// Further subflows of this host.

test('MP-15, MP-23, RFC 8684 §3.2: a join, packet by packet', () => {
  for (const [window, announced] of [
    [1000, 65_535],
    [10, 1280],
  ] as const) {
    const opened = new Opened()
    opened.machine.setAccesses(ACCESSES, 0)
    opened.handshake()
    opened.local(ACK, 1, 1, 0, { window })
    const sent = opened.peer(ACK, 1, { dataAck: 1 })!
    const [syn, ...more] = sent.filter(isSyn)
    assert.equal(more.length, 0)
    const [, subflow] = opened.connection.subflows
    const { localNonce: nonce, localIsn, tuple } = subflow!
    assert.deepEqual(syn!.tuple, {
      ...tuple,
      local: ACCESSES[1]!.addresses[0],
      remote: WIRE.remote,
      remotePort: 80,
    })
    const { access, seq, ack, flags } = syn!
    assert.deepEqual([access, seq, ack, flags, syn!.window], ['acc2', localIsn, 0, SYN, announced])
    assert.deepEqual(offer(syn!), { mss: 1460, scale: 7, sackPermitted: true })
    assert.deepEqual(optionsOf(syn!), [{ type: 'join', backup: true, id: 1, token: REMOTE.token, nonce }])
    const [third, ...rest] = opened.accept(subflow!, { half: true, nonce: 77 })
    const hmac = joinAckHmac(joinHmac(nodeSha256, opened.key.bytes, PEER_KEY, nonce, 77))
    assert.equal(rest.length, 0)
    assert.deepEqual(optionsOf(third!), [{ type: 'join-ack', hmac }])
    assert.deepEqual([third!.seq, third!.ack, third!.flags], [(localIsn + 1) >>> 0, PEER_ISN + 1, ACK])
    assert.deepEqual(opened.peer(ACK, 1, opened.on(subflow!)), [], 'it says nothing of MPTCP')
    assert.deepEqual([subflow!.state, opened.machine.counts.joins], ['joined', 0])
    assert.deepEqual(opened.peer(ACK, 1, { ...opened.on(subflow!), dataAck: 1 }), [])
    assert.deepEqual([subflow!.state, opened.machine.counts.joins], ['active', 1])
  }
})

test('RFC 7323 §2: a SYN of a join scales windows, and offers SACK, where both ends of the connection do; its own window is in bytes', () => {
  for (const [peer, local, scale, sackPermitted] of [
    [{}, {}, 7, true],
    [{ scale: -1 }, {}, -1, true],
    [{ scale: 0 }, {}, 7, true],
    [{}, { scale: -1 }, -1, true],
    [{ plain: true }, {}, 7, false],
    [{}, { plain: true }, 7, false],
  ] as readonly (readonly [Fields, Fields, number, boolean])[]) {
    const opened = new Opened()
    opened.machine.setAccesses(ACCESSES, 0)
    opened.out(opened.wire, SYN, { seq: LOCAL_ISN, ...local })
    const options = [{ ...CAPABLE, key: PEER_KEY }]
    opened.in(opened.wire, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1, options, ...peer })
    opened.local(ACK, 1, 1)
    const [syn] = opened.peer(ACK, 1, { dataAck: 1 })!.filter(isSyn)
    assert.deepEqual(offer(syn!), { mss: 1460, scale, sackPermitted })
    assert.equal(syn!.window, scale < 0 ? 1000 : 0xffff)
    const served = new Served().open(peer, local)
    const join = { type: 'join', backup: false, id: 2, token: served.key.token, nonce: 7 } as const
    const [answer] = served.in({ ...WIRE, remotePort: 4001 }, SYN, {
      seq: PEER_ISN,
      options: [join],
      ...peer,
    })!
    assert.deepEqual(offer(answer!), { mss: 1460, scale, sackPermitted })
    assert.equal(answer!.window, scale < 0 ? 1000 : 0xffff)
  }
})

/** When each packet of a kind leaves. */
const times = (all: readonly (readonly [number, OutSegment])[], is: (out: OutSegment) => boolean) =>
  all.flatMap(([at, out]) => (is(out) ? [at] : []))

test('MP-26: SYN and third packet of a join are sent six times, each wait twice the last: from 1 s, or three round trips, 200 ms at least, to 10 s', () => {
  for (const [srtt, want] of [
    [Number.NaN, [0, 1000, 3000, 7000, 15_000, 25_000]],
    [30, [0, 200, 600, 1400, 3000, 6200]],
    [100, [0, 300, 900, 2100, 4500, 9300]],
    [5000, [0, 10_000, 20_000, 30_000, 40_000, 50_000]],
  ] as const) {
    const opened = new Opened().open()
    opened.connection.first!.srtt = srtt
    opened.machine.setAccesses(ACCESSES, 0)
    const syns = times(opened.wait(want.at(-1)! + 100), isSyn)
    assert.deepEqual(syns, want, `${srtt}`)
    const again = new Opened().open()
    again.connection.first!.srtt = srtt
    again.machine.setAccesses(ACCESSES, 0)
    const [, subflow] = again.connection.subflows
    again.accept(subflow!, { half: true })
    subflow!.srtt = Number.NaN
    const third = times(again.wait(want.at(-1)! + 100), (out) => optionsOf(out)[0]?.type === 'join-ack')
    assert.deepEqual(third, want.slice(1), `${srtt}`)
  }
  // Then it is given up, and tried anew after a pause.
  const opened = new Opened().open()
  opened.connection.first!.srtt = 30
  opened.machine.setAccesses(ACCESSES, 0)
  opened.wait(12_599)
  assert.equal(opened.connection.subflows[1]!.state, 'syn-sent')
  opened.wait(1)
  assert.equal(opened.connection.subflows[1]!.state, 'dead')
  const [next] = times(opened.wait(20_000), isSyn)
  assert.ok(next! >= 12_600 + 7500 && next! <= 12_600 + 12_500, `${next}`)
})

test('RFC 8684 §3.2: an answer to a join that does not know the keys, or has lost the option, is answered by a reset that says so', () => {
  const wrong = { type: 'join-reply', backup: false, id: 9, hmac: new Uint8Array(8), nonce: 1 } as const
  for (const options of [[wrong], []]) {
    const opened = new Opened().open(ACCESSES)
    const [, subflow] = opened.connection.subflows
    const { tuple, localIsn } = subflow!
    const at = { seq: PEER_ISN, ack: (localIsn + 1) >>> 0, options }
    const [reset] = opened.in(tuple, SYN | ACK, at)!
    assert.deepEqual([reset!.flags & RST, optionsOf(reset!)], [RST, [RESET]])
    assert.deepEqual([subflow!.state, opened.machine.counts.joinsRefused], ['dead', 1])
    assert.equal(opened.connection.state, 'established')
  }
})

test('RFC 6298 §3: the round trip of a join is that of a SYN that was sent once, and of the third packet', () => {
  for (const again of [false, true]) {
    const opened = new Opened()
    opened.now = 500
    opened.open(ACCESSES)
    opened.sent()
    const [, subflow] = opened.connection.subflows
    opened.wait(again ? 1100 : 40)
    opened.accept(subflow!, { half: true })
    assert.equal(subflow!.srtt, again ? Number.NaN : 40)
    opened.now += 80
    opened.peer(ACK, 1, { ...opened.on(subflow!), dataAck: 1 })
    assert.equal(subflow!.srtt, again ? 80 : 45)
  }
})

test('MP-56: with nothing left the third packet is followed by REMOVE_ADDR, and by a DATA_ACK only where the new subflow is a backup', () => {
  for (const multipath of [false, true]) {
    const opened = new Opened({ multipath }).open()
    opened.machine.setAccesses(ACCESSES.slice(1), 0)
    const subflow = opened.connection.subflows.at(-1)!
    opened.sent()
    const sent = opened.accept(subflow, { half: true })
    const types = sent.map((out) => optionsOf(out).map(({ type }) => type))
    assert.deepEqual(types, [['join-ack'], multipath ? ['remove-addr'] : ['dss', 'remove-addr']])
    assert.deepEqual(optionsOf(sent[1]!).at(-1), { type: 'remove-addr', ids: [0] })
  }
  // Nothing else follows it where a subflow works, or nothing is gone that the peer does not know of.
  const third = (opened: Opened) => {
    const subflow = opened.connection.subflows.at(-1)!
    assert.equal(subflow.state, 'syn-sent')
    opened.sent()
    return opened.accept(subflow, { half: true }).length
  }
  assert.equal(third(new Opened().open(ACCESSES)), 1)
  const beside = new Opened().open(ACCESSES)
  beside.accept(beside.connection.subflows[1]!)
  const [one, two] = ACCESSES
  beside.machine.setAccesses([one!, { ...two!, addresses: [Uint8Array.of(192, 0, 2, 7)] }], 0)
  assert.equal(third(beside), 1)
  const known = new Opened().open()
  known.now = 5000
  known.peer(RST | ACK, 1)
  assert.equal(third(known), 1)
})

// Further subflows of the peer.

test('MP-15, RFC 8684 §3.2: a join of the peer, packet by packet', () => {
  for (const [window, announced] of [
    [1000, 65_535],
    [10, 1280],
  ] as const) {
    const served = new Served().open()
    served.local(ACK, 1, 1, 0, { window })
    const tuple = { ...WIRE, remotePort: 4001 }
    const join = { type: 'join', backup: true, id: 2, token: served.key.token, nonce: 7 } as const
    const [answer, ...more] = served.in(tuple, SYN, { seq: 800, options: [join] })!
    assert.equal(more.length, 0)
    const subflow = served.connection.subflows[1]!
    const { localIsn, localNonce: nonce } = subflow
    assert.deepEqual(
      [answer!.seq, answer!.ack, answer!.flags, answer!.window],
      [localIsn, 801, SYN | ACK, announced],
    )
    const hmac = joinReplyHmac(joinHmac(nodeSha256, served.key.bytes, PEER_KEY, nonce, 7))
    assert.deepEqual(optionsOf(answer!), [{ type: 'join-reply', backup: false, id: 1, hmac, nonce }])
    assert.equal(subflow.remoteBackup, true)
    const third = { seq: 801, ack: (localIsn + 1) >>> 0 }
    assert.deepEqual(served.in(tuple, ACK, third), [], 'what overtook it')
    assert.equal(subflow.state, 'syn-received')
    const right = joinAckHmac(joinHmac(nodeSha256, PEER_KEY, served.key.bytes, 7, nonce))
    const [fourth, ...rest] = served.in(tuple, ACK, {
      ...third,
      options: [{ type: 'join-ack', hmac: right }],
    })!
    assert.deepEqual([rest.length, fourth!.flags, fourth!.ack], [0, ACK, 801])
    assert.deepEqual(optionsOf(fourth!), [{ type: 'dss', dataFin: false, ack: dsnAt(REMOTE, 1) }])
    assert.deepEqual([subflow.state, served.machine.counts.joins], ['active', 1])
    assert.equal(served.wait(30_000).length, 0, 'and nothing is sent again')
  }
})

test('RFC 8684 §3.2, P15: a SYN/ACK that nobody answers is sent once more, and given up after 35 s', () => {
  const served = new Served().open()
  const join = { type: 'join', backup: false, id: 2, token: served.key.token, nonce: 7 } as const
  served.in({ ...WIRE, remotePort: 4001 }, SYN, { seq: 800, options: [join] })
  assert.deepEqual(times(served.wait(34_999), isSyn), [1000])
  assert.equal(served.connection.subflows[1]!.state, 'syn-received')
  served.wait(1)
  assert.equal(served.connection.subflows[1]!.state, 'dead')
})

test('RFC 8684 §3.2: a third packet that does not know the keys ends the join', () => {
  const served = new Served().open()
  const tuple = { ...WIRE, remotePort: 4001 }
  const join = { type: 'join', backup: false, id: 2, token: served.key.token, nonce: 7 } as const
  served.in(tuple, SYN, { seq: 800, options: [join] })
  const subflow = served.connection.subflows[1]!
  const wrong = { type: 'join-ack', hmac: new Uint8Array(20) } as const
  assert.deepEqual(
    served.in(tuple, ACK, { seq: 801, ack: (subflow.localIsn + 1) >>> 0, options: [wrong] }),
    [],
  )
  assert.deepEqual([subflow.state, served.machine.counts.joinsRefused], ['dead', 1])
})

test('RFC 8684 §3.2, §3.6: a join to a connection that is over is answered by a reset, one to another port or beyond the limit by nothing', () => {
  const served = new Served({ subflows: 3 }).open()
  const join = (more: Partial<typeof WIRE> = {}, token = served.key.token) => {
    const option = { type: 'join', backup: false, id: 2, token, nonce: 7 } as const
    return served.in({ ...WIRE, ...more }, SYN, { seq: 2 ** 32 - 1, options: [option] })
  }
  assert.equal(join({ remotePort: 4001 }, served.key.token ^ 1), undefined, 'not ours')
  assert.deepEqual(join({ remotePort: 4001, localPort: 81 }), [])
  assert.equal(join({ remotePort: 4001 })!.length, 1)
  assert.equal(join({ remotePort: 4002 })!.length, 1)
  assert.deepEqual(join({ remotePort: 4003 }), [])
  assert.deepEqual([served.connection.subflows.length, served.machine.counts.joinsRefused], [3, 2])
  const { token } = served.key
  served.local(RST | ACK, 1, 1)
  assert.equal(served.connection.state, 'closed')
  const [reset] = join({ remotePort: 4004 }, token)!
  assert.deepEqual([reset!.flags, reset!.seq, reset!.ack, reset!.window], [RST | ACK, 0, 0, 0])
  assert.deepEqual(optionsOf(reset!), [RESET])
  assert.equal(reset!.tuple.remotePort, 4004)
})

test('ADR 0380: where there is no room the subflow that was silent for longest, and more than 3 s, makes it; not the one in use', () => {
  for (const [silent, makes] of [
    [3000, false],
    [3001, true],
  ] as const) {
    const served = new Served({ subflows: 3 }).open()
    const roomy = new Served({ subflows: 3 }).open()
    roomy.join()
    roomy.now = 10_000
    const option = { type: 'join', backup: false, id: 2, token: roomy.key.token, nonce: 7 } as const
    roomy.in({ ...WIRE, remotePort: 4002 }, SYN, { seq: 800, options: [option] })
    assert.equal(roomy.connection.subflows.filter(({ state }) => state !== 'dead').length, 3, 'there is room')
    const join = (remotePort: number) => {
      const option = { type: 'join', backup: false, id: 2, token: served.key.token, nonce: 7 } as const
      served.in({ ...WIRE, remotePort }, SYN, { seq: 800, options: [option] })
      const subflow = served.connection.subflows.at(-1)!
      if (subflow.tuple.remotePort === remotePort) subflow.state = 'active'
    }
    served.now = 1
    join(4001)
    served.now = 500
    join(4002)
    served.now = 1 + silent
    join(4003)
    const living = served.connection.subflows.filter(({ state }) => state !== 'dead')
    assert.deepEqual(
      living.map(({ tuple }) => tuple.remotePort),
      makes ? [4000, 4002, 4003] : [4000, 4001, 4002],
    )
  }
})

test('RFC 8684 §3.3.3: an end that is done takes a join, and says there with a FIN that it is', () => {
  const served = new Served().open()
  served.local(ACK | FIN, 1, 1)
  served.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 2 })
  served.local(ACK, 2, 2)
  assert.equal(served.connection.state, 'closing')
  const tuple = { ...WIRE, remotePort: 4001 }
  const join = { type: 'join', backup: false, id: 2, token: served.key.token, nonce: 7 } as const
  served.in(tuple, SYN, { seq: 800, options: [join] })
  const { localIsn, localNonce } = served.connection.subflows[1]!
  const hmac = joinAckHmac(joinHmac(nodeSha256, PEER_KEY, served.key.bytes, 7, localNonce))
  const third = { seq: 801, ack: (localIsn + 1) >>> 0, options: [{ type: 'join-ack', hmac } as const] }
  const sent = served.in(tuple, ACK, third)!
  const [fin] = sent.filter(({ flags }) => (flags & FIN) !== 0)
  assert.deepEqual(dssOf(fin!)!.ack, dsnAt(REMOTE, 2))
})

test('MP-54: a subflow that the peer began is lost with its address, too', () => {
  const served = new Served().open()
  served.join()
  const [own] = ACCESSES
  served.machine.setAccesses([own!, { ...own!, name: 'acc2' }], 0)
  assert.deepEqual(
    served.connection.subflows.map(({ state }) => state),
    ['active', 'active'],
  )
  served.machine.setAccesses([{ ...own!, addresses: [Uint8Array.of(203, 0, 113, 9)] }], 0)
  assert.deepEqual(
    served.connection.subflows.map(({ state }) => state),
    ['dead', 'dead'],
  )
})

// Ends of subflows.

/** A connection that is done, whose subflow has sent its FIN. */
function done(): Served {
  const served = new Served().open()
  served.local(ACK | FIN, 1, 1)
  served.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 2 })
  const [fin] = to('wire', served.local(ACK, 2, 2)).filter(({ flags }) => (flags & FIN) !== 0)
  assert.deepEqual([fin!.seq - LOCAL_ISN, fin!.flags, dssOf(fin!)!.ack], [1, ACK | FIN, dsnAt(REMOTE, 2)])
  return served
}

const isFin = ({ flags }: OutSegment) => (flags & FIN) !== 0

test('MP-26: the FIN of a subflow is sent six times, each wait twice the last; then the subflow is gone', () => {
  const served = done()
  const all = served.wait(34_999)
  assert.deepEqual(times(all, isFin), [1000, 3000, 7000, 15_000, 25_000])
  for (const [, out] of all) assert.equal(out.seq - LOCAL_ISN, 1)
  assert.equal(served.connection.first!.state, 'closing')
  served.wait(1)
  assert.equal(served.connection.first!.state, 'dead')
})

test('MP-16: both FINs are acknowledged, in either order, and the connection is over', () => {
  for (const first of [true, false]) {
    const served = done()
    const acknowledge = () => served.peer(ACK, 1, { ack: 2, dataAck: 2 })
    const fin = () => served.peer(ACK | FIN, 1, { ack: first ? 2 : 1, dataAck: 2 })
    if (first) acknowledge()
    assert.notEqual(served.connection.state, 'closed')
    const [known] = to('wire', fin())
    assert.deepEqual([known!.ack - PEER_ISN, known!.flags], [2, ACK])
    if (!first) served.peer(ACK, 2, { ack: 2, dataAck: 2 })
    assert.equal(served.connection.state, 'closed')
  }
})

test('a FIN that comes again on a subflow that is gone is acknowledged, with the FIN of this end where the peer has not got that', () => {
  const served = new Served().open()
  const tuple = served.join()
  served.local(ACK | FIN, 1, 1)
  served.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 2 })
  served.local(ACK, 2, 2)
  const second = served.connection.subflows[1]!
  const on = { tuple, localIsn: second.localIsn }
  served.peer(ACK | FIN, 1, { ...on, ack: 2 })
  assert.equal(second.state, 'dead')
  for (const [ack, at, length, flags] of [
    [2, 1, 0, ACK],
    [1, 1, 0, ACK | FIN],
    // What was lost before it came another way.
    [2, 31, 20, ACK],
  ] as const) {
    const [out, ...more] = to('wire', served.peer(ACK | FIN, at, { ...on, ack, length }))
    assert.deepEqual([out!.flags, out!.ack - PEER_ISN, more.length], [flags, at + length + 1, 0])
    if ((flags & FIN) !== 0) assert.equal(out!.seq, second.seqAt(1))
  }
  assert.deepEqual(served.peer(ACK, 51, { ...on, ack: 2 }), [])
})

test('ADR 0301: an end whose last subflow was reset as both were done waits until the other shows there that it knows, and not longer', () => {
  for (const ack of [1, 2]) {
    const served = done()
    served.peer(RST, 1)
    assert.deepEqual([served.connection.first!.state, served.connection.state], ['dead', 'closing'])
    const [known] = to('wire', served.peer(ACK | FIN, 1, { ack }))
    assert.equal(known!.ack - PEER_ISN, 2)
    assert.equal(served.connection.state, ack === 2 ? 'closed' : 'closing')
  }
})

test('what was lost on a subflow as both ends are done nobody has any more: it is reset, not waited for', () => {
  for (const [what, ack, done, resets] of [
    ['lost', 1, true, true],
    ['nothing lost', 11, true, false],
    ['the connection goes on', 1, false, false],
  ] as const) {
    const served = new Served().open()
    const tuple = served.join()
    const on = { tuple, localIsn: served.connection.subflows[1]!.localIsn }
    served.local(ACK | PSH, 1, 1, 10)
    served.peer(ACK, 1, { ...on, dataAck: 11 })
    if (done) {
      served.local(ACK | FIN, 11, 1)
      served.peer(ACK, 1, { ack, map: [1, 0, 1], fin: true, dataAck: 12 })
      served.local(ACK, 12, 2)
    }
    served.peer(ACK | FIN, 1, { ack })
    const first = served.wait(1000).filter(([, out]) => out.tuple.remotePort === 4000)
    assert.deepEqual(
      first.map(([, { flags }]) => flags & (RST | FIN)),
      [resets ? RST : FIN],
      what,
    )
    assert.equal(served.connection.first!.state, resets ? 'dead' : 'closing', what)
  }
})

test('MP-2: a subflow that was closed by both ends is there until the local TCP has acknowledged what it brought', () => {
  const opened = new Opened().open(ACCESSES)
  opened.accept(opened.connection.subflows[1]!)
  assert.ok(opened.machine.removeSubflow(0, 0, 0))
  const { first } = opened.connection
  opened.peer(ACK | PSH | FIN, 1, { ack: 2, length: 10, map: [1, 1, 10] })
  assert.equal(first!.state, 'closing')
  const [ack] = to('wire', opened.local(ACK, 1, 11)).filter(({ access }) => access === 'acc1')
  assert.equal(ack!.ack - PEER_ISN, 12)
  assert.equal(first!.state, 'dead')
})

test('a reset on a subflow that is gone is not answered', () => {
  const served = new Served().open()
  served.join()
  served.peer(RST | ACK, 1)
  assert.deepEqual(served.peer(RST | ACK, 1), [])
  assert.deepEqual(
    served.peer(ACK, 1, { ack: 7 })!.map(({ flags, seq }) => [flags, seq - LOCAL_ISN]),
    [[RST, 7]],
  )
})
