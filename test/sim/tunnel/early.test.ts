/** Paths of which the owner knows something already: they carry packets before their PATH_ACCEPT. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { equal } from '../../../src/core/bytes.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { EARLY_USE, PREKEY_LIFETIME, REKEY_ATTEMPT_TIME } from '../../../src/tunnel/protocol/constants.ts'
import { encodeFrames } from '../../../src/tunnel/protocol/control.ts'
import { endpoint, Pair } from './harness.ts'

const GODWIT = { dialect: 'godwit' } as const

function config(n: number, known?: 'proven' | 'likely' | 'hoped') {
  return {
    ...{ pathId: n + 1, socket: n, remote: endpoint(100), mtu: 1500 },
    ...(known !== undefined && { known }),
  }
}

test('NT-40: on a path that signalling has proven, data leave one round trip after message 1 and are answered at once', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { world, host, anchor } = pair
  host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
  world.run(5)
  anchor.do((machine, now) => machine.noteProven(pair.hostPeer, endpoint(1), 0, now))
  const slot = host.addPath(pair.anchorPeer, config(0, 'proven'))
  world.run(16)
  assert.deepEqual(host.states(1), ['validating', 'up'])
  assert.ok(host.sendData(slot, 7))
  world.run(10)
  assert.deepEqual(
    anchor.received.map(({ sequence }) => sequence),
    [7],
  )
  const [back] = anchor.usable(pair.hostPeer)
  assert.ok(back !== undefined && anchor.sendData(back, 8))
  world.run(10)
  assert.equal(host.received.length, 1)
  world.run(2_000)
  assert.equal(host.all('session').length, 1)
  assert.deepEqual(host.usable(pair.anchorPeer), [slot])
})

test('an address that nobody has noted proves itself first, also after one that was', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { world, host, anchor } = pair
  anchor.do((machine, now) => machine.noteProven(pair.hostPeer, endpoint(2), 0, now))
  host.addPath(pair.anchorPeer, config(0, 'proven'))
  world.run(21)
  // HELLO and announcement arrive: no path before the token has come back.
  world.run(10)
  assert.deepEqual(anchor.usable(pair.hostPeer), [])
  world.run(20)
  assert.equal(anchor.usable(pair.hostPeer).length, 1)
  // What was noted is worth nothing after its time where another path works.
  world.run(10_000)
  host.addPath(pair.anchorPeer, config(1, 'proven'))
  world.run(11)
  assert.equal(anchor.usable(pair.hostPeer).length, 1)
  world.run(20)
  assert.equal(anchor.usable(pair.hostPeer).length, 2)
})

test('a proven path without a HELLO is not used for long', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { world, host, links } = pair
  host.addPath(pair.anchorPeer, config(0, 'proven'))
  world.run(20)
  links[0].cut()
  world.run(EARLY_USE - 100)
  assert.equal(host.usable(pair.anchorPeer).length, 1)
  world.run(200)
  assert.equal(host.usable(pair.anchorPeer).length, 0)
  links[0].mend()
  world.run(6_000)
  assert.equal(host.usable(pair.anchorPeer).length, 1)
})

test('NT-43: where the peer was lately, packets go at once while nothing else works, and again over what works then', () => {
  const pair = new Pair({ anchorConfig: GODWIT }).connect([0])
  const { world, host, anchor, links } = pair
  host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
  const likely = host.addPath(pair.anchorPeer, config(1, 'likely'))
  assert.equal(host.states(2).at(-1), 'suspect')
  assert.ok(host.sendData(likely, 1))
  world.run(11)
  assert.deepEqual(
    anchor.received.map(({ sequence }) => sequence),
    [1],
  )
  world.run(100)
  assert.equal(host.states(2).at(-1), 'up')
  // It is gone as well; the next hope is in vain, and what went there arrives over the first path that is accepted.
  host.do((machine, now) => machine.removePath(likely, now))
  links[1].cut()
  const vain = host.addPath(pair.anchorPeer, { ...config(1, 'likely'), pathId: 3 })
  for (let sequence = 2; sequence < 7; sequence++) assert.ok(host.sendData(vain, sequence))
  host.addPath(pair.anchorPeer, { ...config(0), pathId: 4 })
  world.run(200)
  assert.deepEqual(
    anchor.received.map(({ sequence }) => sequence),
    [1, 2, 3, 4, 5, 6],
  )
})

test('a path that is only likely waits for PATH_ACCEPT where another one works', () => {
  const pair = new Pair({ anchorConfig: GODWIT }).connect([0])
  pair.host.addPath(pair.anchorPeer, config(1, 'likely'))
  assert.equal(pair.host.states(2).at(-1), 'validating')
  pair.world.run(100)
  assert.equal(pair.host.states(2).at(-1), 'up')
})

test('a path that is announced again when its owner removes it is not kept at the other end', () => {
  const pair = new Pair({ anchorConfig: GODWIT }).connect()
  const { world, host, anchor, links } = pair
  links[0].downlink.down = true
  world.every(10, world.now + 2_000, () => host.sendData(pair.slots[0]!, 1))
  world.runUntil(() => host.states(1).at(-1) === 'down', 2_000)
  // The announcement arrives, its answer does not.
  world.runUntil(() => anchor.states(1).slice(-2).join() === 'closing,up', 2_000)
  host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
  world.run(50)
  assert.equal(anchor.usable(pair.hostPeer).length, 1)
})

test('NT-44: that paths have ended is said over every other one: which of them works is not known', () => {
  const pair = new Pair({ anchorConfig: GODWIT }).connect()
  const { world, host, anchor, links } = pair
  const third = host.addPath(pair.anchorPeer, { ...config(1), pathId: 3, remote: endpoint(100) })
  world.run(500)
  assert.equal(host.usable(pair.anchorPeer).length, 3)
  links[0].cut()
  host.do((machine, now) => machine.removePath(third, now))
  world.run(15)
  assert.ok(anchor.states(3).at(-1) === 'closing', anchor.states(3).join())
})

test('NT-46: both ends have opened a path between the same two sockets: what arrives counts for the one that it names', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { world, host, anchor } = pair
  // Before there is a session; the host begins it.
  const ofAnchor = anchor.addPath(pair.hostPeer, {
    ...{ pathId: 128, socket: 0, remote: endpoint(1), mtu: 1500, known: 'proven' },
  })
  const ofHost = host.addPath(pair.anchorPeer, config(0, 'proven'))
  world.run(500)
  assert.equal(host.states(128).at(-1), 'up', 'the path that the responder had opened is announced too')
  assert.equal(anchor.states(128).at(-1), 'up')
  for (const [node, slot, pathId] of [
    [host, ofHost, 1],
    [anchor, ofAnchor, 128],
  ] as const) {
    world.every(5, world.now + 2_000, () => node.sendData(slot, 1))
    world.run(2_000)
    assert.ok(!node.states(pathId).includes('down'), node.states(pathId).join())
  }
})

test('a hoped path without a session is forgotten after a second, with one or where the peer has answered it is not', () => {
  for (const course of ['nothing', 'session', 'noted'] as const) {
    const pair = new Pair({ anchorConfig: GODWIT })
    const { world, host, links } = pair
    const closed = () => host.all('path-closed').length
    if (course !== 'session') links[0].cut()
    host.addPath(pair.anchorPeer, config(0, 'hoped'))
    world.run(EARLY_USE - 100)
    assert.equal(closed(), 0)
    if (course === 'noted')
      host.do((machine, now) => machine.noteProven(pair.anchorPeer, endpoint(100), 0, now))
    world.run(200)
    assert.equal(closed(), course === 'nothing' ? 1 : 0, course)
    assert.equal(host.usable(pair.anchorPeer).length, course === 'session' ? 1 : 0, course)
    // Whoever asks again begins anew.
    links[0].mend()
    if (course === 'nothing') host.addPath(pair.anchorPeer, config(0, 'hoped'))
    world.run(2_000)
    assert.equal(host.usable(pair.anchorPeer).length, 1, course)
  }
})

test('a hoped path whose session comes late has its second from then on', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { world, host, links } = pair
  links[0].cut()
  host.addPath(pair.anchorPeer, config(0, 'hoped'))
  world.run(EARLY_USE - 50)
  links[0].mend()
  host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
  world.run(25)
  links[0].cut()
  world.run(EARLY_USE - 100)
  assert.equal(host.usable(pair.anchorPeer).length, 1)
  world.run(200)
  assert.equal(host.all('path-closed').length, 1)
})

/** The host seals what goes behind its next message 1 under a key of the anchor's. */
function giveKey({ host, anchor, anchorPeer, hostPeer }: Pair): void {
  const prekey = anchor.machine.newPrekey()
  anchor.do((machine, now) => machine.expectEarly(hostPeer, prekey.index, now))
  host.do((machine) => machine.useEarly(anchorPeer, prekey))
}

