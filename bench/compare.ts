/** The round-robin over subjects that the tunnel benches share. */
import { Bed } from './bed.ts'
import { type BenchContext, type BenchResult, machine, Recorder } from './harness.ts'
import { available, OURS } from './subjects/index.ts'

export interface Measuring {
  readonly bed: Bed
  /** The address on host b that is reached through the subject. */
  readonly target: string
  /** Keeps one sample of a measure. */
  record(name: string, unit: string, value: number): void
}

/**
 * Measures every subject that is installed, one after another, as many rounds as asked for: a machine that changes its
 * speed in between changes it for all of them. Each subject gets a bed of its own.
 */
export async function compareSubjects(
  bench: string,
  context: BenchContext,
  measure: (measuring: Measuring) => Promise<void>,
): Promise<BenchResult> {
  const { subjects, skipped } = available()
  const recorder = new Recorder()
  for (let round = 1; round <= context.rounds; round++) {
    for (const subject of subjects) {
      context.signal.throwIfAborted()
      const bed = new Bed()
      try {
        const running = await subject.start(bed)
        await measure({
          bed,
          target: running.target,
          record: (name, unit, value) => {
            recorder.add(name, subject.name, unit, value)
            context.progress(
              `round ${round} of ${context.rounds}: ${subject.name}, ${name}: ${value} ${unit}`,
            )
          },
        })
        await running.stop()
      } finally {
        await bed.close()
      }
    }
  }
  return { bench, machine: machine(), runs: recorder.runs(), ratios: recorder.ratios(OURS), skipped }
}
