/** What the owner asks of the machine, and what comes rarely: errors of the kernel, other keys, closes of the other end. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EMSGSIZE, ENETUNREACH, ENOBUFS } from '../../../src/core/errno.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { REKEY_AFTER_MESSAGES } from '../../../src/tunnel/protocol/constants.ts'
import { controlCodec, encodeFrames, type Frame } from '../../../src/tunnel/protocol/control.ts'
import { addMacs } from '../../../src/tunnel/protocol/cookies.ts'
import { INITIATION, MessageType, RESPONSE } from '../../../src/tunnel/protocol/wire.ts'
import { type Datagram, endpoint, Pair } from './harness.ts'

const ANCHOR = endpoint(100)

const framesOf = (datagram: Datagram): readonly Frame[] => {
  const frames = datagram instanceof Uint8Array ? undefined : controlCodec.decode(datagram.body)
  return frames?.ok === true ? frames.value : []
}

/** Types of the frames that pass from now on. */
function watched(pair: Pair): Frame['type'][] {
  const types: Frame['type'][] = []
  pair.world.filter = (datagram) => {
    types.push(...framesOf(datagram).map(({ type }) => type))
    return true
  }
  return types
}

test('whoever wants to know where the peer sees a path asks on it, when it is up, and hears it once each time', () => {
  const pair = new Pair()
  const slot = pair.open(0)
  const look = () => pair.host.do((machine, now) => machine.look(slot, now))
  const seen = watched(pair)
  look()
  assert.deepEqual(seen, [], 'it is not up yet')
  pair.world.run(2_000)
  const before = pair.host.all('observed').length
  look()
  pair.world.run(1_100)
  const observed = pair.host.all('observed').slice(before)
  assert.deepEqual(
    observed.map(({ address }) => [...address.address, address.port]),
    [[10, 0, 0, 1, 51820]],
  )
  assert.deepEqual(pair.host.usable(pair.anchorPeer), [slot])
  assert.equal(pair.host.all('path-closed').length, 0)
  pair.anchor.do((machine, now) => machine.look(pair.anchorSlot(1), now))
  pair.world.run(100)
  assert.equal(pair.anchor.all('observed').length, 0, 'only who opened it is told')
})

test('UP-3: a path whose way out is gone is left at once, and its packets go over another; a full buffer is no such thing', () => {
  const pair = new Pair().connect()
  pair.world.run(2_000)
  const [slot] = pair.slots
  for (const [errno, left] of [
    [ENOBUFS, false],
    [ENETUNREACH, true],
  ] as const) {
    pair.host.sendData(slot!, errno)
    pair.links[0].cut()
    pair.host.sendData(slot!, errno + 1000)
    pair.host.do((machine, now) => machine.pathError(slot!, errno, now))
    pair.world.run(50)
    pair.links[0].mend()
    assert.equal(pair.host.states(1).includes('down'), left, `errno ${errno}`)
    pair.world.run(1_000)
  }
  assert.deepEqual(
    pair.anchor.received.map(({ sequence, pathId }) => [sequence, pathId]).filter(([s]) => s! > 1000),
    [[ENETUNREACH + 1000, 1]],
    'sealed for the path that was left, sent over the other',
  )
  assert.equal(pair.host.states(1).at(-1), 'up', 'and it is tried again')
})

test('RFC 8899: a datagram that the interface refuses for its size makes the path smaller, and does not end it', () => {
  const pair = new Pair().connect([0])
  pair.world.run(5_000)
  const mtu = () => pair.host.machine.path(pair.slots[0]!)!.mtu
  assert.equal(mtu(), 1500)
  for (const link of [pair.links[0].up, pair.links[0].downlink]) link.mtu = 1400
  pair.host.do((machine, now) => machine.pathError(pair.slots[0]!, EMSGSIZE, now))
  pair.world.run(1)
  assert.ok(mtu() < 1500)
  pair.world.run(5_000)
  assert.ok(mtu() <= 1400 && mtu() >= 1280)
  assert.equal(pair.host.states(1).at(-1), 'up')
})

const close = (pathId: number, generation: number): Frame => ({
  ...{ type: 'path-close', pathId, generation },
  ...{ reason: 2, highestCounter: -1 },
})

