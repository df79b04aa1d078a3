/**
 * The node: all its signalling (NT-32, paper §3.4). It registers where its datagrams reach the coordinator, asks for
 * directions, carries out those that come, and begins again where its networks change (NT-33, Fig. 7). Sockets, tunnel and
 * kernel are the owner's; this machine holds the tunnel table.
 *
 * Nothing that a stranger sends gets past a look-up and one MAC: sessions are by index, CHECKs by the tag of a pair,
 * RELAY_BOUNDs by their channel and the relay's address.
 */

import { compare, equal, toHex } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { Mappings, type MappingsOutput, mappingsEnd } from '../../tunnel/protocol/mappings.ts'
import type { TunnelRow } from '../tables.ts'
import { datagramCodec, Kind, RELAYED_SIGN, SIGN } from '../wire/datagram.ts'
import {
  isFullName,
  LEAST_DIRECTION,
  type Message,
  nameOfType,
  type Prekey,
  Route,
  Status,
  Type,
  Want,
} from '../wire/message.ts'
import { Alone } from './alone.ts'
import type { MachineComponents, NodeMachineApi, NodeMachineInit, NodeOutput, NodeSocket } from './api.ts'
import { Asker, type Way } from './asker.ts'
import { BindingCounters } from './binding.ts'
import { NodeLeases } from './node-leases.ts'
import { Pair, type PairDirection, reaches } from './pair.ts'
import type { AskedPorts } from './prediction.ts'
import { mayBeHost } from './virtual.ts'

/** Of a lease, in the log. */
const ENDED = "has ended by this machine's clock (is it right?)"
/** A request is given up then (ms): repeated after 250 ms, doubling, five times. */
const REQUEST_MS = 12_000
/** Time after which an unanswered registration is repeated (ms). */
const REGISTER_AGAIN = 5_000
/** A question for where the coordinator sees a socket is given up then (ms). */
const LOOK_MS = 2_000
/** Between two registrations because of notifications that hold nothing for us (ms). */
const UNREADABLE_PAUSE = 10_000
/** An echo is given up then (ms). */
const ECHO_MS = 4_000
/** Max peers; beyond, the peer with the oldest direction is displaced. */
const MAX_PAIRS = 1024
/** Names sought at a time. */
const MAX_SOUGHT = 256
/** How long a name is sought before the answer that there is none (ms). */
const SEEK_MS = 10_000
/** Between two directions asked for because a peer has no path (ms), doubling to the longest. */
const NO_PATH_PAUSE = 1_000
const NO_PATH_LONGEST = 30_000
/** Between two directions that look for a direct way while packets go by the relay (ms), doubling to the longest. */
const OPTIMISE_PAUSE = 2_000
const OPTIMISE_LONGEST = 60_000
/** Directions a second of new peers that this node did not ask for, and at once: each costs routes and a file. */
const UNASKED_RATE = 20
const UNASKED_BURST = 256
/** Max host candidates that are reported. */
const MAX_HOSTS = 14
/** Where the coordinator sees a socket is asked again when it was said so long ago (ms): its NAT may have forgotten it. */
const OBSERVED_MS = 20_000
/** A node whose coordinator does not answer after its start goes on without it (ms). */
const ALONE_MS = 3000
/** Keys for packets behind message 1 that the coordinator has of this node. */
const PREKEYS = 2
/** Padding of a registration (bytes): an answer is no more than three times its request. */
const PADDED = 410
const NEVER = Number.POSITIVE_INFINITY

const REASONS: Readonly<Record<number, string>> = {
  [Status.UNKNOWN_NAME]: 'there is no node of this name',
  [Status.NOT_ALLOWED]: 'not allowed to reach it',
  [Status.NOT_REGISTERED]: 'it is not online',
  [Status.TOO_MANY]: 'too many requests',
  [Status.NO_RELAY]: 'neither a relay nor a direct route is available',
  [Status.LEASE_REFUSED]: 'the lease was refused',
  [Status.UNREACHED]: 'its coordinator does not answer',
}

/** Text of a status for people. */
export function reasonOf(status: number): string {
  return REASONS[status] ?? `status ${status}`
}

interface Sought {
  readonly since: number
  /** `wanted`: a packet or a user wants the peer. `helps`: only the peer does. Else this node looks for a way again by itself. */
  readonly why?: 'wanted' | 'helps'
  asked: boolean
}

