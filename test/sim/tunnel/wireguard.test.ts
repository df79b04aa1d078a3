/** The WireGuard protocol's own rules, between two machines that speak nothing else (paper: §5, §6). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PeerConfig } from '../../../src/tunnel/protocol/machine.ts'
import { INITIATION, MessageType, RESPONSE } from '../../../src/tunnel/protocol/wire.ts'
import { endpoint, Link, Node, World } from './harness.ts'

class Stock {
  readonly world: World
  readonly link = new Link()
  readonly left: Node
  readonly right: Node
  readonly toRight: number
  readonly toLeft: number
  slot = -1
  /** Message types as they were sent, with their time; `l` or `r` for who sent. */
  readonly log: { who: 'l' | 'r'; type: number | string; at: number; bytes?: Uint8Array }[] = []

  constructor(left: Partial<PeerConfig> = {}, right: Partial<PeerConfig> = {}, loadThreshold = 100) {
    this.world = new World(5)
    this.left = new Node(this.world, 'left', [{ endpoint: endpoint(1), link: this.link }])
    this.right = new Node(this.world, 'right', [{ endpoint: endpoint(2) }], { loadThreshold })
    this.toRight = this.left.addPeer(this.right, { dialect: 'stock', ...left })
    this.toLeft = this.right.addPeer(this.left, { dialect: 'stock', ...right })
    this.world.filter = (datagram, from) => {
      const who = from.address[3] === 1 ? 'l' : 'r'
      if (datagram instanceof Uint8Array)
        this.log.push({ who, type: datagram[0]!, at: this.world.now, bytes: datagram.slice() })
      else this.log.push({ who, type: datagram.kind, at: this.world.now })
      return true
    }
  }

  open(): this {
    this.slot = this.left.addPath(this.toRight, { pathId: 1, socket: 0, remote: endpoint(2), mtu: 1500 })
    return this
  }

  /** A first packet, and what it takes to get it across. */
  established(): this {
    this.open()
    this.left.sendData(this.slot, 0)
    this.world.run(100)
    this.left.sendData(this.slot, 1)
    this.world.run(100)
    assert.equal(this.right.received.length, 1)
    return this
  }

  sent(who: 'l' | 'r', type: number | string, since = 0): number[] {
    return this.log
      .filter((each) => each.who === who && each.type === type && each.at >= since)
      .map((each) => each.at)
  }
}

test('nothing is said before there is data; then one handshake, and the responder waits for its confirmation', () => {
  const pair = new Stock().open()
  pair.world.run(10_000)
  assert.equal(pair.log.length, 0)
  pair.left.sendData(pair.slot, 1)
  pair.world.run(15)
  assert.deepEqual(pair.sent('r', MessageType.response).length, 1)
  assert.equal(pair.right.all('session').length, 0, 'not before the initiator has shown its keys')
  pair.world.run(20)
  assert.equal(pair.sent('l', 'keepalive').length, 1)
  assert.equal(pair.right.all('session').length, 1)
})

test('§6.4: an unanswered initiation is repeated every 5 s with jitter, for 90 s, then given up until there is data', () => {
  const pair = new Stock().open()
  pair.link.cut()
  const start = pair.world.now
  pair.left.sendData(pair.slot, 1)
  pair.world.run(300_000)
  const times = pair.sent('l', MessageType.initiation)
  assert.ok(times.length >= 17 && times.length <= 19, `${times.length}`)
  for (let i = 1; i < times.length; i++) {
    const pause = times[i]! - times[i - 1]!
    assert.ok(pause >= 5000 && pause <= 5334, `${pause}`)
  }
  assert.ok(times.at(-1)! - start <= 95_000)
  assert.deepEqual(pair.left.last('handshake-failed')!.reason, 'timeout')
  const stamps = pair.log.map((each) =>
    Buffer.from(each.bytes!.slice(INITIATION.ephemeral, INITIATION.static)).toString('hex'),
  )
  assert.equal(new Set(stamps).size, times.length, 'each with a fresh ephemeral key')
  pair.link.mend()
  pair.left.sendData(pair.slot, 2)
  pair.world.run(100)
  assert.equal(pair.left.all('session').length, 1)
})

test('§6.2: the initiator starts a rekey on sending after 120 s, the responder does not', () => {
  const pair = new Stock().established()
  const begin = pair.world.now
  pair.world.every(1000, begin + 115_000, () => {
    pair.left.sendData(pair.slot, 2)
    pair.right.sendData(0, 2)
  })
  pair.world.run(116_000)
  assert.equal(pair.sent('l', MessageType.initiation, begin).length, 0)
  pair.world.run(6000)
  pair.right.sendData(0, 3)
  pair.world.run(10)
  assert.equal(pair.sent('r', MessageType.initiation).length, 0)
  pair.left.sendData(pair.slot, 4)
  pair.world.run(100)
  assert.equal(pair.sent('l', MessageType.initiation, begin).length, 1)
  assert.equal(pair.left.all('session').length, 2)
})

