/**
 * One TCP flow over a line that falls tenfold and rises again, and a steady one beside it (issue 10, D8), packet by packet in virtual
 * time: what the bare line gives TCP, what a scheduler would get that knows the rates (at once, or a round trip late), and what
 * measured rates get.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Lanes } from '../../../src/tunnel/scheduling/lanes.ts'
import { PacketScheduler } from '../../../src/tunnel/scheduling/packet-scheduler.ts'
import { PathRate } from '../../../src/tunnel/scheduling/rates.ts'
import { NO_PLAN_MEMORY, type PathFacts, planPaths } from '../../../src/tunnel/scheduling/schedulers.ts'
import { Spread } from '../../../src/tunnel/seam.ts'
import { some } from '../../support/extent.ts'

const SEGMENT = 1_340
const IN_TUNNEL = 1_500
const BARE = 1_440
const PROBE = 100
const PROBE_MS = 25
const PLAN_MS = 50
const HOLD_MS = 200
const FALLING = { high: 40, low: 4, delay: 15, queue: 300 }
const STEADY = { high: 10, low: 10, delay: 25, queue: 300 }
type LineSpec = typeof FALLING
type Control = 'reno' | 'cubic'

/** Events in order of time. */
class Time {
  now = 0
  readonly #heap: { at: number; order: number; run: () => void }[] = []
  #count = 0

  at(at: number, run: () => void): void {
    const heap = this.#heap
    let i = heap.length
    const event = { at: Math.max(at, this.now), order: this.#count++, run }
    for (; i > 0 && before(event, heap[(i - 1) >> 1]!); i = (i - 1) >> 1) heap[i] = heap[(i - 1) >> 1]!
    heap[i] = event
  }

  every(ms: number, run: () => void): void {
    this.at(this.now + ms, () => {
      run()
      this.every(ms, run)
    })
  }

  run(until: number): void {
    for (let event = this.#heap[0]; event !== undefined && event.at <= until; event = this.#heap[0]) {
      this.#pop()
      this.now = event.at
      event.run()
    }
    this.now = until
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()!
    if (heap.length === 0) return
    let i = 0
    for (let child = 1; child < heap.length; child = 2 * i + 1) {
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
      if (before(last, heap[child]!)) break
      heap[i] = heap[child]!
      i = child
    }
    heap[i] = last
  }
}

function before(a: { at: number; order: number }, b: { at: number; order: number }): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}

/** A serial line behind a queue, whose rate changes each second. */
class Line {
  readonly spec: LineSpec
  mbps: number
  freeAt = 0
  delivered = 0
  readonly #time: Time

  constructor(time: Time, spec: LineSpec) {
    this.#time = time
    this.spec = spec
    this.mbps = spec.high
    time.every(1_000, () => {
      this.mbps = this.mbps === spec.high ? spec.low : spec.high
    })
  }

  send(bytes: number, arrived: () => void): void {
    const start = Math.max(this.freeAt, this.#time.now)
    if (start - this.#time.now > this.spec.queue) return
    this.freeAt = start + (8 * bytes) / (1_000 * this.mbps)
    this.#time.at(this.freeAt + this.spec.delay, () => {
      this.delivered += bytes
      arrived()
    })
  }
}

/** A sender with SACK: three later packets that arrived say that one was lost (RFC 6675), then RFC 5681 or RFC 9438. */
class Tcp {
  acked = 0
  readonly #time: Time
  readonly #control: Control
  readonly #transmit: (packet: number) => void
  readonly #flying = new Map<number, number>()
  #window = 10
  #threshold = Number.POSITIVE_INFINITY
  #next = 0
  #highest = -1
  #recovery = -1
  #rtt = 60
  #leastRtt = Number.POSITIVE_INFINITY
  #heardAt = 0
  #backoff = 1
  #before = 0
  #epoch = Number.NaN
  #cubicRoot = 0
  #estimate = 0

