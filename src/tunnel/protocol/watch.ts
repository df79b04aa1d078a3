/**
 * Watching the paths between godwits: probes and echoes, the monitor's verdicts, the MTU search. What follows from a verdict
 * is the business of multipath.ts.
 */
import { EMSGSIZE } from '../../core/errno.ts'
import { CloseReason, type MachineComponents, type PathState, type TunnelEvent } from './api.ts'
import * as K from './constants.ts'
import { encodeMtuProbe, Feature, type Frame } from './control.ts'
import { toMicros } from './monitor.ts'
import type { Path } from './path.ts'
import { type Peer, reported } from './peer.ts'
import { MULTIPATH_OVERHEAD, outerOverhead, TRANSPORT } from './wire.ts'

const NEVER = Number.POSITIVE_INFINITY

/** Services of the paths' owner. */
export interface WatchHost {
  emit(event: TunnelEvent): void
  send(peer: Peer, path: Path, frames: readonly Frame[], now: number): boolean
  sendBody(peer: Peer, path: Path, body: Uint8Array, now: number): boolean
  setState(path: Path, state: PathState): void
  /**
   * Asks the peer to prove again that it receives at the path's remote, from which this many bytes have arrived since.
   */
  askAgain(peer: Peer, path: Path, bytes: number, now: number): void
  /** The path was silent, or idle, and works again; what was sent on it with counters above `after` may be lost. */
  sendAgain(path: Path, after: number): void
  /** The path is dead; what was sent on it with counters above `after` is lost. */
  goDown(peer: Peer, path: Path, reason: CloseReason, now: number, after: number): void
}

export class PathWatch {
  readonly #parts: MachineComponents
  readonly #host: WatchHost

  constructor(parts: MachineComponents, host: WatchHost) {
    this.#parts = parts
    this.#host = host
  }

