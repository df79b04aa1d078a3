/**
 * IHMP, the Internet Host Mobility Protocol (paper § III-B…D), without I/O: local address events, new flows, datagrams and
 * time go in; datagrams, changes of the tables and what happened come out of `poll`. docs/wire/ihmp.md has the exchanges.
 *
 * Rules that hold throughout:
 * - A pair of addresses is *accepted* (packets from there are this host's) as soon as an authenticated message came on it
 *   or is being sent on it, and *confirmed* (packets are sent there) only when the foreign host answered a challenge
 *   that was sent to it there. So inbound translation is in place at both ends before either sends, and no host can
 *   direct traffic to an address at which it does not receive.
 * - Whatever is sent waits for its acknowledgement; what stays unanswered says something about the path.
 */
import { compare, concat, equal, equalConstantTime } from '../../core/bytes.ts'
import {
  advertised,
  type Candidate,
  choosePair,
  classify,
  type LocalAddress,
  type Reachability,
} from '../policy.ts'
import {
  bytesOf,
  familyOf,
  type HidRow,
  type Ip,
  ipOf,
  type Pair,
  pairKey,
  type SocketRow,
  samePair,
} from '../tables.ts'
import {
  Control,
  covered,
  encodeMac,
  encodeSigned,
  type IhmpMessage,
  ihmp,
  MAX_MESSAGE,
  Option,
} from '../wire.ts'
import { type Host, ReplayWindow, type Request } from './host.ts'
import { DEFAULTS, type IhmpComponents, type IhmpOptions, type IhmpStats, type Output } from './types.ts'

// Our choices; the paper gives no times.
/** First repetition when nothing is known about the path; then twice the measured round trip. */
const FIRST_INTERVAL_MS = 250
const LEAST_INTERVAL_MS = 200
const MOST_INTERVAL_MS = 2_000
const TRIES = 6
/** A potentially reachable address is given up sooner (DI-28): 250 + 500 + 1,000 ms without an answer. */
const PROBE_TRIES = 3
const HELLO_TRIES = 3
/** A host that does not speak IHMP is asked again after this, doubled each time. */
const HELLO_AGAIN_MS = 60_000
const HELLO_AGAIN_MOST_MS = 3_600_000
/** Packets under way when an address was lost may still arrive on the pair. */
const GRACE_MS = 10_000
/** HELLOs that wait for their third message; each costs a few hundred bytes. */
const MOST_HALF_OPEN = 256
/** Signatures verified for hosts not yet known, per second. */
const HELLO_RATE = 200
const MOST_ADDRESSES = 12
/** A pair that did not answer is probed again after this, doubled each time: networks are mended. */
const RETRY_MS = 5_000
const RETRY_MOST_MS = 300_000

type Body = Omit<Partial<IhmpMessage>, 'sequence' | 'counter' | 'hostId' | 'signature' | 'mac'> & {
  readonly control: Control
}

/** A HELLO that was answered and whose sender has not yet shown that it receives at its address. */
interface HalfOpen {
  readonly hello: IhmpMessage
  readonly pair: Pair
  readonly port: number
  readonly challenge: Uint8Array
  readonly cookie: Uint8Array
  readonly answer: Uint8Array
  /** The own addresses that the answer names. */
  readonly told: readonly Uint8Array[]
  tries: number
  nextAt: number
}

export class IhmpMachine {
  readonly stats: IhmpStats = {
    sent: 0,
    received: 0,
    malformed: 0,
    unauthenticated: 0,
    replayed: 0,
    retransmitted: 0,
    exchanges: 0,
  }
  readonly #components: IhmpComponents
  readonly #options: IhmpOptions
  readonly #hosts = new Map<number, Host>()
  readonly #byAddress = new Map<Ip, Set<Host>>()
  readonly #halfOpen = new Map<string, HalfOpen>()
  readonly #requests = new Set<Request>()
  /** Pairs that flows were bound to before a restart, until the sockets have been read again. */
  readonly #restored = new Map<string, number>()
  readonly #expiring: { readonly at: number; readonly host: Host; readonly pair: Pair }[] = []
  readonly #outputs: Output[] = []
  #own = new Map<Ip, LocalAddress>()
  /** Every address this host ever had: a message addressed to one of them is for us. */
  readonly #mine = new Set<Ip>()
  #dirty = false
  #counter = 0
  #helloTokens = HELLO_RATE
  #helloTokensAt = 0

  constructor(components: IhmpComponents, options: Partial<IhmpOptions> = {}) {
    this.#components = components
    this.#options = { ...DEFAULTS, ...options }
  }

  /** The host with this HID; for display and tests. */
  host(hid: number): Host | undefined {
    return this.#hosts.get(hid)
  }

  hosts(): IterableIterator<Host> {
    return this.#hosts.values()
  }

  // ---------------------------------------------------------------------------------------------------- inputs

