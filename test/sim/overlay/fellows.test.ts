/** Two and three coordinators of one zone with a bus between them that loses, repeats, delays and makes things up. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { equal } from '../../../src/core/bytes.ts'
import { encoded } from '../../../src/core/codec.ts'
import type { Endpoint } from '../../../src/core/endpoint.ts'
import { signingPublicKey } from '../../../src/crypto/keys.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import type { SoftInput, SoftOutput } from '../../../src/overlay/machine/fellows.ts'
import { Fellows } from '../../../src/overlay/machine/fellows.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { softCodec } from '../../../src/overlay/wire/fellow.ts'
import { type Prekey, Status } from '../../../src/overlay/wire/message.ts'
import { some } from '../../support/extent.ts'
import { MachineServers, ZONE } from '../../support/overlay-servers.ts'
import { Bus } from '../../support/soft-bus.ts'
import { at, Nat, type NatKind, Network, SimNode, type SimServerParts } from './network.ts'

const NOTIFIER = { host: 'ns.test.example', port: 6742, certificate: new Uint8Array(32) }
const HOSTS = ['192.0.2.1', '192.0.2.11', '192.0.2.21'] as const

/** Of the first coordinator: how far its wall clock is ahead, and how long its machine was stopped (ms). */
interface Clock {
  ahead: number
  stopped: number
}

class Stopped extends MachineServers {
  readonly #clock: Clock

  constructor(parts: SimServerParts, clock: Clock) {
    const wall = () => parts.wall() + clock.ahead
    super({ ...parts, wall, now: () => parts.now() - clock.stopped }, { fellow: 'a' })
    this.#clock = clock
  }

  override nextTimeout(): number | undefined {
    const at = super.nextTimeout()
    return at === undefined ? undefined : at + this.#clock.stopped
  }

