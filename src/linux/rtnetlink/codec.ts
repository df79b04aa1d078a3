/**
 * rtnetlink messages (linux/rtnetlink.h, if_link.h, if_addr.h, fib_rules.h, neighbour.h): from and to the types of
 * types.ts. Pure apart from `Names`, which the caller supplies to turn indexes into names.
 */
import { formatAddress, maskAddress, type Prefix, parseInterfaceAddress } from '../../core/address.ts'
import { viewOf } from '../../core/bytes.ts'
import { usageError } from '../../core/errors.ts'
import { Attributes, type NetlinkMessage } from '../netlink.ts'
import type {
  Address,
  AddressOptions,
  Family,
  Link,
  Neighbour,
  OperState,
  Qdisc,
  Route,
  RouteSpec,
  RouteType,
  RuleSpec,
} from './types.ts'

export const Message = {
  NEWLINK: 16,
  DELLINK: 17,
  GETLINK: 18,
  SETLINK: 19,
  NEWADDR: 20,
  DELADDR: 21,
  GETADDR: 22,
  NEWROUTE: 24,
  DELROUTE: 25,
  GETROUTE: 26,
  NEWNEIGH: 28,
  DELNEIGH: 29,
  GETNEIGH: 30,
  NEWRULE: 32,
  DELRULE: 33,
  GETRULE: 34,
  NEWQDISC: 36,
  DELQDISC: 37,
} as const

export const Group = {
  LINK: 1,
  IPV4_ADDRESS: 5,
  IPV4_ROUTE: 7,
  IPV4_RULE: 8,
  IPV6_ADDRESS: 9,
  IPV6_ROUTE: 11,
  IPV6_RULE: 19,
} as const

const AF_INET = 2
const AF_INET6 = 10
export const TABLE_MAIN = 254

export function familyNumber(family: Family | undefined): number {
  return family === undefined ? 0 : family === 4 ? AF_INET : AF_INET6
}

function familyOf(number: number): Family | undefined {
  return number === AF_INET ? 4 : number === AF_INET6 ? 6 : undefined
}

/** Index to name, and back (0 when unknown). */
export interface Names {
  name(index: number): string
  index(name: string): number
}

/** A prefix or address in a specification; `default`, `default4` and `default6` are the empty prefixes. */
export function prefixOf(text: string): Prefix {
  if (text === 'default' || text === 'default4') return { address: new Uint8Array(4), length: 0 }
  if (text === 'default6') return { address: new Uint8Array(16), length: 0 }
  const parsed = parseInterfaceAddress(text)
  if (!parsed.ok) throw usageError(parsed.reason)
  return parsed.value
}

/** As prefixOf, bits after the prefix cleared. */
function maskedPrefix(text: string): Prefix {
  const { address, length } = prefixOf(text)
  return { address: maskAddress(address, length), length }
}

export function addressBytes(text: string): Uint8Array {
  return prefixOf(text).address
}

function prefixText(address: Uint8Array | undefined, length: number, family: Family): string {
  if (length === 0) return family === 4 ? 'default' : 'default6'
  return `${formatAddress(address ?? new Uint8Array(family === 4 ? 4 : 16))}/${length}`
}

// ---- links

const Ifla = {
  ADDRESS: 1,
  NAME: 3,
  MTU: 4,
  MASTER: 10,
  TX_QUEUE_LENGTH: 13,
  OPER_STATE: 16,
  LINK_INFO: 18,
  ALIAS: 20,
  STATS64: 23,
  NET_NS_FD: 28,
  EXT_MASK: 29,
  GSO_MAX_SIZE: 41,
} as const
const INFO_KIND = 1
const INFO_DATA = 2
const VETH_INFO_PEER = 1
/** No statistics of virtual functions, no bridge details. */
const EXT_FILTER_SKIP_STATS = 8

const IFF_UP = 1
const IFF_LOOPBACK = 8
const IFF_LOWER_UP = 0x10000

const OPER_STATES: readonly OperState[] = [
  'unknown',
  'notpresent',
  'down',
  'lowerlayerdown',
  'testing',
  'dormant',
  'up',
]

/** ifinfomsg: family u8, pad u8, type u16, index i32, flags u32, change mask u32. */
export function writeLinkHeader(message: NetlinkMessage, index: number, up?: boolean): NetlinkMessage {
  return message
    .u32(0)
    .u32(index)
    .u32(up === true ? IFF_UP : 0)
    .u32(up === undefined ? 0 : IFF_UP)
}

