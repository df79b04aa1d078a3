import assert from 'node:assert/strict'
import { test } from 'node:test'
import { VipaPool } from '../../../src/anchoring/tables/pool.ts'
import { NOWHERE, TunnelTable } from '../../../src/anchoring/tables/tunnels.ts'

const pool = (prefix: number, assigned: [string, number][] = []) =>
  new VipaPool({
    v4: { address: Uint8Array.of(198, 18, 0, 0), prefix },
    v6: {
      address: Uint8Array.from([0xfd, 0x67, 0x6f, 0x64, 0x77, 0x69, 0, 1, ...new Uint8Array(8)]),
      prefix: 64,
    },
    assigned,
  })

test('UP-19: every host its own VIpA, the same one again; an exhausted pool refuses', () => {
  const small = pool(29)
  const numbers = ['a', 'b', 'c', 'd', 'e'].map((key) => small.assign(key))
  assert.deepEqual(numbers, [2, 3, 4, 5, 6])
  assert.equal(small.assign('f'), undefined)
  assert.equal(small.assign('c'), 4)
  small.release('c')
  assert.equal(small.assign('f'), 4)
  assert.deepEqual([...small.v4(4)], [198, 18, 0, 4])
  assert.equal(small.v6(4)[15], 4)
})

test('UP-19: assignments of an earlier run hold; a replaced key keeps its VIpA', () => {
  const again = pool(16, [
    ['a', 500],
    ['b', 2],
  ])
  assert.equal(again.assign('a'), 500)
  assert.equal(again.assign('c'), 3)
  assert.equal(again.rekey('a', 'z'), true)
  assert.equal(again.assign('z'), 500)
  assert.notEqual(again.assign('a'), 500)
})

test('UP-24: a local_tid names one path as long as that lives', () => {
  const table = new TunnelTable()
  const row = {
    peer: 1,
    localTun: { interface: 'a', index: 1 },
    remoteTun: { endPoint: 'b', index: 2 },
    vipNat: {},
    unTid: 7,
  }
  const first = table.open({ ...row, slot: 0 }).localTid
  const second = table.open({ ...row, slot: 1 }).localTid
  assert.ok(first > NOWHERE && second > first)
  assert.equal(table.atUnTid(1, 7)?.localTid, first)
  table.close(first)
  assert.equal(table.isUsable(first), false)
  assert.equal(table.peerOf[first], -1)
  assert.equal(table.atSlot(0), undefined)
  assert.equal(table.atSlot(1)?.localTid, second)
  // More than any host or anchor has: there is no limit to run into.
  for (let slot = 2; slot < 100_000; slot++) assert.ok(table.isUsable(table.open({ ...row, slot }).localTid))
})
