import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EACCES, EINVAL, EMSGSIZE, ENETUNREACH, EPERM } from '../../../src/core/errno.ts'
import { TokenBucket } from '../../../src/core/token-bucket.ts'
import { CloseReason } from '../../../src/tunnel/protocol/api.ts'
import { extent, some } from '../../support/extent.ts'
import { endpoint, Link, Node, Pair, type Way, World } from './harness.ts'

/** Longest pause between arrivals after `from`. */
function gap(received: readonly { at: number }[], from: number): number {
  let longest = 0
  for (let i = 1; i < received.length; i++)
    if (received[i]!.at >= from) longest = Math.max(longest, received[i]!.at - received[i - 1]!.at)
  return longest
}

/** Sends data every `interval` on the best usable path of the host, as failover would. Returns how many it sent. */
function upload(pair: Pair, interval: number, ms: number, prefer = 0): { sent: number } {
  const count = { sent: 0 }
  pair.world.every(interval, pair.world.now + ms, () => {
    const views = pair.host.machine
      .peer(pair.anchorPeer)!
      .paths.filter((path) => path.state.name !== 'closing')
    const good = views.filter((path) => path.state.name === 'up' || path.state.name === 'degrading')
    const any = good.length > 0 ? good : views.filter((path) => path.state.name === 'suspect')
    const path = any.find((each) => each.slot === pair.slots[prefer]) ?? any[0]
    if (path !== undefined && pair.host.sendData(path.slot, count.sent)) count.sent++
  })
  return count
}

/** Sends data on the anchor's slot over which data last arrived: the implicit handover. */
function download(pair: Pair, interval: number, ms: number, prefer = 1): { sent: number } {
  const count = { sent: 0 }
  pair.world.every(interval, pair.world.now + ms, () => {
    const usable = pair.anchor.usable(pair.hostPeer)
    const slot = usable.find((each) => pair.anchor.slots[each]!.pathId === prefer) ?? usable[0]
    if (slot !== undefined && pair.anchor.sendData(slot, count.sent)) count.sent++
  })
  return count
}

function complete(received: readonly { sequence: number }[], sent: number): void {
  const seen = new Set(received.map((each) => each.sequence))
  const missing = Array.from({ length: sent }, (_, n) => n).filter((n) => !seen.has(n))
  assert.deepEqual(missing, [], 'lost')
  assert.equal(received.length, seen.size, 'duplicated')
}

test('UP-9: two paths come up over one session, two round trips after the first initiation', () => {
  const pair = new Pair()
  pair.open(0)
  pair.open(1)
  pair.world.run(45)
  assert.deepEqual(pair.host.usable(pair.anchorPeer), pair.slots)
  pair.world.run(10) // the host's proofs arrive
  assert.equal(pair.anchor.usable(pair.hostPeer).length, 2)
  assert.equal(pair.anchor.all('session').length, 1)
  assert.equal(pair.host.forms.get(pair.anchorPeer), 'godwit')
  assert.equal(pair.anchor.forms.get(pair.hostPeer), 'godwit')
  const observed = pair.host.all('observed').map((event) => event.address.address[3])
  assert.deepEqual(observed.sort(), [1, 2])
  pair.world.run(2000)
  for (const path of pair.host.machine.peer(pair.anchorPeer)!.paths) {
    assert.equal(path.mtu, 1500)
    assert.ok(Math.abs(path.rttMs - 20) < 1, `${path.rttMs}`)
  }
})

for (const delay of some([20, 2, 60])) {
  test(`a black hole under upload is found within 300 ms and a round trip, nothing is lost (${2 * delay} ms)`, () => {
    const pair = new Pair({ links: [{ delay }, { delay }] }).connect()
    pair.world.run(1000)
    const sent = upload(pair, 5, 3000)
    pair.world.run(1000)
    const cutAt = pair.world.now
    pair.links[0].cut()
    pair.world.run(3000)
    const down = pair.host.all('path').find((event) => event.path.state.name === 'down')
    assert.ok(down, 'not found')
    assert.ok(down.path.state.name === 'down' && down.path.state.evidence.unanswered >= 3)
    assert.ok(gap(pair.anchor.received, cutAt) <= 300 + 2 * delay, `${gap(pair.anchor.received, cutAt)}`)
    complete(pair.anchor.received, sent.sent)
    // The dead path is tried again, and comes back as a new generation.
    pair.links[0].mend()
    pair.world.run(6000)
    assert.equal(pair.host.usable(pair.anchorPeer).length, 2)
    assert.equal(pair.anchor.usable(pair.hostPeer).length, 2)
  })

  test(`a black hole under download is found by the host, the anchor sends again what was lost (${2 * delay} ms)`, () => {
    const pair = new Pair({ links: [{ delay }, { delay }] }).connect()
    pair.world.run(6000)
    const sent = download(pair, 5, 3000)
    pair.world.run(1000)
    const cutAt = pair.world.now
    pair.links[0].cut()
    pair.world.run(3000)
    assert.ok(gap(pair.host.received, cutAt) <= 300 + 2 * delay, `${gap(pair.host.received, cutAt)}`)
    complete(pair.host.received, sent.sent)
    assert.equal(pair.anchorSlot(1), -1, 'the anchor forgot the path')
  })
}

