/**
 * A topology says what exists: hosts, the links between them, addresses, routes and translators. `build.ts` makes it.
 */
import type { RouteSpec } from '../src/linux/rtnetlink/types.ts'
import type { NatSpec } from './nat.ts'
import type { LinkConditions } from './types.ts'

export interface HostSpec {
  /** Routes packets of others. */
  readonly forward?: boolean
  /** A switch: its interfaces are ports of one bridge `br0`. */
  readonly bridge?: boolean
  readonly routes?: readonly RouteSpec[]
  readonly nat?: NatSpec
}

export interface LinkEnd {
  readonly host: string
  readonly iface: string
  /** CIDRs. */
  readonly addresses?: readonly string[]
}

export interface LinkSpec {
  readonly name: string
  readonly ends: readonly [LinkEnd, LinkEnd]
  /** Through the emulator, so that its conditions can be changed; otherwise a bare veth pair. */
  readonly emulated?: boolean
  readonly conditions?: Partial<LinkConditions>
  /** Bytes; default 1500. */
  readonly mtu?: number
}

/** Namespaces are named `gw-<role>`, roles being the keys of `hosts`. */
export interface TopologySpec {
  readonly name: string
  readonly summary: string
  readonly hosts: Readonly<Record<string, HostSpec>>
  readonly links: readonly LinkSpec[]
}

export function namespaceOf(role: string): string {
  return `gw-${role}`
}

/** First address of an end in the family, without prefix length. */
export function addressOf(spec: TopologySpec, role: string, iface: string, family: 4 | 6 = 4): string {
  for (const link of spec.links)
    for (const end of link.ends)
      if (end.host === role && end.iface === iface)
        for (const cidr of end.addresses ?? [])
          if (cidr.includes(':') === (family === 6)) return cidr.split('/')[0]!
  throw new Error(`topology ${spec.name}: ${role} has no IPv${family} address on ${iface}`)
}
