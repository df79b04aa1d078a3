/**
 * Frame of the lab's programs: small servers and clients that run inside a namespace and know nothing of godwit. They
 * take one JSON object as argument, print JSON lines on stdout, and obey lines on stdin. End of stdin ends them, so none
 * outlives a lab that was killed.
 */
import { createInterface } from 'node:readline'

export function argumentsOf<T>(): T {
  return JSON.parse(process.argv[2] ?? '{}') as T
}

export function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

/** Calls `obey` for every line on stdin; exits when it ends. */
export function commands(obey: (line: string) => void): void {
  const lines = createInterface({ input: process.stdin })
  lines.on('line', obey)
  lines.on('close', () => process.exit(0))
}

/** Milliseconds of the machine's monotonic clock: the same in every process. */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1000 + nanoseconds / 1e6
}
