/** House point 3: one ledger of kernel names and numbers, and who puts back what is ours. */
import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import { KernelGuard } from '../../../src/linux/guard.ts'
import { Ledger, MARK_MASK, PROTOCOL, type Range, SPAN } from '../../../src/linux/ledger.ts'
import { addRule, deleteDevice, setRoutes, setRules } from '../../../src/linux/own.ts'
import { FakeNetwork, FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'
import type { RtnlEvent } from '../../../src/linux/rtnetlink/types.ts'

/** Priorities or tables that other programs take by themselves. */
const NEIGHBOURS: Record<string, Range> = {
  'libreswan, strongSwan': [1, 220],
  'netbird, Mullvad below main': [105, 110],
  'VRF (l3mdev), systemd-networkd': [1000, 1000],
  mwan3: [1001, 3254],
  Tailscale: [5210, 5270],
  'sing-box, Clash': [9000, 9530],
  'shorewall, pbr, netifd': [10_000, 30_000],
  'wg-quick, Mullvad, NetworkManager': [32_000, 32_767],
}

test('the default numbers are of nobody else, after those of Tailscale and before main', () => {
  const { base, access, anchoring, routing, translation, mptcp } = new Ledger()
  for (const [name, [first, last]] of Object.entries(NEIGHBOURS))
    assert.ok(base + SPAN <= first || base > last, name)
  assert.ok(base > 5270, 'the table of Tailscale is asked first')
  const ranges: [string, Range][] = [
    ['access', [access.first, access.first + access.slots - 1]],
    ['routing', routing.rules],
    ['anchoring', anchoring.rules],
    ['translation', translation.tables],
    ['mptcp', mptcp.rules],
  ]
  let before = base - 1
  for (const [name, [first, last]] of ranges) {
    assert.ok(first > before && last < base + SPAN, name)
    before = last
  }
  const tables = new Set([anchoring.table, routing.table])
  for (let n = 0; n < access.slots; n++) tables.add(access.first + 1 + n)
  for (let n = translation.tables[0]; n <= translation.tables[1]; n++) tables.add(n)
  assert.equal(tables.size, 2 + access.slots + 64, 'no table has two uses')
  assert.ok(translation.park > 32_767 && translation.crossUdp > translation.park)
})

test('marks leave the bits of others alone and differ by purpose and instance', () => {
  const marks = [6700, 6700 + SPAN, 100, 30_000].flatMap((base) => {
    const ledger = new Ledger({ base })
    const { anchoring, routing, access, mptcp } = ledger
    const accesses = Array.from({ length: access.slots }, (_, n) => ledger.accessMark(access.first + 1 + n))
    const sent = Array.from({ length: access.slots }, (_, n) => ledger.mptcpMark(access.first + 1 + n))
    assert.deepEqual([sent[0], sent.at(-1)], mptcp.marks)
    return [anchoring.control, anchoring.bypassMark, routing.mark, mptcp.mark, ...accesses, ...sent]
  })
  assert.equal(new Set(marks).size, marks.length)
  for (const mark of marks) {
    assert.equal((mark & MARK_MASK) >>> 0, mark)
    for (const [name, mask] of Object.entries({
      Tailscale: 0xff_0000,
      mwan3: 0x3f00,
      Kubernetes: 0xc000,
    }))
      assert.equal(mark & mask, 0, name)
  }
})

test('everything shifts together, and names of instances never meet', () => {
  const a = new Ledger({ instance: 'a-b', base: 6700 })
  const b = new Ledger({ instance: 'a_b', base: 6700 + SPAN })
  assert.notEqual(a.nftTable('dime'), b.nftTable('dime'))
  assert.equal(new Ledger().nftTable('dime'), 'godwit_main_dime')
  assert.equal(b.anchoring.table - a.anchoring.table, SPAN)
  assert.equal(b.translation.park - a.translation.park, SPAN)
  const long = ['a-long-name-of-mine', 'a-long-name-of-yours'].map(
    (instance) => new Ledger({ instance }).translation.device,
  )
  assert.notEqual(long[0], long[1])
  for (const name of long) assert.ok(name.length <= 15, name)
  const rule = { family: 4, priority: a.translation.park, table: a.translation.parkTable } as const
  assert.equal(a.ownsRule({ ...rule, origin: PROTOCOL }), true)
  assert.equal(b.ownsRule({ ...rule, origin: PROTOCOL }), false, 'of another instance')
  assert.equal(a.ownsRule({ ...rule, origin: 3 }), false, 'of `ip rule`')
  assert.equal(a.ownsRule(rule), false, 'of nobody')
})

test('rules and routes of another instance and of others stay', () => {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'x')
  rtnl.createLink({ kind: 'dummy', name: 'd0', up: true })
  const one = new Ledger()
  const other = new Ledger({ instance: 'other', base: one.base + SPAN })
  for (const ledger of [one, other]) {
    const { table, rules } = ledger.anchoring
    setRules(rtnl, ledger, rules, [{ family: 4, priority: rules[0], table }])
    setRoutes(rtnl, table, [{ to: 'default', dev: 'd0' }])
  }
  rtnl.addRoute({ to: '192.0.2.0/24', dev: 'd0', table: one.anchoring.table })
  assert.equal(
    addRule(rtnl, { family: 4, priority: one.anchoring.rules[0], table: one.anchoring.table }),
    false,
  )
  setRules(rtnl, one, one.anchoring.rules, [])
  setRoutes(rtnl, one.anchoring.table, [])
  assert.deepEqual(
    rtnl.rules().filter(({ origin }) => origin === PROTOCOL),
    [{ family: 4, priority: other.anchoring.rules[0], table: other.anchoring.table, origin: PROTOCOL }],
  )
  assert.deepEqual(
    rtnl
      .routes()
      .filter(({ table }) => table === one.anchoring.table || table === other.anchoring.table)
      .map(({ to, table }) => [to, table]),
    [
      ['default', other.anchoring.table],
      ['192.0.2.0/24', one.anchoring.table],
    ],
  )
})

