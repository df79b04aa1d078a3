/** What of a record makes sense (record.ts): each number at its place, on the edge of what is believed and beyond it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { Connection } from '../../../src/mptcp/machine/connection.ts'
import { keyOf } from '../../../src/mptcp/machine/keys.ts'
import { MptcpMachine } from '../../../src/mptcp/machine/machine.ts'
import { Records } from '../../../src/mptcp/machine/record.ts'
import { OptionWriter, tupleKey } from '../../../src/mptcp/machine/segment.ts'
import { Subflow } from '../../../src/mptcp/machine/subflow.ts'
import { DEFAULT_INIT, newCounts } from '../../../src/mptcp/machine/types.ts'

const SLOTS = 8
const LARGEST = 2 ** 50
/** Where the record of connection 1 begins, and in it the first half of the connection and of its first subflow. */
const RECORD = 64 + 2048
const HEAD = RECORD + 16
const FIRST = RECORD + 416

interface Memory {
  readonly view: DataView
  readonly bytes: Uint8Array
  readonly room: () => boolean
}

/** A connection with one subflow, on which 1,000 bytes went each way and 500 wait for their acknowledgement. */
function made(access = 'acc1'): {
  readonly memory: Memory
  readonly it: Connection
  readonly first: Subflow
  readonly records: Records
} {
  const bytes = new Uint8Array(Records.byteLength(SLOTS))
  const memory = { view: new DataView(bytes.buffer), bytes, room: () => true }
  const tuple = {
    ...{ local: Uint8Array.of(10, 1, 0, 2), localPort: 4000 },
    ...{ remote: Uint8Array.of(10, 9, 0, 2), remotePort: 80 },
  }
  const key = tupleKey(tuple)
  const host = {
    ...{ sha: nodeSha256, random: nodeRandom, init: DEFAULT_INIT, writer: new OptionWriter(), accesses: [] },
    ...{ counts: newCounts(), fast: undefined, spare: [], emit: () => {}, tell: () => {} },
  }
  const localKey = keyOf(nodeSha256, new Uint8Array(8).fill(7))
  const it = new Connection({
    ...{ id: 1, host, tuple, key, role: 'client', localKey, tcpIsn: 5 },
    ...{ forwarded: false, inside: undefined, now: 0 },
  })
  it.remoteKey = keyOf(nodeSha256, new Uint8Array(8).fill(9))
  it.state = 'established'
  Object.assign(it, { sndMax: 1501, dataUna: 1001, tan: 1001, rcvMax: 1001, window: 9, remoteWindow: 9000 })
  const first = new Subflow({
    ...{ id: it.nextSubflowId(), tuple, key, addressId: 0, access, state: 'active', localIsn: 77 },
    ...{ backup: false, now: 0 },
  })
  Object.assign(first, { next: 1501, una: 1001, high: 1001, acked: 1001 })
  first.send.append(1001, 1001, 500)
  first.recv.add(501, 501, 500)
  it.subflows.push(first)
  it.active = first
  const records = new Records(memory, SLOTS)
  records.save(it)
  return { memory, it, first, records }
}

/** What is left of it. */
const written = (): Memory => made().memory

const kept = (memory: Memory) => new Records(memory, SLOTS).load()

/** Each as [what, write, last value that is believed, first that is not]. */
type Write = (view: DataView, value: number) => void
const f64 =
  (at: number): Write =>
  (view, value) =>
    view.setFloat64(at, value, true)
const u8 =
  (at: number): Write =>
  (view, value) =>
    view.setUint8(at, value)
const u16 =
  (at: number): Write =>
  (view, value) =>
    view.setUint16(at, value, true)
const u32 =
  (at: number): Write =>
  (view, value) =>
    view.setUint32(at, value, true)

