/**
 * One tunnel on the main thread, for every mechanism that has one: lifetime of the engine worker, commands and questions
 * to it, its log and stores, addresses of its peers, its accesses, readiness, and the MTU of its device. The other end of
 * its messages is TunnelEngine (tunnel-engine.ts). Devices, routes and rules belong to the mechanism.
 *
 * A worker that ends unexpectedly is not restarted: its sessions are lost, and the cause may be permanent (the device is
 * gone). Questions are refused, `failure` resolves, and the daemon stops in order and ends with that error; its
 * supervisor restarts it.
 */
import { GodwitError } from '../../core/errors.ts'
import type { Recorder } from '../../core/mechanism.ts'
import { Carriers, type CarriersInit } from '../carrier/carriers.ts'
import { type EndpointCache, type EndpointResolver, Endpoints, type HostPort } from './endpoints.ts'
import type {
  AddPeer,
  Alive,
  CommonEvent,
  EngineSetup,
  Question,
  SocketSetup,
  StatusEvent,
} from './events.ts'
import { Greetings, type SeenStore } from './greetings.ts'
import { Requests } from './requests.ts'
import { EngineWorker, type EngineWorkerEvents } from './thread.ts'

/** The newest timestamp of a handshake, over restarts: a peer refuses what is not newer, and clocks go back. */
export interface TimestampStore {
  get(): number | undefined
  set(floor: number): void
}

/** A running engine; `EngineWorker` is one. */
export interface EngineHandle {
  post(command: unknown): void
  stop(): Promise<void>
}

export interface TunnelHostParts {
  readonly recorder: Recorder
  /** Addresses of peers whose endpoints are names, kept over restarts. Absent for an end that only listens. */
  readonly endpoints?: EndpointCache
  /** Resolves them over each access; needed with `endpoints`. */
  readonly names?: EndpointResolver
  /** Absent for an end that begins no handshakes of its own. */
  readonly timestamp?: TimestampStore
  /** Last addresses of peers that come to this end; needs `timestamp`. Absent: nobody is greeted. */
  readonly seen?: SeenStore
  /** Default: `EngineWorker.start`. */
  readonly startEngine?: StartEngine
}

export type StartEngine = (entry: URL, setup: unknown, events: EngineWorkerEvents) => Promise<EngineHandle>

export interface TunnelHostInit<Setup extends EngineSetup, Event extends Typed, Status extends StatusEvent> {
  /** Module of the worker; it calls `serveEngine`. */
  readonly entry: URL
  readonly setup: Omit<Setup, 'timestampFloor'>
  /** Those that are the mechanism's own. */
  readonly onEvent: (event: OwnEvent<Event>) => void
  readonly onStatus?: (status: Status) => void
  /** Whether traffic can flow, for `untilReady`. Absent: `untilReady` does not wait. */
  readonly works?: (status: Status) => boolean
  /** Peers that are reached by WebSocket where UDP is blocked. */
  readonly carriers?: CarriersInit
  /** Called with the MTU that follows from the paths. Absent: the device's MTU is fixed. `now` is monotonic, ms. */
  readonly mtu?: {
    readonly of: (paths: Status['paths'], now: number) => number | undefined
    readonly set: (mtu: number) => void
  }
}

interface Typed {
  readonly type: string
}

/** Events that a mechanism handles itself. */
export type OwnEvent<Event extends Typed> = Exclude<Event, { type: CommonEvent<StatusEvent>['type'] }>

/** Source of accesses and their changes; `AccessMonitor` is one. */
export interface AccessSource {
  subscribe(listener: (event: AccessNews) => void): () => void
  accesses(): readonly { readonly name: string }[]
  /** Whether the machine slept is asked by `checkClock` alone, until the returned function is called. */
  useClockEvents?(): () => void
  checkClock?(): void
}

type AccessNews =
  | { readonly type: 'woke' }
  | { readonly type: 'access'; readonly access: { readonly name: string }; readonly cause: string }

export class TunnelHost<
  Setup extends EngineSetup,
  Command extends Typed,
  Event extends Typed,
  Status extends StatusEvent,
  /** Types of the answers, by type of the command. */
  Answers extends object = object,