export function writeLinkName(message: NetlinkMessage, name: string): void {
  const length = new TextEncoder().encode(name).length
  if (length === 0 || length > 15 || /[\s/:]/.test(name)) throw usageError(`not an interface name: ${name}`)
  message.attributeString(Ifla.NAME, name)
}

export interface LinkAttributes {
  readonly mtu?: number | undefined
  readonly mac?: string | undefined
  readonly txQueueLength?: number | undefined
  readonly gsoMaxSize?: number | undefined
  readonly alias?: string | undefined
  readonly master?: number | undefined
  /** An open namespace file. */
  readonly netnsFd?: number | undefined
}

export function writeLinkAttributes(message: NetlinkMessage, link: LinkAttributes): void {
  if (link.mtu !== undefined) message.attributeU32(Ifla.MTU, link.mtu)
  if (link.mac !== undefined) message.attribute(Ifla.ADDRESS, parseMac(link.mac))
  if (link.txQueueLength !== undefined) message.attributeU32(Ifla.TX_QUEUE_LENGTH, link.txQueueLength)
  if (link.gsoMaxSize !== undefined) message.attributeU32(Ifla.GSO_MAX_SIZE, link.gsoMaxSize)
  if (link.alias !== undefined) message.attributeString(Ifla.ALIAS, link.alias)
  if (link.master !== undefined) message.attributeU32(Ifla.MASTER, link.master)
  if (link.netnsFd !== undefined) message.attributeU32(Ifla.NET_NS_FD, link.netnsFd)
}

/** The kind, with a veth's peer: a link message of its own inside. */
export function writeLinkKind(message: NetlinkMessage, kind: string, peer?: () => void): void {
  message.nested(Ifla.LINK_INFO, () => {
    message.attributeString(INFO_KIND, kind)
    if (peer !== undefined) message.nested(INFO_DATA, () => message.structure(VETH_INFO_PEER, peer))
  })
}

export function writeLinkFilter(message: NetlinkMessage): void {
  message.attributeU32(Ifla.EXT_MASK, EXT_FILTER_SKIP_STATS)
}

function parseMac(text: string): Uint8Array {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text)) throw usageError(`not a hardware address: ${text}`)
  return Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16))
}

function formatMac(bytes: Uint8Array | undefined): string {
  return Array.from(bytes ?? [], (byte) => byte.toString(16).padStart(2, '0')).join(':')
}

/** Undefined for what is no link (a bridge port's message) or cut short. */
export function readLink(body: Uint8Array): Link | undefined {
  if (body.length < 16 || body[0] !== 0) return undefined
  const view = viewOf(body)
  const flags = view.getUint32(8, true)
  const attributes = new Attributes(body, 16)
  const stats = attributes.bytes(Ifla.STATS64)
  const counter = (n: number) =>
    stats !== undefined && stats.length >= 8 * n + 8 ? Number(viewOf(stats).getBigUint64(8 * n, true)) : 0
  return {
    index: view.getUint32(4, true),
    name: attributes.string(Ifla.NAME) ?? '',
    kind: attributes.nested(Ifla.LINK_INFO)?.string(INFO_KIND),
    up: (flags & IFF_UP) !== 0,
    carrier: (flags & IFF_LOWER_UP) !== 0,
    operState: OPER_STATES[attributes.u8(Ifla.OPER_STATE) ?? 0] ?? 'unknown',
    loopback: (flags & IFF_LOOPBACK) !== 0,
    mtu: attributes.u32(Ifla.MTU) ?? 0,
    mac: formatMac(attributes.bytes(Ifla.ADDRESS)),
    alias: attributes.string(Ifla.ALIAS),
    master: attributes.u32(Ifla.MASTER),
    gsoMaxSize: attributes.u32(Ifla.GSO_MAX_SIZE),
    rxPackets: counter(0),
    txPackets: counter(1),
    rxBytes: counter(2),
    txBytes: counter(3),
  }
}

// ---- addresses

const Ifa = { ADDRESS: 1, LOCAL: 2, BROADCAST: 4, CACHE_INFO: 6, FLAGS: 8 } as const
const IFA_TEMPORARY = 0x01
const IFA_NODAD = 0x02
const IFA_DEPRECATED = 0x20
const IFA_TENTATIVE = 0x40
const IFA_NOPREFIXROUTE = 0x200
const FOREVER = 0xffffffff

