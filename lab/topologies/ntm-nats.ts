/**
 * The overlay behind every kind of NAT (NT-45 … NT-49): on both sides a node of each kind, each in a network of its own, all
 * private ones with the same addresses, and a public server with both families.
 *
 *   gw-aglo, gw-bglo  a global IPv4 address
 *   gw-aeim, gw-beim  behind gw-naeim, gw-nbeim: endpoint-independent
 *   gw-aprn, gw-bprn  port-restricted
 *   gw-asym, gw-bsym  symmetric, with ports drawn at random
 *   gw-acnt, gw-bcnt  symmetric, counting its ports
 *   gw-acgn, gw-bcgn  port-restricted at home, gw-ca, gw-cb of the carrier endpoint-independent (RFC 6888)
 *   gw-asix, gw-bsix  IPv6 alone, behind a home router's filter
 */
import type { RouteSpec } from '../../src/linux/rtnetlink/types.ts'
import type { NatKind } from '../nat.ts'
import type { HostSpec, LinkSpec, TopologySpec } from '../topology.ts'

export const NODE_KINDS = ['glo', 'eim', 'prn', 'sym', 'cnt', 'cgn', 'six'] as const
export type NodeKind = (typeof NODE_KINDS)[number]
export const SIDES = ['a', 'b'] as const

const NATS: Readonly<Record<Exclude<NodeKind, 'glo'>, NatKind>> = {
  eim: 'endpoint-independent',
  prn: 'port-restricted',
  sym: 'symmetric',
  cnt: 'counting',
  cgn: 'port-restricted',
  six: 'port-restricted',
}
const GATEWAY = '203.0.113.1'
/** One way, of the link of every node. */
const DELAY = { delayMs: 10 }

/** From a node to the server and back, and to another node and back (ms). */
export const NTM_NATS_RTT = { server: 2 * DELAY.delayMs, node: 4 * DELAY.delayMs }

function parts(): { hosts: Record<string, HostSpec>; links: LinkSpec[] } {
  const hosts: Record<string, HostSpec> = {}
  const links: LinkSpec[] = []
  const inside6 = (n: number) => `2001:db8:0:${(16 + n).toString(16)}`
  const outside6 = (n: number) => `2001:db8:0:1::${(16 + n).toString(16)}`
  const sixth = NODE_KINDS.indexOf('six')
  /** To the IPv6 networks, but one's own. */
  const routes6 = (not = -1): RouteSpec[] =>
    SIDES.map((_, s) => s * NODE_KINDS.length + sixth)
      .filter((n) => n !== not)
      .map((n) => ({ to: `${inside6(n)}::/64`, via: outside6(n) }))
  const public_ = (host: string, iface: string, addresses: string[], emulated: boolean) =>
    links.push({
      name: `${host}-${iface}`,
      ...(emulated && { emulated, conditions: DELAY }),
      ends: [
        { host, iface, addresses },
        { host: 'net', iface: host },
      ],
    })
  hosts.net = { bridge: true }
  hosts.srv = { routes: routes6() }
  public_('srv', 'wan', ['203.0.113.2/24', '2001:db8:0:1::2/64'], false)
  for (const [s, side] of SIDES.entries())
    for (const [k, kind] of NODE_KINDS.entries()) {
      const n = s * NODE_KINDS.length + k
      const node = `${side}${kind}`
      const outside = `203.0.113.${16 + n}/24`
      if (kind === 'glo') {
        hosts[node] = { routes: [{ to: 'default', via: GATEWAY, dev: 'acc1' }] }
        public_(node, 'acc1', [outside], true)
        continue
      }
      const nat = `n${node}`
      const six = kind === 'six'
      const [own, gateway] = six ? [`${inside6(n)}::10`, `${inside6(n)}::1`] : ['192.168.1.10', '192.168.1.1']
      const length = six ? 64 : 24
      hosts[node] = { routes: [{ to: six ? 'default6' : 'default', via: gateway, dev: 'acc1' }] }
      hosts[nat] = {
        forward: true,
        nat: { kind: NATS[kind], outside: 'out' },
        ...(six && { routes: routes6(n) }),
      }
      links.push({
        ...{ name: `${node}-acc1`, emulated: true, conditions: DELAY },
        ends: [
          { host: node, iface: 'acc1', addresses: [`${own}/${length}`] },
          { host: nat, iface: 'in', addresses: [`${gateway}/${length}`] },
        ],
      })
      if (kind !== 'cgn') {
        public_(nat, 'out', [six ? `${outside6(n)}/64` : outside], false)
        continue
      }
      const carrier = `c${side}`
      hosts[nat] = { ...hosts[nat], routes: [{ to: 'default', via: '100.64.0.1' }] }
      hosts[carrier] = { forward: true, nat: { kind: 'endpoint-independent', outside: 'out' } }
      links.push({
        name: nat,
        ends: [
          { host: nat, iface: 'out', addresses: ['100.64.0.2/24'] },
          { host: carrier, iface: 'in', addresses: ['100.64.0.1/24'] },
        ],
      })
      public_(carrier, 'out', [outside], false)
    }
  return { hosts, links }
}

export const ntmNats: TopologySpec = {
  name: 'ntm-nats',
  summary: 'nodes behind every kind of NAT, twice, and a public server (NTMobile, Figures 5 to 10)',
  ...parts(),
}
