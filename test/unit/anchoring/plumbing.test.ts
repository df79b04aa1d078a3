/** Which traffic a mobile host's rules lead to godwit. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { checkHost, exceptions, type HostConfig } from '../../../src/anchoring/config.ts'
import {
  AnchorPlumbing,
  type AnchorPlumbingInit,
  HostPlumbing,
  type HostPlumbingComponents,
  type HostPlumbingInit,
} from '../../../src/anchoring/plumbing.ts'
import type { Source } from '../../../src/anchoring/rules.ts'
import type { MainRoute } from '../../../src/anchoring/wide-routes.ts'
import { parsePrefix } from '../../../src/core/address.ts'
import { formatSelector } from '../../../src/core/selector.ts'
import type { Cgroups } from '../../../src/linux/cgroup.ts'
import { FakeNftables, FakeSysctls } from '../../../src/linux/fakes.ts'
import { Ledger, PROTOCOL } from '../../../src/linux/ledger.ts'
import { KernelError } from '../../../src/linux/libc.ts'
import { FakeNetwork, FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'
import type { RuleSpec } from '../../../src/linux/rtnetlink/types.ts'

function prefix(text: string) {
  const parsed = parsePrefix(text)
  assert.ok(parsed.ok)
  return parsed.value
}

const ledger = new Ledger()

const parts = (rtnl: FakeRtnl): HostPlumbingComponents => ({
  rtnl,
  sysctls: new FakeSysctls([]),
  cgroups: undefined,
  nfTables: { commit: () => {}, hasTable: () => true },
  sources: () => [],
  mainRoutes: () => [],
  whyResting: () => undefined,
})

const INIT: HostPlumbingInit = {
  device: 'godwit0',
  ledger,
  fix4: prefix('198.19.0.1/32'),
  fix6: prefix('fd67:6f64:7769::1/128'),
  control: 'all',
  destinations: [],
  except: [],
  selected: [],
}

const ANCHOR: AnchorPlumbingInit = {
  device: 'gwan0',
  ledger,
  own4: { address: Uint8Array.of(198, 18, 0, 1), length: 16 },
  own6: { address: prefix('fd67::1/128').address, length: 64 },
  pool4: prefix('198.18.0.0/16'),
  pool6: prefix('fd67::/64'),
  ports: [51820],
  masquerade: true,
}
const EROFS = 30

function host(
  destinations: readonly string[] = [],
  more: Partial<HostPlumbingComponents> = {},
): { rtnl: FakeRtnl; plumbing: HostPlumbing } {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'host')
  rtnl.createLink({ kind: 'dummy', name: 'godwit0' })
  const plumbing = new HostPlumbing(
    { ...parts(rtnl), ...more },
    {
      device: 'godwit0',
      ledger,
      fix4: prefix('198.19.0.1/32'),
      fix6: prefix('fd67:6f64:7769::1/128'),
      control: 'all',
      destinations: destinations.map(prefix),
      except: [],
      selected: [],
    },
  )
  return { rtnl, plumbing }
}

/** Where rules lead to the UPMT table: `family destination`. */
function controlled(...destinations: string[]): string[] {
  const { rtnl, plumbing } = host(destinations)
  const before = rtnl.rules()
  plumbing.apply(1400)
  plumbing.apply(1400) // repeatable
  const rules = rtnl.rules().filter(({ table }) => table === ledger.anchoring.table)
  assert.ok(rules.every(({ origin }) => origin === PROTOCOL))
  plumbing.cleanUp()
  assert.deepEqual(rtnl.rules(), before)
  // Answers from the virtual address go back through the tunnel in any case.
  const others = rules.filter(({ from }) => from === undefined)
  return others.map(({ family, to }) => `${family} ${to ?? 'all'}`).sort()
}

test('house point 3: rules of others stay whatever their priority, before, during and after', () => {
  const { rtnl, plumbing } = host()
  const { bypass, local, controlled, table } = ledger.anchoring
  const foreign: RuleSpec[] = [
    // Tailscale's, one by `ip rule` and one by a program that names no maker, in the middle of our numbers.
    { family: 4, priority: 5210, mark: 0x80000, mask: 0xff0000, table: 254 },
    { family: 4, priority: bypass, mark: 0x80000, mask: 0xff0000, table: 254, origin: 3 },
    { family: 4, priority: local + 1, table: 52 },
    { family: 6, priority: controlled[0], table: 52, origin: 4 },
  ]
  for (const rule of foreign) rtnl.addRule(rule)
  rtnl.createLink({ kind: 'dummy', name: 'wan', up: true })
  rtnl.addRoute({ to: '203.0.113.0/24', dev: 'wan', table: 52 })
  rtnl.addRoute({ to: '203.0.113.0/24', dev: 'wan', table, protocol: 4 })
  const others = () => [
    rtnl.rules().filter(({ origin }) => origin !== PROTOCOL),
    rtnl.routes().filter(({ protocol }) => protocol !== PROTOCOL && protocol !== 2),
  ]
  const before = others()
  plumbing.apply(1400)
  assert.deepEqual(others(), before)
  plumbing.apply(1400)
  assert.deepEqual(others(), before)
  plumbing.cleanUp()
  assert.deepEqual(others(), before)
})

