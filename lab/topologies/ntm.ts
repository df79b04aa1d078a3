/**
 * The overlay's testbed (Tanaka et al., Figs. 4 and 5): a node with a global address, one behind a NAT, and the servers of their
 * zone in one local network.
 *
 *   gw-mh acc1 ─────────┐
 *                       gw-net (bridge) ── gw-srv
 *   gw-cn acc1 ── gw-nat ┘
 */
import type { TopologySpec } from '../topology.ts'

export const ntm: TopologySpec = {
  name: 'ntm',
  summary: "a node with a global address, one behind a NAT, their zone's servers (NTMobile, Figures 4 and 5)",
  hosts: {
    mh: { routes: [{ to: 'default', via: '203.0.113.1', dev: 'acc1' }] },
    cn: { routes: [{ to: 'default', via: '192.168.1.1', dev: 'acc1' }] },
    nat: { forward: true, nat: { kind: 'port-restricted', outside: 'out' } },
    srv: {},
    net: { bridge: true },
  },
  links: [
    {
      name: 'acc1',
      ends: [
        { host: 'mh', iface: 'acc1', addresses: ['203.0.113.10/24'] },
        { host: 'net', iface: 'mh' },
      ],
    },
    {
      name: 'cn',
      ends: [
        { host: 'cn', iface: 'acc1', addresses: ['192.168.1.10/24'] },
        { host: 'nat', iface: 'in', addresses: ['192.168.1.1/24'] },
      ],
    },
    {
      name: 'nat',
      ends: [
        { host: 'nat', iface: 'out', addresses: ['203.0.113.20/24'] },
        { host: 'net', iface: 'nat' },
      ],
    },
    {
      name: 'srv',
      ends: [
        { host: 'srv', iface: 'wan', addresses: ['203.0.113.2/24'] },
        { host: 'net', iface: 'srv' },
      ],
    },
  ],
}
