/** A node that is asleep behind a NAT that forgets within a second, as in test/netns/overlay/notifications: whole engines in virtual time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { some } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { Nat, type NatKind, Network } from './network.ts'

const NOTIFICATION = { host: 'ns.test.example', port: 6742, certificate: new Uint8Array(32).fill(3) }
const FORGETS_MS = 1000
/** Seeds of alice's and bob's keys, by who leads: opens paths. */
const SEEDS = { alice: [1, 2], bob: [2, 1] } as const

/** Lets in only from where something went, or came, within the last second; one that is symmetric then draws another port. */
class ForgetfulNat extends Nat {
  readonly #lastAt = new Map<string, number>()
  readonly #clock: () => number

  constructor(kind: NatKind, outside: string, clock: () => number) {
    super(kind, outside)
    this.#clock = clock
  }

  #knows(to: string): boolean {
    return this.#clock() - (this.#lastAt.get(to) ?? Number.NEGATIVE_INFINITY) <= FORGETS_MS
  }

  override out(inside: string, to: string): string {
    if (this.kind === 'symmetric' && !this.#knows(to)) this.forgetTo(to)
    this.#lastAt.set(to, this.#clock())
    return super.out(inside, to)
  }

  override in(from: string, port: number): string | undefined {
    if (!this.#knows(from)) return undefined
    const inside = super.in(from, port)
    if (inside !== undefined) this.#lastAt.set(from, this.#clock())
    return inside
  }
}

interface Place {
  /** Of alice's NAT and of bob's, which forgets. */
  readonly kinds: readonly [NatKind, NatKind]
  /** Alice's forgets, too. */
  readonly both?: boolean
  /** One way, from alice and from bob to the servers, and between the two (ms). */
  readonly delays?: readonly [number, number, number]
}

class Bed {
  readonly net: Network
  readonly alice: EngineNode
  readonly bob: EngineNode
  readonly #servers: MachineServers

  constructor(leader: 'alice' | 'bob', place: NatKind | Place) {
    const {
      kinds,
      both = false,
      delays,
    }: Place = typeof place === 'string' ? { kinds: [place, place] } : place
    this.net = new Network(1, (parts) => new MachineServers(parts, { notification: NOTIFICATION }))
    this.#servers = this.net.servers as MachineServers
    const [outsideA, outsideB] = ['203.0.113.1', '203.0.113.2'] as const
    const now = () => this.net.now
    const nats = [
      both ? new ForgetfulNat(kinds[0], outsideA, now) : new Nat(kinds[0], outsideA),
      new ForgetfulNat(kinds[1], outsideB, now),
    ] as const
    if (delays !== undefined) {
      this.net.delay = 0
      this.net.far.set(`${outsideA} *`, delays[0])
      this.net.far.set(`${outsideB} *`, delays[1])
      this.net.far.set(`${outsideA} ${outsideB}`, delays[2])
    }
    const [alice, bob] = ['alice', 'bob'].map((name, i) => {
      const node = new EngineNode(this.net, name, SEEDS[leader][i]!, 50_000, { notifications: {} })
      node.use({ name: 'acc1', address: `192.168.${i}.10`, nat: nats[i]! })
      return node
    }) as [EngineNode, EngineNode]
    this.alice = alice
    this.bob = bob
    this.net.until(() => alice.address !== undefined && bob.address !== undefined)
    for (const node of [alice, bob]) {
      const { notification } = node.of('registered').at(-1)!
      this.#servers.coordinator.handleNotified(node.name, notification!.token, true)
      node.do({ type: 'notified', connected: true })
    }
  }

  /** Alice asks for bob and sends one packet; then nothing. */
  connect(idleMs: number): this {
    const { alice, bob } = this
    alice.do({ type: 'resolve', name: bob.name })
    this.run(100)
    alice.send(bob, 0)
    this.run(4_000 + idleMs)
    for (const node of [alice, bob]) node.received.clear()
    return this
  }

  /** Bob sends back what he gets. */
  run(ms: number): void {
    const { net, alice, bob } = this
    for (const end = net.now + ms; net.now < end; ) {
      const before = new Set(bob.received)
      net.run(20)
      for (const number of bob.received) if (!before.has(number)) bob.send(alice, number)
      for (const { name, datagram } of this.#servers.notifications.splice(0))
        [alice, bob].find((node) => node.name === name)!.do({ type: 'notification', bytes: datagram })
    }
  }

  /** Three packets of alice's, and their answers. */
  ping(gap = 200, settle = 3_000): void {
    const { alice, bob } = this
    for (const number of [1, 2, 3]) {
      alice.send(bob, number)
      this.run(gap)
    }
    this.run(settle)
    for (const node of [bob, alice]) assert.deepEqual([...node.received].sort(), [1, 2, 3], node.name)
  }
}

const IDLE = [1_300, 3_000, 5_000, 6_216, 9_608, 12_100, 15_340, 16_158, 69_070, 540_000, 549_608] as const
/** 2,251: the third packet leaves while the relay has bound its sender and not yet bob; 12,078: the leader looks for a direct way just when the first one leaves. */
const RELAYED = [1_300, 2_251, 5_000, 6_216, 9_608, 12_078, 15_340, 69_070] as const
/** Of 400 networks drawn, some in which packets were lost before ADR 0464. */
const DRAWN = [6, 14, 24, 30, 32, 34, 38, 52, 68, 69, 78, 91, 150, 187, 303, 348] as const

/** NATs, distances, and the silence before three packets (ms) with `gap` ms between them. */
function drawn(seed: number) {
  const random = seeded(seed)
  for (let i = 0; i < 5; i++) random()
  const draw = (limit: number) => Math.floor(random() * limit)
  const kind = () => (['symmetric', 'port-restricted'] as const)[draw(2)]!
  const kinds = [kind(), kind()] as const
  const leader = (['alice', 'bob'] as const)[draw(2)]!
  const both = draw(3) === 0
  const delay = (limit: number, most: number) => 5 + draw(draw(2) === 1 ? limit : most)
  const delays = [delay(20, 100), delay(20, 100), delay(30, 150)] as const
  const idleMs = 1200 + draw(draw(2) === 1 ? 10_000 : 60_000)
  return { leader, place: { kinds, both, delays }, idleMs, gap: 20 + draw(400) }
}

test('NT-40: what a new peer sends first waits until the kernel has routes to it', () => {
  const bed = new Bed('alice', 'port-restricted')
  const { net, alice, bob } = bed
  bob.routesAfterMs = 500
  alice.do({ type: 'resolve', name: bob.name })
  net.until(() => alice.of('directed').length > 0 && bob.of('directed').length > 0)
  alice.send(bob, 1)
  net.run(bob.routesAfterMs - 50)
  assert.equal(bob.way, 'direct')
  assert.deepEqual([...bob.received], [], 'the kernel could not answer')
  net.run(100)
  assert.deepEqual([...bob.received], [1])
})

test('NT-40: a node that sleeps is not woken again and again for a peer that has nothing to send', () => {
  for (const leader of ['alice', 'bob'] as const) {
    const bed = new Bed(leader, 'port-restricted').connect(120_000)
    const woken = () =>
      bed.bob.of('steps').flatMap(({ steps }) => steps.filter(({ what }) => what === 'NOTIFICATION'))
    const before = woken().length
    bed.run(420_000)
    assert.ok(woken().length - before <= 3, `${leader}: ${woken().length - before} times`)
    bed.ping()
  }
})

for (const leader of some(['alice', 'bob'] as const))
  for (const idleMs of some(IDLE))
    test(`NT-40: after ${idleMs} ms of silence packets reach a peer whose NAT has forgotten it, though its relay leads nowhere meanwhile; ${leader} leads`, () => {
      new Bed(leader, 'port-restricted').connect(idleMs).ping()
    })

for (const leader of some(['alice', 'bob'] as const))
  for (const idleMs of some(RELAYED))
    test(`NT-40: after ${idleMs} ms of silence packets reach a peer by the relay, where its NAT has given it another port; ${leader} leads`, () => {
      new Bed(leader, 'symmetric').connect(idleMs).ping()
    })

for (const seed of some(DRAWN)) {
  const { leader, place, idleMs, gap } = drawn(seed)
  const { kinds, both, delays } = place
  test(`NT-40: after ${idleMs} ms of silence no packet is lost: ${kinds.join(' to ')}${both ? ', both forget' : ''}, ${delays.join(', ')} ms; ${leader} leads; seed ${seed}`, () => {
    new Bed(leader, place).connect(idleMs).ping(gap, 8_000)
  })
}

test('NT-40: a direction is asked for while the only path is suspect: the end that has not opened it does not wait until it is down', () => {
  const bed = new Bed('bob', 'port-restricted').connect(5_000)
  bed.alice.send(bed.bob, 1)
  const before = bed.net.now
  while (bed.bob.received.size === 0) bed.run(20)
  assert.ok(bed.net.now - before <= 1_500, `${bed.net.now - before} ms`)
})