const SCOPES: Readonly<Record<number, Address['scope']>> = {
  0: 'global',
  200: 'site',
  253: 'link',
  254: 'host',
  255: 'nowhere',
}

/** ifaddrmsg: family u8, prefix length u8, flags u8, scope u8, index u32. */
export function writeAddress(
  message: NetlinkMessage,
  index: number,
  text: string,
  options: AddressOptions,
): void {
  const { address, length } = prefixOf(text)
  const v4 = address.length === 4
  const hostScope = v4 ? address[0] === 127 : formatAddress(address) === '::1'
  message
    .u8(v4 ? AF_INET : AF_INET6)
    .u8(length)
    .u8(0)
    .u8(hostScope ? 254 : 0)
    .u32(index)
  message.attribute(Ifa.LOCAL, address)
  message.attribute(Ifa.ADDRESS, options.peer === undefined ? address : addressBytes(options.peer))
  if (v4 && length < 31 && options.peer === undefined && !hostScope) {
    const broadcast = address.map((byte, i) => byte | (0xff >> Math.min(8, Math.max(0, length - 8 * i))))
    message.attribute(Ifa.BROADCAST, broadcast)
  }
  const flags =
    (options.noDad === true ? IFA_NODAD : 0) | (options.noPrefixRoute === true ? IFA_NOPREFIXROUTE : 0)
  if (flags !== 0) message.attributeU32(Ifa.FLAGS, flags)
  if (options.validSeconds !== undefined || options.preferredSeconds !== undefined) {
    const valid = options.validSeconds ?? FOREVER
    message.structure(Ifa.CACHE_INFO, () =>
      message
        .u32(Math.min(options.preferredSeconds ?? valid, valid))
        .u32(valid)
        .zeros(8),
    )
  }
}

export function readAddress(body: Uint8Array, names: Names): Address | undefined {
  const family = familyOf(body[0] ?? 0)
  if (body.length < 8 || family === undefined) return undefined
  const index = viewOf(body).getUint32(4, true)
  const attributes = new Attributes(body, 8)
  const remote = attributes.bytes(Ifa.ADDRESS)
  const local = attributes.bytes(Ifa.LOCAL) ?? remote
  if (local === undefined) return undefined
  const flags = attributes.u32(Ifa.FLAGS) ?? body[2]!
  const cache = attributes.bytes(Ifa.CACHE_INFO)
  const lifetime = (at: number) => {
    const seconds =
      cache !== undefined && cache.length >= at + 4 ? viewOf(cache).getUint32(at, true) : FOREVER
    return seconds === FOREVER ? undefined : seconds
  }
  const address = formatAddress(local)
  const peer = remote === undefined ? address : formatAddress(remote)
  return {
    link: names.name(index),
    index,
    family,
    address,
    prefixLength: body[1]!,
    peer: peer === address ? undefined : peer,
    scope: SCOPES[body[3]!] ?? 'global',
    tentative: (flags & IFA_TENTATIVE) !== 0,
    deprecated: (flags & IFA_DEPRECATED) !== 0,
    // The same bit means `secondary` for IPv4.
    temporary: family === 6 && (flags & IFA_TEMPORARY) !== 0,
    preferredSeconds: lifetime(0),
    validSeconds: lifetime(4),
  }
}

// ---- routes

const Rta = {
  DST: 1,
  SRC: 2,
  IIF: 3,
  OIF: 4,
  GATEWAY: 5,
  PRIORITY: 6,
  PREFSRC: 7,
  METRICS: 8,
  MULTIPATH: 9,
  TABLE: 15,
  MARK: 16,
  VIA: 18,
  UID: 25,
  IP_PROTO: 27,
  SPORT: 28,
  DPORT: 29,
} as const
const RTAX_MTU = 2
const RTNH_F_DEAD = 1
const RTNH_F_ONLINK = 4
const RTNH_F_LINKDOWN = 16
const RTM_F_CLONED = 0x200
const RTM_F_LOOKUP_TABLE = 0x1000
const PROTOCOL_STATIC = 4

