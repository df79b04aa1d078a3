/** Anchoring as the daemon composes it: a mobile host, and an anchor. */
import { existsSync, unlinkSync } from 'node:fs'
import * as z from 'zod'
import { parseAddress, parseInterfaceAddress, parsePrefix } from '../core/address.ts'
import { GodwitError, usageError } from '../core/errors.ts'
import { type ControlRoute, postRoute } from '../core/mechanism.ts'
import { counted, withArticle } from '../core/words.ts'
import { decodeKey, encodeKey } from '../crypto/keys.ts'
import { DEVICES } from '../linux/ledger.ts'
import type { Accept } from '../linux/passage/chains.ts'
import type { SocketTable } from '../linux/sockdiag.ts'
import { SystemDns } from '../linux/system-dns.ts'
import { ConnectionTableWatch } from '../mechanism/connection-table.ts'
import type { ConfigWith, MechanismDescriptor } from '../mechanism/descriptor.ts'
import { readPrivateKey } from '../mechanism/files.ts'
import {
  CONNECTION_TABLE,
  forwardingNeed,
  NETWORK_ADMIN,
  OPENSSL,
  programNeed,
  TUN,
  UDP_BATCHES,
  WAY_OUT,
} from '../mechanism/needs.ts'
import { must, parseHostPort, selectorOf } from '../mechanism/schema.ts'
import type { Files, Services } from '../mechanism/services.ts'
import type { CarrierServerInit } from '../tunnel/carrier/server.ts'
import { AnchorKeys } from './anchor-keys.ts'
import { AnchorService, type KnownHost } from './anchor-service.ts'
import type { HostPolicy } from './applications.ts'
import { certificateOf, certificatePin } from './certificate.ts'
import {
  type AnchorSettings,
  anchorSections,
  checkHost,
  exceptions,
  hostSections,
  type PeerConfig,
  parseProxy,
} from './config.ts'
import { type Forward, ForwardStore, PortForwards, parseTarget, refuseTaken } from './forwards.ts'
import { type HostPeer, type LiveSettings, MobileHostService } from './host-service.ts'
import { type HostRecord, HostStore } from './hosts.ts'
import { inviteHost } from './invite.ts'
import { announcedKey, KeyRotation } from './key-rotation.ts'
import { LastSeen } from './last-seen.ts'
import { NameServers } from './name-servers.ts'
import { AnchorPlumbing, HostPlumbing } from './plumbing.ts'
import { poolAddresses } from './pool-addresses.ts'
import { formatTrust, isTrusted, parseTrust, type Trust } from './trust.ts'

type HostConfig = ConfigWith<typeof hostSections>
type AnchorConfig = ConfigWith<typeof anchorSections>

/** Keys of anchors that changed, in the state. */
export const ANCHOR_KEYS_FILE = 'anchor-keys.json'

/** MTU of an anchor's interface, for a usual path; the MTU of each path is discovered. */
const ANCHOR_MTU = 1420

export const hostDescriptor: MechanismDescriptor<typeof hostSections> = {
  name: 'anchoring',
  role: 'host',
  summary:
    'A host that keeps its connections while it moves: encrypted tunnels to an anchor, by application.',
  sections: hostSections,
  check: checkHost,
  claims: () => 'otherwise',
  runsBeside: () => false,
  holdsSecrets: ({ peer }) => peer.some(({ preshared_key }) => preshared_key !== undefined),
  describe: ({ peer, policy }) =>
    `${counted(peer.length, 'peer')}, ${counted(policy.length, 'policy', 'policies')}`,
  devices: (config) => [hostDevice(config)],
  refusal: ({ peer }, { file, role }, whole) => {
    if (!whole) return undefined
    if (role !== 'host')
      return new GodwitError(
        'NOT_A_HOST',
        `this is ${withArticle(role)}, not a host (${file} has [${role}])`,
        {
          kind: 'usage',
          hint: `start it with \`godwit ${role} up\`; a host on the same machine needs its own state folder (--state DIR)`,
        },
      )
    if (peer.length > 0) return undefined
    return new GodwitError('NO_PEER', `${file} has no [[peer]]`, {
      kind: 'usage',
      hint: 'join an anchor first: godwit join INVITATION',
    })
  },
  compose: composeHost,
  live: {
    keys: ['policy', 'access', 'host.prefer', 'host.except'],
    apply: (mechanism, config) => (mechanism as MobileHostService).reload(liveSettings(config)),
  },
  needs: [NETWORK_ADMIN, TUN, UDP_BATCHES, WAY_OUT],
}

function hostDevice(config: HostConfig): string {
  return config.interface.name ?? DEVICES.host
}