test('house point 3: what another program removed is put back and named', () => {
  const { rtnl, plumbing } = host()
  plumbing.apply(1400)
  const rules = rtnl.rules()
  assert.deepEqual(plumbing.restore(), [])
  const ours = rules.find(({ table, family }) => table === ledger.anchoring.table && family === 4)!
  rtnl.deleteRule(ours)
  rtnl.deleteAddress('godwit0', '198.19.0.1/32')
  rtnl.flushRoutes({ table: ledger.anchoring.table })
  rtnl.setLink('godwit0', { up: false })
  assert.deepEqual(plumbing.restore(), [
    'address 198.19.0.1/32 of godwit0',
    'godwit0 (it was down)',
    'route default of godwit0',
    'route default6 of godwit0',
    `IPv4 rule ${ours.priority} to table ${ledger.anchoring.table}`,
  ])
  assert.deepEqual(rtnl.rules(), rules)
  assert.equal(rtnl.link('godwit0')?.up, true)
  assert.deepEqual(plumbing.restore(), [])
})

test('where IPv6 is turned off the tunnel carries IPv4, and what would go round it over IPv6 is refused, until it is on again', () => {
  const key = 'net/ipv6/conf/godwit0/disable_ipv6'
  const sysctls = new FakeSysctls([[key, '1']])
  const said: string[] = []
  const { rtnl, plumbing } = host([], { sysctls, report: (message) => said.push(message) })
  const addresses = () => rtnl.addresses({ link: 'godwit0' }).map(({ address }) => address)
  const routes = () =>
    rtnl.routes({ table: ledger.anchoring.table }).map(({ to, type, dev }) => `${to} ${type} ${dev ?? ''}`)
  plumbing.apply(1400)
  assert.deepEqual(addresses(), ['198.19.0.1'])
  assert.deepEqual(routes(), ['default unicast godwit0', 'default6 unreachable '])
  assert.match(said.join(), /IPv6 is turned off for godwit0.*IPv4 only.*sysctl -w net\.ipv6\.conf\.godwit0/)
  assert.deepEqual(plumbing.restore(), [])
  plumbing.followNetwork()
  assert.equal(said.length, 1)
  sysctls.set(key, '0')
  plumbing.followNetwork()
  assert.deepEqual(addresses(), ['198.19.0.1', 'fd67:6f64:7769::1'])
  assert.deepEqual(routes(), ['default unicast godwit0', 'default6 unicast godwit0'])
  assert.match(said[1]!, /turned on/)
})

test('an anchor answers packets of IPv6 where its machine has none: its own device has it, or it says why not', () => {
  const key = 'net/ipv6/conf/gwan0/disable_ipv6'
  for (const settable of [true, false]) {
    const sysctls = new FakeSysctls([
      [key, '1'],
      ['net.ipv4.ip_forward', '0'],
    ])
    const set = sysctls.set.bind(sysctls)
    sysctls.set = (which, value) => {
      if (which === key && !settable) throw new KernelError(`set ${which}`, EROFS)
      set(which, value)
    }
    const rtnl = new FakeRtnl(new FakeNetwork(), 'anchor')
    rtnl.createLink({ kind: 'dummy', name: 'gwan0' })
    const said: string[] = []
    const anchor = new AnchorPlumbing(rtnl, sysctls, new FakeNftables(), ANCHOR, (text) => said.push(text))
    anchor.apply(1400)
    anchor.restore()
    const addresses = rtnl.addresses({ link: 'gwan0' }).map(({ address }) => address)
    assert.deepEqual(addresses, settable ? ['198.18.0.1', 'fd67::1'] : ['198.18.0.1'])
    if (settable) assert.deepEqual(said, [])
    else assert.match(said.join('\n'), /^hosts get IPv4 only: IPv6 is turned off for gwan0[^\n]*EROFS\)$/)
  }
})

