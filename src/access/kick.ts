/**
 * Starts TCP again after an outage. While nothing gets through, the kernel doubles its retransmission timer: after five
 * seconds it may wait another five although the path is back. So the oldest unacknowledged segments of each connection
 * are kept, at most an initial window, and sent at the moment the path is back; their acknowledgement makes the kernel go on.
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
/** Connections of which a segment is kept, at most; each costs one packet. */
const MOST_FLOWS = 4096
/** With how many segments a connection starts again: as many as a new one may start with (RFC 6928). */
const RESTART_SEGMENTS = 10
/** A retransmission is one segment; larger ones are bulk data of a flow that is well. */
const MOST_BYTES = 9_000

/** A kept segment: a whole IP packet with complete checksums. */
export interface Segment {
  readonly bytes: Uint8Array
  /** Addresses as in the packet. */
  readonly source: Uint8Array
  readonly destination: Uint8Array
  readonly sourcePort: number
  readonly destinationPort: number
}

/**
 * Kept segments by connection: of each the `most` lowest in sequence, the newest of equal ones. While nothing is
 * acknowledged the lowest is the oldest data, which TCP sends again, and the others are what follows.
 */
class Kept {
  readonly #flows = new Map<string, { readonly segment: Segment; readonly sequence: number }[]>()
  readonly #packet = new IpPacket()
  readonly #most: number

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
    const source = u8.slice(p.srcAt, p.srcAt + p.addressLength)
    const destination = u8.slice(p.dstAt, p.dstAt + p.addressLength)
    const sourcePort = view.getUint16(p.transportAt)
    const destinationPort = view.getUint16(p.transportAt + 2)
    const key = `${source.join()} ${sourcePort} ${destination.join()} ${destinationPort}`
    const before = this.#flows.get(key) ?? []
    const last = before.at(-1)
    if (this.#most > 1 && before.length >= this.#most && last && after(sequence, last.sequence)) return
    const bytes = u8.slice(at, at + p.length)
    completeTcp(bytes)
    const segment = { bytes, source, destination, sourcePort, destinationPort }
    const others = this.#most === 1 ? [] : before.filter((each) => each.sequence !== sequence)
    const flow = [...others, { segment, sequence }]
      .sort((a, b) => (after(a.sequence, b.sequence) ? 1 : -1))
      .slice(0, this.#most)
    this.#flows.delete(key)
    if (this.#flows.size >= MOST_FLOWS) this.#flows.delete(this.#flows.keys().next().value!)
    this.#flows.set(key, flow)
  }

  /** Takes out those that `wanted` accepts, each connection's in order. */
  take(wanted: (segment: Segment) => boolean): Segment[] {
    const out: Segment[] = []
    for (const [key, flow] of this.#flows) {
      if (flow[0] === undefined || !wanted(flow[0].segment)) continue
      for (const { segment } of flow) out.push(segment)
      this.#flows.delete(key)
    }
    return out
  }
}

/** Whether sequence number `a` comes after `b`, modulo 2^32. */
function after(a: number, b: number): boolean {
  return ((a - b) | 0) > 0
}

/** Computes IP header and TCP checksum of a packet afresh, whatever stood there. */
export function completeTcp(bytes: Uint8Array): void {
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

/** A TUN device that swallows what has no way out, and keeps the oldest segments of each connection. */
export class Parking {
  readonly device: string
  readonly #tun: Tun
  readonly #arena = new Arena(128 << 10)
  readonly #at: number
  readonly #kept = new Kept(RESTART_SEGMENTS)

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

  take(wanted: (segment: Segment) => boolean): Segment[] {
    this.#drain()
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

  take(wanted: (segment: Segment) => boolean): Segment[] {
    this.#drain()
    return this.#kept.take(wanted)
  }

  close(): void {
    stopReadable(this.#fd)
    closeFd(this.#fd)
  }
}
