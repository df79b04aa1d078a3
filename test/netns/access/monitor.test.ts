/** AccessMonitor on real interfaces: two accesses with the same private subnet and the same gateway address. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { after, before, test } from 'node:test'
import { AccessMonitor, type AccessMonitorInit } from '../../../src/access/index.ts'
import { RealClock } from '../../../src/linux/clock.ts'
import { KernelGuard } from '../../../src/linux/guard.ts'
import { Ledger } from '../../../src/linux/ledger.ts'
import { createNamespace, deleteNamespace } from '../../../src/linux/netns.ts'
import { needProgram, usesPrograms } from '../../../src/linux/packages.ts'
import { Rtnetlink } from '../../../src/linux/rtnetlink/index.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'

usesPrograms('ip')

const host = `access-${process.pid}`
const far = [`access-f1-${process.pid}`, `access-f2-${process.pid}`] as const
const FAR_AWAY = '203.0.113.9'
let rtnl: Rtnetlink
let farRtnl: Rtnetlink[]
let monitor: AccessMonitor | undefined
let events: string[] = []
let wakeUp = () => {}

before(() => {
  for (const name of [host, ...far]) createNamespace(name)
  rtnl = new Rtnetlink(host)
  farRtnl = far.map((name) => new Rtnetlink(name))
  rtnl.setLink('lo', { up: true })
  rtnl.createLink({ kind: 'bridge', name: 'docker0', up: true })
  for (const i of [0, 1]) connect(i)
})
after(() => {
  monitor?.stop()
  for (const each of [rtnl, ...farRtnl]) each.close()
  for (const name of [host, ...far]) deleteNamespace(name)
})

/** Makes acc1 or acc2: 192.168.1.7 and .8 of the same subnet, gateway .1 behind each. */
function connect(i: number): void {
  const name = `acc${i + 1}`
  rtnl.createLink({ kind: 'veth', name, index: 1001 + i, peer: { name: 'far', netns: far[i]! } })
  farRtnl[i]!.addAddress('far', '192.168.1.1/24')
  farRtnl[i]!.setLink('far', { up: true })
  rtnl.setLink(name, { up: true })
  rtnl.addAddress(name, `192.168.1.${7 + i}/24`)
  addDefault(i)
}

function addDefault(i: number): void {
  rtnl.addRoute({ to: 'default', via: '192.168.1.1', dev: `acc${i + 1}`, metric: 100 * (i + 1) })
}

function start(init: AccessMonitorInit = {}): AccessMonitor {
  events = []
  const report = (message: string) => events.push(`report: ${message}`)
  const clock = new RealClock()
  const guard = new KernelGuard({ rtnl, ledger: new Ledger(), clock, report })
  const made = new AccessMonitor({ rtnl, clock, report, protect: (each) => guard.protect(each) }, init)
  made.subscribe((event) => {
    events.push(
      event.type === 'access' ? `${event.access.name} ${event.access.state}: ${event.cause}` : 'woke',
    )
    wakeUp()
  })
  made.start()
  return made
}

/** Resolves when `condition` holds; it is looked at after every event and every reading. */
async function until(what: string, condition: () => boolean): Promise<void> {
  for (let turn = 0; !condition(); turn++) {
    assert.ok(turn < 500, `${what} does not come: ${events.join(', ')}`)
    await new Promise<void>((resolve) => {
      wakeUp = resolve
      setTimeout(resolve, 10)
    })
  }
}

const state = (name: string) => monitor!.access(name)?.state
const way = (oif: string, to = FAR_AWAY) => {
  const route = rtnl.lookup({ to, oif })
  return route && `${route.dev} via ${route.via ?? 'link'} from ${route.source} table ${route.table}`
}

test('UP-38: both accesses are found at once, each with routes of its own though their subnets are the same', () => {
  monitor = start()
  assert.deepEqual(events, ['acc1 up: appeared', 'acc2 up: appeared'])
  assert.equal(way('acc1'), 'acc1 via 192.168.1.1 from 192.168.1.7 table 6701')
  assert.equal(way('acc2'), 'acc2 via 192.168.1.1 from 192.168.1.8 table 6702')
  assert.equal(way('acc2', '192.168.1.1'), 'acc2 via link from 192.168.1.8 table 6702')
  assert.equal(rtnl.lookup({ to: '2001:db8::1', oif: 'acc1' }), undefined)
  assert.deepEqual(
    rtnl
      .rules(4)
      .filter((rule) => rule.oif !== undefined)
      .map((rule) => [rule.priority, rule.oif, rule.table]),
    [
      [6700, 'acc1', 6701],
      [6701, 'acc2', 6702],
    ],
  )
  assert.equal(rtnl.lookup({ to: FAR_AWAY })?.dev, 'acc1', 'what is not bound goes as before')
})

