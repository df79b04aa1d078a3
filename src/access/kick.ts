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
 * `Parking` is for the end that has lost its way out: packets from its addresses that no route takes end in a TUN device.
 * `SegmentWatch` is for the other end, whose packets leave as ever: a packet socket sees the retransmissions to addresses
 * under watch. Both belong to the main thread and cost nothing while there is no outage.
 */

import { viewOf } from '../core/bytes.ts'
import { addSum, finish, pseudoSum } from '../core/checksum.ts'
import { IpPacket, Protocol } from '../core/ip.ts'
import { Arena } from '../linux/arena.ts'
import { check, declare } from '../linux/libc.ts'
import { inNamespace } from '../linux/netns.ts'
import { onReadable, stopReadable } from '../linux/readable.ts'
import type { Rtnl } from '../linux/rtnetlink/types.ts'
import { openTun, TUN_BUFFER, type Tun, VNET_HEADER } from '../linux/tun.ts'

const socket = declare<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
)
const closeFd = declare<(fd: number) => number>('int close(int fd)')
const sendTo = declare<
  (fd: number, bytes: Uint8Array, length: number, flags: number, to: Uint8Array, size: number) => number
>('long sendto(int fd, void *buf, size_t n, int flags, void *to, unsigned int size)')
const receive = declare<(fd: number, out: Uint8Array, length: number, flags: number) => number>(
  'long recv(int fd, _Out_ uint8_t *buf, size_t n, int flags)',
)
const setFilter = declare<
  (fd: number, level: number, name: number, value: Uint8Array, size: number) => number
>('int setsockopt(int fd, int level, int name, void *value, unsigned int size)')

const bindSocket = declare<(fd: number, name: Uint8Array, size: number) => number>(
  'int bind(int fd, void *name, unsigned int size)',
)

const AF_INET = 2
const AF_INET6 = 10
const AF_PACKET = 17
const SOCK_DGRAM = 2
const SOCK_RAW = 3
const SOCK_NONBLOCK = 0x800
const SOCK_CLOEXEC = 0x80000
const IPPROTO_RAW = 255
const MSG_DONTWAIT = 0x40
const SOL_SOCKET = 1
const SO_ATTACH_FILTER = 26
const ETH_P_ALL_BE = 0x0300
/** Kind of the TCP option. */
const TCP_TIMESTAMPS = 8
/** Connections of which a segment is kept, at most; each costs one packet. */
const MOST_FLOWS = 4096
/** Segments of one connection that are kept, and bytes of all: what a window holds, of a few large ones. */
const MOST_SEGMENTS = 512
const MOST_KEPT_BYTES = 16 << 20
/** A retransmission is one segment; larger ones are bulk data of a flow that is well. */
const MOST_BYTES = 9_000

/** A kept segment: a whole IP packet, whose checksums may be incomplete. */
export interface Segment {
  readonly bytes: Uint8Array
  /** Addresses as in the packet. */
  readonly source: Uint8Array
  readonly destination: Uint8Array
  readonly sourcePort: number
  readonly destinationPort: number
  readonly sequence: number
  /** When it was sent, milliseconds of `performance.now()`. */
  readonly at: number
}

/**
 * Kept segments by connection, the first that was sent of each sequence number. When TCP sends one again all before it
 * have arrived. With `most` 1 the newest segment takes the place of the one before.
 */
class Kept {
  readonly #flows = new Map<string, Map<number, Segment>>()
  readonly #packet = new IpPacket()
  readonly #most: number
  #bytes = 0

  constructor(most: number) {
    this.#most = most
  }