test('an access that goes with a link event: 1 one-way delay, nothing lost in either direction', () => {
  const pair = new Pair().connect()
  pair.world.run(6000)
  const up = upload(pair, 5, 2000)
  const down = download(pair, 5, 2000)
  pair.world.run(1000)
  const at = pair.world.now
  pair.links[0].cut()
  pair.world.run(30) // until the kernel says so
  pair.host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
  pair.world.run(2000)
  complete(pair.anchor.received, up.sent)
  complete(pair.host.received, down.sent)
  assert.ok(gap(pair.anchor.received, at) <= 60)
  assert.ok(gap(pair.host.received, at) <= 70, `${gap(pair.host.received, at)}`)
  assert.equal(pair.host.all('path-closed').length, 1)
  assert.equal(pair.anchorSlot(1), -1)
})

test('break before make: what was in the air is sent again on the path that comes later', () => {
  const pair = new Pair().connect([0])
  pair.world.run(6000)
  const up = upload(pair, 5, 990)
  const down = download(pair, 5, 990)
  pair.world.run(1000)
  pair.links[0].cut()
  upload(pair, 5, 25)
  pair.host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
  assert.deepEqual(pair.host.usable(pair.anchorPeer), [])
  pair.world.run(1500)
  pair.open(1)
  pair.world.run(100)
  complete(pair.anchor.received, up.sent)
  complete(pair.host.received, down.sent)
  assert.equal(pair.host.usable(pair.anchorPeer).length, 1)
  assert.equal(pair.anchor.usable(pair.hostPeer).length, 1)
})

test('a filling queue is not a black hole: no path is given up while its round trip climbs to a second', () => {
  // 1 Mbit/s and 128 kbit/s with a second of queue, offered `overload` times that, in one direction and the other.
  for (const [rate, overload] of some([
    [125, 2],
    [125, 1.2],
    [125, 5],
    [16, 3],
  ] as const)) {
    const pair = new Pair({ links: [{ rate, queue: 1000 * rate }, {}] }).connect()
    pair.world.run(6000)
    const size = 1000
    const interval = size / (rate * overload)
    let n = 0
    pair.world.every(interval, pair.world.now + 8000, () => pair.host.sendData(pair.slots[0]!, n++, size))
    pair.world.run(9000)
    assert.ok(!pair.host.states(1).includes('down'), `uplink, ${overload}: ${pair.host.states(1)}`)
    assert.ok(!pair.anchor.states(1).includes('down'), `at the anchor, uplink, ${overload}`)
    const slot = pair.anchorSlot(1)
    pair.world.every(interval, pair.world.now + 8000, () => pair.anchor.sendData(slot, n++, size))
    pair.world.run(9000)
    assert.ok(!pair.host.states(1).includes('down'), `downlink, ${overload}: ${pair.host.states(1)}`)
    assert.ok(!pair.anchor.states(1).includes('down'), `at the anchor, downlink, ${overload}`)
  }
})

test('networks: a silent hole under traffic is left within 100 ms and a round trip, p95', () => {
  for (const delay of some([5, 15, 30])) {
    const gaps: number[] = []
    const count = extent(20)
    for (let n = 0; n < count; n++) {
      const pair = new Pair({ seed: n + 1, links: [{ delay }, { delay }] }).connect()
      pair.world.run(1500)
      upload(pair, 5, 4000)
      pair.world.run(1500 + 7.3 * n)
      const cutAt = pair.world.now
      pair.links[0].cut()
      pair.world.run(1500)
      gaps.push(gap(pair.anchor.received, cutAt))
    }
    const p95 = gaps.sort((a, b) => a - b)[Math.ceil(0.95 * count) - 1]!
    assert.ok(p95 <= 100 + 2 * delay, `${p95} ms with a round trip of ${2 * delay}`)
  }
})