/** Message 1 goes to a relay that has the address of the process before; what is behind it may leave by a proven path. */
function throughLostRelay(): { readonly pair: Pair; readonly slot: number } {
  const pair = new Pair({ anchorConfig: GODWIT })
  giveKey(pair)
  pair.world.filter = (_datagram, _from, to) => to.address.at(-1) !== 100
  pair.host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
  return { pair, slot: pair.host.addPath(pair.anchorPeer, config(0, 'proven')) }
}

test('the session behind message 1 ends with the attempts that it belongs to', () => {
  // Message 1 to an address alone is not repeated.
  const once = new Pair({ anchorConfig: GODWIT })
  once.links[0].cut()
  giveKey(once)
  once.host.do((machine, now) => machine.introduce(once.anchorPeer, endpoint(100), 0, now))
  assert.equal(once.host.sessions, 1)
  once.world.run(3_000)
  assert.equal(once.host.sessions, 0)

  // Who may be a stock peer is not tried for ever. Every other attempt has a key: in one of the courses the last one.
  const had = [1_000, 6_500].map((first) => {
    const pair = new Pair({ config: { dialect: 'auto' }, anchorConfig: GODWIT })
    const { world, host } = pair
    pair.links[0].cut()
    host.addPath(pair.anchorPeer, config(0))
    host.do((machine, now) => machine.connect(pair.anchorPeer, now))
    world.run(first)
    world.every(1_000, world.now + REKEY_ATTEMPT_TIME - first - 1_000, () => giveKey(pair))
    world.run(REKEY_ATTEMPT_TIME - first - 500)
    const { sessions } = host
    world.run(7_000)
    assert.equal(host.all('handshake-failed').length, 1)
    assert.equal(host.sessions, 0)
    return sessions
  })
  assert.deepEqual(had.sort(), [0, 1])
})

