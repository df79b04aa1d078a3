/**
 * The configuration's schema: the one place that says what may stand in godwit.toml, for hosts and anchors. Checks,
 * docs/configuration.md and docs/config.schema.json all come from here.
 */
import * as z from 'zod'
import { DRIVERS, SUPPLICANT_FOLDER } from '../access/radio/radio.ts'
import { parsePrefix } from '../core/address.ts'
import { matchesAny } from '../core/pattern.ts'
import type { Decoded } from '../core/result.ts'
import { parseSelector, SELECTOR_FORMS } from '../core/selector.ts'
import { decodeKey } from '../crypto/keys.ts'
import { MODES, type Mode } from '../tunnel/schedulers.ts'

/** A string that one of godwit's own parsers accepts; its reason is the message. */
function text(parse: (text: string) => Decoded<unknown>, description: string) {
  return z
    .string()
    .superRefine((value, context) => {
      const result = parse(value)
      if (!result.ok) context.addIssue({ code: 'custom', message: result.reason })
    })
    .describe(description)
}

/** `HOST:PORT`, `[IPv6]:PORT`. The host may be a name. */
export function parseHostPort(value: string): Decoded<{ host: string; port: number }> {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:[\]]+)):(\d{1,5})$/.exec(value)
  const port = Number(match?.[3])
  if (!match || port < 1 || port > 65535) {
    return {
      ok: false,
      reason: `"${value}" is not HOST:PORT, e.g. anchor.example.org:51820 or [2001:db8::1]:51820`,
    }
  }
  return { ok: true, value: { host: match[1] ?? match[2]!, port } }
}

const name = (what: string) =>
  z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'a name is letters, digits, ".", "_" and "-", at most 63')
    .describe(what)

/** What an interface may be called, `*` standing for any characters. */
const accessPattern = z
  .string()
  .regex(/^[^\s/]{1,15}$/, 'an interface name, or a pattern with *, e.g. "wlan*"')
const key = (what: string) => text(decodeKey, what)
const prefix = (what: string) => text(parsePrefix, what)
const selector = text(parseSelector, `One of: ${SELECTOR_FORMS}.`)
const publicPort = z.int().min(1).max(65535)

const log = z
  .strictObject({
    level: z
      .enum(['error', 'warn', 'info', 'debug'])
      .default('info')
      .describe('The least important messages shown.'),
  })
  .describe('What goes to standard error.')

const kernel = z
  .strictObject({
    instance: name(
      'Part of the name of everything made in the kernel (tables, cgroups), so that several run side by side.',
    ).default('main'),
    base: z
      .int()
      .min(100)
      .max(30000)
      .default(5200)
      .describe('First routing table and rule priority; the next 200 are used too.'),
  })
  .describe(
    'How kernel state is named and numbered. Only needed when two instances share a network namespace.',
  )

