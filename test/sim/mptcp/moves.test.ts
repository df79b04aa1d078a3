/** Which subflow carries data, what the peer is told of it and when, and when a silent one is asked or left: to the millisecond. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { type OutSegment, payloadLength } from '../../../src/mptcp/machine/segment.ts'
import type { AccessInfo } from '../../../src/mptcp/machine/types.ts'
import { optionsOf, segmentOf } from './alone.ts'
import { ACCESSES, events, LOCAL_ISN, Opened, PEER_ISN, Served, to } from './served.ts'

const { SYN, ACK, FIN, RST, PSH } = TcpFlag
const [ACC1, ACC2] = ACCESSES as [AccessInfo, AccessInfo]
const ACC3: AccessInfo = { name: 'acc3', addresses: [Uint8Array.of(192, 0, 2, 65)], mtu: 1500, backup: false }

const isSyn = ({ flags }: OutSegment) => (flags & SYN) !== 0
/** What the peer is told beside data: when, where, what. */
const signals = (all: readonly (readonly [number, OutSegment])[]) =>
  all.flatMap(([at, out]) => {
    const options = optionsOf(out).filter(({ type }) => type === 'prio' || type === 'remove-addr')
    return options.length === 0
      ? []
      : [[at, out.access, ...options.map((each) => (each.type === 'prio' ? each.backup : each.type))]]
  })

/** A connection whose subflow on acc1 is in use, with others on the further accesses, of known round trips. */
function several(accesses: readonly AccessInfo[], rtts: readonly number[] = []): Opened {
  const opened = new Opened().open(accesses)
  for (const each of opened.connection.subflows) if (each.id > 0) opened.accept(each, { id: 10 + each.id })
  opened.sent()
  events(opened)
  opened.connection.subflows.forEach((each, i) => {
    each.srtt = rtts[i] ?? Number.NaN
  })
  return opened
}

test('MP-55: by hand: the new subflow is named no backup three times, the old one a backup as often, once the new one carries data', () => {
  for (const [rtts, named, left] of [
    [
      [30, 100],
      [0, 200, 400],
      [300, 500, 700],
    ],
    [
      [200, 20],
      [0, 200, 400],
      [60, 460, 860],
    ],
    [
      [30, 250],
      [0, 500, 1000],
      [300, 500, 700],
    ],
    [
      [Number.NaN, Number.NaN],
      [0, 200, 400],
      [300, 500, 700],
    ],
  ] as const) {
    const opened = several([ACC1, ACC2], rtts)
    assert.ok(opened.machine.handover(0, 'acc2', 0))
    const all = signals(opened.wait(5000))
    assert.deepEqual(
      all,
      [...named.map((at) => [at, 'acc2', false]), ...left.map((at) => [at, 'acc1', true])].sort(
        (a, b) => Number(a[0]) - Number(b[0]),
      ),
      `${rtts}`,
    )
    const [moved] = events(opened).filter(({ type }) => type === 'moved')
    assert.deepEqual(moved, {
      ...{ type: 'moved', connection: 0, from: 'acc1', to: 'acc2', cause: 'asked for', gap: Number.NaN },
    })
    assert.equal(opened.machine.counts.handovers, 1)
  }
})

test('MP-55: one that is moved back before the old subflow is left leaves it no more; nothing is said of where it is already', () => {
  const opened = several([ACC1, ACC2], [30, 30])
  opened.machine.handover(0, 'acc1', 0)
  assert.deepEqual([opened.wait(1000), events(opened)], [[], []])
  opened.machine.handover(0, 'acc2', opened.now)
  opened.wait(50)
  opened.machine.handover(0, 'acc1', opened.now)
  const left = signals(opened.wait(3000)).filter(([, , backup]) => backup === true)
  assert.deepEqual(
    left.map(([, access]) => access),
    ['acc2', 'acc2', 'acc2'],
  )
  // And what was called a backup is called none when it is used again.
  opened.machine.handover(0, 'acc2', opened.now)
  const named = signals(opened.wait(3000)).filter(([, , backup]) => backup === false)
  assert.deepEqual(
    named.map(([, access]) => access),
    ['acc2', 'acc2', 'acc2'],
  )
})