const ROUTE_TYPES: Readonly<Record<number, RouteType>> = {
  1: 'unicast',
  2: 'local',
  3: 'broadcast',
  6: 'blackhole',
  7: 'unreachable',
  8: 'prohibit',
  9: 'throw',
}
const ROUTE_TYPE_NUMBERS = Object.fromEntries(
  Object.entries(ROUTE_TYPES).map(([number, type]) => [type, Number(number)]),
) as Record<RouteType, number>

const Scope = { UNIVERSE: 0, LINK: 253, HOST: 254, NOWHERE: 255 } as const

/** rtmsg: family, destination length, source length, tos, table, protocol, scope, type (u8 each), flags u32. */
function writeRouteHeader(
  message: NetlinkMessage,
  fields: {
    family: number
    length?: number
    sourceLength?: number
    table?: number
    protocol?: number
    scope?: number
    type?: number
    flags?: number
  },
): void {
  message
    .u8(fields.family)
    .u8(fields.length ?? 0)
    .u8(fields.sourceLength ?? 0)
    .u8(0)
    .u8(fields.table === undefined || fields.table > 255 ? 0 : fields.table)
    .u8(fields.protocol ?? 0)
    .u8(fields.scope ?? 0)
    .u8(fields.type ?? 0)
    .u32(fields.flags ?? 0)
}

/** `deleting` leaves out what a deletion need not match: protocol and scope then match any. */
export function writeRoute(message: NetlinkMessage, route: RouteSpec, names: Names, deleting: boolean): void {
  const { address, length } = maskedPrefix(route.to)
  const family = address.length === 4 ? AF_INET : AF_INET6
  const table = route.table ?? TABLE_MAIN
  const type = route.type ?? 'unicast'
  // IPv4 wants to be told that a route without gateway is on the link; IPv6 ignores scopes.
  const onLink = type === 'unicast' && route.via === undefined && family === AF_INET
  const scope = deleting
    ? Scope.NOWHERE
    : type === 'local'
      ? Scope.HOST
      : onLink
        ? Scope.LINK
        : Scope.UNIVERSE
  writeRouteHeader(message, {
    family,
    length,
    table,
    protocol: deleting ? (route.protocol ?? 0) : (route.protocol ?? PROTOCOL_STATIC),
    scope,
    type: deleting && route.type === undefined ? 0 : ROUTE_TYPE_NUMBERS[type],
    flags: route.onlink === true ? RTNH_F_ONLINK : 0,
  })
  if (length > 0) message.attribute(Rta.DST, address)
  if (table > 255) message.attributeU32(Rta.TABLE, table)
  if (route.via !== undefined) {
    const via = addressBytes(route.via)
    if (via.length === address.length) message.attribute(Rta.GATEWAY, via)
    else if (family === AF_INET)
      message.structure(Rta.VIA, () => message.u16(AF_INET6).bytes(via)) // RFC 5549: IPv4 through an IPv6 gateway
    else throw usageError(`${route.to} cannot go via ${route.via}: another address family`)
  }
  if (route.dev !== undefined) message.attributeU32(Rta.OIF, names.index(route.dev))
  if (route.metric !== undefined) message.attributeU32(Rta.PRIORITY, route.metric)
  if (route.source !== undefined) message.attribute(Rta.PREFSRC, addressBytes(route.source))
  if (route.mtu !== undefined) {
    const mtu = route.mtu
    message.nested(Rta.METRICS, () => message.attributeU32(RTAX_MTU, mtu))
  }
}

/** A dump of all routes, or of one table and family: the kernel filters where it can (4.20 and later). */
export function writeRouteDump(message: NetlinkMessage, family: number, table: number | undefined): void {
  writeRouteHeader(message, table === undefined ? { family } : { family, table })
  if (table !== undefined) message.attributeU32(Rta.TABLE, table)
}

export interface LookupWords {
  readonly to: Uint8Array
  readonly from: Uint8Array | undefined
  readonly mark: number | undefined
  readonly oif: number | undefined
  readonly iif: number | undefined
  readonly uid: number | undefined
  readonly protocol: number | undefined
  readonly sourcePort: number | undefined
  readonly destinationPort: number | undefined
}