/** The settings that a running host can change. */
function liveSettings(config: HostConfig): LiveSettings {
  const { host, policy, access } = config
  const policies: HostPolicy[] = [
    { name: 'default', prefer: host.prefer, fallback: 'any', moveUp: true, match: [] },
    ...policy.map((each) => ({
      name: each.name,
      prefer: each.prefer,
      fallback: each.fallback,
      moveUp: each.move_up,
      match: each.match.map(selectorOf),
      ...(each.peer !== undefined && { peer: each.peer }),
    })),
  ]
  const accesses = Object.entries(access).map(([pattern, rule]) => ({ pattern, ...rule }))
  return { policies, accesses, except: host.except.flatMap(exceptions) }
}

function composeHost(config: HostConfig, services: Services): MobileHostService {
  const { host } = config
  const { ledger, rtnl, cgroups, recorder } = services
  const device = hostDevice(config)
  const fix4 = must(parsePrefix(host.address4))
  const fix6 = must(parsePrefix(host.address6))
  const { policies, accesses, except } = liveSettings(config)
  const trusted = host.trusted.map((text) => must(parseTrust(text)))
  const plumbing = new HostPlumbing(
    {
      rtnl,
      sysctls: services.sysctls('anchoring'),
      cgroups,
      nfTables: services.nfTables,
      sources: () => services.accesses.sources(),
      mainRoutes: () => services.accesses.mainRoutes(),
      whyResting: () => whyResting(trusted, services),
      report: (message) => recorder.log('warn', message),
    },
    {
      device,
      ledger,
      fix4,
      fix6,
      control: host.control,
      destinations: config.peer.every(({ allowed_ips }) => allowed_ips?.length)
        ? config.peer.flatMap(({ allowed_ips = [] }) => allowed_ips.map((text) => must(parsePrefix(text))))
        : [],
      except,
      selected: policies.flatMap(({ match }) => match),
    },
  )
  const nameServers = new NameServers(
    {
      servers: services.names.servers,
      ask: services.names.ask,
      monitor: services.accesses,
      dns: new SystemDns(device),
      report: (level, message) => recorder.log(level, message),
      lead: (ways) => plumbing.leadNameServers(ways),
    },
    { dns: host.dns, keeper: host.dns_by, table: ledger.anchoring.table, all: host.control === 'all' },
  )
  return new MobileHostService(
    {
      monitor: services.accesses,
      plumbing,
      nameServers,
      protect: (guarded) => services.guard.protect(guarded),
      owners: services.owners,
      cgroups,
      recorder,
      endpoints: services.endpoints,
      names: services.names,
      timestamp: services.timestamp,
    },
    {
      device,
      ledger,
      privateKey: services.files.privateKey(),
      fix4,
      fix6,
      ...(config.interface.mtu !== undefined && { mtu: config.interface.mtu }),
      passing: config.host.on_crash === 'direct',
      peers: config.peer.map((peer) => hostPeer(peer, services.files)),
      ...(host.proxy !== undefined && { proxy: must(parseProxy(host.proxy)) }),
      policies,
      rotation: new KeyRotation({
        keyFile: services.files.keyFile(),
        end: 'host',
        log: (level, message) => recorder.log(level, message),
      }),
      anchorKeys: new AnchorKeys(services.files.file(ANCHOR_KEYS_FILE)),
      metered: host.metered === 'backup',
      captivePortal: host.captive_portal,
      accesses,
    },
  )
}

/** Why the tunnel rests now: the access that main prefers is on a network that is trusted. */
function whyResting(trusted: readonly Trust[], { accesses, rtnl }: Services): string | undefined {
  if (trusted.length === 0) return undefined
  const preferred = accesses.preferred()
  if (preferred === undefined) return undefined
  const found = trusted.find((trust) => isTrusted(trust, preferred, () => rtnl.neighbours(preferred.name)))
  return found && `${preferred.name} is on a trusted network (${formatTrust(found)})`
}

