/**
 * Sets and removes our own objects in the kernel's network configuration, and nothing else: rules and routes that carry
 * PROTOCOL, in the numbers of the ledger, and devices by their alias. All of it is declarative and repeatable, and
 * returns what it had to add, so that a repeated call shows what another program removed.
 */
import { EEXIST, ENODEV } from '../core/errno.ts'
import { DEVICES, type Ledger, PROTOCOL, type Range } from './ledger.ts'
import { KernelError } from './libc.ts'
import type { Route, RouteSpec, Rtnl, RuleSpec } from './rtnetlink/types.ts'

/** Handles a change that the kernel refuses; without it the error is thrown. */
export type OnFault = (what: string, error: KernelError) => void

/**
 * Makes our rules in `range` exactly these; returns those that were added. Rules of other programs stay, whatever their
 * priority; one that equals a wanted rule is used in its place.
 */
export function setRules(
  rtnl: Rtnl,
  ledger: Ledger,
  range: Range,
  wanted: readonly RuleSpec[],
  onFault?: OnFault,
  present: readonly RuleSpec[] = rtnl.rules(),
): RuleSpec[] {
  const ours = wanted.map((rule) => ({ ...rule, origin: PROTOCOL }))
  const keys = new Set(ours.map(ruleKey))
  const kept = new Set<string>()
  const surplus: RuleSpec[] = []
  for (const rule of present) {
    if (!ledger.ownsRule(rule, range)) continue
    const key = ruleKey(rule)
    if (keys.has(key) && !kept.has(key)) kept.add(key)
    else surplus.push(rule)
  }
  for (const rule of surplus) attempt(describeRule(rule), onFault, () => rtnl.deleteRule(rule))
  return ours.filter(
    (rule) =>
      !kept.has(ruleKey(rule)) && attempt(describeRule(rule), onFault, () => addRule(rtnl, rule)) === true,
  )
}

/** Adds a rule of ours; false when there is an equal one. */
export function addRule(rtnl: Rtnl, rule: RuleSpec): boolean {
  try {
    rtnl.addRule({ ...rule, origin: PROTOCOL })
    return true
  } catch (error) {
    if (!(error instanceof KernelError) || error.errno !== EEXIST) throw error
    return false
  }
}

/** Deletes our rules that `which` accepts, of one family or both. */
export function deleteRules(rtnl: Rtnl, which: (rule: RuleSpec) => boolean, family?: 4 | 6): void {
  for (const rule of rtnl.rules(family)) if (rule.origin === PROTOCOL && which(rule)) rtnl.deleteRule(rule)
}

/**
 * Makes our routes in a table exactly these; returns those that were added or changed. A route of another program with
 * the same prefix and metric stays.
 */
export function setRoutes(
  rtnl: Rtnl,
  table: number,
  wanted: readonly RouteSpec[],
  onFault?: OnFault,
): RouteSpec[] {
  const present = new Map<string, Route>()
  for (const route of rtnl.routes({ table, protocol: PROTOCOL })) present.set(routeKey(route), route)
  const changed: RouteSpec[] = []
  const keys = new Set<string>()
  for (const spec of wanted) {
    const key = routeKey(spec)
    keys.add(key)
    const there = present.get(key)
    if (there !== undefined && sameRoute(there, spec)) continue
    const route = { ...spec, table, protocol: PROTOCOL }
    const done = attempt(`route ${spec.to} in table ${table}`, onFault, () => {
      if (there !== undefined) rtnl.replaceRoute(route)
      else if (!addRoute(rtnl, route)) return false
      return true
    })
    if (done === true) changed.push(spec)
  }
  for (const [key, route] of present)
    if (!keys.has(key)) attempt(`route ${route.to} in table ${table}`, onFault, () => rtnl.deleteRoute(route))
  return changed
}

/** Removes our routes from a table; returns how many. */
export function clearTable(rtnl: Rtnl, table: number): number {
  return rtnl.flushRoutes({ table, protocol: PROTOCOL })
}

function addRoute(rtnl: Rtnl, route: RouteSpec): boolean {
  try {
    rtnl.addRoute(route)
    return true
  } catch (error) {
    if (!(error instanceof KernelError) || error.errno !== EEXIST) throw error
    return false
  }
}

/** Gives a device of ours its alias, the addresses (`address/length`) and no others, its MTU, and sets it up. */
export function setDevice(
  rtnl: Rtnl,
  ledger: Ledger,
  name: string,
  wanted: { readonly mtu?: number; readonly addresses?: readonly string[] },
): string[] {
  const restored: string[] = []
  const link = rtnl.link(name)
  if (wanted.addresses !== undefined) {
    const missing = new Set(wanted.addresses)
    for (const { address, prefixLength, scope } of rtnl.addresses({ link: name })) {
      const text = `${address}/${prefixLength}`
      if (!missing.delete(text) && scope !== 'link') rtnl.deleteAddress(name, text)
    }
    for (const address of missing) {
      rtnl.addAddress(name, address, { noDad: true })
      restored.push(`address ${address} of ${name}`)
    }
  }
  if (link?.up === false) restored.push(`${name} (it was down)`)
  rtnl.setLink(name, {
    up: true,
    ...(wanted.mtu !== undefined && { mtu: wanted.mtu }),
    ...(link?.alias !== ledger.alias && { alias: ledger.alias }),
  })
  return restored
}

/** Does nothing to a device that another program has taken away: its reader reports that. */
export function setMtu(rtnl: Rtnl, name: string, mtu: number): void {
  try {
    if (rtnl.link(name)?.mtu !== mtu) rtnl.setLink(name, { mtu })
  } catch (error) {
    if (!(error instanceof KernelError) || error.errno !== ENODEV) throw error
  }
}

/** Deletes a device of ours by name, never one that another program made; returns whether there was one. */
export function deleteDevice(rtnl: Rtnl, ledger: Ledger, name: string): boolean {
  const link = rtnl.link(name)
  if (link === undefined) return false
  // A run that was killed at once left it without an alias: then the name has to be one that only we give.
  const names: readonly string[] = [...Object.values(DEVICES), ledger.translation.device]
  const ours =
    link.alias === undefined ? link.kind === 'tun' && names.includes(name) : link.alias === ledger.alias
  return ours && rtnl.deleteLink(name)
}

export function describeRule(rule: RuleSpec): string {
  return `IPv${rule.family} rule ${rule.priority}${rule.table === undefined ? '' : ` to table ${rule.table}`}`
}

/** Identity of a rule; the order of fields does not matter. */
function ruleKey(rule: RuleSpec): string {
  const fields = Object.entries(rule).filter(([, value]) => value !== undefined)
  return JSON.stringify(fields.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** The kernel gives an IPv6 route without a metric the metric 1024. */
function routeKey({ to, metric }: RouteSpec): string {
  return `${to} ${metric ?? (to.includes(':') || to === 'default6' ? 1024 : 0)}`
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

/** Undefined when the kernel refused and `onFault` was called. */
function attempt<T>(what: string, onFault: OnFault | undefined, work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    if (onFault === undefined || !(error instanceof KernelError)) throw error
    onFault(what, error)
    return undefined
  }
}
