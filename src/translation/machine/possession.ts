/**
 * Which connections of a host are its own (E-6; docs/adr/0047). An address is no proof of that: programs without rights
 * send from it too, and behind a NAT so do neighbours. So a row takes over a flow, that is, may have it translated, only
 *
 *  - if configuration or a directory binds the key of the row to the flow's address; or
 *  - TCP: if the host has shown that it is an end of this very connection, by a tag that only who knows where both
 *    streams begin in the space of sequence numbers can make. The kernel tells that to no program without rights, and on the
 *    network nobody knows it who does not see the connection's packets; or
 *  - UDP, which has nothing of the kind, and TCP where the kernel does not tell: if the host was greeted from a privileged
 *    port, which its kernel gives to nobody without rights.
 *
 * FLOWS carries the tags of one end, its acknowledgement those of the other, and the third message says that they are
 * good: packets are taken in from the second message on and sent from the third (as for pairs, in before out).
 */
import { concat, equalConstantTime } from '../../core/bytes.ts'
import { bytesOf, flowId, type Ip, ipOf, type Pair, type SocketRow } from '../tables.ts'
import { Control, type FlowTag, type IhmpMessage, MOST_FLOW_TAGS } from '../wire.ts'
import type { Host } from './host.ts'
import type { Messages } from './messages.ts'
import type { Paths } from './paths.ts'
import { connectionId, type IhmpState } from './state.ts'
import type { StreamStart } from './types.ts'

// Our choices.
/** Flows that appear together are proven together. */
const GATHER_MS = 20
/** The end with the higher port, which opened the connection as a rule, begins; the other only after this. */
const PASSIVE_MS = 3_000
/** What was not acknowledged as proven is tried again after this, doubled each time. */
const AGAIN_MS = 1_000
const AGAIN_MOST_MS = 60_000
const MOST_TRIES = 8
/** Messages that wait for their acknowledgement, per host; and batches whose third message is awaited. */
const MOST_MESSAGES = 4
const MOST_BATCHES = 16

const LABEL = Uint8Array.from('godwit IHMP flow', (c) => c.charCodeAt(0))
const TAG_LENGTH = 8

export class Possession {
  readonly #state: IhmpState
  readonly #messages: Messages
  readonly #paths: Paths

  constructor(state: IhmpState, messages: Messages, paths: Paths) {
    this.#state = state
    this.#messages = messages
    this.#paths = paths
  }

  /** A flow of the socket table is new, or has been answered. */
  handleSocket(flow: SocketRow, now: number): void {
    const host = this.#state.hosts.get(flow.hid)
    if (host === undefined || flow.taken === 'both') return
    if (
      this.#state.restoredFlows.has(connectionId(flow)) ||
      (host.state === 'peer' && this.#needsNoProof(host, flow))
    ) {
      this.#take(host, flow, 'both')
      return
    }
    if (flow.protocol !== 6 || flow.opening === true || host.unproven.has(flow)) return
    const nextAt = now + (begins(flow) ? GATHER_MS : PASSIVE_MS)
    host.unproven.set(flow, { since: now, tries: 0, nextAt })
    host.proveAt = Math.min(host.proveAt, nextAt)
  }

  /** The host has become a peer, or has another key. */
  established(host: Host, now: number): void {
    for (const flow of this.#state.components.tables.flows(host.row.hid)) this.handleSocket(flow, now)
    // Those that were due while it was no peer yet.
    this.wake(host, now)
  }

  /** The host has answered: what could not be asked before can be now. */
  wake(host: Host, now: number): void {
    if (host.unproven.size > 0) host.proveAt = Math.min(host.proveAt, now + GATHER_MS)
  }

  /** What was asked over a way that is gone is asked anew. */
  again(host: Host, now: number): void {
    for (const state of host.unproven.values())
      if (state.tries > 0) state.nextAt = Math.min(state.nextAt, now)
    this.wake(host, now)
  }

  #needsNoProof(host: Host, flow: SocketRow): boolean {
    const { keys, streams } = this.#state.components
    if (keys.known(flow.foreign, host.row.key) !== undefined)
      return this.#state.mayBeAt(flow.foreign, host.row.key)
    return host.privileged && (flow.protocol !== 6 || streams === undefined)
  }

  #take(host: Host, flow: SocketRow, how: 'in' | 'both'): void {
    if (flow.taken === 'both' || flow.taken === how) return
    flow.taken = how
    if (how === 'both') host.unproven.delete(flow)
    this.#state.changed(host)
  }

