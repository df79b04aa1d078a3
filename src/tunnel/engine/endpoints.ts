/**
 * Addresses of peers: for each access, what that access's own name servers return (access/names). A name is resolved when
 * the daemon starts, when an access appears or changes identity, when nothing of the peer answers over the access, when
 * the answer's TTL expires, and after sleep. The last result is kept over restarts and used at once, because a name
 * server may be unreachable exactly then.
 *
 * An answer is only a hint. A path that works stays where it is; the handshake proves the peer.
 */
import { formatAddress, parseAddress } from '../../core/address.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import type { PathReport } from './events.ts'
import { isUsable } from './reports.ts'

/** Last resolved addresses by host name, as text, in order of preference. */
export interface EndpointCache {
  get(name: string): readonly string[]
  set(name: string, addresses: readonly string[]): void
}

/** Resolves names over an access; `AccessResolver` is one. */
export interface EndpointResolver {
  resolve(
    host: string,
    access: string,
  ): Promise<{
    readonly addresses: readonly string[]
    /** Good over this access alone. */
    readonly synthesised: readonly string[]
    readonly validMs: number
  }>
}

export interface EndpointsParts {
  readonly cache: EndpointCache
  readonly resolver: EndpointResolver
  /** `access` is absent for what holds where nothing is known for an access itself. */
  readonly onRemotes: (peer: string, remotes: readonly Endpoint[], access?: string) => void
  readonly report: (message: string) => void
  /** Monotonic milliseconds. Default: performance.now. */
  readonly now?: () => number
}

/** A way to a peer: a name or an address, and a UDP port. */
export interface HostPort {
  readonly host: string
  readonly port: number
}

export interface Named {
  readonly name: string
  /** In the order in which they are tried. */
  readonly endpoints: readonly HostPort[]
}

/** An access as far as names are concerned. */
export interface NamingAccess {
  readonly name: string
  readonly up: boolean
  readonly families: readonly (4 | 6)[]
  readonly generation: number
}

/** Nothing of a peer has answered over an access for so long (ms): its name may mean another machine by now. */
const SILENT_MS = 2000
/** First and longest pause between two questions that bring nothing new. */
const PAUSE_MS = 2000
const LONGEST_PAUSE_MS = 30_000
/** An answer is asked for again after its time, within these bounds. */
const LEAST_MS = 10_000
const MOST_MS = 3_600_000
const NEVER = Number.POSITIVE_INFINITY

/** One name over one access. */
interface Question {
  readonly peer: Named
  readonly host: string
  readonly access: string
  askAt: number
  busy: boolean
  pause: number
  /** Asked again then if no path to the peer over the access works. */
  retryAt: number
  /** That it has no answer was reported. */
  failed: boolean
  /** Grows when an answer under way is no longer wanted. */
  round: number
}

interface Known {
  readonly addresses: Map<string, readonly string[]>
  reported: string
}

export class Endpoints {
  readonly #parts: EndpointsParts
  readonly #now: () => number
  readonly #peers = new Map<string, Named>()
  readonly #accesses = new Map<string, NamingAccess>()
  /** By peer; each access has one for each name. */
  readonly #questions = new Map<string, Question[]>()
  /** Of each peer, by access ('' for all): addresses by name, and what was reported last. */
  readonly #known = new Map<string, Map<string, Known>>()
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor(parts: EndpointsParts) {
    this.#parts = parts
    this.#now = parts.now ?? (() => performance.now())
  }

  /** Reports the peer's addresses: remembered ones at once, others when they are found. */
  start(peer: Named): void {
    this.#peers.set(peer.name, peer)
    this.#known.set(peer.name, new Map())
    this.#questions.set(peer.name, [])
    for (const host of hostsOf(peer))
      this.#note(peer, host, isAddress(host) ? [host] : this.#parts.cache.get(host))
    for (const access of this.#accesses.values()) this.#ask(peer, access)
    this.#arm()
  }

  /** The peer was removed: nothing more is reported for it. */
  forget(name: string): void {
    for (const question of this.#questions.get(name) ?? []) question.round++
    this.#peers.delete(name)
    this.#known.delete(name)
    this.#questions.delete(name)
  }

  /** An access is there, or has changed. */
  setAccess(access: NamingAccess): void {
    const known = this.#accesses.get(access.name)
    this.#accesses.set(access.name, access)
    const same =
      known?.up === access.up &&
      known.generation === access.generation &&
      known.families.join() === access.families.join()
    if (same || this.#stopped) return
    for (const peer of this.#peers.values()) this.#ask(peer, access)
    this.#arm()
  }

  removeAccess(name: string): void {
    this.#accesses.delete(name)
    for (const peer of this.#peers.values()) {
      this.#drop(peer, ({ access }) => access === name)
      this.#known.get(peer.name)?.delete(name)
    }
  }

  /** The machine slept: answers are older than the monotonic clock shows. */
  wake(): void {
    for (const question of this.#all()) this.#soon(question, this.#now())
    this.#arm()
  }

  /** The paths as they are at `now`, milliseconds. */
  follow(paths: readonly PathReport[], now: number): void {
    for (const question of this.#all()) {
      const { peer, access } = question
      const works = paths.some(
        (path) => path.peer === peer.name && path.access === access && isUsable(path.state),
      )
      if (works) {
        question.retryAt = NEVER
        question.pause = PAUSE_MS
      } else if (question.retryAt === NEVER) question.retryAt = now + SILENT_MS
      else if (now >= question.retryAt && !question.busy) {
        question.askAt = now
        question.retryAt = now + question.pause
        question.pause = longer(question.pause)
      }
    }
    this.#arm()
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
  }

  *#all(): Iterable<Question> {
    for (const questions of this.#questions.values()) yield* questions
  }

  /** Answers to these questions are no longer wanted. */
  #drop(peer: Named, which: (question: Question) => boolean): void {
    const questions = this.#questions.get(peer.name) ?? []
    for (const question of questions) if (which(question)) question.round++
    this.#questions.set(
      peer.name,
      questions.filter((question) => !which(question)),
    )
  }

  #ask(peer: Named, access: NamingAccess): void {
    const now = this.#now()
    for (const host of hostsOf(peer)) {
      const literal = parseAddress(host)
      // An address needs no name server, unless the access cannot reach its family: NAT64 may.
      const settled = literal.ok && access.families.includes(literal.value.length === 4 ? 4 : 6)
      const isIt = (question: Question) => question.host === host && question.access === access.name
      const known = this.#questions.get(peer.name)?.find(isIt)
      if (!access.up || settled) this.#drop(peer, isIt)
      else if (known !== undefined) this.#soon(known, now)
      else
        this.#questions.get(peer.name)?.push({
          peer,
          host,
          access: access.name,
          askAt: now,
          busy: false,
          pause: PAUSE_MS,
          retryAt: NEVER,
          failed: false,
          round: 0,
        })
    }
  }

