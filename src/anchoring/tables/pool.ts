/**
 * The VIpA pool of an anchor (UP-8, UP-19): one number per association, unique here and only here, that gives an IPv4
 * and an IPv6 address. A host is known by its public key and gets the same number again, also after a restart; an
 * exhausted pool is a refusal with the reason "overload", never a second use of an address that is in use.
 */
import { usageError } from '../../core/errors.ts'

export interface PoolInit {
  /** First address and prefix length; the anchor itself is the first usable address. */
  readonly v4: { readonly address: Uint8Array; readonly prefix: number }
  readonly v6: { readonly address: Uint8Array; readonly prefix: number }
  /** Assignments of an earlier run: host key → number. */
  readonly assigned?: Iterable<readonly [string, number]>
}

/** The anchor's own number: network + 1. */
const ANCHOR = 1

export class VipaPool {
  readonly v4Base: number
  /** Numbers run from 2 to `last`; 0 is the network, 1 the anchor, the one after `last` the broadcast address. */
  readonly last: number
  readonly #v6: Uint8Array
  readonly #byKey = new Map<string, number>()
  readonly #keys = new Map<number, string>()
  #cursor = ANCHOR

  constructor(init: PoolInit) {
    const { v4, v6 } = init
    if (v4.prefix < 8 || v4.prefix > 30) throw usageError('the IPv4 pool must be a /8 to /30')
    if (v6.prefix > 96) throw usageError('the IPv6 pool must leave 32 bits for hosts: /96 or wider')
    const mask = (-1 << (32 - v4.prefix)) >>> 0
    this.v4Base = (word(v4.address, 0) & mask) >>> 0
    this.last = 2 ** (32 - v4.prefix) - 2
    this.#v6 = Uint8Array.from(v6.address)
    this.#v6.fill(0, 12)
    for (const [key, number] of init.assigned ?? []) {
      if (number > ANCHOR && number <= this.last && !this.#keys.has(number)) this.#set(key, number)
    }
  }

  get size(): number {
    return this.#keys.size
  }

  get capacity(): number {
    return this.last - ANCHOR
  }

  /** The number of this host; a new one if it has none; undefined when the pool is exhausted. */
  assign(key: string): number | undefined {
    const known = this.#byKey.get(key)
    if (known !== undefined) return known
    if (this.#keys.size >= this.capacity) return undefined
    do {
      this.#cursor = this.#cursor >= this.last ? ANCHOR + 1 : this.#cursor + 1
    } while (this.#keys.has(this.#cursor))
    this.#set(key, this.#cursor)
    return this.#cursor
  }

  /** Gives this very number to the host, if it is free. */
  claim(key: string, number: number): boolean {
    if (number <= ANCHOR || number > this.last || this.#keys.has(number)) return false
    this.release(key)
    this.#set(key, number)
    return true
  }

  /** The number moves from one key to another: the host has replaced its key. */
  rekey(from: string, to: string): boolean {
    const number = this.#byKey.get(from)
    if (number === undefined || this.#byKey.has(to)) return false
    this.#byKey.delete(from)
    this.#set(to, number)
    return true
  }

  numberOf(key: string): number | undefined {
    return this.#byKey.get(key)
  }

  release(key: string): void {
    const number = this.#byKey.get(key)
    if (number === undefined) return
    this.#byKey.delete(key)
    this.#keys.delete(number)
  }

  /** The IPv4 address of a number (1: the anchor). */
  v4(number: number): Uint8Array {
    const address = new Uint8Array(4)
    new DataView(address.buffer).setUint32(0, this.v4Base + number)
    return address
  }

  v6(number: number): Uint8Array {
    const address = Uint8Array.from(this.#v6)
    new DataView(address.buffer).setUint32(12, number)
    return address
  }

  entries(): IterableIterator<[string, number]> {
    return this.#byKey.entries()
  }

  #set(key: string, number: number): void {
    this.#byKey.set(key, number)
    this.#keys.set(number, key)
  }
}

function word(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at)
}
