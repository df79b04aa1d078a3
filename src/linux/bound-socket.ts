/**
 * Sockets of the main thread that leave by one device: made and bound by libc, then handed to Node. For the few
 * connections that must not follow the routes of the host: questions to name servers, the tunnel over TCP. And sockets that only
 * this machine reaches.
 */
import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { type Server, Socket } from 'node:net'
import { formatAddress } from '../core/address.ts'
import { EINPROGRESS } from '../core/errno.ts'
import { descriptorOf } from './descriptor.ts'
import { closeFd, declare, errno, KernelError } from './libc.ts'
import { AF_INET, AF_INET6 } from './sockaddr.ts'
import { bindTo, bindToDevice, forbidFragments, libcSocket, SO_MARK, SOL_SOCKET, setOption } from './udp.ts'

const libcConnect = declare<(fd: number, name: Buffer, length: number) => number>(
  'int connect(int fd, uint8_t *name, int length)',
)

/** What a machine sends to an address of its own comes from here. */
const LOOPBACK = 'lo'
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

/**
 * A UDP socket on this address and port that only this machine reaches, whatever interface has the address: others get what they get at a
 * closed port. It listens. Throws KernelError; the kernel may not allow it before Linux 5.7.
 */
export function localUdp(address: Uint8Array, port: number): DatagramSocket {
  const four = address.length === 4
  const fd = open(four ? AF_INET : AF_INET6, DATAGRAM, { device: LOOPBACK })
  if (bindTo(fd, { family: four ? 4 : 6, address, port }) < 0) throw failed('bind', fd)
  const socket = createSocket(four ? 'udp4' : 'udp6')
  socket.bind({ fd })
  return socket
}

/** Makes a server that listens one that only this machine reaches; false: the kernel does not allow it. */
export function makeLocal(server: Server): boolean {
  return bindToDevice(descriptorOf(server), LOOPBACK) === 0
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
