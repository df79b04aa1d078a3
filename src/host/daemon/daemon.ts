/**
 * The daemon: starts its mechanisms in order, answers on the control socket by querying all of them, stops them in
 * reverse. It knows no mechanism by name; `serve.ts` composes those that the configuration asks for.
 */
import * as z from 'zod'
import { noAccess, type UnusedInterface } from '../../access/index.ts'
import { GodwitError, usageError } from '../../core/errors.ts'
import {
  type AccessStatus,
  type ClassStatus,
  type ControlRoute,
  type DecisionRecord,
  type FlowStatus,
  type HandoverRecord,
  type Mechanism,
  type Metric,
  type Move,
  type MoveOptions,
  type Offer,
  type PeerStatus,
  type Pin,
  postRoute,
  takesPackets,
  type WayStatus,
} from '../../core/mechanism.ts'
import { formatSelector, parseSelector, type Selector } from '../../core/selector.ts'
import { Shared } from '../../core/shared.ts'
import { withArticle } from '../../core/words.ts'
import { notifyManager } from '../../linux/notify.ts'
import { ControlServer } from '../control/control.ts'
import { formatMetrics } from '../control/metrics.ts'
import { facts, type HostRecorder } from '../stores/recorder.ts'
import type { State } from '../stores/state.ts'
import { Applications } from './applications.ts'
import type { Reloaded } from './reload.ts'

/** Max delay of setTimeout: 24 days. */
const MOST_HELD_MS = 2 ** 31 - 1
/** Max simultaneous timed moves. */
const MOST_TIMED = 256
/** `move WHAT auto`; no interface has this name. */
const AUTO = 'auto'

/** What POSTs bring. */
/** Beside what and where: options of a mechanism (`Mechanism.moveOptions`). */
const MOVE = z
  .object({
    what: z.string().min(1),
    access: z.string().min(1),
    /** Given back after so long. */
    for_ms: z.int().min(1000).max(MOST_HELD_MS).optional(),
  })
  .catchall(z.boolean())
const RUN = z.strictObject({
  pid: z.int().min(2),
  command: z.string().min(1),
  policy: z.string().min(1).optional(),
  direct: z.boolean().optional(),
  access: z.string().min(1).optional(),
})
const NOTHING = z.strictObject({})
const RUN_END = z.strictObject({ id: z.string().min(1) })

/** Delay (ms) before a wait is first logged, and interval for logging changes of it. */
const SAID_AFTER_MS = 1_000
const SAID_AGAIN_MS = 10_000
/** How long the start of one mechanism waits for the peers of the one before. */
const SETTLED_MS = 20_000

/** Answer of GET /v1/status and output of `status --json`. */
export interface Status {
  readonly role: string
  readonly pid: number
  readonly version: string
  /** Milliseconds since the Unix epoch. */
  readonly started_at: number
  /** False while an anchor has not answered yet. */
  readonly ready: boolean
  /** What the daemon waits for until it is ready. */
  readonly waiting?: string
  readonly accesses: readonly AccessStatus[]
  /** Interfaces that are no accesses, and why. */
  readonly unused: readonly UnusedInterface[]
  readonly peers: readonly PeerStatus[]
  readonly flows: readonly FlowStatus[]
  /** How many there are besides: lists are cut. */
  readonly flows_left_out: number
  /** Of a router. */
  readonly classes: readonly ClassStatus[]
  readonly handovers: readonly HandoverRecord[]
  /** Moves by hand that are in effect. */
  readonly pins: readonly Pin[]
}

/** Answer of GET /v1/why. */
export interface Why {
  /** The flow, or of a router the class. */
  readonly flow?: FlowStatus
  readonly class?: ClassStatus
  /** The access that the flow is on. */
  readonly access?: AccessStatus
  /** What each mechanism could do for such a flow if it began now. */
  readonly offers: readonly Offer[]
  /** The mechanism's decisions about the flow now. */
  readonly now: readonly DecisionRecord[]
  /** Decisions and handovers on record, oldest first. */
  readonly decisions: readonly DecisionRecord[]
  readonly handovers: readonly HandoverRecord[]
}

