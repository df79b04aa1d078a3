/**
 * What DIME needs of the kernel's network configuration, beside the maps: which own addresses can be used, identifiers on
 * the loopback (E-1), rules that send a source address out of its own device, and the ports that new sockets must not
 * take (P1). Everything made here is found and removed by `cleanUp`.
 */

import { contains, type Prefix, parsePrefix } from '../core/address.ts'
import { EEXIST } from '../core/errno.ts'
import { KernelError } from '../linux/libc.ts'
import type { Link, Route, Rtnl, RuleSpec } from '../linux/rtnetlink/types.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import type { LocalAddress } from './policy.ts'
import { bytesOf, familyOf, type Ip, isLinkLocal6, type Pair, pairKey } from './tables.ts'

const MAIN = 254
/** After `main` and `default` (32766, 32767): only packets that no route takes come so far. */
const PARK_PRIORITY = 32_800
/** Own addresses with a table each, from the base on; the last ones of the 64 are for what follows. */
const MOST_TABLES = 59
/** From the base: the table of the parking device, and the priority of rules that hold packets back. */
const PARK_TABLE = 63
const HOLD_PRIORITY = 62
/** Tables for flows that go on in the other family; connected sockets find theirs before any other rule of ours. */
const CROSS_TABLE = 61
const CROSS_UDP_TABLE = 60
const CROSS_UDP_PRIORITY = PARK_PRIORITY + 1
/** What fits any IPv6 path (RFC 8200 §5) also when the header has become one of IPv6. */
const CROSS_MTU = { 4: 1260, 6: 1280 } as const

/** Devices whose addresses are godwit's own, or local to this machine. */
const NOT_ACCESSES = /^(godwit|gwan|gwpark|docker|br-|virbr)/

export interface NetworkOptions {
  /** First routing table and rule priority; the next 64 are used. */
  readonly base: number
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
  readonly #options: NetworkOptions
  /** Own address → routing table number and what is in it. */
  readonly #tables = new Map<Ip, { table: number; routes: string; rules: string; filled: boolean }>()
  readonly #identifiers = new Set<Ip>()
  #reserved = ''
  #parking: { readonly device: string; readonly key: string } | undefined
  readonly #held = new Set<Ip>()
  #preferred = new Map<Ip, Ip | undefined>()
  #ways = new Map<string, string>()
  #crossed = ''

  constructor(rtnl: Rtnl, sysctls: Sysctls, options: NetworkOptions) {
    this.#rtnl = rtnl
    this.#sysctls = sysctls
    this.#options = options
  }

