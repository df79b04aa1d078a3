/**
 * What all procedures of IHMP share: the hosts with their indexes, the own addresses, what is being asked, and the outputs.
 */
import { concat, equal } from '../../core/bytes.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import type { LocalAddress } from '../policy.ts'
import {
  familyOf,
  type HidRow,
  type Ip,
  type Pair,
  type PortTranslation,
  pairKey,
  type SocketRow,
} from '../tables.ts'
import { PER_HOST } from './checks.ts'
import { type Host, type OwnKey, ReplayWindow, type Request } from './host.ts'
import { DEFAULTS, type IhmpComponents, type IhmpOptions, type IhmpStats, type Output } from './types.ts'

/** Addresses that a host is known by, those that it had included; and of them those that may be its own and are tried. */
export const MOST_KNOWN = 64
export const MOST_UNREACHABLE = 16

/** Messages of one host that are acted upon, a second and at once; others it repeats. */
const UPDATES_RATE = 20
const UPDATES_AT_ONCE = 60
/** Keys that one host may take, a second and at once. */
const KEY_CHANGES_RATE = 0.2
const KEY_CHANGES_AT_ONCE = 3
/** Bytes to addresses at which a host has not answered, for each byte from it; and most that it can save up. */
const CREDIT_TIMES = 3
const MOST_CREDIT = 16_384
/** A NAT's messages that may come out of their order: it may have thousands of connections to name at once. */
export const NAT_WINDOW = 4096
/** Headers of a datagram that are counted with it. */
export const OVERHEAD = 28
/** Candidates for the sender of a message that are checked. */
const MOST_CANDIDATES = 8

export class IhmpState {
  readonly components: IhmpComponents
  readonly options: IhmpOptions
  readonly stats: IhmpStats = {
    sent: 0,
    received: 0,
    malformed: 0,
    unauthenticated: 0,
    checked: 0,
    excessive: 0,
    replayed: 0,
    retransmitted: 0,
    exchanges: 0,
  }
  /** By HID. */
  readonly hosts = new Map<number, Host>()
  /** Own addresses that can be used now. */
  own: ReadonlyMap<Ip, LocalAddress> = new Map()
  /** Every address this host ever had: a message addressed to one of them is for us. */
  readonly mine = new Set<Ip>()
  /** The device on which an own address is, or was. */
  readonly devices = new Map<Ip, string>()
  /** Pairs that flows were bound to before a restart, until the sockets have been read again: pair → HID. */
  readonly restored = new Map<string, number>()
  /** Flows that had been proven before a restart. */
  readonly restoredFlows = new Set<string>()
  /** Flows that had other ports on the wire before a restart, by `connectionId`. */
  readonly restoredNumbers = new Map<string, SavedNumbers>()
  /** Flows that went over a pair of their own before a restart, by `connectionId`. */
  readonly restoredDiversions = new Map<string, SavedDiversion>()
  /** All messages that wait for their acknowledgement; each host has its own as well. */
  readonly requests = new Set<Request>()
  /** Those that were sent, by number and pair. */
  readonly waiting = new Map<string, Request>()
  readonly #byAddress = new Map<Ip, Set<Host>>()
  readonly #outputs: Output[] = []
  #counter = 0

  constructor(components: IhmpComponents, options: Partial<IhmpOptions>) {
    this.components = components
    this.options = { ...DEFAULTS, ...options }
  }

  // -------------------------------------------------------------------------------------------------- outputs

  /** What the kernel has to do for this host has changed; it follows before anything else is carried out. */
  changed(host: Host): void {
    this.components.tables.touch(host.row.hid)
  }

  emit(output: Output): void {
    this.#outputs.push(output)
  }

  poll(): Output | undefined {
    const { tables } = this.components
    return tables.changed ? { kind: 'apply', hids: tables.takeChanged() } : this.#outputs.shift()
  }

  say(host: Host, state: Host['state'], reason: string): void {
    host.state = state
    this.emit({ kind: 'state', hid: host.row.hid, state, reason })
  }

  random(length: number): Uint8Array {
    return this.components.random.fill(new Uint8Array(length))
  }

  /** Follows the wall clock in microseconds, and never goes back. */
  nextCounter(): number {
    this.#counter = Math.max(this.#counter + 1, Math.floor(this.components.wall() * 1000))
    return this.#counter
  }

  // ---------------------------------------------------------------------------------------------------- hosts

