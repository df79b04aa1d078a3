/**
 * Servers of a zone in a process without its coordinators, with any of the other roles. They know the coordinators by addresses
 * and a key of this process (coordinator-link.ts); no key of the zone and no store of the coordinator is here. What the
 * account server knows of accounts is in a store of its own.
 */
import { toHex } from '../../core/bytes.ts'
import type { GodwitError } from '../../core/errors.ts'
import { RealClock } from '../../linux/clock.ts'
import { Store } from '../store/store.ts'
import {
  type Measured,
  type Message,
  type RelayLoad,
  type ServerRole,
  Status,
  Type,
  Want,
} from '../wire/message.ts'
import { AccountServer } from './account.ts'
import type { CacheServer } from './cache.ts'
import { remoteDirectory } from './cache-directory.ts'
import { CacheList } from './cache-list.ts'
import { ConnectionReports, routeReport } from './connection-reports.ts'
import { CoordinatorLink } from './coordinator-link.ts'
import { Distribution } from './distribution.ts'
import type { RelayEvent } from './protocol.ts'
import { RelayPart } from './relay-part.ts'
import { certificateOf, certified, hostPort, makeCache, Notifications, type RoleParts } from './roles.ts'
import { cachePort, keyOf, type MemberSettings, notificationPort, storeOf } from './settings.ts'
import { watchStore } from './store-watch.ts'

type Answer = (fields: Partial<Message>) => void

/** How long the coordinator has for an answer (ms). */
const ANSWER_MS = 5000
/** Round trips that wait to be reported. */
const MAX_MEASURED = 16
/** Connections that the coordinator is told of at a time. */
const TOLD_AT_ONCE = 64
/** Orders that the relay has not answered; it answers at once. */
const MAX_ORDERS = 10_000

