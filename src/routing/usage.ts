/**
 * What accesses with a monthly cap have carried, by the kernel's counters of the interface, in both directions and whoever
 * sent it: that is what a provider counts. Kept in STATE/usage.json with the counter that it was read at, so that what
 * passed while no daemon ran, or after a crash, is not forgotten. A counter that went back is of a new device: it counts from zero.
 */
import { readFileSync } from 'node:fs'
import * as z from 'zod'
import { writeAtomic } from '../mechanism/files.ts'

const format = z.record(
  z.string(),
  z.object({
    /** First day of the month that is counted, `YYYY-MM-DD`, local time. */
    month: z.string(),
    used: z.number(),
    /** The interface's counter at that time, and the boot that it is of. */
    counter: z.number(),
    boot: z.string(),
  }),
)
type Usage = z.output<typeof format>[string]

export interface LinkUsageParts {
  readonly file: string
  /** Bytes that each interface has carried since it is there, both directions. */
  readonly read: () => ReadonlyMap<string, number>
  readonly wall: () => number
  /** What counters belong to; default: this boot. */
  readonly boot?: string
}

export class LinkUsage {
  readonly #parts: LinkUsageParts
  readonly #boot: string
  readonly #usage: Map<string, Usage>
  #wroteAt = 0
  #written: string

  constructor(parts: LinkUsageParts) {
    this.#parts = parts
    this.#boot = parts.boot ?? bootId()
    this.#usage = new Map(Object.entries(readUsage(parts.file)))
    this.#written = this.#text()
  }

  /** Bytes of this month, as of the last `update`. */
  used(name: string): number {
    return this.#usage.get(name)?.used ?? 0
  }

  /** Reads the counter; returns the bytes of the month that began last on `day`. */
  update(name: string, day: number): number {
    const counter = this.#parts.read().get(name)
    const month = monthOf(this.#parts.wall(), day)
    const before = this.#usage.get(name)
    const used = before?.month === month ? before.used : 0
    if (counter === undefined) {
      if (before !== undefined && before.month !== month) this.#usage.set(name, { ...before, month, used: 0 })
      return used
    }
    // Of the interface's past before the first look nothing is known.
    const grown = before === undefined ? 0 : before.boot === this.#boot ? counter - before.counter : counter
    const after = used + (grown < 0 ? counter : grown)
    this.#usage.set(name, { month, used: after, counter, boot: this.#boot })
    return after
  }

  /** Writes what has changed, at most once in `everyMs`. */
  write(everyMs = 0): void {
    const now = this.#parts.wall()
    const text = this.#text()
    if (text === this.#written || Math.abs(now - this.#wroteAt) < everyMs) return
    try {
      writeAtomic(this.#parts.file, text)
      this.#written = text
    } catch {
      // A full disk must not end a router; the next time.
    }
    this.#wroteAt = now
  }

  #text(): string {
    return `${JSON.stringify(Object.fromEntries(this.#usage))}\n`
  }
}

/** The first day of the month that `day` begins, `YYYY-MM-DD`. */
export function monthOf(wall: number, day: number): string {
  const date = new Date(wall)
  if (date.getDate() < day) date.setMonth(date.getMonth(), 0)
  const two = (value: number) => String(value).padStart(2, '0')
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(day)}`
}

/** Bytes received and sent by each interface of this namespace. */
export function interfaceBytes(): ReadonlyMap<string, number> {
  const out = new Map<string, number>()
  for (const line of readFileSync('/proc/thread-self/net/dev', 'utf8').split('\n')) {
    const [, name, numbers] = /^\s*([^:\s]+):\s*(.+)$/.exec(line) ?? []
    if (name === undefined) continue
    const fields = numbers!.trim().split(/\s+/).map(Number)
    out.set(name, (fields[0] ?? 0) + (fields[8] ?? 0))
  }
  return out
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

function readUsage(file: string): z.output<typeof format> {
  try {
    return format.parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch {
    return {} // none yet, or damaged
  }
}
