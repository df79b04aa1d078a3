/** Links (linux/if_link.h). */

import { viewOf } from '../../../core/bytes.ts'
import { usageError } from '../../../core/errors.ts'
import { Attributes, type NetlinkMessage } from '../../netlink.ts'
import type { Link, OperState } from '../types.ts'
import { formatMac } from './common.ts'

const Ifla = {
  ADDRESS: 1,
  NAME: 3,
  MTU: 4,
  QDISC: 6,
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
const VRF_TABLE = 1
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

/** Undefined for what is no link (a bridge port's message) or cut short. */
export function readLink(body: Uint8Array): Link | undefined {
  if (body.length < 16 || body[0] !== 0) return undefined
  const view = viewOf(body)
  const flags = view.getUint32(8, true)
  const attributes = new Attributes(body, 16)
  const stats = attributes.bytes(Ifla.STATS64)
  const counter = (n: number) =>
    stats !== undefined && stats.length >= 8 * n + 8 ? Number(viewOf(stats).getBigUint64(8 * n, true)) : 0
  const info = attributes.nested(Ifla.LINK_INFO)
  const kind = info?.string(INFO_KIND)
  const vrfTable = kind === 'vrf' ? info?.nested(INFO_DATA)?.u32(VRF_TABLE) : undefined
  return {
    index: view.getUint32(4, true),
    name: attributes.string(Ifla.NAME) ?? '',
    kind,
    ...(vrfTable !== undefined && { vrfTable }),
    up: (flags & IFF_UP) !== 0,
    carrier: (flags & IFF_LOWER_UP) !== 0,
    operState: OPER_STATES[attributes.u8(Ifla.OPER_STATE) ?? 0] ?? 'unknown',
    loopback: (flags & IFF_LOOPBACK) !== 0,
    mtu: attributes.u32(Ifla.MTU) ?? 0,
    mac: formatMac(attributes.bytes(Ifla.ADDRESS)),
    alias: attributes.string(Ifla.ALIAS),
    master: attributes.u32(Ifla.MASTER),
    gsoMaxSize: attributes.u32(Ifla.GSO_MAX_SIZE),
    queue: attributes.string(Ifla.QDISC),
    rxPackets: counter(0),
    txPackets: counter(1),
    rxBytes: counter(2),
    txBytes: counter(3),
  }
}
