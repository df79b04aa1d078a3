/** A node in a network that carries IPv6 alone and translates IPv4 (NAT64); all others, and the servers, have IPv4 alone. Whole engines. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { some } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode, Flow } from './engine-node.ts'
import { at, Nat, type NatKind, Network } from './network.ts'

const INSIDE = '[2001:db8:64::10]'

function world(kind: NatKind, other: NatKind | undefined) {
  const net = new Network(1, (parts) => new MachineServers(parts))
  const alice = new EngineNode(net, 'alice', 1)
  const bob = new EngineNode(net, 'bob', 2)
  alice.use({ name: 'acc1', address: INSIDE, nat: new Nat(kind, '203.0.113.64', () => net.now) })
  const nat = other && new Nat(other, '203.0.113.2', () => net.now)
  bob.use({ name: 'acc1', address: nat ? '192.168.2.10' : '198.51.100.2', ...(nat !== undefined && { nat }) })
  return { net, alice, bob }
}

for (const [kind, other, way] of some([
  ['port-restricted', undefined, 'direct'],
  ['port-restricted', 'port-restricted', 'direct'],
  ['symmetric', 'symmetric', 'relay'],
] as const))
  for (const asker of some(['alice', 'bob'] as const))
    test(`issue 13: NAT64, a peer with IPv4 alone: ${kind} and ${other ?? 'public'}, ${asker} asks: ${way}`, () => {
      const { net, alice, bob } = world(kind, other)
      // The name of the coordinator leads to what the network's DNS makes of its address.
      alice.do({ type: 'coordinator', endpoints: [at('[64:ff9b::192.0.2.1]:6741')] })
      net.until(() => alice.address !== undefined && bob.address !== undefined)
      const [from, to] = asker === 'alice' ? [alice, bob] : [bob, alice]
      from.do({ type: 'resolve', name: to.name })
      const flow = new Flow(net, [alice, bob], 10)
      flow.run(3_000)
      assert.equal(alice.way, way)
      flow.lost()
      flow.run(30_000)
      assert.deepEqual(flow.lost(), [0, 0])
    })

test('issue 13: NAT64: from there to a network with IPv4 and back', () => {
  const { net, alice, bob } = world('port-restricted', 'port-restricted')
  net.until(() => alice.address !== undefined && bob.address !== undefined)
  alice.do({ type: 'resolve', name: bob.name })
  const flow = new Flow(net, [alice, bob], 10)
  flow.run(3_000)
  for (const next of [
    { name: 'acc1', address: '192.168.7.10', nat: new Nat('port-restricted', '203.0.113.7', () => net.now) },
    { name: 'acc1', address: INSIDE, nat: new Nat('port-restricted', '203.0.113.65', () => net.now) },
  ]) {
    alice.use(next, 0, alice.lastPort)
    flow.run(5_000)
    flow.lost()
    flow.run(5_000)
    assert.deepEqual(flow.lost(), [0, 0])
    assert.equal(alice.way, 'direct')
  }
})
