/**
 * DIME (Garcia-Luna-Aceves & Sevilla, Figure 7): mobile host, correspondent and two routers, each advertising another
 * subnet, joined by a switch; 60 ms on what crosses the switch. The mobile host's attachments to the two routers' subnets
 * are acc1 and acc2, so that either can be lost, come, or be there together.
 *
 *   gw-mh acc1 ── gw-r1 ──┐
 *                         gw-sw (bridge) ── gw-ch1
 *   gw-mh acc2 ── gw-r2 ──┘
 */
import type { TopologySpec } from '../topology.ts'

/** Half of the paper's 60 ms each way: its `netem` delays what leaves the switch, once per direction of a round trip. */
const SWITCH_DELAY_MS = 30

export const dime: TopologySpec = {
  name: 'dime',
  summary: 'mobile host, routers R1 and R2, switch with 60 ms round trip, correspondent (DIME, Figure 7)',
  hosts: {
    mh: {
      routes: [
        { to: 'default', via: '198.51.100.1', dev: 'acc1', metric: 100 },
        { to: 'default', via: '198.51.100.129', dev: 'acc2', metric: 200 },
        { to: 'default6', via: '2001:db8:1::1', dev: 'acc1', metric: 100 },
        { to: 'default6', via: '2001:db8:2::1', dev: 'acc2', metric: 200 },
      ],
    },
    r1: {
      forward: true,
      routes: [
        { to: '198.51.100.128/25', via: '192.0.2.2' },
        { to: '2001:db8:2::/64', via: '2001:db8:f::2' },
      ],
    },
    r2: {
      forward: true,
      routes: [
        { to: '198.51.100.0/25', via: '192.0.2.1' },
        { to: '2001:db8:1::/64', via: '2001:db8:f::1' },
      ],
    },
    sw: { bridge: true },
    ch1: {
      routes: [
        { to: '198.51.100.0/25', via: '192.0.2.1' },
        { to: '198.51.100.128/25', via: '192.0.2.2' },
        { to: '2001:db8:1::/64', via: '2001:db8:f::1' },
        { to: '2001:db8:2::/64', via: '2001:db8:f::2' },
      ],
    },
  },
  links: [
    {
      name: 'acc1',
      emulated: true,
      ends: [
        { host: 'mh', iface: 'acc1', addresses: ['198.51.100.10/25', '2001:db8:1::10/64'] },
        { host: 'r1', iface: 'lan', addresses: ['198.51.100.1/25', '2001:db8:1::1/64'] },
      ],
    },
    {
      name: 'acc2',
      emulated: true,
      ends: [
        { host: 'mh', iface: 'acc2', addresses: ['198.51.100.138/25', '2001:db8:2::10/64'] },
        { host: 'r2', iface: 'lan', addresses: ['198.51.100.129/25', '2001:db8:2::1/64'] },
      ],
    },
    {
      name: 'r1',
      ends: [
        { host: 'r1', iface: 'wan', addresses: ['192.0.2.1/24', '2001:db8:f::1/64'] },
        { host: 'sw', iface: 'r1' },
      ],
    },
    {
      name: 'r2',
      ends: [
        { host: 'r2', iface: 'wan', addresses: ['192.0.2.2/24', '2001:db8:f::2/64'] },
        { host: 'sw', iface: 'r2' },
      ],
    },
    {
      name: 'ch1',
      emulated: true,
      conditions: { delayMs: SWITCH_DELAY_MS },
      ends: [
        { host: 'ch1', iface: 'wan', addresses: ['192.0.2.10/24', '2001:db8:f::10/64'] },
        { host: 'sw', iface: 'ch1' },
      ],
    },
  ],
}
