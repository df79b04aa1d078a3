/**
 * Tells the main thread that a descriptor has something to read, without a thread that waits and without blocking the
 * event loop: the kernel sends SIGIO (fcntl O_ASYNC), which Node turns into an event within a fraction of a
 * millisecond. SIGIO does not say which descriptor: each callback reads until there is nothing more, none included.
 */
import { isMainThread } from 'node:worker_threads'
import { GodwitError } from '../core/errors.ts'
import { check, declare } from './libc.ts'

const fcntl = declare<(fd: number, command: number, type: 'int', value: number) => number>(
  'int fcntl(int fd, int command, ...)',
)
const F_GETFL = 3
const F_SETFL = 4
const F_SETOWN = 8
const O_ASYNC = 0x2000
const O_NONBLOCK = 0x800

const callbacks = new Map<number, () => void>()
let listening = false

/**
 * Calls `callback` whenever `fd` (a socket or pipe, made non-blocking) may have become readable, until `stopReadable`.
 * Does not keep the process alive. Main thread only.
 */
export function onReadable(fd: number, callback: () => void): void {
  if (!isMainThread) throw new GodwitError('INTERNAL', 'readable events are for the main thread')
  if (!listening) {
    listening = true
    // Never removed: the default action of a late SIGIO would end the process.
    process.on('SIGIO', () => {
      for (const each of [...callbacks.values()]) each()
    })
  }
  callbacks.set(fd, callback)
  check(fcntl(fd, F_SETOWN, 'int', process.pid), 'own a descriptor')
  const flags = check(fcntl(fd, F_GETFL, 'int', 0), 'read descriptor flags')
  check(fcntl(fd, F_SETFL, 'int', flags | O_ASYNC | O_NONBLOCK), 'set descriptor flags')
  // Data that arrived before causes no signal.
  setImmediate(() => callbacks.get(fd)?.())
}

/** Ends the callbacks of `fd`; call before closing it. */
export function stopReadable(fd: number): void {
  if (!callbacks.delete(fd)) return
  const flags = fcntl(fd, F_GETFL, 'int', 0)
  if (flags >= 0) fcntl(fd, F_SETFL, 'int', flags & ~O_ASYNC)
}
