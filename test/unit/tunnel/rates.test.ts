/** What `weighted` learns of a path, from a line that is simulated: rate, queue, delay. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { PathRate } from '../../../src/tunnel/scheduling/rates.ts'

const LOOK = 25

/** A line that carries `rate` bytes a millisecond after `delay` ms, with room for `room` ms; fluid, by the millisecond. */
class Line {
  rate: number
  delay: number
  readonly path = new PathRate()
  now = 5_000
  waiting = 0
  received = 0
  lostBytes = 0
  sentBytes = 0
  readonly #room: number
  readonly #news: { at: number; sample: Parameters<PathRate['sample']>[0] }[] = []

  constructor(rate: number, delay: number, room = 100) {
    this.rate = rate
    this.delay = delay
    this.#room = room
    this.run(300, 0)
  }

  /** Lets time pass while `offered` bytes a millisecond want to go; no more go than the path's rate says. */
  run(milliseconds: number, offered: number): void {
    for (let n = 0; n < milliseconds; n++) {
      this.now++
      const sent = Math.min(offered, this.path.rate)
      this.sentBytes += sent
      const kept = Math.min(sent, this.rate * (this.#room + 1) - this.waiting)
      this.lostBytes += sent - kept
      this.waiting += kept
      const left = Math.min(this.waiting, this.rate)
      this.waiting -= left
      this.received += left
      if (this.now % LOOK === 0) this.#probe(sent > 0 ? (sent - kept) / sent : 0)
      while (this.#news.length > 0 && this.#news[0]!.at <= this.now) {
        const { sample } = this.#news.shift()!
        this.path.sample(sample, this.now)
      }
    }
  }

  /** The other clock is 77 s off; the way back is as long as the way there. */
  #probe(loss: number): void {
    const oneWay = this.delay + this.waiting / this.rate
    this.#news.push({
      at: this.now + oneWay + this.delay,
      sample: {
        rttMs: oneWay + this.delay,
        loss,
        sentAt: (this.now * 1000) >>> 0,
        arrivedAt: ((this.now + oneWay + 77_000) * 1000) >>> 0,
        receivedBytes: Math.floor(this.received + this.waiting) % 2 ** 32,
      },
    })
  }
}

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

  test('a little traffic says nothing of the line; what was learned is kept', () => {
    const line = new Line(4_000, 20)
    line.run(3_000, 1e9)
    const { rate } = line.path
    line.run(10_000, 4)
    assert.ok(Math.abs(line.path.rate - rate) < 0.05 * rate, `${line.path.rate} of ${rate}`)
  })

  test('a delay that grows for good is no queue: the rate does not wither', () => {
    const line = new Line(4_000, 20)
    line.run(3_000, 1e9)
    line.delay = 60
    line.run(6_000, 1e9)
    assert.ok(line.path.rate > 3_200, `${line.path.rate}`)
    assert.ok(line.path.queueMs < 30, `${line.path.queueMs}`)
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
