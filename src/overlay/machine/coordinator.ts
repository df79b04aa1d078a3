/**
 * The direction coordinator (NT-15 … NT-20, paper §2.2, Figs. 4–8): registrations and their locations, the choice of
 * routes, and directions to both nodes. Sans-I/O. Durable state is in the directory: the owner of this machine commits it
 * before it sends the output of `poll`.
 *
 * Nothing unproven: a location is used only after its address has answered, in OPEN or by an echo; data goes only to
 * proven locations, and an answer is at most three times as long as the request.
 */
import { ascii, compare, concat, equal, viewOf } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { kdf } from '../../crypto/tunnel-crypto.ts'
import { LoadMeter, SourceLimiter } from '../../tunnel/protocol/limiter.ts'
import { hasEnded, type Location, type NodeRecord } from '../tables.ts'
import { type Datagram, datagramCodec, type Identity, Kind } from '../wire/datagram.ts'
import {
  type CertifiedServer,
  type CoordinatorAt,
  isFullName,
  LEAST_DIRECTION,
  MAX_COORDINATORS,
  type Measured,
  type Message,
  nameOfType,
  type RelayLoad,
  Route,
  type SideOrder,
  Status,
  Type,
  Want,
} from '../wire/message.ts'
import { Abroad, type AbroadParts, candidatesOf, type Foreign, type KeyAndName, type Peer } from './abroad.ts'
import { mayAsk, type OpenTo } from './access.ts'
import { Answerer, type AnswerSession, type Arrival, type Holder } from './answerer.ts'
import { Apart } from './apart.ts'
import type { MachineComponents, Send, Step } from './api.ts'
import { Directions, LOOK_MS } from './directions.ts'
import type { Directory } from './directory.ts'
import { Fellows, type SoftInput, type SoftOutput } from './fellows.ts'
import { Leases, type ZoneInit } from './leases.ts'
import { LIFETIME_SECONDS, Locations, type Node, type Source, UNKNOWN_RTT } from './locations.ts'
import { dc, zoneOf } from './names.ts'
import { type NotificationAt, Notifier, type NotifierOutput } from './notifier.ts'
import { fellowPartners, type Partners, zonePartners } from './partners.ts'
import { addPrekeys, givePrekey, LentPrekeys } from './prekeys.ts'
import { type End, networkOf, type PairOrder, type RelayOrder, Relays, type Sides } from './relays.ts'
import { chooseRoute } from './route.ts'
import { serverOfOwner } from './site.ts'
import { type FoundZone, ownerOf, Zones } from './zones.ts'

export interface CoordinatorInit extends ZoneInit {
  /** X25519 private key of this coordinator: pair keys are derived from it. */
  readonly coordinatorKey: Uint8Array
  /** Whether there is a relay in this process. */
  readonly relays: boolean
  readonly openTo: OpenTo
  /** Longest that a login of an account server apart is good for (days); 0: for good. */
  readonly loginDays?: number
  /** Nodes that the memory of this thread has room for. */
  readonly maxNodes?: number
  /** Seconds between keep-alives of nodes behind NATs. */
  readonly keepAlive?: number
  /** Where nodes connect for notifications: in this process; absent: at a server apart, if there is one. */
  readonly notification?: NotificationAt
  /** The cache server in this process. */
  readonly cache?: CertifiedServer
  /** Name of this coordinator among those of the zone; absent: it is the only one. */
  readonly fellow?: string
  /** Where servers apart reach this coordinator alone. */
  readonly place?: Pick<CoordinatorAt, 'port' | 'addresses'>
  /** Emit steps for `godwit overlay trace`. */
  readonly trace?: boolean
}

/** NT-25: asks the relay of this process for a channel; `handleRelayAck` brings the answer. */
export interface LocalRelayOrder extends RelayOrder {
  readonly type: 'relay-order'
  readonly id: number
}

export type CoordinatorOutput =
  | Send
  | Step
  | LocalRelayOrder
  | NotifierOutput
  /** For the other coordinators of the zone; `handleSoft` brings what they say. */
  | SoftOutput
  /** A cache server of the zone is there that is not in this process; about once a second. */
  | { readonly type: 'cache-server'; readonly at: CertifiedServer }
  /** Asks the DNS for the coordinator of another zone; `handleZone` brings the answer. */
  | { readonly type: 'find-zone'; readonly zone: string }
  | { readonly type: 'log'; readonly level: 'info' | 'warn'; readonly message: string }

const KEEP_ALIVE_SECONDS = 20
/** Of a node with a notification server, whose connection shows that it is there. */
const NOTIFIED_LIFETIME_SECONDS = 6 * 3600
/** After this many missed keep-alives a location counts as unreachable. */
const MISSED = 4
/** The relay of this process, among those that have names. */
const LOCAL_RELAY = ''
/** How long an order waits for a relay apart (ms). */
const ORDER_MS = 1000
/** Orders that the relay of this process has not answered. */
const MAX_ORDERS = 100_000
/** Pairs of a relay that is gone that are directed to another in one look. */
const REDIRECTED_AT_ONCE = 20
const MAX_BEREFT = 100_000
/** No direction takes longer (ms): one that a fault ended, such as a full disk, may then be asked for again. */
const UNDER_WAY_MS = 60_000
/** Directions under way of one node, and of all. */
const MAX_DIRECTIONS_OF_NODE = 256
const MAX_DIRECTIONS = 100_000
/** SESSION_REQUESTs and OPENs a second beyond which sources are limited one by one. */
const LOAD = 2000
const MAX_FACTOR = 3
/** How long a question of another zone waits for another coordinator of ours (ms), and questions that are remembered. */
const PASSED_MS = 5000
const MAX_PASSED = 4096
/** From one line of the log that no more nodes are taken to the next (ms). */
const FULL_LOG_MS = 60_000
const NEVER = Number.POSITIVE_INFINITY