  /**
   * The own addresses that can be used now, all of them. What is new and what is missing is found here: an address lost
   * and another gained in one call is a handoff (DI-35).
   */
  handleLocal(addresses: readonly LocalAddress[], now: number): void {
    this.#restored.clear()
    const next = new Map(addresses.map((a) => [a.ip, a]))
    const lost = [...this.#own.keys()].filter((ip) => !next.has(ip))
    const gained = addresses.filter((a) => !this.#own.has(a.ip))
    this.#own = next
    for (const { ip } of addresses) this.#mine.add(ip)
    if (lost.length === 0 && gained.length === 0) {
      this.handlePreferences(now)
      return
    }
    for (const host of this.#hosts.values()) if (host.state === 'peer') this.#moved(host, lost, gained, now)
    for (const request of [...this.#requests])
      if (!this.#own.has(request.pair.local)) this.#requests.delete(request)
    for (const host of this.#hosts.values())
      if (host.state === 'greeting' && !this.#pending(host)) this.#greet(host, now)
  }

  /** The routes of this host may prefer another own address now. */
  handlePreferences(now: number): void {
    for (const host of this.#hosts.values()) if (host.state === 'peer') this.#choose(host, 'route', now)
  }

  /** A way out has appeared: what waits for an answer is sent again at once. */
  handleRoutes(now: number): void {
    for (const request of this.#requests) {
      if (request.deferred || request.tries === 0) continue
      request.mostTries++
      request.nextAt = now
      request.interval = FIRST_INTERVAL_MS
    }
    for (const host of this.#hosts.values()) if (host.retry !== undefined) host.retry = { at: now, wait: 0 }
    this.handlePreferences(now)
  }

  /** A socket talks from `local` to `foreign`: the HID of the row, made when there is none (DI-9a, DI-15). */
  handleFlow(pair: Pair, now: number): number | undefined {
    this.#mine.add(pair.local)
    const known = this.#hosts.get(this.#restored.get(pairKey(pair)) ?? 0) ?? this.#byActive(pair.foreign)
    if (known !== undefined) {
      known.idleSince = undefined
      if (known.state === 'peer' && known.row.accepted.size > 0) this.#dirty = true
      return known.row.hid
    }
    if (this.#hosts.size >= this.#options.mostHosts) return undefined
    const host = this.#newHost(pair)
    host.row.active.add(pair.foreign)
    this.#greet(host, now)
    return host.row.hid
  }

  /** The last flow of a host has ended. */
  handleIdle(hid: number, now: number): void {
    const host = this.#hosts.get(hid)
    if (host !== undefined) host.idleSince ??= now
  }

  /** TCP repeats itself, or something else says that a path is silent: ask on every pair (DI-16). */
  handleSuspicion(hid: number, now: number): void {
    const host = this.#hosts.get(hid)
    if (host?.state !== 'peer' || this.#pending(host)) return
    for (const { pair } of host.confirmed.values()) {
      if (!this.#own.has(pair.local)) continue
      this.#request(host, pair, { control: Control.PATH_PROBE }, now, {
        tries: PROBE_TRIES + 1,
        failed: (at) => this.#pathFailed(host, pair, at),
      })
    }
  }

  /** Sends everything of a host, or one of its flows, from another own address. False: no confirmed pair has it. */
  move(hid: number, local: Ip, flow: SocketRow | undefined, now: number): boolean {
    const host = this.#hosts.get(hid)
    if (host?.state !== 'peer') return false
    const usable = this.#candidates(host).filter((c) => c.pair.local === local)
    if (usable.length === 0) return false
    if (flow !== undefined) {
      const choice = choosePair(
        usable.filter((c) => familyOf(c.pair.local) === familyOf(flow.local)),
        {},
      )
      if (choice === undefined) return false
      host.row.overrides.set(flow.id, choice.pair)
      this.#dirty = true
      return true
    }
    host.pinned = local
    host.row.overrides.clear()
    this.#choose(host, 'command', now)
    return true
  }

  /**
   * A datagram that arrived at the own address `local` from `foreign`. Whatever is wrong with it only counts: no answer
   * tells a stranger anything.
   */
  handleMessage(bytes: Uint8Array, pair: Pair, port: number, now: number): void {
    this.stats.received++
    const result = bytes.length > MAX_MESSAGE ? undefined : ihmp.decode(bytes)
    if (result?.ok !== true) {
      this.stats.malformed++
      return
    }
    const message = result.value
    if (message.receiver !== undefined && !this.#mine.has(ipOf(message.receiver))) {
      this.stats.unauthenticated++
      return
    }
    switch (message.control) {
      case Control.HELLO:
        this.#handleHello(message, bytes, pair, port, now)
        return
      case Control.HELLO_ACK:
        this.#handleHelloAck(message, bytes, pair, port, now)
        return
      case Control.NAT_ENTRY:
        this.#handleNatEntry(message, bytes, pair, port)
        return
      case Control.ROUTER_ACK:
        return
    }
    if (message.control === Control.ACK && this.#completeGreeting(message, bytes, pair, now)) return
    const host = this.#authenticate(message, bytes)
    if (host === undefined) {
      this.stats.unauthenticated++
      return
    }
    const replay = host.replay.check(message.counter)
    if (replay.kind !== 'new') {
      this.stats.replayed++
      if (replay.kind === 'duplicate' && replay.answer !== undefined) this.#send(replay.answer, pair, port)
      return
    }
    host.replay.accept(message.counter)
    host.ports.set(pair.foreign, port)
    if (message.control === Control.ACK) this.#handleAck(host, message, pair, now)
    else this.#handleUpdate(host, message, pair, port, now)
  }

  /** What to do next, in order; undefined when all is done. */
  poll(): Output | undefined {
    if (this.#dirty) {
      this.#dirty = false
      return { kind: 'apply' }
    }
    return this.#outputs.shift()
  }

  /** When `handleTimeout` wants to be called; undefined: never. */
  nextTimeout(): number | undefined {
    let next = Number.POSITIVE_INFINITY
    for (const request of this.#requests) next = Math.min(next, request.nextAt)
    for (const half of this.#halfOpen.values()) next = Math.min(next, half.nextAt)
    for (const entry of this.#expiring) next = Math.min(next, entry.at)
    for (const host of this.#hosts.values()) {
      if (host.detachedAt !== undefined) next = Math.min(next, host.detachedAt + this.#options.holdMs)
      if (host.idleSince !== undefined) next = Math.min(next, host.idleSince + this.#options.idleMs)
      if (host.retry !== undefined) next = Math.min(next, host.retry.at)
    }
    return next === Number.POSITIVE_INFINITY ? undefined : next
  }

  handleTimeout(now: number): void {
    for (const request of [...this.#requests]) {
      if (request.nextAt > now || !this.#requests.has(request)) continue
      if (request.tries >= request.mostTries) {
        this.#requests.delete(request)
        request.failed(now)
      } else {
        if (request.tries > 0) this.stats.retransmitted++
        this.#transmit(request, now)
      }
    }
    for (const [key, half] of this.#halfOpen) {
      if (half.nextAt > now) continue
      if (half.tries >= HELLO_TRIES) this.#halfOpen.delete(key)
      else {
        half.nextAt = now + FIRST_INTERVAL_MS * 2 ** half.tries++
        this.#send(half.answer, half.pair, half.port)
      }
    }
    for (let i = this.#expiring.length - 1; i >= 0; i--) {
      const { at, host, pair } = this.#expiring[i]!
      if (at > now) continue
      this.#expiring.splice(i, 1)
      if (host.confirmed.has(pairKey(pair)) || this.#inUse(host, pair)) continue
      if (host.row.accepted.delete(pairKey(pair))) this.#dirty = true
    }
    for (const host of [...this.#hosts.values()]) {
      if (host.detachedAt !== undefined && host.detachedAt + this.#options.holdMs <= now)
        this.#holdOver(host, now)
      else if (host.idleSince !== undefined && host.idleSince + this.#options.idleMs <= now)
        this.#forget(host)
      else if (host.retry !== undefined && host.retry.at <= now) this.#retry(host, host.retry.wait, now)
    }
  }

  // ------------------------------------------------------------------------------------------- hosts and restarts

  #newHost(bound: Pair, hid?: number, floor = 0): Host {
    const host: Host = {
      row: this.#components.tables.addHost(hid),
      state: 'greeting',
      bound,
      ownKey: this.#components.keys.own(bound.local),
      secret: undefined,
      cookie: this.#random(16),
      sequence: new DataView(this.#random(2).buffer).getUint16(0),
      replay: new ReplayWindow(floor),
      confirmed: new Map(),
      known: new Set(),
      ports: new Map(),
      challenges: new Map(),
      addressCounters: new Map(),
      nats: new Map(),
      lost: new Set(),
      announced: bound.local,
      preferred: undefined,
      pinned: undefined,
      detachedAt: undefined,
      detachedBy: 'loss',
      rtt: undefined,
      idleSince: undefined,
      silent: new Map(),
      retry: undefined,
      helloAttempts: 0,
    }
    this.#hosts.set(host.row.hid, host)
    this.#know(host, bound.foreign)
    return host
  }

  /** Brings back what an earlier run knew about a peer. Then come its flows (`handleFlow`), then `handleLocal`. */
  restore(saved: SavedHost): void {
    const host = this.#newHost(saved.bound, saved.hid, saved.floor)
    host.state = 'peer'
    host.row.key = saved.key
    host.secret = saved.secret
    host.preferred = saved.preferred
    this.#counter = Math.max(this.#counter, saved.counter)
    for (const ip of saved.known) this.#know(host, ip)
    for (const ip of saved.active) host.row.active.add(ip)
    for (const ip of saved.unreachable) host.row.unreachable.add(ip)
    for (const ip of saved.local) {
      host.row.local.add(ip)
      this.#mine.add(ip)
    }
    for (const pair of saved.accepted) host.row.accepted.set(pairKey(pair), pair)
    for (const pair of saved.confirmed) host.confirmed.set(pairKey(pair), { pair, at: 0 })
    for (const pair of saved.current) host.row.current[familyOf(pair.local)] = pair
    for (const ip of saved.lost) host.lost.add(ip)
    for (const pair of saved.flows) this.#restored.set(pairKey(pair), saved.hid)
    this.#dirty = true
  }

  /** Everything that `restore` needs, of every peer. */
  save(): SavedHost[] {
    return [...this.#hosts.values()]
      .filter((host) => host.state === 'peer')
      .map((host) => ({
        hid: host.row.hid,
        bound: host.bound,
        key: host.row.key,
        secret: host.secret,
        floor: host.replay.highest,
        counter: this.#counter,
        preferred: host.preferred,
        known: [...host.known],
        active: [...host.row.active],
        unreachable: [...host.row.unreachable],
        local: [...host.row.local],
        accepted: [...host.row.accepted.values()],
        confirmed: [...host.confirmed.values()].map((c) => c.pair),
        current: [host.row.current[4], host.row.current[6]].filter((p) => p !== undefined),
        lost: [...host.lost],
        flows: this.#boundPairs(host),
      }))
  }

  #boundPairs(host: Host): Pair[] {
    const pairs = new Map<string, Pair>()
    for (const { local, foreign } of this.#components.tables.flows(host.row.hid))
      pairs.set(pairKey({ local, foreign }), { local, foreign })
    return [...pairs.values()]
  }

  #know(host: Host, ip: Ip): void {
    host.known.add(ip)
    let hosts = this.#byAddress.get(ip)
    if (hosts === undefined) {
      hosts = new Set()
      this.#byAddress.set(ip, hosts)
    }
    hosts.add(host)
  }

  /** The host that is reachable at `ip` now (DI-9a); one that only was there is another host's matter (P3). */
  #byActive(ip: Ip): Host | undefined {
    for (const host of this.#byAddress.get(ip) ?? []) if (host.row.active.has(ip)) return host
    return undefined
  }

  #forget(host: Host): void {
    this.#hosts.delete(host.row.hid)
    for (const ip of host.known) this.#byAddress.get(ip)?.delete(host)
    for (const request of [...this.#requests]) if (request.host === host) this.#requests.delete(request)
    this.#components.tables.removeHost(host.row.hid)
    this.#dirty = true
  }

  /** An address was lost for good: the applications hear of it. Mere silence is for the transport to judge. */
  #holdOver(host: Host, now: number): void {
    if (host.detachedBy === 'loss') {
      this.#gone(host, 'no way to it within the hold time')
      return
    }
    this.#cancel(host)
    host.detachedAt = undefined
    this.#state(host, 'plain', 'it has stopped to answer IHMP')
    this.#later(host, now + HELLO_AGAIN_MS)
  }

  #gone(host: Host, reason: string): void {
    const sockets = [...this.#components.tables.flows(host.row.hid)]
    this.#outputs.push({ kind: 'gone', hid: host.row.hid, sockets, reason })
    this.#forget(host)
  }

  /** Two rows are one host (the same key has answered for both): the older keeps its number. */
  #merge(a: Host, b: Host, now: number): Host {
    const [into, from] = a.row.hid < b.row.hid ? [a, b] : [b, a]
    this.#components.tables.merge(from.row.hid, into.row.hid)
    for (const [key, value] of from.confirmed) into.confirmed.set(key, value)
    for (const ip of from.known) this.#know(into, ip)
    for (const [ip, port] of from.ports) into.ports.set(ip, port)
    into.replay.accept(from.replay.highest)
    this.#forget(from)
    this.#choose(into, 'merge', now)
    return into
  }

  // ---------------------------------------------------------------------------------------------------- greeting

  /** DI-22. Data is never delayed by it. */
  #greet(host: Host, now: number): void {
    const { bound } = host
    if (!this.#own.has(bound.local)) return
    const challenge = this.#random(16)
    const addresses = advertised([...this.#own.values()], bound, this.#options.advertise, MOST_ADDRESSES)
    const again = Math.min(HELLO_AGAIN_MS * 2 ** host.helloAttempts++, HELLO_AGAIN_MOST_MS)
    this.#request(
      host,
      bound,
      {
        control: Control.HELLO,
        addresses: addresses.map(bytesOf),
        ...(host.ownKey === undefined ? {} : { publicKey: host.ownKey.publicKey }),
        challenge,
        cookie: host.cookie,
      },
      now,
      {
        tries: HELLO_TRIES,
        challenge,
        failed: (at) => {
          if (host.state !== 'greeting' && host.state !== 'plain') return
          this.#state(host, 'plain', 'it does not answer IHMP')
          this.#later(host, at + again)
        },
      },
    )
  }

  /** A request without bytes, whose only purpose is to greet again. */
  #later(host: Host, at: number): void {
    const request: Request = {
      host,
      pair: host.bound,
      message: { control: Control.HELLO, options: 0, sequence: 0, counter: 0, hostId: new Uint8Array(4) },
      bytes: new Uint8Array(0),
      challenge: undefined,
      deferred: true,
      mostTries: 0,
      tries: 0,
      interval: 0,
      nextAt: at,
      sentAt: 0,
      acknowledged: () => {},
      failed: (now) => this.#greet(host, now),
    }
    this.#requests.add(request)
  }

  /** DI-23, but nothing is believed before the sender has answered from the address it claims. */
  #handleHello(message: IhmpMessage, bytes: Uint8Array, pair: Pair, port: number, now: number): void {
    const key = pairKey(pair)
    const waiting = this.#halfOpen.get(key)
    if (waiting !== undefined && waiting.hello.counter === message.counter) {
      this.#send(waiting.answer, pair, port)
      return
    }
    if (!this.#helloAllowed(now) || !this.#components.hasFlow(pair.local, pair.foreign)) return
    if (message.challenge === undefined || message.cookie === undefined) return
    const known = this.#components.keys.known(pair.foreign)
    const existing = this.#byActive(pair.foreign)
    const fixed = known ?? existing?.row.key
    const ownKey = this.#components.keys.own(pair.local)
    const rekeyed = message.newKey !== undefined && existing?.row.key !== undefined
    if (rekeyed) {
      this.#handleRekey(existing, message, bytes, pair, port)
      return
    }
    if (message.publicKey !== undefined) {
      if (fixed !== undefined && !equal(fixed, message.publicKey)) {
        // Another key at an address that a host has: perhaps it left without a word (P3). Ask it.
        this.stats.unauthenticated++
        if (existing !== undefined) this.handleSuspicion(existing.row.hid, now)
        return
      }
      if (!this.#verifies(message.publicKey, message, bytes)) {
        this.stats.unauthenticated++
        return
      }
    } else if (fixed !== undefined || this.#options.unsigned === 'refuse') {
      this.stats.unauthenticated++
      return
    }
    const source = bytesOf(pair.foreign)
    const behindNat = !(message.addresses ?? []).some((a) => equal(a, source))
    const aware = (message.options & Option.NS) !== 0
    const forced = (message.options & Option.NF) !== 0
    const challenge = this.#random(16)
    const cookie = existing?.cookie ?? this.#random(16)
    const addresses = advertised([...this.#own.values()], pair, this.#options.advertise, MOST_ADDRESSES)
    const body: Body = {
      control: Control.HELLO_ACK,
      options: (behindNat && !aware ? Option.ND : 0) | (forced ? Option.NF : 0),
      addresses: addresses.map(bytesOf),
      receiver: message.hostId,
      ...(ownKey === undefined ? {} : { publicKey: ownKey.publicKey }),
      ...(behindNat ? { natPair: { nat: source, host: padded(message.hostId, source.length) } } : {}),
      response: message.challenge,
      challenge,
      cookie,
    }
    const secret = ownKey === undefined ? secretOf(message.cookie, cookie) : undefined
    const answer = this.#encode(
      {
        ...body,
        options: body.options ?? 0,
        sequence: message.sequence,
        counter: this.#nextCounter(),
        hostId: bytesOf(pair.local),
      },
      ownKey === undefined ? undefined : ownKey,
      secret,
    )
    if (forced) {
      // One-to-one and fixed: no state is kept beyond the row, and no further IHMP (DI-45).
      if (existing !== undefined) this.#state(existing, 'forced', 'behind a NAT that does not know IHMP')
      this.#cancel(existing)
      this.#send(answer, pair, port)
      return
    }
    if (behindNat && !aware) {
      this.#send(answer, pair, port)
      return
    }
    if (this.#halfOpen.size >= MOST_HALF_OPEN) this.#halfOpen.delete(this.#halfOpen.keys().next().value!)
    this.#halfOpen.set(key, {
      hello: message,
      pair,
      port,
      challenge,
      cookie,
      answer,
      told: body.addresses ?? [],
      tries: 1,
      nextAt: now + 2 * FIRST_INTERVAL_MS,
    })
    this.#send(answer, pair, port)
  }

  /** The third message: the sender receives at the address, so its row is made (DI-23) and its others are probed. */
  #completeGreeting(message: IhmpMessage, bytes: Uint8Array, pair: Pair, now: number): boolean {
    const half = this.#halfOpen.get(pairKey(pair))
    if (half === undefined || message.response === undefined) return false
    if (!equalConstantTime(message.response, half.challenge)) return false
    const { hello } = half
    const secret = secretOf(hello.cookie!, half.cookie)
    const genuine =
      hello.publicKey !== undefined
        ? this.#verifies(hello.publicKey, message, bytes)
        : this.#macMatches(secret, message, bytes)
    if (!genuine) {
      this.stats.unauthenticated++
      return true
    }
    this.#halfOpen.delete(pairKey(pair))
    let host = this.#byActive(pair.foreign) ?? this.#newHost(pair)
    host.replay.accept(hello.counter)
    host.replay.accept(message.counter)
    host.ports.set(pair.foreign, half.port)
    host = this.#established(host, hello, pair, hello.publicKey, secret, half.told, now)
    const host_ = bytesOf(pair.foreign)
    const nat = (hello.options & Option.NS) !== 0 && !(hello.addresses ?? []).some((a) => equal(a, host_))
    if (nat) {
      host.nats.set(pair.foreign, ipOf(hello.hostId))
      host.row.nats.add(pair.foreign)
    }
    return true
  }

  /** DI-24. */
  #handleHelloAck(message: IhmpMessage, bytes: Uint8Array, pair: Pair, port: number, now: number): void {
    const request = [...this.#requests].find(
      (r) =>
        r.message.control === Control.HELLO &&
        samePair(r.pair, pair) &&
        r.challenge !== undefined &&
        message.response !== undefined &&
        equalConstantTime(r.challenge, message.response),
    )
    if (request === undefined) {
      this.#repeatedHelloAck(message, bytes, pair, port)
      return
    }
    let { host } = request
    const known = this.#components.keys.known(pair.foreign) ?? host.row.key
    const secret = message.cookie === undefined ? undefined : secretOf(host.cookie, message.cookie)
    if (message.publicKey !== undefined) {
      const trusted = known === undefined || equal(known, message.publicKey)
      if (!trusted || !this.#verifies(message.publicKey, message, bytes)) {
        this.stats.unauthenticated++
        return
      }
    } else if (
      known !== undefined ||
      this.#options.unsigned === 'refuse' ||
      secret === undefined ||
      !this.#macMatches(secret, message, bytes)
    ) {
      this.stats.unauthenticated++
      return
    }
    this.#requests.delete(request)
    this.stats.exchanges++
    host.ports.set(pair.foreign, port)
    host.replay.accept(message.counter)
    if ((message.options & Option.NF) !== 0) {
      this.#state(host, 'forced', 'this host is behind a NAT that does not know IHMP')
      return
    }
    if ((message.options & Option.ND) !== 0) {
      // The association starts behind an unaware NAT: say so once, and leave it at that (DI-43, DI-45).
      const challenge = this.#random(16)
      this.#request(host, pair, { ...request.message, options: Option.NF, challenge }, now, {
        tries: HELLO_TRIES,
        challenge,
        failed: () => this.#state(host, 'forced', 'behind a NAT'),
      })
      return
    }
    if (request.tries === 1) host.rtt = now - request.sentAt
    host = this.#established(
      host,
      message,
      pair,
      message.publicKey,
      secret,
      request.message.addresses ?? [],
      now,
    )
    this.#acknowledge(host, message, pair, port, { response: message.challenge! })
  }

  /** Our third message was lost: the other end still asks. */
  #repeatedHelloAck(message: IhmpMessage, bytes: Uint8Array, pair: Pair, port: number): void {
    const host = this.#authenticate(message, bytes)
    if (host?.state !== 'peer' || message.challenge === undefined) return
    if (host.replay.check(message.counter).kind === 'old') return
    this.#acknowledge(host, message, pair, port, { response: message.challenge })
  }

  #established(
    greeted: Host,
    message: IhmpMessage,
    pair: Pair,
    publicKey: Uint8Array | undefined,
    secret: Uint8Array | undefined,
    told: readonly Uint8Array[],
    now: number,
  ): Host {
    let host = greeted
    const shared = publicKey === undefined || host.ownKey === undefined ? secret : undefined
    // Both may greet, and repeat it: what else is being told goes on, unless the peer can read it no more.
    const readable = host.secret === undefined ? shared === undefined : shared && equal(host.secret, shared)
    for (const request of [...this.#requests])
      if (request.host === host && (!readable || request.message.control === Control.HELLO))
        this.#requests.delete(request)
    host.row.key = publicKey
    host.secret = shared
    for (const bytes of message.addresses ?? []) {
      const ip = ipOf(bytes)
      if (ip === pair.foreign) continue
      this.#know(host, ip)
      if (!host.row.active.has(ip)) host.row.unreachable.add(ip)
    }
    this.#state(host, 'peer', publicKey === undefined ? 'greeted without a key' : 'greeted, key pinned')
    this.#confirm(host, pair, now)
    if (publicKey !== undefined)
      for (const other of this.#hosts.values())
        if (other !== host && other.state === 'peer' && other.row.key && equal(other.row.key, publicKey)) {
          host = this.#merge(host, other, now)
          break
        }
    this.#probeCandidates(host, now)
    // What has come since our half of the greeting was written.
    const known = new Set(told.map(ipOf))
    for (const ip of advertised([...this.#own.values()], pair, this.#options.advertise, MOST_ADDRESSES))
      if (!known.has(ip)) this.#announce(host, this.#own.get(ip)!, now)
    return host
  }

  /** DI-26: over the matching network only; those that are surely reachable as well, or they would never be Active (D1). */
  #probeCandidates(host: Host, now: number): void {
    for (const foreign of host.row.unreachable)
      for (const local of this.#own.values())
        if (classify(local, foreign) !== 'unreachable') this.#probe(host, { local: local.ip, foreign }, now)
  }

  /** Probes the pairs that have not answered; while there are any, the next time comes later each time. */
  #retry(host: Host, waited: number, now: number): void {
    host.retry = undefined
    if (host.state !== 'peer') return
    const wait = Math.min(Math.max(RETRY_MS, 2 * waited), RETRY_MOST_MS)
    for (const [key, pair] of host.silent) {
      const { local, foreign } = pair
      const wanted = host.row.active.has(foreign) || host.row.unreachable.has(foreign)
      if (!wanted || !this.#own.has(local) || host.confirmed.has(key)) {
        host.silent.delete(key)
        continue
      }
      host.retry = { at: now + wait, wait }
      if (this.#asks(host, pair)) continue
      // An address that it has never reached is told, not only tried: it may turn out to be behind a NAT (DI-43).
      if (host.row.local.has(local)) this.#probe(host, pair, now)
      else this.#probe(host, pair, now, 0, { control: Control.ADDR_UP, newAddress: bytesOf(local) })
    }
  }

  /** Whether something on this pair waits for its acknowledgement. */
  #asks(host: Host, pair: Pair): boolean {
    for (const request of this.#requests)
      if (request.host === host && samePair(request.pair, pair)) return true
    return false
  }

  #probe(
    host: Host,
    pair: Pair,
    now: number,
    options = 0,
    body: Body = { control: Control.PATH_PROBE },
  ): void {
    this.#accept(host, pair)
    this.#request(host, pair, { ...body, options, challenge: this.#random(16) }, now, {
      tries: options === 0 ? PROBE_TRIES : TRIES,
      failed: (at) => this.#pathFailed(host, pair, at),
    })
  }

  #handleRekey(host: Host, message: IhmpMessage, bytes: Uint8Array, pair: Pair, port: number): void {
    const fixed = this.#components.keys.known(pair.foreign)
    const allowed = fixed === undefined || equal(fixed, message.newKey!)
    if (!allowed || !this.#verifies(host.row.key!, message, bytes)) {
      this.stats.unauthenticated++
      return
    }
    const replay = host.replay.check(message.counter)
    if (replay.kind !== 'new') {
      this.stats.replayed++
      if (replay.kind === 'duplicate' && replay.answer !== undefined) this.#send(replay.answer, pair, port)
      return
    }
    host.replay.accept(message.counter)
    host.row.key = message.newKey
    this.#acknowledge(host, message, pair, port, {})
  }

  /** A new private key for `host` and all others (`godwit dime key set`): told under the old one (DI-40). */
  rekey(now: number): void {
    for (const host of this.#hosts.values()) {
      const next = this.#components.keys.own(host.bound.local)
      if (host.state !== 'peer' || host.ownKey === undefined || next === undefined) continue
      if (equal(next.publicKey, host.ownKey.publicKey)) continue
      const pair = this.#anyPair(host)
      if (pair === undefined) continue
      this.#request(
        host,
        pair,
        { control: Control.HELLO, newKey: next.publicKey, challenge: this.#random(16), cookie: host.cookie },
        now,
        {
          acknowledged: () => {
            host.ownKey = next
          },
        },
      )
    }
  }

  // ---------------------------------------------------------------------------------------------------- movement

  /** Own addresses came and went; tells one peer (DI-28, DI-31…37). */
  #moved(host: Host, lost: readonly Ip[], gained: readonly LocalAddress[], now: number): void {
    for (const ip of lost) {
      if (ip === host.pinned) host.pinned = undefined
      for (const [key, { pair }] of host.confirmed) if (pair.local === ip) host.confirmed.delete(key)
      for (const pair of host.row.accepted.values())
        if (pair.local === ip) this.#expiring.push({ at: now + GRACE_MS, host, pair })
      host.lost.add(ip)
    }
    for (const { ip } of gained) host.lost.delete(ip)
    this.#choose(host, lost.length > 0 ? 'address lost' : 'address gained', now)
    if (gained.length > 0) for (const local of gained) this.#announce(host, local, now)
    else if (host.detachedAt === undefined) this.#announceLoss(host, now)
    else for (const local of this.#own.values()) this.#announce(host, local, now)
  }

  /** ADDR_UP, or HANDOFF when addresses were lost, from the new address to where the peer is or may be. */
  #announce(host: Host, local: LocalAddress, now: number): void {
    const detached = host.detachedAt !== undefined
    const targets = new Map<Ip, Reachability>()
    // While no pair works every address counts, Active or not: the peer may have moved as well (D3).
    for (const ip of detached ? [...host.row.active, ...host.row.unreachable] : host.row.active)
      targets.set(ip, classify(local, ip))
    const reachable = [...targets].filter(
      ([ip, r]) => r !== 'unreachable' || (detached && familyOf(ip) === familyOf(local.ip)),
    )
    if (reachable.length === 0) {
      this.#announceUnreachable(host, local, now)
      return
    }
    for (const [foreign, reachability] of reachable) {
      const pair = { local: local.ip, foreign }
      const preferred = detached || this.#components.preferredLocal(foreign) === local.ip
      this.#accept(host, pair)
      if (preferred) host.announced = local.ip
      const lost = [...host.lost]
      this.#request(
        host,
        pair,
        {
          control: lost.length > 0 ? Control.HANDOFF : Control.ADDR_UP,
          options: (preferred ? Option.PF : 0) | this.#oldUnreachable(host, lost),
          newAddress: bytesOf(local.ip),
          ...(lost.length > 0 ? { lostAddresses: lost.map(bytesOf) } : {}),
          challenge: this.#random(16),
        },
        now,
        {
          tries: detached ? Number.POSITIVE_INFINITY : reachability === 'potential' ? PROBE_TRIES : TRIES,
          acknowledged: (ack) => {
            for (const ip of lost) host.lost.delete(ip)
            for (const ip of lost) host.row.local.delete(ip)
            if ((ack.options & Option.ND) !== 0)
              this.#state(host, 'peer', `${local.ip} is behind a NAT that does not know IHMP`)
          },
          failed: (at) => {
            this.#pathFailed(host, pair, at)
            if (!this.#reaches(host, local.ip) && this.#own.has(local.ip))
              this.#announceUnreachable(host, local, at)
          },
        },
      )
    }
  }

  /** The peer cannot be reached from the new address; told through any pair that works (D4). */
  #announceUnreachable(host: Host, local: LocalAddress, now: number): void {
    const pair = this.#anyPair(host)
    if (pair === undefined) return
    const lost = [...host.lost]
    this.#request(
      host,
      pair,
      {
        control: lost.length > 0 ? Control.HANDOFF_UNREACHABLE : Control.ADDR_UP_UNREACHABLE,
        options: this.#oldUnreachable(host, lost),
        newAddress: bytesOf(local.ip),
        ...(lost.length > 0 ? { lostAddresses: lost.map(bytesOf) } : {}),
      },
      now,
      {
        acknowledged: () => {
          for (const ip of lost) host.lost.delete(ip)
        },
      },
    )
  }

  /** DI-33: the peer could use the lost address, or could not. */
  #announceLoss(host: Host, now: number): void {
    const pair = this.#anyPair(host)
    if (pair === undefined) return
    for (const ip of host.lost) {
      const usable = host.row.local.has(ip)
      this.#request(
        host,
        pair,
        {
          control: usable ? Control.ADDR_DOWN : Control.ADDR_DOWN_UNREACHABLE,
          options: Option.PF,
          lostAddresses: [bytesOf(ip)],
        },
        now,
        {
          acknowledged: () => {
            host.lost.delete(ip)
            host.row.local.delete(ip)
          },
        },
      )
      host.announced = pair.local
    }
  }

  /** OU: none of the lost addresses had been usable by the peer (DI-37, D5). */
  #oldUnreachable(host: Host, lost: readonly Ip[]): number {
    return lost.length > 0 && lost.every((ip) => !host.row.local.has(ip)) ? Option.OU : 0
  }

  /** DI-30, DI-34, DI-36: a peer's news. */
  #handleUpdate(host: Host, message: IhmpMessage, pair: Pair, port: number, now: number): void {
    let options = 0
    const fresh = (ip: Ip): boolean => {
      if ((host.addressCounters.get(ip) ?? 0) > message.counter) return false
      host.addressCounters.set(ip, message.counter)
      this.#know(host, ip)
      return true
    }
    const direct = message.newAddress === undefined || ipOf(message.newAddress) === pair.foreign
    const aware = (message.options & Option.NS) !== 0
    let natPair: IhmpMessage['natPair']
    let usable = true
    switch (message.control) {
      case Control.ADDR_UP:
      case Control.HANDOFF:
        if (message.newAddress === undefined) return
        if (!direct) {
          natPair = {
            nat: bytesOf(pair.foreign),
            host: padded(message.newAddress, bytesOf(pair.foreign).length),
          }
          if (aware) {
            host.nats.set(pair.foreign, ipOf(message.newAddress))
            host.row.nats.add(pair.foreign)
            this.#know(host, ipOf(message.newAddress)) // it names itself by it
          } else {
            // DI-44: a flow cannot migrate into it.
            options |= Option.ND
            usable = false
            if (fresh(ipOf(message.newAddress))) host.row.unreachable.add(ipOf(message.newAddress))
          }
        }
        if (usable) fresh(pair.foreign)
        break
      case Control.ADDR_UP_UNREACHABLE:
      case Control.HANDOFF_UNREACHABLE: {
        if (message.newAddress === undefined) return
        const ip = ipOf(message.newAddress)
        if (fresh(ip) && !host.row.active.has(ip)) {
          host.row.unreachable.add(ip)
          this.#probeCandidates(host, now) // perhaps it can be reached from here after all
        }
        break
      }
    }
    for (const bytes of message.lostAddresses ?? []) {
      const ip = ipOf(bytes)
      if (fresh(ip)) this.#foreignLost(host, ip, now)
    }
    let challenge: Uint8Array | undefined
    if (usable) {
      this.#accept(host, pair)
      if (!host.row.active.has(pair.foreign)) host.row.unreachable.add(pair.foreign)
      if (!host.confirmed.has(pairKey(pair))) {
        challenge = host.challenges.get(pair.foreign) ?? this.#random(16)
        host.challenges.set(pair.foreign, challenge)
        this.#proveLater(host, pair, now)
      }
      if ((message.options & Option.PF) !== 0) host.preferred = pair.foreign
    }
    this.#choose(host, controlName(message.control), now)
    this.#acknowledge(host, message, pair, port, {
      options,
      ...(message.challenge === undefined ? {} : { response: message.challenge }),
      ...(challenge === undefined ? {} : { challenge }),
      ...(natPair === undefined ? {} : { natPair }),
    })
  }

  /** Should our challenge or its response be lost: probe, unless the pair has been confirmed by then. */
  #proveLater(host: Host, pair: Pair, now: number): void {
    for (const r of this.#requests)
      if (r.host === host && samePair(r.pair, pair) && r.message.control === Control.PATH_PROBE) return
    this.#request(host, pair, { control: Control.PATH_PROBE, challenge: this.#random(16) }, now, {
      deferred: true,
      failed: (at) => this.#pathFailed(host, pair, at),
    })
  }

  #foreignLost(host: Host, ip: Ip, now: number): void {
    host.row.active.delete(ip)
    host.row.unreachable.delete(ip)
    host.challenges.delete(ip)
    if (host.preferred === ip) host.preferred = undefined
    for (const [key, { pair }] of host.confirmed) if (pair.foreign === ip) host.confirmed.delete(key)
    for (const pair of host.row.accepted.values())
      if (pair.foreign === ip) this.#expiring.push({ at: now + GRACE_MS, host, pair })
    for (const request of [...this.#requests])
      if (request.host === host && request.pair.foreign === ip) this.#requests.delete(request)
  }

  #handleAck(host: Host, message: IhmpMessage, pair: Pair, now: number): void {
    const expected = host.challenges.get(pair.foreign)
    if (
      message.response !== undefined &&
      expected !== undefined &&
      equalConstantTime(message.response, expected)
    ) {
      host.challenges.delete(pair.foreign)
      this.#confirm(host, pair, now)
    }
    const request = [...this.#requests].find(
      (r) => r.host === host && r.message.sequence === message.sequence && r.tries > 0,
    )
    if (request !== undefined && request.pair.local === pair.local) {
      this.#requests.delete(request)
      this.stats.exchanges++
      if (request.tries === 1) {
        const sample = now - request.sentAt
        host.rtt = host.rtt === undefined ? sample : (7 * host.rtt + sample) / 8
      }
      const proven =
        request.challenge !== undefined &&
        message.response !== undefined &&
        equalConstantTime(request.challenge, message.response) &&
        request.pair.foreign === pair.foreign
      request.acknowledged(message, proven, now)
      if (proven && (message.options & Option.ND) === 0) this.#confirm(host, pair, now)
      else if (host.confirmed.has(pairKey(pair))) this.#confirm(host, pair, now)
    }
    if (message.challenge !== undefined)
      this.#acknowledge(host, message, pair, host.ports.get(pair.foreign) ?? 0, {
        response: message.challenge,
      })
  }

  /** DI-42. From a trusted NAT, about a host that has moved behind it. */
  #handleNatEntry(message: IhmpMessage, bytes: Uint8Array, pair: Pair, port: number): void {
    const { mapping } = message
    if (mapping === undefined) return
    const { nats } = this.#options
    const trusted =
      nats === 'any' ||
      nats.some((key) => message.signature !== undefined && this.#verifies(key, message, bytes))
    const host = this.#byActive(ipOf(mapping.nat))
    if (!trusted || host === undefined || !host.nats.has(ipOf(mapping.nat))) {
      this.stats.unauthenticated++
      return
    }
    const entry = {
      protocol: mapping.protocol,
      foreignPort: mapping.hostPort,
      natPort: mapping.natPort,
      localPort: mapping.remotePort,
    }
    const same = host.row.ports.findIndex(
      (p) =>
        p.protocol === entry.protocol &&
        p.foreignPort === entry.foreignPort &&
        p.localPort === entry.localPort,
    )
    if (same >= 0) host.row.ports.splice(same, 1)
    host.row.ports.push(entry)
    this.#dirty = true
    this.#acknowledge(host, message, pair, port, {})
  }

  // -------------------------------------------------------------------------------------------------- pairs

  #accept(host: Host, pair: Pair): void {
    const key = pairKey(pair)
    if (host.row.accepted.has(key)) return
    host.row.accepted.set(key, pair)
    // The same pair taken over from another host: its flows there cannot be told apart any more (P2).
    for (const other of this.#hosts.values())
      if (other !== host && !other.confirmed.has(key)) other.row.accepted.delete(key)
    this.#dirty = true
  }

  /** The foreign host has shown that it receives on this pair (DI-24, DI-27). */
  #confirm(host: Host, pair: Pair, now: number): void {
    this.#accept(host, pair)
    host.row.active.add(pair.foreign)
    host.row.unreachable.delete(pair.foreign)
    host.row.local.add(pair.local)
    host.confirmed.set(pairKey(pair), { pair, at: now })
    this.#know(host, pair.foreign)
    for (const request of [...this.#requests])
      if (request.deferred && request.host === host && samePair(request.pair, pair))
        this.#requests.delete(request)
    this.#choose(host, 'confirmed', now)
  }

  #pathFailed(host: Host, pair: Pair, now: number): void {
    const key = pairKey(pair)
    const confirmed = host.confirmed.delete(key)
    if (!this.#inUse(host, pair)) this.#expiring.push({ at: now + GRACE_MS, host, pair })
    host.silent.set(key, pair)
    host.retry ??= { at: now + RETRY_MS, wait: RETRY_MS }
    if (!confirmed) return
    if (![...host.confirmed.values()].some((c) => c.pair.foreign === pair.foreign)) {
      host.row.active.delete(pair.foreign)
      host.row.unreachable.add(pair.foreign)
    }
    this.#choose(host, 'silent path', now)
    if (host.detachedAt !== undefined)
      for (const local of this.#own.values()) this.#announce(host, local, now)
  }

  #candidates(host: Host): Candidate[] {
    const out: Candidate[] = []
    for (const { pair, at } of host.confirmed.values())
      if (this.#own.has(pair.local) && host.row.active.has(pair.foreign)) out.push({ pair, confirmedAt: at })
    return out
  }

  #anyPair(host: Host): Pair | undefined {
    const current = [host.row.current[4], host.row.current[6]].find((p) => p && this.#usable(host, p))
    return current ?? this.#candidates(host)[0]?.pair
  }

  #usable(host: Host, pair: Pair): boolean {
    return host.confirmed.has(pairKey(pair)) && this.#own.has(pair.local)
  }

  #inUse(host: Host, pair: Pair): boolean {
    return samePair(host.row.current[4], pair) || samePair(host.row.current[6], pair)
  }

  #reaches(host: Host, local: Ip): boolean {
    return [...host.confirmed.values()].some((c) => c.pair.local === local)
  }

  /** Settles which pair is sent on, and whether the host is detached (D2). */
  #choose(host: Host, cause: string, now: number): void {
    const candidates = this.#candidates(host)
    for (const family of [4, 6] as const) {
      const current = host.row.current[family]
      const choice = choosePair(
        candidates.filter((c) => familyOf(c.pair.local) === family),
        {
          pinned: host.pinned,
          foreign: host.preferred,
          local: (foreign) => this.#components.preferredLocal(foreign),
          current,
        },
      )
      if (choice === undefined || samePair(choice.pair, current)) continue
      host.row.current[family] = choice.pair
      this.#dirty = true
      this.#outputs.push({
        kind: 'handover',
        hid: host.row.hid,
        from: current,
        to: choice.pair,
        cause,
        reason: choice.reason,
      })
      if (current !== undefined && choice.pair.local !== host.announced && cause !== 'address lost') {
        host.announced = choice.pair.local
        this.#probe(host, choice.pair, now, Option.PF)
      }
    }
    for (const [id, pair] of host.row.overrides)
      if (!this.#usable(host, pair)) {
        host.row.overrides.delete(id)
        this.#dirty = true
      }
    const detached = candidates.length === 0
    if (detached && host.detachedAt === undefined) {
      host.detachedAt = now
      host.detachedBy = cause === 'silent path' ? 'silence' : 'loss'
      this.#state(host, 'peer', 'detached: no way to it')
    } else if (!detached && host.detachedAt !== undefined) {
      host.detachedAt = undefined
      this.#limit(host)
      this.#state(host, 'peer', 'attached again')
    }
  }