export function writeLookup(message: NetlinkMessage, query: LookupWords): void {
  writeRouteHeader(message, {
    family: query.to.length === 4 ? AF_INET : AF_INET6,
    length: query.to.length * 8,
    sourceLength: query.from === undefined ? 0 : query.from.length * 8,
    // IPv6 says the table unasked, and refuses to be asked.
    flags: query.to.length === 4 ? RTM_F_LOOKUP_TABLE : 0,
  })
  message.attribute(Rta.DST, query.to)
  if (query.from !== undefined) message.attribute(Rta.SRC, query.from)
  if (query.mark !== undefined) message.attributeU32(Rta.MARK, query.mark)
  if (query.oif !== undefined) message.attributeU32(Rta.OIF, query.oif)
  if (query.iif !== undefined) message.attributeU32(Rta.IIF, query.iif)
  if (query.uid !== undefined) message.attributeU32(Rta.UID, query.uid)
  if (query.protocol !== undefined) message.attributeU8(Rta.IP_PROTO, query.protocol)
  if (query.sourcePort !== undefined) message.structure(Rta.SPORT, () => message.be16(query.sourcePort!))
  if (query.destinationPort !== undefined)
    message.structure(Rta.DPORT, () => message.be16(query.destinationPort!))
}

/** `cached` keeps answers to lookups; dumps skip such entries of the kernel's cache. */
export function readRoute(body: Uint8Array, names: Names, cached = false): Route | undefined {
  const family = familyOf(body[0] ?? 0)
  if (body.length < 12 || family === undefined) return undefined
  const type = ROUTE_TYPES[body[7]!]
  const flags = viewOf(body).getUint32(8, true)
  if (type === undefined || (!cached && (flags & RTM_F_CLONED) !== 0)) return undefined
  const attributes = new Attributes(body, 12)
  // Of several next hops the first stands for the route: rtnexthop length u16, flags u8, hops u8, index u32.
  const hops = attributes.bytes(Rta.MULTIPATH)
  const hop = hops !== undefined && hops.length >= 8 ? hops : undefined
  const hopLength = hop === undefined ? 0 : viewOf(hop).getUint16(0, true)
  const where = hop === undefined ? attributes : new Attributes(hop.subarray(0, hopLength), 8)
  const oif = hop === undefined ? attributes.u32(Rta.OIF) : viewOf(hop).getUint32(4, true)
  const foreign = where.bytes(Rta.VIA)
  const gateway = where.bytes(Rta.GATEWAY) ?? (foreign?.length === 18 ? foreign.subarray(2) : undefined)
  const metric = attributes.u32(Rta.PRIORITY)
  const source = attributes.bytes(Rta.PREFSRC)
  const mtu = attributes.nested(Rta.METRICS)?.u32(RTAX_MTU)
  return {
    family,
    to: prefixText(attributes.bytes(Rta.DST), body[1]!, family),
    table: attributes.u32(Rta.TABLE) ?? body[4]!,
    type,
    protocol: body[5]!,
    dead: (flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)) !== 0,
    ...(gateway !== undefined && { via: formatAddress(gateway) }),
    ...(oif !== undefined && oif !== 0 && { dev: names.name(oif) }),
    ...(metric !== undefined && metric !== 0 && { metric }),
    ...(source !== undefined && { source: formatAddress(source) }),
    ...((flags & RTNH_F_ONLINK) !== 0 && { onlink: true }),
    ...(mtu !== undefined && { mtu }),
  }
}

// ---- rules

const Fra = {
  DST: 1,
  SRC: 2,
  IIF: 3,
  PRIORITY: 6,
  MARK: 10,
  SUPPRESS_PREFIX_LENGTH: 14,
  TABLE: 15,
  MASK: 16,
  OIF: 17,
  UID_RANGE: 20,
  IP_PROTO: 22,
  SPORT_RANGE: 23,
  DPORT_RANGE: 24,
} as const
const RULE_LOOKUP = 1
const RULE_INVERT = 2
const RULE_ACTIONS = { blackhole: 6, unreachable: 7, prohibit: 8 } as const

