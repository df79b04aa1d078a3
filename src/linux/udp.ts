/**
 * UDP sockets in batches: sends equal datagrams in one call (UDP_SEGMENT), receives coalesced ones (UDP_GRO). Never
 * fragments by default (DF; the tunnel finds each path's MTU itself). On a multihomed host a socket can report the local
 * address of a datagram, and answer from it (PKTINFO).
 */
import { EINVAL, EIO } from '../core/errno.ts'
import { GodwitError } from '../core/errors.ts'
import type { Arena } from './arena.ts'
import { closeFd, declare, errno, KernelError } from './libc.ts'
import { AF_INET, AF_INET6, NAME_SIZE } from './sockaddr.ts'

export const libcSocket = declare<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
)
const libcBind = declare<(fd: number, name: Buffer, length: number) => number>(
  'int bind(int fd, uint8_t *name, int length)',
)
const getsockname = declare<(fd: number, name: Buffer, length: Buffer) => number>(
  'int getsockname(int fd, _Out_ uint8_t *name, uint8_t *length)',
)
const setsockopt = declare<
  (fd: number, level: number, option: number, value: Buffer, length: number) => number
>('int setsockopt(int fd, int level, int option, uint8_t *value, int length)')
const libcSendmsg = declare<(fd: number, message: number, flags: number) => number>(
  'long sendmsg(int fd, size_t message, int flags)',
)
const libcRecvmmsg = declare<
  (fd: number, messages: number, count: number, flags: number, timeout: number) => number
>('int recvmmsg(int fd, size_t messages, unsigned int count, int flags, size_t timeout)')

const SOCK_DGRAM_NONBLOCK_CLOEXEC = 2 | 0o4000 | 0o2000000
export const SOL_SOCKET = 1
const SO_SNDBUF = 7
const SO_RCVBUF = 8
const SO_BINDTODEVICE = 25
const SO_SNDBUFFORCE = 32
const SO_RCVBUFFORCE = 33
export const SO_MARK = 36
const IPPROTO_IP = 0
const IP_TOS = 1
const IP_PKTINFO = 8
const IP_MTU_DISCOVER = 10
const IP_RECVTOS = 13
const IPPROTO_IPV6 = 41
const IPV6_MTU_DISCOVER = 23
const IPV6_MTU = 24
const IPV6_V6ONLY = 26
const IPV6_RECVPKTINFO = 49
const IPV6_PKTINFO = 50
const IPV6_RECVTCLASS = 66
const IPV6_TCLASS = 67
const PMTUDISC_DONT = 0
const PMTUDISC_PROBE = 3
/** RFC 8200 §5: every IPv6 path carries it. */
const IPV6_LEAST_MTU = 1280
const IPPROTO_UDP = 17
const UDP_SEGMENT = 103
const UDP_GRO = 104
const MSG_DONTWAIT = 0x40
const BUFFER_BYTES = 8 << 20

/**
 * Sets Don't Fragment on every datagram, also beyond the path MTU known to the kernel. Below 0 on failure; errno gives
 * the reason.
 */
export function forbidFragments(fd: number, family: number): number {
  const four = setOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
  return family === AF_INET6 ? setOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE) : four
}

/** Most bytes and datagrams of one send: what fits an IPv6 or IPv4 packet, and the smallest kernel limit on segments. */
export const SEND_BYTES = 65_480
export const SEND_SEGMENTS = 64
/** One receive buffer: the largest coalesced datagram. */
export const RECEIVE_BYTES = 65_536

const CONTROL_BYTES = 128
const MMSGHDR = 64
/** sockaddr_in and sockaddr_in6. */
const NAME4_SIZE = 16
const NAME6_SIZE = 28
/** Memory of a socket for sending: msghdr, iovec, control messages. */
const SEND_AREA = 128 + CONTROL_BYTES

export interface UdpOptions {
  /** 6 without `address` is dual-stack: IPv4 endpoints appear mapped to the kernel, plain to the caller. */
  readonly family: 4 | 6
  /** 4 or 16 bytes; any address when absent. */
  readonly address?: Uint8Array
  /** 0 or absent: the kernel chooses. */
  readonly port?: number
  /** SO_BINDTODEVICE: packets leave and arrive by this interface only. */
  readonly device?: string
  /** SO_MARK, for policy routing. */
  readonly mark?: number
  /** Tell the local address of each datagram, and answer from it. */
  readonly multihomed?: boolean
}

