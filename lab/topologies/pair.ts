/** Two hosts and one wire, for measurements: gw-mh acc1 10.5.0.1 ── gw-an wan 10.5.0.2. */
import type { TopologySpec } from '../topology.ts'

export const pair: TopologySpec = {
  name: 'pair',
  summary: 'two hosts on one bare wire: gw-mh acc1, gw-an wan',
  hosts: { mh: {}, an: {} },
  links: [
    {
      name: 'acc1',
      ends: [
        { host: 'mh', iface: 'acc1', addresses: ['10.5.0.1/24', '2001:db8:5::1/64'] },
        { host: 'an', iface: 'wan', addresses: ['10.5.0.2/24', '2001:db8:5::2/64'] },
      ],
    },
  ],
}
