import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type AccessEvent,
  AccessMachine,
  type AddressFacts,
  type LinkFacts,
  noAccess,
  type RouteFacts,
  SETTLE_MS,
} from '../../../src/access/machine.ts'
import { matchesPattern } from '../../../src/core/pattern.ts'

const link = (index: number, name: string, more: Partial<LinkFacts> = {}): LinkFacts => ({
  index,
  name,
  kind: undefined,
  up: true,
  carrier: true,
  operState: 'up',
  loopback: false,
  mtu: 1500,
  ...more,
})
const address = (index: number, text: string, more: Partial<AddressFacts> = {}): AddressFacts => ({
  index,
  family: text.includes(':') ? 6 : 4,
  address: text,
  prefixLength: 24,
  scope: text.startsWith('fe80') ? 'link' : 'global',
  tentative: false,
  deprecated: false,
  ...more,
})
const route = (dev: string, more: Partial<RouteFacts> = {}): RouteFacts => ({
  family: 4,
  table: 254,
  type: 'unicast',
  to: 'default',
  via: '192.168.1.1',
  dev,
  ...more,
})

function drain(machine: AccessMachine): string[] {
  const out: string[] = []
  for (let event = machine.poll(); event !== undefined; event = machine.poll()) out.push(tell(event))
  return out
}
function tell(event: AccessEvent): string {
  if (event.type === 'woke') return `woke after ${event.sleptMs}`
  const { access, before, cause } = event
  return `${access.name}: ${before?.state ?? 'unknown'} > ${access.state} (${cause}; ${access.reason})`
}
const UP = 'has a carrier, an address and a default route for IPv4'

test('an interface becomes an access when it has a way out, and is up when all three are there', () => {
  const machine = new AccessMachine()
  machine.handleEvent({ type: 'link', link: link(2, 'eth0', { carrier: false }) }, 1)
  machine.handleEvent({ type: 'address', address: address(2, '192.168.1.7') }, 2)
  assert.deepEqual(drain(machine), [], 'no default route yet: an interface like any other')
  machine.handleEvent({ type: 'route', route: route('eth0') }, 3)
  machine.handleEvent({ type: 'link', link: link(2, 'eth0') }, 4)
  assert.deepEqual(drain(machine), [
    'eth0: unknown > down (route added; no carrier)',
    `eth0: down > up (carrier; ${UP})`,
  ])
  assert.deepEqual(machine.access('eth0')?.gateways, [{ family: 4, via: '192.168.1.1', metric: 0 }])
  assert.equal(machine.access('eth0')?.since, 4)
})

test('each thing that is missing has its reason; tentative, link-local and mismatched do not count', () => {
  const machine = new AccessMachine({ named: ['wlan*'] })
  const reason = () => machine.access('wlan0')?.reason
  machine.handleEvent({ type: 'link', link: link(3, 'wlan0', { up: false, carrier: false }) }, 0)
  assert.equal(reason(), 'the interface is set down')
  machine.handleEvent({ type: 'link', link: link(3, 'wlan0', { operState: 'dormant' }) }, 0)
  assert.equal(reason(), 'waiting for authentication')
  machine.handleEvent({ type: 'link', link: link(3, 'wlan0') }, 0)
  machine.handleEvent({ type: 'address', address: address(3, 'fe80::1') }, 0)
  machine.handleEvent({ type: 'address', address: address(3, '2001:db8::7', { tentative: true }) }, 0)
  assert.equal(reason(), 'no address')
  machine.handleEvent({ type: 'address', address: address(3, '2001:db8::7') }, 0)
  assert.equal(reason(), 'no default route')
  machine.handleEvent({ type: 'route', route: route('wlan0') }, 0)
  assert.equal(reason(), 'address and default route are of different IP families')
  machine.handleEvent(
    { type: 'route', route: route('wlan0', { family: 6, to: 'default6', via: 'fe80::9' }) },
    0,
  )
  assert.equal(machine.access('wlan0')?.state, 'up')
  assert.deepEqual(machine.access('wlan0')?.families, [6])
})