export class NodeMachine implements NodeMachineApi {
  readonly #parts: MachineComponents
  readonly #init: NodeMachineInit
  readonly #asker: Asker
  readonly #leases: NodeLeases
  readonly #alone: Alone
  readonly #pairs = new Map<string, Pair>()
  /** By tag in hexadecimal. */
  readonly #byTag = new Map<string, Pair>()
  /** By `channelKey`. */
  readonly #byChannel = new Map<string, Pair>()
  readonly #sought = new Map<string, Sought>()
  /** Peers without a path: when a direction may be asked for again, and the pause after it. */
  readonly #noPath = new Map<string, { at: number; pause: number }>()
  /** The same of peers whose packets go by the relay. */
  readonly #relayed = new Map<string, { readonly at: number; readonly pause: number }>()
  readonly #unasked = new TokenBucket(UNASKED_RATE, UNASKED_BURST)
  readonly #mappings = new Mappings()
  readonly #askedPorts: AskedPorts = new Map()
  readonly #bindingCounters = new BindingCounters()
  readonly #outputs: NodeOutput[] = []
  #outputsRead = 0
  #sockets: readonly NodeSocket[] = []
  /** Those that the coordinator may give to others. */
  #prekeys: readonly Prekey[] = []
  #coordinator: readonly Endpoint[] = []
  #registered = false
  /** Why not, as it was reported. */
  #trouble: string | undefined
  #registering = false
  /** This node moved: new directions for all peers are requested once the current registration is done. */
  #moved = false
  #registerAt = NEVER
  #keepAliveAt = NEVER
  #keepAliveMs = 0
  #notified = false
  #preferred: string | undefined
  /** Where the coordinator sees each socket, and when it said so. */
  readonly #observed = new Map<number, { readonly endpoint: Endpoint; readonly at: number }>()
  /** When the coordinator last had this node's location confirmed (ms). */
  #confirmedAt = Number.NEGATIVE_INFINITY
  /** What waits for it to be confirmed now. */
  #confirming: ((isConfirmed: boolean, now: number) => void)[] | undefined
  /** The notification at hand was the coordinator's. */
  #isReadable = false
  #unreadableAt = Number.NEGATIVE_INFINITY

