/**
 * Standard output and error of a daemon, which outlives who reads them: a wrapper that has ended, a journal that was stopped or stands still, a full
 * disk. None of these ends it, holds its end up, or takes memory without bound.
 */
import type { Recorder } from '../../core/mechanism.ts'

/** Bytes of the log that wait to be read; lines beyond are dropped. */
const MAX_WAITING = 65_536
/** What still waits when the daemon has ended may be read for so long (ms). */
const LAST_MS = 1_000

/** `ready`, for who waits for it. */
export function sayReady(recorder: Recorder): void {
  // A command whose reader is gone ends. What this one made in the kernel would stay.
  process.stdout.removeAllListeners('error')
  process.stdout.on('error', ({ message }) =>
    recorder.log('warn', `standard output cannot be written (${message}): "ready" was not said; going on`),
  )
  process.stdout.write('ready\n')
}

/** Writes a line of the log; false: nobody reads those before it, and it was dropped. */
export function writeLog(line: string): boolean {
  if (process.stderr.writableLength > MAX_WAITING) return false
  process.stderr.write(line)
  return true
}

/** Everything is removed: lines that nobody reads do not keep the process. */
export function endUnread(): void {
  setTimeout(() => process.exit(), LAST_MS).unref()
}
