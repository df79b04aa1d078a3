/** Builds the mechanisms that a configuration asks for: the one place where the daemon knows them by name. */
import { existsSync, unlinkSync } from 'node:fs'
import * as z from 'zod'
import { AccessMonitor } from '../access/index.ts'
import {
  AnchorPlumbing,
  AnchorService,
  FlowOwners,
  type HostPeer,
  HostPlumbing,
  type HostPolicy,
  type KnownHost,
  MobileHostService,
} from '../anchoring/index.ts'
import { parseInterfaceAddress, parsePrefix } from '../core/address.ts'
import { usageError } from '../core/errors.ts'
import { type ControlRoute, type Mechanism, postRoute } from '../core/mechanism.ts'
import type { Decoded } from '../core/result.ts'
import { parseSelector, type Selector } from '../core/selector.ts'
import { decodeKey, encodeKey } from '../crypto/keys.ts'
import { cgroupMount, KernelCgroups } from '../linux/cgroup.ts'
import { RealClock } from '../linux/clock.ts'
import { Nft } from '../linux/nft.ts'
import { SocketOwners } from '../linux/proc.ts'
import { Rtnetlink } from '../linux/rtnetlink/index.ts'
import { SockDiag } from '../linux/sockdiag.ts'
import { resolveBeside } from './config.ts'
import { composeDime } from './dime.ts'
import { RememberedEndpoints } from './endpoints.ts'
import { HostStore } from './hosts.ts'
import { poolAddresses } from './pool.ts'
import type { HostRecorder } from './recorder.ts'
import { type Config, type PeerConfig, parseHostPort } from './schema.ts'
import { type AnchorConfig, invite, keyFileOf } from './setup.ts'
import { readPrivateKey, type State } from './state.ts'
import { RememberedSysctls } from './sysctls.ts'
import { RememberedTimestamp } from './timestamp.ts'

export interface Composition {
  /** In the order to start them. */
  readonly mechanisms: readonly Mechanism[]
  readonly routes: readonly ControlRoute[]
}

/** MTU of an anchor's interface: what the usual path leaves; paths say themselves what they carry. */
const ANCHOR_MTU = 1420

export function composeHost(config: Config, state: State, recorder: HostRecorder): Composition {
  const { host, kernel } = config
  const device = config.interface.name ?? 'godwit0'
  const rtnl = new Rtnetlink()
  const sysctls = new RememberedSysctls(state.file('sysctls.json'))
  const sockets = new SockDiag()
  const mount = cgroupMount()
  const cgroups = mount === undefined ? undefined : new KernelCgroups(mount, kernel.instance)
  const fix4 = must(parsePrefix(host.address4))
  const fix6 = must(parsePrefix(host.address6))
  const never = Object.entries(config.access).flatMap(([pattern, { use }]) =>
    use === 'never' ? [pattern] : [],
  )
  const policies: HostPolicy[] = [
    { name: 'default', prefer: host.prefer, fallback: 'any', moveUp: true, match: [] },
    ...config.policy.map((policy) => ({
      name: policy.name,
      prefer: policy.prefer,
      fallback: policy.fallback,
      moveUp: policy.move_up,
      match: policy.match.map(selectorOf),
      ...(policy.peer !== undefined && { peer: policy.peer }),
    })),
  ]
  const report = (message: string) => recorder.log('warn', message)
  const service = new MobileHostService(
    {
      monitor: new AccessMonitor(
        { rtnl, clock: new RealClock(), sysctls, report },
        { base: kernel.base, never, ours: [device], named: Object.keys(config.access) },
      ),
      plumbing: new HostPlumbing(
        rtnl,
        sysctls,
        cgroups,
        {
          device,
          base: kernel.base,
          fix4,
          fix6,
          control: host.control,
          destinations: config.peer.every(({ allowed_ips }) => allowed_ips?.length)
            ? config.peer.flatMap(({ allowed_ips = [] }) =>
                allowed_ips.map((text) => must(parsePrefix(text))),
              )
            : [],
          except: host.except.map(selectorOf),
          selected: policies.flatMap(({ match }) => match),
        },
        report,
      ),
      owners: new FlowOwners(sockets, new SocketOwners(), cgroups),
      cgroups,
      recorder,
      endpoints: new RememberedEndpoints(state.file('endpoints.json')),
      timestamp: new RememberedTimestamp(state.file('timestamp')),
      close: () => {
        sockets.close()
        rtnl.close()
      },
    },
    {
      device,
      base: kernel.base,
      privateKey: state.ensurePrivateKey(keyFileOf(state, config)),
      fix4,
      fix6,
      ...(config.interface.mtu !== undefined && { mtu: config.interface.mtu }),
      peers: config.peer.map((peer) => hostPeer(peer, state)),
      policies,
      accesses: Object.entries(config.access).map(([pattern, rule]) => ({ pattern, ...rule })),
    },
  )
  const translation = config.dime.enabled ? composeDime(config, state, recorder).mechanisms : []
  return { mechanisms: [service, ...translation], routes: [] }
}

