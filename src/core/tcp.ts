/**
 * The TCP header with its options (RFC 9293 §3.1, 7323, 2018), and the clamp of the maximum segment size.
 *
 *  0                   1                   2                   3
 *  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 * +-------------------------------+-------------------------------+
 * |          source port          |       destination port        |
 * +-------------------------------+-------------------------------+
 * |                        sequence number                        |
 * +---------------------------------------------------------------+
 * |                     acknowledgement number                    |
 * +-------+-------+---------------+-------------------------------+
 * | offset|   0   |C E U A P R S F|            window             |
 * +-------+-------+---------------+-------------------------------+
 * |            checksum           |         urgent pointer        |
 * +-------------------------------+-------------------------------+
 * |                 options, a multiple of 4 bytes                |
 * +---------------------------------------------------------------+
 */
import { viewOf } from './bytes.ts'
import { updateAt } from './checksum.ts'
import type { Codec } from './codec.ts'
import { type Decoded, decoded, malformed } from './result.ts'

export const TCP = {
  SRC_PORT: 0,
  DST_PORT: 2,
  SEQ: 4,
  ACK: 8,
  DATA_OFFSET: 12,
  FLAGS: 13,
  WINDOW: 14,
  CHECKSUM: 16,
  URGENT: 18,
  OPTIONS: 20,
  MIN_HEADER: 20,
  MAX_HEADER: 60,
} as const

export const TcpFlag = {
  FIN: 1,
  SYN: 2,
  RST: 4,
  PSH: 8,
  ACK: 16,
  URG: 32,
  ECE: 64,
  CWR: 128,
} as const

/** Option kinds (IANA). */
export const TcpOptionKind = {
  END: 0,
  NOP: 1,
  MSS: 2,
  WINDOW_SCALE: 3,
  SACK_PERMITTED: 4,
  SACK: 5,
  TIMESTAMPS: 8,
} as const

export type TcpOption =
  | { readonly kind: 'nop' }
  | { readonly kind: 'mss'; readonly mss: number }
  | { readonly kind: 'window-scale'; readonly shift: number }
  | { readonly kind: 'sack-permitted' }
  | { readonly kind: 'sack'; readonly blocks: readonly { readonly left: number; readonly right: number }[] }
  | { readonly kind: 'timestamps'; readonly value: number; readonly echo: number }
  | { readonly kind: 'other'; readonly type: number; readonly data: Uint8Array }

export interface TcpHeader {
  readonly srcPort: number
  readonly dstPort: number
  readonly seq: number
  readonly ack: number
  /** `TcpFlag`s. */
  readonly flags: number
  /** As on the wire, not scaled. */
  readonly window: number
  /** Not verified here: it needs the pseudo-header (checksum.ts). */
  readonly checksum: number
  readonly urgent: number
  /** In wire order; the zeros that fill the last word are not listed. */
  readonly options: readonly TcpOption[]
}

export const tcpCodec: Codec<TcpHeader> = {
  decode(bytes, at = 0, end = bytes.length): Decoded<TcpHeader> {
    if (end - at < TCP.MIN_HEADER) return malformed('TCP header cut short')
    const view = viewOf(bytes)
    const headerLength = (view.getUint8(at + TCP.DATA_OFFSET) >> 4) * 4
    if (headerLength < TCP.MIN_HEADER) return malformed('TCP data offset below 20')
    if (end - at < headerLength) return malformed('TCP options cut short')
    const options = decodeOptions(bytes, view, at + TCP.OPTIONS, at + headerLength)
    if (!options.ok) return options
    return decoded({
      srcPort: view.getUint16(at + TCP.SRC_PORT),
      dstPort: view.getUint16(at + TCP.DST_PORT),
      seq: view.getUint32(at + TCP.SEQ),
      ack: view.getUint32(at + TCP.ACK),
      flags: view.getUint8(at + TCP.FLAGS),
      window: view.getUint16(at + TCP.WINDOW),
      checksum: view.getUint16(at + TCP.CHECKSUM),
      urgent: view.getUint16(at + TCP.URGENT),
      options: options.value,
    })
  },

  encode(header, out, at = 0): number {
    const headerLength = tcpCodec.byteLength(header)
    if (headerLength > TCP.MAX_HEADER) throw new RangeError('TCP options exceed 40 bytes')
    const view = viewOf(out)
    view.setUint8(at + headerLength - 1, 0)
    view.setUint16(at + TCP.SRC_PORT, header.srcPort)
    view.setUint16(at + TCP.DST_PORT, header.dstPort)
    view.setUint32(at + TCP.SEQ, header.seq)
    view.setUint32(at + TCP.ACK, header.ack)
    view.setUint8(at + TCP.DATA_OFFSET, (headerLength / 4) << 4)
    view.setUint8(at + TCP.FLAGS, header.flags)
    view.setUint16(at + TCP.WINDOW, header.window)
    view.setUint16(at + TCP.CHECKSUM, header.checksum)
    view.setUint16(at + TCP.URGENT, header.urgent)
    let next = at + TCP.OPTIONS
    for (const option of header.options) next = encodeOption(option, out, view, next)
    out.fill(TcpOptionKind.END, next, at + headerLength)
    return at + headerLength
  },

  byteLength(header): number {
    let options = 0
    for (const option of header.options) options += optionLength(option)
    return TCP.MIN_HEADER + Math.ceil(options / 4) * 4
  },
}

