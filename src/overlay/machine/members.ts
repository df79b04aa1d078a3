/**
 * A server apart and all coordinators of its zone: a registration with each (member.ts). Sans-I/O; whoever drives it has the sockets.
 *
 * It begins with whichever answers at the addresses of its settings. A coordinator that is one of several says where it and the
 * others are (COORDINATOR, in each answer to a registration); each of them then has a registration of its own. One that neither answers nor is named by another is
 * forgotten. If none answers, all are tried on, and so are the addresses of the settings. Where a zone has one coordinator, that says nothing, and the first registration is all there is.
 */
import type { Endpoint } from '../../core/endpoint.ts'
import { sameEndpoint } from '../tables.ts'
import type { CoordinatorAt, Message } from '../wire/message.ts'
import type { Way } from './asker.ts'
import { Member, type MemberInit, type MemberParts } from './member.ts'

export interface MembersParts extends Pick<MemberParts, 'crypto' | 'random' | 'wall' | 'send'> {
  /** What the registration with a coordinator says beside name and roles. */
  readonly describe: (coordinator: string) => Partial<Message>
  /** The socket for an address; undefined: none reaches it. */
  readonly socketFor: (address: Uint8Array) => number | undefined
  /** `isFresh`: for the first time since it, or this server, was started. */
  readonly onRegistered: (coordinator: string, answer: Message, isFresh: boolean, now: number) => void
  readonly onLost: (coordinator: string, reason: string, now: number) => void
  readonly onRequest: (
    coordinator: string,
    message: Message,
    answer: (fields: Partial<Message>) => void,
    now: number,
  ) => void
}

type Done = (answer: Message | undefined, now: number) => void

/** A coordinator that does not answer, and that no other one names, is forgotten then (ms). */
const FORGET_MS = 60_000
/** None answers for so long: whoever answers at the addresses of the settings is begun with anew (ms). */
const ANEW_MS = 5_000
/** One that does not answer a question for so long has it asked of the next (ms). */
const NEXT_MS = 1500
const MAX_LINKS = 34
/** One that no other one has named for so long is there again when one does (ms). */
const BACK_MS = 3000
const NEVER = Number.POSITIVE_INFINITY

interface Link {
  /** Of the coordinator; empty: it has not said it. */
  name: string
  readonly member: Member
  /** Where it is, as it or another one says. */
  at: CoordinatorAt | undefined
  isThere: boolean
  /** When it, or another one, has said last that it is there. */
  namedAt: number
}

export class Members {
  readonly #parts: MembersParts
  readonly #init: MemberInit
  #ways: readonly Way[] = []
  #links: Link[] = []
  /** None has answered since. */
  #aloneSince = NEVER

  constructor(parts: MembersParts, init: MemberInit) {
    this.#parts = parts
    this.#init = { ...init, boot: init.boot ?? parts.random.fill(new Uint8Array(8)) }
  }

  /** Coordinators that answer. */
  get coordinators(): readonly string[] {
    return this.#links.filter(({ isThere }) => isThere).map(({ name }) => name)
  }

  /** Round trip to a coordinator (µs); 0: not measured. */
  rttOf(coordinator: string): number {
    return this.#linkOf(coordinator)?.member.rtt ?? 0
  }

