/**
 * The mobile router end to end in virtual time: connection controller, flow controllers and tunnel machines of both ends,
 * with links whose losses and delays follow the strength of the points that two radios use. Datagrams every 5 ms, both ways.
 */

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { driveBy, radioConditions, signalAt } from '../../../lab/radio.ts'
import { ConnectionController } from '../../../src/access/radio/machine.ts'
import type { AccessUse } from '../../../src/routing/protocol.ts'
import { extent, some } from '../../support/extent.ts'
import { Link, World } from '../tunnel/harness.ts'
import { accessName, Gateways, missing } from './gateways.ts'

const SPACING_M = 60
const BREAK_DBM = -92
const PUMP_MS = 2
const INTERVAL_MS = 5
const REPORT_MS = 250
const SIGNAL_MS = 100

/** A row of points, and what a radio takes. */
interface Row {
  readonly points: number
  readonly speedMps: number
  readonly scanMs: number
  readonly associateMs: number
  readonly addressMs: number
}

type RadioState =
  | { readonly name: 'idle' }
  | { readonly name: 'associating'; readonly point: string; readonly at: number }
  | { readonly name: 'associated'; readonly point: string; readonly addressAt: number }

/** A radio, the access over it, and its path to home. */
interface Radio {
  readonly name: string
  readonly socket: number
  readonly link: Link
  state: RadioState
  scanAt: number
  slot: number
}

class Drive {
  readonly world: World
  readonly gateways: Gateways
  readonly controller = new ConnectionController()
  readonly #row: Row
  readonly #radios: readonly Radio[]
  readonly #uses = new Map<string, AccessUse>()
  readonly #names: readonly string[]
  readonly #trace: ReturnType<typeof driveBy>
  readonly #startedAt: number
  /** Of all the drive. */
  readonly reasons: string[] = []

