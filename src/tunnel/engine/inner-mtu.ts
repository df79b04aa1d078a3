/** MTU of a tunnel device, from what its paths carry. */
import type { PathReport } from './events.ts'

/** Used until a path has reported its MTU. */
export const FIRST_MTU = 1400
/** IPv6 asks for no less. */
const LEAST_MTU = 1280
/** IP and UDP, by family; then message 32: its header, its tag and two bytes inside. */
const OUTER = { 4: 20 + 8, 6: 40 + 8 } as const
const MESSAGE_32 = 16 + 16 + 2

/** Max bytes that the tunnel adds to a packet. */
export const MAX_OVERHEAD = OUTER[6] + MESSAGE_32

/** A smaller MTU must hold for this long (ms): a search of the paths' MTU is over well before. */
const FALL_MS = 2_000

type Measured = Pick<PathReport, 'mtu' | 'remote'>

/** The largest packet that passes over every path, also after one of them changes to IPv6 (UP-37). */
export function narrowestMtu(paths: readonly Measured[]): number | undefined {
  if (paths.length === 0) return undefined
  return Math.max(LEAST_MTU, Math.min(...paths.map(({ mtu }) => mtu)) - MAX_OVERHEAD)
}

/**
 * The largest packet that passes over the widest path. A packet that is too large for its path is fragmented or refused
 * there.
 */
export function widestMtu(paths: readonly Measured[]): number | undefined {
  if (paths.length === 0) return undefined
  const inner = paths.map(({ mtu, remote }) => mtu - OUTER[remote.startsWith('[') ? 6 : 4] - MESSAGE_32)
  return Math.max(LEAST_MTU, ...inner)
}

/**
 * MTU of a device that forwards packets of others: rises at once, falls when it has been smaller for FALL_MS. A path that
 * comes back begins with the least MTU; a terminal that is told so in these milliseconds keeps to it for ten minutes.
 * Packets that are too large for their path are cut, fragmented or refused there; while its MTU is searched, none is refused.
 */
export class SteadyMtu {
  #current: number
  #smallerSince = Number.NaN

  constructor(first: number) {
    this.#current = first
  }

  /** The MTU to set; `fitting`: what the paths carry now, undefined while there are none. */
  follow(fitting: number | undefined, now: number): number {
    if (fitting === undefined || fitting >= this.#current) {
      this.#current = fitting ?? this.#current
      this.#smallerSince = Number.NaN
    } else if (Number.isNaN(this.#smallerSince)) this.#smallerSince = now
    else if (now - this.#smallerSince >= FALL_MS) {
      this.#current = fitting
      this.#smallerSince = Number.NaN
    }
    return this.#current
  }
}
