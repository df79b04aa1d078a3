/**
 * What benchmarks run on: links without limits or emulation. The mobile host's names are those of the lab.
 *
 *   wire        gw-mh eth0 ── eth0 gw-an
 *   two-wires   the same, and gw-mh eth1 ── eth1 gw-an: a way to move to
 *   translated  gw-mh eth0 ── gw-nat ── eth0 gw-an: IPv4 is translated, IPv6 filtered as by a home router
 */
import type { LinkSpec, TopologySpec } from '../lab/topology.ts'

const first: LinkSpec = {
  name: 'wire',
  ends: [
    { host: 'mh', iface: 'eth0', addresses: ['10.90.0.1/24', '2001:db8:90::1/64'] },
    { host: 'an', iface: 'eth0', addresses: ['10.90.0.2/24', '2001:db8:90::2/64'] },
  ],
}

// godwit takes an interface with a way out for an access.
const routes = [
  { to: 'default', via: '10.90.0.2', dev: 'eth0' },
  { to: 'default6', via: '2001:db8:90::2', dev: 'eth0' },
]

export const wire: TopologySpec = {
  name: 'bench-wire',
  summary: 'two hosts on one wire',
  hosts: { mh: { routes }, an: {} },
  links: [first],
}

/** By the second link gw-an's first address is reached too. */
export const twoWires: TopologySpec = {
  name: 'bench-two-wires',
  summary: 'two hosts on two wires',
  hosts: {
    mh: { routes: [...routes, { to: 'default', via: '10.91.0.2', dev: 'eth1', metric: 200 }] },
    an: {},
  },
  links: [
    first,
    {
      name: 'second',
      ends: [
        { host: 'mh', iface: 'eth1', addresses: ['10.91.0.1/24'] },
        { host: 'an', iface: 'eth1', addresses: ['10.91.0.2/24'] },
      ],
    },
  ],
}

export const translated: TopologySpec = {
  name: 'bench-translated',
  summary: 'two hosts and a NAT between them',
  hosts: {
    mh: {
      routes: [
        { to: 'default', via: '192.168.90.1' },
        { to: 'default6', via: '2001:db8:91::1' },
      ],
    },
    nat: { forward: true, nat: { kind: 'port-restricted', outside: 'wan' } },
    an: { routes: [{ to: '2001:db8:91::/64', via: '2001:db8:90::1' }] },
  },
  links: [
    {
      name: 'lan',
      ends: [
        { host: 'mh', iface: 'eth0', addresses: ['192.168.90.100/24', '2001:db8:91::100/64'] },
        { host: 'nat', iface: 'lan', addresses: ['192.168.90.1/24', '2001:db8:91::1/64'] },
      ],
    },
    {
      name: 'wan',
      ends: [
        { host: 'nat', iface: 'wan', addresses: ['10.90.0.1/24', '2001:db8:90::1/64'] },
        { host: 'an', iface: 'eth0', addresses: ['10.90.0.2/24', '2001:db8:90::2/64'] },
      ],
    },
  ],
}
