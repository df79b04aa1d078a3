/**
 * One connection (paper §3.1): what is known of both ends, and its subflows. Data offsets count from the initial sequence
 * number of the TCP connection that the application has: TSN, DSN and, on the first subflow, SSN are one number plus a constant,
 * so that a connection that falls back to plain TCP needs nobody between its ends.
 *
 *   CLOSED ── SYN out, MP_CAPABLE added ──► syn-sent ── SYN/ACK with MP_CAPABLE ──► pre-established ── DSS in ──► established
 *   CLOSED ── SYN in, MP_CAPABLE taken off ──► syn-received ── third ACK with both keys ──► established
 *   established ── DATA_FINs acknowledged both ways, subflows closed by FINs of their own ──► closed
 *   any ── RST of the local TCP (MP_FASTCLOSE), MP_FASTCLOSE of the peer ──► closed
 *   syn-sent, syn-received, pre-established ── the other end or the path speaks no MPTCP ──► forgotten
 */
import type { Random } from '../../core/clock.ts'
import { TCP, TcpFlag } from '../../core/tcp.ts'
import type { Block } from '../tables.ts'
import type { MptcpOption } from '../wire.ts'
import { FAST_AFTER, type FastLeft, type FastSlot, type FastWay } from './fast-slot.ts'
import type { Key, Sha256 } from './keys.ts'
import { Room } from './room.ts'
import {
  OPTION_SPACE,
  type OptionWriter,
  type OutSegment,
  payloadLength,
  type Segment,
  type SynOptions,
  type Tuple,
} from './segment.ts'
import { dsnAt, offsetOf, sequenceAt } from './sequence.ts'
import type { Subflow } from './subflow.ts'
import type { AccessInfo, Counts, MachineEvent, MptcpInit, Passage } from './types.ts'

const { ACK, FIN, RST, PSH } = TcpFlag

export type ConnectionState =
  | 'syn-sent'
  | 'syn-received'
  | 'pre-established'
  | 'established'
  | 'closing'
  | 'closed'

/** Bytes that a data packet of ours grows by: a DSS with 64-bit numbers, padded. */
export const DSS_ROOM = 28
/**
 * What arrives on a further subflow is replaced on its way to the local TCP, and takes twice the memory that the kernel reckons
 * with there (engine.ts): in the end the peer is offered half the window (`#windowOn`).
 */
const REPLACED = 1
/** Newest payload kept of each connection to start it again after a break: a whole segment (`clampedMss`). */
const HELD_MAX = 1500 - TCP.MIN_HEADER - 20 - DSS_ROOM
/** Rooms for such payload that are kept for the next. */
const MAX_SPARE = 64
const NO_OPTIONS: readonly MptcpOption[] = []
/** The least payload of a packet that any path carries (RFC 791), about. */
const LEAST_SEGMENT = 88
/** What every path is taken to carry (Linux: route/min_pmtu). */
const LEAST_MTU = 552

/** Payload that may have to be sent again: `length` bytes from `dsn`. */
export interface Held {
  readonly bytes: Uint8Array
  dsn: number
  length: number
}

/** What connections share with their machine. */
export interface Host {
  readonly sha: Sha256
  readonly random: Random
  readonly init: MptcpInit
  readonly writer: OptionWriter
  /** The accesses that work, best first. */
  accesses: readonly AccessInfo[]
  readonly counts: Counts
  readonly fast: FastPath | undefined
  /** Room for payload that connections may have to send again, which none needs just now. */
  readonly spare: Uint8Array[]
  emit(segment: OutSegment): void
  tell(event: MachineEvent): void
}

/** Who takes the packets of connections in the kernel. */
export interface FastPath {
  /** Mappings under way that it takes over. */
  readonly mappings: number
  /** Undefined when it has no room, or cannot take this connection. */
  begin(connection: Connection, way: FastWay): FastSlot | undefined
  /** What a killed process left to the kernel; nothing is taken any more. */
  left(tuple: Tuple): FastLeft | undefined
}

