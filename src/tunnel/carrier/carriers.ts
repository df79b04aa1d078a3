/**
 * When a mobile host goes to its anchors over WebSockets: over an access that is up and has had no path by UDP for a
 * while. UDP is tried on all the time; once a path by it works, and has for a moment, the WebSocket is given up.
 */
import { parseAddress } from '../../core/address.ts'
import type { EndpointResolver, NamingAccess } from '../engine/endpoints.ts'
import type { PathReport } from '../engine/events.ts'
import { isUsable } from '../engine/reports.ts'
import type { CarrierThread, StartCarrierThread } from './thread.ts'
import { carrierThreads } from './thread.ts'
import type { CarrierEvent } from './worker.ts'

/** An anchor that accepts WebSockets. */
export interface CarriedPeer {
  readonly name: string
  /** `wss://HOST[:PORT]/PATH`. */
  readonly url: string
  /** SHA-256 of its certificate, base64. */
  readonly pin?: string
}

export interface HttpProxy {
  readonly host: string
  readonly port: number
  readonly authorization?: string
}

export interface CarriersParts {
  readonly resolver: EndpointResolver
  /** The port on loopback that the engine is reached at for this. */
  readonly enginePort: () => Promise<number>
  /** The engine is to have a path over the access to this port of 127.0.0.1; undefined: no more. */
  readonly setCarrier: (peer: string, access: string, port: number | undefined) => void
  readonly report: (level: 'info' | 'debug', message: string) => void
  readonly startThread?: StartCarrierThread
}

export interface CarriersInit {
  readonly peers: readonly CarriedPeer[]
  /** Mark of what goes past the tunnel. */
  readonly mark: number
  readonly proxy?: HttpProxy
}

/** Without a path by UDP for so long (ms), UDP counts as blocked. */
const BLOCKED_MS = 4000
/** Both are kept for so long once UDP works again: what is on its way by the WebSocket arrives. */
const LINGER_MS = 3000
const PAUSE_MS = 4000
const LONGEST_PAUSE_MS = 60_000
const HTTPS = 443

/** One peer over one access. */
interface Way {
  readonly peer: CarriedPeer
  readonly access: string
  /** Since when there is no path by UDP; or, with a WebSocket, since when there is one again. */
  since: number | undefined
  state: 'idle' | 'opening' | 'open'
  id: number
  retryAt: number
  pause: number
  /** Tries so far: each other one goes through the proxy, where there is one. */
  tries: number
}

export class Carriers {
  readonly #parts: CarriersParts
  readonly #init: CarriersInit
  readonly #accesses = new Map<string, NamingAccess>()
  readonly #ways = new Map<string, Way>()
  #thread: CarrierThread | undefined
  #lastId = 0
  readonly #startThread: StartCarrierThread
  #stopped = false

  constructor(parts: CarriersParts, init: CarriersInit) {
    this.#parts = parts
    this.#startThread = parts.startThread ?? carrierThreads()
    this.#init = init
  }

  setAccess(access: NamingAccess): void {
    const known = this.#accesses.get(access.name)
    if (known !== undefined && (!access.up || known.generation !== access.generation))
      this.removeAccess(access.name)
    this.#accesses.set(access.name, access)
  }

  removeAccess(name: string): void {
    this.#accesses.delete(name)
    for (const [key, way] of this.#ways) {
      if (way.access !== name) continue
      this.#close(way)
      this.#ways.delete(key)
    }
  }