function hostPeer(peer: PeerConfig, state: State): HostPeer {
  const endpoint = must(parseHostPort(peer.endpoint))
  const addresses = (peer.addresses ?? []).map((text) => must(parseInterfaceAddress(text)).address)
  const v4 = addresses.find(({ length }) => length === 4)
  const v6 = addresses.find(({ length }) => length === 16)
  const file =
    peer.invitation_key_file === undefined
      ? undefined
      : resolveBeside(state.configFile, peer.invitation_key_file)
  return {
    name: peer.name,
    kind: peer.kind,
    host: endpoint.host,
    port: endpoint.port,
    publicKey: must(decodeKey(peer.public_key)),
    keepalive: peer.keepalive_s,
    ...(peer.preshared_key !== undefined && { presharedKey: must(decodeKey(peer.preshared_key)) }),
    ...(v4 && { v4 }),
    ...(v6 && { v6 }),
    // Once the anchor has taken our own key, the file is gone and the invitation worth nothing.
    ...(file !== undefined &&
      existsSync(file) && {
        invitation: {
          privateKey: readPrivateKey(file),
          replaced: () => {
            if (existsSync(file)) unlinkSync(file)
          },
        },
      }),
  }
}

export function composeAnchor(config: AnchorConfig, state: State, recorder: HostRecorder): Composition {
  const { anchor, kernel } = config
  const device = config.interface.name ?? 'gwan0'
  const store = new HostStore(state.file('hosts.json'))
  const rtnl = new Rtnetlink()
  const [own4, own6] = poolAddresses(anchor, 1).map((text) => must(parseInterfaceAddress(text)).address)
  const pool4 = must(parsePrefix(anchor.pool4))
  const pool6 = must(parsePrefix(anchor.pool6))
  const service: AnchorService = new AnchorService(
    {
      plumbing: new AnchorPlumbing(rtnl, new RememberedSysctls(state.file('sysctls.json')), new Nft(), {
        device,
        instance: kernel.instance,
        own4: { address: own4!, length: pool4.length },
        own6: { address: own6!, length: pool6.length },
        pool4,
        pool6,
        masquerade: anchor.masquerade,
        ...(anchor.uplinks && { uplinks: anchor.uplinks }),
      }),
      hosts: {
        list: () => store.list().map(knownHost),
        offerKey: (name, key) => store.offerKey(name, encodeKey(key)),
        confirmKey: (name, key) => store.confirmKey(name, encodeKey(key)),
      },
      recorder,
      wall: () => Date.now(),
      routes: hostRoutes(state, store, () => service.refresh()),
      close: () => rtnl.close(),
    },
    {
      device,
      mtu: config.interface.mtu ?? ANCHOR_MTU,
      privateKey: state.ensurePrivateKey(keyFileOf(state, config)),
      listenPort: anchor.listen_port ?? must(parseHostPort(anchor.endpoint)).port,
      pool4,
      pool6,
    },
  )
  return { mechanisms: [service], routes: [] }
}

function knownHost(record: ReturnType<HostStore['list']>[number]): KnownHost {
  return {
    name: record.name,
    kind: record.kind,
    publicKey: must(decodeKey(record.public_key)),
    presharedKey: must(decodeKey(record.preshared_key)),
    number: record.number,
    ...(record.next_public_key !== undefined && { nextPublicKey: must(decodeKey(record.next_public_key)) }),
    ...(record.expires !== undefined && { expires: record.expires }),
  }
}

const INVITE = z.strictObject({ name: z.string().min(1), wg: z.boolean().optional() })
const REMOVE = z.strictObject({ name: z.string().min(1) })

/** What `godwit anchor invite` and `remove` ask a running anchor. */
function hostRoutes(state: State, store: HostStore, refresh: () => void): ControlRoute[] {
  return [
    postRoute('/v1/anchor/invite', INVITE, ({ body: { name, wg } }) => {
      const { host, text } = invite(state, store, name, Date.now(), { wg: wg === true })
      refresh()
      return { name, text, ...(host.expires === undefined ? {} : { expires: host.expires }) }
    }),
    postRoute('/v1/anchor/remove', REMOVE, ({ body }) => {
      const { name } = store.remove(body.name)
      refresh()
      return { removed: name }
    }),
  ]
}

/** What the schema has checked already. */
function must<T>(parsed: Decoded<T>): T {
  if (parsed.ok) return parsed.value
  throw usageError(parsed.reason)
}

function selectorOf(text: string): Selector {
  return must(parseSelector(text))
}