test('networks: a delay that jitters by 100 ms, and a queue that fills to a second, are no silence', () => {
  const suspected = (pair: Pair) => pair.host.states(1).filter((state) => state === 'suspect').length
  for (const way of ['up', 'down', 'both'] as const)
    for (const seed of some([1, 2, 3, 4])) {
      const pair = new Pair({ seed, links: [{ delay: 15, jitter: 100 }, { delay: 15 }] }).connect()
      pair.world.run(1500)
      if (way !== 'down') upload(pair, 10, 20_000)
      if (way !== 'up') download(pair, 10, 20_000)
      pair.world.run(20_000)
      assert.equal(suspected(pair), 0, `${way}, ${seed}`)
    }
  for (const overload of some([2, 1.2, 5])) {
    const pair = new Pair({ links: [{ rate: 125, queue: 125_000 }, {}] }).connect()
    pair.world.run(6000)
    let n = 0
    const until = pair.world.now + 8000
    pair.world.every(1000 / (125 * overload), until, () => pair.host.sendData(pair.slots[0]!, n++, 1000))
    pair.world.run(9000)
    assert.equal(suspected(pair), 0, `${overload} times the rate`)
  }
})

test('loss and jitter alone take no path down; they show as loss and as degrading', () => {
  const pair = new Pair({ links: [{ loss: 0.2, jitter: 30 }, { loss: 0.01 }] }).connect()
  pair.world.run(3000)
  upload(pair, 10, 20_000)
  pair.world.run(20_000)
  assert.ok(!pair.host.states(1).includes('down'), pair.host.states(1).join())
  assert.ok(pair.host.states(1).includes('degrading'))
  const loss = pair.host.last('quality')!.loss
  assert.ok(loss > 0.08 && loss < 0.35, `${loss}`)
  assert.ok(!pair.host.states(2).includes('degrading'), pair.host.states(2).join())
})

for (const delay of some([20, 2, 60]))
  for (const traffic of ['up', 'down', 'both'] as const)
    for (const direction of ['up', 'downlink'] as const)
      test(`a hole only ${direction === 'up' ? 'up' : 'down'}, traffic ${traffic}: found within 300 ms and a round trip (${2 * delay} ms)`, () => {
        const pair = new Pair({ links: [{ delay }, { delay }] }).connect()
        pair.world.run(3000)
        const up = traffic === 'down' ? undefined : upload(pair, 5, 5000)
        const down = traffic === 'up' ? undefined : download(pair, 5, 5000)
        pair.world.run(1000)
        const at = pair.world.now
        pair.links[0][direction].down = true
        pair.world.run(6000)
        const event = pair.host.all('path').find((each) => each.path.state.name === 'down')
        assert.ok(event?.path.state.name === 'down', 'not found')
        const took = event.path.state.since - at
        assert.ok(took <= 300 + 2 * delay, `${took}`)
        if (up !== undefined) complete(pair.anchor.received, up.sent)
        if (down !== undefined) complete(pair.host.received, down.sent)
      })

test('an end that is held up does not take its own silence for the path’s', () => {
  const pair = new Pair().connect()
  pair.world.run(3000)
  upload(pair, 5, 4000)
  pair.world.run(1000)
  pair.anchor.heldUntil = pair.world.now + 150
  pair.world.run(1000)
  pair.host.heldUntil = pair.world.now + 400
  pair.world.run(1000)
  assert.ok(!pair.host.states(1).includes('down'), pair.host.states(1).join())
})

test('idle paths cost a keepalive each 20 s, and a hole is found at the next one', () => {
  const pair = new Pair().connect()
  pair.world.run(30_000)
  const before = pair.host.slots[0]!.sentPackets
  pair.world.run(60_000)
  const cost = pair.host.slots[0]!.sentPackets - before
  assert.ok(cost >= 3 && cost <= 12, `${cost} datagrams in a minute`)
  pair.links[0].cut()
  pair.world.run(25_000)
  assert.ok(pair.host.states(1).includes('down'))
})

test('the anchor restarts: the host notices, does a new handshake and announces its paths', () => {
  const pair = new Pair().connect()
  pair.world.run(3000)
  upload(pair, 10, 10_000)
  pair.world.run(1000)
  pair.anchor.stopped = true
  pair.world.run(1500)
  assert.deepEqual(pair.host.usable(pair.anchorPeer), [])
  pair.anchor.restart()
  pair.hostPeer = pair.anchor.addPeer(pair.host)
  const at = pair.world.now
  pair.world.runUntil(() => pair.host.usable(pair.anchorPeer).length === 2, 5000)
  assert.ok(pair.world.now - at <= 1200, `${pair.world.now - at} ms`)
  assert.equal(pair.host.last('hello')!.restarted, true)
  const count = pair.anchor.received.length
  pair.world.run(500)
  assert.ok(pair.anchor.received.length > count + 30, 'data flows again')
})

