/**
 * Which access networks exist and whether they are usable: a model of the kernel's links, addresses and routes, fed with
 * its events and, when events may have been lost, with whole snapshots. It performs no I/O; AccessMonitor (service.ts)
 * owns the socket and the clock.
 *
 * An *access* is an interface with an address and a default route. It is `down` until it has a carrier, a usable source
 * address and a default route of the same family; then `up`; `degrading` when sent packets get lost or nothing comes
 * back; `draining` when its traffic is to move away.
 *
 * Going down is reported at once, on the first event that implies it. Linux removes the IPv4 routes of an interface that
 * is set down without an event: the model does the same.
 */
import { overlaps, parseInterfaceAddress } from '../core/address.ts'
import { GodwitError } from '../core/errors.ts'
import { matchesAny } from '../core/pattern.ts'

export type Family = 4 | 6

/** Facts of a link for the model; the terms are those of linux/rtnetlink. */
export interface LinkFacts {
  readonly index: number
  readonly name: string
  readonly kind: string | undefined
  /** Hardware address; empty or absent where there is none. */
  readonly mac?: string
  readonly up: boolean
  readonly carrier: boolean
  readonly operState: string
  readonly loopback: boolean
  readonly mtu: number
  /** Index of what it is a port of. */
  readonly master?: number | undefined
}

export interface AddressFacts {
  readonly index: number
  readonly family: Family
  readonly address: string
  readonly prefixLength: number
  readonly scope: string
  readonly tentative: boolean
  readonly deprecated: boolean
}

export interface RouteFacts {
  readonly family: Family
  readonly table: number
  readonly type: string
  /** Prefix; `default` or `default6`. */
  readonly to: string
  readonly via?: string
  readonly dev?: string
  readonly metric?: number
}

export type NetworkEvent<R extends RouteFacts = RouteFacts> =
  | { readonly type: 'link' | 'link-gone'; readonly link: LinkFacts }
  | { readonly type: 'address' | 'address-gone'; readonly address: AddressFacts }
  | { readonly type: 'route' | 'route-gone'; readonly route: R }

export type AccessState = 'up' | 'degrading' | 'draining' | 'down'

export interface AccessAddress {
  readonly family: Family
  readonly address: string
  readonly prefixLength: number
  /** Not for new connections. */
  readonly deprecated: boolean
}

export interface Gateway {
  readonly family: Family
  /** Undefined: the interface itself is the way (point to point). */
  readonly via: string | undefined
  readonly metric: number
}

export interface Access {
  readonly name: string
  readonly ifindex: number
  readonly state: AccessState
  /** Why it is in this state, for people. */
  readonly reason: string
  /** When it came into this state. */
  readonly since: number
  /** Usable as sources, in the kernel's order: temporary ones and those for ever alike. */
  readonly addresses: readonly AccessAddress[]
  /** Best first. */
  readonly gateways: readonly Gateway[]
  /** Families with both an address and a gateway. */
  readonly families: readonly Family[]
  readonly mtu: number
  /**
   * Incremented when the basis of sockets or paths may have changed: the interface came back, another gateway, or another
   * preferred source address. Paths over an older generation must be announced again.
   */
  readonly generation: number
}

/** Event that changed an access. */
export type AccessCause =
  | 'appeared'
  | 'removed'
  | 'link up'
  | 'link down'
  | 'carrier'
  | 'carrier lost'
  | 'address added'
  | 'address removed'
  | 'address settled'
  | 'route added'
  | 'route removed'
  | 'quality'
  | 'drained'
  | 'undrained'

export type AccessEvent =
  /** `before` is undefined when the access was not known. An access that was `removed` is not listed any more. */
  | {
      readonly type: 'access'
      readonly access: Access
      readonly before: Access | undefined
      readonly cause: AccessCause
      readonly at: number
    }
  /** The host slept: everything known about paths is old. */
  | { readonly type: 'woke'; readonly sleptMs: number; readonly at: number }