test('PATH_CLOSE of the other end: what was sent on the path goes over that one, and the path is announced anew', () => {
  const pair = new Pair().connect()
  pair.world.run(2_000)
  const { generation } = pair.host.machine.path(pair.slots[0]!)!
  const say = (frame: Frame, pathId = 2) => {
    pair.anchor.forge(pair.hostPeer, pathId, 'control', encodeFrames([frame]), ANCHOR, endpoint(pathId))
    pair.world.run(2)
  }
  for (const frame of [close(1, generation - 1), close(1, generation + 1), close(9, 1)]) {
    say(frame)
    assert.equal(pair.host.states(1).at(-1), 'up', JSON.stringify(frame))
  }
  say(close(1, generation), 1)
  assert.equal(pair.host.states(1).at(-1), 'up', 'not on the path itself')
  pair.links[0].up.down = true
  pair.host.sendData(pair.slots[0]!, 7)
  say(close(1, generation))
  assert.ok(pair.host.states(1).includes('down'))
  pair.world.run(20)
  assert.deepEqual(
    pair.anchor.received.map(({ sequence }) => sequence),
    [7],
  )
  pair.links[0].mend()
  pair.world.run(2_000)
  assert.equal(pair.host.states(1).at(-1), 'up')
  assert.ok(pair.host.machine.path(pair.slots[0]!)!.generation > generation)
})

test('another key of this end for a peer ends its sessions; where the peer knows it there is one at once', () => {
  const pair = new Pair().connect([0])
  const fresh = new Uint8Array(32).fill(5)
  const update = (privateKey: Uint8Array) =>
    pair.host.do((machine, now) => machine.updatePeer(pair.anchorPeer, { privateKey }, now))
  update(fresh)
  assert.equal(pair.host.last('session')?.up, false)
  assert.equal(pair.host.sendData(pair.slots[0]!, 1), false)
  pair.world.run(500)
  assert.equal(pair.anchor.last('handshake-failed')?.reason, 'unknown-peer')
  pair.anchor.do((machine, now) => {
    machine.addPeer({ publicKey: nodeCrypto.publicKey(fresh) }, now)
  })
  pair.world.run(2_000)
  assert.equal(pair.host.last('session')?.up, true)
  assert.ok(pair.host.sendData(pair.slots[0]!, 2))
  pair.world.run(100)
  assert.equal(pair.anchor.received.length, 1)
})

test('what the owner asks of a peer or path that is not there, or is there twice, is an error, or nothing', () => {
  const pair = new Pair().connect([0])
  const { machine } = pair.host
  const { now } = pair.world
  const config = { pathId: 1, socket: 0, remote: ANCHOR, mtu: 1500 }
  assert.throws(() => machine.addPath(pair.anchorPeer, config, now), { code: 'PATH_EXISTS' })
  for (const ask of [
    () => machine.addPath(7, config, now),
    () => machine.connect(7, now),
    () => machine.replaceKey(7, new Uint8Array(32), now),
    () => machine.acceptKey(7, new Uint8Array(32), now),
    () => machine.sendFrames(7, new Uint8Array(4), -1, now),
    () => machine.updatePeer(7, {}, now),
  ])
    assert.throws(ask, { code: 'PEER_UNKNOWN' })
  machine.removePath(99, now)
  machine.look(99, now)
  machine.setStandby(99, 10)
  machine.setInterfaceMtu(99, 1400, now)
  machine.pathError(99, ENETUNREACH, now)
  machine.introduce(7, ANCHOR, 0, now)
  machine.greet(7, ANCHOR, 0, now)
  machine.noteProven(7, ANCHOR, 0, now)
  machine.removePeer(7, now)
  machine.wantSession(7, now)
  assert.equal(machine.handleRoaming(7, 0, ANCHOR, 0, 100, now), -1)
  assert.equal(machine.path(99), undefined)
  assert.equal(machine.peer(7), undefined)
  assert.equal([...machine.peers()].length, 1)
})

test('§6.2: whoever has sent 2^48 datagrams in a session starts a new one', () => {
  for (const end of ['host', 'anchor'] as const) {
    const pair = new Pair().connect([0])
    const node = pair[end]
    const slot = end === 'host' ? pair.slots[0]! : pair.anchorSlot(1)
    node.haveSent(REKEY_AFTER_MESSAGES - 100)
    node.sendData(slot, 1)
    pair.world.run(100)
    const before = node.all('session').length
    node.haveSent(REKEY_AFTER_MESSAGES)
    node.sendData(slot, 2)
    pair.world.run(500)
    assert.equal(node.all('session').length, before + 1, end)
  }
})

