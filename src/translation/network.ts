/**
 * What DIME needs of the kernel's network configuration, beside the maps: which own addresses can be used, identifiers on
 * the loopback (E-1), rules that send a source address out of its own device, and the ports that new sockets must not
 * take (P1). Everything made here is found and removed by `cleanUp`.
 */
import type { UsableInterface } from '../access/index.ts'
import { contains, type Prefix, parsePrefix } from '../core/address.ts'
import { EEXIST } from '../core/errno.ts'
import { type Ledger, MAIN_TABLE, PROTOCOL } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import { addRule, clearTable, deleteRules, describeRule, setRoutes } from '../linux/own.ts'
import type { Route, RouteSpec, Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import type { LocalAddress } from './policy.ts'
import { bytesOf, familyOf, type Ip, isLinkLocal6, type Pair, pairKey } from './tables.ts'

/** What fits any IPv6 path (RFC 8200 §5) also when the header has become one of IPv6. */
const CROSS_MTU = { 4: 1260, 6: 1280 } as const

export interface NetworkOptions {
  readonly ledger: Ledger
  /** UDP port of IHMP. */
  readonly port: number
  /** Devices to use; undefined: all that are up. */
  readonly devices?: readonly string[] | undefined
  /** Whether `fe80::…` addresses are used too. */
  readonly linkLocal?: boolean
}

export class HostNetwork {
  readonly #rtnl: Rtnl
  readonly #sysctls: Sysctls
  readonly #usable: () => UsableInterface[]
  readonly #options: NetworkOptions
  /** Our numbers. */
  readonly #own: Ledger['translation']
  /** Own address → routing table number and what is in it. */
  readonly #tables = new Map<Ip, { table: number; routes: string; rules: string; filled: boolean }>()
  readonly #identifiers = new Set<Ip>()
  readonly #rules = new Set<RuleSpec>()
  readonly #routes = new Map<number, readonly RouteSpec[]>()
  #reserved = ''
  #parking: { readonly device: string; readonly key: string } | undefined
  readonly #held = new Set<Ip>()
  #preferred = new Map<Ip, Ip | undefined>()
  #ways = new Map<string, string>()
  #crossed = ''
  #present: ReadonlySet<Ip> = new Set()
  #devices: ReadonlyMap<Ip, string> = new Map()

  /** `usable`: interfaces that may carry traffic now. */
  constructor(rtnl: Rtnl, sysctls: Sysctls, usable: () => UsableInterface[], options: NetworkOptions) {
    this.#rtnl = rtnl
    this.#usable = usable
    this.#sysctls = sysctls
    this.#options = options
    this.#own = options.ledger.translation
  }

  /** Own addresses as `refresh` has found them. */
  get own(): ReadonlySet<Ip> {
    return this.#present
  }

  /** The same with their devices. */
  get devices(): ReadonlyMap<Ip, string> {
    return this.#devices
  }

  /** Looks which own addresses can be sent from now, and remembers them. */
  refresh(): LocalAddress[] {
    const addresses = this.#addresses()
    this.#present = new Set(addresses.map((a) => a.ip))
    this.#devices = new Map(addresses.map((a) => [a.ip, a.device]))
    return addresses
  }

  /** Of what the access monitor lets be used. */
  #addresses(): LocalAddress[] {
    const { devices, linkLocal } = this.#options
    const out: LocalAddress[] = []
    for (const { link, addresses } of this.#usable()) {
      if (devices !== undefined && !devices.includes(link.name)) continue
      for (const { address, prefixLength, scope, tentative, deprecated } of addresses) {
        if (tentative || scope === 'host') continue
        if (isLinkLocal6(address) && linkLocal !== true) continue
        out.push({ ip: address, prefixLength, device: link.name, ...(deprecated ? { deprecated } : {}) })
      }
    }
    return out
  }

  /**
   * Whether packets on this device leave at the pace of the round-trip time that TCP has measured (sch_fq): a sender that
   * takes an outage for a round trip would be slow for long. `mq` is asked for what its queues are made of by default.
   */
  paces(device: string): boolean {
    const queue = this.#rtnl.link(device)?.queue
    return queue === 'fq' || (queue === 'mq' && this.#sysctls.get('net.core.default_qdisc') === 'fq')
  }

  /** The own address that the routes prefer towards `foreign`; remembered until `routesChanged`. */
  preferredLocal(foreign: Ip): Ip | undefined {
    if (isLinkLocal6(foreign)) return undefined
    if (this.#preferred.has(foreign)) return this.#preferred.get(foreign)
    const source = this.#rtnl.lookup({ to: foreign })?.source
    this.#preferred.set(foreign, source)
    return source
  }

  routesChanged(): void {
    this.#preferred = new Map()
    this.#ways = new Map()
  }

  /** Whether the routes lead both pairs by one device to one neighbour; remembered until `routesChanged`. */
  sameWay(a: Pair, b: Pair): boolean {
    const way = this.#way(a)
    return way !== '' && way === this.#way(b)
  }

  #way(pair: Pair): string {
    const key = pairKey(pair)
    let way = this.#ways.get(key)
    if (way === undefined) {
      const route = this.#rtnl.lookup({ to: pair.foreign, from: pair.local })
      way = route === undefined ? '' : `${route.dev} ${route.via ?? pair.foreign}`
      this.#ways.set(key, way)
    }
    return way
  }

  /** Whether connection tracking follows connections here, as it does for most firewalls. */
  isTracked(): boolean {
    return (this.#sysctls.get('net.netfilter.nf_conntrack_count') ?? '0') !== '0'
  }

  /** Whether a packet may arrive on this device though the way back to its source is another (rp_filter, RFC 3704 §2). */
  isLoose(device: string): boolean {
    const filter = (name: string): number => Number(this.#sysctls.get(`net/ipv4/conf/${name}/rp_filter`) ?? 0)
    return Math.max(filter('all'), filter(device)) !== 1
  }

  /**
   * Makes packets from each address leave by its device: IHMP's always, all when `all` says that flows are translated.
   * True when the routes of an address changed.
   */
  route(all: boolean): boolean {
    const addresses = [...this.#devices]
      .map(([ip, device]) => ({ ip, device }))
      .filter((a) => !isLinkLocal6(a.ip))
    let changed = false
    const present = new Set(addresses.map((a) => a.ip))
    for (const [ip, entry] of this.#tables) {
      if (present.has(ip)) continue
      if (entry.rules !== 'none') this.#unrule(ip, entry.table)
      if (entry.filled) this.#clear(entry.table)
      this.#tables.delete(ip)
    }
    const devices = (family: 4 | 6): number =>
      new Set(addresses.filter((a) => familyOf(a.ip) === family).map((a) => a.device)).size
    const several = { 4: devices(4) > 1, 6: devices(6) > 1 }
    if (addresses.length === 0) return changed
    const main = this.#rtnl.routes({ table: MAIN_TABLE })
    for (const address of addresses) {
      const family = familyOf(address.ip)
      const routes = main.filter(
        (r) => r.family === family && r.dev === address.device && r.type === 'unicast' && !r.dead,
      )
      const routeKey = JSON.stringify(routes.map((r) => [r.to, r.via, r.metric]))
      const entry = this.#tables.get(address.ip)
      const table = entry?.table ?? this.#freeTable()
      if (table === undefined) continue // packets from it leave as the system's routes have it
      const before = entry?.rules ?? 'none'
      // With one device there is nothing to choose, and a rule would slow every route look-up of the host.
      const rules = !several[family] ? 'none' : all ? 'all' : 'ihmp'
      const differ = entry?.routes !== routeKey
      if (differ) changed = true
      const fill = rules !== 'none' && (differ || before === 'none')
      if (fill) this.#fill(table, address, routes)
      if (before !== rules) {
        if (before !== 'none' || entry === undefined) this.#unrule(address.ip, table)
        if (rules !== 'none') this.#rule(address.ip, table, all)
      }
      this.#tables.set(address.ip, { table, routes: routeKey, rules, filled: fill || entry?.filled === true })
    }
    return changed
  }

  #fill(
    table: number,
    address: { readonly ip: Ip; readonly device: string },
    routes: readonly Route[],
  ): void {
    // The route to a gateway before the routes through it.
    const sorted = [...routes].sort((a, b) => Number(a.via !== undefined) - Number(b.via !== undefined))
    const wanted = sorted.map((r) => ({
      to: r.to,
      ...(r.via === undefined ? {} : { via: r.via, onlink: true }),
      ...(r.metric === undefined || r.metric === 0 ? {} : { metric: r.metric }),
      ...(r.mtu === undefined ? {} : { mtu: r.mtu }),
      dev: address.device,
      source: address.ip,
    }))
    this.#setTable(table, wanted)
  }

  #rule(ip: Ip, table: number, all: boolean): void {
    const rule = { family: familyOf(ip), priority: table, table, from: host(ip) }
    const { port } = this.#options
    this.#addRule(all ? rule : { ...rule, protocol: 17, sourcePorts: [port, port] })
  }

  #unrule(ip: Ip, table: number): void {
    this.#deleteRules((rule) => rule.priority === table && rule.table === table, familyOf(ip))
  }

  // ---- what is ours: remembered, so that it can be put back

  #addRule(rule: RuleSpec): void {
    addRule(this.#rtnl, rule)
    this.#rules.add(rule)
  }

  /** Also what an earlier run left. */
  #deleteRules(which: (rule: RuleSpec) => boolean, family?: 4 | 6): void {
    deleteRules(this.#rtnl, which, family)
    for (const rule of this.#rules)
      if ((family === undefined || rule.family === family) && which(rule)) this.#rules.delete(rule)
  }

  /** An address or device that has just gone takes its routes along. */
  #setTable(table: number, routes: readonly RouteSpec[]): void {
    setRoutes(this.#rtnl, table, routes, () => {})
    this.#routes.set(table, routes)
  }

  #clear(table: number): void {
    clearTable(this.#rtnl, table)
    this.#routes.delete(table)
  }

  /** Puts back what another program removed, and names it. */
  restore(): string[] {
    const restored: string[] = []
    const there = new Set(this.#rtnl.addresses({ link: 'lo' }).map(({ address }) => address))
    for (const ip of this.#identifiers) {
      if (there.has(ip)) continue
      this.#addIdentifier(ip)
      restored.push(`address ${ip} of lo`)
    }
    for (const [table, routes] of this.#routes)
      for (const { to } of setRoutes(this.#rtnl, table, routes, () => {}))
        restored.push(`route ${to} in table ${table}`)
    for (const rule of this.#rules) if (addRule(this.#rtnl, rule)) restored.push(describeRule(rule))
    return restored
  }

  #freeTable(): number | undefined {
    const used = new Set([...this.#tables.values()].map((t) => t.table))
    const [first, last] = this.#own.own
    for (let table = first; table <= last; table++) if (!used.has(table)) return table
    return undefined
  }

  /**
   * Keeps these addresses as identifiers: local whatever interface has them. One that none has (not in `own`) is on no
   * wire, and answered to nobody's ARP (E-1, P4).
   */
  identify(wanted: ReadonlySet<Ip>, own: ReadonlySet<Ip>): void {
    for (const ip of [...this.#identifiers]) {
      if (wanted.has(ip)) continue
      this.#rtnl.deleteAddress('lo', host(ip))
      this.#identifiers.delete(ip)
    }
    for (const ip of wanted) {
      if (familyOf(ip) === 4 && !own.has(ip)) {
        this.#sysctls.set('net.ipv4.conf.all.arp_ignore', 1)
        this.#sysctls.set('net.ipv4.conf.all.arp_announce', 2)
      }
      if (this.#identifiers.has(ip)) continue
      this.#addIdentifier(ip)
      this.#identifiers.add(ip)
    }
    if (wanted.size === 0 && this.#reserved === '') this.#sysctls.restore()
  }

  #addIdentifier(ip: Ip): void {
    const options = familyOf(ip) === 6 ? { noDad: true, noPrefixRoute: true } : { noPrefixRoute: true }
    ignore(EEXIST, () => this.#rtnl.addAddress('lo', host(ip), options))
  }

  get identifiers(): ReadonlySet<Ip> {
    return this.#identifiers
  }

  /** Takes over identifiers of an earlier run. */
  adopt(identifiers: Iterable<Ip>): void {
    for (const ip of identifiers) this.#identifiers.add(ip)
  }

  /**
   * Sends what comes from these addresses and finds no route into `device`; undefined: no longer. Identifiers, and own
   * addresses on the wire: a packet that was rewritten and then finds no route would be an error to its application.
   */
  park(device: string | undefined, addresses: ReadonlySet<Ip> = new Set()): void {
    const key = [...addresses].sort().join(' ')
    if (device === this.#parking?.device && key === this.#parking?.key) return
    const { park: priority, parkTable: table } = this.#own
    const missing = new Set(device === undefined ? [] : addresses)
    this.#deleteRules(
      (rule) =>
        rule.priority === priority &&
        rule.table === table &&
        !missing.delete(rule.from?.replace(/\/.*/, '') ?? ''),
    )
    if (device === undefined) this.#clear(table)
    else if (device !== this.#parking?.device)
      this.#setTable(
        table,
        ['default', 'default6'].map((to) => ({ to, dev: device })),
      )
    for (const ip of missing) this.#addRule({ family: familyOf(ip), priority, table, from: host(ip) })
    this.#parking = device === undefined ? undefined : { device, key }
  }

  /**
   * Packets from these lost addresses wait, even where another route would take them: with an address of elsewhere they
   * must not leave (a NAT there would make strangers of them). Removed when the maps rewrite them.
   */
  hold(wanted: ReadonlySet<Ip>): void {
    if (this.#parking === undefined) return
    const { hold: priority, parkTable: table } = this.#own
    for (const ip of [...this.#held]) {
      if (wanted.has(ip)) continue
      const rule = { family: familyOf(ip), priority, table, from: host(ip) }
      this.#rtnl.deleteRule({ ...rule, origin: PROTOCOL })
      for (const each of this.#rules)
        if (each.priority === priority && each.from === rule.from) this.#rules.delete(each)
      this.#held.delete(ip)
    }
    for (const ip of wanted) {
      if (this.#held.has(ip)) continue
      this.#addRule({ family: familyOf(ip), priority, table, from: host(ip) })
      this.#held.add(ip)
    }
  }

  /**
   * Leads flows between these pairs into `device`, where they change their family. Unconnected UDP sockets get their
   * source address from there too, where no other route gives them one.
   */
  cross(pairs: readonly Pair[], device: string): void {
    const key = pairs.map(pairKey).sort().join(',')
    if (key === this.#crossed) return
    this.#crossed = key
    const { cross, crossTable, crossUdp, crossUdpTable } = this.#own
    this.#deleteRules(({ table }) => table === crossTable || table === crossUdpTable)
    for (const table of [crossTable, crossUdpTable]) this.#clear(table)
    if (pairs.length === 0) return
    this.#setTable(crossTable, [
      { to: 'default', dev: device, mtu: CROSS_MTU[4] },
      { to: 'default6', dev: device, mtu: CROSS_MTU[6] },
    ])
    const udp = new Map<string, RouteSpec>()
    for (const { local, foreign } of pairs) {
      const family = familyOf(local)
      const [from, to] = [host(local), host(foreign)]
      for (const what of this.#translated())
        this.#addRule({ family, priority: cross, table: crossTable, from, to, ...what })
      udp.set(to, { to, dev: device, source: local, mtu: CROSS_MTU[family] })
      this.#addRule({ family, priority: crossUdp, table: crossUdpTable, to, protocol: 17 })
    }
    this.#setTable(crossUdpTable, [...udp.values()])
  }

  /** What is translated: TCP, and UDP but IHMP, which goes by its own addresses. */
  #translated(): Partial<RuleSpec>[] {
    const { port } = this.#options
    const udp: [number, number][] = [
      [1, port - 1],
      [port + 1, 65_534], // as far as rules go
    ]
    return [
      { protocol: 6 },
      ...udp.filter(([from, to]) => from <= to).map((sourcePorts) => ({ protocol: 17, sourcePorts })),
    ]
  }

  /** Local ports of translated flows that the kernel would otherwise give to new sockets (P1). */
  reserve(ports: ReadonlySet<number>): void {
    const key = 'net.ipv4.ip_local_reserved_ports'
    const before = this.#sysctls.saved.get(key) ?? this.#sysctls.get(key)
    if (before === undefined) return
    const text = ranges(ports)
    if (text === this.#reserved) return
    this.#reserved = text
    this.#sysctls.set(key, [before, text].filter((t) => t !== '').join(','))
  }

  /** Removes all that this or an earlier run made. */
  cleanUp(identifiers: Iterable<Ip> = this.#identifiers): void {
    const [first, last] = this.#own.tables
    this.#deleteRules(({ table = 0 }) => table >= first && table <= last)
    for (const table of new Set(this.#rtnl.routes({ protocol: PROTOCOL }).map((route) => route.table)))
      if (table >= first && table <= last) clearTable(this.#rtnl, table)
    this.#routes.clear()
    for (const ip of [...identifiers]) this.#rtnl.deleteAddress('lo', host(ip))
    this.#tables.clear()
    this.#held.clear()
    this.#crossed = ''
    this.#identifiers.clear()
    this.#reserved = ''
    this.#sysctls.restore()
  }
}

function host(ip: Ip): string {
  return `${ip}/${familyOf(ip) === 4 ? 32 : 128}`
}

function ignore(number: number, action: () => void): void {
  try {
    action()
  } catch (error) {
    if (!(error instanceof KernelError) || error.errno !== number) throw error
  }
}

/** `20000-20003,20007`, as the kernel writes port lists; cut to what one write can hold. */
export function ranges(ports: ReadonlySet<number>): string {
  const sorted = [...ports].sort((a, b) => a - b)
  let text = ''
  for (let i = 0; i < sorted.length; ) {
    let j = i
    while (sorted[j + 1] === sorted[j]! + 1) j++
    const part = i === j ? `${sorted[i]}` : `${sorted[i]}-${sorted[j]}`
    if (text.length + part.length > 3900) break
    text += text === '' ? part : `,${part}`
    i = j + 1
  }
  return text
}

/** Whether `ip` lies in one of these prefixes (text). */
export function within(ip: Ip, prefixes: readonly string[]): boolean {
  const bytes = bytesOf(ip)
  return prefixes
    .map((p) => parsePrefix(p))
    .filter((p): p is { ok: true; value: Prefix } => p.ok)
    .some((p) => contains(p.value, bytes))
}
