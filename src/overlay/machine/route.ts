/**
 * Which route two nodes are given (NT-18, NT-45 … NT-49): the matrix of global and private addresses of both families. Pure. A
 * node is global in a family when its datagrams arrive with an address of its own interfaces that the Internet routes.
 */
import { type AddressKind, kindOf } from '../../core/address.ts'
import { equal } from '../../core/bytes.ts'
import type { Location } from '../tables.ts'
import { Route } from '../wire/message.ts'

export type Reach = 'global4' | 'private4' | 'global6' | 'private6'

export interface RouteChoice {
  /** For the node that asked and for the other. */
  readonly mn: Route
  readonly cn: Route
  /** Whether a relay has to be ordered. */
  readonly relay: boolean
  /** For the log: why. */
  readonly reason: string
}

/** What is known of a node from its observed source address and its reported interfaces. */
export function reachOf({ observed, hosts }: Pick<Location, 'observed' | 'hosts'>): ReadonlySet<Reach> {
  const reach = new Set<Reach>()
  const own = hosts.map(({ endpoint }) => endpoint.address)
  const isOwn = own.some((address) => equal(address, observed.address))
  const isGlobal = isOwn && isRouted(observed.address)
  if (observed.address.length === 4) reach.add(isGlobal ? 'global4' : 'private4')
  else reach.add(isGlobal ? 'global6' : 'private6')
  // The coordinator has not observed the other family: a reported public address is assumed to work, and tried.
  for (const address of own) {
    if (address.length === observed.address.length) continue
    if (address.length === 16 && isRouted(address)) reach.add('global6')
    if (address.length === 4) reach.add(isRouted(address) ? 'global4' : 'private4')
  }
  return reach
}

/** Kinds of address behind a NAT or a border router; documentation networks are routed in test set-ups. */
const INSIDE: readonly AddressKind[] = [
  ...(['private', 'shared', 'unique-local', 'link-local', 'loopback'] as const),
  ...(['unspecified', 'multicast', 'broadcast', 'reserved'] as const),
]

function isRouted(address: Uint8Array): boolean {
  return !INSIDE.includes(kindOf(address))
}

export function chooseRoute(
  mn: Pick<Location, 'observed' | 'hosts'>,
  cn: Pick<Location, 'observed' | 'hosts'>,
  wantsRelay: boolean,
): RouteChoice {
  const a = reachOf(mn)
  const b = reachOf(cn)
  if (wantsRelay) return relayed('the direct route did not work')
  if (a.has('global4') && (b.has('global4') || b.has('private4')))
    return b.has('global4')
      ? direct('both have global IPv4 addresses', 'mn')
      : direct('the initiator has a global IPv4 address', 'cn')
  if (a.has('private4') && b.has('global4')) return direct('the responder has a global IPv4 address', 'mn')
  if (a.has('global6') && b.has('global6')) return relayed('IPv6: firewalls are opened from both ends')
  if (a.has('private4') && b.has('private4')) return relayed('both are behind NATs')
  return relayed('they have no common address family that is known to work')
}

function direct(reason: string, starts: 'mn' | 'cn'): RouteChoice {
  const [mn, cn] =
    starts === 'mn' ? [Route.DIRECT_START, Route.DIRECT_WAIT] : [Route.DIRECT_WAIT, Route.DIRECT_START]
  return { mn, cn, relay: false, reason }
}

function relayed(reason: string): RouteChoice {
  return { mn: Route.RELAY, cn: Route.RELAY, relay: true, reason }
}