test('a route of another program with the same prefix and metric in our table is not replaced', () => {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'x')
  rtnl.createLink({ kind: 'dummy', name: 'd0', up: true })
  rtnl.createLink({ kind: 'dummy', name: 'd1', up: true })
  rtnl.addRoute({ to: '10.2.0.0/24', dev: 'd1', table: 6731 })
  assert.deepEqual(setRoutes(rtnl, 6731, [{ to: '10.2.0.0/24', dev: 'd0' }]), [])
  assert.deepEqual(
    rtnl.routes({ table: 6731 }).map(({ dev }) => dev),
    ['d1'],
  )
})

test('the guard names who removed something, when that can be known', () => {
  mock.timers.enable({ apis: ['setTimeout'] })
  try {
    const log: string[] = []
    let tell: (event: RtnlEvent) => void = () => {}
    const watch = (_: unknown, callback: typeof tell) => {
      tell = callback
    }
    const rtnl = { watch } as unknown as FakeRtnl
    const ledger = new Ledger()
    const nameOf = (pid: number) => (pid === 812 ? 'NetworkManager' : undefined)
    const clock = { now: () => 0, wall: () => 0 }
    const guard = new KernelGuard({ rtnl, ledger, clock, report: (line) => log.push(line), nameOf })
    const protect = (name: string) => guard.protect({ name, devices: () => [], restore: () => ['rule 6840'] })
    const rule = { family: 4, priority: 6840, origin: PROTOCOL } as const
    const pass = (name: string, ...by: number[]) => {
      const release = protect(name)
      for (const port of by) tell({ type: 'rule-gone', rule, by: port })
      if (by.length === 0) tell({ type: 'rule-gone', rule })
      mock.timers.tick(10_000)
      release()
      return log.at(-1)!.replace(/; put back.*/, '')
    }
    assert.equal(pass('a', 812), 'a: another program (NetworkManager, process 812) removed rule 6840')
    assert.equal(
      pass('b', 812 + (3 << 22), 99),
      'b: another program (NetworkManager, process 812; process 99, which has ended) removed rule 6840',
    )
    assert.equal(
      pass('c', 0xffff_f000),
      'c: another program removed rule 6840',
      'a second socket says nothing',
    )
    assert.equal(pass('d', process.pid), 'd: another program removed rule 6840', 'our own follow-up')
    assert.equal(pass('e'), 'e: another program removed rule 6840')
  } finally {
    mock.timers.reset()
  }
})