/** fib_rule_hdr: family, destination length, source length, tos, table, 2 reserved, action (u8 each), flags u32. */
export function writeRule(message: NetlinkMessage, rule: RuleSpec): void {
  const from = rule.from === undefined ? undefined : maskedPrefix(rule.from)
  const to = rule.to === undefined ? undefined : maskedPrefix(rule.to)
  const bytes = rule.family === 4 ? 4 : 16
  for (const prefix of [from, to])
    if (prefix !== undefined && prefix.address.length !== bytes)
      throw usageError(`a rule of IPv${rule.family} cannot match ${formatAddress(prefix.address)}`)
  const action = rule.action === undefined ? RULE_LOOKUP : RULE_ACTIONS[rule.action]
  if (action === RULE_LOOKUP && rule.table === undefined)
    throw usageError('a rule needs a table or an action')
  message
    .u8(familyNumber(rule.family))
    .u8(to?.length ?? 0)
    .u8(from?.length ?? 0)
    .u8(0)
    .u8(rule.table !== undefined && rule.table < 256 ? rule.table : 0)
    .u16(0)
    .u8(action)
    .u32(rule.invert === true ? RULE_INVERT : 0)
  message.attributeU32(Fra.PRIORITY, rule.priority)
  if (rule.table !== undefined) message.attributeU32(Fra.TABLE, rule.table)
  if (to !== undefined && to.length > 0) message.attribute(Fra.DST, to.address)
  if (from !== undefined && from.length > 0) message.attribute(Fra.SRC, from.address)
  if (rule.mark !== undefined) {
    message.attributeU32(Fra.MARK, rule.mark)
    message.attributeU32(Fra.MASK, rule.mask ?? 0xffffffff)
  }
  if (rule.oif !== undefined) message.attributeString(Fra.OIF, rule.oif)
  if (rule.iif !== undefined) message.attributeString(Fra.IIF, rule.iif)
  if (rule.uids !== undefined) {
    const [first, last] = rule.uids
    message.structure(Fra.UID_RANGE, () => message.u32(first).u32(last))
  }
  if (rule.protocol !== undefined) message.attributeU8(Fra.IP_PROTO, rule.protocol)
  writePorts(message, Fra.SPORT_RANGE, rule.sourcePorts)
  writePorts(message, Fra.DPORT_RANGE, rule.destinationPorts)
  if (rule.suppressPrefixLength !== undefined)
    message.attributeU32(Fra.SUPPRESS_PREFIX_LENGTH, rule.suppressPrefixLength)
}

function writePorts(
  message: NetlinkMessage,
  type: number,
  ports: readonly [number, number] | undefined,
): void {
  if (ports !== undefined) message.structure(type, () => message.u16(ports[0]).u16(ports[1]))
}

/** Undefined for rules of other families (multicast routing) and actions godwit does not use (goto, nop). */
export function readRule(body: Uint8Array): RuleSpec | undefined {
  const family = familyOf(body[0] ?? 0)
  if (body.length < 12 || family === undefined) return undefined
  const number = body[7]!
  const action = (Object.keys(RULE_ACTIONS) as (keyof typeof RULE_ACTIONS)[]).find(
    (name) => RULE_ACTIONS[name] === number,
  )
  if (number !== RULE_LOOKUP && action === undefined) return undefined
  const attributes = new Attributes(body, 12)
  const mark = attributes.u32(Fra.MARK)
  const mask = attributes.u32(Fra.MASK) ?? 0
  const oif = attributes.string(Fra.OIF)
  const iif = attributes.string(Fra.IIF)
  const uids = readPair(attributes.bytes(Fra.UID_RANGE), 4)
  const protocol = attributes.u8(Fra.IP_PROTO)
  const sourcePorts = readPair(attributes.bytes(Fra.SPORT_RANGE), 2)
  const destinationPorts = readPair(attributes.bytes(Fra.DPORT_RANGE), 2)
  const suppress = attributes.u32(Fra.SUPPRESS_PREFIX_LENGTH)
  return {
    family,
    priority: attributes.u32(Fra.PRIORITY) ?? 0,
    ...(action === undefined ? { table: attributes.u32(Fra.TABLE) ?? body[4]! } : { action }),
    ...(mask !== 0 && { mark: mark ?? 0, ...(mask !== 0xffffffff && { mask }) }),
    ...(oif !== undefined && { oif }),
    ...(iif !== undefined && { iif }),
    ...(uids !== undefined && { uids }),
    ...(protocol !== undefined && protocol !== 0 && { protocol }),
    ...(sourcePorts !== undefined && { sourcePorts }),
    ...(destinationPorts !== undefined && { destinationPorts }),
    ...(body[2]! > 0 && { from: prefixText(attributes.bytes(Fra.SRC), body[2]!, family) }),
    ...(body[1]! > 0 && { to: prefixText(attributes.bytes(Fra.DST), body[1]!, family) }),
    ...(suppress !== undefined && suppress !== 0xffffffff && { suppressPrefixLength: suppress }),
    ...((viewOf(body).getUint32(8, true) & RULE_INVERT) !== 0 && { invert: true }),
  }
}

