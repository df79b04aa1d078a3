/** The sections of a mobile host ([host], [[peer]], [[policy]]) and of an anchor ([anchor]). */
import * as z from 'zod'
import { parseAddress } from '../core/address.ts'
import { type Decoded, decoded, malformed } from '../core/result.ts'
import type { Selector } from '../core/selector.ts'
import {
  accessPattern,
  firewall,
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

const webSocketUrl = text(parseWebSocketUrl, 'Where it is reached, `wss://HOST[:PORT]/PATH`.')

const webSocket = z
  .strictObject({
    url: webSocketUrl.describe(
      'Where hosts reach it, `wss://HOST[:PORT]/PATH`; part of invitations. Behind a web server: the URL at that server.',
    ),
    listen: text(parseHostPort, 'Address and TCP port to listen on.')
      .default('[::]:443')
      .describe('Address and TCP port to listen on. Behind a web server on this machine: `127.0.0.1:PORT`.'),
    plain: z
      .boolean()
      .default(false)
      .describe(
        'Plain HTTP, for a web server in front that does TLS and forwards the path of `url` to `listen`.',
      ),
    certificate: z
      .string()
      .min(1)
      .optional()
      .describe('Certificate file, PEM. Default: a self-signed certificate, which invitations pin.'),
    key: z.string().min(1).optional().describe('Private key file of the certificate, PEM.'),
    pin: z
      .boolean()
      .optional()
      .describe(
        'Invitations pin the certificate: hosts accept no other. If false, hosts verify it as a browser does. Default: true for a self-signed certificate.',
      ),
  })
  .describe('Accepts hosts by WebSocket, for networks that block UDP.')

const anchor = z
  .strictObject({
    endpoint: text(parseHostPort, 'Where hosts reach this anchor, `HOST:PORT`; part of invitations.'),
    alternatives: z
      .array(text(parseHostPort, 'An endpoint, `HOST:PORT`.'))
      .max(8)
      .default([])
      .describe(
        'Other endpoints of this anchor, for networks that block the first one: hosts try them in turn, e.g. ports 443 and 53. Part of invitations.',
      ),
    listen_port: z
      .union([publicPort, z.array(publicPort).min(1).max(9)])
      .optional()
      .describe(
        'UDP port or ports to listen on. Differs from `endpoint` when a NAT forwards to this machine. Default: the ports of `endpoint` and `alternatives`.',
      ),
    websocket: webSocket.optional(),
    pool4: prefix('Virtual IPv4 addresses given to hosts.').default('198.18.0.0/16'),
    pool6: prefix('Virtual IPv6 addresses given to hosts.').default('fd67:6f64:7769:1::/64'),
    masquerade: z
      .boolean()
      .default(true)
      .describe('Source NAT: traffic of hosts leaves with an address of this anchor.'),
    uplinks: z
      .array(accessPattern)
      .optional()
      .describe('Interfaces by which traffic of hosts may leave. Default: any.'),
    firewall,
    invitation_hours: z
      .number()
      .positive()
      .max(8760)
      .default(24)
      .describe('Hours until an invitation expires.'),
  })
  .describe('Makes this machine an anchor.')

const peer = z
  .strictObject({
    name: name('Its name in status and policies.'),
    kind: z
      .enum(['anchor', 'wireguard'])
      .default('anchor')
      .describe('`anchor`: a godwit anchor. `wireguard`: a stock WireGuard server used as an anchor.'),
    endpoint: text(parseHostPort, 'Where it is reached, `HOST:PORT`.'),
    alternatives: z
      .array(text(parseHostPort, 'An endpoint, `HOST:PORT`.'))
      .max(8)
      .default([])
      .describe('Its other endpoints, tried in turn over an access on which `endpoint` does not answer.'),
    websocket: webSocketUrl
      .optional()
      .describe('Where it accepts WebSockets, `wss://HOST[:PORT]/PATH`; used over accesses that block UDP.'),
    websocket_pin: z
      .string()
      .regex(/^[A-Za-z0-9+/]{43}=$/, 'SHA-256 of a certificate, base64')
      .optional()
      .describe('SHA-256 of its certificate, base64. Default: a known authority must have signed it.'),
    public_key: key('Its public key, base64.'),
    preshared_key: key(
      'Pre-shared key, base64. A file that contains one must not be readable by others.',
    ).optional(),
    addresses: z
      .array(prefix('An address.'))
      .optional()
      .describe(
        'Virtual addresses that it assigned to this host. Needed for a WireGuard server; an anchor reports them itself.',
      ),
    allowed_ips: z
      .array(prefix('A prefix.'))
      .optional()
      .describe(
        'Destinations reached through it. If every peer has such a list, only traffic to those destinations goes through godwit. Default: all.',
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
        "Private key of the invitation, used until the anchor has accepted this host's own key. Written by `godwit join`.",
      ),
  })
  .describe('A remote end that traffic goes through.')

const host = z
  .strictObject({
    control: z
      .enum(['all', 'selected'])
      .default('all')
      .describe(
        'Which traffic goes through godwit: `all`; or `selected`: only programs started by `godwit run` and traffic that a policy matches by user:, port:, to: or cgroup:. With `selected`, an app: selector alone puts nothing under control; it only chooses the policy.',
      ),
    except: z
      .array(selector)
      .default([])
      .describe(
        'Traffic that bypasses godwit: user:, port:, proto:, to: and cgroup: selectors, and `private` for all private and link-local networks (including fd…, also those behind an anchor). For single programs use cgroup: or `godwit run --direct`.',
      ),
    dns: z
      .array(text(parseAddress, 'An address.'))
      .max(8)
      .default([])
      .describe(
        'Name servers to use instead of those of the networks; queries go through the tunnel. Empty: the name servers of the networks; queries bypass the tunnel if only that network reaches the server.',
      ),
    dns_by: z
      .enum(['auto', 'resolved', 'resolvconf', 'none'])
      .default('auto')
      .describe(
        'What `dns` is configured in: systemd-resolved, resolvconf, or nothing. `auto`: whichever this machine has. Undone when the daemon stops.',
      ),
    proxy: text(parseProxy, 'A proxy.')
      .optional()
      .describe(
        'HTTP proxy for WebSockets, `http://[USER:PASSWORD@]HOST:PORT`; connections through it and without it are tried in turn.',
      ),
    trusted: z
      .array(text(parseTrust, 'A trusted network.'))
      .default([])
      .describe(
        'Networks on which the tunnel is idle: `subnet:ADDRESS/LENGTH`, `gateway:ADDRESS` or `gateway:MAC`; joined by + all must match. While the preferred access is on one of them, new connections bypass the tunnel; existing ones stay in it.',
      ),
    captive_portal: z
      .boolean()
      .default(true)
      .describe(
        "Detect captive portals: over an access on which no anchor answers, request a web page from the anchor's address. While no anchor is reachable, port 80 and the portal's address bypass the tunnel, so that a browser can sign in.",
      ),
    prefer: z
      .array(accessPattern)
      .default(['*'])
      .describe('Accesses in order of preference, for traffic that no policy matches.'),
    metered: z
      .enum(['backup', 'ignore'])
      .default('backup')
      .describe(
        'Use of an access that NetworkManager treats as metered and that has no [access.NAME] section: as `backup`, or like any other (`ignore`).',
      ),
    on_crash: z
      .enum(['wait', 'direct'])
      .default('wait')
      .describe(
        'When the daemon is killed or crashes: `wait`: traffic under control is held until the daemon runs again, then its connections continue. `direct`: the tunnel disappears with the daemon, and new connections bypass godwit.',
      ),
    address4: prefix('VIpA_fix: the IPv4 address that applications see.').default('198.19.0.1/32'),
    address6: prefix('VIpA_fix: the IPv6 address that applications see.').default('fd67:6f64:7769::1/128'),
  })
  .describe('A host that keeps its connections while it moves.')

const policy = z
  .strictObject({
    name: name('Its name in `godwit run --policy` and `why`.'),
    match: z
      .array(selector)
      .default([])
      .describe(
        'Traffic that it applies to: any of these. Empty: only programs started by `godwit run --policy`.',
      ),
    prefer: z.array(accessPattern).min(1).describe('Accesses in order of preference; patterns with `*`.'),
    fallback: z
      .enum(['any', 'none'])
      .default('any')
      .describe('When none of `prefer` is up: `any`: use any other access; `none`: packets wait.'),
    move_up: z.boolean().default(true).describe('Move back when an access earlier in the list comes up.'),
    peer: name('Peer to use. Default: the first.').optional(),
  })
  .describe('Which accesses an application may use. The first policy that matches decides.')

function parseWebSocketUrl(value: string): Decoded<URL> {
  if (!URL.canParse(value)) return malformed(`"${value}" is no URL`)
  const url = new URL(value)
  return url.protocol === 'wss:' && url.search === '' && url.hash === '' && url.username === ''
    ? decoded(url)
    : malformed(`"${value}" is not wss://HOST[:PORT]/PATH`)
}

/** `http://[USER:PASSWORD@]HOST:PORT`. */
export function parseProxy(value: string): Decoded<{ host: string; port: number; authorization?: string }> {
  const url = URL.canParse(value) ? new URL(value) : undefined
  if (url?.protocol !== 'http:' || url.hostname === '')
    return malformed(`"${value}" is not http://[USER:PASSWORD@]HOST:PORT`)
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const port = Number(url.port) || 80
  if (url.username === '') return decoded({ host, port })
  const secret = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`
  return decoded({ host, port, authorization: `Basic ${Buffer.from(secret).toString('base64')}` })
}

/** RFC 1918, 3927, 4193 and 4291. */
const PRIVATE_NETWORKS = [
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '169.254.0.0/16',
  'fc00::/7',
  'fe80::/10',
] as const

/** The selectors that an entry of `except` stands for. */
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

/** Reports values that are valid by themselves but not together. */
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
