/**
 * sock_diag(7): which sockets there are and whose. An exact look-up by addresses and ports tells user, cgroup, mark and
 * inode of the socket behind a flow in one system call each way.
 *
 * inet_diag_req_v2   family u8, protocol u8, extensions u8, pad u8, states u32, then inet_diag_sockid
 * inet_diag_sockid   source port be16, destination port be16, source 16, destination 16, interface u32, cookie 2 × u32
 * inet_diag_msg      family u8, state u8, timer u8, retransmits u8, inet_diag_sockid (48), expires u32, receive queue u32,
 *                    send queue u32, uid u32, inode u32, then attributes
 */

import { formatAddress, unmapped } from '../core/address.ts'
import { viewOf } from '../core/bytes.ts'
import { ENOENT, EOPNOTSUPP } from '../core/errno.ts'
import { Protocol } from '../core/ip.ts'
import { KernelError } from './libc.ts'
import { Attributes, NetlinkMessage } from './netlink.ts'
import { NETLINK_SOCK_DIAG, NetlinkSocket } from './netlink-socket.ts'

export const { TCP, UDP } = Protocol
export type SocketProtocol = typeof TCP | typeof UDP

/** A flow as the host that owns the socket sees it; addresses of 4 or 16 bytes, both of one length. */
export interface SocketFlow {
  readonly protocol: SocketProtocol
  readonly localAddress: Uint8Array
  readonly localPort: number
  readonly remoteAddress: Uint8Array
  readonly remotePort: number
  /** Index of the device the socket is bound to, if it is: the kernel does not find it otherwise. */
  readonly device?: number
}

/** The kernel's TCP states; an unconnected UDP socket is `close`. */
export type SocketState =
  | 'established'
  | 'syn-sent'
  | 'syn-recv'
  | 'fin-wait-1'
  | 'fin-wait-2'
  | 'time-wait'
  | 'close'
  | 'close-wait'
  | 'last-ack'
  | 'listen'
  | 'closing'
  | 'new-syn-recv'

export interface SocketInfo {
  readonly protocol: SocketProtocol
  /** Family of the socket, not of the flow: an IPv6 socket may carry IPv4, whose addresses then have 4 bytes here. */
  readonly family: 4 | 6
  readonly state: SocketState
  readonly localAddress: Uint8Array
  readonly localPort: number
  /** All zeros and port 0 for a socket that is not connected. */
  readonly remoteAddress: Uint8Array
  readonly remotePort: number
  /** Index of the device it is bound to, or 0. */
  readonly device: number
  /** How often TCP has sent its oldest segment again without an answer. */
  readonly retransmits: number
  readonly uid: number
  /** 0 once its process has closed it. */
  readonly inode: number
  /** The socket's mark; undefined when the kernel does not report it (needs CAP_NET_ADMIN). */
  readonly mark: number | undefined
  /** Inode of its cgroup's directory; undefined on kernels before 5.8 and for sockets that are closing. */
  readonly cgroupId: number | undefined
  /** Names the socket for ever, unlike its addresses. */
  readonly cookie: bigint
}

export interface SocketTraffic {
  readonly localAddress: Uint8Array
  readonly localPort: number
  readonly remoteAddress: Uint8Array
  readonly remotePort: number
  readonly sent: number
  readonly received: number
}

export interface SocketFilter {
  readonly protocols?: readonly SocketProtocol[]
  readonly families?: readonly (4 | 6)[]
  /** Default: all but `listen` and `time-wait`. */
  readonly states?: readonly SocketState[]
}

/** The sockets of one namespace. */
export interface SocketTable {
  /**
   * The socket of a flow: the connected one, else for UDP the one bound to the local port (and address, if to one).
   * Undefined when there is none. About 15 µs.
   */
  find(flow: SocketFlow): SocketInfo | undefined
  /** All sockets that pass. One that has not changed since the last call is the same object again. */
  sockets(filter?: SocketFilter): SocketInfo[]
  /** Aborts a connection: its owner reads ECONNABORTED. False when it is gone, or the kernel cannot (EOPNOTSUPP). */
  destroy(socket: SocketInfo): boolean
  close(): void
}

const SOCK_DESTROY = 21
const SOCK_DIAG_BY_FAMILY = 20
const AF_INET = 2
const AF_INET6 = 10
const MESSAGE_SIZE = 72
/** Timer and queues, which are not read here. */
const VARYING = 52
const VARYING_END = 64
const INET_DIAG_INFO = 2
/** tcpi_bytes_acked and tcpi_bytes_received of struct tcp_info. */
const ACKED = 120
const RECEIVED = 128
const INET_DIAG_MARK = 15
const INET_DIAG_CGROUP_ID = 21
const NO_COOKIE = 0xffffffffffffffffn

