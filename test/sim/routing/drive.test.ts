/**
 * The mobile router end to end in virtual time: connection controller, flow controllers and tunnel machines of both ends,
 * with links whose losses and delays follow the strength of the points that two radios use. Datagrams every 5 ms, both ways.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { driveBy, radioConditions, signalAt } from '../../../lab/radio.ts'
import { ConnectionController } from '../../../src/access/radio/machine.ts'
import { type Prefix, parsePrefix } from '../../../src/core/address.ts'
import { RoutingForwarder } from '../../../src/routing/forwarder.ts'
import { RouterMachine } from '../../../src/routing/machine.ts'
import type { AccessUse } from '../../../src/routing/protocol.ts'
import type { TunnelEvent } from '../../../src/tunnel/machine/index.ts'
import { endpoint, Link, Node, World } from '../tunnel/harness.ts'

const SPACING_M = 60
const BREAK_DBM = -92
const PUMP_MS = 2
const INTERVAL_MS = 5
const REPORT_MS = 250
const SIGNAL_MS = 100
const HOME = endpoint(100)

/** A row of points, and what a radio takes. */
interface Row {
  readonly points: number
  readonly speedMps: number
  readonly scanMs: number
  readonly associateMs: number
  readonly addressMs: number
}

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  assert.ok(parsed.ok)
  return parsed.value
}

const TERMINALS = prefix('10.1.0.0/24')
const SERVERS = prefix('10.2.0.0/24')

/** A UDP packet of 28 bytes. */
function packet(from: Prefix, to: Prefix): Uint8Array {
  const bytes = new Uint8Array(28)
  bytes.set([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17])
  bytes.set(from.address, 12)
  bytes.set(to.address, 16)
  return bytes
}

/** One gateway: its tunnel, which path each packet takes, and what it is told. */
class Gateway {
  readonly node: Node
  readonly router: RouterMachine
  readonly #forwarder: RoutingForwarder
  readonly #packet: Uint8Array
  #heard = 0
  sent = 0

  constructor(node: Node, own: Prefix, far: Prefix) {
    this.node = node
    this.#forwarder = new RoutingForwarder([own])
    this.#packet = packet(own, far)
    this.router = new RouterMachine({
      tunnel: { sendFrames: (...frames) => node.machine.sendFrames(...frames) },
      forwarder: this.#forwarder,
      redirect: () => {},
      retryParked: () => {},
    })
    const all = { name: 'rest', match: [], mode: 'failover', cap: 0.05, unordered: false } as const
    this.router.setClasses([all], node.world.now)
  }

  addPeer(peer: number, far: Prefix, leads: boolean): void {
    this.#forwarder.addPeer(peer, [far])
    this.router.addPeer(peer, 'peer', leads)
  }

