/** An eBPF array that this process sees as memory (Linux 5.5): what is written on either side is there on the other at once. */
import { attributes, bpf, NEEDS_BPF } from './bpf.ts'
import { check, closeFd, declare, errno, KernelError, koffi } from './libc.ts'

const mmap = declare<
  (addr: number, length: number, prot: number, flags: number, fd: number, off: number) => unknown
>('void *mmap(size_t addr, size_t length, int prot, int flags, int fd, long offset)')

const BPF_MAP_CREATE = 0
const MAP_TYPE_ARRAY = 2
const MMAPABLE = 1 << 10
const PROT_READ_WRITE = 3
const MAP_SHARED = 1

export class SharedArray {
  readonly fd: number
  readonly view: DataView

  /** `length`: bytes of an element, a multiple of 8. */
  static create(name: string, length: number, elements: number): SharedArray {
    const call = attributes()
    for (const [i, value] of [MAP_TYPE_ARRAY, 4, length, elements, MMAPABLE].entries())
      call.view.setUint32(4 * i, value, true)
    call.setName(28, name)
    const fd = check(bpf(BPF_MAP_CREATE, 72), `make the eBPF array ${name}`, NEEDS_BPF)
    return new SharedArray(fd, length, elements)
  }

  /** Of a map that exists, of this size; the descriptor is this object's then. */
  constructor(fd: number, length: number, elements: number) {
    this.fd = fd
    const pageSize = 4096
    const size = Math.ceil((length * elements) / pageSize) * pageSize
    const pointer = mmap(0, size, PROT_READ_WRITE, MAP_SHARED, fd, 0)
    if (koffi.address(pointer as never) >= BigInt(Number.MAX_SAFE_INTEGER)) {
      const number = errno()
      closeFd(fd)
      throw new KernelError('map an eBPF array', number)
    }
    this.view = new DataView(koffi.view(pointer as never, size) as ArrayBuffer)
  }

  /** Its memory stays until the process ends. */
  close(): void {
    closeFd(this.fd)
  }
}
