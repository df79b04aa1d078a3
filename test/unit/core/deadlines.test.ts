import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { DeadlineHeap } from '../../../src/core/deadlines.ts'

test('DeadlineHeap agrees with a plain table through any sequence of changes', () => {
  const step = fc.tuple(fc.nat(20), fc.oneof(fc.nat(50), fc.constant(Number.POSITIVE_INFINITY)))
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100 }), fc.nat(50), (steps, now) => {
      const heap = new DeadlineHeap()
      const table = new Map<number, number>()
      for (const [id, at] of steps) {
        heap.set(id, at)
        if (at === Number.POSITIVE_INFINITY) table.delete(id)
        else table.set(id, at)
        assert.equal(heap.get(id), at)
        assert.equal(heap.size, table.size)
        assert.equal(heap.next() ?? -1, table.size === 0 ? -1 : Math.min(...table.values()))
      }
      let last = -1
      for (let id = heap.expire(now); id >= 0; id = heap.expire(now)) {
        const at = table.get(id)!
        assert.ok(at <= now && at >= last)
        last = at
        table.delete(id)
      }
      assert.ok([...table.values()].every((at) => at > now))
    }),
  )
})
