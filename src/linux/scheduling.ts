/** How the kernel schedules the calling thread. */
import { declare } from './libc.ts'

const syscall = declare<(number: number, pid: number, attributes: Uint8Array, flags: number) => number>(
  'long syscall(long number, int pid, void *attributes, unsigned int flags)',
)
/** sched_setattr(2). */
const NUMBERS: Readonly<Record<string, number>> = { x64: 314, arm64: 274 }
const SIZE = 48

/**
 * Lets the calling thread run soon after it wakes: nice value `nice`, and slices of `sliceMs` (0.1 to 100), which a thread
 * that has just woken gets before others use up longer ones (EEVDF, Linux 6.12; older kernels ignore it). Returns false
 * where the right (CAP_SYS_NICE) or the call is missing; the thread then runs as before.
 */
export function runSoon(nice: number, sliceMs: number): boolean {
  const number = NUMBERS[process.arch]
  if (number === undefined) return false
  const attributes = new Uint8Array(SIZE)
  const view = new DataView(attributes.buffer)
  view.setUint32(0, SIZE, true)
  view.setInt32(16, nice, true)
  view.setBigUint64(24, BigInt(Math.round(sliceMs * 1e6)), true)
  return syscall(number, 0, attributes, 0) === 0
}
