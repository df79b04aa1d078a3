/** Which anchor new flows take, and that those that are there stay. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HostForwarder, MOST_POLICIES, REPORTED } from '../../../src/anchoring/forwarders/host.ts'
import type { Anchor, HostPath } from '../../../src/anchoring/machine/host-state.ts'
import { FIRST_POLICY, Policies, type PoliciesParts } from '../../../src/anchoring/machine/policies.ts'
import type { AccessSetup, HostEvent } from '../../../src/anchoring/protocol.ts'
import { FlowKey } from '../../../src/anchoring/tables/flow-key.ts'
import { Paft } from '../../../src/anchoring/tables/paft.ts'
import { NOWHERE, TunnelTable } from '../../../src/anchoring/tables/tunnels.ts'
import { EVERYTHING, type Subject } from '../../../src/core/subject.ts'

const allocate = (bytes: number) => new ArrayBuffer(bytes)

/** Two anchors, each with a path over the one access: tunnel 1 leads to the first, tunnel 2 to the second. */
function bed(...peers: (string | undefined)[]) {
  const paft = new Paft({ allocate, rows: 16, limit: 1024 })
  const tunnels = new TunnelTable()
  const forwarder = new HostForwarder({
    paft,
    tunnels,
    fix4: Uint8Array.of(198, 19, 0, 1),
    fix6: new Uint8Array(16),
    secret: new Uint8Array(8),
  })
  const anchors = new Map<number, Anchor>()
  const paths = new Map<number, HostPath>()
  for (const [index, name] of ['one', 'two'].entries()) {
    const anchor: Anchor = {
      index,
      setup: { name, kind: 'godwit', publicKey: new Uint8Array(32) },
      association: { name: 'associated', v4: undefined, v6: undefined },
      established: true,
      joining: false,
    }
    anchors.set(index, anchor)
    paths.set(index, {
      slot: index,
      anchor,
      access: 'wlan0',
      pathId: 1,
      tid: index + 1,
      health: 'up',
      since: 0,
      rttMs: 10,
      loss: 0,
      carried: false,
      replaced: false,
    })
  }
  const access: AccessSetup = {
    name: 'wlan0',
    up: true,
    health: 'up',
    since: 0,
    detail: '',
    families: [4],
    mtu: 1500,
    use: 'normal',
    cost: 0,
    generation: 1,
  }
  const accesses = new Map([['wlan0', access]])
  const events: HostEvent[] = []
  const watched: { subject: Subject; oldTid: number; tid: number; cause: string }[] = []
  const announcements = {
    moved: () => {},
    joined: () => {},
    repeat: () => {},
    repeatStatic: () => {},
    holdNone: () => {},
  }
  const policies = new Policies({
    paft,
    forwarder,
    announcements: announcements as unknown as PoliciesParts['announcements'],
    anchors,
    paths,
    accesses,
    pathAt: (tid) => [...paths.values()].find((path) => path.tid === tid),
    emit: (event) => events.push(event),
    watch: (subject, oldTid, tid, cause) => void watched.push({ subject, oldTid, tid, cause }),
  })
  const setups = peers.map((peer, i) => ({
    name: `p${i}`,
    prefer: ['*'],
    fallback: 'any' as const,
    moveUp: true,
    ...(peer !== undefined && { peer }),
  }))
  policies.set(setups, 0)
  const set = (index: number, health: 'up' | 'down') => {
    paths.get(index)!.health = health
    policies.reconsider('test', 1000)
  }
  /** The tunnel that new flows of a policy take. */
  const tunnelOf = (policy: number) => policies.get(policies.active(FIRST_POLICY + policy))!.tid
  /** Another access, with a path to the first anchor: tunnel `tid`. */
  const addAccess = (name: string, tid: number, since = 0) => {
    accesses.set(name, { ...access, name, since })
    paths.set(tid, { ...paths.get(0)!, slot: tid, tid, access: name, since })
    policies.reconsider(`${name} is new`, since)
  }
  let ports = 0
  /** A flow in a group; its row. */
  const flowIn = (group: number) => {
    const key = new FlowKey(new Uint8Array(8))
    const remote = Uint8Array.of(192, 0, 2, 1)
    key.set({ protocol: 17, local: Uint8Array.of(198, 19, 0, 1), remote, localPort: ++ports, remotePort: 2 })
    key.hash()
    return paft.insert(key, group, 0, 0)
  }
  return {
    policies,
    forwarder,
    anchors,
    paths,
    accesses,
    paft,
    events,
    watched,
    set,
    tunnelOf,
    addAccess,
    flowIn,
  }
}