test('§5.4.2: an initiation whose static key does not open is refused, and names no peer', () => {
  const pair = new Pair()
  const first = pair.lostInitiation()
  const mac1Key = nodeCrypto.hash(Buffer.from('mac1----'), pair.anchor.publicKey)
  for (const at of [INITIATION.static, INITIATION.ephemeral]) {
    const bad = first.slice()
    bad[at]! ^= 1
    addMacs(nodeCrypto, bad, mac1Key, undefined, 0)
    pair.anchor.receive(bad, endpoint(1), ANCHOR)
    const { reason, peer } = pair.anchor.all('handshake-failed').at(-1)!
    assert.deepEqual([reason, peer], ['authentication', -1])
  }
  assert.equal(pair.anchor.all('handshake-failed').length, 2)
})

test('§5.4.3: a response that was tampered with is refused by name, and the true one still counts', () => {
  for (const at of [RESPONSE.ephemeral, RESPONSE.empty]) {
    const pair = new Pair()
    const { world, host } = pair
    let response: Uint8Array | undefined
    world.filter = (datagram) => {
      if (!(datagram instanceof Uint8Array) || datagram[0] !== MessageType.response) return true
      response ??= datagram.slice()
      return false
    }
    pair.open(0)
    world.run(21)
    const bad = response!.slice()
    bad[at]! ^= 1
    host.receive(bad, ANCHOR, endpoint(1))
    assert.equal(host.last('handshake-failed')?.reason, 'not-for-us')
    addMacs(nodeCrypto, bad, nodeCrypto.hash(Buffer.from('mac1----'), host.publicKey), undefined, 0)
    host.receive(bad, ANCHOR, endpoint(1))
    assert.equal(host.last('handshake-failed')?.reason, 'authentication')
    assert.equal(host.all('session').length, 0)
    host.receive(response!, ANCHOR, endpoint(1))
    assert.equal(host.last('session')?.up, true)
  }
})

test('after sleep each path is asked, one that is down is announced, and a stock peer is greeted', () => {
  const pair = new Pair().connect()
  pair.world.run(30_000)
  pair.links[1].cut()
  const seen = watched(pair)
  pair.host.do((machine, now) => machine.wake(now))
  pair.world.run(15)
  assert.ok(seen.filter((type) => type === 'probe').length >= 2 && seen.includes('echo'))
  pair.world.run(3_000)
  assert.equal(pair.host.states(2).at(-1), 'down')
  pair.links[1].mend()
  pair.host.do((machine, now) => machine.wake(now))
  pair.world.run(100)
  assert.equal(pair.host.states(2).at(-1), 'up')
  const stock = new Pair({
    config: { dialect: 'stock', persistentKeepalive: 25 },
    anchorConfig: { dialect: 'stock' },
  }).connect([0])
  stock.world.run(6_000)
  const sessions = stock.host.all('session').length
  stock.host.do((machine, now) => machine.wake(now))
  stock.world.run(100)
  assert.equal(stock.host.all('session').length, sessions + 1)
})

test('KEY_REPLACE: the acknowledgement is lost, and a peer that knows the fresh key alone says the same by its handshake', () => {
  const pair = new Pair().connect([0])
  const { world, host, anchor } = pair
  const fresh = new Uint8Array(32).fill(9)
  world.filter = (datagram) => !framesOf(datagram).some(({ type }) => type === 'key-replaced')
  host.do((machine, now) => machine.replaceKey(pair.anchorPeer, fresh, now))
  world.run(100)
  const { publicKey } = anchor.last('key-offered')!
  assert.deepEqual(publicKey, nodeCrypto.publicKey(fresh))
  anchor.do((machine, now) => machine.acceptKey(pair.hostPeer, publicKey, now))
  world.run(100)
  assert.equal(host.all('key-accepted').length, 0)
  anchor.restart()
  anchor.machine.addPeer({ publicKey }, world.now)
  host.sendData(pair.slots[0]!, 1)
  world.run(20_000)
  assert.equal(host.all('key-accepted').length, 1)
  assert.equal(host.last('key-confirmed')?.whose, 'own')
  assert.equal(host.last('session')?.up, true)
})

