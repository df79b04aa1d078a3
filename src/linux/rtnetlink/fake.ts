/**
 * A network configuration in memory, for tests: it behaves as the kernel does (test/suites/rtnl.ts runs on both), and
 * delivers events before the call that causes them returns. Namespaces are instances that share a `FakeNetwork`. Beyond
 * `Rtnl` it has `setCarrier`, `failNext` and `overrun`, to simulate spontaneous changes of the kernel.
 */

import { contains, formatAddress, formatPrefix, maskAddress } from '../../core/address.ts'
import { EEXIST, ENETUNREACH, ENODEV, ENOENT } from '../../core/errno.ts'
import { KernelError } from '../libc.ts'
import { prefixOf, TABLE_MAIN } from './codec/index.ts'
import { decide } from './decide.ts'
import type {
  Address,
  AddressOptions,
  Family,
  Link,
  LinkChanges,
  Neighbour,
  NewLink,
  NewLinkOptions,
  Qdisc,
  Route,
  RouteFilter,
  RouteQuery,
  RouteSpec,
  Rtnl,
  RtnlEvent,
  RuleSpec,
  WatchTopic,
} from './types.ts'

const TABLE_LOCAL = 255
const PROTOCOL_KERNEL = 2

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

interface FakeLink extends Mutable<Link> {
  owner: FakeRtnl
  /** The other end of a veth. */
  peer: FakeLink | undefined
  /** Carrier as scripted; a veth has its peer's state beside. */
  cable: boolean
}

/** The namespaces that know each other by name. */
export class FakeNetwork {
  readonly namespaces = new Map<string, FakeRtnl>()
  #nextIndex = 2

  nextIndex(): number {
    return this.#nextIndex++
  }
}

export class FakeRtnl implements Rtnl {
  readonly #network: FakeNetwork
  #links: FakeLink[] = []
  #addresses: Address[] = []
  #routes: Route[] = []
  #rules: RuleSpec[] = []
  #neighbours: Neighbour[] = []
  readonly #qdiscs = new Map<string, Qdisc>()
  readonly #watchers = new Set<(event: RtnlEvent) => void>()
  #failure: number | undefined

  constructor(network: FakeNetwork = new FakeNetwork(), name = '') {
    this.#network = network
    network.namespaces.set(name, this)
    this.#addLink('lo', 'loopback', { mtu: 65536, index: 1 }, undefined)
    for (const family of [4, 6] as const)
      for (const [priority, table] of [
        [0, TABLE_LOCAL],
        [32766, TABLE_MAIN],
        ...(family === 4 ? [[32767, 253]] : []),
      ])
        this.#rules.push({ family, priority: priority!, table: table!, origin: PROTOCOL_KERNEL })
  }

  // ---- what a test does to it

  /** Plugs a cable in or pulls it. */
  setCarrier(name: string, carrier: boolean): void {
    const link = this.#need(name)
    link.cable = carrier
    link.owner.#refresh(link)
  }

  /** The next call that changes something throws this errno. */
  failNext(errno: number): void {
    this.#failure = errno
  }

  /** Events were lost. */
  overrun(): void {
    this.#emit({ type: 'resync' })
  }

  addNeighbour(neighbour: Neighbour): void {
    this.#neighbours.push(neighbour)
  }

  qdisc(link: string): Qdisc | undefined {
    return this.#qdiscs.get(link)
  }

  // ---- links

  links(): Link[] {
    return this.#links.map(publicLink)
  }

  link(which: string | number): Link | undefined {
    const link = this.#links.find((each) => each.name === which || each.index === which)
    return link && publicLink(link)
  }

