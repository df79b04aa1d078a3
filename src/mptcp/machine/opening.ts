/**
 * How connections and subflows begin (RFC 8684 §3.1, §3.2, §3.7): SYNs of the local TCP and of peers, their answers, the third packet,
 * joins. What does not come to speak MPTCP is forgotten and stays plain TCP.
 */
import { equal, equalConstantTime } from '../../core/bytes.ts'
import { TcpFlag } from '../../core/tcp.ts'
import { type CapableOption, MPTCP_VERSION, type MptcpOption, ResetReason } from '../wire.ts'
import { type Connection, clampedMss, type Host } from './connection.ts'
import { acceptJoin, answerSyn, closeSubflow, handleJoinReply, resetSubflow } from './joins.ts'
import { keyOf } from './keys.ts'
import { ensureSubflows, loseSubflow, preferNormal, type Registry, switchTo } from './lifecycle.ts'
import type { Register } from './register.ts'
import type { Segment, SynOptions } from './segment.ts'
import type { Subflow } from './subflow.ts'
import type { Passage } from './types.ts'

const { ACK, FIN, RST, SYN } = TcpFlag
/** SYNs that carry the option; then the path is taken for one that drops it. */
const CAPABLE_SYNS = 2
/** Joins of strangers that wait for their third packet, per connection. */
const HALF_OPEN = 4
const SMALLEST_MTU = 1280
/** Silence (ms) after which a subflow may lose its place to a new one. */
const SILENT = 3000

/** What the machine does with a connection that begins. */
export interface Steps {
  forget(connection: Connection): void
  /** It stays plain TCP. */
  fallBack(connection: Connection): void
  settle(connection: Connection, now: number): void
  lose(connection: Connection, subflow: Subflow, cause: string, now: number): void
  /** What a segment beside its handshake carries. */
  forward(connection: Connection, subflow: Subflow, segment: Segment, now: number): void
}

export class Openings {
  readonly #host: Host
  readonly #register: Register
  readonly #registry: Registry
  readonly #steps: Steps

  constructor(host: Host, register: Register, registry: Registry, steps: Steps) {
    this.#host = host
    this.#register = register
    this.#registry = registry
    this.#steps = steps
  }

  // This host first.

  /** A plain SYN of the local TCP. */
  open(segment: Segment, now: number, passage: Passage | undefined): boolean {
    const { init } = this.#host
    // Of hosts behind this one those that leave by an access: there it has others to go by.
    if (passage !== undefined && (!init.forward || !leaves(passage))) return false
    if (segment.mptcp.length > 0 || segment.authenticated || segment.payloadLength > 0) return false
    if (init.ports !== undefined && !init.ports.includes(segment.tuple.remotePort)) return false
    const connection = this.#register.create('client', segment, now, passage)
    if (connection === undefined) return false
    connection.localSyn = synOptions(segment)
    const ours = this.sendSyn(connection, segment)
    this.#steps.settle(connection, now)
    return ours
  }

  /** The SYN of the local TCP, first or again. */
  sendSyn(connection: Connection, segment: Segment): boolean {
    if (connection.synsSent++ >= CAPABLE_SYNS) {
      this.#steps.fallBack(connection)
      return false
    }
    const options = this.#host.writer
      .syn(connection.localSyn)
      .mptcp({ ...CAPABLE })
      .finish()
    this.#emitSyn(connection, segment, 'wire', options)
    return true
  }