test('issue 10 D4: an end that restarts while nothing is said greets where its peer was: both paths within a second', () => {
  const pair = new Pair().connect()
  pair.world.run(30_000)
  const [path] = pair.anchor.machine.peer(pair.hostPeer)!.paths
  pair.anchor.restart({ timestampFloor: pair.world.wall })
  pair.hostPeer = pair.anchor.addPeer(pair.host)
  const at = pair.world.now
  pair.anchor.machine.greet(pair.hostPeer, path!.remote, path!.socket, at)
  pair.world.runUntil(() => pair.anchor.usable(pair.hostPeer).length === 2, 5000)
  assert.ok(pair.world.now - at <= 1000, `${pair.world.now - at} ms`)
  assert.equal(pair.host.last('hello')!.restarted, true)
  const before = pair.host.received.length
  pair.anchor.machine.greet(pair.hostPeer, endpoint(1), 0, pair.world.now)
  pair.world.run(1000)
  assert.equal(pair.anchor.machine.peer(pair.hostPeer)!.established, true, 'no effect on a session')
  assert.ok(pair.host.received.length >= before)
})

test('the anchor restarts at once, before anything was missed: the host still finds out', () => {
  const pair = new Pair().connect()
  pair.world.run(3000)
  upload(pair, 10, 10_000)
  pair.world.run(1000)
  pair.anchor.restart()
  pair.hostPeer = pair.anchor.addPeer(pair.host)
  const at = pair.world.now
  pair.world.run(20)
  pair.world.runUntil(() => pair.anchor.usable(pair.hostPeer).length === 2, 5000)
  assert.ok(pair.world.now - at <= 800, `${pair.world.now - at} ms`)
})

test('the host restarts: the anchor drops its old paths and takes the new ones', () => {
  const pair = new Pair().connect()
  pair.world.run(3000)
  pair.host.restart()
  pair.anchorPeer = pair.host.addPeer(pair.anchor, { dialect: 'godwit' })
  pair.connect()
  assert.equal(pair.host.usable(pair.anchorPeer).length, 2)
  assert.equal(pair.anchor.usable(pair.hostPeer).length, 2)
  assert.equal(pair.anchor.machine.peer(pair.hostPeer)!.paths.length, 2)
  assert.equal(pair.anchor.last('hello')!.restarted, true)
})

test('both accesses gone for two minutes, then one is back: up again within a second', () => {
  const pair = new Pair().connect()
  pair.world.run(3000)
  for (const slot of pair.slots) pair.host.do((machine, now) => machine.removePath(slot, now))
  pair.world.run(120_000)
  assert.deepEqual(pair.host.usable(pair.anchorPeer), [])
  pair.open(0)
  pair.world.run(50)
  assert.equal(pair.host.usable(pair.anchorPeer).length, 1)
  // And after the session has run out.
  pair.host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
  pair.world.run(400_000)
  pair.open(1)
  pair.world.run(50)
  assert.equal(pair.host.usable(pair.anchorPeer).length, 1)
})

test('roaming: a NAT gives the host another port, the anchor follows the datagram that names the path', () => {
  const pair = new Pair().connect()
  pair.world.run(3000)
  const slot = pair.anchorSlot(1)
  pair.host.sockets[0]!.endpoint = endpoint(1, 4000)
  pair.host.sendData(pair.slots[0]!, 1)
  pair.world.run(100)
  assert.equal(pair.anchor.slots[slot]!.remote.port, 4000)
  assert.equal(pair.anchor.last('remote')!.slot, slot)
  assert.equal(pair.anchor.sendData(slot, 7), true)
  pair.world.run(100)
  assert.equal(pair.host.received.at(-1)!.sequence, 7)
})

test('MTU: the largest size that passes is found, and a shrinking path is noticed under traffic', () => {
  for (const mtu of [1500, 1492, 1420, 1358, 1280]) {
    const pair = new Pair({ links: [{ mtu }, {}] }).connect()
    pair.world.run(3000)
    const found = pair.host.machine.path(pair.slots[0]!)!.mtu
    assert.ok(found <= mtu && found > mtu - 24, `host: ${found} of ${mtu}`)
    const remote = pair.anchor.machine.path(pair.anchorSlot(1))!.mtu
    assert.ok(remote <= mtu && remote > mtu - 24, `anchor: ${remote} of ${mtu}`)
  }
  const pair = new Pair().connect()
  pair.world.run(3000)
  upload(pair, 20, 30_000)
  pair.links[0].up.mtu = 1400
  pair.world.run(12_000)
  assert.equal(pair.host.machine.path(pair.slots[0]!)!.mtu, 1400)
  assert.ok(!pair.host.states(1).includes('down'))
})

