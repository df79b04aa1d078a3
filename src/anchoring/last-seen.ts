/** When each host of an anchor last sent something, kept over restarts: STATE/last-seen.json. */
import { readFileSync } from 'node:fs'
import * as z from 'zod'
import { writeAtomic } from '../mechanism/files.ts'
import type { PathReport } from '../tunnel/engine/events.ts'

const format = z.record(z.string(), z.number())
/** Min interval between writes of the file: a crash loses at most this much. */
const WRITE_MS = 60_000

export interface LastSeenParts {
  readonly file: string
  /** CLOCK_MONOTONIC, and milliseconds since the Unix epoch. */
  readonly now: () => number
  readonly wall: () => number
}

/** Milliseconds since the Unix epoch, by name of the host; empty when there is no file yet, or a damaged one. */
export function readLastSeen(file: string): Record<string, number> {
  try {
    return format.parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch {
    return {}
  }
}

export class LastSeen {
  readonly #parts: LastSeenParts
  readonly #seen: Map<string, number>
  #changed = false
  #wroteAt = Number.NEGATIVE_INFINITY

  constructor(parts: LastSeenParts) {
    this.#parts = parts
    this.#seen = new Map(Object.entries(readLastSeen(parts.file)))
  }

  get(name: string): number | undefined {
    return this.#seen.get(name)
  }

  /** Authenticated packets that came on these paths are a sign of their hosts. */
  follow(paths: readonly Pick<PathReport, 'peer' | 'lastReceivedAt'>[]): void {
    const epoch = this.#parts.wall() - this.#parts.now()
    for (const { peer, lastReceivedAt } of paths) {
      if (!(lastReceivedAt > 0)) continue
      const at = Math.round(epoch + lastReceivedAt)
      if (at <= (this.#seen.get(peer) ?? 0)) continue
      this.#seen.set(peer, at)
      this.#changed = true
    }
    if (this.#parts.now() - this.#wroteAt >= WRITE_MS) this.write()
  }

  /** Hosts that are not `kept` are forgotten. */
  keep(kept: (name: string) => boolean): void {
    for (const name of this.#seen.keys())
      if (!kept(name)) {
        this.#seen.delete(name)
        this.#changed = true
      }
  }

  write(): void {
    if (!this.#changed) return
    this.#wroteAt = this.#parts.now()
    try {
      writeAtomic(this.#parts.file, `${JSON.stringify(Object.fromEntries(this.#seen))}\n`)
      this.#changed = false
    } catch {
      // A full disk: tried again in a minute.
    }
  }
}
