/**
 * Policy routing per access (ARCHITECTURE.md, "Linux plumbing"): each access has a table with the routes of its own,
 * copied from the main table, and a rule that sends sockets bound to its device there. A bound socket thus finds the
 * gateway of its own access though another is preferred, and two accesses may have the same subnet. `unreachable` ends the
 * search: without it an IPv6 socket with a fixed source would go on to the main table and leave by another access.
 *
 *   rule   base+n     oif accN lookup base+1+n          (IPv4 and IPv6)
 *   table  base+1+n   every unicast route of main over accN, then `unreachable default`
 *
 * Numbers and marks are the ledger's (linux/ledger.ts). With it go three settings of each access: its reverse-path filter,
 * how fast it finds its gateway's link address, and whether it answers for the addresses of another in the same network.
 *
 * Declarative: `apply` reads what the kernel has, adopts what an earlier run left, and changes what differs; rules and
 * routes of others stay, whatever their numbers.
 */
import { EEXIST, ENODEV } from '../core/errno.ts'
import { type Ledger, PROTOCOL, type Range } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import { clearTable, describeRule, type OnFault, setRoutes, setRules } from '../linux/own.ts'
import type { Route, RouteSpec, Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import type { Access } from './machine.ts'

/** The kernel asks for a gateway's link address again after this, milliseconds: whole ticks at every HZ. By itself a second. */
const NEIGHBOUR_RETRY_MS = 200
/** Gateways of one metric that are kept, beside the first. */
const MOST_GATEWAYS = 4
/** Behind every route that anybody makes. */
const LAST_METRIC = 0x7fffffff
const FAMILIES = [4, 6] as const

export interface AccessRoutes {
  readonly access: Access
  /** Unicast routes of the main table over it; none while it is down. */
  readonly routes: readonly Route[]
}

export class AccessRouting {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls | undefined
  readonly #ledger: Ledger
  /** Priority of the first rule; its table is one above. */
  readonly #first: number
  readonly #most: number
  readonly #range: Range
  readonly #report: (message: string) => void
  /** Place of each interface name, kept while this object lives so that a device that returns finds its own. */
  readonly #slots = new Map<string, number>()
  #desired: readonly AccessRoutes[] = []
  #adopted = false
  /** How many times in a row something was refused, with the last `apply` and the one before. */
  #refused = new Map<string, number>()
  #refusedBefore: ReadonlyMap<string, number> = new Map()

  /** `report` is called with what could not be done. */
  constructor(
    rtnl: Rtnl,
    ledger: Ledger,
    report: (message: string) => void = () => {},
    sysctls: Sysctls | undefined = undefined,
  ) {
    this.#rtnl = rtnl
    this.#ledger = ledger
    this.#first = ledger.access.first
    this.#most = ledger.access.slots
    this.#range = [this.#first, this.#first + this.#most - 1]
    this.#report = report
    this.#sysctls = sysctls
  }

  /** The table of an access that has one. */
  table(name: string): number | undefined {
    const slot = this.#slots.get(name)
    return slot === undefined ? undefined : this.#first + 1 + slot
  }

  /**
   * Makes the kernel hold exactly these; see `isInDoubt`. Throws KernelError only when rules or tables cannot be read. `sharing`:
   * interfaces that are in one network of IPv4 with others.
   */
  apply(desired: readonly AccessRoutes[], sharing: readonly string[] = []): void {
    this.#desired = desired
    this.#apply()
    for (const name of sharing) this.#answerAlone(name)
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    return this.#apply()
  }

  /** Something was refused for the first time, and may be a matter of the moment: `apply` again soon. */
  get isInDoubt(): boolean {
    return [...this.#refused.values()].includes(1)
  }

  #apply(): string[] {
    this.#refusedBefore = this.#refused
    this.#refused = new Map()
    const present = this.#rtnl.rules()
    const restored: string[] = []
    this.#adopt(present.filter((rule) => this.#isOwn(rule)))
    const wanted: RuleSpec[] = []
    const tables = new Set<number>()
    for (const { access, routes } of this.#desired) {
      const slot = this.#slotOf(access.name)
      if (slot === undefined) {
        this.#report(`${access.name}: not used: at most ${this.#most} accesses can have routing tables`)
        continue
      }
      const table = this.#first + 1 + slot
      tables.add(table)
      // Table before rule: a rule to an empty table would let packets through to the main table.
      for (const { to } of this.#fill(table, routes)) restored.push(`route ${to} of ${access.name}`)
      for (const family of FAMILIES)
        wanted.push({ family, priority: this.#first + slot, table, oif: access.name })
      this.#loosen(access.name)
      this.#hasten(access.name)
    }
    for (const rule of setRules(this.#rtnl, this.#ledger, this.#range, wanted, this.#onFault, present))
      restored.push(describeRule(rule))
    for (const [name, slot] of this.#slots)
      if (!tables.has(this.#first + 1 + slot) && !this.#desired.some((each) => each.access.name === name))
        clearTable(this.#rtnl, this.#first + 1 + slot)
    return restored
  }

  /** Removes all of it, also what an earlier run left. Repeatable. */
  cleanUp(): void {
    setRules(this.#rtnl, this.#ledger, this.#range, [])
    for (let slot = 0; slot < this.#most; slot++) clearTable(this.#rtnl, this.#first + 1 + slot)
    this.#sysctls?.restore()
    this.#slots.clear()
    this.#desired = []
    this.#adopted = false
  }

  #isOwn(rule: RuleSpec): boolean {
    return (
      this.#ledger.ownsRule(rule, this.#range) && rule.oif !== undefined && rule.table === rule.priority + 1
    )
  }

  /** Connections of a daemon that was killed keep their tables. */
  #adopt(rules: readonly RuleSpec[]): void {
    if (this.#adopted) return
    this.#adopted = true
    const taken = new Set(this.#slots.values())
    for (const rule of rules) {
      const slot = rule.priority - this.#first
      if (rule.oif === undefined || this.#slots.has(rule.oif) || taken.has(slot)) continue
      this.#slots.set(rule.oif, slot)
      taken.add(slot)
    }
  }

  /** The slot of a name; a new name gets a free slot, or that of an interface that is no longer used. */
  #slotOf(name: string): number | undefined {
    const known = this.#slots.get(name)
    if (known !== undefined) return known
    const taken = new Set(this.#slots.values())
    for (let slot = 0; slot < this.#most; slot++)
      if (!taken.has(slot)) {
        this.#slots.set(name, slot)
        return slot
      }
    for (const [other, slot] of this.#slots) {
      if (this.#desired.some((each) => each.access.name === other)) continue
      this.#slots.delete(other)
      this.#slots.set(name, slot)
      return slot
    }
    return undefined
  }

  #fill(table: number, routes: readonly Route[]): RouteSpec[] {
    const wanted = new Map<string, RouteSpec>()
    for (const family of FAMILIES) {
      const last = { to: family === 4 ? 'default' : 'default6', metric: LAST_METRIC } as const
      wanted.set(routeKey({ ...last, family }), { ...last, type: 'unreachable', table })
    }
    for (const route of routes) {
      const copy = copyInto(table, route)
      const first = wanted.get(routeKey({ ...copy, family: route.family }))
      if (first === undefined) wanted.set(routeKey({ ...copy, family: route.family }), copy)
      else if (route.via !== undefined && route.via !== first.via) addBehind(wanted, copy, route.family)
      // Of others with the same prefix and metric, the kernel would use only one as well.
    }
    return setRoutes(this.#rtnl, table, [...wanted.values()], this.#onFault)
  }

  /** Strict reverse-path filtering drops what comes back over an access that the main table does not prefer. */
  #loosen(name: string): void {
    const sysctls = this.#sysctls
    if (sysctls === undefined) return
    // An interface name may hold dots.
    const key = `net/ipv4/conf/${name}/rp_filter`
    this.#attempt(`rp_filter of ${name}`, () => {
      if (
        sysctls.get(key) === '1' ||
        (sysctls.get(key) === '0' && sysctls.get('net/ipv4/conf/all/rp_filter') === '1')
      )
        sysctls.set(key, 2)
    })
  }

  /**
   * By itself Linux answers a question for any of its addresses on every interface that hears it. The router would then send to the
   * cable what is for the radio's address, where no socket of the radio gets it.
   */
  #answerAlone(name: string): void {
    const sysctls = this.#sysctls
    if (sysctls === undefined) return
    const key = `net/ipv4/conf/${name}/arp_ignore`
    this.#attempt(`arp_ignore of ${name}`, () => {
      if (sysctls.get(key) !== '0') return
      sysctls.set(key, 1)
      // The router hears who is where when this interface asks for it.
      this.#rtnl.flushNeighbours(name)
    })
  }

  /**
   * On an access that has just come up the first thing sent is a question for the gateway's link address, and radios lose
   * such things: nothing gets out before it is asked again.
   */
  #hasten(name: string): void {
    const sysctls = this.#sysctls
    if (sysctls === undefined) return
    for (const family of ['ipv4', 'ipv6']) {
      const key = `net/${family}/neigh/${name}/retrans_time_ms`
      try {
        if (Number(sysctls.get(key)) > NEIGHBOUR_RETRY_MS) sysctls.set(key, NEIGHBOUR_RETRY_MS)
      } catch (error) {
        // Where settings cannot be written (a container) it goes without, only slower.
        if (!(error instanceof KernelError)) throw error
      }
    }
  }

  #attempt(what: string, work: () => unknown): void {
    try {
      work()
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      this.#onFault(what, error)
    }
  }

  /**
   * The interface or an address may go, or somebody be faster, at any moment: the next event brings the next `apply`. What the
   * kernel refuses twice in a row is reported, once as long as it does.
   */
  readonly #onFault: OnFault = (what, error) => {
    if (error.errno === EEXIST || error.errno === ENODEV) return
    const times = (this.#refusedBefore.get(what) ?? 0) + 1
    this.#refused.set(what, times)
    if (times === 2) this.#report(`${what}: ${error.message}`)
  }
}

/**
 * Another gateway of the same metric: two routers of one network, which a table can have only as one route or one after the other.
 * Linux passes over a router of IPv6 that does not answer.
 */
function addBehind(wanted: Map<string, RouteSpec>, route: RouteSpec, family: 4 | 6): void {
  for (let n = 1; n <= MOST_GATEWAYS; n++) {
    const next = { ...route, metric: (route.metric ?? 0) + n }
    const key = routeKey({ ...next, family })
    const there = wanted.get(key)
    if (there === undefined) wanted.set(key, next)
    if (there === undefined || there.via === route.via) return
  }
}

function copyInto(table: number, route: Route): RouteSpec {
  return {
    to: route.to,
    table,
    protocol: PROTOCOL,
    // The order of arrival does not matter then: the gateway need not be reachable by what is there already.
    ...(route.via !== undefined && { via: route.via, onlink: true }),
    ...(route.dev !== undefined && { dev: route.dev }),
    ...(route.metric !== undefined && { metric: route.metric }),
    ...(route.source !== undefined && { source: route.source }),
    ...(route.mtu !== undefined && { mtu: route.mtu }),
  }
}

function routeKey(route: RouteSpec & { readonly family: 4 | 6 }): string {
  return `${route.family} ${route.to} ${route.metric ?? 0}`
}
