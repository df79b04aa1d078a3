/** Leases as a node has them: its own, which it presents at each registration, and what it takes for a peer's. */
import { equal } from '../../core/bytes.ts'
import type { TunnelRow } from '../tables.ts'
import { checkLease, type Lease, leaseCodec } from '../wire/lease.ts'
import type { MachineComponents, NodeMachineInit } from './api.ts'
import { zoneOf } from './names.ts'
import { hasVirtualAddresses } from './virtual.ts'

/** Foreign zones whose keys are pinned. */
const MAX_ZONES = 4096
/** Bytes of an IPv6 address that are the coordinator's. */
const PREFIX6 = 8

type Addresses = Pick<Lease, 'v6' | 'v4'>

export class NodeLeases {
  readonly #parts: Pick<MachineComponents, 'crypto' | 'wall'>
  readonly #init: Pick<NodeMachineInit, 'credentials' | 'publicKey'>
  /** Keys of foreign zones, by zone: the first that was seen. */
  readonly #zones = new Map<string, Uint8Array>()
  /** This node's. */
  encoded: Uint8Array | undefined
  /** Of the last one that was good. */
  addresses: Addresses | undefined

  constructor(
    parts: Pick<MachineComponents, 'crypto' | 'wall'>,
    init: Pick<NodeMachineInit, 'credentials' | 'publicKey' | 'lease'>,
  ) {
    this.#parts = parts
    this.#init = init
    this.encoded = init.lease
  }

  /** A lease that a coordinator gives lasts for weeks: if it has ended, a clock is wrong, and this one at boot rather than the server's. */
  hasEnded(bytes: Uint8Array): boolean {
    const lease = leaseCodec.decode(bytes)
    return lease.ok && this.#parts.wall() / 1000 > lease.value.notAfter
  }

  /** The decoded lease, if it is this node's. */
  own(bytes: Uint8Array): Lease | undefined {
    const { credentials, publicKey } = this.#init
    const lease = this.#check(bytes, credentials.zoneKey)
    if (lease?.name !== credentials.name || !equal(lease.publicKey, publicKey)) return undefined
    return hasVirtualAddresses(lease) ? lease : undefined
  }

  /** The lease of a peer, signed by the key of its zone: ours, or the one that was seen first. */
  peer(name: string, bytes: Uint8Array, zoneKey: Uint8Array | undefined): Lease | undefined {
    const { credentials } = this.#init
    const zone = zoneOf(name)
    const own = zone === zoneOf(credentials.name)
    const pinned = own ? credentials.zoneKey : (this.#zones.get(zone) ?? zoneKey)
    const lease = pinned && this.#check(bytes, pinned)
    if (pinned === undefined || lease?.name !== name || !hasVirtualAddresses(lease)) return undefined
    const ours = this.addresses
    if (ours !== undefined && own !== equal(lease.v6.slice(0, PREFIX6), ours.v6.slice(0, PREFIX6)))
      return undefined
    if (own) return lease
    if (this.#zones.size < MAX_ZONES) this.#zones.set(zone, pinned)
    // Zones choose their IPv4 blocks without each other: another's address may be a peer's of ours. IPv6 addresses are apart.
    const { v4: _, ...rest } = lease
    return rest
  }

  /** Whether one of its virtual addresses is this node's, or that of another peer. One that logged in anew has its own, and another key. */
  collides(
    { name, publicKey, v6, v4 }: Lease,
    peers: Iterable<{ readonly peer: string; readonly row: TunnelRow }>,
  ): boolean {
    const isOf = (other: Addresses) =>
      equal(other.v6, v6) || (v4 !== undefined && other.v4 !== undefined && equal(other.v4, v4))
    if (this.addresses !== undefined && isOf(this.addresses)) return true
    for (const { peer, row } of peers)
      if (peer !== name && isOf(row) && !equal(row.publicKey, publicKey)) return true
    return false
  }

  #check(bytes: Uint8Array, zoneKey: Uint8Array): Lease | undefined {
    const { crypto, wall } = this.#parts
    const lease = checkLease(bytes, zoneKey, wall(), (key, text, signature) =>
      crypto.verify(key, text, signature),
    )
    return lease.ok ? lease.value : undefined
  }
}
