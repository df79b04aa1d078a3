/**
 * What a download over Multipath TCP does on the wire of the host that receives it: data sequence numbers that arrive and data
 * acknowledgements that leave, against time and by access. tcpdump captures, this reads its file.
 */
import { readFileSync } from 'node:fs'
import { TcpFlag } from '../src/core/tcp.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import { Segment, type Tuple, tupleKey } from '../src/mptcp/machine/segment.ts'
import type { Program } from './hosts.ts'
import { monotonicMs } from './programs/program.ts'
import type { ScenarioContext } from './scenario.ts'

usesPrograms('tcpdump')

/** Of a capture of all interfaces (LINKTYPE_LINUX_SLL2). */
const FILE_HEADER = 24
const RECORD_HEADER = 16
const COOKED = { LINK_TYPE: 276, PROTOCOL: 0, INTERFACE: 4, PACKET_TYPE: 10, HEADER: 20 } as const
const OUTGOING = 4
/** Cooked, IPv6 and TCP header with all options. */
const SNAP = 140
const MAGIC = 0xa1b2c3d4

/** At a moment (monotonic ms), the byte after the last one of a packet, or the acknowledged one; counted from the first byte seen. */
export interface TracePoint {
  readonly at: number
  readonly access: string
  readonly offset: number
}

/** Payload that arrives: from the byte `from` on. */
export interface DataPoint extends TracePoint {
  readonly from: number
}

export interface DataTrace {
  readonly data: readonly DataPoint[]
  readonly acks: readonly TracePoint[]
}

/** A capture that runs. */
export class DataCapture {
  readonly #tcpdump: Program
  readonly #file: string
  readonly #interfaces: ReadonlyMap<number, string>

  private constructor(tcpdump: Program, file: string, interfaces: ReadonlyMap<number, string>) {
    this.#tcpdump = tcpdump
    this.#file = file
    this.#interfaces = interfaces
  }

  /** Captures TCP of a remote port on every interface of a host. */
  static async start(
    context: ScenarioContext,
    role: string,
    port: number,
    file: string,
  ): Promise<DataCapture> {
    const args = ['-i', 'any', '-y', 'LINUX_SLL2', '-s', `${SNAP}`, '-B', '16384', '-U', '-Z', 'root']
    const tcpdump = await context.lab.programs.start(role, 'sh', [
      '-c',
      'exec tcpdump "$@" 2>&1',
      'tcpdump',
      ...args,
      '-w',
      file,
      `tcp port ${port}`,
    ])
    await tcpdump.expect((line) => line.includes('listening on'), 10_000)
    const interfaces = new Map(
      context.lab
        .rtnl(role)
        .links()
        .map(({ index, name }) => [index, name]),
    )
    return new DataCapture(tcpdump, file, interfaces)
  }

  async finish(): Promise<DataTrace> {
    await this.#tcpdump.stop()
    return readTrace(readFileSync(this.#file), this.#interfaces, monotonicMs() - Date.now())
  }
}

/** `clock`: from the capture's clock to the monotonic one, ms. */
export function readTrace(
  file: Uint8Array,
  interfaces: ReadonlyMap<number, string>,
  clock: number,
): DataTrace {
  const view = new DataView(file.buffer, file.byteOffset, file.length)
  if (view.getUint32(0, true) !== MAGIC || view.getUint32(20, true) !== COOKED.LINK_TYPE)
    throw new Error('not a capture of all interfaces')
  const reader = new TraceReader()
  for (let at = FILE_HEADER; at + RECORD_HEADER <= file.length; ) {
    const seconds = view.getUint32(at, true)
    const micros = view.getUint32(at + 4, true)
    const captured = view.getUint32(at + 8, true)
    const length = view.getUint32(at + 12, true)
    const packet = at + RECORD_HEADER
    at = packet + captured
    if (at > file.length) break
    const access = interfaces.get(view.getUint32(packet + COOKED.INTERFACE))
    if (access === undefined) continue
    const outgoing = view.getUint8(packet + COOKED.PACKET_TYPE) === OUTGOING
    const time = seconds * 1000 + micros / 1000 + clock
    reader.read(view, file, packet + COOKED.HEADER, length - COOKED.HEADER, outgoing, access, time)
  }
  return reader
}

class TraceReader implements DataTrace {
  readonly data: DataPoint[] = []
  readonly acks: TracePoint[] = []
  readonly #segment = new Segment()
  /** Initial sequence numbers of the peer, by subflow. */
  readonly #initial = new Map<string, number>()
  /** The lower word of the first data sequence number. */
  #first: number | undefined

  read(
    view: DataView,
    bytes: Uint8Array,
    at: number,
    length: number,
    outgoing: boolean,
    access: string,
    time: number,
  ): void {
    const segment = this.#segment
    if (!segment.read(view, bytes, at, length, outgoing)) return
    if (outgoing) this.#sent(access, time)
    else this.#received(segment.tuple, access, time)
  }

  #sent(access: string, time: number): void {
    const ack = this.#segment.option('dss')?.ack
    if (ack === undefined || this.#first === undefined) return
    this.acks.push({ at: time, access, offset: (ack.low - this.#first) | 0 })
  }

  #received(tuple: Tuple, access: string, time: number): void {
    const { seq, flags, payloadLength } = this.#segment
    if ((flags & TcpFlag.SYN) !== 0) this.#initial.set(tupleKey(tuple), seq)
    const initial = this.#initial.get(tupleKey(tuple))
    const map = this.#segment.option('dss')?.map
    if (initial === undefined || map === undefined || payloadLength === 0) return
    this.#first ??= map.dsn.low
    const inMap = ((seq - initial) | 0) - map.ssn
    const from = ((map.dsn.low - this.#first) | 0) + inMap
    this.data.push({ at: time, access, from, offset: from + payloadLength })
  }
}

/** Moments at which data arrived that the program can be given: with all before them. */
export function deliveries({ data }: DataTrace): number[] {
  const moments: number[] = []
  let ahead: { from: number; offset: number }[] = []
  let next = data[0]?.from ?? 0
  for (const { at, from, offset } of data) {
    if (offset <= next) continue
    if (from > next) {
      ahead.push({ from, offset })
      continue
    }
    next = offset
    if (ahead.length > 0) {
      for (const each of ahead.sort((a, b) => a.from - b.from))
        if (each.from <= next) next = Math.max(next, each.offset)
      ahead = ahead.filter((each) => each.offset > next)
    }
    moments.push(at)
  }
  return moments
}

/** Moments at which the acknowledgement advanced. */
export function advances({ acks }: DataTrace): number[] {
  const moments: number[] = []
  let highest = Number.NEGATIVE_INFINITY
  for (const { at, offset } of acks)
    if (offset > highest) {
      highest = offset
      moments.push(at)
    }
  return moments
}
