/** When the kernel may take a connection's packets, what it did becomes the machine's, and how it is taken back (ADR 0230, 0290). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { Connection, type FastPath } from '../../../src/mptcp/machine/connection.ts'
import {
  enterFast,
  isIdleFast,
  leaveFast,
  leaveFastFor,
  readFast,
  staysFastIncoming,
  staysFastOutgoing,
  takeBack,
} from '../../../src/mptcp/machine/fast.ts'
import type { FastLeft, FastNumbers, FastWay } from '../../../src/mptcp/machine/fast-slot.ts'
import { keyOf } from '../../../src/mptcp/machine/keys.ts'
import { OptionWriter, Segment, tupleKey } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import { Subflow } from '../../../src/mptcp/machine/subflow.ts'
import { DEFAULT_INIT, newCounts } from '../../../src/mptcp/machine/types.ts'
import type { Run } from '../../../src/mptcp/tables.ts'
import type { MptcpOption } from '../../../src/mptcp/wire.ts'

const NEVER = Number.NEGATIVE_INFINITY
const KNOWN = { mss: 1460, scale: 7, sackPermitted: true }
const TUPLE = {
  ...{ local: Uint8Array.of(10, 1, 0, 2), localPort: 40_000 },
  ...{ remote: Uint8Array.of(10, 9, 0, 2), remotePort: 80 },
}
/** As the machine left it, and nothing happened since. */
const STILL: FastNumbers = {
  ...{ sends: true, receives: true, sndMax: 0, rcvMax: 0, tan: 0, dataUna: 0, una: 0 },
  ...{ window: 0, remoteWindow: 0, srtt: 0, heardAt: NEVER, askedAt: NEVER, expectedAt: NEVER },
  ...{ dataAt: NEVER, burst: 0 },
}

class Kernel implements FastPath {
  readonly mappings = 4
  readonly begun: FastWay[] = []
  hasRoom = true
  numbers: Partial<FastNumbers> = {}
  sent: FastLeft['sent'] = []
  readonly advanced: (readonly Run[])[] = []

  begin(_connection: Connection, way: FastWay) {
    this.begun.push(way)
    if (!this.hasRoom) return undefined
    const read = (): FastNumbers => ({ ...STILL, ...this.numbers })
    const end = () => ({ numbers: read(), sent: this.sent, way: { localPort: 40_000, out: 0, in: 0 } })
    return { read, end, advance: (_s: number, _r: number, sent: readonly Run[]) => this.advanced.push(sent) }
  }

  left = () => undefined
}

interface Made {
  readonly kernel: Kernel
  readonly it: Connection
  readonly first: Subflow
}

function subflow(it: Connection, localPort: number): Subflow {
  const tuple = { ...TUPLE, localPort }
  const made = new Subflow({
    ...{ id: it.nextSubflowId(), tuple, key: tupleKey(tuple), addressId: 0, access: 'acc1' },
    ...{ state: 'active', localIsn: 77, backup: false, now: 0 },
  })
  made.sackPermitted = true
  made.remoteScale = 7
  it.subflows.push(made)
  return made
}

/** 50,000 bytes went each way over the only subflow there is, and all are acknowledged. */
function made(forwarded = false): Made {
  const kernel = new Kernel()
  const host = {
    ...{ sha: nodeSha256, random: nodeRandom, init: DEFAULT_INIT, writer: new OptionWriter(), accesses: [] },
    ...{ counts: newCounts(), fast: kernel, spare: [], emit: () => {}, tell: () => {} },
  }
  const localKey = keyOf(nodeSha256, new Uint8Array(8).fill(7))
  const it = new Connection({
    ...{ id: 0, host, tuple: TUPLE, key: tupleKey(TUPLE), role: 'client', localKey, tcpIsn: 5 },
    ...{ forwarded, inside: undefined, now: 0 },
  })
  Object.assign(it, {
    state: 'established',
    confirmed: true,
    answered: true,
    localSyn: KNOWN,
    remoteSyn: KNOWN,
  })
  it.remoteKey = keyOf(nodeSha256, new Uint8Array(8).fill(9))
  it.sndMax = it.dataUna = it.tan = it.rcvMax = 50_001
  const first = subflow(it, 40_000)
  first.next = first.una = first.high = first.acked = 50_001
  it.active = first
  return { kernel, it, first }
}

