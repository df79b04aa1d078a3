/**
 * A node's connection to its notification server (NT-21; Fig. 4 steps 14–16): TLS, its certificate the one that the coordinator
 * named. Idle, it costs the kernel's keep-alive every few minutes and wakes no program. When it is lost, the node registers
 * again after a random time, longer from one failure to the next, and is told where to connect: servers that start again are not met by all nodes at once.
 * So does a node that had a server and is told of none: a coordinator that has just started may not know it yet.
 */
import { connect as connectTcp } from 'node:net'
import { connect, type TLSSocket } from 'node:tls'
import { TokenBucket } from '../../core/token-bucket.ts'
import { pinOf } from '../../tunnel/carrier/client.ts'
import type { NotificationTarget } from '../machine/api.ts'
import { metered } from '../metered.ts'
import { encodeFrame, FrameReader, FrameType } from '../wire/notification.ts'

export interface NotificationClientParts {
  /** Fig. 5 step 10. */
  readonly onNotification: (datagram: Uint8Array) => void
  readonly onConnected: (isConnected: boolean) => void
  /** Registers at the coordinator again; `want` follows. */
  readonly register: () => void
  /** For the trace. */
  readonly onStep: (what: string, isSent: boolean) => void
  readonly log: (message: string) => void
  /** 0 to 1. */
  readonly random?: () => number
}

const CONNECT_MS = 10_000
/** Bytes a second that a server may send, those of TLS counted, and at once: some fifty notifications. */
const BYTE_RATE = 16_384
const BYTE_BURST = 65_536
const PONG_MS = 5_000
/** Longest pause after the first failure (ms); doubling to the longest. */
const FIRST_PAUSE = 4_000
const LONGEST_PAUSE = 300_000
/** Registrations of a node that is told of no server any more: for four minutes at most. */
const MISSING_TRIES = 6

export class NotificationClient {
  readonly #parts: NotificationClientParts
  readonly #keepAliveMs: number
  #target: NotificationTarget | undefined
  #socket: TLSSocket | undefined
  #isConnected = false
  #failures = 0
  /** Registrations that are left in which a server that was there may be named again. */
  #missing = 0
  #isLogged = false
  #timer: NodeJS.Timeout | undefined

  constructor(parts: NotificationClientParts, keepAliveMs: number) {
    this.#parts = parts
    this.#keepAliveMs = keepAliveMs
  }

  get isConnected(): boolean {
    return this.#isConnected
  }

  /** What a registration has said. A connection that stands is tried: the node may have moved. Undefined: there is no server. */
  want(target: NotificationTarget | undefined): void {
    const before = this.#target
    this.#target = target
    clearTimeout(this.#timer)
    if (target === undefined) {
      this.#close()
      if (before !== undefined) this.#missing = MISSING_TRIES
      if (this.#missing === 0) return
      this.#missing--
      this.#registerLater()
      return
    }
    this.#missing = 0
    if (this.#isConnected && before !== undefined && isSame(before, target)) this.#ping()
    else if (this.#failures === 0) this.#connect(target)
    else this.#timer = setTimeout(() => this.#connect(target), this.#random(FIRST_PAUSE))
  }

  stop(): void {
    this.#target = undefined
    this.#missing = 0
    clearTimeout(this.#timer)
    this.#close()
  }

  #close(): void {
    const socket = this.#socket
    this.#socket = undefined
    socket?.destroy()
    if (!this.#isConnected) return
    this.#isConnected = false
    this.#parts.onConnected(false)
  }

  #connect({ host, port, token, certificate }: NotificationTarget): void {
    this.#close()
    const bytes = new TokenBucket(BYTE_RATE, BYTE_BURST)
    const raw = connectTcp({ host, port })
    const below = metered(raw, (count) => {
      const now = performance.now()
      bytes.spend(count, now)
      return bytes.has(now)
    })
    const socket = connect({
      ...{ socket: below, rejectUnauthorized: false, minVersion: 'TLSv1.3' },
      ...(!/^[\d.]+$|:/.test(host) && { servername: host }),
    })
    this.#socket = socket
    const reader = new FrameReader()
    this.#timer = setTimeout(() => this.#lost(socket, 'no answer'), CONNECT_MS)
    socket.on('error', (error) => this.#lost(socket, error.message))
    socket.on('close', () => {
      below.destroy()
      this.#lost(socket, 'it ended the connection')
    })
    socket.once('secureConnect', () => {
      const shown = socket.getPeerCertificate().raw
      if (shown === undefined || pinOf(shown) !== Buffer.from(certificate).toString('base64')) {
        this.#lost(socket, 'its certificate is not the one that the coordinator named')
        return
      }
      raw.setKeepAlive(true, this.#keepAliveMs)
      this.#parts.onStep('NOTIFICATION_REGISTRATION', true)
      socket.write(encodeFrame(FrameType.REGISTRATION, token))
    })
    socket.on('data', (bytes: Buffer) => {
      const frames = reader.take(bytes)
      if (frames === undefined) this.#lost(socket, 'it does not speak as a notification server')
      for (const { type, value } of frames ?? []) {
        if (socket !== this.#socket) return
        if (type === FrameType.ACK) this.#acknowledged()
        else if (type === FrameType.PONG) clearTimeout(this.#timer)
        else if (type === FrameType.NOTIFICATION && this.#isConnected) this.#parts.onNotification(value)
      }
    })
  }

  /** Fig. 4 step 15. */
  #acknowledged(): void {
    if (this.#isConnected) return
    clearTimeout(this.#timer)
    this.#isConnected = true
    this.#failures = 0
    this.#isLogged = false
    this.#parts.onStep('NOTIFICATION_REGISTRATION_ACK', false)
    this.#parts.onConnected(true)
  }

  #ping(): void {
    const socket = this.#socket
    if (socket === undefined) return
    socket.write(encodeFrame(FrameType.PING))
    this.#timer = setTimeout(() => this.#lost(socket, 'it no longer answers'), PONG_MS)
  }

  #lost(socket: TLSSocket, reason: string): void {
    if (socket !== this.#socket) return
    const target = this.#target
    clearTimeout(this.#timer)
    this.#close()
    if (target === undefined) return
    if (!this.#isLogged) {
      this.#isLogged = true
      this.#parts.log(
        `notification server ${target.host}:${target.port}: ${reason}; keep-alives are sent to the coordinator meanwhile`,
      )
    }
    this.#registerLater()
  }

  #registerLater(): void {
    const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures)
    this.#failures++
    this.#timer = setTimeout(() => this.#parts.register(), this.#random(longest))
  }

  #random(longest: number): number {
    return longest * (this.#parts.random ?? Math.random)()
  }
}

function isSame(a: NotificationTarget, b: NotificationTarget): boolean {
  return (
    a.host === b.host &&
    a.port === b.port &&
    Buffer.from(a.token).equals(b.token) &&
    Buffer.from(a.certificate).equals(b.certificate)
  )
}
