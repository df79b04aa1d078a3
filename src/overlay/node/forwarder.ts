/**
 * Chooses the path of a packet between virtual addresses: the tunnel table (NT-35), queried by the datapath. The
 * destination identifies the peer; the engine sets which of its paths is in use. Peers of earlier runs have addresses
 * here and no tunnel yet: a packet for one waits while its name is resolved.
 */
import { LpmTable } from '../../core/address.ts'
import { quotedIn } from '../../core/icmp.ts'
import { addressLength, isSourceRouted, sourceAt, transportOf } from '../../core/ip.ts'
import { type Forwarder, Verdict } from '../../tunnel/seam.ts'
import type { NodePeer } from './protocol.ts'

/** Bytes around a packet on its way: headers of IPv6, UDP and the tunnel, padding. */
const OVERHEAD = 96
/** Peers without a tunnel that packets are known for; the ones set aside first give way. */
const MAX_DORMANT = 2048

export class OverlayForwarder implements Forwarder {
  /**
   * `foreign`: sent from a source that is not this node's; `spoofed`: received from a source that is not the peer's, or
   * not for this node, or to be passed on, or an error about packets that this node has not sent to it.
   */
  counts = { unroutable: 0, foreign: 0, spoofed: 0 }
  /** Names of peers without a tunnel that packets are for. */
  readonly wanted = new Set<string>()
  /** Peers that the kernel has no routes to yet: it could not answer what comes from them. */
  readonly heldPeers = new Set<number>()
  readonly #own = new LpmTable<true>()
  #ownPrefixes: readonly Uint8Array[] = []
  /** Peers by address: index in the tunnel; below zero, -1 minus the index in `#dormant`. */
  readonly #peers = new LpmTable<number>()
  readonly #dormant: { readonly name: string; refusedUntil: number }[] = []
  /** The next of the dormant ones to give way. */
  #next = 0
  readonly #slots: number[] = []
  /** Bytes that may still go to the peer, with their headers. */
  readonly #left: number[] = []
  /** When a packet was last meant for the peer. */
  readonly #usedAt: number[] = []

  /** The virtual addresses of this node. */
  setOwn(addresses: readonly Uint8Array[]): void {
    for (const address of this.#ownPrefixes) this.#own.remove(whole(address))
    for (const address of addresses) this.#own.insert(whole(address), true)
    this.#ownPrefixes = addresses
  }

  addDormant(peer: NodePeer): void {
    let at = this.#dormant.findIndex(({ name }) => name === peer.name)
    if (at < 0 && this.#dormant.length < MAX_DORMANT) at = this.#dormant.length
    else if (at < 0) {
      at = this.#next
      this.#next = (this.#next + 1) % MAX_DORMANT
    }
    this.#peers.removeValue(-1 - at)
    this.#dormant[at] = { name: peer.name, refusedUntil: 0 }
    for (const address of addressesOf(peer)) this.#peers.insert(whole(address), -1 - at)
  }

  /** No direction came: packets for it are dropped until then, and do not ask for another. */
  refuse(name: string, until: number): void {
    for (const peer of this.#dormant) if (peer.name === name) peer.refusedUntil = until
  }

  addPeer(index: number, peer: NodePeer): void {
    const isRouted = addressesOf(peer).every(
      (address) => this.#peers.lookup(address, 0, address.length === 4 ? 4 : 6) !== undefined,
    )
    if (!isRouted) this.heldPeers.add(index)
    // Addresses that its name had before lead nowhere: what waits for them would ask for it without end.
    const before = this.#dormant.findIndex(({ name }) => name === peer.name)
    if (before >= 0) this.#peers.removeValue(-1 - before)
    for (const address of addressesOf(peer)) this.#peers.insert(whole(address), index)
    this.#slots[index] = Verdict.PARK
    this.#left[index] = Number.POSITIVE_INFINITY
    this.#usedAt[index] = Number.NEGATIVE_INFINITY
  }

  removePeer(peer: NodePeer): void {
    for (const address of addressesOf(peer)) this.#peers.remove(whole(address))
  }

  /** Sets the path for the peer's packets; PARK: none works. */
  setSlot(index: number, slot: number): void {
    this.#slots[index] = slot
  }

  /** Packets wait once so many bytes have gone to the peer: these, and those allowed before. */
  allow(index: number, bytes: number): void {
    const left = this.#left[index] ?? Number.POSITIVE_INFINITY
    this.#left[index] = bytes + (left === Number.POSITIVE_INFINITY ? 0 : Math.max(0, left))
  }

  /** Where there is a bound. */
  allowMore(index: number, bytes: number): void {
    if (this.isBound(index)) this.allow(index, bytes)
  }

  isBound(index: number): boolean {
    return (this.#left[index] ?? Number.POSITIVE_INFINITY) < Number.POSITIVE_INFINITY
  }

  /** No packet waits for that any more. */
  unbind(index: number): void {
    this.#left[index] = Number.POSITIVE_INFINITY
  }

  slot(index: number): number {
    return this.#slots[index] ?? Verdict.PARK
  }

  usedAt(index: number): number {
    return this.#usedAt[index] ?? Number.NEGATIVE_INFINITY
  }

  outbound(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    _partial: boolean,
    now: number,
  ): number {
    if (transportOf(view, at, length) < 0) {
      this.counts.unroutable++
      return Verdict.DROP
    }
    const width = addressLength(view, at)
    const family = width === 4 ? 4 : 6
    const source = sourceAt(view, at)
    const peer = this.#peers.lookup(bytes, source + width, family)
    if (peer === undefined) {
      this.counts.unroutable++
      return Verdict.DROP
    }
    if (this.#own.lookup(bytes, source, family) === undefined) {
      this.counts.foreign++
      return Verdict.DROP
    }
    if (peer < 0) return this.#want(-1 - peer, now)
    this.#usedAt[peer] = now
    const slot = this.#slots[peer]!
    if (slot < 0 || this.#left[peer] === Number.POSITIVE_INFINITY) return slot
    this.#left[peer] = this.#left[peer]! - length - OVERHEAD
    return this.#left[peer]! < 0 ? Verdict.PARK : slot
  }

  inbound(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    _partial: boolean,
    peer: number,
  ): boolean {
    const width = addressLength(view, at)
    const family = width === 4 ? 4 : 6
    const source = sourceAt(view, at)
    const quoted = quotedIn(view, at, length)
    if (
      this.#peers.lookup(bytes, source, family) === peer &&
      this.#own.lookup(bytes, source + width, family) !== undefined &&
      (quoted === 0 || (quoted > 0 && this.#sent(bytes, at + quoted, family, peer))) &&
      !isSourceRouted(view, at, length)
    )
      return true
    this.counts.spoofed++
    return false
  }

  /** What an error reports has to have been sent from here to this peer. */
  #sent(bytes: Uint8Array, destination: number, family: 4 | 6, peer: number): boolean {
    return (
      this.#peers.lookup(bytes, destination, family) === peer &&
      this.#own.lookup(bytes, destination - (family === 4 ? 4 : 16), family) !== undefined
    )
  }

  #want(index: number, now: number): number {
    const peer = this.#dormant[index]!
    if (now < peer.refusedUntil) return Verdict.DROP
    this.wanted.add(peer.name)
    return Verdict.PARK
  }
}

export function addressesOf({ v6, v4 }: NodePeer): readonly Uint8Array[] {
  return v4 === undefined ? [v6] : [v6, v4]
}

function whole(address: Uint8Array): { readonly address: Uint8Array; readonly length: number } {
  return { address, length: 8 * address.length }
}
