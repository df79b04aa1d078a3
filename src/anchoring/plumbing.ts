/**
 * What anchoring makes in the kernel (ARCHITECTURE.md, "Linux plumbing"), on a mobile host and on an anchor. Declarative:
 * `apply` makes the kernel hold exactly what is wanted, adopting what a killed daemon left; `cleanUp` removes all of it.
 * Tables and rules of the accesses themselves are AccessRouting's (access/routing.ts).
 */
import { contains, formatPrefix, type Prefix, parsePrefix } from '../core/address.ts'
import { Protocol } from '../core/ip.ts'
import { type Criterion, type FlowFacts, formatSelector, matches, type Selector } from '../core/selector.ts'
import type { Cgroups } from '../linux/cgroup.ts'
import { type Ledger, MAIN_TABLE, MARK_MASK } from '../linux/ledger.ts'
import type { Nftables } from '../linux/nft.ts'
import { clearTable, deleteDevice, describeRule, setDevice, setRoutes, setRules } from '../linux/own.ts'
import { userId } from '../linux/proc.ts'
import type { Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'

const { TCP, UDP } = Protocol
const FAMILIES = [4, 6] as const

export interface HostPlumbingInit {
  readonly device: string
  readonly ledger: Ledger
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
    this.#apply({ mtu })
    this.#markGroups(this.#init.ledger.anchoring.control)
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    return this.#apply({})
  }

  #apply(wanted: { readonly mtu?: number }): string[] {
    const { device, ledger, fix4, fix6 } = this.#init
    const addresses = [formatPrefix(fix4), formatPrefix(fix6)]
    const restored = setDevice(this.#rtnl, ledger, device, { ...wanted, addresses })
    // What comes back is from anywhere, and main may know another way there.
    this.#trySysctl(`net/ipv4/conf/${device}/rp_filter`, 2)
    const { table, rules } = ledger.anchoring
    const source = (prefix: Prefix) => formatPrefix(prefix).split('/')[0]!
    const routes = setRoutes(this.#rtnl, table, [
      { to: 'default', dev: device, source: source(fix4) },
      { to: 'default6', dev: device, source: source(fix6) },
    ])
    for (const { to } of routes) restored.push(`route ${to} of ${device}`)
    return restored.concat(setRules(this.#rtnl, ledger, rules, this.#wantedRules()).map(describeRule))
  }

  /** Why the rules do not lead a flow into the device; undefined: they do, or programs that are not known may be. */
  whyOutside(flow: FlowFacts): string | undefined {
    const { control, destinations, except, selected } = this.#init
    const excepted = except.find((selector) => matches(selector, flow))
    if (excepted !== undefined) return `${formatSelector(excepted)} is left alone ([host] except)`
    const { dst } = flow
    if (dst !== undefined && this.#hasRoute(dst)) return 'the main table has a route of its own there'
    if (control === 'selected') {
      if (selected.some((selector) => matches(selector, flow))) return undefined
      return 'only what `godwit run` starts and policies select goes through an anchor ([host] control)'
    }
    if (destinations.length === 0 || dst === undefined) return undefined
    const reached = destinations.some(
      (prefix) => prefix.address.length === dst.length && contains(prefix, dst),
    )
    return reached ? undefined : 'no peer has it among its allowed_ips'
  }

  /** Whether the main table has a route to it that is more specific than its default. */
  #hasRoute(dst: Uint8Array): boolean {
    return this.#rtnl.routes({ table: MAIN_TABLE, family: dst.length === 4 ? 4 : 6 }).some(({ to, type }) => {
      const prefix = to.startsWith('default') ? undefined : parsePrefix(to)
      return (
        prefix?.ok === true && type === 'unicast' && prefix.value.length > 0 && contains(prefix.value, dst)
      )
    })
  }

  setMtu(mtu: number): void {
    if (this.#rtnl.link(this.#init.device)?.mtu !== mtu) this.#rtnl.setLink(this.#init.device, { mtu })
  }

  /** Rules first, so that traffic takes the ordinary way at once; then the table and the interface. Repeatable. */
  cleanUp(): void {
    const { ledger, device } = this.#init
    setRules(this.#rtnl, ledger, ledger.anchoring.rules, [])
    this.#markGroups(0)
    clearTable(this.#rtnl, ledger.anchoring.table)
    deleteDevice(this.#rtnl, ledger, device)
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
    const { ledger, control, destinations, except, selected } = this.#init
    const own = ledger.anchoring
    const marked = (mark: number) => ({ mark, mask: MARK_MASK })
    const rules: RuleSpec[] = []
    for (const family of FAMILIES) {
      rules.push({ family, priority: own.bypass, ...marked(own.bypassMark), table: MAIN_TABLE })
      let [priority, last] = own.exceptions
      for (const selector of except) {
        for (const match of routable(selector, family))
          rules.push({ ...match, family, priority, table: MAIN_TABLE })
        if (priority < last) priority++
      }
      rules.push({ family, priority: own.local, table: MAIN_TABLE, suppressPrefixLength: 0 })
      ;[priority, last] = own.controlled
      const reached = destinations.filter(({ address }) => address.length === (family === 4 ? 4 : 16))
      const everywhere = destinations.length === 0 || reached.some(({ length }) => length === 0)
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

export interface AnchorPlumbingInit {
  readonly device: string
  readonly ledger: Ledger
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
    this.#setDevice({ mtu })
    this.#sysctls.set('net.ipv4.ip_forward', 1)
    if (this.#sysctls.get('net.ipv6.conf.all.forwarding') !== undefined)
      this.#sysctls.set('net.ipv6.conf.all.forwarding', 1)
    this.#nft.replaceTable(this.#table, this.#rules())
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    return this.#setDevice({})
  }

  #setDevice(wanted: { readonly mtu?: number }): string[] {
    const { device, ledger, own4, own6 } = this.#init
    const addresses = [formatPrefix(own4), formatPrefix(own6)]
    return setDevice(this.#rtnl, ledger, device, { ...wanted, addresses })
  }

  /** Repeatable. nft last: where it is missing, the rest goes all the same. */
  cleanUp(): void {
    deleteDevice(this.#rtnl, this.#init.ledger, this.#init.device)
    this.#sysctls.restore()
    this.#nft.deleteTable(this.#table)
  }

  get #table() {
    return { family: 'inet', name: this.#init.ledger.nftTable() } as const
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
