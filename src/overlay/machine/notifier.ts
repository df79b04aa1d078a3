/**
 * Nodes that datagrams do not reach are woken through their notification server (NT-21, NT-22; Fig. 4 steps 10 and 11, Fig. 5
 * steps 9–11): the coordinator's part. Sans-I/O. A node that is connected there, or that a push service wakes, sends no
 * keep-alives; before a direction it is notified, answers from its present address, and is then directed.
 *
 * Only who may connect gets here; each asker has a share of each node's wake-ups, and each node a rate of its own.
 */
import { Buckets } from '../../core/buckets.ts'
import { equal } from '../../core/bytes.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { Status, Type } from '../wire/message.ts'
import type { Directory } from './directory.ts'

/** Where nodes connect. */
export interface NotificationAt {
  readonly host: string
  readonly port: number
  /** SHA-256 of its certificate, 32 bytes. */
  readonly certificate: Uint8Array
}

/** NOTIFICATION_PREPARE: the server may expect the node with this token. */
export interface NotificationPrepare {
  readonly type: 'notification-prepare'
  readonly id: number
  readonly name: string
  readonly token: Uint8Array
}

/** NOTIFICATION: brings the node this datagram; an empty one lets it register again. */
export interface Notification {
  readonly type: 'notification'
  readonly name: string
  readonly datagram: Uint8Array
  /** Where a push service reaches it, if it is not connected, and whose it is. */
  readonly push?: { readonly address: string; readonly account: string }
}

/** The node has not answered a notification: its connection is dead. Or it was removed, or has logged in anew: then without a token. */
export interface NotificationEnd {
  readonly type: 'notification-end'
  readonly name: string
  readonly token?: Uint8Array
}

export type NotifierOutput = NotificationPrepare | Notification | NotificationEnd

export interface NotifierParts {
  /** Now; undefined: there is no notification server, or none is there. */
  readonly at: () => NotificationAt | undefined
  readonly token: () => Uint8Array
  readonly number: () => number
  readonly emit: (output: NotifierOutput) => void
  /** NOTIFICATION, sealed for the node; undefined: it has no session. */
  readonly seal: (name: string) => Uint8Array | undefined
  /** Where a push service reaches the node, over restarts. */
  readonly directory: Pick<Directory, 'nodeByName' | 'pushOf' | 'setPush' | 'isNotified' | 'setNotified'>
  /** To the notification server, or its answer; for the trace. */
  readonly step: (type: Type, isAnswer: boolean, now: number) => void
}

/** The token, once the server knows it. */
export type Granted = (token: Uint8Array | undefined, now: number) => void
export type Woken = (reached: boolean, now: number) => void

/** What a registration waits for the server (ms). */
const PREPARE_MS = 1000
/** A woken node has to answer within this time (ms); who asks waits 10 s in all. */
const WAKE_MS = 6000
/** Wake-ups a second of a node by one asker, and at once; and by all askers. */
const PAIR_RATE = 1 / 30
const PAIR_BURST = 8
const NODE_RATE = 1 / 5
const NODE_BURST = 30
const MAX_PAIRS = 50_000
const MAX_ENTRIES = 200_000
/** Askers that wait for one node; of one account, or of another zone. */
const MAX_WAITING = 128
const MAX_WAITING_OF = 16
const MAX_PREPARING = 4096
const NEVER = Number.POSITIVE_INFINITY

interface Entry {
  readonly token: Uint8Array
  push: string | undefined
  readonly wakes: TokenBucket
  connected: boolean
  /** Its server has had it before this coordinator was there, and takes it for another's until that is said. */
  isFound: boolean
}

interface Preparing {
  readonly name: string
  readonly entry: Entry
  readonly until: number
  readonly done: Granted
}

interface Wake {
  readonly until: number
  readonly waiting: Waiting[]
}

interface Waiting {
  /** Account, or the coordinator of another zone. */
  readonly source: string
  readonly done: Woken
}

export class Notifier {
  readonly #parts: NotifierParts
  readonly #entries = new Map<string, Entry>()
  readonly #preparing = new Map<number, Preparing>()
  /** Nodes that were notified and have not answered, the oldest first. */
  readonly #wakes = new Map<string, Wake>()
  /** By `asker node`. */
  readonly #pairs = new Buckets(PAIR_RATE, PAIR_BURST, MAX_PAIRS)
  #count = 0