function hostPeer(peer: PeerConfig, files: Files): HostPeer {
  const addresses = (peer.addresses ?? []).map((text) => must(parseInterfaceAddress(text)).address)
  const v4 = addresses.find(({ length }) => length === 4)
  const v6 = addresses.find(({ length }) => length === 16)
  const file = peer.invitation_key_file === undefined ? undefined : files.resolve(peer.invitation_key_file)
  return {
    name: peer.name,
    kind: peer.kind,
    ...(peer.websocket !== undefined && {
      websocket: {
        url: peer.websocket,
        ...(peer.websocket_pin !== undefined && { pin: peer.websocket_pin }),
      },
    }),
    endpoints: [peer.endpoint, ...peer.alternatives].map((text) => must(parseHostPort(text))),
    publicKey: must(decodeKey(peer.public_key)),
    keepalive: peer.keepalive_s,
    ...(peer.preshared_key !== undefined && { presharedKey: must(decodeKey(peer.preshared_key)) }),
    ...(v4 && { v4 }),
    ...(v6 && { v6 }),
    // After the anchor has accepted this host's own key, the file is deleted and the invitation is void.
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

export const anchorDescriptor: MechanismDescriptor<typeof anchorSections> = {
  name: 'anchor',
  role: 'anchor',
  begin: 'create one: sudo godwit anchor init --endpoint HOST:PORT',
  summary: 'The fixed point that mobile hosts go through.',
  sections: anchorSections,
  claims: ({ anchor }) => anchor !== undefined,
  runsBeside: () => false,
  devices: (config) => [anchorDevice(config)],
  refusal: ({ anchor }, { file, role }) =>
    anchor !== undefined
      ? undefined
      : new GodwitError(
          'NOT_AN_ANCHOR',
          `this is ${withArticle(role)}, not an anchor (${file} has no [anchor])`,
          {
            kind: 'usage',
            hint: 'run it on the anchor; to make one here too: godwit anchor init --endpoint HOST:PORT --state DIR',
          },
        ),
  compose: composeAnchor,
  live: {
    keys: ['anchor.invitation_hours'],
    apply: (mechanism, { anchor }) => (mechanism as AnchorService).reload(anchor!.invitation_hours),
  },
  needs: [
    NETWORK_ADMIN,
    TUN,
    UDP_BATCHES,
    programNeed('nft', true),
    OPENSSL,
    CONNECTION_TABLE,
    forwardingNeed(DEVICES.anchor, acceptsOf(DEVICES.anchor)),
  ],
}

/** Accept rules for what hosts send, for the replies, and for forwarded ports. */
function acceptsOf(device: string): readonly Accept[] {
  return [{ iif: device }, { oif: device, state: 'established' }, { oif: device, state: 'dnat' }]
}

function anchorDevice(config: AnchorConfig): string {
  return config.interface.name ?? DEVICES.anchor
}

function composeAnchor(config: AnchorConfig, services: Services): AnchorService {
  const anchor: AnchorSettings = config.anchor!
  const device = anchorDevice(config)
  const { ledger, files, recorder } = services
  const store = new HostStore(files.file('hosts.json'))
  const forwards = new ForwardStore(files.file('forwards.json'))
  const privateKey = files.privateKey()
  const [own4, own6] = poolAddresses(anchor, 1).map((text) => must(parseInterfaceAddress(text)).address)
  const pool4 = must(parsePrefix(anchor.pool4))
  const pool6 = must(parsePrefix(anchor.pool6))
  const ports = listenPorts(anchor)
  const { websocket } = anchor
  const service: AnchorService = new AnchorService(
    {
      plumbing: new AnchorPlumbing(
        services.rtnl,
        services.sysctls('anchor'),
        services.nftables,
        {
          device,
          ledger,
          own4: { address: own4!, length: pool4.length },
          own6: { address: own6!, length: pool6.length },
          pool4,
          pool6,
          ports,
          masquerade: anchor.masquerade,
          ...(anchor.uplinks && { uplinks: anchor.uplinks }),
        },
        (message) => recorder.log('warn', message),
      ),
      forwards: new PortForwards({
        nft: services.nftables,
        table: { family: 'inet', name: ledger.nftTable('forwards') },
        device,
        store: forwards,
        addressesOf: (name) => {
          const host = store.list().find((each) => each.name === name)
          if (host === undefined) return undefined
          const [v4, v6] = poolAddresses(anchor, host.number).map((text) => text.split('/')[0]!)
          return { v4: v4!, v6: v6! }
        },
      }),
      passage: services.passage(acceptsOf(device), anchor.firewall === 'open'),
      protect: (guarded) => services.guard.protect(guarded),
      hosts: {
        list: () => store.list().map(knownHost),
        gone: () =>
          store.gone().map(({ name, why, public_key, preshared_key }) => ({
            name,
            why,
            publicKey: must(decodeKey(public_key)),
            presharedKey: must(decodeKey(preshared_key)),
          })),
        offerKey: (name, key) => store.offerKey(name, encodeKey(key)),
        confirmKey: (name, key) => store.confirmKey(name, encodeKey(key)),
        write: () => store.write(),
      },
      recorder,
      timestamp: services.timestamp,
      seen: services.seen,
      lastSeen: new LastSeen({
        file: files.file('last-seen.json'),
        now: () => services.clock.now(),
        wall: () => services.clock.wall(),
      }),
      wall: () => services.clock.wall(),
      connections: new ConnectionTableWatch(services.sysctls('anchor'), (level, message) =>
        recorder.log(level, message),
      ),
      routes: [
        ...hostRoutes(
          () => ({ ...anchor, invitation_hours: service.invitationHours }),
          () => announcedKey(files.keyFile()),
          services,
          store,
          forwards,
          () => service.refresh(),
        ),
        ...forwardRoutes(anchor, services, store, forwards, () => service.refresh()),
      ],
    },
    {
      device,
      mtu: config.interface.mtu ?? ANCHOR_MTU,
      privateKey,
      rotation: new KeyRotation({
        keyFile: files.keyFile(),
        end: 'anchor',
        log: (level, message) => recorder.log(level, message),
      }),
      listenPorts: ports,
      ...(websocket && { websocket: () => webSocketServer(websocket, ports[0]!, files) }),
      pool4,
      pool6,
      invitationHours: anchor.invitation_hours,
    },
  )
  return service
}

function webSocketServer(
  settings: NonNullable<AnchorSettings['websocket']>,
  enginePort: number,
  files: Files,
): CarrierServerInit {
  const { host, port } = must(parseHostPort(settings.listen))
  const { tls } = certificateOf(settings, files)
  return { host, port, path: new URL(settings.url).pathname, ...(tls && { tls }), enginePort }
}

/** The first is the one that it cannot do without. */
export function listenPorts({ endpoint, alternatives, listen_port }: AnchorSettings): number[] {
  const ports = listen_port ?? [endpoint, ...alternatives].map((text) => must(parseHostPort(text)).port)
  return [...new Set([ports].flat())]
}

function knownHost(record: HostRecord): KnownHost {
  return {
    name: record.name,
    kind: record.kind,
    publicKey: must(decodeKey(record.public_key)),
    presharedKey: must(decodeKey(record.preshared_key)),
    number: record.number,
    ...(record.next_public_key !== undefined && { nextPublicKey: must(decodeKey(record.next_public_key)) }),
    ...(record.expires !== undefined && { expires: record.expires }),
    ...(record.anchor_key !== undefined && { anchorKey: must(decodeKey(record.anchor_key)) }),
  }
}

const INVITE = z.strictObject({
  name: z.string().min(1),
  wg: z.boolean().optional(),
  dns: z
    .array(z.string().refine((text) => parseAddress(text).ok, 'an address'))
    .max(8)
    .optional(),
})
const REMOVE = z.strictObject({ name: z.string().min(1) })

/** Control routes of `godwit anchor invite` and `remove`. */
function hostRoutes(
  settings: () => AnchorSettings,
  own: () => Uint8Array,
  { clock, files }: Services,
  store: HostStore,
  forwards: ForwardStore,
  refresh: () => void,
): ControlRoute[] {
  return [
    postRoute('/v1/anchor/invite', INVITE, ({ body: { name, wg, dns } }) => {
      const anchor = settings()
      const { host, text } = inviteHost(anchor, own(), store, name, clock.wall(), {
        wg: wg === true,
        ...(dns && { dns }),
        ...(anchor.websocket && certificatePin(anchor.websocket, files)),
      })
      refresh()
      return { name, text, ...(host.expires === undefined ? {} : { expires: host.expires }) }
    }),
    postRoute('/v1/anchor/remove', REMOVE, ({ body }) => {
      const { name } = store.remove(body.name)
      forwards.removeHost(name)
      refresh()
      return { removed: name }
    }),
  ]
}

const PROTOCOL = z.enum(['tcp', 'udp']).optional()
const PORT = z.int().min(1).max(65535)
const FORWARD = z.strictObject({
  port: PORT,
  to: z.string(),
  protocol: PROTOCOL,
  replace: z.boolean().optional(),
})
const UNFORWARD = z.strictObject({ port: PORT, protocol: PROTOCOL })

/** Control routes of `godwit anchor forward` and `unforward`. */
function forwardRoutes(
  anchor: AnchorSettings,
  services: Services,
  hosts: HostStore,
  forwards: ForwardStore,
  refresh: () => void,
): ControlRoute[] {
  return [
    postRoute('/v1/anchor/forward', FORWARD, ({ body }) => {
      const added = addForward(anchor, services.sockets, hosts, forwards, body)
      refresh()
      return { forwards: added }
    }),
    postRoute('/v1/anchor/unforward', UNFORWARD, ({ body: { port, protocol } }) => {
      const removed = forwards.remove(port, protocol)
      refresh()
      return { removed }
    }),
  ]
}

/** Leads a port to a host; the anchor's rules follow when it runs. */
export function addForward(
  anchor: AnchorSettings,
  sockets: Pick<SocketTable, 'sockets'>,
  hosts: HostStore,
  forwards: ForwardStore,
  { port, to, protocol, replace }: z.output<typeof FORWARD>,
): readonly Forward[] {
  const { host, hostPort } = parseTarget(to, port)
  if (!hosts.list().some(({ name }) => name === host))
    throw usageError(`there is no host ${host}`, { hint: '`godwit anchor hosts` lists them' })
  const request = { port, host, hostPort, protocol }
  if (replace !== true) refuseTaken(sockets, request)
  return forwards.add(request, listenPorts(anchor))
}
