/**
 * Routes of the main table that would take most traffic past the tunnel. Half-default routes (such as OpenVPN's
 * `redirect-gateway def1`) are skipped by the rules. Many longer routes over one interface that together cover a large
 * part of all IPv4 addresses (DHCP option 121) cannot be told from legitimate ones, so they are only reported.
 */
import { parsePrefix } from '../core/address.ts'
import { WIDE } from './rules.ts'

export interface MainRoute {
  readonly family: 4 | 6
  readonly to: string
  readonly type: string
  readonly dev?: string
}

/** Share of all IPv4 addresses from which the routes over one interface are reported. */
const LARGE_SHARE = 1 / 8

/** Reports by interface and kind; the key identifies the reported routes. */
export function wideRoutes(routes: readonly MainRoute[]): Map<string, string> {
  const halves = new Map<string, string[]>()
  const shares = new Map<string, number>()
  for (const { family, to, type, dev } of routes) {
    if (type !== 'unicast' || dev === undefined || to.startsWith('default')) continue
    const prefix = parsePrefix(to)
    if (!prefix.ok || prefix.value.length === 0) continue
    const { length } = prefix.value
    if (length <= WIDE[family]) halves.set(dev, [...(halves.get(dev) ?? []), to])
    else if (family === 4) shares.set(dev, (shares.get(dev) ?? 0) + 2 ** -length)
  }
  const out = new Map<string, string>()
  for (const [dev, list] of halves)
    out.set(
      `${dev} halves`,
      `${dev} has half-default routes (${list.join(', ')}): traffic under control still goes through the tunnel; to send traffic to ${dev}, use [host] except`,
    )
  for (const [dev, share] of shares)
    if (share >= LARGE_SHARE)
      out.set(
        `${dev} share`,
        `routes over ${dev} take ${Math.round(share * 100)} % of all IPv4 addresses past the tunnel: they were set by that network (DHCP option 121) or by a program`,
      )
  return out
}
