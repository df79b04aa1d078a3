/** rtnetlink's multicast groups as events on the main thread. */
import { ENOBUFS } from '../../core/errno.ts'
import { KernelError } from '../libc.ts'
import type { NetlinkReply } from '../netlink.ts'
import { NETLINK_ROUTE, NetlinkSocket } from '../netlink-socket.ts'
import { onReadable, stopReadable } from '../readable.ts'
import * as codec from './codec/index.ts'
import { Group, Message } from './codec/index.ts'
import type { Link, RtnlChange, RtnlEvent, WatchTopic } from './types.ts'

const GROUPS: Readonly<Record<WatchTopic, readonly number[]>> = {
  link: [],
  address: [Group.IPV4_ADDRESS, Group.IPV6_ADDRESS],
  route: [Group.IPV4_ROUTE, Group.IPV6_ROUTE],
  rule: [Group.IPV4_RULE, Group.IPV6_RULE],
}

/** A host with thousands of routes may replace them all at once. */
const RECEIVE_BUFFER = 1 << 20

/** Starts calling back; the returned function ends it. `links` are those of now. */
export function watchRtnetlink(
  netns: string | undefined,
  topics: readonly WatchTopic[],
  links: readonly Link[],
  callback: (event: RtnlEvent) => void,
): () => void {
  const socket = new NetlinkSocket(NETLINK_ROUTE, netns)
  const wantsLinks = topics.includes('link')
  let open = true
  // Kept for links that are gone: their addresses and routes go after them.
  const known = new Map(links.map((link) => [link.index, link.name]))
  const names: codec.Names = {
    name: (index) => known.get(index) ?? `if${index}`,
    index: () => 0,
  }

  const dispatch = (reply: NetlinkReply) => {
    const event = readEvent(reply, names)
    if (event === undefined) return
    if (event.type === 'link') known.set(event.link.index, event.link.name)
    if (!wantsLinks && (event.type === 'link' || event.type === 'link-gone')) return
    callback(reply.port === undefined || reply.port === 0 ? event : { ...event, by: reply.port })
  }
  const drain = () => {
    while (open) {
      let replies: NetlinkReply[] | undefined
      try {
        replies = socket.receive()
      } catch (error) {
        if (!(error instanceof KernelError) || error.errno !== ENOBUFS) throw error
        callback({ type: 'resync' })
        continue
      }
      if (replies === undefined) return
      for (const reply of replies) if (open) dispatch(reply)
    }
  }

  try {
    socket.setReceiveBuffer(RECEIVE_BUFFER)
    // Links in any case: they bring the names.
    socket.join(Group.LINK)
    for (const topic of topics) for (const group of GROUPS[topic]) socket.join(group)
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

function readEvent(reply: NetlinkReply, names: codec.Names): RtnlChange | undefined {
  switch (reply.type) {
    case Message.NEWLINK:
    case Message.DELLINK: {
      const link = codec.readLink(reply.body)
      return link && { type: reply.type === Message.NEWLINK ? 'link' : 'link-gone', link }
    }
    case Message.NEWADDR:
    case Message.DELADDR: {
      const address = codec.readAddress(reply.body, names)
      return address && { type: reply.type === Message.NEWADDR ? 'address' : 'address-gone', address }
    }
    case Message.NEWROUTE:
    case Message.DELROUTE: {
      const route = codec.readRoute(reply.body, names)
      return route && { type: reply.type === Message.NEWROUTE ? 'route' : 'route-gone', route }
    }
    case Message.NEWRULE:
    case Message.DELRULE: {
      const rule = codec.readRule(reply.body)
      return rule && { type: reply.type === Message.NEWRULE ? 'rule' : 'rule-gone', rule }
    }
    default:
      return undefined
  }
}