  constructor(time: Time, control: Control, transmit: (packet: number) => void) {
    this.#time = time
    this.#control = control
    this.#transmit = transmit
    time.every(10, () => this.#timeout())
  }

  fill(): void {
    while (this.#flying.size < this.#window) {
      if (this.#flying.size === 0) this.#heardAt = this.#time.now
      this.#flying.set(this.#next, this.#time.now)
      this.#transmit(this.#next++)
    }
  }

  ack(packet: number): void {
    const sentAt = this.#flying.get(packet)
    this.#heardAt = this.#time.now
    this.#backoff = 1
    if (sentAt === undefined) return
    this.#flying.delete(packet)
    this.acked++
    const rtt = this.#time.now - sentAt
    this.#rtt += (rtt - this.#rtt) / 8
    this.#leastRtt = Math.min(this.#leastRtt, rtt)
    this.#highest = Math.max(this.#highest, packet)
    let lost = false
    for (const each of this.#flying.keys()) {
      if (each > this.#highest - 3) break
      this.#flying.delete(each)
      if (each > this.#recovery) lost = true
    }
    if (lost) this.#cut(this.#control === 'reno' ? 0.5 : 0.7)
    else if (this.#window < this.#threshold) this.#slowStart(rtt)
    else this.#grow()
    this.fill()
  }

  #slowStart(rtt: number): void {
    this.#window++
    // HyStart (RFC 9406).
    const late = rtt > this.#leastRtt + Math.max(4, Math.min(16, this.#leastRtt / 8))
    if (this.#control === 'cubic' && late && this.#window >= 16) this.#threshold = this.#window
  }

  #grow(): void {
    if (this.#control === 'reno') {
      this.#window += 1 / this.#window
      return
    }
    if (Number.isNaN(this.#epoch)) {
      this.#epoch = this.#time.now
      this.#before = Math.max(this.#before, this.#window)
      this.#cubicRoot = Math.cbrt((this.#before - this.#window) / 0.4)
      this.#estimate = this.#window
    }
    const seconds = (this.#time.now - this.#epoch + this.#rtt) / 1_000
    const cubic = this.#before + 0.4 * (seconds - this.#cubicRoot) ** 3
    this.#estimate += 0.529 / this.#window
    const target = Math.min(Math.max(cubic, this.#estimate), 1.5 * this.#window)
    this.#window += Math.max(target - this.#window, 0.01) / this.#window
  }

  #cut(factor: number): void {
    this.#recovery = this.#next
    this.#before = this.#window < this.#before ? 0.85 * this.#window : this.#window
    this.#window = Math.max(2, factor * this.#window)
    this.#threshold = this.#window
    this.#epoch = Number.NaN
  }

  #timeout(): void {
    const wait = this.#backoff * Math.max(200 + this.#rtt, 1.5 * this.#rtt)
    if (this.#flying.size === 0 || this.#time.now - this.#heardAt <= wait) return
    this.#flying.clear()
    this.#cut(this.#control === 'reno' ? 0.5 : 0.7)
    this.#window = 1
    this.#backoff = Math.min(8, 2 * this.#backoff)
    this.fill()
  }
}

/** The receiving router: restores the order of packets that came over two lines. */
class Order {
  #next = 0
  readonly #held = new Map<number, () => void>()
  readonly #newest = [-1, -1]
  readonly #time: Time
  #waiting = false

  constructor(time: Time) {
    this.#time = time
  }

  arrived(slot: number, counter: number, deliver: () => void): void {
    this.#newest[slot] = Math.max(this.#newest[slot]!, counter)
    if (counter < this.#next) {
      deliver()
      return
    }
    this.#held.set(counter, deliver)
    this.#release()
    if (this.#held.size === 0 || this.#waiting) return
    const gap = this.#next
    this.#waiting = true
    this.#time.at(this.#time.now + HOLD_MS, () => {
      this.#waiting = false
      if (this.#next !== gap || this.#held.size === 0) return
      this.#next = Math.min(...this.#held.keys())
      this.#release()
    })
  }

  #release(): void {
    for (;;) {
      const deliver = this.#held.get(this.#next)
      if (deliver === undefined && (this.#held.size === 0 || this.#next >= Math.min(...this.#newest))) return
      this.#held.delete(this.#next++)
      deliver?.()
    }
  }
}

/** Mbit/s over `seconds` in the steady state. */
function measured(time: Time, tcp: Tcp, seconds = 60): number {
  tcp.fill()
  time.run(8_000)
  const { acked } = tcp
  time.run(8_000 + 1_000 * seconds)
  return ((tcp.acked - acked) * SEGMENT * 8) / 1e6 / seconds
}

function bare(control: Control, spec: LineSpec): number {
  const time = new Time()
  const line = new Line(time, spec)
  const tcp: Tcp = new Tcp(time, control, (packet) =>
    line.send(BARE, () => time.at(time.now + spec.delay, () => tcp.ack(packet))),
  )
  return measured(time, tcp)
}

/** `knownAfter`: the rates are not measured but known, so many milliseconds late. */
function weighted(control: Control, knownAfter?: number): number {
  const time = new Time()
  const lines = [FALLING, STEADY].map((spec) => new Line(time, spec))
  const clock = {}
  const rates = lines.map(() => new PathRate(clock))
  const lanes = new Lanes()
  const scheduler = new PacketScheduler(lanes)
  const spread = new Spread()
  const order = new Order(time)
  let counter = 0
  const tcp: Tcp = new Tcp(time, control, (packet) => {
    const slot = scheduler.choose(SEGMENT + 60, 1, 0, spread, time.now, 7)
    if (slot < 0) return
    const number = counter++
    const acknowledged = () => time.at(time.now + FALLING.delay, () => tcp.ack(packet))
    time.at(spread.departAt, () =>
      lines[slot]!.send(IN_TUNNEL, () => order.arrived(slot, number, acknowledged)),
    )
  })
  const setLane = (slot: number) => {
    const { rate, delayMs, queueMs, known } = rates[slot]!
    lanes.set(slot, rate, delayMs + queueMs, known)
  }
  const plan = () => {
    const facts = lines.map(({ spec }, slot): PathFacts => {
      const bestRttMs = 2 * spec.delay
      const rttMs = bestRttMs + rates[slot]!.queueMs
      return {
        slot,
        name: `acc${slot}`,
        state: 'up',
        draining: false,
        priority: slot,
        rttMs,
        bestRttMs,
        loss: 0,
        queued: true,
      }
    })
    scheduler.follow('weighted', planPaths('weighted', facts, NO_PLAN_MEMORY, time.now).plan)
  }
  const probe = (slot: number) => {
    const line = lines[slot]!
    const sentAt = time.now
    line.send(PROBE, () => {
      const sample = {
        rttMs: time.now - sentAt + line.spec.delay,
        loss: 0,
        sentAt: (1_000 * sentAt) >>> 0,
        arrivedAt: (1_000 * time.now) >>> 0,
        receivedBytes: line.delivered % 2 ** 32,
      }
      time.at(time.now + line.spec.delay, () => {
        rates[slot]!.sample(sample, time.now)
        setLane(slot)
      })
    })
  }
  const know = (slot: number, after: number) => {
    const { mbps, spec, freeAt } = lines[slot]!
    const delay = spec.delay + Math.max(0, freeAt - time.now)
    time.at(time.now + after, () => lanes.set(slot, 0.98 * 125 * mbps, delay))
  }
  const late = (slot: number) => {
    const rate = rates[slot]!
    const since = lanes.usedSince[slot]!
    const used = lanes.freeAt[slot]!
    const at = rate.lateAt(since)
    if (used <= rate.sampledAt || used + 30 <= at || at > time.now) return
    rate.late(since, time.now)
    setLane(slot)
  }
  plan()
  time.every(PLAN_MS, plan)
  if (knownAfter === undefined) {
    time.every(PROBE_MS, () => {
      for (const slot of lines.keys()) probe(slot)
    })
  }
  time.every(2, () => {
    for (const slot of [0, 1])
      if (knownAfter === undefined) late(slot)
      else know(slot, knownAfter)
  })
  return measured(time, tcp)
}

/** What the lines carry: a mean of 22 Mbit/s, and 10. */
const MEAN = (FALLING.high + FALLING.low) / 2 + STEADY.high

for (const [control, want] of some([
  ['reno', 0.54],
  ['cubic', 0.55],
] as const))
  test(`issue 10 D8: one flow (${control}) over a line that falls tenfold and rises each second and one beside it: ${want} of what they carry`, (t) => {
    const alone = bare(control, FALLING)
    const both = alone + bare(control, STEADY)
    const [known, later, now] = [weighted(control, 0), weighted(control, 60), weighted(control)]
    const share = (mbps: number) => (mbps / MEAN).toFixed(2)
    const what = `a flow on each bare line ${share(both)}, the falling one alone ${(alone / 22).toFixed(2)} of its own; rates known at once ${share(known)}, 60 ms late ${share(later)}; measured ${share(now)}`
    t.diagnostic(what)
    assert.ok(now >= want * MEAN, what)
    assert.ok(now >= 0.8 * later, what)
    assert.ok(now > alone, what)
  })
