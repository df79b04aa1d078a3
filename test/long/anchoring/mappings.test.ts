/**
 * A host behind a carrier's NAT that ends mappings at an age, in virtual time: an hour of 60 s (issue 13, "How good"); and NATs that restart, other
 * lifetimes, losses, moves and rests in any order, after which nothing more may be lost.
 */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { AnchoredFlow } from '../../sim/anchoring/engine-ends.ts'
import { Nat, Network } from '../../sim/overlay/network.ts'

const LIFETIME = 60_000

for (const kind of ['port-restricted', 'symmetric'] as const)
  it(`issue 13: ${kind}: an hour of a datagram every 5 ms each way loses none`, (t) => {
    const net = new Network()
    const nat = new Nat(kind, '203.0.113.1', () => net.now)
    nat.lifetime = LIFETIME
    const flow = new AnchoredFlow(net, nat)
    flow.run(LIFETIME + 10_000)
    t.diagnostic(`the first ones cost ${flow.lost().join(' and ')} datagrams`)
    for (let minute = 0; minute < 60; minute++) {
      flow.run(60_000)
      assert.deepEqual(flow.lost(), [0, 0], `in minute ${minute}`)
    }
  })

const SEEDS = 100
const LIFETIMES = [8_000, 12_000, 20_000, 45_000, 60_000, Number.POSITIVE_INFINITY]
const EVERY = 20

it('issue 13: whatever has happened, once a mapping of now has ended none is lost, and no socket stays', () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const draw = seeded(seed)
    const pick = <T>(list: readonly T[]) => list[Math.floor(draw() * list.length)]!
    const net = new Network(seed)
    net.delay = pick([1, 10, 30, 80, 200])
    const nat = new Nat(
      pick(['full-cone', 'port-restricted', 'symmetric'] as const),
      '203.0.113.1',
      () => net.now,
    )
    nat.lifetime = pick(LIFETIMES)
    const flow = new AnchoredFlow(net, nat)
    let loss = 0
    net.filter = () => draw() >= loss
    const losing = (share: number, ms: number) => {
      loss = share
      flow.run(ms, EVERY)
      loss = 0
    }
    const events = [
      () => nat.forget(),
      () => losing(0.1, 3_000),
      () => losing(1, pick([500, 3_000, 20_000])),
      (n: number) => {
        flow.host.address = `10.1.0.${n + 3}`
        flow.use(n + 2)
      },
      () => net.run(pick([5_000, 40_000, 200_000])),
      () => {
        nat.lifetime = pick(LIFETIMES)
      },
      () => {},
    ]
    for (let n = 0; n < 12; n++) {
      pick(events)(n)
      flow.run(pick([2_000, 10_000, 30_000]), EVERY)
    }
    const lifetime = Number.isFinite(nat.lifetime) ? nat.lifetime : 10_000
    flow.run(4 * lifetime + 10_000, EVERY)
    flow.lost()
    flow.run(3 * lifetime, EVERY)
    assert.deepEqual(flow.lost(), [0, 0], `seed ${seed}`)
    assert.ok(flow.host.sockets.length <= 4, `seed ${seed}`)
    assert.equal(flow.host.duplicates + flow.anchor.duplicates, 0, `seed ${seed}`)
  }
})
