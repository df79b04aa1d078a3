/**
 * The access networks of this host, live: AccessMachine fed from rtnetlink, and the policy routing that follows it.
 *
 * Handovers depend on the order of events: the loss of an access is reported before anything else is done; a new access
 * is reported after its routing table is complete, so that a socket bound to it works at once.
 */
import { contains, parseAddress, parsePrefix } from '../core/address.ts'
import type { Clock } from '../core/clock.ts'
import type { AccessStatus } from '../core/mechanism.ts'
import { ClockWatch, type WatchedClock } from '../linux/clock.ts'
import type { Guarded } from '../linux/guard.ts'
import { Ledger, PROTOCOL } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import type { Address, Route, Rtnl, RtnlEvent, RuleSpec } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import {
  type Access,
  type AccessEvent,
  type AccessInit,
  AccessMachine,
  type AccessQuality,
  MAIN_TABLE,
  type UnusedInterface,
  type UsableInterface,
} from './machine.ts'
import { describeObstacle, type Obstacle, obstaclesOf } from './obstacles.ts'
import { AccessRouting } from './routing.ts'

export interface AccessMonitorComponents {
  readonly rtnl: Rtnl
  readonly clock: WatchedClock
  /** Without it reverse-path filters are left as they are. */
  readonly sysctls?: Sysctls
  /** Restores what another program removes; the returned function ends this. Absent: nothing is restored. */
  readonly protect?: (guarded: Guarded) => () => void
  /** Told what went wrong and was survived; one line. */
  readonly report?: (message: string) => void
}

export interface AccessMonitorInit extends AccessInit {
  /** Numbers of rules and tables; absent: those of the default instance. */
  readonly ledger?: Ledger
  /**
   * `false`: no rules and tables, the kernel is not changed; `on demand`: while `useRouting` is held. Default: while it
   * runs.
   */
  readonly routing?: boolean | 'on demand'
}

/** An address of this host and where packets from it go. */
export interface SourceAddress {
  readonly family: 4 | 6
  readonly address: string
  readonly table: number
  /** The access that has it. */
  readonly access?: string
}

export type AccessListener = (event: AccessEvent) => void

/** After a change, for what Linux changes without an event (IPv4 routes that go with an address), milliseconds. */
const REREAD_MS = 20
/** Interval for checking whether the host slept, unless somebody reports it; network events trigger the check as well. */
const CLOCK_CHECK_MS = 2000
/**
 * Interval (ms) for reading carriers while traffic flows. Linux reports a lost carrier up to a second late (linkwatch
 * treats losses as not urgent); reading takes about 20 µs and is up to date.
 */
const CARRIER_CHECK_MS = 15
/** Shorter sleeps are a stopped debugger or a busy machine. */
const SLEPT_MS = 1000
/** Tables of others that are read with each change. */
const MOST_TABLES = 16
/** Every packet is compared with a rule for each. Accesses come first. */
const MOST_SOURCES = 256

export class AccessMonitor {
  readonly #rtnl: Rtnl
  readonly #clock: Clock
  readonly #watch: ClockWatch
  readonly #machine: AccessMachine<Route>
  readonly #routing: AccessRouting | undefined
  readonly #ledger: Ledger
  /** By access: what other programs have put before our rules. */
  #obstacles: ReadonlyMap<string, readonly Obstacle[]> = new Map()
  readonly #report: (message: string) => void
  readonly #listeners = new Set<AccessListener>()
  readonly #protect: AccessMonitorComponents['protect']
  #unprotect: (() => void) | undefined
  readonly #watchers = new Set<() => void>()
  readonly #details = new Map<string, object>()
  #linkUsers = 0
  #clockReporters = 0
  /** Number of users of rules and tables. */
  #routers: number
  #running: AbortController | undefined
  #reread: NodeJS.Timeout | undefined
  #settling: NodeJS.Timeout | undefined
  #clockCheck: NodeJS.Timeout | undefined
  #carrierCheck: NodeJS.Timeout | undefined

