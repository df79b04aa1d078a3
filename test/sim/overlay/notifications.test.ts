/** NT-21, NT-22: nodes that datagrams no longer reach are woken through their notification server. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { equal, toHex } from '../../../src/core/bytes.ts'
import { Notifier } from '../../../src/overlay/machine/notifier.ts'
import type { NodeRecord } from '../../../src/overlay/tables.ts'
import { MAX_PUSH, Status } from '../../../src/overlay/wire/message.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { Nat, Network, type SimNode, text } from './network.ts'

const NOTIFICATION = { host: 'ns.test.example', port: 6742, certificate: new Uint8Array(32).fill(3) }

/** Alice and the notified bob, each behind a NAT of its own. */
function pair(init: ConstructorParameters<typeof MachineServers>[1] = {}, push?: string) {
  const net = new Network(1, (parts) => new MachineServers(parts, { notification: NOTIFICATION, ...init }))
  const servers = net.servers as MachineServers
  const a = net.node('alice')
  const b = net.node('bob', net.sites[0], push === undefined ? {} : { push })
  for (const [i, node] of [a, b].entries())
    node.use({
      ...{ socket: 0, address: `192.168.${i}.10`, port: 5000 },
      nat: new Nat('port-restricted', `203.0.113.${i + 1}`),
    })
  net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
  return { net, servers, a, b }
}

/** The node connects to the notification server as its registration says. */
function connect(net: Network, servers: MachineServers, node: SimNode): void {
  const { notification } = node.of('registered').at(-1)!
  servers.coordinator.handleNotified(node.name, notification!.token, true)
  node.machine.setNotified(true, net.now)
}

/** Minutes pass: the NAT forgets the node's mapping, and gives it another one. */
function sleep(net: Network, node: SimNode): void {
  net.run(120_000)
  const [socket] = node.sockets
  const nat = new Nat('port-restricted', socket!.nat!.outside)
  nat.out('another host', 'anywhere')
  node.sockets[0] = { ...socket!, nat }
}

/** What the coordinator gave the notification server reaches the node. */
function bring(net: Network, servers: MachineServers, node: SimNode): void {
  for (const { datagram } of servers.notifications.splice(0)) {
    node.machine.handleNotification(datagram, net.now)
    node.drain()
  }
}

const statusOf = (node: SimNode) => node.of('refused').map(({ status }) => status)

