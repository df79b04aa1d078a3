/** Packets of somebody who writes them by hand. */
import { TcpFlag } from '../../../src/core/tcp.ts'
import { OptionWriter, type OutSegment, type Tuple } from '../../../src/mptcp/machine/segment.ts'
import { packetOf } from '../../../src/mptcp/packets.ts'
import type { Block } from '../../../src/mptcp/tables.ts'
import type { MptcpOption } from '../../../src/mptcp/wire.ts'

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
  const packet = packetOf(segment, new Uint8Array(0)).slice()
  if (md5) packet[packet.length - (payload?.length ?? 0) - segment.options.length] = 19
  return packet
}
