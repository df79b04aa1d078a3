/**
 * The anchor's end of tunnels over WebSockets. A connection is a stranger until the engine has a path to the port that
 * its datagrams come from. Strangers have limits in number, number per source, bytes and time. Where there is no room, the
 * source with most of them gives way.
 */
import { createServer as createPlain, type IncomingMessage, type Server } from 'node:http'
import { createServer as createSecure } from 'node:https'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type WebSocket, WebSocketServer } from 'ws'
import { GodwitError } from '../../core/errors.ts'
import { FairRate } from '../../core/fair-rate.ts'
import { siteOf, sourceOf } from '../../core/source.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { BelowTls, takesTooMuch } from '../../linux/below-tls.ts'
import { OneByOne } from '../../linux/one-by-one.ts'
import { giveLittleRoom, giveRoom } from '../../linux/receive-room.ts'
import { Bridge, MOST_BYTES } from './bridge.ts'

export interface CarrierServerInit {
  readonly host: string
  readonly port: number
  readonly path: string
  /** PEM; absent: a web server before it does TLS. */
  readonly tls?: { readonly cert: string; readonly key: string }
  /** UDP port of the engine, on loopback. */
  readonly enginePort: number
}

export interface CarrierLimits {
  readonly connections: number
  readonly strangers: number
  readonly strangersOfSource: number
  /** New connections a second, in all; half as many more where each source has one in three seconds. */
  readonly rate: number
  /** New connections a second of one source, and at once. */
  readonly rateOfSource: number
  readonly burstOfSource: number
  readonly strangerMs: number
  /** Bytes a second that a stranger may send, and at once. */
  readonly strangerRate: number
  readonly strangerBurst: number
}

export const LIMITS: CarrierLimits = {
  connections: 4096,
  strangers: 256,
  strangersOfSource: 16,
  rate: 100,
  rateOfSource: 4,
  burstOfSource: 32,
  strangerMs: 15_000,
  strangerRate: 64 * 1024,
  strangerBurst: 256 * 1024,
}

const REQUEST_MS = 10_000
const MOST_HEADER = 8192
const CHECK_MS = 250
const REFUSED_MS = 1000
/** Control messages of a WebSocket (ping, pong) count as this many bytes, of a message at least so many. */
const CONTROL_BYTES = 1024
const LEAST_BYTES = 256
/** Bytes that TLS may need for each byte within (of a short datagram most), and more: of a connection, and each second. */
const TLS_SHARE = 2
const TLS_BYTES = 65_536
const TLS_RATE = 256
/** A datagram is one frame; some proxies cut them. */
const MOST_FRAGMENTS = 4
/** Pieces of TCP or TLS that a message may come in. */
const MOST_PIECES = 256

/** Where others have taken all, a source has one new connection in so long (ms): hosts try again after four seconds. */
const RESERVE_MS = 3000
const LOOPBACK = /^(::ffff:)?127\.|^::1$/

interface Connection {
  readonly source: string
  /** Below TLS. */
  readonly raw: Socket | undefined
  readonly bucket: TokenBucket
  bridge: Bridge | undefined
  readonly socket: WebSocket
  /** Since when it is a stranger; undefined: it is none. */
  strangeSince: number | undefined
}

export class CarrierServer {
  readonly #init: CarrierServerInit
  readonly #limits: CarrierLimits
  readonly #now: () => number
  readonly #server: Server
  readonly #sockets: WebSocketServer
  readonly #arrivals: FairRate
  readonly #connections = new Set<Connection>()
  readonly #open = new BelowTls<{ readonly raw: Socket; readonly since: number; within?: Socket }>()
  readonly #timer: NodeJS.Timeout
  /** Connections that were refused, or ended as strangers. */
  refused = 0

