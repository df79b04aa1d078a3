/**
 * The TCP header where it lies, with its options (RFC 9293 §3.1, 7323, 2018), and the clamp of the maximum segment size.
 * Nothing is allocated. `tcp` is the header's first byte; functions that take `available` or `end` accept any bytes.
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
import { updateAt } from './checksum.ts'

/** Offsets from the header's first byte. */
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
export const TcpOption = { END: 0, NOP: 1, MSS: 2, TIMESTAMPS: 8 } as const

const { SEQ, DATA_OFFSET, FLAGS, CHECKSUM, OPTIONS, MIN_HEADER } = TCP
const { SYN } = TcpFlag
const { END, NOP, MSS } = TcpOption

/** Header and options in bytes, as the header says; valid from 20 on. */
export function tcpHeaderLength(view: DataView, tcp: number): number {
  return (view.getUint8(tcp + DATA_OFFSET) >> 4) << 2
}

/** The same of any bytes of which `available` are there; 0 when the header is malformed or cut short. */
export function checkedTcpHeaderLength(view: DataView, tcp: number, available: number): number {
  if (available < MIN_HEADER) return 0
  const length = (view.getUint8(tcp + DATA_OFFSET) >> 4) << 2
  return length >= MIN_HEADER && length <= available ? length : 0
}

export function tcpSeq(view: DataView, tcp: number): number {
  return view.getUint32(tcp + SEQ)
}

export function tcpFlags(view: DataView, tcp: number): number {
  return view.getUint8(tcp + FLAGS)
}

/** Whether sequence number `a` comes after `b`, modulo 2^32 (RFC 9293 §3.4). */
export function seqAfter(a: number, b: number): boolean {
  return ((a - b) | 0) > 0
}

/**
 * The length of the option at `at`, 1 of a NOP; 0 at the end of options, and where one is malformed or runs past `end`:
 * a walk over all options starts at `tcp + TCP.OPTIONS`, adds this length, and ends at 0.
 */
export function optionLength(view: DataView, at: number, end: number): number {
  if (at >= end) return 0
  const kind = view.getUint8(at)
  if (kind === NOP) return 1
  if (kind === END || at + 1 >= end) return 0
  const length = view.getUint8(at + 1)
  return length >= 2 && length <= end - at ? length : 0
}

/** Where the first option of a kind and length lies in a header of `headerLength` bytes; -1 when there is none. */
export function findOption(
  view: DataView,
  tcp: number,
  headerLength: number,
  kind: number,
  length: number,
): number {
  const end = tcp + headerLength
  for (let at = tcp + OPTIONS; ; ) {
    const size = optionLength(view, at, end)
    if (size === 0) return -1
    if (size === length && view.getUint8(at) === kind) return at
    at += size
  }
}

/**
 * Writes 16 bits at `at`, anywhere in the segment, and brings its checksum up to date. The checksum's words are aligned to
 * the header: at an odd distance the two bytes lie in two words, swapped.
 */
export function setCovered16(view: DataView, tcp: number, at: number, value: number): void {
  const before = view.getUint16(at)
  view.setUint16(at, value)
  const odd = ((at - tcp) & 1) !== 0
  updateAt(view, tcp + CHECKSUM, odd ? swap16(before) : before, odd ? swap16(value) : value)
}

/**
 * Lowers the MSS option of a SYN to `mss` if it is larger, and updates the checksum (unless it is partial: then it does
 * not cover the options). Returns whether anything changed. A segment that is no SYN costs one comparison.
 */
export function clampMss(
  view: DataView,
  tcp: number,
  available: number,
  mss: number,
  partialChecksum: boolean,
): boolean {
  if (available < MIN_HEADER || (view.getUint8(tcp + FLAGS) & SYN) === 0) return false
  const option = findOption(view, tcp, checkedTcpHeaderLength(view, tcp, available), MSS, 4)
  if (option < 0 || view.getUint16(option + 2) <= mss) return false
  if (partialChecksum) view.setUint16(option + 2, mss)
  else setCovered16(view, tcp, option + 2, mss)
  return true
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >> 8)
}