test('MP-56: of a lost subflow the peer hears at once, alone, and with MP_PRIO a round trip later, 20 ms at least, and once more', () => {
  for (const [srtt, times] of [
    [100, [0, 100, 300]],
    [5, [0, 20, 220]],
    [300, [0, 300, 900]],
    [Number.NaN, [0, 200, 400]],
  ] as const) {
    const opened = several([ACC1, ACC2], [30, srtt])
    opened.now = 1000
    opened.machine.setAccesses([ACC2], 1000)
    const all = signals(opened.wait(1500)).map(([at, ...rest]) => [Number(at) - 1000, ...rest])
    assert.deepEqual(all, [
      [times[0], 'acc2', 'remove-addr'],
      [times[1], 'acc2', 'remove-addr', false],
      [times[2], 'acc2', 'remove-addr', false],
    ])
    const [moved] = events(opened).filter(({ type }) => type === 'moved')
    assert.deepEqual(moved, {
      ...{
        type: 'moved',
        connection: 0,
        from: 'acc1',
        to: 'acc2',
        cause: 'acc1 does not work any more',
        gap: 1000,
      },
    })
  }
})

test('MP-56: what goes first after a break is said to have arrived only where SACK shows whether it has: a middlebox may have removed that', () => {
  for (const sackPermitted of [true, false]) {
    const opened = new Opened().both()
    const { machine, connection } = opened
    const subflow = connection.subflows[1]!
    subflow.sackPermitted = sackPermitted
    for (const at of [1, 1001]) opened.local(ACK, at, 1, 1000)
    machine.setAccesses([ACC2], opened.now)
    const sent = opened.sent()
    const first = to('wire', sent).find(({ payload }) => payload !== undefined)
    assert.equal(first?.tuple, subflow.tuple)
    const isTold = to('local', sent).some((out) => segmentOf(out).sack.length > 0)
    assert.equal(isTold, sackPermitted)
  }
})

test('MP-31: what the local TCP sends while no subflow works leaves no gap on the next one', () => {
  const opened = new Opened().open()
  for (const at of [1, 1001]) opened.local(ACK, at, 1, 1000)
  opened.machine.setAccesses([], opened.now)
  for (const at of [2001, 3001, 4001]) opened.local(ACK, at, 1, 1000)
  opened.machine.setAccesses([ACC2], opened.now)
  const subflow = opened.connection.subflows.at(-1)!
  opened.sent()
  const data = to('wire', opened.accept(subflow)).filter(({ payload }) => payload !== undefined)
  assert.deepEqual(
    data.map(({ seq }) => seq),
    [subflow.seqAt(1)],
  )
  assert.equal(opened.connection.kicked!.dsn, 1001)
})

test('MP-56: the peer hears of each subflow that is lost, four at a time, and once where the one in use stays', () => {
  const further = [2, 3, 4, 5, 6, 7].map((n) => ({
    ...ACC2,
    name: `acc${n}`,
    addresses: [Uint8Array.of(192, 0, 2, n)],
  }))
  const opened = several([ACC1, ...further])
  opened.machine.setAccesses([ACC1, ...further.slice(0, 5)], 0)
  const removed = (all: readonly (readonly [number, OutSegment])[]) =>
    all.flatMap(([, out]) =>
      optionsOf(out).flatMap((each) => (each.type === 'remove-addr' ? [each.ids] : [])),
    )
  assert.deepEqual(removed(opened.wait(0)), [[6]])
  opened.machine.setAccesses([ACC1], 0)
  assert.deepEqual(removed(opened.wait(0)).at(-1), [2, 3, 4, 5])
  assert.deepEqual(
    events(opened).filter(({ type }) => type === 'moved'),
    [],
  )
  opened.wait(10_000)
  assert.deepEqual(removed(opened.wait(60_000)), [], 'that was all')
})

test('a subflow that goes is followed by one that neither end calls a backup, then by one that the peer does, then by a backup access', () => {
  const prio = [{ type: 'prio', backup: true }] as const
  for (const [second, third, want] of [
    ['', '', 'acc2'],
    ['peer', '', 'acc3'],
    ['access', '', 'acc3'],
    ['access', 'peer', 'acc3'],
    ['peer', 'access', 'acc2'],
    ['access', 'access', 'acc2'],
    ['peer', 'peer', 'acc2'],
  ] as const) {
    const accesses = [ACC1, { ...ACC2, backup: second === 'access' }, { ...ACC3, backup: third === 'access' }]
    const opened = several(accesses)
    const [, two, three] = opened.connection.subflows
    if (second === 'peer') opened.peer(ACK, 1, { ...opened.on(two!), options: prio })
    if (third === 'peer') opened.peer(ACK, 1, { ...opened.on(three!), options: prio })
    assert.equal(opened.connection.active!.access, 'acc1')
    opened.machine.setAccesses(accesses.slice(1), 0)
    assert.equal(opened.connection.active!.access, want, `${second}, ${third}`)
  }
})

