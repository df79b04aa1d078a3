/**
 * What anchoring makes in the kernel (ARCHITECTURE.md, "Linux plumbing"), on a mobile host and on an anchor. Declarative:
 * `apply` makes the kernel hold exactly what is wanted, adopting what a killed daemon left; `cleanUp` removes all of it.
 * Tables and rules of the accesses themselves are AccessRouting's (access/routing.ts).
 */

import { ROUTE_PROTOCOL } from '../access/index.ts'
import { formatPrefix, type Prefix } from '../core/address.ts'
import { Protocol } from '../core/ip.ts'
import { type Criterion, formatSelector, type Selector } from '../core/selector.ts'
import type { Cgroups } from '../linux/cgroup.ts'
import type { Nftables } from '../linux/nft.ts'
import { userId } from '../linux/proc.ts'
import type { Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'

const MAIN_TABLE = 254
/** Offsets from the base of priorities. */
const BYPASS = 30
const EXCEPTIONS = 31
const LOCAL = 60
const CONTROLLED = 70
const END = 100
const { TCP, UDP } = Protocol
const FAMILIES = [4, 6] as const

/** Marks of sockets: put under control, and left alone. Different for instances with different bases. */
export function marks(base: number): { control: number; bypass: number } {
  return { control: 0x6700_0000 + base * 2, bypass: 0x6700_0001 + base * 2 }
}

export interface HostPlumbingInit {
  readonly device: string
  /** First priority; also the number of the UPMT table. */
  readonly base: number
  readonly fix4: Prefix
  readonly fix6: Prefix
  readonly control: 'all' | 'selected'
  /** With `all`: what goes there; empty: everything. */
  readonly destinations: readonly Prefix[]
  /** Traffic that is left alone. */
  readonly except: readonly Selector[]
  /** In `selected` mode: what is put under control by user, port, destination or control group. */
  readonly selected: readonly Selector[]
}

export class HostPlumbing {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  readonly #init: HostPlumbingInit
  readonly #cgroups: Cgroups | undefined
  readonly #report: (message: string) => void

  constructor(
    rtnl: Rtnl,
    sysctls: Sysctls,
    cgroups: Cgroups | undefined,
    init: HostPlumbingInit,
    report: (message: string) => void = () => {},
  ) {
    this.#cgroups = cgroups
    this.#report = report
    this.#rtnl = rtnl
    this.#sysctls = sysctls
    this.#init = init
  }

  /** The virtual interface is there: addresses, UPMT table, then the rules that lead traffic to it. */
  apply(mtu: number): void {
    const { device, base, fix4, fix6 } = this.#init
    setUp(this.#rtnl, device, mtu, [formatPrefix(fix4), formatPrefix(fix6)])
    // What comes back is from anywhere, and main may know another way there.
    this.#trySysctl(`net/ipv4/conf/${device}/rp_filter`, 2)
    const source = (prefix: Prefix) => formatPrefix(prefix).split('/')[0]!
    const common = { table: base, dev: device, protocol: ROUTE_PROTOCOL }
    this.#rtnl.replaceRoute({ ...common, to: 'default', source: source(fix4) })
    this.#rtnl.replaceRoute({ ...common, to: 'default6', source: source(fix6) })
    this.#setRules(this.#wantedRules())
    this.#markGroups(marks(base).control)
  }

  setMtu(mtu: number): void {
    if (this.#rtnl.link(this.#init.device)?.mtu !== mtu) this.#rtnl.setLink(this.#init.device, { mtu })
  }

  /** Rules first, so that traffic takes the ordinary way at once; then the table and the interface. Repeatable. */
  cleanUp(): void {
    this.#setRules([])
    this.#markGroups(0)
    this.#rtnl.flushRoutes({ table: this.#init.base })
    this.#rtnl.deleteLink(this.#init.device)
  }

  /** `cgroup:` selectors: sockets made in the group from now on carry the mark. Programs can only be marked that way. */
  #markGroups(mark: number): void {
    if (this.#init.control !== 'selected') return
    for (const selector of this.#init.selected) {
      if (selector.kind === 'cgroup') this.#markGroup(selector.path, mark)
      else if (mark !== 0 && needsMark(selector))
        this.#report(
          `${formatSelector(selector)} chooses a policy, but puts nothing under control: routes cannot see programs; use cgroup:PATH, or start them with \`godwit run\``,
        )
    }
  }

  #markGroup(path: string, mark: number): void {
    try {
      if (this.#cgroups?.setMarkAt(path, mark) !== true && mark !== 0)
        this.#report(`there is no control group ${path} now; its programs go the ordinary way`)
    } catch (error) {
      if (mark !== 0) throw error
      this.#report(`control group ${path}: ${(error as Error).message}`)
    }
  }

  #wantedRules(): RuleSpec[] {
    const { base, control, destinations, except, selected } = this.#init
    const rules: RuleSpec[] = []
    for (const family of FAMILIES) {
      rules.push({ family, priority: base + BYPASS, mark: marks(base).bypass, table: MAIN_TABLE })
      let priority = base + EXCEPTIONS
      for (const selector of except) {
        for (const match of routable(selector, family))
          rules.push({ ...match, family, priority, table: MAIN_TABLE })
        if (priority < base + LOCAL - 1) priority++
      }
      rules.push({ family, priority: base + LOCAL, table: MAIN_TABLE, suppressPrefixLength: 0 })
      priority = base + CONTROLLED
      const reached = destinations.filter(({ address }) => address.length === (family === 4 ? 4 : 16))
      const everywhere = destinations.length === 0 || reached.some(({ length }) => length === 0)
      if (control === 'all' && everywhere) rules.push({ family, priority, table: base })
      else if (control === 'all')
        for (const prefix of reached) rules.push({ to: formatPrefix(prefix), family, priority, table: base })
      else {
        rules.push({ family, priority, mark: marks(base).control, table: base })
        for (const selector of selected) {
          if (priority < base + END - 1) priority++
          for (const match of routable(selector, family))
            rules.push({ ...match, family, priority, table: base })
        }
      }
    }
    return rules
  }

  #setRules(wanted: readonly RuleSpec[]): void {
    const { base } = this.#init
    const present = this.#rtnl
      .rules()
      .filter(({ priority }) => priority >= base + BYPASS && priority < base + END)
    const keys = new Set(wanted.map(ruleKey))
    const kept = new Set<string>()
    for (const rule of present) {
      const key = ruleKey(rule)
      if (keys.has(key) && !kept.has(key)) kept.add(key)
      else this.#rtnl.deleteRule(rule)
    }
    for (const rule of wanted) if (!kept.has(ruleKey(rule))) this.#rtnl.addRule(rule)
  }

  #trySysctl(key: string, value: number): void {
    if (this.#sysctls.get(key) !== undefined) this.#sysctls.set(key, value)
  }
}

