/**
 * A descriptor that becomes readable when the wall clock was set or the machine has slept: a timer for the end of time that such
 * a change cancels (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET). For threads that wait with poll.
 */
import { check, closeFd, declare } from './libc.ts'

const timerfdCreate = declare<(clock: number, flags: number) => number>(
  'int timerfd_create(int clock, int flags)',
)
const timerfdSettime = declare<(fd: number, flags: number, spec: Uint8Array, old: null) => number>(
  'int timerfd_settime(int fd, int flags, uint8_t *spec, uint8_t *old)',
)
const libcRead = declare<(fd: number, into: Uint8Array, size: number) => number>(
  'long read(int fd, uint8_t *into, size_t size)',
)

const CLOCK_REALTIME = 0
const NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
const ABSTIME_CANCEL_ON_SET = 1 | 2
/** Seconds since 1970: the year 2242. */
const NEVER = 2n ** 33n

export class ClockEvents {
  readonly fd: number
  readonly #ticks = new Uint8Array(8)

  /** Throws KernelError where the kernel has no such timer. */
  constructor() {
    this.fd = check(timerfdCreate(CLOCK_REALTIME, NONBLOCK_CLOEXEC), 'timerfd_create')
    // struct itimerspec: interval, then the time of the first; seconds and nanoseconds each.
    const spec = new BigInt64Array([0n, 0n, NEVER, 0n])
    check(
      timerfdSettime(this.fd, ABSTIME_CANCEL_ON_SET, new Uint8Array(spec.buffer), null),
      'timerfd_settime',
    )
  }

  /** To be called when it is readable: the next change makes it readable again. */
  take(): void {
    libcRead(this.fd, this.#ticks, this.#ticks.length) // ECANCELED
  }

  close(): void {
    closeFd(this.fd)
  }
}
