/** How the kernel schedules the calling thread and the process. */
import { readFileSync, writeFileSync } from 'node:fs'
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

/**
 * Where the kernel shares the processor between sessions first (autogroup, sched(7)), nice values of threads count within
 * one session alone. Gives the session of this process the nice value `nice`, unless it is another process's session, such
 * as that of a terminal. Returns whether it did; false too without the right (CAP_SYS_NICE or RLIMIT_NICE), or without
 * autogroups.
 */
export function runSessionSoon(nice: number): boolean {
  try {
    const stat = readFileSync('/proc/self/stat', 'utf8')
    // Fields of proc(5) after the name, which may have spaces: the session is the sixth of all.
    const session = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3])
    if (session !== process.pid) return false
    writeFileSync('/proc/self/autogroup', `${nice}`)
    return true
  } catch {
    return false
  }
}
