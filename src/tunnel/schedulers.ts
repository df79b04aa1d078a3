/**
 * The flow controller's schedulers (Ohshima §II; digest OH-16 to OH-19): which of a peer's paths packets of one class take.
 * In two steps. `planPaths` is a pure function of what is known about the paths, called when that changes; its reason is
 * what `why` prints. `PacketScheduler` carries a plan out, packet by packet, on numbers only.
 *
 * One bad link never drags the bundle down: a path that loses clearly more than the best one is demoted. It then carries
 * nothing that matters, but copies of some packets, by which it is measured; it is readmitted when it has lost next to
 * nothing for READMIT_MS.
 */
import type { PathState } from './machine/api.ts'
import type { Spread } from './seam.ts'

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
  /** Its radio is about to let go: traffic leaves it (OH-24). */
  readonly draining: boolean
  /** Its signal falls and another one's is clearly stronger: not for what takes one path at a time (OH-18). */
  readonly fading?: boolean
  /** Lower is preferred. */
  readonly priority: number
  /** Smoothed, milliseconds; NaN while unknown. */
  readonly rttMs: number
  /** 0 to 1. */
  readonly loss: number
  /** Bytes per millisecond that the path is known to carry, for `weighted`; 0 while unknown. */
  readonly rate: number
  /** Best delay there, milliseconds; NaN while unknown. And what waits in its queue. */
  readonly delayMs: number
  readonly queueMs: number
}

export interface Carrier {
  readonly slot: number
  /** Bytes per millisecond, 0 while unknown; 1 where rates do not matter. */
  readonly weight: number
  /** Best delay there, milliseconds, and what waits on the way now. */
  readonly delayMs: number
  readonly queueMs: number
}

export interface Plan {
  /** Paths that carry packets, at least one of them each; empty: none is usable. */
  readonly carriers: readonly Carrier[]
  /** Paths that get a copy of every packet. */
  readonly copies: readonly number[]
  /** Paths that get copies of some packets, so that they can be measured. */
  readonly probes: readonly number[]
  /** Where copies of packets at risk go (`budget`), -1 for none; and whether everything is at risk now. */
  readonly refuge: number
  readonly atRisk: boolean
  /** Whether the receiver restores order. */
  readonly ordered: boolean
  readonly reason: string
  /** Plan again at this time even if nothing changes. */
  readonly until?: number
}

export interface PlanMemory {
  readonly current: number
  /** Since when a path better than the current one has been well; NaN when none is. */
  readonly betterSince: number
  /** Demoted paths: since when they have lost next to nothing, NaN while they lose. */
  readonly demoted: ReadonlyMap<number, number>
  /** When the current path became so. */
  readonly since: number
}

export const NO_PLAN_MEMORY: PlanMemory = {
  current: -1,
  betterSince: Number.NaN,
  demoted: new Map(),
  since: Number.NEGATIVE_INFINITY,
}

/** A preferred path must have been well for so long before traffic returns to it. */
export const RETURN_MS = 3_000
export const READMIT_MS = 1_000
/** Demoted above this, and above four times the best path's loss and 2 %; readmitted below READMIT_LOSS. */
const DEMOTE_LOSS = 0.05
const READMIT_LOSS = 0.02
/** `lowest-rtt` moves for this much less. */
const RTT_SHARE = 0.8
const RTT_LEAST = 2
/** `budget`: above this loss packets are at risk. */
const RISK_LOSS = 0.004
/** What a path that has just become the current one carries is at risk for so long. */
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

