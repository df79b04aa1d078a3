/** Fields of one length in few pieces of memory. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { Slab } from '../../../src/overlay/machine/slab.ts'
import { ownMemory, roomIn } from '../../../src/overlay/servers/room.ts'

test('a slab returns each field as it was added, whatever else was added and freed', () => {
  const next = seeded(1)
  const slab = new Slab(32)
  const kept = new Map<number, Uint8Array>()
  for (let i = 0; i < 30_000; i++) {
    const bytes = Uint8Array.from({ length: 32 }, () => Math.floor(next() * 256))
    const slot = slab.add(bytes)
    assert.equal(kept.has(slot), false)
    kept.set(slot, bytes)
    if (next() < 0.6) continue
    const [freed] = kept.keys()
    kept.delete(freed!)
    slab.free(freed!)
  }
  assert.equal(slab.count, kept.size)
  for (const [slot, bytes] of kept) assert.deepEqual(slab.get(slot), bytes)
})

test('a field that was freed is wiped, and its slot is used again', () => {
  const slab = new Slab(4)
  const first = slab.add(Uint8Array.of(1, 2, 3, 4))
  slab.free(first)
  assert.deepEqual(slab.get(first), new Uint8Array(4))
  assert.equal(slab.add(Uint8Array.of(5, 6, 7, 8)), first)
  assert.throws(() => slab.add(new Uint8Array(5)), RangeError)
})

test('nodes that a coordinator takes follow the memory of its machine', () => {
  const gigabyte = 2 ** 30
  assert.ok(roomIn(gigabyte / 2).nodes >= 50_000)
  assert.ok(roomIn(10 * gigabyte).nodes >= 1_000_000)
  assert.ok(roomIn(1000 * gigabyte).nodes <= 2_000_000)
  for (const memory of [gigabyte, 4 * gigabyte, 16 * gigabyte]) {
    const { heapMb, nodes } = roomIn(memory)
    assert.ok(heapMb * 2 ** 20 <= memory / 2)
    assert.ok(nodes * 4096 < heapMb * 2 ** 20)
  }
  assert.ok(ownMemory() > 0 && Number.isFinite(ownMemory()))
})
