/**
 * Errors of godwit. Every error that can reach a user carries a stable `code`, the operation that failed,
 * and what the user can do about it. Malformed bytes from a network or a file are not errors: codecs return
 * a `Decoded` (see result.ts).
 */

/** The exit status of the command line follows from the kind: usage 2, missing 3, everything else 1. */
export type ErrorKind = 'failed' | 'usage' | 'missing'

export interface ErrorDetails {
  /** The operation that failed, e.g. `open /dev/net/tun`. */
  readonly op?: string
  /** How the user can fix it: one sentence or a command. */
  readonly hint?: string
  readonly kind?: ErrorKind
  readonly cause?: unknown
}

/** An error with a stable code such as `CONFIG_INVALID`; docs/errors.md lists them all. */
export class GodwitError extends Error {
  readonly code: string
  readonly op: string | undefined
  readonly hint: string | undefined
  readonly kind: ErrorKind

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'GodwitError'
    this.code = code
    this.op = details.op
    this.hint = details.hint
    this.kind = details.kind ?? 'failed'
  }
}

/** The call or the configuration was wrong. */
export function usageError(message: string, details: ErrorDetails = {}): GodwitError {
  return new GodwitError('USAGE', message, { ...details, kind: 'usage' })
}

/** This machine lacks something; `hint` names the command that installs or enables it. */
export function missingError(message: string, hint: string, details: ErrorDetails = {}): GodwitError {
  return new GodwitError('MISSING', message, { ...details, hint, kind: 'missing' })
}
