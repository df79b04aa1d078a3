/** The emulated links of a lab, seen from the main thread: opens them in the engine, changes them, reads counters. */
import { Worker } from 'node:worker_threads'
import { usageError } from '../../src/core/errors.ts'
import { wake } from '../../src/linux/poller.ts'
import type { LinkConditions } from '../types.ts'
import { CLEAR, changed } from './conditions.ts'
import type { DirectionCounters, EmulatedEnd, EngineCommand, EngineEvent, Stall } from './engine.ts'

/** `first` is what travels towards the link's first end. */
export type Direction = 'both' | 'first' | 'second'

interface Link {
  readonly id: number
  readonly conditions: [LinkConditions, LinkConditions]
}

export class EmulatedLinks {
  readonly #worker: Worker
  readonly #links = new Map<string, Link>()
  readonly #waiting = new Map<
    number,
    { resolve: (value: never) => void; reject: (reason: unknown) => void }
  >()
  readonly #running: Promise<void>
  readonly #ended: Promise<void>
  readonly #onCarrier: (name: string) => void
  #wakeFd = -1
  #nextId = 0

  /** `onCarrier` hears of each link whose ends have just got or lost their carrier. */
  constructor(onCarrier: (name: string) => void = () => {}) {
    this.#onCarrier = onCarrier
    this.#worker = new Worker(new URL('./engine.js', import.meta.url), {
      workerData: { linkEngine: true },
      // Its descriptors come from system calls of our own.
      trackUnmanagedFds: false,
    })
    this.#worker.unref()
    this.#running = new Promise((resolve) => {
      this.#worker.on('message', (event: EngineEvent) => {
        if (event.type === 'running') {
          this.#wakeFd = event.wakeFd
          resolve()
        } else this.#take(event)
      })
    })
    this.#ended = new Promise((resolve) => this.#worker.once('exit', () => resolve()))
    this.#worker.once('error', (error) => {
      for (const waiting of this.#waiting.values()) waiting.reject(error)
      this.#waiting.clear()
    })
  }

  /** Makes the two devices, without carrier or addresses; the first `set` gives them a carrier. */
  async open(name: string, ends: readonly [EmulatedEnd, EmulatedEnd], seed: number): Promise<void> {
    await this.#running
    const id = this.#nextId++
    await this.#ask<void>(id, { type: 'open', id, ends, seed })
    this.#links.set(name, { id, conditions: [CLEAR, CLEAR] })
  }

  has(name: string): boolean {
    return this.#links.has(name)
  }

  /** Conditions now, towards the link's first and second end. */
  conditions(name: string): readonly [LinkConditions, LinkConditions] {
    return this.#link(name).conditions
  }

  /** Takes effect within a millisecond. Throws a usage error for values that mean nothing. */
  set(name: string, change: Partial<LinkConditions>, direction: Direction = 'both'): void {
    const link = this.#link(name)
    for (const towards of [0, 1] as const) {
      if (direction !== 'both' && direction !== (towards === 0 ? 'first' : 'second')) continue
      link.conditions[towards] = changed(link.conditions[towards], change)
      this.#send({ type: 'set', id: link.id, towards, conditions: link.conditions[towards] })
    }
  }

  /** Counters by link: towards its first end, towards its second. */
  async counters(): Promise<Map<string, readonly [DirectionCounters, DirectionCounters]>> {
    const { links } = await this.#report()
    return new Map([...this.#links.keys()].map((name, index) => [name, links[index]!]))
  }

  /** When frames were due and the machine ran something else. */
  async stalls(): Promise<readonly Stall[]> {
    return (await this.#report()).stalls
  }

  /** Ends the engine; the devices go with it. */
  async close(): Promise<void> {
    this.#worker.ref()
    await this.#running
    this.#send({ type: 'close' })
    await this.#ended
  }

  #link(name: string): Link {
    const link = this.#links.get(name)
    if (link === undefined)
      throw usageError(`no emulated link ${name}; there are ${[...this.#links.keys()].join(', ') || 'none'}`)
    return link
  }

  #report(): Promise<EngineEvent & { type: 'counters' }> {
    const request = this.#nextId++
    return this.#ask(request, { type: 'counters', request })
  }

  #send(command: EngineCommand): void {
    this.#worker.postMessage(command)
    wake(this.#wakeFd)
  }

  #ask<T>(key: number, command: EngineCommand): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#waiting.set(key, { resolve: resolve as (value: never) => void, reject })
      this.#send(command)
    })
  }

  #take(event: EngineEvent): void {
    if (event.type === 'closed' || event.type === 'running') return
    if (event.type === 'carrier') {
      for (const [name, { id }] of this.#links) if (id === event.id) this.#onCarrier(name)
      return
    }
    const key = event.type === 'counters' ? event.request : event.id
    const waiting = this.#waiting.get(key)
    this.#waiting.delete(key)
    if (event.type === 'failed') waiting?.reject(event.error)
    else waiting?.resolve((event.type === 'counters' ? event : undefined) as never)
  }
}