type Decision = Extract<HostEvent, { type: 'decision' }>
const decisions = (events: readonly HostEvent[]): Decision[] =>
  events.flatMap((event) => (event.type === 'decision' ? [event] : []))

test('issue 10, A8: the first anchor dies: new flows go to the first that is up, at once, and back; those that are there stay', () => {
  const { policies, forwarder, set, tunnelOf, events } = bed(undefined)
  assert.deepEqual([tunnelOf(0), forwarder.defaultTid], [1, 1])
  set(0, 'down')
  assert.deepEqual([tunnelOf(0), forwarder.defaultTid], [2, 2], 'flows that are not identified yet too')
  assert.equal(policies.get(FIRST_POLICY)!.tid, NOWHERE, 'flows of the first anchor wait for it')
  const copy = policies.active(FIRST_POLICY)
  assert.ok(
    events.some((event) => event.type === 'decision' && event.chosen === 'two'),
    'it is on record',
  )
  set(0, 'up')
  assert.deepEqual([tunnelOf(0), forwarder.defaultTid], [1, 1])
  assert.equal(policies.get(copy)!.tid, 2, 'flows that began at the second stay there')
  set(0, 'down')
  assert.equal(policies.active(FIRST_POLICY), copy, 'one copy, however often')
  set(1, 'down')
  assert.equal(forwarder.defaultTid, NOWHERE)
})

test('issue 10, A8: a policy that names its anchor waits for it; others do not', () => {
  const { set, tunnelOf, forwarder } = bed(undefined, 'one', 'two')
  set(0, 'down')
  assert.deepEqual([tunnelOf(0), tunnelOf(1), tunnelOf(2)], [2, NOWHERE, 2])
  assert.equal(forwarder.defaultTid, 2)
  assert.equal(REPORTED, FIRST_POLICY - 1)
})

test('issue 10, A8: an anchor that has not taken this host yet is not up', () => {
  const { anchors, policies, tunnelOf } = bed(undefined)
  anchors.get(0)!.joining = true
  policies.reconsider('test', 1000)
  assert.equal(tunnelOf(0), 2)
  anchors.get(0)!.joining = false
  anchors.get(1)!.association = { name: 'refused', reason: 'test' }
  policies.reconsider('test', 2000)
  assert.equal(tunnelOf(0), 1)
})

test('a flow pinned by hand keeps its anchor', () => {
  const { policies, set } = bed(undefined)
  set(0, 'down')
  const pinned = policies.pinned(policies.active(FIRST_POLICY), 'wlan0', 1000)
  set(0, 'up')
  assert.equal(policies.get(pinned)!.tid, 2)
  const other = policies.pinned(FIRST_POLICY, 'wlan0', 1000)
  assert.notEqual(other, pinned)
  assert.equal(policies.get(other)!.tid, 1)
})

test('issue 14, point 8: policies that are read again leave everything where it was moved by hand', () => {
  const { policies, events } = bed(undefined)
  policies.pinAll('wwan0', 0)
  const [{ setup }] = [policies.get(FIRST_POLICY)!]
  events.length = 0
  policies.set([{ ...setup, name: 'other' }], 1)
  assert.equal(policies.get(FIRST_POLICY)!.rules.pinned, 'wwan0')
  assert.deepEqual(
    events.filter((event) => event.type === 'handover'),
    [],
  )
  policies.pinAll(undefined, 2)
  policies.set([setup], 3)
  assert.equal(policies.get(FIRST_POLICY)!.rules.pinned, undefined)
})

