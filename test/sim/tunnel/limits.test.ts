/** What a peer, or somebody who pretends to be one, can make this end answer, keep or believe. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { CANDIDATES_MAX, CONTROL_BURST, CONTROL_RATE } from '../../../src/tunnel/protocol/constants.ts'
import { controlCodec, encodeFrames, type Frame } from '../../../src/tunnel/protocol/control.ts'
import { addMacs } from '../../../src/tunnel/protocol/cookies.ts'
import { COOKIE_REPLY, INITIATION, MessageType, RESPONSE } from '../../../src/tunnel/protocol/wire.ts'
import type { Endpoint } from '../../../src/tunnel/seam.ts'
import { type Datagram, endpoint, Pair } from './harness.ts'

const ANCHOR = endpoint(100)
const HOST = endpoint(1)

const probe: Frame = { type: 'probe', pathId: 1, sequence: 1, time: 5, received: 1, highestCounter: 1 }

const framesOf = (datagram: Datagram): readonly Frame[] => {
  const frames = datagram instanceof Uint8Array ? undefined : controlCodec.decode(datagram.body)
  return frames?.ok === true ? frames.value : []
}

test('control payloads of one peer beyond 2,000 a second are not looked at', () => {
  const pair = new Pair().connect([0])
  pair.world.run(2_000)
  let echoes = 0
  pair.world.filter = (datagram, from) => {
    if (from.address[3] === 100) echoes += framesOf(datagram).filter(({ type }) => type === 'echo').length
    return true
  }
  const body = encodeFrames([probe])
  for (let n = 0; n < 2_500; n++) pair.host.forge(pair.anchorPeer, 1, 'control', body, HOST, ANCHOR)
  pair.world.run(2)
  assert.ok(echoes >= CONTROL_BURST && echoes < CONTROL_BURST + 20, `${echoes} at once`)
  for (let ms = 0; ms < 1_000; ms++) {
    for (let n = 0; n < 3; n++) pair.host.forge(pair.anchorPeer, 1, 'control', body, HOST, ANCHOR)
    pair.world.run(1)
  }
  assert.ok(echoes < CONTROL_BURST + CONTROL_RATE + 50, `${echoes} within a second`)
  pair.world.run(2_000)
  assert.equal(pair.host.usable(pair.anchorPeer).length, 1, 'and the path stays')
})

test('of each type the first frame of a payload counts', () => {
  const pair = new Pair().connect([0])
  pair.world.run(2_000)
  const seen: string[] = []
  pair.world.filter = (datagram, from) => {
    if (from.address[3] === 100) seen.push(...framesOf(datagram).map(({ type }) => type))
    return true
  }
  const probes = [1, 2, 3].map((sequence) => ({ ...probe, sequence }))
  pair.host.forge(pair.anchorPeer, 1, 'control', encodeFrames(probes), HOST, ANCHOR)
  pair.world.run(1)
  assert.deepEqual(seen, ['echo'])
})

test('a peer that is configured as a stock one is one, whatever it says', () => {
  const pair = new Pair({ anchorConfig: { dialect: 'stock' } })
  pair.connect([0])
  assert.equal(pair.anchor.machine.peer(pair.hostPeer)!.godwit, false)
  assert.equal(pair.anchor.all('hello').length, 0)
})

/** The host announces a path from an address; returns how to answer the question that went there. */
function announces(pair: Pair, pathId: number, from: Endpoint): () => boolean {
  let token: Uint8Array | undefined
  pair.world.filter = (datagram, _, to) => {
    for (const frame of framesOf(datagram))
      if (frame.type === 'path-challenge' && to.address[3] === from.address[3]) token ??= frame.token
    return true
  }
  const announce: Frame = { type: 'path-announce', pathId, generation: 50, mtu: 1500 }
  pair.host.forge(pair.anchorPeer, pathId, 'control', encodeFrames([announce]), from, ANCHOR)
  pair.world.run(5)
  assert.ok(token !== undefined)
  return () => {
    const body = encodeFrames([{ type: 'path-response', pathId, token: token! }])
    pair.host.forge(pair.anchorPeer, pathId, 'control', body, from, ANCHOR)
    pair.world.run(5)
    return pair.anchorSlot(pathId) >= 0
  }
}

test('of a peer eight addresses at a time may prove themselves: one more, and the oldest asks anew', () => {
  const pair = new Pair().connect([0])
  const answers: (() => boolean)[] = []
  for (let n = 0; n <= CANDIDATES_MAX; n++) answers.push(announces(pair, 10 + n, endpoint(60 + n)))
  assert.equal(answers[0]!(), false)
  assert.ok(answers.slice(1).every((answer) => answer()))
  assert.ok(announces(pair, 10, endpoint(60))())
})

test('an address that its owner has noted meanwhile need not answer the question that it got, unless another path works', () => {
  for (const works of [false, true]) {
    const pair = new Pair()
    const { world, anchor, host } = pair
    if (works) pair.connect([0])
    pair.open(1)
    const at = host.sockets[1]!.endpoint
    // Announced from there; what is asked does not arrive.
    world.filter = (datagram, _, to) =>
      to.address[3] !== at.address[3] || !framesOf(datagram).some(({ type }) => type === 'path-challenge')
    world.run(works ? 12 : 35)
    assert.equal(pair.anchorSlot(2), -1)
    anchor.do((machine, now) => machine.noteProven(pair.hostPeer, at, 0, now))
    assert.equal(pair.anchorSlot(2) >= 0, !works)
  }
})

