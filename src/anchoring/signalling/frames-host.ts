/** Signalling of a mobile host as mechanism frames of the tunnel: sent inside it, so authenticated and encrypted. */
import { TimerTable } from '../../core/timers.ts'
import type { PathConfig, TunnelCommands } from '../../tunnel/protocol/api.ts'
import { encodeFrames } from '../../tunnel/protocol/control.ts'
import type { FlowTuple } from '../tables/flow-key.ts'
import { decode, encode, FrameType, MOST_FLOWS, type Signal, Status, statusText } from '../wire.ts'
import type { Signalling, SignallingEvents } from './api.ts'

const RETRY_MS = [500, 1000, 2000]
const MOST_TRIES = 6
/** A refused host asks again after this long. */
const REFUSED_RETRY_MS = 30_000

/** Requests that go together, until all are answered. */
interface Pending {
  signals: readonly Signal[]
  readonly slot: number
  tries: number
}

/** Requests of one anchor by topic (handovers: by group); a new one replaces the one before. */
type Topic = 'associate' | `handover/${number | 'all'}` | 'mode'

/** Parts of a request under way at once. */
const MOST_PARTS = 64

export class FrameSignalling implements Signalling {
  readonly #tunnel: TunnelCommands
  readonly #events: SignallingEvents
  readonly #pending = new Map<string, Pending>()
  readonly #timers = new TimerTable<string>()
  /** Of each anchor: the tally requested last. */
  readonly #tallies = new Map<number, { readonly transaction: number; readonly sent: number }>()
  #transaction = 0

  constructor(tunnel: TunnelCommands, events: SignallingEvents) {
    this.#tunnel = tunnel
    this.#events = events
  }

  nextTimeout(): number | undefined {
    return this.#timers.next()
  }

  handleTimeout(now: number): void {
    for (let key = this.#timers.expire(now); key !== undefined; key = this.#timers.expire(now)) {
      const [topic, anchor] = key.split(':')
      if (this.#pending.has(key)) this.#transmit(topic as Topic, Number(anchor), now)
      else if (topic === 'associate') this.associate(Number(anchor), now)
    }
  }

  associate(anchor: number, now: number): void {
    const transaction = ++this.#transaction
    this.#ask('associate', anchor, [{ type: FrameType.ASSOCIATION_REQUEST, transaction }], -1, now)
  }

  /**
   * PATH_ANNOUNCE is the set-up request; PATH_ACCEPT is the response that reports the host's address and port as the
   * anchor sees them.
   */
  setUpTunnel(anchor: number, tunnel: PathConfig, now: number): number {
    return this.#tunnel.addPath(anchor, tunnel, now)
  }

  handOver(
    anchor: number,
    tunnel: { readonly slot: number; readonly unTid: number },
    group: number | 'all',
    flows: readonly FlowTuple[],
    now: number,
  ): void {
    const topic: Topic = `handover/${group}`
    // Flows of the group that the anchor may have missed are repeated in the next request.
    const unheard = (this.#pending.get(`${topic}:${anchor}`)?.signals ?? []).flatMap((signal) =>
      signal.type === FrameType.HANDOVER_REQUEST ? signal.flows : [],
    )
    const signals = inParts([...unheard, ...flows]).map((part) => ({
      type: FrameType.HANDOVER_REQUEST,
      transaction: ++this.#transaction,
      unTid: tunnel.unTid,
      group,
      flows: part,
    }))
    this.#ask(topic, anchor, signals, tunnel.slot, now)
  }

  setMode(anchor: number, isStatic: boolean, flows: readonly FlowTuple[], now: number): void {
    const signals = inParts(flows).map((part) => ({
      type: FrameType.SET_MODE_REQUEST,
      transaction: ++this.#transaction,
      static: isStatic,
      flows: part,
    }))
    this.#ask('mode', anchor, signals, -1, now)
  }

  tally(anchor: number, slot: number, sent: number, now: number): void {
    const transaction = ++this.#transaction
    this.#tallies.set(anchor, { transaction, sent })
    this.#send(anchor, { type: FrameType.TALLY_REQUEST, transaction }, slot, now)
  }

  handleFrame(anchor: number, code: number, body: Uint8Array, now: number): void {
    const signal = decode(code, body)
    if (!signal.ok) return
    const { value } = signal
    switch (value.type) {
      case FrameType.ASSOCIATION_RESPONSE: {
        this.#answered('associate', anchor, value.transaction, now)
        if (value.status === Status.OK)
          this.#events.associated(anchor, addressOf(value.v4), addressOf(value.v6), now)
        else {
          this.#timers.set(`associate:${anchor}`, now + REFUSED_RETRY_MS)
          this.#events.refused(anchor, statusText(value.status), now)
        }
        break
      }
      case FrameType.HANDOVER_RESPONSE:
        // Repeated while the anchor does not know the tunnel yet.
        if (value.status !== Status.UNKNOWN) this.#handedOver(anchor, value.transaction, now)
        break
      case FrameType.SET_MODE_RESPONSE:
        this.#answered('mode', anchor, value.transaction, now)
        break
      case FrameType.TALLY_RESPONSE: {
        const asked = this.#tallies.get(anchor)
        if (asked?.transaction !== value.transaction) break
        this.#tallies.delete(anchor)
        this.#events.tallied(anchor, asked.sent, { sent: value.sent, received: value.received }, now)
        break
      }
      default:
        break
    }
  }

  #ask(topic: Topic, anchor: number, signals: readonly Signal[], slot: number, now: number): void {
    this.#pending.set(`${topic}:${anchor}`, { signals, slot, tries: 0 })
    this.#transmit(topic, anchor, now)
  }