  constructor(init: CarrierServerInit, limits = LIMITS, now: () => number = () => performance.now()) {
    this.#init = init
    this.#limits = limits
    this.#now = now
    const { rate, rateOfSource, burstOfSource } = limits
    this.#arrivals = new FairRate({
      rateOfSource,
      burstOfSource,
      rate,
      burst: 2 * rate,
      reserve: rate / 2,
      reserveBurst: rate,
      reserveMs: RESERVE_MS,
    })
    const options = {
      maxHeaderSize: MOST_HEADER,
      headersTimeout: REQUEST_MS,
      requestTimeout: REQUEST_MS,
      keepAliveTimeout: 1,
      connectionsCheckingInterval: CHECK_MS,
    }
    this.#server = init.tls
      ? createSecure({ ...options, ...init.tls, handshakeTimeout: REQUEST_MS, ALPNProtocols: ['http/1.1'] })
      : createPlain(options)
    this.#server.maxConnections = limits.connections
    // Also of those that do not take their answer.
    this.#server.timeout = 2 * REQUEST_MS
    this.#sockets = new WebSocketServer({
      noServer: true,
      perMessageDeflate: false,
      maxPayload: MOST_BYTES,
      maxFragments: MOST_FRAGMENTS,
      maxBufferedChunks: MOST_PIECES,
      clientTracking: false,
    })
    this.#server.on('connection', (socket: Socket) => {
      socket.on('error', () => {})
      const address = socket.remoteAddress ?? ''
      const source = LOOPBACK.test(address) ? undefined : sourceOf(address)
      if (this.#arrivals.take(source, this.#now())) {
        this.#open.add({
          raw: socket,
          since: this.#now(),
          ...(this.#init.tls === undefined && { within: socket }),
        })
        // A web server before it.
        if (source === undefined) giveRoom(socket)
        return
      }
      this.refused++
      socket.destroy()
    })
    this.#server.on('secureConnection', (tls: Socket) => {
      const open = this.#open.of(tls)
      if (open !== undefined) open.within = tls
    })
    this.#server.on('tlsClientError', (_error, socket: Socket) => socket.destroy())
    this.#server.on('clientError', (_error, socket) => socket.destroy())
    const oneByOne = new OneByOne()
    this.#server.on('request', (request, response) => {
      if (oneByOne.admits(request, response)) response.writeHead(404, { connection: 'close' }).end()
    })
    this.#server.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head))
    this.#timer = setInterval(() => this.#check(), CHECK_MS)
  }

  /** Resolves to the port when it listens. Rejects with PORT_TAKEN, or the system's error. */
  listen(): Promise<number> {
    const { host, port } = this.#init
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error: NodeJS.ErrnoException) =>
        reject(
          error.code === 'EADDRINUSE'
            ? new GodwitError('PORT_TAKEN', `TCP port ${port} is in use by another process`, {
                hint: `find it with: ss -tlpn 'sport = :${port}'`,
              })
            : error,
        ),
      )
      this.#server.listen(port, host, () => {
        giveLittleRoom(this.#server)
        const address = this.#server.address()
        resolve(typeof address === 'object' && address !== null ? address.port : port)
      })
    })
  }

  /** Ports on loopback that peers of the engine have paths to. */
  setProven(ports: ReadonlySet<number>): void {
    const now = this.#now()
    for (const connection of this.#connections) {
      const port = connection.bridge?.port
      if (port === undefined || !ports.has(port)) connection.strangeSince ??= now
      else if (connection.strangeSince !== undefined) {
        connection.strangeSince = undefined
        if (connection.raw !== undefined) giveRoom(connection.raw)
      }
    }
  }

  get size(): number {
    return this.#connections.size
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    for (const connection of this.#connections) this.#end(connection, 'the anchor stops')
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => {})
    const source = this.#sourceOf(request)
    const strangers = [...this.#connections].filter(({ strangeSince }) => strangeSince !== undefined)
    const { strangers: most, strangersOfSource } = this.#limits
    const path = request.url?.split('?')[0]
    if (path !== this.#init.path) {
      refuse(socket, '404 Not Found')
      return
    }
    if (strangers.filter((each) => each.source === source).length >= strangersOfSource) {
      this.refused++
      refuse(socket, '503 Service Unavailable')
      return
    }
    if (strangers.length >= most) this.#displace(strangers)
    this.#sockets.handleUpgrade(request, socket, head, (websocket) =>
      this.#accept(websocket, source, request.socket),
    )
  }

  #accept(socket: WebSocket, source: string, below: Socket): void {
    const { strangerRate, strangerBurst } = this.#limits
    const connection: Connection = {
      source,
      raw: this.#open.of(below)?.raw,
      bucket: new TokenBucket(strangerRate, strangerBurst),
      bridge: undefined,
      socket,
      strangeSince: this.#now(),
    }
    this.#connections.add(connection)
    socket.on('error', () => {})
    socket.on('close', () => this.#connections.delete(connection))
    for (const control of ['ping', 'pong']) socket.on(control, () => this.#allow(connection, CONTROL_BYTES))
    Bridge.open(socket, this.#init.enginePort, {
      onMessage: (bytes) => this.#allow(connection, Math.max(bytes, LEAST_BYTES)),
      onClose: () => this.#connections.delete(connection),
    }).then(
      (bridge) => {
        connection.bridge = bridge
        if (!this.#connections.has(connection)) bridge.close('gone')
      },
      () => socket.terminate(),
    )
  }

  /** Whether the connection may continue; a stranger that sends too much is ended. */
  #allow(connection: Connection, bytes: number): boolean {
    if (connection.strangeSince === undefined) return true
    const now = this.#now()
    if (!connection.bucket.has(now)) {
      this.#end(connection, 'a stranger that sends too much')
      return false
    }
    connection.bucket.spend(bytes, now)
    return true
  }

  /** Of the source with most strangers the oldest, of the site with most, so that no few sources or sites keep others out. */
  #displace(strangers: readonly Connection[]): void {
    const ofSite = ofMost(strangers, ({ source }) => siteOf(source))
    const [oldest] = ofMost(ofSite, ({ source }) => source)
    if (oldest !== undefined) this.#end(oldest, 'gives way to a source with fewer connections')
  }

  /** Strangers end after a while, and who sends records of TLS that bring nothing. */
  #check(): void {
    const now = this.#now()
    for (const { raw, since, within } of this.#open.values()) {
      const more = TLS_BYTES + (TLS_RATE * (now - since)) / 1000
      if (raw.destroyed || !takesTooMuch(raw, within, TLS_SHARE, more)) continue
      this.refused++
      raw.destroy()
    }
    const since = this.#now() - this.#limits.strangerMs
    for (const connection of this.#connections)
      if (connection.strangeSince !== undefined && connection.strangeSince <= since)
        this.#end(connection, 'still a stranger')
  }

  #end(connection: Connection, reason: string): void {
    this.refused++
    this.#connections.delete(connection)
    connection.bridge?.close(reason)
    connection.socket.terminate()
  }

  /**
   * Source address of a connection; behind a web server on this machine, the one that the server reports. IPv6 by /64.
   */
  #sourceOf(request: IncomingMessage): string {
    const address = request.socket.remoteAddress ?? ''
    const forwarded = request.headers['x-forwarded-for']
    const isLocal = LOOPBACK.test(address)
    const said = isLocal && typeof forwarded === 'string' ? forwarded.split(',').at(-1)!.trim() : address
    return sourceOf(said)
  }
}

/** Those with the key that most have, in their order. */
function ofMost(all: readonly Connection[], keyOf: (each: Connection) => string): readonly Connection[] {
  const counts = new Map<string, number>()
  for (const each of all) counts.set(keyOf(each), (counts.get(keyOf(each)) ?? 0) + 1)
  const most = Math.max(...counts.values())
  const first = all.find((each) => counts.get(keyOf(each)) === most)
  return first === undefined ? [] : all.filter((each) => keyOf(each) === keyOf(first))
}

/** The connection ends, whether the other end closes it or not. */
function refuse(socket: Duplex, status: string): void {
  setTimeout(() => socket.destroy(), REFUSED_MS).unref()
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\n\r\n`, () => socket.destroy())
}
