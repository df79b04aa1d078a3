import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PathState } from '../../../src/tunnel/machine/api.ts'
import { type Candidate, failover, NO_MEMORY, single } from '../../../src/tunnel/schedulers.ts'

function candidate(slot: number, state: PathState['name'], priority = slot): Candidate {
  return { slot, state, priority, rttMs: 20, loss: 0 }
}

test('single: its path or none', () => {
  const schedule = single(1)
  const up = [candidate(0, 'up'), candidate(1, 'degrading')]
  assert.deepEqual(schedule(up, NO_MEMORY, 0).decision, { slots: [1], reason: 'fixed path' })
  const down = [candidate(0, 'up'), candidate(1, 'down')]
  assert.deepEqual(schedule(down, NO_MEMORY, 0).decision, { slots: [], reason: 'fixed path is down' })
})

test('failover: leaves at once, returns only after the preferred path has worked for a while', () => {
  const schedule = failover(3000)
  let { decision, memory } = schedule([candidate(0, 'up'), candidate(1, 'up')], NO_MEMORY, 0)
  assert.deepEqual(decision.slots, [0])
  ;({ decision, memory } = schedule([candidate(0, 'suspect'), candidate(1, 'up')], memory, 100))
  assert.deepEqual(decision, { slots: [1], reason: 'current path is suspect' })
  ;({ decision, memory } = schedule([candidate(0, 'up'), candidate(1, 'up')], memory, 200))
  assert.deepEqual(decision, { slots: [1], reason: 'preferred path is back, on probation', until: 3200 })
  // It stumbles again: probation begins anew.
  ;({ decision, memory } = schedule([candidate(0, 'down'), candidate(1, 'up')], memory, 2000))
  assert.deepEqual(decision.slots, [1])
  ;({ decision, memory } = schedule([candidate(0, 'up'), candidate(1, 'up')], memory, 2100))
  ;({ decision, memory } = schedule([candidate(0, 'up'), candidate(1, 'up')], memory, 5099))
  assert.deepEqual(decision.slots, [1])
  ;({ decision, memory } = schedule([candidate(0, 'up'), candidate(1, 'up')], memory, 5100))
  assert.deepEqual(decision, { slots: [0], reason: 'preferred path worked for 3000 ms' })
})

test('failover: a suspect path is better than none, and nothing is chosen when nothing is usable', () => {
  const schedule = failover()
  const shaky = schedule([candidate(0, 'suspect'), candidate(1, 'down')], { ...NO_MEMORY, current: 0 }, 0)
  assert.deepEqual(shaky.decision.slots, [0])
  const none = schedule(
    [candidate(0, 'validating'), candidate(1, 'closing')],
    { ...NO_MEMORY, current: 0 },
    0,
  )
  assert.deepEqual(none.decision, { slots: [], reason: 'no path is usable' })
  assert.deepEqual(schedule([], NO_MEMORY, 0).decision.slots, [])
})
