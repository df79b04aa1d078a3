/** Talks to a daemon over its control socket: what every command but the daemons themselves uses. */
import { request } from 'node:http'
import { type ErrorKind, GodwitError } from '../../core/errors.ts'
import { checkSocketPath, groupId, type WireError } from './control.ts'

const TIMEOUT_MS = 30_000

/** How a user becomes a member; a daemon gives its socket to the group when it starts. */
export function joinGroup(exists: boolean): string {
  const join = 'sudo usermod -aG godwit $USER, and log in again'
  return exists ? join : `sudo groupadd godwit; ${join}; then restart the daemon`
}

export class ControlClient {
  readonly socket: string

  constructor(socket: string) {
    this.socket = socket
  }

  get<T>(path: string, query: Readonly<Record<string, string>> = {}): Promise<T> {
    const search = new URLSearchParams(query).toString()
    return this.#call<T>('GET', search === '' ? path : `${path}?${search}`)
  }

  post<T>(path: string, body: object = {}): Promise<T> {
    return this.#call<T>('POST', path, JSON.stringify(body))
  }

  /** The text of /metrics. */
  metrics(): Promise<string> {
    return this.#text('GET', '/metrics').then(({ text }) => text)
  }

  async #call<T>(method: string, path: string, body?: string): Promise<T> {
    const { status, text } = await this.#text(method, path, body)
    const answer = JSON.parse(text) as T & { error?: WireError }
    if (status === 200) return answer
    const error = answer.error ?? { code: 'INTERNAL', message: `status ${status}`, kind: 'failed' }
    throw new GodwitError(error.code, error.message, {
      kind: error.kind as ErrorKind,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    })
  }

  #text(method: string, path: string, body?: string): Promise<{ status: number; text: string }> {
    checkSocketPath(this.socket)
    return new Promise((done, fail) => {
      const options = { socketPath: this.socket, method, path, timeout: TIMEOUT_MS, agent: false }
      const outgoing = request(options, (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => {
          text += chunk
        })
        response.on('end', () => done({ status: response.statusCode ?? 0, text }))
        response.on('error', fail)
      })
      outgoing.on('timeout', () => outgoing.destroy(new Error('no answer')))
      outgoing.on('error', (error: NodeJS.ErrnoException) => fail(this.#explain(error)))
      outgoing.end(body)
    })
  }

  #explain(error: NodeJS.ErrnoException): GodwitError {
    switch (error.code) {
      case 'ENOENT':
      case 'ECONNREFUSED':
        return new GodwitError('NOT_RUNNING', `godwit is not running (nothing listens on ${this.socket})`, {
          cause: error,
          hint: 'start it with `godwit up`, or `anchor`, `router`, `dime`, `mptcp` or `overlay up`; --state DIR if it has a state of its own',
        })
      case 'EACCES':
        return new GodwitError('NO_PERMISSION', `no permission for ${this.socket}`, {
          cause: error,
          hint: `run it as root (sudo), or join the group: ${joinGroup(groupId('godwit') !== undefined)}`,
        })
      default:
        return new GodwitError('CONTROL_FAILED', `${this.socket}: ${error.message}`, {
          cause: error,
          hint: "see the daemon's log",
        })
    }
  }
}
