/**
 * Nothing unproven: whatever a peer sends with a source that is not its own, in whatever state the two ends are, at most three
 * times the bytes that came from an address go there, and no data, until the peer has shown that it receives there.
 */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { equal } from '../../../src/core/bytes.ts'
import { controlCodec, encodeFrames, type Frame } from '../../../src/tunnel/protocol/control.ts'
import type { Endpoint } from '../../../src/tunnel/seam.ts'
import { extent, some } from '../../support/extent.ts'
import { type Datagram, endpoint, Link, Pair, type Way } from './harness.ts'

const MOST = 3
const VICTIM = endpoint(66)
const ANCHOR = endpoint(100)

const sizeOf = (datagram: Datagram) => (datagram instanceof Uint8Array ? datagram.length + 28 : datagram.size)
const same = (a: Endpoint, b: Endpoint) => a.port === b.port && equal(a.address, b.address)
const name = (at: Endpoint) => `${at.address.join('.')}:${at.port}`

/** What goes between the anchor and every address, from its first byte on, until the host has received something there. */
class Ledger {
  readonly #pair: Pair
  /** By address: bytes from there and to there while it was unproven. */
  readonly #bytes = new Map<string, { from: number; to: number }>()
  readonly #received = new Set<string>()
  worst = 0
  data = 0

  constructor(pair: Pair) {
    this.#pair = pair
    pair.world.filter = (datagram, from, to) => this.#note(datagram, from, to)
  }

  #note(datagram: Datagram, from: Endpoint, to: Endpoint): boolean {
    const other = same(from, ANCHOR) ? to : from
    const entry = this.#bytes.get(name(other)) ?? { from: 0, to: 0 }
    this.#bytes.set(name(other), entry)
    if (other === from) {
      entry.from += sizeOf(datagram)
      return true
    }
    const owned = this.#pair.host.owns(other)
    if (!this.#received.has(name(other))) {
      entry.to += sizeOf(datagram)
      this.worst = Math.max(this.worst, entry.from === 0 ? Number.POSITIVE_INFINITY : entry.to / entry.from)
      assert.ok(entry.to <= MOST * entry.from, `${entry.to} bytes to ${name(other)}, ${entry.from} from it`)
      if (!(datagram instanceof Uint8Array) && datagram.kind === 'data') this.data++
    }
    if (owned) this.#received.add(name(other))
    return owned
  }
}

const hello: Frame = { type: 'hello', version: 1, features: 1, mtu: 1420, instance: 77 }
const announce = (pathId: number, generation: number, mtu = 9000): Frame => ({
  type: 'path-announce',
  pathId,
  generation,
  mtu,
})
const probe: Frame = { type: 'probe', pathId: 1, sequence: 1, time: 5, received: 1, highestCounter: 1 }
const KEY = new Uint8Array(32).fill(3)

/** As many of one frame as a datagram holds. */
function full(frame: (n: number) => Frame): Uint8Array {
  const frames = [frame(0)]
  while (encodeFrames([...frames, frame(frames.length)]).length < 1400) frames.push(frame(frames.length))
  return encodeFrames(frames)
}

type Input = readonly [name: string, pathId: number, kind: 'control' | 'data' | 'keepalive', body: Uint8Array]

const INPUTS: readonly Input[] = [
  ['an announcement', 2, 'control', encodeFrames([announce(2, 50)])],
  ['an announcement of the path that is up', 1, 'control', encodeFrames([announce(1, 1)])],
  ['a new generation of the path that is up', 1, 'control', encodeFrames([announce(1, 50)])],
  ['140 announcements', 0, 'control', full((n) => announce(2 + n, 50))],
  ['HELLO and an announcement', 2, 'control', encodeFrames([hello, announce(2, 50)])],
  ['HELLO alone', 1, 'control', encodeFrames([hello])],
  ['a probe', 1, 'control', encodeFrames([probe])],
  ['many probes', 1, 'control', full(() => probe)],
  ['an MTU probe', 1, 'control', encodeFrames([{ type: 'mtu-probe', pathId: 1, size: 1280 }])],
  ['many MTU probes', 1, 'control', full((n) => ({ type: 'mtu-probe', pathId: 1, size: n }))],
  [
    '195 tallies',
    1,
    'control',
    full((n) => ({ type: 'mechanism', code: 70, body: Uint8Array.of(0, 0, 0, n) })),
  ],
  ['one tally', 1, 'control', encodeFrames([{ type: 'mechanism', code: 70, body: new Uint8Array(4) }])],
  [
    'a challenge',
    1,
    'control',
    full(() => ({ type: 'path-challenge', pathId: 1, token: new Uint8Array(8) })),
  ],
  [
    'a guessed proof',
    2,
    'control',
    encodeFrames([{ type: 'path-response', pathId: 2, token: new Uint8Array(8) }]),
  ],
  [
    'a close',
    1,
    'control',
    encodeFrames([{ type: 'path-close', pathId: 9, generation: 1, reason: 2, highestCounter: -1 }]),
  ],
  ['fresh keys', 1, 'control', full(() => ({ type: 'key-replace', publicKey: KEY }))],
  ['data that name the path', 1, 'data', new Uint8Array(4)],
  ['data that name another path', 9, 'data', new Uint8Array(4)],
  ['data that name none', 0, 'data', new Uint8Array(4)],
  ['much data', 1, 'data', new Uint8Array(1300)],
  ['keepalives', 0, 'keepalive', new Uint8Array(0)],
]

