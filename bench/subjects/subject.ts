/**
 * What a user would pick instead, each set up between the two hosts of a bed the way its own documentation says. A subject
 * answers where its far end is reached; the benchmark then runs the same load over each.
 */
import type { Bed } from '../bed.ts'

export interface Running {
  /** The address on host b that traffic through this subject reaches. */
  readonly target: string
  /** The process whose memory and CPU are the subject's, on each side; absent for the kernel's own. */
  readonly pids?: { readonly a: number; readonly b: number }
  /** Takes host a's tunnel to its second link (topology `two-wires`). */
  move?(): Promise<void>
  stop(): Promise<void>
}

export interface Subject {
  readonly name: string
  /** Families it is set up for here; outer and inner are the same. */
  readonly families: readonly (4 | 6)[]
  /** Why it cannot be measured here, or undefined. Says which package would bring it. */
  missing(): string | undefined
  /** What was measured, for the report; absent where the name says it. */
  version?(): string
  start(bed: Bed, family: 4 | 6): Promise<Running>
}