/** All go over a second subflow, which began 40,000 bytes later than the connection out, and 30,000 in. */
function moved(): Made & { readonly second: Subflow } {
  const base = made()
  const second = subflow(base.it, 40_001)
  second.next = second.una = 10_001
  second.high = second.acked = 20_001
  base.it.active = second
  return { ...base, second }
}

/** What is under way on the second subflow: 500 bytes out, 1,000 in. */
function busy(): Made & { readonly second: Subflow } {
  const base = moved()
  const { it, second } = base
  second.send.append(10_001, 50_001, 500)
  second.next = 10_501
  it.sndMax = 50_501
  second.recv.add(20_001, 50_001, 1000)
  second.high = 21_001
  it.rcvMax = 51_001
  return base
}

const taken = ({ it, kernel }: Made): boolean => {
  enterFast(it, 0)
  return kernel.begun.length > 0
}

test('issue 12, part 3: the kernel takes a connection whose bytes each way go over one subflow, and says where its numbers begin', () => {
  const alone = made()
  assert.ok(taken(alone))
  assert.deepEqual(alone.kernel.begun[0], { subflow: alone.first, out: 0, in: 0, from: 1 })
  const later = moved()
  assert.ok(taken(later))
  assert.deepEqual(later.kernel.begun[0], { subflow: later.second, out: -40_000, in: -30_000, from: 50_001 })
  const under = busy()
  assert.ok(taken(under))
  assert.deepEqual(under.kernel.begun[0]!.from, 50_001)
  assert.deepEqual(under.kernel.advanced, [[{ ssn: 10_001, dsn: 50_001, length: 500 }]])
  assert.deepEqual(under.it.fastWay, under.kernel.begun[0])
})

const REFUSED: readonly (readonly [string, (made: Made) => void])[] = [
  ['no subflow works', ({ it }) => Object.assign(it, { active: undefined })],
  ['its subflow has said its end', ({ first }) => Object.assign(first, { finSent: 50_001 })],
  ['its subflow has heard the end', ({ first }) => Object.assign(first, { finReceived: 50_001 })],
  ['it is not established', ({ it }) => Object.assign(it, { state: 'pre-established' })],
  ['the peer has not shown its keys', ({ it }) => Object.assign(it, { confirmed: false })],
  ['the peer may fall back', ({ it }) => Object.assign(it, { answered: false })],
  ['the local TCP is done', ({ it }) => Object.assign(it, { finLocal: 50_001 })],
  ['the peer is done', ({ it }) => Object.assign(it, { finRemote: 50_001 })],
  ['the TCPs have no SACK', ({ it }) => Object.assign(it, { localSyn: { ...KNOWN, sackPermitted: false } })],
  ['the peer’s subflow has no SACK', ({ first }) => Object.assign(first, { sackPermitted: false })],
  ['the local TCP has asked for an answer', ({ it }) => Object.assign(it, { probing: true })],
  ['the proxy has', ({ first }) => Object.assign(first, { probing: true })],
  [
    'the peer has to be told something',
    ({ it }) => Object.assign(it, { repeat: [{ type: 'prio', backup: false }] }),
  ],
  ['its subflow counts windows otherwise', ({ first }) => Object.assign(first, { remoteScale: 6 })],
  [
    'more mappings are under way than the kernel can have',
    ({ it, first }) => {
      for (let i = 0; i < 5; i++) first.send.append(50_001 + i, 50_001 + i, 1)
      first.next = it.sndMax = 50_006
    },
  ],
  [
    'an earlier mapping has other constants',
    ({ it, first }) => {
      first.send.append(50_001, 49_801, 100)
      first.send.append(50_101, 50_001, 100)
      first.next = 50_201
      it.sndMax = 50_101
    },
  ],
  [
    'what came earlier, and is not acknowledged, has other constants',
    ({ it, first }) => {
      first.recv.add(50_001, 50_101, 100)
      first.recv.add(50_101, 50_001, 100)
      first.high = 50_201
      it.rcvMax = 50_201
    },
  ],
  ['another subflow is about to be left', ({ it }) => Object.assign(subflow(it, 9), { leaveAt: 5 })],
  [
    'what went out on a lost subflow is not acknowledged',
    ({ it }) => {
      const lost = Object.assign(subflow(it, 9), { state: 'dead' })
      lost.send.append(1, 49_902, 100)
    },
  ],
  [
    'what came on a lost subflow is not acknowledged',
    ({ it }) => {
      const lost = Object.assign(subflow(it, 9), { state: 'dead' })
      lost.recv.add(1, 49_902, 101)
    },
  ],
  ['another subflow has data under way', ({ it }) => void subflow(it, 9).send.append(1, 40_001, 100)],
  [
    'another subflow has brought what is not acknowledged there',
    ({ it }) => Object.assign(subflow(it, 9), { high: 2 }),
  ],
]

