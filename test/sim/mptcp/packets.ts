/** Packets of a simulation: of its hosts, and of somebody who writes them by hand. */
import { TcpFlag } from '../../../src/core/tcp.ts'
import { OptionWriter, type OutSegment, type Tuple } from '../../../src/mptcp/machine/segment.ts'
import { longestPacket, writePacket } from '../../../src/mptcp/packets.ts'
import type { Block } from '../../../src/mptcp/tables.ts'
import type { MptcpOption } from '../../../src/mptcp/wire.ts'

const NOTHING = new Uint8Array(0)
/** Memory (bytes) that is made at once for many packets: one each takes most of a simulation's time. */
const SLAB = 1 << 20
let slab = new Uint8Array(SLAB)
let view = new DataView(slab.buffer)
let used = 0

function makeRoom(length: number): void {
  if (used + length <= slab.length) return
  slab = new Uint8Array(Math.max(SLAB, length))
  view = new DataView(slab.buffer)
  used = 0
}

/** So many zeros for a packet. */
export function take(length: number): Uint8Array {
  makeRoom(length)
  used += length
  return slab.subarray(used - length, used)
}

/** A whole packet, as `packetOf` of src/mptcp/packets.ts makes it. */
export function packetOf(
  segment: OutSegment,
  source: Uint8Array = NOTHING,
  skip = 0,
  most = 0xffff,
): Uint8Array {
  makeRoom(longestPacket(segment, skip, most))
  return take(writePacket(view, slab, used, segment, source, skip, most, 0))
}

export interface Forged {
  /** As the receiver sees it. */
  readonly tuple: Tuple
  readonly seq: number
  readonly ack?: number
  readonly flags?: number
  readonly options?: readonly MptcpOption[]
  /** Blocks, as sequence numbers. */
  readonly sack?: readonly Block[]
  readonly payload?: Uint8Array
  readonly window?: number
  /** A SYN that offers no SACK. */
  readonly plain?: boolean
  /** A SYN with MPTCP's options alone. */
  readonly bare?: boolean
  /** Of the window, in a SYN; -1: none. */
  readonly scale?: number
  /** Of a SYN; 0: none. */
  readonly mss?: number
  /** A SYN with an option of TCP-MD5 in place of its MSS. */
  readonly md5?: boolean
}

export function forge({
  tuple,
  seq,
  ack = 0,
  flags = TcpFlag.ACK,
  options = [],
  sack = [],
  payload,
  window = 1000,
  plain = false,
  bare = false,
  scale = 7,
  mss = 1460,
  md5 = false,
}: Forged): Uint8Array {
  const writer = new OptionWriter()
  if ((flags & TcpFlag.SYN) !== 0 && !bare) writer.syn({ mss, scale, sackPermitted: !plain })
  for (const option of options) writer.mptcp(option)
  writer.sack(sack, (edge) => edge)
  const segment: OutSegment = {
    to: 'local',
    tuple,
    seq,
    ack,
    flags,
    window,
    options: writer.finish(),
    payload,
    access: undefined,
    segmentSize: 0xffff,
  }
  const packet = packetOf(segment)
  if (md5) packet[packet.length - (payload?.length ?? 0) - segment.options.length] = 19
  return packet
}
