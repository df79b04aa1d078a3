/**
 * Sockets that were replaced because the NAT in front of their access ends mappings at an age. Such a socket is closed when
 * no peer's packets have used it for a while, or when its mapping is about to end; the tunnel sends again what that cost. Without
 * paths it may stay open for a time, to show how long its mapping lasts.
 */
import type { PathView } from '../protocol/api.ts'

/** What is under way from the other end over it has arrived so long after the last packet that this end sent (ms). */
const SETTLE_MS = 1_000
/** It is closed so long before its mapping ends, whatever uses it (ms): the other end has to learn that. */
const AHEAD_MS = 500
/** Looked at this often, and when its mapping has ended (ms). */
const LOOK_MS = 250
const LATE_LOOK_MS = 5_000
/** Of one access. More, and the oldest is closed. */
const MAX_REPLACED = 3
const NEVER = Number.POSITIVE_INFINITY

interface Replaced {
  readonly socket: number
  readonly access: string
  /** Its mapping is good until then. */
  readonly until: number
  unusedSince: number
}

export interface RenewedSocketsParts {
  /** Paths over the socket. */
  readonly pathsOver: (socket: number) => readonly PathView[]
  /** Packets to this peer use a path over the socket. */
  readonly isUsed: (peer: number, socket: number) => boolean
  /** The peer has another path that works. */
  readonly hasOther: (peer: number, socket: number) => boolean
  readonly isWatched: (socket: number, now: number) => boolean
  readonly removePath: (slot: number, now: number) => void
  /** Closes the socket with the paths that are left. */
  readonly close: (socket: number, now: number) => void
}

export class RenewedSockets {
  readonly #parts: RenewedSocketsParts
  #replaced: readonly Replaced[] = []
  #lookAt = NEVER

  constructor(parts: RenewedSocketsParts) {
    this.#parts = parts
  }

  add(socket: number, access: string, until: number, now: number): void {
    this.#replaced = [...this.#replaced, { socket, access, until, unusedSince: now }]
    this.#lookAt = now + LOOK_MS
    const same = this.#replaced.filter((each) => each.access === access)
    if (same.length > MAX_REPLACED) this.#close(same[0]!, now)
  }

  /** Its access went. */
  gone(access: string): void {
    this.#replaced = this.#replaced.filter((each) => each.access !== access)
  }

  nextTimeout(): number {
    return this.#replaced.length === 0 ? NEVER : this.#lookAt
  }

  handleTimeout(now: number): void {
    if (now < this.#lookAt) return
    for (const each of this.#replaced) this.#look(each, now)
    this.#lookAt = now + (this.#replaced.some(({ until }) => now < until) ? LOOK_MS : LATE_LOOK_MS)
  }

  #look(each: Replaced, now: number): void {
    const paths = this.#parts.pathsOver(each.socket)
    const peers = [...new Set(paths.map(({ peer }) => peer))]
    const users = peers.filter((peer) => this.#parts.isUsed(peer, each.socket))
    if (users.length > 0) each.unusedSince = now
    const isOver = now >= each.until - AHEAD_MS
    if (now - each.unusedSince < SETTLE_MS && !isOver) return
    // While nothing else works it is better than nothing.
    if (users.some((peer) => !this.#parts.hasOther(peer, each.socket))) return
    if (!this.#parts.isWatched(each.socket, now)) this.#close(each, now)
    else for (const { slot } of paths) this.#parts.removePath(slot, now)
  }

  #close(each: Replaced, now: number): void {
    this.#replaced = this.#replaced.filter((other) => other !== each)
    this.#parts.close(each.socket, now)
  }
}
