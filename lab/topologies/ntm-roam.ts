/**
 * Two nodes of an overlay with two accesses each, every access behind a NAT of its own, and a public server. Both inside networks
 * have the same prefixes and the nodes the same addresses (NTMobile, Fig. 9).
 *
 *   mh ══ acc1 ── nm1 ─┐               ┌─ nc1 ── acc1 ══ cn
 *      ══ acc2 ── nm2 ─┤── net ── srv  ├─ nc2 ── acc2 ══
 */
import type { NatKind } from '../nat.ts'
import type { TopologySpec } from '../topology.ts'

export const ROAM_SERVER = '192.0.2.2'
/** Prefixes of the first and second access, at either node. */
export const ROAM_INSIDE = ['192.168.1', '10.9.0'] as const

/** NATs are named `n`, the node's first letter, and the access's number; they are port-restricted unless `kinds` says else. */
export function roam(
  name: string,
  nodes: readonly string[],
  kinds: Readonly<Record<string, NatKind>> = {},
): TopologySpec {
  const hosts: Record<string, TopologySpec['hosts'][string]> = {
    net: { forward: true },
    srv: { routes: [{ to: 'default', via: '192.0.2.1' }] },
  }
  const links: TopologySpec['links'][number][] = [
    {
      name: 'srv',
      ends: [
        { host: 'net', iface: 'srv', addresses: ['192.0.2.1/28'] },
        { host: 'srv', iface: 'wan', addresses: [`${ROAM_SERVER}/28`] },
      ],
    },
  ]
  let outside = 0
  for (const node of nodes) {
    hosts[node] = {
      routes: ROAM_INSIDE.map((inside, i) => ({
        to: 'default',
        via: `${inside}.1`,
        dev: `acc${i + 1}`,
        metric: 100 * (i + 1),
      })),
    }
    for (const [i, inside] of ROAM_INSIDE.entries()) {
      const access = `acc${i + 1}`
      const nat = `n${node[0]}${i + 1}`
      hosts[nat] = {
        forward: true,
        nat: { kind: kinds[nat] ?? 'port-restricted', outside: 'out' },
        routes: [{ to: 'default', via: `198.51.100.${outside + 2}` }],
      }
      links.push(
        {
          name: `${node}-${access}`,
          emulated: true,
          ends: [
            { host: node, iface: access, addresses: [`${inside}.10/24`] },
            { host: nat, iface: 'in', addresses: [`${inside}.1/24`] },
          ],
        },
        {
          name: nat,
          ends: [
            { host: nat, iface: 'out', addresses: [`198.51.100.${outside + 1}/30`] },
            { host: 'net', iface: nat, addresses: [`198.51.100.${outside + 2}/30`] },
          ],
        },
      )
      outside += 4
    }
  }
  const summary = 'two nodes behind two NATs each, and a public server (NTMobile, Figure 9)'
  return { name, summary, hosts, links }
}
