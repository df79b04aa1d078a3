/**
 * A scenario: what to build, what to do on it, what must hold. The context keeps the clock, the checks, the figures and
 * the timeline, and writes result.json, timeline.txt and plot.svg.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { GodwitError, usageError } from '../src/core/errors.ts'
import type { Program as ExternalProgram } from '../src/linux/packages.ts'
import type { Lab } from './build.ts'
import { type Chart, drawSvg } from './plot.ts'
import { monotonicMs } from './programs/program.ts'
import type { Check, LabOptions, LinkConditions, ScenarioResult } from './types.ts'

export interface Scenario {
  readonly name: string
  readonly summary: string
  readonly topology: string
  /** Installed before it runs, beside nft, curl and rsync. */
  readonly programs?: readonly ExternalProgram[]
  /** Of a scenario that runs several after each other, the names; `--only` chooses by the words between their commas. */
  readonly parts?: readonly string[]
  /** Conditions of links by name; options of the run go over them. */
  readonly links?: Readonly<Record<string, Partial<LinkConditions>>>
  /** What the paper reports for this experiment. */
  readonly paper: Readonly<Record<string, string | number>>
  run(context: ScenarioContext): Promise<void>
}

/** The parts that have all words of `only`; all of them without it. */
export function partsOf({ name, parts = [] }: Scenario, only?: readonly string[]): readonly string[] {
  if (only === undefined) return parts
  const found = parts.filter((part) => {
    const words = part.split(', ')
    return only.every((word) => words.includes(word))
  })
  if (found.length > 0) return found
  const hint = parts.length === 0 ? 'leave it away' : `parts are: ${parts.join(' · ')}`
  throw usageError(`--only ${only.join(',')}: ${name} has no such part`, { hint })
}

/** Something that happened, in seconds from the start of the clock. */
export interface TimelineEntry {
  readonly at: number
  readonly label: string
  /** Drawn in the plot too. */
  readonly marked: boolean
}

/** What flows where, now. */
export interface Figures {
  readonly seconds: number
  /** Towards the mobile host, by access. */
  readonly accesses: readonly { readonly name: string; readonly mbps: number }[]
  /** `access`: where the product says its flows are; empty until asked. */
  readonly applications: readonly { readonly name: string; readonly access: string; readonly mbps: number }[]
}

/** What a live view wants to hear of. */
export interface Observer {
  event?(entry: TimelineEntry): void
  /** The scenario's running figures, a few times a second. */
  progress?(figures: Figures): void
}

export class ScenarioContext {
  readonly lab: Lab
  /** Results and logs go here. */
  readonly out: string
  /** Payloads go here; removed with the lab. */
  readonly scratch: string
  readonly seed: number
  readonly options: LabOptions
  readonly observer: Observer
  readonly checks: Check[] = []
  readonly metrics: Record<string, number | readonly number[]> = {}
  readonly timeline: TimelineEntry[] = []
  chart: Chart | undefined
  /** Of the scenario's parts those to run. */
  readonly parts: readonly string[]
  #startedAt = monotonicMs()
  #running = false

  constructor(
    lab: Lab,
    out: string,
    seed: number,
    options: LabOptions,
    observer: Observer,
    parts: readonly string[],
  ) {
    this.parts = parts
    this.lab = lab
    this.out = out
    this.scratch = lab.createScratch()
    this.seed = seed
    this.options = options
    this.observer = observer
  }

  /** Starts the clock of timeline and plot; until then it shows zero. */
  start(): void {
    this.#running = true
    this.#startedAt = monotonicMs()
  }

  /** Monotonic milliseconds at which the clock was zero. */
  get startedAt(): number {
    return this.#startedAt
  }

  /** Seconds on the scenario's clock. */
  seconds(at = monotonicMs()): number {
    return (at - this.#startedAt) / 1000
  }

  /** Waits until the scenario's clock shows `seconds`. Rejects when the run is aborted. */
  async until(seconds: number): Promise<void> {
    await this.sleep(this.#startedAt + seconds * 1000 - monotonicMs())
  }

  async sleep(ms: number): Promise<void> {
    const { signal } = this.options
    signal?.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const abort = () => {
        clearTimeout(timer)
        reject(signal?.reason)
      }
      const timer = setTimeout(
        () => {
          signal?.removeEventListener('abort', abort)
          resolve()
        },
        Math.max(0, ms),
      )
      signal?.addEventListener('abort', abort, { once: true })
    })
  }

  /** Notes what happens: in the timeline, on stderr, and as a mark in the plot when `marked`. */
  note(label: string, marked = false): void {
    const entry = { at: this.#running ? this.seconds() : 0, label, marked }
    this.timeline.push(entry)
    this.observer.event?.(entry)
  }

  mark(label: string): void {
    this.note(label, true)
  }

  get marks(): { at: number; label: string }[] {
    return this.timeline.filter((entry) => entry.marked)
  }

  check(name: string, ok: boolean, value: Check['value'], want: string): void {
    this.checks.push({ name, ok, value, want })
  }

  /** A figure; its name carries its unit. Numbers are kept to three decimals. */
  metric(name: string, value: number | readonly number[]): void {
    this.metrics[name] = typeof value === 'number' ? round(value) : value.map(round)
  }

  /** Writes the files and returns the result. */
  async finish(scenario: Scenario): Promise<ScenarioResult> {
    const timeline = join(this.out, 'timeline.txt')
    const plot = await this.#plot(scenario)
    writeFileSync(timeline, this.timeline.map((entry) => `${timelineLine(entry)}\n`).join(''))
    const result: ScenarioResult = {
      scenario: scenario.name,
      passed: this.checks.length > 0 && this.checks.every((check) => check.ok),
      checks: this.checks,
      metrics: this.metrics,
      paper: scenario.paper,
      plot,
      timeline,
      seed: this.seed,
    }
    writeFileSync(join(this.out, 'result.json'), `${JSON.stringify(result, null, 2)}\n`)
    return result
  }

  /** Where the plot is; null, and noted, where nothing can draw it: the result holds without it. */
  async #plot(scenario: Scenario): Promise<string | null> {
    const file = join(this.out, 'plot.svg')
    try {
      writeFileSync(file, await drawSvg(this.chart ?? { title: scenario.name, panels: [] }))
      return file
    } catch (error) {
      if (!(error instanceof GodwitError && error.kind === 'missing')) throw error
      this.note(`no plot: ${error.message}; ${error.hint}`)
      return null
    }
  }
}

export function timelineLine(entry: TimelineEntry): string {
  return `${entry.at.toFixed(3).padStart(8)} s  ${entry.label}`
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000
}

/** The value below which `share` of them lie; 0 for none. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? 0
}