/** Where `receive` puts datagrams. Offsets are into the arena of the socket. */
export class ReceiveBatch {
  readonly capacity: number
  /** How many messages the last receive filled. */
  count = 0
  /** Where message i begins, and its length; it is datagrams of `segment[i]` bytes, the last may be shorter. */
  readonly at: Int32Array
  readonly length: Int32Array
  readonly segment: Int32Array
  /** Where the name (32 bytes, see sockaddr.ts) of message i's sender is. */
  readonly name: Int32Array
  /** Traffic class of the packets of message i; the kernel joins only those of one class. */
  readonly trafficClass: Uint8Array
  /** Where the local address (16 bytes, IPv4 mapped) of message i is; 0: not known. */
  readonly local: Int32Array
  /** Kernel structures: mmsghdr array, iovecs, control buffers. */
  readonly headers: number
  readonly control: number
  readonly locals: number

  constructor(arena: Arena, capacity: number) {
    this.capacity = capacity
    this.at = new Int32Array(capacity)
    this.length = new Int32Array(capacity)
    this.segment = new Int32Array(capacity)
    this.name = new Int32Array(capacity)
    this.local = new Int32Array(capacity)
    this.trafficClass = new Uint8Array(capacity)
    this.headers = arena.reserve(MMSGHDR * capacity)
    const iovecs = arena.reserve(16 * capacity)
    this.control = arena.reserve(CONTROL_BYTES * capacity)
    const locals = arena.reserve(16 * capacity)
    for (let i = 0; i < capacity; i++) {
      this.at[i] = arena.reserve(RECEIVE_BYTES + 64)
      this.name[i] = arena.reserve(NAME_SIZE)
      this.local[i] = locals + 16 * i
      const header = this.headers + MMSGHDR * i
      arena.setUint64(header, arena.base + this.name[i]!)
      arena.setUint64(header + 16, arena.base + iovecs + 16 * i)
      arena.setUint64(header + 24, 1)
      arena.setUint64(header + 32, arena.base + this.control + CONTROL_BYTES * i)
      arena.setUint64(iovecs + 16 * i, arena.base + this.at[i]!)
      arena.setUint64(iovecs + 16 * i + 8, RECEIVE_BYTES)
    }
    this.locals = locals
  }
}

/** A UDP socket over packet memory. Results are a count, or minus an errno. */
export interface UdpSocket {
  readonly fd: number
  readonly family: 4 | 6
  /** The local port it is bound to. */
  readonly port: number
  /** The kernel hands over datagrams of one size in one message (UDP_GRO). */
  readonly coalesces: boolean
  /** Batches that the kernel refused and that then went out datagram by datagram; errno of the last refusal, or 0. */
  readonly split: number
  readonly splitError: number
  /** Traffic class (DSCP and ECN) of what is sent from now on. */
  trafficClass: number
  /** Its network carries no IPv4 but translates it: what such addresses have in front (12 bytes, sockaddr.ts). */
  nat64?: Uint8Array | undefined
  /** Fills the batch with what has arrived; -EAGAIN when nothing has. */
  receive(batch: ReceiveBatch): number
  /**
   * Sends `length` bytes at `at` as datagrams of `segment` bytes (the last may be shorter; segment 0: one datagram) to
   * the name at `nameAt`, from the 16-byte local address at `localAt` (0: the kernel chooses). Returns 0 or -errno;
   * -EMSGSIZE when a datagram is larger than the interface carries.
   */
  send(nameAt: number, localAt: number, at: number, length: number, segment: number): number
  /**
   * As `send`, for datagrams larger than the way is known to carry: they may be cut on the way (IPv4) or are cut here to
   * 1,280 bytes (IPv6). Some system calls each: for the rare packet that could not go otherwise.
   */
  sendFragmented(nameAt: number, localAt: number, at: number, length: number, segment: number): number
  close(): void
}

