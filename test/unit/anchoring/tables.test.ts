/** Corners of the anchor's tables: the pool's numbers, groups and their orders, tunnels, keys without ports, rows by id. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FlowKey } from '../../../src/anchoring/tables/flow-key.ts'
import { Groups, MOST_GROUPS } from '../../../src/anchoring/tables/groups.ts'
import { newer, orderLike, orderOf, orderWithin, refreshed } from '../../../src/anchoring/tables/order.ts'
import { IDLE, Paft } from '../../../src/anchoring/tables/paft.ts'
import { VipaPool } from '../../../src/anchoring/tables/pool.ts'
import { TunnelTable, tidOf } from '../../../src/anchoring/tables/tunnels.ts'

const allocate = (bytes: number) => new ArrayBuffer(bytes)
const V6 = { address: new Uint8Array(16).fill(0xfd), prefix: 64 }
const pool = (prefix: number, assigned: [string, number][] = []) =>
  new VipaPool({ v4: { address: Uint8Array.of(10, 1, 2, 200), prefix }, v6: V6, assigned })

function key(n: number, protocol = 17): FlowKey {
  const made = new FlowKey(new Uint8Array(8))
  made.set({
    protocol,
    local: Uint8Array.of(10, 0, 0, 1),
    remote: Uint8Array.of(192, 0, 2, 7),
    localPort: n,
    remotePort: 443,
  })
  made.hash()
  return made
}

test('UP-19: a number is claimed only when it is a host’s and free, and its former number is free then', () => {
  const small = pool(29, [['a', 3]])
  assert.equal(small.capacity, 5)
  for (const number of [0, 1, 3, 7]) assert.equal(small.claim('b', number), false, `${number}`)
  assert.equal(small.claim('b', 2), true)
  assert.equal(small.claim('b', 6), true, 'the last one, without the broadcast address')
  assert.deepEqual([small.size, small.numberOf('b'), small.numberOf('c')], [2, 6, undefined])
  assert.deepEqual(
    ['c', 'd', 'e', 'f'].map((each) => small.assign(each)),
    [2, 4, 5, undefined],
  )
  assert.deepEqual(Object.fromEntries(small.entries()), { a: 3, b: 6, c: 2, d: 4, e: 5 })
  small.release('nobody')
  assert.equal(small.size, 5)
  assert.equal(small.rekey('nobody', 'z'), false)
  assert.equal(small.rekey('a', 'b'), false, 'b has its own')
  assert.equal(small.numberOf('a'), 3)
})

test('UP-19: numbers of an earlier run that the pool has no more, or has given already, are not taken over', () => {
  const smaller = pool(30, [
    ['a', 2],
    ['twice', 2],
    ['anchor', 1],
    ['beyond', 3],
  ])
  assert.deepEqual([...smaller.entries()], [['a', 2]])
  assert.deepEqual(
    [...smaller.v4(2)],
    [10, 1, 2, 202],
    'counted from the network, whatever address was given',
  )
  assert.deepEqual([...smaller.v6(2)], [...new Uint8Array(12).fill(0xfd), 0, 0, 0, 2])
  for (const prefix of [7, 31]) assert.throws(() => pool(prefix), /must be a \/8 to \/30/)
  for (const prefix of [8, 30]) pool(prefix)
  const v4 = { address: Uint8Array.of(10, 0, 0, 0), prefix: 16 }
  assert.throws(() => new VipaPool({ v4, v6: { ...V6, prefix: 97 } }), /must leave 32 bits/)
  assert.equal(new VipaPool({ v4, v6: { ...V6, prefix: 96 } }).last, 65_534)
})

test('E-3 (4): orders rise over sessions and over the end of their 32 bits', () => {
  const EPOCH = 2 ** 40
  const orders = [0, 1, 2 ** 27 - 1, EPOCH, EPOCH + 5, 2 * EPOCH, 15 * EPOCH, 16 * EPOCH, 31 * EPOCH + 7].map(
    orderOf,
  )
  for (let i = 1; i < orders.length; i++) assert.ok(newer(orders[i]!, orders[i - 1]!), `${i}`)
  assert.ok(newer(orderOf(33 * EPOCH), orderOf(31 * EPOCH)), 'a session whose number has begun anew')
  assert.equal(newer(5, 5), false)
  // A request names a counter of the session in use.
  const newest = orderOf(3 * EPOCH + 100)
  assert.equal(orderLike(newest, 40), orderOf(3 * EPOCH + 40))
  assert.equal(orderWithin(newest, 40), newest)
  assert.equal(orderWithin(newest, 140), orderOf(3 * EPOCH + 140))
  // What has not moved for long stays old instead of becoming new.
  const old = orderOf(EPOCH)
  assert.equal(refreshed(old, orderOf(5 * EPOCH)), old)
  const late = orderOf(20 * EPOCH)
  assert.ok(!newer(old, late) || newer(late, refreshed(old, late)))
  assert.ok(newer(late, refreshed(old, late)))
  assert.ok(newer(late, refreshed(late + 1, late)), 'from before the counters began anew')
})

test('UP-31: of the groups of one number the newest handover counts, of those that have flows', () => {
  const paft = new Paft({ allocate, rows: 64 })
  const groups = new Groups(paft)
  const first = groups.home(1, 7, 10)
  assert.equal(groups.home(1, 7, 10), first)
  assert.equal(groups.orderOf(1, 7), undefined, 'no flow is in it')
  paft.insert(key(1), first, 0, 0)
  groups.move(1, 7, 10, 50)
  // A packet has moved a flow to another tunnel: a group of the same number, with what the number was moved by.
  const second = groups.home(1, 7, 11)
  assert.notEqual(second, first)
  assert.deepEqual([groups.order(second), groups.number(second)], [50, 7])
  paft.insert(key(2), second, 0, 0)
  assert.equal(groups.move(1, 7, 12, 60), 2)
  assert.deepEqual(
    [groups.orderOf(1, 7), groups.orderOf(1, 8), groups.orderOf(2, 7)],
    [60, undefined, undefined],
  )
  assert.equal(groups.sameAs(second), first, 'they can be one now')
  assert.equal(groups.rowsOf(1), 2)
  // Others keep theirs.
  const other = groups.home(1, 8, 12)
  paft.insert(key(3), other, 0, 0)
  assert.equal(groups.move(1, 7, 13, 70), 2)
  assert.deepEqual([groups.tunnelOf[other], groups.sameAs(other)], [12, other])
  assert.equal(groups.move(1, 'all', 14, 80), 3)
  groups.leave(1, 99)
  assert.equal(groups.tunnelOf[first], 14)
  groups.leave(1, 14)
  assert.deepEqual([groups.tunnelOf[first], groups.tunnelOf[other]], [0, 0])
})

test('groups of a host that has gone are used again when their flows have gone, not before', () => {
  const paft = new Paft({ allocate, rows: 64 })
  const groups = new Groups(paft)
  const made = Array.from({ length: 100 }, (_, peer) => groups.home(peer, 1, 5))
  assert.equal(new Set(made).size, 100)
  assert.ok(!made.includes(0))
  assert.deepEqual(
    made.map((group) => groups.peerOf[group]),
    made.map((_, peer) => peer),
    'also after it has grown',
  )
  const row = paft.insert(key(1), made[40]!, 0, 0)
  groups.forget(40)
  assert.deepEqual([groups.peerOf[made[40]!], groups.tunnelOf[made[40]!], groups.rowsOf(40)], [-1, 0, 0])
  groups.collect()
  assert.notEqual(groups.home(200, 1, 5), made[40])
  paft.remove(row)
  groups.collect()
  assert.equal(groups.home(201, 1, 5), made[40])
  // Beyond its share a host puts flows where its tunnel is, or else anywhere of its own.
  const own: number[] = []
  for (let number = 0; number < MOST_GROUPS; number++) {
    own.push(groups.home(300, number, 20 + (number % 2)))
    paft.insert(key(1000 + number), own.at(-1)!, 0, 0)
  }
  assert.equal(new Set(own).size, MOST_GROUPS)
  assert.equal(groups.tunnelOf[groups.home(300, 999, 21)], 21)
  assert.ok(own.includes(groups.home(300, 999, 77)))
})

test('UP-24: what changes of a tunnel is replaced, of one that has closed nothing', () => {
  const table = new TunnelTable()
  const row = {
    slot: 70,
    peer: 4,
    localTun: { interface: 'a', index: 1 },
    remoteTun: { endPoint: '192.0.2.1', index: 2 },
    vipNat: {},
    unTid: 9,
  }
  const { localTid } = table.open(row)
  assert.equal(localTid, tidOf(70))
  assert.equal(tidOf(-1), 0)
  table.update(localTid, { remoteTun: { endPoint: '192.0.2.9', index: 3 } })
  assert.deepEqual(table.get(localTid), {
    ...row,
    localTid,
    remoteTun: { endPoint: '192.0.2.9', index: 3 },
  })
  assert.deepEqual(
    [table.atUnTid(4, 9)?.slot, table.atUnTid(4, 8), table.atUnTid(5, 9)],
    [70, undefined, undefined],
  )
  assert.deepEqual([table.isUsable(localTid), table.isUsable(1), table.isUsable(9999)], [true, false, false])
  table.setUsable(localTid, false)
  assert.equal(table.isUsable(localTid), false)
  table.setUsable(localTid, true)
  assert.deepEqual([table.isUsable(localTid), table.peerOf[localTid], table.size], [true, 4, 1])
  table.close(localTid)
  table.update(localTid, { unTid: 1 })
  table.setUsable(localTid, true)
  assert.deepEqual([table.size, table.isUsable(localTid), table.get(localTid)], [0, false, undefined])
})

test('UP-23: what stands for ports in packets without them: an echo’s identifier, an SPI, else nothing', () => {
  const read = (protocol: number, payload: number[], localIsSource = true) => {
    const packet = Uint8Array.of(
      ...[0x45, 0, 0, 20 + payload.length, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7],
      ...payload,
    )
    const made = new FlowKey(new Uint8Array(8))
    assert.ok(made.read(new DataView(packet.buffer), 0, packet.length, localIsSource))
    return made.ports >>> 0
  }
  const eight = [1, 2, 3, 4, 5, 6, 7, 8]
  for (const protocol of [6, 17, 33, 132, 136]) {
    assert.equal(read(protocol, eight), 0x01020304, `${protocol}`)
    assert.equal(read(protocol, eight, false), 0x03040102, `${protocol}`)
  }
  assert.equal(read(50, eight), 0x01020304)
  assert.equal(read(50, eight, false), 0x01020304, 'an SPI has no sides')
  assert.equal(read(1, [8, 0, 0, 0, 0xab, 0xcd, 0, 1]), 0xabcd0000)
  assert.equal(read(1, [0, 0, 0, 0, 0xab, 0xcd, 0, 9], false), 0xabcd0000, 'the answer')
  assert.equal(read(1, [3, 3, 0, 0, 0xab, 0xcd, 0, 1]), 0, 'an error is no flow of its own')
  assert.equal(read(47, eight), 0)
  assert.equal(read(17, eight.slice(0, 7)), 0, 'cut short')
})

test('UP-23: IPv6 flows differ by any word of either address, and are read back as they were', () => {
  const paft = new Paft({ allocate, rows: 64 })
  const base = { protocol: 6, local: new Uint8Array(16).fill(1), remote: new Uint8Array(16).fill(2) }
  const flows = Array.from({ length: 8 }, (_, word) => {
    const local = base.local.slice()
    const remote = base.remote.slice()
    ;(word < 4 ? local : remote)[4 * (word % 4) + 3] = 77
    return { ...base, local, remote, localPort: 65_535, remotePort: 1 }
  })
  const keys = flows.map((flow) => {
    const made = new FlowKey(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8))
    made.set(flow)
    made.hash()
    assert.deepEqual(made.tuple(), flow)
    return made
  })
  assert.equal(new Set(keys.map(({ low, high }) => `${low} ${high}`)).size, 8)
  for (const [i, each] of keys.entries()) {
    const row = paft.insert(each, i + 1, i, 5_000)
    paft.setOwner(row, i + 1, 100 + i)
  }
  for (const [i, each] of keys.entries()) {
    const row = paft.find(each)
    const { id, ...rest } = paft.rowAt(row)
    assert.deepEqual(rest, { flow: flows[i], group: i + 1, static: false, app: 100 + i, createdAt: 5 })
    assert.match(id, /^[0-9a-f]{10}$/)
    assert.equal(paft.findId(id), row)
    assert.equal(paft.findId(id.slice(0, 8)), row)
    for (const wrong of [id.slice(0, 7), `${id}0`, id.toUpperCase().replace(/[0-9]/g, 'G'), ''])
      assert.equal(paft.findId(wrong), -1, wrong)
  }
})

test('RFC 4787, RFC 5382: each protocol has its idle time', () => {
  for (const [protocol, idle] of [
    [6, IDLE.tcp],
    [17, IDLE.udp],
    [1, IDLE.other],
    [50, IDLE.other],
  ] as const) {
    const paft = new Paft({ allocate, rows: 64 })
    paft.insert(key(1, protocol), 1, 0, 0)
    while (!paft.sweep(64, IDLE, idle)) {}
    assert.equal(paft.size, 1, `${protocol}: at its time it is there`)
    while (!paft.sweep(64, IDLE, idle + 20_000)) {}
    assert.equal(paft.size, 0, `${protocol}: soon after it is not`)
  }
})

test('who makes room: the row of the heaviest group, of those the one used longest ago', () => {
  const paft = new Paft({ allocate, rows: 16, limit: 10 })
  for (let n = 0; n < 10; n++) paft.insert(key(n), n < 5 ? 1 : 2, 0, 10_000 * n)
  assert.equal(paft.full, true)
  // Group 1 weighs more: its oldest rows go first.
  for (let n = 0; n < 3; n++) {
    assert.equal(
      paft.evict(200_000, undefined, (group) => (group === 1 ? 5 : 1)),
      true,
    )
    assert.equal(paft.find(key(n)), -1, `${n}`)
  }
  assert.deepEqual([paft.rowsOf(1), paft.rowsOf(2), paft.evicted, paft.full], [2, 5, 3, false])
  // Without weights the one used longest ago of all.
  paft.touch(paft.find(key(3)), 190_000)
  paft.evict(200_000)
  assert.ok(paft.find(key(3)) >= 0)
  assert.equal(paft.find(key(4)), -1)
})

/** HalfSipHash with one round for each word and three at the end, as its authors write it: two words of output. */
function halfSipHash13(k0: number, k1: number, words: readonly number[]): [number, number] {
  let [v0, v1, v2, v3] = [k0, k1 ^ 0xee, k0 ^ 0x6c796765, k1 ^ 0x74656462]
  const rotated = (value: number, by: number) => (value << by) | (value >>> (32 - by))
  const round = () => {
    v0 = (v0 + v1) | 0
    v1 = rotated(v1, 5) ^ v0
    v0 = rotated(v0, 16)
    v2 = (v2 + v3) | 0
    v3 = rotated(v3, 8) ^ v2
    v0 = (v0 + v3) | 0
    v3 = rotated(v3, 7) ^ v0
    v2 = (v2 + v1) | 0
    v1 = rotated(v1, 13) ^ v2
    v2 = rotated(v2, 16)
  }
  for (const word of words) {
    v3 ^= word
    round()
    v0 ^= word
  }
  v2 ^= 0xee
  for (let i = 0; i < 3; i++) round()
  const low = v1 ^ v3
  v1 ^= 0xdd
  for (let i = 0; i < 3; i++) round()
  return [low, v1 ^ v3]
}

test('UP-23: the fingerprint of a flow is HalfSipHash-1-3 under a secret, of all that the flow is', () => {
  const secret = Uint8Array.of(0x80, 1, 2, 3, 0xff, 5, 6, 7)
  const made = new FlowKey(secret)
  for (let n = 0; n < 200; n++) {
    const size = n % 2 === 0 ? 4 : 16
    const bytes = (salt: number) =>
      Uint8Array.from({ length: size }, (_, i) => (n * 37 + i * 91 + salt) & 255)
    const [local, remote] = [bytes(3), bytes(170)]
    made.set({ protocol: n % 2 === 0 ? 6 : 17, local, remote, localPort: 65_535 - n, remotePort: 443 + n })
    made.hash()
    const wordsOf = (each: Uint8Array) =>
      Array.from({ length: size / 4 }, (_, i) => new DataView(each.buffer).getInt32(4 * i))
    const head = size === 4 ? (4 << 8) | 6 : (6 << 8) | 17
    const ports = ((65_535 - n) << 16) | (443 + n)
    const words = [head, ports, ...wordsOf(local), ...wordsOf(remote)]
    assert.deepEqual([made.low, made.high], halfSipHash13(0x80010203 | 0, 0xff050607 | 0, words), `${n}`)
  }
})