  createLink(spec: NewLink): void {
    this.#changing(`create ${spec.kind} ${spec.name}`)
    const far = spec.kind === 'veth' ? this.#namespace(spec.peer.netns) : undefined
    if (this.link(spec.name) !== undefined) throw new KernelError(`create ${spec.kind} ${spec.name}`, EEXIST)
    if (spec.kind === 'veth' && far !== undefined) {
      if (far.link(spec.peer.name) !== undefined || (far === this && spec.peer.name === spec.name))
        throw new KernelError(`create veth ${spec.name}`, EEXIST)
      const peer = far.#addLink(spec.peer.name, 'veth', spec.peer, undefined)
      const link = this.#addLink(spec.name, 'veth', spec, peer)
      peer.peer = link
      this.#refresh(link)
      far.#refresh(peer)
    } else this.#refresh(this.#addLink(spec.name, spec.kind, spec, undefined))
  }

  setLink(name: string, changes: LinkChanges): void {
    this.#changing(`change link ${name}`)
    const link = this.#need(name)
    if (changes.rename !== undefined) {
      if (this.link(changes.rename) !== undefined) throw new KernelError(`change link ${name}`, EEXIST)
      const rename = changes.rename
      link.name = rename
      this.#addresses = this.#addresses.map((each) => (each.link === name ? { ...each, link: rename } : each))
      this.#routes = this.#routes.map((each) => (each.dev === name ? { ...each, dev: rename } : each))
    }
    if (changes.alias !== undefined) link.alias = changes.alias
    if (changes.mtu !== undefined) link.mtu = changes.mtu
    if (changes.mac !== undefined) link.mac = changes.mac
    if (changes.gsoMaxSize !== undefined) link.gsoMaxSize = changes.gsoMaxSize
    if (changes.master !== undefined)
      link.master = changes.master === null ? undefined : this.#need(changes.master).index
    if (changes.up !== undefined && changes.up !== link.up) {
      link.up = changes.up
      if (!link.up) this.#dropRoutes(link.name)
      else this.#raised(link)
    }
    if (changes.netns === undefined) {
      this.#refresh(link)
      return
    }
    const target = this.#namespace(changes.netns)
    this.#remove(link)
    link.owner = target
    link.up = false
    target.#links.push(link)
    target.#refresh(link)
  }

  deleteLink(name: string): boolean {
    this.#changing(`delete link ${name}`)
    const link = this.#links.find((each) => each.name === name)
    if (link === undefined) return false
    this.#remove(link)
    const { peer } = link
    if (peer !== undefined) peer.owner.#remove(peer)
    return true
  }

