/**
 * Silence of a stock WireGuard peer. It answers no probes; WireGuard itself doubts a session only after 15 seconds. But it
 * answers a handshake at once, so: when data went out and nothing came back for half a second, message 1 goes out on that
 * path. An answer shows that the path lives (the traffic expects none; the next check waits). Without one, message 1 goes
 * out on every path; if another is answered, this one is down. Alone, a path is never given up.
 */
import type { MachineComponents, PathState } from './api.ts'
import * as K from './constants.ts'
import type { Path } from './path.ts'
import type { Peer } from './peer.ts'

const NEVER = Number.POSITIVE_INFINITY
/** Datagrams without answer before silence counts. */
const LEAST_SENT = 2

/** Services of the paths' owner. */
export interface StockHost {
  setState(path: Path, state: PathState): void
  /** A fresh message 1 over these paths. */
  check(peer: Peer, paths: readonly Path[], now: number): void
  /** This path is dead, another answers. */
  goDown(peer: Peer, path: Path, now: number): void
}

export class StockWatch {
  readonly #parts: MachineComponents
  readonly #host: StockHost

  constructor(parts: MachineComponents, host: StockHost) {
    this.#parts = parts
    this.#host = host
  }

  /** `assessAt` of a path this end opened has come. */
  assess(peer: Peer, path: Path, now: number): void {
    path.assessAt = NEVER
    if (!path.local) return
    if (path.state.name === 'down') {
      this.#host.check(peer, [path], now)
      path.assessAt = now + K.STOCK_REVIVE
      return
    }
    if (!path.usable) return
    const watch = path.stock
    const { lastReceivedAt } = this.#parts.paths.counters(path.slot)
    if (lastReceivedAt > watch.heardAt) this.#heard(path, lastReceivedAt, now)
    else if (Number.isNaN(watch.unansweredSince) && this.#sent(path) - watch.sentThen >= LEAST_SENT)
      watch.unansweredSince = now
    if (now >= watch.unansweredSince + K.STOCK_SILENCE && now >= watch.checkAt) this.#check(peer, path, now)
    if (path.usable && (now < peer.busyUntil || watch.checks > 0)) path.assessAt = now + K.STOCK_LOOK
  }

  /** A message of a handshake came on the path. */
  answered(path: Path, now: number): void {
    if (path.stock.checks > 0) path.stock.checkAt = now + K.STOCK_PAUSE
    this.#heard(path, now, now)
  }

  /** Datagrams of data sent on the path. */
  #sent(path: Path): number {
    return this.#parts.paths.counters(path.slot).sentPackets - path.stock.keepalives
  }

  #heard(path: Path, at: number, now: number): void {
    const watch = path.stock
    watch.heardAt = at
    watch.sentThen = this.#sent(path)
    watch.unansweredSince = Number.NaN
    watch.checks = 0
    if (path.state.name !== 'suspect' && path.state.name !== 'down') return
    this.#host.setState(path, { name: 'up', since: now })
    path.assessAt = now + K.STOCK_LOOK
  }

  #check(peer: Peer, path: Path, now: number): void {
    const watch = path.stock
    const others = peer.paths.filter((each) => each !== path && each.local && each.usable)
    if (watch.checks >= K.STOCK_CHECKS) {
      if (others.some((each) => each.stock.heardAt > watch.unansweredSince)) {
        watch.checks = 0
        this.#host.goDown(peer, path, now)
        return
      }
      // Nothing answers: the peer itself may be away. WireGuard's own attempts continue.
      watch.checkAt = now + K.STOCK_PAUSE
      watch.checks = 0
      return
    }
    if (watch.checks === 1 && path.state.name !== 'suspect')
      this.#host.setState(path, { name: 'suspect', since: now, evidence: path.monitor.evidence(now) })
    watch.checks++
    watch.checkAt = now + K.STOCK_ANSWER
    this.#host.check(peer, watch.checks === 1 ? [path] : [path, ...others], now)
  }
}
