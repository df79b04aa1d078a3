/** A process ends, and says so (SESSION_END) or does not: what the other end does with its session, its paths and what was sent. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodeFrames, FrameType } from '../../../src/tunnel/protocol/control.ts'
import { type Datagram, endpoint, Pair, type Sealed } from './harness.ts'

const END = encodeFrames([{ type: 'session-end' }])

function isEnd(datagram: Datagram): datagram is Sealed {
  return (
    !(datagram instanceof Uint8Array) &&
    datagram.kind === 'control' &&
    datagram.body[0] === FrameType.sessionEnd
  )
}

/** Every SESSION_END from now on; they arrive if `arrive`. */
function captured(pair: Pair, arrive: boolean): Sealed[] {
  const ends: Sealed[] = []
  pair.world.filter = (datagram) => {
    if (!isEnd(datagram)) return true
    ends.push(datagram)
    return arrive
  }
  return ends
}

function established(pair: Pair): readonly [boolean, boolean] {
  const at = (node: Pair['host'], peer: number) => node.machine.peer(peer)!.established
  return [at(pair.host, pair.anchorPeer), at(pair.anchor, pair.hostPeer)]
}

test('issue 13: a host that ends says so over each path: its anchor has no session and no path to it, and sends nothing there', () => {
  const pair = new Pair().connect()
  const { world, host, anchor } = pair
  world.run(3_000)
  const ends = captured(pair, true)
  host.do((machine, now) => machine.end(now))
  host.stopped = true
  assert.deepEqual(
    ends.map(({ pathId }) => pathId),
    [1, 2],
  )
  const slot = pair.anchorSlot(1)
  world.run(15)
  assert.equal(anchor.machine.peer(pair.hostPeer)!.established, false)
  assert.deepEqual(anchor.machine.peer(pair.hostPeer)!.paths, [])
  assert.equal(anchor.all('ended').length, 1)
  assert.equal(anchor.sessions, 0)
  // What left in the last round trip did not arrive.
  const [[peer, ms] = []] = anchor.unread
  assert.equal(peer, pair.hostPeer)
  assert.ok(ms! >= 20 && ms! <= 100, `${ms}`)
  let sent = 0
  world.filter = () => sent++ >= 0
  assert.equal(anchor.sendData(slot, 1), false)
  world.run(60_000)
  assert.equal(sent, 0)
})

test('issue 13: an anchor that ends says so: its host has a session again as soon as the anchor is back', () => {
  const pair = new Pair().connect()
  const { world, host, anchor } = pair
  world.run(3_000)
  anchor.do((machine, now) => machine.end(now))
  anchor.stopped = true
  world.run(15)
  assert.equal(host.last('session')!.up, false)
  assert.equal(host.all('ended').length, 1)
  assert.equal(host.usable(pair.anchorPeer).length, 0)
  world.run(700)
  anchor.restart()
  pair.hostPeer = anchor.addPeer(host)
  const at = world.now
  world.runUntil(() => host.usable(pair.anchorPeer).length === 2, 5_000)
  assert.ok(world.now - at <= 1_200, `${world.now - at} ms`)
})

test('issue 13: SESSION_END ends the session that it comes in, and no other: not when it is forged, repeated, or late', () => {
  const pair = new Pair().connect()
  const { world, host, anchor } = pair
  world.run(3_000)
  const held = captured(pair, false)
  // Sealed by the host itself in a session that it then replaces.
  host.forge(pair.anchorPeer, 1, 'control', END, endpoint(1), endpoint(100))
  assert.equal(held.length, 1)
  host.do((machine, now) => machine.connect(pair.anchorPeer, now))
  world.run(1_000)
  const replay = (datagrams: readonly Sealed[]) => {
    for (const each of datagrams) {
      anchor.receive(each, endpoint(1), endpoint(100))
      anchor.receive({ ...each, key: 'another' }, endpoint(1), endpoint(100))
    }
    world.run(100)
  }
  replay(held)
  assert.deepEqual(established(pair), [true, true], 'of the session before')
  assert.equal(anchor.usable(pair.hostPeer).length, 2)

  // The host ends; that does not arrive, and it is back.
  host.do((machine, now) => machine.end(now))
  const late = held.splice(0)
  host.restart({ timestampFloor: world.wall })
  pair.anchorPeer = host.addPeer(anchor, { dialect: 'godwit' })
  pair.connect()
  assert.deepEqual(established(pair), [true, true])
  replay(late)
  assert.deepEqual(established(pair), [true, true], 'of the process before')
  assert.equal(anchor.usable(pair.hostPeer).length, 2)
  assert.equal(anchor.all('ended').length, 0)

  // Forged: nobody without the keys can seal one.
  host.forge(pair.anchorPeer, 1, 'control', END, endpoint(1), endpoint(100))
  for (const each of held) anchor.receive({ ...each, key: 'another' }, endpoint(1), endpoint(100))
  world.run(100)
  assert.deepEqual(established(pair), [true, true], 'forged')
})

test('issue 13: a message 1 that is repeated replaces no session, and a fresh one none that its sender still uses', () => {
  const pair = new Pair()
  const { world, host, anchor } = pair
  const initiations: Uint8Array[] = []
  world.filter = (datagram) => {
    if (datagram instanceof Uint8Array && datagram[0] === 1) initiations.push(datagram.slice())
    return true
  }
  pair.connect()
  world.run(10_000)
  host.do((machine, now) => machine.connect(pair.anchorPeer, now))
  world.run(6_000)
  assert.equal(host.all('session').length, 2)
  const sessions = anchor.all('session').length
  for (const each of initiations) anchor.receive(each, endpoint(66), endpoint(100))
  world.run(1_000)
  assert.equal(anchor.all('session').length, sessions)
  assert.equal(anchor.usable(pair.hostPeer).length, 2)
  assert.deepEqual(anchor.unread, [], 'the process is the same')
  assert.ok(anchor.sendData(pair.anchorSlot(1), 7))
  world.run(50)
  assert.equal(host.received.at(-1)!.sequence, 7)
})

test('issue 13: a host that was killed and is back: its first HELLO ends the session before, and what was sent there is unread', () => {
  const pair = new Pair().connect()
  const { world, host, anchor } = pair
  world.run(3_000)
  host.restart({ timestampFloor: world.wall })
  pair.anchorPeer = host.addPeer(anchor, { dialect: 'godwit' })
  pair.connect()
  assert.equal(anchor.last('hello')!.restarted, true)
  assert.deepEqual(anchor.unread, [[pair.hostPeer, 0]])
  assert.equal(anchor.sessions, 1)
})
