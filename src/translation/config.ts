/** The section of DIME: [dime]. */
import * as z from 'zod'
import { publicPort } from '../mechanism/schema.ts'
import { isLoopback } from './directory/keys.ts'

const dime = z
  .strictObject({
    enabled: z
      .boolean()
      .default(false)
      .describe(
        'Run address translation beside the other mechanisms of `godwit up`. `godwit dime up` does not need this key.',
      ),
    port: publicPort
      .default(1021)
      .describe(
        'UDP port of the signalling (IHMP); the same on all hosts. With a port above 1023, other hosts accept messages only if this host’s key is in their known_keys.',
      ),
    interfaces: z
      .array(z.string().min(1))
      .optional()
      .describe(
        'Interfaces whose addresses are used. Default: all that [access.NAME] allows, except tunnels and bridges without a default route.',
      ),
    hold_s: z
      .number()
      .positive()
      .max(86_400)
      .default(120)
      .describe('Seconds that connections are kept while the other host cannot be reached.'),
    advertise: z
      .enum(['scope', 'all'])
      .default('scope')
      .describe(
        'Which own addresses are sent to others: `scope`: those with the scope of the path; `all`: also others, including link-local ones (fe80::).',
      ),
    unsigned: z
      .enum(['refuse', 'allow'])
      .default('refuse')
      .describe(
        'Connections with hosts that have no key: `refuse`: they do not move; `allow`: they move, authenticated by a secret that anyone on the path can read.',
      ),
    cross_families: z
      .boolean()
      .default(true)
      .describe(
        'Carry IPv4 connections over IPv6 and the reverse while only the other works (experimental; Linux 6.6 or newer).',
      ),
    fast_path: z
      .boolean()
      .default(true)
      .describe(
        'Translate TCP over IPv4 in eBPF on the devices instead of in nf_tables, if the kernel can (Linux 6.6 or newer), reverse-path filters are not strict, connection tracking is off, and at most a thousand connections have moved.',
      ),
    watch_udp: z
      .boolean()
      .default(true)
      .describe('Remember the peers of unconnected UDP sockets, so that they can be moved too.'),
    known_keys: z
      .array(z.string().min(1))
      .default([])
      .describe(
        'Files with public keys of other hosts, one per line: `ADDRESS/LENGTH KEY`. Read again when they change. Relative to the folder of this file.',
      ),
    directory: z
      .enum(['none', 'dns'])
      .default('none')
      .describe(
        'Keys of other hosts from the DNS: IPSECKEY records (RFC 4025) in the reverse zone, as a validating resolver on this machine says (DNSSEC). A host whose record is bogus, or cannot be asked for, is not greeted.',
      ),
    resolver: z
      .string()
      .refine(isLoopback, 'not an address of the loopback: answers from elsewhere prove nothing')
      .optional()
      .describe('The resolver that is asked. Default: the first of the loopback in /etc/resolv.conf.'),
    names: z
      .array(z.string().min(1))
      .max(16)
      .default([])
      .describe(
        'DNS names or addresses at which to look for other hosts when both ends moved at once; used only then.',
      ),
    nat_keys: z
      .union([z.literal('any'), z.array(z.string())])
      .default([])
      .describe('Public keys of NATs whose port mappings are accepted, or `any`.'),
  })
  .describe('Address translation (DIME) with hosts that run godwit too.')

export const dimeSections = { dime: dime.prefault({}) }

export type DimeConfig = z.output<typeof dime>
