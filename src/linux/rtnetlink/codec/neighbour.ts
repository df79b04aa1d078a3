/** Neighbours (linux/neighbour.h). */
import { formatAddress } from '../../../core/address.ts'
import { viewOf } from '../../../core/bytes.ts'
import { Attributes, type NetlinkMessage } from '../../netlink.ts'
import type { Neighbour } from '../types.ts'
import { AF_INET, AF_INET6, familyOf, formatMac, type Names } from './common.ts'

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