export interface DaemonInit {
  /** Role of the mechanism that the command named. */
  readonly role: string
  /** All there are. */
  readonly roles?: readonly string[]
  readonly version: string
  readonly state: State
  readonly mechanisms: readonly Mechanism[]
  readonly recorder: HostRecorder
  /** Accesses of the access monitor. */
  readonly accesses?: () => readonly AccessStatus[]
  /** Adds the kernel's counters, while somebody watches. */
  readonly counters?: {
    readonly accesses: (accesses: readonly AccessStatus[]) => readonly AccessStatus[]
    readonly flows: (flows: readonly FlowStatus[]) => readonly FlowStatus[]
  }
  readonly unused?: () => readonly UnusedInterface[]
  /** Reads the configuration again. */
  readonly reload?: () => Promise<Reloaded>
  /** Part of the names of cgroups; `kernel.instance` of the configuration. */
  readonly instance: string
  readonly routes?: readonly ControlRoute[]
  /** Metrics that belong to no single mechanism. */
  readonly metrics?: () => readonly Metric[]
}

export class Daemon {
  readonly #init: DaemonInit
  readonly #control: ControlServer
  readonly #applications: Applications
  readonly #startedAt = Date.now()
  readonly #started: Mechanism[] = []
  #ready = false
  /** Mechanisms whose traffic cannot flow yet. */
  readonly #waiting = new Set<Mechanism>()
  #stopping: Promise<void> | undefined
  readonly #plainStatus = new Shared<Status>()
  readonly #watchedStatus = new Shared<Status>()
  #watchdog: NodeJS.Timeout | undefined
  /** Timed moves, by what was moved. */
  readonly #timed = new Map<string, { readonly timer: NodeJS.Timeout; readonly until: number }>()

