/**
 * The flow controller's schedulers (Ohshima §II; digest OH-16 to OH-19): which of a peer's paths the packets of one class
 * take, in two steps. `planPaths` is a pure function of what is known about the paths, called when that changes; `why`
 * prints its reason. packet-scheduler.ts carries out a plan, packet by packet, on numbers only.
 *
 * One bad link never slows the bundle: a path that loses clearly more than the best one is demoted. It then carries only
 * copies of some packets, by which it is measured, and is readmitted when it has lost almost nothing for READMIT_MS.
 */
import type { PathState } from '../protocol/api.ts'

export type Mode = 'failover' | 'lowest-rtt' | 'round-robin' | 'weighted' | 'duplicate' | 'budget'
export const MODES: readonly Mode[] = [
  'failover',
  'lowest-rtt',
  'round-robin',
  'weighted',
  'duplicate',
  'budget',
]

export interface PathFacts {
  readonly slot: number
  /** Name of the access, for reasons. */
  readonly name: string
  readonly state: PathState['name']
  /** Its radio is about to re-associate: traffic leaves it (OH-24). */
  readonly draining: boolean
  /**
   * Its signal falls and another one's is clearly stronger: not used by schedulers that use one path at a time (OH-18).
   */
  readonly fading?: boolean
  /** Only while nothing else works, and no copies before that: bytes cost there. */
  readonly reserve?: boolean
  /** Share of `round-robin`; default 1. */
  readonly weight?: number
  /** Lower is preferred. */
  readonly priority: number
  /** Smoothed, and lowest recent, milliseconds; NaN while unknown. */
  readonly rttMs: number
  readonly bestRttMs: number
  /** 0 to 1. */
  readonly loss: number
  /** A queue that fills may be what loses. */
  readonly queued: boolean
}

export interface Plan {
  /** Slots of paths that carry packets, each packet one of them (`duplicate`: all); empty: none is usable. */
  readonly carriers: readonly number[]
  /** Of `round-robin`: the share of each carrier; absent: equal shares. */
  readonly weights?: readonly number[]
  /** Paths that get a copy of every packet although they may not deliver it. */
  readonly copies: readonly number[]
  /** Paths that get copies of some packets, so that they can be measured. */
  readonly probes: readonly number[]
  /** Where copies of packets at risk go (`budget`), -1 for none; and whether everything is at risk now. */
  readonly refuge: number
  readonly atRisk: boolean
  /** Whether the receiver restores order. */
  readonly ordered: boolean
  /** No path is usable: packets take one that counts as dead, so that they are among those sent again. */
  readonly lastResort?: true
  readonly reason: string
  /** Plan again at this time even if nothing changes. */
  readonly until?: number
}

export interface PlanMemory {
  readonly current: number
  /** Since when a path better than the current one has worked; NaN when none does. */
  readonly betterSince: number
  /** Demoted paths: since when they have lost next to nothing, NaN while they lose. */
  readonly demoted: ReadonlyMap<number, number>
  /** When the current path became so. */
  readonly since: number
  /** Since when no path is usable; NaN while one is. */
  readonly bareSince: number
}

export const NO_PLAN_MEMORY: PlanMemory = {
  current: -1,
  betterSince: Number.NaN,
  demoted: new Map(),
  since: Number.NEGATIVE_INFINITY,
  bareSince: Number.NaN,
}

/** A preferred path must have worked for this long before traffic returns to it. */
export const RETURN_MS = 3_000
export const READMIT_MS = 1_000
/** Demoted above this, and above four times the best path's loss and 2 %; readmitted below READMIT_LOSS. */
const DEMOTE_LOSS = 0.05
const READMIT_LOSS = 0.02
/** Max time for which packets still use a path that counts as dead when there is no other; less than RESEND_WITHIN. */
export const LAST_RESORT_MS = 2_000
/** `lowest-rtt` moves to a path whose round trip without queues has been less by this share, and by this much, for FASTER_MS. */
const RTT_SHARE = 0.8
const RTT_LEAST = 2
export const FASTER_MS = 2_000
/** After a change of path what is still under way on the old one may arrive late: the receiver restores order for so long. */
export const CROSSING_MS = 500
/** `budget`: above this loss packets are at risk. */
const RISK_LOSS = 0.004
/** Packets on a path that has just become the current one are at risk for this long. */
const FRESH_MS = 300
/** `budget`: a radio that repeats itself shows in the round trip before it loses. */
const RISK_DELAY_MS = 4

const NOTHING: Plan = {
  carriers: [],
  copies: [],
  probes: [],
  refuge: -1,
  atRisk: false,
  ordered: false,
  reason: 'no path is usable',
}