  /** Keeps the TCP segment at `at`; anything else is ignored. Copies. */
  keep(u8: Uint8Array, at: number, length: number): void {
    const view = viewOf(u8)
    const p = this.#packet
    if (length > MOST_BYTES || !p.parse(view, at, length)) return
    if (p.protocol !== Protocol.TCP || p.isFragment || p.transportLength < 20) return
    const sequence = view.getUint32(p.transportAt + 4)
    const key = String.fromCharCode(...u8.subarray(p.srcAt, p.srcAt + 2 * p.addressLength))
    const flow = this.#flow(key + view.getUint32(p.transportAt))
    if (this.#most === 1) for (const segment of flow.values()) this.#drop(flow, segment)
    if (flow.has(sequence)) {
      for (const segment of flow.values()) if (after(sequence, segment.sequence)) this.#drop(flow, segment)
      return
    }
    if (flow.size >= this.#most || this.#bytes + p.length > MOST_KEPT_BYTES) return
    const bytes = u8.slice(at, at + p.length)
    this.#bytes += bytes.length
    flow.set(sequence, {
      bytes,
      source: u8.slice(p.srcAt, p.srcAt + p.addressLength),
      destination: u8.slice(p.dstAt, p.dstAt + p.addressLength),
      sourcePort: view.getUint16(p.transportAt),
      destinationPort: view.getUint16(p.transportAt + 2),
      sequence,
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
      const segments = [...flow.values()].sort((a, b) => (after(a.sequence, b.sequence) ? 1 : -1))
      if (segments[0] === undefined || !wanted(segments[0])) continue
      out.push(segments)
      this.#remove(key)
    }
    return out
  }
}

/** Whether sequence number `a` comes after `b`, modulo 2^32. */
function after(a: number, b: number): boolean {
  return ((a - b) | 0) > 0
}

/** The same segment, its checksums complete. */
export function completed(segment: Segment): Segment {
  completeTcp(segment.bytes)
  return segment
}

/** Computes IP header and TCP checksum of a packet afresh, whatever stood there. */
function completeTcp(bytes: Uint8Array): void {
  const view = viewOf(bytes)
  const p = new IpPacket()
  if (!p.parse(view, 0, bytes.length)) return
  if (p.version === 4) {
    view.setUint16(10, 0)
    view.setUint16(10, finish(addSum(view, 0, p.transportAt)))
  }
  view.setUint16(p.transportAt + 16, 0)
  const sum = addSum(
    view,
    p.transportAt,
    p.transportLength,
    pseudoSum(view, 0, Protocol.TCP, p.transportLength),
  )
  view.setUint16(p.transportAt + 16, finish(sum))
}

/** The segment with other addresses, of the same family. */
export function readdressed(segment: Segment, source: Uint8Array, destination: Uint8Array): Segment {
  const bytes = segment.bytes.slice()
  const at = source.length === 4 ? 12 : 8
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
  const p = new IpPacket()
  if (!p.parse(view, 0, bytes.length)) return segment
  const end = p.transportAt + 4 * (bytes[p.transportAt + 12]! >> 4)
  const elapsed = Math.max(0, Math.floor(now - segment.at) - 1)
  for (let at = p.transportAt + 20; at < end; ) {
    const kind = bytes[at]!
    const length = bytes[at + 1]!
    if (kind === TCP_TIMESTAMPS && at + 10 <= end) view.setUint32(at + 2, view.getUint32(at + 2) + elapsed)
    if (kind === 0 || (kind !== 1 && length < 2)) break
    at += kind === 1 ? 1 : length
  }
  completeTcp(bytes)
  return { ...segment, bytes, at: now }
}

/** Sends whole IP packets as if a local socket had: they pass the OUTPUT hook and are routed. */
export class RawSender {
  readonly #v4: number
  readonly #v6: number

  constructor(netns?: string) {
    const open = (family: number): number => socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)
    this.#v4 = inNamespace(netns, () => check(open(AF_INET), 'open a raw socket'))
    this.#v6 = inNamespace(netns, () => open(AF_INET6))
  }

  /** False when the kernel refuses it; a lost segment is TCP's to repair. */
  send(segment: Segment): boolean {
    const { destination, bytes } = segment
    const name = new Uint8Array(28)
    const v4 = destination.length === 4
    name[0] = v4 ? AF_INET : AF_INET6
    name.set(destination, v4 ? 4 : 8)
    const fd = v4 ? this.#v4 : this.#v6
    return fd >= 0 && sendTo(fd, bytes, bytes.length, 0, name, v4 ? 16 : 28) >= 0
  }

  close(): void {
    closeFd(this.#v4)
    if (this.#v6 >= 0) closeFd(this.#v6)
  }
}

/** A TUN device that takes what has no way out, and keeps the segments of each connection. */
export class Parking {
  readonly device: string
  readonly #tun: Tun
  readonly #arena = new Arena(128 << 10)
  readonly #at: number
  readonly #kept = new Kept(MOST_SEGMENTS)

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
  readonly #fd: number
  readonly #buffer = new Uint8Array(65_536)
  readonly #kept = new Kept(1)
  readonly #program = new Arena(4096)
  #watched = ''

  constructor(netns?: string) {
    this.#fd = inNamespace(netns, () =>
      check(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'open a packet socket'),
    )
    this.#attach([])
    this.#bind(netns)
    onReadable(this.#fd, () => this.#drain())
  }

  #bind(netns: string | undefined): void {
    const name = new Uint8Array(20)
    name[0] = AF_PACKET
    viewOf(name).setUint16(2, ETH_P_ALL_BE, true)
    inNamespace(netns, () => check(bindSocket(this.#fd, name, 20), 'bind a packet socket'))
  }

  /** Watches these addresses from now on, no others. */
  watch(addresses: readonly Uint8Array[]): void {
    const key = addresses.map((a) => a.join()).join(' ')
    if (key === this.#watched) return
    this.#watched = key
    this.#attach(addresses)
  }

  /** A classic BPF program: outgoing, TCP, small, and to one of the addresses (of IPv6 the last four bytes decide). */
  #attach(addresses: readonly Uint8Array[]): void {
    const words = addresses.slice(0, 100).map((a) => viewOf(a).getUint32(a.length - 4))
    const program: [code: number, jt: number, jf: number, k: number][] = []
    if (words.length === 0) program.push([0x06, 0, 0, 0])
    else {
      const n = words.length
      program.push([0x28, 0, 0, 0xfffff004]) // ldh packet type
      program.push([0x15, 1, 0, 4]) // outgoing
      program.push([0x06, 0, 0, 0])
      program.push([0x80, 0, 0, 0]) // ld length
      program.push([0x25, 0, 1, MOST_BYTES])
      program.push([0x06, 0, 0, 0])
      program.push([0x30, 0, 0, 0]) // ldb version and header length
      program.push([0x54, 0, 0, 0xf0])
      program.push([0x15, 4, 0, 0x60])
      program.push([0x30, 0, 0, 9]) // ldb IPv4 protocol
      program.push([0x15, 0, n + 5, Protocol.TCP]) // else drop
      program.push([0x20, 0, 0, 16]) // ld IPv4 destination
      program.push([0x05, 0, 0, 3])
      program.push([0x30, 0, 0, 6]) // ldb IPv6 next header
      program.push([0x15, 0, n + 1, Protocol.TCP])
      program.push([0x20, 0, 0, 36]) // ld end of the IPv6 destination
      for (const [i, word] of words.entries()) program.push([0x15, n - i, 0, word])
      program.push([0x06, 0, 0, 0])
      program.push([0x06, 0, 0, 0xffff])
    }
    const code = this.#program
    for (const [i, [op, jt, jf, k]] of program.entries()) {
      code.view.setUint16(8 * i, op, true)
      code.u8[8 * i + 2] = jt
      code.u8[8 * i + 3] = jf
      code.view.setUint32(8 * i + 4, k, true)
    }
    const option = new Uint8Array(16)
    const view = viewOf(option)
    view.setUint16(0, program.length, true)
    view.setBigUint64(8, BigInt(code.base), true)
    check(setFilter(this.#fd, SOL_SOCKET, SO_ATTACH_FILTER, option, 16), 'filter a packet socket')
  }

  #drain(): void {
    for (;;) {
      const length = receive(this.#fd, this.#buffer, this.#buffer.length, MSG_DONTWAIT)
      if (length <= 0) return
      this.#kept.keep(this.#buffer, 0, length)
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
    stopReadable(this.#fd)
    closeFd(this.#fd)
  }
}
