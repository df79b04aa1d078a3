/** What a handover's record says of its gap and its losses, and when it says that it does not know. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { HostForwarder } from '../../../src/anchoring/forwarders/host.ts'
import { HandoverRecords } from '../../../src/anchoring/machine/handovers.ts'
import type { HostEvent } from '../../../src/anchoring/protocol.ts'
import type { Signalling } from '../../../src/anchoring/signalling/api.ts'
import { EVERYTHING } from '../../../src/core/subject.ts'

const ANCHOR = 3
const MOVE = { at: 1, subject: EVERYTHING, from: 'acc1', to: 'acc2', cause: 'test' } as const

function bed() {
  const events: HostEvent[] = []
  const asked: { slot: number; at: number }[] = []
  const unwatched: object[] = []
  let gap: number | undefined
  let own = { sent: 0, received: 0 }
  const records = new HandoverRecords({
    forwarder: {
      watch: () => ({}),
      gap: () => gap,
      unwatch: (watch: object) => unwatched.push(watch),
    } as unknown as HostForwarder,
    signalling: {
      tally: (anchor: number, slot: number, _sent: number, at: number) => {
        assert.equal(anchor, ANCHOR)
        asked.push({ slot, at })
      },
    } as unknown as Signalling,
    tally: () => own,
    emit: (event) => events.push(event),
  })
  /** Lets time pass to `end`, and every timer with it. */
  let now = 0
  const until = (end: number) => {
    for (let at = records.nextTimeout(); at !== undefined && at <= end; at = records.nextTimeout()) {
      now = Math.max(now, at)
      records.handleTimeout(now)
    }
    now = end
  }
  const measured = () => events.flatMap((event) => (event.type === 'handover-measured' ? [event] : []))
  return {
    records,
    asked,
    unwatched,
    until,
    measured,
    events,
    setGap: (value: number) => {
      gap = value
    },
    /** Both ends have counted: what this one sent, what the anchor has of it, and the other way round. */
    tallied: (sent: number, arrived: number, down: number, downArrived: number) => {
      own = { sent, received: downArrived }
      records.tallied(ANCHOR, sent, { sent: down, received: arrived }, now)
    },
  }
}

test('UP-10: what is missing both ways beyond what was missing before counts as lost, half a second after the first packet', () => {
  const { records, asked, until, measured, setGap, tallied, unwatched, events } = bed()
  records.begin(ANCHOR)
  tallied(100, 98, 50, 49) // three were missing before
  until(1000)
  records.watch(MOVE, -1, ANCHOR, 1, 2, 1000)
  assert.deepEqual(events, [{ type: 'handover', ...MOVE, key: 1 }], 'on record at once')
  until(1950)
  setGap(40)
  until(2000)
  assert.deepEqual(asked, [], 'what is sent again has yet to arrive')
  until(2499)
  assert.deepEqual(asked, [])
  until(2500)
  assert.deepEqual(asked, [{ slot: 2, at: 2500 }], 'over the new path')
  assert.deepEqual(measured(), [])
  tallied(200, 194, 150, 148)
  assert.deepEqual(measured(), [{ type: 'handover-measured', key: 1, gapMs: 40, lost: 5 }])
  assert.equal(unwatched.length, 1)
  until(20_000)
  assert.equal(measured().length, 1)
  assert.equal(records.nextTimeout(), undefined, 'nothing is left to look at')
})

test('UP-10: what arrives late after a handover is no negative loss', () => {
  const { records, until, measured, setGap, tallied } = bed()
  records.begin(ANCHOR)
  tallied(100, 90, 0, 0)
  setGap(1)
  records.watch(MOVE, -1, ANCHOR, 1, 2, 0)
  until(1000)
  tallied(200, 199, 0, 0)
  assert.deepEqual(
    measured().map(({ lost }) => lost),
    [0],
  )
})

test('UP-10: a loss is unknown without a recent comparison from before, without an answer, and without a packet', () => {
  // No comparison yet, or one that is too old.
  for (const age of [undefined, 2_900, 3_100]) {
    const { records, asked, until, measured, setGap, tallied } = bed()
    records.begin(ANCHOR)
    if (age !== undefined) tallied(100, 100, 0, 0)
    const start = age ?? 0
    until(start)
    records.watch(MOVE, -1, ANCHOR, 1, 2, start)
    setGap(7)
    until(start + 1000)
    const known = age === 2_900
    assert.equal(asked.length, known ? 1 : 0)
    assert.deepEqual(
      measured().map(({ gapMs, lost }) => [gapMs, lost]),
      known ? [] : [[7, null]],
      `${age}`,
    )
    // The anchor does not answer within two seconds.
    until(start + 4000)
    assert.deepEqual(
      measured().map(({ gapMs, lost }) => [gapMs, lost]),
      [[7, null]],
    )
  }
  // No packet comes: the gap is unknown after ten seconds, the loss is asked for all the same.
  const { records, asked, until, measured, tallied } = bed()
  records.begin(ANCHOR)
  tallied(100, 100, 0, 0)
  records.watch(MOVE, -1, ANCHOR, 1, 2, 0)
  until(9_800)
  assert.deepEqual(asked, [])
  until(10_200)
  assert.equal(asked.length, 1)
  tallied(103, 100, 0, 0)
  assert.deepEqual(measured(), [{ type: 'handover-measured', key: 1, gapMs: null, lost: 3 }])
})

test('tallies are asked for once a second while data flows, of anchors that count, and no longer', () => {
  const { records, asked, until, tallied, measured } = bed()
  records.setTraffic(true, 0)
  until(3000)
  assert.deepEqual(asked, [], 'no anchor counts yet')
  tallied(5, 5, 0, 0)
  records.begin(ANCHOR)
  until(5500)
  assert.deepEqual(
    asked.map(({ slot, at }) => `${slot} ${at}`),
    ['-1 4000', '-1 5000'],
  )
  records.setTraffic(false, 5500)
  until(20_000)
  assert.equal(asked.length, 2)
  // A handover to nowhere is on record, and nothing of it is measured.
  records.waiting(MOVE)
  until(40_000)
  assert.deepEqual(measured(), [])
})
