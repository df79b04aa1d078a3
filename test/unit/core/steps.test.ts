import assert from 'node:assert/strict'
import { test } from 'node:test'
import { takeEvery } from '../../../src/core/steps.ts'

test('every step is taken, whatever fails; the first failure is told', () => {
  const taken: number[] = []
  const step =
    (n: number, fails = false) =>
    () => {
      taken.push(n)
      if (fails) throw new Error(`step ${n}`)
    }
  assert.throws(() => takeEvery(step(1), step(2, true), step(3, true), step(4)), { message: 'step 2' })
  assert.deepEqual(taken, [1, 2, 3, 4])
  takeEvery(step(5))
  takeEvery()
})
