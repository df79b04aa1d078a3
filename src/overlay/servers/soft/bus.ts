/** The bus between the coordinators of a zone as the process of one has it: a thread that talks to NATS (bus-worker.ts). */
import { Worker } from 'node:worker_threads'
import type { GodwitError } from '../../../core/errors.ts'
import type { SoftInput } from '../../machine/fellows.ts'
import { natsClient, softFault } from './client.ts'
import type { BusCommand, BusEvent, BusSetup } from './protocol.ts'

export interface BusEvents {
  readonly onInput: (input: SoftInput) => void
  readonly onFailed: (error: GodwitError) => void
  readonly log: (level: 'info' | 'warn', message: string) => void
}

export class SoftBus {
  readonly #worker: Worker
  readonly #ended: Promise<void>
  #isStopping = false

  /** Throws MISSING. A server that is not there is no error: the thread goes on looking for it. */
  constructor(setup: BusSetup, { onInput, onFailed, log }: BusEvents) {
    natsClient()
    this.#worker = new Worker(new URL('./bus-worker.js', import.meta.url), { workerData: setup })
    this.#worker.on('message', (event: BusEvent) => {
      if (event.type === 'log') log(event.level, event.message)
      else if (event.type !== 'closed' && !this.#isStopping) onInput(event)
    })
    this.#worker.on('error', (error) => {
      onInput({ type: 'soft-down' })
      onFailed(softFault(error, setup.settings))
    })
    this.#ended = new Promise((resolve) => this.#worker.once('exit', () => resolve()))
  }

  post(command: BusCommand): void {
    this.#worker.postMessage(command)
  }

  async stop(): Promise<void> {
    this.#isStopping = true
    this.post({ type: 'close' })
    await this.#ended
  }
}
