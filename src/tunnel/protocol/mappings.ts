/**
 * How long the NATs of this end's accesses keep a mapping. Some carriers end each mapping at an age, whatever flows through
 * it. While packets flow, a witness (a node's coordinator, a host's anchor) is asked where it sees each socket. A mapping that has changed although it was used
 * has shown its lifetime. From then on each socket of that access is to be replaced before it reaches that age. An access
 * with another address, or another socket that replaces none, is another network: what was learned is forgotten.
 *
 * One NAT that was restarted must not cost fresh sockets for ever: until a second mapping has ended at about the same age,
 * replaced sockets are watched. One that outlives the lifetime shows that it was too short.
 */
import { equal, toHex } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { sameEndpoint } from './path.ts'

/** A mapping is looked at whenever its age has grown by this share, within the bounds below (ms). */
const LOOK_SHARE = 1 / 8
const LOOK_LEAST = 1_000
/** Shorter than NATs keep idle mappings: those ended by age alone. */
const LOOK_MOST = 15_000
/** Packets count as flowing for so long after the last one (ms). */
const FLOW_MS = 20_000
/** Mappings that lived longer are not looked at, and lifetimes of more are none (ms). */
const LONG_MS = 900_000
/** A mapping that ended sooner teaches nothing (ms): some NATs change them all the time. */
const LEAST_LIFETIME = 5_000
/** A socket is replaced by this share of the lifetime, and at least this long (ms), before its mapping ends. */
const MARGIN_SHARE = 1 / 10
const MARGIN_LEAST = 1_500
/** A lifetime is in doubt when a mapping is this many times as old. */
const OUTLIVED = 1.25
/** What is in doubt is doubled. */
const GROWTH = 2
/** After a doubt (a path fell silent) it is asked at once, but not more often than this (ms). */
const DOUBT_PAUSE = 250
/** A replaced socket whose mapping has ended anyway is kept for its paths so long (ms). */
const ENDED_MS = 10_000
/** Another socket that was asked for and did not come is asked for again (ms). */
const RENEW_PAUSE = 5_000
const NEVER = Number.POSITIVE_INFINITY

/** A socket of an access. */
export interface MappedSocket {
  readonly socket: number
  readonly access: string
  /** Addresses that it sends from, as far as they are known. */
  readonly addresses: readonly Uint8Array[]
  readonly port: number
  /** Another socket of the same access has replaced it. */
  readonly replaced?: boolean
  /** Who says where it sees this one; absent: the witnesses of all. */
  readonly witnesses?: readonly Endpoint[]
}

/** A question for a witness: where does it see the socket? */
export interface Look {
  readonly socket: number
  readonly to: Endpoint
}

interface Mapping {
  readonly to: Endpoint
  endpoint: Endpoint | undefined
  /** It was made at this time at the latest. */
  bornAt: number
  /** It was there then. */
  seenAt: number
  /** Seen with the address and port that the socket has: nothing translates it. */
  isOwn: boolean
}

interface Watched {
  readonly socket: MappedSocket
  readonly mappings: readonly Mapping[]
  /** Opened, or mapped anew, at this time at the earliest. */
  since: number
  lookAt: number
  lookedAt: number
  /** Another socket was asked for. */
  askedAt: number
}

interface Lifetime {
  /** The age that they are known to reach. */
  ms: number
  /** Two mappings have ended at about this age. */
  isCertain: boolean
}

/** What is to be done. */
export type MappingsOutput =
  | { readonly type: 'look'; readonly way: Look }
  /** The access needs another socket; the one before is good until `until`. */
  | { readonly type: 'renew'; readonly access: string; readonly until: number }

export class Mappings {
  readonly #watched = new Map<number, Watched>()
  /** By access. */
  readonly #lifetimes = new Map<string, Lifetime>()
  #witnesses: readonly Endpoint[] = []
  #flowAt = Number.NEGATIVE_INFINITY
  /** Packets have flowed without a pause since then. */
  #flowSince = Number.POSITIVE_INFINITY