  constructor(parts: NotifierParts) {
    this.#parts = parts
  }

  /** Nodes that can be woken, and notifications since the start. */
  get counts(): { readonly notified: number; readonly notifications: number } {
    return { notified: this.#entries.size, notifications: this.#count }
  }

  /** Fig. 4 step 10. One that is connected keeps its token; `done` comes at once if there is no server. */
  prepare(name: string, push: string | undefined, done: Granted, now: number): void {
    const known = this.#entryOf(name)
    const before = known === undefined ? this.#parts.directory.pushOf(name) : known.push
    // Each change is written to the disk: a node has a share of them as of wake-ups, and keeps the address of before where it has used that up.
    if (before !== push && this.#pairs.take(` ${name}`, now)) this.#parts.directory.setPush(name, push)
    else push = before
    if (known?.connected === true && !known.isFound) {
      known.push = push
      done(known.token, now)
      return
    }
    const isFull = known === undefined && this.#entries.size >= MAX_ENTRIES
    if (this.#parts.at() === undefined || isFull || this.#preparing.size >= MAX_PREPARING) {
      done(undefined, now)
      return
    }
    const isStanding = known?.connected === true
    const token = isStanding ? known.token : this.#parts.token()
    const wakes = known?.wakes ?? new TokenBucket(NODE_RATE, NODE_BURST)
    const entry = { token, push, wakes, connected: isStanding, isFound: false }
    const id = this.#parts.number()
    this.#preparing.set(id, { name, entry, until: now + PREPARE_MS, done })
    this.#parts.step(Type.NOTIFICATION_PREPARE, false, now)
    this.#parts.emit({ type: 'notification-prepare', id, name, token })
  }

  /** Fig. 4 step 11. */
  prepared(id: number, isReady: boolean, now: number): void {
    const preparing = this.#preparing.get(id)
    if (preparing === undefined) return
    this.#preparing.delete(id)
    this.#parts.step(Type.NOTIFICATION_PREPARE_ACK, true, now)
    const { name, entry, done } = preparing
    if (isReady) {
      // It may have ended meanwhile.
      const before = this.#entries.get(name)
      if (before !== undefined && equal(before.token, entry.token)) entry.connected = before.connected
      this.#entries.set(name, entry)
      if (!this.#parts.directory.isNotified(name)) this.#parts.directory.setNotified(name)
    }
    done(isReady ? entry.token : undefined, now)
  }

  connected(name: string, token: Uint8Array, isConnected: boolean): void {
    const entry = this.#entries.get(name)
    if (entry !== undefined && equal(entry.token, token)) entry.connected = isConnected
  }

  /**
   * The server had this node before the coordinator was started: it can be woken, and registers then. Of a node that never was
   * given a token for it, its word counts for nothing.
   */
  found(name: string, token: Uint8Array): void {
    if (this.#entries.has(name)) this.connected(name, token, true)
    if (this.#entries.has(name) || this.#entries.size >= MAX_ENTRIES) return
    if (this.#parts.directory.nodeByName(name) === undefined || !this.#parts.directory.isNotified(name))
      return
    const push = this.#parts.directory.pushOf(name)
    const wakes = new TokenBucket(NODE_RATE, NODE_BURST)
    this.#entries.set(name, { token, push, wakes, connected: true, isFound: true })
  }

  /** The server was started anew: no connection to it stands. */
  allEnded(): void {
    for (const entry of this.#entries.values()) entry.connected = false
  }

  isConnected(name: string): boolean {
    return this.#parts.at() !== undefined && this.#entries.get(name)?.connected === true
  }

  canWake(name: string): boolean {
    const entry = this.#entryOf(name)
    return (
      this.#parts.at() !== undefined && entry !== undefined && (entry.connected || entry.push !== undefined)
    )
  }

  /** Fig. 5 step 9. `done` comes when the node has shown where it is, or has not within six seconds. */
  wake(name: string, by: string, done: Woken, now: number): Status {
    const entry = this.#entries.get(name)
    if (entry === undefined || !this.canWake(name)) return Status.NOT_REGISTERED
    const source = this.#parts.directory.nodeByName(by)?.account ?? by
    const under = this.#wakes.get(name)
    if (under !== undefined) {
      return joins(under.waiting, { source, done }, now) ? Status.DONE : Status.TOO_MANY
    }
    if (!this.#pairs.take(`${by} ${name}`, now) || !entry.wakes.take(now)) return Status.TOO_MANY
    this.#wakes.set(name, { until: now + WAKE_MS, waiting: [{ source, done }] })
    this.#count++
    this.#parts.step(Type.NOTIFICATION, false, now)
    const datagram = this.#parts.seal(name) ?? new Uint8Array(0)
    const account = this.#parts.directory.nodeByName(name)?.account
    const push =
      entry.push === undefined || account === undefined ? {} : { push: { address: entry.push, account } }
    this.#parts.emit({ type: 'notification', name, datagram, ...push })
    return Status.DONE
  }

  /** Fig. 5 step 11: the node has shown where it is. */
  heard(name: string, now: number): void {
    this.#end(name, true, now)
  }

  /** Its location has expired: if at all, its push service wakes it. */
  expired(name: string): void {
    if (this.#entries.get(name)?.connected === false) this.#entries.delete(name)
  }

  /** The push service does not know the node any more. */
  pushGone(name: string, address: string): void {
    const entry = this.#entryOf(name)
    if (entry?.push !== address) return
    entry.push = undefined
    this.#parts.directory.setPush(name, undefined)
  }

  /** Also what is no longer known here: the token of an earlier login is good for nothing. */
  forget(name: string): void {
    this.#entries.delete(name)
    if (this.#parts.at() !== undefined) this.#parts.emit({ type: 'notification-end', name })
  }

  /** Another coordinator has it: what it has at the notification server is that one's. */
  left(name: string): void {
    this.#entries.delete(name)
  }

  nextTimeout(): number {
    const [oldest] = this.#wakes.values()
    const [preparing] = this.#preparing.values()
    return Math.min(oldest?.until ?? NEVER, preparing?.until ?? NEVER)
  }

  handleTimeout(now: number): void {
    for (const [id, { until }] of this.#preparing) {
      if (until > now) break
      this.prepared(id, false, now)
    }
    for (const [name, { until }] of this.#wakes) {
      if (until > now) break
      const entry = this.#entries.get(name)
      if (entry?.connected === true) {
        entry.connected = false
        this.#parts.emit({ type: 'notification-end', name, token: entry.token })
      }
      this.#end(name, false, now)
    }
  }

  /** One that was not seen since the coordinator started is known by its push service. */
  #entryOf(name: string): Entry | undefined {
    const known = this.#entries.get(name)
    if (known !== undefined || this.#parts.at() === undefined || this.#entries.size >= MAX_ENTRIES)
      return known
    const push = this.#parts.directory.pushOf(name)
    if (push === undefined) return undefined
    const wakes = new TokenBucket(NODE_RATE, NODE_BURST)
    const entry = { token: this.#parts.token(), push, wakes, connected: false, isFound: false }
    this.#entries.set(name, entry)
    return entry
  }

  #end(name: string, reached: boolean, now: number): void {
    const wake = this.#wakes.get(name)
    if (wake === undefined) return
    this.#wakes.delete(name)
    for (const { done } of wake.waiting) done(reached, now)
  }
}

/** Where there is no room left, whoever has most places gives one up to one who has fewer. False: it has its share. */
function joins(waiting: Waiting[], one: Waiting, now: number): boolean {
  const counts = new Map<string, number>()
  for (const { source } of waiting) counts.set(source, (counts.get(source) ?? 0) + 1)
  const own = counts.get(one.source) ?? 0
  if (own >= MAX_WAITING_OF) return false
  if (waiting.length >= MAX_WAITING) {
    const [most, count] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))
    if (count <= own + 1) return false
    const at = waiting.findLastIndex(({ source }) => source === most)
    const [displaced] = waiting.splice(at, 1)
    displaced?.done(false, now)
  }
  waiting.push(one)
  return true
}
