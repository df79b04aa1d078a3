/**
 * One peer of a node: the row of the tunnel table (NT-35) and the search for ways: bindings at the relay, tunnel requests
 * to the peer's candidates, and updates of both when this end's sockets change. Ways are passed to the tunnel, which
 * proves and monitors them itself.
 */

import { kindOf } from '../../core/address.ts'
import { equal, toHex } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { endpointKey, type RouteKind, sameEndpoint, type TunnelRow, type TunnelWay } from '../tables.ts'
import type { Check, RelayBind, Seen } from '../wire/datagram.ts'
import type { Lease } from '../wire/lease.ts'
import { type Candidate, type Message, type Prekey, type RelaySide, Route, Type } from '../wire/message.ts'
import type { MachineComponents, NodeOutput, NodeSocket } from './api.ts'
import { Binding, type BindingCounters } from './binding.ts'
import { Checks, type Target } from './checks.ts'
import { type AskedPorts, MAX_PORTS, Prediction, type RelayView } from './prediction.ts'
import { mayBeHost } from './virtual.ts'

/** Ways kept of a peer; the oldest gives way. */
const MAX_WAYS = 16
/** Places that a peer may name beside those that its coordinator names: one for each of its accesses. */
const MAX_NAMED = 4
/** Bytes of message 1 of the handshake with its headers, over IPv6. */
const INTRODUCTION_BYTES = 196
/** What message 1 of the peer lets go to its source: three times its bytes, less message 2 and an own message 1. */
const FOR_GREETING = 3 * 176 - 140 - 176
/** Three announcements of a path (bytes). */
const FOR_ANNOUNCING = 3 * 170
/** Places that packets go to before the peer has answered there. */
const MAX_HOPED = 2
/** Longer ago, a place that answered may be one that the peer has left (ms): asking all takes two seconds. */
const ROUND_MS = 3000
/** Places where the peer has answered that are remembered. */
const MAX_REMOTES = 8
/** Channels of a pair at a time: the one in use, and those that handovers of both ends asked for, or another relay's. */
const MAX_CHANNELS = 3
/** Directions of a pair that may be repeated after the next one: both ends may ask at a time. */
const MAX_FOLLOWED = 4
/** Max rate (per second) and burst of unrequested directions that cause candidates to be asked. */
const UNASKED_RATE = 0.5
const UNASKED_BURST = 5
/** Max rate (per second) and burst of ranges of ports that the peer has tried: each draws one request to each port. */
const PORTS_RATE = 0.2
const PORTS_BURST = 6
const IPV4 = 4
const NEVER = Number.POSITIVE_INFINITY

export interface PairParts extends MachineComponents {
  readonly peer: string
  readonly emit: (output: NodeOutput) => void
  readonly step: (from: string, to: string, what: number | string, now: number) => void
  /** This node's name. */
  readonly own: string
  /** The peer has answered at a place where it had not before. */
  readonly onPlace: () => void
  readonly onAnswer: (now: number) => void
  readonly onObserved: (socket: number, observed: Endpoint, now: number) => void
  readonly onMeeting: (message: Message, now: number) => void
  /** A channel that this pair has from now on, or has not any more. */
  readonly onChannel: (side: RelaySide, isThere: boolean) => void
  /** Where the coordinator sees the socket. */
  readonly observedOf: (socket: number) => Endpoint | undefined
  /** Of all pairs. */
  readonly askedPorts: AskedPorts
  readonly bindingCounters: BindingCounters
}

export interface PairDirection {
  readonly lease: Lease
  readonly route: Route
  readonly candidates: readonly Candidate[]
  readonly relays: readonly RelaySide[]
}