  override handleTimeout(now: number): void {
    super.handleTimeout(now - this.#clock.stopped)
  }
}

function world(
  count = 2,
  kinds: readonly (NatKind | undefined)[] = [],
  clock: Clock = { ahead: 0, stopped: 0 },
) {
  const dead = new Set<string>()
  const net = new Network(1, (parts) => new Stopped(parts, clock))
  const servers = [net.servers as MachineServers]
  const { directory } = servers[0]!
  for (let i = 1; i < count; i++)
    servers.push(
      net.addSite(
        'test.example',
        1 + 10 * i,
        (parts) => new MachineServers(parts, { fellow: 'abc'[i]!, notification: NOTIFIER }, directory),
      ),
    )
  const host = (endpoint: string) => endpoint.replace(/:\d+$/, '')
  net.filter = (_from, to) => !dead.has(host(to))
  net.serverFilter = (from) => !dead.has(host(from))
  const bus = new Bus(net)
  for (const server of servers) bus.join(server)
  for (const server of servers) bus.setUp(server, true)
  net.run(3000)
  const nodes: SimNode[] = []
  const add = (name: string, first: number, kind?: NatKind, notifications?: { readonly push?: string }) => {
    const n = nodes.length + 1
    const node = net.node(name, net.sites[0], notifications)
    nodes.push(node)
    const order = [first, ...servers.keys()].filter((each, i, all) => all.indexOf(each) === i)
    node.machine.setCoordinator(
      order.map((each) => at(`${HOSTS[each]}:6741`)),
      net.now,
    )
    if (kind === undefined) node.use({ socket: 0, address: `198.51.100.${n}`, port: 5000 + n })
    else
      node.use({
        ...{ socket: 0, address: `192.168.${n}.10`, port: 5000 },
        nat: new Nat(kind, `203.0.113.${n}`),
      })
    net.until(() => node.of('registered').length > 0)
    return node
  }
  const a = add('alice', 0, kinds[0])
  const b = add('bob', 1, kinds[1])
  const kill = (i: number) => {
    for (const last of [0, 1]) dead.add(`192.0.2.${1 + 10 * i + last}`)
    bus.members[i]!.up = false
  }
  return { net, bus, servers, directory, a, b, add, kill, dead }
}

/** The node registers there from now on. */
function move(
  { net, servers }: Pick<ReturnType<typeof world>, 'net' | 'servers'>,
  node: SimNode,
  to: number,
) {
  node.machine.setCoordinator([at(`${HOSTS[to]}:6741`)], net.now)
  node.machine.register(net.now)
  node.drain()
  net.until(() => servers[to]!.coordinator.location(node.name) !== undefined, 90_000)
}

type Put = Extract<SoftOutput, { type: 'soft-put' }>
const isPut = (output: SoftOutput): output is Put => output.type === 'soft-put'

const hasWay = (node: SimNode, kind: string) => node.ways().includes(kind)
function refusal({ net }: ReturnType<typeof world>, node: SimNode, name: string): number {
  const before = node.of('refused').length
  node.resolve(name)
  net.until(() => node.of('refused').length > before)
  return node.of('refused').at(-1)!.status
}

describe('NT-15, NT-18, NT-40: several coordinators of one zone', () => {
  for (const [kindA, kindB, best] of [
    [undefined, undefined, 'direct'],
    [undefined, 'port-restricted', 'direct'],
    ['port-restricted', 'port-restricted', 'direct'],
    ['symmetric', 'symmetric', 'relay'],
  ] as const)
    it(`NT-40: nodes of two coordinators, ${kindA ?? 'global'} and ${kindB ?? 'global'}: ${best}, with one pair key and addresses of the zone`, () => {
      const { net, servers, a, b } = world(2, [kindA, kindB])
      assert.ok(servers[0]!.coordinator.location(a.name) && !servers[0]!.coordinator.location(b.name))
      assert.ok(servers[1]!.coordinator.location(b.name))
      a.resolve(b.name)
      net.until(() => hasWay(a, best) && hasWay(b, best))
      const [toA, toB] = [b.of('direction')[0]!, a.of('direction')[0]!]
      assert.ok(equal(toA.pairKey, toB.pairKey))
      // Both are of this zone: IPv4 counts, too.
      assert.ok(toA.lease.v4 && toB.lease.v4)
      const steps = servers[0]!.steps.filter((step) => !/REGISTRATION|KEEP_ALIVE/.test(step))
      assert.deepEqual(steps.slice(0, 3), [
        `${a.name} dc.test.example DIRECTION_REQUEST`,
        'dc.test.example dc b NTM_INFORMATION_REQUEST',
        'dc b dc.test.example NTM_INFORMATION_RESPONSE',
      ])
      assert.ok(servers[1]!.steps.includes(`dc.test.example ${b.name} ROUTE_DIRECTION`))
    })

  it('NT-40: a key for packets behind message 1 is given to a node of another coordinator, once; one whose direction is lost may be named again', () => {
    const each = world()
    const { net, bus, servers, a, b } = each
    const made: Prekey[] = []
    const prekey = () => {
      made.push({ index: 100 + made.length, publicKey: net.fill(new Uint8Array(32)) })
      return made.at(-1)!
    }
    const c = new SimNode(net, 'carol.test.example', 9, net.sites[0], undefined, { prekey })
    c.machine.setCoordinator([at(`${HOSTS[1]}:6741`)], net.now)
    c.use({ socket: 0, address: '198.51.100.9', port: 5009 })
    net.until(() => servers[1]!.coordinator.location(c.name) !== undefined)
    const ask = (node: SimNode) => {
      const before = node.of('direction').length
      node.machine.forget(c.name, net.now)
      node.resolve(c.name)
      net.until(() => node.of('direction').length > before)
      return node.of('direction').at(-1)!.prekey?.index
    }
    assert.equal(ask(a), 100)
    net.run(500)
    // Its owner knows, and has put another in its place.
    assert.equal(made.length, 3)
    // A question that is repeated is answered with the same one, and the direction that would name it does not come.
    const { length } = bus.all
    bus.copies = (output) =>
      output.type === 'soft-tell' && output.to === bus.members[1]!.id && bus.all.length > length ? 2 : 1
    assert.equal(ask(a), 101)
    net.run(500)
    assert.equal(made.length, 4)
    let told = 0
    bus.copies = (output) =>
      output.type === 'soft-tell' && output.to === bus.members[1]!.id && ++told > 1 ? 0 : 1
    assert.equal(ask(a), 102)
    net.run(15_000)
    assert.equal(made.length, 4)
    bus.copies = () => 1
    assert.equal(ask(b), 103)
    net.run(500)
    // Another question ends what was lent, and the next registration brings it back.
    assert.notEqual(ask(a), 102)
    c.machine.register(net.now)
    c.drain()
    net.run(500)
    const all = [ask(b), ask(a)]
    assert.ok(all.includes(102), `${all}`)
    assert.equal(new Set(all).size, 2)
  })

  it('NT-18: the key of a pair is the same as with one coordinator: it stays when a node moves to another one', () => {
    const each = world()
    const { net, a, b, kill } = each
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct'))
    const before = a.of('direction')[0]!.pairKey
    kill(1)
    net.until(() => each.servers[0]!.coordinator.location(b.name) !== undefined, 90_000)
    a.machine.forget(b.name, net.now)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 1)
    assert.ok(equal(a.of('direction').at(-1)!.pairKey, before))
  })

  it('NT-15: a coordinator is killed: its nodes register at the other, are found there, and ways that stand stay', () => {
    const each = world(3)
    const { net, a, b, servers, kill, add } = each
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct') && hasWay(b, 'direct'))
    const lost = a.of('gone' as never).length
    kill(0)
    net.until(() => servers.slice(1).some(({ coordinator }) => coordinator.location(a.name)), 90_000)
    assert.ok(hasWay(a, 'direct') && hasWay(b, 'direct'))
    assert.equal(a.of('gone' as never).length, lost)
    const c = add('carol', 2)
    c.resolve(a.name)
    c.resolve(b.name)
    net.until(() => c.machine.rows().filter(({ ways }) => ways.length > 0).length === 2)
    assert.match(servers[1]!.logged.join(), /coordinator a does not answer/)
  })

  it('NT-15: a node that goes from one to another and back is at the last; what the others had of it ends', () => {
    const { net, a, b, servers } = world()
    for (const i of [1, 0, 1]) {
      move({ net, servers }, a, i)
      net.run(1000)
      assert.equal(servers[1 - i]!.coordinator.location(a.name), undefined)
    }
    b.resolve(a.name)
    net.until(() => hasWay(b, 'direct'))
  })

  it('NT-21: one that is asleep is notified by the coordinator that it registered with, for a node of another', () => {
    const each = world()
    const { net, servers, a, add } = each
    const c = add('carol', 1, 'port-restricted', {})
    servers[1]!.coordinator.handleNotified(c.name, c.of('registered')[0]!.notification!.token, true)
    c.machine.setNotified(true, net.now)
    net.run(120_000)
    a.resolve(c.name)
    net.until(() => servers[1]!.notifications.length > 0)
    assert.equal(servers[0]!.notifications.length, 0)
    c.machine.handleNotification(servers[1]!.notifications[0]!.datagram, net.now)
    c.drain()
    net.until(() => hasWay(a, 'direct') && hasWay(c, 'direct'))
  })

  it('NT-15: what the bus has lost comes back: an empty one is asked around, and one that was away gets every claim again', () => {
    const each = world()
    const { net, bus, servers, a, b } = each
    bus.kept.clear()
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct'))
    // Whoever was asked has claimed it again.
    assert.equal(bus.kept.size, 1)
    bus.kept.clear()
    for (const server of servers) bus.setUp(server, false)
    net.run(10_000)
    for (const server of servers) bus.setUp(server, true)
    net.run(5000)
    assert.equal(bus.kept.size, 2)
  })

  it('NT-15: an old claim that the bus has kept does not hide who has the node: whoever is named by it says so, and all are asked', () => {
    const each = world(3)
    const { net, bus, b, add } = each
    const c = add('carol', 2)
    net.run(100)
    const old = new Map(bus.kept)
    move(each, b, 0)
    net.run(1000)
    for (const [key, bytes] of old) bus.kept.set(key, bytes)
    c.resolve(b.name)
    net.until(() => hasWay(c, 'direct'), 5000)
    assert.notDeepEqual(bus.kept, old)
    // A coordinator that is named and does not answer: as one that is there no more, but for a moment.
    bus.copies = (output) => (output.type === 'soft-tell' && output.to === bus.members[0]!.id ? 0 : 1)
    c.machine.forget(b.name, net.now)
    const before = c.of('refused').length
    c.resolve(b.name)
    net.until(() => c.of('refused').length > before, 15_000)
  })

  it('NT-15: while the bus is away each coordinator serves its own nodes, and refuses others at once', () => {
    const each = world()
    const { net, bus, servers, a, b, add } = each
    const c = add('carol', 0)
    for (const server of servers) bus.setUp(server, false)
    a.resolve(c.name)
    net.until(() => hasWay(a, 'direct'))
    const since = net.now
    assert.equal(refusal(each, a, b.name), Status.NOT_REGISTERED)
    assert.ok(net.now - since < 1000)
    for (const server of servers) bus.setUp(server, true)
    net.run(2000)
    a.resolve(b.name)
    net.until(() => a.machine.rows().filter(({ ways }) => ways.length > 0).length === 2)
  })

  it('NT-15: claims of a coordinator that was started again are not used; its nodes register again', () => {
    const each = world()
    const { net, bus, servers, a, b } = each
    servers[1]!.restart()
    bus.setUp(servers[1]!, true)
    net.run(1000)
    assert.equal(servers[1]!.coordinator.location(b.name), undefined)
    assert.equal(refusal(each, a, b.name), Status.NOT_REGISTERED)
    net.until(() => servers[1]!.coordinator.location(b.name) !== undefined, 90_000)
    net.run(100)
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct'))
  })

  for (const seed of some([1, 2, 3, 4, 5, 6, 7, 8]))
    it(`NT-15: a third is lost, a third comes twice, everything is late and out of order: nodes move and find each other (seed ${seed})`, () => {
      const each = world(3)
      const { net, bus, servers, add } = each
      let state = seed
      const draw = (n: number) => {
        state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
        return (state >>> 8) % n
      }
      bus.copies = () => draw(3)
      bus.delay = () => 1 + draw(200)
      const nodes = [each.a, each.b, add('carol', 2), add('dave', 1)]
      for (let round = 0; round < 12; round++) {
        const moving = nodes[draw(nodes.length)]!
        move(each, moving, draw(3))
        net.run(500 + draw(2000))
        // What was lost is asked again, as programs do.
        const other = nodes.find((node) => node !== moving)!
        other.machine.forget(moving.name, net.now)
        const before = other.of('direction').length
        for (let i = 0; i < 20 && other.of('direction').length === before; i++) {
          other.resolve(moving.name)
          net.run(12_000)
        }
        assert.ok(
          other.of('direction').length > before,
          `${other.name} finds ${moving.name} in round ${round}`,
        )
      }
      bus.copies = () => 1
      // In the end each node is at one coordinator.
      net.run(700_000)
      for (const node of nodes)
        assert.equal(
          servers.filter(({ coordinator }) => coordinator.location(node.name)).length,
          1,
          node.name,
        )
    })

  it('NT-15: a coordinator whose machine was stopped for minutes takes no node back', () => {
    const clock = { ahead: 0, stopped: 0 }
    const each = world(2, [], clock)
    const { net, bus, servers, a, dead } = each
    const since = net.now
    for (const last of [1, 2]) dead.add(`192.0.2.${last}`)
    bus.members[0]!.up = false
    servers[0]!.nextTimeout = () => undefined
    net.run(300_000)
    assert.ok(servers[1]!.coordinator.location(a.name))
    clock.stopped = net.now - since
    Reflect.deleteProperty(servers[0]!, 'nextTimeout')
    dead.clear()
    for (const up of [false, true]) bus.setUp(servers[0]!, up)
    for (let i = 0; i < 60; i++) {
      net.run(500)
      assert.ok(servers[1]!.coordinator.location(a.name), `${i}`)
    }
    assert.equal(servers[0]!.coordinator.location(a.name), undefined)
  })

  it('NT-15: a node that leaves a coordinator whose clock is 50 s ahead is at the next one from then on', () => {
    const each = world(2, [], { ahead: 50_000, stopped: 0 })
    const { net, servers, a } = each
    assert.match(servers[1]!.logged.join(), /clock of coordinator a differs by 50 s/)
    move(each, a, 1)
    for (let i = 0; i < 120; i++) {
      net.run(1000)
      assert.ok(servers[1]!.coordinator.location(a.name), `${i}`)
    }
  })

  it('NT-40: a node that one coordinator does not know is not let through by it: neither one that was removed, nor before its login shows', () => {
    const each = world()
    const { net, servers, directory, a, add } = each
    const c = add('carol', 1)
    const record = directory.nodes.get(a.name)!
    // What the other coordinator's copy of the directory says.
    let [isKnown, isOpen] = [true, false]
    const [, other] = servers
    const { handleSoft } = other!
    other!.handleSoft = (input) => {
      if (!isKnown) directory.nodes.delete(a.name)
      if (!isOpen) directory.access.set(c.name, [])
      handleSoft.call(other, input)
      directory.nodes.set(a.name, record)
      directory.access.delete(c.name)
    }
    assert.equal(refusal(each, a, c.name), Status.NOT_ALLOWED)
    isKnown = false
    assert.equal(refusal(each, a, c.name), Status.UNREACHED)
    isOpen = true
    a.resolve(c.name)
    net.run(1000)
    assert.equal(c.of('direction').length, 0)
    isKnown = true
    net.until(() => hasWay(a, 'direct'), 2000)
  })

  for (const wakes of [false, true])
    it(`NT-19: a node of another zone reaches nodes of every coordinator, whichever its own asks${wakes ? ', also one that sleeps' : ''}`, () => {
      const each = world(3)
      const { net, servers, directory, b, add } = each
      const seed = new Uint8Array(32).fill(6)
      const other = {
        ...{ zone: 'other.example', zoneSeed: seed, zoneKey: signingPublicKey(seed) },
        prefix6: Uint8Array.of(0xfd, 0x67, 9, 9, 9, 9, 0, 1),
        coordinatorKey: new Uint8Array(32).fill(10),
      }
      const others = net.addSite('other.example', 51, (parts) => new MachineServers(parts, other))
      const found = (init: typeof other | typeof ZONE, hosts: readonly string[]) => ({
        ...{ coordinator: nodeCrypto.publicKey(init.coordinatorKey), zone: init.zoneKey },
        endpoints: hosts.map((host) => at(`${host}:6741`)),
      })
      const dns = (zone: string) =>
        zone === 'other.example' ? found(other, ['192.0.2.51']) : found(ZONE, HOSTS)
      for (const server of [...servers, others]) server.dns = dns
      const dave = net.node('dave', net.sites.at(-1))
      dave.use({ socket: 0, address: '198.51.100.40', port: 5040 })
      net.until(() => dave.of('registered').length > 0)
      const c = add('carol', 2, wakes ? 'port-restricted' : undefined, wakes ? {} : undefined)
      for (const node of [each.a, b, c]) directory.access.set(node.name, ['*.other.example'])
      if (wakes) {
        const { token } = c.of('registered')[0]!.notification!
        servers[2]!.coordinator.handleNotified(c.name, token, true)
        c.machine.setNotified(true, net.now)
        net.run(120_000)
      }
      for (const node of wakes ? [c] : [each.a, b, c]) {
        dave.resolve(node.name)
        if (wakes) {
          net.until(() => servers[2]!.notifications.length > 0)
          c.machine.handleNotification(servers[2]!.notifications[0]!.datagram, net.now)
          c.drain()
        }
        const row = () => dave.machine.rows().find(({ peer }) => peer === node.name)
        net.until(() => (row()?.ways.length ?? 0) > 0, 15_000)
        const [mine, theirs] = [dave, node].map((each) => each.of('direction').at(-1)!)
        assert.ok(equal(mine!.pairKey, theirs!.pairKey))
        assert.equal(theirs!.lease.name, dave.name)
      }
      // And the other way, by each coordinator's own sessions with the other zone's.
      others.directory.access.set(dave.name, ['*.test.example'])
      for (const node of [each.a, b, c]) {
        node.machine.forget(dave.name, net.now)
        node.resolve(dave.name)
        net.until(
          () => node.machine.rows().some(({ peer, ways }) => peer === dave.name && ways.length > 0),
          15_000,
        )
      }
      // One that does not let it, and one that is not there.
      directory.access.set(b.name, [])
      dave.machine.forget(b.name, net.now)
      assert.equal(refusal(each, dave, b.name), Status.NOT_ALLOWED)
    })

  it('NT-21: a node that did not answer at one coordinator and registers with another is at that one alone', () => {
    const each = world()
    const { net, servers, b, add } = each
    const c = add('carol', 1, 'port-restricted', {})
    servers[1]!.coordinator.handleNotified(c.name, c.of('registered')[0]!.notification!.token, true)
    c.machine.setNotified(true, net.now)
    const isItsOwn = (endpoint: string) => endpoint.startsWith('203.0.113.3:')
    net.filter = (from, to) => !isItsOwn(from) && !isItsOwn(to)
    net.serverFilter = (_from, to) => !isItsOwn(to)
    b.resolve(c.name)
    net.until(() => servers[1]!.notifications.length > 0, 30_000)
    net.run(15_000)
    net.filter = () => true
    net.serverFilter = () => true
    c.machine.setNotified(false, net.now)
    servers[1]!.ended.length = 0
    assert.ok(servers[1]!.coordinator.location(c.name))
    move(each, c, 0)
    net.run(100)
    assert.equal(servers[1]!.coordinator.location(c.name), undefined)
    assert.deepEqual(servers[1]!.ended, [c.name])
    b.machine.forget(c.name, net.now)
    b.resolve(c.name)
    net.until(() => hasWay(b, 'direct'))
  })

  it('NT-15: a login elsewhere ends what the one before could do at this coordinator, without a word on the bus', () => {
    const { net, directory, servers, b } = world()
    const record = directory.nodes.get(b.name)!
    directory.nodes.set(b.name, { ...record, key: new Uint8Array(32).fill(77) })
    b.machine.register(net.now)
    b.drain()
    net.run(2000)
    assert.equal(servers[1]!.coordinator.location(b.name), undefined)
  })
})