  constructor(components: AccessMonitorComponents, init: AccessMonitorInit = {}) {
    this.#rtnl = components.rtnl
    this.#clock = components.clock
    this.#watch = new ClockWatch(components.clock)
    this.#report = components.report ?? (() => {})
    this.#protect = components.protect
    this.#routers = init.routing === 'on demand' ? 0 : 1
    this.#machine = new AccessMachine(init)
    this.#ledger = init.ledger ?? new Ledger()
    if (init.routing !== false)
      this.#routing = new AccessRouting(components.rtnl, this.#ledger, this.#report, components.sysctls)
  }

  /**
   * Reads the current state, sets up routing and reports every access; afterwards listeners get changes, on this thread.
   * Throws KernelError when the kernel cannot be read or watched. `signal` stops it.
   */
  start(options: { readonly signal?: AbortSignal } = {}): void {
    if (this.#running !== undefined || options.signal?.aborted === true) return
    const running = new AbortController()
    this.#running = running
    try {
      // Watching first: what changes while we read comes again as an event.
      this.#rtnl.watch(['link', 'address', 'route', 'rule'], (event) => this.#handle(event), {
        signal: running.signal,
      })
      this.#read()
    } catch (error) {
      this.stop()
      throw error
    }
    this.#unprotect = this.#protect?.({
      name: 'access networks',
      devices: () => [],
      restore: () => (this.#routers > 0 ? (this.#routing?.restore() ?? []) : []),
    })
    this.#armClockCheck()
    options.signal?.addEventListener('abort', () => this.stop(), { once: true, signal: running.signal })
  }

  /** Stops watching. Routing stays as it is, so that connections outlive the daemon; `cleanUp` removes it. */
  stop(): void {
    this.#unprotect?.()
    this.#unprotect = undefined
    this.#running?.abort()
    this.#running = undefined
    clearTimeout(this.#reread)
    clearTimeout(this.#settling)
    this.#settling = undefined
    clearInterval(this.#clockCheck)
    this.setTraffic(false)
    this.#reread = undefined
    this.#clockCheck = undefined
  }

  /** Somebody calls `checkClock` when the machine may have slept, until the returned function is called. */
  useClockEvents(): () => void {
    this.#clockReporters++
    this.#armClockCheck()
    let done = false
    return () => {
      if (done) return
      done = true
      this.#clockReporters--
      this.#armClockCheck()
    }
  }

  #armClockCheck(): void {
    clearInterval(this.#clockCheck)
    this.#clockCheck = undefined
    if (this.#running !== undefined && this.#clockReporters === 0)
      this.#clockCheck = setInterval(() => this.checkClock(), CLOCK_CHECK_MS)
  }

  /** Rules and tables for sockets that are bound to an access, until the returned function is called. */
  useRouting(): () => void {
    this.#routers++
    if (this.#running !== undefined) this.#attempt(() => this.#route())
    let done = false
    return () => {
      if (done) return
      done = true
      if (--this.#routers === 0) this.#routing?.cleanUp()
    }
  }

  /** Status shows interfaces that lead to their own link alone too, from now on until the returned function is called. */
  useLinks(): () => void {
    this.#linkUsers++
    return () => this.#linkUsers--
  }

  /** Other interfaces are accesses, or may not be, from now on (`AccessInit`). */
  setPatterns(patterns: { readonly named: readonly string[]; readonly never: readonly string[] }): void {
    this.#machine.setPatterns(patterns)
    if (this.#running !== undefined) this.#attempt(() => this.#read())
  }

  /** Calls `listener` after anything changed in links, addresses or routes of main, accesses or not. */
  watch(listener: () => void): () => void {
    this.#watchers.add(listener)
    return () => this.#watchers.delete(listener)
  }

  /** What can carry traffic now: accesses, and interfaces that reach only their own link. */
  usable(): UsableInterface[] {
    return this.#machine.usable()
  }

  /** Adds details to the status of an access (`status --json`), for example of its radio. Undefined: none. */
  describe(name: string, details: object): void {
    this.#details.set(name, { ...this.#details.get(name), ...details })
  }

  /** Accesses as status shows them. */
  status(): AccessStatus[] {
    const accesses: AccessStatus[] = this.#machine.accesses().map((access) => {
      const { rttMs, loss } = this.#machine.quality(access.name)
      const obstacles = this.obstacles(access.name).map(describeObstacle)
      return {
        name: access.name,
        state: access.state,
        addresses: access.addresses.map(({ address, prefixLength }) => `${address}/${prefixLength}`),
        rtt_ms: Number.isFinite(rttMs) ? rttMs : null,
        loss: Number.isFinite(loss) ? loss : null,
        reason: access.reason,
        ...(obstacles.length > 0 && { obstacle: obstacles.join('; ') }),
        ...this.#details.get(access.name),
      }
    })
    return this.#linkUsers === 0 ? accesses : accesses.concat(this.#linksBeside(accesses))
  }

  /** What other programs have put before our rules that stops what leaves over an access. */
  obstacles(name: string): readonly Obstacle[] {
    return this.#obstacles.get(name) ?? []
  }

  /** Interfaces that are no accesses, and why. */
  unused(): UnusedInterface[] {
    return this.#machine.unused()
  }

  #linksBeside(accesses: readonly AccessStatus[]): AccessStatus[] {
    const known = new Set(accesses.map(({ name }) => name))
    return this.#machine.usable().flatMap(({ link: { name }, addresses }) => {
      const own = addresses.filter(({ scope, tentative }) => scope === 'global' && !tentative)
      if (known.has(name) || own.length === 0) return []
      const texts = own.map(({ address, prefixLength }) => `${address}/${prefixLength}`)
      const reason = 'no default route'
      return [{ name, state: 'up' as const, addresses: texts, rtt_ms: null, loss: null, reason }]
    })
  }

  /** Removes rules, tables and settings, also those of an earlier run. Repeatable. */
  cleanUp(): void {
    this.#routing?.cleanUp()
  }

  /** Calls `listener` for every event from now on; the returned function ends it. */
  subscribe(listener: AccessListener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  accesses(): Access[] {
    return this.#machine.accesses()
  }

  access(name: string): Access | undefined {
    return this.#machine.access(name)
  }

  /**
   * Addresses of this host, and of translators of IPv4 on it, with the table for packets from each: that of its access, main
   * for other interfaces, none for godwit's own. If two accesses have the same address, the better one gets it.
   */
  sources(): SourceAddress[] {
    const out = new Map<string, SourceAddress>()
    for (const access of this.#machine.accesses().sort(byPreference)) {
      const table = this.table(access.name)
      if (table === undefined) continue
      for (const { family, address } of access.addresses)
        if (!out.has(address)) out.set(address, { family, address, table, access: access.name })
    }
    for (const { address, access } of this.#machine.translators()) {
      const table = this.table(access)
      if (table !== undefined && !out.has(address)) out.set(address, { family: 6, address, table })
    }
    for (const { family, address } of this.#machine.addresses())
      if (!out.has(address)) out.set(address, { family, address, table: MAIN_TABLE })
    return [...out.values()].slice(0, MOST_SOURCES)
  }

  /** The access that the main table prefers now. */
  preferred(): Access | undefined {
    return this.#machine
      .accesses()
      .filter(({ state }) => state !== 'down')
      .sort(byPreference)[0]
  }

  /** Routes of the main table, one for each next hop. */
  mainRoutes(): Route[] {
    return this.#machine.mainRoutes()
  }

  /** The last value of `setQuality`. */
  quality(name: string): AccessQuality {
    return this.#machine.quality(name)
  }

  /** The routing table that sockets bound to this access use. */
  table(name: string): number | undefined {
    return this.#routing?.table(name)
  }

  /** Sets measurements of the paths over an access; called by their owner when they change. */
  setQuality(name: string, quality: AccessQuality): void {
    this.#machine.handleQuality(name, quality, this.#clock.now())
    this.#settle(false)
  }

  /** Ask traffic to leave an access while it works (OH-24); false when there is no such access. */
  setDraining(name: string, draining: boolean): boolean {
    const known = this.#machine.setDraining(name, draining, this.#clock.now())
    this.#settle(false)
    return known
  }

  /**
   * Whether traffic flows over any access. Meanwhile a lost carrier is noticed within CARRIER_CHECK_MS; without traffic
   * the kernel's event is soon enough, and an idle host sleeps.
   */
  setTraffic(flows: boolean): void {
    if (flows === (this.#carrierCheck !== undefined)) return
    clearInterval(this.#carrierCheck)
    this.#carrierCheck = flows ? setInterval(() => this.checkCarriers(), CARRIER_CHECK_MS) : undefined
  }

  /** Reads the carriers of the accesses that are not down; reports those that are lost. */
  checkCarriers(): void {
    this.#attempt(() => {
      let lost = false
      for (const access of this.#machine.accesses()) {
        if (access.state === 'down') continue
        const link = this.#rtnl.link(access.ifindex)
        if (link === undefined) return this.#read()
        if (link.up && link.carrier) continue
        this.#machine.handleEvent({ type: 'link', link }, this.#clock.now())
        lost = true
      }
      if (lost) this.#settle(false)
    })
  }

  #handle(event: RtnlEvent): void {
    if (this.#running === undefined) return
    this.checkClock()
    if (event.type === 'resync') {
      this.#attempt(() => this.#read())
      return
    }
    if ('rule' in event) {
      if (event.rule.origin !== PROTOCOL) this.#readSoon()
      return
    }
    const now = this.#clock.now()
    if ('route' in event) {
      for (const route of eachHop(event.route)) this.#machine.handleEvent({ type: event.type, route }, now)
    } else this.#machine.handleEvent(event, now)
    this.#attempt(() => this.#settle(false))
    // Our own tables change because of us.
    if ('route' in event && !this.#machine.follows(event.route.table)) {
      if (event.route.dev === undefined && event.route.protocol !== PROTOCOL) this.#readSoon()
      return
    }
    this.#changed()
    this.#readSoon()
  }

  #readSoon(): void {
    this.#reread ??= setTimeout(() => {
      this.#reread = undefined
      this.#attempt(() => this.#read())
    }, REREAD_MS)
  }

  #read(): void {
    const addresses = this.#rtnl.addresses()
    const links = this.#rtnl.links()
    const ofVrfs = links.flatMap(({ vrfTable }) => vrfTable ?? [])
    const tables = new Set([
      ...tablesBySource(this.#rtnl.rules(), addresses),
      ...ofVrfs.slice(0, MOST_TABLES),
    ])
    const snapshot = {
      links,
      addresses,
      tables,
      routes: [MAIN_TABLE, ...tables].flatMap((table) => this.#rtnl.routes({ table }).flatMap(eachHop)),
    }
    this.#machine.handleSnapshot(snapshot, this.#clock.now())
    this.#settle(true)
    this.#lookForObstacles()
    this.#changed()
  }

  /** What is new is reported, once for all accesses that it stops. */
  #lookForObstacles(): void {
    const known = new Set([...this.#obstacles.values()].flat().map(({ what }) => what))
    const found = new Map<string, readonly Obstacle[]>()
    const stopped = new Map<string, { readonly obstacle: Obstacle; readonly names: string[] }>()
    for (const access of this.#machine.accesses()) {
      if (access.state === 'down') continue
      const { first } = this.#ledger.access
      const before = (this.table(access.name) ?? first + 1) - 1
      const obstacles = this.#obstaclesOf(access, before)
      if (obstacles.length > 0) found.set(access.name, obstacles)
      for (const obstacle of obstacles) {
        const { names } = stopped.get(obstacle.what) ?? { names: [] }
        stopped.set(obstacle.what, { obstacle, names: [...names, access.name] })
      }
    }
    this.#obstacles = found
    for (const { obstacle, names } of stopped.values())
      if (!known.has(obstacle.what)) this.#report(`${names.join(', ')}: ${describeObstacle(obstacle)}`)
  }

  /** An interface that has just gone is asked about once more by the next event. */
  #obstaclesOf(access: Access, before: number): readonly Obstacle[] {
    try {
      return obstaclesOf(this.#rtnl, access, this.#ledger.anchoring.bypassMark, before)
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      return []
    }
  }

  #changed(): void {
    for (const watcher of [...this.#watchers]) watcher()
  }

  /** Tells what the machine found; `always` brings routing up to date even when no access changed. */
  #settle(always: boolean): void {
    const bad: AccessEvent[] = []
    const good: AccessEvent[] = []
    for (let event = this.#machine.poll(); event !== undefined; event = this.#machine.poll())
      if (event.type === 'access' && event.access.state === 'down') bad.push(event)
      else good.push(event)
    this.#emit(bad)
    try {
      if (always || bad.length > 0 || good.length > 0) this.#route()
    } finally {
      this.#forgetUnanswered(good)
      this.#emit(good)
      this.#waitForTimeout()
    }
  }

  /**
   * What was sent while there was no carrier has left a gateway's entry unanswered, and the kernel would ask again only when its time
   * has come: the first packets would wait for that.
   */
  #forgetUnanswered(events: readonly AccessEvent[]): void {
    if (this.#routing === undefined || this.#routers === 0) return
    for (const event of events)
      if (event.type === 'access' && (event.cause === 'carrier' || event.cause === 'link up'))
        this.#attempt(() => this.#rtnl.flushNeighbours(event.access.name))
  }

  #waitForTimeout(): void {
    const next = this.#machine.nextTimeout()
    clearTimeout(this.#settling)
    if (next === undefined || this.#running === undefined) return
    this.#settling = setTimeout(
      () => {
        this.#machine.handleTimeout(this.#clock.now())
        this.#attempt(() => this.#settle(false))
      },
      Math.max(0, next - this.#clock.now()),
    )
  }

  #route(): void {
    if (this.#routers === 0) return
    this.#routing?.apply(
      this.#machine.accesses().map((access) => ({
        access,
        routes: access.state === 'down' ? [] : this.#machine.routes(access.name),
      })),
      this.#machine.sharing(),
    )
    if (this.#routing?.isInDoubt === true) this.#readSoon()
  }

  #emit(events: readonly AccessEvent[]): void {
    for (const event of events) for (const listener of [...this.#listeners]) listener(event)
  }

  /** Whether the machine has slept since it was last asked: then everything is looked at anew. */
  checkClock(): void {
    if (this.#running === undefined) return
    const { slept } = this.#watch.check()
    if (slept < SLEPT_MS) return
    this.#machine.handleWake(slept, this.#clock.now())
    this.#attempt(() => this.#read())
  }

  /** A reading that fails is tried again at the next event. */
  #attempt(work: () => void): void {
    try {
      work()
    } catch (error) {
      this.#report(`access networks: ${error instanceof Error ? error.message : String(error)}`)
      this.#readSoon()
    }
  }
}

/** Accesses that work first, of these the one that the main table prefers. */
function byPreference(a: Access, b: Access): number {
  const metric = ({ gateways }: Access) => gateways[0]?.metric ?? Number.POSITIVE_INFINITY
  return (
    Number(a.state === 'down') - Number(b.state === 'down') || metric(a) - metric(b) || a.ifindex - b.ifindex
  )
}

/** A route over several interfaces is one over each. */
function eachHop({ hops, ...route }: Route): Route[] {
  if (hops === undefined) return [route]
  const { via: _, dev: __, ...rest } = route
  return hops.map((hop) => ({ ...rest, ...hop }))
}

/** Tables that other programs lead to by one of this host's addresses, or by the interface: a second uplink's default route. */
function tablesBySource(rules: readonly RuleSpec[], addresses: readonly Address[]): Set<number> {
  const tables = new Set<number>()
  for (const { table, origin, from, oif, mark, iif, uids, to, invert } of rules) {
    if (table === undefined || table === 0 || table === MAIN_TABLE || origin === PROTOCOL) continue
    if (mark !== undefined || iif !== undefined || uids !== undefined || to !== undefined || invert === true)
      continue
    if (oif === undefined && (from === undefined || !addresses.some((each) => isWithin(each.address, from))))
      continue
    if (tables.size < MOST_TABLES) tables.add(table)
  }
  return tables
}

function isWithin(address: string, prefix: string): boolean {
  const inner = parseAddress(address)
  const outer = parsePrefix(prefix)
  return (
    inner.ok &&
    outer.ok &&
    inner.value.length === outer.value.address.length &&
    outer.value.length > 0 &&
    contains(outer.value, inner.value)
  )
}