  // -------------------------------------------------------------------------------------------------- messages

  #request(
    host: Host,
    pair: Pair,
    body: Body,
    now: number,
    how: {
      readonly tries?: number
      readonly challenge?: Uint8Array
      readonly deferred?: boolean
      readonly acknowledged?: (ack: IhmpMessage, proven: boolean, now: number) => void
      readonly failed?: (now: number) => void
    },
  ): void {
    host.sequence = (host.sequence + 1) & 0xffff
    const message: IhmpMessage = {
      ...body,
      options: body.options ?? 0,
      sequence: host.sequence,
      counter: this.#nextCounter(),
      hostId: this.#hostId(host, pair),
      receiver: bytesOf(host.nats.get(pair.foreign) ?? pair.foreign),
    }
    const interval =
      host.rtt === undefined
        ? FIRST_INTERVAL_MS
        : Math.min(MOST_INTERVAL_MS, Math.max(LEAST_INTERVAL_MS, 2 * host.rtt + 20))
    const request: Request = {
      host,
      pair,
      message,
      bytes: this.#encode(message, host.ownKey, host.secret),
      challenge: how.challenge ?? body.challenge,
      deferred: how.deferred ?? false,
      mostTries: how.tries ?? TRIES,
      tries: 0,
      interval,
      nextAt: now + (how.deferred === true ? interval : 0),
      sentAt: now,
      acknowledged: how.acknowledged ?? (() => {}),
      failed: how.failed ?? (() => {}),
    }
    this.#requests.add(request)
    if (!request.deferred) this.#transmit(request, now)
  }

  #transmit(request: Request, now: number): void {
    request.tries++
    request.sentAt = now
    request.nextAt = now + request.interval
    request.interval = Math.min(request.interval * 2, MOST_INTERVAL_MS)
    this.#send(request.bytes, request.pair, request.host.ports.get(request.pair.foreign) ?? 0)
  }

  #acknowledge(host: Host, message: IhmpMessage, pair: Pair, port: number, body: Partial<IhmpMessage>): void {
    const bytes = this.#encode(
      {
        control: Control.ACK,
        options: 0,
        ...body,
        sequence: message.sequence,
        counter: this.#nextCounter(),
        hostId: this.#hostId(host, pair),
        receiver: message.hostId,
      },
      host.ownKey,
      host.secret,
    )
    host.replay.answer(message.counter, bytes)
    this.#send(bytes, pair, port)
  }

  /** An address that the peer already knows as ours (DI-18, DI-29). */
  #hostId(host: Host, pair: Pair): Uint8Array {
    if (host.row.local.has(pair.local) || host.row.local.size === 0) return bytesOf(pair.local)
    return bytesOf(host.row.local.values().next().value!)
  }

  #encode(message: IhmpMessage, key: Host['ownKey'], secret: Uint8Array | undefined): Uint8Array {
    const { crypto } = this.#components
    if (key !== undefined) return encodeSigned(message, (bytes) => crypto.sign(key, bytes))
    return encodeMac(message, (bytes) => crypto.mac(secret ?? new Uint8Array(32), bytes))
  }

  #send(bytes: Uint8Array, pair: Pair, port: number): void {
    if (bytes.length === 0) return
    this.stats.sent++
    this.#outputs.push({ kind: 'send', bytes, pair, port })
  }

  /** The host that a message is from: its Host ID says who it claims to be, its authenticator whether it is. */
  #authenticate(message: IhmpMessage, bytes: Uint8Array): Host | undefined {
    for (const host of this.#byAddress.get(ipOf(message.hostId)) ?? []) {
      if (host.state !== 'peer') continue
      if (host.row.key !== undefined) {
        if (this.#verifies(host.row.key, message, bytes)) return host
      } else if (host.secret !== undefined && this.#macMatches(host.secret, message, bytes)) return host
    }
    return undefined
  }

  #verifies(key: Uint8Array, message: IhmpMessage, bytes: Uint8Array): boolean {
    return (
      message.signature !== undefined &&
      this.#components.crypto.verify(key, covered(bytes, 64), message.signature)
    )
  }

  #macMatches(secret: Uint8Array, message: IhmpMessage, bytes: Uint8Array): boolean {
    return (
      message.mac !== undefined &&
      equalConstantTime(this.#components.crypto.mac(secret, covered(bytes, 32)), message.mac)
    )
  }

  #helloAllowed(now: number): boolean {
    this.#helloTokens = Math.min(
      HELLO_RATE,
      this.#helloTokens + ((now - this.#helloTokensAt) * HELLO_RATE) / 1000,
    )
    this.#helloTokensAt = now
    if (this.#helloTokens < 1) return false
    this.#helloTokens--
    return true
  }

  /** Follows the wall clock in microseconds, and never goes back. */
  #nextCounter(): number {
    this.#counter = Math.max(this.#counter + 1, Math.floor(this.#components.wall() * 1000))
    return this.#counter
  }

  #pending(host: Host): boolean {
    for (const request of this.#requests) if (request.host === host && !request.deferred) return true
    return false
  }

  #cancel(host: Host | undefined): void {
    for (const request of [...this.#requests]) if (request.host === host) this.#requests.delete(request)
  }

  /** What was repeated without end while detached ends like anything else. */
  #limit(host: Host): void {
    for (const request of this.#requests)
      if (request.host === host) request.mostTries = Math.min(request.mostTries, TRIES)
  }

  #state(host: Host, state: Host['state'], reason: string): void {
    host.state = state
    this.#outputs.push({ kind: 'state', hid: host.row.hid, state, reason })
  }

  #random(length: number): Uint8Array {
    return this.#components.random.fill(new Uint8Array(length))
  }
}