/** Opens and binds a socket. Throws PORT_TAKEN or a KernelError. */
export function openUdp(arena: Arena, options: UdpOptions): UdpSocket {
  const { family } = options
  const op = `open UDP socket on port ${options.port ?? 'any'}${options.device ? ` of ${options.device}` : ''}`
  const fd = libcSocket(family === 4 ? AF_INET : AF_INET6, SOCK_DGRAM_NONBLOCK_CLOEXEC, 0)
  if (fd < 0) throw new KernelError(op, errno())
  const set = (level: number, option: number, value: number) => setOption(fd, level, option, value)
  const must = (what: string, result: number) => {
    if (result < 0) throw new KernelError(`${op}: ${what}`, errno())
  }
  try {
    if (family === 6) must('IPV6_V6ONLY', set(IPPROTO_IPV6, IPV6_V6ONLY, options.address ? 1 : 0))
    if (options.device !== undefined) must(`bind to ${options.device}`, bindToDevice(fd, options.device))
    if (options.mark !== undefined) must('SO_MARK', set(SOL_SOCKET, SO_MARK, options.mark))
    must('IP_MTU_DISCOVER', set(IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE))
    if (family === 6) must('IPV6_MTU_DISCOVER', set(IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE))
    const coalesces = set(IPPROTO_UDP, UDP_GRO, 1) === 0
    // For ECN marks. Where it is refused, marks on the way are not seen.
    set(IPPROTO_IP, IP_RECVTOS, 1)
    if (family === 6) set(IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
    if (options.multihomed) {
      if (family === 4) must('IP_PKTINFO', set(IPPROTO_IP, IP_PKTINFO, 1))
      else must('IPV6_RECVPKTINFO', set(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1))
    }
    if (set(SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES) < 0) set(SOL_SOCKET, SO_RCVBUF, BUFFER_BYTES)
    if (set(SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES) < 0) set(SOL_SOCKET, SO_SNDBUF, BUFFER_BYTES)
    return new KernelUdp(arena, fd, family, bindLocal(fd, options, op), coalesces)
  } catch (error) {
    closeFd(fd)
    throw error
  }
}

export function setOption(fd: number, level: number, option: number, value: number): number {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32LE(value | 0)
  return setsockopt(fd, level, option, bytes, 4)
}

export function bindToDevice(fd: number, device: string): number {
  const name = Buffer.from(`${device}\0`)
  return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, name.length)
}

export function bindTo(fd: number, { family, port, address }: UdpOptions): number {
  const name = Buffer.alloc(28)
  name.writeUInt16LE(family === 4 ? AF_INET : AF_INET6, 0)
  name.writeUInt16BE(port ?? 0, 2)
  if (address) name.set(address, family === 4 ? 4 : 8)
  return libcBind(fd, name, family === 4 ? 16 : 28)
}

function bindLocal(fd: number, options: UdpOptions, op: string): number {
  if (bindTo(fd, options) < 0) {
    const number = errno()
    if (number === 98)
      throw new GodwitError('PORT_TAKEN', `UDP port ${options.port} is in use by another process`, {
        op,
        hint: `find it with: ss -ulpn 'sport = :${options.port}'`,
      })
    throw new KernelError(op, number)
  }
  const length = Buffer.alloc(4)
  length.writeUInt32LE(28)
  const bound = Buffer.alloc(28)
  if (getsockname(fd, bound, length) < 0) throw new KernelError(op, errno())
  return bound.readUInt16BE(2)
}

class KernelUdp implements UdpSocket {
  readonly fd: number
  readonly family: 4 | 6
  readonly port: number
  readonly coalesces: boolean
  trafficClass = 0
  nat64: Uint8Array | undefined
  split = 0
  splitError = 0
  readonly #arena: Arena
  readonly #message: number
  readonly #iovec: number
  readonly #control: number
  /** The kernel or device segments; false after it refused (the datagrams then go out one by one). */
  #segmentation = true