/** When a further subflow is tried again on an access where one failed (pauses.ts). */
export interface Pause {
  /** When a join is tried again, and when at the earliest while no subflow works. */
  readonly at: number
  readonly aloneAt: number
  /** Without jitter (ms), of this pause and of the next after a refusal that leaves no subflow. */
  readonly length: number
  readonly aloneLength: number
  readonly refused: boolean
}

export class Connection {
  readonly id: number
  readonly host: Host
  /** The connection as the local TCP has it. */
  readonly tuple: Tuple
  readonly key: string
  readonly role: 'client' | 'server'
  /** The TCP is that of another host, and this one a router before it. */
  readonly forwarded: boolean
  /** The access on that host's side; undefined for other interfaces. */
  readonly inside: string | undefined
  state: ConnectionState
  localKey: Key
  remoteKey: Key | undefined
  /** Initial sequence numbers of the local TCP and, as it knows it, of the peer. */
  tcpIsn: number
  peerIsn = 0
  localSyn: SynOptions = { mss: 0, scale: -1, sackPermitted: false }
  remoteSyn: SynOptions = { mss: 0, scale: -1, sackPermitted: false }
  /** The MSS that the local TCP was told. */
  segmentSize = 536
  synsSent = 0
  /** The peer has shown that it has both keys. */
  confirmed = false
  /** It has sent a DATA_ACK: until then it may fall back. */
  answered = false
  /** The peer forbade joins to the address of the first subflow. */
  noJoin = false
  /** The next new byte of the local TCP, and what the peer acknowledged. */
  sndMax = 1
  dataUna = 1
  /** What the local TCP acknowledged, and after the highest byte that it was given. */
  tan = 1
  rcvMax = 1
  /** Windows as last announced, unscaled: of the local TCP, and of the peer in bytes. */
  window = 0
  remoteWindow = 0
  /** Of a local TCP without SACK. */
  room: Room | undefined
  finLocal = -1
  /** Where a FIN of the local TCP lies whose bytes before it have not all come. */
  finAhead = -1
  finRemote = -1
  subflows: Subflow[] = []
  nextSubflow = 0
  nextAddress = 1
  /** Where new data go; undefined while nothing works. */
  active: Subflow | undefined
  /** The one that was active before it was lost. */
  left: Subflow | undefined
  /** When something was last heard on subflows that have been left (ms): one that carried data for a moment may have been silent all along. */
  heardAt = Number.NEGATIVE_INFINITY
  /** The newest payload that went out: sent again on a new subflow, it makes the local TCP go on at once. */
  held: Held | undefined
  /** Such payload that the local TCP was told has arrived: should it be lost, nobody else sends it again (`fillHole`). */
  kicked: Held | undefined
  /** What `kicked` was in a process that was killed: its bytes went with that. */
  forgotten: Block | undefined
  /** A break lost data before this offset. */
  lostBefore = 0
  /** What the peer had acknowledged when the local TCP began to send them again, and the end of what it has sent again in order. */
  againFrom = Number.POSITIVE_INFINITY
  againTo = 0
  /** New data were dropped meanwhile: later ones are dropped, too, until those come again. */
  skipped = false
  /** Options that are sent again until `repeatAt` has passed thrice. */
  repeat: readonly MptcpOption[] = NO_OPTIONS
  repeatAt = Number.POSITIVE_INFINITY
  repeats = 0
  /** Since when no subflow works. */
  strandedAt = Number.POSITIVE_INFINITY
  /** The peer has shown that it knows that both ends are done. */
  isHeard = false
  /** It ended by FINs. */
  closedInOrder = false
  /** The local TCP asked for an answer (keep-alive, window probe). */
  probing = false
  /** By half of its record (record.ts): the state that it has there. */
  readonly recorded: [number, number] = [-1, -1]
  usedAt: number
  closedAt = 0
  /** By access where a subflow failed. */
  pauses: Map<string, Pause> | undefined
  /** When the next join is due; and when the first that is not urgent may begin. */
  rejoinAt = Number.POSITIVE_INFINITY
  restUntil = Number.NEGATIVE_INFINITY

  /** Bytes that a further subflow still offers beyond half the window, and the acknowledgement at which. */
  #extra = Number.POSITIVE_INFINITY
  #extraAt = 1

