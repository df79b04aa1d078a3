/**
 * Where peers are reached. A name is resolved when the host starts and whenever nothing has answered for a while; what was
 * found last is remembered over restarts and used at once, because a name server may be out of reach exactly then: behind
 * a tunnel that waits for this daemon, or not yet there after a change of network.
 */
import { lookup } from 'node:dns/promises'
import { formatAddress, parseAddress } from '../../core/address.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import type { PathReport } from './events.ts'
import { isUsable } from './reports.ts'

/** What was resolved last, by host name; addresses as text, in order of preference. */
export interface EndpointCache {
  get(name: string): readonly string[]
  set(name: string, addresses: readonly string[]): void
}

export interface EndpointsParts {
  readonly cache: EndpointCache
  /** Addresses of a name, as text. Default: the system's resolver. */
  readonly resolve?: (name: string) => Promise<readonly string[]>
  readonly onRemotes: (peer: string, remotes: readonly Endpoint[]) => void
  readonly report: (message: string) => void
}

export interface Named {
  readonly name: string
  /** Name or address. */
  readonly host: string
  readonly port: number
}

const RETRY_MS = 2000
/** Nothing of a peer has answered for so long: its name is resolved again, and then as often. */
const RESOLVE_AGAIN_MS = 10_000

export class Endpoints {
  readonly #parts: EndpointsParts
  /** Of each peer: what was told last. */
  readonly #told = new Map<string, string>()
  readonly #busy = new Set<Named>()
  readonly #peers = new Map<string, Named>()
  /** Of each peer without a path that works: since when, or when its name was resolved last. */
  readonly #silentSince = new Map<string, number>()
  readonly #timers = new Set<NodeJS.Timeout>()
  #stopped = false

  constructor(parts: EndpointsParts) {
    this.#parts = parts
  }

  /** Tells the peer's addresses: remembered ones at once, else when they are resolved. Keeps trying while it must. */
  start(peer: Named): void {
    const literal = parseAddress(peer.host)
    if (literal.ok) {
      this.#parts.onRemotes(peer.name, [{ address: literal.value, port: peer.port }])
      return
    }
    this.#peers.set(peer.name, peer)
    this.#tell(peer, this.#parts.cache.get(peer.host))
    void this.#resolve(peer)
  }

  /** The paths as they are at `now`, milliseconds. Where nothing answers, the name may mean another machine by now. */
  follow(paths: readonly PathReport[], now: number): void {
    for (const [name, peer] of this.#peers) {
      const works = paths.some((path) => path.peer === name && isUsable(path.state))
      if (works) this.#silentSince.delete(name)
      else if (now - (this.#silentSince.get(name) ?? now) >= RESOLVE_AGAIN_MS) {
        this.#silentSince.set(name, now)
        void this.#resolve(peer)
      } else if (!this.#silentSince.has(name)) this.#silentSince.set(name, now)
    }
  }

  /** The peer is gone: nothing of it is told any more. */
  forget(name: string): void {
    this.#peers.delete(name)
    this.#told.delete(name)
    this.#silentSince.delete(name)
  }

  stop(): void {
    this.#stopped = true
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers.clear()
  }

  async #resolve(peer: Named): Promise<void> {
    if (this.#busy.has(peer)) return
    this.#busy.add(peer)
    try {
      const found = await (this.#parts.resolve ?? resolveByName)(peer.host)
      if (!this.#wants(peer) || found.length === 0) return
      if (this.#tell(peer, found)) this.#parts.cache.set(peer.host, found)
    } catch (error) {
      if (!this.#wants(peer)) return
      if (!this.#told.has(peer.name)) {
        this.#parts.report(`${peer.host} has no address yet: ${(error as Error).message}`)
        const timer = setTimeout(() => {
          this.#timers.delete(timer)
          if (this.#wants(peer)) void this.#resolve(peer)
        }, RETRY_MS)
        this.#timers.add(timer)
      }
    } finally {
      this.#busy.delete(peer)
    }
  }

  #wants(peer: Named): boolean {
    return !this.#stopped && this.#peers.get(peer.name) === peer
  }

  /** False when this was told already. */
  #tell(peer: Named, addresses: readonly string[]): boolean {
    const remotes = addresses.flatMap((text) => {
      const parsed = parseAddress(text)
      return parsed.ok ? [{ address: parsed.value, port: peer.port }] : []
    })
    const text = remotes.map(({ address }) => formatAddress(address)).join()
    if (remotes.length === 0 || this.#told.get(peer.name) === text) return false
    this.#told.set(peer.name, text)
    this.#parts.onRemotes(peer.name, remotes)
    return true
  }
}

async function resolveByName(name: string): Promise<string[]> {
  return (await lookup(name, { all: true, order: 'verbatim' })).map(({ address }) => address)
}