test('issue 10: rules and routes of others that stop what leaves are named, with the command that removes them, and stay', async () => {
  const obstacles = (name: string) => monitor!.status().find((each) => each.name === name)?.obstacle
  events.length = 0
  rtnl.addRule({ family: 4, priority: 100, action: 'prohibit' })
  await until('the rule is said', () => obstacles('acc1') !== undefined && obstacles('acc2') !== undefined)
  const rule =
    'the IPv4 rule "100: prohibit" of another program stops what leaves over it; if nothing needs it: ip rule del priority 100 prohibit'
  assert.equal(obstacles('acc1'), rule)
  assert.deepEqual(events.splice(0), [`report: acc1, acc2: ${rule}`])
  assert.ok(rtnl.rules(4).some(({ priority }) => priority === 100))
  execFileSync('ip', ['-n', host, ...'rule del priority 100 prohibit'.split(' ')])
  await until('nothing is said', () => obstacles('acc1') === undefined)
  rtnl.addRule({ family: 4, priority: 100, table: 77, oif: 'acc2' })
  rtnl.addRoute({ to: 'default', type: 'unreachable', table: 77 })
  await until('the route is said', () => obstacles('acc2') !== undefined)
  assert.equal(obstacles('acc1'), undefined)
  assert.match(obstacles('acc2')!, /: ip route del unreachable default table 77$/)
  execFileSync('ip', ['-n', host, ...'route del unreachable default table 77'.split(' ')])
  await until('nothing is said', () => obstacles('acc2') === undefined)
  rtnl.deleteRule({ family: 4, priority: 100, table: 77, oif: 'acc2' })
  assert.equal(events.splice(0).length, 1)
})

test('a lost carrier is told, and what is bound to it goes nowhere else', async () => {
  farRtnl[0]!.setLink('far', { up: false })
  await until('acc1 down', () => state('acc1') === 'down')
  assert.equal(monitor!.access('acc1')?.reason, 'no carrier')
  // A socket bound to a device never leaves by another: without a route Linux takes the destination to be on the link.
  assert.match(way('acc1') ?? 'none', /^(none|acc1 via link)/)
  assert.equal(way('acc2')?.split(' ')[0], 'acc2')
  farRtnl[0]!.setLink('far', { up: true })
  await until('acc1 up', () => state('acc1') === 'up')
  assert.equal(way('acc1'), 'acc1 via 192.168.1.1 from 192.168.1.7 table 6701')
})

test('under traffic a lost carrier is read from the link; nobody waits for the event', async () => {
  farRtnl[0]!.setLink('far', { up: false })
  // No event is handled before this returns.
  monitor!.checkCarriers()
  assert.equal(state('acc1'), 'down')
  assert.equal(state('acc2'), 'up')
  farRtnl[0]!.setLink('far', { up: true })
  await until('acc1 up', () => state('acc1') === 'up')
  monitor!.setTraffic(true)
  farRtnl[0]!.setLink('far', { up: false })
  await until('acc1 down', () => state('acc1') === 'down')
  monitor!.setTraffic(false)
  farRtnl[0]!.setLink('far', { up: true })
  await until('acc1 up', () => state('acc1') === 'up')
})

test('a link set down loses its routes without a word from Linux; they come back with it', async () => {
  rtnl.setLink('acc2', { up: false })
  await until('acc2 down', () => state('acc2') === 'down')
  rtnl.setLink('acc2', { up: true })
  await until('acc2 without a route', () => monitor!.access('acc2')?.reason === 'no default route')
  addDefault(1)
  await until('acc2 up', () => state('acc2') === 'up')
  assert.equal(way('acc2'), 'acc2 via 192.168.1.1 from 192.168.1.8 table 6702')
})

test('an address that goes takes its access down; the same one back brings it up as a new generation', async () => {
  const generation = monitor!.access('acc2')!.generation
  rtnl.deleteAddress('acc2', '192.168.1.8/24')
  await until('acc2 down', () => state('acc2') === 'down')
  rtnl.addAddress('acc2', '192.168.1.8/24')
  if (!rtnl.routes({ table: 254, dev: 'acc2' }).some((route) => route.to === 'default')) addDefault(1)
  await until('acc2 up', () => state('acc2') === 'up')
  assert.ok(monitor!.access('acc2')!.generation > generation)
  assert.equal(way('acc2'), 'acc2 via 192.168.1.1 from 192.168.1.8 table 6702')
})