describe('NT-15: what somebody who writes to the bus can do', () => {
  it('made up, repeated, moved and cut messages claim nothing, take no room, and are counted', () => {
    const each = world()
    const { net, bus, servers, a, b } = each
    const said = bus.all.filter((output) => output.type === 'soft-put' || output.type === 'soft-tell')
    const inputs: SoftInput[] = []
    let state = 9
    const draw = (n: number) => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
      return (state >>> 8) % n
    }
    const keys = [...bus.kept.keys()]
    for (const output of said) {
      const { bytes } = output
      const broken = bytes.slice()
      broken[draw(broken.length)]! ^= 1 + draw(255)
      for (const each of [bytes, broken, bytes.slice(0, draw(bytes.length)), new Uint8Array(draw(1400))]) {
        inputs.push({ type: 'soft-heard', isOwn: false, bytes: each })
        inputs.push({ type: 'soft-heard', isOwn: true, bytes: each })
        for (const key of [...keys, 'x']) inputs.push({ type: 'soft-entry', key, bytes: each })
      }
    }
    for (let i = 0; i < 3000; i++) {
      const bytes = net.fill(new Uint8Array(60))
      bytes[0] = 1
      inputs.push({ type: 'soft-heard', isOwn: i % 2 === 0, bytes })
    }
    for (const input of inputs) bus.tellAll(input)
    net.run(3000)
    for (const { coordinator } of servers) {
      assert.equal(coordinator.counts.fellows, 1)
      assert.ok(coordinator.counts.refused! > 1000)
    }
    assert.ok(servers[0]!.coordinator.location(a.name) && servers[1]!.coordinator.location(b.name))
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct'))
  })

  it('a claim put under the key of another node is none', () => {
    const each = world()
    const { net, bus, servers, a, b, add } = each
    const c = add('carol', 1)
    net.run(100)
    const [first, second] = [...bus.kept]
    assert.ok(first && second)
    const entries = [...bus.kept]
    // Everybody's claim under everybody else's key.
    bus.kept.clear()
    for (const [i, [key]] of entries.entries()) bus.kept.set(key, entries[(i + 1) % entries.length]![1])
    for (const [key, bytes] of bus.kept) bus.tellAll({ type: 'soft-entry', key, bytes })
    assert.ok(servers[0]!.coordinator.location(a.name))
    assert.ok(servers[1]!.coordinator.location(b.name) && servers[1]!.coordinator.location(c.name))
    // It is asked around.
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct'))
  })

  it('an older claim, put again, moves no node', () => {
    const { net, bus, servers, a } = world()
    net.run(100)
    const old = bus.all.filter(isPut)
    move({ net, servers }, a, 1)
    net.run(1000)
    for (const { key, bytes } of old) {
      bus.kept.set(key, bytes)
      bus.tellAll({ type: 'soft-entry', key, bytes })
    }
    assert.ok(servers[1]!.coordinator.location(a.name))
    assert.equal(servers[0]!.coordinator.location(a.name), undefined)
  })

  it('an OPEN of a node, captured and sent again, takes it back to no coordinator that it has left', () => {
    const each = world()
    const { net, servers, a, add } = each
    const seen: { readonly bytes: Uint8Array; readonly from: Endpoint }[] = []
    const { receive } = servers[0]!
    servers[0]!.receive = (port, bytes, from) => {
      if (port === 0) seen.push({ bytes: bytes.slice(), from })
      receive.call(servers[0], port, bytes, from)
    }
    const c = add('carol', 0)
    move(each, a, 1)
    move(each, c, 1)
    const captured = seen.slice()
    const check = (when: string) => {
      for (const { bytes, from } of captured) servers[0]!.receive(0, bytes, from)
      net.run(200)
      assert.equal(servers[0]!.coordinator.location(c.name), undefined, when)
      assert.ok(servers[1]!.coordinator.location(c.name), when)
    }
    for (let i = 0; i < 10; i++) {
      net.run(i * 1000)
      check(`${i}`)
    }
    // Neither when nothing has come for long.
    servers[0]!.receive = receive
    net.run(600_000)
    move(each, c, 0)
    move(each, c, 1)
    net.run(1000)
    check('after a silence')
  })

  for (const isAway of [false, true])
    it(`an OPEN that never came to the coordinator that the node has left takes it back from no other${isAway ? ', also if the bus was away' : ''}`, () => {
      const each = world()
      const { net, bus, servers, a } = each
      const held: { readonly bytes: Uint8Array; readonly from: Endpoint }[] = []
      const { receive } = servers[0]!
      servers[0]!.receive = (port, bytes, from) => {
        if (port === 0 && bytes[2] === 3) held.push({ bytes: bytes.slice(), from })
        else receive.call(servers[0], port, bytes, from)
      }
      // Its session there is lost, it opens another, and goes to the other coordinator as that one is not answered.
      servers[0]!.coordinator.forget(a.name)
      a.machine.setCoordinator(
        [0, 1].map((i) => at(`${HOSTS[i]}:6741`)),
        net.now,
      )
      a.machine.register(net.now)
      a.drain()
      net.until(() => held.length > 0, 90_000)
      if (isAway) for (const server of servers) bus.setUp(server, false)
      move(each, a, 1)
      net.run(10_000)
      servers[0]!.receive = receive
      for (const { bytes, from } of held) servers[0]!.receive(0, bytes, from)
      if (isAway) for (const server of servers) bus.setUp(server, true)
      for (let i = 0; i < 20; i++) {
        net.run(250)
        assert.ok(servers[1]!.coordinator.location(a.name), `${i}`)
      }
      assert.equal(servers[0]!.coordinator.location(a.name), undefined)
      const before = servers[1]!.coordinator.counts.sessions
      net.run(30_000)
      assert.equal(servers[1]!.coordinator.counts.sessions, before, 'it noticed nothing')
    })

  it('a claim of a time to come, made while a clock was wrong, moves no node later', () => {
    const clock = { ahead: 0, stopped: 0 }
    const each = world(2, [], clock)
    const { net, bus, servers, a } = each
    clock.ahead = 3_600_000
    a.machine.register(net.now)
    a.drain()
    net.run(100)
    const before = bus.all.length
    bus.setUp(servers[0]!, true)
    net.run(2000)
    const kept = bus.all.slice(before).filter(isPut)
    assert.ok(kept.length > 0)
    clock.ahead = 0
    net.run(5000)
    move(each, a, 1)
    for (let i = 0; i < 5; i++) {
      net.run(1000)
      for (const { key, bytes } of kept) bus.tellAll({ type: 'soft-entry', key, bytes })
      assert.ok(servers[1]!.coordinator.location(a.name))
    }
    assert.equal(servers[0]!.coordinator.location(a.name), undefined)
  })

  it('a claim of a coordinator that is not there moves no node', () => {
    const each = world()
    const { net, bus, servers, b, kill } = each
    bus.copies = () => 0
    const before = bus.all.length
    move(each, b, 0)
    const kept = bus.all.slice(before).filter(isPut)
    assert.ok(kept.length > 0 && servers[1]!.coordinator.location(b.name))
    kill(0)
    net.run(5000)
    bus.copies = () => 1
    for (const { key, bytes } of kept) bus.tellAll({ type: 'soft-entry', key, bytes })
    assert.ok(servers[1]!.coordinator.location(b.name))
  })

  it('another zone on the same bus says nothing here', () => {
    const { net, bus, servers } = world()
    const outputs: SoftOutput[] = []
    const stranger = new Fellows({
      ...{ crypto: overlayCrypto, random: { fill: (out) => net.fill(out) }, wall: () => net.wall + net.now },
      ...{ secret: new Uint8Array(32).fill(3), name: 'x', emit: (output) => outputs.push(output) },
      ...{ locatedAt: () => net.wall, nodes: () => 1, onMoved: () => {}, onAsked: () => {}, log: () => {} },
    })
    stranger.handle({ type: 'soft-up' }, net.now)
    stranger.located('alice.test.example', true, net.now)
    for (const output of outputs)
      if (output.type === 'soft-put')
        bus.tellAll({ type: 'soft-entry', key: output.key, bytes: output.bytes })
      else if (output.type === 'soft-tell')
        bus.tellAll({ type: 'soft-heard', isOwn: false, bytes: output.bytes })
    for (const { coordinator } of servers) assert.equal(coordinator.counts.fellows, 1)
    assert.ok(servers[0]!.coordinator.location('alice.test.example'))
  })

  it('of two that claim a node of the same moment one keeps it', () => {
    const { net } = world()
    const moved: string[] = []
    const queue: { readonly to: number; readonly input: SoftInput }[] = []
    const both = [0, 1].map((i) => {
      const emit = (output: SoftOutput) => {
        const to = 1 - i
        if (output.type === 'soft-put')
          queue.push({ to, input: { type: 'soft-entry', key: output.key, bytes: output.bytes } })
        else if (output.type === 'soft-tell' && output.to === '*')
          queue.push({ to, input: { type: 'soft-heard', isOwn: false, bytes: output.bytes } })
      }
      return new Fellows({
        ...{ crypto: overlayCrypto, random: { fill: (out) => net.fill(out) }, wall: () => net.wall },
        ...{ secret: new Uint8Array(32).fill(3), name: `c${i}`, emit, nodes: () => 1 },
        locatedAt: () => (moved.includes(`c${i}`) ? undefined : net.wall + 0.4 * i),
        onMoved: () => {
          if (!moved.includes(`c${i}`)) moved.push(`c${i}`)
        },
        ...{ onAsked: () => {}, log: () => {} },
      })
    })
    for (const each of both) each.handle({ type: 'soft-up' }, net.now)
    for (const each of both) each.located('alice.test.example', true, net.now)
    for (let next = queue.shift(); next !== undefined; next = queue.shift())
      both[next.to]!.handle(next.input, net.now)
    assert.equal(moved.length, 1)
  })

  it('one whose clock is wrong by an hour is not used, and the log says so', () => {
    const { net, bus, servers } = world()
    const secret = overlayCrypto.sharedSecret(ZONE.coordinatorKey, nodeCrypto.publicKey(ZONE.coordinatorKey))!
    const outputs: SoftOutput[] = []
    const late = new Fellows({
      ...{ crypto: overlayCrypto, random: { fill: (out) => net.fill(out) } },
      ...{ wall: () => net.wall + net.now - 3_600_000, secret, name: 'late' },
      emit: (output) => outputs.push(output),
      ...{ locatedAt: () => undefined, nodes: () => 1, onMoved: () => {}, onAsked: () => {}, log: () => {} },
    })
    late.handle({ type: 'soft-up' }, net.now)
    for (const output of outputs)
      if (output.type === 'soft-tell') bus.tellAll({ type: 'soft-heard', isOwn: false, bytes: output.bytes })
    for (const server of servers) {
      assert.equal(server.coordinator.counts.fellows, 1)
      assert.match(server.logged.join(), /clock of coordinator late differs by 3600 s/)
    }
  })

  it('the outer form: what is too short, too long or of another version is none', () => {
    const whole = encoded(softCodec, { sender: new Uint8Array(8), counter: 1, sealed: new Uint8Array(40) })
    assert.ok(softCodec.decode(whole).ok)
    for (const bytes of [whole.slice(0, 20), new Uint8Array(1301), Uint8Array.of(2, ...whole.slice(1))])
      assert.equal(softCodec.decode(bytes).ok, false)
  })
})