/** What survives a restart of the daemon (`IhmpMachine.save`). */
export interface SavedHost {
  readonly hid: number
  readonly bound: Pair
  readonly key: HidRow['key']
  readonly secret: Uint8Array | undefined
  readonly floor: number
  readonly counter: number
  readonly preferred: Ip | undefined
  readonly known: readonly Ip[]
  readonly active: readonly Ip[]
  readonly unreachable: readonly Ip[]
  readonly local: readonly Ip[]
  readonly accepted: readonly Pair[]
  readonly confirmed: readonly Pair[]
  readonly current: readonly Pair[]
  readonly lost: readonly Ip[]
  /** Pairs that its flows are bound to. */
  readonly flows: readonly Pair[]
}

/** The secret of two cookies, the same whoever greeted first. */
function secretOf(a: Uint8Array, b: Uint8Array): Uint8Array {
  return compare(a, b) < 0 ? concat(a, b) : concat(b, a)
}

/** An address cut or filled to `length`, for the pair of a NAT between families, which there is none of today. */
function padded(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length === length) return bytes
  const out = new Uint8Array(length)
  out.set(bytes.subarray(0, length))
  return out
}

function controlName(control: Control): string {
  const name = Object.entries(Control).find(([, value]) => value === control)?.[0] ?? ''
  return name.toLowerCase().replaceAll('_', ' ')
}
