/** One path's monitor by itself: what it measures, when it asks, and when silence counts; times in milliseconds. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  ANCHOR_TUNING,
  HOST_TUNING,
  type MonitorTuning,
  PathMonitor,
  toMicros,
} from '../../../src/tunnel/protocol/monitor.ts'

/** A path whose round trips took 20 ms each, `trips` of them. */
class Bench {
  readonly monitor: PathMonitor
  readonly counters = {
    ...{ sentPackets: 0, sentBytes: 0, receivedPackets: 0, receivedBytes: 0 },
    ...{ lastSentAt: 0, lastReceivedAt: 0, highestCounter: -1 },
  }
  now = 0
  peerBusy = false

  constructor(tuning: MonitorTuning = HOST_TUNING, trips = 5) {
    this.monitor = new PathMonitor(tuning, 0)
    for (let i = 0; i < trips; i++) this.monitor.rttSample(20)
  }

  send(count = 1): void {
    this.counters.sentPackets += count
    this.counters.lastSentAt = this.now
  }

  receive(count = 1): void {
    this.counters.receivedPackets += count
    this.counters.lastReceivedAt = this.now
  }

  /** A probe leaves. */
  probe(): number {
    const sequence = this.monitor.probeSent(this.counters, this.now)
    this.send()
    this.monitor.noteControlSent()
    return sequence
  }

  /** The other end has received all that was sent, or so many. */
  echo(sequence: number, sentAt: number, received = this.counters.sentPackets): void {
    this.receive()
    this.monitor.noteControlReceived()
    this.monitor.echoReceived(sequence, toMicros(sentAt), received, received - 1, this.now)
  }

  /**
   * Assesses whenever the monitor wants, until then; `each` comes before. Returns times of probes, and of verdicts that differ from
   * the one before.
   */
  run(until: number, each: (bench: Bench) => void = () => {}): { probes: number[]; verdicts: string[] } {
    const probes: number[] = []
    const verdicts: string[] = []
    let last = 'fine'
    while (this.now <= until) {
      each(this)
      const { verdict, probe, nextAt } = this.monitor.assess(
        this.counters,
        this.peerBusy,
        last === 'suspect',
        this.now,
      )
      if (verdict !== last) verdicts.push(`${this.now} ${verdict}`)
      last = verdict
      if (probe) {
        probes.push(this.now)
        this.probe()
      }
      assert.ok(nextAt > this.now)
      if (verdict === 'silent' || verdict === 'one-way') break
      this.now = nextAt
    }
    return { probes, verdicts }
  }
}

test('RFC 6298 §2: round trips are smoothed, an eighth of the newest; what is no time counts for nothing', () => {
  const { monitor } = new Bench(HOST_TUNING, 0)
  assert.equal(monitor.timeout, 300, 'before the first')
  assert.deepEqual([monitor.degraded, monitor.recovered], [false, true])
  for (const none of [-1, Number.NaN]) monitor.rttSample(none)
  assert.ok(Number.isNaN(monitor.rttMs))
  monitor.rttSample(100)
  assert.deepEqual([monitor.rttMs, monitor.rttVarMs, monitor.timeout], [100, 50, 350])
  monitor.rttSample(140)
  assert.deepEqual([monitor.rttMs, monitor.rttVarMs], [105, 47.5])
  const { monitor: quick } = new Bench()
  assert.equal(quick.timeout, 100, 'no answer is waited for less')
  const { monitor: full } = new Bench()
  // Of 20 ms at best: shaky above 210, well again below 115.
  for (let i = 0; i < 100; i++) full.rttSample(211)
  assert.deepEqual([full.degraded, full.recovered], [true, false])
  for (let i = 0; i < 100; i++) full.rttSample(116)
  assert.deepEqual([full.degraded, full.recovered], [false, false])
  for (let i = 0; i < 100; i++) full.rttSample(114)
  assert.deepEqual([full.degraded, full.recovered], [false, true])
})

