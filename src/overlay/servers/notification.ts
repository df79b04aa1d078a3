/**
 * The notification server (NT-21, paper §2.3): nodes keep one TLS connection each, over which the coordinator's notifications
 * reach them where datagrams do not. A node shows the token that its coordinator has announced here (Fig. 4 steps 10, 11, 14, 15).
 *
 * Who has shown nothing costs a connection of ten seconds, of a few per source. A connection that is registered may stay; the
 * kernel's keep-alive finds the dead ones. What a node sends there is a ping now and then, or its connection ends.
 */
import type { AddressInfo, Socket } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import { equal, toHex } from '../../core/bytes.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { BelowTls } from '../../linux/below-tls.ts'
import { encodeFrame, FrameReader, FrameType } from '../wire/notification.ts'
import { listenOn } from './listening.ts'
import { Connections, type SourceLimits } from './sources.ts'

export interface NotificationServerInit {
  readonly tls: { readonly cert: string; readonly key: string }
  readonly port: number
  readonly now: () => number
  readonly onConnection: (name: string, token: Uint8Array, isConnected: boolean) => void
  /** A line for the operator. */
  readonly log?: (message: string) => void
}

/** Nodes that are expected; what they are announced with is renewed at each registration. */
const MAX_EXPECTED = 200_000
const MAX_CONNECTIONS = 20_000
/** Of those that have not shown a token. Nodes behind one carrier NAT share a source. */
const LIMITS: SourceLimits = {
  ...{ connections: 500, ofSource: 64, rate: 20, burst: 128 },
  ...{ longestMs: 10_000, bytes: 16_384 },
}
const TOKEN = 32
/** Frames a second that a node may send, and at once. */
const FRAME_RATE = 1
const FRAME_BURST = 10
/** Bytes a second that a node may send, those of TLS counted, and at once; and how often that is looked at (ms). */
const BYTE_RATE = 256
const BYTE_BURST = 8192
const CHECK_MS = 1000
/** Bytes that wait for a node that does not read; beyond, it is not there. */
const MAX_UNREAD = 16_384
/** Idle time until the kernel asks whether the node is still there (ms). */
const IDLE_MS = 600_000

/** So many connections of a node that take another's place within this time (ms) are those of two machines with one login. */
const SWAPS = 6
const SWAPS_MS = 120_000
/** It is said again after this (ms). */
const SAY_AGAIN_MS = 3_600_000

interface Connected {
  readonly socket: TLSSocket
  readonly expected: Expected
  readonly from: string
  /** The socket below TLS, its bytes that are counted, and what it may send. */
  readonly raw: Socket
  counted: number
  readonly bytes: TokenBucket
  /** Connections that took the place of the one before, and since when; and when that was said. */
  readonly swaps: { readonly count: number; readonly since: number; readonly saidAt: number }
}

interface Expected {
  readonly name: string
  readonly token: Uint8Array
  /** Coordinator that announced it last. */
  by: string
}

export class NotificationServer {
  readonly #init: NotificationServerInit
  readonly #server: Server
  readonly #strangers: Connections
  readonly #expected = new Map<string, Expected>()
  readonly #byToken = new Map<string, Expected>()
  /** By name. */
  readonly #connected = new Map<string, Connected>()
  readonly #below = new BelowTls<{ readonly raw: Socket }>()
  #timer: NodeJS.Timeout | undefined

  constructor(init: NotificationServerInit) {
    this.#init = init
    this.#strangers = new Connections(LIMITS, init.now)
    this.#server = createServer({ ...init.tls, minVersion: 'TLSv1.3', handshakeTimeout: LIMITS.longestMs })
    this.#server.on('connection', (socket: Socket) => this.#admit(socket))
    this.#server.on('secureConnection', (socket) => this.#greet(socket))
    this.#server.on('tlsClientError', (_error, socket) => socket.destroy())
  }