/** All hysteresis is in the constants above. */
export function planPaths(
  mode: Mode,
  paths: readonly PathFacts[],
  memory: PlanMemory,
  now: number,
): { readonly plan: Plan; readonly memory: PlanMemory } {
  const working = paths.filter((path) => standing(path) < UNUSABLE)
  const free = working.filter((path) => path.reserve !== true && standing(path) < SILENT)
  // A reserve is as if it were not there while anything else works.
  const usable = free.length > 0 ? working.filter(({ reserve }) => reserve !== true) : working
  if (usable.length === 0) return lastResort(paths, memory, now)
  const demoted = demote(usable, memory.demoted, now)
  const rank = (path: PathFacts) => standing(path) + (demoted.has(path.slot) ? DEMOTED : 0)
  const top = Math.min(...usable.map(rank))
  // A silent path carries nothing while another one works.
  const good = usable.filter((path) => rank(path) === top)
  const probes = usable.filter((path) => demoted.has(path.slot) && rank(path) > top).map(({ slot }) => slot)
  const readmit = [...demoted.values()].reduce(
    (at, since) => (Number.isNaN(since) ? at : Math.min(at, since + READMIT_MS)),
    Number.POSITIVE_INFINITY,
  )
  const left = probes.length === 0 ? '' : `; ${names(usable, probes)} loses too much`
  const finish = (plan: Omit<Plan, 'probes'>, next: PlanMemory) => {
    const until = Math.min(plan.until ?? Number.POSITIVE_INFINITY, readmit)
    const { until: _, ...rest } = plan
    return {
      plan: { ...rest, probes, reason: plan.reason + left, ...(Number.isFinite(until) && { until }) },
      memory: { ...next, demoted },
    }
  }
  const base = { copies: [], refuge: -1, atRisk: false, ordered: false }
  switch (mode) {
    case 'round-robin':
    case 'weighted': {
      const carriers = good.map(({ slot }) => slot)
      const reason =
        mode === 'round-robin'
          ? `spread over ${names(good)} in turn`
          : `each packet where it arrives first, of ${names(good)}, by measured rate and delay`
      const weights = good.map(({ weight = 1 }) => weight)
      const weighed = mode === 'round-robin' && weights.some((weight) => weight !== weights[0])
      const plan = { ...base, carriers, ...(weighed && { weights }), ordered: carriers.length > 1, reason }
      return finish(plan, NO_PLAN_MEMORY)
    }
    case 'duplicate': {
      // A path that loses much still saves what others lose.
      const sorted = [...usable].sort((a, b) => a.priority - b.priority)
      const carriers = sorted.filter((path) => rank(path) === top).map(({ slot }) => slot)
      const copies = sorted.filter((path) => rank(path) > top).map(({ slot }) => slot)
      const reason = `a copy on each of ${names(usable)}`
      return { plan: { ...base, carriers, copies, probes: [], reason }, memory: NO_PLAN_MEMORY }
    }
    default: {
      const chosen = choose(mode, good, working, memory, now)
      const current = chosen.path
      const since = current.slot === memory.current ? memory.since : now
      const next = {
        ...memory,
        current: current.slot,
        since,
        betterSince: chosen.betterSince,
        bareSince: Number.NaN,
      }
      const ordered = memory.current !== -1 && now - since < CROSSING_MS
      const plan = { ...base, carriers: [current.slot], ordered, reason: chosen.reason }
      const again = Math.min(
        chosen.until ?? Number.POSITIVE_INFINITY,
        ordered ? since + CROSSING_MS : Number.POSITIVE_INFINITY,
      )
      const until = Number.isFinite(again) ? { until: again } : {}
      if (mode !== 'budget') return finish({ ...plan, ...until }, next)
      const refuge = [...usable]
        .filter((path) => path !== current)
        .sort((a, b) => rank(a) - rank(b) || a.loss - b.loss)[0]
      const fresh = memory.current !== -1 && now - since < FRESH_MS
      const atRisk = standing(current) > 0 || isAtRisk(current) || fresh
      return finish({ ...plan, ...until, refuge: refuge?.slot ?? -1, atRisk }, next)
    }
  }
}

/**
 * No path is usable. For LAST_RESORT_MS packets still use the path that was used last: the verdict may be wrong, and lost
 * packets are sent again when a path is back (RESEND_WITHIN of the tunnel). After that they are parked, the newest of
 * each flow.
 */
function lastResort(
  paths: readonly PathFacts[],
  memory: PlanMemory,
  now: number,
): { readonly plan: Plan; readonly memory: PlanMemory } {
  const bareSince = Number.isNaN(memory.bareSince) ? now : memory.bareSince
  const next = { ...NO_PLAN_MEMORY, demoted: memory.demoted, current: memory.current, bareSince }
  const dead = paths.filter(({ state }) => state === 'down').sort((a, b) => a.priority - b.priority)
  const path = dead.find(({ slot }) => slot === memory.current) ?? dead[0]
  if (path === undefined || now - bareSince >= LAST_RESORT_MS) return { plan: NOTHING, memory: next }
  const reason = `${NOTHING.reason}; what ${path.name} does not carry is sent again`
  const until = bareSince + LAST_RESORT_MS
  return { plan: { ...NOTHING, carriers: [path.slot], lastResort: true, reason, until }, memory: next }
}

