/** What elements of the kernel's maps are made of, whichever kind of map it is. */
import { bytesOf, type Ip } from '../tables.ts'

const MOST_REMEMBERED = 10_000

/** The bytes of addresses, worked out once for each: there are far fewer than flows. */
export class AddressBytes {
  readonly #known = new Map<Ip, Uint8Array>()

  of(ip: Ip): Uint8Array {
    let bytes = this.#known.get(ip)
    if (bytes === undefined) {
      if (this.#known.size >= MOST_REMEMBERED) this.#known.clear()
      bytes = bytesOf(ip)
      this.#known.set(ip, bytes)
    }
    return bytes
  }
}

/** A number of 32 bits in the order of this machine (little-endian on all that godwit runs on). */
export function hostOrder(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24)
}