test('UP-37: a datagram that the kernel refuses as too big: the path stays, its MTU is searched anew and found', () => {
  const pair = new Pair().connect()
  pair.world.run(3000)
  const slot = pair.slots[0]!
  pair.links[0].up.mtu = 1400
  pair.host.do((machine, now) => machine.pathError(slot, EMSGSIZE, now))
  pair.world.run(10)
  assert.equal(pair.host.machine.path(slot)!.mtu, 1280, 'the least is what surely passes')
  pair.world.run(3000)
  assert.equal(pair.host.machine.path(slot)!.mtu, 1400)
  assert.ok(!pair.host.states(1).includes('down'))
})

/** From now on the host's kernel sends nothing over its first access. Returns the ms until that path was given up as one that cannot send. */
function refused(pair: Pair, errno: number): number {
  const at = pair.world.now
  pair.host.sockets[0]!.refuses = () => errno
  pair.world.run(2000)
  const down = pair.host.all('path').find(({ path }) => path.pathId === 1 && path.state.name === 'down')
  const state = down?.path.state
  assert.ok(state?.name === 'down' && state.reason === CloseReason.error, JSON.stringify(state))
  return state.since - at
}

for (const [what, errno, most] of [
  ['a packet filter of this machine drops them', EPERM, 100],
  ['a route leads to `blackhole`', EINVAL, 100],
  ['a route leads to `prohibit`', EACCES, 45],
  ['no route is left', ENETUNREACH, 45],
] as const)
  for (const flow of [download, upload])
    test(`issue 10: datagrams do not leave, ${what}: the path is left within ${most} ms, under ${flow.name}`, () => {
      const pair = new Pair().connect()
      pair.world.run(6000)
      const { received } = flow === download ? pair.host : pair.anchor
      const sent = flow === download ? download(pair, 5, 3000) : upload(pair, 5, 3000)
      pair.world.run(1000)
      const ms = refused(pair, errno)
      assert.ok(ms <= most, `${ms}`)
      pair.world.run(1000)
      complete(received, sent.sent)
      delete pair.host.sockets[0]!.refuses
      pair.world.run(6000)
      assert.equal(pair.host.usable(pair.anchorPeer).length, 2, 'and it comes back')
    })

test('issue 10: a packet filter of this machine lets 25 datagrams a second pass: the path stays', () => {
  const pair = new Pair().connect([0])
  pair.world.run(6000)
  upload(pair, 2, 10_000)
  const limit = new TokenBucket(25, 5)
  pair.host.sockets[0]!.refuses = () => (limit.take(pair.world.now) ? 0 : EPERM)
  pair.world.run(10_000)
  const passed = pair.anchor.received.length
  assert.ok(passed > 100 && passed < 400, `${passed}`)
  assert.ok(!pair.host.states(1).includes('down'), pair.host.states(1).join())
})

test('a rekey under traffic on both paths loses nothing', () => {
  const pair = new Pair({ links: [{ jitter: 8, loss: 0 }, { delay: 40 }] }).connect()
  let n = 0
  pair.world.every(50, pair.world.now + 400_000, () => pair.host.sendData(pair.slots[n % 2]!, n++))
  pair.world.run(401_000)
  complete(pair.anchor.received, n)
  assert.ok(pair.host.all('session').length >= 4)
  assert.ok(pair.host.all('session').every((event) => event.up))
})

/** Ms from the opening of a path to its session, for each of the seeds. */
function untilSession(seeds: number, link: Partial<Way>): number[] {
  return Array.from({ length: seeds }, (_, seed) => {
    const pair = new Pair({ seed: seed + 1, links: [link, {}] })
    const begin = pair.world.now
    pair.open(0)
    pair.world.runUntil(() => pair.host.last('session') !== undefined, 60_000)
    return pair.world.now - begin
  }).sort((a, b) => a - b)
}

test('a handshake over a link that loses a tenth: a lost message costs a quarter of a second, p95 of 400', () => {
  // Of fewer than 100 a p95 says little.
  const count = Math.max(100, extent(400))
  const times = untilSession(count, { loss: 0.1, delay: 20 })
  // One of two is lost in 19 % of the trials, both times in 4 %.
  assert.ok(times[0.95 * count - 1]! <= 40 + 250 + 84, `${times[0.95 * count - 1]} ms`)
  assert.ok(times.at(-1)! <= 3_000, `${times.at(-1)} ms`)
})

