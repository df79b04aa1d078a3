/** Addresses (linux/if_addr.h). */
import { formatAddress } from '../../../core/address.ts'
import { viewOf } from '../../../core/bytes.ts'
import { Attributes, type NetlinkMessage } from '../../netlink.ts'
import type { Address, AddressOptions } from '../types.ts'
import { AF_INET, AF_INET6, addressBytes, familyOf, type Names, prefixOf } from './common.ts'

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
