/**
 * What a node keeps of its pairs, for when no coordinator answers: the lease that the zone has signed, the key of the pair, and where
 * the peer was. Over restarts it is in a file of the node's owner. Pure.
 */
import { toHex } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import type { TunnelCrypto } from '../../crypto/tunnel-crypto.ts'
import { checkKeys } from './secrets.ts'

export interface KeptPair {
  /** Full name of the peer. */
  readonly name: string
  readonly lease: Uint8Array
  readonly pairKey: Uint8Array
  /** Of the peer's zone, if that is another. */
  readonly zoneKey?: Uint8Array
  /** Where it was last, the latest first. */
  readonly places: readonly Endpoint[]
}

/** Pairs kept: those directed last. */
export const MAX_KEPT = 64
export const MAX_PLACES = 8

export class Memory {
  readonly #crypto: TunnelCrypto
  /** The one used last at the end. */
  readonly #pairs = new Map<string, KeptPair>()
  /** Names by the tag of their CHECKs, in hexadecimal. */
  readonly #byTag = new Map<string, string>()

  /** `kept`: the one used last first. */
  constructor(crypto: TunnelCrypto, kept: readonly KeptPair[]) {
    this.#crypto = crypto
    for (const pair of [...kept.slice(0, MAX_KEPT)].reverse()) this.keep(pair)
  }

  /** The one used last first. */
  all(): KeptPair[] {
    return [...this.#pairs.values()].reverse()
  }

  get(name: string): KeptPair | undefined {
    return this.#pairs.get(name)
  }

  byTag(tag: Uint8Array): KeptPair | undefined {
    return this.#pairs.get(this.#byTag.get(toHex(tag)) ?? '')
  }

  keep(pair: KeptPair): void {
    this.drop(pair.name)
    this.#pairs.set(pair.name, { ...pair, places: pair.places.slice(0, MAX_PLACES) })
    this.#byTag.set(this.#tagOf(pair), pair.name)
    const [oldest] = this.#pairs.keys()
    if (this.#pairs.size > MAX_KEPT && oldest !== undefined) this.drop(oldest)
  }

  drop(name: string): void {
    const pair = this.#pairs.get(name)
    if (pair === undefined) return
    this.#pairs.delete(name)
    this.#byTag.delete(this.#tagOf(pair))
  }

  #tagOf({ pairKey }: KeptPair): string {
    return toHex(checkKeys(this.#crypto, pairKey).tag)
  }
}
