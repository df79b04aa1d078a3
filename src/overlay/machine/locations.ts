/**
 * Where nodes are (NT-15, Table 1): what a coordinator knows of those that have registered with it. Nothing unproven: an address counts after
 * it has answered, in OPEN or with the echo of a challenge, and what is older than what is known changes nothing.
 */
import { ascii, concat, viewOf } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { type Location, sameEndpoint } from '../tables.ts'
import type { Candidate, Message } from '../wire/message.ts'
import type { AnswerSession, Arrival } from './answerer.ts'
import type { MachineComponents } from './api.ts'
import type { Prekeys } from './prekeys.ts'

export interface Node extends Location, Prekeys {
  readonly socket: number
  /** Of the login that it registered with. */
  readonly key: Uint8Array
  /**
   * When its session was opened, and the counter of the message that gave its location; older messages do not change it.
   */
  readonly openedAt: number
  readonly counter: number
  /** Of those that it asks for; absent before the first. */
  directions: TokenBucket | undefined
  /** Directions that it asked for and that are under way. */
  asked: number
  /** Directions to it were not acknowledged: it gets none until its address has answered again. */
  silent: boolean
  /** It has asked for a notification server, and was told of none. */
  isUnnotified: boolean
  /** When what its address has answered with was given to it: of an earlier one it has left that place since. */
  readonly freshAt: number
  /** When its address answered a challenge, and when it acknowledged a direction. */
  readonly provenAt: number
  acknowledgedAt: number
  /** When it registered, by the wall clock (ms). */
  readonly wallAt: number
  /** Round trip, as its last answer to a direction showed (ms). */
  rtt: number
}

/** Where a node's message has come from. */
export interface Source {
  readonly session: AnswerSession
  readonly counter: number
  readonly from: Endpoint
  readonly socket: number
  /** Nothing newer of this node has located it. */
  readonly isNewest: boolean
  /** It has answered from there: in OPEN, or by this message's echo; and is the newest. */
  readonly proven: boolean
  /** When what it has answered with was given. */
  readonly givenAt: number | undefined
}

export const LIFETIME_SECONDS = 600
/** Round trip to a node of which it has not been measured (ms). */
export const UNKNOWN_RTT = 40
/** Directions a second that a node may ask for, and at once. */
const DIRECTION_RATE = 10
const DIRECTION_BURST = 300
/** Where nobody says how many the memory of this thread has room for. */
const MAX_LOCATIONS = 2_000_000
const MAX_PENDING = 4096
/** Challenges are good for so long (ms), and say when they were given in units of so many (16 bits). */
const CHALLENGE_MS = 120_000
const CHALLENGE_UNIT = 2

export interface LocationsParts extends MachineComponents {
  /** Nodes at a time. */
  readonly most?: number
  /** It is there, or still there; `anew`: another session located it. */
  readonly onHeard: (name: string, now: number) => void
  readonly onLocated: (name: string, anew: boolean, now: number) => void
}

export class Locations {
  readonly #parts: LocationsParts
  readonly #challengeKey: Uint8Array
  /** In the order of their last registration. */
  readonly #nodes = new Map<string, Node>()
  /**
   * Goes through them once: who registers again goes to its end. A new iterator would pass the places of all who were moved or removed, as
   * many as there are nodes.
   */
  #walk = this.#nodes.values()
  /** As the walk found it; what is asked for is whether it has moved since. */
  #oldest: Node | undefined
  /** Candidates of a registration whose address has not answered yet; with the echo they count. */
  readonly #pending = new Map<string, readonly Candidate[]>()

  constructor(parts: LocationsParts) {
    this.#parts = parts
    this.#challengeKey = parts.random.fill(new Uint8Array(32))
  }

  get size(): number {
    return this.#nodes.size
  }

  get isFull(): boolean {
    return this.#nodes.size >= (this.#parts.most ?? MAX_LOCATIONS)
  }

  get(name: string): Node | undefined {
    return this.#nodes.get(name)
  }

  delete(name: string): void {
    this.#nodes.delete(name)
  }

  /** Whether the node may ask for one more direction now; counts it. */
  takeDirection(node: Node, now: number): boolean {
    node.directions ??= new TokenBucket(DIRECTION_RATE, DIRECTION_BURST)
    return node.directions.take(now)
  }

  /** When the first of them ends. */
  nextTimeout(): number {
    return this.#first()?.expiresAt ?? Number.POSITIVE_INFINITY
  }

