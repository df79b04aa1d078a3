/**
 * What a router's protocol core does, in whole sequences: each frame, each order to the engine, each event, with its time. A line
 * is milliseconds since the test began, and what: `links …; use #SEQUENCE PATH:PRIORITY×WEIGHT FLAGS …` is PATH_NAMES, then PATH_USE.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RoutingForwarder } from '../../../src/routing/forwarder.ts'
import { RouterMachine } from '../../../src/routing/machine.ts'
import type { ClassSetup } from '../../../src/routing/protocol.ts'
import {
  CLASS_PATHS,
  decodeAck,
  decodePathNames,
  decodePathUse,
  encodeAck,
  encodePathNames,
  encodePathUse,
  PATH_NAMES,
  PATH_USE,
  PATH_USE_ACK,
} from '../../../src/routing/wire.ts'
import type { PathState, TunnelEvent } from '../../../src/tunnel/protocol/api.ts'
import { controlCodec } from '../../../src/tunnel/protocol/control.ts'

const REST: ClassSetup = { name: 'rest', match: [], mode: 'failover', cap: 0.05, unordered: false }
const VOICE: ClassSetup = { ...REST, name: 'voice' }
const IN_USE = { draining: false, fading: false }
const FREE = { reserve: false, seldom: false, weight: 1 }

/** A router with the one peer 0 and paths over acc1 and acc2, slots 0 and 1. */
class Bench {
  readonly forwarder = new RoutingForwarder()
  readonly machine: RouterMachine
  now = 1000
  rtt = 20
  #lines: { readonly text: string; readonly times: number[] }[] = []
  #links = ''

  constructor(leads: boolean, classes: readonly ClassSetup[] = [REST]) {
    this.machine = new RouterMachine({
      tunnel: { sendFrames: (peer, body, slot) => this.#sent(peer, body, slot) },
      forwarder: this.forwarder,
      redirect: (from, to) => this.#say(from === to ? `flush ${from}` : `redirect ${from} to ${to}`),
      retryParked: () => this.#say('retry parked'),
      setStandby: (slot, ms) => this.#say(`probe ${slot} every ${ms ?? 'usual'}`),
    })
    this.machine.setClasses(classes, this.now)
    this.forwarder.addPeer(0, [])
    this.machine.addPeer(0, 'home', leads)
    for (const slot of [0, 1]) {
      if (leads) this.machine.setAccess(`acc${slot + 1}`, slot + 1, this.now)
      if (leads) this.machine.addPath(this.#view(slot, { name: 'new' }), `acc${slot + 1}`, this.now)
      this.state(slot, 'up')
    }
    if (leads) this.agree()
    this.run(1000)
    this.#lines = []
  }

  /** The same again is one line: `0 100 200 …`. */
  #say(text: string): void {
    const at = Math.round(this.now - 2000)
    const last = this.#lines.at(-1)
    if (last?.text === text) last.times.push(at)
    else this.#lines.push({ text, times: [at] })
  }

  #sent(peer: number, body: Uint8Array, slot: number): boolean {
    assert.deepEqual([peer, slot], [0, -1])
    const frames = controlCodec.decode(body)
    assert.ok(frames.ok && frames.value.length === 1)
    const { code, body: inner } = frames.value[0] as unknown as { code: number; body: Uint8Array }
    const use = decodePathUse(inner)
    const names = decodePathNames(inner)
    if (code === PATH_USE && use.ok) {
      this.#sequence = use.value.sequence
      const paths = use.value.paths.map(
        ({ pathId, priority, weight, ...flags }) =>
          `${pathId}:${priority}×${weight} ${Object.entries(flags)
            .map(([name, on]) => (on ? `${name} ` : ''))
            .join('')}`,
      )
      this.#say(`${this.#links}; use #${use.value.sequence} ${paths.join('').trim()}`)
      this.#links = ''
    } else if (code === PATH_USE_ACK) this.#say(`ack #${decodeAck(inner)}`)
    else if (names.ok) {
      const list = names.value.map(({ pathId, name }) => ` ${pathId}=${name}`).join('')
      this.#links += `${code === PATH_NAMES ? 'links' : '; classes'}${list}`
    }
    return true
  }