export class Pair {
  readonly peer: string
  readonly checks: Checks
  readonly leads: boolean
  readonly pairKey: Uint8Array
  /**
   * Transactions of the directions followed last, each with the key that its answer gives the coordinator in the place of
   * the one that the peer was given: a direction is repeated until its answer has arrived.
   */
  readonly #followed = new Map<number, Prekey | undefined>()
  /** The relay no longer answers: a fresh direction is wanted. */
  relayFailed = false
  /** A better socket is there beside the one that the relay is bound to. */
  wantsChannel = false
  readonly #parts: PairParts
  readonly #bindings = new Map<number, Binding>()
  #direction: PairDirection
  #sockets: readonly NodeSocket[] = []
  #ways: TunnelWay[] = []
  /** Where the peer has answered, the latest first: it may be there again, when no coordinator says where it is. */
  #remotes: Endpoint[] = []
  #moved = false
  /** This node asked for the last direction. */
  #asked = false
  /** Packets may come behind message 1: of this node, which asked, or of the peer. */
  #early = false
  /** Of the last direction: where packets go before the peer has answered there. */
  #hoped: Endpoint[] = []
  /** Where the peer says that it is reached, the one that it prefers first. */
  #named: readonly Endpoint[] = []
  /** Where this node is reached, the same way; undefined: the peer need not be told. */
  #places: readonly Endpoint[] | undefined
  /** The peer has been told, over some way. */
  #isTold = false
  #directedAt: number
  readonly #unasked = new TokenBucket(UNASKED_RATE, UNASKED_BURST)
  readonly #prediction: Prediction
  readonly #tried = new TokenBucket(PORTS_RATE, PORTS_BURST)