for (const [what, change] of REFUSED)
  test(`issue 12, part 3: the kernel does not take a connection while ${what}`, () => {
    const it = made()
    change(it)
    assert.equal(taken(it), false)
  })

test('issue 12, part 3: nor that of a host behind this one, nor before there was much', () => {
  assert.equal(taken(made(true)), false)
  const little = made()
  little.it.fastFrom = 100_002 - 65_535
  assert.equal(taken(little), false)
  little.it.fastFrom--
  assert.equal(taken(little), true)
})

test('issue 12, part 3: what other subflows have left that is acknowledged keeps no connection from the kernel', () => {
  const it = made()
  const lost = Object.assign(subflow(it.it, 9), { state: 'dead' as const })
  lost.send.append(1, 49_901, 100)
  lost.recv.add(1, 49_901, 100)
  Object.assign(subflow(it.it, 10), { high: 101, acked: 101 })
  it.first.recv.add(49_001, 48_001, 1000)
  assert.equal(taken(it), true)
  assert.equal(it.kernel.begun[0]!.from, 1)
})

test('issue 12, part 3: on a later subflow all that is under way must have its constants, also what is missing', () => {
  const rows: readonly (readonly [boolean, (made: Made & { second: Subflow }) => void])[] = [
    // Unacknowledged bytes from before that subflow, on the connection, then on the subflow.
    [false, ({ it }) => Object.assign(it, { dataUna: 50_000 })],
    [true, ({ it }) => Object.assign(it, { dataUna: 50_002 })],
    [false, ({ second }) => Object.assign(second, { una: 10_000 })],
    [true, ({ second }) => Object.assign(second, { una: 10_002 })],
    // A hole on the subflow before the first byte that came and has these constants.
    [false, ({ second }) => Object.assign(second, { acked: 20_000 })],
    [
      true,
      ({ second, it }) => {
        second.acked = 20_002
        it.tan = 50_002
      },
    ],
  ]
  for (const [i, [fits, change]] of rows.entries()) {
    const it = busy()
    change(it)
    assert.equal(taken(it), fits, `row ${i}`)
  }
  // What came first lies beyond a hole of the connection: that hole is one of the subflow, too, or it is not.
  for (const [acked, fits] of [
    [19_501, true],
    [20_001, false],
  ] as const) {
    const it = moved()
    it.second.recv.add(20_001, 50_501, 500)
    it.second.high = 20_501
    it.it.rcvMax = 51_001
    it.second.acked = acked
    assert.equal(taken(it), fits, `${acked}`)
  }
})

test('issue 12, part 3: where the kernel has no room, it is asked again after twice as much, and 64 MB at most', () => {
  const it = made()
  it.kernel.hasRoom = false
  assert.ok(taken(it))
  assert.deepEqual([it.it.fast, it.it.fastAfter, it.it.fastFrom], [undefined, 131_072, 100_002])
  it.it.fastAfter = 48 << 20
  it.it.fastFrom = 2 - (48 << 20)
  enterFast(it.it, 0)
  assert.equal(it.it.fastAfter, 64 << 20)
})

