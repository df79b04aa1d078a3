/** Servers apart from their coordinator, on a virtual network: what each may ask and is asked, and what outlives a restart of either. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { toHex } from '../../../src/core/bytes.ts'
import { cacheProof } from '../../../src/overlay/machine/secrets.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { Connection, Status, Type } from '../../../src/overlay/wire/message.ts'
import { SimMember } from '../../support/overlay-member.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { Network } from './network.ts'

const CERTIFICATE = new Uint8Array(32).fill(3)

function world() {
  const net = new Network(1, (parts) => new MachineServers(parts, { relays: false }))
  return { net, servers: net.servers as MachineServers }
}

function withNotifications(net: Network) {
  const ns = new SimMember(net, 'ns1', '192.0.2.31', ['ns'])
  ns.where = { notificationServer: { host: '192.0.2.31', port: 6742 }, certificate: CERTIFICATE }
  net.run(2500)
  const node = net.node('alice', net.sites[0], {})
  node.use({ socket: 0, address: '198.51.100.1', port: 5001 })
  net.until(() => node.of('registered').some(({ notification }) => notification !== undefined), 3000)
  const { notification } = node.of('registered').at(-1)!
  return { ns, node, notification: notification! }
}

describe('NT-21: a notification server apart', () => {
  it('NT-21: it expects the node before that is told where to connect, with the token that the node gets', () => {
    const { net } = world()
    const { ns, node, notification } = withNotifications(net)
    assert.deepEqual([notification.host, notification.port], ['192.0.2.31', 6742])
    assert.deepEqual(notification.certificate, CERTIFICATE)
    const [prepare] = ns.of(Type.NOTIFICATION_PREPARE)
    assert.equal(prepare!.nodeName, node.name)
    assert.deepEqual(prepare!.token, notification.token)
  })

  it('NT-40: a node that is connected there is woken through it; it may be asked for by the other', () => {
    const { net } = world()
    const { ns, node, notification } = withNotifications(net)
    assert.equal(
      ns.ask({
        type: Type.NOTIFICATION_STATE,
        nodeName: node.name,
        token: notification.token,
        status: Connection.NOW,
      })?.status,
      Status.DONE,
    )
    node.machine.setNotified(true, net.now)
    const other = net.node('bob')
    other.use({ socket: 0, address: '198.51.100.2', port: 5002 })
    net.run(120_000)
    other.resolve(node.name)
    net.until(() => ns.of(Type.NOTIFICATION).length > 0, 3000)
    const { nodeName, datagram } = ns.of(Type.NOTIFICATION)[0]!
    assert.equal(nodeName, node.name)
    node.machine.handleNotification(datagram!, net.now)
    node.drain()
    net.until(() => other.of('direction').length > 0, 3000)
  })

  it('the coordinator restarts: it asks for all again, and wakes a node that it knows from there alone', () => {
    const { net, servers } = world()
    const { ns, node, notification } = withNotifications(net)
    const { fresh } = ns
    servers.restart()
    net.until(() => ns.fresh > fresh, 10_000)
    node.sockets[0]!.down = true
    assert.equal(
      ns.ask({
        type: Type.NOTIFICATION_STATE,
        nodeName: node.name,
        token: notification.token,
        status: Connection.BEFORE,
      })?.status,
      Status.DONE,
    )
    const other = net.node('bob')
    other.use({ socket: 0, address: '198.51.100.2', port: 5002 })
    net.until(() => other.of('registered').length > 0)
    other.resolve(node.name)
    net.until(() => ns.of(Type.NOTIFICATION).length > 0, 3000)
    assert.equal(ns.of(Type.NOTIFICATION)[0]!.datagram, undefined, 'it has no session: it registers')
  })

  it('it is gone: nodes are told of none, and send keep-alives as without one', () => {
    const { net, servers } = world()
    const { ns, node } = withNotifications(net)
    ns.down = true
    net.until(() => servers.logged.includes('server ns1 does not answer'), 6000)
    const before = node.of('registered').length
    node.machine.register(net.now)
    node.drain()
    net.until(() => node.of('registered').length > before, 3000)
    assert.equal(node.of('registered').at(-1)!.notification, undefined)
  })

  it('NT-39: a node that registers while it is away is told of it with a keep-alive, once it is there', () => {
    for (const away of ['never there', 'gone', 'silent'] as const) {
      const { net, servers } = world()
      const start = () => {
        const ns = new SimMember(net, 'ns1', '192.0.2.31', ['ns'])
        ns.where = { notificationServer: { host: '192.0.2.31', port: 6742 }, certificate: CERTIFICATE }
        net.run(2500)
        return ns
      }
      const before = away === 'never there' ? undefined : start()
      if (before !== undefined) before.down = true
      if (away === 'gone') net.until(() => servers.logged.includes('server ns1 does not answer'), 6000)
      const nodes = ['alice', 'bob'].map((name, i) => {
        // The second wants no notifications.
        const node = net.node(name, net.sites[0], i === 0 ? {} : undefined)
        node.use({ socket: 0, address: `198.51.100.${i + 1}`, port: 5001 })
        return node
      })
      const [alice, bob] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
      net.until(() => nodes.every((node) => node.of('registered').length > 0), 3000)
      net.run(60_000)
      for (const node of nodes) {
        assert.equal(node.of('registered').length, 1, 'it does not ask again and again')
        assert.equal(node.of('registered')[0]!.notification, undefined)
      }
      start()
      net.run(21_000)
      assert.equal(alice.of('registered').at(-1)!.notification?.host, '192.0.2.31', away)
      net.run(60_000)
      assert.equal(alice.of('registered').length, 2)
      assert.equal(bob.of('registered').length, 1)
    }
  })

  it('one that was started anew has no connections: its nodes are waited for as others are', () => {
    const { net, servers } = world()
    const { ns, node, notification } = withNotifications(net)
    ns.ask({
      type: Type.NOTIFICATION_STATE,
      nodeName: node.name,
      token: notification.token,
      status: Connection.NOW,
    })
    node.sockets[0]!.down = true
    net.run(100_000)
    const again = new SimMember(net, 'ns1', '192.0.2.31', ['ns'])
    again.where = ns.where
    net.run(5000)
    assert.equal(servers.coordinator.counts.notified, 1)
    const other = net.node('bob')
    other.use({ socket: 0, address: '198.51.100.2', port: 5002 })
    net.until(() => other.of('registered').length > 0)
    other.resolve(node.name)
    net.until(() => other.of('refused').length > 0, 3000)
    assert.equal(again.of(Type.NOTIFICATION).length, 0)
  })
})

describe('NT-13: an account server apart', () => {
  const login = (name: string, n: number) => ({
    ...{
      type: Type.KEY_DISTRIBUTION,
      nodeName: name,
      account: 'carol',
      accountId: new Uint8Array(8).fill(1),
      seq: n,
    },
    ...{
      publicKey: new Uint8Array(32).fill(n),
      keyId: new Uint8Array(16).fill(n),
      key: new Uint8Array(32).fill(n),
    },
  })

  it('NT-13: steps 6 and 7: a login is the coordinator’s once it has answered; without a key the node is no more', () => {
    const { net, servers } = world()
    const as = new SimMember(net, 'as1', '192.0.2.32', ['as'])
    net.run(1500)
    assert.equal(as.ask({ ...login('x.test.example', 50), expires: 4_000_000_000 })?.status, Status.DONE)
    const node = servers.directory.nodeByName('x.test.example')
    assert.deepEqual(
      [node?.account, node?.accountId, node?.expires],
      ['carol', '01'.repeat(8), 4_000_000_000],
    )
    assert.equal(
      as.ask({ type: Type.KEY_DISTRIBUTION, nodeName: 'x.test.example', seq: 51 })?.status,
      Status.DONE,
    )
    assert.equal(servers.directory.nodeByName('x.test.example'), undefined)
  })

  it('it speaks for names of its zone alone; a new login ends the sessions of the one before, a prolonged one does not', () => {
    const { net, servers } = world()
    const as = new SimMember(net, 'as1', '192.0.2.32', ['as'])
    net.run(1500)
    assert.equal(as.ask(login('x.other.example', 50))?.status, Status.NOT_ALLOWED)
    const node = net.node('alice')
    node.use({ socket: 0, address: '198.51.100.1', port: 5001 })
    net.until(() => servers.coordinator.location(node.name) !== undefined)
    const { account, publicKey, keyId, key } = servers.directory.nodeByName(node.name)!
    const same = {
      type: Type.KEY_DISTRIBUTION,
      nodeName: node.name,
      account,
      accountId: new Uint8Array(8),
      publicKey,
      keyId,
      key,
      seq: 1,
    }
    as.ask({ ...same, expires: 4_000_000_000 })
    assert.ok(servers.coordinator.location(node.name) !== undefined)
    as.ask({ ...same, seq: 2, keyId: new Uint8Array(16).fill(77), key: new Uint8Array(32).fill(77) })
    assert.equal(servers.coordinator.location(node.name), undefined)
  })

  it('it learns where the cache server apart is, for its nodes', () => {
    const { net, servers } = world()
    const cs = new SimMember(net, 'cs1', '192.0.2.33', ['cs'])
    cs.where = { cacheServer: { host: 'cache.example', port: 6743, certificate: CERTIFICATE } }
    net.run(2500)
    const as = new SimMember(net, 'as1', '192.0.2.32', ['as'])
    net.run(2500)
    assert.deepEqual(as.welcomes.at(-1)!.cacheServer, cs.where.cacheServer)
    assert.deepEqual(servers.cacheServers.at(-1), cs.where.cacheServer)
    assert.equal(cs.welcomes.at(-1)!.cacheServer, undefined)
  })

  it('NT-26: of several cache servers apart it hears in turn', () => {
    const { net, servers } = world()
    for (const i of [1, 2]) {
      const cs = new SimMember(net, `cs${i}`, `192.0.2.4${i}`, ['cs'])
      cs.where = { cacheServer: { host: `cache${i}.example`, port: 6743, certificate: CERTIFICATE } }
    }
    const as = new SimMember(net, 'as1', '192.0.2.32', ['as'])
    net.run(5000)
    const all = ['cache1.example', 'cache2.example']
    const last = as.welcomes.slice(-2).map(({ cacheServer }) => cacheServer!.host)
    assert.deepEqual(last.sort(), all)
    assert.deepEqual(
      [...new Set(servers.cacheServers.map((each) => (each as { host: string }).host))].sort(),
      all,
    )
  })
})

describe('NT-26: a cache server apart', () => {
  it('NT-26: it learns whose proof of a login key it was shown, and leases of nodes that this one may connect to', () => {
    const { net, servers } = world()
    const cs = new SimMember(net, 'cs1', '192.0.2.33', ['cs'])
    const [a, b] = [net.node('alice'), net.node('bob')]
    a.use({ socket: 0, address: '198.51.100.1', port: 5001 })
    b.use({ socket: 0, address: '198.51.100.2', port: 5002 })
    net.run(2500)
    const record = servers.directory.nodeByName(a.name)!
    const prove = (key = record.key) => {
      const { keyId } = record
      return cs.ask({ type: Type.NODE_REQUEST, keyId, proof: cacheProof(overlayCrypto, key, keyId) })!
    }
    const known = prove()
    assert.deepEqual(
      [known.nodeName, known.account, toHex(known.accountId!)],
      [a.name, record.account, record.accountId],
    )
    assert.equal(known.key, undefined, 'the key stays with node and coordinator')
    assert.equal(prove(new Uint8Array(32)).status, Status.UNKNOWN_NAME)
    const lease = (name: string, nodeName?: string) =>
      cs.ask({ type: Type.NODE_REQUEST, name, ...(nodeName !== undefined && { nodeName }) })!
    assert.deepEqual(lease(b.name, a.name).lease, servers.directory.nodeByName(b.name)!.lease)
    servers.directory.access.set(b.name, ['x.test.example'])
    assert.deepEqual(
      [lease(b.name, a.name).status, lease(b.name, a.name).lease],
      [Status.NOT_ALLOWED, undefined],
    )
    assert.ok(lease(b.name).lease !== undefined, 'of a sender whose object is there')
    servers.directory.nodes.set(a.name, { ...record, expires: 1 })
    assert.equal(prove().status, Status.UNKNOWN_NAME)
  })
})

describe('hostile servers apart', () => {
  it('each does what its role needs and nothing else; a role that it was not given is refused', () => {
    const { net, servers } = world()
    const rs = new SimMember(net, 'rs1', '192.0.2.34', ['rs'])
    net.run(1500)
    const node = net.node('alice')
    node.use({ socket: 0, address: '198.51.100.1', port: 5001 })
    net.until(() => servers.coordinator.location(node.name) !== undefined)
    const { keyId } = servers.directory.nodeByName(node.name)!
    const refused = [
      { type: Type.NODE_REQUEST, keyId },
      { type: Type.KEY_DISTRIBUTION, nodeName: node.name },
      {
        type: Type.NOTIFICATION_STATE,
        nodeName: node.name,
        token: new Uint8Array(32),
        status: Connection.BEFORE,
      },
      { type: Type.PUSH_GONE, nodeName: node.name, push: 'https://x' },
      { type: Type.REGISTRATION_REQUEST },
      { type: Type.DIRECTION_REQUEST, name: node.name },
    ] as const
    for (const message of refused) {
      const answer = rs.ask(message)
      assert.equal(answer?.status, Status.NOT_ALLOWED)
      assert.deepEqual([answer?.key, answer?.lease], [undefined, undefined])
    }
    assert.ok(servers.directory.nodeByName(node.name) !== undefined)
    const liar = new SimMember(net, 'rs2', '192.0.2.35', ['rs'], ['rs', 'as'])
    net.run(5000)
    assert.equal(liar.fresh, 0)
    assert.equal(servers.coordinator.counts.relays, 1)
  })
})