  /** The own addresses that can be sent from now. Read afresh. */
  addresses(): LocalAddress[] {
    const usable = new Set(
      this.#rtnl
        .links()
        .filter((l) => l.up && l.carrier && !l.loopback && this.#isAccess(l))
        .map((l) => l.name),
    )
    const out: LocalAddress[] = []
    for (const a of this.#rtnl.addresses()) {
      if (!usable.has(a.link) || a.tentative || a.deprecated) continue
      if (a.scope === 'host' || (isLinkLocal6(a.address) && this.#options.linkLocal !== true)) continue
      out.push({ ip: a.address, prefixLength: a.prefixLength, device: a.link })
    }
    return out
  }

  #isAccess({ name, kind, mac }: Link): boolean {
    if (this.#options.devices !== undefined) return this.#options.devices.includes(name)
    // A TUN has no hardware address; a TAP may well be an access.
    return !NOT_ACCESSES.test(name) && !(kind === 'tun' && mac === '') && kind !== 'bridge'
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
  route(own: readonly LocalAddress[], all: boolean): boolean {
    const addresses = own.filter((a) => !isLinkLocal6(a.ip))
    let changed = false
    const present = new Set(addresses.map((a) => a.ip))
    for (const [ip, entry] of this.#tables) {
      if (present.has(ip)) continue
      if (entry.rules !== 'none') this.#unrule(ip, entry.table)
      if (entry.filled) this.#rtnl.flushRoutes({ table: entry.table })
      this.#tables.delete(ip)
    }
    const devices = (family: 4 | 6): number =>
      new Set(addresses.filter((a) => familyOf(a.ip) === family).map((a) => a.device)).size
    const several = { 4: devices(4) > 1, 6: devices(6) > 1 }
    if (addresses.length === 0) return changed
    const main = this.#rtnl.routes({ table: MAIN })
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

  #fill(table: number, address: LocalAddress, routes: readonly Route[]): void {
    this.#rtnl.flushRoutes({ table })
    // The route to a gateway before the routes through it.
    for (const r of [...routes].sort((a, b) => Number(a.via !== undefined) - Number(b.via !== undefined)))
      try {
        this.#rtnl.replaceRoute({
          to: r.to,
          ...(r.via === undefined ? {} : { via: r.via, onlink: true }),
          ...(r.metric === undefined || r.metric === 0 ? {} : { metric: r.metric }),
          ...(r.mtu === undefined ? {} : { mtu: r.mtu }),
          dev: address.device,
          table,
          source: address.ip,
        })
      } catch (error) {
        if (!(error instanceof KernelError)) throw error // an address or device that has just gone
      }
  }

  #rule(ip: Ip, table: number, all: boolean): void {
    const rule = { family: familyOf(ip), priority: table, table, from: host(ip) }
    const { port } = this.#options
    ignore(EEXIST, () =>
      this.#rtnl.addRule(all ? rule : { ...rule, protocol: 17, sourcePorts: [port, port] as const }),
    )
  }

  #unrule(ip: Ip, table: number): void {
    const family = familyOf(ip)
    for (const rule of this.#rtnl.rules(family))
      if (rule.priority === table && rule.table === table) this.#rtnl.deleteRule(rule)
  }

  #freeTable(): number | undefined {
    const used = new Set([...this.#tables.values()].map((t) => t.table))
    for (let i = 1; i <= MOST_TABLES; i++)
      if (!used.has(this.#options.base + i)) return this.#options.base + i
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
      const options = familyOf(ip) === 6 ? { noDad: true, noPrefixRoute: true } : { noPrefixRoute: true }
      ignore(EEXIST, () => this.#rtnl.addAddress('lo', host(ip), options))
      this.#identifiers.add(ip)
    }
    if (wanted.size === 0 && this.#reserved === '') this.#sysctls.restore()
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
    const table = this.#options.base + PARK_TABLE
    const missing = new Set(device === undefined ? [] : addresses)
    for (const family of [4, 6] as const)
      for (const rule of this.#rtnl.rules(family)) {
        if (rule.priority !== PARK_PRIORITY || rule.table !== table) continue
        if (!missing.delete(rule.from?.replace(/\/.*/, '') ?? '')) this.#rtnl.deleteRule(rule)
      }
    if (device !== undefined && device !== this.#parking?.device)
      for (const to of ['default', 'default6']) this.#rtnl.replaceRoute({ to, dev: device, table })
    for (const ip of missing)
      this.#rtnl.addRule({ family: familyOf(ip), priority: PARK_PRIORITY, table, from: host(ip) })
    this.#parking = device === undefined ? undefined : { device, key }
  }

  /**
   * Packets from these lost addresses wait, even where another route would take them: with an address of elsewhere they
   * must not leave (a NAT there would make strangers of them). Removed when the maps rewrite them.
   */
  hold(wanted: ReadonlySet<Ip>): void {
    if (this.#parking === undefined) return
    const { base } = this.#options
    const rule = (ip: Ip) => ({
      family: familyOf(ip),
      priority: base + HOLD_PRIORITY,
      table: base + PARK_TABLE,
      from: host(ip),
    })
    for (const ip of [...this.#held]) {
      if (wanted.has(ip)) continue
      this.#rtnl.deleteRule(rule(ip))
      this.#held.delete(ip)
    }
    for (const ip of wanted) {
      if (this.#held.has(ip)) continue
      ignore(EEXIST, () => this.#rtnl.addRule(rule(ip)))
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
    const { base } = this.#options
    for (const rule of this.#rtnl.rules())
      if (rule.table === base + CROSS_TABLE || rule.table === base + CROSS_UDP_TABLE)
        this.#rtnl.deleteRule(rule)
    for (const table of [base + CROSS_TABLE, base + CROSS_UDP_TABLE]) this.#rtnl.flushRoutes({ table })
    if (pairs.length === 0) return
    for (const [to, mtu] of [
      ['default', CROSS_MTU[4]],
      ['default6', CROSS_MTU[6]],
    ] as const)
      this.#rtnl.replaceRoute({ to, dev: device, table: base + CROSS_TABLE, mtu })
    for (const { local, foreign } of pairs) {
      const family = familyOf(local)
      const [from, to] = [host(local), host(foreign)]
      for (const what of this.#translated())
        ignore(EEXIST, () =>
          this.#rtnl.addRule({ family, priority: base, table: base + CROSS_TABLE, from, to, ...what }),
        )
      const table = base + CROSS_UDP_TABLE
      ignore(EEXIST, () =>
        this.#rtnl.replaceRoute({ to, dev: device, table, source: local, mtu: CROSS_MTU[family] }),
      )
      ignore(EEXIST, () =>
        this.#rtnl.addRule({ family, priority: CROSS_UDP_PRIORITY, table, to, protocol: 17 }),
      )
    }
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
    const { base } = this.#options
    for (const family of [4, 6] as const)
      for (const rule of this.#rtnl.rules(family)) {
        const ours = rule.table !== undefined && rule.table >= base && rule.table < base + 64
        const priorities = [rule.table, PARK_PRIORITY, base + HOLD_PRIORITY, base, CROSS_UDP_PRIORITY]
        if (ours && priorities.includes(rule.priority)) this.#rtnl.deleteRule(rule)
      }
    const tables = new Set(
      this.#rtnl
        .routes()
        .map((r) => r.table)
        .filter((t) => t >= base && t < base + 64),
    )
    for (const table of tables) this.#rtnl.flushRoutes({ table })
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