  #sequence = 0

  #view(slot: number, state: PathState) {
    return {
      ...{ peer: 0, slot, pathId: slot + 1, generation: 1, socket: 0, state, rttMs: this.rtt, rttVarMs: 1 },
      ...{ remote: { address: new Uint8Array(4), port: 1 }, loss: 0, mtu: 1500 },
    }
  }

  hear(event: TunnelEvent): void {
    this.machine.handleTunnelEvent(event, this.now)
    this.#poll()
  }

  state(slot: number, name: PathState['name']): void {
    const path = this.#view(slot, { name, since: this.now } as PathState)
    this.hear({ type: 'path', peer: 0, path, from: 'new' })
  }

  frame(code: number, body: Uint8Array): void {
    this.hear({ type: 'frame', peer: 0, slot: 0, code, body } as TunnelEvent)
  }

  agree(sequence = this.#sequence): void {
    this.frame(PATH_USE_ACK, encodeAck(sequence))
  }

  sample(slot: number, { loss = 0, rtt = 20 } = {}): void {
    const times = { sentAt: this.now * 1000, arrivedAt: (this.now + rtt / 2) * 1000 }
    const received = { received: 0, receivedBytes: 0 }
    this.hear({ type: 'sample', peer: 0, slot, rttMs: rtt, loss, ...times, ...received } as TunnelEvent)
  }

  #poll(): void {
    for (let event = this.machine.poll(); event !== undefined; event = this.machine.poll()) {
      if (event.type === 'decision')
        this.#say(`${event.chosen}: ${event.reason} ${JSON.stringify(event.evidence)}`)
      else if (event.type === 'handover') this.#say(`${event.from} to ${event.to}, ${event.cause}`)
      else this.#say(`${event.type} ${'access' in event ? event.access : ''}`)
    }
  }

  run(ms: number): void {
    const end = this.now + ms
    for (;;) {
      const at = this.machine.nextTimeout()
      if (at === undefined || at > end) break
      assert.ok(at >= this.now, 'no time in the past')
      this.now = at
      this.machine.handleTimeout(at)
      this.#poll()
      if (this.machine.nextTimeout() === at) assert.fail('it wants to be called again at once')
    }
    this.now = end
  }

  /** Does it, lets so long pass, and compares all that has happened. */
  happens(ms: number, what: () => unknown, expected: string): void {
    what()
    this.#poll()
    this.run(ms)
    const lines = this.#lines.map(({ text, times }) => `${times.join(' ')} ${text}`)
    assert.equal(lines.join('\n'), expected.trim().replace(/\n +/g, '\n'))
    this.#lines = []
  }
}

test('OH-37: how the paths are to be used is said at once, and again every 100 ms, ten times, until it is acknowledged', () => {
  const bench = new Bench(true)
  bench.happens(
    3_000,
    () => bench.machine.setUse('acc1', { draining: true, fading: false }, bench.now),
    `
      0 probe 0 every usual
      0 probe 1 every usual
      0 redirect 0 to 1
      0 links 1=acc1 2=acc2; use #5 1:1×1 draining 2:2×1
      0 acc2: acc1 is being left {"peer":"home","cause":"acc1 is being left","from":"acc1","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":20}
      0 acc1 to acc2, acc1 is being left
      100 200 300 400 links 1=acc1 2=acc2; use #5 1:1×1 draining 2:2×1
      500 redirect 0 to 1
      500 600 700 800 900 1000 links 1=acc1 2=acc2; use #5 1:1×1 draining 2:2×1
      `,
  )
  bench.happens(
    150,
    () => bench.machine.setUse('acc1', { draining: false, fading: true }, bench.now),
    `
      3000 probe 0 every usual
      3000 probe 1 every usual
      3000 redirect 0 to 1
      3000 3100 links 1=acc1 2=acc2; use #6 1:1×1 fading 2:2×1
      `,
  )
  bench.happens(
    1_000,
    () => bench.agree(7),
    `
      3200 3300 3400 3500 3600 3700 3800 3900 4000 links 1=acc1 2=acc2; use #6 1:1×1 fading 2:2×1
      `,
  )
  bench.happens(
    1_000,
    () => bench.machine.setUse('acc1', IN_USE, bench.now),
    `
      4150 probe 0 every usual
      4150 probe 1 every usual
      4150 redirect 0 to 1
      4150 4250 4350 4450 4550 4650 4750 4850 4950 5050 5150 links 1=acc1 2=acc2; use #7 1:1×1 2:2×1
      `,
  )
  bench.happens(
    5_000,
    () => bench.agree(),
    `
      7150 redirect 1 to 0
      7150 acc1: acc1 is preferred and has been well for 3 s {"peer":"home","cause":"time","from":"acc2","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":20}
      7150 acc2 to acc1, time
      7650 redirect 1 to 0
      `,
  )
})

