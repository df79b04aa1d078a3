/** A node that does not run for a while: stopped by a signal, or its machine suspended. Whole engines in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { some } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { Nat, type NatKind, Network } from './network.ts'

const EVERY = 20
const KINDS = some<readonly [NatKind, NatKind | undefined]>([
  ['port-restricted', undefined],
  ['port-restricted', 'port-restricted'],
  ['symmetric', 'symmetric'],
])

function world([kindA, kindB]: (typeof KINDS)[number]) {
  const net = new Network(1, (parts) => new MachineServers(parts))
  const alice = new EngineNode(net, 'alice', 1)
  const bob = new EngineNode(net, 'bob', 2)
  const nats: Nat[] = []
  for (const [node, kind, n] of [
    [alice, kindA, 1],
    [bob, kindB, 2],
  ] as const) {
    const nat = kind && new Nat(kind, `203.0.113.${n}`, () => net.now)
    if (nat !== undefined) nats.push(nat)
    node.use({
      name: 'acc1',
      address: nat ? `10.${n}.0.2` : '198.51.100.2',
      ...(nat !== undefined && { nat }),
    })
  }
  net.until(() => alice.address !== undefined && bob.address !== undefined)
  alice.do({ type: 'resolve', name: bob.name })
  return { net, alice, bob, nats }
}

type World = ReturnType<typeof world>

/** Programs at both ends send until each has got something; ms that it took. */
function untilBoth({ net, alice, bob }: World, from: number, limit: number): number {
  const begin = net.now
  for (const end of [alice, bob]) end.received.clear()
  for (let number = from; alice.received.size === 0 || bob.received.size === 0; number++) {
    assert.ok(
      net.now - begin < limit,
      `nothing after ${limit} ms: ${alice.received.size} ${bob.received.size}`,
    )
    alice.send(bob, number)
    bob.send(alice, number)
    net.run(EVERY)
  }
  return net.now - begin
}

for (const slept of [false, true])
  for (const ms of some([60_000, 600_000]))
    for (const kinds of KINDS)
      test(`issue 13: does not run for a while, ${slept ? 'suspended' : 'stopped'} for ${ms / 60_000} min, ${kinds[0]} and ${kinds[1] ?? 'public'}: packets again within a second`, () => {
        const at = world(kinds)
        const { net, alice, bob, nats } = at
        untilBoth(at, 0, 5_000)
        net.run(3_000)
        alice.stop()
        // The other end's programs go on for a time; NATs forget who is silent.
        for (let number = 1_000; number < 1_100; number++) {
          bob.send(alice, number)
          net.run(100)
        }
        net.run(ms - 10_000)
        for (const nat of nats) if (nat.outside === '203.0.113.1') nat.forget()
        alice.resume(slept)
        const took = untilBoth(at, 2_000, 30_000)
        assert.ok(took <= 1_000, `${took} ms`)
      })

for (const ms of some([200, 400]))
  test(`issue 13: a peer that is held up for ${ms} ms costs no packet, over the relay alone too`, () => {
    for (const kinds of KINDS) {
      const at = world(kinds)
      const { net, alice, bob } = at
      untilBoth(at, 0, 5_000)
      net.run(3_000)
      for (const held of [alice, bob]) {
        const other = held === alice ? bob : alice
        held.received.clear()
        for (let number = 0; number < 400; number++) {
          if (number === 200) held.stop()
          other.send(held, number)
          const isHeld = number >= 200 && number < 200 + ms / 5
          if (!isHeld) held.send(other, number)
          net.run(5)
          if (number === 199 + ms / 5) held.resume(false)
        }
        net.run(1_000)
        assert.equal(held.received.size, 400, `${kinds}`)
      }
    }
  })