test('NT-46: traffic that begins on a proven path does not end it before its second, and what was lost on it is sent again, also later', () => {
  for (const ms of [20, EARLY_USE + 200]) {
    const { pair, slot } = throughLostRelay()
    const { world, host, anchor } = pair
    world.run(5)
    assert.ok(host.sendData(slot, 7))
    world.run(ms)
    assert.equal(host.usable(pair.anchorPeer).length, ms < EARLY_USE ? 1 : 0, `${ms}`)
    world.filter = () => true
    anchor.do((machine, now) => machine.introduce(pair.hostPeer, endpoint(1), 0, now))
    world.run(500)
    assert.deepEqual(
      anchor.received.map(({ sequence }) => sequence),
      [7],
      `${ms}`,
    )
  }
})

test('NT-46: a key for what comes behind message 1 is not used up by a message 1 of the process before', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { world, host, anchor } = pair
  host.addPath(pair.anchorPeer, config(0))
  world.run(1_000)
  assert.equal(host.usable(pair.anchorPeer).length, 1)
  host.restart({ timestampFloor: world.wall })
  pair.anchorPeer = host.addPeer(anchor, GODWIT)
  giveKey(pair)
  world.filter = (_datagram, from) => from.address.at(-1) !== 100
  host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
  const slot = host.addPath(pair.anchorPeer, config(0, 'proven'))
  assert.ok(host.sendData(slot, 7))
  world.run(15)
  assert.deepEqual(
    anchor.received.map(({ sequence }) => sequence),
    [7],
  )
  world.filter = () => true
  world.run(PREKEY_LIFETIME)
  // Nothing of the key is left.
  assert.equal(anchor.sessions, 1)
})

