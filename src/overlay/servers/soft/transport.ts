/**
 * The connection to a server of NATS, with bounds that its client does not have: that one gathers a line or message without end, goes on
 * to receive where it has stopped to read, and keeps connections that were never made.
 */
import type { Socket } from 'node:net'
import { TokenBucket } from '../../../core/token-bucket.ts'

/** As much as is used of the client's connection. */
interface Transport {
  readonly socket?: Socket
  readonly connected: boolean
  peekInfo(): Promise<unknown>
  send(frame: Uint8Array): void
  close(error?: Error): Promise<void>
  discard(): void
  [Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array>
}
export type TransportClass = new () => Transport

/** The longest message that a server takes unless it is told otherwise; the longest line, which names all servers of a cluster. */
const MAX_MESSAGE = 1024 * 1024
const MAX_LINE = 128 * 1024
/** A server asks for a sign of life once in some seconds; each answer waits in memory until it is sent. */
const PING_RATE = 1
const PING_BURST = 20
/** What the server has not taken (bytes); twenty thousand messages are less. */
const MAX_UNSENT = 32 * 1024 * 1024

/** Reads ahead of the client how long lines and messages are. */
export class Guard {
  readonly #pings = new TokenBucket(PING_RATE, PING_BURST)
  /** Bytes of the message that are to come, with one for the end of it. */
  #left = 0
  #line = ''
  #isMessageEnd = false

  /** Throws for what is too long, or too often. */
  take(chunk: Uint8Array, now: number): void {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)
    for (let at = 0; at < bytes.length; ) {
      if (this.#left > 0) {
        const part = Math.min(this.#left, bytes.length - at)
        this.#left -= part
        at += part
        continue
      }
      const found = bytes.indexOf(10, at)
      const end = found < 0 ? bytes.length : found
      if (this.#line.length + end - at > MAX_LINE) throw new Error('the server sent a line that is too long')
      this.#line += bytes.toString('latin1', at, end)
      at = end + 1
      if (found < 0) return
      // What stands behind a message is not read.
      if (!this.#isMessageEnd) this.#begin(this.#line, now)
      else this.#isMessageEnd = false
      this.#line = ''
    }
  }

  #begin(line: string, now: number): void {
    if (/^ping/i.test(line) && !this.#pings.take(now)) throw new Error('the server sent too many pings')
    if (!/^h?msg[ \t]/i.test(line)) return
    // The client takes no size of more digits, and ends.
    const size = Number(/[0-9]*$/.exec(line.trimEnd().slice(-15))?.[0])
    if (size > MAX_MESSAGE) throw new Error('the server sent a message that is too long')
    this.#left = size + 1
    this.#isMessageEnd = true
  }
}

export function bounded(Base: TransportClass): TransportClass {
  return class extends Base {
    /** The server's first line, before the client reads messages. */
    override peekInfo(): Promise<unknown> {
      const { socket } = this
      let length = 0
      socket?.on('data', ({ length: more }: Uint8Array) => {
        length += more
        if (length > MAX_LINE) socket.destroy(new Error('the server does not speak as one of NATS'))
      })
      return super.peekInfo()
    }

    override async *[Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
      const guard = new Guard()
      try {
        for await (const chunk of super[Symbol.asyncIterator]()) {
          guard.take(chunk, performance.now())
          yield chunk
        }
      } catch (error) {
        this.socket?.destroy(error as Error)
      } finally {
        // The client reads no more, and would still receive.
        this.socket?.destroy(new Error('the server does not speak as one of NATS'))
      }
    }

    override send(frame: Uint8Array): void {
      if ((this.socket?.writableLength ?? 0) > MAX_UNSENT)
        this.socket?.destroy(new Error('the server does not take what is sent to it'))
      super.send(frame)
    }

    /** The client closes only what was connected. */
    override close(error?: Error): Promise<void> {
      if (!this.connected) this.discard()
      return super.close(error)
    }
  }
}