  /** The kernel takes its packets (fast.ts). */
  fast: FastSlot | undefined
  fastWay: FastWay | undefined
  fastSince = 0
  /** Bytes both ways at the last change, and how many more make the next one worth it. */
  fastFrom = 2
  fastAfter = FAST_AFTER
  /** Mappings that the kernel was told of, since the subflow began. */
  fastRuns = 0

  constructor(init: {
    readonly id: number
    readonly host: Host
    readonly tuple: Tuple
    readonly key: string
    readonly role: 'client' | 'server'
    readonly localKey: Key
    readonly tcpIsn: number
    readonly forwarded: boolean
    readonly inside: string | undefined
    readonly now: number
  }) {
    this.id = init.id
    this.host = init.host
    this.tuple = init.tuple
    this.key = init.key
    this.role = init.role
    this.state = init.role === 'client' ? 'syn-sent' : 'syn-received'
    this.localKey = init.localKey
    this.tcpIsn = init.tcpIsn
    this.forwarded = init.forwarded
    this.inside = init.inside
    this.usedAt = init.now
  }

  /** Whether a forwarded packet comes from the side of the local TCP: anybody outside can write its address into one. */
  isFromInside({ from }: Passage): boolean {
    return this.forwarded && from === this.inside
  }

  nextSubflowId(): number {
    return this.nextSubflow++
  }

  /** An id for a local address, none that a subflow of ours still has. */
  nextAddressId(): number {
    for (;;) {
      const id = this.nextAddress
      this.nextAddress = id === 255 ? 1 : id + 1
      if (!this.subflows.some((each) => each.addressId === id && each.state !== 'dead')) return id
    }
  }

  /** Forgets dead subflows but the first and the newest, and returns them. */
  dropDead(): readonly Subflow[] {
    const last = this.subflows.length - 1
    const dropped = this.subflows.filter(({ state }, i) => state === 'dead' && i > 0 && i < last)
    if (dropped.length > 0) this.subflows = this.subflows.filter((each) => !dropped.includes(each))
    return dropped
  }

  get first(): Subflow | undefined {
    return this.subflows.find(({ id }) => id === 0)
  }

  /** The local TCP takes selective acknowledgements. */
  get sacks(): boolean {
    return this.localSyn.sackPermitted && this.remoteSyn.sackPermitted
  }

  /** Data of the local TCP that the peer has not acknowledged. */
  get outstanding(): boolean {
    return this.sndMax > this.dataUna || (this.finLocal >= 0 && this.dataUna <= this.finLocal)
  }

  /** A break lost data that the local TCP has not all sent again, and the peer has acknowledged nothing of what it has. */
  get isBroken(): boolean {
    const { dataUna, lostBefore, againFrom, againTo } = this
    return dataUna <= againFrom && Math.max(dataUna, againTo) < lostBefore
  }

  /** Both ends have said that they are done, and heard that the other knows. */
  get done(): boolean {
    return this.finLocal >= 0 && this.dataUna > this.finLocal && this.isTold
  }

  /** The local TCP has all that the peer had to say. */
  get isTold(): boolean {
    return this.finRemote >= 0 && this.tan > this.finRemote
  }

  /** The local TCP has no room for a segment. */
  get isShut(): boolean {
    return this.windowBytes < this.segmentSize
  }

  /** The window that the local TCP announced last, in bytes. */
  get windowBytes(): number {
    return this.window * this.#unit
  }