  /** The paths as they are at `now`, milliseconds; to be called about once a second. */
  follow(paths: readonly PathReport[], now: number): void {
    for (const peer of this.#init.peers)
      for (const access of this.#accesses.values()) {
        if (!access.up) continue
        const direct = paths.some(
          (path) =>
            path.peer === peer.name &&
            path.access === access.name &&
            path.carrier === undefined &&
            isUsable(path.state),
        )
        this.#followWay(this.#way(peer, access.name), direct, now)
      }
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#thread?.stop()
  }

  #followWay(way: Way, direct: boolean, now: number): void {
    // Counts how long it has been as it is to change the state: without UDP to open, with it to close.
    if (direct === (way.state === 'idle')) {
      way.since = undefined
      if (direct) {
        way.pause = PAUSE_MS
        way.retryAt = 0
      }
      return
    }
    way.since ??= now
    if (direct && now - way.since >= LINGER_MS) {
      this.#parts.report(
        'info',
        `UDP works again over ${way.access}: closed the WebSocket to ${way.peer.name}`,
      )
      this.#close(way)
    } else if (!direct && now - way.since >= BLOCKED_MS && now >= way.retryAt) void this.#open(way, now)
  }

  #way(peer: CarriedPeer, access: string): Way {
    const key = `${peer.name} ${access}`
    const known = this.#ways.get(key)
    if (known !== undefined) return known
    const way: Way = {
      peer,
      access,
      since: undefined,
      state: 'idle',
      id: 0,
      retryAt: 0,
      pause: PAUSE_MS,
      tries: 0,
    }
    this.#ways.set(key, way)
    return way
  }

  async #open(way: Way, now: number): Promise<void> {
    const { resolver, report } = this.#parts
    const { peer, access } = way
    const id = ++this.#lastId
    way.id = id
    way.state = 'opening'
    way.since = undefined
    way.retryAt = now + way.pause
    way.pause = Math.min(2 * way.pause, LONGEST_PAUSE_MS)
    const proxy = this.#init.proxy !== undefined && way.tries++ % 2 === 0 ? this.#init.proxy : undefined
    const { hostname, port } = new URL(peer.url)
    const to = proxy ?? { host: hostname.replace(/^\[(.*)\]$/, '$1'), port: Number(port) || HTTPS }
    try {
      const found = await resolver.resolve(to.host, access)
      const families = this.#accesses.get(access)?.families ?? []
      const address = [...found.addresses, ...found.synthesised]
        .flatMap((text) => {
          const parsed = parseAddress(text)
          return parsed.ok ? [parsed.value] : []
        })
        .find(({ length }) => families.includes(length === 4 ? 4 : 6))
      if (address === undefined) throw new Error(`${to.host} has no address that ${access} reaches`)
      const enginePort = await this.#parts.enginePort()
      if (way.id !== id || this.#stopped) return
      this.#needThread().post({
        type: 'open',
        id,
        enginePort,
        opening: {
          url: peer.url,
          ...(peer.pin !== undefined && { pin: peer.pin }),
          address,
          port: to.port,
          device: access,
          mark: this.#init.mark,
          ...(proxy && { proxy: proxy.authorization ? { authorization: proxy.authorization } : {} }),
        },
      })
    } catch (error) {
      report('debug', `no WebSocket to ${peer.name} over ${access}: ${(error as Error).message}`)
      if (way.id === id) way.state = 'idle'
    }
  }

  #needThread(): CarrierThread {
    const { report } = this.#parts
    this.#thread ??= this.#startThread(
      { role: 'client' },
      (event) => this.#handle(event),
      (error) => {
        this.#thread = undefined
        if (this.#stopped) return
        report('info', error?.message ?? 'the thread of WebSockets ended')
        for (const way of this.#ways.values()) this.#ended(way)
      },
    )
    return this.#thread
  }

  #handle(event: CarrierEvent): void {
    if (event.type !== 'opened' && event.type !== 'closed') return
    const way = [...this.#ways.values()].find(({ id }) => id === event.id)
    if (way === undefined) return
    const { peer, access } = way
    if (event.type === 'opened') {
      way.state = 'open'
      way.since = undefined
      this.#parts.setCarrier(peer.name, access, event.port)
      this.#parts.report('info', `no answer by UDP over ${access}: using a WebSocket to ${peer.name}`)
    } else {
      this.#parts.report('debug', `WebSocket to ${peer.name} over ${access}: ${event.reason}`)
      this.#ended(way)
    }
  }

  #close(way: Way): void {
    if (way.state === 'idle') return
    this.#thread?.post({ type: 'close', id: way.id })
    this.#ended(way)
  }

  #ended(way: Way): void {
    if (way.state === 'open') this.#parts.setCarrier(way.peer.name, way.access, undefined)
    way.state = 'idle'
    way.since = undefined
    way.id = 0
  }
}