test('over one access the path by UDP is used where it works, else what carries the tunnel instead', () => {
  const { policies, paths, anchors, events } = bed(undefined)
  const udp = paths.get(0)!
  anchors.delete(1)
  paths.delete(1)
  const carried = { ...udp, slot: 5, tid: 6, carried: true }
  paths.set(5, carried)
  const tid = () => policies.get(FIRST_POLICY)!.tid
  const set = (health: 'up' | 'down', of: 'up' | 'down') => {
    udp.health = health
    carried.health = of
    policies.reconsider('test', 1000)
    return tid()
  }
  assert.equal(set('up', 'up'), 1)
  assert.equal(set('down', 'up'), 6)
  assert.equal(set('up', 'up'), 1, 'it works again')
  assert.equal(set('down', 'down'), NOWHERE)
  // However they are listed.
  paths.delete(0)
  paths.set(0, udp)
  assert.equal(set('up', 'up'), 1)
  assert.equal(set('down', 'up'), 6)
  assert.deepEqual(
    decisions(events)
      .slice(-1)
      .map(({ chosen, evidence }) => [chosen, evidence.cause]),
    [['wlan0', 'test']],
    'what it was reconsidered for is on record',
  )
})

test('a policy decides again when its hysteresis says so, and only then; nothing that stays is decided twice', () => {
  const { policies, paths, accesses, events, flowIn } = bed(undefined)
  const wlan = paths.get(0)!
  paths.delete(1)
  const wired = { ...accesses.get('wlan0')!, name: 'eth0' }
  policies.set([{ name: 'p0', prefer: ['eth0', 'wlan0'], fallback: 'any', moveUp: true }], 0)
  assert.equal(policies.get(FIRST_POLICY)!.access, 'wlan0')
  assert.equal(policies.nextTimeout(), undefined)
  events.length = 0
  policies.reconsider('nothing new', 100)
  assert.deepEqual(events, [])
  // Flows are on it: the better one has to last.
  flowIn(FIRST_POLICY)
  accesses.set('eth0', { ...wired, since: 1000 })
  paths.set(7, { ...wlan, slot: 7, tid: 8, access: 'eth0', since: 1000 })
  policies.reconsider('eth0 is up', 1000)
  assert.equal(policies.get(FIRST_POLICY)!.access, 'wlan0')
  const at = policies.nextTimeout()!
  assert.ok(at > 1000)
  policies.handleTimeout(at - 1)
  assert.equal(policies.get(FIRST_POLICY)!.access, 'wlan0')
  policies.handleTimeout(at)
  assert.equal(policies.get(FIRST_POLICY)!.access, 'eth0')
  assert.equal(policies.nextTimeout(), undefined)
})

test('UP-31: a copy for flows that were moved by hand is made once for an access and an anchor, and used again when empty', () => {
  const { policies, addAccess, flowIn, paft } = bed(undefined, 'one')
  addAccess('eth0', 7)
  const wlan = policies.pinned(FIRST_POLICY, 'wlan0', 0)
  const wired = policies.pinned(FIRST_POLICY, 'eth0', 0)
  assert.deepEqual([wlan, wired], [FIRST_POLICY + 2, FIRST_POLICY + 3])
  assert.equal(policies.pinned(FIRST_POLICY, 'wlan0', 0), wlan)
  assert.equal(policies.pinned(wlan, 'eth0', 0), wired, 'from another copy')
  assert.notEqual(policies.pinned(FIRST_POLICY + 1, 'wlan0', 0), wlan, 'of another policy')
  assert.deepEqual([policies.get(wlan)?.tid, policies.get(wired)?.tid], [1, 7])
  assert.deepEqual(
    [policies.unpinned(wlan), policies.unpinned(FIRST_POLICY), policies.unpinned(99)],
    [FIRST_POLICY, FIRST_POLICY, 99],
  )
  const row = flowIn(wired)
  assert.equal(policies.pinAll(undefined, 0), 1)
  assert.equal(policies.get(wired)?.rules.pinned, undefined, 'flows of it are free again')
  const again = policies.pinned(FIRST_POLICY, 'eth0', 0)
  assert.equal(again, wlan, 'that was free')
  assert.ok(![again, wired].includes(policies.pinned(FIRST_POLICY, 'wlan0', 0)), 'this one is not')
  paft.remove(row)
  assert.equal(policies.pinned(99, 'wlan0', 0), 99, 'there is no such policy')
})