const STATES: readonly SocketState[] = [
  'close', // 0 is none
  'established',
  'syn-sent',
  'syn-recv',
  'fin-wait-1',
  'fin-wait-2',
  'time-wait',
  'close',
  'close-wait',
  'last-ack',
  'listen',
  'closing',
  'new-syn-recv',
]
const DEFAULT_STATES = 0x1fff & ~((1 << 10) | (1 << 6))

export class SockDiag implements SocketTable {
  readonly #socket: NetlinkSocket
  /** Parsed results of the last dump of a protocol, family and states, by the bytes they were read from. */
  readonly #seen = new Map<string, Map<string, SocketInfo>>()

  /** Looks at the sockets of a namespace (name or path), or of the thread's own. */
  constructor(netns?: string) {
    this.#socket = new NetlinkSocket(NETLINK_SOCK_DIAG, netns)
  }

  close(): void {
    this.#socket.close()
  }

  find(flow: SocketFlow): SocketInfo | undefined {
    const found = this.#lookup(flow, flow.localAddress, flow.remoteAddress)
    if (found !== undefined || flow.localAddress.length === 16) return found
    // An IPv6 socket that carries IPv4 is known under mapped addresses only.
    return this.#lookup(flow, mapped(flow.localAddress), mapped(flow.remoteAddress))
  }

  #lookup(flow: SocketFlow, local: Uint8Array, remote: Uint8Array): SocketInfo | undefined {
    const message = new NetlinkMessage(SOCK_DIAG_BY_FAMILY)
    // The kernel's UDP look-up takes source and destination the other way round (its abort does not).
    const tcp = flow.protocol === TCP
    writeRequest(message, {
      family: local.length === 4 ? AF_INET : AF_INET6,
      protocol: flow.protocol,
      states: 0xffffffff,
      sourcePort: tcp ? flow.localPort : flow.remotePort,
      destinationPort: tcp ? flow.remotePort : flow.localPort,
      source: tcp ? local : remote,
      destination: tcp ? remote : local,
      device: flow.device ?? 0,
      cookie: NO_COOKIE,
    })
    try {
      const [reply] = this.#socket.request(message, 'look up a socket')
      if (reply === undefined) return undefined
      const info = readSocket(reply.body, flow.protocol)
      // The kernel answers with a listener when no connection matches.
      return tcp && info?.state === 'listen' ? undefined : info
    } catch (error) {
      if (error instanceof KernelError && error.errno === ENOENT) return undefined
      throw error
    }
  }

  sockets(filter: SocketFilter = {}): SocketInfo[] {
    const states =
      filter.states?.reduce((bits, state) => bits | (1 << STATES.lastIndexOf(state)), 0) ?? DEFAULT_STATES
    const out: SocketInfo[] = []
    for (const protocol of filter.protocols ?? [TCP, UDP]) {
      for (const family of filter.families ?? [4, 6]) {
        const message = new NetlinkMessage(SOCK_DIAG_BY_FAMILY)
        writeRequest(message, { ...ANY, family: family === 4 ? AF_INET : AF_INET6, protocol, states })
        this.#list(message, protocol, `${protocol} ${family} ${states}`, out)
      }
    }
    return out
  }

  /** Calls `visit` for each TCP connection with the bytes that its other end has acknowledged, and those received. */
  eachTraffic(visit: (traffic: SocketTraffic) => void): void {
    const states = DEFAULT_STATES & ~(1 << STATES.indexOf('syn-sent'))
    for (const family of [AF_INET, AF_INET6]) {
      const message = new NetlinkMessage(SOCK_DIAG_BY_FAMILY)
      writeRequest(message, { ...ANY, family, protocol: TCP, states, extensions: 1 << (INET_DIAG_INFO - 1) })
      this.#socket.visit(message, 'list connections', (type, bytes, at, length) => {
        if (type !== SOCK_DIAG_BY_FAMILY) return
        const body = bytes.subarray(at, at + length)
        const socket = readSocket(body, TCP)
        const info =
          length < MESSAGE_SIZE ? undefined : new Attributes(body, MESSAGE_SIZE).bytes(INET_DIAG_INFO)
        if (socket === undefined || info === undefined || info.length < RECEIVED + 8) return
        const view = viewOf(info)
        visit({
          ...socket,
          sent: Number(view.getBigUint64(ACKED, true)),
          received: Number(view.getBigUint64(RECEIVED, true)),
        })
      })
    }
  }

  /** About 1 µs for a socket that was there before: dumps of ten thousand are made while a host moves. */
  #list(message: NetlinkMessage, protocol: SocketProtocol, what: string, out: SocketInfo[]): void {
    const before = this.#seen.get(what)
    const seen = new Map<string, SocketInfo>()
    this.#socket.visit(message, 'list sockets', (type, bytes, at, length) => {
      if (type !== SOCK_DIAG_BY_FAMILY || length < MESSAGE_SIZE) return
      bytes.fill(0, at + VARYING, at + VARYING_END)
      const key = bytes.toString('latin1', at, at + length)
      const info = before?.get(key) ?? readSocket(new Uint8Array(bytes.subarray(at, at + length)), protocol)
      if (info === undefined) return
      seen.set(key, info)
      out.push(info)
    })
    this.#seen.set(what, seen)
  }

  destroy(socket: SocketInfo): boolean {
    const message = new NetlinkMessage(SOCK_DESTROY)
    const six = socket.family === 6
    const wide = (address: Uint8Array) => (six && address.length === 4 ? mapped(address) : address)
    writeRequest(message, {
      family: six ? AF_INET6 : AF_INET,
      protocol: socket.protocol,
      states: 0xffffffff,
      sourcePort: socket.localPort,
      destinationPort: socket.remotePort,
      source: wide(socket.localAddress),
      destination: wide(socket.remoteAddress),
      device: socket.device,
      cookie: socket.cookie,
    })
    const name = `${formatAddress(socket.localAddress)} port ${socket.localPort}`
    try {
      this.#socket.request(message, `abort the connection of ${name}`)
      return true
    } catch (error) {
      if (error instanceof KernelError && (error.errno === ENOENT || error.errno === EOPNOTSUPP)) return false
      throw error
    }
  }
}

