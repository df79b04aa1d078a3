/**
 * ICMP errors of packets that are too big for a router, as they arrive at this host (RFC 1191 §3, RFC 4443 §3.2). For threads that
 * wait with a poller of their own.
 */
import { viewOf } from '../core/bytes.ts'
import { check, closeFd, declare } from './libc.ts'

const socket = declare<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
)
const receive = declare<(fd: number, out: Uint8Array, length: number, flags: number) => number>(
  'long recv(int fd, _Out_ uint8_t *buf, size_t n, int flags)',
)
const setOption = declare<
  (fd: number, level: number, name: number, value: Uint8Array, size: number) => number
>('int setsockopt(int fd, int level, int name, void *value, unsigned int size)')

const AF_INET = 2
const AF_INET6 = 10
/** SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC */
const RAW = 3 | 0x800 | 0x80000
const IPPROTO_ICMP = 1
const IPPROTO_ICMPV6 = 58
const SOL_RAW = 255
/** Types that a set bit keeps away, of 32 (v4) and of 256 (v6). */
const ICMP_FILTER = 1
const UNREACHABLE = 3
const PACKET_TOO_BIG = 2
/** An error quotes what its own packet has room for: 576 or 1,280 bytes in all; this much is looked at. */
const LONGEST = 256
/** Errors that are read at once. */
const READS = 64

export class IcmpErrors {
  readonly #v4: number
  /** -1: IPv6 is turned off. */
  readonly #v6: number
  readonly #buffer = new Uint8Array(LONGEST)
  readonly #view = viewOf(this.#buffer)

  constructor() {
    this.#v4 = check(socket(AF_INET, RAW, IPPROTO_ICMP), 'open a socket for ICMP errors')
    keepAway(this.#v4, SOL_RAW, 4, UNREACHABLE)
    this.#v6 = socket(AF_INET6, RAW, IPPROTO_ICMPV6)
    if (this.#v6 >= 0) keepAway(this.#v6, IPPROTO_ICMPV6, 32, PACKET_TOO_BIG)
  }

  get fds(): readonly number[] {
    return this.#v6 < 0 ? [this.#v4] : [this.#v4, this.#v6]
  }

  /** Passes what has come at `fd` to `take`, from the ICMP header on; `icmp`: where that is. The view holds only during the call. */
  read(fd: number, take: (view: DataView, icmp: number, length: number) => void): void {
    for (let i = 0; i < READS; i++) {
      const length = receive(fd, this.#buffer, LONGEST, 0)
      if (length <= 0) return
      // Of IPv4 the whole packet is read.
      const icmp = fd === this.#v4 ? (this.#buffer[0]! & 0xf) * 4 : 0
      if (icmp < length) take(this.#view, icmp, length)
    }
  }

  close(): void {
    for (const fd of this.fds) closeFd(fd)
  }
}

function keepAway(fd: number, level: number, size: number, but: number): void {
  const types = new Uint8Array(size).fill(0xff)
  viewOf(types).setUint32(0, ~(1 << but) >>> 0, true)
  check(setOption(fd, level, ICMP_FILTER, types, size), 'filter ICMP errors')
}