test('what is no access: loopback, our own, insides of containers and tunnels, unless named', () => {
  const names = ['lo', 'godwit0', 'docker0', 'veth1a2b', 'tun0', 'br-0123', 'eth0', 'lan0', 'acc1']
  const machine = new AccessMachine({ named: ['tun0', '*'], never: ['lan*'], ours: ['godwit*'] })
  for (const [i, name] of names.entries()) {
    const kind = name === 'acc1' ? 'veth' : name.startsWith('tun') || name === 'godwit0' ? 'tun' : undefined
    machine.handleEvent({ type: 'link', link: link(i + 1, name, { loopback: name === 'lo', kind }) }, 0)
    machine.handleEvent({ type: 'route', route: route(name) }, 0)
  }
  assert.deepEqual(
    machine.accesses().map((each) => each.name),
    ['tun0', 'eth0', 'acc1'],
  )
})

test('going down is told on the first event that implies it; the same address back is a new generation', () => {
  const machine = new AccessMachine()
  machine.handleSnapshot(
    { links: [link(2, 'eth0')], addresses: [address(2, '192.168.1.7')], routes: [route('eth0')] },
    0,
  )
  const generation = machine.access('eth0')!.generation
  drain(machine)
  machine.handleEvent({ type: 'link', link: link(2, 'eth0', { carrier: false }) }, 10)
  machine.handleEvent({ type: 'link', link: link(2, 'eth0') }, 20)
  assert.deepEqual(drain(machine), [
    'eth0: up > down (carrier lost; no carrier)',
    `eth0: down > up (carrier; ${UP})`,
  ])
  assert.ok(machine.access('eth0')!.generation > generation)

  // Set down, Linux forgets the IPv4 routes without a word.
  machine.handleEvent({ type: 'link', link: link(2, 'eth0', { up: false, carrier: false }) }, 30)
  machine.handleEvent({ type: 'link', link: link(2, 'eth0') }, 40)
  assert.deepEqual(drain(machine), [
    'eth0: up > down (link down; the interface is set down)',
    'eth0: down > down (link up; no default route)',
  ])
  machine.handleEvent({ type: 'route', route: route('eth0') }, 50)
  assert.deepEqual(drain(machine), [`eth0: down > up (route added; ${UP})`])
  machine.handleEvent({ type: 'link-gone', link: link(2, 'eth0') }, 60)
  assert.deepEqual(drain(machine), ['eth0: up > down (removed; the interface is gone)'])
  assert.deepEqual(machine.accesses(), [])
})

test('a prefix that a router deprecates with every advertisement: one generation, when the other has settled', () => {
  const machine = new AccessMachine()
  const own = (text: string, deprecated: boolean, now: number) =>
    machine.handleEvent({ type: 'address', address: address(2, text, { deprecated }) }, now)
  const default6 = { family: 6, to: 'default6', via: 'fe80::1' } as const
  machine.handleSnapshot(
    { links: [link(2, 'eth0')], addresses: [address(2, '2001:db8:1::7')], routes: [route('eth0', default6)] },
    0,
  )
  const generation = () => machine.access('eth0')!.generation
  const first = generation()
  own('2001:db8:2::7', false, 0)
  assert.equal(machine.nextTimeout(), undefined)
  for (let now = 1000; now < 20_000; now += 1000) {
    own('2001:db8:1::7', true, now)
    assert.equal(machine.nextTimeout(), now + SETTLE_MS)
    own('2001:db8:1::7', false, now + 10)
    assert.equal(machine.nextTimeout(), undefined)
  }
  assert.equal(generation(), first, 'a deprecated address stays in use until another has settled')
  own('2001:db8:1::7', true, 20_000)
  own('2001:db8:1::7', true, 21_000)
  machine.handleTimeout(21_999)
  assert.equal(generation(), first)
  machine.handleTimeout(22_000)
  assert.equal(generation(), first + 1)
  assert.equal(machine.nextTimeout(), undefined)
  for (let now = 23_000; now < 40_000; now += 1000) {
    own('2001:db8:1::7', false, now)
    own('2001:db8:1::7', true, now + 10)
    machine.handleTimeout(now + 500)
  }
  assert.equal(generation(), first + 1, 'and the one in use now is kept too')
  machine.handleEvent({ type: 'address-gone', address: address(2, '2001:db8:1::7') }, 40_000)
  assert.equal(generation(), first + 1)
  machine.handleEvent({ type: 'address-gone', address: address(2, '2001:db8:2::7') }, 40_000)
  assert.ok(generation() > first + 1, 'what is gone is told at once')
})

