/** The connection controller drives past rows of access points, thousands of moves, in virtual time. */

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { ConnectionController, type RoamingPolicy } from '../../../src/access/radio/machine.ts'
import { DRAIN_MS } from '../../../src/access/radio/tuning.ts'
import { extent } from '../../support/extent.ts'

interface WorldRadio {
  readonly name: string
  /** Index of the point, -1 none. */
  point: number
  readyAt: number
  pending: number
  associatedAt: number
  shadow: number
  scanAt: number
  works: boolean
  detected: boolean
}

interface Faults {
  readonly refuse: number
  readonly drop: number
}

const SPACING_M = 60
const CUT_DBM = -90

/** One drive; returns what the monitor saw. */
function drive(seed: number, policy: RoamingPolicy, faults: Faults) {
  const random = seeded(seed)
  const speed = 2 + 18 * random()
  const points = 12
  const end = ((points - 1) * SPACING_M * 1000) / speed
  const controller = new ConnectionController({ policy })
  const radios: WorldRadio[] = ['acc1', 'acc2'].map((name) => ({
    name,
    point: -1,
    readyAt: 0,
    pending: -1,
    associatedAt: 0,
    shadow: 0,
    scanAt: -1,
    works: false,
    detected: false,
  }))
  let now = 0
  const strength = (radio: WorldRadio, point: number): number => {
    const metres = Math.hypot((now / 1000) * speed - point * SPACING_M, 5)
    return -30 - 30 * Math.log10(metres) + radio.shadow
  }
  for (const { name } of radios) controller.addLink(name, now)
  const report = {
    moves: 0,
    takenWhileLast: 0,
    bareMs: 0,
    undrained: 0,
    allFading: 0,
    violations: 0,
    sequence: [] as string[],
    allUpMs: 0,
  }
  let started = false
  /** With when traffic will have left. */
  const draining = new Map<string, number>()
  const fading = new Set<string>()
  const act = () => {
    for (let action = controller.poll(); action !== undefined; action = controller.poll()) {
      if (action.type === 'decision') continue
      if (action.type === 'fade') {
        if (action.fading) fading.add(action.link)
        else fading.delete(action.link)
        report.sequence.push(`${Math.round(now)} fade ${action.link} ${action.reason}`)
        continue
      }
      const radio = radios.find(({ name }) => name === action.link)!
      const detail =
        action.type === 'drain' ? action.reason : action.type === 'associate' ? action.point.id : ''
      report.sequence.push(`${Math.round(now)} ${action.type} ${action.link} ${detail}`)
      if (action.type === 'scan') radio.scanAt = now + 100 + 400 * random()
      else if (action.type === 'drain') {
        if (action.draining) draining.set(action.link, now + 30 + 60 * random())
        else draining.delete(action.link)
      } else {
        if (radio.works) {
          report.moves++
          if (!draining.has(radio.name)) report.undrained++
          if (!radios.some((other) => other !== radio && other.works)) report.takenWhileLast++
        }
        radio.point = -1
        radio.works = false
        radio.pending = action.type === 'associate' ? Number(action.point.id.slice(2)) : -1
        radio.readyAt = now + 150 + 850 * random()
      }
    }
  }
  for (; now < end; now += 20) {
    for (const radio of radios) {
      radio.shadow = 0.995 * radio.shadow + 0.1 * 3 * (random() - 0.5)
      if (radio.scanAt >= 0 && now >= radio.scanAt) {
        radio.scanAt = -1
        const heard = Array.from({ length: points }, (_, index) => ({
          id: `ap${index}`,
          network: 'row',
          dbm: strength(radio, index),
        })).filter(({ dbm }) => dbm > -92)
        controller.handleRadio(radio.name, { type: 'points', points: heard }, now)
      }
      if (radio.pending >= 0 && now >= radio.readyAt) {
        const refused = random() < faults.refuse || strength(radio, radio.pending) < CUT_DBM
        if (refused)
          controller.handleRadio(radio.name, { type: 'failed', op: 'associate', reason: 'refused' }, now)
        else {
          radio.point = radio.pending
          radio.associatedAt = now + 100 + 900 * random()
          const event = { type: 'associated', point: `ap${radio.point}`, network: 'row' } as const
          controller.handleRadio(radio.name, event, now)
        }
        radio.pending = -1
      }
      if (radio.point >= 0) {
        const dbm = strength(radio, radio.point)
        if (dbm < CUT_DBM || random() < faults.drop) {
          radio.point = -1
          radio.works = false
          controller.handleRadio(radio.name, { type: 'lost', reason: 'out of range' }, now)
        } else {
          radio.works = now >= radio.associatedAt
          if (now % 100 === 0) controller.handleRadio(radio.name, { type: 'signal', dbm }, now)
        }
      }
      if (radio.works || now % 240 === 0)
        controller.handleEvidence(radio.name, radio.works, radio.works ? now : -1, now)
      act()
    }
    for (const [name, at] of draining) if (now >= at && now < at + 20) controller.handleDrained(name, now)
    controller.handleTimeout(now)
    act()
    const told = controller.links().filter(({ state }) => state === 'usable')
    if (told.length > 0 && told.every(({ name }) => fading.has(name))) report.allFading++
    const working = radios.filter(({ works }) => works).length
    if (working === 2) {
      started = true
      report.allUpMs += 20
    }
    if (started && working === 0) {
      report.bareMs += 20
      report.sequence.push(`${Math.round(now)} BARE`)
    }
  }
  report.violations = controller.counts.violations
  return report
}

