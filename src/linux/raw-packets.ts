/**
 * Whole IP packets past the kernel's transport layer: a raw socket that sends them as if from a local socket, and a
 * packet socket that receives leaving and arriving packets that pass a filter. Main thread only.
 */
import { viewOf } from '../core/bytes.ts'
import { Arena } from './arena.ts'
import { check, closeFd, declare } from './libc.ts'
import { inNamespace } from './netns.ts'
import { onReadable, stopReadable } from './readable.ts'

const socket = declare<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
)
const sendTo = declare<
  (fd: number, bytes: Uint8Array, length: number, flags: number, to: Uint8Array, size: number) => number
>('long sendto(int fd, void *buf, size_t n, int flags, void *to, unsigned int size)')
const receive = declare<(fd: number, out: Uint8Array, length: number, flags: number) => number>(
  'long recv(int fd, _Out_ uint8_t *buf, size_t n, int flags)',
)
const setOption = declare<
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
const SO_MARK = 36
const SO_BINDTODEVICE = 25
const ETH_P_ALL_BE = 0x0300
/** Bytes of a filter: 512 instructions. */
const FILTER_BYTES = 4096

/** Sends whole IP packets as if a local socket had: they pass the OUTPUT hook and are routed. */
export class RawSender {
  readonly #v4: number
  readonly #v6: number

  /** `mark`: of the packets; `device`: the interface that they leave by, regardless of routing. */
  constructor(netns?: string, { mark, device }: { readonly mark?: number; readonly device?: string } = {}) {
    const open = (family: number): number => {
      const fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)
      if (fd < 0) return fd
      if (mark !== undefined) setWord(fd, SO_MARK, mark)
      if (device !== undefined) {
        const name = new TextEncoder().encode(`${device}\0`)
        check(setOption(fd, SOL_SOCKET, SO_BINDTODEVICE, name, name.length), `bind a raw socket to ${device}`)
      }
      return fd
    }
    this.#v4 = inNamespace(netns, () => check(open(AF_INET), 'open a raw socket'))
    this.#v6 = inNamespace(netns, () => open(AF_INET6))
  }

  /** `destination`: the packet's, 4 or 16 bytes. False when the kernel refuses the packet. */
  send(bytes: Uint8Array, destination: Uint8Array): boolean {
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

function setWord(fd: number, name: number, value: number): void {
  const bytes = new Uint8Array(4)
  viewOf(bytes).setUint32(0, value, true)
  check(setOption(fd, SOL_SOCKET, name, bytes, 4), 'set up a raw socket')
}

/** Passes the packets of all devices that match the filter to `take`, from their IP header on. */
export class PacketSocket {
  readonly #fd: number
  readonly #take: (bytes: Uint8Array, length: number) => void
  readonly #buffer = new Uint8Array(65_536)
  readonly #program = new Arena(FILTER_BYTES)

  /** `filter`: classic BPF (classic-bpf.ts). `take` may use the bytes only during the call. */
  constructor(
    filter: Uint8Array,
    take: (bytes: Uint8Array, length: number) => void,
    netns: string | undefined,
  ) {
    this.#take = take
    this.#fd = inNamespace(netns, () =>
      check(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'open a packet socket'),
    )
    // The filter is set before the first packet can arrive.
    this.filter(filter)
    const name = new Uint8Array(20)
    name[0] = AF_PACKET
    viewOf(name).setUint16(2, ETH_P_ALL_BE, true)
    inNamespace(netns, () => check(bindSocket(this.#fd, name, 20), 'bind a packet socket'))
    onReadable(this.#fd, () => this.drain())
  }

  /** From now on this filter decides. */
  filter(program: Uint8Array): void {
    this.#program.u8.set(program)
    const option = new Uint8Array(16)
    const view = viewOf(option)
    view.setUint16(0, program.length / 8, true)
    view.setBigUint64(8, BigInt(this.#program.base), true)
    check(setOption(this.#fd, SOL_SOCKET, SO_ATTACH_FILTER, option, 16), 'filter a packet socket')
  }

  /** Reads what is there now; the kernel signals it a little later. */
  drain(): void {
    for (;;) {
      const length = receive(this.#fd, this.#buffer, this.#buffer.length, MSG_DONTWAIT)
      if (length <= 0) return
      this.#take(this.#buffer, length)
    }
  }

  close(): void {
    stopReadable(this.#fd)
    closeFd(this.#fd)
  }
}
