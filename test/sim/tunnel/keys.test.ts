/** KEY_REPLACE under attack: what an anchor asks its owner to store, how often, and from whom (docs/wire/tunnel.md). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodeFrames } from '../../../src/tunnel/protocol/control.ts'
import { endpoint, Pair } from './harness.ts'

const ANCHOR = endpoint(100)

function offer(pair: Pair, publicKey: Uint8Array): void {
  const body = encodeFrames([{ type: 'key-replace', publicKey }])
  pair.host.forge(pair.anchorPeer, 1, 'control', body, endpoint(1), ANCHOR)
  pair.world.run(10)
}

const key = (n: number) => new Uint8Array(32).fill(n, 0, 31)
const offered = (pair: Pair) => pair.anchor.all('key-offered').map(({ publicKey }) => publicKey[0])

test('a flood of fresh keys: one is given to be stored at a time, and one a minute', () => {
  const pair = new Pair().connect([0])
  for (let n = 1; n <= 200; n++) offer(pair, key(n))
  assert.deepEqual(offered(pair), [1], 'one outstanding')
  pair.world.run(9_000)
  offer(pair, key(2))
  assert.deepEqual(offered(pair), [1, 2], 'what was not stored in time is asked for again')
  pair.anchor.do((machine, now) => machine.acceptKey(pair.hostPeer, key(2), now))
  pair.world.run(59_000)
  offer(pair, key(3))
  assert.deepEqual(offered(pair), [1, 2])
  pair.world.run(2_000)
  offer(pair, key(3))
  assert.deepEqual(offered(pair), [1, 2, 3], 'a minute later')
})

test('a key that nobody can use is not stored: all zeros, points of low order, the anchor’s own', () => {
  const one = new Uint8Array(32)
  one[0] = 1
  const eight = Uint8Array.from(
    'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800'.match(/../g)!,
    (byte) => Number.parseInt(byte, 16),
  )
  const pair = new Pair().connect([0])
  for (const publicKey of [new Uint8Array(32), one, eight, pair.anchor.publicKey, pair.host.publicKey]) {
    offer(pair, publicKey)
    pair.world.run(20_000)
  }
  assert.deepEqual(offered(pair), [])
  offer(pair, key(9))
  assert.deepEqual(offered(pair), [9], 'and the host is not shut out by having tried')
})

test('an invitation belongs to whoever replaced its key first: another holder’s key is refused, also after a restart', () => {
  const pair = new Pair({ anchorConfig: { invited: true } }).connect([0])
  offer(pair, key(1))
  pair.anchor.do((machine, now) => machine.acceptKey(pair.hostPeer, key(1), now))
  pair.world.run(120_000)
  offer(pair, key(2))
  assert.deepEqual(offered(pair), [1])
  pair.anchor.restart()
  pair.anchor.events = []
  pair.hostPeer = pair.anchor.addPeer(pair.host, { invited: true, nextPublicKey: key(1) })
  pair.world.run(180_000)
  offer(pair, key(2))
  assert.deepEqual(offered(pair), [])
})

test('once the fresh key is proven, sessions of the invitation’s key end, whoever has them', () => {
  const pair = new Pair({ anchorConfig: { invited: true } }).connect([0])
  const fresh = new Uint8Array(32).fill(9)
  const held = pair.host.forge(pair.anchorPeer, 1, 'data', new Uint8Array(4), endpoint(1), endpoint(99))!
  pair.host.do((machine, now) => machine.replaceKey(pair.anchorPeer, fresh, now))
  pair.world.run(100)
  const { publicKey } = pair.anchor.last('key-offered')!
  pair.anchor.do((machine, now) => machine.acceptKey(pair.hostPeer, publicKey, now))
  pair.world.run(200)
  assert.deepEqual(pair.anchor.last('key-confirmed')?.publicKey, publicKey)
  pair.anchor.receive(held, endpoint(1), ANCHOR)
  assert.equal(pair.anchor.received.length, 0)
  assert.ok(pair.host.sendData(pair.slots[0]!, 1))
  pair.world.run(50)
  assert.equal(pair.anchor.received.length, 1)
})
