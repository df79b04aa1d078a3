/** Changes to the rules and chains of nf_tables, as events on the main thread. Elements of sets are none of them. */
import { EMSGSIZE, ENOBUFS } from '../../core/errno.ts'
import { KernelError } from '../libc.ts'
import { NETLINK_NETFILTER, NetlinkSocket } from '../netlink-socket.ts'
import { onReadable, stopReadable } from '../readable.ts'

/** NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h). */
const GROUP = 7
const SUBSYSTEM = 10
/** NFT_MSG_NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE. */
const MESSAGES: ReadonlySet<number> = new Set([0, 2, 3, 5, 6, 8])
const RECEIVE_BUFFER = 1 << 20

/** Calls back after each batch of changes; the returned function ends it. */
export function watchNftables(netns: string | undefined, changed: () => void): () => void {
  const socket = new NetlinkSocket(NETLINK_NETFILTER, netns)
  let open = true
  const drain = () => {
    let concerned = false
    while (open) {
      try {
        const replies = socket.receive()
        if (replies === undefined) break
        concerned ||= replies.some(({ type }) => type >> 8 === SUBSYSTEM && MESSAGES.has(type & 0xff))
      } catch (error) {
        // Some were lost, or one was larger than the buffer.
        if (!(error instanceof KernelError && (error.errno === ENOBUFS || error.errno === EMSGSIZE)))
          throw error
        concerned = true
      }
    }
    if (concerned && open) changed()
  }
  try {
    socket.setReceiveBuffer(RECEIVE_BUFFER)
    socket.join(GROUP)
    onReadable(socket.fd, drain)
  } catch (error) {
    socket.close()
    throw error
  }
  return () => {
    if (!open) return
    open = false
    stopReadable(socket.fd)
    socket.close()
  }
}
