/**
 * TUN devices with offloads: one read or write moves up to 64 KB behind a virtio_net_hdr, so that a TCP stream costs a
 * system call per ~45 segments. Layout of the header (10 bytes, little-endian, linux/virtio_net.h):
 *
 *   0 flags (1: checksum is partial)  1 gso type  2 header length u16  4 gso size u16  6 csum start u16  8 csum offset u16
 */

import { closeSync, openSync } from 'node:fs'
import { EBUSY, EINVAL, EPERM } from '../core/errno.ts'
import { GodwitError, missingError } from '../core/errors.ts'
import type { Arena } from './arena.ts'
import { check, declare, errno, KernelError } from './libc.ts'

export const VNET_HEADER = 10
export const VNET_NEEDS_CSUM = 1
export const GSO_NONE = 0
export const GSO_TCPV4 = 1
export const GSO_TCPV6 = 4
export const GSO_UDP_L4 = 5
/** Bit beside the type: the segments carry ECN. */
export const GSO_ECN = 0x80

/** The largest read or write: a vnet header and the largest IP packet. */
export const TUN_BUFFER = VNET_HEADER + 65_535

export interface TunOptions {
  /** `tap` carries Ethernet frames instead of IP packets. Default `tun`. */
  readonly kind?: 'tun' | 'tap'
  /** Interface name, at most 15 bytes; made when it does not exist. */
  readonly name: string
  /** The device outlives this process (a killed daemon finds its flows' addresses and routes as they were). */
  readonly persistent?: boolean
}

/** A TUN device over packet memory. Offsets are into its arena. Results are a byte count, or minus an errno. */
export interface Tun {
  readonly name: string
  readonly fd: number
  /** UDP super-packets too (Linux 6.2). */
  readonly udpSegments: boolean
  /** Reads one vnet header and packet; -EAGAIN when there is none. */
  read(at: number, length: number): number
  write(at: number, length: number): number
  /** Writes one vnet header and packet gathered from `count` iovecs at `iovecAt`. */
  writev(iovecAt: number, count: number): number
  /** `segments`: super-packets whole (the default); `checksums`: the kernel cuts them, checksums stay partial. */
  setOffloads(offloads: 'segments' | 'checksums'): void
  /** Gives the device a carrier or takes it away: a link event, addresses and configuration stay. */
  setCarrier(carrier: boolean): void
  close(): void
}

const libcRead = declare<(fd: number, buffer: number, length: number) => number>(
  'long read(int fd, size_t buffer, size_t length)',
)
const libcWrite = declare<(fd: number, buffer: number, length: number) => number>(
  'long write(int fd, size_t buffer, size_t length)',
)
const libcWritev = declare<(fd: number, iovecs: number, count: number) => number>(
  'long writev(int fd, size_t iovecs, int count)',
)
const ioctlBuffer = declare<(fd: number, request: number, argument: Buffer) => number>(
  'int ioctl(int fd, unsigned long request, uint8_t *argument)',
)
const ioctlNumber = declare<(fd: number, request: number, argument: number) => number>(
  'int ioctl(int fd, unsigned long request, size_t argument)',
)

const socketpair = declare<(family: number, type: number, protocol: number, fds: Buffer) => number>(
  'int socketpair(int family, int type, int protocol, _Out_ uint8_t *fds)',
)

const AF_UNIX = 1
const SOCK_DGRAM_NONBLOCK_CLOEXEC = 2 | 0o4000 | 0o2000000
const TUNSETIFF = 0x400454ca
const TUNSETPERSIST = 0x400454cb
const TUNSETOFFLOAD = 0x400454d0
const TUNSETVNETHDRSZ = 0x400454d8
const TUNSETCARRIER = 0x400454e2
const IFF_TUN = 0x0001
const IFF_TAP = 0x0002
const IFF_NO_PI = 0x1000
const IFF_VNET_HDR = 0x4000
const OFFLOAD_CHECKSUM = 0x01
const OFFLOAD_TCP = OFFLOAD_CHECKSUM | 0x02 | 0x04 | 0x08 // TSO4, TSO6, TSO with ECN
const OFFLOAD_UDP = 0x20 | 0x40 // USO4, USO6
const O_RDWR_NONBLOCK_CLOEXEC = 2 | 0o4000 | 0o2000000

