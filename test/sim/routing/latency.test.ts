/**
 * A call beside an upload that fills its links, in virtual time: rates that are measured, packets that leave at them, and
 * modems with long queues.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Lanes } from '../../../src/tunnel/scheduling/lanes.ts'
import { PacketScheduler } from '../../../src/tunnel/scheduling/packet-scheduler.ts'
import { PathRate } from '../../../src/tunnel/scheduling/rates.ts'
import {
  type Mode,
  NO_PLAN_MEMORY,
  type PathFacts,
  type PlanMemory,
  planPaths,
} from '../../../src/tunnel/scheduling/schedulers.ts'
import { Spread } from '../../../src/tunnel/seam.ts'

const MEASURE_MS = 25
const SEGMENT = 1_300
const WIRE = SEGMENT + 80
const CALL_MS = 20
const CALL_BYTES = 200
const UPLOAD = 7
const CALL = 9

interface LinkSpec {
  /** Mbit/s. */
  readonly mbps: number
  /** One way, milliseconds. */
  readonly delay: number
  /** The modem's queue, milliseconds of its rate. */
  readonly queue: number
}

interface Sent {
  readonly flow: number
  readonly sequence: number
  readonly sentAt: number
}

/** One run: an upload by a window that grows and halves, as TCP's does, and a call. */
class Uplink {
  now = 0
  readonly #links: { spec: LinkSpec; freeAt: number; delivered: number; rate: PathRate }[]
  readonly #lanes = new Lanes()
  readonly #scheduler = new PacketScheduler(this.#lanes)
  readonly #spread = new Spread()
  #memory: PlanMemory = NO_PLAN_MEMORY
  readonly #mode: Mode
  /** What happens later, in order of time. */
  readonly #later: { at: number; run: () => void }[] = []
  readonly callDelays: number[] = []
  readonly #called = new Set<number>()
  changes = 0
  #carrier = -1
  uploaded = 0
  #window = 10
  #threshold = 1e9
  #flying = 0
  #recoverUntil = 0
  #sequence = 0
  readonly #uploadArrived = new Set<number>()

  constructor(mode: Mode, links: readonly LinkSpec[]) {
    const clock = {}
    this.#mode = mode
    this.#links = links.map((spec) => ({ spec, freeAt: 0, delivered: 0, rate: new PathRate(clock) }))
    this.#plan()
  }

  #plan(): void {
    const facts = this.#links.map(({ spec, rate }, slot): PathFacts => {
      const best = Number.isNaN(rate.bestRttMs) ? 2 * spec.delay : rate.bestRttMs
      return {
        slot,
        name: `acc${slot + 1}`,
        state: 'up',
        draining: false,
        priority: slot,
        rttMs: best + rate.queueMs,
        bestRttMs: best,
        loss: 0,
        queued: false,
      }
    })
    const { plan, memory } = planPaths(this.#mode, facts, this.#memory, this.now)
    this.#memory = memory
    this.#scheduler.follow(this.#mode, plan)
    if (this.#carrier >= 0 && plan.carriers[0] !== this.#carrier) this.changes++
    this.#carrier = plan.carriers[0]!
  }

  #at(at: number, run: () => void): void {
    let i = this.#later.length
    while (i > 0 && this.#later[i - 1]!.at > at) i--
    this.#later.splice(i, 0, { at, run })
  }

  run(ms: number, upload: boolean, call: boolean): void {
    for (const end = this.now + ms; this.now < end; this.now++) {
      while (this.#later.length > 0 && this.#later[0]!.at <= this.now) this.#later.shift()!.run()
      if (this.now % MEASURE_MS === 0) {
        for (const slot of this.#links.keys()) this.#probe(slot)
        this.#plan()
      }
      for (const [slot, { rate }] of this.#links.entries()) {
        const usedAt = this.#lanes.freeAt[slot]!
        const since = this.#lanes.usedSince[slot]!
        const at = rate.lateAt(since)
        if (usedAt <= rate.sampledAt || usedAt + 30 <= at || at > this.now) continue
        rate.late(since, this.now)
        this.#setLane(slot)
      }
      if (call && this.now % CALL_MS === 0)
        this.#send({ flow: CALL, sequence: this.now, sentAt: this.now }, CALL_BYTES)
      while (upload && this.#flying < this.#window) this.#upload()
    }
  }

  #upload(): void {
    const packet = { flow: UPLOAD, sequence: this.#sequence++, sentAt: this.now }
    this.#flying++
    if (!this.#send(packet, SEGMENT)) this.#at(this.now + 50, () => this.#lost())
  }

  #lost(): void {
    this.#flying--
    if (this.now < this.#recoverUntil) return
    this.#window = Math.max(2, this.#window * 0.7)
    this.#threshold = this.#window
    this.#recoverUntil = this.now + 100
  }

  #send(packet: Sent, bytes: number): boolean {
    const spread = this.#spread
    const slot = this.#scheduler.choose(bytes, 1, 0, spread, this.now, packet.flow)
    if (slot < 0) return false
    const copies = [...spread.copyTo.subarray(0, spread.copies)]
    const leaves = Math.max(this.now, spread.departAt)
    if (leaves > this.now + 1) this.#at(leaves, () => this.#transmit(slot, packet, bytes))
    else this.#transmit(slot, packet, bytes)
    for (const copy of copies) this.#transmit(copy, packet, bytes, true)
    return true
  }

  #transmit(slot: number, packet: Sent, bytes: number, copy = false): void {
    const link = this.#links[slot]!
    const rate = (link.spec.mbps * 1000) / 8
    const waits = Math.max(0, link.freeAt - this.now)
    if (waits > link.spec.queue) {
      if (packet.flow === UPLOAD && !copy) this.#at(this.now + 2 * link.spec.delay, () => this.#lost())
      return
    }
    link.freeAt = this.now + waits + (bytes + 80) / rate
    this.#at(link.freeAt, () => {
      link.delivered += bytes + 80
    })
    this.#at(link.freeAt + link.spec.delay, () => this.#arrived(packet, link.spec.delay))
  }

  #arrived({ flow, sequence, sentAt }: Sent, delay: number): void {
    if (flow === CALL) {
      if (this.#called.has(sequence)) return
      this.#called.add(sequence)
      this.callDelays.push(this.now - sentAt)
    } else if (flow === UPLOAD) {
      if (this.#uploadArrived.has(sequence)) return
      this.#uploadArrived.add(sequence)
      this.uploaded += SEGMENT
      this.#at(this.now + delay, () => {
        this.#flying--
        this.#window += this.#window < this.#threshold ? 1 : 1 / this.#window
      })
    }
  }

  #probe(slot: number): void {
    const link = this.#links[slot]!
    const rate = (link.spec.mbps * 1000) / 8
    const sentAt = this.now
    const waits = Math.max(0, link.freeAt - this.now)
    if (waits > link.spec.queue) return
    link.freeAt = this.now + waits + 100 / rate
    this.#at(link.freeAt, () => {
      const arrivedAt = this.now + link.spec.delay
      const sample = {
        rttMs: arrivedAt - sentAt + link.spec.delay,
        loss: 0,
        sentAt: sentAt * 1000,
        arrivedAt: arrivedAt * 1000,
        receivedBytes: Math.floor(link.delivered),
      }
      this.#at(this.now + 2 * link.spec.delay, () => {
        link.rate.sample(sample, this.now)
        this.#setLane(slot)
      })
    })
  }

  #setLane(slot: number): void {
    const { rate, delayMs, queueMs, known } = this.#links[slot]!.rate
    this.#lanes.set(slot, rate, delayMs + queueMs, known)
  }
}

