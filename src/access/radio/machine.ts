/**
 * The connection controller (Ohshima §II; digest OH-21 to OH-28): keeps several radio links up at once and moves them
 * between access points so that traffic does not notice. Pure: events and time in, actions and decisions out.
 *
 * The invariant (OH-22, OH-25): a link that works is let go only while another one works, is strong enough to last until
 * the first is back, and is not itself being moved. It is checked where the action is made, after the traffic has left
 * and not before; `violations` counts how often that check would have been passed wrongly, and stays 0.
 *
 * Traffic does not wait for a move (OH-18): a link whose signal falls is `fading` as soon as another one that works is
 * clearly stronger, and what takes one link at a time leaves it then, well before it loses anything.
 *
 * The order of a move (OH-24, OH-26): traffic is asked to leave (`drain`) → it has left, or DRAIN_MS passed → the
 * invariant holds still → `associate` → associated → something authenticated came back over it → `drain` off.
 */
import type { AccessPoint, RadioEvent } from './radio.ts'
import { Signal } from './signal.ts'
import { type Found, Survey } from './survey.ts'
import {
  ASSOCIATE_MS,
  BEARING_DBM,
  DEAD_MS,
  DRAIN_MS,
  DWELL_FAILING_MS,
  DWELL_MS,
  FADING_DB,
  FADING_DBM,
  FAILING_DBM,
  HORIZON_MARGIN,
  HORIZON_MS,
  HYSTERESIS_DB,
  LASTING_DBM,
  LOOK_DB,
  MOST_HORIZON_MS,
  MOVE_BURST,
  MOVE_REFILL_MS,
  RETRY_MS,
  SHARED_DB,
  SHIFT_DB,
  SOON_MS,
  TICK_MS,
  VALIDATE_MS,
  WEAK_DBM,
} from './tuning.ts'

/**
 * `eager`: moves to a point that is stronger by HYSTERESIS_DB even while the present one is good (OH-34a: one SSID).
 * `clinging`: stays until the link is weak (OH-34b: one SSID per point).
 */
export type RoamingPolicy = 'eager' | 'clinging'

export type LinkState =
  | { readonly name: 'idle'; readonly since: number; readonly retryAt: number }
  | { readonly name: 'associating'; readonly since: number; readonly point: string }
  /** Associated; nothing authenticated has come back yet, or not recently. */
  | { readonly name: 'validating'; readonly since: number; readonly point: string; readonly until: number }
  | { readonly name: 'usable'; readonly since: number; readonly point: string }
  /** Works still; traffic is leaving. */
  | {
      readonly name: 'draining'
      readonly since: number
      readonly point: string
      readonly target: AccessPoint
      readonly left: boolean
    }

export type ControllerAction =
  | { readonly type: 'scan'; readonly link: string }
  | { readonly type: 'associate'; readonly link: string; readonly point: AccessPoint }
  | { readonly type: 'release'; readonly link: string }
  /** Asks the flow controller to take traffic off a link, or allows it back. */
  | { readonly type: 'drain'; readonly link: string; readonly draining: boolean; readonly reason: string }
  /** Another link is better for traffic that uses one link at a time, or no longer is. */
  | { readonly type: 'fade'; readonly link: string; readonly fading: boolean; readonly reason: string }
  | {
      readonly type: 'decision'
      readonly link: string
      /** The decision: a point, `stay`, `scan`. */
      readonly chosen: string
      readonly reason: string
      readonly evidence: Readonly<Record<string, string | number | boolean | null>>
    }

export interface LinkView {
  readonly name: string
  readonly state: LinkState['name']
  readonly since: number
  readonly point: string | undefined
  /** Smoothed; NaN while no signal is measured. */
  readonly dbm: number
  /** dB a second. */
  readonly trend: number
  readonly fading: boolean
}

interface Link {
  readonly name: string
  state: LinkState
  readonly signal: Signal
  readonly survey: Survey
  tries: number
  /** Last time something authenticated came over it. */
  heardAt: number
  /** The tunnel's verdict. */
  works: boolean
  fading: boolean
  /** When it was last told to associate; NaN when it associated by itself. */
  leftFor: number
  /** The last reported decision, so that the same one is not reported at each tick. */
  told: string
}

export interface ControllerInit {
  readonly policy?: RoamingPolicy
  /** Networks (SSIDs) that may be used; absent: any. */
  readonly networks?: readonly string[]
}

export class ConnectionController {
  readonly #links = new Map<string, Link>()
  readonly #actions: ControllerAction[] = []
  readonly #policy: RoamingPolicy
  readonly #networks: ReadonlySet<string> | undefined
  /** Smoothed duration of moves, from disassociation to an end-to-end reply. */
  #moveMs = 0
  #tokens = MOVE_BURST
  #refilledAt = 0
  #tickAt = 0
  /** Moves made by choice, refusals of the invariant, and letting go of the last working link: always 0. */
  counts = { moves: 0, refused: 0, violations: 0, revived: 0 }

