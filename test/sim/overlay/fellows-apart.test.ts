/** Two coordinators of one zone beside servers apart, on a virtual network: each serves both, and goes on when one of them is lost. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { cacheProof } from '../../../src/overlay/machine/secrets.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { Connection, type Message, Status, Type } from '../../../src/overlay/wire/message.ts'
import { SimMembers } from '../../support/overlay-members.ts'
import { MachineServers, MemoryDirectory } from '../../support/overlay-servers.ts'
import { Bus } from '../../support/soft-bus.ts'
import { at, Nat, Network, type SimNode } from './network.ts'

const HOSTS = ['192.0.2.1', '192.0.2.11', '192.0.2.21'] as const
const NAMES = ['a', 'b', 'c'] as const

const cacheOf = (i: number) => ({
  ...{ host: `${NAMES[i]}.example`, port: 6743 },
  certificate: new Uint8Array(32).fill(i),
})

/** Coordinators with nothing in their processes; a server with these roles knows the first one's address. */
function world(count = 2, hasCaches = false) {
  const dead = new Set<string>()
  const init = (i: number) => ({
    ...{ fellow: NAMES[i]!, relays: false },
    place: { port: 6741, addresses: [at(`${HOSTS[i]}:1`).address] },
    ...(hasCaches && { cache: cacheOf(i) }),
  })
  const net = new Network(1, (parts) => new MachineServers(parts, init(0)))
  const servers = [net.servers as MachineServers]
  const { directory } = servers[0]!
  const bus = new Bus(net)
  const add = (i: number, own = directory) => {
    if (i > 0)
      servers.push(
        net.addSite('test.example', 1 + 10 * i, (parts) => new MachineServers(parts, init(i), own)),
      )
    bus.join(servers[i]!)
    bus.setUp(servers[i]!, true)
  }
  for (let i = 0; i < count; i++) add(i)
  const host = (endpoint: string) => endpoint.replace(/:\d+$/, '')
  net.filter = (_from, to) => !dead.has(host(to))
  net.serverFilter = (from) => !dead.has(host(from))
  const kill = (i: number) => {
    dead.add(HOSTS[i]!)
    const { coordinator } = servers[i]!
    // What hosts send to it does not pass the filters of nodes.
    coordinator.handleDatagram = () => {}
    bus.members[i]!.up = false
  }
  const live = (i: number) => {
    dead.delete(HOSTS[i]!)
    servers[i]!.restart()
    bus.setUp(servers[i]!, true)
  }
  const node = (name: string, first: number, isNotified = false): SimNode => {
    const n = net.nodes.length + 1
    const made = net.node(name, net.sites[0], isNotified ? {} : undefined)
    const order = [first, 1 - first]
    made.machine.setCoordinator(
      order.map((each) => at(`${HOSTS[each]}:6741`)),
      net.now,
    )
    const nat = new Nat('symmetric', `203.0.113.${n}`)
    made.use({ socket: 0, address: `192.168.${n}.10`, port: 5000, nat })
    net.until(() => made.of('registered').length > 0)
    return made
  }
  const has = (i: number, node: SimNode) => servers[i]!.coordinator.location(node.name) !== undefined
  return { net, bus, servers, directory, add, kill, live, node, has }
}

const asked = (server: SimMembers, message: Omit<Message, 'transaction'>, net: Network) => {
  let answer: Message | undefined
  let isDone = false
  server.members.request(
    message,
    3000,
    (got) => {
      answer = got
      isDone = true
    },
    net.now,
    ({ status }) => status !== Status.UNKNOWN_NAME,
  )
  net.until(() => isDone)
  return answer
}

