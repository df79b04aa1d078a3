/** The sections of a mobile host ([host], [[peer]], [[policy]]) and of an anchor ([anchor]). */
import * as z from 'zod'
import type { Selector } from '../core/selector.ts'
import {
  accessPattern,
  type Issue,
  key,
  name,
  parseHostPort,
  prefix,
  publicPort,
  selector,
  selectorOf,
  text,
  unique,
} from '../mechanism/schema.ts'
import { parseTrust } from './trust.ts'

const anchor = z
  .strictObject({
    endpoint: text(parseHostPort, 'Where hosts reach this anchor, `HOST:PORT`; goes into invitations.'),
    listen_port: publicPort.optional().describe('UDP port to listen on. Default: the port of `endpoint`.'),
    pool4: prefix('Virtual IPv4 addresses given to hosts.').default('198.18.0.0/16'),
    pool6: prefix('Virtual IPv6 addresses given to hosts.').default('fd67:6f64:7769:1::/64'),
    masquerade: z.boolean().default(true).describe('Traffic of hosts leaves with an address of this anchor.'),
    uplinks: z
      .array(accessPattern)
      .optional()
      .describe('Interfaces that traffic of hosts may leave by. Default: any.'),
    invitation_hours: z
      .number()
      .positive()
      .max(8760)
      .default(24)
      .describe('How long an invitation can be taken.'),
  })
  .describe('Makes this machine an anchor.')

const peer = z
  .strictObject({
    name: name('What status and policies call it.'),
    kind: z
      .enum(['anchor', 'wireguard'])
      .default('anchor')
      .describe('`anchor`: a godwit anchor. `wireguard`: a stock WireGuard server, used as a plain anchor.'),
    endpoint: text(parseHostPort, 'Where it is reached, `HOST:PORT`.'),
    public_key: key('Its public key, base64.'),
    preshared_key: key(
      'A secret shared with it, base64. Then this file must not be readable by others.',
    ).optional(),
    addresses: z
      .array(prefix('An address.'))
      .optional()
      .describe(
        'Virtual addresses that it gave to this host. An anchor tells them itself; a WireGuard server cannot.',
      ),
    allowed_ips: z
      .array(prefix('A prefix.'))
      .optional()
      .describe(
        'Destinations reached through it. Where every peer has such a list, only what goes there is put under control. Default: all.',
      ),
    keepalive_s: z
      .int()
      .min(0)
      .max(65535)
      .default(25)
      .describe('Seconds between keepalives that hold a NAT open; 0: none.'),
    invitation_key_file: z
      .string()
      .min(1)
      .optional()
      .describe(
        "Private key of the invitation, until the anchor has taken this host's own. Written by `godwit join`.",
      ),
  })
  .describe('A remote end that traffic goes through.')

const host = z
  .strictObject({
    control: z
      .enum(['all', 'selected'])
      .default('all')
      .describe(
        'Which traffic goes through godwit: `all`, or only what `godwit run` starts and what a policy matches by user:, port:, to: or cgroup:. An app: alone then only chooses the policy.',
      ),
    except: z
      .array(selector)
      .default([])
      .describe(
        'Traffic that is left alone, as without godwit: user:, port:, proto:, to: and cgroup: selectors, and `private` for all private and link-local networks (also fd…: not those of an anchor then). Programs: cgroup:, or `godwit run --direct`.',
      ),
    trusted: z
      .array(text(parseTrust, 'A trusted network.'))
      .default([])
      .describe(
        'Networks at which the tunnel rests: `subnet:ADDRESS/LENGTH`, `gateway:ADDRESS` or `gateway:MAC`, several that must all hold joined by +. While the access that this machine prefers is on one, what is opened goes directly; what is open stays in the tunnel.',
      ),
    captive_portal: z
      .boolean()
      .default(true)
      .describe(
        "Looks for a captive portal on an access over which no anchor answers, by asking the anchor's address for a page. While nothing gets through, the portal's address and port 80 go past the tunnel, so that a browser can sign in.",
      ),
    prefer: z
      .array(accessPattern)
      .default(['*'])
      .describe('Accesses in order of preference, for traffic that no policy matches.'),
    address4: prefix('VIpA_fix: the IPv4 address that applications see.').default('198.19.0.1/32'),
    address6: prefix('VIpA_fix: the IPv6 address that applications see.').default('fd67:6f64:7769::1/128'),
  })
  .describe('A host that keeps its connections while it moves.')