type Setup = readonly [
  name: string,
  options: ConstructorParameters<typeof Pair>[0],
  prepare: (pair: Pair) => void,
]

const GODWIT = {}
const AUTO = { config: { dialect: 'auto', persistentKeepalive: 25 } } as const
const STOCK = {
  config: { dialect: 'stock', persistentKeepalive: 25 },
  anchorConfig: { dialect: 'stock' },
} as const

function busy(pair: Pair): void {
  let n = 0
  pair.world.every(5, Number.POSITIVE_INFINITY, () => {
    for (const slot of pair.anchor.usable(pair.hostPeer)) pair.anchor.sendData(slot, n++, 1400)
  })
}

const STATES: readonly Setup[] = [
  [
    'a session without a path',
    GODWIT,
    (pair) => {
      pair.open(0)
      pair.world.run(21)
    },
  ],
  ['a path that is up', GODWIT, (pair) => pair.connect([0])],
  [
    'two paths, one of them silent',
    GODWIT,
    (pair) => {
      pair.connect()
      busy(pair)
      pair.links[0].cut()
      pair.world.run(2000)
    },
  ],
  [
    'a download',
    GODWIT,
    (pair) => {
      pair.connect([0])
      busy(pair)
      pair.world.run(1000)
    },
  ],
  [
    'the only path silent',
    GODWIT,
    (pair) => {
      pair.connect([0])
      busy(pair)
      pair.links[0].downlink.down = true
      pair.world.run(3000)
    },
  ],
  [
    'a path that was closed',
    GODWIT,
    (pair) => {
      pair.connect()
      pair.host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
      pair.world.run(200)
    },
  ],
  [
    'a peer not known to be a godwit',
    AUTO,
    (pair) => {
      pair.open(0)
      pair.world.run(25)
    },
  ],
  [
    'a stock peer',
    STOCK,
    (pair) => {
      pair.connect([0])
      busy(pair)
      pair.world.run(200)
    },
  ],
  ['a stock peer with two addresses', STOCK, (pair) => pair.connect()],
]

for (const [state, options, prepare] of STATES)
  test(`bytes to an unproven address ÷ bytes from it ≤ 3: ${state}`, () => {
    for (const [what, pathId, kind, body] of INPUTS)
      for (const times of some([30, 1])) {
        const pair = new Pair(options)
        const ledger = new Ledger(pair)
        prepare(pair)
        for (let n = 0; n < times; n++) {
          pair.host.forge(pair.anchorPeer, pathId, kind, body, VICTIM, ANCHOR)
          pair.world.run(7)
        }
        pair.world.run(extent(5000))
        assert.ok(ledger.worst <= MOST, `${what}, ${times} times: ${ledger.worst}`)
        assert.equal(ledger.data, 0, `${what}, ${times} times: data to an address that proved nothing`)
      }
  })

test('bytes to an unproven address ÷ bytes from it ≤ 3: initiations, their copies, and cookies', () => {
  for (const loadThreshold of [1e9, 0]) {
    const pair = new Pair()
    const way: Way = new Link({ delay: 1 }).up
    const ledger = new Ledger(pair)
    pair.anchor.restart({ loadThreshold })
    pair.hostPeer = pair.anchor.addPeer(pair.host)
    const note = pair.world.filter
    pair.world.filter = (datagram, from, to) => {
      // Each message of the host's handshakes leaves the victim's address too, three times.
      if (datagram instanceof Uint8Array && !same(from, ANCHOR) && !same(from, VICTIM))
        for (let n = 0; n < 3; n++) pair.world.deliver(pair.host, VICTIM, ANCHOR, way, datagram)
      return note(datagram, from, to)
    }
    pair.connect()
    pair.world.run(130_000)
    assert.ok(ledger.worst > 0 && ledger.worst <= MOST, `${ledger.worst}`)
    assert.equal(ledger.data, 0)
  }
})