const ROWS: readonly (readonly [string, Write, readonly number[], readonly number[]])[] = [
  // The connection.
  ['half', u32(RECORD), [1], [3, 4_000_000_000]],
  ['state', u8(HEAD), [1, 2, 3], [0, 4, 255]],
  ['subflows', u8(HEAD + 1), [1], [0, 2, 11]],
  ['flags', u8(HEAD + 2), [0, 31], [64, 128]],
  ['next address', u8(HEAD + 3), [1, 255], [0]],
  ['next subflow', u32(HEAD + 4), [1, 9], [0]],
  ['remote window', f64(HEAD + 14), [0, LARGEST], [-1, 0.5, LARGEST + 1, Number.NaN]],
  ['sent', f64(HEAD + 22), [1501, LARGEST], [1000, 1500.5, LARGEST + 1]],
  ['acknowledged to the local TCP', f64(HEAD + 30), [1, 1501], [0, 1502, -1]],
  ['acknowledged by it', f64(HEAD + 38), [1, 1002], [0, 1003]],
  ['received', f64(HEAD + 46), [1000, LARGEST], [999, Number.POSITIVE_INFINITY]],
  ['its FIN', f64(HEAD + 54), [-1, 1, 1501], [0, -2, 0.5]],
  ['the peer’s FIN', f64(HEAD + 62), [-1, 1, 1501], [0, -2, LARGEST + 1]],
  ['where what would be sent again begins', f64(HEAD + 70), [-1, 1, 1501], [0, -2, 0.5]],
  ['addresses that are gone', u8(HEAD + 80), [0, 4], [5]],
  ['local port', u16(HEAD + 149), [1, 65_535], [0]],
  ['remote port', u16(HEAD + 151), [1], [0]],
  ['own scale', u8(HEAD + 163), [0, 15], [16, 255]],
  ['the peer’s scale', u8(HEAD + 167), [0, 15], [16]],
  ['segment size', u16(HEAD + 169), [1], [0]],
  // The subflow.
  ['number', u32(FIRST), [1], [0, 2]],
  ['subflow state', u8(FIRST + 4), [0, 5], [6]],
  ['subflow flags', u8(FIRST + 5), [0, 15], [16]],
  ['mappings', f64(FIRST + 8), [0, 1, LARGEST], [-1, 1.5, LARGEST + 1]],
  ['next', f64(FIRST + 16), [1001, 1501], [1000]],
  ['unacknowledged', f64(FIRST + 24), [0, 1501], [1502, -1]],
  ['highest', f64(FIRST + 32), [1000, LARGEST], [999, LARGEST + 1]],
  ['acknowledged', f64(FIRST + 40), [0, 1002], [1003, -1, 0.5]],
  ['FIN sent', f64(FIRST + 48), [-1, 1501], [0, -2]],
  ['FIN received', f64(FIRST + 56), [-1, 1], [0, 0.5]],
  ['mappings received', u8(FIRST + 64), [0, 1], [2, 4]],
  ['where one begins', f64(FIRST + 65), [1, 501], [0, -1]],
  ['its data', f64(FIRST + 73), [0, 501], [-1, LARGEST + 1]],
  ['its length', f64(FIRST + 81), [1, 500], [0, -1]],
  ['subflow local port', u16(FIRST + 169), [1], [0]],
  ['subflow remote port', u16(FIRST + 171), [1], [0]],
  ['subflow scale', u8(FIRST + 221), [0, 14], [15]],
  // Names of interfaces: up to 15 characters, none that a path or a line could be made of.
  ['inside', u8(HEAD + 101), [0], [1, 16]],
  ['length of an access’s name', u8(FIRST + 173), [0, 1, 4], [5, 16, 255]],
  ['an access’s name', u8(FIRST + 174), [0x21, 0x61, 0xff], [0, 0x0a, 0x20, 0x2f]],
]

for (const [what, write, believed, refused] of ROWS)
  test(`issue 12, part 3: what a record says is believed where it makes sense, and else it is refused and forgotten: ${what}`, () => {
    for (const value of believed) {
      const memory = written()
      write(memory.view, value)
      assert.equal(kept(memory).kept.length, 1, `${value}`)
    }
    for (const value of refused) {
      const memory = written()
      write(memory.view, value)
      const found = kept(memory)
      assert.deepEqual([found.kept.length, found.refused], [0, 1], `${value}`)
      const { bytes, view } = memory
      assert.equal(view.getUint32(RECORD, true), 0)
      assert.ok(
        bytes.subarray(HEAD, HEAD + 400).every((byte) => byte === 0),
        'its keys, too',
      )
    }
  })