test('RFC 8684 §3.3.8: a subflow beside another is begun as a backup, one on a backup access always, and with multipath none else', () => {
  for (const multipath of [false, true])
    for (const backup of [false, true]) {
      const opened = new Opened({ multipath })
      opened.machine.setAccesses([ACC1, { ...ACC2, backup }], 0)
      opened.handshake()
      const [syn] = opened.peer(ACK, 1, { dataAck: 1 })!.filter(isSyn)
      const [join] = optionsOf(syn!)
      assert.equal(join!.type === 'join' && join.backup, !multipath || backup)
    }
})

test('a server begins no subflow, and a client none while `standby` is off and one works', () => {
  const served = new Served().open()
  served.machine.setAccesses(ACCESSES, 0)
  assert.deepEqual(
    served.wait(60_000).filter(([, out]) => isSyn(out)),
    [],
  )
  const opened = new Opened({ standby: false }).open(ACCESSES)
  assert.deepEqual(
    opened.wait(60_000).filter(([, out]) => isSyn(out)),
    [],
  )
  opened.machine.setAccesses([ACC2], opened.now)
  const [[, syn] = []] = opened.wait(0).filter(([, out]) => isSyn(out))
  assert.deepEqual(syn!.tuple.local, ACC2.addresses[0])
})

test('an access with another address has lost its subflow, one with one more address has not; without one of the family it gets none', () => {
  const opened = several([ACC1, ACC2])
  const old = opened.connection.subflows[1]!
  const fresh = Uint8Array.of(192, 0, 2, 9)
  opened.machine.setAccesses([ACC1, { ...ACC2, addresses: [fresh, ...ACC2.addresses] }], 0)
  assert.equal(old.state, 'active')
  opened.machine.setAccesses([ACC1, { ...ACC2, addresses: [fresh] }], 0)
  assert.equal(old.state, 'dead')
  const [[, syn] = []] = opened.wait(0).filter(([, out]) => isSyn(out))
  assert.deepEqual(syn!.tuple.local, fresh)
  opened.machine.setAccesses([ACC1, { ...ACC2, addresses: [new Uint8Array(16).fill(1)] }], 0)
  assert.deepEqual(
    opened.wait(60_000).filter(([, out]) => isSyn(out)),
    [],
  )
})

// Silence.

/** When data of the local TCP leave, and nobody answers. */
const asks = (opened: Opened) => opened.local(ACK | PSH, opened.connection.sndMax, 1, 100)

test('a subflow that answers nothing for 100 ms and one and a half round trips is left, where there is another', () => {
  for (const [srtt, patience] of [
    [Number.NaN, 400],
    [40, 160],
  ] as const) {
    const opened = several([ACC1, ACC2], [srtt, 40])
    opened.now = 500
    opened.peer(ACK, 1, { dataAck: 1 })
    opened.now = 1000
    asks(opened)
    opened.wait(50)
    asks(opened)
    opened.wait(patience - 51)
    assert.equal(opened.connection.active!.access, 'acc1')
    opened.wait(1)
    assert.equal(opened.connection.active!.access, 'acc2')
    assert.equal(opened.machine.counts.blackHoles, 1)
    const [moved] = events(opened).filter(({ type }) => type === 'moved')
    assert.deepEqual(
      [moved!.type === 'moved' && moved!.cause, moved!.type === 'moved' && moved!.gap],
      ['acc1 does not answer', 500 + patience],
    )
  }
  // An answer, whatever it says, and it begins anew with the next data.
  const opened = several([ACC1, ACC2], [40, 40])
  asks(opened)
  opened.wait(159)
  opened.peer(ACK, 1, { dataAck: 1 })
  opened.wait(2000)
  assert.equal(opened.connection.active!.access, 'acc1')
  asks(opened)
  opened.wait(160)
  assert.equal(opened.connection.active!.access, 'acc2')
})

