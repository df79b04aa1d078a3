/**
 * The servers of a zone in the process of its coordinator (paper §2): direction coordinator and name server, and beside them
 * those of account server, notification server, relay and cache server that do not run apart (member-servers.ts).
 * The coordinator and the relay have a thread each; messages between them pass through here.
 */
import { parseAddress, parsePrefix } from '../../core/address.ts'
import type { GodwitError } from '../../core/errors.ts'
import { signingPublicKey } from '../../crypto/keys.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { RealClock } from '../../linux/clock.ts'
import { must } from '../../mechanism/schema.ts'
import { EngineWorker } from '../../tunnel/engine/thread.ts'
import { Store } from '../store/store.ts'
import { leaseCodec } from '../wire/lease.ts'
import { AccountServer } from './account.ts'
import type { CacheServer } from './cache.ts'
import { storeDirectory } from './cache-directory.ts'
import { CacheList } from './cache-list.ts'
import { NameServer } from './dns.ts'
import type {
  CoordinatorCommand,
  CoordinatorEvent,
  CoordinatorSetup,
  RelayCommand,
  RelayEvent,
} from './protocol.ts'
import { vapidOf } from './push-settings.ts'
import { RelayPart } from './relay-part.ts'
import {
  certificateOf,
  certified,
  hostPort,
  makeCache,
  Notifications,
  type Role,
  type RoleParts,
} from './roles.ts'
import { ownMemory, roomIn } from './room.ts'
import { cachePort, keyOf, notificationPort, ownPlace, type ServerSettings, storeOf } from './settings.ts'
import { SoftBus } from './soft/bus.ts'
import { watchStore } from './store-watch.ts'
import type { ZoneData } from './zone.ts'
import { ZoneFinder } from './zone-finder.ts'

/** An idle coordinator, too, ends when another one has its database (ms). */
const LOOK_MS = 1000

const OLDER =
  'overlay.db is older than what was last assigned: a copy from before, or its log (overlay.db-wal) is gone. Devices that logged in since have to log in again; accounts made since have to be added again'

export class OverlayServers {
  readonly #init: RoleParts<ServerSettings>
  readonly #clock = new RealClock()
  readonly #times = { now: () => this.#clock.now(), wall: () => this.#clock.wall() }
  #store: Store | undefined
  #watch: NodeJS.Timeout | undefined
  #look: NodeJS.Timeout | undefined
  #coordinator: EngineWorker | undefined
  #relay: RelayPart | undefined
  #accounts: AccountServer | undefined
  #notifications: Notifications | undefined
  #cache: CacheServer | undefined
  #caches: CacheList | undefined
  #names: NameServer | undefined
  #finder: ZoneFinder | undefined
  #bus: SoftBus | undefined
  #failed: (error: GodwitError) => void = () => {}
  /** Resolves when a part has ended that cannot be started again. */
  readonly failure: Promise<GodwitError>

