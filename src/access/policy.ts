/**
 * Which access the traffic of one policy takes: a pure function of what is known about the candidates, so that every
 * decision can be repeated from its record. Its reason is what `godwit why` prints.
 *
 * Hysteresis, all of it:
 *  - a working access is never left for one that does not work;
 *  - one that is dead, draining or suspect is left at once for a better one;
 *  - a lossy one (`degrading`) is left for one that has been well for STEADY_MS;
 *  - an access preferred by the policy is returned to when it has been well for DWELL_MS;
 *  - between accesses that the policy holds equal nothing moves.
 */
import { matchesPattern } from '../core/pattern.ts'

/** Health of an access towards one peer: the worse of its own state and that of the path over it. */
export type Health = 'up' | 'degrading' | 'suspect' | 'draining' | 'down'

/** The worse of two: an access and the path over it. */
export function worse(a: Health, b: Health): Health {
  return HEALTH_ORDER[a] >= HEALTH_ORDER[b] ? a : b
}

export interface Candidate {
  readonly access: string
  readonly health: Health
  /** Since when `health` has been what it is, milliseconds. */
  readonly since: number
  /** Why, for people; e.g. the reason of the access. */
  readonly detail?: string
  /** Smoothed, milliseconds; NaN while unknown. */
  readonly rttMs: number
  /** `backup`: only when no other works, for policies whose `prefer` does not name it. Default `normal`. */
  readonly use?: 'normal' | 'backup'
  /** Between two accesses that the policy ranks equal, the cheaper is used. Default 0. */
  readonly cost?: number
}

export interface AccessPolicy {
  /** Patterns in order of preference. */
  readonly prefer: readonly string[]
  /** When none of `prefer` works: another access, or none, and packets wait. */
  readonly fallback: 'any' | 'none'
  /** Return to an access earlier in the list when it comes back. A `backup` is left in any case. */
  readonly moveUp: boolean
  /** Set by an explicit handover: used before all others while it works. */
  readonly pinned?: string
}

export interface Choice {
  /** Undefined: none may be used, packets wait. */
  readonly access: string | undefined
  readonly reason: string
  /** Ask again then even if nothing happens. */
  readonly reconsiderAt?: number
  readonly evidence: Readonly<Record<string, string | number | boolean | null>>
}

/** Time that a preferred access must have worked before traffic returns to it. */
export const DWELL_MS = 3000
/** Time that another access must have worked before it replaces a lossy one. */
export const STEADY_MS = 500

const HEALTH_ORDER: Readonly<Record<Health, number>> = {
  up: 0,
  degrading: 1,
  suspect: 2,
  draining: 3,
  down: 4,
}

/** `current` is what is in use now, undefined for none. */
export function chooseAccess(
  candidates: readonly Candidate[],
  current: string | undefined,
  policy: AccessPolicy,
  now: number,
): Choice {
  const allowed = candidates.filter((each) => isAllowed(each, policy))
  const working = allowed.filter((each) => each.health !== 'down').sort((a, b) => order(a, b, policy))
  const best = working[0]
  const using = candidates.find((each) => each.access === current)
  const choice = (access: Candidate | undefined, reason: string, reconsiderAt?: number): Choice => ({
    access: access?.access,
    reason,
    ...(reconsiderAt !== undefined && { reconsiderAt }),
    evidence: evidence(candidates, current, now),
  })

  if (best === undefined) return choice(undefined, whyNone(candidates, policy))
  if (using === undefined || !allowed.includes(using))
    return choice(best, current === undefined ? whyFirst(best, policy) : `${current} may no longer be used`)
  if (best === using) return choice(using, whyStay(using, policy))
  if (using.health === 'down' || using.health === 'draining' || using.health === 'suspect') {
    if (healthRank(best, policy) < healthRank(using, policy))
      return choice(best, `${using.access} ${describe(using)}`)
    return choice(using, `no access is better than ${using.access}, which ${describe(using)}`)
  }

  const better = preference(best, policy) < preference(using, policy)
  if (best.access === policy.pinned) return choice(best, 'moved by hand')
  if (healthRank(best, policy) < healthRank(using, policy)) {
    const at = best.since + STEADY_MS
    return now >= at
      ? choice(best, `${using.access} ${describe(using)}`)
      : choice(using, `${best.access} has not worked long enough to leave ${using.access}`, at)
  }
  if (!better || using.access === policy.pinned) return choice(using, whyStay(using, policy))
  if (!policy.moveUp && !isBackup(using, policy))
    return choice(using, `works, and the policy does not move back to ${best.access}`)
  const at = best.since + DWELL_MS
  return now >= at
    ? choice(best, `${best.access} is preferred and has worked for ${Math.round(now - best.since)} ms`)
    : choice(
        using,
        `${best.access} is preferred, but has worked again for only ${Math.round(now - best.since)} ms`,
        at,
      )
}