> {
  /** Resolves if the engine ends without having been asked to. */
  readonly failure: Promise<GodwitError>
  readonly #parts: TunnelHostParts
  readonly #init: TunnelHostInit<Setup, Event, Status>
  readonly #endpoints: Endpoints | undefined
  readonly #greetings: Greetings | undefined
  readonly #carriers: Carriers | undefined
  readonly #requests = new Requests()
  /** Accesses that the engine knows. */
  readonly #accesses = new Set<string>()
  #fail!: (error: GodwitError) => void
  #engine: EngineHandle | undefined
  #status: Status | undefined
  #tellAccesses: () => void = () => {}
  #source: AccessSource | undefined
  /** The engine reports changes of the clock. */
  #watchesClock = false
  #endClockEvents: (() => void) | undefined
  #unsubscribe: (() => void) | undefined
  /** Ends the wait for readiness; with the error that made it vain. */
  #endWait: ((error?: GodwitError) => void) | undefined
  #stopping = false
  #error: GodwitError | undefined

  constructor(parts: TunnelHostParts, init: TunnelHostInit<Setup, Event, Status>) {
    this.#parts = parts
    this.#init = init
    this.failure = new Promise((resolve) => {
      this.#fail = resolve
    })
    const { endpoints: cache, names: resolver, recorder, seen } = parts
    if (seen !== undefined)
      this.#greetings = new Greetings({
        store: seen,
        greet: (name, remote) => this.#send({ type: 'greet', name, remote }),
      })
    if (cache !== undefined && resolver !== undefined)
      this.#endpoints = new Endpoints({
        cache,
        resolver,
        onRemotes: (name, remotes, access) =>
          this.#send({ type: 'remotes', name, remotes, ...(access !== undefined && { access }) }),
        report: (message) => recorder.log('warn', message),
      })
    if (init.carriers !== undefined && resolver !== undefined)
      this.#carriers = new Carriers(
        {
          resolver,
          enginePort: async () =>
            (await this.#requests.ask((request) => this.#send({ type: 'carrier-port', request }))) as number,
          setCarrier: (name, access, port) =>
            this.#send({ type: 'carrier', name, access, ...(port !== undefined && { port }) }),
          report: (level, message) => recorder.log(level, message),
        },
        init.carriers,
      )
  }

  /** Resolves when the engine is built and its device is there. Rejects with what prevented it. */
  async start(): Promise<void> {
    const { startEngine = EngineWorker.start, timestamp } = this.#parts
    const floor = timestamp?.get()
    const setup = { ...this.#init.setup, ...(floor !== undefined && { timestampFloor: floor }) }
    this.#engine = await startEngine(this.#init.entry, setup, {
      onEvent: (event) => this.#handle(event as Event | CommonEvent<Status>),
      onEnd: (error) => this.#ended(error),
    })
  }

  /** The engine's last report. */
  get status(): Status | undefined {
    return this.#status
  }

  /** Nothing happens when no engine runs. */
  post(command: Exclude<Command, Question>): void {
    this.#send(command)
  }

  /** Resolves to the answer; rejects with the engine's failure, or when there is no engine. */
  ask<T extends keyof Answers & string>(
    type: T,
    rest: Omit<Extract<Command, { type: T }>, 'type' | 'request'>,
  ): Promise<Answers[T]> {
    if (this.#engine === undefined) {
      const stopped = new GodwitError('STOPPING', 'the packet engine is not running')
      return Promise.reject(this.#error ?? stopped)
    }
    return this.#requests.ask((request) => this.#send({ type, request, ...rest })) as Promise<Answers[T]>
  }

  /** Whether the engine's loop goes round: it answers within seconds. */
  async responds(): Promise<boolean> {
    if (this.#engine === undefined) return false
    const alive = this.#requests.ask((request) => this.#send({ type: 'alive', request } satisfies Alive))
    return alive.then(
      () => true,
      () => this.#stopping,
    )
  }

  // ---- peers

  /** Adds the peer to the engine, and keeps its addresses up to date if it has endpoints. */
  addPeer<Peer extends { readonly name: string }>(
    peer: Peer & (Command extends AddPeer<infer Known> ? Known : never),
    endpoints: readonly HostPort[] = [],
  ): void {
    this.#send({ type: 'add-peer', peer })
    if (endpoints.length > 0) this.#endpoints?.start({ name: peer.name, endpoints })
    else this.#greetings?.start(peer.name)
  }

  removePeer(name: string): void {
    this.#endpoints?.forget(name)
    this.#greetings?.forget(name)
    this.#send({ type: 'remove-peer', name })
  }

  // ---- accesses

  /**
   * Sends the engine every access for which `setupOf` has a setup, now and whenever it changes; `told` is called after
   * each time.
   */
  followAccesses<Access extends SocketSetup>(
    source: AccessSource,
    setupOf: (
      name: string,
    ) => (Access & (Command extends { type: 'access'; access: infer A } ? A : never)) | undefined,
    told?: (name: string) => void,
  ): void {
    const tell = (name: string) => {
      const access = setupOf(name)
      if (access === undefined) this.#accessGone(name)
      else {
        this.#accesses.add(name)
        this.#send({ type: 'access', access })
        this.#endpoints?.setAccess(access)
        this.#carriers?.setAccess(access)
        told?.(name)
      }
    }
    this.#source = source
    this.#useClockEvents()
    this.#tellAccesses = () => {
      for (const { name } of source.accesses()) tell(name)
    }
    this.#unsubscribe = source.subscribe((event) => {
      if (event.type === 'woke') {
        this.#send({ type: 'wake' })
        this.#endpoints?.wake()
      } else if (event.cause === 'removed') this.#accessGone(event.access.name)
      else tell(event.access.name)
    })
    this.#tellAccesses()
  }

  /** Allowed uses of accesses have changed. */
  tellAccesses(): void {
    this.#tellAccesses()
  }

  #useClockEvents(): void {
    if (this.#watchesClock) this.#endClockEvents ??= this.#source?.useClockEvents?.()
  }

  #accessGone(name: string): void {
    if (!this.#accesses.delete(name)) return
    this.#send({ type: 'access-gone', name })
    this.#endpoints?.removeAccess(name)
    this.#carriers?.removeAccess(name)
  }

  // ---- readiness

  /** Resolves when traffic can flow, and at `retire`. Rejects when the engine ends. */
  untilReady(): Promise<void> {
    if (this.#error !== undefined) return Promise.reject(this.#error)
    if (this.#stopping || this.#works()) return Promise.resolve()
    return new Promise((resolve, reject) => {
      this.#endWait = (error) => {
        this.#endWait = undefined
        if (error === undefined) resolve()
        else reject(error)
      }
    })
  }

  #works(): boolean {
    return this.#status !== undefined && this.#init.works?.(this.#status) === true
  }

  // ---- the end

  /**
   * No more events of accesses and names, no more questions; packets still flow. The first step of `stop`. Repeatable.
   */
  retire(): void {
    this.#stopping = true
    this.#unsubscribe?.()
    this.#endClockEvents?.()
    this.#endpoints?.stop()
    this.#greetings?.stop()
    this.#requests.end(new GodwitError('STOPPING', 'the daemon is stopping'))
    this.#endWait?.()
  }

  /** Resolves when the engine's descriptors are closed. Repeatable, also without an engine. */
  async stop(): Promise<void> {
    this.retire()
    const engine = this.#engine
    this.#engine = undefined
    await engine?.stop()
    await this.#carriers?.stop()
  }

  #ended(error: GodwitError | undefined): void {
    this.#engine = undefined
    this.#endClockEvents?.()
    if (this.#stopping) return
    const { device } = this.#init.setup
    this.#error = error ?? new GodwitError('ENGINE_FAILED', `the packet engine of ${device} ended`)
    this.#endpoints?.stop()
    this.#requests.end(this.#error)
    this.#endWait?.(this.#error)
    this.#fail(this.#error)
  }

  // ---- messages

  #send(command: unknown): void {
    this.#engine?.post(command)
  }

  #handle(event: Event | CommonEvent<Status>): void {
    const common = event as CommonEvent<Status>
    switch (common.type) {
      case 'log':
        this.#parts.recorder.log(common.level, common.message)
        break
      case 'timestamp':
        this.#parts.timestamp?.set(common.floor)
        break
      case 'answer':
        this.#requests.answered(common)
        break
      case 'clock':
        this.#watchesClock = true
        this.#useClockEvents()
        if (common.changed) this.#source?.checkClock?.()
        break
      case 'status':
        this.#report(common)
        break
      default:
        this.#init.onEvent(event as OwnEvent<Event>)
    }
  }

  #report(status: Status): void {
    this.#status = status
    if (this.#stopping) return
    const { mtu, onStatus } = this.#init
    const now = performance.now()
    this.#endpoints?.follow(status.paths, now)
    this.#greetings?.follow(status.paths)
    this.#carriers?.follow(status.paths, now)
    const fitting = mtu?.of(status.paths, now)
    if (fitting !== undefined) mtu?.set(fitting)
    onStatus?.(status)
    if (this.#works()) this.#endWait?.()
  }
}

/** Whether starting failed because the device is another daemon's: then nothing with its name is to be removed. */
export function deviceIsForeign(error: unknown): boolean {
  return error instanceof GodwitError && error.code === 'TUN_BUSY'
}