const iface = z
  .strictObject({
    name: z
      .string()
      .regex(/^[^\s/*]{1,15}$/, 'at most 15 characters')
      .optional()
      .describe(
        'Name of the virtual interface. Default: godwit0 on a host, gwan0 on an anchor, gwrt0 on a router.',
      ),
    private_key_file: z
      .string()
      .min(1)
      .optional()
      .describe(
        'File with the private key in base64, mode 0600. Default: private.key in the state directory. Relative to the folder of this file.',
      ),
    mtu: z
      .int()
      .min(1280)
      .max(65535)
      .optional()
      .describe('MTU of the virtual interface, in bytes. Default: what its paths carry.'),
  })
  .describe('The virtual interface and the key of this machine.')

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

const access = z
  .strictObject({
    use: z
      .enum(['normal', 'backup', 'never'])
      .default('normal')
      .describe('`backup`: only when no other access is up. `never`: left alone.'),
    cost: z.number().min(0).default(0).describe('Of two accesses equally good the cheaper is taken.'),
  })
  .describe('How an access network may be used. The key is the interface, or a pattern such as "wwan*".')

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
      .describe('Traffic that is left alone: user:, port: and to: selectors.'),
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
      .describe('Interfaces whose addresses are used. Default: all but bridges and tunnels.'),
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

const schedulerName = z.enum(MODES as readonly [Mode, ...Mode[]])

const router = z
  .strictObject({
    endpoint: text(
      parseHostPort,
      'Where mobile routers reach this gateway, `HOST:PORT`; goes into its card.',
    ).optional(),
    listen_port: publicPort
      .optional()
      .describe(
        'UDP port to listen on. Default: the port of `endpoint`. A mobile router has neither, and listens nowhere.',
      ),
    accesses: z
      .array(accessPattern)
      .default([])
      .describe('Interfaces that a mobile router may use, the most preferred first; patterns with `*`.'),
    subnets: z
      .array(prefix('A subnet.'))
      .default([])
      .describe(
        'Subnets behind this gateway: the only sources it sends, and it answers with its address there. Default: not checked.',
      ),
    scheduler: schedulerName
      .default('failover')
      .describe('How packets take the paths, where no class says otherwise.'),
    roaming: z
      .enum(['eager', 'clinging'])
      .default('clinging')
      .describe(
        '`eager`: radios move to a stronger access point early. `clinging`: only when theirs is weak.',
      ),
    networks: z
      .array(z.string().min(1))
      .default([])
      .describe(
        'Networks (SSIDs) that radios may use. Default: all that wpa_supplicant or NetworkManager has.',
      ),
    site: z
      .array(
        z.strictObject({
          name: name('What status calls the site.'),
          public_key: key('Public key of its gateway, base64.'),
          preshared_key: key('A secret shared with it, base64.').optional(),
          endpoint: text(parseHostPort, 'Where its gateway is reached. Absent: it comes to us.').optional(),
          subnets: z
            .array(prefix('A subnet.'))
            .min(1)
            .describe('Subnets behind it: routed to it, and the only sources taken from it.'),
          keepalive_s: z.int().min(0).max(65535).default(25).describe('Seconds between keepalives; 0: none.'),
        }),
      )
      .default([])
      .describe('Sites on the other end; `godwit router add` writes them.'),
    class: z
      .array(
        z.strictObject({
          name: name('What status and `router scheduler` call it.'),
          match: z.array(selector).min(1).describe('port:, to: and proto: selectors; any of these.'),
          scheduler: schedulerName.describe('How its packets take the paths.'),
          copy_share: z
            .number()
            .min(0)
            .max(1)
            .default(0.05)
            .describe('`budget`: the share of the bytes sent that may be copied.'),
          unordered: z
            .boolean()
            .default(false)
            .describe('Spread packets are delivered as they come: for what cannot wait.'),
        }),
      )
      .default([])
      .describe('Traffic classes. The first that matches decides.'),
    radio: z
      .array(
        z.strictObject({
          interface: z.string().min(1).max(15).describe('The access that it drives.'),
          driver: z
            .enum(DRIVERS)
            .default('auto')
            .describe(
              'What it is driven through. `auto`: wpa_supplicant where its control socket is there, else NetworkManager or ModemManager, whichever has the interface.',
            ),
          folder: z.string().min(1).default(SUPPLICANT_FOLDER).describe('Control sockets of wpa_supplicant.'),
          apn: z
            .string()
            .min(1)
            .optional()
            .describe('Access point name of a modem that NetworkManager does not look after.'),
        }),
      )
      .default([])
      .describe('Radios that the connection controller moves between access points.'),
  })
  .describe('Makes this machine the gateway of a site.')

export const configSchema = z
  .strictObject({
    log: log.prefault({}),
    kernel: kernel.prefault({}),
    interface: iface.prefault({}),
    host: host.prefault({}),
    peer: z.array(peer).default([]),
    access: z.record(accessPattern, access).default({}),
    policy: z.array(policy).default([]),
    anchor: anchor.optional(),
    router: router.optional(),
    dime: dime.prefault({}),
  })
  .superRefine((value, context) => {
    unique(value.peer, 'peer', context, ['peer'])
    unique(value.policy, 'policy', context, ['policy'])
    const peers = new Set(value.peer.map((entry) => entry.name))
    for (const [i, entry] of value.policy.entries()) {
      if (entry.peer !== undefined && !peers.has(entry.peer)) {
        context.addIssue({
          code: 'custom',
          path: ['policy', i, 'peer'],
          message: `there is no peer "${entry.peer}"`,
        })
      }
    }
    for (const [i, entry] of value.peer.entries()) {
      if (entry.kind === 'wireguard' && !entry.addresses?.length) {
        const message = 'a wireguard peer needs `addresses`: what its server lets this host use'
        context.addIssue({ code: 'custom', path: ['peer', i], message })
      }
    }
    for (const [i, entry] of value.host.except.entries()) {
      if (!/^(user|port|to):/.test(entry)) {
        context.addIssue({
          code: 'custom',
          path: ['host', 'except', i],
          message: `"${entry}": only user:, port: and to: can be left alone`,
        })
      }
    }
    if (value.router !== undefined) checkRouter(value.router, context)
    if (value.router !== undefined && value.anchor !== undefined) {
      const message = 'this file is of an anchor already; give the router a state of its own (--state DIR)'
      context.addIssue({ code: 'custom', path: ['router'], message })
    }
  })
  .meta({ title: 'godwit.toml' })

/** What is right by itself but cannot work together. */
function checkRouter(value: z.output<typeof router>, context: z.RefinementCtx): void {
  const { accesses, subnets, site, radio } = value
  const issue = (path: (string | number)[], message: string) =>
    context.addIssue({ code: 'custom', path: ['router', ...path], message })
  unique(site, 'site', context, ['router', 'site'])
  unique(value.class, 'class', context, ['router', 'class'])
  const behind = new Map(subnets.map((subnet) => [subnet, 'this gateway']))
  for (const [i, entry] of site.entries()) {
    if (entry.endpoint !== undefined && accesses.length === 0)
      issue(['site', i, 'endpoint'], 'this gateway has no `accesses` to reach it over; without them it waits')
    for (const [j, subnet] of entry.subnets.entries()) {
      const other = behind.get(subnet)
      if (other !== undefined) issue(['site', i, 'subnets', j], `${subnet} is behind ${other} already`)
      behind.set(subnet, entry.name)
    }
  }
  for (const [i, { name, match }] of value.class.entries()) {
    if (name === 'rest') issue(['class', i, 'name'], '`rest` is what no class matches; `scheduler` is for it')
    for (const [j, text] of match.entries())
      if (!text.split('+').every((part) => /^(all$|(port|to|proto):)/.test(part)))
        issue(['class', i, 'match', j], `"${text}": a gateway can tell only port:, to: and proto:`)
  }
  for (const [i, { interface: name }] of radio.entries()) {
    if (!matchesAny(accesses, name))
      issue(['radio', i, 'interface'], `${name} is none of \`accesses\`: nothing would go over it`)
    if (radio.findIndex((each) => each.interface === name) < i)
      issue(['radio', i, 'interface'], `a second radio is called "${name}"`)
  }
}

function unique(
  entries: readonly { name: string }[],
  what: string,
  context: z.RefinementCtx,
  path: readonly string[],
): void {
  const seen = new Set<string>()
  for (const [i, entry] of entries.entries()) {
    if (seen.has(entry.name)) {
      context.addIssue({
        code: 'custom',
        path: [...path, i, 'name'],
        message: `a second ${what} is called "${entry.name}"`,
      })
    }
    seen.add(entry.name)
  }
}

/** A configuration that has been checked, with defaults filled in. */
export type Config = z.output<typeof configSchema>
export type DimeConfig = Config['dime']
export type PeerConfig = Config['peer'][number]
export type PolicyConfig = Config['policy'][number]

/** The JSON schema that editors use (docs/config.schema.json). */
export function jsonSchema(): object {
  return z.toJSONSchema(configSchema, { io: 'input', target: 'draft-2020-12' })
}