test('an echo counts for a probe that was sent, and was its time; of the last 64', () => {
  const bench = new Bench(HOST_TUNING, 0)
  const { monitor } = bench
  monitor.echoReceived(0, toMicros(-1), 5, 5, 10)
  assert.deepEqual([monitor.rttMs, monitor.remoteHighest], [Number.NaN, -1], 'none has left')
  bench.now = 100
  assert.equal(bench.probe(), 0)
  bench.now = 140
  bench.echo(0, 99)
  assert.ok(Number.isNaN(monitor.rttMs), 'the time of another')
  bench.echo(0, 100)
  assert.deepEqual([monitor.rttMs, monitor.lastRtt, monitor.remoteHighest], [40, 40, 0])
  for (let i = 0; i < 64; i++) {
    bench.now++
    assert.equal(bench.probe(), i + 1)
  }
  bench.echo(0, 100)
  assert.equal(monitor.lastRtt, 40, 'forgotten')
  bench.echo(1, 141)
  assert.equal(monitor.lastRtt, 63)
})

test('loss is of windows of 20 datagrams or five seconds, three tenths of the newest, and between none and all', () => {
  const bench = new Bench()
  const { monitor } = bench
  let received = 0
  const window = (sent: number, came: number, ms = 0): number => {
    bench.now += ms
    bench.send(sent)
    received += came
    const sequence = monitor.probeSent(bench.counters, bench.now)
    monitor.echoReceived(sequence, toMicros(bench.now), received, received, bench.now)
    return Math.round(monitor.loss * 1e6) / 1e6
  }
  assert.equal(window(0, 0), 0, 'where the first one begins')
  assert.equal(window(19, 0), 0, 'too few')
  assert.equal(window(1, 10), 0.15, 'half of twenty')
  assert.equal(window(20, 20), 0.105)
  assert.equal(window(20, 25), 0.0735, 'more than were sent is none lost')
  assert.equal(window(0, 0, 5_000), 0.0735, 'nothing sent, nothing lost')
  assert.equal(window(1, 0, 0), 0.35145, 'one, since five seconds ago')
  assert.deepEqual([monitor.degraded, monitor.recovered], [true, false])
  monitor.restart(bench.now)
  assert.equal(monitor.loss, 0)
  assert.equal(window(40, 0), 0, 'and begins anew')
  monitor.forgetReports()
  assert.equal(monitor.remoteHighest, -1)
})

test('a path that carries nothing is asked every 20 s, and while others do every second, or as its owner wishes', () => {
  const answered = (bench: Bench): void => {
    const { counters } = bench
    if (bench.monitor.evidence(bench.now).unanswered === 0) return
    counters.receivedPackets++
    counters.lastReceivedAt = bench.now
    bench.monitor.noteControlReceived()
  }
  const idle = new Bench()
  assert.deepEqual(idle.run(65_000, answered).probes, [20_000, 40_000, 60_000])
  const standby = new Bench()
  standby.peerBusy = true
  assert.deepEqual(standby.run(3_500, answered).probes, [1_000, 2_000, 3_000])
  const wished = new Bench()
  wished.peerBusy = true
  wished.monitor.standbyMs = 300
  assert.deepEqual(wished.run(1_000, answered).probes, [300, 600, 900])
  const measured = new Bench({ ...ANCHOR_TUNING, measureInterval: 50 })
  assert.equal(measured.monitor.emitsSamples, true)
  measured.peerBusy = true
  assert.deepEqual(measured.run(2_500, answered).probes, [1_000, 2_000])
  const anchor = new Bench(ANCHOR_TUNING)
  anchor.peerBusy = true
  assert.deepEqual([anchor.run(60_000, answered).probes, anchor.monitor.emitsSamples], [[], false])
})

test('a path in use is asked when nothing comes, after 200 ms all the same, and as often as measurements are wanted', () => {
  const both = (bench: Bench): void => {
    bench.send()
    bench.receive()
  }
  assert.deepEqual(new Bench().run(600, both).probes.slice(0, 3), [200, 240, 280])
  const echoed = (bench: Bench): void => {
    both(bench)
    const { unanswered } = bench.monitor.evidence(bench.now)
    if (unanswered > 0) bench.echo(0, 0)
  }
  assert.ok(new Bench().run(600, echoed).probes.length > 1)
  const measured = new Bench({ ...HOST_TUNING, measureInterval: 100 })
  measured.probe()
  assert.deepEqual(measured.run(450, both).probes, [100, 200, 240, 280, 320, 360, 400, 440])
})