  constructor(arena: Arena, fd: number, family: 4 | 6, port: number, coalesces: boolean) {
    this.fd = fd
    this.family = family
    this.port = port
    this.coalesces = coalesces
    this.#arena = arena
    this.#message = arena.reserve(SEND_AREA)
    this.#iovec = this.#message + 64
    this.#control = this.#message + 128
    arena.setUint64(this.#message + 16, arena.base + this.#iovec)
    arena.setUint64(this.#message + 24, 1)
    arena.setUint64(this.#message + 32, arena.base + this.#control)
    arena.setUint64(this.#message + 8, family === 4 ? NAME4_SIZE : NAME6_SIZE)
  }

  receive(batch: ReceiveBatch): number {
    const arena = this.#arena
    const { view } = arena
    for (let i = 0; i < batch.capacity; i++) this.#prepare(batch, i)
    const n = libcRecvmmsg(this.fd, arena.base + batch.headers, batch.capacity, MSG_DONTWAIT, 0)
    if (n < 0) {
      batch.count = 0
      return -errno()
    }
    batch.count = n
    for (let i = 0; i < n; i++) {
      const header = batch.headers + MMSGHDR * i
      const length = view.getUint32(header + 56, true)
      batch.length[i] = length
      batch.segment[i] = length
      batch.local[i] = 0
      batch.trafficClass[i] = 0
      this.#readControl(batch, i, view.getUint32(header + 40, true))
    }
    return n
  }

  /**
   * Sets again the header fields that the kernel overwrites, before each receive. The kernel fills only 16 bytes of an
   * IPv4 socket's names; the rest may be left from an IPv6 socket, and names are compared as a whole.
   */
  #prepare(batch: ReceiveBatch, i: number): void {
    const arena = this.#arena
    const header = batch.headers + MMSGHDR * i
    arena.view.setUint32(header + 8, NAME6_SIZE, true)
    arena.setUint64(header + 40, CONTROL_BYTES)
    if (this.family === 4) arena.u8.fill(0, batch.name[i]! + NAME4_SIZE, batch.name[i]! + NAME_SIZE)
  }

  #readControl(batch: ReceiveBatch, i: number, bytes: number): void {
    const { view, u8 } = this.#arena
    let at = batch.control + CONTROL_BYTES * i
    const end = at + bytes
    while (at + 16 <= end) {
      const length = view.getUint32(at, true)
      if (length < 16) return
      const level = view.getInt32(at + 8, true)
      const type = view.getInt32(at + 12, true)
      if (level === IPPROTO_UDP && type === UDP_GRO) {
        const segment = view.getInt32(at + 16, true)
        if (segment > 0) batch.segment[i] = segment
      } else if (
        (level === IPPROTO_IP && type === IP_TOS) ||
        (level === IPPROTO_IPV6 && type === IPV6_TCLASS)
      ) {
        // One byte for IPv4, an int for IPv6.
        batch.trafficClass[i] = view.getUint8(at + 16)
      } else if (level === IPPROTO_IP && type === IP_PKTINFO) {
        const local = batch.locals + 16 * i
        u8.fill(0, local, local + 10)
        view.setUint16(local + 10, 0xffff)
        u8.copyWithin(local + 12, at + 20, at + 24)
        batch.local[i] = local
      } else if (level === IPPROTO_IPV6 && type === IPV6_PKTINFO) {
        const local = batch.locals + 16 * i
        u8.copyWithin(local, at + 16, at + 32)
        batch.local[i] = local
      }
      at += (length + 7) & ~7
    }
  }

  send(nameAt: number, localAt: number, at: number, length: number, segment: number): number {
    if (segment === 0 || segment >= length) return this.#sendOne(nameAt, localAt, at, length, 0)
    if (!this.#segmentation) return this.#sendSplit(nameAt, localAt, at, length, segment)
    const result = this.#sendOne(nameAt, localAt, at, length, segment)
    // EIO: no checksum offload on the way out; EINVAL: a segment above the MTU, or a kernel without UDP_SEGMENT.
    if (result !== -EIO && result !== -EINVAL) return result
    if (result === -EIO) this.#segmentation = false
    this.splitError = -result
    return this.#sendSplit(nameAt, localAt, at, length, segment)
  }

  /** Counted when it works: datagrams that are too large by themselves are another matter. */
  #sendSplit(nameAt: number, localAt: number, at: number, length: number, segment: number): number {
    const result = this.#sendEach(nameAt, localAt, at, length, segment)
    if (result === 0) this.split++
    return result
  }

  sendFragmented(nameAt: number, localAt: number, at: number, length: number, segment: number): number {
    this.#setDiscovery(PMTUDISC_DONT)
    const result = this.#sendEach(nameAt, localAt, at, length, segment === 0 ? length : segment)
    this.#setDiscovery(PMTUDISC_PROBE)
    return result
  }

  #setDiscovery(mode: number): void {
    setOption(this.fd, IPPROTO_IP, IP_MTU_DISCOVER, mode)
    if (this.family !== 6) return
    setOption(this.fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, mode)
    setOption(this.fd, IPPROTO_IPV6, IPV6_MTU, mode === PMTUDISC_DONT ? IPV6_LEAST_MTU : 0)
  }

  #sendEach(nameAt: number, localAt: number, at: number, length: number, segment: number): number {
    for (let done = 0; done < length; done += segment) {
      const result = this.#sendOne(nameAt, localAt, at + done, Math.min(segment, length - done), 0)
      if (result < 0) return result
    }
    return 0
  }