test('NT-46: who says HELLO behind message 1 as another process than before is greeted: packets may go there at once', () => {
  const pair = new Pair({ anchorConfig: { ...GODWIT, reportsGreetings: true } })
  const { world, host, anchor } = pair
  host.addPath(pair.anchorPeer, config(0))
  world.run(1_000)
  host.restart({ timestampFloor: world.wall })
  pair.anchorPeer = host.addPeer(anchor, GODWIT)
  giveKey(pair)
  const greeted = anchor.all('greeted').length
  world.filter = (_datagram, from) => from.address.at(-1) !== 100
  host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
  world.run(11)
  // Message 1 alone may be of the process that the session is of.
  assert.equal(anchor.all('greeted').length, greeted)
  host.addPath(pair.anchorPeer, config(0, 'proven'))
  world.run(11)
  assert.equal(anchor.all('greeted').length, greeted + 1)
  assert.deepEqual(anchor.all('greeted').at(-1)!.remote, endpoint(1))
})

test('NT-46: a key whose direction comes after message 1 opens what is behind it all the same, and for ten seconds alone', () => {
  for (const late of [12, PREKEY_LIFETIME + 12]) {
    const pair = new Pair({ anchorConfig: GODWIT })
    const { world, host, anchor } = pair
    const prekey = anchor.machine.newPrekey()
    host.do((machine) => machine.useEarly(pair.anchorPeer, prekey))
    // Nothing comes back: there is no other session.
    world.filter = (_datagram, from) => from.address.at(-1) !== 100
    host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
    const slot = host.addPath(pair.anchorPeer, config(0, 'proven'))
    world.run(late)
    anchor.do((machine, now) => machine.expectEarly(pair.hostPeer, prekey.index, now))
    // Of the key, and of message 2.
    assert.equal(anchor.sessions, late < PREKEY_LIFETIME ? 2 : 1, `${late}`)
    if (late > PREKEY_LIFETIME) continue
    assert.ok(host.sendData(slot, 7))
    world.run(11)
    assert.deepEqual(
      anchor.received.map(({ sequence }) => sequence),
      [7],
    )
  }
})

test('NT-46: what left behind a message 1 that was lost goes again with it as soon as the peer’s own message 1 comes', () => {
  const { pair, slot } = throughLostRelay()
  const { world, host, anchor } = pair
  assert.ok(host.sendData(slot, 7))
  world.run(20)
  world.filter = () => true
  anchor.do((machine, now) => machine.introduce(pair.hostPeer, endpoint(1), 0, now))
  // There and back: no third way, by which a path is accepted.
  world.run(21)
  assert.deepEqual(
    anchor.received.map(({ sequence }) => sequence),
    [7],
  )
})