describe('NT-21, NT-39, NT-40: a node that is asleep', () => {
  it('NT-16: an address whose commit failed is never answered, also when the notification server is: another node has it', () => {
    const net = new Network(1, (parts) => new MachineServers(parts, { notification: NOTIFICATION }))
    const servers = net.servers as MachineServers
    servers.failing = 1
    const nodes = ['alice', 'bob'].map((name, i) => {
      const node = net.node(name, net.sites[0], {})
      const nat = new Nat('port-restricted', `203.0.113.${i + 1}`)
      node.use({ socket: 0, address: `192.168.${i}.10`, port: 5000, nat })
      return node
    })
    net.run(5000)
    assert.equal(servers.failing, 0)
    const leases = nodes.map((node) => node.of('registered').map(({ lease }) => toHex(lease.v6)))
    assert.ok(
      leases.every((each) => new Set(each).size === 1),
      `one address each: ${leases.join(' ')}`,
    )
    assert.notEqual(leases[0]![0], leases[1]![0])
  })

  it('NT-39: steps 10 and 11: the token is with the notification server before the registration is answered', () => {
    const { servers, b } = pair()
    const { notification } = b.of('registered')[0]!
    assert.deepEqual(
      { host: notification!.host, port: notification!.port, certificate: notification!.certificate },
      NOTIFICATION,
    )
    assert.ok(equal(notification!.token, servers.prepared.get(b.name)!))
    const steps = servers.steps.filter((step) => /NOTIFICATION|bob.*REGISTRATION/.test(step))
    assert.deepEqual(
      steps.map((step) => step.replace(/\.test\.example/g, '')),
      [
        'bob dc REGISTRATION_REQUEST',
        'dc notification NOTIFICATION_PREPARE',
        'notification dc NOTIFICATION_PREPARE_ACK',
        'dc bob REGISTRATION_RESPONSE',
      ],
    )
  })

  it('NT-40: steps 9 to 11: it is notified, answers from its new mapping, and both are directed there', () => {
    const { net, servers, a, b } = pair()
    connect(net, servers, b)
    sleep(net, b)
    servers.steps.length = 0
    a.resolve(b.name)
    net.until(() => servers.notifications.length > 0, 100)
    assert.equal(a.of('direction').length, 0)
    bring(net, servers, b)
    net.until(() => a.ways().includes('direct') && b.ways().includes('direct'), 2000)
    const steps = servers.steps.map((step) => step.replace(/\.test\.example/g, ''))
    const order = [
      'alice dc DIRECTION_REQUEST',
      'dc notification NOTIFICATION',
      'bob dc NOTIFICATION_ACK',
      'dc bob ROUTE_DIRECTION',
      'bob dc ROUTE_DIRECTION_ACK',
    ].map((step) => steps.indexOf(step))
    assert.ok(
      order.every((at, i) => at >= 0 && (i === 0 || at > order[i - 1]!)),
      steps.join('\n'),
    )
    const { observed } = servers.coordinator.location(b.name)!
    assert.equal(text(observed), '203.0.113.2:40001')
  })

  it('a mapping that was forgotten sooner than expected: what is not acknowledged is notified', () => {
    const { net, servers, a, b } = pair()
    connect(net, servers, b)
    const [socket] = b.sockets
    b.sockets[0] = { ...socket!, nat: new Nat('port-restricted', '203.0.113.9') }
    a.resolve(b.name)
    net.until(() => servers.notifications.length > 0, 3000)
    bring(net, servers, b)
    net.until(() => b.of('direction').length > 0, 2000)
  })

  it('one that asks itself shows first where it is: its own direction arrives', () => {
    const { net, servers, a, b } = pair()
    connect(net, servers, b)
    sleep(net, b)
    b.resolve(a.name)
    net.until(() => b.of('direction').length > 0 && a.of('direction').length > 0, 2000)
    assert.deepEqual(statusOf(b), [])
  })

  it('the notification is of no use to who holds it back or repeats it, and strange ones cause one registration in ten seconds', () => {
    const { net, servers, a, b } = pair()
    connect(net, servers, b)
    sleep(net, b)
    a.resolve(b.name)
    net.until(() => servers.notifications.length > 0, 100)
    const { datagram } = servers.notifications[0]!
    bring(net, servers, b)
    net.until(() => b.of('direction').length > 0, 2000)
    const before = net.sentBytes.get('192.0.2.1:6741')!
    const registrations = () => b.of('step').filter(({ what }) => what === 'REGISTRATION_REQUEST').length
    const first = registrations()
    for (let i = 0; i < 100; i++) {
      b.machine.handleNotification(i % 2 === 0 ? datagram : new Uint8Array(i), net.now)
      b.drain()
    }
    assert.equal(registrations() - first, 1)
    assert.ok(net.sentBytes.get('192.0.2.1:6741')! - before < 1200)
  })

  it('nothing unproven: an answer to a notification from an address that returns no challenge locates nobody', () => {
    const { net, servers, a, b } = pair()
    connect(net, servers, b)
    sleep(net, b)
    net.serverFilter = (_from, to) => !to.startsWith('203.0.113.2:')
    a.resolve(b.name)
    net.until(() => servers.notifications.length > 0, 100)
    bring(net, servers, b)
    net.run(7000)
    assert.equal(a.of('direction').length, 0)
    assert.ok(statusOf(a).includes(Status.NOT_REGISTERED))
    assert.deepEqual(servers.ended, [b.name])
  })

  it('one that does not answer for six seconds is not online, and its connection counts as dead', () => {
    const { net, servers, a, b } = pair()
    connect(net, servers, b)
    sleep(net, b)
    a.resolve(b.name)
    net.run(5900)
    assert.deepEqual(statusOf(a), [])
    net.run(300)
    assert.deepEqual(statusOf(a), [Status.NOT_REGISTERED])
    assert.deepEqual(servers.ended, [b.name])
    a.resolve(b.name)
    net.run(100)
    assert.deepEqual(statusOf(a), [Status.NOT_REGISTERED, Status.NOT_REGISTERED])
  })

  it('without a notification server it is not online after eighty seconds, as before', () => {
    const { net, a, b } = pair({ notification: undefined as never })
    assert.equal(b.of('registered')[0]!.notification, undefined)
    b.machine.setNotified(true, net.now)
    sleep(net, b)
    a.resolve(b.name)
    net.run(100)
    assert.deepEqual(statusOf(a), [Status.NOT_REGISTERED])
  })
})

describe('NT-21: who wakes whom', () => {
  it('who may not connect wakes nobody', () => {
    const { net, servers, a, b } = pair()
    connect(net, servers, b)
    servers.directory.access.set(b.name, ['carol.test.example'])
    sleep(net, b)
    a.resolve(b.name)
    net.run(1000)
    assert.deepEqual(statusOf(a), [Status.NOT_ALLOWED])
    assert.equal(servers.notifications.length, 0)
  })

  it('of one that may, eight wake-ups at once and two a minute; another is not kept from it', () => {
    const { net, servers, a, b } = pair()
    connect(net, servers, b)
    net.run(120_000)
    let woken = 0
    for (let i = 0; i < 60; i++) {
      a.resolve(b.name)
      net.run(10_000)
      woken += servers.notifications.splice(0).length
      connect(net, servers, b)
    }
    assert.ok(woken >= 8 && woken <= 8 + 20, `${woken} wake-ups`)
    const c = net.node('carol')
    c.use({ socket: 0, address: '198.51.100.3', port: 5003 })
    net.until(() => c.of('registered').length > 0)
    c.resolve(b.name)
    net.run(1000)
    assert.equal(servers.notifications.length, 1)
  })

  it('a node whose location has expired is woken by its push service alone', () => {
    const address = `https://push.example/${'x'.repeat(MAX_PUSH - 21)}`
    const { net, servers, a, b } = pair({}, address)
    b.sockets[0]!.down = true
    net.run(700_000)
    assert.equal(servers.coordinator.location(b.name), undefined)
    a.resolve(b.name)
    net.until(() => servers.notifications.length > 0, 100)
    assert.equal(servers.notifications[0]!.datagram.length, 0)
    b.sockets[0]!.down = false
    bring(net, servers, b)
    net.until(() => b.of('direction').length > 0 && a.of('direction').length > 0, 5000)
  })
})