test('a metric that changes, and an address beside the one in use, are no new generation', () => {
  const machine = new AccessMachine()
  const facts = { links: [link(2, 'eth0')], addresses: [address(2, '192.168.1.7')] }
  machine.handleSnapshot({ ...facts, routes: [route('eth0', { metric: 20_100 })] }, 0)
  const { generation } = machine.access('eth0')!
  machine.handleSnapshot({ ...facts, routes: [route('eth0', { metric: 100 })] }, 1)
  machine.handleEvent({ type: 'address', address: address(2, '192.168.1.8') }, 2)
  assert.equal(machine.access('eth0')!.generation, generation)
  machine.handleSnapshot({ ...facts, routes: [route('eth0', { via: '192.168.1.254' })] }, 3)
  assert.equal(machine.access('eth0')!.generation, generation + 1)
})

test('quality and draining: loss with hysteresis, silence, and back', () => {
  const machine = new AccessMachine()
  machine.handleSnapshot(
    { links: [link(2, 'eth0')], addresses: [address(2, '192.168.1.7')], routes: [route('eth0')] },
    0,
  )
  drain(machine)
  const quality = (loss: number, working = true) => {
    machine.handleQuality('eth0', { rttMs: 10, loss, working }, 1)
    return machine.access('eth0')!.state
  }
  assert.equal(quality(0.04), 'up')
  assert.equal(quality(0.06), 'degrading')
  assert.equal(quality(0.03), 'degrading')
  assert.equal(quality(0.01), 'up')
  assert.equal(quality(0, false), 'degrading')
  assert.equal(machine.access('eth0')!.reason, 'nothing comes back over it')
  machine.handleEvent({ type: 'link', link: link(2, 'eth0', { carrier: false }) }, 1)
  machine.handleEvent({ type: 'link', link: link(2, 'eth0') }, 1)
  assert.equal(machine.access('eth0')!.state, 'up', 'a new start: what was measured was another network')
  drain(machine)
  assert.equal(machine.setDraining('eth0', true, 2), true)
  assert.equal(machine.access('eth0')!.state, 'draining')
  assert.equal(machine.setDraining('eth1', true, 2), false)
  machine.setDraining('eth0', false, 3)
  assert.equal(machine.access('eth0')!.state, 'up')
  const generations = new Set<number>()
  for (let event = machine.poll(); event?.type === 'access'; event = machine.poll())
    generations.add(event.access.generation)
  assert.equal(generations.size, 1, 'quality does not change what sockets rest on')
})

test('an interface that is renamed is another access; a sleep is told', () => {
  const machine = new AccessMachine({ named: ['e*'] })
  machine.handleEvent({ type: 'link', link: link(2, 'eth0') }, 0)
  machine.handleEvent({ type: 'link', link: link(2, 'enp1') }, 1)
  machine.handleWake(5000, 2)
  assert.deepEqual(drain(machine), [
    'eth0: unknown > down (appeared; no address)',
    'eth0: down > down (removed; the interface is gone)',
    'enp1: unknown > down (appeared; no address)',
    'woke after 5000',
  ])
})

test('patterns', () => {
  for (const [pattern, name, expected] of [
    ['wlan*', 'wlan0', true],
    ['wlan*', 'wwan0', false],
    ['*', '', true],
    ['eth0', 'eth00', false],
    ['e*0', 'e0', true],
    ['e0*0', 'e0', false],
    ['*a*b*', 'xaxbx', true],
    ['*a*b*', 'xbxax', false],
    ['**', 'x', true],
  ] as const)
    assert.equal(matchesPattern(pattern, name), expected, `${pattern} ${name}`)
})