  constructor(
    parts: PairParts,
    direction: PairDirection,
    keys: { readonly pairKey: Uint8Array; readonly leads: boolean },
    now: number,
  ) {
    this.#parts = parts
    this.peer = parts.peer
    this.pairKey = keys.pairKey
    this.leads = keys.leads
    this.#direction = direction
    this.#directedAt = now
    this.checks = new Checks({
      crypto: parts.crypto,
      random: parts.random,
      ...keys,
      send: (socket, to, bytes) => parts.emit({ type: 'send', socket, to, bytes }),
      onAnswer: ({ socket, remote }, isProven, at) => this.#answered(socket, remote, isProven, at),
      onNamed: (places, at) => this.#take(places, at),
      onObserved: parts.onObserved,
      onMeeting: parts.onMeeting,
      onStep: (incoming, type, at) =>
        incoming ? parts.step(this.peer, parts.own, type, at) : parts.step(parts.own, this.peer, type, at),
    })
    this.#prediction = new Prediction({
      asked: parts.askedPorts,
      draw: (limit) => new DataView(parts.random.fill(new Uint8Array(4)).buffer).getUint32(0) % limit,
      ask: (port, number) => this.#boundRelay?.ask(port, number),
      tell: (place, first, last, at) => this.#tellPorts(place, first, last, at),
    })
  }

  follow(transaction: number, fresh: Prekey | undefined): void {
    this.#followed.set(transaction, fresh)
    if (this.#followed.size > MAX_FOLLOWED) this.#followed.delete(this.#followed.keys().next().value!)
  }

  hasFollowed(transaction: number): boolean {
    return this.#followed.has(transaction)
  }

  freshPrekey(transaction: number): Prekey | undefined {
    return this.#followed.get(transaction)
  }

  get row(): TunnelRow {
    const { lease, route, candidates, relays } = this.#direction
    return {
      peer: this.peer,
      publicKey: lease.publicKey,
      v6: lease.v6,
      ...(lease.v4 !== undefined && { v4: lease.v4 }),
      pairKey: this.pairKey,
      leads: this.leads,
      route,
      candidates,
      ...(relays[0] !== undefined && { relay: relays[0] }),
      ways: this.#ways,
      directedAt: this.#directedAt,
    }
  }

  /** Where the peer has answered, the latest first, and where it is said to be. */
  get places(): Endpoint[] {
    const others = this.#direction.candidates.map(({ endpoint }) => endpoint)
    const all = [...this.#remotes, ...others.filter(mayBeHost)]
    return all.filter((each, i) => all.findIndex((other) => sameEndpoint(other, each)) === i)
  }

  /** The way, no relay's, where the peer has answered last. */
  get meetingWay(): TunnelWay | undefined {
    const at = (way: TunnelWay) => this.checks.answeredAt(way)
    const direct = this.#ways.filter((way) => way.kind !== 'relay' && this.checks.answered(way))
    return direct.reduce<TunnelWay | undefined>(
      (best, way) => (best && at(best) >= at(way) ? best : way),
      undefined,
    )
  }

  /** Shows the peer where this node is, and keeps NATs open; asks everywhere if no way is known. */
  call(now: number): void {
    const ways = this.#ways.filter(({ kind }) => kind !== 'relay')
    if (ways.length === 0) this.#ask(now)
    else this.checks.ask(ways, now)
  }

  get route(): Route {
    return this.#direction.route
  }

  /**
   * Whether this end opens what is found: the leader, and whoever asked and so has packets while there is no way yet.
   */
  get #opens(): boolean {
    return this.leads || (this.#asked && this.#ways.length === 0)
  }

  /**
   * A direction for this pair: binds its relay, asks its candidates. Repeated unrequested directions ask no more often
   * than the bucket allows.
   */
  direct(
    direction: PairDirection,
    sockets: readonly NodeSocket[],
    {
      asked,
      early,
      isPaid = true,
    }: { readonly asked: boolean; readonly early: boolean; readonly isPaid?: boolean },
    now: number,
  ): void {
    this.#direction = direction
    this.#directedAt = now
    this.#sockets = sockets
    this.relayFailed = false
    this.#asked = asked
    this.#early = early
    this.#hoped = []
    for (const side of direction.relays) if (mayBeHost(side.endpoint)) this.#bind(side, asked, now)
    if (!asked && !this.#unasked.take(now)) return
    this.#ask(now, isPaid)
    if (this.#ways.length === 0) this.#introduce()
  }

  /**
   * Message 1 of the peer came from there. If the direction that this node asked for has the peer there, packets need not
   * wait for another answer; as many bytes as the direction may still draw.
   */
  greeted(from: Endpoint, socket: number): void {
    if (!this.#asked && !this.#early) return
    const { candidates } = this.#direction
    const isRelay = [...this.#bindings.values()].some(
      (binding) => binding.socket === socket && sameEndpoint(binding.side.endpoint, from),
    )
    const isThere = candidates.some(({ endpoint }) => sameEndpoint(endpoint, from) && mayBeHost(endpoint))
    if (isRelay || isThere) this.#hope(isRelay ? 'relay' : kindOfWay(from), socket, from, FOR_GREETING)
  }

  /** Packets go there before the peer has answered, as many bytes as the direction may still draw, and `more`. */
  #hope(kind: RouteKind, socket: number, remote: Endpoint, more = 0): void {
    if (this.#ways.length > 0) return
    const times = this.#hoped.filter((each) => sameEndpoint(each, remote)).length
    const again = times > 0
    // Behind message 1, and once more when the peer greets: not with each message 1 that it sends.
    const places = new Set(this.#hoped.map(endpointKey)).size
    if (times > 1 || (!again && places >= MAX_HOPED)) return
    const bytes = more + (again ? 0 : this.checks.spendHalf() - FOR_ANNOUNCING)
    if (bytes <= 0) return
    this.#hoped.push(remote)
    this.#parts.emit({
      ...{ type: 'way', peer: this.peer, kind, socket, remote, open: true, known: 'hoped', bytes },
    })
  }

  /** Sets where this node is reached over each access, the preferred first; undefined: nothing that the peer does not know. */
  setPlaces(places: readonly Endpoint[] | undefined, now: number): void {
    const text = (list: readonly Endpoint[] | undefined) => list?.map(endpointKey).join()
    if (text(places) === text(this.#places)) return
    this.#places = places
    this.#isTold = false
    this.#tell(now)
  }

  /** Every place is asked again over every socket, by both ends. */
  renew(now: number): void {
    this.#isTold = false
    this.#ask(now)
    this.#tell(now)
  }

  /** Sets the current sockets; `gone` are those that were closed. */
  setSockets(sockets: readonly NodeSocket[], gone: ReadonlySet<number>, now: number): void {
    const before = new Set(this.#sockets.map(({ socket }) => socket))
    const fresh = sockets.filter(({ socket }) => !before.has(socket))
    const isSettled =
      fresh.length === 0 && this.#sockets.every(({ socket, replaced }) => !gone.has(socket) || replaced)
    this.#sockets = sockets
    this.#moved ||= gone.size > 0 || fresh.length > 0
    // Where the peer is does not change with us: it is tried from the new socket at once.
    const there = this.#ways.filter(({ kind }) => kind !== 'relay').map(({ remote }) => remote)
    for (const way of [...this.#ways]) if (gone.has(way.socket)) this.#lose(way)
    const remotes = there.length > 0 ? there : this.#remotes.slice(0, MAX_NAMED)
    for (const [i, remote] of remotes.entries())
      for (const socket of remotes.findIndex((each) => sameEndpoint(each, remote)) < i ? [] : fresh)
        if (reaches(socket, remote) && !isOwn(socket, remote))
          this.#have({ kind: kindOfWay(remote), socket: socket.socket, remote }, true, 'likely')
    this.#isTold = false
    for (const socket of gone) this.checks.dropSocket(socket)
    if (gone.size > 0) this.#prediction.end()
    for (const binding of [...this.#bindings.values()]) {
      const best = this.#socketFor(binding.side.endpoint)
      if (best === undefined || best.socket === binding.socket) continue
      if (gone.has(binding.socket) && this.#hasSuccessor(binding, gone)) {
        this.#dropChannel(binding.side.channel)
        continue
      }
      if (gone.has(binding.socket) || binding.state === 'failed') binding.bind(best.socket, now)
      else if (fresh.includes(best)) this.wantsChannel = true
    }
    if (!isSettled) this.#ask(now)
  }

  /** Another channel at the same relay is bound from a socket that stays. */
  #hasSuccessor({ side }: Binding, gone: ReadonlySet<number>): boolean {
    return [...this.#bindings.values()].some(
      (other) =>
        other.side.channel !== side.channel &&
        equal(other.side.endpoint.address, side.endpoint.address) &&
        other.state === 'bound' &&
        !gone.has(other.socket),
    )
  }

  handleCheck(check: Check, from: Endpoint, socket: number, now: number): void {
    this.checks.handle(check, from, socket, now)
  }

  handleBound(bound: RelayBind, from: Endpoint, socket: number, now: number): void {
    this.#bindings.get(bound.channel)?.handle(bound, from, socket, now)
  }

  /** A CHECK that a relay has forwarded: the peer names ports that it may be reached at. */
  handleRelayed(check: Check, from: Endpoint, now: number): void {
    const isRelay = ({ side, state }: Binding) => state === 'bound' && sameEndpoint(side.endpoint, from)
    if (![...this.#bindings.values()].some(isRelay)) return
    const message = this.checks.openRelayed(check)
    if (message !== undefined) this.#tryPorts(message, check, now)
  }

  /** The peer's process is another one than before: places that answered before the last direction were that one's. */
  restarted(): void {
    for (const way of [...this.#ways])
      if (way.kind !== 'relay' && this.checks.answeredAt(way) < this.#directedAt) this.#lose(way)
  }

  /** The tunnel's paths are dead: tries everything again; `isDirected`: the candidates are asked with the direction that is requested. */
  retry(now: number, isDirected = false): void {
    for (const binding of this.#bindings.values()) {
      const best = this.#socketFor(binding.side.endpoint)
      if (best !== undefined && binding.state !== 'binding') binding.bind(best.socket, now)
    }
    if (isDirected) this.checks.ask(this.#targets(this.#remotes), now, false)
    else this.#ask(now)
  }

  /** Ends every way. */
  close(): void {
    for (const { side } of this.#bindings.values()) this.#parts.onChannel(side, false)
    for (const way of [...this.#ways]) this.#lose(way)
  }

  nextTimeout(): number {
    let at = Math.min(this.checks.nextTimeout(), this.#prediction.nextTimeout())
    for (const binding of this.#bindings.values()) at = Math.min(at, binding.nextTimeout())
    return at
  }

  handleTimeout(now: number): void {
    this.checks.handleTimeout(now)
    this.#prediction.handleTimeout(now)
    for (const binding of [...this.#bindings.values()])
      if (binding.nextTimeout() < NEVER) binding.handleTimeout(now)
  }

  // ---- relay

  #bind(side: RelaySide, asked: boolean, now: number): void {
    const known = this.#bindings.get(side.channel)
    const socket = this.#socketFor(side.endpoint)
    if (known !== undefined && equal(known.side.key, side.key)) {
      // The peer looks for this node: its NAT may have forgotten the relay, or use another port for it by now.
      const isOld = !asked && known.state === 'bound' && now - known.begunAt > ROUND_MS
      if (socket !== undefined && (isOld || known.state === 'failed')) known.bind(socket.socket, now)
      return
    }
    if (known !== undefined) this.#dropChannel(side.channel)
    while (this.#bindings.size >= MAX_CHANNELS) this.#dropChannel([...this.#bindings.keys()][0]!)
    const binding = new Binding({
      crypto: this.#parts.crypto,
      random: this.#parts.random,
      wall: this.#parts.wall,
      side,
      counters: this.#parts.bindingCounters,
      send: (from, bytes, port) => {
        const to = port === undefined ? side.endpoint : { ...side.endpoint, port }
        this.#parts.emit({ type: 'send', socket: from, to, bytes })
        if (port !== undefined) return
        // Behind the request that binds: if that does, the handshake need not wait for its answer.
        if (this.#opens || this.#ways.length === 0)
          this.#parts.emit({ type: 'introduce', peer: this.peer, socket: from, remote: side.endpoint })
      },
      onBound: (from, at) => {
        this.#parts.step('relay', this.#parts.own, 'RELAY_BOUND', at)
        this.#loseRelay(side.endpoint, from)
        const way = { kind: 'relay', socket: from, remote: side.endpoint } as const
        this.#have(way, this.#opens || this.#moved, 'proven')
        this.#predict(binding, at)
      },
      onSeen: (number, port) => this.#prediction.seen(number, port),
      onFailed: () => {
        this.relayFailed = true
        this.#loseRelay(side.endpoint)
      },
    })
    this.#bindings.set(side.channel, binding)
    this.#parts.onChannel(side, true)
    if (socket === undefined) return
    this.#parts.step(this.#parts.own, 'relay', 'RELAY_BIND', now)
    binding.bind(socket.socket, now)
    this.wantsChannel = false
  }

  #dropChannel(channel: number): void {
    const binding = this.#bindings.get(channel)
    if (binding === undefined) return
    this.#bindings.delete(channel)
    this.#parts.onChannel(binding.side, false)
    this.#loseRelay(binding.side.endpoint)
  }

  #loseRelay(endpoint: Endpoint, except?: number): void {
    for (const way of [...this.#ways])
      if (way.kind === 'relay' && way.socket !== except && sameEndpoint(way.remote, endpoint)) this.#lose(way)
  }

  // ---- candidates

  /** Fig. 8: requests to all that the peer may be reached at or was, over every socket. */
  #ask(now: number, isPaid = true): void {
    const named = this.#direction.candidates.map(({ endpoint }) => endpoint).filter(mayBeHost)
    const all = [...named, ...this.#named, ...this.#remotes]
    const first = (endpoint: Endpoint) => all.find((each) => sameEndpoint(each, endpoint))
    const place = this.#predictable
    const view = place === undefined ? undefined : this.#relayView
    const socket = place === undefined ? undefined : this.#socketFor(place)
    if (place === undefined || socket === undefined) this.#prediction.end()
    else this.#prediction.before(view, socket.socket, place, now)
    this.checks.ask(this.#targets(all.filter((endpoint) => first(endpoint) === endpoint)), now, isPaid)
    this.#prediction.after(view, now)
  }

  // ---- ports of symmetric NATs (prediction.ts)

  /** Where the peer's NAT has it, while there is no direct way. */
  get #predictable(): Endpoint | undefined {
    if (this.#ways.some(({ kind }) => kind !== 'relay')) return undefined
    return this.#peerPlaces.find(({ address }) => address.length === IPV4)
  }

  /** Where the coordinator sees the peer. */
  get #peerPlaces(): readonly Endpoint[] {
    return this.#direction.candidates
      .filter(({ kind, endpoint }) => kind === 'reflexive' && mayBeHost(endpoint))
      .map(({ endpoint }) => endpoint)
  }

  /** A binding whose relay says what it sees. */
  get #boundRelay(): Binding | undefined {
    return [...this.#bindings.values()].find(
      ({ seen, side }) => seen !== undefined && side.endpoint.address.length === IPV4,
    )
  }

  /** The relay, if it sees its socket at another port than the coordinator does. */
  get #relayView(): RelayView | undefined {
    const binding = this.#boundRelay
    if (binding?.seen === undefined) return undefined
    const { socket, seen } = binding
    const observed = this.#parts.observedOf(socket)
    return observed !== undefined && observed.port !== seen.port ? viewOf(binding, seen) : undefined
  }

  #predict(binding: Binding, now: number): void {
    if (this.#boundRelay !== binding || binding.seen === undefined) return
    const view = viewOf(binding, binding.seen)
    this.#prediction.bound(view, binding.begunAt, this.#relayView !== undefined, now)
  }

  #tellPorts(place: Endpoint, first: number, last: number, now: number): void {
    const binding = this.#boundRelay
    const observed = binding && this.#parts.observedOf(binding.socket)
    if (binding === undefined || observed === undefined || this.#predictable === undefined) {
      this.#prediction.end()
      return
    }
    const bytes = this.checks.sealedPorts(place, { ...observed, port: first }, { ...observed, port: last })
    this.#parts.step(this.#parts.own, this.peer, Type.PORTS, now)
    this.#parts.emit({ type: 'send', socket: binding.socket, to: binding.side.endpoint, bytes })
  }

  /** Only at the address that the coordinator has proven, and from the socket whose place the peer has sent to. */
  #tryPorts(message: Message, check: Check, now: number): void {
    const { observed, candidates } = message
    const [first, last] = candidates?.map(({ endpoint }) => endpoint) ?? []
    if (observed === undefined || first === undefined || last === undefined) return
    const isProven = this.#peerPlaces.some(({ address }) => equal(address, first.address))
    if (this.#predictable === undefined || !isProven || !equal(first.address, last.address)) return
    const count = last.port - first.port + 1
    const { observedOf } = this.#parts
    const own = this.#sockets.find(({ socket }) => {
      const place = observedOf(socket)
      return place !== undefined && sameEndpoint(place, observed)
    })
    if (own === undefined || count < 1 || count > MAX_PORTS || first.port === 0) return
    // Another symmetric NAT would send each request from another port.
    if (this.#relayView?.socket === own.socket || !this.#tried.take(now)) return
    this.#parts.step(this.peer, this.#parts.own, Type.PORTS, now)
    const { socket } = own
    const targets = Array.from({ length: count }, (_, i) => ({
      ...{ socket, remote: { address: first.address, port: first.port + i } },
    }))
    this.checks.probe(targets, check, now)
  }

  #targets(endpoints: readonly Endpoint[]): Target[] {
    return endpoints.flatMap((remote) =>
      this.#sockets
        .filter((socket) => reaches(socket, remote) && !isOwn(socket, remote))
        .map(({ socket }) => ({ socket, remote })),
    )
  }

  /** Where the coordinator sees the peer: the peer's own request opens its NAT while message 1 is on its way. */
  #introduce(): void {
    const { route, relays } = this.#direction
    const isEarly = this.#asked && this.#early
    // The last one is preferred; message 1 has left behind its RELAY_BIND.
    const binding = this.#bindings.get(relays.at(-1)?.channel ?? -1)
    if (isEarly && route === Route.RELAY && binding?.state === 'binding')
      this.#hope('relay', binding.socket, binding.side.endpoint)
    for (const { kind, endpoint } of this.#direction.candidates) {
      if (kind !== 'reflexive' || !mayBeHost(endpoint)) continue
      for (const { socket, remote } of this.#targets([endpoint]))
        if (this.checks.spend(INTRODUCTION_BYTES)) {
          this.#parts.emit({ type: 'introduce', peer: this.peer, socket, remote })
          if (isEarly && route !== Route.RELAY) this.#hope(kindOfWay(remote), socket, remote)
        }
    }
  }

  /** Tells the peer, over a direct way that works, where else it reaches this node. */
  #tell(now: number): void {
    if (this.#isTold || this.#places === undefined) return
    const way = this.#ways.find((each) => each.kind !== 'relay' && this.checks.answered(each))
    if (way === undefined) return
    this.#isTold = true
    this.checks.tell(way, this.#places, now)
  }

  /** The peer says where it is reached. Returns what is to be asked, undefined if it said so too often. */
  #take(places: readonly Endpoint[], now: number): readonly Target[] | undefined {
    if (!this.#unasked.take(now)) return undefined
    this.#named = places.filter(mayBeHost).slice(0, MAX_NAMED)
    this.#parts.emit({ type: 'places', peer: this.peer, remotes: this.#named })
    return this.#targets(this.#named)
  }

  #answered(socket: number, remote: Endpoint, isProven: boolean, now: number): void {
    const kind = kindOfWay(remote)
    const same = this.#ways.some(
      (way) =>
        way.kind === kind &&
        way.socket === socket &&
        !sameEndpoint(way.remote, remote) &&
        now - this.checks.answeredAt(way) < ROUND_MS,
    )
    // Another address of the same machine over the same socket brings nothing, unless it is that of another access.
    if (!same || this.#named.some((each) => sameEndpoint(each, remote)))
      this.#have({ kind, socket, remote }, this.#opens, isProven ? 'proven' : undefined)
    this.#tell(now)
    this.#parts.onAnswer(now)
  }

  #have(way: TunnelWay, open: boolean, shown?: 'proven' | 'likely'): void {
    const known = this.#ways.some(
      (each) => each.socket === way.socket && sameEndpoint(each.remote, way.remote),
    )
    if (!known) {
      if (this.#ways.length >= MAX_WAYS) this.#lose(this.#ways[0]!)
      this.#ways.push(way)
    }
    if (way.kind !== 'relay') this.#remember(way.remote)
    this.#parts.emit({
      ...{ type: 'way', peer: this.peer, ...way, open },
      ...(shown !== undefined && { known: shown }),
    })
  }

  #remember(remote: Endpoint): void {
    const others = this.#remotes.filter((each) => !sameEndpoint(each, remote))
    const isNew = others.length === this.#remotes.length
    this.#remotes = [remote, ...others].slice(0, MAX_REMOTES)
    if (isNew) this.#parts.onPlace()
  }

  #lose(way: TunnelWay): void {
    this.#ways = this.#ways.filter((each) => each !== way)
    this.#parts.emit({ type: 'way-gone', peer: this.peer, socket: way.socket, remote: way.remote })
  }

  #socketFor(remote: Endpoint): NodeSocket | undefined {
    return this.#sockets.find((socket) => reaches(socket, remote))
  }
}

function viewOf({ socket, side }: Binding, seen: Seen): RelayView {
  return { socket, seen, relay: toHex(side.endpoint.address), port: side.endpoint.port }
}

/** Whether the socket has an address of the family, or its network translates. */
export function reaches({ addresses, translates }: NodeSocket, remote: Endpoint): boolean {
  const { length } = remote.address
  return (
    addresses.some((own) => own.length === length) ||
    (translates === true && length === IPV4 && !isLocal(remote))
  )
}

function isOwn({ addresses }: NodeSocket, { address }: Endpoint): boolean {
  return addresses.some((own) => equal(own, address))
}

/** Addresses that mean something in a local network alone. */
export function isLocal({ address }: Endpoint): boolean {
  const kind = kindOf(address)
  return kind === 'private' || kind === 'unique-local' || kind === 'link-local'
}

function kindOfWay(remote: Endpoint): RouteKind {
  return isLocal(remote) ? 'lan' : 'direct'
}

export type { RouteKind }
