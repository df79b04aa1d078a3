/** A device that gets whole segments: the kernel cuts super-packets before it, so that each may be lost by itself. */
import { Arena } from '../../src/linux/arena.ts'
import { check, closeFd, declare } from '../../src/linux/libc.ts'
import { inNamespace } from '../../src/linux/netns.ts'

const socket = declare<(family: number, type: number, protocol: number) => number>(
  'int socket(int family, int type, int protocol)',
)
const ioctl = declare<(fd: number, request: number, argument: number) => number>(
  'int ioctl(int fd, unsigned long request, size_t argument)',
)
const AF_INET = 2
const SOCK_DGRAM = 2
const SIOCETHTOOL = 0x8946
const ETHTOOL_STSO = 0x1f

export function cutSegments(netns: string, device: string): void {
  const arena = new Arena(4096)
  // struct ifreq: name 16, address of struct ethtool_value: command u32, value u32
  arena.u8.set(new TextEncoder().encode(device))
  arena.setUint64(16, arena.base + 64)
  arena.view.setUint32(64, ETHTOOL_STSO, true)
  inNamespace(netns, () => {
    const fd = check(socket(AF_INET, SOCK_DGRAM, 0), 'open a socket')
    try {
      check(ioctl(fd, SIOCETHTOOL, arena.base), `cut segments before ${device}`)
    } finally {
      closeFd(fd)
    }
  })
}
