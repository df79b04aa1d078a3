/** KEY_REPLACE under attack: what an anchor asks its owner to store, how often, and from whom (docs/wire/tunnel.md). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodeFrames } from '../../../src/tunnel/protocol/control.ts'
import { some } from '../../support/extent.ts'
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

/** What the owner of an end has on its disk. */
interface Disk {
  own: Uint8Array
  nextOwn?: Uint8Array | undefined
  remote: Uint8Array
  nextRemote?: Uint8Array | undefined
}

/** Both ends with owners that store keys as the events say. */
class Owners {
  readonly pair: Pair
  readonly disks: Record<'host' | 'anchor', Disk>
  readonly confirmed = new Set<string>()
  /** How long an owner takes to store a key (ms). */
  storing = 0

  constructor(pair: Pair) {
    this.pair = pair
    const { host, anchor } = pair
    this.disks = {
      host: { own: host.privateKey, remote: anchor.publicKey },
      anchor: { own: anchor.privateKey, remote: host.publicKey },
    }
  }

  begin(end: 'host' | 'anchor', fresh: Uint8Array): void {
    this.disks[end].nextOwn = fresh
    this.pair[end].do((machine, now) => machine.replaceKey(this.#peer(end), fresh, now))
  }

  run(milliseconds: number, step = 1): void {
    for (let spent = 0; spent < milliseconds; spent += step) {
      this.pair.world.run(step)
      for (const end of ['host', 'anchor'] as const) this.#tend(end)
    }
  }

  /** A new process of an end, with what its owner has stored. */
  restart(end: 'host' | 'anchor'): void {
    const { own, nextOwn, remote, nextRemote } = this.disks[end]
    const { pair } = this
    pair[end].restart({ privateKey: own })
    pair[end].events = []
    const index = pair[end].machine.addPeer(
      {
        publicKey: remote,
        ...(end === 'host' && { dialect: 'godwit' as const }),
        ...(nextOwn && { nextPrivateKey: nextOwn }),
        ...(nextRemote && { nextPublicKey: nextRemote }),
      },
      pair.world.now,
    )
    if (end === 'host') {
      pair.anchorPeer = index
      pair.open(0)
    } else pair.hostPeer = index
  }

  /** Nobody waits for a key, and data arrives. */
  get settled(): boolean {
    const { host, anchor, slots } = this.pair
    const before = anchor.received.length
    host.sendData(slots[0]!, 0)
    this.run(100, 50)
    if (anchor.received.length === before) return false
    return Object.values(this.disks).every(
      ({ nextOwn, nextRemote }) => nextOwn === undefined && nextRemote === undefined,
    )
  }

  #peer(end: 'host' | 'anchor'): number {
    return end === 'host' ? this.pair.anchorPeer : this.pair.hostPeer
  }

  #tend(end: 'host' | 'anchor'): void {
    const disk = this.disks[end]
    for (const event of this.pair[end].events.splice(0)) {
      if (event.type === 'key-offered') {
        const { world } = this.pair
        world.at(world.now + this.storing, () => {
          disk.nextRemote = event.publicKey
          this.pair[end].do((machine, now) => machine.acceptKey(this.#peer(end), event.publicKey, now))
        })
      } else if (event.type === 'key-confirmed' && event.whose === 'remote') {
        disk.remote = event.publicKey
        disk.nextRemote = undefined
        this.confirmed.add(`${end} knows`)
      } else if (event.type === 'key-confirmed') {
        disk.own = disk.nextOwn!
        disk.nextOwn = undefined
        this.confirmed.add(`${end} has`)
        this.pair[end].do((machine) => machine.renewIdentity(disk.own))
      }
    }
  }
}

const HOSTS = new Uint8Array(32).fill(9)
const ANCHORS = new Uint8Array(32).fill(10)

function works(pair: Pair, where: string): void {
  assert.equal(pair.host.usable(pair.anchorPeer).length, 1, where)
  const before = pair.anchor.received.length
  assert.ok(pair.host.sendData(pair.slots[0]!, 1), where)
  pair.world.run(100)
  assert.equal(pair.anchor.received.length, before + 1, where)
}

test('issue 14, 8: an anchor takes a fresh key: its host learns it in the session, and the old one is worth nothing afterwards', () => {
  const pair = new Pair().connect([0])
  const owners = new Owners(pair)
  const old = pair.anchor.publicKey
  owners.begin('anchor', ANCHORS)
  owners.run(1_000)
  assert.deepEqual([...owners.confirmed].sort(), ['anchor has', 'host knows'])
  assert.notDeepEqual(owners.disks.host.remote, old)
  works(pair, 'after the change')
  owners.restart('host')
  owners.run(2_000)
  works(pair, 'a host that was started again')
  owners.disks.host.remote = old
  owners.restart('host')
  owners.run(20_000, 10)
  assert.equal(pair.host.usable(pair.anchorPeer).length, 0, 'by the old key')
})

test('issue 14, 8: host and anchor change keys at once, and either crashes at any moment: both have the fresh keys in the end', () => {
  for (const beginners of some([['host', 'anchor'], ['anchor', 'host'], ['anchor']] as const)) {
    for (const apart of some(beginners.length > 1 ? [0, 12] : [0])) {
      for (const crash of some([25, 0, 5, 15, 45, 65, 200, 400])) {
        for (const victim of crash > 0 ? (['host', 'anchor'] as const) : (['host'] as const)) {
          const pair = new Pair().connect([0])
          const owners = new Owners(pair)
          for (const end of beginners) {
            owners.begin(end, end === 'host' ? HOSTS : ANCHORS)
            owners.run(apart)
          }
          owners.run(crash)
          if (crash > 0) owners.restart(victim)
          // What crashed in the middle of a handshake may wait for the next rekey.
          for (let spent = 0; spent < 200_000 && !owners.settled; spent += 1_000) owners.run(1_000, 50)
          owners.run(1_000, 50)
          const where = `${beginners.join(' and ')} ${apart} ms apart, ${victim} crashed after ${crash} ms`
          const { host, anchor } = owners.disks
          assert.equal(anchor.own, ANCHORS, where)
          if (beginners.length > 1) assert.equal(host.own, HOSTS, where)
          assert.deepEqual(
            [host.nextOwn, host.nextRemote, anchor.nextOwn, anchor.nextRemote],
            [undefined, undefined, undefined, undefined],
            where,
          )
          works(pair, where)
        }
      }
    }
  }
})

test('issue 14, 8: a key that begins to change while the other end stores the fresh one of this end: both are there in ten seconds', () => {
  for (const beginners of some([
    ['host', 'anchor'],
    ['anchor', 'host'],
  ] as const))
    for (const storing of some([30, 5, 200]))
      for (const apart of some([15, 0, 5, 11, 25, 45, 100, 215])) {
        const pair = new Pair().connect([0])
        const owners = new Owners(pair)
        owners.storing = storing
        for (const end of beginners) {
          owners.begin(end, end === 'host' ? HOSTS : ANCHORS)
          owners.run(apart)
        }
        owners.run(10_000, 10)
        const where = `${beginners.join(' and ')} ${apart} ms apart, stored in ${storing} ms`
        const all = ['anchor has', 'anchor knows', 'host has', 'host knows']
        assert.deepEqual([...owners.confirmed].sort(), all, where)
        works(pair, where)
      }
})

test('issue 14, 8: an anchor that ends its old key before a host has learned the new one: what it holds goes on, no new session', () => {
  const pair = new Pair().connect([0])
  pair.anchor.do((machine, now) => machine.replaceKey(pair.hostPeer, ANCHORS, now))
  pair.world.run(1_000)
  pair.anchor.do((machine) => machine.renewIdentity(ANCHORS))
  works(pair, 'the session')
  pair.world.run(200_000)
  assert.equal(pair.host.usable(pair.anchorPeer).length, 0)
})
