/**
 * Requests of a connection one by one. Node.js hands on all requests that come in one piece, whatever the answer to the first
 * says: who sends the next one before the answer loses the connection. No client of ours does.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

export class OneByOne {
  /** A request is under way, or the last one was answered. */
  readonly #busy = new WeakSet<Socket>()

  /** Whether it is to be answered; else its connection has ended. */
  admits({ socket }: IncomingMessage, response: ServerResponse): boolean {
    if (socket.destroyed) return false
    if (this.#busy.has(socket)) {
      socket.destroy()
      return false
    }
    this.#busy.add(socket)
    response.once('finish', () => {
      // Node.js has ended the socket where this was its last answer.
      if (!socket.writableEnded) this.#busy.delete(socket)
    })
    return true
  }
}
