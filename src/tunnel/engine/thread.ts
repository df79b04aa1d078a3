/**
 * The engine in its worker thread, both sides. The main thread starts an entry module with `EngineWorker.start`, posts
 * commands (MessagePort, then the eventfd that wakes the engine's poll) and gets events by callback. The entry module
 * calls `serveEngine`, which runs until it is stopped or fails permanently.
 */
import { isMainThread, type MessagePort, parentPort, Worker, workerData } from 'node:worker_threads'
import type { Clock, Random } from '../../core/clock.ts'
import { GodwitError } from '../../core/errors.ts'
import type { Arena } from '../../linux/arena.ts'
import { KernelPoller, type Poller, wake } from '../../linux/poller.ts'
import { runSessionSoon, runSoon } from '../../linux/scheduling.ts'
import type { Tun } from '../../linux/tun.ts'
import type { UdpOptions, UdpSocket } from '../../linux/udp.ts'
import { errorOf, type Failure, failureOf } from './outcome.ts'

/** Messages between the two sides beside the mechanism's own. */
type Envelope =
  | { readonly godwit: 'ready'; readonly wakeFd: number }
  | { readonly godwit: 'failed'; readonly error: FailureReport }
  | { readonly godwit: 'event'; readonly event: unknown }

/** A failure and where it was thrown. */
interface FailureReport extends Failure {
  readonly stack?: string
}

interface Command {
  readonly stop?: true
  readonly command?: unknown
}

export interface EngineWorkerEvents {
  readonly onEvent: (event: unknown) => void
  /** The engine ended; with a reason when the end was not requested. */
  readonly onEnd: (error: GodwitError | undefined) => void
}

/**
 * Max size of the young generation (two halves and what is moving): the packet path allocates almost no objects, and a
 * flood of control messages would otherwise let it grow to 48 MB, which V8 keeps.
 */
const LIMITS = { maxYoungGenerationSizeMb: 12 }

/**
 * A packet waits for no thread of ours that has more time: not for the main thread, nor for a compiler or a collector. Nor
 * for another program, where the daemon's session is its own (ADR 0458).
 */
const NICE = -10
const SLICE_MS = 0.1

/** The main thread's handle on a running engine. */
export class EngineWorker {
  readonly #worker: Worker
  readonly #wakeFd: number
  readonly #ended: Promise<void>
  #running = true

  private constructor(worker: Worker, wakeFd: number, ended: Promise<void>) {
    this.#worker = worker
    this.#wakeFd = wakeFd
    this.#ended = ended
    void ended.then(() => {
      this.#running = false
    })
  }

  /**
   * Starts `entry` (a module that calls `serveEngine`) with `data` (cloned), and waits until its engine is built. Rejects
   * with the error that building it threw. `heapMb`: max size of its heap, where it keeps more than V8 would let it.
   */
  static start(
    entry: URL,
    data: unknown,
    events: EngineWorkerEvents,
    heapMb?: number,
  ): Promise<EngineWorker> {
    return new Promise((resolve, reject) => {
      const resourceLimits = { ...LIMITS, ...(heapMb !== undefined && { maxOldGenerationSizeMb: heapMb }) }
      const worker = new Worker(entry, { workerData: data, trackUnmanagedFds: false, resourceLimits })
      let failure: GodwitError | undefined
      let started = false
      let end: () => void
      const ended = new Promise<void>((done) => {
        end = done
      })
      worker.on('message', (message: Envelope) => {
        if (message.godwit === 'ready') {
          started = true
          resolve(new EngineWorker(worker, message.wakeFd, ended))
        } else if (message.godwit === 'failed') failure = revive(message.error)
        else events.onEvent(message.event)
      })
      worker.on('error', (error) => {
        failure ??= new GodwitError('ENGINE_FAILED', String(error), { op: 'packet engine', cause: error })
      })
      worker.on('exit', () => {
        end()
        if (started) events.onEnd(failure)
        else
          reject(failure ?? new GodwitError('ENGINE_FAILED', 'the packet engine ended before it was ready'))
      })
    })
  }

  /** Gives the engine a command (cloned); handled within microseconds. Nothing happens after it has ended. */
  post(command: unknown): void {
    this.#send({ command })
  }

  /** Ends the engine after the turn at hand; resolves when its descriptors are closed. */
  async stop(): Promise<void> {
    this.#send({ stop: true })
    await this.#ended
  }

  #send(message: Command): void {
    if (!this.#running) return
    this.#worker.postMessage(message)
    wake(this.#wakeFd)
  }
}

function revive(report: FailureReport): GodwitError {
  const error = errorOf(report)
  if (report.stack !== undefined) error.stack = report.stack
  return error
}

/** What runs in the worker: an Engine (engine.ts), or the loop of a mechanism without a tunnel. */
export interface WorkerLoop {
  /** From now on messages on `port` are handled in the turn after the poller was woken. */
  listen(port: MessagePort, onMessage: (message: unknown) => void): void
  run(): void
  stop(): void
  close(): void
}

/** What an entry module builds its engine with. */
export interface EngineHost {
  readonly poller: Poller
  /** `data` of `EngineWorker.start`. */
  readonly data: unknown
  /** Sends an event to the main thread; it is cloned. */
  readonly post: (event: unknown) => void
  /** Absent: those of this machine. */
  readonly surroundings?: Surroundings
}

/** What an engine has of the machine that it runs on; simulations have others. */
export interface Surroundings {
  readonly clock: Clock
  readonly random: Random
  readonly openTun: (arena: Arena) => Tun
  readonly openUdp: (arena: Arena, options: UdpOptions) => UdpSocket
}

/** Worker side: builds the engine, runs it, closes it. `onCommand` gets what the main thread posts. */
export function serveEngine(
  build: (host: EngineHost) => {
    readonly engine: WorkerLoop
    readonly onCommand: (command: unknown) => void
  },
): void {
  const port = parentPort
  if (isMainThread || port === null) throw new GodwitError('USAGE', 'serveEngine runs in a worker thread')
  const say = (envelope: Envelope) => port.postMessage(envelope)
  runSoon(NICE, SLICE_MS)
  runSessionSoon(NICE)
  try {
    const poller = new KernelPoller()
    const host: EngineHost = { poller, data: workerData, post: (event) => say({ godwit: 'event', event }) }
    const { engine, onCommand } = build(host)
    engine.listen(port, (message) => {
      const { stop, command } = message as Command
      if (stop) engine.stop()
      else onCommand(command)
    })
    say({ godwit: 'ready', wakeFd: poller.wakeFd })
    try {
      engine.run()
    } finally {
      engine.close()
    }
  } catch (error) {
    say({ godwit: 'failed', error: report(error) })
  }
}

function report(error: unknown): FailureReport {
  const stack = error instanceof Error && error.stack !== undefined ? { stack: error.stack } : {}
  if (error instanceof GodwitError) return { ...failureOf(error), ...stack }
  return { code: 'ENGINE_FAILED', message: String(error), op: 'packet engine', kind: 'failed', ...stack }
}