  /** What the tunnel told since, and what is due. */
  pump(now: number, hear: (event: TunnelEvent) => void): void {
    for (; this.#heard < this.node.events.length; this.#heard++) {
      const event = this.node.events[this.#heard]!
      this.router.handleTunnelEvent(event, now)
      hear(event)
    }
    if ((this.router.nextTimeout() ?? Number.POSITIVE_INFINITY) <= now) this.router.handleTimeout(now)
  }

  send(now: number): void {
    const view = new DataView(this.#packet.buffer)
    const slot = this.#forwarder.outbound(this.#packet, view, 0, this.#packet.length, false, now)
    this.node.sendData(slot, this.sent++)
  }
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
  readonly mobile: Gateway
  readonly home: Gateway
  readonly controller = new ConnectionController()
  readonly #row: Row
  readonly #homePeer: number
  readonly #radios: readonly Radio[]
  readonly #uses = new Map<string, AccessUse>()
  readonly #names: readonly string[]
  readonly #trace: ReturnType<typeof driveBy>
  readonly #startedAt: number
  #lastPathId = 0
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
      name: `acc${socket + 1}`,
      socket,
      link: new Link({ down: true }),
      state: { name: 'idle' },
      scanAt: Number.POSITIVE_INFINITY,
      slot: -1,
    }))
    const sockets = this.#radios.map(({ link, socket }) => ({ endpoint: endpoint(socket + 1), link }))
    const init = { measureInterval: 25 }
    const [mobile, home] = [
      new Node(this.world, 'mobile', sockets, init),
      new Node(this.world, 'home', [{ endpoint: HOME }], init),
    ]
    this.mobile = new Gateway(mobile, TERMINALS, SERVERS)
    this.home = new Gateway(home, SERVERS, TERMINALS)
    this.#homePeer = mobile.addPeer(home, { dialect: 'godwit' })
    this.mobile.addPeer(this.#homePeer, SERVERS, true)
    this.home.addPeer(home.addPeer(mobile), TERMINALS, false)
    for (const { name, socket } of this.#radios) {
      this.mobile.router.setAccess(name, socket + 1, this.world.now)
      this.controller.addLink(name, this.world.now)
    }
  }

  /** All the way; from when both links work datagrams flow, the last of them well before the end. */
  run(): { readonly seconds: number; readonly moves: number } {
    const endsAt = this.#startedAt + this.#trace.samples.at(-1)!.at * 1000
    const { world } = this
    let nextReport = world.now
    let nextTick = world.now
    world.every(PUMP_MS, endsAt, () => {
      const { now } = world
      for (const radio of this.#radios) this.#turn(radio, now)
      this.mobile.pump(now, (event) => {
        if (event.type === 'path' || event.type === 'path-closed') nextReport = now
      })
      this.home.pump(now, () => {})
      for (let event = this.mobile.router.poll(); event !== undefined; event = this.mobile.router.poll())
        if (event.type === 'drained') this.controller.handleDrained(event.access, now)
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
    for (const gateway of [this.mobile, this.home])
      world.every(INTERVAL_MS, endsAt - 1000, () => gateway.send(world.now))
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
      if (radio.slot < 0) this.#open(radio, now)
    }
  }

  /** The access has an address: a path over it. */
  #open(radio: Radio, now: number): void {
    this.#lastPathId = (this.#lastPathId % 255) + 1
    const { node, router } = this.mobile
    const path = { pathId: this.#lastPathId, socket: radio.socket, remote: HOME, mtu: 1500 }
    radio.slot = node.addPath(this.#homePeer, path)
    router.addPath(node.machine.path(radio.slot)!, radio.name, now)
  }

  /** What the tunnel knows of the accesses, as RouterService tells it. */
  #report(now: number): void {
    const paths = this.mobile.node.machine.peer(this.#homePeer)?.paths ?? []
    for (const { name, slot } of this.#radios) {
      const path = paths.find((each) => each.slot === slot)
      const works = path !== undefined && ['up', 'degrading', 'suspect'].includes(path.state.name)
      const heardAt =
        path === undefined ? Number.NEGATIVE_INFINITY : this.mobile.node.slots[slot]!.lastReceivedAt
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
    this.mobile.node.do((machine, now) => machine.removePath(slot, now))
  }

  #use(access: string, change: Partial<AccessUse>, now: number): void {
    const use = { draining: false, fading: false, ...this.#uses.get(access), ...change }
    this.#uses.set(access, use)
    this.mobile.router.setUse(access, use, now)
  }
}

/** Sequence numbers that one gateway sent and the other did not get. */
function missing(from: Gateway, to: Gateway): number[] {
  const seen = new Set(to.node.received.map(({ sequence }) => sequence))
  return Array.from({ length: from.sent }, (_, sequence) => sequence).filter(
    (sequence) => !seen.has(sequence),
  )
}

describe('mobile router, simulated end to end', () => {
  const rows: Readonly<Record<string, Row>> = {
    'the paper’s road: an SSID each, stock scans and leases': {
      points: 10,
      speedMps: 8,
      scanMs: 2697,
      associateMs: 100,
      addressMs: 3000,
    },
    'quick radios on a fast bus': {
      points: 20,
      speedMps: 18,
      scanMs: 300,
      associateMs: 400,
      addressMs: 600,
    },
  }
  for (const [title, row] of Object.entries(rows))
    test(`OH-5, OH-13, OH-22, OH-25, OH-26, OH-37: ${title}: nothing is lost`, () => {
      for (let seed = 1; seed <= 3; seed++) {
        const drive = new Drive(row, seed)
        const { moves } = drive.run()
        const where = () => `seed ${seed}\n${drive.reasons.join('\n')}`
        assert.ok(moves >= 2 * (row.points - 3), `${moves} moves; ${where()}`)
        assert.deepEqual(missing(drive.mobile, drive.home), [], where())
        assert.deepEqual(missing(drive.home, drive.mobile), [], where())
        assert.equal(drive.controller.counts.violations, 0)
      }
    })
})