test('a device without carrier, or set down, is shown with its reason, also when it never was an access (issue 14, point 5)', () => {
  const machine = new AccessMachine()
  machine.handleEvent({ type: 'link', link: link(2, 'eth0', { carrier: false }) }, 1)
  machine.handleEvent({ type: 'link', link: link(3, 'wlan0', { up: false, carrier: false }) }, 1)
  machine.handleEvent({ type: 'link', link: link(4, 'docker0', { up: false, kind: 'bridge' }) }, 1)
  assert.deepEqual(
    machine.unused().map(({ name, reason }) => `${name} ${reason}`),
    ['eth0 down: no carrier', 'wlan0 down: the interface is set down'],
  )
})

test('issue 10, A5: an interface of any kind that is down from the beginning is listed; what the kernel makes by itself is not', () => {
  const machine = new AccessMachine()
  const add = (index: number, name: string, more: Partial<LinkFacts>) =>
    machine.handleEvent({ type: 'link', link: link(index, name, more) }, 0)
  const down = { up: false, carrier: false }
  add(2, 'bond0', { kind: 'bond', ...down })
  add(3, 'eth0.10', { kind: 'vlan', carrier: false })
  add(4, 'br0', { kind: 'bridge', ...down })
  add(5, 'br1', { kind: 'bridge', carrier: false })
  add(6, 'wwan0', { kind: 'wwan' })
  add(7, 'veth1a2b', { kind: 'veth', ...down })
  add(8, 'gretap0', { kind: 'gretap', ...down })
  add(9, 'sit0', { kind: 'sit', ...down })
  add(10, 'eth1', { master: 2 })
  add(11, 'eth2', { master: 4 })
  const unused = machine.unused()
  assert.deepEqual(
    unused.map(({ name, reason }) => `${name} ${reason}`),
    [
      'bond0 down: the interface is set down',
      'eth0.10 down: no carrier',
      'br0 down: the interface is set down',
      'br1 no address and no default route',
      'wwan0 no address and no default route',
      'eth1 a port of bond0; bond0 carries its packets',
      'eth2 a port of br0; br0 carries its packets',
    ],
  )
  const said = (name: string) => {
    const { code, message, hint } = noAccess(name, [{ name: 'wlan0' }], unused)
    return `${code} ${message} (${hint})`
  }
  const becomes = 'it becomes an access when it has an address and a default route; accesses: wlan0'
  assert.equal(
    said('bond0'),
    `NO_ACCESS bond0 is no access: down: the interface is set down (ip link set bond0 up; ${becomes})`,
  )
  assert.equal(
    said('wwan0'),
    `NO_ACCESS wwan0 is no access: no address and no default route (start DHCP on it; ${becomes})`,
  )
  assert.equal(
    said('eth1'),
    'NO_ACCESS eth1 is no access: a port of bond0 (bond0 carries its packets; accesses: wlan0)',
  )
  assert.equal(said('eth7'), 'NO_ACCESS there is no access eth7 (accesses: wlan0)')
})

test('issue 10, A5: what is not used is listed with its addresses and the reason, and how to change it; what is ours is not', () => {
  const machine = new AccessMachine({ never: ['lan*'], ours: ['godwit0'] })
  const add = (index: number, name: string, more: Partial<LinkFacts> = {}) => {
    machine.handleEvent({ type: 'link', link: link(index, name, more) }, 0)
    machine.handleEvent({ type: 'address', address: address(index, `10.0.${index}.7`) }, 0)
  }
  add(1, 'lo', { loopback: true })
  add(2, 'eth0')
  machine.handleEvent({ type: 'route', route: route('eth0') }, 0)
  add(3, 'eth1')
  add(4, 'lan0')
  add(5, 'virbr0', { kind: 'bridge' })
  add(6, 'wg0', { kind: 'wireguard' })
  add(7, 'godwit0', { kind: 'tun' })
  add(8, 'tap0', { kind: 'tun', mac: '02:00:00:00:00:01' })
  add(9, 'tun0', { kind: 'tun', mac: '' })
  add(10, 'veth0', { kind: 'veth', up: false })
  assert.deepEqual(
    machine.unused().map(({ name, reason, addresses }) => [name, reason, addresses.join()]),
    [
      ['eth1', 'no default route', '10.0.3.7/24'],
      ['lan0', '[access] use = "never"', '10.0.4.7/24'],
      [
        'virbr0',
        'the inner side of containers or virtual machines; [access."virbr0"] makes it one',
        '10.0.5.7/24',
      ],
      [
        'wg0',
        'a device of kind wireguard, not a network of its own; [access."wg0"] makes it one',
        '10.0.6.7/24',
      ],
      ['tap0', 'no default route', '10.0.8.7/24'],
      ['tun0', 'a device of kind tun, not a network of its own; [access."tun0"] makes it one', '10.0.9.7/24'],
    ],
  )
})

