import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { FlowKey, type FlowTuple } from '../../../src/anchoring/tables/flow-key.ts'
import { Paft } from '../../../src/anchoring/tables/paft.ts'

const allocate = (bytes: number) => new ArrayBuffer(bytes)
const secret = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)
const idle = { tcp: 7_200_000, udp: 180_000, other: 60_000 }

function flow(n: number): FlowTuple {
  return {
    protocol: n % 2 === 0 ? 6 : 17,
    local: Uint8Array.of(198, 18, (n >> 24) & 255, (n >> 16) & 255),
    remote: Uint8Array.of(203, 0, 113, 7),
    localPort: n & 0xffff,
    remotePort: 443,
  }
}

function keyed(tuple: FlowTuple): FlowKey {
  const key = new FlowKey(secret)
  key.set(tuple)
  key.hash()
  return key
}

test('UP-23: a row is found by its flow, keeps its tunnel and shows its tuple', () => {
  const paft = new Paft({ allocate })
  const at = paft.insert(keyed(flow(5)), 3, 100, 1000)
  assert.equal(paft.groupAt(at), 3)
  paft.setOwner(at, 9, 77)
  const found = paft.find(keyed(flow(5)))
  assert.equal(paft.groupAt(found), 9)
  assert.deepEqual([paft.rowsOf(3), paft.rowsOf(9)], [0, 1])
  assert.equal(paft.find(keyed(flow(6))), -1)
  const row = paft.rowAt(found)
  assert.deepEqual(row.flow, flow(5))
  assert.equal(row.group, 9)
  assert.equal(row.app, 77)
  assert.equal(paft.findId(row.id), found)
  assert.equal(paft.findId(row.id.slice(0, 8)), found)
  assert.equal(paft.findId('zz'), -1)
})

test('bytes are counted while somebody watches, and stay with their rows as the table grows and shrinks (issue 14, point 9)', () => {
  const paft = new Paft({ allocate, rows: 16 })
  paft.insert(keyed(flow(0)), 1, 0, 0)
  assert.equal(paft.counting, false)
  assert.equal(paft.bytesAt(paft.find(keyed(flow(0)))), undefined)
  paft.counting = true
  paft.count(paft.find(keyed(flow(0))), 0, 100)
  for (let n = 1; n < 400; n++) paft.count(paft.insert(keyed(flow(n)), 1, 0, 0), 1, n)
  paft.settle()
  for (let n = 0; n < 200; n++) paft.remove(paft.find(keyed(flow(n * 2 + 1))))
  for (let n = 0; n < 400; n += 2)
    assert.deepEqual(
      paft.bytesAt(paft.find(keyed(flow(n)))),
      n === 0 ? { sent: 100, received: 0 } : { sent: 0, received: n },
    )
  // A row in the place of one that has gone begins at nothing.
  assert.deepEqual(paft.bytesAt(paft.insert(keyed(flow(1)), 1, 0, 0)), { sent: 0, received: 0 })
  paft.counting = false
  assert.equal(paft.bytesAt(paft.find(keyed(flow(0)))), undefined)
})

test('the table agrees with a Map under any mix of insertions, removals and look-ups, through growth', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(2), fc.nat(600)), { maxLength: 1500 }), (steps) => {
      const paft = new Paft({ allocate, rows: 16 })
      const model = new Map<number, number>()
      for (const [what, n] of steps) {
        const key = keyed(flow(n))
        const at = paft.find(key)
        assert.equal(at >= 0, model.has(n))
        if (at >= 0) assert.equal(paft.groupAt(at), model.get(n))
        if (what < 2 && at < 0) {
          paft.insert(key, (n % 100) + 1, n, 0)
          model.set(n, (n % 100) + 1)
        } else if (what === 2 && at >= 0) {
          paft.settle()
          paft.remove(paft.find(key))
          model.delete(n)
        }
      }
      assert.equal(paft.size, model.size)
      paft.settle()
      let seen = 0
      for (let at = 0; at < paft.slots; at++) {
        if (!paft.occupied(at)) continue
        seen++
        assert.equal(paft.find(keyed(paft.tupleAt(at))), at)
      }
      assert.equal(seen, model.size)
      for (let group = 1; group <= 100; group++) {
        const rows = [...model.values()].filter((each) => each === group).length
        assert.equal(paft.rowsOf(group), rows)
      }
    }),
    { numRuns: 60 },
  )
})

test('a hundred thousand rows, grown from few, all found', () => {
  const paft = new Paft({ allocate, rows: 16 })
  for (let n = 0; n < 100_000; n++) paft.insert(keyed(flow(n)), 1 + (n % 1000), 0, 0)
  for (let n = 0; n < 100_000; n++) assert.equal(paft.groupAt(paft.find(keyed(flow(n)))), 1 + (n % 1000))
})

test("rows idle for their protocol's time are swept, others stay", () => {
  const paft = new Paft({ allocate })
  for (let n = 0; n < 200; n++) paft.insert(keyed(flow(n)), 1, 0, 0)
  paft.touch(paft.find(keyed(flow(1))), 300_000)
  paft.sweep(1 << 12, idle, 310_000)
  assert.equal(paft.size, 101) // 100 of TCP, one of UDP used lately
  assert.ok(paft.find(keyed(flow(1))) >= 0)
  assert.equal(paft.find(keyed(flow(3))), -1)
})