test('a place that the owner hopes for counts for its socket alone', () => {
  const pair = new Pair({ anchorConfig: { dialect: 'godwit' } })
  const { world, host } = pair
  const hope = (n: number) =>
    host.addPath(pair.anchorPeer, {
      ...{ pathId: n + 1, socket: n, remote: ANCHOR, mtu: 1500, known: 'hoped' as const },
    })
  for (const n of [0, 1]) hope(n)
  for (const link of pair.links) link.cut()
  host.do((machine, now) => machine.noteProven(pair.anchorPeer, ANCHOR, 0, now))
  world.run(1_100)
  assert.ok(host.slots[0]!.closed === false && host.slots[1]!.closed)
})

test('a session that the peer has not used yet seals where the owner hopes for it, and there is no other', () => {
  const pair = new Pair({ anchorConfig: { dialect: 'godwit' } })
  const { world, anchor, host } = pair
  world.filter = (datagram) => !(datagram instanceof Uint8Array && datagram[0] === MessageType.response)
  host.do((machine, now) => machine.introduce(pair.anchorPeer, ANCHOR, 0, now))
  world.run(11)
  assert.equal(anchor.all('session').length, 0)
  const config = { pathId: 1, socket: 0, remote: HOST, mtu: 1500 }
  const slot = anchor.addPath(pair.hostPeer, { ...config, known: 'hoped' })
  assert.ok(anchor.sendData(slot, 1))
})

test('frames of a mechanism are sent only where there is a godwit with a path', () => {
  const pair = new Pair()
  const body = encodeFrames([{ type: 'mechanism', code: 64, body: Uint8Array.of(1) }])
  const sends = () => {
    let sent = false
    pair.host.do((machine, now) => {
      sent = machine.sendFrames(pair.anchorPeer, body, -1, now)
    })
    return sent
  }
  assert.equal(sends(), false)
  pair.connect([0])
  assert.equal(sends(), true)
  pair.host.do((machine, now) =>
    machine.updatePeer(pair.anchorPeer, { presharedKey: new Uint8Array(32) }, now),
  )
  assert.equal(sends(), false, 'the session is gone')
})

test('§5.4.2: an initiation whose timestamp does not verify is refused, though its key and its mac1 do', () => {
  const pair = new Pair()
  const first = pair.lostInitiation()
  first[INITIATION.timestamp]! ^= 1
  addMacs(nodeCrypto, first, nodeCrypto.hash(Buffer.from('mac1----'), pair.anchor.publicKey), undefined, 0)
  pair.anchor.receive(first, HOST, ANCHOR)
  const { reason, peer } = pair.anchor.last('handshake-failed')!
  assert.deepEqual([reason, peer], ['authentication', pair.hostPeer])
  assert.equal(pair.anchor.sessions, 0)
})

test('a point of low order in a handshake message is refused like any other forgery', () => {
  const pair = new Pair()
  const { world, host, anchor } = pair
  const sent: Uint8Array[] = []
  world.filter = (datagram) => {
    if (datagram instanceof Uint8Array) sent.push(datagram.slice())
    return datagram instanceof Uint8Array && datagram[0] === MessageType.initiation
  }
  pair.open(0)
  world.run(15)
  const [first, second] = sent
  const mac1Key = (of: Uint8Array) => nodeCrypto.hash(Buffer.from('mac1----'), of)
  first!.fill(0, INITIATION.ephemeral, INITIATION.static)
  addMacs(nodeCrypto, first!, mac1Key(anchor.publicKey), undefined, 0)
  anchor.receive(first!, HOST, ANCHOR)
  assert.equal(anchor.last('handshake-failed')?.reason, 'authentication')
  second!.fill(0, RESPONSE.ephemeral, RESPONSE.empty)
  addMacs(nodeCrypto, second!, mac1Key(host.publicKey), undefined, 0)
  host.receive(second!, ANCHOR, HOST)
  assert.equal(host.last('handshake-failed')?.reason, 'authentication')
  assert.equal(host.all('session').length, 0)
})

test('§5.4.7: a cookie that nobody has sealed for this message is none', () => {
  const pair = new Pair()
  const sent: Uint8Array[] = []
  pair.world.filter = (datagram) => {
    if (datagram instanceof Uint8Array) sent.push(datagram.slice())
    return false
  }
  pair.open(0)
  const reply = pair.world.fill(new Uint8Array(COOKIE_REPLY.length))
  reply.set([MessageType.cookieReply, 0, 0, 0])
  reply.set(sent[0]!.slice(INITIATION.sender, INITIATION.sender + 4), COOKIE_REPLY.receiver)
  pair.host.receive(reply, ANCHOR, HOST)
  pair.world.run(6_000)
  assert.ok(sent.length > 1)
  for (const message of sent) assert.deepEqual(message.slice(INITIATION.mac2), new Uint8Array(16))
})

test('an address that was asked for its proof just now is answered all the same, without the question', () => {
  const pair = new Pair().connect([0])
  const VICTIM = endpoint(66)
  const answers: string[][] = []
  pair.world.filter = (datagram, _, to) => {
    if (to.address[3] === 66) answers.push(framesOf(datagram).map(({ type }) => type))
    return true
  }
  const say = (frame: Frame) => {
    pair.host.forge(pair.anchorPeer, 2, 'control', encodeFrames([frame]), VICTIM, ANCHOR)
    pair.world.run(10)
  }
  say({ type: 'path-announce', pathId: 2, generation: 50, mtu: 1500 })
  const challenge: Frame = { type: 'path-challenge', pathId: 2, token: new Uint8Array(8) }
  say(challenge)
  pair.world.run(50)
  say(challenge)
  assert.deepEqual(answers, [
    ['path-accept', 'path-challenge'],
    ['path-response'],
    ['path-response', 'path-challenge'],
  ])
})