/** Who channels were ordered for. */
interface Ordered {
  readonly mn: string
  readonly cn: string
  /** The other, if it is of another zone. */
  readonly foreign: Foreign | undefined
}

type RelayAnswer = (sides: Sides | undefined, now: number) => void

export class Coordinator {
  readonly #parts: MachineComponents
  readonly #directory: Directory
  readonly #init: CoordinatorInit
  readonly #leases: Leases
  readonly #answerer: Answerer
  readonly #pairSecret: Uint8Array
  readonly #nodes: Locations
  readonly #directions: Directions
  readonly #lent: LentPrekeys
  /** Of the relay of this process, by number. */
  readonly #orders = new Map<number, RelayAnswer>()
  readonly #apart: Apart
  readonly #relays: Relays
  /** Pairs that have lost a relay, by `mn cn`. */
  readonly #bereft = new Map<string, Ordered>()
  /** `mn cn` of directions that were asked for and that MN has not acknowledged: until when that counts (ms). */
  readonly #underWay = new Map<string, number>()
  /** When the next of them are given another. */
  #redirectAt = NEVER
  /** The time of what is being handled; of what came last in calls that say none. */
  #now = 0
  #fullLoggedAt = Number.NEGATIVE_INFINITY
  readonly #load = new LoadMeter(LOAD)
  readonly #sources = new SourceLimiter()
  readonly #zones: Zones
  readonly #abroad: Abroad
  readonly #fellows: Fellows | undefined
  /** Directions with them. */
  readonly #beside: Abroad | undefined
  /** Questions of other zones that other coordinators of ours answer, and what they have answered. */
  readonly #passed = new Map<string, Message | undefined>()
  readonly #notifier: Notifier
  readonly #outputs: CoordinatorOutput[] = []
  #outputsRead = 0
  readonly #counts = { registrations: 0, directions: 0, refused: 0, limited: 0, malformed: 0 }

