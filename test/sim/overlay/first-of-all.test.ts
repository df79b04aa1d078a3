/**
 * The first single packet between two nodes that have just logged in, and its answer: over one access or two of each, whose delays
 * differ, whoever asks. Whole engines; nothing is lost on the way.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { extent } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { Nat, Network } from './network.ts'

const KINDS = ['public', 'port-restricted', 'symmetric', 'full-cone'] as const
const [A, B] = ['203.0.113.1', '203.0.113.2'] as const
/** Until the answer is there (ms). */
const SOON = 300
/** In the first of them the packet was lost: it overtook message 2, which had gone over the slower access alone. */
const SEEDS = [25, ...Array.from({ length: extent(40) }, (_, seed) => 100 + seed)]

/** Until the answer of the first packet is there (ms); undefined: never. */
function firstPing(seed: number): number | undefined {
  const random = seeded(seed)
  const draw = (limit: number) => Math.floor(random() * limit)
  const net = new Network(1 + seed, (parts) => new MachineServers(parts))
  net.delay = 0
  const isLan = draw(2) === 0
  const far = (limit: number) => (isLan ? random() : 2 + draw(limit))
  net.far.set(`${A} *`, far(20))
  net.far.set(`${B} *`, far(20))
  net.far.set(`${A} ${B}`, far(40))
  const kinds = [KINDS[draw(4)]!, KINDS[draw(4)]!]
  const [alice, bob] = ['alice', 'bob'].map((name) => new EngineNode(net, name, 11 + draw(200))) as [
    EngineNode,
    EngineNode,
  ]
  const hasTwo = draw(2) === 0
  const use = (i: number) => {
    const [node, kind, outside] = [[alice, bob][i]!, kinds[i]!, [A, B][i]!]
    if (kind === 'public') node.use({ name: 'acc1', address: outside })
    else node.use({ name: 'acc1', address: `10.${i}.0.2`, nat: new Nat(kind, outside) })
    if (!hasTwo) return
    const nat = new Nat('port-restricted', `203.0.114.${i + 1}`)
    node.use({ name: 'acc2', address: `10.${i}.7.2`, nat }, 1)
  }
  const order = draw(2)
  use(order)
  net.run(draw(300))
  use(1 - order)
  net.until(() => alice.address !== undefined && bob.address !== undefined)
  net.run(draw(4) === 0 ? 0 : draw(3000))
  const bothAsk = draw(3) === 1
  alice.do({ type: 'resolve', name: bob.name })
  if (bothAsk) {
    net.run(draw(20))
    bob.do({ type: 'resolve', name: alice.name })
  }
  net.until(() => alice.engine.status(net.now).peers.length > 0)
  net.run(draw(3) === 0 ? 0 : draw(30))
  alice.send(bob, 1)
  for (let ms = 0; ms < 3_000; ms++) {
    net.run(1)
    if (bob.received.has(1) && bob.received.size === 1) {
      bob.received.add(-1)
      bob.send(alice, 2)
    }
    if (alice.received.has(2)) return ms
  }
  return undefined
}

test('NT-40: the first packet of two nodes that have just logged in arrives, and its answer, over one access or two', () => {
  for (const seed of SEEDS) {
    const ms = firstPing(seed)
    assert.ok(ms !== undefined && ms <= SOON, `seed ${seed}: ${ms ?? 'lost'}`)
  }
})