test('the end of the local TCP, and what is sent again, have to be answered, too', () => {
  for (const what of ['end', 'again'] as const) {
    const opened = several([ACC1, ACC2], [40, 40])
    asks(opened)
    opened.peer(ACK, 1, { ack: 101, dataAck: what === 'end' ? 101 : 1 })
    opened.wait(5000)
    assert.equal(opened.connection.active!.access, 'acc1')
    opened.connection.first!.srtt = 40
    opened.local(
      what === 'end' ? ACK | FIN : ACK | PSH,
      what === 'end' ? 101 : 1,
      1,
      what === 'end' ? 0 : 100,
    )
    opened.wait(159)
    assert.equal(opened.connection.active!.access, 'acc1', what)
    opened.wait(1)
    assert.equal(opened.connection.active!.access, 'acc2', what)
  }
})

test('where no other subflow is ready one is begun on another access, and the silent one is left once that works', () => {
  const opened = new Opened({ standby: false }).open(ACCESSES)
  opened.connection.first!.srtt = 40
  asks(opened)
  assert.deepEqual(
    opened.wait(159).filter(([, out]) => isSyn(out)),
    [],
  )
  const [[at, syn] = []] = opened.wait(1).filter(([, out]) => isSyn(out))
  assert.deepEqual([at, syn!.access], [160, 'acc2'])
  const [join] = optionsOf(syn!)
  assert.equal(join!.type === 'join' && join.backup, true)
  assert.deepEqual([opened.connection.active!.access, opened.machine.counts.blackHoles], ['acc1', 0])
  opened.accept(opened.connection.subflows[1]!)
  opened.wait(159)
  assert.equal(opened.connection.active!.access, 'acc1')
  opened.wait(1)
  assert.equal(opened.connection.active!.access, 'acc2')
})

test('on the only access there is nothing is left, asked or begun', () => {
  const opened = several([ACC1], [40])
  asks(opened)
  for (let i = 0; i < 9; i++) opened.peer(ACK | PSH, 1 + i, { length: 1, map: [1 + i, 1 + i, 1] })
  opened.sent()
  opened.local(ACK | PSH, 101, 10, 100)
  assert.deepEqual(opened.wait(20_000), [])
  assert.equal(opened.connection.active!.access, 'acc1')
})

/** `count` packets of one byte come, one each `gap` ms. */
function burst(opened: Opened, count: number, gap = 0): void {
  const { rcvMax } = opened.connection
  for (let i = 0; i < count; i++) {
    opened.peer(ACK | PSH, rcvMax + i, { length: 1, map: [rcvMax + i, rcvMax + i, 1] })
    opened.local(ACK, 1, rcvMax + i + 1)
    if (i + 1 < count) opened.wait(gap)
  }
}

/** When the proxy asks, without data, for the byte before the next. */
const probes = (all: readonly (readonly [number, OutSegment])[], next = 1) =>
  all.flatMap(([at, out]) =>
    out.to === 'wire' && out.access === 'acc1' && payloadLength(out) === 0 && out.seq === LOCAL_ISN + next - 1
      ? [at]
      : [],
  )

test('P10: when eight packets or more came within a second each, and no more come, the peer is asked 60 ms later', () => {
  for (const [count, gap, asked] of [
    [8, 0, [60]],
    [7, 0, []],
    [8, 999, [7 * 999 + 60]],
    [8, 1000, []],
    [20, 10, [250]],
  ] as const) {
    const opened = several([ACC1, ACC2], [40, 40])
    burst(opened, count, gap)
    assert.deepEqual(probes(opened.wait(150)), asked, `${count}, ${gap}`)
  }
  // It answers, and is not asked again; it does not, and is left.
  const opened = several([ACC1, ACC2], [40, 40])
  burst(opened, 8)
  opened.wait(60)
  opened.peer(ACK, 9)
  assert.deepEqual(probes(opened.wait(5000)), [])
  assert.equal(opened.connection.active!.access, 'acc1')
  const silent = several([ACC1, ACC2], [40, 40])
  burst(silent, 8)
  silent.wait(219)
  assert.equal(silent.connection.active!.access, 'acc1')
  silent.wait(1)
  assert.equal(silent.connection.active!.access, 'acc2')
})

