/**
 * Full-screen use of a terminal: alternate screen, no cursor, raw keys. Only changed lines are written, in one write
 * between the marks of a synchronized update (mode 2026), to avoid flicker. `leave` restores the terminal.
 */
import type { ReadStream, WriteStream } from 'node:tty'

const ENTER = '\x1b[?1049h\x1b[?25l\x1b[2J'
const LEAVE = '\x1b[?25h\x1b[?1049l'
const BEGIN = '\x1b[?2026h'
const END = '\x1b[?2026l'

/** The output that turns a screen that shows `before` into one that shows `now`; empty: nothing. */
export function changes(before: readonly string[], now: readonly string[]): string {
  const rows = Math.max(before.length, now.length)
  let out = ''
  for (let row = 0; row < rows; row++)
    if (before[row] !== now[row]) out += `\x1b[${row + 1};1H\x1b[0m${now[row] ?? ''}\x1b[K`
  return out === '' ? '' : `${BEGIN}${out}${END}`
}

export class Screen {
  readonly #out: WriteStream
  readonly #in: ReadStream | undefined
  #shown: readonly string[] = []
  #entered = false

  constructor(out: WriteStream, input: ReadStream | undefined, onKey: (key: string) => void) {
    this.#out = out
    this.#in = input
    input?.setEncoding('utf8').on('data', (key) => onKey(String(key)))
  }

  get width(): number {
    return this.#out.columns || 80
  }

  get height(): number {
    return this.#out.rows || 24
  }

  get hasKeys(): boolean {
    return this.#in !== undefined
  }

  enter(): void {
    if (this.#entered) return
    this.#entered = true
    this.#in?.setRawMode(true).resume()
    this.#out.write(ENTER)
    this.#shown = []
  }

  leave(): void {
    if (!this.#entered) return
    this.#entered = false
    this.#out.write(LEAVE)
    this.#in?.setRawMode(false).pause()
  }

  /** After the size has changed: what is shown is not known any more. */
  forget(): void {
    if (this.#entered) this.#out.write('\x1b[2J')
    this.#shown = []
  }

  draw(lines: readonly string[]): void {
    const text = changes(this.#shown, lines)
    this.#shown = lines
    if (this.#entered && text !== '') this.#out.write(text)
  }
}
