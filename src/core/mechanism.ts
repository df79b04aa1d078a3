/**
 * What the daemon and a mechanism (anchoring, routing, translation …) have in common. The daemon builds its
 * mechanisms from the configuration, starts them in order, asks all of them and merges the answers, and stops them in
 * reverse. Field names of the `…Status` and `…Record` types are the JSON of the contract (`status --json`).
 *
 * Everything here is called on the daemon's main thread. Errors are `GodwitError`s (core/errors.ts).
 */
import type { GodwitError } from './errors.ts'
import type { FlowFacts, Selector } from './selector.ts'
import type { Subject } from './subject.ts'

/** An access network. `degrading` still carries traffic; `draining` only what has not moved away yet. */
export interface AccessStatus {
  readonly name: string
  readonly state: 'up' | 'degrading' | 'draining' | 'down'
  readonly addresses: readonly string[]
  /** Milliseconds, smoothed; null when not measured. */
  readonly rtt_ms: number | null
  /** 0 to 1 over the last probes; null when not measured. */
  readonly loss: number | null
  /** Why it is in this state. */
  readonly reason?: string
  /** Why nothing leaves over it, where a rule or route of another program is to blame. */
  readonly obstacle?: string
  /** All that its interface has sent and received, in bytes. */
  readonly sent_bytes?: number
  readonly received_bytes?: number
}

/** One access towards one peer. */
export interface PathStatus {
  readonly id: number
  /** Name of the access; on an anchor, that of the socket it arrives on. */
  readonly access: string
  /** `address:port`, IPv6 in brackets. */
  readonly remote: string
  readonly state: string
  readonly rtt_ms: number | null
  readonly loss: number | null
  readonly sent_bytes?: number
  readonly received_bytes?: number
  readonly mtu?: number
  /** Carrier of the path, if not UDP, and what it costs. */
  readonly carrier?: 'websocket'
  readonly cost?: string
}

/** Whether packets may take a path in this state. */
export function takesPackets({ state }: PathStatus): boolean {
  return ['up', 'degrading', 'suspect', 'fading', 'draining'].includes(state)
}

export interface PeerStatus {
  readonly name: string
  readonly kind: 'anchor' | 'host' | 'wireguard' | 'router' | 'node'
  readonly state: 'up' | 'connecting' | 'down'
  readonly paths: readonly PathStatus[]
  /** Base64 of the peer's public key. */
  readonly public_key?: string
  /** The virtual addresses of this association. */
  readonly addresses?: readonly string[]
  /** Why the peer refuses this host. */
  readonly refused?: string
  /** For an anchor's host: when it last sent something, milliseconds since the Unix epoch. */
  readonly last_seen?: number
}

/** A way to a peer over an access, as `godwit ping` tries it. */
export interface WayStatus {
  readonly peer: string
  readonly access: string
  /** `address:port`, or the endpoint as configured. */
  readonly remote: string
  readonly ok: boolean
  readonly rtt_ms: number | null
  /** Largest IP packet known to pass. */
  readonly mtu: number | null
  /** Why it does not work. */
  readonly reason?: string
}

export interface FlowStatus {
  /** Unique on this host while the flow lives; stays when the flow moves. No spaces, not `all`, no colon. */
  readonly id: string
  readonly proto: string
  /** `address:port`, IPv6 in brackets. */
  readonly src: string
  readonly dst: string
  /** Name of the executable; empty when not known. */
  readonly app: string
  readonly mechanism: string
  readonly peer: string
  readonly access: string
  /** The policy that it is under, with what was done to it by hand. */
  readonly policy?: string
  /** The access that it was moved to by hand. */
  readonly pinned?: string
  /** When it was first seen, milliseconds since the Unix epoch. */
  readonly since?: number
  /** Bytes since some moment, which stays the same while somebody watches; absent: not counted. */
  readonly sent_bytes?: number
  readonly received_bytes?: number
}

/** Traffic that was moved by hand, until it is returned to its policy (`move WHAT auto`). */
export interface Pin {
  /** `all`, or a selector: flows that begin later follow too. */
  readonly what: string
  readonly access: string
  /** When it is returned to its policy automatically, milliseconds since the Unix epoch. */
  readonly until?: number
}

/** Of a router: a class of traffic towards a peer, and the paths that its packets take. */
export interface ClassStatus {
  /** `CLASS.PEER`; `why` accepts it like a flow. */
  readonly id: string
  readonly name: string
  readonly peer: string
  readonly mechanism: string
  readonly scheduler: string
  /** Accesses in use and those that get copies, joined by `+`. */
  readonly access: string
}