test('P10: a peer is asked every 600 ms at most, and not while the window of the local TCP is shut', () => {
  const opened = several([ACC1, ACC2], [40, 40])
  burst(opened, 8)
  opened.wait(70)
  opened.peer(ACK, 9)
  burst(opened, 8)
  const [next, ...more] = probes(opened.wait(700))
  assert.deepEqual([next, more.length], [660, 0])
  const shut = several([ACC1, ACC2], [40, 40])
  burst(shut, 8)
  shut.local(ACK, 1, 9, 0, { window: 0 })
  shut.sent()
  assert.deepEqual(probes(shut.wait(1000)), [])
  // It opens, and the peer, which may not hear that, is asked.
  shut.local(ACK, 1, 9, 0, { window: 1000 })
  assert.deepEqual(probes(shut.wait(100)), [1000])
})

test('MP-6: payload on a subflow that the peer was told is a backup makes the proxy ask whether the one in use works', () => {
  for (const multipath of [false, true]) {
    const opened = new Opened({ multipath }).open(ACCESSES)
    const second = opened.connection.subflows[1]!
    opened.accept(second)
    opened.sent()
    opened.wait(1000)
    opened.peer(ACK | PSH, 1, { ...opened.on(second), length: 10, map: [1, 1, 10] })
    assert.deepEqual(probes(opened.wait(100)), multipath ? [] : [1060])
  }
})

test('ADR 0384: after a break the new subflow is asked 60 ms later, unless payload came', () => {
  for (const comes of [false, true]) {
    const opened = several([ACC1, ACC2], [40, 40])
    const second = opened.connection.subflows[1]!
    opened.now = 1000
    opened.machine.setAccesses([ACC2, ACC1], 1000)
    assert.equal(opened.connection.active!.access, 'acc1', 'their order moves nothing')
    opened.machine.setAccesses([ACC2, ACC3], 1000)
    opened.wait(59)
    if (comes) opened.peer(ACK | PSH, 1, { ...opened.on(second), length: 10, map: [1, 1, 10] })
    const asked = opened
      .wait(10)
      .filter(([, out]) => out.access === 'acc2' && out.seq === second.seqAt(second.next - 1))
    assert.deepEqual(
      asked.map(([at]) => at),
      comes ? [] : [1060],
    )
  }
})

// Ends.

test('RFC 8684 §3.4.2: REMOVE_ADDR resets the subflows of these addresses, and moves data off them', () => {
  const opened = several([ACC1, ACC2, ACC3])
  const ids = opened.connection.subflows.map(({ remoteAddressId }) => remoteAddressId)
  assert.deepEqual(ids, [0, 11, 12])
  const sent = opened.peer(ACK, 1, { options: [{ type: 'remove-addr', ids: [0, 12] }] })!
  assert.deepEqual(
    to('wire', sent)
      .filter(({ flags }) => (flags & RST) !== 0)
      .map(({ access }) => access),
    ['acc1', 'acc3'],
  )
  assert.equal(opened.connection.active!.access, 'acc2')
  const causes = events(opened).flatMap((each) => (each.type === 'moved' ? [each.cause] : []))
  assert.deepEqual(causes.slice(0, 1), ['the peer gave up its address'])
  assert.ok(
    !signals(sent.map((out) => [0, out] as const)).some((each) => each.includes('remove-addr')),
    'it knows',
  )
})

test('MP-17: a reset of the local TCP is MP_FASTCLOSE where data go, and a reset on the others; before the peer has shown its keys it is that of plain TCP', () => {
  const opened = several([ACC1, ACC2])
  const sent = opened.local(RST | ACK, 1, 1)!
  assert.deepEqual(
    sent.map((out) => [out.access, out.flags, optionsOf(out)[0]!.type]),
    [
      ['acc1', RST | ACK, 'fastclose'],
      ['acc2', RST | ACK, 'reset'],
    ],
  )
  assert.deepEqual(optionsOf(sent[0]!), [{ type: 'fastclose', key: new Uint8Array(8).fill(2) }])
  assert.deepEqual(optionsOf(sent[1]!), [{ type: 'reset', transient: false, reason: 0 }])
  const fresh = new Opened()
  fresh.handshake()
  assert.equal(fresh.local(RST | ACK, 1, 1), undefined)
  assert.equal(fresh.machine.connections.length, 0)
})

