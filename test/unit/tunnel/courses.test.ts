/**
 * What the schedulers do, step by step: whole courses and tables, so that a change of any constant or condition shows. Where one is
 * meant, the new course is written here.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Lanes } from '../../../src/tunnel/scheduling/lanes.ts'
import { Kind, PacketScheduler } from '../../../src/tunnel/scheduling/packet-scheduler.ts'
import { PathRate } from '../../../src/tunnel/scheduling/rates.ts'
import {
  type Mode,
  NO_PLAN_MEMORY,
  type PathFacts,
  type Plan,
  type PlanMemory,
  planPaths,
} from '../../../src/tunnel/scheduling/schedulers.ts'
import { flowHash, SparseFlows } from '../../../src/tunnel/scheduling/sparse-flows.ts'
import { Spread, Verdict } from '../../../src/tunnel/seam.ts'
import { Line } from '../../support/line.ts'

const FULL = 1e9

/** The rate that is assumed every 250 ms, and the queue that was seen, as `RATE/QUEUE` (bytes a millisecond, milliseconds). */
function course(line: Line, ms: number, offered = FULL): string {
  const steps: string[] = []
  for (let at = 0; at < ms; at += 250) {
    line.run(250, offered)
    steps.push(`${Math.round(line.path.rate)}/${Math.round(line.path.queueMs)}`)
  }
  return steps.join(' ')
}

test('OH-17b: the course of a rate: found, a line that falls and rises, little traffic, a delay that grows for good', () => {
  const line = new Line(4_000, 20)
  assert.equal(
    course(line, 3_000),
    '7012/1 3569/83 3011/50 3791/0 4260/5 4013/20 3799/17 4226/10 3901/19 4105/10 4008/18 3835/15',
  )
  line.rate = 2_500
  assert.equal(course(line, 1_500), '2603/82 1939/97 1804/24 2721/50 2002/78 1907/20')
  line.rate = 300
  assert.equal(course(line, 1_500), '601/100 279/100 221/79 652/0 283/100 219/75')
  line.rate = 4_000
  assert.equal(
    course(line, 4_000),
    '2715/0 3195/0 3914/0 4326/9 3868/24 3759/14 4233/11 3878/20 4091/10 4063/16 3860/17 4200/10 3904/19 4105/10 4010/17 3835/15',
  )
  assert.equal(course(line, 1_000, 4), '3818/0 3818/0 3818/0 3818/0')
  assert.equal(course(line, 1_000), '4232/7 3965/20 3804/15 4226/10')
  line.delay = 60
  assert.equal(
    course(line, 5_000),
    '3576/60 3200/40 2961/40 2744/40 2542/40 2355/40 2182/40 2022/40 1873/40 3775/0 3936/0 4161/1 4276/9 3878/25 3743/21 3913/5 4119/1 4264/6 3934/22 3769/23',
  )
  assert.ok(line.path.known)
})

test('OH-17b: the course of a rate: lines that lose, with jitter, with a stall, of few bytes', () => {
  const lossy = new Line(4_000, 20)
  lossy.run(2_000, FULL)
  lossy.lossy = 0.05
  assert.equal(
    course(lossy, 6_000),
    '3960/8 3960/0 3960/0 3960/0 3762/0 3762/0 3762/0 3762/0 3574/0 3574/0 3574/0 3574/0 3395/0 3395/0 3395/0 3395/0 3960/0 4041/0 4273/1 4324/5 4354/12 4212/8 4248/9 4282/11',
  )
  lossy.lossy = 0.4
  assert.equal(
    course(lossy, 6_000),
    '4178/0 4178/0 4178/0 4178/0 2507/0 2507/0 2507/0 2507/0 1504/0 1504/0 1504/0 1504/0 903/0 903/0 903/0 903/0 4178/0 4178/0 4178/0 4178/0 4178/0 4178/0 4178/0 4178/0',
  )
  lossy.lossy = 0.02
  assert.equal(course(lossy, 1_000), '4224/1 4265/10 3924/18 3834/4')
  lossy.lossy = 0.05
  assert.equal(course(lossy, 2_000), '3834/0 3834/0 3834/0 3642/0 3642/0 3642/0 3642/0 3460/0')
  const shaky = new Line(1_500, 20, 500)
  shaky.jitter = 30
  assert.equal(
    course(shaky, 3_000),
    '1539/3 1604/13 1390/30 1530/9 1680/37 1387/24 1521/23 1447/27 1430/8 1570/19 1560/5 1589/18',
  )
  const stalls = new Line(1_500, 10, 500)
  stalls.stall = 80
  assert.equal(
    course(stalls, 3_000),
    '1809/35 1312/80 1816/10 1440/31 1700/6 1502/33 1297/23 1566/30 1471/13 1643/15 1297/14 1696/5',
  )
  const slow = new Line(20, 60, 3_000)
  assert.equal(
    course(slow, 6_000),
    '1000/0 1000/0 1000/0 1000/0 1000/0 30/1225 30/1225 30/1225 30/1225 30/1225 30/2450 30/2450 30/3000 30/3000 30/3000 30/3000 30/3000 30/3000 30/3000 30/3000 30/3000 30/3000 30/3000 30/3000',
  )
  const half = new Line(4_000, 20)
  assert.equal(course(half, 2_000, 800), '1625/0 1625/0 1625/0 1625/0 1625/0 1625/0 1625/0 1625/0')
  assert.equal(course(half, 2_000, 2_500), '4291/0 4291/0 4291/0 4291/0 4291/0 4291/0 4291/0 4291/0')
})

