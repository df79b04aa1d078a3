/**
 * Routes of the main table that would take everything past the tunnel: those that stand for a default route (two halves,
 * OpenVPN's `redirect-gateway def1`), which the rules pass over, and many over one interface that together have a good part
 * of all IPv4 addresses (DHCP option 121), which they cannot. Who runs the network decides on the latter: it is reported.
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

/** What to report, by interface and kind; a key stands for the same routes. */
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
      `${dev} has routes in place of a default route (${list.join(', ')}): what godwit controls goes through its tunnel all the same; [host] except leaves traffic to it`,
    )
  for (const [dev, share] of shares)
    if (share >= LARGE_SHARE)
      out.set(
        `${dev} share`,
        `routes over ${dev} take ${Math.round(share * 100)} % of all IPv4 addresses past the tunnel: whoever runs that network or program made them (DHCP option 121 can)`,
      )
  return out
}