  newHost(bound: Pair, hid?: number, floor = 0): Host {
    const host: Host = {
      row: this.components.tables.addHost(hid),
      state: 'greeting',
      bound,
      ownKey: this.components.keys.own(bound.local),
      formerKey: undefined,
      nextKey: undefined,
      privileged: false,
      unproven: new Map(),
      proveAt: Number.POSITIVE_INFINITY,
      batches: new Map(),
      diversions: new Map(),
      left: new Map(),
      secret: undefined,
      cookie: this.random(16),
      sequence: new DataView(this.random(2).buffer).getUint16(0),
      replay: new ReplayWindow(floor),
      confirmed: new Map(),
      known: new Set(),
      answered: new Set(),
      credit: 0,
      probedAt: new Map(),
      updates: new TokenBucket(UPDATES_RATE, UPDATES_AT_ONCE),
      proofs: new TokenBucket(UPDATES_RATE, UPDATES_AT_ONCE),
      checks: new TokenBucket(PER_HOST),
      keyChanges: new TokenBucket(KEY_CHANGES_RATE, KEY_CHANGES_AT_ONCE),
      ports: new Map(),
      challenges: new Map(),
      addressCounters: new Map(),
      nats: new Map(),
      natReplay: new Map(),
      lost: new Set(),
      told: new Set(),
      forgotAt: Number.NEGATIVE_INFINITY,
      requests: new Set(),
      announced: bound.local,
      preferred: undefined,
      pinned: undefined,
      detachedAt: undefined,
      detachedBy: 'loss',
      dormant: false,
      rtt: undefined,
      idleSince: undefined,
      silent: new Map(),
      retry: undefined,
      helloAttempts: 0,
      heard: false,
      crossable: new Set(),
      crossWaits: new Map(),
      crossAsked: Number.NEGATIVE_INFINITY,
      uncrossAt: new Map(),
    }
    this.hosts.set(host.row.hid, host)
    this.index(host, bound.foreign)
    return host
  }

  /**
   * The host names itself by `ip` from now on, or may. Of too many addresses one that it had gives way; false when it has
   * none to give.
   */
  know(host: Host, ip: Ip): boolean {
    if (host.known.has(ip)) return true
    if (host.known.size >= MOST_KNOWN && !this.#makeRoom(host)) return false
    host.known.add(ip)
    return true
  }

  /** The host has signed something that came from `ip`: messages may name it by that address from now on. */
  index(host: Host, ip: Ip): boolean {
    if (!this.know(host, ip)) return false
    let hosts = this.#byAddress.get(ip)
    if (hosts === undefined) {
      hosts = new Set()
      this.#byAddress.set(ip, hosts)
    }
    hosts.add(host)
    return true
  }

  // ------------------------------------------------------------------------------------------------ allowance

  /** An authenticated message of so many bytes came from the host. */
  earn(host: Host, length: number): void {
    host.credit = Math.min(MOST_CREDIT, host.credit + CREDIT_TIMES * (length + OVERHEAD))
  }

  /** Whether so many bytes may be sent to an address of the host's; counts them if it has not answered there. */
  spend(host: Host, ip: Ip, length: number): boolean {
    // What a flow's application talks to is not of a peer's choosing.
    if (host.state !== 'peer' || host.answered.has(ip)) return true
    if (host.credit < length + OVERHEAD) return false
    host.credit -= length + OVERHEAD
    return true
  }

  /**
   * The host says that it has this address, at which it has not answered. Of too many the first ones are forgotten. True when it
   * had not said so before.
   */
  claims(host: Host, ip: Ip): boolean {
    const { active, unreachable } = host.row
    if (active.has(ip) || unreachable.has(ip) || !this.know(host, ip)) return false
    unreachable.add(ip)
    if (unreachable.size > MOST_UNREACHABLE) unreachable.delete(unreachable.values().next().value!)
    return true
  }

  #makeRoom(host: Host): boolean {
    const { active, unreachable } = host.row
    const free = (ip: Ip): boolean => !active.has(ip) && ip !== host.bound.foreign
    const old = [...host.known].find((ip) => free(ip) && !unreachable.has(ip)) ?? [...host.known].find(free)
    if (old === undefined) return false
    this.#unknow(host, old)
    host.known.delete(old)
    host.answered.delete(old)
    host.probedAt.delete(old)
    unreachable.delete(old)
    host.addressCounters.delete(old)
    host.ports.delete(old)
    host.challenges.delete(old)
    host.nats.delete(old)
    host.natReplay.delete(old)
    host.row.nats.delete(old)
    for (const [key, { foreign }] of host.row.accepted)
      if (foreign === old) {
        host.row.accepted.delete(key)
        this.changed(host)
      }
    return true
  }

