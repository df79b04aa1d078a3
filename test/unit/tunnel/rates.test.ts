/** What `weighted` learns of a path, from a line that is simulated: rate, queue, delay. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { PathRate } from '../../../src/tunnel/scheduling/rates.ts'
import { Line } from '../../support/line.ts'

describe('rates of paths', () => {
  test('OH-17b: a full line is known within two seconds, and kept full with a short queue', () => {
    fc.assert(
      fc.property(fc.integer({ min: 500, max: 25_000 }), fc.integer({ min: 2, max: 90 }), (rate, delay) => {
        const line = new Line(rate, delay)
        line.run(2_000, 1e9)
        const before = line.received
        for (let n = 0; n < 10; n++) {
          line.run(400, 1e9)
          assert.ok(
            line.path.rate > 0.7 * rate && line.path.rate < 1.3 * rate,
            `${line.path.rate} of ${rate}`,
          )
        }
        assert.ok(line.received - before > 0.9 * rate * 4_000)
        const { lostBytes } = line
        line.run(1_000, 1e9)
        assert.equal(line.lostBytes, lostBytes, 'nothing overflows once the rate is known')
      }),
      { numRuns: 40 },
    )
  })

  test('OH-17b: a line that gets slower or faster is followed', () => {
    const line = new Line(4_000, 20)
    line.run(3_000, 1e9)
    line.rate = 1_500
    line.run(1_500, 1e9)
    assert.ok(line.path.rate < 1_900, `${line.path.rate}`)
    line.rate = 4_000
    line.run(5_000, 1e9)
    assert.ok(line.path.rate > 3_400, `${line.path.rate}`)
  })

  test('a line that falls to a tenth and rises again every second is used by 0.8; its queue is short when it is fast', () => {
    for (const delay of [10, 25]) {
      const line = new Line(7_000, delay, 1_500)
      line.run(3_000, 1e9)
      const { received } = line
      let longest = 0
      for (let n = 0; n < 20; n++) {
        line.rate = n % 2 === 0 ? 700 : 7_000
        line.run(200, 1e9)
        for (let ms = 200; ms < 1_000; ms++) {
          line.run(1, 1e9)
          if (n % 2 === 1) longest = Math.max(longest, line.queueMs)
        }
      }
      const share = (line.received - received) / (10 * 1_000 * 7_700)
      assert.ok(share >= 0.8, `${share} of what the line allows with a delay of ${delay} ms`)
      assert.ok(longest < 60, `${longest} ms of queue`)
    }
  })

  test('a line that falls for good: the queue of the modem is gone within six seconds, and stays away', () => {
    for (const [from, to] of [
      [5_000, 500],
      [5_000, 2_500],
      [1_250, 300],
    ] as const)
      for (const delay of [10, 25, 60]) {
        const line = new Line(from, delay, 1_500)
        line.run(4_000, 1e9)
        line.rate = to
        line.run(6_000, 1e9)
        const { received } = line
        let queue = 0
        for (let ms = 0; ms < 14_000; ms++) {
          line.run(1, 1e9)
          queue += line.queueMs / 14_000
        }
        const what = `from ${from} to ${to} with a delay of ${delay} ms: ${queue} ms of queue`
        assert.ok(queue < 200, what)
        assert.ok(line.received - received > 0.9 * 14_000 * to, what)
      }
  })

  test('a little traffic says nothing of the line; what was learned is kept', () => {
    const line = new Line(4_000, 20)
    line.run(3_000, 1e9)
    const { rate } = line.path
    line.run(10_000, 4)
    assert.ok(Math.abs(line.path.rate - rate) < 0.1 * rate, `${line.path.rate} of ${rate}`)
  })

  test('OH-19: what a radio loses at any rate takes no rate from it, full or not; a line that is too full yields as before', () => {
    for (const lossy of [0.03, 0.1, 0.4])
      for (const offered of [1e9, 400]) {
        const line = new Line(4_000, 20)
        line.run(2_000, 1e9)
        line.lossy = lossy
        line.run(10_000, offered)
        const { received, sentBytes } = line
        line.run(60_000, offered)
        const share = (line.received - received) / Math.min(60_000 * 4_000, line.sentBytes - sentBytes)
        assert.ok(share > 0.9 * (1 - lossy), `${share} of the line, or of what was sent, at ${lossy}`)
        assert.ok(line.path.rate > 3_000, `${line.path.rate}`)
        // The loss ends: the next one counts again.
        line.lossy = 0
        line.run(3_000, 1e9)
        line.rate = 2_000
        line.run(3_000, 1e9)
        let mean = 0
        for (let ms = 0; ms < 1_000; ms++) {
          line.run(1, 1e9)
          mean += line.path.rate / 1_000
        }
        assert.ok(mean < 2_400, `${mean}`)
      }
  })

  test('router point 3: delays that jitter are no queue: the line is used as without', () => {
    const line = new Line(1_500, 20, 500)
    line.jitter = 30
    line.run(3_000, 1e9)
    const { received } = line
    line.run(10_000, 1e9)
    const share = (line.received - received) / (10_000 * 1_500)
    assert.ok(share > 0.85, `${share} of the line`)
  })

  test('router point 3: where an end or a radio stands still for 80 ms now and then, the line is used as without', () => {
    for (const rate of [625, 12_500]) {
      const line = new Line(rate, 10, 500)
      line.stall = 80
      line.run(3_000, 1e9)
      const { received } = line
      line.run(10_000, 1e9)
      const share = (line.received - received) / (10_000 * rate)
      assert.ok(share > 0.85, `${share} of the line`)
    }
  })

  test('a delay that grows for good is no queue: the rate does not wither', () => {
    const line = new Line(4_000, 20)
    line.run(3_000, 1e9)
    line.delay = 60
    line.run(6_000, 1e9)
    assert.ok(line.path.rate > 3_200, `${line.path.rate}`)
    assert.ok(line.path.queueMs < 30, `${line.path.queueMs}`)
  })

  test('router point 3: a path that comes into use again is not late: measured seldom, it keeps its rate', () => {
    const line = new Line(4_000, 20)
    line.run(3_000, 1e9)
    const { rate } = line.path
    const from = line.now + 60_000
    assert.ok(line.path.lateAt(from) > from + 100)
    line.path.late(0, line.now + 1_000)
    assert.ok(line.path.rate < rate, 'while in use, what is missing says that the line has fallen')
    for (let n = 0; n < 1_000; n++) line.path.late(0, line.now + 1_000 + 100 * n)
    assert.ok(line.path.rate >= 30, 'never so low that nothing more is learned')
  })

  test('delays are compared between paths, whatever the clocks show', () => {
    const clock = {}
    const [near, far] = [new PathRate(clock), new PathRate(clock)]
    for (const [path, oneWay] of [
      [far, 80],
      [near, 10],
    ] as const)
      path.sample(
        {
          rttMs: oneWay + 10,
          loss: 0,
          sentAt: 0xffffff00,
          arrivedAt: (oneWay * 1000 + 5) >>> 0,
          receivedBytes: 0,
        },
        1_000,
      )
    assert.ok(Math.abs(far.delayMs - near.delayMs - 70) < 0.01)
  })
})