/** A flow, a peer or everything moved from one path to another. */
export interface HandoverRecord {
  /** Milliseconds since the Unix epoch. */
  readonly at: number
  readonly subject: Subject
  /** The subject as text: flow id, selector, `all` … */
  readonly what: string
  readonly from: string
  readonly to: string
  readonly cause: string
  /** From the last packet on the old path to the first on the new one; null until known or when nothing flowed. */
  readonly gap_ms: number | null
  readonly lost_packets: number | null
}

/** A decision that put flows where they are: what `why` prints. */
export interface DecisionRecord {
  /** Milliseconds since the Unix epoch. */
  readonly at: number
  readonly mechanism: string
  readonly subject: Subject
  /** The subject as text: a flow id, `app:…`, an access, `all`. */
  readonly what: string
  /** The decision, e.g. `acc2`. */
  readonly chosen: string
  /** One sentence: why, in words that a user understands. */
  readonly reason: string
  /** The numbers and facts it was taken on. */
  readonly evidence?: Readonly<Record<string, string | number | boolean | null>>
}

/** Where a mechanism records events; provided by the daemon. Bounded: the oldest records are dropped. */
export interface Recorder {
  /** At the moment it happens. `key`: what is not known yet comes by a call of `measured` with the same key. */
  handover(record: Omit<HandoverRecord, 'what'>, key?: number): void
  /** Completes the record with that key; ignored when the record was dropped. */
  measured?(key: number, result: Pick<HandoverRecord, 'gap_ms' | 'lost_packets'>): void
  decision(record: Omit<DecisionRecord, 'what'>): void
  /** One line for the log. `debug` is off unless asked for. */
  log(level: LogLevel, message: string): void
}

export type LogLevel = 'error' | 'warn' | 'info' | 'debug'

/** A program that `godwit run` started, with a policy of its own. */
export interface Application {
  /** Chosen by the daemon, unique while it runs; the end of its cgroup's name (linux/cgroup.ts). */
  readonly id: string
  /** Absolute path of that directory; it and all children belong to the application. */
  readonly cgroup: string
  /** The cgroup's id, as sock_diag reports it. */
  readonly cgroupId: number
  /** Access to use, by name. Absent: the policy decides. */
  readonly access?: string
  /** Name of a policy of the configuration. Absent: the default one. */
  readonly policy?: string
  /** Past all mechanisms, as without godwit; with `access` over that access. */
  readonly direct?: boolean
}

export interface Move {
  /** Flows that moved. */
  readonly flows: number
  /** One line for the user, if needed. */
  readonly note?: string
}

/** Options of `Mechanism.moveOptions` by name; other mechanisms ignore them. */
export type MoveOptions = Readonly<Record<string, boolean>>

/** Moves that a flow survives, for choosing a mechanism. */
export type Survives =
  /** Another access of this host, with another address. */
  | 'access'
  /** Another address on the same access. */
  | 'address'
  /** A time without any access. */
  | 'outage'
  /** The other end moves too, at the same time. */
  | 'both'
  /** The daemon is killed and started again. */
  | 'restart'

/** What a mechanism can do for a flow that begins now. */
export interface Offer {
  readonly mechanism: string
  readonly carries: boolean
  /** Why, or why not, in a sentence. */
  readonly reason: string
  readonly cost: {
    /** Max bytes added to each packet on the wire. */
    readonly bytes: number
    /** Round trip (ms) of the way that the mechanism chooses, as measured; null: it chooses none, or none is measured. */
    readonly rtt_ms: number | null
  }
  readonly survives: readonly Survives[]
  /** What the other end must have; empty: nothing. */
  readonly needs: readonly string[]
}

/** One sample of /metrics. Name and help follow Prometheus: unit in the name, counters end in `_total`. */
export interface Metric {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge'
  readonly labels?: Readonly<Record<string, string>>
  readonly value: number
}

/** The user connected to the control socket, as reported by the kernel (SO_PEERCRED). */
export interface Caller {
  /** User id when it connected, in the daemon's user namespace; 0 is root. */
  readonly uid: number
}

/** A request of the control socket. `body` is what a POST brought, as its route's schema has checked it. */
export interface ControlRequest<Body = undefined> {
  readonly path: string
  readonly query: Readonly<Record<string, string>>
  readonly body: Body
  readonly caller: Caller
}

