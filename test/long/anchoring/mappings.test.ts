/** An hour of a host behind a carrier's NAT that ends mappings at 60 s (issue 13, "How good"), in virtual time. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
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
