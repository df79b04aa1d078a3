/** The round-robin over subjects that the tunnel benches share. */
import type { TopologySpec } from '../lab/topology.ts'
import { Bed } from './bed.ts'
import { type BenchContext, type BenchResult, machine, Recorder } from './harness.ts'
import { all, available, OURS } from './subjects/index.ts'
import type { Running, Subject } from './subjects/subject.ts'
import { wire } from './topologies.ts'

export interface Measuring {
  readonly bed: Bed
  readonly subject: Subject
  readonly running: Running
  readonly family: 4 | 6
  /** Keeps one sample of a measure. */
  record(name: string, unit: string, value: number): void
}

export interface Comparison {
  readonly measure: (measuring: Measuring) => Promise<void>
  /** Default: all that are installed. */
  readonly subjects?: readonly Subject[]
  /** The subject that the others are compared with; default godwit. */
  readonly ours?: string
  readonly topology?: TopologySpec
  readonly families?: readonly (4 | 6)[]
  /** A ratio too: of each measure `…-down…` to `…-up…`, of ours. */
  readonly downByUp?: boolean
}

/**
 * Measures every subject that is installed, one after another, as many rounds as asked for: a machine that changes its
 * speed in between changes it for all of them. Each subject gets a bed of its own.
 */
export async function compareSubjects(
  bench: string,
  context: BenchContext,
  comparison: Comparison,
): Promise<BenchResult> {
  const { families = [4], ours = OURS } = comparison
  const { subjects, skipped } = available(comparison.subjects ?? all)
  const recorder = new Recorder()
  for (let round = 1; round <= context.rounds; round++) {
    for (const family of families) {
      for (const subject of subjects.filter((each) => each.families.includes(family))) {
        context.signal.throwIfAborted()
        const bed = await Bed.open(comparison.topology ?? wire)
        try {
          const running = await subject.start(bed, family)
          const record = (name: string, unit: string, value: number) => {
            const full = families.length === 1 ? name : `${name}-ipv${family}`
            recorder.add(full, subject.name, unit, value)
            context.progress(
              `round ${round} of ${context.rounds}: ${subject.name}, ${full}: ${value} ${unit}`,
            )
          }
          await comparison.measure({ bed, subject, running, family, record })
          await running.stop()
        } finally {
          await bed.close()
        }
      }
    }
  }
  const versions = subjects.flatMap((each) => (each.version ? [[each.name, each.version()]] : []))
  return {
    bench,
    machine: machine(),
    versions: Object.fromEntries(versions) as Record<string, string>,
    runs: recorder.runs(),
    ratios: { ...recorder.ratios(ours), ...(comparison.downByUp ? downByUp(recorder, ours) : {}) },
    skipped,
  }
}

function downByUp(recorder: Recorder, subject: string): Record<string, number> {
  const downs = recorder.runs().filter((run) => run.subject === subject && run.name.includes('-down'))
  return Object.fromEntries(
    downs.map(({ name }) => {
      const up = name.replace('-down', '-up')
      return [`${subject} ${name}/${up}`, recorder.ratio([name, subject], [up, subject])]
    }),
  )
}
