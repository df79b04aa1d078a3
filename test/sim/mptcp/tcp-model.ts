/**
 * A TCP of one connection in virtual time, as far as the proxy can tell it from a real one: handshake, cumulative and selective
 * acknowledgements, retransmission by what was sent later and by timer, FIN both ways. Its stream is a function of the offset, so
 * that every byte that arrives is checked where it arrives.
 */
import { seeded } from '../../../lab/seeded.ts'
import { TcpFlag } from '../../../src/core/tcp.ts'
import {
  OptionWriter,
  type OutSegment,
  Segment,
  type Tuple,
  tupleKey,
} from '../../../src/mptcp/machine/segment.ts'
import { offsetOf, sequenceAt } from '../../../src/mptcp/machine/sequence.ts'
import { packetOf } from './packets.ts'

const { SYN, ACK, FIN, RST, PSH } = TcpFlag
const RTO = 200
const MAX_RTO = 4000
const REORDER = 8
const SCALE = 7

interface Sent {
  readonly start: number
  readonly end: number
  sentAt: number
  sacked: boolean
  again: boolean
}

/** After so many bytes, a prime, a stream repeats itself. */
const PERIOD = 1_048_573
const LONGEST = 0xffff
const streams = new Map<number, Buffer>()

/** The bytes of a stream: a period, and as much more as a packet may have. */
function bytesOf(stream: number): Buffer {
  const known = streams.get(stream)
  if (known !== undefined) return known
  const bytes = Buffer.alloc(PERIOD + LONGEST)
  const random = seeded(stream)
  for (let i = 0; i < PERIOD; i++) bytes[i] = Math.floor(random() * 256)
  bytes.copyWithin(PERIOD, 0, LONGEST)
  streams.set(stream, bytes)
  return bytes
}

/** The byte of a stream at an offset. */
export function byteAt(stream: number, offset: number): number {
  return bytesOf(stream)[offset % PERIOD]!
}

export interface TcpInit {
  readonly tuple: Tuple
  readonly isn: number
  readonly sack: boolean
  /** Bytes to send. */
  readonly bytes: number
  /** Names the streams: own, and that of the peer. */
  readonly stream: number
  readonly peerStream: number
  readonly mss: number
  /** Most segments in one packet, which the device cuts; what is sent again has other boundaries. */
  readonly burst?: number
  readonly random?: () => number
  /** Segments that it has under way at most. */
  readonly flight?: number
  /** Of its receive buffer (bytes). */
  readonly buffer?: number
  /** Blocks of SACK in one packet. */
  readonly blocks?: number
  /** An option that it does not know may be on what arrives. */
  readonly takesOptions?: boolean
  /** A whole IP packet; `sndNxt`: the next sequence number before it was sent. */
  readonly emit: (packet: Uint8Array, sndNxt: number) => void
}

export class TcpModel {
  readonly key: string
  readonly #init: TcpInit
  readonly #writer = new OptionWriter()
  readonly #segment = new Segment()
  state: 'closed' | 'syn-sent' | 'syn-received' | 'established' | 'reset' = 'closed'
  #peerIsn = 0
  #mss = 0
  #sack = false
  #una = 1
  #next = 1
  #sent: Sent[] = []
  #window = 65_535
  #peerScale = 0
  #rto = RTO
  #timer = Number.POSITIVE_INFINITY
  #received = 1
  #blocks: { left: number; right: number }[] = []
  #finPeer = -1
  #dups = 0
  /** Its FIN came after the peer's. */
  #isLast = false
  /** What it answered with a reset: no connection of this host. */
  resets = 0
  #read = 1
  #edge = 1
  #windowAt = 0
  #stalled = false
  #aborted = false
  problem = ''
  retransmissions = 0
  /** Smoothed round trip (ms); 0 while not measured. */
  srtt = 0

  constructor(init: TcpInit) {
    this.#init = init
    this.key = tupleKey(init.tuple)
    this.#mss = init.mss
  }

  get acknowledged(): number {
    return this.#una - 1
  }

  get received(): number {
    return this.#received - 1
  }

  /** Everything is sent and acknowledged, FIN included, and the peer's FIN has come. */
  get done(): boolean {
    return this.#una === this.#init.bytes + 2 && this.#finPeer >= 0 && this.#received > this.#finPeer
  }

  get tuple(): Tuple {
    return this.#init.tuple
  }