test('OH-24: an access has been left 30 ms after the peer agreed, or a round trip of the longest path that is left', () => {
  const bench = new Bench(true)
  bench.happens(
    20,
    () => bench.machine.setUse('acc1', { draining: true, fading: false }, bench.now),
    `
      0 probe 0 every usual
      0 probe 1 every usual
      0 redirect 0 to 1
      0 links 1=acc1 2=acc2; use #5 1:1×1 draining 2:2×1
      0 acc2: acc1 is being left {"peer":"home","cause":"acc1 is being left","from":"acc1","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":20}
      0 acc1 to acc2, acc1 is being left
      `,
  )
  bench.happens(
    500,
    () => bench.agree(),
    `
      50 drained acc1
      500 redirect 0 to 1
      `,
  )
  bench.rtt = 240
  bench.state(0, 'up')
  bench.happens(
    500,
    () => bench.agree(),
    `
      520 redirect 0 to 1
      520 links 1=acc1 2=acc2; use #6 1:1×1 draining 2:2×1
      520 retry parked
      760 drained acc1
      `,
  )
})

test('OH-22: states of a path: suspect is told as draining, down is not told, up again is, and parked packets go', () => {
  const bench = new Bench(true)
  bench.happens(
    50,
    () => bench.state(0, 'suspect'),
    `
      0 redirect 0 to 1
      0 links 1=acc1 2=acc2; use #5 1:1×1 draining 2:2×1
      0 acc2: acc1 is silent {"peer":"home","cause":"acc1 is suspect","from":"acc1","acc1.state":"suspect","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":20}
      0 acc1 to acc2, acc1 is suspect
      `,
  )
  bench.agree()
  bench.happens(
    50,
    () => bench.state(0, 'down'),
    `
      50 redirect 0 to 1
      `,
  )
  bench.happens(
    3_050,
    () => bench.state(0, 'up'),
    `
      100 redirect 0 to 1
      100 links 1=acc1 2=acc2; use #6 1:1×1 2:2×1
      100 retry parked
      200 300 400 links 1=acc1 2=acc2; use #6 1:1×1 2:2×1
      500 redirect 0 to 1
      500 600 700 800 900 1000 1100 links 1=acc1 2=acc2; use #6 1:1×1 2:2×1
      3100 redirect 1 to 0
      3100 acc1: acc1 is preferred and has been well for 3 s {"peer":"home","cause":"time","from":"acc2","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":20}
      3100 acc2 to acc1, time
      `,
  )
  bench.happens(
    10,
    () => bench.state(1, 'degrading'),
    `
      3150 redirect 1 to 0
      `,
  )
  bench.happens(
    10,
    () => bench.hear({ type: 'path-closed', peer: 0, slot: 0, pathId: 1 }),
    `
      3160 acc2: the path before is gone {"peer":"home","cause":"a path has closed","from":"path in slot 0","acc2.state":"degrading","acc2.loss":0,"acc2.rtt_ms":20}
      3160 path in slot 0 to acc2, a path has closed
      `,
  )
  bench.happens(
    10,
    () => bench.hear({ type: 'path-closed', peer: 0, slot: 1, pathId: 2 }),
    `
      3170 none: no path is usable {"peer":"home","cause":"a path has closed","from":"path in slot 1"}
      3170 none: nothing usable to home: no access {"peer":"home"}
      `,
  )
  bench.happens(10, () => bench.hear({ type: 'path-closed', peer: 5, slot: 1, pathId: 2 }), ``)
})