test('bytes to an unproven address ÷ bytes from it ≤ 3: anything, at random, from three victims, 40 seeds', () => {
  for (let seed = 1; seed <= extent(40); seed++) {
    const setup = STATES[seed % STATES.length]!
    const pair = new Pair({ seed, ...setup[1] })
    const ledger = new Ledger(pair)
    setup[2](pair)
    const { world } = pair
    for (let n = 0; n < 150; n++) {
      const [, pathId, kind, body] = INPUTS[Math.floor(world.random() * INPUTS.length)]!
      const victim = endpoint(66 + Math.floor(world.random() * 3), 4000)
      pair.host.forge(pair.anchorPeer, pathId, kind, body, victim, ANCHOR)
      world.run(world.random() * 40)
    }
    world.run(12_000)
    assert.ok(ledger.worst <= MOST, `seed ${seed}: ${ledger.worst}`)
    assert.equal(ledger.data, 0, `seed ${seed}`)
  }
})

test('a datagram is answered with one datagram', () => {
  for (const [what, pathId, kind, body] of INPUTS) {
    const pair = new Pair().connect([0])
    pair.world.run(15_000) // idle: no probe is due
    let answers = 0
    const from = pair.host.sockets[0]!.endpoint
    pair.world.filter = (datagram, source) => {
      if (!same(source, ANCHOR)) return true
      const frames = datagram instanceof Uint8Array ? undefined : controlCodec.decode(datagram.body)
      // What a fresh path is measured with is no answer.
      const measures = frames?.ok === true && frames.value.every(({ type }) => type === 'mtu-probe')
      if (!measures) answers++
      return false
    }
    pair.host.forge(pair.anchorPeer, pathId, kind, body, from, ANCHOR)
    pair.world.run(15)
    assert.ok(answers <= 1, `${what}: ${answers}`)
  }
})

test('make before break: a NAT rebinding is followed one round trip after the first datagram, data never go astray', () => {
  const pair = new Pair()
  const ledger = new Ledger(pair)
  pair.connect([0])
  pair.world.run(1000)
  const old = pair.host.sockets[0]!.endpoint
  // The old port goes on working for a while, as with a NAT that has just been asked for another one.
  pair.host.sockets.push({ endpoint: old, link: pair.links[0] })
  pair.host.sockets[0]!.endpoint = endpoint(1, 4000)
  busy(pair)
  const at = pair.world.now
  pair.host.sendData(pair.slots[0]!, 1)
  pair.world.runUntil(() => pair.anchor.slots[pair.anchorSlot(1)]!.remote.port === 4000, 1000)
  assert.ok(pair.world.now - at <= 31, `${pair.world.now - at} ms: one way there, one round trip`)
  assert.equal(ledger.data, 0)
})

test('issue 10, A9: roaming is limited: a NAT with another port for every datagram costs an idle pair next to nothing', () => {
  const pair = new Pair().connect([0])
  let port = 5000
  let bytes = 0
  const { sockets } = pair.host
  pair.host.owns = (at) => equal(at.address, sockets[0]!.endpoint.address)
  const receive = pair.host.receive.bind(pair.host)
  pair.host.receive = (datagram, from) => receive(datagram, from, sockets[0]!.endpoint)
  pair.world.filter = (datagram, from) => {
    bytes += sizeOf(datagram)
    if (!same(from, ANCHOR)) sockets[0]!.endpoint = endpoint(1, port++)
    return true
  }
  pair.world.run(6000)
  assert.ok(bytes < 6000, `${bytes} bytes in 6 s`)
  pair.host.sendData(pair.slots[0]!, 1)
  pair.world.run(100)
  assert.ok(pair.anchor.sendData(pair.anchorSlot(1), 7))
  pair.world.run(100)
  assert.equal(pair.host.received.at(-1)?.sequence, 7, 'and it works')
})