/** Coordinators without nodes' messages: who has which node, and a bus that brings everything after 20 ms, if it brings it. */
function fellows(count: number, nodes: number) {
  let now = 0
  let drawn = 0
  const queue: { readonly from: string; readonly output: SoftOutput }[] = []
  const all = Array.from({ length: count }, (_, i) => {
    const name = `c${i}`
    const here = new Set(Array.from({ length: nodes }, (_, n) => `n${n}-${i}.test.example`))
    const fill = (out: Uint8Array) => {
      for (const at of out.keys())
        out[at] = nodeCrypto.hash(Uint8Array.of(drawn, drawn >> 8, drawn++ >> 16))[0]!
      return out
    }
    const machine = new Fellows({
      ...{
        crypto: overlayCrypto,
        random: { fill },
        wall: () => 1e12 + now,
        secret: new Uint8Array(32),
        name,
      },
      emit: (output) => queue.push({ from: name, output }),
      locatedAt: (node) => (here.has(node) ? 1e12 : undefined),
      ...{ nodes: () => nodes, onMoved: () => {}, onAsked: () => {}, log: () => {} },
    })
    for (const node of here) machine.located(node, true, now)
    return { name, machine }
  })
  const puts: { readonly from: string; readonly at: number }[] = []
  const run = (ms: number, brings: (from: string, output: SoftOutput) => boolean = () => true) => {
    for (const end = now + ms; now < end; now += 20) {
      for (const { machine } of all) if (machine.nextTimeout() <= now) machine.handleTimeout(now)
      for (const { from, output } of queue.splice(0)) {
        if (output.type === 'soft-put') puts.push({ from, at: now })
        if (!brings(from, output)) continue
        for (const { name, machine } of all)
          if (name === from) continue
          else if (output.type === 'soft-put')
            machine.handle({ type: 'soft-entry', key: output.key, bytes: output.bytes }, now)
          else if (output.type === 'soft-tell' && output.to === '*')
            machine.handle({ type: 'soft-heard', isOwn: false, bytes: output.bytes }, now)
      }
    }
  }
  const up = () => {
    for (const { machine } of all) machine.handle({ type: 'soft-up' }, now)
  }
  return { all, puts, run, up, now: () => now }
}