/** The kernel has it, and says this. */
function said(numbers: Partial<FastNumbers>, change: (made: Made) => void = () => {}): Made {
  const it = made()
  change(it)
  assert.ok(taken(it))
  it.kernel.numbers = {
    sndMax: 50_001,
    rcvMax: 50_001,
    tan: 50_001,
    dataUna: 50_001,
    una: 50_001,
    ...numbers,
  }
  readFast(it.it)
  return it
}

test('issue 12, part 3: what the kernel sent and got is the connection’s and its subflow’s', () => {
  const numbers = {
    ...{ sndMax: 60_001, rcvMax: 70_001, tan: 65_001, dataUna: 55_001, una: 54_001, window: 500 },
    ...{ remoteWindow: 300, srtt: 12, heardAt: 100, dataAt: 90, burst: 5 },
  }
  const { it, first } = said(numbers, ({ it }) => Object.assign(it, { window: 900 }))
  assert.deepEqual([it.sndMax, it.rcvMax, it.tan, it.dataUna], [60_001, 70_001, 65_001, 55_001])
  assert.deepEqual([first.next, first.high, first.acked, first.una], [60_001, 70_001, 65_001, 54_001])
  assert.deepEqual([first.sentBytes, first.receivedBytes], [10_000, 20_000])
  assert.deepEqual([it.window, it.remoteWindow, first.srtt], [500, 300 * 128, 12])
  assert.deepEqual([first.heardAt, it.usedAt, first.dataAt, first.burst], [100, 100, 90, 5])
  assert.deepEqual(first.send.runs, [{ ssn: 55_001, dsn: 55_001, length: 5000 }])
  assert.deepEqual(first.recv.runs, [{ ssn: 1, dsn: 1, length: 70_000 }])
})

test('issue 12, part 3: of a kernel that does not send, or not receive, only acknowledgements count there', () => {
  const later = { sndMax: 60_001, rcvMax: 70_001, tan: 65_001, dataUna: 50_001, una: 50_001 }
  const out = said({ ...later, sends: false })
  assert.deepEqual([out.it.sndMax, out.first.next, out.first.sentBytes], [50_001, 50_001, 0])
  assert.deepEqual(out.first.send.runs, [])
  const into = said({ ...later, receives: false })
  assert.deepEqual([into.it.rcvMax, into.first.high, into.first.receivedBytes], [50_001, 50_001, 0])
  assert.equal(into.it.tan, 50_002, 'one for the FIN of the peer, and no more than came')
  assert.equal(into.first.acked, 50_001)
})

test('issue 12, part 3: an older word of the kernel takes nothing back', () => {
  const old = {
    sndMax: 40_001,
    rcvMax: 40_001,
    tan: 40_001,
    dataUna: 40_001,
    una: 40_001,
    window: 7,
    srtt: 0,
  }
  const { it, first } = said({ ...old, heardAt: 5, dataAt: 5, burst: 9, expectedAt: 5 }, ({ it, first }) => {
    Object.assign(it, { window: 900, remoteWindow: 1234, usedAt: 50 })
    Object.assign(first, { heardAt: 50, dataAt: 50, burst: 2, srtt: 3, expectedAt: 60 })
  })
  assert.deepEqual([it.sndMax, it.rcvMax, it.tan, it.dataUna], [50_001, 50_001, 50_001, 50_001])
  assert.deepEqual([first.next, first.high, first.acked, first.una], [50_001, 50_001, 50_001, 50_001])
  assert.deepEqual([it.window, it.remoteWindow, it.usedAt], [900, 1234, 50])
  assert.deepEqual(
    [first.heardAt, first.dataAt, first.burst, first.srtt, first.expectedAt],
    [50, 50, 2, 3, 60],
  )
  const most = said({ dataUna: 99_999, una: 99_999 })
  assert.deepEqual([most.it.dataUna, most.first.una], [50_001, 50_001], 'nor acknowledges what was not sent')
})

test('issue 12, part 3: with the same acknowledgement a window only opens', () => {
  const closes = said({ window: 100 }, ({ it }) => Object.assign(it, { window: 900 }))
  assert.equal(closes.it.window, 900)
  const opens = said({ window: 1000 }, ({ it }) => Object.assign(it, { window: 900 }))
  assert.equal(opens.it.window, 1000)
})