test('an announcement that was held back and comes 2,000 datagrams later moves nothing', () => {
  for (const [index, frames] of [[hello, announce(1, 1)], [announce(1, 1)], [probe]].entries()) {
    const pair = new Pair().connect([0])
    const held = pair.host.forge(pair.anchorPeer, 1, 'control', encodeFrames(frames), VICTIM, endpoint(99))!
    for (let n = 0; n < 2000; n++) pair.host.sendData(pair.slots[0]!, n)
    pair.world.run(100)
    pair.anchor.receive(held, VICTIM, ANCHOR)
    const before = pair.anchor.slots.filter(({ closed }) => !closed).length
    pair.world.run(1000)
    assert.equal(pair.anchor.all('remote').length, 0, `${index}`)
    assert.equal(pair.anchor.all('path-closed').length, 0, `${index}`)
    assert.equal(pair.anchor.slots.filter(({ closed }) => !closed).length, before)
    assert.ok(same(pair.anchor.slots[pair.anchorSlot(1)]!.remote, endpoint(1)))
  }
})

test('a HELLO of an earlier run that was held back closes no path of the later one', () => {
  const pair = new Pair().connect()
  const held = pair.host.forge(pair.anchorPeer, 1, 'control', encodeFrames([hello]), VICTIM, endpoint(99))!
  pair.host.do((machine, now) => machine.connect(pair.anchorPeer, now))
  pair.world.run(500)
  pair.host.sendData(pair.slots[0]!, 1)
  pair.world.run(100)
  const open = () => pair.anchor.slots.filter(({ closed }) => !closed).length
  assert.equal(open(), 2)
  pair.anchor.receive(held, VICTIM, ANCHOR)
  assert.equal(open(), 2)
})

test('a token is worth nothing from another address, a second time, or too late', () => {
  const challengeOf = (datagram: Datagram): boolean =>
    !(datagram instanceof Uint8Array) && datagram.kind === 'control'
  for (const how of ['elsewhere', 'late', 'twice'] as const) {
    const pair = new Pair().connect([0])
    let token: Uint8Array | undefined
    pair.world.filter = (datagram, from, to) => {
      if (!same(from, ANCHOR) || !same(to, VICTIM) || !challengeOf(datagram)) return true
      if (datagram instanceof Uint8Array) return true
      token = datagram.body.slice(-8)
      return false
    }
    pair.host.forge(pair.anchorPeer, 2, 'control', encodeFrames([announce(2, 50)]), VICTIM, ANCHOR)
    pair.world.run(5)
    assert.ok(token !== undefined)
    const answer = (from: Endpoint) => {
      const body = encodeFrames([{ type: 'path-response', pathId: 2, token: token! }])
      pair.host.forge(pair.anchorPeer, 2, 'control', body, from, ANCHOR)
      pair.world.run(5)
      return pair.anchorSlot(2) >= 0
    }
    if (how === 'elsewhere') {
      assert.equal(answer(endpoint(67)), false)
      assert.equal(answer(endpoint(1)), false)
      assert.equal(answer(VICTIM), true, 'only from there')
    } else if (how === 'late') {
      pair.world.run(5000)
      assert.equal(answer(VICTIM), false)
    } else {
      assert.equal(answer(VICTIM), true)
      const closed: Frame = { type: 'path-close', pathId: 2, generation: 50, reason: 1, highestCounter: -1 }
      pair.host.forge(pair.anchorPeer, 1, 'control', encodeFrames([closed]), endpoint(1), ANCHOR)
      pair.world.run(20)
      assert.equal(pair.anchorSlot(2), -1)
      assert.equal(answer(VICTIM), false)
    }
  }
})

test('a peer has 16 paths at most, opened at a bounded rate, and pays for more with its own', () => {
  const pair = new Pair().connect([0])
  const source = (n: number) => endpoint(1, 20_000 + n)
  pair.host.owns = (at) => equal(at.address, endpoint(1).address)
  let opened = 0
  for (let n = 0; n < 300; n++) {
    let token: Uint8Array | undefined
    pair.world.filter = (datagram, from, to) => {
      if (same(from, ANCHOR) && same(to, source(n)) && !(datagram instanceof Uint8Array))
        token ??= datagram.body.slice(-8)
      return true
    }
    const pathId = 2 + (n % 250)
    pair.host.forge(
      pair.anchorPeer,
      pathId,
      'control',
      encodeFrames([announce(pathId, 50 + n)]),
      source(n),
      ANCHOR,
    )
    pair.world.run(12)
    if (token === undefined) continue
    const body = encodeFrames([{ type: 'path-response', pathId, token }])
    pair.host.forge(pair.anchorPeer, pathId, 'control', body, source(n), ANCHOR)
    pair.world.run(12)
    opened++
    assert.ok(pair.anchor.machine.peer(pair.hostPeer)!.paths.length <= 16)
  }
  assert.ok(opened >= 64 && opened <= 64 + 10 * 8 + 1, `${opened} in 7.2 s`)
})

