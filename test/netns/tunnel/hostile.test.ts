/**
 * What strangers and a hostile network may send to a real engine: nothing of it may stop the flows of an established peer,
 * move its paths, cost unbounded memory or end the engine.
 */
import assert from 'node:assert/strict'
import { after, afterEach, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { nodeCrypto, nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { addMacs } from '../../../src/tunnel/protocol/cookies.ts'
import { createInitiation, identity, remoteKey } from '../../../src/tunnel/protocol/noise.ts'
import { TimestampSource } from '../../../src/tunnel/protocol/timestamp.ts'
import { INITIATION, MessageType, TRANSPORT, writeIndex } from '../../../src/tunnel/protocol/wire.ts'
import { RawUdp, Relay } from '../../support/raw-udp.ts'
import { ANCHOR_PORT, Bed, bytes, Couple, missing, type TunnelNode } from './bed.ts'

const skip = missing() ?? false
const couple = new Couple()
const anchorAt = { address: bytes('10.101.9.1'), port: ANCHOR_PORT }
/** The relay on the first access's way. */
const relayAt = { address: bytes('10.101.1.254'), port: 7000 }
let bed: Bed
let host: TunnelNode
let anchor: TunnelNode
let relay: Relay
/** An address of nobody's. */
let stranger: RawUdp

before(async () => {
  if (skip !== false) return
  bed = new Bed('x')
  relay = new Relay(bed.router, relayAt, bytes('10.101.9.254'), anchorAt)
  stranger = new RawUdp(bed.router, bytes('10.101.2.254'))
  anchor = await bed.node(bed.anchor, couple.anchorSetup(), couple.anchorAddresses)
  const setup = couple.hostSetup([1])
  const [peer] = setup.peers
  const paths = [{ ...couple.path(1), remote: relayAt }]
  host = await bed.node(bed.host, { ...setup, peers: [{ ...peer!, paths }] }, couple.hostAddresses)
  await host.pathState(1, 'up')
  await bed.echo(bed.anchor)
})
after(async () => {
  if (skip !== false) return
  relay.close()
  stranger.close()
  await bed.close()
})
afterEach(() => {
  if (skip === false) relay.filter = () => true
})

const failures = (node: TunnelNode) =>
  node.events.flatMap((event) => (event.type === 'handshake-failed' ? [event.reason] : []))

/** Message 1 to the anchor, correct in itself, by a key of one's own. */
function initiation(privateKey: Uint8Array): Uint8Array {
  const own = identity(nodeCrypto, privateKey)
  const remote = remoteKey(nodeCrypto, own, publicKeyOf(couple.anchorKey))!
  const ephemeral = nodeRandom.fill(new Uint8Array(32))
  const stamp = new TimestampSource(0).next(Date.now())
  const { message } = createInitiation(nodeCrypto, own, remote, ephemeral, 77, stamp)!
  addMacs(nodeCrypto, message, remote.mac1Key, undefined, 0)
  return message
}

/** Sends without filling any buffer: pauses now and then. */
async function pour(messages: Iterable<Uint8Array>, through: RawUdp = stranger): Promise<number> {
  let n = 0
  for (const message of messages) {
    through.send(message, anchorAt)
    if (++n % 32 === 0) await delay(1)
  }
  return n
}

async function undisturbed(work: () => Promise<void>): Promise<void> {
  const remote = (await anchor.report()).peers[0]!.paths[0]!.remote
  const end = await bed.traffic(bed.host, '10.98.0.2', 5)
  await work()
  const result = await end()
  assert.equal(result.lost, 0)
  assert.equal(result.duplicates, 0)
  const { peers } = await anchor.report()
  assert.equal(peers[0]!.paths.length, 1)
  assert.deepEqual(peers[0]!.paths[0]!.remote, remote)
  assert.equal(peers[0]!.paths[0]!.state.name, 'up')
}

test('an unknown key gets no answer', { skip }, async () => {
  await undisturbed(async () => {
    stranger.send(initiation(generatePrivateKey()), anchorAt)
    await anchor.until(
      'refusal',
      (event) => event.type === 'handshake-failed' && event.reason === 'unknown-peer',
    )
    assert.deepEqual(stranger.receive(), [])
  })
})

test('captured handshakes sent again, corrupted in every byte, cut at every length', { skip }, async () => {
  relay.up.length = 0
  host.events.length = 0
  host.do({ do: 'rekey' })
  await host.until('session', (event) => event.type === 'session')
  const captured = relay.up.find((each) => each[0] === MessageType.initiation)!
  await undisturbed(async () => {
    anchor.events.length = 0
    const variants: Uint8Array[] = []
    for (let i = 0; i < captured.length; i++) {
      const flipped = captured.slice()
      flipped[i] = flipped[i]! ^ (1 << (i & 7))
      variants.push(flipped, captured.subarray(0, i))
    }
    await pour(variants)
    // Once the copies of it are no longer answered from memory it is a replay.
    await delay(5_200)
    stranger.receive()
    stranger.send(captured, anchorAt)
    await anchor.until('refusal', (event) => event.type === 'handshake-failed' && event.reason === 'replay')
    assert.deepEqual(stranger.receive(), [])
    assert.ok(failures(anchor).includes('not-for-us'))
  })
})

test('captured data sent again from elsewhere, with bits turned, cut, and as rubbish of every length', {
  skip,
}, async () => {
  await undisturbed(async () => {
    await delay(800)
    const data = [relay.up, relay.down].map(
      (list) => list.findLast((each) => each[0] === MessageType.multipath)!,
    )
    const before = (await anchor.report()).counts.inbound
    const copies = relay.up.slice(-200)
    await pour(data)
    await pour(copies, relay.back)
    const replayed = () => again.replayed - before.replayed
    let again = before
    // The last of them may not have been read yet.
    for (let tries = 0; replayed() < copies.length && tries < 300; tries++) {
      if (tries > 0) await delay(100)
      again = (await anchor.report()).counts.inbound
    }
    assert.ok(replayed() >= copies.length, `${replayed()} of ${copies.length}`)
    const [up] = data as [Uint8Array, Uint8Array]
    const variants: Uint8Array[] = []
    for (let i = 0; i < up.length; i++) {
      const flipped = up.slice()
      flipped[i] = flipped[i]! ^ (1 << (i & 7))
      // A counter far ahead, so that the window lets it through to the cipher.
      const ahead = flipped.slice()
      writeIndex(ahead, TRANSPORT.counter, 0x7fffffff - i)
      const cut = ahead.subarray(0, i)
      variants.push(flipped, ahead, cut)
    }
    for (let length = 0; length <= 1472; length++) {
      const rubbish = nodeRandom.fill(new Uint8Array(length))
      variants.push(rubbish)
      if (length >= 8) {
        // As a message of each type, to a session that is there.
        const typed = rubbish.slice()
        typed.set([[1, 2, 3, 4, 32][length % 5]!, 0, 0, 0])
        typed.set(up.subarray(4, 8), 4)
        variants.push(typed)
      }
    }
    await pour(variants)
    await pour(variants, relay.back)
    let after = again
    const forged = () => after.forged - again.forged
    for (let tries = 0; forged() < 200 && tries < 300; tries++) {
      if (tries > 0) await delay(100)
      after = (await anchor.report()).counts.inbound
    }
    assert.ok(forged() >= 200, `${forged()} forged`)
    assert.ok(after.malformed > again.malformed)
  })
})

test('rubbish to the host from the anchor’s side of the network does not disturb it either', {
  skip,
}, async () => {
  await undisturbed(async () => {
    await delay(50)
    const down = relay.down.findLast((each) => each[0] === MessageType.multipath)!
    for (let length = 0; length <= 1472; length++) {
      const rubbish = nodeRandom.fill(new Uint8Array(length))
      if (length > 16) rubbish.set(down.subarray(0, 8))
      relay.front.send(rubbish, relay.initiator)
      if (length % 32 === 0) await delay(1)
    }
  })
})

test('a third address that shows a fresh datagram of the peer is asked for a proof, moves nothing and gets no data', {
  skip,
}, async () => {
  const end = await bed.traffic(bed.host, '10.98.0.2', 10)
  await delay(300)
  anchor.events.length = 0
  stranger.receive()
  // An older one that never arrived is taken as data; the newest of all, too, and its sender is asked.
  let shown = 0
  let held: Uint8Array | undefined
  relay.filter = (each) => {
    if (each[0] !== MessageType.multipath || shown > 20) return true
    if (held === undefined) {
      held = each
      return false
    }
    shown += each.length + 28
    stranger.send(each, anchorAt)
    relay.filter = () => true
    return false
  }
  await delay(400)
  shown += held!.length + 28
  stranger.send(held!, anchorAt)
  await delay(400)
  const got = stranger.receive().reduce((sum, each) => sum + each.bytes.length + 28, 0)
  assert.ok(got > 0, 'it is asked')
  assert.ok(got <= 3 * shown, `${got} bytes for ${shown}`)
  assert.equal(anchor.events.filter((event) => event.type === 'remote').length, 0)
  const result = await end()
  assert.ok(result.lost <= 2, `${result.lost} lost`)
  assert.equal(result.duplicates, 0)
})

test('a flood of initiations: cookies are asked for, data goes on, a host still gets in, memory stays', {
  skip,
}, async () => {
  const rubbish = initiation(generatePrivateKey())
  const mac1Key = remoteKey(
    nodeCrypto,
    identity(nodeCrypto, generatePrivateKey()),
    publicKeyOf(couple.anchorKey),
  )!.mac1Key
  const sources = Array.from({ length: 40 }, () => new RawUdp(bed.router, bytes('10.101.9.254')))
  let flooding = true
  let sent = 0
  const flood = async () => {
    while (flooding) {
      for (let n = 0; n < 8; n++) {
        // mac1 is right: whoever knows the public key can do that.
        writeIndex(rubbish, INITIATION.sender, sent)
        rubbish[INITIATION.static] = sent
        addMacs(nodeCrypto, rubbish, mac1Key, undefined, 0)
        sources[sent++ % sources.length]!.send(rubbish, anchorAt)
      }
      await delay(1)
    }
  }
  const end = await bed.traffic(bed.host, '10.98.0.2', 5)
  await delay(200)
  const before = await anchor.report()
  const running = flood()
  while (sent < 2_000) await delay(100)
  host.events.length = 0
  host.do({ do: 'rekey' })
  await host.until('session under load', (event) => event.type === 'session', 8_000)
  await delay(1_000)
  flooding = false
  await running
  const result = await end()
  const after = await anchor.report()
  const cookies = sources.flatMap((source) => source.receive()).filter((each) => each.bytes[0] === 3)
  for (const source of sources) source.close()
  assert.ok(cookies.length > 0, 'cookies')
  assert.equal(result.lost, 0)
  assert.ok(after.rss - before.rss < 64 << 20, `${(after.rss - before.rss) >> 20} MB more`)
  console.log(
    `# ${sent} initiations, ${cookies.length} cookies, gap ${result.gapMs.toFixed(0)} ms, ${((after.rss - before.rss) / 1048576).toFixed(1)} MB`,
  )
})