test('issue 12, part 3: what was asked before the peer was heard is answered, and what is asked since waits', () => {
  const at = (askedAt: number) => (it: Made) => Object.assign(it.first, { askedAt })
  const infinity = Number.POSITIVE_INFINITY
  assert.equal(said({ heardAt: 100 }, at(90)).first.askedAt, infinity)
  assert.equal(said({ heardAt: 100 }, at(110)).first.askedAt, 110, 'by this end, meanwhile')
  assert.equal(said({ heardAt: 100, askedAt: 120 }).first.askedAt, 120)
  assert.equal(said({ heardAt: 100, askedAt: 80 }).first.askedAt, infinity)
  assert.equal(said({ heardAt: 100, askedAt: 120 }, at(110)).first.askedAt, 110, 'the first counts')
  assert.equal(said({ heardAt: 100, expectedAt: 130 }).first.expectedAt, 130)
  assert.equal(said({ heardAt: 100, expectedAt: 90 }).first.expectedAt, NEVER)
})

test('issue 12, part 3: a connection that comes back within a second waits for twice as much, and else as at first', () => {
  for (const [after, wait] of [
    [999, 131_072],
    [1000, 65_536],
  ] as const) {
    const { it, kernel, first } = said({ sndMax: 60_001 })
    kernel.sent = [
      { dsn: 50_001, length: 6000 },
      { dsn: 56_001, length: 4000 },
    ]
    leaveFast(it, after)
    assert.deepEqual([it.fast, it.fastWay], [undefined, undefined])
    assert.deepEqual([it.fastAfter, it.fastFrom], [wait, 110_002])
    // Each mapping as the peer got it: one that is sent again carries that of the original.
    assert.deepEqual(first.send.runs, [
      { ssn: 50_001, dsn: 50_001, length: 6000 },
      { ssn: 56_001, dsn: 56_001, length: 4000 },
    ])
  }
})

test('issue 12, part 3: what a killed process left to the kernel counts where the numbers are the same, and else nobody knows what the peer has', () => {
  const left = (way: FastLeft['way'], sends = true): FastLeft => {
    const numbers = {
      ...STILL,
      sends,
      sndMax: 60_001,
      rcvMax: 50_001,
      tan: 50_001,
      dataUna: 50_001,
      una: 50_001,
    }
    return { numbers, sent: [{ dsn: 50_001, length: 10_000 }], way }
  }
  const same = { localPort: 40_000, out: 0, in: 0 }
  for (const [way, sends, known] of [
    [same, true, true],
    [{ ...same, localPort: 40_001 }, true, false],
    [{ ...same, out: 1 }, true, false],
    [{ ...same, in: 4294967295 }, true, false],
    [same, false, false],
  ] as const) {
    const { it, first } = made()
    first.sendKnown = false
    takeBack(it, left(way, sends))
    assert.equal(first.sendKnown, known, JSON.stringify([way, sends]))
    assert.deepEqual(first.send.runs, sends ? [{ ssn: 50_001, dsn: 50_001, length: 10_000 }] : [])
  }
})

test('issue 12, part 3: a connection rests in the kernel for ten seconds of silence, of either end', () => {
  const { it, kernel } = said({ heardAt: 100, askedAt: 100 })
  assert.equal(isIdleFast(it, 10_100), false)
  assert.equal(isIdleFast(it, 10_101), true)
  kernel.numbers = { ...kernel.numbers, askedAt: 200 }
  assert.equal(isIdleFast(it, 10_101), false)
  assert.equal(isIdleFast(made().it, 1e9), false, 'one that is not there')
})