  #unknow(host: Host, ip: Ip): void {
    const hosts = this.#byAddress.get(ip)
    hosts?.delete(host)
    if (hosts?.size === 0) this.#byAddress.delete(ip)
  }

  /** Whether a host with this key may be at `ip`: configuration or a directory may bind the address to another (DI-39). */
  mayBeAt(ip: Ip, key: Uint8Array | undefined): boolean {
    const fixed = this.components.keys.known(ip, key)
    return fixed === undefined || (key !== undefined && equal(fixed, key))
  }

  /** Hosts that have sent something from `ip`, or have flows bound to it. */
  byAddress(ip: Ip): Iterable<Host> {
    return this.#byAddress.get(ip) ?? []
  }

  /** Peers that a message which names `ip` may be from: a few, those first that are there now. */
  candidates(ip: Ip): Host[] {
    const there: Host[] = []
    const others: Host[] = []
    for (const host of this.byAddress(ip))
      if (host.state === 'peer') (host.row.active.has(ip) ? there : others).push(host)
    return [...there, ...others.reverse()].slice(0, MOST_CANDIDATES)
  }

  /** The host that is reachable at `ip` now (DI-9a); one that only was there is another host's matter (P3). */
  byActive(ip: Ip): Host | undefined {
    for (const host of this.byAddress(ip)) if (host.row.active.has(ip)) return host
    return undefined
  }

  forget(host: Host): void {
    this.hosts.delete(host.row.hid)
    for (const ip of host.known) this.#unknow(host, ip)
    for (const request of host.requests) this.requests.delete(request)
    for (const [key, request] of this.waiting) if (request.host === host) this.waiting.delete(key)
    host.requests.clear()
    this.components.tables.removeHost(host.row.hid)
  }

  /** The applications get an error. */
  gone(host: Host, reason: string): void {
    const sockets = [...this.components.tables.flows(host.row.hid)]
    this.emit({ kind: 'gone', hid: host.row.hid, sockets, reason })
    this.forget(host)
  }

  // ------------------------------------------------------------------------------------------------- restarts

  /** Brings back what an earlier run knew about a peer. */
  restore(saved: SavedHost): void {
    const host = this.newHost(saved.bound, saved.hid, saved.floor)
    host.state = 'peer'
    host.row.key = saved.key
    host.formerKey = saved.formerKey
    // What the peer knows this host by: the key file may have changed while no daemon ran.
    host.ownKey = saved.ownKey ?? host.ownKey
    host.secret = saved.secret
    host.privileged = saved.privileged
    for (const id of saved.taken) this.restoredFlows.add(id)
    for (const each of saved.numbers ?? []) this.restoredNumbers.set(each.connection, each)
    for (const each of saved.diversions ?? []) this.restoredDiversions.set(each.connection, each)
    host.preferred = saved.preferred
    this.#counter = Math.max(this.#counter, saved.counter)
    for (const ip of saved.known) this.know(host, ip)
    for (const ip of saved.indexed) this.index(host, ip)
    for (const ip of saved.answered) host.answered.add(ip)
    for (const [nat, inside] of saved.nats ?? []) {
      host.nats.set(nat, inside)
      host.row.nats.add(nat)
    }
    host.row.ports.push(...(saved.ports ?? []))
    for (const [ip, floor] of saved.natFloors) host.natReplay.set(ip, new ReplayWindow(floor, NAT_WINDOW))
    for (const ip of saved.active) host.row.active.add(ip)
    for (const ip of saved.unreachable) host.row.unreachable.add(ip)
    for (const ip of saved.local) {
      host.row.local.add(ip)
      this.mine.add(ip)
    }
    for (const pair of saved.accepted) host.row.accepted.set(pairKey(pair), pair)
    for (const pair of saved.confirmed) host.confirmed.set(pairKey(pair), { pair, at: 0 })
    for (const pair of saved.current) host.row.current[pair.local.includes(':') ? 6 : 4] = pair
    for (const family of saved.crossed ?? []) {
      host.row.crossed.add(family)
      host.crossWaits.set(family, { until: undefined, lost: undefined })
    }
    for (const ip of saved.lost) host.lost.add(ip)
    for (const pair of saved.flows) this.restored.set(pairKey(pair), saved.hid)
    this.changed(host)
  }

  save(): SavedHost[] {
    return [...this.hosts.values()]
      .filter((host) => host.state === 'peer')
      .map((host) => ({
        hid: host.row.hid,
        bound: host.bound,
        key: host.row.key,
        formerKey: host.formerKey,
        ownKey: host.ownKey,
        secret: host.secret,
        privileged: host.privileged,
        taken: [...this.components.tables.flows(host.row.hid)].flatMap((f) =>
          f.taken === 'both' ? [connectionId(f)] : [],
        ),
        diversions: [...host.diversions.values()].flatMap(({ flow, pair, own, counter }) =>
          pair === undefined ? [] : [{ connection: connectionId(flow), pair, own, counter }],
        ),
        numbers: [...host.row.numbers].flatMap(([id, { own, other, known }]) => {
          const flow = this.components.tables.sockets.get(id)
          return flow === undefined || !known ? [] : [{ connection: connectionId(flow), own, other }]
        }),
        floor: host.replay.highest,
        counter: this.#counter,
        preferred: host.preferred,
        known: [...host.known],
        indexed: [...host.known].filter((ip) => this.#byAddress.get(ip)?.has(host)),
        answered: [...host.answered],
        nats: [...host.nats],
        ports: [...host.row.ports],
        natFloors: [...host.natReplay].map(([ip, replay]) => [ip, replay.highest] as const),
        active: [...host.row.active],
        unreachable: [...host.row.unreachable],
        local: [...host.row.local],
        accepted: [...host.row.accepted.values()],
        confirmed: [...host.confirmed.values()].map((c) => c.pair),
        // A pair of the other family is agreed on anew.
        current: ([4, 6] as const).flatMap((family) => {
          const pair = host.row.current[family]
          return pair !== undefined && familyOf(pair.local) === family ? [pair] : []
        }),
        crossed: [...host.row.crossed],
        lost: [...host.lost],
        flows: [...this.components.tables.bound(host.row.hid)],
      }))
  }
}

