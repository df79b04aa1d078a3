/** The flow controller's schedulers: plans from what is known about paths, and packets that follow a plan. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { Lanes } from '../../../src/tunnel/scheduling/lanes.ts'
import {
  FLIGHT_MS,
  Kind,
  MOST_WAIT,
  PacketScheduler,
} from '../../../src/tunnel/scheduling/packet-scheduler.ts'
import {
  CROSSING_MS,
  FASTER_MS,
  LAST_RESORT_MS,
  MODES,
  NO_PLAN_MEMORY,
  type PathFacts,
  type PlanMemory,
  planPaths,
  READMIT_MS,
  RETURN_MS,
} from '../../../src/tunnel/scheduling/schedulers.ts'
import { Spread, Verdict } from '../../../src/tunnel/seam.ts'

function path(slot: number, more: Partial<PathFacts> = {}): PathFacts {
  return {
    slot,
    name: `acc${slot + 1}`,
    state: 'up',
    draining: false,
    priority: slot + 1,
    rttMs: 20,
    bestRttMs: 20,
    loss: 0,
    queued: false,
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
      queued: fc.boolean(),
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
            const used = [...plan.carriers, ...plan.copies, ...plan.probes]
            if (plan.lastResort === true) {
              assert.equal(usable.length, 0)
              assert.deepEqual(
                used.map((slot) => paths[slot]!.state),
                ['down'],
              )
              continue
            }
            assert.equal(plan.carriers.length > 0, usable.length > 0)
            assert.ok(used.every((slot) => usable.some((each) => each.slot === slot)))
            assert.equal(new Set(used).size, used.length, 'no path twice')
            assert.ok(plan.reason.length > 0)
            // What has fallen silent carries nothing while something well is there (copies apart).
            const well = usable.some(({ state, draining }) => state !== 'suspect' && !draining)
            if (well && mode !== 'duplicate')
              for (const slot of plan.carriers) assert.notEqual(paths[slot]!.state, 'suspect')
          }
        },
      ),
    )
  })

  test('OH-24: a draining path carries nothing while another works, and everything when it is the last', () => {
    for (const mode of ['failover', 'lowest-rtt', 'round-robin', 'weighted', 'budget'] as const) {
      const both = planPaths(mode, [path(0, { draining: true }), path(1)], NO_PLAN_MEMORY, 0).plan
      assert.deepEqual(both.carriers, [1])
      const last = planPaths(mode, [path(0, { draining: true })], NO_PLAN_MEMORY, 0).plan
      assert.deepEqual(last.carriers, [0])
    }
  })

  test('OH-22: with no usable path packets take the last one for a moment, so that they are sent again, then none', () => {
    for (const mode of MODES) {
      const before = planPaths(mode, [path(0, { state: 'down' }), path(1)], NO_PLAN_MEMORY, 0)
      const dead = [path(0, { state: 'down' }), path(1, { state: 'down' })]
      const first = planPaths(mode, dead, before.memory, 100)
      assert.equal(first.plan.lastResort, true)
      assert.equal(first.plan.carriers.length, 1)
      assert.equal(first.plan.until, 100 + LAST_RESORT_MS)
      const later = planPaths(mode, dead, first.memory, 100 + LAST_RESORT_MS)
      assert.deepEqual(later.plan.carriers, [])
      const gone = planPaths(mode, [path(0, { state: 'validating' })], before.memory, 100)
      assert.deepEqual(gone.plan.carriers, [], 'never had worked')
      const back = planPaths(mode, [path(0), path(1, { state: 'down' })], later.memory, 5000)
      assert.equal(back.plan.carriers[0], 0)
      assert.equal(planPaths(mode, dead, back.memory, 6000).plan.lastResort, true, 'anew')
    }
  })

  test('OH-18: failover leaves at once, and returns after RETURN_MS', () => {
    let { plan, memory } = planPaths('failover', [path(0), path(1)], NO_PLAN_MEMORY, 0)
    assert.equal(plan.carriers[0], 0)
    ;({ plan, memory } = planPaths('failover', [path(0, { state: 'suspect' }), path(1)], memory, 10))
    assert.equal(plan.carriers[0], 1)
    ;({ plan, memory } = planPaths('failover', [path(0), path(1)], memory, 20))
    assert.equal(plan.carriers[0], 1)
    assert.equal(plan.ordered, true, 'what is under way on the old path may come later')
    assert.equal(plan.until, 10 + CROSSING_MS)
    ;({ plan, memory } = planPaths('failover', [path(0), path(1)], memory, 10 + CROSSING_MS))
    assert.equal(plan.ordered, false)
    assert.equal(plan.until, 20 + RETURN_MS)
    ;({ plan } = planPaths('failover', [path(0), path(1)], memory, 20 + RETURN_MS))
    assert.equal(plan.carriers[0], 0)
  })

  test('router point 2, OH-19: lowest-rtt follows the round trip without queues, once it has been less for FASTER_MS', () => {
    const own = (queue: number) => [
      path(0, { bestRttMs: 20, rttMs: 20 + queue }),
      path(1, { bestRttMs: 60, rttMs: 60 }),
    ]
    let { plan, memory } = planPaths('lowest-rtt', own(0), NO_PLAN_MEMORY, 0)
    for (let now = 0; now < 20_000; now += 100) {
      // Its own traffic fills it: 1.6 s of queue come and go.
      ;({ plan, memory } = planPaths('lowest-rtt', own(now % 1000 < 500 ? 1600 : 0), memory, now))
      assert.deepEqual(plan.carriers, [0])
    }
    const nearer = [path(0, { bestRttMs: 20 }), path(1, { bestRttMs: 10 })]
    let movedAt = -1
    for (let now = 20_000; now < 26_000 && movedAt < 0; now += 100) {
      ;({ plan, memory } = planPaths('lowest-rtt', nearer, memory, now))
      if (plan.carriers[0] === 1) movedAt = now
    }
    assert.equal(movedAt, 20_000 + FASTER_MS)
    assert.equal(plan.ordered, true)
  })

  test('OH-18, OH-24: what takes one path leaves a fading one at once; the last one is kept; copies and spreads go on', () => {
    const faded = [path(0, { fading: true }), path(1)]
    for (const mode of ['failover', 'lowest-rtt', 'budget'] as const) {
      const before = planPaths(mode, [path(0), path(1, { rttMs: 30 })], NO_PLAN_MEMORY, 0)
      assert.equal(before.plan.carriers[0], 0)
      const { plan } = planPaths(mode, faded, before.memory, 10)
      assert.equal(plan.carriers[0], 1)
      assert.match(plan.reason, /acc1 is fading/)
      const all = [path(0, { fading: true }), path(1, { fading: true, rttMs: 30 })]
      const kept = planPaths(mode, all, before.memory, 10).plan
      assert.equal(kept.carriers[0], 0)
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
    assert.deepEqual(plan.carriers, [0])
    assert.deepEqual(plan.probes, [1])
    assert.match(plan.reason, /acc2 loses too much/)
    ;({ plan, memory } = planPaths('round-robin', [path(0), path(1, { loss: 0.01 })], memory, 100))
    assert.deepEqual(plan.probes, [1])
    ;({ plan } = planPaths('round-robin', [path(0), path(1, { loss: 0.01 })], memory, 100 + READMIT_MS))
    assert.deepEqual(plan.carriers, [0, 1])
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

describe('schedulers: what is kept in reserve', () => {
  test('issue 10 D1: a reserve carries nothing, no copy and no probe, in any mode, while anything else works', () => {
    for (const mode of MODES) {
      const reserve = path(1, { reserve: true, draining: true, loss: 0.3, priority: 0 })
      const { carriers, copies, probes, refuge } = planPaths(mode, [path(0), reserve], NO_PLAN_MEMORY, 0).plan
      assert.deepEqual([carriers, copies, probes, refuge], [[0], [], [], -1], mode)
      const silent = planPaths(mode, [path(0, { state: 'suspect' }), reserve], NO_PLAN_MEMORY, 0).plan
      assert.ok([...silent.carriers, ...silent.copies].includes(1), `${mode}: the other has fallen silent`)
    }
  })

  test('issue 10 D1: traffic leaves a reserve as soon as something else works, and `why` says so', () => {
    const reserve = path(1, { reserve: true, draining: true })
    const alone = planPaths('failover', [path(0, { state: 'down' }), reserve], NO_PLAN_MEMORY, 0)
    assert.deepEqual(alone.plan.carriers, [1])
    const back = planPaths('failover', [path(0), reserve], alone.memory, 100).plan
    assert.deepEqual(back.carriers, [0])
    assert.match(back.reason, /acc2 is for when nothing else works/)
  })

  test('issue 11 OH-19: weights share `round-robin` out; equal ones change nothing', () => {
    const lanes = new Lanes()
    const spread = new Spread()
    for (const slot of [0, 1]) lanes.set(slot, 6_000, 10)
    const scheduler = new PacketScheduler(lanes)
    const { plan } = planPaths(
      'round-robin',
      [path(0, { weight: 3 }), path(1, { weight: 1 })],
      NO_PLAN_MEMORY,
      0,
    )
    assert.deepEqual(plan.weights, [3, 1])
    scheduler.follow('round-robin', plan)
    const given = [0, 0]
    for (let now = 0; now < 40_000; now++) given[scheduler.choose(1000, 1, 0, spread, now)]!++
    assert.ok(Math.abs(given[0]! / given[1]! - 3) < 0.05, given.join())
    const alike = [path(0, { weight: 5 }), path(1, { weight: 5 })]
    assert.equal(planPaths('round-robin', alike, NO_PLAN_MEMORY, 0).plan.weights, undefined)
    assert.equal(
      planPaths('weighted', [path(0, { weight: 3 }), path(1)], NO_PLAN_MEMORY, 0).plan.weights,
      undefined,
    )
  })
})

describe('schedulers: packets', () => {
  const spread = new Spread()

  test('OH-17: round-robin gives every path as many datagrams, a millisecond of its rate at a time', () => {
    const lanes = new Lanes()
    for (const slot of [0, 1, 2]) lanes.set(slot, 6_000, 10)
    const scheduler = new PacketScheduler(lanes)
    scheduler.follow(
      'round-robin',
      planPaths('round-robin', [path(0), path(1), path(2)], NO_PLAN_MEMORY, 0).plan,
    )
    const given = [0, 0, 0]
    let changes = 0
    for (let n = 0, before = -1; n < 900; n++) {
      const slot = scheduler.choose(1400, 1, 0, spread, n)
      given[slot]!++
      if (slot !== before) changes++
      before = slot
      assert.ok(Math.max(...given) - Math.min(...given) <= 5, `${given}`)
    }
    assert.deepEqual(given, [300, 300, 300])
    assert.equal(changes, 180)
    assert.equal(spread.ordered, true)
  })

  /** Two paths of these rates (bytes a millisecond) and delays, spread by `weighted`. */
  function weighted(rates: readonly number[], delays: readonly number[]) {
    const lanes = new Lanes()
    for (const slot of rates.keys()) lanes.set(slot, rates[slot]!, delays[slot]!)
    const scheduler = new PacketScheduler(lanes)
    const paths = rates.map((_, slot) => path(slot))
    scheduler.follow('weighted', planPaths('weighted', paths, NO_PLAN_MEMORY, 0).plan)
    return { lanes, scheduler }
  }

  test('OH-17b: by rate, the near path gets everything it can carry, and each its share once all are full', () => {
    const { scheduler } = weighted([6000, 2000], [10, 40])
    const bytes = [0, 0]
    for (let n = 0; n < 500; n++) bytes[scheduler.choose(3000, 3, 0, spread, n)]! += 3000
    assert.equal(bytes[1], 0)
    bytes.fill(0)
    let dropped = 0
    for (let n = 500; n < 3500; n++) {
      const slot = scheduler.choose(9000, 7, 0, spread, n)
      if (slot >= 0) bytes[slot]! += 9000
      else dropped++
    }
    assert.ok(Math.abs(bytes[0]! / bytes[1]! - 3) < 0.2, `${bytes}`)
    assert.ok(dropped > 0)
    assert.equal(scheduler.counts.dropped, dropped)
  })

  test('OH-17c: packets leave a path at its rate, and arrive in order whatever path they take', () => {
    fc.assert(
      fc.property(
        fc.tuple(fc.integer({ min: 300, max: 20_000 }), fc.integer({ min: 300, max: 20_000 })),
        fc.tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 100 })),
        fc.array(fc.tuple(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 2000, max: 20_000 })), {
          maxLength: 200,
        }),
        (rates, delays, packets) => {
          const { lanes, scheduler } = weighted(rates, delays)
          const leftAt = [0, 0]
          let now = 1000
          let latest = 0
          for (const [pause, bytes] of packets) {
            now += pause
            const slot = scheduler.choose(bytes, 1, 0, spread, now)
            if (slot < 0) {
              assert.equal(slot, Verdict.DROP)
              assert.ok(Math.min(...lanes.freeAt.subarray(0, 2)) > now + MOST_WAIT)
              continue
            }
            assert.ok(spread.departAt >= Math.max(now, leftAt[slot]!))
            leftAt[slot] = lanes.freeAt[slot]!
            // No later than on the other path, had it taken that one; so never later than on one path alone.
            const arrives = leftAt[slot]! + delays[slot]!
            const other = 1 - slot
            const instead =
              Math.max(now, lanes.freeAt[other]!) + (bytes + 80) / rates[other]! + delays[other]!
            assert.ok(arrives <= instead + FLIGHT_MS + 1e-6)
            // Out of order by the difference in size at most, and what it takes to leave a path.
            assert.ok(arrives >= latest - 20_080 / Math.min(...rates) - FLIGHT_MS - 1e-6)
            latest = Math.max(latest, arrives)
          }
        },
      ),
    )
  })

  test('OH-17b: a path whose delay is not known is tried once the other one is busy', () => {
    const { scheduler } = weighted([1000, 1000], [10, Number.NaN])
    const taken = Array.from({ length: 20 }, () => scheduler.choose(5_000, 4, 0, spread, 1000))
    assert.equal(taken[0], 0)
    assert.ok(taken.includes(1))
    assert.equal(scheduler.choose(40, 1, Kind.express, spread, 1000), 0)
  })

  test('OH-17d: acknowledgements go before what waits, on the nearest path, in no order', () => {
    const { scheduler } = weighted([1000, 1000], [60, 10])
    for (let n = 0; n < 8; n++) scheduler.choose(10_000, 7, 0, spread, 1000)
    assert.ok(spread.departAt > 1000)
    assert.equal(spread.ordered, true)
    assert.equal(scheduler.choose(40, 1, Kind.express, spread, 1000), 1)
    assert.equal(spread.departAt, 0)
    assert.equal(spread.ordered, false)
  })

  test('OH-16b: budget copies only what is at risk, and never more than its share', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 0.3, noNaN: true }),
        fc.array(fc.boolean(), { maxLength: 60 }),
        (cap, risks) => {
          const scheduler = new PacketScheduler(new Lanes(), cap)
          let sent = 0
          let copied = 0
          for (const [index, risk] of risks.entries()) {
            const facts = [path(0, { loss: risk ? 0.02 : 0 }), path(1)]
            const memory = { ...NO_PLAN_MEMORY, current: 0 }
            scheduler.follow('budget', planPaths('budget', facts, memory, 1000 * index).plan)
            for (let n = 0; n < 20; n++) {
              scheduler.choose(200, 1, 0, spread, index)
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
