/** What came of the tests of one tier. */
export interface Failure {
  readonly name: string
  readonly file: string
  readonly text: string
}

export interface Outcome {
  passed: number
  failed: number
  skipped: number
  /** Why something was skipped, with how many tests. */
  reasons: Map<string, number>
  failures: Failure[]
  milliseconds: number
  /** What failed first and passed when its file ran once more, alone. */
  flaky: string[]
  /** What each file took, in milliseconds. */
  files: Map<string, number>
}

export function empty(): Outcome {
  return {
    passed: 0,
    failed: 0,
    skipped: 0,
    reasons: new Map(),
    failures: [],
    milliseconds: 0,
    flaky: [],
    files: new Map(),
  }
}

export function skipped(reason: string): Outcome {
  const outcome = empty()
  skip(outcome, reason)
  return outcome
}

export function skip(outcome: Outcome, reason: string, count = 1): void {
  outcome.skipped += count
  outcome.reasons.set(reason, (outcome.reasons.get(reason) ?? 0) + count)
}

export function failedOutcome(name: string, text: string): Outcome {
  return { ...empty(), failed: 1, failures: [{ name, file: '', text }] }
}

/** Adds `part` to `whole`; its failures and reasons are named as those of `label`. */
export function addOutcome(whole: Outcome, part: Outcome, label: string): void {
  whole.passed += part.passed
  whole.failed += part.failed
  for (const [reason, count] of part.reasons) skip(whole, `${label}: ${reason}`, count)
  whole.failures.push(...part.failures.map((each) => ({ ...each, name: `${label}: ${each.name}` })))
  whole.flaky.push(...part.flaky.map((each) => `${label}: ${each}`))
}

/** The results of several tiers as text, for those who read them by machine. */
export function outcomesToJson(outcomes: Iterable<readonly [string, Outcome]>): string {
  const plain = [...outcomes].map(([tier, o]) => ({
    tier,
    ...o,
    reasons: Object.fromEntries(o.reasons),
    files: Object.fromEntries(o.files),
  }))
  return JSON.stringify({ tiers: plain }, null, 2)
}

export function outcomesFromJson(text: string): Map<string, Outcome> {
  const { tiers } = JSON.parse(text) as {
    tiers: (Outcome & { tier: string; reasons: object; files: object })[]
  }
  return new Map(
    tiers.map(({ tier, ...o }) => [
      tier,
      {
        ...o,
        reasons: new Map(Object.entries(o.reasons)),
        files: new Map(Object.entries(o.files)),
      } as Outcome,
    ]),
  )
}

/** The `count` files that took longest, longest first. */
export function slowest({ files }: Outcome, count: number): [string, number][] {
  return [...files].sort(([, a], [, b]) => b - a).slice(0, count)
}

/**
 * A run and the second one of its failed files. What passed the second time is flaky: a defect that is named, and that
 * has failed when `strict`.
 */
export function withFlaky(first: Outcome, second: Outcome, strict: boolean): Outcome {
  const broken = (failure: Failure): boolean =>
    second.failures.some(({ file, name }) => file === failure.file && name === failure.name)
  const flaky = first.failures.filter((failure) => !broken(failure))
  return {
    ...first,
    ...(!strict && {
      passed: first.passed + flaky.length,
      failed: second.failed,
      failures: second.failures,
    }),
    flaky: flaky.map(({ name }) => name),
    milliseconds: first.milliseconds + second.milliseconds,
  }
}