  // ---------------------------------------------------------------------------------------------------- own

  handleTimeout(now: number): void {
    for (const host of this.#state.hosts.values()) if (host.proveAt <= now) this.#prove(host, now)
  }

  nextTimeout(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { proveAt } of this.#state.hosts.values()) next = Math.min(next, proveAt)
    return next
  }

  /** Sends the tags of what is due, as many as may wait at once. */
  #prove(host: Host, now: number): void {
    host.proveAt = Number.POSITIVE_INFINITY
    const pair = host.state === 'peer' ? this.#paths.any(host) : undefined
    if (pair === undefined) return // `wake` comes
    const { sockets } = this.#state.components.tables
    const due = new Map<string, SocketRow[]>()
    for (const [flow, state] of host.unproven) {
      if (sockets.get(flow.id) !== flow || flow.hid !== host.row.hid || state.tries >= MOST_TRIES)
        host.unproven.delete(flow)
      else if (state.nextAt > now + GATHER_MS) host.proveAt = Math.min(host.proveAt, state.nextAt)
      else {
        const key = `${flow.local} ${flow.foreign}`
        const flows = due.get(key)
        if (flows === undefined) due.set(key, [flow])
        else flows.push(flow)
      }
    }
    let waiting = 0
    for (const { message } of host.requests) if (message.control === Control.FLOWS) waiting++
    for (const flows of due.values())
      for (let i = 0; i < flows.length; i += MOST_FLOW_TAGS)
        if (waiting++ < MOST_MESSAGES) this.#send(host, flows.slice(i, i + MOST_FLOW_TAGS), pair, now)
  }

