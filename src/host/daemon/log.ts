/**
 * The log: one line per message on standard error, `time level message`; the time is omitted under the journal. Peers and
 * programs influence the text and number of messages: their text cannot forge a line or send commands to a terminal, and
 * a rate limit keeps repeated messages from filling the disk. Lines that nobody reads are dropped and counted.
 */
import type { LogLevel } from '../../core/mechanism.ts'
import { printable } from '../../core/printable.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { writeLog } from './streams.ts'

const ORDER: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 2, debug: 3 }
/** Lines of one level: per second, and burst after a pause. Debug lines are not limited. */
const RATE = 10
const BURST = 1_000
/** Characters of a message. */
const MOST_LENGTH = 4_096

/** Lines of one level. */
interface Share {
  readonly lines: TokenBucket
  /** Since the last that was written. */
  leftOut: number
}

export interface LogInit {
  /** False: the line was dropped. */
  readonly write?: (line: string) => unknown
  /** Whether lines begin with the time; default: not under the journal. */
  readonly stamp?: boolean
  /** Milliseconds of a clock that does not go back. */
  readonly now?: () => number
}

export class Log {
  #level: number
  readonly #write: (line: string) => unknown
  readonly #stamp: boolean
  readonly #now: () => number
  readonly #shares: Readonly<Record<Exclude<LogLevel, 'debug'>, Share>> = {
    error: share(),
    warn: share(),
    info: share(),
  }
  /** Lines since the last that was written. */
  #unread = 0

  constructor(level: LogLevel, init: LogInit = {}) {
    this.#level = ORDER[level]
    this.#write = init.write ?? writeLog
    this.#stamp = init.stamp ?? process.env.JOURNAL_STREAM === undefined
    this.#now = init.now ?? (() => performance.now())
  }

  set level(level: LogLevel) {
    this.#level = ORDER[level]
  }

  log(level: LogLevel, message: string): void {
    if (ORDER[level] > this.#level) return
    if (level !== 'debug' && !this.#mayWrite(level)) return
    this.#line(level, message)
  }

  /** Each level has its own share: a flood of one hides nothing of another. */
  #mayWrite(level: Exclude<LogLevel, 'debug'>): boolean {
    const of = this.#shares[level]
    if (!of.lines.take(this.#now())) {
      of.leftOut++
      return false
    }
    if (of.leftOut > 0) this.#line(level, `${of.leftOut} lines were dropped: more than ${RATE} per second`)
    of.leftOut = 0
    return true
  }

  #line(level: LogLevel, message: string): void {
    const whole = message.length <= MOST_LENGTH ? message : `${message.slice(0, MOST_LENGTH)}…`
    const text = `${level.padEnd(5)} ${printable(whole.replace(/[\n\r]+/g, ' | '))}\n`
    const time = this.#stamp ? `${new Date().toISOString()} ` : ''
    const before =
      this.#unread > 0 ? `${time}warn  ${this.#unread} lines were dropped: nobody read the log\n` : ''
    if (this.#write(`${before}${time}${text}`) === false) this.#unread++
    else this.#unread = 0
  }
}

function share(): Share {
  return { lines: new TokenBucket(RATE, BURST), leftOut: 0 }
}