  /** Where a coordinator may be, of whichever name. */
  setWays(ways: readonly Way[], now: number): void {
    this.#ways = ways
    if (this.#links.length === 0) this.#begin(now)
    else for (const link of this.#links) if (link.name === '') link.member.setWays(ways, now)
  }

  /** Asks this coordinator; undefined is answered where it is not there. */
  requestOf(
    coordinator: string,
    message: Omit<Message, 'transaction'>,
    ms: number,
    done: Done,
    now: number,
  ): void {
    const link = this.#linkOf(coordinator)
    if (link?.isThere !== true) done(undefined, now)
    else link.member.request(message, ms, done, now)
  }

  /** Asks one, and the next if that does not answer or its answer is not `good`. The last answer counts. */
  request(
    message: Omit<Message, 'transaction'>,
    ms: number,
    done: Done,
    now: number,
    good: (answer: Message) => boolean = () => true,
  ): void {
    const asked = new Set<Link>()
    const next = (before: Message | undefined, at: number) => {
      const all = this.#links.filter((link) => !asked.has(link))
      const link = all.find(({ isThere }) => isThere) ?? (asked.size === 0 ? all[0] : undefined)
      if (link === undefined) {
        done(before, at)
        return
      }
      asked.add(link)
      const answered: Done = (answer, later) => {
        if (answer !== undefined && good(answer)) done(answer, later)
        else next(answer ?? before, later)
      }
      const isLast = all.length === 1
      link.member.request(message, isLast ? ms : Math.min(ms, NEXT_MS), answered, at)
    }
    next(undefined, now)
  }

  handle(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    for (const { member } of [...this.#links]) member.handle(bytes, from, socket, now)
  }

  /** Registers with all at once: something that it describes has changed. */
  refresh(now: number): void {
    for (const { member } of this.#links) member.refresh(now)
  }

  nextTimeout(): number | undefined {
    let at = this.#aloneSince + ANEW_MS
    const forgets = this.#links.some(({ isThere }) => isThere)
    for (const { member, namedAt, isThere } of this.#links) {
      at = Math.min(at, member.nextTimeout() ?? NEVER)
      if (forgets && !isThere) at = Math.min(at, namedAt + FORGET_MS)
    }
    return at === NEVER ? undefined : at
  }

  handleTimeout(now: number): void {
    for (const { member } of [...this.#links])
      if ((member.nextTimeout() ?? NEVER) <= now) member.handleTimeout(now)
    if (this.#links.some(({ isThere }) => isThere)) this.#aloneSince = NEVER
    else if (this.#aloneSince + ANEW_MS <= now) {
      this.#aloneSince = NEVER
      if (!this.#links.some(({ name }) => name === '')) this.#begin(now)
    }
    // While none answers, all are tried on.
    if (!this.#links.some(({ isThere }) => isThere)) return
    for (const link of [...this.#links])
      if (!link.isThere && link.namedAt + FORGET_MS <= now) this.#drop(link, now)
  }

  #begin(now: number): void {
    this.#make('', undefined, this.#ways, now)
  }

  #make(name: string, at: CoordinatorAt | undefined, ways: readonly Way[], now: number): void {
    if (this.#links.length >= MAX_LINKS) return
    const { crypto, random, wall, send, describe, onLost, onRequest } = this.#parts
    const link: Link = {
      ...{ name, at, isThere: false, namedAt: now },
      member: new Member(
        {
          ...{ crypto, random, wall, send },
          describe: () => describe(link.name),
          onRegistered: (answer, isFresh, later) => this.#registered(link, answer, isFresh, later),
          onLost: (reason, later) => {
            if (!this.#links.includes(link)) return
            link.isThere = false
            if (!this.#links.some(({ isThere }) => isThere))
              this.#aloneSince = Math.min(this.#aloneSince, later)
            onLost(link.name, reason, later)
          },
          onRequest: (message, answer, later) => onRequest(link.name, message, answer, later),
        },
        this.#init,
      ),
    }
    this.#links.push(link)
    link.member.setWays(ways, now)
  }

  #registered(link: Link, answer: Message, isFresh: boolean, now: number): void {
    if (!this.#links.includes(link)) return
    const [own, ...others] = answer.coordinators ?? []
    link.namedAt = now
    this.#aloneSince = NEVER
    if (own !== undefined && link.name !== own.name) {
      // It was found anew, while the registration that it had before was given up.
      const before = this.#linkOf(own.name)
      if (before !== undefined) this.#drop(before, now)
      link.name = own.name
    }
    link.isThere = true
    if (own !== undefined) this.#place(link, own, now)
    for (const other of others) {
      const known = this.#linkOf(other.name)
      if (known === undefined) this.#make(other.name, other, this.#waysTo(other), now)
      else {
        const isBack = !known.isThere && known.namedAt + BACK_MS <= now
        known.namedAt = now
        // It was asked less and less often.
        if (isBack) known.at = undefined
        if (!known.isThere) this.#place(known, other, now)
      }
    }
    this.#parts.onRegistered(link.name, answer, isFresh, now)
  }

  /** It is asked at its own addresses alone: the others are of others. */
  #place(link: Link, at: CoordinatorAt, now: number): void {
    if (link.at !== undefined && isSame(link.at, at)) return
    const all = this.#waysTo(at)
    const { way } = link.member
    const has = way !== undefined && all.some(({ to }) => sameEndpoint(to, way.to))
    // Where it answers counts more than what it says, as behind a NAT of its own.
    const ways = has || way === undefined || !link.isThere ? all : [way, ...all]
    if (ways.length === 0) return
    link.at = at
    link.member.setWays(ways, now)
  }

  #waysTo({ addresses, port }: CoordinatorAt): Way[] {
    return addresses.flatMap((address) => {
      const socket = this.#parts.socketFor(address)
      return socket === undefined ? [] : [{ socket, to: { address, port } }]
    })
  }

  #linkOf(name: string): Link | undefined {
    return this.#links.find((link) => link.name === name)
  }

  /** What waits for its answer gets none. */
  #drop(link: Link, now: number): void {
    this.#links = this.#links.filter((each) => each !== link)
    link.member.close(now)
  }
}

function isSame(a: CoordinatorAt, b: CoordinatorAt): boolean {
  return a.port === b.port && a.addresses.map(String).join() === b.addresses.map(String).join()
}