test('NT-40: who has the responder’s private key and the pre-shared key, but not the initiator’s, makes no data behind message 1', () => {
  const { sharedSecret } = nodeCrypto
  for (const isOther of [false, true]) {
    const pair = new Pair({ anchorConfig: GODWIT })
    const { world, host, anchor } = pair
    giveKey(pair)
    // Message 1 takes the secret of both static keys, which the responder's own key gives, too.
    if (isOther)
      nodeCrypto.sharedSecret = (privateKey, publicKey) =>
        sharedSecret(equal(privateKey, host.privateKey) ? new Uint8Array(32).fill(9) : privateKey, publicKey)
    try {
      world.filter = (_datagram, from) => from.address.at(-1) !== 100
      const slot = host.addPath(pair.anchorPeer, config(0, 'proven'))
      world.run(5)
      host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
      anchor.do((machine, now) => machine.noteProven(pair.hostPeer, endpoint(1), 0, now))
      world.run(16)
      // Message 1 was taken in both cases.
      assert.ok(anchor.sessions >= 2)
      host.sendData(slot, 7)
      world.run(10)
      assert.equal(anchor.received.length, isOther ? 0 : 1)
    } finally {
      nodeCrypto.sharedSecret = sharedSecret
    }
  }
})

test('the session that is open behind message 1 is not prolonged by further keys', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { world, host, anchor } = pair
  giveKey(pair)
  host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
  world.filter = (_datagram, from) => from.address.at(-1) !== 100
  world.run(20)
  // Its own, and that of message 2.
  assert.equal(anchor.sessions, 2)
  world.run(PREKEY_LIFETIME - 1_000)
  giveKey(pair)
  assert.equal(anchor.sessions, 2)
  world.run(1_000)
  assert.equal(anchor.sessions, 1)
})

test('both ends begin at once: they agree on a session, and a handover sends again what may be lost, not all of three seconds', () => {
  // Either may have the lower key.
  for (const seed of [1, 2, 3, 4]) {
    const pair = new Pair({ seed, anchorConfig: GODWIT })
    const { world, host, anchor, links } = pair
    const first = host.addPath(pair.anchorPeer, config(0))
    anchor.do((machine, now) => machine.introduce(pair.hostPeer, endpoint(1), 0, now))
    world.run(1_000)
    for (const [n, node] of [host, anchor].entries())
      assert.equal(node.all('session').length, 1, `${seed} ${n}`)
    const second = host.addPath(pair.anchorPeer, config(1))
    world.run(500)
    let sequence = 0
    world.every(5, world.now + 5_000, () => {
      sequence++
      host.sendData(host.usable(pair.anchorPeer)[0]!, sequence)
      anchor.sendData(anchor.usable(pair.hostPeer)[0]!, sequence)
    })
    world.run(4_000)
    const before = world.now
    links[0].cut()
    host.do((machine, now) => machine.removePath(first, now))
    world.run(2_000)
    assert.deepEqual(host.usable(pair.anchorPeer), [second])
    for (const node of [host, anchor]) {
      // Of 800 in three seconds each way.
      assert.ok(node.resent > 0 && node.resent < 100, `${seed} ${node.name}: ${node.resent} sent again`)
      const missing = sequence - new Set(node.received.map((each) => each.sequence)).size
      assert.equal(missing, 0, `${seed} ${node.name}: lost, from ${before}`)
    }
    // One end renews it in time, and both go on.
    world.run(130_000)
    assert.ok(host.usable(pair.anchorPeer).length === 1)
  }
})

test('what goes behind message 1 goes with it to each place, once', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { host, world } = pair
  giveKey(pair)
  const left: number[] = []
  world.filter = (datagram, from) => {
    if (datagram instanceof Uint8Array && datagram[0] === 1) left.push(from.address[3]!)
    return true
  }
  host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
  host.addPath(pair.anchorPeer, config(0, 'proven'))
  assert.deepEqual(left, [1])
  host.addPath(pair.anchorPeer, config(1, 'proven'))
  assert.deepEqual(left, [1, 2])
})