  #addLink(name: string, kind: string, options: NewLinkOptions, peer: FakeLink | undefined): FakeLink {
    const link: FakeLink = {
      index: options.index ?? this.#network.nextIndex(),
      name,
      kind: kind === 'loopback' ? undefined : kind,
      up: options.up ?? false,
      carrier: false,
      operState: 'down',
      loopback: kind === 'loopback',
      mtu: options.mtu ?? 1500,
      mac: options.mac ?? '02:00:00:00:00:01',
      alias: undefined,
      master: undefined,
      gsoMaxSize: options.gsoMaxSize ?? 65536,
      rxBytes: 0,
      txBytes: 0,
      rxPackets: 0,
      txPackets: 0,
      owner: this,
      peer,
      cable: true,
    }
    this.#links.push(link)
    return link
  }

  /** Addresses that the kernel adds by itself, and the routes of those that are there. */
  #raised(link: FakeLink): void {
    if (link.loopback && !this.#addresses.some((each) => each.link === link.name))
      for (const address of ['127.0.0.1/8', '::1/128']) this.#putAddress(link, address, {})
    else for (const each of this.#addresses) if (each.link === link.name) this.#putPrefixRoute(each)
  }

  #remove(link: FakeLink): void {
    const { name } = link
    this.#dropRoutes(name)
    for (const each of this.#addresses.filter((each) => each.link === name)) this.#dropAddress(each)
    this.#links = this.#links.filter((each) => each !== link)
    this.#emit({ type: 'link-gone', link: publicLink(link) })
  }

  #dropAddress(address: Address): void {
    this.#addresses = this.#addresses.filter((each) => each !== address)
    this.#emit({ type: 'address-gone', address })
  }

  #dropRoutes(dev: string): void {
    for (const route of this.#routes.filter((each) => each.dev === dev)) this.#dropRoute(route)
  }

  #dropRoute(route: Route): void {
    this.#routes = this.#routes.filter((each) => each !== route)
    this.#emit({ type: 'route-gone', route })
  }

  /** Recomputes the carrier of a link, tells about it, and its peer's. */
  #refresh(link: FakeLink): void {
    const update = (each: FakeLink) => {
      each.carrier = each.up && each.cable && (each.peer === undefined || (each.peer.up && each.peer.cable))
      each.operState = each.loopback ? 'unknown' : each.carrier ? 'up' : each.up ? 'lowerlayerdown' : 'down'
      each.owner.#emit({ type: 'link', link: publicLink(each) })
    }
    update(link)
    const { peer } = link
    if (peer?.owner.link(peer.name) !== undefined) update(peer)
  }

  // ---- addresses

  addresses(filter: { readonly link?: string; readonly family?: Family } = {}): Address[] {
    if (filter.link !== undefined) this.#need(filter.link)
    return this.#addresses.filter(
      (each) =>
        (filter.link === undefined || each.link === filter.link) &&
        (filter.family === undefined || each.family === filter.family),
    )
  }

  addAddress(name: string, text: string, options: AddressOptions = {}): void {
    const op = `add address ${text} to ${name}`
    this.#changing(op)
    const link = this.#need(name)
    if (this.#findAddress(name, text) !== undefined) throw new KernelError(op, EEXIST)
    this.#putAddress(link, text, options)
  }

  deleteAddress(name: string, text: string): boolean {
    this.#changing(`delete address ${text} from ${name}`)
    const address = this.#findAddress(name, text)
    if (address === undefined) return false
    this.#dropAddress(address)
    const prefix = { ...prefixOf(text) }
    const net = formatPrefix({ address: maskAddress(prefix.address, prefix.length), length: prefix.length })
    for (const route of this.#routes)
      if (
        route.dev === name &&
        (route.source === address.address || (route.protocol === 2 && route.to === net))
      )
        this.#dropRoute(route)
    return true
  }

  #findAddress(link: string, text: string): Address | undefined {
    const { address, length } = prefixOf(text)
    const wanted = formatAddress(address)
    return this.#addresses.find(
      (each) => each.link === link && each.address === wanted && each.prefixLength === length,
    )
  }

  #putAddress(link: FakeLink, text: string, options: AddressOptions): void {
    const { address: bytes, length } = prefixOf(text)
    const address: Address = {
      link: link.name,
      index: link.index,
      family: bytes.length === 4 ? 4 : 6,
      address: formatAddress(bytes),
      prefixLength: length,
      peer: options.peer,
      scope: link.loopback ? 'host' : bytes[0] === 0xfe && (bytes[1]! & 0xc0) === 0x80 ? 'link' : 'global',
      tentative: false,
      deprecated: options.preferredSeconds === 0,
      temporary: false,
      validSeconds: options.validSeconds,
      preferredSeconds: options.preferredSeconds ?? options.validSeconds,
    }
    this.#addresses.push(address)
    this.#emit({ type: 'address', address })
    if (link.up && options.noPrefixRoute !== true) this.#putPrefixRoute(address)
  }

  #putPrefixRoute(each: Address): void {
    const full = each.family === 4 ? 32 : 128
    if (each.scope === 'host' || (each.family === 4 && each.prefixLength === full)) return
    const { address } = prefixOf(each.address)
    const to = formatPrefix({ address: maskAddress(address, each.prefixLength), length: each.prefixLength })
    this.#putRoute({
      family: each.family,
      to,
      dev: each.link,
      table: TABLE_MAIN,
      type: 'unicast',
      protocol: 2,
      dead: false,
      ...(each.family === 4 ? { source: each.address } : { metric: 256 }),
    })
  }

  // ---- routes

  routes(filter: RouteFilter = {}): Route[] {
    return this.#routes
      .filter(
        (each) =>
          (filter.family === undefined || each.family === filter.family) &&
          (filter.table === undefined || each.table === filter.table) &&
          (filter.dev === undefined || each.dev === filter.dev) &&
          (filter.protocol === undefined || each.protocol === filter.protocol),
      )
      .sort((a, b) => a.family - b.family || (a.metric ?? 0) - (b.metric ?? 0))
  }

  addRoute(spec: RouteSpec): void {
    const op = `add route ${spec.to}`
    const route = this.#checked(spec, op)
    if (this.#sameKey(route) !== undefined) throw new KernelError(op, EEXIST)
    this.#putRoute(route)
  }

  replaceRoute(spec: RouteSpec): void {
    const route = this.#checked(spec, `replace route ${spec.to}`)
    const old = this.#sameKey(route)
    if (old !== undefined) this.#routes = this.#routes.filter((each) => each !== old)
    this.#putRoute(route)
  }

  deleteRoute(spec: RouteSpec): boolean {
    this.#changing(`delete route ${spec.to}`)
    const { to, family } = normalized(spec.to)
    const route = this.#routes.find(
      (each) =>
        each.family === family &&
        each.to === to &&
        each.table === (spec.table ?? TABLE_MAIN) &&
        matches(spec.metric, each.metric ?? 0) &&
        matches(spec.via, each.via) &&
        matches(spec.dev, each.dev) &&
        matches(spec.type, each.type) &&
        matches(spec.protocol, each.protocol) &&
        matches(spec.source, each.source),
    )
    if (route === undefined) return false
    this.#dropRoute(route)
    return true
  }

  flushRoutes(filter: RouteFilter & { readonly table: number }): number {
    const routes = this.routes(filter)
    for (const route of routes) this.#dropRoute(route)
    return routes.length
  }

  lookup(query: RouteQuery): Route | undefined {
    const tableOf = (table: number) => this.#routes.filter((route) => route.table === table)
    const decision = decide(this.rules(), tableOf, query)
    const route = decision?.route
    if (route === undefined || (route.type !== 'unicast' && route.type !== 'local')) return undefined
    const source = route.source ?? this.#sourceOn(route.dev, route.family)
    return { ...route, ...(source !== undefined && { source }) }
  }

  #sourceOn(dev: string | undefined, family: Family): string | undefined {
    return this.#addresses.find((each) => each.link === dev && each.family === family)?.address
  }

  /** What the kernel would make of a specification, or its error. */
  #checked(spec: RouteSpec, op: string): Route {
    this.#changing(op)
    const { to, family } = normalized(spec.to)
    const dev = spec.dev === undefined ? undefined : this.#need(spec.dev)
    let device = dev?.name
    if (spec.via !== undefined && spec.onlink !== true) {
      const via = prefixOf(spec.via).address
      const reach = this.#routes.find(
        (each) =>
          each.via === undefined &&
          each.dev !== undefined &&
          (device === undefined || each.dev === device) &&
          each.to !== 'default' &&
          each.to !== 'default6' &&
          contains(prefixOf(each.to), via),
      )
      if (reach === undefined)
        throw new KernelError(op, ENETUNREACH, { kernel: 'Nexthop has invalid gateway' })
      device ??= reach.dev
    }
    const { via, source, onlink, mtu } = spec
    const metric = spec.metric ?? (family === 6 ? 1024 : undefined)
    return {
      family,
      to,
      table: spec.table ?? TABLE_MAIN,
      type: spec.type ?? 'unicast',
      protocol: spec.protocol ?? 4,
      dead: false,
      ...(via !== undefined && { via }),
      ...(device !== undefined && { dev: device }),
      ...(metric !== undefined && { metric }),
      ...(source !== undefined && { source }),
      ...(onlink === true && { onlink }),
      ...(mtu !== undefined && { mtu }),
    }
  }

  #sameKey(route: Route): Route | undefined {
    return this.#routes.find(
      (each) =>
        each.family === route.family &&
        each.to === route.to &&
        each.table === route.table &&
        (each.metric ?? 0) === (route.metric ?? 0),
    )
  }

  #putRoute(route: Route): void {
    this.#routes.push(route)
    this.#emit({ type: 'route', route })
  }

  // ---- rules

  rules(family?: Family): RuleSpec[] {
    return this.#rules
      .filter((rule) => family === undefined || rule.family === family)
      .sort((a, b) => a.family - b.family || a.priority - b.priority)
  }

  addRule(rule: RuleSpec): void {
    this.#changing(`add rule ${rule.priority}`)
    const { origin: _, ...criteria } = rule
    if (this.#findRule(criteria) !== undefined) throw new KernelError(`add rule ${rule.priority}`, EEXIST)
    this.#rules.push({ ...rule })
    this.#emit({ type: 'rule', rule })
  }

  deleteRule(rule: RuleSpec): boolean {
    this.#changing(`delete rule ${rule.priority}`)
    const found = this.#findRule(rule)
    if (found === undefined) return false
    this.#rules = this.#rules.filter((each) => each !== found)
    this.#emit({ type: 'rule-gone', rule: found })
    return true
  }

  /** The maker is not part of a rule's identity; a deletion that names a maker deletes only that maker's. */
  #findRule({ origin, ...rule }: RuleSpec): RuleSpec | undefined {
    const key = ruleKey(rule)
    return this.#rules.find(
      ({ origin: maker, ...each }) => ruleKey(each) === key && (origin === undefined || origin === maker),
    )
  }

  // ---- neighbours, queues, events

  neighbours(link?: string): Neighbour[] {
    return this.#neighbours.filter((each) => link === undefined || each.link === link)
  }

  flushNeighbours(link: string): number {
    const kept = this.#neighbours.filter((each) => each.link !== link || each.state === 'permanent')
    const count = this.#neighbours.length - kept.length
    this.#neighbours = kept
    return count
  }

  setQdisc(link: string, qdisc: Qdisc | undefined): void {
    this.#changing(`set qdisc of ${link}`)
    this.#need(link)
    if (qdisc === undefined) this.#qdiscs.delete(link)
    else this.#qdiscs.set(link, qdisc)
  }

  watch(
    topics: readonly WatchTopic[],
    callback: (event: RtnlEvent) => void,
    options: { readonly signal?: AbortSignal } = {},
  ): void {
    if (options.signal?.aborted === true) return
    const watcher = (event: RtnlEvent) => {
      const topic = event.type.replace('-gone', '')
      if (topic === 'resync' || topics.includes(topic as WatchTopic)) callback(event)
    }
    this.#watchers.add(watcher)
    options.signal?.addEventListener('abort', () => this.#watchers.delete(watcher), { once: true })
  }

  close(): void {
    this.#watchers.clear()
  }

  #emit(event: RtnlEvent): void {
    for (const watcher of [...this.#watchers]) watcher(event)
  }

  #need(name: string): FakeLink {
    const link = this.#links.find((each) => each.name === name)
    if (link === undefined)
      throw new KernelError(`look up link ${name}`, ENODEV, { kernel: `no interface ${name}` })
    return link
  }

  #namespace(name: string | undefined): FakeRtnl {
    const found = name === undefined ? this : this.#network.namespaces.get(name)
    if (found === undefined) throw new KernelError(`enter namespace ${name}`, ENOENT)
    return found
  }

  #changing(op: string): void {
    const errno = this.#failure
    this.#failure = undefined
    if (errno !== undefined) throw new KernelError(op, errno)
  }
}

function publicLink({ owner: _, peer: __, cable: ___, ...link }: FakeLink): Link {
  return { ...link }
}

function normalized(text: string): { to: string; family: Family } {
  const prefix = prefixOf(text)
  const family = prefix.address.length === 4 ? 4 : 6
  if (prefix.length === 0) return { to: family === 4 ? 'default' : 'default6', family }
  const { length } = prefix
  return { to: formatPrefix({ address: maskAddress(prefix.address, length), length }), family }
}

/** An absent criterion matches anything. */
function matches<T>(wanted: T | undefined, value: T): boolean {
  return wanted === undefined || wanted === value
}

function ruleKey(rule: RuleSpec): string {
  return JSON.stringify(Object.entries(rule).sort(([a], [b]) => (a < b ? -1 : 1)))
}