  /** Lifetime (ms) of mappings of this access, undefined when none is known. */
  lifetime(access: string): number | undefined {
    return this.#lifetimes.get(access)?.ms
  }

  /** Of all sockets that have none of their own, the preferred first; both families if there are. */
  setWitnesses(endpoints: readonly Endpoint[], now: number): void {
    this.#witnesses = endpoints
    for (const [index, { socket, since, askedAt }] of this.#watched)
      this.#watched.set(index, { ...this.#watch(socket, now), since, askedAt })
  }

  setSockets(sockets: readonly MappedSocket[], now: number): void {
    const before = new Map(this.#watched)
    this.#watched.clear()
    for (const socket of sockets) {
      const known = before.get(socket.socket)
      const watched = known !== undefined && isSame(known.socket, socket) ? { ...known, socket } : undefined
      if (watched === undefined || hasSameWitnesses(known!.socket, socket))
        this.#watched.set(socket.socket, watched ?? this.#watch(socket, now))
      else {
        const { since, askedAt } = watched
        this.#watched.set(socket.socket, { ...this.#watch(socket, now), since, askedAt })
      }
    }
    for (const access of this.#lifetimes.keys()) {
      const stayed = sockets.some((socket) => {
        const known = before.get(socket.socket)
        return socket.access === access && known !== undefined && isSame(known.socket, socket)
      })
      if (!stayed) this.#lifetimes.delete(access)
    }
  }

  #watch(socket: MappedSocket, now: number): Watched {
    const witnesses = socket.witnesses ?? this.#witnesses
    const families = new Set(
      (socket.witnesses?.map(({ address }) => address) ?? socket.addresses).map(({ length }) => length),
    )
    const mappings = [...families].flatMap((length) => {
      const to = witnesses.find(({ address }) => address.length === length)
      return to === undefined ? [] : [{ to, endpoint: undefined, bornAt: now, seenAt: now, isOwn: false }]
    })
    const never = Number.NEGATIVE_INFINITY
    return { socket, mappings, since: now, lookAt: now + LOOK_LEAST, lookedAt: never, askedAt: never }
  }

  /** Packets of a peer flow. */
  noteFlow(now: number): void {
    if (now - this.#flowAt > FLOW_MS) this.#flowSince = now
    this.#flowAt = now
  }

  /** A path over the socket fell silent: its mapping may have ended. */
  doubt(socket: number, now: number): void {
    const watched = this.#watched.get(socket)
    if (watched === undefined || watched.socket.replaced === true) return
    watched.lookAt = Math.min(watched.lookAt, Math.max(now, watched.lookedAt + DOUBT_PAUSE))
  }

  /** The witness at `to` sees the socket there. Returns what follows from it, if it was mapped elsewhere before. */
  observed(socket: number, to: Endpoint, endpoint: Endpoint, now: number): MappingsOutput | undefined {
    const watched = this.#watched.get(socket)
    const mapping = watched?.mappings.find((each) => sameEndpoint(each.to, to))
    if (watched === undefined || mapping === undefined) return undefined
    const known = mapping.endpoint
    mapping.endpoint = endpoint
    mapping.isOwn = isOwn(watched.socket, endpoint)
    if (known === undefined) mapping.bornAt = now
    if (known === undefined || sameEndpoint(known, endpoint)) {
      mapping.seenAt = now
      this.#outlived(watched, mapping)
      return undefined
    }
    const { access, replaced } = watched.socket
    const age = mapping.seenAt - mapping.bornAt
    // Where no packets flowed since it was seen last, it may have ended for want of them.
    const wasUsed = this.#flowSince <= mapping.seenAt && now - mapping.seenAt <= FLOW_MS
    const lasted = wasUsed && age >= LEAST_LIFETIME && age < LONG_MS
    if (lasted) this.#learn(access, age)
    watched.since = mapping.seenAt
    mapping.bornAt = now
    mapping.seenAt = now
    return lasted && replaced !== true ? { type: 'renew', access, until: now + ENDED_MS } : undefined
  }

  #learn(access: string, age: number): void {
    const known = this.#lifetimes.get(access)
    const again = known !== undefined && age <= known.ms * OUTLIVED && age * OUTLIVED >= known.ms
    this.#lifetimes.set(access, { ms: again ? Math.min(known.ms, age) : age, isCertain: again })
  }

  #outlived({ socket: { access } }: Watched, { seenAt, bornAt }: Mapping): void {
    const known = this.#lifetimes.get(access)
    if (known === undefined || seenAt - bornAt < known.ms * OUTLIVED) return
    known.ms *= GROWTH
    known.isCertain = false
    if (known.ms >= LONG_MS) this.#lifetimes.delete(access)
  }

