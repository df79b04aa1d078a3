/**
 * One path of a peer as the machine keeps it: its names, its state, what measures it and when it wants attention.
 */
import { TokenBucket } from '../../core/token-bucket.ts'
import type { Endpoint } from '../seam.ts'
import type { PathConfig, PathState, PathView } from './api.ts'
import { MOVES_BURST, MOVES_INTERVAL } from './constants.ts'
import type { Cookie } from './cookies.ts'
import { ANCHOR_TUNING, HOST_TUNING, type MonitorTuning, PathMonitor } from './monitor.ts'
import { MtuSearch } from './mtu.ts'

const NEVER = Number.POSITIVE_INFINITY

export interface PathInit {
  readonly slot: number
  readonly peer: number
  readonly pathId: number
  readonly generation: number
  readonly socket: number
  readonly remote: Endpoint
  /** This end opened it and announces it. */
  readonly local: boolean
  /** The interface's MTU, or what the peer announced. */
  readonly mtuLimit: number
  /** See MachineInit. */
  readonly measureInterval?: number | undefined
  /** See PathConfig. */
  readonly known?: PathConfig['known']
  readonly relayed?: boolean | undefined
  /** See Path. */
  readonly token: Uint8Array
}

export class Path {
  slot: number
  readonly peer: number
  readonly pathId: number
  readonly socket: number
  readonly local: boolean
  generation: number
  remote: Endpoint
  state: PathState = { name: 'new' }
  cookie: Cookie | undefined
  monitor: PathMonitor
  readonly mtu: MtuSearch
  mtuLimit: number
  mtuEnabled = false
  /** The last one that was reported. */
  publishedMtu: number

  /** What was known of it when it was opened; undefined since its PATH_ACCEPT, or since it has failed. */
  known: PathConfig['known']
  readonly relayed: boolean
  /** Announcement: when the next one is due, how many went unanswered. */
  announceAt = NEVER
  tries = 0
  announcedAt = 0
  lastAnnouncedAt = 0
  /** The owner waits for where the peer sees this end. */
  looks = false
  /** Monitor: when to assess; NEVER while it is not usable. */
  assessAt = NEVER
  /** Closing: latest time to release the slot. Remote and down: time to forget it. */
  forgetAt = NEVER
  /** errno of a failed send, 0 for none; dealt with at the next timeout. */
  error = 0
  #errorAt = NEVER
  /** Sends that the kernel refused one after the other, none of which left: since when, how many, datagrams sent before. */
  readonly refused = { since: Number.NaN, count: 0, sent: 0 }
  /** When to see whether it refuses the next one too. */
  tryAt = NEVER
  /** Towards a stock peer: see stock.ts. */
  readonly stock = {
    heardAt: 0,
    sentThen: 0,
    keepalives: 0,
    unansweredSince: Number.NaN,
    checks: 0,
    checkAt: 0,
  }
  /** When the peer last showed that it receives at the remote. */
  provenAt = Number.NEGATIVE_INFINITY
  /** On a path of this end: what the peer returns to show that, and whether it has since the path was opened. */
  token: Uint8Array
  answered = false
  /** Since when packets use it before its PATH_ACCEPT; NaN: they do not. */
  earlySince = Number.NaN
  /** Since when it has been asked for a fresh proof while data flows; NaN: it has not. */
  askedSince = Number.NaN
  /** Bytes received on it until it was given up. */
  receivedBefore = 0
  /** Changes of its remote that may still be tried. */
  readonly moves = new TokenBucket(1000 / MOVES_INTERVAL, MOVES_BURST)
  /** Time of the last `quality` event. */
  reportedAt = 0
  /** Counters above this are still to be sent again on another path; NaN when nothing is. */
  owedAfter = Number.NaN

  /** Highest counter that the other end had reported when the path became suspect. */
  doubtedAfter = -1

  constructor(init: PathInit, now: number) {
    this.slot = init.slot
    this.peer = init.peer
    this.pathId = init.pathId
    this.generation = init.generation
    this.socket = init.socket
    this.remote = init.remote
    this.local = init.local
    this.mtuLimit = init.mtuLimit
    this.known = init.known
    this.relayed = init.relayed === true
    this.token = init.token
    const tuning = init.local ? HOST_TUNING : ANCHOR_TUNING
    const { measureInterval } = init
    const own = measureInterval === undefined ? tuning : withMeasureInterval(tuning, measureInterval)
    this.monitor = new PathMonitor(own, now)
    this.mtu = new MtuSearch(init.mtuLimit, now)
    this.publishedMtu = this.mtu.current
  }

  get usable(): boolean {
    const { name } = this.state
    return name === 'up' || name === 'degrading' || name === 'suspect'
  }

  get nextAt(): number {
    let at = Math.min(this.announceAt, this.assessAt)
    if (this.error !== 0 && this.#errorAt < at) at = this.#errorAt
    if (this.forgetAt < at) at = this.forgetAt
    if (this.tryAt < at) at = this.tryAt
    if (this.mtuEnabled && this.usable && this.mtu.nextAt < at) at = this.mtu.nextAt
    return at
  }

  /** A send failed; looked at soon. */
  failed(errno: number, now: number): void {
    this.error = errno
    this.#errorAt = now
  }

  /** The peer has shown at this time that it receives at the remote. */
  proven(at: number): void {
    this.provenAt = at
    this.askedSince = Number.NaN
  }

  view(): PathView {
    return {
      peer: this.peer,
      slot: this.slot,
      pathId: this.pathId,
      generation: this.generation,
      socket: this.socket,
      remote: this.remote,
      state: this.state,
      rttMs: this.monitor.rttMs,
      rttVarMs: this.monitor.rttVarMs,
      loss: this.monitor.loss,
      mtu: this.mtu.current,
    }
  }
}

/** Measured more often than it would be: the pause between probes is no longer than that either. */
function withMeasureInterval(tuning: MonitorTuning, measureInterval: number): MonitorTuning {
  return { ...tuning, measureInterval, busyInterval: Math.min(tuning.busyInterval, measureInterval) }
}

export function sameEndpoint(a: Endpoint, b: Endpoint): boolean {
  return a.port === b.port && sameAddress(a, b)
}

/** Whatever their ports. */
export function sameAddress(a: Endpoint, b: Endpoint): boolean {
  if (a.address.length !== b.address.length) return false
  if ((a.scope ?? 0) !== (b.scope ?? 0)) return false
  for (let i = 0; i < a.address.length; i++) if (a.address[i] !== b.address[i]) return false
  return true
}

/** A copy that outlives the call it came with. */
export function keepEndpoint(endpoint: Endpoint): Endpoint {
  return {
    address: endpoint.address.slice(),
    port: endpoint.port,
    ...(endpoint.scope === undefined ? {} : { scope: endpoint.scope }),
    ...(endpoint.local === undefined ? {} : { local: endpoint.local.slice() }),
  }
}