test('§6.2: an initiator that only receives starts a rekey after 165 s', () => {
  const pair = new Stock().established()
  const begin = pair.world.now
  pair.world.every(1000, begin + 175_000, () => pair.right.sendData(0, 2))
  pair.world.run(110_000)
  assert.equal(pair.sent('l', MessageType.initiation, begin).length, 0)
  pair.world.run(60_000)
  assert.ok(pair.left.all('session').length >= 2)
})

test('§6.3: after 180 s without a rekey the session is gone at both ends', () => {
  const pair = new Stock().established()
  pair.world.run(181_000)
  assert.equal(pair.left.last('session')!.up, false)
  assert.equal(pair.right.last('session')!.up, false)
  assert.equal(pair.left.sendData(pair.slot, 9), false)
  pair.world.run(100)
  assert.equal(pair.left.last('session')!.up, true)
})

test('§6.5: who received data and has nothing to say says so after 10 s; who hears nothing after sending starts anew after 15 s', () => {
  const pair = new Stock().established()
  pair.world.run(30_000)
  const at = pair.world.now
  pair.left.sendData(pair.slot, 5)
  pair.world.run(30_000)
  const keepalives = pair.sent('r', 'keepalive', at)
  assert.equal(keepalives.length, 1)
  assert.ok(Math.abs(keepalives[0]! - at - 10_000) < 250, `${keepalives[0]! - at}`)
  assert.equal(pair.sent('l', MessageType.initiation, at).length, 0)
  const cut = pair.world.now
  pair.link.cut()
  pair.left.sendData(pair.slot, 6)
  pair.world.run(16_000)
  const initiations = pair.sent('l', MessageType.initiation, cut)
  assert.equal(initiations.length, 1)
  assert.ok(Math.abs(initiations[0]! - cut - 15_000) < 50)
})

test('persistent keepalive: sent when nothing else was, brings the session up by itself', () => {
  const pair = new Stock({ persistentKeepalive: 25 }).open()
  pair.world.run(100_000)
  assert.equal(pair.left.all('session').length, 1)
  const times = pair.sent('l', 'keepalive')
  assert.ok(times.length >= 4 && times.length <= 6, `${times.length}`)
})

test('both ends start at once: both sessions are whole, data passes in both directions', () => {
  const pair = new Stock().open()
  pair.right.addPath(pair.toLeft, { pathId: 1, socket: 0, remote: endpoint(1), mtu: 1500 })
  pair.left.do((machine, now) => machine.connect(pair.toRight, now))
  pair.right.do((machine, now) => machine.connect(pair.toLeft, now))
  pair.world.run(200)
  assert.ok(pair.left.sendData(pair.slot, 1))
  assert.ok(pair.right.sendData(0, 2))
  pair.world.run(100)
  assert.equal(pair.right.received.length, 1)
  assert.equal(pair.left.received.length, 1)
})

test('a replayed initiation is refused, a copy of the current one gets the same response, a corrupted one nothing', () => {
  const pair = new Stock().established()
  const first = pair.log.find((each) => each.type === MessageType.initiation)!.bytes!
  pair.right.receive(first, endpoint(9), endpoint(2))
  const responses = pair.log.filter((each) => each.type === MessageType.response)
  assert.equal(responses.length, 2)
  assert.deepEqual(responses[0]!.bytes, responses[1]!.bytes)
  pair.world.run(10_000)
  pair.right.receive(first, endpoint(9), endpoint(2))
  assert.equal(pair.right.last('handshake-failed')!.reason, 'replay')
  for (const at of [INITIATION.sender, INITIATION.static, INITIATION.timestamp, INITIATION.mac1]) {
    const bad = first.slice()
    bad[at] = bad[at]! ^ 1
    pair.right.receive(bad, endpoint(9), endpoint(2))
    assert.equal(pair.right.last('handshake-failed')!.reason, 'not-for-us')
  }
  for (let length = 0; length < first.length; length++)
    pair.right.receive(first.slice(0, length), endpoint(9), endpoint(2))
  assert.equal(pair.sent('r', MessageType.response).length, 2)
})

test('an unknown peer and a wrong pre-shared key are refused by name', () => {
  const pair = new Stock({ presharedKey: new Uint8Array(32).fill(1) }).open()
  pair.left.sendData(pair.slot, 1)
  pair.world.run(100)
  assert.equal(pair.left.last('handshake-failed')!.reason, 'authentication')
  pair.right.do((machine, now) => machine.removePeer(pair.toLeft, now))
  pair.world.run(6000)
  assert.equal(pair.right.last('handshake-failed')!.reason, 'unknown-peer')
})