test('what is set by hand: priorities, terms, modes, and an access before all others', () => {
  const bench = new Bench(true, [VOICE, REST])
  bench.happens(10, () => bench.machine.setAccess('acc1', 1, bench.now), ``)
  bench.happens(
    10,
    () => bench.machine.setAccess('acc1', 300, bench.now),
    `
      10 probe 0 every usual
      10 probe 1 every usual
      10 redirect 1 to 0
      10 links 1=acc1 2=acc2; use #5 1:255×1 2:2×1
      `,
  )
  bench.agree()
  bench.happens(
    10,
    () => bench.machine.setTerms('acc2', { reserve: true, weight: 7, standbyMs: 9_000 }, bench.now),
    `
      20 probe 0 every usual
      20 probe 1 every 9000
      20 redirect 1 to 0
      20 links 1=acc1 2=acc2; use #6 1:255×1 2:2×7 draining reserve seldom
      `,
  )
  bench.agree()
  bench.happens(
    10,
    () => bench.machine.setTerms('acc2', { reserve: false, weight: 2 }, bench.now),
    `
      30 probe 0 every usual
      30 probe 1 every usual
      30 redirect 1 to 0
      30 links 1=acc1 2=acc2; use #7 1:255×1 2:2×2
      `,
  )
  bench.agree()
  bench.happens(
    10,
    () => assert.ok(bench.machine.setMode('voice', 'duplicate', bench.now)),
    `
      40 acc2+acc1: a copy on each of acc1 and acc2 {"peer":"home","cause":"changed by hand","from":"acc1","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":20}
      40 acc1 to acc2+acc1, changed by hand
      `,
  )
  bench.happens(10, () => assert.ok(!bench.machine.setMode('video', 'duplicate', bench.now)), ``)
  bench.happens(
    10,
    () => bench.machine.prefer('acc1', bench.now, ['rest']),
    `
      60 probe 0 every usual
      60 probe 1 every usual
      60 links 1=acc1 2=acc2; classes 1=rest; use #8 1:255×1 2:2×2
      `,
  )
  bench.agree()
  bench.happens(
    10,
    () => bench.machine.prefer('acc2', bench.now),
    `
      70 probe 0 every usual
      70 probe 1 every usual
      70 links 1=acc1 2=acc2; classes; use #9 1:255×1 2:0×2
      70 acc2: acc2 is first {"peer":"home","cause":"moved by hand","from":"acc1","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":20}
      70 acc1 to acc2, moved by hand
      `,
  )
  bench.agree()
  bench.happens(
    10,
    () => bench.machine.setClasses([REST], bench.now),
    `
      80 redirect 0 to 1
      80 acc2: acc2 is first {"peer":"home","cause":"classes","from":"","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":20}
      `,
  )
})

