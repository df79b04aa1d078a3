/**
 * Policy routing per access (ARCHITECTURE.md, "Linux plumbing"): each access has a table with the routes of its own,
 * copied from the main table, and a rule that sends sockets bound to its device there. A bound socket thus finds the
 * gateway of its own access though another is preferred, and two accesses may have the same subnet. `unreachable` ends the
 * search: without it an IPv6 socket with a fixed source would go on to the main table and leave by another access.
 *
 *   rule   5200+n   oif accN lookup 5201+n              (IPv4 and IPv6)
 *   table  5201+n   every unicast route of main over accN, then `unreachable default`
 *
 * With it go two settings of each access: its reverse-path filter and how fast it finds its gateway's link address.
 *
 * Declarative: `apply` reads what the kernel has, adopts what an earlier run left, and changes what differs.
 */
import { EEXIST, ENODEV } from '../core/errno.ts'
import { KernelError } from '../linux/libc.ts'
import type { Route, RouteSpec, Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import type { Access } from './machine.ts'

/** rtm_protocol of routes that godwit makes: `g`. */
export const ROUTE_PROTOCOL = 0x67
/** The kernel asks for a gateway's link address again after this, milliseconds: whole ticks at every HZ. By itself a second. */
const NEIGHBOUR_RETRY_MS = 200
/** Accesses that there are tables for; rules of other purposes begin 30 above the base. */
const SLOTS = 30
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
  readonly #base: number
  readonly #report: (message: string) => void
  /** Place of each interface name, kept while this object lives so that a device that returns finds its own. */
  readonly #slots = new Map<string, number>()
  #adopted = false

  /** `base`: first rule priority and one below the first table. `report` is told what could not be done. */
  constructor(
    rtnl: Rtnl,
    base: number,
    report: (message: string) => void = () => {},
    sysctls: Sysctls | undefined = undefined,
  ) {
    this.#rtnl = rtnl
    this.#base = base
    this.#report = report
    this.#sysctls = sysctls
  }

  /** The table of an access that has one. */
  table(name: string): number | undefined {
    const slot = this.#slots.get(name)
    return slot === undefined ? undefined : this.#base + 1 + slot
  }

  /** Makes the kernel hold exactly these. Throws KernelError only when rules or tables cannot be read. */
  apply(desired: readonly AccessRoutes[]): void {
    const rules = this.#ownRules()
    this.#adopt(rules)
    const tables = new Set<number>()
    for (const { access, routes } of desired) {
      const slot = this.#slotOf(access.name, desired)
      if (slot === undefined) {
        this.#report(`${access.name}: no more than ${SLOTS} accesses have routing tables`)
        continue
      }
      tables.add(this.#base + 1 + slot)
      // The table first: a rule that points to an empty one would let packets through to the main table.
      this.#fill(this.#base + 1 + slot, routes)
      for (const family of FAMILIES) {
        const rule = this.#rule(family, access.name, slot)
        if (!rules.some((each) => sameRule(each, rule)))
          this.#attempt(`rule for ${access.name}`, () => this.#rtnl.addRule(rule))
      }
      this.#loosen(access.name)
      this.#hasten(access.name)
    }
    for (const rule of rules)
      if (rule.table === undefined || !tables.has(rule.table) || !this.#isWanted(rule, desired))
        this.#attempt('remove rule', () => this.#rtnl.deleteRule(rule))
    for (const [name, slot] of this.#slots)
      if (!tables.has(this.#base + 1 + slot) && !desired.some((each) => each.access.name === name))
        this.#rtnl.flushRoutes({ table: this.#base + 1 + slot })
  }

  /** Removes all of it, also what an earlier run left. Repeatable. */
  cleanUp(): void {
    for (const rule of this.#ownRules()) this.#rtnl.deleteRule(rule)
    for (let slot = 0; slot < SLOTS; slot++) this.#rtnl.flushRoutes({ table: this.#base + 1 + slot })
    this.#sysctls?.restore()
    this.#slots.clear()
    this.#adopted = false
  }

  #ownRules(): RuleSpec[] {
    return this.#rtnl
      .rules()
      .filter(
        (rule) =>
          rule.priority >= this.#base &&
          rule.priority < this.#base + SLOTS &&
          rule.oif !== undefined &&
          rule.table === rule.priority + 1,
      )
  }

  #rule(family: 4 | 6, name: string, slot: number): RuleSpec {
    return { family, priority: this.#base + slot, table: this.#base + 1 + slot, oif: name }
  }

  #isWanted(rule: RuleSpec, desired: readonly AccessRoutes[]): boolean {
    return desired.some(
      ({ access }) => access.name === rule.oif && this.#slots.get(access.name) === rule.priority - this.#base,
    )
  }

  /** Connections of a daemon that was killed keep their tables. */
  #adopt(rules: readonly RuleSpec[]): void {
    if (this.#adopted) return
    this.#adopted = true
    const taken = new Set(this.#slots.values())
    for (const rule of rules) {
      const slot = rule.priority - this.#base
      if (rule.oif === undefined || this.#slots.has(rule.oif) || taken.has(slot)) continue
      this.#slots.set(rule.oif, slot)
      taken.add(slot)
    }
  }

  /** The slot of a name; a new one takes a free slot, or that of an interface that is not wanted any more. */
  #slotOf(name: string, desired: readonly AccessRoutes[]): number | undefined {
    const known = this.#slots.get(name)
    if (known !== undefined) return known
    const taken = new Set(this.#slots.values())
    for (let slot = 0; slot < SLOTS; slot++)
      if (!taken.has(slot)) {
        this.#slots.set(name, slot)
        return slot
      }
    for (const [other, slot] of this.#slots) {
      if (desired.some((each) => each.access.name === other)) continue
      this.#slots.delete(other)
      this.#slots.set(name, slot)
      return slot
    }
    return undefined
  }

  #fill(table: number, routes: readonly Route[]): void {
    const wanted = new Map<string, RouteSpec>()
    for (const family of FAMILIES) {
      const last: RouteSpec = {
        to: family === 4 ? 'default' : 'default6',
        type: 'unreachable',
        table,
        metric: LAST_METRIC,
        protocol: ROUTE_PROTOCOL,
      }
      wanted.set(routeKey({ ...last, family }), last)
    }
    for (const route of routes) {
      // Of several with the same prefix and metric the kernel would use one as well.
      const key = routeKey(route)
      if (!wanted.has(key)) wanted.set(key, copyInto(table, route))
    }
    const present = this.#rtnl.routes({ table })
    const kept = new Set<string>()
    for (const route of present) {
      const key = routeKey(route)
      const want = wanted.get(key)
      if (want !== undefined && !kept.has(key) && sameRoute(route, want)) kept.add(key)
      else if (want === undefined) this.#attempt('remove route', () => this.#rtnl.deleteRoute(route))
    }
    for (const [key, route] of wanted) {
      if (kept.has(key)) continue
      this.#attempt(`route ${route.to} in table ${table}`, () => this.#rtnl.replaceRoute(route))
    }
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

  /** The interface may go, or somebody be faster, at any moment: the next event brings the next `apply`. */
  #attempt(what: string, work: () => unknown): void {
    try {
      work()
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      if (error.errno !== EEXIST && error.errno !== ENODEV) this.#report(`${what}: ${error.message}`)
    }
  }
}

function copyInto(table: number, route: Route): RouteSpec {
  return {
    to: route.to,
    table,
    protocol: ROUTE_PROTOCOL,
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

function sameRoute(route: Route, wanted: RouteSpec): boolean {
  return (
    route.type === (wanted.type ?? 'unicast') &&
    route.via === wanted.via &&
    (wanted.dev === undefined || route.dev === wanted.dev) &&
    route.source === wanted.source &&
    route.mtu === wanted.mtu
  )
}

function sameRule(rule: RuleSpec, wanted: RuleSpec): boolean {
  return (
    rule.family === wanted.family &&
    rule.priority === wanted.priority &&
    rule.table === wanted.table &&
    rule.oif === wanted.oif
  )
}
