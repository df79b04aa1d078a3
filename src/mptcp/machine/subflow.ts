/**
 * One subflow (paper §3.2): a TCP connection on the wire with sequence numbers of its own. All numbers are offsets from
 * the initial sequence numbers: 0 is the SYN.
 *
 *   syn-sent ── SYN/ACK, HMAC right ──► joined ── fourth packet ──► active ── FIN sent ──► closing ──► dead
 *   syn-received ── third ACK, HMAC right ───────────────────────► active
 *
 * The first subflow is `active` as soon as its connection is established.
 */
import { type Block, merge, RecvTable, SendTable } from '../tables.ts'
import type { Tuple } from './segment.ts'
import { offsetOf, sequenceAt } from './sequence.ts'

/** Most blocks given beyond a hole that are remembered; what lies farther is sent again. */
const MAX_GIVEN = 64
/** Silence (ms) beside one and a half round trips after which a subflow with data under way is given up. */
const PATIENCE = 100
/** Between answers (ms) to what cannot be the peer's: it may be the answer to ours (RFC 5961 §10). */
const CHALLENGE_GAP = 500
/** The round trip (ms) that is assumed while none is measured. */
const UNKNOWN_RTT = 200
/** A timeout of the local TCP is as long as so many round trips, and at least so long (ms). */
const TIMEOUT_ROUND_TRIPS = 3
const TIMEOUT_LEAST = 200
/** After so many of them without what the peer lacks on it a subflow is stuck. */
const PASSES = 3
const NO_BLOCKS: readonly Block[] = []

export type SubflowState = 'syn-sent' | 'syn-received' | 'joined' | 'active' | 'closing' | 'dead'

/** In the record of its connection (record.ts): where its halves and mappings are, and how many of those. */
export interface Recorded {
  readonly halves: [number, number]
  ring: number
  mappings: number
}

export class Subflow {
  /** Numbered from 0 within its connection. */
  readonly id: number
  readonly tuple: Tuple
  readonly key: string
  /** Of the local address, as the peer was told; 0 is that of the first subflow. */
  readonly addressId: number
  remoteAddressId = 0
  access: string | undefined
  /** The address that its access has to keep for it to work; undefined: any will do. */
  home: Uint8Array | undefined
  state: SubflowState
  localIsn: number
  remoteIsn = 0
  /** The next byte to send, and the first that the peer has not acknowledged. */
  next = 1
  una = 1
  readonly send = new SendTable()
  /** Of a connection that was taken over: `send` has every mapping that the peer may have a part of. */
  sendKnown = true
  readonly recorded: Recorded = { halves: [-1, -1], ring: -1, mappings: 0 }
  /** After the highest byte that came and was mapped. */
  high = 1
  /** What was last acknowledged to the peer. */
  acked = 1
  readonly recv = new RecvTable()
  /** Blocks beyond `acked` that the local TCP has, from its last acknowledgement. */
  above: readonly Block[] = NO_BLOCKS
  /** Blocks from `acked` on that the local TCP was given; kept only when it has no SACK to say so itself. */
  given: readonly Block[] = NO_BLOCKS
  sackPermitted = false
  /** Shift of the windows that the peer announces here; 0 without the option. */
  remoteScale = 0
  /** Most payload of a packet that its path carries, if that is less than the connection's. */
  segmentSize = Number.POSITIVE_INFINITY
  /** When larger ones are tried again. */
  widenAt = Number.POSITIVE_INFINITY
  /** What we told the peer, and what it told us. */
  backup: boolean
  remoteBackup = false
  localNonce = 0
  remoteNonce = 0
  /** Smoothed round trip (ms); NaN while not measured. */
  srtt = Number.NaN
  /** SYN/ACKs that the peer's SYNs have earned and that were not sent. */
  answersLeft = 0
  /** The shortest round trip (ms). */
  leastRtt = UNKNOWN_RTT
  #sampleEnd = 0
  #sampleAt = 0
  /** -Infinity: it is not known. */
  beganAt: number
  /** When something last came. */
  heardAt: number
  /** When something was first sent, after that, that the peer has to answer; Infinity when nothing was. */
  askedAt = Number.POSITIVE_INFINITY
  /** When payload last came, and whether a probe asked since why none comes. */
  dataAt = Number.NEGATIVE_INFINITY
  probedAt = Number.NEGATIVE_INFINITY
  /** The answer to a probe of the proxy's own is due: it is none of the local TCP's. */
  probing = false
  /** Since when payload of the peer is expected, if that is after `heardAt`. */
  expectedAt = Number.NEGATIVE_INFINITY
  /** Packets with payload that came within the last second or so. */
  burst = 0
  /** Offsets of the FINs; -1 while there is none. */
  finSent = -1
  finReceived = -1
  /** Our FIN here said that both ends are done. */
  isLastWord = false
  /** When the peer is told to leave it for another that carries data already. */
  leaveAt = Number.POSITIVE_INFINITY
  leaveTries = 0
  /** What is sent again until answered. */
  retryAt = Number.POSITIVE_INFINITY
  tries = 0
  sentBytes = 0
  receivedBytes = 0
  #challengedAt = Number.NEGATIVE_INFINITY
  /** The hole that was filled last, and when. */
  #filled = 0
  #filledAt = Number.NEGATIVE_INFINITY
  /** The hole that the peer showed last, whether it did so since the last pass, how many passes there were, and when the last (`passes`). */
  #hole = 0
  #isShown = false
  #passes = 0
  #passedAt = Number.NEGATIVE_INFINITY

