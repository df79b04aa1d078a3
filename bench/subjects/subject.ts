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
  stop(): Promise<void>
}

export interface Subject {
  readonly name: string
  /** Why it cannot be measured here, or undefined. Says which package would bring it. */
  missing(): string | undefined
  start(bed: Bed): Promise<Running>
}
