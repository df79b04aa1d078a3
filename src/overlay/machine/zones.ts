/**
 * The coordinators of other zones (NT-17, NT-19; Fig. 5 steps 3–7): finding them by the DNS, the key that this coordinator
 * and each of them hold without a message, and the sealed sessions with them. Sans-I/O: whoever drives the coordinator asks the DNS
 * (`find-zone`) and tells what it said.
 *
 * Nothing unproven: names of zones come from strangers and from our own nodes. Strangers together, and each account, have a
 * share of the look-ups and requests under way; what is forgotten for want of room is first what no node of ours has met. To
 * an address that the DNS names, and that has not answered, go only requests for a session, and these only for a while.
 */
import { ascii, equal } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { kdf } from '../../crypto/tunnel-crypto.ts'
import { SourceLimiter } from '../../tunnel/protocol/limiter.ts'
import { endpointKey } from '../tables.ts'
import { type Datagram, Kind } from '../wire/datagram.ts'
import { type Message, Type } from '../wire/message.ts'
import type { Holder } from './answerer.ts'
import type { MachineComponents } from './api.ts'
import { type Answered, Asker } from './asker.ts'
import type { Directory, ZoneKeys } from './directory.ts'
import { Shares } from './shares.ts'

/** What the DNS says of a zone: SRV, TXT, A and AAAA. */
export interface FoundZone extends ZoneKeys {
  readonly endpoints: readonly Endpoint[]
}

export interface ZonesParts extends MachineComponents {
  /** The own zone, and the X25519 private key of its coordinator. */
  readonly zone: string
  readonly coordinatorKey: Uint8Array
  readonly directory: Pick<Directory, 'zoneKeys' | 'pinZone'>
  readonly send: (socket: number, to: Endpoint, bytes: Uint8Array) => void
  /** Asks the DNS; `found` brings the answer. */
  readonly find: (zone: string) => void
  /** Ends the sessions in which its coordinator asks. */
  readonly drop: (owner: string) => void
  readonly log: (message: string) => void
}

/** Zones known at a time; what was used longest ago goes. */
const MAX_ZONES = 1024
/** Look-ups under way: of all, and of those that one account, or strangers together, cause. */
const MAX_FINDING = 64
const MAX_FINDING_OF = 16
/** A look-up that nothing came of (ms). */
const FINDING_MS = 30_000
/** Requests under way: to one zone, and of one account. */
const MAX_REQUESTS = 1024
const MAX_REQUESTS_OF = 128
/** Who causes a look-up, where it is no account: no account is called so. */
const STRANGERS = '?'
const MET = '!'
/** What the DNS said is good for (ms), and that it said nothing. */
const KNOWN_MS = 300_000
const FAILED_MS = 30_000
/** A zone whose coordinator did not answer is not asked again for (ms). */
const SILENT_MS = 10_000
/** Addresses of a coordinator that are tried. */
const MAX_ENDPOINTS = 4
/** Look-ups a second that strangers cause, all together, and at once. */
const STRANGERS_RATE = 10
const STRANGERS_BURST = 50
/** Messages a second of a coordinator, and at once: it speaks for many nodes. */
const MESSAGES_RATE = 200
const MESSAGES_BURST = 400
/** Coordinators of a zone, each with sessions of its own. */
const MAX_COORDINATORS = 32
const NEVER = Number.POSITIVE_INFINITY

interface Zone {
  readonly name: string
  state: 'finding' | 'known' | 'failed'
  /** When that began (ms). */
  at: number
  /** Who caused the last look-up. */
  by: string
  /** A node of ours has had to do with it. */
  met: boolean
  keys?: ZoneKeys
  endpoints: readonly Endpoint[]
  /** X25519 of both coordinators, once. */
  secret?: Uint8Array
  asker?: Asker
  silentUntil: number
  readonly waiting: Waiting[]
  /** What its coordinator sent last while it was looked up. */
  parked?: (now: number) => void
}

interface Waiting {
  readonly message: Omit<Message, 'transaction'>
  readonly ms: number
  readonly done: (answer: Message | undefined, now: number) => void
}