  constructor(init: DaemonInit) {
    this.#init = init
    this.#applications = new Applications({
      instance: init.instance,
      mechanisms: init.mechanisms,
      recorder: init.recorder,
      file: init.state.file('applications.json'),
    })
    this.#control = new ControlServer({
      path: init.state.socket,
      routes: [...this.#routes(), ...(init.routes ?? []), ...init.mechanisms.flatMap((m) => m.routes ?? [])],
      metrics: () => formatMetrics(this.#metrics()),
      role: init.role,
      roles: init.roles ?? [],
      onFault: (error) => {
        const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
        init.recorder.log('error', `error while answering on the control socket: ${text}`)
      },
    })
  }

  /**
   * Resolves once every mechanism runs; the control socket answers from the beginning, so that waits can be seen. The
   * caller holds the lock of the state. When something fails, everything that had started is stopped again, as is
   * anything that starts while `stop` is called.
   */
  async start(): Promise<void> {
    try {
      await this.#control.listen()
      const { mechanisms } = this.#init
      for (const [i, mechanism] of mechanisms.entries()) {
        await mechanism.start()
        if (this.#stopping !== undefined) return await mechanism.stop()
        this.#started.push(mechanism)
        // Mechanisms that start later find the routes that it creates, unless nothing answers.
        if (i + 1 < mechanisms.length) await this.#settled(mechanism)
        if (this.#stopping !== undefined) return
      }
      await this.#applications.start()
    } catch (error) {
      await this.stop()
      throw error
    }
    // Services that start later need not wait for a network that may never come.
    notifyManager('READY=1')
    this.#watchdog = keepWatchdog(this.#init.mechanisms)
  }

  /** Resolves once traffic can flow; logs meanwhile what it waits for. Rejects when a mechanism fails permanently. */
  async untilReady(): Promise<void> {
    const waiting = this.#waiting
    for (const mechanism of this.#init.mechanisms)
      if (mechanism.untilReady !== undefined) waiting.add(mechanism)
    let said = ''
    const say = (): void => {
      const text = this.#waitingText()
      if (text === said || this.#stopping !== undefined) return
      said = text
      this.#init.recorder.log('warn', text)
      notifyManager(`STATUS=${text.replace(/\s+/g, ' ')}`)
    }
    const first = setTimeout(say, SAID_AFTER_MS)
    const again = setInterval(say, SAID_AGAIN_MS)
    try {
      await Promise.all(
        [...waiting].map(async (mechanism) => {
          await mechanism.untilReady?.()
          waiting.delete(mechanism)
        }),
      )
      this.#ready = true
      notifyManager('STATUS=ready')
    } finally {
      clearTimeout(first)
      clearInterval(again)
    }
  }

  async #settled(mechanism: Mechanism): Promise<void> {
    if (mechanism.untilReady === undefined) return
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, SETTLED_MS)
    })
    await Promise.race([mechanism.untilReady(), late]).finally(() => clearTimeout(timer))
  }

  #waitingText(): string {
    return [...this.#waiting].map((mechanism) => mechanism.waiting?.() ?? mechanism.name).join('; ')
  }

  /** Rejects with the reason when a mechanism fails permanently; stop the daemon then. */
  async untilFailure(): Promise<never> {
    throw await Promise.race(
      this.#init.mechanisms.map(({ failure }) => failure ?? new Promise<never>(() => {})),
    )
  }

  /** Not while mechanisms start: they have the configuration of then. */
  async reload(): Promise<Reloaded> {
    const { reload, mechanisms } = this.#init
    if (reload === undefined || this.#started.length < mechanisms.length || this.#stopping !== undefined)
      throw new GodwitError('NOT_READY', 'this daemon is just starting or stopping', {
        hint: 'try again in a moment',
      })
    return reload()
  }

  /** Repeatable; a mechanism that fails to stop does not keep the others from it. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  async #stop(): Promise<void> {
    notifyManager('STOPPING=1')
    clearInterval(this.#watchdog)
    for (const { timer } of this.#timed.values()) clearTimeout(timer)
    const steps: [string, () => Promise<void>][] = [
      ['the control socket', () => this.#control.close()],
      ['applications', () => this.#applications.stop()],
      ...this.#started
        .reverse()
        .map((mechanism): [string, () => Promise<void>] => [mechanism.name, () => mechanism.stop()]),
    ]
    for (const [name, stop] of steps) {
      try {
        await stop()
      } catch (error) {
        this.#init.recorder.log('error', `stopping ${name}: ${(error as Error).message}`)
      }
    }
  }

  /** `watched`: with what accesses and flows have carried; bytes of flows are counted from then on, for some seconds. */
  status(watched = false): Promise<Status> {
    return (watched ? this.#watchedStatus : this.#plainStatus).ask(() => this.#status(watched))
  }

  async #status(watched: boolean): Promise<Status> {
    const { role, version, recorder, counters } = this.#init
    const flows = await this.#flows(watched)
    const accesses = this.#accesses()
    return {
      role,
      pid: process.pid,
      version,
      started_at: this.#startedAt,
      ready: this.#ready,
      ...(this.#waiting.size > 0 && { waiting: this.#waitingText() }),
      accesses: watched && counters ? counters.accesses(accesses) : accesses,
      unused: this.#init.unused?.() ?? [],
      peers: this.#init.mechanisms.flatMap((mechanism) => mechanism.peers()),
      flows: watched && counters ? counters.flows(flows) : flows,
      flows_left_out: this.#flowsLeftOut,
      classes: this.#classes(),
      handovers: recorder.handovers(),
      pins: this.#pins(),
    }
  }

  #accesses(): readonly AccessStatus[] {
    return this.#init.accesses?.() ?? []
  }

  #classes(): ClassStatus[] {
    return this.#init.mechanisms.flatMap((mechanism) => mechanism.classes?.() ?? [])
  }

  async #flows(watched = false): Promise<FlowStatus[]> {
    const lists = this.#init.mechanisms.map(async (mechanism) => {
      try {
        return await mechanism.flows(watched)
      } catch (error) {
        if (this.#ready) throw error
        return [] // it has not started yet
      }
    })
    return (await Promise.all(lists)).flat()
  }

  get #flowsLeftOut(): number {
    return this.#init.mechanisms.reduce((sum, { flowsLeftOut }) => sum + (flowsLeftOut ?? 0), 0)
  }

  #pins(): Pin[] {
    return this.#init.mechanisms
      .flatMap((mechanism) => mechanism.pins?.() ?? [])
      .map((pin) => {
        const until = this.#timed.get(pin.what)?.until
        return { ...pin, ...(until !== undefined && { until }) }
      })
  }

  /** `forMs`: returned to the policy after this time. */
  async move(what: string, access: string, options: MoveOptions = {}, forMs?: number): Promise<Move> {
    const selector = parseSelector(what)
    if (!selector.ok) throw usageError(selector.reason)
    const text = formatSelector(selector.value)
    if (access === AUTO && forMs !== undefined) throw usageError('--for does not apply to `auto`')
    if (forMs !== undefined && !this.#timed.has(text) && this.#timed.size >= MOST_TIMED)
      throw new GodwitError('TOO_MANY', `${MOST_TIMED} timed moves are active`, {
        hint: 'end some: godwit move WHAT auto',
      })
    const moved =
      access === AUTO
        ? await this.#giveBack(selector.value)
        : await this.#move(selector.value, access, options)
    clearTimeout(this.#timed.get(text)?.timer)
    this.#timed.delete(text)
    if (forMs !== undefined) this.#giveBackLater(text, selector.value, forMs)
    return moved
  }

  #giveBackLater(text: string, what: Selector, forMs: number): void {
    const timer = setTimeout(() => {
      this.#timed.delete(text)
      this.#init.recorder.log('info', `${text} is returned to its policy: its time is over`)
      this.#giveBack(what).catch(() => {}) // flows that have ended
    }, forMs)
    this.#timed.set(text, { timer, until: Date.now() + forMs })
  }

  async #giveBack(what: Selector): Promise<Move> {
    const able = this.#init.mechanisms.filter(({ giveBack }) => giveBack !== undefined)
    if (able.length === 0)
      throw usageError('no mechanism of this daemon keeps moves by hand', {
        hint: 'move them again: godwit move WHAT ACCESS',
      })
    const answers = await Promise.all(able.map((mechanism) => mechanism.giveBack?.(what)))
    const mine = answers.filter((answer) => answer !== undefined)
    if (mine.length === 0) throw this.#noFlow(what)
    const notes = mine.flatMap(({ note }) => note ?? [])
    const flows = mine.reduce((sum, each) => sum + each.flows, 0)
    return { flows, ...(notes.length > 0 && { note: notes.join('; ') }) }
  }

  async #move(what: Selector, access: string, options: MoveOptions): Promise<Move> {
    const known = this.#accesses()
    const follower = this.#init.mechanisms[0]?.follows
    if (follower !== undefined && this.#init.mechanisms.every(({ follows }) => follows !== undefined))
      throw new GodwitError('NO_ACCESS', follower.reason, { hint: follower.hint })
    const target = known.find(({ name }) => name === access)
    if (target === undefined) throw noAccess(access, known, this.#init.unused?.() ?? [])
    if (target.state === 'down')
      throw new GodwitError('ACCESS_DOWN', `${access} is down${target.reason ? `: ${target.reason}` : ''}`, {
        hint: '`godwit status` shows the accesses that work',
      })
    const unknown = Object.keys(options).find(
      (option) => !this.#init.mechanisms.some(({ moveOptions }) => moveOptions?.includes(option)),
    )
    if (unknown !== undefined) throw usageError(`no mechanism of this daemon has the option ${unknown}`)
    let flows: number | undefined
    let failure: GodwitError | undefined
    const notes: string[] = []
    for (const mechanism of this.#init.mechanisms) {
      try {
        const answer = await mechanism.move(what, access, options)
        if (answer === undefined) continue
        flows = (flows ?? 0) + answer.flows
        if (answer.note !== undefined) notes.push(answer.note)
      } catch (error) {
        if (!(error instanceof GodwitError)) throw error
        failure ??= error
      }
    }
    // A mechanism's failure to move something is only a note if another mechanism has moved something.
    if (failure !== undefined && (flows ?? 0) === 0) throw failure
    if (failure !== undefined) notes.push(failure.message)
    if (flows !== undefined) return { flows, ...(notes.length > 0 && { note: notes.join('; ') }) }
    throw this.#noFlow(what)
  }

  #noFlow(what: Selector): GodwitError {
    const text = formatSelector(what)
    const classes = this.#classes().length > 0
    if (what.kind === 'all') return new GodwitError('NO_FLOW', 'there are no flows to move')
    const reason =
      what.kind === 'flow' ? `there is no ${classes ? 'class' : 'flow'} ${text}` : `no flow is ${text}`
    const list = classes ? 'router classes' : 'flows'
    return new GodwitError('NO_FLOW', reason, { hint: `\`godwit ${list}\` lists what can be moved` })
  }

  async ping(): Promise<{ readonly ways: readonly WayStatus[] }> {
    const { mechanisms, role } = this.#init
    if (!mechanisms.some(({ ping }) => ping !== undefined))
      throw new GodwitError(
        'WRONG_ROLE',
        `the godwit that runs here is ${withArticle(role)}: it has no anchors to test`,
        {
          kind: 'usage',
          hint: '`godwit paths` shows its paths',
        },
      )
    const ways = mechanisms.map((mechanism) => mechanism.ping?.() ?? [])
    return { ways: (await Promise.all(ways)).flat() }
  }

  async why(id: string): Promise<Why> {
    const { mechanisms, recorder } = this.#init
    const now = (name: string) => mechanisms.find((each) => each.name === name)?.why(id) ?? []
    const flow = (await this.#flows()).find((candidate) => candidate.id === id)
    if (flow !== undefined) {
      const access = this.#accesses().find(({ name }) => name === flow.access)
      const offers = mechanisms.map((mechanism) => mechanism.offer(facts(flow)))
      return { flow, ...(access && { access }), offers, now: now(flow.mechanism), ...recorder.about(flow) }
    }
    const found = this.#classes().find((candidate) => candidate.id === id)
    if (found !== undefined)
      return { class: found, offers: [], now: now(found.mechanism), ...recorder.aboutClass(found) }
    const cut = this.#flowsLeftOut
    const hint =
      cut === 0 ? '`godwit flows` lists them' : `${cut} flows are not listed: it may be one of these`
    throw new GodwitError('NO_FLOW', `there is no flow ${id}`, { hint })
  }

  #routes(): ControlRoute[] {
    return [
      { method: 'GET', path: '/v1/status', handle: ({ query }) => this.status(query.watched === '1') },
      postRoute('/v1/reload', NOTHING, () => this.reload()),
      { method: 'GET', path: '/v1/ping', handle: () => this.ping() },
      { method: 'GET', path: '/v1/why', handle: ({ query }) => this.why(query.flow ?? '') },
      postRoute('/v1/move', MOVE, ({ body }) =>
        this.move(body.what, body.access, optionsIn(body), body.for_ms),
      ),
      postRoute('/v1/run', RUN, ({ body, caller }) => {
        const { pid, command, policy, access, direct } = body
        return this.#applications.adopt(
          {
            pid,
            command,
            ...(policy === undefined ? {} : { policy }),
            ...(access === undefined ? {} : { access }),
            ...(direct === undefined ? {} : { direct }),
          },
          caller,
        )
      }),
      postRoute('/v1/run/end', RUN_END, ({ body, caller }) => this.#applications.end(body.id, caller)),
      { method: 'GET', path: '/v1/run', handle: () => ({ applications: this.#applications.list() }) },
    ]
  }

  *#metrics(): Generator<Metric> {
    const { mechanisms, recorder, version, role } = this.#init
    const info = { version, role }
    yield { name: 'godwit_info', help: 'This daemon.', type: 'gauge', labels: info, value: 1 }
    const started = this.#startedAt / 1000
    yield { name: 'godwit_start_time_seconds', help: 'Unix time of start.', type: 'gauge', value: started }
    const memory = process.memoryUsage.rss()
    yield { name: 'process_resident_memory_bytes', help: 'Resident memory.', type: 'gauge', value: memory }
    yield* recorder.metrics()
    yield* this.#init.metrics?.() ?? []
    for (const access of this.#accesses()) {
      const value = access.state === 'down' ? 0 : 1
      const labels = { access: access.name }
      yield { name: 'godwit_access_up', help: 'Whether the access is usable.', type: 'gauge', labels, value }
    }
    for (const peer of mechanisms.flatMap((mechanism) => mechanism.peers())) {
      for (const path of peer.paths) yield* pathMetrics(peer, path)
    }
    for (const mechanism of mechanisms) yield* mechanism.metrics?.() ?? []
  }
}

/** Notifies the service manager's watchdog at the interval that it requires (sd_watchdog_enabled(3)). */
function keepWatchdog(mechanisms: readonly Mechanism[]): NodeJS.Timeout | undefined {
  const within = Number(process.env.WATCHDOG_USEC) / 1000
  if (!(within > 0)) return undefined
  return setInterval(async () => {
    const all = await Promise.all(mechanisms.map(async (mechanism) => (await mechanism.responds?.()) ?? true))
    if (all.every(Boolean)) notifyManager('WATCHDOG=1')
  }, within / 3)
}

function* pathMetrics(peer: PeerStatus, path: PeerStatus['paths'][number]): Generator<Metric> {
  const labels = { peer: peer.name, access: path.access, path: String(path.id) }
  const up = takesPackets(path) ? 1 : 0
  yield { name: 'godwit_path_up', help: 'Whether the path is usable.', type: 'gauge', labels, value: up }
  if (path.rtt_ms !== null) {
    const value = path.rtt_ms / 1000
    yield { name: 'godwit_path_rtt_seconds', help: 'Smoothed round trip.', type: 'gauge', labels, value }
  }
  if (path.loss !== null) {
    yield { name: 'godwit_path_loss_ratio', help: 'Loss of probes.', type: 'gauge', labels, value: path.loss }
  }
  if (path.sent_bytes !== undefined) {
    const value = path.sent_bytes
    yield { name: 'godwit_path_sent_bytes_total', help: 'Bytes sent.', type: 'counter', labels, value }
  }
  if (path.received_bytes !== undefined) {
    const value = path.received_bytes
    yield {
      name: 'godwit_path_received_bytes_total',
      help: 'Bytes received.',
      type: 'counter',
      labels,
      value,
    }
  }
}

function optionsIn(body: z.output<typeof MOVE>): MoveOptions {
  return Object.fromEntries(Object.entries(body).flatMap(([key, on]) => (on === true ? [[key, true]] : [])))
}
