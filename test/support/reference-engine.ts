/**
 * What the packet engine does, packet by packet, in the plainest way: classify → assign or duplicate → seal → emit, and
 * back: open → replay window → order → deliver (digest OH-20, OH-14). It is the measure for faster engines, the batched one
 * of datapath/ and a hardware one (docs/packet-engine.md): given the same decisions they emit the same bytes and deliver
 * the same packets in the same order.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto'

/** The outcome of classifying: the path a packet takes, those that get copies, and whether its order is to be kept. */
export interface Assignment {
  readonly path: number
  readonly copies: readonly number[]
  readonly ordered: boolean
}

export interface Emission {
  readonly path: number
  readonly datagram: Uint8Array
}

export interface PacketEngine {
  /** From the terminal's side: the datagrams that leave for one whole IP packet with complete checksums. */
  outbound(packet: Uint8Array, assignment: Assignment): readonly Emission[]
  /** From a path: the packets that can be delivered now. */
  inbound(path: number, datagram: Uint8Array): readonly Uint8Array[]
  /** The hold time has passed: everything held goes out. */
  expire(): readonly Uint8Array[]
}

export interface ReferenceKeys {
  readonly remoteIndex: number
  readonly localIndex: number
  /** AES-256-GCM, 32 bytes each. */
  readonly sendKey: Uint8Array
  readonly receiveKey: Uint8Array
}

const MESSAGE = 32
const HEADER = 16
const TAG = 16
const ORDERED = 4

export class ReferenceEngine implements PacketEngine {
  readonly #keys: ReferenceKeys
  /** Path ids by path, as datagrams carry them. */
  readonly #pathIds: readonly number[]
  #sendCounter = 0
  readonly #seen = new Set<number>()
  /** Order: the next counter to deliver, what is held, and by path the highest counter it has brought. */
  #next: number | undefined
  readonly #held = new Map<number, Uint8Array>()
  /** Counters of packets without the flag, since there is an order: no gaps. */
  readonly #passed = new Set<number>()
  readonly #highest = new Map<number, number>()
  readonly #inUse = new Set<number>()
  /** By path, the highest counter of all that it has brought, with the flag or without. */
  readonly #newest = new Map<number, number>()

  constructor(keys: ReferenceKeys, pathIds: readonly number[]) {
    this.#keys = keys
    this.#pathIds = pathIds
  }

  outbound(packet: Uint8Array, { path, copies, ordered }: Assignment): readonly Emission[] {
    const datagram = new Uint8Array(HEADER + 2 + packet.length + TAG)
    const view = new DataView(datagram.buffer)
    const counter = this.#sendCounter++
    view.setUint32(0, MESSAGE, true)
    view.setUint32(4, this.#keys.remoteIndex, true)
    view.setBigUint64(8, BigInt(counter), true)
    const cipher = createCipheriv('aes-256-gcm', this.#keys.sendKey, nonce(counter))
    const flags = ordered ? ORDERED : 0
    const pathId = copies.length > 0 ? 0 : this.#pathIds[path]!
    datagram.set(cipher.update(Uint8Array.of(flags, pathId)), HEADER)
    datagram.set(cipher.update(packet), HEADER + 2)
    cipher.final()
    datagram.set(cipher.getAuthTag(), datagram.length - TAG)
    return [path, ...copies].map((each) => ({ path: each, datagram }))
  }

  inbound(path: number, datagram: Uint8Array): readonly Uint8Array[] {
    const opened = this.#open(datagram)
    if (opened === undefined) return []
    const { counter, flags, pathId, packet } = opened
    if (this.#seen.has(counter)) {
      // A second copy: dropped, but its path has brought it.
      if (pathId !== 0) return []
      this.#arrived(path, counter)
      if ((flags & ORDERED) !== 0) this.#brought(path, counter)
      return []
    }
    this.#seen.add(counter)
    this.#arrived(path, counter)
    if ((flags & ORDERED) === 0) {
      if (this.#next === undefined || counter < this.#next) return [packet]
      this.#passed.add(counter)
      return [packet, ...this.#settle()]
    }
    this.#brought(path, counter)
    this.#inUse.add(path)
    if (this.#next === undefined) this.#begin(path, counter)
    if (counter < this.#next!) return [packet]
    this.#held.set(counter, packet)
    return this.#settle()
  }

  /** Order begins here: what other paths were given before may still come. */
  #begin(path: number, counter: number): void {
    this.#next = counter
    const others = [...this.#newest].filter(([other, newest]) => other !== path && newest < counter)
    for (const [other, newest] of others) {
      this.#inUse.add(other)
      this.#brought(other, newest)
    }
    const before = Math.max(-1, ...others.map(([, newest]) => newest))
    for (let each = counter - 1; before >= 0 && each > before; each--)
      if (this.#seen.has(each)) this.#passed.add(each)
      else this.#next = each
  }

  #arrived(path: number, counter: number): void {
    this.#newest.set(path, Math.max(this.#newest.get(path) ?? -1, counter))
  }

  expire(): readonly Uint8Array[] {
    const out: Uint8Array[] = []
    for (const counter of [...this.#held.keys()].sort((a, b) => a - b)) {
      out.push(this.#held.get(counter)!)
      this.#next = counter + 1
    }
    this.#held.clear()
    return out
  }

  /** Delivers from `next` on; a gap is passed once every path in use has brought something newer. */
  #settle(): Uint8Array[] {
    const out: Uint8Array[] = []
    while (this.#next !== undefined && (this.#held.size > 0 || this.#passed.has(this.#next))) {
      const counter = this.#next
      const packet = this.#held.get(counter)
      const passed = [...this.#inUse].every((path) => this.#highest.get(path)! > counter)
      if (packet === undefined && !this.#passed.has(counter) && !passed) break
      this.#held.delete(counter)
      if (packet !== undefined) out.push(packet)
      this.#next++
    }
    return out
  }

  #brought(path: number, counter: number): void {
    this.#highest.set(path, Math.max(this.#highest.get(path) ?? -1, counter))
  }

  #open(datagram: Uint8Array) {
    if (datagram.length < HEADER + 2 + TAG) return undefined
    const view = new DataView(datagram.buffer, datagram.byteOffset)
    if (view.getUint32(0, true) !== MESSAGE || view.getUint32(4, true) !== this.#keys.localIndex)
      return undefined
    const counter = Number(view.getBigUint64(8, true))
    const cipher = createDecipheriv('aes-256-gcm', this.#keys.receiveKey, nonce(counter))
    cipher.setAuthTag(datagram.subarray(-TAG))
    try {
      const plain = new Uint8Array(cipher.update(datagram.subarray(HEADER, -TAG)))
      cipher.final()
      return { counter, flags: plain[0]!, pathId: plain[1]!, packet: plain.subarray(2) }
    } catch {
      return undefined
    }
  }
}

function nonce(counter: number): Uint8Array {
  const bytes = new Uint8Array(12)
  new DataView(bytes.buffer).setBigUint64(4, BigInt(counter), true)
  return bytes
}