/** How the coordinator of a zone is called among those that hold a session: no name of a node begins so. */
export function ownerOf(zone: string): string {
  return `@${zone}`
}

export class Zones {
  readonly #parts: ZonesParts
  /** In the order of their last use. */
  readonly #zones = new Map<string, Zone>()
  readonly #byEndpoint = new Map<string, Set<Zone>>()
  readonly #strangers = new TokenBucket(STRANGERS_RATE, STRANGERS_BURST)
  readonly #sources = new SourceLimiter()
  /** Looked up now, the oldest first. */
  readonly #finding = new Set<Zone>()
  readonly #lookUps = new Shares(MAX_FINDING_OF)
  readonly #requests = new Shares(MAX_REQUESTS_OF)

  constructor(parts: ZonesParts) {
    this.#parts = parts
  }

  get size(): number {
    return this.#zones.size
  }

  /** Sends it to the coordinator of the zone until it is answered, or for `ms`; for a node of account `by`. */
  request(
    zone: string,
    message: Omit<Message, 'transaction'>,
    { by, ms }: { readonly by: string; readonly ms: number },
    done: (answer: Message | undefined, now: number) => void,
    now: number,
  ): void {
    if (!this.#requests.take(by)) {
      done(undefined, now)
      return
    }
    const request: Waiting = {
      ...{ message, ms },
      done: (answer, at) => {
        this.#requests.giveBack(by)
        done(answer, at)
      },
    }
    const known = this.#look(zone, by, now)
    if (known === undefined || now < known.silentUntil) request.done(undefined, now)
    else if (known.endpoints.length > 0) this.#ask(known, request, now)
    else if (known.state === 'finding' && known.waiting.length < MAX_REQUESTS) known.waiting.push(request)
    else request.done(undefined, now)
  }

