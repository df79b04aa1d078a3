/**
 * Ohshima et al., Figure 2: a terminal behind a mobile router with radios, access points of visited networks, the
 * gateway at home, and a server behind it. The radios are links whose conditions follow a signal trace (radio.ts).
 *
 *   gw-term ── gw-mr acc1 ~~ gw-ap1 ──┐
 *                    acc2 ~~ gw-ap2 ──┴ gw-net ── gw-hg ── gw-srv
 */
import type { RouteSpec } from '../../src/linux/rtnetlink/types.ts'
import type { HostSpec, LinkSpec, TopologySpec } from '../topology.ts'

export interface RouterOptions {
  readonly name: string
  readonly summary: string
  readonly radios: number
}

export function router({ name, summary, radios }: RouterOptions): TopologySpec {
  const mobileRoutes: RouteSpec[] = []
  const netRoutes: RouteSpec[] = []
  const points: Record<string, HostSpec> = {}
  const accesses: LinkSpec[] = []
  const wans: LinkSpec[] = []
  for (let n = 1; n <= radios; n++) {
    const lan = `192.168.${n}`
    const lan6 = `2001:db8:${n}:1`
    const wan6 = `2001:db8:${n}:ff`
    const gateway = `203.0.113.${16 * (n - 1) + 1}`
    const outside = `203.0.113.${16 * (n - 1) + 2}`
    mobileRoutes.push(
      { to: 'default', via: `${lan}.1`, dev: `acc${n}`, metric: 100 * n },
      { to: 'default6', via: `${lan6}::1`, dev: `acc${n}`, metric: 100 * n },
    )
    netRoutes.push({ to: `${lan6}::/64`, via: `${wan6}::2` })
    points[`ap${n}`] = {
      forward: true,
      nat: { kind: 'port-restricted', outside: 'wan' },
      routes: [
        { to: 'default', via: gateway },
        { to: 'default6', via: `${wan6}::1` },
      ],
    }
    accesses.push({
      name: `acc${n}`,
      emulated: true,
      ends: [
        { host: 'mr', iface: `acc${n}`, addresses: [`${lan}.100/24`, `${lan6}::100/64`] },
        { host: `ap${n}`, iface: 'radio', addresses: [`${lan}.1/24`, `${lan6}::1/64`] },
      ],
    })
    wans.push({
      name: `wan${n}`,
      ends: [
        { host: `ap${n}`, iface: 'wan', addresses: [`${outside}/28`, `${wan6}::2/64`] },
        { host: 'net', iface: `ap${n}`, addresses: [`${gateway}/28`, `${wan6}::1/64`] },
      ],
    })
  }
  return {
    name,
    summary,
    hosts: {
      term: {
        routes: [
          { to: 'default', via: '10.1.0.1' },
          { to: 'default6', via: 'fd00:1::1' },
        ],
      },
      mr: { forward: true, routes: mobileRoutes },
      ...points,
      net: { forward: true, routes: netRoutes },
      hg: {
        forward: true,
        routes: [
          { to: 'default', via: '192.0.2.1' },
          { to: 'default6', via: '2001:db8:a:1::1' },
        ],
      },
      srv: {
        routes: [
          { to: 'default', via: '10.2.0.1' },
          { to: 'default6', via: 'fd00:2::1' },
        ],
      },
    },
    links: [
      {
        name: 'term',
        ends: [
          { host: 'term', iface: 'lan', addresses: ['10.1.0.2/24', 'fd00:1::2/64'] },
          { host: 'mr', iface: 'lan', addresses: ['10.1.0.1/24', 'fd00:1::1/64'] },
        ],
      },
      ...accesses,
      ...wans,
      {
        name: 'hg',
        ends: [
          { host: 'net', iface: 'hg', addresses: ['192.0.2.1/28', '2001:db8:a:1::1/64'] },
          { host: 'hg', iface: 'wan', addresses: ['192.0.2.2/28', '2001:db8:a:1::2/64'] },
        ],
      },
      {
        name: 'srv',
        ends: [
          { host: 'hg', iface: 'lan', addresses: ['10.2.0.1/24', 'fd00:2::1/64'] },
          { host: 'srv', iface: 'lan', addresses: ['10.2.0.2/24', 'fd00:2::2/64'] },
        ],
      },
    ],
  }
}
