/**
 * Moving radios: a trace of signal strengths over time, and what a link over such a radio does. Link events of a trace
 * are decided here alone; scenarios and the mobile router's radios read the same trace.
 */
import type { LinkConditions } from './types.ts'

/** Signal strengths in dBm, by access point, at a moment in seconds from the trace's start. */
export interface SignalSample {
  readonly at: number
  readonly signals: Readonly<Record<string, number>>
}

/** Samples in order of time; between two of them strength is interpolated, after the last it holds. */
export interface SignalTrace {
  readonly samples: readonly SignalSample[]
}

/** Below this a radio hears nothing of an access point. */
export const NO_SIGNAL_DBM = -95

/** Strength of one access point at `at` seconds; NO_SIGNAL_DBM where the trace does not name it. */
export function signalAt(trace: SignalTrace, point: string, at: number): number {
  let before: SignalSample | undefined
  for (const sample of trace.samples) {
    if (sample.at > at) {
      const after = sample.signals[point] ?? NO_SIGNAL_DBM
      if (before === undefined) return after
      const from = before.signals[point] ?? NO_SIGNAL_DBM
      return from + ((after - from) * (at - before.at)) / (sample.at - before.at)
    }
    before = sample
  }
  return before?.signals[point] ?? NO_SIGNAL_DBM
}

/**
 * A drive past access points in a row: each is strongest when passed, and fades by a log-distance law with exponent 3
 * (indoor and street propagation), from -30 dBm at one metre.
 */
export function driveBy(
  points: Readonly<Record<string, number>>,
  options: {
    /** Several: one after the other, each for `stretchM`, and again from the first. */
    readonly speedMps: number | readonly number[]
    readonly stretchM?: number
    /** Before it starts, it stands for so long. */
    readonly standS?: number
    readonly lengthM: number
    readonly offsetM?: number
  },
): SignalTrace {
  const speeds = typeof options.speedMps === 'number' ? [options.speedMps] : options.speedMps
  const samples: SignalSample[] = []
  let metres = 0
  for (let tenths = 0; metres <= options.lengthM; tenths++) {
    const signals: Record<string, number> = {}
    for (const [name, position] of Object.entries(points)) {
      const distance = Math.hypot(metres - position, options.offsetM ?? 5)
      // What cannot be heard need not be named.
      const dbm = -30 - 30 * Math.log10(Math.max(1, distance))
      if (dbm > NO_SIGNAL_DBM) signals[name] = dbm
    }
    samples.push({ at: tenths / 10, signals })
    if (tenths < 10 * (options.standS ?? 0)) continue
    const stretch = Math.floor(metres / (options.stretchM ?? Number.POSITIVE_INFINITY))
    metres += speeds[stretch % speeds.length]! / 10
  }
  return { samples }
}

/**
 * What a link does at a signal strength, for a radio of `rateMbps` at best: full rate down to -65 dBm, then rate falls and
 * losses and delay grow (retransmissions of the link layer), and at NO_SIGNAL_DBM the carrier is gone.
 */
export function radioConditions(dbm: number, rateMbps: number): Partial<LinkConditions> {
  if (dbm <= NO_SIGNAL_DBM) return { state: 'down' }
  const fade = Math.min(1, Math.max(0, (-65 - dbm) / (-65 - NO_SIGNAL_DBM)))
  return {
    state: 'up',
    rateMbps: Math.max(0.5, rateMbps * (1 - fade) ** 2),
    loss: fade < 0.5 ? 0 : Math.min(0.6, (fade - 0.5) ** 2 * 2.4),
    delayMs: 1 + 30 * fade ** 2,
    jitterMs: 10 * fade ** 2,
  }
}
