/** The section of a router: [router], with its sites, classes and radios. */
import * as z from 'zod'
import { DRIVERS, SUPPLICANT_FOLDER } from '../access/radio/radio.ts'
import { matchesAny } from '../core/pattern.ts'
import type { AccessRule } from '../mechanism/descriptor.ts'
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
  text,
  unique,
} from '../mechanism/schema.ts'
import { MODES, type Mode } from '../tunnel/scheduling/schedulers.ts'

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
        'Subnets behind this gateway. It drops packets from other sources, and answers with its own address in these subnets. Default: sources are not checked.',
      ),
    firewall,
    dscp: z
      .enum(['carry', 'none'])
      .default('carry')
      .describe(
        '`carry`: the tunnel copies the DSCP of the inner packet to the outer one, so that modems and networks can use it. `none`: outer packets have no DSCP.',
      ),
    scheduler: schedulerName
      .default('failover')
      .describe('How packets are assigned to paths, unless a class sets another scheduler.'),
    roaming: z
      .enum(['eager', 'clinging'])
      .default('clinging')
      .describe(
        '`eager`: radios move early to a stronger access point. `clinging`: only when the current one is weak.',
      ),
    networks: z
      .array(z.string().min(1))
      .default([])
      .describe(
        'Networks (SSIDs) that radios may use. Default: all that wpa_supplicant or NetworkManager knows.',
      ),
    site: z
      .array(
        z.strictObject({
          name: name('Its name in status.'),
          public_key: key('Public key of its gateway, base64.'),
          preshared_key: key('Pre-shared key, base64.').optional(),
          endpoint: text(
            parseHostPort,
            'Endpoint of its gateway. Absent: that gateway connects to this one.',
          ).optional(),
          subnets: z
            .array(prefix('A subnet.'))
            .min(1)
            .describe('Subnets behind it: routed to it, and the only sources accepted from it.'),
          keepalive_s: z.int().min(0).max(65535).default(25).describe('Seconds between keepalives; 0: none.'),
        }),
      )
      .default([])
      .describe('Sites at the other end; `godwit router add` writes them.'),
    class: z
      .array(
        z.strictObject({
          name: name('Its name in status and `router scheduler`.'),
          match: z.array(selector).min(1).describe('port:, to:, proto: and dscp: selectors; any of these.'),
          scheduler: schedulerName.describe('How its packets are assigned to paths.'),
          copy_share: z
            .number()
            .min(0)
            .max(1)
            .default(0.05)
            .describe('For `budget`: max share of the sent bytes that is copied.'),
          links: z
            .array(accessPattern)
            .default([])
            .describe(
              'Accesses that its packets may use, patterns with `*`; while none of them works, packets wait. At both gateways these are interfaces of the mobile router. Default: all.',
            ),
          unordered: z
            .boolean()
            .default(false)
            .describe('Deliver spread packets as they arrive, without restoring their order.'),
        }),
      )
      .default([])
      .describe('Traffic classes. The first that matches decides.'),
    radio: z
      .array(
        z.strictObject({
          interface: z.string().min(1).max(15).describe('Interface of the radio, an access.'),
          driver: z
            .enum(DRIVERS)
            .default('auto')
            .describe(
              'Service that controls the radio. `auto`: wpa_supplicant if its control socket exists, else NetworkManager or ModemManager, whichever manages the interface.',
            ),
          folder: z
            .string()
            .min(1)
            .default(SUPPLICANT_FOLDER)
            .describe('Folder of the control sockets of wpa_supplicant.'),
          apn: z
            .string()
            .min(1)
            .optional()
            .describe('Access point name (APN) of a modem that NetworkManager does not manage.'),
        }),
      )
      .default([])
      .describe('Radios that the connection controller moves between access points.'),
  })
  .describe('Makes this machine the gateway of a site.')

export const routerSections = { router: router.optional() }

export type RouterSettings = z.output<typeof router>

/** What is right by itself but cannot work together. */
/** Keys of [access.NAME] that only a mobile router heeds. */
export function checkAccessKeys(
  access: Readonly<Record<string, AccessRule>>,
  isRouter: boolean,
  report: Issue,
): void {
  if (isRouter) return
  const only = 'only a router ([router]) heeds it'
  for (const [pattern, rule] of Object.entries(access)) {
    if (rule.cap !== undefined) report(['access', pattern, 'cap'], only)
    if (rule.weight !== 1) report(['access', pattern, 'weight'], only)
    if (rule.metered) report(['access', pattern, 'metered'], only)
    if (rule.probe_s !== 10) report(['access', pattern, 'probe_s'], only)
    if (rule.cap_day !== 1) report(['access', pattern, 'cap_day'], only)
  }
}

export function checkRouter(value: RouterSettings, report: Issue): void {
  const { accesses, subnets, site, radio } = value
  const issue: Issue = (path, message) => report(['router', ...path], message)
  unique(site, 'site', issue, ['site'])
  unique(value.class, 'class', issue, ['class'])
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
      if (!text.split('+').every((part) => /^(all$|(port|to|proto|dscp):)/.test(part)))
        issue(['class', i, 'match', j], `"${text}": a gateway can tell only port:, to:, proto: and dscp:`)
  }
  for (const [i, { interface: name }] of radio.entries()) {
    if (!matchesAny(accesses, name))
      issue(['radio', i, 'interface'], `${name} is none of \`accesses\`: nothing would go over it`)
    if (radio.findIndex((each) => each.interface === name) < i)
      issue(['radio', i, 'interface'], `a second radio is called "${name}"`)
  }
}
