/**
 * A netlink socket for requests: synchronous, because the kernel answers within the system call. It may be opened in
 * any network namespace and stays there. Replies are copies; buffers are shared by all sockets of a thread, as no
 * request is ever left half read.
 */

import { viewOf } from '../core/bytes.ts'
import { EAGAIN, EINTR, EMSGSIZE, ETIMEDOUT } from '../core/errno.ts'
import { Arena } from './arena.ts'
import { check, closeFd, declare, errno, KernelError } from './libc.ts'
import {
  type NetlinkMessage,
  type NetlinkReply,
  NLM_F_ACK,
  NLM_F_DUMP,
  NLM_F_DUMP_INTR,
  NLMSG_DONE,
  NLMSG_ERROR,
  readError,
  readMessages,
  visitMessages,
} from './netlink.ts'
import { inNamespace } from './netns.ts'

export const NETLINK_ROUTE = 0
export const NETLINK_SOCK_DIAG = 4
export const NETLINK_NETFILTER = 12

const socket = declare<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
)
const bind = declare<(fd: number, address: Uint8Array, length: number) => number>(
  'int bind(int fd, void *address, unsigned int length)',
)
const setsockopt = declare<
  (fd: number, level: number, name: number, value: Uint8Array, length: number) => number
>('int setsockopt(int fd, int level, int name, void *value, unsigned int length)')
const sendMessage = declare<(fd: number, at: number, length: number, flags: number) => number>(
  'long send(int fd, size_t buf, size_t n, int flags)',
)
const receive = declare<(fd: number, at: number, length: number, flags: number) => number>(
  'long recv(int fd, size_t buf, size_t n, int flags)',
)

const AF_NETLINK = 16
const SOCK_RAW = 3
const SOCK_CLOEXEC = 0x80000
const SOL_SOCKET = 1
const SO_RCVTIMEO = 20
const SO_RCVBUFFORCE = 33
const SO_RCVBUF = 8
const SOL_NETLINK = 270
const NETLINK_ADD_MEMBERSHIP = 1
const NETLINK_DROP_MEMBERSHIP = 2
const NETLINK_CAP_ACK = 10
const NETLINK_EXT_ACK = 11
const NETLINK_GET_STRICT_CHK = 12
const MSG_DONTWAIT = 0x40
const MSG_TRUNC = 0x20

/** The kernel fills at most 32 KiB per read of a dump; requests of ours are far smaller. */
const RECEIVE_SIZE = 64 << 10
const SEND_SIZE = 256 << 10
/** No answer means a lost reply, not a slow kernel. */
const TIMEOUT_SECONDS = 5
const DUMP_ATTEMPTS = 8

let scratch: { arena: Arena; receive: number; send: number } | undefined

function buffers() {
  if (scratch === undefined) {
    const arena = new Arena(RECEIVE_SIZE + SEND_SIZE)
    scratch = { arena, receive: arena.reserve(RECEIVE_SIZE), send: arena.reserve(SEND_SIZE) }
  }
  return scratch
}

export class NetlinkSocket {
  readonly fd: number
  #sequence = 1
  #closed = false