/** Measurements of the paths over one access, set by their owner. */
export interface AccessQuality {
  /** Smoothed, milliseconds; NaN while unknown. */
  readonly rttMs: number
  /** 0 to 1; NaN while unknown. */
  readonly loss: number
  /** Whether any path over this access works; undefined while none has been tried. */
  readonly working: boolean | undefined
}

export interface AccessInit {
  /** Patterns of interfaces that are accesses whatever they are. `*` alone names none. */
  readonly named?: readonly string[]
  /** Patterns of interfaces that never are. */
  readonly never?: readonly string[]
  /** Patterns of godwit's own interfaces. */
  readonly ours?: readonly string[]
}

/** An interface that may carry traffic, an access or one that leads to its own link alone. */
export interface UsableInterface {
  readonly link: LinkFacts
  readonly addresses: readonly AddressFacts[]
  /** Has a way out. */
  readonly isAccess: boolean
}

/** An interface that is no access. */
export interface UnusedInterface {
  readonly name: string
  readonly reason: string
  /** With their prefix lengths. */
  readonly addresses: readonly string[]
}

export interface AccessSnapshot<R extends RouteFacts = RouteFacts> {
  readonly links: readonly LinkFacts[]
  readonly addresses: readonly AddressFacts[]
  /** Both families, one for each next hop; of other tables than main and `tables` they are ignored. */
  readonly routes: readonly R[]
  /** Tables beside main that rules lead to by the source or the interface. */
  readonly tables?: ReadonlySet<number>
}

/** The routing table that network managers write to (rtnetlink(7)). */
export const MAIN_TABLE = 254
/** Loss above which an access is degrading, and below which it works again. */
const DEGRADING_LOSS = 0.05
const WELL_LOSS = 0.02
/**
 * An address that is not preferred any more is left after this (ms). Routers that announce an old prefix make its addresses
 * preferred and deprecated again with each advertisement.
 */
export const SETTLE_MS = 2000

/** Never an access unless named: inner sides of containers, virtual machines and tunnels. */
const INNER_NAMES = ['docker*', 'br-*', 'virbr*', 'veth*', 'vnet*', 'cni*', 'cali*', 'flannel*', 'podman*']
/** The network of a host has at most so many bits, also where its address stands alone (RFC 7278). */
const HOST_NETWORK = 64

const INNER_KINDS = new Set([
  'dummy',
  'ifb',
  'tun',
  'wireguard',
  'gre',
  'ipip',
  'sit',
  'ip6tnl',
  'vrf',
  'vti',
  'xfrm',
])
/** What such a device is made of carries its packets, and has no addresses. */
const MADE_OF_PORTS = new Set(['bond', 'bridge', 'team'])
/** Made by the kernel with a module, or nothing that an address is given to: not worth a word while they are set down. */
const MADE_BY_ITSELF = new Set([
  'erspan',
  'gretap',
  'ip6erspan',
  'ip6gre',
  'ip6gretap',
  'nlmon',
  'vcan',
  'vti6',
])

/** One interface and its known state. */
interface Interface {
  link: LinkFacts
  /** Has been an access: it stays one, down, while the interface exists. */
  chosen: boolean
  draining: boolean
  degrading: boolean
  quality: AccessQuality
  generation: number
  /** The identity that the generation counts changes of. */
  identity: string
  /** The address that sockets use, by family, and since when another would be preferred. */
  readonly sources: Record<Family, Source>
  access: Access | undefined
}

/** The address that sockets of a family use. */
interface Source {
  address: string | undefined
  /** Since when another would be preferred; undefined: none would. */
  staleSince: number | undefined
}

/** Why an interface that is set up is no access. */
const NO_ROUTE = 'no default route'
const NO_ADDRESS = 'no address and no default route'
const NO_INTERFACE = 'there is no interface of this name now'
const NEEDS = 'it becomes an access when it has an address and a default route'
const HINTS: ReadonlyMap<string, string> = new Map([
  ['down: the interface is set down', `ip link set IFACE up; ${NEEDS}`],
  ['down: no carrier', `plug in its cable, or connect it to a network; ${NEEDS}`],
  [NO_ADDRESS, `start DHCP on it; ${NEEDS}`],
  [NO_INTERFACE, 'plug it in, or correct its name in the configuration: `ip link` lists them'],
  [NO_ROUTE, 'give it one: ip route add default via GATEWAY dev IFACE metric 1000'],
])

