/**
 * What anchoring makes in the kernel (ARCHITECTURE.md, "Linux plumbing"), on a mobile host and on an anchor. Declarative:
 * `apply` makes the kernel hold exactly what is wanted, adopting what a killed daemon left; `cleanUp` removes all of it.
 * Tables and rules of the accesses themselves are AccessRouting's (access/routing.ts).
 */

import { contains, formatPrefix, overlaps, type Prefix, parsePrefix } from '../core/address.ts'
import { GodwitError } from '../core/errors.ts'
import { type FlowFacts, formatSelector, matches, type Selector } from '../core/selector.ts'
import { takeEvery } from '../core/steps.ts'
import type { Cgroups } from '../linux/cgroup.ts'
import { type Ledger, MAIN_TABLE } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import type { NfSocket } from '../linux/nf-socket.ts'
import type { Nftables } from '../linux/nft.ts'
import {
  clearTable,
  deleteDevice,
  describeRule,
  setDevice,
  setMtu,
  setRoutes,
  setRules,
} from '../linux/own.ts'
import type { Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import { loosenReversePath, mayHaveIpv6, type Sysctls } from '../linux/sysctl.ts'
import { ForwardedReplies } from './forwarded.ts'
import type { NameServerWay } from './name-servers.ts'
import type { Passage } from './portal.ts'
import { hostRules, type RulesInit, type Source, WIDE } from './rules.ts'
import { type MainRoute, wideRoutes } from './wide-routes.ts'

/**
 * Max tracked connections per host and address family, because the table of the anchor's kernel is shared by all hosts
 * (at least 65,536 entries on a machine with 1 GB). Counting walks over all counted connections at 150 ns each, so only
 * one of COUNTED_ONE_OF new connections is counted.
 */
const MOST_CONNECTIONS = 8_192
const COUNTED_ONE_OF = 32
const FAMILIES = [
  [4, 'ip saddr'],
  [6, 'ip6 saddr'],
] as const

export interface HostPlumbingInit extends RulesInit {
  readonly device: string
}

export interface HostPlumbingComponents {
  readonly rtnl: Rtnl
  readonly sysctls: Sysctls
  readonly cgroups: Cgroups | undefined
  readonly nfTables: Pick<NfSocket, 'commit' | 'hasTable'>
  /** Addresses of this host now, and where packets from them go. */
  readonly sources: () => readonly Source[]
  /** Routes of the main table. */
  readonly mainRoutes: () => readonly MainRoute[]
  /** Why the tunnel rests now; undefined: it does not. */
  readonly whyResting: () => string | undefined
  /** One line for the log. */
  readonly report?: (message: string) => void
}

export class HostPlumbing {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  #init: HostPlumbingInit
  readonly #cgroups: Cgroups | undefined
  readonly #report: (message: string) => void
  #nameServers: readonly NameServerWay[] = []

  readonly #forwarded: ForwardedReplies
  readonly #sources: () => readonly Source[]
  readonly #mainRoutes: () => readonly MainRoute[]
  readonly #whyResting: () => string | undefined
  #resting: string | undefined
  #passages: readonly Passage[] = []
  readonly #wide = new Set<string>()
  /** The sources that the rules are made for; undefined: there are no rules. */
  #applied: string | undefined
  /** Whether the device may have IPv6; undefined: not looked at yet. */
  #six: boolean | undefined
  /** What was reported of the device's reverse-path filter. */
  #strict: string | undefined

  constructor(parts: HostPlumbingComponents, init: HostPlumbingInit) {
    this.#cgroups = parts.cgroups
    this.#report = parts.report ?? (() => {})
    this.#rtnl = parts.rtnl
    this.#sysctls = parts.sysctls
    this.#sources = parts.sources
    this.#mainRoutes = parts.mainRoutes
    this.#whyResting = parts.whyResting
    this.#init = init
    this.#forwarded = new ForwardedReplies(parts.nfTables, parts.sysctls, init.ledger, this.#report)
  }

  /** The virtual interface is there: addresses, UPMT table, then the rules that lead traffic to it. */
  apply(mtu: number): void {
    this.#apply({ mtu })
    this.#markGroups(true)
    this.#reportWideRoutes()
  }

  /** Other traffic is left alone, or chosen, from now on. Connections stay where they are. */
  change(wanted: Pick<HostPlumbingInit, 'except' | 'selected'>): void {
    if (this.#applied !== undefined) this.#markGroups(false)
    this.#init = { ...this.#init, ...wanted, holds: true }
    if (this.#applied === undefined) return
    this.#setRules()
    this.#markGroups(true)
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    return [...this.#forwarded.forget(), ...this.#apply({})]
  }

  /** These name servers are reached by these tables from now on, and no others are led anywhere. */
  leadNameServers(ways: readonly NameServerWay[]): void {
    this.#nameServers = ways
    if (this.#applied !== undefined) this.#setRules()
  }

  #apply(wanted: { readonly mtu?: number }): string[] {
    const { device, ledger, fix4, fix6 } = this.#init
    const six = mayHaveIpv6(this.#sysctls, device)
    if (six !== (this.#six ?? true)) this.#reportIpv6(six)
    this.#six = six
    const addresses = [fix4, ...(six ? [fix6] : [])].map(formatPrefix)
    const restored = setDevice(this.#rtnl, ledger, device, { ...wanted, addresses })
    // Packets arrive from any source, and main may have another route back.
    const strict = loosenReversePath(this.#sysctls, device)
    if (strict !== undefined && strict !== this.#strict) this.#report(strict)
    this.#strict = strict
    const { table } = ledger.anchoring
    const source = (prefix: Prefix) => formatPrefix(prefix).split('/')[0]!
    const routes = setRoutes(this.#rtnl, table, [
      { to: 'default', dev: device, source: source(fix4) },
      six
        ? { to: 'default6', dev: device, source: source(fix6) }
        : // Accesses that have IPv6 all the same are no way round the tunnel: programs take IPv4.
          { to: 'default6', type: 'unreachable' },
    ])
    for (const { to, dev } of routes) if (dev !== undefined) restored.push(`route ${to} of ${device}`)
    return restored.concat(this.#setRules().map(describeRule))
  }

  #reportIpv6(isOn: boolean): void {
    const { device } = this.#init
    this.#report(
      isOn
        ? `IPv6 is turned on for ${device}: the tunnel carries it again`
        : `IPv6 is turned off for ${device} (net.ipv6.conf.all.disable_ipv6 or default.disable_ipv6): the tunnel carries IPv4 only. To have both: sysctl -w net.ipv6.conf.${device}.disable_ipv6=0`,
    )
  }

  #setRules(): RuleSpec[] {
    const { ledger } = this.#init
    const sources = this.#sources()
    const resting = this.#whyResting()
    if (resting !== this.#resting)
      this.#report(
        resting === undefined
          ? 'the tunnel is in use again'
          : `the tunnel is idle: ${resting}; new connections go directly`,
      )
    this.#resting = resting
    this.#forwarded.apply(sources)
    this.#applied = JSON.stringify(sources)
    const rules = hostRules(this.#init, {
      sources,
      resting: resting !== undefined,
      passages: this.#passages,
      nameServers: this.#nameServers,
    })
    return setRules(this.#rtnl, ledger, ledger.anchoring.rules, rules)
  }

  /** Links, addresses or routes have changed: packets with the addresses of now leave by their accesses. */
  followNetwork(): void {
    if (this.#applied === undefined) return
    this.#reportWideRoutes()
    if (mayHaveIpv6(this.#sysctls, this.#init.device) !== this.#six) this.#apply({})
    const sources = this.#sources()
    if (JSON.stringify(sources) === this.#applied && this.#whyResting() === this.#resting)
      this.#forwarded.apply(sources)
    else this.#setRules()
  }

  /** Sets what may bypass the tunnel over an access to sign in at a captive portal; replaces earlier passages. */
  setPassages(passages: readonly Passage[]): void {
    this.#passages = passages
    if (this.#applied !== undefined) this.#setRules()
  }

  /** Once as long as they are there. */
  #reportWideRoutes(): void {
    const now = wideRoutes(this.#mainRoutes())
    for (const key of this.#wide) if (!now.has(key)) this.#wide.delete(key)
    for (const [key, text] of now) {
      if (!this.#wide.has(key)) this.#report(text)
      this.#wide.add(key)
    }
  }

  /** Why the rules do not lead a flow into the device; undefined: they do, or programs that are not known may be. */
  whyOutside(flow: FlowFacts): string | undefined {
    const { control, destinations, except, selected } = this.#init
    const excepted = except.find((selector) => matches(selector, flow))
    if (excepted !== undefined) return `${formatSelector(excepted)} bypasses godwit ([host] except)`
    if (this.#resting !== undefined) return `the tunnel is idle: ${this.#resting}`
    const { dst } = flow
    if (dst !== undefined && this.#hasRoute(dst)) return 'the main table has a more specific route'
    if (control === 'selected') {
      if (selected.some((selector) => matches(selector, flow))) return undefined
      return 'only programs of `godwit run` and traffic that policies select go through an anchor ([host] control)'
    }
    if (destinations.length === 0 || dst === undefined) return undefined
    const reached = destinations.some(
      (prefix) => prefix.address.length === dst.length && contains(prefix, dst),
    )
    return reached ? undefined : 'no peer has it among its allowed_ips'
  }

  /** Whether the main table has a route to it that is neither its default nor part of one. */
  #hasRoute(dst: Uint8Array): boolean {
    const family = dst.length === 4 ? 4 : 6
    return this.#rtnl.routes({ table: MAIN_TABLE, family }).some(({ to, type }) => {
      const prefix = to.startsWith('default') ? undefined : parsePrefix(to)
      if (prefix?.ok !== true || type !== 'unicast') return false
      return prefix.value.length > WIDE[family] && contains(prefix.value, dst)
    })
  }

  setMtu(mtu: number): void {
    setMtu(this.#rtnl, this.#init.device, mtu)
  }

  /** Rules first, so that traffic takes the ordinary routes at once; then the table and the interface. Repeatable. */
  cleanUp(): void {
    const { ledger, device } = this.#init
    this.#applied = undefined
    this.#nameServers = []
    setRules(this.#rtnl, ledger, ledger.anchoring.rules, [])
    this.#forwarded.cleanUp()
    this.#markGroups(false)
    clearTable(this.#rtnl, ledger.anchoring.table)
    deleteDevice(this.#rtnl, ledger, device)
  }

  /** `cgroup:` selectors: sockets made in the group from now on carry the mark. Programs can only be marked that way. */
  #markGroups(on: boolean): void {
    const { control, bypassMark } = this.#init.ledger.anchoring
    for (const selector of this.#init.except)
      if (selector.kind === 'cgroup') this.#markGroup(selector.path, on ? bypassMark : 0)
    if (this.#init.control !== 'selected') return
    for (const selector of this.#init.selected) {
      if (selector.kind === 'cgroup') this.#markGroup(selector.path, on ? control : 0)
      else if (on && needsMark(selector))
        this.#report(
          `${formatSelector(selector)} only chooses a policy and puts no traffic under control, because routing rules cannot match programs: use cgroup:PATH, or start them with \`godwit run\``,
        )
    }
  }

  #markGroup(path: string, mark: number): void {
    try {
      if (this.#cgroups?.setMarkAt(path, mark) !== true && mark !== 0)
        this.#report(`there is no control group ${path}: its programs are not affected`)
    } catch (error) {
      if (mark !== 0) throw error
      this.#report(`control group ${path}: ${(error as Error).message}`)
    }
  }
}

/** True for selectors that routing rules cannot match. */
function needsMark(selector: Selector): boolean {
  const criteria = selector.kind === 'every' ? selector.of : [selector]
  return criteria.some(({ kind }) => kind === 'app' || kind === 'cgroup')
}

export interface AnchorPlumbingInit {
  readonly device: string
  readonly ledger: Ledger
  /** The anchor's own addresses with the length of the pools: their routes lead to the device. */
  readonly own4: Prefix
  readonly own6: Prefix
  readonly pool4: Prefix
  readonly pool6: Prefix
  /** UDP ports of the tunnels. */
  readonly ports: readonly number[]
  readonly masquerade: boolean
  /** Interfaces that traffic of hosts may leave by; undefined: any. */
  readonly uplinks?: readonly string[]
}

export class AnchorPlumbing {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  readonly #nft: Nftables
  readonly #init: AnchorPlumbingInit
  readonly #report: (message: string) => void
  #lacksIpv6 = false

  constructor(
    rtnl: Rtnl,
    sysctls: Sysctls,
    nft: Nftables,
    init: AnchorPlumbingInit,
    report: (message: string) => void = () => {},
  ) {
    this.#report = report
    this.#rtnl = rtnl
    this.#sysctls = sysctls
    this.#nft = nft
    this.#init = init
  }

  apply(mtu: number): void {
    this.#nameOverlaps()
    this.#setDevice({ mtu })
    this.#sysctls.set('net.ipv4.ip_forward', 1)
    this.#forwardIpv6()
    this.#filter()
  }

  /** Many machines have IPv4 alone: an anchor is of use without it. */
  #forwardIpv6(): void {
    const key = 'net.ipv6.conf.all.forwarding'
    if (this.#sysctls.get(key) === undefined) return
    try {
      this.#sysctls.set(key, 1)
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      const hint = error.hint === undefined ? '' : `; ${error.hint}`
      this.#report(`IPv6 of hosts goes no further than this machine: ${error.message}${hint}`)
    }
  }

  /** A network of this machine in the pool: one of the two gets the other's packets. */
  #nameOverlaps(): void {
    const { pool4, pool6, device } = this.#init
    for (const { to, dev } of this.#rtnl.routes({ table: MAIN_TABLE })) {
      const prefix = parsePrefix(to)
      if (!prefix.ok || dev === undefined || dev === device || dev === 'lo') continue
      const pool = prefix.value.address.length === 4 ? pool4 : pool6
      if (!overlaps(pool, prefix.value)) continue
      const key = pool === pool4 ? 'pool4' : 'pool6'
      this.#report(
        `${key} (${formatPrefix(pool)}) overlaps ${to} of ${dev}: addresses there cannot be reached; choose another range, ${key} under [anchor], before hosts join`,
      )
    }
  }

  /** Restores what another program removed (`flush ruleset` removes all tables) and names it. */
  restore(): string[] {
    const restored = this.#setDevice({})
    const { family, name } = this.#table
    if (this.#nft.tables().some((table) => table.family === family && table.name === name)) return restored
    this.#filter()
    return [...restored, `table ${name}`]
  }

  #setDevice(wanted: { readonly mtu?: number }): string[] {
    const { device, ledger, own4, own6 } = this.#init
    const addresses = [own4, ...(this.#allowIpv6() ? [own6] : [])].map(formatPrefix)
    return setDevice(this.#rtnl, ledger, device, { ...wanted, addresses })
  }

  /**
   * On a machine without IPv6 the device has it all the same: programs of hosts try it first, and are told at once that there is
   * no way. Where it is off the kernel drops their packets silently. False: it cannot be turned on.
   */
  #allowIpv6(): boolean {
    const { device } = this.#init
    if (mayHaveIpv6(this.#sysctls, device)) return true
    try {
      this.#sysctls.set(`net/ipv6/conf/${device}/disable_ipv6`, 0)
      return true
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      if (!this.#lacksIpv6)
        this.#report(
          `hosts get IPv4 only: IPv6 is turned off for ${device} and cannot be turned on (${error.message})`,
        )
      this.#lacksIpv6 = true
      return false
    }
  }

  /** Repeatable. nft last: if it is missing, the rest is still removed. */
  cleanUp(): void {
    takeEvery(
      () => deleteDevice(this.#rtnl, this.#init.ledger, this.#init.device),
      () => this.#sysctls.restore(),
      () => this.#nft.deleteTable(this.#table),
    )
  }

  get #table() {
    return { family: 'inet', name: this.#init.ledger.nftTable() } as const
  }

  #filter(): void {
    try {
      this.#nft.replaceTable(this.#table, this.#rules(true))
    } catch (error) {
      if (!(error instanceof GodwitError) || error.code !== 'NFT_FAILED') throw error
      // Without nft_connlimit or nft_numgen. Other errors in the rules are thrown here.
      this.#nft.replaceTable(this.#table, this.#rules(false))
      this.#report(
        'this kernel cannot count connections (nft_connlimit, nft_numgen): one host could fill the connection table',
      )
    }
  }

  /**
   * UP-9, UP-32: masquerades what leaves by other interfaces. Pool addresses exist only behind the device, so packets
   * with a pool source from another link are dropped. New connections from outside to masqueraded hosts are dropped,
   * except those that a DNAT rule leads there. "Packet too big" about the tunnel's own datagrams is dropped: anybody can
   * forge it, hosts included, and the kernel would lower the MTU of the route it names. The tunnel discovers MTUs by
   * itself.
   */
  #rules(counted: boolean): string {
    const { device, pool4, pool6, ports, masquerade, uplinks } = this.#init
    const four = formatPrefix(pool4)
    const six = formatPrefix(pool6)
    const own = `"${device}"`
    const lines = [
      'set connections4 { type ipv4_addr; size 65535; flags dynamic; }',
      'set connections6 { type ipv6_addr; size 65535; flags dynamic; }',
      'set full4 { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }',
      'set full6 { type ipv6_addr; size 65535; flags dynamic,timeout; timeout 1m; }',
      'chain prerouting {',
      '  type filter hook prerouting priority mangle; policy accept;',
      `  iifname != { "lo", ${own} } ip saddr ${four} drop`,
      `  iifname != { "lo", ${own} } ip6 saddr ${six} drop`,
    ]
    // Not every packet of an unanswered flow, which stays "new".
    const isNew = `  iifname ${own} ct state new ct status & confirmed == 0`
    if (counted)
      lines.push(
        `${isNew} numgen random mod ${COUNTED_ONE_OF} 0 jump count`,
        `${isNew} ip saddr @full4 drop`,
        `${isNew} ip6 saddr @full6 drop`,
        '}',
        'chain count {',
        ...FAMILIES.flatMap(([family, source]) => [
          `  add @connections${family} { ${source} ct count over ${MOST_CONNECTIONS / COUNTED_ONE_OF} } update @full${family} { ${source} } drop`,
          `  delete @full${family} { ${source} }`,
        ]),
      )
    lines.push(
      '}',
      'chain input {',
      '  type filter hook input priority filter; policy accept;',
      // Matches the quoted packet: UDP, and its source port.
      `  icmp type destination-unreachable icmp code frag-needed @th,136,8 17 @th,224,16 { ${ports.join(', ')} } drop`,
      `  icmpv6 type packet-too-big @th,112,8 17 @th,384,16 { ${ports.join(', ')} } drop`,
      '}',
    )
    if (masquerade) {
      lines.push(
        'chain postrouting {',
        '  type nat hook postrouting priority srcnat; policy accept;',
        `  ip saddr ${four} oifname != "${device}" masquerade`,
        `  ip6 saddr ${six} oifname != "${device}" masquerade`,
        '}',
      )
    }
    lines.push('chain forward {', '  type filter hook forward priority filter; policy accept;')
    if (masquerade)
      lines.push(
        `  iifname != ${own} oifname ${own} ct status dnat accept`,
        `  iifname != ${own} oifname ${own} ct state new drop`,
      )
    if (uplinks !== undefined) {
      const names = [device, ...uplinks].map((name) => `"${name}"`).join(', ')
      lines.push(`  iifname "${device}" oifname != { ${names} } drop`)
    }
    lines.push('}')
    return lines.join('\n')
  }
}
