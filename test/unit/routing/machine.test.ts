/** A router's protocol core between a tunnel that is written down and the clock of the test. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { RoutingForwarder } from '../../../src/routing/forwarder.ts'
import { RouterMachine } from '../../../src/routing/machine.ts'
import type { RouterEvent } from '../../../src/routing/protocol.ts'
import {
  CLASS_PATHS,
  decodePathUse,
  encodeAck,
  encodePathNames,
  encodePathUse,
  PATH_NAMES,
  PATH_USE,
  PATH_USE_ACK,
} from '../../../src/routing/wire.ts'
import type { PathState, PathView } from '../../../src/tunnel/protocol/api.ts'
import { controlCodec } from '../../../src/tunnel/protocol/control.ts'
import { type Mode, RETURN_MS } from '../../../src/tunnel/scheduling/schedulers.ts'

const RTT_MS = 20

/** A mobile router with these sites, each reached over acc1 and acc2: slots 2n and 2n + 1. */
class Bench {
  readonly forwarder = new RoutingForwarder()
  readonly machine: RouterMachine
  /** PATH_USE that was sent, by peer. */
  readonly asked = new Map<number, { sequence: number; paths: readonly object[] }[]>()
  readonly standby = new Map<number, number | undefined>()
  /** Paths whose line was sent on at once, and over which. */
  redirected: [from: number, to: number][] = []
  readonly #sites: readonly string[]
  now = 1000

  constructor(sites: readonly string[], mode: Mode = 'failover') {
    this.#sites = sites
    this.machine = new RouterMachine({
      tunnel: {
        sendFrames: (peer, body) => {
          const frames = controlCodec.decode(body)
          assert.ok(frames.ok)
          for (const frame of frames.value) {
            assert.equal(frame.type, 'mechanism')
            if ((frame as { code: number }).code !== PATH_USE) continue
            const use = decodePathUse((frame as { body: Uint8Array }).body)
            assert.ok(use.ok)
            this.asked.set(peer, [...(this.asked.get(peer) ?? []), use.value])
          }
          return true
        },
      },
      forwarder: this.forwarder,
      redirect: (from, to) => this.redirected.push([from, to]),
      retryParked: () => {},
      setStandby: (slot, ms) => this.standby.set(slot, ms),
    })
    this.machine.setClasses([{ name: 'rest', match: [], mode, cap: 0.05, unordered: false }], this.now)
    for (const [index, name] of ['acc1', 'acc2'].entries()) this.machine.setAccess(name, index + 1, this.now)
    for (const [peer, name] of sites.entries()) {
      this.forwarder.addPeer(peer, [])
      this.machine.addPeer(peer, name, true)
      for (const index of [0, 1]) {
        const slot = 2 * peer + index
        this.machine.addPath(this.view(slot, { name: 'new' }), `acc${index + 1}`, this.now)
        this.state(slot, { name: 'up', since: this.now })
      }
    }
    this.events()
  }

  view(slot: number, state: PathState): PathView {
    return {
      peer: slot >> 1,
      slot,
      pathId: (slot & 1) + 1,
      generation: 1,
      socket: 0,
      remote: { address: new Uint8Array(4), port: 1 },
      state,
      rttMs: RTT_MS,
      rttVarMs: 1,
      loss: 0,
      mtu: 1500,
    }
  }

  state(slot: number, state: PathState): void {
    const from = 'new' as const
    const event = { type: 'path', peer: slot >> 1, path: this.view(slot, state), from } as const
    this.machine.handleTunnelEvent(event, this.now)
  }

  /** A measurement in which nothing special shows. */
  sample(slot: number): void {
    const event = {
      type: 'sample',
      peer: slot >> 1,
      slot,
      rttMs: RTT_MS,
      loss: 0,
      sentAt: this.now * 1000,
      arrivedAt: (this.now + RTT_MS / 2) * 1000,
      received: 0,
      receivedBytes: 0,
    } as const
    this.machine.handleTunnelEvent(event, this.now)
  }

  down(slot: number): void {
    this.state(slot, { name: 'down', since: this.now, reason: 1, evidence: { silentMs: 100 } } as never)
  }

  /** A frame of the mechanism's from the first peer. */
  frame(code: number, body: Uint8Array): void {
    this.machine.handleTunnelEvent({ type: 'frame', peer: 0, slot: 0, code, body } as never, this.now)
  }

  /** The peer agrees to what it was asked last. */
  agree(peer: number): void {
    const body = encodeAck(this.asked.get(peer)!.at(-1)!.sequence)
    this.machine.handleTunnelEvent(
      { type: 'frame', peer, slot: 2 * peer, code: PATH_USE_ACK, body } as never,
      this.now,
    )
  }

  pass(ms: number): void {
    for (const end = this.now + ms; this.now < end; ) {
      this.now = Math.min(end, this.machine.nextTimeout() ?? end)
      this.machine.handleTimeout(this.now)
      if (this.now < end && this.machine.nextTimeout() === this.now) this.now++
    }
  }

  events(): RouterEvent[] {
    const events: RouterEvent[] = []
    for (let event = this.machine.poll(); event !== undefined; event = this.machine.poll()) events.push(event)
    return events
  }