test('a handshake where the round trip is longer than the pauses: the answer to any copy counts', () => {
  for (const delay of [300, 700, 1_400]) {
    const times = untilSession(5, { delay })
    assert.ok(times[4]! <= 2 * delay + 1, `${times} ms`)
  }
})

test('handshake over a link that loses half of everything, 20 seeds', () => {
  for (let seed = 1; seed <= extent(20); seed++) {
    const pair = new Pair({ seed, links: [{ loss: 0.5, jitter: 40 }, { loss: 0.5 }] })
    pair.open(0)
    pair.open(1)
    pair.world.run(15_000)
    assert.ok(pair.host.usable(pair.anchorPeer).length > 0, `seed ${seed}`)
  }
})

test('KEY_REPLACE: a crash of either end at any moment leaves a pair of keys that work', () => {
  const fresh = new Uint8Array(32).fill(9)
  // ms after the offer at which a crash happens: none, before, in the midst of and after each message.
  for (const crash of some([25, 0, 5, 15, 45, 65, 200])) {
    for (const victim of ['host', 'anchor'] as const) {
      const pair = new Pair().connect([0])
      const oldKey = pair.host.publicKey
      let stored: Uint8Array | undefined // what the anchor has on disk beside the old key
      const watch = () => {
        const offer = pair.anchor.last('key-offered')
        if (offer === undefined || stored !== undefined) return
        stored = offer.publicKey
        pair.anchor.do((machine, now) => machine.acceptKey(pair.hostPeer, offer.publicKey, now))
      }
      pair.host.do((machine, now) => machine.replaceKey(pair.anchorPeer, fresh, now))
      for (let ms = 0; ms < (crash || 300); ms++) {
        pair.world.run(1)
        watch()
      }
      if (crash > 0 && victim === 'host') {
        pair.host.restart()
        const confirmed = pair.host.last('key-confirmed') !== undefined
        pair.anchorPeer = pair.host.addPeer(pair.anchor, {
          dialect: 'godwit',
          ...(confirmed ? { privateKey: fresh } : { nextPrivateKey: fresh }),
        })
        pair.connect([0])
      }
      if (crash > 0 && victim === 'anchor') {
        const confirmed = pair.anchor.last('key-confirmed')
        pair.anchor.restart()
        pair.hostPeer = pair.anchor.machine.addPeer(
          {
            publicKey: confirmed?.publicKey ?? oldKey,
            ...(stored === undefined || confirmed !== undefined ? {} : { nextPublicKey: stored }),
          },
          pair.world.now,
        )
      }
      for (let ms = 0; ms < 60_000; ms += 10) {
        pair.world.run(10)
        watch()
      }
      const where = `${victim} crashed after ${crash} ms`
      assert.equal(pair.host.usable(pair.anchorPeer).length, 1, where)
      assert.ok(pair.host.last('key-confirmed') ?? crash === 200, where)
      assert.notDeepEqual(pair.anchor.machine.peer(pair.hostPeer)!.publicKey, oldKey, where)
      assert.ok(pair.host.sendData(pair.slots[0]!, 1), where)
      pair.world.run(100)
      assert.equal(pair.anchor.received.at(-1)?.sequence, 1, where)
    }
  }
})

test('a host that does not know what it talks to finds out by HELLO; data flows meanwhile', () => {
  const pair = new Pair({ config: { dialect: 'auto', persistentKeepalive: 25 } })
  pair.open(0)
  pair.world.run(25)
  assert.equal(pair.host.usable(pair.anchorPeer).length, 1)
  assert.ok(pair.host.sendData(pair.slots[0]!, 0))
  pair.world.run(300)
  assert.equal(pair.host.machine.peer(pair.anchorPeer)!.godwit, true)
  assert.equal(pair.anchor.received.length, 1)
  assert.equal(pair.anchor.machine.peer(pair.hostPeer)!.paths.length, 1)
  assert.equal(pair.anchorSlot(1) >= 0, true)
})

test('after sleep: paths that died meanwhile are found at once, without waiting for traffic', () => {
  const pair = new Pair().connect()
  pair.world.run(3000)
  pair.links[0].cut()
  pair.host.do((machine, now) => machine.wake(now))
  pair.world.run(1500)
  assert.ok(pair.host.states(1).includes('down'))
  assert.equal(pair.host.usable(pair.anchorPeer).length, 1)
})