  /**
   * The control area is written completely each time, because offsets differ between combinations: every length (size_t)
   * as eight bytes.
   */
  #sendOne(nameAt: number, localAt: number, at: number, length: number, segment: number): number {
    const arena = this.#arena
    const { view } = arena
    const message = this.#message
    arena.setUint64(message, arena.base + nameAt)
    arena.setUint64(this.#iovec, arena.base + at)
    arena.setUint64(this.#iovec + 8, length)
    let control = 0
    if (segment !== 0) {
      const cmsg = this.#control
      arena.setUint64(cmsg, 18)
      view.setInt32(cmsg + 8, IPPROTO_UDP, true)
      view.setInt32(cmsg + 12, UDP_SEGMENT, true)
      view.setUint16(cmsg + 16, segment, true)
      control = 24
    }
    if (this.trafficClass !== 0) control += this.#writeTrafficClass(this.#control + control)
    if (localAt !== 0) control += this.#writeLocal(this.#control + control, localAt)
    arena.setUint64(message + 40, control)
    return libcSendmsg(this.fd, arena.base + message, MSG_DONTWAIT) < 0 ? -errno() : 0
  }

  /** For both families: an IPv6 socket reads that of IPv4 where its packet is IPv4, and each leaves the other alone. */
  #writeTrafficClass(cmsg: number): number {
    this.#writeNumber(cmsg, IPPROTO_IP, IP_TOS)
    if (this.family === 4) return 24
    this.#writeNumber(cmsg + 24, IPPROTO_IPV6, IPV6_TCLASS)
    return 48
  }

  #writeNumber(cmsg: number, level: number, type: number): void {
    const { view } = this.#arena
    this.#arena.setUint64(cmsg, 20)
    view.setInt32(cmsg + 8, level, true)
    view.setInt32(cmsg + 12, type, true)
    view.setInt32(cmsg + 16, this.trafficClass, true)
  }

  #writeLocal(cmsg: number, localAt: number): number {
    const arena = this.#arena
    const { view, u8 } = arena
    if (this.family === 4) {
      arena.setUint64(cmsg, 28)
      view.setInt32(cmsg + 8, IPPROTO_IP, true)
      view.setInt32(cmsg + 12, IP_PKTINFO, true)
      view.setUint32(cmsg + 16, 0, true)
      u8.copyWithin(cmsg + 20, localAt + 12, localAt + 16)
      view.setUint32(cmsg + 24, 0, true)
      return 32
    }
    arena.setUint64(cmsg, 36)
    view.setInt32(cmsg + 8, IPPROTO_IPV6, true)
    view.setInt32(cmsg + 12, IPV6_PKTINFO, true)
    u8.copyWithin(cmsg + 16, localAt, localAt + 16)
    view.setUint32(cmsg + 32, 0, true)
    return 40
  }

  close(): void {
    closeFd(this.fd)
    this.#arena.release(this.#message, SEND_AREA)
  }
}
