/** A router as the daemon composes it. */

import { openRadio } from '../access/radio/index.ts'
import { type Prefix, parsePrefix } from '../core/address.ts'
import { GodwitError } from '../core/errors.ts'
import { counted } from '../core/words.ts'
import { decodeKey } from '../crypto/keys.ts'
import { DEVICES } from '../linux/ledger.ts'
import type { Accept } from '../linux/passage/chains.ts'
import type { AccessRule, ConfigWith, MechanismDescriptor } from '../mechanism/descriptor.ts'
import {
  CONNECTION_TABLE,
  forwardingNeed,
  NETWORK_ADMIN,
  TUN,
  UDP_BATCHES,
  WAY_OUT,
} from '../mechanism/needs.ts'
import { must, parseBytes, parseHostPort, selectorOf } from '../mechanism/schema.ts'
import type { Services } from '../mechanism/services.ts'
import { checkAccessKeys, checkRouter, type RouterSettings, routerSections } from './config.ts'
import { RouterPlumbing } from './plumbing.ts'
import type { ClassSetup } from './protocol.ts'
import { RadioKeeper } from './radios.ts'
import { type AccessLimit, RouterService, type Site } from './service.ts'
import { interfaceBytes, LinkUsage } from './usage.ts'

type RouterConfig = ConfigWith<typeof routerSections>

export const routerDescriptor: MechanismDescriptor<typeof routerSections> = {
  name: 'routing',
  role: 'router',
  begin:
    'create one: sudo godwit router init --subnet SUBNET, with --endpoint HOST:PORT at home or --access NAME in the vehicle',
  summary: 'The gateway of a site, mobile or at home: connects subnets over several links.',
  sections: routerSections,
  check: ({ router, access }, issue) => {
    checkAccessKeys(access, router !== undefined, issue)
    if (router !== undefined) checkRouter(router, issue)
  },
  claims: ({ router }) => router !== undefined,
  runsBeside: () => false,
  describe: ({ router }) =>
    `${counted(router?.site.length ?? 0, 'site')}, ${counted(router?.class.length ?? 0, 'class', 'classes')}`,
  accesses: ({ router }) => router?.accesses.filter((each) => each !== '*') ?? [],
  devices: (config) => [routerDevice(config)],
  refusal: ({ router }, { file }, whole) => {
    if (router === undefined)
      return new GodwitError('NOT_A_ROUTER', `${file} has no [router]`, {
        kind: 'usage',
        hint: 'godwit router init --state DIR …, with a state of its own',
      })
    if (!whole || router.site.length > 0) return undefined
    return new GodwitError('NO_SITE', `${file} has no [[router.site]]`, {
      kind: 'usage',
      hint: 'godwit router add NAME CARD, with the card that `godwit router card` prints on the other gateway',
    })
  },
  compose: composeRouter,
  needs: [
    NETWORK_ADMIN,
    TUN,
    UDP_BATCHES,
    WAY_OUT,
    CONNECTION_TABLE,
    forwardingNeed(DEVICES.router, acceptsOf(DEVICES.router, [])),
  ],
}

/** What comes from other sites, and what this one sends. */
function acceptsOf(device: string, own: readonly Prefix[]): readonly Accept[] {
  if (own.length === 0) return [{ iif: device }, { oif: device }]
  return [{ iif: device }, ...own.map((source) => ({ oif: device, source }))]
}

function routerDevice(config: RouterConfig): string {
  return config.interface.name ?? DEVICES.router
}

function composeRouter(config: RouterConfig, services: Services): RouterService {
  const router: RouterSettings = config.router!
  const { ledger, clock, recorder } = services
  const device = routerDevice(config)
  const sites = router.site.map(siteOf)
  const own = router.subnets.map((text) => must(parsePrefix(text)))
  const networks = router.networks.length === 0 ? {} : { networks: router.networks }
  return new RouterService(
    {
      monitor: router.accesses.length === 0 ? undefined : services.accesses,
      plumbing: new RouterPlumbing(services.rtnl, services.sysctls('routing'), {
        device,
        ledger,
        subnets: sites.flatMap(({ subnets }) => subnets),
        own,
        report: (message) => recorder.log('warn', message),
      }),
      passage: services.passage(acceptsOf(device, own), router.firewall === 'open'),
      protect: (guarded) => services.guard.protect(guarded),
      radios:
        router.radio.length === 0
          ? undefined
          : (use) =>
              new RadioKeeper(
                {
                  radios: router.radio.map(({ interface: name, apn, ...rest }) =>
                    openRadio(name, {
                      ...rest,
                      own: services.files.folder,
                      ...(apn !== undefined && { apn }),
                    }),
                  ),
                  recorder,
                  now: () => clock.now(),
                  wall: () => clock.wall(),
                  use,
                },
                { policy: router.roaming, ...networks },
              ),
      recorder,
      wall: () => clock.wall(),
      endpoints: services.endpoints,
      names: services.names,
      timestamp: services.timestamp,
      seen: services.seen,
      usage: new LinkUsage({
        file: services.files.file('usage.json'),
        read: interfaceBytes,
        wall: () => services.clock.wall(),
      }),
    },
    {
      device,
      privateKey: services.files.privateKey(),
      mark: ledger.routing.mark,
      sites,
      own,
      carryDscp: router.dscp === 'carry',
      accesses: router.accesses,
      rules: Object.entries(config.access).map(accessLimit),
      classes: classesOf(router),
      ...listenPort(router),
      ...(config.interface.mtu !== undefined && { mtu: config.interface.mtu }),
    },
  )
}

function accessLimit([pattern, rule]: readonly [string, AccessRule]): AccessLimit {
  const { use, cost, weight, cap, cap_day, metered, probe_s } = rule
  return {
    ...{ pattern, use, cost, weight, metered, capDay: cap_day, standbyMs: 1000 * probe_s },
    ...(cap !== undefined && { cap: must(parseBytes(cap)) }),
  }
}

function listenPort({ listen_port, endpoint }: RouterSettings): { listenPort?: number } {
  const port = listen_port ?? (endpoint === undefined ? undefined : must(parseHostPort(endpoint)).port)
  return port === undefined ? {} : { listenPort: port }
}

function siteOf(site: RouterSettings['site'][number]): Site {
  return {
    name: site.name,
    publicKey: must(decodeKey(site.public_key)),
    keepalive: site.keepalive_s,
    subnets: site.subnets.map((text) => must(parsePrefix(text))),
    ...(site.endpoint !== undefined && { endpoint: must(parseHostPort(site.endpoint)) }),
    ...(site.preshared_key !== undefined && { presharedKey: must(decodeKey(site.preshared_key)) }),
  }
}

/** Those configured, and one for the rest. */
function classesOf(router: RouterSettings): ClassSetup[] {
  const classes = router.class.map((each) => ({
    name: each.name,
    match: each.match.map((text) => selectorOf(text)),
    mode: each.scheduler,
    cap: each.copy_share,
    unordered: each.unordered,
    links: each.links,
  }))
  if (classes.some(({ match }) => match.length === 0)) return classes
  const rest = router.scheduler
  return [...classes, { name: 'rest', match: [], mode: rest, cap: 0.05, unordered: false }]
}
