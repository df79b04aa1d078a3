/**
 * Starts TCP again after an outage. While nothing gets through, the kernel doubles its retransmission timer: after five
 * seconds it may wait another five although the path is back. So the segments that it sends meanwhile are kept, and sent
 * at the moment the path is back; their acknowledgement makes the kernel go on.
 *
 * They were delayed and not lost. Of a bulk transfer they are sent with the timestamps that they had: the echo tells the
 * sender that its timeouts were spurious (Eifel detection, RFC 3522), and it goes on with the window that it had (RFC
 * 4015) instead of starting from one segment. Of a few segments the timestamps are brought up to date, so that the outage
 * is not taken for a round-trip time.
 *
 * `ParkingDevice` is for the end that has lost its way out: packets from its addresses that no route takes end in a TUN device.
 * `SegmentWatch` is for the other end, whose packets leave as ever: a packet socket sees the retransmissions to addresses
 * under watch. Both belong to the main thread and cost nothing while there is no outage.
 */
import { viewOf } from '../../core/bytes.ts'
import {
  addressLength,
  ipHeaderLength,
  ipLength,
  ipVersion,
  isFragment,
  offsetIn,
  Protocol,
  protocolIn,
  sourceAt,
  transportOf,
} from '../../core/ip.ts'
import { IPV4, sealIpv4Header } from '../../core/ipv4.ts'
import { IPV6 } from '../../core/ipv6.ts'
import {
  checkedTcpHeaderLength,
  findOption,
  seqAfter,
  TCP,
  TcpFlag,
  TcpOption,
  tcpFlags,
  tcpSeq,
} from '../../core/tcp.ts'
import { completeChecksum } from '../../core/transport.ts'
import { Arena } from '../../linux/arena.ts'
import { Ancillary, ClassicBpf } from '../../linux/classic-bpf.ts'
import { inNamespace } from '../../linux/netns.ts'
import { PacketSocket } from '../../linux/raw-packets.ts'
import { onReadable, stopReadable } from '../../linux/readable.ts'
import type { Rtnl } from '../../linux/rtnetlink/types.ts'
import { openTun, TUN_BUFFER, type Tun, VNET_HEADER } from '../../linux/tun.ts'

/** Connections of which a segment is kept, at most; each costs one packet. */
const MOST_FLOWS = 4096
/** Segments of one connection that are kept, and bytes of all: what a window holds, of a few large ones. */
const MOST_SEGMENTS = 512
const MOST_KEPT_BYTES = 16 << 20
/** A retransmission is one segment; larger ones are bulk data of a flow that is well. */
const MOST_BYTES = 9_000
/** Addresses under watch, at most. */
const MOST_ADDRESSES = 100
/** Length of the option: kind, length, value, echo. */
const TIMESTAMPS_LENGTH = 10
/** What a packet socket calls a packet that leaves (linux/if_packet.h). */
const PACKET_OUTGOING = 4

/** A kept segment: a whole IP packet, whose checksums may be incomplete. */
export interface Segment {
  readonly bytes: Uint8Array
  /** Addresses as in the packet. */
  readonly source: Uint8Array
  readonly destination: Uint8Array
  readonly sourcePort: number
  readonly destinationPort: number
  readonly sequence: number
  /** Whether it takes up no sequence numbers: it only acknowledges. */
  readonly empty: boolean
  /** When it was sent, milliseconds of `performance.now()`. */
  readonly at: number
}

/**
 * Kept segments by connection, the first that was sent of each sequence number. When TCP sends one again all before it
 * have arrived. With `most` 1 the newest segment takes the place of the one before. What takes up no sequence numbers is no
 * repetition and takes nothing's place: it is kept while there is nothing else. A reset ends the connection.
 */
export class KeptSegments {
  readonly #flows = new Map<string, Map<number, Segment>>()
  readonly #most: number
  #bytes = 0

  constructor(most: number) {
    this.#most = most
  }

