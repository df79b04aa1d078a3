/** Addresses that peers proved last, kept in the state: whom an end that restarts greets, and where. */
import { readFileSync } from 'node:fs'
import * as z from 'zod'
import type { SeenStore } from '../tunnel/engine/greetings.ts'
import { writeAtomic } from './files.ts'

const format = z.record(z.string(), z.array(z.string()))

export class RememberedSeen implements SeenStore {
  readonly #file: string

  constructor(file: string) {
    this.#file = file
  }

  get(): Readonly<Record<string, readonly string[]>> {
    try {
      return format.parse(JSON.parse(readFileSync(this.#file, 'utf8')))
    } catch {
      return {} // none yet, or damaged
    }
  }

  set(seen: Readonly<Record<string, readonly string[]>>): void {
    try {
      writeAtomic(this.#file, `${JSON.stringify(seen)}\n`)
    } catch {
      // A full disk only makes the next start slower.
    }
  }
}
