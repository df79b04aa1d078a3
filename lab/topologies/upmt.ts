/**
 * UPMT (Bonola & Salsano, Figures 1 left and 4): a mobile host with two access networks, each behind a NAT, anchors and
 * two legacy correspondents with public addresses. Public addresses are from the documentation ranges.
 *
 *   gw-mh acc1 ── gw-nat1 [── gw-cgn1] ──┐           ┌── gw-an   192.0.2.2
 *                                        gw-net ─────┼── gw-an2  192.0.2.18
 *   gw-mh acc2 ── gw-nat2 [── gw-cgn2] ──┘           ├── gw-ch1  198.51.100.2
 *                                                    └── gw-ch2  198.51.100.18
 */
import type { RouteSpec } from '../../src/linux/rtnetlink/types.ts'
import type { NatKind } from '../nat.ts'
import type { HostSpec, LinkSpec, TopologySpec } from '../topology.ts'

export interface UpmtOptions {
  readonly name: string
  readonly summary: string
  /** Kind of the NAT of each access network. */
  readonly nats?: readonly [NatKind, NatKind]
  /** Both access networks use the same private prefix, and give the mobile host the same address. */
  readonly overlap?: boolean
  /** A second, carrier-grade NAT between each access network and the Internet. */
  readonly carrierGrade?: boolean
}

/** Hosts with public addresses: `.v4` + 1 is the Internet's end of their link, + 2 is theirs; likewise `::1`, `::2`. */
const PUBLIC = [
  { host: 'an', v4: ['192.0.2.', 0], v6: '2001:db8:a:1' },
  { host: 'an2', v4: ['192.0.2.', 16], v6: '2001:db8:a:2' },
  { host: 'ch1', v4: ['198.51.100.', 0], v6: '2001:db8:c:1' },
  { host: 'ch2', v4: ['198.51.100.', 16], v6: '2001:db8:c:2' },
] as const

export function upmt(options: UpmtOptions): TopologySpec {
  const mobileRoutes: RouteSpec[] = []
  const netRoutes: RouteSpec[] = []
  const hosts: Record<string, HostSpec> = {
    mh: { routes: mobileRoutes },
    net: { forward: true, routes: netRoutes },
  }
  const links: LinkSpec[] = []

  for (const n of [1, 2] as const) {
    const lan = options.overlap ? '192.168.1' : `192.168.${n}`
    const lan6 = `2001:db8:${n}:1`
    const gateway = `203.0.113.${16 * (n - 1) + 1}`
    const outside = `203.0.113.${16 * (n - 1) + 2}`
    const kind = options.nats?.[n - 1] ?? 'port-restricted'

    links.push({
      name: `acc${n}`,
      emulated: true,
      ends: [
        { host: 'mh', iface: `acc${n}`, addresses: [`${lan}.100/24`, `${lan6}::100/64`] },
        { host: `nat${n}`, iface: 'lan', addresses: [`${lan}.1/24`, `${lan6}::1/64`] },
      ],
    })
    mobileRoutes.push(
      { to: 'default', via: `${lan}.1`, dev: `acc${n}`, metric: 100 * n },
      { to: 'default6', via: `${lan6}::1`, dev: `acc${n}`, metric: 100 * n },
    )

    const wan = `2001:db8:${n}:`
    if (options.carrierGrade) {
      links.push(
        {
          name: `wan${n}`,
          ends: [
            { host: `nat${n}`, iface: 'wan', addresses: [`100.64.${n}.2/24`, `${wan}f0::2/64`] },
            { host: `cgn${n}`, iface: 'lan', addresses: [`100.64.${n}.1/24`, `${wan}f0::1/64`] },
          ],
        },
        {
          name: `cgn${n}`,
          ends: [
            { host: `cgn${n}`, iface: 'wan', addresses: [`${outside}/28`, `${wan}ff::2/64`] },
            { host: 'net', iface: `nat${n}`, addresses: [`${gateway}/28`, `${wan}ff::1/64`] },
          ],
        },
      )
      hosts[`nat${n}`] = {
        forward: true,
        nat: { kind, outside: 'wan' },
        routes: [
          { to: 'default', via: `100.64.${n}.1` },
          { to: 'default6', via: `${wan}f0::1` },
        ],
      }
      hosts[`cgn${n}`] = {
        forward: true,
        nat: { kind: 'symmetric', outside: 'wan', udpTimeoutS: 30 },
        routes: [
          { to: 'default', via: gateway },
          { to: 'default6', via: `${wan}ff::1` },
          { to: `${lan6}::/64`, via: `${wan}f0::2` },
        ],
      }
      netRoutes.push({ to: `${wan}f0::/64`, via: `${wan}ff::2` })
    } else {
      links.push({
        name: `wan${n}`,
        ends: [
          { host: `nat${n}`, iface: 'wan', addresses: [`${outside}/28`, `${wan}ff::2/64`] },
          { host: 'net', iface: `nat${n}`, addresses: [`${gateway}/28`, `${wan}ff::1/64`] },
        ],
      })
      hosts[`nat${n}`] = {
        forward: true,
        nat: { kind, outside: 'wan' },
        routes: [
          { to: 'default', via: gateway },
          { to: 'default6', via: `${wan}ff::1` },
        ],
      }
    }
    netRoutes.push({ to: `${lan6}::/64`, via: `${wan}ff::2` })
  }

  for (const { host, v4, v6 } of PUBLIC) {
    const [prefix, first] = v4
    hosts[host] = {
      routes: [
        { to: 'default', via: `${prefix}${first + 1}` },
        { to: 'default6', via: `${v6}::1` },
      ],
    }
    links.push({
      name: host,
      ends: [
        { host: 'net', iface: host, addresses: [`${prefix}${first + 1}/28`, `${v6}::1/64`] },
        { host, iface: 'wan', addresses: [`${prefix}${first + 2}/28`, `${v6}::2/64`] },
      ],
    })
  }
  return { name: options.name, summary: options.summary, hosts, links }
}
