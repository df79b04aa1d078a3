/**
 * The ports of fragmented packets. The first fragment has them; later ones belong to the same packet and follow it. A
 * table of fixed size, one slot per hash; a packet takes over an occupied slot. Later fragments whose first was not seen
 * (lost, still to come, or overwritten) have no ports. Nothing is allocated.
 */
import { addressLength, fragmentId, ipVersion, isLaterFragment, offsetIn, sourceAt } from './ip.ts'
import { IPV4 } from './ipv4.ts'

/** A power of two. */
const PLACES = 512
/** How long a receiver waits for the rest of a packet (RFC 8200 §4.5), milliseconds; then its identification is free. */
const LIFETIME = 60_000
/** Result of `portsOf` for a fragment of an unknown packet. */
export const NO_PORTS = -1
const NEVER = Number.NEGATIVE_INFINITY

export class FragmentPorts {
  readonly #hash = new Int32Array(PLACES)
  readonly #id = new Int32Array(PLACES)
  /** Unsigned: source port in the upper half. */
  readonly #ports = new Float64Array(PLACES)
  readonly #seenAt = new Float64Array(PLACES).fill(NEVER)

  /**
   * Source and destination port, as one unsigned number with the source in the upper half, of the fragment at `at`; or
   * NO_PORTS. `transport` is what `transportOf` gave for it, `ports` whether its protocol has ports.
   */
  portsOf(
    view: DataView,
    at: number,
    length: number,
    transport: number,
    ports: boolean,
    now: number,
  ): number {
    const id = fragmentId(view, at, length)
    const hash = this.#hashOf(view, at, id)
    const place = (hash ^ (hash >>> 16)) & (PLACES - 1)
    if (isLaterFragment(transport)) {
      const known =
        this.#hash[place] === hash && this.#id[place] === id && now - this.#seenAt[place]! < LIFETIME
      return known ? this.#ports[place]! : NO_PORTS
    }
    const offset = offsetIn(transport)
    const found = ports && offset + 4 <= length ? view.getUint32(at + offset) : NO_PORTS
    this.#hash[place] = hash
    this.#id[place] = id
    this.#ports[place] = found
    this.#seenAt[place] = now
    return found
  }

  /**
   * Hash of both addresses and of what identifies a packet between them: the identification, and for IPv4 the protocol.
   */
  #hashOf(view: DataView, at: number, id: number): number {
    let hash = id ^ (ipVersion(view, at) === 4 ? view.getUint8(at + IPV4.PROTOCOL) << 16 : 0)
    const from = sourceAt(view, at)
    const size = 2 * addressLength(view, at)
    for (let i = 0; i < size; i += 4) {
      hash = Math.imul(hash ^ view.getInt32(from + i), 0x9e3779b1)
      hash ^= hash >>> 15
    }
    return hash
  }
}