test('DI-37: what can carry packets beside accesses: links of their own, up and with a carrier; a bridge with a way out', () => {
  const machine = new AccessMachine()
  const usable = () => machine.usable().map(({ link: { name }, isAccess }) => `${name} ${isAccess}`)
  machine.handleEvent({ type: 'link', link: link(2, 'eth0') }, 0)
  machine.handleEvent({ type: 'link', link: link(3, 'eth1', { carrier: false }) }, 0)
  machine.handleEvent({ type: 'link', link: link(4, 'eth2', { up: false }) }, 0)
  machine.handleEvent({ type: 'link', link: link(5, 'br0', { kind: 'bridge' }) }, 0)
  machine.handleEvent({ type: 'link', link: link(6, 'docker0', { kind: 'bridge' }) }, 0)
  machine.handleEvent({ type: 'link', link: link(7, 'wg0', { kind: 'wireguard' }) }, 0)
  assert.deepEqual(usable(), ['eth0 false'])
  machine.handleEvent({ type: 'route', route: route('br0') }, 0)
  machine.handleEvent({ type: 'route', route: route('eth0') }, 0)
  assert.deepEqual(usable(), ['eth0 true', 'br0 true'])
  machine.handleEvent({ type: 'address', address: address(5, 'fe80::1') }, 0)
  machine.handleEvent({ type: 'address', address: address(2, '10.0.0.7') }, 0)
  assert.deepEqual(
    machine.usable().map(({ addresses }) => addresses.map((each) => each.address)),
    [['10.0.0.7'], ['fe80::1']],
    'all of them, each with its own',
  )
})

test('addresses that packets may be from: confirmed ones of any interface that is not ours, of loopback too', () => {
  const machine = new AccessMachine({ ours: ['godwit0'] })
  for (const [index, name] of ['lo', 'eth0', 'godwit0'].entries())
    machine.handleEvent({ type: 'link', link: link(index + 1, name, { loopback: name === 'lo' }) }, 0)
  for (const each of [
    address(1, '192.0.2.1'),
    address(1, '127.0.0.1', { scope: 'host' }),
    address(2, '10.0.0.7'),
    address(2, 'fec0::7', { scope: 'site' }),
    address(2, 'fe80::7'),
    address(2, 'fd00::7', { tentative: true }),
    address(3, '198.19.0.1'),
    address(9, '10.9.9.9'),
  ])
    machine.handleEvent({ type: 'address', address: each }, 0)
  assert.deepEqual(
    machine.addresses().map((each) => each.address),
    ['192.0.2.1', '10.0.0.7', 'fec0::7'],
  )
})

