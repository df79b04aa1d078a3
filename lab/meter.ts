/**
 * Interface counters over time, read from outside: /proc/net/dev of a namespace, opened once inside it, read again and
 * again. Bins come from the cumulative counters interpolated at bin edges, so a late sample shifts nothing.
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { inNamespace } from '../src/linux/netns.ts'
import { monotonicMs } from './programs/program.ts'

export interface Counters {
  readonly rxBytes: number
  readonly rxPackets: number
  readonly txBytes: number
  readonly txPackets: number
}

export type CounterName = keyof Counters

interface Sample {
  readonly at: number
  readonly counters: ReadonlyMap<string, Counters>
}

export class Meter {
  readonly #fd: number
  readonly #buffer = Buffer.alloc(16 << 10)
  readonly #samples: Sample[] = []
  readonly #timer: NodeJS.Timeout
  #stopped = false

  /** Samples every interface of the namespace each `periodMs`, from now until `stop`. */
  constructor(netns: string, periodMs: number) {
    this.#fd = inNamespace(netns, () => openSync('/proc/thread-self/net/dev', 'r'))
    this.#sample()
    this.#timer = setInterval(() => this.#sample(), periodMs)
  }

  /** Repeatable. */
  stop(): void {
    if (this.#stopped) return
    this.#stopped = true
    clearInterval(this.#timer)
    this.#sample()
    closeSync(this.#fd)
  }

  /** Counters as last sampled; zeros for an interface that is not there. */
  latest(iface: string): Counters {
    return this.#samples.at(-1)?.counters.get(iface) ?? ZERO
  }

  /** Increments of a counter in bins of `binMs` between two moments (monotonic milliseconds). */
  bins(iface: string, counter: CounterName, from: number, to: number, binMs: number): number[] {
    const result: number[] = []
    let index = 0
    const valueAt = (at: number): number => {
      while (index + 1 < this.#samples.length && this.#samples[index + 1]!.at <= at) index++
      const before = this.#samples[index]!
      const after = this.#samples[index + 1]
      const low = (before.counters.get(iface) ?? ZERO)[counter]
      if (after === undefined || at <= before.at) return low
      const high = (after.counters.get(iface) ?? ZERO)[counter]
      return low + ((high - low) * (at - before.at)) / (after.at - before.at)
    }
    let last = valueAt(from)
    for (let edge = from + binMs; edge <= to; edge += binMs) {
      const value = valueAt(edge)
      result.push(value - last)
      last = value
    }
    return result
  }

  /** The longest time between two moments in which a counter did not move, in milliseconds; as fine as the samples. */
  longestStill(iface: string, counter: CounterName, from: number, to: number): number {
    let longest = 0
    let since = from
    let value: number | undefined
    for (const { at, counters } of this.#samples) {
      if (at < from || at > to) continue
      const now = (counters.get(iface) ?? ZERO)[counter]
      if (now !== value) since = at
      value = now
      longest = Math.max(longest, at - since)
    }
    return longest
  }

  #sample(): void {
    const length = readSync(this.#fd, this.#buffer, 0, this.#buffer.length, 0)
    const counters = new Map<string, Counters>()
    for (const line of this.#buffer.toString('latin1', 0, length).split('\n')) {
      const colon = line.indexOf(':')
      if (colon < 0) continue
      const fields = line
        .slice(colon + 1)
        .trim()
        .split(/\s+/)
      counters.set(line.slice(0, colon).trim(), {
        rxBytes: Number(fields[0]),
        rxPackets: Number(fields[1]),
        txBytes: Number(fields[8]),
        txPackets: Number(fields[9]),
      })
    }
    this.#samples.push({ at: monotonicMs(), counters })
  }
}

const ZERO: Counters = { rxBytes: 0, rxPackets: 0, txBytes: 0, txPackets: 0 }
