/** Two nodes in one local network that keeps its clients apart (guest networks, hotels): whole engines in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { extent, some } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode, Flow } from './engine-node.ts'
import { Nat, type NatKind, Network } from './network.ts'

const OUTSIDE = '203.0.113.1'
const LAN = '192.168.1.'

/** `hairpin`: the NAT leads packets to its own outside address back in. `isolated`: clients do not reach each other. */
function world(kind: NatKind, hairpin: boolean) {
  const net = new Network(1, (parts) => new MachineServers(parts))
  const nat = new Nat(kind, OUTSIDE, () => net.now)
  const nodes = ['alice', 'bob'].map((name, i) => {
    const node = new EngineNode(net, name, i + 1)
    node.use({ name: 'acc1', address: `${LAN}${i + 10}`, nat })
    return node
  }) as [EngineNode, EngineNode]
  const state = { isolated: true }
  net.filter = (_from, to) =>
    !(state.isolated && to.startsWith(LAN)) && (hairpin || !to.startsWith(`${OUTSIDE}:`))
  net.until(() => nodes.every(({ address }) => address !== undefined))
  return { net, alice: nodes[0], bob: nodes[1], state }
}

for (const kind of some(['port-restricted', 'symmetric'] as const))
  for (const hairpin of [false, true])
    test(`issue 13: clients of a network are kept apart (${kind}${hairpin ? ', hairpin' : ''}): by the relay or the NAT, and locally when that is allowed`, () => {
      const { net, alice, bob, state } = world(kind, hairpin)
      alice.do({ type: 'resolve', name: bob.name })
      const flow = new Flow(net, [alice, bob], 10)
      flow.run(3_000)
      const [up, down] = flow.lost()
      assert.ok(up <= 20 && down <= 20, `${up} ${down}`)
      const ways = new Set<string>()
      for (let n = 0; n < extent(60); n++) {
        flow.run(1_000)
        ways.add(alice.way)
      }
      const way = hairpin && kind !== 'symmetric' ? 'direct' : 'relay'
      assert.deepEqual([...ways], [way])
      assert.deepEqual(flow.lost(), [0, 0])
      state.isolated = false
      flow.run(90_000)
      // What is direct already is not improved upon.
      assert.equal(alice.way, way === 'relay' ? 'lan' : 'direct')
      state.isolated = true
      flow.run(5_000)
      assert.notEqual(alice.way, 'lan')
      flow.lost()
      flow.run(5_000)
      assert.deepEqual(flow.lost(), [0, 0])
    })