test('issue 10, A5: the best gateway is first, of one metric that of IPv4; routes of followed tables come after main’s', () => {
  const machine = new AccessMachine()
  const six = route('eth0', { family: 6, to: 'default6', via: 'fe80::9', metric: 100 })
  machine.handleSnapshot(
    {
      links: [link(2, 'eth0')],
      addresses: [address(2, '192.168.1.7'), address(2, '2001:db8::7')],
      routes: [
        route('eth0', { table: 7, metric: 10, via: '192.168.1.7' }),
        six,
        route('eth0', { metric: 100 }),
        route('eth0', { metric: 50, via: '192.168.1.9' }),
        route('eth0', { to: '10.0.0.0/8', via: '192.168.1.8' }),
        route('eth0', { to: '10.1.0.0/16', type: 'unreachable' }),
        route('eth0', { table: 8, via: '192.168.1.6' }),
        route('eth1', { metric: 1 }),
      ],
      tables: new Set([7]),
    },
    0,
  )
  assert.deepEqual(
    machine.access('eth0')?.gateways.map(({ family, via, metric }) => `${family} ${via} ${metric}`),
    ['4 192.168.1.7 10', '4 192.168.1.9 50', '4 192.168.1.1 100', '6 fe80::9 100'],
  )
  assert.deepEqual(
    machine.routes('eth0').map(({ table, to }) => `${table} ${to}`),
    ['254 default6', '254 default', '254 default', '254 10.0.0.0/8', '7 default'],
  )
  assert.deepEqual([machine.follows(7), machine.follows(8), machine.follows(254)], [true, false, true])
  assert.equal(machine.mainRoutes().length, 6)
  // A route of a table that does not count, or without an interface, changes nothing.
  drain(machine)
  machine.handleEvent({ type: 'route', route: route('eth0', { table: 8, metric: 1 }) }, 1)
  const { dev: _, ...nowhere } = route('eth0', { metric: 2 })
  machine.handleEvent({ type: 'route', route: nowhere }, 1)
  machine.handleEvent({ type: 'route', route: route('eth9') }, 1)
  assert.deepEqual([drain(machine), machine.access('eth0')?.gateways.length], [[], 4])
  machine.handleEvent({ type: 'route-gone', route: six }, 2)
  assert.deepEqual(drain(machine), [`eth0: up > up (route removed; ${UP})`])
  assert.deepEqual(machine.access('eth0')?.families, [4])
})

test('UP-38: an interface that is set down loses its routes of IPv4 alone; one that is gone takes all of it along', () => {
  const machine = new AccessMachine()
  const six = { family: 6, to: 'default6', via: 'fe80::9' } as const
  for (const [index, name] of [
    [2, 'eth0'],
    [3, 'eth1'],
  ] as const) {
    machine.handleEvent({ type: 'link', link: link(index, name) }, 0)
    for (const text of [`10.0.${index}.7`, `2001:db8:${index}::7`])
      machine.handleEvent({ type: 'address', address: address(index, text) }, 0)
    machine.handleEvent({ type: 'route', route: route(name) }, 0)
    machine.handleEvent({ type: 'route', route: route(name, six) }, 0)
  }
  machine.handleEvent({ type: 'link', link: link(2, 'eth0', { up: false, carrier: false }) }, 1)
  machine.handleEvent({ type: 'link', link: link(2, 'eth0') }, 2)
  assert.deepEqual(machine.access('eth0')?.families, [6])
  assert.deepEqual(machine.access('eth1')?.families, [4, 6])
  drain(machine)
  const { generation } = machine.access('eth0')!
  machine.handleEvent({ type: 'link-gone', link: link(2, 'eth0') }, 5)
  const gone = machine.poll()
  assert.ok(gone?.type === 'access')
  assert.deepEqual(
    { ...gone.access, generation: gone.access.generation - generation },
    {
      ...{ name: 'eth0', ifindex: 2, state: 'down', reason: 'the interface is gone', since: 5, mtu: 1500 },
      ...{ addresses: [], gateways: [], families: [], generation: 1 },
    },
  )
  assert.deepEqual([gone.cause, gone.at, machine.access('eth0')], ['removed', 5, undefined])
  machine.handleEvent({ type: 'link', link: link(2, 'eth0') }, 6)
  assert.deepEqual([machine.routes('eth0'), machine.access('eth0')], [[], undefined], 'it begins anew')
  machine.handleEvent({ type: 'link-gone', link: link(9, 'never') }, 7)
  // One that was down is down since then.
  machine.handleEvent({ type: 'link', link: link(3, 'eth1', { carrier: false }) }, 8)
  drain(machine)
  machine.handleEvent({ type: 'link-gone', link: link(3, 'eth1') }, 9)
  assert.equal((machine.poll() as { access: { since: number } }).access.since, 8)
})