test('OH-17b: when a measurement is late, by what came before, and what that costs', () => {
  const path = new PathRate()
  const seen: (number | string)[] = []
  const look = (ms: number) =>
    seen.push(`${ms}: ${path.lateAt(0)} ${path.lateAt(900)} ${Math.round(path.rate)}`)
  look(0)
  const sample = (now: number, every = 40) =>
    path.sample({ rttMs: every, loss: 0, sentAt: now * 1000, arrivedAt: now * 1000, receivedBytes: -1 }, now)
  sample(1_000)
  look(1_000)
  for (const now of [1_025, 1_050, 1_149, 1_300]) sample(now)
  look(1_300)
  path.known = true
  path.late(0, 1_390)
  look(1_390)
  path.late(0, 1_400)
  look(1_400)
  path.late(0, 1_500)
  look(1_500)
  assert.equal(path.queuedAt, 1_500)
  assert.deepEqual(seen, [
    '0: Infinity Infinity 1000',
    '1000: 1075 1115 1000',
    '1300: 1402.75 1402.75 1000',
    '1390: 1402.75 1402.75 1000',
    '1400: 1410 1410 1000',
    '1500: 1510 1510 607',
  ])
})

function path(slot: number, more: Partial<PathFacts> = {}): PathFacts {
  const measured = { rttMs: 20, bestRttMs: 20, loss: 0, queued: false }
  return {
    slot,
    name: `acc${slot + 1}`,
    state: 'up',
    draining: false,
    priority: slot + 1,
    ...measured,
    ...more,
  }
}

/** A plan in one line: carriers, then what else is not as usual. */
function inWords({
  carriers,
  weights,
  copies,
  probes,
  refuge,
  atRisk,
  ordered,
  lastResort,
  until,
  reason,
}: Plan): string {
  return [
    carriers.join('+') || 'none',
    ...(weights === undefined ? [] : [`×${weights.join(':')}`]),
    ...(copies.length === 0 ? [] : [`copies ${copies.join('+')}`]),
    ...(probes.length === 0 ? [] : [`probes ${probes.join('+')}`]),
    ...(refuge < 0 ? [] : [`refuge ${refuge}`]),
    ...(atRisk ? ['at risk'] : []),
    ...(ordered ? ['ordered'] : []),
    ...(lastResort === undefined ? [] : ['last resort']),
    ...(until === undefined ? [] : [`until ${until}`]),
    `(${reason})`,
  ].join(' ')
}

const SITUATIONS: readonly (readonly [string, readonly PathFacts[]])[] = [
  ['nothing', []],
  ['all well', [path(0), path(1), path(2)]],
  ['first down', [path(0, { state: 'down' }), path(1), path(2)]],
  ['first suspect', [path(0, { state: 'suspect' }), path(1)]],
  ['first degrading', [path(0, { state: 'degrading' }), path(1)]],
  ['first drains', [path(0, { draining: true }), path(1)]],
  ['first fades', [path(0, { fading: true }), path(1)]],
  ['all fade', [path(0, { fading: true }), path(1, { fading: true })]],
  ['first loses 5 %', [path(0, { loss: 0.05 }), path(1)]],
  ['first loses 6 %', [path(0, { loss: 0.06 }), path(1)]],
  ['first loses 6 %, queued', [path(0, { loss: 0.06, queued: true }), path(1)]],
  ['both lose', [path(0, { loss: 0.06 }), path(1, { loss: 0.01 })]],
  ['both lose, one much more', [path(0, { loss: 0.065 }), path(1, { loss: 0.01 })]],
  ['first loses 0.4 %', [path(0, { loss: 0.004 }), path(1)]],
  ['first loses 0.5 %', [path(0, { loss: 0.005 }), path(1)]],
  ['first slows by 4 ms', [path(0, { rttMs: 24 }), path(1)]],
  ['first slows by 5 ms', [path(0, { rttMs: 25 }), path(1)]],
  ['reserve', [path(0, { reserve: true, weight: 3 }), path(1), path(2, { weight: 2 })]],
  ['only a reserve and a silent one', [path(0, { reserve: true }), path(1, { state: 'suspect' })]],
  ['second is faster', [path(0), path(1, { bestRttMs: 15.9, rttMs: 15.9 })]],
  ['second is not faster by enough', [path(0), path(1, { bestRttMs: 16, rttMs: 16 })]],
  ['first is unknown', [path(0, { bestRttMs: Number.NaN }), path(1)]],
  ['never up', [path(0, { state: 'validating' }), path(1, { state: 'new' })]],
  ['all down', [path(0, { state: 'down' }), path(1, { state: 'down' })]],
]

