/**
 * Limits for unknown clients of a TCP server, per source: number of connections, new connections per second, and
 * duration. When there is no room, the source with most connections loses its oldest, so that no source can keep others
 * out.
 */
import type { Socket } from 'node:net'
import { Buckets } from '../../core/buckets.ts'
import { sourceOf } from '../../core/source.ts'

export interface SourceLimits {
  readonly connections: number
  readonly ofSource: number
  /** New connections a second of one source, and at once. */
  readonly rate: number
  readonly burst: number
  /** How long one may last (ms). */
  readonly longestMs: number
}

const CHECK_MS = 1000

export class Connections {
  readonly #limits: SourceLimits
  readonly #now: () => number
  readonly #new: Buckets
  /** By source; the oldest first. */
  readonly #bySource = new Map<string, Map<Socket, number>>()
  readonly #timer: NodeJS.Timeout
  #size = 0

  constructor(limits: SourceLimits, now: () => number = () => performance.now()) {
    this.#limits = limits
    this.#now = now
    this.#new = new Buckets(limits.rate, limits.burst)
    this.#timer = setInterval(() => this.#endOld(), CHECK_MS)
    this.#timer.unref()
  }

  /** Whether it may stay; else it has been destroyed. */
  admit(socket: Socket): boolean {
    const source = sourceOf(socket.remoteAddress ?? '')
    const now = this.#now()
    const own = this.#bySource.get(source) ?? new Map<Socket, number>()
    socket.on('error', () => {})
    if (own.size >= this.#limits.ofSource || !this.#new.take(source, now)) {
      socket.destroy()
      return false
    }
    if (this.#size >= this.#limits.connections) this.#displace()
    own.set(socket, now)
    this.#bySource.set(source, own)
    this.#size++
    socket.once('close', () => this.#remove(source, socket))
    return true
  }

  /** It has shown who it is: it counts no longer here, and may last. */
  release(socket: Socket): void {
    this.#remove(sourceOf(socket.remoteAddress ?? ''), socket)
  }

  get size(): number {
    return this.#size
  }

  /** Sources with a connection: no other is remembered. */
  get sources(): number {
    return this.#bySource.size
  }

  close(): void {
    clearInterval(this.#timer)
    for (const sockets of this.#bySource.values()) for (const socket of sockets.keys()) socket.destroy()
  }

  #displace(): void {
    let [largest, most] = ['', 0]
    for (const [source, { size }] of this.#bySource) if (size > most) [largest, most] = [source, size]
    const [oldest] = this.#bySource.get(largest)?.keys() ?? []
    if (oldest === undefined) return
    this.#remove(largest, oldest)
    oldest.destroy()
  }

  /** Repeatable: a connection that gave way closes later. */
  #remove(source: string, socket: Socket): void {
    const own = this.#bySource.get(source)
    if (own?.delete(socket) !== true) return
    this.#size--
    if (own.size === 0) this.#bySource.delete(source)
  }

  #endOld(): void {
    const before = this.#now() - this.#limits.longestMs
    for (const sockets of this.#bySource.values())
      for (const [socket, since] of sockets) {
        if (since > before) break
        socket.destroy()
      }
  }
}