  /** Who says in a SESSION_REQUEST or OPEN that it is the coordinator of this zone. Undefined while that cannot be known. */
  holderOf(name: string, from: Endpoint, now: number): Holder | undefined {
    if (name === this.#parts.zone) return undefined
    let zone = this.#zones.get(name)
    const isMet = zone?.met ?? this.#parts.directory.zoneKeys(name) !== undefined
    const mayLook =
      isMet ||
      (zone !== undefined && !isStale(zone, now)) ||
      (this.#sources.allow(from, now) && this.#strangers.take(now))
    if (mayLook) zone = this.#look(name, isMet ? MET : STRANGERS, now) ?? zone
    const secret = zone && this.#secretOf(zone)
    if (secret === undefined) return undefined
    const key = this.#sessionKey(secret)
    const messages = { rate: MESSAGES_RATE, burst: MESSAGES_BURST }
    return { owner: ownerOf(name), key, messages, starts: MAX_COORDINATORS }
  }

  /** Whether the zone's keys are known; if not, they are looked up. For a zone that another coordinator of our zone vouches for. */
  knows(name: string, now: number): boolean {
    const zone = name === this.#parts.zone ? undefined : this.#look(name, MET, now)
    return zone !== undefined && this.#secretOf(zone) !== undefined
  }

  /** What keys of pairs across the two zones are derived from; both coordinators have it. */
  secretOf(zone: string): Uint8Array | undefined {
    const known = this.#zones.get(zone)
    return known && this.#secretOf(known)
  }

  /** The key that leases of the zone are signed with, as first seen. */
  zoneKeyOf(zone: string): Uint8Array | undefined {
    return this.#zones.get(zone)?.keys?.zone
  }

  /** Does it again when the zone is known, if that is being found out. */
  park(name: string, again: (now: number) => void): void {
    const zone = this.#zones.get(name)
    if (zone?.state === 'finding' && zone.keys === undefined) zone.parked = again
  }

  /** What the DNS said; undefined: nothing that can be used. */
  found(name: string, found: FoundZone | undefined, now: number): void {
    const zone = this.#zones.get(name)
    if (zone?.state !== 'finding') return
    this.#finding.delete(zone)
    this.#lookUps.giveBack(zone.by)
    const waiting = zone.waiting.splice(0)
    const { parked } = zone
    delete zone.parked
    zone.at = now
    if (found === undefined || found.endpoints.length === 0 || !this.#takeKeys(zone, found, now)) {
      zone.state = 'failed'
      for (const { done } of waiting) done(undefined, now)
      return
    }
    zone.state = 'known'
    this.#setEndpoints(zone, found.endpoints.slice(0, MAX_ENDPOINTS), now)
    for (const each of waiting) this.#ask(zone, each, now)
    parked?.(now)
  }

  /** A node of ours has to do with the zone: from now on its keys are these. */
  pin(name: string): void {
    const zone = this.#zones.get(name)
    if (zone?.keys === undefined) return
    const { directory } = this.#parts
    if (directory.zoneKeys(name) === undefined) directory.pinZone(name, zone.keys)
    zone.met = true
  }

  /** A datagram for a session that this coordinator asked for. False: it is for none. */
  handle(datagram: Datagram, from: Endpoint, socket: number, now: number): boolean {
    if (!('index' in datagram) || datagram.kind === Kind.OPEN || datagram.kind === Kind.SESSION_REQUEST)
      return false
    for (const { asker } of this.#byEndpoint.get(endpointKey(from)) ?? [])
      if (asker?.owns(datagram.kind, datagram.index) === true) {
        asker.handle(datagram, { socket, to: from }, now)
        return true
      }
    return false
  }

  nextTimeout(): number {
    const [oldest] = this.#finding
    let at = oldest === undefined ? NEVER : oldest.at + FINDING_MS
    for (const { asker } of this.#zones.values()) at = Math.min(at, asker?.nextTimeout() ?? NEVER)
    return at
  }

  handleTimeout(now: number): void {
    for (const { name, at } of this.#finding) if (at + FINDING_MS <= now) this.found(name, undefined, now)
    for (const { asker } of [...this.#zones.values()])
      if ((asker?.nextTimeout() ?? NEVER) <= now) asker?.handleTimeout(now)
  }

  // ---- finding

  /** The zone, looked up if need be and if that may be; undefined: then it is not known. */
  #look(name: string, by: string, now: number): Zone | undefined {
    let zone = this.#zones.get(name)
    if (zone !== undefined && !isStale(zone, now)) return this.#used(zone)
    if (zone === undefined && !this.#makeRoom(now)) return undefined
    // What was found before is better than nothing.
    if (this.#finding.size >= MAX_FINDING || !this.#lookUps.take(by)) return zone && this.#used(zone)
    if (zone === undefined) zone = this.#make(name)
    zone.state = 'finding'
    zone.at = now
    zone.by = by
    this.#used(zone)
    this.#finding.add(zone)
    this.#parts.find(name)
    return zone
  }

  #make(name: string): Zone {
    const keys = this.#parts.directory.zoneKeys(name)
    return {
      ...{ name, state: 'finding', at: 0, by: '', met: keys !== undefined },
      ...(keys !== undefined && { keys }),
      ...{ endpoints: [], silentUntil: 0, waiting: [] },
    }
  }

  #used(zone: Zone): Zone {
    this.#zones.delete(zone.name)
    this.#zones.set(zone.name, zone)
    return zone
  }

  /** False: all that there are are in use. */
  #makeRoom(now: number): boolean {
    if (this.#zones.size < MAX_ZONES) return true
    let oldest: Zone | undefined
    for (const zone of this.#zones.values()) {
      if (zone.state === 'finding' || zone.asker?.busy === true) continue
      oldest ??= zone
      if (zone.met) continue
      oldest = zone
      break
    }
    if (oldest === undefined) return false
    this.#zones.delete(oldest.name)
    this.#setPlaces(oldest, [])
    this.#endSessions(oldest, now)
    return true
  }

  /** Where nodes have had to do with the zone, other keys than theirs are somebody else's until the operator says otherwise. */
  #takeKeys(zone: Zone, { coordinator, zone: signing }: ZoneKeys, now: number): boolean {
    const { directory, log } = this.#parts
    const pinned = directory.zoneKeys(zone.name)
    if (pinned !== undefined && !(equal(pinned.coordinator, coordinator) && equal(pinned.zone, signing))) {
      const mend = `godwit overlay forget-zone ${zone.name}`
      log(`the DNS shows other keys of zone ${zone.name} than before; to take them: ${mend}`)
      return false
    }
    if (zone.keys === undefined || !equal(zone.keys.coordinator, coordinator)) {
      delete zone.secret
      this.#endSessions(zone, now)
    }
    zone.keys = { coordinator, zone: signing }
    return true
  }

  #setEndpoints(zone: Zone, endpoints: readonly Endpoint[], now: number): void {
    this.#setPlaces(zone, endpoints)
    zone.asker?.setWays(
      endpoints.map((to) => ({ socket: 0, to })),
      now,
    )
  }

  #setPlaces(zone: Zone, endpoints: readonly Endpoint[]): void {
    for (const each of zone.endpoints) {
      const zones = this.#byEndpoint.get(endpointKey(each))
      zones?.delete(zone)
      if (zones?.size === 0) this.#byEndpoint.delete(endpointKey(each))
    }
    zone.endpoints = endpoints
    for (const each of endpoints) {
      const zones = this.#byEndpoint.get(endpointKey(each)) ?? new Set()
      zones.add(zone)
      this.#byEndpoint.set(endpointKey(each), zones)
    }
  }

  // ---- asking

  #ask(zone: Zone, { message, ms, done }: Waiting, now: number): void {
    const asker = zone.asker ?? this.#makeAsker(zone, now)
    if (asker === undefined) {
      done(undefined, now)
      return
    }
    // It answers these at once. A direction is answered only when a node has acknowledged it.
    const shows = message.type === Type.NTM_INFORMATION_REQUEST
    const answered: Answered = (answer, _way, at) => {
      const isSilent = at >= now + ms && (!asker.open || (shows && asker.heardAt < now))
      if (answer === undefined && isSilent) this.#silent(zone, asker, at)
      done(answer, at)
    }
    asker.request(message, ms, answered, now)
  }

  /** It is asked no more for a while: its address is the DNS's word alone, or it has left it. */
  #silent(zone: Zone, asker: Asker, now: number): void {
    if (zone.asker !== asker) return
    zone.silentUntil = now + SILENT_MS
    this.#dropAsker(zone, now)
  }

  /** Its keys are others now, or are forgotten: no session under them stands. */
  #endSessions(zone: Zone, now: number): void {
    this.#dropAsker(zone, now)
    this.#parts.drop(ownerOf(zone.name))
  }