  /** Whether a replaced socket still shows something, while packets flow: how old its mapping gets. */
  isWatched(socket: MappedSocket, now: number): boolean {
    const known = this.#lifetimes.get(socket.access)
    const watched = this.#watched.get(socket.socket)
    if (known === undefined || known.isCertain || watched === undefined || now - this.#flowAt > FLOW_MS)
      return false
    return watched.mappings.some(({ endpoint, seenAt, bornAt }) => endpoint !== undefined && seenAt > bornAt)
  }

  nextTimeout(): number {
    let at = NEVER
    for (const watched of this.#watched.values())
      at = Math.min(at, this.#lookAt(watched), this.#renewAt(watched))
    return at
  }

  /** What is due. */
  handleTimeout(now: number): MappingsOutput[] {
    const outputs: MappingsOutput[] = []
    for (const watched of this.#watched.values()) {
      const { access } = watched.socket
      if (this.#renewAt(watched) <= now) {
        const lifetime = this.#lifetimes.get(access)!
        outputs.push({ type: 'renew', access, until: watched.since + lifetime.ms })
        watched.askedAt = now
      }
      if (this.#lookAt(watched) > now) continue
      const age = now - watched.since
      watched.lookedAt = now
      watched.lookAt = now + Math.min(Math.max(age * LOOK_SHARE, LOOK_LEAST), LOOK_MOST)
      for (const { to } of watched.mappings)
        outputs.push({ type: 'look', way: { socket: watched.socket.socket, to } })
    }
    return outputs
  }

  #lookAt(watched: Watched): number {
    const { lookAt, since, mappings } = watched
    const isOver = lookAt - since > LONG_MS || mappings.every((mapping) => mapping.isOwn)
    return isOver || lookAt > this.#flowAt + FLOW_MS ? NEVER : lookAt
  }

  #renewAt({ socket, since, askedAt }: Watched): number {
    const lifetime = this.#lifetimes.get(socket.access)
    if (lifetime === undefined || socket.replaced === true) return NEVER
    const due = since + lifetime.ms - Math.max(MARGIN_LEAST, lifetime.ms * MARGIN_SHARE)
    const at = Math.max(due, askedAt + RENEW_PAUSE)
    return at > this.#flowAt + FLOW_MS ? NEVER : at
  }
}

function isSame(a: MappedSocket, b: MappedSocket): boolean {
  const text = ({ access, port, addresses }: MappedSocket) => [access, port, ...addresses.map(toHex)].join()
  return text(a) === text(b)
}

function hasSameWitnesses({ witnesses: a }: MappedSocket, { witnesses: b }: MappedSocket): boolean {
  if (a === undefined || b === undefined) return a === b
  return a.length === b.length && a.every((each, i) => sameEndpoint(each, b[i]!))
}

function isOwn({ addresses, port }: MappedSocket, endpoint: Endpoint): boolean {
  return endpoint.port === port && addresses.some((address) => equal(address, endpoint.address))
}

/** For the log. */
export function mappingsEnd(ms = Number.NaN): string {
  return `its NAT ends mappings after ${Math.round(ms / 1000)} s`
}
