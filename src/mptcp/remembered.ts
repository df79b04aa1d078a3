/** A small set of texts in a file: what a run that was killed has to be cleaned up after. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'

export class RememberedList {
  readonly #path: string
  readonly items: Set<string>

  constructor(path: string) {
    this.#path = path
    this.items = new Set(read(path))
  }

  add(item: string): void {
    this.items.add(item)
    this.#save()
  }

  delete(item: string): void {
    this.items.delete(item)
    this.#save()
  }

  #save(): void {
    if (this.items.size === 0) {
      rmSync(this.#path, { force: true })
      return
    }
    writeFileSync(`${this.#path}.new`, `${JSON.stringify([...this.items])}\n`, { mode: 0o600 })
    renameSync(`${this.#path}.new`, this.#path)
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
