/** What the rtnetlink codecs share: message and group numbers, families, prefixes in text. */
import { formatAddress, maskAddress, type Prefix, parseInterfaceAddress } from '../../../core/address.ts'
import { usageError } from '../../../core/errors.ts'
import type { Family } from '../types.ts'

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

export const AF_INET = 2
export const AF_INET6 = 10
export const TABLE_MAIN = 254

export function familyNumber(family: Family | undefined): number {
  return family === undefined ? 0 : family === 4 ? AF_INET : AF_INET6
}

export function familyOf(number: number): Family | undefined {
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
export function maskedPrefix(text: string): Prefix {
  const { address, length } = prefixOf(text)
  return { address: maskAddress(address, length), length }
}

export function addressBytes(text: string): Uint8Array {
  return prefixOf(text).address
}

export function prefixText(address: Uint8Array | undefined, length: number, family: Family): string {
  if (length === 0) return family === 4 ? 'default' : 'default6'
  return `${formatAddress(address ?? new Uint8Array(family === 4 ? 4 : 16))}/${length}`
}

/** Hexadecimal with colons; empty for none. */
export function formatMac(bytes: Uint8Array | undefined): string {
  return Array.from(bytes ?? [], (byte) => byte.toString(16).padStart(2, '0')).join(':')
}
