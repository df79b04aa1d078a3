/**
 * Result of a command. An engine answers with an outcome instead of throwing: a failure is data, which crosses threads
 * with its code and hint; a thrown error is a bug in the program.
 */
import { type ErrorKind, GodwitError } from '../../core/errors.ts'

/** A `GodwitError` as data. */
export interface Failure {
  readonly code: string
  readonly message: string
  readonly op?: string
  readonly hint?: string
  readonly kind: ErrorKind
}

export type Outcome<T = unknown> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly failure: Failure }

/** Done, with nothing to answer. */
export const done: Outcome<undefined> = { ok: true, value: undefined }

export function answer<T>(value: T): Outcome<T> {
  return { ok: true, value }
}

export function failed(code: string, message: string, hint?: string): Outcome<never> {
  return { ok: false, failure: { code, message, kind: 'failed', ...(hint !== undefined && { hint }) } }
}

/** The outcome of work that throws `GodwitError`s; any other error is a bug and is thrown again. */
export function attempt<T>(work: () => T): Outcome<T> {
  try {
    return answer(work())
  } catch (error) {
    if (error instanceof GodwitError) return { ok: false, failure: failureOf(error) }
    throw error
  }
}

export function failureOf({ code, message, op, hint, kind }: GodwitError): Failure {
  return { code, message, kind, ...(op !== undefined && { op }), ...(hint !== undefined && { hint }) }
}

export function errorOf({ code, message, op, hint, kind }: Failure): GodwitError {
  return new GodwitError(code, message, {
    kind,
    ...(op !== undefined && { op }),
    ...(hint !== undefined && { hint }),
  })
}
