/** The numbers of an anchor's pool and the virtual addresses that follow from them: 1 is the anchor, hosts start at 2. */

import { formatAddress, type Prefix, parsePrefix } from '../core/address.ts'
import { usageError } from '../core/errors.ts'
import { VipaPool } from './tables/pool.ts'

export interface Pools {
  readonly pool4: string
  readonly pool6: string
}

function build(pools: Pools): VipaPool {
  const four = prefixOf(pools.pool4)
  const six = prefixOf(pools.pool6)
  return new VipaPool({
    v4: { address: four.address, prefix: four.length },
    v6: { address: six.address, prefix: six.length },
  })
}

/** The highest number. */
export function poolSize(pools: Pools): number {
  return build(pools).last
}

/** The addresses of a number, IPv4 and IPv6, as `ADDRESS/32` and `ADDRESS/128`. */
export function poolAddresses(pools: Pools, number: number): string[] {
  const pool = build(pools)
  return [`${formatAddress(pool.v4(number))}/32`, `${formatAddress(pool.v6(number))}/128`]
}

function prefixOf(text: string): Prefix {
  const prefix = parsePrefix(text)
  if (prefix.ok) return prefix.value
  throw usageError(prefix.reason)
}
