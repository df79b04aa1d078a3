/**
 * Waiting for the kernel in a thread of one's own: poll(2) over a set of descriptors, with an eventfd through which any
 * other thread ends the wait. A worker that blocks here cannot be interrupted otherwise, not even by `terminate()`.
 */
import { EINTR } from '../core/errno.ts'
import { Arena } from './arena.ts'
import { check, closeFd, declare, errno, KernelError } from './libc.ts'

const libcPoll = declare<(fds: number, count: number, timeout: number) => number>(
  'int poll(size_t fds, unsigned long count, int timeout)',
)
const eventfd = declare<(initial: number, flags: number) => number>(
  'int eventfd(unsigned int initial, int flags)',
)
const eventfdRead = declare<(fd: number, value: Buffer) => number>('int eventfd_read(int fd, uint8_t *value)')
const eventfdWrite = declare<(fd: number, value: number) => number>(
  'int eventfd_write(int fd, uint64_t value)',
)

export const POLLIN = 1
export const POLLOUT = 4
export const POLLERR = 8
export const POLLHUP = 16
const EFD_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
const ENTRY = 8

/** Ends the wait of the poller on this eventfd; from any thread. */
export function wake(fd: number): void {
  eventfdWrite(fd, 1)
}

/** Waits for descriptors; what the engine's loop sleeps in. */
export interface Poller {
  /** Write here (see `wake`) to end a wait. */
  readonly wakeFd: number
  add(fd: number, events: number): void
  remove(fd: number): void
  /**
   * Waits until something is ready or `timeout` milliseconds passed (-1: for ever, 0: do not wait). Returns the number of
   * ready descriptors; interruption by a signal counts as none.
   */
  wait(timeout: number): number
  /** POLL… bits of a descriptor from the last wait. */
  ready(fd: number): number
  /** Whether `wake` ended the last wait; resets the wake-up. */
  woken(): boolean
  close(): void
}

export class KernelPoller implements Poller {
  readonly wakeFd: number
  readonly #arena = new Arena(4096)
  readonly #fds: number[] = []
  readonly #drain = Buffer.alloc(8)

  constructor() {
    this.wakeFd = check(eventfd(0, EFD_NONBLOCK_CLOEXEC), 'eventfd')
    this.add(this.wakeFd, POLLIN)
  }

  add(fd: number, events: number): void {
    const at = this.#fds.length * ENTRY
    if (at + ENTRY > this.#arena.size) throw new RangeError('too many descriptors in one poller')
    this.#fds.push(fd)
    this.#arena.view.setInt32(at, fd, true)
    this.#arena.view.setUint32(at + 4, events, true)
  }

  remove(fd: number): void {
    const index = this.#fds.indexOf(fd)
    if (index < 0) return
    this.#fds.splice(index, 1)
    this.#arena.u8.copyWithin(index * ENTRY, (index + 1) * ENTRY, (this.#fds.length + 1) * ENTRY)
  }

  wait(timeout: number): number {
    const n = libcPoll(this.#arena.base, this.#fds.length, timeout < 0 ? -1 : Math.ceil(timeout))
    if (n >= 0) return n
    const number = errno()
    if (number === EINTR) return 0
    throw new KernelError('poll', number)
  }

  ready(fd: number): number {
    const index = this.#fds.indexOf(fd)
    return index < 0 ? 0 : this.#arena.view.getUint16(index * ENTRY + 6, true)
  }

  woken(): boolean {
    if (this.#arena.view.getUint16(6, true) === 0) return false
    eventfdRead(this.wakeFd, this.#drain)
    return true
  }

  close(): void {
    closeFd(this.wakeFd)
  }
}
