/**
 * Which of a peer's paths a packet takes. A scheduler is a pure function of what is known about the paths: the mechanism
 * calls it when a path's state changes (and, for those that want it, per packet) and writes the outcome into its tables.
 * The reason is what `why` prints.
 */
import type { PathState } from './machine/api.ts'

export interface Candidate {
  readonly slot: number
  readonly state: PathState['name']
  /** Lower is preferred; accesses have it by policy. */
  readonly priority: number
  /** Smoothed, milliseconds; NaN while unknown. */
  readonly rttMs: number
  readonly loss: number
  /** Share of traffic for `weighted`; others ignore it. */
  readonly weight?: number
}

export interface Decision {
  /** First the slot to send on, then those that get copies; empty when nothing is usable. */
  readonly slots: readonly number[]
  readonly reason: string
  /** Ask again at this time even if nothing changes (a hold-down runs out). */
  readonly until?: number
}

export interface SchedulerMemory {
  /** The slot in use, -1 for none. */
  readonly current: number
  /** When a better path than the current one became steadily usable; NaN when none is. */
  readonly betterSince: number
}

export const NO_MEMORY: SchedulerMemory = { current: -1, betterSince: Number.NaN }

/** `packet` counts packets of the flow or peer, for schedulers that spread. */
export type Scheduler = (
  paths: readonly Candidate[],
  memory: SchedulerMemory,
  now: number,
  packet?: number,
) => { readonly decision: Decision; readonly memory: SchedulerMemory }

/** How long a preferred path must have been well before traffic returns to it: no flapping between two accesses. */
export const RETURN_HOLD_MS = 3000

/** One fixed path; nothing when it is not usable. */
export function single(slot: number): Scheduler {
  return (paths) => {
    const path = paths.find((candidate) => candidate.slot === slot)
    const ok = path !== undefined && rank(path) < UNUSABLE
    const reason = ok ? 'fixed path' : `fixed path is ${path?.state ?? 'absent'}`
    return {
      decision: { slots: ok ? [slot] : [], reason },
      memory: { current: ok ? slot : -1, betterSince: Number.NaN },
    }
  }
}

/**
 * The most preferred path that works. Leaves the current one at once when it turns suspect or worse and another is better;
 * returns to a preferred one only after it has worked for `holdMs`.
 */
export function failover(holdMs: number = RETURN_HOLD_MS): Scheduler {
  return (paths, memory, now) => {
    const best = paths.reduce<Candidate | undefined>(
      (a, b) => (a === undefined || better(b, a) ? b : a),
      undefined,
    )
    if (best === undefined || rank(best) >= UNUSABLE)
      return { decision: { slots: [], reason: 'no path is usable' }, memory: NO_MEMORY }
    const current = paths.find((candidate) => candidate.slot === memory.current)
    if (current === undefined || rank(current) >= UNUSABLE)
      return take(best, current === undefined ? 'first usable path' : `current path is ${current.state}`)
    if (best === current) return take(current, 'preferred path works')
    if (rank(best) < rank(current)) return take(best, `current path is ${current.state}`)
    const since = Number.isNaN(memory.betterSince) ? now : memory.betterSince
    if (now - since >= holdMs) return take(best, `preferred path worked for ${Math.round(now - since)} ms`)
    return {
      decision: {
        slots: [current.slot],
        reason: 'preferred path is back, on probation',
        until: since + holdMs,
      },
      memory: { current: current.slot, betterSince: since },
    }
  }
}

const UNUSABLE = 3

function rank(path: Candidate): number {
  switch (path.state) {
    case 'up':
    case 'degrading':
      return 1
    case 'suspect':
      return 2
    default:
      return UNUSABLE
  }
}

function better(a: Candidate, b: Candidate): boolean {
  return rank(a) === rank(b) ? a.priority < b.priority : rank(a) < rank(b)
}

function take(path: Candidate, reason: string) {
  return {
    decision: { slots: [path.slot], reason },
    memory: { current: path.slot, betterSince: Number.NaN },
  }
}