  /** Opens a socket in the namespace `netns` (a name or path; the thread's own when undefined). */
  constructor(protocol: number, netns?: string) {
    this.fd = inNamespace(netns, () =>
      check(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), 'open a netlink socket'),
    )
    try {
      const name = new Uint8Array(12)
      name[0] = AF_NETLINK
      check(bind(this.fd, name, 12), 'bind a netlink socket')
      const timeout = new Uint8Array(16)
      timeout[0] = TIMEOUT_SECONDS
      check(setsockopt(this.fd, SOL_SOCKET, SO_RCVTIMEO, timeout, 16), 'set a receive timeout')
      // Older kernels lack some of these; requests work without them.
      for (const name of [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK])
        this.#option(SOL_NETLINK, name, 1)
    } catch (error) {
      this.close()
      throw error
    }
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    closeFd(this.fd)
  }

  /**
   * Sends a request and returns the messages before its acknowledgement. Throws KernelError with the kernel's own
   * message; `op` names the operation.
   */
  request(message: NetlinkMessage, op: string): NetlinkReply[] {
    return this.#replies(message, NLM_F_ACK, op).replies
  }

  /** Sends a dump request and returns its messages, consistent: a dump that changed underway is made again. */
  dump(message: NetlinkMessage, op: string): NetlinkReply[] {
    for (let attempt = 1; ; attempt++) {
      const { replies, interrupted } = this.#replies(message, NLM_F_DUMP, op)
      if (!interrupted || attempt === DUMP_ATTEMPTS) return replies
    }
  }

  /**
   * A dump without copies, for long ones: each message is shown where it lies, for the duration of the call. It is not
   * made again should it change underway.
   */
  visit(
    message: NetlinkMessage,
    op: string,
    visit: (type: number, bytes: Buffer, at: number, length: number) => void,
  ): void {
    this.#exchange(message, NLM_F_DUMP, op, (type, _, bytes, at, length) => visit(type, bytes, at, length))
  }

  /** Joins a multicast group of this protocol; see `receive`. */
  join(group: number): void {
    const value = new Uint8Array(4)
    value[0] = group
    check(setsockopt(this.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, value, 4), `join netlink group ${group}`)
  }

  /** Ends `join`. What has come is still received. */
  leave(group: number): void {
    const value = new Uint8Array(4)
    value[0] = group
    check(setsockopt(this.fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, value, 4), `leave netlink group ${group}`)
  }

  /** Room for events that are not read yet, in bytes; as much as the kernel grants. */
  setReceiveBuffer(bytes: number): void {
    if (this.#option(SOL_SOCKET, SO_RCVBUFFORCE, bytes) < 0) this.#option(SOL_SOCKET, SO_RCVBUF, bytes)
  }

  /** The next datagram's messages without waiting; undefined when there is none. Throws ENOBUFS when some were lost. */
  receive(): NetlinkReply[] | undefined {
    const bytes = this.#read(MSG_DONTWAIT, 'read netlink events')
    return bytes === undefined ? undefined : readMessages(bytes)
  }

  #replies(message: NetlinkMessage, flags: number, op: string) {
    const replies: NetlinkReply[] = []
    const interrupted = this.#exchange(message, flags, op, (type, flags, bytes, at, length, sequence) => {
      replies.push({ type, flags, sequence, body: new Uint8Array(bytes.subarray(at, at + length)) })
    })
    return { replies, interrupted }
  }

  /** Sends a request and visits its replies; true when the kernel reports that they may be inconsistent. */
  #exchange(
    message: NetlinkMessage,
    flags: number,
    op: string,
    visit: (type: number, flags: number, bytes: Buffer, at: number, length: number, sequence: number) => void,
  ): boolean {
    const sequence = this.#sequence++ >>> 0
    this.#send(message.finish(sequence), flags, op)
    let interrupted = false
    let done = false
    let failure: KernelError | undefined
    while (!done) {
      const bytes = this.#read(0, op)
      if (bytes === undefined) throw new KernelError(op, ETIMEDOUT)
      visitMessages(bytes, viewOf(bytes), (type, flags, of, at, length) => {
        if (of !== sequence || done) return // of a request that timed out
        if ((flags & NLM_F_DUMP_INTR) !== 0) interrupted = true
        if (type !== NLMSG_ERROR && type !== NLMSG_DONE) {
          visit(type, flags, bytes, at, length, of)
          return
        }
        done = true
        const body = bytes.subarray(at, at + length)
        const { errno, message: text } = readError({ type, flags, sequence, body })
        if (errno === EINTR && type === NLMSG_DONE) interrupted = true
        else if (errno !== 0) failure = new KernelError(op, errno, text === undefined ? {} : { kernel: text })
      })
    }
    if (failure !== undefined) throw failure
    return interrupted
  }

  #send(bytes: Uint8Array, flags: number, op: string): void {
    const { arena, send } = buffers()
    if (bytes.length > SEND_SIZE) throw new KernelError(op, EMSGSIZE)
    arena.u8.set(bytes, send)
    arena.view.setUint16(send + 6, arena.view.getUint16(send + 6, true) | flags, true)
    while (sendMessage(this.fd, arena.base + send, bytes.length, 0) < 0) {
      if (errno() !== EINTR) throw new KernelError(op, errno())
    }
  }

  /** A view of the shared buffer, or undefined when nothing came (in time). */
  #read(flags: number, op: string): Buffer | undefined {
    const { arena, receive: at } = buffers()
    for (;;) {
      const length = receive(this.fd, arena.base + at, RECEIVE_SIZE, flags | MSG_TRUNC)
      if (length > RECEIVE_SIZE) throw new KernelError(op, EMSGSIZE)
      if (length >= 0) return Buffer.from(arena.u8.buffer, arena.u8.byteOffset + at, length)
      if (errno() === EAGAIN) return undefined
      if (errno() !== EINTR) throw new KernelError(op, errno())
    }
  }

  #option(level: number, name: number, value: number): number {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setInt32(0, value, true)
    return setsockopt(this.fd, level, name, bytes, 4)
  }
}
