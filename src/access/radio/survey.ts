/** The access points that one radio has found, results of using them, and their ranking. */
import type { AccessPoint } from './radio.ts'
import {
  AHEAD_MS,
  FAILED_DB,
  FAILED_FOR_MS,
  FAINTEST_DBM,
  LEFT_DB,
  LEFT_FOR_MS,
  RISE_DB,
  SCAN_EVERY_MS,
  SCAN_FRESH_MS,
  SCAN_TIMEOUT_MS,
  SCAN_TREND_MS,
  SHARED_DB,
} from './tuning.ts'

/** A point with its last measurement. */
interface Heard extends AccessPoint {
  /** dB a millisecond since the scan before. */
  readonly slope: number
}

export interface Found extends AccessPoint {
  /** dBm when the radio would be there, less what speaks against it. */
  readonly worth: number
}

export class Survey {
  readonly #networks: ReadonlySet<string> | undefined
  readonly #failedAt = new Map<string, number>()
  readonly #leftAt = new Map<string, number>()
  #points: readonly Heard[] = []
  #scannedAt = Number.NEGATIVE_INFINITY
  #askedAt = Number.NEGATIVE_INFINITY
  #scanning = false

  /** `networks` that may be used; undefined: any. */
  constructor(networks: ReadonlySet<string> | undefined) {
    this.#networks = networks
  }

  /** Whether to ask for a scan now; it counts as asked for then. */
  ask(now: number): boolean {
    if (this.#scanning && now - this.#askedAt > SCAN_TIMEOUT_MS) this.#scanning = false
    if (this.#scanning || now - this.#askedAt < SCAN_EVERY_MS) return false
    this.#scanning = true
    this.#askedAt = now
    return true
  }

  scanFailed(): void {
    this.#scanning = false
  }

  heard(points: readonly AccessPoint[], now: number): void {
    const elapsed = now - this.#scannedAt
    const before = new Map(this.#points.map((point) => [point.id, point.dbm]))
    const known = points.filter(({ network }) => this.#networks === undefined || this.#networks.has(network))
    this.#points = known.map((point) => {
      const old = before.get(point.id)
      const slope =
        old === undefined || elapsed > SCAN_TREND_MS ? 0 : (point.dbm - old) / Math.max(elapsed, 100)
      return { ...point, slope }
    })
    this.#scannedAt = now
    this.#scanning = false
  }

  failed(point: string, now: number): void {
    this.#failedAt.set(point, now)
  }

  worked(point: string): void {
    this.#failedAt.delete(point)
  }

  left(point: string, now: number): void {
    this.#leftAt.set(point, now)
  }

  /** The best point; undefined when none was found recently, or none is strong enough. `taken`: used by another radio. */
  best(taken: (point: string) => boolean, now: number, except?: string): Found | undefined {
    if (now - this.#scannedAt > SCAN_FRESH_MS) return undefined
    let best: Heard | undefined
    let most = Number.NEGATIVE_INFINITY
    for (const point of this.#points) {
      if (point.id === except) continue
      const dbm = this.#expected(point, now)
      const worth = dbm - this.#against(point.id, now) - (taken(point.id) ? SHARED_DB : 0)
      if (dbm < FAINTEST_DBM || worth <= most) continue
      best = point
      most = worth
    }
    return best && { ...best, worth: most }
  }

  /** Strength of a point when the radio would be there: what it was at the scan, and where it was going. */
  #expected(point: Heard, now: number): number {
    return point.dbm + Math.min(RISE_DB, point.slope * (now - this.#scannedAt + AHEAD_MS))
  }

  #against(id: string, now: number): number {
    const failed = now - (this.#failedAt.get(id) ?? Number.NEGATIVE_INFINITY) < FAILED_FOR_MS
    const left = now - (this.#leftAt.get(id) ?? Number.NEGATIVE_INFINITY) < LEFT_FOR_MS
    return (failed ? FAILED_DB : 0) + (left ? LEFT_DB : 0)
  }
}