  /** Keeps the TCP segment at `at`; anything else is ignored. Copies. */
  keep(u8: Uint8Array, at: number, length: number): void {
    const view = viewOf(u8)
    const whole = ipLength(view, at, length)
    if (whole === 0 || whole > MOST_BYTES) return
    const found = transportOf(view, at, whole)
    if (found < 0 || protocolIn(found) !== Protocol.TCP || isFragment(found)) return
    const tcp = at + offsetIn(found)
    const header = checkedTcpHeaderLength(view, tcp, whole - offsetIn(found))
    if (header === 0) return
    const flags = tcpFlags(view, tcp)
    const sequence = tcpSeq(view, tcp)
    const source = sourceAt(view, at)
    const destination = source + addressLength(view, at)
    const end = destination + addressLength(view, at)
    const key = String.fromCharCode(...u8.subarray(source, end)) + view.getUint32(tcp)
    if ((flags & TcpFlag.RST) !== 0) {
      this.#remove(key)
      return
    }
    const empty = whole === offsetIn(found) + header && (flags & (TcpFlag.SYN | TcpFlag.FIN)) === 0
    const flow = this.#flow(key)
    for (const segment of flow.values()) {
      if (empty && !segment.empty) return
      if (segment.empty || this.#most === 1) this.#drop(flow, segment)
    }
    if (flow.has(sequence)) {
      for (const segment of flow.values()) if (seqAfter(sequence, segment.sequence)) this.#drop(flow, segment)
      return
    }
    if (flow.size >= this.#most || this.#bytes + whole > MOST_KEPT_BYTES) return
    this.#bytes += whole
    flow.set(sequence, {
      bytes: u8.slice(at, at + whole),
      source: u8.slice(source, destination),
      destination: u8.slice(destination, end),
      sourcePort: view.getUint16(tcp + TCP.SRC_PORT),
      destinationPort: view.getUint16(tcp + TCP.DST_PORT),
      sequence,
      empty,
      at: performance.now(),
    })
  }

  #flow(key: string): Map<number, Segment> {
    let flow = this.#flows.get(key)
    if (flow === undefined) {
      const [oldest] = this.#flows.keys()
      if (oldest !== undefined && this.#flows.size >= MOST_FLOWS) this.#remove(oldest)
      flow = new Map()
      this.#flows.set(key, flow)
    }
    return flow
  }

  #drop(flow: Map<number, Segment>, segment: Segment): void {
    flow.delete(segment.sequence)
    this.#bytes -= segment.bytes.length
  }

  #remove(key: string): void {
    for (const { bytes } of this.#flows.get(key)?.values() ?? []) this.#bytes -= bytes.length
    this.#flows.delete(key)
  }

  get empty(): boolean {
    return this.#flows.size === 0
  }

  /** Takes out the connections that `wanted` accepts, the segments of each in order. */
  take(wanted: (segment: Segment) => boolean): Segment[][] {
    const out: Segment[][] = []
    for (const [key, flow] of this.#flows) {
      const segments = [...flow.values()].sort((a, b) => (seqAfter(a.sequence, b.sequence) ? 1 : -1))
      if (segments[0] === undefined || !wanted(segments[0])) continue
      out.push(segments)
      this.#remove(key)
    }
    return out
  }
}

/** The same segment, its checksums complete. */
export function completed(segment: Segment): Segment {
  completeTcp(segment.bytes)
  return segment
}

/** Computes IP header and TCP checksum of a kept segment afresh, whatever stood there. */
function completeTcp(bytes: Uint8Array): void {
  const view = viewOf(bytes)
  const found = transportOf(view, 0, bytes.length)
  if (found < 0) return
  if (ipVersion(view, 0) === 4) sealIpv4Header(view, 0, ipHeaderLength(view, 0))
  completeChecksum(view, 0, bytes.length, offsetIn(found), Protocol.TCP)
}

/** The segment with other addresses, of the same family. */
export function readdressed(segment: Segment, source: Uint8Array, destination: Uint8Array): Segment {
  const bytes = segment.bytes.slice()
  const at = sourceAt(viewOf(bytes), 0)
  bytes.set(source, at)
  bytes.set(destination, at + source.length)
  completeTcp(bytes)
  return { ...segment, bytes, source, destination }
}

/**
 * The segment with its timestamp (RFC 7323) brought to `now`, as if it were sent then; of a sender whose clock counts
 * milliseconds, as Linux's does. One less, so that what the kernel sends next is not taken for older.
 */
export function restamped(segment: Segment, now = performance.now()): Segment {
  const bytes = segment.bytes.slice()
  const view = viewOf(bytes)
  const found = transportOf(view, 0, bytes.length)
  if (found < 0) return segment
  const tcp = offsetIn(found)
  const header = checkedTcpHeaderLength(view, tcp, bytes.length - tcp)
  const option = findOption(view, tcp, header, TcpOption.TIMESTAMPS, TIMESTAMPS_LENGTH)
  const elapsed = Math.max(0, Math.floor(now - segment.at) - 1)
  if (option >= 0) view.setUint32(option + 2, view.getUint32(option + 2) + elapsed)
  completeTcp(bytes)
  return { ...segment, bytes, at: now }
}

/** A TUN device that takes what has no way out, and keeps the segments of each connection. */
export class ParkingDevice {
  readonly device: string
  readonly #tun: Tun
  readonly #arena = new Arena(128 << 10)
  readonly #at: number
  readonly #kept = new KeptSegments(MOST_SEGMENTS)

