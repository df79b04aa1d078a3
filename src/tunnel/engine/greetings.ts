/**
 * A listening end does not know after a restart where its peers are, and cannot decrypt what they send in earlier
 * sessions. So it stores the addresses that its peers have proven, and greets them when it starts: one handshake
 * initiation at a time, to the most recently used address first. A peer that answers sends HELLO to the restarted end and
 * opens its paths again; a NAT on the way still has its mapping. Only proven addresses are stored, and each is greeted at
 * most twice.
 */
import { parseAddress } from '../../core/address.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import type { PathReport } from './events.ts'
import { isUsable } from './reports.ts'

/** Proven addresses by peer (`ADDRESS:PORT`, the one in use last first), over restarts. */
export interface SeenStore {
  get(): Readonly<Record<string, readonly string[]>>
  set(seen: Readonly<Record<string, readonly string[]>>): void
}

export interface GreetingsParts {
  readonly store: SeenStore
  readonly greet: (name: string, remote: Endpoint) => void
}

/** Addresses kept of a peer. */
const MAX_ADDRESSES = 4
const ROUNDS = 2
/** Between two greetings of one peer (ms). */
const PAUSE_MS = 300
/** Between the first greetings of two peers (ms): a handshake costs a millisecond. */
const STAGGER_MS = 10
/** Min interval between writes of the store (ms). */
const WRITE_MS = 10_000

export class Greetings {
  readonly #parts: GreetingsParts
  readonly #seen: Map<string, readonly string[]>
  /** Peers that are being greeted. */
  readonly #timers = new Map<string, NodeJS.Timeout>()
  #writing: NodeJS.Timeout | undefined
  #wroteAt = Number.NEGATIVE_INFINITY
  #greeted = 0

  constructor(parts: GreetingsParts) {
    this.#parts = parts
    this.#seen = new Map(Object.entries(parts.store.get()))
  }

  /** Greets the peer where it was last, until a path of it works. */
  start(name: string): void {
    const remotes = (this.#seen.get(name) ?? [])
      .slice(0, MAX_ADDRESSES)
      .flatMap((text) => endpointOf(text) ?? [])
    if (remotes.length === 0) return
    let next = 0
    const greet = () => {
      if (next === ROUNDS * remotes.length) {
        this.#end(name)
        return
      }
      this.#parts.greet(name, remotes[next++ % remotes.length]!)
      this.#timers.set(name, setTimeout(greet, PAUSE_MS))
    }
    this.#timers.set(name, setTimeout(greet, STAGGER_MS * this.#greeted++))
  }

  /** The paths as they are; those that work have proven their addresses. */
  follow(paths: readonly PathReport[]): void {
    const working = new Map<string, PathReport[]>()
    for (const path of paths) {
      if (!isUsable(path.state)) continue
      const list = working.get(path.peer)
      if (list === undefined) working.set(path.peer, [path])
      else list.push(path)
    }
    let changed = false
    for (const [name, list] of working) {
      this.#end(name)
      const remotes = list
        .sort((a, b) => b.lastReceivedAt - a.lastReceivedAt)
        .slice(0, MAX_ADDRESSES)
        .map(({ remote }) => remote)
      const before = this.#seen.get(name) ?? []
      if (remotes.length === before.length && remotes.every((remote) => before.includes(remote))) continue
      this.#seen.set(name, remotes)
      changed = true
    }
    if (changed) this.#writeSoon()
  }

  /** The peer was removed. */
  forget(name: string): void {
    this.#end(name)
    if (this.#seen.delete(name)) this.#writeSoon()
  }

  stop(): void {
    for (const name of [...this.#timers.keys()]) this.#end(name)
    if (this.#writing !== undefined) this.#write()
  }

  #end(name: string): void {
    clearTimeout(this.#timers.get(name))
    this.#timers.delete(name)
  }

  #writeSoon(): void {
    const pause = Math.max(0, this.#wroteAt + WRITE_MS - performance.now())
    this.#writing ??= setTimeout(() => this.#write(), pause)
  }

  #write(): void {
    clearTimeout(this.#writing)
    this.#writing = undefined
    this.#wroteAt = performance.now()
    this.#parts.store.set(Object.fromEntries(this.#seen))
  }
}

/** `192.0.2.1:51820`, `[2001:db8::1]:51820`; undefined for anything else. */
function endpointOf(text: string): Endpoint | undefined {
  const [, six, four, port] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? []
  const address = parseAddress(six ?? four ?? '')
  return address.ok && Number(port) > 0 && Number(port) < 65536
    ? { address: address.value, port: Number(port) }
    : undefined
}
