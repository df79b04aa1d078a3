/** The flow controller's schedulers: plans from what is known about paths, and packets that follow a plan. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  MODES,
  NO_PLAN_MEMORY,
  PacketScheduler,
  type PathFacts,
  type PlanMemory,
  planPaths,
  READMIT_MS,
  RETURN_MS,
} from '../../../src/tunnel/schedulers.ts'
import { Spread } from '../../../src/tunnel/seam.ts'

function path(slot: number, more: Partial<PathFacts> = {}): PathFacts {
  return {
    slot,
    name: `acc${slot + 1}`,
    state: 'up',
    draining: false,
    priority: slot + 1,
    rttMs: 20,
    loss: 0,
    rate: 0,
    delayMs: 10,
    queueMs: 0,
    ...more,
  }
}

const anyPath = (slot: number) =>
  fc
    .record({
      state: fc.constantFrom('new', 'validating', 'up', 'degrading', 'suspect', 'down') as fc.Arbitrary<
        PathFacts['state']
      >,
      draining: fc.boolean(),
      priority: fc.integer({ min: 1, max: 4 }),
      rttMs: fc.oneof(fc.double({ min: 1, max: 300, noNaN: true }), fc.constant(Number.NaN)),
      loss: fc.double({ min: 0, max: 1, noNaN: true }),
      rate: fc.double({ min: 0, max: 1e5, noNaN: true }),
      queueMs: fc.double({ min: 0, max: 200, noNaN: true }),
    })
    .map((facts) => path(slot, facts))

describe('schedulers: plans', () => {
  test('OH-22, OH-37: in every mode something carries whenever something works, and only what works', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...MODES),
        fc.array(fc.tuple(anyPath(0), anyPath(1), anyPath(2)), { minLength: 1, maxLength: 12 }),
        (mode, steps) => {
          let memory: PlanMemory = NO_PLAN_MEMORY
          for (const [index, paths] of steps.entries()) {
            const usable = paths.filter(({ state }) => ['up', 'degrading', 'suspect'].includes(state))
            const result = planPaths(mode, paths, memory, index * 400)
            memory = result.memory
            const { plan } = result
            const used = [...plan.carriers.map(({ slot }) => slot), ...plan.copies, ...plan.probes]
            assert.equal(plan.carriers.length > 0, usable.length > 0)
            assert.ok(used.every((slot) => usable.some((each) => each.slot === slot)))
            assert.equal(new Set(used).size, used.length, 'no path twice')
            assert.ok(plan.reason.length > 0)
            // What has fallen silent carries nothing while something well is there (copies apart).
            const well = usable.some(({ state, draining }) => state !== 'suspect' && !draining)
            if (well && mode !== 'duplicate')
              for (const { slot } of plan.carriers) assert.notEqual(paths[slot]!.state, 'suspect')
          }
        },
      ),
    )
  })

  test('OH-24: a draining path carries nothing while another works, and everything when it is the last', () => {
    for (const mode of ['failover', 'lowest-rtt', 'round-robin', 'weighted', 'budget'] as const) {
      const both = planPaths(mode, [path(0, { draining: true }), path(1)], NO_PLAN_MEMORY, 0).plan
      assert.deepEqual(
        both.carriers.map(({ slot }) => slot),
        [1],
      )
      const last = planPaths(mode, [path(0, { draining: true })], NO_PLAN_MEMORY, 0).plan
      assert.deepEqual(
        last.carriers.map(({ slot }) => slot),
        [0],
      )
    }
  })

  test('OH-18: failover leaves at once, and returns after RETURN_MS', () => {
    let { plan, memory } = planPaths('failover', [path(0), path(1)], NO_PLAN_MEMORY, 0)
    assert.equal(plan.carriers[0]!.slot, 0)
    ;({ plan, memory } = planPaths('failover', [path(0, { state: 'suspect' }), path(1)], memory, 10))
    assert.equal(plan.carriers[0]!.slot, 1)
    ;({ plan, memory } = planPaths('failover', [path(0), path(1)], memory, 20))
    assert.equal(plan.carriers[0]!.slot, 1)
    assert.equal(plan.until, 20 + RETURN_MS)
    ;({ plan } = planPaths('failover', [path(0), path(1)], memory, 20 + RETURN_MS))
    assert.equal(plan.carriers[0]!.slot, 0)
  })

  test('OH-18, OH-24: what takes one path leaves a fading one at once; the last one is kept; copies and spreads go on', () => {
    const faded = [path(0, { fading: true }), path(1)]
    for (const mode of ['failover', 'lowest-rtt', 'budget'] as const) {
      const before = planPaths(mode, [path(0), path(1, { rttMs: 30 })], NO_PLAN_MEMORY, 0)
      assert.equal(before.plan.carriers[0]!.slot, 0)
      const { plan } = planPaths(mode, faded, before.memory, 10)
      assert.equal(plan.carriers[0]!.slot, 1)
      assert.match(plan.reason, /acc1 is fading/)
      const all = [path(0, { fading: true }), path(1, { fading: true, rttMs: 30 })]
      const kept = planPaths(mode, all, before.memory, 10).plan
      assert.equal(kept.carriers[0]!.slot, 0)
      assert.equal(kept.atRisk, mode === 'budget')
    }
    for (const mode of ['round-robin', 'weighted', 'duplicate'] as const) {
      const { carriers, copies } = planPaths(mode, faded, NO_PLAN_MEMORY, 0).plan
      assert.equal(carriers.length + copies.length, 2)
    }
  })

  test('OH-19: a path that loses much more than the best is demoted, probed, and readmitted when clean', () => {
    const lossy = [path(0), path(1, { loss: 0.2 })]
    let { plan, memory } = planPaths('round-robin', lossy, NO_PLAN_MEMORY, 0)
    assert.deepEqual(
      plan.carriers.map(({ slot }) => slot),
      [0],
    )
    assert.deepEqual(plan.probes, [1])
    assert.match(plan.reason, /acc2 loses too much/)
    ;({ plan, memory } = planPaths('round-robin', [path(0), path(1, { loss: 0.01 })], memory, 100))
    assert.deepEqual(plan.probes, [1])
    ;({ plan } = planPaths('round-robin', [path(0), path(1, { loss: 0.01 })], memory, 100 + READMIT_MS))
    assert.deepEqual(
      plan.carriers.map(({ slot }) => slot),
      [0, 1],
    )
    // What both lose alike is a queue that overflows, not a bad link.
    const both = planPaths(
      'round-robin',
      [path(0, { loss: 0.1 }), path(1, { loss: 0.12 })],
      NO_PLAN_MEMORY,
      0,
    ).plan
    assert.equal(both.carriers.length, 2)
  })
})

describe('schedulers: packets', () => {
  const spread = new Spread()

  test('OH-17: round-robin gives every path as many datagrams', () => {
    const scheduler = new PacketScheduler()
    scheduler.follow(
      'round-robin',
      planPaths('round-robin', [path(0), path(1), path(2)], NO_PLAN_MEMORY, 0).plan,
    )
    const given = [0, 0, 0]
    for (let n = 0; n < 900; n++) given[scheduler.choose(1400, 1, false, spread, n)]!++
    assert.deepEqual(given, [300, 300, 300])
    assert.equal(spread.ordered, true)
  })

  test('OH-17b: by rate, a path gets its share once all are full, and the nearest everything before that', () => {
    const scheduler = new PacketScheduler()
    const paths = [path(0, { rate: 6000, delayMs: 10 }), path(1, { rate: 2000, delayMs: 40 })]
    scheduler.follow('weighted', planPaths('weighted', paths, NO_PLAN_MEMORY, 0).plan)
    const bytes = [0, 0]
    // 3000 bytes a millisecond fit the first alone.
    for (let n = 0; n < 500; n++) bytes[scheduler.choose(3000, 3, false, spread, n)]! += 3000
    assert.equal(bytes[1], 0)
    bytes.fill(0)
    for (let n = 500; n < 1500; n++) bytes[scheduler.choose(9000, 7, false, spread, n)]! += 9000
    assert.ok(Math.abs(bytes[0]! / bytes[1]! - 3) < 0.4, `${bytes}`)
  })

  test('OH-16b: budget copies only what is at risk, and never more than its share', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 0.3, noNaN: true }),
        fc.array(fc.boolean(), { maxLength: 60 }),
        (cap, risks) => {
          const scheduler = new PacketScheduler(cap)
          let sent = 0
          let copied = 0
          for (const [index, risk] of risks.entries()) {
            const facts = [path(0, { loss: risk ? 0.02 : 0 }), path(1)]
            const memory = { ...NO_PLAN_MEMORY, current: 0 }
            scheduler.follow('budget', planPaths('budget', facts, memory, 1000 * index).plan)
            for (let n = 0; n < 20; n++) {
              scheduler.choose(200, 1, false, spread, index)
              sent += 200
              if (spread.copies > 0) copied += 200
              if (!risk) assert.equal(spread.copies, 0)
            }
          }
          assert.ok(copied <= sent * cap + 1e-6)
          assert.equal(scheduler.counts.copiedBytes, copied)
        },
      ),
    )
  })
})
