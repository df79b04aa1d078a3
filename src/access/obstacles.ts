/**
 * Rules and routes of other programs that stop what leaves over an access before godwit's own rules are asked: `prohibit`,
 * `unreachable` and `blackhole`, as a VPN's kill switch sets them. They stay; they are named, with the command that removes them.
 *
 * The kernel is asked first, which knows all that a rule can look at. Only where it has no way are its rules gone through.
 */
import { decide, rejects } from '../linux/rtnetlink/decide.ts'
import type { Family, Route, RouteQuery, Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'

/**
 * Where nothing is sent to: public addresses in either half of IPv4, which a pair of half-default routes may share out, and in the
 * part of IPv6 that is in use.
 */
const FAR_AWAY = { 4: ['8.32.0.1', '198.32.0.1'], 6: ['2600::1'] } as const
const UDP = 17

export interface Obstacle {
  /** The rule or route. */
  readonly what: string
  /** The command that removes it. */
  readonly mend: string
}

/** For people. */
export function describeObstacle({ what, mend }: Obstacle): string {
  return `${what} stops what leaves over it; if nothing needs it: ${mend}`
}

/** What stops datagrams that are sent over the access by sockets with this mark, by family; rules from priority `before` on are not looked at. */
export function obstaclesOf(
  rtnl: Pick<Rtnl, 'lookup' | 'rules' | 'routes'>,
  access: { readonly name: string; readonly families: readonly Family[] },
  mark: number,
  before: number,
): Obstacle[] {
  return access.families.flatMap((family) => {
    let first: Obstacle | undefined
    for (const to of FAR_AWAY[family]) {
      const query = { to, oif: access.name, mark, protocol: UDP }
      const obstacle = obstacleTo(rtnl, query, family, before)
      if (obstacle === undefined) return []
      first ??= obstacle
    }
    return first ?? []
  })
}

function obstacleTo(
  rtnl: Pick<Rtnl, 'lookup' | 'rules' | 'routes'>,
  query: RouteQuery,
  family: Family,
  before: number,
): Obstacle | undefined {
  const way = rtnl.lookup(query)
  // For a socket that is bound to an interface Linux makes up a route of no table in IPv4 where there is none.
  if (way !== undefined && way.table !== 0) return undefined
  const rules = rtnl.rules(family).filter(({ priority }) => priority < before)
  // One of IPv6 that rejects is passed over where the packet has to leave by an interface.
  const routes = (table: number) =>
    rtnl.routes({ family, table }).filter((route) => family === 4 || route.dev !== undefined)
  const decision = decide(rules, routes, query)
  if (decision === undefined || !rejects(decision)) return undefined
  const ip = family === 4 ? 'ip' : 'ip -6'
  const { rule, route } = decision
  const text = `${rule.priority}: ${ruleWords(rule)}`
  if (route === undefined)
    return {
      what: `the IPv${family} rule "${text}" of another program`,
      mend: `${ip} rule del priority ${rule.priority} ${ruleWords(rule)}`,
    }
  return {
    what: `the IPv${family} route "${routeWords(route)}" of another program, which its rule "${text}" leads to`,
    mend: `${ip} route del ${routeWords(route)}`,
  }
}

/** As ip-rule(8) wants it. */
function ruleWords(rule: RuleSpec): string {
  const hex = (value: number) => `0x${(value >>> 0).toString(16)}`
  const range = (word: string, value: readonly [number, number] | undefined) =>
    value === undefined ? '' : `${word} ${value[0]}-${value[1]}`
  const mask = rule.mask === undefined ? '' : `/${hex(rule.mask)}`
  return [
    rule.invert === true ? 'not' : '',
    rule.from === undefined ? '' : `from ${rule.from}`,
    rule.to === undefined ? '' : `to ${rule.to}`,
    rule.mark === undefined ? '' : `fwmark ${hex(rule.mark)}${mask}`,
    rule.iif === undefined ? '' : `iif ${rule.iif}`,
    rule.oif === undefined ? '' : `oif ${rule.oif}`,
    range('uidrange', rule.uids),
    rule.protocol === undefined ? '' : `ipproto ${rule.protocol}`,
    range('sport', rule.sourcePorts),
    range('dport', rule.destinationPorts),
    rule.action ?? `lookup ${rule.table}`,
    rule.suppressPrefixLength === undefined ? '' : `suppress_prefixlength ${rule.suppressPrefixLength}`,
  ]
    .filter((word) => word !== '')
    .join(' ')
}

function routeWords({ type, to, table, metric }: Route): string {
  const prefix = to === 'default6' ? 'default' : to
  return `${type} ${prefix} table ${table}${metric === undefined || metric === 0 ? '' : ` metric ${metric}`}`
}
