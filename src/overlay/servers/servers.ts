/**
 * The servers of a zone in one process (paper §2): account server, direction coordinator with its name server, and relay.
 * The coordinator and the relay have a thread each; messages between them pass through here.
 */
import { X509Certificate } from 'node:crypto'
import { parseAddress, parsePrefix } from '../../core/address.ts'
import type { GodwitError } from '../../core/errors.ts'
import { signingPublicKey } from '../../crypto/keys.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { RealClock } from '../../linux/clock.ts'
import { ensureCertificate, readCertificate } from '../../mechanism/certificate.ts'
import { must } from '../../mechanism/schema.ts'
import { pinOf } from '../../tunnel/carrier/client.ts'
import { EngineWorker } from '../../tunnel/engine/worker.ts'
import type { PushSender } from '../push/sender.ts'
import { Store } from '../store/store.ts'
import { leaseCodec } from '../wire/lease.ts'
import { AccountServer } from './account.ts'
import { CacheServer } from './cache.ts'
import { CacheStore, limitsFor } from './cache-store.ts'
import { NameServer } from './dns.ts'
import { NotificationServer } from './notification.ts'
import type {
  CoordinatorCommand,
  CoordinatorEvent,
  CoordinatorSetup,
  RelayCommand,
  RelayEvent,
} from './protocol.ts'
import { PUSH_FILE, pushSender, vapidOf } from './push-settings.ts'
import { RelayPart } from './relay-part.ts'
import {
  CACHE_FOLDER,
  CERTIFICATE_FILES,
  cachePort,
  DATABASE_FILE,
  keyOf,
  notificationPort,
  type ServerSettings,
} from './settings.ts'
import type { ZoneData } from './zone.ts'
import { ZoneFinder } from './zone-finder.ts'

export type Role = 'as' | 'dc' | 'ns' | 'rs' | 'cs'
export const ROLES: readonly Role[] = ['as', 'dc', 'ns', 'rs', 'cs']

export interface ServersInit {
  readonly settings: ServerSettings
  readonly roles: readonly Role[]
  /** A file of the state. */
  readonly file: (name: string) => string
  readonly log: (level: 'error' | 'warn' | 'info', message: string) => void
}

export class OverlayServers {
  readonly #init: ServersInit
  readonly #clock = new RealClock()
  #store: Store | undefined
  #coordinator: EngineWorker | undefined
  #relay: RelayPart | undefined
  #accounts: AccountServer | undefined
  #notifications: NotificationServer | undefined
  #push: PushSender | undefined
  #cache: CacheServer | undefined
  #names: NameServer | undefined
  #finder: ZoneFinder | undefined
  #failed: (error: GodwitError) => void = () => {}
  /** Resolves when a part has ended that cannot be started again. */
  readonly failure: Promise<GodwitError>

  constructor(init: ServersInit) {
    this.#init = init
    this.failure = new Promise((resolve) => {
      this.#failed = resolve
    })
  }

  /** Resolves once nodes can log in and register. Rejects after undoing what it had begun. */
  async start(): Promise<void> {
    try {
      await this.#start()
    } catch (error) {
      await this.stop()
      throw error
    }
  }

  async stop(): Promise<void> {
    await this.#accounts?.stop()
    await this.#notifications?.stop()
    this.#push?.close()
    await this.#cache?.stop()
    await this.#names?.stop()
    this.#finder?.stop()
    this.#finder = undefined
    await this.#coordinator?.stop()
    await this.#relay?.stop()
    this.#store?.close()
    this.#accounts = undefined
    this.#notifications = undefined
    this.#push = undefined
    this.#cache = undefined
    this.#names = undefined
    this.#coordinator = undefined
    this.#relay = undefined
    this.#store = undefined
  }