test('an MTU for a device that was taken away meanwhile changes nothing: who reads from the device reports that', () => {
  const { rtnl, plumbing } = host()
  plumbing.setMtu(1300)
  assert.equal(rtnl.link('godwit0')?.mtu, 1300)
  rtnl.deleteLink('godwit0')
  plumbing.setMtu(1280)
  const link = rtnl.link.bind(rtnl)
  rtnl.link = (which) => link(which) ?? { ...link('lo')!, name: 'godwit0' } // it goes between look and change
  plumbing.setMtu(1280)
})

test('a device of the same name that another program made is not deleted', () => {
  const { rtnl, plumbing } = host()
  plumbing.cleanUp() // no alias, and not a TUN
  assert.notEqual(rtnl.link('godwit0'), undefined)
  plumbing.apply(1400)
  plumbing.cleanUp()
  assert.equal(rtnl.link('godwit0'), undefined)
})

test('with destinations only what goes there is put under control, without all', () => {
  assert.deepEqual(controlled(), ['4 all', '6 all'])
  assert.deepEqual(controlled('0.0.0.0/0', '::/0'), ['4 all', '6 all'])
  assert.deepEqual(controlled('10.0.0.0/8', '192.0.2.0/24'), ['4 10.0.0.0/8', '4 192.0.2.0/24'])
  assert.deepEqual(controlled('0.0.0.0/0', 'fd00::/8'), ['4 all', '6 fd00::/8'])
})

test('packets with an address leave by its access, without a source by the tunnel, what is for the link by main', () => {
  let sources: Source[] = [
    { family: 4, address: '192.168.1.100', table: 6701, access: 'acc1' },
    { family: 4, address: '192.168.2.100', table: 6702, access: 'acc2' },
    { family: 4, address: '10.99.0.2', table: 254 },
  ]
  const { rtnl, plumbing } = host([], { sources: () => sources })
  for (const [name, table] of [
    ['acc1', 6701],
    ['acc2', 6702],
  ] as const) {
    rtnl.createLink({ kind: 'dummy', name, up: true })
    rtnl.addRoute({ to: 'default', dev: name, table })
    rtnl.addRoute({ to: 'default', dev: name, metric: table })
  }
  // OpenVPN's redirect-gateway def1, and a route that somebody means.
  rtnl.createLink({ kind: 'dummy', name: 'tun0', up: true })
  for (const to of ['0.0.0.0/1', '128.0.0.0/1', '10.0.0.0/8']) rtnl.addRoute({ to, dev: 'tun0' })
  plumbing.apply(1400)
  const way = (to: string, from?: string, mark?: number) =>
    rtnl.lookup({ to, ...(from !== undefined && { from }), ...(mark !== undefined && { mark }) })?.dev
  assert.equal(way('203.0.113.9'), 'godwit0')
  assert.equal(way('203.0.113.9', '198.19.0.1'), 'godwit0')
  assert.equal(way('203.0.113.9', '192.168.1.100'), 'acc1')
  assert.equal(way('203.0.113.9', '192.168.2.100'), 'acc2')
  assert.equal(way('203.0.113.9', '172.17.0.2', ledger.accessMark(6702) | 0x3f00), 'acc2')
  assert.equal(way('10.1.2.3'), 'tun0')
  assert.equal(way('10.1.2.3', '192.168.2.100'), 'tun0')
  for (const to of ['203.0.113.9', '198.51.100.1'])
    assert.equal(way(to, '10.99.0.2'), 'tun0', 'an address of no access: as without us')
  rtnl.deleteLink('tun0')
  for (const to of ['239.255.255.250', '224.0.0.251', '255.255.255.255']) assert.equal(way(to), 'acc1')
  sources = sources.slice(1)
  plumbing.followNetwork()
  assert.equal(way('203.0.113.9', '192.168.1.100'), 'godwit0')
  assert.equal(way('203.0.113.9', '192.168.2.100'), 'acc2')
  plumbing.cleanUp()
  sources = []
  plumbing.followNetwork()
  assert.ok(
    rtnl.rules().every(({ origin }) => origin !== PROTOCOL),
    'nothing after the end',
  )
})

test('answers of forwarded connections are marked only where this host forwards', () => {
  const sources: Source[] = [{ family: 4, address: '192.168.1.100', table: 6701, access: 'acc1' }]
  const done: string[] = []
  const sysctls = new FakeSysctls([['net.ipv4.ip_forward', '0']])
  const nfTables = {
    commit: (_: unknown, what: string) => void done.push(what),
    hasTable: () => true,
  }
  const { plumbing } = host([], { sources: () => sources, sysctls, nfTables })
  plumbing.apply(1400)
  assert.deepEqual(done, [])
  sysctls.set('net.ipv4.ip_forward', 1)
  plumbing.followNetwork()
  plumbing.followNetwork()
  assert.deepEqual(done, ['mark replies of forwarded connections'])
})

