/** How Linux finds a route (ip-rule(8)), from rules and routes that were read: which rule decides, and what it finds. */
import { contains } from '../../core/address.ts'
import { prefixOf } from './codec/index.ts'
import type { Family, Route, RouteQuery, RuleSpec } from './types.ts'

export interface Decision {
  readonly rule: RuleSpec
  /** Absent: the rule itself ends the search (`action`). */
  readonly route?: Route
}

/** Undefined: no rule leads to a route. `routes` are those of a table, of both families or the query's. */
export function decide(
  rules: readonly RuleSpec[],
  routes: (table: number) => readonly Route[],
  query: RouteQuery,
): Decision | undefined {
  const to = prefixOf(query.to).address
  const family = to.length === 4 ? 4 : 6
  for (const rule of rules) {
    if (rule.family !== family || !matches(rule, query, to)) continue
    if (rule.table === undefined) return { rule }
    const route = best(rule, routes(rule.table), query, to, family)
    if (route !== undefined && route.type !== 'throw') return { rule, route }
  }
  return undefined
}

/** Whether the search ends there without a way. */
export function rejects({ route }: Decision): boolean {
  return route === undefined || (route.type !== 'unicast' && route.type !== 'local')
}

function best(
  rule: RuleSpec,
  routes: readonly Route[],
  query: RouteQuery,
  to: Uint8Array,
  family: Family,
): Route | undefined {
  let found: { route: Route; length: number } | undefined
  for (const route of routes) {
    if (route.family !== family || route.dead) continue
    if (query.oif !== undefined && route.dev !== undefined && route.dev !== query.oif) continue
    const prefix = prefixOf(route.to)
    if (!contains(prefix, to)) continue
    const better =
      found === undefined ||
      prefix.length > found.length ||
      (prefix.length === found.length && (route.metric ?? 0) < (found.route.metric ?? 0))
    if (better) found = { route, length: prefix.length }
  }
  if (found === undefined) return undefined
  const isSuppressed =
    !rejects({ rule, route: found.route }) && found.length <= (rule.suppressPrefixLength ?? -1)
  return isSuppressed ? undefined : found.route
}

function matches(rule: RuleSpec, query: RouteQuery, to: Uint8Array): boolean {
  const same = <T>(wanted: T | undefined, value: T | undefined) => wanted === undefined || wanted === value
  const within = (range: readonly [number, number] | undefined, value: number | undefined) =>
    range === undefined || (value !== undefined && value >= range[0] && value <= range[1])
  const inPrefix = (text: string | undefined, address: Uint8Array | undefined) =>
    text === undefined || (address !== undefined && contains(prefixOf(text), address))
  const mask = rule.mask ?? 0xffffffff
  const hit =
    (rule.mark === undefined || ((query.mark ?? 0) & mask) >>> 0 === (rule.mark & mask) >>> 0) &&
    same(rule.oif, query.oif) &&
    same(rule.iif, query.iif ?? 'lo') &&
    within(rule.uids, query.uid ?? 0) &&
    same(rule.protocol, query.protocol) &&
    within(rule.sourcePorts, query.sourcePort) &&
    within(rule.destinationPorts, query.destinationPort) &&
    inPrefix(rule.to, to) &&
    inPrefix(rule.from, query.from === undefined ? undefined : prefixOf(query.from).address)
  return hit !== (rule.invert === true)
}
