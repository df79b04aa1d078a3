/**
 * Ohshima et al., Figure 2: a terminal behind a mobile router with radios, access points of visited networks, the
 * gateway at home, and a server behind it. The radios are links whose conditions follow a signal trace (radio.ts).
 *
 *   gw-term ── gw-mr acc1 ~~ gw-ap1 ──┐
 *                    acc2 ~~ gw-ap2 ──┴ gw-net ── gw-hg ── gw-srv
 */
import type { TopologySpec } from '../topology.ts'

export const router: TopologySpec = {
  name: 'router',
  summary:
    'terminal behind a mobile router with two radios, access points, home gateway, server (Ohshima, Figure 2)',
  hosts: {
    term: {
      routes: [
        { to: 'default', via: '10.1.0.1' },
        { to: 'default6', via: 'fd00:1::1' },
      ],
    },
    mr: {
      forward: true,
      routes: [
        { to: 'default', via: '192.168.1.1', dev: 'acc1', metric: 100 },
        { to: 'default', via: '192.168.2.1', dev: 'acc2', metric: 200 },
        { to: 'default6', via: '2001:db8:1:1::1', dev: 'acc1', metric: 100 },
        { to: 'default6', via: '2001:db8:2:1::1', dev: 'acc2', metric: 200 },
      ],
    },
    ap1: {
      forward: true,
      nat: { kind: 'port-restricted', outside: 'wan' },
      routes: [
        { to: 'default', via: '203.0.113.1' },
        { to: 'default6', via: '2001:db8:1:ff::1' },
      ],
    },
    ap2: {
      forward: true,
      nat: { kind: 'port-restricted', outside: 'wan' },
      routes: [
        { to: 'default', via: '203.0.113.17' },
        { to: 'default6', via: '2001:db8:2:ff::1' },
      ],
    },
    net: {
      forward: true,
      routes: [
        { to: '2001:db8:1:1::/64', via: '2001:db8:1:ff::2' },
        { to: '2001:db8:2:1::/64', via: '2001:db8:2:ff::2' },
      ],
    },
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
    {
      name: 'acc1',
      emulated: true,
      ends: [
        { host: 'mr', iface: 'acc1', addresses: ['192.168.1.100/24', '2001:db8:1:1::100/64'] },
        { host: 'ap1', iface: 'radio', addresses: ['192.168.1.1/24', '2001:db8:1:1::1/64'] },
      ],
    },
    {
      name: 'acc2',
      emulated: true,
      ends: [
        { host: 'mr', iface: 'acc2', addresses: ['192.168.2.100/24', '2001:db8:2:1::100/64'] },
        { host: 'ap2', iface: 'radio', addresses: ['192.168.2.1/24', '2001:db8:2:1::1/64'] },
      ],
    },
    {
      name: 'wan1',
      ends: [
        { host: 'ap1', iface: 'wan', addresses: ['203.0.113.2/28', '2001:db8:1:ff::2/64'] },
        { host: 'net', iface: 'ap1', addresses: ['203.0.113.1/28', '2001:db8:1:ff::1/64'] },
      ],
    },
    {
      name: 'wan2',
      ends: [
        { host: 'ap2', iface: 'wan', addresses: ['203.0.113.18/28', '2001:db8:2:ff::2/64'] },
        { host: 'net', iface: 'ap2', addresses: ['203.0.113.17/28', '2001:db8:2:ff::1/64'] },
      ],
    },
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