  get segmentSize(): number {
    return this.#mss
  }

  /** The end that was closed first waits for packets that are late (TIME-WAIT); the other is gone at once, and its port with it. */
  get #isGone(): boolean {
    return this.#aborted || (this.done && this.#isLast)
  }

  get timeout(): number {
    return this.#timer
  }

  /** The program reads nothing. */
  get stalled(): boolean {
    return this.#stalled
  }

  /** A host answers so what is for no connection that it has (RFC 9293 §3.10.7.1). */
  #refuse({ tuple, flags, seq, ack }: Segment): void {
    if ((flags & RST) !== 0) return
    this.resets++
    const numbers =
      (flags & ACK) === 0
        ? { seq: 0, ack: (seq + 1) >>> 0, flags: RST | ACK }
        : { seq: ack, ack: 0, flags: RST }
    const reset = { ...numbers, window: 0, options: new Uint8Array(0), payload: undefined }
    const segment: OutSegment = { ...reset, to: 'wire', tuple, access: undefined, segmentSize: 0xffff }
    this.#init.emit(packetOf(segment), 0)
  }

  connect(now: number): void {
    this.state = 'syn-sent'
    this.#syn(SYN)
    this.#timer = now + this.#rto
  }

  #syn(flags: number): void {
    const options = this.#writer
      .syn({ mss: this.#init.mss, scale: SCALE, sackPermitted: this.#init.sack })
      .finish()
    this.#emit(0, flags, options)
  }

  /** The program reads nothing, until it does again. */
  stall(on: boolean): void {
    const before = this.#offer()
    this.#stalled = on
    if (on) return
    this.#read = this.#received
    if (this.state === 'established' && this.#offer() >= 2 * before) this.#ack()
  }

  /** The program closes it at once. */
  abort(): void {
    if (this.state === 'established') this.#ack(ACK | RST)
    this.#aborted = true
    this.state = 'reset'
    this.#timer = Number.POSITIVE_INFINITY
  }

  /** What it takes beyond what it has; the edge of that never goes back. */
  #offer(): number {
    const { buffer = 1 << 20, mss } = this.#init
    if (!this.#stalled) this.#read = this.#received
    const free = buffer - (this.#received - this.#read)
    return Math.max(this.#edge - this.#received, free < mss ? 0 : free, 0)
  }

  #emit(
    offset: number,
    flags: number,
    options: Uint8Array,
    payload?: Uint8Array,
    sndNxt: number = this.#next,
  ): void {
    const { tuple, isn } = this.#init
    const window = Math.min(0xffff, Math.ceil(this.#offer() / 2 ** SCALE))
    if ((flags & SYN) === 0) this.#edge = Math.max(this.#edge, this.#received + window * 2 ** SCALE)
    const segment: OutSegment = {
      to: 'wire',
      tuple,
      seq: sequenceAt(isn, offset),
      ack: (flags & ACK) === 0 ? 0 : sequenceAt(this.#peerIsn, this.#received),
      flags,
      window: (flags & SYN) !== 0 ? 65_535 : window,
      options,
      payload,
      access: undefined,
      segmentSize: 0xffff,
    }
    this.#init.emit(packetOf(segment), sequenceAt(isn, sndNxt))
  }

  #ack(flags: number = ACK, offset = this.#next, payload?: Uint8Array, sndNxt: number = this.#next): void {
    if (this.#sack)
      this.#writer.sack(
        this.#blocks.slice(0, this.#init.blocks ?? 3).map(({ left, right }) => ({ left, right })),
        (edge) => sequenceAt(this.#peerIsn, edge),
      )
    this.#emit(offset, flags, this.#writer.finish(), payload, sndNxt)
  }

  handle(packet: Uint8Array, now: number): void {
    const segment = this.#segment
    const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
    if (!segment.read(view, packet, 0, packet.length, false)) throw new Error('no TCP')
    if (segment.key !== this.key || this.#isGone) {
      this.#refuse(segment)
      return
    }
    if ((segment.flags & RST) !== 0) {
      this.state = 'reset'
      this.#timer = Number.POSITIVE_INFINITY
      return
    }
    if ((segment.flags & SYN) !== 0) {
      this.#handshake(segment, now)
      return
    }
    // After a fallback it may be there on a SYN/ACK, which is to be ignored.
    if (segment.mptcp.length > 0 && !this.#init.takesOptions)
      this.problem ||= 'an MPTCP option reached the TCP'
    if (this.state === 'syn-received') this.state = 'established'
    if (this.state !== 'established') return
    const seq = offsetOf(segment.seq, this.#peerIsn, this.#received)
    const announced = segment.window << this.#peerScale
    const ack = offsetOf(segment.ack, this.#init.isn, this.#una)
    if (
      ack > this.#una ||
      seq > this.#windowAt ||
      (this.#una === ack && this.#windowAt === seq && announced > this.#window)
    ) {
      this.#window = announced
      this.#windowAt = seq
    }
    this.#takeAck(segment, now)
    this.#takeData(segment)
    this.push(now)
  }

  #handshake(segment: Segment, now: number): void {
    const answer = (segment.flags & ACK) !== 0
    if (answer && this.state === 'established') {
      this.#ack()
      return
    }
    if (!answer && this.state === 'established') return
    this.#peerIsn = segment.seq
    this.#mss = Math.min(this.#init.mss, segment.mss)
    this.#sack = this.#init.sack && segment.sackPermitted
    this.#peerScale = Math.max(0, segment.scale)
    this.#window = segment.window
    if (answer) {
      this.state = 'established'
      this.#rto = RTO
      this.#timer = Number.POSITIVE_INFINITY
      this.#ack()
      this.push(now)
    } else {
      this.state = 'syn-received'
      this.#syn(SYN | ACK)
      this.#timer = now + this.#rto
    }
  }

  #takeAck(segment: Segment, now: number): void {
    const ack = offsetOf(segment.ack, this.#init.isn, this.#una)
    if (ack > this.#next) {
      this.problem ||= `acknowledges ${ack}, of which only ${this.#next} were sent`
      return
    }
    let newest = Number.NEGATIVE_INFINITY
    const edges: number[] = segment.sack.map((edge) => offsetOf(edge, this.#init.isn, this.#una))
    for (const each of this.#sent) {
      let hit = each.end <= ack
      // Linux ignores a block that begins at what is next to be acknowledged (tcp_is_sackblock_valid).
      for (let i = 0; i + 1 < edges.length; i += 2)
        hit ||= edges[i]! > ack && each.start >= edges[i]! && each.end <= edges[i + 1]!
      if (hit && !each.sacked) {
        each.sacked = true
        if (!each.again) {
          const sample = now - each.sentAt
          this.srtt = this.srtt === 0 ? sample : 0.875 * this.srtt + 0.125 * sample
        }
        newest = Math.max(newest, each.sentAt)
      }
    }
    if (ack > this.#una) {
      this.#una = ack
      this.#rto = RTO
      this.#dups = 0
      this.#sent = this.#sent.filter(({ end }) => end > ack)
      this.#timer = this.#sent.length > 0 ? now + this.#rto : Number.POSITIVE_INFINITY
    } else if (!this.#sack && segment.payloadLength === 0 && ++this.#dups === 3 && this.#sent.length > 0)
      this.#resend(this.#sent[0]!, now)
    const lost = this.#sent.filter((each) => !each.sacked && each.sentAt < newest - REORDER)
    for (let i = 0; i < lost.length; ) i += this.#resendSome(lost, i, now)
  }

  /** Sends neighbours in one packet, as many as chance says; the answer is how many. */
  #resendSome(lost: readonly Sent[], from: number, now: number): number {
    const { burst = 1, random = () => 0, bytes } = this.#init
    const most = 1 + Math.floor(random() * burst)
    let count = 1
    while (count < most && lost[from + count]?.start === lost[from + count - 1]!.end) {
      if (lost[from + count]!.start > bytes) break
      count++
    }
    if (lost[from]!.start > bytes) count = 1
    for (const each of lost.slice(from, from + count)) {
      this.retransmissions++
      each.sentAt = now
      each.again = true
    }
    this.#transmit({ start: lost[from]!.start, end: lost[from + count - 1]!.end })
    return count
  }

  #takeData(segment: Segment): void {
    const start = offsetOf(segment.seq, this.#peerIsn, this.#received)
    const end = start + segment.payloadLength
    if (segment.payloadLength > 0 && start >= Math.max(this.#edge, this.#received + this.#offer())) {
      this.#ack()
      return
    }
    // What it has already it drops, whatever is in there.
    const known = Math.max(0, this.#received - start)
    if (known < segment.payloadLength && !this.#agrees(segment, start + known, known))
      this.problem ||= `bytes from ${start + known} are wrong`
    if ((segment.flags & FIN) !== 0) {
      if (this.#finPeer >= 0 && this.#finPeer !== end) this.problem ||= 'two FINs at different places'
      this.#finPeer = end
    }
    if (segment.payloadLength > 0 || (segment.flags & FIN) !== 0) {
      if (end > this.#received) this.#blocks.unshift({ left: Math.max(start, this.#received), right: end })
      this.#merge()
      if (this.#finPeer === this.#received) this.#received++
      this.#ack()
    } else if (end < this.#received) this.#ack() // a probe
  }

  /** Whether the bytes of a segment from `skip` are those of the peer's stream from `offset`. */
  #agrees({ bytes, payloadAt, payloadLength }: Segment, offset: number, skip: number): boolean {
    const from = offset % PERIOD
    const stream = bytesOf(this.#init.peerStream)
    const end = payloadAt + payloadLength
    return stream.compare(bytes, payloadAt + skip, end, from, from + payloadLength - skip) === 0
  }

  #merge(): void {
    const sorted = [...this.#blocks].sort((a, b) => a.left - b.left)
    const out: { left: number; right: number }[] = []
    for (const { left, right } of sorted) {
      if (left <= this.#received) {
        this.#received = Math.max(this.#received, right)
        continue
      }
      const last = out.at(-1)
      if (last !== undefined && left <= last.right) last.right = Math.max(last.right, right)
      else out.push({ left, right })
    }
    this.#blocks = out.reverse()
  }

  /** Sends what window and stream allow. */
  push(now: number): void {
    if (this.state !== 'established') return
    const { bytes, burst = 1, random = () => 0, flight = 64 } = this.#init
    while (this.#sent.length < flight && this.#next <= bytes + 1) {
      const first = this.#next
      const most = 1 + Math.floor(random() * burst)
      for (let count = 0; count < most && this.#sent.length < flight; count++) {
        const start = this.#next
        if (start > bytes && count > 0) break
        const length = Math.min(this.#mss, bytes + 1 - start, this.#una + this.#window - start)
        if (length <= 0 && start <= bytes) break
        const end = start <= bytes ? start + length : start + 1
        this.#sent.push({ start, end, sentAt: now, sacked: false, again: false })
        this.#next = end
        if (start > bytes) break
      }
      if (this.#next === first) break
      this.#isLast = this.#next > bytes + 1 && this.#finPeer >= 0 && this.#received > this.#finPeer
      this.#transmit({ start: first, end: this.#next }, first)
      if (this.#timer === Number.POSITIVE_INFINITY) this.#timer = now + this.#rto
    }
    // The window is shut: it asks, when it has waited.
    if (this.#sent.length === 0 && this.#next <= bytes && this.#timer === Number.POSITIVE_INFINITY)
      this.#timer = now + this.#rto
  }

  #transmit({ start, end }: { readonly start: number; readonly end: number }, sndNxt = this.#next): void {
    const { bytes, stream } = this.#init
    if (start > bytes) {
      this.#ack(ACK | FIN, start)
      return
    }
    const from = start % PERIOD
    this.#ack(ACK | PSH, start, bytesOf(stream).subarray(from, from + end - start), sndNxt)
  }

  #resend(each: Sent, now: number): void {
    this.retransmissions++
    each.sentAt = now
    each.again = true
    this.#transmit(each)
  }

  handleTimeout(now: number): void {
    if (now < this.#timer) return
    this.#rto = Math.min(MAX_RTO, this.#rto * 2)
    this.#timer = now + this.#rto
    if (this.state === 'syn-sent') this.#syn(SYN)
    else if (this.state === 'syn-received') this.#syn(SYN | ACK)
    else if (this.#sent.length > 0) {
      // What was selectively acknowledged counts as lost only when it should have been acknowledged by now (tcp_timeout_mark_lost in Linux).
      if (this.#sent[0]!.sacked) for (const each of this.#sent) each.sacked = false
      this.#resend(this.#sent[0]!, now)
    } else if (this.state === 'established' && this.#next <= this.#init.bytes) this.#ack(ACK, this.#una - 1)
    else this.#timer = Number.POSITIVE_INFINITY
  }
}
