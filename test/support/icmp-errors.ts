/** ICMP errors as a host sends them, about any packet. */
import { TOO_BIG_MAX, writeUnreachable } from '../../src/core/icmp.ts'

/** To the source of `about`, of its family. */
export function errorAbout(about: Uint8Array, from: Uint8Array): Uint8Array {
  const out = new Uint8Array(TOO_BIG_MAX)
  return out.slice(0, writeUnreachable(about, 0, about.length, out, 0, from))
}