function p99(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(0.99 * values.length)]!
}

/** Bytes a millisecond of the upload alone in the steady state, the call alone, and both together. */
function beside(mode: Mode, links: readonly LinkSpec[]) {
  const alone = new Uplink(mode, links)
  alone.run(10_000, true, false)
  const at = alone.uploaded
  alone.run(20_000, true, false)
  const idle = new Uplink(mode, links)
  idle.run(5_000, false, true)
  const both = new Uplink(mode, links)
  both.run(2_000, false, true)
  both.callDelays.length = 0
  both.run(10_000, true, true)
  const began = both.uploaded
  both.run(20_000, true, true)
  return {
    upload: (both.uploaded - began) / (alone.uploaded - at),
    rate: (alone.uploaded - at) / 20_000,
    added: p99(both.callDelays) - p99(idle.callDelays),
    lost: 1 - both.callDelays.length / (30_000 / CALL_MS),
    changes: both.changes,
  }
}

const MODEM = { mbps: 5, delay: 20, queue: 1_600 }
const OTHER = { mbps: 8, delay: 40, queue: 1_600 }

describe('a call beside an upload', () => {
  for (const mode of ['failover', 'lowest-rtt', 'budget', 'duplicate', 'round-robin', 'weighted'] as const)
    test(`OH-17: ${mode}: the call is 50 ms late at most, the upload keeps 0.9 of its rate`, () => {
      const { upload, rate, added, lost, changes } = beside(mode, [MODEM, OTHER])
      const what = JSON.stringify({ upload, rate, added, lost, changes })
      assert.ok(added <= 50, what)
      assert.ok(lost < 0.005, what)
      assert.ok(upload >= 0.9, what)
      assert.ok(rate >= 0.8 * ((5 * 1000) / 8) * (SEGMENT / WIRE), what)
      assert.equal(mode === 'lowest-rtt' ? changes : 0, 0, what)
    })

  for (const mode of ['failover', 'weighted'] as const)
    test(`issue 10 D3: ${mode}: an upload that begins again after a pause finds the rate that it left`, () => {
      const uplink = new Uplink(mode, [MODEM, OTHER])
      uplink.run(15_000, true, false)
      uplink.run(5_000, false, true)
      const idle = p99(uplink.callDelays)
      uplink.callDelays.length = 0
      uplink.run(2_000, true, true)
      const worst = Math.max(...uplink.callDelays) - idle
      assert.ok(worst <= 50, `${worst} ms`)
    })

  test('OH-17b: four unequal links, one flow: 0.75 of their sum, and no less than the best two alone', () => {
    const links = [
      { mbps: 20, delay: 10, queue: 300 },
      { mbps: 10, delay: 20, queue: 300 },
      { mbps: 10, delay: 60, queue: 300 },
      { mbps: 5, delay: 150, queue: 300 },
    ]
    const run = (of: readonly LinkSpec[]) => {
      const uplink = new Uplink('weighted', of)
      uplink.run(15_000, true, false)
      const before = uplink.uploaded
      uplink.run(20_000, true, false)
      return (((uplink.uploaded - before) / 20_000) * 8) / 1000 / (SEGMENT / WIRE)
    }
    const all = run(links)
    const two = run(links.slice(0, 2))
    assert.ok(all >= 0.75 * 45 && all >= two, `${all} Mbit/s of 45; the best two alone ${two}`)
  })
})
