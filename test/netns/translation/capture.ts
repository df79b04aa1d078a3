/**
 * What is on the wire: a packet socket in a network namespace that keeps every datagram of IHMP, whole. Needs no other
 * program, and nothing of src/translation.
 */
import { declare } from '../../../src/linux/libc.ts'
import { inNamespace } from '../../../src/linux/netns.ts'
import { onReadable, stopReadable } from '../../../src/linux/readable.ts'

const socket = declare<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
)
const receive = declare<(fd: number, out: Uint8Array, length: number, flags: number) => number>(
  'long recv(int fd, _Out_ uint8_t *buf, size_t n, int flags)',
)
const closeFd = declare<(fd: number) => number>('int close(int fd)')

const AF_PACKET = 17
const SOCK_DGRAM_NONBLOCK = 2 | 0x800
const ETH_P_ALL_BE = 0x0300
const MSG_DONTWAIT = 0x40
const UDP = 17

export interface Captured {
  readonly from: string
  readonly to: string
  readonly fromPort: number
  readonly toPort: number
  /** The UDP payload. */
  readonly bytes: Uint8Array
}

export class Capture {
  readonly packets: Captured[] = []
  readonly #fd: number
  readonly #port: number
  readonly #buffer = new Uint8Array(65_536)

  constructor(netns: string, port: number) {
    this.#port = port
    this.#fd = inNamespace(netns, () => socket(AF_PACKET, SOCK_DGRAM_NONBLOCK, ETH_P_ALL_BE))
    if (this.#fd < 0) throw new Error('no packet socket')
    onReadable(this.#fd, () => this.#drain())
  }

  #drain(): void {
    for (;;) {
      const length = receive(this.#fd, this.#buffer, this.#buffer.length, MSG_DONTWAIT)
      if (length <= 0) return
      const packet = this.#read(Buffer.from(this.#buffer.subarray(0, length)))
      if (packet !== undefined) this.packets.push(packet)
    }
  }

  #read(ip: Buffer): Captured | undefined {
    const version = ip[0]! >> 4
    const header = version === 4 ? (ip[0]! & 15) * 4 : 40
    const protocol = version === 4 ? ip[9] : ip[6]
    if (protocol !== UDP || ip.length < header + 8) return undefined
    const fromPort = ip.readUInt16BE(header)
    const toPort = ip.readUInt16BE(header + 2)
    if (fromPort !== this.#port && toPort !== this.#port) return undefined
    const at = version === 4 ? 12 : 8
    const width = version === 4 ? 4 : 16
    return {
      from: textOf(ip.subarray(at, at + width)),
      to: textOf(ip.subarray(at + width, at + 2 * width)),
      fromPort,
      toPort,
      bytes: Uint8Array.from(ip.subarray(header + 8, header + ip.readUInt16BE(header + 4))),
    }
  }

  close(): void {
    stopReadable(this.#fd)
    closeFd(this.#fd)
  }
}

/** An address as people write it; IPv6 without shortening more than `::` for the longest run of zeros. */
export function textOf(address: Uint8Array): string {
  if (address.length === 4) return address.join('.')
  const words = Array.from({ length: 8 }, (_, i) =>
    ((address[2 * i]! << 8) | address[2 * i + 1]!).toString(16),
  )
  return new URL(`http://[${words.join(':')}]`).hostname.slice(1, -1)
}