  constructor(init: ControllerInit = {}) {
    this.#policy = init.policy ?? 'clinging'
    this.#networks = init.networks === undefined ? undefined : new Set(init.networks)
  }

  addLink(name: string, now: number): void {
    this.#links.set(name, {
      name,
      state: { name: 'idle', since: now, retryAt: now },
      signal: new Signal(now),
      survey: new Survey(this.#networks),
      tries: 0,
      heardAt: Number.NEGATIVE_INFINITY,
      works: false,
      fading: false,
      leftFor: Number.NaN,
      told: '',
    })
    this.#tickAt = now
  }

  removeLink(name: string): void {
    this.#links.delete(name)
  }

  links(): LinkView[] {
    return [...this.#links.values()].map((link) => ({
      name: link.name,
      state: link.state.name,
      since: link.state.since,
      point: link.state.name === 'idle' ? undefined : link.state.point,
      dbm: link.signal.dbm,
      trend: link.signal.trend,
      fading: link.fading,
    }))
  }

  /** Links that carry traffic now, whatever they are about to do. */
  usable(): string[] {
    return [...this.#links.values()].filter(carries).map(({ name }) => name)
  }

  poll(): ControllerAction | undefined {
    return this.#actions.shift()
  }

  nextTimeout(): number | undefined {
    return this.#links.size === 0 ? undefined : this.#tickAt
  }

  handleTimeout(now: number): void {
    if (now < this.#tickAt) return
    this.#tickAt = now + TICK_MS
    this.#assess(now)
  }

  /** State of the tunnel's paths over a link: whether any works, and when something last arrived over it. */
  handleEvidence(name: string, works: boolean, heardAt: number, now: number): void {
    const link = this.#links.get(name)
    if (link === undefined) return
    link.works = works
    link.heardAt = Math.max(link.heardAt, heardAt)
    this.#assess(now)
  }

  /** The flow controller reports that no traffic uses this link any more. */
  handleDrained(name: string, now: number): void {
    const link = this.#links.get(name)
    if (link?.state.name !== 'draining') return
    link.state = { ...link.state, left: true }
    this.#assess(now)
  }

  handleRadio(name: string, event: RadioEvent, now: number): void {
    const link = this.#links.get(name)
    if (link === undefined) return
    switch (event.type) {
      case 'signal':
        link.signal.sample(event.dbm, now)
        break
      case 'points':
        link.survey.heard(event.points, now)
        break
      case 'associated':
        if (carries(link) && link.state.name !== 'idle' && link.state.point === event.point) break
        link.signal.forget()
        link.works = false
        link.state = { name: 'validating', since: now, point: event.point, until: now + VALIDATE_MS }
        break
      case 'lost':
        this.#lost(link, event.reason, now)
        break
      case 'failed':
        if (event.op === 'scan') link.survey.scanFailed()
        else this.#failed(link, event.reason, now)
        break
    }
    this.#assess(now)
  }

  #lost(link: Link, reason: string, now: number): void {
    // A radio that was told to change reports this state too.
    if (link.state.name === 'idle' || link.state.name === 'associating') return
    link.works = false
    this.#decide(link, 'scan', `association lost: ${reason}`, now)
    this.#idle(link, now)
    this.counts.revived++
  }

  #failed(link: Link, reason: string, now: number): void {
    if (link.state.name === 'idle') return
    link.survey.failed(link.state.point, now)
    this.#decide(link, 'scan', `${link.state.point} could not be used: ${reason}`, now)
    this.#idle(link, now)
  }

  #idle(link: Link, now: number): void {
    const pause = RETRY_MS[Math.min(link.tries, RETRY_MS.length - 1)]!
    link.tries++
    link.signal.forget()
    link.works = false
    link.leftFor = Number.NaN
    link.state = { name: 'idle', since: now, retryAt: now + pause }
  }

  #assess(now: number): void {
    const refill = Math.floor((now - this.#refilledAt) / MOVE_REFILL_MS)
    if (refill > 0) {
      this.#tokens = Math.min(MOVE_BURST, this.#tokens + refill)
      this.#refilledAt += refill * MOVE_REFILL_MS
    }
    // The weakest first: of two that should move, it is the one to go.
    const order = [...this.#links.values()].sort((a, b) => a.signal.strength - b.signal.strength)
    for (const link of order) this.#assessOne(link, now)
    for (const link of order) this.#assessFading(link, now)
  }

  /** The strongest link that works is never fading, so that traffic always has where to go. */
  #assessFading(link: Link, now: number): void {
    const other = this.#strongest(link)
    const { dbm } = link.signal
    let fading = link.fading
    if (other === undefined || link.state.name !== 'usable' || !link.signal.known) fading = false
    else if (fading) fading = dbm < Math.min(FADING_DBM + SHIFT_DB, other.signal.dbm + 1)
    else fading = link.signal.after(SOON_MS) < FADING_DBM && other.signal.dbm >= dbm + FADING_DB
    if (fading === link.fading) return
    link.fading = fading
    const reason =
      fading && other !== undefined
        ? `${link.name} fades (${round(dbm)} dBm), ${other.name} is stronger (${round(other.signal.dbm)} dBm)`
        : `${link.name} fades no more`
    this.#actions.push({ type: 'fade', link: link.name, fading, reason })
    this.#decide(link, fading ? (other?.name ?? '') : link.name, reason, now)
  }

  /** The strongest of the other links that work and are not about to be moved. */
  #strongest(link: Link): Link | undefined {
    let best: Link | undefined
    for (const other of this.#links.values()) {
      if (other === link || other.state.name !== 'usable' || !other.works || !other.signal.known) continue
      if (best === undefined || other.signal.dbm > best.signal.dbm) best = other
    }
    return best
  }

  #assessOne(link: Link, now: number): void {
    const { state } = link
    switch (state.name) {
      case 'idle':
        this.#revive(link, state.retryAt, now)
        break
      case 'associating':
        if (now - state.since > ASSOCIATE_MS) this.#failed(link, 'no answer', now)
        break
      case 'validating':
        if (link.works && link.heardAt > state.since) this.#validated(link, state.point, now)
        else if (now > state.until) this.#giveUp(link, state.point, 'nothing comes back over it', now)
        break
      case 'usable':
        if (!link.works) {
          this.#decide(link, 'stay', `${state.point} has gone silent`, now)
          link.state = { name: 'validating', since: now, point: state.point, until: now + DEAD_MS }
          this.#drain(link, true, 'nothing comes back over it')
        } else this.#consider(link, state, now)
        break
      case 'draining':
        this.#proceed(link, state, now)
        break
    }
  }

  #validated(link: Link, point: string, now: number): void {
    if (!Number.isNaN(link.leftFor))
      this.#moveMs += (now - link.leftFor - this.#moveMs) * (this.#moveMs === 0 ? 1 : 0.3)
    link.leftFor = Number.NaN
    link.state = { name: 'usable', since: now, point }
    link.tries = 0
    link.survey.worked(point)
    this.#drain(link, false, `replies arrive end to end over ${point}`)
    this.#decide(link, point, 'replies arrive end to end; traffic may use it', now)
  }

  /** It carries nothing, so letting go of it loses nothing. */
  #giveUp(link: Link, point: string, reason: string, now: number): void {
    link.survey.failed(point, now)
    this.#decide(link, 'scan', `${point} given up: ${reason}`, now)
    this.#actions.push({ type: 'release', link: link.name })
    this.#idle(link, now)
    this.counts.revived++
  }

  /** A link without association: finds a point and associates (OH-28). */
  #revive(link: Link, retryAt: number, now: number): void {
    if (now < retryAt) return
    // Its driver reports no association, but packets still arrive over it: the last working link is not moved.
    if (this.#stillCarries(link) && !this.#othersCarry(link)) return
    const best = this.#best(link, now)
    if (best === undefined) {
      this.#scan(link, now)
      return
    }
    this.#decide(link, best.id, 'strongest access point for a link without one', now, { dbm: best.dbm })
    this.#associate(link, best, now)
  }

  /** A link that works: is there reason to move it, and may it? */
  #consider(link: Link, state: LinkState & { name: 'usable' }, now: number): void {
    if (!link.signal.known) return
    const { dbm } = link.signal
    const ahead = this.#predicted(link)
    const weak = dbm < WEAK_DBM || ahead < FAILING_DBM
    const look = WEAK_DBM + (this.#policy === 'clinging' ? LOOK_DB : 15)
    if (Math.min(dbm, ahead) < look) this.#scan(link, now)
    if (!weak && this.#policy === 'clinging') return
    const best = this.#best(link, now, state.point)
    if (best === undefined) return
    const present = Math.min(dbm, ahead) - (this.#taken(link, state.point) ? SHARED_DB : 0)
    if (best.worth - present < HYSTERESIS_DB) return
    const why = weak
      ? dbm < WEAK_DBM
        ? `signal of ${state.point} is weak`
        : `signal of ${state.point} is falling`
      : `${best.id} is stronger`
    if (now - state.since < (ahead < FAILING_DBM ? DWELL_FAILING_MS : DWELL_MS)) return
    if (this.#tokens <= 0) {
      this.#decide(link, 'stay', `${why}, but there were too many recent moves`, now)
      return
    }
    const bearer = this.#bearer(link)
    if (bearer === undefined) {
      this.counts.refused++
      this.#decide(link, 'stay', `${why}, but no other link could carry the traffic meanwhile`, now)
      return
    }
    this.#tokens--
    this.counts.moves++
    link.state = { name: 'draining', since: now, point: state.point, target: best, left: false }
    this.#drain(link, true, `${why}; moving to ${best.id}`)
    this.#decide(link, best.id, `${why}; traffic shifts to ${bearer.name} first`, now, {
      dbm: round(dbm),
      trend_db_s: round(link.signal.trend),
      target_dbm: best.dbm,
      bearer: bearer.name,
      bearer_dbm: round(bearer.signal.dbm),
    })
  }

  #proceed(link: Link, state: LinkState & { name: 'draining' }, now: number): void {
    if (link.works && !this.#othersCarry(link)) {
      // The other one fell meanwhile: this is the last, and stays (OH-25).
      this.counts.refused++
      link.state = { name: 'usable', since: now, point: state.point }
      this.#drain(link, false, 'the other link no longer works')
      this.#decide(link, 'stay', 'last usable link: it is never moved', now)
      return
    }
    if (!state.left && now - state.since < DRAIN_MS && link.works) return
    this.#associate(link, state.target, now)
  }

  #associate(link: Link, point: AccessPoint, now: number): void {
    if (this.#stillCarries(link) && !this.#othersCarry(link)) this.counts.violations++
    if (link.state.name !== 'idle') link.survey.left(link.state.point, now)
    link.works = false
    link.signal.forget()
    link.leftFor = now
    link.state = { name: 'associating', since: now, point: point.id }
    this.#actions.push({ type: 'associate', link: link.name, point })
  }

  /**
   * Another link that can carry everything until this one is back; none while any other is on the move. When this one
   * will not last itself, waiting saves nothing: one that is no weaker will do.
   */
  #bearer(link: Link): Link | undefined {
    const doomed = this.#predicted(link) < LASTING_DBM
    let best: Link | undefined
    for (const other of this.#links.values()) {
      if (other === link) continue
      if (other.state.name === 'draining') return undefined
      if (other.state.name !== 'usable' || !other.works) continue
      const { dbm } = other.signal
      const lasts = dbm >= BEARING_DBM && this.#predicted(other) >= LASTING_DBM
      if (!lasts && !(doomed && dbm >= link.signal.dbm && dbm >= LASTING_DBM)) continue
      if (best === undefined || dbm > best.signal.dbm) best = other
    }
    return best
  }

  #othersCarry(link: Link): boolean {
    for (const other of this.#links.values())
      if (other !== link && other.state.name === 'usable' && other.works && other.signal.dbm >= LASTING_DBM)
        return true
    return false
  }

  /** For a link that is reported as not associated, only later arrivals count. */
  #stillCarries({ works, heardAt, state }: Link): boolean {
    return works && (state.name !== 'idle' || heardAt > state.since)
  }

  /** Predicted strength at the end of a move that begins now, if the signal keeps falling. */
  #predicted(link: Link): number {
    return link.signal.after(Math.min(MOST_HORIZON_MS, Math.max(HORIZON_MS, this.#moveMs * HORIZON_MARGIN)))
  }

  #best(link: Link, now: number, except?: string): Found | undefined {
    return link.survey.best((point) => this.#taken(link, point), now, except)
  }

  /** Whether another link uses this point, or is about to. */
  #taken(link: Link, point: string): boolean {
    for (const other of this.#links.values())
      if (other !== link && other.state.name !== 'idle' && pointOf(other.state) === point) return true
    return false
  }

  #scan(link: Link, now: number): void {
    if (link.survey.ask(now)) this.#actions.push({ type: 'scan', link: link.name })
  }

  #drain(link: Link, draining: boolean, reason: string): void {
    this.#actions.push({ type: 'drain', link: link.name, draining, reason })
  }

  #decide(
    link: Link,
    chosen: string,
    reason: string,
    now: number,
    evidence: Readonly<Record<string, string | number | boolean | null>> = {},
  ): void {
    if (link.told === reason) return
    link.told = reason
    const usable = this.usable().join(' ')
    const dbm = link.signal.known ? round(link.signal.dbm) : null
    this.#actions.push({
      type: 'decision',
      link: link.name,
      chosen,
      reason,
      evidence: { dbm, usable, for_ms: Math.round(now - link.state.since), ...evidence },
    })
  }
}

function carries(link: Link): boolean {
  return link.state.name === 'usable' || link.state.name === 'draining'
}

/** The point that a link uses or is about to. */
function pointOf(state: Exclude<LinkState, { name: 'idle' }>): string {
  return state.name === 'draining' ? state.target.id : state.point
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
