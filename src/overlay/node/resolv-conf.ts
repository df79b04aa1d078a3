/**
 * Adds this daemon as first name server to /etc/resolv.conf when no program manages that file, with a comment line above.
 * Both lines are removed at the end; the rest stays. The file is written in place, because it may be a mount of its own, and never empty
 * in between: who reads it then would keep nothing of it. What a link to a missing file leads to is another program's to make.
 *
 * Several daemons on one machine stand one below the other, and each asks those below it.
 */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'

const MAX_BYTES = 65_536
const PURPOSE = 'names of the overlay; removed when the daemon stops'
const NAMESERVER = /^nameserver\s+(\S+)/

export class ResolvConf {
  readonly path: string
  readonly #mark: string
  /** Ours, as it was set last. */
  #server: string | undefined
  /** The file had other name servers then. */
  #hadOthers = false

  /** `owner`: whose line it is (Ledger.alias). */
  constructor(owner: string, path = '/etc/resolv.conf') {
    this.path = path
    this.#mark = `# ${owner}: ${PURPOSE}`
  }

  /** The name servers that the file names below ours. */
  others(): string[] {
    const lines = this.#read()
    const at = this.#server === undefined ? -1 : this.#place(lines, this.#server)
    return (at < 0 ? this.#lines() : lines.slice(at + 2)).flatMap((line) => NAMESERVER.exec(line)?.[1] ?? [])
  }

  /** Whether `set` would change the file. */
  lacks(server: string): boolean {
    return this.#missing() === undefined && !this.#isFirst(this.#read(), server)
  }

  /** It had other name servers and has none: perhaps a program is about to write it. */
  isEmptied(): boolean {
    return this.#hadOthers && !this.#lines().some((line) => NAMESERVER.test(line))
  }

  /** Every name is asked of this server first. Returns whether the file had to be changed. Throws when it cannot be. */
  set(server: string): boolean {
    const missing = this.#missing()
    if (missing !== undefined)
      throw new Error(
        `${this.path} is a link to ${missing}, which does not exist: start the program that makes that file (systemd-resolved, resolvconf), or remove the link`,
      )
    let lines = this.#read()
    const before = this.#server
    this.#server = server
    this.#hadOthers = this.#lines().some((line) => NAMESERVER.test(line))
    if (this.#isFirst(lines, server)) return false
    for (const each of [before, server])
      for (let at = this.#place(lines, each); at >= 0; at = this.#place(lines, each))
        lines = lines.filter((_, i) => i !== at && i !== at + 1)
    this.#write([this.#mark, `nameserver ${server}`, ...lines])
    return true
  }

  /** Repeatable, also after a run that was killed. */
  giveBack(): void {
    this.#server = undefined
    if (!this.#read().includes(this.#mark)) return
    // There was none, or an empty one, which means the same.
    if (this.#lines().length === 0 && this.#remove()) return
    this.#write(this.#lines())
  }

  /** What the file is a link to, if that is missing. */
  #missing(): string | undefined {
    if (existsSync(this.path)) return undefined
    const isLink = lstatSync(this.path, { throwIfNoEntry: false })?.isSymbolicLink() === true
    return isLink ? readlinkSync(this.path) : undefined
  }

  /** False where it is a link, or a mount of its own. */
  #remove(): boolean {
    try {
      if (lstatSync(this.path).isSymbolicLink()) return false
      rmSync(this.path)
      return true
    } catch {
      return false
    }
  }

  /** Only lines of other daemons like this one stand above ours. */
  #isFirst(lines: readonly string[], server: string): boolean {
    const at = this.#place(lines, server)
    return at >= 0 && lines.slice(0, at).every((line, i) => i % 2 === 1 || line.endsWith(PURPOSE))
  }

  /** Of our comment with this server below it; -1: it is not there. */
  #place(lines: readonly string[], server: string | undefined): number {
    return lines.findIndex((line, i) => line === this.#mark && lines[i + 1] === `nameserver ${server}`)
  }

  /** All lines that are not ours, nor of a run of before. */
  #lines(): string[] {
    const lines = this.#read()
    return lines.filter((line, i) => line !== this.#mark && lines[i - 1] !== this.#mark)
  }

  #read(): string[] {
    if (!existsSync(this.path)) return []
    const text = readFileSync(this.path, 'utf8')
    if (text.length > MAX_BYTES) throw new Error(`${this.path} is longer than such a file may be`)
    const lines = text.split('\n')
    if (lines.at(-1) === '') lines.pop()
    return lines
  }

  #write(lines: readonly string[]): void {
    const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''))
    if (!existsSync(this.path)) {
      writeFileSync(this.path, bytes)
      return
    }
    const file = openSync(this.path, 'r+')
    try {
      writeSync(file, bytes, 0, bytes.length, 0)
      ftruncateSync(file, bytes.length)
    } finally {
      closeSync(file)
    }
  }
}
