/**
 * What the coordinator does for and with the servers of its zone that run apart (site.ts): relays are chosen among, the
 * notification server is asked to notify, the account server says who its nodes are (NT-13; Fig. 4 steps 6, 7), and the cache server asks
 * who may send to whom. Each may do what its role needs, and nothing else. Sans-I/O.
 */
import { equal, fromHex, toHex } from '../../core/bytes.ts'
import { hasEnded } from '../tables.ts'
import {
  type CertifiedServer,
  Connection,
  type CoordinatorAt,
  type Message,
  type ServerRole,
  Status,
  Type,
} from '../wire/message.ts'
import { mayAsk, type OpenTo } from './access.ts'
import type { MachineComponents } from './api.ts'
import type { Directory } from './directory.ts'
import { mayBeNode } from './names.ts'
import type { NotificationAt, Notifier, NotifierOutput } from './notifier.ts'
import type { Relays } from './relays.ts'
import { cacheProof } from './secrets.ts'
import { Site, type SiteParts, type SiteServer } from './site.ts'

export interface ApartInit {
  readonly zone: string
  readonly openTo: OpenTo
  /** Longest that a login of the account server apart is good for (days); 0: for good. */
  readonly loginDays?: number
  /** In the coordinator's process; else those apart are used. */
  readonly notification?: NotificationAt
  readonly cache?: CertifiedServer
}

export interface ApartParts extends Pick<SiteParts, 'number' | 'boot' | 'seal' | 'send' | 'drop'> {
  readonly init: ApartInit
  readonly directory: Directory
  readonly relays: Relays
  readonly notifier: () => Notifier
  /** Ends what the node could do with its login. */
  readonly forget: (name: string) => void
  /** Pairs that have lost a relay, as they were ordered. */
  readonly onBereft: (pairs: readonly unknown[], now: number) => void
  /** For the notification server in this process. */
  readonly emit: (output: NotifierOutput) => void
  /** Where a cache server is, whenever it says so. */
  readonly onCache: (at: CertifiedServer) => void
  /** Of the zone, where it has several: this one first. */
  readonly coordinators: () => readonly CoordinatorAt[]
  readonly log: (level: 'info' | 'warn', message: string) => void
  readonly wall: () => number
  readonly crypto: MachineComponents['crypto']
}

/** How long the notification server is told to notify a node, or asked whether it may (ms). */
const NOTIFY_MS = 3000
const PREPARE_MS = 900
const NEVER = Number.POSITIVE_INFINITY

export class Apart {
  readonly site: Site
  readonly #parts: ApartParts
  /** Which notification server there was last, and which start of it. */
  #notificationBoot = ''
  /** Of account servers. */
  #welcomes = 0

  constructor(parts: ApartParts) {
    this.#parts = parts
    this.site = new Site({
      ...parts,
      onRegistered: (server, isFresh, before, now) => this.#registered(server, isFresh, before, now),
      onGone: (server, now) => this.#gone(server, now),
      onRequest: ({ name, roles }, message, reply) => {
        const { transaction } = message
        reply({
          status: Status.DONE,
          ...this.#answer(name, roles, message),
          type: (message.type + 1) as Type,
          transaction,
        })
      },
      welcome: ({ roles }) => this.#welcome(roles),
    })
  }

  /** Where nodes connect for notifications. */
  get notification(): NotificationAt | undefined {
    return this.#parts.init.notification ?? this.#notification?.at
  }

  /** To the notification server in this process, or to the one apart. */
  notify(output: NotifierOutput, now: number): void {
    const server = this.#notification?.name
    if (this.#parts.init.notification !== undefined || server === undefined) {
      this.#parts.emit(output)
      return
    }
    const nodeName = output.name
    if (output.type === 'notification-prepare') {
      const message = { type: Type.NOTIFICATION_PREPARE, nodeName, token: output.token }
      const done = (answer: Message | undefined, at: number) =>
        this.#parts.notifier().prepared(output.id, answer?.status === Status.DONE, at)
      this.site.request(server, message, PREPARE_MS, done, now)
    } else if (output.type === 'notification') {
      const { datagram, push } = output
      const message = {
        ...{ type: Type.NOTIFICATION, nodeName },
        ...(datagram.length > 0 && { datagram }),
        ...(push !== undefined && { push: push.address, account: push.account }),
      }
      this.site.request(server, message, NOTIFY_MS, () => {}, now)
    } else {
      // A token: another coordinator may have given the node another one since.
      const { token } = output
      const message = { type: Type.NOTIFICATION_END, nodeName, ...(token !== undefined && { token }) }
      this.site.request(server, message, NOTIFY_MS, () => {}, now)
    }
  }

