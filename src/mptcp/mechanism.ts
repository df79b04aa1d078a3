/** The MPTCP proxy as the daemon sees it: its worker, its plumbing, status, flows, moves and reasons (core/mechanism.ts). */
import * as z from 'zod'
import type { Access } from '../access/index.ts'
import { parseAddress } from '../core/address.ts'
import { GodwitError } from '../core/errors.ts'
import { formatEndpoint } from '../core/flow.ts'
import { Protocol } from '../core/ip.ts'
import {
  type ControlRoute,
  type DecisionRecord,
  type FlowStatus,
  type Mechanism,
  type Metric,
  type Move,
  type Offer,
  type PeerStatus,
  postRoute,
} from '../core/mechanism.ts'
import { matchesPattern } from '../core/pattern.ts'
import { type FlowFacts, formatSelector, matches, type Selector } from '../core/selector.ts'
import { NfSocket } from '../linux/nf-socket.ts'
import type { AccessRule } from '../mechanism/descriptor.ts'
import type { Services } from '../mechanism/services.ts'
import { EngineWorker } from '../tunnel/engine/thread.ts'
import { Filter } from './filter.ts'
import { keptPath, removeKept } from './kept.ts'
import { removeFastPath } from './kernel/fast-path.ts'
import type { MptcpInit } from './machine/types.ts'
import { MptcpPlumbing } from './plumbing.ts'
import type {
  ConnectionReport,
  MptcpCommand,
  MptcpReport,
  MptcpSetup,
  MptcpWorkerEvent,
  SubflowReport,
  WorkerAccess,
} from './protocol.ts'
import { RememberedList } from './remembered.ts'

export interface MptcpSettings extends MptcpInit {
  /** The kernel carries the bulk. */
  readonly kernel: boolean
  readonly rules: readonly (AccessRule & { readonly pattern: string })[]
}

/** What `godwit mptcp connections --json` prints. */
export interface ConnectionView {
  readonly id: string
  readonly state: string
  readonly role: string
  readonly forwarded: boolean
  readonly local: string
  readonly remote: string
  readonly app: string
  readonly acknowledged_bytes: number
  readonly received_bytes: number
  readonly active: number | null
  /** Who translates its packets just now. */
  readonly path: 'kernel' | 'user space'
  readonly subflows: readonly SubflowView[]
}

export interface SubflowView {
  readonly id: number
  readonly state: string
  readonly access: string
  readonly local: string
  readonly backup: boolean
  readonly remote_backup: boolean
  readonly rtt_ms: number | null
  readonly sent_bytes: number
  readonly received_bytes: number
}

/** DSS with 64-bit numbers. */
const OVERHEAD = 28
/** The worker answers within a turn; later it is stuck. */
const ANSWER_MS = 5000
/** An address that no connection has any more may stay so long (ms): a report names every connection, and thousands may end each second. */
const RELEASE_MS = 1000

export class MptcpMechanism implements Mechanism {
  readonly name = 'mptcp'
  readonly failure: Promise<GodwitError>
  #fail: (error: GodwitError) => void = () => {}
  readonly #settings: MptcpSettings
  readonly #services: Services
  readonly #plumbing: MptcpPlumbing
  readonly #kept: string
  #worker: EngineWorker | undefined
  #ends: (() => void)[] = []
  #request = 0
  #holding: NodeJS.Timeout | undefined
  readonly #waiting = new Map<number, (answer: MptcpReport | boolean) => void>()
  #last: MptcpReport | undefined
  readonly #reasons = new Map<number, DecisionRecord>()

  constructor(settings: MptcpSettings, services: Services) {
    this.#settings = settings
    this.#services = services
    this.failure = new Promise((resolve) => {
      this.#fail = resolve
    })
    this.#kept = keptPath(services.files.folder)
    const held = new RememberedList(services.files.file('mptcp-held.json'), (reason) =>
      services.recorder.log(
        'warn',
        `addresses that connections keep cannot be remembered: ${reason}; tried again. If this daemon is killed meanwhile, remove them yourself: ip addr show dev lo`,
      ),
    )
    this.#plumbing = new MptcpPlumbing(services.rtnl, services.ledger, held)
  }

