/**
 * A node whose coordinator does not answer (issue 13, part 5): it goes on with its last lease, and finds peers by what it keeps of them:
 * where they were, or through a peer that has met both and knows where the other is now.
 */
import type { Endpoint } from '../../core/endpoint.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { sameEndpoint } from '../tables.ts'
import { datagramCodec, Kind } from '../wire/datagram.ts'
import { leaseCodec } from '../wire/lease.ts'
import { type Message, Route, Type } from '../wire/message.ts'
import type { MachineComponents, NodeOutput, NodeSocket } from './api.ts'
import { type KeptPair, Memory } from './memory.ts'
import type { NodeLeases } from './node-leases.ts'
import type { Pair, PairDirection } from './pair.ts'

/** Between calls to peers (ms): NATs forget in 30 s. Without any answer: first, doubling to the longest. */
const CALL_MS = 20_000
const FIRST_CALL_MS = 5_000
const LONGEST_CALL_MS = 300_000
const SETTLE_MS = 200
/** Peers that are called, that are asked to bring a message, and places of this node in one. */
const MAX_CALLED = 8
const MAX_COMMON = 4
const MAX_OWN_PLACES = 4
/** They are asked to bring it each (ms), until the name has been sought for long enough. */
const MEET_MS = 1000
/** Peers that others are asked to bring together with this node, and for how long (ms). */
const MAX_WANTED = 256
const WANTED_MS = 10_000
/** Messages a second that this node brings from one peer to another, and at once. */
const MEETINGS_RATE = 5
const MEETINGS_BURST = 20
/** Changes of what is kept are gathered for (ms). */
const KEEP_MS = 2000
const NEVER = Number.POSITIVE_INFINITY

/** The node, as far as this is concerned. */
export interface AloneNode {
  readonly name: string
  readonly leases: NodeLeases
  readonly pairs: ReadonlyMap<string, Pair>
  /** Names that are sought. */
  readonly sought: Pick<Map<string, unknown>, 'keys' | 'delete'>
  sockets(): readonly NodeSocket[]
  /** Where others see a socket. */
  observedOf(socket: number): Endpoint | undefined
  pairOf(tag: Uint8Array): Pair | undefined
  /** The pair with this peer and key: the one that there is, or a new one. */
  pairFor(name: string, direction: PairDirection, pairKey: Uint8Array, now: number): Pair
  step(from: string, to: string, what: number, now: number): void
  emit(output: NodeOutput): void
}

export class Alone {
  readonly #node: AloneNode
  readonly #memory: Memory
  /** Bring messages of one peer to another: a second, and at once. */
  readonly #brought = new TokenBucket(MEETINGS_RATE, MEETINGS_BURST)
  /** `#memory` is to be kept then. */
  #keepAt = NEVER
  /** Begins then, unless a coordinator answers. */
  #beginAt = NEVER
  #isAlone = false
  #callAt = NEVER
  /** Of calls without an answer. */
  #callPause = FIRST_CALL_MS
  /** Peers that others are asked to bring together with this node: until when (ms). */
  readonly #wanted = new Map<string, number>()
  /** They are asked again then. */
  #meetAt = NEVER

  constructor(node: AloneNode, crypto: MachineComponents['crypto'], kept: readonly KeptPair[]) {
    this.#node = node
    this.#memory = new Memory(crypto, kept)
  }

  /** No coordinator answers: peers are found by what is kept. */
  get isAlone(): boolean {
    return this.#isAlone
  }