test('a proof is renewed while a path lives, idle or not; without it nothing more is sent there after 50 s', () => {
  const pair = new Pair().connect([0])
  pair.world.run(90_000)
  busy(pair)
  pair.world.run(20_000)
  assert.ok(!pair.anchor.states(1).includes('down'), 'a minute and a half of idling does no harm')
  const path = () => pair.anchor.machine.peer(pair.hostPeer)!.paths[0]!
  assert.equal(path().state.name, 'up')
  // The host has left; somebody who has its keys goes on sending in its name, and answers no challenge.
  pair.host.stopped = true
  const liar = () =>
    pair.host.forge(pair.anchorPeer, 1, 'data', new Uint8Array(4), pair.host.sockets[0]!.endpoint, ANCHOR)
  pair.world.every(20, pair.world.now + 60_000, liar)
  pair.world.run(50_000)
  const before = pair.anchor.slots[path().slot]!.sentPackets
  assert.notEqual(path().state.name, 'up')
  pair.world.run(5000)
  const after = pair.anchor.slots[path().slot]!.sentPackets
  assert.ok(after - before < 30, `${after - before} datagrams in 5 s: challenges only`)
})

for (const known of [undefined, 'proven', 'likely'] as const)
  test(`a path that this end opened: PATH_ACCEPT and probes from elsewhere keep none up to who never answers (${known ?? 'nothing known'})`, () => {
    const pair = new Pair({ anchorConfig: { dialect: 'godwit' } as const }).connect([0])
    const { world, host, anchor } = pair
    let bytes = 0
    world.filter = (datagram, _from, to) => {
      if (!same(to, VICTIM)) return true
      bytes += sizeOf(datagram)
      return false
    }
    if (known === 'likely') host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
    const config = { pathId: 9, socket: 0, remote: VICTIM, mtu: 1500, ...(known && { known }) }
    const slot = host.addPath(pair.anchorPeer, config)
    const forge = (frame: Frame) =>
      anchor.forge(pair.hostPeer, 9, 'control', encodeFrames([frame]), endpoint(77), endpoint(1))
    for (let generation = 1; generation < 6; generation++)
      forge({ type: 'path-accept', pathId: 9, generation, observed: VICTIM })
    let late = 0
    for (let sequence = 0; sequence < 300; sequence++) {
      const time = Math.floor(world.now * 1000) >>> 0
      forge({ type: 'probe', pathId: 9, sequence, time, received: 10 * sequence, highestCounter: 0 })
      const usable = host.usable(pair.anchorPeer).includes(slot)
      if (usable && host.sendData(slot, sequence, 100) && sequence > 35) late++
      world.run(100)
    }
    assert.equal(late, 0, 'packets after three and a half seconds')
    assert.ok(bytes < 60_000, `${bytes} bytes in half a minute`)
  })

test('a path that this end opened is asked for its proof again while data flows; a peer that left it hears no more after 40 s', () => {
  const pair = new Pair().connect([0])
  const { world, host, anchor } = pair
  busy(pair)
  world.run(20_000)
  assert.ok(!host.states(1).includes('down'))
  // The anchor has left its address, where somebody else is now; its probes go on from elsewhere.
  const slot = pair.slots[0]!
  const remote = ANCHOR
  anchor.stopped = true
  let received = host.slots[slot]!.sentPackets
  let bytes = 0
  world.filter = (datagram, _from, to) => {
    if (!same(to, remote)) return true
    bytes += sizeOf(datagram)
    return false
  }
  for (let sequence = 0; sequence < 900; sequence++) {
    received += 5
    const time = Math.floor(world.now * 1000) >>> 0
    const frame: Frame = { type: 'probe', pathId: 1, sequence, time, received, highestCounter: 0 }
    anchor.forge(pair.hostPeer, 1, 'control', encodeFrames([frame]), endpoint(77), endpoint(1))
    if (host.usable(pair.anchorPeer).includes(slot)) host.sendData(slot, sequence, 1000)
    if (sequence === 450) bytes = 0
    world.run(100)
  }
  assert.ok(bytes < 60_000, `${bytes} bytes in the last 45 s: announcements only`)
})
