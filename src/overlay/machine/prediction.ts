/**
 * Port prediction (issue 13, part 4): a node behind a symmetric NAT that counts its ports, and a peer whose NAT lets in only
 * what it has sent to. This node's tunnel request to the peer has a mapping whose port nobody told it. The relay says at which
 * ports it saw datagrams that left right before and right after that request: the port is between them. The peer is told
 * the range over the relay, sealed with the pair's key, and sends one tunnel request to each (ADR 0310).
 *
 * A NAT that draws its ports leaves a range that is too large: nothing is sent then.
 */
import type { Endpoint } from '../../core/endpoint.ts'
import { sameEndpoint } from '../tables.ts'
import type { Seen } from '../wire/datagram.ts'
import { PAID_PORTS } from './checks.ts'

/** Ports that a peer is asked to try, at most: so many other mappings may be made at the same time, and one message pays for so many. */
export const MAX_PORTS = PAID_PORTS
/** Datagrams overtake each other: so many ports below and above count too. */
const MARGIN = 2
/** A direct way without prediction is there by then (ms after the requests). */
const GRACE_MS = 150
/** The range is told so often, after these pauses (ms), unless there is a direct way. */
const PAUSES = [250, 500]
const TRIES = PAUSES.length + 1
/** A mapping that nothing has come through is kept for so long at least (ms): then a request makes another. */
const MAPPING_MS = 40_000
/** A port of the relay is asked again after this (ms): until then it has the mapping that it had. */
const REUSE_MS = 180_000
/** A question to the relay is asked so often, with this pause (ms). */
const QUESTIONS = 3
const QUESTION_MS = 150
/** Ports of a relay that are asked, and how many are remembered of all. */
const PORTS_OF_RELAY = 255
const ASKED_MOST = 4096
const NEVER = Number.POSITIVE_INFINITY

/** A way to the relay: the socket that is bound there, and what it said. */
export interface RelayView {
  readonly socket: number
  readonly seen: Seen
  /** The relay's address, and its port that this node's channel is at. */
  readonly relay: string
  readonly port: number
}

/** When each port of a relay was asked from which socket, for all pairs of a node: its mapping is not a fresh one. */
export type AskedPorts = Map<string, number>

export interface PredictionParts {
  readonly asked: AskedPorts
  /** A random whole number below `limit`. */
  readonly draw: (limit: number) => number
  /** Asks the relay at this port of it where it sees the socket; the number comes back with the answer. */
  readonly ask: (port: number, number: number) => void
  /** Tells the peer that it reaches this node at one of these ports, from `place` of its own. */
  readonly tell: (place: Endpoint, first: number, last: number, now: number) => void
}

/** Where a datagram was seen that left before or after the request: the port, or the question that is to show it. */
interface Mark {
  port: number
  readonly at: number
  /** Of the relay. */
  readonly asks: number
  readonly number: number
  questions: number
}

interface Round {
  readonly socket: number
  readonly place: Endpoint
  readonly madeAt: number
  before: Mark | undefined
  after: Mark | undefined
  /** The request was there, or at least repeated, at this time. */
  askedAt: number
  tellAt: number
  told: number
}

export class Prediction {
  readonly #parts: PredictionParts
  #round: Round | undefined

  constructor(parts: PredictionParts) {
    this.#parts = parts
  }

  /** Tunnel requests are about to go to `place`. `view`: of the relay, if it is bound and sees another port than others do. */
  before(view: RelayView | undefined, socket: number, place: Endpoint, now: number): void {
    const known = this.#round
    const isSame = known !== undefined && known.socket === socket && sameEndpoint(known.place, place)
    if (isSame && now - known.askedAt < MAPPING_MS) {
      // The mapping is the one that it was.
      known.askedAt = now
      known.told = 0
      known.tellAt = now + GRACE_MS
      return
    }
    const before = view === undefined ? undefined : this.#question(view, now)
    this.#round = {
      ...{ socket, place, madeAt: now, askedAt: now, before, after: undefined },
      ...{ tellAt: now + GRACE_MS, told: 0 },
    }
  }

  /** They have gone. */
  after(view: RelayView | undefined, now: number): void {
    const round = this.#round
    if (round === undefined || view === undefined || round.madeAt !== now || round.before === undefined)
      return
    round.after = this.#question(view, now)
  }

  /**
   * The relay has bound the socket: RELAY_BIND left at `sentAt` and was seen at that port. `isSymmetric`: others see the socket at
   * another one.
   */
  bound(view: RelayView, sentAt: number, isSymmetric: boolean, now: number): void {
    const round = this.#round
    if (round === undefined || round.socket !== view.socket) return
    if (!isSymmetric) this.#round = undefined
    else if (round.before === undefined && round.madeAt === sentAt) {
      round.before = { port: view.seen.port, at: sentAt, asks: 0, number: -1, questions: QUESTIONS }
      round.after = this.#question(view, now)
    }
  }

  /** The relay's answer to a question. */
  seen(number: number, port: number): void {
    for (const mark of [this.#round?.before, this.#round?.after])
      if (mark?.number === number) mark.port = port
  }

  /** There is a direct way, or the socket is gone. */
  end(): void {
    this.#round = undefined
  }

  nextTimeout(): number {
    const round = this.#round
    if (round === undefined || round.told >= TRIES) return NEVER
    const questions = [round.before, round.after].map((mark) =>
      mark === undefined || mark.port > 0 || mark.questions >= QUESTIONS
        ? NEVER
        : mark.at + mark.questions * QUESTION_MS,
    )
    return Math.min(rangeOf(round) === undefined ? NEVER : round.tellAt, ...questions)
  }

  handleTimeout(now: number): void {
    const round = this.#round
    if (round === undefined) return
    for (const mark of [round.before, round.after])
      if (mark !== undefined && mark.port === 0 && mark.questions < QUESTIONS)
        if (mark.at + mark.questions * QUESTION_MS <= now) {
          mark.questions++
          this.#parts.ask(mark.asks, mark.number)
        }
    const range = rangeOf(round)
    if (range === undefined || round.tellAt > now || round.told >= TRIES) return
    round.tellAt = now + (PAUSES[round.told] ?? 0)
    round.told++
    this.#parts.tell(round.place, ...range, now)
  }

  #question({ socket, seen: { first, last }, relay, port: own }: RelayView, now: number): Mark | undefined {
    const { asked } = this.#parts
    for (const [key, at] of asked) if (now - at > REUSE_MS) asked.delete(key)
    const keyOf = (port: number) => `${socket} ${relay} ${port}`
    const free: number[] = []
    for (let port = first; port <= Math.min(last, first + PORTS_OF_RELAY); port++)
      if (port !== own && !asked.has(keyOf(port))) free.push(port)
    const asks = free[this.#parts.draw(Math.max(1, free.length))]
    if (asks === undefined || asked.size >= ASKED_MOST) return undefined
    asked.set(keyOf(asks), now)
    const number = 1 + this.#parts.draw(2 ** 32 - 1)
    this.#parts.ask(asks, number)
    return { port: 0, at: now, asks, number, questions: 1 }
  }
}

/** First and last port between both marks, with a margin; undefined: not known yet, or too far apart. */
function rangeOf({ before, after }: Round): readonly [number, number] | undefined {
  if (before === undefined || after === undefined || before.port === 0 || after.port === 0) return undefined
  const first = Math.max(1, Math.min(before.port, after.port) - MARGIN)
  const last = Math.min(65_535, Math.max(before.port, after.port) + MARGIN)
  return last - first < MAX_PORTS && before.port !== after.port ? [first, last] : undefined
}
