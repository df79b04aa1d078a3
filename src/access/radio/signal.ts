/** The strength of the point that a radio uses: smoothed, where it is going, and where it will be. */
import { DISTANCE_DB, SMOOTH_MS, TREND_MS } from './tuning.ts'

export class Signal {
  /** dBm, smoothed; NaN while no signal is measured. */
  dbm = Number.NaN
  /** dB a second. */
  trend = 0
  #at: number

  constructor(now: number) {
    this.#at = now
  }

  get known(): boolean {
    return !Number.isNaN(this.dbm)
  }

  /** For comparisons: what is not known is the weakest. */
  get strength(): number {
    return this.known ? this.dbm : Number.NEGATIVE_INFINITY
  }

  sample(dbm: number, now: number): void {
    const elapsed = now - this.#at
    this.#at = now
    if (!this.known) {
      this.dbm = dbm
      return
    }
    const before = this.dbm
    this.dbm += (dbm - before) * (1 - Math.exp(-elapsed / SMOOTH_MS))
    if (elapsed <= 0) return
    const slope = ((this.dbm - before) * 1000) / elapsed
    this.trend += (slope - this.trend) * (1 - Math.exp(-elapsed / TREND_MS))
  }

  /** Another point is used, or none. */
  forget(): void {
    this.dbm = Number.NaN
    this.trend = 0
  }

  /** Predicted strength after `ms` if the signal keeps falling: ever more slowly, as with growing distance. */
  after(ms: number): number {
    if (!(this.trend < 0)) return this.dbm
    return this.dbm - DISTANCE_DB * Math.log(1 + (-this.trend * ms) / (1000 * DISTANCE_DB))
  }
}
