/** sd_notify(3): reports to the service manager that the daemon is ready or stopping. */
import { closeFd, declare } from './libc.ts'

const socket = declare<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
)
const sendto = declare<
  (fd: number, data: Buffer, length: number, flags: number, to: Buffer, toLength: number) => number
>('long sendto(int fd, void *data, size_t length, int flags, void *to, unsigned int tolen)')

const AF_UNIX = 1
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000
const MSG_NOSIGNAL = 0x4000

/** Sends e.g. `READY=1` to $NOTIFY_SOCKET; false when there is none or it does not answer. Never throws. */
export function notifyManager(message: string, path = process.env.NOTIFY_SOCKET): boolean {
  if (path === undefined || path === '') return false
  const name = Buffer.from(path)
  if (name.length > 107) return false
  if (name[0] === 0x40) name[0] = 0 // "@": the abstract namespace
  const address = Buffer.alloc(2 + name.length)
  address.writeUInt16LE(AF_UNIX, 0)
  name.copy(address, 2)
  const fd = socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0)
  if (fd < 0) return false
  const data = Buffer.from(message)
  const sent = sendto(fd, data, data.length, MSG_NOSIGNAL, address, address.length)
  closeFd(fd)
  return sent === data.length
}
