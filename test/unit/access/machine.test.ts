import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  type AccessEvent,
  AccessMachine,
  type AddressFacts,
  type LinkFacts,
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
