/** A host behind a NAT that ends mappings at an age: whole engines in virtual time, a flow of datagrams both ways. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { extent, some } from '../../support/extent.ts'
import { Nat, type NatKind, Network } from '../overlay/network.ts'
import { AnchoredFlow } from './engine-ends.ts'

const LIFETIME = 20_000

function world(kind: NatKind, lifetime: number): AnchoredFlow {
  const net = new Network()
  const nat = new Nat(kind, '203.0.113.1', () => net.now)
  nat.lifetime = lifetime
  const flow = new AnchoredFlow(net, nat)
  flow.run(1_000)
  flow.lost()
  return flow
}

describe('a carrier’s NAT ends each mapping of a host at an age', () => {
  for (const kind of some(['full-cone', 'port-restricted', 'symmetric'] as const))
    it(`issue 13: ${kind}: once it has ended one, nothing is lost any more`, () => {
      const flow = world(kind, LIFETIME)
      flow.run(LIFETIME + 6_000)
      const [up, down] = flow.lost()
      assert.ok(up <= 100 && down <= 100, `${up} and ${down} datagrams`)
      const sockets = flow.host.lastPort
      flow.run(extent(4) * LIFETIME)
      assert.deepEqual(flow.lost(), [0, 0])
      assert.ok(flow.host.lastPort >= sockets + extent(4), `${flow.host.lastPort - sockets} sockets`)
      assert.ok(flow.host.sockets.length <= 2)
      assert.equal(flow.host.duplicates + flow.anchor.duplicates, 0)
    })

  it('issue 13: an hour, mappings end at 60 s: none lost after the first', () => {
    const flow = world('port-restricted', 60_000)
    flow.run(66_000, 20)
    flow.lost()
    flow.run(extent(3_600_000), 50)
    assert.deepEqual(flow.lost(), [0, 0])
    assert.ok(flow.host.lastPort >= extent(60), `${flow.host.lastPort} sockets`)
  })

  it('issue 13: another network: what was learned is forgotten', () => {
    const flow = world('port-restricted', LIFETIME)
    flow.run(LIFETIME + 5_000)
    flow.host.address = '198.51.100.7'
    flow.host.nat = undefined
    flow.use(2)
    flow.run(2_000)
    const sockets = flow.host.lastPort
    flow.run(extent(3) * LIFETIME)
    assert.equal(flow.host.lastPort, sockets)
    flow.lost()
    flow.run(5_000)
    assert.deepEqual(flow.lost(), [0, 0])
  })

  it('issue 13: without packets no socket is replaced and the anchor is asked nothing', () => {
    const flow = world('port-restricted', LIFETIME)
    flow.run(LIFETIME + 5_000)
    flow.net.run(LIFETIME + 10_000)
    const sockets = flow.host.lastPort
    flow.net.run(extent(20) * LIFETIME)
    assert.equal(flow.host.lastPort, sockets)
  })
})