test('a device is deleted by its alias, or by a name that only we give', () => {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'x')
  const ledger = new Ledger()
  rtnl.createLink({ kind: 'dummy', name: 'tun0' })
  assert.equal(deleteDevice(rtnl, ledger, 'tun0'), false)
  rtnl.setLink('tun0', { alias: 'godwit other' })
  assert.equal(deleteDevice(rtnl, ledger, 'tun0'), false)
  rtnl.setLink('tun0', { alias: ledger.alias })
  assert.equal(deleteDevice(rtnl, ledger, 'tun0'), true)
  assert.equal(deleteDevice(rtnl, ledger, 'tun0'), false)
})

test('the guard answers removals of ours alone, logs the first, counts all, and slows down', () => {
  mock.timers.enable({ apis: ['setTimeout'] })
  try {
    let now = 0
    const pass = (ms: number) => {
      now += ms
      mock.timers.tick(ms)
    }
    const rtnl = new FakeRtnl(new FakeNetwork(), 'x')
    const ledger = new Ledger()
    const { table, rules } = ledger.anchoring
    const wanted = [{ family: 4, priority: rules[0], table }] as const
    const log: string[] = []
    let asked = 0
    const clock = { now: () => now, wall: () => now }
    const guard = new KernelGuard({ rtnl, ledger, clock, report: (line) => log.push(line) })
    setRules(rtnl, ledger, rules, wanted)
    const release = guard.protect({
      name: 'anchoring',
      devices: () => ['godwit0'],
      restore: () => {
        asked++
        return setRules(rtnl, ledger, rules, wanted).map(({ priority }) => `rule ${priority}`)
      },
    })
    const ours = () => rtnl.rules().filter((rule) => ledger.ownsRule(rule))
    const remove = () => assert.equal(rtnl.deleteRule(ours()[0]!), true)
    rtnl.addRule({ family: 4, priority: 5270, table: 52 })
    rtnl.deleteRule({ family: 4, priority: 5270, table: 52 })
    pass(1000)
    assert.equal(asked, 0, 'not ours')
    remove()
    pass(100)
    assert.equal(ours().length, 1)
    assert.equal(guard.restored, 1)
    assert.equal(log.length, 1)
    assert.match(log[0]!, /^anchoring: another program removed rule 6800; put back/)
    // Ten times at once, then every ten seconds.
    for (let n = 2; n <= 10; n++) {
      remove()
      pass(100)
      assert.equal(ours().length, 1, `time ${n}`)
    }
    assert.deepEqual(log.length, 2)
    assert.match(log[1]!, /keeps removing/)
    remove()
    pass(9000)
    assert.equal(ours().length, 0)
    pass(1000)
    assert.equal(ours().length, 1)
    assert.equal(guard.restored, 11)
    pass(100_000)
    remove()
    pass(100)
    assert.equal(ours().length, 1, 'after a quiet time at once again')
    assert.equal(log.length, 2, 'each is logged once')
    release()
    remove()
    pass(60_000)
    assert.equal(ours().length, 0, 'nobody guards any more')
  } finally {
    mock.timers.reset()
  }
})