  constructor(init: RoleParts<ServerSettings>) {
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
    await this.#cache?.stop()
    await this.#names?.stop()
    this.#finder?.stop()
    this.#finder = undefined
    await this.#bus?.stop()
    this.#bus = undefined
    await this.#coordinator?.stop()
    await this.#relay?.stop()
    clearInterval(this.#watch)
    clearInterval(this.#look)
    this.#store?.close()
    this.#accounts = undefined
    this.#notifications = undefined
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
    const store = new Store(storeOf(settings, file))
    this.#store = store
    if (store.isOlder) log('warn', OLDER)
    this.#watch = watchStore(store, log)
    const onEnd = (error: GodwitError | undefined) => {
      if (error !== undefined) this.#failed(error)
    }
    if (roles.includes('rs')) {
      const onEvent = (event: RelayEvent) => this.#onRelay(event)
      this.#relay = await RelayPart.start({ ...settings, ...ownPlace(settings) }, { onEvent, onEnd })
    }
    this.#finder = new ZoneFinder(settings.resolvers)
    const block4 = settings.block4 === null ? undefined : must(parsePrefix(settings.block4))
    const cache = roles.includes('cs')
      ? { ...certified(settings, cachePort(settings), file), host: ownPlace(settings).host }
      : undefined
    const caches = new CacheList(cache, this.#times.now)
    this.#caches = caches
    const room = roomIn(ownMemory())
    const setup: CoordinatorSetup = {
      port: settings.port,
      store: storeOf(settings, file, true),
      init: {
        ...{ zone: settings.zone, zoneSeed, zoneKey, coordinatorKey },
        prefix6: must(parsePrefix(settings.prefix6)).address.slice(0, 8),
        ...(block4 !== undefined && { block4 }),
        relays: roles.includes('rs'),
        maxNodes: room.nodes,
        ...{ openTo: settings.open_to, loginDays: settings.login_days },
        ...(roles.includes('ns') && {
          notification: {
            ...certified(settings, notificationPort(settings), file),
            host: ownPlace(settings).host,
          },
        }),
        ...(settings.soft !== undefined && {
          fellow: settings.soft.name,
          place: {
            port: settings.port,
            addresses: settings.soft.addresses.map((text) => must(parseAddress(text))),
          },
        }),
        ...(cache !== undefined && { cache }),
      },
    }
    if (roles.includes('ns')) await this.#startNotifications()
    this.#coordinator = await EngineWorker.start(
      new URL('./coordinator-worker.js', import.meta.url),
      setup,
      {
        onEvent: (event) => this.#onCoordinator(event as CoordinatorEvent),
        onEnd,
      },
      room.heapMb,
    )
    if (settings.soft !== undefined)
      this.#bus = new SoftBus(
        { settings: settings.soft, zone: settings.zone },
        {
          onInput: (input) => this.#toCoordinator(input),
          log,
        },
      )
    if (settings.store !== undefined)
      this.#look = setInterval(() => this.#toCoordinator({ type: 'look' }), LOOK_MS).unref()
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
    if (roles.includes('cs')) {
      this.#cache = makeCache(
        this.#init,
        this.#times,
        storeDirectory(store, settings.open_to, this.#times.wall),
      )
      await this.#cache.start()
    }
    if (!roles.includes('as')) return
    this.#accounts = new AccountServer({
      ...{ store, tls: certificateOf(settings, file), port: settings.port, zone: settings.zone, zoneKey },
      coordinator: hostPort(settings),
      pushKey: Buffer.from(vapidOf(settings, undefined).point).toString('base64url'),
      caches: () => caches.all,
      ...{ loginDays: settings.login_days, ...this.#times },
      onLogin: (name) => {
        log('info', `${name} logged in`)
        this.#toCoordinator({ type: 'forget', name })
      },
      log: (message) => log('error', message),
    })
    await this.#accounts.start()
  }

  async #startNotifications(): Promise<void> {
    this.#notifications = new Notifications(this.#init, this.#times, {
      onConnection: (name, token, isConnected) =>
        this.#toCoordinator({ type: 'notified', name, token, isConnected }),
      onGone: (name, address) => this.#toCoordinator({ type: 'push-gone', name, address }),
    })
    await this.#notifications.start()
  }

  #onCoordinator(event: CoordinatorEvent): void {
    switch (event.type) {
      case 'notification-prepare': {
        const { id, name, token } = event
        const isReady = this.#notifications?.server.prepare(name, token) ?? false
        this.#toCoordinator({ type: 'notification-prepare-ack', id, isReady })
        break
      }
      case 'notification': {
        const { name, datagram, push } = event
        this.#notifications?.notify(name, datagram, push)
        break
      }
      case 'notification-end':
        this.#notifications?.server.end(event.name, event.token)
        break
      case 'relay-order':
        this.#toRelay(event)
        break
      case 'cache-server':
        this.#caches?.heard(event.at)
        break
      case 'find-zone':
        void this.#find(event.zone)
        break
      case 'soft-listen':
      case 'soft-tell':
      case 'soft-put':
      case 'soft-get':
        this.#bus?.post(event)
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

/** Roles of this zone that a server apart has. */
export function rolesElsewhere(settings: ServerSettings, file: (name: string) => string): ReadonlySet<Role> {
  const store = new Store(storeOf(settings, file))
  try {
    return new Set(store.servers().flatMap(({ roles }) => [...roles]))
  } finally {
    store.close()
  }
}
