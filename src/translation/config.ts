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
        'Address translation beside the other mechanisms of `godwit up`. `godwit dime up` needs no such key.',
      ),
    port: publicPort
      .default(1021)
      .describe(
        'UDP port of the signalling (IHMP); the same on all hosts. Other hosts believe one above 1023 only if they have this host’s key in their known_keys.',
      ),
    interfaces: z
      .array(z.string().min(1))
      .optional()
      .describe(
        'Interfaces whose addresses are used. Default: all that [access.NAME] allows but tunnels, and bridges without a default route.',
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
        'Own addresses that others are told: those of the scope of the path, or all, those of a link (fe80::) too.',
      ),
    unsigned: z
      .enum(['refuse', 'allow'])
      .default('refuse')
      .describe('Hosts without a key: not moved, or moved under a secret that only the path knows.'),
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
        'Translate TCP over IPv4 on the devices instead of in nf_tables: where the kernel can (Linux 6.6 or newer), reverse-path filters are not strict, connections are not tracked, and there are at most a thousand of them.',
      ),
    watch_udp: z
      .boolean()
      .default(true)
      .describe('Remember the peers of unconnected UDP sockets, so that they can be moved too.'),
    known_keys: z
      .array(z.string().min(1))
      .default([])
      .describe(
        'Files with the public keys of others, a line each: `ADDRESS/LENGTH KEY`. Read again when they change. Relative to the folder of this file.',
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
        'Names (DNS) or addresses at which other hosts may be found when both have moved at once. Asked for only then.',
      ),
    nat_keys: z
      .union([z.literal('any'), z.array(z.string())])
      .default([])
      .describe('Public keys of NATs whose port mappings are believed, or `any`.'),
  })
  .describe('Address translation (DIME) with hosts that run godwit too.')

export const dimeSections = { dime: dime.prefault({}) }

export type DimeConfig = z.output<typeof dime>