test('issue 12, part 3: all that a record has is read as it was written', () => {
  const [connection] = kept(written()).kept
  const { subflows, tuple: _, ...rest } = connection!
  const syn = { mss: 0, scale: -1, sackPermitted: false }
  assert.deepEqual(rest, {
    ...{ id: 1, role: 'client', state: 'established', forwarded: false, inside: undefined, confirmed: false },
    ...{
      answered: false,
      noJoin: false,
      localKey: new Uint8Array(8).fill(7),
      remoteKey: new Uint8Array(8).fill(9),
    },
    ...{
      tcpIsn: 5,
      peerIsn: 0,
      localSyn: syn,
      remoteSyn: syn,
      segmentSize: 536,
      sndMax: 1501,
      dataUna: 1001,
    },
    ...{
      tan: 1001,
      rcvMax: 1001,
      window: 9,
      remoteWindow: 9000,
      finLocal: -1,
      finRemote: -1,
      forgotten: undefined,
      nextSubflow: 1,
    },
    ...{ nextAddress: 1, active: 0, removed: [] },
  })
  const [{ tuple: __, home: ___, ...subflow } = subflows[0]!] = subflows
  assert.deepEqual(subflow, {
    ...{
      id: 0,
      state: 'active',
      addressId: 0,
      remoteAddressId: 0,
      access: 'acc1',
      localIsn: 77,
      remoteIsn: 0,
    },
    ...{
      remoteScale: 0,
      sackPermitted: false,
      backup: false,
      remoteBackup: false,
      localNonce: 0,
      remoteNonce: 0,
    },
    ...{
      next: 1501,
      una: 1001,
      high: 1001,
      acked: 1001,
      finSent: -1,
      finReceived: -1,
      appended: 1,
      whole: true,
    },
    ...{ send: [{ ssn: 1001, dsn: 1001, length: 500 }], recv: [{ ssn: 501, dsn: 501, length: 500 }] },
  })
})

test('MP-56: which bytes the next daemon misses is read as it was written, and kept by that one too', () => {
  const { memory, it, records } = made()
  it.kicked = { dsn: 101, length: 1400, bytes: new Uint8Array(1400) }
  records.save(it)
  const { forgotten } = kept(memory).kept[0]!
  assert.deepEqual(forgotten, { left: 101, right: 1501 })
  it.kicked = undefined
  it.forgotten = forgotten
  records.save(it)
  assert.deepEqual(kept(memory).kept[0]!.forgotten, forgotten)
})

test('issue 12, part 3: mappings are believed from the newest back, as far as each ends where the next begins', () => {
  const RING = FIRST + 448
  for (const [what, write, send] of [
    ['as written', () => {}, 1],
    ['another place', (view: DataView) => view.setUint32(RING, 1002, true), 0],
    ['no length', (view: DataView) => view.setUint32(RING + 8, 0, true), 0],
    ['more than a mapping has', (view: DataView) => view.setUint32(RING + 8, 0x1_0000, true), 0],
    ['data that were not sent', (view: DataView) => view.setUint32(RING + 4, 1002, true), 0],
  ] as const) {
    const memory = written()
    write(memory.view)
    const [subflow] = kept(memory).kept[0]!.subflows
    assert.deepEqual([subflow!.send.length, subflow!.whole], [send, send === 1], what)
  }
})

test('issue 12, part 3: a connection that was left without a subflow that works is kept for a minute', () => {
  const memory = written()
  u8(FIRST + 4)(memory.view, 5)
  const machine = new MptcpMachine({ sha: nodeSha256, random: nodeRandom })
  machine.setAccesses([], 1000)
  assert.equal(machine.restore(kept(memory).kept, 1000), 0)
  machine.resume(1000)
  assert.equal(machine.nextTimeout(), 61_000)
  machine.handleTimeout(61_000)
  const ended = []
  for (let event = machine.pollEvent(); event !== undefined; event = machine.pollEvent())
    if (event.type === 'ended') ended.push(event.reason)
  assert.deepEqual(ended, ['no subflow for a minute'])
})

