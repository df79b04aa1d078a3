/** A node that names places of others as its own: what whole engines of its peers send there, and for how long. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { LEAST_DIRECTION } from '../../../src/overlay/wire/message.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { at, Network, SimNode } from './network.ts'

const HOSTILE = '203.0.113.9'
const VICTIM = '198.51.100.'
const FACTOR = 3
/** Headers of IPv4 and UDP. */
const HEADERS = 28

/** Bob's engine, and a node that says that it is at fourteen addresses of others, answers no peer and asks for one direction. */
function world(seed: number) {
  const net = new Network(seed, (parts) => new MachineServers(parts))
  const bob = new EngineNode(net, 'bob', seed)
  bob.use({ name: 'acc1', address: '203.0.113.2' })
  net.until(() => bob.address !== undefined)
  const hostile = new SimNode(net, 'mallory.test.example', 5)
  hostile.use({ socket: 0, address: HOSTILE, port: 5000 })
  net.run(3000)
  const addresses = Array.from({ length: 14 }, (_, i) => at(`${VICTIM}${i + 1}:1`).address)
  hostile.machine.setSockets([{ socket: 0, access: 'acc1', addresses, port: 53, priority: 0 }], net.now)
  hostile.drain()
  net.run(3000)
  const bytes = { paid: 0, reflected: 0 }
  let requests = 0
  net.filter = (from, to, { length }) => {
    if (from.startsWith(`${HOSTILE}:`)) {
      if (!to.startsWith('192.0.2.1:') || (length >= LEAST_DIRECTION && requests++ > 0)) return false
      bytes.paid += length + HEADERS
    }
    if (to.startsWith(VICTIM)) bytes.reflected += length + HEADERS
    return true
  }
  return { net, bob, hostile, bytes }
}

describe('a node that names places of others as its own', () => {
  it('draws three times its bytes there, once, from a peer that has no use for it', () => {
    for (const seed of [1, 9]) {
      const { net, bob, hostile, bytes } = world(seed)
      hostile.resolve(bob.name)
      net.run(5000)
      const { reflected, paid } = bytes
      assert.ok(reflected > 0 && reflected <= FACTOR * paid, `${reflected} for ${paid}`)
      net.run(10 * 60_000)
      assert.equal(bytes.reflected, reflected)
    }
  })

  it('draws ever less from a peer that wants it: a place that does not answer is asked once a round', () => {
    const { net, bob, hostile, bytes } = world(1)
    bob.do({ type: 'resolve', name: hostile.name })
    net.run(5000)
    const rounds: number[] = []
    for (let i = 0; i < 20; i++) {
      const before = bytes.reflected
      net.run(30_000)
      rounds.push(bytes.reflected - before)
    }
    const request = 53 + HEADERS
    // All of its places, once in half a minute, and then not at all.
    assert.ok(
      rounds.slice(2, 4).every((each) => each <= 15 * request),
      rounds.join(),
    )
    assert.equal(rounds.at(-1), 0, rounds.join())
  })
})
