/** A node that is killed and starts again, at any moment of its first contact or of a move: who talks to it reaches it soon. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { some } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { Nat, Network } from './network.ts'

const [A, B, C] = ['203.0.113.1', '203.0.113.2', '203.0.113.3'] as const
/** The first silence of a path that was never measured takes 1.5 s to show, and the next datagram comes within a second (ms). */
const MOST = 4_000

/** Those that once were not reached for 16 s (no HELLO of the initiator; a counter below that of the process before), and others. */
const SEEDS = [211, 217, 518, 449, ...Array.from({ length: 24 }, (_, seed) => seed)]

test('issue 13: one of two behind a relay moves, is killed and starts again: the other, which sends once a second, reaches it', () => {
  for (const seed of some(SEEDS)) {
    const random = seeded(seed)
    const draw = (limit: number) => Math.floor(random() * limit)
    const net = new Network(1, (parts) => new MachineServers(parts))
    net.delay = 0
    const home = new Nat('port-restricted', A)
    const away = [new Nat('symmetric', B), new Nat('symmetric', C)] as const
    const [near, far] = [2 + draw(20), 2 + draw(20)]
    for (const [outside, delay] of [
      [A, near],
      [B, far],
      [C, far],
    ] as const)
      net.far.set(`${outside} *`, delay)
    for (const outside of [B, C]) net.far.set(`${A} ${outside}`, 40)
    const key = 11 + draw(240)
    const alice = new EngineNode(net, 'alice', 10)
    let bob = new EngineNode(net, 'bob', key)
    alice.use({ name: 'acc1', address: '10.0.0.2', nat: home })
    bob.use({ name: 'acc1', address: '10.1.0.2', nat: away[0] })
    net.until(() => alice.address !== undefined && bob.address !== undefined)
    net.run(1000)

    alice.do({ type: 'resolve', name: bob.name })
    net.run(draw(600))
    bob.use({ name: 'acc2', address: '10.2.0.2', nat: away[1] })
    net.run(draw(300))
    bob.do({ type: 'access-gone', name: 'acc1' })
    net.run(draw(600))
    let number = 0
    const reached = () => {
      const before = bob.received.size
      alice.send(bob, number++)
      for (let step = 0; step < 100 && bob.received.size === before; step++) net.run(10)
      return bob.received.size > before
    }
    while (!reached()) assert.ok(number < 10, `${seed}: before`)
    net.run(draw(300))

    net.nodes.splice(net.nodes.indexOf(bob), 1)
    net.run(draw(1200))
    bob = new EngineNode(net, 'bob', key)
    bob.use({ name: 'acc2', address: '10.2.0.2', nat: away[1] })
    net.until(() => bob.address !== undefined)
    const began = net.now
    while (!reached()) assert.ok(net.now - began < MOST, `${seed}: not within ${MOST} ms`)
  }
})
