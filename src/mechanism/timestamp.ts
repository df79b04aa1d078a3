/** The wall time that the newest handshake was stamped with, kept in the state: the clock may be behind it after a restart. */

import { readFileSync } from 'node:fs'
import { writeAtomic } from './files.ts'

export class RememberedTimestamp {
  readonly #file: string

  constructor(file: string) {
    this.#file = file
  }

  /** Milliseconds since the Unix epoch; undefined when there is none, or it is damaged. */
  get(): number | undefined {
    try {
      const floor = Number(readFileSync(this.#file, 'utf8'))
      return Number.isFinite(floor) && floor > 0 ? floor : undefined
    } catch {
      return undefined
    }
  }

  set(floor: number): void {
    try {
      writeAtomic(this.#file, `${floor}\n`)
    } catch {
      // A full disk must not keep a host from its anchor.
    }
  }
}
