/**
 * Sockets of the main thread that leave by one device: made and bound by libc, then handed to Node. For the few
 * connections that must not follow the routes of the host: questions to name servers, the tunnel over TCP. And sockets that only
 * this machine reaches.
 */
import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { type Server, Socket } from 'node:net'
import { formatAddress } from '../core/address.ts'
import { viewOf } from '../core/bytes.ts'
import { EINPROGRESS } from '../core/errno.ts'
import { Arena } from './arena.ts'
import { Ancillary, ClassicBpf } from './classic-bpf.ts'
import { descriptorOf } from './descriptor.ts'
import { closeFd, declare, errno, KernelError } from './libc.ts'
import { AF_INET, AF_INET6 } from './sockaddr.ts'
import { bindTo, bindToDevice, forbidFragments, libcSocket, SO_MARK, SOL_SOCKET, setOption } from './udp.ts'

const setsockopt = declare<
  (fd: number, level: number, option: number, value: Uint8Array, length: number) => number
>('int setsockopt(int fd, int level, int option, uint8_t *value, int length)')
const libcConnect = declare<(fd: number, name: Buffer, length: number) => number>(
  'int connect(int fd, uint8_t *name, int length)',
)

/** Index of the loopback device, in every network namespace. */
const LOOPBACK = 1
const SO_ATTACH_FILTER = 26
const FILTER_BYTES = 4096
let filter: Arena | undefined
const STREAM = 1
const DATAGRAM = 2
const NONBLOCK_CLOEXEC = 0o4000 | 0o2000000

export interface BoundOptions {
  /** SO_BINDTODEVICE; absent: as the routes say. */
  readonly device?: string
  /** SO_MARK. */
  readonly mark?: number
  /** Datagrams are never cut into fragments, whatever is known of the path: too large ones are lost or EMSGSIZE. */
  readonly wholeDatagrams?: boolean
}

export interface Destination {
  /** 4 or 16 bytes; a link-local one is on the link of `device`. */
  readonly address: Uint8Array
  readonly port: number
}

/**
 * A UDP socket connected to this destination (connect(2)), on a port chosen by the kernel: `connect` when it can send,
 * `error` when it cannot, also for ICMP errors. Throws KernelError when it cannot be created.
 */
export function connectedUdp(to: Destination, options: BoundOptions): DatagramSocket {
  const four = to.address.length === 4
  const fd = open(four ? AF_INET : AF_INET6, DATAGRAM, options)
  const socket = createSocket(four ? 'udp4' : 'udp6')
  socket.bind({ fd })
  socket.connect(to.port, formatAddress(to.address))
  return socket
}

/** A TCP connection in progress; `error` when it fails. Throws KernelError as above. */
export function connectTcp({ address, port }: Destination, options: BoundOptions): Socket {
  const family = address.length === 4 ? AF_INET : AF_INET6
  const fd = open(family, STREAM, options)
  const name = Buffer.alloc(family === AF_INET ? 16 : 28)
  name.writeUInt16LE(family, 0)
  name.writeUInt16BE(port, 2)
  name.set(address, family === AF_INET ? 4 : 8)
  if (libcConnect(fd, name, name.length) < 0 && errno() !== EINPROGRESS) throw failed('connect', fd)
  return new Socket({ fd })
}

/** A UDP socket on this address and port that gets what this machine sends, and nothing else. It listens. Throws KernelError. */
export function localUdp(address: Uint8Array, port: number): DatagramSocket {
  const four = address.length === 4
  const fd = open(four ? AF_INET : AF_INET6, DATAGRAM, {})
  if (onlyFromHere(fd) < 0) throw failed('SO_ATTACH_FILTER', fd)
  if (bindTo(fd, { family: four ? 4 : 6, address, port }) < 0) throw failed('bind', fd)
  const socket = createSocket(four ? 'udp4' : 'udp6')
  socket.bind({ fd })
  return socket
}

/** For a server that listens: nobody but this machine reaches it. */
export function makeLocal(server: Server): void {
  onlyFromHere(descriptorOf(server))
}

/**
 * Drops, in the kernel, what comes from another device than the loopback one. Binding to that does not do: to the routes of Linux a
 * packet from here to an address of another device comes from that device.
 */
function onlyFromHere(fd: number): number {
  filter ??= new Arena(FILTER_BYTES)
  const program = new ClassicBpf()
    .load(4, Ancillary.INTERFACE)
    .jumpIf('eq', LOOPBACK, 'here')
    .return(0)
    .label('here')
    .return(0xffff_ffff)
    .finish()
  filter.u8.set(program)
  const option = new Uint8Array(16)
  const view = viewOf(option)
  view.setUint16(0, program.length / 8, true)
  view.setBigUint64(8, BigInt(filter.base), true)
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, option, option.length)
}

function open(family: number, type: number, { device, mark, wholeDatagrams }: BoundOptions): number {
  const fd = libcSocket(family, type | NONBLOCK_CLOEXEC, 0)
  if (fd < 0) throw new KernelError('open a socket', errno())
  if (device !== undefined && bindToDevice(fd, device) < 0) throw failed(`bind to ${device}`, fd)
  if (mark !== undefined && setOption(fd, SOL_SOCKET, SO_MARK, mark) < 0) throw failed('SO_MARK', fd)
  if (wholeDatagrams === true && forbidFragments(fd, family) < 0) throw failed('IP_MTU_DISCOVER', fd)
  return fd
}

function failed(op: string, fd: number): KernelError {
  const error = new KernelError(op, errno())
  closeFd(fd)
  return error
}
