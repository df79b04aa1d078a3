/** Answers of the overlay's HTTPS servers: JSON, and refusals with a code. */
import type { ServerResponse } from 'node:http'
import { GodwitError } from '../../core/errors.ts'

export class Refusal extends Error {
  readonly status: number
  readonly code: string
  /** Further fields of the answer. */
  readonly more: object

  constructor(status: number, code: string, message: string, more: object = {}) {
    super(message)
    this.status = status
    this.code = code
    this.more = more
  }
}

/** For the log: what to do about what this machine lacks (a full disk, a damaged database), and for a bug where it is. */
export function faultText(error: unknown): string {
  if (error instanceof GodwitError)
    return error.hint === undefined ? error.message : `${error.message}; ${error.hint}`
  if (!(error instanceof Error)) return String(error)
  // Of the system, such as ENOSPC: its message says it.
  return isOfSystem(error) ? error.message : (error.stack ?? error.message)
}

/** For who asked: it is not their fault, and what is wrong is in the server's log. */
export function sendFault(response: ServerResponse, error: unknown): void {
  const known = error instanceof GodwitError || isOfSystem(error)
  const isAway = error instanceof GodwitError && error.code === 'STORE_AWAY'
  const message = isAway
    ? 'the server cannot reach its database now; try again'
    : known
      ? 'the server cannot write or read its files now: its log says why'
      : 'internal error of the server'
  const status = known ? 503 : 500
  sendJson(
    response,
    status,
    { error: { code: error instanceof GodwitError ? error.code : 'INTERNAL', message } },
    false,
  )
}

function isOfSystem(error: unknown): boolean {
  return /^E[A-Z0-9]+$/.test((error as NodeJS.ErrnoException | undefined)?.code ?? '')
}

export function sendJson(response: ServerResponse, status: number, value: object, keep: boolean): void {
  const text = JSON.stringify(value)
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    ...(!keep && { connection: 'close' }),
  })
  response.end(text)
}