  /** Bytes that 1 is in a window of the local TCP. */
  get #unit(): number {
    return this.remoteSyn.scale < 0 ? 1 : 2 ** Math.max(0, this.localSyn.scale)
  }

  /** Offset of a sequence number of the local TCP, and of its acknowledgement. */
  offsetOfSeq(seq: number): number {
    return offsetOf(seq, this.tcpIsn, this.sndMax)
  }

  offsetOfAck(ack: number): number {
    return offsetOf(ack, this.peerIsn, this.tan)
  }

  /**
   * Keeps a copy of the last segment of what goes out, as the device cuts it: of less than a whole one no selective acknowledgement counts
   * (tcp_match_skb_to_sack in Linux).
   */
  hold(segment: Segment, dsn: number, length: number): void {
    const size = Math.min(((length - 1) % this.segmentSize) + 1, HELD_MAX)
    this.held ??= { bytes: this.host.spare.pop() ?? new Uint8Array(HELD_MAX), dsn: 0, length: 0 }
    this.held.dsn = dsn + length - size
    this.held.length = size
    const end = segment.payloadAt + segment.payloadLength
    this.held.bytes.set(segment.bytes.subarray(end - size, end))
  }

  /** The local TCP has to send again what is before `before`. */
  lose(before: number): void {
    this.lostBefore = before
    this.againFrom = Number.POSITIVE_INFINITY
    this.againTo = 0
  }

  /** `newest` goes first on a new subflow, and the local TCP is told that the peer has it. */
  kick(newest: Held): void {
    if (newest === this.kicked) return
    if (this.kicked !== undefined) this.#spare(this.kicked)
    this.kicked = newest
    this.held = undefined
  }

  /** Lets the copies go when the peer has them. */
  release(): void {
    const { held, kicked, forgotten, dataUna } = this
    if (forgotten !== undefined && dataUna >= forgotten.right) this.forgotten = undefined
    const isThere = (copy: Held | undefined): copy is Held =>
      copy !== undefined && dataUna >= copy.dsn + copy.length
    if (isThere(held)) {
      this.#spare(held)
      this.held = undefined
    }
    if (isThere(kicked)) {
      this.#spare(kicked)
      this.kicked = undefined
    }
  }

  #spare({ bytes }: Held): void {
    const { spare } = this.host
    if (spare.length < MAX_SPARE) spare.push(bytes)
  }

  /** A DSS with what the local TCP has acknowledged; undefined while the peer's key is not known. */
  dataAck(): Extract<MptcpOption, { type: 'dss' }> | undefined {
    if (this.remoteKey === undefined) return undefined
    return { type: 'dss', dataFin: false, ack: dsnAt(this.remoteKey, this.tan) }
  }

  /**
   * The path of a subflow carries no more than `mtu` bytes; false: no packet of its is larger. The first subflow of a host behind is left
   * alone: its packets have to leave as they came, since their addresses are translated (ADR 0170).
   */
  narrow(subflow: Subflow, mtu: number): boolean {
    if (this.forwarded && subflow.id === 0) return false
    const size = clampedMss(0xffff, Math.max(mtu, LEAST_MTU), this.tuple.local.length === 4 ? 4 : 16)
    if (size >= Math.min(subflow.segmentSize, this.segmentSize)) return false
    subflow.segmentSize = size
    return true
  }

  /** Sends a segment on a subflow, with the acknowledgement that is due there. */
  toWire(
    subflow: Subflow,
    fields: {
      readonly at?: number
      readonly flags?: number
      readonly options: readonly MptcpOption[]
      readonly payload?: OutSegment['payload']
      readonly sack?: readonly Block[]
    },
  ): void {
    const { writer } = this.host
    for (const option of fields.options) writer.mptcp(option)
    if (fields.sack !== undefined && subflow.sackPermitted)
      writer.sack(fields.sack, (offset) => subflow.ackAt(offset))
    const segment: OutSegment = {
      to: 'wire',
      tuple: subflow.tuple,
      seq: subflow.seqAt(fields.at ?? subflow.next),
      ack: subflow.ackAt(subflow.acked),
      flags: fields.flags ?? ACK,
      window: this.#windowOn(subflow),
      options: writer.finish(),
      payload: fields.payload,
      access: subflow.access,
      segmentSize: Math.min(this.segmentSize, subflow.segmentSize),
      narrow: subflow.segmentSize < this.segmentSize,
    }
    subflow.sentBytes += payloadLength(segment)
    this.host.emit(segment)
  }

  /**
   * The window as a subflow announces it. The peer may have filled the whole one, and after a handover half of it would take back what was
   * offered: Linux then sends nothing again at an acknowledgement until half a window is acknowledged, since it sends when the edge
   * moves. So the edge moves by half of what is acknowledged until half the window is what is offered.
   */
  #windowOn({ id }: Subflow): number {
    const { window, tan } = this
    if (id === 0) {
      this.offeredWhole()
      return window
    }
    const half = window >> REPLACED
    const unit = this.#unit
    const extra = Math.min(this.#extra - (tan - this.#extraAt) / 2, (window - half) * unit)
    this.#extra = Math.max(0, extra)
    this.#extraAt = tan
    return half + Math.ceil(this.#extra / unit)
  }

  /** The peer was offered the whole window. */
  offeredWhole(): void {
    this.#extra = Number.POSITIVE_INFINITY
    this.#extraAt = this.tan
  }

  /** An acknowledgement of the proxy's own on a subflow. */
  ackOn(subflow: Subflow, ...more: readonly MptcpOption[]): void {
    const dss = this.dataAck()
    this.toWire(subflow, { options: dss === undefined ? more : [dss, ...more], sack: subflow.above })
  }

  /** Tells the peer that the local TCP has no more data. */
  sendDataFin(): void {
    if (this.finLocal < 0 || this.remoteKey === undefined || this.active === undefined) return
    const dss: MptcpOption = {
      type: 'dss',
      dataFin: true,
      ack: dsnAt(this.remoteKey, this.tan),
      map: { dsn: dsnAt(this.localKey, this.finLocal), ssn: 0, length: 1 },
    }
    this.toWire(this.active, { options: [dss] })
  }

  /**
   * Hands the local TCP the acknowledgement of its data. One that knows of the peer's FIN takes only what comes behind that.
   */
  acknowledgeLocal(sack: readonly Block[] = []): void {
    this.toLocal(Math.max(this.rcvMax, this.tan), { sack })
  }

  /** Hands the local TCP a segment; `dsn` is where it begins. */
  toLocal(
    dsn: number,
    fields: {
      readonly flags?: number
      readonly payload?: OutSegment['payload']
      readonly sack?: readonly Block[]
      readonly options?: Uint8Array
    } = {},
  ): void {
    const { writer } = this.host
    if (fields.sack !== undefined && this.sacks)
      writer.sack(fields.sack, (offset) => sequenceAt(this.tcpIsn, offset))
    const scale = Math.max(0, this.remoteSyn.scale)
    this.host.emit({
      to: 'local',
      behind: this.forwarded,
      tuple: this.tuple,
      seq: sequenceAt(this.peerIsn, dsn),
      ack: sequenceAt(this.tcpIsn, this.dataUna),
      flags: fields.flags ?? ACK,
      window: Math.min(0xffff, this.#offered >> scale),
      options: fields.options ?? writer.finish(),
      payload: fields.payload,
      access: undefined,
      segmentSize: this.forwarded ? Math.max(LEAST_SEGMENT, this.localSyn.mss - OPTION_SPACE) : 0xffff,
    })
  }

  /** Of the peer's window what the local TCP is offered. */
  get #offered(): number {
    // While it opens what its ends can do is not known.
    if (this.sacks || this.state === 'syn-sent' || this.state === 'syn-received') return this.remoteWindow
    this.room ??= new Room(this.sndMax)
    return this.room.window(this.dataUna, this.remoteWindow)
  }

  /** Asks a local TCP that had closed its window: that it opened may be lost, while its access or the daemon was away. */
  askWindow(): void {
    if (this.window >> REPLACED === 0) this.toLocal(this.tan - 1)
  }

  finToLocal(): void {
    this.toLocal(this.finRemote, { flags: ACK | FIN })
  }

  resetLocal(): void {
    this.toLocal(Math.max(this.tan, 1), { flags: ACK | RST })
  }

  /** The flags of a segment that are handed on: what belongs to one side is not. */
  static passedFlags(flags: number): number {
    return ACK | (flags & (PSH | TcpFlag.ECE | TcpFlag.CWR))
  }
}

/** The MSS that the local TCP is told: its data packets grow by a DSS and still have to fit every access. */
export function clampedMss(mss: number, mtu: number, family: 4 | 16): number {
  const headers = TCP.MIN_HEADER + (family === 4 ? 20 : 40)
  return Math.max(LEAST_SEGMENT, Math.min(mss > 0 ? mss : 536, mtu - headers) - DSS_ROOM)
}
