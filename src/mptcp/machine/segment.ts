/** TCP segments as the machine reads and writes them. */
import {
  addressLength,
  destinationAt,
  isFragment,
  offsetIn,
  Protocol,
  protocolIn,
  sourceAt,
  transportOf,
} from '../../core/ip.ts'
import { checkedTcpHeaderLength, optionLength, TCP } from '../../core/tcp.ts'
import type { Block } from '../tables.ts'
import { MPTCP_KIND, type MptcpOption, mptcpOption } from '../wire.ts'

const Kind = {
  MSS: 2,
  SCALE: 3,
  SACK_PERMITTED: 4,
  SACK: 5,
  MD5: 19,
  AO: 29,
  MPTCP: MPTCP_KIND,
} as const
const NOP = 1
export const OPTION_SPACE = 40
const MAX_SACK = 4

/** Two ends of a TCP connection or subflow, seen from this host. */
export interface Tuple {
  readonly local: Uint8Array
  readonly localPort: number
  readonly remote: Uint8Array
  readonly remotePort: number
}

/** One text for one tuple. */
export function tupleKey({ local, localPort, remote, remotePort }: Tuple): string {
  // In one piece: what is put together of pieces keeps them.
  const both = (i: number) => (local[i]! << 8) | remote[i]!
  if (local.length === 4)
    return String.fromCharCode(localPort, remotePort, both(0), both(1), both(2), both(3))
  return String.fromCharCode(localPort, remotePort, ...Array.from(local, (_, i) => both(i)))
}

/** A segment at hand. One object is reused for all; nothing of it may be kept. */
export class Segment {
  bytes: Uint8Array = new Uint8Array(0)
  /** Of the tuple as this host sees it, in the direction that `read` was told. */
  tuple: Tuple = { local: this.bytes, localPort: 0, remote: this.bytes, remotePort: 0 }
  key = ''
  seq = 0
  ack = 0
  flags = 0
  window = 0
  payloadAt = 0
  payloadLength = 0
  /** Of a SYN; 0 and -1 when the option is not there. */
  mss = 0
  scale = -1
  sackPermitted = false
  /** Options that forbid translation: MD5, AO. */
  authenticated = false
  /** Pairs of 32-bit edges. */
  readonly sack: number[] = []
  readonly mptcp: MptcpOption[] = []

  /** Reads a whole IP packet; false when it is no whole TCP segment. `outgoing`: its source is this host. */
  read(view: DataView, bytes: Uint8Array, at: number, length: number, outgoing: boolean): boolean {
    const transport = transportOf(view, at, length)
    if (transport < 0 || protocolIn(transport) !== Protocol.TCP || isFragment(transport)) return false
    const tcp = at + offsetIn(transport)
    const header = checkedTcpHeaderLength(view, tcp, at + length - tcp)
    if (header === 0) return false
    this.bytes = bytes
    const size = addressLength(view, at)
    const source = sourceAt(view, at)
    const destination = destinationAt(view, at)
    const local = outgoing ? source : destination
    const remote = outgoing ? destination : source
    const sourcePort = view.getUint16(tcp + TCP.SRC_PORT)
    const destinationPort = view.getUint16(tcp + TCP.DST_PORT)
    this.tuple = {
      local: bytes.slice(local, local + size),
      localPort: outgoing ? sourcePort : destinationPort,
      remote: bytes.slice(remote, remote + size),
      remotePort: outgoing ? destinationPort : sourcePort,
    }
    this.key = tupleKey(this.tuple)
    this.seq = view.getUint32(tcp + TCP.SEQ)
    this.ack = view.getUint32(tcp + TCP.ACK)
    this.flags = view.getUint8(tcp + TCP.FLAGS)
    this.window = view.getUint16(tcp + TCP.WINDOW)
    this.payloadAt = tcp + header
    this.payloadLength = at + length - this.payloadAt
    this.#readOptions(view, tcp + TCP.OPTIONS, tcp + header)
    return true
  }

  /** The other end is taken for the local one. */
  turn(): void {
    const { local, localPort, remote, remotePort } = this.tuple
    this.tuple = { local: remote, localPort: remotePort, remote: local, remotePort: localPort }
    this.key = tupleKey(this.tuple)
  }

