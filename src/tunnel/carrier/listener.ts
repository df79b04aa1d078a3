/**
 * An anchor's WebSockets, on the main thread: runs the thread that listens, tells it which connections belong to known
 * hosts, and restarts it if it ends.
 */
import { GodwitError } from '../../core/errors.ts'
import type { PathReport } from '../engine/events.ts'
import { isUsable } from '../engine/reports.ts'
import type { CarrierServerInit } from './server.ts'
import { type CarrierThread, carrierThreads, type StartCarrierThread } from './thread.ts'

export interface ListenerParts {
  readonly report: (level: 'info' | 'warn', message: string) => void
  readonly startThread?: StartCarrierThread
}

const AGAIN_MS = 2000
const LOOPBACK = /^127\.0\.0\.1:(\d+)$/

export class CarrierListener {
  readonly #parts: ListenerParts
  readonly #init: CarrierServerInit
  #thread: CarrierThread | undefined
  #timer: NodeJS.Timeout | undefined
  readonly #startThread: StartCarrierThread
  #stopped = false

  constructor(parts: ListenerParts, init: CarrierServerInit) {
    this.#parts = parts
    this.#startThread = parts.startThread ?? carrierThreads()
    this.#init = init
  }

  /** Resolves when it listens. Rejects with PORT_TAKEN, or what else keeps it from that. */
  start(): Promise<void> {
    const { report } = this.#parts
    return new Promise((resolve, reject) => {
      let listening = false
      this.#thread = this.#startThread(
        { role: 'server', ...this.#init },
        (event) => {
          if (event.type === 'listening') {
            listening = true
            report('info', `accepts WebSockets on port ${event.port}`)
            resolve()
          } else if (event.type === 'failed') reject(new GodwitError(event.code, event.message))
        },
        (error) => {
          this.#thread = undefined
          reject(error ?? new GodwitError('CARRIER_FAILED', 'no WebSockets: the thread for them ended'))
          if (listening && !this.#stopped) this.#again(error)
        },
      )
    })
  }

  /** Takes the engine's paths: a connection with a path is no stranger. */
  follow(paths: readonly PathReport[]): void {
    const ports = paths.flatMap(({ remote, state }) => {
      const port = LOOPBACK.exec(remote)?.[1]
      return port !== undefined && isUsable(state) ? [Number(port)] : []
    })
    this.#thread?.post({ type: 'proven', ports })
  }

  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    await this.#thread?.stop()
  }

  #again(error: Error | undefined): void {
    this.#parts.report('warn', `WebSockets: ${error?.message ?? 'the thread ended'}; starting it again`)
    this.#timer = setTimeout(() => {
      if (!this.#stopped) this.start().catch((reason: Error) => this.#again(reason))
    }, AGAIN_MS)
  }
}