test('RFC 9293 §3.10.7: a reset of the peer before it has shown MPTCP is that of plain TCP; on the last subflow it ends that alone', () => {
  const fresh = new Opened()
  fresh.out(fresh.wire, SYN, { seq: LOCAL_ISN })
  assert.equal(fresh.in(fresh.wire, RST | ACK, { seq: 0, ack: LOCAL_ISN + 1 }), undefined)
  assert.equal(fresh.machine.connections.length, 0)
  const opened = new Opened()
  opened.handshake()
  assert.equal(opened.peer(RST | ACK, 1), undefined)
  assert.equal(opened.machine.connections.length, 0)
  const stands = several([ACC1])
  assert.deepEqual(to('local', stands.peer(RST | ACK, 1)), [])
  assert.equal(stands.connection.state, 'established')
})

test('RFC 9293 §3.10.7.3: a reset of a join counts where it answers the SYN; of the only way it says that the peer has forgotten the connection', () => {
  const opened = new Opened().open(ACCESSES)
  const join = opened.connection.subflows[1]!
  const reset = (flags: number, ack: number) => opened.in(join.tuple, flags, { seq: 0, ack: join.seqAt(ack) })
  for (const [flags, ack] of [
    [RST, 1],
    [RST | ACK, 0],
    [RST | ACK, 2],
  ] as const) {
    assert.deepEqual(reset(flags, ack), [])
    assert.equal(join.state, 'syn-sent')
  }
  reset(RST | ACK, 1)
  assert.deepEqual([join.state, opened.connection.state], ['dead', 'established'])
  const alone = new Opened().open()
  alone.machine.setAccesses([ACC2], 0)
  const only = alone.connection.subflows.at(-1)!
  const [end] = to('local', alone.in(only.tuple, RST | ACK, { seq: 0, ack: only.seqAt(1) }))
  assert.deepEqual([end!.flags & RST, end!.seq], [RST, PEER_ISN + 1])
  assert.equal(alone.connection.state, 'closed')
})

test('a subflow that only begins as both ends are done is given up: by a reset where the peer has seen it', () => {
  const opened = several([ACC1, ACC2])
  opened.machine.setAccesses([ACC1, ACC2, ACC3], 0)
  opened.wait(1)
  const third = opened.connection.subflows.find(({ access }) => access === 'acc3')!
  opened.accept(third, { half: true })
  opened.sent()
  opened.local(ACK | FIN, 1, 1)
  const sent = opened.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 2 })!
  const all = [...sent, ...opened.local(ACK, 2, 2)!].filter(({ to }) => to === 'wire')
  const last = (name: string) => all.filter(({ access }) => access === name).at(-1)!.flags & (FIN | RST)
  assert.deepEqual([last('acc1'), last('acc2'), last('acc3')], [FIN, FIN, RST])
  assert.equal(third.state, 'dead')
})

test('how long a connection is kept of which nothing is heard: a day, five minutes with something unacknowledged, three seconds when it is over', () => {
  const opened = several([ACC1])
  opened.now = 1000
  opened.local(ACK, 1, 1)
  assert.equal(opened.machine.nextTimeout(), 1000 + 24 * 3_600_000)
  opened.now = 2000
  opened.local(ACK | PSH, 1, 1, 10)
  assert.equal(opened.machine.nextTimeout(), 302_000)
  opened.peer(ACK, 1, { ack: 11, dataAck: 11 })
  assert.equal(opened.machine.nextTimeout(), 2000 + 24 * 3_600_000)
  opened.now = 3000
  opened.local(RST | ACK, 11, 1)
  assert.equal(opened.machine.nextTimeout(), 6000)
  // What comes late is answered, and keeps it for as long again, a minute at most.
  const isThere = (at: number) => {
    opened.machine.handleTimeout(at)
    return opened.machine.connections.length === 1
  }
  for (opened.now = 5999; opened.now < 63_000; opened.now += 2999) {
    assert.ok(isThere(opened.now), `${opened.now}`)
    opened.peer(ACK | PSH, 1, { ack: 11, length: 10 })
  }
  const last = opened.now - 2999
  assert.ok(isThere(last + 2999))
  opened.peer(ACK | PSH, 1, { ack: 11, length: 10 })
  assert.ok(!isThere(last + 3000))
  assert.equal(opened.peer(ACK | PSH, 1, { ack: 11, length: 10 }), undefined)
})

test('MP-53: a subflow that is removed by hand is closed in order; if it was in use data go over the best other', () => {
  const accesses = [ACC1, { ...ACC2, backup: true }, ACC3]
  const opened = several(accesses)
  assert.ok(opened.machine.removeSubflow(0, 0, 0))
  const sent = opened.sent()
  assert.deepEqual(
    sent.filter(({ flags }) => (flags & FIN) !== 0).map(({ access, flags }) => [access, flags]),
    [['acc1', ACK | FIN]],
  )
  assert.equal(opened.connection.active!.access, 'acc3')
  assert.equal(opened.connection.first!.state, 'closing')
})

