/** The relayed way between whole engines in virtual time, whichever end the relay binds first. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { extent, some } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { carrierWorld, EVERY } from './carrier.ts'
import { EngineNode, Flow } from './engine-node.ts'
import { Nat, Network } from './network.ts'

const FARS = some([5, 50, 0, 20])

describe('NT-46: the relayed way', () => {
  for (const keys of some([
    [1, 2],
    [2, 1],
  ] as const))
    for (const a of FARS)
      for (const b of FARS)
        it(`NT-46: stays once it is there: ${keys[0] < keys[1] ? 'the first' : 'the second'} key, ${a} and ${b} ms farther`, () => {
          const net = new Network(1, (parts) => new MachineServers(parts))
          const ends = [new EngineNode(net, 'alice', keys[0]), new EngineNode(net, 'bob', keys[1])] as const
          for (const [i, far] of [a, b].entries()) {
            const nat = new Nat('symmetric', `203.0.113.${i + 1}`)
            net.far.set(`${nat.outside} *`, far)
            ends[i]!.use({ name: 'acc1', address: `10.${i}.0.2`, nat })
          }
          net.until(() => ends.every(({ address }) => address !== undefined))
          ends[0].do({ type: 'resolve', name: ends[1].name })
          const flow = new Flow(net, ends, EVERY)
          flow.run(2_000)
          flow.lost(200)
          flow.run(3_000)
          assert.deepEqual(flow.lost(200), [0, 0])
          // Each end may have opened a path: one of them is left.
          for (const { engine } of ends) assert.equal(engine.status(net.now).paths.length, 1)
        })

  it('a pair that is forgotten and directed again within the second is bound again', () => {
    const net = new Network(1, (parts) => new MachineServers(parts))
    const [a, b] = [net.node('alice'), net.node('bob')]
    for (const [i, node] of [a, b].entries())
      node.use({
        socket: 0,
        address: `10.${i}.0.2`,
        port: 5000,
        nat: new Nat('symmetric', `203.0.113.${i + 1}`),
      })
    net.until(() => [a, b].every((node) => node.of('registered').length > 0))
    for (let n = 0; n < extent(20); n++) {
      a.resolve(b.name)
      net.until(() => [a, b].every((node) => node.ways().includes('relay')), 300)
      for (const [node, other] of [
        [a, b],
        [b, a],
      ] as const) {
        node.machine.forget(other.name, net.now)
        node.drain()
      }
    }
  })

  for (const far of some([5, 10, 30]))
    it(`NT-50: a socket is replaced, and the relay binds the other end ${far} ms later: nothing is lost`, () => {
      const lifetime = 40_000
      const { net, flow } = carrierWorld(['symmetric', 'symmetric'], [lifetime])
      net.far.set('203.0.113.2 *', far)
      flow.run(lifetime + 6_000)
      flow.lost(200)
      flow.run(extent(3) * lifetime)
      assert.deepEqual(flow.lost(200), [0, 0])
    })
})