describe('connection controller, simulated', () => {
  for (const policy of ['eager', 'clinging'] as const) {
    it(`OH-21, OH-22, OH-24, OH-25, OH-34: ${policy} along a row of access points, a link is there at every instant`, () => {
      let moves = 0
      for (let seed = 1; seed <= extent(150); seed++) {
        const run = drive(seed, policy, { refuse: 0, drop: 0 })
        const where = `seed ${seed}:\n${run.sequence.join('\n')}`
        assert.equal(run.takenWhileLast, 0, where)
        assert.equal(run.violations, 0, where)
        assert.equal(run.undrained, 0, where)
        assert.equal(run.allFading, 0, where)
        assert.equal(run.bareMs, 0, where)
        moves += run.moves
      }
      assert.ok(moves > extent(1200), `only ${moves} moves`)
    })

    it(`OH-25, OH-28: ${policy} with refusals and drops, the last link is never taken and links come back`, () => {
      let moves = 0
      for (let seed = 1000; seed < 1000 + extent(150); seed++) {
        const run = drive(seed, policy, { refuse: 0.2, drop: 0.0004 })
        const where = `seed ${seed}:\n${run.sequence.join('\n')}`
        assert.equal(run.takenWhileLast, 0, where)
        assert.equal(run.violations, 0, where)
        assert.equal(run.undrained, 0, where)
        assert.equal(run.allFading, 0, where)
        assert.ok(run.allUpMs > 0, where)
        moves += run.moves
      }
      assert.ok(moves > extent(1000), `only ${moves} moves`)
    })
  }

  it('OH-25: the last link that brings something is left alone, whatever its driver says of the association', () => {
    const controller = new ConnectionController()
    const points = [{ id: 'ap1', network: 'row', dbm: -50 }]
    const asked = () => {
      const types: string[] = []
      for (let action = controller.poll(); action !== undefined; action = controller.poll())
        if (action.type !== 'decision') types.push(action.type)
      return types
    }
    let now = 1000
    controller.addLink('acc1', now)
    controller.handleRadio('acc1', { type: 'associated', point: 'ap1', network: 'row' }, now)
    controller.handleEvidence('acc1', true, now + 1, now + 1)
    controller.handleRadio('acc1', { type: 'lost', reason: 'no idea' }, now + 2)
    asked()
    const pass = (ms: number, works: boolean) => {
      for (const end = now + ms; now < end; now += 100) {
        controller.handleRadio('acc1', { type: 'points', points }, now)
        controller.handleEvidence('acc1', works, works ? now : -1, now)
        controller.handleTimeout(now)
      }
    }
    pass(5000, true)
    assert.deepEqual(asked(), [])
    pass(1000, false)
    assert.deepEqual(asked(), ['associate'])
    assert.equal(controller.counts.violations, 0)
  })

  /** A controller with two radios that work: acc1 at ap1 with `dbm`, acc2 at ap3; ap2 is in range of acc1. */
  function twoRadios(policy: RoamingPolicy, dbm: number) {
    const controller = new ConnectionController({ policy })
    const seen = [
      { id: 'ap1', network: 'row', dbm },
      { id: 'ap2', network: 'row', dbm: -40 },
      { id: 'ap3', network: 'row', dbm: -45 },
    ]
    const asked: string[] = []
    let now = 1000
    for (const [name, point] of [
      ['acc1', 'ap1'],
      ['acc2', 'ap3'],
    ] as const) {
      controller.addLink(name, now)
      controller.handleRadio(name, { type: 'associated', point, network: 'row' }, now)
    }
    return {
      asked,
      controller,
      get now() {
        return now
      },
      pass(ms: number) {
        for (const end = now + ms; now < end; now += 100) {
          for (const [name, signal] of [
            ['acc1', dbm],
            ['acc2', -45],
          ] as const) {
            controller.handleRadio(name, { type: 'points', points: seen }, now)
            controller.handleRadio(name, { type: 'signal', dbm: signal }, now)
            controller.handleEvidence(name, true, now, now)
          }
          controller.handleTimeout(now)
          for (let action = controller.poll(); action !== undefined; action = controller.poll())
            if (action.type === 'associate') asked.push(`${action.link} ${action.point.id}`)
            else if (action.type === 'drain' && action.draining) asked.push(`drain ${action.link}`)
        }
      },
    }
  }

  it('OH-34: with a good signal an eager radio moves to a stronger point, a clinging one stays', () => {
    const eager = twoRadios('eager', -60)
    eager.pass(6000)
    assert.deepEqual(eager.asked.slice(0, 2), ['drain acc1', 'acc1 ap2'])
    const clinging = twoRadios('clinging', -60)
    clinging.pass(6000)
    assert.deepEqual(clinging.asked, [])
    const weak = twoRadios('clinging', -75)
    weak.pass(6000)
    assert.deepEqual(weak.asked.slice(0, 2), ['drain acc1', 'acc1 ap2'])
  })

  it('OH-24: a radio leaves its point when its traffic has left it, or after DRAIN_MS, and no sooner', () => {
    const told = twoRadios('clinging', -75)
    while (told.asked.length === 0) told.pass(100)
    told.pass(DRAIN_MS - 300)
    assert.deepEqual(told.asked, ['drain acc1'], 'its traffic has not left')
    told.controller.handleDrained('acc1', told.now)
    told.pass(100)
    assert.deepEqual(told.asked, ['drain acc1', 'acc1 ap2'])
    const silent = twoRadios('clinging', -75)
    while (silent.asked.length === 0) silent.pass(100)
    silent.pass(DRAIN_MS + 200)
    assert.deepEqual(silent.asked, ['drain acc1', 'acc1 ap2'])
  })

  it('OH-24: the same seed gives the same drive', () => {
    const faults = { refuse: 0.1, drop: 0.0002 }
    assert.deepEqual(drive(7, 'eager', faults), drive(7, 'eager', faults))
  })
})