/** What survives a restart of the daemon (`IhmpMachine.save`). */
export interface SavedHost {
  readonly hid: number
  readonly bound: Pair
  readonly key: HidRow['key']
  readonly formerKey?: Uint8Array | undefined
  /** The key pair that the peer knows this host by. */
  readonly ownKey?: OwnKey | undefined
  readonly secret: Uint8Array | undefined
  readonly privileged: boolean
  /** The flows that it has proven to be its own (`connectionId`). */
  readonly taken: readonly string[]
  /** Of those, the flows that go over a pair of their own. */
  readonly diversions?: readonly SavedDiversion[]
  /** And those that have other ports on the wire. */
  readonly numbers?: readonly SavedNumbers[]
  readonly floor: number
  readonly counter: number
  readonly preferred: Ip | undefined
  readonly known: readonly Ip[]
  /** Those of them that messages may name it by. */
  readonly indexed: readonly Ip[]
  readonly answered: readonly Ip[]
  /** NATs that it is behind, with its addresses there, and what they have said of ports. */
  readonly nats?: readonly (readonly [Ip, Ip])[]
  readonly ports?: readonly PortTranslation[]
  /** Highest counter heard of the NATs that it is behind. */
  readonly natFloors: readonly (readonly [Ip, number])[]
  readonly active: readonly Ip[]
  readonly unreachable: readonly Ip[]
  readonly local: readonly Ip[]
  readonly accepted: readonly Pair[]
  readonly confirmed: readonly Pair[]
  readonly current: readonly Pair[]
  readonly crossed?: readonly (4 | 6)[]
  readonly lost: readonly Ip[]
  /** Pairs that its flows are bound to. */
  readonly flows: readonly Pair[]
}

/** A flow on a pair of its own: moved there by this end (`own`) or the other, by the message with this counter. */
export interface SavedDiversion {
  readonly connection: string
  readonly pair: Pair
  readonly own: boolean
  readonly counter: number
}

export interface SavedNumbers {
  readonly connection: string
  readonly own?: number | undefined
  readonly other?: number | undefined
}

/** The flow, and which socket of all that may have it in the course of time. */
export function connectionId({ id, cookie }: SocketRow): string {
  return `${id} ${cookie ?? ''}`
}

/** An address cut or filled to `length`, for the pair of a NAT between families, which there is none of today. */
export function padded(bytes: Uint8Array, length: number): Uint8Array {
  return bytes.length >= length
    ? bytes.slice(0, length)
    : concat(bytes, new Uint8Array(length - bytes.length))
}