test('as both ends are done nothing is begun on an access that comes, while one subflow is left', () => {
  const opened = several([ACC1])
  opened.local(ACK | FIN, 1, 1)
  opened.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 2 })
  opened.local(ACK, 2, 2)
  assert.equal(opened.connection.state, 'closing')
  opened.machine.setAccesses([ACC1, ACC2], 0)
  assert.deepEqual(
    opened.wait(30_000).filter(([, out]) => isSyn(out)),
    [],
  )
})

test('P11: a connection without any access waits for a minute, and is reset then', () => {
  const opened = several([ACC1, ACC2])
  opened.now = 1000
  opened.machine.setAccesses([], 1000)
  const isReset = ([, out]: readonly [number, OutSegment]) => out.to === 'local' && (out.flags & RST) !== 0
  assert.deepEqual(opened.wait(59_999).filter(isReset), [])
  assert.equal(opened.connection.state, 'established')
  const [[at, reset] = []] = opened.wait(1).filter(isReset)
  assert.deepEqual([at, reset!.seq, reset!.ack], [61_000, PEER_ISN + 1, LOCAL_ISN + 1])
  const reasons = events(opened).flatMap((each) => (each.type === 'ended' ? [each.reason] : []))
  assert.deepEqual(reasons, ['no subflow for a minute'])
  // One that gets a subflow in time does not.
  const found = several([ACC1])
  found.machine.setAccesses([], 0)
  found.wait(59_000)
  found.machine.setAccesses([ACC2], found.now)
  found.accept(found.connection.subflows.at(-1)!)
  found.wait(60_000)
  assert.equal(found.connection.state, 'established')
})

test('ADR 0300: a refused access is tried again at once when it has another address, and not when something else changed', () => {
  const opened = new Opened().open(ACCESSES)
  const join = opened.connection.subflows[1]!
  opened.in(join.tuple, RST | ACK, { seq: 0, ack: join.seqAt(1) })
  const syns = () => opened.wait(0).filter(([, out]) => isSyn(out)).length
  opened.machine.setAccesses([ACC1, { ...ACC2, mtu: 1400 }], 0)
  assert.equal(syns(), 0)
  opened.machine.setAccesses([ACC1, { ...ACC2, addresses: [Uint8Array.of(192, 0, 2, 9)] }], 0)
  assert.equal(syns(), 1)
})

test('MP-22: what a peer says without any option, before it has sent a DATA_ACK, is plain TCP where it answers data or has some', () => {
  for (const [ack, length, answered, plain] of [
    [1, 0, false, false],
    [11, 0, false, true],
    [1, 10, false, true],
    [11, 0, true, false],
    [1, 10, true, false],
  ] as const) {
    const opened = new Opened()
    opened.handshake()
    if (answered) opened.peer(ACK, 1, { dataAck: 1 })
    opened.local(ACK | PSH, 1, 1, 10)
    const passed = opened.peer(ACK, 1, { ack, length }) === undefined
    assert.deepEqual([passed, opened.machine.counts.fallbacks], [plain, plain ? 1 : 0], `${ack}, ${length}`)
    assert.equal(opened.machine.connections.length, plain ? 0 : 1)
  }
})

test('RFC 9293 §3.6.1: the local TCP opens another connection from ports of which the proxy has not seen the end', () => {
  const opened = several([ACC1, ACC2])
  const [old] = opened.machine.connections
  const [syn] = opened.out(opened.wire, SYN, { seq: 77 })!
  assert.deepEqual([syn!.seq, optionsOf(syn!)[0]!.type], [77, 'capable'])
  assert.equal(opened.machine.connections.length, 1)
  assert.notEqual(opened.connection, old)
})

test('RFC 9293 §3.10.7.4: copies of the SYN that come when the connection stands change nothing', () => {
  const opened = several([ACC1])
  const { connection } = opened
  for (let i = 0; i < 4; i++) assert.deepEqual(opened.out(opened.wire, SYN, { seq: LOCAL_ISN }), [])
  assert.equal(opened.connection, connection)
  assert.equal(opened.local(ACK | PSH, 1, 1, 10)!.length, 1)
})