  #emitSyn(connection: Connection, segment: Segment, to: 'wire' | 'local', options: Uint8Array): void {
    this.#host.emit({
      to,
      tuple: connection.tuple,
      seq: segment.seq,
      ack: segment.ack,
      flags: segment.flags,
      window: segment.window,
      options,
      payload: undefined,
      access: to === 'wire' ? connection.first?.access : undefined,
      segmentSize: connection.segmentSize,
    })
  }

  /** The SYN/ACK of the first subflow, or of a join of ours. */
  handshake(connection: Connection, subflow: Subflow, segment: Segment, now: number): boolean {
    const answer = (segment.flags & ACK) !== 0
    if (subflow.id > 0) {
      if (subflow.state === 'syn-received' && !answer) {
        if (segment.seq === subflow.remoteIsn) answerSyn(connection, subflow, now)
      } else if (
        subflow.state === 'syn-sent' &&
        answer &&
        // Anybody can write one that answers no SYN of ours.
        subflow.offsetOfAck(segment.ack) === 1 &&
        !handleJoinReply(connection, subflow, segment, now)
      ) {
        this.#host.counts.joinsRefused++
        // Somebody else has the port now.
        if (connection.state === 'closing') connection.isHeard = true
        resetSubflow(connection, subflow, { type: 'reset', transient: false, reason: ResetReason.MPTCP })
        this.#steps.lose(connection, subflow, 'the answer to its SYN does not know the keys', now)
      }
      return true
    }
    if (!answer) {
      if (connection.state !== 'syn-received') return false
      if (segment.option('capable') === undefined) {
        this.#steps.fallBack(connection)
        return false
      }
      this.#passSyn(connection, segment)
      return true
    }
    if (connection.role !== 'client') return true
    // A challenge ACK or a SYN/ACK that came twice: the local TCP answers, and the peer hears that again.
    if (connection.state === 'established') {
      connection.ackOn(subflow)
      return true
    }
    // What answers another SYN, or comes after another answer, is forged or very old.
    if (subflow.offsetOfAck(segment.ack) !== 1) return true
    if (connection.remoteKey !== undefined && segment.seq !== connection.peerIsn) {
      connection.ackOn(subflow)
      return true
    }
    const capable = segment.option('capable')
    if (!usable(capable) || capable.key === undefined || capable.checksum) {
      // An older one that comes after another which the local TCP has answered already: data may be under way with mappings.
      if (connection.remoteKey !== undefined && connection.window > 0) {
        connection.ackOn(subflow)
        return true
      }
      this.#steps.fallBack(connection)
      return false
    }
    connection.remoteKey = keyOf(this.#host.sha, capable.key)
    connection.noJoin = capable.noJoin
    connection.peerIsn = segment.seq
    connection.remoteSyn = synOptions(segment)
    connection.remoteWindow = segment.window
    connection.state = 'pre-established'
    this.#register.opened(connection)
    subflow.state = 'active'
    subflow.remoteIsn = segment.seq
    subflow.remoteScale = Math.max(0, segment.scale)
    subflow.sackPermitted = connection.localSyn.sackPermitted && segment.sackPermitted
    if (connection.synsSent === 1) subflow.sample(now - subflow.heardAt)
    subflow.hear(now)
    connection.active = subflow
    this.#emitSyn(connection, segment, 'local', this.#synForLocal(connection, segment))
    return true
  }

  /** What the local TCP is offered: no timestamps, since each subflow has a clock of its own, and room for a DSS. */
  #synForLocal(connection: Connection, segment: Segment, more: readonly MptcpOption[] = []): Uint8Array {
    const mtu = Math.min(1500, ...this.#host.accesses.map((each) => Math.max(each.mtu, SMALLEST_MTU)))
    const family = connection.tuple.remote.length === 4 ? 4 : 16
    connection.segmentSize = clampedMss(segment.mss, mtu, family)
    const { writer } = this.#host
    writer.syn({ ...synOptions(segment), mss: connection.segmentSize })
    for (const option of more) writer.mptcp(option)
    return writer.finish()
  }

  /** Both ends have shown that they speak MPTCP. */
  established(connection: Connection, now: number): void {
    connection.state = 'established'
    this.#register.opened(connection)
    this.#host.counts.established++
    this.#host.tell({ type: 'established', connection: connection.id })
    ensureSubflows(connection, this.#registry, now)
  }

  // The peer first.

  /** What belongs to no connection. */
  stranger(segment: Segment, access: string | undefined, now: number, passage: Passage | undefined): boolean {
    if ((segment.flags & (SYN | ACK | RST | FIN)) !== SYN) return false
    const join = segment.option('join')
    if (join !== undefined) return this.#join(segment, join, access, now, passage)
    // A host behind this one that speaks MPTCP itself.
    if (passage !== undefined && (!this.#host.init.forward || leaves(passage))) return false
    if (!this.#host.init.serve || segment.authenticated || segment.payloadLength > 0) return false
    if (!usable(segment.option('capable')) || segment.option('capable')?.checksum) return false
    const connection = this.#register.create('server', segment, now, passage)
    if (connection === undefined) return false
    connection.remoteSyn = synOptions(segment)
    connection.peerIsn = segment.seq
    const first = connection.first!
    first.state = 'syn-received'
    first.remoteIsn = segment.seq
    this.#passSyn(connection, segment)
    this.#steps.settle(connection, now)
    return true
  }

  /** A host behind this one may speak MPTCP itself, and shows it in its answer: the option stays for it. */
  #passSyn(connection: Connection, segment: Segment): void {
    const capable = segment.option('capable')
    const kept = connection.forwarded && capable !== undefined ? [capable] : []
    this.#emitSyn(connection, segment, 'local', this.#synForLocal(connection, segment, kept))
  }

  /** The SYN/ACK of this host. One that speaks MPTCP itself needs no proxy. */
  answer(connection: Connection, segment: Segment): boolean {
    if (segment.mptcp.length > 0 || segment.authenticated || connection.role !== 'server') {
      this.#steps.forget(connection)
      return false
    }
    connection.tcpIsn = segment.seq
    connection.localSyn = synOptions(segment)
    connection.window = segment.window
    const first = connection.first!
    first.localIsn = segment.seq
    first.sackPermitted = connection.remoteSyn.sackPermitted && segment.sackPermitted
    first.remoteScale = Math.max(0, connection.remoteSyn.scale)
    const options = this.#host.writer
      .syn(connection.localSyn)
      .mptcp({ ...CAPABLE, key: connection.localKey.bytes })
      .finish()
    this.#emitSyn(connection, segment, 'wire', options)
    return true
  }

  /** The third ACK, or the first data: both keys, or the peer has fallen back. */
  thirdAck(connection: Connection, subflow: Subflow, segment: Segment, now: number): boolean {
    // Not the answer to what this host sent: its TCP knows what to do.
    if (subflow.offsetOfAck(segment.ack) !== 1) return false
    const capable = segment.option('capable')
    if (!usable(capable) || capable.key === undefined || capable.peerKey === undefined) {
      // One that overtook the keys comes again; without any option the peer, or the path, speaks no MPTCP.
      if (capable === undefined && segment.mptcp.length > 0) return true
      this.#steps.fallBack(connection)
      return false
    }
    if (!equalConstantTime(capable.peerKey, connection.localKey.bytes)) {
      this.#host.counts.lies++
      this.#steps.fallBack(connection)
      return false
    }
    connection.remoteKey = keyOf(this.#host.sha, capable.key)
    connection.confirmed = true
    subflow.state = 'active'
    connection.active = subflow
    connection.remoteWindow = segment.window * 2 ** subflow.remoteScale
    this.established(connection, now)
    this.#steps.forward(connection, subflow, segment, now)
    // The listener waits for this acknowledgement, though it says nothing new.
    if (segment.payloadLength === 0) connection.toLocal(1)
    return true
  }

  #join(
    segment: Segment,
    join: Extract<MptcpOption, { type: 'join' }>,
    access: string | undefined,
    now: number,
    passage: Passage | undefined,
  ): boolean {
    // A token that is not ours may be the kernel's.
    const connection = this.#register.byToken(join.token)
    if (connection === undefined) return false
    if (connection.state === 'closed') {
      this.#refuse(connection, segment)
      return true
    }
    this.#makeRoom(connection, now)
    this.#makeRoomForJoin(connection, now)
    const living = connection.subflows.filter(({ state }) => state !== 'dead')
    const waiting = living.filter(({ state }) => state === 'syn-received').length
    if (
      // One that has only to hear that this end is done may have lost its way meanwhile.
      (connection.state !== 'established' && connection.state !== 'closing') ||
      segment.tuple.localPort !== connection.tuple.localPort ||
      connection.forwarded !== (passage !== undefined) ||
      (connection.forwarded && !equal(segment.tuple.local, connection.tuple.local)) ||
      living.length >= this.#host.init.subflows ||
      waiting >= HALF_OPEN
    ) {
      this.#host.counts.joinsRefused++
      return true
    }
    const subflow = acceptJoin(connection, segment, join, access, now)
    if (connection.forwarded) subflow.home = undefined
    connection.subflows.push(subflow)
    this.#registry.add(connection, subflow)
    this.#steps.settle(connection, now)
    return true
  }

  /** As a host that has no such connection: a peer that asks whether this end is done has its answer. */
  #refuse({ segmentSize }: Connection, { tuple, seq }: Segment): void {
    this.#host.counts.joinsRefused++
    this.#host.emit({
      to: 'wire',
      tuple,
      seq: 0,
      ack: (seq + 1) >>> 0,
      flags: RST | ACK,
      window: 0,
      options: this.#host.writer
        .mptcp({ type: 'reset', transient: false, reason: ResetReason.MPTCP })
        .finish(),
      payload: undefined,
      access: undefined,
      segmentSize,
    })
  }

  /** Where there is no room for a join, the subflow that was silent for the longest time makes it: its end may be long gone. */
  #makeRoom(connection: Connection, now: number): void {
    const living = connection.subflows.filter(({ state }) => state !== 'dead')
    if (living.length < this.#host.init.subflows) return
    const others = living.filter((each) => each !== connection.active)
    const oldest = others.reduce<Subflow | undefined>(
      (best, each) => (best === undefined || each.heardAt < best.heardAt ? each : best),
      undefined,
    )
    if (oldest !== undefined && now - oldest.heardAt > SILENT)
      loseSubflow(connection, oldest, 'another needs its place', 'ended', this.#registry, now)
  }

  /**
   * Joins that nobody finished keep out no other one for long: the oldest whose SYN/ACK had to be sent again makes room. One that has
   * just begun stays, so that strangers who know the token cannot push out a join between its SYN and its third packet.
   */
  #makeRoomForJoin(connection: Connection, now: number): void {
    const waiting = connection.subflows.filter(({ state }) => state === 'syn-received')
    const oldest = waiting.find(({ tries }) => tries > 1)
    if (waiting.length >= HALF_OPEN && oldest !== undefined)
      loseSubflow(connection, oldest, 'its handshake was not finished', 'silent', this.#registry, now)
  }

  /** A further subflow works. */
  joined(connection: Connection, subflow: Subflow, now: number): void {
    this.#host.counts.joins++
    // Both ends are done meanwhile: the peer hears it here too, and nothing is left of the connection.
    if (connection.state === 'closing') closeSubflow(connection, subflow, now)
    else if (connection.active === undefined) switchTo(connection, subflow, 'no other works', now)
    else preferNormal(connection, now)
  }
}

const CAPABLE: CapableOption = {
  type: 'capable',
  version: MPTCP_VERSION,
  checksum: false,
  extension: false,
  noJoin: false,
  sha256: true,
}

/** Whether the option is of a kind that this host speaks (RFC 8684 §3.1). */
function usable(capable: CapableOption | undefined): capable is CapableOption {
  return capable !== undefined && capable.version >= 1 && capable.sha256 && !capable.extension
}

/** From a host behind this one to the world. */
function leaves({ from, to }: Passage): boolean {
  return from === undefined && to !== undefined
}

function synOptions({ mss, scale, sackPermitted }: Segment): SynOptions {
  return { mss, scale, sackPermitted }
}