test('there is an end of copies: a flow that gets none stays in its policy', () => {
  const { policies } = bed(undefined)
  let last = 0
  for (let i = FIRST_POLICY + 1; i < MOST_POLICIES; i++) last = policies.pinned(FIRST_POLICY, `acc${i}`, 0)
  assert.equal(last, MOST_POLICIES - 1)
  assert.equal(policies.pinned(FIRST_POLICY, 'one more', 0), FIRST_POLICY)
  policies.set([{ name: 'p', prefer: ['*'], fallback: 'any', moveUp: true }], 0)
  assert.equal(policies.pinned(FIRST_POLICY, 'acc1', 0), FIRST_POLICY + 1, 'all are new with the policies')
})

test('issue 10, A8: a flow that began at the second anchor is given back to the policy there', () => {
  const { policies, set, events } = bed(undefined, 'one')
  set(0, 'down')
  const copy = policies.active(FIRST_POLICY)
  assert.notEqual(copy, FIRST_POLICY)
  assert.equal(policies.active(FIRST_POLICY + 1), FIRST_POLICY + 1)
  const pinned = policies.pinned(copy, 'wlan0', 1000)
  assert.equal(policies.unpinned(pinned), copy)
  assert.deepEqual(decisions(events).at(-1)?.subject, { kind: 'policy', name: 'p0', pinned: 'wlan0' })
  assert.deepEqual(
    decisions(events)
      .filter(({ reason }) => reason.includes('first anchor'))
      .map(({ subject, chosen }) => [subject, chosen]),
    [[{ kind: 'policy', name: 'p0' }, 'two']],
  )
  // The policies are read again while the first is down: the same decision, made anew.
  policies.set([{ name: 'p0', prefer: ['*'], fallback: 'any', moveUp: true }], 2000)
  assert.equal(policies.get(policies.active(FIRST_POLICY))?.peer, 'two')
  assert.equal(policies.unpinned(policies.pinned(FIRST_POLICY, 'wlan0', 2000)), FIRST_POLICY)
})

test('flows not identified yet count as those of the default; what nobody uses moves at once, without a record', () => {
  const { policies, addAccess, accesses, flowIn, watched, events } = bed(undefined, 'one')
  flowIn(REPORTED)
  flowIn(FIRST_POLICY)
  addAccess('eth0', 7)
  assert.deepEqual(
    [FIRST_POLICY, FIRST_POLICY + 1].map((index) => policies.get(index)!.access),
    ['wlan0', 'eth0'],
  )
  events.length = 0
  accesses.set('wlan0', { ...accesses.get('wlan0')!, health: 'down', detail: 'no carrier' })
  policies.reconsider('no carrier', 5000)
  assert.deepEqual(
    decisions(events).map(({ chosen, evidence }) => [chosen, evidence.flows]),
    [['eth0', 2]],
  )
  assert.deepEqual(watched, [
    { subject: { kind: 'policy', name: 'p0' }, oldTid: 1, tid: 7, cause: 'no carrier' },
  ])
})

test('everything is moved by hand: policies that make the same move are one record', () => {
  const { policies, addAccess, flowIn, watched } = bed(undefined, 'one')
  flowIn(FIRST_POLICY)
  flowIn(FIRST_POLICY + 1)
  addAccess('eth0', 7)
  assert.equal(policies.pinAll('eth0', 5000), 2)
  assert.deepEqual(watched, [{ subject: EVERYTHING, oldTid: 1, tid: 7, cause: 'moved by hand' }])
  // From there on each has its own record again.
  policies.pinAll(undefined, 9000)
  watched.length = 0
  policies.pinned(FIRST_POLICY, 'wlan0', 9000)
  assert.deepEqual(watched, [], 'no flow is in it yet')
})

test('an access that is not known, or down, is none, however well its path works; two are told apart by when they came', () => {
  const { policies, paths, accesses, addAccess } = bed('one')
  paths.delete(1)
  const access = () => policies.get(FIRST_POLICY)!.access
  addAccess('eth0', 7, 100)
  accesses.delete('wlan0')
  policies.reconsider('gone', 200)
  assert.equal(access(), 'eth0')
  accesses.set('eth0', { ...accesses.get('eth0')!, health: 'down', detail: 'no carrier' })
  policies.reconsider('down', 300)
  assert.equal(access(), undefined)
  assert.equal(policies.get(FIRST_POLICY)!.tid, NOWHERE)
})