test('OH-16, OH-18, OH-19, OH-22, OH-24: what each scheduler plans in each situation, after acc1 was the path for a second', () => {
  const table = (['failover', 'lowest-rtt', 'budget', 'round-robin', 'weighted', 'duplicate'] as const).map(
    (mode: Mode) => {
      const before = planPaths(mode, [path(0), path(1), path(2)], NO_PLAN_MEMORY, 0)
      const lines = SITUATIONS.map(([name, facts]) => {
        const memory: PlanMemory = before.memory
        return `${name}: ${inWords(planPaths(mode, facts, memory, 1_000).plan)}`
      })
      return [mode, ...lines]
    },
  )
  assert.deepEqual(
    table.flat().join('\n'),
    `
    failover
    nothing: none (no path is usable)
    all well: 0 (acc1 works, and none is preferred to it)
    first down: 1 ordered until 1500 (the path before is gone)
    first suspect: 1 ordered until 1500 (acc1 is silent)
    first degrading: 0 (acc1 works, and none is preferred to it)
    first drains: 1 ordered until 1500 (acc1 is being left)
    first fades: 1 ordered until 1500 (acc1 is fading)
    all fade: 0 (acc1 works, and none is preferred to it)
    first loses 5 %: 0 (acc1 works, and none is preferred to it)
    first loses 6 %: 1 probes 0 ordered until 1500 (acc1 is losing 6.0 %; acc1 loses too much)
    first loses 6 %, queued: 0 (acc1 works, and none is preferred to it)
    both lose: 0 (acc1 works, and none is preferred to it)
    both lose, one much more: 1 probes 0 ordered until 1500 (acc1 is losing 6.5 %; acc1 loses too much)
    first loses 0.4 %: 0 (acc1 works, and none is preferred to it)
    first loses 0.5 %: 0 (acc1 works, and none is preferred to it)
    first slows by 4 ms: 0 (acc1 works, and none is preferred to it)
    first slows by 5 ms: 0 (acc1 works, and none is preferred to it)
    reserve: 1 ordered until 1500 (acc1 is for when nothing else works)
    only a reserve and a silent one: 0 (acc1 works, and none is preferred to it)
    second is faster: 0 (acc1 works, and none is preferred to it)
    second is not faster by enough: 0 (acc1 works, and none is preferred to it)
    first is unknown: 0 (acc1 works, and none is preferred to it)
    never up: none (no path is usable)
    all down: 0 last resort until 3000 (no path is usable; what acc1 does not carry is sent again)
    lowest-rtt
    nothing: none (no path is usable)
    all well: 0 (acc1 works, and none is preferred to it)
    first down: 1 ordered until 1500 (the path before is gone)
    first suspect: 1 ordered until 1500 (acc1 is silent)
    first degrading: 0 (acc1 works, and none is preferred to it)
    first drains: 1 ordered until 1500 (acc1 is being left)
    first fades: 1 ordered until 1500 (acc1 is fading)
    all fade: 0 (acc1 works, and none is preferred to it)
    first loses 5 %: 0 (acc1 works, and none is preferred to it)
    first loses 6 %: 1 probes 0 ordered until 1500 (acc1 is losing 6.0 %; acc1 loses too much)
    first loses 6 %, queued: 0 (acc1 works, and none is preferred to it)
    both lose: 0 (acc1 works, and none is preferred to it)
    both lose, one much more: 1 probes 0 ordered until 1500 (acc1 is losing 6.5 %; acc1 loses too much)
    first loses 0.4 %: 0 (acc1 works, and none is preferred to it)
    first loses 0.5 %: 0 (acc1 works, and none is preferred to it)
    first slows by 4 ms: 0 (acc1 works, and none is preferred to it)
    first slows by 5 ms: 0 (acc1 works, and none is preferred to it)
    reserve: 1 ordered until 1500 (acc1 is for when nothing else works)
    only a reserve and a silent one: 0 (acc1 works, and none is preferred to it)
    second is faster: 0 until 3000 (acc2 is faster, but only of late)
    second is not faster by enough: 0 (acc2 is not faster by enough)
    first is unknown: 1 ordered until 1500 (acc2 answers in 20.0 ms)
    never up: none (no path is usable)
    all down: 0 last resort until 3000 (no path is usable; what acc1 does not carry is sent again)
    budget
    nothing: none (no path is usable)
    all well: 0 refuge 1 (acc1 works, and none is preferred to it)
    first down: 1 refuge 2 at risk ordered until 1500 (the path before is gone)
    first suspect: 1 refuge 0 at risk ordered until 1500 (acc1 is silent)
    first degrading: 1 refuge 0 at risk ordered until 1500 (acc1 slows down)
    first drains: 1 refuge 0 at risk ordered until 1500 (acc1 is being left)
    first fades: 1 refuge 0 at risk ordered until 1500 (acc1 is fading)
    all fade: 0 refuge 1 at risk (acc1 works, and none is preferred to it)
    first loses 5 %: 1 refuge 0 at risk ordered until 1500 (acc1 loses 5.0 %)
    first loses 6 %: 1 probes 0 refuge 0 at risk ordered until 1500 (acc1 is losing 6.0 %; acc1 loses too much)
    first loses 6 %, queued: 1 refuge 0 at risk ordered until 1500 (acc1 loses 6.0 %)
    both lose: 0 refuge 1 at risk (acc1 works, and none is preferred to it)
    both lose, one much more: 1 probes 0 refuge 0 at risk ordered until 1500 (acc1 is losing 6.5 %; acc1 loses too much)
    first loses 0.4 %: 0 refuge 1 (acc1 works, and none is preferred to it)
    first loses 0.5 %: 1 refuge 0 at risk ordered until 1500 (acc1 loses 0.5 %)
    first slows by 4 ms: 0 refuge 1 (acc1 works, and none is preferred to it)
    first slows by 5 ms: 1 refuge 0 at risk ordered until 1500 (acc1 slows down)
    reserve: 1 refuge 2 at risk ordered until 1500 (acc1 is for when nothing else works)
    only a reserve and a silent one: 0 refuge 1 (acc1 works, and none is preferred to it)
    second is faster: 0 refuge 1 (acc1 works, and none is preferred to it)
    second is not faster by enough: 0 refuge 1 (acc1 works, and none is preferred to it)
    first is unknown: 0 refuge 1 (acc1 works, and none is preferred to it)
    never up: none (no path is usable)
    all down: 0 last resort until 3000 (no path is usable; what acc1 does not carry is sent again)
    round-robin
    nothing: none (no path is usable)
    all well: 0+1+2 ordered (spread over acc1 and acc2 and acc3 in turn)
    first down: 1+2 ordered (spread over acc2 and acc3 in turn)
    first suspect: 1 (spread over acc2 in turn)
    first degrading: 0+1 ordered (spread over acc1 and acc2 in turn)
    first drains: 1 (spread over acc2 in turn)
    first fades: 0+1 ordered (spread over acc1 and acc2 in turn)
    all fade: 0+1 ordered (spread over acc1 and acc2 in turn)
    first loses 5 %: 0+1 ordered (spread over acc1 and acc2 in turn)
    first loses 6 %: 1 probes 0 (spread over acc2 in turn; acc1 loses too much)
    first loses 6 %, queued: 0+1 ordered (spread over acc1 and acc2 in turn)
    both lose: 0+1 ordered (spread over acc1 and acc2 in turn)
    both lose, one much more: 1 probes 0 (spread over acc2 in turn; acc1 loses too much)
    first loses 0.4 %: 0+1 ordered (spread over acc1 and acc2 in turn)
    first loses 0.5 %: 0+1 ordered (spread over acc1 and acc2 in turn)
    first slows by 4 ms: 0+1 ordered (spread over acc1 and acc2 in turn)
    first slows by 5 ms: 0+1 ordered (spread over acc1 and acc2 in turn)
    reserve: 1+2 ×1:2 ordered (spread over acc2 and acc3 in turn)
    only a reserve and a silent one: 0 (spread over acc1 in turn)
    second is faster: 0+1 ordered (spread over acc1 and acc2 in turn)
    second is not faster by enough: 0+1 ordered (spread over acc1 and acc2 in turn)
    first is unknown: 0+1 ordered (spread over acc1 and acc2 in turn)
    never up: none (no path is usable)
    all down: 0 last resort until 3000 (no path is usable; what acc1 does not carry is sent again)
    weighted
    nothing: none (no path is usable)
    all well: 0+1+2 ordered (each packet where it arrives first, of acc1 and acc2 and acc3, by measured rate and delay)
    first down: 1+2 ordered (each packet where it arrives first, of acc2 and acc3, by measured rate and delay)
    first suspect: 1 (each packet where it arrives first, of acc2, by measured rate and delay)
    first degrading: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    first drains: 1 (each packet where it arrives first, of acc2, by measured rate and delay)
    first fades: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    all fade: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    first loses 5 %: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    first loses 6 %: 1 probes 0 (each packet where it arrives first, of acc2, by measured rate and delay; acc1 loses too much)
    first loses 6 %, queued: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    both lose: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    both lose, one much more: 1 probes 0 (each packet where it arrives first, of acc2, by measured rate and delay; acc1 loses too much)
    first loses 0.4 %: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    first loses 0.5 %: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    first slows by 4 ms: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    first slows by 5 ms: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    reserve: 1+2 ordered (each packet where it arrives first, of acc2 and acc3, by measured rate and delay)
    only a reserve and a silent one: 0 (each packet where it arrives first, of acc1, by measured rate and delay)
    second is faster: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    second is not faster by enough: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    first is unknown: 0+1 ordered (each packet where it arrives first, of acc1 and acc2, by measured rate and delay)
    never up: none (no path is usable)
    all down: 0 last resort until 3000 (no path is usable; what acc1 does not carry is sent again)
    duplicate
    nothing: none (no path is usable)
    all well: 0+1+2 (a copy on each of acc1 and acc2 and acc3)
    first down: 1+2 (a copy on each of acc2 and acc3)
    first suspect: 1 copies 0 (a copy on each of acc1 and acc2)
    first degrading: 0+1 (a copy on each of acc1 and acc2)
    first drains: 1 copies 0 (a copy on each of acc1 and acc2)
    first fades: 0+1 (a copy on each of acc1 and acc2)
    all fade: 0+1 (a copy on each of acc1 and acc2)
    first loses 5 %: 0+1 (a copy on each of acc1 and acc2)
    first loses 6 %: 1 copies 0 (a copy on each of acc1 and acc2)
    first loses 6 %, queued: 0+1 (a copy on each of acc1 and acc2)
    both lose: 0+1 (a copy on each of acc1 and acc2)
    both lose, one much more: 1 copies 0 (a copy on each of acc1 and acc2)
    first loses 0.4 %: 0+1 (a copy on each of acc1 and acc2)
    first loses 0.5 %: 0+1 (a copy on each of acc1 and acc2)
    first slows by 4 ms: 0+1 (a copy on each of acc1 and acc2)
    first slows by 5 ms: 0+1 (a copy on each of acc1 and acc2)
    reserve: 1+2 (a copy on each of acc2 and acc3)
    only a reserve and a silent one: 0 copies 1 (a copy on each of acc1 and acc2)
    second is faster: 0+1 (a copy on each of acc1 and acc2)
    second is not faster by enough: 0+1 (a copy on each of acc1 and acc2)
    first is unknown: 0+1 (a copy on each of acc1 and acc2)
    never up: none (no path is usable)
    all down: 0 last resort until 3000 (no path is usable; what acc1 does not carry is sent again)
  `
      .trim()
      .replaceAll(/\n +/g, '\n'),
  )
})