const policy = z
  .strictObject({
    name: name('What `godwit run --policy` and `why` call it.'),
    match: z
      .array(selector)
      .default([])
      .describe('Traffic it is for; any of these. Empty: only what `godwit run --policy` starts.'),
    prefer: z.array(accessPattern).min(1).describe('Accesses in order of preference; patterns with `*`.'),
    fallback: z
      .enum(['any', 'none'])
      .default('any')
      .describe('When none of `prefer` is up: `any` other access, or `none`: packets wait.'),
    move_up: z.boolean().default(true).describe('Move back when an access earlier in the list comes up.'),
    peer: name('Peer to go through. Default: the first.').optional(),
  })
  .describe('Which accesses an application may use. The first policy that matches decides.')

/** RFC 1918, 3927, 4193 and 4291. */
const PRIVATE_NETWORKS = [
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '169.254.0.0/16',
  'fc00::/7',
  'fe80::/10',
] as const

/** What an entry of `except` stands for. */
export function exceptions(entry: string): Selector[] {
  return entry === 'private' ? PRIVATE_NETWORKS.map((net) => selectorOf(`to:${net}`)) : [selectorOf(entry)]
}

function whyNotExcept(entry: string): string | undefined {
  if (entry === 'private') return undefined
  const chosen = selectorOf(entry)
  const criteria = chosen.kind === 'every' ? chosen.of : [chosen]
  if (criteria.some(({ kind }) => kind === 'app'))
    return 'routes cannot see programs; start it with `godwit run --direct`, or name its control group (cgroup:PATH)'
  if (criteria.some(({ kind }) => kind === 'all' || kind === 'flow'))
    return 'only user:, port:, proto:, to:, cgroup: and `private` can be left alone'
  if (criteria.length > 1 && criteria.some(({ kind }) => kind === 'cgroup'))
    return 'cgroup: stands alone here: its sockets are marked before they have a destination'
  return undefined
}

export const hostSections = {
  host: host.prefault({}),
  peer: z.array(peer).default([]),
  policy: z.array(policy).default([]),
}
export const anchorSections = { anchor: anchor.optional() }

export interface HostConfig {
  readonly host: z.output<typeof host>
  readonly peer: readonly PeerConfig[]
  readonly policy: readonly z.output<typeof policy>[]
}
export type PeerConfig = z.output<typeof peer>
export type AnchorSettings = z.output<typeof anchor>

/** What is right by itself but cannot work together. */
export function checkHost(value: HostConfig, issue: Issue): void {
  unique(value.peer, 'peer', issue, ['peer'])
  unique(value.policy, 'policy', issue, ['policy'])
  const peers = new Set(value.peer.map((entry) => entry.name))
  for (const [i, entry] of value.policy.entries())
    if (entry.peer !== undefined && !peers.has(entry.peer))
      issue(['policy', i, 'peer'], `there is no peer "${entry.peer}"`)
  for (const [i, entry] of value.peer.entries())
    if (entry.kind === 'wireguard' && !entry.addresses?.length)
      issue(['peer', i], 'a wireguard peer needs `addresses`: what its server lets this host use')
  for (const [i, entry] of value.host.except.entries()) {
    const fault = whyNotExcept(entry)
    if (fault !== undefined) issue(['host', 'except', i], `"${entry}": ${fault}`)
  }
}