const FAMILIES = [4, 6] as const
const NO_SOURCE: Source = { address: undefined, staleSince: undefined }
const UNKNOWN: AccessQuality = { rttMs: Number.NaN, loss: Number.NaN, working: undefined }

/** `R`: routes as the owner has them; `routes()` gives them back. */
export class AccessMachine<R extends RouteFacts = RouteFacts> {
  #named: readonly string[]
  #never: readonly string[]
  readonly #ours: readonly string[]
  readonly #interfaces = new Map<number, Interface>()
  readonly #addresses = new Map<string, AddressFacts>()
  readonly #routes = new Map<string, R>()
  #tables: ReadonlySet<number> = new Set([MAIN_TABLE])
  readonly #events: AccessEvent[] = []

  constructor(init: AccessInit = {}) {
    this.#named = withoutAny(init.named ?? [])
    this.#never = init.never ?? []
    this.#ours = ['lo', ...(init.ours ?? [])]
  }

  /** Everything the kernel has, replacing what was known. */
  /** Takes effect with the next snapshot. */
  setPatterns({
    named,
    never,
  }: {
    readonly named: readonly string[]
    readonly never: readonly string[]
  }): void {
    this.#named = withoutAny(named)
    this.#never = never
  }

  handleSnapshot(snapshot: AccessSnapshot<R>, now: number): void {
    const present = new Set(snapshot.links.map((link) => link.index))
    for (const { link } of [...this.#interfaces.values()])
      if (!present.has(link.index)) this.#removeLink(link.index, now)
    this.#addresses.clear()
    this.#routes.clear()
    for (const address of snapshot.addresses) this.#addresses.set(addressKey(address), address)
    this.#tables = new Set([MAIN_TABLE, ...(snapshot.tables ?? [])])
    for (const route of snapshot.routes)
      if (this.#tables.has(route.table)) this.#routes.set(routeKey(route), route)
    for (const link of snapshot.links) this.#setLink(link, now)
  }

  /** One change. */
  handleEvent(event: NetworkEvent<R>, now: number): void {
    switch (event.type) {
      case 'link':
        this.#setLink(event.link, now)
        break
      case 'link-gone':
        this.#removeLink(event.link.index, now)
        break
      case 'address':
        this.#addresses.set(addressKey(event.address), event.address)
        this.#review(event.address.index, 'address added', now)
        break
      case 'address-gone':
        this.#addresses.delete(addressKey(event.address))
        this.#review(event.address.index, 'address removed', now)
        break
      case 'route':
      case 'route-gone':
        this.#setRoute(event.route, event.type === 'route', now)
        break
    }
  }

  /** Takes measurements of the paths over this access. */
  handleQuality(name: string, quality: AccessQuality, now: number): void {
    const found = this.#find(name)
    if (found === undefined) return
    found.quality = quality
    const lossy = quality.loss >= (found.degrading ? WELL_LOSS : DEGRADING_LOSS)
    found.degrading = quality.working === false || lossy
    this.#review(found.link.index, 'quality', now)
  }

  /** Traffic is to leave this access while it still works; false when there is no such access. */
  setDraining(name: string, draining: boolean, now: number): boolean {
    const found = this.#find(name)
    if (found?.access === undefined) return false
    found.draining = draining
    this.#review(found.link.index, draining ? 'drained' : 'undrained', now)
    return true
  }

  /** When to call `handleTimeout`; undefined: not. */
  nextTimeout(): number | undefined {
    let next: number | undefined
    for (const { sources } of this.#interfaces.values())
      for (const { staleSince } of Object.values(sources))
        if (staleSince !== undefined)
          next = Math.min(next ?? Number.POSITIVE_INFINITY, staleSince + SETTLE_MS)
    return next
  }

  handleTimeout(now: number): void {
    for (const { link } of [...this.#interfaces.values()]) this.#review(link.index, 'address settled', now)
  }

  handleWake(sleptMs: number, now: number): void {
    this.#events.push({ type: 'woke', sleptMs, at: now })
  }

  /** The next event, undefined when there is none. */
  poll(): AccessEvent | undefined {
    return this.#events.shift()
  }

  /** In the order of interface indexes. */
  accesses(): Access[] {
    return [...this.#interfaces.values()]
      .flatMap((each) => each.access ?? [])
      .sort((a, b) => a.ifindex - b.ifindex)
  }

  access(name: string): Access | undefined {
    return this.#find(name)?.access
  }

  /**
   * Interfaces that are set up and have a carrier, with all their addresses; none that is ours, never to be used or an
   * inner side. A bridge counts when it has a way out.
   */
  usable(): UsableInterface[] {
    const out: UsableInterface[] = []
    for (const { link } of this.#interfaces.values()) {
      if (!link.up || !link.carrier) continue
      const isAccess = this.#gatewaysOf(link.name).length > 0
      if (!this.#isAccess(link, isAccess || link.kind !== 'bridge')) continue
      const addresses = [...this.#addresses.values()].filter(({ index }) => index === link.index)
      out.push({ link, addresses, isAccess })
    }
    return out
  }

  /** Confirmed addresses of all interfaces but our own, that packets to elsewhere may be from. */
  addresses(): AddressFacts[] {
    return [...this.#addresses.values()].filter((address) => {
      const link = this.#interfaces.get(address.index)?.link
      return isSource(address) && link !== undefined && (link.loopback || !matchesAny(this.#ours, link.name))
    })
  }

  /**
   * Interfaces with an address in a network of IPv4 in which an access has one too: a cable and a radio of the same router.
   * Each would answer for the addresses of the other.
   */
  sharing(): string[] {
    const own = [...this.#addresses.values()].flatMap(({ family, address, prefixLength, index }) => {
      const link = this.#interfaces.get(index)
      const prefix = parseInterfaceAddress(`${address}/${prefixLength}`)
      if (family !== 4 || !prefix.ok || link === undefined || link.link.loopback) return []
      return matchesAny(this.#ours, link.link.name) ? [] : [{ link, prefix: prefix.value }]
    })
    const shares = (a: (typeof own)[number]) =>
      own.some(
        (b) =>
          a.link !== b.link &&
          (a.link.access !== undefined || b.link.access !== undefined) &&
          overlaps(a.prefix, b.prefix),
      )
    return [...new Set(own.filter(shares).map(({ link }) => link.link.name))]
  }

  /**
   * Addresses in the IPv6 network of an access that lead into a TUN of this host, each with the access: a translator of IPv4
   * (464XLAT, RFC 6877 §6.3: clatd, tayga) reads and writes packets there, and those that it writes are from this address.
   */
  translators(): { readonly address: string; readonly access: string }[] {
    const networks = this.accesses().flatMap(({ name, addresses }) =>
      addresses.flatMap(({ family, address, prefixLength }) => {
        const prefix = parseInterfaceAddress(`${address}/${Math.min(prefixLength, HOST_NETWORK)}`)
        return family === 6 && prefix.ok ? [{ name, prefix: prefix.value }] : []
      }),
    )
    return this.mainRoutes().flatMap(({ family, type, to, via, dev }) => {
      if (family !== 6 || type !== 'unicast' || via !== undefined || dev === undefined) return []
      if (!to.endsWith('/128')) return []
      const link = this.#find(dev)?.link
      const prefix = parseInterfaceAddress(to)
      if (link === undefined || !isTun(link) || matchesAny(this.#ours, link.name) || !prefix.ok) return []
      const network = networks.find((each) => overlaps(each.prefix, prefix.value))
      return network === undefined ? [] : [{ address: to.slice(0, -'/128'.length), access: network.name }]
    })
  }

  quality(name: string): AccessQuality {
    return this.#find(name)?.quality ?? UNKNOWN
  }

  /** The unicast routes over an interface, those of the main table first. */
  routes(name: string): R[] {
    return [...this.#routes.values()]
      .filter((route) => route.dev === name && route.type === 'unicast')
      .sort((a, b) => Number(a.table !== MAIN_TABLE) - Number(b.table !== MAIN_TABLE))
  }

  mainRoutes(): R[] {
    return [...this.#routes.values()].filter(({ table }) => table === MAIN_TABLE)
  }

  /** Whether routes of this table count. */
  follows(table: number): boolean {
    return this.#tables.has(table)
  }

  /**
   * Interfaces that are not accesses, with the reason; inner sides and tunnels only if they are set up. With them names that the
   * configuration has and no interface.
   */
  unused(): UnusedInterface[] {
    const absent = this.#named.filter(
      (name) => !name.includes('*') && !matchesAny(this.#never, name) && this.#find(name) === undefined,
    )
    const none = [...new Set(absent)].map((name) => ({ name, reason: NO_INTERFACE, addresses: [] }))
    const unused = [...this.#interfaces.values()].flatMap(({ link, access }) => {
      if (access !== undefined || link.loopback || matchesAny(this.#ours, link.name)) return []
      if (!link.up && isInner(link)) return []
      const addresses = this.#addressesOf(link.index).map((each) => `${each.address}/${each.prefixLength}`)
      const master = link.master === undefined ? undefined : this.#interfaces.get(link.master)?.link
      if (addresses.length === 0 && master?.kind !== undefined && MADE_OF_PORTS.has(master.kind))
        return [
          {
            name: link.name,
            reason: `a port of ${master.name}; ${master.name} carries its packets`,
            addresses,
          },
        ]
      const why = this.#whyNoAccess(link, this.#gatewaysOf(link.name).length > 0)
      const reason = whyDown(link) ?? (why === NO_ROUTE && addresses.length === 0 ? NO_ADDRESS : why)
      return reason === undefined ? [] : [{ name: link.name, reason, addresses }]
    })
    return [...unused, ...none]
  }

  #find(name: string): Interface | undefined {
    for (const each of this.#interfaces.values()) if (each.link.name === name) return each
    return undefined
  }

  #setRoute(route: R, present: boolean, now: number): void {
    if (!this.#tables.has(route.table) || route.dev === undefined) return
    if (present) this.#routes.set(routeKey(route), route)
    else this.#routes.delete(routeKey(route))
    const index = this.#find(route.dev)?.link.index
    if (index !== undefined) this.#review(index, present ? 'route added' : 'route removed', now)
  }

  #setLink(link: LinkFacts, now: number): void {
    const known = this.#interfaces.get(link.index)
    if (known !== undefined && known.link.name !== link.name) this.#removeLink(link.index, now)
    if (known === undefined || known.link.name !== link.name) {
      this.#interfaces.set(link.index, {
        link,
        chosen: false,
        draining: false,
        degrading: false,
        quality: UNKNOWN,
        generation: 0,
        identity: '',
        sources: { 4: { ...NO_SOURCE }, 6: { ...NO_SOURCE } },
        access: undefined,
      })
      this.#review(link.index, 'appeared', now)
      return
    }
    const before = known.link
    known.link = link
    if (!link.up) {
      for (const [key, route] of this.#routes)
        if (route.dev === link.name && route.family === 4) this.#routes.delete(key)
    }
    const cause =
      before.up !== link.up ? (link.up ? 'link up' : 'link down') : link.carrier ? 'carrier' : 'carrier lost'
    this.#review(link.index, cause, now)
  }

  #removeLink(index: number, now: number): void {
    const known = this.#interfaces.get(index)
    if (known === undefined) return
    this.#interfaces.delete(index)
    for (const [key, address] of this.#addresses) if (address.index === index) this.#addresses.delete(key)
    for (const [key, route] of this.#routes) if (route.dev === known.link.name) this.#routes.delete(key)
    const before = known.access
    if (before === undefined) return
    const access: Access = {
      ...before,
      state: 'down',
      reason: 'the interface is gone',
      since: before.state === 'down' ? before.since : now,
      addresses: [],
      gateways: [],
      families: [],
      generation: before.generation + 1,
    }
    this.#events.push({ type: 'access', access, before, cause: 'removed', at: now })
  }

  /** Recomputes the state of an interface, and emits an event if it changed. */
  #review(index: number, cause: AccessCause, now: number): void {
    const known = this.#interfaces.get(index)
    if (known === undefined) return
    const { link } = known
    const gateways = this.#gatewaysOf(link.name)
    known.chosen ||= this.#isAccess(link, gateways.length > 0)
    if (!known.chosen) return
    const addresses = this.#addressesOf(index)
    const families = FAMILIES.filter(
      (family) =>
        gateways.some((gateway) => gateway.family === family) &&
        addresses.some((address) => address.family === family),
    )
    const { state, reason } = judge(known, addresses, gateways, families)
    if (state === 'down') {
      // The measurements were of another network.
      known.quality = UNKNOWN
      known.degrading = false
    }
    const before = known.access
    const rests = FAMILIES.map((family) => [
      sourceOf(known.sources[family], addresses, family, now),
      gateways.find((gateway) => gateway.family === family)?.via,
    ])
    const identity = JSON.stringify([rests, families, link.up && link.carrier])
    if (identity !== known.identity) {
      known.identity = identity
      known.generation++
    }
    const access: Access = {
      name: link.name,
      ifindex: index,
      state,
      reason,
      since: before !== undefined && before.state === state ? before.since : now,
      addresses,
      gateways,
      families,
      mtu: link.mtu,
      generation: known.generation,
    }
    known.access = access
    if (before === undefined || differs(before, access))
      this.#events.push({ type: 'access', access, before, cause, at: now })
  }

  #isAccess(link: LinkFacts, hasGateway: boolean): boolean {
    return this.#whyNoAccess(link, hasGateway) === undefined
  }

  #whyNoAccess(link: LinkFacts, hasGateway: boolean): string | undefined {
    if (link.loopback || matchesAny(this.#ours, link.name)) return "godwit's own"
    if (matchesAny(this.#never, link.name)) return '[access] use = "never"'
    if (matchesAny(this.#named, link.name)) return undefined
    const mend = `; [access."${link.name}"] makes it one`
    if (matchesAny(INNER_NAMES, link.name)) return `the inner side of containers or virtual machines${mend}`
    const isTap = link.kind === 'tun' && !isTun(link)
    if (link.kind !== undefined && INNER_KINDS.has(link.kind) && !isTap)
      return `a device of kind ${link.kind}, not a network of its own${mend}`
    return hasGateway ? undefined : NO_ROUTE
  }

  /** Those that may be a source towards the Internet; deprecated ones only after all others. */
  #addressesOf(index: number): AccessAddress[] {
    return [...this.#addresses.values()]
      .filter((address) => address.index === index && isSource(address))
      .map(({ family, address, prefixLength, deprecated }) => ({ family, address, prefixLength, deprecated }))
      .sort((a, b) => Number(a.deprecated) - Number(b.deprecated))
  }

  #gatewaysOf(name: string): Gateway[] {
    return this.routes(name)
      .filter((route) => route.to === 'default' || route.to === 'default6')
      .map((route) => ({ family: route.family, via: route.via, metric: route.metric ?? 0 }))
      .sort((a, b) => a.metric - b.metric || a.family - b.family)
  }
}

/**
 * The address for sockets: keeps the current one while it is preferred and for SETTLE_MS after. A removed one is replaced
 * at once.
 */
function sourceOf(
  known: Source,
  addresses: readonly AccessAddress[],
  family: Family,
  now: number,
): string | undefined {
  const own = addresses.filter((address) => address.family === family)
  const current = own.find(({ address }) => address === known.address)
  const best = own[0] // deprecated ones are last
  if (current === undefined) known.address = best?.address
  else if (current.deprecated && best?.deprecated === false) {
    known.staleSince ??= now
    if (now - known.staleSince < SETTLE_MS) return known.address
    known.address = best.address
  }
  known.staleSince = undefined
  return known.address
}

function isInner({ name, kind }: LinkFacts): boolean {
  if (matchesAny(INNER_NAMES, name)) return true
  return kind !== undefined && (INNER_KINDS.has(kind) || MADE_BY_ITSELF.has(kind))
}

function whyDown(link: LinkFacts): string | undefined {
  // A bridge without ports has no carrier.
  if (isInner(link) || (link.up && link.kind === 'bridge')) return undefined
  return link.up ? (link.carrier ? undefined : 'down: no carrier') : 'down: the interface is set down'
}

/**
 * NO_ACCESS for a name that no access has: why an interface of that name is none and what makes it one, else which names there
 * are.
 */
export function noAccess(
  name: string,
  accesses: readonly { readonly name: string }[],
  unused: readonly UnusedInterface[],
): GodwitError {
  const names = accesses.map((each) => each.name).join(', ') || 'none'
  const why = unused.find((each) => each.name === name)?.reason
  if (why === undefined)
    return new GodwitError('NO_ACCESS', `there is no access ${name}`, { hint: `accesses: ${names}` })
  const [reason, mend] = why.split('; ') as [string, string?]
  const hint = mend ?? HINTS.get(reason) ?? `change that in the configuration, then: godwit reload`
  return new GodwitError('NO_ACCESS', `${name} is no access: ${reason}`, {
    hint: `${hint.replace('IFACE', name)}; accesses: ${names}`,
  })
}

function judge(
  known: Interface,
  addresses: readonly AccessAddress[],
  gateways: readonly Gateway[],
  families: readonly Family[],
): { state: AccessState; reason: string } {
  const { link, quality } = known
  const down = (reason: string) => ({ state: 'down' as const, reason })
  if (!link.up) return down('the interface is set down')
  if (!link.carrier) return down('no carrier')
  if (link.operState === 'dormant') return down('waiting for authentication')
  if (addresses.length === 0) return down('no address')
  if (gateways.length === 0) return down('no default route')
  if (families.length === 0) return down('address and default route are of different IP families')
  if (known.draining) return { state: 'draining', reason: 'its traffic is to move away' }
  if (known.degrading) {
    const reason =
      quality.working === false ? 'nothing comes back over it' : `loses ${Math.round(quality.loss * 100)} %`
    return { state: 'degrading', reason }
  }
  const names = families.map((family) => `IPv${family}`).join(' and ')
  return { state: 'up', reason: `has a carrier, an address and a default route for ${names}` }
}

/** A TAP device has a hardware address: an Ethernet of a hypervisor or an emulator, not a tunnel. */
function isTun({ kind, mac }: LinkFacts): boolean {
  return kind === 'tun' && (mac === undefined || mac === '')
}

function isSource({ tentative, scope }: AddressFacts): boolean {
  return !tentative && (scope === 'global' || scope === 'site')
}

function differs(a: Access, b: Access): boolean {
  return (
    a.state !== b.state ||
    a.reason !== b.reason ||
    a.generation !== b.generation ||
    a.mtu !== b.mtu ||
    JSON.stringify([a.addresses, a.gateways]) !== JSON.stringify([b.addresses, b.gateways])
  )
}

function addressKey(address: AddressFacts): string {
  return `${address.index} ${address.address}/${address.prefixLength}`
}

function routeKey(route: RouteFacts): string {
  return `${route.table} ${route.family} ${route.to} ${route.metric ?? 0} ${route.dev ?? ''} ${route.via ?? ''} ${route.type}`
}

/** `*` alone names none. */
function withoutAny(patterns: readonly string[]): string[] {
  return patterns.filter((pattern) => !/^\*+$/.test(pattern))
}
