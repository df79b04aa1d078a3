/**
 * IPv4 addresses as an IPv6-only network writes them (RFC 6052), and how to find out how it does: the IPv6 addresses that
 * its resolver makes up for ipv4only.arpa (RFC 7050).
 */

/** RFC 7050 §2.2; it has IPv4 addresses alone, `WELL_KNOWN`. */
export const IPV4ONLY = 'ipv4only.arpa'
const WELL_KNOWN = [Uint8Array.of(192, 0, 0, 170), Uint8Array.of(192, 0, 0, 171)]
/** Lengths that a prefix may have (RFC 6052 §2.2), the usual one first. */
const LENGTHS = [96, 64, 56, 48, 40, 32] as const

export interface Nat64Prefix {
  /** 16 bytes, zero behind the prefix. */
  readonly address: Uint8Array
  readonly length: (typeof LENGTHS)[number]
}

/** Where the four bytes of an IPv4 address go: behind the prefix, without byte 8, which is zero. */
function places(length: number): number[] {
  const out: number[] = []
  for (let at = length / 8; out.length < 4; at++) if (at !== 8) out.push(at)
  return out
}

/** `v4` (4 bytes) as it is reached through the prefix. */
export function synthesise(prefix: Nat64Prefix, v4: Uint8Array): Uint8Array {
  const out = Uint8Array.from(prefix.address)
  for (const [i, at] of places(prefix.length).entries()) out[at] = v4[i]!
  return out
}

/** The prefixes that these addresses of ipv4only.arpa were made with, each once. */
export function prefixesIn(addresses: readonly Uint8Array[]): Nat64Prefix[] {
  const found = new Map<string, Nat64Prefix>()
  for (const address of addresses) {
    if (address.length !== 16) continue
    for (const length of LENGTHS) {
      const at = places(length)
      const isOne = WELL_KNOWN.some((known) => at.every((place, i) => address[place] === known[i]))
      if (!isOne || (length < 96 && address[8] !== 0)) continue
      const prefix = Uint8Array.from(address).fill(0, length / 8)
      found.set(`${prefix.join()}/${length}`, { address: prefix, length })
      break
    }
  }
  return [...found.values()]
}
