/**
 * What a node keeps on disk: written when it changes. What cannot be written, as on a full disk, is said once and tried again until it is
 * written or something newer has taken its place; the file of before stays meanwhile.
 */
export type Report = (level: 'info' | 'warn', message: string) => void

const AGAIN_MS = 30_000

export class KeptFiles {
  readonly #report: Report
  /** By what it is: how it is written. */
  readonly #owed = new Map<string, () => void>()
  #timer: NodeJS.Timeout | undefined

  constructor(report: Report) {
    this.#report = report
  }

  keep(what: string, write: () => void): void {
    const wasOwed = this.#owed.delete(what)
    const trouble = failure(write)
    if (trouble === undefined) {
      if (wasOwed) this.#report('info', `${what} could be kept now`)
      return
    }
    if (!wasOwed)
      this.#report('warn', `${what} could not be kept, and is written as soon as that works: ${trouble}`)
    this.#owed.set(what, write)
    this.#timer ??= setTimeout(() => this.#again(), AGAIN_MS).unref()
  }

  #again(): void {
    this.#timer = undefined
    for (const [what, write] of [...this.#owed]) this.keep(what, write)
  }

  /** Tries once more what is owed. */
  stop(): void {
    clearTimeout(this.#timer)
    this.#again()
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#owed.clear()
  }
}

function failure(write: () => void): string | undefined {
  try {
    write()
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}
