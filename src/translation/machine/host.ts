/**
 * What IHMP keeps about one foreign host, beside its row of the HID table, and the replay window of its counter.
 */

import type { TokenBucket } from '../../core/token-bucket.ts'
import type { HidRow, Ip, Pair, SocketRow } from '../tables.ts'
import type { IhmpMessage } from '../wire.ts'

export interface OwnKey {
  /** Ed25519, 32 bytes each. */
  readonly publicKey: Uint8Array
  readonly privateKey: Uint8Array
}

/**
 * greeting  its HELLO is not answered yet
 * plain     it does not speak IHMP; asked again rarely
 * forced    behind a NAT that does not know IHMP: its addresses are fixed (DI-45)
 * peer      it speaks IHMP and has shown who it is
 */
export type HostState = 'greeting' | 'plain' | 'forced' | 'peer'

export interface Confirmed {
  readonly pair: Pair
  readonly at: number
}

export interface Host {
  readonly row: HidRow
  state: HostState
  /** The pair of the flow that made it known. */
  readonly bound: Pair
  /** Signs for this host; undefined: messages carry MACs. */
  ownKey: OwnKey | undefined
  /** The key before `row.key`: believed until the host has signed something with the new one. */
  formerKey: Uint8Array | undefined
  /** A key that the host has announced, and the challenge that it must sign with it. */
  nextKey: { readonly key: Uint8Array; readonly challenge: Uint8Array } | undefined
  /** Whether it was greeted at a port that its kernel gives to no program without rights. */
  privileged: boolean
  /** TCP flows that are not proven yet (possession.ts), and when that is tried next. */
  readonly unproven: Map<SocketRow, Unproven>
  proveAt: number
  /** Flows that it has proven, by the challenge that it must return for packets to be sent as theirs. */
  readonly batches: Map<string, readonly SocketRow[]>
  /** Flows that go, or shall go, over a pair of their own, by id (multipath.ts). */
  readonly diversions: Map<string, Diversion>
  /** Pairs that its connections have left, with the time (renumbering.ts). */
  readonly left: Map<string, number>
  /** Shared secret of an association without keys. */
  secret: Uint8Array | undefined
  /** Half of that secret that is ours. */
  readonly cookie: Uint8Array
  sequence: number
  readonly replay: ReplayWindow
  /** Pairs on which the host has answered a challenge, with the time. */
  readonly confirmed: Map<string, Confirmed>
  /** All addresses that it has, had or claims. */
  readonly known: Set<Ip>
  /** Those of them at which it has answered a challenge, and which it has not lost. */
  readonly answered: Set<Ip>
  /** Bytes that may be sent to addresses at which it has not: three for each that came from it, less what was sent. */
  credit: number
  /** When its claim to an address was last probed. */
  readonly probedAt: Map<Ip, number>
  /** Its messages that this host acts upon, those with proofs of flows apart, and signature checks for them. */
  readonly updates: TokenBucket
  readonly proofs: TokenBucket
  readonly checks: TokenBucket
  /** Other keys that it is taken to have: each is stored at once. */
  readonly keyChanges: TokenBucket
  /** UDP port of its IHMP, by address; behind a NAT not the usual one. */
  readonly ports: Map<Ip, number>
  /** Challenges that wait for their response, by the address under test. */
  readonly challenges: Map<Ip, Uint8Array>
  /** Last counter of a message about an address: a late message cannot undo a newer one. */
  readonly addressCounters: Map<Ip, number>
  /** Its own addresses behind NATs that know IHMP, by the NAT's address (DI-41). */
  readonly nats: Map<Ip, Ip>
  /** What such a NAT has said, by the NAT's address. */
  readonly natReplay: Map<Ip, ReplayWindow>
  /** Own addresses that it must still be told are lost. */
  readonly lost: Set<Ip>
  /** Own addresses that it has acknowledged: what is not among them is told again (D14). */
  readonly told: Set<Ip>
  /** When it last seemed to have forgotten what it was told. */
  forgotAt: number
  /** The own address that it last heard is the preferred one. */
  announced: Ip | undefined
  /** The address at which it wants to be reached. */
  preferred: Ip | undefined
  /** The own address that the user moved it to. */
  pinned: Ip | undefined
  /** Since when no pair works; undefined while one does. */
  detachedAt: number | undefined
  /** Whether an end said that its address is lost, or the path only went silent. */
  detachedBy: 'loss' | 'silence'
  /** It has been silent for longer than flows are held for it; it may sleep, and is believed when it speaks again. */
  dormant: boolean
  /** Smoothed, milliseconds. */
  rtt: number | undefined
  /** Since when it has no flow. */
  idleSince: number | undefined
  /** What it was sent and has not acknowledged; `MOST_REQUESTS`. */
  readonly requests: Set<Request>
  /** Pairs that were tried and did not answer. */
  readonly silent: Map<string, Pair>
  /** When those are probed again, and how long that was waited for. */
  retry: { readonly at: number; readonly wait: number } | undefined
  helloAttempts: number
  /** Known by datagrams alone, whose source anybody can forge: it is asked for a HELLO, and gets none of ours before. */
  heard: boolean
  /** Families whose flows the peer has said that it takes from pairs of the other one. */
  readonly crossable: Set<4 | 6>
  /** Families that have had no pair of their own lately. */
  readonly crossWaits: Map<4 | 6, CrossWait>
  /** When the peer last asked for that: it has waited itself. */
  crossAsked: number
  /** When flows of a family that has pairs of its own again are no longer taken from others. */
  readonly uncrossAt: Map<4 | 6, number>
}

