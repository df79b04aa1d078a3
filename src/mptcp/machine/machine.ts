/**
 * The proxy's protocol core, without I/O: packets in, packets and events out. `handleOutgoing` and `handleIncoming` say
 * whether a packet is the proxy's business; if not, it goes on as it is. What is to be sent then waits in `poll`, what
 * happened in `pollEvent`; events come first, since they say which packets to watch for.
 *
 * Strangers are bounded: a SYN of theirs takes one of `perSource` places, a join one of few (opening.ts) and only with a
 * token of ours, and the tables have limits of their own.
 */
import { equalConstantTime } from '../../core/bytes.ts'
import type { Random } from '../../core/clock.ts'
import { DeadlineHeap } from '../../core/deadlines.ts'
import { TcpFlag } from '../../core/tcp.ts'
import type { MptcpOption } from '../wire.ts'
import type { Connection, FastPath, Host } from './connection.ts'
import {
  advanceFast,
  enterFast,
  FAST_POLL,
  isIdleFast,
  leaveFast,
  leaveFastFor,
  readFast,
  staysFastIncoming,
  staysFastOutgoing,
  takeBack,
} from './fast.ts'
import { forwardIncoming, type Request } from './incoming.ts'
import {
  acknowledgeFin,
  activate,
  closeSubflow,
  handleJoinAck,
  isClosed,
  refuse,
  resetSubflow,
} from './joins.ts'
import type { Sha256 } from './keys.ts'
import {
  accessesChanged,
  addSubflow,
  bestSubflow,
  closeAll,
  handleDeadline,
  hasAlternative,
  hasNoWay,
  loseSubflow,
  nextDeadline,
  type Registry,
  switchTo,
} from './lifecycle.ts'
import { Openings } from './opening.ts'
import { forwardOutgoing } from './outgoing.ts'
import type { Keeper, KeptConnection } from './record.ts'
import { Register } from './register.ts'
import { OptionWriter, type OutSegment, type Segment } from './segment.ts'
import type { Subflow } from './subflow.ts'
import { rebuild, resume } from './takeover.ts'
import {
  type AccessInfo,
  DEFAULT_INIT,
  type MachineEvent,
  type MptcpInit,
  newCounts,
  type Passage,
} from './types.ts'
import { asksForAck, isAcceptable, isAcceptableFromBehind } from './window.ts'

const { ACK, FIN, RST, SYN } = TcpFlag
/** How long a closed connection answers what comes late, and how long an idle one is kept (ms). */
export const LINGER = 3000
/** And how long at most, whatever comes. */
const LINGER_LONGEST = 60_000
const IDLE = 24 * 3_600_000
/** How long a router's word about a path counts (RFC 8201 §4, Linux: route/mtu_expires). */
const PATH_MTU_MS = 600_000
/** A TCP that waits for an acknowledgement sends again within two minutes (TCP_RTO_MAX); after so long (ms) it is gone. */
const ABANDONED = 300_000
/** How long the answer to a SYN may take. */
const OPENING = 130_000
/** Of the time that connections take to begin subflows on an access that comes: for each (ms), and the longest. */
const SPREAD_EACH = 1
const SPREAD_LONGEST = 1000

function spreadOf(connections: number): number {
  return Math.max(0, Math.min(SPREAD_LONGEST, SPREAD_EACH * (connections - 1)))
}

/** Until when a connection is kept of which nothing more is heard, from either side. */
function keptUntil({ state, usedAt, outstanding }: Connection): number {
  if (state === 'closed') return usedAt + LINGER
  if (state === 'syn-sent' || state === 'syn-received') return usedAt + OPENING
  return usedAt + (outstanding ? ABANDONED : IDLE)
}

export interface MachineComponents {
  readonly sha: Sha256
  readonly random: Random
  readonly keeper?: Keeper
  readonly fast?: FastPath
}

export class MptcpMachine {
  readonly #host: Host
  readonly #register: Register
  readonly #registry: Registry
  readonly #openings: Openings
  readonly #keeper: Keeper | undefined
  readonly #deadlines = new DeadlineHeap()
  /** Taken over, and not resumed yet. */
  readonly #restored: Connection[] = []
  readonly #out: OutSegment[] = []
  #outAt = 0
  readonly #events: MachineEvent[] = []

