/** A node of the overlay as the daemon composes it. */
import { SystemServers } from '../access/names/index.ts'
import { GodwitError } from '../core/errors.ts'
import { DEVICES } from '../linux/ledger.ts'
import { SystemDns } from '../linux/system-dns.ts'
import type { ConfigWith, MechanismDescriptor } from '../mechanism/descriptor.ts'
import { NETWORK_ADMIN, OPENSSL, TUN, UDP_BATCHES, WAY_OUT } from '../mechanism/needs.ts'
import { must, parseHostPort } from '../mechanism/schema.ts'
import type { Services } from '../mechanism/services.ts'
import { overlaySections } from './config.ts'
import { zoneOf } from './machine/names.ts'
import {
  credentialsOf,
  keepLogin,
  keyIn,
  LEASE_FILE,
  LOGIN_FILE,
  type Login,
  PAIRS_FILE,
  PEERS_FILE,
  readLease,
  readLogin,
  readPairs,
  readPeers,
  writeLease,
  writePairs,
  writePeers,
} from './node/login.ts'
import { renewLogin } from './node/login-client.ts'
import { NodeNames } from './node/names.ts'
import { NodePlumbing } from './node/plumbing.ts'
import { openPush, PUSH_KEYS_FILE, pushKeys, registeredPush } from './node/push.ts'
import { Renewal } from './node/renewal.ts'
import { ResolvConf } from './node/resolv-conf.ts'
import { NodeService } from './node/service.ts'

const LOG_IN = 'log in first: godwit overlay login ACCOUNT --server URL'
const NO_KEY = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='
/** In the place of a login: what is composed with it only cleans up. */
const NOBODY: Login = {
  version: 1,
  name: 'nobody.invalid',
  key_id: 'AAAAAAAAAAAAAAAAAAAAAA==',
  key: NO_KEY,
  coordinator: 'invalid:1',
  zone_key: NO_KEY,
  private_key: NO_KEY,
  server: '',
  account: '',
  expires: null,
  renewed: 0,
}

type OverlayConfig = ConfigWith<typeof overlaySections>

export const overlayDescriptor: MechanismDescriptor<typeof overlaySections> = {
  name: 'overlay',
  role: 'overlay',
  begin: LOG_IN,
  summary: 'A node of an overlay: reached by its name behind any NAT, over end-to-end tunnels.',
  sections: overlaySections,
  claims: () => false,
  runsBeside: ({ overlay }) => overlay !== undefined,
  describe: () => 'a node',
  accesses: ({ overlay }) => overlay?.accesses.filter((each) => each !== '*') ?? [],
  devices: () => [DEVICES.node],
  refusal: ({ overlay }, { file }) =>
    overlay !== undefined
      ? undefined
      : new GodwitError('NOT_LOGGED_IN', `${file} has no [overlay]`, { kind: 'usage', hint: LOG_IN }),
  compose: composeNode,
  needs: [NETWORK_ADMIN, TUN, UDP_BATCHES, WAY_OUT, OPENSSL],
}

function notLoggedIn(file: string): GodwitError {
  return new GodwitError('NOT_LOGGED_IN', `there is no ${file}`, { kind: 'usage', hint: LOG_IN })
}

function composeNode(config: OverlayConfig, services: Services): NodeService {
  const { ledger, recorder, files, clock } = services
  const known = readLogin(files.file(LOGIN_FILE))
  const login = known ?? NOBODY
  const device = DEVICES.node
  const credentials = credentialsOf(login)
  const keys = () => pushKeys(files.file(PUSH_KEYS_FILE))
  const lease = readLease(files.file(LEASE_FILE))
  const onLost = (message: string) => recorder.log('warn', message)
  return new NodeService(
    {
      monitor: services.accesses,
      plumbing: new NodePlumbing(services.rtnl, services.sysctls('overlay'), {
        device,
        ledger,
        report: onLost,
      }),
      localNames: ({ lookup }) =>
        new NodeNames(
          {
            ...{ lookup, recorder },
            servers: new SystemServers(),
            system: new SystemDns(device),
            file: new ResolvConf(ledger.alias),
          },
          {
            keeper: config.overlay?.dns ?? 'auto',
            zones: [zoneOf(login.name), ...(config.overlay?.zones ?? [])],
          },
        ),
      protect: (guarded) => services.guard.protect(guarded),
      recorder,
      wall: () => clock.wall(),
      now: () => clock.now(),
      endpoints: services.endpoints,
      names: services.names,
      timestamp: services.timestamp,
      sockets: services.sockets,
      owners: services.owners,
      keepLease: (bytes) => writeLease(files.file(LEASE_FILE), bytes),
      ...(known !== undefined && {
        renewal: (report) =>
          new Renewal({
            ...{ login: known, wall: () => clock.wall(), report },
            renew: renewLogin,
            save: (login) => keepLogin(files.file(LOGIN_FILE), login),
          }),
      }),
      openPush: (message) => openPush(message, keys),
      keepPeers: (peers) => writePeers(files.file(PEERS_FILE), peers),
      keepPairs: (pairs) => writePairs(files.file(PAIRS_FILE), pairs),
    },
    {
      device,
      privateKey: keyIn(login.private_key),
      credentials,
      coordinator: must(parseHostPort(login.coordinator)),
      known: readPeers(files.file(PEERS_FILE), onLost),
      kept: readPairs(files.file(PAIRS_FILE), onLost),
      mark: ledger.overlay.mark,
      accesses: config.overlay?.accesses ?? ['*'],
      ...(config.overlay?.notifications === true && {
        notifications: {
          keepAliveMs: 1000 * config.overlay.notification_keep_alive,
          ...(config.overlay.push !== undefined && { push: registeredPush(config.overlay.push, keys) }),
        },
      }),
      ...(known === undefined && { missing: notLoggedIn(files.file(LOGIN_FILE)) }),
      ...(lease !== undefined && { lease }),
      ...(config.interface.mtu !== undefined && { mtu: config.interface.mtu }),
    },
  )
}