  constructor(device: string, rtnl: Rtnl, netns?: string) {
    this.device = device
    this.#tun = inNamespace(netns, () => openTun(this.#arena, { name: device }))
    this.#at = this.#arena.reserve(TUN_BUFFER)
    this.#tun.setOffloads('checksums')
    rtnl.setLink(device, { up: true })
    onReadable(this.#tun.fd, () => this.#drain())
  }

  #drain(): void {
    for (;;) {
      const length = this.#tun.read(this.#at, TUN_BUFFER)
      if (length <= VNET_HEADER) return
      this.#kept.keep(this.#arena.u8, this.#at + VNET_HEADER, length - VNET_HEADER)
    }
  }

  /** Whether there is anything to take. */
  any(): boolean {
    this.#drain()
    return !this.#kept.empty
  }

  take(wanted: (segment: Segment) => boolean): Segment[][] {
    return this.#kept.take(wanted)
  }

  close(): void {
    stopReadable(this.#tun.fd)
    this.#tun.close()
  }
}

/** Sees the TCP segments that leave this host for the addresses under watch, and keeps the newest of each connection. */
export class SegmentWatch {
  readonly #socket: PacketSocket
  readonly #kept = new KeptSegments(1)
  #watched = ''

  constructor(netns?: string) {
    const keep = (bytes: Uint8Array, length: number): void => this.#kept.keep(bytes, 0, length)
    this.#socket = new PacketSocket(segmentFilter([]), keep, netns)
  }

  /** Watches these addresses from now on, no others. */
  watch(addresses: readonly Uint8Array[]): void {
    const key = addresses.map((a) => a.join()).join(' ')
    if (key === this.#watched) return
    this.#watched = key
    this.#socket.filter(segmentFilter(addresses))
  }

  /** Whether there is anything to take. */
  any(): boolean {
    this.#socket.drain()
    return !this.#kept.empty
  }

  take(wanted: (segment: Segment) => boolean): Segment[][] {
    return this.#kept.take(wanted)
  }

  close(): void {
    this.#socket.close()
  }
}

/**
 * Classic BPF that lets through what is outgoing, small, TCP, and to one of the addresses (of IPv6 the last four bytes
 * decide).
 */
export function segmentFilter(addresses: readonly Uint8Array[]): Uint8Array {
  const code = new ClassicBpf()
  if (addresses.length === 0) return code.return(0).finish()
  code.load(2, Ancillary.PACKET_TYPE).jumpIf('eq', PACKET_OUTGOING, undefined, 'drop')
  code.loadLength().jumpIf('gt', MOST_BYTES, 'drop')
  code.load(1, IPV4.VERSION_IHL).and(0xf0).jumpIf('eq', 0x60, 'six')
  code.load(1, IPV4.PROTOCOL).jumpIf('eq', Protocol.TCP, undefined, 'drop').load(4, IPV4.DST).jump('address')
  code.label('six').load(1, IPV6.NEXT_HEADER).jumpIf('eq', Protocol.TCP, undefined, 'drop')
  code.load(4, IPV6.DST + 12)
  code.label('address')
  for (const address of addresses.slice(0, MOST_ADDRESSES))
    code.jumpIf('eq', viewOf(address).getUint32(address.length - 4), 'take')
  code.label('drop').return(0)
  return code.label('take').return(0xffff).finish()
}
