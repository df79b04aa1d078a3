/**
 * Removes and changes entries of the kernel's connection tracking (nf_conntrack) by ctnetlink
 * (linux/netfilter/nfnetlink_conntrack.h). Firewalls accept packets of tracked connections; without an entry, the next
 * packet of a TCP connection starts a new one.
 */
import { ENOENT } from '../core/errno.ts'
import { KernelError } from './libc.ts'
import { NetlinkMessage } from './netlink.ts'
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink-socket.ts'
import type { SocketFlow } from './sockdiag.ts'

const NFNL_SUBSYS_CTNETLINK = 1
const IPCTNL_MSG_CT_NEW = 0
const IPCTNL_MSG_CT_DELETE = 2
const AF = { 4: 2, 16: 10 } as const

const Ctnl = {
  TUPLE_ORIG: 1,
  PROTOINFO: 4,
  PROTOINFO_TCP: 1,
  TCP_FLAGS_ORIGINAL: 4,
  TCP_FLAGS_REPLY: 5,
  TUPLE_IP: 1,
  TUPLE_PROTO: 2,
  PROTO_NUM: 1,
  PROTO_SRC_PORT: 2,
  PROTO_DST_PORT: 3,
} as const
/** Numbers outside the window are accepted (linux/netfilter/nf_conntrack_tcp.h). */
const BE_LIBERAL = 0x08
/** Source, destination. */
const IP_ATTRIBUTES = { 4: [1, 2], 16: [3, 4] } as const

/** The interface; `linux/conntrack.ts` has the real implementation. */
export interface ConnTracker {
  /** Forgets a connection, whichever end began it; false: there was none. */
  forget(flow: SocketFlow): boolean
  close(): void
}

export class KernelConnTracker implements ConnTracker {
  readonly #socket: NetlinkSocket

  constructor(netns?: string) {
    this.#socket = new NetlinkSocket(NETLINK_NETFILTER, netns)
  }

  /** Throws KernelError when the kernel has no ctnetlink, or denies it to this process. */
  forget(flow: SocketFlow): boolean {
    try {
      this.#socket.request(deletion(flow), 'forget a tracked connection')
      return true
    } catch (error) {
      if (error instanceof KernelError && error.errno === ENOENT) return false
      throw error
    }
  }

  /** A TCP connection may have any sequence numbers from now on. Throws KernelError, ENOENT when it is not tracked. */
  loosen(flow: SocketFlow): void {
    this.#socket.request(loosening(flow), 'accept other numbers of a tracked connection')
  }

  close(): void {
    this.#socket.close()
  }
}

/** The kernel finds an entry by its tuple of either direction. */
export function deletion(flow: SocketFlow): NetlinkMessage {
  return about(IPCTNL_MSG_CT_DELETE, flow)
}

export function loosening(flow: SocketFlow): NetlinkMessage {
  const message = about(IPCTNL_MSG_CT_NEW, flow)
  return message.nested(Ctnl.PROTOINFO, () => {
    message.nested(Ctnl.PROTOINFO_TCP, () => {
      // struct nf_ct_tcp_flags: flags, and which of them are meant
      const flags = Uint8Array.of(BE_LIBERAL, BE_LIBERAL)
      message.attribute(Ctnl.TCP_FLAGS_ORIGINAL, flags).attribute(Ctnl.TCP_FLAGS_REPLY, flags)
    })
  })
}

function about(
  type: number,
  { protocol, localAddress, localPort, remoteAddress, remotePort }: SocketFlow,
): NetlinkMessage {
  const width = localAddress.length === 4 ? 4 : 16
  const [source, destination] = IP_ATTRIBUTES[width]
  const message = new NetlinkMessage((NFNL_SUBSYS_CTNETLINK << 8) | type)
  message.u8(AF[width]).u8(0).be16(0) // struct nfgenmsg
  return message.nested(Ctnl.TUPLE_ORIG, () => {
    message.nested(Ctnl.TUPLE_IP, () => {
      message.attribute(source, localAddress).attribute(destination, remoteAddress)
    })
    message.nested(Ctnl.TUPLE_PROTO, () => {
      message.attributeU8(Ctnl.PROTO_NUM, protocol)
      message.structure(Ctnl.PROTO_SRC_PORT, () => message.be16(localPort))
      message.structure(Ctnl.PROTO_DST_PORT, () => message.be16(remotePort))
    })
  })
}
