/** The tables of the paper (Fig. 3) and what they compile to. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { choosePair, classify } from '../../../src/translation/policy.ts'
import {
  compile,
  flowId,
  type HidRow,
  identifiers,
  isIdle,
  pairKey,
  type SocketRow,
  Tables,
} from '../../../src/translation/tables.ts'

const ME = '198.51.100.1'
const HERE = '198.51.100.77'

function host(tables: Tables, active: string[], local: string[]): HidRow {
  const row = tables.addHost()
  for (const ip of active) row.active.add(ip)
  for (const ip of local) row.local.add(ip)
  for (const foreign of active)
    for (const ip of local) row.accepted.set(pairKey({ local: ip, foreign }), { local: ip, foreign })
  return row
}

function socket(tables: Tables, hid: number, localPort: number, foreign: string, local = ME): SocketRow {
  const row: SocketRow = {
    id: flowId(6, local, localPort, foreign, 80),
    protocol: 6,
    local,
    localPort,
    foreign,
    foreignPort: 80,
    hid,
    inode: 1,
    taken: 'both',
  }
  tables.addSocket(row)
  return row
}

test('DI-9, Fig. 3: two sockets know one host by different addresses and share another by the same', () => {
  const tables = new Tables()
  const x = host(tables, ['203.0.113.9'], [ME])
  const y = host(tables, ['192.0.2.5'], [ME])
  x.current[4] = { local: ME, foreign: '203.0.113.9' }
  y.current[4] = { local: ME, foreign: '192.0.2.5' }
  const s1 = socket(tables, x.hid, 4001, '203.0.113.8') // an old address of x
  const s1y = socket(tables, y.hid, 4001, '192.0.2.5')
  const s2 = socket(tables, x.hid, 4002, '203.0.113.9')
  const s2y = socket(tables, y.hid, 4002, '192.0.2.5')
  const maps = compile(tables)[4]
  assert.deepEqual([...maps.out_flow.keys()], [s1.id])
  assert.deepEqual([...maps.out_pair.values()][0]?.wire, { local: ME, foreign: '203.0.113.9' })
  assert.deepEqual(new Set(maps.in_flow.values()), new Set([s1, s2]), 'y has not moved and is not touched')
  assert.ok(s1y.hid === y.hid && s2y.hid === y.hid)
})

test('DI-12, DI-4: one element changes for all connections of a host', () => {
  const tables = new Tables()
  const x = host(tables, ['203.0.113.9', '203.0.113.10'], [ME])
  x.current[4] = { local: ME, foreign: '203.0.113.9' }
  for (let i = 0; i < 1000; i++) socket(tables, x.hid, 10_000 + i, '203.0.113.8')
  const before = compile(tables)[4]
  x.current[4] = { local: ME, foreign: '203.0.113.10' }
  const after = compile(tables)[4]
  assert.deepEqual([...after.out_flow.keys()], [...before.out_flow.keys()])
  assert.deepEqual([...after.in_flow.keys()], [...before.in_flow.keys()])
  assert.equal(after.out_pair.size, 1)
  assert.notDeepEqual(after.out_pair, before.out_pair)
})

test('when nothing has moved nothing is translated', () => {
  const tables = new Tables()
  const x = host(tables, ['203.0.113.8'], [ME])
  x.current[4] = { local: ME, foreign: '203.0.113.8' }
  socket(tables, x.hid, 4001, '203.0.113.8')
  assert.ok(isIdle(compile(tables)))
})

test('P2: an address that two hosts had, one after the other: their flows stay apart', () => {
  const tables = new Tables()
  const old = host(tables, ['203.0.113.1'], [ME])
  old.current[4] = { local: ME, foreign: '203.0.113.1' }
  const young = host(tables, ['203.0.113.2'], [ME])
  young.current[4] = { local: ME, foreign: '203.0.113.2' }
  const a = socket(tables, old.hid, 4001, '203.0.113.8')
  const b = socket(tables, young.hid, 4002, '203.0.113.8')
  const maps = compile(tables)[4]
  assert.ok(maps.out_flow.has(a.id) && !maps.out_flow.has(b.id))
  assert.deepEqual(maps.out_one.get(b.id)?.wire, young.current[4])
})

test('P1: a flow with the ports of one that has moved is found; inbound the earlier one stays what it was', () => {
  const tables = new Tables()
  const x = host(tables, ['203.0.113.8'], [HERE])
  x.current[4] = { local: HERE, foreign: '203.0.113.8' }
  const moved = socket(tables, x.hid, 4001, '203.0.113.8')
  const fresh = socket(tables, x.hid, 4001, '203.0.113.8', HERE)
  socket(tables, x.hid, 4002, '203.0.113.8', HERE)
  const maps = compile(tables)[4]
  assert.deepEqual([...maps.twins.values()], [{ flow: fresh, first: moved }])
  assert.ok([...maps.in_flow.values()].includes(moved))
})

test('P1: so is one that is still being opened, which nobody can have proven', () => {
  const tables = new Tables()
  const x = host(tables, ['203.0.113.8'], [HERE])
  x.current[4] = { local: HERE, foreign: '203.0.113.8' }
  const moved = socket(tables, x.hid, 4001, '203.0.113.8')
  const fresh = socket(tables, x.hid, 4001, '203.0.113.8', HERE)
  fresh.taken = undefined
  fresh.opening = true
  const maps = compile(tables)[4]
  assert.deepEqual([...maps.twins.values()], [{ flow: fresh, first: moved }])
  assert.equal(maps.in_flow.size, 1)
})

test('multipath: a single flow goes its own way (choose per flow)', () => {
  const tables = new Tables()
  const x = host(tables, ['203.0.113.8'], [ME, HERE])
  x.current[4] = { local: ME, foreign: '203.0.113.8' }
  const a = socket(tables, x.hid, 4001, '203.0.113.8')
  socket(tables, x.hid, 4002, '203.0.113.8')
  x.overrides.set(a.id, { local: HERE, foreign: '203.0.113.8' })
  const maps = compile(tables)[4]
  assert.deepEqual([...maps.out_one.keys()], [a.id])
  assert.equal(maps.out_flow.size, 0)
})

test('issue 10, C 2: what renumbered flows cost does not grow with the addresses that their host has been seen at', (t) => {
  const tables = new Tables()
  const addresses = Array.from({ length: 64 }, (_, i) => `203.0.113.${i}`)
  const x = host(tables, addresses, [ME, HERE])
  x.current[4] = { local: ME, foreign: '203.0.113.8' }
  for (let port = 4001; port < 4101; port++) {
    const { id } = socket(tables, x.hid, port, '203.0.113.8')
    x.numbers.set(id, { other: port + 1000, known: true, since: 0 })
  }
  let steps = 0
  const values = x.accepted.values.bind(x.accepted)
  t.mock.method(x.accepted, 'values', function* () {
    for (const pair of values()) {
      steps++
      yield pair
    }
  } as never)
  assert.equal(compile(tables, [x.hid])[4].in_port.size, 100)
  assert.ok(steps < 10 * x.accepted.size, `${steps} pairs looked at`)
})

test('E-1: addresses that flows with DIME hosts are bound to are identifiers, others are not', () => {
  const tables = new Tables()
  const x = host(tables, ['203.0.113.8'], [ME])
  socket(tables, x.hid, 4001, '203.0.113.8')
  const stranger = tables.addHost()
  socket(tables, stranger.hid, 4002, '203.0.113.77', HERE)
  assert.deepEqual(identifiers(tables), new Set([ME]))
})

test('DI-25, DI-28: reachable, unreachable, potentially reachable', () => {
  const local = (ip: string, prefixLength: number) => ({ ip, prefixLength, device: 'a' })
  const cases = [
    ['198.51.100.1', 24, '203.0.113.1', 'reachable'],
    ['192.168.1.2', 24, '203.0.113.1', 'reachable'],
    ['203.0.113.1', 24, '192.168.1.2', 'unreachable'],
    ['192.168.1.2', 24, '192.168.7.9', 'potential'],
    ['10.1.0.2', 24, '192.168.7.9', 'unreachable'],
    ['10.1.0.2', 24, '10.200.0.1', 'potential'],
    ['203.0.113.1', 24, '169.254.3.4', 'unreachable'],
    ['169.254.9.9', 16, '169.254.3.4', 'potential'],
    ['169.254.9.9', 16, '203.0.113.1', 'unreachable'],
    ['198.51.100.1', 24, '2001:db8::1', 'unreachable'],
    ['fd00::1', 64, 'fd00:1::1', 'potential'],
    ['2001:db8::2', 64, '2001:db8:1::1', 'reachable'],
  ] as const
  for (const [ip, length, foreign, want] of cases)
    assert.equal(classify(local(ip, length), foreign), want, `${ip}/${length} → ${foreign}`)
})

test('D13: the pair in use stays unless somebody wishes otherwise', () => {
  const a = { pair: { local: ME, foreign: '203.0.113.8' }, confirmedAt: 1 }
  const b = { pair: { local: HERE, foreign: '203.0.113.8' }, confirmedAt: 2 }
  assert.equal(choosePair([a, b], { current: a.pair })?.pair, a.pair)
  assert.equal(choosePair([a, b], {})?.pair, b.pair)
  assert.equal(choosePair([a, b], { current: a.pair, local: () => HERE })?.pair, b.pair)
  assert.equal(choosePair([a, b], { current: b.pair, local: () => HERE, pinned: ME })?.pair, a.pair)
  assert.equal(choosePair([], { current: a.pair }), undefined)
})

test('numbers of rows stay below what a key can hold: after the last comes the first that is free', () => {
  const tables = new Tables()
  const first = tables.addHost()
  tables.addHost(2 ** 20 - 2)
  assert.deepEqual([tables.addHost().hid, tables.addHost().hid], [2 ** 20 - 1, 2])
  tables.removeHost(first.hid)
  assert.equal(tables.addHost().hid, 3)
})
