/**
 * The coordinators of other zones (NT-17, NT-19; Fig. 5 steps 3–7): finding them by the DNS, the key that this coordinator
 * and each of them hold without a message, and the sealed sessions with them. Sans-I/O: whoever drives the coordinator asks the DNS
 * (`find-zone`) and tells what it said.
 *
 * Nothing unproven: names of zones come from strangers and from our own nodes. A look-up is limited for each of them; to an
 * address that the DNS names, and that has not answered, go as many bytes as a direction's request pays for.
 */
import { equal } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { kdf } from '../../crypto/tunnel-crypto.ts'
import { SourceLimiter } from '../../tunnel/protocol/limiter.ts'
import { endpointKey } from '../tables.ts'
import { type Datagram, Kind } from '../wire/datagram.ts'
import type { Message } from '../wire/message.ts'
import type { Holder } from './answerer.ts'
import type { MachineComponents } from './api.ts'
import { type Answered, Asker } from './asker.ts'
import type { Directory, ZoneKeys } from './directory.ts'

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
  readonly log: (message: string) => void
}

/** Zones known at a time; what was used longest ago goes. */
const MAX_ZONES = 1024
/** Look-ups under way. */
const MAX_FINDING = 64
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
const NEVER = Number.POSITIVE_INFINITY

interface Zone {
  readonly name: string
  state: 'finding' | 'known' | 'failed'
  /** When that was (ms). */
  at: number
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
  #finding = 0

  constructor(parts: ZonesParts) {
    this.#parts = parts
  }

  get size(): number {
    return this.#zones.size
  }

  /** Sends it to the coordinator of the zone until it is answered, or for `ms`. */
  request(
    zone: string,
    message: Omit<Message, 'transaction'>,
    ms: number,
    done: (answer: Message | undefined, now: number) => void,
    now: number,
  ): void {
    const known = this.#look(zone, now)
    if (known === undefined || now < known.silentUntil) done(undefined, now)
    else if (known.endpoints.length > 0) this.#ask(known, { message, ms, done }, now)
    else if (known.state === 'finding') known.waiting.push({ message, ms, done })
    else done(undefined, now)
  }

  /** Who says in a SESSION_REQUEST or OPEN that it is the coordinator of this zone. Undefined while that cannot be known. */
  holderOf(zone: string, from: Endpoint, now: number): Holder | undefined {
    if (zone === this.#parts.zone) return undefined
    const known = this.#zones.get(zone)
    if (known === undefined || isStale(known, now)) {
      if (!this.#sources.allow(from, now) || !this.#strangers.take(now)) return undefined
      this.#look(zone, now)
    }
    const secret = known && this.#secretOf(known)
    if (secret === undefined) return undefined
    const key = this.#sessionKey(secret)
    return { owner: ownerOf(zone), key, messages: { rate: MESSAGES_RATE, burst: MESSAGES_BURST } }
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
    this.#finding--
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
    const keys = this.#zones.get(name)?.keys
    if (keys !== undefined && this.#parts.directory.zoneKeys(name) === undefined)
      this.#parts.directory.pinZone(name, keys)
  }

  /** A datagram for a session that this coordinator asked for. False: it is for none. */
  handle(datagram: Datagram, from: Endpoint, socket: number, now: number): boolean {
    if (!('index' in datagram) || datagram.kind === Kind.OPEN || datagram.kind === Kind.SESSION_REQUEST)
      return false
    for (const { asker } of this.#byEndpoint.get(endpointKey(from)) ?? [])
      if (asker?.owns(datagram.index) === true) {
        asker.handle(datagram, { socket, to: from }, now)
        return true
      }
    return false
  }

  nextTimeout(): number {
    let at = NEVER
    for (const { asker } of this.#zones.values()) at = Math.min(at, asker?.nextTimeout() ?? NEVER)
    return at
  }

  handleTimeout(now: number): void {
    for (const { asker } of [...this.#zones.values()])
      if ((asker?.nextTimeout() ?? NEVER) <= now) asker?.handleTimeout(now)
  }

  // ---- finding

  /** The zone, looked up if need be; undefined when too much is looked up already. */
  #look(name: string, now: number): Zone | undefined {
    let zone = this.#zones.get(name)
    if (zone !== undefined && !isStale(zone, now)) return this.#used(zone)
    if (this.#finding >= MAX_FINDING) return undefined
    zone ??= { name, state: 'finding', at: now, endpoints: [], silentUntil: 0, waiting: [] }
    zone.state = 'finding'
    this.#used(zone)
    this.#makeRoom(now)
    this.#finding++
    this.#parts.find(name)
    return zone
  }

  #used(zone: Zone): Zone {
    this.#zones.delete(zone.name)
    this.#zones.set(zone.name, zone)
    return zone
  }

  #makeRoom(now: number): void {
    if (this.#zones.size <= MAX_ZONES) return
    for (const zone of this.#zones.values())
      if (zone.state !== 'finding') {
        this.#setPlaces(zone, [])
        this.#zones.delete(zone.name)
        this.#dropAsker(zone, now)
        return
      }
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
      this.#dropAsker(zone, now)
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
    const answered: Answered = (answer, _way, at) => {
      // One that never answered is asked no more: its address is the DNS's word alone.
      if (answer === undefined && !asker.open && zone.asker === asker) {
        zone.silentUntil = at + SILENT_MS
        this.#dropAsker(zone, at)
      }
      done(answer, at)
    }
    asker.request(message, ms, answered, now)
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
    const asker = new Asker({
      ...{ crypto, random, wall },
      identity: { type: 'zone', name: this.#parts.zone },
      key: this.#sessionKey(secret),
      send: (bytes, { socket, to }) => send(socket, to, bytes),
      // It asks in sessions of its own.
      onMessage: () => {},
      onOpened: () => {},
      onSilence: () => {},
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

const SESSION = Uint8Array.from('coordinators', (character) => character.charCodeAt(0))

function isStale({ state, at }: Zone, now: number): boolean {
  return state !== 'finding' && now - at >= (state === 'known' ? KNOWN_MS : FAILED_MS)
}
