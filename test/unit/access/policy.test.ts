import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type AccessPolicy,
  type Candidate,
  chooseAccess,
  DWELL_MS,
  type Health,
  STEADY_MS,
  worse,
} from '../../../src/access/policy.ts'

const policy = (prefer: string[], more: Partial<AccessPolicy> = {}): AccessPolicy => ({
  prefer,
  fallback: 'any',
  moveUp: true,
  ...more,
})
const is = (access: string, health: Health, since = 0, more: Partial<Candidate> = {}): Candidate => ({
  access,
  health,
  since,
  rttMs: Number.NaN,
  ...more,
})
const LONG = 1_000_000

/** [what it shows, candidates, in use, policy, expected access, expected words of the reason] */
const cases: readonly [string, Candidate[], string | undefined, AccessPolicy, string | undefined, RegExp][] =
  [
    [
      'first of the list',
      [is('acc2', 'up'), is('acc1', 'up')],
      undefined,
      policy(['acc1', 'acc2']),
      'acc1',
      /first/,
    ],
    ['UP-5: any other', [is('eth0', 'up')], undefined, policy(['wlan*']), 'eth0', /any other/],
    [
      'none allowed',
      [is('eth0', 'up')],
      undefined,
      policy(['wlan*'], { fallback: 'none' }),
      undefined,
      /wait/,
    ],
    ['nothing there', [], 'eth0', policy(['*']), undefined, /no access/],
    ['nothing works', [is('eth0', 'down')], 'eth0', policy(['*']), undefined, /no access works/],
    [
      'link lost',
      [is('acc1', 'down', LONG), is('acc2', 'up')],
      'acc1',
      policy(['acc1', '*']),
      'acc2',
      /acc1 is down/,
    ],
    ['gone silent', [is('acc1', 'suspect'), is('acc2', 'up')], 'acc1', policy(['*']), 'acc2', /silent/],
    [
      'both silent: stay',
      [is('acc1', 'suspect'), is('acc2', 'suspect')],
      'acc1',
      policy(['acc2', '*']),
      'acc1',
      /no access is better/,
    ],
    [
      'silent is better than dead',
      [is('acc1', 'down'), is('acc2', 'suspect')],
      'acc1',
      policy(['*']),
      'acc2',
      /down/,
    ],
    [
      'OH-24: emptied',
      [is('acc1', 'draining'), is('acc2', 'up')],
      'acc1',
      policy(['acc1', '*']),
      'acc2',
      /emptied/,
    ],
    ['OH-25: the last one stays', [is('acc1', 'draining')], 'acc1', policy(['*']), 'acc1', /emptied/],
    [
      'lossy, other just up',
      [is('acc1', 'degrading'), is('acc2', 'up', LONG - 1)],
      'acc1',
      policy(['*']),
      'acc1',
      /long enough/,
    ],
    [
      'lossy, other well',
      [is('acc1', 'degrading'), is('acc2', 'up', LONG - STEADY_MS)],
      'acc1',
      policy(['*']),
      'acc2',
      /loses/,
    ],
    [
      'preferred just back',
      [is('acc1', 'up', LONG - 1), is('acc2', 'up')],
      'acc2',
      policy(['acc1', 'acc2']),
      'acc2',
      /for only 1 ms/,
    ],
    [
      'preferred well again',
      [is('acc1', 'up', LONG - DWELL_MS), is('acc2', 'up')],
      'acc2',
      policy(['acc1', 'acc2']),
      'acc1',
      /preferred/,
    ],
    [
      'no moving back',
      [is('acc1', 'up'), is('acc2', 'up')],
      'acc2',
      policy(['acc1', 'acc2'], { moveUp: false }),
      'acc2',
      /does not move back/,
    ],
    [
      'equals: stay',
      [is('acc1', 'up', 0, { rttMs: 5 }), is('acc2', 'up', 0, { rttMs: 90 })],
      'acc2',
      policy(['*']),
      'acc2',
      /none is preferred/,
    ],
    [
      'equals at first: faster',
      [is('acc1', 'up', 0, { rttMs: 90 }), is('acc2', 'up', 0, { rttMs: 5 })],
      undefined,
      policy(['*']),
      'acc2',
      /first/,
    ],
    [
      'cheaper',
      [is('wwan0', 'up', 0, { cost: 5 }), is('wlan0', 'up')],
      undefined,
      policy(['*']),
      'wlan0',
      /first/,
    ],
    [
      'backup only when needed',
      [is('wwan0', 'up', 0, { use: 'backup' }), is('wlan0', 'degrading')],
      undefined,
      policy(['wwan0', '*']),
      'wwan0',
      /first/,
    ],
    [
      'off the backup, whatever the policy',
      [is('wwan0', 'up', 0, { use: 'backup' }), is('wlan0', 'up')],
      'wwan0',
      policy(['*'], { moveUp: false }),
      'wlan0',
      /preferred/,
    ],
    [
      'UP-31: by hand, at once',
      [is('acc1', 'up'), is('acc2', 'up', LONG)],
      'acc1',
      policy(['acc1'], { pinned: 'acc2', fallback: 'none' }),
      'acc2',
      /by hand/,
    ],
    [
      'by hand stays',
      [is('acc1', 'up'), is('acc2', 'degrading')],
      'acc2',
      policy(['acc1'], { pinned: 'acc2' }),
      'acc2',
      /by hand/,
    ],
    [
      'by hand, but dead',
      [is('acc1', 'up'), is('acc2', 'down')],
      'acc2',
      policy(['acc1'], { pinned: 'acc2' }),
      'acc1',
      /down/,
    ],
    [
      'not allowed any more',
      [is('acc1', 'up'), is('acc2', 'up')],
      'acc2',
      policy(['acc1'], { fallback: 'none' }),
      'acc1',
      /may no longer/,
    ],
  ]

