/**
 * A cluster of NATS in virtual time, as coordinators see it: what is told goes by the servers that both ends are connected to, now, late or not
 * at all; what is put is kept where there is a majority, and shown in any case. Servers are killed, stopped and cut off.
 */
import type { SoftInput, SoftOutput } from '../../src/overlay/machine/fellows.ts'

/** From 0 to below the limit. */
export type Draw = (limit: number) => number

interface Server {
  state: 'up' | 'stopped' | 'dead'
  /** Routes to others stand from then on (ms). */
  routedAt: number
  /** What waits while it is stopped. */
  readonly waiting: (() => void)[]
}

export interface ModelClient {
  handle(input: SoftInput): void
}

interface Client {
  readonly of: ModelClient
  id: string
  server: number | undefined
  /** Of the connection: what is of an earlier one does not come any more. */
  connection: number
  pause: number
  since: number
  hasBucket: boolean
  /** Of the bucket as it was found. */
  found: number
}

/** As the thread that talks to NATS has them (servers/soft/bus-worker.ts, client.ts; ms). */
const PAUSE_MS = [500, 10_000] as const
const STOOD_MS = 2000
const SILENT_MS = 6000
const ANSWER_MS = 2000

export class NatsModel {
  now = 0
  readonly #events: { readonly at: number; readonly order: number; readonly run: () => void }[] = []
  #order = 0
  readonly servers: readonly Server[]
  readonly #clients: Client[] = []
  readonly #draw: Draw
  #kept = new Map<string, Uint8Array>()
  /** What replicas had a moment ago. */
  readonly #earlier = new Map<string, { readonly bytes: Uint8Array | undefined; readonly until: number }>()
  #leaderAt = 0
  /** Of a thousand messages that are told: lost, and come twice. */
  lost = 0
  twice = 0
  /** Longest that one takes (ms). */
  late = 5

  constructor(servers: number, draw: Draw) {
    this.#draw = draw
    this.servers = Array.from({ length: servers }, () => ({ state: 'up', routedAt: 0, waiting: [] }))
  }

  after(ms: number, run: () => void): void {
    const event = { at: this.now + ms, order: this.#order++, run }
    let [low, high] = [0, this.#events.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#events[middle]!.at <= event.at) low = middle + 1
      else high = middle
    }
    this.#events.splice(low, 0, event)
  }

  run(until: number): void {
    for (let next = this.#events[0]; next !== undefined && next.at <= until; next = this.#events[0]) {
      this.#events.shift()
      this.now = next.at
      next.run()
    }
    this.now = until
  }

  // ---- servers

  kill(at: number): void {
    const server = this.servers[at]!
    server.state = 'dead'
    server.waiting.length = 0
    this.#elect()
    for (const client of this.#clients) if (client.server === at) this.after(1, () => this.#lose(client, at))
    // In memory: what no server has is gone.
    if (this.servers.every(({ state }) => state === 'dead')) this.loseBucket()
  }

  start(at: number): void {
    const server = this.servers[at]!
    server.state = 'up'
    server.routedAt = this.now + this.#draw(1500)
    this.#elect()
  }

  /** Also one that is cut off: nothing passes, and no connection ends. */
  stop(at: number): void {
    this.servers[at]!.state = 'stopped'
    this.#elect()
    for (const client of this.#clients) if (client.server === at) this.#fallSilent(client, at)
  }

  goOn(at: number): void {
    const server = this.servers[at]!
    server.state = 'up'
    this.#elect()
    for (const run of server.waiting.splice(0)) this.after(this.#draw(20), run)
  }

  loseBucket(): void {
    this.#kept = new Map()
    this.#earlier.clear()
    for (const client of this.#clients) this.#look(client)
  }

  #elect(): void {
    this.#leaderAt = this.now + 300 + this.#draw(4000)
  }

  get #hasLeader(): boolean {
    const up = this.servers.filter(({ state, routedAt }) => state === 'up' && routedAt <= this.now).length
    return this.now >= this.#leaderAt && 2 * up > this.servers.length
  }

  // ---- clients

  add(of: ModelClient): (output: SoftOutput) => void {
    const client: Client = {
      ...{
        of,
        id: '',
        server: undefined,
        connection: 0,
        pause: PAUSE_MS[0],
        since: 0,
        hasBucket: false,
        found: 0,
      },
    }
    this.#clients.push(client)
    this.#connect(client)
    return (output) => this.#take(client, output)
  }

  #connect(client: Client): void {
    if (client.server !== undefined) return
    const first = this.#draw(this.servers.length)
    let ms = 0
    for (const [i] of this.servers.entries()) {
      const at = (first + i) % this.servers.length
      const { state } = this.servers[at]!
      if (state === 'stopped') ms += ANSWER_MS
      if (state !== 'up') continue
      this.after(ms + 2, () => {
        if (client.server !== undefined) return
        if (this.servers[at]!.state === 'up') this.#connected(client, at)
        else this.#again(client)
      })
      return
    }
    this.after(ms, () => this.#again(client))
  }

  #again(client: Client): void {
    const { pause } = client
    client.pause = Math.min(2 * pause, PAUSE_MS[1])
    this.after(pause / 2 + this.#draw(pause / 2), () => this.#connect(client))
  }

  #connected(client: Client, at: number): void {
    Object.assign(client, { server: at, since: this.now, connection: client.connection + 1 })
    client.hasBucket = false
    client.of.handle({ type: 'soft-up' })
    this.#look(client)
  }

  /** For the bucket, until it is there; then all is claimed again. */
  #look(client: Client): void {
    const { connection, server } = client
    client.hasBucket = false
    const found = ++client.found
    const look = (wait: number) => {
      if (client.connection !== connection || server === undefined || client.found !== found) return
      if (this.#hasLeader && this.#reaches(server)) {
        client.hasBucket = true
        client.of.handle({ type: 'soft-up' })
      } else this.after(ANSWER_MS + wait, () => look(Math.min(2 * wait, PAUSE_MS[1])))
    }
    this.after(3, () => look(PAUSE_MS[0]))
  }

  #lose(client: Client, at: number): void {
    if (client.server !== at) return
    client.server = undefined
    client.connection++
    client.hasBucket = false
    if (this.now - client.since > STOOD_MS) client.pause = PAUSE_MS[0]
    client.of.handle({ type: 'soft-down' })
    this.#again(client)
  }