describe('NT-15: what coordinators of a zone cost each other', () => {
  it('all claim again at the same moment: together no more than each is handed, and then there is rest', () => {
    const { puts, run, up } = fellows(8, 800)
    up()
    run(10_000)
    assert.equal(puts.length, 6400)
    for (let from = 0; from < 10_000; from += 100) {
      const most = puts.filter(({ at }) => at >= from && at < from + 1000).length
      assert.ok(most <= 4000, `${most} from ${from} ms on`)
    }
    run(60_000)
    assert.equal(puts.length, 6400)
  })

  for (const [nodes, least] of [
    [10, 2000],
    [2000, 4000],
  ] as const)
    it(`as long as claims of another are lost, a coordinator of ${nodes} nodes puts its own again every ${least / 1000} s at most`, () => {
      const { all, puts, run, up, now } = fellows(2, nodes)
      up()
      run(nodes + 5000)
      puts.length = 0
      const since = now()
      // As long as two rounds take, and their pauses.
      while (now() - since < 2 * least + nodes) {
        all[1]!.machine.located('n0-1.test.example', true, now())
        run(1000, (_from, output) => output.type !== 'soft-put')
      }
      const times = puts.filter(({ from }) => from === 'c0').length / nodes
      assert.ok(times >= 1 && times <= (now() - since) / least + 1, `${times} times in ${now() - since} ms`)
      for (const start of [0, 1000, 5000]) {
        const most = puts.filter(({ at }) => at >= since + start && at < since + start + 1000).length
        assert.ok(most <= 4000, `${most} in a second`)
      }
    })

  it('what is claimed between two connections to the bus, and lost, is claimed again with all others', () => {
    const { all, puts, run, up, now } = fellows(2, 3)
    up()
    run(5000)
    // All is due, and not yet put again.
    up()
    run(100)
    all[0]!.machine.located('n0-0.test.example', true, now())
    run(100, () => false)
    for (const { machine } of all) machine.handle({ type: 'soft-down' }, now())
    puts.length = 0
    run(300)
    up()
    run(3000)
    assert.equal(puts.filter(({ from }) => from === 'c0').length, 3)
  })

  it('who looks for many nodes that are nowhere leaves room for others; each look-up has its answer', () => {
    const { all, run, up, now } = fellows(2, 1)
    up()
    run(3000)
    const [{ machine }] = all as [(typeof all)[0]]
    const answered: string[] = []
    const seek = (name: string, by: string) => machine.seek(name, by, () => answered.push(name), now())
    for (let i = 0; i < 100; i++) seek(`x${i}.test.example`, 'mallory')
    assert.equal(answered.length, 68)
    seek('x0.test.example', 'alice')
    seek('n0-1.test.example', 'alice')
    assert.equal(answered.length, 68)
    run(2000)
    assert.equal(answered.length, 102)
    seek('x0.test.example', 'mallory')
    assert.equal(answered.length, 102)
  })
})