  async start(): Promise<void> {
    const { accesses, guard, ledger } = this.#services
    try {
      this.#ends.push(accesses.useRouting())
      accesses.start()
      this.#route()
      const { rules: _, kernel: __, ...init } = this.#settings
      const setup: MptcpSetup = {
        kept: this.#kept,
        ledger: { instance: ledger.instance, base: ledger.base },
        kernel: this.#settings.kernel,
        init,
        accesses: this.#usable(),
      }
      this.#worker = await EngineWorker.start(new URL('./worker.js', import.meta.url), setup, {
        onEvent: (event) => this.#handle(event as MptcpWorkerEvent),
        onEnd: (error) => {
          if (error !== undefined) this.#fail(error)
        },
      })
      // Addresses that connections of a killed daemon have stay, those of others go.
      await this.#holdAddresses()
      this.#ends.push(
        accesses.subscribe((event) => {
          if (event.type === 'access') this.#accessChanged()
        }),
        guard.protect({
          name: 'MPTCP',
          devices: () => [],
          restore: () => this.#plumbing.restore(),
        }),
      )
    } catch (error) {
      await this.stop()
      throw error
    }
  }

  async stop(): Promise<void> {
    for (const end of this.#ends.splice(0)) end()
    clearTimeout(this.#holding)
    await this.#worker?.stop()
    this.#worker = undefined
    for (const answer of this.#waiting.values()) answer(false)
    this.#waiting.clear()
    this.#plumbing.cleanUp()
  }

  async cleanUp(): Promise<void> {
    this.#plumbing.cleanUp()
    removeKept(this.#kept)
    const sockets = new NfSocket()
    try {
      new Filter(sockets, this.#services.ledger).remove()
      removeFastPath(
        this.#services.ledger,
        this.#services.rtnl.links().map(({ index }) => index),
      )
    } finally {
      sockets.close()
    }
  }

  #route(): void {
    const { accesses } = this.#services
    this.#plumbing.route(accesses.accesses(), (name) => accesses.table(name))
  }

  #accessChanged(): void {
    this.#route()
    this.#post({ type: 'accesses', accesses: this.#usable() })
    void this.#holdAddresses()
  }

  /** The accesses that work, best first: no backup before others, then by cost, then as the kernel's routes prefer. */
  #usable(): WorkerAccess[] {
    const rank = (access: Access) => {
      const rule = this.#rule(access.name)
      return [rule.use === 'backup' ? 1 : 0, rule.cost, access.gateways[0]?.metric ?? 0]
    }
    return this.#services.accesses
      .accesses()
      .filter(
        ({ state, name }) => (state === 'up' || state === 'degrading') && this.#rule(name).use !== 'never',
      )
      .map((access) => ({ access, rank: rank(access) }))
      .sort((a, b) => a.rank[0]! - b.rank[0]! || a.rank[1]! - b.rank[1]! || a.rank[2]! - b.rank[2]!)
      .map(({ access }) => ({
        name: access.name,
        index: access.ifindex,
        ethernet: this.#hasEthernet(access.ifindex),
        mark: this.#markOf(access.name),
        // Deprecated ones are the last: a connection keeps its privacy address of yesterday, none begins with it (RFC 4862 §5.5.4).
        addresses: access.addresses.flatMap(({ address }) => {
          const parsed = parseAddress(address)
          return parsed.ok ? [parsed.value] : []
        }),
        mtu: access.mtu,
        backup: this.#rule(access.name).use === 'backup',
      }))
  }

  #markOf(access: string): number | undefined {
    const { accesses, ledger } = this.#services
    const table = accesses.table(access)
    return table === undefined ? undefined : ledger.mptcpMark(table)
  }

  /** Its packets have an Ethernet header. */
  #hasEthernet(index: number): boolean {
    const link = this.#services.rtnl.link(index)
    return link !== undefined && !link.loopback && link.mac !== ''
  }

  #rule(name: string): Pick<AccessRule, 'use' | 'cost'> {
    return (
      this.#settings.rules.find(({ pattern }) => matchesPattern(pattern, name)) ?? { use: 'normal', cost: 0 }
    )
  }

  /** A connection has ended: addresses that only it had are let go. For many at once this is done once. */
  #holdSoon(): void {
    this.#holding ??= setTimeout(() => {
      this.#holding = undefined
      void this.#holdAddresses()
    }, RELEASE_MS).unref()
  }

  /** Connections keep an address that their access has lost. */
  async #holdAddresses(): Promise<void> {
    const report = await this.#report()
    if (report === undefined || this.#worker === undefined) return
    try {
      this.#plumbing.hold(
        report.connections
          .filter(({ state, forwarded }) => state !== 'closed' && !forwarded)
          .map(({ local }) => local),
      )
    } catch (error) {
      this.#services.recorder.log(
        'warn',
        `addresses of connections cannot be kept: ${(error as Error).message}`,
      )
    }
  }

  #handle(event: MptcpWorkerEvent): void {
    const { recorder, clock } = this.#services
    switch (event.type) {
      case 'report':
        this.#last = event.report
        this.#answer(event.request, event.report)
        break
      case 'answer':
        this.#answer(event.request, event.done)
        break
      case 'slow':
        recorder.log('info', `all packets of MPTCP connections go through user space: ${event.reason}`)
        break
      case 'restored':
        recorder.log(
          'warn',
          'another program removed the packet rules of MPTCP (`nft flush ruleset`, as `systemctl restart nftables` does); put back',
        )
        break
      case 'unkept':
        recorder.log('warn', `if the daemon is killed, the connections it translates end: ${event.reason}`)
        break
      case 'established':
        recorder.log('debug', `connection ${flowId(event.connection)} speaks MPTCP`)
        break
      case 'moved': {
        const subject = { kind: 'flow', id: flowId(event.connection) } as const
        const at = clock.wall()
        recorder.handover({
          at,
          subject,
          from: event.from,
          to: event.to,
          cause: event.cause,
          gap_ms: Number.isNaN(event.gap) ? null : event.gap,
          lost_packets: null,
        })
        const decision = { at, mechanism: this.name, subject, chosen: event.to, reason: event.cause }
        recorder.decision(decision)
        this.#reasons.set(event.connection, { ...decision, what: subject.id })
        break
      }
      case 'ended':
        this.#reasons.delete(event.connection)
        recorder.log('debug', `connection ${flowId(event.connection)} ended: ${event.reason}`)
        this.#holdSoon()
        break
    }
  }

  #post(command: MptcpCommand): void {
    this.#worker?.post(command)
  }

  #answer(request: number, answer: MptcpReport | boolean): void {
    this.#waiting.get(request)?.(answer)
    this.#waiting.delete(request)
  }

  /** Asks the worker; `false` when it does not run or answer. */
  #ask(command: (request: number) => MptcpCommand): Promise<MptcpReport | boolean> {
    if (this.#worker === undefined) return Promise.resolve(false)
    const request = ++this.#request
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#answer(request, false), ANSWER_MS)
      this.#waiting.set(request, (answer) => {
        clearTimeout(timer)
        resolve(answer)
      })
      this.#post(command(request))
    })
  }

  async #report(): Promise<MptcpReport | undefined> {
    const answer = await this.#ask((request) => ({ type: 'report', request }))
    return typeof answer === 'boolean' ? undefined : answer
  }

  async #connections(): Promise<readonly ConnectionReport[]> {
    return (await this.#report())?.connections.filter(({ state }) => state !== 'closed') ?? []
  }

  peers(): readonly PeerStatus[] {
    return []
  }

  async flows(): Promise<readonly FlowStatus[]> {
    return (await this.#connections()).map((each) => {
      const active = each.subflows.find(({ id }) => id === each.active)
      return {
        id: flowId(each.id),
        proto: 'tcp',
        src: formatEndpoint(each.local, each.localPort),
        dst: formatEndpoint(each.remote, each.remotePort),
        app: this.#owner(each).app,
        mechanism: this.name,
        peer: formatEndpoint(each.remote, each.remotePort),
        access: active?.access ?? '',
      }
    })
  }

  #owner(each: ConnectionReport) {
    return this.#services.owners.find(flowId(each.id), { protocol: Protocol.TCP, ...each })
  }

  async move(what: Selector, access: string): Promise<Move | undefined> {
    const mine = (await this.#connections()).filter((each) => matches(what, this.#owner(each).facts))
    if (mine.length === 0) return undefined
    let moved = 0
    for (const each of mine) if (await this.#handover(each.id, access)) moved++
    if (moved === 0)
      throw new GodwitError('NO_PATH', `${formatSelector(what)} has no subflow over ${access}`, {
        hint: '`godwit mptcp connections` shows the subflows',
      })
    const left = mine.length - moved
    return { flows: moved, ...(left > 0 && { note: `${left} have no subflow over ${access}` }) }
  }

  async #handover(connection: number, access: string): Promise<boolean> {
    return (await this.#ask((request) => ({ type: 'handover', request, connection, access }))) === true
  }

  offer({ proto }: FlowFacts): Offer {
    const tcp = proto === undefined || proto === Protocol.TCP
    return {
      mechanism: this.name,
      carries: tcp && this.#worker !== undefined,
      reason: tcp
        ? 'a connection that begins now offers MPTCP; whether the server takes it shows in its answer'
        : 'only TCP',
      cost: { bytes: OVERHEAD, rtt_ms: null },
      survives: ['access', 'address', 'outage'],
      needs: ['MPTCP version 1 (Linux 5.6 or newer), or godwit with its proxy'],
    }
  }

  why(id: string): readonly DecisionRecord[] | undefined {
    const connection = this.#last?.connections.find((each) => flowId(each.id) === id)
    if (connection === undefined) return undefined
    const active = connection.subflows.find((each) => each.id === connection.active)
    const now: DecisionRecord = {
      at: this.#services.clock.wall(),
      mechanism: this.name,
      subject: { kind: 'flow', id },
      what: id,
      chosen: active?.access ?? 'none',
      reason: this.#reasons.get(connection.id)?.reason ?? 'the first subflow works',
      evidence: {
        state: connection.state,
        subflows: connection.subflows
          .map((each) => `${each.id}: ${each.access ?? '?'} ${each.state}${each.backup ? ', backup' : ''}`)
          .join('; '),
      },
    }
    return [now]
  }

  get routes(): readonly ControlRoute[] {
    const target = z.strictObject({ connection: z.string(), access: z.string() })
    return [
      {
        method: 'GET',
        path: '/v1/mptcp/connections',
        handle: async () => ({ connections: (await this.#connections()).map((each) => this.#view(each)) }),
      },
      postRoute('/v1/mptcp/handover', target, async ({ body: { connection, access } }) => {
        if (!(await this.#handover(idOf(connection), access)))
          throw refused(`${connection} has no subflow over ${access} that works`)
        return { moved: true }
      }),
      postRoute('/v1/mptcp/subflow/add', target, async ({ body: { connection, access } }) => {
        const done = await this.#ask((request) => ({
          type: 'add',
          request,
          connection: idOf(connection),
          access,
        }))
        if (done !== true) throw refused(`no subflow of ${connection} can begin on ${access}`)
        return { begun: true }
      }),
      postRoute(
        '/v1/mptcp/subflow/remove',
        z.strictObject({ connection: z.string(), subflow: z.int() }),
        async ({ body: { connection, subflow } }) => {
          const done = await this.#ask((request) => ({
            type: 'remove',
            request,
            connection: idOf(connection),
            subflow,
          }))
          if (done !== true)
            throw refused(`subflow ${subflow} of ${connection} is not there, or is its only one`)
          return { closed: true }
        },
      ),
    ]
  }

  #view(each: ConnectionReport): ConnectionView {
    return {
      id: flowId(each.id),
      state: each.state,
      role: each.role,
      forwarded: each.forwarded,
      local: formatEndpoint(each.local, each.localPort),
      remote: formatEndpoint(each.remote, each.remotePort),
      app: this.#owner(each).app,
      acknowledged_bytes: each.acknowledged,
      received_bytes: each.received,
      active: each.active ?? null,
      path: each.fast ? 'kernel' : 'user space',
      subflows: each.subflows.map(subflowView),
    }
  }

  metrics(): readonly Metric[] {
    const report = this.#last
    // The next reading has newer ones.
    void this.#report()
    if (report === undefined) return []
    const counters = Object.entries(report.counts).map(([name, value]) => ({
      name: `godwit_mptcp_${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}_total`,
      help: `MPTCP proxy: ${HELP[name as keyof MptcpReport['counts']]}.`,
      type: 'counter' as const,
      value,
    }))
    return [
      ...counters,
      {
        name: 'godwit_mptcp_connections',
        help: 'Connections that the MPTCP proxy translates.',
        type: 'gauge',
        value: report.connections.filter(({ state }) => state === 'established').length,
      },
    ]
  }
}

