/** Coordinator, relay and nodes, all real machines, on a virtual network: registration, routes, relays, moves, attackers. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { equal } from '../../../src/core/bytes.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { checkLease } from '../../../src/overlay/wire/lease.ts'
import { Status } from '../../../src/overlay/wire/message.ts'
import { MachineServers, ZONE } from '../../support/overlay-servers.ts'
import { at, Nat, type NatKind, Network, SimNode, text } from './network.ts'

function world(init: ConstructorParameters<typeof MachineServers>[1] = {}, seed = 1) {
  const net = new Network(seed, (parts) => new MachineServers(parts, init))
  return { net, servers: net.servers as MachineServers }
}

function place(node: SimNode, kind: NatKind | undefined, n: number, sameInside = false): void {
  if (kind === undefined) node.use({ socket: 0, address: `198.51.100.${n}`, port: 5000 + n })
  else
    node.use({
      ...{ socket: 0, address: sameInside ? '192.168.1.10' : `192.168.${n}.10`, port: 5000 },
      nat: new Nat(kind, `203.0.113.${n}`),
    })
}

function pair(kindA: NatKind | undefined, kindB: NatKind | undefined, init = {}, sameInside = false) {
  const { net, servers } = world(init)
  const a = net.node('alice')
  const b = net.node('bob')
  place(a, kindA, 1, sameInside)
  place(b, kindB, 2, sameInside)
  net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
  return { net, servers, a, b }
}

const hasWay = (node: SimNode, kind: string) => node.ways().includes(kind)

describe('NT-39, NT-16: registration', () => {
  it('NT-39, NT-16: two round trips; the lease is the zone’s; addresses differ and stay', () => {
    const { net, servers, a, b } = pair(undefined, 'port-restricted')
    const first = a.of('registered')[0]!
    assert.ok(checkLease(first.encoded, ZONE.zoneKey, net.wall + net.now, overlayCrypto.verify).ok)
    assert.equal(text({ address: first.lease.v4!, port: 0 }), '100.96.0.1:0')
    assert.equal(equal(first.lease.v6, b.of('registered')[0]!.lease.v6), false)
    assert.equal(text(b.of('registered')[0]!.observed).split(':')[0], '203.0.113.2')
    assert.equal(servers.coordinator.location(a.name)?.proven, true)
    a.machine.wake(net.now)
    a.drain()
    net.until(() => a.of('registered').length > 1)
    assert.deepEqual(a.of('registered')[1]!.encoded, first.encoded)
  })

  it('NT-16: a clock that is far ahead is named as what is wrong, and when it is set right the node registers by itself', () => {
    const { net } = world()
    const a = net.node('alice')
    const b = net.node('bob')
    place(a, undefined, 1)
    place(b, undefined, 2)
    a.ahead = 800 * 86_400_000
    net.until(() => b.of('registered').length > 0)
    net.until(() => a.of('unregistered').length > 0)
    assert.match(
      a.of('unregistered')[0]!.reason,
      /its lease has ended by this machine's clock \(is it right\?\)/,
    )
    a.ahead = 0
    net.until(() => a.of('registered').length > 0, 120_000)
    // A clock without a battery says 1970: nothing is refused.
    b.ahead = -net.wall
    a.machine.resolve(b.name, net.now)
    net.until(() => a.of('direction').length > 0 && b.of('direction').length > 0, 30_000)
  })

  it('the coordinator restarts: the nodes come back by themselves, with the addresses that they had', () => {
    const { net, servers, a } = pair('port-restricted', undefined)
    const before = a.of('registered').length
    servers.restart()
    net.until(() => servers.coordinator.location(a.name) !== undefined, 120_000)
    net.until(() => a.of('registered').length > before)
    assert.deepEqual(a.of('registered').at(-1)!.lease.v6, a.of('registered')[0]!.lease.v6)
  })

  it('the store is lost but for the logins: leases that nodes present give the addresses back, and no new node gets one', () => {
    const { net, servers, a, b } = pair(undefined, undefined)
    for (const [name, node] of servers.directory.nodes) {
      const { lease: _, ...kept } = node
      servers.directory.nodes.set(name, kept)
    }
    servers.directory.numbers.clear()
    b.machine.wake(net.now)
    b.drain()
    net.until(() => b.of('registered').length > 1)
    assert.deepEqual(b.of('registered').at(-1)!.lease.v6, b.of('registered')[0]!.lease.v6)
    const c = net.node('carol')
    place(c, undefined, 3)
    net.until(() => c.of('registered').length > 0)
    const { v6 } = c.of('registered')[0]!.lease
    assert.equal(
      [a, b].some((node) => equal(node.of('registered')[0]!.lease.v6, v6)),
      false,
    )
  })

  it('a node that moves while the answer to its OPEN is on its way is there within seconds', () => {
    const { net, servers } = world()
    const a = net.node('alice')
    a.use({ socket: 0, address: '198.51.100.1', port: 5001 })
    net.until(() => servers.coordinator.location(a.name) !== undefined)
    a.use({ socket: 1, address: '198.51.100.77', port: 5001 })
    net.until(() => servers.coordinator.location(a.name)?.observed.address[3] === 77, 3000)
    net.until(() => a.of('registered').length > 0, 1000)
  })

  it('an address counts only after it has answered: one that a move names unproven gets no direction', () => {
    const { net, servers, a, b } = pair(undefined, undefined)
    a.use({ socket: 1, address: '198.51.100.77', port: 5001 })
    let unproven = false
    net.until(() => {
      const observed = servers.coordinator.location(a.name)!.observed
      if (a.of('registered').length > 1 && observed.address[3] === 1) unproven = true
      return observed.address[3] === 77
    })
    assert.ok(unproven, 'the old location stood until the new one had answered')
    b.resolve(a.name)
    net.until(() => b.of('direction').length > 0)
  })
})

describe('NT-40, NT-43, NT-45: directions', () => {
  const cases: readonly (readonly [NatKind | undefined, NatKind | undefined, string])[] = [
    [undefined, undefined, 'direct'],
    [undefined, 'port-restricted', 'direct'],
    ['port-restricted', undefined, 'direct'],
    ['symmetric', undefined, 'direct'],
    ['port-restricted', 'port-restricted', 'direct'],
    ['full-cone', 'symmetric', 'direct'],
    ['symmetric', 'symmetric', 'relay'],
    ['symmetric', 'port-restricted', 'relay'],
  ]
  for (const [kindA, kindB, best] of cases)
    it(`NT-45: ${kindA ?? 'global'} to ${kindB ?? 'global'}: ${best}`, () => {
      const { net, a, b } = pair(kindA, kindB)
      a.resolve(b.name)
      net.until(() => hasWay(a, best) && hasWay(b, best))
      net.run(5000)
      if (best === 'relay') assert.equal(hasWay(a, 'direct'), false)
      assert.ok(equal(a.of('direction')[0]!.pairKey, b.of('direction')[0]!.pairKey))
    })

  it('NT-46: both behind NATs: the relay is there within two round trips, then the direct way (NT-47)', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    const began = net.now
    a.resolve(b.name)
    net.until(() => hasWay(a, 'relay') && hasWay(b, 'relay'))
    assert.ok(net.now - began <= 4 * 2 * net.delay, `${net.now - began} ms`)
    net.until(() => hasWay(a, 'direct') && hasWay(b, 'direct'), 1000)
  })

  it('NT-48: the same private address on both sides: relay and direct work', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted', {}, true)
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct') && hasWay(b, 'direct'))
  })

  it('the pair key stays the same over directions and restarts of the coordinator', () => {
    const { net, servers, a, b } = pair(undefined, undefined)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
    const before = a.of('direction')[0]!.pairKey
    servers.restart()
    b.machine.wake(net.now)
    a.machine.wake(net.now)
    a.drain()
    b.drain()
    net.until(() => servers.coordinator.counts.nodes === 2, 120_000)
    b.resolve(a.name)
    net.until(() => b.of('direction').length > 0)
    assert.deepEqual(b.of('direction').at(-1)!.pairKey, before)
  })

  it('a relay server that does not answer: both nodes are directed without it', () => {
    const { net, servers, a, b } = pair('port-restricted', 'port-restricted')
    servers.relayAnswers = false
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct') && hasWay(b, 'direct'))
  })

  it('NT-43: a node moves: it is directed anew, the relay follows it, and the other has its new way', () => {
    const { net, a, b } = pair('symmetric', 'symmetric')
    a.resolve(b.name)
    net.until(() => hasWay(a, 'relay') && hasWay(b, 'relay'))
    const directed = b.of('direction').length
    a.use({ socket: 1, address: '192.168.7.10', port: 5001, nat: new Nat('symmetric', '203.0.113.7') })
    net.until(() => a.of('way').some((way) => way.kind === 'relay' && way.socket === 1))
    net.until(() => b.of('direction').length > directed)
  })

  it('NT-44: both move at the same time and find each other', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct') && hasWay(b, 'direct'))
    a.use({ socket: 1, address: '192.168.7.10', port: 5001, nat: new Nat('port-restricted', '203.0.113.7') })
    b.use({ socket: 1, address: '192.168.8.10', port: 5001, nat: new Nat('port-restricted', '203.0.113.8') })
    const to = (node: SimNode, address: string) =>
      node.of('way').some((way) => way.kind === 'direct' && text(way.remote).startsWith(`${address}:`))
    net.until(() => to(a, '203.0.113.8') && to(b, '203.0.113.7'), 10_000)
  })
})

describe('who may ask for whom (D10)', () => {
  const refusal = (net: Network, node: SimNode, name: string): number => {
    const before = node.of('refused').length
    node.resolve(name)
    net.until(() => node.of('refused').length > before)
    return node.of('refused').at(-1)!.status
  }

  it('refuses unknown names, other zones, nodes that are off, and those that do not want to be asked for', () => {
    const { net, servers, a, b } = pair(undefined, undefined)
    assert.equal(refusal(net, a, 'nobody.test.example'), Status.UNKNOWN_NAME)
    assert.equal(refusal(net, a, 'x.other.example'), Status.UNREACHED)
    servers.directory.access.set(b.name, ['carol.test.example'])
    assert.equal(refusal(net, a, b.name), Status.NOT_ALLOWED)
    servers.directory.access.set(b.name, ['*.test.example'])
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
    net.node('dave')
    assert.equal(refusal(net, a, 'dave.test.example'), Status.NOT_REGISTERED)
  })

  it('where the zone is closed, only nodes of one account', () => {
    const { net, servers, a, b } = pair(undefined, undefined, { openTo: 'account' })
    assert.equal(refusal(net, a, b.name), Status.NOT_ALLOWED)
    const record = servers.directory.nodeByName(b.name)!
    servers.directory.nodes.set(b.name, { ...record, account: servers.directory.nodeByName(a.name)!.account })
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
  })

  it('who has proven an address and left it: one direction that nobody there acknowledges is the last', () => {
    const { net, a, b } = pair(undefined, undefined)
    b.sockets[0]!.down = true
    a.resolve(b.name)
    net.run(20_000)
    assert.equal(refusal(net, a, b.name), Status.NOT_REGISTERED)
    b.sockets[0]!.down = false
    net.run(60_000)
    a.resolve(b.name)
    net.until(() => b.of('direction').length > 0)
  })

  it('a node that fell silent is said to be off within two minutes, and gets no data', () => {
    const { net, a, b } = pair(undefined, undefined)
    b.sockets[0]!.down = true
    net.run(120_000)
    assert.equal(refusal(net, a, b.name), Status.NOT_REGISTERED)
  })
})

describe('attackers', () => {
  it('whatever is sent from an address that has not answered gets at most three times its bytes, and makes no state', () => {
    const { net, servers, a } = pair(undefined, undefined)
    const captured: Uint8Array[] = []
    net.filter = (from, to, bytes) => {
      if (from.startsWith('198.51.100.1:') && to.startsWith('192.0.2.')) captured.push(bytes.slice())
      return true
    }
    a.machine.wake(net.now)
    a.drain()
    net.run(60_000)
    assert.ok(captured.length >= 3)
    const before = servers.coordinator.counts
    const sent = new Map<string, number>()
    const answered = new Map<string, number>()
    const { deliver } = net
    net.deliver = function (source, to, bytes, within) {
      answered.set(text(to), (answered.get(text(to)) ?? 0) + bytes.length)
      deliver.call(this, source, to, bytes, within)
    }
    for (const [i, bytes] of captured.entries())
      for (const variant of [
        bytes,
        bytes.map((byte, at) => (at === 40 ? byte ^ 1 : byte)),
        bytes.slice(0, 20),
      ]) {
        const victim = `203.0.113.99:${1000 + i}`
        sent.set(victim, (sent.get(victim) ?? 0) + variant.length)
        servers.receive(0, variant, at(victim))
      }
    for (const [victim, bytes] of answered)
      if (victim.startsWith('203.0.113.99'))
        assert.ok(bytes <= 3 * sent.get(victim)!, `${bytes} for ${sent.get(victim)}`)
    assert.equal(servers.coordinator.counts.nodes, before.nodes)
    assert.equal(servers.coordinator.counts.sessions, before.sessions)
    assert.equal(text(servers.coordinator.location(a.name)!.observed), '198.51.100.1:5001')
  })

  it('a captured OPEN makes no second session, and a flood of requests from one source costs others nothing', () => {
    const { net, servers, a } = pair(undefined, undefined)
    const { sessions } = servers.coordinator.counts
    const opens: Uint8Array[] = []
    net.filter = (_from, _to, bytes) => {
      if (bytes[0] === 0x4e && (bytes[2] === 3 || bytes[2] === 1)) opens.push(bytes.slice())
      return true
    }
    servers.restart()
    a.machine.wake(net.now)
    a.drain()
    net.until(() => servers.coordinator.location(a.name) !== undefined, 120_000)
    const open = opens.find((bytes) => bytes[2] === 3)!
    const before = servers.coordinator.counts.sessions!
    for (let i = 0; i < 100; i++) servers.receive(0, open, at('198.51.100.1:5001'))
    assert.equal(servers.coordinator.counts.sessions, before)
    assert.ok(before <= sessions!)
    const request = opens.find((bytes) => bytes[2] === 1)!
    for (let i = 0; i < 5000; i++) servers.receive(0, request, at('203.0.113.50:9'))
    assert.ok(servers.coordinator.counts.limited! > 2000)
    const c = net.node('carol')
    place(c, undefined, 3)
    net.until(() => c.of('registered').length > 0, 2000)
  })

  it('who shows the public key of another node gets nothing of its pairs: another pair key, another channel, and that one stays', () => {
    const { net, servers, a, b } = pair('symmetric', 'symmetric')
    a.resolve(b.name)
    net.until(() => hasWay(a, 'relay') && hasWay(b, 'relay'))
    const [channel] = servers.relay.channels
    const before = channel!.sides.map(({ bound }) => text(bound!))
    const mallory = new SimNode(net, 'mallory.test.example', 1)
    assert.deepEqual(mallory.publicKey, a.publicKey)
    mallory.use({ socket: 0, address: '192.168.9.10', port: 5000, nat: new Nat('symmetric', '203.0.113.66') })
    net.until(() => mallory.of('registered').length > 0)
    mallory.resolve(b.name)
    net.until(() => mallory.of('direction').length > 0)
    net.run(1000)
    assert.notDeepEqual(mallory.of('direction')[0]!.pairKey, a.of('direction')[0]!.pairKey)
    assert.deepEqual(
      channel!.sides.map(({ bound }) => text(bound!)),
      before,
    )
    assert.equal([...servers.relay.channels].length, 2)
  })

  it('an OPEN or an echo that was held back does not move a node to where it was before', () => {
    const { net, servers } = world()
    const a = net.node('alice')
    const opens: Uint8Array[] = []
    net.filter = (_from, _to, bytes) => {
      if (bytes[2] === 3) opens.push(bytes.slice())
      return true
    }
    a.use({ socket: 0, address: '198.51.100.1', port: 5001 })
    const isAt = (last: number) => servers.coordinator.location(a.name)?.observed.address[3] === last
    net.until(() => isAt(1))
    net.run(1000)
    a.use({ socket: 1, address: '198.51.100.77', port: 5001 })
    net.until(() => isAt(77))
    net.run(1000)
    servers.receive(0, opens[0]!, at('198.51.100.1:5001'))
    assert.ok(isAt(77), 'a repeated OPEN')
    const held: Uint8Array[] = []
    net.filter = (from, _to, bytes) => {
      const isEcho = from.startsWith('198.51.100.88:') && bytes[2] === 5 && bytes.length < 100
      if (isEcho) held.push(bytes.slice())
      return !isEcho
    }
    a.use({ socket: 2, address: '198.51.100.88', port: 5001 })
    net.until(() => held.length > 0)
    a.use({ socket: 3, address: '198.51.100.99', port: 5001 })
    net.until(() => isAt(99))
    for (const bytes of held) servers.receive(0, bytes, at('198.51.100.88:5001'))
    assert.ok(isAt(99), 'an echo that was held back')
  })

  it('an OPEN that never came, released within two minutes of a move, does not take the node back; its next move counts', () => {
    for (const wait of [0, 5_000, 50_000]) {
      const { net, servers } = world()
      const a = net.node('alice')
      const held: Uint8Array[] = []
      net.filter = (from, _to, bytes) => {
        const isHeld = from.startsWith('198.51.100.88:') && bytes[2] === 3
        if (isHeld) held.push(bytes.slice())
        return !isHeld
      }
      const isAt = (last: number) => servers.coordinator.location(a.name)?.observed.address[3] === last
      a.use({ socket: 0, address: '198.51.100.88', port: 5001 })
      net.until(() => held.length > 0)
      a.use({ socket: 1, address: '198.51.100.99', port: 5001 })
      net.until(() => isAt(99))
      net.run(wait)
      const candidates = servers.coordinator.location(a.name)!.hosts
      for (const bytes of held) servers.receive(0, bytes, at('198.51.100.88:5001'))
      assert.ok(isAt(99), `after ${wait} ms`)
      net.run(100)
      assert.ok(isAt(99), `after ${wait} ms and a moment`)
      assert.deepEqual(servers.coordinator.location(a.name)!.hosts, candidates)
      net.filter = () => true
      a.use({ socket: 2, address: '198.51.100.88', port: 5002 })
      net.until(() => isAt(88))
    }
  })

  it('an account that fills the ports of a node at the relay pays alone: another still gets a channel there', () => {
    const { net, servers, a, b } = pair('symmetric', 'symmetric')
    const greedy = Array.from({ length: 12 }, (_, i) => {
      const node = net.node(`greedy${i}`)
      place(node, 'symmetric', 20 + i)
      const record = servers.directory.nodeByName(node.name)!
      servers.directory.nodes.set(node.name, { ...record, account: 'greedy' })
      return node
    })
    net.until(() => greedy.every((node) => node.of('registered').length > 0))
    for (const node of greedy) {
      node.resolve(b.name)
      net.run(200)
    }
    a.resolve(b.name)
    net.until(() => hasWay(a, 'relay'), 2000)
  })

  it('the relay answers nobody without a key, forwards for bound addresses only, and forgets idle channels', () => {
    const { net, servers, a, b } = pair('symmetric', 'symmetric')
    a.resolve(b.name)
    net.until(() => hasWay(a, 'relay') && hasWay(b, 'relay'))
    const [channel] = servers.relay.channels
    const [side] = channel!.sides
    const counts: number[] = []
    const { deliver } = net
    net.deliver = function (source, to, bytes, within) {
      counts.push(bytes.length)
      deliver.call(this, source, to, bytes, within)
    }
    servers.receive(side.port + 1, new Uint8Array(52).fill(0x4e), at('203.0.113.99:1'))
    servers.receive(side.port + 1, Uint8Array.of(4, 0, 0, 0), at('203.0.113.99:1'))
    assert.deepEqual(counts, [])
    servers.receive(side.port + 1, Uint8Array.of(4, 0, 0, 0), side.bound!)
    assert.deepEqual(counts, [4])
    net.deliver = deliver
    a.sockets[0]!.down = true
    b.sockets[0]!.down = true
    net.run(400_000)
    assert.equal([...servers.relay.channels].length, 0)
  })
})

it('networks that lose a third of all datagrams: nodes register, find each other by relay and directly, and after a move', () => {
  for (let seed = 1; seed <= 10; seed++) {
    const { net } = world({}, seed)
    let state = seed
    const isLost = () => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return state >>> 16 < 0x10000 / 3
    }
    net.filter = () => !isLost()
    const { deliver } = net
    net.deliver = function (source, to, bytes, within) {
      // What the servers send; datagrams of nodes pass the filter.
      if (source.startsWith('192.0.2.') && isLost()) return
      deliver.call(this, source, to, bytes, within)
    }
    const a = net.node('alice')
    const b = net.node('bob')
    place(a, 'port-restricted', 1)
    place(b, 'port-restricted', 2)
    net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0, 60_000)
    const found = () => hasWay(a, 'direct') && hasWay(b, 'direct')
    for (let tries = 0; tries < 5 && !found(); tries++) {
      a.resolve(b.name)
      net.run(12_000)
    }
    assert.ok(found(), `seed ${seed}`)
    a.use({ socket: 1, address: '192.168.7.10', port: 5001, nat: new Nat('port-restricted', '203.0.113.7') })
    const there = () => a.of('way').some((way) => way.kind === 'direct' && way.socket === 1)
    for (let tries = 0; tries < 5 && !there(); tries++) {
      net.run(15_000)
      a.machine.noteNoPath(b.name, net.now)
      a.drain()
    }
    assert.ok(there(), `after a move, seed ${seed}`)
  }
})

it('NT-43: the steps of relayed construction (Fig. 7), by the paper’s names and in its order', () => {
  const { net, servers, a, b } = pair('port-restricted', 'port-restricted')
  servers.steps.length = 0
  a.resolve(b.name)
  net.until(() => hasWay(a, 'relay'))
  net.run(500)
  const names = servers.steps.map((step) => step.split(' ').at(-1))
  assert.deepEqual(names.slice(0, 5), [
    'DIRECTION_REQUEST',
    'RELAY_ORDER',
    'RELAY_ORDER_ACK',
    'ROUTE_DIRECTION',
    'ROUTE_DIRECTION',
  ])
  assert.equal(names.filter((name) => name === 'ROUTE_DIRECTION_ACK').length, 2)
})
