/** Addresses that endpoint names had last, kept in the state: a host may start where no name server can be reached. */

import { readFileSync } from 'node:fs'
import * as z from 'zod'
import type { EndpointCache } from '../tunnel/engine/endpoints.ts'
import { writeAtomic } from './files.ts'

const format = z.record(z.string(), z.array(z.string()))

export class RememberedEndpoints implements EndpointCache {
  readonly #file: string

  constructor(file: string) {
    this.#file = file
  }

  get(name: string): readonly string[] {
    return this.#read()[name] ?? []
  }

  /** An entry that cannot be written is not remembered; nothing else depends on it. */
  set(name: string, addresses: readonly string[]): void {
    try {
      writeAtomic(this.#file, `${JSON.stringify({ ...this.#read(), [name]: addresses })}\n`)
    } catch {
      // A full disk must not keep a host from its anchor.
    }
  }

  #read(): Record<string, string[]> {
    try {
      return format.parse(JSON.parse(readFileSync(this.#file, 'utf8')))
    } catch {
      return {} // none yet, or damaged
    }
  }
}
