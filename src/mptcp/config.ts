/** The section of the MPTCP proxy: [mptcp]. */
import * as z from 'zod'

const mptcp = z
  .strictObject({
    enabled: z
      .boolean()
      .default(false)
      .describe(
        'The MPTCP proxy beside the other mechanisms of `godwit up`. `godwit mptcp up` needs no such key.',
      ),
    ports: z
      .array(z.int().min(1).max(65_535))
      .optional()
      .describe('Destination ports of the connections to translate. Default: all.'),
    serve: z
      .boolean()
      .default(true)
      .describe(
        'Answer with MPTCP when another host opens a connection with it and the program here does not speak it.',
      ),
    forward: z
      .boolean()
      .default(true)
      .describe(
        'On a router: translate for the hosts behind it, both what they open and what others open to them. Without forwarding (`net.ipv4.ip_forward`) nothing comes to translate.',
      ),
    standby: z
      .boolean()
      .default(true)
      .describe(
        'Keep a subflow ready on every access, so that a handover takes no round trip. Without, one is begun when it is needed.',
      ),
    multipath: z
      .boolean()
      .default(false)
      .describe(
        'Let peers send over all accesses at once: their subflows are not announced as backups, but for accesses with `use = "backup"`. What this host sends still goes over one.',
      ),
    kernel: z
      .boolean()
      .default(true)
      .describe(
        'Let programs in the kernel (eBPF) carry the bulk of connections of this host; user space then sees their beginnings, ends and moves. Without, or where the kernel has none of it, all packets go through user space.',
      ),
    connections: z
      .int()
      .min(1)
      .max(65_536)
      .default(4096)
      .describe('Max connections that are translated at once; further ones stay plain TCP.'),
    subflows: z.int().min(1).max(32).default(8).describe('Max subflows of a connection.'),
  })
  .describe('The MPTCP proxy: plain TCP connections become Multipath TCP on the wire.')

export const mptcpSections = { mptcp: mptcp.prefault({}) }
