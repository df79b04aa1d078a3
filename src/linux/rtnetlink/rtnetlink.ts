/**
 * The kernel's network configuration over a netlink socket. The socket belongs to the namespace it was opened in, so an
 * instance works on that namespace from anywhere.
 */

import { closeSync, openSync } from 'node:fs'
import {
  EACCES,
  EADDRNOTAVAIL,
  EHOSTUNREACH,
  EINVAL,
  ENETUNREACH,
  ENODEV,
  ENOENT,
  ESRCH,
} from '../../core/errno.ts'
import { KernelError } from '../libc.ts'
import { NetlinkMessage, type NetlinkReply, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE } from '../netlink.ts'
import { NETLINK_ROUTE, NetlinkSocket } from '../netlink-socket.ts'
import { namespacePath } from '../netns.ts'
import * as codec from './codec/index.ts'
import { Message } from './codec/index.ts'
import type {
  Address,
  AddressOptions,
  Family,
  Link,
  LinkChanges,
  LinkOptions,
  Neighbour,
  NewLink,
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
import { watchRtnetlink } from './watch.ts'

export class Rtnetlink implements Rtnl {
  readonly #socket: NetlinkSocket
  readonly #netns: string | undefined
  readonly #watches = new Set<() => void>()

  /** Opens on a namespace by name or path; on the thread's own when none is given. */
  constructor(netns?: string) {
    this.#netns = netns
    this.#socket = new NetlinkSocket(NETLINK_ROUTE, netns)
  }

  close(): void {
    for (const stop of [...this.#watches]) stop()
    this.#socket.close()
  }

  // ---- links

  links(): Link[] {
    const message = new NetlinkMessage(Message.GETLINK)
    codec.writeLinkHeader(message, 0)
    codec.writeLinkFilter(message)
    return collect(this.#socket.dump(message, 'list links'), Message.NEWLINK, codec.readLink)
  }

  link(which: string | number): Link | undefined {
    const message = new NetlinkMessage(Message.GETLINK)
    codec.writeLinkHeader(message, typeof which === 'number' ? which : 0)
    codec.writeLinkFilter(message)
    if (typeof which === 'string') codec.writeLinkName(message, which)
    const replies = absent(() => this.#socket.request(message, `look up link ${which}`), [ENODEV])
    return replies && collect(replies, Message.NEWLINK, codec.readLink)[0]
  }

  createLink(link: NewLink): void {
    const op = `create ${link.kind} ${link.name}`
    const message = new NetlinkMessage(Message.NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    codec.writeLinkHeader(message, link.index ?? 0, link.up)
    codec.writeLinkName(message, link.name)
    codec.writeLinkAttributes(message, attributesOf(link))
    if (link.kind !== 'veth') {
      codec.writeLinkKind(message, link.kind)
      this.#socket.request(message, op)
      return
    }
    const { peer } = link
    withNamespaceFile(peer.netns, (netnsFd) => {
      codec.writeLinkKind(message, 'veth', () => {
        codec.writeLinkHeader(message, peer.index ?? 0, peer.up)
        codec.writeLinkName(message, peer.name)
        codec.writeLinkAttributes(message, { ...attributesOf(peer), netnsFd })
      })
      this.#socket.request(message, op)
    })
  }

  setLink(name: string, changes: LinkChanges): void {
    const message = new NetlinkMessage(Message.SETLINK)
    codec.writeLinkHeader(message, this.#index(name), changes.up)
    if (changes.rename !== undefined) codec.writeLinkName(message, changes.rename)
    const { master } = changes
    const masterIndex = master === undefined ? undefined : master === null ? 0 : this.#index(master)
    withNamespaceFile(changes.netns, (netnsFd) => {
      const { alias } = changes
      codec.writeLinkAttributes(message, { ...attributesOf(changes), alias, master: masterIndex, netnsFd })
      this.#socket.request(message, `change link ${name}`)
    })
  }

  deleteLink(name: string): boolean {
    const message = codec.writeLinkHeader(new NetlinkMessage(Message.DELLINK), 0)
    codec.writeLinkName(message, name)
    return absent(() => this.#socket.request(message, `delete link ${name}`), [ENODEV]) !== undefined
  }

  // ---- addresses

  addresses(filter: { readonly link?: string; readonly family?: Family } = {}): Address[] {
    const index = filter.link === undefined ? 0 : this.#index(filter.link)
    const message = new NetlinkMessage(Message.GETADDR)
    message.u8(codec.familyNumber(filter.family)).zeros(3).u32(index)
    const names = this.#names()
    return collect(this.#socket.dump(message, 'list addresses'), Message.NEWADDR, (body) =>
      codec.readAddress(body, names),
    ).filter((each) => index === 0 || each.index === index) // kernels before 5.0 ignore the index
  }

  addAddress(link: string, address: string, options: AddressOptions = {}): void {
    const message = new NetlinkMessage(Message.NEWADDR, NLM_F_CREATE | NLM_F_EXCL)
    codec.writeAddress(message, this.#index(link), address, options)
    this.#socket.request(message, `add address ${address} to ${link}`)
  }

  deleteAddress(link: string, address: string): boolean {
    const index = this.link(link)?.index
    if (index === undefined) return false
    const message = new NetlinkMessage(Message.DELADDR)
    codec.writeAddress(message, index, address, {})
    const op = `delete address ${address} from ${link}`
    return absent(() => this.#socket.request(message, op), [EADDRNOTAVAIL]) !== undefined
  }

  // ---- routes

  routes(filter: RouteFilter = {}): Route[] {
    const names = this.#names()
    const families: Family[] = filter.family === undefined ? [4, 6] : [filter.family]
    const routes = families.flatMap((family) => {
      const message = new NetlinkMessage(Message.GETROUTE)
      codec.writeRouteDump(message, codec.familyNumber(family), filter.table)
      // A table that has never had a route does not exist.
      const replies = absent(() => this.#socket.dump(message, 'list routes'), [ENOENT]) ?? []
      return collect(replies, Message.NEWROUTE, (body) => codec.readRoute(body, names))
    })
    return routes.filter(
      (route) =>
        (filter.table === undefined || route.table === filter.table) &&
        (filter.dev === undefined || route.dev === filter.dev) &&
        (filter.protocol === undefined || route.protocol === filter.protocol),
    )
  }

  addRoute(route: RouteSpec): void {
    this.#route(Message.NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, 'add', route)
  }

  replaceRoute(route: RouteSpec): void {
    this.#route(Message.NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, 'replace', route)
  }

  deleteRoute(route: RouteSpec): boolean {
    if (route.dev !== undefined && this.link(route.dev) === undefined) return false
    return absent(() => this.#route(Message.DELROUTE, 0, 'delete', route), [ESRCH, ENOENT]) !== undefined
  }

  flushRoutes(filter: RouteFilter & { readonly table: number }): number {
    let count = 0
    for (const route of this.routes(filter)) if (this.deleteRoute(route)) count++
    return count
  }

  lookup(query: RouteQuery): Route | undefined {
    const message = new NetlinkMessage(Message.GETROUTE)
    codec.writeLookup(message, {
      to: codec.addressBytes(query.to),
      from: query.from === undefined ? undefined : codec.addressBytes(query.from),
      mark: query.mark,
      oif: query.oif === undefined ? undefined : this.#index(query.oif),
      iif: query.iif === undefined ? undefined : this.#index(query.iif),
      uid: query.uid,
      protocol: query.protocol,
      sourcePort: query.sourcePort,
      destinationPort: query.destinationPort,
    })
    // Errors of a lookup for no route, unreachable, prohibit and blackhole.
    const none = [ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL]
    const replies = absent(() => this.#socket.request(message, `look up a route to ${query.to}`), none)
    const names = this.#names()
    const route =
      replies && collect(replies, Message.NEWROUTE, (body) => codec.readRoute(body, names, true))[0]
    // IPv6 answers with the rejecting route itself.
    return route?.type === 'unicast' || route?.type === 'local' ? route : undefined
  }

  #route(type: number, flags: number, verb: string, route: RouteSpec): true {
    const message = new NetlinkMessage(type, flags)
    codec.writeRoute(message, route, this.#names(), type === Message.DELROUTE)
    const table = route.table === undefined ? '' : ` in table ${route.table}`
    this.#socket.request(message, `${verb} route ${route.to}${table}`)
    return true
  }

  // ---- rules

  rules(family?: Family): RuleSpec[] {
    const families: Family[] = family === undefined ? [4, 6] : [family]
    return families.flatMap((each) => {
      const message = new NetlinkMessage(Message.GETRULE).u8(codec.familyNumber(each)).zeros(11)
      return collect(this.#socket.dump(message, 'list rules'), Message.NEWRULE, codec.readRule)
    })
  }

  addRule(rule: RuleSpec): void {
    const message = new NetlinkMessage(Message.NEWRULE, NLM_F_CREATE | NLM_F_EXCL)
    codec.writeRule(message, rule)
    this.#socket.request(message, `add rule ${rule.priority}`)
  }

  deleteRule(rule: RuleSpec): boolean {
    const message = new NetlinkMessage(Message.DELRULE)
    codec.writeRule(message, rule)
    const op = `delete rule ${rule.priority}`
    return absent(() => this.#socket.request(message, op), [ENOENT]) !== undefined
  }

  // ---- neighbours and queues

  neighbours(link?: string): Neighbour[] {
    return this.#neighbours(link).map(({ index: _, ...neighbour }) => neighbour)
  }

  flushNeighbours(link: string): number {
    let count = 0
    for (const neighbour of this.#neighbours(link)) {
      if (neighbour.state === 'permanent' || neighbour.state === 'noarp') continue
      const message = new NetlinkMessage(Message.DELNEIGH)
      codec.writeNeighbour(message, neighbour.index, codec.addressBytes(neighbour.address))
      const op = `forget neighbour ${neighbour.address}`
      if (absent(() => this.#socket.request(message, op), [ENOENT]) !== undefined) count++
    }
    return count
  }

  #neighbours(link: string | undefined) {
    const message = new NetlinkMessage(Message.GETNEIGH)
    codec.writeNeighbour(message, 0)
    const names = this.#names()
    return collect(this.#socket.dump(message, 'list neighbours'), Message.NEWNEIGH, (body) =>
      codec.readNeighbour(body, names),
    ).filter((each) => link === undefined || each.link === link)
  }

  setQdisc(link: string, qdisc: Qdisc | undefined): void {
    const index = this.#index(link)
    if (qdisc === undefined) {
      const message = new NetlinkMessage(Message.DELQDISC)
      codec.writeQdisc(message, index, undefined)
      // ENOENT, EINVAL: only the default one is there.
      absent(() => this.#socket.request(message, `remove the qdisc of ${link}`), [ENOENT, EINVAL])
      return
    }
    const message = new NetlinkMessage(Message.NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE)
    codec.writeQdisc(message, index, qdisc)
    this.#socket.request(message, `set qdisc ${qdisc.kind} of ${link}`)
  }

  // ---- events

  watch(
    topics: readonly WatchTopic[],
    callback: (event: RtnlEvent) => void,
    options: { readonly signal?: AbortSignal } = {},
  ): void {
    const { signal } = options
    if (signal?.aborted === true) return
    const close = watchRtnetlink(this.#netns, topics, this.links(), callback)
    const stop = () => {
      close()
      this.#watches.delete(stop)
      signal?.removeEventListener('abort', stop)
    }
    this.#watches.add(stop)
    signal?.addEventListener('abort', stop, { once: true })
  }

  // ----

  #index(name: string): number {
    const link = this.link(name)
    if (link === undefined)
      throw new KernelError(`look up link ${name}`, ENODEV, { kernel: `no interface ${name}` })
    return link.index
  }

  /** Names known by one call only: interfaces may be renamed between calls. */
  #names(): codec.Names {
    const known = new Map<number, string>()
    return {
      name: (index) => {
        let name = known.get(index)
        if (name === undefined) {
          name = this.link(index)?.name ?? `if${index}`
          known.set(index, name)
        }
        return name
      },
      index: (name) => this.#index(name),
    }
  }
}

function attributesOf(link: LinkOptions): codec.LinkAttributes {
  return { mtu: link.mtu, mac: link.mac, txQueueLength: link.txQueueLength, gsoMaxSize: link.gsoMaxSize }
}

function withNamespaceFile(netns: string | undefined, work: (fd: number | undefined) => void): void {
  if (netns === undefined) {
    work(undefined)
    return
  }
  const fd = openSync(namespacePath(netns), 'r')
  try {
    work(fd)
  } finally {
    closeSync(fd)
  }
}

/** The messages of one type that can be read. */
function collect<T>(
  replies: readonly NetlinkReply[],
  type: number,
  read: (body: Uint8Array) => T | undefined,
): T[] {
  const out: T[] = []
  for (const reply of replies) {
    if (reply.type !== type) continue
    const value = read(reply.body)
    if (value !== undefined) out.push(value)
  }
  return out
}

/** What `work` returns, or undefined when it fails because what it names is not there. */
function absent<T>(work: () => T, errnos: readonly number[]): T | undefined {
  try {
    return work()
  } catch (error) {
    if (error instanceof KernelError && errnos.includes(error.errno)) return undefined
    throw error
  }
}
