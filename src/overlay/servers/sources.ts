/**
 * Limits for unknown clients of a TCP server, per source: number of connections, new connections per second, bytes, and
 * duration. When there is no room, the source with most connections loses its oldest, of the site (core/source.ts) with most, so
 * that no source and no site can keep others out.
 */
import type { Socket } from 'node:net'
import { Buckets } from '../../core/buckets.ts'
import { siteOf, sourceOf } from '../../core/source.ts'

export interface SourceLimits {
  readonly connections: number
  readonly ofSource: number
  /** New connections a second of one source, and at once. */
  readonly rate: number
  readonly burst: number
  /** How long one may last (ms). */
  readonly longestMs: number
  /** Bytes that one may send, those of TLS counted. Absent: limited otherwise. */
  readonly bytes?: number
}

const CHECK_MS = 100
/** A site may have this part of all connections, and new ones as so many sources. */
const SITE_SHARE = 1 / 4
const SITE_SOURCES = 8

interface Source {
  readonly site: string
  /** Since when; the oldest first. */
  readonly sockets: Map<Socket, number>
}

export class Connections {
  readonly #limits: SourceLimits
  readonly #now: () => number
  readonly #new: Buckets
  readonly #newOfSite: Buckets
  readonly #bySource = new Map<string, Source>()
  /** By site: connections. */
  readonly #bySite = new Map<string, number>()
  readonly #timer: NodeJS.Timeout
  #size = 0

  constructor(limits: SourceLimits, now: () => number = () => performance.now()) {
    this.#limits = limits
    this.#now = now
    this.#new = new Buckets(limits.rate, limits.burst)
    this.#newOfSite = new Buckets(SITE_SOURCES * limits.rate, SITE_SOURCES * limits.burst)
    this.#timer = setInterval(() => this.#check(), CHECK_MS)
    this.#timer.unref()
  }

  /** Whether it may stay; else it has been destroyed. */
  admit(socket: Socket): boolean {
    const source = sourceOf(socket.remoteAddress ?? '')
    const now = this.#now()
    const site = siteOf(source)
    const own = this.#bySource.get(source)?.sockets.size ?? 0
    socket.on('error', () => {})
    if (own >= this.#limits.ofSource || !this.#new.take(source, now) || !this.#newOfSite.take(site, now)) {
      socket.destroy()
      return false
    }
    const { connections, ofSource } = this.#limits
    if ((this.#bySite.get(site) ?? 0) >= Math.max(ofSource, SITE_SHARE * connections)) this.#displace(site)
    else if (this.#size >= connections) this.#displace(this.#largestSite())
    const known = this.#bySource.get(source) ?? { site, sockets: new Map<Socket, number>() }
    known.sockets.set(socket, now)
    this.#bySource.set(source, known)
    this.#bySite.set(site, (this.#bySite.get(site) ?? 0) + 1)
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
    for (const { sockets } of this.#bySource.values()) for (const socket of sockets.keys()) socket.destroy()
  }

  #largestSite(): string {
    let [largest, most] = ['', 0]
    for (const [site, size] of this.#bySite) if (size > most) [largest, most] = [site, size]
    return largest
  }

  /** Of the site's source with most connections the oldest ends. */
  #displace(site: string): void {
    let [largest, most] = ['', 0]
    for (const [source, of] of this.#bySource)
      if (of.site === site && of.sockets.size > most) [largest, most] = [source, of.sockets.size]
    const [oldest] = this.#bySource.get(largest)?.sockets.keys() ?? []
    if (oldest === undefined) return
    this.#remove(largest, oldest)
    oldest.destroy()
  }

  /** Repeatable: a connection that gave way closes later. */
  #remove(source: string, socket: Socket): void {
    const own = this.#bySource.get(source)
    if (own?.sockets.delete(socket) !== true) return
    this.#size--
    if (own.sockets.size === 0) this.#bySource.delete(source)
    const left = (this.#bySite.get(own.site) ?? 1) - 1
    if (left === 0) this.#bySite.delete(own.site)
    else this.#bySite.set(own.site, left)
  }

  /** Those that have lasted too long, or sent too much, end. */
  #check(): void {
    const { longestMs, bytes = Number.POSITIVE_INFINITY } = this.#limits
    const before = this.#now() - longestMs
    for (const { sockets } of this.#bySource.values())
      for (const [socket, since] of sockets) if (since <= before || socket.bytesRead > bytes) socket.destroy()
  }
}
