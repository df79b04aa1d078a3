/** The main thread's handle on the thread of WebSockets (worker.ts). */

import type { Worker } from 'node:worker_threads'
import { GodwitError } from '../../core/errors.ts'
import { ThreadCode } from '../../linux/thread-code.ts'
import type { CarrierCommand, CarrierEvent, CarrierRole } from './worker.ts'

export interface CarrierThread {
  post(command: CarrierCommand): void
  /** Resolves when it has ended. Repeatable. */
  stop(): Promise<void>
}

/** `onEnd` is called once, with a reason when the end was not requested. */
export type StartCarrierThread = (
  role: CarrierRole,
  onEvent: (event: CarrierEvent) => void,
  onEnd: (error: Error | undefined) => void,
) => CarrierThread

const STOP_MS = 3000

/** The first may be needed when UDP is blocked, days after the start. */
export function carrierThreads(): StartCarrierThread {
  const code = new ThreadCode(new URL('./worker.js', import.meta.url))
  return (role, onEvent, onEnd) =>
    handleOf(code.start({ workerData: role, trackUnmanagedFds: false }), onEvent, onEnd)
}

function handleOf(
  worker: Worker,
  onEvent: (event: CarrierEvent) => void,
  onEnd: (error: Error | undefined) => void,
): CarrierThread {
  let failure: Error | undefined
  const ended = new Promise<void>((resolve) => {
    worker.on('error', (error) => {
      failure = new GodwitError('CARRIER_FAILED', `the thread of WebSockets: ${String(error)}`, {
        cause: error,
      })
    })
    worker.on('exit', () => {
      resolve()
      onEnd(failure)
    })
  })
  worker.on('message', onEvent)
  return {
    post: (command) => worker.postMessage(command),
    stop: async () => {
      worker.postMessage({ type: 'stop' } satisfies CarrierCommand)
      const timer = setTimeout(() => void worker.terminate(), STOP_MS)
      await ended
      clearTimeout(timer)
    },
  }
}