  constructor(parts: MachineComponents, directory: Directory, init: CoordinatorInit) {
    this.#parts = parts
    this.#directory = directory
    this.#init = init
    this.#leases = new Leases(parts, directory, init)
    const { crypto, random } = parts
    const own = crypto.sharedSecret(init.coordinatorKey, crypto.publicKey(init.coordinatorKey))
    this.#pairSecret = own ?? init.coordinatorKey
    this.#nodes = new Locations({
      ...parts,
      ...(init.maxNodes !== undefined && { most: init.maxNodes }),
      onHeard: (name, now) => this.#notifier.heard(name, now),
      onLocated: (name, anew, now) => this.#fellows?.located(name, anew, now),
    })
    this.#lent = new LentPrekeys((name) => this.#nodes.get(name))
    this.#directions = new Directions({
      node: (name) => this.#nodes.get(name),
      number: () => this.#number(),
      send: (node, message, now) => {
        const bytes = this.#sealFor(node, message)
        if (bytes === undefined) return
        if (init.trace === true) this.#step(this.#dc, node.name, message.type, now)
        this.#emit({ type: 'send', socket: node.socket, to: node.observed, bytes })
      },
      wake: (name, by, done, now) => {
        if (this.#notifier.isConnected(name)) this.#notifier.wake(name, by, (_, at) => done(at), now)
      },
      end: (mn, cn) => this.#underWay.delete(`${mn} ${cn}`),
    })
    this.#answerer = new Answerer({
      ...{ crypto, random, wall: parts.wall },
      holderOf: (identity, from, now) => this.#holderOf(identity, from, now),
      send: (bytes, to, socket) => this.#emit({ type: 'send', socket, to, bytes }),
      onMessage: (session, message, source, arrival, now) =>
        this.#message(session, message, source, arrival, now),
    })
    this.#zones = new Zones({
      ...{ crypto, random, wall: parts.wall },
      ...{ zone: init.zone, coordinatorKey: init.coordinatorKey, directory },
      send: (socket, to, bytes) => this.#emit({ type: 'send', socket, to, bytes }),
      find: (zone) => this.#emit({ type: 'find-zone', zone }),
      drop: (owner) => this.#answerer.drop(owner),
      log: (message) => this.#emit({ type: 'log', level: 'warn', message }),
    })
    this.#relays = new Relays({
      order: (relay, order, answered, now) => this.#toRelay(relay, order, answered, now),
    })
    this.#apart = new Apart({
      ...{ init, directory, crypto, relays: this.#relays, wall: parts.wall },
      ...{ number: () => this.#number(), boot: random.fill(new Uint8Array(8)) },
      seal: (session, owner, message) =>
        this.#answerer.seal(this.#answerer.standing(session, owner), message),
      send: (socket, to, bytes) => this.#emit({ type: 'send', socket, to, bytes }),
      drop: (owner) => this.#answerer.drop(owner),
      notifier: () => this.#notifier,
      forget: (name) => this.forget(name),
      onBereft: (pairs, now) => {
        for (const pair of pairs as readonly Ordered[])
          if (this.#bereft.size < MAX_BEREFT) this.#bereft.set(`${pair.mn} ${pair.cn}`, pair)
        this.#redirectAt = Math.min(this.#redirectAt, now)
      },
      emit: (output) => this.#emit(output),
      onCache: (at) => this.#emit({ type: 'cache-server', at }),
      coordinators: () => this.#coordinators(),
      log: (level, message) => this.#emit({ type: 'log', level, message }),
    })
    if (init.relays) this.#relays.up(LOCAL_RELAY, undefined)
    this.#notifier = new Notifier({
      at: () => this.#apart.notification,
      token: () => random.fill(new Uint8Array(32)),
      number: () => this.#number(),
      emit: (output) => this.#apart.notify(output, this.#now),
      step: (type, isAnswer, now) => {
        const [from, to] = isAnswer ? ['notification', this.#dc] : [this.#dc, 'notification']
        if (init.trace === true) this.#step(from, to, type, now)
      },
      seal: (name) => this.#notification(name),
      directory,
    })
    const shared = {
      ...{ crypto, random, wall: parts.wall, init, directory, leases: this.#leases },
      reachable: (name: string, now: number) => this.#reachable(name, now),
      refuse: (mn: string, cn: string, transaction: number, status: Status, now: number) =>
        this.#refuseLater(mn, cn, transaction, status, now),
      end: (mn: string, cn: string) => this.#underWay.delete(`${mn} ${cn}`),
      hasRelays: () => this.#relays.count > 0,
    }
    const abroadWith = (partners: Partners, lends?: Pick<AbroadParts, 'lendPrekey' | 'usePrekey'>) =>
      new Abroad({
        ...lends,
        ...{ ...shared, partners },
        reach: (name, by, then, now) => this.#reach(name, by, then, now),
        order: (mn, cn, another, now) => this.#orderAbroad(mn, cn, another, now),
        tell: this.#directions.tell,
        pairKey: (secret, a, b) => this.#pairKeyOf(secret, a, b),
        step: (from, to, type, now) => {
          if (init.trace === true) this.#step(from, to, type, now)
        },
      })
    this.#abroad = abroadWith(zonePartners(this.#zones, directory))
    if (init.fellow === undefined) return
    const fellows = new Fellows({
      ...{ crypto, random, wall: parts.wall, secret: this.#pairSecret, name: init.fellow },
      ...(init.place !== undefined && { place: init.place }),
      ...(init.cache !== undefined && { cache: init.cache }),
      onCache: (at) => this.#emit({ type: 'cache-server', at }),
      emit: (output) => this.#emit(output),
      locatedAt: (name) => this.#locatedAt(name),
      nodes: () => this.#nodes.size,
      onMoved: (name, at) => this.#moved(name, at),
      onAsked: (fellow, message, reply, now) => this.#fromBeside(fellow, message, reply, now),
      log: (level, message) => this.#emit({ type: 'log', level, message }),
    })
    this.#fellows = fellows
    this.#beside = abroadWith(fellowPartners(fellows, directory, { ...init, secret: this.#pairSecret }), {
      lendPrekey: (name, question, now) => this.#lent.lend(name, question, now),
      usePrekey: (name, index) => this.#lent.use(name, index),
    })
  }

  /** Registered nodes, and what was counted since the start. */
  get counts(): Readonly<Record<string, number>> {
    return {
      ...this.#counts,
      nodes: this.#nodes.size,
      sessions: this.#answerer.size,
      zones: this.#zones.size,
      relays: this.#relays.count,
      directing: this.#directions.size,
      ...this.#notifier.counts,
      ...this.#fellows?.counts,
    }
  }

  location(name: string): Location | undefined {
    return this.#nodes.get(name)
  }

  handleDatagram(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    this.#now = now
    const datagram = datagramCodec.decode(bytes)
    if (!datagram.ok) {
      this.#counts.malformed++
      return
    }
    const { value } = datagram
    if (isCostly(value) && this.#load.count(now) && !this.#sources.allow(from, now)) {
      this.#counts.limited++
      return
    }
    if (this.#zones.handle(value, from, socket, now)) return
    this.#length = bytes.length
    this.#answerer.handle(value, from, socket, now)
    if (value.kind === Kind.SESSION_REQUEST && value.identity.type === 'zone')
      this.#zones.park(value.identity.name, (at) => this.handleDatagram(bytes, from, socket, at))
  }

  /** What the DNS says of a zone; undefined: nothing that can be used. */
  handleZone(zone: string, found: FoundZone | undefined, now: number): void {
    this.#zones.found(zone, found, now)
  }

  /** What the bus between the coordinators of the zone says. */
  handleSoft(input: SoftInput, now: number): void {
    this.#now = now
    this.#fellows?.handle(input, now)
  }

  /** Bytes of the current datagram: its answer may have at most three times as many. */
  #length = 0

  /** The node logged in again, or was removed: ends everything that its old key could do. */
  forget(name: string): void {
    this.#answerer.drop(name)
    this.#end(name)
  }

  /** The node has registered at another coordinator, then; its key is as before. */
  #moved(name: string, at: number): void {
    const node = this.#nodes.get(name)
    if (node !== undefined && Math.floor(this.#nodes.registeredAt(node, this.#now)) > at) return
    if (node !== undefined) this.#answerer.leave(name)
    this.#nodes.delete(name)
    this.#fellows?.gone(name)
    // The one that it went to has the same notification server, if that is apart.
    if (this.#init.notification === undefined) this.#notifier.left(name)
    else if (node !== undefined) this.#notifier.forget(name)
  }

  #end(name: string): void {
    this.#nodes.delete(name)
    this.#fellows?.gone(name)
    this.#notifier.forget(name)
  }

  /** Fig. 4 step 11: whether the notification server expects the node. */
  handleNotificationPrepareAck(id: number, isReady: boolean, now: number): void {
    this.#notifier.prepared(id, isReady, now)
  }

  /** The node has connected to its notification server with this token, or that connection has ended. */
  handleNotified(name: string, token: Uint8Array, isConnected: boolean): void {
    this.#notifier.connected(name, token, isConnected)
  }

  handleRelayAck(id: number, sides: Sides | undefined, now: number): void {
    const answered = this.#orders.get(id)
    if (answered === undefined) return
    this.#orders.delete(id)
    if (this.#init.trace === true) this.#step('relay', this.#dc, Type.RELAY_ORDER_ACK, now)
    answered(sides, now)
  }

  /** What the relay of this process says of itself. */
  handleRelayLoad(load: RelayLoad, measured: readonly Measured[], now: number): void {
    this.#relays.up(LOCAL_RELAY, load)
    this.#relays.measured(LOCAL_RELAY, measured, now)
  }

  /** The push service does not know the node at this address any more. */
  handlePushGone(name: string, address: string): void {
    this.#notifier.pushGone(name, address)
  }

  poll(): CoordinatorOutput | undefined {
    const output = this.#outputs[this.#outputsRead]
    if (output === undefined) {
      this.#outputs.length = 0
      this.#outputsRead = 0
      this.#leases.turnEnded()
    } else this.#outputsRead++
    return output
  }

  nextTimeout(): number | undefined {
    const parts = Math.min(this.#zones.nextTimeout(), this.#notifier.nextTimeout())
    const servers = Math.min(this.#apart.site.nextTimeout(), this.#relays.nextTimeout())
    const others = this.#fellows?.nextTimeout() ?? NEVER
    const own = Math.min(this.#directions.nextTimeout(), this.#redirectAt, this.#nodes.nextTimeout())
    const at = Math.min(own, parts, servers, others)
    return at === NEVER ? undefined : at
  }

  handleTimeout(now: number): void {
    this.#now = now
    this.#directions.handleTimeout(now)
    if (this.#redirectAt <= now) this.#redirectSome(now)
    this.#zones.handleTimeout(now)
    this.#notifier.handleTimeout(now)
    this.#apart.site.handleTimeout(now)
    this.#relays.handleTimeout(now)
    this.#fellows?.handleTimeout(now)
    this.#nodes.expire(now, ({ name, heardAt }) => {
      // A connection to its notification server renews it, as long as the node was to register by itself.
      if (this.#notifier.isConnected(name) && now - heardAt < 1000 * NOTIFIED_LIFETIME_SECONDS) return true
      this.#notifier.expired(name)
      this.#fellows?.gone(name)
      return false
    })
  }

  /** Gives pairs another relay. One that fails does not stop the others. */
  #redirectSome(now: number): void {
    this.#redirectAt = now + LOOK_MS
    let left = REDIRECTED_AT_ONCE
    for (const [key, pair] of this.#bereft) {
      if (left-- === 0) return
      this.#bereft.delete(key)
      this.#redirect(pair, now)
    }
    this.#redirectAt = NEVER
  }

  // ---- sessions

  #holderOf(identity: Identity, from: Endpoint, now: number): Holder | undefined {
    if (identity.type === 'zone')
      return isFullName(identity.name) ? this.#zones.holderOf(identity.name, from, now) : undefined
    if (identity.type === 'server') return this.#apart.site.holderOf(identity.name)
    const node = this.#directory.nodeByKeyId(identity.id)
    return node && !this.#hasEnded(node) ? { owner: node.name, key: node.key } : undefined
  }

  #message(
    session: AnswerSession,
    message: Message,
    { from, socket }: Pick<Source, 'from' | 'socket'>,
    { how, counter }: { readonly how: Arrival; readonly counter: number },
    now: number,
  ): void {
    if (!session.messages.take(now)) {
      this.#counts.limited++
      return
    }
    const server = serverOfOwner(session.owner)
    if (server !== undefined) {
      const { index, openedAt } = session
      const reply = (answer: Message) => {
        const bytes = this.#answerer.seal(index, answer, how !== 'sealed')
        if (bytes !== undefined) this.#emit({ type: 'send', socket, to: from, bytes })
      }
      this.#apart.site.handle(server, message, { session: index, openedAt, from, socket, how }, reply, now)
      return
    }
    const zone = zoneOfOwner(session.owner)
    const who = zone === undefined ? session.owner : dc(zone)
    if (this.#init.trace === true) this.#step(who, this.#dc, message.type, now)
    const asked = this.#length
    const reply: Reply = (answer) => {
      const bytes = this.#answerer.seal(session.index, answer, how !== 'sealed')
      if (bytes === undefined || bytes.length > MAX_FACTOR * asked) return
      if (this.#init.trace === true) this.#step(this.#dc, who, answer.type, now)
      this.#emit({ type: 'send', socket, to: from, bytes })
    }
    if (zone !== undefined) {
      if (asked >= LEAST_DIRECTION) this.#fromAbroad(zone, message, reply, now)
      return
    }
    const record = this.#directory.nodeByName(session.owner)
    if (record !== undefined && this.#hasEnded(record)) {
      // What its login could do ends with it.
      this.forget(session.owner)
      return
    }
    const known = this.#nodes.get(session.owner)
    if (record !== undefined && !equal(record.key, session.key)) {
      // It has logged in again, elsewhere: what the login before could do has ended.
      this.#answerer.end(session.index)
      if (known?.session === session.index) this.forget(session.owner)
      return
    }
    const source = this.#nodes.sourceOf(session, message, { from, socket }, { how, counter }, now)
    switch (message.type) {
      case Type.REGISTRATION_REQUEST:
        this.#register(source, message, reply, now)
        break
      case Type.KEEP_ALIVE:
      case Type.NOTIFICATION_ACK:
        this.#keepAlive(source, message, reply, now)
        break
      case Type.DIRECTION_REQUEST:
        if (this.#length >= LEAST_DIRECTION) this.#direct(session.owner, message, reply, now)
        break
      case Type.ROUTE_DIRECTION_ACK:
        this.#directions.acknowledged(session.owner, message, now)
        break
      default:
    }
  }

  #hasEnded(node: NodeRecord): boolean {
    return hasEnded(node, this.#parts.wall())
  }

  /** A node was refused: there are as many as the memory has room for. */
  #full(now: number): void {
    this.#counts.refused++
    if (now < this.#fullLoggedAt + FULL_LOG_MS) return
    this.#fullLoggedAt = now
    const message = `${this.#nodes.size} nodes are registered, as many as the memory of this machine has room for; others are refused`
    this.#emit({ type: 'log', level: 'warn', message })
  }

  // ---- registration (Fig. 4 steps 9 and 12, Fig. 7 steps 3 and 6)

  #register(source: Source, message: Message, reply: Reply, now: number): void {
    const { session, from } = source
    const { transaction } = message
    const type = Type.REGISTRATION_RESPONSE
    const node = this.#directory.nodeByName(session.owner)
    if (node === undefined) return
    if (this.#nodes.isFull && this.#nodes.get(session.owner) === undefined) {
      this.#full(now)
      reply({ type, transaction, status: Status.TOO_MANY })
      this.#answerer.end(session.index)
      return
    }
    const isProven = source.proven || this.#nodes.isWhereItWas(source)
    this.#nodes.registered(source, message.candidates ?? [], now)
    const located = this.#nodes.get(session.owner)
    if (source.isNewest && located !== undefined) {
      located.prekeys.length = 0
      addPrekeys(located, message)
    }
    this.#counts.registrations++
    const lease = this.#leases.leaseOf(node, message.lease)
    const done = {
      type,
      transaction,
      status: Status.DONE,
      lease,
      observed: from,
      lifetime: LIFETIME_SECONDS,
      keepAlive: this.#keepAliveSeconds,
    }
    const answer = isProven ? done : { ...done, challenge: this.#nodes.challenge(session, from, now) }
    const at = this.#apart.notification
    const wants = message.want === Want.NOTIFICATIONS
    if (located !== undefined) located.isUnnotified = wants
    if (at === undefined || !wants) {
      reply(answer)
      return
    }
    const granted = (token: Uint8Array | undefined) => {
      const there = this.#nodes.get(session.owner)
      if (there !== undefined) there.isUnnotified = token === undefined
      const { host, port, certificate } = at
      const lifetime = NOTIFIED_LIFETIME_SECONDS
      // The turn in which it registered may have been discarded.
      const record = this.#directory.nodeByName(session.owner)
      if (record === undefined) return
      const whole = { ...answer, lease: this.#leases.leaseOf(record, message.lease) }
      if (token === undefined) reply(whole)
      else reply({ ...whole, lifetime, notificationServer: { host, port }, token, certificate })
    }
    this.#notifier.prepare(session.owner, message.push, granted, now)
  }

  #toldCoordinators = 0

  /** This one, and others that are there: all of them within a few answers. */
  #coordinators(): readonly CoordinatorAt[] {
    const fellows = this.#fellows
    if (fellows === undefined) return []
    const others = [...fellows.all()].map(({ at }) => at).filter(({ addresses }) => addresses.length > 0)
    const first = this.#toldCoordinators++ * (MAX_COORDINATORS - 1)
    const count = Math.min(others.length, MAX_COORDINATORS - 1)
    return [fellows.at, ...Array.from({ length: count }, (_, i) => others[(first + i) % others.length]!)]
  }

  /** When it registered here, by the wall clock (ms). */
  #locatedAt(name: string): number | undefined {
    const node = this.#nodes.get(name)
    return node === undefined || node.silent ? undefined : this.#nodes.registeredAt(node, this.#now)
  }

  #keepAlive(source: Source, { transaction }: Message, reply: Reply, now: number): void {
    const { session, from, proven } = source
    const known = this.#nodes.get(session.owner)
    const isHere = this.#nodes.isWhereItWas(source)
    this.#nodes.heard(source, now)
    const wants = known?.isUnnotified === true && this.#apart.notification !== undefined
    const answer = {
      ...{ type: Type.KEEP_ALIVE_ACK, transaction, observed: from },
      // The notification server is there now: it may register for one.
      ...(wants && { want: Want.NOTIFICATIONS }),
    }
    reply(isHere || proven ? answer : { ...answer, challenge: this.#nodes.challenge(session, from, now) })
  }

  get #keepAliveSeconds(): number {
    return this.#init.keepAlive ?? KEEP_ALIVE_SECONDS
  }

  /** The node, if datagrams to its location still reach it. */
  #reachable(name: string, now: number): Node | undefined {
    const node = this.#nodes.get(name)
    if (node === undefined || node.silent || node.expiresAt <= now) return undefined
    const record = this.#directory.nodeByName(name)
    if (record !== undefined && !(equal(record.key, node.key) && this.#leases.isLasting(record)))
      return undefined
    // A node that is notified sends no keep-alives: its NAT may have forgotten it.
    const missed = this.#notifier.isConnected(name) ? 1 : MISSED
    return now - node.heardAt > 1000 * missed * this.#keepAliveSeconds ? undefined : node
  }

  /** Others need not be asked. What a notification server alone says of a node that has not registered here counts after what they say. */
  #isHere(name: string, now: number): boolean {
    const isNotified = this.#nodes.get(name) !== undefined && this.#notifier.isConnected(name)
    return isNotified || this.#reachable(name, now) !== undefined
  }

  /** Calls `then` once datagrams reach the node: at once, or when it has answered a notification. Else says why not. */
  #reach(name: string, by: string, then: (node: Node | undefined, now: number) => void, now: number): Status {
    const node = this.#reachable(name, now)
    if (node === undefined)
      return this.#notifier.wake(name, by, (_, at) => then(this.#reachable(name, at), at), now)
    then(node, now)
    return Status.DONE
  }

  #notification(name: string): Uint8Array | undefined {
    const node = this.#nodes.get(name)
    return node && this.#sealFor(node, { type: Type.NOTIFICATION, transaction: this.#number() })
  }

  // ---- directions (Fig. 5, Fig. 7 from step 11 on)

  #direct(mnName: string, message: Message, reply: Reply, now: number): void {
    const { name, transaction } = message
    const refuse = (status: Status) => {
      this.#counts.refused++
      reply({ type: Type.DIRECTION_RESPONSE, transaction, status })
    }
    const mn = this.#reachable(mnName, now)
    if (mn === undefined) {
      refuse(Status.NOT_REGISTERED)
      return
    }
    if (name === undefined || name === mnName) {
      refuse(Status.UNKNOWN_NAME)
      return
    }
    const isForeign = zoneOf(name) !== this.#init.zone
    // Another zone takes longer than a node waits for a word: without one it would open one session after the other.
    const wait = () => reply({ type: Type.KEEP_ALIVE_ACK, transaction, observed: mn.observed })
    // Repeated while it is under way: the directions are repeated by themselves.
    if (now < (this.#underWay.get(`${mnName} ${name}`) ?? 0)) {
      if (isForeign || this.#fellows?.any === true || this.#notifier.canWake(name)) wait()
      return
    }
    const busy = this.#directions.size + this.#relays.pending >= MAX_DIRECTIONS
    if (busy || mn.asked >= MAX_DIRECTIONS_OF_NODE || !this.#nodes.takeDirection(mn, now)) {
      refuse(Status.TOO_MANY)
      return
    }
    if (isForeign) {
      this.#counts.directions++
      this.#underWay.set(`${mnName} ${name}`, now + UNDER_WAY_MS)
      wait()
      this.#abroad.seek(mnName, zoneOf(name), { ...message, name }, now)
      return
    }
    const allowed = this.#mayAsk(mnName, name)
    if (allowed !== Status.DONE) {
      refuse(allowed)
      return
    }
    const mayBeElsewhere = !this.#isHere(name, now) && this.#fellows?.any === true
    if (mayBeElsewhere || (this.#reachable(name, now) === undefined && this.#notifier.canWake(name))) wait()
    this.#underWay.set(`${mnName} ${name}`, now + UNDER_WAY_MS)
    if (mayBeElsewhere) {
      this.#seekBeside(mnName, { ...message, name }, false, now)
      return
    }
    const status = this.#directHere(mnName, { ...message, name }, now)
    if (status === Status.DONE) return
    this.#underWay.delete(`${mnName} ${name}`)
    refuse(status)
  }

  /** What the coordinator of another zone asks: of a node that another coordinator of ours has, that one is asked. */
  #fromAbroad(zone: string, message: Message, reply: Reply, now: number): void {
    const { mn, cn } = pairOfQuestion(message)
    const here = (at: number) => this.#abroad.handle(zone, message, reply, at)
    if (
      this.#isHere(cn, now) ||
      this.#fellows?.any !== true ||
      this.#abroad.partners.mayAsk(zone, mn, cn) !== Status.DONE
    ) {
      here(now)
      return
    }
    const { transaction, ...question } = message
    const key = `${zone} ${message.type} ${transaction} ${cn}`
    if (this.#passed.has(key)) {
      const before = this.#passed.get(key)
      if (before !== undefined) reply(before)
      return
    }
    this.#pass(key, undefined)
    const then = (fellow: string | undefined, at: number) => {
      if (fellow === undefined) {
        this.#passed.delete(key)
        here(at)
        return
      }
      const answered = (answer: Message | undefined) => {
        if (answer === undefined) this.#passed.delete(key)
        else {
          this.#pass(key, { ...answer, transaction })
          reply({ ...answer, transaction })
        }
      }
      this.#fellows?.request(fellow, question, { by: dc(zone), ms: PASSED_MS }, answered, at)
    }
    this.#fellows?.seek(cn, dc(zone), then, now)
  }

  #pass(key: string, answer: Message | undefined): void {
    this.#passed.delete(key)
    this.#passed.set(key, answer)
    if (this.#passed.size > MAX_PASSED) this.#passed.delete(this.#passed.keys().next().value!)
  }

  /** What another coordinator of the zone asks, also for one of another zone, whose question it passes on. */
  #fromBeside(fellow: string, message: Message, reply: Reply, now: number): void {
    const { mn } = pairOfQuestion(message)
    const zone = zoneOf(mn)
    if (zone === this.#init.zone || !isFullName(mn)) this.#beside?.handle(fellow, message, reply, now)
    // Not answered, it is asked again: the other zone's keys are being looked up.
    else if (this.#zones.knows(zone, now)) this.#abroad.handle(zone, message, reply, now)
  }

  /** A direction to a node of another coordinator of the zone. `anew`: whom the bus has named does not have it. */
  #seekBeside(mn: string, message: Message & { readonly name: string }, anew: boolean, now: number): void {
    const { name, transaction } = message
    const then = (fellow: string | undefined, at: number) => {
      if (fellow !== undefined) {
        if (!anew) this.#counts.directions++
        const again = (later: number) => this.#seekBeside(mn, message, true, later)
        this.#beside?.seek(mn, fellow, message, at, anew ? undefined : again)
        return
      }
      const status = this.#directHere(mn, message, at)
      if (status !== Status.DONE) this.#refuseLater(mn, name, transaction, status, at)
    }
    this.#fellows?.seek(name, this.#directory.nodeByName(mn)?.account ?? mn, then, now, anew)
  }

  /** A direction to a node of this coordinator, once it is reached; says why not where that cannot be. */
  #directHere(
    mn: string,
    { name, transaction, want }: Message & { readonly name: string },
    now: number,
  ): Status {
    const then = (cn: Node | undefined, at: number) => {
      this.#counts.directions++
      if (cn === undefined) this.#refuseLater(mn, name, transaction, Status.NOT_REGISTERED, at)
      else this.#choose(mn, cn, want, at)
    }
    return this.#reach(name, mn, then, now)
  }

  #choose(mnName: string, cn: Node, want: number | undefined, now: number): void {
    const mn = this.#nodes.get(mnName)
    if (mn === undefined) {
      this.#underWay.delete(`${mnName} ${cn.name}`)
      return
    }
    const another = want === Want.ANOTHER_CHANNEL
    const choice = chooseRoute(mn, cn, another || want === Want.RELAY)
    if (choice.relay && this.#relays.count > 0)
      this.#order(mn, cn.name, this.#side(cn), another, undefined, now)
    else {
      const routes = choice.relay ? { mn: Route.CHECK, cn: Route.CHECK } : choice
      this.#directBoth(mnName, cn.name, routes, [], now)
    }
  }

  /** A node that waits long opens sessions beside the one that it registered in. */
  #sealFor({ name, session }: Node, message: Message): Uint8Array | undefined {
    return this.#answerer.seal(this.#answerer.standing(session, name), message)
  }

  /** A refusal that is known only after others were asked. */
  #refuseLater(mn: string, cn: string, transaction: number, status: Status, now: number): void {
    this.#underWay.delete(`${mn} ${cn}`)
    this.#counts.refused++
    const node = this.#nodes.get(mn)
    if (node === undefined) return
    const type = Type.DIRECTION_RESPONSE
    const bytes = this.#sealFor(node, { type, transaction, status })
    if (bytes === undefined) return
    if (this.#init.trace === true) this.#step(this.#dc, mn, type, now)
    this.#emit({ type: 'send', socket: node.socket, to: node.observed, bytes })
  }

  /** D10: who may ask for whom. */
  #mayAsk(mn: string, name: string): Status {
    const target = this.#directory.nodeByName(name)
    if (target !== undefined && this.#hasEnded(target)) return Status.NOT_REGISTERED
    return mayAsk(this.#directory, this.#init.openTo, mn, name)
  }

  #order(
    mn: Node,
    cn: string,
    side: SideOrder,
    another: boolean,
    foreign: Foreign | undefined,
    now: number,
  ): void {
    const a = this.#directory.nodeByName(mn.name)
    const b = foreign ?? this.#directory.nodeByName(cn)
    if (a === undefined || b === undefined) {
      this.#underWay.delete(`${mn.name} ${cn}`)
      return
    }
    const order: PairOrder = {
      ...{ pair: this.#parts.crypto.hash(pairOf(a, b)), another, account: a.account },
      ends: [endOf(mn), endOf(foreign ?? this.#nodes.get(cn) ?? mn)],
      sides: [this.#side(mn), side],
    }
    const ordered = { mn: mn.name, cn, foreign }
    this.#relays.order(order, ordered, (all, at) => this.#allocated(ordered, all, at), now)
  }

  #allocated({ mn, cn, foreign }: Ordered, all: readonly Sides[], now: number): void {
    const route = all.length === 0 ? Route.CHECK : Route.RELAY
    const routes = { mn: route, cn: route }
    if (foreign !== undefined) this.#withPartner(foreign).direct(mn, foreign, routes, all, now)
    else this.#directBoth(mn, cn, routes, all, now)
  }

  #toRelay(relay: string, order: RelayOrder, answered: RelayAnswer, now: number): void {
    const who = relay === LOCAL_RELAY ? 'relay' : relay
    if (this.#init.trace === true) this.#step(this.#dc, who, Type.RELAY_ORDER, now)
    if (relay === LOCAL_RELAY) {
      const id = this.#number()
      if (this.#orders.size >= MAX_ORDERS) this.#orders.delete(this.#orders.keys().next().value!)
      this.#orders.set(id, answered)
      this.#emit({ type: 'relay-order', id, ...order })
      return
    }
    const { pair, another, account, sides, binds } = order
    const want = another ? Want.ANOTHER_CHANNEL : binds ? Want.BIND : undefined
    const type = Type.RELAY_ORDER
    this.#apart.site.request(
      relay,
      { type, pair, account, sides, ...(want !== undefined && { want }) },
      ORDER_MS,
      (answer, at) => {
        if (answer !== undefined && this.#init.trace === true) this.#step(who, this.#dc, answer.type, at)
        const [first, second] = answer?.status === Status.DONE ? (answer.relays ?? []) : []
        answered(first !== undefined && second !== undefined ? [first, second] : undefined, at)
      },
      now,
    )
  }

  #withPartner({ of }: Foreign): Abroad {
    return this.#beside?.partners === of ? this.#beside : this.#abroad
  }

  /** A relay of this pair is gone: it is given another before it needs it, if it may still connect. */
  #redirect({ mn, cn, foreign }: Ordered, now: number): void {
    const node = this.#reachable(mn, now)
    const record = this.#directory.nodeByName(mn)
    if (node === undefined || record === undefined || this.#hasEnded(record)) return
    if (this.#relays.count === 0 || (foreign === undefined && this.#mayAsk(mn, cn) !== Status.DONE)) return
    if (foreign !== undefined) this.#orderAbroad(mn, foreign, false, now)
    else {
      const other = this.#reachable(cn, now)
      if (other !== undefined) this.#order(node, cn, this.#side(other), false, undefined, now)
    }
  }

  /** Where another zone says that its node is, is not proven: that node has to bind. */
  #orderAbroad(mn: string, foreign: Foreign, another: boolean, now: number): void {
    const node = this.#nodes.get(mn)
    if (node === undefined) this.#underWay.delete(`${mn} ${foreign.name}`)
    else this.#order(node, foreign.name, { node: this.#numberAtRelay(foreign.name) }, another, foreign, now)
  }

  /** The number that a relay knows a node by follows from its name: nobody chooses that of another. */
  #side({ observed, name }: Node): SideOrder {
    return { proven: observed, node: this.#numberAtRelay(name) }
  }

  #numberAtRelay(name: string): bigint {
    return viewOf(this.#parts.crypto.hash(ascii(name))).getBigUint64(0)
  }

  /** Sends directions to both nodes, with their sides at each relay: the preferred one last. */
  #directBoth(
    mnName: string,
    cnName: string,
    routes: { readonly mn: Route; readonly cn: Route },
    all: readonly Sides[],
    now: number,
  ): void {
    const mn = this.#nodes.get(mnName)
    const cn = this.#nodes.get(cnName)
    const a = this.#directory.nodeByName(mnName)
    const b = this.#directory.nodeByName(cnName)
    if (mn === undefined || cn === undefined || a === undefined || b === undefined) {
      this.#underWay.delete(`${mnName} ${cnName}`)
      return
    }
    const pairKey = this.#pairKeyOf(this.#pairSecret, a, b)
    const prekey = givePrekey(cn)
    const given = prekey && { prekeyIndex: prekey.index }
    const toCn = { route: routes.cn, pairKey, relays: all.map((sides) => sides[1]), ...given }
    const gets = prekey && { prekeys: [prekey] }
    const toMn = { route: routes.mn, pairKey, relays: all.map((sides) => sides[0]), ...gets }
    this.#directions.tell(cnName, this.#peerOf(mn, a), toCn, mnName, undefined, now)
    this.#directions.tell(mnName, this.#peerOf(cn, b), toMn, mnName, undefined, now)
  }

  #peerOf(node: Node, record: NodeRecord): Peer {
    const lease = this.#leases.leaseOf(record, undefined)
    return { name: node.name, lease, candidates: candidatesOf(node) }
  }

  #pairKeyOf(secret: Uint8Array, a: KeyAndName, b: KeyAndName): Uint8Array {
    return kdf(this.#parts.crypto, secret, concat(ascii('pair'), pairOf(a, b)), 1)[0]
  }

  // ---- outputs

  get #dc(): string {
    return dc(this.#init.zone)
  }

  #step(from: string, to: string, type: number, at: number): void {
    this.#emit({ type: 'step', at, from, to, what: nameOfType(type) })
  }

  #number(): number {
    const bytes = this.#parts.random.fill(new Uint8Array(4))
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0)
  }

  #emit(output: CoordinatorOutput): void {
    this.#outputs.push(output)
  }
}