  /** Connected nodes, and connections that have not shown a token. */
  get counts(): { readonly connected: number; readonly strangers: number } {
    return { connected: this.#connected.size, strangers: this.#strangers.size }
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** Rejects with PORT_TAKEN. */
  start(): Promise<void> {
    this.#timer = setInterval(() => this.#check(), CHECK_MS)
    this.#timer.unref()
    return listenOn(this.#server, this.#init.port)
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    this.#strangers.close()
    for (const { socket } of this.#connected.values()) socket.destroy()
    for (const { raw } of this.#below.values()) raw.destroy()
    if (this.#server.listening) await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  /**
   * NOTIFICATION_PREPARE of coordinator `by`: false when there is no room. A node is announced anew with each registration; with the token that
   * it has, its connection stays, and is that coordinator's.
   */
  prepare(name: string, token: Uint8Array, by = ''): boolean {
    const before = this.#expected.get(name)
    if (before !== undefined && equal(before.token, token)) {
      before.by = by
      return true
    }
    if (before === undefined && this.#expected.size >= MAX_EXPECTED) return false
    if (before !== undefined) this.#byToken.delete(toHex(before.token))
    const expected = { name, token, by }
    this.#expected.set(name, expected)
    this.#byToken.set(toHex(token), expected)
    return true
  }

  /** Nodes that are connected, what they showed, and which coordinator had announced it. */
  connections(): { readonly name: string; readonly token: Uint8Array; readonly by: string }[] {
    return [...this.#connected.values()].map(({ expected }) => expected)
  }

  /** What the node showed, if it is connected. */
  tokenOf(name: string): Uint8Array | undefined {
    return this.#connected.get(name)?.expected.token
  }

  /** Coordinator of the node; undefined: it is not announced. */
  ownerOf(name: string): string | undefined {
    return this.#expected.get(name)?.by
  }

  /** NOTIFICATION. False when the node is not connected. */
  notify(name: string, datagram: Uint8Array): boolean {
    const connected = this.#connected.get(name)
    if (connected !== undefined) this.#write(connected.socket, encodeFrame(FrameType.NOTIFICATION, datagram))
    return connected !== undefined
  }

  /** Its connection is dead, or it was removed: it has to be announced again. `token`: unless it has another now. */
  end(name: string, token?: Uint8Array): void {
    const expected = this.#expected.get(name)
    if (token !== undefined && expected !== undefined && !equal(expected.token, token)) return
    if (expected !== undefined) this.#byToken.delete(toHex(expected.token))
    this.#expected.delete(name)
    this.#connected.get(name)?.socket.destroy()
  }

  #admit(socket: Socket): void {
    if (!this.#strangers.admit(socket)) return
    socket.setKeepAlive(true, IDLE_MS)
    this.#below.add({ raw: socket })
  }

  #greet(socket: TLSSocket): void {
    const reader = new FrameReader(TOKEN)
    const bucket = new TokenBucket(FRAME_RATE, FRAME_BURST)
    let isRegistered = false
    socket.on('error', () => {})
    socket.on('data', (bytes: Buffer) => {
      const frames = reader.take(bytes)
      for (const { type, value } of frames ?? []) {
        if (socket.destroyed) return
        if (!isRegistered && type === FrameType.REGISTRATION) isRegistered = this.#register(socket, value)
        else if (isRegistered && type === FrameType.PING && bucket.take(this.#init.now()))
          this.#write(socket, encodeFrame(FrameType.PONG))
        else socket.destroy()
      }
      if (frames === undefined) socket.destroy()
    })
  }

  /** Fig. 4 step 14: false when nobody is announced with this token; the connection has ended then. */
  #register(socket: TLSSocket, token: Uint8Array): boolean {
    const expected = this.#byToken.get(toHex(token))
    const raw = this.#below.of(socket)?.raw
    const before = expected && this.#connected.get(expected.name)
    const isFull = before === undefined && this.#connected.size >= MAX_CONNECTIONS
    if (expected === undefined || raw === undefined || isFull) {
      socket.destroy()
      return false
    }
    this.#strangers.release(raw)
    const from = socket.remoteAddress ?? ''
    const swaps = this.#swapped(expected.name, before, from)
    const bytes = new TokenBucket(BYTE_RATE, BYTE_BURST)
    this.#connected.set(expected.name, { socket, expected, from, raw, counted: raw.bytesRead, bytes, swaps })
    before?.socket.destroy()
    socket.once('close', () => {
      if (this.#connected.get(expected.name)?.socket !== socket) return
      this.#connected.delete(expected.name)
      this.#init.onConnection(expected.name, expected.token, false)
    })
    this.#init.onConnection(expected.name, expected.token, true)
    this.#write(socket, encodeFrame(FrameType.ACK))
    return true
  }

  /** A node that moves takes its own place now and then; two machines with the same login take each other's without end. */
  #swapped(name: string, before: Connected | undefined, from: string): Connected['swaps'] {
    const now = this.#init.now()
    if (before === undefined) return { count: 0, since: now, saidAt: Number.NEGATIVE_INFINITY }
    const { count, since, saidAt } = before.swaps
    if (now - since > SWAPS_MS) return { count: 1, since: now, saidAt }
    if (count + 1 < SWAPS || now - saidAt < SAY_AGAIN_MS) return { count: count + 1, since, saidAt }
    this.#init.log?.(
      `${name} connects from ${before.from} and ${from} in turn: if its state folder was copied to a second machine, give that one a login of its own (docs/overlay.md, "When something goes wrong")`,
    )
    return { count: 0, since: now, saidAt: now }
  }

  /** Records of TLS that are no frame, such as KeyUpdate, cost time and draw an answer. */
  #check(): void {
    const now = this.#init.now()
    for (const connected of this.#connected.values()) {
      const { socket, raw, counted, bytes } = connected
      const { bytesRead } = raw
      if (bytesRead === counted) continue
      bytes.spend(bytesRead - counted, now)
      connected.counted = bytesRead
      if (!bytes.has(now)) socket.destroy()
    }
  }

  #write(socket: TLSSocket, frame: Uint8Array): void {
    if (socket.writableLength > MAX_UNREAD) socket.destroy()
    else socket.write(frame)
  }
}