test('tables follow the main table, and rules that somebody removed come back', async () => {
  rtnl.addRoute({ to: '198.51.100.0/24', via: '192.168.1.1', dev: 'acc2' })
  await until(
    'the route',
    () =>
      way('acc2', '198.51.100.1') !== undefined &&
      rtnl.routes({ table: 6702 }).some((route) => route.to === '198.51.100.0/24'),
  )
  rtnl.deleteRoute({ to: '198.51.100.0/24', dev: 'acc2' })
  await until('no route', () => !rtnl.routes({ table: 6702 }).some((route) => route.to === '198.51.100.0/24'))
  assert.ok(rtnl.deleteRule({ family: 6, priority: 6700, table: 6701, oif: 'acc1' }))
  await until('the rule', () => rtnl.rules(6).some((rule) => rule.priority === 6700))
})

test('IPv6: usable when duplicate address detection is done and a router is there', async () => {
  rtnl.addAddress('acc1', '2001:db8:1::7/64')
  rtnl.addRoute({ to: 'default6', via: 'fe80::1', dev: 'acc1' })
  await until('IPv6', () => monitor!.access('acc1')?.families.includes(6) === true)
  assert.equal(rtnl.lookup({ to: '2001:db8:2::1', oif: 'acc1' })?.table, 6701)
})

test('an interface that is gone takes its rule and table along; one that comes back finds its own', async () => {
  rtnl.deleteLink('acc1')
  await until('acc1 gone', () => monitor!.access('acc1') === undefined)
  assert.deepEqual(
    rtnl.rules().filter((rule) => rule.table === 6701),
    [],
  )
  assert.deepEqual(rtnl.routes({ table: 6701 }), [])
  connect(0)
  await until('acc1 up', () => state('acc1') === 'up')
  assert.equal(way('acc1'), 'acc1 via 192.168.1.1 from 192.168.1.7 table 6701')
})

test('a daemon that was killed finds what it left; cleanUp leaves nothing', () => {
  monitor!.stop()
  rtnl.deleteRule({ family: 4, priority: 6700, table: 6701, oif: 'acc1' })
  rtnl.deleteRule({ family: 6, priority: 6700, table: 6701, oif: 'acc1' })
  monitor = start({ never: ['acc1'] })
  assert.deepEqual(events, ['acc2 up: appeared'])
  assert.equal(monitor.table('acc2'), 6702)
  monitor.stop()
  assert.notEqual(way('acc2'), undefined, 'connections outlive the daemon')
  const next = new AccessMonitor({ rtnl, clock: new RealClock() })
  next.cleanUp()
  next.cleanUp()
  assert.deepEqual(
    rtnl.rules().filter((rule) => rule.oif !== undefined),
    [],
  )
  for (const table of [6701, 6702]) assert.deepEqual(rtnl.routes({ table }), [])
})

test('strict reverse-path filters, which would drop what comes back, are loosened and put back', () => {
  const sysctls = new KernelSysctls(host)
  const filter = (name: string) => sysctls.get(`net/ipv4/conf/${name}/rp_filter`)
  new KernelSysctls(host).set('net/ipv4/conf/all/rp_filter', 1)
  new KernelSysctls(host).set('net/ipv4/conf/acc1/rp_filter', 0)
  const made = new AccessMonitor({ rtnl, clock: new RealClock(), sysctls })
  made.start()
  assert.equal(filter('acc1'), '2')
  assert.equal(filter('docker0') === '2', false, 'not of an interface that is no access')
  made.stop()
  made.cleanUp()
  assert.equal(filter('acc1'), '0')
})

test('a gateway that a radio did not hear asked for is asked for again soon, as long as godwit runs', () => {
  const sysctls = new KernelSysctls(host)
  const retries = (name: string) =>
    ['ipv4', 'ipv6'].map((family) => sysctls.get(`net/${family}/neigh/${name}/retrans_time_ms`))
  new KernelSysctls(host).set('net/ipv6/neigh/acc2/retrans_time_ms', 100)
  const made = new AccessMonitor({ rtnl, clock: new RealClock(), sysctls })
  made.start()
  assert.deepEqual(retries('acc1'), ['200', '200'])
  assert.deepEqual(retries('acc2'), ['200', '100'], 'never slower than it was')
  assert.deepEqual(retries('docker0'), ['1000', '1000'], 'not of an interface that is no access')
  made.stop()
  made.cleanUp()
  assert.deepEqual(retries('acc1'), ['1000', '1000'])
})

