/**
 * NFQUEUE: packets that a rule hands to user space, whole as the kernel has them (super-packets too), and the verdict on each
 * (linux/netfilter/nfnetlink_queue.h). Packets lie in the arena; a verdict gathers what replaces a packet from there.
 *
 *   packet    nlmsghdr 16, nfgenmsg 4, attributes: 1 header (id u32, protocol u16, hook u8), 5 in device, 6 out device,
 *             10 payload, 14 what the kernel knows of it
 *   verdict   nlmsghdr 16, nfgenmsg 4, 2 verdict header (verdict u32, id u32), 10 payload
 *
 * A replaced packet has no partial checksum any more: what is written has to be right, but for super-packets that leave
 * this host, whose segments the kernel gives theirs. One loop of a worker reads it; no verdict may be forgotten.
 */
import { EAGAIN, EINTR, ENOBUFS } from '../core/errno.ts'
import type { Arena } from './arena.ts'
import { declare, errno, KernelError } from './libc.ts'
import { NetlinkMessage } from './netlink.ts'
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink-socket.ts'

const receive = declare<(fd: number, at: number, length: number, flags: number) => number>(
  'long recv(int fd, size_t buf, size_t n, int flags)',
)
const send = declare<(fd: number, at: number, length: number, flags: number) => number>(
  'long send(int fd, size_t buf, size_t n, int flags)',
)
const gather = declare<(fd: number, iovecs: number, count: number) => number>(
  'long writev(int fd, size_t iovecs, int count)',
)

const MSG_DONTWAIT = 0x40
const SUBSYSTEM = 3 << 8
const MESSAGE_PACKET = 0
const MESSAGE_VERDICT = 1
const MESSAGE_CONFIG = 2

const Config = { COMMAND: 1, PARAMETERS: 2, MAX_LENGTH: 3, MASK: 4, FLAGS: 5 } as const
const COMMAND_BIND = 1
const QUEUE = 3
const COPY_PACKET = 2
const FLAG_GSO = 4

const Attribute = { HEADER: 1, VERDICT: 2, IN_DEVICE: 5, OUT_DEVICE: 6, PAYLOAD: 10, INFO: 14 } as const
const INFO_NO_CHECKSUM = 1
const INFO_SUPER = 2
const INFO_UNVERIFIED = 4

/** Packets that wait for the loop, and bytes; more are dropped by the kernel. */
const MAX_QUEUED = 4096
const SOCKET_BUFFER = 32 << 20
const RECEIVE_SIZE = 128 << 10
/** Before the payload of a verdict that replaces a packet. */
const VERDICT_HEADER = 36
/** The largest packet that a verdict can carry: an attribute's length has 16 bits. */
export const MAX_REPLACEMENT = 0xffff - 4
/** Room for the headers of a replacement. */
const HEADERS = 160

export const NfHookNumber = { INPUT: 1, FORWARD: 2, OUTPUT: 3 } as const

/** The packet that was read last. */
export interface QueuedPacket {
  id: number
  hook: number
  /** Index of the interface that it came in by; 0 for none. */
  inDevice: number
  /** And of the one that it leaves by. */
  outDevice: number
  /** Where it lies in the arena. */
  at: number
  length: number
  /** More than one segment. */
  super: boolean
  /** Its checksum is the kernel's to fill in. */
  partial: boolean
  /** Its checksum has not been verified. */
  unverified: boolean
}

export interface QueueOptions {
  /** Bytes of each packet that are handed over; default all. */
  readonly copy?: number
  readonly netns?: string | undefined
}

export class NfQueue {
  readonly #socket: NetlinkSocket
  readonly #arena: Arena
  readonly #receiveAt: number
  readonly #verdictAt: number
  readonly #iovecAt: number
  readonly #number: number
  readonly packet: QueuedPacket = {
    id: 0,
    hook: 0,
    inDevice: 0,
    outDevice: 0,
    at: 0,
    length: 0,
    super: false,
    partial: false,
    unverified: false,
  }
  /** Times that the kernel dropped packets because the loop was late. */
  overruns = 0
  /** Verdicts that the kernel refused. */
  refused = 0

  /** Binds the queue. Throws KernelError EBUSY when another program has it. */
  constructor(arena: Arena, number: number, { copy = 0xffff, netns }: QueueOptions = {}) {
    this.#arena = arena
    this.#number = number
    this.#receiveAt = arena.reserve(RECEIVE_SIZE)
    this.#verdictAt = arena.reserve(VERDICT_HEADER + HEADERS)
    this.#iovecAt = arena.reserve(48)
    this.#socket = new NetlinkSocket(NETLINK_NETFILTER, netns)
    const config = (write: (message: NetlinkMessage) => void) => {
      const message = new NetlinkMessage(SUBSYSTEM | MESSAGE_CONFIG).u8(0).u8(0).be16(number)
      write(message)
      this.#socket.request(message, `set up packet queue ${number}`)
    }
    try {
      config((message) => message.attribute(Config.COMMAND, Uint8Array.of(COMMAND_BIND, 0, 0, 0)))
      config((message) =>
        message
          .attribute(Config.PARAMETERS, Uint8Array.of(0, 0, copy >> 8, copy & 0xff, COPY_PACKET))
          .attribute(Config.MASK, be32(FLAG_GSO))
          .attribute(Config.FLAGS, be32(FLAG_GSO))
          .attribute(Config.MAX_LENGTH, be32(MAX_QUEUED)),
      )
      this.#socket.setReceiveBuffer(SOCKET_BUFFER)
    } catch (error) {
      this.#socket.close()
      throw error
    }
  }

