/**
 * What every benchmark shares: samples, medians, ratios of the same run, and the JSON of contract.md. Machines are noisy:
 * subjects are measured in turn, round by round, and a ratio is the median of ours ÷ theirs of each round.
 */
import { readFileSync } from 'node:fs'
import os from 'node:os'

export interface Run {
  readonly name: string
  /** What was measured: `godwit`, `openvpn`, … */
  readonly subject: string
  /** `mbps`, `ms`, `pps`, `ns`, `bytes`, … */
  readonly unit: string
  readonly samples: number[]
  readonly median: number
}

export interface BenchResult {
  readonly bench: string
  readonly machine: Machine
  /** Of subjects whose version matters, as they print it. */
  readonly versions?: Record<string, string>
  readonly runs: Run[]
  /** Ours ÷ theirs, of this run. */
  readonly ratios: Record<string, number>
  /** Subjects that were left out, each with its reason. */
  readonly skipped: Record<string, string>
  /** Paths of the plots drawn, if any. */
  readonly plots?: string[]
}

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memory_bytes: number
  readonly kernel: string
  readonly node: string
  readonly openssl: string
}

export interface BenchContext {
  /** Where plots and the JSON are written. */
  readonly out: string
  /** Rounds per subject: 1 quick, 3 and more to quote. */
  readonly rounds: number
  /** Seconds per sample where time is the yardstick. */
  readonly seconds: number
  readonly seed: number
  readonly signal: AbortSignal
  /** One line of progress for a person. */
  progress(line: string): void
}

export interface Bench {
  readonly name: string
  /** One line for `godwit bench --help`. */
  readonly summary: string
  run(context: BenchContext): Promise<BenchResult>
}

export function machine(): Machine {
  const model = /^model name\s*:\s*(.+)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]
  return {
    cpu: model ?? os.arch(),
    cores: os.cpus().length,
    memory_bytes: os.totalmem(),
    kernel: os.release(),
    node: process.version,
    openssl: process.versions.openssl ?? 'none',
  }
}

export function median(samples: readonly number[]): number {
  return percentile(samples, 50)
}

/** The p-th percentile (0–100) by linear interpolation; NaN of nothing. */
export function percentile(samples: readonly number[], p: number): number {
  if (samples.length === 0) return Number.NaN
  const sorted = [...samples].sort((a, b) => a - b)
  const rank = (p / 100) * (sorted.length - 1)
  const low = Math.floor(rank)
  const high = Math.ceil(rank)
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (rank - low)
}

/** Collects samples by (name, subject) in the order they come. */
export class Recorder {
  readonly #runs = new Map<string, { name: string; subject: string; unit: string; samples: number[] }>()

  add(name: string, subject: string, unit: string, sample: number): void {
    const key = `${name}\0${subject}`
    const run = this.#runs.get(key) ?? { name, subject, unit, samples: [] }
    run.samples.push(sample)
    this.#runs.set(key, run)
  }

  runs(): Run[] {
    return [...this.#runs.values()].map((run) => ({ ...run, median: median(run.samples) }))
  }

  /** `name ours/other` for every name that `ours` and others have in common. */
  ratios(ours: string): Record<string, number> {
    const ratios: Record<string, number> = {}
    for (const { name } of this.runs().filter((run) => run.subject === ours))
      for (const other of this.runs().filter((run) => run.name === name && run.subject !== ours))
        ratios[`${name} ${ours}/${other.subject}`] = this.ratio([name, ours], [name, other.subject])
    return ratios
  }

  /** Of two runs (name, subject): the median of what each round's samples give, as the machine differs between rounds. */
  ratio(ours: readonly [string, string], theirs: readonly [string, string]): number {
    const [mine = [], other = []] = [ours, theirs].map((key) => this.#runs.get(key.join('\0'))?.samples)
    if (mine.length !== other.length) return round(median(mine) / median(other))
    return round(median(mine.map((sample, i) => sample / other[i]!)))
  }
}

export function round(value: number, digits = 3): number {
  return Number(value.toPrecision(digits))
}