test('default routes as people have them: several next hops of one, and one in a table that rules lead to by source', async () => {
  const ip = (...args: string[]) => execFileSync(needProgram('ip'), ['-n', host, ...args])
  for (const i of [0, 1]) rtnl.deleteRoute({ to: 'default', dev: `acc${i + 1}` })
  const gateways = (name: string) =>
    monitor!.access(name)?.gateways.map(({ via, metric }) => `${via} ${metric}`)
  monitor = start()
  assert.deepEqual(monitor.accesses(), [])
  const hops = ['acc1', 'acc2'].flatMap((dev) => ['nexthop', 'via', '192.168.1.1', 'dev', dev])
  ip('route', 'add', 'default', 'metric', '50', ...hops)
  await until('both are accesses', () => state('acc1') === 'up' && state('acc2') === 'up')
  for (const name of ['acc1', 'acc2']) {
    assert.deepEqual(gateways(name), ['192.168.1.1 50'])
    assert.match(way(name)!, new RegExp(`^${name} via 192.168.1.1 .* table 670[12]$`))
  }
  ip('route', 'del', 'default', 'metric', '50')
  await until('neither has a way out', () => state('acc1') === 'down' && state('acc2') === 'down')

  ip('route', 'add', 'default', 'via', '192.168.1.1', 'dev', 'acc2', 'table', '200')
  ip('rule', 'add', 'from', '192.168.1.8', 'lookup', '200')
  await until('the second uplink is an access', () => state('acc2') === 'up')
  assert.deepEqual(gateways('acc2'), ['192.168.1.1 0'])
  assert.equal(way('acc2'), 'acc2 via 192.168.1.1 from 192.168.1.8 table 6702')
  assert.equal(state('acc1'), 'down')
  assert.deepEqual(
    monitor.sources().filter(({ access }) => access === 'acc2'),
    [{ family: 4, address: '192.168.1.8', table: 6702, access: 'acc2' }],
  )
  ip('rule', 'del', 'from', '192.168.1.8')
  await until('the table is nobody’s any more', () => state('acc2') === 'down')
  ip('route', 'flush', 'table', '200')
  for (const i of [0, 1]) addDefault(i)
  await until('all is as before', () => state('acc1') === 'up' && state('acc2') === 'up')
  monitor.stop()
  monitor.cleanUp()
})

test('an interface that is not used is listed with its reason', () => {
  rtnl.createLink({ kind: 'bridge', name: 'lan0', up: true })
  rtnl.addAddress('lan0', '10.77.0.1/24')
  monitor = start({ never: ['acc2'] })
  assert.deepEqual(monitor.unused(), [
    {
      name: 'docker0',
      reason: 'the inner side of containers or virtual machines; [access."docker0"] makes it one',
      addresses: [],
    },
    {
      name: 'lan0',
      reason: 'no default route',
      addresses: ['10.77.0.1/24'],
    },
    { name: 'acc2', reason: '[access] use = "never"', addresses: ['192.168.1.8/24'] },
  ])
  assert.deepEqual(
    monitor
      .sources()
      .map(({ address, table }) => `${address} ${table}`)
      .sort(),
    ['192.168.1.7 6701', '192.168.1.8 254', '10.77.0.1 254'].sort(),
  )
  monitor.stop()
  monitor.cleanUp()
  rtnl.deleteLink('lan0')
})

test('a sleep is noticed with the first event after it', async () => {
  const real = new RealClock()
  let suspended = 0
  const clock = { now: () => real.now(), wall: () => real.wall() + suspended, suspended: () => suspended }
  monitor = new AccessMonitor({ rtnl, clock }, { routing: false })
  const slept: number[] = []
  monitor.subscribe((event) => {
    if (event.type === 'woke') slept.push(event.sleptMs)
  })
  monitor.start()
  suspended = 60_000
  rtnl.setLink('acc2', { mtu: 1400 })
  await until('waking up', () => slept.length > 0)
  assert.deepEqual(slept, [60_000])
  assert.equal(monitor.access('acc2')?.mtu, 1400)
  monitor.stop()
})

test('an aborted monitor says nothing more', async () => {
  const stop = new AbortController()
  const made = new AccessMonitor({ rtnl, clock: new RealClock() }, { routing: false })
  let told = 0
  made.subscribe(() => told++)
  made.start({ signal: stop.signal })
  assert.equal(told, 2)
  stop.abort()
  rtnl.setLink('acc1', { up: false })
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(told, 2)
})

test('an access that gets its carrier back asks for its gateway at once: what was asked in vain is forgotten', async () => {
  monitor = start()
  const isUp = () => monitor?.access('acc2')?.state === 'up'
  await until('acc2 up', isUp)
  farRtnl[1]!.setLink('far', { up: false })
  await until('acc2 down', () => !isUp())
  const vain = ['192.168.1.1', 'lladdr', '02:00:00:00:00:99', 'dev', 'acc2', 'nud', 'stale']
  execFileSync('ip', ['-n', host, 'neigh', 'replace', ...vain])
  assert.equal(rtnl.neighbours('acc2').filter(({ address }) => address === '192.168.1.1').length, 1)
  farRtnl[1]!.setLink('far', { up: true })
  await until('acc2 up again', isUp)
  assert.deepEqual(
    rtnl.neighbours('acc2').filter(({ address }) => address === '192.168.1.1'),
    [],
  )
  monitor.stop()
  monitor.cleanUp()
})
