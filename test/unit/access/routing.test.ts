/** Routing tables of accesses, as the kernel lets them be. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Access } from '../../../src/access/machine.ts'
import { AccessRouting } from '../../../src/access/routing.ts'
import { AccessMonitor } from '../../../src/access/service.ts'
import { EINVAL } from '../../../src/core/errno.ts'
import { Ledger } from '../../../src/linux/ledger.ts'
import { KernelError } from '../../../src/linux/libc.ts'
import { NetlinkMessage } from '../../../src/linux/netlink.ts'
import * as codec from '../../../src/linux/rtnetlink/codec/index.ts'
import { FakeNetwork, FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'
import type { Link, RouteSpec } from '../../../src/linux/rtnetlink/types.ts'

const WLAN: Access = {
  name: 'wlan0',
  ifindex: 2,
  state: 'up',
  reason: '',
  since: 0,
  addresses: [],
  gateways: [],
  families: [4],
  mtu: 1500,
  generation: 1,
}

/** Refuses routes from an address that has just gone. */
class Racing extends FakeRtnl {
  refuses = true

  override addRoute(route: RouteSpec): void {
    if (this.refuses && route.source !== undefined) throw new KernelError(`add route ${route.to}`, EINVAL)
    super.addRoute(route)
  }
}

test('UP-38: what the kernel refuses once is tried again, and told when it is refused again, once', () => {
  const rtnl = new Racing(new FakeNetwork(), 'host')
  rtnl.createLink({ kind: 'dummy', name: 'wlan0', up: true })
  rtnl.addAddress('wlan0', '192.0.2.9/24')
  rtnl.addRoute({ to: 'default', via: '192.0.2.1', dev: 'wlan0' })
  const told: string[] = []
  const routing = new AccessRouting(rtnl, new Ledger(), (message) => told.push(message))
  const routes = rtnl.routes({ table: 254, family: 4 }).map((route) => ({ ...route, source: '192.0.2.9' }))
  const apply = () => routing.apply([{ access: WLAN, routes }])
  apply()
  assert.deepEqual([told, routing.isInDoubt], [[], true])
  rtnl.refuses = false
  apply()
  assert.deepEqual([told, routing.isInDoubt], [[], false])
  const table = routing.table('wlan0')!
  assert.equal(rtnl.routes({ table, family: 4 }).find(({ to }) => to === 'default')?.via, '192.0.2.1')
  rtnl.refuses = true
  rtnl.flushRoutes({ table })
  for (let i = 0; i < 4; i++) apply()
  assert.equal(told.length, routes.length)
  assert.match(told[0]!, /^route .* in table \d+: add route .*EINVAL/)
  assert.ok(!routing.isInDoubt)
})

test('issue 10: two routers of one network with the same metric are both in the table of its access, one behind the other', () => {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'host')
  rtnl.createLink({ kind: 'dummy', name: 'wlan0', up: true })
  rtnl.addAddress('wlan0', '2001:db8::9/64', { noDad: true })
  const routing = new AccessRouting(rtnl, new Ledger())
  const route = (via: string) =>
    ({
      family: 6,
      table: 254,
      to: 'default6',
      type: 'unicast',
      via,
      dev: 'wlan0',
      metric: 1024,
      protocol: 9,
      dead: false,
    }) as const
  const routes = ['fe80::a', 'fe80::b', 'fe80::a', 'fe80::b'].map(route)
  for (let n = 0; n < 2; n++) routing.apply([{ access: WLAN, routes }])
  const table = routing.table('wlan0')!
  assert.deepEqual(
    rtnl
      .routes({ table, family: 6 })
      .filter(({ type }) => type === 'unicast')
      .map(({ via, metric }) => `${via} ${metric}`),
    ['fe80::a 1024', 'fe80::b 1025'],
  )
})

/** `ip link add NAME type vrf table TABLE`, as the kernel lists it. */
function vrf(index: number, name: string, table: number): Link {
  const message = codec.writeLinkHeader(new NetlinkMessage(0), index, true)
  codec.writeLinkName(message, name)
  message.nested(18, () => {
    message.attributeString(1, 'vrf')
    message.nested(2, () => message.attributeU32(1, table))
  })
  return codec.readLink(message.finish(1).subarray(16))!
}

/** A machine with a VRF. */
class WithVrf extends FakeRtnl {
  override links(): Link[] {
    return [...super.links(), vrf(99, 'red', 10)]
  }
}

test('issue 10: a port of a VRF is an access by the routes of its table', () => {
  const rtnl = new WithVrf(new FakeNetwork(), 'host')
  rtnl.createLink({ kind: 'veth', name: 'wlan0', up: true, peer: { name: 'far', up: true } })
  rtnl.addAddress('wlan0', '192.0.2.9/24')
  rtnl.addRoute({ to: 'default', via: '192.0.2.1', dev: 'wlan0', table: 10 })
  const clock = { now: () => 0, wall: () => 0, suspended: () => 0 }
  const monitor = new AccessMonitor({ rtnl, clock }, {})
  monitor.start()
  assert.deepEqual(
    monitor.accesses().map(({ name, state, families }) => [name, state, families]),
    [['wlan0', 'up', [4]]],
  )
  assert.equal(
    rtnl.routes({ table: monitor.table('wlan0')!, family: 4 }).find(({ to }) => to === 'default')?.via,
    '192.0.2.1',
  )
  monitor.stop()
})