test('10,000 hosts: one anchor keeps them without looking at all of them each time', () => {
  const world = new World(3)
  const anchor = new Node(world, 'anchor', [{ endpoint: endpoint(100) }], { loadThreshold: 1e9 })
  const key = (n: number) => Uint8Array.from({ length: 32 }, (_, i) => (n >> (8 * (i % 4))) ^ (i * 37))
  for (let n = 0; n < 10_000; n++)
    anchor.machine.addPeer({ publicKey: key(n + 1), persistentKeepalive: 25 }, world.now)
  assert.equal([...anchor.machine.peers()].length, 10_000)
  assert.equal(anchor.machine.nextTimeout(), undefined)
})

test('a host whose clock went back over a restart gets in when it kept its last timestamp, else it is a replay', () => {
  const pair = new Pair().connect()
  const restarted = (timestampFloor?: number) => {
    pair.world.run(5000) // the anchor's memory of answered copies runs out
    pair.host.restart(timestampFloor === undefined ? {} : { timestampFloor })
    pair.host.events = []
    pair.anchor.events = []
    pair.anchorPeer = pair.host.addPeer(pair.anchor, { dialect: 'godwit' })
    pair.connect([0])
    return pair.host.usable(pair.anchorPeer).length
  }
  const { floor } = pair.host.last('timestamp-sent')!
  pair.world.wall -= 365 * 86_400_000
  assert.equal(restarted(), 0)
  assert.equal(pair.anchor.last('handshake-failed')?.reason, 'replay')
  assert.equal(restarted(floor), 1)
  assert.equal(restarted(pair.host.last('timestamp-sent')!.floor), 1, 'at once again')
})

test('a captured initiation is refused by an anchor that restarted and kept the timestamp it had accepted', () => {
  const pair = new Pair()
  let captured: Uint8Array | undefined
  pair.world.filter = (datagram) => {
    if (datagram instanceof Uint8Array && datagram[0] === 1) captured ??= datagram.slice()
    return true
  }
  pair.connect()
  const lastTimestamp = pair.anchor.last('timestamp-accepted')!.timestamp
  pair.host.stopped = true
  for (const config of [{}, { lastTimestamp }]) {
    pair.anchor.restart()
    pair.anchor.events = []
    pair.anchor.addPeer(pair.host, config)
    pair.anchor.receive(captured!, endpoint(66), endpoint(100))
    const refused = pair.anchor.last('handshake-failed')?.reason
    assert.equal(refused, 'lastTimestamp' in config ? 'replay' : undefined)
  }
})

const STOCK = {
  config: { dialect: 'stock', persistentKeepalive: 25 },
  anchorConfig: { dialect: 'stock' },
} as const

/** Requests from a host to a stock peer, each answered; the host prefers its first path unless that is in doubt. */
function requests(pair: Pair, interval: number, ms: number): { sent: number } {
  const sent = upload(pair, interval, ms)
  let answered = 0
  pair.world.every(1, pair.world.now + ms + 200, () => {
    const slot = pair.anchor.usable(pair.hostPeer)[0]
    while (
      slot !== undefined &&
      answered < pair.anchor.received.length &&
      pair.anchor.sendData(slot, answered)
    )
      answered++
  })
  return sent
}

for (const direction of ['both', 'up', 'downlink'] as const)
  test(`a stock peer's path falls silent, ${direction}: left within two seconds for one that answers`, () => {
    const pair = new Pair(STOCK).connect()
    requests(pair, 20, 8000)
    pair.world.run(2000)
    const at = pair.world.now
    if (direction === 'both') pair.links[0].cut()
    else pair.links[0][direction].down = true
    pair.world.run(5000)
    const down = pair.host.all('path').find((event) => event.path.state.name === 'down')
    assert.ok(down?.path.state.name === 'down' && down.path.pathId === 1, 'not found')
    assert.ok(down.path.state.since - at <= 2000, `${down.path.state.since - at}`)
    const last = pair.host.received.at(-1)!
    assert.ok(pair.world.now - last.at < 100, 'answers come again')
    pair.links[0].mend()
    pair.world.run(20_000)
    assert.equal(pair.host.usable(pair.anchorPeer).length, 2, 'and the path is back')
  })

