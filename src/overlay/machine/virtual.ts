/**
 * Addresses that a coordinator, or through it a peer, may give to a node. Virtual addresses must be private, so that no
 * lease draws traffic for the Internet, this host or its links into the overlay. Datagrams go only to unicast addresses
 * of other hosts, never to this host itself, to broadcast or multicast, or to the unspecified address.
 */
import { type AddressKind, kindOf } from '../../core/address.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import type { Lease } from '../wire/lease.ts'

/** RFC 1918, RFC 6598, RFC 2544. */
const GIVEN4: readonly AddressKind[] = ['private', 'shared', 'benchmarking']
/** RFC 4193. */
const GIVEN6: AddressKind = 'unique-local'
const NO_HOST: readonly AddressKind[] = [
  ...(['unspecified', 'loopback', 'link-local', 'multicast', 'broadcast', 'reserved'] as const),
]

/** Whether a zone may give this address to a node. */
export function isVirtual(address: Uint8Array): boolean {
  return address.length === 4 ? GIVEN4.includes(kindOf(address)) : kindOf(address) === GIVEN6
}

export function hasVirtualAddresses({ v6, v4 }: Pick<Lease, 'v6' | 'v4'>): boolean {
  return isVirtual(v6) && (v4 === undefined || isVirtual(v4))
}

/** Whether a host may be there: where another names this place, datagrams are sent to it. */
export function mayBeHost({ address, port }: Endpoint): boolean {
  return port !== 0 && !NO_HOST.includes(kindOf(address))
}