  constructor(row: Row, seed: number) {
    this.#row = row
    this.world = new World(seed)
    this.#startedAt = this.world.now
    this.#names = Array.from({ length: row.points }, (_, index) => `ap${index + 1}`)
    const places = this.#names.map((name, index): [string, number] => [name, (index + 0.3) * SPACING_M])
    this.#trace = driveBy(Object.fromEntries(places), {
      speedMps: row.speedMps,
      standS: 8,
      lengthM: (row.points - 0.5) * SPACING_M,
    })
    this.#radios = [0, 1].map((socket) => ({
      name: accessName(socket),
      socket,
      link: new Link({ down: true }),
      state: { name: 'idle' },
      scanAt: Number.POSITIVE_INFINITY,
      slot: -1,
    }))
    this.gateways = new Gateways(
      this.world,
      this.#radios.map(({ link }) => link),
    )
    for (const { name } of this.#radios) this.controller.addLink(name, this.world.now)
  }

  /** All the way; from when both links work datagrams flow, the last of them well before the end. */
  run(): { readonly seconds: number; readonly moves: number } {
    const endsAt = this.#startedAt + this.#trace.samples.at(-1)!.at * 1000
    const { world, gateways } = this
    const { mobile, home } = gateways
    let nextReport = world.now
    let nextTick = world.now
    world.every(PUMP_MS, endsAt, () => {
      const { now } = world
      for (const radio of this.#radios) this.#turn(radio, now)
      const told = mobile.pump(now, (event) => {
        if (event.type === 'path' || event.type === 'path-closed') nextReport = now
      })
      for (const event of told) if (event.type === 'drained') this.controller.handleDrained(event.access, now)
      home.pump(now)
      if (now >= nextReport) {
        nextReport = now + REPORT_MS
        this.#report(now)
      }
      if (now >= nextTick) {
        nextTick = now + 100
        this.controller.handleTimeout(now)
      }
      this.#act(now)
    })
    world.runUntil(() => this.controller.usable().length === 2, 8000)
    assert.equal(this.controller.usable().length, 2)
    const from = world.now
    gateways.startFlows(INTERVAL_MS, endsAt - 1000)
    world.run(endsAt - world.now)
    return { seconds: (world.now - from) / 1000, moves: this.controller.counts.moves }
  }

  #strength(point: string, now: number): number {
    return signalAt(this.#trace, point, (now - this.#startedAt) / 1000)
  }

  #turn(radio: Radio, now: number): void {
    const { state, name } = radio
    const elapsed = now - this.#startedAt
    if (now >= radio.scanAt) {
      radio.scanAt = Number.POSITIVE_INFINITY
      const heard = this.#names.map((id) => ({ id, network: id, dbm: this.#strength(id, now) }))
      const points = heard.filter(({ dbm }) => dbm > BREAK_DBM)
      this.controller.handleRadio(name, { type: 'points', points }, now)
    }
    if (state.name === 'associating' && now >= state.at) {
      const { point } = state
      radio.state = { name: 'associated', point, addressAt: now + this.#row.addressMs }
      this.controller.handleRadio(name, { type: 'associated', point, network: point }, now)
    } else if (state.name === 'associated') {
      const dbm = this.#strength(state.point, now)
      if (elapsed % SIGNAL_MS === 0)
        this.controller.handleRadio(name, { type: 'signal', dbm: Math.round(dbm) }, now)
      if (now < state.addressAt) return
      const { loss = 0, delayMs = 0, jitterMs = 0 } = radioConditions(dbm, 30)
      for (const way of [radio.link.up, radio.link.downlink])
        Object.assign(way, { loss, delay: delayMs, jitter: jitterMs, down: dbm <= BREAK_DBM })
      if (radio.slot < 0) radio.slot = this.gateways.openPath(radio.socket)
    }
  }

  /** What the tunnel knows of the accesses, as RouterService tells it. */
  #report(now: number): void {
    const { mobile, homePeer } = this.gateways
    const paths = mobile.node.machine.peer(homePeer)?.paths ?? []
    for (const { name, slot } of this.#radios) {
      const path = paths.find((each) => each.slot === slot)
      const works = path !== undefined && ['up', 'degrading', 'suspect'].includes(path.state.name)
      const heardAt = path === undefined ? Number.NEGATIVE_INFINITY : mobile.node.slots[slot]!.lastReceivedAt
      this.controller.handleEvidence(name, works, heardAt, now)
    }
  }

  #act(now: number): void {
    for (let action = this.controller.poll(); action !== undefined; action = this.controller.poll()) {
      const radio = this.#radios.find(({ name }) => name === action.link)!
      switch (action.type) {
        case 'scan':
          radio.scanAt = now + this.#row.scanMs
          break
        case 'drain':
          this.#use(radio.name, { draining: action.draining }, now)
          break
        case 'fade':
          this.#use(radio.name, { fading: action.fading }, now)
          break
        case 'associate':
          this.#leave(radio)
          radio.state = { name: 'associating', point: action.point.id, at: now + this.#row.associateMs }
          break
        case 'release':
          this.#leave(radio)
          radio.state = { name: 'idle' }
          break
        case 'decision':
          this.reasons.push(`${Math.round(now)} ${action.link}: ${action.chosen}: ${action.reason}`)
      }
    }
  }

  /** The carrier goes, and with it the access. */
  #leave(radio: Radio): void {
    radio.link.cut()
    if (radio.slot < 0) return
    const { slot } = radio
    radio.slot = -1
    this.gateways.mobile.node.do((machine, now) => machine.removePath(slot, now))
  }

  #use(access: string, change: Partial<AccessUse>, now: number): void {
    const use = { draining: false, fading: false, ...this.#uses.get(access), ...change }
    this.#uses.set(access, use)
    this.gateways.mobile.router.setUse(access, use, now)
  }
}

describe('mobile router, simulated end to end', () => {
  const rows: Readonly<Record<string, Row>> = {
    'quick radios on a fast bus': {
      points: 20,
      speedMps: 18,
      scanMs: 300,
      associateMs: 400,
      addressMs: 600,
    },
    'the paper’s road: an SSID each, stock scans and leases': {
      points: 10,
      speedMps: 8,
      scanMs: 2697,
      associateMs: 100,
      addressMs: 3000,
    },
  }
  for (const [title, row] of some(Object.entries(rows)))
    test(`OH-5, OH-13, OH-22, OH-25, OH-26, OH-37: ${title}: nothing is lost`, () => {
      for (let seed = 1; seed <= extent(3); seed++) {
        const drive = new Drive(row, seed)
        const { moves } = drive.run()
        const where = () => `seed ${seed}\n${drive.reasons.join('\n')}`
        assert.ok(moves >= 2 * (row.points - 3), `${moves} moves; ${where()}`)
        const { mobile, home } = drive.gateways
        assert.deepEqual(missing(mobile, home), [], where())
        assert.deepEqual(missing(home, mobile), [], where())
        assert.equal(drive.controller.counts.violations, 0)
      }
    })
})