test('a key that another peer has is taken for nobody else', () => {
  const pair = new Pair().connect([0])
  const other = nodeCrypto.publicKey(new Uint8Array(32).fill(3))
  pair.anchor.do((machine, now) => {
    machine.addPeer({ publicKey: other }, now)
  })
  assert.throws(() => pair.anchor.machine.acceptKey(pair.hostPeer, other, pair.world.now), {
    code: 'PEER_EXISTS',
  })
})

test('RFC 8899: a path that its peer has moved to another address is measured anew; another port of the same NAT is no other way', () => {
  for (const [to, anew] of [
    [endpoint(3), true],
    [endpoint(1, 4000), false],
  ] as const) {
    const pair = new Pair().connect([0])
    pair.world.run(10_000)
    const mtu = () => pair.anchor.machine.path(pair.anchorSlot(1))!.mtu
    assert.equal(mtu(), 1500)
    const { sockets } = pair.host
    sockets.push({ endpoint: sockets[0]!.endpoint, link: pair.links[0] })
    sockets[0]!.endpoint = to
    pair.links[0].downlink.mtu = 1400
    pair.host.sendData(pair.slots[0]!, 1)
    pair.world.run(1_500)
    assert.deepEqual(pair.anchor.machine.path(pair.anchorSlot(1))!.remote, to)
    assert.equal(mtu(), anew ? 1400 : 1500)
  }
})

test('persistent keepalives begin and end as the owner asks', () => {
  const pair = new Pair({ config: { dialect: 'stock' }, anchorConfig: { dialect: 'stock' } })
  pair.open(0)
  pair.world.run(1_000)
  const keep = (persistentKeepalive: number) =>
    pair.host.do((machine, now) => machine.updatePeer(pair.anchorPeer, { persistentKeepalive }, now))
  const sent = (ms: number) => {
    let count = 0
    pair.world.filter = (datagram, from) => {
      if (!(datagram instanceof Uint8Array) && from.address[3] === 1) count++
      return true
    }
    pair.world.run(ms)
    return count
  }
  assert.equal(sent(20_000), 0)
  keep(5)
  assert.ok([4, 5, 6].includes(sent(26_000)))
  keep(0)
  assert.equal(sent(30_000), 0)
})

test('KEY_REPLACE for a spent invitation: acknowledged where the key is a host’s that is known, else not taken', () => {
  const pair = new Pair({ anchorConfig: { spent: true } }).connect([0])
  const known = nodeCrypto.publicKey(new Uint8Array(32).fill(3))
  pair.anchor.do((machine, now) => {
    machine.addPeer({ publicKey: known }, now)
  })
  const seen = watched(pair)
  for (const [publicKey, answered] of [
    [nodeCrypto.publicKey(new Uint8Array(32).fill(4)), false],
    [known, true],
  ] as const) {
    const body = encodeFrames([{ type: 'key-replace', publicKey }])
    pair.host.forge(pair.anchorPeer, 1, 'control', body, endpoint(1), ANCHOR)
    pair.world.run(30)
    assert.equal(seen.includes('key-replaced'), answered)
  }
  assert.equal(pair.anchor.all('key-offered').length, 0)
})

test('an announcement of path 0, of a path of this end, or of an earlier generation opens nothing, proven or not', () => {
  const pair = new Pair().connect()
  pair.world.run(2_000)
  const { generation } = pair.host.machine.path(pair.slots[0]!)!
  const paths = () => pair.anchor.machine.peer(pair.hostPeer)!.paths.map(({ pathId, slot }) => [pathId, slot])
  const before = paths()
  const seen = watched(pair)
  const say = (frame: Frame, to: 'anchor' | 'host' = 'anchor') => {
    const body = encodeFrames([frame])
    if (to === 'anchor') pair.host.forge(pair.anchorPeer, 1, 'control', body, endpoint(7), ANCHOR)
    else pair.anchor.forge(pair.hostPeer, 1, 'control', body, ANCHOR, endpoint(1))
    pair.world.run(3)
  }
  const announce = (pathId: number, of: number): Frame => ({
    ...{ type: 'path-announce', pathId, generation: of, mtu: 1500 },
  })
  say(announce(0, 99))
  say(announce(1, generation - 1))
  say(announce(1, 99), 'host')
  assert.ok(!seen.includes('path-accept'), seen.join())
  assert.deepEqual(paths(), before)
})
