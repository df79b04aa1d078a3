/**
 * The disk of the cache server. What is written waits for the disk off the main thread, one after another, and what waits meanwhile shares
 * the wait for the folder: however slow the disk is, the process goes on, and at most two of its four threads for files are held.
 */
import { type FileHandle, open, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

interface Work {
  readonly run: () => Promise<void>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export class CacheFiles {
  readonly folder: string
  readonly #sync: (file: FileHandle) => Promise<void>
  readonly #waiting: Work[] = []
  #running: Promise<void> | undefined
  /** Contents are waited for one after another, too. */
  #contents: Promise<void> = Promise.resolve()

  constructor(folder: string, sync = (file: FileHandle) => file.sync()) {
    this.folder = folder
    this.#sync = sync
  }

  path(name: string): string {
    return join(this.folder, name)
  }

  /** Runs after all that was posted before. Resolves when the names that it has changed are on the disk; rejects with its error. */
  post(run: () => Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ run, resolve, reject })
      this.#running ??= this.#run()
    })
  }

  /** Resolves when nothing is being written. */
  async settle(): Promise<void> {
    await this.#running
  }

  /** An empty file that was not there. */
  async make(name: string): Promise<void> {
    await writeFile(this.path(name), '', { mode: 0o600, flag: 'wx' })
  }

  /** Readers see the old text or the new. */
  async replace(name: string, text: string): Promise<void> {
    const temporary = this.path(`${name}.${process.pid}.new`)
    try {
      const file = await open(temporary, 'w', 0o600)
      try {
        await file.writeFile(text)
        await this.#sync(file)
      } finally {
        await file.close()
      }
      await rename(temporary, this.path(name))
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    }
  }

  async remove(...names: readonly string[]): Promise<void> {
    for (const name of names) await rm(this.path(name), { force: true })
  }

  /** Resolves when what was written to it is on the disk. */
  sync(name: string): Promise<void> {
    const done = this.#contents.then(() => this.#synced(name, 'r+'))
    this.#contents = done.catch(() => {})
    return done
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const done: Work[] = []
      for (const work of this.#waiting.splice(0)) await work.run().then(() => done.push(work), work.reject)
      if (done.length === 0) continue
      try {
        await this.#synced('', 'r')
        for (const { resolve } of done) resolve()
      } catch (error) {
        for (const { reject } of done) reject(error)
      }
    }
    this.#running = undefined
  }

  async #synced(name: string, flags: 'r' | 'r+'): Promise<void> {
    const file = await open(this.path(name), flags)
    try {
      await this.#sync(file)
    } finally {
      await file.close()
    }
  }
}
