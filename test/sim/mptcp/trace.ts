/** What happened in a run, for people: each packet on the wire and each event of a proxy. */
import { TcpFlag } from '../../../src/core/tcp.ts'
import { Segment, type Tuple } from '../../../src/mptcp/machine/segment.ts'
import type { MptcpOption } from '../../../src/mptcp/wire.ts'

const LETTERS = [
  [TcpFlag.SYN, 'S'],
  [TcpFlag.FIN, 'F'],
  [TcpFlag.RST, 'R'],
  [TcpFlag.PSH, 'P'],
  [TcpFlag.ACK, '.'],
] as const

/** Sequence numbers are those since the SYN that passed, data sequence numbers the lower half as they are. */
export class Trace {
  readonly #lines: string[] = []
  readonly #segment = new Segment()
  readonly #firsts = new Map<string, number>()
  readonly #most: number

  /** Keeps the newest lines, so many at most. */
  constructor(most = 400) {
    this.#most = most
  }

  note(now: number, text: string): void {
    this.#lines.push(`${now.toFixed(1)} ${text}`)
    if (this.#lines.length > 2 * this.#most) this.#lines.splice(0, this.#most)
  }

  packet(now: number, bytes: Uint8Array, toServer: boolean, fate: string): void {
    const segment = this.#segment
    segment.read(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), bytes, 0, bytes.length, true)
    const { tuple, seq, ack, flags, window, payloadLength, sack, mptcp } = segment
    const [from, to] = [name(tuple, 'local'), name(tuple, 'remote')]
    if ((flags & TcpFlag.SYN) !== 0) this.#firsts.set(`${from} ${to}`, seq)
    const since = (value: number, way: string) => (value - (this.#firsts.get(way) ?? 0)) >>> 0
    const letters = LETTERS.flatMap(([flag, letter]) => ((flags & flag) === 0 ? [] : [letter])).join('')
    const numbers = `${since(seq, `${from} ${to}`)}+${payloadLength} ack ${since(ack, `${to} ${from}`)} win ${window}`
    const blocks = sack.map((edge) => since(edge, `${to} ${from}`)).join(',')
    const rest = [blocks && `sack ${blocks}`, ...mptcp.map(text)].filter((each) => each !== '').join(' ')
    this.note(now, `${toServer ? '>' : '<'} ${from} ${to} ${letters} ${numbers} ${rest}${fate}`)
  }

  toString(): string {
    return this.#lines.slice(-this.#most).join('\n')
  }
}

function name(tuple: Tuple, side: 'local' | 'remote'): string {
  return side === 'local'
    ? `${tuple.local.join('.')}:${tuple.localPort}`
    : `${tuple.remote.join('.')}:${tuple.remotePort}`
}

function text(option: MptcpOption): string {
  if (option.type !== 'dss') return option.type
  const { ack, map, dataFin } = option
  return `dss${ack ? ` ack ${ack.low}` : ''}${map ? ` ${map.dsn.low} at ${map.ssn}+${map.length}` : ''}${dataFin ? ' fin' : ''}`
}
