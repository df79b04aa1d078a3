/**
 * libc by FFI: the one place that loads it. Each module of this folder declares the few functions it calls next to
 * where it calls them. Declared functions are synchronous; memory is passed as numbers (addresses) from an `Arena`,
 * or as a Buffer for set-up calls.
 */
import koffi from 'koffi'
import { type ErrorDetails, GodwitError } from '../core/errors.ts'

const library = koffi.load(null)

// biome-ignore lint/suspicious/noExplicitAny: the signature string is the type; the caller states it in TypeScript
type NativeFunction = (...args: any[]) => any

/** Declares a C function of libc (or of the OpenSSL inside Node), e.g. `long read(int fd, size_t buf, size_t n)`. */
export function declare<F extends NativeFunction>(signature: string): F {
  return library.func(signature) as unknown as F
}

/** Whether the running process exports a C symbol. */
export function exportsSymbol(signature: string): boolean {
  try {
    library.func(signature)
    return true
  } catch {
    return false
  }
}

/** The calling thread's errno, valid right after a declared function returned -1. */
export function errno(): number {
  return koffi.errno()
}

/**
 * Closes a descriptor that a declared function made. Those that `node:fs` opened are closed there: in a worker thread Node
 * keeps account of its own.
 */
export const closeFd = declare<(fd: number) => number>('int close(int fd)')

export { koffi }

/** A system call failed. `errno` is the number, its symbol is the code and in the message. */
export class KernelError extends GodwitError {
  readonly errno: number
  /** The kernel's own message, if it gives one (netlink). */
  readonly kernel: string | undefined

  constructor(op: string, number: number, details: ErrorDetails & { readonly kernel?: string } = {}) {
    const text = details.kernel === undefined ? '' : ` (${details.kernel})`
    super(errnoName(number), `${op}: ${errnoName(number)}${text}`, { ...details, op })
    this.name = 'KernelError'
    this.errno = number
    this.kernel = details.kernel
  }
}

/** Throws a KernelError when `result` is negative, else returns it. */
export function check(result: number, op: string, details: ErrorDetails = {}): number {
  if (result < 0) throw new KernelError(op, errno(), details)
  return result
}

const names: Record<number, string> = Object.fromEntries(
  Object.entries(koffi.os.errno).map(([name, number]) => [number, name]),
)

export function errnoName(number: number): string {
  return names[number] ?? `errno ${number}`
}
