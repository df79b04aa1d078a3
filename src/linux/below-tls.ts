/**
 * The sockets below the connections of a TLS server. Their bytes show what TLS itself takes: records without content, such as KeyUpdate
 * (RFC 8446 §4.6.3), cost time and draw an answer, and nothing of them is seen within.
 */
import type { Socket } from 'node:net'

export class BelowTls<T extends { readonly raw: Socket }> {
  /** By address and port of the other end. */
  readonly #entries = new Map<string, T>()

  /** For the server's event `connection`; forgotten when the socket closes. */
  add(entry: T): void {
    const key = otherEnd(entry.raw)
    this.#entries.set(key, entry)
    entry.raw.once('close', () => {
      if (this.#entries.get(key) === entry) this.#entries.delete(key)
    })
  }

  /** What was added for the connection that this one is within; a server without TLS has no other. */
  of(socket: Socket): T | undefined {
    return this.#entries.get(otherEnd(socket))
  }

  values(): Iterable<T> {
    return this.#entries.values()
  }
}

/** Whether more arrived below than `share` times the bytes within and `more` explain. */
export function takesTooMuch(raw: Socket, within: Socket | undefined, share: number, more: number): boolean {
  return raw.bytesRead > share * (within?.bytesRead ?? 0) + more
}

function otherEnd({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`
}