/** The one path of `failover`, `lowest-rtt` and `budget`. */
function choose(
  mode: Mode,
  good: readonly PathFacts[],
  working: readonly PathFacts[],
  memory: PlanMemory,
  now: number,
): { path: PathFacts; reason: string; betterSince: number; until?: number } {
  const value = (path: PathFacts) =>
    mode === 'lowest-rtt' ? (Number.isNaN(path.bestRttMs) ? Number.MAX_VALUE : path.bestRttMs) : path.priority
  const firm = good.filter(({ fading }) => fading !== true)
  const pool = firm.length > 0 ? firm : good
  let best = pool.reduce((a, b) => (value(b) < value(a) ? b : a))
  const current = good.find(({ slot }) => slot === memory.current)
  const take = (path: PathFacts, reason: string) => ({ path, reason, betterSince: Number.NaN })
  if (current === undefined) {
    const old = working.find(({ slot }) => slot === memory.current)
    if (memory.current === -1) return take(best, `${best.name} is first`)
    return take(best, old === undefined ? `the path before is gone` : `${old.name} is ${describe(old)}`)
  }
  if (current.fading === true && firm.length > 0) return take(best, `${current.name} is fading`)
  if (mode === 'budget') {
    // Copies cover the time until the failure is confirmed; then another path that works takes over.
    const clean = good.find((path) => path !== current && !isAtRisk(path))
    if (isAtRisk(current) && clean !== undefined)
      return take(
        clean,
        current.loss > RISK_LOSS
          ? `${current.name} loses ${percent(current.loss)}`
          : `${current.name} slows down`,
      )
    if (isAtRisk(best)) best = current
  }
  if (best === current) return take(current, `${current.name} works, and none is preferred to it`)
  const since = Number.isNaN(memory.betterSince) ? now : memory.betterSince
  const wait = (reason: string, dwell: number) => ({
    path: current,
    reason,
    betterSince: since,
    until: since + dwell,
  })
  if (mode === 'lowest-rtt') {
    // Queues, our own above all, come and go: what counts is the round trip without them.
    const [less, more] = [best.bestRttMs, current.bestRttMs]
    if (Number.isNaN(more)) return take(best, `${best.name} answers in ${less.toFixed(1)} ms`)
    if (!(less < more * RTT_SHARE && less < more - RTT_LEAST))
      return take(current, `${best.name} is not faster by enough`)
    return now - since >= FASTER_MS
      ? take(best, `${best.name} answers in ${less.toFixed(1)} ms, ${current.name} in ${more.toFixed(1)} ms`)
      : wait(`${best.name} is faster, but only of late`, FASTER_MS)
  }
  if (value(best) === value(current)) return take(current, `${current.name} works`)
  return now - since >= RETURN_MS
    ? take(best, `${best.name} is preferred and has been well for 3 s`)
    : wait(`${best.name} is preferred, but back only now`, RETURN_MS)
}

/** Packets on it may be lost soon: it has begun to lose, or its radio repeats itself. */
function isAtRisk(path: PathFacts): boolean {
  if (path.state === 'degrading' || path.fading === true) return true
  return path.loss > RISK_LOSS || path.rttMs - path.bestRttMs > RISK_DELAY_MS
}

/** Demoted paths, with since when each has been clean. */
function demote(
  usable: readonly PathFacts[],
  before: ReadonlyMap<number, number>,
  now: number,
): ReadonlyMap<number, number> {
  const best = Math.min(...usable.map(({ loss }) => loss))
  const after = new Map<number, number>()
  for (const { slot, loss, queued } of usable) {
    const was = before.get(slot)
    if (was === undefined) {
      if (!queued && loss > DEMOTE_LOSS && loss > 4 * best + 0.02) after.set(slot, Number.NaN)
      continue
    }
    const clean = loss >= READMIT_LOSS ? Number.NaN : Number.isNaN(was) ? now : was
    if (Number.isNaN(clean) || now - clean < READMIT_MS) after.set(slot, clean)
  }
  return after
}

const SILENT = 4
const UNUSABLE = 9
const DEMOTED = 1

/** 0 works, then what is better than nothing: draining, silent. */
function standing(path: PathFacts): number {
  switch (path.state) {
    case 'up':
    case 'degrading':
      return path.draining ? 2 : 0
    case 'suspect':
      return SILENT
    default:
      return UNUSABLE
  }
}

function describe(path: PathFacts): string {
  if (path.reserve === true) return 'for when nothing else works'
  if (path.draining) return 'being left'
  if (path.state === 'suspect') return 'silent'
  return `losing ${percent(path.loss)}`
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}

function names(paths: readonly PathFacts[], slots?: readonly number[]): string {
  return paths
    .filter(({ slot }) => slots === undefined || slots.includes(slot))
    .map(({ name }) => name)
    .join(' and ')
}
