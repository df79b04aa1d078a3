/**
 * What every `Rtnl` does, the kernel's and the fake: run on both, so that what is tested on the fake holds on Linux.
 */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { KernelError } from '../../src/linux/libc.ts'
import type { Rtnl, RtnlEvent, RuleSpec } from '../../src/linux/rtnetlink/index.ts'

/** `make` gives an Rtnl of an empty namespace (loopback only, down) and one of a second namespace named `second`. */
export function rtnlCompliance(
  name: string,
  make: () => { first: Rtnl; second: Rtnl; secondName: string; end: () => void },
): void {
  describe(`Rtnl: ${name}`, () => {
    let first: Rtnl
    let second: Rtnl
    let secondName: string
    let end = () => {}
    before(() => {
      ;({ first, second, secondName, end } = make())
    })
    after(() => end())

    const errno = (number: number) => (error: unknown) =>
      error instanceof KernelError && error.errno === number

    test('a new namespace has a loopback that is down', () => {
      const [lo, ...others] = first.links()
      assert.equal(others.length, 0)
      assert.equal(lo?.name, 'lo')
      assert.equal(lo?.loopback, true)
      assert.equal(lo?.up, false)
      first.setLink('lo', { up: true })
      assert.equal(first.link('lo')?.up, true)
      assert.deepEqual(
        first
          .addresses({ link: 'lo' })
          .map((each) => `${each.address}/${each.prefixLength}`)
          .sort(),
        ['127.0.0.1/8', '::1/128'],
      )
    })

    test('a veth pair spans two namespaces at once, and has a carrier when both ends are up', () => {
      first.createLink({
        kind: 'veth',
        name: 'acc1',
        mtu: 1400,
        index: 1001,
        peer: { name: 'far1', netns: secondName, mac: '02:00:00:00:00:07' },
      })
      assert.equal(first.link('acc1')?.kind, 'veth')
      assert.equal(first.link('acc1')?.mtu, 1400)
      assert.equal(second.link('far1')?.mac, '02:00:00:00:00:07')
      assert.equal(first.link('far1'), undefined)
      first.setLink('acc1', { up: true })
      assert.equal(first.link('acc1')?.carrier, false)
      second.setLink('far1', { up: true })
      assert.equal(first.link('acc1')?.carrier, true)
      assert.throws(
        () => first.createLink({ kind: 'veth', name: 'acc1', peer: { name: 'far9', netns: secondName } }),
        errno(17),
      )
    })

    test('links are renamed, given an alias and an MTU, moved, joined to a bridge and deleted', () => {
      first.createLink({ kind: 'veth', name: 'a0', peer: { name: 'b0' } })
      first.setLink('a0', { rename: 'a1', alias: 'left', mtu: 1300 })
      const renamed = first.link('a1')
      assert.equal(renamed?.alias, 'left')
      assert.equal(renamed?.mtu, 1300)
      first.setLink('b0', { netns: secondName })
      assert.equal(first.link('b0'), undefined)
      assert.equal(second.link('b0')?.name, 'b0')
      second.createLink({ kind: 'bridge', name: 'br0', up: true })
      second.setLink('b0', { master: 'br0' })
      assert.equal(second.link('b0')?.master, second.link('br0')?.index)
      second.setLink('b0', { master: null })
      assert.equal(second.link('b0')?.master, undefined)
      assert.equal(first.deleteLink('a1'), true)
      assert.equal(second.link('b0'), undefined, 'both ends of a veth go together')
      assert.equal(first.deleteLink('a1'), false)
      assert.throws(() => first.setLink('a1', { up: true }), errno(19))
    })

    test('addresses are added, listed and deleted, in both families', () => {
      first.addAddress('acc1', '192.0.2.2/24')
      first.addAddress('acc1', '2001:db8::2/64', { noDad: true })
      second.addAddress('far1', '192.0.2.1/24')
      second.addAddress('far1', '2001:db8::1/64', { noDad: true })
      const [v4] = first.addresses({ link: 'acc1', family: 4 })
      assert.deepEqual(
        [v4?.address, v4?.prefixLength, v4?.scope, v4?.link],
        ['192.0.2.2', 24, 'global', 'acc1'],
      )
      const v6 = first.addresses({ link: 'acc1', family: 6 }).find((each) => each.scope === 'global')
      assert.deepEqual([v6?.address, v6?.tentative, v6?.validSeconds], ['2001:db8::2', false, undefined])
      assert.throws(() => first.addAddress('acc1', '192.0.2.2/24'), errno(17))
      first.addAddress('acc1', '198.51.100.9/32')
      assert.equal(first.deleteAddress('acc1', '198.51.100.9/32'), true)
      assert.equal(first.deleteAddress('acc1', '198.51.100.9/32'), false)
      assert.equal(first.deleteAddress('none', '198.51.100.9/32'), false)
    })

    test('routes of any table are added, replaced, looked up, listed and deleted', () => {
      first.addRoute({ to: 'default', via: '192.0.2.1', dev: 'acc1', table: 5201, source: '192.0.2.2' })
      first.addRoute({ to: 'default6', via: '2001:db8::1', dev: 'acc1', table: 5201 })
      first.addRoute({ to: 'default', type: 'unreachable', table: 5201, metric: 4278198272 })
      assert.throws(
        () => first.addRoute({ to: 'default', via: '192.0.2.1', dev: 'acc1', table: 5201 }),
        errno(17),
      )
      const [v4] = first.routes({ table: 5201, family: 4 })
      assert.deepEqual(
        [v4?.to, v4?.via, v4?.dev, v4?.source, v4?.type],
        ['default', '192.0.2.1', 'acc1', '192.0.2.2', 'unicast'],
      )
      assert.equal(first.routes({ table: 5201 }).length, 3)
      first.replaceRoute({ to: 'default', via: '192.0.2.254', dev: 'acc1', table: 5201 })
      assert.equal(first.routes({ table: 5201, family: 4 })[0]?.via, '192.0.2.254')
      first.addRoute({ to: '203.0.113.0/24', via: '10.9.9.9', dev: 'acc1', onlink: true, mtu: 1280 })
      const route = first.lookup({ to: '203.0.113.5' })
      assert.deepEqual([route?.via, route?.dev, route?.source], ['10.9.9.9', 'acc1', '192.0.2.2'])
      assert.equal(first.lookup({ to: '8.8.8.8' }), undefined)
      assert.equal(first.deleteRoute({ to: '203.0.113.0/24' }), true)
      assert.equal(first.deleteRoute({ to: '203.0.113.0/24' }), false)
      assert.equal(first.flushRoutes({ table: 5201 }), 3)
      assert.equal(first.routes({ table: 5201 }).length, 0)
      assert.throws(() => first.addRoute({ to: '10.0.0.0/8', via: '172.16.0.1', dev: 'acc1' }), errno(101))
    })

    test('rules choose tables by mark, device, user, port and prefix', () => {
      const rules: RuleSpec[] = [
        { family: 4, priority: 5201, oif: 'acc1', table: 5201 },
        { family: 4, priority: 5230, mark: 0x6777, table: 254 },
        {
          family: 4,
          priority: 5231,
          uids: [1000, 1009],
          protocol: 6,
          destinationPorts: [80, 90],
          table: 254,
        },
        {
          family: 4,
          priority: 5232,
          from: '10.0.0.0/8',
          to: '192.0.2.0/24',
          mark: 1,
          mask: 0xff,
          table: 254,
        },
        { family: 6, priority: 5260, table: 254, suppressPrefixLength: 0 },
        { family: 6, priority: 5261, action: 'unreachable', iif: 'acc1' },
      ]
      for (const rule of rules) first.addRule(rule)
      assert.throws(() => first.addRule(rules[0]!), errno(17))
      const ours = first.rules().filter((rule) => rule.priority >= 5200 && rule.priority < 5300)
      assert.deepEqual(ours, rules)
      first.addRoute({ to: 'default', dev: 'acc1', table: 5201 })
      assert.equal(first.lookup({ to: '8.8.8.8', oif: 'acc1' })?.dev, 'acc1')
      assert.equal(first.lookup({ to: '8.8.8.8' }), undefined)
      for (const rule of rules) assert.equal(first.deleteRule(rule), true)
      assert.equal(first.deleteRule(rules[0]!), false)
      first.flushRoutes({ table: 5201 })
    })

    test('link, address and route changes arrive as events, in order, and stop when aborted', async () => {
      const events: RtnlEvent[] = []
      const done = new AbortController()
      await new Promise<void>((resolve, reject) => {
        const limit = setTimeout(() => reject(new Error('no event of the lost carrier')), 10_000)
        const callback = (event: RtnlEvent) => {
          events.push(event)
          if (event.type !== 'link' || event.link.name !== 'acc1' || event.link.carrier) return
          clearTimeout(limit)
          resolve()
        }
        first.watch(['link', 'address', 'route'], callback, { signal: done.signal })
        first.addAddress('acc1', '198.51.100.7/32')
        first.addRoute({ to: '203.0.113.7/32', dev: 'acc1' })
        first.deleteAddress('acc1', '198.51.100.7/32')
        second.setLink('far1', { up: false })
      })
      const seen = events.map((event) => {
        if (event.type === 'address' || event.type === 'address-gone')
          return `${event.type} ${event.address.address}`
        if (event.type === 'route' || event.type === 'route-gone') return `${event.type} ${event.route.to}`
        return event.type
      })
      const wanted = ['address 198.51.100.7', 'route 203.0.113.7/32', 'address-gone 198.51.100.7']
      assert.deepEqual(
        seen.filter((each) => wanted.includes(each)),
        wanted,
      )
      done.abort()
      const before = events.length
      second.setLink('far1', { up: true })
      await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
      assert.equal(events.length, before)
    })
  })
}