  async #start(): Promise<void> {
    const { settings, roles, file, log } = this.#init
    const zoneSeed = keyOf(settings.zone_seed)
    const zoneKey = signingPublicKey(zoneSeed)
    const coordinatorKey = keyOf(settings.coordinator_key)
    const store = new Store({ file: file(DATABASE_FILE) })
    this.#store = store
    const onEnd = (error: GodwitError | undefined) => {
      if (error !== undefined) this.#failed(error)
    }
    if (roles.includes('rs')) {
      const onEvent = (event: RelayEvent) => this.#onRelay(event)
      this.#relay = await RelayPart.start(settings, { onEvent, onEnd })
    }
    this.#finder = new ZoneFinder(settings.resolvers)
    const block4 = settings.block4 === null ? undefined : must(parsePrefix(settings.block4))
    const setup: CoordinatorSetup = {
      port: settings.port,
      database: file(DATABASE_FILE),
      init: {
        ...{ zone: settings.zone, zoneSeed, zoneKey, coordinatorKey },
        prefix6: must(parsePrefix(settings.prefix6)).address.slice(0, 8),
        ...(block4 !== undefined && { block4 }),
        relays: roles.includes('rs'),
        openTo: settings.open_to,
        ...(roles.includes('ns') && {
          notification: {
            ...{ host: settings.host, port: notificationPort(settings) },
            certificate: new Uint8Array(Buffer.from(certificatePin(settings, file), 'base64')),
          },
        }),
      },
    }
    if (roles.includes('ns')) await this.#startNotifications()
    this.#coordinator = await EngineWorker.start(new URL('./coordinator-worker.js', import.meta.url), setup, {
      onEvent: (event) => this.#onCoordinator(event as CoordinatorEvent),
      onEnd,
    })
    if (settings.dns_port !== 0) {
      const data: ZoneData = {
        zone: settings.zone,
        addresses: settings.addresses.map((text) => must(parseAddress(text))),
        port: settings.port,
        coordinatorKey: nodeCrypto.publicKey(coordinatorKey),
        zoneKey,
        serial: Math.floor(this.#clock.wall() / 1000),
        nodeOf: (name) => {
          store.refresh()
          return virtualAddresses(store, name)
        },
      }
      this.#names = new NameServer(
        settings.dns_port,
        () => data,
        (error) => log('error', `name server: ${(error as Error).message}`),
      )
      await this.#names.start()
    }
    const tls = certificateOf(settings, file)
    if (roles.includes('cs')) {
      const objects = new CacheStore(file(CACHE_FOLDER), limitsFor(settings.cache_bytes), () =>
        this.#clock.wall(),
      )
      this.#cache = new CacheServer({
        ...{ store, objects, tls, port: cachePort(settings), openTo: settings.open_to },
        ...{ now: () => this.#clock.now(), wall: () => this.#clock.wall() },
        log: (message) => log('error', message),
      })
      await this.#cache.start()
    }
    if (!roles.includes('as')) return
    this.#accounts = new AccountServer({
      ...{ store, tls, port: settings.port, zone: settings.zone, zoneKey },
      coordinator: hostPort(settings),
      pushKey: Buffer.from(vapidOf(settings, undefined).point).toString('base64url'),
      ...(roles.includes('cs') && {
        cache: {
          ...{ host: settings.host, port: cachePort(settings) },
          certificate: certificatePin(settings, file),
        },
      }),
      ...{ loginDays: settings.login_days, wall: () => this.#clock.wall() },
      onLogin: (name) => {
        log('info', `${name} logged in`)
        this.#toCoordinator({ type: 'forget', name })
      },
      now: () => this.#clock.now(),
      log: (message) => log('error', message),
    })
    await this.#accounts.start()
  }

  async #startNotifications(): Promise<void> {
    const { settings, file, log } = this.#init
    this.#notifications = new NotificationServer({
      ...{ tls: certificateOf(settings, file), port: notificationPort(settings) },
      now: () => this.#clock.now(),
      onConnection: (name, token, isConnected) =>
        this.#toCoordinator({ type: 'notified', name, token, isConnected }),
    })
    await this.#notifications.start()
    this.#push = pushSender(file(PUSH_FILE), settings, {
      now: () => this.#clock.now(),
      wall: () => this.#clock.wall(),
      log: (message) => log('warn', message),
      onGone: (name, address) => this.#toCoordinator({ type: 'push-gone', name, address }),
    })
  }

  #onCoordinator(event: CoordinatorEvent): void {
    switch (event.type) {
      case 'notification-prepare': {
        const { id, name, token } = event
        const isReady = this.#notifications?.prepare(name, token) ?? false
        this.#toCoordinator({ type: 'notification-prepare-ack', id, isReady })
        break
      }
      case 'notification': {
        const { name, datagram, push } = event
        if (this.#notifications?.notify(name, datagram) !== true && push !== undefined)
          void this.#push?.send({ name, datagram, ...push })
        break
      }
      case 'notification-end':
        this.#notifications?.end(event.name)
        break
      case 'relay-order':
        this.#toRelay(event)
        break
      case 'find-zone':
        void this.#find(event.zone)
        break
      case 'log':
        this.#init.log(event.level, event.message)
        break
      default:
    }
  }

  async #find(zone: string): Promise<void> {
    this.#toCoordinator({ type: 'zone', zone, found: await this.#finder?.find(zone) })
  }

  #onRelay(event: RelayEvent): void {
    if (event.type === 'relay-ack' || event.type === 'relay-load') this.#toCoordinator(event)
    else if (event.type === 'log') this.#init.log(event.level, event.message)
  }

  #toCoordinator(command: CoordinatorCommand): void {
    this.#coordinator?.post(command)
  }

  #toRelay(command: RelayCommand): void {
    this.#relay?.post(command)
  }
}

/** Virtual addresses in the node's last lease. */
export function virtualAddresses(store: Store, name: string): readonly Uint8Array[] | undefined {
  const node = store.nodeByName(name)
  if (node === undefined) return undefined
  const lease = node.lease && leaseCodec.decode(node.lease)
  if (lease?.ok !== true) return []
  const { v6, v4 } = lease.value
  return v4 === undefined ? [v6] : [v6, v4]
}

export function hostPort({ host, port }: Pick<ServerSettings, 'host' | 'port'>): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function certificateOf(settings: ServerSettings, file: (name: string) => string) {
  const cert = file(CERTIFICATE_FILES.cert)
  const key = file(CERTIFICATE_FILES.key)
  ensureCertificate(cert, key, settings.host)
  return readCertificate(cert, key, 'certificate of the account server')
}

/** The pin for nodes (`--pin`): SHA-256 of the certificate, base64. Creates the certificate if there is none. */
export function certificatePin(settings: ServerSettings, file: (name: string) => string): string {
  return pinOf(new X509Certificate(certificateOf(settings, file).cert).raw)
}