  get fd(): number {
    return this.#socket.fd
  }

  /** Where the headers of a replacement are to be written; `HEADERS` bytes. */
  get headersAt(): number {
    return this.#verdictAt + VERDICT_HEADER
  }

  /** Reads the next packet into `packet`; false when there is none. */
  read(): boolean {
    const { u8, view, base } = this.#arena
    const start = this.#receiveAt
    for (;;) {
      const length = receive(this.fd, base + start, RECEIVE_SIZE, MSG_DONTWAIT)
      if (length < 0) {
        const number = errno()
        if (number === EINTR) continue
        if (number === EAGAIN) return false
        if (number !== ENOBUFS) throw new KernelError('read from a packet queue', number)
        this.overruns++
        continue
      }
      if (length < 20 || view.getUint16(start + 4, true) !== (SUBSYSTEM | MESSAGE_PACKET)) {
        if (length >= 20 && view.getUint16(start + 4, true) === 2 && view.getInt32(start + 16, true) !== 0)
          this.refused++
        continue
      }
      const { packet } = this
      packet.inDevice = 0
      packet.outDevice = 0
      packet.length = 0
      let info = 0
      const end = start + Math.min(length, view.getUint32(start, true))
      for (let at = start + 20; at + 4 <= end; ) {
        const size = view.getUint16(at, true)
        if (size < 4 || at + size > end) break
        const type = view.getUint16(at + 2, true) & 0x3fff
        if (type === Attribute.HEADER) {
          packet.id = view.getUint32(at + 4)
          packet.hook = u8[at + 10]!
        } else if (type === Attribute.IN_DEVICE) packet.inDevice = view.getUint32(at + 4)
        else if (type === Attribute.OUT_DEVICE) packet.outDevice = view.getUint32(at + 4)
        else if (type === Attribute.INFO) info = view.getUint32(at + 4)
        else if (type === Attribute.PAYLOAD) {
          packet.at = at + 4
          packet.length = size - 4
        }
        at += (size + 3) & ~3
      }
      packet.super = (info & INFO_SUPER) !== 0
      packet.partial = (info & INFO_NO_CHECKSUM) !== 0
      packet.unverified = (info & INFO_UNVERIFIED) !== 0
      return true
    }
  }

  accept(): void {
    this.#verdict(1)
  }

  drop(): void {
    this.#verdict(0)
  }

  /** Hands the packet over to another queue, whose owner decides; it is there when this returns. */
  pass(queue: number): void {
    this.#verdict(((queue << 16) | QUEUE) >>> 0)
  }

  /**
   * Accepts the packet as `headers` bytes at `headersAt` and `length` bytes of the arena at `payloadAt`. At most MAX_REPLACEMENT.
   */
  replace(headers: number, payloadAt: number, length: number): void {
    const { view, base } = this.#arena
    const at = this.#verdictAt
    const size = headers + length
    this.#head(VERDICT_HEADER + ((size + 3) & ~3), 1)
    view.setUint16(at + 32, 4 + size, true)
    view.setUint16(at + 34, Attribute.PAYLOAD, true)
    const iovec = this.#iovecAt
    this.#arena.setUint64(iovec, base + at)
    this.#arena.setUint64(iovec + 8, VERDICT_HEADER + headers)
    this.#arena.setUint64(iovec + 16, base + payloadAt)
    // The attribute is padded; what follows the payload in the arena will do.
    this.#arena.setUint64(iovec + 24, length + (-size & 3))
    if (gather(this.fd, iovec + base, 2) < 0) this.refused++
  }

  #verdict(verdict: number): void {
    this.#head(32, verdict)
    if (send(this.fd, this.#arena.base + this.#verdictAt, 32, 0) < 0) this.refused++
  }

  #head(length: number, verdict: number): void {
    const { view, u8 } = this.#arena
    const at = this.#verdictAt
    view.setUint32(at, length, true)
    view.setUint16(at + 4, SUBSYSTEM | MESSAGE_VERDICT, true)
    view.setUint16(at + 6, 1, true)
    view.setUint32(at + 8, 0)
    view.setUint32(at + 12, 0)
    u8[at + 16] = 0
    u8[at + 17] = 0
    view.setUint16(at + 18, this.#number)
    view.setUint16(at + 20, 12, true)
    view.setUint16(at + 22, Attribute.VERDICT, true)
    view.setUint32(at + 24, verdict)
    view.setUint32(at + 28, this.packet.id)
  }

  close(): void {
    this.#socket.close()
  }
}

function be32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff)
}