  constructor({ sha, random, keeper, fast }: MachineComponents, init: Partial<MptcpInit> = {}) {
    this.#keeper = keeper
    this.#host = {
      sha,
      random,
      init: { ...DEFAULT_INIT, ...init },
      writer: new OptionWriter(),
      accesses: [],
      counts: newCounts(),
      fast,
      spare: [],
      emit: (segment) => this.#out.push(segment),
      tell: (event) => this.#events.push(event),
    }
    const register = new Register(this.#host)
    this.#register = register
    this.#registry = {
      add: (connection, subflow) => register.add(connection, subflow),
      remove: (connection, subflow) => register.remove(connection, subflow),
      taken: (key) => register.taken(key),
      fit: (connection, subflow) => register.fit(connection, subflow),
      end: (connection, reason, reset) => this.#end(connection, reason, reset),
    }
    this.#openings = new Openings(this.#host, register, this.#registry, {
      forget: (connection) => this.#forget(connection),
      fallBack: (connection) => this.#fallBack(connection),
      settle: (connection, now) => this.#settle(connection, now),
      lose: (connection, subflow, cause, now) => this.#lose(connection, subflow, cause, now),
      forward: (connection, subflow, segment, now) => this.#forward(connection, subflow, segment, now),
    })
  }

  get counts() {
    return this.#host.counts
  }

  get connections(): readonly Connection[] {
    return this.#register.all
  }

  /** What the kernel did meanwhile is known then too. */
  refresh(): void {
    for (const connection of this.connections) readFast(connection)
  }

  connection(id: number): Connection | undefined {
    return this.#register.byId(id)
  }

  /** The next packet to send; undefined when there is none. */
  poll(): OutSegment | undefined {
    if (this.#outAt < this.#out.length) return this.#out[this.#outAt++]
    this.#out.length = 0
    this.#outAt = 0
    return undefined
  }

  pollEvent(): MachineEvent | undefined {
    return this.#events.shift()
  }

  nextTimeout(): number | undefined {
    return this.#deadlines.next()
  }

  handleTimeout(now: number): void {
    for (let id = this.#deadlines.expire(now); id >= 0; id = this.#deadlines.expire(now)) {
      const connection = this.#register.byId(id)
      if (connection === undefined) continue
      readFast(connection)
      if (isIdleFast(connection, now)) {
        leaveFast(connection, now)
        // What the TCP sent again meanwhile the kernel carried.
        connection.usedAt = now
      }
      if (this.#isOver(connection, now)) {
        this.#forget(connection)
        continue
      }
      if (connection.state === 'established' || connection.state === 'closing')
        handleDeadline(connection, this.#registry, now)
      this.#sweep(connection, now)
      this.#settle(connection, now)
    }
  }

  #isOver(connection: Connection, now: number): boolean {
    return keptUntil(connection) <= now
  }

  /**
   * Takes over what a killed process kept, before anything else; the accesses are set. Packets of these tuples are watched already, or
   * from the first `pollEvent` on; `resume` follows as soon as they are. Returns how many make no sense.
   */
  restore(kept: readonly KeptConnection[], now: number): number {
    const { counts } = this.#host
    let refused = 0
    for (const each of kept) {
      const connection = rebuild(this.#host, each, now)
      this.#takeBack(connection)
      if (connection === undefined || !this.#register.restore(connection)) {
        refused++
        this.#keeper?.forget(each.id)
        continue
      }
      counts.takenOver++
      this.#restored.push(connection)
    }
    return refused
  }

  /** Asks the peers of what was taken over: from now on packets leave and come, and silence counts. */
  resume(now: number): void {
    const change = { isNew: () => true, spread: spreadOf(this.#restored.length) }
    for (const connection of this.#restored.splice(0)) {
      resume(connection, change, this.#registry, now)
      this.#sweep(connection, now)
      this.#settle(connection, now)
    }
  }

  /** What was the kernel's stays so until here. */
  #takeBack(connection: Connection | undefined): void {
    if (connection === undefined) return
    const left = this.#host.fast?.left(connection.tuple)
    if (left !== undefined) takeBack(connection, left)
  }

  /** The accesses that work, best first. Those that are not named do not. */
  setAccesses(accesses: readonly AccessInfo[], now: number): void {
    const before = new Map(this.#host.accesses.map((each) => [each.name, each.addresses.join(' ')]))
    this.#host.accesses = accesses
    const old = new Set(
      accesses.flatMap(({ name, addresses }) => (before.get(name) === addresses.join(' ') ? [name] : [])),
    )
    const { connections } = this
    const change = { isNew: (name: string) => !old.has(name), spread: spreadOf(connections.length) }
    for (const connection of connections) {
      if (connection.state !== 'established' && connection.state !== 'closing') continue
      readFast(connection)
      for (const subflow of connection.subflows)
        if (this.#register.fit(connection, subflow)) leaveFast(connection, now)
      accessesChanged(connection, change, this.#registry, now)
      this.#sweep(connection, now)
      this.#settle(connection, now)
    }
  }

  /** A router says that no more than `mtu` bytes pass of a packet that began with this sequence number. */
  tooBig(key: string, seq: number, mtu: number, now: number): void {
    const found = this.#register.byWire(key)
    if (found === undefined || found.connection.remoteKey === undefined) return
    const { connection, subflow } = found
    if (!subflow.alive) return
    readFast(connection)
    // Anybody can write one about a packet that is not under way (RFC 5927 §4.1).
    const offset = subflow.offsetOfAck(seq)
    if (offset < subflow.una || offset >= subflow.next) return
    if (!connection.narrow(subflow, mtu)) return
    subflow.widenAt = now + PATH_MTU_MS
    leaveFast(connection, now)
    this.#settle(connection, now)
  }

  /** By hand: data of a connection go over this access. False when it has no subflow there that works. */
  handover(id: number, access: string, now: number): boolean {
    const connection = this.#register.byId(id)
    const subflow = connection?.subflows.find((each) => each.access === access && each.usable)
    if (connection === undefined || subflow === undefined) return false
    readFast(connection)
    switchTo(connection, subflow, 'asked for', now)
    this.#settle(connection, now)
    return true
  }

  /** By hand: one more subflow. False when there is no room, no address of the family, or no such access. */
  addSubflow(id: number, access: string, now: number): boolean {
    const connection = this.#register.byId(id)
    if (connection === undefined) return false
    const added = addSubflow(connection, access, this.#registry, now)
    this.#settle(connection, now)
    return added !== undefined
  }

  /** By hand: a subflow is closed in order; the peer is told. False when there is none, or it is the only one. */
  removeSubflow(id: number, subflowId: number, now: number): boolean {
    const connection = this.#register.byId(id)
    const subflow = connection?.subflows.find((each) => each.id === subflowId && each.usable)
    if (connection === undefined || subflow === undefined) return false
    leaveFast(connection, now)
    const other = connection.subflows.find((each) => each !== subflow && each.usable)
    if (other === undefined) return false
    if (connection.active === subflow)
      switchTo(connection, bestSubflow(connection, subflow) ?? other, 'asked for', now)
    closeSubflow(connection, subflow, now)
    this.#settle(connection, now)
    return true
  }

  /** Whether a packet that this host forwards, read as outgoing, comes from the side of the TCP that speaks no MPTCP. */
  isFromLocal(segment: Segment, passage: Passage): boolean {
    const connection = this.#register.byLocal(segment.key)
    if (connection !== undefined) return connection.isFromInside(passage)
    return (segment.flags & (SYN | ACK | RST | FIN)) === SYN && segment.mptcp.length === 0
  }

  /** A packet that the local TCP sends: this host's, or with `passage` that of a host behind it. True: it is the proxy's. */
  handleOutgoing(segment: Segment, now: number, passage?: Passage): boolean {
    const connection = this.#register.byLocal(segment.key)
    if (connection?.forwarded && !isAcceptableFromBehind(connection, segment)) {
      // RFC 5961: the host is asked. One that has forgotten the connection answers with a reset at the right place.
      if (asksForAck(segment)) connection.acknowledgeLocal()
      return true
    }
    const opening = (segment.flags & (SYN | ACK | RST | FIN)) === SYN
    if (opening && (connection === undefined || connection.tcpIsn !== segment.seq)) {
      if (connection !== undefined) this.#forget(connection)
      return this.#openings.open(segment, now, passage)
    }
    if (connection === undefined) return false
    connection.usedAt = now
    if (connection.state === 'closed') return true
    if ((segment.flags & SYN) !== 0) {
      // A copy of one that was answered long ago.
      if (opening && (connection.state === 'established' || connection.state === 'closing')) return true
      const ours = opening
        ? this.#openings.sendSyn(connection, segment)
        : this.#openings.answer(connection, segment)
      this.#settle(connection, now)
      return ours
    }
    if ((segment.flags & RST) !== 0) return this.#resetByLocal(connection, now)
    if (connection.remoteKey === undefined) {
      // The answer to a SYN is under way: nothing is translated yet.
      return false
    }
    readFast(connection)
    if (!staysFastOutgoing(connection, segment)) leaveFast(connection, now)
    const stuck = forwardOutgoing(connection, segment, now)
    if (stuck !== undefined) this.#giveUp(connection, stuck, now)
    if (connection.done) closeAll(connection, this.#registry, now)
    this.#sweep(connection, now)
    this.#settle(connection, now)
    return true
  }

  /** A packet for the local TCP, as in `handleOutgoing`; `access` brought it. True: it is the proxy's. */
  handleIncoming(segment: Segment, access: string | undefined, now: number, passage?: Passage): boolean {
    const found = this.#register.byWire(segment.key)
    if (found === undefined) return this.#openings.stranger(segment, access, now, passage)
    const { connection, subflow } = found
    const opening = (segment.flags & (SYN | ACK | RST)) === SYN
    if (opening && connection.state === 'closed') {
      this.#forget(connection)
      return this.#openings.stranger(segment, access, now, passage)
    }
    if (connection.state !== 'closed' || now - connection.closedAt < LINGER_LONGEST) connection.usedAt = now
    if (connection.state === 'closed') {
      // A FIN that comes again has not heard that it is known; after a reset all is answered by one.
      if (connection.closedInOrder) {
        if ((segment.flags & FIN) !== 0) acknowledgeFin(connection, subflow, segment)
      } else if ((segment.flags & RST) === 0) resetSubflow(connection, subflow)
      return true
    }
    const ours = this.#incoming(connection, subflow, segment, now)
    this.#settle(connection, now)
    return ours
  }

  #incoming(connection: Connection, subflow: Subflow, segment: Segment, now: number): boolean {
    const { flags } = segment
    readFast(connection)
    if ((flags & RST) !== 0) return this.#resetByPeer(connection, subflow, segment, now)
    if ((flags & SYN) !== 0) return this.#openings.handshake(connection, subflow, segment, now)
    if (subflow.state === 'syn-received') {
      if (subflow.id === 0) return this.#openings.thirdAck(connection, subflow, segment, now)
      // It overtook the one that shows that its sender knows the keys, or its sender has not seen our SYN/ACK.
      const ack = segment.option('join-ack')
      if (ack === undefined || subflow.offsetOfAck(segment.ack) !== 1) return true
      if (!handleJoinAck(connection, subflow, ack, now)) {
        this.counts.joinsRefused++
        this.#lose(connection, subflow, 'its third packet does not know the keys', now)
        return true
      }
      this.#openings.joined(connection, subflow, now)
      if (segment.payloadLength === 0) return true
    }
    if (subflow.state === 'syn-sent') {
      // Before the SYN/ACK has come: nothing can be made of it.
      return connection.state !== 'syn-sent' || subflow.id !== 0
    }
    if (subflow.state === 'joined') {
      if (segment.option('dss') === undefined && segment.payloadLength === 0) return true
      // The SYN may have been sent several times; the third ACK is measured by itself.
      if (subflow.tries === 1) subflow.sample(now - subflow.heardAt)
      activate(subflow, now)
      this.#openings.joined(connection, subflow, now)
    }
    if (!subflow.alive && connection.state !== 'closing') {
      refuse(connection, subflow, segment)
      return true
    }
    if (!isAcceptable(connection, subflow, segment)) {
      if (asksForAck(segment)) connection.ackOn(subflow)
      return true
    }
    if (!subflow.alive) {
      if (subflow.isLastWord && subflow.offsetOfAck(segment.ack) > subflow.finSent) connection.isHeard = true
      if ((flags & FIN) !== 0) acknowledgeFin(connection, subflow, segment)
      this.#sweep(connection, now)
      return true
    }
    if (connection.fast !== undefined && !staysFastIncoming(connection, subflow, segment))
      leaveFastFor(connection, subflow, segment, now)
    if (!connection.answered && subflow.id === 0 && this.#fellBack(subflow, segment)) {
      this.#fallBack(connection)
      return false
    }
    this.#forward(connection, subflow, segment, now)
    if (connection.state === 'pre-established' && connection.confirmed)
      this.#openings.established(connection, now)
    if (connection.done) closeAll(connection, this.#registry, now)
    this.#sweep(connection, now)
    return true
  }

  #forward(connection: Connection, subflow: Subflow, segment: Segment, now: number): void {
    for (const request of forwardIncoming(connection, subflow, segment, now))
      this.#serve(connection, subflow, request, now)
  }

  /** Whether the peer answers data of ours, or sends its own, without any MPTCP option (RFC 8684 §3.7). */
  #fellBack(subflow: Subflow, segment: Segment): boolean {
    if (segment.mptcp.length > 0) return false
    return segment.payloadLength > 0 || subflow.offsetOfAck(segment.ack) > 1
  }

  #serve(connection: Connection, subflow: Subflow, request: Request, now: number): void {
    switch (request.type) {
      case 'fastclose':
        for (const each of connection.subflows) if (each.alive) resetSubflow(connection, each)
        this.#end(connection, 'the peer closed it at once', true)
        break
      case 'remove':
        for (const each of [...connection.subflows])
          if (each.alive && request.ids.includes(each.remoteAddressId)) {
            resetSubflow(connection, each)
            loseSubflow(connection, each, 'the peer gave up its address', 'ended', this.#registry, now)
          }
        break
      case 'priority': {
        const best = bestSubflow(connection)
        if (connection.active?.remoteBackup === true && best !== undefined)
          switchTo(connection, best, 'the peer prefers it', now, true)
        break
      }
      case 'distrust':
        resetSubflow(connection, subflow, { type: 'reset', transient: false, reason: request.reason })
        this.counts.resets++
        this.#lose(connection, subflow, 'the peer contradicted itself', now)
        break
      case 'stuck':
        this.#giveUp(connection, subflow, now)
        break
      case 'fin':
        if (!connection.done && connection.active === subflow) {
          const other = bestSubflow(connection, subflow)
          if (other !== undefined) switchTo(connection, other, 'the peer closed the subflow', now)
          // A peer that is done still takes, over its only subflow, what the local TCP has to say.
          else if (connection.finRemote >= 0) break
        }
        closeSubflow(connection, subflow, now)
        break
    }
  }

  /** What lies on a subflow behind bytes that nobody sends there any more goes over another. */
  #giveUp(connection: Connection, subflow: Subflow, now: number): void {
    this.counts.stuck++
    resetSubflow(connection, subflow)
    const cause = `the peer waits on ${subflow.access} for what nobody has`
    loseSubflow(connection, subflow, cause, 'gone', this.#registry, now)
  }

  #lose(connection: Connection, subflow: Subflow, cause: string, now: number): void {
    loseSubflow(connection, subflow, cause, 'ended', this.#registry, now)
    if (connection.state === 'pre-established') this.#end(connection, cause, true)
  }

  /** Subflows whose FINs are acknowledged are gone; a connection without any that is done is over. */
  #sweep(connection: Connection, now: number): void {
    const { subflows } = connection
    // In place of those that end others may begin.
    for (let closed = subflows.find(isClosed); closed !== undefined; closed = subflows.find(isClosed))
      loseSubflow(connection, closed, 'closed', 'ended', this.#registry, now)
    const isOver = connection.state === 'closing' && subflows.every(({ state }) => state === 'dead')
    if (isOver && !hasNoWay(connection)) this.#end(connection, 'closed', false)
  }

  /**
   * The proxy ends: what it translates cannot go on without it, and both ends hear of it. What is still being opened is plain TCP to both,
   * and goes on as that.
   */
  resetAll(now: number): void {
    for (const connection of this.connections) {
      if (connection.state === 'closed') continue
      const isTranslated = connection.remoteKey !== undefined
      this.#resetByLocal(connection, now)
      if (isTranslated) connection.resetLocal()
    }
  }

  // Ends.

  #resetByLocal(connection: Connection, now: number): boolean {
    // A TCP that is done is gone, and answers so what is late. The peer's may not be: subflows are closed in order.
    if (connection.done) return true
    leaveFast(connection, now)
    if (connection.remoteKey === undefined || !connection.confirmed) {
      this.#forget(connection)
      return false
    }
    const fastclose: MptcpOption = { type: 'fastclose', key: connection.remoteKey.bytes }
    for (const subflow of connection.subflows)
      if (subflow.alive)
        resetSubflow(connection, subflow, connection.active === subflow ? fastclose : undefined)
    this.#end(connection, 'this host reset it', false)
    this.#settle(connection, now)
    return true
  }

  /** A reset counts when its sequence number is one that is due (RFC 5961 §3.2). */
  #resetByPeer(connection: Connection, subflow: Subflow, segment: Segment, now: number): boolean {
    if (connection.remoteKey === undefined) {
      this.#forget(connection)
      return false
    }
    if (subflow.state === 'syn-sent') {
      if ((segment.flags & ACK) === 0 || subflow.offsetOfAck(segment.ack) !== 1) return true
    } else {
      const offset = subflow.offsetOfSeq(segment.seq)
      // Behind the peer's FIN, once that is acknowledged: it is no data.
      if (offset < subflow.acked || offset > Math.max(subflow.high, subflow.acked)) {
        if (subflow.alive && subflow.mayChallenge(now)) connection.ackOn(subflow)
        return true
      }
    }
    if (connection.state === 'pre-established') {
      this.#forget(connection)
      return false
    }
    const fastclose = segment.option('fastclose')
    const others = connection.subflows.some((each) => each !== subflow && each.state !== 'dead')
    const known = fastclose !== undefined && equalConstantTime(fastclose.key, connection.localKey.bytes)
    const isUnknown = subflow.state === 'syn-sent' && !others
    if (connection.state === 'closing') {
      // A host that knows nothing of the connection answers a join so. On another subflow the reset may be the kernel's of one whose proxy
      // has only given that up (ADR 0301).
      if (known || isUnknown) connection.isHeard = true
      loseSubflow(connection, subflow, 'the peer reset the subflow', 'ended', this.#registry, now)
      this.#sweep(connection, now)
    } else if (known || isUnknown) this.#end(connection, 'the peer reset it', true)
    else loseSubflow(connection, subflow, 'the peer reset the subflow', 'ended', this.#registry, now)
    return true
  }

  /** Plain TCP from now on; both ends count alike already, so nobody is needed between them. */
  #fallBack(connection: Connection): void {
    this.counts.fallbacks++
    this.#forget(connection)
  }

  #end(connection: Connection, reason: string, reset: boolean): void {
    if (connection.state === 'closed') return
    leaveFast(connection, connection.usedAt)
    if (reset) connection.resetLocal()
    connection.closedAt = connection.usedAt
    connection.closedInOrder = connection.state === 'closing'
    connection.state = 'closed'
    connection.active = undefined
    connection.held = undefined
    connection.kicked = undefined
    this.#keeper?.forget(connection.id)
    this.#host.tell({ type: 'ended', connection: connection.id, reason })
  }

  #forget(connection: Connection): void {
    leaveFast(connection, connection.usedAt)
    if (!this.#register.forget(connection)) return
    this.#deadlines.set(connection.id, Number.POSITIVE_INFINITY)
    this.#keeper?.forget(connection.id)
  }

  #settle(connection: Connection, now: number): void {
    if (this.#register.byId(connection.id) !== connection) return
    if (connection.fast === undefined) {
      enterFast(connection, now)
      if (connection.fast !== undefined) this.counts.fast++
    } else advanceFast(connection, now)
    const { state } = connection
    const own = keptUntil(connection)
    let next = state === 'established' || state === 'closing' ? nextDeadline(connection) : own
    const { active, fast } = connection
    if (fast !== undefined && active !== undefined && hasAlternative(connection, active))
      next = Math.min(next, now + FAST_POLL)
    this.#deadlines.set(connection.id, Math.max(now, Math.min(own, next)))
    this.#keeper?.save(connection)
  }
}
