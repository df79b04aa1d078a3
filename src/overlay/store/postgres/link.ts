/**
 * The store's side of the link to PostgreSQL: requests that wait for their answer, since the store is synchronous. A database that does
 * not answer delays this thread once, for ANSWER_MS at most; after that it is known to be away, and requests fail at once. So do they if the
 * other thread has ended by a fault; another one is started then.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, type Worker } from 'node:worker_threads'
import { GodwitError } from '../../../core/errors.ts'
import { ThreadCode } from '../../../linux/thread-code.ts'
import {
  type Answer,
  ENDED,
  LAST,
  type LinkSetup,
  type Mark,
  noteEnd,
  type Request,
  SHARED_BYTES,
  SIGNAL,
  STATUS,
  Status,
} from './protocol.ts'
import { ANSWER_MS } from './session.ts'
import type { PostgresSettings } from './settings.ts'

/** Longer than the thread waits for PostgreSQL (ms). */
const ROUND_MS = ANSWER_MS + 2000
/** For all servers at the first connection, and for reading or writing everything (ms). */
const LONG_MS = 120_000
/** A thread that has ended is replaced after this (ms). */
const RESTART_MS = 2000

export interface LinkInit {
  readonly settings: PostgresSettings
  readonly zone: string
  readonly hold: LinkSetup['hold']
  /** What the copy has seen last, whenever a thread is started. */
  readonly mark: () => Mark | undefined
}

export class Link {
  readonly #init: LinkInit
  readonly #code = new ThreadCode(new URL('./link-worker.js', import.meta.url))
  readonly #shared = new SharedArrayBuffer(SHARED_BYTES)
  #worker!: Worker
  #port!: MessagePort
  /** Why the thread has ended. */
  #fault = ''
  #restart: NodeJS.Timeout | undefined
  #isClosed = false
  readonly #numbers: Int32Array
  readonly #last: BigInt64Array
  #id = 0

  constructor(init: LinkInit) {
    this.#init = init
    this.#numbers = new Int32Array(this.#shared)
    this.#last = new BigInt64Array(this.#shared)
    this.#start()
  }

  #start(): void {
    const { settings, zone, hold, mark } = this.#init
    const { port1, port2 } = new MessageChannel()
    const shared = this.#shared
    const setup: LinkSetup = { settings, zone, hold, mark: mark(), shared, port: port2 }
    Atomics.store(this.#numbers, ENDED, 0)
    const worker = this.#code.start({ workerData: setup, transferList: [port2] })
    worker.on('error', (error) => {
      this.#fault = `: ${error.message}`
    })
    // Without memory it ends before it can say so itself.
    worker.on('exit', () => {
      noteEnd(this.#numbers)
      port1.close()
      if (this.#isClosed || this.isFenced) return
      this.#restart = setTimeout(() => this.#start(), RESTART_MS).unref()
    })
    worker.unref()
    this.#worker = worker
    this.#port = port1
    port1.unref()
  }

  get isUp(): boolean {
    return Atomics.load(this.#numbers, STATUS) === Status.UP
  }

  get isFenced(): boolean {
    return Atomics.load(this.#numbers, STATUS) === Status.FENCED
  }

  /** Number of the last commit that is known. */
  get last(): number {
    return Number(Atomics.load(this.#last, LAST))
  }

  /** Throws what a user can do something about: STORE_AWAY, STORE_REFUSED, STORE_HELD, STORE_BEHIND, STORE_TAKEN, MISSING. */
  call(request: Request, ms = ROUND_MS): Exclude<Answer, { outcome: 'away' | 'failed' | 'fenced' }> {
    const answer = this.#ask(request, ms)
    if (answer.outcome === 'fenced') throw taken()
    if (answer.outcome === 'away')
      throw new GodwitError('STORE_AWAY', `the database does not answer: ${answer.why}`, {
        hint: 'is a primary running, and its synchronous standby? godwit overlay store show',
      })
    if (answer.outcome !== 'failed') return answer
    const { code, message, hint, kind } = answer.error
    throw new GodwitError(code, message, { ...(hint !== undefined && { hint }), ...(kind && { kind }) })
  }

  /** Waits for the first connection. */
  ready(): Mark {
    const answer = this.call({ type: 'ready' }, LONG_MS)
    return (answer as Extract<Answer, { outcome: 'at' }>).mark
  }

  callLong(request: Request): ReturnType<Link['call']> {
    return this.call(request, LONG_MS)
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#restart)
    this.#ask({ type: 'close' }, ROUND_MS)
    this.#port.close()
    void this.#worker.terminate()
  }

  #ask(request: Request, ms: number): Answer {
    const id = ++this.#id
    this.#port.postMessage({ id, request })
    const until = performance.now() + ms
    for (;;) {
      const signal = Atomics.load(this.#numbers, SIGNAL)
      // An answer that came too late for its request is passed over.
      for (
        let got = receiveMessageOnPort(this.#port);
        got !== undefined;
        got = receiveMessageOnPort(this.#port)
      ) {
        const { id: of, answer } = got.message as { id: number; answer: Answer }
        if (of === id) return answer
      }
      if (Atomics.load(this.#numbers, ENDED) === 1)
        return this.isFenced
          ? { outcome: 'fenced' }
          : { outcome: 'away', why: `its thread has ended${this.#fault}` }
      const left = until - performance.now()
      if (left <= 0) return { outcome: 'away', why: `no answer in ${Math.round(ms / 1000)} s` }
      Atomics.wait(this.#numbers, SIGNAL, signal, left)
    }
  }
}

export function taken(): GodwitError {
  return new GodwitError('STORE_TAKEN', 'another coordinator has taken the database of this zone', {
    hint: 'one coordinator runs for a zone: start this one again when the other one is stopped',
  })
}