  constructor(parts: MachineComponents, init: NodeMachineInit) {
    this.#parts = parts
    this.#init = init
    this.#leases = new NodeLeases(parts, init)
    this.#alone = new Alone(
      {
        ...{ name: this.#own, leases: this.#leases, pairs: this.#pairs, sought: this.#sought },
        sockets: () => this.#sockets,
        observedOf: (socket) => this.#observed.get(socket)?.endpoint,
        pairOf: (tag) => this.#byTag.get(toHex(tag)),
        pairFor: (...pair) => this.#pairFor(...pair),
        step: (...step) => this.#step(...step),
        emit: (output) => this.#emit(output),
      },
      parts.crypto,
      init.kept ?? [],
    )
    const { keyId, key } = init.credentials
    this.#asker = new Asker({
      ...{ crypto: parts.crypto, random: parts.random, wall: parts.wall },
      identity: { type: 'key', id: keyId },
      key,
      send: (bytes, { socket, to }) => this.#emit({ type: 'send', socket, to, bytes }),
      onMessage: (message, way, now) => this.#message(message, way, now),
      // A session that replaces another one: the coordinator has lost our state, or will soon.
      onOpened: (type, now) => {
        if (type !== Type.REGISTRATION_REQUEST && !this.#registering) this.#register(now)
      },
      onSilence: (now) => this.#unregister('the coordinator does not answer', now),
    })
  }

  get #own(): string {
    return this.#init.credentials.name
  }

  /** The tunnel table. */
  rows(): TunnelRow[] {
    return [...this.#pairs.values()].map(({ row }) => row)
  }

  /** For tests. */
  pairs(): Pair[] {
    return [...this.#pairs.values()]
  }

  // ---- what the owner tells

  setSockets(sockets: readonly NodeSocket[], now: number): void {
    const sorted = [...sockets].sort((a, b) => a.priority - b.priority)
    if (describe(sorted) === describe(this.#sockets)) return
    const there = new Set(sorted.map(({ socket }) => socket))
    const before = this.#sockets
    const gone = new Set(before.map(({ socket }) => socket).filter((socket) => !there.has(socket)))
    const stayed = before.filter(({ socket }) => there.has(socket))
    // A socket that another has replaced goes: where this node is reached does not change.
    const isSettled =
      describe(stayed) === describe(sorted) && before.every((each) => stayed.includes(each) || each.replaced)
    this.#sockets = sorted
    this.#mappings.setSockets(sorted, now)
    this.#setWays(now)
    for (const socket of gone) this.#observed.delete(socket)
    for (const pair of this.#pairs.values()) pair.setSockets(sorted, gone, now)
    if (isSettled) return
    this.#moved ||= this.#pairs.size > 0
    if (!this.#registered) this.#alone.expect(ALONE_MS, now)
    this.#alone.moved(now)
    this.#register(now)
  }

  setCoordinator(endpoints: readonly Endpoint[], now: number): void {
    const text = (list: readonly Endpoint[]) =>
      list.map(({ address, port }) => `${toHex(address)} ${port}`).join()
    if (text(endpoints) === text(this.#coordinator)) return
    this.#coordinator = endpoints
    this.#mappings.setWitnesses(endpoints, now)
    this.#setWays(now)
    if (!this.#registered) this.#register(now)
  }

  handleDatagram(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    if (bytes[0] === RELAYED_SIGN) {
      this.#relayedCheck(bytes, from, now)
      return
    }
    const datagram = datagramCodec.decode(bytes)
    if (!datagram.ok) return
    const { value } = datagram
    switch (value.kind) {
      case Kind.CHECK:
        this.#alone.pairOf(value.tag, now)?.handleCheck(value, from, socket, now)
        break
      case Kind.RELAY_BOUND:
        this.#byChannel.get(channelKey(value.channel, from))?.handleBound(value, from, socket, now)
        break
      case Kind.SESSION_RESPONSE:
      case Kind.OPENED:
      case Kind.SEALED:
      case Kind.SESSION_UNKNOWN:
        this.#asker.handle(value, { socket, to: from }, now)
        break
      default:
    }
  }

  #relayedCheck(bytes: Uint8Array, from: Endpoint, now: number): void {
    const copy = bytes.slice()
    copy[0] = SIGN
    const datagram = datagramCodec.decode(copy)
    if (datagram.ok && datagram.value.kind === Kind.CHECK)
      this.#byTag.get(toHex(datagram.value.tag))?.handleRelayed(datagram.value, from, now)
  }

  handleNotification(bytes: Uint8Array, now: number): void {
    const way = this.#asker.way
    this.#step('notification', this.#own, Type.NOTIFICATION, now)
    this.#isReadable = false
    const datagram = datagramCodec.decode(bytes)
    if (datagram.ok && way !== undefined) this.#asker.handle(datagram.value, way, now)
    if (this.#isReadable || this.#registering || now - this.#unreadableAt < UNREADABLE_PAUSE) return
    // Of a session that this node does not have, or of none: the coordinator has lost us.
    this.#unreadableAt = now
    this.#register(now)
  }

  setNotified(connected: boolean, now: number): void {
    this.#notified = connected
    this.#armKeepAlive(now)
  }

  register(now: number): void {
    if (!this.#registering) this.#register(now)
  }

  prefer(access: string | undefined, now: number): void {
    this.#preferred = access
    this.#place(now)
  }

  noteUsed(peer: string, now: number): void {
    this.#pairs.get(peer)?.renew(now)
    this.#observe(now)
  }

  noteFlow(now: number): void {
    this.#mappings.noteFlow(now)
  }

  noteSilence(socket: number, now: number): void {
    this.#mappings.doubt(socket, now)
  }

  isWatched(socket: number, now: number): boolean {
    const known = this.#sockets.find((each) => each.socket === socket)
    return known !== undefined && this.#mappings.isWatched(known, now)
  }

  resolve(name: string, now: number): void {
    if (!isFullName(name) || name === this.#own) {
      this.#refuse(name, Status.UNKNOWN_NAME, 'not the full name of another node')
      return
    }
    if (this.#sought.has(name)) return
    if (this.#sought.size >= MAX_SOUGHT) {
      this.#refuse(name, Status.TOO_MANY, 'too many names are being resolved')
      return
    }
    const sought: Sought = { since: now, asked: false, why: 'wanted' }
    this.#sought.set(name, sought)
    if (this.#located) this.#seek(name, sought, undefined, now)
    else this.#alone.seek(now)
  }

  noteNoPath(peer: string, now: number, isWanted = true): void {
    const pair = this.#pairs.get(peer)
    if (pair === undefined) return
    const known = this.#noPath.get(peer)
    if (known !== undefined && now < known.at) return
    const pause = known === undefined ? NO_PATH_PAUSE : Math.min(2 * known.pause, NO_PATH_LONGEST)
    this.#noPath.set(peer, { at: now + pause, pause })
    const isDirected = this.#located && !this.#sought.has(peer)
    // After the first time, what is asked now is not asked again with the direction.
    pair.retry(now, isDirected && (known !== undefined || !isWanted))
    this.#alone.meet(pair, now)
    if (!isDirected) return
    const sought: Sought = { since: now, asked: false, ...(!isWanted && { why: 'helps' }) }
    this.#sought.set(peer, sought)
    this.#seek(peer, sought, pair.route === Route.RELAY ? undefined : Want.RELAY, now)
  }

  noteGreeted(peer: string, from: Endpoint, socket: number): void {
    this.#pairs.get(peer)?.greeted(from, socket)
  }

  noteRestart(peer: string): void {
    this.#pairs.get(peer)?.restarted()
  }

  /** The tunnel has a path to the peer again. */
  notePath(peer: string, relayed: boolean): void {
    this.#noPath.delete(peer)
    if (!relayed) this.#relayed.delete(peer)
  }

  /**
   * Packets use the relay. NATs and networks change, and tunnel requests may have missed each other: from time to time
   * both nodes get a new direction and ask all candidates again (Fig. 8).
   */
  noteRelayed(peer: string, now: number): void {
    if (!this.#pairs.has(peer)) return
    const known = this.#relayed.get(peer) ?? { at: now + OPTIMISE_PAUSE, pause: OPTIMISE_PAUSE }
    this.#relayed.set(peer, known)
    if (now < known.at || !this.#located || this.#sought.has(peer)) return
    const pause = Math.min(2 * known.pause, OPTIMISE_LONGEST)
    this.#relayed.set(peer, { at: now + pause, pause })
    const sought = { since: now, asked: false }
    this.#sought.set(peer, sought)
    this.#seek(peer, sought, undefined, now)
  }

  wake(now: number): void {
    this.#moved ||= this.#pairs.size > 0
    for (const pair of this.#pairs.values()) pair.retry(now)
    this.#register(now)
  }

  forget(peer: string, now: number): void {
    if (this.#part(peer)) this.#alone.drop(peer, now)
  }

  noteEnded(peer: string): void {
    this.#part(peer)
  }

  /** It is found again by a direction, or by what is kept of it. False: there is no such pair. */
  #part(peer: string): boolean {
    const pair = this.#pairs.get(peer)
    if (pair === undefined) return false
    pair.close()
    this.#pairs.delete(peer)
    this.#byTag.delete(toHex(pair.checks.tag))
    this.#noPath.delete(peer)
    this.#relayed.delete(peer)
    this.#emit({ type: 'forgotten', peer })
    return true
  }

  poll(): NodeOutput | undefined {
    const output = this.#outputs[this.#outputsRead]
    if (output === undefined) {
      this.#outputs.length = 0
      this.#outputsRead = 0
    } else this.#outputsRead++
    return output
  }

  nextTimeout(): number | undefined {
    let at = Math.min(this.#asker.nextTimeout() ?? NEVER, this.#registerAt, this.#keepAliveAt)
    at = Math.min(at, this.#alone.nextTimeout(), this.#mappings.nextTimeout())
    for (const pair of this.#pairs.values()) at = Math.min(at, pair.nextTimeout())
    for (const { since } of this.#sought.values()) at = Math.min(at, since + SEEK_MS)
    return at === NEVER ? undefined : at
  }

  handleTimeout(now: number): void {
    this.#asker.handleTimeout(now)
    for (const pair of this.#pairs.values()) {
      if (pair.nextTimeout() <= now) pair.handleTimeout(now)
      if (!pair.relayFailed) continue
      pair.relayFailed = false
      if (pair.row.ways.length === 0) this.noteNoPath(pair.peer, now)
    }
    for (const [name, sought] of [...this.#sought])
      if (sought.since + SEEK_MS <= now) {
        const reason = this.#registered ? 'the coordinator did not direct us there' : 'not registered'
        this.#refuse(name, Status.UNREACHED, reason)
      }
    for (const output of this.#mappings.handleTimeout(now)) this.#carryOut(output, now)
    this.#alone.handleTimeout(now)
    if (this.#registerAt <= now) this.#register(now)
    if (this.#keepAliveAt <= now) this.#keepAlive(now)
  }

  /** The coordinator knows this node's current location, so its directions arrive. */
  get #located(): boolean {
    return this.#registered && !this.#registering && !this.#moved
  }

  // ---- registration (Fig. 4 steps 9–13, Fig. 7 steps 3–10)

  #setWays(now: number): void {
    const ways: Way[] = []
    for (const socket of this.#sockets)
      for (const to of this.#coordinator) if (reaches(socket, to)) ways.push({ socket: socket.socket, to })
    this.#asker.setWays(ways, now)
  }

  #register(now: number, echo?: Uint8Array): void {
    this.#registerAt = NEVER
    if (this.#asker.way === undefined) return
    this.#asker.drop(({ type }) => type === Type.REGISTRATION_REQUEST)
    this.#registering = true
    this.#step(this.#own, this.#dc, Type.REGISTRATION_REQUEST, now)
    this.#makePrekeys()
    this.#asker.request(
      {
        type: Type.REGISTRATION_REQUEST,
        candidates: this.#hosts,
        prekeys: this.#prekeys,
        ...this.#ownLease,
        ...(echo !== undefined && { echo }),
        ...(this.#init.notifications !== undefined && {
          want: Want.NOTIFICATIONS,
          ...this.#init.notifications,
        }),
        padding: Math.max(0, PADDED - (this.#init.notifications?.push?.length ?? 0)),
      },
      REQUEST_MS,
      (answer, way, at) => this.#registrationAnswered(answer, way, echo !== undefined, at),
      now,
    )
  }

  get #ownLease(): Pick<Message, 'lease'> {
    const { encoded } = this.#leases
    return encoded === undefined ? {} : { lease: encoded }
  }

  get #hosts() {
    const hosts = this.#sockets.flatMap(({ addresses, port, replaced }) =>
      replaced ? [] : addresses.map((address) => ({ kind: 'host' as const, endpoint: { address, port } })),
    )
    return hosts.slice(0, MAX_HOSTS)
  }

  /**
   * This process ends: it takes back the keys that it has left at the coordinator, since nobody can open any more what comes behind a
   * message 1 under one of them. Where it is stays as it is: it may be back in a moment.
   */
  end(now: number): void {
    if (!this.#registered) return
    this.#step(this.#own, this.#dc, Type.REGISTRATION_REQUEST, now)
    const message = { type: Type.REGISTRATION_REQUEST, candidates: this.#hosts, padding: PADDED }
    this.#asker.request({ ...message, ...this.#ownLease }, REQUEST_MS, () => {}, now)
  }

  #makePrekeys(): void {
    const { prekey } = this.#init
    if (prekey === undefined) return
    const fresh = Array.from({ length: PREKEYS - this.#prekeys.length }, () => prekey())
    this.#prekeys = [...this.#prekeys, ...fresh]
  }

  /** The coordinator has given one of them to a peer: it gets another. Undefined: it is none of ours any more. */
  #replacePrekey(given: number): Prekey | undefined {
    const left = this.#prekeys.filter(({ index }) => index !== given)
    if (left.length === this.#prekeys.length) return undefined
    this.#prekeys = left
    this.#makePrekeys()
    return this.#prekeys.at(-1)
  }

  #registrationAnswered(
    answer: Message | undefined,
    way: Way | undefined,
    echoed: boolean,
    now: number,
  ): void {
    this.#registering = false
    if (answer === undefined || way === undefined) {
      this.#unregister('the coordinator does not answer', now)
      this.#registerAt = now + REGISTER_AGAIN
      return
    }
    this.#step(this.#dc, this.#own, Type.REGISTRATION_RESPONSE, now)
    const status = answer.status ?? Status.DONE
    if (status === Status.PROVE_ADDRESS && answer.challenge !== undefined && !echoed) {
      this.#register(now, answer.challenge)
      return
    }
    const lease = answer.lease && this.#leases.own(answer.lease)
    if (status !== Status.DONE || lease === undefined || answer.lease === undefined) {
      // A lease that is refused is of no use any more: the next registration asks for another one.
      if (status === Status.LEASE_REFUSED) this.#leases.encoded = undefined
      const ended = answer.lease !== undefined && this.#leases.hasEnded(answer.lease)
      const unusable = ended ? `its lease ${ENDED}` : 'its lease is not ours'
      const reason = status === Status.DONE ? unusable : reasonOf(status)
      this.#unregister(`the coordinator refuses: ${reason}`, now)
      this.#registerAt = now + REGISTER_AGAIN
      return
    }
    this.#leases.encoded = answer.lease
    this.#leases.addresses = lease
    this.#registered = true
    this.#alone.end()
    this.#confirmedAt = now
    this.#trouble = undefined
    this.#registerAt = now + 500 * Math.max(10, answer.lifetime ?? 3600)
    this.#keepAliveMs = 1000 * (answer.keepAlive ?? 0)
    this.#armKeepAlive(now)
    if (answer.observed !== undefined) this.#noteObserved(way, answer.observed, now)
    this.#emit({
      type: 'registered',
      lease,
      encoded: answer.lease,
      observed: answer.observed ?? way.to,
      ...this.#notificationIn(answer),
    })
    // Until it has proven this address the coordinator directs peers to the one before.
    if (answer.challenge === undefined) this.#afterRegistration(now)
    else this.#echo(answer.challenge, now, (at) => this.#afterRegistration(at))
  }

  #notificationIn({ notificationServer, token, certificate }: Message) {
    if (notificationServer === undefined || token === undefined || certificate === undefined) return {}
    return { notification: { ...notificationServer, token, certificate } }
  }

  /**
   * Asks the coordinator where it sees the other sockets. Only an echo would locate the node there: where it is directed to
   * stays as it is.
   */
  #observe(now: number): void {
    if (this.#pairs.size === 0) return
    const main = this.#asker.way
    for (const socket of this.#sockets) {
      const known = this.#observed.get(socket.socket)
      if (socket.socket === main?.socket || (known !== undefined && now - known.at < OBSERVED_MS)) continue
      const to = this.#coordinator.find((each) => reaches(socket, each))
      if (to === undefined) continue
      const way = { socket: socket.socket, to }
      const answered = (answer: Message | undefined, _way: Way | undefined, at: number) => {
        if (answer?.observed === undefined || !this.#sockets.includes(socket)) return
        this.#noteObserved(way, answer.observed, at)
        this.#place(at)
      }
      this.#asker.request({ type: Type.KEEP_ALIVE }, ECHO_MS, answered, now, way)
    }
    this.#place(now)
  }

  #noteObserved({ socket, to }: Way, endpoint: Endpoint, now: number): void {
    this.#observed.set(socket, { endpoint, at: now })
    const output = this.#mappings.observed(socket, to, endpoint, now)
    if (output !== undefined) this.#carryOut(output, now)
  }

  #carryOut(output: MappingsOutput, now: number): void {
    if (output.type === 'renew') {
      this.#log(
        'debug',
        `${output.access}: ${mappingsEnd(this.#mappings.lifetime(output.access))}; another socket takes over`,
      )
      this.#emit(output)
    } else if (this.#asker.open) this.#look(output.way, now)
  }

  /** Asks where the coordinator sees a socket. One that locates this node and has moved is shown to it. */
  #look(way: Way, now: number): void {
    const socket = this.#sockets.find((each) => each.socket === way.socket)
    const answered = (answer: Message | undefined, _way: Way | undefined, at: number) => {
      if (answer?.observed === undefined || socket === undefined || !this.#sockets.includes(socket)) return
      this.#noteObserved(way, answer.observed, at)
      if (answer.challenge !== undefined && way.socket === this.#asker.way?.socket)
        this.#echo(answer.challenge, at)
    }
    this.#asker.request({ type: Type.KEEP_ALIVE }, LOOK_MS, answered, now, way)
  }

  /** Peers are told where this node is reached, if that is at more than one place. */
  #place(now: number): void {
    const isFirst = ({ access }: NodeSocket) => (access === this.#preferred ? 0 : 1)
    const sockets = [...this.#sockets].sort((a, b) => isFirst(a) - isFirst(b))
    const places = sockets.flatMap(({ socket }) => this.#observed.get(socket)?.endpoint ?? [])
    for (const pair of this.#pairs.values()) pair.setPlaces(places.length > 1 ? places : undefined, now)
  }

  #afterRegistration(now: number): void {
    this.#observe(now)
    for (const [name, sought] of this.#sought) if (!sought.asked) this.#seek(name, sought, undefined, now)
    if (!this.#moved) return
    this.#moved = false
    for (const pair of this.#pairs.values()) {
      if (this.#sought.size >= MAX_SOUGHT) break
      this.#asker.drop(({ type, name }) => type === Type.DIRECTION_REQUEST && name === pair.peer)
      const sought = { since: now, asked: false }
      this.#sought.set(pair.peer, sought)
      this.#seek(pair.peer, sought, pair.wantsChannel ? Want.ANOTHER_CHANNEL : undefined, now)
    }
  }

  /** Returns a challenge from the address it arrived at: the coordinator then takes this address as ours. */
  #echo(echo: Uint8Array, now: number, then: (now: number) => void = () => {}): void {
    this.#step(this.#own, this.#dc, Type.KEEP_ALIVE, now)
    this.#asker.request({ type: Type.KEEP_ALIVE, echo }, ECHO_MS, (_answer, _way, at) => then(at), now)
  }

  #keepAlive(now: number): void {
    this.#armKeepAlive(now)
    this.#confirm(Type.KEEP_ALIVE, () => {}, now)
  }

  /** Shows the coordinator where this node is; `then` once that is known. Once at a time. */
  #confirm(
    type: typeof Type.KEEP_ALIVE | typeof Type.NOTIFICATION_ACK,
    then: (isConfirmed: boolean, now: number) => void,
    now: number,
  ): void {
    if (this.#confirming !== undefined) {
      this.#confirming.push(then)
      return
    }
    this.#confirming = [then]
    this.#step(this.#own, this.#dc, type, now)
    this.#asker.request(
      { type },
      Math.min(REQUEST_MS, Math.max(1000, this.#keepAliveMs)),
      (answer, _way, at) => {
        // Silent, or there is a notification server now.
        const registers = answer === undefined || (answer.want === Want.NOTIFICATIONS && !this.#notified)
        if (registers && this.#registered && !this.#registering) this.#register(at)
        // The NAT in front of us gave us another mapping: the coordinator has to prove it.
        if (answer?.challenge === undefined) this.#confirmed(answer !== undefined, at)
        else this.#echo(answer.challenge, at, (echoedAt) => this.#confirmed(true, echoedAt))
      },
      now,
    )
  }

  #confirmed(isConfirmed: boolean, now: number): void {
    if (isConfirmed) this.#confirmedAt = now
    const waiting = this.#confirming ?? []
    this.#confirming = undefined
    for (const then of waiting) then(isConfirmed, now)
  }

  /** Without keep-alives the NAT in front of us may have forgotten us: then no direction would arrive. */
  get #isQuiet(): boolean {
    return this.#notified && this.#keepAliveMs > 0
  }

  #armKeepAlive(now: number): void {
    const wanted = this.#registered && this.#keepAliveMs > 0 && !this.#notified
    this.#keepAliveAt = wanted ? now + this.#keepAliveMs : NEVER
  }

  #unregister(reason: string, now: number): void {
    if (this.#registered) this.#registerAt = Math.min(this.#registerAt, now + REGISTER_AGAIN)
    this.#registered = false
    this.#alone.expect(0, now)
    this.#keepAliveAt = NEVER
    if (this.#trouble === reason) return
    this.#trouble = reason
    this.#emit({ type: 'unregistered', reason })
  }

  // ---- directions (Fig. 5, Fig. 7 from step 11 on)

  #seek(name: string, sought: Sought, want: number | undefined, now: number): void {
    sought.asked = true
    if (!this.#isQuiet || now - this.#confirmedAt < this.#keepAliveMs) {
      this.#requestDirection(name, want, now)
      return
    }
    this.#confirm(
      Type.KEEP_ALIVE,
      (isConfirmed, at) => {
        if (this.#sought.get(name) !== sought) return
        if (isConfirmed) this.#requestDirection(name, want, at)
        else sought.asked = false // the registration that follows asks
      },
      now,
    )
  }

  #requestDirection(name: string, want: number | undefined, now: number): void {
    this.#step(this.#own, this.#dc, Type.DIRECTION_REQUEST, now)
    this.#asker.request(
      {
        type: Type.DIRECTION_REQUEST,
        name,
        ...(want !== undefined && { want }),
        padding: LEAST_DIRECTION,
      },
      SEEK_MS,
      (answer, _way, at) => {
        // Directed: the request was dropped. Else the refusal, or nothing.
        if (answer === undefined || !this.#sought.has(name)) return
        this.#step(this.#dc, this.#own, Type.DIRECTION_RESPONSE, at)
        const status = answer.status ?? Status.UNREACHED
        if (status === Status.DONE) return
        if (status === Status.NOT_REGISTERED && this.#registered) this.#register(at)
        this.#refuse(name, status, reasonOf(status))
      },
      now,
    )
  }

  #refuse(peer: string, status: number, reason: string): void {
    this.#sought.delete(peer)
    this.#emit({ type: 'refused', peer, reason, status })
  }

  #message(message: Message, way: Way, now: number): void {
    if (message.type === Type.NOTIFICATION) {
      this.#isReadable = true
      this.#confirm(Type.NOTIFICATION_ACK, () => {}, now)
    } else this.#step(this.#dc, this.#own, message.type, now)
    if (message.type !== Type.ROUTE_DIRECTION) return
    const status = this.#directed(message, now)
    this.#step(this.#own, this.#dc, Type.ROUTE_DIRECTION_ACK, now)
    const { transaction, name = '' } = message
    const fresh = status === Status.DONE ? this.#pairs.get(name)?.freshPrekey(transaction) : undefined
    const prekeys = fresh && { prekeys: [fresh] }
    this.#asker.tell({ type: Type.ROUTE_DIRECTION_ACK, transaction, status, ...prekeys }, way)
  }

  #directed(message: Message, now: number): Status {
    const { name, pairKey, candidates = [], relays = [] } = message
    const route = Object.values(Route).find((each) => each === message.route)
    if (name === undefined || name === this.#own || pairKey === undefined || route === undefined)
      return Status.NOT_ALLOWED
    const lease = message.lease && this.#leases.peer(name, message.lease, message.zoneKey)
    if (lease === undefined) {
      const ended = message.lease !== undefined && this.#leases.hasEnded(message.lease)
      const why = ended ? ENDED : 'its zone has not signed'
      this.#log('warn', `a direction to ${name} had a lease that ${why}; ignored`)
      return Status.LEASE_REFUSED
    }
    let pair = this.#pairs.get(name)
    if (pair?.hasFollowed(message.transaction) === true) return Status.DONE
    if (!this.#sought.has(name) && pair === undefined && !this.#unasked.take(now)) return Status.TOO_MANY
    if (this.#leases.collides(lease, this.#pairs.values())) {
      this.#log('warn', `a direction to ${name} had an address of another node; ignored`)
      return Status.LEASE_REFUSED
    }
    const why = this.#sought.get(name)?.why
    const asked = this.#sought.delete(name)
    this.#asker.drop((each) => each.type === Type.DIRECTION_REQUEST && each.name === name)
    // A key has one name: its node was given another.
    for (const other of this.#pairs.values())
      if (other.peer !== name && equal(other.row.publicKey, lease.publicKey)) this.forget(other.peer, now)
    const direction = { lease, route, candidates, relays }
    const before = pair?.row.publicKey ?? this.#alone.keyOf(name)
    if (before !== undefined && !equal(before, lease.publicKey))
      this.#log(
        'warn',
        `${name} has another key than before: it, or somebody else with its password, logged in again`,
      )
    pair = this.#pairFor(name, direction, pairKey, now)
    const { prekeys: [prekey] = [], prekeyIndex } = message
    const fresh = prekeyIndex === undefined ? undefined : this.#replacePrekey(prekeyIndex)
    pair.follow(message.transaction, fresh)
    const given = fresh === undefined ? undefined : prekeyIndex
    const early = asked ? prekey !== undefined : given !== undefined
    this.#emit({
      ...{ type: 'direction', peer: name, lease, pairKey, leads: pair.leads, route, asked },
      ...(why === 'wanted' && { wanted: true }),
      ...(asked && prekey !== undefined && { prekey }),
      ...(given !== undefined && { given }),
    })
    pair.direct(direction, this.#sockets, { asked, early, isPaid: why !== 'helps' }, now)
    this.#observe(now)
    const { zoneKey, lease: encoded = new Uint8Array(0) } = message
    const places = pair.places
    const kept = { name, lease: encoded, pairKey, places, ...(zoneKey !== undefined && { zoneKey }) }
    this.#alone.keep(kept, now)
    return Status.DONE
  }

  /** The pair with this peer and key: the one that there is, or a new one. */
  #pairFor(name: string, direction: PairDirection, pairKey: Uint8Array, now: number): Pair {
    const known = this.#pairs.get(name)
    const leads = compare(this.#init.publicKey, direction.lease.publicKey) < 0
    if (known !== undefined && equal(known.pairKey, pairKey) && known.leads === leads) return known
    if (known !== undefined) this.forget(name, now)
    else if (this.#pairs.size >= MAX_PAIRS) this.#forgetOldest(now)
    const pair: Pair = new Pair(
      {
        ...{ crypto: this.#parts.crypto, random: this.#parts.random, wall: this.#parts.wall },
        peer: name,
        own: this.#own,
        emit: (output) => this.#emit(output),
        step: (from, to, what, at) => this.#step(from, to, what, at),
        onPlace: () => this.#alone.placed(pair),
        onAnswer: (at) => this.#alone.answered(pair, at),
        onObserved: (socket, endpoint, at) => {
          // The coordinator's word counts while there is one.
          if (this.#alone.isAlone && mayBeHost(endpoint)) this.#observed.set(socket, { endpoint, at })
        },
        onMeeting: (message, at) => this.#alone.meeting(pair, message, at),
        onChannel: ({ channel, endpoint }, isThere) => {
          const key = channelKey(channel, endpoint)
          if (isThere) this.#byChannel.set(key, pair)
          else if (this.#byChannel.get(key) === pair) this.#byChannel.delete(key)
        },
        observedOf: (socket) => this.#observed.get(socket)?.endpoint,
        askedPorts: this.#askedPorts,
        bindingCounters: this.#bindingCounters,
      },
      direction,
      { pairKey, leads },
      now,
    )
    this.#pairs.set(name, pair)
    this.#byTag.set(toHex(pair.checks.tag), pair)
    return pair
  }

  #forgetOldest(now: number): void {
    let oldest: Pair | undefined
    for (const pair of this.#pairs.values())
      if (oldest === undefined || pair.row.directedAt < oldest.row.directedAt) oldest = pair
    if (oldest !== undefined) this.forget(oldest.peer, now)
  }

  // ---- outputs

  get #dc(): string {
    return this.#init.credentials.coordinator
  }

  #step(from: string, to: string, what: number | string, now: number): void {
    const text = typeof what === 'number' ? nameOfType(what) : what
    this.#emit({ type: 'step', at: now, from, to, what: text })
  }

  #log(level: 'warn' | 'debug', message: string): void {
    this.#emit({ type: 'log', level, message })
  }

  #emit(output: NodeOutput): void {
    this.#outputs.push(output)
  }
}

/** Of a relay's channel, where its address sends from: at a question, another port. */
function channelKey(channel: number, { address }: Endpoint): string {
  return `${channel} ${toHex(address)}`
}

function describe(sockets: readonly NodeSocket[]): string {
  return sockets
    .map(({ socket, addresses, port, priority, replaced, translates }) =>
      [socket, port, priority, replaced === true, translates === true, ...addresses.map(toHex)].join(),
    )
    .join(';')
}
