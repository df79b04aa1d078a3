/**
 * The thread that talks to NATS for one coordinator: sealed messages in both directions, which it does not understand (machine/fellows.ts),
 * and claims in a bucket with replicas. It has a thread of its own, so that neither a server that stops nor one that floods holds the
 * coordinator: everything that waits here is bounded, and what is too much is dropped.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { TokenBucket } from '../../../core/token-bucket.ts'
import { CLAIM_KEPT_MS } from '../../machine/fellows.ts'
import { MAX_SOFT } from '../../wire/fellow.ts'
import {
  ANSWER_MS,
  type Bucket,
  connectTo,
  type NatsConnection,
  type NatsMessage,
  natsClient,
  softFault,
} from './client.ts'
import type { BusCommand, BusEvent, BusSetup } from './protocol.ts'
import { softNames } from './settings.ts'

/** Messages a second that are handed on, and at once. */
const HEARD_RATE = 10_000
const HEARD_BURST = 20_000
/** Claims that wait to be put, and that are being put; look-ups under way. */
const MAX_PUTS = 50_000
const PUTS_AT_ONCE = 64
const MAX_GETS = 1024
/** Messages that the server has not confirmed to have; between two such questions (ms). */
const MAX_TOLD = 20_000
const FLUSH_MS = 100
/** Between two attempts to connect, or to find the bucket (ms), doubled up to the second. */
const PAUSE_MS = [500, 10_000] as const
/** A connection that stood so long counts as one (ms). */
const STOOD_MS = 2000
/** Between two looks whether the bucket is there (ms), and how long it is there before its pauses begin anew. */
const LOOK_MS = 5000
const STEADY_MS = 30_000
/** Between two lines of the log about what was dropped (ms). */
const TOLD_MS = 60_000
/** Lines of the log, a second and at once, and characters in one: a server says what it likes. */
const LINE_RATE = 1 / 6
const LINE_BURST = 30
const MAX_LINE = 600

const { settings, zone } = workerData as BusSetup
const names = softNames(zone)
const prefix = `$KV.${names.bucket}.`
const port = parentPort!
const post = (event: BusEvent) => port.postMessage(event)
const lines = new TokenBucket(LINE_RATE, LINE_BURST)
let unsaid = 0
const log = (level: 'info' | 'warn', text: string) => {
  if (!lines.take(performance.now())) {
    unsaid++
    return
  }
  const more = unsaid === 0 ? '' : ` (${unsaid} lines before this one were left out)`
  unsaid = 0
  post({ type: 'log', level, message: text.slice(0, MAX_LINE).replace(/\p{C}/gu, '?') + more })
}
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

class Bus {
  #connection: NatsConnection | undefined
  #isUp = false
  #closed = false
  #bucket: Bucket | undefined
  #onSuspect: (() => void) | undefined
  #own: string | undefined
  #ownSubscription: { unsubscribe(): void } | undefined
  readonly #puts = new Map<string, Uint8Array>()
  #putting = 0
  #getting = 0
  #told = 0
  #flushing = false
  readonly #heard = new TokenBucket(HEARD_RATE, HEARD_BURST)
  #dropped = 0
  #droppedAt = Number.NEGATIVE_INFINITY
  #why = ''