  nextTimeout(): number {
    return Math.min(this.#keepAt, this.#beginAt, this.#callAt, this.#meetAt)
  }

  handleTimeout(now: number): void {
    if (this.#beginAt <= now) this.#begin(now)
    if (this.#callAt <= now) this.#call(now)
    if (this.#meetAt <= now) this.#meetAgain(now)
    if (this.#keepAt <= now) {
      this.#keepAt = NEVER
      this.#node.emit({ type: 'keep', pairs: this.#memory.all() })
    }
  }

  // ---- what the node tells

  /** It does not answer: unless it does within this time. */
  expect(ms: number, now: number): void {
    if (!this.#isAlone) this.#beginAt = Math.min(this.#beginAt, now + ms)
  }

  /** It answers. */
  end(): void {
    this.#beginAt = NEVER
    this.#callAt = NEVER
    this.#isAlone = false
  }

  /** The sockets are others. */
  moved(now: number): void {
    if (this.#isAlone) this.#callAt = Math.min(this.#callAt, now + SETTLE_MS)
  }

  /** Names that are sought and kept are looked for where they were, and through others. */
  seek(now: number): void {
    if (!this.#isAlone) return
    for (const name of [...this.#node.sought.keys()]) {
      const kept = this.#memory.get(name)
      if (kept === undefined) continue
      this.#node.sought.delete(name)
      const pair = this.#recall(kept, { asked: true, opens: true }, now)
      if (pair !== undefined) this.meet(pair, now)
    }
  }

  /** Asks peers that answer to bring this one where we are; what they bring is sealed for it. */
  meet(peer: Pair, now: number): void {
    if (!this.#isAlone || peer.meetingWay !== undefined) return
    if (this.#wanted.size < MAX_WANTED) this.#wanted.set(peer.peer, now + WANTED_MS)
    this.#meetAt = Math.min(this.#meetAt, now + MEET_MS)
    this.#askCommon(peer, now)
  }

  /** One more that can bring messages, for those that are sought now. */
  answered(common: Pair, now: number): void {
    for (const name of this.#stillWanted(now))
      if (name !== common.peer) this.#sendRequest(common, this.#node.pairs.get(name)!, true, now)
  }

  /** MEETING: to be brought to another peer, where that has answered; or brought from one, sealed with the key of that pair. */
  meeting(from: Pair, { name, nodeName, datagram }: Message, now: number): void {
    const node = this.#node
    node.step(from.peer, node.name, Type.MEETING, now)
    if (datagram === undefined) return
    if (name !== undefined) {
      const to = node.pairs.get(name)
      const way = to?.meetingWay
      if (to === undefined || to === from || way === undefined || !this.#brought.take(now)) return
      node.step(node.name, name, Type.MEETING, now)
      to.checks.sendMeeting(way, { nodeName: from.peer, datagram })
      return
    }
    const check = datagramCodec.decode(datagram)
    if (nodeName === undefined || !check.ok || check.value.kind !== Kind.CHECK) return
    const peer = this.pairOf(check.value.tag, now)
    if (peer === undefined || peer.peer !== nodeName) return
    if (peer.checks.handleBrought(check.value, now) === true) this.#sendRequest(from, peer, false, now)
  }

  /** Whose CHECKs have this tag; a pair that was kept begins with one. */
  pairOf(tag: Uint8Array, now: number): Pair | undefined {
    const pair = this.#node.pairOf(tag)
    if (pair !== undefined) return pair
    const kept = this.#memory.byTag(tag)
    // Somebody else may repeat what the peer has sent: that is once for each pair, and asks no more than is asked anyway.
    return kept === undefined || this.#node.pairs.has(kept.name)
      ? undefined
      : this.#recall(kept, { asked: false, opens: false }, now)
  }

  // ---- what is kept

  keep(pair: KeptPair, now: number): void {
    this.#memory.keep(pair)
    this.#changed(now)
  }

  drop(peer: string, now: number): void {
    this.#memory.drop(peer)
    this.#changed(now)
  }

  /** It is reached elsewhere. */
  placed(pair: Pair): void {
    const kept = this.#memory.get(pair.peer)
    if (kept === undefined) return
    this.#memory.keep({ ...kept, places: pair.places })
    this.#keepAt = Math.min(this.#keepAt, 0)
  }

  /** The key of a peer that has ended, or that was met by an earlier process. */
  keyOf(peer: string): Uint8Array | undefined {
    const kept = this.#memory.get(peer)
    const lease = kept && leaseCodec.decode(kept.lease)
    return lease?.ok === true ? lease.value.publicKey : undefined
  }

  #changed(now: number): void {
    this.#keepAt = Math.min(this.#keepAt, now + KEEP_MS)
  }

  // ---- alone

  #begin(now: number): void {
    this.#beginAt = NEVER
    const { leases } = this.#node
    const { encoded } = leases
    const lease = leases.addresses === undefined && encoded ? leases.own(encoded) : undefined
    if (lease !== undefined && encoded !== undefined) {
      leases.addresses = lease
      this.#node.emit({ type: 'alone', lease, encoded })
    }
    // Without an address of its own it is of no use to anybody.
    if (leases.addresses === undefined) return
    this.#isAlone = true
    this.#callPause = FIRST_CALL_MS
    this.#call(now)
    this.seek(now)
  }

  /** Shows peers where this node is now: those that have not moved can bring it and others together. */
  #call(now: number): void {
    const { pairs } = this.#node
    for (const kept of this.#memory.all().slice(0, MAX_CALLED)) {
      const pair = pairs.get(kept.name)
      // The peer may have a session with the run before: this end begins another.
      if (pair === undefined) this.#recall(kept, { asked: false, opens: true }, now)
      else pair.call(now)
    }
    const answers = [...pairs.values()].some((pair) => pair.meetingWay !== undefined)
    this.#callPause = answers ? CALL_MS : Math.min(2 * this.#callPause, LONGEST_CALL_MS)
    this.#callAt = now + (answers ? CALL_MS : this.#callPause)
  }

  /** The pair as it was kept; its peer is asked for where it was. Undefined: its lease does not count any more. */
  #recall(
    { name, lease: encoded, pairKey, zoneKey, places }: KeptPair,
    { asked, opens }: { readonly asked: boolean; readonly opens: boolean },
    now: number,
  ): Pair | undefined {
    const { leases, pairs } = this.#node
    const lease = leases.peer(name, encoded, zoneKey)
    if (lease === undefined || leases.collides(lease, pairs.values())) return undefined
    const candidates = places.map((endpoint) => ({ kind: 'host' as const, endpoint }))
    const route = Route.CHECK
    const direction = { lease, route, candidates, relays: [] }
    const pair = this.#node.pairFor(name, direction, pairKey, now)
    const { leads } = pair
    this.#node.emit({ type: 'direction', peer: name, lease, pairKey, leads, route, asked, wanted: asked })
    pair.direct(direction, this.#node.sockets(), { asked: opens, early: false }, now)
    return pair
  }

  #askCommon(peer: Pair, now: number): void {
    const common = [...this.#node.pairs.values()].filter(
      (pair) => pair !== peer && pair.meetingWay !== undefined,
    )
    for (const pair of common.slice(0, MAX_COMMON)) this.#sendRequest(pair, peer, true, now)
  }

  /** A common peer may not have been there, or not have known where the other is. */
  #meetAgain(now: number): void {
    for (const name of this.#stillWanted(now)) this.#askCommon(this.#node.pairs.get(name)!, now)
    this.#meetAt = this.#wanted.size > 0 ? now + MEET_MS : NEVER
  }

  #stillWanted(now: number): string[] {
    for (const [name, until] of this.#wanted) {
      const peer = this.#node.pairs.get(name)
      if (until <= now || !this.#isAlone || peer === undefined || peer.meetingWay !== undefined)
        this.#wanted.delete(name)
    }
    return [...this.#wanted.keys()]
  }

  #sendRequest(common: Pair, peer: Pair, wantsAnswer: boolean, now: number): void {
    const way = common.meetingWay
    const places = this.#ownPlaces()
    if (way === undefined || places.length === 0) return
    this.#node.step(this.#node.name, common.peer, Type.MEETING, now)
    const datagram = peer.checks.sealedRequest(places, wantsAnswer)
    common.checks.sendMeeting(way, { name: peer.peer, datagram })
  }

  /** Where others see this node, then addresses of its interfaces. */
  #ownPlaces(): Endpoint[] {
    const sockets = this.#node.sockets()
    const seen = sockets.flatMap(({ socket }) => this.#node.observedOf(socket) ?? [])
    const own = sockets.flatMap(({ addresses, port }) => addresses.map((address) => ({ address, port })))
    const all = [...seen, ...own]
    return all
      .filter((each, i) => all.findIndex((other) => sameEndpoint(other, each)) === i)
      .slice(0, MAX_OWN_PLACES)
  }
}
