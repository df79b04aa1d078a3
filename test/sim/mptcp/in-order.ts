/**
 * How a native peer takes what comes on a subflow: beyond a hole nothing of it reaches the connection, which the DATA_ACK shows, and
 * selective acknowledgements say what is there. A proxy hands that on at once.
 */
import { viewOf } from '../../../src/core/bytes.ts'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { OptionWriter, Segment } from '../../../src/mptcp/machine/segment.ts'
import { sequenceAt } from '../../../src/mptcp/machine/sequence.ts'
import { type Block, merge } from '../../../src/mptcp/tables.ts'
import type { DssOption } from '../../../src/mptcp/wire.ts'
import { packetOf } from './packets.ts'

const { SYN, RST, ACK } = TcpFlag

interface Flow {
  readonly isn: number
  /** Of the other direction: what is sent next. */
  seq: number
  window: number
  /** What comes next, and what waits behind it. */
  next: number
  waiting: { readonly start: number; readonly end: number; readonly packet: Uint8Array }[]
}

export class InOrder {
  readonly #flows = new Map<string, Flow>()
  readonly #segment = new Segment()
  readonly #writer = new OptionWriter()
  #ack: DssOption['ack']

  /** What this host sends. */
  sent(packet: Uint8Array): void {
    const segment = this.#read(packet, true)
    const flow = this.#flows.get(segment.key)
    this.#ack = segment.option('dss')?.ack ?? this.#ack
    if (flow === undefined) return
    flow.seq = (segment.seq + segment.payloadLength + ((segment.flags & SYN) === 0 ? 0 : 1)) >>> 0
    flow.window = segment.window
  }

  /** What the connection gets now of what comes, and what is answered. */
  take(packet: Uint8Array): { readonly now: readonly Uint8Array[]; readonly answer: Uint8Array | undefined } {
    const segment = this.#read(packet, false)
    const { key, flags, seq, ack, payloadLength: length, tuple } = segment
    const pass = { now: [packet], answer: undefined }
    if ((flags & SYN) !== 0) this.#flows.set(key, { isn: seq, seq: 0, window: 0, next: 1, waiting: [] })
    const flow = this.#flows.get(key)
    if (flow === undefined || length === 0 || (flags & (SYN | RST)) !== 0) return pass
    const start = (seq - flow.isn) >>> 0
    const end = start + length
    if (end <= flow.next) return pass
    if (start > flow.next) {
      flow.waiting.push({ start, end, packet })
      flow.waiting.sort((a, b) => a.start - b.start)
      const blocks: Block[] = merge(flow.waiting.map((each) => ({ left: each.start, right: each.end })))
      if (this.#ack !== undefined) this.#writer.mptcp({ type: 'dss', dataFin: false, ack: this.#ack })
      this.#writer.sack(blocks, (offset) => sequenceAt(flow.isn, offset))
      const numbers = {
        seq: flow.seq === 0 ? ack : flow.seq,
        ack: sequenceAt(flow.isn, flow.next),
        flags: ACK,
      }
      const rest = {
        window: flow.window,
        options: this.#writer.finish(),
        payload: undefined,
        access: undefined,
      }
      const answer = packetOf({ to: 'wire', tuple, ...numbers, ...rest, segmentSize: 0xffff })
      return { now: [], answer }
    }
    flow.next = end
    const now = [packet]
    while ((flow.waiting[0]?.start ?? Number.POSITIVE_INFINITY) <= flow.next) {
      const each = flow.waiting.shift()!
      if (each.end > flow.next) now.push(each.packet)
      flow.next = Math.max(flow.next, each.end)
    }
    return { now, answer: undefined }
  }

  #read(packet: Uint8Array, outgoing: boolean): Segment {
    this.#segment.read(viewOf(packet), packet, 0, packet.length, outgoing)
    return this.#segment
  }
}
