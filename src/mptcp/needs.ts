/** What the proxy needs of a machine beside the right to change the network. */

import { NetlinkMessage } from '../linux/netlink.ts'
import { NETLINK_NETFILTER, NetlinkSocket } from '../linux/netlink-socket.ts'
import type { Need } from '../mechanism/needs.ts'
import { fastPathObstacle } from './kernel/fast-path.ts'

/** Sends a command that does nothing: a kernel without queues does not know the request. */
export const PACKET_QUEUE: Need = {
  name: 'packet queues (NFQUEUE)',
  required: true,
  look: () => {
    let value = 'usable'
    try {
      const socket = new NetlinkSocket(NETLINK_NETFILTER)
      try {
        // PF_UNBIND, which kernels ignore since Linux 3.8. (Unbinding a queue that was never bound is answered ENODEV.)
        const command = new NetlinkMessage((3 << 8) | 2).u8(0).u8(0).be16(0xffff)
        socket.request(command.attribute(1, Uint8Array.of(4, 0, 0, 0)), 'look for packet queues')
      } finally {
        socket.close()
      }
    } catch (error) {
      value = (error as Error).message
    }
    return { ok: value === 'usable', value }
  },
  mend: 'a kernel with CONFIG_NETFILTER_NETLINK_QUEUE, and sudo',
}

/** Without, all packets go through user space. */
export const FAST_PATH: Need = {
  name: 'programs for TCP options (eBPF)',
  required: false,
  look: () => {
    const obstacle = fastPathObstacle()
    return { ok: obstacle === undefined, value: obstacle ?? 'usable' }
  },
  mend: 'Linux 6.6 or newer with CONFIG_CGROUP_BPF, control groups of version 2, and sudo; without, user space translates every packet',
}
