/**
 * Leases and virtual addresses of a zone (NT-16): the number of a node, counted up and never used again, is its host part in the
 * coordinator's /64 and in its IPv4 block. A lease is renewed at half of its time.
 */
import { concat, equal, viewOf } from '../../core/bytes.ts'
import { encoded } from '../../core/codec.ts'
import type { NodeRecord } from '../tables.ts'
import { checkLease, leaseCodec, leaseTranscript } from '../wire/lease.ts'
import type { MachineComponents } from './api.ts'
import type { Directory } from './directory.ts'

const LEASE_SECONDS = 30 * 86_400
const SIGNATURE = 64

export interface ZoneInit {
  /** Full name, lower case. */
  readonly zone: string
  /** Ed25519 seed that leases are signed with. */
  readonly zoneSeed: Uint8Array
  readonly zoneKey: Uint8Array
  /** The coordinator's /64: 8 bytes. */
  readonly prefix6: Uint8Array
  /** Its IPv4 block: first address and prefix length; absent: nodes have IPv6 only. */
  readonly block4?: { readonly address: Uint8Array; readonly length: number }
}

export class Leases {
  readonly #parts: MachineComponents
  readonly #directory: Directory
  readonly #init: ZoneInit
  /** Nodes whose number was taken in this turn: its commit may fail, and another node then gets the number. */
  readonly #fresh = new Set<string>()

  constructor(parts: MachineComponents, directory: Directory, init: ZoneInit) {
    this.#parts = parts
    this.#directory = directory
    this.#init = init
  }

  /**
   * The node's lease, made or renewed if need be; `presented` is what the node kept. Durable after the store's commit: what is
   * answered in a later turn asks again, since the commit of this one may have failed.
   */
  leaseOf(node: NodeRecord, presented: Uint8Array | undefined): Uint8Array {
    const now = Math.floor(this.#parts.wall() / 1000)
    const kept = node.lease && leaseCodec.decode(node.lease)
    if (node.lease !== undefined && kept?.ok === true) {
      const { notAfter, publicKey } = kept.value
      if (notAfter - now > LEASE_SECONDS / 2 && equal(publicKey, node.publicKey)) return node.lease
    }
    const number = this.#numberOf(node, presented)
    const { v6, v4 } = this.addressesOf(number)
    const lease = encoded(leaseCodec, {
      serial: this.#directory.takeSerial(),
      notBefore: now - 60,
      notAfter: now + LEASE_SECONDS,
      publicKey: node.publicKey,
      v6,
      ...(v4 !== undefined && { v4 }),
      name: node.name,
      signature: new Uint8Array(SIGNATURE),
    })
    lease.set(this.#parts.crypto.sign(this.#init.zoneSeed, leaseTranscript(lease)), lease.length - SIGNATURE)
    this.#directory.setLease(node.name, lease)
    return lease
  }

  /** Whether the node's addresses are its own for good, so that others may be told of them. */
  isLasting(node: NodeRecord): boolean {
    return node.lease !== undefined && !this.#fresh.has(node.name)
  }

  /** What was written in it is durable, or was discarded. */
  turnEnded(): void {
    this.#fresh.clear()
  }

  addressesOf(number: number): { readonly v6: Uint8Array; readonly v4: Uint8Array | undefined } {
    const host = new Uint8Array(8)
    viewOf(host).setBigUint64(0, BigInt(number))
    const { block4 } = this.#init
    const v6 = concat(this.#init.prefix6, host)
    // The last address of a block is its broadcast address.
    if (block4 === undefined || number >= 2 ** (32 - block4.length) - 1) return { v6, v4: undefined }
    const v4 = new Uint8Array(4)
    viewOf(v4).setUint32(0, viewOf(block4.address).getUint32(0) + number)
    return { v6, v4 }
  }

  /**
   * The number in the store; else, if the store was lost, the one in a valid lease that the node presents; else a new
   * one.
   */
  #numberOf(node: NodeRecord, presented: Uint8Array | undefined): number {
    const known = this.#directory.numberOf(node.name)
    if (known !== undefined) return known
    const claimed = presented && this.#claimedBy(node.name, presented)
    if (claimed !== undefined && this.#directory.setNumber(node.name, claimed)) return claimed
    const number = this.#directory.takeNumber()
    this.#directory.setNumber(node.name, number)
    this.#fresh.add(node.name)
    return number
  }

  #claimedBy(name: string, presented: Uint8Array): number | undefined {
    const { zoneKey, prefix6 } = this.#init
    const { crypto, wall } = this.#parts
    const lease = checkLease(presented, zoneKey, wall(), (key, text, signature) =>
      crypto.verify(key, text, signature),
    )
    if (!lease.ok || lease.value.name !== name) return undefined
    const { v6 } = lease.value
    const number = viewOf(v6).getBigUint64(8)
    if (!equal(v6.slice(0, 8), prefix6) || number > BigInt(Number.MAX_SAFE_INTEGER)) return undefined
    return Number(number)
  }
}
