/** Unix datagram sockets (unix(7)), which Node lacks: control sockets of other daemons. Main thread only. */
import { rmSync } from 'node:fs'
import { check, closeFd, declare, errno } from './libc.ts'
import { onReadable, stopReadable } from './readable.ts'

const socket = declare<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
)
const bind = declare<(fd: number, address: Buffer, length: number) => number>(
  'int bind(int fd, void *address, unsigned int length)',
)
const sendto = declare<
  (fd: number, data: Buffer, length: number, flags: number, to: Buffer, toLength: number) => number
>('long sendto(int fd, void *data, size_t length, int flags, void *to, unsigned int tolen)')
const recvfrom = declare<
  (fd: number, data: Buffer, length: number, flags: number, from: Buffer, fromLength: Buffer) => number
>('long recvfrom(int fd, void *data, size_t length, int flags, void *from, void *fromlen)')

const AF_UNIX = 1
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
/** The longest answer of wpa_supplicant is 4096 bytes, a scan list some more. */
const MOST_BYTES = 65_536
const PATH_BYTES = 107

export class UnixDatagram {
  readonly path: string
  readonly #fd: number
  readonly #buffer = Buffer.alloc(MOST_BYTES)

  /** Binds to `path`, which must not exist. `receive` gets each message with its sender's path. Throws KernelError. */
  constructor(path: string, receive: (text: string, from: string) => void) {
    this.path = path
    this.#fd = check(socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0), 'make a Unix socket')
    try {
      const name = addressOf(path)
      check(bind(this.#fd, name, name.length), `bind ${path}`)
    } catch (error) {
      closeFd(this.#fd)
      throw error
    }
    onReadable(this.#fd, () => this.#read(receive))
  }

  #read(receive: (text: string, from: string) => void): void {
    const from = Buffer.alloc(2 + PATH_BYTES + 1)
    const length = Buffer.alloc(4)
    for (;;) {
      length.writeUInt32LE(from.length)
      const bytes = recvfrom(this.#fd, this.#buffer, MOST_BYTES, MSG_DONTWAIT, from, length)
      if (bytes < 0) return
      const name = from.subarray(2, Math.max(2, length.readUInt32LE()))
      const end = name.indexOf(0)
      receive(this.#buffer.toString('utf8', 0, bytes), name.toString('utf8', 0, end < 0 ? name.length : end))
    }
  }

  /** Sends a message; returns 0 or the errno (no listener: ECONNREFUSED, ENOENT). */
  send(text: string, to: string): number {
    const data = Buffer.from(text)
    const address = addressOf(to)
    const sent = sendto(this.#fd, data, data.length, MSG_DONTWAIT | MSG_NOSIGNAL, address, address.length)
    return sent < 0 ? errno() : 0
  }

  close(): void {
    stopReadable(this.#fd)
    closeFd(this.#fd)
    rmSync(this.path, { force: true })
  }
}

function addressOf(path: string): Buffer {
  const name = Buffer.from(path)
  check(name.length > PATH_BYTES ? -1 : 0, `a Unix socket's path has at most ${PATH_BYTES} bytes`)
  const address = Buffer.alloc(2 + name.length + 1)
  address.writeUInt16LE(AF_UNIX, 0)
  name.copy(address, 2)
  return address
}
