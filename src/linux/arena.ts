/**
 * One block of memory outside the JavaScript heap, addressed by number. All packet memory of a datapath is one arena:
 * system calls and OpenSSL take `base + offset`, JavaScript reads and writes the same bytes through `u8` and `view`.
 */
import { declare, errno, KernelError, koffi } from './libc.ts'

const mmap = declare<
  (addr: number, length: number, prot: number, flags: number, fd: number, off: number) => unknown
>('void *mmap(size_t addr, size_t length, int prot, int flags, int fd, long offset)')
const madvise = declare<(addr: number, length: number, advice: number) => number>(
  'int madvise(size_t addr, size_t length, int advice)',
)

const PROT_READ_WRITE = 3
const MAP_PRIVATE_ANONYMOUS = 0x22
/** Below 2 GB where the architecture offers it: addresses then are small integers to V8 and cross the FFI unboxed. */
const MAP_32BIT = process.arch === 'x64' ? 0x40 : 0
const MADV_HUGEPAGE = 14
const HUGE_PAGE = 2 << 20

function mapped(pointer: unknown): boolean {
  const address = koffi.address(pointer as never)
  return address > 0n && address < BigInt(Number.MAX_SAFE_INTEGER)
}

export class Arena {
  /** Address of the first byte. */
  readonly base: number
  readonly size: number
  readonly buffer: ArrayBuffer
  readonly u8: Uint8Array
  /** The same bytes as 32-bit words in the host's order, for comparing and moving aligned structures. */
  readonly u32: Uint32Array
  readonly view: DataView
  #used = 0
  /** Released areas by length. */
  readonly #released = new Map<number, number[]>()

  /** Maps `size` bytes, zeroed, never unmapped. Large arenas ask for huge pages: fewer TLB misses per packet, but memory that nothing uses. */
  constructor(size: number, hugePages = size >= HUGE_PAGE) {
    let pointer = mmap(0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS | MAP_32BIT, -1, 0)
    if (!mapped(pointer)) pointer = mmap(0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
    if (!mapped(pointer)) throw new KernelError(`mmap ${size} bytes`, errno())
    this.base = Number(koffi.address(pointer as never))
    if (hugePages) madvise(this.base, size, MADV_HUGEPAGE)
    this.size = size
    this.buffer = koffi.view(pointer as never, size) as ArrayBuffer
    this.u8 = new Uint8Array(this.buffer)
    this.u32 = new Uint32Array(this.buffer, 0, size >>> 2)
    this.view = new DataView(this.buffer)
  }

  /** Reserves `length` zeroed bytes aligned to `align` (a power of two) and returns their offset. */
  reserve(length: number, align = 64): number {
    const again = this.#released.get(length)
    if (align <= 64 && again !== undefined && again.length > 0) {
      const offset = again.pop()!
      this.u8.fill(0, offset, offset + length)
      return offset
    }
    const offset = (this.#used + align - 1) & ~(align - 1)
    if (offset + length > this.size) throw new RangeError(`arena of ${this.size} bytes is full`)
    this.#used = offset + length
    return offset
  }

  /** Gives back what `reserve` gave (aligned to 64), for the next reservation of the same length. */
  release(offset: number, length: number): void {
    const list = this.#released.get(length)
    if (list === undefined) this.#released.set(length, [offset])
    else list.push(offset)
  }

  /** Drops all reservations and zeroes them; their owners must be gone. */
  reset(): void {
    this.u8.fill(0, 0, this.#used)
    this.#used = 0
    this.#released.clear()
  }

  /** Writes an address or a size_t (below 2^53) in the host's little-endian order. */
  setUint64(offset: number, value: number): void {
    this.view.setUint32(offset, value >>> 0, true)
    this.view.setUint32(offset + 4, Math.floor(value / 4294967296), true)
  }
}
