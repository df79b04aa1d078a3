/**
 * A router's protocol core: what is known about the paths to each peer, the plan of each class, and telling the other end
 * how the paths are to be used. Pure: the tunnel and the tables are given, time is an argument, what happened comes out of
 * `poll`.
 */

import { matchesAny } from '../core/pattern.ts'
import type { PathView, TunnelCommands, TunnelEvent } from '../tunnel/protocol/api.ts'
import { encodeFrames } from '../tunnel/protocol/control.ts'
import { type ClockBase, PathRate } from '../tunnel/scheduling/rates.ts'
import {
  type Mode,
  NO_PLAN_MEMORY,
  type PathFacts,
  type Plan,
  type PlanMemory,
  planPaths,
} from '../tunnel/scheduling/schedulers.ts'
import type { RoutingForwarder } from './forwarder.ts'
import type { AccessUse, ClassReport, ClassSetup, LinkTerms, RouterEvent } from './protocol.ts'
import {
  CLASS_PATHS,
  decodeAck,
  decodePathNames,
  decodePathUse,
  encodeAck,
  encodePathNames,
  encodePathUse,
  PATH_NAMES,
  PATH_USE,
  PATH_USE_ACK,
} from './wire.ts'

const USE_RETRY_MS = 100
const USE_TRIES = 10
/** After the other end has agreed, what it sent before is still under way for so long, or a round trip if that is more. */
const FLIGHT_MS = 30
/** Rates move shares: plans that only follow rates are made anew this often at most. */
const REPLAN_MS = 50
/** Losses so soon after a queue was seen are an overflow, not a bad link. */
const OVERFLOW_MS = 400
const LEAST_PRIORITY = 100
/** A path that has been given nothing for this long is not measured: nothing is late there. */
const IDLE_MS = 30
const IN_USE: AccessUse = { draining: false, fading: false }
const FREE: LinkTerms = { reserve: false, weight: 1 }
const UNKNOWN_ACCESS = { use: IN_USE, terms: FREE, priority: LEAST_PRIORITY }
/** The other end probes a path that is to be probed seldom: it probes this one by itself only this often. */
const SELDOM_MS = 60_000

interface RouterPath {
  readonly slot: number
  readonly pathId: number
  readonly access: string
  view: PathView
  loss: number
  use: AccessUse
  terms: LinkTerms
  priority: number
  /** Name of the access below it at the end that opened it; empty until that is told. */
  link: string
  readonly rate: PathRate
}

interface PlanState {
  mode: Mode
  plan: Plan | undefined
  memory: PlanMemory
}

interface Peer {
  readonly index: number
  readonly name: string
  /** This end names the paths, and says how they are to be used. */
  readonly leads: boolean
  readonly paths: Map<number, RouterPath>
  readonly clock: ClockBase
  plans: PlanState[]
  replanAt: number
  plannedAt: number
  /** PATH_USE not yet acknowledged. */
  sequence: number
  unanswered: number
  sendUseAt: number
  drainedAt: number
  /** The other end uses the paths as it was told last, and nothing of before is under way. */
  agreed: boolean
  /** Classes for which the other end prefers a path: class → path id. */
  preferred: ReadonlyMap<string, number>
  /** PATH_USE that was obeyed last; undefined before the first, and when the other end has restarted. */
  obeyed: number | undefined
  established: boolean
  carried: boolean
  /** Since when no path to it is usable; NaN while one is, and until the first is. */
  bareSince: number
}

export interface RouterMachineParts {
  readonly tunnel: Pick<TunnelCommands, 'sendFrames'>
  readonly forwarder: RoutingForwarder
  /** What still waits for the one path goes on the other now. */
  readonly redirect: (from: number, to: number) => void
  /** A path is usable again: parked packets may go. */
  readonly retryParked: () => void
  /** Milliseconds between probes of a path that stands by; undefined: as usual. */
  readonly setStandby: (slot: number, ms: number | undefined) => void
}

const NEVER = Number.POSITIVE_INFINITY