test('issue 12, part 3: the newest 96 mappings are kept, however many there were, and as far back as the peer has not acknowledged them', () => {
  const { memory, it, first, records } = made()
  const check = (what: string) => {
    records.save(it)
    const [subflow] = kept(memory).kept[0]!.subflows
    const open = first.send.runs.filter(({ ssn, length }) => ssn + length > first.una)
    assert.deepEqual(subflow!.send, open.slice(-96), what)
    assert.deepEqual([subflow!.whole, subflow!.appended], [open.length <= 96, first.send.appended], what)
  }
  let count = 0
  for (const more of [1, 94, 1, 1, 50, 97, 3, 200, 1]) {
    for (let i = 0; i < more; i++) {
      first.send.append(first.next, it.sndMax, 10)
      first.next += 10
      it.sndMax += 10
    }
    count += more
    check(`${count}`)
  }
  // What is acknowledged is not kept, the rest of a mapping is.
  for (const una of [first.next - 955, first.next - 500, first.next - 10, first.next]) {
    first.una = una
    first.send.acknowledge(una, una)
    check(`from ${una}`)
  }
})

test('issue 12, part 3: the newest three mappings that a peer announced are kept, four addresses that are gone, and names of 15 letters', () => {
  const { memory, it, first, records } = made('fifteen-letters')
  for (let i = 0; i < 4; i++) first.recv.add(2001 + 100 * i, 3001 + 200 * i, 50)
  it.repeat = [
    { type: 'prio', backup: false },
    { type: 'remove-addr', ids: [7, 8, 9, 250] },
  ]
  records.save(it)
  const [connection] = kept(memory).kept
  assert.deepEqual(connection!.removed, [7, 8, 9, 250])
  const [subflow] = connection!.subflows
  assert.deepEqual(subflow!.recv, first.recv.runs.slice(-3))
  assert.equal(subflow!.access, 'fifteen-letters')
  const [longer] = kept(made('sixteen-letters-').memory).kept
  assert.equal(longer!.subflows[0]!.access, undefined)
})

test('issue 12, part 3: halves take turns: a kill in the middle of writing leaves what was written before', () => {
  const { memory, it, records } = made()
  const { view } = memory
  assert.equal(view.getUint32(RECORD, true), 1)
  for (const half of [2, 1, 2]) {
    const before = it.tan
    it.rcvMax += 10
    it.tan += 10
    records.save(it)
    assert.equal(view.getUint32(RECORD, true), half)
    assert.equal(kept(memory).kept[0]!.tan, it.tan)
    view.setUint32(RECORD, 3 - half, true)
    assert.equal(kept(memory).kept[0]!.tan, before)
    view.setUint32(RECORD, half, true)
  }
  // Before it speaks MPTCP both ways nothing is written; what is over is not kept.
  it.state = 'syn-sent'
  it.tan++
  records.save(it)
  assert.equal(kept(memory).kept[0]!.tan, it.tan - 1)
  records.forget(it.id)
  assert.deepEqual(kept(memory).kept, [])
})

test('issue 12, part 3: a subflow whose place in the record is another, since one before it was forgotten, has its mappings there', () => {
  const { memory, it, first, records } = made()
  const further = (state: 'dead' | 'active', localPort: number) => {
    const tuple = { ...first.tuple, localPort }
    const subflow = new Subflow({
      ...{ id: it.nextSubflowId(), tuple, key: tupleKey(tuple), addressId: 1, access: 'acc1', state },
      ...{ localIsn: 7, backup: false, now: 0 },
    })
    it.subflows.push(subflow)
    return subflow
  }
  const gone = further('active', 4001)
  const stays = further('active', 4002)
  for (const [i, subflow] of [gone, stays].entries())
    for (let n = 0; n < 3; n++) {
      subflow.send.append(subflow.next, it.sndMax, 100 + i)
      subflow.next += 100 + i
      it.sndMax += 100 + i
    }
  records.save(it)
  gone.state = 'dead'
  assert.deepEqual(it.dropDead(), [gone])
  for (const what of ['once', 'again']) {
    records.save(it)
    const [, found] = kept(memory).kept[0]!.subflows
    assert.deepEqual([found!.id, found!.tuple.localPort, found!.whole], [2, 4002, true], what)
    assert.deepEqual(found!.send, stays.send.runs, what)
  }
})