  #fallSilent(client: Client, at: number): void {
    const { connection } = client
    this.after(SILENT_MS - this.#draw(2000), () => {
      if (client.connection === connection && this.servers[at]!.state === 'stopped') this.#lose(client, at)
    })
  }

  /** A leader is reached from this server. */
  #reaches(server: number): boolean {
    const { state, routedAt } = this.servers[server]!
    return state === 'up' && routedAt <= this.now
  }

  // ---- messages

  #take(client: Client, output: SoftOutput): void {
    if (output.type === 'soft-listen') client.id = output.id
    const { server } = client
    if (output.type === 'soft-listen' || server === undefined) {
      if (output.type === 'soft-get') this.after(1, () => this.#got(client, output.id, undefined))
      return
    }
    switch (output.type) {
      case 'soft-get':
        this.#get(client, output.id, output.key)
        break
      case 'soft-put':
        this.#put(client, server, output.key, output.bytes)
        break
      default:
        this.#tell(client, server, output)
    }
  }

  #got(client: Client, id: number, bytes: Uint8Array | undefined): void {
    client.of.handle({ type: 'soft-got', id, bytes })
  }

  #get(client: Client, id: number, key: string): void {
    const { connection, server } = client
    if (server === undefined || !client.hasBucket) {
      this.after(1, () => this.#got(client, id, undefined))
      return
    }
    const isAnswered = this.#hasLeader && this.#reaches(server)
    this.after(isAnswered ? 2 : ANSWER_MS, () => {
      if (client.connection !== connection) return
      const earlier = this.#earlier.get(key)
      // A replica may be behind.
      const isBehind = earlier !== undefined && earlier.until > this.now && this.#draw(3) === 0
      this.#got(client, id, isAnswered ? (isBehind ? earlier.bytes : this.#kept.get(key)) : undefined)
    })
  }

  #put(client: Client, server: number, key: string, bytes: Uint8Array): void {
    const keep = () => {
      if (this.#hasLeader && this.#reaches(server)) {
        this.#earlier.set(key, { bytes: this.#kept.get(key), until: this.now + 500 })
        this.#kept.set(key, bytes)
      } else {
        const { connection, found } = client
        // It is not confirmed.
        this.after(ANSWER_MS, () => {
          if (client.connection === connection && client.found === found && client.hasBucket)
            this.#look(client)
        })
      }
    }
    this.#at(server, keep)
    this.#spread(client, server, (each) => each.of.handle({ type: 'soft-entry', key, bytes }))
  }

  #tell(client: Client, server: number, { to, bytes }: Extract<SoftOutput, { type: 'soft-tell' }>): void {
    const isOwn = to !== '*'
    this.#spread(client, server, (each) => {
      if (!isOwn || each.id === to) each.of.handle({ type: 'soft-heard', isOwn, bytes })
    })
  }

  /** Runs when the server is not stopped; never if it is killed before. */
  #at(server: number, run: () => void): void {
    const { state, waiting } = this.servers[server]!
    if (state === 'up') run()
    else if (state === 'stopped' && waiting.length < 5000) waiting.push(() => this.#at(server, run))
  }

  #spread(from: Client, server: number, hand: (to: Client) => void): void {
    const chance = this.#draw(1000)
    const copies = chance < this.lost ? 0 : chance < this.lost + this.twice ? 2 : 1
    for (let copy = 0; copy < copies; copy++)
      this.after(1 + this.#draw(this.late), () =>
        this.#at(server, () => {
          for (const each of this.#clients) {
            if (each === from || each.server === undefined) continue
            const { server: other, connection } = each
            if (other !== server && !(this.#reaches(server) && this.#isRouted(other))) continue
            this.#at(other, () => {
              if (each.connection === connection) hand(each)
            })
          }
        }),
      )
  }

  #isRouted(server: number): boolean {
    return this.servers[server]!.routedAt <= this.now
  }
}
