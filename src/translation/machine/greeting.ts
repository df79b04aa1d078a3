/**
 * HELLO, its answer and the third message (DI-22…24): two hosts learn each other's keys and addresses, and that both
 * receive where they say. Nothing is believed of a HELLO before its sender has answered from the address it claims. Rows of
 * one host are merged here, and hosts behind NATs that do not know IHMP stay one-to-one (DI-45).
 */
import { compare, concat, equal, equalConstantTime } from '../../core/bytes.ts'
import { encoded } from '../../core/codec.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { advertised } from '../policy.ts'
import { bytesOf, type Ip, ipOf, type Pair, pairKey, samePair } from '../tables.ts'
import { Control, type IhmpMessage, ihmp, Option } from '../wire.ts'
import { type Host, takeOver } from './host.ts'
import { type Body, FIRST_INTERVAL_MS, type Messages } from './messages.ts'
import type { Movement } from './movement.ts'
import { isBehind } from './nat.ts'
import type { Paths } from './paths.ts'
import type { Possession } from './possession.ts'
import { type IhmpState, OVERHEAD, padded } from './state.ts'

// Our choices; the paper gives no times.
const HELLO_TRIES = 3
/** A host that does not speak IHMP is asked again after this, doubled each time. */
const HELLO_AGAIN_MS = 60_000
const HELLO_AGAIN_MOST_MS = 3_600_000
/** A host that was told of its NAT (ND) says NF within this, or greets anew. */
const ONE_TO_ONE_MS = 4_000
/** Hosts known by forgeable datagrams alone. */
const MOST_HEARD = 2_000
/** Longer than the kernel remembers a datagram. */
const SOLICIT_AGAIN_MS = 200_000
/** HELLOs that wait for their third message; each costs a few hundred bytes. */
const MOST_HALF_OPEN = 256
/** Signatures verified for hosts not yet known, per second. */
const HELLO_RATE = 200
const MOST_ADDRESSES = 12
/** Kernels give ports below to programs with rights only, unless they are told otherwise. */
const UNPRIVILEGED = 1024

/** A HELLO that was answered and whose sender has not yet shown that it receives at its address. */
interface HalfOpen {
  readonly hello: IhmpMessage
  readonly pair: Pair
  readonly port: number
  readonly challenge: Uint8Array
  readonly cookie: Uint8Array
  /** The HELLO as it came: only the same again is answered again. */
  readonly bytes: Uint8Array
  readonly answer: Uint8Array
  /** Bytes from the sender, and to it: of these there are never more than three times as many. */
  came: number
  sent: number
  /** The own addresses that the answer names. */
  readonly told: readonly Uint8Array[]
  /** Its sender is behind a NAT that does not know IHMP, and is to say so (NF): no third message makes a row of it. */
  readonly isOneToOne: boolean
  tries: number
  nextAt: number
}

/** What both ends have said when a greeting is complete. */
interface Greeted {
  /** The other end's half. */
  readonly message: IhmpMessage
  /** The own addresses that our half named. */
  readonly told: readonly Uint8Array[]
  /** Of both cookies. */
  readonly secret: Uint8Array | undefined
}

export class Greeting {
  readonly #state: IhmpState
  readonly #messages: Messages
  readonly #paths: Paths
  readonly #movement: Movement
  readonly #possession: Possession
  readonly #halfOpen = new Map<string, HalfOpen>()
  readonly #hellos = new TokenBucket(HELLO_RATE)

  constructor(
    state: IhmpState,
    messages: Messages,
    paths: Paths,
    movement: Movement,
    possession: Possession,
  ) {
    this.#state = state
    this.#messages = messages
    this.#paths = paths
    this.#movement = movement
    this.#possession = possession
  }

