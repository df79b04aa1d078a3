import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { CLEAR, changed, parseLink } from '../../../lab/links/conditions.ts'
import { FrameQueue } from '../../../lab/links/frame-queue.ts'
import { DROP, Shaper } from '../../../lab/links/shaper.ts'
import { Arena } from '../../../src/linux/arena.ts'

function shaperWith(change: Parameters<typeof changed>[1], seed = 1): Shaper {
  const shaper = new Shaper(seed)
  shaper.set(changed(CLEAR, change))
  return shaper
}

describe('UPMT E-7: what an emulated link does to packets', () => {
  test('a clear link passes everything at once', () => {
    const shaper = shaperWith({})
    assert.equal(shaper.admit(1500, 10), 10)
    assert.equal(shaper.packets, 1)
  })

  test('a rate serialises packets, a delay is added, a full queue drops', () => {
    const shaper = shaperWith({ rateMbps: 12, delayMs: 20, queueMs: 3 })
    // 1500 bytes at 12 Mbit/s take a millisecond.
    assert.deepEqual(
      Array.from({ length: 6 }, () => shaper.admit(1500, 100)),
      [121, 122, 123, 124, DROP, DROP],
    )
    assert.equal(shaper.overflowed, 2)
    assert.equal(shaper.admit(1500, 200), 221)
  })

  test('jitter never changes the order; reordering does', () => {
    const jittery = shaperWith({ delayMs: 20, jitterMs: 15 })
    let last = 0
    for (let now = 0; now < 500; now++) {
      const at = jittery.admit(100, now)
      assert.ok(at >= last && at <= now + 35)
      last = at
    }
    const disorderly = shaperWith({ delayMs: 20, reorder: 0.2 })
    const early = Array.from({ length: 1000 }, (_, now) => disorderly.admit(100, now) === now)
    assert.ok(Math.abs(early.filter(Boolean).length - 200) < 60)
  })

  test('losses and duplicates follow their probability and the seed', () => {
    const run = (seed: number) => {
      const shaper = shaperWith({ loss: 0.1, duplicate: 0.05 }, seed)
      return Array.from({ length: 5000 }, (_, now) => (shaper.admit(100, now) === DROP ? 0 : shaper.copies))
    }
    const fates = run(7)
    assert.deepEqual(run(7), fates)
    assert.notDeepEqual(run(8), fates)
    assert.ok(Math.abs(fates.filter((n) => n === 0).length - 500) < 100)
    assert.ok(Math.abs(fates.filter((n) => n === 2).length - 225) < 80)
  })

  test('a black hole and a cut line swallow everything', () => {
    for (const state of ['blackhole', 'down'] as const) {
      const shaper = shaperWith({ state })
      assert.equal(shaper.admit(100, 0), DROP)
      assert.equal(shaper.cut, 1)
    }
  })
})

test('conditions in text: units, and what is wrong is said', () => {
  assert.deepEqual(parseLink('acc1:delay=20ms,rate=1gbit,loss=1%,queue=0.1s,state=blackhole'), {
    name: 'acc1',
    change: { delayMs: 20, rateMbps: 1000, loss: 0.01, queueMs: 100, state: 'blackhole' },
  })
  assert.throws(() => parseLink('acc1'), /NAME:key=value/)
  assert.throws(() => parseLink('acc1:dely=20'), /dely=20 is not understood; keys are delay/)
  assert.throws(() => parseLink('acc1:loss=120%'), /0 to 1/)
  assert.throws(() => parseLink('acc1:state=gone'), /up, down or blackhole/)
})

test('frame queue: first in first out, whole frames, whatever the sizes', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.integer({ min: 1, max: 700 }), fc.nat(3)), { maxLength: 200 }),
      (steps) => {
        const arena = new Arena(16_384)
        const queue = new FrameQueue(arena, 4096)
        const scratch = arena.reserve(1024)
        const model: { length: number; mark: number; release: number }[] = []
        for (const [index, [length, shifts]] of steps.entries()) {
          arena.u8.fill(index & 0xff, scratch, scratch + length)
          if (queue.push(scratch, length, index)) model.push({ length, mark: index & 0xff, release: index })
          else assert.ok(model.length > 0, 'an empty queue takes any frame that fits')
          for (let n = 0; n < shifts && model.length > 0; n++) {
            const expected = model.shift()!
            assert.equal(queue.headRelease(), expected.release)
            assert.equal(queue.headLength(), expected.length)
            const at = queue.headAt()
            assert.ok(arena.u8.subarray(at, at + expected.length).every((byte) => byte === expected.mark))
            queue.shift()
          }
          assert.equal(queue.length, model.length)
        }
      },
    ),
    { numRuns: 200 },
  )
})
