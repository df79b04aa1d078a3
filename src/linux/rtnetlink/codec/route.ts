/** Routes and look-ups (linux/rtnetlink.h). */
import { formatAddress } from '../../../core/address.ts'
import { viewOf } from '../../../core/bytes.ts'
import { usageError } from '../../../core/errors.ts'
import { Attributes, type NetlinkMessage } from '../../netlink.ts'
import type { NextHop, Route, RouteSpec, RouteType } from '../types.ts'
import {
  AF_INET,
  AF_INET6,
  addressBytes,
  familyOf,
  maskedPrefix,
  type Names,
  prefixText,
  TABLE_MAIN,
} from './common.ts'

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
    else throw usageError(`${route.to} cannot go via ${route.via}: it is of another address family`)
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
  const hops = readHops(attributes.bytes(Rta.MULTIPATH), names)
  const hop = hops[0] ?? nextHop(attributes, attributes.u32(Rta.OIF), names)
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
    ...hop,
    ...(metric !== undefined && metric !== 0 && { metric }),
    ...(source !== undefined && { source: formatAddress(source) }),
    ...((flags & RTNH_F_ONLINK) !== 0 && { onlink: true }),
    ...(mtu !== undefined && { mtu }),
    ...(hops.length > 1 && { hops }),
  }
}

/** RTA_MULTIPATH, rtnexthop each: length u16, flags u8, hops u8, index u32, attributes. */
function readHops(bytes: Uint8Array | undefined, names: Names): NextHop[] {
  const out: NextHop[] = []
  for (let at = 0; bytes !== undefined && at + 8 <= bytes.length; ) {
    const view = viewOf(bytes)
    const length = view.getUint16(at, true)
    if (length < 8 || at + length > bytes.length) break
    const attributes = new Attributes(bytes.subarray(at, at + length), 8)
    out.push(nextHop(attributes, view.getUint32(at + 4, true), names))
    at += (length + 3) & ~3
  }
  return out
}

function nextHop(attributes: Attributes, oif: number | undefined, names: Names): NextHop {
  const foreign = attributes.bytes(Rta.VIA)
  const gateway = attributes.bytes(Rta.GATEWAY) ?? (foreign?.length === 18 ? foreign.subarray(2) : undefined)
  return {
    ...(gateway !== undefined && { via: formatAddress(gateway) }),
    ...(oif !== undefined && oif !== 0 && { dev: names.name(oif) }),
  }
}