test('at its limit the table evicts a row long unused and holds', () => {
  const paft = new Paft({ allocate, rows: 16, limit: 1000 })
  for (let n = 0; n < 5000; n++) paft.insert(keyed(flow(n)), 1, 0, n * 1000)
  assert.equal(paft.size, 1000)
  assert.equal(paft.evicted, 4000)
  assert.ok(paft.find(keyed(flow(4999))) >= 0)
})

test('a connection that both ends have closed, or one has reset, is over ten seconds later; half closed it stays', () => {
  const [FIN, SYN, RST] = [1, 2, 4]
  const flags = (paft: Paft, at: number, ...each: readonly (readonly [number, boolean])[]) => {
    for (const [flag, local] of each) paft.noteFlags(at, flag, local)
  }
  const cases: readonly (readonly [string, (paft: Paft, at: number) => void, boolean])[] = [
    ['open', () => {}, true],
    ['closed by one end', (paft, at) => paft.noteFlags(at, FIN, true), true],
    ['closed by one end twice', (paft, at) => flags(paft, at, [FIN, false], [FIN, false]), true],
    ['closed by both', (paft, at) => flags(paft, at, [FIN, true], [FIN, false]), false],
    ['reset', (paft, at) => paft.noteFlags(at, RST, false), false],
    ['begun anew', (paft, at) => flags(paft, at, [RST, true], [SYN, true]), true],
  ]
  for (const [what, close, stays] of cases) {
    const paft = new Paft({ allocate })
    const at = paft.insert(keyed(flow(2)), 1, 0, 0)
    close(paft, at)
    paft.sweep(1 << 12, idle, 8_000)
    assert.equal(paft.size, 1, `${what}: lingers`)
    paft.sweep(1 << 12, idle, 20_000)
    paft.sweep(1 << 12, idle, 25_000)
    assert.equal(paft.size, stays ? 1 : 0, what)
  }
})

test('whoever has to make room loses rows of its own, however few of all they are', () => {
  const paft = new Paft({ allocate, rows: 16 })
  for (let n = 0; n < 1000; n++) paft.insert(keyed(flow(n)), n % 50 === 0 ? 7 : 1, 0, n * 1000)
  for (let n = 0; n < 20; n++) assert.ok(paft.evict(2_000_000, (group) => group === 7))
  assert.deepEqual([paft.rowsOf(7), paft.rowsOf(1)], [0, 980])
  assert.equal(
    paft.evict(2_000_000, (group) => group === 7),
    false,
  )
})

function packet4(protocol: number, payload: number[], fragmentField = 0): Uint8Array {
  return Uint8Array.of(
    0x45,
    0,
    0,
    20 + payload.length,
    0,
    1,
    fragmentField >> 8,
    fragmentField & 255,
    64,
    protocol,
    0,
    0,
    ...[198, 19, 0, 1],
    ...[203, 0, 113, 7],
    ...payload,
  )
}

function read(packet: Uint8Array, localIsSource: boolean): FlowKey | undefined {
  const key = new FlowKey(secret)
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  if (!key.read(view, 0, packet.length, localIsSource)) return undefined
  key.hash()
  return key
}

test('D6: a packet and its answer have one key; the end that is local is told', () => {
  const out = read(packet4(6, [0x13, 0x0c, 0, 80, 0, 0, 0, 0]), true)!
  assert.deepEqual(out.tuple(), {
    protocol: 6,
    local: Uint8Array.of(198, 19, 0, 1),
    remote: Uint8Array.of(203, 0, 113, 7),
    localPort: 4876,
    remotePort: 80,
  })
  const answer = packet4(6, [0, 80, 0x13, 0x0c, 0, 0, 0, 0])
  answer.set([203, 0, 113, 7], 12)
  answer.set([198, 19, 0, 1], 16)
  const back = read(answer, false)!
  assert.deepEqual([back.low, back.high], [out.low, out.high])
})

test('all fragments of a datagram have one key; IPv6 extension headers are walked', () => {
  const first = read(packet4(17, [1, 2, 3, 4, 0, 0, 0, 0], 0x2000), true)!
  const later = read(packet4(17, [9, 9, 9, 9, 9, 9, 9, 9], 0x0010), true)!
  assert.deepEqual([first.low, first.high], [later.low, later.high])
  const six = new Uint8Array(40 + 8 + 8)
  six[0] = 0x60
  six[6] = 60 // destination options, then UDP
  six[40] = 17
  six.set([0, 53, 0x10, 0], 48)
  const key = read(six, true)!
  assert.equal(key.protocol, 17)
  assert.equal(key.transport, 48)
  assert.equal(key.ports, (53 << 16) | 0x1000)
})

test('bytes that are no IP packet give no key and no exception', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      read(Uint8Array.from(bytes), true)
    }),
    { numRuns: 3000 },
  )
})
