import assert from 'node:assert/strict'
import { test } from 'node:test'
import { capabilities } from '../../../src/linux/capabilities.ts'
import { ClockWatch, RealClock, realRandom } from '../../../src/linux/clock.ts'
import { listNamespaces, usePrivateNames } from '../../../src/linux/netns.ts'
import { needProgram } from '../../../src/linux/packages.ts'

// Tests beside this one make namespaces, too.
usePrivateNames()

test('what the machine has is found by trying, and nothing stays behind', () => {
  const before = listNamespaces()
  const found = capabilities()
  assert.deepEqual(listNamespaces(), before)
  assert.equal(found.namespaces.available, true, 'these tests run as root')
  for (const each of Object.values(found)) {
    assert.ok(each.use !== '')
    if (!each.available) assert.ok(each.detail !== '', each.name)
  }
  assert.throws(() => needProgram('no-such-program' as 'nft'), { code: 'MISSING' })
})

test('clocks of one machine agree, and randomness fills', () => {
  const [a, b] = [new RealClock(), new RealClock()]
  const order = [a.now(), Number(process.hrtime.bigint()) / 1e6, b.now()] as const
  const rounding = 0.01
  assert.ok(order[0] <= order[1] + rounding && order[1] <= order[2] + rounding, `${order}`)
  assert.ok(a.suspended() >= 0)
  assert.notDeepEqual(realRandom.fill(new Uint8Array(32)), new Uint8Array(32))
})

test('a suspend and a set clock are noticed once', () => {
  const clock = {
    mono: 1000,
    real: 5000,
    slept: 0,
    now: () => clock.mono,
    wall: () => clock.real,
    suspended: () => clock.slept,
  }
  const watch = new ClockWatch(clock)
  clock.mono += 50
  clock.real += 50
  assert.deepEqual(watch.check(), { slept: 0, jumped: 0 })
  clock.slept += 60_000
  clock.real += 60_000
  assert.deepEqual(watch.check(), { slept: 60_000, jumped: 0 })
  clock.real -= 3_600_000
  assert.deepEqual(watch.check(), { slept: 0, jumped: -3_600_000 })
  assert.deepEqual(watch.check(), { slept: 0, jumped: 0 })
})