test('OH-19: a loss is acted upon at once, other measurements 50 ms after the last plan', () => {
  const bench = new Bench(true, [{ ...REST, mode: 'round-robin' }])
  bench.sample(0)
  bench.sample(1)
  assert.equal(bench.machine.nextTimeout(), bench.now)
  bench.run(0)
  bench.run(10)
  bench.sample(1, { rtt: 70 })
  assert.equal(bench.machine.nextTimeout(), bench.now + 40)
  bench.sample(1, { loss: 0.003 })
  assert.equal(bench.machine.nextTimeout(), bench.now + 40)
  bench.happens(
    10,
    () => bench.sample(1, { loss: 0.2 }),
    `
      10 redirect 1 to 0
      10 acc1: spread over acc1 in turn; acc2 loses too much {"peer":"home","cause":"loss","from":"acc1+acc2","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0.2,"acc2.rtt_ms":26.4}
      10 acc1+acc2 to acc1, loss
      `,
  )
  bench.happens(
    2_000,
    () => {
      for (let i = 0; i < 8; i++) {
        bench.sample(0)
        bench.sample(1)
        bench.run(200)
      }
    },
    `
      20 220 420 620 820 redirect 1 to 0
      1020 acc1+acc2: spread over acc1 and acc2 in turn {"peer":"home","cause":"time","from":"acc1","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0,"acc2.rtt_ms":22.1}
      1020 acc1 to acc1+acc2, time
      `,
  )
})

test('losses right after a queue are an overflow, not a bad link', () => {
  const bench = new Bench(true, [{ ...REST, mode: 'round-robin' }])
  for (let i = 0; i < 4; i++) {
    bench.sample(1)
    bench.run(100)
  }
  bench.forwarder.lanes.give(1, 1_000_000, bench.now)
  bench.run(1_000)
  bench.happens(300, () => bench.sample(1, { loss: 0.5 }), ``)
  bench.happens(100, () => bench.sample(1, { loss: 0.5 }), ``)
  bench.happens(
    50,
    () => bench.sample(1, { loss: 0.5 }),
    `
      1800 redirect 1 to 0
      1800 acc1: spread over acc1 in turn; acc2 loses too much {"peer":"home","cause":"time","from":"acc1+acc2","acc1.state":"up","acc1.loss":0,"acc1.rtt_ms":20,"acc2.state":"up","acc2.loss":0.5,"acc2.rtt_ms":20}
      1800 acc1+acc2 to acc1, time
      `,
  )
})

test('a measurement that is late makes a path slower while data goes over it, and not when none does', () => {
  const bench = new Bench(true)
  for (let i = 0; i < 10; i++) {
    bench.sample(0)
    bench.run(25)
  }
  const idle = bench.machine.nextTimeout()
  assert.ok(idle === undefined || idle <= bench.now + 50, 'a plan at most')
  bench.run(1_000)
  const { lanes } = bench.forwarder
  assert.equal(bench.machine.nextTimeout(), undefined)
  lanes.give(0, 12_500 * 300, bench.now)
  const late = bench.machine.nextTimeout()! - bench.now
  assert.equal(late, 195)
})