test('OH-18, OH-19: plans as time passes: left, back, demoted, readmitted', () => {
  const said: string[] = []
  for (const mode of ['failover', 'lowest-rtt', 'budget', 'round-robin'] as const) {
    let memory: PlanMemory = NO_PLAN_MEMORY
    said.push(mode)
    for (const [now, facts] of [
      [0, [path(0), path(1)]],
      [100, [path(0, { state: 'suspect' }), path(1)]],
      [399, [path(0), path(1)]],
      [400, [path(0), path(1)]],
      [599, [path(0), path(1)]],
      [600, [path(0), path(1)]],
      [3_398, [path(0), path(1)]],
      [3_399, [path(0), path(1)]],
      [4_000, [path(0, { loss: 0.2 }), path(1)]],
      [4_500, [path(0, { loss: 0.02 }), path(1)]],
      [5_000, [path(0, { loss: 0.019 }), path(1)]],
      [5_999, [path(0, { loss: 0.019 }), path(1)]],
      [6_000, [path(0, { loss: 0.019 }), path(1)]],
      [6_500, [path(0, { loss: 0.2 }), path(1)]],
      [6_600, [path(0, { loss: 0 }), path(1)]],
      [7_000, [path(0, { loss: 0.02 }), path(1)]],
      [7_700, [path(0, { loss: 0 }), path(1)]],
      [20_000, [path(0), path(1, { bestRttMs: 10, rttMs: 10 })]],
      [21_999, [path(0), path(1, { bestRttMs: 10, rttMs: 10 })]],
      [22_000, [path(0), path(1, { bestRttMs: 10, rttMs: 10 })]],
      [30_000, [path(0, { state: 'down' }), path(1, { state: 'down' })]],
      [31_999, [path(0, { state: 'down' }), path(1, { state: 'down' })]],
      [32_000, [path(0, { state: 'down' }), path(1, { state: 'down' })]],
    ] as const) {
      const { plan, memory: next } = planPaths(mode, facts, memory, now)
      memory = next
      said.push(`${now}: ${inWords(plan)}`)
    }
  }
  assert.deepEqual(
    said.join('\n'),
    `
    failover
    0: 0 (acc1 is first)
    100: 1 ordered until 600 (acc1 is silent)
    399: 1 ordered until 600 (acc1 is preferred, but back only now)
    400: 1 ordered until 600 (acc1 is preferred, but back only now)
    599: 1 ordered until 600 (acc1 is preferred, but back only now)
    600: 1 until 3399 (acc1 is preferred, but back only now)
    3398: 1 until 3399 (acc1 is preferred, but back only now)
    3399: 0 ordered until 3899 (acc1 is preferred and has been well for 3 s)
    4000: 1 probes 0 ordered until 4500 (acc1 is losing 20.0 %; acc1 loses too much)
    4500: 1 probes 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    5000: 1 probes 0 until 6000 (acc2 works, and none is preferred to it; acc1 loses too much)
    5999: 1 probes 0 until 6000 (acc2 works, and none is preferred to it; acc1 loses too much)
    6000: 1 until 9000 (acc1 is preferred, but back only now)
    6500: 1 probes 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    6600: 1 probes 0 until 7600 (acc2 works, and none is preferred to it; acc1 loses too much)
    7000: 1 probes 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    7700: 1 probes 0 until 8700 (acc2 works, and none is preferred to it; acc1 loses too much)
    20000: 1 until 23000 (acc1 is preferred, but back only now)
    21999: 1 until 23000 (acc1 is preferred, but back only now)
    22000: 1 until 23000 (acc1 is preferred, but back only now)
    30000: 1 last resort until 32000 (no path is usable; what acc2 does not carry is sent again)
    31999: 1 last resort until 32000 (no path is usable; what acc2 does not carry is sent again)
    32000: none (no path is usable)
    lowest-rtt
    0: 0 (acc1 is first)
    100: 1 ordered until 600 (acc1 is silent)
    399: 1 ordered until 600 (acc1 is not faster by enough)
    400: 1 ordered until 600 (acc1 is not faster by enough)
    599: 1 ordered until 600 (acc1 is not faster by enough)
    600: 1 (acc1 is not faster by enough)
    3398: 1 (acc1 is not faster by enough)
    3399: 1 (acc1 is not faster by enough)
    4000: 1 probes 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    4500: 1 probes 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    5000: 1 probes 0 until 6000 (acc2 works, and none is preferred to it; acc1 loses too much)
    5999: 1 probes 0 until 6000 (acc2 works, and none is preferred to it; acc1 loses too much)
    6000: 1 (acc1 is not faster by enough)
    6500: 1 probes 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    6600: 1 probes 0 until 7600 (acc2 works, and none is preferred to it; acc1 loses too much)
    7000: 1 probes 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    7700: 1 probes 0 until 8700 (acc2 works, and none is preferred to it; acc1 loses too much)
    20000: 1 (acc2 works, and none is preferred to it)
    21999: 1 (acc2 works, and none is preferred to it)
    22000: 1 (acc2 works, and none is preferred to it)
    30000: 1 last resort until 32000 (no path is usable; what acc2 does not carry is sent again)
    31999: 1 last resort until 32000 (no path is usable; what acc2 does not carry is sent again)
    32000: none (no path is usable)
    budget
    0: 0 refuge 1 (acc1 is first)
    100: 1 refuge 0 at risk ordered until 600 (acc1 is silent)
    399: 1 refuge 0 at risk ordered until 600 (acc1 is preferred, but back only now)
    400: 1 refuge 0 ordered until 600 (acc1 is preferred, but back only now)
    599: 1 refuge 0 ordered until 600 (acc1 is preferred, but back only now)
    600: 1 refuge 0 until 3399 (acc1 is preferred, but back only now)
    3398: 1 refuge 0 until 3399 (acc1 is preferred, but back only now)
    3399: 0 refuge 1 at risk ordered until 3899 (acc1 is preferred and has been well for 3 s)
    4000: 1 probes 0 refuge 0 at risk ordered until 4500 (acc1 is losing 20.0 %; acc1 loses too much)
    4500: 1 probes 0 refuge 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    5000: 1 probes 0 refuge 0 until 6000 (acc2 works, and none is preferred to it; acc1 loses too much)
    5999: 1 probes 0 refuge 0 until 6000 (acc2 works, and none is preferred to it; acc1 loses too much)
    6000: 1 refuge 0 (acc2 works, and none is preferred to it)
    6500: 1 probes 0 refuge 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    6600: 1 probes 0 refuge 0 until 7600 (acc2 works, and none is preferred to it; acc1 loses too much)
    7000: 1 probes 0 refuge 0 (acc2 works, and none is preferred to it; acc1 loses too much)
    7700: 1 probes 0 refuge 0 until 8700 (acc2 works, and none is preferred to it; acc1 loses too much)
    20000: 1 refuge 0 until 23000 (acc1 is preferred, but back only now)
    21999: 1 refuge 0 until 23000 (acc1 is preferred, but back only now)
    22000: 1 refuge 0 until 23000 (acc1 is preferred, but back only now)
    30000: 1 last resort until 32000 (no path is usable; what acc2 does not carry is sent again)
    31999: 1 last resort until 32000 (no path is usable; what acc2 does not carry is sent again)
    32000: none (no path is usable)
    round-robin
    0: 0+1 ordered (spread over acc1 and acc2 in turn)
    100: 1 (spread over acc2 in turn)
    399: 0+1 ordered (spread over acc1 and acc2 in turn)
    400: 0+1 ordered (spread over acc1 and acc2 in turn)
    599: 0+1 ordered (spread over acc1 and acc2 in turn)
    600: 0+1 ordered (spread over acc1 and acc2 in turn)
    3398: 0+1 ordered (spread over acc1 and acc2 in turn)
    3399: 0+1 ordered (spread over acc1 and acc2 in turn)
    4000: 1 probes 0 (spread over acc2 in turn; acc1 loses too much)
    4500: 1 probes 0 (spread over acc2 in turn; acc1 loses too much)
    5000: 1 probes 0 until 6000 (spread over acc2 in turn; acc1 loses too much)
    5999: 1 probes 0 until 6000 (spread over acc2 in turn; acc1 loses too much)
    6000: 0+1 ordered (spread over acc1 and acc2 in turn)
    6500: 1 probes 0 (spread over acc2 in turn; acc1 loses too much)
    6600: 1 probes 0 until 7600 (spread over acc2 in turn; acc1 loses too much)
    7000: 1 probes 0 (spread over acc2 in turn; acc1 loses too much)
    7700: 1 probes 0 until 8700 (spread over acc2 in turn; acc1 loses too much)
    20000: 0+1 ordered (spread over acc1 and acc2 in turn)
    21999: 0+1 ordered (spread over acc1 and acc2 in turn)
    22000: 0+1 ordered (spread over acc1 and acc2 in turn)
    30000: 0 last resort until 32000 (no path is usable; what acc1 does not carry is sent again)
    31999: 0 last resort until 32000 (no path is usable; what acc1 does not carry is sent again)
    32000: none (no path is usable)
  `
      .trim()
      .replaceAll(/\n +/g, '\n'),
  )
})