describe('NT-18, NT-20: several coordinators beside servers apart', () => {
  it('a server apart that knows one of them registers with all, with one that comes later, and once with each', () => {
    const { net, servers, add, kill, live } = world()
    const relay = new SimMembers(net, 'rs1', '192.0.2.66', ['rs'], [HOSTS[0]])
    net.run(3000)
    assert.deepEqual(relay.members.coordinators, ['a', 'b'])
    add(2)
    net.run(6000)
    assert.deepEqual(relay.members.coordinators, ['a', 'b', 'c'])
    for (const { coordinator } of servers) assert.equal(coordinator.counts.relays, 1)
    for (const { logged } of servers)
      assert.equal(logged.filter((line) => /server rs1 is there/.test(line)).length, 1)
    kill(0)
    net.run(20_000)
    assert.deepEqual(relay.members.coordinators, ['b', 'c'])
    live(0)
    net.run(10_000)
    assert.deepEqual([...relay.members.coordinators].sort(), ['a', 'b', 'c'])
    assert.equal(servers[0]!.coordinator.counts.relays, 1)
  })

  it('it goes on after all were away, and those that it knew first are no more', () => {
    const { net, kill, live } = world()
    const relay = new SimMembers(net, 'rs1', '192.0.2.66', ['rs'], [HOSTS[0]])
    net.run(3000)
    for (const i of [0, 1]) kill(i)
    net.run(120_000)
    assert.deepEqual(relay.members.coordinators, [])
    live(1)
    net.run(40_000)
    assert.deepEqual(relay.members.coordinators, ['b'])
  })

  it('NT-24, NT-25: a relay that one has allocated is what the other gives the pair, after that one was lost', () => {
    const { net, kill, node, has } = world()
    const relay = new SimMembers(net, 'rs1', '192.0.2.66', ['rs'], [HOSTS[0]])
    net.run(3000)
    const [alice, bob] = [node('alice', 0), node('bob', 0)]
    alice.resolve(bob.name)
    net.until(() => [alice, bob].every((each) => each.ways().includes('relay')))
    const [channel] = relay.relay.channels
    kill(0)
    for (const each of [alice, bob]) each.machine.register(net.now)
    net.until(() => has(1, alice) && has(1, bob), 60_000)
    const before = alice.of('direction').length
    alice.resolve(bob.name)
    net.until(() => alice.of('direction').length > before, 20_000)
    assert.deepEqual([...relay.relay.channels], [channel], 'the same channel')
    for (const each of [alice, bob]) assert.ok(each.ways().includes('relay'))
    const gone = [alice, bob].flatMap((each) => each.of('way-gone'))
    assert.deepEqual(gone, [], 'no way was lost')
    assert.ok(relay.asked.some((each) => each === `b ${Type.RELAY_ORDER}`))
  })

  it('NT-24: nodes of two coordinators are connected by a relay apart, whichever of both is asked', () => {
    const { net, node } = world()
    new SimMembers(net, 'rs1', '192.0.2.66', ['rs'], [HOSTS[1]])
    net.run(3000)
    const [alice, bob] = [node('alice', 0), node('bob', 1)]
    alice.resolve(bob.name)
    net.until(() => [alice, bob].every((each) => each.ways().includes('relay')))
  })

  it('NT-21: a node is notified through the server apart by the coordinator that has it, for a node of the other', () => {
    const { net, node } = world()
    const ns = new SimMembers(net, 'ns1', '192.0.2.31', ['ns'], [HOSTS[0]])
    new SimMembers(net, 'rs1', '192.0.2.66', ['rs'], [HOSTS[0]])
    net.run(3000)
    const [alice, bob] = [node('alice', 0), node('bob', 1, true)]
    assert.equal(ns.announced.get(bob.name)!.by, 'b')
    ns.setConnected(bob.name, true)
    ns.onNotification = (_name, datagram) => bob.machine.handleNotification(datagram, net.now)
    bob.machine.setNotified(true, net.now)
    net.run(60_000)
    alice.resolve(bob.name)
    net.until(() => alice.ways().includes('relay'))
    assert.deepEqual(
      ns.asked.filter((each) => each.endsWith(` ${Type.NOTIFICATION}`)),
      [`b ${Type.NOTIFICATION}`],
    )
  })

  it('NT-21: the coordinator of a node that sleeps is lost: the server apart tells the other, which wakes the node', () => {
    const { net, servers, kill, node, has } = world()
    const ns = new SimMembers(net, 'ns1', '192.0.2.31', ['ns'], [HOSTS[0]])
    new SimMembers(net, 'rs1', '192.0.2.66', ['rs'], [HOSTS[0]])
    net.run(3000)
    const [alice, bob] = [node('alice', 1), node('bob', 0, true)]
    ns.setConnected(bob.name, true)
    ns.onNotification = (_name, datagram) => {
      bob.machine.handleNotification(datagram, net.now)
      bob.drain()
    }
    bob.machine.setNotified(true, net.now)
    const { token } = ns.announced.get(bob.name)!
    net.run(60_000)
    assert.equal(servers[1]!.coordinator.counts.notified, 0)
    kill(0)
    net.run(10_000)
    assert.equal(servers[1]!.coordinator.counts.notified, 1)
    assert.ok(!has(1, bob), 'it sleeps')
    const refused = alice.of('refused').length
    alice.resolve(bob.name)
    net.until(() => has(1, bob), 30_000)
    if (alice.of('refused').length > refused) alice.resolve(bob.name)
    net.until(() => alice.ways().includes('relay'), 20_000)
    assert.deepEqual(ns.announced.get(bob.name), { token, by: 'b' }, 'its connection goes on')
    assert.deepEqual(ns.ended, [])
  })

  it('NT-21: a node that goes to another coordinator keeps its connection to the server apart, and the one that it left is told nothing of it', () => {
    const { net, servers, node, has } = world()
    const ns = new SimMembers(net, 'ns1', '192.0.2.31', ['ns'], [HOSTS[0]])
    net.run(3000)
    const bob = node('bob', 0, true)
    ns.setConnected(bob.name, true)
    net.run(5000)
    bob.machine.setCoordinator([at(`${HOSTS[1]}:6741`)], net.now)
    bob.machine.register(net.now)
    bob.drain()
    net.until(() => has(1, bob) && !has(0, bob), 90_000)
    net.run(2000)
    assert.deepEqual(ns.ended, [])
    assert.equal(ns.announced.get(bob.name)!.by, 'b')
    ns.setConnected(bob.name, true)
    net.run(5000)
    assert.deepEqual(
      servers.map(({ coordinator }) => coordinator.counts.notified),
      [0, 1],
    )
    // Both start anew: each is told of its own.
    for (const server of servers) server.restart()
    for (const server of servers) server.handleSoft({ type: 'soft-up' })
    net.run(10_000)
    assert.deepEqual(
      servers.map(({ coordinator }) => coordinator.counts.notified),
      [0, 1],
    )
  })

  it('NT-21: a server apart that was broken into says that it has the nodes of another coordinator: they are found there all the same', () => {
    const { net, servers, node } = world()
    const ns = new SimMembers(net, 'ns1', '192.0.2.31', ['ns'], [HOSTS[0]])
    new SimMembers(net, 'rs1', '192.0.2.66', ['rs'], [HOSTS[0]])
    net.run(3000)
    const [alice, bob] = [node('alice', 0), node('bob', 1, true)]
    const lie = { type: Type.NOTIFICATION_STATE, nodeName: bob.name, token: new Uint8Array(32).fill(3) }
    ns.members.requestOf('a', { ...lie, status: Connection.BEFORE }, 3000, () => {}, net.now)
    net.run(1000)
    assert.equal(servers[0]!.coordinator.counts.notified, 1)
    alice.resolve(bob.name)
    net.until(() => alice.ways().includes('relay'))
    assert.deepEqual(alice.of('refused'), [])
  })

  it('NT-26: each coordinator hears where the cache servers of the others are, again and again, and not of one that is lost', () => {
    const { net, servers, add, kill } = world(2, true)
    net.run(3000)
    add(2)
    net.run(3000)
    const heard = (i: number) =>
      new Set(servers[i]!.cacheServers.map((each) => (each as { host: string }).host))
    for (const [i, { cacheServers, coordinator }] of servers.entries()) {
      const others = NAMES.filter((_, other) => other !== i)
      assert.deepEqual(
        [...heard(i)].sort(),
        others.map((each) => `${each}.example`),
      )
      const [other] = [1, 0, 0].slice(i)
      assert.deepEqual(
        cacheServers.find((each) => (each as { host: string }).host === `${NAMES[other!]}.example`),
        cacheOf(other!),
      )
      assert.equal(coordinator.counts.refused, 0)
    }
    kill(0)
    net.run(2000)
    const before = servers[1]!.cacheServers.length
    net.run(10_000)
    const later = servers[1]!.cacheServers.slice(before)
    assert.ok(later.length >= 8, `${later.length} times in ten seconds`)
    assert.ok(later.every((each) => (each as { host: string }).host === 'c.example'))
  })

  it('NT-26, NT-13: the cache server and the account server ask whichever answers; of a node that one does not know yet the other is asked', () => {
    const { net, directory, add, kill } = world(1)
    const apart = new SimMembers(net, 'files', '192.0.2.41', ['cs', 'as'], [HOSTS[0]])
    const late = new MemoryDirectory()
    for (const [name, record] of directory.servers) late.servers.set(name, record)
    add(1, late)
    net.run(4000)
    assert.deepEqual(apart.members.coordinators, ['a', 'b'])
    // A login of just now: only the copy of the second has it.
    const alice = net.node('alice')
    const record = directory.nodes.get(alice.name)!
    directory.nodes.delete(alice.name)
    late.nodes.set(alice.name, record)
    const { keyId } = record
    const question = { type: Type.NODE_REQUEST, keyId, proof: cacheProof(overlayCrypto, record.key, keyId) }
    assert.equal(asked(apart, question, net)?.nodeName, alice.name)
    const forged = { ...question, proof: new Uint8Array(16) }
    assert.equal(asked(apart, forged, net)?.status, Status.UNKNOWN_NAME)
    kill(0)
    const login = {
      ...{ type: Type.KEY_DISTRIBUTION, nodeName: 'carol.test.example', account: 'carol', seq: 1 },
      ...{ accountId: new Uint8Array(8).fill(1), publicKey: new Uint8Array(32).fill(4) },
      ...{ keyId: new Uint8Array(16).fill(5), key: new Uint8Array(32).fill(6) },
    }
    assert.equal(asked(apart, login, net)?.status, Status.DONE, 'not yet taken for lost')
    assert.ok(late.nodes.has('carol.test.example'))
    net.run(10_000)
    assert.deepEqual(apart.members.coordinators, ['b'])
    assert.equal(asked(apart, question, net)?.nodeName, alice.name)
  })
})