function readPair(value: Uint8Array | undefined, size: 2 | 4): readonly [number, number] | undefined {
  if (value === undefined || value.length < 2 * size) return undefined
  const view = viewOf(value)
  return size === 2
    ? [view.getUint16(0, true), view.getUint16(2, true)]
    : [view.getUint32(0, true), view.getUint32(4, true)]
}

// ---- neighbours

const NDA_DST = 1
const NDA_LLADDR = 2
const NEIGHBOUR_STATES: Readonly<Record<number, Neighbour['state']>> = {
  1: 'incomplete',
  2: 'reachable',
  4: 'stale',
  8: 'delay',
  16: 'probe',
  32: 'failed',
  64: 'noarp',
  128: 'permanent',
}

/** ndmsg: family u8, 3 padding, index i32, state u16, flags u8, type u8. */
export function writeNeighbour(message: NetlinkMessage, index: number, address?: Uint8Array): void {
  const family = address === undefined ? 0 : address.length === 4 ? AF_INET : AF_INET6
  message.u8(family).zeros(3).u32(index).zeros(4)
  if (address !== undefined) message.attribute(NDA_DST, address)
}

export function readNeighbour(body: Uint8Array, names: Names): (Neighbour & { index: number }) | undefined {
  const family = familyOf(body[0] ?? 0)
  if (body.length < 12 || family === undefined) return undefined
  const view = viewOf(body)
  const attributes = new Attributes(body, 12)
  const address = attributes.bytes(NDA_DST)
  const mac = attributes.bytes(NDA_LLADDR)
  if (address === undefined) return undefined
  const index = view.getUint32(4, true)
  return {
    index,
    link: names.name(index),
    family,
    address: formatAddress(address),
    mac: mac === undefined ? undefined : formatMac(mac),
    state: NEIGHBOUR_STATES[view.getUint16(8, true)] ?? 'none',
  }
}

// ---- queueing disciplines

const TCA_KIND = 1
const TCA_OPTIONS = 2
const TC_ROOT = 0xffffffff
/** A clock tick of the packet scheduler, in nanoseconds. */
const TICK_NS = 64
const Tbf = { PARAMETERS: 1, RATE64: 4, BURST: 6 } as const
const LINK_LAYER_ETHERNET = 1
const Netem = { LATENCY64: 10, JITTER64: 11 } as const

/** tcmsg: family u8, 3 padding, index i32, handle u32, parent u32, info u32. */
export function writeQdisc(message: NetlinkMessage, index: number, qdisc: Qdisc | undefined): void {
  message.u32(0).u32(index).u32(0).u32(TC_ROOT).u32(0)
  if (qdisc === undefined) return
  message.attributeString(TCA_KIND, qdisc.kind)
  if (qdisc.kind === 'tbf') {
    const bytesPerSecond = qdisc.rate / 8
    message.nested(TCA_OPTIONS, () => {
      // tc_tbf_qopt: rate and peak rate (tc_ratespec of 12 bytes), limit, buffer in ticks, mtu
      message.structure(Tbf.PARAMETERS, () =>
        message
          .u8(0)
          .u8(LINK_LAYER_ETHERNET)
          .zeros(6)
          .u32(Math.min(0xffffffff, bytesPerSecond))
          .zeros(12)
          .u32(qdisc.limit)
          .u32(((qdisc.burst / bytesPerSecond) * 1e9) / TICK_NS)
          .u32(0),
      )
      if (bytesPerSecond > 0xffffffff) message.attributeU64(Tbf.RATE64, bytesPerSecond)
      message.attributeU32(Tbf.BURST, qdisc.burst)
    })
  } else {
    // tc_netem_qopt: latency in ticks, limit, loss (of 2^32), gap, duplicate, jitter
    message.structure(TCA_OPTIONS, () => {
      message
        .u32(0)
        .u32(qdisc.limit ?? 1000)
        .u32(Math.min(0xffffffff, Math.round((qdisc.loss ?? 0) * 2 ** 32)))
        .zeros(12)
      message.attributeU64(Netem.LATENCY64, Math.round((qdisc.delay ?? 0) * 1e6))
      message.attributeU64(Netem.JITTER64, Math.round((qdisc.jitter ?? 0) * 1e6))
    })
  }
}