test('the line before a path: given, passed, by sparse flows, after a pause', () => {
  const lanes = new Lanes()
  const seen: (string | number)[] = []
  const round = (value: number) => Math.round(value * 100) / 100
  assert.equal(lanes.give(0, 12_500, 1_000), 1_000)
  assert.equal(lanes.freeAt[0], 1_001, 'an unknown rate')
  lanes.set(0, 1_000, 10)
  lanes.set(1, 0, Number.NaN, false)
  lanes.set(2, 500, 30)
  assert.deepEqual([...lanes.known.subarray(0, 3)], [1, 0, 1])
  assert.deepEqual([...lanes.rate.subarray(0, 3)], [1_000, 12_500, 500])
  const all = Int32Array.of(1, 2, 0)
  assert.deepEqual(
    [0, 1, 2].map((slot) => lanes.delayAmong(slot, all, 3)),
    [10, 60, 30],
  )
  assert.equal(lanes.delayAmong(1, all, 2), 80, 'among fewer')
  assert.equal(lanes.delayAmong(1, all, 1), 0, 'of none anything is known')
  for (const [at, bytes] of [
    [1_010, 2_000],
    [1_010, 3_000],
    [1_011, 10],
  ] as const)
    seen.push(lanes.give(0, bytes, at), lanes.freeAt[0]!)
  for (let n = 0; n < 4; n++) {
    lanes.pass(0, 5_000, 1_012)
    seen.push(lanes.freeAt[0]!)
  }
  lanes.clear(0)
  seen.push(lanes.freeAt[0]!)
  lanes.pass(0, 5_000, 1_020)
  seen.push(lanes.freeAt[0]!)
  assert.deepEqual(seen, [1010, 1012, 1012, 1015, 1015, 1015.01, 1020.01, 1025.01, 1030.01, 1032, 0, 1025])
  // In use since the first packet after a pause of 200 ms.
  lanes.give(3, 0, 2_000)
  assert.equal(lanes.usedSince[3], 2_000)
  lanes.give(3, 0, 2_200)
  assert.equal(lanes.usedSince[3], 2_000)
  lanes.give(3, 0, 2_401)
  assert.equal(lanes.usedSince[3], 2_401)
  // Sparse flows: 25 ms of 0.7 of the path at once.
  const sparse = [0, 0, 0, 0, 10].map((later) => lanes.passSparse(2, 3_500, 1_000 + later))
  assert.deepEqual(sparse, [true, true, true, false, true])
  assert.deepEqual(
    [lanes.passSparse(9, 100, 0), lanes.passSparse(9, 100, 0)],
    [true, false],
    'a path that nothing used yet',
  )
  // Any number of slots.
  lanes.set(40, 700, 5)
  assert.deepEqual([lanes.rate[40], lanes.rate[39], lanes.known[40], lanes.freeAt[40]], [700, 12_500, 1, 0])
  assert.equal(lanes.rate.length, 64)
  assert.deepEqual(
    [lanes.rate[0], lanes.delay[2], lanes.known[0], round(lanes.freeAt[0]!)],
    [1_000, 30, 1, 1_025],
  )
})

