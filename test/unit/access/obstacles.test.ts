import assert from 'node:assert/strict'
import { test } from 'node:test'
import { obstaclesOf } from '../../../src/access/obstacles.ts'
import { FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'
import type { RouteSpec, RuleSpec } from '../../../src/linux/rtnetlink/types.ts'

const MARK = 0x4700_0000

/** What is found on a host with one access of both families, with these rules and routes of another program. */
function found(
  rules: readonly Omit<RuleSpec, 'family'>[],
  routes: readonly RouteSpec[] = [],
  family: 4 | 6 = 4,
) {
  const rtnl = new FakeRtnl()
  rtnl.createLink({ kind: 'bridge', name: 'acc1', up: true })
  rtnl.addRoute({ to: 'default', via: '192.168.1.1', dev: 'acc1', onlink: true })
  rtnl.addRoute({ to: 'default6', via: 'fe80::1', dev: 'acc1', onlink: true })
  for (const rule of rules) rtnl.addRule({ ...rule, family })
  for (const route of routes) rtnl.addRoute(route)
  return obstaclesOf(rtnl, { name: 'acc1', families: [4, 6] }, MARK, 6700).map(({ mend }) => mend)
}

const COUNTED: readonly (readonly [string, Omit<RuleSpec, 'family'>, string])[] = [
  ['everything', { priority: 100, action: 'prohibit' }, 'ip rule del priority 100 prohibit'],
  [
    'all but what a VPN sends itself',
    { priority: 100, action: 'unreachable', mark: 0xca6c, invert: true },
    'ip rule del priority 100 not fwmark 0xca6c unreachable',
  ],
  [
    'what has no mark of another program',
    { priority: 7, action: 'blackhole', mark: 0, mask: 0xff0000 },
    'ip rule del priority 7 fwmark 0x0/0xff0000 blackhole',
  ],
  [
    'this access',
    { priority: 5, action: 'prohibit', oif: 'acc1' },
    'ip rule del priority 5 oif acc1 prohibit',
  ],
  [
    'UDP that this host sends',
    { priority: 5, action: 'prohibit', protocol: 17, iif: 'lo' },
    'ip rule del priority 5 iif lo ipproto 17 prohibit',
  ],
]
for (const [what, rule, mend] of COUNTED)
  test(`issue 10: a rule that stops ${what} is found, with the command that removes it`, () => {
    assert.deepEqual(found([rule]), [mend])
    if (!mend.includes('prohibit')) return
    assert.deepEqual(found([rule], [], 6), [mend.replace('ip ', 'ip -6 ')])
  })

test('issue 10: a route that stops everything is found in the table that a rule leads to, whatever that rule suppresses', () => {
  const mend = 'ip route del prohibit default table 77 metric 9'
  for (const rule of [
    { priority: 50, table: 77 },
    { priority: 50, table: 77, suppressPrefixLength: 0 },
  ])
    assert.deepEqual(found([rule], [{ to: 'default', type: 'prohibit', table: 77, metric: 9 }]), [mend])
  const halves = ['0.0.0.0/1', '128.0.0.0/1'].map((to) => ({ to, type: 'unreachable', table: 77 }) as const)
  assert.deepEqual(found([{ priority: 50, table: 77 }], halves), [
    'ip route del unreachable 0.0.0.0/1 table 77',
  ])
  assert.deepEqual(found([{ priority: 50, table: 77 }], halves.slice(1)), [], 'only one half')
})

test('issue 10: rules that stop something else, or come behind the rules of godwit, are none', () => {
  const harmless: readonly Omit<RuleSpec, 'family'>[] = [
    { priority: 5, action: 'prohibit', oif: 'eth9' },
    { priority: 5, action: 'prohibit', iif: 'docker0' },
    { priority: 5, action: 'prohibit', from: '10.0.0.0/8' },
    { priority: 5, action: 'prohibit', to: '10.0.0.0/8' },
    { priority: 5, action: 'prohibit', mark: 0xca6c },
    { priority: 5, action: 'prohibit', uids: [1000, 1999] },
    { priority: 5, action: 'prohibit', protocol: 6 },
    { priority: 5, action: 'prohibit', destinationPorts: [25, 25] },
    { priority: 9000, action: 'prohibit' },
  ]
  for (const rule of harmless) assert.deepEqual(found([rule]), [], JSON.stringify(rule))
  const main = { priority: 4, table: 254 }
  assert.deepEqual(found([main, { priority: 5, action: 'prohibit' }]), [], 'the way out is found before')
  const thrown = [{ to: 'default', type: 'throw', table: 77 }] as const
  assert.deepEqual(found([{ priority: 5, table: 77 }], thrown), [])
})