describe('NT-21: a node that logs in again', () => {
  it('ends what its earlier login announced, also when its location has expired', () => {
    const { net, servers, b } = pair()
    b.sockets[0]!.down = true
    net.run(22_000_000)
    assert.equal(servers.coordinator.location(b.name), undefined)
    servers.ended.splice(0)
    servers.coordinator.forget(b.name)
    net.run(60_000)
    assert.deepEqual(servers.ended, [b.name])
  })
})

describe('NT-21, NT-50: what an idle node costs', () => {
  it('connected to the notification server it sends no keep-alives, stays known for a day, and costs less than 64 kB in UDP', () => {
    const { net, servers, b } = pair()
    connect(net, servers, b)
    let [datagrams, bytes] = [0, 0]
    const count = (address: string, length: number) => {
      if (!address.startsWith('203.0.113.2:')) return true
      datagrams++
      bytes += length + 28
      return true
    }
    net.filter = (from, _to, { length }) => count(from, length)
    net.serverFilter = (_from, to, { length }) => count(to, length)
    for (let hour = 0; hour < 24; hour++) {
      net.run(3_600_000)
      connect(net, servers, b)
    }
    assert.ok(servers.coordinator.location(b.name) !== undefined)
    assert.ok(datagrams <= 60 && bytes < 64_000, `${datagrams} datagrams, ${bytes} bytes`)
  })
})

it('NT-21: one zone or account holds a share of the places that wait for a node; others find room, also when all are taken', () => {
  const accounts = new Map([['bob.test', 'bobs']])
  for (let i = 0; i < 20; i++) accounts.set(`a${i}.test`, 'greedy')
  const notifier = new Notifier({
    at: () => NOTIFICATION,
    ...{ token: () => new Uint8Array(32), number: () => 1, emit: () => {}, step: () => {} },
    seal: () => undefined,
    directory: {
      nodeByName: (name) => ({ account: accounts.get(name) }) as NodeRecord,
      ...{ pushOf: () => 'https://push.example/1', setPush: () => {} },
      ...{ isNotified: () => true, setNotified: () => {} },
    },
  })
  const waits = (by: string) => {
    const wait = { status: Status.TOO_MANY as Status, ended: 0 }
    wait.status = notifier.wake('bob.test', by, () => wait.ended++, 0)
    return wait
  }
  assert.equal(notifier.canWake('bob.test'), true)
  const held = Array.from({ length: 20 }, () => waits('dc.other.example'))
  assert.equal(held.filter(({ status }) => status === Status.DONE).length, 16)
  const own = Array.from({ length: 20 }, (_, i) => waits(`a${i}.test`))
  assert.equal(own.filter(({ status }) => status === Status.DONE).length, 16, 'nodes of one account share')
  for (let zone = 0; zone < 6; zone++) for (let i = 0; i < 16; i++) waits(`dc.z${zone}.example`)
  const late = waits('alice.elsewhere')
  assert.equal(late.status, Status.DONE)
  assert.equal([...held, ...own].filter(({ ended }) => ended === 1).length, 1, 'one of who had most gave way')
  notifier.heard('bob.test', 10)
  assert.equal(late.ended, 1)
  assert.ok([...held, ...own].every(({ status, ended }) => ended === (status === Status.DONE ? 1 : 0)))
})

it('NT-13: a node that names another push address each time makes few writes, whether it is known or not', () => {
  for (const at of [NOTIFICATION, undefined]) {
    let [stored, writes]: [string | undefined, number] = [undefined, 0]
    const notifier = new Notifier({
      at: () => at,
      ...{ token: () => new Uint8Array(32), number: () => 1, emit: () => {}, step: () => {} },
      seal: () => undefined,
      directory: {
        nodeByName: () => undefined,
        pushOf: () => stored,
        setPush: (_name, address) => {
          stored = address
          writes++
        },
        ...{ isNotified: () => true, setNotified: () => {} },
      },
    })
    const registers = (push: string, now: number) => {
      notifier.prepare('bob.test', push, () => {}, now)
      notifier.prepared(1, true, now)
    }
    for (let i = 0; i < 200; i++) registers(`https://push.example/${i}`, i * 50)
    assert.ok(writes >= 8 && writes <= 9, `${writes} writes`)
    registers('https://push.example/last', 60_000)
    assert.equal(stored, 'https://push.example/last', 'later it counts')
    const before = writes
    for (let i = 0; i < 20; i++) registers('https://push.example/last', 60_000 + i)
    assert.equal(writes, before, 'the same is not written again')
  }
})