test('which flows are sparse: a quarter of the path, and a burst', () => {
  const flows = new SparseFlows()
  const passing = (hash: number, bytes: number, rate: number, now: number): number => {
    let count = 0
    while (count < 1_000 && flows.passes(hash, bytes, rate, now)) count++
    return count
  }
  assert.deepEqual(
    [
      passing(1, 1_000, 1_000, 0),
      passing(1, 1_000, 1_000, 0),
      passing(1, 1_000, 1_000, 8),
      passing(1, 1_000, 1_000, 1_000),
      passing(2, 1_000, 10_000, 1_000),
      passing(1_024 + 2, 1_000, 10_000, 1_000),
    ],
    [10, 0, 0, 10, 46, 0],
  )
  // One that has been heavy is sparse again after about a second.
  for (let n = 0; n < 10_000; n++) flows.passes(3, 1_000, 1_000, 0)
  let since = 0
  while (!flows.passes(3, 0, 1_000, since)) since++
  assert.equal(since, 1000)
  flows.waits(4, 50)
  flows.waits(4, 40)
  assert.deepEqual(
    [0, 49, 50].map((now) => flows.passes(4, 1, 1_000, now)),
    [false, false, true],
  )
  const view = new DataView(new ArrayBuffer(40))
  for (let i = 0; i < 40; i++) view.setUint8(i, i)
  assert.deepEqual(
    [flowHash(view, 4, 4, 0x10002), flowHash(view, 4, 16, 0x10002), flowHash(view, 0, 4, 2)],
    [3329572343, 970747802, 3372073262],
  )
})