export class RouterMachine {
  readonly #parts: RouterMachineParts
  /** How often no path to a peer was usable though one had been, and for how long in all. */
  readonly counts = { bare: 0, bareMs: 0 }
  readonly #peers = new Map<number, Peer>()
  readonly #events: RouterEvent[] = []
  #classes: readonly ClassSetup[] = []
  /** By access: what the owner said of it. */
  readonly #accesses = new Map<string, { use: AccessUse; terms: LinkTerms; priority: number }>()
  #preferred: string | undefined
  /** Class → the access that it was moved to by hand. */
  readonly #preferredOf = new Map<string, string>()
  /** A class was moved by itself since the start: the other end has to hear when that ends, too. */
  #movedClasses = false

  constructor(parts: RouterMachineParts) {
    this.#parts = parts
  }

  poll(): RouterEvent | undefined {
    return this.#events.shift()
  }

  nextTimeout(): number | undefined {
    let at = NEVER
    for (const peer of this.#peers.values()) {
      at = Math.min(at, peer.replanAt, peer.sendUseAt, peer.drainedAt)
      for (const path of peer.paths.values()) at = Math.min(at, this.#lateAt(path))
    }
    return at === NEVER ? undefined : at
  }

  handleTimeout(now: number): void {
    for (const peer of this.#peers.values()) {
      if (peer.replanAt <= now) this.#plan(peer, now, 'time')
      if (peer.sendUseAt <= now) this.#sendUse(peer, now)
      for (const path of peer.paths.values()) {
        if (this.#lateAt(path) > now) continue
        path.rate.late(this.#parts.forwarder.lanes.usedSince[path.slot]!, now)
        this.#setLane(path)
      }
      if (peer.drainedAt <= now) {
        peer.drainedAt = NEVER
        peer.agreed = true
        for (const path of peer.paths.values())
          if (path.use.draining && this.#allAgree(path.access))
            this.#events.push({ type: 'drained', access: path.access })
      }
    }
  }

  addPeer(index: number, name: string, leads: boolean): void {
    this.#peers.set(index, {
      index,
      name,
      leads,
      paths: new Map(),
      clock: {},
      plans: this.#freshPlans(),
      replanAt: NEVER,
      plannedAt: 0,
      sequence: 0,
      unanswered: 0,
      sendUseAt: NEVER,
      drainedAt: NEVER,
      agreed: false,
      preferred: new Map(),
      obeyed: undefined,
      established: false,
      carried: false,
      bareSince: Number.NaN,
    })
  }

  setClasses(classes: readonly ClassSetup[], now: number): void {
    this.#classes = classes
    this.#parts.forwarder.setClasses(classes)
    for (const peer of this.#peers.values()) {
      peer.plans = this.#freshPlans()
      this.#plan(peer, now, 'classes')
    }
  }

  /** False when there is no such class. */
  setMode(name: string, mode: Mode, now: number): boolean {
    const index = this.#classes.findIndex((each) => each.name === name)
    if (index < 0) return false
    this.#classes = this.#classes.map((each, i) => (i === index ? { ...each, mode } : each))
    for (const peer of this.#peers.values()) {
      peer.plans[index] = { ...peer.plans[index]!, mode }
      this.#plan(peer, now, 'changed by hand')
    }
    return true
  }

  /** A path of ours is open. */
  addPath(view: PathView, access: string, now: number): void {
    this.#seen(view, access)
    const peer = this.#peers.get(view.peer)
    if (peer !== undefined) this.#plan(peer, now, `path over ${access}`)
  }

  setAccess(name: string, priority: number, now: number): void {
    const known = this.#accesses.get(name)
    if (known?.priority === priority) return
    this.#accesses.set(name, { ...UNKNOWN_ACCESS, ...known, priority })
    this.#applyUse(now)
  }

  /** What an access may be used for. */
  setTerms(name: string, terms: LinkTerms, now: number): void {
    const known = this.#accesses.get(name)
    this.#accesses.set(name, { ...UNKNOWN_ACCESS, ...known, terms })
    this.#applyUse(now, `${name} ${terms.reserve ? 'is for when nothing else works' : 'may be used'}`)
  }

  setUse(name: string, use: AccessUse, now: number): void {
    this.#accesses.set(name, { ...UNKNOWN_ACCESS, ...this.#accesses.get(name), use })
    const what = use.draining ? 'is being left' : use.fading ? 'is fading' : 'is well'
    this.#applyUse(now, `${name} ${what}`)
  }

  /** By hand: this access before all others, for these classes or for everything. */
  prefer(access: string, now: number, classes?: readonly string[]): void {
    if (classes === undefined) {
      this.#preferred = access
      this.#preferredOf.clear()
    } else {
      this.#movedClasses = true
      for (const name of classes) this.#preferredOf.set(name, access)
    }
    for (const peer of this.#peers.values())
      for (const [index, plan] of peer.plans.entries())
        if (classes === undefined || classes.includes(this.#classes[index]!.name))
          plan.memory = { ...plan.memory, current: -1 }
    this.#applyUse(now, 'moved by hand')
  }

  accessOf(slot: number): string {
    for (const peer of this.#peers.values()) {
      const path = peer.paths.get(slot)
      if (path !== undefined) return path.access
    }
    return ''
  }

  useOf(slot: number): AccessUse {
    for (const peer of this.#peers.values()) {
      const path = peer.paths.get(slot)
      if (path !== undefined) return path.use
    }
    return IN_USE
  }

  pathsOf(access: string): { readonly slot: number }[] {
    return [...this.#peers.values()].flatMap((peer) =>
      [...peer.paths.values()].filter((path) => path.access === access),
    )
  }

  peerReports(): { readonly name: string; readonly established: boolean }[] {
    return [...this.#peers.values()].map(({ name, established }) => ({ name, established }))
  }

  classReports(): ClassReport[] {
    return [...this.#peers.values()].flatMap((peer) =>
      this.#classes.map(({ name }, index) => {
        const state = peer.plans[index]
        const label = (slot: number) => peer.paths.get(slot)?.access ?? String(slot)
        const counts = this.#parts.forwarder.scheduler(peer.index, index)?.counts
        return {
          peer: peer.name,
          name,
          mode: state?.mode ?? 'failover',
          carriers: state?.plan?.carriers.map(label) ?? [],
          copies: state?.plan?.copies.map(label) ?? [],
          reason: state?.plan?.reason ?? 'no path yet',
          bytes: counts?.bytes ?? 0,
          copiedBytes: counts?.copiedBytes ?? 0,
        }
      }),
    )
  }

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    const peer = this.#peers.get(event.peer)
    if (peer === undefined) return
    switch (event.type) {
      case 'session':
        peer.established = event.up
        break
      case 'hello':
        if (event.restarted) peer.obeyed = undefined
        this.#useChanged(peer, now)
        break
      case 'path': {
        const known = peer.paths.get(event.path.slot)
        // Ours are known from `addPath` on.
        if (peer.leads && known === undefined) break
        this.#seen(event.path, known?.access ?? `path ${event.path.pathId}`)
        this.#plan(peer, now, `${this.accessOf(event.path.slot)} is ${event.path.state.name}`)
        if (event.path.state.name === 'up') {
          this.#useChanged(peer, now)
          this.#parts.retryParked()
        } else if (event.path.state.name === 'suspect') this.#useChanged(peer, now)
        break
      }
      case 'path-closed':
        peer.paths.delete(event.slot)
        this.#plan(peer, now, 'a path has closed')
        break
      case 'sample': {
        const path = peer.paths.get(event.slot)
        if (path === undefined) break
        path.rate.sample(event, now)
        this.#setLane(path)
        const jump = Math.abs(path.loss - event.loss) > 0.003
        path.loss = event.loss
        path.view = {
          ...path.view,
          rttMs: Number.isNaN(path.view.rttMs) ? event.rttMs : 0.8 * path.view.rttMs + 0.2 * event.rttMs,
        }
        if (jump) this.#plan(peer, now, 'loss')
        else peer.replanAt = Math.min(peer.replanAt, Math.max(now, peer.plannedAt + REPLAN_MS))
        break
      }
      case 'frame':
        if (event.code === PATH_USE) this.#heardUse(peer, event.body, now)
        else if (event.code === PATH_NAMES) this.#heardNames(peer, event.body, now)
        else if (event.code === CLASS_PATHS) this.#heardClassPaths(peer, event.body, now)
        else if (event.code === PATH_USE_ACK && decodeAck(event.body) === peer.sequence) {
          peer.sendUseAt = NEVER
          peer.drainedAt = now + flight(peer)
        }
        break
      default:
        break
    }
  }

  #setLane({ slot, rate: { rate, delayMs, queueMs, known } }: RouterPath): void {
    this.#parts.forwarder.lanes.set(slot, rate, delayMs + queueMs, known)
  }

  /** When a measurement of a path that has carried data since the last one is late. */
  #lateAt({ slot, rate }: RouterPath): number {
    const { freeAt, usedSince } = this.#parts.forwarder.lanes
    if (freeAt[slot]! <= rate.sampledAt) return NEVER
    const at = rate.lateAt(usedSince[slot]!)
    return freeAt[slot]! + IDLE_MS > at ? at : NEVER
  }

  #freshPlans(): PlanState[] {
    return this.#classes.map(({ mode }) => ({ mode, plan: undefined, memory: NO_PLAN_MEMORY }))
  }