test('issue 10, A5: a name that the configuration has and no interface is listed as long as that is so; no pattern, and nothing never used', () => {
  const machine = new AccessMachine({ named: ['wwan0', 'usb*', 'eth9', 'wwan0'], never: ['eth9'] })
  const reasons = () => machine.unused().map(({ name, reason }) => `${name} ${reason}`)
  assert.deepEqual(reasons(), ['wwan0 there is no interface of this name now'])
  const { hint } = noAccess('wwan0', [], machine.unused())
  assert.match(hint!, /^plug it in, or correct its name/)
  machine.handleEvent({ type: 'link', link: link(2, 'wwan0', { up: false, carrier: false }) }, 0)
  assert.deepEqual(reasons(), [])
  assert.equal(machine.access('wwan0')?.reason, 'the interface is set down')
})

test('issue 10: interfaces in one network of IPv4 are known, if one of them is an access', () => {
  const machine = new AccessMachine({ ours: ['godwit0'] })
  const add = (index: number, name: string, own: string, prefixLength: number) => {
    machine.handleEvent({ type: 'link', link: link(index, name, { loopback: name === 'lo' }) }, 0)
    machine.handleEvent({ type: 'address', address: { ...address(index, own), prefixLength } }, 0)
  }
  add(1, 'lo', '192.168.1.3', 32)
  add(2, 'eth0', '192.168.1.7', 24)
  add(3, 'eth1', '192.168.0.9', 16)
  add(4, 'lan0', '10.0.0.1', 24)
  add(5, 'lan1', '10.0.0.2', 24)
  add(6, 'godwit0', '192.168.1.1', 32)
  add(7, 'wlan0', '172.16.0.1', 24)
  assert.deepEqual(machine.sharing(), [])
  machine.handleEvent({ type: 'route', route: route('eth0') }, 0)
  machine.handleEvent({ type: 'route', route: route('wlan0') }, 0)
  assert.deepEqual(machine.sharing(), ['eth0', 'eth1'])
})

test('issue 10: addresses that a translator of IPv4 on this host has in the network of an access are known, and nothing else that a TUN has', () => {
  const machine = new AccessMachine({ ours: ['godwit*'] })
  const direct = (dev: string, more: Pick<RouteFacts, 'to' | 'via'>): RouteFacts => ({
    ...{ family: 6, table: 254, type: 'unicast', dev },
    ...more,
  })
  const put = (
    index: number,
    name: string,
    more: Partial<LinkFacts>,
    ...routes: Pick<RouteFacts, 'to' | 'via'>[]
  ) => {
    machine.handleEvent({ type: 'link', link: link(index, name, more) }, 0)
    for (const each of routes) machine.handleEvent({ type: 'route', route: direct(name, each) }, 0)
  }
  put(2, 'wwan0', {}, { to: 'default6', via: 'fe80::9' })
  machine.handleEvent({ type: 'address', address: address(2, '2001:db8:2::5', { prefixLength: 128 }) }, 0)
  const inside = '2001:db8:2::464'
  put(
    3,
    'clat',
    { kind: 'tun' },
    { to: `${inside}/128` },
    { to: '2001:db8:3::1/128' },
    { to: '2001:db8:2:0:1::/80' },
  )
  put(4, 'tap0', { kind: 'tun', mac: '02:00:00:00:00:01' }, { to: '2001:db8:2::465/128' })
  put(5, 'veth0', { kind: 'veth' }, { to: '2001:db8:2::466/128' })
  put(6, 'godwit0', { kind: 'tun' }, { to: '2001:db8:2::467/128' })
  put(7, 'tun1', { kind: 'tun' }, { to: '2001:db8:2::468/128', via: 'fe80::1' })
  assert.deepEqual(machine.translators(), [{ address: inside, access: 'wwan0' }])
  machine.handleEvent({ type: 'route-gone', route: direct('clat', { to: `${inside}/128` }) }, 0)
  assert.deepEqual(machine.translators(), [])
})