/** A validator for a body; a zod schema is one. */
export interface BodySchema<Body> {
  safeParse(
    body: unknown,
  ):
    | { readonly success: true; readonly data: Body }
    | { readonly success: false; readonly error: { readonly issues: readonly BodyIssue[] } }
}

export interface BodyIssue {
  readonly path: readonly PropertyKey[]
  readonly message: string
}

/** A route of the control socket that a mechanism adds: what the handler returns is sent as JSON. */
export type ControlRoute = GetRoute | PostRoute

export interface GetRoute {
  readonly method: 'GET'
  /** e.g. `/v1/dime/hosts`; no parameters in the path. */
  readonly path: string
  handle(request: ControlRequest): unknown | Promise<unknown>
}

/** Made by `postRoute`, so that no handler sees a body that its schema has not checked. */
export interface PostRoute {
  readonly method: 'POST'
  readonly path: string
  readonly body: BodySchema<unknown>
  handle(request: ControlRequest<unknown>): unknown | Promise<unknown>
}

export function postRoute<Body>(
  path: string,
  body: BodySchema<Body>,
  handle: (request: ControlRequest<Body>) => unknown | Promise<unknown>,
): PostRoute {
  return { method: 'POST', path, body, handle: (request) => handle(request as ControlRequest<Body>) }
}

export interface Mechanism {
  /** `anchoring`, `anchor`, `routing`, …: the value of `FlowStatus.mechanism`. */
  readonly name: string
  /**
   * Resolves once it runs and its kernel state exists. Takes over what a killed run left, so that flows continue. Rejects
   * after undoing what it had set up.
   */
  start(): Promise<void>
  /** Resolves, after `start`, once traffic can flow; rejects with `failure`. Absent: ready at once. */
  untilReady?(): Promise<void>
  /** Until then: what it waits for and what happens to traffic meanwhile, in a sentence for the user. */
  waiting?(): string
  /**
   * Resolves, with the reason, when the mechanism fails permanently: the daemon stops in order and ends with that error.
   */
  readonly failure?: Promise<GodwitError>
  /** Whether its worker still responds; the service manager restarts the daemon otherwise. Absent: it has none. */
  responds?(): Promise<boolean>
  /** Removes all kernel state. Never rejects for something that is already gone. Repeatable. */
  stop(): Promise<void>
  /** Removes what an earlier, killed run left in the kernel: `godwit down`. Never called while started. Repeatable. */
  cleanUp(): Promise<void>
  peers(): readonly PeerStatus[]
  /** Tries the way to each peer over each access now. Absent: it has none. */
  ping?(): Promise<readonly WayStatus[]>
  /** `watched`: bytes are counted from now on, for some seconds. */
  flows(watched?: boolean): readonly FlowStatus[] | Promise<readonly FlowStatus[]>
  /** How many there are besides, that the last `flows()` left out because lists are cut. Absent: none. */
  readonly flowsLeftOut?: number
  /** Traffic classes that it shows and explains beside flows. */
  classes?(): readonly ClassStatus[]
  /** What it can do for a flow with these properties; unknown properties are omitted. */
  offer(flow: FlowFacts): Offer
  /** Names of its options for `move`. */
  readonly moveOptions?: readonly string[]
  /** Why it hands nothing over itself, as an anchor that follows its hosts; absent: it does. */
  readonly follows?: { readonly reason: string; readonly hint: string }
  /** Returns moves by hand to the policy. Undefined: it has none for `what`. Absent: it keeps no moves by hand. */
  giveBack?(what: Selector): Promise<Move | undefined>
  /** Current moves by hand, except those of single flows. */
  pins?(): readonly Pin[]
  /** Hands over now. Undefined: nothing of `what` is mine. Rejects when the access does not exist or is down. */
  move(what: Selector, access: string, options?: MoveOptions): Promise<Move | undefined>
  /**
   * The flow's own state that the records do not hold (policy that matched, PAFT row, alternatives with quality);
   * undefined when the flow is not known here.
   */
  why(flowId: string): readonly DecisionRecord[] | undefined
  /** Puts a program under control; resolves before the program may start. Absent: cannot do it. */
  adopt?(application: Application): Promise<void>
  release?(application: Application): Promise<void>
  readonly routes?: readonly ControlRoute[]
  metrics?(): readonly Metric[]
}