type Reply = (message: Message) => void

/** Who asks for whom in a question between coordinators. */
function pairOfQuestion({ type, name = '', nodeName = '' }: Message): {
  readonly mn: string
  readonly cn: string
} {
  return type === Type.NTM_INFORMATION_REQUEST ? { mn: nodeName, cn: name } : { mn: name, cn: nodeName }
}

function endOf({ observed, rtt = UNKNOWN_RTT }: { readonly observed: Endpoint; readonly rtt?: number }): End {
  return { net: networkOf(observed.address), rtt }
}

/** True for datagrams that cost more than a look-up and one decryption under a session's key. */
function isCostly({ kind }: Datagram): boolean {
  return kind === Kind.SESSION_REQUEST || kind === Kind.OPEN
}

/** Names and keys of both nodes, the smaller key first. A pair is of names: who shows another's key is another pair. */
function pairOf(a: KeyAndName, b: KeyAndName): Uint8Array {
  const [first, second] = compare(a.publicKey, b.publicKey) < 0 ? [a, b] : [b, a]
  const end = Uint8Array.of(0)
  return concat(first.publicKey, ascii(first.name), end, second.publicKey, ascii(second.name), end)
}

/** The zone of a session that its coordinator holds. */
function zoneOfOwner(owner: string): string | undefined {
  return owner.startsWith(ownerOf('')) ? owner.slice(1) : undefined
}