  constructor(init: {
    readonly id: number
    readonly tuple: Tuple
    readonly key: string
    readonly addressId: number
    readonly access: string | undefined
    readonly state: SubflowState
    readonly localIsn: number
    readonly backup: boolean
    readonly now: number
  }) {
    this.id = init.id
    this.tuple = init.tuple
    this.key = init.key
    this.addressId = init.addressId
    this.access = init.access
    this.home = init.tuple.local
    this.state = init.state
    this.localIsn = init.localIsn
    this.backup = init.backup
    this.beganAt = init.now
    this.heardAt = init.now
  }

  /** Data may be sent on it. */
  get usable(): boolean {
    return this.state === 'active' && this.finSent < 0
  }

  /** Something may still be acknowledged on it. */
  get alive(): boolean {
    return this.state === 'active' || this.state === 'closing'
  }

  get outstanding(): boolean {
    return this.next > this.una
  }

  /** The peer has our FIN. */
  get isFinKnown(): boolean {
    return this.finSent >= 0 && this.una > this.finSent
  }

  /** How long it may be silent (ms) while an answer is due. */
  get patience(): number {
    return PATIENCE + 1.5 * (Number.isNaN(this.srtt) ? UNKNOWN_RTT : this.srtt)
  }

  isSilent(now: number): boolean {
    return now > this.askedAt + this.patience
  }

  hear(now: number): void {
    this.heardAt = now
    this.askedAt = Number.POSITIVE_INFINITY
  }

  ask(now: number): void {
    if (this.askedAt === Number.POSITIVE_INFINITY) this.askedAt = now
  }

  /** Whether an acknowledgement may be asked for again by what is outside the window. */
  mayChallenge(now: number): boolean {
    if (now - this.#challengedAt < CHALLENGE_GAP) return false
    this.#challengedAt = now
    return true
  }

  /** Whether the hole at `una` is to be filled: for the first time, or a round trip after the last. */
  mayFill(now: number): boolean {
    if (
      this.una === this.#filled &&
      now - this.#filledAt < (Number.isNaN(this.srtt) ? UNKNOWN_RTT : this.srtt)
    )
      return false
    this.#filled = this.una
    this.#filledAt = now
    return true
  }

  /** The peer has what lies beyond `una`. */
  showHole(): void {
    if (this.#hole !== this.una) this.#passes = 0
    this.#hole = this.una
    this.#isShown = true
  }

  /**
   * The local TCP sends what lies at `ssn`; `oldest`: that is what it has waited for longest. True when it has done so again and again while
   * the peer showed that it waits for something before: the local TCP does not send that.
   */
  passes(ssn: number, length: number, oldest: boolean, now: number): boolean {
    if (ssn <= this.una) {
      if (ssn + length > this.una) this.#passes = 0
      return false
    }
    const timeout = TIMEOUT_ROUND_TRIPS * (Number.isNaN(this.srtt) ? UNKNOWN_RTT : this.srtt)
    if (!oldest || !this.#isShown || this.#hole !== this.una) return false
    if (this.#passes > 0 && now - this.#passedAt < Math.max(TIMEOUT_LEAST, timeout)) return false
    this.#isShown = false
    this.#passedAt = now
    return ++this.#passes >= PASSES
  }

  give(left: number, right: number): void {
    this.given = merge([...this.given, { left, right }]).slice(0, MAX_GIVEN)
  }

  /** The peer ought to send now, here. */
  expect(now: number): void {
    if (this.expectedAt <= this.heardAt) this.expectedAt = now
  }

  seqAt(offset: number): number {
    return sequenceAt(this.localIsn, offset)
  }

  ackAt(offset: number): number {
    return sequenceAt(this.remoteIsn, offset)
  }

  offsetOfSeq(seq: number): number {
    return offsetOf(seq, this.remoteIsn, this.high)
  }

  offsetOfAck(ack: number): number {
    return offsetOf(ack, this.localIsn, this.una)
  }

  /** `length` new bytes from `dsn` get the next offsets. */
  allocate(dsn: number, length: number, now: number) {
    const run = this.send.append(this.next, dsn, length)
    this.next += length
    if (this.#sampleEnd === 0) {
      this.#sampleEnd = this.next
      this.#sampleAt = now
    }
    return run
  }

  /** The peer acknowledged up to `offset`; false when it cannot have it. */
  acknowledge(offset: number, now: number): boolean {
    if (offset > this.next) return false
    if (offset <= this.una) return true
    this.una = offset
    if (this.#sampleEnd > 0 && offset >= this.#sampleEnd) {
      this.sample(now - this.#sampleAt)
      this.#sampleEnd = 0
    }
    return true
  }

  sample(rtt: number): void {
    this.leastRtt = Number.isNaN(this.srtt) ? rtt : Math.min(this.leastRtt, rtt)
    this.srtt = Number.isNaN(this.srtt) ? rtt : 0.875 * this.srtt + 0.125 * rtt
  }

  /** Something is sent a second time: its acknowledgement measures nothing (Karn). */
  spoilSample(): void {
    this.#sampleEnd = 0
  }
}
