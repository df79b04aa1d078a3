import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { PathTable, SessionTable } from '../../../src/tunnel/datapath/tables.ts'

function live(): { table: SessionTable; slot: number } {
  const table = new SessionTable(() => 0x1234567)
  const localIndex = table.newIndex()
  const key = new Uint8Array(32)
  const slot = table.install({
    peer: 0,
    localIndex,
    remoteIndex: 1,
    sendKey: key,
    receiveKey: key,
    sendKeyAes: key,
    receiveKeyAes: key,
  })
  return { table, slot }
}

test('replay window: accepts each counter once; refuses only what was seen or is too old', () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.integer({ min: -300, max: 300 }), fc.integer({ min: -140_000, max: 140_000 })), {
        maxLength: 300,
      }),
      fc.constantFrom(0, 2 ** 32 - 200, 2 ** 45),
      (steps, base) => {
        const { table, slot } = live()
        const seen = new Set<number>()
        let at = base
        let highest = -1
        for (const step of steps) {
          at = Math.max(0, at + step)
          const may = table.mayReceive(slot, at >>> 0, at)
          if (seen.has(at)) assert.equal(may, false)
          else if (at > highest) assert.equal(may, true)
          // What the largest window holds is accepted, unless a jump past all that was held emptied it.
          if (may) {
            table.received(slot, at >>> 0, at)
            seen.add(at)
            highest = Math.max(highest, at)
          }
        }
      },
    ),
  )
})

test('replay window: a busy session accepts what is 100,000 datagrams late', () => {
  const { table, slot } = live()
  for (let counter = 100_000; counter < 200_000; counter++) table.received(slot, counter, counter)
  assert.ok(table.mayReceive(slot, 99_999, 99_999))
  table.received(slot, 99_999, 99_999)
  assert.ok(!table.mayReceive(slot, 99_999, 99_999))
  assert.ok(!table.mayReceive(slot, 10, 10))
})

test('an index names its session only while it lives', () => {
  const { table, slot } = live()
  const index = table.localIndex[slot]!
  assert.equal(table.find(index), slot)
  table.remove(slot)
  assert.equal(table.find(index), -1)
  assert.equal(table.find(0xffffffff), -1)
})

test('paths are found by peer, socket and remote among 40,000, also after some moved and closed', () => {
  const table = new PathTable()
  const name = (n: number) => Uint32Array.of(2, n, 0, 0, 0, 0, 0, 0)
  const slots: number[] = []
  for (let n = 0; n < 40_000; n++) {
    const slot = table.allocate()
    table.peer[slot] = n >> 2
    table.pathId[slot] = n & 3
    table.remote.set(name(n), slot * 8)
    table.attach(slot)
    table.link(slot)
    slots.push(slot)
  }
  for (let n = 0; n < 40_000; n += 3) {
    const slot = slots[n]!
    table.unlink(slot)
    if (n % 2 === 0) {
      table.remote.set(name(n + 100_000), slot * 8)
      table.link(slot)
    } else {
      table.detach(slot)
      table.release(slot)
    }
  }
  for (let n = 0; n < 40_000; n++) {
    const moved = n % 3 === 0
    assert.equal(table.find(n >> 2, 0, name(n), 0), moved ? -1 : slots[n])
    const closed = moved && n % 2 !== 0
    assert.equal(table.named(n >> 2, n & 3), closed ? -1 : slots[n])
    if (moved && !closed) assert.equal(table.find(n >> 2, 0, name(n + 100_000), 0), slots[n])
  }
})