  /** DI-22. Data is never delayed by it. */
  greet(host: Host, now: number): void {
    const { bound } = host
    host.heard = false
    if (!this.#state.own.has(bound.local)) return
    this.#state.components.keys.awaits?.(bound.foreign) // by the time of an answer it is known
    const challenge = this.#state.random(16)
    const again = Math.min(HELLO_AGAIN_MS * 2 ** host.helloAttempts++, HELLO_AGAIN_MOST_MS)
    const body: Body = {
      control: Control.HELLO,
      addresses: this.#advertised(bound).map(bytesOf),
      ...(host.ownKey === undefined ? {} : { publicKey: host.ownKey.publicKey }),
      challenge,
      cookie: host.cookie,
    }
    this.#messages.request(host, bound, body, now, {
      tries: HELLO_TRIES,
      failed: (at) => {
        if (host.state !== 'greeting' && host.state !== 'plain') return
        this.#state.say(host, 'plain', 'it does not answer IHMP')
        this.#greetLater(host, at + again)
      },
    })
  }

  // -------------------------------------------------------------------------------------- hosts known by datagrams

  /** Whether there is room for another. */
  mayHear(): boolean {
    let heard = 0
    for (const host of this.#state.hosts.values()) if (host.heard) heard++
    return heard < MOST_HEARD
  }

  /**
   * Asks a host for its HELLO, in no more than three times the bytes of the smallest datagram. A HELLO of ours could go to
   * somebody who has never sent any. Again only when what the kernel remembers of the datagrams must be of newer ones.
   */
  solicit(host: Host, now: number): void {
    const { local, foreign } = host.bound
    host.heard = true
    if (this.#state.own.has(local)) {
      const message: IhmpMessage = {
        control: Control.SOLICIT,
        options: 0,
        sequence: 0,
        counter: this.#state.nextCounter(),
        hostId: bytesOf(local),
        receiver: bytesOf(foreign),
        flowPair: { own: bytesOf(local), other: bytesOf(foreign) },
      }
      this.#messages.send(encoded(ihmp, message), host.bound, 0)
    }
    const again = Math.min(SOLICIT_AGAIN_MS * 2 ** host.helloAttempts++, HELLO_AGAIN_MOST_MS)
    this.#messages.later(host, now + again, (at) => {
      if (host.heard && this.#state.components.tables.flows(host.row.hid).size > 0) this.solicit(host, at)
    })
  }

  /** One HELLO, which names one address: the asker may be somebody else, and then it is at most three times what he sent. */
  handleSolicit(length: number, pair: Pair, port: number, now: number): void {
    const host = this.#state.byActive(pair.foreign)
    if (host === undefined || !samePair(host.bound, pair) || !this.#mayGreet(pair, port)) return
    const waits = host.state === 'greeting' || host.state === 'plain'
    if (!waits || this.#messages.pending(host) || !this.#hellos.take(now)) return
    const challenge = this.#state.random(16)
    const body: Body = {
      control: Control.HELLO,
      addresses: [bytesOf(pair.local)],
      ...(host.ownKey === undefined ? {} : { publicKey: host.ownKey.publicKey }),
      challenge,
      cookie: host.cookie,
    }
    this.#messages.request(host, pair, body, now, { tries: 1, most: 3 * (length + OVERHEAD) })
  }

  #greetLater(host: Host, at: number): void {
    this.#messages.later(host, at, (now) => this.greet(host, now))
  }

  /** The address in use comes first. */
  #advertised(pair: Pair): Ip[] {
    return advertised([...this.#state.own.values()], pair, this.#state.options.advertise, MOST_ADDRESSES)
  }

  // ------------------------------------------------------------------------------------------------ responder

  /** DI-23. */
  handleHello(message: IhmpMessage, bytes: Uint8Array, pair: Pair, port: number, now: number): void {
    const key = pairKey(pair)
    const waiting = this.#halfOpen.get(key)
    if (waiting?.port === port && equal(waiting.bytes, bytes)) {
      waiting.came += bytes.length + OVERHEAD
      this.#answer(waiting)
      return
    }
    if (message.challenge === undefined || message.cookie === undefined || !this.#mayGreet(pair, port)) return
    if (message.publicKey === undefined && this.#state.options.unsigned !== 'allow') return
    if (!this.#state.components.hasFlow(pair.local, pair.foreign) || !this.#hellos.take(now)) return
    const existing = this.#state.byActive(pair.foreign)
    if (!this.#trusted(message, bytes, pair, existing, now)) return
    const source = bytesOf(pair.foreign)
    const behindNat = !names(message, source)
    const aware = (message.options & Option.NS) !== 0
    const forced = (message.options & Option.NF) !== 0
    // Who has our last answer receives at the address; without it anybody may have written the address.
    const isProven = waiting !== undefined && isResponse(message, waiting.challenge)
    const ownKey = this.#state.components.keys.own(pair.local)
    const cookie = existing?.cookie ?? this.#state.random(16)
    const challenge = this.#state.random(16)
    const told = this.#advertised(pair).map(bytesOf)
    const answer = this.#messages.encode(
      {
        control: Control.HELLO_ACK,
        options: (behindNat && !aware ? Option.ND : 0) | (forced ? Option.NF : 0),
        sequence: message.sequence,
        counter: this.#state.nextCounter(),
        hostId: bytesOf(pair.local),
        addresses: told,
        receiver: message.hostId,
        ...(ownKey === undefined ? {} : { publicKey: ownKey.publicKey }),
        ...(behindNat ? { natPair: { nat: source, host: padded(message.hostId, source.length) } } : {}),
        response: message.challenge,
        challenge,
        cookie,
      },
      ownKey,
      secretOf(message.cookie, cookie),
    )
    const half: HalfOpen = {
      hello: message,
      pair,
      port,
      challenge,
      cookie,
      bytes,
      answer,
      came: bytes.length + OVERHEAD,
      sent: 0,
      told,
      isOneToOne: behindNat && !aware,
      tries: 1,
      nextAt: now + (behindNat && !aware ? ONE_TO_ONE_MS : 2 * FIRST_INTERVAL_MS),
    }
    this.#answer(half)
    if (forced) {
      if (isProven) this.#force(key, existing)
      return
    }
    if (this.#halfOpen.size >= MOST_HALF_OPEN) this.#halfOpen.delete(this.#halfOpen.keys().next().value!)
    this.#halfOpen.set(key, half)
  }

  /** One-to-one and fixed: no state is kept beyond the row, and no further IHMP (DI-45). */
  #force(key: string, host: Host | undefined): void {
    this.#halfOpen.delete(key)
    // What has been agreed without keys is no other's to end, who may be behind the same NAT.
    if (host === undefined || host.secret !== undefined) return
    this.#state.say(host, 'forced', 'behind a NAT that does not know IHMP')
    this.#messages.cancel(host)
  }

  /** The address has proven nothing yet. */
  #answer(half: HalfOpen): void {
    const size = half.answer.length + OVERHEAD
    if (half.sent + size > 3 * half.came) return
    half.sent += size
    this.#messages.send(half.answer, half.pair, half.port)
  }

  /** Whether a HELLO's signature and key are those that must be expected of its sender; counts it if not. */
  #trusted(
    message: IhmpMessage,
    bytes: Uint8Array,
    pair: Pair,
    existing: Host | undefined,
    now: number,
  ): boolean {
    if (this.#awaitsDirectory(pair)) return false
    const { publicKey } = message
    const fixed = this.#state.components.keys.known(pair.foreign, publicKey) ?? existing?.row.key
    if (message.publicKey === undefined) {
      if (fixed === undefined && this.#state.options.unsigned === 'allow') return true
    } else if (fixed !== undefined && !equal(fixed, message.publicKey)) {
      // Another key at an address that a host has: perhaps it left without a word (P3). Ask it.
      if (existing !== undefined) this.#paths.suspect(existing, now)
    } else if (this.#messages.verifies(message.publicKey, message, bytes)) return true
    this.#state.stats.unauthenticated++
    return false
  }

  /** Nobody is believed before the directory has said whose key it is; whoever greets does so again. */
  #awaitsDirectory({ foreign }: Pair): boolean {
    if (this.#state.components.keys.awaits?.(foreign) !== true) return false
    this.#state.stats.unauthenticated++
    return true
  }

  /** The directory has another word about the address: hosts there are greeted, or are not who they seemed to be. */
  handleDirectory(ip: Ip, now: number): void {
    if (this.#state.components.keys.awaits?.(ip) === true) return
    for (const host of [...this.#state.byAddress(ip)]) {
      const asks = host.state === 'greeting' || host.state === 'plain'
      if (asks && !host.heard && host.bound.foreign === ip) {
        this.#messages.cancel(host) // an earlier greeting, and its next time
        this.greet(host, now)
      } else if (host.state === 'peer' && !this.#state.mayBeAt(ip, host.row.key))
        this.#paths.disown(host, ip, now)
    }
  }

  /** Any program may send from an address: one whose key is not bound to it must have rights there. */
  #mayGreet(pair: Pair, port: number): boolean {
    return port < UNPRIVILEGED || this.#state.components.keys.known(pair.foreign) !== undefined
  }

  /** The third message: the sender receives at the address, so its row is made (DI-23) and its others are probed. */
  complete(message: IhmpMessage, bytes: Uint8Array, pair: Pair, now: number): boolean {
    const half = this.#halfOpen.get(pairKey(pair))
    if (half === undefined || half.isOneToOne || !isResponse(message, half.challenge)) return false
    const { hello } = half
    const secret = secretOf(hello.cookie!, half.cookie)
    const genuine =
      hello.publicKey !== undefined
        ? this.#messages.verifies(hello.publicKey, message, bytes)
        : this.#messages.macMatches(secret, message, bytes)
    if (!genuine) {
      this.#state.stats.unauthenticated++
      return true
    }
    this.#halfOpen.delete(pairKey(pair))
    const known = this.#state.byActive(pair.foreign)
    if (known === undefined && this.#state.hosts.size >= this.#state.options.mostHosts) return true
    let host = known ?? this.#state.newHost(pair)
    host.replay.accept(hello.counter)
    host.replay.accept(message.counter)
    host.ports.set(pair.foreign, half.port)
    host.privileged = half.port < UNPRIVILEGED
    this.#state.earn(host, half.came + bytes.length)
    host = this.#established(host, pair, { message: hello, told: half.told, secret }, now)
    if ((hello.options & Option.NS) !== 0 && !names(hello, bytesOf(pair.foreign)))
      isBehind(this.#state, host, pair.foreign, ipOf(hello.hostId))
    return true
  }

  // ------------------------------------------------------------------------------------------------ initiator

  /** DI-24. */
  handleHelloAck(message: IhmpMessage, bytes: Uint8Array, pair: Pair, port: number, now: number): void {
    const request = [...this.#state.requests].find(
      (r) =>
        r.message.control === Control.HELLO &&
        samePair(r.pair, pair) &&
        r.challenge !== undefined &&
        message.response !== undefined &&
        equalConstantTime(r.challenge, message.response),
    )
    if (request === undefined) {
      this.#repeated(message, bytes, pair, port)
      return
    }
    if (!this.#mayGreet(pair, port)) {
      this.#state.stats.unauthenticated++
      return
    }
    if (this.#awaitsDirectory(pair)) return
    let { host } = request
    const known = this.#state.components.keys.known(pair.foreign, message.publicKey) ?? host.row.key
    const secret = message.cookie === undefined ? undefined : secretOf(host.cookie, message.cookie)
    const genuine =
      message.publicKey !== undefined
        ? (known === undefined || equal(known, message.publicKey)) &&
          this.#messages.verifies(message.publicKey, message, bytes)
        : known === undefined &&
          this.#state.options.unsigned === 'allow' &&
          secret !== undefined &&
          this.#messages.macMatches(secret, message, bytes)
    if (!genuine) {
      this.#state.stats.unauthenticated++
      return
    }
    this.#messages.drop(request)
    this.#state.stats.exchanges++
    host.ports.set(pair.foreign, port)
    host.privileged = port < UNPRIVILEGED
    host.replay.accept(message.counter)
    if ((message.options & Option.NF) !== 0) {
      this.#state.say(host, 'forced', 'this host is behind a NAT that does not know IHMP')
      return
    }
    if ((message.options & Option.ND) !== 0) {
      // The association starts behind an unaware NAT: say so once, and leave it at that (DI-43, DI-45).
      const { challenge: response } = message
      const challenge = this.#state.random(16)
      const body = { ...request.message, options: Option.NF, challenge, ...(response && { response }) }
      this.#messages.request(host, pair, body, now, {
        tries: HELLO_TRIES,
        failed: () => this.#state.say(host, 'forced', 'behind a NAT'),
      })
      return
    }
    if (request.tries === 1) host.rtt = now - request.sentAt
    this.#state.earn(host, bytes.length)
    host = this.#established(host, pair, { message, told: request.message.addresses ?? [], secret }, now)
    this.#messages.acknowledge(host, message, pair, port, { response: message.challenge! })
  }

  /** Our third message was lost: the other end still asks. */
  #repeated(message: IhmpMessage, bytes: Uint8Array, pair: Pair, port: number): void {
    const host = this.#messages.authenticate(message, bytes)
    if (host?.state !== 'peer' || message.challenge === undefined) return
    if (host.replay.check(message.counter).kind === 'old') return
    this.#messages.acknowledge(host, message, pair, port, { response: message.challenge })
  }

  // --------------------------------------------------------------------------------------------- both ends

  #established(greeted: Host, pair: Pair, { message, told, secret }: Greeted, now: number): Host {
    let host = greeted
    const { publicKey } = message
    host.heard = false
    const shared = publicKey === undefined || host.ownKey === undefined ? secret : undefined
    // Both may greet, and repeat it: what else is being told goes on, unless the peer can read it no more.
    const readable = host.secret === undefined ? shared === undefined : shared && equal(host.secret, shared)
    this.#messages.cancel(host, (r) => !readable || r.message.control === Control.HELLO)
    host.row.key = publicKey
    host.secret = shared
    this.#state.say(host, 'peer', publicKey === undefined ? 'greeted without a key' : 'greeted, key pinned')
    this.#paths.confirm(host, pair, now)
    for (const bytes of message.addresses ?? []) this.#state.claims(host, ipOf(bytes))
    host = this.unite(host, now)
    host.dormant = false
    this.#possession.established(host, now)
    this.#paths.probeCandidates(host, now)
    // What has come since our half of the greeting was written.
    const known = new Set(told.map(ipOf))
    for (const ip of known) host.told.add(ip)
    for (const ip of this.#advertised(pair))
      if (!known.has(ip)) this.#movement.announce(host, this.#state.own.get(ip)!, now)
    return host
  }

  /**
   * Joins the host with another row that has the same key, unless one of their addresses is bound to another key. A key
   * gets into a row only when it has signed something that the row's own addresses carried: here, or in keys.ts.
   */
  unite(host: Host, now: number): Host {
    const other = host.row.key === undefined ? undefined : this.#sameKey(host, host.row.key)
    if (other === undefined) return host
    for (const ip of [...host.row.active, ...other.row.active])
      if (!this.#state.mayBeAt(ip, host.row.key)) return host
    return this.#merge(host, other, now)
  }

  #sameKey(host: Host, key: Uint8Array): Host | undefined {
    for (const other of this.#state.hosts.values())
      if (other !== host && other.state === 'peer' && other.row.key && equal(other.row.key, key)) return other
    return undefined
  }

  /** Two rows are one host (the same key has answered for both): the older keeps its number. */
  #merge(a: Host, b: Host, now: number): Host {
    const [into, from] = a.row.hid < b.row.hid ? [a, b] : [b, a]
    this.#state.components.tables.merge(from.row.hid, into.row.hid)
    for (const ip of from.known) this.#state.know(into, ip)
    for (const ip of from.answered) {
      into.answered.add(ip)
      this.#state.index(into, ip)
    }
    for (const inside of from.nats.values()) this.#state.index(into, inside)
    takeOver(into, from)
    this.#state.forget(from)
    this.#paths.choose(into, 'merge', now)
    return into
  }

  nextTimeout(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { nextAt } of this.#halfOpen.values()) next = Math.min(next, nextAt)
    return next
  }

  handleTimeout(now: number): void {
    for (const [key, half] of this.#halfOpen) {
      if (half.nextAt > now) continue
      if (half.tries >= HELLO_TRIES || half.isOneToOne) this.#halfOpen.delete(key)
      else {
        half.nextAt = now + FIRST_INTERVAL_MS * 2 ** half.tries++
        this.#answer(half)
      }
    }
  }
}

function isResponse({ response }: IhmpMessage, challenge: Uint8Array): boolean {
  return response !== undefined && equalConstantTime(response, challenge)
}

function names(message: IhmpMessage, address: Uint8Array): boolean {
  return message.addresses?.some((a) => equal(a, address)) ?? false
}

/** The secret of two cookies, the same whoever greeted first. */
function secretOf(a: Uint8Array, b: Uint8Array): Uint8Array {
  return compare(a, b) < 0 ? concat(a, b) : concat(b, a)
}