  /** Accesses in use, by site. */
  get carriers(): string[] {
    return this.machine.classReports().map(({ carriers }) => carriers.join('+'))
  }

  get sites(): readonly string[] {
    return this.#sites
  }
}

const IN_USE = { draining: false, fading: false }
const FREE = { reserve: false, seldom: false, weight: 1 }

describe('router machine', () => {
  test('OH-24, OH-37: a fading access is left at once, and the other end is asked to follow until it agrees', () => {
    const bench = new Bench(['home'])
    assert.deepEqual(bench.carriers, ['acc1'])
    const before = bench.asked.get(0)!.length
    bench.machine.setUse('acc1', { draining: false, fading: true }, bench.now)
    assert.deepEqual(bench.carriers, ['acc2'])
    bench.pass(350)
    const asked = bench.asked.get(0)!.slice(before)
    assert.ok(asked.length >= 3, 'repeated')
    for (const { paths } of asked)
      assert.deepEqual(paths, [
        { pathId: 1, draining: false, fading: true, ...FREE, priority: 1 },
        { pathId: 2, draining: false, fading: false, ...FREE, priority: 2 },
      ])
    bench.agree(0)
    const quiet = bench.asked.get(0)!.length
    bench.pass(1000)
    assert.equal(bench.asked.get(0)!.length, quiet)
  })

  test('OH-24: an access has been left when every gateway agreed and what was under way has arrived', () => {
    const bench = new Bench(['home', 'depot'])
    bench.machine.setUse('acc1', { draining: true, fading: false }, bench.now)
    assert.deepEqual(bench.carriers, ['acc2', 'acc2'])
    const drained = () => bench.events().filter(({ type }) => type === 'drained')
    bench.agree(0)
    bench.pass(60)
    assert.deepEqual(drained(), [], 'the depot may still send there')
    bench.agree(1)
    assert.deepEqual(drained(), [], 'its last packets are under way')
    bench.pass(60)
    assert.deepEqual(drained(), [{ type: 'drained', access: 'acc1' }])
    bench.machine.setUse('acc1', IN_USE, bench.now)
    for (const peer of [0, 1]) bench.agree(peer)
    bench.pass(60)
    assert.deepEqual(drained(), [])
  })

  test('OH-37: of two orders that overtake each other the newer holds; a router that restarted counts anew', () => {
    const bench = new Bench([])
    bench.machine.addPeer(0, 'bus', false)
    for (const slot of [0, 1]) bench.state(slot, { name: 'up', since: bench.now })
    const order = (sequence: number, preferred: number) => {
      const paths = [1, 2].map((pathId) => ({
        ...{ pathId, ...IN_USE, ...FREE },
        priority: pathId === preferred ? 1 : 2,
      }))
      const body = encodePathUse(sequence, paths)
      bench.machine.handleTunnelEvent(
        { type: 'frame', peer: 0, slot: 0, code: PATH_USE, body } as never,
        bench.now,
      )
      bench.pass(RETURN_MS + 1)
      return bench.carriers[0]
    }
    assert.equal(order(0xffff_ffff, 1), 'path 1')
    assert.equal(order(0, 2), 'path 2')
    assert.equal(order(0xffff_ffff, 1), 'path 2')
    bench.machine.handleTunnelEvent(
      { type: 'hello', peer: 0, features: 0, mtu: 1500, restarted: true },
      bench.now,
    )
    assert.equal(order(1, 1), 'path 1')
  })

  test('issue 10 D1, D7: a reserve is left, the other end is told, and both probe it seldom', () => {
    const bench = new Bench(['home'])
    bench.machine.setTerms('acc1', { reserve: true, weight: 4, standbyMs: 10_000 }, bench.now)
    assert.deepEqual(bench.carriers, ['acc2'])
    assert.deepEqual(
      [...bench.standby],
      [
        [0, 10_000],
        [1, undefined],
      ],
    )
    const [first] = bench.asked.get(0)!.at(-1)!.paths
    assert.deepEqual(first, {
      ...{ pathId: 1, draining: true, fading: false, reserve: true, seldom: true, weight: 4, priority: 1 },
    })
    bench.down(1)
    assert.deepEqual(bench.carriers, ['acc1'])

    const home = new Bench([])
    home.machine.addPeer(0, 'bus', false)
    for (const slot of [0, 1]) home.state(slot, { name: 'up', since: home.now })
    const paths = [1, 2].map((pathId) => ({ pathId, ...IN_USE, ...FREE, priority: pathId }))
    const use = encodePathUse(1, [{ ...paths[0]!, draining: true, reserve: true, seldom: true }, paths[1]!])
    home.frame(PATH_USE, use)
    assert.deepEqual(home.carriers, ['path 2'])
    assert.deepEqual(
      [...home.standby],
      [
        [0, 60_000],
        [1, undefined],
      ],
    )
  })

  test('issue 11 OH-16b: a class keeps to the links that it names, at both ends, and waits while none of them works', () => {
    const voice = {
      name: 'voice',
      match: [],
      mode: 'failover',
      cap: 0,
      unordered: true,
      links: ['acc2'],
    } as const
    const rest = { ...voice, name: 'rest', links: [] }
    const bench = new Bench(['home'])
    bench.machine.setClasses([voice, rest], bench.now)
    assert.deepEqual(bench.carriers, ['acc2', 'acc1'])
    bench.down(1)
    bench.pass(3000)
    assert.deepEqual(bench.carriers, ['', 'acc1'])
    assert.equal(bench.machine.counts.bare, 0, 'home is reached all the same')

    const home = new Bench([])
    home.machine.addPeer(0, 'bus', false)
    home.machine.setClasses([voice, rest], home.now)
    for (const slot of [0, 1]) home.state(slot, { name: 'up', since: home.now })
    assert.equal(home.carriers.length, 2)
    assert.notEqual(home.carriers[0], '', 'before the names are told any link will do')
    const names = [
      { pathId: 1, name: 'acc2' },
      { pathId: 2, name: 'acc1' },
    ]
    home.frame(PATH_NAMES, encodePathNames(names))
    assert.equal(home.carriers[0], 'path 1')
    home.frame(PATH_NAMES, Uint8Array.of(1, 200))
    assert.equal(home.carriers[0], 'path 1', 'what is malformed says nothing')
  })

  test('issue 11: a class is moved by hand without the others, and the other end follows', () => {
    const all = { match: [], mode: 'failover', cap: 0, unordered: false } as const
    const classes = [
      { ...all, name: 'voice' },
      { ...all, name: 'rest' },
    ]
    const bench = new Bench(['home'])
    bench.machine.setClasses(classes, bench.now)
    bench.machine.prefer('acc2', bench.now, ['voice'])
    assert.deepEqual(bench.carriers, ['acc2', 'acc1'])
    bench.machine.prefer('acc1', bench.now)
    assert.deepEqual(bench.carriers, ['acc1', 'acc1'])

    const home = new Bench([])
    home.machine.addPeer(0, 'bus', false)
    home.machine.setClasses(classes, home.now)
    for (const slot of [0, 1]) home.state(slot, { name: 'up', since: home.now })
    const paths = [1, 2].map((pathId) => ({ pathId, ...IN_USE, ...FREE, priority: pathId }))
    home.frame(PATH_USE, encodePathUse(1, paths))
    home.frame(
      CLASS_PATHS,
      encodePathNames([
        { pathId: 2, name: 'voice' },
        { pathId: 2, name: 'unknown' },
      ]),
    )
    assert.deepEqual(home.carriers, ['path 2', 'path 1'])
    home.frame(CLASS_PATHS, encodePathNames([]))
    home.pass(RETURN_MS + 1)
    assert.equal(home.carriers[0], 'path 1')
  })

  test('router point 3: what waits for the path in use waits, whatever is planned; of one that is left it goes at once', () => {
    for (const mode of ['failover', 'weighted', 'duplicate', 'round-robin'] as const) {
      const bench = new Bench(['home'], mode)
      bench.redirected = []
      bench.forwarder.lanes.give(0, 12_500, bench.now)
      bench.sample(0)
      bench.pass(200)
      assert.ok(bench.redirected.every(([from]) => from !== 0))
      assert.ok(bench.forwarder.lanes.freeAt[0]! > 0, 'its line is as long as before')
      bench.down(0)
      assert.deepEqual(bench.redirected.at(-1), [0, 1], mode)
      assert.equal(bench.forwarder.lanes.freeAt[0], 0)
    }
  })

  test('OH-22: that nothing was usable is counted, said with the states, and said again when it is over', () => {
    const bench = new Bench(['home'])
    const said = () =>
      bench
        .events()
        .flatMap((event) =>
          event.type === 'decision' && event.subject.kind === 'peer' ? [event.reason] : [],
        )
    bench.down(0)
    assert.deepEqual(bench.carriers, ['acc2'])
    assert.deepEqual(said(), [])
    bench.down(1)
    assert.deepEqual(said(), ['nothing usable to home: acc1 is down, acc2 is down'])
    bench.pass(1234)
    assert.deepEqual(said(), [], 'once')
    bench.state(1, { name: 'up', since: bench.now })
    assert.deepEqual(said(), ['home is reached again, after 1234 ms without a usable path'])
    assert.deepEqual({ ...bench.machine.counts }, { bare: 1, bareMs: 1234 })
  })

  test('OH-22: before the first path is up nothing has been broken', () => {
    const bench = new Bench([])
    bench.machine.addPeer(0, 'home', true)
    bench.machine.addPath(bench.view(0, { name: 'new' }), 'acc1', bench.now)
    bench.down(0)
    assert.equal(bench.machine.counts.bare, 0)
  })

  test('decisions and handovers are told by class and site, as flows are named', () => {
    const bench = new Bench(['home'])
    bench.down(0)
    const told = bench.events().filter(({ type }) => type === 'decision' || type === 'handover')
    assert.deepEqual(
      told.map((event) => ('subject' in event ? event.subject : undefined)),
      [
        { kind: 'policy', name: 'rest', peer: 'home' },
        { kind: 'policy', name: 'rest', peer: 'home' },
      ],
    )
  })
})
