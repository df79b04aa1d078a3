/**
 * Kernel settings that the daemon changes, and what they were before, remembered in its state: so that `godwit down`, or
 * the next daemon, puts them back after a kill. What was remembered before a reboot, or for another network namespace, is
 * worth nothing.
 */

import { readFileSync, rmSync } from 'node:fs'
import * as z from 'zod'
import { namespaceId } from '../linux/netns.ts'
import { type Keeps, KernelSysctls, type Sysctls } from '../linux/sysctl.ts'
import { writeAtomic } from './files.ts'

const format = z.object({
  /** Identifies the boot and the network namespace. */
  where: z.string(),
  saved: z.array(z.tuple([z.string(), z.string()])),
})

export class RememberedSysctls implements Sysctls {
  readonly #file: string
  readonly #where: string
  readonly #kernel: KernelSysctls

  constructor(file: string, keeps?: Keeps) {
    this.#file = file
    this.#where = `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${namespaceId()}`
    this.#kernel = new KernelSysctls(undefined, this.#read(), keeps)
  }

  get saved(): ReadonlyMap<string, string> {
    return this.#kernel.saved
  }

  get(key: string): string | undefined {
    return this.#kernel.get(key)
  }

  set(key: string, value: string | number): void {
    const before = this.#kernel.get(key)
    if (before !== undefined && before !== String(value) && !this.saved.has(key)) {
      // First on disk, then in the kernel: a kill in between leaves nothing changed.
      const saved = [...this.saved, [key, before]]
      writeAtomic(this.#file, `${JSON.stringify({ where: this.#where, saved })}\n`)
    }
    this.#kernel.set(key, value)
  }

  restore(): void {
    this.#kernel.restore()
    rmSync(this.#file, { force: true })
  }

  #read(): [string, string][] {
    try {
      const file = format.parse(JSON.parse(readFileSync(this.#file, 'utf8')))
      return file.where === this.#where ? file.saved : []
    } catch {
      return [] // none, or damaged: what was there before is not known
    }
  }
}

/**
 * One store of settings for several owners. Each has a view; when an owner restores a setting, it gets the original
 * value, or, if another owner has changed it too, that owner's value.
 */
export class SharedSysctls {
  readonly #store: Sysctls
  readonly #keeps: Keeps
  /** Per key what each owner wants, the newest last. */
  readonly #wanted = new Map<string, Map<string, string>>()

  constructor(store: Sysctls, keeps: Keeps = () => false) {
    this.#store = store
    this.#keeps = keeps
  }

  view(owner: string): Sysctls {
    const store = this.#store
    return {
      get saved() {
        return store.saved
      },
      get: (key) => store.get(key),
      set: (key, value) => {
        const before = store.get(key)
        store.set(key, value)
        // A value that was already set is not ours to restore, unless another owner set it.
        if (before === String(value) && !this.#wanted.has(key)) return
        const owners = this.#wanted.get(key) ?? new Map<string, string>()
        owners.delete(owner)
        owners.set(owner, String(value))
        this.#wanted.set(key, owners)
      },
      restore: () => this.#release(owner),
    }
  }

  /** Everything goes back, also what an earlier run changed. */
  restore(): void {
    this.#wanted.clear()
    this.#store.restore()
  }

  #release(owner: string): void {
    for (const [key, owners] of this.#wanted) {
      if (!owners.delete(owner)) continue
      const next = [...owners.values()].at(-1)
      const value = next ?? this.#store.saved.get(key)
      const now = this.#store.get(key)
      if (value !== undefined && now !== undefined && now !== value)
        if (next !== undefined || !this.#keeps(key, value)) this.#store.set(key, value)
      if (owners.size === 0) this.#wanted.delete(key)
    }
  }
}
