/**
 * Records of handovers, written at once and completed later with measurements: the gap, and lost packets.
 *
 * The gap comes from the forwarder: from the last packet on the old path to the first on the new one. Losses come from
 * tallies: while traffic flows, host and anchor compare once a second what one has sent with what the other has received.
 * What is missing after a handover beyond what was missing before it, in both directions, counts as lost; this includes
 * packets dropped by a full queue on the way meanwhile. Null means unknown.
 */
import { TimerTable } from '../../core/timers.ts'
import type { HostForwarder } from '../forwarders/host.ts'
import type { HostEvent } from '../protocol.ts'
import type { Signalling, Tally } from '../signalling/api.ts'

/** How long after a handover its first packet is waited for. */
const WATCH_MS = 10_000
/** How often that is looked at. */
const LOOK_MS = 100
/** After the first packet: for what is sent again to arrive. */
const SETTLE_MS = 500
/** How long an answer to the question about losses is waited for. */
const ANSWER_MS = 2000
const TALLY_MS = 1000
/** A comparison older than this is not used as the state before a handover. */
const TALLY_OLD_MS = 3000

type Handover = Pick<Extract<HostEvent, { type: 'handover' }>, 'at' | 'subject' | 'from' | 'to' | 'cause'>

interface Watched {
  readonly watch: object
  readonly key: number
  readonly anchor: number
  readonly slot: number
  /** Missing before it, both ways; undefined: unknown. */
  readonly missing: number | undefined
  readonly until: number
  gap: number | undefined
  /** When to ask what is missing now; then, until when to wait for the answer. */
  askAt: number
  asked: boolean
}

export interface HandoverRecordsParts {
  readonly forwarder: HostForwarder
  readonly signalling: Signalling
  /** What this end has counted towards an anchor. */
  readonly tally: (anchor: number) => Tally
  readonly emit: (event: HostEvent) => void
}

export class HandoverRecords {
  readonly #parts: HandoverRecordsParts
  readonly #timers = new TimerTable<'look' | 'tally'>()
  #watched: Watched[] = []
  #key = 0
  /** Anchors whose tallies are kept, with the last comparison. */
  readonly #known = new Map<number, { missing: number; at: number } | undefined>()

  constructor(parts: HandoverRecordsParts) {
    this.#parts = parts
  }

  nextTimeout(): number | undefined {
    return this.#timers.next()
  }

  handleTimeout(now: number): void {
    for (let timer = this.#timers.expire(now); timer !== undefined; timer = this.#timers.expire(now)) {
      if (timer === 'look') this.#look(now)
      else {
        for (const anchor of this.#known.keys()) this.#ask(anchor, -1, now)
        this.#timers.set('tally', now + TALLY_MS)
      }
    }
  }

  /** Starts asking this anchor for tallies, from zero: it is new, or has restarted. */
  begin(anchor: number): void {
    this.#known.set(anchor, undefined)
  }

  /** Whether data flows: without, nothing is asked. */
  setTraffic(flows: boolean, now: number): void {
    if (flows) this.#timers.set('tally', now)
    else this.#timers.clear('tally')
  }

  /** A handover to nowhere: packets wait. */
  waiting(event: Handover): void {
    this.#parts.emit({ type: 'handover', ...event })
  }

  /** A handover to the path at slot `to`; of the flow of `row`, or of all if it is -1. */
  watch(event: Handover, row: number, anchor: number, from: number, to: number, now: number): void {
    const known = this.#known.get(anchor)
    const key = ++this.#key
    this.#parts.emit({ type: 'handover', ...event, key })
    this.#watched.push({
      watch: this.#parts.forwarder.watch(row, anchor, from, to),
      key,
      anchor,
      slot: to,
      missing: known !== undefined && now - known.at <= TALLY_OLD_MS ? known.missing : undefined,
      until: now + WATCH_MS,
      gap: undefined,
      askAt: Number.POSITIVE_INFINITY,
      asked: false,
    })
    this.#timers.setEarlier('look', now + LOOK_MS)
  }

  /** The anchor has answered. */
  tallied(anchor: number, sent: number, far: Tally, now: number): void {
    if (!this.#known.has(anchor)) return
    const own = this.#parts.tally(anchor)
    const missing = ((sent - far.received) | 0) + ((far.sent - own.received) | 0)
    this.#known.set(anchor, { missing, at: now })
    for (const watched of [...this.#watched])
      if (watched.asked && watched.anchor === anchor)
        this.#finish(watched, watched.missing === undefined ? null : Math.max(0, missing - watched.missing))
  }

  #look(now: number): void {
    for (const watched of [...this.#watched]) {
      if (watched.gap === undefined) {
        watched.gap = this.#parts.forwarder.gap(watched.watch)
        // Once asked, the answer has its time.
        if (watched.gap !== undefined && !watched.asked) watched.askAt = now + SETTLE_MS
        else if (now >= watched.until && !watched.asked) watched.askAt = now
      }
      if (now < watched.askAt) continue
      if (watched.missing === undefined || watched.asked) this.#finish(watched, null)
      else {
        watched.asked = true
        watched.askAt = now + ANSWER_MS
        this.#ask(watched.anchor, watched.slot, now)
      }
    }
    if (this.#watched.length > 0) this.#timers.set('look', now + LOOK_MS)
  }

  #finish(watched: Watched, lost: number | null): void {
    this.#watched = this.#watched.filter((each) => each !== watched)
    this.#parts.forwarder.unwatch(watched.watch)
    this.#parts.emit({ type: 'handover-measured', key: watched.key, gapMs: watched.gap ?? null, lost })
  }

  #ask(anchor: number, slot: number, now: number): void {
    this.#parts.signalling.tally(anchor, slot, this.#parts.tally(anchor).sent, now)
  }
}