test('OH-16, OH-17: packet by packet: path, copies, and when it leaves', () => {
  const said: string[] = []
  const plan = {
    carriers: [0, 1],
    copies: [],
    probes: [],
    refuge: -1,
    atRisk: false,
    ordered: true,
    reason: '',
  }
  const run = (
    name: string,
    mode: Mode,
    more: Partial<Plan>,
    packets: readonly (readonly number[])[],
    cap = 0.1,
  ) => {
    const lanes = new Lanes()
    lanes.set(0, 3_000, 10)
    lanes.set(1, 1_000, 15)
    lanes.set(2, 500, 40)
    const scheduler = new PacketScheduler(lanes, cap)
    const spread = new Spread()
    scheduler.follow(mode, { ...plan, ...more })
    const steps = packets.map(([now = 0, bytes = 1_400, kind = 0, flow = -1]) => {
      const slot = scheduler.choose(bytes, Math.ceil(bytes / 1_400), kind, spread, now, flow)
      if (slot < 0) return `${slot}`
      const copies = [...spread.copyTo.subarray(0, spread.copies)].map((to) => `+${to}`).join('')
      const leaves = spread.departAt === 0 ? '' : `@${Math.round((spread.departAt - now) * 10) / 10}`
      return `${slot}${copies}${leaves}${spread.ordered ? '' : '~'}`
    })
    const { bytes, copiedBytes, dropped } = scheduler.counts
    said.push(`${name}: ${steps.join(' ')}; ${bytes} ${copiedBytes} ${dropped}`)
  }
  const times = (count: number, of: (n: number) => readonly number[]) =>
    Array.from({ length: count }, (_, n) => of(n))
  run(
    'one path',
    'failover',
    { carriers: [1] },
    times(12, () => [1_000, 14_000]),
  )
  run(
    'one path, guessed',
    'failover',
    { carriers: [3] },
    times(4, () => [1_000, 1_400_000]),
  )
  run(
    'express',
    'failover',
    { carriers: [0, 1] },
    times(4, (n) => [1_000, 60, n % 2 === 0 ? Kind.express : 0]),
  )
  run(
    'in turn',
    'round-robin',
    {},
    times(16, (n) => [1_000 + n, 1_400]),
  )
  run(
    'in turn by weight',
    'round-robin',
    { weights: [1, 3] },
    times(16, (n) => [1_000 + n, 1_400]),
  )
  run(
    'by rate',
    'weighted',
    {},
    times(24, (n) => [1_000 + n, 9_000]),
  )
  run(
    'by rate, overfull',
    'weighted',
    {},
    times(14, () => [1_000, 60_000]),
  )
  run(
    'by rate, three',
    'weighted',
    { carriers: [2, 1, 0] },
    times(14, () => [1_000, 20_000]),
  )
  run(
    'copies',
    'duplicate',
    { copies: [2] },
    times(10, (n) => [1_000 + n, 2_800]),
  )
  run(
    'copies that find no room',
    'duplicate',
    { copies: [2] },
    times(6, () => [1_000, 14_000]),
  )
  run(
    'probes',
    'failover',
    { carriers: [0], probes: [1, 2] },
    times(34, (n) => [1_000 + n / 3, 700]),
  )
  run(
    'probes of every 4 ms',
    'failover',
    { carriers: [0], probes: [1] },
    times(24, (n) => [1_000 + n / 2, 700]),
  )
  run(
    'at risk',
    'budget',
    { carriers: [0], refuge: 1, atRisk: true },
    times(24, (n) => [1_000 + n, 1_000]),
  )
  run(
    'the end of a burst',
    'budget',
    { carriers: [0], refuge: 1 },
    times(8, (n) => [1_000 + 2_000 * n, 800_000, n === 2 || n > 4 ? Kind.tail : 0]),
    0.5,
  )
  run(
    'a call beside an upload',
    'weighted',
    {},
    times(24, (n) => (n % 6 === 0 ? [1_000 + n, 200, 0, 5] : [1_000 + n, 9_000, 0, 9])),
  )
  run(
    'the third is the fastest',
    'duplicate',
    { carriers: [2, 1, 0] },
    times(3, (n) => [1_000 + n, 1_400]),
  )
  run(
    'more copies than there is room for',
    'duplicate',
    { carriers: [0, 1, 2], copies: [3, 4, 5, 6, 7, 8, 9] },
    times(2, (n) => [1_000 + n, 1_400]),
  )
  assert.deepEqual(said, [
    'one path: 1@0 1@14.8 1@29.6 1@44.4 1@59.2 1@74 1@88.8 -1 -1 -1 -1 -1; 98000 0 5',
    'one path, guessed: 3@0 3@118.4 -1 -1; 2800000 0 2',
    'express: 0~ 0@0 0~ 0@0.1; 240 0 0',
    'in turn: 0@0 0@0 0@0 1@0 1@0.5 1@1 0@0 0@0 0@0 1@0 1@0.5 1@1 0@0 0@0 0@0 1@0; 22400 0 0',
    'in turn by weight: 0@0 0@0 0@0 1@0 1@0.5 1@1 1@1.4 1@1.9 1@2.4 1@2.9 1@3.4 1@3.8 0@0 0@0 0@0 1@1.3; 22400 0 0',
    'by rate: 0@0 0@2.2 0@4.4 0@6.6 0@8.7 0@10.9 1@0 0@12.1 0@14.3 0@16.5 1@5.6 0@17.7 0@19.9 0@22.1 1@11.1 0@23.2 0@25.4 0@27.6 1@16.7 0@28.8 0@31 0@33.2 1@22.2 0@34.4; 216000 0 0',
    'by rate, overfull: 0@0 0@21.1 0@42.3 1@0 0@63.4 0@84.6 0@105.7 1@63.4 -1 -1 -1 -1 -1 -1; 480000 0 6',
    'by rate, three: 0@0 0@7.1 0@14.1 1@0 0@21.2 0@28.3 0@35.3 1@21.2 0@42.4 0@49.5 0@56.5 1@42.4 0@63.6 2@0; 280000 0 0',
    'copies: 0+1+2@0 0+1@0 0@0 0+1+2@0 0@0 0@0 0@0 0+1@0 0@0 0@0; 28000 0 0',
    'copies that find no room: 0+1+2@0 0@4.9 0@9.9 0@14.8 0@19.7 0@24.7; 84000 0 0',
    'probes: 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0+1+2@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0+1+2@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0; 23800 0 0',
    'probes of every 4 ms: 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0+1@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0+1@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0+1@0; 16800 0 0',
    'at risk: 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0+1@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0@0 0+1@0 0@0 0@0 0@0 0@0; 24000 2000 0',
    'the end of a burst: 0@0 0@0 0+1@0 0@0 0@0 0+1@0 0+1@0 0@0; 6400000 2400000 0',
    'a call beside an upload: 0~ 0~ 0~ 0@4.4 0@6.6 0@8.7 0~ 0@10 0@12.2 1@0 0@13.4 0@15.6 0~ 0@16.9 1@4.6 0@18.1 0@20.2 0@22.4 0~ 1@9.1 0@22.6 0@24.8 0@27 1@14.7; 180800 0 0',
    'the third is the fastest: 0+2+1@0 0+2+1@0 0+1@0; 4200 0 0',
    'more copies than there is room for: 0+1+2+3+4+5+6+7+8@0 0+1+2+3+4+5+6+7+8@0; 2800 0 0',
  ])
})