test('of keys for what comes behind message 1 a peer has two at a time: an older one opens nothing', () => {
  for (const which of [0, 1, 2]) {
    const pair = new Pair({ anchorConfig: GODWIT })
    const { world, host, anchor } = pair
    const keys = [0, 1, 2].map(() => {
      const prekey = anchor.machine.newPrekey()
      anchor.do((machine, now) => machine.expectEarly(pair.hostPeer, prekey.index, now))
      return prekey
    })
    host.do((machine) => machine.useEarly(pair.anchorPeer, keys[which]!))
    host.do((machine, now) => machine.introduce(pair.anchorPeer, endpoint(100), 0, now))
    assert.ok(host.sendData(host.addPath(pair.anchorPeer, config(0, 'proven')), 1))
    world.run(15)
    assert.equal(anchor.received.length, which === 0 ? 0 : 1)
  }
})

test('NT-40: what signalling proves after an hour counts as at the beginning, and for as long', () => {
  for (const [before, paths] of [
    [0, 1],
    [39_000, 1],
    [41_000, 0],
  ] as const) {
    const pair = new Pair({ anchorConfig: GODWIT })
    const { world, host, anchor } = pair
    world.run(3_600_000)
    anchor.do((machine, now) => machine.noteProven(pair.hostPeer, endpoint(1), 0, now))
    world.run(before)
    host.addPath(pair.anchorPeer, config(0, 'proven'))
    world.run(31)
    assert.equal(anchor.usable(pair.hostPeer).length, paths, `${before} ms later`)
  }
})

test('UP-9: an MTU probe that is answered on another path, or by who has none, says nothing of this one', () => {
  const pair = new Pair({ anchorConfig: GODWIT }).connect()
  const { world, host, anchor } = pair
  world.run(2_000)
  const [first] = pair.slots
  const mtu = () => host.machine.path(first!)!.mtu
  host.do((machine, now) => machine.setInterfaceMtu(first!, 1_400, now))
  world.filter = (datagram) => datagram instanceof Uint8Array || datagram.kind !== 'control'
  host.do((machine, now) => machine.setInterfaceMtu(first!, 9_000, now))
  world.run(10)
  const before = mtu()
  const says = (pathId: number, about: number) => {
    world.filter = () => true
    const body = encodeFrames([{ type: 'mtu-ack', pathId: about, size: 1_490 }])
    anchor.forge(pair.hostPeer, pathId, 'control', body, endpoint(100), endpoint(1))
    world.filter = (datagram) => datagram instanceof Uint8Array || datagram.kind !== 'control'
    world.run(2)
  }
  says(1, 2)
  assert.equal(mtu(), before)
  says(99, 99)
  assert.equal(host.all('peer-failed').length, 0)
  says(1, 1)
  assert.equal(mtu(), 1_490)
})

test('NT-46: message 2 of a session that the peer has not used yet goes to each place where its owner knows it to be, once', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { world, host, anchor, anchorPeer, hostPeer } = pair
  const prekey = anchor.machine.newPrekey()
  anchor.do((machine, now) => machine.expectEarly(hostPeer, prekey.index, now))
  host.do((machine) => machine.useEarly(anchorPeer, prekey))
  host.do((machine, now) => machine.introduce(anchorPeer, endpoint(100), 0, now))
  world.run(11)
  const answers: number[] = []
  world.filter = (datagram, _from, to) => {
    if (datagram instanceof Uint8Array && datagram[0] === 2) answers.push(to.address.at(-1)!)
    return true
  }
  const opens = (pathId: number, last: number, known?: 'proven') =>
    anchor.addPath(hostPeer, {
      ...{ pathId, socket: 0, remote: endpoint(last), mtu: 1500 },
      ...(known !== undefined && { known }),
    })
  opens(20, 2, 'proven')
  assert.deepEqual(answers, [2])
  opens(21, 1, 'proven')
  assert.deepEqual(answers, [2], 'where it has been answered already')
  opens(22, 2)
  assert.deepEqual(answers, [2], 'nor where nobody knows whether the peer is there')
})