test('half-default routes and many routes that take much past the tunnel are reported once, while they are there', () => {
  const said: string[] = []
  let mainRoutes = [
    { family: 4, to: 'default', type: 'unicast', dev: 'acc1' },
    { family: 4, to: '10.0.0.0/8', type: 'unicast', dev: 'tun1' },
  ] as MainRoute[]
  const { plumbing } = host([], { mainRoutes: () => mainRoutes, report: (text) => said.push(text) })
  plumbing.apply(1400)
  assert.deepEqual(said, [])
  const before = mainRoutes
  const halves = ['0.0.0.0/1', '128.0.0.0/1'].map(
    (to) => ({ family: 4, to, type: 'unicast', dev: 'tun0' }) as const,
  )
  const pieces = Array.from({ length: 64 }, (_, n) => ({
    family: 4 as const,
    to: `${n + 64}.0.0.0/8`,
    type: 'unicast',
    dev: 'acc1',
  }))
  mainRoutes = [...before, ...halves, ...pieces]
  plumbing.followNetwork()
  plumbing.followNetwork()
  assert.equal(said.length, 2)
  assert.match(said[0]!, /^tun0 has half-default routes \(0\.0\.0\.0\/1, 128\.0\.0\.0\/1\)/)
  assert.match(said[1]!, /^routes over acc1 take 25 % of all IPv4 addresses past the tunnel/)
  mainRoutes = before
  plumbing.followNetwork()
  mainRoutes = [...before, ...halves]
  plumbing.followNetwork()
  assert.equal(said.length, 3)
})

test('at a trusted network the tunnel rests: what is opened goes directly, what is in it stays', () => {
  let resting: string | undefined = 'acc1 is on a trusted network'
  const said: string[] = []
  const { rtnl, plumbing } = host([], { whyResting: () => resting, report: (text) => said.push(text) })
  rtnl.createLink({ kind: 'dummy', name: 'acc1', up: true })
  rtnl.addRoute({ to: 'default', dev: 'acc1' })
  plumbing.apply(1400)
  const way = (from?: string) => rtnl.lookup({ to: '203.0.113.9', ...(from !== undefined && { from }) })?.dev
  assert.equal(way(), 'acc1')
  assert.equal(way('198.19.0.1'), 'godwit0')
  assert.match(plumbing.whyOutside({})!, /^the tunnel is idle/)
  resting = undefined
  plumbing.followNetwork()
  assert.equal(way(), 'godwit0')
  assert.deepEqual(said, [
    'the tunnel is idle: acc1 is on a trusted network; new connections go directly',
    'the tunnel is in use again',
  ])
  assert.equal(plumbing.whyOutside({}), undefined)
})

test('control groups that are left alone are marked past the tunnel, and no more at the end', () => {
  const marks: string[] = []
  const setMarkAt = (path: string, mark: number) => {
    marks.push(`${path} ${mark}`)
    return true
  }
  const rtnl = new FakeRtnl(new FakeNetwork(), 'host')
  rtnl.createLink({ kind: 'dummy', name: 'godwit0' })
  const cgroups = { setMarkAt } as unknown as Cgroups
  const plumbing = new HostPlumbing(
    { ...parts(rtnl), cgroups },
    { ...INIT, except: exceptions('cgroup:system.slice/backup.service') },
  )
  plumbing.apply(1400)
  plumbing.cleanUp()
  assert.deepEqual(marks, [
    `system.slice/backup.service ${ledger.anchoring.bypassMark}`,
    'system.slice/backup.service 0',
  ])
})

test('`private` stands for all private networks; `app:` and what cannot be are refused', () => {
  assert.deepEqual(exceptions('private').map(formatSelector), [
    'to:10.0.0.0/8',
    'to:172.16.0.0/12',
    'to:192.168.0.0/16',
    'to:169.254.0.0/16',
    'to:fc00::/7',
    'to:fe80::/10',
  ])
  const faults = (...except: string[]) => {
    const found: string[] = []
    checkHost({ host: { except }, peer: [], policy: [] } as unknown as HostConfig, (_, text) =>
      found.push(text),
    )
    return found
  }
  assert.deepEqual(
    faults('private', 'user:alice+port:22', 'to:10.0.0.0/8', 'cgroup:a.slice', 'proto:icmp'),
    [],
  )
  assert.equal(faults('app:firefox', 'user:alice+app:ssh', 'all', 'f12', 'cgroup:a.slice+port:22').length, 5)
})