  #first(): Node | undefined {
    const { name, expiresAt } = this.#oldest ?? {}
    const known = name === undefined ? undefined : this.#nodes.get(name)
    if (known !== undefined && known.expiresAt === expiresAt) return known
    let next = this.#walk.next()
    if (next.done === true) {
      // An iterator that has ended finds nothing any more.
      this.#walk = this.#nodes.values()
      next = this.#walk.next()
    }
    this.#oldest = next.value
    return this.#oldest
  }

  /** Ends those whose lifetime is over, but for those that `renews`. */
  expire(now: number, renews: (node: Node) => boolean): void {
    for (let node = this.#first(); node !== undefined && node.expiresAt <= now; node = this.#first()) {
      this.#nodes.delete(node.name)
      if (renews(node)) this.#nodes.set(node.name, { ...node, expiresAt: now + 1000 * LIFETIME_SECONDS })
    }
  }

  sourceOf(
    session: AnswerSession,
    message: Message,
    { from, socket }: Pick<Source, 'from' | 'socket'>,
    { how, counter }: { readonly how: Arrival; readonly counter: number },
    now: number,
  ): Source {
    const known = this.#nodes.get(session.owner)
    const inOrder =
      known === undefined ||
      (session.index === known.session ? counter > known.counter : session.openedAt >= known.openedAt)
    const givenAt = how === 'opened' ? session.openedAt : this.#echoed(session, message, from, now)
    const isNewest = inOrder && (givenAt === undefined || known === undefined || givenAt >= known.freshAt)
    const proven = givenAt !== undefined && isNewest
    return { session, counter, from, socket, isNewest, givenAt, proven }
  }

  /** It is where it was, and answers there. */
  isWhereItWas({ session, from }: Source): boolean {
    const known = this.#nodes.get(session.owner)
    return known !== undefined && sameEndpoint(known.observed, from) && !known.silent
  }

  /** A registration; its candidates count when its address has answered. */
  registered(source: Source, hosts: readonly Candidate[], now: number): void {
    if (!source.isNewest) return
    const name = source.session.owner
    if (source.proven || this.isWhereItWas(source)) this.#locate(source, hosts, now)
    else {
      this.#pending.delete(name)
      if (this.#pending.size >= MAX_PENDING) this.#pending.delete(this.#pending.keys().next().value!)
      this.#pending.set(name, hosts)
    }
  }

  /** A keep-alive. */
  heard(source: Source, now: number): void {
    const { session, counter, isNewest, proven } = source
    const known = this.#nodes.get(session.owner)
    const isHere = this.isWhereItWas(source)
    if (proven && !isHere) {
      const hosts = this.#pending.get(session.owner) ?? known?.hosts
      if (hosts !== undefined) this.#locate(source, hosts, now)
    } else if (known !== undefined && isHere && isNewest) {
      const { index, openedAt } = session
      this.#nodes.set(session.owner, { ...known, heardAt: now, session: index, openedAt, counter })
      this.#parts.onHeard(session.owner, now)
    }
  }

  /** When it registered, by the wall clock (ms): the earlier time, if the clock was set since, or this machine was stopped for a while. */
  registeredAt({ wallAt, at }: Node, now: number): number {
    return Math.min(wallAt, this.#parts.wall() - (now - at))
  }

  /** A token that this address has to return within two minutes; nobody else can know it. It says when it was given. */
  challenge({ owner }: AnswerSession, { address, port }: Endpoint, now: number): Uint8Array {
    const given = Math.floor(now / CHALLENGE_UNIT)
    const end = Uint8Array.of(port >> 8, port & 255)
    const who = concat(ascii(`${given} ${owner} `), address, end)
    const token = this.#parts.crypto.mac(this.#challengeKey, who).slice(0, 8)
    viewOf(token).setUint16(0, given % 2 ** 16)
    return token
  }

  /** When the token was given that it returns; undefined: it returns none that is good. */
  #echoed(session: AnswerSession, { echo }: Message, from: Endpoint, now: number): number | undefined {
    if (echo === undefined || echo.length < 2) return undefined
    const unit = Math.floor(now / CHALLENGE_UNIT)
    const age = (((unit - viewOf(echo).getUint16(0)) % 2 ** 16) + 2 ** 16) % 2 ** 16
    const givenAt = CHALLENGE_UNIT * (unit - age)
    if (CHALLENGE_UNIT * age > CHALLENGE_MS) return undefined
    return this.#parts.crypto.equal(echo, this.challenge(session, from, givenAt)) ? givenAt : undefined
  }

  #locate(source: Source, hosts: readonly Candidate[], now: number): void {
    const { session, counter, from, socket, givenAt, proven } = source
    const name = session.owner
    const known = this.#nodes.get(name)
    this.#nodes.delete(name) // to the end: the order is by last registration
    this.#nodes.set(name, {
      name,
      hosts,
      observed: from,
      proven: true,
      session: session.index,
      socket,
      key: session.key,
      at: now,
      expiresAt: now + 1000 * LIFETIME_SECONDS,
      heardAt: now,
      silent: false,
      // Another coordinator may have it since what it answered with was given.
      wallAt:
        givenAt === undefined && known !== undefined
          ? known.wallAt
          : this.#parts.wall() - (now - (givenAt ?? now)),
      freshAt: Math.max(givenAt ?? 0, known?.freshAt ?? 0),
      provenAt: proven ? now : (known?.provenAt ?? now),
      acknowledgedAt: known?.acknowledgedAt ?? Number.NEGATIVE_INFINITY,
      rtt: known?.rtt ?? UNKNOWN_RTT,
      openedAt: session.openedAt,
      counter,
      directions: known?.directions,
      asked: known?.asked ?? 0,
      isUnnotified: known?.isUnnotified ?? false,
      prekeys: known?.prekeys ?? [],
      given: known?.given ?? [],
    })
    this.#pending.delete(name)
    this.#parts.onHeard(name, now)
    this.#parts.onLocated(name, known?.session !== session.index, now)
  }
}