test('OH-37, the other end: it obeys, acknowledges, and says nothing of its own; what is older or not for it changes nothing', () => {
  const home = new Bench(false)
  const use = (sequence: number, first: object, second: object = {}) => {
    const path = (pathId: number, more: object) => ({ pathId, ...IN_USE, ...FREE, priority: pathId, ...more })
    home.frame(PATH_USE, encodePathUse(sequence, [path(1, first), path(2, second)]))
  }
  home.happens(
    10,
    () => use(5, {}),
    `
      0 probe 0 every usual
      0 probe 1 every usual
      0 redirect 1 to 0
      0 ack #5
      `,
  )
  home.happens(
    10,
    () => use(6, { draining: true, reserve: true, seldom: true }),
    `
      10 probe 0 every 60000
      10 probe 1 every usual
      10 redirect 0 to 1
      10 ack #6
      10 path 2: path 1 is for when nothing else works {"peer":"home","cause":"the other end asks for it","from":"path 1","path 1.state":"up","path 1.loss":0,"path 1.rtt_ms":20,"path 2.state":"up","path 2.loss":0,"path 2.rtt_ms":20}
      10 path 1 to path 2, the other end asks for it
      `,
  )
  home.happens(10, () => use(5, {}), ``)
  home.happens(
    10,
    () => use(6, { fading: true }),
    `
      30 probe 0 every usual
      30 probe 1 every usual
      30 redirect 0 to 1
      30 ack #6
      `,
  )
  home.happens(10, () => home.frame(PATH_USE, Uint8Array.of(1, 2)), ``)
  home.happens(
    10,
    () => home.frame(PATH_NAMES, encodePathNames([{ pathId: 1, name: 'wlan0' }])),
    `
      50 redirect 0 to 1
      `,
  )
  home.happens(10, () => home.frame(PATH_NAMES, encodePathNames([{ pathId: 1, name: 'wlan0' }])), ``)
  home.happens(
    10,
    () => home.frame(CLASS_PATHS, encodePathNames([{ pathId: 1, name: 'rest' }])),
    `
      70 redirect 0 to 1
      `,
  )
  home.happens(10, () => home.frame(CLASS_PATHS, Uint8Array.of(1)), ``)
  home.happens(10, () => home.frame(99, Uint8Array.of(1)), ``)
  home.happens(
    10,
    () => home.machine.setUse('path 1', { draining: true, fading: false }, home.now),
    `
      100 redirect 0 to 1
      `,
  )
  home.happens(10, () => home.hear({ type: 'hello', peer: 0, features: 0, mtu: 1500, restarted: true }), ``)
  home.happens(
    4_000,
    () => use(1, {}),
    `
      120 probe 0 every usual
      120 probe 1 every usual
      120 redirect 0 to 1
      120 ack #1
      570 redirect 0 to 1
      3120 redirect 1 to 0
      3120 path 1: path 1 is preferred and has been well for 3 s {"peer":"home","cause":"time","from":"path 2","path 1.state":"up","path 1.loss":0,"path 1.rtt_ms":20,"path 2.state":"up","path 2.loss":0,"path 2.rtt_ms":20}
      3120 path 2 to path 1, time
      3620 redirect 1 to 0
      `,
  )

  const bus = new Bench(true)
  bus.happens(
    10,
    () => {
      const path = { pathId: 1, ...IN_USE, ...FREE, draining: true, priority: 9 }
      bus.frame(PATH_USE, encodePathUse(9, [path]))
      bus.frame(PATH_NAMES, encodePathNames([{ pathId: 1, name: 'wlan0' }]))
      bus.frame(CLASS_PATHS, encodePathNames([{ pathId: 2, name: 'rest' }]))
    },
    ``,
  )
  bus.happens(
    10,
    () => bus.hear({ type: 'hello', peer: 0, features: 0, mtu: 1500, restarted: false }),
    `
      10 links 1=acc1 2=acc2; use #5 1:1×1 2:2×1
      `,
  )
})

test('what is known of a path, a peer and a class is told as it is', () => {
  const bench = new Bench(true, [VOICE, REST])
  const { machine } = bench
  machine.setUse('acc2', { draining: false, fading: true }, bench.now)
  assert.deepEqual(
    [0, 1, 7].map((slot) => machine.accessOf(slot)),
    ['acc1', 'acc2', ''],
  )
  assert.deepEqual(
    [0, 1, 7].map((slot) => machine.useOf(slot).fading),
    [false, true, false],
  )
  assert.deepEqual(
    ['acc1', 'acc2', 'none'].map((name) => machine.pathsOf(name).map(({ slot }) => slot)),
    [[0], [1], []],
  )
  assert.deepEqual(machine.peerReports(), [{ name: 'home', established: false }])
  bench.hear({ type: 'session', peer: 0, up: true, initiator: true })
  assert.deepEqual(machine.peerReports(), [{ name: 'home', established: true }])
  machine.addPeer(1, 'depot', true)
  const reports = machine
    .classReports()
    .map(({ peer, name, mode, carriers, reason, bytes, copiedBytes }) =>
      [peer, name, mode, carriers.join(), reason, bytes, copiedBytes].join(),
    )
  assert.deepEqual(reports, [
    'home,voice,failover,acc1,acc1 works, and none is preferred to it,0,0',
    'home,rest,failover,acc1,acc1 works, and none is preferred to it,0,0',
    'depot,voice,failover,,no path yet,0,0',
    'depot,rest,failover,,no path yet,0,0',
  ])
})