  #seen(view: PathView, access: string): void {
    const peer = this.#peers.get(view.peer)
    if (peer === undefined) return
    const known = peer.paths.get(view.slot)
    if (known !== undefined) {
      known.view = view
      return
    }
    this.#parts.forwarder.lanes.set(view.slot, 0, Number.NaN, false)
    this.#parts.forwarder.lanes.clear(view.slot)
    peer.paths.set(view.slot, {
      slot: view.slot,
      pathId: view.pathId,
      access,
      view,
      loss: view.loss,
      use: this.#accesses.get(access)?.use ?? IN_USE,
      terms: this.#accesses.get(access)?.terms ?? FREE,
      priority: this.#priority(access),
      link: peer.leads ? access : '',
      rate: new PathRate(peer.clock),
    })
  }

  #priority(access: string): number {
    return access === this.#preferred ? 0 : (this.#accesses.get(access)?.priority ?? LEAST_PRIORITY)
  }

  #applyUse(now: number, cause = 'access'): void {
    for (const peer of this.#peers.values()) {
      for (const path of peer.paths.values()) {
        if (!peer.leads) continue
        path.use = this.#accesses.get(path.access)?.use ?? IN_USE
        path.terms = this.#accesses.get(path.access)?.terms ?? FREE
        this.#parts.setStandby(path.slot, path.terms.standbyMs)
        path.priority = this.#priority(path.access)
      }
      this.#plan(peer, now, cause)
      this.#useChanged(peer, now)
    }
  }

  /** Nothing goes over an access any more when every peer reached over it has agreed. */
  #allAgree(access: string): boolean {
    for (const { leads, agreed, paths } of this.#peers.values()) {
      if (!leads || agreed) continue
      for (const path of paths.values()) if (path.access === access) return false
    }
    return true
  }

  /** The other end is told how the paths are to be used, until it has agreed. */
  #useChanged(peer: Peer, now: number): void {
    if (!peer.leads) return
    peer.sequence = (peer.sequence + 1) >>> 0
    peer.unanswered = 0
    peer.drainedAt = NEVER
    peer.agreed = false
    this.#sendUse(peer, now)
  }

  #sendUse(peer: Peer, now: number): void {
    peer.sendUseAt = peer.unanswered++ < USE_TRIES ? now + USE_RETRY_MS : NEVER
    // What has fallen silent here may be dead: the other end need not wait until that is certain.
    const paths = [...peer.paths.values()].map(({ pathId, use, terms, priority, view }) => ({
      pathId,
      draining: use.draining || terms.reserve || view.state.name === 'suspect',
      fading: use.fading,
      reserve: terms.reserve,
      seldom: terms.standbyMs !== undefined,
      weight: terms.weight,
      priority: Math.min(255, priority),
    }))
    const names = [...peer.paths.values()].map(({ pathId, link }) => ({ pathId, name: link }))
    this.#send(peer, PATH_NAMES, encodePathNames(names), now)
    const moved = [...this.#preferredOf].flatMap(([name, access]) => {
      const path = [...peer.paths.values()].find((each) => each.access === access)
      return path === undefined ? [] : [{ pathId: path.pathId, name }]
    })
    if (this.#movedClasses) this.#send(peer, CLASS_PATHS, encodePathNames(moved), now)
    this.#send(peer, PATH_USE, encodePathUse(peer.sequence, paths), now)
  }

  /** Alone in its datagram: only there a mechanism's frame counts. */
  #send(peer: Peer, code: number, body: Uint8Array, now: number): void {
    const frame = { type: 'mechanism' as const, code, body }
    this.#parts.tunnel.sendFrames(peer.index, encodeFrames([frame]), -1, now)
  }

  #heardClassPaths(peer: Peer, body: Uint8Array, now: number): void {
    const paths = decodePathNames(body)
    if (!paths.ok || peer.leads) return
    // Of classes that are none here nothing is kept.
    const known = paths.value.filter(({ name }) => this.#classes.some((each) => each.name === name))
    const preferred = new Map(known.map(({ name, pathId }) => [name, pathId]))
    for (const [index, { name }] of this.#classes.entries()) {
      const state = peer.plans[index]
      if (state !== undefined && preferred.get(name) !== peer.preferred.get(name))
        state.memory = { ...state.memory, current: -1 }
    }
    peer.preferred = preferred
    this.#plan(peer, now, 'the other end asks for it')
  }

  /** Whether the class was moved to this path by hand, here or at the other end. */
  #isPreferred(peer: Peer, path: RouterPath, name: string): boolean {
    return peer.leads ? this.#preferredOf.get(name) === path.access : peer.preferred.get(name) === path.pathId
  }

  #heardNames(peer: Peer, body: Uint8Array, now: number): void {
    const names = decodePathNames(body)
    if (!names.ok || peer.leads) return
    let changed = false
    for (const { pathId, name } of names.value)
      for (const path of peer.paths.values()) {
        if (path.pathId !== pathId || path.link === name) continue
        path.link = name
        changed = true
      }
    if (changed) this.#plan(peer, now, 'the other end names its links')
  }

  #heardUse(peer: Peer, body: Uint8Array, now: number): void {
    const use = decodePathUse(body)
    if (!use.ok || peer.leads) return
    const { sequence, paths } = use.value
    // Two that were sent over different paths may overtake each other: the older one says nothing any more.
    if (peer.obeyed !== undefined && (sequence - peer.obeyed) >> 0 < 0) return
    peer.obeyed = sequence
    for (const { pathId, draining, fading, reserve, seldom, weight, priority } of paths)
      for (const path of peer.paths.values()) {
        if (path.pathId !== pathId) continue
        path.use = { draining, fading }
        path.terms = { reserve, weight }
        path.priority = priority
        this.#parts.setStandby(path.slot, seldom ? SELDOM_MS : undefined)
      }
    this.#plan(peer, now, 'the other end asks for it')
    this.#send(peer, PATH_USE_ACK, encodeAck(sequence), now)
  }

  #plan(peer: Peer, now: number, cause: string): void {
    peer.replanAt = NEVER
    peer.plannedAt = now
    const facts: PathFacts[] = [...peer.paths.values()].map((path) => ({
      slot: path.slot,
      name: path.access,
      state: path.view.state.name,
      draining: path.use.draining || path.terms.reserve,
      fading: path.use.fading,
      reserve: path.terms.reserve,
      weight: path.terms.weight,
      priority: path.priority,
      rttMs: path.view.rttMs,
      loss: path.loss,
      bestRttMs: path.rate.bestRttMs,
      queued: now - path.rate.queuedAt < OVERFLOW_MS,
    }))
    const factsOf = ({ name, links = [] }: ClassSetup): PathFacts[] =>
      facts.flatMap((each) => {
        const path = peer.paths.get(each.slot)!
        if (links.length > 0 && path.link !== '' && !matchesAny(links, path.link)) return []
        return this.#isPreferred(peer, path, name) ? [{ ...each, priority: -1 }] : [each]
      })
    for (const [index, state] of peer.plans.entries()) {
      const { plan, memory } = planPaths(state.mode, factsOf(this.#classes[index]!), state.memory, now)
      const before = state.plan
      state.plan = plan
      state.memory = memory
      if (plan.until !== undefined) peer.replanAt = Math.min(peer.replanAt, Math.max(plan.until, now + 1))
      this.#parts.forwarder.scheduler(peer.index, index)?.follow(state.mode, plan)
      this.#tell(peer, index, before, plan, cause)
    }
    this.#checkUsable(peer, now)
    this.#redirect(peer)
  }

  /** OH-22: at least one path is usable at every instant. When that does not hold it is said, and how long it lasted. */
  #checkUsable(peer: Peer, now: number): void {
    // A class that may not use all links says nothing of the others.
    const { plan } = peer.plans.find((_, index) => (this.#classes[index]!.links ?? []).length === 0) ?? {}
    if (plan === undefined) return
    const bare = plan.carriers.length === 0 || plan.lastResort === true
    if (!bare) peer.carried = true
    if (bare === !Number.isNaN(peer.bareSince)) return
    const paths = [...peer.paths.values()]
    if (bare) {
      if (!peer.carried) return // it has not come up yet
      peer.bareSince = now
      this.counts.bare++
      const states = paths.map(({ access, view }) => `${access} is ${view.state.name}`).join(', ')
      const reason = `nothing usable to ${peer.name}: ${states || 'no access'}`
      this.#events.push({
        type: 'decision',
        subject: { kind: 'peer', name: peer.name },
        chosen: 'none',
        reason,
        evidence: { peer: peer.name },
      })
      return
    }
    const ms = Math.round(now - peer.bareSince)
    peer.bareSince = Number.NaN
    this.counts.bareMs += ms
    const chosen = paths.find(({ slot }) => slot === plan.carriers[0])?.access ?? ''
    const reason = `${peer.name} is reached again, after ${ms} ms without a usable path`
    const subject = { kind: 'peer', name: peer.name } as const
    this.#events.push({ type: 'decision', subject, chosen, reason, evidence: { peer: peer.name, ms } })
  }

  /** What waits for a path that carries no class any more goes at once, where traffic goes now. */
  #redirect(peer: Peer): void {
    const carriers = peer.plans.flatMap(({ plan }) => plan?.carriers ?? [])
    for (const { slot } of peer.paths.values()) {
      if (carriers.includes(slot)) continue
      this.#parts.redirect(slot, carriers[0] ?? slot)
      this.#parts.forwarder.lanes.clear(slot)
    }
  }

  /** A decision is told when the paths in use changed, not when only shares did. */
  #tell(peer: Peer, index: number, before: Plan | undefined, plan: Plan, cause: string): void {
    const label = (slot: number) => peer.paths.get(slot)?.access ?? `path in slot ${slot}`
    const list = (each: Plan | undefined) =>
      each === undefined ? '' : [...each.carriers, ...each.copies].map(label).join('+')
    const [from, to] = [list(before), list(plan)]
    if (from === to) return
    const subject = { kind: 'policy', name: this.#classes[index]!.name, peer: peer.name } as const
    const evidence: Record<string, string | number> = { peer: peer.name, cause, from }
    for (const path of peer.paths.values()) {
      evidence[`${path.access}.state`] = path.view.state.name
      evidence[`${path.access}.loss`] = Math.round(path.loss * 1000) / 1000
      evidence[`${path.access}.rtt_ms`] = Math.round(path.view.rttMs * 10) / 10
    }
    this.#events.push({ type: 'decision', subject, chosen: to || 'none', reason: plan.reason, evidence })
    if (from !== '' && to !== '') this.#events.push({ type: 'handover', subject, from, to, cause })
  }
}

/** How long what the other end has sent over paths that are being left may be under way. */
function flight(peer: Peer): number {
  let ms = FLIGHT_MS
  for (const { use, view } of peer.paths.values()) if (use.draining && view.rttMs > ms) ms = view.rttMs
  return ms
}
