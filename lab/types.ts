/** What the lab gives to its callers: options, results, descriptions. The JSON shapes are fixed by the contract. */

/** Options of every lab entry point. */
export interface LabOptions {
  /** Repeats a run: losses, jitter and payload bytes follow from it. Default: drawn, and named in the result. */
  readonly seed?: number
  /** Where results, plot, logs and state go. Default: a new folder under the system's temporary directory. */
  readonly out?: string
  /** The numbers of handovers and lengths of the figures instead of the quick default. */
  readonly full?: boolean
  /** `upmt-swap` and the demo: the paper's own timeline (about 30 s) instead of the compressed one. */
  readonly paperTime?: boolean
  /** How many handovers a scenario makes; overrides the default and `full`. */
  readonly handovers?: number
  /** Only the parts with these words in their names, of a scenario that has several; a part has words between commas. */
  readonly only?: readonly string[]
  /** Conditions of links by name, over the topology's or scenario's own, e.g. `{acc1: {delayMs: 20}}`. */
  readonly links?: Readonly<Record<string, Partial<LinkConditions>>>
  /** Aborts the run; everything is removed before the promise settles. */
  readonly signal?: AbortSignal
  /** Progress, a line at a time, without newline. Default: standard error. */
  readonly log?: (line: string) => void
}

/** One direction's behaviour; a link has one for each way, equal unless set apart. */
export interface LinkConditions {
  /** One-way delay in milliseconds. */
  readonly delayMs: number
  /** Extra delay, uniform in ±jitterMs; order is kept. */
  readonly jitterMs: number
  /** Probability that a packet is lost, 0 to 1. */
  readonly loss: number
  /** Probability that a packet overtakes those delayed before it, 0 to 1. */
  readonly reorder: number
  /** Probability that a packet arrives twice, 0 to 1. */
  readonly duplicate: number
  /** Line rate in Mbit/s, Ethernet header included; 0 is unlimited. */
  readonly rateMbps: number
  /** What may wait for the line, in milliseconds of its rate; more is dropped. Meaningful with a rate. */
  readonly queueMs: number
  /** `up`; `down`: no carrier on either end, a link event; `blackhole`: everything vanishes, no event. */
  readonly state: 'up' | 'down' | 'blackhole'
}

/** A check of a scenario: `ok` says whether `value` is as `want` asks. */
export interface Check {
  readonly name: string
  readonly ok: boolean
  readonly value: string | number | boolean
  readonly want: string
}

/** The result of a scenario, as `lab run --json` prints it. */
export interface ScenarioResult {
  readonly scenario: string
  readonly passed: boolean
  readonly checks: readonly Check[]
  /** Units are in the names: `gap_ms`, `lost_packets`, `throughput_mbps`. */
  readonly metrics: Readonly<Record<string, number | readonly number[]>>
  /** The paper's figures for the same experiment, or what it reports in words. */
  readonly paper: Readonly<Record<string, string | number>>
  /** Path of the SVG plot; null where nothing is installed that draws it. */
  readonly plot: string | null
  /** Path of the timeline in text. */
  readonly timeline: string
  readonly seed: number
}

/** What `lab up --json` prints once ready. */
export interface LabDescription {
  readonly topology: string
  readonly hosts: Readonly<
    Record<
      string,
      { readonly netns: string; readonly addresses: Readonly<Record<string, readonly string[]>> }
    >
  >
  readonly links: Readonly<
    Record<string, { readonly ends: readonly [string, string]; readonly emulated: boolean }>
  >
}

/** A topology that is up. */
export interface RunningLab {
  readonly description: LabDescription
  /** Changes a link's conditions at once, both ways unless `direction` says which (towards its first or second end). */
  setLink(name: string, change: Partial<LinkConditions>, direction?: 'both' | 'first' | 'second'): void
  /** Ends programs, removes links and namespaces. Repeatable. */
  close(): Promise<void>
}