  #readOptions(view: DataView, start: number, end: number): void {
    this.mss = 0
    this.scale = -1
    this.sackPermitted = false
    this.authenticated = false
    this.sack.length = 0
    this.mptcp.length = 0
    for (let at = start; ; ) {
      const size = optionLength(view, at, end)
      if (size === 0) return
      const kind = view.getUint8(at)
      if (kind === Kind.MSS && size === 4) this.mss = view.getUint16(at + 2)
      else if (kind === Kind.SCALE && size === 3) this.scale = Math.min(14, view.getUint8(at + 2))
      else if (kind === Kind.SACK_PERMITTED) this.sackPermitted = true
      else if (kind === Kind.MD5 || kind === Kind.AO) this.authenticated = true
      else if (kind === Kind.SACK && (size & 7) === 2) {
        for (let edge = at + 2; edge < at + size && this.sack.length < 2 * MAX_SACK; edge += 4)
          this.sack.push(view.getUint32(edge))
      } else if (kind === Kind.MPTCP) {
        const option = mptcpOption.decode(this.bytes, at, at + size)
        if (option.ok) this.mptcp.push(option.value)
      }
      at += size
    }
  }

  /** The first MPTCP option of a type. */
  option<T extends MptcpOption['type']>(type: T): Extract<MptcpOption, { type: T }> | undefined {
    return this.mptcp.find((each) => each.type === type) as Extract<MptcpOption, { type: T }> | undefined
  }
}

/** What the options of a SYN say beside MPTCP's. */
export interface SynOptions {
  readonly mss: number
  /** -1: none. */
  readonly scale: number
  readonly sackPermitted: boolean
}

/** Options of a segment to send, padded to whole words. */
export class OptionWriter {
  readonly #bytes = new Uint8Array(OPTION_SPACE)
  #length = 0

  get room(): number {
    return OPTION_SPACE - this.#length
  }

  syn({ mss, scale, sackPermitted }: SynOptions): this {
    if (mss > 0) this.#put(Kind.MSS, 4, mss >> 8, mss & 0xff)
    if (sackPermitted) this.#put(NOP, NOP, Kind.SACK_PERMITTED, 2)
    if (scale >= 0) this.#put(NOP, Kind.SCALE, 3, scale)
    return this
  }

  mptcp(option: MptcpOption): this {
    this.#length = mptcpOption.encode(option, this.#bytes, this.#length)
    return this.#pad()
  }

  /** As many blocks as there is room for; `edge` gives the 32-bit sequence number of an offset. */
  sack(blocks: readonly Block[], edge: (offset: number) => number): this {
    const count = Math.min(blocks.length, MAX_SACK, (this.room - 4) >> 3)
    if (count <= 0) return this
    this.#put(NOP, NOP, Kind.SACK, 2 + 8 * count)
    for (let i = 0; i < count; i++) {
      this.#word(edge(blocks[i]!.left))
      this.#word(edge(blocks[i]!.right))
    }
    return this
  }

  /** The options so far; the writer is empty again. */
  finish(): Uint8Array {
    const options = this.#bytes.slice(0, this.#length)
    this.#length = 0
    return options
  }

  #put(...values: readonly number[]): void {
    for (const value of values) this.#bytes[this.#length++] = value
  }

  #word(value: number): void {
    this.#put(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff)
  }

  #pad(): this {
    while ((this.#length & 3) !== 0) this.#bytes[this.#length++] = NOP
    return this
  }
}

/** A segment that the machine sends. */
export interface OutSegment {
  /** To the peer, or to the TCP of this host. */
  readonly to: 'wire' | 'local'
  /** The local TCP is that of a host behind this one. */
  readonly behind?: boolean
  readonly tuple: Tuple
  readonly seq: number
  readonly ack: number
  readonly flags: number
  readonly window: number
  readonly options: Uint8Array
  /** Bytes of the packet at hand, or of the machine. */
  readonly payload: Uint8Array | { readonly at: number; readonly length: number } | undefined
  /** The access that it leaves by; undefined: as the routing says. */
  readonly access: string | undefined
  /** Most payload of one packet on the wire; longer segments are cut, each with these options. */
  readonly segmentSize: number
  /** That is less than what the packet at hand is cut into. */
  readonly narrow?: boolean
}

export function payloadLength({ payload }: Pick<OutSegment, 'payload'>): number {
  return payload === undefined ? 0 : payload.length
}
