/** The router as the daemon handles it: its mechanism from the configuration. */
import { AccessMonitor } from '../access/index.ts'
import { openRadio } from '../access/radio/index.ts'
import { parsePrefix } from '../core/address.ts'
import { GodwitError, usageError } from '../core/errors.ts'
import type { Decoded } from '../core/result.ts'
import { parseSelector } from '../core/selector.ts'
import { decodeKey } from '../crypto/keys.ts'
import { RealClock } from '../linux/clock.ts'
import { Rtnetlink } from '../linux/rtnetlink/index.ts'
import { type ClassSetup, RadioKeeper, RouterPlumbing, RouterService, type Site } from '../routing/index.ts'
import type { Composition } from './compose.ts'
import { RememberedEndpoints } from './endpoints.ts'
import type { HostRecorder } from './recorder.ts'
import { type Config, parseHostPort } from './schema.ts'
import { keyFileOf, type RouterConfig } from './setup.ts'
import type { State } from './state.ts'
import { RememberedSysctls } from './sysctls.ts'
import { RememberedTimestamp } from './timestamp.ts'

/** Marks of sockets of routers; those of hosts begin lower (anchoring/plumbing.ts). */
const MARK = 0x6780_0000

/** Throws NO_SITE for a gateway that knows no other. */
export function needSite({ router }: RouterConfig, state: State): void {
  if (router.site.length > 0) return
  throw new GodwitError('NO_SITE', `${state.configFile} has no [[router.site]]`, {
    kind: 'usage',
    hint: 'godwit router add NAME CARD, with the card that `godwit router card` prints on the other gateway',
  })
}

export function composeRouter(config: RouterConfig, state: State, recorder: HostRecorder): Composition {
  const { router, kernel } = config
  const device = config.interface.name ?? 'gwrt0'
  const rtnl = new Rtnetlink()
  const sysctls = new RememberedSysctls(state.file('sysctls.json'))
  const clock = new RealClock()
  const sites = router.site.map(siteOf)
  const own = router.subnets.map((text) => must(parsePrefix(text)))
  const report = (message: string) => recorder.log('warn', message)
  const networks = router.networks.length === 0 ? {} : { networks: router.networks }
  const service = new RouterService(
    {
      monitor:
        router.accesses.length === 0
          ? undefined
          : new AccessMonitor(
              { rtnl, clock, sysctls, report },
              { base: kernel.base, ours: [device], named: router.accesses.filter((each) => each !== '*') },
            ),
      plumbing: new RouterPlumbing(rtnl, sysctls, {
        device,
        subnets: sites.flatMap(({ subnets }) => subnets),
        own,
      }),
      radios:
        router.radio.length === 0
          ? undefined
          : (use) =>
              new RadioKeeper(
                {
                  radios: router.radio.map(({ interface: name, apn, ...rest }) =>
                    openRadio(name, { ...rest, own: state.folder, ...(apn !== undefined && { apn }) }),
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
      endpoints: new RememberedEndpoints(state.file('endpoints.json')),
      timestamp: new RememberedTimestamp(state.file('timestamp')),
      close: () => rtnl.close(),
    },
    {
      device,
      privateKey: state.ensurePrivateKey(keyFileOf(state, config)),
      mark: MARK + kernel.base,
      sites,
      own,
      accesses: router.accesses,
      classes: classesOf(config),
      ...listenPort(router),
      ...(config.interface.mtu !== undefined && { mtu: config.interface.mtu }),
    },
  )
  return { mechanisms: [service], routes: [] }
}

function listenPort({ listen_port, endpoint }: RouterConfig['router']): { listenPort?: number } {
  const port = listen_port ?? (endpoint === undefined ? undefined : must(parseHostPort(endpoint)).port)
  return port === undefined ? {} : { listenPort: port }
}

function siteOf(site: RouterConfig['router']['site'][number]): Site {
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
function classesOf(config: Config & { router?: RouterConfig['router'] }): ClassSetup[] {
  const classes = (config.router?.class ?? []).map((each) => ({
    name: each.name,
    match: each.match.map((text) => must(parseSelector(text))),
    mode: each.scheduler,
    cap: each.copy_share,
    unordered: each.unordered,
  }))
  if (classes.some(({ match }) => match.length === 0)) return classes
  const rest = config.router?.scheduler ?? 'failover'
  return [...classes, { name: 'rest', match: [], mode: rest, cap: 0.05, unordered: false }]
}

function must<T>(parsed: Decoded<T>): T {
  if (parsed.ok) return parsed.value
  throw usageError(parsed.reason)
}
