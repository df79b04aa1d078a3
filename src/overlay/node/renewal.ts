/**
 * A node's login ends some time after it was last prolonged; the daemon prolongs it at half of that time. A coordinator answers nobody
 * whose login has ended, so a silent one is a reason to ask the account server whether it has.
 */
import { GodwitError } from '../../core/errors.ts'
import type { Login } from './login.ts'

export interface RenewalParts {
  readonly login: Login
  /** Milliseconds since 1970. */
  readonly wall: () => number
  /** Until when the login is good now; rejects with LOGIN_ENDED when it is not. */
  readonly renew: (login: Login) => Promise<number | null>
  readonly save: (login: Login) => void
  readonly report: (level: 'info' | 'warn', message: string) => void
}

/** The clock is looked at so often at least (ms): it may jump, and timers do not run while a machine sleeps. */
const LOOK_MS = 12 * 3_600_000
/** After a failure (ms). */
const AGAIN_MS = 3_600_000
/** A login that was prolonged and could not be stored is stored again after this (ms). */
const STORE_MS = 60_000
/** Between two questions because the coordinator is silent (ms). */
const SILENT_MS = 600_000

export class Renewal {
  readonly #parts: RenewalParts
  #login: Login
  #ended: string | undefined
  #timer: NodeJS.Timeout | undefined
  #askedAt = Number.NEGATIVE_INFINITY
  #isAsking = false
  #isStopped = true
  /** It was prolonged, and the file has the end of before. */
  #isUnsaved = false

  constructor(parts: RenewalParts) {
    this.#parts = parts
    this.#login = parts.login
  }

  /** Seconds since 1970; null: it does not end. */
  get expires(): number | null {
    return this.#login.expires
  }

  /** Why the login is of no use any more, if the account server has said so. */
  get ended(): string | undefined {
    return this.#ended
  }

  start(): void {
    this.#isStopped = false
    this.#arm(0)
  }

  stop(): void {
    this.#isStopped = true
    clearTimeout(this.#timer)
  }

  /** The coordinator does not answer: has the login ended? */
  look(): void {
    const now = this.#parts.wall()
    if (this.#isStopped || Math.abs(now - this.#askedAt) < SILENT_MS) return
    this.#askedAt = now
    void this.#renew()
  }

  #arm(ms: number): void {
    clearTimeout(this.#timer)
    if (this.#isStopped) return
    this.#timer = setTimeout(() => {
      if (this.#isUnsaved) this.#save()
      if (this.#isDue) void this.#renew()
      else this.#arm(this.#pause)
    }, ms)
    this.#timer.unref()
  }

  get #isDue(): boolean {
    const { expires, renewed } = this.#login
    return expires !== null && this.#ended === undefined && 500 * (expires + renewed) < this.#parts.wall()
  }

  get #pause(): number {
    return this.#isUnsaved ? STORE_MS : LOOK_MS
  }

  /** The login is good whether or not it can be stored: only its end is another. */
  #save(): void {
    const { save, report } = this.#parts
    try {
      save(this.#login)
      this.#isUnsaved = false
    } catch (error) {
      if (!this.#isUnsaved)
        report(
          'warn',
          `the login was prolonged, and is stored as soon as that works: ${(error as Error).message}`,
        )
      this.#isUnsaved = true
    }
  }

  async #renew(): Promise<void> {
    if (this.#isAsking) return
    this.#isAsking = true
    const { renew, report, wall } = this.#parts
    try {
      const expires = await renew(this.#login)
      this.#login = { ...this.#login, expires, renewed: Math.floor(wall() / 1000) }
      this.#ended = undefined
      if (!this.#isStopped) this.#save()
      this.#arm(this.#pause)
    } catch (error) {
      const message = (error as Error).message
      if (error instanceof GodwitError && error.code === 'LOGIN_ENDED') {
        this.#ended = `${message}; ${error.hint}`
        report('warn', this.#ended)
      } else if (this.#isDue) report('warn', `the login could not be prolonged: ${message}`)
      this.#arm(AGAIN_MS)
    } finally {
      this.#isAsking = false
    }
  }
}