/** Opens or creates the device and turns its offloads on. Throws MISSING, TUN_BUSY, or a KernelError with a hint. */
export function openTun(arena: Arena, options: TunOptions): Tun {
  const op = `open TUN device ${options.name}`
  if (!/^[^\s/]{1,15}$/.test(options.name))
    throw new GodwitError('USAGE', `${options.name} is not an interface name`, { op, kind: 'usage' })
  const fd = openDevice(op)
  try {
    const request = Buffer.alloc(40)
    request.write(options.name)
    request.writeInt16LE((options.kind === 'tap' ? IFF_TAP : IFF_TUN) | IFF_NO_PI | IFF_VNET_HDR, 16)
    if (ioctlBuffer(fd, TUNSETIFF, request) < 0) throw attachError(op, options.name, errno())
    const header = Buffer.alloc(4)
    header.writeInt32LE(VNET_HEADER)
    if (ioctlBuffer(fd, TUNSETVNETHDRSZ, header) < 0) throw new KernelError(`${op}: header size`, errno())
    const udpSegments = ioctlNumber(fd, TUNSETOFFLOAD, OFFLOAD_TCP | OFFLOAD_UDP) === 0
    if (!udpSegments && ioctlNumber(fd, TUNSETOFFLOAD, OFFLOAD_TCP) < 0)
      throw new KernelError(`${op}: offloads`, errno())
    if (ioctlNumber(fd, TUNSETPERSIST, options.persistent ? 1 : 0) < 0)
      throw new KernelError(`${op}: persistence`, errno())
    return new KernelTun(arena, fd, options.name, udpSegments)
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/**
 * Two ends that carry packets to one another as a TUN device does to the kernel, without a device: what one writes the
 * other reads.
 */
export function openTunPair(arena: Arena): readonly [Tun, Tun] {
  const fds = Buffer.alloc(8)
  check(socketpair(AF_UNIX, SOCK_DGRAM_NONBLOCK_CLOEXEC, 0, fds), 'make a pair of sockets')
  const end = (at: number) => new KernelTun(arena, fds.readInt32LE(at), 'pair', true)
  return [end(0), end(4)]
}

function openDevice(op: string): number {
  try {
    return openSync('/dev/net/tun', O_RDWR_NONBLOCK_CLOEXEC)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENODEV' || code === 'ENXIO')
      throw missingError(
        'this kernel has no TUN device',
        'modprobe tun (or run on a host whose kernel has it)',
        {
          op,
          cause: error,
        },
      )
    if (code === 'EACCES' || code === 'EPERM') throw notPermitted(op, EPERM)
    throw new KernelError(op, -((error as NodeJS.ErrnoException).errno ?? 0), { cause: error })
  }
}

function attachError(op: string, name: string, number: number): GodwitError {
  if (number === EBUSY)
    return new GodwitError('TUN_BUSY', `${name} is in use by another process`, {
      op,
      hint: 'another godwit runs on this host: stop it, or give this one another interface and state folder',
    })
  if (number === EPERM) return notPermitted(op, number)
  if (number === EINVAL)
    return new KernelError(op, number, {
      hint: `${name} exists and is not a TUN device: choose another name`,
    })
  return new KernelError(op, number)
}

function notPermitted(op: string, number: number): KernelError {
  return new KernelError(op, number, { hint: 'run it as root, or with CAP_NET_ADMIN' })
}

class KernelTun implements Tun {
  readonly name: string
  readonly fd: number
  readonly udpSegments: boolean
  readonly #base: number

  constructor(arena: Arena, fd: number, name: string, udpSegments: boolean) {
    this.#base = arena.base
    this.fd = fd
    this.name = name
    this.udpSegments = udpSegments
  }

  read(at: number, length: number): number {
    const n = libcRead(this.fd, this.#base + at, length)
    return n < 0 ? -errno() : n
  }

  write(at: number, length: number): number {
    const n = libcWrite(this.fd, this.#base + at, length)
    return n < 0 ? -errno() : n
  }

  writev(iovecAt: number, count: number): number {
    const n = libcWritev(this.fd, this.#base + iovecAt, count)
    return n < 0 ? -errno() : n
  }

  setOffloads(offloads: 'segments' | 'checksums'): void {
    const wanted =
      offloads === 'checksums' ? OFFLOAD_CHECKSUM : OFFLOAD_TCP | (this.udpSegments ? OFFLOAD_UDP : 0)
    check(ioctlNumber(this.fd, TUNSETOFFLOAD, wanted), `${this.name}: offloads`)
  }

  setCarrier(carrier: boolean): void {
    const argument = Buffer.alloc(4)
    argument.writeInt32LE(carrier ? 1 : 0)
    check(ioctlBuffer(this.fd, TUNSETCARRIER, argument), `${this.name}: carrier`)
  }

  close(): void {
    closeSync(this.fd)
  }
}
