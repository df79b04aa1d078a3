/** NATs that end mappings at an age (issue 13, part 4): whole engines in virtual time, with a flow of datagrams both ways. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { extent, some } from '../../support/extent.ts'
import { type CarrierKinds, carrierWorld } from './carrier.ts'

const LIFETIME = 20_000
/** A channel of the relay is free for another binding when it has been silent for a while. */
const RELAYED_LIFETIME = 40_000

describe('a carrier’s NAT ends each mapping at an age', () => {
  const kinds: readonly CarrierKinds[] = [
    ['full-cone', undefined],
    ['port-restricted', 'port-restricted'],
    ['symmetric', undefined],
    ['symmetric', 'symmetric'],
  ]
  for (const pair of some(kinds))
    it(`NT-50: ${pair[0]} and ${pair[1] ?? 'public'}: once it has ended one, nothing is lost any more`, () => {
      const lifetime = pair[1] === 'symmetric' ? RELAYED_LIFETIME : LIFETIME
      const { flow, alice, bob } = carrierWorld(pair, [lifetime])
      flow.run(lifetime + 6_000)
      const [up, down] = flow.lost()
      // What the first one costs: 250 ms and some round trips.
      assert.ok(up <= 100 && down <= 100, `${up} and ${down} datagrams`)
      const sockets = alice.lastPort
      flow.run(extent(4) * lifetime)
      assert.deepEqual(flow.lost(), [0, 0])
      assert.ok(alice.lastPort >= sockets + extent(4), `${alice.lastPort - sockets} sockets`)
      assert.ok(alice.ports.length <= 2, alice.ports.join())
      assert.equal(bob.lastPort, bob.ports[0])
      assert.equal(alice.duplicates + bob.duplicates, 0)
    })

  it('NT-50: both ends are behind one, with other lifetimes', () => {
    const { flow } = carrierWorld(['port-restricted', 'port-restricted'], [LIFETIME, 15_000])
    flow.run(LIFETIME + 5_000)
    flow.lost()
    flow.run(extent(5) * LIFETIME)
    assert.deepEqual(flow.lost(), [0, 0])
  })

  it('NT-50: another network: what was learned is forgotten', () => {
    const { net, flow, alice } = carrierWorld(['port-restricted', undefined], [LIFETIME])
    flow.run(LIFETIME + 5_000)
    alice.use({ name: 'acc1', address: '198.51.100.7' }, 0, 2)
    net.run(2_000)
    const sockets = alice.lastPort
    flow.run(extent(3) * LIFETIME)
    assert.equal(alice.lastPort, sockets)
    flow.lost()
    flow.run(5_000)
    assert.deepEqual(flow.lost(), [0, 0])
  })

  it('NT-50: without packets no socket is replaced and nobody is asked', () => {
    const { net, flow, alice } = carrierWorld(['port-restricted', undefined], [LIFETIME])
    flow.run(LIFETIME + 5_000)
    net.run(LIFETIME + 10_000)
    const sockets = alice.lastPort
    const steps = alice.of('steps').length
    net.run(extent(100) * LIFETIME)
    assert.equal(alice.lastPort, sockets)
    // The keep-alives every 20 s alone, and the proof that each needs because its mapping is another.
    assert.ok(alice.of('steps').length - steps <= extent(220), `${alice.of('steps').length - steps}`)
  })
})