for (const errno of [EPERM, ENETUNREACH])
  test(`issue 10: datagrams to a stock peer do not leave (errno ${errno}): another path is taken at once, and the first comes back; the only one is kept`, () => {
    const pair = new Pair(STOCK).connect()
    requests(pair, 20, 3000)
    pair.world.run(1000)
    const ms = refused(pair, errno)
    assert.ok(ms <= 100, `${ms}`)
    assert.ok(pair.world.now - pair.host.received.at(-1)!.at < 100, 'answers come again')
    delete pair.host.sockets[0]!.refuses
    pair.world.run(20_000)
    assert.equal(pair.host.usable(pair.anchorPeer).length, 2)
    const alone = new Pair(STOCK).connect([0])
    requests(alone, 20, 2000)
    alone.host.sockets[0]!.refuses = () => errno
    alone.world.run(1000)
    delete alone.host.sockets[0]!.refuses
    alone.world.run(500)
    assert.ok(alone.world.now - alone.host.received.at(-1)!.at < 100)
  })

test('traffic that expects no answer from a stock peer costs a handshake each five seconds, no path', () => {
  const pair = new Pair(STOCK).connect()
  const before = pair.host.all('session').length
  upload(pair, 20, 30_000)
  pair.world.run(30_000)
  assert.deepEqual(
    pair.host.states(1).filter((name) => name !== 'up'),
    [],
  )
  const sessions = pair.host.all('session').length - before
  assert.ok(sessions <= 6, `${sessions}`)
})

test('an access goes with a link event: a stock peer follows at once, nothing is lost on the way there', () => {
  const pair = new Pair(STOCK).connect()
  const up = upload(pair, 5, 2000)
  const down = download(pair, 5, 2000)
  pair.world.run(1000)
  const at = pair.world.now
  pair.links[0].cut()
  pair.world.run(10)
  pair.host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
  pair.world.run(2000)
  complete(pair.anchor.received, up.sent)
  assert.ok(gap(pair.host.received, at) <= 60, `${gap(pair.host.received, at)}`)
  assert.ok(down.sent - pair.host.received.length <= 8)
})

test('a slot names one path until its end has been polled: what is looked up by it is never another path’s', () => {
  const pair = new Pair().connect()
  const { machine } = pair.host
  const now = pair.world.now
  const config = { pathId: 9, socket: 0, remote: endpoint(100), mtu: 1500 }
  const [first] = pair.slots as [number, number]
  machine.removePath(first, now)
  const second = machine.addPath(pair.anchorPeer, config, now)
  assert.notEqual(second, first, 'nobody has heard yet that it closed')
  const closed: number[] = []
  for (let event = machine.poll(); event !== undefined; event = machine.poll())
    if (event.type === 'path-closed') closed.push(event.slot)
  assert.deepEqual(closed, [first])
  assert.equal(machine.addPath(pair.anchorPeer, { ...config, pathId: 10, socket: 1 }, now), first)
})

test('a peer whose input makes something throw loses its session, others keep theirs, and it may come back later', () => {
  const world = new World(5)
  const link = () => ({ link: new Link() })
  const hosts = [1, 2].map((n) => new Node(world, `host${n}`, [{ endpoint: endpoint(n), ...link() }]))
  const anchor = new Node(world, 'anchor', [{ endpoint: endpoint(100) }])
  const peers = hosts.map((host) => anchor.addPeer(host))
  const config = { pathId: 1, socket: 0, remote: endpoint(100), mtu: 1500 }
  const dialled = hosts.map((host) => host.addPeer(anchor, { dialect: 'godwit' }))
  const slots = hosts.map((host, n) => host.addPath(dialled[n]!, config))
  world.run(500)
  const usable = () => peers.map((peer) => anchor.usable(peer).length)
  assert.deepEqual(usable(), [1, 1])
  // The sums of one peer's paths cannot be done any more: from a timer, and from what it sends.
  const mine = anchor.slots.findIndex(({ peer }) => peer === peers[0])
  const { lastReceivedAt } = anchor.slots[mine]!
  Object.defineProperty(anchor.slots[mine]!, 'lastReceivedAt', {
    get: () => {
      throw new Error('injected')
    },
    set: () => {},
    configurable: true,
  })
  for (let n = 0; n < 20; n++) {
    for (const [i, host] of hosts.entries()) host.sendData(slots[i]!, n)
    world.run(20)
  }
  const failed = anchor.all('peer-failed')
  assert.equal(failed.length, 1)
  assert.equal(failed[0]!.peer, peers[0])
  assert.match(failed[0]!.reason, /injected/)
  assert.deepEqual(usable(), [0, 1])
  assert.equal(anchor.received.filter(({ pathId }) => pathId === 1).length >= 20, true)
  Object.defineProperty(anchor.slots[mine]!, 'lastReceivedAt', { value: lastReceivedAt, writable: true })
  world.every(50, world.now + 20_000, () => {
    for (const [i, host] of hosts.entries()) host.sendData(slots[i]!, 99)
  })
  world.run(20_000)
  assert.deepEqual(usable(), [1, 1])
})
