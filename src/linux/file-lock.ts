/** flock(2): a lock that ends with the process that holds it, however it ends. */

import { closeSync, openSync } from 'node:fs'
import { EAGAIN } from '../core/errno.ts'
import { declare, errno, KernelError } from './libc.ts'

const flock = declare<(fd: number, operation: number) => number>('int flock(int fd, int operation)')
const LOCK_EX = 2
const LOCK_NB = 4

/** Takes the lock on a file (made when missing) without waiting; its descriptor, or undefined when another holds it. */
export function tryLock(path: string): number | undefined {
  const fd = openSync(path, 'a', 0o600)
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return fd
  const code = errno()
  closeSync(fd)
  if (code === EAGAIN) return undefined
  throw new KernelError(`flock ${path}`, code)
}

export function unlock(fd: number): void {
  closeSync(fd)
}