  constructor() {
    setInterval(() => this.#flush(), FLUSH_MS)
    void this.#run()
  }

  command(command: BusCommand): void {
    switch (command.type) {
      case 'soft-listen':
        this.#listen(command.id)
        break
      case 'soft-tell':
        this.#tell(command.to === '*' ? names.all : names.to(command.to), command.bytes)
        break
      case 'soft-put':
        if (!this.#puts.has(command.key) && this.#puts.size >= MAX_PUTS) this.#drop()
        else this.#puts.set(command.key, command.bytes)
        this.#putSome()
        break
      case 'soft-get':
        void this.#get(command.id, command.key)
        break
      default:
        void this.#close()
    }
  }

  /** Connects, again and again. A connection that is lost is not mended: what it had subscribed would be of before. */
  async #run(): Promise<void> {
    let wait: number = PAUSE_MS[0]
    while (!this.#closed) {
      try {
        const connection = await connectTo(natsClient(), settings)
        const since = performance.now()
        this.#connection = connection
        this.#connected(connection)
        void this.#findBucket(connection)
        const ended = await connection.closed()
        // One that ends each connection is left alone for a while.
        if (performance.now() - since > STOOD_MS) wait = PAUSE_MS[0]
        if (!this.#closed) this.#down(ended ?? new Error('the connection was closed'))
      } catch (error) {
        this.#down(error)
      }
      if (this.#closed) return
      await pause(wait * (0.5 + Math.random() / 2))
      wait = Math.min(2 * wait, PAUSE_MS[1])
    }
  }

  #connected(connection: NatsConnection): void {
    this.#ownSubscription = undefined
    connection.subscribe(names.all, { callback: this.#hears(false) })
    connection.subscribe(`${prefix}>`, {
      callback: (_error, { subject, data }) => {
        const key = subject.slice(prefix.length)
        if (key.length <= 64 && this.#admits(data)) post({ type: 'soft-entry', key, bytes: copy(data) })
      },
    })
    if (this.#own !== undefined) this.#listen(this.#own)
    void this.#watch(connection)
    this.#isUp = true
    this.#why = ''
    log(
      'info',
      `NATS ${connection.info?.version ?? ''} at ${connection.getServer()}: shared with the zone's other coordinators`,
    )
    post({ type: 'soft-up' })
  }

  /** What the server complains of. */
  async #watch(connection: NatsConnection): Promise<void> {
    for await (const { type, error } of connection.status())
      if (type === 'error') log('warn', `NATS: ${error?.message ?? 'an error'}`)
      else if (type === 'ldm') log('info', 'NATS: the server is being stopped')
  }

  #down(error: unknown): void {
    this.#connection = undefined
    this.#bucket = undefined
    this.#isUp = false
    this.#told = 0
    this.#puts.clear()
    const { message, hint } = softFault(error, settings)
    if (message !== this.#why)
      log('warn', `${message}; this coordinator goes on with its own nodes (${hint})`)
    this.#why = message
    post({ type: 'soft-down' })
  }

  /** The bucket is made by whoever comes first. Without it, all coordinators are asked. */
  async #findBucket(connection: NatsConnection): Promise<void> {
    const buckets = natsClient().bucketsOf(connection)
    const options = {
      ...{ history: 1, ttl: CLAIM_KEPT_MS, replicas: settings.replicas, storage: 'memory' as const },
      maxValueSize: MAX_SOFT,
    }
    let wait: number = PAUSE_MS[0]
    // The first time it works without a word.
    let told = false
    while (connection === this.#connection) {
      try {
        const bucket = await buckets
          .create(names.bucket, options)
          // It is there with other settings.
          .catch(async (error: unknown) => {
            const found = await buckets.open(names.bucket)
            await found.status().catch(() => {
              throw error
            })
            return found
          })
        const { replicas } = await bucket.status()
        if (connection !== this.#connection) return
        this.#bucket = bucket
        if (replicas !== settings.replicas)
          log(
            'warn',
            `bucket ${names.bucket} has ${replicas} replicas, not ${settings.replicas}: nats stream edit, or remove it`,
          )
        if (told) log('info', `bucket ${names.bucket} can be used`)
        // Claims that were made before are made again.
        post({ type: 'soft-up' })
        told = false
        const since = performance.now()
        // It may be lost while the connection stands: by a majority of a cluster, or an operator.
        while (connection === this.#connection && bucket === this.#bucket) {
          await Promise.race([pause(LOOK_MS), this.#suspected()])
          await bucket.status()
          if (performance.now() - since > STEADY_MS) wait = PAUSE_MS[0]
        }
        await pause(wait)
        wait = Math.min(2 * wait, PAUSE_MS[1])
      } catch (error) {
        if (connection !== this.#connection) return
        this.#bucket = undefined
        if (!told)
          log(
            'warn',
            `bucket ${names.bucket} cannot be used, each look-up asks all coordinators: ${(error as Error).message}`,
          )
        told = true
        await pause(wait)
        wait = Math.min(2 * wait, PAUSE_MS[1])
      }
    }
  }

  #suspect(): void {
    this.#bucket = undefined
    this.#onSuspect?.()
  }

  #suspected(): Promise<void> {
    return new Promise((resolve) => {
      this.#onSuspect = resolve
    })
  }

  #listen(id: string): void {
    if (this.#own === id && this.#ownSubscription !== undefined) return
    this.#own = id
    this.#ownSubscription?.unsubscribe()
    this.#ownSubscription = this.#connection?.subscribe(names.to(id), { callback: this.#hears(true) })
  }

  #hears(isOwn: boolean): (error: Error | null, message: NatsMessage) => void {
    return (_error, { data }) => {
      if (this.#admits(data)) post({ type: 'soft-heard', isOwn, bytes: copy(data) })
    }
  }

  #tell(subject: string, bytes: Uint8Array): void {
    if (!this.#isUp || this.#told >= MAX_TOLD) {
      this.#drop()
      return
    }
    try {
      this.#connection?.publish(subject, bytes)
      this.#told++
    } catch {
      this.#drop()
    }
  }

  #flush(): void {
    const connection = this.#connection
    if (this.#flushing || this.#told === 0 || connection === undefined) return
    this.#flushing = true
    const told = this.#told
    connection
      .flush()
      .then(
        () => {
          if (connection === this.#connection) this.#told -= told
        },
        () => {},
      )
      .finally(() => {
        this.#flushing = false
      })
  }

  #putSome(): void {
    for (const [key, bytes] of this.#puts) {
      if (!this.#isUp || this.#putting >= PUTS_AT_ONCE) return
      this.#puts.delete(key)
      void this.#put(key, bytes)
    }
  }

  /** Others hear of it as it is put, also where it cannot be kept. */
  async #put(key: string, bytes: Uint8Array): Promise<void> {
    const bucket = this.#bucket
    if (bucket === undefined) {
      this.#tell(`${prefix}${key}`, bytes)
      return
    }
    this.#putting++
    try {
      await bucket.put(key, bytes)
    } catch {
      // It was shown, and whoever looks for it asks all. Those that follow wait for nothing until the bucket answers again.
      if (bucket === this.#bucket) this.#suspect()
    }
    this.#putting--
    this.#putSome()
  }

  async #get(id: number, key: string): Promise<void> {
    const bucket = this.#bucket
    let bytes: Uint8Array | undefined
    if (bucket !== undefined && this.#getting < MAX_GETS) {
      this.#getting++
      try {
        const entry = await bucket.get(key)
        if (entry?.operation === 'PUT' && entry.value.length <= MAX_SOFT) bytes = copy(entry.value)
      } catch {
        // As one that is not there.
      }
      this.#getting--
    }
    post({ type: 'soft-got', id, bytes })
  }

  #admits(data: Uint8Array): boolean {
    const admits = data.length <= MAX_SOFT && this.#heard.take(performance.now())
    if (!admits) this.#drop()
    return admits
  }

  #drop(): void {
    this.#dropped++
    const now = performance.now()
    if (now - this.#droppedAt < TOLD_MS) return
    this.#droppedAt = now
    log('warn', `NATS: ${this.#dropped} messages were too many or too long, and dropped`)
    this.#dropped = 0
  }

  async #close(): Promise<void> {
    this.#closed = true
    const connection = this.#connection
    this.#connection = undefined
    const timeout = pause(ANSWER_MS)
    await Promise.race([connection?.close().catch(() => {}), timeout])
    post({ type: 'closed' })
    process.exit(0)
  }
}

/** The client's bytes are of its receive buffer. */
function copy(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

const bus = new Bus()
port.on('message', (command: BusCommand) => bus.command(command))