for (const [name, candidates, current, rules, expected, reason] of cases)
  test(`path policy: ${name}`, () => {
    const choice = chooseAccess(candidates, current, rules, LONG)
    assert.equal(choice.access, expected, choice.reason)
    assert.match(choice.reason, reason)
  })

test('an access is as well as the worse of itself and the path over it', () => {
  assert.equal(worse('up', 'suspect'), 'suspect')
  assert.equal(worse('draining', 'degrading'), 'draining')
  assert.equal(worse('up', 'up'), 'up')
})

const anyHealth = fc.constantFrom<Health>('up', 'degrading', 'suspect', 'draining', 'down')
const anyCandidates = fc
  .uniqueArray(fc.constantFrom('acc1', 'acc2', 'wlan0', 'wwan0'), { maxLength: 4 })
  .chain((names) =>
    fc.tuple(
      ...names.map((access) =>
        fc.record({
          access: fc.constant(access),
          health: anyHealth,
          since: fc.nat(20_000),
          rttMs: fc.constantFrom(Number.NaN, 5, 50),
          use: fc.constantFrom('normal' as const, 'backup' as const),
          cost: fc.nat(2),
        }),
      ),
    ),
  )
const anyPolicy = fc.record({
  prefer: fc.subarray(['acc1', 'acc*', 'wlan0', '*', 'wwan*'], { minLength: 1 }),
  fallback: fc.constantFrom('any' as const, 'none' as const),
  moveUp: fc.boolean(),
})
const anyCurrent = fc.option(fc.constantFrom('acc1', 'acc2', 'wlan0', 'gone0'), { nil: undefined })

test('OH-22: a choice works if any allowed access does, is stable, and does not depend on order', () => {
  fc.assert(
    fc.property(anyCandidates, anyPolicy, anyCurrent, (candidates, rules, current) => {
      const now = 20_000
      const choice = chooseAccess(candidates, current, rules, now)
      const chosen = candidates.find((each) => each.access === choice.access)
      if (choice.access === undefined) {
        if (rules.fallback === 'any') assert.ok(candidates.every((each) => each.health === 'down'))
      } else assert.notEqual(chosen?.health, 'down')
      assert.equal(chooseAccess([...candidates].reverse(), current, rules, now).access, choice.access)
      const again = chooseAccess(candidates, choice.access, rules, now)
      assert.equal(again.access, choice.access, 'asked again it moves on')
      assert.ok(choice.reason.length > 0)
      if (choice.reconsiderAt !== undefined) {
        assert.ok(choice.reconsiderAt > now)
        const later = chooseAccess(candidates, choice.access, rules, choice.reconsiderAt)
        assert.notEqual(later.access, choice.access, 'the announced move does not come')
      }
    }),
    { numRuns: 3000 },
  )
})

test('a backup that a policy names in `prefer` is none for it; a bare `*` names nothing (issue 14, point 3)', () => {
  const at = (access: string, use: 'normal' | 'backup'): Candidate => ({
    access,
    use,
    health: 'up',
    since: 0,
    rttMs: 10,
  })
  const both = [at('wwan0', 'backup'), at('wlan0', 'normal')]
  const choose = (prefer: string[], current?: string) =>
    chooseAccess(both, current, { prefer, fallback: 'any', moveUp: false }, 60_000).access
  assert.equal(choose(['wwan*', 'wlan*']), 'wwan0')
  assert.equal(choose(['wwan*', 'wlan*'], 'wwan0'), 'wwan0')
  assert.equal(choose(['wlan*']), 'wlan0')
  assert.equal(choose(['*']), 'wlan0')
  assert.equal(choose([]), 'wlan0')
})