function decodeOptions(bytes: Uint8Array, view: DataView, at: number, end: number): Decoded<TcpOption[]> {
  const options: TcpOption[] = []
  while (at < end) {
    const kind = view.getUint8(at)
    if (kind === TcpOptionKind.END) break
    if (kind === TcpOptionKind.NOP) {
      options.push({ kind: 'nop' })
      at++
      continue
    }
    const length = at + 1 < end ? view.getUint8(at + 1) : 0
    if (length < 2 || at + length > end) return malformed(`TCP option ${kind} has a wrong length`)
    options.push(decodeOption(bytes, view, kind, at, length))
    at += length
  }
  return decoded(options)
}

/** An option of a known kind but unexpected length is kept as `other`: receivers ignore it. */
function decodeOption(
  bytes: Uint8Array,
  view: DataView,
  kind: number,
  at: number,
  length: number,
): TcpOption {
  if (kind === TcpOptionKind.MSS && length === 4) return { kind: 'mss', mss: view.getUint16(at + 2) }
  if (kind === TcpOptionKind.WINDOW_SCALE && length === 3)
    return { kind: 'window-scale', shift: view.getUint8(at + 2) }
  if (kind === TcpOptionKind.SACK_PERMITTED && length === 2) return { kind: 'sack-permitted' }
  if (kind === TcpOptionKind.TIMESTAMPS && length === 10)
    return { kind: 'timestamps', value: view.getUint32(at + 2), echo: view.getUint32(at + 6) }
  if (kind === TcpOptionKind.SACK && length > 2 && (length - 2) % 8 === 0) {
    const blocks = []
    for (let i = at + 2; i < at + length; i += 8)
      blocks.push({ left: view.getUint32(i), right: view.getUint32(i + 4) })
    return { kind: 'sack', blocks }
  }
  return { kind: 'other', type: kind, data: bytes.slice(at + 2, at + length) }
}

function optionLength(option: TcpOption): number {
  switch (option.kind) {
    case 'nop':
      return 1
    case 'mss':
      return 4
    case 'window-scale':
      return 3
    case 'sack-permitted':
      return 2
    case 'sack':
      return 2 + 8 * option.blocks.length
    case 'timestamps':
      return 10
    case 'other':
      return 2 + option.data.length
  }
}

function encodeOption(option: TcpOption, out: Uint8Array, view: DataView, at: number): number {
  const length = optionLength(option)
  if (option.kind !== 'nop') view.setUint8(at + 1, length)
  switch (option.kind) {
    case 'nop':
      view.setUint8(at, TcpOptionKind.NOP)
      break
    case 'mss':
      view.setUint8(at, TcpOptionKind.MSS)
      view.setUint16(at + 2, option.mss)
      break
    case 'window-scale':
      view.setUint8(at, TcpOptionKind.WINDOW_SCALE)
      view.setUint8(at + 2, option.shift)
      break
    case 'sack-permitted':
      view.setUint8(at, TcpOptionKind.SACK_PERMITTED)
      break
    case 'sack': {
      view.setUint8(at, TcpOptionKind.SACK)
      let next = at + 2
      for (const block of option.blocks) {
        view.setUint32(next, block.left)
        view.setUint32(next + 4, block.right)
        next += 8
      }
      break
    }
    case 'timestamps':
      view.setUint8(at, TcpOptionKind.TIMESTAMPS)
      view.setUint32(at + 2, option.value)
      view.setUint32(at + 6, option.echo)
      break
    case 'other':
      view.setUint8(at, option.type)
      out.set(option.data, at + 2)
      break
  }
  return at + length
}

/**
 * Lowers the MSS option of a SYN at `tcpAt` to `mss` if it is larger, and updates the checksum (unless it is partial:
 * then it does not cover the options). Returns whether anything changed. Nothing is allocated; a segment that is no SYN
 * costs one comparison.
 */
export function clampMss(
  view: DataView,
  tcpAt: number,
  tcpLength: number,
  mss: number,
  partialChecksum: boolean,
): boolean {
  if (tcpLength < TCP.MIN_HEADER || (view.getUint8(tcpAt + TCP.FLAGS) & TcpFlag.SYN) === 0) return false
  const headerLength = (view.getUint8(tcpAt + TCP.DATA_OFFSET) >> 4) * 4
  if (headerLength > tcpLength) return false
  const end = tcpAt + headerLength
  let at = tcpAt + TCP.OPTIONS
  while (at + 4 <= end) {
    const kind = view.getUint8(at)
    if (kind === TcpOptionKind.END) return false
    if (kind === TcpOptionKind.NOP) {
      at++
      continue
    }
    const length = view.getUint8(at + 1)
    if (length < 2) return false
    if (kind === TcpOptionKind.MSS && length === 4) {
      const before = view.getUint16(at + 2)
      if (before <= mss) return false
      view.setUint16(at + 2, mss)
      // The checksum's words are aligned to the header: at an odd offset the option's bytes lie in two words, swapped.
      const odd = ((at - tcpAt) & 1) !== 0
      if (!partialChecksum)
        updateAt(view, tcpAt + TCP.CHECKSUM, odd ? swap16(before) : before, odd ? swap16(mss) : mss)
      return true
    }
    at += length
  }
  return false
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >> 8)
}
