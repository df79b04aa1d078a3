/**
 * Adds this daemon as first name server to /etc/resolv.conf when no program manages that file, with a comment line above.
 * Both lines are removed at the end; the rest stays. The file is written in place, because it may be a mount of its own. What a
 * link to a missing file leads to is another program's to make.
 */
import { existsSync, lstatSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'

const MAX_BYTES = 65_536

export class ResolvConf {
  readonly path: string
  readonly #mark: string

  /** `owner`: whose line it is (Ledger.alias). */
  constructor(owner: string, path = '/etc/resolv.conf') {
    this.path = path
    this.#mark = `# ${owner}: names of the overlay; removed when the daemon stops`
  }

  /** The name servers that the file names beside ours. */
  others(): string[] {
    return this.#lines().flatMap((line) => /^nameserver\s+(\S+)/.exec(line)?.[1] ?? [])
  }

  /** Every name is asked of this server first. Returns whether the file had to be changed. Throws when it cannot be. */
  set(server: string): boolean {
    const missing = this.#missing()
    if (missing !== undefined)
      throw new Error(
        `${this.path} is a link to ${missing}, which does not exist: start the program that makes that file (systemd-resolved, resolvconf), or remove the link`,
      )
    const before = this.#read()
    const after = [this.#mark, `nameserver ${server}`, ...this.#lines()].join('\n')
    if (before === `${after}\n`) return false
    writeFileSync(this.path, `${after}\n`)
    return true
  }

  /** Repeatable, also after a run that was killed. */
  giveBack(): void {
    if (!this.#read().includes(this.#mark)) return
    // There was none, or an empty one, which means the same.
    if (this.#lines().length === 0 && this.#remove()) return
    writeFileSync(
      this.path,
      this.#lines()
        .map((line) => `${line}\n`)
        .join(''),
    )
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

  /** All lines that are not ours. */
  #lines(): string[] {
    const lines = this.#read().split('\n')
    if (lines.at(-1) === '') lines.pop()
    return lines.filter((line, i) => line !== this.#mark && lines[i - 1] !== this.#mark)
  }

  #read(): string {
    if (!existsSync(this.path)) return ''
    const text = readFileSync(this.path, 'utf8')
    if (text.length > MAX_BYTES) throw new Error(`${this.path} is longer than such a file may be`)
    return text
  }
}