const HELP: Readonly<Record<keyof MptcpReport['counts'], string>> = {
  established: 'connections that came to speak MPTCP',
  fallbacks: 'connections that stayed plain TCP because the peer or the path speaks no MPTCP',
  joins: 'subflows beside the first that came to work',
  joinsRefused: 'joins that did not know the keys or found no room',
  handovers: 'changes of the subflow that carries data',
  blackHoles: 'subflows given up because nothing came back',
  resets: 'subflows reset because the peer contradicted itself',
  lies: 'options that contradict what is known',
  unmapped: 'packets whose payload had no mapping',
  stuck: 'subflows on which the peer waited for what nobody sent',
  refused: 'connections that stayed plain TCP for want of room',
  takenOver: 'connections taken over from a daemon that was killed',
  fast: 'times that the kernel took over the packets of a connection',
  packets: 'packets handled',
  damaged: 'packets with a wrong checksum',
  unsent: 'packets of its own that the kernel refused',
  overruns: 'times that the kernel dropped packets because the queue was full',
  refused_verdicts: 'verdicts that the kernel refused',
}

function subflowView(each: SubflowReport): SubflowView {
  return {
    id: each.id,
    state: each.state,
    access: each.access ?? '',
    local: formatEndpoint(each.local, each.localPort),
    backup: each.backup,
    remote_backup: each.remoteBackup,
    rtt_ms: Number.isNaN(each.srtt) ? null : Math.round(each.srtt * 1000) / 1000,
    sent_bytes: each.sentBytes,
    received_bytes: each.receivedBytes,
  }
}

function flowId(connection: number): string {
  return `m${connection}`
}

function idOf(text: string): number {
  const match = /^m(\d+)$/.exec(text)
  if (match === null) throw refused(`${text} is no connection of MPTCP`)
  return Number(match[1])
}

function refused(message: string): GodwitError {
  return new GodwitError('NO_PATH', message, { hint: '`godwit mptcp connections` shows what there is' })
}