export class MemberServers {
  readonly #init: RoleParts<MemberSettings>
  readonly #clock = new RealClock()
  readonly #times = { now: () => this.#clock.now(), wall: () => this.#clock.wall() }
  readonly #link: CoordinatorLink
  #relay: RelayPart | undefined
  #load: RelayLoad | undefined
  /** For each coordinator. */
  readonly #measured = new Map<string, Measured[]>()
  #where: Partial<Message> = {}
  /** Orders of the coordinator that the relay has not answered. */
  readonly #orders = new Map<number, Answer>()
  #order = 0
  #notifications: Notifications | undefined
  readonly #reports = new ConnectionReports({
    tokenOf: (name) => this.#notifications?.server.tokenOf(name),
    tell: (nodeName, token, status) => this.#report(nodeName, token, status),
  })
  /** Connections that their coordinator, or another one in its place, may not know of. */
  #hasUntold = false
  /** Coordinators that have answered, and are not lost. */
  readonly #known = new Set<string>()
  #cache: CacheServer | undefined
  #caches: CacheList | undefined
  #store: Store | undefined
  #watch: NodeJS.Timeout | undefined
  #accounts: AccountServer | undefined
  #distribution: Distribution | undefined
  #failed: (error: GodwitError) => void = () => {}
  /** Resolves when a part has ended that cannot be started again. */
  readonly failure: Promise<GodwitError>

  constructor(init: RoleParts<MemberSettings>) {
    this.#init = init
    this.failure = new Promise((resolve) => {
      this.#failed = resolve
    })
    this.#link = new CoordinatorLink(init.settings, {
      describe: (coordinator) => this.#describe(coordinator),
      onRegistered: (coordinator, { cacheServer }, isFresh) => {
        if (cacheServer !== undefined) this.#caches?.heard(cacheServer)
        if (isFresh || this.#hasUntold) void this.#tellConnected()
        if (isFresh) void this.#distribution?.publish()
        this.#known.add(coordinator)
      },
      onLost: (coordinator) => {
        this.#measured.delete(coordinator)
        // Its nodes can be woken by another one.
        if (this.#known.delete(coordinator)) void this.#tellConnected()
      },
      onRequest: (coordinator, message, answer) => this.#asked(coordinator, message, answer),
      log: init.log,
    })
  }

  /** Resolves once the coordinator knows this process. Rejects after undoing what it had begun. */
  async start(): Promise<void> {
    try {
      await this.#start()
    } catch (error) {
      await this.stop()
      throw error
    }
    await this.#link.registered
  }

  async stop(): Promise<void> {
    await this.#accounts?.stop()
    await this.#distribution?.stop()
    await this.#notifications?.stop()
    await this.#cache?.stop()
    await this.#relay?.stop()
    await this.#link.stop()
    clearInterval(this.#watch)
    this.#store?.close()
    this.#accounts = undefined
    this.#distribution = undefined
    this.#notifications = undefined
    this.#cache = undefined
    this.#relay = undefined
    this.#store = undefined
  }

  async #start(): Promise<void> {
    const { settings, roles } = this.#init
    if (roles.includes('rs'))
      this.#relay = await RelayPart.start(settings, {
        onEvent: (event) => this.#onRelay(event),
        onEnd: (error) => {
          if (error !== undefined) this.#failed(error)
        },
      })
    if (roles.includes('ns')) {
      this.#notifications = new Notifications(this.#init, this.#times, {
        onConnection: (name, token) => void this.#noted(this.#reports.changed(name, token)),
        onGone: (name, push) => void this.#ask({ type: Type.PUSH_GONE, nodeName: name, push }),
      })
      await this.#notifications.start()
    }
    if (roles.includes('cs')) {
      this.#cache = makeCache(
        this.#init,
        this.#times,
        // A login, or a lease, of just now may not have come to all of them.
        remoteDirectory((message) => this.#ask(message, ({ status }) => status !== Status.UNKNOWN_NAME)),
      )
      await this.#cache.start()
    }
    if (roles.includes('as')) await this.#startAccounts()
    this.#where = this.#locate()
    await this.#link.start(roles as readonly ServerRole[])
  }

  async #startAccounts(): Promise<void> {
    const { settings, roles, file, log } = this.#init
    const store = new Store(storeOf(settings, file))
    this.#store = store
    this.#watch = watchStore(store, log)
    store.tellsAs(keyOf(settings.server_key))
    store.commit()
    const own = roles.includes('cs') ? certified(settings, cachePort(settings), file) : undefined
    const caches = new CacheList(own, this.#times.now)
    this.#caches = caches
    const distribution = new Distribution({
      store,
      ask: (message, ms) => this.#link.request(message, ms),
      log: (message) => log('warn', message),
    })
    this.#distribution = distribution
    this.#accounts = new AccountServer({
      ...{ store, tls: certificateOf(settings, file), port: settings.port, zone: settings.zone },
      ...{ zoneKey: keyOf(settings.zone_key), coordinator: hostPort(settings.coordinator) },
      ...{ pushKey: settings.push_key, loginDays: settings.login_days, ...this.#times },
      caches: () => caches.all,
      onLogin: (name) => log('info', `${name} logged in`),
      published: () => distribution.publish(),
      log: (message) => log('error', message),
    })
    await this.#accounts.start()
  }

  #ask(
    message: Omit<Message, 'transaction'>,
    good?: (answer: Message) => boolean,
  ): Promise<Message | undefined> {
    return this.#link.request(message, ANSWER_MS, good)
  }

  /** What the registration says beside name and roles. */
  #describe(coordinator: string): Partial<Message> {
    if (this.#load === undefined) return this.#where
    const measured = this.#measured.get(coordinator)?.splice(0, MAX_MEASURED) ?? []
    return { ...this.#where, load: { ...this.#load, rtt: this.#link.rttOf(coordinator) }, measured }
  }

  /** Where nodes reach the servers here. */
  #locate(): Partial<Message> {
    const { settings, roles, file } = this.#init
    const fields: Partial<Message>[] = []
    if (roles.includes('ns')) {
      const { host, port, certificate } = certified(settings, notificationPort(settings), file)
      fields.push({ notificationServer: { host, port }, certificate })
    }
    if (roles.includes('cs')) fields.push({ cacheServer: certified(settings, cachePort(settings), file) })
    return Object.assign({}, ...fields)
  }

  #asked(coordinator: string, message: Message, answer: Answer): void {
    const { type, nodeName, token, datagram, push, account } = message
    const notifications = this.#notifications
    if (type === Type.RELAY_ORDER && this.#relay !== undefined) this.#orderRelay(message, answer)
    else if (notifications === undefined || nodeName === undefined) answer({ status: Status.NOT_ALLOWED })
    else if (type === Type.NOTIFICATION_PREPARE && token !== undefined)
      answer({
        status: notifications.server.prepare(nodeName, token, coordinator) ? Status.DONE : Status.TOO_MANY,
      })
    else if (type === Type.NOTIFICATION) {
      const by = push === undefined || account === undefined ? undefined : { address: push, account }
      notifications.notify(nodeName, datagram ?? new Uint8Array(0), by)
      answer({})
    } else if (type === Type.NOTIFICATION_END) {
      notifications.server.end(nodeName, token)
      answer({})
    } else answer({ status: Status.NOT_ALLOWED })
  }

  // ---- relay

  #orderRelay({ pair, account = '', want, sides }: Message, answer: Answer): void {
    const [first, second] = sides ?? []
    if (
      pair === undefined ||
      first === undefined ||
      second === undefined ||
      this.#orders.size >= MAX_ORDERS
    ) {
      answer({ status: Status.NO_RELAY })
      return
    }
    const id = this.#order++
    this.#orders.set(id, answer)
    this.#relay?.post({
      ...{ type: 'relay-order', id, pair: toHex(pair), account, sides: [first, second] },
      ...{ another: want === Want.ANOTHER_CHANNEL, binds: want === Want.BIND },
    })
  }

  #onRelay(event: RelayEvent): void {
    switch (event.type) {
      case 'relay-ack': {
        const answer = this.#orders.get(event.id)
        this.#orders.delete(event.id)
        answer?.(event.sides === undefined ? { status: Status.NO_RELAY } : { relays: event.sides })
        break
      }
      case 'relay-load':
        this.#load = event.load
        for (const each of this.#known)
          this.#measured.set(
            each,
            [...event.measured, ...(this.#measured.get(each) ?? [])].slice(0, 4 * MAX_MEASURED),
          )
        break
      case 'log':
        this.#init.log(event.level, event.message)
        break
      default:
    }
  }

  // ---- notifications

  async #report(nodeName: string, token: Uint8Array, connection: number): Promise<boolean> {
    const owner = this.#notifications?.server.ownerOf(nodeName)
    const { to, status } = routeReport(owner, this.#link.coordinators, connection)
    const message = { type: Type.NOTIFICATION_STATE, nodeName, token, status }
    const all = await Promise.all(to.map((each) => this.#link.requestOf(each, message, ANSWER_MS)))
    return all.some((answer) => answer !== undefined)
  }

  /** A coordinator does not know who is connected. */
  async #tellConnected(): Promise<void> {
    this.#hasUntold = false
    const all = this.#notifications?.server.connections() ?? []
    for (let i = 0; i < all.length && !this.#hasUntold; i += TOLD_AT_ONCE)
      await Promise.all(
        all.slice(i, i + TOLD_AT_ONCE).map(({ name, token }) => this.#noted(this.#reports.was(name, token))),
      )
  }

  async #noted(told: Promise<boolean>): Promise<void> {
    if (!(await told)) this.#hasUntold = true
  }
}