  #dropAsker(zone: Zone, now: number): void {
    const { asker } = zone
    delete zone.asker
    asker?.close(now)
  }

  #makeAsker(zone: Zone, now: number): Asker | undefined {
    const secret = this.#secretOf(zone)
    if (secret === undefined) return undefined
    const { crypto, random, wall, send } = this.#parts
    const asker: Asker = new Asker({
      ...{ crypto, random, wall, provenOnly: true, maxRequests: MAX_REQUESTS },
      identity: { type: 'zone', name: this.#parts.zone },
      key: this.#sessionKey(secret),
      send: (bytes, { socket, to }) => send(socket, to, bytes),
      // It asks in sessions of its own.
      onMessage: () => {},
      onOpened: () => {},
      onSilence: (at) => this.#silent(zone, asker, at),
    })
    asker.setWays(
      zone.endpoints.map((to) => ({ socket: 0, to })),
      now,
    )
    zone.asker = asker
    return asker
  }

  #secretOf(zone: Zone): Uint8Array | undefined {
    if (zone.keys === undefined) return undefined
    const secret =
      zone.secret ?? this.#parts.crypto.sharedSecret(this.#parts.coordinatorKey, zone.keys.coordinator)
    if (secret !== undefined) zone.secret = secret
    return secret
  }

  #sessionKey(secret: Uint8Array): Uint8Array {
    return kdf(this.#parts.crypto, secret, SESSION, 1)[0]
  }
}

const SESSION = ascii('coordinators')

function isStale({ state, at }: Zone, now: number): boolean {
  return state !== 'finding' && now - at >= (state === 'known' ? KNOWN_MS : FAILED_MS)
}
