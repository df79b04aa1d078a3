/** A file in memory: what is written there is still there when the process is killed, at no cost per write. */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, rmSync } from 'node:fs'
import { declare, errno, KernelError, koffi } from './libc.ts'

const mmap = declare<
  (addr: number, length: number, prot: number, flags: number, fd: number, off: number) => unknown
>('void *mmap(size_t addr, size_t length, int prot, int flags, int fd, long offset)')
const fallocate = declare<(fd: number, mode: number, at: number, length: number) => number>(
  'int fallocate(int fd, int mode, long offset, long length)',
)

const PROT_READ_WRITE = 3
const MAP_SHARED = 1

export class MappedFile {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly #path: string
  readonly #fd: number

  /**
   * Opens a file of `size` bytes, or makes one. It is this user's, nobody else can read it, and it has one name: any other is replaced
   * by an empty one. It takes no memory yet: `room` does.
   */
  constructor(path: string, size: number) {
    this.#path = path
    this.#fd = open(path, size)
    const pointer = mmap(0, size, PROT_READ_WRITE, MAP_SHARED, this.#fd, 0)
    if (koffi.address(pointer as never) >= BigInt(Number.MAX_SAFE_INTEGER)) {
      const number = errno()
      closeSync(this.#fd)
      throw new KernelError(`map ${path}`, number)
    }
    const buffer = koffi.view(pointer as never, size) as ArrayBuffer
    this.bytes = new Uint8Array(buffer)
    this.view = new DataView(buffer)
  }

  /**
   * Makes sure that there is memory for these bytes; false when the file system is full. Elsewhere reading ends the process (SIGBUS)
   * when there is none, and so does writing.
   */
  room(at: number, length: number): boolean {
    return fallocate(this.#fd, 0, at, length) === 0
  }

  close(): void {
    closeSync(this.#fd)
  }

  /** Closes it, and nothing is left of it, not even its memory: nobody may touch that any more. */
  remove(): void {
    ftruncateSync(this.#fd, 0)
    this.close()
    rmSync(this.#path, { force: true })
  }
}

function open(path: string, size: number): number {
  const { O_RDWR, O_NOFOLLOW, O_NONBLOCK, O_CREAT, O_EXCL } = constants
  try {
    const fd = openSync(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK)
    const { uid, mode, nlink, size: has } = fstatSync(fd)
    if (uid === process.getuid!() && (mode & 0o170_077) === 0o100_000 && nlink === 1 && has === size)
      return fd
    closeSync(fd)
  } catch {
    // There is none, or none that may be used.
  }
  rmSync(path, { force: true })
  const fd = openSync(path, O_RDWR | O_NOFOLLOW | O_CREAT | O_EXCL, 0o600)
  ftruncateSync(fd, size)
  return fd
}