test('what has arrived before a probe left does not answer it', () => {
  const bench = new Bench()
  bench.run(100)
  bench.receive()
  bench.monitor.noteControlReceived()
  // Nothing looks at the path while it rests.
  bench.now += 10_000
  bench.probe()
  const { probes, verdicts } = bench.run(bench.now + 2_000)
  assert.ok(probes.length > 3, 'it is repeated')
  assert.ok(verdicts.at(-1)?.endsWith('silent'), verdicts.join())
})

test('silence under traffic: suspect after 90 ms, silent after 220 with three questions; longer where round trips or losses are', () => {
  const sends = (bench: Bench): void => bench.send()
  const verdicts = (bench: Bench, until = 3_000) => bench.run(until, sends).verdicts
  assert.deepEqual(verdicts(new Bench()), ['90 suspect', '220 silent'])
  assert.deepEqual(verdicts(new Bench(ANCHOR_TUNING)), ['600 suspect', '1500 silent'])
  const far = new Bench(HOST_TUNING, 0)
  for (let i = 0; i < 60; i++) far.monitor.rttSample(300)
  assert.deepEqual(verdicts(far), ['465 suspect', '620 silent'])
  assert.deepEqual(verdicts(new Bench(HOST_TUNING, 0)), ['750 suspect', '1000 silent'], 'nothing is measured')
  assert.deepEqual(verdicts(new Bench(HOST_TUNING, 2)), ['255 suspect', '340 silent'], 'only twice')
  const lossy = new Bench()
  for (const sent of [0, 20]) {
    const sequence = lossy.monitor.probeSent({ ...lossy.counters, sentPackets: sent }, 0)
    lossy.monitor.echoReceived(sequence, 0, 0, -1, 0)
  }
  assert.equal(lossy.monitor.loss, 0.3)
  for (let i = 0; i < 100; i++) lossy.monitor.rttSample(20)
  assert.deepEqual(verdicts(lossy), ['225 suspect', '550 silent'])
})

test('what comes, or a stall of this end’s own, is no silence', () => {
  const late = new Bench()
  late.monitor.noteStall(0, 1_000)
  assert.deepEqual(
    late.run(3_000, (bench) => bench.send()).verdicts,
    ['200 suspect', '220 silent'],
    '200 ms at most',
  )
  const heard = new Bench()
  let silentFrom = Number.POSITIVE_INFINITY
  const { verdicts } = heard.run(3_000, (bench) => {
    bench.send()
    if (bench.now <= 500) {
      bench.receive()
      bench.monitor.reportReceived(bench.counters.sentPackets, -1, bench.now, toMicros(bench.now))
      silentFrom = bench.now
    }
  })
  const [suspect, silent] = verdicts.map((text) => Number(text.split(' ')[0]) - silentFrom)
  assert.deepEqual([suspect, silent], [90, 220])
})

test('a radio that slept has 600 ms to wake', () => {
  for (const [slept, at] of [
    [4_999, '5219 silent'],
    [5_001, '5601 silent'],
  ] as const) {
    const bench = new Bench()
    bench.now = slept
    bench.receive(0)
    bench.counters.lastReceivedAt = 0
    const { verdicts } = bench.run(slept + 2_000, (each) => each.send())
    assert.equal(verdicts.at(-1), at)
  }
})

test('a way out that is dead shows in the other end’s reports, which come and say the same: twice, after 160 ms', () => {
  const bench = new Bench()
  const { monitor } = bench
  const { verdicts } = bench.run(2_000, (each) => {
    each.send(2)
    each.receive()
    // It says each time that it has received nothing; its clock is ours, and its reports take 10 ms.
    monitor.reportReceived(0, -1, each.now, toMicros(each.now - 10))
  })
  assert.deepEqual(verdicts, ['160 suspect', '200 one-way'])
  const slow = new Bench()
  // A queue in the other direction grows by half of the time: the reports are that much older than they seem.
  const delayed = slow.run(2_000, (each) => {
    each.send(2)
    each.receive()
    slow.monitor.reportReceived(0, -1, each.now, toMicros(each.now / 2))
  })
  assert.deepEqual(delayed.verdicts, ['280 suspect', '400 one-way'])
  const fine = new Bench()
  let received = 0
  const progress = fine.run(2_000, (each) => {
    each.send(2)
    each.receive()
    fine.monitor.reportReceived(++received, received, each.now, toMicros(each.now))
  })
  assert.deepEqual(progress.verdicts, [])
  assert.equal(fine.monitor.remoteHighest, received)
})