/** A flow that its host has still to prove, or this host to it. */
export interface Unproven {
  readonly since: number
  tries: number
  nextAt: number
}

/** A flow that goes, or shall go, over a pair of its own (multipath.ts). */
export interface Diversion {
  readonly flow: SocketRow
  /** The pair that the flow shall go over; undefined: with all others again. */
  readonly pair: Pair | undefined
  /** Whether this end chose it. */
  readonly own: boolean
  /** Of the peer's last message about this flow: an older one changes nothing. */
  readonly counter: number
  /** Whether the peer has said that it sends the flow there too. */
  readonly followed: boolean
}

/** Flows whose family has no pair of its own wait before they go over the other one. */
export interface CrossWait {
  /** Until then; undefined: no longer. */
  readonly until: number | undefined
  /** The device whose address was lost: over another one they go at once. Undefined: over none. */
  readonly lost: string | undefined
}

/** Outcome of a counter: new, or seen before with the acknowledgement that was sent for it, or too old to say. */
export type Replay =
  | { readonly kind: 'new' }
  | { readonly kind: 'duplicate'; readonly answer: Uint8Array | undefined }
  | { readonly kind: 'old' }

const WINDOW = 64

/** Remembers the last counters of a key, 64; what is below the window counts as replayed (DI-38, D8). */
export class ReplayWindow {
  readonly #answers = new Map<number, Uint8Array | undefined>()
  readonly #size: number
  #floor: number

  /** Counters up to `floor` are old: after a restart, the highest one accepted before it. */
  constructor(floor = 0, size = WINDOW) {
    this.#floor = floor
    this.#size = size
  }

  check(counter: number): Replay {
    if (this.#answers.has(counter)) return { kind: 'duplicate', answer: this.#answers.get(counter) }
    return counter <= this.#floor ? { kind: 'old' } : { kind: 'new' }
  }

  accept(counter: number): void {
    this.#answers.set(counter, undefined)
    if (this.#answers.size <= this.#size) return
    let lowest = Number.POSITIVE_INFINITY
    for (const seen of this.#answers.keys()) lowest = Math.min(lowest, seen)
    this.#answers.delete(lowest)
    this.#floor = Math.max(this.#floor, lowest)
  }

  /** Sees all that another window has: what either has seen is old news. */
  join(other: ReplayWindow): void {
    this.#floor = Math.max(this.#floor, other.#floor)
    for (const [counter, answer] of other.#answers) {
      if (this.#answers.has(counter)) continue
      this.accept(counter)
      this.answer(counter, answer)
    }
  }

  /** What to send again should the message be repeated because our acknowledgement was lost. */
  answer(counter: number, bytes: Uint8Array | undefined): void {
    if (this.#answers.has(counter)) this.#answers.set(counter, bytes)
  }

  /** Highest counter accepted: the floor after a restart. */
  get highest(): number {
    let highest = this.#floor
    for (const seen of this.#answers.keys()) highest = Math.max(highest, seen)
    return highest
  }
}

/** A message that is repeated until it is acknowledged. */
export interface Request {
  readonly host: Host
  readonly pair: Pair
  readonly message: IhmpMessage
  bytes: Uint8Array
  /** The challenge that the acknowledgement must answer for the pair to count as proven. */
  readonly challenge: Uint8Array | undefined
  /** Only sent if nothing has made it needless by its first time. */
  readonly deferred: boolean
  mostTries: number
  /** Acknowledgements that seemed to belong to it and were forged. */
  forged: number
  /** How often it was sent. */
  tries: number
  interval: number
  nextAt: number
  sentAt: number
  readonly acknowledged: (ack: IhmpMessage, now: number) => void
  readonly failed: (now: number) => void
}

/** The host of another row is the same: what it has said, been told and not answered there counts here. */
export function takeOver(into: Host, from: Host): void {
  for (const [key, value] of from.confirmed) into.confirmed.set(key, value)
  for (const [ip, port] of from.ports) into.ports.set(ip, port)
  for (const [id, diversion] of from.diversions) into.diversions.set(id, diversion)
  for (const [flow, state] of from.unproven) into.unproven.set(flow, state)
  into.proveAt = Math.min(into.proveAt, from.proveAt)
  into.replay.join(from.replay)
  for (const [ip, counter] of from.addressCounters)
    into.addressCounters.set(ip, Math.max(counter, into.addressCounters.get(ip) ?? 0))
  for (const [nat, inside] of from.nats) into.nats.set(nat, inside)
  for (const [nat, replay] of from.natReplay) into.natReplay.set(nat, replay)
  for (const ip of from.lost) into.lost.add(ip)
  for (const ip of from.told) into.told.add(ip)
  for (const [key, pair] of from.silent) into.silent.set(key, pair)
  into.retry ??= from.retry
  into.preferred ??= from.preferred
  into.pinned ??= from.pinned
  into.privileged &&= from.privileged
}