test('issue 12, part 3: new data that the kernel does not send itself leave a connection there; data again, and an end, do not', () => {
  const segment = (seq: number, payloadLength: number, flags = 16) =>
    Object.assign(new Segment(), { seq: 5 + seq, payloadLength, flags })
  const slow = said({ sends: false })
  assert.equal(staysFastOutgoing(slow.it, segment(50_001, 0)), true)
  assert.equal(staysFastOutgoing(slow.it, segment(50_001, 10)), true)
  assert.equal(staysFastOutgoing(slow.it, segment(49_901, 10)), false)
  assert.equal(staysFastOutgoing(slow.it, segment(50_001, 0, 17)), false)
  const quick = said({})
  assert.equal(staysFastOutgoing(quick.it, segment(50_001, 10)), false)
  assert.equal(staysFastOutgoing(quick.it, segment(50_001, 0)), true)
})

/** What a peer sends: payload of so many bytes, from an offset of the subflow. */
function arrives(
  at: number,
  payloadLength: number,
  options: readonly MptcpOption[] = [],
  flags = 16,
): Segment {
  const segment = Object.assign(new Segment(), { seq: at, payloadLength, flags })
  segment.mptcp.push(...options)
  return segment
}

test('issue 12, part 3: what a peer sends leaves a connection in the kernel where that would take it so: data on its subflow that it does not receive itself, and empty segments', () => {
  const { it, first } = said({})
  const other = subflow(it, 9)
  const slow = said({ receives: false })
  const dss: MptcpOption = { type: 'dss', dataFin: false }
  const prio: MptcpOption = { type: 'prio', backup: true }
  for (const [what, stays, connection, on, segment] of [
    ['data', false, it, first, arrives(50_001, 10, [dss])],
    ['an acknowledgement', false, it, first, arrives(50_001, 0, [dss])],
    ['data that it does not receive', true, slow.it, slow.first, arrives(50_001, 10, [dss])],
    ['an acknowledgement there', true, slow.it, slow.first, arrives(50_001, 0)],
    ['a signal', false, slow.it, slow.first, arrives(50_001, 0, [dss, prio])],
    ['an end of data', false, slow.it, slow.first, arrives(50_001, 0, [{ ...dss, dataFin: true }])],
    ['a FIN', false, slow.it, slow.first, arrives(50_001, 0, [dss], 17)],
    ['a reset', false, slow.it, slow.first, arrives(50_001, 0, [dss], 20)],
    ['an acknowledgement elsewhere', true, it, other, arrives(1, 0, [dss])],
    ['data elsewhere', false, it, other, arrives(1, 10, [dss])],
  ] as const)
    assert.equal(staysFastIncoming(connection, on, segment), stays, what)
})

test('ADR 0451: a window probe of Linux, the newest acknowledged byte again in a place of its own, costs a connection little; anything else as much as ever', () => {
  const probe =
    (dsn: number, length = 1, map = length, at = 50_001) =>
    (made: Made) => {
      const option: MptcpOption = {
        ...{ type: 'dss', dataFin: false },
        map: { dsn: dsnAt(made.it.remoteKey!, dsn), ssn: at, length: map },
      }
      return arrives(at, length, [option])
    }
  for (const [what, segment, isProbe] of [
    ['a probe', probe(50_000), true],
    ['a new byte', probe(50_001), false],
    ['two bytes', probe(49_999, 2), false],
    ['a longer mapping', probe(50_000, 1, 2), false],
    ['no place of its own', probe(50_000, 1, 1, 50_000), false],
    ['no mapping', () => arrives(50_001, 1), false],
  ] as const)
    for (const [stayed, from] of [
      [9, 100_002],
      [10, 100_002 - 65_536],
    ] as const) {
      const made = said({})
      leaveFastFor(made.it, made.first, segment(made), stayed)
      assert.equal(made.it.fast, undefined)
      assert.deepEqual(
        [made.it.fastAfter, made.it.fastFrom],
        isProbe ? [65_536, from] : [131_072, 100_002],
        `${what}, ${stayed}`,
      )
    }
  // One that waits for more, since it came back soon before, waits for as much less.
  for (const [stayed, from] of [
    [9, 100_002 - 65_536],
    [10, 100_002 - 131_072],
  ] as const) {
    const made = said({})
    made.it.fastAfter = 131_072
    leaveFastFor(made.it, made.first, probe(50_000)(made), stayed)
    assert.deepEqual([made.it.fastAfter, made.it.fastFrom], [131_072, from])
  }
})
