/** A small set of texts in a file: what a run that was killed has to be cleaned up after. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'

export class RememberedList {
  readonly #path: string
  readonly #fault: (reason: string) => void
  readonly items: Set<string>
  #failed = false

  /** `fault` hears, once, why it cannot be written: a full disk ends no connection. Written with the next change, or by `save`. */
  constructor(path: string, fault: (reason: string) => void = () => {}) {
    this.#path = path
    this.#fault = fault
    this.items = new Set(read(path))
  }

  add(item: string): void {
    this.items.add(item)
    this.#write()
  }

  delete(item: string): void {
    this.items.delete(item)
    this.#write()
  }

  /** What could not be written before. */
  save(): void {
    if (this.#failed) this.#write()
  }

  #write(): void {
    const temporary = `${this.#path}.new`
    try {
      if (this.items.size === 0) rmSync(this.#path, { force: true })
      else {
        writeFileSync(temporary, `${JSON.stringify([...this.items])}\n`, { mode: 0o600 })
        renameSync(temporary, this.#path)
      }
      this.#failed = false
    } catch (error) {
      if (!this.#failed) this.#fault((error as Error).message)
      this.#failed = true
      attempt(() => rmSync(temporary, { force: true }))
    }
  }
}

function attempt(work: () => void): void {
  try {
    work()
  } catch {
    // A file system that is read-only.
  }
}

function read(path: string): string[] {
  try {
    const list = JSON.parse(readFileSync(path, 'utf8')) as unknown
    return Array.isArray(list) ? list.filter((each) => typeof each === 'string') : []
  } catch {
    // There is none, or it is damaged.
    return []
  }
}
