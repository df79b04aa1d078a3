/**
 * ROUTE_DIRECTION to nodes of this coordinator (NT-19; Fig. 5 steps 13 to 16), repeated until each has acknowledged its own. A node that does not
 * is woken where it can be, and gets no further one before its address has answered again.
 */
import { fitting, MAX_MESSAGE, type Message, messageCodec, Status, Type } from '../wire/message.ts'
import type { AbroadParts } from './abroad.ts'
import type { Node } from './locations.ts'
import { addPrekeys, takeBack } from './prekeys.ts'

/** Repetitions: after 250 ms, doubling. */
const FIRST_PAUSE = 250
const TRIES = 6
const TRIES_BEFORE_WAKING = 2
/** Between two looks at what is under way (ms): a look is at all. */
export const LOOK_MS = 20
const NEVER = Number.POSITIVE_INFINITY

export interface DirectionsParts {
  readonly node: (name: string) => Node | undefined
  /** Transactions. */
  readonly number: () => number
  readonly send: (node: Node, message: Message, now: number) => void
  /** Through its notification server, if it is connected there; `by` asked. */
  readonly wake: (name: string, by: string, done: (now: number) => void, now: number) => void
  /** MN has its direction, or does not get it: it may ask again. */
  readonly end: (mn: string, cn: string) => void
}

/** A direction to one node. */
interface Directed {
  readonly to: string
  readonly by: string
  readonly message: Message
  readonly since: number
  /** Told when it is acknowledged, or given up. */
  readonly done: ((status: Status, now: number) => void) | undefined
  tries: number
  at: number
}

export class Directions {
  readonly #parts: DirectionsParts
  /** By transaction. */
  readonly #directed = new Map<number, Directed>()
  #dueAt = NEVER

  constructor(parts: DirectionsParts) {
    this.#parts = parts
  }

  get size(): number {
    return this.#directed.size
  }

  nextTimeout(): number {
    return this.#dueAt
  }

  /** Sends what is due. A direction that fails does not stop the others. */
  handleTimeout(now: number): void {
    if (this.#dueAt > now) return
    let isWhole = false
    this.#dueAt = NEVER
    try {
      for (const [transaction, directed] of this.#directed)
        if (directed.at <= now) this.#send(transaction, directed, now)
        else this.#dueBy(directed.at)
      isWhole = true
    } finally {
      this.#dueAt = Math.max(isWhole ? this.#dueAt : 0, now + LOOK_MS)
    }
  }

  /** To one of our nodes, about the peer. */
  readonly tell: AbroadParts['tell'] = (to, peer, direction, by, done, now) => {
    let transaction = this.#parts.number()
    while (this.#directed.has(transaction)) transaction = this.#parts.number()
    const { route, pairKey, relays, ...prekeys } = direction
    const { name, lease, candidates, zoneKey } = peer
    const message = fitting(
      {
        ...{ type: Type.ROUTE_DIRECTION, transaction, route, name, pairKey, lease, candidates, relays },
        ...(zoneKey !== undefined && { zoneKey }),
      },
      'last',
    )
    const whole = { ...message, ...prekeys }
    const directed: Directed = {
      ...{ to, by, done, since: now, tries: 0, at: now },
      message: messageCodec.byteLength(whole) <= MAX_MESSAGE ? whole : message,
    }
    this.#directed.set(transaction, directed)
    const asker = this.#parts.node(by)
    if (asker !== undefined) asker.asked++
    this.#send(transaction, directed, now)
  }

  /** ROUTE_DIRECTION_ACK of this node. */
  acknowledged(name: string, message: Message, now: number): void {
    const { transaction, status = Status.DONE } = message
    const directed = this.#directed.get(transaction)
    if (directed === undefined || directed.to !== name) return
    const node = this.#parts.node(name)
    if (node !== undefined) {
      if (status !== Status.DONE) takeBack(node, directed.message)
      else if (directed.message.prekeyIndex !== undefined) addPrekeys(node, message)
      node.acknowledgedAt = now
      if (directed.tries === 1) node.rtt = now - directed.since
    }
    this.#end(transaction, directed, Status.DONE, now)
  }

  #send(transaction: number, directed: Directed, now: number): void {
    const { to, by, message } = directed
    const node = this.#parts.node(to)
    if (node !== undefined && directed.tries >= TRIES)
      node.silent = Math.max(node.acknowledgedAt, node.provenAt) < directed.since
    if (node === undefined || node.silent || directed.tries >= TRIES) {
      if (node !== undefined) takeBack(node, message)
      this.#end(transaction, directed, Status.NOT_REGISTERED, now)
      return
    }
    // Its NAT has forgotten it sooner than we thought.
    if (directed.tries === TRIES_BEFORE_WAKING)
      this.#parts.wake(to, by, (at) => this.#sendSoon(directed, at), now)
    directed.at = now + FIRST_PAUSE * 2 ** directed.tries
    directed.tries++
    this.#dueBy(directed.at)
    this.#parts.send(node, message, now)
  }

  #sendSoon(directed: Directed, now: number): void {
    directed.at = now
    this.#dueBy(now)
  }

  #dueBy(at: number): void {
    this.#dueAt = Math.min(this.#dueAt, at)
  }

  #end(transaction: number, { to, by, message, done }: Directed, status: Status, now: number): void {
    this.#directed.delete(transaction)
    if (to === by) this.#parts.end(by, message.name!)
    const asker = this.#parts.node(by)
    if (asker !== undefined && asker.asked > 0) asker.asked--
    done?.(status, now)
  }
}
