/** Whose flows these are, over many of them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FlowApplications } from '../../../src/anchoring/applications.ts'
import type { FlowTuple } from '../../../src/anchoring/tables/flow-key.ts'
import { parseSelector } from '../../../src/core/selector.ts'
import type { FlowOwners } from '../../../src/linux/owners.ts'

const owners = {
  find: (id: string) => ({ facts: { id, proto: 6 }, cgroupId: undefined, app: 'curl', pid: 1 }),
} as unknown as FlowOwners
const anyFlow = {} as FlowTuple
const policy = { name: 'default', prefer: ['*'], fallback: 'any', moveUp: true, match: [] } as const

test('flows that ended are not remembered for ever: it is asked which live, ever more rarely as more do', () => {
  const applications = new FlowApplications(owners, [policy])
  const asked: number[] = []
  for (let i = 0; i < 100_000; i++) {
    applications.identify([{ id: String(i), flow: anyFlow }], 0)
    if (applications.crowded) asked.push(i)
  }
  assert.ok(asked.length >= 3 && asked.length <= 5, asked.join())
  assert.ok(applications.why('0', 'anchoring') !== undefined, 'nobody has said that it ended')
  applications.keep(new Set(['99999']))
  assert.equal(applications.why('0', 'anchoring'), undefined)
  assert.ok(applications.why('99999', 'anchoring') !== undefined)
  // What cannot be listed whole: the oldest give way.
  for (let i = 0; i < 200_000; i++) applications.identify([{ id: `more ${i}`, flow: anyFlow }], 0)
  assert.equal(applications.why('more 0', 'anchoring'), undefined)
  assert.ok(applications.why('more 199999', 'anchoring') !== undefined)
})

const selector = (text: string) => {
  const parsed = parseSelector(text)
  assert.ok(parsed.ok)
  return parsed.value
}

/** Flows named after the program that owns them, as `curl-1`. */
const byName = {
  find: (id: string) => {
    const executable = id.split('-')[0]!
    const dport = executable === 'ssh' ? 22 : 443
    return {
      facts: { id, proto: 6, dstPort: dport, executable: `/usr/bin/${executable}` },
      cgroupId: executable === 'started' ? 77 : undefined,
      app: executable,
      pid: 1,
    }
  },
} as unknown as FlowOwners

function threePolicies() {
  const applications = new FlowApplications(byName, [
    policy,
    { ...policy, name: 'bulk', match: [selector('app:curl'), selector('app:rsync')] },
    { ...policy, name: 'shell', match: [selector('port:22')] },
  ])
  const identify = (...ids: string[]) =>
    applications.identify(
      ids.map((id) => ({ id, flow: anyFlow })),
      0,
    )
  return { applications, identify }
}

test('UP-1, UP-28: each flow has the first policy that matches its application, and the default when none does', () => {
  const { applications, identify } = threePolicies()
  const flows = identify('curl-1', 'ssh-1', 'firefox-1', 'rsync-1')
  assert.deepEqual(
    flows.map(({ policy }) => policy),
    [1, 2, 0, 1],
  )
  assert.equal(applications.why('ssh-1', 'anchoring')?.reason, 'port:22 matches policy shell')
  assert.equal(applications.why('firefox-1', 'anchoring')?.reason, 'no policy matches; the default')
})

test('UP-2: a selector means the flows of its application alone, those to come too, until everything is moved', () => {
  const { applications, identify } = threePolicies()
  identify('curl-1', 'ssh-1', 'curl-2', 'firefox-1')
  assert.deepEqual(applications.select(selector('app:curl')), ['curl-1', 'curl-2'])
  assert.deepEqual(applications.select(selector('port:22')), ['ssh-1'])
  applications.follow(selector('app:curl'), 'acc2')
  const pins = () => identify('curl-3', 'ssh-2').map(({ pin }) => pin)
  assert.deepEqual(pins(), ['acc2', undefined])
  applications.follow(selector('app:curl'), 'acc1')
  assert.deepEqual(pins(), ['acc1', undefined])
  applications.followNone()
  assert.deepEqual(pins(), [undefined, undefined])
})

test('UP-1: a program of `godwit run` has its own policy and access, whatever the rules say for others', () => {
  const { applications, identify } = threePolicies()
  const application = { id: 'run-1', cgroup: '/x', cgroupId: 77, access: 'acc2', policy: 'shell' }
  applications.adopt(application)
  assert.deepEqual(
    identify('started-1', 'curl-1').map(({ policy, pin }) => [policy, pin]),
    [
      [2, 'acc2'],
      [1, undefined],
    ],
  )
  applications.release(application)
  assert.deepEqual(
    identify('started-2').map(({ policy, pin }) => [policy, pin]),
    [[0, undefined]],
  )
})
