/**
 * The bus between the coordinators of a zone as the process of one has it: a thread that talks to NATS (bus-worker.ts). A thread that ends, whatever a
 * server has sent to it, is replaced.
 */
import type { Worker } from 'node:worker_threads'
import { ThreadCode } from '../../../linux/thread-code.ts'
import type { SoftInput } from '../../machine/fellows.ts'
import { natsClient } from './client.ts'
import type { BusCommand, BusEvent, BusSetup } from './protocol.ts'

export interface BusEvents {
  readonly onInput: (input: SoftInput) => void
  readonly log: (level: 'info' | 'warn', message: string) => void
}

/** Before a thread that has ended is replaced (ms). */
const AGAIN_MS = 2000

export class SoftBus {
  readonly #setup: BusSetup
  readonly #events: BusEvents
  readonly #code = new ThreadCode(new URL('./bus-worker.js', import.meta.url))
  #worker: Worker
  #ended: Promise<void> = Promise.resolve()
  #isStopping = false
  #again: NodeJS.Timeout | undefined

  /** Throws MISSING. A server that is not there is no error: the thread goes on looking for it. */
  constructor(setup: BusSetup, events: BusEvents) {
    natsClient()
    this.#setup = setup
    this.#events = events
    this.#worker = this.#begin()
  }

  post(command: BusCommand): void {
    this.#worker.postMessage(command)
  }

  async stop(): Promise<void> {
    this.#isStopping = true
    clearTimeout(this.#again)
    this.post({ type: 'close' })
    await this.#ended
  }

  #begin(): Worker {
    const { onInput, log } = this.#events
    const worker = this.#code.start({ workerData: this.#setup, stdout: true, stderr: true })
    // The client writes there what it thinks of a server; the log has it in one line.
    for (const stream of [worker.stdout, worker.stderr]) stream.resume()
    worker.on('message', (event: BusEvent) => {
      if (event.type === 'log') log(event.level, event.message)
      else if (event.type !== 'closed' && !this.#isStopping) onInput(event)
    })
    worker.on('error', (error) => {
      if (!this.#isStopping)
        log('warn', `the thread that talks to NATS has ended, and is replaced: ${error.message}`)
    })
    this.#ended = new Promise((resolve) => {
      worker.once('exit', () => {
        resolve()
        if (this.#isStopping) return
        onInput({ type: 'soft-down' })
        this.#again = setTimeout(() => {
          this.#worker = this.#begin()
        }, AGAIN_MS)
      })
    })
    return worker
  }
}