interface Request {
  readonly family: number
  readonly protocol: number
  readonly states: number
  /** One bit for each attribute that is asked for. */
  readonly extensions?: number
  readonly sourcePort: number
  readonly destinationPort: number
  readonly source: Uint8Array
  readonly destination: Uint8Array
  readonly device: number
  readonly cookie: bigint
}

const NOTHING = new Uint8Array(16)
const ANY = {
  sourcePort: 0,
  destinationPort: 0,
  source: NOTHING,
  destination: NOTHING,
  device: 0,
  cookie: NO_COOKIE,
} as const

function writeRequest(message: NetlinkMessage, request: Request): void {
  message
    .u8(request.family)
    .u8(request.protocol)
    .u8(request.extensions ?? 0)
    .u8(0)
    .u32(request.states)
    .be16(request.sourcePort)
    .be16(request.destinationPort)
    .bytes(request.source)
    .zeros(16 - request.source.length)
    .bytes(request.destination)
    .zeros(16 - request.destination.length)
    .u32(request.device)
    .u32(Number(request.cookie & 0xffffffffn))
    .u32(Number(request.cookie >> 32n))
}

/** Undefined when cut short. */
function readSocket(body: Uint8Array, protocol: SocketProtocol): SocketInfo | undefined {
  if (body.length < MESSAGE_SIZE) return undefined
  const view = viewOf(body)
  const family = body[0] === AF_INET ? 4 : 6
  const address = (at: number) => (family === 4 ? body.slice(at, at + 4) : unmapped(body.slice(at, at + 16)))
  const attributes = new Attributes(body, MESSAGE_SIZE)
  return {
    protocol,
    family,
    state: STATES[body[1]!] ?? 'close',
    localPort: view.getUint16(4),
    remotePort: view.getUint16(6),
    localAddress: address(8),
    remoteAddress: address(24),
    device: view.getUint32(40, true),
    retransmits: body[2] === 1 ? body[3]! : 0,
    cookie: view.getBigUint64(44, true),
    uid: view.getUint32(64, true),
    inode: view.getUint32(68, true),
    mark: attributes.u32(INET_DIAG_MARK),
    cgroupId: attributes.u64(INET_DIAG_CGROUP_ID),
  }
}

/** ::ffff:a.b.c.d */
function mapped(address: Uint8Array): Uint8Array {
  const out = new Uint8Array(16)
  out[10] = out[11] = 0xff
  out.set(address, 12)
  return out
}
