/**
 * Socket addresses in packet memory. A *name* is 32 bytes: a sockaddr_in or sockaddr_in6, zero behind it, so that two
 * names of one socket are the same endpoint exactly when their eight words are equal.
 *
 *   sockaddr_in    family u16, port u16 BE, address 4, zero 8
 *   sockaddr_in6   family u16, port u16 BE, flow u32 (0), address 16, scope u32
 */
import type { Endpoint } from '../core/endpoint.ts'

export const AF_INET = 2
export const AF_INET6 = 10
export const NAME_SIZE = 32

/** Bytes of an IPv6 address in front of an IPv4 address (RFC 6052, a prefix of 96 bits). */
export const NAT64_PREFIX = 12

/**
 * Writes `endpoint` as the name that a socket of this family uses: on an IPv6 socket IPv4 is mapped, or behind the prefix of a network
 * that translates it (`nat64`).
 */
export function writeName(
  u8: Uint8Array,
  view: DataView,
  at: number,
  endpoint: Endpoint,
  family: 4 | 6,
  nat64?: Uint8Array,
): void {
  u8.fill(0, at, at + NAME_SIZE)
  view.setUint16(at + 2, endpoint.port)
  if (family === 4) {
    view.setUint16(at, AF_INET, true)
    u8.set(endpoint.address.length === 4 ? endpoint.address : endpoint.address.subarray(12), at + 4)
    return
  }
  view.setUint16(at, AF_INET6, true)
  writeAddress16(u8, at + 8, endpoint.address)
  if (nat64 !== undefined && endpoint.address.length === 4) u8.set(nat64, at + 8)
  view.setUint32(at + 24, endpoint.scope ?? 0, true)
}

/** Reads a name back; a mapped IPv4 address, or one behind the prefix, comes out as 4 bytes. Copies. */
export function readName(u8: Uint8Array, view: DataView, at: number, nat64?: Uint8Array): Endpoint {
  const port = view.getUint16(at + 2)
  if (view.getUint16(at, true) === AF_INET) return { address: u8.slice(at + 4, at + 8), port }
  if (nat64?.every((byte, i) => u8[at + 8 + i] === byte)) return { address: u8.slice(at + 20, at + 24), port }
  const address = readAddress16(u8, at + 8)
  const scope = view.getUint32(at + 24, true)
  return scope === 0 ? { address, port } : { address, port, scope }
}

/** Writes 16 bytes: an IPv6 address, or an IPv4 one mapped. */
export function writeAddress16(u8: Uint8Array, at: number, address: Uint8Array): void {
  if (address.length === 16) {
    u8.set(address, at)
    return
  }
  u8.fill(0, at, at + 10)
  u8.fill(0xff, at + 10, at + 12)
  u8.set(address, at + 12)
}

/** Copies the address out of 16 bytes; 4 bytes when it is a mapped IPv4 address. */
export function readAddress16(u8: Uint8Array, at: number): Uint8Array {
  return isMapped(u8, at) ? u8.slice(at + 12, at + 16) : u8.slice(at, at + 16)
}

function isMapped(u8: Uint8Array, at: number): boolean {
  for (let i = 0; i < 10; i++) if (u8[at + i] !== 0) return false
  return u8[at + 10] === 0xff && u8[at + 11] === 0xff
}