  #send(host: Host, flows: readonly SocketRow[], pair: Pair, now: number): void {
    for (const flow of flows) {
      const state = host.unproven.get(flow)!
      state.nextAt = now + Math.min(AGAIN_MS * 2 ** state.tries++, AGAIN_MOST_MS)
      host.proveAt = Math.min(host.proveAt, state.nextAt)
    }
    const tags = this.#tags(host, flows)
    if (tags.length === 0) return
    const { local, foreign } = flows[0]!
    const body = {
      control: Control.FLOWS,
      flowPair: { own: bytesOf(local), other: bytesOf(foreign) },
      flowTags: tags,
    }
    this.#messages.request(host, pair, body, now, {
      acknowledged: (ack, at) => {
        for (const flow of this.#verified(host, ack, flows[0]!)) this.#take(host, flow, 'both')
        host.proveAt = Math.min(host.proveAt, at + GATHER_MS)
      },
      failed: (at) => this.wake(host, at),
    })
  }

  #tags(host: Host, flows: readonly SocketRow[]): FlowTag[] {
    const starts = this.#state.components.streams?.(flows) ?? []
    return flows.flatMap((flow, i) => {
      const start = starts[i]
      if (start === undefined) return []
      const { localPort: ownPort, foreignPort: otherPort } = flow
      const tag = this.#tag(start, host.ownKey?.publicKey, host.row.key, ownPort, otherPort)
      return [{ ownPort, otherPort, tag }]
    })
  }

  /** By whoever has this key, for whoever has the other: what is sent back to its maker is worth nothing. */
  #tag(
    { sent, received }: StreamStart,
    by: Uint8Array | undefined,
    to: Uint8Array | undefined,
    ownPort: number,
    otherPort: number,
  ): Uint8Array {
    const secret = new Uint8Array(8)
    const view = new DataView(secret.buffer)
    // Modulo 2^32, as streams are numbered.
    view.setUint32(0, sent)
    view.setUint32(4, received)
    const ports = new Uint8Array(4)
    new DataView(ports.buffer).setUint16(0, ownPort)
    new DataView(ports.buffer).setUint16(2, otherPort)
    const text = concat(LABEL, by ?? NONE, to ?? NONE, ports)
    return this.#state.components.crypto.mac(secret, text).slice(0, TAG_LENGTH)
  }

  // --------------------------------------------------------------------------------------------------- a peer's

  handle(host: Host, message: IhmpMessage, pair: Pair, port: number): void {
    const { flowPair } = message
    if (flowPair === undefined) return
    this.#state.components.lookAtSockets()
    const flows = this.#verified(host, message, { local: ipOf(flowPair.other), foreign: ipOf(flowPair.own) })
    for (const flow of flows) this.#take(host, flow, 'in')
    const challenge = this.#state.random(16)
    host.batches.set(textOf(challenge), flows)
    if (host.batches.size > MOST_BATCHES) host.batches.delete(host.batches.keys().next().value!)
    const tags = this.#tags(host, flows)
    this.#messages.acknowledge(host, message, pair, port, {
      ...(tags.length === 0
        ? {}
        : { flowTags: tags, flowPair: { own: flowPair.other, other: flowPair.own } }),
      challenge,
    })
  }

  /** The third message: the peer has these flows as proven as this host has. */
  handleResponse(host: Host, response: Uint8Array): void {
    const key = textOf(response)
    for (const flow of host.batches.get(key) ?? []) this.#take(host, flow, 'both')
    host.batches.delete(key)
  }

  /** The flows between these addresses whose tags in the message are true. */
  #verified(host: Host, { flowTags = [] }: IhmpMessage, between: { local: Ip; foreign: Ip }): SocketRow[] {
    const { sockets } = this.#state.components.tables
    const { local, foreign } = between
    const rows: SocketRow[] = []
    const tags: Uint8Array[] = []
    for (const { ownPort, otherPort, tag } of flowTags) {
      const flow = sockets.get(flowId(6, local, otherPort, foreign, ownPort))
      if (flow === undefined || this.#isAnothers(host, flow)) continue
      rows.push(flow)
      tags.push(tag)
    }
    const starts = rows.length === 0 ? [] : (this.#state.components.streams?.(rows) ?? [])
    return rows.filter((flow, i) => {
      const start = starts[i]
      if (start === undefined || !this.#isTrue(host, flow, start, tags[i]!)) return false
      if (flow.hid !== host.row.hid) this.#state.components.tables.assign(flow, host.row.hid)
      return true
    })
  }

  /** Another row has proven it, and its host still answers somewhere. */
  #isAnothers(host: Host, flow: SocketRow): boolean {
    if (flow.hid === host.row.hid || flow.taken === undefined) return false
    return (this.#state.hosts.get(flow.hid)?.confirmed.size ?? 0) > 0
  }

  /** The end that opened the connection sees what it has sent begin one earlier, with its SYN. */
  #isTrue(host: Host, flow: SocketRow, own: StreamStart, tag: Uint8Array): boolean {
    for (const [a, b] of [
      [-1, 0],
      [0, 1],
      [0, 0],
      [-1, 1],
    ] as const) {
      const start = { sent: own.received + a, received: own.sent + b }
      const expected = this.#tag(
        start,
        host.row.key,
        host.ownKey?.publicKey,
        flow.foreignPort,
        flow.localPort,
      )
      if (equalConstantTime(tag, expected)) return true
    }
    return false
  }
}

const NONE = new Uint8Array(0)

function begins({ localPort, foreignPort, local, foreign }: SocketRow): boolean {
  return localPort === foreignPort ? local > foreign : localPort > foreignPort
}

function textOf(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes)
}