  /** Whatever is under way comes too late: it was asked of another network. */
  #soon(question: Question, now: number): void {
    question.round++
    question.busy = false
    question.askAt = now
    question.pause = PAUSE_MS
    question.retryAt = NEVER
    question.failed = false
  }

  /** Resolves what is due, and sets the timer for the rest. */
  #arm(): void {
    clearTimeout(this.#timer)
    if (this.#stopped) return
    const now = this.#now()
    let next = NEVER
    for (const question of this.#all()) {
      if (question.busy) continue
      if (question.askAt <= now) void this.#resolve(question)
      else next = Math.min(next, question.askAt)
    }
    if (next < NEVER) this.#timer = setTimeout(() => this.#arm(), Math.ceil(next - now))
  }

  async #resolve(question: Question): Promise<void> {
    const { peer, host, access } = question
    const round = ++question.round
    const wanted = () => !this.#stopped && question.round === round
    question.busy = true
    try {
      const found = await this.#parts.resolver.resolve(host, access)
      if (!wanted()) return
      const { addresses, synthesised, validMs } = found
      if (this.#note(peer, host, [...addresses, ...synthesised], access)) question.pause = PAUSE_MS
      if (this.#leads(peer, host, access) && this.#note(peer, host, addresses) && !isAddress(host))
        this.#parts.cache.set(host, addresses)
      question.failed = false
      question.askAt = this.#now() + Math.min(Math.max(validMs, LEAST_MS), MOST_MS)
    } catch (error) {
      if (!wanted()) return
      if (!question.failed && this.#known.get(peer.name)?.size === 0)
        this.#parts.report(`${host} has no address over ${access} yet: ${(error as Error).message}`)
      question.failed = true
      question.askAt = this.#now() + question.pause
      question.pause = longer(question.pause)
    }
    question.busy = false
    this.#arm()
  }

  /** Whether this access's answer is the one that others fall back on: the first that has one. */
  #leads(peer: Named, host: string, access: string): boolean {
    const known = this.#known.get(peer.name)
    return [...this.#accesses.keys()].find((each) => known?.get(each)?.addresses.has(host)) === access
  }

  /** These are the addresses of one of the peer's names. False when that was reported already. */
  #note(peer: Named, host: string, addresses: readonly string[], access?: string): boolean {
    const all = this.#known.get(peer.name)
    if (all === undefined || addresses.length === 0) return false
    const known = all.get(access ?? '') ?? { addresses: new Map(), reported: '' }
    all.set(access ?? '', known)
    known.addresses.set(host, addresses)
    const remotes = peer.endpoints.flatMap((endpoint) =>
      remotesOf(endpoint, known.addresses, all.get('')?.addresses),
    )
    const text = remotes.map(({ address, port }) => `${formatAddress(address)} ${port}`).join()
    if (known.reported === text) return false
    known.reported = text
    this.#parts.onRemotes(peer.name, remotes, access)
    return true
  }
}

function hostsOf({ endpoints }: Named): ReadonlySet<string> {
  return new Set(endpoints.map(({ host }) => host))
}

function isAddress(host: string): boolean {
  return parseAddress(host).ok
}

function remotesOf({ host, port }: HostPort, ...known: (Known['addresses'] | undefined)[]): Endpoint[] {
  const texts = known.find((addresses) => addresses?.has(host))?.get(host) ?? [host]
  return texts.flatMap((text) => {
    const parsed = parseAddress(text)
    return parsed.ok ? [{ address: parsed.value, port }] : []
  })
}

function longer(pause: number): number {
  return Math.min(2 * pause, LONGEST_PAUSE_MS)
}
