/**
 * The rules of a mobile host, by priority (IPv4 and IPv6 alike):
 *
 *   bypass       our own packets: main
 *   exceptions   what is left alone: main (after a reload: what is in the tunnel already stays there first)
 *   local        routes of main, but neither its default nor half of one (`WIDE`)
 *   link         multicast and broadcast: main
 *   sources      packets that already have an address of this host: the table of its access, else main
 *   forwarded    answers to connections that came in by an access and were forwarded: the table of the access
 *   nameServers  name servers that one access reaches: its table; those of [host] dns: the tunnel
 *   portal       what signs in at a captive portal, while nothing else works: the table of its access
 *   controlled   the rest, or what was selected of it: the tunnel
 */
import { formatPrefix, type Prefix } from '../core/address.ts'
import { Protocol } from '../core/ip.ts'
import type { Criterion, Selector } from '../core/selector.ts'
import { type Ledger, MAIN_TABLE, MARK_MASK } from '../linux/ledger.ts'
import { userId } from '../linux/proc.ts'
import type { RuleSpec } from '../linux/rtnetlink/types.ts'
import type { NameServerWay } from './name-servers.ts'
import type { Passage } from './portal.ts'

const { TCP, UDP } = Protocol
const FAMILIES = [4, 6] as const
const HTTP = [80, 80] as const

/**
 * Routes with a prefix of this length or shorter are treated as default routes: OpenVPN's `redirect-gateway def1` has two
 * of length 1, for IPv6 of 3 and 4. The widest private prefixes are 10.0.0.0/8 and fc00::/7.
 */
export const WIDE = { 4: 7, 6: 6 } as const

/** Never leaves the link, or only by multicast routing. IPv6 has such routes in the table `local`, before all rules. */
const LINK_DESTINATIONS = ['224.0.0.0/4', '255.255.255.255/32'] as const

/** An address of this host, and where packets from it go. */
export interface Source {
  readonly family: 4 | 6
  readonly address: string
  /** Table of the access that has the address; main for other interfaces. */
  readonly table: number
  /** The access. */
  readonly access?: string
}

export interface RulesInit {
  readonly ledger: Ledger
  /** VIpA_fix. */
  readonly fix4: Prefix
  readonly fix6: Prefix
  readonly control: 'all' | 'selected'
  /** With `all`: only these destinations are controlled; empty: all. */
  readonly destinations: readonly Prefix[]
  /** Traffic that is left alone. */
  readonly except: readonly Selector[]
  /** `except` has changed while there were connections: those in the tunnel stay there. */
  readonly holds?: boolean
  /** In `selected` mode: what is put under control by user, port, destination or control group. */
  readonly selected: readonly Selector[]
}

export interface Network {
  /** Addresses of this host. */
  readonly sources: readonly Source[]
  /** Only what is in the tunnel already stays there. */
  readonly resting: boolean
  /** Traffic to sign in at a captive portal. */
  readonly passages: readonly Passage[]
  readonly nameServers?: readonly NameServerWay[]
}

export function hostRules(
  init: RulesInit,
  { sources, resting, passages, nameServers = [] }: Network,
): RuleSpec[] {
  const { ledger, control, destinations, except, selected } = init
  const own = ledger.anchoring
  const marked = (mark: number) => ({ mark, mask: MARK_MASK })
  const rules: RuleSpec[] = []
  for (const family of FAMILIES) {
    rules.push({ family, priority: own.bypass, ...marked(own.bypassMark), table: MAIN_TABLE })
    let [priority, last] = own.exceptions
    const from = formatPrefix(family === 4 ? init.fix4 : init.fix6)
    if (init.holds === true) rules.push({ from, family, priority: priority++, table: own.table })
    for (const selector of except) {
      for (const match of routable(selector, family))
        rules.push({ ...match, family, priority, table: MAIN_TABLE })
      if (priority < last) priority++
    }
    rules.push({ family, priority: own.local, table: MAIN_TABLE, suppressPrefixLength: WIDE[family] })
    if (family === 4)
      for (const to of LINK_DESTINATIONS) rules.push({ to, family, priority: own.link, table: MAIN_TABLE })
    for (const source of sources) {
      if (source.family !== family) continue
      const from = `${source.address}/${family === 4 ? 32 : 128}`
      rules.push({ from, family, priority: own.sources, table: source.table })
    }
    for (const table of new Set(sources.map((source) => source.table)))
      if (table !== MAIN_TABLE)
        rules.push({ ...marked(ledger.accessMark(table)), family, priority: own.forwarded, table })
    for (const { to, table } of nameServers)
      if (to.includes(':') === (family === 6)) rules.push({ to, family, priority: own.nameServers, table })
    for (const { table, to } of family === 4 ? passages : []) {
      const what = to === undefined ? { protocol: TCP, destinationPorts: HTTP } : { to: `${to}/32` }
      rules.push({ ...what, family, priority: own.portal, table })
    }
    ;[priority, last] = own.controlled
    const reached = destinations.filter(({ address }) => address.length === (family === 4 ? 4 : 16))
    const everywhere = destinations.length === 0 || reached.some(({ length }) => length === 0)
    // Answers of programs that were asked at the virtual address (forwarded ports of the anchor), and what is in the tunnel already.
    if (resting || control !== 'all' || !everywhere) rules.push({ from, family, priority, table: own.table })
    if (resting) continue
    if (control === 'all' && everywhere) rules.push({ family, priority, table: own.table })
    else if (control === 'all')
      for (const prefix of reached)
        rules.push({ to: formatPrefix(prefix), family, priority, table: own.table })
    else {
      rules.push({ family, priority, ...marked(own.control), table: own.table })
      for (const selector of selected) {
        if (priority < last) priority++
        for (const match of routable(selector, family))
          rules.push({ ...match, family, priority, table: own.table })
      }
    }
  }
  return rules
}

/** The part of a selector that a routing rule can match; none for programs and cgroups, which use marks. */
function routable(selector: Selector, family: 4 | 6): Partial<RuleSpec>[] {
  const criteria: readonly Criterion[] =
    selector.kind === 'every'
      ? selector.of
      : selector.kind === 'all' || selector.kind === 'flow'
        ? []
        : [selector]
  let matches: Partial<RuleSpec>[] = criteria.length === 0 ? [] : [{}]
  const narrow = (parts: Partial<RuleSpec>[]) => {
    matches = matches.flatMap((match) => parts.map((part) => ({ ...match, ...part })))
  }
  for (const criterion of criteria) {
    switch (criterion.kind) {
      case 'user': {
        const uid = userId(criterion.user)
        narrow(uid === undefined ? [] : [{ uids: [uid, uid] }])
        break
      }
      case 'port': {
        const protocols = criteria.some(({ kind }) => kind === 'proto') ? [undefined] : [TCP, UDP]
        narrow(
          protocols.map((protocol) => ({
            destinationPorts: [criterion.first, criterion.last],
            ...(protocol !== undefined && { protocol }),
          })),
        )
        break
      }
      case 'proto':
        narrow([{ protocol: criterion.protocol }])
        break
      case 'to':
        narrow(
          criterion.prefix.address.length === (family === 4 ? 4 : 16)
            ? [{ to: formatPrefix(criterion.prefix) }]
            : [],
        )
        break
      default:
        return []
    }
  }
  return matches
}
