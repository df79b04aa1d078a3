/** When the monitor looks whether the machine has slept. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AccessMonitor } from '../../../src/access/index.ts'
import { FakeNetwork, FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'

test('NT-50: while somebody reports changes of the clock, nobody looks at it in between', ({ mock }) => {
  mock.timers.enable({ apis: ['setInterval'] })
  let suspended = 0
  const clock = { now: () => 0, wall: () => suspended, suspended: () => suspended }
  const rtnl = new FakeRtnl(new FakeNetwork(), 'host')
  const monitor = new AccessMonitor({ rtnl, clock }, { routing: false })
  const slept: number[] = []
  monitor.subscribe((event) => {
    if (event.type === 'woke') slept.push(event.sleptMs)
  })
  monitor.start()
  const end = monitor.useClockEvents()
  suspended = 60_000
  mock.timers.tick(10_000)
  assert.deepEqual(slept, [])
  monitor.checkClock()
  assert.deepEqual(slept, [60_000])
  end()
  suspended = 120_000
  mock.timers.tick(2_000)
  assert.deepEqual(slept, [60_000, 60_000])
  monitor.stop()
  suspended = 180_000
  mock.timers.tick(10_000)
  monitor.checkClock()
  assert.equal(slept.length, 2)
})