test('the wall clock jumps back a year: timestamps still rise, handshakes go on', () => {
  const pair = new Stock().established()
  pair.world.wall -= 365 * 86_400_000
  for (let n = 0; n < 3; n++) {
    pair.world.run(6000)
    pair.left.do((machine, now) => machine.connect(pair.toRight, now))
    pair.world.run(100)
  }
  assert.equal(pair.left.all('session').length, 4)
})

test('§5.3 under load: a cookie is demanded, then a handshake with mac2 passes; a flood costs no handshakes', () => {
  const pair = new Stock({}, {}, 0).open()
  pair.left.sendData(pair.slot, 1)
  pair.world.run(100)
  assert.equal(pair.sent('r', MessageType.cookieReply).length, 1)
  assert.equal(pair.sent('r', MessageType.response).length, 0)
  pair.world.run(6000)
  const second = pair.log.filter((each) => each.type === MessageType.initiation)[1]!.bytes!
  assert.notDeepEqual(second.slice(INITIATION.mac2), new Uint8Array(16))
  assert.equal(pair.left.all('session').length, 1)
  // The same from elsewhere: the cookie is not for that address.
  const before = pair.sent('r', MessageType.response).length
  pair.world.run(6000)
  pair.left.do((machine, now) => machine.connect(pair.toRight, now))
  const third = pair.log.filter((each) => each.type === MessageType.initiation)[2]!.bytes!
  for (let n = 3; n < 200; n++) pair.right.receive(third, endpoint(n), endpoint(2))
  assert.equal(pair.sent('r', MessageType.response).length, before)
})

test('a peer removed while sessions live, and added again, starts from nothing; its index is used again', () => {
  const pair = new Stock().established()
  pair.right.do((machine, now) => machine.removePeer(pair.toLeft, now))
  assert.equal(pair.right.machine.findPeer(pair.left.publicKey), undefined)
  assert.equal(pair.right.last('path-closed')!.peer, pair.toLeft)
  assert.equal(pair.right.addPeer(pair.left, { dialect: 'stock' }), pair.toLeft)
  assert.throws(() => pair.right.addPeer(pair.left), { code: 'PEER_EXISTS' })
  assert.throws(() => pair.right.addPeer(pair.right), { code: 'PEER_KEY' })
  pair.world.run(200)
  pair.left.do((machine, now) => machine.connect(pair.toRight, now))
  pair.world.run(6000)
  assert.ok(pair.left.sendData(pair.slot, 5))
  pair.world.run(100)
  assert.equal(pair.right.received.at(-1)!.sequence, 5)
})

test('responses from an attacker do not disturb a handshake under way', () => {
  const pair = new Stock().open()
  pair.left.sendData(pair.slot, 1)
  const initiation = pair.log[0]!.bytes!
  const fake = new Uint8Array(RESPONSE.length)
  fake[0] = MessageType.response
  fake.set(initiation.slice(INITIATION.sender, INITIATION.sender + 4), RESPONSE.receiver)
  pair.left.receive(fake, endpoint(66), endpoint(1))
  pair.world.run(100)
  assert.equal(pair.left.all('session').length, 1)
})

for (const dialect of ['stock', 'auto'] as const)
  test(`UP-3: what a stock server still sends to an access that was left does not lead back there (${dialect})`, () => {
    const world = new World(7)
    const links = [new Link({ delay: 20 }), new Link({ delay: 20 })] as const
    const left = new Node(world, 'left', [
      { endpoint: endpoint(1), link: links[0] },
      { endpoint: endpoint(11), link: links[1] },
    ])
    const right = new Node(world, 'right', [{ endpoint: endpoint(2) }])
    const toRight = left.addPeer(right, { dialect })
    right.addPeer(left, { dialect: 'stock' })
    const path = (pathId: number, socket: number) =>
      left.addPath(toRight, { pathId, socket, remote: endpoint(2), mtu: 1500 })
    const open = (node: Node) => node.slots.filter(({ closed }) => !closed)
    let slot = path(1, 0)
    left.sendData(slot, 0)
    world.run(200)
    let sequence = 1
    world.every(5, world.now + 20_000, () => {
      left.sendData(slot, sequence++)
      const back = right.slots.findIndex(({ closed }) => !closed)
      if (back >= 0) right.sendData(back, sequence)
    })
    world.run(500)
    assert.deepEqual(open(right)[0]!.remote, endpoint(1))
    left.do((machine, now) => machine.removePath(slot, now))
    slot = path(2, 1)
    world.run(10_000)
    assert.deepEqual(
      open(left).map(({ socket }) => socket),
      [1],
    )
    assert.deepEqual(
      open(right).map(({ remote }) => remote),
      [endpoint(11)],
    )
  })