/** Every hysteresis there is stands in the constants above. */
export function planPaths(
  mode: Mode,
  paths: readonly PathFacts[],
  memory: PlanMemory,
  now: number,
): { readonly plan: Plan; readonly memory: PlanMemory } {
  const usable = paths.filter((path) => standing(path) < UNUSABLE)
  if (usable.length === 0) return { plan: NOTHING, memory: { ...NO_PLAN_MEMORY, demoted: memory.demoted } }
  const demoted = demote(usable, memory.demoted, now)
  const rank = (path: PathFacts) => standing(path) + (demoted.has(path.slot) ? DEMOTED : 0)
  const top = Math.min(...usable.map(rank))
  // What has fallen silent carries nothing while something else works.
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
      const carriers = good.map((path) => ({
        slot: path.slot,
        weight: mode === 'round-robin' ? 1 : path.rate,
        delayMs: path.delayMs,
        queueMs: path.queueMs,
      }))
      const reason =
        mode === 'round-robin'
          ? `spread over ${names(good)} in turn`
          : `each packet where it arrives first, of ${names(good)}, by measured rate and delay`
      return finish({ ...base, carriers, ordered: carriers.length > 1, reason }, NO_PLAN_MEMORY)
    }
    case 'duplicate': {
      // A path that loses much still saves what others lose.
      const [first, ...others] = [...usable].sort((a, b) => rank(a) - rank(b) || a.priority - b.priority)
      const copies = others.map(({ slot }) => slot)
      const reason = `a copy on each of ${names(usable)}`
      return { plan: { ...base, carriers: only(first!), copies, probes: [], reason }, memory: NO_PLAN_MEMORY }
    }
    default: {
      const chosen = choose(mode, good, usable, memory, now)
      const current = chosen.path
      const since = current.slot === memory.current ? memory.since : now
      const next = { ...memory, current: current.slot, since, betterSince: chosen.betterSince }
      const plan = { ...base, carriers: only(current), reason: chosen.reason }
      const until = chosen.until === undefined ? {} : { until: chosen.until }
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

/** The one path of `failover`, `lowest-rtt` and `budget`. */
function choose(
  mode: Mode,
  good: readonly PathFacts[],
  usable: readonly PathFacts[],
  memory: PlanMemory,
  now: number,
): { path: PathFacts; reason: string; betterSince: number; until?: number } {
  const value = (path: PathFacts) =>
    mode === 'lowest-rtt' ? (Number.isNaN(path.rttMs) ? Number.MAX_VALUE : path.rttMs) : path.priority
  const firm = good.filter(({ fading }) => fading !== true)
  const pool = firm.length > 0 ? firm : good
  let best = pool.reduce((a, b) => (value(b) < value(a) ? b : a))
  const current = good.find(({ slot }) => slot === memory.current)
  const take = (path: PathFacts, reason: string) => ({ path, reason, betterSince: Number.NaN })
  if (current === undefined) {
    const old = usable.find(({ slot }) => slot === memory.current)
    if (memory.current === -1) return take(best, `${best.name} is first`)
    return take(best, old === undefined ? `the path before is gone` : `${old.name} is ${describe(old)}`)
  }
  if (current.fading === true && firm.length > 0) return take(best, `${current.name} is fading`)
  if (mode === 'budget') {
    // The copies cover the time until what is wrong is seen; then the path is left for one that is well.
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
  if (mode === 'lowest-rtt') {
    const much = best.rttMs < current.rttMs * RTT_SHARE && best.rttMs < current.rttMs - RTT_LEAST
    return much || Number.isNaN(current.rttMs)
      ? take(best, `${best.name} answers in ${best.rttMs.toFixed(1)} ms`)
      : take(current, `${best.name} is not faster by enough`)
  }
  if (value(best) === value(current)) return take(current, `${current.name} works`)
  const since = Number.isNaN(memory.betterSince) ? now : memory.betterSince
  if (now - since >= RETURN_MS) return take(best, `${best.name} is preferred and has been well for 3 s`)
  return {
    path: current,
    reason: `${best.name} is preferred, but back only now`,
    betterSince: since,
    until: since + RETURN_MS,
  }
}

/** Packets on it may be lost soon: it has begun to lose, or its radio repeats itself. */
function isAtRisk(path: PathFacts): boolean {
  if (path.state === 'degrading' || path.fading === true) return true
  return path.loss > RISK_LOSS || path.rttMs - 2 * path.delayMs > RISK_DELAY_MS
}

/** Demoted paths, with since when each has been clean. */
function demote(
  usable: readonly PathFacts[],
  before: ReadonlyMap<number, number>,
  now: number,
): ReadonlyMap<number, number> {
  const best = Math.min(...usable.map(({ loss }) => loss))
  const after = new Map<number, number>()
  for (const { slot, loss } of usable) {
    const was = before.get(slot)
    if (was === undefined) {
      if (loss > DEMOTE_LOSS && loss > 4 * best + 0.02) after.set(slot, Number.NaN)
      continue
    }
    const clean = loss >= READMIT_LOSS ? Number.NaN : Number.isNaN(was) ? now : was
    if (Number.isNaN(clean) || now - clean < READMIT_MS) after.set(slot, clean)
  }
  return after
}

const UNUSABLE = 9
const DEMOTED = 1

/** 0 works, then what is better than nothing: draining, silent. */
function standing(path: PathFacts): number {
  switch (path.state) {
    case 'up':
    case 'degrading':
      return path.draining ? 2 : 0
    case 'suspect':
      return 4
    default:
      return UNUSABLE
  }
}

function describe(path: PathFacts): string {
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

function only(path: PathFacts): Plan['carriers'] {
  return [{ slot: path.slot, weight: 1, delayMs: 0, queueMs: 0 }]
}

/** One in so many packets is copied to a path that has to prove itself; at most one each PROBE_MS then. */
const PROBE_EVERY = 8
const PROBE_MS = 4
/** Copies saved up: at most what the cap allows over so many bytes sent. */
const SAVED_OVER = 4 << 20
const MOST_PATHS = 8
/** Taken for a path's rate (bytes a millisecond) and delay until they are known. */
const UNKNOWN_RATE = 12_500
const UNKNOWN_DELAY = 50
/** A farther path is taken up before the queue of the nearer one is as long as the difference: queues are not endless. */
const EARLY = 0.5
/** How much of the difference to the measured queue is taken over at each plan. */
const TRUST = 0.3

/** Carries out a plan. `choose` costs a comparison per path and allocates nothing. */
export class PacketScheduler {
  #slots = new Int32Array(MOST_PATHS)
  /** Datagrams that each carrier has been given (`round-robin`). */
  readonly #given = new Float64Array(MOST_PATHS)
  /** Bytes per millisecond, delay there, and bytes that wait on the way, as far as known (`weighted`). */
  readonly #rates = new Float64Array(MOST_PATHS)
  readonly #delays = new Float64Array(MOST_PATHS)
  readonly #backlogs = new Float64Array(MOST_PATHS)
  #drainedAt = 0
  #count = 0
  #copies = new Int32Array(MOST_PATHS)
  #copyCount = 0
  #probes = new Int32Array(MOST_PATHS)
  #probeCount = 0
  #refuge = -1
  #atRisk = false
  #ordered = false
  #timed = false
  #credit = 0
  #packets = 0
  #probedAt = Number.NEGATIVE_INFINITY
  readonly #cap: number
  /** Bytes sent, and of them as copies under the cap. */
  counts = { bytes: 0, copiedBytes: 0 }

  /** `cap`: share of the bytes sent that `budget` may copy. */
  constructor(cap = 0.05) {
    this.#cap = cap
  }

  /** A change of plan keeps what each path was given relative to the others, and what waits. */
  follow(mode: Mode, plan: Plan): void {
    this.#timed = mode === 'weighted'
    const before = new Map<number, { given: number; backlog: number }>()
    let least = Number.POSITIVE_INFINITY
    for (let i = 0; i < this.#count; i++) {
      before.set(this.#slots[i]!, { given: this.#given[i]!, backlog: this.#backlogs[i]! })
      least = Math.min(least, this.#given[i]!)
    }
    if (!Number.isFinite(least)) least = 0
    this.#count = Math.min(plan.carriers.length, MOST_PATHS)
    for (let i = 0; i < this.#count; i++) {
      const { slot, weight, delayMs, queueMs } = plan.carriers[i]!
      const old = before.get(slot)
      this.#slots[i] = slot
      this.#given[i] = (old?.given ?? least) - least
      this.#rates[i] = weight > 0 ? weight : UNKNOWN_RATE
      this.#delays[i] = Number.isNaN(delayMs) ? UNKNOWN_DELAY : delayMs
      // The measured queue is one round trip old; the reckoned one drifts. Between them.
      const measured = queueMs * this.#rates[i]!
      this.#backlogs[i] =
        old === undefined || weight === 0 ? 0 : old.backlog + (measured - old.backlog) * TRUST
    }
    this.#copyCount = Math.min(plan.copies.length, MOST_PATHS)
    for (let i = 0; i < this.#copyCount; i++) this.#copies[i] = plan.copies[i]!
    this.#probeCount = Math.min(plan.probes.length, MOST_PATHS)
    for (let i = 0; i < this.#probeCount; i++) this.#probes[i] = plan.probes[i]!
    this.#refuge = plan.refuge
    this.#atRisk = plan.atRisk
    this.#ordered = plan.ordered
  }

  /** The slot for a packet of `bytes` that becomes `datagrams` datagrams, -1 for none; copies and order go to `spread`. */
  choose(bytes: number, datagrams: number, tail: boolean, spread: Spread, now: number): number {
    if (this.#count === 0) return -1
    const best = this.#count === 1 ? 0 : this.#timed ? this.#earliest(bytes, now) : this.#next(datagrams)
    this.counts.bytes += bytes
    spread.ordered = this.#ordered
    spread.copies = this.#copyCount
    for (let i = 0; i < this.#copyCount; i++) spread.copyTo[i] = this.#copies[i]!
    if (this.#refuge >= 0) this.#insure(bytes, tail, spread)
    if (this.#probeCount > 0) this.#probe(datagrams, spread, now)
    return this.#slots[best]!
  }

  #next(datagrams: number): number {
    let best = 0
    for (let i = 1; i < this.#count; i++) if (this.#given[i]! < this.#given[best]!) best = i
    this.#given[best] = this.#given[best]! + datagrams
    return best
  }

  /** The path on which it arrives first: delay, and what waits there, at the path's rate. */
  #earliest(bytes: number, now: number): number {
    const elapsed = Math.max(0, now - this.#drainedAt)
    this.#drainedAt = now
    let best = 0
    let first = Number.POSITIVE_INFINITY
    for (let i = 0; i < this.#count; i++) {
      const rate = this.#rates[i]!
      const backlog = Math.max(0, this.#backlogs[i]! - elapsed * rate)
      this.#backlogs[i] = backlog
      const at = this.#delays[i]! * EARLY + (backlog + bytes) / rate
      if (at >= first) continue
      first = at
      best = i
    }
    this.#backlogs[best] = this.#backlogs[best]! + bytes
    return best
  }

  /** `budget`: a copy for what is at risk, while the cap allows. */
  #insure(bytes: number, tail: boolean, spread: Spread): void {
    this.#credit = Math.min(this.#credit + bytes * this.#cap, SAVED_OVER * this.#cap)
    if (!(this.#atRisk || (tail && this.#credit > (SAVED_OVER * this.#cap) / 2)) || this.#credit < bytes)
      return
    this.#credit -= bytes
    this.counts.copiedBytes += bytes
    spread.copyTo[spread.copies++] = this.#refuge
  }

  #probe(datagrams: number, spread: Spread, now: number): void {
    if (++this.#packets % PROBE_EVERY !== 0 || now - this.#probedAt < PROBE_MS * datagrams) return
    this.#probedAt = now
    for (let i = 0; i < this.#probeCount && spread.copies < MOST_PATHS; i++) {
      const slot = this.#probes[i]!
      let taken = false
      for (let k = 0; k < spread.copies; k++) if (spread.copyTo[k] === slot) taken = true
      if (!taken) spread.copyTo[spread.copies++] = slot
    }
  }
}
