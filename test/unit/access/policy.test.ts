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

test('the reason is what `why` prints: which place of the list, what is wrong, how long it has to last', () => {
  const now = LONG
  const why = (candidates: Candidate[], current: string | undefined, rules: AccessPolicy) =>
    chooseAccess(candidates, current, rules, now).reason
  const [a, b] = [is('a', 'up'), is('b', 'up')]
  assert.equal(why([a, b], undefined, policy(['a', 'b'])), 'first in the policy and works')
  assert.equal(why([b], undefined, policy(['a', 'b'])), 'first in the policy that works (b)')
  assert.equal(
    why([b], undefined, policy(['a'])),
    'no access that the policy prefers works; it allows any other',
  )
  assert.equal(why([a, b], undefined, policy(['a'], { pinned: 'b' })), 'chosen by hand')
  assert.equal(why([a, b], 'b', policy(['a'], { pinned: 'b' })), 'chosen by hand')
  assert.equal(why([a, b], 'a', policy(['a'], { pinned: 'b' })), 'moved by hand')
  assert.equal(why([a, b], 'a', policy(['a'])), 'a works, and none is preferred to it')
  assert.equal(why([a], 'b', policy(['a'])), 'b may no longer be used')
  assert.equal(
    why([a, is('b', 'up', now - 100)], 'a', policy(['b'], { moveUp: false })),
    'works, and the policy does not move back to b',
  )
  assert.equal(
    why([a, is('b', 'up', now - DWELL_MS + 1)], 'a', policy(['b'])),
    `b is preferred, but has worked again for only ${DWELL_MS - 1} ms`,
  )
  assert.equal(
    why([a, is('b', 'up', now - DWELL_MS)], 'a', policy(['b'])),
    `b is preferred and has worked for ${DWELL_MS} ms`,
  )
  const lossy = is('a', 'degrading', 0, { detail: 'loses 9 %' })
  assert.equal(
    why([lossy, is('b', 'up', now - STEADY_MS + 1)], 'a', policy(['*'])),
    'b has not worked long enough to leave a',
  )
  assert.equal(
    why([lossy, is('b', 'up', now - STEADY_MS)], 'a', policy(['*'])),
    'a loses packets (loses 9 %)',
  )
  assert.equal(
    why([is('a', 'draining'), is('b', 'draining')], 'b', policy(['*'])),
    'no access is better than b, which is being emptied',
  )
  assert.equal(
    why([is('a', 'down', 0, { detail: 'no carrier' })], 'a', policy(['*'])),
    'no access works (a is down (no carrier)); packets wait',
  )
  assert.equal(
    why([a], undefined, policy(['x', 'y'], { fallback: 'none' })),
    'none of x, y works, and the policy allows no other; packets wait',
  )
})

test('the evidence has the state, its age and the round trip of every candidate', () => {
  const { evidence } = chooseAccess(
    [is('a', 'up', LONG - 1000.4, { rttMs: 12.34 }), is('b', 'suspect', LONG - 7)],
    'b',
    policy(['*']),
    LONG,
  )
  assert.deepEqual(evidence, {
    ...{ current: 'b', 'a.health': 'up', 'a.for_ms': 1000, 'a.rtt_ms': 12.3 },
    ...{ 'b.health': 'suspect', 'b.for_ms': 7, 'b.rtt_ms': null },
  })
  assert.equal(chooseAccess([], undefined, policy(['*']), 0).evidence.current, null)
})

test('of equals the cheaper one, then the one with the shorter round trip, then the first by name; a cost is below a place', () => {
  const choose = (candidates: Candidate[], rules = policy(['*'])) =>
    chooseAccess(candidates, undefined, rules, LONG).access
  const [a, b] = [is('a', 'up', 0, { rttMs: 50 }), is('b', 'up', 0, { rttMs: 20 })]
  assert.equal(choose([a, b]), 'b')
  assert.equal(choose([a, is('b', 'up')]), 'a', 'known before unknown')
  assert.equal(choose([is('b', 'up'), is('a', 'up')]), 'a')
  assert.equal(choose([a, { ...b, cost: 1 }]), 'a')
  assert.equal(
    choose([
      { ...a, cost: 2 },
      { ...b, cost: 1 },
    ]),
    'b',
  )
  assert.equal(choose([{ ...a, cost: 1000 }, b], policy(['a', 'b'])), 'a')
  assert.equal(
    choose([
      { ...a, use: 'backup' },
      { ...b, cost: 1000 },
    ]),
    'b',
  )
  assert.equal(
    choose([
      { ...a, use: 'backup' },
      { ...b, use: 'backup', cost: 1 },
    ]),
    'a',
  )
  // A backup is left for what is none, whatever the policy says of moving back.
  const left = chooseAccess([{ ...a, use: 'backup' }, b], 'a', policy(['*'], { moveUp: false }), LONG)
  assert.equal(left.access, 'b')
})