  /** The first, if there are several. */
  get #notification(): { readonly name: string; readonly at: NotificationAt } | undefined {
    for (const { name, registration } of this.site.servers('ns')) {
      const { notificationServer, certificate } = registration
      if (notificationServer !== undefined && certificate !== undefined)
        return { name, at: { ...notificationServer, certificate } }
    }
    return undefined
  }

  #registered(
    { name, roles, registration }: SiteServer,
    isFresh: boolean,
    before: SiteServer | undefined,
    now: number,
  ): void {
    const { relays, notifier, log } = this.#parts
    if (isFresh) log('info', `server ${name} is there (${[...roles].join()})`)
    const boot = `${name} ${toHex(registration.boot ?? new Uint8Array(0))}`
    if (roles.has('ns') && this.#notification?.name === name && boot !== this.#notificationBoot) {
      // Connections to the process before it have ended.
      notifier().allEnded()
      this.#notificationBoot = boot
    }
    if (roles.has('cs') && registration.cacheServer !== undefined)
      this.#parts.onCache(registration.cacheServer)
    if (isFresh && (before?.roles.has('rs') === true || roles.has('rs'))) this.#bereave(name, now)
    if (!roles.has('rs')) return
    relays.up(name, registration.load, now)
    relays.measured(name, registration.measured ?? [], now)
  }

  #gone({ name, roles }: SiteServer, now: number): void {
    this.#parts.log('warn', `server ${name} does not answer`)
    if (roles.has('rs')) this.#bereave(name, now)
  }

  #bereave(relay: string, now: number): void {
    const pairs = this.#parts.relays.down(relay, now)
    if (pairs.length > 0) this.#parts.onBereft(pairs, now)
  }

  /** The account server tells nodes where cache servers are: it hears of one in each answer, in turn. */
  #welcome(roles: ReadonlySet<ServerRole>): Partial<Message> {
    const all = this.#parts.coordinators()
    const coordinators = all.length === 0 ? {} : { coordinators: all }
    if (!roles.has('as')) return coordinators
    const apart = [...this.site.servers('cs')].map(({ registration }) => registration.cacheServer)
    const caches = [this.#parts.init.cache, ...apart].filter((each) => each !== undefined)
    const cacheServer = caches[this.#welcomes++ % caches.length]
    return { ...coordinators, ...(cacheServer !== undefined && { cacheServer }) }
  }

  #answer(server: string, roles: ReadonlySet<ServerRole>, message: Message): Partial<Message> {
    const { type, nodeName, token, push } = message
    if (type === Type.KEY_DISTRIBUTION && roles.has('as'))
      return { status: this.#distribute(server, message) }
    if (type === Type.NODE_REQUEST && roles.has('cs')) return this.#nodeFor(message)
    if (!roles.has('ns') || nodeName === undefined) return { status: Status.NOT_ALLOWED }
    const notifier = this.#parts.notifier()
    if (type === Type.NOTIFICATION_STATE && token !== undefined) {
      if (message.status === Connection.BEFORE) notifier.found(nodeName, token)
      else notifier.connected(nodeName, token, message.status === Connection.NOW)
      return {}
    }
    if (type !== Type.PUSH_GONE || push === undefined) return { status: Status.NOT_ALLOWED }
    notifier.pushGone(nodeName, push)
    return {}
  }

  /**
   * A login or its prolongation; without a key, the end of a node; without a name, of all that were not named since SEQ. What is
   * older than what is known of the node was held back on its way, and changes nothing.
   */
  #distribute(server: string, message: Message): Status {
    const { nodeName: name, account, accountId, publicKey, keyId, key, seq } = message
    const { directory, forget, init } = this.#parts
    const record = directory.serverByName(server)
    if (record === undefined || seq === undefined || !Number.isSafeInteger(seq)) return Status.NOT_ALLOWED
    const by = { key: record.key, seq }
    if (name === undefined) {
      if (key !== undefined) return Status.NOT_ALLOWED
      for (const each of directory.removeUnnamed(by)) forget(each)
      return Status.DONE
    }
    if (!name.endsWith(`.${init.zone}`)) return Status.NOT_ALLOWED
    const before = directory.nodeByName(name)
    if (key === undefined) {
      if (directory.removeNode(name, by) && before !== undefined) forget(name)
      return Status.DONE
    }
    if (!mayBeNode(name, init.zone)) return Status.NOT_ALLOWED
    if (account === undefined || accountId === undefined || publicKey === undefined || keyId === undefined)
      return Status.NOT_ALLOWED
    const node = { name, account, accountId: toHex(accountId), publicKey, keyId, key }
    const expires = this.#capped(message.expires)
    const isNews = directory.distribute({ ...node, ...(expires !== undefined && { expires }) }, by)
    if (isNews && (before === undefined || !equal(before.key, key))) forget(name)
    return Status.DONE
  }

  /** Seconds since 1970: no login is good for longer than the zone says. */
  #capped(expires: number | undefined): number | undefined {
    const { init, wall } = this.#parts
    const { loginDays = 0 } = init
    if (loginDays === 0) return expires
    return Math.min(expires ?? NEVER, Math.floor(wall() / 1000) + 86_400 * loginDays)
  }

  /** Whose proof of a login key this is; or the lease of a node, for one that may connect to it if one is named. */
  #nodeFor({ keyId, proof, name, nodeName }: Message): Partial<Message> {
    const { crypto, directory, init, wall } = this.#parts
    if (keyId !== undefined && proof !== undefined) {
      const node = directory.nodeByKeyId(keyId)
      const isRight = node !== undefined && crypto.equal(cacheProof(crypto, node.key, keyId), proof)
      if (!isRight || hasEnded(node, wall())) return { status: Status.UNKNOWN_NAME }
      return { nodeName: node.name, account: node.account, accountId: idOf(node) }
    }
    const node = name === undefined ? undefined : directory.nodeByName(name)
    if (name === undefined || node === undefined) return { status: Status.UNKNOWN_NAME }
    const status = nodeName === undefined ? Status.DONE : mayAsk(directory, init.openTo, nodeName, name)
    if (status !== Status.DONE) return { status }
    const { account, lease } = node
    return { account, accountId: idOf(node), ...(lease !== undefined && { lease }) }
  }
}

function idOf({ accountId }: { readonly accountId: string }): Uint8Array {
  const id = fromHex(accountId)
  return id.ok ? id.value : new Uint8Array(8)
}