test('OH-17: a change of plan keeps what each path was given before the others; a new one begins with the least', () => {
  const plan = {
    carriers: [0, 1],
    copies: [],
    probes: [],
    refuge: -1,
    atRisk: false,
    ordered: true,
    reason: '',
  }
  const lanes = new Lanes()
  for (const slot of [0, 1, 2]) lanes.set(slot, 3_000, 10)
  const scheduler = new PacketScheduler(lanes)
  const spread = new Spread()
  let now = 1_000
  const next = (count: number): string =>
    Array.from({ length: count }, () => scheduler.choose(1_400, 1, 0, spread, now++)).join('')
  scheduler.follow('round-robin', plan)
  scheduler.follow('round-robin', { ...plan, carriers: [1] })
  next(3)
  scheduler.follow('round-robin', { ...plan, weights: [1, 4] })
  const said = [next(16)]
  scheduler.follow('round-robin', { ...plan, carriers: [1, 0, 2] })
  said.push(next(18))
  scheduler.follow('round-robin', { ...plan, carriers: [2, 0] })
  said.push(next(12))
  assert.deepEqual(said, ['0001111111111110', '111222000111222000', '222000222000'])
})

test('OH-16, OH-17: where waiting ends: at exactly so many milliseconds', () => {
  const plan = {
    carriers: [0],
    copies: [],
    probes: [],
    refuge: -1,
    atRisk: false,
    ordered: false,
    reason: '',
  }
  const spread = new Spread()
  const given = (mode: Mode, more: Partial<Plan>, freeAt: readonly number[], known = true): string => {
    const lanes = new Lanes()
    const scheduler = new PacketScheduler(lanes)
    assert.equal(scheduler.choose(1_000, 1, 0, spread, 1_000), Verdict.PARK, 'without a plan')
    for (const [slot, at] of freeAt.entries()) {
      lanes.set(slot, 1_000, 10, known)
      lanes.freeAt[slot] = at
    }
    scheduler.follow(mode, { ...plan, ...more })
    const slot = scheduler.choose(920, 1, 0, spread, 1_000)
    return [slot, ...spread.copyTo.subarray(0, spread.copies)].join('+')
  }
  const { DROP } = Verdict
  assert.deepEqual(
    [1_100, 1_100.5].map((at) => given('failover', {}, [at])),
    ['0', `${DROP}`],
  )
  assert.deepEqual(
    [1_200, 1_200.5].map((at) => given('failover', {}, [at], false)),
    ['0', `${DROP}`],
  )
  const both = { carriers: [0, 1] }
  assert.deepEqual(
    [1_005, 1_005.5].map((at) => given('duplicate', { copies: [1] }, [1_000, at])),
    ['0+1', '0'],
  )
  assert.deepEqual(
    [1_100, 1_100.5].map((at) => given('weighted', both, [at, at])),
    ['0', `${DROP}`],
  )
  assert.deepEqual(
    [1_001, 1_001.5, 1_002].map((at) => given('weighted', both, [at, 1_000])),
    ['0', '1', '1'],
  )
  assert.deepEqual(
    [1_000, 1_010].map((at) => given('duplicate', both, [at, 1_000])),
    ['0+1', '0+1'],
  )
})
