/** A router's routes: beside those of others, and as if both tables were one. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parsePrefix } from '../../../src/core/address.ts'
import { FakeSysctls } from '../../../src/linux/fakes.ts'
import { Ledger } from '../../../src/linux/ledger.ts'
import { FakeNetwork, FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'
import { RouterPlumbing } from '../../../src/routing/plumbing.ts'

function prefix(text: string) {
  const parsed = parsePrefix(text)
  assert.ok(parsed.ok)
  return parsed.value
}

interface Router {
  readonly rtnl: FakeRtnl
  readonly plumbing: RouterPlumbing
  readonly sysctls: FakeSysctls
  readonly said: string[]
}

function router(...subnets: string[]): Router {
  const said: string[] = []
  const sysctls = new FakeSysctls()
  const rtnl = new FakeRtnl(new FakeNetwork(), 'router')
  for (const name of ['gwrt0', 'lan', 'wlan0']) rtnl.createLink({ kind: 'dummy', name, up: name !== 'gwrt0' })
  rtnl.addAddress('lan', '10.1.0.1/24')
  rtnl.addAddress('wlan0', '10.2.0.77/24')
  rtnl.addRoute({ to: 'default', via: '10.2.0.1', dev: 'wlan0', metric: 600 })
  const plumbing = new RouterPlumbing(rtnl, sysctls, {
    device: 'gwrt0',
    ledger: new Ledger(),
    subnets: subnets.map(prefix),
    own: [prefix('10.1.0.0/24')],
    report: (message) => said.push(message),
  })
  return { rtnl, plumbing, sysctls, said }
}

test("house point 3: a hotspot with home's prefix keeps its route, and home is reached all the same", () => {
  const { rtnl, plumbing } = router('10.2.0.0/24', 'fd00:2::/64')
  const main = rtnl.routes({ table: 254 })
  const rules = rtnl.rules()
  plumbing.apply(1400)
  assert.deepEqual(rtnl.routes({ table: 254 }), main)
  assert.equal(rtnl.lookup({ to: '10.2.0.2' })?.dev, 'gwrt0')
  assert.equal(rtnl.lookup({ to: '10.2.0.2' })?.source, '10.1.0.1')
  assert.equal(rtnl.lookup({ to: 'fd00:2::2' })?.dev, 'gwrt0')
  assert.equal(rtnl.lookup({ to: '10.1.0.9' })?.dev, 'lan')
  assert.equal(rtnl.lookup({ to: '203.0.113.1' })?.dev, 'wlan0')
  assert.equal(
    rtnl.lookup({ to: '10.2.0.2', mark: new Ledger().routing.mark })?.dev,
    'wlan0',
    'what carries the tunnel',
  )
  plumbing.cleanUp()
  assert.deepEqual(rtnl.routes({ table: 254 }), main)
  assert.deepEqual(rtnl.rules(), rules)
})

test('of both tables the longest prefix wins; of equals ours; a default route of the site is the last', () => {
  const { rtnl, plumbing } = router('10.0.0.0/8', '10.2.0.0/25', '0.0.0.0/0')
  rtnl.addRoute({ to: '10.2.0.99/32', dev: 'lan' })
  plumbing.apply(1400)
  const way = (to: string) => rtnl.lookup({ to })?.dev
  assert.equal(way('10.1.0.9'), 'lan', "main's /24 before our /8")
  assert.equal(way('10.2.0.9'), 'gwrt0', "our /25 before main's /24")
  assert.equal(way('10.2.0.99'), 'lan', "main's /32 before our /25")
  assert.equal(way('10.2.0.200'), 'wlan0', "main's /24 before our /8")
  assert.equal(way('10.9.0.1'), 'gwrt0', "our /8 before main's default")
  assert.equal(way('203.0.113.1'), 'gwrt0', "our default before main's")
  assert.deepEqual(plumbing.restore(), [])
  rtnl.flushRoutes({ table: new Ledger().routing.table })
  assert.deepEqual(plumbing.restore(), [
    'route 10.0.0.0/8 of gwrt0',
    'route 10.2.0.0/25 of gwrt0',
    'route default of gwrt0',
  ])
})

test('many lengths fit into the numbers that a router has', () => {
  const subnets = Array.from({ length: 60 }, (_, i) => `fd00:${(i + 1).toString(16)}::/${64 + i}`)
  const { rtnl, plumbing } = router(...subnets)
  plumbing.apply(1400)
  const { rules } = new Ledger().routing
  for (const { origin, priority } of rtnl.rules())
    if (origin === 0x67) assert.ok(priority >= rules[0] && priority <= rules[1], `${priority}`)
  assert.equal(rtnl.lookup({ to: 'fd00:1::1' })?.dev, 'gwrt0')
  assert.equal(rtnl.lookup({ to: 'fd00:3c::1' })?.dev, 'gwrt0')
})

test('OH-6: IPv6 is turned off for the device: subnets of IPv4 are reached, the others when it is turned on', () => {
  const { rtnl, plumbing, sysctls, said } = router('10.2.0.0/24', 'fd00:2::/64')
  const key = 'net/ipv6/conf/gwrt0/disable_ipv6'
  sysctls.values.set(key, '1')
  plumbing.apply(1400)
  assert.equal(rtnl.lookup({ to: '10.2.0.2' })?.dev, 'gwrt0')
  assert.equal(rtnl.lookup({ to: 'fd00:2::2' }), undefined)
  assert.match(
    said.join('\n'),
    /^IPv6 is turned off for gwrt0 .*sysctl -w net\.ipv6\.conf\.gwrt0\.disable_ipv6=0$/,
  )
  assert.deepEqual(plumbing.restore(), [])
  assert.equal(said.length, 1)
  sysctls.values.set(key, '0')
  assert.deepEqual(plumbing.restore(), [], 'nobody took it away')
  assert.equal(rtnl.lookup({ to: 'fd00:2::2' })?.dev, 'gwrt0')
  assert.equal(said.length, 2)
})

test('OH-7: a gateway whose own address changes names the new one as source', () => {
  const { rtnl, plumbing } = router('10.2.0.0/24')
  plumbing.apply(1400)
  assert.ok(plumbing.isSource('10.1.0.1'))
  rtnl.deleteAddress('lan', '10.1.0.1/24')
  plumbing.restore()
  assert.equal(rtnl.lookup({ to: '10.2.0.2' })?.source, undefined)
  assert.deepEqual(plumbing.missingSources(), ['10.1.0.0/24'])
  rtnl.addAddress('lan', '10.1.0.254/24')
  assert.ok(plumbing.findSources())
  assert.equal(rtnl.lookup({ to: '10.2.0.2' })?.source, '10.1.0.254')
  assert.ok(!plumbing.isSource('10.1.0.1'))
})
