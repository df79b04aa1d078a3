/** The log: one line a message on standard error, `time level message`; the time is left out under the journal. */
import type { LogLevel } from '../../core/mechanism.ts'

const ORDER: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 2, debug: 3 }

export class Log {
  readonly #level: number
  readonly #write: (line: string) => void
  readonly #stamp: boolean

  constructor(
    level: LogLevel,
    write: (line: string) => void = (line) => process.stderr.write(line),
    stamp = process.env.JOURNAL_STREAM === undefined,
  ) {
    this.#level = ORDER[level]
    this.#write = write
    this.#stamp = stamp
  }

  log(level: LogLevel, message: string): void {
    if (ORDER[level] > this.#level) return
    const time = this.#stamp ? `${new Date().toISOString()} ` : ''
    // A message must not be able to forge a line of its own: parts of it come from peers.
    this.#write(`${time}${level.padEnd(5)} ${message.replace(/[\n\r]+/g, ' | ')}\n`)
  }
}
