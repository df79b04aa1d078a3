/** Answers of the overlay's HTTPS servers: JSON, and refusals with a code. */
import type { ServerResponse } from 'node:http'

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