  #transmit(topic: Topic, anchor: number, now: number): void {
    const key = `${topic}:${anchor}`
    const pending = this.#pending.get(key)
    if (pending === undefined) return
    for (const signal of pending.signals.slice(0, MOST_PARTS)) this.#send(anchor, signal, pending.slot, now)
    pending.tries++
    // Without VIpA nothing works: that is asked for as long as there is an anchor.
    if (pending.tries >= MOST_TRIES && topic !== 'associate') this.#pending.delete(key)
    else this.#timers.set(key, now + RETRY_MS[Math.min(pending.tries - 1, RETRY_MS.length - 1)]!)
  }

  #handedOver(anchor: number, transaction: number, now: number): void {
    for (const [key, { signals }] of this.#pending) {
      if (!key.startsWith('handover/') || !key.endsWith(`:${anchor}`)) continue
      if (!signals.some((signal) => signal.transaction === transaction)) continue
      this.#answered(key.slice(0, key.indexOf(':')) as Topic, anchor, transaction, now)
      return
    }
  }

  #answered(topic: Topic, anchor: number, transaction: number, now: number): void {
    const key = `${topic}:${anchor}`
    const pending = this.#pending.get(key)
    if (pending === undefined) return
    // One more of those that wait may go.
    const at = pending.signals.findIndex((signal) => signal.transaction === transaction)
    const next = pending.signals[MOST_PARTS]
    if (at >= 0 && at < MOST_PARTS && next !== undefined) {
      this.#send(anchor, next, pending.slot, now)
      pending.tries = 1
    }
    pending.signals = pending.signals.filter((signal) => signal.transaction !== transaction)
    if (pending.signals.length > 0) return
    this.#pending.delete(key)
    this.#timers.clear(key)
  }

  /** On the tunnel named, or on any that works. */
  #send(anchor: number, signal: Signal, slot: number, now: number): void {
    const body = encodeFrames([{ type: 'mechanism', code: signal.type, body: encode(signal) }])
    if (!this.#tunnel.sendFrames(anchor, body, slot, now) && slot >= 0)
      this.#tunnel.sendFrames(anchor, body, -1, now)
  }
}

/** At least one part; an empty one means all flows. */
function inParts(flows: readonly FlowTuple[]): (readonly FlowTuple[])[] {
  const parts: (readonly FlowTuple[])[] = [flows.slice(0, MOST_FLOWS)]
  for (let at = MOST_FLOWS; at < flows.length; at += MOST_FLOWS) parts.push(flows.slice(at, at + MOST_FLOWS))
  return parts
}

/** Zeros: none of that family. */
function addressOf(bytes: Uint8Array): Uint8Array | undefined {
  return bytes.some((byte) => byte !== 0) ? bytes : undefined
}
