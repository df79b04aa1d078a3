/**
 * The MPTCP proxy's testbed (Hampel, Rana, Klein, Figure 7): a mobile host with two accesses, one router, a correspondent. No
 * address is translated, as in the paper.
 *
 *   gw-mh acc1 ──┐
 *                gw-net ── gw-ch1
 *   gw-mh acc2 ──┘
 */
import type { TopologySpec } from '../topology.ts'

export const mptcp: TopologySpec = {
  name: 'mptcp',
  summary: 'mobile host with two accesses, router, correspondent (MPTCP proxy, Figure 7)',
  hosts: {
    mh: {
      routes: [
        { to: 'default', via: '198.51.100.1', dev: 'acc1', metric: 100 },
        { to: 'default', via: '198.51.100.129', dev: 'acc2', metric: 200 },
        { to: 'default6', via: '2001:db8:1::1', dev: 'acc1', metric: 100 },
        { to: 'default6', via: '2001:db8:2::1', dev: 'acc2', metric: 200 },
      ],
    },
    net: { forward: true },
    ch1: {
      routes: [
        { to: 'default', via: '192.0.2.1' },
        { to: 'default6', via: '2001:db8:f::1' },
      ],
    },
  },
  links: [
    {
      name: 'acc1',
      emulated: true,
      ends: [
        { host: 'mh', iface: 'acc1', addresses: ['198.51.100.10/25', '2001:db8:1::10/64'] },
        { host: 'net', iface: 'lan1', addresses: ['198.51.100.1/25', '2001:db8:1::1/64'] },
      ],
    },
    {
      name: 'acc2',
      emulated: true,
      ends: [
        { host: 'mh', iface: 'acc2', addresses: ['198.51.100.138/25', '2001:db8:2::10/64'] },
        { host: 'net', iface: 'lan2', addresses: ['198.51.100.129/25', '2001:db8:2::1/64'] },
      ],
    },
    {
      name: 'ch1',
      ends: [
        { host: 'net', iface: 'ch1', addresses: ['192.0.2.1/24', '2001:db8:f::1/64'] },
        { host: 'ch1', iface: 'wan', addresses: ['192.0.2.10/24', '2001:db8:f::10/64'] },
      ],
    },
  ],
}