/** An access that was chosen by hand is not left because of loss. */
function healthRank(candidate: Candidate, policy: AccessPolicy): number {
  if (candidate.health === 'degrading' && candidate.access === policy.pinned) return HEALTH_ORDER.up
  return HEALTH_ORDER[candidate.health]
}

function isAllowed(candidate: Candidate, policy: AccessPolicy): boolean {
  return (
    policy.fallback === 'any' ||
    candidate.access === policy.pinned ||
    listed(candidate, policy) < policy.prefer.length
  )
}

/** Place in the list; its length for those not in it. */
function listed(candidate: Candidate, policy: AccessPolicy): number {
  const place = policy.prefer.findIndex((pattern) => matchesPattern(pattern, candidate.access))
  return place < 0 ? policy.prefer.length : place
}

/** A backup that the policy names is none for it. */
function isBackup(candidate: Candidate, policy: AccessPolicy): boolean {
  const named = policy.prefer[listed(candidate, policy)]
  return candidate.use === 'backup' && (named === undefined || /^\*+$/.test(named))
}

/** Rank by policy as one number: pinned, then normal by list and cost, then backup. Smaller is better. */
function preference(candidate: Candidate, policy: AccessPolicy): number {
  if (candidate.access === policy.pinned) return -1
  const backup = isBackup(candidate, policy) ? policy.prefer.length + 1 : 0
  const cost = candidate.cost ?? 0
  return backup + listed(candidate, policy) + cost / (1 + cost)
}

/** Health first: a policy prefers among what works. Then preference, delay, name. */
function order(a: Candidate, b: Candidate, policy: AccessPolicy): number {
  return (
    healthRank(a, policy) - healthRank(b, policy) ||
    preference(a, policy) - preference(b, policy) ||
    (a.rttMs || Number.MAX_VALUE) - (b.rttMs || Number.MAX_VALUE) ||
    (a.access < b.access ? -1 : 1)
  )
}

function describe(candidate: Candidate): string {
  const words: Readonly<Record<Health, string>> = {
    up: 'works',
    degrading: 'loses packets',
    suspect: 'has gone silent',
    draining: 'is being emptied',
    down: 'is down',
  }
  return candidate.detail === undefined
    ? words[candidate.health]
    : `${words[candidate.health]} (${candidate.detail})`
}

function whyFirst(candidate: Candidate, policy: AccessPolicy): string {
  if (candidate.access === policy.pinned) return 'chosen by hand'
  const place = listed(candidate, policy)
  if (place === policy.prefer.length) return 'no access that the policy prefers works; it allows any other'
  return place === 0
    ? 'first in the policy and works'
    : `first in the policy that works (${policy.prefer[place]})`
}

function whyStay(candidate: Candidate, policy: AccessPolicy): string {
  if (candidate.access === policy.pinned) return 'chosen by hand'
  return `${candidate.access} ${describe(candidate)}, and none is preferred to it`
}

function whyNone(candidates: readonly Candidate[], policy: AccessPolicy): string {
  if (candidates.length === 0) return 'there is no access; packets wait'
  const others = candidates.some((each) => each.health !== 'down')
  return others
    ? `none of ${policy.prefer.join(', ')} works, and the policy allows no other; packets wait`
    : `no access works (${candidates.map((each) => `${each.access} ${describe(each)}`).join(', ')}); packets wait`
}

function evidence(
  candidates: readonly Candidate[],
  current: string | undefined,
  now: number,
): Record<string, string | number | null> {
  const out: Record<string, string | number | null> = { current: current ?? null }
  for (const each of candidates) {
    out[`${each.access}.health`] = each.health
    out[`${each.access}.for_ms`] = Math.round(now - each.since)
    out[`${each.access}.rtt_ms`] = Number.isNaN(each.rttMs) ? null : Math.round(each.rttMs * 10) / 10
  }
  return out
}