/** What a routing rule can match of a selector; nothing for programs and cgroups, which marks are for. */
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

/** Whether routing rules cannot say it. */
function needsMark(selector: Selector): boolean {
  const criteria = selector.kind === 'every' ? selector.of : [selector]
  return criteria.some(({ kind }) => kind === 'app' || kind === 'cgroup')
}

function ruleKey(rule: RuleSpec): string {
  const { family, priority, table, mark, uids, protocol, destinationPorts, to, suppressPrefixLength } = rule
  return JSON.stringify([
    family,
    priority,
    table,
    mark ?? null,
    uids ?? null,
    protocol ?? null,
    destinationPorts ?? null,
    to ?? null,
    suppressPrefixLength ?? null,
  ])
}

function setUp(rtnl: Rtnl, device: string, mtu: number, addresses: readonly string[]): void {
  const present = rtnl.addresses({ link: device })
  const wanted = new Set(addresses)
  for (const { address, prefixLength, scope } of present) {
    const text = `${address}/${prefixLength}`
    if (!wanted.delete(text) && scope !== 'link') rtnl.deleteAddress(device, text)
  }
  for (const address of wanted) rtnl.addAddress(device, address, { noDad: true })
  rtnl.setLink(device, { mtu, up: true })
}

export interface AnchorPlumbingInit {
  readonly device: string
  /** Part of the name of the nftables table. */
  readonly instance: string
  /** The anchor's own addresses with the length of the pools: their routes lead to the device. */
  readonly own4: Prefix
  readonly own6: Prefix
  readonly pool4: Prefix
  readonly pool6: Prefix
  readonly masquerade: boolean
  /** Interfaces that traffic of hosts may leave by; undefined: any. */
  readonly uplinks?: readonly string[]
}

export class AnchorPlumbing {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  readonly #nft: Nftables
  readonly #init: AnchorPlumbingInit

  constructor(rtnl: Rtnl, sysctls: Sysctls, nft: Nftables, init: AnchorPlumbingInit) {
    this.#rtnl = rtnl
    this.#sysctls = sysctls
    this.#nft = nft
    this.#init = init
  }

  apply(mtu: number): void {
    const { device, own4, own6 } = this.#init
    setUp(this.#rtnl, device, mtu, [formatPrefix(own4), formatPrefix(own6)])
    this.#sysctls.set('net.ipv4.ip_forward', 1)
    if (this.#sysctls.get('net.ipv6.conf.all.forwarding') !== undefined)
      this.#sysctls.set('net.ipv6.conf.all.forwarding', 1)
    this.#nft.replaceTable(this.#table, this.#rules())
  }

  /** Repeatable. nft last: where it is missing, the rest goes all the same. */
  cleanUp(): void {
    this.#rtnl.deleteLink(this.#init.device)
    this.#sysctls.restore()
    this.#nft.deleteTable(this.#table)
  }

  get #table() {
    return { family: 'inet', name: `godwit_${this.#init.instance.replace(/[^A-Za-z0-9_]/g, '_')}` } as const
  }

  /** UP-9, UP-32: ordinary masquerading of what leaves elsewhere; only the pool may come out of the device. */
  #rules(): string {
    const { device, pool4, pool6, masquerade, uplinks } = this.#init
    const four = formatPrefix(pool4)
    const six = formatPrefix(pool6)
    const lines: string[] = []
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
    if (uplinks !== undefined) {
      const names = [device, ...uplinks].map((name) => `"${name}"`).join(', ')
      lines.push(`  iifname "${device}" oifname != { ${names} } drop`)
    }
    lines.push('}')
    return lines.join('\n')
  }
}
