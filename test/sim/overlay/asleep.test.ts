/** A node that is asleep behind a NAT that forgets within a second, as in test/netns/overlay/notifications: whole engines in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { some } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { Nat, Network } from './network.ts'

const NOTIFICATION = { host: 'ns.test.example', port: 6742, certificate: new Uint8Array(32).fill(3) }
const FORGETS_MS = 1000

/** Lets in only from where something went, or came, within the last second. */
class ForgetfulNat extends Nat {
  readonly #lastAt = new Map<string, number>()
  readonly #clock: () => number

  constructor(outside: string, clock: () => number) {
    super('port-restricted', outside)
    this.#clock = clock
  }

  override out(inside: string, to: string): string {
    this.#lastAt.set(to, this.#clock())
    return super.out(inside, to)
  }

  override in(from: string, port: number): string | undefined {
    const lastAt = this.#lastAt.get(from)
    if (lastAt === undefined || this.#clock() - lastAt > FORGETS_MS) return undefined
    this.#lastAt.set(from, this.#clock())
    return super.in(from, port)
  }
}

for (const idleMs of some([1_300, 5_000, 6_216, 9_608, 12_100, 15_340, 69_070] as const))
  test(`NT-40: after ${idleMs} ms of silence packets reach a peer whose NAT has forgotten it, though its relay leads nowhere meanwhile`, () => {
    const net = new Network(1, (parts) => new MachineServers(parts, { notification: NOTIFICATION }))
    const servers = net.servers as MachineServers
    const [alice, bob] = ['alice', 'bob'].map((name, i) => {
      const outside = `203.0.113.${i + 1}`
      const nat = i === 0 ? new Nat('port-restricted', outside) : new ForgetfulNat(outside, () => net.now)
      const node = new EngineNode(net, name, i + 1, 50_000, { notifications: {} })
      node.use({ name: 'acc1', address: `192.168.${i}.10`, nat })
      return node
    }) as [EngineNode, EngineNode]
    net.until(() => alice.address !== undefined && bob.address !== undefined)
    for (const node of [alice, bob]) {
      const { notification } = node.of('registered').at(-1)!
      servers.coordinator.handleNotified(node.name, notification!.token, true)
      node.do({ type: 'notified', connected: true })
    }
    const run = (ms: number) => {
      for (const end = net.now + ms; net.now < end; ) {
        net.run(20)
        for (const { name, datagram } of servers.notifications.splice(0))
          [alice, bob].find((node) => node.name === name)!.do({ type: 'notification', bytes: datagram })
      }
    }
    alice.do({ type: 'resolve', name: bob.name })
    run(100)
    alice.send(bob, 0)
    run(4_000 + idleMs)
    bob.received.clear()
    for (const number of [1, 2, 3]) {
      alice.send(bob, number)
      run(200)
    }
    run(3_000)
    assert.deepEqual([...bob.received].sort(), [1, 2, 3])
  })
