import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TimerTable } from '../../src/core/timers.ts'
import { Arena } from '../../src/linux/arena.ts'

test('an arena gives memory that JavaScript and the kernel share', () => {
  const arena = new Arena(1 << 16)
  const at = arena.reserve(100)
  arena.u8[at] = 7
  assert.equal(arena.view.getUint8(at), 7)
})

test('TimerTable expires the earliest timer first', () => {
  const timers = new TimerTable<'a' | 'b'>()
  timers.set('a', 20)
  timers.set('b', 10)
  assert.equal(timers.next(), 10)
  assert.equal(timers.expire(30), 'b')
  assert.equal(timers.expire(30), 'a')
  assert.equal(timers.expire(30), undefined)
})