  /** `session`: the local index of the one that the frame came in. Returns the answer to a probe. */
  heardProbe(
    peer: Peer,
    path: Path,
    frame: Frame & { type: 'probe' | 'echo' },
    session: number,
    now: number,
  ): Frame | undefined {
    const highest = reported(peer, session, frame.highestCounter)
    if (frame.type === 'echo') {
      path.monitor.echoReceived(frame.sequence, frame.time, frame.received, highest, now)
      const after = path.monitor.takeLostAfter()
      if (after !== undefined && peer.config.sleeps === true) this.#host.sendAgain(path, after)
      if (path.monitor.emitsSamples) {
        const { time, arrivedAt, received, receivedBytes } = frame
        this.#host.emit({
          type: 'sample',
          peer: peer.index,
          slot: path.slot,
          rttMs: path.monitor.lastRtt,
          loss: path.monitor.loss,
          sentAt: time,
          arrivedAt,
          received,
          receivedBytes,
        })
      }
      return undefined
    }
    path.monitor.reportReceived(frame.received, highest, now, frame.time)
    const isBack = path.state.name === 'down' && !path.local
    if (isBack || (path.monitor.stalled && path.usable)) path.assessAt = now
    const counters = this.#parts.paths.counters(path.slot)
    return {
      ...frame,
      type: 'echo',
      received: counters.receivedPackets >>> 0,
      highestCounter: counters.highestCounter,
      arrivedAt: toMicros(now),
      receivedBytes: counters.receivedBytes % 2 ** 32,
    }
  }

  heardMtuAck(peer: Peer, path: Path, size: number, now: number): void {
    path.mtu.acknowledged(size, now)
    this.publishMtu(peer, path)
  }

  /** `assessAt` of a path has come: acts on the monitor's verdict, probes when it asks for it. */
  assess(peer: Peer, path: Path, now: number): void {
    path.assessAt = NEVER
    const { monitor } = path
    const counters = this.#parts.paths.counters(path.slot)
    if (!path.usable) {
      if (path.local || path.state.name !== 'down') return
      // An arrival shows that the peer is back; an answer shows that it can be reached there.
      const bytes = counters.receivedBytes - path.receivedBefore
      if (bytes > 0) this.#host.askAgain(peer, path, bytes, now)
      path.receivedBefore = counters.receivedBytes
      path.assessAt = now + K.REVIVE_LOOK
      return
    }
    if (path.known === undefined && now - path.provenAt > K.PROOF_REFRESH && now < peer.busyUntil) {
      if (Number.isNaN(path.askedSince)) path.askedSince = now
      if (now - path.askedSince > K.PROOF_EXPIRY - K.PROOF_REFRESH) {
        this.#host.goDown(peer, path, CloseReason.silent, now, monitor.remoteHighest)
        return
      }
      this.#host.askAgain(peer, path, K.PROOF_REFRESH_BYTES, now)
    }
    const result = monitor.assess(counters, now < peer.busyUntil, path.state.name === 'suspect', now)
    path.assessAt = result.nextAt
    switch (result.verdict) {
      case 'silent':
      case 'one-way':
        this.#host.goDown(peer, path, CloseReason.silent, now, monitor.remoteHighest)
        return
      case 'suspect':
        if (path.state.name !== 'suspect') {
          this.#host.setState(path, { name: 'suspect', since: now, evidence: monitor.evidence(now) })
          // Traffic may soon move: are the others still there?
          for (const other of peer.paths) if (other !== path && other.usable) this.probe(peer, other, now)
          path.doubtedAfter = monitor.remoteHighest
        }
        break
      case 'fine':
        if (path.known !== 'likely') this.#setFineState(path, now)
    }
    if (result.probe) this.probe(peer, path, now)
    if (monitor.busy(now) && now - path.reportedAt >= K.QUALITY_INTERVAL) {
      path.reportedAt = now
      const { rttMs, rttVarMs, loss } = monitor
      this.#host.emit({ type: 'quality', peer: peer.index, slot: path.slot, rttMs, rttVarMs, loss })
    }
  }

  #setFineState(path: Path, now: number): void {
    const { monitor, state } = path
    if (state.name === 'suspect') {
      this.#host.setState(path, { name: 'up', since: now })
      // This end waits so long for the other's verdict that nobody else sends again what was lost meanwhile.
      if (!path.local) this.#host.sendAgain(path, path.doubtedAfter)
    } else if (state.name === 'up') {
      if (monitor.degraded && now - state.since >= K.STATE_HOLD) {
        path.mtu.doubt(now)
        this.#host.setState(path, { name: 'degrading', since: now, evidence: monitor.evidence(now) })
      }
    } else if (state.name === 'degrading' && monitor.recovered && now - state.since >= K.STATE_HOLD)
      this.#host.setState(path, { name: 'up', since: now })
  }

  /** Sends a probe now. */
  probe(peer: Peer, path: Path, now: number): void {
    this.#host.send(peer, path, [this.probeFrame(path, now)], now)
  }

  /** A probe that leaves now. */
  probeFrame(path: Path, now: number): Frame {
    const counters = this.#parts.paths.counters(path.slot)
    const sequence = path.monitor.probeSent(counters, now)
    return {
      type: 'probe',
      pathId: path.pathId,
      sequence,
      time: toMicros(now),
      received: counters.receivedPackets >>> 0,
      highestCounter: counters.highestCounter,
    }
  }

  /** The MTU search of a path wants attention. */
  probeMtu(peer: Peer, path: Path, now: number): void {
    const sizes = path.mtu.handleTimeout(now, path.monitor.timeout, path.monitor.busy(now))
    this.publishMtu(peer, path)
    const outer = outerOverhead(path.remote.address.length)
    const aes = (peer.features & Feature.multipathAes) !== 0
    for (const size of sizes) {
      // Message 4 pads to 16 bytes: what is sealed there must already be a multiple, with its two bytes of header.
      const room = size - outer
      const length = aes
        ? room - MULTIPATH_OVERHEAD
        : Math.floor((room - TRANSPORT.payload - TRANSPORT.tag) / 16) * 16 - 2
      const error = path.error
      this.#host.sendBody(peer, path, encodeMtuProbe(path.pathId, size, length), now)
      // Larger than the interface carries: a probe that is lost, and no news of what is known to pass.
      if (path.error === EMSGSIZE) path.error = error
    }
  }

  /** The path's MTU changed. */
  publishMtu(peer: Peer, path: Path): void {
    const { current } = path.mtu
    const searches = path.mtuEnabled || peer.expectsGodwit
    this.#parts.paths.setMtu(path.slot, current, searches && path.mtu.searching)
    if (current === path.publishedMtu) return
    path.publishedMtu = current
    this.#host.emit({ type: 'mtu', peer: peer.index, slot: path.slot, mtu: current })
  }
}
